"""Cooperative games: the examples are the players, and a coalition's value is how well a learner trained on it predicts held-out examples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..maths.games import FLOOR
from .held_out import HeldOutRows
from .ids import Ids

Coalitions = Bool[Tensor, "coalitions players"] | Int[Tensor, "coalitions players"]
"""Which examples a learner is trained on, or how often each: 0 leaves it out, 2 counts it twice, as in a bootstrap sample."""

Utility = Literal["accuracy", "prob", "log_prob"]
"""What a prediction is worth; of a coalition, the mean over the held-out examples: see `UNITS`."""

UNITS: Mapping[Utility, str] = {
    "accuracy": "share of held-out examples that are predicted right",
    "prob": "mean probability of a held-out example's label",
    "log_prob": f"mean log-probability of a held-out example's label in nats, of probabilities mixed with {FLOOR:g} of chance",
}
"""The unit of each utility."""


@dataclasses.dataclass(frozen=True, eq=False)
class Valuation:
    """By what coalitions are valued.

    Attributes:
        held_out: The held-out examples.
        utility: What of their predictions is the value.
    """

    held_out: HeldOutRows
    utility: Utility = "accuracy"


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

    def player_utilities(self, coalitions: Coalitions, utility: Utility) -> Float64[Tensor, "coalitions players"]:
        """What the prediction of each player is worth, by the learner trained on each coalition, whether the player is in it or not.

        Cached by coalition, so that none is trained on twice.

        Raises:
            AssayError: As `predictions`.
        """
        ...

    def values(self, coalitions: Coalitions) -> Float64[Tensor, " coalitions"]:
        """Value of each coalition: the utility of the learner trained on it, a mean over the held-out examples.

        Cached by coalition, so that none is trained on twice.

        Raises:
            MissingEvidence: There are no held-out examples.
            AssayError: A training failed; a failed training never gives a value.
        """
        ...

    def class_values(self, coalitions: Coalitions) -> Float64[Tensor, "coalitions classes"]:
        """What the held-out examples of each class add to the value of each coalition; adds up to `values`.

        Raises:
            AssayError: As `values`.
        """
        ...

    def path_values(
        self, orders: Int[Tensor, "orders players"], truncate: float = 0.0
    ) -> tuple[Float64[Tensor, "orders sizes"], Int[Tensor, " orders"]]:
        """Values of the first 0, 1, ... players of each order, where the learner has a form for it without training anew.

        Args:
            orders: Orders of the players, by their positions.
            truncate: Once the value of a coalition is at most this far from that of all players, the larger ones of this order are given the same
                value and are not trained; 0 trains all.

        Returns:
            The values, of one size more than there are players; and how many coalitions of each order have a value of their own, with the empty one.

        Raises:
            AssayError: As `values`.
        """
        ...


GameMaker = Callable[[Ids, Float[Tensor, "examples dims"], Int[Tensor, " examples"], int, str, Valuation | None], Game]
"""Makes a game of ids, features, labels, the number of classes, the name of a learner with options, and by what coalitions are valued."""
