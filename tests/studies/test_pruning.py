import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from assay.core.errors import UnknownName, UsageError
from assay.core.study import ALL
from assay.data.disk_images import DiskImages
from assay.experiments.plan import Plan, load_data, plan_of
from assay.runs.paths import StudyPaths
from assay.runs.run import Run
from assay.studies.parts import SECTION
from assay.studies.pruning import (
    CIFAR10,
    OF_DATA,
    PUBLISHED,
    READ_BY,
    ROWS,
    SCALES,
    PruningGrid,
    beside,
    corrupted,
    rows,
    study_pruning,
)

SMALL = {"data": "digits:test=1600", "net": "logistic", "seed": 3, "recipe": {"epochs": 6, "batch": 32, "schedule": "cosine"}}


def table(keep, epochs, of_data=CIFAR10, **grid):
    """Selector and score of each row."""
    return {choice.row: (choice.selector, choice.score) for choice in rows(keep, epochs, of_data, PruningGrid(**grid))}


def test_on_the_papers_schedule_the_rows_are_theirs():
    found = table(0.1, 200, OF_DATA["cifar100"])
    # A window of 10 is the default.
    assert found["DUAL"] == ("top_k", "dual:epochs=30")
    assert set(found["TDDS"][1].partition(":")[2].split(",")) == {"epochs=10", "window=5"}
    assert found["CCS"] == ("ccs:cutoff=0.5", "aum:form=probs,reduce=sum") and found["DUAL + beta"][0] == "beta:c_d=4.0"
    assert found["EL2N"] == ("top_k", "el2n:at=20") and found["AUM"] == ("bottom_k", "aum")
    assert set(table(0.5, 200, OF_DATA["cifar10"])["TDDS"][1].partition(":")[2].split(",")) >= {"epochs=90"}
    assert table(0.3, 200)["CCS"][0] == "ccs:cutoff=0.1" and table(0.3, 200)["DUAL + beta"][0] == "beta:c_d=5.5"
    assert "epochs=60" in table(0.1, 60, OF_DATA["imagenet"])["DUAL"][1]


def test_shorter_schedules_are_read_in_proportion_and_options_go_over_them():
    assert "epochs=15" in table(0.3, 100)["DUAL"][1] and "window=5" in table(0.3, 100)["DUAL"][1]
    found = table(0.3, 100, early_epochs=7, window=4, c_d=3.0, cutoff=0.2)
    assert set(found["DUAL"][1].partition(":")[2].split(",")) == {"epochs=7", "window=4"}
    assert found["DUAL + beta"][0] == "beta:c_d=3.0" and found["D2"][0] == "d2:cutoff=0.2"
    with pytest.raises(UsageError, match="The first 9 epochs are read, and the plan has 8"):
        rows(0.3, 8, CIFAR10, PruningGrid(early_epochs=9))


def test_options_of_the_codes_go_over_their_rows():
    given = {"trajectory_len": 12, "window_size": 6, "decay": 0.5, "c_0": 20.0, "strata": 25, "n_neighbor": 7, "gamma": 0.3}
    found, plain = table(0.3, 200, **given), table(0.3, 200)
    assert set(found["TDDS"][1].partition(":")[2].split(",")) == {"epochs=12", "window=6", "decay=0.5"}
    assert (
        set(found["CCS"][0].partition(":")[2].split(",")) == {"cutoff=0.1", "strata=25"}
        and found["DUAL + CCS"][0] == found["CCS"][0]
    )
    assert set(found["D2"][0].partition(":")[2].split(",")) == {"cutoff=0.1", "k=7", "gamma_r=0.3"}
    assert set(found["DUAL + beta"][0].partition(":")[2].split(",")) == {"c_d=5.5", "c_0=20.0"}
    same = {"random", "EL2N", "entropy", "forgetting", "AUM", "Dyn-Unc", "Moderate", "BWS", "DUAL"}
    assert {row for row in plain if plain[row] == found[row]} == same


def test_rows_are_chosen_by_their_names_whatever_their_signs():
    assert set(table(0.3, 200, methods=("dual_beta", "dyn-unc"))) == {"random", "Dyn-Unc", "DUAL + beta"}
    assert PruningGrid(methods=("DUAL + beta", "rs2")).methods == ("DUAL + beta", "rs2")
    assert set(table(0.3, 200)) == set(ROWS) and {row for rows_of in READ_BY.values() for row in rows_of} <= set(ROWS)
    # What an earlier version had for settings is the same.
    assert PruningGrid(c_d=3.0).added == {} and PruningGrid(methods="el2n").added == {"methods": ["EL2N"]}


class Asked(Exception):
    """Instead of a study."""


@pytest.mark.parametrize(
    ("data", "budget", "batches", "batch", "net"),
    [
        ("cifar100", "epochs", {0.2: 64, 0.1: 32}, 128, "resnet18"),
        # A net for images of 32 pixels would see those of 224 unpooled.
        ("imagenet", "steps", {}, 256, "resnet34:stem=imagenet"),
    ],
)
def test_at_the_scale_paper_batches_steps_and_net_are_those_of_the_data(monkeypatch, tmp_path, data, budget, batches, batch, net):
    def asked(name, protocol, *_):
        raise Asked(protocol)

    monkeypatch.setattr("assay.studies.pruning.carried_out", asked)

    def protocol(**grid):
        with pytest.raises(Asked) as caught:
            study_pruning(tmp_path / "x", {"data": f"{data}:path=DIR"}, scale="paper", grid=PruningGrid(**grid))
        return caught.value.args[0]

    found = protocol()
    assert (found.budget, found.batches, found.plan.training.batch, found.plan.net) == (budget, batches, batch, net)
    found = protocol(budget="epochs", batches={0.1: 8}, fractions=(0.1,))
    assert (found.budget, found.batches) == ("epochs", {0.1: 8})


def test_published_numbers_are_marked_as_they_are_known():
    cifar10 = {(one.row, one.column): one for one in PUBLISHED["cifar10"]}
    assert cifar10["DUAL + beta", "0.1"].value == 0.871 and cifar10["DUAL + beta", "0.1"].known == "read off a figure"
    # That line leaves the figure.
    assert cifar10["EL2N", "0.1"].value is None and cifar10["EL2N", "0.1"].known == "not obtainable"
    exact = {one.row: one.value for one in PUBLISHED["imagenet"]}
    assert exact == {"DUAL + beta": 0.60}


def test_what_was_published_of_nets_on_everything_stands_in_every_column():
    found = {(one.row, one.column): one.value for one in beside(PUBLISHED["cifar100"], (0.5, 0.3))}
    assert {column: value for (row, column), value in found.items() if row == ALL} == {"0.5": 0.7821, "0.3": 0.7821}
    assert len(found) == len(PUBLISHED["cifar100"]) + 1 and found["DUAL + beta", "0.1"] == 0.5456


@pytest.mark.parametrize("more", [{}, {"validation": 0.2, "subset": 0.8}], ids=["all", "part"])
def test_corrupted_images_are_as_many_as_asked_for_and_others_are_as_they_were(tmp_path, more):
    """Also beside wrong labels, with which the images are damaged in the same way."""
    plan, wrong = Plan.make({**SMALL, **more}), {"kind": "uniform", "rate": 0.2}
    clean, found = load_data(plan), load_data(corrupted(plan, 0.25, 1.0, StudyPaths(tmp_path)))
    assert not list(tmp_path.iterdir())
    both = load_data(corrupted(Plan.make({**SMALL, **more, "plant": wrong}), 0.25, 1.0, StudyPaths(tmp_path)))
    places = clean.train.ids.positions(found.train.ids, "the data")
    changed = (found.train.inputs != clean.train.inputs[places]).flatten(1).any(1)
    assert int(found.corrupted.sum()) == round(0.25 * len(clean.train))
    # A turn by a small angle may round to the same bytes.
    assert not bool((changed & ~found.corrupted).any()) and int(changed.sum()) > 0.9 * int(found.corrupted.sum())
    assert torch.equal(found.train.labels, clean.train.labels[places])
    assert torch.equal(both.train.inputs[both.train.ids.positions(found.train.ids, "the data")], found.train.inputs)
    assert int((both.train.labels != both.true_labels).sum()) == round(0.2 * len(clean.train))
    for one in (found, both):
        assert torch.equal(one.test.inputs, clean.test.inputs) and one.test.ids == clean.test.ids
        if more:
            held = one.validation.ids.positions(clean.validation.ids, "the data")
            assert torch.equal(one.validation.inputs[held], clean.validation.inputs)
            assert torch.equal(one.validation.labels[held], clean.validation.labels)


def test_images_of_numbers_are_corrupted_and_stay_normalised(tmp_path):
    digits = load_data(Plan.make({"data": "digits"}))
    arrays = {
        "inputs": digits.train.inputs[:200].float().numpy() / 255,
        "labels": digits.train.labels[:200].numpy(),
        "test_inputs": digits.test.inputs[:50].float().numpy() / 255,
        "test_labels": digits.test.labels[:50].numpy(),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    settings = {**SMALL, "data": f"arrays:path={tmp_path / 'a.npz'},standardise=true"}
    wrong = {**settings, "plant": {"kind": "uniform", "rate": 0.2}}
    one, both = (load_data(corrupted(Plan.make(given), 0.25, 1.0, StudyPaths(tmp_path))) for given in (settings, wrong))
    for part in ("train", "test"):
        expected, found = (getattr(data, part) for data in (one, both))
        places = expected.ids.positions(found.ids, "the data")
        torch.testing.assert_close(found.prepared(found.inputs), expected.prepared(expected.inputs)[places], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_images_that_stay_on_disk_are_corrupted_as_they_are_read(tmp_path):
    digits = load_data(Plan.make({"data": "digits"}))
    for part, examples in (("train", digits.train.take(torch.arange(200))), ("test", digits.test.take(torch.arange(50)))):
        for number, (image, label) in enumerate(zip(examples.inputs, examples.labels.tolist(), strict=True)):
            place = tmp_path / "files" / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(place / f"{number}.png")
    settings = {**SMALL, "data": f"folder:path={tmp_path / 'files'},memory=0"}
    grid = PruningGrid(fractions=(0.5,), seeds=1, corrupt=0.2, methods="EL2N", batches={})
    found = study_pruning(tmp_path / "study", settings, scale="tiny", grid=grid)
    assert found.rows(SECTION) and not list((tmp_path / "study").rglob("corrupted.npz"))
    run = Run(next(StudyPaths(tmp_path / "study").probes.iterdir()))
    made = load_data(plan_of(run))
    assert isinstance(made.train.inputs, DiskImages) and int(made.corrupted.sum()) == 40


@pytest.mark.parametrize(
    ("scale", "settings", "grid", "error", "words"),
    [
        ("tine", {}, {}, UnknownName, "tiny"),
        ("paper", {}, {}, UsageError, "needs a value for data"),
        ("tiny", {"recipe": {"epochs": 3}}, {}, UsageError, "give more epochs"),
        ("tiny", {}, {"trajectory_len": 21}, UsageError, "fewer early_epochs or trajectory_len"),
        ("tiny", {}, {"trajectory_len": 4, "window_size": 5}, UsageError, "window_size=5 is more than the 4 epochs"),
        ("tiny", {}, {"decay": 2.0}, UsageError, "decay"),
        ("tiny", {}, {"c_0": -1.0}, UsageError, "c_0"),
        ("tiny", {}, {"gamma": -1.0}, UsageError, "gamma_r"),
        ("tiny", {"recipe": {"horizon": 200}}, {}, UsageError, "leave horizon out"),
    ],
)
def test_what_cannot_be_studied_is_refused(scale, settings, grid, error, words, tmp_path):
    with pytest.raises(error, match=words):
        study_pruning(tmp_path / "x", settings, scale=scale, grid=PruningGrid(**grid))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("grid", "words"), [({"corrupt": 2.0}, "corrupt=2"), ({"corrupt_intensity": 2.0}, "corrupt_intensity is read where images are corrupted"), ({"window": 0}, "window=0"), ({"budget": "hours"}, "budget='hours'"), ({"fractions": (1.0,)}, "fractions: 1"),
     ({"methods": ("dule",)}, "No row of this study is named 'dule'"), ({"methods": ("dual", "DUAL")}, "each once"), ({"strata": 0}, "strata=0"),
     ({"methods": "EL2N", "decay": 0.5}, "decay is read by TDDS only, none of which is among EL2N")]
)  # fmt: skip
def test_settings_out_of_range_are_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        PruningGrid(**grid)


@pytest.mark.slow
def test_wrong_labels_and_corrupted_images_are_recorded_and_trained_on(tmp_path):
    settings = {**SMALL, "plant": {"kind": "uniform", "rate": 0.2}}
    found = study_pruning(tmp_path, settings, scale="tiny", grid=PruningGrid(fractions=(0.3,), seeds=1, corrupt=0.2, batches={}))
    run = Run(next(StudyPaths(tmp_path).probes.iterdir()))
    assert "corrupted.npz" in plan_of(run).data and plan_of(run).plant.rate == 0.2
    assert {one.known for one in found.published} == {"not obtainable"} and len(found.rows(SECTION)) == 16


@pytest.mark.slow
def test_the_scale_tiny_on_real_digits(tmp_path):
    found = study_pruning(tmp_path, scale="tiny")
    means = {row: np.mean(list(found.values(SECTION, row, "0.1").values())) for row in found.rows(SECTION)}
    # The hardest alone teach little; what DUAL draws by the density of the easy is better than its highest.
    assert means["EL2N"] < means["random"] - 0.1 and means["DUAL + beta"] > means["DUAL"]
    assert set(SCALES) == {"tiny", "small", "paper"} and dataclasses.asdict(found)["claims"] > 0
