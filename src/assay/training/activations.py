"""What the layers of a net make of examples: found in the order in which they are called, and taken by hooks."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnknownName, UsageError
from ..core.evidence import Layer

INPUT, OUTPUT = "input", "softmax"
"""Names of what stands before the first layer and after the last."""
ROOM = 5 * 2**29
"""Bytes that the layers of one pass may take."""
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
ACTIVATIONS = tuple(vars(nn.modules.activation)[name] for name in nn.modules.activation.__all__ if name != "MultiheadAttention")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a layer is looked at.

    Attributes:
        name: What it is called.
        module: Name of the module in the model.
        call: Which of its calls in one pass, from 0.
        before: Whether what goes into it counts, and not what comes out.
    """

    name: str
    module: str
    call: int = 0
    before: bool = False


class _Enough(Exception):
    """Every layer that is wanted has been seen."""


@contextlib.contextmanager
def tapped(
    model: nn.Module, places: Sequence[Place], take: Callable[[Place, Tensor], None], *, whole: bool = False
) -> Iterator[None]:
    """Inside, one pass hands what its layers make over to `take`, and the block ends once all have, unless the `whole` is wanted.

    What is handed over is only lent: an activation that works in place may change it.
    """
    calls: dict[tuple[str, bool], int] = {}
    wanted = {(place.module, place.before, place.call): place for place in places}
    left: list[int] = [len(places)]

    def tap(name: str, before: bool, value: Any) -> None:
        call = calls[name, before] = calls.get((name, before), -1) + 1
        place = wanted.get((name, before, call))
        if place is None:
            return
        value = value[0] if isinstance(value, (tuple, list)) else value
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            raise UsageError(f"Layer {place.name} does not give a row of numbers for each example; name others.")
        take(place, value)
        left[0] -= 1
        if not left[0] and not whole:
            raise _Enough

    with contextlib.ExitStack() as stack:
        modules = dict(model.named_modules())
        for name, before in {(place.module, place.before) for place in places}:
            if before:
                hook = modules[name].register_forward_pre_hook(lambda _, args, name=name: tap(name, True, args[0]))
            else:
                hook = modules[name].register_forward_hook(lambda _, args, output, name=name: tap(name, False, output))
            stack.callback(hook.remove)
        with contextlib.suppress(_Enough):
            yield


def found(model: nn.Module, forward: Callable[[], Tensor]) -> list[Place]:
    """The layers of any net, in the order of a pass: what is looked at if nothing is named.

    Containers are opened as long as they are sequences or the whole model. What is left counts if it is a block (its output, or what goes
    into the activation that makes it), or a layer with weights (its output, or that of the normalisation right behind it). The layer that
    gives the logits does not: their softmax stands for it.

    Args:
        model: The net.
        forward: One pass over some examples, by which the order is found.
    """
    calls: list[_Call] = []
    count: dict[str, int] = {}

    def seen(name: str, module: nn.Module, output: Any) -> None:
        count[name] = count.get(name, -1) + 1
        calls.append(_Call(name, module, count[name], output[0] if isinstance(output, (tuple, list)) else output))

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            hook = module.register_forward_hook(lambda module, _, output, name=name: seen(name, module, output))
            stack.callback(hook.remove)
        logits = forward()
    parts = set(_opened(model, ""))
    walked = [call for call in calls if call.name in parts]
    places: list[Place] = []
    for at, call in enumerate(walked):
        value = call.output
        if value is logits or not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            continue
        title = f"{call.name}#{call.call + 1}" if call.call else call.name
        behind = walked[at + 1] if at + 1 < len(walked) else call
        if next(call.module.children(), None) is not None:
            within = [one for one in calls if one.name.startswith(f"{call.name}.") and one.output is value]
            last = next((one for one in reversed(within) if isinstance(one.module, ACTIVATIONS)), None)
            places.append(Place(title, call.name, call.call) if last is None else Place(title, last.name, last.call, before=True))
        elif next(call.module.parameters(recurse=False), None) is not None and not isinstance(call.module, NORMS):
            last = behind if isinstance(behind.module, NORMS) else call
            places.append(Place(title, last.name, last.call))
    return places


@dataclasses.dataclass(frozen=True, eq=False)
class _Call:
    name: str
    module: nn.Module
    call: int
    output: Any


def _opened(module: nn.Module, name: str) -> Iterator[str]:
    """Names of what a net consists of, seen from outside: sequences are opened, blocks are not."""
    children = list(module.named_children())
    if not children or (name and not isinstance(module, nn.Sequential)):
        yield name
        return
    if not name and len(children) == 1 and not isinstance(module, nn.Sequential):
        # A model that only holds another one is that one.
        inner, only = children[0]
        if list(only.children()):
            for below, part in only.named_children():
                yield from _opened(part, f"{inner}.{below}")
            return
    for below, part in children:
        yield from _opened(part, f"{name}.{below}" if name else below)


def named(model: nn.Module, names: Sequence[str]) -> list[Place]:
    """The outputs of modules that a user names.

    Raises:
        UnknownName: There is no such module.
        UsageError: None is named, or one twice.
    """
    known = [name for name, _ in model.named_modules() if name]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"layers={'+'.join(names)} must name at least one layer, and each once.")
    for name in names:
        if name not in known:
            raise UnknownName("layer of the model", name, known)
    return [Place(name, name) for name in names]


def layered(
    model: nn.Module,
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    forward: Callable[[Tensor], Tensor],
    count: int,
    names: Sequence[str] | None = None,
    room: int = ROOM,
) -> Iterator[Layer]:
    """What each layer makes of every example, layer by layer: the input (if it is numbers), the hidden layers, the softmax.

    As many layers are taken in one pass as have room together; a pass ends with the last of them.

    Args:
        model: The net that `forward` runs.
        batches: Positions and inputs of all examples; may be gone through again.
        forward: Logits of inputs, in eval mode and without gradients.
        count: How many examples there are.
        names: Modules; None for those that `found` finds.
        room: Bytes that the layers of one pass may take.

    Raises:
        UnknownName: No module has that name.
        UsageError: There is no layer, or one does not give rows.
    """
    _, inputs = next(batches())
    tokens = not inputs.is_floating_point()
    places = found(model, lambda: forward(inputs[:8])) if names is None else named(model, names)
    if not places and tokens:
        raise UsageError(
            "The model has no layer between its tokens and its logits that could be looked at; name one with layers=NAME."
        )
    sizes: dict[Place, int] = {}
    with tapped(model, places, lambda place, value: sizes.__setitem__(place, _rows(value, tokens).shape[1])):
        forward(inputs[:2])
    if len(sizes) < len(places):
        absent = next(place.name for place in places if place not in sizes)
        raise UsageError(f"Layer {absent} is not called when the model is evaluated; name others.")
    order = [Place(INPUT, INPUT)] * (not tokens) + places + [Place(OUTPUT, OUTPUT)]

    group: list[Place] = []
    taken = 0
    for place in [*order, None]:
        size = 0 if place is None else sizes.get(place, inputs[:1].numel()) * count * 4
        if place is None or (group and taken + size > room):
            yield from _pass(model, group, batches, forward, count, tokens)
            group, taken = [], 0
        if place is not None:
            group.append(place)
            taken += size


def _pass(
    model: nn.Module,
    group: Sequence[Place],
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    forward: Callable[[Tensor], Tensor],
    count: int,
    tokens: bool,
) -> Iterator[Layer]:
    held: dict[Place, Tensor] = {}
    inner = [place for place in group if place.module not in (INPUT, OUTPUT)]
    for positions, inputs in batches():

        def take(place: Place, value: Tensor, positions: Tensor = positions) -> None:
            rows = _rows(value, tokens)
            if place not in held:
                held[place] = torch.empty(count, rows.shape[1], dtype=rows.dtype)
            held[place][positions] = rows.cpu()

        if group[0].module == INPUT:
            take(group[0], inputs)
        if group[-1].module == OUTPUT:
            seen: list[Tensor] = []
            with tapped(model, inner, take, whole=True):
                seen.append(forward(inputs))
            take(group[-1], seen[0].softmax(-1))
        elif inner:
            with tapped(model, inner, take):
                forward(inputs)
    for place in group:
        yield Layer(place.name, held.pop(place))


def _rows(value: Tensor, tokens: bool) -> Tensor:
    """One row for each example."""
    return value.mean(1) if tokens and value.ndim == 3 else value.flatten(1)
