"""Cooperative games: the examples are the players, and a coalition's value is the accuracy of a learner trained on it."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from .ids import Ids

Coalitions = Bool[Tensor, "coalitions players"] | Int[Tensor, "coalitions players"]
"""Which examples a learner is trained on, or how often each: 0 leaves it out, 2 counts it twice, as in a bootstrap sample."""


@runtime_checkable
class Game(Protocol):
    """A learner that is trained on coalitions of the examples. The result for a coalition does not depend on earlier calls."""

    @property
    def players(self) -> Ids:
        """The examples, in the order of a coalition's columns."""
        ...

    @property
    def remarks(self) -> Mapping[str, int]:
        """Remarks on the trainings so far, such as that they did not converge, with the number of trainings for each remark."""
        ...

    def predictions(self, coalitions: Coalitions) -> Float64[Tensor, "coalitions queries classes"]:
        """Probabilities by the learner trained on each coalition, for every query.

        Queries are the players, then the validation examples if there are any. For the empty coalition all classes have the same probability.

        Raises:
            AssayError: A training failed; says of which coalition and why.
        """
        ...

    def values(self, coalitions: Coalitions) -> Float64[Tensor, " coalitions"]:
        """Value of each coalition: fraction of the validation examples that the learner trained on it predicts right.

        Cached by coalition, so that none is trained on twice.

        Raises:
            MissingEvidence: There are no validation examples.
            AssayError: A training failed; a failed training never gives a value.
        """
        ...


GameMaker = Callable[[Ids, Float[Tensor, "examples dims"], Int[Tensor, " examples"], int, str], Game]
"""Makes a game of ids, features, labels, the number of classes and the name of a learner with options."""
