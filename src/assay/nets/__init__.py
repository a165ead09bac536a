"""One file per net. `catalogue()` finds them and those of other packages; nothing is registered."""

import torch
from torch import nn

from ..core.catalogue import Catalogue
from ..maths import draws
from .net import AbstractNet

__all__ = ["NETS", "AbstractNet", "build", "catalogue", "find", "parse"]

NETS: Catalogue[AbstractNet] = Catalogue("net", AbstractNet, __name__, asked="`assay record --net NAME`")  # type: ignore[type-abstract]
catalogue, find, parse = NETS.classes, NETS.find, NETS.parse


def build(net: str | AbstractNet, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A module whose initial weights depend on the arguments only. The caller's random state stays as it was.

    Args:
        net: Name with options, or a net.
        shape: Shape of one input: (channels, height, width) or (dims,).
        classes: How many logits.
        seed: Random seed of the initial weights.

    Raises:
        UnknownName: No such net or option.
        UsageError: The shape or an option does not fit the net.
    """
    chosen = parse(net)
    with torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would reseed every accelerator too, which this fork does not restore.
        torch.default_generator.manual_seed(draws.integer(seed, "net"))
        return chosen.module(tuple(shape), classes)
