"""The layout of the released files: `i_Output.npy = logits[order]`, `i_Index.npy = order`, `i_Loss.npy = loss[order]`."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assay.core.errors import Mismatch, MissingEvidence, NumericalError, OutputExists, RunError, UsageError
from assay.core.ids import Ids
from assay.core.scores import Direction, Scores
from assay.runs.npy import export_npy, export_scores, import_npy
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from runs.worlds import CLASSES, EXAMPLES, IDS, LABELS, assert_holds, logits_of, order_of, recorded

EPOCHS = 3


def release(folder, epochs=EPOCHS, dtype=np.float32, scale=1.0):
    """What the authors' code leaves behind."""
    folder.mkdir()
    for epoch in range(epochs):
        order = order_of(epoch)
        logits = scale * logits_of(epoch)
        losses = F.cross_entropy(logits, LABELS, reduction="none")
        np.save(folder / f"{epoch}_Output.npy", logits[order].numpy().astype(dtype))
        np.save(folder / f"{epoch}_Loss.npy", losses[order].numpy())
        np.save(folder / f"{epoch}_Index.npy", order.numpy())
    return folder


@pytest.fixture
def source(tmp_path):
    return release(tmp_path / "npy")


def test_shuffled_rows_are_put_in_the_order_of_their_index(source, tmp_path):
    run = import_npy(source, LABELS.to(torch.int32), tmp_path / "run", code="1.2")
    assert run.epochs == EPOCHS and run.ids == Ids(range(EXAMPLES)) and torch.equal(run.labels, LABELS)
    for epoch in range(EPOCHS):
        assert torch.equal(run.shard(epoch).read("logits"), logits_of(epoch))
        assert torch.equal(torch.cat(run.order(epoch)), order_of(epoch))
        assert_holds(run.shard(epoch), logits_of(epoch), LABELS)
    assert run.header.code == "1.2" and run.header.about == {"data": str(source)} and run.check()


def test_an_exported_run_has_the_released_layout(source, tmp_path):
    recorded(tmp_path / "run", EPOCHS, keep_logits=True)
    export_npy(Run(tmp_path / "run"), tmp_path / "out")
    for epoch in range(EPOCHS):
        for kind, kept in (("Output", np.float32), ("Index", np.int64), ("Loss", np.float32)):
            ours, theirs = (np.load(place / f"{epoch}_{kind}.npy") for place in (tmp_path / "out", source))
            assert ours.dtype == theirs.dtype == kept and ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=0 if kind != "Loss" else 1e-6)
    assert np.load(tmp_path / "out/ids.npy").tolist() == list(IDS)


def test_export_and_import_are_inverse_with_their_ids(tmp_path):
    recorded(tmp_path / "run", EPOCHS, keep_logits=True, checkpoints="none")
    run = Run(tmp_path / "run")
    export_npy(run, tmp_path / "out")
    back = import_npy(tmp_path / "out", run.labels, tmp_path / "back")
    assert back.ids == run.ids and back.dataset == run.dataset
    for epoch in range(EPOCHS):
        for need in run.holds:
            assert torch.equal(back.shard(epoch).read(need.value), run.shard(epoch).read(need.value)), need
        assert torch.equal(torch.cat(back.order(epoch)), torch.cat(run.order(epoch)))
    assert torch.equal(back.mean_probs(), run.mean_probs())


def test_a_clean_pass_is_exported_whole_whatever_was_trained_on(tmp_path):
    with Recorder(tmp_path / "run", IDS, Recording(view="eval", keep_logits=True)) as recorder:
        recorder.begin()
        for _ in range(EXAMPLES):
            recorder.step(torch.tensor([3, 3, 5]), [0.1])
        recorder.observe(torch.arange(EXAMPLES), logits_of(0), LABELS)
        recorder.commit()
    export_npy(Run(tmp_path / "run"), tmp_path / "out")
    assert np.load(tmp_path / "out/0_Index.npy").tolist() == list(range(EXAMPLES))
    assert np.array_equal(np.load(tmp_path / "out/0_Output.npy"), logits_of(0).numpy())


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_half_precision_rows_go_with_losses_of_full_precision(tmp_path, scale):
    run = import_npy(release(tmp_path / "npy", dtype=np.float16, scale=scale), LABELS, tmp_path / "run")
    assert torch.equal(run.shard(0).read("logits"), (scale * logits_of(0)).half().float())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_labels_of_another_dataset_do_not_fit_the_stored_losses(tmp_path, dtype):
    source = release(tmp_path / "npy", dtype=dtype)
    labels = LABELS.clone()
    labels[7] = (labels[7] + 1) % CLASSES
    with pytest.raises(Mismatch, match=r"0_Loss.npy is not the cross-entropy of these logits with the given labels") as caught:
        import_npy(source, labels, tmp_path / "run")
    assert caught.value.exit_code == 4
    for epoch in range(EPOCHS):
        (source / f"{epoch}_Loss.npy").unlink()
    assert torch.equal(import_npy(source, labels, tmp_path / "unchecked").labels, labels)


def spoil(name, change):
    def at(source):
        np.save(source / name, change(np.load(source / name)))

    return at


def put(at, value):
    def change(array):
        array = array.copy()
        array[at] = value
        return array

    return change


SPOILT = {
    "no files": (lambda source: [path.unlink() for path in source.glob("*_Output.npy")], UsageError, "holds no i_Output.npy"),
    "a gap": (lambda source: (source / "1_Output.npy").unlink(), UsageError, "with gaps"),
    "from 1": (lambda source: (source / "0_Output.npy").unlink(), UsageError, "numbered from 0"),
    "no index": (lambda source: (source / "1_Index.npy").unlink(), UsageError, "1_Index.npy does not exist"),
    "short index": (spoil("1_Index.npy", lambda a: a[:-1]), UsageError, "epoch 1: 23 rows of logits and 22 indices"),
    "float index": (spoil("1_Index.npy", lambda a: a.astype(float)), UsageError, "epoch 1"),
    "outside": (spoil("1_Index.npy", put(0, 99)), UsageError, r"names positions outside 0\.\.22"),
    "negative": (spoil("1_Index.npy", put(0, -1)), UsageError, r"names positions outside 0\.\.22"),
    "twice": (spoil("0_Index.npy", lambda a: a[[1, 1, *range(2, 23)]]), (UsageError, Mismatch), "more than once|cross-entropy"),
    "too few": (
        lambda source: [spoil(f"0_{kind}.npy", lambda a: a[:-2])(source) for kind in ("Output", "Loss", "Index")],
        UsageError,
        "2 of 23 ids were not visited",
    ),
    "axes": (spoil("1_Output.npy", lambda a: a[None]), UsageError, "has 3 axes, 2 were expected"),
    "nan": (spoil("1_Output.npy", put((4, 2), np.nan)), NumericalError, "Epoch 1: logits of 1 examples"),
    "short loss": (spoil("0_Loss.npy", lambda a: a[:-1]), UsageError, "22 losses for 23 rows"),
    "loss of one": (spoil("0_Loss.npy", lambda a: a[:1]), UsageError, "1 losses for 23 rows"),
    "nan loss": (spoil("1_Loss.npy", put(3, np.nan)), Mismatch, "1_Loss.npy is not the cross-entropy"),
    "cut": (lambda source: (source / "1_Output.npy").write_bytes(b"\x93NUMPY"), RunError, "is damaged or no npy file"),
    "empty": (lambda source: (source / "1_Output.npy").write_bytes(b""), RunError, "is damaged or no npy file"),
    "objects": (
        lambda source: np.save(source / "1_Output.npy", np.array([{}], dtype=object), allow_pickle=True),
        RunError,
        "is damaged or no npy file",
    ),
    "classes": (spoil("1_Output.npy", lambda a: a[:, :3]), (UsageError, Mismatch), r"logits of 3 classes"),
    "few ids": (lambda source: np.save(source / "ids.npy", np.arange(5)), Mismatch, "ids.npy names 5 examples"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_files_that_do_not_go_together_are_refused(source, tmp_path, case):
    change, kind, words = SPOILT[case]
    change(source)
    with pytest.raises(kind, match=words) as caught:
        import_npy(source, LABELS, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[:20], "outside"),
        (F.one_hot(LABELS), "labels are"),
        (LABELS.float(), "labels are"),
        (LABELS + 1, "labels lie in 1"),
    ],
)
def test_labels_that_are_none_are_refused(source, tmp_path, labels, words):
    with pytest.raises(UsageError, match=words):
        import_npy(source, labels, tmp_path / "run")


def test_nothing_is_overwritten(source, tmp_path):
    recorded(tmp_path / "run", 1, keep_logits=True)
    with pytest.raises(OutputExists, match="already holds npy files"):
        export_npy(Run(tmp_path / "run"), source)
    with pytest.raises(OutputExists, match="already holds a run"):
        import_npy(source, LABELS, tmp_path / "run")
    recorded(tmp_path / "bare", 1)
    with pytest.raises(MissingEvidence, match="keep_logits=True"):
        export_npy(Run(tmp_path / "bare"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def scores(ids, values):
    values = torch.tensor(values, dtype=torch.float64)
    return Scores(Ids(ids), values, "dual", {}, "dual", Direction.HIGH_IS_HARD, "p")


def test_scores_and_mask_follow_the_convention_of_dual(tmp_path):
    """`X_score` by example, `X_mask` the positions from the lowest value to the highest; ties go to the smaller id."""
    made = scores([4, 0, 2, 1, 3], [0.3, 0.1, 0.2, 0.1, 0.5])
    export_scores(made, tmp_path / "deep/out")
    score, mask = (np.load(tmp_path / f"deep/out/dual_{kind}.npy") for kind in ("score", "mask"))
    assert score.dtype == np.float64 and score.tolist() == [0.3, 0.1, 0.2, 0.1, 0.5]
    assert mask.dtype == np.int64 and mask.tolist() == [1, 3, 2, 0, 4]
    assert (np.diff(score[mask]) >= 0).all()


@pytest.mark.parametrize("taken", ["score", "mask"])
def test_scores_are_not_overwritten_nor_half_written(tmp_path, taken):
    (tmp_path / f"dual_{taken}.npy").write_text("mine")
    with pytest.raises(OutputExists, match=f"dual_{taken}.npy is there"):
        export_scores(scores([0, 1], [1.0, 2.0]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"dual_{taken}.npy"]
    assert (tmp_path / f"dual_{taken}.npy").read_text() == "mine"


def test_an_import_is_the_same_whatever_the_machine_calls_the_folder(source, tmp_path):
    moved = shutil.copytree(source, tmp_path / "elsewhere")
    one, other = import_npy(source, LABELS, tmp_path / "one"), import_npy(moved, LABELS, tmp_path / "other")
    assert one.fingerprint == other.fingerprint
