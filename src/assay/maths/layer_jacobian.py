r"""The derivative $J_i$ of each example's outputs by the parameters, kept as what goes into each layer and the outputs' gradients by what comes out.

For output $c$ of example $i$ the row of $J_i$ is, at a layer, $\sum_p g_{icp} a_{ip}^\top$: a matrix of examples, outputs and parameters that is
multiplied by vectors, from both sides, without being made.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from .derivatives import CHUNK_BYTES
from .kronecker import Eigenbasis, Spectrum
from .layer_pairs import LayerMatrix, LayerPair
from .params import Params


@dataclasses.dataclass(frozen=True, eq=False)
class LayerJacobian:
    """The derivatives of some examples' outputs by the parameters of layers.

    Attributes:
        inputs: What goes into each layer, as in `LayerPair`.
        gradients: Of each output by what each layer makes, (outputs, examples, groups, positions, rows).
    """

    inputs: Mapping[LayerMatrix, Num[Tensor, "examples groups positions *columns"]]
    gradients: Mapping[LayerMatrix, Float[Tensor, "outputs examples groups positions rows"]]

    @classmethod
    def of(cls, pairs: Iterable[LayerPair]) -> "LayerJacobian":
        """From the layer pairs of one batch, in which those of the same rows are of one output after the other."""
        inputs: dict[LayerMatrix, dict[int, Tensor]] = {}
        gradients: dict[LayerMatrix, dict[int, list[Tensor]]] = {}
        for pair in pairs:
            # What goes in is the same for every output.
            inputs.setdefault(pair.matrix, {}).setdefault(pair.rows.start, pair.inputs)
            gradients.setdefault(pair.matrix, {}).setdefault(pair.rows.start, []).append(pair.gradients)
        return cls(
            {matrix: torch.cat(list(by_rows.values())) for matrix, by_rows in inputs.items()},
            {matrix: torch.cat([torch.stack(own) for own in by_rows.values()], 1) for matrix, by_rows in gradients.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence["LayerJacobian"]) -> "LayerJacobian":
        """Of several batches, one after the other."""
        return cls(
            {matrix: torch.cat([part.inputs[matrix] for part in parts]) for matrix in parts[0].inputs},
            {matrix: torch.cat([part.gradients[matrix] for part in parts], 1) for matrix in parts[0].inputs},
        )

    def take(self, order: Int[Tensor, " taken"]) -> "LayerJacobian":
        """Those of some examples, in this order."""
        if torch.equal(order, torch.arange(self._examples)):
            return self
        return LayerJacobian(
            {matrix: value[order] for matrix, value in self.inputs.items()},
            {matrix: value[:, order] for matrix, value in self.gradients.items()},
        )

    @property
    def _examples(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def _outputs(self) -> int:
        return len(next(iter(self.gradients.values())))

    def pairs(self, cotangents: Float[Tensor, "examples outputs columns"]) -> Iterator[LayerPair]:
        """The layer pairs of <cotangents_i, outputs_i>, once for each column."""
        rows = slice(0, self._examples)
        for matrix, inputs in self.inputs.items():
            gradients = self.gradients[matrix]
            for column in cotangents.to(gradients).unbind(-1):
                yield LayerPair(matrix, rows, inputs, torch.einsum("cngpo,nc->ngpo", gradients, column))

    def times(self, directions: Params) -> Float[Tensor, "examples outputs directions"]:
        """J_i v of each example.

        Args:
            directions: Tensors of the parameters' shapes, with an axis for the directions in front.

        Returns:
            In the type in which the gradients are kept.
        """
        found: Tensor | None = None
        for matrix, inputs in self.inputs.items():
            gradients, along = self.gradients[matrix], matrix.of(directions)
            along = along.to(gradients)
            if found is None:
                found = gradients.new_zeros(self._examples, self._outputs, len(along))
            for part in self._chunks(matrix, len(along)):
                if matrix.indexed:
                    moved = along[:, 0][:, :, inputs[part, 0]].permute(2, 0, 3, 1)[:, :, None]
                else:
                    moved = torch.einsum("ngpc,kgoc->nkgpo", inputs[part], along)
                found[part] += torch.einsum("nkgpo,cngpo->nck", moved, gradients[:, part])
        assert found is not None
        return found

    def pulled(self, factors: Float[Tensor, "examples outputs directions"]) -> dict[str, Tensor]:
        """Sum over the examples of J_i' times a row of each direction: the parameters' shapes, with an axis for the directions in front."""
        named: dict[str, Tensor] = {}
        for matrix, inputs in self.inputs.items():
            gradients, count = self.gradients[matrix], factors.shape[-1]
            factors = factors.to(gradients)
            total = gradients.new_zeros(count, matrix.groups, matrix.outputs, matrix.columns)
            for part in self._chunks(matrix, count):
                mixed = torch.einsum("cngpo,nck->nkgpo", gradients[:, part], factors[part])
                if matrix.indexed:
                    flat = mixed[:, :, 0].permute(1, 3, 0, 2).flatten(2)
                    total[:, 0].index_add_(2, inputs[part, 0].flatten(), flat)
                else:
                    total += torch.einsum("nkgpo,ngpc->kgoc", mixed, inputs[part])
            named |= matrix.named(total)
        return named

    def grams(self, basis: Eigenbasis, spectrum: Spectrum) -> Float[Tensor, "examples outputs outputs"]:
        """J_i U diag(spectrum(Lambda)) U' J_i' of each example, for a matrix that is diagonal in a basis of Kronecker factors."""
        found: Tensor | None = None
        for matrix, inputs in self.inputs.items():
            gradients, layer = self.gradients[matrix], basis.layers[matrix]
            if found is None:
                found = gradients.new_zeros(self._examples, self._outputs, self._outputs)
            factors = spectrum(layer).to(gradients)
            for part in self._chunks(matrix, self._outputs * matrix.columns):
                if gradients.shape[3] == 1 and layer.inputs is not None:
                    sides = (gradients[:, part] @ layer.gradients.to(gradients)).squeeze(3)
                    weights = ((inputs[part] @ layer.inputs.to(inputs)).square() @ factors.mT).squeeze(2)
                    found[part] += torch.einsum("cngo,dngo->ncd", sides * weights, sides)
                else:
                    rows = layer.turned(self._rows(matrix, part))
                    found[part] += torch.einsum("cngoj,dngoj->ncd", rows * factors, rows)
        assert found is not None
        return found

    def _rows(self, matrix: LayerMatrix, part: slice) -> Float[Tensor, "outputs examples groups rows columns"]:
        """The rows of J_i at one layer."""
        inputs, gradients = self.inputs[matrix][part], self.gradients[matrix][:, part]
        if not matrix.indexed:
            return gradients.mT @ inputs
        rows = gradients.new_zeros(*gradients.shape[:3], matrix.outputs, matrix.columns)
        place = inputs[None, :, :, None].expand(*gradients.shape[:3], matrix.outputs, -1)
        return rows.scatter_add_(-1, place, gradients.mT)

    def _chunks(self, matrix: LayerMatrix, each: int) -> Iterator[slice]:
        """Slices of examples of which `each` rows of what the layer makes fit."""
        one = self.gradients[matrix][0, 0]
        size = max(1, CHUNK_BYTES // (one.numel() * one.element_size() * each))
        return (slice(start, min(start + size, self._examples)) for start in range(0, self._examples, size))
