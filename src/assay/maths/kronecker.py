r"""Kronecker-factored approximate curvature of layers (K-FAC, EK-FAC), from their inputs and output gradients.

$$ \frac1n \sum_i \Big(\sum_p g_{ip} a_{ip}^\top\Big)^{\otimes 2} \approx S \otimes A, \qquad
   A = \frac{1}{nP} \sum_{i,p} a_{ip} a_{ip}^\top, \qquad S = \frac1n \sum_{i,p} g_{ip} g_{ip}^\top $$

over $n$ examples of $P$ positions; exact where there is one position and the one side does not depend on the other.
Martens and Grosse 2015, https://arxiv.org/abs/1503.05671; over positions Grosse and Martens 2016, https://arxiv.org/abs/1602.01407.

EK-FAC keeps the eigenvectors $U_S$, $U_A$ of both sides and takes the diagonal of the curvature in their basis for its eigenvalues, which no other
eigenvalues bring nearer to the curvature in Frobenius norm. George et al. 2018, https://arxiv.org/abs/1806.03884.

$$ \Lambda_{kj} = \frac1n \sum_i \Big( \sum_p (U_S^\top g_{ip})_k \, (U_A^\top a_{ip})_j \Big)^2 $$
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .derivatives import CHUNK_BYTES
from .layer_pairs import LayerMatrix, LayerPair, by_group
from .params import Params

SIDE = 8192
"""The most rows that a factor may have: its eigenvalues take seconds to minutes."""
STRETCH = 2**15
"""Rows whose products are added up in their own precision before they are in double precision."""
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
        pairs: Layer pairs of all batches; those of an example may come several times with other gradients, whose products are added up.
        examples: Number of examples.

    Returns:
        One pair of factors for each layer.

    Raises:
        ValueError: A factor would have too many rows; names the layer.
    """
    inputs: dict[LayerMatrix, _Products] = {}
    gradients: dict[LayerMatrix, _Products] = {}
    for pair in pairs:
        matrix = pair.matrix
        side = max(matrix.outputs, 0 if matrix.indexed else matrix.columns)
        if side > SIDE:
            raise ValueError(
                f"layer {matrix.layer or 'of the whole net'} has a factor of {side:,} rows, of which {SIDE:,} are the most"
            )
        gradients.setdefault(matrix, _Products()).add(by_group(pair.gradients))
        of_inputs = inputs.setdefault(matrix, _Products())
        if matrix.indexed:
            of_inputs.count(pair.inputs.flatten(), matrix.columns)
        else:
            of_inputs.add(by_group(pair.inputs))
    return [
        KroneckerFactors(matrix, inputs.pop(matrix).over(of_gradients.rows), of_gradients.over(examples))
        for matrix, of_gradients in gradients.items()
    ]


class _Products:
    """The sum of the outer products of rows with themselves, in double precision on the CPU."""

    def __init__(self) -> None:
        self.rows = 0
        self._total = torch.zeros((), dtype=torch.float64)
        self._part: Tensor | None = None
        self._part_rows = 0

    def add(self, rows: Float[Tensor, "groups rows columns"]) -> None:
        """Add those of some rows."""
        # A side of thousands of rows takes longer to be converted than the products of one chunk, so that a stretch of them is added up first.
        if self._part is None:
            self._part = rows.mT @ rows
        else:
            self._part.baddbmm_(rows.mT, rows)
        self.rows += rows.shape[1]
        self._part_rows += rows.shape[1]
        # Half precision would lose what is added; and the memory of an accelerator is for the training.
        if self._part_rows >= STRETCH or self._part.element_size() < 4 or not self._part.is_cpu:
            self._settle()

    def count(self, places: Int[Tensor, " rows"], columns: int) -> None:
        """Add those of rows with a single 1, of which the diagonal is kept."""
        self._total = self._total + torch.bincount(places.cpu(), minlength=columns)[None]
        self.rows += len(places)

    def over(self, number: int) -> Tensor:
        """The sum divided by a number."""
        self._settle()
        return self._total / number

    def _settle(self) -> None:
        if self._part is not None:
            self._total = self._part.to("cpu", torch.float64).add_(self._total)
            self._part, self._part_rows = None, 0


@dataclasses.dataclass(frozen=True, eq=False)
class EigenLayer:
    """A layer's curvature as eigenvectors, of each side, and eigenvalues, of each pair of them; in double precision on the CPU.

    Attributes:
        matrix: How the layer's parameters stand in a matrix.
        gradients: Eigenvectors of S of each group, a column each.
        inputs: Eigenvectors of A, likewise; None for an embedding, whose A is diagonal.
        values: Eigenvalues: at row k and column j that of the outer product of the k-th vector of S and the j-th of A.
    """

    matrix: LayerMatrix
    gradients: Float[Tensor, "groups outputs outputs"]
    inputs: Float[Tensor, "groups columns columns"] | None
    values: Float[Tensor, "groups outputs columns"]

    def plus(self, shift: Mapping[str, float]) -> Float[Tensor, "groups outputs columns"]:
        """Eigenvalues plus a number for each parameter; where the parameters of a layer have several, their mean is used."""
        return self.values + sum(shift[name] for name in self.matrix.names) / len(self.matrix.names)

    def turned(self, matrix: Float[Tensor, "*lead groups outputs columns"]) -> Float[Tensor, "*lead groups outputs columns"]:
        """Matrices in the basis of the eigenvectors."""
        found = _by_group_times(matrix.mT, self.gradients).mT
        return found if self.inputs is None else _by_group_times(found, self.inputs)

    def turned_back(self, matrix: Float[Tensor, "*lead groups outputs columns"]) -> Float[Tensor, "*lead groups outputs columns"]:
        """The inverse of `turned`."""
        found = _by_group_times(matrix.mT, self.gradients.mT).mT
        return found if self.inputs is None else _by_group_times(found, self.inputs.mT)

    def squares(self, pair: LayerPair) -> Float[Tensor, "groups outputs columns"]:
        """The squares of the examples' gradients in this basis, added up."""
        if self.matrix.indexed:
            g, _, tokens, _ = self._by_token(pair)
            found = g.new_zeros(self.matrix.columns, self.matrix.outputs).index_add_(0, tokens, g.square())
            return found.mT[None]
        if pair.gradients.shape[2] == 1:
            g, a = self._sides(pair)
            return by_group(g.square()).mT @ by_group(a.square())
        total = pair.gradients.new_zeros(self.values.shape)
        for _, rows in self._rows(pair):
            total += rows.square_().sum(0)
        return total

    def quadratic(self, pair: LayerPair, factors: Float[Tensor, "groups outputs columns"]) -> Float[Tensor, " examples"]:
        """The sum of each example's squares in this basis, each times a factor: g' U diag(factors) U' g."""
        factors = factors.to(pair.gradients)
        if self.matrix.indexed:
            g, examples, tokens, count = self._by_token(pair)
            return g.new_zeros(count).index_add_(0, examples, (g.square() * factors[0].mT[tokens]).sum(1))
        if pair.gradients.shape[2] == 1:
            g, a = self._sides(pair)
            return ((g.square() @ factors) * a.square()).flatten(1).sum(1)
        found = pair.gradients.new_empty(len(pair.gradients))
        for part, rows in self._rows(pair):
            found[part] = (rows.square_() * factors).flatten(1).sum(1)
        return found

    def _sides(self, pair: LayerPair) -> tuple[Tensor, Tensor]:
        assert self.inputs is not None
        return _by_group_times(pair.gradients, self.gradients), _by_group_times(pair.inputs, self.inputs)

    def _rows(self, pair: LayerPair) -> Iterator[tuple[slice, Tensor]]:
        """The examples' gradients in this basis, (chunk, groups, outputs, columns), in chunks of examples."""
        outputs, columns, places = self.matrix.outputs, self.matrix.columns, pair.gradients.shape[2]
        size = max(1, CHUNK_BYTES // (self.values.numel() * pair.gradients.element_size()))
        # Many positions are cheaper added up before they are turned.
        first = places * (columns**2 + outputs**2) > outputs * columns * (outputs + columns)
        g, a = (pair.gradients, pair.inputs) if first else self._sides(pair)
        for start in range(0, len(g), size):
            part = slice(start, start + size)
            rows = g[part].mT @ a[part]
            yield part, self.turned(rows) if first else rows

    def _by_token(self, pair: LayerPair) -> tuple[Tensor, Tensor, Tensor, int]:
        """Of an embedding, each example's gradient by token in this basis: rows, and whose and which token's each is; and how many examples there are."""
        count, tokens = len(pair.inputs), pair.inputs.flatten(1)
        keys = torch.arange(count, device=tokens.device)[:, None] * self.matrix.columns + tokens
        found, places = keys.flatten().unique(return_inverse=True)
        g = by_group(pair.gradients)[0] @ self.gradients[0].to(pair.gradients)
        rows = g.new_zeros(len(found), g.shape[1]).index_add_(0, places, g)
        return rows, found // self.matrix.columns, found % self.matrix.columns, count


def _by_group_times(rows: Float[Tensor, "*lead groups rows columns"], vectors: Float[Tensor, "groups columns width"]) -> Tensor:
    """The rows of each group times its matrix, in one product for each group."""
    # A product over leading axes would copy the matrix, which may be the largest thing there is, once for each example.
    lead = math.prod(rows.shape[:-3])
    found = by_group(rows.reshape(lead, *rows.shape[-3:])) @ vectors.to(rows)
    return found.unflatten(1, (lead, rows.shape[-2])).transpose(0, 1).reshape(*rows.shape[:-1], vectors.shape[-1])


Spectrum = Callable[[EigenLayer], Float[Tensor, "groups outputs columns"]]
"""A function of a layer's eigenvalues."""


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenbasis:
    """Curvature that has, layer by layer, the eigenvectors of Kronecker factors: K-FAC's or EK-FAC's.

    Attributes:
        layers: The layers, by their matrices.
    """

    layers: Mapping[LayerMatrix, EigenLayer]

    def times(self, spectrum: Spectrum, params: Params) -> dict[str, Tensor]:
        """U diag(spectrum(Lambda)) U' times named tensors.

        Args:
            spectrum: What is done with the eigenvalues.
            params: Every parameter of every layer. Tensors may have further axes before those of the parameter, the same ones for all.

        Returns:
            The same names and shapes.
        """
        found: dict[str, Tensor] = {}
        for matrix, layer in self.layers.items():
            turned = layer.turned(matrix.of(params))
            found |= matrix.named(layer.turned_back(turned * spectrum(layer).to(turned)))
        return {name: found[name] for name in params}

    def turned(self, params: Params) -> list[Float[Tensor, "*lead groups outputs columns"]]:
        """Named tensors in the basis of the eigenvectors, layer by layer."""
        return [layer.turned(matrix.of(params)) for matrix, layer in self.layers.items()]

    def quadratic(self, spectrum: Spectrum, pairs: Iterable[LayerPair], values: Float[Tensor, " batch"]) -> None:
        """Add g' U diag(spectrum(Lambda)) U' g to the value of each example of a batch, with its gradient g.

        Args:
            spectrum: What is done with the eigenvalues.
            pairs: All layer pairs of the batch.
            values: One number per row of the batch; changed.
        """
        factors = {matrix: spectrum(layer) for matrix, layer in self.layers.items()}
        for pair in pairs:
            values[pair.rows] += self.layers[pair.matrix].quadratic(pair, factors[pair.matrix]).to(values)

    def corrected(self, pairs: Iterable[LayerPair], examples: int) -> "Eigenbasis":
        """The same eigenvectors with EK-FAC's eigenvalues.

        Args:
            pairs: Layer pairs of all batches, those that the factors were made of; of an example with several gradients the squares are added up.
            examples: Number of examples.

        Returns:
            What of all curvatures with these eigenvectors is nearest to that of the pairs, layer by layer, in Frobenius norm.
        """
        sums = {matrix: torch.zeros_like(layer.values) for matrix, layer in self.layers.items()}
        for pair in pairs:
            sums[pair.matrix] += self.layers[pair.matrix].squares(pair).to(sums[pair.matrix])
        return Eigenbasis(
            {matrix: dataclasses.replace(layer, values=sums[matrix] / examples) for matrix, layer in self.layers.items()}
        )


def eigenbasis(factors: Iterable[KroneckerFactors]) -> Eigenbasis:
    """The eigenvectors of Kronecker factors, with K-FAC's eigenvalues, which are products of one of each side."""
    layers = {}
    for one in factors:
        along, s_vectors = torch.linalg.eigh(one.gradients)
        across, a_vectors = (one.inputs, None) if one.matrix.indexed else torch.linalg.eigh(one.inputs)
        values = along.clamp(min=0)[:, :, None] * across.clamp(min=0)[:, None, :]
        layers[one.matrix] = EigenLayer(one.matrix, s_vectors, a_vectors, values)
    return Eigenbasis(layers)


def shifted(layer: EigenLayer, shift: Mapping[str, float]) -> Float[Tensor, "groups outputs columns"]:
    """`EigenLayer.plus`, above 0 everywhere, so that there is an inverse."""
    values = layer.plus(shift)
    return values.clamp(min=LEAST * float(values.max()) or 1.0)


def kronecker_inverse(basis: Eigenbasis, shift: Mapping[str, float]) -> Callable[[Params], dict[str, Tensor]]:
    """Multiplication by the inverse of the approximation plus a multiple of the unit matrix: symmetric and positive definite.

    Args:
        basis: The approximation.
        shift: Number added to the diagonal for each parameter, as in `shifted`.

    Returns:
        A function of named tensors that gives as many.
    """
    factors = {matrix: 1 / shifted(layer, shift) for matrix, layer in basis.layers.items()}
    return lambda params: basis.times(lambda layer: factors[layer.matrix], params)
