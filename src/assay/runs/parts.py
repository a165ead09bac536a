"""What one of several processes observed of an epoch, in memory, until the process that writes the run takes all of it."""

from collections.abc import Sequence
from pathlib import Path

from ..core.ids import Ids
from .paths import RunPaths
from .recorder import Alongside, Recorder
from .schema import Header


class PartRecorder(Recorder):
    """Observes what one process trains on, and writes nothing: `part` is what the process that writes takes in by `merge`."""

    def __init__(
        self, folder: Path, ids: Ids, opening: tuple[Header, int, bool], live: Alongside, class_names: Sequence[str] | None = None
    ):
        """Observe parts of the run that another process opened: `opening` is what its recorder says."""
        self.paths, self.ids, self.alongside = RunPaths(folder), ids, live
        self._prepare(class_names)
        self.header, self._committed, self._undecided = opening
        self._asked_probs = False
        # The process that writes says it.
        self._warned = True
        self._clear()

    @property
    def epochs(self) -> int:
        """How many epochs are committed."""
        return self._committed

    @property
    def keeps_checkpoints(self) -> bool:
        """Never: the state is that of the process that writes."""
        return False

    def begin(self) -> int:
        """Start an epoch; returns its number."""
        self._open = True
        self._clear()
        return self.epochs

    def joined(self) -> None:
        """Nothing to do: the process that writes says it in the run."""

    def leave(self) -> None:
        """Discard an epoch that was left before its end."""
        self._clear()

    def committed(self) -> None:
        """The process that writes committed the epoch."""
        self._committed += 1
        self._clear()

    def close(self) -> None:
        """Forget what was observed."""
        self._clear()

    def _decide_mean_probs(self) -> None:
        if self._undecided:
            self._undecided = False
            self.header = self.header.model_copy(update={"mean_probs": self.sums_by_default})
