import math

import pytest

from assay.core.errors import OutputExists, UnknownName, UsageError
from assay.maths.perceptron import learnt
from assay.studies import difficulty, scaling
from assay.studies.difficulty import DifficultyGrid, study_difficulty
from assay.studies.scaling import ALPHAS, ScalingGrid, curve, planned, probe_of, study_scaling
from studies.conftest import SMALL


def test_the_theory_is_the_perceptron(made):
    study, _ = made
    assert {(one.keep, one.fraction, one.angle) for one in study.theory} == {
        ("hard", 1.0, 0.0),
        ("hard", 0.5, 0.0),
        ("easy", 0.5, 0.0),
    }
    for one in study.theory:
        assert one.alphas == ALPHAS and 0.3 < ALPHAS[0] < 0.32 and ALPHAS[-1] == 10
        assert one.errors[5] == learnt(ALPHAS[5], one.fraction, one.keep).error
    # Few examples: keep the easy; many: keep the hard.
    hard, easy = (next(one for one in study.theory if one.keep == keep and one.fraction == 0.5) for keep in ("hard", "easy"))
    assert easy.errors[0] < hard.errors[0] and hard.errors[-1] < easy.errors[-1]


def test_a_tilted_probe_has_fewer_points(monkeypatch):
    monkeypatch.setattr(scaling, "ALPHAS", (0.5, 1.0, 2.0))
    found = curve("hard", 0.5, 20.0)
    assert found.alphas == (0.5, 2.0) and found.errors[1] == learnt(2.0, 0.5, "hard", math.radians(20)).error


@pytest.mark.parametrize("module", [scaling, difficulty])
def test_every_scale_is_a_plan(module):
    for name, scale in module.SCALES.items():
        plan = planned({**scale.settings, **({"data": "cifar10:path=somewhere"} if name == "full" else {})}, None)
        probe = probe_of(plan, scale.probe_epochs, scale.models)
        assert probe["record"]["checkpoints"][-1] == scale.probe_epochs - 1
        assert len(probe["record"]["checkpoints"]) == min(10, scale.probe_epochs)
        assert (
            planned({**plan.plain(), **{"recipe": {**plan.recipe, **probe["recipe"]}}}, None).training.epochs
            == scale.probe_epochs
        )


def test_the_scale_full_has_the_projects_numbers_and_wants_data(tmp_path):
    recipe = planned({**difficulty.SCALES["full"].settings, "data": "digits"}, None).training
    assert (recipe.lr, recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.batch) == (0.1, 0.9, True, 5e-4, 128)
    assert (recipe.epochs, recipe.milestones, recipe.gamma, recipe.crop, recipe.flip) == (200, (60, 120, 160), 0.2, 0, False)
    with pytest.raises(UsageError, match="needs a value for data"):
        study_difficulty(tmp_path, scale="full")


def test_a_schedule_of_ones_own_takes_the_place_of_the_scales():
    recipe = planned(
        {**scaling.SCALES["full"].settings, "data": "digits"}, {"recipe": {"schedule": "cosine", "lr": 0.02}}
    ).training
    assert (recipe.schedule, recipe.lr, recipe.milestones, recipe.epochs, recipe.crop) == ("cosine", 0.02, (), 200, 4)


def test_a_recording_is_the_beginning_of_the_whole_training():
    plan = planned({**SMALL, "recipe": {"epochs": 200, "schedule": "step", "milestones": [60, 120], "gamma": 0.2}}, None)
    assert probe_of(plan, 100, 1)["recipe"] == {"epochs": 100, "milestones": [60]}
    assert probe_of(plan, 20, 1)["recipe"] == {"epochs": 20, "schedule": "constant", "milestones": [], "gamma": 0.1}
    plan = planned({**SMALL, "recipe": {"epochs": 30, "schedule": "cosine"}}, None)
    assert probe_of(plan, 10, 1)["recipe"] == {"epochs": 10, "horizon": 30}


def test_difficulty_reads_what_the_project_called_its_metrics(tmp_path):
    how = {"seeds": 1, "fractions": (0.5,), "probe_epochs": 4, "models": 1}
    found = study_difficulty(
        tmp_path / "x",
        SMALL,
        scale="tiny",
        grid=DifficultyGrid(("el2n", "pd", "vog"), **how, checkpoint_interval=2, pd_layers=2, pd_alpha=0.5),
    )
    assert found.metrics == ("el2n:at=3", "prediction_depth:reference=label,last=2,support=0.5", "vog")
    assert found.settings["probe"]["record"]["checkpoints"] == [1, 3] and found.theory == ()
    assert (tmp_path / "x" / "study.html").exists() and "Which measure of difficulty" in (
        tmp_path / "x" / "study.html"
    ).read_text()


@pytest.mark.parametrize(
    ("run", "how", "words"),
    [
        (study_scaling, {"angles": (90.0,)}, "angles: 90 is outside 0..90 degrees"),
        (study_scaling, {"models": 0}, "models=0 must be 1 or more"),
        (study_scaling, {"probe_epochs": 0}, "probe_epochs=0"),
        (study_difficulty, {"checkpoint_interval": 9}, "checkpoint_interval=9 is outside 1..4"),
        (study_difficulty, {"pd_layers": 3, "metrics": ("vog",)}, "read by the metric pd only"),
        (study_difficulty, {"pd_alpha": 1.5}, "support"),
        (study_difficulty, {"pd_layers": 99, "metrics": ("pd",)}, "last=99 is more than the 3 layers"),
        (study_scaling, {"metrics": ("prediction_depth:layers=nowhere",)}, "No layer of the model is named 'nowhere'"),
        (study_difficulty, {"pd_alpha": 1.0, "metrics": ("vog",)}, "read by the metric pd only"),
        (study_difficulty, {"checkpoint_interval": 1, "metrics": ("el2n",)}, "read by the metric vog only"),
        (study_scaling, {"angles": (0.0, 0.0)}, "angles: 0, 0; give each once"),
        (study_scaling, {"sizes": ("a",)}, "sizes=\\('a',\\) are no numbers"),
    ],
)
def test_options_out_of_range_are_refused(run, how, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "x", SMALL, scale="tiny", grid=(ScalingGrid if run is study_scaling else DifficultyGrid)(**how))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["probes", "trials", "logs"])
def test_a_file_where_a_folder_belongs_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists, match=f"{name} is a file"):
        study_difficulty(tmp_path, SMALL, scale="tiny")
    assert (tmp_path / name).read_text() == "mine" and [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("run", [study_scaling, study_difficulty])
def test_an_unknown_scale_names_the_nearest(run, tmp_path):
    with pytest.raises(UnknownName, match="tiny"):
        run(tmp_path, SMALL, scale="tiney")


def test_a_preset_of_small_images_sees_large_ones_pooled():
    preset = {"net": "resnet18", "recipe": {"epochs": 3}}
    assert planned(preset, {"data": "imagenet:path=somewhere"}).net == "resnet18:stem=imagenet"
    assert planned(preset, {"data": "imagenet:path=somewhere", "net": "resnet18"}).net == "resnet18"
    assert planned(preset, {"data": "cifar10:path=somewhere"}).net == "resnet18"
