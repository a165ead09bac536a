"""The optimizer steps of a recorded training, forwards and backwards."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ..maths.params import Params
from .models import Batch


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """Derivative of a target by everything that one step hands to the next.

    Attributes:
        params: By the trainable parameters.
        carried: By the optimizer's buffers, by slot and parameter; empty as long as nothing depends on them.
        statistics: By the running statistics of normalisation layers, by name.
        averages: By the running averages of the trainable parameters; empty where training keeps none.
    """

    params: Params
    carried: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    statistics: Params = dataclasses.field(default_factory=dict)
    averages: Params = dataclasses.field(default_factory=dict)


@runtime_checkable
class Step(Batch, Protocol):
    """One optimizer step as it was taken. `params` are those before it."""

    index: int
    """Counted from 0 over the whole run."""
    epoch: int
    """The epoch that it belongs to."""
    rates: Mapping[str, float]
    """Learning rate of each parameter."""
    after: Params
    """Trainable parameters after the step. Valid until the next step: copy what is kept longer."""

    def batch_alone(self) -> Batch:
        """The batch, the parameters before the step and what else its losses need, to be kept as long as one likes."""
        ...

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target by the parameters before the step, at them; also where the run ends with their average."""
        ...

    def target_product(self, name: str, direction: Params) -> dict[str, Tensor]:
        """Hessian of a target before the step times a direction."""
        ...

    def back(
        self, adjoints: Sequence[Adjoint], *, at: Params | None = None, curvature: bool = True
    ) -> list[tuple[Float[Tensor, " batch"], Adjoint]]:
        """For each adjoint of the state after the step: d target / d weight of each example's loss, and the adjoint before it.

        The step is differentiated as it was taken: train mode, the same augmentation and dropout, through its optimizer.

        Args:
            adjoints: One per target.
            at: Differentiate here instead of at `params`.
            curvature: Whether what changes the parameters changes later gradients too; else the adjoint by the parameters stays as it is.
        """
        ...


@runtime_checkable
class StepSource(Protocol):
    """A recorded training that can be taken again, forwards and backwards."""

    epochs: tuple[range, ...]
    """The steps of each epoch, counted over the whole run."""
    first: int
    """The earliest step that can be taken again."""
    targets: tuple[str, ...]
    """Names of the numbers whose change can be asked for."""
    derivative_errors: Mapping[int, float]
    """By step whose derivative was held against central differences: the relative error. Known after `back`."""
    unconfirmed: Mapping[int, str]
    """By step whose derivative could not be held against central differences: why. Known after `back`."""

    def visits(self, steps: range) -> Int[Tensor, " examples"]:
        """How often each example stands in the batches of these steps. Known without taking them again."""
        ...

    def sizes(self, steps: range) -> list[int]:
        """How many examples each of these steps took."""
        ...

    def retrained(
        self,
        without: Sequence[Int[Tensor, " group"]],
        steps: range,
        targets: Sequence[str],
        form: Literal["weight", "removed", "renormalised"] = "weight",
    ) -> Float[Tensor, "trainings targets"]:
        """Targets at the end of the run, had some examples been left out of these steps; one training for each group.

        Args:
            without: Positions of those left out, for each training.
            steps: Where they are left out; the other steps are taken as they were.
            targets: Which.
            form: `weight`: their losses count 0, the mean is still taken over the whole batch, which they still help to normalise.
                `removed`: they are not there, and the gradient is still divided by the batch's recorded size. `renormalised`: the mean
                is taken over those that are there. In the last two a batch without examples is no step.
        """
        ...

    def reweighted(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> float:
        """A target at the end of the run, had the losses of these steps been multiplied by these weights."""
        ...

    def forwards(self, steps: range) -> Iterator[Step]:
        """These steps, first to last."""
        ...

    def backwards(self, steps: range, *, replay: bool = True) -> Iterator[Step]:
        """These steps, last to first. Without `replay` their `params` and `after` are those after the last step of the run."""
        ...

    def end(self, name: str) -> Adjoint:
        """Derivative of a target by the state after the last step of the run; the target is that of the averaged model, where one was kept."""
        ...

    def final(self) -> Params:
        """Trainable parameters after the last step of the run, not their average."""
        ...

    def reference(self, name: str) -> Params:
        """Trainable parameters that were given from outside, by the name that they were given."""
        ...
