"""A real Chromium. Where there is none, the tests fail and say how to get one. A module that has a `path` to a page gets its `tab`."""

import os
import pathlib

import pytest

from reports.browser import SETTLED, until, watched

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("ASSAY_CHROMIUM", "/usr/bin/chromium")
    if not pathlib.Path(path).exists():
        pytest.fail(f"No Chromium at {path}: install the package `chromium`, or set ASSAY_CHROMIUM to the executable.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(chromium, path):
    page = watched(chromium, path, viewport={"width": 1440, "height": 900}, color_scheme="light")
    yield page
    page.tab.context.close()


@pytest.fixture
def tab(opened):
    """The open page, everything reset; whatever a test does, the page stays silent and asks for nothing."""
    opened.tab.click("#reset")
    until(opened.tab, SETTLED)
    opened.tab.click("#clear")
    opened.tab.evaluate("document.querySelector('.tabulator-tableholder').scrollTop = 0")
    yield opened.tab
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == opened.asked[:1]
