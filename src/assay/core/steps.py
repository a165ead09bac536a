"""The optimizer steps of a recorded training, forwards and backwards."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ..maths.params import Params
from .models import Batch, Queries

Curvature = Literal["hessian", "gauss_newton", "fisher", "none"]
"""The matrix by which a change of the parameters changes the gradient of a step: the Hessian of its loss; Gauss-Newton's J' H J, with J the derivative of
what the model returns and H the Hessian of the loss with respect to that; the empirical Fisher matrix, the mean of g_i g_i' over the gradients g_i of
the examples' losses; or 0."""

Form = Literal["weight", "removed", "renormalised"]
"""How examples are left out of a batch (see `StepSource.retrained`)."""


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """Derivative of a target with respect to the training state that one step passes to the next.

    Attributes:
        params: Derivative with respect to the trainable parameters.
        carried: The same for the optimizer's buffers, by slot and parameter; empty as long as the target does not depend on them.
        statistics: The same for the running statistics of normalisation layers, by name.
        averages: The same for the running averages of the trainable parameters; empty where training keeps none.
    """

    params: Params
    carried: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    statistics: Params = dataclasses.field(default_factory=dict)
    averages: Params = dataclasses.field(default_factory=dict)


@runtime_checkable
class Step(Batch, Protocol):
    """One optimizer step as it was taken. `params` are those before it. What `Batch` computes is in eval mode; only `back` is in train mode."""

    index: int
    """Number of the step, counted from 0 over the whole run."""
    epoch: int
    """The epoch that it belongs to."""
    rates: Mapping[str, float]
    """Learning rate of each parameter."""
    after: Params
    """Trainable parameters after the step. Valid until the next step: copy what is kept longer."""

    def batch_alone(self) -> Batch:
        """The batch, with the parameters before the step and everything else that its losses need; it stays valid after the step."""
        ...

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target with respect to the parameters before the step, taken at them even if the run keeps a running average of them."""
        ...

    def target_product(self, name: str, direction: Params) -> dict[str, Tensor]:
        """Hessian of a target, at the parameters before the step, times a direction."""
        ...

    def back(
        self, adjoints: Sequence[Adjoint], *, at: Params | None = None, curvature: Curvature = "hessian"
    ) -> list[tuple[Float[Tensor, " batch"], Adjoint]]:
        """For each adjoint of the state after the step: d target / d weight of each example's loss, and the adjoint before the step.

        The step is differentiated as it was taken: train mode, the same augmentation and dropout, through its optimizer.

        Args:
            adjoints: One per target.
            at: Parameters to differentiate at instead of `params`.
            curvature: The matrix by which a change of the parameters changes the gradients. The step is as it was taken with `hessian` only; with `none`
                the adjoint's `params` stay unchanged.
        """
        ...

    def gradient(self) -> dict[str, Tensor]:
        """Gradient of the step's loss as it was taken, in train mode and before clipping, by the parameters that the loss reaches."""
        ...


@runtime_checkable
class Carrier(Protocol):
    """Trainings that differ a little from the recorded one, and take its steps with other gradients."""

    moved: Sequence[Params]
    """By how much the parameters of each training differ from the recorded ones before the next step; in double precision."""

    def take(self, step: Step, gradient: Params, slopes: Sequence[Params]) -> None:
        """Take one step in all trainings, through clipping and the optimizer as they were.

        Args:
            step: The next step of the recorded training.
            gradient: What its `gradient` gives.
            slopes: For each training, by how much its gradient differs from that.
        """
        ...


@runtime_checkable
class StepSource(Protocol):
    """A recorded training that can be replayed, forwards and backwards."""

    epochs: tuple[range, ...]
    """The steps of each epoch, counted over the whole run."""
    first: int
    """The earliest step that can be replayed."""
    targets: tuple[str, ...]
    """Names of the targets: numbers whose change can be asked for."""
    derivative_errors: Mapping[int, float]
    """Relative error of the derivative for each step that was checked against central differences. Known after `back`."""
    unconfirmed: Mapping[int, str]
    """The reason for each step whose derivative could not be checked against central differences. Known after `back`."""
    beyond_sgd: tuple[str, ...]
    """What moved the parameters in a step besides rate times the gradient of its loss, such as `momentum`; empty for plain SGD."""

    def visits(self, steps: range) -> Int[Tensor, " examples"]:
        """How often each example occurs in the batches of these steps. Known without a replay."""
        ...

    def sizes(self, steps: range) -> list[int]:
        """How many examples each of these steps took."""
        ...

    def retrained(
        self,
        without: Sequence[Int[Tensor, " group"]],
        steps: range,
        targets: Sequence[str],
        form: Form = "weight",
    ) -> Float[Tensor, "trainings targets"]:
        """Targets at the end of the run, had some examples been left out of these steps; one training for each group.

        Args:
            without: Positions of the examples left out, for each training.
            steps: The steps in which they are left out; the other steps are taken as they were.
            targets: Names of the targets.
            form: `weight`: their losses have weight 0; the mean is over the whole batch, and they still enter batch normalisation.
                `removed`: they leave the batch, and the gradient is still divided by the batch's recorded size. `renormalised`: the mean
                is taken over the remaining examples. In the last two forms no step is taken on an empty batch.
        """
        ...

    def reweighted(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> float:
        """A target at the end of the run, had the losses of these steps been multiplied by these weights."""
        ...

    def reweighted_end(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> tuple[float, Params]:
        """As `reweighted`, with the parameters that the target was computed at."""
        ...

    def forwards(self, steps: range) -> Iterator[Step]:
        """These steps, first to last."""
        ...

    def carrier(self, count: int) -> Carrier:
        """So many trainings, which differ in nothing yet; running averages and statistics are left out."""
        ...

    def backwards(self, steps: range, *, replay: bool = True) -> Iterator[Step]:
        """These steps, last to first. Without `replay` their `params` and `after` are those after the last step of the run."""
        ...

    def queries(self, name: str) -> Queries:
        """The rows of a target that is a mean of losses (see `core.models.ModelSource.queries`)."""
        ...

    def end(self, name: str, query: int | None = None) -> Adjoint:
        """Derivative of a target with respect to the state after the last step; the target is that of the averaged model, if one was kept.

        Args:
            name: Name of the target.
            query: Position of a row of the target, whose loss alone is differentiated; None for the whole target.
        """
        ...

    def target_value(self, name: str, params: Params) -> float:
        """A target at these parameters, all else being as it is after the last step."""
        ...

    def final(self) -> Params:
        """Trainable parameters after the last step of the run, not their average."""
        ...

    def reference(self, name: str) -> Params:
        """Reference values of the trainable parameters that the user passed under this name."""
        ...
