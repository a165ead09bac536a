"""A learner trained on coalitions of the examples."""

import hashlib
from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import AssayError, MissingEvidence, NumericalError, UsageError
from ..core.game import Coalitions
from ..core.ids import Ids
from ..core.learner import AbstractLearner, Constant, Fitted
from ..learners import parse
from ..maths import draws
from ..maths.games import agreement

SLACK = 1e-6
"""How far probabilities of an example may add up to something else than 1."""


def game_of(
    ids: Ids, rows: Float[Tensor, "examples dims"], labels: Int[Tensor, " examples"], classes: int, learner: str | AbstractLearner
) -> "RetrainingGame":
    """The cooperative game of a learner trained on coalitions of these examples, without validation examples.

    Raises:
        UnknownName: No such learner or option.
        UsageError: A value that the option does not take.
    """
    return RetrainingGame(ids, rows, labels, classes, parse(learner))


class RetrainingGame:
    """Game that trains the learner from scratch on every coalition, one after the other.

    The learner sees the examples in the order of their ids, and the classes in the order of their first examples: neither the order in which
    examples are given nor the numbers of their classes can change a prediction, whatever a learner makes of ties.

    Attributes:
        players: The examples.
        remarks: Messages of the trainings, with the number of trainings that gave each.
        trained: How many trainings there were.
    """

    def __init__(
        self,
        ids: Ids,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        learner: AbstractLearner,
        *,
        validation: tuple[Float[Tensor, "queries dims"], Int[Tensor, " queries"]] | None = None,
        seed: int = 0,
    ):
        """Prepare; nothing is trained yet.

        Args:
            ids: The examples.
            rows: What the learner sees of each.
            labels: Given class of each.
            classes: How many classes there are.
            learner: The learner to train.
            validation: Rows and labels of examples by which coalitions are valued.
            seed: Random seed of the learner's draws, together with the coalition.

        Raises:
            UsageError: Rows and labels do not fit.
        """
        if len(rows) != len(ids) or len(labels) != len(ids) or rows.ndim != 2:
            raise UsageError(f"{len(ids)} players do not fit rows {tuple(rows.shape)} and labels {tuple(labels.shape)}.")
        if validation is not None and (validation[0].shape[1:] != rows.shape[1:] or len(validation[0]) != len(validation[1])):
            raise UsageError(
                f"Validation rows {tuple(validation[0].shape)} and labels {tuple(validation[1].shape)} do not fit rows {tuple(rows.shape)}."
            )
        rows, labels = rows.detach().cpu(), labels.cpu()
        self.players, self.remarks, self.trained = ids, Counter[str](), 0
        self._learner, self._seed, self._classes = learner, seed, classes
        self._order = torch.argsort(ids.ranks)
        self._rows, self._given = rows[self._order], labels[self._order]
        self._keys = ids.keys[self._order.numpy()]
        self._names = _by_first(self._given, classes)
        self._labels = self._names[self._given]
        # In the same order, because products of matrices may add up a row by where it stands.
        self._queries = self._rows if validation is None else torch.cat([self._rows, validation[0].to(rows.dtype)])
        self._validation = validation
        self._values: dict[bytes, float] = {}

    def predictions(self, coalitions: Coalitions) -> Float64[Tensor, "coalitions queries classes"]:
        """See `Game.predictions`."""
        found = torch.empty(len(coalitions), len(self._queries), self._classes, dtype=torch.float64)
        for place, counts in enumerate(self._checked(coalitions)):
            probs = self._predicted(counts, self._queries)
            found[place, self._order], found[place, len(counts) :] = probs[: len(counts)], probs[len(counts) :]
        return found

    def values(self, coalitions: Coalitions) -> Float64[Tensor, " coalitions"]:
        """See `Game.values`."""
        if self._validation is None:
            raise MissingEvidence(
                "This game has no validation examples by which a coalition could be valued; make it with validation=(rows, labels)."
            )
        rows, labels = self._validation
        found = []
        for counts in self._checked(coalitions):
            key = hashlib.blake2b(counts.numpy().tobytes(), digest_size=16).digest()
            if key not in self._values:
                self._values[key] = float(agreement(self._predicted(counts, rows), labels).mean())
            found.append(self._values[key])
        return torch.tensor(found, dtype=torch.float64)

    def _checked(self, coalitions: Coalitions) -> Int[Tensor, "coalitions players"]:
        if coalitions.ndim != 2 or coalitions.shape[1] != len(self.players) or coalitions.is_floating_point():
            raise UsageError(
                f"Coalitions of shape {tuple(coalitions.shape)}, {coalitions.dtype}, do not fit {len(self.players)} players; give a column of "
                "true and false, or of whole numbers, for each."
            )
        counts = coalitions.to(torch.int64)
        if bool((counts < 0).any()):
            raise UsageError("A coalition holds a player less than 0 times; give 0 for players that are left out.")
        return counts[:, self._order]

    def _predicted(self, counts: Int[Tensor, " players"], rows: Tensor) -> Float64[Tensor, "queries classes"]:
        """Probabilities of these rows, the classes as they are given, by the learner trained on a coalition in the order of the ids."""
        where = f"{self._learner.title}, trained on {int((counts > 0).sum())} of {len(counts)} examples"
        try:
            fitted = self._fitted(counts)
            probs = fitted.predict_probs(rows)
        except AssayError as error:
            kind = UsageError if isinstance(error, UsageError) else NumericalError
            raise kind(f"{where}: {error}") from error
        except Exception as error:
            # A learner may be anybody's: whatever ends it must not become a number.
            raise NumericalError(f"{where}, failed: {type(error).__name__}: {error}.") from error
        if probs.shape != (len(rows), self._classes) or not bool(
            (probs.isfinite() & (probs >= 0)).all() & ((probs.sum(1) - 1).abs() <= SLACK).all()
        ):
            raise NumericalError(f"{where}, gave something other than probabilities that add up to 1 for each row.")
        self.remarks.update(fitted.remarks)
        return probs[:, self._names]

    def _fitted(self, counts: Int[Tensor, " players"]) -> Fitted:
        self.trained += 1
        if not bool(counts.any()):
            return Constant(torch.full((self._classes,), 1 / self._classes, dtype=torch.float64))
        # What a learner draws belongs to the coalition, so that nothing hangs on what was trained before it.
        words = draws.words(self._keys, self._seed, "coalition") * counts.numpy().astype(np.uint64)
        seed = draws.integer(self._seed, "learner", int(words.sum(dtype=np.uint64)))
        return self._learner.fit(self._rows, self._labels, self._classes, counts, seed)


def _by_first(labels: Int[Tensor, " examples"], classes: int) -> Int[Tensor, " classes"]:
    """For each class its place by the first example that has it; those that none has come last."""
    first = torch.full((classes,), len(labels)).scatter_reduce_(0, labels, torch.arange(len(labels)), "amin")
    return torch.argsort(torch.argsort(first, stable=True), stable=True)
