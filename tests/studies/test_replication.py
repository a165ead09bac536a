import dataclasses
import tomllib

import numpy as np
import pytest
from scipy.stats import ttest_rel

from assay.cli.study import show_replication
from assay.core.errors import OutputExists, UsageError
from assay.core.published import PublishedNumber
from assay.core.replication import LeftOut, Measured, ReplicationStudy, Section
from assay.experiments.estimate import Work
from assay.experiments.plan import Plan
from assay.maths.statistics import holm
from assay.reports.replication import render_replication
from assay.runs.artefacts import load_study, save_study
from assay.runs.paths import StudyPaths
from assay.studies.folders import told
from assay.studies.replication import compared, owned, table, toml, write_plan

ACCURACY = Section("Pruning", "Nets on a part.", "test accuracy", "kept", "random", percent=True)
AREA = Section("Detection", "Wrong labels.", "area", "score")
RANDOM = (0.70, 0.72, 0.71, 0.69)
GAINS = {"good": (0.10, 0.11, 0.10, 0.09), "bad": (-0.10, -0.12, -0.11, -0.10), "as random": (0.03, -0.03, 0.02, -0.02)}


def made(seeds=4):
    """A study in which one row is above random, one below and one like it."""
    rows = {"random": RANDOM, **{row: tuple(np.add(RANDOM, gain)) for row, gain in GAINS.items()}}
    measured = [
        Measured("Pruning", row, "0.3", seed, float(values[seed])) for row, values in rows.items() for seed in range(seeds)
    ]
    measured += [
        Measured("Detection", row, "area", seed, value) for row, value in (("aum", 0.9), ("el2n", 0.8)) for seed in range(seeds)
    ]
    published = (
        PublishedNumber("Pruning", "theirs", "0.3", 0.75, "read off a figure", "a paper"),
        PublishedNumber("Detection", "theirs", "area", None, "not obtainable", "a paper"),
    )
    return ReplicationStudy(
        "coresets", {"a": 1}, {"data": "digits"}, (ACCURACY, AREA), tuple(measured), published=published, deviations=("Ours is shorter.",)
    )  # fmt: skip


def test_what_is_below_random_is_called_so():
    found = compared(made())
    told_as = {row: found.told("Pruning", row, "0.3") for row in GAINS}
    assert told_as == {"good": "above", "bad": "below", "as random": "not told apart"} and found.claims == 3
    ps = [ttest_rel(np.add(RANDOM, gain), RANDOM).pvalue for gain in GAINS.values()]
    assert [one.comparison.adjusted for one in found.contests] == pytest.approx(holm(ps))
    assert found.sentences == (
        "Pruning, 0.3: above random: good; below random: bad; 1 of 3 are not told apart from it.",
        "Detection, area: highest for aum (0.900, mean over seeds).",
    )


def test_two_seeds_tell_nothing():
    found = compared(made(2))
    assert {found.told("Pruning", row, "0.3") for row in GAINS} == {"not told apart"}
    assert "2 seeds cannot tell a difference from chance" in found.notes[0]


def test_the_page_marks_what_is_told_apart_and_says_how_published_numbers_are_known():
    page = render_replication(compared(made()))
    assert "▲ 80.50 (0.96)" not in page and "▲ 80.50" in page and "▼ 59.75" in page and "70.50" in page
    assert "published: theirs (a paper; read off a figure)" in page and "not obtainable" in page and "Ours is shorter." in page
    assert page == render_replication(compared(made()))


def test_a_published_row_stands_under_the_row_that_it_is_about():
    more = PublishedNumber("Pruning", "good", "0.3", 0.8125, "exact", "another paper")
    found = compared(dataclasses.replace(made(), published=(*made().published, more)))
    page = render_replication(found)
    places = [
        page.index(f">{words}<")
        for words in (
            "good",
            "published: good (another paper; exact)",
            "81.25",
            "bad",
            "published: theirs (a paper; read off a figure)",
        )
    ]
    assert places == sorted(places)


def test_the_terminal_shows_what_was_measured_beside_what_was_published(capsys):
    more = PublishedNumber("Pruning", "good", "0.3", 0.8125, "exact", "another paper")
    show_replication(compared(dataclasses.replace(made(), published=(*made().published, more))))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Pruning", "good", "0.3", "exact", "0.8125", "0.805"] in lines
    assert ["Detection", "theirs", "area", "not", "obtainable", "–", "–"] in lines


def test_the_table_has_every_number_and_how_the_others_are_known():
    rows = table(made()).splitlines()
    assert rows[0] == "section,row,column,seed,value" and "Pruning,bad,0.3,1,0.6" in rows
    assert (
        "Pruning,theirs (a paper),0.3,read off a figure,0.75" in rows
        and "Detection,theirs (a paper),area,not obtainable," in rows
    )


def test_saved_and_loaded_is_the_same(tmp_path):
    study = compared(made())
    save_study(study, tmp_path / "study.json")
    old = load_study(tmp_path)
    assert isinstance(old, ReplicationStudy) and dataclasses.asdict(old) == dataclasses.asdict(study)
    assert old.fingerprint == study.fingerprint


def test_a_study_with_a_hole_is_refused_unless_that_is_told():
    study = made()
    rest = tuple(one for one in study.measured if (one.row, one.seed) != ("bad", 2))
    with pytest.raises(UsageError, match=r"bad has no number in Pruning, 0\.3, seed 2"):
        dataclasses.replace(study, measured=rest)
    told_so = dataclasses.replace(study, measured=rest, left_out=(LeftOut("Pruning", "bad", "0.3", "why"),))
    assert compared(told_so).contests[1].comparison.n == 3
    with pytest.raises(UsageError, match="none of the sections"):
        dataclasses.replace(study, measured=(Measured("Prunin", "a", "b", 0, 1.0),))


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = Plan.make(
        {"data": 'arrays:path=a "b".npz,test=0.1', "recipe": {"milestones": [1, 2], "schedule": "step", "lr": 1e-05}}
    )
    grid = {"seeds": 3, "fractions": (0.5, 0.1), "batches": {"0.1": 32}, "left": None}
    write_plan(
        None,
        StudyPaths(tmp_path / "x"),
        "coresets",
        [Work("recorded", 1, 9, plan), Work("final models", 11, 9, plan)],
        plan,
        grid,
        "tiny",
    )
    text = StudyPaths(tmp_path / "x").plan.read_text()
    assert text.splitlines()[1] == "# 12 trainings at most: 1 recorded, 11 final models."
    read = tomllib.loads(text)
    assert read.pop("study") == {"scale": "tiny", "seeds": 3, "fractions": [0.5, 0.1], "batches": {"0.1": 32}}
    assert Plan.make(read) == plan and tomllib.loads(toml({"a": "\x7f\n"})) == {"a": "\x7f\n"}


@pytest.mark.parametrize("name", ["plan.toml", "summary.csv"])
def test_files_of_something_else_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists, match="name another folder"):
        owned(tmp_path, told({}))


def test_findings_of_many_columns_are_one_sentence_for_each_section():
    values = {"a": (0.9, 0.9, 0.9, 0.9, 0.2), "b": (0.1, 0.2, 0.3, 0.4, 0.8), "c": (0.1, 0.1, 0.1, 0.1, 0.1)}
    measured = [
        Measured(name, row, str(column), seed, value + 0.001 * (seed * 3 % 5 - 2) * (row != "c"))
        for name in ("Found", "Kept")
        for row, found in values.items()
        for column, value in enumerate(found)
        for seed in range(5)
    ]
    sections = (Section("Found", "", "area"), Section("Kept", "", "area", control="c"))
    study = compared(ReplicationStudy("x", {}, {}, sections, tuple(measured)))
    assert study.sentences == (
        "Found: highest for a at 4 of 5 (up to 0.900, mean over seeds), b at 4 (0.800, mean over seeds).",
        "Kept: above c: a, b at 4 of 5; below c: none; 1 of 10 are not told apart from it.",
    )
