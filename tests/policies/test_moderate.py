import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.policies.moderate import Moderate, centre_distance, from_the_middle
from policies.worlds import golden_features, in_features

VARIANTS = [{}, {"features": "inputs", "centre": "median", "by_class": True}]
REFUSED = ["keep=-0.1", "keep=1.5", "centre=mode,keep=0.1", "features=rows:,keep=0.1"]


def test_golden():
    given = golden_features()
    for centre, name in (("mean", "moderate_dist"), ("median", "moderate_dist_median")):
        values = centre_distance(given["features"].double(), given["labels"], torch.arange(500), centre)
        torch.testing.assert_close(values, given[name], rtol=0, atol=1e-10)
    made = in_features(given["features"].double(), given["labels"])
    for keep in (0.7, 0.3, 0.1):
        kept = choose(Moderate(keep, features="inputs"), None, made).kept
        # The released routine returns the indices to drop, the two ends, which others have taken for those to keep.
        assert kept.nonzero().flatten().tolist() == given[f"moderate_keep{keep}"].sort().values.tolist()


def test_outliers_and_the_most_typical_are_not_in_the_middle():
    rows, labels = [[0.0], [1.0], [-1.0], [2.0], [-2.0], [9.0], [-9.0]], [0] * 7
    decision = choose(Moderate(3, features="inputs"), None, in_features(rows, labels), ["ant", "bee"])
    assert list(decision.order) == [3, 1, 4]
    assert decision.reasons[5] == "rank 6 of 7 by distance from the mean of its class in inputs, 9"


def test_planted_outliers_are_left_out_more_than_at_random():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    rows = 3 * torch.randn(4, 8, generator=draw)[labels] + torch.randn(200, 8, generator=draw)
    rows[:20] += 20 * torch.randn(20, 8, generator=draw)
    assert int(choose(Moderate(0.5, features="inputs"), None, in_features(rows, labels)).kept[:20].sum()) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_the_first_are_the_places_in_the_middle(count):
    order = from_the_middle(torch.arange(count, dtype=torch.float64)).tolist()
    for k in range(count + 1):
        assert sorted(order[:k]) == list(range((count - k) // 2, (count - k) // 2 + k))


def test_of_equal_distances_the_earliest_place_comes_first_and_the_values_are_those_of_the_middle():
    values = torch.tensor([0.0, 1, 1, 1, 1, 2, 2], dtype=torch.float64)
    order = from_the_middle(values)
    for k in range(8):
        assert sorted(values[order[:k]].tolist()) == values[(7 - k) // 2 : (7 - k) // 2 + k].tolist()
    assert order[:3].tolist() == [1, 2, 3] and sorted(order.tolist()) == list(range(7))


def test_each_class_by_itself():
    rows, labels = np.arange(12.0)[:, None] ** 2, np.arange(12) % 2
    decision = choose(Moderate(4, "inputs", by_class=True), None, in_features(rows.tolist(), labels), ["ant", "bee"])
    assert torch.bincount(torch.from_numpy(labels)[decision.kept]).tolist() == [2, 2]
    assert "of 6 of class bee by distance" in decision.reasons[1]


def test_what_overflows_is_refused_with_the_policy():
    with pytest.raises(UsageError, match="moderate:keep=1,features=inputs: Distances are not finite"):
        choose(Moderate(1, features="inputs"), None, in_features([[0.0], [1e300], [-1e300]], [0, 0, 0]))
