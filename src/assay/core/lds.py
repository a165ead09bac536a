"""LDS: how well methods predict what leaving several examples out together does to the loss of single queries, and of the target."""

import dataclasses

from .arguments import checked_fields
from .errors import UsageError
from .intervals import check_interval, with_interval
from .lineage import Lineage, fingerprint

SAME, OTHERS = "same seed", "other seeds"
"""What predictions are held against: the recorded training repeated without a subset, or the mean over trainings under other seeds."""
RETRAINING = "one other retraining"
"""In a method's place: the losses after one training, held against the mean of the others."""


@dataclasses.dataclass(frozen=True)
class SubsetTraining:
    """One training without a subset of the examples.

    Attributes:
        count: How many examples were left out.
        seed: Seed of weights and order; None for the recorded training repeated.
        losses: Cross-entropy of each row of the target after training, in nats.
        seconds: How long the training took.
    """

    count: int
    seed: int | None
    losses: tuple[float, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class RankAgreement:
    """Spearman's rho over the subsets between predicted and measured changes of a loss.

    Attributes:
        method: Title of the method that predicts, or that a retraining does.
        truth: What it is held against: `same seed`, `other seeds`, or `seed N` of one of them.
        value: The mean of rho over the queries, which is LDS; or rho of the whole target's loss. In -1..1.
        low: Lower end of the 95 % interval; None where there is none to give.
        high: Upper end.
        by_query: Rho of each query; empty for the whole target.
    """

    method: str
    truth: str
    value: float
    low: float | None
    high: float | None
    by_query: tuple[float, ...] = ()

    def __post_init__(self):
        check_interval(self.low, self.high)

    @property
    def words(self) -> str:
        """The number and its interval."""
        return with_interval(self.value, self.low, self.high, 3)


@dataclasses.dataclass(frozen=True)
@checked_fields
class LDS:
    """Linear datamodeling scores and leave-several-out correlations of some methods on one run.

    Attributes:
        target: Name of the target whose rows are the queries.
        queries: Ids of the queries that were drawn from it.
        rows: How many rows the target has.
        examples: How many training examples there are.
        left_out: How many of them each subset leaves out.
        subsets: How many subsets were drawn.
        form: How examples are left out of the recorded batches.
        seeds: The other seeds.
        single: The mean over queries (LDS) for each method that has values per query, by method and truth.
        whole: The same for the loss of the whole target, for each method.
        lineage: Where it comes from.
        warnings: What a reader must know before trusting the numbers, a sentence each.
    """

    target: str
    queries: tuple[int, ...] | tuple[str, ...]
    rows: int
    examples: int
    left_out: int
    subsets: int
    form: str
    seeds: tuple[int, ...]
    single: tuple[RankAgreement, ...]
    whole: tuple[RankAgreement, ...]
    lineage: Lineage | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = "; ".join(f"{one.method} {one.words} ({one.truth})" for one in (self.single or self.whole)[:3])
        more = len(self.single or self.whole) - 3
        return (
            f"LDS({self.target}: {self.subsets:,} subsets without {self.left_out:,} of {self.examples:,} examples, {len(self.queries):,} queries: "
            f"{said}{f'; and {more} more' if more > 0 else ''})"
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Titles of the methods, in the order in which they were asked for; without the retrainings."""
        return tuple(dict.fromkeys(one.method for one in self.whole if one.method != RETRAINING))

    @property
    def truths(self) -> tuple[str, ...]:
        """What they were held against."""
        return tuple(dict.fromkeys(one.truth for one in self.whole if one.method != RETRAINING))

    def of(self, method: str, truth: str | None = None, *, whole: bool = False) -> RankAgreement:
        """The agreement of one method.

        Args:
            method: Its title.
            truth: What it is held against; by default the first.
            whole: The loss of the whole target instead of the mean over queries.

        Returns:
            The correlation with its interval.

        Raises:
            UsageError: There is none.
        """
        truth = self.truths[0] if truth is None and self.truths else truth
        there = self.whole if whole else self.single
        for one in there:
            if (one.method, one.truth) == (method, truth):
                return one
        pairs = ", ".join(f"{one.method} ({one.truth})" for one in there) or "none"
        what = "of the whole target" if whole else "over queries"
        raise UsageError(f"There is no agreement {what} of {method} ({truth}); there are: {pairs}.")

    @property
    def fingerprint(self) -> str:
        """Hash over what was measured; not over seconds."""
        return fingerprint(
            self.target,
            repr((self.queries, self.rows, self.examples, self.left_out, self.subsets, self.form, self.seeds)),
            repr((self.single, self.whole)),
        )
