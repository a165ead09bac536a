"""The command line: one file per verb. Nothing heavy is imported before a verb runs."""

import sys
from collections.abc import Sequence

from .app import app, run_app

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run_app(sys.argv[1:] if arguments is None else list(arguments)))
