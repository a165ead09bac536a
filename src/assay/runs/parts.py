"""The recorder of one of several processes that train together and do not write the run: it keeps its part of an epoch in memory."""

from collections.abc import Sequence
from pathlib import Path

from ..core.ids import Ids
from .alongside import Alongside
from .observations import Observations
from .paths import RunPaths
from .schema import Header


class PartRecorder(Observations):
    """Observes what one process trains on, and writes nothing: `part` is what the process that writes takes in by `merge`."""

    def __init__(
        self, folder: Path, ids: Ids, opening: tuple[Header, int, bool], live: Alongside, class_names: Sequence[str] | None = None
    ):
        """Observe parts of the run that another process opened: `opening` is what its recorder says."""
        super().__init__(RunPaths(folder), ids, live, class_names)
        self.header, self._committed, self._undecided = opening
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
