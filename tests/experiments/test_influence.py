import math

import numpy as np
import pytest
import torch

from assay.core.ids import Ids
from assay.core.lineage import Lineage
from assay.core.scores import CHANGE, Direction, Scores
from assay.experiments import influence
from assay.experiments.influence import comparisons, influences
from assay.experiments.score import score
from experiments import small


def made(
    values, method="sgd_influence", *, ids=None, unit=CHANGE, by_epoch=None, norms=None, title="", high=False, print="", **options
):
    """Scores by hand."""
    given = {"target": "validation", "window": "all", **({"form": "exact"} if method == "sgd_influence" else {}), **options}
    return Scores(
        ids if ids is not None else Ids(range(len(values))),
        torch.tensor(values, dtype=torch.float64),
        method,
        {name: value for name, value in given.items() if value is not None},
        title or method,
        Direction.HIGH_IS_SUSPECT if high else Direction.LOW_IS_SUSPECT,
        unit,
        lineage=Lineage("d", {f"target {given['target']}": print}) if print else None,
        by_epoch=None if by_epoch is None else torch.tensor(by_epoch, dtype=torch.float64),
        diagnostics={} if norms is None else {influence.ADJOINT_NORMS: norms},
    )


def wrong(*bad):
    return lambda ids: torch.tensor([id_ in bad for id_ in ids])


def test_the_ends_of_a_score_with_ties_by_id():
    (one,) = influences([made([3.0, -1.0, 0.0, -1.0, 2.0, -5.0], ids=Ids([10, 9, 8, 7, 6, 5]))], None, 100, 40)
    assert list(one.harmful.ids) == [5, 7, 9] and one.harmful.values.tolist() == [-5, -1, -1]
    assert list(one.helpful.ids) == [10, 6, 8] and one.helpful.values.tolist() == [3, 2, 0]
    assert (one.harming, one.helping, one.target, one.title) == (3, 2, "validation", "sgd_influence")
    assert one.epochs == () and one.norms == () and one.wrong is None


def test_a_turned_sign_is_read_as_such():
    (one,) = influences([made([3.0, -1.0, 0.0, 2.0], high=True)], None, 100, 40)
    assert list(one.harmful.ids) == [0, 3] and list(one.helpful.ids) == [1, 2]
    assert one.harmful.values.tolist() == [3, 2] and (one.harming, one.helping) == (2, 1)


def test_who_tells_harm_from_help():
    values = [1.0, -1.0]
    able = [made(values), made(values, "oti", unit="rank only", target=None, title="oti")]
    unable = [
        made(values, "tracin", unit="rank only", target="self", high=True, title="self"),
        made(values, "aum", unit="logits", target=None, title="aum"),
    ]
    hard = Scores(Ids([0, 1]), torch.ones(2).double(), "grand", {}, "grand", Direction.HIGH_IS_HARD, "rank only")
    found = influences([*unable, hard, *able], None, 100, 40)
    assert [(one.title, one.target) for one in found] == [("sgd_influence", "validation"), ("oti", "")]
    assert (found[1].harming, found[1].helping) == (None, None), "a score that only ranks counts no harm"


def test_exact_influence_leads():
    plain, checked = made([1.0, 0.0]), made([1.0, 0.0], norms=[1.0], title="sgd_influence:checks=3")
    others = [
        made([1.0, 0.0], "loo"),
        made([1.0, 0.0], form="no_hessian", unit="rank only", title="sgd_influence:form=no_hessian"),
    ]
    titles = [one.title for one in influences([*others, plain, checked], None, 100, 40)]
    assert titles[:2] == ["sgd_influence:checks=3", "sgd_influence"] and set(titles[2:]) == {one.title for one in others}


def test_all_ends_together_fit_the_page():
    scores = [made(list(range(100)), title=f"score {n}") for n in range(3)]
    assert [len(one.harmful.ids) for one in influences(scores, None, 2000, 40)] == [10, 10, 10]
    assert [len(one.helpful.ids) for one in influences(scores, None, 20, 40)] == [3, 3, 3]
    assert [len(one.helpful.ids) for one in influences(scores, None, 5, 40)] == [0, 0, 0]


def test_values_over_time_are_sums_and_means_of_labels():
    by_epoch = [[1.0, -1.0, 0.5, 0.0], [0.5, -2.0, 0.0, 0.25], [0.25, 1.0, 1.0, -3.0]]
    values = np.sum(by_epoch, 0).tolist()
    (one,) = influences([made(values, by_epoch=by_epoch, norms=[0.5, 0.25, 2.0, 4.0])], wrong(1, 3), 100, 40)
    assert one.epochs == (0, 1, 2) and list(one.harmful.ids) == [3, 1] and list(one.helpful.ids) == [0, 2]
    sums = np.cumsum(by_epoch, 0)
    assert one.harmful.over_time.tolist() == sums[:, [3, 1]].tolist()
    assert one.helpful.over_time.tolist() == sums[:, [0, 2]].tolist()
    assert one.wrong.tolist() == sums[:, [1, 3]].mean(1).tolist() and one.right.tolist() == sums[:, [0, 2]].mean(1).tolist()
    assert one.norms == ((0, 4.0), (1, 2.0), (2, 0.25), (3, 0.5)), "the last is after the last epoch"


def test_a_window_has_norms_of_its_own_epochs_only():
    (one,) = influences([made([1.0, 0.0], by_epoch=[[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], norms=[3.0, 2.0])], None, 100, 40)
    assert one.norms == ((2, 2.0), (3, 3.0))


def test_long_courses_are_thinned_after_they_are_summed():
    (one,) = influences([made([99.0, 0.0], by_epoch=[[1.0, 0.0]] * 99)], None, 100, 5)
    assert one.epochs == (0, 24, 49, 74, 98) or one.epochs == (0, 25, 49, 74, 98)
    assert one.helpful.over_time[:, 0].tolist() == [epoch + 1 for epoch in one.epochs]


def test_when_all_labels_are_right_none_are_compared():
    (one,) = influences([made([1.0, 0.0], by_epoch=[[1.0, 0.0]])], wrong(), 100, 40)
    assert one.wrong is None and one.right is None


def test_numbers_of_a_comparison_against_scipy_and_numpy():
    from scipy.stats import kendalltau, pearsonr, spearmanr

    rng = np.random.default_rng(0)
    predicted = rng.normal(size=50).round(1)
    actual = 1.5 * predicted + 0.2 + rng.normal(size=50)
    (one,) = comparisons([made(actual.tolist(), "loo", form="weight"), made(predicted.tolist())], wrong(3, 4))
    assert (one.title, one.reference, one.target, one.measured, one.same) == ("sgd_influence", "loo", "validation", True, True)
    assert one.tau == pytest.approx(kendalltau(predicted, actual).statistic, abs=1e-12)
    assert one.spearman == pytest.approx(spearmanr(predicted, actual).statistic, abs=1e-12)
    assert one.pearson == pytest.approx(pearsonr(predicted, actual).statistic, abs=1e-12)
    assert one.slope == pytest.approx(np.polyfit(predicted, actual, 1)[0], rel=1e-9)
    assert one.examples == len(one.ids) == 50 and one.values.tolist() == predicted.tolist()
    assert one.references.tolist() == actual.tolist() and one.wrong.nonzero().flatten().tolist() == [3, 4]


def test_who_is_held_against_whom():
    values = [1.0, 2.0, 3.0]
    scores = [
        made(values),
        made(values, form="no_hessian", unit="rank only", title="no_hessian"),
        made(values, "tracin", unit="rank only", window=None, title="tracin"),
        made(values, "loo", form="weight"),
        made(values, target="test", title="of test"),
        made(values, window="last", title="of last"),
        made(values, "loo", window="last", form="weight", title="loo of last"),
        made(values, "oti", unit="rank only", target=None, title="oti"),
        made(values, "influence", window=None, title="influence"),
        made(values, "a stranger's", window=None, title="strange"),
    ]
    found = {(one.title, one.reference): (one.measured, one.same) for one in comparisons(scores, None)}
    assert found == {
        ("sgd_influence", "loo"): (True, True),
        ("no_hessian", "loo"): (True, False),
        ("tracin", "loo"): (True, False),
        ("no_hessian", "sgd_influence"): (False, False),
        ("tracin", "sgd_influence"): (False, False),
        # It tells the change after a training to the optimum, another number than that after the recorded steps.
        ("influence", "loo"): (True, False),
        ("influence", "sgd_influence"): (False, False),
        ("strange", "loo"): (True, False),
        ("strange", "sgd_influence"): (False, False),
        ("of last", "loo of last"): (True, True),
    }


def test_targets_of_one_name_made_of_other_examples_are_not_held_against_each_other():
    one, other = made([1.0, 2.0], print="aaa"), made([1.0, 2.0], "loo", print="bbb")
    assert comparisons([one, other], None) == ()
    assert len(comparisons([one, made([1.0, 2.0], "loo", print="aaa")], None)) == 1


def test_a_comparison_joins_by_id_and_turns_signs():
    one = made([5.0, 1.0, 2.0], ids=Ids([7, 8, 9]))
    other = made([-20.0, -10.0, 4.0], "loo", ids=Ids([9, 8, 3]), high=True)
    (found,) = comparisons([one, other], None)
    assert list(found.ids) == [8, 9] and found.values.tolist() == [1, 2] and found.references.tolist() == [10, 20]
    assert found.examples == 2 and found.slope == pytest.approx(10) and found.tau == 1 and found.wrong is None
    assert comparisons([one, made([1.0, 2.0], "loo", ids=Ids([9, 3]))], None) == (), "one example is no order"


def test_many_points_are_thinned_and_the_numbers_are_over_all(monkeypatch):
    monkeypatch.setattr(influence, "MOST_POINTS", 20)
    values = np.random.default_rng(1).normal(size=60).tolist()
    (found,) = comparisons([made(values), made((np.array(values) ** 3).tolist(), "loo")], wrong(5))
    assert len(found.ids) == 20 and found.examples == 60 and found.tau == 1
    assert found.values.tolist() == [values[id_] for id_ in found.ids] and len(found.wrong) == 20


def test_a_flat_score_has_no_correlation():
    (found,) = comparisons([made([0.0, 0.0, 0.0]), made([1.0, 2.0, 3.0], "loo")], None)
    assert all(math.isnan(number) for number in (found.tau, found.spearman, found.pearson, found.slope))


def test_of_a_recorded_run(tmp_path):
    """What the methods really hand over: courses, norms, and a linear answer that leave-one-out bears out."""
    run = small.recorded(
        tmp_path / "run",
        data="digits:test=1757",
        validation=0.25,
        recipe={"epochs": 2, "batch": 10, "lr": 0.01},
        record={"checkpoints": "every"},
    )
    table = score(run, ["sgd_influence", "sgd_influence:form=no_hessian", "loo"])
    one, *_ = influences(list(table.values()), None, 2000, 40)
    assert one.title == "sgd_influence" and one.epochs == (0, 1) and [epoch for epoch, _ in one.norms] == [0, 1, 2]
    assert all(norm > 0 for _, norm in one.norms)
    assert torch.allclose(one.helpful.over_time[-1], one.helpful.values)
    (against,) = [pair for pair in comparisons(list(table.values()), None) if pair.measured and pair.title == "sgd_influence"]
    assert against.tau > 0.9 and against.slope == pytest.approx(1, abs=0.1)
