"""What a study would cost, against what it trains when it is carried out."""

import pytest

from assay import Execution, estimate_study
from assay.core.errors import UsageError
from assay.experiments import estimate
from assay.experiments.progress import Progress
from assay.runs.paths import StudyPaths
from assay.studies.cleansing import CleansingGrid, study_cleansing
from assay.studies.complexity_gap import ComplexityGapGrid, study_complexity_gap
from assay.studies.coresets import CoresetsGrid, specs, study_coresets
from assay.studies.difficulty import DifficultyGrid, study_difficulty
from assay.studies.fidelity import FidelityGrid, study_fidelity
from assay.studies.liveval import LiveValGrid, study_liveval
from assay.studies.pruning import PruningGrid, study_pruning
from assay.studies.scaling import ScalingGrid, study_scaling

PLAN = {"data": "digits:test=1600", "net": "logistic", "seed": 3, "recipe": {"epochs": 2, "batch": 32}}
HELD = {**PLAN, "validation": 0.1}
CASES = {
    "scaling": (study_scaling, PLAN, ScalingGrid(seeds=1, sizes=(0.5, 1.0), fractions=(0.5,), metrics=("aum",), models=1, angles=())),
    "difficulty": (study_difficulty, PLAN, DifficultyGrid(seeds=1, sizes=(1.0,), fractions=(0.5,), metrics=("el2n:at=1",), models=1)),
    "cleansing": (study_cleansing, HELD, CleansingGrid(methods=("aum",), remove=(0, 20, 60), trials=2)),
    "fidelity": (study_fidelity, None, FidelityGrid(nets=("dnn",), methods=("aum",), seeds=1, examples=24)),
    "complexity_gap": (
        study_complexity_gap,
        PLAN,
        ComplexityGapGrid(metrics=("aum",), fractions=(0.5,), seeds=2, probe_epochs=2, models=1, rep_num=1),
    ),
    "coresets": (study_coresets, HELD, CoresetsGrid("aum", ("top_k", "bottom_k"), (0.5, 0.25), seeds=2, batches={0.25: 16})),
    "liveval": (
        study_liveval,
        HELD,
        LiveValGrid(
            ("flip", "early_detection"), methods=("oti", "loo:form=renormalised"), num_flip=(5,), num_scores=12, n_epochs=(1,), seeds=1
        ),
    ),
    "pruning": (study_pruning, {**PLAN, "recipe": {"epochs": 6, "batch": 32}}, PruningGrid(fractions=(0.5,), seeds=1)),
}  # fmt: skip


class Counting(Progress):
    """How many there are of each kind."""

    def __init__(self):
        self.totals = {}

    def advance(self, task, done, total, words=""):
        self.totals[task] = total


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED", 2)


def estimated(name):
    study, settings, grid = CASES[name]
    return estimate_study(study, settings, scale="tiny", grid=grid)


def test_each_kind_of_trainings_has_a_number_and_steps():
    recorded, everything, half, quarter = estimated("coresets")
    # 197 rows, of which a tenth is held out: 6 batches of 32 in an epoch, 3 of half of them, and 3 of 16 of a quarter.
    assert [one.steps for one in (recorded, everything, half, quarter)] == [12, 12, 6, 6]
    # top_k, bottom_k, random, and RS2, in 2 repetitions.
    assert [one.trainings for one in (recorded, everything, half, quarter)] == [2, 2, 8, 8]
    assert all(one.seconds_per_step > 0 and one.bytes > 0 and one.threads == 1 for one in (recorded, everything, half, quarter))
    with pytest.raises(UsageError, match=r"study=.* is no study; give its function, such as assay.study_coresets"):
        estimate_study(dict)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_study_trains_as_many_as_was_said(name, tmp_path):
    study, settings, grid = CASES[name]
    costs = estimated(name)
    assert not list(tmp_path.iterdir())
    counts = Counting()
    given = {} if settings is None else {"settings": settings}
    study(tmp_path / "study", **given, scale="tiny", grid=grid, execution=Execution(progress=counts))
    done, said = counts.totals, {one.what: one.trainings for one in costs}
    recorded = sum(number for what, number in said.items() if what.startswith("recorded"))
    final = sum(number for what, number in said.items() if what.startswith("final"))
    again = sum(number for what, number in said.items() if what.startswith("repeated"))
    if name == "fidelity":
        assert said == {"of digits-dnn": 25} and done["seeds"] == 1
        return
    assert recorded == len(list(StudyPaths(tmp_path / "study").probes.iterdir()))
    if name == "cleansing":
        # One without removal, two counts of the method and two at random, in each trial.
        assert again == 2 * 5 == sum(number for task, number in done.items() if task.startswith("trial"))
        return
    # Of equal choices one net is trained.
    assert 0.8 * final <= done["train"] <= final
    if name == "liveval":
        assert again == sum(number for task, number in done.items() if "without each example" in task)


def test_of_all_selectors_those_that_read_a_suspicion_are_for_scores_that_are_one():
    def final(score):
        return estimate_study(study_coresets, HELD, scale="tiny", grid=CoresetsGrid(score, fractions=(0.5,), seeds=1))[
            -1
        ].trainings

    found, _ = specs()
    assert final("aum") - final("entropy") == sum("by=suspicion" in spec for spec in found) > 2
