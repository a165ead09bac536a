"""Results of methods: one number per example, with diagnostics and warnings."""

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float64, Int
from torch import Tensor

ADJOINT_NORMS = "adjoint norms, from the end backwards"
"""The diagnostic that holds the norm of the adjoint after the last step and before each epoch."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Values over time: the value of each visit, which is one example in the batch of one step.

    Attributes:
        steps: Number of the step, counted over the whole run.
        positions: Position of the example.
        values: What the visit adds to the example's value.
    """

    steps: Int[Tensor, " visits"]
    positions: Int[Tensor, " visits"]
    values: Float64[Tensor, " visits"]

    @classmethod
    def joined(cls, parts: Iterable[tuple[int, Tensor, Tensor]]) -> "Stream":
        """The stream made of (step, positions, values) of single steps, in the order of the steps."""
        rows = sorted(parts, key=lambda part: part[0])
        if not rows:
            return cls(*(torch.zeros(0, dtype=kind) for kind in (torch.int64, torch.int64, torch.float64)))
        steps = [torch.full((len(positions),), step, dtype=torch.int64) for step, positions, _ in rows]
        return cls(torch.cat(steps), torch.cat([row[1] for row in rows]), torch.cat([row[2] for row in rows]))


@dataclasses.dataclass(frozen=True)
class Result:
    """The values of a method, with diagnostics and warnings.

    Attributes:
        values: One number per example, in the order of the evidence's ids.
        by_epoch: What each epoch adds to the value; None for methods whose value is no sum over epochs.
        diagnostics: Numbers, texts and lists of them, by name: how far the values can be trusted.
        warnings: What a reader must know before trusting the values, a sentence each.
        stream: For step methods that ran during training, the visits that `streamed` has not returned yet.
        scored: Which examples have a value, bool; None for those that the method `speaks_of`.
        repeats: For values that are means over repetitions, such as random draws or models: the values of each; None for one repetition.
    """

    # Not typed by shape: what a method returns is held against its evidence in `checked`, which says so in words.
    values: Tensor
    by_epoch: Tensor | None = None
    diagnostics: Mapping[str, object] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stream: Stream | None = None
    repeats: Tensor | None = None
    scored: Tensor | None = None
