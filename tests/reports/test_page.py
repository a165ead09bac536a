"""The page in a real Chromium: 2,000 examples with pictures, and markup wherever a name may stand."""

import dataclasses
import json
import re

import pytest
import torch

from assay.core.confident import COVERS
from assay.core.ids import Ids
from assay.core.method_comparison import ComparedMethod
from assay.core.report_data import ReportData, ShownExamples
from assay.core.trial import Comparison
from assay.reports import render
from reports import example_reports
from reports.browser import SETTLED, until, watched
from reports.example_reports import PROBE


@pytest.fixture(scope="module")
def report():
    made = example_reports.chosen(
        example_reports.report(classes=("airplane", "automobile", "bird", PROBE, *example_reports.CLASSES[4:]))
    )
    return dataclasses.replace(made, title=f"Flipped {PROBE}", facts={**made.facts, "odd": PROBE}, notes=(PROBE,))


@pytest.fixture(scope="module")
def html(report):
    return render(report)


@pytest.fixture(scope="module")
def path(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def cells(tab, field, most=8):
    found = tab.locator(f".tabulator-row .tabulator-cell[tabulator-field={field}]")
    tab.wait_for_timeout(100)
    return [found.nth(i).inner_text().strip() for i in range(min(most, found.count()))]


def cards(tab):
    return [int(text) for text in tab.locator("#cards .card b").all_inner_texts()]


def ids_by(report, title):
    scores = next(one for one in report.scores if one.title == title)
    return [int(i) for i in scores.ids.values[scores.ranks().argsort()]]


def position(report, id_):
    return int(report.shown.ids.positions(Ids([id_]))[0])


def test_one_file_under_4_mb(html):
    assert len(html.encode()) < 4_000_000


def test_same_report_same_bytes():
    small = example_reports.report(60)
    assert render(small) == render(small)


def test_silent_and_alone(tab):
    """No console message, no request: the fixture's checks, over everything that opening the page does."""
    assert tab.locator(".chart").count() == 11 + 13
    # That of what stays of each class is drawn once its block is opened.
    assert tab.locator(".chart svg, .chart canvas").count() == 10 + 13


def test_nothing_can_be_fetched_and_no_foreign_script_runs(chromium, path):
    page = watched(chromium, path)
    assert page.tab.evaluate("fetch('data:,x').then(() => 'fetched', () => 'refused')") == "refused"
    page.tab.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s); }"
    )
    page.tab.evaluate("() => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = true\">'); }")
    page.tab.wait_for_timeout(200)
    assert page.tab.evaluate("window.ran") is None
    page.tab.context.close()


@pytest.mark.slow
def test_markup_stays_text(tab, report):
    assert tab.title() == f"Flipped {PROBE}"
    assert tab.locator("h1").inner_text() == f"Flipped {PROBE}"
    tab.select_option("#class", "3")
    assert set(cells(tab, "given")) == {PROBE}
    tab.locator(".tabulator-row").first.click()
    assert PROBE in tab.locator("#cards .card").first.inner_text()
    assert tab.locator("dd", has_text="onerror").inner_text() == PROBE
    point(tab, report, cards(tab)[0], press=False)
    tooltip = tab.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert PROBE in tooltip.inner_text()
    assert tab.locator("img[src=x]").count() == 0
    assert tab.title() == f"Flipped {PROBE}"


def test_data_cannot_end_its_element(html):
    data = re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', html).group(1)
    assert "<" not in data
    assert json.loads(data)["classes"][3] == PROBE


@pytest.mark.slow
def test_pictures_show(tab):
    tab.locator(".tabulator-row").first.click()
    images = tab.locator("#table img, #cards img")
    assert images.count() > 8
    until(tab, "[...document.querySelectorAll('#table img, #cards img')].every((image) => image.complete)")
    assert (
        tab.evaluate("Math.min(...[...document.querySelectorAll('#table img, #cards img')].map((image) => image.naturalWidth))")
        == 32
    )


def test_opens_with_the_most_suspect_first(tab, report):
    assert [int(text) for text in cells(tab, "id")] == ids_by(report, "aum")[:8]
    assert cells(tab, "rank") == [str(i + 1) for i in range(8)]
    assert "low is suspect" in tab.locator("#meaning").inner_text()


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_headings_sort(tab, report, how):
    heading = tab.locator(".tabulator-col[tabulator-field=id]")
    for descending in (False, True):
        heading.click() if how == "mouse" else (heading.focus(), tab.keyboard.press("Enter"))
        assert [int(text) for text in cells(tab, "id")] == sorted(report.shown.ids, reverse=descending)[:8]
    assert heading.get_attribute("aria-sort") == "descending"


def test_scores_sort_by_number(tab, report):
    tab.locator(".tabulator-col[tabulator-field=score]").click()
    shown = [float(text) for text in cells(tab, "score")]
    assert shown == pytest.approx(report.scores[0].values.sort().values[:8].tolist(), rel=1e-3)


@pytest.mark.slow
def test_choosing_a_method_ranks_by_it(tab, report):
    tab.select_option("#method", label="dual")
    until(tab, SETTLED)
    assert [int(text) for text in cells(tab, "id")] == ids_by(report, "dual")[:8]
    assert "not dirt" in tab.locator("#meaning").inner_text()
    tab.fill("#within", "5")
    assert tab.locator("#matching").inner_text() == "5 of 2,000"
    assert {int(text) for text in cells(tab, "id")} == set(ids_by(report, "dual")[:5])


@pytest.mark.slow
def test_filters_by_class_decision_and_label(tab, report):
    shown, decision = report.shown, report.decision
    tab.select_option("#class", label="ship")
    expected = shown.given == 8
    assert tab.locator("#matching").inner_text() == f"{int(expected.sum())} of 2,000"
    assert set(cells(tab, "given")) == {"ship"}
    tab.select_option("#action", label="keep")
    expected &= decision.actions == 1
    assert tab.locator("#matching").inner_text() == f"{int(expected.sum())} of 2,000"
    tab.select_option("#label", "wrong")
    expected &= shown.true != shown.given
    assert tab.locator("#matching").inner_text() == f"{int(expected.sum())} of 2,000"
    assert len(tab.evaluate("document.querySelector('[data-spec=map]').drawn.view.data('examples')")) == int(expected.sum())


@pytest.mark.slow
def test_slash_finds_an_id(tab, report):
    wanted = ids_by(report, "aum")[1234]
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    tab.keyboard.type(str(wanted))
    assert str(wanted) in cells(tab, "id")
    tab.keyboard.press("Enter")
    assert cards(tab) == [wanted]
    assert tab.locator("#one h3").inner_text() == f"Example {wanted}"
    ranks = tab.locator("#one tbody tr").first.locator("td").first.inner_text()
    assert ranks == "1,235 of 2,000"


def test_an_id_that_is_not_here_is_said_to_be_not_on_this_page(tab):
    tab.fill("#search", "no such id")
    assert "it holds 2,000 of 60,000" in tab.locator(".tabulator-placeholder").inner_text()


@pytest.mark.slow
def test_rows_by_keyboard(tab, report):
    order = ids_by(report, "aum")
    tab.locator("#search").focus()
    while tab.evaluate("document.activeElement.id") != "table":
        tab.keyboard.press("Tab")
    for _ in range(3):
        tab.keyboard.press("ArrowDown")
    assert tab.evaluate("getComputedStyle(document.querySelector('.tabulator-row.active')).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert cards(tab) == [order[3]]
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press(" ")
    assert cards(tab) == [order[2], order[3]]
    assert tab.locator(".tabulator-row[aria-selected=true]").count() == 2
    tab.keyboard.press("End")
    row = tab.locator(f"#row-{position(report, order[-1])}")
    row.wait_for()
    assert tab.locator("#table").get_attribute("aria-activedescendant") == f"row-{position(report, order[-1])}"
    tab.keyboard.press("Enter")
    assert cards(tab) == [order[-1]]
    tab.keyboard.press("Home")
    until(tab, "document.querySelector('.tabulator-tableholder').scrollTop === 0")
    until(tab, "document.querySelectorAll('.tabulator-row[aria-selected=true]').length === 0")
    tab.keyboard.press("Escape")
    assert cards(tab) == []


@pytest.mark.slow
def test_rows_just_outside_the_window_follow_the_choice(tab, report):
    tab.locator(".tabulator-row").first.click()
    first = tab.locator(f"#row-{position(report, ids_by(report, 'aum')[0])}")
    tab.evaluate("document.querySelector('.tabulator-tableholder').scrollTop = 200")
    tab.wait_for_timeout(200)
    assert first.get_attribute("aria-selected") == "true"
    tab.click("#clear")
    assert first.get_attribute("aria-selected") == "false"


def at(tab, variability, confidence):
    """Where a point of the data map lies on the screen."""
    tab.locator("[data-spec=map]").scroll_into_view_if_needed()
    return tab.evaluate(
        """([x, y]) => {
          const place = document.querySelector("[data-spec=map]"), view = place.drawn.view;
          const box = place.querySelector("canvas").getBoundingClientRect(), [left, top] = view.origin(), padding = view.padding();
          return [box.left + left + padding.left + view.scale("x")(x), box.top + top + padding.top + view.scale("y")(y)];
        }""",
        [variability, confidence],
    )


def point(tab, report, id_, press=True):
    i = position(report, id_)
    tab.mouse.move(*at(tab, float(report.data_map.variability[i]), float(report.data_map.confidence[i])))
    if press:
        tab.mouse.down()
        tab.mouse.up()


@pytest.mark.slow
def test_brushing_the_map_shows_pictures_and_lines(tab, report):
    corners = at(tab, 0.001, 0.001), at(tab, 0.1, 0.1)
    tab.mouse.move(*corners[0])
    tab.mouse.down()
    tab.mouse.move(*corners[1], steps=6)
    tab.mouse.up()
    until(tab, "document.querySelectorAll('#cards img').length > 1")
    dynamics = report.data_map
    inside = (dynamics.variability < 0.1) & (dynamics.confidence < 0.1)
    said = int(tab.locator("#chosen-count").inner_text().split()[0].replace(",", ""))
    assert 1 < said < 400 and abs(said - int(inside.sum())) <= 4  # a pixel at the border
    chosen = [position(report, id_) for id_ in cards(tab)]
    assert len(chosen) == min(48, said)
    assert float(dynamics.confidence[chosen].max()) < 0.11 and float(dynamics.variability[chosen].max()) < 0.11
    assert tab.locator("#more").is_visible()
    assert "The first 40 of" in tab.locator("#lines-count").inner_text()
    tab.click("#more")
    assert len(cards(tab)) == min(96, said)


@pytest.mark.slow
def test_clicking_a_point_shows_its_picture(tab, report):
    furthest = int(report.data_map.variability.argmax())
    id_ = int(report.shown.ids.values[furthest])
    point(tab, report, id_)
    until(tab, "document.querySelectorAll('#cards .card').length === 1")
    assert cards(tab) == [id_]
    assert tab.evaluate("document.querySelector('#cards img').naturalWidth") == 32


def view(name, words):
    return f"document.querySelector('[data-spec={name}]').drawn.view.{words}"


@pytest.mark.slow
def test_the_map_of_features_is_coloured_by_any_score_or_by_class(tab, report):
    points = tab.evaluate(view("embedding", "data('examples')"))
    assert len(points) == 1500 and points[3]["id"] == str(report.shown.ids.values[3]) and "image" in points[3]
    for at, title in ((0, "aum"), (2, "loss")):
        tab.select_option("#colour", str(at))
        ranks = next(one for one in report.scores if one.title == title).ranks()
        until(tab, view("embedding", f"data('examples')[3].rank === '{int(ranks[3]):,} of 2,000'"))
        assert tab.evaluate(view("embedding", "data('examples')[3].first")) == pytest.approx(1 - (int(ranks[3]) - 1) / 1999)
    tab.select_option("#colour", "class")
    tab.locator("[data-spec=embedding-class]").wait_for()
    until(
        tab,
        f"document.querySelector('[data-spec=embedding-class]')?.drawn && {view('embedding-class', 'data(`examples`).length')} === 1500",
    )
    tab.select_option("#colour", "0")
    until(
        tab, f"document.querySelector('[data-spec=embedding]')?.drawn && {view('embedding', 'data(`examples`).length')} === 1500"
    )


@pytest.mark.slow
def test_the_map_of_features_follows_the_filters_and_chooses(tab, report):
    tab.select_option("#class", "2")
    wanted = int((report.shown.given[:1500] == 2).sum())
    until(tab, view("embedding", f"data('examples').length === {wanted}"))
    tab.locator(".tabulator-row").first.click()
    until(tab, "document.querySelectorAll('#cards .card').length === 1")
    id_ = cards(tab)[0]
    until(tab, view("embedding", f"data('chosen').length === {int(position(report, id_) < 1500)}"))


@pytest.mark.slow
def test_a_box_on_the_map_of_features_chooses_what_lies_in_it(tab, report):
    tab.locator("[data-spec=embedding] canvas").scroll_into_view_if_needed()
    box = tab.locator("[data-spec=embedding] canvas").bounding_box()
    ends = [tab.evaluate(view("embedding", f"scale('{axis}')({value})")) for axis in "xy" for value in (-150, 150)]
    left, top = (
        a + b
        for a, b in zip(
            *tab.evaluate(
                f"(({{left, top}}, origin) => [[left, top], origin])({view('embedding', 'padding()')}, {view('embedding', 'origin()')})"
            ),
            strict=True,
        )
    )
    corners = [(box["x"] + left + ends[at], box["y"] + top + ends[2 + at]) for at in (0, 1)]
    tab.mouse.move(*corners[0])
    tab.mouse.down()
    tab.mouse.move(*corners[1], steps=6)
    tab.mouse.up()
    until(tab, "document.querySelectorAll('#cards .card').length > 8")
    one = report.embedding
    inside = int(((one.across.abs() < 150) & (one.up.abs() < 150)).sum())
    said = int(tab.locator("#chosen-count").inner_text().split()[0].replace(",", ""))
    assert inside > 50 and abs(said - inside) <= 6  # a pixel at the border


@pytest.mark.slow
def test_what_helps_to_choose_a_method_is_shown_with_its_numbers(tab, report):
    said = {name: tab.locator(f"#{name}").inner_text() for name in ("wrong", "duplicates", "classes")}
    assert "About 200 of 2,000 labels are wrong (95 % interval 150 to 250)" in said["wrong"]
    assert report.probes[0].sentence in said["wrong"] and "sees 87.5 % of them" in said["wrong"]
    assert report.probes[0].count_sentence in said["wrong"] and "190 (150 to 240)" in tab.locator("#wrong").text_content()
    assert f"By confident learning: {report.joint.sentence} {COVERS}" == tab.locator("#joint").inner_text()
    assert "95 % interval 140 to 230" in said["wrong"] and report.probes[1].threshold_sentence in said["wrong"]
    tables = {one.locator("summary").inner_text(): one for one in tab.locator("#wrong details").all()}
    assert {"By given class", "By given class, by confident learning", "Below AUM's threshold by given class"} <= set(tables)
    below = tables["Below AUM's threshold by given class"]
    below.locator("summary").click()
    assert below.locator("tbody tr").count() == 3 and "2 to 9" in below.locator("tbody tr").first.inner_text()
    assert "2 groups of 5 of 2,000 examples" in said["duplicates"] and "and 1 more" in said["duplicates"]
    assert tab.locator("#duplicates .card").count() == 4 and tab.locator("#duplicates img").count() == 4
    assert "share of what stays" in said["classes"].lower()
    row = tab.locator("#detections tbody tr").first.locator("td").all_inner_texts()
    one = report.found[0]
    assert row[1:3] == [f"{one.auc:.3f}", f"{one.auc - 0.01:.3f} to {one.auc:.3f}"] and row[5] == "17"
    assert tab.locator("#agreement tbody tr").count() == 13 * 12 // 2
    assert tab.locator("[data-spec=overlaps] svg").count() == 1
    tab.locator("#classes summary").first.click()
    tab.locator("[data-spec=classes] svg").wait_for()


def test_a_page_is_silent_about_what_is_not_there():
    plain = render(example_reports.table())
    assert not any(f'id="{name}"' in plain for name in ("wrong", "duplicates", "embedding", "colour"))


@pytest.mark.slow
def test_lines_are_the_recorded_probabilities(tab, report):
    tab.locator(".tabulator-row").first.click()
    until(tab, "document.querySelector('[data-spec=lines]').drawn.view.data('lines').length === 30")
    rows = tab.evaluate(
        "document.querySelector('[data-spec=lines]').drawn.view.data('lines').map((r) => [r.epoch, r.probability])"
    )
    i = position(report, ids_by(report, "aum")[0])
    assert [row[0] for row in rows] == list(range(30))
    assert [row[1] for row in rows] == pytest.approx(report.trajectories.target_probs[i].tolist(), abs=1 / 499)


def test_another_curve_can_be_lifted(tab):
    tab.get_by_role("button", name="entropy").click()
    assert tab.locator("#lifted").inner_text() == "entropy"
    assert tab.evaluate("document.querySelector('[data-spec=detection]').drawn.view.signal('method')") == "entropy"
    assert tab.locator(".lift[aria-pressed=true]").all_inner_texts() == ["entropy"]


def test_controls_have_names(tab):
    nameless = tab.evaluate(
        """[...document.querySelectorAll("select, input, button")].filter((e) =>
          !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert tab.locator("#table").get_attribute("role") == "grid"
    assert tab.locator("[data-spec=map]").get_attribute("aria-label").startswith("Data map")


def test_says_how_the_shown_were_picked(tab, report):
    assert f"2,000 of 60,000 examples are on this page: {report.picked}" in tab.locator(".lead").inner_text()


def test_verdict_stands_first_with_its_numbers(tab, report):
    assert tab.locator("main section").first.get_attribute("id") == "verdict"
    said = tab.locator("#verdict").inner_text()
    assert all(one.sentence in said for one in report.verdict.comparisons)
    assert "No significant difference in either direction" not in said


@pytest.mark.slow
def test_says_when_nothing_is_significant(chromium, tmp_path):
    made = example_reports.report(30)
    few = tuple(
        Comparison("kept", other, 0.001, None, None, 0.5, "exact sign-flip permutation", 2) for other in ("random", "all")
    )
    page = render(dataclasses.replace(made, verdict=dataclasses.replace(made.verdict, comparisons=few)))
    assert "Two seeds cannot tell." in page and "No significant difference in either direction" not in page
    none = tuple(Comparison("kept", other, 0.001, -0.01, 0.012, 0.8, "paired t-test", 5) for other in ("random", "all"))
    path = tmp_path / "report.html"
    path.write_text(
        render(dataclasses.replace(made, verdict=dataclasses.replace(made.verdict, comparisons=none))), encoding="utf-8"
    )
    page = watched(chromium, path)
    assert "No significant difference in either direction" in page.tab.locator("#verdict").inner_text()
    assert page.tab.locator(".findings .better, .findings .worse").count() == 0
    assert page.said == []
    page.tab.context.close()


@pytest.mark.slow
def test_dark_and_light_follow_the_reader(chromium, path):
    page = watched(chromium, path, color_scheme="dark")
    look = """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
      document.querySelector("[data-spec=agreement] .role-axis-label text").getAttribute("fill")]"""
    dark = page.tab.evaluate(look)
    page.tab.emulate_media(color_scheme="light")
    until(page.tab, f"({look})()[2] !== '{dark[2]}'")
    light = page.tab.evaluate(look)
    assert all(one != other for one, other in zip(dark, light, strict=True))
    bright = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (dark[0], dark[1], light[0], light[1])]
    assert bright[0] < 150 < bright[1] and bright[2] > 600 > bright[3]
    assert page.said == []
    page.tab.context.close()


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(chromium, path):
    page = watched(chromium, path, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390
    widest = page.tab.evaluate(
        "Math.max(...[...document.querySelectorAll('.chart')].filter((c) => !c.closest('.scroll')).map((c) => c.scrollWidth))"
    )
    assert 300 < widest <= 390
    page.tab.locator("#table").scroll_into_view_if_needed()
    page.tab.locator(".tabulator-row").nth(2).click()
    page.tab.locator("#jump:visible").click()
    until(page.tab, "document.querySelector('#chosen').getBoundingClientRect().top < 844")
    assert page.tab.locator("#cards img").count() == 1
    assert page.said == []
    page.tab.context.close()


@pytest.mark.slow
def test_the_table_follows_the_width_of_the_window(chromium, path):
    page = watched(chromium, path, viewport={"width": 1440, "height": 900})
    gap = """() => { const right = (e) => document.querySelector(e).getBoundingClientRect().right;
      return Math.round(right("#table") - right(".tabulator-col[tabulator-field=reason]")); }"""
    for width in (1440, 1050, 1400):
        page.tab.set_viewport_size({"width": width, "height": 900})
        page.tab.wait_for_timeout(300)
        assert 0 <= page.tab.evaluate(gap) <= 20
    assert page.said == []
    page.tab.context.close()


@pytest.mark.slow
def test_a_table_without_pictures_truth_or_verdict(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(example_reports.table()), encoding="utf-8")
    page = watched(chromium, path)
    tab = page.tab
    assert tab.locator("main section").count() == 1
    assert tab.locator("img").count() == 0
    assert "All 40 examples" in tab.locator(".lead").inner_text()
    tab.fill("#search", "row-003")
    assert [cells(tab, f"cell{at}") for at in range(3)] == [["23"], [PROBE], ["300"]]
    heading = tab.locator(".tabulator-col[tabulator-field=cell1]")
    assert heading.inner_text().strip() == "work<i>class"
    tab.locator(".tabulator-row").first.click()
    tab.locator("#one table").first.wait_for()
    assert [row.strip() for row in tab.locator("#one table").first.locator("tr").all_inner_texts()] == [
        "age\t23",
        f"work<i>class\t{PROBE}",
        "gain\t300",
    ]
    tab.fill("#search", "")
    tab.locator(".tabulator-col[tabulator-field=rank]").click()
    tab.evaluate("document.querySelector('.tabulator-tableholder').scrollTop = 1e6")
    tab.wait_for_timeout(200)
    assert "not scored" in tab.locator(".tabulator-row").last.inner_text()
    assert tab.title() == "Adult"
    assert page.said == []
    tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 1000, 400])
def test_long_names_of_classes_are_whole_and_differ_to_the_eye(chromium, tmp_path, width):
    path = tmp_path / "report.html"
    plain = example_reports.influenced(20)
    names = tuple(f"Home & Garden > Outdoor Furniture and Accessories, department {number}" for number in range(3))
    shown = dataclasses.replace(plain.shown, predicted=(plain.shown.given + 1) % 3)
    path.write_text(render(dataclasses.replace(plain, class_names=names, shown=shown)), encoding="utf-8")
    page = watched(chromium, path, viewport={"width": width, "height": 900})
    cut = page.tab.evaluate(
        """[...document.querySelectorAll('.tabulator-row .clamp, .tabulator-row .label')].filter((e) => /department/.test(e.textContent))
           .map((e) => [e.textContent, e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1])"""
    )
    assert len(cut) >= 10 and not any(is_cut for _, is_cut in cut)
    assert page.said == []
    page.tab.context.close()


@pytest.mark.slow
def test_damaged_images_have_a_section_a_filter_and_a_mark(chromium, tmp_path):
    path = tmp_path / "report.html"
    plain = example_reports.influenced(20)
    damaged = torch.arange(20) % 5 == 0
    found = ComparedMethod("aum", True, 0.75, 0.625, 0.875, 0.5, 0.25, 3)
    made = dataclasses.replace(
        plain,
        shown=dataclasses.replace(plain.shown, damaged=damaged),
        damages=(found,),
        damaged=(4, 0),
        cleaning=None,
        influences=(),
        comparisons=(),
    )
    path.write_text(render(made), encoding="utf-8")
    page = watched(chromium, path)
    tab = page.tab
    told = tab.locator("#damaged").inner_text()
    assert "4 images were damaged on purpose" in told and "The decision" not in told
    assert [cell.strip() for cell in tab.locator("#damages tbody tr").all_inner_texts()] == [
        "aum\tsuspects\t0.750\t0.625 to 0.875\t0.500\t0.250\t3"
    ]
    for kind, mine in (("damaged", damaged), ("whole", ~damaged)):
        tab.select_option("#damage", kind)
        assert tab.locator("#matching").inner_text() == f"{int(mine.sum())} of 20"
        assert set(cells(tab, "id", 20)) == {str(id_) for id_ in made.shown.ids.take(mine)}
        tab.locator(".tabulator-row").first.click()
        tab.locator("#cards .card").first.wait_for()
        assert ("image damaged" in tab.locator("#cards").inner_text()) == (kind == "damaged")
    assert page.said == []
    tab.context.close()


@pytest.mark.slow
def test_a_report_with_nothing_to_show(chromium, tmp_path):
    path = tmp_path / "report.html"
    nothing = ReportData(
        "Empty", ("a", "b"), 5, ShownExamples(Ids([]), torch.zeros(0, dtype=torch.int64)), picked="none was asked for."
    )
    path.write_text(render(nothing), encoding="utf-8")
    page = watched(chromium, path)
    assert page.tab.locator("main section").count() == 0
    assert "0 of 5 examples" in page.tab.locator(".lead").inner_text()
    assert page.said == []
    page.tab.context.close()


@pytest.mark.slow
def test_an_epoch_that_did_not_visit_an_example_is_a_gap(chromium, tmp_path):
    made = example_reports.report(30)
    probs = made.trajectories.target_probs.clone()
    probs[:, 4] = float("nan")
    path = tmp_path / "report.html"
    path.write_text(
        render(dataclasses.replace(made, trajectories=dataclasses.replace(made.trajectories, target_probs=probs))),
        encoding="utf-8",
    )
    page = watched(chromium, path)
    gaps = page.tab.evaluate(
        "document.querySelector('[data-spec=lines]').drawn.view.data('lines').filter((r) => r.probability === null).map((r) => r.epoch)"
    )
    assert len(gaps) == 8 and set(gaps) == {4}
    assert page.said == []
    page.tab.context.close()
