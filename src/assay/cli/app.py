"""The command-line application: its commands by name, and the one place where exceptions become a sentence and an exit code."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import cyclopts

from .. import __version__
from ..core.words import printable
from . import output, signals
from .attribute import attribute_
from .choose import choose_
from .cleanse import cleanse_
from .compare import compare_
from .confident import confident_
from .demo import demo_
from .duplicates import duplicates_
from .exchange import export_, import_
from .existing import from_logits_, from_probs_
from .explain import explain_
from .inspect import inspect_
from .lds import lds_
from .plan import plan_
from .probe import probe_
from .record import record_
from .report import report_
from .review import review_
from .score import score_
from .status import status_
from .study import study_
from .tables import datasets_, methods_, nets_, policies_
from .verify import verify_

app = cyclopts.App(
    name="assay",
    version=__version__,
    help="What every training example is worth: record once, score with every method, decide, verify, report.\n\n"
    "Try `assay demo`. Every command explains itself with --help. An error is one sentence; --debug adds the traceback. "
    "With --json any command says all in one JSON document on stdout, errors too, and progress goes to stderr; --quiet leaves out progress and "
    "everything but tables, warnings and errors.",
    help_format="markdown",
    help_on_error=False,
    default_parameter=cyclopts.Parameter(negative_iterable=()),
    # Ctrl-C is answered in run_app.
    suppress_keyboard_interrupt=False,
)

VERBS: dict[str, Callable[..., None]] = {
    "demo": demo_,
    "plan": plan_,
    "record": record_,
    "score": score_,
    "attribute": attribute_,
    "explain": explain_,
    "compare": compare_,
    "probe": probe_,
    "cleanse": cleanse_,
    "confident": confident_,
    "duplicates": duplicates_,
    "choose": choose_,
    "verify": verify_,
    "lds": lds_,
    "report": report_,
    "review": review_,
    "study": study_,
    "status": status_,
    "inspect": inspect_,
    "from-probs": from_probs_,
    "from-logits": from_logits_,
    "import": import_,
    "export": export_,
    "methods": methods_,
    "policies": policies_,
    "datasets": datasets_,
    "nets": nets_,
}
"""The commands in the order of the work. Each imports what it needs only when it runs, so that help appears at once."""

PLACES = "--executor", "--workers"
"""Options of before that --where says in one."""
RENAMED = {"--again": "--recompute", "--ragged": "--last-batch"}
"""Options of before."""

for _place, (_name, _verb) in enumerate(VERBS.items()):
    app.command(_verb, name=_name, sort_key=_place)


@app.command(name="--install-completion", group="Shell")
def install_completion_(*, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None) -> None:
    """Install the completion of commands and flags in your shell.

    A script is written to the shell's own folder, and for bash and zsh a line to its startup file, unless it is there.

    Parameters
    ----------
    shell
        The shell; by default the one that runs.
    """
    from cyclopts.completion.detect import ShellDetectionError

    from ..core.errors import NotWritten, UsageError
    from .console import say

    try:
        path = app.install_completion(shell=shell)
    except ShellDetectionError as error:
        raise UsageError("Which shell this is cannot be seen; name it: assay --install-completion --shell bash.") from error
    except OSError as error:
        raise NotWritten(f"The script cannot be written ({error}); see to it that the folder can be written to.") from error
    say(f"{path}: open another shell, and TAB completes what assay takes.")


def run_app(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Every error is one sentence on stderr; `--debug` adds the traceback. With `--json` all that the command says is one document on stdout, an error too;
    with `--quiet` there are tables, warnings and errors only.
    """
    arguments = list(arguments)
    debug, document, quiet = (_taken(arguments, flag) for flag in ("--debug", "--json", "--quiet"))
    with output.opened(document, quiet) as stream:
        code = _run(_placed(arguments), debug)
        if document:
            command = arguments[0] if arguments and arguments[0] in VERBS else ""
            try:
                print(output.now.document(command, code), file=stream, flush=True)
            except BrokenPipeError:
                sys.stderr.close()
    return code


def _no_none(given: Mapping[str, object]) -> None:
    """Refuse `none` and `null` where they are read as if the option had been left out.

    Raises:
        UsageError: Such a value.
    """
    for name, value in given.items():
        if value is None:
            from ..core.errors import UsageError

            raise UsageError(f"--{name.strip('_').replace('_', '-')}: none is no value of it; leave it out for its default.")


def _taken(arguments: list[str], flag: str) -> bool:
    """Whether a flag of all commands was given; it is taken out."""
    given = flag in arguments
    if given:
        arguments.remove(flag)
    return given


def _run(arguments: Sequence[str], debug: bool) -> int:
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        _no_none(bound.arguments)
        command(*bound.args, **bound.kwargs)
    except cyclopts.UnusedCliTokensError as error:
        return _say(debug, _too_much(error), 2)
    except cyclopts.UnknownOptionError as error:
        return _say(debug, _renamed(error) or " ".join(str(error).split()), 2)
    except cyclopts.CoercionError as error:
        token = error.token
        if error.target_type is float and error.msg is None and token is not None:
            return _say(debug, f"{token.keyword or 'the value'} {token.value!r} is no number; give one such as 0.5.", 2)
        return _say(debug, " ".join(str(error).split()), 2)
    except cyclopts.CycloptsError as error:
        return _say(debug, " ".join(str(error).split()), 2)
    except KeyboardInterrupt:
        return _say(debug, signals.WORDS, signals.code(), "Interrupted")
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone; that is no error of the command.
        sys.stderr.close()
        return 0
    except Exception as error:
        from ..core.errors import AssayError

        if signals.heard:
            # Somebody on the way turned the interruption into an error of their own.
            return _say(debug, signals.WORDS, signals.code(), "Interrupted")
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "not enough memory" in str(error)):
            return _say(
                debug,
                f"there is not enough memory ({first_line(error)}); ask for less at once, or use a larger machine.",
                2,
                "MemoryError",
            )
        kind = type(error).__name__
        if isinstance(error, AssayError):
            return _say(debug, str(error), error.exit_code, kind)
        return _say(debug, f"unexpected {kind}: {error}. Run again with --debug and report the traceback.", 1, kind)
    return 0


def _placed(arguments: list[str]) -> list[str]:
    """The arguments, with --executor and --workers said as --where, for verbs that take it."""
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None or "where" not in inspect.signature(verb).parameters:
        return arguments
    rest, given = list(arguments), {}
    for flag in PLACES:
        for place, one in enumerate(rest):
            if one.startswith(f"{flag}="):
                given[flag] = rest.pop(place).partition("=")[2]
                break
            if one == flag and place + 1 < len(rest):
                given[flag] = rest[place + 1]
                del rest[place : place + 2]
                break
    if not given:
        return arguments
    kind, workers = given.get("--executor", "processes"), given.get("--workers")
    return [*rest, "--where", kind if workers is None else f"{kind}:{workers}"]


def _too_much(error: cyclopts.UnusedCliTokensError) -> str:
    """The sentence that refuses superfluous arguments, with the arguments that the command takes."""
    name, tokens = " ".join(error.command_chain or ()), " ".join(error.unused_tokens or ())
    verb = VERBS.get(name)
    if verb is None:
        return f"nothing reads {tokens}; assay --help lists the commands."
    places = [key.upper() for key, one in inspect.signature(verb).parameters.items() if one.kind is one.POSITIONAL_ONLY]
    after = f" after {' '.join(places)}" if places else ""
    return f"assay {name} reads nothing{after}, but is given {tokens}; leave it out, or see assay {name} --help for its flags."


def _renamed(error: cyclopts.UnknownOptionError) -> str:
    """The sentence that refuses an option of before that the command takes under another name; empty for other options."""
    given = "" if error.token is None else error.token.keyword or error.token.value.partition("=")[0]
    verb, now = VERBS.get(" ".join(error.command_chain or ())), RENAMED.get(given, "")
    if verb is None or now.removeprefix("--").replace("-", "_") not in inspect.signature(verb).parameters:
        return ""
    return f"{given} is now {now}."


def _say(debug: bool, words: str, code: int, kind: str = "UsageError") -> int:
    if debug:
        import traceback

        traceback.print_exc()
    output.now.error = {"kind": kind, "message": printable(words), "exit_code": code}
    print(f"assay: {printable(words)}", file=sys.stderr)
    return code


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def warn(message: Warning | str, *_where: object) -> None:
    """Print a warning on one line, without the file and line that raised it."""
    output.now.warnings.append(printable(str(message)))
    print(f"assay: {printable(str(message))}", file=sys.stderr)
