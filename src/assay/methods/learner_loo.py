r"""Leave-one-out of a learner: what its value on held-out examples loses without an example.

$$ \phi_i = v(N) - v(N \setminus \{i\}) $$

As many trainings as there are examples, and one. It asks about one coalition only, the largest, where one example rarely matters: of two that are alike
neither is missed. `loo` asks the same of the recorded training itself.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ..core.evidence import Evidence
from ..core.game import Game, Utility
from ..core.game_method import BLOCK, AbstractGameMethod
from ..core.method import Source
from ..core.results import Result


def learner_loo(game: Game) -> Float64[Tensor, " players"]:
    """What each player adds to the value of all others together.

    Args:
        game: The game; as many coalitions as players, and one, are valued.

    Returns:
        In the unit of the game's values: below 0 where the others do better alone.

    Source: Ghorbani and Zou 2019, section 2.
    """
    players = len(game.players)
    whole = game.values(torch.ones(1, players, dtype=torch.bool))
    without = []
    for some in torch.arange(players).split(BLOCK):
        held = torch.ones(len(some), players, dtype=torch.bool)
        held[torch.arange(len(some)), some] = False
        without.append(game.values(held))
    return whole - torch.cat(without)


@dataclasses.dataclass(frozen=True)
class LearnerLOO(AbstractGameMethod):
    """What a learner's value on held-out examples loses when the example alone is left out: above 0 where it helps, below 0 where it harms.

    Args:
        learner: The learner to train, with options joined by `+`: `logistic`, `knn:k=3`, `ridge`, `net:width=64+steps=50`, `tree`, or a classifier of
            scikit-learn such as `sklearn.naive_bayes.GaussianNB`.
        utility: What a set of examples is worth, a mean over the held-out examples: `prob`, the probability of the label; `accuracy`, the share that is
            predicted right, which one example seldom changes; or `log_prob`, the logarithm of the probability, after 0.01 of chance is mixed in.
        target: The held-out examples: `validation`, `class=NAME`, `test`, or a name that targets= gives.
        features: The learner's input: `inputs`, `rows:NAME` from outside (`--inputs NAME=FILE`, and `NAME@validation` for the held-out examples), or features
            from a kept model, such as `penultimate`.
    """

    utility: Utility = "prob"
    name: ClassVar[str] = "learner_loo"
    below_zero: ClassVar[str] = "makes the learner worse on the held-out examples, when all other examples are there"
    source: ClassVar[Source] = Source(
        "Ghorbani and Zou 2019", "https://arxiv.org/abs/1904.02868", "the comparison method of the paper's section 2"
    )

    def run(self, evidence: Evidence) -> Result:
        game = self.game(evidence)
        values = learner_loo(game)
        told = {
            "value of all examples": float(game.values(torch.ones(1, len(values), dtype=torch.bool))),
            "trainings": len(values) + 1,
        }
        return Result(values, diagnostics=told, warnings=self.said(game))
