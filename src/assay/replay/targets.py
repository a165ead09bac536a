"""Targets: the numbers whose change is predicted, and their gradients."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import AssayError, NumericalError, UsageError
from ..core.ids import Ids
from ..core.lineage import fingerprint
from ..core.models import Queries
from ..data.examples import Examples
from ..maths.differentiable import written_out
from ..runs.content import bytes_of
from ..training.device import mode
from .batch_norm import differentiable_statistics, running_statistics
from .losses import Losses
from .replayable import ReplayableTraining

Target = Callable[[nn.Module], Iterator[Tensor]]
"""From the model in eval mode to numbers that add up to the target; several, so that one graph need not hold all examples."""


def parts_of_target(target: Target, model: nn.Module, name: str) -> Iterator[Tensor]:
    """The numbers that add up to a target.

    Raises:
        UsageError: The target cannot be computed, or is no single number.
    """
    try:
        for part in target(model):
            if not isinstance(part, Tensor) or part.ndim or not part.is_floating_point():
                raise UsageError(f"Target {name!r} is no single number; return a scalar tensor.")
            yield part
    except AssayError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        raise UsageError(
            f"Target {name!r} cannot be computed: {reason}. Give inputs and labels as the model takes them."
        ) from error


def target_gradient(
    training: ReplayableTraining, target: Target, name: str, *, statistics: bool = True
) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Value of a target, and its derivative with respect to the trainable parameters and the running statistics.

    Args:
        training: The model, as it stands.
        target: The target.
        name: Its name, for messages.
        statistics: Whether to differentiate by the running statistics too, for which batch normalisation is written out.

    Raises:
        UsageError: The target does not depend on the parameters.
        NumericalError: It is not finite.
    """
    model = training.model
    buffers = running_statistics(model) if statistics else {}
    leaves = {n: p for n, p in model.named_parameters() if n in training.functional.names}
    total: dict[str, Tensor] = {}
    value = 0.0
    depends = False
    by_statistics = differentiable_statistics() if statistics else contextlib.nullcontext()
    with mode(model, False), torch.enable_grad(), written_out(), by_statistics:
        try:
            for buffer in buffers.values():
                buffer.requires_grad_()
            for part in parts_of_target(target, model, name):
                value += float(part.detach())
                if not part.requires_grad:
                    continue
                wanted = [*leaves.values(), *buffers.values()]
                found = torch.autograd.grad(part, wanted, allow_unused=True)
                for key, leaf, gradient in zip([*leaves, *buffers], wanted, found, strict=True):
                    depends = depends or (key in leaves and gradient is not None)
                    gradient = torch.zeros_like(leaf) if gradient is None else gradient
                    total[key] = total[key] + gradient if key in total else gradient
        finally:
            for buffer in buffers.values():
                buffer.requires_grad_(False)
    if not depends:
        raise UsageError(f"Target {name!r} does not depend on any trainable parameter of the model; nothing could change it.")
    if not value < float("inf") or value != value:
        raise NumericalError(f"Target {name!r} is {value}; the model has diverged.")
    return value, {n: total[n] for n in leaves}, {n: total[n] for n in buffers}


PART = 128
"""Examples of a target in one graph."""
Function = Callable[[nn.Module], Tensor]
"""From the model (in eval mode) to one number."""
Given = Function | Examples | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""A target: a function, or examples, or inputs and labels (and a weight for each), whose weighted mean of cross-entropies is taken."""


@dataclasses.dataclass(frozen=True, eq=False)
class MeanLoss:
    """Weighted mean of the cross-entropies of some examples, in nats; or of other losses, in their own unit.

    Attributes:
        inputs: Inputs in the form that the net takes, or that `prepare` takes.
        labels: Class of each; or whatever `by` reads beside the inputs, a row for each.
        weights: Weight of each example; the weights are divided by their sum.
        prepare: Turns a part of the inputs into what the net takes.
        ids: Of the examples, where they have any.
        trained_on: Whether the examples may be trained on: the loss of a training example itself is asked for.
        by: The loss of each example of a batch `(inputs, labels)`, for a run that records losses; None for cross-entropies.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor
    prepare: Callable[[Tensor], Tensor] | None = None
    ids: Ids | None = None
    trained_on: bool = False
    by: Losses | None = None

    @property
    def queries(self) -> Queries:
        """The examples as rows that are predicted for; the label of one that has no class is -1."""
        ids = Ids(range(len(self.labels))) if self.ids is None else self.ids
        labels = self.labels.cpu().to(torch.int64) if self.by is None else torch.full((len(self.labels),), -1)
        return Queries(ids, labels, (self.weights / self.weights.sum()).cpu())

    def batch(self, part: slice | Tensor, model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some of the examples, as the losses take them."""
        labels = self.labels[part].to(device)
        return self.ready(self.inputs[part].to(device), model), labels.to(torch.int64) if self.by is None else labels

    def __call__(self, model: nn.Module) -> Iterator[Tensor]:
        for losses, weights in zip(self.losses(model), (self.weights / self.weights.sum()).split(PART), strict=True):
            yield (losses * weights.to(losses)).sum()

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """The loss of each row, in parts.

        Raises:
            UsageError: The model gives no row of class logits per example.
        """
        device = next(model.parameters()).device
        for start in range(0, len(self.inputs), PART):
            part = slice(start, start + PART)
            inputs, labels = self.batch(part, model, device)
            if self.by is not None:
                yield self._own(self.by(model, (inputs, labels)), len(labels))
                continue
            logits = model(inputs)
            if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
                shape = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
                raise UsageError(
                    f"The model returned {shape} for inputs and labels of a target; where it gives no row of class logits "
                    "per example, give a function of the model instead, or let the model return its logits, where each row is asked for."
                )
            yield F.cross_entropy(logits, labels, reduction="none")

    def _own(self, losses: Tensor, examples: int) -> Tensor:
        if not isinstance(losses, Tensor) or losses.shape != (examples,):
            shape = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
            raise UsageError(
                f"losses= gives {shape} for {examples} examples of a target (inputs, labels); let it return the loss of each, or give a function of "
                "the model as the target."
            )
        return losses

    def row(self, query: int) -> "MeanLoss":
        """The loss of one of the examples alone."""
        at = slice(query, query + 1)
        return MeanLoss(self.inputs[at], self.labels[at], torch.ones(1, dtype=torch.float64), self.prepare, by=self.by)

    def ready(self, inputs: Tensor, model: nn.Module) -> Tensor:
        """Some of the inputs as the model takes them."""
        # What assay prepares is float32, whatever the model is.
        return inputs if self.prepare is None else self.prepare(inputs).to(next(model.parameters()).dtype)

    def plain(self) -> Tensor:
        """The inputs as methods are shown those of the examples: images in 0..1, nothing subtracted."""
        scaled = self.inputs.to(torch.float32)
        return scaled / 255 if self.inputs.dtype == torch.uint8 else scaled

    def prepared(self) -> Iterator[Tensor]:
        """The inputs in parts, as the model takes them, but not yet in the model's number type."""
        for start in range(0, len(self.inputs), PART):
            part = self.inputs[start : start + PART]
            yield (part if self.prepare is None else self.prepare(part)).detach().cpu().contiguous()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that is averaged. Inputs are hashed after `prepare`, so that another normalisation gives another hash."""
        return fingerprint(
            *(part for one in self.prepared() for part in (f"{one.dtype} {tuple(one.shape)}", bytes_of(one))),
            self.labels.to(torch.int64).numpy().tobytes() if self.by is None else bytes_of(self.labels),
            self.weights.to(torch.float64).numpy().tobytes(),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MeanAccuracy:
    """Weighted fraction of examples that is predicted correctly. It is only reported: it has no derivative.

    Attributes:
        loss: The mean-loss target whose examples and weights are used.
    """

    loss: MeanLoss

    def __call__(self, model: nn.Module) -> Iterator[Tensor]:
        one, device = self.loss, next(model.parameters()).device
        right = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(one.inputs), PART):
            part = slice(start, start + PART)
            logits = model(one.ready(one.inputs[part].to(device), model))
            right += one.weights[part][logits.argmax(1).cpu() == one.labels[part].cpu()].sum()
        # One number and not one per part, so that 9 of 10 are 0.9 and not nearly so.
        yield right / one.weights.sum()


@dataclasses.dataclass(frozen=True, eq=False)
class RowLosses:
    """Sum of the cross-entropies of the rows of a mean loss, in nats; its parts are the rows, in their order.

    Attributes:
        mean: The mean-loss target whose rows are meant.
    """

    mean: MeanLoss

    def __call__(self, model: nn.Module) -> Iterator[Tensor]:
        for losses in self.mean.losses(model):
            yield from losses.unbind()


def accuracy(target: str) -> str:
    """Name of the target that gives the accuracy on the examples of `target`."""
    return f"{target} accuracy"


def row_losses(target: str) -> str:
    """Name of the target that gives the loss of each row of `target`."""
    return f"{target} row losses"


def row_losses_of(targets: Mapping[str, Target]) -> dict[str, Target]:
    """The losses of the rows of every target that is a mean loss."""
    return {row_losses(name): RowLosses(target) for name, target in targets.items() if isinstance(target, MeanLoss)}


def accuracies_of(targets: Mapping[str, Target]) -> dict[str, Target]:
    """An accuracy for every target that is a mean loss."""
    return {
        accuracy(name): MeanAccuracy(target)
        for name, target in targets.items()
        if isinstance(target, MeanLoss) and target.by is None
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Single:
    """A user's function as a target of one part."""

    function: Function

    def __call__(self, model: nn.Module) -> Iterator[Tensor]:
        yield self.function(model)


def weighted_mean(
    name: str,
    inputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    prepare: Callable[[Tensor], Tensor] | None,
    ids: Ids | None = None,
) -> MeanLoss:
    """The weighted mean loss of some examples, as a target of that name.

    Raises:
        UsageError: Inputs, labels and weights do not fit together, or no weight is above 0.
    """
    if not len(inputs) == len(labels) == len(weights) or not len(inputs):
        raise UsageError(
            f"Target {name!r}: {len(inputs)} inputs, {len(labels)} labels and {len(weights)} weights do not go together."
        )
    if not bool(weights.isfinite().all()) or not float(weights.sum()) > 0:
        raise UsageError(f"Target {name!r}: its weights must be finite and add up to more than 0.")
    return MeanLoss(inputs, labels, weights.to(torch.float64), prepare, ids)


def mean_loss(examples: Examples, name: str, weights: Tensor | None = None) -> MeanLoss:
    """The mean loss of these examples, as a target of that name.

    Raises:
        UsageError: No example has a weight.
    """
    weights = torch.ones(len(examples), dtype=torch.float64) if weights is None else weights
    if bool((weights != 0).any()):
        examples, weights = examples.take(weights != 0), weights[weights != 0]
    return weighted_mean(name, examples.inputs, examples.labels, weights, examples.prepared, examples.ids)
