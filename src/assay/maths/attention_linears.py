"""The two linear maps inside torch's self-attention, which call no module of their own."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Watched = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]
"""Given a layer, its inputs and its output, as a forward hook is: what goes on in the place of the output."""
INSIDE = {"in_proj_weight": "in_proj_bias", "out_proj.weight": "out_proj.bias"}
"""By the name of the weight, that of the bias."""
_LOCAL = threading.local()


@dataclasses.dataclass(frozen=True)
class AttentionLinear:
    """One of the two linear maps of an attention layer.

    Attributes:
        layer: A linear layer without numbers, which stands for it.
        names: Names of its `weight` and `bias` in the attention layer.
    """

    layer: nn.Linear
    names: dict[str, str]


def linears_in(layer: nn.Module) -> list[AttentionLinear]:
    """The two maps of a layer; none unless it is `nn.MultiheadAttention` that maps query, key and value by one matrix."""
    if type(layer) is not nn.MultiheadAttention or layer.in_proj_weight is None:
        return []
    own, found = dict(layer.named_parameters()), []
    for weight, bias in INSIDE.items():
        outputs, inputs = own[weight].shape
        stands = nn.Linear(inputs, outputs, bias in own, device="meta", dtype=own[weight].dtype)
        names = {part: name for part, name in (("weight", weight), ("bias", bias)) if name in own}
        found.append(AttentionLinear(stands, names))
    return found


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of an attention layer: its two weights as they are in it, what watches each, and how many examples it is given."""

    weights: tuple[Tensor, Tensor]
    watched: Mapping[str, tuple[nn.Linear, Watched]]
    examples: int


@contextlib.contextmanager
def shown(watched: Mapping[nn.Module, Mapping[str, tuple[nn.Linear, Watched]]]) -> Iterator[None]:
    """Inside, inputs and outputs of the linear maps of attention layers are shown, examples first.

    Torch computes them by `torch.nn.functional.linear`, which is replaced as long as any thread is inside. Where query, key and value are not one tensor, or the layer
    runs in a fused form that has no derivatives, the maps are not seen.

    Args:
        watched: By attention layer and name of the weight, the layer that stands for the map and what watches it.
    """

    def begin(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query = args[0] if args else kwargs.get("query")
        call = None
        if isinstance(query, Tensor) and query.ndim == 3 and isinstance(layer, nn.MultiheadAttention):
            weights = layer.in_proj_weight, layer.out_proj.weight
            call = _Call(weights, watched[layer], query.shape[0 if layer.batch_first else 1])  # type: ignore[arg-type]
        _calls().append(call)

    def end(*_: Any) -> None:
        _calls().pop()

    with contextlib.ExitStack() as stack:
        for layer in watched:
            stack.callback(layer.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(end, always_call=True).remove)
        stack.enter_context(_REPLACED)
        yield


class _Replacement:
    """Inside, calls of the linear map go through `_linear`; of several threads the first puts it in, and the last takes it out."""

    def __init__(self):
        self.plain, self._inside, self._lock = F.linear, 0, threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self.plain, torch.nn.functional.linear = F.linear, _linear  # type: ignore[assignment]
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.nn.functional.linear = self.plain


_REPLACED = _Replacement()


def _calls() -> list[_Call | None]:
    """The calls of attention layers that this thread is inside, the innermost last."""
    if not hasattr(_LOCAL, "calls"):
        _LOCAL.calls = []
    return _LOCAL.calls


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    output, calls = _REPLACED.plain(input, weight, bias), _calls()
    call = calls[-1] if calls else None
    if call is None:
        return output
    for name, own in zip(INSIDE, call.weights, strict=True):
        if weight is own and name in call.watched:
            stands, watch = call.watched[name]
            # Places first, inside; and what is mapped back has them in one axis with the examples.
            apart = [part.unflatten(0, (-1, call.examples)) if part.ndim == 2 else part for part in (input, output)]
            return watch(stands, (apart[0].transpose(0, 1),), apart[1].transpose(0, 1)).transpose(0, 1).reshape(output.shape)
    return output
