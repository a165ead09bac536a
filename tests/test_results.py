"""The tables of the studies in docs/results.md against the numbers of every seed that they were made of."""

import collections
import csv
import functools
import json
import pathlib
import re
import statistics

import pytest

from assay.maths.statistics import student_interval

DOCS = pathlib.Path(__file__).parent.parent / "docs"
STUDIES = ("pruning", "complexity_gap", "coresets", "liveval", "difficulty", "scaling")
CELL = re.compile(r"(-?\d+\.(\d+))(?: ± (\d+\.\d+))?")


def measured(name):
    """The numbers of every seed, by row and column."""
    cells = collections.defaultdict(list)
    with (DOCS / "results" / f"study-{name}-small.csv").open(newline="") as file:
        for one in csv.DictReader(file):
            if one["seed"].isdigit():
                cells[one["section"], one["row"], one["column"]].append(float(one["value"]))
    return cells


@functools.cache
def shown(values, digits):
    """Mean and half of Student's interval, as a table shows them: percent with one digit, fractions with three."""
    values = [100 * one if digits == 1 else one for one in values]
    within = student_interval(values)
    half = "" if within is None else f" ± {(within[1] - within[0]) / 2:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f}{half}"


@pytest.mark.parametrize("name", STUDIES)
def test_tables_of_studies_have_means_and_intervals_over_seeds(name):
    text = (DOCS / "results.md").read_text()
    section = text[text.index("## The studies at their small scale") :].partition(f"\n### `{name}`\n")[2]
    section = re.split(r"\n##+ ", section)[0]
    cells, head, found = measured(name), None, 0
    for line in section.splitlines():
        parts = [one.strip() for one in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = parts
        elif not line.startswith("|---"):
            for column, cell in zip(head[1:], parts[1:], strict=True):
                if not cell:
                    continue
                match = CELL.fullmatch(cell)
                assert match, f"{parts[0]}, {column}: {cell} is no mean with an interval"
                of = [
                    tuple(values)
                    for (_, row, col), values in cells.items()
                    if row == parts[0] and (col == column or column in col)
                ]
                assert cell in {shown(values, len(match[2])) for values in of}, (parts[0], column, cell)
                found += 1
    assert found > 40


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Pruning MNIST by every policy and selector", "pruning-mnist"),
        ("Pruning CIFAR-10 under human labels", "pruning-human-lenet"),
    ],
)
def test_tables_of_pruning_have_every_row_and_say_what_is_below_random(title, name):
    rows = json.loads((DOCS / "results" / f"{name}.json").read_text())["figures"]["rows"]
    head, _, *lines = tables_of(title)[0]
    shown = {}
    for names, *cells in lines:
        for one in re.findall(r"`([^`]+)`", names) or [names]:
            shown |= {f"{one} at keep=0{keep}": cell for keep, cell in zip(head[1:], cells, strict=True) if cell}
    expected = {}
    for row, of in rows.items():
        if row != "all at keep=1":
            below = of["mean, %"] < rows[f"random at keep={row.rpartition('=')[2]}"]["mean, %"]
            apart = of.get("p corrected", 1) < 0.05
            expected[row] = f"{of['mean, %']:.1f}" + "↓" * below + r" \*" * apart
    assert shown == expected


def tables_of(title):
    """The tables of a section, each a list of rows of cells."""
    section = re.split(r"\n#+ ", (DOCS / "results.md").read_text().partition(f"# {title}\n")[2])[0]
    found = [[]]
    for line in section.splitlines():
        if line.startswith("|"):
            found[-1].append([one.strip() for one in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [one for one in found if one]
