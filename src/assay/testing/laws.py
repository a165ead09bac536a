"""What a law is: a function that raises an AssertionError on what breaks it, with one sentence for what it asks."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Law = Callable[[Any], None]
Laws = Mapping[Law, Callable[[Any], bool]]
"""Each law, and which methods or policies it speaks of."""


@contextlib.contextmanager
def refusal(error: type[Exception], words: str = "") -> Iterator[None]:
    """Hold that the block raises this error, and that its message says these words (a regular expression)."""
    try:
        yield
    except error as raised:
        assert re.search(words, str(raised)), f"refused, but not with the words {words!r}: {raised}"
    else:
        raise AssertionError(f"not refused; a {error.__name__} that says {words!r} was expected")


def broken_laws(laws: Laws, subject: object) -> dict[str, Exception]:
    """The laws that speak of `subject` and fail on it, by name, and how each failed."""
    broken: dict[str, Exception] = {}
    for law, applies in laws.items():
        if applies(subject):
            try:
                law(subject)
            except Exception as error:
                broken[law.__name__] = error
    return broken


def hold(title: str, laws: Laws, subject: object) -> None:
    """Hold one subject to all laws that speak of it.

    Raises:
        AssertionError: It breaks one; says which, and how.
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
