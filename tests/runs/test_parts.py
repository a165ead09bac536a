"""Parts of an epoch that several processes observed, merged into what one process would have recorded."""

import pickle

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from assay.core.errors import Mismatch, RunError, UnknownName, UsageError
from assay.core.ids import Ids
from assay.integrations.processes import _told, check_shared
from assay.runs.parts import PartRecorder
from assay.runs.recorder import Partial, Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run

EXAMPLES, CLASSES = 11, 3
IDS = Ids(range(100, 100 + EXAMPLES))
LABELS = torch.arange(EXAMPLES) % CLASSES
KEPT = Recording(keep_logits=True, mean_probs=True, checkpoints="none")
PARTS = [[[0, 5, 2], [7, 1, 8]], [[3, 9, 4], [10, 6]], [[8, 0, 5], [2, 8]]]
"""Batches of three processes: 0, 5 and 2 come again in the last one, 8 twice in it
and between these in the first."""


def logits_of(number, process, batch):
    return torch.randn(len(batch), CLASSES, generator=torch.Generator().manual_seed(10 * number + process))


def observed(recorder, process, batches, task="classes", labels=LABELS, updates=None):
    recorder.begin()
    for number, batch in enumerate(batches):
        positions, logits = torch.tensor(batch), logits_of(number, process, batch)
        if task == "losses":
            recorder.observe_losses(positions, logits[:, 0])
        elif task == "labels":
            recorder.observe_labels(positions, logits, torch.stack([labels[positions] == of for of in range(CLASSES)], 1))
        else:
            recorder.observe(positions, logits, labels[positions])
        recorder.step(positions, [0.1], updates=1 if updates is None else updates[number], momenta=[(0.9, float("nan"))])
        # In several flushes, as a large epoch is.
        recorder._flush()
    return recorder


def opened(folder, partial=None, **changes):
    recorder = Recorder(folder, IDS, KEPT if not changes else Recording(checkpoints="none"), partial=partial)
    recorder.processes = len(PARTS)
    others = [PartRecorder(folder, IDS, recorder.opening, recorder.alongside) for _ in PARTS[1:]]
    for other in others:
        other.processes = len(PARTS)
    return [recorder, *others]


def merged(folder, partial=None, task="classes", epochs=1):
    recorders = opened(folder, partial, **({} if task == "classes" else {"plain": True}))
    for _ in range(epochs):
        made = [observed(recorder, at, PARTS[at], task).part() for at, recorder in enumerate(recorders)]
        recorders[0].merge(made)
        recorders[0].commit()
        for other in recorders[1:]:
            other.committed()
    recorders[0].close()
    return Run(folder)


@pytest.mark.parametrize("partial", [False, True], ids=["first visit", "last visit"])
def test_an_epoch_is_that_of_one_process_in_the_global_order(tmp_path, partial):
    run = merged(tmp_path / "run", Partial(labels=LABELS) if partial else None, epochs=2)
    # The slow, obvious one: every visit in the order of (batch, process), of which the first or last counts.
    kept = {}
    for number in range(2):
        for process, batches in enumerate(PARTS):
            for place, row in zip(batches[number], logits_of(number, process, batches[number]), strict=True):
                if partial or place not in kept:
                    kept[place] = row
    with Recorder(tmp_path / "one", IDS, KEPT) as one:
        one.begin()
        one.observe(torch.arange(EXAMPLES), torch.stack([kept[place] for place in range(EXAMPLES)]), LABELS)
        one.commit()
    other = Run(tmp_path / "one")
    for epoch in range(2):
        for name in ("margins", "losses", "target_probs", "correct", "logits"):
            assert torch.equal(run.shard(epoch).read(name), other.shard(0).read(name)), name
    assert torch.equal(run.probs_sum(), 2 * other.probs_sum()) and torch.equal(run.labels, LABELS)
    assert [batch.tolist() for batch in run.order(0)] == [part[number] for number in range(2) for part in PARTS]
    assert run.micro_batches(0) == [3, 3] and run.rates(0).shape == (6, 1) and run.momenta(0).shape == (6, 1, 2)
    assert run.visits_in(0).tolist() == [2, 1, 2, 1, 1, 2, 1, 1, 3, 1, 1] and run.missing(0) is None
    assert run.processes == 3 and [commit.processes for commit in run.commits] == [3, 3] and run.check()
    assert ("visits" in run.shard(0).sums) == partial


@pytest.mark.parametrize("task", ["losses", "labels"])
def test_other_tasks_are_merged_too(tmp_path, task):
    run = merged(tmp_path / "run", task=task, epochs=2)
    losses = run.shard(1).read("losses")
    assert len(losses) == EXAMPLES and bool(losses.isfinite().all()) and run.task == task
    if task == "losses":
        assert float(losses[0]) == float(logits_of(0, 0, PARTS[0][0])[0, 0]) and float(losses[8]) == float(
            logits_of(0, 2, PARTS[2][0])[0, 0]
        )
    else:
        assert torch.equal(run.label_matrix(), torch.nn.functional.one_hot(LABELS))


def test_a_run_of_one_process_says_nothing_of_processes(tmp_path):
    with Recorder(tmp_path, IDS, KEPT) as one:
        observed(one, 0, [list(range(EXAMPLES))])
        assert "processes" not in one.commit().line()


OTHERS = {
    "fewer batches": (lambda: (PARTS[1][:1], {}), r"process 1 differs from process 0 in its batches \(1, not 2\)"),
    "no step": (lambda: (PARTS[1], {"updates": [1, 0]}), r"in its optimizer updates by batch \(\[1, 0\], not \[1, 1\]\)"),
    "losses": (lambda: (PARTS[1], {"task": "losses"}), r"in its (outputs|kind)"),
    "a label": (lambda: ([[3, 0], [9, 4]], {"labels": LABELS.flip(0)}), "the label of id 100 was 0 and is now 1"),
    "all of it": (lambda: ([[place] for place in [*range(11)] * 2], {}), "visits more than there are examples"),
    "too few": (lambda: ([[3], [9]], {}), "5 of 11 ids were not visited|were not visited: 104"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, name):
    made, words = OTHERS[name]
    batches, settings = made()
    recorder, *others = opened(tmp_path, plain=True)
    usual = [PARTS[0], PARTS[2]]
    if name == "all of it":
        usual = [batches, batches]
    parts = [
        observed(recorder, 0, usual[0]).part(),
        observed(others[0], 1, batches, **settings).part(),
        observed(others[1], 2, usual[1]).part(),
    ]

    def commit():
        recorder.merge(parts)
        recorder.commit()

    with recorder, pytest.raises(UsageError, match=words):
        commit()
    assert not (tmp_path / "commits.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (UnknownName("method", "aumm", ["aum"]), UsageError, "Process 1: No method is named 'aumm'"),
        (Mismatch("of others"), Mismatch, "Process 1: of others"),
        (KeyError("x"), RunError, "Process 1 failed: KeyError: 'x'."),
    ],
)
def test_errors_reach_other_processes_as_they_are(error, kind, words):
    told, said = pickle.loads(pickle.dumps(_told(error, 1)))
    assert told is kind and str(told(said)).startswith(words)


class Shards(BatchSampler):
    """As accelerate's."""

    def __init__(self, batch_sampler, num_processes):
        self.batch_sampler, self.num_processes = batch_sampler, num_processes

    def __len__(self):
        return len(self.batch_sampler) // self.num_processes


def shared(examples, size, drop_last=False, drops=False):
    sampler = DistributedSampler(range(examples), num_replicas=2, rank=0, drop_last=drops)
    return DataLoader(range(examples), size, sampler=sampler, drop_last=drop_last)


def sharded(examples, size, drop_last=False, replacement=False):
    batches = BatchSampler(RandomSampler(range(examples), replacement=replacement), size, drop_last)
    return DataLoader(range(examples), batch_sampler=Shards(batches, 2))


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: shared(20, 5), None),
        (lambda: shared(21, 5), None),
        (lambda: shared(20, 5, True, True), None),
        (lambda: shared(21, 5, drops=True), "drop_last=True leaves out .* 2 processes"),
        (lambda: shared(21, 5, drop_last=True), "drop_last=True leaves out"),
        (lambda: sharded(21, 5), None),
        (lambda: sharded(20, 5, drop_last=True), None),
        (lambda: sharded(25, 5, drop_last=True), "drop_last=True leaves out"),
        (lambda: sharded(20, 5, replacement=True), "RandomSampler draws with replacement"),
    ],
)
def test_loaders_that_leave_examples_out_are_refused_before_training(loader, words):
    made = loader()
    if words is None:
        check_shared(made, len(made.dataset), "do otherwise")
    else:
        with pytest.raises(UsageError, match=words):
            check_shared(made, len(made.dataset), "do otherwise")
