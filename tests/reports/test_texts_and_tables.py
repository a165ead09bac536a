"""Pages of the user's own texts and tables in a real Chromium: a text shows as a text, a row as columns."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
import plain_loop
from assay.core.errors import Mismatch
from reports.browser import until, watched
from reports.example_reports import PROBE

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 400, "height": 844}
CHEERFUL, SAD = ["a", "bright", "and", "funny", "film"], ["a", "dull", "and", "endless", "film"]
LONG = "endless " * 400


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A loop of the user's own on the words of 48 texts, and its page."""
    folder = tmp_path_factory.mktemp("texts")
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 2
    written = [" ".join(words[at] for at in torch.randperm(5, generator=draw)) for words in (SAD, CHEERFUL) * 24]
    written[4], written[6], written[8] = PROBE, LONG, "x" * 300
    known = sorted({*CHEERFUL, *SAD})
    counts = torch.tensor([[float(text.split().count(word)) for word in known] for text in written]).clamp(max=3)
    torch.manual_seed(0)
    model = nn.Linear(len(known), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(counts, labels), batch_size=16, shuffle=True)
    with assay.record(folder / "run", model, optimizer, loader, seed=0) as recorder:
        for _ in range(3):
            plain_loop.epoch(recorder, model, optimizer)
    table = assay.score(folder / "run", ["aum", "confidence"])
    examples = assay.examples_from_arrays(written, labels)
    decision = assay.choose(table["aum"], "top_k", keep=0.9)
    return written, assay.report(folder / "run", table, folder / "page.html", decision=decision, examples=examples)


def frame_and_run(folder):
    pd = pytest.importorskip("pandas")
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": np.where(np.arange(80) % 9 == 5, np.nan, draw.integers(18, 90, 80)),
            PROBE: draw.choice(["state", "private", "none"], 80),
            **{f"measurement {at}": draw.normal(size=80).round(3) for at in range(10)},
        },
        index=draw.permutation(80) + 1000,
    )
    y = pd.Series(np.where(frame["measurement 0"] > 0, "yes", "no"), index=frame.index)
    model = make_pipeline(OrdinalEncoder(), HistGradientBoostingClassifier(max_iter=5, early_stopping=False))
    return frame, y, assay.sklearn.record(model, frame, y, folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """An estimator of scikit-learn on a DataFrame with its own index, and its page."""
    folder = tmp_path_factory.mktemp("table")
    frame, y, run = frame_and_run(folder / "run")
    scores = assay.score(run, ["aum", "confidence"])
    return frame, assay.report(run, scores, folder / "page.html", examples=assay.examples_from_arrays(frame, y))


def opened(chromium, path, viewport):
    page = watched(chromium, path, viewport=viewport, color_scheme="light")
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    return page


def chosen(page, id_):
    """Choose the example of this id; gives the row of the table that shows it."""
    page.tab.fill("#search", str(id_))
    page.tab.press("#search", "Enter")
    until(page.tab, f"document.querySelector('#one h3')?.textContent === 'Example {id_}'")
    return page.tab.locator(".tabulator-row[aria-selected=true]")


def closed(page, viewport):
    """Nothing was said or asked for, and the page is still no wider than its window."""
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.said == [] and [url for url in page.asked if not url.startswith("data:")] == page.asked[:1]
    page.tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_text_shows_as_a_text(chromium, texts, viewport):
    written, path = texts
    page = opened(chromium, path, viewport)
    tab = page.tab
    assert "Near duplicates were not looked for: the examples are texts" in tab.content()
    assert "Of 1 of the shown examples the text is cut after 2,000 letters." in tab.content()
    if viewport is WIDE:
        assert tab.locator(".tabulator-col[tabulator-field=cell0]").text_content().strip() == "text"
    for id_ in (3, 4, 8):
        row = chosen(page, id_)
        assert tab.locator("#one .whole").inner_text().strip() == written[id_]
        assert written[id_] in tab.locator("#cards .card").first.text_content()
        assert written[id_] in row.text_content()
        assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    chosen(page, 6)
    assert tab.locator("#one .whole").inner_text() == f"{LONG[:2000]}…"
    assert tab.locator("img[src=x]").count() == 0
    closed(page, viewport)


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_row_shows_as_columns(chromium, table, viewport):
    frame, path = table
    page = opened(chromium, path, viewport)
    tab = page.tab
    if viewport is WIDE:
        headings = [tab.locator(f".tabulator-col[tabulator-field=cell{at}]") for at in range(2)]
        assert [heading.text_content().strip() for heading in headings] == ["age", PROBE]
    assert not any(note in tab.content() for note in ("are not shown", "as good as chance"))
    for place in (5, 7):
        id_, row = frame.index[place], frame.iloc[place]
        assert row[PROBE] in chosen(page, id_).text_content()
        age = "" if np.isnan(row["age"]) else str(int(row["age"]))
        told = [line.split("\t") for line in tab.locator("#one table").first.locator("tr").all_inner_texts()]
        assert [name for name, _ in told] == [*map(str, frame.columns)]
        assert [cell.strip() for _, cell in told] == [age, row[PROBE], *(f"{row.iloc[at]:g}" for at in range(2, 12))]
    assert tab.locator("img[src=x]").count() == 0
    closed(page, viewport)


def test_rows_of_other_examples_are_told(tmp_path):
    frame, y, run = frame_and_run(tmp_path / "run")
    scores = assay.score(run, "aum")
    with pytest.raises(Mismatch, match=r"the data.* Give the examples the ids of the run"):
        assay.report(run, scores, tmp_path / "page.html", examples=assay.examples_from_arrays(frame, y, range(80)))
    other = assay.examples_from_arrays(frame, y, np.sort(frame.index))
    with pytest.warns(UserWarning, match=r"may be others than the recorded ones: \d+ % have the label .* as good as chance"):
        path = assay.report(run, scores, tmp_path / "page.html", examples=other)
    assert "The given examples may be others than the recorded ones" in path.read_text()
