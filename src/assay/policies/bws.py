r"""Best window selection (BWS): of all windows of the ranking, the one whose examples teach a ridge classifier the most about all examples.

With the window $w$ of the ranking that starts at $s$, features $h$ and classes as unit vectors $e_y$,

$$ W_s = \arg\min_W \sum_{i \in w} \lVert e_{y_i} - W^\top h_i \rVert^2 + \lambda \lVert W \rVert^2, \qquad
   s^* = \arg\max_s \frac{1}{n} \#\{i : \arg\max_c (W_s^\top h_i)_c = y_i\}. $$
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.features import FeatureSpec
from ..core.method import Asks, Source
from ..core.needs import Need
from ..core.scores import ordered
from ..core.selection import AbstractSelector, Pool, Selection, budget_of, count_of


def window_starts(examples: int, budget: int, step: float) -> list[int]:
    """First ranks of the windows: floor(j * step * examples), as long as a window of `budget` ranks fits.

    Returns:
        From 0 on, rising; 0 is always among them.
    """
    if step * examples < 1:
        # Every rank is one, and there may be many more multiples than ranks.
        return list(range(examples - budget + 1))
    starts, j = [0], 1
    while (start := budget_of(min(1.0, j * step), examples)) + budget <= examples and j * step <= 1:
        starts += [start] if start > starts[-1] else []
        j += 1
    return starts


def window_accuracies(
    rows: Float[Tensor, "examples dims"], labels: Int[Tensor, " examples"], budget: int, starts: list[int], penalty: float = 1.0
) -> Float64[Tensor, " starts"]:
    """Accuracy on all examples of the ridge classifiers (no intercept) trained on windows of `budget` examples.

    Args:
        rows: Features, in the order of the ranking.
        labels: Given class of each.
        budget: Examples in a window, at least 1.
        starts: First rank of each window.
        penalty: Factor of the sum of the squared weights, above 0.

    Returns:
        In 0..1; of equal outputs the lowest class is predicted.

    Raises:
        ValueError: A sum is not finite, or the penalty is lost in the rounding of the others.
    """
    rows = rows.to(torch.float64)
    wanted = torch.nn.functional.one_hot(labels).to(torch.float64)
    found = torch.empty(len(starts), dtype=torch.float64)
    for number, start in enumerate(starts):
        x, y = rows[start : start + budget], wanted[start : start + budget]
        # The smaller of the two systems, which have the same solution.
        small = x.T @ x if x.shape[1] <= len(x) else x @ x.T
        if not bool(small.isfinite().all()):
            raise ValueError(
                "Products of features are not finite; rows must be finite, and not so large that their squares overflow."
            )
        small.diagonal().add_(penalty)
        try:
            weight = torch.linalg.solve(small, x.T @ y) if x.shape[1] <= len(x) else x.T @ torch.linalg.solve(small, y)
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                f"penalty={penalty:g} is lost in the rounding of products of features; give a larger one."
            ) from error
        right = [
            int(((part @ weight).argmax(1) == given).sum())
            for part, given in zip(rows.split(8192), labels.split(8192), strict=True)
        ]
        found[number] = sum(right) / len(labels)
    return found


@dataclasses.dataclass(frozen=True)
class BWS(AbstractSelector):
    """Keeps the window of the ranking, hardest first, whose examples make the ridge classifier on features that is right on most of all examples.

    Windows start at every multiple of `step`; of windows that are equally good, the hardest stays. Budgets do not nest, because each has a best start of its
    own.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: Features of the ridge classifier: `penultimate` or others of a kept model, `inputs`, or `rows:NAME`.
        step: Distance between the starts of windows, as a fraction of the examples; above 0, at most 1.
        penalty: Factor of the sum of the squared weights; above 0.
    """

    keep: int | float
    features: str = "penultimate"
    step: float = 0.05
    penalty: float = 1.0
    name: ClassVar[str] = "bws"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LABELS})
    nests: ClassVar[bool] = False
    spreads: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Choi et al. 2024, Best window selection",
        "https://arxiv.org/abs/2406.03057",
        "features of a model that the run kept, by default the last, where the paper trains a net for some epochs; any score that ranks difficulty or suspicion; "
        "the start is searched anew for each budget",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        FeatureSpec.parse(self.features)
        if not 0 < self.step <= 1:
            raise UsageError(
                f"step={self.step} is outside 0..1, 0 excluded; it is the distance between windows as a fraction of the examples."
            )
        if not 0 < self.penalty < float("inf"):
            raise UsageError(f"penalty={self.penalty} is not a finite number above 0.")

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,))

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        order = ordered(pool.scores.hardness(), pool.ids, descending=True)
        starts, best, said = window_starts(len(pool), budget, self.step), 0, ""
        rows = pool.features(self.features)
        if budget:
            try:
                accuracies = window_accuracies(rows[order], pool.labels[order], budget, starts, self.penalty)
            except ValueError as error:
                raise UsageError(f"{self.title}: {error}") from error
            best = int(accuracies.argmax())
            said = f", from which a ridge classifier on {self.features} is right on {100 * float(accuracies[best]):.1f} % of all"
        what = f"the {budget} ranks from {starts[best]} on (0 is the hardest or most suspect) by {pool.scores.title}, the best of {len(starts)} windows{said}"
        return Selection.first(order.roll(-starts[best]), budget, f"within {what}", f"outside {what}")
