"""The command line: one file per command. No heavy package is imported before a command runs, and no package at all before signal handlers are
installed.
"""

import sys
import warnings
from collections.abc import Sequence

from . import signals

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    signals.listen()
    try:
        from .app import run_app, warn

        warnings.showwarning = warn  # type: ignore[assignment]
        code = run_app(sys.argv[1:] if arguments is None else list(arguments))
        signals.leaving()
    except KeyboardInterrupt:
        signals.leave()
    sys.exit(signals.code() if signals.heard else code)


def __getattr__(name: str):
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(".app", __name__)
