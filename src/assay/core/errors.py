"""Every error that assay raises on purpose, and the exit code that a shell sees.

* AssayError                          1
  * UndeclaredNeed                    1   a method read what it did not declare (a bug in the method)
  * UsageError (also ValueError)      2   the call is wrong: value, allowed range, nearest names
    * UnknownName                     2   no method, policy, option, dataset or net of that name
    * NoGaussNewton                   2   losses that are no convex function of what the model returns
    * OutputExists                    2   the place to write to is taken
  * MissingEvidence                   3   the run did not record a need; says how to record it
  * Mismatch                          4   two artefacts do not belong together
  * RunError                          5   absent, incomplete, damaged, foreign or newer
    * RunLocked                       5   another process is writing this run
    * NotWritten                      5   the disk refused: full, read-only, no permission
  * NumericalError                    6   non-finite or not converged: ids, epoch, residual
    * BadScores                       6   a method returned something that is not one finite number per example
  * TrialFailed                       7   a retraining failed: path and tail of its log
"""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from .words import printable

IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback ")
"""How a message begins that torch made of an error in a loader's worker."""


class AssayError(Exception):
    """Base class of all errors that assay raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        # Torch raises an error of a loader's worker anew, with the traceback there as its message.
        whole = super().__str__()
        said = whole.rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2] if IN_WORKER.match(whole) else whole
        # Messages name ids, classes and files, which strangers may have chosen.
        return printable(said.rstrip("\n"))


class UndeclaredNeed(AssayError):
    """A method or policy read evidence that it does not declare in `reads`."""


class UsageError(AssayError, ValueError):
    """The caller passed something that cannot be used."""

    exit_code = 2


class NoGaussNewton(UsageError):
    """The losses have no Gauss-Newton matrix: they are no convex function of what the model returns once."""


class UnknownName(UsageError):
    """A name that is not in a catalogue; the message lists the nearest names, or says what else has this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], elsewhere: str = ""):
        if elsewhere:
            super().__init__(f"No {kind} is named {name!r}; that is {elsewhere}.")
            return
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"No {kind} is named {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


class OutputExists(UsageError):
    """The place to write to is taken, and nothing is overwritten unasked."""


class MissingEvidence(AssayError):
    """A need that the run did not record."""

    exit_code = 3


class Mismatch(AssayError):
    """Two artefacts that do not belong together."""

    exit_code = 4


class RunError(AssayError):
    """A run that is absent, incomplete, damaged, foreign or of a newer schema."""

    exit_code = 5


class RunLocked(RunError):
    """Another process is writing this run."""


class NotWritten(RunError):
    """The disk refused a write; what was committed before is intact."""


class NumericalError(AssayError):
    """A number that is not finite, or an iteration that did not converge."""

    exit_code = 6


class BadScores(NumericalError):
    """A method returned the wrong shape, or a value that is not finite."""


class TrialFailed(AssayError):
    """A retraining that ended in an error; carries the path and the tail of its log."""

    exit_code = 7


MOST_WORDS = 300
"""Letters of another library's message that are shown: some repeat the file's content."""


def listed(values: Iterable[object], total: int, most: int = 5) -> str:
    """The first few of `total` values as words, for messages: `3, 17, 20 and 4 more`."""
    shown = [str(value) for value, _ in zip(values, range(most), strict=False)]
    rest = total - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


@contextlib.contextmanager
def reading(what: object, kind: type[AssayError], cure: str) -> Iterator[None]:
    """Turn any error while a file is read and parsed into one sentence that names the file. Errors of assay pass unchanged.

    Args:
        what: The file.
        kind: Class of the error to raise instead.
        cure: What the user can do about it, as a sentence.

    Raises:
        AssayError: An error of class `kind`.
    """
    try:
        yield
    except AssayError:
        raise
    except OSError as error:
        raise kind(f"{what} cannot be read ({error.strerror or error}). {cure}") from error
    except Exception as error:
        # What a file that was made to do harm ends in cannot be listed: every parser below has errors of its own.
        why = {RecursionError: "it is nested too deeply", MemoryError: "it asks for more memory than there is"}.get(
            type(error), f"{type(error).__name__}: {' '.join(str(error).split())[:MOST_WORDS]}"
        )
        raise kind(f"{what} is damaged or of another kind ({why}). {cure}") from error
