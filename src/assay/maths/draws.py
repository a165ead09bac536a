"""Random draws that depend on named counters only: (run seed, what for, epoch, step, example key).

A draw does not depend on how many draws came before it, so dropping an example, resuming after a kill or replaying one step
changes nothing for the others. The mixing is SplitMix64 (Steele, Lea, Flood 2014) applied once per counter.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def _mixed(words: np.ndarray) -> np.ndarray:
    words = words + _GAMMA
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def _purpose(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def words(keys: np.ndarray, seed: int, purpose: str, *counters: int) -> np.ndarray:
    """One 64-bit word per key, uniform, a pure function of the arguments.

    Args:
        keys: uint64, one per example (`Ids.keys`).
        seed: The run's seed.
        purpose: What the draw is for; different purposes are independent.
        counters: Epoch, step and the like.

    Returns:
        uint64, one per key, in their order.
    """
    state = np.zeros(1, np.uint64)
    for counter in (seed, _purpose(purpose), *counters):
        state = _mixed(state ^ np.uint64(counter & _WORD))
    return _mixed(_mixed(keys.astype(np.uint64)) ^ state)


def integer(seed: int, purpose: str, *counters: int) -> int:
    """One integer in [0, 2**63), to seed a generator."""
    return int(words(np.zeros(1, np.uint64), seed, purpose, *counters)[0] >> np.uint64(1))


def uniform(keys: np.ndarray, seed: int, purpose: str, *counters: int) -> Float64[Tensor, " examples"]:
    """One number in (0, 1) per key, never 0 and never 1."""
    return torch.from_numpy(((words(keys, seed, purpose, *counters) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def integers(keys: np.ndarray, below: int, seed: int, purpose: str, *counters: int) -> Int[Tensor, " examples"]:
    """One integer in [0, below) per key."""
    return (uniform(keys, seed, purpose, *counters) * below).to(torch.int64)


def permutation(keys: np.ndarray, seed: int, purpose: str, *counters: int) -> Int[Tensor, " examples"]:
    """An order of the examples. Leaving examples out leaves the others in the same relative order."""
    return torch.from_numpy(np.lexsort((keys, words(keys, seed, purpose, *counters))))
