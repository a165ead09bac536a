"""Inner products with a direction and squared norms of each example's gradient from one pass, by rules for layers."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight

from .attention_linears import linears_in, shown
from .derivatives import CHUNK_BYTES, Loss, buffers_of, called_with, check_independent_examples, detached, example_gradients
from .differentiable import written_out
from .params import Params


@dataclasses.dataclass(frozen=True)
class Products:
    """Squared norm of each example's gradient and its inner product with a direction, by parameter.

    Attributes:
        grad_sq_norms: (batch,) each, |grad l_i|^2.
        grad_dots: (batch,) each, <direction, grad l_i>; empty without a direction.
        materialised: Names of the parameters whose gradients had to be made example by example, in chunks, because their layer has no rule.
        from_layer_rules: Whether the rules of the other layers hold; False if one example's directly computed gradient contradicted them.
    """

    grad_sq_norms: dict[str, Float[Tensor, " batch"]]
    grad_dots: dict[str, Float[Tensor, " batch"]]
    materialised: tuple[str, ...]
    from_layer_rules: bool = True


@dataclasses.dataclass(frozen=True)
class ProductConfig:
    """How the products of examples' gradients are computed.

    Attributes:
        buffers: The module's buffers by name; None for those that it holds.
        trust: Whether the rules are right for this module and these parameters, as an earlier call found (`Products.from_layer_rules`); None to
            find out.
        chunk_bytes: Memory of one chunk of examples, at least 1 byte.

    Raises:
        ValueError: A chunk has no byte.
    """

    buffers: Params | None = None
    trust: bool | None = None
    chunk_bytes: int = CHUNK_BYTES

    def __post_init__(self):
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes={self.chunk_bytes} is no memory for one example; give at least 1.")


def example_products(
    module: nn.Module,
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    direction: Params | None = None,
    names: tuple[str, ...] | None = None,
    config: ProductConfig | None = None,
) -> Products:
    """Squared norm of each example's gradient, and its inner product with a direction, by parameter.

    For a layer that is linear in its parameters the gradient is a sum over places of (output gradient) x (input), so both follow
    from these without the weights' gradients of the batch. Linear, Conv1d, Conv2d, Embedding, LayerNorm, GroupNorm, BatchNorm
    (eval) and the linear maps of self-attention have such a rule; parameters of other layers, shared ones, and those of layers
    that are called more than once are differentiated example by example, in chunks. So are all of them if the rules do not give the norm of the example with the largest
    one, which is differentiated by itself: a weight may also be used outside its layer.

    Args:
        module: Takes `inputs`; in the mode (train or eval) in which it is to be differentiated. Comes back as it was.
        params: Parameters by name, and their values; the module's other tensors stay as they are.
        inputs: (batch, ...).
        targets: (batch, ...), for `loss`.
        loss: One number per example, which depends on that example's outputs only.
        direction: Direction of the inner products, by parameter name; None for the norms alone.
        names: Which of `params` to differentiate by; by default those of the direction, or all.
        config: Buffers, trust in the rules, and memory; by default the module's own, none before they are tried, and `CHUNK_BYTES`.

    Returns:
        Norms at least 0 and inner products by parameter, one per example; and which parameters were differentiated example by example.

    Raises:
        ValueError: BatchNorm in training couples the examples: their own gradients are not defined.
    """
    check_independent_examples(module)
    at = detached(params)
    wanted = names if names is not None else tuple(at if direction is None else direction)
    along = {} if direction is None else detached(direction)
    config = config or ProductConfig()
    trust, chunk_bytes = config.trust, config.chunk_bytes
    held = buffers_of(module) if config.buffers is None else detached(config.buffers)
    grad_sq_norms: dict[str, Tensor] = {}
    grad_dots: dict[str, Tensor] = {}
    sound = trust is not False
    if sound:
        probes = Probes(module, wanted, along, chunk_bytes)
        with probes, torch.enable_grad(), written_out():
            # The module writes into the buffers that it is given.
            copies = {name: value.clone() for name, value in held.items()}
            values = loss(called_with(module, {**at, **copies}, inputs), targets)
        from_layer_rules = probes.once_each()
        if from_layer_rules:
            torch.autograd.grad(values.sum(), [probe.anchor for probe in from_layer_rules], allow_unused=True)
            for probe in from_layer_rules:
                grad_sq_norms |= probe.by_parameter(probe.grad_sq_norms, values)
                grad_dots |= probe.by_parameter(probe.grad_dots, values) if along else {}
            if trust is None and not _confirmed(grad_sq_norms, module, at, held, inputs, targets, loss):
                grad_sq_norms, grad_dots, sound = {}, {}, False
    rest = tuple(name for name in wanted if name not in grad_sq_norms)
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
            grad_sq_norms[name], found = map(torch.cat, zip(*pairs, strict=True))
            grad_dots |= {name: found} if along else {}
    return Products(grad_sq_norms, grad_dots, rest, sound)


def _confirmed(
    grad_sq_norms: dict[str, Tensor], module: nn.Module, at: Params, buffers: Params, inputs: Tensor, targets: Tensor, loss: Loss
) -> bool:
    """Whether the largest of the squared norms is what that example's own gradient says."""
    if not grad_sq_norms or not len(inputs):
        return True
    total = torch.stack(list(grad_sq_norms.values())).sum(0)
    place = int(total.argmax())
    here = slice(place, place + 1)
    (_, alone), *_ = example_gradients(module, at, inputs[here], targets[here], loss, names=tuple(grad_sq_norms), buffers=buffers)
    exact = torch.stack([block.square().sum() for block in alone.values()]).sum()
    return bool((total[place] - exact).abs() <= torch.finfo(total.dtype).eps ** 0.5 * exact)


class Probe:
    """One layer that has a rule: catches its input and the gradient at its output."""

    def __init__(self, layer: nn.Module, names: dict[str, str], direction: Params, chunk_bytes: int):
        self.layer, self.names, self.chunk_bytes = layer, names, chunk_bytes
        self.direction = {own: direction[full] for own, full in names.items() if full in direction}
        self.calls = 0
        self.grad_sq_norms: dict[str, Tensor] | None = None
        self.grad_dots: dict[str, Tensor] | None = None
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
        """Compute the numbers of the examples from the layer's input and the gradient with respect to its output."""
        rule = RULES[type(self.layer)]
        inputs, gradient = self.typed(inputs, gradient)
        per_example = max(1, rule.bytes(self.layer, inputs, gradient))
        size = max(1, self.chunk_bytes // per_example)
        parts = [
            rule.products(self.layer, frozenset(self.names), a, g, self.direction, self.buffers)
            for a, g in zip(inputs.split(size), gradient.split(size), strict=True)
        ]
        self.grad_sq_norms = {own: torch.cat([part[own][0] for part in parts]) for own in self.names}
        self.grad_dots = {own: torch.cat([part[own][1] for part in parts]) for own in self.direction}

    def typed(self, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """In the type of the parameters: under autocast what enters and leaves a layer is of another."""
        kind = getattr(self.layer, next(iter(self.names))).dtype
        return inputs.to(kind) if inputs.is_floating_point() else inputs, gradient.to(kind)

    def by_parameter(self, found: dict[str, Tensor] | None, values: Tensor) -> dict[str, Tensor]:
        """Numbers by the parameters' full names; 0 where the loss does not reach the layer."""
        if found is None:
            return {full: torch.zeros_like(values).detach() for full in self.names.values()}
        # A layer that was given its examples along another axis says nothing about single ones.
        return {self.names[own]: value.detach() for own, value in found.items() if len(value) == len(values)}


class _Watch(torch.autograd.Function):
    """Identity whose backward hands the gradient to a probe."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, probe: Probe) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.probe = probe
        # A copy, because an operation in place may follow, whose gradient is another.
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ctx.probe.take(ctx.saved_tensors[0], gradient)
        return gradient if ctx.needs_input_grad[0] else None, None, torch.zeros_like(ctx.probe.anchor), None


class Probes:
    """The probes of a module, hung in for one forward pass."""

    def __init__(self, module: nn.Module, names: Iterable[str], direction: Params, chunk_bytes: int, kind: type[Probe] = Probe):
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
                self.probes.append(kind(layer, wanted, direction, chunk_bytes))
        self._hung = list(self.probes)
        self._inside: dict[nn.Module, dict[str, tuple[nn.Linear, Probe]]] = {}
        for prefix, layer in module.named_modules():
            held = dict(layer.named_parameters()) if (maps := linears_in(layer)) else {}
            for one in maps:
                full = {part: f"{prefix}.{name}" if prefix else name for part, name in one.names.items()}
                wanted = {
                    part: full[part] for part, name in one.names.items() if full[part] in asked and places[id(held[name])] == 1
                }
                if wanted:
                    self.probes.append(kind(one.layer, wanted, direction, chunk_bytes))
                    self._inside.setdefault(layer, {})[one.names["weight"]] = one.layer, self.probes[-1]
        self._open = contextlib.ExitStack()

    def __enter__(self) -> None:
        for probe in self._hung:
            self._open.callback(probe.layer.register_forward_hook(probe).remove)
        if self._inside:
            self._open.enter_context(shown(self._inside))

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def once_each(self) -> list[Probe]:
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

    def row_bytes(self, layer: Any, inputs: Tensor, gradient: Tensor) -> int:
        """Memory that the rows of one example take, with the 1 for the bias."""
        return 2 * self.bytes(layer, inputs, gradient)

    def rows(self, layer: Any, inputs: Tensor, gradient: Tensor, buffers: Params) -> tuple[Tensor, Tensor]:
        """Inputs that the weight is multiplied by, and the gradient with respect to that product.

        Returns:
            (batch, groups, positions, columns) and (batch, groups, positions, outputs); of an embedding the inputs are (batch, 1, positions)
            whole numbers, the column of the only 1.
        """
        raise NotImplementedError


def _pair(rows: Tensor, direction: Tensor | None) -> Pair:
    """From the gradients themselves, (chunk, ...)."""
    flat = rows.flatten(1)
    # The norm is had in one pass over the rows, without their squares.
    grad_sq_norms = torch.linalg.vector_norm(flat, dim=1).square()
    return grad_sq_norms, grad_sq_norms if direction is None else flat @ direction.flatten()


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
        grad_sq_norms = inputs.square().sum((-2, -1)) * gradient.square().sum((-2, -1))
    else:
        # The sum over pairs of places <a_p, a_q> <g_p, g_q>: cheaper than the matrix itself where places are few.
        grad_sq_norms, lost = _over_pairs(inputs.mT @ inputs, gradient.mT @ gradient)
        if bool(lost.any()):
            grad_sq_norms[lost] = _pair(gradient[lost] @ inputs[lost].mT, None)[0]
    return grad_sq_norms, grad_sq_norms if direction is None else ((direction @ inputs) * gradient).sum((-2, -1))


class _LinearRule(_Rule):
    def products(
        self, layer: nn.Linear, own: frozenset[str], inputs: Tensor, gradient: Tensor, direction: Params, buffers: Params
    ) -> dict[str, Pair]:
        a = inputs.reshape(len(inputs), -1, inputs.shape[-1]).mT
        g = gradient.reshape(len(gradient), -1, gradient.shape[-1]).mT
        found = {"weight": _outer(a, g, direction.get("weight"))} if "weight" in own else {}
        return found | ({"bias": _pair(g.sum(-1), direction.get("bias"))} if "bias" in own else {})

    def rows(self, layer: nn.Linear, inputs: Tensor, gradient: Tensor, buffers: Params) -> tuple[Tensor, Tensor]:
        return inputs.reshape(len(inputs), 1, -1, inputs.shape[-1]), gradient.reshape(len(gradient), 1, -1, gradient.shape[-1])


class _ConvRule(_Rule):
    """Convolutions in one or two dimensions."""

    def row_bytes(self, layer: Any, inputs: Tensor, gradient: Tensor) -> int:
        columns = layer.groups * (layer.weight[0].numel() + 1)
        return (gradient[0, 0].numel() * columns + 2 * inputs[0].numel() + gradient[0].numel()) * gradient.element_size()

    def rows(self, layer: Any, inputs: Tensor, gradient: Tensor, buffers: Params) -> tuple[Tensor, Tensor]:
        padded, around = self._padded(layer, inputs)
        # Torch unfolds images only: a line is one row of pixels.
        kernel, stride, dilation, around = (
            (one,) * (2 - len(part)) + tuple(part)
            for part, one in ((layer.kernel_size, 1), (layer.stride, 1), (layer.dilation, 1), (around, 0))
        )
        image = padded if padded.ndim == 4 else padded[:, :, None]
        patches = F.unfold(image, kernel, dilation, around, stride)
        size, places = len(inputs), patches.shape[-1]
        return tuple(part.reshape(size, layer.groups, -1, places).mT for part in (patches, gradient))  # type: ignore[return-value]

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
        grad_sq_norms, lost = by_group.reshape(size, groups).sum(1), lost.reshape(size, groups).any(1)
        if bool(lost.any()):
            grad_sq_norms[lost] = self._by_gradients(layer, inputs[lost], gradient[lost], None)[0]
        if direction is None:
            return grad_sq_norms, grad_sq_norms
        of = F.conv1d if layer.weight.ndim == 3 else F.conv2d
        along = of(padded, direction, None, layer.stride, 0, layer.dilation, groups)
        return grad_sq_norms, (along * gradient).flatten(1).sum(1)

    def _padded(self, layer: Any, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input, and the zeros that are left to be put on both sides."""
        if layer.padding_mode != "zeros":
            around = layer._reversed_padding_repeated_twice
            return F.pad(inputs, around, mode=layer.padding_mode), (0,) * len(layer.kernel_size)
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
        grad_sq_norms = ((g @ g.mT) * (tokens[:, :, None] == tokens[:, None, :])).sum((1, 2))
        return {"weight": (grad_sq_norms, (direction["weight"][tokens] * g).sum((1, 2)) if direction else grad_sq_norms)}

    def row_bytes(self, layer: nn.Embedding, inputs: Tensor, gradient: Tensor) -> int:
        return inputs[0].numel() * inputs.element_size() + 2 * gradient[0].numel() * gradient.element_size()

    def rows(self, layer: nn.Embedding, inputs: Tensor, gradient: Tensor, buffers: Params) -> tuple[Tensor, Tensor]:
        tokens = inputs.reshape(len(inputs), 1, -1)
        g = gradient.reshape(len(gradient), 1, tokens.shape[-1], -1)
        return tokens, g if layer.padding_idx is None else g * (tokens != layer.padding_idx)[..., None]


class _ScaleRule(_Rule):
    """Layers that end in (normalised input) * weight + bias, channel by channel."""

    def normalised(self, layer: Any, inputs: Tensor, buffers: Params) -> Tensor:
        """The input as it is multiplied by the weight."""
        raise NotImplementedError

    def places(self, layer: Any, values: Tensor) -> Tensor:
        """(batch, weights, places that share a weight)."""
        return values.reshape(*values.shape[:2], -1)

    def channels(self, layer: Any, values: Tensor) -> Tensor:
        """Summed over the places that share a weight: (batch, weights)."""
        return values.flatten(2).sum(-1) if values.ndim > 2 else values

    def row_bytes(self, layer: Any, inputs: Tensor, gradient: Tensor) -> int:
        return 4 * gradient[0].numel() * gradient.element_size()

    def rows(self, layer: Any, inputs: Tensor, gradient: Tensor, buffers: Params) -> tuple[Tensor, Tensor]:
        both = self.normalised(layer, inputs, buffers), gradient
        return tuple(self.places(layer, part)[..., None] for part in both)  # type: ignore[return-value]

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

    def places(self, layer: nn.LayerNorm, values: Tensor) -> Tensor:
        return values.reshape(len(values), -1, layer.weight.numel()).mT

    def channels(self, layer: nn.LayerNorm, values: Tensor) -> Tensor:
        return values.reshape(len(values), -1, layer.weight.numel()).sum(1)


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
