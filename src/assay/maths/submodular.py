"""Functions of sets of examples that fall off in what one more example adds: facility location, graph cut and log-determinant."""

import math

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from .similarities import TILE, Similarity

COLUMNS = 4096
"""Numbers of a row that are added up in its own precision."""
NOTHING = torch.zeros(0, dtype=torch.int64), torch.zeros(0)


class FacilityLocation:
    r"""How well the examples taken stand for all (see `greedy.Objective`): $f(S) = \sum_{i} \max_{j \in S} s_{ij}$."""

    grows = True

    def __init__(self, similarity: Similarity):
        self.similarity, self.slack = similarity, similarity.slack
        self.covered = torch.zeros(len(similarity), dtype=torch.float64)
        self.nearest = torch.full((len(similarity),), -1, dtype=torch.int64)
        """Which of the examples taken each is most like; of equally like ones, that taken first. Those taken are most like themselves."""
        self._any, self._seen = False, NOTHING
        self._risen = NOTHING[0], NOTHING[1], NOTHING[1]

    def __len__(self) -> int:
        return len(self.similarity)

    def gains(self, candidates: Int[Tensor, " candidates"]) -> Float64[Tensor, " candidates"]:
        """Sum over all examples of how much better each candidate stands for them."""
        if not self._any:
            return self.similarity.totals()[candidates]
        found = []
        for part in candidates.split(TILE):
            rows = self.similarity.rows(part)
            better = rows.sub_(self.covered.to(rows.dtype)).clamp_(min=0)
            found.append(_sums(better))
            self._seen = part, better
        return torch.cat(found)

    def take(self, element: int) -> None:
        """Let the example stand for those that it is more like than those before it, and for itself."""
        part, better = self._seen
        at = (part == element).nonzero().flatten()
        if len(at):
            # It was among the last that were looked at, nearly always.
            more = better[at[0]].to(torch.float64)
        else:
            more = (self.similarity.rows(torch.tensor([element]))[0].to(torch.float64) - self.covered).clamp_(min=0)
        # Whatever is as unlike the first as can be stands with it all the same.
        self.nearest[(more > 0) | (self.nearest < 0)] = element
        self.nearest[element] = element
        risen = more.nonzero().flatten()
        before = self.covered[risen]
        self.covered += more
        self._risen = risen, before, self.covered[risen]
        self._any = True
        self._seen = NOTHING

    def lost(self, most: int) -> tuple[Float64[Tensor, " examples"], int] | None:
        r"""$\sum_i \min(\max(0, s_{ij} - c_i), c'_i - c_i)$ over the examples i for which the last one taken stands better, c' in the place of c."""
        risen, before, after = self._risen
        if len(risen) > most:
            return None
        lost = torch.zeros(len(self), dtype=torch.float64)
        for part in torch.arange(len(risen)).split(TILE):
            rows = self.similarity.rows(risen[part])
            low, high = (one[part].to(rows.dtype)[:, None] for one in (before, after))
            fell = torch.minimum(rows.sub_(low).clamp_(min=0), high - low, out=rows)
            lost += fell.sum(0)
        return lost, len(risen)


def _sums(rows: Tensor) -> Tensor:
    """Sums of rows in float64, of parts in the precision of the rows: torch converts number by number otherwise, which takes a quarter of the whole time."""
    return torch.stack([part.sum(1) for part in rows.split(COLUMNS, 1)]).sum(0, dtype=torch.float64)


class GraphCut:
    r"""What the examples taken have in common with all, less what they have in common with one another (see `greedy.Objective`).

    $f(S) = \lambda \sum_{i} \sum_{j \in S} s_{ij} - \sum_{i, j \in S} s_{ij}$. It never falls where $\lambda \ge 2$.
    """

    def __init__(self, similarity: Similarity, representation: float):
        self.similarity, self.grows = similarity, representation >= 2
        self.slack = max(1.0, representation) * similarity.slack
        self._gains = representation * similarity.totals() - similarity.own()
        if not bool(self._gains.isfinite().all()):
            raise ValueError(f"representation={representation:g} times the similarities is not finite; give a smaller one.")

    def __len__(self) -> int:
        return len(self.similarity)

    def gains(self, candidates: Int[Tensor, " candidates"]) -> Float64[Tensor, " candidates"]:
        r"""$\lambda \sum_i s_{ij} - 2 \sum_{i \in S} s_{ij} - s_{jj}$."""
        return self._gains[candidates]

    def take(self, element: int) -> None:
        """Let those that are like the example add less."""
        self._gains -= 2 * self.similarity.rows(torch.tensor([element]))[0].to(torch.float64)

    def lost(self, most: int) -> None:
        """Not told: gains cost nothing."""


class LogDeterminant:
    r"""How far the examples taken spread (see `greedy.Objective`): $f(S) = \log \det (S_S + \delta I)$, the log of a squared volume.

    While fewer are taken than the similarities have factors $u$ (see `Similarity.factors`), by a Cholesky factor of $S_S + \delta I$, and beyond by one of
    $\delta I + \sum_{i \in S} u_i u_i^T$, so that neither memory nor the time of a step grows with the number taken any further. Where similarities have no
    factors, memory holds the square of that number.
    """

    grows = False
    slack = 1e-9

    def __init__(self, similarity: Similarity, ridge: float):
        least = 64 * torch.finfo(similarity.vectors.dtype).eps
        if ridge < least:
            # An equal example would be told from another one by rounding, many times enlarged.
            raise ValueError(f"ridge={ridge:g} is lost in the rounding of similarities; give at least {least:.2g}.")
        self.similarity, self.ridge = similarity, ridge
        self._own = similarity.own() + ridge
        self._taken: list[int] = []
        self._factor = torch.zeros(0, 0, dtype=torch.float64)
        self._second: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.similarity)

    def _left_over(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """What the examples taken explain of each candidate, and the variance that they leave."""
        taken = len(self._taken)
        across = self.similarity.between(torch.tensor(self._taken, dtype=torch.int64), candidates)
        explained = torch.linalg.solve_triangular(self._factor[:taken, :taken], across, upper=False)
        # A similarity of cosines is positive semidefinite: what goes below the ridge is rounding.
        return explained, (self._own[candidates] - explained.square().sum(0)).clamp(min=self.ridge)

    def gains(self, candidates: Int[Tensor, " candidates"]) -> Float64[Tensor, " candidates"]:
        r"""$\log (s_{jj} + \delta - s_{jS} (S_S + \delta I)^{-1} s_{Sj}) = \log \delta (1 + u_j^T (\delta I + \sum_{i \in S} u_i u_i^T)^{-1} u_j)$."""
        if self._second is None:
            return torch.cat([self._left_over(part)[1].log() for part in candidates.split(TILE)])
        factor, found = self._second[1], []
        for part in candidates.split(TILE):
            left = torch.linalg.solve_triangular(factor, self.similarity.factors(part).T, upper=False).square().sum(0)
            found.append(left.log1p() + math.log(self.ridge))
        return torch.cat(found)

    def take(self, element: int) -> None:
        """Add an example to the factor in use, or go over to the second one."""
        if (rank := self.similarity.rank) is not None and len(self._taken) + 1 >= rank:
            self._take_by_factors(element, rank)
        else:
            self._take_by_examples(element)
        self._taken.append(element)

    def _take_by_examples(self, element: int) -> None:
        taken = len(self._taken)
        explained, left = self._left_over(torch.tensor([element]))
        if taken == len(self._factor):
            grown = torch.zeros(max(16, 2 * taken), max(16, 2 * taken), dtype=torch.float64)
            grown[:taken, :taken] = self._factor
            self._factor = grown
        self._factor[taken, :taken] = explained[:, 0]
        self._factor[taken, taken] = left[0].sqrt()

    def _take_by_factors(self, element: int, rank: int) -> None:
        if self._second is None:
            before = self.similarity.factors(torch.tensor(self._taken, dtype=torch.int64))
            summed = before.T @ before + self.ridge * torch.eye(rank, dtype=torch.float64)
            self._factor = torch.zeros(0, 0, dtype=torch.float64)
        else:
            summed = self._second[0]
        row = self.similarity.factors(torch.tensor([element]))[0]
        summed += torch.outer(row, row)
        self._second = summed, torch.linalg.cholesky(summed)

    def lost(self, most: int) -> None:
        """Not told: it would cost as much as all gains."""
