"""Logistic regression on standardised columns."""

import dataclasses
import functools
from collections import Counter
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted, Scale, magnitude
from ..core.options import at_least
from .ridge import MOST_DIMS
from .sklearn import Wrapped, fitted

TOLERANCE = 1e-8
"""Largest entry of the gradient of the mean loss where the steps stop by default: probabilities are then right to about 1e-6, where scikit-learn's own
default, 1e-4, leaves some percent."""


ROOM = 2**26
"""Bytes of the rows of coalitions that are trained on at once."""
HALVINGS = 40
"""How often a Newton step is halved at most until it goes down."""


@functools.cache
def _pools() -> Any:
    """The pools of threads of the libraries that are loaded, looked for once: that takes a third of a small fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """A fitted classifier that standardises its input rows first."""

    scale: Scale
    inner: Wrapped

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks of the classifier inside."""
        return self.inner.remarks

    def predict_probs(self, rows: Float[Tensor, "queries dims"]) -> Float64[Tensor, "queries classes"]:
        """Softmax of the linear outputs."""
        return self.inner.predict_probs(self.scale(rows))


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """The objectives of several coalitions of one size: the mean loss plus half the penalty times the sum of the squared weights.

    Attributes:
        rows: Standardised rows and a column of ones, (coalitions, examples, dims + 1).
        labels: Their classes.
        closed: 0 for classes that a coalition has and minus infinity for others, (coalitions, 1, classes).
        penalty: Of each weight, (coalitions, dims + 1, 1); 0 of the intercepts.
    """

    rows: Tensor
    labels: Tensor
    closed: Tensor
    penalty: Tensor

    def of(self, some: Tensor) -> "_Problem":
        """Those of some coalitions."""
        return _Problem(self.rows[some], self.labels[some], self.closed[some], self.penalty[some])

    def losses(self, weight: Tensor) -> Float64[Tensor, " coalitions"]:
        """The objective of each coalition."""
        logits = torch.baddbmm(self.closed, self.rows, weight)
        own = logits.gather(2, self.labels[..., None])[..., 0]
        return (logits.logsumexp(2) - own).mean(1) + (self.penalty * weight.square()).sum((1, 2)) / 2

    def gradients(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each objective, and the probabilities."""
        probs = torch.baddbmm(self.closed, self.rows, weight).softmax(2)
        off = probs.scatter_add(2, self.labels[..., None], torch.full_like(self.labels[..., None], -1, dtype=probs.dtype))
        return self.rows.mT @ off / self.rows.shape[1] + self.penalty * weight, probs

    def steps(self, gradient: Tensor, probs: Tensor) -> Tensor:
        """Newton's steps by conjugate gradients, as exact as the gradients are small; along classes that a coalition does not have, none."""
        examples, dims = self.rows.shape[1:]
        # What all classes share of the Hessian's blocks; without a part of the diagonal it may be singular.
        spread = (probs * (1 - probs)).mean(2, keepdim=True)
        near = self.rows.mT @ (self.rows * spread) / examples
        near.diagonal(dim1=1, dim2=2).add_(self.penalty[..., 0])
        near.diagonal(dim1=1, dim2=2).mul_(1 + 1e-8).add_(1e-12)
        # Products are several times as fast as triangular solves of small systems.
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(near))
        step, left = torch.zeros_like(gradient), -gradient
        length = left.square().sum((1, 2), keepdim=True).sqrt()
        enough = length * length.sqrt().clamp(max=0.1)
        better = inverse @ left
        direction, size = better, (left * better).sum((1, 2), keepdim=True)
        for _ in range(10 * dims):
            going = left.square().sum((1, 2), keepdim=True).sqrt() > enough
            if not bool(going.any()):
                break
            moved = self.rows @ direction
            moved = probs * (moved - (probs * moved).sum(2, keepdim=True))
            product = self.rows.mT @ moved / examples + self.penalty * direction
            bent = (direction * product).sum((1, 2), keepdim=True)
            going &= bent > 0
            far = torch.where(going, size / bent.where(going, 1.0), 0.0)
            step, left = step + far * direction, left - far * product
            better = inverse @ left
            after = (left * better).sum((1, 2), keepdim=True)
            direction = better + torch.where(going, after / size.where(size > 0, 1.0), 0.0) * direction
            size = after
            if not bool(going.any()):
                break
        return step


class GrowingLogistic:
    """Logistic regressions on coalitions that grow: Newton's steps of all of them side by side, each from where it was with an example less.

    Attributes:
        remarks: Trainings that did not converge.
    """

    def __init__(self, rows: Tensor, labels: Tensor, classes: int, coalitions: int, queries: Tensor, learner: "Logistic"):
        # As in `Scale`; the columns are standardised, so that their unit changes nothing.
        unit = magnitude(rows)
        self._rows, self._labels, self._queries = rows.to(torch.float64) / unit, labels, queries.to(torch.float64) / unit
        self._learner, self._classes = learner, classes
        self._places = torch.zeros(coalitions, 0, dtype=torch.int64)
        self._weight = torch.zeros(coalitions, rows.shape[1] + 1, classes, dtype=torch.float64)
        self.remarks: Counter[str] = Counter()

    def add(self, places: Int[Tensor, " coalitions"]) -> None:
        """See `core.learner.Growing`."""
        self._places = torch.cat([self._places, places[:, None]], 1)

    def keep(self, kept: Bool[Tensor, " coalitions"]) -> None:
        """See `core.learner.Growing`."""
        self._places, self._weight = self._places[kept], self._weight[kept]

    def predict_probs(self) -> Float64[Tensor, "coalitions queries classes"]:
        """See `core.learner.Growing`."""
        coalitions, size = self._places.shape
        most = max(1, ROOM // (8 * (size + len(self._queries)) * (self._rows.shape[1] + 1 + 3 * self._classes)))
        # Of no coalitions too there is a part.
        return torch.cat([self._solved(slice(start, start + most)) for start in range(0, max(coalitions, 1), most)])

    def _solved(self, part: slice) -> Float64[Tensor, "some queries classes"]:
        """Train the coalitions of a part, and predict."""
        places = self._places[part]
        rows, labels = self._rows[places], self._labels[places]
        mean = rows.mean(1, keepdim=True)
        deviation = (rows - mean).square().mean(1, keepdim=True).sqrt()
        # As in `Scale`.
        constant = deviation <= 1e-12 * rows.abs().amax(1, keepdim=True)
        factor = torch.where(constant, 0.0, 1 / deviation.where(~constant, 1.0))
        there = torch.zeros(len(places), self._classes, dtype=torch.bool).scatter_(1, labels, True)
        # Two classes are one logit for scikit-learn: half the difference of ours in each, so that its penalty is twice theirs.
        twice = 1.0 + (there.sum(1) == 2).to(torch.float64)
        penalty = (twice / (self._learner.c * places.shape[1]))[:, None, None].expand(-1, rows.shape[2] + 1, 1).clone()
        penalty[:, -1] = 0
        ones = torch.ones(*places.shape, 1, dtype=torch.float64)
        closed = torch.zeros(there.shape, dtype=torch.float64).masked_fill(~there, -torch.inf)[:, None]
        problem = _Problem(torch.cat([(rows - mean) * factor, ones], 2), labels, closed, penalty)
        weight = self._newton(problem, self._weight[part])
        self._weight[part] = weight
        queries = (self._queries - mean) * factor
        return torch.baddbmm(closed + weight[:, -1:], queries, weight[:, :-1]).softmax(2)

    def _newton(self, problem: _Problem, weight: Tensor) -> Tensor:
        """The weights where no entry of the gradient is above the tolerance."""
        going = torch.arange(len(weight))
        for number in range(self._learner.iterations + 1):
            some = problem if len(going) == len(weight) else problem.of(going)
            here = weight[going]
            gradient, probs = some.gradients(here)
            rough = gradient.abs().amax((1, 2)) > self._learner.tolerance
            if not bool(rough.any()):
                return weight
            if number == self._learner.iterations:
                break
            some, going, here, gradient, probs = some.of(rough), going[rough], here[rough], gradient[rough], probs[rough]
            step, before = some.steps(gradient, probs), some.losses(here)
            slope, far = (gradient * step).sum((1, 2)), torch.ones(len(going), dtype=torch.float64)
            for _ in range(HALVINGS):
                # At the end the loss no longer tells a step down from rounding.
                slack = 1e-4 * far * slope + 1e-14 * before.abs()
                bad = ~(some.losses(here + far[:, None, None] * step) <= before + slack)
                if not bool(bad.any()):
                    break
                far = torch.where(bad, far / 2, far)
            weight[going] = here + far[:, None, None] * step
        self.remarks[f"{self._learner.title} did not converge within iterations={self._learner.iterations}"] += int(rough.sum())
        return weight


@dataclasses.dataclass(frozen=True)
class Logistic(AbstractLearner):
    """scikit-learn's logistic regression (Newton steps by conjugate gradients) with an L2 penalty, on columns standardised by the training rows.

    Args:
        c: Inverse strength of the penalty: the objective is c times the sum of the losses plus half the sum of the squared weights.
        iterations: Largest number of Newton steps; a fit that stops before it has converged says so.
        tolerance: Largest entry of the gradient of the mean loss where the steps stop; a larger one is faster, and its probabilities are less exact.
    """

    c: float = 1.0
    iterations: int = 200
    tolerance: float = TOLERANCE
    name: ClassVar[str] = "logistic"
    summary: ClassVar[str] = "logistic regression with an L2 penalty, on standardised columns"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, iterations=1, tolerance=1e-12)
        # Without an end there is no penalty.
        at_least(self, c=1e-12, finite=False)

    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        from sklearn.linear_model import LogisticRegression

        scale = Scale.of(rows, weights)
        model: Any = LogisticRegression(C=self.c, solver="newton-cg", tol=self.tolerance, max_iter=self.iterations)
        # Products of small matrices, on which threads of torch and of BLAS wait for each other: 50 times slower on a busy machine.
        with _pools().limit(limits=1, user_api="blas"):
            return Scaled(scale, fitted(model, self.title, scale(rows), labels, classes, weights, weighted=True))

    def grow(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        coalitions: int,
        queries: Float[Tensor, "queries dims"],
    ) -> GrowingLogistic | None:
        if rows.shape[1] > MOST_DIMS:
            return None
        return GrowingLogistic(rows, labels, classes, coalitions, queries, self)
