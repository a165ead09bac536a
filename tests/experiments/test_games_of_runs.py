"""Games over the examples of recorded runs: whose held-out examples, what is kept on disk, and what is refused."""

import shutil
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import TensorDataset

import assay
from assay.cluster import InlineExecutor
from assay.core.errors import Mismatch, MissingEvidence, UsageError
from assay.experiments.evidence import data_of, gather_inputs
from assay.experiments.games import RetrainingGame
from assay.experiments.plan import Plan, load_data, plan_of
from assay.experiments.record import untrained
from assay.learners.ridge import Ridge
from assay.runs.coalitions import record_size
from assay.runs.run import Run
from experiments.small import copied, recorded
from replay.test_agreement import data, held_out, looped
from replay.test_agreement import recorded as recorded_loop

KNN = "shapley:learner=knn,permutations=4"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("games") / "run", validation=0.2, record={"checkpoints": "last"})


def in_memory(run, **more):
    rows, _ = data_of(run)
    held = load_data(plan_of(run)).validation
    return gather_inputs(run.ids, rows, run.labels, {"validation": (held.plain(), held.labels), **more})


def test_a_run_is_valued_by_what_its_plan_held_out(run, tmp_path):
    mine = copied(run, tmp_path / "mine")
    found = assay.score(mine, [KNN, "banzhaf:learner=knn,subsets=64"], save=True)
    expected = assay.score(in_memory(run), [KNN, "banzhaf:learner=knn,subsets=64"])
    for title in expected:
        assert torch.equal(found[title].values, expected[title].values)
    again = assay.score(mine, KNN, save=True)[KNN]
    assert again.lineage.seconds == found[KNN].lineage.seconds and "target validation" in again.lineage.parents
    # Of one class, of the test images, and by features of the kept model.
    loaded = load_data(plan_of(run))
    three = loaded.validation.labels == 3
    of_class = in_memory(run, three=(loaded.validation.plain()[three], loaded.validation.labels[three]))
    (one,), (other,) = (
        assay.score(*given).values() for given in ((mine, f"{KNN},target=class=3"), (of_class, f"{KNN},target=three"))
    )
    torch.testing.assert_close(one.values, other.values, rtol=1e-9, atol=1e-12)
    (own,) = assay.score(mine, "shapley:learner=knn,permutations=4,features=penultimate").values()
    # A linear net's penultimate rows are its inputs, scaled.
    assert float(torch.corrcoef(torch.stack([own.values, found[KNN].values]))[0, 1]) > 0.5
    (test,) = assay.score(mine, "shapley:learner=knn,permutations=4,target=test").values()
    assert not torch.equal(test.values, found[KNN].values)


@pytest.mark.parametrize("pool", [None, InlineExecutor()], ids=["here", "sent"])
def test_a_killed_game_goes_on(run, tmp_path, monkeypatch, pool):
    """What was trained before is not trained again, and the values are those of a game that was never interrupted."""
    execution = assay.Execution(pool)
    mine, title, plain = copied(run, tmp_path / "mine"), "banzhaf:learner=ridge,subsets=96", Ridge.fit
    expected = assay.score(mine, title)[title]
    assert not (mine.folder / "games").exists()
    trained, last = [], 50

    def counting(*args, **given):
        if len(trained) == last:
            raise KeyboardInterrupt
        trained.append(1)
        return plain(*args, **given)

    monkeypatch.setattr(Ridge, "fit", counting)
    with pytest.raises(KeyboardInterrupt):
        assay.score(mine, title, save=True, execution=execution)
    last = 1000
    found = assay.score(mine, title, save=True, execution=execution)[title]
    assert torch.equal(found.values, expected.values)
    assert len(trained) == 96
    trained.clear()
    shutil.rmtree(mine.folder / "scores")
    assert torch.equal(assay.score(mine, title, save=True)[title].values, expected.values) and not trained
    assert torch.equal(assay.score(mine, title, save="recompute")[title].values, expected.values) and len(trained) == 96
    # Orders along growing sets go on by blocks.
    path = "shapley:learner=ridge,permutations=40,truncate=0.3"
    one, other = assay.score(mine, path, save=True)[path], assay.score(run, path)[path]
    assert torch.equal(one.values, other.values)
    monkeypatch.setattr(Ridge, "grow", lambda *given: Refusing(*given))
    shutil.rmtree(mine.folder / "scores")
    assert torch.equal(assay.score(mine, path, save=True)[path].values, other.values)


@pytest.mark.parametrize("learner", ["tree", "net:steps=5"])
def test_more_bags_go_on_from_those_that_are_there(run, tmp_path, monkeypatch, learner):
    """What was trained before is not trained again, and the values are those of one call from nothing."""
    mine, title = copied(run, tmp_path / "mine"), f"data_oob:learner={learner},score=prob,bags="
    (expected,) = assay.score(mine, f"{title}41").values()
    assert not (mine.folder / "games").exists()
    trained, plain = [], RetrainingGame._probs

    def counting(self, coalitions, *given):
        trained.append(len(coalitions))
        return plain(self, coalitions, *given)

    monkeypatch.setattr(RetrainingGame, "_probs", counting)
    assay.score(mine, f"{title}38", save=True)
    (kept,) = (mine.folder / "games").iterdir()
    # Of each bag its name, a number for each example, and a checksum.
    assert kept.stat().st_size == 38 * (16 + 8 * len(run.ids) + 4)
    for bags in (39, 41):
        (found,) = assay.score(mine, f"{title}{bags}", save=True).values()
    assert trained == [32, 6, 1, 2]
    assert torch.equal(found.values, expected.values) and torch.equal(found.repeats, expected.repeats)
    # A rule that stops reads the same bags; the other score is another number of each.
    trained.clear()
    assay.score(mine, f"{title}41,error=0.001", save=True)
    assert not trained
    assay.score(mine, f"data_oob:learner={learner},bags=3", save=True)
    assert trained == [3] and len(list((mine.folder / "games").iterdir())) == 2


def test_a_killed_score_by_bags_goes_on(run, tmp_path, monkeypatch):
    mine, title, plain, trained = copied(run, tmp_path / "mine"), "data_oob:bags=70,learner=ridge", Ridge.train, []
    expected = assay.score(mine, title)[title]

    def counting(*given):
        if len(trained) == 50:
            raise KeyboardInterrupt
        trained.append(1)
        return plain(*given)

    monkeypatch.setattr(Ridge, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        assay.score(mine, title, save=True)
    monkeypatch.setattr(Ridge, "train", lambda *given: (trained.append(1), plain(*given))[1])
    assert torch.equal(assay.score(mine, title, save=True)[title].values, expected.values)
    assert len(trained) == 70


def test_bags_are_trained_where_it_is_said_to_the_same_bytes(run, tmp_path):
    mine, title = copied(run, tmp_path / "mine"), "data_oob:bags=34"
    inline = assay.score(mine, title)[title]
    pool = Counting()
    found = assay.score(mine, title, execution=assay.Execution(pool))[title]
    assert torch.equal(found.values, inline.values) and torch.equal(found.repeats, inline.repeats) and pool.calls == 34


class Counting(InlineExecutor):
    """Counts what it is given."""

    calls = 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


class Refusing:
    """Growing coalitions of which nothing may be asked."""

    remarks = {}

    def __init__(self, *_):
        pass

    def keep(self, kept):
        pass


def test_rows_of_held_out_examples_are_one_for_each(run):
    rows = {"e": torch.rand(len(run.ids), 3)}
    for wrong in (torch.rand(80, 3), torch.full((80, 3), torch.nan)):
        with pytest.raises(
            UsageError, match="80 rows 'e@validation' do not fit the 79 held-out examples 'validation'; give a row for each"
        ):
            assay.score(run, KNN + ",features=rows:e", inputs={**rows, "e@validation": wrong})


def test_remarks_on_trainings_are_said_again_by_a_score_from_kept_values(run, tmp_path):
    mine, title = copied(run, tmp_path / "mine"), "banzhaf:learner=sklearn.linear_model.Perceptron:max_iter=2,subsets=4"
    before = assay.score(mine, title, save=True)[title].warnings
    assert any("4 trainings: Maximum number of iteration reached" in one for one in before)
    shutil.rmtree(mine.folder / "scores")
    assert assay.score(mine, title, save=True)[title].warnings == before


SCORING = """
import sys
import assay

assay.score(sys.argv[1], sys.argv[2], save=True)
"""


@pytest.mark.slow
def test_a_game_that_is_killed_by_force_goes_on(run, tmp_path, monkeypatch):
    title, record = "banzhaf:learner=ridge,subsets=640", record_size(1)
    mine = copied(run, tmp_path / "mine")
    expected, trained, plain = assay.score(run, title)[title], [], Ridge.train
    kills = 0

    def kept():
        return sum(path.stat().st_size for path in mine.folder.glob("games/*")) // record

    for _ in range(3):
        before = kept()
        child = subprocess.Popen([sys.executable, "-c", SCORING, str(mine.folder), title])
        while child.poll() is None and kept() < before + 20:
            time.sleep(0.001)
        kills += child.poll() is None
        child.kill()
        child.wait()
    assert kills == 3 and not list(mine.folder.glob("scores/*"))
    monkeypatch.setattr(Ridge, "train", lambda *given: (trained.append(1), plain(*given))[1])
    left = 640 - kept()
    found = assay.score(mine, title, save=True)[title]
    assert torch.equal(found.values, expected.values) and torch.equal(found.repeats, expected.repeats)
    assert len(trained) == left <= 580


def test_a_data_set_without_training_plays_no_game_that_nobody_named(tmp_path):
    plan = Plan.make({"data": "digits:test=1400", "validation": 0.5})
    found = assay.score(untrained(plan, tmp_path / "run"), "all")
    assert "cg_score" in found and "data_oob" in found and not {"shapley", "banzhaf", "least_core"} & {*found}
    assert found.refused["shapley"] == "trains a learner thousands of times; name it to have it."
    assert KNN in assay.score(tmp_path / "run", KNN)


def test_a_loop_is_valued_by_its_targets(tmp_path):
    inputs, labels = data()
    loop = looped(*recorded_loop(tmp_path / "loop", TensorDataset(inputs, labels)))
    title = "shapley:learner=ridge,permutations=4"
    found = assay.score(tmp_path / "loop", title, loop=loop, targets=held_out())[title]
    expected = assay.score(gather_inputs(Run(tmp_path / "loop").ids, inputs, labels, held_out()), title)[title]
    assert torch.equal(found.values, expected.values)
    with pytest.raises(UsageError, match=r"There are no held-out examples 'validation': give them as targets=\{'validation'"):
        assay.score(tmp_path / "loop", title, loop=loop)
    with pytest.raises(UsageError, match="is a function of the model, by which no other learner can be valued"):
        assay.score(tmp_path / "loop", title, loop=loop, targets={"validation": lambda model: model(inputs).sum()})
    with pytest.raises(Mismatch, match="are trained on; what is trained on cannot say what helps"):
        assay.score(tmp_path / "loop", title, loop=loop, targets={"validation": (inputs[:4], labels[:4])})
    mixed = {
        "validation": (torch.cat([held_out()["validation"][0], inputs[:1]]), torch.cat([held_out()["validation"][1], labels[:1]]))
    }
    for one in (title, "knn_shapley:features=inputs"):
        (told,) = assay.score(tmp_path / "loop", one, loop=loop, targets=mixed).values()
        assert told.warnings and "1 of the" in told.warnings[-1] and "also inputs of training examples" in told.warnings[-1]
    rows = {"e": inputs * 2, "e@validation": held_out()["validation"][0] * 2}
    named = "shapley:learner=ridge,permutations=4,features=rows:e"
    (again,) = assay.score(tmp_path / "loop", named, targets=held_out(), inputs=rows).values()
    torch.testing.assert_close(again.values, expected.values, rtol=1e-6, atol=1e-9)
    with pytest.raises(UsageError, match="reads rows named 'e@validation', which are neither given nor scored yet"):
        assay.score(tmp_path / "loop", named, targets=held_out(), inputs={"e": inputs})


def test_a_plan_that_held_nothing_out_is_told_how_to(tmp_path):
    run = recorded(tmp_path / "run")
    with pytest.raises(UsageError, match=r"record with `validation = 0\.1` \(`--validation 0\.1`\)"):
        assay.score(run, KNN)
    with pytest.warns(UserWarning, match="shapley was not scored"):
        assert list(assay.score(run, ["aum", "shapley"]).refused) == ["shapley"]
    held = load_data(plan_of(run)).test
    with pytest.raises(UsageError, match="is given as tensors, in the form that the net takes"):
        assay.score(run, KNN, targets={"validation": (held.plain(), held.labels)})
    assert len(assay.score(run, KNN, targets={"validation": held})[KNN]) == 397
    with pytest.raises((MissingEvidence, UsageError), match="are made by a model"):
        assay.score(
            gather_inputs(run.ids, data_of(run)[0], run.labels, {"validation": (held.plain(), held.labels)}),
            KNN + ",features=penultimate",
        )
