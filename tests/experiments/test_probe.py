import dataclasses
import pickle
import shutil
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
import torch

import assay
from assay.core.errors import Mismatch, MissingEvidence, UsageError
from assay.data.corruption import flipped_labels
from assay.experiments.plan import plan_of
from assay.experiments.probe import Flips, confusions, probe
from assay.methods.loss import Loss
from assay.runs.artefacts import load_probe
from assay.runs.run import Run
from experiments import small
from experiments.test_verify import looped

FEW = Flips(rate=0.06)


class Unregistered(Loss):
    """A method that no catalogue has."""

    name = "unregistered"


@pytest.fixture(scope="module")
def probed(run, tmp_path_factory):
    """A run of its own that was probed."""
    own = small.copied(run, tmp_path_factory.mktemp("probe") / "run")
    return own, probe(own, flips=FEW)


def test_methods_that_find_the_flipped_labels_are_told(probed):
    _, found = probed
    assert {one.title for one in found.methods} >= {"aum", "loss", "confidence", "correctness"}
    assert found.examples == 397 and 15 <= found.flipped <= 34 and found.inspected >= found.flipped
    first = found.methods[0]
    assert first.adjusted is None and first.title == found.best and all(one.adjusted is not None for one in found.methods[1:])
    assert max(one.auc for one in found.methods) == first.auc > 0.85 and first.low < first.auc < first.high
    assert f"Of {found.flipped} labels flipped among 397" in found.sentence and (found.recall is None or 0 < found.recall <= 1)


def test_the_flipped_recording_is_of_the_same_training_under_other_labels(probed):
    run, found = probed
    again = Run(next(path for path in (run.folder / "probes").iterdir() if path.is_dir()))
    assert int((again.labels != run.labels).sum()) == found.flipped and again.ids == run.ids
    kept, made = plan_of(run).plain(), plan_of(again).plain()
    assert {name: value for name, value in made.items() if name != "probe"} == kept
    assert torch.equal(again.labels, flipped_labels(run.labels, 10, run.ids.keys, **{"rate": None, **made["probe"]}))


def test_the_flipped_recording_is_the_same_wherever_it_is_made(probed, tmp_path):
    run, found = probed
    own = small.copied(Run(run.folder), tmp_path / "run")
    shutil.rmtree(own.folder / "probes")
    # As any executor that is not of this process: what it is given must be sent.
    with ThreadPoolExecutor(1) as pool:
        made = probe(own, flips=FEW, execution=assay.Execution(Sending(pool)))
    assert made.methods == found.methods
    first, again = (Run(next(path for path in (one.folder / "probes").iterdir() if path.is_dir())) for one in (run, own))
    assert first.fingerprint == again.fingerprint


class Sending(Executor):
    """Gives calls to another executor as they arrive elsewhere."""

    def __init__(self, pool):
        self._pool = pool

    def submit(self, fn, /, *args, **kwargs):
        return self._pool.submit(*pickle.loads(pickle.dumps((fn, *args))), **kwargs)


def test_a_finished_probe_is_taken_from_the_folder_and_other_methods_cost_no_training(probed):
    run, found = probed
    again = probe(run, flips=FEW)
    assert again == dataclasses.replace(found, lineage=again.lineage) and again.fingerprint == found.fingerprint
    folder = next(path for path in (run.folder / "probes").iterdir() if path.is_dir())
    commits = (folder / "commits.jsonl").read_bytes()
    less = probe(run, ["loss"], flips=FEW)
    assert [one.title for one in less.methods] == ["loss"] and (folder / "commits.jsonl").read_bytes() == commits
    assert load_probe(run.paths.probe("confusion-0.06-0")).methods == less.methods
    assert less.methods[0].auc == next(one.auc for one in found.methods if one.title == "loss")
    own = probe(run, ["all", "loss", Unregistered()], flips=FEW)
    assert {one.title for one in own.methods} == {one.title for one in found.methods} | {"unregistered"}


def test_confusions_go_where_the_model_does():
    probs = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0]])
    made = confusions(probs, torch.tensor([0, 1, 1]), 0.1)
    assert made.sum(1).tolist() == pytest.approx([1, 1, 1]) and made.diag().tolist() == pytest.approx([0.9] * 3)
    assert made[0].tolist() == pytest.approx([0.9, 0.1, 0]) and made[2].tolist() == pytest.approx([0.05, 0.05, 0.9])


def test_a_loop_of_ones_own_is_recorded_by_its_function(tmp_path):
    run = looped(tmp_path / "mine")

    def again(labels, folder):
        looped(folder, labels=labels)

    with pytest.raises(UsageError, match="record=FUNCTION"):
        probe(run, flips=Flips(0.3, "uniform"))
    found = probe(run, "loss", flips=Flips(0.3, "uniform"), record=again)
    assert [one.title for one in found.methods] == ["loss"] and found.kind == "uniform"
    other = looped(tmp_path / "other")
    with pytest.raises(Mismatch, match="other ids or labels"):
        probe(other, "loss", flips=Flips(0.3, "uniform"), record=lambda labels, folder: looped(folder))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"methods": "entropy"}, "ranks difficulty"),
        ({"flips": Flips(0.01)}, "flip at least 10"),
        ({"methods": []}, "name at least one"),
        ({"record": print}, "leave record= out"),
    ],
)
def test_what_cannot_be_probed_is_refused(run, given, words):
    with pytest.raises(UsageError, match=words):
        probe(run, **given)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": 0.6}, {"kind": "pair"}, {"seed": -1}])
def test_flips_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        Flips(**wrong)


def test_a_run_without_probabilities_flips_by_uniform_only(tmp_path):
    run = small.recorded(tmp_path / "run", record={"mean_probs": False})
    with pytest.raises(MissingEvidence, match="kind='uniform'"):
        assay.probe(run, flips=FEW)
