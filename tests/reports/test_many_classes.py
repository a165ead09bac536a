"""The page of 20,000 examples in 50 classes with long names, from a real recording, in a real Chromium."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
import plain_loop
from reports.browser import SETTLED, until, watched

pytestmark = pytest.mark.slow

EXAMPLES, CLASSES = 20_000, 50
NAMES = [f"Category {at:02d}: hand-held instruments for measuring, cutting or joining, and their parts" for at in range(CLASSES)]
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 400, "height": 844}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    draw = torch.Generator().manual_seed(0)
    true = torch.arange(EXAMPLES) % CLASSES
    rows = 2 * torch.randn(CLASSES, 20, generator=draw)[true] + torch.randn(EXAMPLES, 20, generator=draw)
    wrong = torch.rand(EXAMPLES, generator=draw) < 0.05
    labels = torch.where(wrong, (true + 7) % CLASSES, true)
    torch.manual_seed(0)
    model = nn.Linear(20, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(TensorDataset(rows, labels), batch_size=200, shuffle=True)
    with assay.record(folder / "run", model, optimizer, loader, data=assay.DataSpec(class_names=NAMES), seed=0) as recorder:
        for _ in range(4):
            plain_loop.epoch(recorder, model, optimizer)
    scores = assay.score(folder / "run", ["aum", "confidence", "dual:window=2"])
    decision = assay.choose(scores["aum"], "top_k", keep=0.95)
    path = assay.report(folder / "run", scores, folder / "page.html", decision=decision)
    return path, scores["aum"], labels


def test_it_is_small_enough_to_send(made):
    assert made[0].stat().st_size < 4_000_000


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_name_makes_the_page_wider_than_the_window(made, chromium, viewport):
    page = watched(chromium, made[0], viewport=viewport, color_scheme="light")
    # Also with everything open that is folded.
    page.tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    page.tab.wait_for_timeout(1000)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.said == []
    page.tab.context.close()


def test_every_class_can_be_chosen_and_its_worst_example_comes_first(made, chromium):
    path, aum, labels = made
    page = watched(chromium, path, viewport=WIDE, color_scheme="light")
    offered = page.tab.locator("#class option").all_inner_texts()
    assert [name for name in offered if name in NAMES] == NAMES
    page.tab.select_option("#class", label=NAMES[33])
    until(page.tab, SETTLED)
    rows = page.tab.locator(".tabulator-row")
    assert {rows.nth(at).locator("[tabulator-field=given]").inner_text().strip() for at in range(5)} == {NAMES[33]}
    of_class = [int(one) for one in aum.ids.values[aum.values.argsort()] if labels[int(one)] == 33]
    assert int(rows.first.locator("[tabulator-field=id]").inner_text()) == of_class[0]
    assert page.said == []
    page.tab.context.close()
