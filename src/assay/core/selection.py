"""The one interface that a policy implements, and the one function that runs it."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from . import options
from .decision import Action, Decision
from .errors import Mismatch, UsageError, some
from .evidence import Evidence
from .method import Source
from .needs import Need
from .scores import Scores, ordered

By = Literal["values", "suspicion"]
"""What a policy ranks by: the score's values as they are, or turned so that larger is more suspect."""


def budget_of(keep: float, examples: int) -> int:
    """How many examples a fraction keeps: floor(keep * examples + 1e-9), so that 10 % of 50,000 is 5,000 and not 4,999.

    Raises:
        UsageError: `keep` is outside 0..1.
    """
    if not 0 <= keep <= 1:
        raise UsageError(f"keep={keep} is outside 0..1; it is the fraction of examples that stay.")
    return math.floor(keep * examples + 1e-9)


class Pool:
    """What a policy may look at: scored examples, and the declared facts about them in the same order."""

    def __init__(self, scores: Scores, evidence: Evidence | None, class_names: Sequence[str] | None = None):
        self.scores, self.ids, self.values = scores, scores.ids, scores.values
        self._class_names = class_names
        self._evidence = evidence
        self._place = evidence.ids.positions(scores.ids, "the run") if evidence is not None else None

    def __len__(self) -> int:
        return len(self.ids)

    def by(self, what: By) -> Float64[Tensor, " examples"]:
        """The values to rank by.

        Raises:
            UsageError: Suspicion is asked of a score that ranks difficulty.
        """
        return self.scores.suspicion() if what == "suspicion" else self.values

    def class_name(self, label: int) -> str:
        """What people call a class, for reasons; its number where it has no name."""
        return str(label) if self._class_names is None else self._class_names[label]

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """Given class of each example."""
        return self._facts.labels[self._place]

    @property
    def mean_probs(self) -> Float64[Tensor, "examples classes"]:
        """Softmax probabilities averaged over all recorded epochs."""
        return self._facts.mean_probs[self._place].to(torch.float64)

    @property
    def mean_target_probs(self) -> Float64[Tensor, " examples"]:
        """Probability of the given label, averaged over the epochs that the score read (its option `epochs`, else all)."""
        first = self.scores.options.get("epochs")
        span = min(first, self._facts.recorded) if isinstance(first, int) else self._facts.recorded
        total = torch.zeros(len(self._facts.ids), dtype=torch.float64)
        for index in range(span):
            total += self._facts.epoch(index).target_probs
        return (total / span)[self._place]

    @property
    def _facts(self) -> Evidence:
        if self._evidence is None:
            raise UsageError("This policy reads the recorded run, which was not given; choose(..., run=PATH) names it.")
        return self._evidence


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a policy answers, by position: who stays, who gets which label, and two sentences.

    Attributes:
        kept: Which examples stay in training.
        labels: Class to relabel to, -1 for none; None if the policy relabels nobody.
        weights: Loss weight of each example that stays; None for 1.
        why_kept: Reason written to the examples left as they are.
        why_touched: Reason written to those dropped, relabelled or weighted.
        why_else: Reasons of single examples, by position, where neither sentence says enough.
    """

    kept: Bool[Tensor, " examples"]
    why_kept: str
    why_touched: str
    labels: Int[Tensor, " examples"] | None = None
    weights: Float64[Tensor, " examples"] | None = None
    why_else: Mapping[int, str] = dataclasses.field(default_factory=dict)


class AbstractSelector(abc.ABC):
    """Turns scores into a decision. Subclasses are final frozen dataclasses whose fields are the options."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[Need]]
    nests: ClassVar[bool]
    """Whether a larger budget keeps everything that a smaller one keeps."""
    counts_by_curve: ClassVar[bool] = False
    """Whether its option `count` may be the best count of a curve of cleansing."""
    source: ClassVar[Source]

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.settle(self, "policy")

    @abc.abstractmethod
    def choose(self, candidates: Pool) -> Selection:
        """Who stays."""

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `beta:keep=0.3,c_d=5.5`."""
        return options.join(self.name, options.changed(self))


def choose(
    policy: AbstractSelector, scores: Scores, evidence: Evidence | None = None, class_names: Sequence[str] | None = None
) -> Decision:
    """Run one policy on one score.

    Args:
        policy: Which.
        scores: What it chooses by.
        evidence: The run that the scores were made from, for policies that read it.
        class_names: One name per class, for the reasons.

    Raises:
        UsageError: A value is NaN, or examples have no score.
        Mismatch: The scores are not of the evidence's examples.
        MissingEvidence: The run did not record what the policy needs.
    """
    if bool(scores.values.isnan().any()):
        bad = scores.ids.take(scores.values.isnan())
        raise UsageError(f"{len(bad)} scores of {scores.title} are NaN; ids {some(bad, len(bad))}. Nothing was chosen.")
    if len(scores.unscored):
        raise UsageError(
            f"{scores.title} has no value for {len(scores.unscored)} examples "
            f"({some(scores.unscored, len(scores.unscored))}); choose by a method that scores all of them."
        )
    if evidence is not None and len(evidence.ids) != len(scores.ids):
        raise Mismatch(f"{scores.title} covers {len(scores.ids)} examples, the run {len(evidence.ids)}; score this run again.")
    if evidence is not None:
        evidence.ids.positions(scores.ids, "the run")
    view = evidence.narrow(policy.title, policy.reads) if evidence is not None and policy.reads else None
    choice = policy.choose(Pool(scores, view, class_names))
    n = len(scores.ids)
    labels = choice.labels if choice.labels is not None else torch.full((n,), -1, dtype=torch.int64)
    weights = torch.ones(n, dtype=torch.float64) if choice.weights is None else choice.weights.clone()
    labels = torch.where(choice.kept, labels, -1)
    actions = torch.full((n,), int(Action.KEEP), dtype=torch.int64)
    actions[weights != 1] = Action.WEIGHT
    actions[labels >= 0] = Action.RELABEL
    actions[~choice.kept | (weights == 0)] = Action.DROP
    weights[actions == Action.DROP] = 0.0
    why = {True: choice.why_touched, False: choice.why_kept}
    return Decision(
        ids=scores.ids,
        actions=actions,
        labels=labels,
        weights=weights,
        reasons=tuple(choice.why_else.get(i, why[touched]) for i, touched in enumerate((actions != Action.KEEP).tolist())),
        policy=policy.name,
        options={field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)},  # type: ignore[arg-type]
        title=f"{policy.title} by {scores.title}",
    )


def keep_first(order: Int[Tensor, " examples"], budget: int) -> Bool[Tensor, " examples"]:
    """Mask of the first `budget` positions of an order."""
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[:budget]] = True
    return kept


def removable(scores: Scores, harmful_only: bool = True) -> int:
    """How many examples may be removed: those predicted to do harm where the score says who they are, else all.

    Raises:
        UsageError: The score ranks difficulty.
    """
    suspects, harmful = scores.suspicion(), scores.harmful()
    return len(suspects) if harmful is None or not harmful_only else int(harmful.sum())


def worst(scores: Scores, count: int) -> Int[Tensor, " count"]:
    """Positions of the `count` most suspect, the most suspect first; of equal ones at the edge, the largest ids.

    Raises:
        UsageError: The score ranks difficulty.
    """
    return ordered(scores.suspicion(), scores.ids, descending=False).flip(0)[:count]
