"""What a scoring is given beside run and methods: one value that goes from the call to whatever reads a part of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.arguments import checked_fields
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.targets import Given
from .execution import Execution, Save, check_save


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Request:
    """What a scoring is given beside run and methods, as `score` takes it.

    Attributes:
        alone: Whether options that do not go with the run refuse their method alone, and not the call: for studies, whose other methods go on.
        kept: Folder in which trainings without some examples are kept, and a name of all that loop and targets are: for studies, whose loop is their own.

    Raises:
        UsageError: `save` is a text that is no way of saving.
    """

    strict: bool = False
    save: Save = False
    loop: Loop | None = None
    targets: Mapping[str, Given] | Sequence[str] | None = None
    replay_config: ReplayConfig | None = None
    references: Mapping[str, Mapping[str, Tensor]] | None = None
    inputs: Mapping[str, Any] | None = None
    execution: Execution = dataclasses.field(default_factory=Execution)
    alone: bool = False
    kept: tuple[Path, str] | None = None

    def __post_init__(self):
        check_save(self.save)

    @property
    def recompute(self) -> bool:
        """Whether nothing saved is reused."""
        return self.save == "recompute"

    @property
    def of_a_run(self) -> list[str]:
        """What is given and concerns recorded runs alone, as it is written in a call."""
        named = [field.name for field in dataclasses.fields(self) if field.name not in ("strict", "execution", "alone", "kept")]
        return [f"{name}=" for name in named if getattr(self, name)] + ["Execution(pool=)"] * (self.execution.pool is not None)
