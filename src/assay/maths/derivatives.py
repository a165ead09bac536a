"""Directional derivatives, Hessian products, per-example gradients and their norms: what gradient-based values are made of.

A batch enters as a function from parameters (by name) to one loss per example. It must be repeatable: with the same parameters it
returns the same numbers each time it is called, dropout and augmentation included.
"""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.grad import conv1d_weight, conv2d_weight

from .differentiable import DifferentiableOperations, every_derivative, written_out
from .params import Params

Losses = Callable[[dict[str, Tensor]], Tensor]
"""From parameters to the loss of each example of a batch, (batch,)."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""From a module's outputs and the targets to the loss of each example, (batch,)."""
Way = Literal["forward", "double backward", "one by one"]

CHUNK_BYTES = 16 * 2**20
"""How much memory one chunk of examples may take in `example_products` and `example_gradients`."""


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Derivatives of a batch's losses along one direction.

    Attributes:
        losses: (batch,), l_i at the parameters.
        slopes: (batch,), d/de l_i(params + e direction) at e = 0. Where examples do not meet inside the model this is
            <direction, grad l_i>; where they do (BatchNorm in training) it is what the weighted sum of losses changes by, by weight.
        way: `forward` (one forward-mode pass), `double backward` where an operation has no forward-mode rule, or `one by one` (a backward
            pass per example) where it has no second derivative either.
    """

    losses: Float[Tensor, " batch"]
    slopes: Float[Tensor, " batch"]
    way: Way


def directional(losses: Losses, params: Params, direction: Params) -> Slopes:
    """The slope of every example's loss along `direction`: one forward-mode pass, and no (batch x params) matrix.

    Forward mode knows nothing of gradients that torch withholds: give a direction that is 0 where they are (`withheld`).

    Args:
        losses: The batch.
        params: Where to differentiate, by name.
        direction: The same names and shapes.
    """
    at, along = _detached(params), _detached(direction)
    try:
        with every_derivative():
            values, slopes = jvp(losses, (at,), (along,))  # type: ignore[misc]
        return Slopes(values.detach(), slopes.detach(), "forward")
    except torch.OutOfMemoryError:
        # The other ways take more.
        raise
    except (NotImplementedError, RuntimeError):
        # What is wrong with the batch itself raises here again.
        try:
            return _backward_twice(losses, at, along)
        except NotImplementedError:
            return _each_backward(losses, at, along)


def withheld(module: nn.Module, direction: Params) -> dict[str, Tensor]:
    """`direction` with 0 where torch gives no gradient though the output depends on it: the padding rows of embeddings."""
    kept = dict(direction)
    for prefix, layer in module.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.padding_idx is not None and name in kept:
            kept[name] = kept[name].index_fill(0, torch.tensor(layer.padding_idx, device=kept[name].device), 0)
    return kept


def _backward_twice(losses: Losses, at: dict[str, Tensor], along: dict[str, Tensor]) -> Slopes:
    with torch.enable_grad(), every_derivative(), DifferentiableOperations():
        leaves = {name: value.requires_grad_() for name, value in at.items()}
        values = losses(leaves)
        factors = torch.ones_like(values).requires_grad_()
        first = torch.autograd.grad((factors * values).sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        product = torch.stack([(part * along[name]).sum() for name, part in zip(leaves, first, strict=True)]).sum()
        refuse_cut(product)
        (slopes,) = torch.autograd.grad(product, factors, materialize_grads=True)
    return Slopes(values.detach(), slopes, "double backward")


def _each_backward(losses: Losses, at: dict[str, Tensor], along: dict[str, Tensor]) -> Slopes:
    with torch.enable_grad(), every_derivative():
        leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
        values = losses(leaves)
        slopes = []
        for value in values:
            found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, materialize_grads=True)
            slopes.append(torch.stack([(part * along[name]).sum() for name, part in zip(leaves, found, strict=True)]).sum())
    return Slopes(values.detach(), torch.stack(slopes), "one by one")


def refuse_cut(derivative: Tensor) -> None:
    """Refuse a first derivative that cannot be differentiated through: torch would take the share behind the cut for 0 without a word.

    Raises:
        NotImplementedError: An operation has a derivative without one of its own (`once_differentiable`).
    """
    seen, waiting = set(), [derivative.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise NotImplementedError("an operation of the model has no second derivative (its backward is once_differentiable)")
        seen.add(node)
        waiting.extend(inner for inner, _ in node.next_functions)


def _detached(params: Params) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in params.items()}


@dataclasses.dataclass(frozen=True)
class Products:
    """What each example's gradient says, by parameter, without the gradient.

    Attributes:
        squares: (batch,) each, |grad l_i|^2.
        slopes: (batch,) each, <direction, grad l_i>; empty without a direction.
        by_chunks: Names of the parameters whose gradients had to be made example by example, in chunks, because their layer has no rule.
        by_rule: Whether the rules of the other layers hold; False where an example's own gradient refuted them.
    """

    squares: dict[str, Float[Tensor, " batch"]]
    slopes: dict[str, Float[Tensor, " batch"]]
    by_chunks: tuple[str, ...]
    by_rule: bool = True


def example_products(
    module: nn.Module,
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    direction: Params | None = None,
    names: tuple[str, ...] | None = None,
    buffers: Params | None = None,
    trust: bool | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Products:
    """Squared norm of each example's gradient, and its inner product with a direction, by parameter.

    For a layer that is linear in its parameters the gradient is a sum over places of (output gradient) x (input), so both follow
    from these without the weights' gradients of the batch. Linear, Conv1d, Conv2d, Embedding, LayerNorm, GroupNorm and BatchNorm
    (eval) have such a rule; parameters of other layers, shared ones, and those of layers that are called more than once are
    differentiated example by example, in chunks. So are all of them if the rules do not give the norm of the example with the largest
    one, which is differentiated by itself: a weight may be used behind its layer's back.

    Args:
        module: Takes `inputs`; in the mode (train or eval) in which it is to be differentiated. Comes back as it was.
        params: Parameters by name, and their values; the module's other tensors stay as they are.
        inputs: (batch, ...).
        targets: (batch, ...), for `loss`.
        loss: One number per example, which depends on that example's outputs only.
        direction: By the names that are asked for; None for the norms alone.
        names: Which of `params` to differentiate by; by default those of the direction, or all.
        buffers: The module's buffers by name; those that it holds by default.
        trust: Whether the rules are right for this module and these parameters, as an earlier call found (`Products.by_rule`); None to
            find out.
        chunk_bytes: Memory of one chunk of examples.

    Raises:
        ValueError: BatchNorm in training couples the examples: their own gradients are not defined.
    """
    refuse_coupling(module)
    at = _detached(params)
    wanted = names if names is not None else tuple(at if direction is None else direction)
    along = {} if direction is None else _detached(direction)
    held = _buffers(module) if buffers is None else _detached(buffers)
    squares: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    sound = trust is not False
    if sound:
        probes = _Probes(module, wanted, along, chunk_bytes)
        with probes, torch.enable_grad(), written_out():
            # The module writes into the buffers that it is given.
            copies = {name: value.clone() for name, value in held.items()}
            values = loss(called_with(module, {**at, **copies}, inputs), targets)
        by_rule = probes.once_each()
        if by_rule:
            torch.autograd.grad(values.sum(), [probe.anchor for probe in by_rule], allow_unused=True)
            for probe in by_rule:
                squares |= probe.told(probe.squares, values)
                slopes |= probe.told(probe.slopes, values) if along else {}
            if trust is None and not _confirmed(squares, module, at, held, inputs, targets, loss):
                squares, slopes, sound = {}, {}, False
    rest = tuple(name for name in wanted if name not in squares)
    if rest:
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in rest}
        chunks = example_gradients(module, at, inputs, targets, loss, names=rest, buffers=held, chunk_bytes=chunk_bytes)
        for _, gradients in chunks:
            for name, block in gradients.items():
                # A parameter may be a single number.
                rows = block.reshape(len(block), -1)
                norms = torch.linalg.vector_norm(rows, dim=1).square()
                parts[name].append((norms, rows @ along[name].flatten() if along else norms))
        for name, pairs in parts.items():
            squares[name], found = map(torch.cat, zip(*pairs, strict=True))
            slopes |= {name: found} if along else {}
    return Products(squares, slopes, rest, sound)


def called_with(module: nn.Module, values: Params, *args: Any) -> Any:
    """What a module gives with other parameters and buffers, which it holds during this call only.

    Shared parameters, and layers that a module holds under two names, are put in once everywhere. torch's own way with them
    (`tie_weights=True`) leaves a layer with two names holding the other tensors.

    Args:
        module: Any module.
        values: By any of their names; what is not named stays.
        *args: What it is called with.
    """
    places: dict[int, list[str]] = {}
    for prefix, layer in module.named_modules():
        for name, held in (*layer._parameters.items(), *layer._buffers.items()):
            if held is not None:
                places.setdefault(id(held), []).append(f"{prefix}.{name}" if prefix else name)
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    everywhere = {place: value for name, value in values.items() if name in named for place in places[id(named[name])]}
    return functional_call(module, everywhere, args, tie_weights=False)


def example_gradients(
    module: nn.Module,
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    names: tuple[str, ...] | None = None,
    buffers: Params | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The gradient of each example's loss, in chunks of examples: (first position, {name: (chunk, *shape)}).

    Args:
        module, params, inputs, targets, loss, names, buffers, chunk_bytes: As `example_products`.

    Raises:
        ValueError: BatchNorm in training couples the examples: their own gradients are not defined.
    """
    refuse_coupling(module)
    at = _detached(params)
    wanted = {name: at[name] for name in (at if names is None else names)}
    held = _buffers(module) if buffers is None else _detached(buffers)
    fixed = {**{name: value for name, value in at.items() if name not in wanted}, **held}

    def one(here: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(called_with(module, {**fixed, **here}, x[None]), y[None])[0]

    size = max(1, chunk_bytes // max(1, sum(value.numel() * value.element_size() for value in wanted.values())))
    each = vmap(grad(one), in_dims=(None, 0, 0))
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        try:
            with every_derivative(), DifferentiableOperations(), warnings.catch_warnings():
                # How fast torch is, nobody has asked.
                warnings.filterwarnings("ignore", "There is a performance drop")
                gradients = each(wanted, x, y)
        except (NotImplementedError, RuntimeError):
            # An operation without a batching rule.
            gradients = _one_by_one(one, wanted, x, y)
        yield start, {name: block.detach() for name, block in gradients.items()}


def _confirmed(
    squares: dict[str, Tensor], module: nn.Module, at: Params, buffers: Params, inputs: Tensor, targets: Tensor, loss: Loss
) -> bool:
    """Whether the largest of the squared norms is what that example's own gradient says."""
    if not squares or not len(inputs):
        return True
    total = torch.stack(list(squares.values())).sum(0)
    place = int(total.argmax())
    here = slice(place, place + 1)
    (_, alone), *_ = example_gradients(module, at, inputs[here], targets[here], loss, names=tuple(squares), buffers=buffers)
    exact = torch.stack([block.square().sum() for block in alone.values()]).sum()
    return bool((total[place] - exact).abs() <= torch.finfo(total.dtype).eps ** 0.5 * exact)


def _one_by_one(one: Callable[..., Tensor], wanted: Params, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    rows = []
    with torch.enable_grad(), every_derivative(), DifferentiableOperations():
        for x, y in zip(inputs, targets, strict=True):
            leaves = {name: value.detach().requires_grad_() for name, value in wanted.items()}
            rows.append(torch.autograd.grad(one(leaves, x, y), list(leaves.values()), materialize_grads=True))
    return {name: torch.stack(parts) for name, parts in zip(wanted, zip(*rows, strict=True), strict=True)}


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    # The module writes into the buffers that it is given.
    return {name: value.clone() for name, value in module.named_buffers()}


def refuse_coupling(module: nn.Module) -> None:
    """Refuse a module whose outputs for one example depend on the others.

    Raises:
        ValueError: BatchNorm in training, or without running statistics.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ValueError(
                f"{name or type(layer).__name__} normalises by the batch, which couples its examples: their own gradients are not "
                "defined. Put the model into eval mode, or use directional derivatives."
            )


class _Probe:
    """One layer that has a rule: catches its input and the gradient at its output."""

    def __init__(self, layer: nn.Module, names: dict[str, str], direction: Params, chunk_bytes: int):
        self.layer, self.names, self.chunk_bytes = layer, names, chunk_bytes
        self.direction = {own: direction[full] for own, full in names.items() if full in direction}
        self.calls = 0
        self.squares: dict[str, Tensor] | None = None
        self.slopes: dict[str, Tensor] | None = None
        self.anchor: Tensor = torch.zeros(())
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self.calls += 1
        if len(args) != 1:
            # Its input was given by name.
            self.calls += 1
            return output
        self.anchor = torch.zeros((), device=output.device, requires_grad=True)
        # Those of the call, not those that the layer holds when the gradient comes back.
        self.buffers = dict(layer.named_buffers(recurse=False))
        return _Watch.apply(output, args[0], self.anchor, self)

    def take(self, inputs: Tensor, gradient: Tensor) -> None:
        rule = RULES[type(self.layer)]
        # Under autocast what enters and leaves a layer is of other types than its parameters.
        kind = getattr(self.layer, next(iter(self.names))).dtype
        inputs, gradient = (part.to(kind) if part.is_floating_point() else part for part in (inputs, gradient))
        per_example = max(1, rule.bytes(self.layer, inputs, gradient))
        size = max(1, self.chunk_bytes // per_example)
        parts = [
            rule.products(self.layer, frozenset(self.names), a, g, self.direction, self.buffers)
            for a, g in zip(inputs.split(size), gradient.split(size), strict=True)
        ]
        self.squares = {own: torch.cat([part[own][0] for part in parts]) for own in self.names}
        self.slopes = {own: torch.cat([part[own][1] for part in parts]) for own in self.direction}

    def told(self, found: dict[str, Tensor] | None, values: Tensor) -> dict[str, Tensor]:
        """Numbers by the parameters' full names; 0 where the loss does not reach the layer."""
        if found is None:
            return {full: torch.zeros_like(values).detach() for full in self.names.values()}
        # A layer that was given its examples along another axis says nothing about single ones.
        return {self.names[own]: value.detach() for own, value in found.items() if len(value) == len(values)}


class _Watch(torch.autograd.Function):
    """Identity whose backward hands the gradient to a probe."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, probe: _Probe) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.probe = probe
        # A copy, because an operation in place may follow, whose gradient is another.
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ctx.probe.take(ctx.saved_tensors[0], gradient)
        return gradient if ctx.needs_input_grad[0] else None, None, torch.zeros_like(ctx.probe.anchor), None


class _Probes:
    """The probes of a module, hung in for one forward pass."""

    def __init__(self, module: nn.Module, names: Iterable[str], direction: Params, chunk_bytes: int):
        asked = set(names)
        places: dict[int, int] = {}
        for layer in module.modules():
            for parameter in layer.parameters(recurse=False):
                places[id(parameter)] = places.get(id(parameter), 0) + 1
        self.probes = []
        for prefix, layer in module.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            full = {name: f"{prefix}.{name}" if prefix else name for name in own}
            # A parameter that several layers share has a gradient that no layer knows alone.
            wanted = {
                name: full[name]
                for name in own
                if name in ("weight", "bias") and full[name] in asked and places[id(own[name])] == 1
            }
            rule = RULES.get(type(layer))
            if wanted and rule is not None and rule.fits(layer):
                self.probes.append(_Probe(layer, wanted, direction, chunk_bytes))
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [probe.layer.register_forward_hook(probe) for probe in self.probes]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def once_each(self) -> list[_Probe]:
        """Those whose layer was called exactly once, so that its gradient is one sum."""
        return [probe for probe in self.probes if probe.calls == 1]


Pair = tuple[Tensor, Tensor]
"""Of each example of a chunk: |gradient|^2, and <direction, gradient>, the former once more without a direction."""


class _Rule:
    """How what one kind of layer's gradient says follows from its input and the gradient at its output."""

    def fits(self, layer: Any) -> bool:
        """Whether this very layer is one of the kind that the rule is for."""
        return True

    def bytes(self, layer: Any, inputs: Tensor, gradient: Tensor) -> int:
        """Memory that one example takes."""
        return (inputs[0].numel() + gradient[0].numel()) * gradient.element_size()

    def products(
        self, layer: Any, own: frozenset[str], inputs: Tensor, gradient: Tensor, direction: Params, buffers: Params
    ) -> dict[str, Pair]:
        """By the layer's parameters `own`; `direction` by the same names, or empty; `buffers` are the layer's in the forward pass."""
        raise NotImplementedError


def _pair(rows: Tensor, direction: Tensor | None) -> Pair:
    """From the gradients themselves, (chunk, ...)."""
    flat = rows.flatten(1)
    # The norm is had in one pass over the rows, without their squares.
    squares = torch.linalg.vector_norm(flat, dim=1).square()
    return squares, squares if direction is None else flat @ direction.flatten()


def _over_pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over pairs of places of two products, by example; and where it is lost in what its terms cancel."""
    terms = (first * second).flatten(1)
    total = terms.sum(1)
    return total, total <= 64 * torch.finfo(terms.dtype).eps * terms.abs().sum(1)


def _outer(inputs: Tensor, gradient: Tensor, direction: Tensor | None) -> Pair:
    """Of the matrices sum over places of g_p a_p^T, for inputs (batch, a, places) and gradients (batch, g, places)."""
    a, g, places = inputs.shape[-2], gradient.shape[-2], inputs.shape[-1]
    if places > 1 and places * (a + g) >= a * g:
        return _pair(gradient @ inputs.mT, direction)
    if places == 1:
        squares = inputs.square().sum((-2, -1)) * gradient.square().sum((-2, -1))
    else:
        # The sum over pairs of places <a_p, a_q> <g_p, g_q>: cheaper than the matrix itself where places are few.
        squares, lost = _over_pairs(inputs.mT @ inputs, gradient.mT @ gradient)
        if bool(lost.any()):
            squares[lost] = _pair(gradient[lost] @ inputs[lost].mT, None)[0]
    return squares, squares if direction is None else ((direction @ inputs) * gradient).sum((-2, -1))


class _LinearRule(_Rule):
    def products(
        self, layer: nn.Linear, own: frozenset[str], inputs: Tensor, gradient: Tensor, direction: Params, buffers: Params
    ) -> dict[str, Pair]:
        a = inputs.reshape(len(inputs), -1, inputs.shape[-1]).mT
        g = gradient.reshape(len(gradient), -1, gradient.shape[-1]).mT
        found = {"weight": _outer(a, g, direction.get("weight"))} if "weight" in own else {}
        return found | ({"bias": _pair(g.sum(-1), direction.get("bias"))} if "bias" in own else {})


class _ConvRule(_Rule):
    """Convolutions in one or two dimensions, zeros around the input."""

    def fits(self, layer: Any) -> bool:
        return layer.padding_mode == "zeros"

    def bytes(self, layer: Any, inputs: Tensor, gradient: Tensor) -> int:
        if not self._few_places(layer, inputs, gradient):
            return (layer.weight.numel() + inputs[0].numel() + gradient[0].numel()) * gradient.element_size()
        pairs = self._surrounded(layer, inputs) ** 2 + 3 * gradient[0, 0].numel() ** 2
        return (pairs * layer.groups + 2 * inputs[0].numel() + gradient[0].numel()) * gradient.element_size()

    def products(
        self, layer: Any, own: frozenset[str], inputs: Tensor, gradient: Tensor, direction: Params, buffers: Params
    ) -> dict[str, Pair]:
        found: dict[str, Pair] = {}
        if "weight" in own:
            by = self._by_places if self._few_places(layer, inputs, gradient) else self._by_gradients
            found["weight"] = by(layer, inputs, gradient, direction.get("weight"))
        if "bias" in own:
            found["bias"] = _pair(gradient.flatten(2).sum(-1), direction.get("bias"))
        return found

    def _few_places(self, layer: Any, inputs: Tensor, gradient: Tensor) -> bool:
        """Whether pairs of places cost less than the gradients of the weights."""
        a, g, places = layer.weight[0].numel(), layer.out_channels // layer.groups, gradient[0, 0].numel()
        kernel, channels = layer.weight[0, 0].numel(), layer.in_channels // layer.groups
        # A sum over shifted places moves numbers, which takes about as long as eight products.
        pairs = self._surrounded(layer, inputs) ** 2 * channels + places**2 * (8 * kernel + g)
        return pairs < places * a * g

    @staticmethod
    def _surrounded(layer: Any, inputs: Tensor) -> int:
        """Places of the input with the zeros around it, about."""
        if isinstance(layer.padding, str):
            return inputs[0, 0].numel()
        return math.prod(size + 2 * around for size, around in zip(inputs.shape[2:], layer.padding, strict=True))

    def _by_gradients(self, layer: Any, inputs: Tensor, gradient: Tensor, direction: Tensor | None) -> Pair:
        """From the weights' gradients of a chunk: each example a group of channels of one convolution."""
        size, weight = len(inputs), layer.weight
        padded, around = self._padded(layer, inputs)
        of = conv1d_weight if weight.ndim == 3 else conv2d_weight
        gradients = of(
            padded.reshape(1, -1, *padded.shape[2:]),
            (size * weight.shape[0], *weight.shape[1:]),
            gradient.reshape(1, -1, *gradient.shape[2:]),
            layer.stride,
            around,
            layer.dilation,
            size * layer.groups,
        )
        return _pair(gradients.reshape(size, -1), direction)

    def _by_places(self, layer: Any, inputs: Tensor, gradient: Tensor, direction: Tensor | None) -> Pair:
        """Sum over pairs of places <a_p, a_q> <g_p, g_q>; <a_p, a_q> is a sum over the kernel of products of places of the input."""
        padded, around = self._padded(layer, inputs)
        padded = F.pad(padded, [part for one in reversed(around) for part in (one, one)])
        size, groups, shape, out = len(inputs), layer.groups, padded.shape[2:], gradient.shape[2:]
        pixels = padded.reshape(size * groups, -1, shape.numel())
        products = (pixels.mT @ pixels).reshape(-1, *shape, *shape)
        patches = torch.zeros(len(products), *out, *out, dtype=products.dtype, device=products.device)
        for offset in itertools.product(*map(range, layer.kernel_size)):
            window = [
                slice(d * at, d * at + stride * (places - 1) + 1, stride)
                for d, at, stride, places in zip(layer.dilation, offset, layer.stride, out, strict=True)
            ]
            patches += products[:, *window, *window]
        rows = gradient.reshape(size * groups, -1, out.numel())
        by_group, lost = _over_pairs(patches.flatten(1), (rows.mT @ rows).flatten(1))
        squares, lost = by_group.reshape(size, groups).sum(1), lost.reshape(size, groups).any(1)
        if bool(lost.any()):
            squares[lost] = self._by_gradients(layer, inputs[lost], gradient[lost], None)[0]
        if direction is None:
            return squares, squares
        of = F.conv1d if layer.weight.ndim == 3 else F.conv2d
        along = of(inputs, direction, None, layer.stride, layer.padding, layer.dilation, groups)
        return squares, (along * gradient).flatten(1).sum(1)

    def _padded(self, layer: Any, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input, and the padding that is left to be done on both sides."""
        if layer.padding == "valid":
            return inputs, (0,) * len(layer.kernel_size)
        if layer.padding != "same":
            return inputs, layer.padding
        # What does not divide by two goes to the end, as torch has it.
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        around = [part for total in reversed(totals) for part in (total // 2, total - total // 2)]
        return F.pad(inputs, around), (0,) * len(totals)


class _EmbeddingRule(_Rule):
    def fits(self, layer: nn.Embedding) -> bool:
        return not layer.scale_grad_by_freq and layer.max_norm is None

    def bytes(self, layer: nn.Embedding, inputs: Tensor, gradient: Tensor) -> int:
        return (inputs[0].numel() ** 2 + 2 * gradient[0].numel()) * gradient.element_size()

    def products(
        self, layer: nn.Embedding, own: frozenset[str], inputs: Tensor, gradient: Tensor, direction: Params, buffers: Params
    ) -> dict[str, Pair]:
        tokens = inputs.reshape(len(inputs), -1)
        g = gradient.reshape(len(gradient), tokens.shape[1], -1)
        if layer.padding_idx is not None:
            g = g * (tokens != layer.padding_idx)[..., None]
        # Rows of the same token add up before they are squared.
        squares = ((g @ g.mT) * (tokens[:, :, None] == tokens[:, None, :])).sum((1, 2))
        return {"weight": (squares, (direction["weight"][tokens] * g).sum((1, 2)) if direction else squares)}


class _ScaleRule(_Rule):
    """Layers that end in (normalised input) * weight + bias, channel by channel."""

    def normalised(self, layer: Any, inputs: Tensor, buffers: Params) -> Tensor:
        """The input as it is multiplied by the weight."""
        raise NotImplementedError

    def channels(self, layer: Any, values: Tensor) -> Tensor:
        """Summed over the places that share a weight: (batch, weights)."""
        return values.flatten(2).sum(-1) if values.ndim > 2 else values

    def products(
        self, layer: Any, own: frozenset[str], inputs: Tensor, gradient: Tensor, direction: Params, buffers: Params
    ) -> dict[str, Pair]:
        found: dict[str, Pair] = {}
        if "weight" in own:
            found["weight"] = _pair(
                self.channels(layer, gradient * self.normalised(layer, inputs, buffers)), direction.get("weight")
            )
        if "bias" in own:
            found["bias"] = _pair(self.channels(layer, gradient), direction.get("bias"))
        return found


class _BatchNormRule(_ScaleRule):
    def normalised(self, layer: Any, inputs: Tensor, buffers: Params) -> Tensor:
        return F.batch_norm(inputs, buffers["running_mean"], buffers["running_var"], eps=layer.eps)


class _GroupNormRule(_ScaleRule):
    def normalised(self, layer: nn.GroupNorm, inputs: Tensor, buffers: Params) -> Tensor:
        return F.group_norm(inputs, layer.num_groups, eps=layer.eps)


class _LayerNormRule(_ScaleRule):
    def normalised(self, layer: nn.LayerNorm, inputs: Tensor, buffers: Params) -> Tensor:
        return F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)

    def channels(self, layer: nn.LayerNorm, values: Tensor) -> Tensor:
        size = layer.weight.numel()
        return values.reshape(len(values), -1, size).sum(1)


RULES: dict[type, _Rule] = {
    nn.Linear: _LinearRule(),
    nn.Conv1d: _ConvRule(),
    nn.Conv2d: _ConvRule(),
    nn.Embedding: _EmbeddingRule(),
    nn.BatchNorm1d: _BatchNormRule(),
    nn.BatchNorm2d: _BatchNormRule(),
    nn.GroupNorm: _GroupNormRule(),
    nn.LayerNorm: _LayerNormRule(),
}
"""By exact type: a subclass may compute something else."""
