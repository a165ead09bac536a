import dataclasses

import numpy as np
import pytest
import torch

from assay.core.decision import Action, Decision
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.core.report_data import Confusion
from assay.core.trial import ALL, KEPT, RANDOM, Comparison, Verdict
from assay.experiments.choose import choose
from assay.experiments.plan import load_data, plan_of
from assay.experiments.quality import class_counts, learning_curves
from assay.experiments.report_data import ReportOptions, report_data
from assay.experiments.score import score
from assay.experiments.summary import Known, summary_of
from assay.training.loop import evaluate
from experiments import small
from experiments.test_verify import looped


def test_the_curves_are_those_of_the_training(run):
    training, test = report_data(run, score(run, "aum")).learning
    assert (training.part, training.examples, training.epochs) == ("training", 397, (0, 1, 2))
    for epoch in range(3):
        assert float(training.accuracy[epoch]) == pytest.approx(float(run.shard(epoch).read("correct").float().mean()))
        assert float(training.loss[epoch]) == pytest.approx(float(run.shard(epoch).read("losses").double().mean()))
    plan, loaded = plan_of(run), small.plan().load()
    model = plan.build(loaded, 7)
    model.load_state_dict(run.model(2))
    accuracy, _ = evaluate(model, loaded.test.inputs, loaded.test.labels, prepare=loaded.test.prepared)
    assert (test.part, test.examples, test.epochs) == ("test", 1400, (1, 2)) and float(test.accuracy[-1]) == pytest.approx(
        accuracy
    )


def test_all_kept_models_are_measured_up_to_a_few(tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"epochs": 9}, record={"checkpoints": "every"}, validation=0.1)
    curves = {one.part: one for one in report_data(run, score(run, "aum")).learning}
    assert curves["test"].epochs == curves["validation"].epochs == (0, 2, 4, 6, 8) and curves["validation"].examples == 40
    assert float(curves["test"].accuracy[-1]) > float(curves["test"].accuracy[0])


def test_a_damaged_checkpoint_is_told_and_refuses_no_page(own):
    path = own.folder / own.commits[-1].checkpoint.name
    path.write_bytes(path.read_bytes()[:-7])
    made = report_data(own, score(own, "aum"))
    assert [one.part for one in made.learning] == ["training"]
    assert any("held-out examples is not shown" in note for note in made.notes)


def test_data_that_are_gone_are_told_and_refuse_no_page(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, inputs=np.random.default_rng(0).normal(size=(40, 3)), labels=np.arange(40) % 2)
    run = small.recorded(tmp_path / "run", data=f"arrays:path={path},test=0.5", plant=None)
    table = score(run, "aum")
    assert [one.part for one in report_data(run, table).learning] == ["training", "test"]
    path.unlink()
    load_data(small.plan())  # which is kept in the place of those
    made = report_data(run, table)
    assert [one.part for one in made.learning] == ["training"] and any("d.npz" in note for note in made.notes)


def test_a_loop_says_itself_how_good_its_model_was(tmp_path):
    run = looped(tmp_path / "mine")
    table = score(run, "aum")
    assert [one.part for one in report_data(run, table).learning] == ["training"]
    test = report_data(run, table, options=ReportOptions(held_out={1: 0.75, 0: 0.5})).learning[-1]
    assert test.part == "test" and test.epochs == (0, 1) and test.accuracy.tolist() == [0.5, 0.75]
    for wrong in ({-1: 0.5}, {0: 50.0}, {0.5: 0.5}, {0: "high"}):
        with pytest.raises(UsageError, match="give fractions of 0 to 1 by epochs"):
            ReportOptions(held_out=wrong)


def decided(actions, labels):
    weights = torch.tensor([0.0 if one is Action.DROP else 1.0 for one in actions], dtype=torch.float64)
    n = len(actions)
    return Decision(
        Ids(range(n)), torch.tensor([int(one) for one in actions]), torch.tensor(labels), weights, ("",) * n, "p", {}, "p"
    )


def test_counts_by_class_are_those_of_a_loop_over_the_examples():
    g = torch.Generator().manual_seed(0)
    n, classes = 300, 4
    given, predicted, true = (torch.randint(classes, (n,), generator=g) for _ in range(3))
    actions = [(Action.KEEP, Action.DROP, Action.RELABEL)[int(k)] for k in torch.randint(3, (n,), generator=g)]
    labels = [int(true[i]) if one is Action.RELABEL else -1 for i, one in enumerate(actions)]
    decision = decided(actions, labels)
    made = class_counts(given, classes, predicted=predicted, true=true, decision=decision)
    pairs = {}
    for c in range(classes):
        mine = [i for i in range(n) if int(given[i]) == c]
        assert int(made.examples[c]) == len(mine)
        assert int(made.dropped[c]) == sum(actions[i] is Action.DROP for i in mine)
        assert int(made.relabelled[c]) == sum(actions[i] is Action.RELABEL for i in mine)
        assert int(made.wrong[c]) == sum(int(true[i]) != c for i in mine)
        assert int(made.against[c]) == sum(int(predicted[i]) != c for i in mine)
        # A relabelling to the class that is given loses nothing.
        assert int(made.lost[c]) == sum(
            int(true[i]) == c and (actions[i] is Action.DROP or labels[i] not in (-1, c)) for i in mine
        )
        for i in mine:
            if int(predicted[i]) != c:
                count, touched = pairs.get((c, int(predicted[i])), (0, 0))
                pairs[c, int(predicted[i])] = count + 1, touched + (actions[i] is not Action.KEEP)
    assert set(made.confusions) == {Confusion(*pair, *counts) for pair, counts in pairs.items()} and made.pairs == 12
    assert [one.examples for one in made.confusions] == sorted((one.examples for one in made.confusions), reverse=True)


def test_without_truth_prediction_or_decision_little_is_said():
    made = class_counts(torch.tensor([0, 0, 2]), 3)
    assert made.examples.tolist() == [2, 0, 1] and made.confusions == ()
    assert made.against is made.dropped is made.wrong is made.lost is None


def test_the_summary_says_what_to_do_for_whom_and_how_sure(own):
    table = score(own, ["aum", "entropy"])
    open_ = dict(report_data(own, table).summary)
    assert list(open_) == ["What to do next", "What it touches", "How sure this is"]
    assert (
        open_["What to do next"].startswith("Nothing is decided yet. Look at the first examples")
        and "assay review" in open_["What to do next"]
    )
    hard = dict(report_data(own, {"entropy": table["entropy"]}).summary)
    assert "hard is not wrong" in hard["What to do next"]
    decision = choose(table["aum"], "top_k", keep=0.9)
    made = report_data(own, table, decision=decision)
    said = dict(made.summary)
    assert f"leave out {len(decision.dropped_ids)} of 397 training examples" in said["What to do next"]
    assert (
        "assay verify" in said["What to do next"]
        and "of the given labels of the training examples and" in said["How sure this is"]
    )
    assert f"{made.cleaning.hit} labels are known to be wrong" in said["How sure this is"]
    assert all(one["How sure this is"].endswith(made.counted.sentence) for one in (open_, hard, said))
    own.paths.truth.unlink()
    blind = dict(report_data(own, table, decision=decision).summary)
    assert "Nobody has checked yet" in blind["How sure this is"] and "right label" not in blind["What it touches"]
    # 40 are changed, of which no 50 can be marked.
    assert "Marking all of them tells the share." in blind["How sure this is"]
    more = dict(report_data(own, table, decision=choose(table["aum"], "top_k", keep=0.8)).summary)
    assert "Marking 50 of them in random order tells the share, with an interval." in more["How sure this is"]
    none = dict(report_data(own, table, decision=choose(table["aum"], "top_k", keep=397)).summary)
    assert "Nothing is changed, so there is nothing to check." in none["How sure this is"]


def test_the_summary_of_a_smaller_training_set_speaks_of_no_wrong_labels(own):
    table = score(own, ["aum", "entropy"])
    for decision, kept in (
        (choose(own, "k_center", keep=0.9), 357),
        (choose(table["aum"], "top_k", by="suspicion", keep=0.9), 357),
        (choose(table["entropy"], "top_k", keep=0.9), 357),
        (choose(table["aum"], "top_k", keep=0.25), 99),
    ):
        next_, whom, sure = (words for _, words in report_data(own, table, decision=decision).summary)
        assert next_.startswith(
            f"The proposal is to train on {kept} of 397 training examples. How good a model trained on these is"
        )
        assert "review" not in next_ and "right label" not in whom and "known to be wrong" not in sure
        assert "Nothing was trained again yet" in sure
    part = table["aum"].ids.positions(table["aum"].ids, "themselves") < 380
    some = dataclasses.replace(
        table["aum"], ids=own.ids.take(part), values=table["aum"].values[part], unscored=own.ids.take(~part)
    )
    for options, words in (({}, "leave out 38"), ({"by": "suspicion"}, "train on 359")):
        with pytest.warns(UserWarning, match="17 of 397 examples have no value of aum"):
            decision = choose(some, "top_k", keep=0.9, unscored="keep", **options)
        said = dict(report_data(own, {"aum": some}, decision=decision).summary)
        assert said["What to do next"].startswith(f"The proposal is to {words} of 397")
    weighted = choose(own, "craig", keep=0.5)
    assert "of them with another weight." in dict(report_data(own, table, decision=weighted).summary)["What to do next"]


@pytest.mark.parametrize(
    ("effects", "words"),
    [
        ((-0.02, 0.03), "was worse than one on everything, and better than one on as many random ones."),
        ((0.02, 0.03), "was better than one on everything and on as many random ones."),
    ],
)
def test_what_training_again_on_fewer_examples_came_to(own, effects, words):
    decision = choose(own, "k_center", keep=0.5)
    comparisons = tuple(
        Comparison(KEPT, baseline, effect, effect - 0.01, effect + 0.01, 0.001, "paired t", 5)
        for baseline, effect in zip((ALL, RANDOM), effects, strict=True)
    )
    verdict = Verdict(decision.title, (), comparisons)
    known = Known(own, (), decision, verdict, None, (), None)
    assert dict(summary_of(known))["What to do next"].endswith(f"Trained again that way the model {words}")


def test_of_several_models_the_means(tmp_path):
    run = small.recorded(tmp_path / "run", models=2)
    curves, notes = learning_curves([run, *run.members], {})
    alone = [learning_curves([one], {})[0] for one in (run, *run.members)]
    assert notes == () and torch.allclose(curves[0].accuracy, (alone[0][0].accuracy + alone[1][0].accuracy) / 2)
    assert torch.allclose(curves[1].accuracy, (alone[0][1].accuracy + alone[1][1].accuracy) / 2)
