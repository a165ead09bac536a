from collections import Counter

import pytest
import torch

import assay
from assay.core.errors import NumericalError
from assay.core.needs import EPOCH_NEEDS, Need
from assay.core.scoring import score
from assay.experiments import evidence
from assay.experiments.evidence import gather, gather_logits, gather_together
from assay.methods import catalogue
from assay.replay.live_methods import LiveMethods
from assay.replay.replay import Replay
from assay.runs.disk import TensorFile
from assay.runs.epochs import RecordedEpochs
from assay.runs.run import Run
from experiments import small
from exports import exported
from runs.worlds import CLASSES, IDS, LABELS, LIVE, logits_of, recorded

EPOCHS = 12
LOGITS = torch.stack([logits_of(epoch) for epoch in range(EPOCHS)])


def test_a_run_on_disk_scores_as_the_same_logits_in_memory(tmp_path):
    recorded(tmp_path, EPOCHS, keep_logits=True)
    disk, memory = gather(Run(tmp_path)), gather_logits(IDS, LOGITS, LABELS)
    methods = [method for cls in catalogue().values() if (method := cls()).reads <= disk.holds]
    assert len(methods) >= 12 and disk.holds == memory.holds and disk.recorded == memory.recorded == EPOCHS
    for method, one, other in zip(methods, score(methods, disk), score(methods, memory), strict=True):
        assert one.ids == other.ids == IDS
        # Sums of probabilities are taken of those of single precision.
        near = {"rtol": 1e-5, "atol": 1e-6} if Need.MEAN_PROBS in method.reads else {"rtol": 0, "atol": 1e-12}
        torch.testing.assert_close(one.values, other.values, **near, msg=one.title)
    torch.testing.assert_close(disk.mean_probs, memory.mean_probs, rtol=0, atol=1e-6)


def test_one_shard_is_open_at_a_time_and_any_order_of_reading_is_right(tmp_path):
    recorded(tmp_path, 3, keep_logits=True)
    epochs = RecordedEpochs(Run(tmp_path))
    for epoch in (2, 0, 0, 1, 2):
        assert torch.equal(epochs.read(epoch, Need.LOGITS), LOGITS[epoch])


def test_logits_in_memory_that_are_not_finite_are_named():
    spoilt = LOGITS.clone()
    spoilt[3, 5, 1] = torch.nan
    with pytest.raises(NumericalError, match="Epoch 3: logits of 1 examples are NaN or infinite; ids picture 05"):
        gather_logits(IDS, spoilt, LABELS)
    spoilt[3, 5, 1] = 0
    spoilt[4, 6, LABELS[6]] = -torch.inf
    with pytest.raises(
        NumericalError, match="Epoch 4: logits of 1 examples are -inf for the given label: the class is masked; ids picture 06"
    ):
        gather_logits(IDS, spoilt, LABELS)


def test_masked_classes_in_memory_are_right():
    masked, large = LOGITS.clone(), LOGITS.clone()
    masked[:, 5, (LABELS[5] + 1) % CLASSES], large[:, 5, (LABELS[5] + 1) % CLASSES] = -torch.inf, -1e4
    methods = [method for cls in catalogue().values() if (method := cls()).reads <= EPOCH_NEEDS - {Need.LOGITS}]
    with_infinity, by_hand = gather_logits(IDS, masked, LABELS), gather_logits(IDS, large, LABELS)
    for one, other in zip(score(methods, with_infinity), score(methods, by_hand), strict=True):
        torch.testing.assert_close(one.values, other.values, msg=one.title)
    assert torch.equal(with_infinity.mean_probs, by_hand.mean_probs)


READS = {
    "confidence": {"epochs/target_probs"},
    "aum": {"epochs/margins"},
    "forgetting": {"epochs/correct"},
    "el2n": {"epochs/error_norms"},
    "loss": {"epochs/losses"},
}


@pytest.mark.parametrize("name", READS)
def test_a_score_reads_what_its_method_declares_and_no_other_file(tmp_path, monkeypatch, name):
    recorded(tmp_path, EPOCHS, keep_logits=True, live=LiveMethods(LIVE))
    read = Counter()
    plain = TensorFile.read
    monkeypatch.setattr(
        TensorFile, "read", lambda file, name: read.update([f"{file.path.parent.name}/{name}"]) or plain(file, name)
    )
    assay.score(Run(tmp_path), name)
    assert set(read) == READS[name] and max(read.values()) <= EPOCHS


OF_EVERY_KIND = {
    "confidence": {"epochs/target_probs"},
    "confidence:epochs=2": {"epochs/target_probs"},
    "cg_score:protocol=rest": {"data"},
    "cg_score:inputs=e,protocol=rest": set(),
    "knn_disagreement:features=rows:e": set(),
    "knn_disagreement:features=inputs": {"data"},
    "knn_disagreement:features=penultimate": {"data", "model", "features", "checkpoints"},
    "knn_disagreement:features=head_grads@0": {"data", "model", "features", "checkpoints"},
    "grand": {"data", "model", "checkpoints"},
}
"""What a method may read, of everything that a run has with its data and rows from outside; labels are read with the run."""


@pytest.fixture(scope="module")
def with_everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence") / "run"
    everything = {"keep_logits": True, "mean_probs": True, "checkpoints": "every"}
    return small.recorded(folder, net="mlp:widths=8", record=everything, validation=0.2, recipe={"epochs": 20, "batch": 128})


@pytest.fixture
def read(monkeypatch):
    """What is read, counted."""
    read = Counter()

    def counted(owner, name, what):
        plain = getattr(owner, name)

        def reading(*args, **given):
            read.update([what(*args) if callable(what) else what])
            return plain(*args, **given)

        monkeypatch.setattr(owner, name, reading)

    def tensor(file, name):
        room = file.path.parent.name
        if "features" in file.path.parts:
            return "rows of a kept model"
        return "checkpoints" if room == "checkpoints" else f"{room}/{name}"

    counted(TensorFile, "read", tensor)
    counted(TensorFile, "read_all", lambda file: file.path.parent.name)
    counted(evidence, "load_data", "data")
    counted(Replay, "at", "model")
    counted(Replay, "features", "features")
    counted(Replay, "forwards", "steps")
    counted(Replay, "backwards", "steps")
    return read


@pytest.mark.parametrize("title", OF_EVERY_KIND)
def test_nothing_of_any_kind_is_read_that_no_method_asks_for(title, with_everything, read):
    run = Run(with_everything.folder)
    rows = {"e": torch.randn(len(run.ids), 3, generator=torch.Generator().manual_seed(0))}
    scores = assay.score(run, title, inputs=rows if OF_EVERY_KIND[title] == set() else None)
    assert len(scores) == 1 and set(read) == OF_EVERY_KIND[title]
    assert read["data"] <= 1 and read["model"] <= 1 and read["features"] <= 1


PLAN = {"epochs/order", "epochs/batch_sizes", "epochs/rates"}
KINDS = {
    Need.MEAN_PROBS: ({"sums/probs"}, set()),
    Need.FEATURES: ({"data"}, {"model", "features", "checkpoints"}),
    Need.GAME: (set(), set()),
    Need.HELD_OUT: ({"data"}, set()),
    Need.CHECKPOINTS: ({"data", "model", "checkpoints"}, PLAN | {"rows of a kept model"}),
    # The losses that were recorded are held against those of the steps.
    Need.STEPS: ({"data", "steps", "checkpoints"} | PLAN, {"model", "epochs/losses"}),
    Need.LABELS: (set(), set()),
    Need.VALIDATION_LOSSES: ({"epochs/validation_losses"}, {"epochs/validation_counts"}),
} | {need: ({f"epochs/{need.value}"}, set()) for need in EPOCH_NEEDS}
"""What is read of a run for each need, and what may be beside it; labels are read with the run."""


def own():
    return sorted(name for name, cls in catalogue().items() if not cls.retrains)


@pytest.mark.parametrize("name", own())
def test_every_method_reads_the_kinds_that_it_declares_of_a_run(name, with_everything, read):
    cls = catalogue()[name]
    # Games with their own options take long.
    method = cls(**exported("methods", name, "VARIANTS")[0]) if Need.HELD_OUT in cls().reads else cls()
    assay.score(Run(with_everything.folder), method, targets=["validation"] if method.asks.targets else None)
    must, may = (set().union(*(KINDS[need][part] for need in method.reads)) for part in (0, 1))
    assert must <= set(read) <= must | may and read["data"] <= 1


def test_mean_probabilities_are_read_once_and_only_when_asked_for(tmp_path, monkeypatch):
    recorded(tmp_path, 3)
    read = Counter()
    plain = TensorFile.read
    monkeypatch.setattr(
        TensorFile, "read", lambda file, name: read.update([f"{file.path.parent.name}/{name}"]) or plain(file, name)
    )
    run = Run(tmp_path)
    for seen in (gather(run), gather_together([run]), gather_together([run, run])):
        read.clear()
        assert Need.MEAN_PROBS in seen.holds and not read
        narrow = seen.narrow("a policy", frozenset({Need.MEAN_PROBS}))
        first = narrow.mean_probs
        assert torch.equal(seen.mean_probs, first) and torch.equal(first, Run(tmp_path).mean_probs())
        assert read["sums/probs"] <= 3
    recorded(tmp_path / "without", 3, mean_probs=False)
    assert Need.MEAN_PROBS not in gather(Run(tmp_path / "without")).holds
    assert Need.MEAN_PROBS not in gather_together([run, Run(tmp_path / "without")]).holds
