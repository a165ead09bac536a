import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

import assay
from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids
from assay.core.scores import Direction, Scores
from assay.experiments.compare import combine, compare
from assay.experiments.detection import detect
from assay.experiments.score import score
from assay.methods.combine import combine as combined
from assay.runs.artefacts import load_truth
from experiments.test_verify import looped


def test_agreement_and_overlap_are_those_of_single_pairs(run):
    table = score(run, ["aum", "loss", "entropy"])
    made = compare(run, ["aum", "loss", "entropy"], budget=40)
    assert made.titles == ("aum", "loss", "entropy") and made.examples == 397 and made.chance == 40 / 397
    for one, other in itertools.combinations(made.titles, 2):
        a, b = table[one].hardness().numpy(), table[other].hardness().numpy()
        pair = made.of(other, one)
        assert pair.spearman == pytest.approx(spearmanr(a, b).statistic) and pair.kendall == pytest.approx(
            kendalltau(a, b).statistic
        )
        assert pair.low < pair.spearman < pair.high and pair.kendall_low < pair.kendall < pair.kendall_high
        first = [set(np.argsort(-values)[:40].tolist()) for values in (a, b)]
        assert pair.overlap == len(first[0] & first[1]) / 40
    with pytest.raises(UsageError, match="were not compared"):
        made.of("aum", "dual")


def test_detection_is_told_where_the_truth_is_known(run, tmp_path):
    made = compare(run, ["aum", "loss", "entropy"])
    assert (
        made.wrong == 40
        and abs(made.budget - 40) <= 8
        and [one.auc for one in made.detections] == sorted((one.auc for one in made.detections), reverse=True)
    )
    truth = load_truth(run.paths.truth)
    for one in made.detections:
        known = detect(score(run, one.title)[one.title], run, truth)
        assert one.auc == pytest.approx(known.auc) and one.precision == known.precision_at_planted
        assert one.average_precision == pytest.approx(known.average_precision)
        assert (
            one.missed == pytest.approx(40 * known.missed) == round(40 * (1 - one.precision))
            and one.claims_suspicion == known.claims_suspicion
        )
        assert one.low is None or one.low < one.auc < one.high
    unknown = compare(
        looped(tmp_path / "mine"), {name: one for name, one in score(looped(tmp_path / "other"), ["aum", "loss"]).items()}
    )
    assert unknown.wrong is None and unknown.detections == ()


def test_a_named_method_that_cannot_be_scored_is_told_of(run):
    with pytest.warns(UserWarning, match="cld is not compared: cld needs validation_losses"):
        assert compare(run, ["aum", "loss", "cld"]).titles == ("aum", "loss")
    with pytest.raises(
        UsageError, match=r"aum alone cannot be compared; name at least two methods\. cld was not scored: cld needs"
    ):
        compare(run, ["aum", "cld"])


def test_what_cannot_be_compared_is_refused(run):
    for given, words in (({"methods": "aum"}, "alone cannot"), ({"methods": ["aum", "loss"], "budget": 398}, "outside 1..397")):
        with pytest.raises(UsageError, match=words):
            compare(run, **given)


def scores(values, title, direction=Direction.HIGH_IS_SUSPECT, ids=None):
    values = torch.tensor(values, dtype=torch.float64)
    return Scores(Ids(range(len(values)) if ids is None else ids), values, title, {}, title, direction, "none")


def test_scores_of_any_origin_are_combined_by_their_ranks():
    one, other = scores([1.0, 5.0, 3.0], "one"), scores([7.0, 8.0, 9.0], "other", Direction.LOW_IS_SUSPECT, ids=[2, 0, 1])
    made = combine([one, other])
    assert torch.equal(made.values, combined(torch.tensor([[1.0, 5.0, 3.0], [-8.0, -9.0, -7.0]])))
    assert (
        made.direction is Direction.HIGH_IS_SUSPECT
        and made.title == "combination of one+other"
        and math.isclose(made.values.sum(), 0, abs_tol=1e-12)
    )
    with pytest.raises(UsageError, match="at least two"):
        combine([one])
    with pytest.raises(UsageError, match="difficulty"):
        combine([one, scores([1.0, 2.0, 3.0], "hard", Direction.HIGH_IS_HARD)])
    with pytest.raises(Mismatch, match="of other examples"):
        combine([one, scores([1.0, 2.0], "few")])


def test_a_combination_is_saved_chosen_by_and_counted(run, tmp_path):
    table = score(run, ["aum", "loss"])
    made = assay.combine(table)
    assay.save_scores(made, tmp_path / "both.parquet")
    again = assay.load_scores(tmp_path / "both.parquet")
    assert torch.equal(again.values, made.values) and again.title == made.title
    decision = assay.choose(made, "threshold", count="auto", run=run)
    assert abs(int((~decision.kept).sum()) - 40) <= 8
    counted = assay.count_wrong(made)
    assert counted.low <= 40 <= counted.high and counted.lineage.parents["run"] == run.fingerprint
