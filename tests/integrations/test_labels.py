"""Several labels per example: each is a binary problem of its own, and an example's value is reduced over them."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, NumericalError, UsageError
from assay.core.ids import Ids
from assay.runs.recorder import Partial, Recorder
from assay.runs.run import Run

EXAMPLES, LABELS, EPOCHS = 9, 3, 4
IDS = Ids([f"song {number}" for number in range(EXAMPLES)])
TRUTH = (torch.arange(EXAMPLES)[:, None] + torch.arange(LABELS) ** 2) % 2
METHODS = [
    "aum",
    "confidence",
    "loss",
    "forgetting",
    "correctness",
    "variability",
    "dual:window=2",
    "el2n:at=1",
    "tdds:window=3",
    "entropy",
]


def logits_of(epoch):
    return 2 * torch.randn(EXAMPLES, LABELS, generator=torch.Generator().manual_seed(epoch))


def recorded(folder, epochs=EPOCHS, reduce="mean", **more):
    with Recorder(folder, IDS, assay.Recording(keep_logits=True), **more) as recorder:
        recorder.reduce_labels = reduce
        while recorder.epochs < epochs:
            epoch = recorder.begin()
            for positions in torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(epoch)).split(4):
                recorder.step(positions, [0.1])
                recorder.observe_labels(positions, logits_of(epoch)[positions], TRUTH[positions].float())
            recorder.commit()
    return Run(folder)


def alone(folder, label):
    """A run of one label, as a binary model of one logit records it."""
    with Recorder(folder, IDS, assay.Recording(keep_logits=True)) as recorder:
        for epoch in range(EPOCHS):
            recorder.begin()
            recorder.observe(torch.arange(EXAMPLES), logits_of(epoch)[:, label], TRUTH[:, label])
            recorder.commit()
    return Run(folder)


@pytest.mark.parametrize("reduce", ["mean", "worst"])
def test_values_are_those_of_each_label_reduced(tmp_path, reduce):
    run = recorded(tmp_path / "all", reduce=reduce)
    single = [alone(tmp_path / str(label), label) for label in range(LABELS)]
    for epoch in range(EPOCHS):
        for name in ("target_probs", "margins", "losses", "correct", "entropies", "error_norms"):
            assert torch.equal(run.shard(epoch).read(name), torch.stack([one.shard(epoch).read(name) for one in single], 1))
    table = assay.score(run, METHODS)
    for title in METHODS:
        each = [assay.score(one, title)[title] for one in single]
        rows = torch.stack([one.values for one in each], 1)
        hardest = torch.stack([one.hardness() for one in each], 1).max(1).indices
        expected = rows.mean(1) if reduce == "mean" else rows[torch.arange(EXAMPLES), hardest]
        torch.testing.assert_close(table[title].values, expected)
        assert table[title].unit == each[0].unit and table[title].ids == IDS
        assert table[title].diagnostics["value of an example"] == f"{reduce} over its labels"


def test_a_run_of_labels_knows_them_and_says_what_works(tmp_path):
    run = recorded(tmp_path)
    assert run.task == "labels" and torch.equal(run.label_matrix(), TRUTH) and "several labels for each" in repr(run)
    everything = assay.score(run, "all")
    assert {"aum", "dual:window=2"} & set(everything) == {"aum"} and {"confidence", "forgetting", "loss"} <= set(everything)
    for method in ("cg_score", "prediction_depth", "knn_disagreement"):
        words = rf"{method} reads .*labels.*recorded several labels for each example\. Methods that work: aum, .*tracin"
        assert re.search(
            "only examples with a class have, and this run recorded several labels for each", everything.refused[method]
        )
        with pytest.raises(MissingEvidence, match=words):
            assay.score(run, method)
    with pytest.raises(MissingEvidence, match=r"relabel.* reads labels, mean_probs, .*Policies that read no class"):
        assay.choose(everything["aum"], "relabel:count=2", run=run)
    assert assay.report_data(run, everything).shown.given is None


def test_a_run_goes_on_and_refuses_other_labels(tmp_path):
    recorded(tmp_path / "part", 2)
    again, whole = recorded(tmp_path / "part", resume=True), recorded(tmp_path / "whole")
    assert again.fingerprint == whole.fingerprint
    with Recorder(tmp_path / "part", IDS, assay.Recording(keep_logits=True), resume=True) as recorder:
        recorder.begin()
        recorder.observe_labels(torch.arange(EXAMPLES), logits_of(0), 1 - TRUTH)
        with pytest.raises(UsageError, match="the labels of 9 examples are not those of before; ids song 0"):
            recorder.commit()
        recorder.begin()
        with pytest.raises(UsageError, match="several labels for each example before, and logits of classes are given now"):
            recorder.observe(torch.arange(EXAMPLES), logits_of(0), TRUTH[:, 0])
        with pytest.raises(UsageError, match="has 2 outputs, it had 3 before"):
            recorder.observe_labels(torch.arange(EXAMPLES), logits_of(0)[:, :2], TRUTH[:, :2])


MISTAKES = {
    "soft": (logits_of(0), torch.full((EXAMPLES, LABELS), 0.5), r"labels hold 0\.5; give 0 or 1 for each label"),
    "one column": (logits_of(0), TRUTH[:, 0], r"labels torch.int64 of shape \(9,\); give one real number and one label"),
    "a list": (logits_of(0), TRUTH.tolist(), "labels list; give"),
    "integers": (logits_of(0).long(), TRUTH, r"logits are torch.int64 of shape \(9, 3\)"),
    "not finite": (logits_of(0) / torch.eye(EXAMPLES)[:, :LABELS], TRUTH, "logits of 9 examples are NaN or infinite"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_labels_are_refused(tmp_path, mistake):
    logits, labels, words = MISTAKES[mistake]
    with Recorder(tmp_path, IDS) as recorder, pytest.raises((UsageError, NumericalError), match=words):
        recorder.begin()
        recorder.observe_labels(torch.arange(EXAMPLES), logits, labels)
        recorder.commit()


def test_what_is_kept_of_classes_is_refused(tmp_path):
    with Recorder(tmp_path / "a", IDS, assay.Recording(mean_probs=True)) as recorder:
        recorder.begin()
        with pytest.raises(UsageError, match=r"mean_probs=True sums up .*leave it out"):
            recorder.observe_labels(torch.arange(EXAMPLES), logits_of(0), TRUTH)
    with Recorder(tmp_path / "b", IDS, class_names=["a", "b", "c"]) as recorder:
        recorder.begin()
        with pytest.raises(UsageError, match=r"class_names= names classes.*leave it out"):
            recorder.observe_labels(torch.arange(EXAMPLES), logits_of(0), TRUTH)
    for given, words in (
        ({"task": "labels", "reduce_labels": "max"}, "reduce_labels='max' is neither 'mean' nor 'worst'"),
        ({"reduce_labels": "worst"}, r"reduce_labels='worst' is for task='labels'.*leave it out"),
    ):
        with pytest.raises(UsageError, match=words):
            assay.DataSpec(**given)


def test_epochs_may_leave_examples_out(tmp_path):
    places = torch.arange(EXAMPLES)
    with Recorder(tmp_path, IDS, partial=Partial()) as recorder:
        recorder.begin()
        recorder.observe_labels(places[:4], logits_of(0)[:4], TRUTH[:4])
        with pytest.raises(UsageError, match="did not visit 5 of 9 ids, whose labels are not known yet"):
            recorder.commit()
        for count in (9, 4):
            recorder.begin()
            recorder.observe_labels(places[:count], logits_of(count)[:count], TRUTH[:count])
            recorder.commit()
        recorder.begin()
        twice = torch.tensor([0, 0])
        recorder.observe_labels(twice, logits_of(0)[:2], torch.stack([TRUTH[0], 1 - TRUTH[0]]))
        with pytest.raises(UsageError, match="the labels of 1 examples are not those of before"):
            recorder.commit()
    run = Run(tmp_path)
    (found,) = assay.score(run, "confidence").values()
    probs = [torch.sigmoid(torch.where(TRUTH == 1, logits_of(count), -logits_of(count))).double() for count in (9, 4)]
    expected = torch.cat([torch.stack(probs).mean(0)[:4], probs[0][4:]]).mean(1)
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=1e-6)


def separate(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none").mean(1)


@pytest.mark.parametrize("view", ["train", "eval"])
def test_a_loop_records_labels_and_is_taken_again(tmp_path, view):
    torch.manual_seed(0)
    inputs = torch.randn(EXAMPLES, 4)
    loader = DataLoader(TensorDataset(inputs, TRUTH.float()), 4, shuffle=True)
    model = nn.Linear(4, LABELS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = assay.DataSpec(losses=separate, task="labels", reduce_labels="worst")

    def train(resume=False, data=told):
        recording = assay.Recording(view=view, checkpoints="every", live=["aum", "liveval"])
        with assay.record(tmp_path, model, optimizer, loader, recording, data=data, seed=0, resume=resume) as recorder:
            for batch in recorder.epoch():
                optimizer.zero_grad()
                separate(model, batch).mean().backward()
                optimizer.step()
                recorder.batch(model(batch[0]), batch[1])

    with pytest.warns(UserWarning, match="aum stopped .*not one number for each example; score the finished run"):
        train()
    with pytest.raises(Mismatch, match=r"recorded with task='labels', not 'losses'; resume it as it was begun"):
        train(True, assay.DataSpec(losses=separate, task="losses"))
    with pytest.raises(Mismatch, match=r"recorded with reduce_labels='worst', not 'mean'"):
        train(True, assay.DataSpec(losses=separate, task="labels"))
    train(True)
    run = Run(tmp_path)
    assert run.epochs == 2 and run.header.reduce_labels == "worst"
    loop, held_out = assay.Loop(model, optimizer, loader, losses=separate), (torch.randn(5, 4), torch.ones(5, LABELS))
    table = assay.score(run, ["aum", "sgd_influence", "grand"], loop=loop, targets={"validation": held_out})
    assert list(table) == ["aum", "sgd_influence", "grand"]
    with pytest.raises(UsageError, match="recorded several labels for each example, and the loop does not say which loss"):
        assay.score(run, "grand", loop=assay.Loop(model, optimizer, loader))
    if view == "eval":
        with torch.no_grad():
            margins = torch.where(TRUTH == 1, 1, -1) * model(inputs)
        torch.testing.assert_close(run.shard(1).read("margins"), margins)
