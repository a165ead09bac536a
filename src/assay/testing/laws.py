"""A law is a function that raises an AssertionError if its subject breaks it, with one sentence that says what it requires."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import options
from ..core.errors import UnknownName, UsageError
from ..core.method import AbstractMethod, Iterative

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


def close(method: AbstractMethod, here: Tensor, there: Tensor, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    """Assert that values are equal up to rounding, or for a method that iterates, up to ten times the residual that it leaves."""
    if isinstance(method.exactness, Iterative):
        rtol = max(rtol, 10 * method.exactness.rtol)
        atol = max(atol, rtol * float(there.abs().max()))
    torch.testing.assert_close(here, there, rtol=rtol, atol=atol)


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


def always(subject: object) -> bool:
    """True for every subject."""
    return True


def a_frozen_dataclass_with_a_docstring(cls: Any) -> None:
    """The class is a frozen dataclass with a docstring of its own."""
    assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__ + "("), "it has no docstring"
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen, "it is no frozen dataclass"  # type: ignore[union-attr]


def mistyped(kind: str) -> Law:
    """The law that a mistyped option of a class of this kind, such as `method`, is refused with the right name."""

    def a_mistyped_option_is_refused_with_the_nearest(cls: Any) -> None:
        """An option that is not there is refused with the name of the one that is meant."""
        for field in dataclasses.fields(cls)[:1]:
            words = rf"No option of {kind} '{cls.name}' is named '{field.name}s'. Did you mean .*{field.name}"
            with refusal(UnknownName, words):
                options.build(cls, kind, {f"{field.name}s": "3"})

    return a_mistyped_option_is_refused_with_the_nearest


def refuses(kind: str, text: str) -> Law:
    """The law that options given as text, such as `k=0`, are refused with a message that names the first of them."""

    def options_out_of_range_are_refused(cls: Any) -> None:
        """A value that an option does not take is refused when the class is instantiated, with the name of the option."""
        given = options.split(f"{cls.name}:{text}")[1]
        fields = dataclasses.fields(cls)
        assert {*given} <= {field.name for field in fields}, f"it has no such options: {text}"
        needed = {one.name for one in fields if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING}
        assert needed <= {*given}, f"behind {text} give {', '.join(sorted(needed - {*given}))} too, which it needs"
        with refusal(UsageError, rf"\b{next(iter(given))}\b"):
            options.build(cls, kind, given)

    return options_out_of_range_are_refused


def hold_class(cls: Any, kind: str, laws: Laws, refused: Sequence[str]) -> None:
    """Assert that a class passes these laws, and that it refuses each of these options.

    Raises:
        AssertionError: The class breaks a law; the message says which, and how.
    """
    hold(cls.name, laws, cls)
    for text in refused:
        hold(f"{cls.name}:{text}", {refuses(kind, text): always}, cls)
