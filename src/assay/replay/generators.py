"""The random generators that a user's loop draws from: torch's, NumPy's, Python's, the loader's and its samplers'."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from ..maths import draws


def seed_loop(seed: int | None, epoch: int, loader: DataLoader, process: int = 0) -> None:
    """Seed everything that an epoch of a loop draws from: torch, NumPy, random, the generators of the loader and its samplers.

    Of several processes that train together each draws otherwise, but for the samplers' order, which they share.
    """
    if seed is None:
        return
    seed_all(draws.integer(seed, "loop", epoch, *([process] if process else [])))
    for number, generator in loader_generators(loader):
        generator.manual_seed(draws.integer(seed, "loader", epoch, number))


def seed_all(word: int) -> None:
    """Seed torch's, NumPy's and Python's global generators."""
    torch.manual_seed(word)
    np.random.seed(word % 2**32)
    random.seed(word)


def loader_generators(loader: DataLoader) -> list[tuple[int, torch.Generator]]:
    """The generators of a loader and its samplers, each with a number: 0 the loader, 1 its sampler, 2 its batch sampler, 3 the sampler of that, 4 the sampler
    whose order that of several processes shares out, 5 the sampler of the batch sampler whose batches accelerate shares out.
    """
    batches = loader.batch_sampler
    inner = inside_shares(sampler_of(loader))
    shared = getattr(getattr(batches, "batch_sampler", None), "sampler", None)
    owners = (
        loader,
        loader.sampler,
        batches,
        getattr(batches, "sampler", None),
        None if inner is sampler_of(loader) else inner,
        shared,
    )
    found = [(number, getattr(owner, "generator", None)) for number, owner in enumerate(owners)]
    return [(number, generator) for number, generator in found if isinstance(generator, torch.Generator)]


def sampler_of(loader: DataLoader) -> Any:
    """What draws the order of a loader's examples."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def inside_shares(sampler: Any) -> Any:
    """The sampler whose order another one shares out to several processes, as Lightning's DistributedSamplerWrapper does; the sampler itself if it shares out none."""
    if type(sampler) is DistributedSampler or not isinstance(sampler, DistributedSampler):
        return sampler
    return getattr(sampler.dataset, "_sampler", sampler)


@contextlib.contextmanager
def untouched_generators(device: torch.device) -> Iterator[None]:
    """A context manager that restores torch's, NumPy's and Python's global generators at its end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
