import dataclasses
import re

import numpy as np
import pytest
import torch

import assay
from assay.core.curve import NONE, RANDOM, WORST, Curve, Removal
from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids
from assay.core.lineage import Lineage
from assay.core.scores import CHANGE, Direction, Scores, ScoreTable
from assay.experiments.choose import choose
from assay.experiments.report_data import report_data
from assay.experiments.score import score
from assay.experiments.verify import verify
from assay.runs.artefacts import load_truth
from experiments import small
from experiments.test_verify import looped


@pytest.fixture(scope="module")
def table(run):
    return score(run, ["aum", "dual:window=2"])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3,000 rows, more than a page shows."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3010)
    np.savez(folder / "d.npz", inputs=rng.normal(size=(3010, 3)) + np.eye(3)[labels], labels=labels)
    spec = f"arrays:path={folder / 'd.npz'},test=0.00333"
    run = small.recorded(folder / "run", data=spec, recipe={"epochs": 2, "batch": 1000})
    assert len(run.ids) == 3000
    return run


def test_everything_that_is_there_is_shown(run, table):
    made = report_data(run, table, examples=small.plan().load().train)
    assert made.examples == len(made.shown) == 397 and made.picked == ""
    assert made.title == "digits: run" and made.class_names == tuple("0123456789")
    assert made.shown.ids == run.ids and torch.equal(made.shown.given, run.labels)
    assert torch.equal(made.shown.true, load_truth(run.paths.truth)[1])
    assert torch.equal(made.shown.predicted, run.mean_probs().argmax(1))
    assert torch.equal(made.shown.pictures, small.plan().load().train.inputs)
    assert [one.title for one in made.scores] == ["aum", "dual:window=2"]
    facts = score(run, ["confidence", "variability", "correctness"])
    for name in facts:
        assert torch.equal(getattr(made.data_map, name), facts[name].values)
    assert made.trajectories.epochs == (0, 1, 2) and made.trajectories.target_probs.shape == (397, 3)
    assert torch.allclose(made.trajectories.target_probs.mean(1), made.data_map.confidence)
    assert [one.title for one in made.detections] == ["aum", "dual:window=2"] and made.cleaning is None
    assert made.agreement.correlations.shape == (2, 2)
    assert "40 of 397 given labels are wrong" in made.facts["known truth"]
    assert made.facts["examples"] == "397 for training, 1,400 for testing, 10 classes"


def test_histograms_count_every_example_once(run, table):
    made = report_data(run, table)
    for one in made.histograms:
        values = table[one.title].values
        assert int(one.counts.sum()) == 397 and int(one.wrong.sum()) == 40
        assert float(one.edges[0]) == float(values.min()) and float(one.edges[-1]) == float(values.max())
        assert np.array_equal(one.counts.numpy(), np.histogram(values.numpy(), one.edges.numpy())[0])


def test_a_score_that_is_the_same_for_all_has_a_histogram(run, table):
    flat = dataclasses.replace(table["aum"], values=torch.full((397,), 2.0, dtype=torch.float64))
    (one,) = report_data(run, {"aum": flat}).histograms
    assert int(one.counts.sum()) == 397 and float(one.edges[0]) < 2 < float(one.edges[-1])


def test_the_examples_of_a_large_set_are_picked_as_the_sentence_says(large):
    table = score(large, ["aum", "entropy"])
    made = report_data(large, table)
    assert made.examples == 3000 and len(made.shown) == 2000
    assert made.picked == (
        "the 1,000 that rank first when each method in turn names its most suspect or hardest, "
        "and 1,000 drawn at random from the rest."
    )
    orders = [large.ids.values[np.argsort(one.ranks().numpy())].tolist() for one in table.values()]
    named = dict.fromkeys(id_ for pair in zip(*orders, strict=True) for id_ in pair)
    assert list(made.shown.ids)[:1000] == list(named)[:1000]
    rest = list(made.shown.ids)[1000:]
    assert not set(rest) & set(list(named)[:1000]) and 0.3 < np.mean([id_ in large.ids.values[:1500] for id_ in rest]) < 0.7
    assert report_data(large, table).shown.ids == made.shown.ids
    assert int(made.histograms[0].counts.sum()) == 3000


def test_few_are_shown_where_few_are_asked(run, table):
    made = report_data(run, table, options=assay.ReportOptions(most=11))
    assert len(made.shown) == 11 and "the 5 that" in made.picked and "6 drawn" in made.picked
    assert made.trajectories.target_probs.shape == (11, 3) and len(made.data_map.confidence) == 11
    assert report_data(run, table, options=assay.ReportOptions(most=397)).picked == ""
    with pytest.raises(UsageError, match="most=0"):
        report_data(run, table, options=assay.ReportOptions(most=0))


def test_without_a_truth_nothing_is_said_of_it(own):
    own.paths.truth.unlink()
    made = report_data(own, score(own, "aum"), decision=choose(score(own, "aum")["aum"], "top_k", keep=0.9))
    assert made.shown.true is None and made.detections == () and made.cleaning is None and made.histograms[0].wrong is None
    assert "known truth" not in made.facts and made.agreement is None


def test_when_all_labels_are_right_nothing_is_detected(tmp_path):
    run = small.recorded(tmp_path / "run", plant={"rate": 0.0})
    made = report_data(run, score(run, "aum"))
    assert made.detections == () and "0 of 397" in made.facts["known truth"]


def test_a_decision_is_held_against_the_truth_by_the_verdict_or_here(run, table):
    decision = choose(table["aum"], "top_k", keep=0.9)
    made = report_data(run, table, decision=decision)
    verdict = verify(decision, run=run, scores=table, seeds=2)
    judged = report_data(run, table, decision=decision, verdict=verdict)
    assert made.cleaning == verdict.cleaning == judged.cleaned and made.found == judged.found
    recorded = judged.origins[1].lineage
    assert recorded is not None and recorded.seed == 0 and recorded.code == assay.__version__ and recorded.seconds > 0
    assert [origin.noun for origin in judged.origins] == [
        "dataset",
        "run",
        "scores aum",
        "scores dual:window=2",
        "decision top_k:keep=0.9 by aum",
        "verdict",
    ]


def test_a_loop_of_ones_own_is_shown_in_its_own_words(tmp_path):
    run = looped(tmp_path / "mine", net="my net", recipe={"lr": 0.1}, plan="as in the paper", notes="none")
    made = report_data(run, score(run, "aum"))
    assert made.facts["net"] == "my net" and made.facts["plan"] == "as in the paper" and made.shown.pictures is None
    assert made.title == "Training data: mine"
    plain = report_data(looped(tmp_path / "plain"), score(run, "aum"))
    assert plain.facts["data"] == "the loop's own dataset" and "seed 5" in plain.facts["recorded"]


def test_rows_of_a_table_are_shown_with_their_cells(tmp_path):
    lines = [f"{i % 7},{'red' if i % 3 else 'blue'},{i % 2}" for i in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["size,colour,y", *lines]) + "\n")
    (tmp_path / "test.csv").write_text("size,colour,y\n1,green,0\n2,red,1\n")
    plan = small.plan(data=f"table:path={tmp_path / 'train.csv'},test={tmp_path / 'test.csv'},label=y", plant=None)
    run = small.recorded(tmp_path / "run", data=plan.data, plant=None)
    made = report_data(run, score(run, "aum"), examples=plan.load().train, options=assay.ReportOptions(most=10))
    at = list(run.ids).index(next(iter(made.shown.ids)))
    assert made.shown.columns[:2] == ("size", "colour") and made.shown.rows[0][:2] == tuple(lines[at].split(",")[:2])
    assert any("colour" in note for note in made.notes)


def test_one_epoch_is_enough(tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"epochs": 1})
    made = report_data(run, score(run, "aum"))
    assert made.trajectories.epochs == (0,) and float(made.data_map.variability.max()) == 0


def test_long_trajectories_are_thinned_and_say_so(tmp_path):
    run = small.recorded(tmp_path / "run", data="digits:test=1750", recipe={"epochs": 50})
    made = report_data(run, score(run, "aum"))
    assert len(made.trajectories.epochs) == 40 and made.trajectories.epochs[0] == 0 and made.trajectories.epochs[-1] == 49
    assert any("40 of 50 epochs" in note for note in made.notes)


def test_parts_of_other_datasets_are_refused(run, table, tmp_path):
    other = small.recorded(tmp_path / "other", plant={"seed": 9})
    theirs = score(other, "aum")
    with pytest.raises(Mismatch, match="scores aum are of dataset"):
        report_data(run, theirs)
    with pytest.raises(Mismatch, match=r"decision .* is on dataset"):
        report_data(run, table, decision=choose(theirs["aum"], "top_k", keep=0.9))
    with pytest.raises(Mismatch, match=r"the data.* Give the examples the ids of the run, as in assay\.examples_from_dataset\("):
        report_data(run, table, examples=small.plan(data="digits:test=1500").load().train)


def test_a_verdict_on_another_decision_is_refused(run, table):
    verdict = verify(choose(table["aum"], "top_k", keep=0.9), run=run, seeds=2)
    with pytest.raises(Mismatch, match="verdict is on another decision"):
        report_data(run, table, decision=choose(table["aum"], "top_k", keep=0.8), verdict=verdict)


def test_scores_made_by_hand_may_be_shown(run, table):
    mine = dataclasses.replace(table["aum"], title="mine", lineage=None)
    unknown = dataclasses.replace(table["aum"], title="unknown", lineage=Lineage(dataset=""))
    assert [one.title for one in report_data(run, ScoreTable([mine, unknown])).scores] == ["mine", "unknown"]


def signed(ids, title, *, of=None, method="oti", unit="rank only", **options):
    """Scores by hand that tell harm from help, of some or all examples: the smallest id harms most."""
    values = (ids.ranks.double() - len(ids) / 2) / len(ids)
    unscored = Ids([id_ for id_ in of or () if id_ not in set(ids)])
    return Scores(ids, values, method, options, title, Direction.LOW_IS_SUSPECT, unit, unscored=unscored)


def test_the_most_harmful_and_helpful_are_among_the_shown(large):
    mine = signed(large.ids, "mine")
    made = report_data(
        large, {"entropy": score(large, "entropy")["entropy"], "mine": mine}, options=assay.ReportOptions(most=100)
    )
    (one,) = made.influences
    by_id = sorted(large.ids)
    assert list(one.harmful.ids) == by_id[:10] and list(one.helpful.ids) == by_id[-1:-11:-1]
    assert set(one.harmful.ids) | set(one.helpful.ids) == set(list(made.shown.ids)[:20])
    assert made.picked == (
        "the 20 that harm or help most by a score whose sign separates harm from help, the 30 that rank first "
        "when each method in turn names its most suspect or hardest, and 50 drawn at random from the rest."
    )
    few = report_data(large, {"mine": mine}, options=assay.ReportOptions(most=7))
    assert len(few.shown) == 7 and [len(few.influences[0].harmful.ids), len(few.influences[0].helpful.ids)] == [3, 3]


def test_scores_that_tell_no_harm_have_no_influence(run, table):
    made = report_data(run, table)
    assert made.influences == () and made.comparisons == () and made.curves == ()


def test_scores_of_some_examples_only_stand_beside_scores_of_all(run, table):
    """A window may not hold every example: what is compared is then over those that both scored."""
    some = run.ids.take(range(0, 397, 3))
    linear = signed(some, "linear", of=run.ids, method="sgd_influence", unit=CHANGE, target="validation", form="exact")
    measured = signed(run.ids, "loo", method="loo", unit=CHANGE, target="validation")
    made = report_data(run, {"aum": table["aum"], "linear": linear, "loo": measured})
    (pair,) = made.comparisons
    assert pair.examples == len(some) == 133 and pair.tau == 1 and bool(pair.wrong.any())
    assert made.agreement.measure.endswith("over the 133 examples that all methods scored")
    assert float(made.agreement.correlations[1, 2]) == 1
    assert [one.title for one in made.detections] == ["aum", "linear", "loo"]
    right = run.ids.take(made.shown.given == made.shown.true)
    alone = report_data(run, {"aum": table["aum"], "right": signed(right, "right", of=run.ids)})
    assert [one.title for one in alone.detections] == ["aum"], "nothing can be told apart among right labels alone"
    halves = [run.ids.take(range(start, 397, 2)) for start in (0, 1)]
    apart = report_data(run, {title: signed(half, title, of=run.ids) for title, half in zip("ab", halves, strict=True)})
    assert apart.agreement is None


def removed(run):
    return Curve(
        "mine",
        "last",
        tuple(Removal(arm, count, 0, 0.9, 0.3, 0.8, 0.4, 1.0) for arm, count in ((NONE, 0), (WORST, 5), (RANDOM, 5))),
        5,
        "loss",
        Lineage(run.dataset, {"run": run.fingerprint}),
    )


def test_curves_are_shown_with_their_origin(run, table):
    curve = removed(run)
    made = report_data(run, table, curves=[curve])
    assert made.curves == (curve,)
    assert [one.noun for one in made.origins if one.fingerprint == curve.fingerprint] == ["curve of mine"]


def test_a_curve_of_another_dataset_is_refused(run, table):
    other = dataclasses.replace(removed(run), lineage=Lineage("another"))
    with pytest.raises(Mismatch, match="curve of mine is of dataset another"):
        report_data(run, table, curves=[other])


def test_what_the_decision_touches_stands_first_on_the_page(large):
    table = score(large, ["entropy", "aum"])
    decision = choose(table["aum"], "top_k", keep=0.98)
    made = report_data(large, table, decision=decision, options=assay.ReportOptions(most=200))
    dropped, ranks = decision.dropped_ids, table["aum"].ranks()
    assert len(dropped) == 60 and list(made.shown.ids)[:60] == sorted(
        dropped, key=lambda id_: int(ranks[large.ids.positions(Ids([id_]))])
    )
    assert made.picked == (
        "the 60 that the decision touches, the 70 more that rank first when each method in turn names its "
        "most suspect or hardest, and 70 drawn at random from the rest."
    )
    made = report_data(
        large,
        {**table, "mine": signed(large.ids, "mine")},
        decision=choose(table["aum"], "top_k", keep=0.5),
        options=assay.ReportOptions(most=100),
    )
    assert len(made.shown) == 100 and re.match(
        r"\d+ of the 1,500 that the decision touches, and the \d+ more that harm", made.picked
    )
    assert set(made.influences[0].harmful.ids) | set(made.influences[0].helpful.ids) <= set(made.shown.ids)


def test_all_that_the_decision_touches_is_on_the_page_and_opens_it(large, monkeypatch):
    table = score(large, ["entropy", "aum"])
    decision = choose(table["aum"], "top_k", keep=0.3)
    made = report_data(large, table, decision=decision)
    dropped, ranks = set(decision.dropped_ids), dict(zip(large.ids, table["aum"].ranks().tolist(), strict=True))
    assert len(dropped) == 2100 == len(made.shown) and set(made.shown.ids) == dropped
    assert [made.shown.ids.values[at] for at in made.opening] == sorted(dropped, key=ranks.get)
    monkeypatch.setattr("assay.experiments.report_data.MOST_DECIDED", 2099)
    few = report_data(large, table, decision=decision)
    assert len(few.shown) == 2000 and few.picked.startswith(
        "2,000 of the 2,100 that the decision touches. A page of all 2,100 would be large"
    )
    assert "--most 2100" in few.picked
    whole = report_data(large, table, decision=decision, options=assay.ReportOptions(most=3000))
    opening = [whole.shown.ids.values[at] for at in whole.opening]
    assert set(opening[:2100]) == dropped and opening == sorted(dropped, key=ranks.get) + sorted(
        set(large.ids) - dropped, key=ranks.get
    )


def test_a_decision_without_a_score_shows_first_what_it_took_first(run, large):
    decision = choose(run, "k_center:keep=40")
    made = report_data(run, {}, decision=decision)
    assert list(made.shown.ids)[:40] == list(decision.order) and set(made.shown.ids) == set(run.ids)
    decision = choose(large, "random:keep=0.5,seed=0")
    assert len(decision.order) == 1500
    made = report_data(large, {}, decision=decision, options=assay.ReportOptions(most=100))
    assert list(made.shown.ids)[:50] == list(decision.order)[:50]
    assert made.picked.startswith(
        "50 of the 1,500 that the decision keeps, in its order, and 50 drawn at random from the rest. A page of all"
    )
    assert f"`assay report {large.folder} --most 3000`" in made.picked
    unasked = report_data(large, {}, decision=decision)
    assert len(unasked.shown) == 3000 and unasked.picked == ""
    made = report_data(large, {}, decision=choose(large, "random:keep=0.98,seed=0"), options=assay.ReportOptions(most=100))
    assert made.picked.startswith("the 60 that the decision touches")
    # A score that is shown ranks what it decided.
    table = score(large, "aum")
    made = report_data(large, table, decision=choose(table["aum"], "top_k", keep=0.98), options=assay.ReportOptions(most=100))
    assert made.picked.startswith("the 60 that the decision touches")


def pictured(run, inputs):
    return assay.examples_from_arrays(inputs, run.labels, run.ids, class_names=run.class_names)


def test_pictures_are_shown_or_the_page_says_why_not(run, table):
    whole = small.plan().load().train.inputs
    whole = whole if whole.dtype == torch.uint8 else (whole * 255).round().to(torch.uint8)
    made = report_data(run, table, examples=pictured(run, whole.float() / 255))
    assert torch.equal(made.shown.pictures, whole) and not [note for note in made.notes if "icture" in note or "shown" in note]
    stretched = report_data(run, table, examples=pictured(run, whole.float() / 255 * 4 - 2))
    assert stretched.shown.pictures.dtype == torch.uint8 and any("stretched one by one" in note for note in stretched.notes)
    for inputs, words in (
        (whole.flatten(1).float(), "an input is 64 numbers, neither a picture nor a row of cells"),
        (whole.repeat(1, 2, 1, 1), "No pictures are shown: an input has shape 2x8x8"),
    ):
        made = report_data(run, table, examples=pictured(run, inputs))
        assert made.shown.pictures is None and any(words in note for note in made.notes)
    assert any("give report(..., examples=" in note for note in report_data(run, table).notes)
