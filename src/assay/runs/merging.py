"""What one of several processes that train together observed of an epoch, and whether such parts belong together."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError
from .epoch_steps import EpochSteps
from .schema import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What one of several processes that train together observed of an epoch.

    Attributes:
        task: What was observed; empty if nothing was.
        classes: Of the model.
        rows: Positions of the examples that it trained on.
        numbers: The number of the batch, in this process, whose facts are kept of each.
        facts: Facts by name, a row for each of `rows`.
        labels: The class of each; -1 without classes.
        label_matrix: The labels of each, where there are several.
        steps: Its batches, and the optimizer steps that they end.
    """

    task: Task | Literal[""]
    classes: int
    rows: Int[Tensor, " rows"]
    numbers: Int[Tensor, " rows"]
    facts: Mapping[str, Tensor]
    labels: Int[Tensor, " rows"]
    label_matrix: Tensor | None
    steps: EpochSteps


def check_parts(parts: Sequence[Part], where: str) -> None:
    """Refuse parts that are not of one epoch.

    Args:
        parts: One of each process.
        where: The epoch, as the refusal names it.

    Raises:
        UsageError: A process trained otherwise than the first.
    """
    first = parts[0]
    for process, part in enumerate(parts):
        for what, held, other in (
            ("batches", len(first.steps), len(part.steps)),
            ("outputs of the model", first.classes, part.classes),
            ("optimizer updates by batch", first.steps.updates, part.steps.updates),
            ("kind of values recorded", first.task, part.task),
            ("facts", sorted(first.facts), sorted(part.facts)),
        ):
            if held != other:
                shown = [str(value) if len(str(value)) < 40 else f"{str(value)[:40]}..." for value in (held, other)]
                raise UsageError(
                    f"{where}: process {process} differs from process 0 in its {what} ({shown[1]}, not {shown[0]}); let every process run "
                    "the same loop on its own part of the examples."
                )
