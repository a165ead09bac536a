"""Several models in one recording: each of its own weights and order, scores that are means over them, and what each says."""

import shutil

import pytest
import torch

import assay
from assay.core.errors import RunError, UsageError
from assay.experiments.plan import Plan
from assay.runs.run import Run
from cli.shell import here, sentence
from experiments import small

RECORD = {"checkpoints": "every"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three models of two epochs."""
    return small.recorded(tmp_path_factory.mktemp("models") / "run", models=3, record=RECORD, recipe={"epochs": 2})


def test_every_model_has_its_own_weights_and_order_and_the_same_examples(run):
    models = [run, *run.members]
    assert [one.folder.name for one in models[1:]] == ["001", "002"]
    for one in models[1:]:
        assert one.ids == run.ids and torch.equal(one.labels, run.labels) and one.epochs == 2
    starts = [one.model(-1) for one in models]
    ends = [one.model(1) for one in models]
    orders = [torch.cat(one.order(0)) for one in models]
    for a in range(3):
        for b in range(a):
            # The official code trains copies of one net on the same batches, so that all its models are one.
            assert all(not torch.equal(starts[a][name], starts[b][name]) for name in starts[a])
            assert all(not torch.equal(ends[a][name], ends[b][name]) for name in ends[a])
            assert not torch.equal(orders[a], orders[b])
    seeds = {one.header.seed for one in models}
    assert len(seeds) == 3 and run.header.seed == 0
    # The first is the run that one model would have been.
    assert all(
        torch.equal(value, starts[0][name]) for name, value in small.plan().build(small.plan().load(), 0).state_dict().items()
    )


@pytest.mark.parametrize("spec", ["el2n:at=1", "grand", "aum", "vog:by_class=False", "prediction_depth:k=10"])
def test_a_score_is_the_mean_over_models(run, spec):
    found = assay.score(run, spec)[spec]
    each = torch.stack([assay.score(one, spec)[spec].values for one in run.members])
    torch.testing.assert_close(found.repeats[1:], each)
    torch.testing.assert_close(found.values, found.repeats.mean(0))
    assert found.repeats.shape == (3, len(run.ids)) and found.diagnostics["models"] == 3
    low, high = found.interval()
    assert bool((low <= found.values).all() and (found.values <= high).all())


def test_consensus_is_what_most_models_predict(run):
    material = small.plan().load()
    rows = material.train.prepared(material.train.inputs)
    models = [run, *run.members]
    nets = [small.plan().build(material, 0) for _ in models]
    for net, one in zip(nets, models, strict=True):
        net.load_state_dict(one.model(1))
    with torch.no_grad():
        probs = torch.stack([net.eval()(rows).softmax(1) for net in nets])
    counts = torch.nn.functional.one_hot(probs.argmax(2), 10).sum(0)
    most = [
        max(range(10), key=lambda c, row=row, at=at: (int(row[c]), float(probs[:, at, c].sum()))) for at, row in enumerate(counts)
    ]
    found = assay.score(run, "prediction_depth:k=10,reference=consensus,layers=1")[
        "prediction_depth:k=10,reference=consensus,layers=1"
    ]
    given, last = material.train.labels, []
    from assay.methods.prediction_depth import depth, probe

    for net in nets:
        with torch.no_grad():
            softmax = net(rows).softmax(1)
            hidden = net[1](net[0](rows))
        probes = torch.stack([probe(part, given, 10, "nearest") for part in (rows.flatten(1), hidden.flatten(1), softmax)])
        last.append(depth(probes, torch.tensor(most)))
    torch.testing.assert_close(found.repeats, torch.stack(last).double())


def test_a_score_knows_its_models(run, tmp_path):
    own = small.copied(run, tmp_path / "own")
    saved = assay.score(own, "el2n:at=1", save=True)["el2n:at=1"]
    assert assay.score(own, "el2n:at=1", save=True)["el2n:at=1"].fingerprint == saved.fingerprint
    # A model in the place of another makes another score.
    shutil.rmtree(own.folder / "models" / "002")
    shutil.copytree(own.folder / "models" / "001", own.folder / "models" / "002")
    other = assay.score(Run(own.folder), "el2n:at=1", save=True)["el2n:at=1"]
    assert not torch.equal(other.values, saved.values)


def test_a_recording_that_was_cut_off_goes_on_to_the_same_bytes(run, tmp_path):
    own = small.copied(run, tmp_path / "own")
    shutil.rmtree(own.folder / "models" / "002")
    commits = own.folder / "models" / "001" / "commits.jsonl"
    commits.write_bytes(commits.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match=r"holds 2 of 3 models, of 2, 1 epochs; go on with --resume"):
        assay.score(Run(own.folder), "el2n:at=1")
    plan = small.plan(models=3, record=RECORD, recipe={"epochs": 2})
    again = assay.experiments.record.record(plan, own.folder, resume=True)
    assert [one.fingerprint for one in again.members] == [one.fingerprint for one in run.members]


def test_models_of_other_examples_are_refused(run, tmp_path):
    own = small.copied(run, tmp_path / "own")
    shutil.rmtree(own.folder / "models" / "002")
    small.recorded(own.folder / "models" / "002", plant={"rate": 0.2}, recipe={"epochs": 2})
    with pytest.raises(RunError, match="002 is of other examples"):
        assay.score(Run(own.folder), "aum")


def test_by_command(tmp_path, capsys):
    flags = ["--data", "digits:test=1400", "--net", "logistic", "--epochs", "2"]
    code, out, _ = here(capsys, "record", tmp_path / "run", *flags, "--models", "2")
    assert code == 0 and "by each of 2 models" in out
    code, out, _ = here(capsys, "score", tmp_path / "run", "el2n:at=1", "aum")
    assert code == 0 and "el2n:at=1: models: 2" in out and "±" in out
    code, _, err = here(capsys, "record", tmp_path / "other", *flags, "--models", "0")
    assert code == 2 and "models = 0" in sentence(err)


def test_counts_of_models_are_checked():
    with pytest.raises(UsageError, match="models = 0 must be at least 1"):
        Plan.make({"data": "digits", "models": 0})
    assert Plan.make({"data": "digits", "models": 3}).of_member(2).model_seed != 0
