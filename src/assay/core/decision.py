"""Decisions: what to do with each training example, and why."""

import dataclasses
import enum
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from .arguments import checked_fields
from .errors import UsageError
from .ids import Ids
from .lineage import Lineage, fingerprint
from .tabular import Tabular, texts, whole_or_none

Unmatched = Literal["refuse", "keep", "drop"]
"""What becomes of examples that a decision does not know."""


class Action(enum.IntEnum):
    """What is done with one example. The number is what is stored."""

    DROP = 0
    KEEP = 1
    RELABEL = 2
    WEIGHT = 3


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Decision(Tabular):
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
        class_names: One name per class, where they are known.
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
    class_names: tuple[str, ...] = ()

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
        if self.class_names and bool((self.labels >= len(self.class_names)).any()):
            at = int((self.labels >= len(self.class_names)).nonzero()[0])
            raise UsageError(
                f"Example {self.ids.values[at]}: class {int(self.labels[at])} is none of the {len(self.class_names)} that have a name."
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

    def to_numpy(self) -> dict[str, np.ndarray]:
        """The columns by name.

        Returns:
            `id`, `action` (drop, keep, relabel or weight), `new_label` (number of the class to train on where it is relabelled, else empty), `new_class` (its
            name; only where classes have names), `weight` and `reason`.
        """
        relabelled = (self.labels >= 0).numpy()
        names = [self.class_names[label] if label >= 0 else "" for label in self.labels.tolist()] if self.class_names else None
        actions = {int(action): action.name.lower() for action in Action}
        return {
            "id": self.ids.values,
            "action": texts([actions[action] for action in self.actions.tolist()]),
            "new_label": whole_or_none(self.labels.numpy(), relabelled),
            **({} if names is None else {"new_class": texts(names)}),
            "weight": self.weights.numpy(),
            "reason": texts(self.reasons),
        }

    def shown_first(self) -> np.ndarray:
        return np.argsort(~self.touched.numpy(), kind="stable")

    def loss_weights(self, ids: Ids | Iterable[int] | Iterable[str]) -> Tensor:
        """The factor of each example's loss: 0 where it is dropped, 1 where it is kept or relabelled, else its weight.

        `(decision.loss_weights(ids) * losses).mean()` is the loss of a batch, whose ids may repeat.

        Args:
            ids: The ids of the examples of a batch, in its order.

        Returns:
            One per id, of torch's default type; on the device of `ids` if these are a tensor.

        Raises:
            Mismatch: An id is not among those decided on.
        """
        rows = (
            ids.values
            if isinstance(ids, Ids)
            else ids.detach().cpu().numpy()
            if isinstance(ids, Tensor)
            else np.asarray(list(ids))
        )
        distinct, place = np.unique(rows, return_inverse=True)
        weights = self.weights[self.ids.positions(Ids(distinct), "the decision")][torch.from_numpy(place)]
        return weights.to(torch.get_default_dtype()).to(ids.device if isinstance(ids, Tensor) else "cpu")

    def apply(
        self,
        data: Any,
        *,
        ids: Any = None,
        label: int | str | None = None,
        weight: str | None = None,
        unmatched: Unmatched = "refuse",
    ) -> Any:
        """The data as the decision leaves them: without the dropped examples, under the new labels.

        Args:
            data: A map-style dataset of torch, a `datasets.Dataset`, a frame of pandas or polars, or arrays `(X, y)`.
            ids: Id of each example of the data, in their order: a row of ids, or the name of a column that holds them. By default a frame of pandas is
                joined by its index, and other data are only taken where the ids decided on are the positions 0, 1, 2, ... in them.
            label: Where the label stands that a relabelling decision changes: the name of a column, or the key or position in an item of a torch
                dataset, whose label is the second by default.
            weight: Name of a column for the factor of each example's loss; a decision that weighs needs it.
            unmatched: What becomes of examples that the decision does not know: `refuse` them, `keep` or `drop` them. With the latter two,
                it may also know examples that are not there.

        Returns:
            A `torch.utils.data.Subset`, a dataset or frame of the same kind, or `(X, y)` (`(X, y, weights)` if it weighs); the order of what is left is that of
            the data, which stay as they are.

        Raises:
            UsageError: Data of another kind; ids that are not known; or a relabelling or weighing decision without a place for labels or weights.
            Mismatch: The ids of the data and those decided on differ.
        """
        from ..data.applying import applied

        return applied(self, data, ids=ids, label=label, weight=weight, unmatched=unmatched)

    def sampler(self, data: Any, *, ids: Any = None, unmatched: Unmatched = "refuse", seed: int | None = None) -> Any:
        """A sampler of torch for a `DataLoader` over all the data, which stay as they are.

        If every kept example counts alike, each is drawn once per epoch, in random order. Else as many examples as are kept are drawn per epoch with
        replacement, each with a probability proportional to its weight.

        Args:
            data: The dataset, or a loader of it.
            ids: As `apply` takes them.
            unmatched: As `apply` takes it.
            seed: Seed of the draws; None for torch's own.

        Returns:
            A `torch.utils.data.Sampler` of positions in the dataset.

        Raises:
            UsageError: The ids are not known, the decision relabels, which no sampler can, or nothing is kept.
            Mismatch: The ids of the data and those decided on differ.
        """
        from ..data.applying import sampler_of

        return sampler_of(self, data, ids=ids, unmatched=unmatched, seed=seed)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over ids, actions, labels and weights."""
        arrays = (self.actions.to(torch.int64), self.labels.to(torch.int64), self.weights)
        return fingerprint(self.ids.fingerprint, *(array.numpy().tobytes() for array in arrays))
