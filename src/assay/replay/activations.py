"""Activations of a net's layers: layers are found in the order in which they are called, and read by hooks."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import NumericalError, UnknownName, UsageError, listed
from ..core.models import Layer
from ..training.batches import rows, size_of

ROOM = 5 * 2**29
"""Bytes that the layers of one pass may take."""
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
ACTIVATIONS = tuple(vars(nn.modules.activation)[name] for name in nn.modules.activation.__all__ if name != "MultiheadAttention")


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a net where activations are read: the input or output of one call of a module.

    Attributes:
        name: Name of the place.
        module: Name of the module in the model.
        call: Which of its calls in one pass, from 0.
        before: Whether the module's input is read, and not its output.
    """

    name: str
    module: str
    call: int = 0
    before: bool = False


INPUT, OUTPUT = Place("(input)", "(input)"), Place("(softmax)", "(softmax)")
"""Names of the input and of the softmax; no module has such a name."""


class _Enough(Exception):
    """Every layer that is wanted has been seen."""


class Unseen(UsageError):
    """The error that the activations of a named layer cannot be read."""


@contextlib.contextmanager
def tapped(
    model: nn.Module, places: Sequence[Place], batch: int, take: Callable[[Place, Tensor], None], *, whole: bool = False
) -> Iterator[None]:
    """A context manager that hands the activations of one forward pass at `places` to `take`, and ends the block after the last, unless `whole`.

    Activations are valid until the pass goes on: an activation that works in place may change it.

    Args:
        model: The net.
        places: Where activations are read.
        batch: How many examples the pass takes.
        take: Called with the activations, a row (of any shape) for each example.
        whole: Whether the pass runs to its end.

    Raises:
        UsageError: A layer is not called in this pass, or does not give a row for each example.
        NumericalError: An activation is not finite.
    """
    calls: dict[tuple[str, bool], int] = {}
    left = {(place.module, place.before, place.call): place for place in places}

    def tap(name: str, before: bool, value: Any) -> None:
        call = calls[name, before] = calls.get((name, before), -1) + 1
        place = left.pop((name, before, call), None)
        if place is None:
            return
        value = _whole(value)
        if not _rows_of(value, batch):
            raise Unseen(f"Layer {place.name} does not give a row of numbers for each example; name others with layers=.")
        if not bool(value.isfinite().all()):
            raise NumericalError(f"Layer {place.name} makes numbers that are NaN or infinite; look at the model that was kept.")
        take(place, value)
        if not left and not whole:
            raise _Enough

    with contextlib.ExitStack() as stack:
        modules = dict(model.named_modules())
        for name, before in {(place.module, place.before) for place in places}:
            if before:
                hook = modules[name].register_forward_pre_hook(
                    lambda _, args, name=name: tap(name, True, args[0] if args else None)
                )
            else:
                hook = modules[name].register_forward_hook(lambda _, args, output, name=name: tap(name, False, output))
            stack.callback(hook.remove)
        with contextlib.suppress(_Enough):
            yield
    if left:
        raise Unseen(f"Layer {next(iter(left.values())).name} is not called for every batch; name others with layers=.")


def _whole(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) and value else value


def _rows_of(value: Any, batch: int) -> bool:
    """Whether these are numbers, some for each example."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2 and len(value) == batch


def found(model: nn.Module, forward: Callable[[], Tensor]) -> list[Place]:
    """The layers of any net, in the order of a forward pass, whose activations are read if no layers are named.

    Containers are opened: sequences, the whole model, modules that only hold others and are never called themselves, and modules whose output is no
    tensor but, say, a dict of tensors. A remaining module counts if it is a block (its output, or the input of the activation that produces it), or a
    layer with weights (its output, or that of the normalisation right behind it). Layers that do not give a row for each example are passed over. So
    is the layer that gives the logits: the softmax takes its place.

    Args:
        model: The net.
        forward: One pass over some examples, by which the order is found.
    """
    calls, logits = _called(model, forward)
    opaque = {call.name for call in calls} - {call.name for call in calls if isinstance(call.output, Tensor)}
    parts = set(_opened(model, "", {call.name for call in calls} - opaque, whole=True))
    walked = [call for call in calls if call.name in parts]
    places: list[Place] = []
    for at, call in enumerate(walked):
        value = call.output
        if value is logits or not _rows_of(value, len(logits)):
            continue
        title = _title(call.name, call.call)
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


def _called(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[list[_Call], Tensor]:
    """Every call of a module in one pass, and the logits."""
    calls: list[_Call] = []
    count: dict[str, int] = {}

    def seen(name: str, module: nn.Module, output: Any) -> None:
        count[name] = count.get(name, -1) + 1
        calls.append(_Call(name, module, count[name], _whole(output)))

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            hook = module.register_forward_hook(lambda module, _, output, name=name: seen(name, module, output))
            stack.callback(hook.remove)
        logits = forward()
    return calls, logits


def fitting(model: nn.Module, forward: Callable[[], Tensor], option: str = "layers=") -> str:
    """Advice for an error message where a layer cannot be read: the option to set, and the names of the layers that can be read."""
    calls, logits = _called(model, forward)
    fit = [
        _title(one.name, one.call) for one in calls if one.name and one.output is not logits and _rows_of(one.output, len(logits))
    ]
    if not fit:
        return "no module of this model can be looked at, so choose a method that reads no layers, such as grand"
    usual = [place.name for place in found(model, forward)]
    return f"name others, such as {option}{(usual or fit)[-1]} (what can be looked at: {listed(fit, len(fit), 12)})"


def head_input(model: nn.Module, forward: Callable[[], Any]) -> Place | None:
    """The input of the linear layer that makes the logits: the last linear layer called whose output is what the model returns.

    Also where the model makes what it returns from that output alone, with at most one learned number per class: a temperature, a softmax, an
    offset per class. A sum of two layers has no such layer, and neither have logits that a further matrix makes.

    Args:
        model: The net.
        forward: Calls the model on some examples.
    """
    calls, returned = _linear_calls(model, forward)
    made = [at for at, (_, output) in enumerate(calls) if any(output is leaf for leaf in returned)]
    if not made:
        # The losses may call parts of the model rather than the model.
        last = (at for at in reversed(range(len(calls))) if not returned or _makes_alone(model, forward, calls, at, returned))
        made = list(itertools.islice(last, 1))
        # What the model keeps of a pass is that of a pass without gradients again, which can be copied.
        forward()
    if not made:
        return None
    name = calls[made[-1]][0]
    return Place(f"(what goes into {name})", name, _earlier(calls, made[-1]), before=True)


_Calls = list[tuple[str, Any]]


def _earlier(calls: _Calls, at: int) -> int:
    """Calls of the same layer before this one."""
    return sum(name == calls[at][0] for name, _ in calls[:at])


def _linear_calls(
    model: nn.Module, forward: Callable[[], Any], instead: Callable[[int, Tensor], Tensor | None] | None = None
) -> tuple[_Calls, list[Tensor]]:
    """Names and outputs of the linear layers in one pass, one for each call, and the tensors that the model returns.

    Args:
        model: The net.
        forward: Calls it on some examples.
        instead: What goes on in the place of an output, from the number of the call; None for the output itself.
    """
    calls: _Calls = []
    returned: list[Tensor] = []

    def called(name: str, output: Tensor) -> Tensor | None:
        calls.append((name, output))
        return None if instead is None else instead(len(calls) - 1, output)

    def left(module: nn.Module, args: Any, output: Any) -> None:
        whole = (
            vars(output) if dataclasses.is_dataclass(output) or not isinstance(output, (Tensor, tuple, list, dict)) else output
        )
        returned.extend(leaf for leaf in pytree.tree_leaves(whole) if isinstance(leaf, Tensor))

    with contextlib.ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                hook = layer.register_forward_hook(lambda _, args, output, name=name: called(name, output))
                stack.callback(hook.remove)
        stack.callback(model.register_forward_hook(left).remove)
        forward()
    return calls, returned


def _makes_alone(model: nn.Module, forward: Callable[[], Any], calls: _Calls, at: int, returned: Sequence[Tensor]) -> bool:
    """Whether what the model returns moves with one layer's output from example to example, and no further matrix makes it."""
    shape = calls[at][1].shape
    alike = [place for place, leaf in enumerate(returned) if leaf.shape == shape and leaf.is_floating_point()]
    if not alike:
        return False
    learned = list(model.parameters())
    frozen = [parameter for parameter in learned if parameter.is_floating_point() and not parameter.requires_grad]

    def turned(number: int, output: Tensor) -> Tensor | None:
        if number != at:
            return None
        # From here on, so that the graph knows what follows the layer and nothing else.
        torch.set_grad_enabled(True)
        return output.detach().roll(1, 0)

    with contextlib.ExitStack() as stack:
        for parameter in frozen:
            stack.callback(parameter.requires_grad_, False)
            parameter.requires_grad_()
        stack.enter_context(torch.no_grad())
        _, others = _linear_calls(model, forward, turned)
        for place in alike:
            leaf, other = returned[place], others[place]
            near = torch.finfo(leaf.dtype).eps ** 0.5 * (1 + leaf.abs().max())
            if not bool(((other - leaf.roll(1, 0)).abs() <= near).all()):
                continue
            gradients = torch.autograd.grad(other.sum(), learned, allow_unused=True) if other.requires_grad else ()
            if all(one is None or one.numel() <= shape[-1] for one in gradients):
                return True
    return False


def _title(name: str, call: int) -> str:
    return f"{name}#{call + 1}" if call else name


def _opened(module: nn.Module, name: str, called: set[str], whole: bool = False) -> Iterator[str]:
    """Names of what a net consists of, seen from outside: the `whole` of it and containers are opened, blocks are not."""
    children = list(module.named_children())
    if not children or not (whole or name not in called or isinstance(module, nn.Sequential)):
        yield name
        return
    for below, part in children:
        # A model that only holds another one is that one.
        yield from _opened(part, f"{name}.{below}" if name else below, called, whole and len(children) == 1)


def named(model: nn.Module, names: Sequence[str]) -> list[Place]:
    """The outputs of modules that a user names; `NAME#2` is what the second call in a pass gives, `NAME` the first.

    Raises:
        UnknownName: There is no such module.
        UsageError: No module is named, or one is named twice.
    """
    known = [name for name, _ in model.named_modules() if name]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"layers={'+'.join(names)} must name at least one layer, and each once.")
    places = []
    for title in names:
        name, _, number = title.partition("#")
        if name not in known or (number and (not number.isdecimal() or int(number) < 1)):
            raise UnknownName("layer of the model", title, known)
        places.append(Place(title, name, int(number or 1) - 1))
    return places


def layered(
    model: nn.Module,
    batches: Callable[[], Iterator[tuple[Tensor, Any]]],
    forward: Callable[[Any], Tensor],
    count: int,
    names: Sequence[str] | None = None,
    room: int = ROOM,
    inputs_of: Callable[[Any], Tensor] = lambda batch: batch,
) -> Iterator[Layer]:
    """The activations of every example, layer by layer: the input (if it is numbers), the hidden layers, the softmax.

    One pass reads as many layers as fit into `room` together, and ends with the last of them.

    Args:
        model: The net that `forward` runs.
        batches: Positions and batches of all examples; may be gone through again.
        forward: Logits of a batch, in eval mode and without gradients.
        count: How many examples there are.
        names: Modules; None for those that `found` finds.
        room: Bytes that the layers of one pass may take.
        inputs_of: Function that gives the model's inputs for a batch; by default a batch is the inputs.

    Raises:
        UnknownName: No module has that name.
        UsageError: There is no layer, or a layer does not give a row for each example.
    """
    _, batch = next(batches())
    # An odd number of examples, so that a layer with another axis in front is not taken for one of as many rows.
    few = rows(batch, slice(0, 7))
    inputs = inputs_of(few)
    tokens = not inputs.is_floating_point()
    places = found(model, lambda: forward(few)) if names is None else named(model, names)
    if not places and tokens:
        raise UsageError(
            "The model has no layer between its tokens and its logits that gives a row of numbers for each example; "
            f"{fitting(model, lambda: forward(few))}."
        )
    sizes: dict[Place, int] = {}
    try:
        with tapped(model, places, len(inputs), lambda place, value: sizes.__setitem__(place, row_of(value, tokens).shape[1])):
            forward(few)
    except Unseen as error:
        raise UsageError(f"{str(error).split(';')[0]}; {fitting(model, lambda: forward(few))}.") from error
    order = [INPUT] * (not tokens) + places + [OUTPUT]
    group: list[Place] = []
    taken = 0
    for place in [*order, None]:
        size = 0 if place is None else sizes.get(place, inputs[:1].numel()) * count * 4
        if place is None or (group and taken + size > room):
            yield from _pass(model, group, batches, forward, count, tokens, inputs_of)
            group, taken = [], 0
        if place is not None:
            group.append(place)
            taken += size


def _pass(
    model: nn.Module,
    group: Sequence[Place],
    batches: Callable[[], Iterator[tuple[Tensor, Any]]],
    forward: Callable[[Any], Tensor],
    count: int,
    tokens: bool,
    inputs_of: Callable[[Any], Tensor],
) -> Iterator[Layer]:
    held: dict[Place, Tensor] = {}
    inner = [place for place in group if place not in (INPUT, OUTPUT)]
    for positions, batch in batches():
        size = size_of(batch)

        def take(place: Place, value: Tensor, positions: Tensor = positions) -> None:
            own = row_of(value, tokens)
            if place not in held:
                held[place] = torch.empty(count, own.shape[1], dtype=own.dtype)
            held[place][positions] = own.cpu()

        if INPUT in group:
            take(INPUT, inputs_of(batch))
        if OUTPUT in group:
            with tapped(model, inner, size, take, whole=True):
                logits = forward(batch)
            take(OUTPUT, logits.softmax(-1))
        elif inner:
            with tapped(model, inner, size, take):
                forward(batch)
    for place in group:
        yield Layer(place.name, held.pop(place))


def row_of(value: Tensor, tokens: bool) -> Tensor:
    """One row for each example, in single precision at least."""
    rows = value.mean(1) if tokens and value.ndim == 3 else value.flatten(1)
    return rows if rows.dtype == torch.float64 else rows.to(torch.float32)
