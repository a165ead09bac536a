"""What a recorder shows to the methods that run during a recording, and what they save with each epoch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..core.ids import Ids
from .run import Run


@dataclasses.dataclass(frozen=True)
class Saved:
    """The data that are saved with an epoch for the methods that run during training.

    Attributes:
        states: Tensors that go into the newest file of states.
        notes: Texts that go with them.
        visits: Tensors that go into a file of this epoch alone.
    """

    states: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    visits: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Alongside(Protocol):
    """The methods that run during a recording: they are shown every epoch, and their state is saved with each."""

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of the methods that run during the recording."""
        ...

    @property
    def reads_logits(self) -> bool:
        """Whether one of them reads whole logits."""
        ...

    def attach(self, ids: Ids, run: Run | None) -> None:
        """Called at the start with the ids of the examples, and with the run that is resumed, if there is one."""
        ...

    def begin(self, epoch: int, opened: Callable[[], Run]) -> None:
        """Called before an epoch; `opened` opens the run as it is on disk."""
        ...

    def left(self, batches: int) -> None:
        """Called when the epoch was left after `batches` batches and is not recorded."""
        ...

    def saved(self, epoch: int, facts: Mapping[str, Tensor], classes: int) -> Saved:
        """The data to save with a complete epoch."""
        ...

    def committed(self, epochs: int) -> None:
        """Called when the epoch last saved is committed; the run then has `epochs` committed epochs."""
        ...


class Nothing:
    """No methods run during the recording."""

    titles: tuple[str, ...] = ()
    reads_logits = False

    def attach(self, ids: Ids, run: Run | None) -> None:
        """Nothing to do."""

    def begin(self, epoch: int, opened: Callable[[], Run]) -> None:
        """Nothing to do."""

    def left(self, batches: int) -> None:
        """Nothing to do."""

    def saved(self, epoch: int, facts: Mapping[str, Tensor], classes: int) -> Saved:
        """Nothing."""
        return Saved()

    def committed(self, epochs: int) -> None:
        """Nothing to do."""
