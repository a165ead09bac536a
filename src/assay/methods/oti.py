r"""OTI (online training influence): how far a step on the example alone would have gone towards the parameters $\theta^*$ at which training ended.

$$ v_i^t = \frac{\lVert \Delta_t \rVert - \lVert \Delta_t + \eta_t g_i^t \rVert}{\lVert \Delta_t \rVert + \lVert \Delta_t + \eta_t g_i^t \rVert},
   \qquad \Delta_t = \theta^* - \theta_{t-1} $$

$g_i^t$ is the gradient of the example's loss before step $t$, $\eta_t$ the learning rate. Where $\Delta_t = 0$ the value is set to 0.
"""

import dataclasses
from typing import Any, ClassVar, Literal

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
from ..core.steps import Step, StepSource
from ..maths.params import Params
from ..maths.single_example_steps import single_step_gains


def oti(
    step: Step,
    reference: Params,
    *,
    normalised: bool = True,
    by_tensor: bool = False,
    rate: float | None = None,
    backends: set[str] | None = None,
) -> Float[Tensor, " batch"]:
    """For each example of a recorded step, how far a step on it alone goes towards `reference`; 0 where the parameters are already there.

    Args:
        step: The recorded step.
        reference: Parameters towards which a step should go.
        normalised: Whether to give the ratio, in [-1, 1], and not the difference of the distances.
        by_tensor: Whether the norms of single tensors are added (the released code), instead of one norm over all parameters.
        rate: Learning rate of the single-example step; by default the recorded rate.
        backends: A set to which the name of the backend that computed the derivatives is added.

    Returns:
        One per example of the batch.
    """
    if all(torch.equal(value, reference[name]) for name, value in step.params.items()):
        return torch.zeros(len(step.positions), dtype=torch.float64)
    rates = step.rates if rate is None else dict.fromkeys(step.rates, rate)
    values, backend = single_step_gains(step, reference, rates, normalised=normalised, by_tensor=by_tensor)
    if backends is not None:
        backends.add(backend)
    return values


def reference_of(source: StepSource, which: str) -> Params:
    """The reference parameters: those at the end, at the best point or at the end of an epoch, or those that the user gave.

    Args:
        source: The recorded training.
        which: `final`; `best`: after the epoch whose batches had the lowest mean loss when they were trained on; `best_batch`: before the step whose
            batch had the lowest loss (the released code); the number of an epoch; or the name of a given reference.

    Returns:
        By name, in the shapes of the model's parameters.

    Raises:
        UsageError: There is no such epoch.
        UnknownName: No reference was given by that name.
    """
    if which == "final":
        return source.final()
    if which not in ("best", "best_batch") and not which.isdecimal():
        return source.reference(which)
    steps = range(source.epochs[0].start, source.epochs[-1].stop)
    if which not in ("best", "best_batch"):
        if int(which) >= len(source.epochs):
            raise UsageError(
                f"oti: reference={which} is outside the {len(source.epochs)} recorded epochs, 0-{len(source.epochs) - 1}."
            )
        last = source.epochs[int(which)].stop
        return source.final() if last == steps.stop else _copied(next(iter(source.forwards(range(last, last + 1)))).params)
    best, lowest, found = float("inf"), [], source.final()
    for step in source.forwards(steps):
        with torch.no_grad():
            loss = float(step.losses(step.params).mean())
        lowest.append(loss)
        if which == "best_batch":
            if loss < best:
                best, found = loss, _copied(step.params)
        elif step.index + 1 == source.epochs[step.epoch].stop:
            mean = sum(lowest) / len(lowest)
            lowest.clear()
            if mean < best:
                best, found = mean, _copied(step.after)
    return found


def _copied(params: Params) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in params.items()}


@dataclasses.dataclass(frozen=True)
class OTI(AbstractStepMethod):
    """Above 0 a step on the example alone goes towards where training ended; steps on the most harmful examples go away from it.

    Args:
        reference: Where the step should go: `final`, `best` (after the epoch with the lowest mean training loss), `best_batch` (before
            the batch with the lowest loss), the number of an epoch, or the name of parameters given beside the run (`references=`).
        form: `normalised`, or the `raw` difference of the distances.
        norm: One `global` norm over all parameters, or the sum of the norms `by_tensor`.
        rate: The `recorded` learning rate of each step, or `one`, a rate of 1.
        reduce: `mean` over the visits, or `sum`.
        window: Steps that count: `all`, `last`, or epochs such as `0-2`.
    """

    reference: str = "final"
    form: Literal["normalised", "raw"] = "normalised"
    norm: Literal["global", "by_tensor"] = "global"
    rate: Literal["recorded", "one"] = "recorded"
    reduce: Literal["mean", "sum"] = "mean"
    window: str = "all"
    name: ClassVar[str] = "oti"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = RANK_ONLY
    source: ClassVar[Source] = Source(
        "Xu et al. 2025, fixed reference (equations 12 to 14)",
        "https://arxiv.org/abs/2502.10489",
        "scored on the recorded trajectory itself, where the released code trains a second, other one; one norm over all parameters, "
        "where it adds norms of tensors; per-example gradients in eval mode; a stored run takes the place of its modes",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_span(self.window, self.title)
        if not self.reference:
            raise UsageError(
                f"{self.title}: reference is empty; give final, best, best_batch, the number of an epoch, or a given reference's name."
            )

    @property
    def asks(self) -> Asks:
        return Asks(references=(self.reference,))

    def start(self, examples: int, evidence: Evidence | None = None) -> Any:
        if evidence is None:
            raise MissingEvidence(
                f"{self.title} needs the end of the training before its beginning; score the finished run instead."
            )
        epochs = len(evidence.steps.epochs)
        return {
            "reference": reference_of(evidence.steps, self.reference),
            "by_epoch": torch.zeros(epochs, examples, dtype=torch.float64),
            "visits": torch.zeros(examples, dtype=torch.float64),
            # Under the name of before, so that runs of before are resumed.
            "ways": set(),
        }

    def update(self, state: Any, step: Step) -> None:
        rate = None if self.rate == "recorded" else 1.0
        raw, by_tensor = self.form == "raw", self.norm == "by_tensor"
        values = oti(step, state["reference"], normalised=not raw, by_tensor=by_tensor, rate=rate, backends=state["ways"]).cpu()
        # An example may stand twice in a batch.
        state["by_epoch"][step.epoch].index_add_(0, step.positions, values)
        state["visits"].index_add_(0, step.positions, torch.ones_like(values))

    def compute(self, state: Any) -> Result:
        by_epoch = state["by_epoch"] / state["visits"].clamp(min=1) if self.reduce == "mean" else state["by_epoch"].clone()
        return Result(by_epoch.sum(0), by_epoch, derivatives_taken(state["ways"]))
