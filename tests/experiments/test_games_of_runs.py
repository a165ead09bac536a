"""Games over the examples of recorded runs: whose held-out examples, what is kept on disk, and what is refused."""

import pytest
import torch
from torch.utils.data import TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, UsageError
from assay.experiments.evidence import data_of, gather_inputs
from assay.experiments.plan import load_data, plan_of
from assay.learners.ridge import Ridge
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


def test_a_killed_game_goes_on(run, tmp_path, monkeypatch):
    """What was trained before is not trained again, and the values are those of a game that was never interrupted."""
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
        assay.score(mine, title, save=True)
    last = 1000
    found = assay.score(mine, title, save=True)[title]
    assert torch.equal(found.values, expected.values)
    # A block of 32 was whole; what was begun beside it is trained again.
    assert len(trained) == 50 + 96 - 32
    trained.clear()
    assert torch.equal(assay.score(mine, title, save="recompute")[title].values, expected.values) and not trained
    # Orders along growing sets go on by blocks.
    path = "shapley:learner=ridge,permutations=40,truncate=0.3"
    one, other = assay.score(mine, path, save=True)[path], assay.score(run, path)[path]
    assert torch.equal(one.values, other.values)
    monkeypatch.setattr(Ridge, "grow", lambda *given: Refusing(*given))
    assert torch.equal(assay.score(mine, path, save="recompute")[path].values, other.values)


class Refusing:
    """Growing coalitions of which nothing may be asked."""

    remarks = {}

    def __init__(self, *_):
        pass

    def keep(self, kept):
        pass


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
