"""Scores: one number per example from one method, and tables of them joined by id."""

import dataclasses
import enum
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from ..maths.statistics import widened
from .arguments import checked_arguments, checked_fields
from .errors import Mismatch, MissingEvidence, UnknownName, UsageError, listed
from .ids import Ids
from .lineage import Lineage, fingerprint
from .tabular import Tabular

CHANGE = "change of the target"
"""The unit of scores that say by how much a target, such as a loss, changes when the example is removed."""
RANK_ONLY = "rank only"
"""The unit of signed scores whose size means nothing: above 0 an example helps, and the order counts."""


class Direction(enum.Enum):
    """What a large value means. A difficult example need not have a wrong label: only the first two rank suspects."""

    HIGH_IS_SUSPECT = "high is suspect"
    LOW_IS_SUSPECT = "low is suspect"
    HIGH_IS_HARD = "high is hard"
    LOW_IS_HARD = "low is hard"

    @property
    def ranks_suspects(self) -> bool:
        """Whether the method claims anything about wrong labels."""
        return self in (Direction.HIGH_IS_SUSPECT, Direction.LOW_IS_SUSPECT)

    @property
    def sign(self) -> int:
        """+1 if large values are the suspect or hard ones, -1 if small values are."""
        return 1 if self in (Direction.HIGH_IS_SUSPECT, Direction.HIGH_IS_HARD) else -1


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Scores(Tabular):
    """The values that one method gives the examples.

    Attributes:
        ids: The scored examples.
        values: One finite number each, in the order of `ids`.
        method: Name in the catalogue.
        options: All options the method ran with.
        title: Name with the options that differ from their defaults; unique in a table.
        direction: What a large value means.
        unit: Unit of the values.
        unscored: Examples of the dataset that the method cannot score.
        lineage: Where the scores come from; None for scores made by hand.
        by_epoch: What each epoch adds to the value, for values that are sums over epochs.
        repeats: For values that are means over random draws or several models: the values of each repetition.
        diagnostics: How far the values can be trusted, by name, as JSON holds it.
        warnings: What a reader must know before trusting the values, a sentence each.
    """

    ids: Ids
    values: Float64[Tensor, " examples"]
    method: str
    options: Mapping[str, object]
    title: str
    direction: Direction
    unit: str
    unscored: Ids = dataclasses.field(default_factory=lambda: Ids([]))
    lineage: Lineage | None = None
    by_epoch: Float64[Tensor, "epochs examples"] | None = None
    repeats: Float64[Tensor, "repeats examples"] | None = None
    diagnostics: Mapping[str, object] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self):
        if self.values.shape != (len(self.ids),):
            raise UsageError(f"{len(self.ids)} ids cannot carry values of shape {tuple(self.values.shape)}.")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        span = f"; {float(self.values.min()):.4g} to {float(self.values.max()):.4g} {self.unit}" if len(self) else ""
        unscored = f", {len(self.unscored):,} unscored" if len(self.unscored) else ""
        warned = f"; warned: {self.warnings[0]}" if self.warnings else ""
        return f"Scores({self.title}: {len(self):,} examples{unscored}{span}, {self.direction.value}{warned})"

    def suspicion(self) -> Float64[Tensor, " examples"]:
        """Values turned so that larger is more suspect.

        Returns:
            In the unit of the values, up to the sign.

        Raises:
            UsageError: The method ranks difficulty, which says nothing about wrong labels.
        """
        if not self.direction.ranks_suspects:
            raise UsageError(
                f"{self.title} ranks difficulty ({self.direction.value}), not suspicion. "
                "Use its values, or a method that ranks suspects such as aum, loss, confidence or correctness."
            )
        return self.values * self.direction.sign

    def harmful(self) -> Bool[Tensor, " examples"] | None:
        """Which examples are predicted to do harm: removing them makes the target smaller. None for scores that only rank.

        Returns:
            One per example; examples of value 0 do none.

        Raises:
            UsageError: The method ranks difficulty, which says nothing about harm.
        """
        return self.suspicion() > 0 if self.unit == CHANGE else None

    def hardness(self) -> Float64[Tensor, " examples"]:
        """Values turned so that larger is harder or more suspect, whichever the method claims."""
        return self.values * self.direction.sign

    def interval(self, level: float = 0.95) -> tuple[Float64[Tensor, " examples"], Float64[Tensor, " examples"]]:
        """Confidence interval of each example's mean over repetitions: the lower and the upper end, in the unit of the values.

        Student's interval, widened by the factor 1 + 4 / (repetitions + 2), because values of single examples are often skewed. At level
        0.95 it covers at least 94 % for 2 to 20 repetitions that are normal, as skewed as Beta(5, 1) or as an exponential distribution about
        the example's mean (normal ones in 97 to 99 %), and some 90 % where they are as skewed as a log-normal of deviation 1.

        NaN (no interval) for examples on which two repetitions agree exactly. Such values are counts, such as forgetting events or
        epochs predicted right, or values at the end of their range, whose spread a few repetitions do not show: Student's
        interval covered 30 to 60 % of means of `forgetting` and 45 to 75 % of `correctness`.

        Returns:
            Lower and upper ends, one each per example; NaN where there is no interval.

        Raises:
            UsageError: The values do not rest on repetitions, or the level is outside its range.
        """
        if self.repeats is None or len(self.repeats) < 2:
            raise UsageError(
                f"{self.title} was computed once, so that there is no interval; score it over repetitions or models."
            )
        if not 0 < level < 1:
            raise UsageError(f"level={level} is outside 0..1, both ends excluded.")
        half = widened(len(self.repeats), level) * self.repeats.std(0)
        agree = (self.repeats.sort(0).values.diff(dim=0) == 0).any(0)
        half = torch.where(agree, torch.nan, half)
        return self.values - half, self.values + half

    def ranks(self) -> Int[Tensor, " examples"]:
        """Rank of each example: 1 for the most suspect or hardest, as on the page; ties are broken by id."""
        order = ordered(self.hardness(), self.ids, descending=True)
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(1, len(order) + 1)
        return ranks

    def to_numpy(self) -> dict[str, np.ndarray]:
        """The columns by name.

        Returns:
            `id`, `value`, `rank` (1 for the most suspect or hardest), and `low` and `high`, the ends of the 95 % interval, where values rest on
            repetitions; NaN where there is no interval.
        """
        ends = self.interval() if self.repeats is not None and len(self.repeats) > 1 else ()
        intervals = {name: end.numpy() for name, end in zip(("low", "high"), ends, strict=False)}
        return {"id": self.ids.values, "value": self.values.numpy(), "rank": self.ranks().numpy(), **intervals}

    def shown_first(self) -> np.ndarray:
        return np.argsort(self.ranks().numpy())

    def of(self, ids: Ids) -> Float64[Tensor, " wanted"]:
        """The values of these examples.

        Returns:
            In the order of `ids`, in the unit of the scores.

        Raises:
            Mismatch: An id was not scored.
        """
        return self.values[self.ids.positions(ids, f"scores of {self.title}")]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over ids, values, method and options, and what a value means: direction and unit."""
        return fingerprint(*self._content, self.direction.value, self.unit)

    def made(self, parent: str) -> bool:
        """Whether `parent`, a fingerprint from an artefact's lineage, is that of these scores by this or an earlier version of assay."""
        return parent in (self.fingerprint, fingerprint(*self._content))

    @property
    def _content(self) -> tuple[str | bytes, ...]:
        return self.ids.fingerprint, self.values.numpy().tobytes(), self.method, repr(sorted(self.options.items()))


class ScoreTable(Tabular, Mapping[str, Scores]):
    """Scores of several methods over the same examples, by title, all in the same order of ids.

    As a table of columns: `id`, and the values of each method under its title.

    Attributes:
        ids: The scored examples.
        refused: Why a method that was asked for has no score, by its title.
    """

    @checked_arguments
    def __init__(self, scores: Sequence[Scores], refused: Mapping[str, str] | None = None):
        """Join scores by id, in the order of the first.

        Args:
            scores: Of the same examples, under different titles.
            refused: Methods that could not be run, by title, and why.

        Raises:
            UsageError: Two scores have the same title.
            Mismatch: Two scores do not cover the same examples of the same dataset.
        """
        self._scores: dict[str, Scores] = {}
        self.refused = dict(refused or {})
        first = scores[0] if scores else None
        for one in scores:
            if one.title in self._scores:
                raise UsageError(f"Two scores are titled {one.title!r}; give each other options, or score once.")
            assert first is not None
            if one.lineage and first.lineage and one.lineage.dataset != first.lineage.dataset:
                raise Mismatch(
                    f"Scores {one.title} are of dataset {one.lineage.dataset}, {first.title} of {first.lineage.dataset}. "
                    "Score both on the same ids and labels."
                )
            if len(one) != len(first):
                raise Mismatch(
                    f"Scores {one.title} cover {len(one)} examples, {first.title} {len(first)}; one table cannot join them, so score them in calls "
                    "of their own, or by score_separately."
                )
            place = one.ids.positions(first.ids, f"scores of {one.title}")
            self._scores[one.title] = (
                one
                if one.ids == first.ids
                else dataclasses.replace(
                    one,
                    ids=first.ids,
                    values=one.values[place],
                    by_epoch=None if one.by_epoch is None else one.by_epoch[:, place],
                    repeats=None if one.repeats is None else one.repeats[:, place],
                )
            )
        self.ids = first.ids if first is not None else Ids([])

    def __getitem__(self, title: str) -> Scores:
        if title in self.refused:
            raise MissingEvidence(f"{title} was not scored: {self.refused[title]}")
        if title not in self._scores:
            raise UnknownName("score in this table", title, self._scores)
        return self._scores[title]

    def __contains__(self, title: object) -> bool:
        return title in self._scores

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __repr__(self) -> str:
        titles = [f"{title} (warned)" if one.warnings else title for title, one in self.items()]
        without = f"; not scored: {', '.join(self.refused)}" if self.refused else ""
        return f"ScoreTable({len(self.ids)} examples; {', '.join(titles)}{without})"

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        # pandas makes a frame of the titles alone of what it takes for a list.
        raise UsageError(
            "A table of scores is no array; take table.to_pandas(), to_polars(), to_arrow() or to_numpy(), which keep the ids."
        )

    def to_numpy(self) -> dict[str, np.ndarray]:
        return {"id": self.ids.values, **{title: one.values.numpy() for title, one in self.items()}}

    def shown_first(self) -> Sequence[int] | np.ndarray:
        return next(iter(self.values())).shown_first() if self._scores else ()


def ordered(values: Float64[Tensor, " examples"], ids: Ids, *, descending: bool) -> Int[Tensor, " examples"]:
    """Positions sorted by value; equal values by id, smallest id first in either direction.

    Returns:
        int64, each position once.

    Raises:
        UsageError: A value is NaN.
    """
    if bool(values.isnan().any()):
        bad = ids.take(values.isnan())
        raise UsageError(f"{len(bad)} values are NaN and cannot be ranked; ids {listed(bad, len(bad))}.")
    by_id = torch.argsort(ids.ranks)
    return by_id[torch.argsort(values[by_id], descending=descending, stable=True)]
