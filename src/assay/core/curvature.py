"""The curvature of a kept model's mean loss, by Kronecker factors of its layers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..maths.draws import words
from ..maths.kronecker import Eigenbasis, eigenbasis, kronecker_factors
from ..maths.layer_pairs import LayerPair
from .models import Batch, Model

Factors = Literal["exact", "sampled", "empirical"]
"""Of which gradients Kronecker factors are made: `exact`, for the Gauss-Newton matrix one for each column of a square root of the loss's second
derivative by the outputs; `sampled`, one for a mix of the columns by random signs, with the same mean; `empirical`, those of the losses themselves."""
HELD = 64 * 2**20
"""Bytes of layer pairs that are kept for a second reading; more are made again."""


def factor_pairs(
    batches: Iterable[Batch], names: Sequence[str], factors: Factors, keys: np.ndarray, seed: int = 0
) -> Iterator[LayerPair]:
    """Inputs and output gradients of the layers, of those gradients that curvature is the sum of the squares of.

    Args:
        batches: Examples at a model.
        names: The parameters.
        factors: Of which gradients.
        keys: A number for each example (`Ids.keys`), which the signs of `sampled` are drawn by.
        seed: Of the signs.

    Yields:
        The layer pairs of every batch, for `exact` once for each column.

    Raises:
        UsageError: A parameter's gradient is not made of those of one layer; or the losses are no convex function of one set of outputs.
    """
    for batch in batches:
        if factors == "empirical":
            yield from batch.layer_pairs(names)
            continue
        root = batch.output_derivatives()[1]
        if factors == "sampled":
            root = root @ _signs(keys[batch.positions.numpy()], root.shape[-1], seed).to(root)[..., None]
        for cotangents in root.unbind(-1):
            yield from batch.layer_pairs(names, cotangents)


def _signs(keys: np.ndarray, columns: int, seed: int) -> Tensor:
    """1 or -1 with equal probability for each key and column."""
    drawn = [words(keys, seed, "factors", column) >> np.uint64(63) for column in range(columns)]
    return 1 - 2 * torch.from_numpy(np.stack(drawn, 1).astype(np.float64))


def ekfac(model: Model, names: Sequence[str], examples: int, factors: Factors, keys: np.ndarray, seed: int = 0) -> Eigenbasis:
    """EK-FAC of the curvature of the mean loss over a model's examples; its arguments are those of `factor_pairs`.

    Returns:
        The eigenvectors of the Kronecker factors, with EK-FAC's eigenvalues.

    Raises:
        UsageError: As `factor_pairs` raises it.
        ValueError: A factor would have too many rows; names the layer.
    """
    again = _held(lambda: factor_pairs(model.batches(), names, factors, keys, seed))
    return eigenbasis(kronecker_factors(again(), examples)).corrected(again(), examples)


def _held(make: Callable[[], Iterator[LayerPair]]) -> Callable[[], Iterator[LayerPair]]:
    """The same pairs whenever asked for, out of memory where they fit."""
    kept: list[LayerPair] = []
    whole = False

    def pairs() -> Iterator[LayerPair]:
        nonlocal whole
        if whole:
            yield from kept
            return
        size = 0
        for pair in make():
            size += sum(part.numel() * part.element_size() for part in (pair.inputs, pair.gradients))
            if size <= HELD:
                kept.append(pair)
            else:
                kept.clear()
            yield pair
        whole = size <= HELD

    return pairs
