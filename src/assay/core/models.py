"""The models that a run kept, and batches of examples seen with one of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..maths.example_vectors import OuterVectors
from ..maths.layer_pairs import LayerPair
from ..maths.params import Params
from .errors import UsageError, listed
from .ids import Ids


@runtime_checkable
class Batch(Protocol):
    """A batch of examples with the loss of each as a differentiable function of the model's parameters, in eval mode."""

    positions: Int[Tensor, " batch"]
    """Positions of the examples in the evidence's ids. An example may occur twice."""
    params: Params
    """Trainable parameters of the model that the batch was read with."""

    def losses(self, params: Params) -> Float[Tensor, " batch"]:
        """Loss of each example at `params`, differentiable; parameters that are left out are those of the batch."""
        ...

    def grad_dots(self, direction: Params) -> tuple[Float[Tensor, " batch"], str]:
        """<direction, grad l_i> for each example's loss l_i and the parameters that the direction names; and how it was computed, in words."""
        ...

    def grad_sq_norms(self, names: Sequence[str]) -> tuple[Float[Tensor, " batch"], str]:
        """|grad l_i|^2 for each example's loss l_i and these parameters; and how it was computed, in words."""
        ...

    def products(self, direction: Params) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        """`grad_dots` and `grad_sq_norms` together, each with a (batch,) tensor per parameter; and how they were computed, in words."""
        ...

    def outputs(self, params: Params) -> Float[Tensor, "batch classes"]:
        """Logits of each example at `params`, differentiable; parameters that are left out are those of the batch."""
        ...

    def output_derivatives(self) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs columns"]]:
        """Derivatives of each example's loss with respect to the outputs that it is computed from: the first, and a square root of the second.

        The outputs are the logits where the losses are cross-entropies, else all numbers that the model returns for an example. The square root R
        has R R' = H, with H the second derivative.

        Raises:
            UsageError: The losses are no function of one set of outputs, or are not convex in them.
        """
        ...

    def grads(
        self, names: Sequence[str], cotangents: Float[Tensor, "batch outputs"] | None = None
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Gradient of each example's loss with respect to these parameters, in chunks: rows of the batch, and (chunk, *shape) by name.

        With `cotangents` it is the gradient of <cotangents_i, outputs_i> instead, of the outputs of `output_derivatives`.
        """
        ...

    def layer_pairs(
        self, names: Sequence[str], cotangents: Float[Tensor, "batch outputs *columns"] | None = None
    ) -> Iterator[LayerPair]:
        """The inputs of each layer that has some of these parameters, and the gradients of the examples' losses with respect to its outputs.

        In chunks of examples, with a row for each position: the sum over the positions of the outer products is an example's gradient. With
        `cotangents` the gradients are those of <cotangents_i, outputs_i>, as in `grads`; with several columns of them, one column after the other, from one
        forward pass.

        Raises:
            UsageError: A parameter's gradient is not made of those of one call of one layer; names it.
        """
        ...

    def hvp(self, direction: Params) -> dict[str, Tensor]:
        """Hessian of the sum of the losses, with respect to the parameters that the direction names, times the direction."""
        ...

    def ggnvp(self, direction: Params) -> dict[str, Tensor]:
        """Gauss-Newton matrix of the sum of the losses, with respect to the parameters that the direction names, times the direction.

        J' H J v with J the derivative of the outputs and H the Hessian of the losses with respect to the outputs.
        """
        ...

    def input_gradients(self) -> Float[Tensor, "batch ..."]:
        """Gradient of each example's given-label logit with respect to its input, or to its embeddings where the input is tokens."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """The output of one layer of a net for every example.

    Attributes:
        name: Name of the module; `(input)` before the first layer, `(softmax)` after the last.
        rows: The outputs, flattened (of tokens, the mean over the tokens), in the order of the evidence's ids.
    """

    name: str
    rows: Float[Tensor, "examples dims"]


@dataclasses.dataclass(frozen=True)
class WeightDecay:
    """How the optimizer pulls a parameter towards 0.

    Attributes:
        factor: Weight decay relative to the mean loss: where a step takes the summed loss, the optimizer's setting divided by the batch size.
        coupled: Whether factor * theta is added to the gradient, as SGD and Adam do it, so that factor / 2 * |theta|^2 is a part of what is
            minimised; else the parameter is shrunk separately from the gradient step (AdamW), which corresponds to no term of the loss.
    """

    factor: float
    coupled: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """The rows of a target that is their weighted mean loss.

    Attributes:
        ids: Ids of the rows; for tensors passed as a target, positions counted from 0.
        labels: Class of each.
        weights: How much each counts in the target; they add up to 1.
    """

    ids: Ids
    labels: Int[Tensor, " queries"]
    weights: Float64[Tensor, " queries"]


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleRows:
    """A row of numbers for each example, made once with one model; any number of readers may read.

    Attributes:
        dims: Numbers in a row.
        bytes: Bytes that a row takes.
        kept: Whether the rows are kept with the run, so that a later call reads them; else they go with this object.
        read: Function that starts an iteration over the blocks: slices of positions, from first to last, and their rows, which the reader may modify.
    """

    dims: int
    bytes: int
    kept: bool
    read: Callable[[], Iterator[tuple[slice, Tensor]]]

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "block dims"]]]:
        """The rows in blocks, each once."""
        return self.read()


RowMaker = Callable[[Iterator[Batch]], Iterator[Tensor]]
"""From all examples in batches to a row for each of them, in the same order, on the CPU, in blocks of any size."""


@runtime_checkable
class Model(Protocol):
    """The model as it stood at the end of one epoch."""

    epoch: int
    """Number of the epoch, counted from 0; -1 is the state before training."""
    rates: Mapping[str, float]
    """Learning rate of each parameter in the last step before this state; for the state before training, in the first step."""
    params: Params
    """Trainable parameters."""
    head: tuple[str, ...]
    """Names of the trainable parameters of the linear layer that makes the logits by itself, by the order of calls; empty if there is none."""

    def weight_decay(self) -> Mapping[str, WeightDecay]:
        """The `WeightDecay` of each parameter that the optimizer pulls towards 0.

        Raises:
            UsageError: It is not known how the optimizer applies weight decay.
        """
        ...

    def batches(self) -> Iterator[Batch]:
        """Every example once, without augmentation."""
        ...

    def rows(self, name: str, make: RowMaker) -> ExampleRows:
        """A row of numbers for each example, made once and kept with the run where model and examples can be told again.

        Args:
            name: Says, in the form NAME:OPTION=VALUE,..., all that the rows depend on beside this model and the examples.
            make: Makes them; not called where they are kept.
        """
        ...

    def embeddings(self, names: Sequence[str] | None = None) -> Iterator[Layer]:
        """The outputs of the layers for every example, in eval mode, layer by layer.

        The input, if numeric, the modules of these names (None: all that assay finds), and the softmax. A layer's rows may be modified; they are
        valid until the next layer is asked for.
        """
        ...

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target with respect to the parameters, taken at these parameters even if the run keeps a running average of them."""
        ...

    def queries(self, name: str, rows: slice | None = None) -> Iterator[Batch]:
        """The rows of a target (see `ModelSource.queries`), whose losses are those that the target averages; `positions` are those of the rows.

        Args:
            name: Name of the target.
            rows: A slice of the rows, with both ends given; all rows by default.
        """
        ...


def chosen_params(model: Model, layers: str, method: str) -> tuple[str, ...]:
    """Names of the parameters that a method's option `layers` means.

    Args:
        model: The model.
        layers: `all` trainable parameters; those of the linear layer that makes the logits, `head`; or of some modules, by their names joined by `+`.
        method: The method, for messages.

    Returns:
        At least one name, in the order of the model.

    Raises:
        UsageError: No trainable linear layer makes the logits, or a name is of no module with trainable parameters.
    """
    if layers not in ("all", "head"):
        wanted = layers.split("+")
        inside = {one: [name for name in model.params if name.startswith(f"{one}.")] for one in wanted}
        if strange := [one for one in wanted if not inside[one]]:
            known = list(dict.fromkeys(name.rpartition(".")[0] for name in model.params if "." in name))
            raise UsageError(
                f"{method}: layers={layers}: {listed(strange, len(strange))} is no module with trainable parameters; those are "
                f"{listed(known, len(known))}; join several by +, or choose all or head."
            )
        return tuple(name for name in model.params if any(name in names for names in inside.values()))
    names = tuple(model.params) if layers == "all" else model.head
    if not names:
        raise UsageError(
            f"{method}: layers=head needs a model with a trainable linear layer that makes its logits by itself; choose layers=all."
        )
    return names


@dataclasses.dataclass(frozen=True)
class StepSizes:
    """How far some steps of a training went along a gradient of the mean loss that stays the same.

    Attributes:
        sizes: For each parameter, the sum over the steps of the learning rate, over 1 - momentum where there is momentum.
        assumptions: What is taken for granted in this and does not hold of these steps, a sentence each.
    """

    sizes: Mapping[str, float]
    assumptions: tuple[str, ...] = ()


@runtime_checkable
class ModelSource(Protocol):
    """The models that a run kept."""

    kept: tuple[int, ...]
    """Epochs whose model is kept, increasing; -1 is among them if the state before training is kept."""
    targets: tuple[str, ...]
    """Names of the targets: numbers whose change can be asked for."""

    def queries(self, name: str) -> Queries:
        """The rows of a target that is a mean of losses.

        Raises:
            UnknownName: There is no such target.
            UsageError: The target is a function of the model, which has no rows, or it cannot be computed.
        """
        ...

    def at(self, epoch: int) -> Model:
        """The model at the end of one of the `kept` epochs."""
        ...

    def step_sizes(self, epochs: range) -> StepSizes:
        """How far the steps of these epochs went along the gradient of the mean loss, by their recorded rates; no step is replayed.

        Raises:
            UsageError: The optimizer did not move once per batch, so that the rates of its moves are not known.
        """
        ...

    def final_probs(self) -> Float[Tensor, "examples classes"]:
        """Softmax probabilities of each example by the last checkpoint."""
        ...


def head_factors(batches: Iterator[Batch], names: Sequence[str]) -> OuterVectors | None:
    """The gradients of the examples' losses with respect to the parameters of one linear layer, as outer products.

    Args:
        batches: The examples.
        names: Parameters of that layer (see `Model.head`).

    Returns:
        On the CPU, in the order of the batches; None where a gradient is a sum of several products, as over tokens, or is not made of those of one
        call of one layer.
    """
    left, right = [], []
    for batch in batches:
        try:
            pairs = list(batch.layer_pairs(names))
        except UsageError:
            return None
        if len({pair.matrix.layer for pair in pairs}) != 1 or any(pair.gradients.shape[1:3] != (1, 1) for pair in pairs):
            return None
        if any(pair.matrix.indexed for pair in pairs):
            return None
        left += [pair.inputs[:, 0, 0].to("cpu", copy=True) for pair in pairs]
        right += [pair.gradients[:, 0, 0].to("cpu", copy=True) for pair in pairs]
    return OuterVectors(torch.cat(left), torch.cat(right))
