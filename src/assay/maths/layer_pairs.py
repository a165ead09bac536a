r"""What goes into a layer and the gradients of the losses by what comes out: the two sides of a Kronecker factorisation.

A layer that is linear in its parameters has, of example $i$, the gradient $\sum_p g_{ip} a_{ip}^\top$ over its positions $p$ (tokens, pixels, patches).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from .attention_linears import linears_in
from .derivatives import CHUNK_BYTES, Losses, check_independent_examples
from .differentiable import written_out
from .layer_rules import RULES, Probe, Probes
from .params import Params

ROUNDING = 32
"""How many units of the last digit two ways to the same sum may be apart."""
TF32 = 2.0**-11
"""The last digit of products on CUDA in single precision, where they may be rounded to TF32."""


@dataclasses.dataclass(frozen=True)
class LayerMatrix:
    """How the parameters of a layer stand in one matrix for each group: a row for each output, a column for each input and one for the bias.

    Attributes:
        layer: Name of the module; empty for the whole net.
        weight: Full name of the weight; None if it is not asked for.
        bias: Of the bias, likewise.
        shapes: Of the weight and of the bias.
        groups: Parts of the layer that see inputs of their own: those of a convolution; of a normalisation each channel.
        outputs: Rows of a group's matrix.
        columns: Its columns.
        indexed: Whether inputs are given as the column of their only 1, as an embedding has them.
    """

    layer: str
    weight: str | None
    bias: str | None
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    groups: int
    outputs: int
    columns: int
    indexed: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, as the model names them."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    def of(self, params: Params) -> Float[Tensor, "*lead groups outputs columns"]:
        """Tensors of the parameters' shapes, or with further axes before those, as the matrix of each group."""
        parts = []
        for name, shape in zip((self.weight, self.bias), self.shapes, strict=True):
            if name is not None:
                part = params[name].mT if self.indexed else params[name]
                parts.append(part.reshape(*params[name].shape[: part.ndim - len(shape)], self.groups, self.outputs, -1))
        return torch.cat(parts, -1)

    def named(self, matrix: Float[Tensor, "*lead groups outputs columns"]) -> dict[str, Tensor]:
        """The inverse of `of`."""
        found, lead = {}, matrix.shape[:-3]
        if self.weight is not None:
            weight = matrix if self.bias is None else matrix[..., :-1]
            found[self.weight] = weight[..., 0, :, :].mT if self.indexed else weight.reshape(*lead, *self.shapes[0])
        if self.bias is not None:
            found[self.bias] = matrix[..., -1].reshape(*lead, *self.shapes[1])
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class LayerPair:
    """Some examples at one layer.

    Attributes:
        matrix: How the layer's parameters stand in a matrix.
        rows: Which rows of the batch.
        inputs: (examples, groups, positions, columns), with a 1 at the end where the bias is asked for; of an embedding (examples, 1, positions), the
            column of the only 1.
        gradients: (examples, groups, positions, outputs), of each example's loss by what the layer makes.
    """

    matrix: LayerMatrix
    rows: slice
    inputs: Num[Tensor, "examples groups positions *columns"]
    gradients: Float[Tensor, "examples groups positions outputs"]

    def summed(self, factors: Float[Tensor, " examples"]) -> dict[str, Tensor]:
        """The gradients of the parameters, each example's times a factor, added up."""
        g = by_group(self.gradients * factors[:, None, None, None])
        if self.matrix.indexed:
            found = torch.zeros(self.matrix.columns, self.matrix.outputs, dtype=g.dtype, device=g.device)
            return self.matrix.named(found.index_add_(0, self.inputs.flatten(), g[0]).mT[None])
        return self.matrix.named(g.mT @ by_group(self.inputs))

    def sq_size(self, factors: Float[Tensor, " examples"]) -> Tensor:
        """Sum of the squares of what `summed` adds up."""
        sizes = torch.linalg.vector_norm(self.gradients, dim=-1)
        if not self.matrix.indexed:
            sizes = sizes * torch.linalg.vector_norm(self.inputs, dim=-1)
        return (sizes.square().flatten(1).sum(1) * factors.square()).sum()


def by_group(rows: Tensor) -> Tensor:
    """(groups, examples and positions, columns)."""
    return rows.transpose(0, 1).flatten(1, 2)


def layer_pairs(
    module: nn.Module, losses: Losses, params: Params, names: Sequence[str], *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[LayerPair]:
    """Inputs and output gradients of each layer whose parameters are asked for, layer by layer, in chunks of examples.

    One forward and two backward passes are made at once. In the second, the gradient of a random mix of the losses is compared with the one
    that the pairs give, because a parameter may be used outside its layer too. Of several columns of numbers their mix is compared, and each takes one more backward
    pass, which is made when its pairs are read.

    Args:
        module: The net, in the mode in which it is to be differentiated.
        losses: Function of these parameters that calls the module and gives the loss of each example of a batch; or (batch, columns), whose pairs come column
            after column.
        params: Parameters at which to differentiate.
        names: Names of the parameters with respect to which to differentiate.
        chunk_bytes: Memory of one chunk of examples.

    Returns:
        Layer pairs, each of one layer and some examples.

    Raises:
        ValueError: A parameter's gradient is not made of the inputs and output gradients of one call of one layer; or the examples are coupled.
    """
    check_independent_examples(module)
    probes = Probes(module, names, {}, chunk_bytes, _PairProbe)
    leaves = {name: params[name].detach().requires_grad_() for name in names}
    with probes, torch.enable_grad(), written_out():
        values = losses(leaves)
    found: list[_PairProbe] = [probe for probe in probes.once_each() if isinstance(probe, _PairProbe)]
    seen = {full for probe in found for full in probe.names.values()}
    for name in names:
        if name not in seen:
            raise ValueError(_why(module, name, {full: probe.calls for probe in probes.probes for full in probe.names.values()}))
    draw = torch.Generator().manual_seed(0)
    factors = torch.randn(len(values), generator=draw, dtype=torch.float64).to(values)
    columns = list(values.unbind(1) if values.ndim == 2 else [values])
    several = len(columns) > 1
    if values.requires_grad:
        # What holds of a random mix of the columns holds of each of them.
        mix = values @ torch.randn(len(columns), generator=draw, dtype=torch.float64).to(values) if several else columns[0]
        _take(found, mix)
        mixed = torch.autograd.grad(mix @ factors, list(leaves.values()), retain_graph=several, materialize_grads=True)
        _check(found, dict(zip(leaves, mixed, strict=True)), factors.detach(), functools.partial(_rounding, losses, leaves, draw))
        if several:
            _take(found, columns[0])
    return _chunks(found, columns[1:])


def _take(probes: Sequence["_PairProbe"], values: Tensor) -> None:
    """Let the probes catch the gradients of the sum of these values."""
    for probe in probes:
        probe.open, probe.gradient = True, torch.zeros_like(probe.gradient)
    torch.autograd.grad(values.sum(), [probe.anchor for probe in probes], retain_graph=True, allow_unused=True)
    for probe in probes:
        probe.open = False


def _chunks(probes: list["_PairProbe"], columns: list[Tensor]) -> Iterator[LayerPair]:
    while columns:
        for probe in probes:
            yield from probe.pairs()
        column = columns.pop(0)
        if column.requires_grad:
            _take(probes, column)
    while probes:
        yield from probes.pop(0).pairs()


def _rounding(losses: Losses, leaves: Params, draw: torch.Generator) -> dict[str, float]:
    """Digits that one backward pass loses: the gradient of a random mix of the losses less those of its two parts, which would be nothing."""
    with torch.enable_grad(), written_out():
        values = losses(dict(leaves))
    whole, part = (torch.randn(values.shape, generator=draw, dtype=torch.float64).to(values) for _ in range(2))
    gradients = (
        torch.autograd.grad((values * mix).sum(), list(leaves.values()), retain_graph=True, materialize_grads=True)
        for mix in (whole, part, whole - part)
    )
    dense = ([one.to_dense() if one.is_sparse else one for one in each] for each in gradients)
    return {name: float((all_ - one - other).norm()) for name, all_, one, other in zip(leaves, *dense, strict=True)}


def _check(probes: Sequence["_PairProbe"], exact: Params, factors: Tensor, rounding: Callable[[], Mapping[str, float]]) -> None:
    """Refuse a parameter whose gradient, of the losses times these factors, is not what the pairs make.

    Args:
        probes: What caught the pairs.
        exact: The gradients.
        factors: The factors.
        rounding: Gives what rounding does to a gradient on its way back; asked where sums and gradients differ by more than rounding of the sums does.

    Raises:
        ValueError: It is another; names the parameter.
    """
    off: dict[str, float] = {}
    largest = 0.0
    for probe in probes:
        if len(probe.gradient) != len(factors) or len(probe.inputs) != len(factors):
            raise ValueError(
                _sentence(next(iter(probe.names.values())), "is in a layer whose inputs do not stand example by example")
            )
        totals: dict[str, Tensor] = {}
        size = 0.0
        for pair in probe.pairs():
            part = factors[pair.rows].to(pair.gradients)
            totals = {name: value + totals.get(name, 0) for name, value in pair.summed(part).items()}
            size += float(pair.sq_size(part))
        for name, total in totals.items():
            whole = exact[name].to_dense() if exact[name].is_sparse else exact[name]
            off[name] = float((total - whole).norm())
            largest = max(largest, probe.eps * (size**0.5 + float(whole.norm())))
    # Also NaN, which no comparison holds of.
    wrong = {name: difference for name, difference in off.items() if not difference <= ROUNDING * largest}
    # On the way back digits may cancel, as they do behind a normalisation of two features.
    lost = rounding() if wrong else {}
    for name, difference in wrong.items():
        if not difference <= ROUNDING * (largest + lost[name]):
            raise ValueError(_sentence(name, "is used elsewhere too, behind its layer's back"))


def _why(module: nn.Module, name: str, calls: dict[str, int]) -> str:
    if calls.get(name) == 0 and name in _in_attention(module):
        return _sentence(
            name, "is in attention that was not called, or of which query, key and value are not one tensor of three axes"
        )
    if name in calls:
        return _sentence(name, f"is in a layer that is called {calls[name]} times in one pass, or is given its input by name")
    owners = [
        layer for layer in module.modules() if any(held is _parameter(module, name) for held in layer.parameters(recurse=False))
    ]
    if len(owners) > 1:
        return _sentence(name, "belongs to several layers")
    kinds = ", ".join(kind.__name__ for kind in RULES)
    what = type(owners[0]).__name__ if owners else "no layer"
    return _sentence(name, f"is in {what}, and only plain {kinds} layers and self-attention by MultiheadAttention are known")


def _in_attention(module: nn.Module) -> set[str]:
    """Full names of the parameters of the linear maps inside attention layers."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in module.named_modules()
        for one in linears_in(layer)
        for name in one.names.values()
    }


def _parameter(module: nn.Module, name: str) -> Any:
    return dict(module.named_parameters(remove_duplicate=False)).get(name)


def _sentence(name: str, reason: str) -> str:
    return f"Parameter {name} {reason}, so that its gradient is not made of one layer's inputs and output gradients"


class _PairProbe(Probe):
    """One layer that has a rule: keeps its input and the gradient at its output."""

    inputs: Tensor
    gradient: Tensor
    eps: float
    open = True

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        watched = super().__call__(layer, args, output)
        if self.calls == 1:
            self.eps = torch.finfo(output.dtype).eps
            if output.is_cuda and output.dtype != torch.float64:
                # Torch may round what is multiplied there.
                self.eps = max(self.eps, TF32)
            # The loss may not reach it.
            self.inputs, self.gradient = self.typed(args[0].detach(), torch.zeros_like(output))
        return watched

    def take(self, inputs: Tensor, gradient: Tensor) -> None:
        if self.open:
            self.inputs, self.gradient = self.typed(inputs, gradient)

    def pairs(self) -> Iterator[LayerPair]:
        """In chunks of examples."""
        rule = RULES[type(self.layer)]
        size = max(1, self.chunk_bytes // max(1, rule.row_bytes(self.layer, self.inputs, self.gradient)))
        start = 0
        for inputs, gradient in zip(self.inputs.split(size), self.gradient.split(size), strict=True):
            a, g = rule.rows(self.layer, inputs, gradient, self.buffers)
            indexed = not a.is_floating_point()
            if not indexed:
                one = a.new_ones(*a.shape[:3], 1)
                a = torch.cat([part for part, name in ((a, "weight"), (one, "bias")) if name in self.names], -1)
            shapes = tuple(tuple(getattr(getattr(self.layer, name, None), "shape", ())) for name in ("weight", "bias"))
            matrix = LayerMatrix(
                next(iter(self.names.values())).rpartition(".")[0],
                self.names.get("weight"),
                self.names.get("bias"),
                shapes,  # type: ignore[arg-type]
                g.shape[1],
                g.shape[-1],
                shapes[0][0] if indexed else a.shape[-1],
                indexed,
            )
            yield LayerPair(matrix, slice(start, start + len(a)), a.detach(), g.detach())
            start += len(a)
