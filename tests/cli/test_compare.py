import dataclasses
import json
import shutil

import pytest
import torch

import assay
from assay.cli.compare import matrices
from assay.cli.probe import next_step
from assay.cli.score import next_step as after_a_score
from assay.core.ids import Ids
from assay.core.method_comparison import ComparedPair, MethodComparison
from assay.core.probe import Probe, ProbedMethod, ThresholdExamples
from assay.core.wrong_labels import WrongCount
from assay.maths.planted_counts import PlantedCount
from assay.runs.artefacts import load_probe, load_scores
from assay.runs.run import Run
from cli.shell import here, sentence


def test_methods_are_compared_and_the_document_holds_every_pair(own, capsys):
    code, out, _ = here(capsys, "compare", own, "aum", "loss", "entropy", "--budget", "40")
    assert (
        code == 0
        and "Spearman's rank correlation" in out
        and "Overlap of the first 40" in out
        and "overlap by 0.10 where chance" in out
    )
    assert "Finding the 40 labels that are known to be wrong" in out and "40 of 397 labels are known to be wrong" in out
    code, out, _ = here(capsys, "compare", own, "--json")
    tables = {one["title"]: one["rows"] for one in json.loads(out)["tables"]}
    methods = len(tables["Spearman's rank correlation"])
    assert code == 0 and len(tables["Every two methods"]) == methods * (methods - 1) / 2 > 15
    code, _, err = here(capsys, "compare", own, "aum")
    assert code == 2 and "name at least two methods" in sentence(err)


def test_more_than_six_methods_fit_a_terminal_and_say_what_is_left_out(own, capsys):
    code, out, _ = here(capsys, "compare", own)
    tables = out.split("The first")[0].splitlines()
    titles = assay.compare(own, "all").titles
    assert code == 0 and len(titles) > 6 and max(len(line.rstrip()) for line in tables) <= 100
    assert f"assay compare {own} {titles[0]} {titles[1]}), or give --json." in out and "Every two methods" not in out
    assert f"a {titles[0]}" in out and f"{chr(ord('a') + len(titles) - 1)} {titles[-1]}" in out
    pairs = len(titles) * (len(titles) - 1) // 2
    assert f"intervals of these {pairs} correlations are left out here" in out
    code, few, _ = here(capsys, "compare", own, "aum", "loss", "entropy")
    assert code == 0 and "left out" not in few and "Every two methods" in few


@pytest.mark.parametrize("methods", [2, 12, 30])
def test_a_matrix_holds_every_pair_once_on_either_side(methods):
    titles = tuple(f"score_of_some_length:option={at}" for at in range(methods))
    pairs = tuple(
        ComparedPair(one, other, (i + j) / 100, -1.0, 1.0, 0.0, -1.0, 1.0, 0.5)
        for i, one in enumerate(titles)
        for j, other in enumerate(titles)
        if j < i
    )
    made = MethodComparison(titles, 397, 40, pairs)
    tables = list(matrices("Rank", made, "spearman", whole=False))
    heads, numbers = [head for table in tables for head in table[1][1:]], {}
    for _, columns, rows, right in tables:
        assert len(columns) == len(right) + 1
        for row in rows:
            numbers |= {(row[0].split()[-1], head): str(cell) for head, cell in zip(columns[1:], row[1:], strict=True)}
    assert len(heads) == len(set(heads)) == methods and len(numbers) == methods**2
    for i, one in enumerate(titles):
        for j, head in enumerate(heads):
            assert numbers[one, head] == "" if i == j else float(numbers[one, head]) == pytest.approx((i + j) / 100)
    (whole,) = matrices("Rank", made, "spearman", whole=True)
    assert whole[1] == ("method", *titles)


def test_without_a_truth_the_next_step_is_the_probe(own, capsys):
    Run(own).paths.truth.unlink()
    code, out, _ = here(capsys, "compare", own, "aum", "loss")
    assert code == 0 and f"no truth is known. Next: assay probe {own}" in out


def test_a_probe_names_the_method_to_go_on_with(own, capsys):
    code, out, _ = here(capsys, "probe", own, "aum", "loss", "--flip", "0.06")
    found = load_probe(Run(own).paths.probe("confusion-0.06-0"))
    assert code == 0 and f"Next: assay choose {own} {found.best} --policy threshold:count=auto" in out
    assert f"{found.flipped} of 397 labels flipped by confusion" in out and found.sentence.split(" (AUC")[0] in out
    shutil.rmtree(Run(own).paths.probe_run("confusion-0.06-0"))
    code, again, _ = here(capsys, "probe", own, "aum", "loss", "--flip", "0.06")
    assert code == 0 and found.sentence in again and "train accuracy" not in again


def test_a_probe_with_an_extra_class_says_where_aums_threshold_lies(own, capsys):
    code, out, _ = here(capsys, "probe", own, "loss", "--kind", "extra_class")
    found = load_probe(Run(own).paths.probe("extra_class-0.0909091-0"))
    assert code == 0 and "36 of 397 labels given an extra class" in out and "wrong before" in out
    assert found.count_sentence in out and found.threshold_sentence in out
    assert "Labels below AUM's threshold by class, 95 % intervals" in out and len(found.threshold.by_class) == 10
    code, out, _ = here(capsys, "probe", own, "loss", "--kind", "extra_class", "--json")
    rows = next(one["rows"] for one in json.loads(out)["tables"] if one["title"].startswith("Labels below"))
    made = sorted(found.threshold.by_class, key=lambda one: -one.count)
    assert code == 0 and [row[0] for row in rows] == [one.name for one in made]
    code, out, _ = here(capsys, "score", own, "loss")
    assert code == 0 and f"By the probe of kind extra_class: {found.count_sentence}" in out


def counted(holds="count", low=30.0, high=60.0):
    return PlantedCount(40.0, low, high, 0.1, 0.95, holds)


def test_the_next_step_drops_only_what_is_counted(monkeypatch, recorded):
    run, known = Run(recorded), WrongCount(Ids([1]), torch.ones(1).double(), 50.0, 30.0, 80.0)
    monkeypatch.setattr("assay.experiments.wrong_labels.count_if_possible", lambda run: known)
    made = Probe("uniform", 20, 20, 397, 0, (ProbedMethod("loss", 0.9, 0.8, 0.95, 0.5, 1.0, None, counted()),))

    def by(one):
        return dataclasses.replace(made, methods=(dataclasses.replace(made.methods[0], counted=one),))

    for one in (counted(), counted(low=0.0), counted("upper end", 0.0), counted("contradicted", 0.0), None):
        assert "About 50 of 1 labels are wrong" in next_step(run, by(one))
        assert next_step(run, by(one)).endswith("loss --policy threshold:count=auto")
    # No more than either count says can be wrong.
    for one in (counted(high=45.0), counted("upper end", 0.0, high=45.0)):
        assert next_step(run, by(one)).endswith("loss --policy threshold:count=45")


@pytest.mark.parametrize(("low", "clear"), [(0.0, True), (0.0, False)])
@pytest.mark.parametrize("one", [counted(), counted("upper end", 0.0), counted("unchecked", 0.0), None])
def test_where_the_count_reaches_down_to_0_nothing_is_dropped(monkeypatch, recorded, low, clear, one):
    run, known = Run(recorded), WrongCount(Ids([1]), torch.ones(1).double(), 0.0, low, 20.0, clear=clear)
    monkeypatch.setattr("assay.experiments.wrong_labels.count_if_possible", lambda run: known)
    threshold = ThresholdExamples(0.5, 50.3, 40.0, 60.0)
    made = Probe("extra_class", 20, 20, 397, 0, (ProbedMethod("loss", 0.9, 0.8, 0.95, 0.5, 1.0, None, one),), threshold=threshold)
    assert "count=" not in next_step(run, made) and "Nothing is to be dropped" in next_step(run, made)
    assert "Nothing is to be dropped" in after_a_score(run, load_scores(run.paths.scores("aum")), 0.0, known, [made])


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--flip", "0.9"), "outside 0..0.5"), (("--kind", "pair"), "no kind of flips"), (("entropy",), "ranks difficulty")],
)
def test_a_probe_that_says_nothing_is_refused(recorded, capsys, flags, words):
    code, _, err = here(capsys, "probe", recorded, *flags)
    assert code == 2 and words in sentence(err)
