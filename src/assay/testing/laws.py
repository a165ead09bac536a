"""A law is a function that raises an AssertionError if its subject breaks it, with one sentence that says what it requires."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Law = Callable[[Any], None]
Laws = Mapping[Law, Callable[[Any], bool]]
"""Each law, and the methods or policies that it applies to."""


@contextlib.contextmanager
def refusal(error: type[Exception], words: str = "") -> Iterator[None]:
    """A context manager that asserts that its block raises this error, with a message that matches `words` (a regular expression)."""
    try:
        yield
    except error as raised:
        assert re.search(words, str(raised)), f"refused, but not with the words {words!r}: {raised}"
    else:
        raise AssertionError(f"not refused; a {error.__name__} that says {words!r} was expected")


def broken_laws(laws: Laws, subject: object) -> dict[str, Exception]:
    """The laws that apply to `subject` and that it breaks, by name, with the error that each raised."""
    broken: dict[str, Exception] = {}
    for law, applies in laws.items():
        if applies(subject):
            try:
                law(subject)
            except Exception as error:
                broken[law.__name__] = error
    return broken


def hold(title: str, laws: Laws, subject: object) -> None:
    """Assert that a subject passes all laws that apply to it.

    Raises:
        AssertionError: The subject breaks a law; the message says which, and how.
    """
    for law, applies in laws.items():
        if not applies(subject):
            continue
        try:
            law(subject)
        except Exception as error:
            asks = (law.__doc__ or "").strip().splitlines()[0].rstrip(".")
            how = " ".join(str(error).split()) or type(error).__name__
            raise AssertionError(f"{title} breaks the law `{law.__name__}` ({asks}): {how}") from error
