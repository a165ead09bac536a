"""The sections on influence and cleansing in a real Chromium."""

import dataclasses

import pytest

from assay.core.report_data import Influence, TopExamples
from assay.reports import render
from reports import example_reports
from reports.browser import SETTLED, until, watched

pytestmark = pytest.mark.slow

OPEN = "#influence details.panel[open]"


@pytest.fixture(scope="module")
def report():
    return example_reports.influenced()


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("influence") / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return path


def strip(tab, name):
    return tab.locator(f".strip[aria-label='{name}'] .card")


def test_one_block_per_target_and_those_without_come_last(tab):
    heads = tab.locator("#influence .target > h3").all_inner_texts()
    assert heads == ["Target: validation", "Target: class=3", "Without a target"]
    titles = [text.split(" ")[0] for text in tab.locator("#influence summary").all_inner_texts() if "Diagnostics" not in text]
    assert titles == ["exact", "rough", "loo", "of", "last"]
    assert tab.locator(OPEN).count() == 3, "the first score of each target"
    assert tab.locator("nav").inner_text().split() == ["Examples", "Influence", "Cleansing"]


def test_the_ends_stand_with_picture_labels_and_value(tab, report):
    one, shown = report.influences[0], report.shown
    cards = strip(tab, "Most harmful by exact")
    said = [cards.nth(i).inner_text().split("\n") for i in range(10)]
    assert [int(lines[0]) for lines in said] == list(one.harmful.ids)
    for id_, value, lines in zip(one.harmful.ids, one.harmful.values.tolist(), said, strict=True):
        at = list(shown.ids).index(id_)
        given, true = (report.class_names[int(labels[at])] for labels in (shown.given, shown.true))
        assert lines[1] == f"given {given}" and (f"true {true}" in lines) == (given != true)
        assert float(lines[-1].replace("−", "-")) == pytest.approx(value, rel=1e-2)
    assert cards.first.locator("img").evaluate("image => image.naturalWidth") == 32
    assert cards.first.locator("img").get_attribute("alt") == f"example {said[0][0]}"
    assert [int(text) for text in strip(tab, "Most helpful by exact").locator("b").all_inner_texts()] == list(one.helpful.ids)
    counts = f"{one.harming} of 200 harm, {one.helping} help; change of the target, low is suspect"
    assert counts in tab.locator("#influence summary").first.inner_text()


def test_ends_are_called_what_they_are(tab):
    assert strip(tab, "Least harmful by of class 3").count() == 10, "where nothing helps"
    assert strip(tab, "Ranked most helpful by last").count() == 10, "where the size means nothing"
    assert " help" not in tab.locator("#influence summary", has_text="last").inner_text()


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_one_of_them_is_chosen_as_elsewhere_on_the_page(tab, report, how):
    cards, id_ = strip(tab, "Most harmful by exact"), list(report.influences[0].harmful.ids)[2]
    press = cards.nth(2).click if how == "mouse" else lambda: (cards.nth(2).focus(), tab.keyboard.press("Enter"))
    press()
    assert tab.locator("#cards .card b").all_inner_texts() == [str(id_)]
    assert cards.nth(2).get_attribute("aria-pressed") == "true"
    pressed = tab.locator(".strip .card[aria-pressed=true] b").all_text_contents()
    assert len(pressed) > 1 and set(pressed) == {str(id_)}, "wherever it stands it shows that it is chosen"
    assert tab.locator("#back").inner_text() == f"Example {id_} is chosen ↑"
    tab.click("#back")
    until(tab, "document.querySelector('#chosen').getBoundingClientRect().top < 900")
    press()
    assert tab.locator("#cards .card").count() == 0 and tab.locator("#back").is_hidden()


def test_warnings_stand_wherever_the_score_does(tab):
    caution = tab.locator(f"{OPEN} div.caution")
    assert caution.count() == 1 and example_reports.WARNING in caution.inner_text() and "Before you trust" in caution.inner_text()
    assert "read its warnings" in tab.locator("#influence summary").first.inner_text()
    assert tab.locator("#method option").all_inner_texts() == ["exact ⚠", "rough", "loo", "last", "of class 3"]
    assert example_reports.WARNING in tab.locator("#meaning").inner_text()
    tab.select_option("#method", label="rough")
    until(tab, SETTLED)
    said = tab.locator("#meaning").inner_text()
    assert "⚠" not in said and "the order counts, not the size" in said
    tab.locator(".tabulator-row").first.click()
    marks = tab.locator("#one tbody tr", has=tab.locator(".caution"))
    assert marks.count() == 1 and marks.locator(".caution").get_attribute("aria-label") == example_reports.WARNING
    assert "exact" in marks.inner_text()


def test_diagnostics_are_told(tab):
    details = tab.locator("#influence details", has_text="adjoint growth").locator("details")
    details.locator("summary").click()
    said = details.inner_text()
    assert "31.25" in said and "0.5, 1, 4, 15.62" in said
    details.locator("summary").click()


def test_a_closed_block_is_drawn_when_it_is_opened(tab, report):
    """What stands in a closed block has no width to be drawn in."""
    assert tab.evaluate("Boolean(document.querySelector('[data-spec=influence-0-time]').drawn)")
    panel = tab.locator("details.panel").first
    panel.locator("summary").first.click()
    tab.emulate_media(color_scheme="dark")
    until(tab, "!document.querySelector('[data-spec=influence-0-time]').drawn")
    panel.locator("summary").first.click()
    # It may be drawn anew meanwhile, for the other colours.
    until(tab, "document.querySelector('[data-spec=influence-0-norms] svg')?.getBoundingClientRect().width > 250")
    named = tab.locator("[data-spec=influence-0-norms]").get_attribute("aria-label")
    assert named == "exact: norm of the adjoint before each epoch"
    tab.emulate_media(color_scheme="light")
    until(tab, "Boolean(document.querySelector('[data-spec=influence-0-norms] svg'))")


def test_comparisons_stand_under_their_target_with_their_numbers(tab):
    block = tab.locator("#influence .target").first
    assert "Predicted against actual change" in block.inner_text() and "Exact against approximate" in block.inner_text()
    rows = [row.split("\t") for row in block.locator("tbody tr").all_inner_texts()]
    assert rows == [
        ["exact", "loo", "200", "0.812", "0.900", "0.950", "1.100"],
        ["rough", "loo", "200", "0.812", "0.900", "0.950", "1.100"],
        ["rough", "exact", "200", "0.812", "0.900", "0.950", "–"],
    ]
    assert tab.locator("#influence .target").nth(1).locator("tbody tr").count() == 0
    assert tab.locator("[data-spec=comparison-0] canvas").count() == 1
    assert tab.evaluate("document.querySelector('[data-spec=comparison-0]').drawn.view.data('source_1').length") == 200


def test_cleansing_says_and_shows_what_was_chosen(tab, report):
    (curve,) = report.curves
    section = tab.locator("#cleansing")
    assert curve.sentence in section.inner_text() and "exact, the last epoch retrained" in section.inner_text()
    assert section.locator(".chart svg").count() == 2
    assert tab.locator("[data-spec=curve-0-test]").get_attribute("aria-label").endswith("a ring marks the count chosen, 10")
    section.locator("summary").click()
    assert section.locator("tbody tr").count() == len(curve.removals)
    section.locator("summary").click()


def test_a_phone_needs_no_sideways_scrolling(chromium, path):
    page = watched(chromium, path, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390
    widths = page.tab.evaluate(
        "[...document.querySelectorAll('#influence .chart, #cleansing .chart')].map((c) => c.scrollWidth).filter((w) => w)"
    )
    assert len(widths) > 5 and 250 < min(widths) <= max(widths) <= 390
    page.tab.locator(".strip .card").nth(9).click()
    assert page.tab.locator("#cards .card").count() == 1
    assert page.said == []
    page.tab.context.close()


def test_without_such_scores_there_is_no_such_section():
    html = render(example_reports.report(60))
    assert 'id="influence"' not in html and 'id="cleansing"' not in html and 'id="back"' not in html and "#influence" not in html


def test_tables_show_their_cells_and_points_say_how_many_they_are_of(chromium, tmp_path):
    made = example_reports.influenced(60, pictures_too=False)
    shown = dataclasses.replace(made.shown, rows=tuple((str(n), "<b>") for n in range(60)), columns=("age", "work"))
    thinned = dataclasses.replace(made.comparisons[0], examples=1234)
    one = made.influences[0]
    ends = (TopExamples(end.ids, end.values) for end in (one.harmful, one.helpful))
    bare = Influence("exact", "validation", *ends, one.harming, one.helping)
    path = tmp_path / "report.html"
    page = dataclasses.replace(made, shown=shown, influences=(bare,), comparisons=(thinned,), curves=())
    path.write_text(render(page), encoding="utf-8")
    page = watched(chromium, path)
    tab = page.tab
    at = list(shown.ids).index(next(iter(one.harmful.ids)))
    assert strip(tab, "Most harmful by exact").first.locator(".row").inner_text() == f"age {at} · work <b>"
    assert tab.locator("#influence img").count() == 0 and tab.locator("#cleansing").count() == 0
    assert "60 of 1,234 examples are drawn" in tab.locator("#influence figcaption").first.inner_text()
    assert tab.locator("#influence .chart").count() == 1
    assert page.said == []
    tab.context.close()
