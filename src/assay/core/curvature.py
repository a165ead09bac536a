"""The curvature of a kept model's mean loss: as products, as a whole matrix, and by Kronecker factors of its layers."""

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..maths.draws import words
from ..maths.kronecker import Eigenbasis, Spectrum, eigenbasis, kronecker_factors
from ..maths.layer_jacobian import LayerJacobian
from ..maths.layer_pairs import LayerPair
from ..maths.params import Params
from .errors import UsageError
from .ids import Ids
from .models import Batch, Model, ModelSource

Factors = Literal["exact", "sampled", "empirical"]
"""Of which gradients Kronecker factors are made: `exact`, for the Gauss-Newton matrix one for each column of a square root of the loss's second
derivative by the outputs; `sampled`, one for a mix of the columns by random signs, with the same mean; `empirical`, those of the losses themselves."""
Kind = Literal["gauss_newton", "hessian"]
HELD = 256 * 2**20
"""Bytes of layer pairs that are kept in memory; what would take more is made again by passes over the examples whenever it is needed."""
_LAST: "weakref.WeakKeyDictionary[ModelSource, tuple[object, Eigenbasis]]" = weakref.WeakKeyDictionary()
"""EK-FAC of a source's model that was made last, and of what: methods that are asked for together mostly read the same, and of wide nets it is most of
their time. The last alone, because it may be the largest thing in memory."""


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
        yield from batch.layer_pairs(names, _mixed(root, factors, keys[batch.positions.numpy()], seed))


def _mixed(root: Tensor, factors: Factors, keys: np.ndarray, seed: int) -> Float[Tensor, "batch outputs columns"]:
    """The columns of a square root, or a mix of them by 1 or -1 with equal probability for each key and column."""
    if factors == "exact":
        return root
    drawn = [words(keys, seed, "factors", column) >> np.uint64(63) for column in range(root.shape[-1])]
    signs = 1 - 2 * torch.from_numpy(np.stack(drawn, 1).astype(np.float64))
    return root @ signs.to(root)[..., None]


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
        # An earlier reader may have stopped midway.
        kept.clear()
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


def batch_jacobian(batch: Batch, names: Sequence[str], outputs: int) -> LayerJacobian:
    """The derivatives of a batch's outputs, by layers.

    Returns:
        Of the first so many outputs, which are those of `Batch.output_derivatives`.

    Raises:
        UsageError: A parameter's gradient is not made of those of one layer.
    """
    return LayerJacobian.of(batch.layer_pairs(names, torch.eye(outputs).expand(len(batch.positions), -1, -1)))


def rows_of(columns: Float64[Tensor, "entries *columns"], like: Params) -> dict[str, Tensor]:
    """A vector, or each column of a matrix, as named tensors with an axis for the columns in front."""
    rows = columns.reshape(len(columns), -1).T
    parts = rows.split([value.numel() for value in like.values()], 1)
    return {name: part.reshape(len(rows), *value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def flat_rows(params: Params, names: Iterable[str]) -> Float64[Tensor, "rows entries"]:
    """Named tensors with an axis in front as a row each, in double precision on the CPU."""
    return torch.cat([params[name].flatten(1).to("cpu", torch.float64) for name in names], 1)


def along_rows(factors: Float64[Tensor, " entries"], vectors: Float64[Tensor, "entries *columns"]) -> Tensor:
    """Each row of a matrix, or entry of a vector, times its factor."""
    return factors.reshape(-1, *(1 for _ in vectors.shape[1:])) * vectors


class Curvature:
    """The curvature of a kept model's mean loss by some of its parameters, with the weight decay on its diagonal.

    Vectors are rows of all entries in double precision on the CPU, name after name; several stand side by side as columns.

    Attributes:
        model: The model.
        ids: Of the examples.
        like: The parameters.
        examples: How many examples there are.
        kind: The Gauss-Newton matrix or the Hessian.
        decay: Number that is added to the diagonal, by parameter.
        source: Where the model is from; EK-FAC of it that was made last is taken again; None to make it anew.
        backends: In which ways derivatives were taken so far.
    """

    def __init__(
        self,
        model: Model,
        names: Sequence[str],
        ids: Ids,
        kind: Kind = "gauss_newton",
        decay: Mapping[str, float] | None = None,
        source: ModelSource | None = None,
    ):
        self.model, self.kind, self.ids, self.source = model, kind, ids, source
        self.like = {name: model.params[name] for name in names}
        self.examples = len(ids)
        self.decay = dict.fromkeys(names, 0.0) | dict(decay or {})
        self.backends: set[str] = set()
        self._diagonal = torch.cat(
            [torch.full((value.numel(),), self.decay[name], dtype=torch.float64) for name, value in self.like.items()]
        )

    def __len__(self) -> int:
        return len(self._diagonal)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, by name."""
        return tuple(self.like)

    @property
    def dtype(self) -> torch.dtype:
        """In which derivatives are taken."""
        return next(iter(self.like.values())).dtype

    @functools.cached_property
    def by_outputs(self) -> tuple[Float[Tensor, "examples outputs"], Float[Tensor, "examples outputs columns"]]:
        """The derivatives of the losses by the outputs, of all examples (see `Batch.output_derivatives`).

        Raises:
            UsageError: The losses are no convex function of one set of outputs.
        """
        first: Tensor | None = None
        root: Tensor | None = None
        for batch in self.model.batches():
            here = [part.cpu() for part in batch.output_derivatives()]
            if first is None or root is None:
                first, root = (part.new_zeros(self.examples, *part.shape[1:]) for part in here)
            first[batch.positions], root[batch.positions] = here
        assert first is not None and root is not None
        return first, root

    @functools.cached_property
    def convex(self) -> bool:
        """Whether the losses are a convex function of one set of outputs, so that the Gauss-Newton matrix is a sum of squares."""
        try:
            for batch in self.model.batches():
                batch.output_derivatives()
        except UsageError:
            return False
        return True

    @functools.cached_property
    def jacobian(self) -> LayerJacobian | None:
        """The derivatives of all outputs, layer by layer, where layers have rules and all of it may stay in memory, and the losses are convex in them."""
        parts: list[LayerJacobian] = []
        positions = []
        try:
            # What it would take is known from one batch, whose own may not fit either; where layers are narrow it is the derivatives by the outputs.
            batch = next(iter(self.model.batches()))
            root = batch.output_derivatives()[1]
            each = root.nbytes + sum(
                pair.inputs.nbytes + root.shape[1] * pair.gradients.nbytes for pair in batch.layer_pairs(self.names)
            )
            if each * self.examples > HELD * len(batch.positions):
                return None
            outputs = self.by_outputs[0].shape[1]
            for batch in self.model.batches():
                parts.append(batch_jacobian(batch, self.names, outputs))
                positions.append(batch.positions)
        except UsageError:
            return None
        self.backends.add("layer pairs of all outputs")
        return LayerJacobian.joined(parts).take(torch.cat(positions).argsort())

    def times(self, vectors: Float64[Tensor, "entries *columns"]) -> Float64[Tensor, "entries *columns"]:
        """The matrix times a vector, or times each column.

        Returns:
            As many as were given.

        Raises:
            UsageError: The losses cannot be differentiated as needed.
        """
        along = rows_of(vectors, self.like)
        if self.kind == "gauss_newton" and (jacobian := self.jacobian) is not None:
            root = self.by_outputs[1]
            moved = jacobian.times(along)
            total = flat_rows(jacobian.pulled(root.to(moved) @ (root.to(moved).mT @ moved)), self.names)
        else:
            columns = [
                {name: value[place].to(self.like[name]) for name, value in along.items()} for place in range(vectors[0].numel())
            ]
            total = torch.zeros(len(columns), len(self), dtype=torch.float64)
            for batch in self.model.batches():
                product: Callable[[Params], Params] = batch.ggnvp if self.kind == "gauss_newton" else batch.hvp
                for row, direction in zip(total, columns, strict=True):
                    image = product(direction)
                    row += torch.cat([image[name].flatten().to("cpu", torch.float64) for name in self.names])
        return (total.T / self.examples).reshape(vectors.shape) + along_rows(self._diagonal, vectors)

    def matrix(self) -> Float64[Tensor, "entries entries"]:
        """The whole matrix.

        Returns:
            Exactly symmetric.

        Raises:
            UsageError: The losses cannot be differentiated as needed.
        """
        if self.kind == "hessian" or not self.convex:
            whole = self.times(torch.eye(len(self), dtype=torch.float64))
            return (whole + whole.T) / 2
        whole = torch.zeros(len(self), len(self), dtype=torch.float64)
        for rows in self._root_rows():
            whole.addmm_(rows.T, rows)
        return whole / self.examples + torch.diag(self._diagonal)

    def diagonal(self) -> Float64[Tensor, " entries"]:
        """The diagonal of the Gauss-Newton matrix, with the weight decay.

        Returns:
            At least 0.

        Raises:
            UsageError: The losses are no convex function of one set of outputs.
        """
        return sum((rows.square().sum(0) for rows in self._root_rows()), self.examples * self._diagonal) / self.examples

    def _root_rows(self) -> Iterator[Float64[Tensor, "rows entries"]]:
        """R_i' J_i of all examples, which has the Gauss-Newton matrix as its square, some rows at a time."""
        for batch in self.model.batches():
            for cotangents in batch.output_derivatives()[1].unbind(-1):
                for _, gradients in batch.grads(self.names, cotangents):
                    yield flat_rows(gradients, self.names)

    def eigenbasis(self, factors: Factors, seed: int = 0) -> Eigenbasis:
        """EK-FAC of the Gauss-Newton matrix, without the weight decay; its arguments are those of `factor_pairs`.

        Returns:
            The eigenvectors of the Kronecker factors, with EK-FAC's eigenvalues.

        Raises:
            UsageError: A parameter's gradient is not made of those of one layer; or the losses are no convex function of one set of outputs.
            ValueError: A factor would have too many rows; names the layer.
        """
        of = self.model.epoch, self.names, factors, seed, self.jacobian is None
        last = None if self.source is None else _LAST.pop(self.source, None)
        if last is None or last[0] != of:
            # Let go first, so that two are never there at once.
            last = None
            last = of, self._ekfac(factors, seed)
        if self.source is not None:
            _LAST[self.source] = last
        return last[1]

    def _ekfac(self, factors: Factors, seed: int) -> Eigenbasis:
        jacobian = self.jacobian
        if jacobian is None:
            return ekfac(self.model, self.names, self.examples, factors, self.ids.keys, seed)
        first, root = self.by_outputs
        mixed = first[..., None] if factors == "empirical" else _mixed(root, factors, self.ids.keys, seed)
        basis = eigenbasis(kronecker_factors(jacobian.pairs(mixed), self.examples))
        return basis.corrected(jacobian.pairs(mixed), self.examples)

    def kfac(self) -> Eigenbasis:
        """K-FAC of the losses' own gradients.

        Returns:
            The eigenvectors of the Kronecker factors, and the products of their eigenvalues.

        Raises:
            UsageError: A parameter's gradient is not made of those of one layer.
            ValueError: A factor would have too many rows; names the layer.
        """
        pairs = (pair for _, pairs in self._own_pairs() for pair in pairs)
        return eigenbasis(kronecker_factors(pairs, self.examples))

    def grad_dots(
        self, vectors: Float64[Tensor, "entries columns"], cotangents: Float[Tensor, "examples outputs"] | None = None
    ) -> Float64[Tensor, "columns examples"]:
        """Inner product of each column with the gradient of each example's loss.

        Args:
            vectors: A direction in each column.
            cotangents: Derivatives by the outputs in the place of those of the losses.

        Returns:
            A row for each column.
        """
        along = rows_of(vectors, self.like)
        if self.kind == "gauss_newton" and (jacobian := self.jacobian) is not None:
            moved = jacobian.times(along)
            factors = self.by_outputs[0] if cotangents is None else cotangents
            return torch.einsum("nck,nc->kn", moved.to("cpu", torch.float64), factors.double())
        found = torch.zeros(vectors.shape[1], self.examples, dtype=torch.float64)
        for batch in self.model.batches():
            if len(found) == 1 and cotangents is None:
                dots, backend = batch.grad_dots({name: value[0].to(self.like[name]) for name, value in along.items()})
                found[0, batch.positions] = dots.to("cpu", torch.float64)
            else:
                backend = "gradients in chunks of examples"
                for part, gradients in batch.grads(self.names, None if cotangents is None else cotangents[batch.positions]):
                    found[:, batch.positions[part]] = (flat_rows(gradients, self.names) @ vectors).T
            self.backends.add(backend)
        return found

    def gradients(self) -> Iterator[tuple[Int[Tensor, " chunk"], Float64[Tensor, "chunk entries"]]]:
        """The gradients of the examples' losses, some rows at a time, with the examples' positions."""
        for batch in self.model.batches():
            for part, gradients in batch.grads(self.names):
                yield batch.positions[part], flat_rows(gradients, self.names)

    def mixed_gradient(self) -> Float64[Tensor, " entries"]:
        """The sum of the gradients of the examples' losses, each with a sign by its id, because at an optimum the sum without is 0."""
        signs = 1 - 2 * torch.from_numpy((words(self.ids.keys, 0, "mixed gradient") >> np.uint64(63)).astype(np.float64))
        total = torch.zeros(len(self), dtype=torch.float64)
        leaves = {name: value.detach().requires_grad_() for name, value in self.like.items()}
        for batch in self.model.batches():
            with torch.enable_grad():
                losses = batch.losses(leaves)
                found = torch.autograd.grad(
                    losses @ signs[batch.positions].to(losses), list(leaves.values()), materialize_grads=True
                )
            total += torch.cat([value.to_dense().flatten().to("cpu", torch.float64) for value in found])
        return total

    def _own_pairs(self) -> Iterator[tuple[Tensor, Iterator[LayerPair]]]:
        """The layer pairs of the examples' losses, batch by batch, with the examples' positions."""
        if (jacobian := self.jacobian) is not None:
            yield torch.arange(self.examples), jacobian.pairs(self.by_outputs[0][..., None])
            return
        for batch in self.model.batches():
            yield batch.positions, batch.layer_pairs(self.names)

    def own_spectrum(self, basis: Eigenbasis) -> Eigenbasis:
        """The mean of the squares of the examples' gradients in a basis, in the place of its eigenvalues."""
        return basis.corrected((pair for _, pairs in self._own_pairs() for pair in pairs), self.examples)

    def quadratic_in(self, basis: Eigenbasis, spectrum: Spectrum) -> Float64[Tensor, " examples"]:
        """g_i' A^-1 g_i of each example's gradient, where the inverse is a spectrum in a basis of Kronecker factors."""
        found = torch.zeros(self.examples, dtype=torch.float64)
        for positions, pairs in self._own_pairs():
            values = torch.zeros(len(positions), dtype=torch.float64)
            basis.quadratic(spectrum, pairs, values)
            found[positions] = values
        return found

    def grams(
        self, half: Callable[[Float64[Tensor, "entries rows"]], Float64[Tensor, "entries rows"]]
    ) -> Float64[Tensor, "examples outputs outputs"]:
        """J_i A^-1 J_i' of each example.

        Args:
            half: A^-1/2 times each column, up to a rotation.

        Returns:
            Positive semidefinite.
        """
        outputs = self.by_outputs[0].shape[1]
        found = torch.zeros(self.examples, outputs, outputs, dtype=torch.float64)
        for batch in self.model.batches():
            each = [batch.grads(self.names, one.expand(len(batch.positions), -1)) for one in torch.eye(outputs)]
            for chunks in zip(*each, strict=True):
                rows = torch.stack([flat_rows(gradients, self.names) for _, gradients in chunks], 1)
                turned = half(rows.flatten(0, 1).T).T.reshape(rows.shape)
                found[batch.positions[chunks[0][0]]] = turned @ turned.mT
        return found

    def grams_in(self, basis: Eigenbasis, spectrum: Spectrum) -> Float64[Tensor, "examples outputs outputs"]:
        """J_i A^-1 J_i' of each example, where the inverse is a spectrum in a basis of Kronecker factors."""
        if (jacobian := self.jacobian) is not None:
            return jacobian.grams(basis, spectrum).to("cpu", torch.float64)
        outputs = self.by_outputs[0].shape[1]
        found = torch.zeros(self.examples, outputs, outputs, dtype=torch.float64)
        for batch in self.model.batches():
            total = torch.zeros(len(batch.positions), outputs, outputs, dtype=torch.float64)
            # Layer by layer and chunk by chunk, the same of every output; a pass for each, because all chunks at once may be too much.
            each = [batch.layer_pairs(self.names, one.expand(len(batch.positions), -1)) for one in torch.eye(outputs)]
            for pairs in zip(*each, strict=True):
                total[pairs[0].rows] += LayerJacobian.of(pairs).grams(basis, spectrum).to(total)
            found[batch.positions] = total
        return found
