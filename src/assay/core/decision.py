"""Decisions: what to do with each training example, and why."""

import dataclasses
import enum
import functools
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from .arguments import checked_fields
from .errors import UsageError
from .ids import Ids
from .lineage import Lineage, fingerprint


class Action(enum.IntEnum):
    """What is done with one example. The number is what is stored."""

    DROP = 0
    KEEP = 1
    RELABEL = 2
    WEIGHT = 3


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Decision:
    """One action and one reason per example.

    Attributes:
        ids: The examples decided on.
        actions: The `Action` for each example.
        labels: The class to train on where the action is RELABEL; -1 elsewhere.
        weights: Factor of the example's loss: 0 where dropped, 1 where kept or relabelled, any number >= 0 for WEIGHT.
        reasons: The reason for each action, in words.
        policy: Name in the catalogue.
        options: All options the policy ran with.
        title: Title of the policy, and of the score that it chose by, if any.
        lineage: Where the decision comes from.
        order: The kept examples, in the order in which a nested policy takes them: the first k of them are what the policy keeps with
            a budget of k. None where there is no such order, for example after the kept examples were changed by hand.
        warnings: What a reader must know before following the decision, a sentence each.
    """

    ids: Ids
    actions: Int[Tensor, " examples"]
    labels: Int[Tensor, " examples"]
    weights: Float64[Tensor, " examples"]
    reasons: tuple[str, ...]
    policy: str
    options: Mapping[str, object]
    title: str
    lineage: Lineage | None = None
    order: Ids | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self):
        n = len(self.ids)
        if not self.actions.shape == self.labels.shape == self.weights.shape == (n,) or len(self.reasons) != n:
            raise UsageError(f"A decision on {n} examples needs one action, label, weight and reason for each.")
        wrong = (
            (self.actions < min(Action))
            | (self.actions > max(Action))
            | ((self.actions == Action.DROP) != (self.weights == 0))
            | ((self.actions == Action.KEEP) & (self.weights != 1))
            | ((self.actions == Action.RELABEL) != (self.labels >= 0))
            | (self.labels < -1)
            | ~self.weights.isfinite()
            | (self.weights < 0)
        )
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            names = {int(action): action.name for action in Action}
            raise UsageError(
                f"Example {self.ids.values[at]}: action {names.get(int(self.actions[at]), int(self.actions[at]))} does not go with "
                f"label {int(self.labels[at])} and weight {float(self.weights[at])}."
            )
        if self.order is not None and (
            len(self.order) != self.budget or not bool(self.kept[self.ids.positions(self.order, "the decision")].all())
        ):
            # After a change by hand, which need not know of an order.
            object.__setattr__(self, "order", None)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        counts = ", ".join(f"{action} {n:,}" for action, n in self.counts().items())
        return f"Decision({self.title}: {counts} of {len(self):,} examples)"

    @property
    def kept(self) -> Bool[Tensor, " examples"]:
        """Which examples still take part in training."""
        return self.actions != Action.DROP

    @property
    def touched(self) -> Bool[Tensor, " examples"]:
        """Which examples are dropped, relabelled or weighted."""
        return self.actions != Action.KEEP

    @property
    def budget(self) -> int:
        """How many examples are kept."""
        return int(self.kept.sum())

    @property
    def kept_ids(self) -> Ids:
        """The examples that still take part in training.

        Where ids are the default ones, `torch.utils.data.Subset(dataset, decision.kept_ids)` holds just these.
        """
        return self.ids.take(self.kept)

    @property
    def kept_positions(self) -> Int[Tensor, " kept"]:
        """Positions in `ids` of the examples that still take part in training, rising, int64.

        `ids` of a decision made by a run's scores are in the order of the dataset that was recorded, so that
        `torch.utils.data.Subset(dataset, decision.kept_positions)` holds just these, whatever their ids are.

        Raises:
            UsageError: The loader drew from a part of its dataset by a sampler, so that these are not positions in the dataset.
        """
        if self.lineage is not None and self.lineage.drawn:
            raise UsageError(
                "These examples are a part of the dataset that a SubsetRandomSampler drew from, so positions among them are not positions in "
                "it; where ids are the default ones, use Subset(dataset, decision.kept_ids)."
            )
        return self.kept.nonzero().flatten()

    @property
    def dropped_ids(self) -> Ids:
        """The ids of the examples that no longer take part in training."""
        return self.ids.take(~self.kept)

    def counts(self) -> dict[str, int]:
        """Number of examples for each action; actions that no example has are left out."""
        return {action.name.lower(): n for action in Action if (n := int((self.actions == action).sum()))}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over ids, actions, labels and weights."""
        arrays = (self.actions.to(torch.int64), self.labels.to(torch.int64), self.weights)
        return fingerprint(self.ids.fingerprint, *(array.numpy().tobytes() for array in arrays))
