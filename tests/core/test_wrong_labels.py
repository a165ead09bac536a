import numpy as np
import pytest
import torch

from assay.core.errors import MissingEvidence, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scores import Direction, Scores
from assay.core.wrong_labels import count_of_margins, mean_margins, wrong_count


def margins(right=200, wrong=40, seed=0, at=-3.0):
    draw = np.random.default_rng(seed)
    return torch.from_numpy(np.concatenate([draw.normal(3, 1, right), draw.normal(at, 1, wrong)]))


def scores(values, direction=Direction.LOW_IS_SUSPECT):
    values = torch.as_tensor(values, dtype=torch.float64)
    return Scores(Ids(range(len(values))), values, "made", {}, "made", direction, "none")


class Margins:
    """Margins of some epochs; NaN where an epoch did not train on the example."""

    holds = frozenset({Need.MARGINS})

    def __init__(self, rows):
        self.rows, self.recorded = rows, len(rows)

    def read(self, epoch, need):
        return self.rows[epoch]

    def missing(self, epoch):
        gone = self.rows[epoch].isnan()
        return gone if bool(gone.any()) else None


def test_the_count_by_class_says_where_the_wrong_labels_are():
    labels = torch.cat([torch.arange(200) % 2, torch.ones(40, dtype=torch.int64)])
    found = count_of_margins(Ids(range(240)), margins(), labels, ["cat", "dog"])
    assert abs(found.count - 40) < 2 and found.low <= 40 <= found.high and found.seen and found.clear
    cat, dog = found.by_class
    assert (cat.name, cat.examples, dog.name, dog.examples) == ("cat", 100, "dog", 140)
    assert cat.count < 1 and abs(dog.count - 40) < 2 and "About 39 of 240 labels are wrong" in found.sentence
    assert float(found.chances[:200].mean()) < 0.02 and float(found.chances[200:].mean()) > 0.95


def test_where_nothing_is_wrong_nothing_is_counted():
    found = count_of_margins(Ids(range(200)), margins(wrong=0), None)
    assert found.whole == 0 and not found.seen and found.by_class == () and "No sign of wrong labels" in found.sentence


def test_a_model_that_has_learned_too_little_cannot_tell():
    draw = np.random.default_rng(0)
    # Most are resisted; or the right ones within a deviation of being so.
    for at in (-0.2, 0.6):
        found = count_of_margins(Ids(range(300)), torch.from_numpy(draw.normal(at, 1, 300)), None)
        assert not found.clear and not found.seen and found.count == 0 and found.high > 50 and "cannot be told" in found.sentence


def test_false_discoveries_are_the_mean_of_the_chances_left():
    found = count_of_margins(Ids(range(240)), margins(), None)
    values = margins()
    rates = found.false_discoveries(scores(values))
    order = values.argsort()
    for k in (1, 40, 41, 240):
        assert float(rates[k - 1]) == pytest.approx(float((1 - found.chances[order[:k]]).mean()))
    assert float(rates[39]) < 0.05 and float(rates[-1]) == pytest.approx(1 - found.count / 240)
    with pytest.raises(UsageError, match="difficulty"):
        found.false_discoveries(scores(values, Direction.LOW_IS_HARD))


def test_margins_are_means_over_the_epochs_that_trained_on_the_example():
    rows = torch.tensor([[1.0, torch.nan, torch.nan], [3.0, -2.0, torch.nan]], dtype=torch.float64)
    evidence = Evidence(Ids([5, 6, 7]), 2, labels=torch.tensor([0, 1, 1]), epochs=Margins(rows))
    means, seen = mean_margins(evidence)
    assert means.tolist() == [2.0, -2.0, 0.0] and seen.tolist() == [True, True, False]
    assert list(wrong_count(evidence).ids) == [5, 6]


def test_evidence_without_margins_is_refused():
    evidence = Evidence(Ids(range(3)), 2, labels=torch.tensor([0, 1, 1]))
    with pytest.raises(MissingEvidence, match="margins"):
        wrong_count(evidence)
    with pytest.raises(UsageError, match="finite"):
        count_of_margins(Ids([1]), torch.tensor([torch.nan], dtype=torch.float64), None)
