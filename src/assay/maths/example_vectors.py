"""A vector for each example, kept as a row, or as the two factors of an outer product: gradients of a linear layer take C + d numbers then, not C d."""

import abc
import dataclasses

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

ROWS = 8192
"""Rows that are worked on at once, at most."""


class Vectors(abc.ABC):
    """A vector for each example. A `direction` is a vector of the same space, as `total` gives it."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of what is kept."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, positions: Int[Tensor, " taken"]) -> "Vectors":
        """The vectors of some examples, copied."""

    @abc.abstractmethod
    def times(self, factors: Float[Tensor, " examples"]) -> "Vectors":
        """Each vector times a factor."""

    @abc.abstractmethod
    def to(self, dtype: torch.dtype) -> "Vectors":
        """The same vectors in another precision."""

    @abc.abstractmethod
    def centred(self) -> "Vectors":
        """Vectors of the same distances from one another that cancel less, where that costs nothing; else the same ones."""

    @abc.abstractmethod
    def dots(self, left: Int[Tensor, " left"], right: slice | Int[Tensor, " right"]) -> Float[Tensor, "left right"]:
        """Inner products of some vectors with some others."""

    @abc.abstractmethod
    def sq_norms(self) -> Float64[Tensor, " examples"]:
        """Squared length of each."""

    @abc.abstractmethod
    def total(self, weights: Float64[Tensor, " examples"]) -> Float64[Tensor, "..."]:
        """Sum of the vectors, each times its weight."""

    @abc.abstractmethod
    def along(self, direction: Float64[Tensor, "..."]) -> Float64[Tensor, " examples"]:
        """Inner product of each with a direction."""


@dataclasses.dataclass(frozen=True, eq=False)
class DenseVectors(Vectors):
    """Vectors as rows (see `Vectors`).

    Attributes:
        rows: One for each example.
    """

    rows: Float[Tensor, "examples dims"]

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "DenseVectors":
        return DenseVectors(self.rows[positions])

    def times(self, factors: Tensor) -> "DenseVectors":
        return DenseVectors(self.rows * factors.to(self.dtype)[:, None])

    def to(self, dtype: torch.dtype) -> "DenseVectors":
        return DenseVectors(self.rows.to(dtype))

    def centred(self) -> "DenseVectors":
        """The vectors less their mean."""
        mean = self.total(torch.full((len(self),), 1 / max(1, len(self)), dtype=torch.float64))
        return DenseVectors(self.rows - mean.to(self.dtype))

    def dots(self, left: Tensor, right: slice | Tensor) -> Tensor:
        return self.rows[left] @ self.rows[right].T

    def sq_norms(self) -> Tensor:
        return torch.cat([part.to(torch.float64).square().sum(1) for part in self.rows.split(ROWS)])

    def total(self, weights: Tensor) -> Tensor:
        """Sum of the vectors, each times its weight: (dims,)."""
        parts = zip(weights.split(ROWS), self.rows.split(ROWS), strict=True)
        return torch.stack([weight @ part.to(torch.float64) for weight, part in parts]).sum(0)

    def along(self, direction: Tensor) -> Tensor:
        return (self.rows @ direction.to(self.dtype)).to(torch.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class OuterVectors(Vectors):
    r"""Vectors $v_i = r_i l_i^T$ as their two factors (see `Vectors`).

    $\langle v_i, v_j \rangle = \langle l_i, l_j \rangle \langle r_i, r_j \rangle$.

    Attributes:
        left: What goes into the layer, with a 1 at the end where it has a bias.
        right: The gradient of the loss by what comes out.
    """

    left: Float[Tensor, "examples inputs"]
    right: Float[Tensor, "examples outputs"]

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    def __len__(self) -> int:
        return len(self.left)

    def take(self, positions: Tensor) -> "OuterVectors":
        return OuterVectors(self.left[positions], self.right[positions])

    def times(self, factors: Tensor) -> "OuterVectors":
        return OuterVectors(self.left, self.right * factors.to(self.dtype)[:, None])

    def to(self, dtype: torch.dtype) -> "OuterVectors":
        return OuterVectors(self.left.to(dtype), self.right.to(dtype))

    def centred(self) -> "OuterVectors":
        """The same vectors: less their mean they are no outer products."""
        return self

    def dots(self, left: Tensor, right: slice | Tensor) -> Tensor:
        return (self.left[left] @ self.left[right].T).mul_(self.right[left] @ self.right[right].T)

    def sq_norms(self) -> Tensor:
        return DenseVectors(self.left).sq_norms() * DenseVectors(self.right).sq_norms()

    def total(self, weights: Tensor) -> Tensor:
        """Sum of the vectors, each times its weight: (outputs, inputs)."""
        parts = zip(weights.split(ROWS), self.left.split(ROWS), self.right.split(ROWS), strict=True)
        return torch.stack([(r.to(torch.float64) * w[:, None]).T @ a.to(torch.float64) for w, a, r in parts]).sum(0)

    def along(self, direction: Tensor) -> Tensor:
        return (self.left @ direction.to(self.dtype).T).mul_(self.right).sum(1).to(torch.float64)
