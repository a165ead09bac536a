"""The tables of docs/results.md against the numbers that they were made of: of studies, trainers, several processes, texts and adapters."""

import collections
import csv
import functools
import json
import pathlib
import re
import statistics

import pytest

from assay.core.fidelity import spread
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


def test_the_table_of_cleaning_has_the_measured_effects():
    told = {}
    for epochs in (10, 30):
        for name, of in figures(f"cleaning-worse_label-lenet-{epochs}")["decisions"].items():
            verb, part, *_ = name.split()
            row = f"{verb} {'among the first ' if verb == 'relabel' else ''}{100 * float(part):.0f} %"
            cells = [f"{of['accuracy, %']['kept']:.2f}"]
            for one in of["against"].values():
                p = one["p corrected"]
                words = f"{p:.3f}".removeprefix("0") if p >= 0.001 else f"{p:.0e}".replace("e-0", "e-")
                effect = f"{one['effect, points']:+.2f} ({one['interval'][0]:+.2f} to {one['interval'][1]:+.2f}), p {words}"
                cells.append(effect + " *" * one["significant"])
            told[str(epochs), row] = cells
    rows = tables_of("Cleaning that pays")[0][2:]
    assert {(row[0], row[1]): row[3:] for row in rows if row[1] != "everything"} == told


def test_the_table_of_dattris_softmax_regression_is_of_its_files():
    own, several, trak = (figures(f"dattri-lr{part}") for part in ("", "-runs", "-trak"))
    names = {
        "influence:damping=0.1": "influence, damping 0.1",
        "influence:damping=auto": "influence, damping found",
        "influence:solver=ekfac": "influence, EK-FAC",
        "influence`, the default damping of .01": "influence, EK-FAC + CG",
        "trak`, mean of 50 trainings": "trak, 50 models",
        "trak`, mean of 10 trainings": "trak, 10 models",
        "trak`, last checkpoint": "trak, last checkpoint",
    }
    rows = rows_below("dattri's protocol on MNIST-10, softmax regression", "LDS, the mean of five")
    assert len(rows) == 10
    for row, cells in rows.items():
        name = names.get(row, row)
        of = several["LDS"].get(name) or trak["LDS"].get(name) or own["LDS"][name]
        ends = ([of["value"], *of["interval"]], [of.get("by the mean of 5 trainings"), *of.get("its interval", ())])
        for cell, values in zip(list(cells.values()), ends, strict=False):
            assert re.findall(r"\.\d{3}", cell) == [f"{one:.3f}".removeprefix("0") for one in values if one is not None], name
        if left := cells["leave-one-out, recorded order"]:
            found = {**own, **trak["LOO, recorded order"], **several["LOO, recorded order"]}[name]["value"]
            assert left == f"{found:.3f}".removeprefix("0")


SETTINGS = ("adult-logreg", "adult-dnn", "mnist-logreg", "mnist-dnn")


def seeds_of(name):
    """Every seed's number by measure and method."""
    cells = collections.defaultdict(list)
    with (DOCS / "results" / f"study-fidelity-{name}.csv").open(newline="") as file:
        for one in csv.DictReader(file):
            if one["seed"].isdigit():
                cells[one["section"], one["row"]].append(float(one["value"]))
    return cells


def test_the_table_of_every_form_of_influence_is_of_every_seed():
    head, _, *lines = tables_of("Every form, with the regulariser in the optimizer")[0]
    assert len(lines) == 12 and all("20 seeds" in one for one in head[1:])
    for place, name in enumerate(SETTINGS):
        # The text says the damping, and who solves the whole system.
        found = {
            (measure, re.sub(r"damping=[\d.]+,?|solver=cholesky,?", "", method).rstrip(",:")): values
            for (measure, method), values in seeds_of(f"optimizer-{name}").items()
        }
        for method, *cells in lines:
            taus, overlaps = (found.get((measure, method.strip("`"))) for measure in ("tau", "jaccard"))
            if cells[place] == "too many parameters":
                assert taus is None
                continue
            seeds = "" if len(taus) == 20 else f" ({len(taus)} seeds)"
            assert cells[place] == f"{statistics.fmean(taus):.3f} / {statistics.fmean(overlaps):.3f}{seeds}", (name, method)


def test_the_column_of_fidelity_that_the_study_measured():
    head, _, *lines = tables_of("Fidelity: against leaving one out")[0]
    place, found = head.index("MNIST 1 or 7, logistic, 20"), seeds_of("mnist-logreg")
    shown = {line[0]: line[place] for line in lines}
    for (measure, method), values in found.items():
        assert len(values) == 20
        if measure == "tau" and "damping" not in method:
            assert shown.pop(f"`{method}`") == f"{statistics.fmean(values):.3f}", method
    for row, damping in (("`influence:curvature=hessian,damping=1`", 1.0), ("the same, `damping=0.1`", 0.1)):
        assert shown[row] == f"{statistics.fmean(found['tau', f'influence:curvature=hessian,damping={damping}']):.3f}"
    assert shown["exact, Spearman"] == f"{statistics.fmean(found['spearman', 'sgd_influence']):.3f}"
    assert (
        shown["exact, Jaccard of the ten largest and ten smallest"]
        == f"{statistics.fmean(found['jaccard', 'sgd_influence']):.3f}"
    )
    of = spread(found["tau", "sgd_influence"], -1.0)
    assert shown["exact, 95 % interval of the mean"] == f"{of.low:.3f} to {of.high:.3f}"


def figures(name):
    """The numbers of one benchmark."""
    return json.loads((DOCS / "results" / f"{name}.json").read_text())["figures"]


def rows_below(title, column):
    """The rows of the table under a title whose head has a column, as texts by column; without the code marks of a first column."""
    ((head, _, *rows),) = [table for table in tables_of(title) if any(column in cell for cell in table[0])]
    return {cells[0].strip("`"): dict(zip(head[1:], cells[1:], strict=True)) for cells in rows}


def percent(value):
    return f"{100 * value:+.1f} %".replace("+0.0", "0.0").replace("-0.0", "0.0")


def test_the_table_of_trainers_has_the_measured_overheads():
    table, measured = (
        rows_below("In trainers, and in several processes", "fastest recorded"),
        figures("trainers-processor-time"),
    )
    assert {name.removesuffix("'s Trainer") for name in table} == measured.keys() - {"examples", "pairs"}
    for name, row in table.items():
        of = measured[name.removesuffix("'s Trainer")]["processor time"]
        values = (of["overhead"], *of["range"], of["of the fastest"])
        assert list(row.values()) == [*map(percent, values), f"{of['unrecorded']:.1f}"], name
    assert f"median of {measured['pairs']} ratios" in next(iter(table.values()))
    text = " ".join((DOCS / "results.md").read_text().split())
    longer, again = figures("trainers-long"), figures("trainers-long-skorch")["skorch"]["overhead"]
    medians = [of["overhead"] for of in longer.values() if isinstance(of, dict)]
    assert (
        f"lay between {percent(min(medians))} and {percent(max(medians))} (skorch; {percent(again)} when it was measured again)"
        in text
    )


def test_the_table_of_several_processes_has_the_measured_seconds_and_distances():
    table, measured = (
        rows_below("In trainers, and in several processes", "largest distance"),
        figures("many_processes")["processes"],
    )
    assert table.keys() == measured.keys()
    for name, row in table.items():
        of = measured[name]
        seconds, recorded, ratio, distance = row.values()
        assert [seconds, recorded, ratio] == [f"{of[which]:.2f}" for which in ("seconds", "seconds recorded", "ratio")], name
        far = of["largest distance of a margin from one process"]
        assert distance.split(" ")[0] == (f"{far:.1e}".replace("e-0", "e-") if far else "0"), name


def test_the_table_of_texts_has_the_measured_means_and_ranges():
    table = rows_below("Made texts with a tenth of the labels flipped", "average precision")
    # What was measured later takes nothing's place but its own.
    measured = (
        figures("texts-ekfac") | figures("texts-tdds") | figures("texts-more") | figures("texts-neighbours") | figures("texts")
    )
    for name, row in table.items():
        of = measured[name]
        auc, between, precision, seconds = row.values()
        assert auc == f"{of['AUC']['mean']:.3f}" and precision == f"{of['AP']['mean']:.3f}", name
        assert between == f"{min(of['AUC']['by seed']):.3f} to {max(of['AUC']['by seed']):.3f}", name
        assert seconds.split(" ")[0] == f"{of['seconds']['mean']:.3g}", name
        assert statistics.fmean(of["AUC"]["by seed"]) == pytest.approx(of["AUC"]["mean"])
    assert len(table) > 25
    aucs = [float(row["AUC"]) for row in table.values()]
    assert aucs == sorted(aucs, reverse=True)


def test_the_table_of_adapters_has_the_measured_taus():
    table, measured = rows_below("A language model with adapters", "`sgd_influence`"), figures("lora")
    assert len(table) == 2
    for name, row in table.items():
        of = measured["sgd" if name.startswith("SGD") else "adamw"]
        methods = ("loo", "sgd_influence", "tracin")
        taus = [f"{of[method]['tau with leave-one-out']:.3f}" for method in methods[1:]]
        seconds = ", ".join(f"{of[method]['seconds']:.{0 if of[method]['seconds'] >= 10 else 1}f}" for method in methods)
        assert list(row.values()) == [*taus, seconds], name


def test_the_table_of_models_of_a_recording_is_of_its_files():
    table = tables_of("Models of a recording, against other seeds")[-1]
    assert table[0] == [
        "",
        "digits, LDS by query",
        "rho of the mean test loss",
        "MNIST (2,000), LDS by query",
        "rho of the mean test loss",
    ]
    rows = {row[0]: row[1:] for row in table[2:]}
    found = {}
    for models in (1, 4, 16):
        cells, retraining = [], []
        for data in ("digits", "mnist"):
            measured = json.loads((DOCS / "results" / f"lds-models-{data}-{models}.json").read_text())
            assert (
                measured["lineage"]["folder"] == f"{data}-{models}"
                and measured["subsets"] == 100
                and len(measured["queries"]) == 50
            )
            for part in ("single", "whole"):
                by_method = {one["method"]: one for one in measured[part] if one["truth"] == "other seeds"}
                assert set(by_method) == {"sgd_influence:target=test", "one other retraining"}
                for method, said in (("sgd_influence:target=test", cells), ("one other retraining", retraining)):
                    value, low, high = (f"{by_method[method][key]:.2f}".replace("0.", ".", 1) for key in ("value", "low", "high"))
                    said.append(f"{value} ({low} to {high})")
        found["1 model" if models == 1 else f"{models} models"] = cells
        # All numbers of models are held against the same trainings.
        assert found.setdefault("one real retraining", retraining) == retraining
    assert rows == found


def test_the_table_of_all_methods_on_flips_is_of_its_file():
    measured = figures("detection-mnist")
    (table,) = (one for one in tables_of("Finding wrong labels") if one[0][-1] == "extra trainings" and one[0][1] == "ranks")
    found = {name.strip("`"): cells for name, *cells in table[2:]}
    assert found.keys() == measured["methods"].keys() and measured["seeds"] == [0, 1, 2, 3, 4]

    def short(value):
        return f"{value:.4f}".removeprefix("0")

    for name, of in measured["methods"].items():
        ranks, *cells, seconds, trainings = found[name]
        assert ranks == ("suspicion" if of["claims suspicion"] else "difficulty"), name
        for cell, key in zip(cells, ("AUC", "AP", "precision at the true count"), strict=True):
            low, high = of[key]["interval"]
            assert cell == f"{short(of[key]['mean'])} ({short(low)} to {short(high)})", (name, key)
        assert float(seconds) == pytest.approx(of["seconds"], abs=0.06) and int(trainings) == of["extra trainings"], name
    aucs = [of["AUC"]["mean"] for of in measured["methods"].values()]
    assert sorted(aucs, reverse=True) == [measured["methods"][name]["AUC"]["mean"] for name in found]
