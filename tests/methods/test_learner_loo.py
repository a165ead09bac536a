"""Leave-one-out of a learner: against trainings one by one, pyDVL's definition, duplicates, and what it says of itself."""

import torch

from assay.core.ids import Ids
from assay.core.scoring import score
from assay.methods.learner_loo import LearnerLOO, learner_loo
from methods.game_worlds import Table, evidence, number, planted

VARIANTS = [{"learner": "knn:k=3"}, {"learner": "ridge", "utility": "log_prob"}]
"""Options that the laws run it with."""

REFUSED = ["learner=", "utility=loss"]
"""Options that are refused."""


def test_it_is_the_difference_of_two_coalitions():
    values = torch.rand(2**9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [values[-1] - values[number(set(range(9)) - {player})] for player in range(9)]
    assert torch.equal(learner_loo(Table(Ids(range(9)), values)), torch.stack(expected))


def test_trainings_one_by_one_give_the_same_and_twins_are_not_missed():
    rows, labels, held = planted()
    found = score([LearnerLOO(learner="knn:k=1", utility="accuracy")], evidence(rows, labels, held))[0]

    def right(kept):
        nearest = torch.cdist(held[0], rows[kept]).argmin(1)
        return float((labels[kept][nearest] == held[1]).double().mean())

    everyone = torch.arange(len(labels))
    expected = torch.tensor([right(everyone) - right(everyone[everyone != one]) for one in everyone], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-12)
    assert found.diagnostics == {"value of all examples": right(everyone), "trainings": 25}
    # The last example is the one before it again, with the same label: either is enough.
    assert found.values[-2:].tolist() == [0, 0] and bool((found.values != 0).any())
    assert found.unit == "change of: share of held-out examples that are predicted right"


def test_it_finds_planted_wrong_labels():
    rows, labels, held = planted(n=60)
    found = score([LearnerLOO(learner="logistic")], evidence(rows, labels, held))[0]
    assert set(found.suspicion().argsort(descending=True)[:10].tolist()) == set(range(0, 60, 6))
