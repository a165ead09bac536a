"""The one interface that a selector (a policy) implements, and the one function that runs it."""

import abc
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..maths.example_vectors import Vectors
from ..maths.ranking import interleaved
from . import options
from .decision import Action, Decision
from .errors import Mismatch, UsageError, listed
from .evidence import Evidence
from .features import FeatureSpec
from .ids import Ids
from .method import Asks, Source
from .models import ModelSource, Queries
from .needs import Need
from .passes import Passes
from .scores import Scores, ordered
from .wrong_labels import WrongCount, wrong_count

Unscored = Literal["refuse", "keep"]
"""What becomes of examples that have no score: nothing is chosen, or they stay as they are and the policy chooses among the others."""

By = Literal["values", "suspicion"]
"""What a policy ranks by: the score's values as they are, or turned so that larger is more suspect."""


def budget_of(keep: float, examples: int) -> int:
    """How many examples a fraction keeps: floor(keep * examples + 1e-9), so that 10 % of 50,000 is 5,000 and not 4,999.

    Returns:
        In 0..examples.

    Raises:
        UsageError: `keep` is outside 0..1.
    """
    if not 0 <= keep <= 1:
        raise UsageError(f"keep={keep} is outside 0..1; it is the fraction of examples that stay.")
    return math.floor(keep * examples + 1e-9)


def count_of(keep: int | float, examples: int | None = None) -> int:
    """How many examples stay where `keep` is a fraction of them, or a whole number that says how many.

    Args:
        keep: A float in 0..1, as `budget_of` takes it; or an int, at least 0.
        examples: How many there are; None where that is not known yet, and only the range is checked.

    Returns:
        In 0..examples, where their number is known; 0 where it is not.

    Raises:
        UsageError: `keep` is outside its range.
    """
    if not isinstance(keep, int):
        return budget_of(keep, examples or 0)
    if keep < 0 or (examples is not None and keep > examples):
        most = "the number of examples" if examples is None else examples
        raise UsageError(
            f"keep={keep} is outside 0..{most}; a whole number is how many examples stay, one with a point a fraction of them."
        )
    return keep


class Pool:
    """What a selector may look at: examples, the declared facts about them, and their scores, all in the same order.

    Attributes:
        ids: The examples to select from.
    """

    def __init__(
        self, ids: Ids, evidence: Evidence | None = None, scores: Scores | None = None, class_names: Sequence[str] | None = None
    ):
        """Join examples, evidence and scores by id.

        Raises:
            Mismatch: An example is not in the evidence, or has no score.
        """
        self.ids = ids
        self._scores = scores
        self._class_names = class_names
        self._evidence = evidence
        self._place = evidence.ids.positions(ids, "the run") if evidence is not None and evidence.ids != ids else None
        if scores is not None and scores.ids != ids:
            raise Mismatch(f"{scores.title} is of other examples, or has them in another order, than the pool to select from.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_scores(self) -> bool:
        """Whether a score was given."""
        return self._scores is not None

    @property
    def scores(self) -> Scores:
        """The scores that the policy chooses by.

        Raises:
            UsageError: No score was given.
        """
        if self._scores is None:
            raise UsageError(
                "This policy chooses by a score, and none was given; choose(scores, ...) by one of the run's scores."
            )
        return self._scores

    @property
    def values(self) -> Float64[Tensor, " examples"]:
        """The values of the score."""
        return self.scores.values

    def by(self, what: By) -> Float64[Tensor, " examples"]:
        """The values to rank by.

        Returns:
            One finite number per example, in the order of `ids`.

        Raises:
            UsageError: Suspicion is asked for, but the score ranks difficulty.
        """
        return self.scores.suspicion() if what == "suspicion" else self.values

    def class_name(self, label: int) -> str:
        """Name of a class, for use in the reasons; its number where it has no name."""
        return str(label) if self._class_names is None else self._class_names[label]

    @property
    def classes(self) -> int:
        """How many classes the run has; 0 where an example has no class."""
        return self._facts.classes

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """Given class of each example."""
        return self._placed(self._facts.labels)

    @property
    def mean_probs(self) -> Float64[Tensor, "examples classes"]:
        """Softmax probabilities averaged over all recorded epochs."""
        return self._placed(self._facts.mean_probs).to(torch.float64)

    @property
    def passes(self) -> Passes | None:
        """What the recorded passes are that somebody else made; None for the epochs of a training."""
        return self._facts.passes

    @property
    def mean_target_probs(self) -> Float64[Tensor, " examples"]:
        """Probability of the given label, averaged over the epochs that the score read (its option `epochs`, else all)."""
        first = self.scores.options.get("epochs")
        span = min(first, self._facts.recorded) if isinstance(first, int) else self._facts.recorded
        total = torch.zeros(len(self._facts.ids), dtype=torch.float64)
        for index in range(span):
            total += self._facts.epoch(index).target_probs
        return self._placed(total / span)

    @property
    def wrong_labels(self) -> WrongCount:
        """How many labels are wrong, and the chance of each example's."""
        return wrong_count(self._facts, self._class_names or ())

    def features(self, spec: str) -> Float[Tensor, "examples dims"]:
        """A row of numbers for each example, made as the specification says (see `core.features.FeatureSpec`).

        Returns:
            float32 or float64, in the order of `ids`.

        Raises:
            UsageError: There are no features of that kind.
            MissingEvidence: The data from which the features are computed were not passed.
        """
        return self._placed(self._facts.features(spec).rows())

    def query_predictions(self, name: str) -> tuple[Int[Tensor, " queries"], Int[Tensor, " queries"]]:
        """What the last kept model predicts for the rows of a target, and their given classes.

        Returns:
            The class of the largest logit (the lowest of equal ones), and the given class, of each row.

        Raises:
            UnknownName: There is no such target.
            UsageError: The target is a function of the model, which has no rows.
        """
        facts = self._facts
        labels, models = facts.queries(name).labels, facts.checkpoints
        predicted = torch.empty_like(labels)
        with torch.no_grad():
            for batch in models.at(models.kept[-1]).queries(name):
                predicted[batch.positions] = batch.outputs(batch.params).argmax(1).cpu()
        return predicted, labels

    def vectors(self, spec: str) -> Vectors:
        """As `features`, in the form that inner products are taken of; gradients of the head as outer products, which are never multiplied out."""
        found = self._facts.features(spec).vectors()
        return found if self._place is None else found.take(self._place)

    def queries(self, name: str) -> Queries:
        """The rows of a target (see `Evidence.queries`)."""
        return self._facts.queries(name)

    def query_vectors(self, spec: str, name: str) -> Vectors:
        """As `vectors`, of the rows of a target.

        Returns:
            In the order of `queries`.

        Raises:
            UnknownName: There is no such target.
            MissingEvidence: Features of that kind are known of the examples only.
        """
        return self._facts.target_features(FeatureSpec.parse(spec), name).vectors()

    @property
    def place(self) -> Int[Tensor, " examples"] | None:
        """Positions of the examples in the run; None where they are the run's, in its order."""
        return self._place

    @property
    def checkpoints(self) -> ModelSource:
        """The models that the run kept."""
        return self._facts.checkpoints

    def _placed(self, facts: Tensor) -> Tensor:
        return facts if self._place is None else facts[self._place]

    @property
    def _facts(self) -> Evidence:
        if self._evidence is None:
            raise UsageError("This policy reads the recorded run, which was not given; choose(..., run=PATH) names it.")
        return self._evidence


@dataclasses.dataclass(frozen=True)
class Selection:
    """The result of a selector, by position: which examples stay, with which labels and weights, in which order, and why.

    Attributes:
        kept: Which examples stay in training.
        labels: Class to relabel to, -1 for none; None if the policy relabels no example.
        weights: Loss weight of each example that stays; None for 1.
        why_kept: Reason written to the examples left as they are.
        why_touched: Reason written to those dropped, relabelled or weighted.
        why_else: Reasons of single examples, by position, where neither sentence says enough.
        order: Positions of the examples that stay, in the order in which a nested selector takes them; None if there is no such order.
        warnings: What a reader must know before following this, a sentence each.
    """

    kept: Bool[Tensor, " examples"]
    why_kept: str
    why_touched: str
    labels: Int[Tensor, " examples"] | None = None
    weights: Float64[Tensor, " examples"] | None = None
    why_else: Mapping[int, str] = dataclasses.field(default_factory=dict)
    order: Int[Tensor, " kept"] | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def first(
        cls, order: Int[Tensor, " examples"], budget: int, why_kept: str, why_touched: str, warnings: tuple[str, ...] = ()
    ) -> "Selection":
        """The selection that keeps the first `budget` positions of an order."""
        return cls(keep_first(order, budget), why_kept, why_touched, order=order[:budget], warnings=warnings)

    @classmethod
    def taken(
        cls,
        order: Int[Tensor, " kept"],
        pool: Pool,
        why_kept: str,
        why_touched: str,
        reasons: Mapping[int, str],
        warnings: tuple[str, ...] = (),
    ) -> "Selection":
        """The selection that keeps these positions, in the order in which they were taken, with reasons of single examples by position."""
        kept = torch.zeros(len(pool), dtype=torch.bool).index_fill(0, order, True)
        return cls(kept, why_kept, why_touched, why_else=reasons, order=order, warnings=warnings)


def class_turns(
    pool: Pool, by_class: bool, budget: int, among: Bool[Tensor, " examples"] | None = None
) -> Iterator[tuple[Int[Tensor, " members"], Int[Tensor, " turns"], str]]:
    """The examples among which a selector chooses at a time: those of each class, or all together.

    The places of a class in the order of what is chosen are in proportion to its examples (Webster's quotients), so that budgets nest.

    Args:
        pool: The examples.
        by_class: Whether each given class is chosen from separately.
        budget: How many are chosen in all.
        among: Which examples may be chosen; all by default.

    Yields:
        Positions of the examples, the places that those chosen among them take in the order, and ` of class NAME` for the reasons, or nothing.
    """
    classes = pool.labels if by_class else torch.zeros(len(pool), dtype=torch.int64)
    open_to = torch.ones(len(pool), dtype=torch.bool) if among is None else among
    in_turn = classes[open_to].sort().values
    in_turn = in_turn[interleaved(in_turn)[:budget]]
    for label in classes[open_to].unique().tolist():
        where = f" of class {pool.class_name(label)}" if by_class else ""
        yield (open_to & (classes == label)).nonzero().flatten(), (in_turn == label).nonzero().flatten(), where


def _classes_left_out(pool: Pool, kept: Bool[Tensor, " examples"]) -> tuple[str, ...]:
    """A warning where a budget that is divided among classes keeps some examples, and nothing of a class; else nothing."""
    budget, labels = int(kept.sum()), pool.labels
    absent = sorted(set(labels.unique().tolist()) - set(labels[kept].unique().tolist()))
    if not absent or not budget:
        return ()
    names = ", ".join(pool.class_name(label) for label in absent[:5])
    return (
        f"Nothing of {len(absent)} class{'es' * (len(absent) > 1)} ({names}) is kept: the budget of {budget} is too small for their share; keep more.",
    )


class AbstractSelector(abc.ABC):
    """Decides on the examples of a pool. Subclasses are final frozen dataclasses whose fields are the options.

    If what is read depends on an option, the subclass defines that attribute as a property.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[Need]] = frozenset()
    """The kinds of facts that the selector reads; it cannot read any other."""
    needs_score: ClassVar[bool] = True
    """Whether the selector chooses by a score. If not, a run is enough."""
    ignores_score: ClassVar[bool] = False
    """Whether a selector that needs no score accepts one, so that it can be the control of selectors that need a score."""
    nests: ClassVar[bool]
    """Whether a larger budget keeps everything that a smaller one keeps."""
    spreads: ClassVar[bool] = True
    """Of a selector that reads features, whether it chooses examples that differ from each other; the laws ask it to cover clusters and to
    pass over duplicates."""
    counts_by_curve: ClassVar[bool] = False
    """Whether its option `count` may be taken from the best count of a curve (`Curve.best`)."""
    counts_wrong: ClassVar[bool] = False
    """Whether its option `count` may be auto: as many as labels seem to be wrong."""
    source: ClassVar[Source]

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.coerce(self, "policy")

    @property
    def asks(self) -> Asks:
        """The inputs that the selector asks for by name, such as features."""
        return Asks()

    @abc.abstractmethod
    def select(self, pool: Pool) -> Selection:
        """Decide which examples of the pool stay."""

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `beta:keep=0.3,c_d=5.5`."""
        return options.join(self.name, options.changed(self))


class AbstractFeatureSelector(AbstractSelector):
    """A selector that reads one kind of features, and labels where it takes each class by itself; its options are `keep`, `features` and `by_class`."""

    keep: int | float
    features: str
    by_class: bool

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        FeatureSpec.parse(self.features)

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Features, and labels where each class is taken by itself."""
        return frozenset({Need.FEATURES, Need.LABELS} if self.by_class else {Need.FEATURES})

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features,))


def choose(
    policy: AbstractSelector,
    scores: Scores | None = None,
    evidence: Evidence | None = None,
    class_names: Sequence[str] | None = None,
    unscored: Unscored = "refuse",
) -> Decision:
    """Run one policy on one score, or on a run alone.

    Args:
        policy: The policy to run.
        scores: The scores that it chooses by; None for policies that need no score.
        evidence: The run, for policies that read it.
        class_names: One name per class, for the reasons.
        unscored: What becomes of examples without a score. With `keep` what the policy keeps or drops is counted among the scored ones.

    Returns:
        An action and a reason for each example, without lineage.

    Raises:
        UsageError: The policy needs a score and there is none, or reads none and there is one; a value is NaN, or examples have no score.
        Mismatch: The scores are not of the evidence's examples.
        MissingEvidence: The run did not record what the policy needs.
    """
    if unscored not in get_args(Unscored):
        raise UsageError(f"unscored={unscored!r} is neither 'refuse' nor 'keep'; give one of them.")
    if scores is None:
        if unscored != "refuse":
            raise UsageError(f"unscored={unscored!r} is for a choice by scores, and {policy.title} is given none; leave it out.")
        if policy.needs_score:
            raise UsageError(f"Policy {policy.name!r} chooses by a score; give scores, such as those of aum.")
        if evidence is None:
            raise UsageError(f"Policy {policy.name!r} was given neither scores nor a run; give the run to select from.")
        ids = evidence.ids
    else:
        _check_scores(policy, scores, evidence, unscored)
        ids = scores.ids
    view = evidence.narrow(policy.title, policy.reads) if evidence is not None and policy.reads else None
    pool = Pool(ids, view, scores, class_names)
    choice = policy.select(pool)
    n = len(ids)
    if choice.order is not None and not torch.equal(choice.order.sort().values, choice.kept.nonzero().flatten()):
        raise UsageError(
            f"Policy {policy.name!r} gave an order of other examples than it keeps; its `select` must name each once."
        )
    labels = choice.labels if choice.labels is not None else torch.full((n,), -1, dtype=torch.int64)
    weights = torch.ones(n, dtype=torch.float64) if choice.weights is None else choice.weights.clone()
    labels = torch.where(choice.kept, labels, -1)
    actions = torch.full((n,), int(Action.KEEP), dtype=torch.int64)
    actions[weights != 1] = Action.WEIGHT
    actions[labels >= 0] = Action.RELABEL
    actions[~choice.kept | (weights == 0)] = Action.DROP
    weights[actions == Action.DROP] = 0.0
    why = {True: choice.why_touched, False: choice.why_kept}
    decision = Decision(
        ids=ids,
        actions=actions,
        labels=labels,
        weights=weights,
        reasons=tuple(choice.why_else.get(i, why[touched]) for i, touched in enumerate((actions != Action.KEEP).tolist())),
        policy=policy.name,
        options={field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)},  # type: ignore[arg-type]
        title=policy.title if scores is None else f"{policy.title} by {scores.title}",
        order=None if choice.order is None else ids.take(choice.order),
        warnings=choice.warnings + (_classes_left_out(pool, choice.kept) if getattr(policy, "by_class", False) else ()),
        class_names=tuple(class_names or ()),
    )
    return decision if scores is None or not len(scores.unscored) else _left_as_they_are(decision, scores, evidence)


def _left_as_they_are(decision: Decision, scores: Scores, evidence: Evidence | None) -> Decision:
    """A decision on the scored examples as one on all, of which the others stay."""
    others = scores.unscored
    ids = Ids([*decision.ids, *others]) if evidence is None else evidence.ids
    n, at = len(ids), ids.positions(decision.ids, "the run")
    actions, labels, weights = (
        torch.full((n,), fill, dtype=value.dtype).index_copy(0, at, value)
        for fill, value in ((int(Action.KEEP), decision.actions), (-1, decision.labels), (1.0, decision.weights))
    )
    reasons = [f"not scored by {scores.title}, so left as it is"] * n
    for place, reason in zip(at.tolist(), decision.reasons, strict=True):
        reasons[place] = reason
    said = (
        f"{len(others)} of {n} examples have no value of {scores.title} ({listed(others, len(others))}) and stay as they are; what is kept or dropped was "
        f"counted among the other {len(decision)}."
    )
    return dataclasses.replace(
        decision,
        ids=ids,
        actions=actions,
        labels=labels,
        weights=weights,
        reasons=tuple(reasons),
        # They stay at every budget, so that they come first.
        order=None if decision.order is None else Ids([*others, *decision.order]),
        warnings=(*decision.warnings, said),
    )


def _check_scores(policy: AbstractSelector, scores: Scores, evidence: Evidence | None, unscored: Unscored) -> None:
    if not policy.needs_score and not policy.ignores_score:
        raise UsageError(
            f"Policy {policy.name!r} reads no score, so that {scores.title} would not be used; give it the run alone: "
            f"choose(RUN, {policy.title!r})."
        )
    if bool(scores.values.isnan().any()):
        bad = scores.ids.take(scores.values.isnan())
        raise UsageError(f"{len(bad)} scores of {scores.title} are NaN; ids {listed(bad, len(bad))}. Nothing was chosen.")
    if len(scores.unscored) and unscored == "refuse":
        raise UsageError(
            f"{scores.title} has no value for {len(scores.unscored)} examples "
            f"({listed(scores.unscored, len(scores.unscored))}); choose by a method that scores all of them, or leave these as they are with "
            "unscored='keep' (`--unscored keep`)."
        )
    if not len(scores):
        raise UsageError(f"{scores.title} has no value for any example; choose by another method.")
    everyone = len(scores.ids) + len(scores.unscored)
    if evidence is not None and len(evidence.ids) != everyone:
        raise Mismatch(f"{scores.title} covers {everyone} examples, the run {len(evidence.ids)}; score this run again.")
    if evidence is not None:
        for some in (scores.ids, scores.unscored):
            evidence.ids.positions(some, "the run")


def finite_probs(pool: Pool) -> Float64[Tensor, "examples classes"]:
    """The mean probabilities of a pool, which are finite.

    Returns:
        In the order of the pool.

    Raises:
        UsageError: Some are not; names the ids.
    """
    probs = pool.mean_probs
    unknown = ~probs.isfinite().all(1)
    if bool(unknown.any()):
        bad = pool.ids.take(unknown)
        raise UsageError(f"{len(bad)} examples have mean probabilities that are not finite; ids {listed(bad, len(bad))}.")
    return probs


def keep_first(order: Int[Tensor, " examples"], budget: int) -> Bool[Tensor, " examples"]:
    """Mask of the first `budget` positions of an order."""
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[:budget]] = True
    return kept


def removable(scores: Scores, harmful_only: bool = True) -> int:
    """How many examples may be removed: those predicted to do harm where the score says who they are, else all.

    Returns:
        In 0..examples.

    Raises:
        UsageError: The score ranks difficulty.
    """
    suspects, harmful = scores.suspicion(), scores.harmful()
    return len(suspects) if harmful is None or not harmful_only else int(harmful.sum())


def worst(scores: Scores, count: int) -> Int[Tensor, " count"]:
    """Positions of the `count` most suspect, the most suspect first; of equal ones at the edge, the largest ids.

    Returns:
        int64, each position once.

    Raises:
        UsageError: The score ranks difficulty.
    """
    return ordered(scores.suspicion(), scores.ids, descending=False).flip(0)[:count]


def suspects_stay(pool: Pool, kept: int, by: By, end: Literal["high", "low"], drop: str, keep: str) -> tuple[str, ...]:
    """A warning if the kept end of the ranking is that of the suspects, which is rarely wanted; none if ranking by suspicion was asked for.

    Args:
        pool: The examples and the score that is chosen by.
        kept: How many examples stay; if all or none stay, there is no warning.
        by: The quantity that the examples are ranked by.
        end: Which end of the values stays.
        drop: How to drop the suspects instead.
        keep: How the user says that the suspects are meant to stay.

    Returns:
        One sentence, or none.
    """
    direction = pool.scores.direction
    wanted = by == "suspicion" or not direction.ranks_suspects or (end == "high") != (direction.sign > 0)
    if wanted or not 0 < kept < len(pool):
        return ()
    return (
        f"The {end} values of {pool.scores.title} stay, and those are the most suspect; to drop them, use {drop}, and if they are meant to "
        f"stay, say so with {keep}.",
    )
