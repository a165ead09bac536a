import math

import numpy as np
import pytest
import torch

from assay import Plan
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.examples import Examples
from assay.data.image_corruption import STRENGTHS, corrupt, turned
from assay.runs.artefacts import load_corrupted


def examples(n=40, shape=(3, 9, 8), kind="uint8"):
    drawn = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    inputs = (drawn * 255).round().to(torch.uint8) if kind == "uint8" else drawn
    return Examples(
        Ids([f"e{i}" for i in range(n)]), inputs, torch.arange(n) % 2, ("a", "b"), (0.5,) * shape[0], (0.2,) * shape[0]
    )


@pytest.mark.parametrize("kind", STRENGTHS)
@pytest.mark.parametrize("stored", ["uint8", "float"])
def test_as_many_as_asked_and_the_others_are_untouched(kind, stored):
    clean = examples(kind=stored)
    before = clean.inputs.clone()
    made = corrupt(clean, kind, 0.3, seed=1)
    assert made.count == 12 and made.examples.inputs.dtype == clean.inputs.dtype and torch.equal(clean.inputs, before)
    differ = (made.examples.inputs != clean.inputs).flatten(1).any(1)
    assert torch.equal(differ, made.mask)
    assert torch.equal(made.examples.labels, clean.labels) and made.examples.mean == clean.mean
    assert made.examples.content != clean.content and made.examples.fingerprint == clean.fingerprint


@pytest.mark.parametrize("kind", STRENGTHS)
def test_an_image_depends_on_its_id_and_the_seed_only(kind, monkeypatch):
    clean = examples()
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(3))
    whole = corrupt(clean, kind, 0.5, seed=2)
    monkeypatch.setattr("assay.data.image_corruption.PART", 500)
    turned = corrupt(clean.take(order), kind, 0.5, seed=2)
    assert torch.equal(turned.mask, whole.mask[order]) and torch.equal(turned.examples.inputs, whole.examples.inputs[order])
    few = corrupt(clean, kind, 0.2, seed=2)
    assert not bool((few.mask & ~whole.mask).any()) and torch.equal(
        few.examples.inputs[few.mask], whole.examples.inputs[few.mask]
    )
    other = corrupt(clean, kind, 1.0, seed=3)
    assert not torch.equal(other.mask, whole.mask)
    if kind != "blur":
        assert not torch.equal(other.examples.inputs, corrupt(clean, kind, 1.0, seed=2).examples.inputs)


def test_blur_is_scipys():
    from scipy.ndimage import convolve1d

    clean = examples(4, kind="float")
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
    weights /= weights.sum()
    expected = convolve1d(convolve1d(clean.inputs.double().numpy(), weights, 2, mode="mirror"), weights, 3, mode="mirror")
    made = corrupt(clean, "blur", 1.0, strength=1.5)
    assert np.allclose(made.examples.inputs.numpy(), expected, atol=1e-6)


def test_noise_has_its_deviation_and_no_two_points_share_it():
    grey = Examples(Ids(range(30)), torch.full((30, 3, 20, 20), 0.5), torch.arange(30) % 2, ("a", "b"))
    noise = corrupt(grey, "noise", 1.0, strength=0.05).examples.inputs - 0.5
    assert float(noise.mean()) == pytest.approx(0, abs=0.002) and float(noise.std()) == pytest.approx(0.05, rel=0.02)
    assert len(noise.unique()) > 0.9 * noise.numel() * 0.9
    flat = noise.flatten(1)
    assert float(torch.corrcoef(flat).fill_diagonal_(0).abs().max()) < 0.15


def test_rotation_keeps_shape_and_stays_within_its_angle():
    # A point to the right of the middle of an image that is not square goes up or down as its angle says.
    wide = torch.zeros(200, 1, 41, 61)
    wide[:, :, 19:22, 48:51] = 1
    made = corrupt(Examples(Ids(range(200)), wide, torch.arange(200) % 2, ("a", "b")), "rotation", 1.0, strength=30.0)
    weight = made.examples.inputs[:, 0]
    rows, columns = torch.arange(41.0) - 20, torch.arange(61.0) - 30
    up = (weight.sum(2) @ rows) / weight.sum((1, 2))
    right = (weight.sum(1) @ columns) / weight.sum((1, 2))
    assert torch.allclose(torch.hypot(up, right), torch.tensor(19.0), atol=0.3)
    angles = torch.rad2deg(torch.atan2(up, right))
    assert float(angles.abs().max()) <= 30.5 and float(angles.min()) < -20 and float(angles.max()) > 20
    assert float(angles.std()) == pytest.approx(60 / math.sqrt(12), rel=0.1)


def test_a_quarter_turn_is_a_quarter_turn():
    images = torch.rand(1, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = turned(images, torch.tensor([90.0]))
    assert any(torch.allclose(found, torch.rot90(images, k, (2, 3))) for k in (1, 3))
    # A picture that is wider than high is turned and not sheared: its middle stays a circle of the same weight.
    wide = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    wide[0, 0, 4, 8:13] = 1
    assert turned(wide, torch.tensor([90.0]))[0, 0, 2:7, 10] == pytest.approx([1.0] * 5)


def test_contrast_moves_every_point_in_proportion_to_its_distance_from_the_mean_grey():
    calm = Examples(Ids(range(50)), 0.4 + 0.2 * torch.rand(50, 3, 6, 6), torch.arange(50) % 2, ("a", "b"))
    before, after = calm.inputs.double(), corrupt(calm, "contrast", 1.0, strength=0.5).examples.inputs.double()
    grey = torch.einsum("nchw,c->n", before, torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)) / 0.9999 / 36
    factors = (after - grey.view(-1, 1, 1, 1)) / (before - grey.view(-1, 1, 1, 1))
    middle = factors.flatten(1).median(1).values
    assert torch.allclose(after, grey.view(-1, 1, 1, 1) + middle.view(-1, 1, 1, 1) * (before - grey.view(-1, 1, 1, 1)), atol=1e-5)
    assert 0.5 <= float(middle.min()) < 0.7 and 1.3 < float(middle.max()) <= 1.5


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"kind": "fog", "rate": 0.1}, "named 'fog'. Known: blur, noise, rotation, contrast"),
        ({"kind": "blur", "rate": None}, "takes a rate"),
        ({"kind": "blur", "rate": 1.5}, r"rate=1\.5 is outside 0\.\.1"),
        ({"kind": "noise", "rate": 0.1, "strength": 0.0}, r"strength=0\.0 of kind 'noise' is no number above 0"),
        ({"kind": "noise", "rate": 0.1, "strength": float("nan")}, "strength=nan"),
        ({"kind": "contrast", "rate": 0.1, "strength": 1.5}, r"outside 0\.\.1, 0 excluded"),
        ({"kind": "blur", "rate": 0.1, "kernel": 4}, "kernel=4 is no odd number from 3 to 15"),
        ({"kind": "blur", "rate": 0.1, "kernel": 17}, "kernel=17 is no odd number"),
        ({"kind": "noise", "rate": 0.1, "kernel": 3}, "damage of kind 'noise' takes none"),
    ],
)
def test_what_cannot_be_damaged(how, words):
    with pytest.raises(UsageError, match=words):
        corrupt(examples(), **how)


def test_rows_and_numbers_that_are_no_pictures():
    rows = Examples(Ids(range(4)), torch.rand(4, 3), torch.arange(4) % 2, ("a", "b"))
    with pytest.raises(UsageError, match=r"needs images; an input is of shape \(3,\)"):
        corrupt(rows, "noise", 0.5)
    wide = Examples(Ids(range(4)), torch.rand(4, 1, 8, 8) - 3, torch.arange(4) % 2, ("a", "b"))
    with pytest.raises(UsageError, match=r"give bytes, or numbers from 0 to 1"):
        corrupt(wide, "noise", 0.5)


def test_a_plan_damages_images_under_their_labels():
    plan = Plan.make({"data": "digits", "plant": {"kind": "noise", "rate": 0.1, "strength": 0.3}, "validation": 0.2})
    loaded, clean = plan.load(), Plan.make({"data": "digits", "validation": 0.2}).load()
    assert loaded.corrupted.sum() == round(0.1 * len(loaded.train)) and not bool(loaded.wrong.any())
    differ = (loaded.train.inputs != clean.train.inputs).flatten(1).any(1)
    assert torch.equal(differ, loaded.corrupted)
    assert torch.equal(loaded.test.inputs, clean.test.inputs) and torch.equal(loaded.validation.inputs, clean.validation.inputs)
    held = torch.arange(len(loaded.train)) % 3 == 0
    assert torch.equal(loaded.without(held).corrupted, loaded.corrupted[~held])


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ({"kind": "uniform", "rate": 0.1, "strength": 0.3}, r"plant\.strength is not for kind 'uniform'"),
        ({"kind": "noise", "rate": 0.1, "matrix": [[1.0]]}, r"plant\.matrix is not for kind 'noise'"),
        ({"kind": "human"}, "needs a file: labels="),
        ({"kind": "human", "labels": "a.npy", "rate": 0.1}, r"plant\.rate is not for kind 'human'"),
        ({"kind": "blur", "rate": 0.1, "labels": "a.npy"}, r"plant\.labels is not for kind 'blur'"),
    ],
)
def test_a_plan_refuses_settings_of_another_kind(plant, words):
    with pytest.raises(UsageError, match=words):
        Plan.make({"data": "digits", "plant": plant})


def test_the_truth_knows_what_was_damaged_and_compare_says_who_finds_it(tmp_path, capsys):
    import assay
    from assay.cli.compare import show_comparison
    from assay.experiments.record import record

    run = tmp_path / "run"
    plan = Plan.make(
        {"data": "digits", "net": "logistic", "plant": {"kind": "noise", "rate": 0.1, "strength": 0.6}, "recipe": {"epochs": 3}}
    )
    recorded = record(plan, run)
    assert recorded.header.about["corrupted examples"] == 144 and recorded.header.about["wrong labels"] == 0
    made = assay.compare(run, ["aum", "loss"])
    assert made.wrong == 0 and made.corrupted == 144 and not made.detections
    assert all(one.auc > 0.7 for one in made.corruptions) and len(made.corruptions) == 2
    show_comparison(made, run)
    told = " ".join(capsys.readouterr().out.split())
    assert "144 of 1,437 images were damaged on purpose" in told and "known to be wrong" not in told

    table = assay.score(run, ["aum", "loss"])
    decision = assay.choose(table["aum"], "bottom_k", keep=0.9, by="suspicion")
    data = assay.report_data(run, table, decision=decision)
    damaged = load_corrupted(recorded.paths.truth)[1]
    assert [(one.title, one.missed) for one in data.damages] == [(one.title, one.missed) for one in made.corruptions]
    assert [one.auc for one in data.damages] == pytest.approx([one.auc for one in made.corruptions], rel=1e-12)
    assert data.damaged == (144, int(damaged[~decision.kept].sum()))
    assert int(data.shown.damaged.sum()) == 144 and data.facts["damaged"].startswith("144 of 1,437 images")
    # All labels are right, so that nothing is said of wrong ones.
    assert "known truth" not in data.facts and data.shown.true is None and not data.detections and data.cleaning is None
