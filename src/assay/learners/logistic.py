"""Logistic regression on standardised columns."""

import dataclasses
import functools
from typing import Any, ClassVar

from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.learner import AbstractLearner, Fitted, Scale
from ..core.options import at_least
from .sklearn import Wrapped, fitted

TOLERANCE = 1e-8
"""Largest entry of the gradient of the mean loss where the steps stop by default: probabilities are then right to about 1e-6, where scikit-learn's own
default, 1e-4, leaves some percent."""


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
