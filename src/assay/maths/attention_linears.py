"""The two linear maps inside torch's self-attention, which call no module of their own."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Watched = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]
"""Given a layer, its inputs and its output, as a forward hook is: what goes on in the place of the output."""
INSIDE = {"in_proj_weight": "in_proj_bias", "out_proj.weight": "out_proj.bias"}
"""By the name of the weight, that of the bias."""


def linears_in(layer: nn.Module) -> dict[str, nn.Linear]:
    """The two maps of a layer.

    Returns:
        A linear layer without numbers for each, by the name of its weight; none unless the layer is `nn.MultiheadAttention` that maps query, key and value by one
        matrix.
    """
    if type(layer) is not nn.MultiheadAttention or layer.in_proj_weight is None:
        return {}
    own, found = dict(layer.named_parameters()), {}
    for weight, bias in INSIDE.items():
        held = own[weight]
        found[weight] = nn.Linear(held.shape[1], held.shape[0], own.get(bias) is not None, device="meta", dtype=held.dtype)
    return found


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of an attention layer: its two weights as they are in it, and how many examples it is given."""

    layer: nn.MultiheadAttention
    weights: tuple[Tensor, Tensor]
    examples: int


@contextlib.contextmanager
def shown(watched: Mapping[nn.Module, Mapping[str, tuple[nn.Linear, Watched]]]) -> Iterator[None]:
    """Inside, inputs and outputs of the linear maps of attention layers are shown, examples first.

    Torch computes them by `torch.nn.functional.linear`, which is replaced meanwhile. Where query, key and value are not one tensor, or the layer runs in a fused form
    that has no derivatives, the maps are not seen.

    Args:
        watched: By attention layer and name of the weight, the layer that stands for the map and what watches it.
    """
    plain, open_, handles = F.linear, list[_Call | None](), []

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        output = plain(input, weight, bias)
        call = open_[-1] if open_ else None
        if call is None:
            return output
        for name, own in zip(INSIDE, call.weights, strict=True):
            if weight is own and name in watched[call.layer]:
                stands, watch = watched[call.layer][name]
                # Places first, inside; and what is mapped back has them in one axis with the examples.
                apart = [part.unflatten(0, (-1, call.examples)) if part.ndim == 2 else part for part in (input, output)]
                return watch(stands, (apart[0].transpose(0, 1),), apart[1].transpose(0, 1)).transpose(0, 1).reshape(output.shape)
        return output

    def begin(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query = args[0] if args else kwargs.get("query")
        if isinstance(query, Tensor) and query.ndim == 3 and isinstance(layer, nn.MultiheadAttention):
            weights = layer.in_proj_weight, layer.out_proj.weight
            open_.append(_Call(layer, weights, query.shape[0 if layer.batch_first else 1]))  # type: ignore[arg-type]
        else:
            open_.append(None)

    def end(*_: Any) -> None:
        open_.pop()

    try:
        for layer in watched:
            handles.append(layer.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(layer.register_forward_hook(end, always_call=True))
        torch.nn.functional.linear = linear  # type: ignore[assignment]
        yield
    finally:
        torch.nn.functional.linear = plain
        for handle in handles:
            handle.remove()
