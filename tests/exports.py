"""What the test file of a method or a policy exports for the laws that hold for all of them."""

import importlib
from typing import Any

NOTHING = object()


def exported(room: str, name: str, what: str, default: Any = NOTHING) -> Any:
    """What `tests/ROOM/test_NAME.py` calls `what`; `default` where it has no such thing, if one is given."""
    module = importlib.import_module(f"{room}.test_{name}")
    found = getattr(module, what, default)
    if found is NOTHING:
        raise AssertionError(f"tests/{room}/test_{name}.py exports no {what}; the laws read it there.")
    return found
