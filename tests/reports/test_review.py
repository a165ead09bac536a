"""The page as a place to work: the decision's rows first, marks by key and click, what leaves the page, tables of rows, a phone."""

import csv
import dataclasses
import io
import json
import pathlib

import pytest
import torch

from assay.core.decision import Action, Decision
from assay.core.ids import Ids
from assay.core.report_data import ClassCounts, Confusion, LearningCurve, ReportData, ShownExamples
from assay.core.review import sample_order, suspects_of
from assay.core.scores import Direction, Scores
from assay.experiments.choose import choose
from assay.experiments.report import report as write_report
from assay.experiments.review import review
from assay.experiments.score import score
from assay.reports import render
from assay.runs.artefacts import save_decision
from experiments import small
from reports import example_reports
from reports.browser import SETTLED, until, watched
from reports.example_reports import PROBE
from reports.test_page import cells

pytestmark = pytest.mark.slow

LONG = tuple(
    f"{kind} & Garden > Outdoor {thing} no. {n}"
    for n in range(10)
    for kind in ("Home", "Electronics")
    for thing in ("Furniture",)
)
FORMULAS = ("=1+1", "+1", "-2+3", "@SUM(A1)", "\tx", "\ry", "-0.5", "plain, with a comma")


@pytest.fixture(scope="module")
def report():
    """120 rows of a table with columns, twenty classes of long names, a decision that drops the first ten by rank."""
    n, classes = 120, len(LONG)
    g = torch.Generator().manual_seed(3)
    ids = Ids([f"row-{i:03d}" for i in range(n)])
    given = torch.randint(classes, (n,), generator=g)
    values = torch.rand(n, generator=g, dtype=torch.float64)
    scores = Scores(ids, values, "aum", {}, "aum", Direction.LOW_IS_SUSPECT, "logit margin")
    dropped = scores.ranks() <= 10
    decision = Decision(
        ids,
        torch.where(dropped, int(Action.DROP), int(Action.KEEP)),
        torch.full((n,), -1),
        torch.where(dropped, 0.0, 1.0).double(),
        tuple("among the first ten" if one else "kept" for one in dropped.tolist()),
        "top_k",
        {},
        "top_k by aum",
    )
    predicted = torch.where(dropped, (given + 1) % classes, given)
    rows = tuple((str(18 + i), FORMULAS[i % len(FORMULAS)], "word " * 20, *(f"{i * k}.{k}" for k in range(9))) for i in range(n))
    return ReportData(
        title="Shop",
        class_names=LONG,
        examples=n,
        shown=ShownExamples(
            ids,
            given,
            predicted,
            rows=rows,
            columns=("age", "=formula", "text", *(f"n{k}" for k in range(9))),
            predicted_probs=torch.linspace(0.2, 1, n),
        ),
        scores=(scores,),
        decision=decision,
        summary=(("What to do next", f"Look at `assay review run FILE` {PROBE}"), ("What it touches", "10"), ("How sure", "not")),
        learning=(
            LearningCurve("training", n, (0, 1), torch.tensor([0.5, 0.75]).double(), torch.tensor([1.0, 0.5]).double()),
            LearningCurve("test", 30, (1,), torch.tensor([0.7]).double()),
        ),
        by_class=ClassCounts(
            torch.bincount(given, minlength=classes),
            dropped=torch.bincount(given[dropped], minlength=classes),
            relabelled=torch.zeros(classes, dtype=torch.int64),
            weighted=torch.zeros(classes, dtype=torch.int64),
            confusions=(Confusion(0, 1, 7, 3),),
            pairs=4,
        ),
        dataset="0123456789abcdef",
    )


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return path


@pytest.fixture
def fresh(chromium, path):
    """A page of its own, with an empty storage; it must stay silent."""
    opened = watched(chromium, path, viewport={"width": 1400, "height": 900}, accept_downloads=True)
    yield opened.tab
    assert opened.said == []
    opened.tab.context.close()


def downloaded(tab, button):
    with tab.expect_download() as found:
        tab.click(button)
    return found.value.suggested_filename, pathlib.Path(found.value.path()).read_bytes().decode()


def first(report, n=10):
    return [report.shown.ids.values[i] for i in report.opening[:n]]


def test_the_rows_of_the_decision_come_first(fresh, report):
    assert cells(fresh, "decision", 10) == ["drop"] * 10 and cells(fresh, "id", 10) == first(report)
    fresh.select_option("#action", "touched")
    assert fresh.locator("#matching").inner_text() == "10 of 120"
    fresh.locator(".tabulator-col[tabulator-field=cell0]").click()
    assert fresh.locator("#order").input_value() == ""
    fresh.click("#reset")
    until(fresh, SETTLED)
    assert cells(fresh, "id", 10) == first(report)


def test_rows_are_columns_and_names_are_whole_or_say_that_they_are_not(fresh, report):
    assert cells(fresh, "cell0", 1) == [report.shown.rows[report.opening[0]][0]]
    assert cells(fresh, "probability", 1) == [f"{100 * float(report.shown.predicted_probs[report.opening[0]]):.1f} %"]
    names = fresh.evaluate(
        """[...document.querySelectorAll('.tabulator-cell[tabulator-field=given] .clamp')].slice(0, 10).map((e) =>
           [e.textContent, e.title, e.scrollWidth <= e.clientWidth + 1])"""
    )
    assert len(names) == 10 and all(text == title and text in LONG and fits for text, title, fits in names)
    numbers = fresh.locator(".tabulator-col[tabulator-field=cell3]")
    numbers.click()
    assert cells(fresh, "id", 3) == ["row-000", "row-001", "row-002"], "0.0, 0.0, 0.0 by number; ties as they were"


def test_marks_by_key_stay_in_the_browser_and_leave_as_a_file(fresh, report):
    ids, shown = first(report), report.shown
    fresh.locator(".tabulator-row").first.click()
    for key in ("w", "p", "r", "u", "w"):
        fresh.keyboard.press(key)
    assert fresh.locator("#tally").inner_text().startswith("5 marked: 3 wrong, 1 right, 1 unsure.")
    fresh.reload()
    fresh.wait_for_selector("html[data-ready=yes]")
    assert fresh.locator("#tally").inner_text().startswith("5 marked"), "kept by the decision's fingerprint"
    name, text = downloaded(fresh, "#save-marks")
    said = json.loads(text)
    assert name == "review.json" and said["decision"] == report.decision.fingerprint and said["dataset"] == report.dataset
    other = int(shown.predicted[report.opening[1]])
    assert said["marks"] == [
        {"id": ids[0], "mark": "wrong"},
        {"id": ids[1], "mark": "wrong", "label": other, "name": LONG[other]},
        {"id": ids[2], "mark": "right"},
        {"id": ids[3], "mark": "unsure"},
        {"id": ids[4], "mark": "wrong"},
    ]
    fresh.locator(".tabulator-row").first.click()
    fresh.keyboard.press("x")
    assert fresh.locator("#tally").inner_text().startswith("4 marked")
    fresh.select_option("#marked", "none")
    assert fresh.locator("#matching").inner_text() == "116 of 120"


def loaded(tab, text, name="review.json"):
    """What the page says of a file of marks."""
    with tab.expect_file_chooser() as chooser:
        tab.click("#load-marks")
    tab.evaluate("() => { document.querySelector('#loaded').hidden = true; }")
    chooser.value.set_files({"name": name, "mimeType": "application/json", "buffer": text.encode()})
    until(tab, "!document.querySelector('#loaded').hidden")
    return tab.locator("#loaded").inner_text()


def test_marks_of_a_file_are_loaded_again_on_another_page_of_the_same_decision(fresh, chromium, path, report):
    ids = first(report)
    fresh.locator(".tabulator-row").first.click()
    for key in ("w", "p", "r", "u"):
        fresh.keyboard.press(key)
    _, text = downloaded(fresh, "#save-marks")
    # An example that only a page with more examples shows.
    said = json.loads(text)
    said["marks"].append({"id": "row-of-another-page", "mark": "right"})
    text = json.dumps(said)
    other = watched(chromium, path, viewport={"width": 1400, "height": 900}, accept_downloads=True)
    tab = other.tab
    assert tab.locator("#tally").inner_text() == "Nothing is marked yet."
    assert loaded(tab, text) == "5 marks are loaded from review.json."
    assert tab.locator("#tally").inner_text().startswith("5 marked: 2 wrong, 2 right, 1 unsure.")
    assert cells(tab, "mark", 4) == cells(fresh, "mark", 4) and cells(tab, "mark", 4)[2:] == ["right", "unsure"]
    assert json.loads(downloaded(tab, "#save-marks")[1])["marks"] == said["marks"]
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]")
    assert tab.locator("#tally").inner_text().startswith("5 marked"), "kept as marks by key are"
    # What is marked otherwise here gives way, and that is said.
    tab.locator(".tabulator-row").first.click()
    tab.keyboard.press("r")
    assert "1 of them took the place of other marks" in loaded(tab, text)
    tab.select_option("#marked", "wrong")
    assert tab.locator("#matching").inner_text() == "2 of 120" and cells(tab, "id", 2) == ids[:2]
    assert other.said == []
    tab.context.close()


def changed(key, value):
    return lambda said: {**said, key: value}


STRANGE = {
    "no JSON": (lambda said: None, "is no JSON"),
    "another file": (lambda said: [1], "holds no marks that a page of assay saved"),
    "a newer schema": (changed("schema", 10**6), "is of schema 1000000, this page of"),
    "another dataset": (changed("dataset", "ffff"), "marks examples of dataset ffff, this page shows 0123456789abcdef"),
    "another decision": (changed("decision", "ffff"), "is about another decision, this page shows top_k by aum"),
    "no decision": (changed("decision", ""), "is about no decision, this page shows top_k by aum"),
    "no mark": (changed("marks", [{"id": "row-001", "mark": "doubtful"}]), "holds a mark that is none"),
    "a number as id": (changed("marks", [{"id": 1, "mark": "right"}]), "holds a mark that is none"),
    "twice": (changed("marks", [{"id": "row-001", "mark": "right"}] * 2), "marks row-001 twice"),
    "another class": (
        changed("marks", [{"id": "row-001", "mark": "wrong", "label": 1, "name": "Garden"}]),
        "gives row-001 a class that this page does not have (Garden)",
    ),
    "a class of a right label": (
        changed("marks", [{"id": "row-001", "mark": "right", "label": 0, "name": LONG[0]}]),
        "gives row-001 a class that this page does not have",
    ),
}


def test_a_file_of_other_marks_is_refused_and_nothing_is_lost(fresh, report):
    fresh.locator(".tabulator-row").first.click()
    for key in ("w", "r"):
        fresh.keyboard.press(key)
    _, text = downloaded(fresh, "#save-marks")
    said = json.loads(text)
    for name, (change, words) in STRANGE.items():
        made = change(said)
        answer = loaded(fresh, "{" if made is None else json.dumps(made), "other.json")
        assert answer.startswith("No mark was loaded: other.json ") and words in answer, name
        assert fresh.locator("#tally").inner_text().startswith("2 marked: 1 wrong, 1 right"), name
    assert downloaded(fresh, "#save-marks")[1] == text


def test_marks_by_click_and_a_class_of_ones_own(fresh, report):
    fresh.locator(".tabulator-row").first.click()
    group = fresh.locator("#one .markers")
    group.get_by_role("button", name="unsure").click()
    assert group.get_by_role("button", name="unsure").get_attribute("aria-pressed") == "true"
    third = (int(report.shown.given[report.opening[0]]) + 3) % len(LONG)
    group.get_by_role("combobox").select_option(str(third))
    assert cells(fresh, "mark", 1) == [f"wrong: {LONG[third]}"]
    _, text = downloaded(fresh, "#save-marks")
    assert json.loads(text)["marks"] == [{"id": first(report)[0], "mark": "wrong", "label": third, "name": LONG[third]}]


def test_typing_in_a_field_marks_nothing(fresh):
    fresh.locator(".tabulator-row").first.click()
    fresh.locator("#search").press_sequentially("row-w")
    assert fresh.locator("#tally").inner_text() == "Nothing is marked yet."
    assert fresh.locator("#save-marks").is_disabled()


def test_a_browser_without_storage_is_said_so(chromium, path):
    context = chromium.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })")
    tab = context.new_page()
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-ready=yes]")
    assert "keeps no marks" in tab.locator("#kept").inner_text()
    tab.locator(".tabulator-row").first.click()
    tab.keyboard.press("w")
    assert tab.locator("#tally").inner_text().startswith("1 marked") and tab.locator("#save-marks").is_enabled()
    context.close()


def test_the_random_sample_is_the_one_that_review_knows(fresh, report):
    fresh.select_option("#order", "sample")
    assert fresh.locator("#matching").inner_text() == "10 of 120"
    assert cells(fresh, "id", 10) == list(sample_order(suspects_of(report.decision)))
    fresh.locator(".tabulator-row").first.click()
    for _ in range(4):
        fresh.keyboard.press("w")
    assert "The first 4 of the random sample are among them." in fresh.locator("#tally").inner_text()


def test_a_csv_that_no_spreadsheet_runs(fresh, report):
    name, text = downloaded(fresh, "#save-rows")
    assert name == "examples.csv" and text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text[1:], newline="")))
    assert len(rows) == 120 and rows[0]["id"] == first(report)[0] and rows[0]["decision"] == "drop"
    column = {row["id"]: row["'=formula"] for row in rows}
    for i, cell in enumerate(FORMULAS):
        assert column[f"row-{i:03d}"] == (cell if cell in ("-0.5", "plain, with a comma") else f"'{cell}")
    assert float(rows[0]["score aum"]) == pytest.approx(float(report.scores[0].values[report.opening[0]]), rel=1e-5)
    fresh.select_option("#action", "drop")
    assert len(downloaded(fresh, "#save-rows")[1].splitlines()) < 30


def test_ids_are_copied_or_shown_to_be_copied(chromium, path, report):
    page = watched(chromium, path, viewport={"width": 1400, "height": 900}, permissions=["clipboard-read", "clipboard-write"])
    tab = page.tab
    tab.select_option("#action", "drop")
    tab.click("#copy-rows")
    until(tab, "!document.querySelector('#done').hidden")
    assert tab.evaluate("navigator.clipboard.readText()").split() == first(report)
    tab.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    tab.click("#copy-rows")
    until(tab, "!document.querySelector('#copied').hidden")
    assert tab.locator("#copied").input_value().split() == first(report)
    assert page.said == []
    tab.context.close()


def test_a_phone_shows_the_suspect_its_rank_and_its_labels(chromium, path, report):
    page = watched(chromium, path, viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    tab = page.tab
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    tab.locator("#table").scroll_into_view_if_needed()
    row = tab.locator(".tabulator-row").first
    said = row.inner_text()
    at = report.opening[0]
    assert first(report)[0] in said and "rank 1" in said and "drop" in said
    assert LONG[int(report.shown.given[at])][:12] in said
    outside = tab.evaluate(
        "[...document.querySelectorAll('.tabulator-row .suspect, .tabulator-row .line')].some((e) => e.getBoundingClientRect().right > 400)"
    )
    assert not outside
    row.click()
    tab.locator("#jump:visible").click()
    tab.locator("#one .markers").get_by_role("button", name="right", exact=True).click()
    assert tab.locator("#tally").inner_text().startswith("1 marked: 0 wrong, 1 right")
    tab.set_viewport_size({"width": 1200, "height": 800})
    until(tab, "document.querySelectorAll('.tabulator-col[tabulator-field=given]').length === 1")
    assert cells(tab, "id", 10) == first(report) and cells(tab, "mark", 1) == ["right"]
    assert page.said == []
    tab.context.close()


def test_who_is_hit_how_good_the_model_was_and_what_to_do(fresh, report):
    assert fresh.locator("#summary div").count() == 3 and fresh.locator("#summary code").inner_text() == "assay review run FILE"
    assert PROBE in fresh.locator("#summary").inner_text()
    table = fresh.locator("#classes table").first
    assert table.locator("tbody tr").count() == 12 and "The other 8 classes" in fresh.locator("#classes").inner_text()
    shares = [float(text.split()[-2]) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0
    assert "The 1 commonest of 4 pairs" in fresh.locator("#classes").inner_text()
    assert "70.0 % of the given labels predicted" in fresh.locator("#quality").inner_text()
    assert fresh.locator(".chart[data-spec^=learning]").count() == 2


def test_a_page_without_dataset_takes_no_marks(chromium, report, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(dataclasses.replace(report, dataset="")), encoding="utf-8")
    page = watched(chromium, path)
    page.tab.locator(".tabulator-row").first.click()
    page.tab.keyboard.press("w")
    assert page.tab.locator("#review, .markers, #marked").count() == 0
    assert page.said == []
    page.tab.context.close()


def test_pictures_are_reviewed_too(chromium, tmp_path):
    made = dataclasses.replace(example_reports.report(60, total=60), dataset="abc")
    path = tmp_path / "report.html"
    path.write_text(render(made), encoding="utf-8")
    page = watched(chromium, path, viewport={"width": 400, "height": 800})
    page.tab.locator(".tabulator-row").first.click()
    assert page.tab.locator(".tabulator-row .pictured img").count() > 3
    assert page.said == []
    page.tab.context.close()


def test_marks_of_a_real_page_are_taken_back(chromium, tmp_path):
    """From a recorded run to the page, by key through the random sample, out as a file and back as a decision."""
    run = small.recorded(tmp_path / "run")
    table = score(run, ["aum", "entropy"])
    decision = choose(table["aum"], "top_k", keep=0.9)
    save_decision(decision, run.paths.decision("drop"))
    page = watched(
        chromium, write_report(run, table, decision=decision), viewport={"width": 1400, "height": 900}, accept_downloads=True
    )
    tab = page.tab
    assert tab.locator(".tabulator-row img").count() > 5 and tab.locator("#summary div").count() == 3
    tab.select_option("#order", "sample")
    tab.locator(".tabulator-row").first.click()
    for key in "wprwuwpw":
        tab.keyboard.press(key)
    name, text = downloaded(tab, "#save-marks")
    (tmp_path / name).write_text(text)
    found = review(run, tmp_path / name)
    drawn = list(sample_order(suspects_of(decision)))[:8]
    assert found.review.decision == decision.fingerprint and set(found.review.ids) == set(drawn)
    assert found.precision.population == f"8 suspects drawn at random from {len(suspects_of(decision))}"
    # Where the prediction is the given label `p` marks nothing, and stays where it is.
    assert found.review.counts() == {"right": 1, "wrong": 6, "unsure": 1}
    place = run.ids.positions(found.decision.ids.take(found.decision.labels >= 0))
    assert set(found.decision.ids.values[found.decision.labels >= 0]) == {drawn[1], drawn[6]}
    assert found.decision.labels[found.decision.labels >= 0].tolist() == run.mean_probs().argmax(1)[place].tolist()
    assert page.said == []
    tab.context.close()
