r"""In-Run Data Shapley: each example's share of what every single step did to a target, summed over the run.

$$ \phi_i = \sum_{t:\, i \in B_t} \frac{\eta_t}{b_t} \Bigl\langle \nabla\Phi(\theta_t) - \frac{\eta_t}{2 b_t} \nabla^2\Phi(\theta_t)
   \sum_{j \in B_t} \nabla\ell_j(\theta_t),\ \nabla\ell_i(\theta_t) \Bigr\rangle $$

$B_t$ is the batch of step $t$, $b_t$ its size, $\eta_t$ the learning rate, $\Phi$ the target. At order 1 the second term is left out.
"""

import dataclasses
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractStepMethod
from ..core.errors import MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.method import Asks, Source, derivatives_taken
from ..core.results import Result
from ..core.scores import RANK_ONLY, Direction
from ..core.spans import checked_span
from ..core.steps import Step


def in_run_shapley(step: Step, target: str, order: int = 1, backends: set[str] | None = None) -> Float[Tensor, " batch"]:
    """Shapley value of each example of one step: its share of the fall of the target, to first or second order.

    The shares of a step add up to the fall that the Taylor polynomial of that order predicts for a step of plain SGD.

    Args:
        step: The recorded step.
        target: Name of the target.
        order: 1 or 2.
        backends: A set to which the name of the backend that computed the derivatives is added.

    Returns:
        One per example of the batch, in the unit of the target: above 0 where it makes the target fall.
    """
    size = len(step.positions)
    along = {name: step.rates[name] / size * value for name, value in step.target(target).items()}
    if order == 2:
        with torch.enable_grad():
            leaves = {name: value.detach().clone().requires_grad_() for name, value in step.params.items()}
            total = torch.autograd.grad(step.losses(leaves).sum(), list(leaves.values()), materialize_grads=True)
        move = {name: step.rates[name] / size * value for name, value in zip(leaves, total, strict=True)}
        curved = step.target_product(target, move)
        along = {name: value - step.rates[name] / (2 * size) * curved[name] for name, value in along.items()}
    values, backend = step.grad_dots(along)
    if backends is not None:
        backends.add(backend)
    return values


@dataclasses.dataclass(frozen=True)
class InRunShapley(AbstractStepMethod):
    """Above 0 the example's steps lowered the target, below 0 they raised it; the values add up to the fall predicted for plain SGD.

    Args:
        target: The target whose fall is shared among the examples.
        order: Order of the Taylor polynomial: 1, or 2, which accounts for interactions between the examples of a batch.
        window: Steps that count: `all`, `last`, or epochs such as `0-2`.
    """

    target: str = "validation"
    order: int = 1
    window: str = "all"
    name: ClassVar[str] = "in_run_shapley"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = RANK_ONLY
    source: ClassVar[Source] = Source(
        "Wang et al. 2024, theorems 3 and 4",
        "https://arxiv.org/abs/2406.11011",
        "above 0 is helpful; the step is that of plain SGD whatever the optimizer",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_span(self.window, self.title)
        if self.order not in (1, 2):
            raise UsageError(f"{self.title}: order={self.order} is neither 1 nor 2.")

    @property
    def asks(self) -> Asks:
        return Asks(targets=(self.target,))

    def start(self, examples: int, evidence: Evidence | None = None) -> Any:
        if evidence is None:
            raise MissingEvidence(f"{self.title} asks for a target at every step; score the finished run instead.")
        by_epoch = [torch.zeros(examples, dtype=torch.float64)]
        return {"by_epoch": by_epoch, "backends": set(), "beyond_sgd": evidence.steps.beyond_sgd}

    def update(self, state: Any, step: Step) -> None:
        while len(state["by_epoch"]) <= step.epoch:
            state["by_epoch"].append(torch.zeros_like(state["by_epoch"][0]))
        found = in_run_shapley(step, self.target, self.order, state["backends"])
        # An example may stand twice in a batch.
        state["by_epoch"][step.epoch].index_add_(0, step.positions, found.to("cpu", torch.float64))

    def compute(self, state: Any) -> Result:
        by_epoch = torch.stack(state["by_epoch"])
        warnings: tuple[str, ...] = ()
        if state["beyond_sgd"]:
            warnings = (
                f"A recorded step was more than rate times gradient ({', '.join(state['beyond_sgd'])}), and these values share out what a step of "
                "plain SGD at the recorded rate would have done to the target, not what the recorded step did to it: trust their order more than "
                "their size, or ask sgd_influence, which differentiates the step as it was.",
            )
        return Result(by_epoch.sum(0), by_epoch, derivatives_taken(state["backends"]), warnings)
