"""What the passes of a recording are that somebody else made: predictions, or models, that were saved."""

import dataclasses
from typing import Literal, get_args

from .errors import UnknownName

Kind = Literal["training", "evaluation", "out_of_fold", "out_of_bag", "held_out"]
KINDS: dict[Kind, tuple[str, str]] = {
    "training": ("the training pass itself", "the model was being trained on the examples that it predicts"),
    "evaluation": ("in evaluation mode", "the model was trained on the examples that it predicts"),
    "out_of_fold": ("out of fold", "each example is predicted by a model that was trained on the other folds"),
    "out_of_bag": ("out of bag", "each example is predicted by the models whose samples lack it"),
    "held_out": ("held out", "each example is predicted by a model that was not trained on it"),
}
"""Each kind of pass in words, and what its predictions say about an example."""


@dataclasses.dataclass(frozen=True)
class Passes:
    """What the passes of a recording are.

    Attributes:
        kind: Whether the models that predict an example were trained on it, and how.
        repeats: Whether the passes repeat one thing, as repeated cross-validation does, so that their order says nothing. If not, they are the
            epochs of one training, or of one training per fold, in their order.

    Raises:
        UnknownName: There is no such kind.
    """

    kind: Kind
    repeats: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UnknownName("kind of pass", str(self.kind), get_args(Kind))

    @property
    def unseen(self) -> bool:
        """Whether no model that predicts an example was trained on it."""
        return self.kind not in ("training", "evaluation")

    def summary(self, count: int, folds: int = 0) -> str:
        """What they are, in words.

        Args:
            count: How many there are.
            folds: Into how many folds the examples were split, where that is known.

        Returns:
            A part of a sentence, such as `1 pass, out of fold: ...`.
        """
        what, (name, meaning) = "repeated pass" if self.repeats else "pass", KINDS[self.kind]
        return f"{count} {what}{'es' if count != 1 else ''}, {f'held out, {folds} folds' if folds else name}: {meaning}"


def called(passes: Passes | None, count: int) -> tuple[str, str]:
    """What the passes of a recording are called: epochs of a training, or passes where there is only one, or each repeats another.

    Args:
        passes: What the passes are; None for the epochs of a recorded training.
        count: How many there are.

    Returns:
        One, and several: `epoch` and `epochs`, or `pass` and `passes`.
    """
    return ("pass", "passes") if passes is not None and (passes.repeats or count == 1) else ("epoch", "epochs")


def in_sample(passes: Passes | None) -> tuple[str, ...]:
    """What must be said of a conclusion about labels from predictions of models that were trained on the very examples; nothing of held-out ones.

    Args:
        passes: What the passes are; None for the epochs of a recorded training.

    Returns:
        A sentence, or none.
    """
    if passes is not None and passes.unseen:
        return ()
    return (
        "The probabilities are, for all that is known of them, of models that were trained on the examples that they predict, and such models agree with wrong "
        "labels too; for held-out ones record by folds (`assay record --folds 5`), or give out-of-fold probabilities to assay.from_probs.",
    )
