import dataclasses
import math

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scores import Direction
from assay.core.selection import Pool, choose
from assay.policies.threshold import Threshold
from policies.worlds import scores

VARIANTS = [{"at_least": 0.4}, {"at_least": 0.2, "at_most": 0.7, "by": "suspicion"}, {"count": 7}]
REFUSED = [
    "at_least=2,at_most=1",
    "by=hardness,at_least=1",
    "count=3,fdr=0.1",
    "fdr=2",
    "count=-1",
    "count=3,by=suspicion",
    "count=some",
]


def test_bounds_belong_to_what_stays():
    made = scores([0.0, 1.0, 2.0, 3.0])
    assert list(choose(Threshold(at_least=1.0), made).kept_ids) == [1, 2, 3]
    assert list(choose(Threshold(at_most=1.0), made).kept_ids) == [0, 1]
    decision = choose(Threshold(at_least=1.0, at_most=2.0), made)
    assert list(decision.kept_ids) == [1, 2]
    assert decision.reasons[:2] == (
        "not values of made at least 1.0 and at most 2.0",
        "values of made at least 1.0 and at most 2.0",
    )


def test_by_suspicion_turns_the_score():
    made = scores([-3.0, -1.0, 2.0], Direction.LOW_IS_SUSPECT)
    assert list(choose(Threshold(at_most=1.0, by="suspicion"), made).kept_ids) == [1, 2]


@pytest.mark.parametrize(("low", "high"), [(None, None), (2.0, 1.0), (math.nan, None), (None, math.nan)])
def test_bounds_that_say_nothing_are_refused(low, high):
    with pytest.raises(UsageError, match="at_least"):
        Threshold(at_least=low, at_most=high)


def test_nan_is_not_dropped_in_silence():
    made = scores([0.0, torch.nan])
    with pytest.raises(UsageError, match="ids 1"):
        Threshold(at_least=0.0).select(Pool(made.ids, None, made))


class Margins:
    holds, recorded = frozenset({Need.MARGINS}), 1

    def __init__(self, margins):
        self.margins = margins

    def read(self, epoch, need):
        return self.margins


def resisted(right=200, wrong=40):
    """A score that a run's margins agree with, and the run."""
    draw = torch.Generator().manual_seed(0)
    margins = torch.cat([3 + torch.randn(right, generator=draw), -3 + torch.randn(wrong, generator=draw)]).double()
    labels = torch.arange(right + wrong) % 2
    return scores(margins, Direction.LOW_IS_SUSPECT), Evidence(Ids(range(len(labels))), 2, labels=labels, epochs=Margins(margins))


def test_as_many_are_dropped_as_labels_seem_wrong():
    made, evidence = resisted()
    decision = choose(Threshold(count="auto"), made, evidence)
    dropped = {int(one) for one in decision.ids.take(~decision.kept)}
    assert abs(len(dropped) - 40) <= 1 and len(dropped & set(range(200, 240))) >= 39
    assert "among the 40 most suspect by made, as many as labels seem wrong (3" in decision.reasons[-1]
    clean = choose(Threshold(count="auto"), *resisted(wrong=0))
    assert bool(clean.kept.all()) and clean.warnings == ()


def test_a_share_of_right_labels_is_kept_to():
    made, evidence = resisted()
    counted = Pool(made.ids, evidence, made).wrong_labels
    few, more = (int((~choose(Threshold(fdr=rate), made, evidence).kept).sum()) for rate in (0.0, 0.2))
    rates = counted.false_discoveries(made)
    assert few == 0 < more and float(rates[more - 1]) <= 0.2 < float(rates[more]) and abs(more - 50) <= 2


@pytest.mark.parametrize("policy", [Threshold(count="auto"), Threshold(fdr=0.5)])
def test_none_is_dropped_where_the_count_may_be_0(policy, monkeypatch):
    made, evidence = resisted()
    sure = Pool(made.ids, evidence, made).wrong_labels
    unsure = dataclasses.replace(sure, low=0.0)
    monkeypatch.setattr(Pool, "wrong_labels", unsure)
    decision = choose(policy, made, evidence)
    assert (
        bool(decision.kept.all())
        and "No sign of wrong labels" in decision.warnings[0]
        and "None is dropped" in decision.warnings[0]
    )


@pytest.mark.parametrize("policy", [Threshold(count="auto"), Threshold(fdr=0.2)])
def test_a_count_that_says_little_is_told(policy, monkeypatch):
    made, evidence = resisted()
    sure = Pool(made.ids, evidence, made).wrong_labels
    told = choose(policy, made, evidence)
    assert sure.low > sure.count / 4 and told.warnings == ()
    monkeypatch.setattr(Pool, "wrong_labels", dataclasses.replace(sure, low=sure.count / 4 - 1, high=80.0))
    decision = choose(policy, made, evidence)
    assert torch.equal(decision.kept, told.kept) and len(decision.warnings) == 1
    assert f"(95 % interval {sure.count / 4 - 1:.0f} to 80)" in decision.warnings[0]
    assert f"most of the {int((~decision.kept).sum())} dropped may be right" in decision.warnings[0]


def test_of_a_part_of_the_examples_as_many_are_dropped_as_seem_wrong_there():
    made, evidence = resisted()
    some = torch.arange(240) < 215
    part = dataclasses.replace(made, ids=made.ids.take(some), values=made.values[some], unscored=made.ids.take(~some))
    decision = choose(Threshold(count="auto"), part, evidence, unscored="keep")
    assert abs(int((~decision.kept).sum()) - 15) <= 1


def test_a_number_needs_no_run():
    made = scores([0.0, 1.0, 2.0, 3.0], Direction.LOW_IS_SUSPECT)
    assert list(choose(Threshold(count=2), made).kept_ids) == [2, 3] and not Threshold(count=2).reads
    with pytest.raises(UsageError, match="more than the 4 examples"):
        choose(Threshold(count=5), made)
