"""Which laws a method or a policy breaks: how the laws are tested themselves."""

from collections.abc import Callable, Mapping

import pytest


def broken_laws(laws: Mapping[Callable, Callable], subject) -> set[str]:
    """Names of the laws that apply to `subject` and fail on it."""
    broken = set()
    for law, applies in laws.items():
        if applies(subject):
            try:
                law(subject)
            except (Exception, pytest.fail.Exception):
                broken.add(law.__name__)
    return broken
