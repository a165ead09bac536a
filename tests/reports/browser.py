"""A tab of a real Chromium, and how to wait in it."""

import dataclasses

import pytest

READY = "html[data-ready=yes]"
SETTLED = "document.querySelector('#table').getAttribute('aria-busy') !== 'true'"


@dataclasses.dataclass
class Watched:
    """A tab that writes down everything it says and asks for."""

    tab: object
    said: list
    asked: list


def watched(browser, path, **options):
    context = browser.new_context(**options)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(f"error: {error}"))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector(READY)
    return Watched(tab, said, asked)


def until(tab, condition, seconds=20):
    """Wait for a condition of the page. Playwright's own waiting evaluates strings, which the page's policy forbids."""
    for _ in range(20 * seconds):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    pytest.fail(f"After {seconds} seconds still not: {condition}")
