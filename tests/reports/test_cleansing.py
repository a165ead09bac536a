"""The page of a study of cleansing in a real Chromium, with markup wherever a name may stand."""

import pytest

from assay.core.cleansing import NO_REMOVAL, ChosenCount, Cleansed, CleansingStudy, CountComparison, ReadOff, Storage
from assay.core.trial import Comparison
from assay.reports import render_cleansing
from assay.reports.protocol import sized
from reports.browser import watched
from reports.example_reports import PROBE


def made():
    rows = [(NO_REMOVAL, 0), *((method, count) for method in (PROBE, "aum", "random") for count in (1, 10, 100))]
    trained = tuple(
        Cleansed(method, count, seed, 0.3, 0.4, 0.9, 0.91 + 0.001 * seed - 0.0001 * count, 1.0)
        for method, count in rows
        for seed in (0, 1, 2)
    )
    comparison = Comparison(PROBE, NO_REMOVAL, -0.02, -0.03, -0.01, 0.001, "paired t", 3, adjusted=0.002, family=2)
    return CleansingStudy(
        "cleansing",
        {"trials": 3, "odd": PROBE},
        {"data": f"digits {PROBE}"},
        trained,
        tuple(ChosenCount(method, seed, None if method == "aum" else 40, 10) for method in (PROBE, "aum") for seed in (0, 1, 2)),
        (
            Storage(PROBE, f"what {PROBE}", 2, 2_412_345, True),
            Storage("all", "every state", 782, 961_000_000, False),
            Storage("theirs", "every state", 1563, 1_932_000_000, False, PROBE),
        ),
        (CountComparison(PROBE, None, comparison), CountComparison(PROBE, 10, comparison)),
        (ReadOff(PROBE, "about 30", 0.9919, "a figure"),),
        (PROBE,),
        2,
    )


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    path = tmp_path_factory.mktemp("cleansing") / "study.html"
    path.write_text(render_cleansing(made()), encoding="utf-8")
    return watched(chromium, path, viewport={"width": 1200, "height": 900})


def test_the_page_is_whole_silent_and_asks_for_nothing(page):
    assert page.said == [] and all(url.startswith("file://") or url.startswith("data:") for url in page.asked)
    assert page.tab.title().startswith("Cleansing: digits")


def test_the_chart_is_drawn_and_the_tables_say_what_the_study_says(page):
    places = page.tab.locator(".chart")
    assert places.count() == 1 and places.first.get_attribute("aria-label").startswith("Test accuracy against the number")
    assert places.first.locator("svg").count() == 1
    text = page.tab.locator("main").inner_text()
    for words in made().sentences:
        assert words in text
    for words in (
        "▼ −2.00",
        "91.10 ± 0.10",
        "2.41 MB",
        "961 MB",
        "1.93 GB",
        "worked out",
        "read off a figure",
        "99.19",
        "as chosen",
        "782",
    ):
        assert words in text, words


def test_same_study_same_bytes():
    assert render_cleansing(made()) == render_cleansing(made())


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1231272, "1.23 MB"), (1932000000, "1.93 GB"), (8008, "8.01 kB")]
)
def test_bytes_in_words(count, words):
    assert sized(count) == words
