"""A model with its loss per example as a function of the parameters: what derivatives are taken of."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import NoGaussNewton, UsageError, listed
from ..maths import curvature
from ..maths.derivatives import (
    CHUNK_BYTES,
    called_with,
    check_independent_examples,
    directional,
    example_gradients,
    mask_padding_rows,
)
from ..maths.differentiable import written_out
from ..maths.layer_pairs import LayerPair, layer_pairs
from ..maths.layer_rules import ProductConfig, Products, example_products
from ..maths.params import Params
from ..training.batches import rows, size_of, without_rows
from ..training.device import mode
from ..training.step import trainable
from .batch_norm import DoubleBackward
from .losses import (
    Forward,
    Losses,
    WeightedBatch,
    WeightedLosses,
    cross_entropies,
    forward_pair,
    is_cross_entropies,
    losses_without_weights,
    pair,
    without_weights,
)

CONVEX = 1e-5
"""Size of a negative second derivative, as a part of the largest, that rounding explains."""
SAME = 1e-2
"""How far a loss may be from itself in another order of the rows, times 1 + the loss: what kernels of 16 bits differ by."""


def _by_class(logits: Any, batch: int) -> Tensor:
    """Outputs, if they are logits of at least two classes for each example."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"The model's outputs ({shape}) are not (batch, classes) with at least two classes, so there are no logits."
        )
    return logits


@dataclasses.dataclass(frozen=True)
class _Scaled:
    losses: Losses
    factor: float

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        return self.factor * self.losses(model, batch)


class _Objective(nn.Module):
    """The losses as a module, so that parameters can be put in for one call, also where the losses read them directly."""

    def __init__(self, model: nn.Module, losses: Losses):
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, batch: Any) -> Tensor:
        values = self.losses(self.model, batch)
        columns = isinstance(self.losses, _Pulled) and values.ndim == 2
        if not isinstance(values, Tensor) or (values.ndim != 1 and not columns) or len(values) != size_of(batch):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(f"losses returned {shape} for a batch of {size_of(batch)}; return the loss of each example.")
        return values


class _Predicting(nn.Module):
    """The forward pass of a batch as a module, so that parameters can be put in for one call."""

    def __init__(self, model: nn.Module, forward: Forward):
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, batch: Any) -> tuple[Any, Tensor]:
        both = self._forward(self.model, without_weights(batch))
        if not isinstance(both, tuple) or len(both) != 2 or not isinstance(both[1], Tensor) or both[1].shape != (size_of(batch),):
            raise UsageError(
                "forward= does not return (logits, labels), a row of logits and a class for each example; let it return both of its batch."
            )
        return both


class _Cotangents(NamedTuple):
    """A batch and a factor of each output.

    Attributes:
        batch: The batch as the losses take it.
        cotangents: (batch, outputs).
    """

    batch: Any
    cotangents: Tensor


@dataclasses.dataclass(frozen=True)
class _Pulled:
    """<cotangents_i, outputs_i> in the losses' place."""

    losses: Losses
    forward: Forward

    def __call__(self, model: nn.Module, batch: _Cotangents) -> Tensor:
        found = _flat(_outputs(model, self.losses, self.forward, batch.batch))
        if found.shape != batch.cotangents.shape[:2]:
            raise UsageError(f"Cotangents of shape {tuple(batch.cotangents.shape)} do not fit outputs of {tuple(found.shape)}.")
        pulls = batch.cotangents.to(found)
        return (found * pulls).sum(1) if pulls.ndim == 2 else torch.einsum("bo,boc->bc", found, pulls)


class _Met(Exception):
    """The tensor that a pass was run for has been seen."""


class _Rows(nn.Module):
    """The losses of some rows of one batch, chosen by number."""

    def __init__(self, objective: _Objective, batch: Any):
        super().__init__()
        self.model, self.batch = objective.model, batch
        self._losses = objective.losses

    def forward(self, index: Tensor) -> Tensor:
        return self._losses(self.model, rows(self.batch, index))


class _Among(_Rows):
    """The losses of some rows of one batch, all of which is gone through each time."""

    def forward(self, index: Tensor) -> Tensor:
        return self._losses(self.model, self.batch)[index]


@contextlib.contextmanager
def _two_derivatives(what: str) -> Iterator[None]:
    """Turn the error of torch on an operation without such a derivative into one that says so.

    Raises:
        UsageError: torch cannot differentiate an operation.
    """
    try:
        yield
    except NotImplementedError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        raise UsageError(
            f"The products with {what} need derivatives that this model does not have: {reason}. Choose a method that asks for gradients "
            "only, such as tracin."
        ) from error


class Functional:
    """A model whose parameters and buffers are arguments.

    Attributes:
        model: Only its structure and modes count, and its own tensors for parameters and buffers that a call does not give.
        losses: The loss of each example of a batch.
        forward: The logits and labels of a batch.
        names: The trainable parameters.
    """

    def __init__(self, model: nn.Module, losses: Losses = cross_entropies, forward: Forward = forward_pair):
        self.model, self.losses, self.forward = model, losses, forward
        self._by_rule: dict[tuple[str, ...], bool] = {}
        self._pulled: Functional | None = None
        self._splits = False
        self.names = tuple(trainable(model))
        self._objective = _Objective(model, losses)
        self._predicting = _Predicting(model, forward)

    def of(self, model: nn.Module) -> "Functional":
        """The same losses and forward pass of another model of this structure."""
        return Functional(model, self.losses, self.forward)

    def scaled(self, factor: float) -> "Functional":
        """The same with every loss multiplied by a number."""
        return Functional(self.model, _Scaled(self.losses, factor), self.forward)

    def __call__(self, params: Params, buffers: Params, batch: Any, *, training: bool = False) -> Tensor:
        """The losses of a batch, differentiable with respect to `params`; buffers stay as they are."""
        with mode(self.model, training), written_out():
            return called_with(self._objective, _prefixed({**_copied(buffers), **params}), batch)

    def with_statistics(
        self, params: Params, buffers: Params, batch: Any, *, valued: bool = True
    ) -> tuple[Tensor, dict[str, list[tuple[float, Tensor]]]]:
        """Losses in train mode, and BatchNorm's batch statistics: (momentum, statistic) of each call, by the name of the running statistic.

        Both are differentiable twice, not in forward mode.

        Args:
            params, buffers, batch: As in a call of this object.
            valued: Whether the first derivatives with respect to the parameters are read, and not only differentiated again
                (`maths.double_backward.conv2d`).
        """
        return self._seen(self._objective, params, buffers, batch, valued)

    def split_with_statistics(
        self, params: Params, buffers: Params, batch: Any
    ) -> tuple[list[Tensor], list[Tensor], Tensor, dict[str, list[tuple[float, Tensor]]]]:
        """What the losses are a function of, in train mode, differentiable by the parameters; the same numbers apart from what made them; and as
        functions of these, the losses; and the batch statistics (see `with_statistics`).

        That is the logits where the losses are cross-entropies of them, else what the model returns with a row for each example.

        Raises:
            UsageError: The losses are no function of what the model returns once.
        """
        if is_cross_entropies(_unscaled(self.losses)):
            (logits, labels), seen = self._seen(self._predicting, params, buffers, batch, valued=False)
            logits = _by_class(logits, size_of(batch))
            apart = logits.detach().requires_grad_()
            values = F.cross_entropy(apart, labels, reduction="none")
            return [logits], [apart], values * self.factors(batch).to(values), seen
        outputs: list[Tensor] = []
        copies: list[Tensor] = []

        def taken_apart(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            given = tuple(part.detach().requires_grad_() if part.requires_grad else part for part in parts)
            outputs.extend(part for part in parts if part.requires_grad)
            copies.extend(part for part, whole in zip(given, parts, strict=True) if whole.requires_grad)
            return given

        with _returned(self.model, size_of(batch), taken_apart):
            values, seen = self._seen(self._objective, params, buffers, batch, valued=False)
        return outputs, copies, values, seen

    def factors(self, batch: Any) -> Tensor:
        """What each example's loss is multiplied by: its weight, and what the losses are `scaled` by.

        Returns:
            One per example, 1 for losses as they are.
        """
        factors, losses = torch.ones(size_of(batch), dtype=torch.float64), self.losses
        while isinstance(losses, (_Scaled, WeightedLosses)):
            if isinstance(losses, _Scaled):
                factors = factors * losses.factor
            elif isinstance(batch, WeightedBatch):
                factors = factors * batch.weights.to(factors)
            losses = losses.losses
        return factors

    def _seen(
        self, module: nn.Module, params: Params, buffers: Params, batch: Any, valued: bool
    ) -> tuple[Any, dict[str, list[tuple[float, Tensor]]]]:
        watch = DoubleBackward(buffers, valued)
        with contextlib.ExitStack() as stack:
            stack.enter_context(mode(self.model, True))
            stack.enter_context(written_out())
            for name, layer in self.model.named_modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training and layer.track_running_stats:
                    prefix = f"{name}." if name else ""
                    stack.callback(layer.register_forward_pre_hook(functools.partial(watch.enter, prefix)).remove)
            stack.enter_context(watch)
            return called_with(module, _prefixed({**_copied(buffers), **params}), batch), watch.seen

    def takes_rows_apart(self, params: Params, buffers: Params, batch: Any) -> bool:
        """Whether an example evaluated alone has the same loss as in its batch; not so where the losses read a part of the batch without rows."""
        if not without_rows(batch):
            return True
        turned = torch.arange(size_of(batch)).roll(1)
        with torch.no_grad():
            losses = self(params, buffers, batch).to("cpu", torch.float64)[turned]
            moved = self(params, buffers, rows(batch, turned)).to("cpu", torch.float64)
        return bool(((losses - moved).abs() <= SAME * (1 + losses.abs())).all())

    def check_rows(self, params: Params, buffers: Params, batch: Any) -> None:
        """Refuse a batch from which single examples cannot be left out.

        Raises:
            UsageError: The losses read a part of the batch that has no row for each example.
        """
        if not self.takes_rows_apart(params, buffers, batch):
            parts = [f"{path} ({kind})" for path, kind in without_rows(batch).items()]
            raise UsageError(
                f"The losses read a part of the batch that has no row for each example, so none can be left out of it: {listed(parts, len(parts))}. "
                "Let collate_fn make a tensor of it, with a row for each example, or choose form=weight."
            )

    def grad_dots(self, params: Params, buffers: Params, batch: Any, direction: Params) -> tuple[Tensor, str]:
        """Inner product of a direction with the gradient of each example's loss, in eval mode, and how it was computed."""
        here = {name: params[name] for name in direction}
        found = directional(lambda at: self({**params, **at}, buffers, batch), here, mask_padding_rows(self.model, direction))
        return found.grad_dots, f"grad_dots: {found.way}"

    def products(
        self, params: Params, buffers: Params, batch: Any, names: tuple[str, ...], direction: Params | None
    ) -> tuple[Products, str]:
        """<direction, grad l_i> and |grad l_i|^2 of each example by named parameter, in eval mode, and how they were computed.

        Raises:
            UsageError: Normalisation couples the examples even in eval mode.
        """
        apart = self.takes_rows_apart(params, buffers, batch)
        module, at, inputs, targets, loss = self._by_example(params, batch, apart)
        prefix = "" if module is self.model else "model."
        with contextlib.ExitStack() as stack:
            stack.enter_context(mode(self.model, False))
            stack.enter_context(torch.enable_grad())
            try:
                found = example_products(
                    module,
                    at,
                    inputs,
                    targets,
                    loss,
                    direction=None if direction is None else {f"{prefix}{name}": direction[name] for name in names},
                    names=tuple(f"{prefix}{name}" for name in names),
                    config=ProductConfig(
                        buffers={f"{prefix}{name}": value for name, value in buffers.items()},
                        trust=self._by_rule.get(names),
                        chunk_bytes=CHUNK_BYTES if apart else max(CHUNK_BYTES // len(inputs), 1),
                    ),
                )
            except ValueError as error:
                raise UsageError(str(error)) from error
        self._by_rule[names] = found.from_layer_rules
        way = "gradients in chunks of examples" if found.materialised else "norms by layer"
        norms, dots = (
            {name.removeprefix(prefix): v for name, v in part.items()} for part in (found.grad_sq_norms, found.grad_dots)
        )
        return Products(norms, dots, found.materialised, found.from_layer_rules), way

    def grads(
        self, params: Params, buffers: Params, batch: Any, names: tuple[str, ...], chunk_bytes: int | None = None
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Gradients of the examples' losses with respect to named parameters, in eval mode, in chunks: rows of the batch, and (chunk, *shape) by name.

        Raises:
            UsageError: Normalisation couples the examples even in eval mode.
        """
        apart = self.takes_rows_apart(params, buffers, batch)
        module, at, inputs, targets, loss = self._by_example(params, batch, apart)
        prefix = "" if module is self.model else "model."
        chunks = example_gradients(
            module,
            at,
            inputs,
            targets,
            loss,
            names=tuple(f"{prefix}{name}" for name in names),
            buffers={f"{prefix}{name}": value for name, value in buffers.items()},
            chunk_bytes=(chunk_bytes or CHUNK_BYTES) if apart else CHUNK_BYTES // len(inputs),
        )
        while True:
            # Between two chunks the model is as it was found: the reader may stop here, or read something else of it.
            with mode(self.model, False), torch.enable_grad():
                try:
                    found = next(chunks, None)
                except ValueError as error:
                    raise UsageError(str(error)) from error
            if found is None:
                return
            start, part = found
            rows_ = slice(start, start + len(next(iter(part.values()))))
            yield rows_, {name.removeprefix(prefix): value for name, value in part.items()}

    def layer_pairs(self, params: Params, buffers: Params, batch: Any, names: Sequence[str]) -> Iterator[LayerPair]:
        """Inputs and output gradients of each layer that has some of these parameters, in eval mode, in chunks of examples.

        Raises:
            UsageError: A parameter's gradient is not made of those of one layer, or normalisation couples the examples even in eval mode.
        """
        with mode(self.model, False):
            try:
                return layer_pairs(self.model, lambda at: self({**params, **at}, buffers, batch), params, names)
            except ValueError as error:
                raise UsageError(str(error)) from error

    def pulled(self, batch: Any, cotangents: Tensor | None) -> "tuple[Functional, Any]":
        """The batch with <cotangents_i, outputs_i> in the place of each loss, and what computes that; both as they are for None.

        The outputs are those of `output_derivatives`.
        """
        if cotangents is None:
            return self, batch
        if self._pulled is None:
            self._pulled = Functional(self.model, _Pulled(self.losses, self.forward), self.forward)
        # Rows are chosen of them where the model is.
        return self._pulled, _Cotangents(batch, cotangents.to(next(self.model.parameters()).device))

    def output_derivatives(self, params: Params, buffers: Params, batch: Any) -> tuple[Tensor, Tensor]:
        """Derivatives of each loss with respect to the outputs that it is computed from, in eval mode.

        The outputs are the logits where the losses are cross-entropies, else all numbers that the model returns for an example.

        Returns:
            The first derivatives, (batch, outputs), and a square root R of the second, R R' = H, (batch, outputs, columns).

        Raises:
            UsageError: The losses are no function of what the model returns, or not convex in it.
        """
        held = {name: value.detach() for name, value in params.items()}
        if is_cross_entropies(losses_without_weights(self.losses, batch)):
            with torch.no_grad():
                logits, labels = self._labelled(held, buffers, batch)
                probs = _by_class(logits, size_of(batch)).softmax(1)
                first = probs - F.one_hot(labels.to(probs.device, torch.int64), probs.shape[1])
                root = -probs[:, :, None] * probs.sqrt()[:, None, :]
                root.diagonal(dim1=1, dim2=2).add_(probs.sqrt())
                return first, root
        self._check_split(held, buffers, batch)
        with torch.enable_grad(), _two_derivatives("the Hessian by the outputs"):
            parts = [value.detach() for value in self._split(held, buffers, batch)[0]]
            flat = _flat(parts).requires_grad_()
            pieces = flat.split([value[0].numel() for value in parts], 1)
            instead = [piece.reshape(value.shape) for piece, value in zip(pieces, parts, strict=True)]
            losses = self._split(held, buffers, batch, instead)[1]
            (first,) = torch.autograd.grad(losses.sum(), [flat], create_graph=True)
            if not first.requires_grad:
                return first.detach(), flat.new_zeros(*flat.shape, 1)
            rows_ = [
                torch.autograd.grad(column.sum(), [flat], retain_graph=True, materialize_grads=True)[0] for column in first.T
            ]
        values, vectors = torch.linalg.eigh(torch.stack(rows_, 1).to(torch.float64))
        if bool((values < -CONVEX * values.abs().amax()).any()):
            raise NoGaussNewton(
                f"A loss is not convex in the outputs of the model: its smallest second derivative is {float(values.min()):.3g}, so that there is no "
                "square root of it; give losses= that are convex in the outputs, as cross-entropy is."
            )
        return first.detach(), (vectors * values.clamp(min=0).sqrt()[:, None, :]).to(flat.dtype)

    def outputs(self, params: Params, buffers: Params, batch: Any) -> Tensor:
        """Logits of a batch in eval mode, differentiable with respect to `params`.

        Raises:
            UsageError: There is not one logit per class for each example, or the batch is not (inputs, labels) and there is no `forward`.
        """
        return _by_class(self._labelled(params, buffers, batch)[0], size_of(batch))

    def hvp(self, params: Params, buffers: Params, batch: Any, direction: Params) -> dict[str, Tensor]:
        """Hessian of the sum of the losses in eval mode, with respect to the parameters that the direction names, times the direction.

        Raises:
            UsageError: The losses cannot be differentiated twice.
        """
        with _two_derivatives("the Hessian"):
            return curvature.hvp(lambda at: self({**params, **at}, buffers, batch), params, direction)

    def ggnvp(self, params: Params, buffers: Params, batch: Any, direction: Params) -> dict[str, Tensor]:
        """Gauss-Newton matrix of the sum of the losses in eval mode, with respect to the parameters that the direction names, times the direction.

        The losses count as a function of the logits where they are cross-entropies of the logits, else as one of what the model returns.

        Raises:
            UsageError: The losses are no function of what the model returns, or cannot be differentiated.
        """
        direction = mask_padding_rows(self.model, direction)
        if is_cross_entropies(losses_without_weights(self.losses, batch)):
            labels: list[Tensor] = []

            def logits(at: dict[str, Tensor]) -> tuple[Tensor, ...]:
                values, given = self._labelled({**params, **at}, buffers, batch)
                labels.append(given)
                return (values,)

            def losses_of(values: Sequence[Tensor]) -> Tensor:
                return F.cross_entropy(values[0], labels[0], reduction="none")

            with _two_derivatives("Gauss-Newton's matrix"):
                return curvature.ggnvp(logits, losses_of, params, direction)
        self._check_split(params, buffers, batch)
        with _two_derivatives("Gauss-Newton's matrix"):
            return curvature.ggnvp(
                lambda at: self._split({**params, **at}, buffers, batch)[0],
                lambda values: self._split(params, buffers, batch, values)[1],
                params,
                direction,
            )

    def _labelled(self, params: Params, buffers: Params, batch: Any) -> tuple[Any, Tensor]:
        with mode(self.model, False), written_out():
            return called_with(self._predicting, _prefixed({**_copied(buffers), **params}), batch)

    def _split(
        self, params: Params, buffers: Params, batch: Any, instead: Sequence[Tensor] | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """What the model returns to the losses, row by row, and the losses; with others in the place of what it returns."""
        met: list[tuple[Tensor, ...]] = []

        def noted(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            met.append(parts)
            return parts if instead is None else tuple(instead)

        with _returned(self.model, size_of(batch), noted):
            losses = self(params, buffers, batch)
        return met[0], losses

    def _check_split(self, params: Params, buffers: Params, batch: Any) -> None:
        if self._splits:
            return
        with torch.enable_grad():
            at = {name: value.detach().requires_grad_() for name, value in params.items()}
            outputs, _ = self._split(params, buffers, batch)
            _, losses = self._split(at, buffers, batch, [value.detach() for value in outputs])
        if losses.requires_grad:
            raise NoGaussNewton(
                "The losses read parameters beside what the model returns, such as a regulariser does, so they are no function of its outputs, "
                "and there is no Gauss-Newton matrix; leave that part to the optimizer's weight_decay."
            )
        self._splits = True

    def predicted(self, params: Params, buffers: Params, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits and labels of a batch in eval mode, without gradients.

        Raises:
            UsageError: There is not one logit per class for each example, or the batch is not (inputs, labels) and there is no `forward`.
        """
        with mode(self.model, False), torch.no_grad():
            logits, labels = called_with(self._predicting, _prefixed({**_copied(buffers), **params}), batch)
            return _by_class(logits, size_of(batch)), labels

    def inputs(self, params: Params, buffers: Params, batch: Any) -> Tensor:
        """The model's input for a batch: the first floating-point tensor with a row for each example, else the first integer tensor.

        Raises:
            UsageError: The model is given no tensor with a row for each example.
        """
        if self.forward is forward_pair:
            return pair(without_weights(batch))[0]
        met: list[Tensor] = []

        def entered(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            met.extend(_given((args, kwargs), size_of(batch)))
            raise _Met

        with contextlib.ExitStack() as stack:
            stack.enter_context(mode(self.model, False))
            stack.enter_context(torch.no_grad())
            stack.callback(self.model.register_forward_pre_hook(entered, with_kwargs=True).remove)
            stack.enter_context(contextlib.suppress(_Met))
            called_with(self._predicting, _prefixed({**_copied(buffers), **params}), batch)
        if not met:
            raise UsageError(
                "forward= gives the model no tensor with a row for each example, so there is no input to look at; let it call model(...) "
                "with such a tensor."
            )
        return met[0]

    def input_gradients(self, params: Params, buffers: Params, batch: Any) -> Tensor:
        """Gradient of the logit of each example's label with respect to its input, in eval mode; for tokens, with respect to their embeddings.

        The input is the first floating-point tensor with a row for each example that the model is called with, else the first integer tensor.

        Raises:
            UsageError: A batch is not (inputs, labels) and there is no `forward`, outputs are not one logit per class, the input is whole numbers
                that no embedding layer takes, or normalisation couples the examples even in eval mode.
        """
        size = size_of(batch)
        leaves: list[Tensor] = []
        tokens: list[Tensor] = []

        def entered(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if leaves or tokens:
                return None
            given = _given((args, kwargs), size)
            if not given or not given[0].is_floating_point():
                tokens.extend(given)
                return None
            leaves.append(given[0].detach().clone().requires_grad_())
            return pytree.tree_map(lambda part: leaves[0] if part is given[0] else part, (args, kwargs))

        def embedded(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            known = args and any(args[0].shape == one.shape and torch.equal(args[0], one) for one in tokens)
            if leaves or not known:
                return None
            leaves.append(output.detach().requires_grad_())
            return leaves[0]

        with contextlib.ExitStack() as stack:
            stack.enter_context(mode(self.model, False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(written_out())
            try:
                check_independent_examples(self.model)
            except ValueError as error:
                raise UsageError(str(error)) from error
            stack.callback(self.model.register_forward_pre_hook(entered, with_kwargs=True).remove)
            for layer in self.model.modules():
                if isinstance(layer, nn.Embedding):
                    stack.callback(layer.register_forward_hook(embedded).remove)
            held = {name: value.detach() for name, value in params.items()}
            logits, labels = called_with(self._predicting, _prefixed({**_copied(buffers), **held}), batch)
            logits = _by_class(logits, size)
            if not leaves:
                raise UsageError(
                    "The inputs are whole numbers and no nn.Embedding takes them, so there is nothing to differentiate by."
                )
            picked = logits.gather(1, labels.to(logits.device, torch.int64)[:, None]).sum()
            (gradients,) = torch.autograd.grad(picked, leaves, materialize_grads=True)
        return gradients

    def _by_example(
        self, params: Params, batch: Any, apart: bool
    ) -> tuple[nn.Module, Params, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """Module, parameters, inputs, targets and loss, as `maths.derivatives` takes a batch apart."""
        plain = losses_without_weights(self.losses, batch) is cross_entropies
        if plain and isinstance(batch, (tuple, list)) and len(batch) == 2:
            inputs, labels = batch
            return self.model, params, inputs, labels, _cross_entropy
        index = torch.arange(size_of(batch), device=next(iter(params.values())).device)
        return (_Rows if apart else _Among)(self._objective, batch), _prefixed(params), index, index, _first


@contextlib.contextmanager
def _returned(model: nn.Module, size: int, instead: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Iterator[None]:
    """A context manager inside which the losses get `instead` of the parts that the model returns with a row for each example.

    Raises:
        UsageError: At its end, if the model was not called once, or returned no such part.
    """
    calls: list[int] = []

    def left(model: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        parts, spec = pytree.tree_flatten(output)
        places = [
            place
            for place, part in enumerate(parts)
            if isinstance(part, Tensor) and part.is_floating_point() and part.ndim and len(part) == size
        ]
        calls.append(len(places))
        for place, part in zip(places, instead(tuple(parts[place] for place in places)), strict=True):
            parts[place] = part
        return pytree.tree_unflatten(parts, spec)

    handle = model.register_forward_hook(left)
    try:
        yield
    finally:
        handle.remove()
    if len(calls) != 1 or not calls[0]:
        what = (
            f"call the model {len(calls)} times" if len(calls) != 1 else "get nothing from the model with a row for each example"
        )
        raise NoGaussNewton(
            f"The losses {what}, so they are no function of one set of outputs, and there is no Gauss-Newton matrix; let losses(model, batch) "
            "call model(...) once."
        )


def _outputs(model: nn.Module, losses: Losses, forward: Forward, batch: Any) -> tuple[Tensor, ...]:
    """What the losses of a batch are computed from: the logits of cross-entropies, else what the model returns."""
    if is_cross_entropies(losses_without_weights(losses, batch)):
        return (_by_class(forward(model, without_weights(batch))[0], size_of(batch)),)
    met: list[tuple[Tensor, ...]] = []

    def noted(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        met.append(parts)
        return parts

    with _returned(model, size_of(batch), noted):
        losses(model, batch)
    return met[0]


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """One row of numbers for each example."""
    return torch.cat([part.flatten(1) if part.ndim > 1 else part[:, None] for part in parts], 1)


def _unscaled(losses: Losses) -> Losses:
    """The losses before any weight or factor."""
    while isinstance(losses, (_Scaled, WeightedLosses)):
        losses = losses.losses
    return losses


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _first(values: Tensor, _: Tensor) -> Tensor:
    return values


def _given(arguments: Any, size: int) -> list[Tensor]:
    """The tensors with a row for each example among arguments, those of numbers first."""
    tensors = [part for part in pytree.tree_leaves(arguments) if isinstance(part, Tensor) and part.ndim and len(part) == size]
    return sorted(tensors, key=lambda part: not part.is_floating_point())


def _prefixed(params: Params) -> dict[str, Tensor]:
    return {f"model.{name}": value for name, value in params.items()}


def _copied(buffers: Params) -> dict[str, Tensor]:
    # The model writes into the buffers that it is given.
    return {name: value.clone() for name, value in buffers.items()}
