r"""Kronecker-factored approximate curvature (K-FAC) of layers, from their inputs and output gradients.

$$ \frac1n \sum_i \Big(\sum_p g_{ip} a_{ip}^\top\Big)^{\otimes 2} \approx S \otimes A, \qquad
   A = \frac{1}{nP} \sum_{i,p} a_{ip} a_{ip}^\top, \qquad S = \frac1n \sum_{i,p} g_{ip} g_{ip}^\top $$

over $n$ examples of $P$ positions; exact where there is one position and the one side does not depend on the other.
Martens and Grosse 2015, https://arxiv.org/abs/1503.05671; over positions Grosse and Martens 2016, https://arxiv.org/abs/1602.01407.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from .layer_pairs import LayerMatrix, LayerPair, by_group
from .params import Params

SIDE = 8192
"""The most rows that a factor may have: its eigenvalues take seconds to minutes."""
LEAST = 1e-12
"""The smallest eigenvalue of the approximation as a part of the largest, where there is no damping."""


@dataclasses.dataclass(frozen=True, eq=False)
class KroneckerFactors:
    """The two sides of a layer's curvature, in double precision on the CPU.

    Attributes:
        matrix: How the layer's parameters stand in a matrix.
        inputs: A of each group, (groups, columns, columns); of an embedding its diagonal, (groups, columns).
        gradients: S of each group, (groups, outputs, outputs).
    """

    matrix: LayerMatrix
    inputs: Float[Tensor, "groups columns *columns"]
    gradients: Float[Tensor, "groups outputs outputs"]


def kronecker_factors(pairs: Iterable[LayerPair], examples: int) -> list[KroneckerFactors]:
    """The factors of each layer, of the mean over all examples.

    Args:
        pairs: Layer pairs of all batches.
        examples: Number of examples.

    Returns:
        One pair of factors for each layer.

    Raises:
        ValueError: A factor would have too many rows; names the layer.
    """
    sums: dict[LayerMatrix, tuple[Tensor, Tensor, int]] = {}
    for pair in pairs:
        matrix = pair.matrix
        side = max(matrix.outputs, 0 if matrix.indexed else matrix.columns)
        if side > SIDE:
            raise ValueError(
                f"layer {matrix.layer or 'of the whole net'} has a factor of {side:,} rows, of which {SIDE:,} are the most"
            )
        g = by_group(pair.gradients).to("cpu", torch.float64)
        if matrix.indexed:
            a = torch.bincount(pair.inputs.flatten().cpu(), minlength=matrix.columns).to(torch.float64)[None]
        else:
            rows = by_group(pair.inputs).to("cpu", torch.float64)
            a = rows.mT @ rows
        if matrix not in sums:
            sums[matrix] = torch.zeros_like(a), g.new_zeros(len(g), g.shape[2], g.shape[2]), 0
        inputs, gradients, positions = sums[matrix]
        sums[matrix] = inputs + a, gradients + g.mT @ g, positions + g.shape[1]
    return [KroneckerFactors(matrix, a / positions, s / examples) for matrix, (a, s, positions) in sums.items()]


def kronecker_inverse(factors: Iterable[KroneckerFactors], shift: Mapping[str, float]) -> Callable[[Params], dict[str, Tensor]]:
    """Multiplication by the inverse of the factors' product plus a multiple of the unit matrix: symmetric and positive definite.

    Args:
        factors: The factors of each layer.
        shift: Number added to the diagonal for each parameter; where the parameters of a layer have several, their mean is used.

    Returns:
        A function of named tensors that gives as many.
    """
    layers = []
    for one in factors:
        along, s_vectors = torch.linalg.eigh(one.gradients)
        across, a_vectors = (one.inputs, None) if one.matrix.indexed else torch.linalg.eigh(one.inputs)
        values = along.clamp(min=0)[:, :, None] * across.clamp(min=0)[:, None, :]
        values = values + sum(shift[name] for name in one.matrix.names) / len(one.matrix.names)
        values = values.clamp(min=LEAST * float(values.max()) or 1.0)
        layers.append((one.matrix, s_vectors, a_vectors, values))

    def times(params: Params) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for matrix, s_vectors, a_vectors, values in layers:
            turned = s_vectors.mT @ matrix.of(params)
            turned = (turned if a_vectors is None else turned @ a_vectors) / values
            found |= matrix.named(s_vectors @ (turned if a_vectors is None else turned @ a_vectors.mT))
        return {name: found[name] for name in params}

    return times
