"""The application: its verbs by name, and the one seam where errors become a sentence and an exit code."""

import sys
from collections.abc import Sequence

import cyclopts

from .. import __version__

app = cyclopts.App(
    name="assay",
    version=__version__,
    help="What every training example is worth: record once, score with every method, decide, verify, report.\n\n"
    "Try `assay demo`. Every verb explains itself with --help.",
    help_format="markdown",
    help_on_error=False,
)

VERBS = {
    "demo": "demo",
    "record": "record",
    "score": "score",
    "choose": "choose",
    "verify": "verify",
    "report": "report",
    "inspect": "inspect",
    "import": "exchange",
    "export": "exchange",
    "methods": "tables",
    "policies": "tables",
    "datasets": "tables",
    "nets": "tables",
}
"""Which module holds each verb."""

for _verb, _module in VERBS.items():
    # As text, so that cyclopts imports a verb's module only when its help or its work is asked for.
    app.command(f"assay.cli.{_module}:{_verb}_", name=_verb)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run_app(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Every error is one sentence on stderr, with a traceback only after `--debug`."""
    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _say(debug, " ".join(str(error).split()), 2)
    except KeyboardInterrupt:
        return _say(
            debug,
            "interrupted; what was committed is safe, and the same command with --resume (record) or as it was goes on.",
            INTERRUPTED,
        )
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone; that is no error of the command.
        sys.stderr.close()
        return 0
    except Exception as error:
        from ..core.errors import AssayError

        if isinstance(error, AssayError):
            return _say(debug, str(error), error.exit_code)
        return _say(debug, f"unexpected {type(error).__name__}: {error}. Run again with --debug and report the traceback.", 1)
    return 0


def _say(debug: bool, words: str, code: int) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"assay: {words}", file=sys.stderr)
    return code
