r"""GradMatch: examples and weights whose weighted mean gradient is nearly the mean gradient of all, or of validation examples.

$$ \min_{w \ge 0,\; |\mathrm{supp}\, w| \le k} \; \lVert \sum_i w_i g_i - \bar g \rVert^2 + \lambda \lVert w \rVert^2,
   \qquad \lambda = \rho \, \tfrac1n \sum_i \lVert g_i \rVert^2. $$

$\bar g$ is the mean of all $g_i$, or that of the validation examples.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..core.errors import Mismatch, UsageError
from ..core.features import FeatureSpec
from ..core.method import Asks, Source
from ..core.needs import Need
from ..core.selection import AbstractSelector, Pool, Selection, class_turns, count_of
from ..maths.example_vectors import Vectors
from ..maths.matching_pursuit import matching_pursuit


def gradmatch(
    vectors: Vectors, count: int, ridge: float, goal: Float64[Tensor, "..."] | None = None
) -> tuple[Int[Tensor, " kept"], Float64[Tensor, " kept"], Float64[Tensor, " steps"]]:
    r"""Examples whose weighted mean gradient is nearly that of all, or another one.

    Where all inner products with what is left of the mean gradient are 0 or below before there are enough, the same is done again among those that are
    left, and each round gets a part of the weight that is its part of the examples, however short its gradients are.

    Args:
        vectors: Gradient of each example.
        count: How many are kept, in 0..examples.
        ridge: $\rho$, $\lambda$ relative to the mean squared length.
        goal: The mean gradient that is matched, $\bar g$; by default that of all examples.

    Returns:
        The examples, the lowest number first among equals; fewer than `count` where no round can begin. Their weights, with which their gradients add up to
        nearly the mean one: as long as the part of it that they make up, not shortened by the ridge. And the rest
        $\lVert \sum_i w_i g_i - \bar g \rVert^2 + \lambda \lVert w \rVert^2$ after each step of the first round, relative to $\lVert \bar g \rVert^2$.

    Raises:
        ValueError: A gradient is not finite, or their mean is 0; or the ridge is too large.
    """
    n = len(vectors)
    mean = vectors.total(torch.full((n,), 1 / n, dtype=torch.float64)) if goal is None else goal
    length, size = float(mean.square().sum()), float(vectors.sq_norms().mean())
    if not (size < math.inf and length < math.inf):
        raise ValueError("Gradients are not finite; rows must be finite, and not so large that their squares overflow.")
    if not ridge * size < math.inf:
        raise ValueError(f"ridge={ridge:g} times the mean squared length of the gradients is not finite; give a smaller one.")
    if length <= (16 * torch.finfo(vectors.dtype).eps) ** 2 * size:
        raise ValueError(
            "The mean gradient is 0, so that there is none to match; take features of another epoch, or the other by_class."
        )
    left, first = torch.arange(n), torch.zeros(0, dtype=torch.float64)
    found: list[Tensor] = []
    weights: list[Tensor] = []
    missing = count
    while missing and len(left):
        inside, own, rests = matching_pursuit(vectors.take(left), mean, missing, ridge * size)
        if not len(inside):
            break
        first = first if found else rests / length
        # Only their proportions count; small ones have sums of 0.
        own = own / own.max()
        found.append(left[inside])
        weights.append(own / own.mean())
        missing -= len(inside)
        left = left[~torch.isin(left, found[-1])]
    if not found:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64), first
    kept, own = torch.cat(found), torch.cat(weights)
    made = vectors.total(torch.zeros(n, dtype=torch.float64).index_copy(0, kept, own))
    return kept, own * float((made * mean).sum() / made.square().sum()), first


@dataclasses.dataclass(frozen=True)
class GradMatch(AbstractSelector):
    """Keeps examples that, weighted, have the mean gradient of all, or of all of their class, or of validation examples. No score is read.

    Examples are added one by one, each by its inner product with the part of the mean gradient that those kept do not make up, and all weights are solved for again. An
    example whose weight would fall below 0 leaves. Each class counts by its examples. Budgets do not nest: what is kept depends on how much is.
    Of gradients of the head only their factors are kept. Time grows with k n and k^3, memory with k^2, for k of n examples (of each class).

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1; or a whole number, how many stay.
        features: Gradients: `head_grads`, `grads:project=NUMBER`; or any other features.
        by_class: Whether the mean gradient of each given class is matched by examples of that class, in proportion to its examples.
        ridge: How much large weights are held down, above 0: the square of the weights counts this times the mean squared length of the gradients. With
            more, more examples share the weight.
        weights_as: `mean`: weights are 1 in the mean, so that the direction of the mean gradient is matched and not its length: examples of large
            gradients that point along it are kept, and steps get longer than on all examples. `match`: the length is matched too, by weights below 1 in the mean.
        target: Validation examples, by name, whose mean gradient is matched in the place of that of all examples: `validation`, or another target that is
            a mean of losses; with by_class those of each class for that class.
    """

    keep: int | float
    features: str = "head_grads"
    by_class: bool = True
    ridge: float = 0.1
    weights_as: Literal["mean", "match"] = "mean"
    target: str | None = None
    name: ClassVar[str] = "gradmatch"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source(
        "Killamsetty et al. 2021, GRAD-MATCH: Gradient matching based data subset selection for efficient deep model training",
        "https://arxiv.org/abs/2103.00123",
        "once, by a kept model, where the paper selects anew as training goes on; weights are at least 0 in every step, not in the last only; the ridge is relative to the "
        "gradients' size; when no example is left that helps, the mean gradient is matched again by others, where the released code draws the rest at random; ties "
        "break by id; classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        FeatureSpec.parse(self.features)
        if not 0 < self.ridge < math.inf:
            raise UsageError(f"{self.name}: ridge={self.ridge} is no finite number above 0.")
        if self.target is not None and FeatureSpec.parse(self.features).kind == "rows":
            raise UsageError(
                f"{self.name}: {self.features} are known of the examples and not of target {self.target!r}; give other features, or leave target out."
            )

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Features, labels where classes are matched each by itself, and the kept models where a target is matched, which know it."""
        needs = {Need.FEATURES: True, Need.LABELS: self.by_class, Need.CHECKPOINTS: self.target is not None}
        return frozenset(need for need, read in needs.items() if read)

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,), queries=() if self.target is None else (self.target,))

    def _goals(self, pool: Pool, own: Vectors) -> Callable[[Tensor], Tensor | None]:
        """The mean gradients that are matched.

        Returns:
            A function from the members of a class, or from all examples, to the mean gradient that they match; None for their own.

        Raises:
            UsageError: The target has no example of a class.
            Mismatch: Its features have other dimensions than those of the examples.
        """
        if self.target is None:
            return lambda members: None
        target = self.target
        queries, vectors = pool.queries(target), pool.query_vectors(self.features, target)
        dims = [len(one.total(torch.zeros(len(one), dtype=torch.float64)).flatten()) for one in (own, vectors)]
        if dims[0] != dims[1]:
            raise Mismatch(
                f"{self.title}: {self.features} are {dims[0]} numbers of an example and {dims[1]} of one of target {target!r}; give the target inputs of the "
                "examples' shape."
            )

        def goal(members: Tensor) -> Tensor:
            weights = queries.weights
            if self.by_class:
                label = int(pool.labels[members[0]])
                weights = torch.where(queries.labels == label, weights, 0.0)
                if not float(weights.sum()) > 0:
                    raise UsageError(
                        f"{self.title}: {target} has no example of class {pool.class_name(label)}, whose mean gradient would be matched; hold out more, or give "
                        "by_class=false."
                    )
            return vectors.total(weights / weights.sum())

        return goal

    def select(self, pool: Pool) -> Selection:
        n = len(pool)
        budget = count_of(self.keep, n)
        ranks, vectors = pool.ids.ranks, pool.vectors(self.features)
        kept, weights = torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.float64)
        reasons, rests, most = {}, [], budget
        goal = self._goals(pool, vectors)
        what = f"the mean gradient{'' if self.target is None else f' of {self.target}'}"
        for members, turns, among in class_turns(pool, self.by_class, budget):
            if not len(turns):
                continue
            members = members[torch.argsort(ranks[members])]
            aim = goal(members)
            try:
                inside, own, rest = gradmatch(vectors.take(members), len(turns), self.ridge, aim)
            except ValueError as error:
                raise UsageError(f"{self.title}{among}: {error}") from error
            if len(inside) < len(turns):
                most = min(most, int(turns[len(inside)]))
                continue
            places = members[inside]
            kept[places] = True
            weights[places] = own * len(members) * budget / n
            rests.append(float(rest[-1]))
            for position, weight in zip(places.tolist(), own.tolist(), strict=True):
                reasons[position] = f"{weight:.4g} of {what}{among} in {self.features}"
        if most < budget:
            raise UsageError(
                f"{self.title}: the gradients of too many examples point away from {what} to get a weight above 0, so that {budget} cannot be kept; "
                + (f"give keep={most} or less." if most else "take features of another epoch, or leave target out.")
            )
        if self.weights_as == "mean" and budget:
            weights /= weights[kept].mean()
        return Selection(
            kept=kept,
            why_kept="weighted by gradmatch",
            why_touched=f"no weight in {what}{' of its class' if self.by_class else ''} in {self.features}"
            + (f", of which those kept leave {max(rests):.3g} at most" if rests else ""),
            weights=weights if bool((weights != 1).any()) else None,
            why_else=reasons,
        )
