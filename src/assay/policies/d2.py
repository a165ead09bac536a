r"""D2 pruning: difficult examples first, each lowering those beside it, by messages over a graph of neighbours.

$$ x_i = s_i + \sum_{j \sim i} e^{-\gamma_f d_{ij}} s_j, \qquad x_j \leftarrow x_j - e^{-\gamma_r d_{ij}} x_i \text{ for } j \sim i \text{ once } i \text{ is taken.} $$

$s$ is the difficulty, $d_{ij}$ the distance of two examples; they are joined if either is among the k nearest of the other.
"""

import dataclasses
import heapq
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.method import Source
from ..core.scores import ordered
from ..core.selection import AbstractFeatureSelector, Pool, Selection, budget_of, class_turns, count_of
from ..maths.neighbour_graph import joined, k_nearest

Graph = tuple[Int[Tensor, " edges"], Int[Tensor, " edges"], Float64[Tensor, " edges"]]
"""Edges in both directions: their ends and lengths, sorted by the rank of the first end and then of the second."""


def forward_messages(values: Float64[Tensor, " examples"], graph: Graph, gamma: float = 1.0) -> Float64[Tensor, " examples"]:
    """Difficulty of each example and, by exp(-gamma * length) of the edge, of those that it is joined with."""
    one, two, lengths = graph
    sent = (-gamma * lengths).exp() * values[two]
    return values + torch.from_numpy(np.bincount(one.numpy(), sent.numpy(), minlength=len(values)))


def taken_in_turn(
    values: Float64[Tensor, " examples"], graph: Graph, count: int, ranks: Int[Tensor, " examples"], gamma: float = 0.1
) -> Int[Tensor, " count"]:
    """The example of highest value again and again; once taken, its value times exp(-gamma * length) is taken from those joined with it.

    Args:
        values: Value of each example before any is taken.
        graph: Which examples are joined.
        count: How many are taken.
        ranks: Rank of each example; of equal values the lowest rank is taken first.
        gamma: How fast what is taken falls with the length.

    Returns:
        Positions in the order in which they are taken.
    """
    one, two, lengths = graph
    # The edges of an example stand together, by rank.
    counts = torch.bincount(one, minlength=len(values))
    by_rank = torch.argsort(ranks)
    ends = torch.empty_like(counts)
    ends[by_rank] = counts[by_rank].cumsum(0)
    starts, stops = (ends - counts).tolist(), ends.tolist()
    beside, part, at = two.tolist(), (-gamma * lengths).exp().tolist(), ranks.tolist()
    now = values.tolist()
    heap = [(-value, at[place], place) for place, value in enumerate(now)]
    heapq.heapify(heap)
    order: list[int] = []
    taken = [False] * len(now)
    while len(order) < count:
        value, _, place = heapq.heappop(heap)
        if taken[place] or value != -now[place]:
            # What was lowered since stands in the heap again with its new value.
            continue
        taken[place] = True
        order.append(place)
        for edge in range(starts[place], stops[place]):
            other = beside[edge]
            now[other] -= part[edge] * now[place]
            if not taken[other]:
                heapq.heappush(heap, (-now[other], at[other], other))
    return torch.tensor(order, dtype=torch.int64)


@dataclasses.dataclass(frozen=True)
class D2(AbstractFeatureSelector):
    """Keeps hard examples that are not beside each other: each takes a part of the difficulty of its neighbours with it.

    Difficulty follows from the score's direction: a low AUM is hard. A score with values below 0 is shifted so that its easiest example has 0.
    Distances are in the unit of the features; `gamma_f` and `gamma_r` have to suit it.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        features: Features in which neighbours are found, by Euclidean distance: `penultimate` or others of a kept model, `inputs`, or `rows:NAME`.
        k: How many neighbours, at least 1; all others where there are fewer.
        gamma_f: How fast what an example gets of its neighbours' difficulty falls with the distance, at least 0.
        gamma_r: How fast what it takes from them falls with the distance, at least 0.
        cutoff: Fraction of all examples, the hardest or most suspect, that is dropped before; in 0..1.
        by_class: Whether neighbours are those of the same given class, and each class gives examples in proportion.
    """

    keep: int | float
    features: str = "penultimate"
    k: int = 5
    gamma_f: float = 1.0
    gamma_r: float = 0.1
    cutoff: float = 0.0
    by_class: bool = False
    name: ClassVar[str] = "d2"
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Maharana et al. 2024, D2 pruning",
        "https://arxiv.org/abs/2310.07931",
        "both weights fall with the distance, as in the released code, where the paper squares it; a neighbour without difficulty "
        "sends nothing, where that code lets it send 1e-7; the cutoff is by the same score; difficulty is turned "
        "by the score's direction, where that code turns accumulated margin in one of two modes; floor(keep * examples) exactly; ties break by id; "
        "classes by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.k < 1:
            raise UsageError(f"{self.name}: k={self.k} is below 1; it is the number of neighbours.")
        for option in ("gamma_f", "gamma_r"):
            if not 0 <= getattr(self, option) < float("inf"):
                raise UsageError(f"{self.name}: {option}={getattr(self, option)} is not a number from 0 on.")
        if not 0 <= self.cutoff <= 1:
            raise UsageError(f"cutoff={self.cutoff} is outside 0..1; it is the fraction of examples cut as hardest.")

    def select(self, pool: Pool) -> Selection:
        n, title = len(pool), pool.scores.title
        budget, cut = count_of(self.keep, n), budget_of(self.cutoff, n)
        if budget > n - cut:
            raise UsageError(
                f"keep={self.keep} asks for {budget} of {n} examples, but cutoff={self.cutoff} leaves {n - cut}; lower one of them."
            )
        infinite = pool.values.isinf()
        if bool(infinite.any()):
            bad = pool.ids.take(infinite)
            raise UsageError(f"{len(bad)} values of {title} are infinite and cannot be sent on; ids {listed(bad, len(bad))}.")
        hardness = pool.scores.hardness()
        hardest = ordered(hardness, pool.ids, descending=True)[:cut]
        hardness = hardness - hardness.min().clamp(max=0)
        stays = torch.ones(n, dtype=torch.bool).index_fill(0, hardest, False)
        rows, ranks = pool.features(self.features), pool.ids.ranks
        order = torch.zeros(budget, dtype=torch.int64)
        reasons = dict.fromkeys(hardest.tolist(), f"among the {cut} hardest or most suspect by {title}, cut before")
        for members, turns, among in class_turns(pool, self.by_class, budget, stays):
            try:
                part = rows if len(members) == n else rows[members]
                picked = self._picked(part, hardness[members], len(turns), ranks[members].argsort().argsort())
            except ValueError as error:
                raise UsageError(f"{self.title}: {error}") from error
            order[turns] = members[picked]
            for place, position in enumerate(members[picked].tolist(), 1):
                reasons[position] = f"number {place}{among} by {title} and its neighbours in {self.features}"
        return Selection.taken(order, pool, "taken", f"easier by {title}, or beside those taken in {self.features}", reasons)

    def _picked(self, rows: Tensor, hardness: Tensor, count: int, ranks: Tensor) -> Int[Tensor, " count"]:
        k = min(self.k, len(rows) - 1)
        none = torch.zeros(0, dtype=torch.int64)
        graph = joined(*k_nearest(rows, k, ranks), ranks) if k > 0 else (none, none, none.to(torch.float64))
        return taken_in_turn(forward_messages(hardness, graph, self.gamma_f), graph, count, ranks, self.gamma_r)
