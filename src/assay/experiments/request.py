"""What a scoring is given beside run and methods: one value that goes from the call to whatever reads a part of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from torch import Tensor

from ..core.arguments import checked_fields
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.targets import Given
from .progress import Progress


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Request:
    """What a scoring is given beside run and methods, as `score` takes it."""

    strict: bool = False
    save: bool = False
    recompute: bool = False
    loop: Loop | None = None
    targets: Mapping[str, Given] | Sequence[str] | None = None
    replay_config: ReplayConfig | None = None
    references: Mapping[str, Mapping[str, Tensor]] | None = None
    inputs: Mapping[str, Any] | None = None
    pool: Executor | None = None
    progress: Progress | None = None

    @property
    def of_a_run(self) -> list[str]:
        """Names of what is given and concerns recorded runs alone."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.name not in ("strict", "progress") and getattr(self, field.name)
        ]
