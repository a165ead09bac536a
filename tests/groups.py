"""Which group of tests a set of parameters belongs to."""

import pytest


def slow(*sets):
    """Sets of parameters that only the second group goes through, each a value or a tuple of values."""
    return [pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow) for one in sets]
