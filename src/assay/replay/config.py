"""How a training is taken again."""

import dataclasses

from ..core.arguments import checked_fields
from ..core.errors import UsageError
from ..maths import schedules


@dataclasses.dataclass(frozen=True)
@checked_fields
class ReplayConfig:
    """How steps are taken again.

    Attributes:
        schedule: `sqrt`, `all`, `every=STEPS`, `tree` or `tree=PARTS` (see `replay.replay.Replay`).
        memory: Bytes that states may take; None for what the schedule takes.
        tolerance: How far a replay may end from the recorded parameters, as a part of their norm; 0 for the same bits.
    """

    schedule: str = "sqrt"
    memory: int | None = None
    tolerance: float = 0.0

    def __post_init__(self):
        """Refuse what no replay could keep to, even where none is needed.

        Raises:
            UsageError: A setting is out of range.
        """
        try:
            schedules.named(self.schedule)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory={self.memory} is not a number of bytes above 0.")
        if not 0 <= self.tolerance < 1:
            raise UsageError(f"tolerance={self.tolerance} is outside 0..1, 1 excluded.")

    @property
    def identity(self) -> dict[str, str]:
        """What results depend on, by name: how far from the recorded parameters they may have been computed, unless that is nowhere."""
        return {"tolerance": str(float(self.tolerance))} if self.tolerance else {}
