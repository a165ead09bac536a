"""A real Chromium. Where there is none, the tests fail and say how to get one."""

import os
import pathlib

import pytest

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
