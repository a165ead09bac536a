"""How a call is carried out: where its trainings run, who is told of them, and what of it is saved."""

import dataclasses
from concurrent.futures import Executor
from typing import Literal

from ..core.arguments import checked_fields
from ..core.errors import UsageError
from .progress import Progress

Save = bool | Literal["recompute"]
"""Whether results are saved in the run's folder and reused; `"recompute"` saves them and reuses none."""


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Execution:
    """Where trainings run, and who is told of each.

    Attributes:
        pool: Any `concurrent.futures.Executor`; None (the default) for this process. The caller shuts it down.
        progress: Receives each finished training; by default nobody does.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    pool: Executor | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)


MOVED = dict.fromkeys(("pool", "progress"), "execution=assay.Execution({name}=...)")
"""Where the keywords of before went, as `moved_keywords` says it."""
RECOMPUTE = dict.fromkeys(("recompute", "again"), "save='recompute'")
REPLAYING = {"replaying": "replay_config=..."}


def check_save(save: Save) -> None:
    """Refuse a text that is none of the ways of saving.

    Raises:
        UsageError: The text is another one than "recompute".
    """
    if isinstance(save, str) and save != "recompute":
        raise UsageError(f"save={save!r} is no way of saving; give True, False or 'recompute'.")
