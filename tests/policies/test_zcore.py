import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.maths import draws
from assay.maths.subspaces import covered_less_redundant
from assay.policies.zcore import ZCore
from policies.worlds import in_features

VARIANTS = [{"samples": 1000}, {"samples": 500, "neighbours": 5, "by_class": True}]
REFUSED = [
    *[
        "keep=-0.1,seed=0",
        "keep=1.5,seed=0",
        "samples=0,keep=0.1,seed=0",
        "neighbours=0,keep=0.1,seed=0",
        "exponent=-1,keep=0.1,seed=0",
    ],
    *["exponent=nan,keep=0.1,seed=0", "features=rows:,keep=0.1,seed=0"],
]


def test_the_score_is_coverage_less_redundancy_and_a_draw_below_1():
    rows = np.random.default_rng(0).normal(size=(50, 4))
    made = in_features(rows.tolist())
    decision = choose(ZCore(0.2, 3, samples=300), None, made)
    covers, beside = covered_less_redundant(torch.from_numpy(rows), torch.arange(50), 300, 3)
    values = covers - beside + draws.uniform(made.ids.keys, 3, "policy zcore")
    assert list(decision.order) == values.argsort(descending=True)[:10].tolist()
    assert decision.reasons[7] == f"covers {int(covers[7])} of 300 points in inputs, redundancy {float(beside[7]):.4g}"


def test_outside_a_crowd_more_stay_than_at_random():
    draw = np.random.default_rng(1)
    rows = np.concatenate([0.01 * draw.normal(size=(180, 6)), draw.normal(size=(20, 6))])
    kept = choose(ZCore(20, 0, samples=2000), None, in_features(rows.tolist())).kept
    assert int(kept[180:].sum()) >= 15


def test_classes_give_in_proportion_and_what_overflows_is_refused():
    rows, labels = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 4 // 3
    decision = choose(ZCore(8, 0, samples=100, by_class=True), None, in_features(rows.tolist(), labels))
    assert torch.bincount(torch.from_numpy(labels)[decision.kept]).tolist() == [6, 2]
    with pytest.raises(UsageError, match="zcore:keep=1,seed=0: Distances are not finite"):
        choose(ZCore(1, 0), None, in_features([[1.7e308], [-1.7e308]]))
