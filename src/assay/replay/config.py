"""Settings for replaying a training."""

import dataclasses

from ..core.arguments import checked_fields
from ..core.errors import UsageError
from ..maths import schedules


@dataclasses.dataclass(frozen=True)
@checked_fields
class ReplayConfig:
    """Settings for repeating the steps of a run.

    Attributes:
        schedule: `sqrt`, `all`, `every=STEPS`, `tree` or `tree=PARTS` (see `replay.replay.Replay`).
        memory: Largest number of bytes for kept states; None for as many as the schedule needs.
        tolerance: Largest distance of the replayed parameters from the recorded ones, relative to the norm of these; 0 for the same bits.
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
        """The settings that results depend on, by name: the tolerance, unless it is 0."""
        return {"tolerance": str(float(self.tolerance))} if self.tolerance else {}
