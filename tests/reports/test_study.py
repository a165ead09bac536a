"""The page of a study in a real Chromium, with markup wherever a name may stand."""

import dataclasses
import re

import pytest
import torch

from assay.core.report_data import Agreement
from assay.core.study import ALL, EASY, HARD, RANDOM, ArmComparison, FrontierPoint, PowerLawFit, Pruned, Study, Theory
from assay.core.trial import Comparison
from assay.reports import render_study
from reports.browser import watched
from reports.example_reports import PROBE


def made():
    trained = []
    for seed in (0, 1, 2):
        for size in (0.25, 0.5, 1.0):
            n = round(2000 * size)
            rows = [(ALL, "", 1.0, n), (RANDOM, "", 0.5, n // 2)]
            rows += [(arm, metric, 0.5, n // 2) for metric in ("el2n:at=2", PROBE) for arm in (HARD, EASY)]
            for arm, metric, fraction, count in rows:
                error = 3 * count**-0.45 * (0.8 if arm == HARD else 1.0) * (1 + 0.02 * seed)
                trained.append(Pruned(arm, metric, size, fraction, seed, count, 40, 1 - error, 0.2, 1.0))
    comparison = Comparison(HARD, EASY, 0.02, 0.01, 0.03, 0.01, "paired t-test", 3)
    return Study(
        "scaling",
        {"seeds": 3, "odd": PROBE},
        {"data": f"digits {PROBE}", "steps of each training": 40},
        tuple(trained),
        laws=(PowerLawFit(ALL, 3.0, 0.45, 0.0, 0.4, 0.5, 3, 3),),
        frontiers=(
            FrontierPoint(PROBE, HARD, 0.25, 0.5, 250, 0.2, None, 0.03, 0.02, 0.04, 0.01),
            FrontierPoint(PROBE, ALL, 1.0, 1.0, 2000, 0.1, -0.33),
        ),
        contests=(ArmComparison(PROBE, 0.25, 0.5, 250, comparison),) * 3,
        agreement=Agreement(("el2n:at=2", PROBE), torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]])),
        theory=(Theory(HARD, 1.0, 0.0, (0.5, 5.0), (0.4, 0.1)), Theory(EASY, 0.5, 10.0, (0.5, 5.0), (0.3, 0.2))),
        notes=(PROBE,),
    )


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.html"
    path.write_text(render_study(made()), encoding="utf-8")
    return watched(chromium, path, viewport={"width": 1200, "height": 900})


def test_the_page_is_whole_silent_and_asks_for_nothing(page):
    assert page.said == [] and all(url.startswith("file://") or url.startswith("data:") for url in page.asked)
    assert [url for url in page.asked if url.endswith(".html")] and page.tab.title().startswith("Pruning against the power law")


def test_every_chart_is_drawn_and_described(page):
    places = page.tab.locator(".chart")
    names = places.evaluate_all("all => all.map(one => one.dataset.spec)")
    assert set(names) == {
        "kept-0", "kept-1", "kept-2", "frontier", "hard-0", "hard-1", "easy-0", "easy-1", "agreement", "theory-0", "theory-1",
    }  # fmt: skip
    assert places.evaluate_all(
        "all => all.every(one => one.querySelector('svg path, svg rect') && one.getAttribute('aria-label'))"
    )


def test_findings_and_tables_say_what_the_study_says(page):
    text = page.tab.locator("main").inner_text()
    study = made()
    for words in study.sentences:
        assert " ".join(words.split()) in " ".join(text.split())
    contests = page.tab.locator("#contests tbody tr")
    assert contests.count() == 1 and "▲ +2.00" in contests.first.inner_text()
    page.tab.locator("#frontier summary").click()
    rows = page.tab.locator("#frontier tbody tr")
    assert rows.count() == 2 and "50 % hard" in rows.first.inner_text() and "+3.00" in rows.first.inner_text()
    assert "everything" in rows.nth(1).inner_text() and "−0.330" in rows.nth(1).inner_text()


def test_markup_in_names_stays_text(page):
    html = render_study(made())
    assert PROBE not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert page.tab.title().startswith("Pruning against the power law: digits <img")


def test_a_phone_sees_no_sideways_scrolling(chromium, tmp_path):
    path = tmp_path / "study.html"
    path.write_text(render_study(made()), encoding="utf-8")
    phone = watched(chromium, path, viewport={"width": 375, "height": 700})
    assert phone.tab.evaluate("document.documentElement.scrollWidth <= 375")


def test_same_study_same_bytes_and_one_size_has_no_frontier():
    assert render_study(made()) == render_study(made())
    one = made()
    small = dataclasses.replace(
        one,
        trained=tuple(part for part in one.trained if part.size == 1),
        laws=(),
        frontiers=(),
        contests=(),
        theory=(),
        agreement=None,
    )
    html = render_study(small)
    assert 'id="frontier"' not in html and 'id="contests"' not in html and 'id="agreement"' not in html
    assert len(html.encode()) < 2_000_000
