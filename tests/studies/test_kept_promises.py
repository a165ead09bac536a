"""What every study leaves in its folder: its plan, its table beside published numbers, and where it deviates from its sources."""

import csv
import dataclasses
import html
import itertools
import pathlib
import re
import shutil
import tomllib

import pytest

from assay.cli.study import READ, combined
from assay.core.cleansing import SUMMARY
from assay.core.errors import OutputExists
from assay.experiments.execution import Execution
from assay.experiments.plan import settings_in
from assay.experiments.progress import Progress
from assay.reports.study import render_study
from assay.runs.artefacts import load_json, load_study, save_json
from assay.runs.paths import RunPaths, StudyPaths
from assay.studies import difficulty, fidelity
from cli.shell import here, sentence
from studies.test_costs import CASES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every study, small, in a folder; made when it is first asked for."""
    known = {}

    def get(name):
        if name not in known:
            study, settings, grid = CASES[name]
            folder = tmp_path_factory.mktemp("studies") / name
            given = {} if settings is None else {"settings": settings}
            known[name] = study(folder, **given, scale="tiny", grid=grid), folder
        return known[name]

    return get


def test_there_is_a_case_of_every_study():
    assert set(CASES) == set(READ)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_plan_that_a_study_wrote_is_the_same_study(name, made, capsys):
    found, folder = made(name)
    path = StudyPaths(folder).plan
    text = path.read_text()
    assert text.startswith(f"# A study of assay: {name}\n#") and "trainings at most" in text.splitlines()[1]
    assert tomllib.loads(text)["study"]["scale"] == "tiny"
    # A folder of other settings would be refused.
    code, out, err = here(capsys, "study", name, folder, "--plan", path, "--executor", "inline")
    assert (code, err) == (0, "") and out
    again = load_study(folder)
    assert again.fingerprint == found.fingerprint and again.settings == found.settings
    assert path.read_text() == text


class Counting(Progress):
    """How much of each task was there at the start."""

    def __init__(self):
        self.there = {}

    def advance(self, task, done, total, words=""):
        self.there.setdefault(task, (done, total))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_study_takes_more_seeds_and_is_then_what_it_had_been_with_them_at_once(name, made, tmp_path):
    study, settings, grid = CASES[name]
    given = {} if settings is None else {"settings": settings}
    repeated = "trials" if name == "cleansing" else "seeds"
    more = dataclasses.replace(grid, **{repeated: getattr(grid, repeated) + 1})
    few, folder = made(name)
    grown, copy, fresh = Counting(), tmp_path / "copy", tmp_path / "fresh"
    shutil.copytree(folder, copy)
    found = study(copy, **given, scale="tiny", grid=more, execution=Execution(progress=grown))
    at_once = study(fresh, **given, scale="tiny", grid=more)
    assert found.settings == at_once.settings and found.fingerprint == at_once.fingerprint != few.fingerprint
    assert StudyPaths(copy).summary.read_bytes() == StudyPaths(fresh).summary.read_bytes()
    there, wanted = map(sum, zip(*grown.there.values(), strict=True))
    assert 0 < there < wanted, "what there was is kept"
    with pytest.raises(OutputExists, match=f"{repeated} was {getattr(more, repeated)} and is {getattr(grid, repeated)}"):
        study(copy, **given, scale="tiny", grid=grid)


@pytest.mark.parametrize("name", CASES)
def test_a_study_writes_nothing_into_the_folder_of_a_run(name, tmp_path):
    study, settings, grid = CASES[name]
    RunPaths(tmp_path).header.write_text("{}")
    with pytest.raises(OutputExists, match="holds a run; name another folder"):
        study(tmp_path, **({} if settings is None else {"settings": settings}), scale="tiny", grid=grid)
    assert [path.name for path in tmp_path.iterdir()] == [RunPaths(tmp_path).header.name]


def test_the_scale_of_a_plan_holds_unless_a_flag_names_one(capsys, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('data = "digits"\n[study]\nscale = "huge"\n')
    code, _, err = here(capsys, "study", "coresets", tmp_path / "x", "--plan", plan)
    assert code == 2 and "No scale is named 'huge'" in sentence(err)
    code, _, err = here(capsys, "study", "coresets", tmp_path / "x", "--plan", plan, "--scale", "tinny")
    assert code == 2 and "No scale is named 'tinny'" in sentence(err)


def test_a_plan_of_fidelity_has_no_training(capsys, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('data = "digits"\n[study]\nscale = "tiny"\n')
    code, _, err = here(capsys, "study", "fidelity", tmp_path / "x", "--plan", plan)
    assert code == 2 and "The plan's data is not read by the study fidelity; leave it out." in sentence(err)


def table(folder):
    """Head and rows of the table of a study."""
    with StudyPaths(folder).summary.open(newline="") as file:
        head, *rows = csv.reader(file)
    return head, rows


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_table_has_every_number_and_the_published_ones_beside(name, made):
    found, folder = made(name)
    head, rows = table(folder)
    if name == "cleansing":
        assert head == list(SUMMARY) and len([row for row in rows if row[5]]) == len(found.trained)
        return
    assert head == ["section", "row", "column", "seed", "value"]
    assert all(len(row) == 5 for row in rows)
    known = {row[3] for row in rows if not row[3].isdigit()}
    assert "not obtainable" in known and known <= {"all", "exact", "read off a figure", "not obtainable"}


def test_the_numbers_of_a_study_of_pruning(made):
    found, folder = made("scaling")
    _, rows = table(folder)
    cells = {tuple(row[:4]): row[4] for row in rows}
    one = next(one for one in found.trained if (one.arm, one.size, one.fraction) == ("hard", 0.5, 0.5))
    where = f"hard by {one.metric}", "0.5 of 0.5", str(one.seed)
    assert float(cells["Test accuracy", *where]) == one.accuracy and float(cells["Test loss", *where]) == one.loss
    assert cells["Examples", *where] == str(one.examples)
    assert float(cells["Power law", "all", "exponent", "all"]) == found.laws[0].exponent
    assert len([row for row in rows if row[0] == "Test accuracy" and row[3].isdigit()]) == len(found.trained)


def test_the_numbers_of_fidelity_with_the_published_deviations(made):
    found, folder = made("fidelity")
    _, rows = table(folder)
    cells = {tuple(row[:4]): row[4] for row in rows}
    (one,) = found.measured
    assert (
        float(cells["tau", "aum", "digits-dnn", "0"]) == one.tau
        and float(cells["jaccard", "aum", "digits-dnn", "0"]) == one.jaccard
    )
    slides = tuple(one for one in fidelity.PUBLISHED if one.setting == "adult-dnn")
    beside = list(dataclasses.replace(found, published=slides).published_numbers)
    assert {(one.column, one.value) for one in beside if one.row == "influence function" and one.section == "tau"} == {
        ("adult-dnn", 0.54), ("adult-dnn, standard deviation", 0.12), ("adult-dnn", 0.539),
    }  # fmt: skip
    assert ("spearman", "digits-dnn", None, "not obtainable") in {
        (one.section, one.column, one.value, one.known) for one in beside
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_deviations_are_in_the_results_on_the_page_and_in_the_terminal(name, made, capsys):
    found, folder = made(name)
    page = html.unescape(StudyPaths(folder).page.read_text())
    assert found.deviations and load_study(folder).deviations == found.deviations
    assert all(words in page for words in found.deviations) and "Deviations" in page
    _, out, _ = here(capsys, "study", name, folder, "--plan", StudyPaths(folder).plan, "--executor", "inline")
    assert all(f"Deviation: {words}" in out for words in found.deviations)
    assert "not obtainable" in page


def test_published_numbers_of_difficulty_stand_beside_what_is_measured(made):
    study, _ = made("difficulty")
    # As if the measure of the case were EL2N as its source has it, on CIFAR-10.
    published = difficulty.PUBLISHED["cifar10"]
    by = {(one.section, one.row, one.column): (one.value, one.known) for one in published}
    assert by["Power law", "all", "exponent"] == (0.428, "exact")
    assert by["Agreement", "el2n", "prediction_depth"] == (0.39, "exact")
    assert by["Test accuracy", "hard by el2n", "0.7 of 1"] == (0.844, "read off a figure")
    assert by["Test accuracy", "all", "1 of 1"] == (0.888, "read off a figure")
    (whole,) = (one for one in published if one.row == "all" and one.column == "1 of 1")
    (mine,) = study.errors("all", "", 1.0, 1.0)
    assert study.beside(whole) == pytest.approx(1 - mine)
    one = dataclasses.replace(whole, row="hard by el2n", column="0.5 of 1")
    assert study.beside(one) == pytest.approx(1 - study.errors("hard", "el2n:at=1", 1.0, 0.5)[0])
    assert study.beside(dataclasses.replace(one, row="hard by vog")) is None
    page = render_study(dataclasses.replace(study, published=published))
    assert "84.40 %" in page and "0.428" in page and f"{100 * (1 - mine):.2f} %" in page
    assert study.published == difficulty.UNOBTAINABLE


@pytest.mark.parametrize("name", ["scaling", "cleansing", "fidelity"])
def test_a_study_that_an_earlier_version_saved_is_read(name, made, tmp_path):
    found, folder = made(name)
    body = load_json("study", StudyPaths(folder).results)
    del body["deviations"]
    if name == "scaling":
        del body["published"]
    save_json("study", body, tmp_path / "study.json")
    old = load_study(tmp_path)
    assert old.deviations == () and old.fingerprint == found.fingerprint and old.sentences == found.sentences


@pytest.mark.parametrize("name", ["difficulty", "cleansing", "fidelity", "complexity_gap", "liveval", "coresets", "pruning"])
def test_the_options_of_the_originals_are_told_by_flags_that_the_study_reads(name):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    section = text.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
    lines = section.partition("| there")[2].partition("|---|---|\n")[2].splitlines()
    rows = [line.strip("|").split("|") for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
    assert len(rows) > 3 and all(len(row) == 2 for row in rows)
    flags = {flag.replace("-", "_") for _, told in rows for flag in re.findall(r"--([a-z][a-z0-9_-]*)", told)}
    # A table may tell a flag of the original that is the same for all nets here.
    unread = {flag for flag in flags if flag not in READ[name] and flag != "selection_lr"}
    assert not unread, f"the study {name} reads none of {unread}"


class Stop(Exception):
    """In the place of the first training."""


class Stopping:
    """An executor that trains nothing."""

    def submit(self, *_, **__):
        raise Stop


LARGEST = {
    "scaling": "full", "difficulty": "full", "cleansing": "paper", "complexity_gap": "paper", "coresets": "paper", "pruning": "paper", "liveval": "paper",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_a_plan_of_the_papers_scale_is_written_as_it_was_read(name, tmp_path):
    study, _, grid = CASES[name]
    kind, plans = type(grid), []
    # Sizes of eight pixels, and few altered data.
    settings = {"data": "digits", "recipe": {"crop": 0, "flip": False}}
    how = {"modes": ("flip",), "num_flip": (40,), "seeds": 1} if name == "liveval" else {}
    scale = LARGEST[name]
    for place in ("one", "two"):
        with pytest.raises(Stop):
            study(tmp_path / place, settings, scale=scale, grid=kind(**how), execution=Execution(Stopping()))
        path = StudyPaths(tmp_path / place).plan
        plans.append(path.read_text())
        settings = settings_in(path)
        how = combined(name, settings.pop("study"))
        scale = how.pop("scale")
    assert tomllib.loads(plans[0]) == tomllib.loads(plans[1]) and f'scale = "{LARGEST[name]}"' in plans[0]
