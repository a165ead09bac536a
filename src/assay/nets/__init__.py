"""One file per net. `catalogue()` finds them; nothing to register."""

import functools
import importlib
import inspect
import pkgutil

import torch
from torch import nn

from ..core import options
from ..core.errors import UnknownName
from ..maths import draws
from .net import AbstractNet

__all__ = ["AbstractNet", "build", "catalogue", "find", "parse"]


@functools.cache
def catalogue() -> dict[str, type[AbstractNet]]:
    """Every net in this package, by name."""
    found: dict[str, type[AbstractNet]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for cls in vars(module).values():
            if not inspect.isclass(cls) or not issubclass(cls, AbstractNet) or inspect.isabstract(cls):
                continue
            if cls.__module__ == module.__name__:
                if cls.name in found:
                    raise RuntimeError(f"two nets are named {cls.name!r}: {found[cls.name]} and {cls}")
                found[cls.name] = cls
    return found


def find(name: str) -> type[AbstractNet]:
    """The net of that name.

    Raises:
        UnknownName: With the nearest names.
    """
    if name not in catalogue():
        raise UnknownName("net", name, catalogue())
    return catalogue()[name]


def parse(spec: str | AbstractNet) -> AbstractNet:
    """The net that `"name"` or `"name:option=value,..."` asks for; a net is passed through.

    Raises:
        UnknownName: No such net or option.
        UsageError: A value that the option does not take.
    """
    if isinstance(spec, AbstractNet):
        return spec
    name, given = options.split(spec)
    return options.build(find(name), "net", given)


def build(net: str | AbstractNet, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A module whose initial weights depend on the arguments only. The caller's random state stays as it was.

    Args:
        net: Name with options, or a net.
        shape: Of one input: (channels, height, width) or (dims,).
        classes: How many logits.
        seed: Of the initial weights.

    Raises:
        UnknownName: No such net or option.
        UsageError: The shape or an option does not fit the net.
    """
    chosen = parse(net)
    with torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would reseed every accelerator too, which this fork does not restore.
        torch.default_generator.manual_seed(draws.integer(seed, "net"))
        return chosen.module(tuple(shape), classes)
