r"""Leave-one-out: the change of a target when training is repeated without an example.

$$ s_i = \Phi(\text{trained without } i) - \Phi(\text{trained on all}) $$
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import CHANGE, Direction
from ..core.spans import checked_span, span, steps_of
from ..core.steps import Form, StepSource


def loo(source: StepSource, examples: int, target: str, steps: range, form: Form = "weight") -> Float[Tensor, " examples"]:
    """Change of the target when each example is left out of these steps, measured by one training per example; 0 for an example in none of them.

    Args:
        source: The recorded training.
        examples: How many examples there are.
        target: Name of a target of `source`.
        steps: The steps that an example is left out of.
        form: How an example is left out of a batch (see `StepSource.retrained`).

    Returns:
        One per example, in the unit of the target: above 0 where leaving it out makes the target rise.
    """
    values = torch.zeros(examples, dtype=torch.float64)
    met = (source.visits(steps) > 0).nonzero().flatten()
    # The training on all is asked for with the others, so that it is kept as they are.
    found = source.retrained([met[:0], *met.split(1)], steps, [target], form)[:, 0]
    values[met] = found[1:] - found[0]
    return values


@dataclasses.dataclass(frozen=True)
class LOO(AbstractMethod):
    """Real change of the target when training is repeated without the example, same start, same order: above 0 the example helps, below 0 it harms.

    Args:
        target: The target whose change is measured.
        window: Steps that the example is left out of: `all`, `last` (the last epoch), or epochs such as `3-5`.
        form: How the example is left out of a batch. `weight`: its loss counts 0, the mean is still over the whole batch, and the example still takes
            part in BatchNorm's statistics; `removed`: the example is not in the batch, and the sum of gradients is divided by the recorded size;
            `renormalised`: the example is not in the batch, and the mean is over the others.
    """

    target: str = "validation"
    window: str = "all"
    form: Form = "weight"
    name: ClassVar[str] = "loo"
    retrains: ClassVar[bool] = True
    of_one_training: ClassVar[bool] = True
    reads: ClassVar[frozenset[Need]] = frozenset({Need.STEPS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = CHANGE
    source: ClassVar[Source] = Source(
        "Hara et al. 2019, section 6.1 (form=removed)",
        "https://arxiv.org/abs/1906.08473",
        "by default the example's weight is 0, which is what influence predicts where BatchNorm or weight decay is at work",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_span(self.window, self.title)

    @property
    def asks(self) -> Asks:
        return Asks(targets=(self.target,))

    def run(self, evidence: Evidence) -> Result:
        return Result(loo(evidence.steps, len(evidence.ids), self.target, self._steps(evidence), self.form))

    def speaks_of(self, evidence: Evidence) -> Tensor:
        return evidence.steps.visits(self._steps(evidence)) > 0

    def _steps(self, evidence: Evidence) -> range:
        source = evidence.steps
        return steps_of(source, span(self.window, len(source.epochs), self.title))
