"""Report: one page of a run and everything made from it, written to a file."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.arguments import checked_arguments, moved_keywords
from ..core.curve import Curve
from ..core.decision import Decision
from ..core.errors import AssayError, NotWritten, OutputExists
from ..core.scores import Scores, ScoreTable
from ..core.trial import Verdict
from ..data.examples import Examples
from ..reports import render
from ..runs.disk import beginning, replace
from ..runs.run import Run
from .plan import has_plan, load_data, plan_of
from .report_data import MOVED, STRANGERS, ReportOptions, report_data

MARK = b'<meta name="generator" content="assay'
"""What a page of ours begins with; only such a file is written over unasked."""


@moved_keywords(MOVED)
@checked_arguments
def report(
    run: str | Path | Run,
    table: ScoreTable | Mapping[str, Scores],
    path: str | Path | None = None,
    *,
    decision: Decision | None = None,
    verdict: Verdict | None = None,
    curves: Sequence[Curve] = (),
    examples: Examples | None = None,
    options: ReportOptions | None = None,
) -> Path:
    """Write the report and return its path.

    Args:
        run: The run.
        table: Scores to show; the first is the one that the page opens with.
        path: Path of the HTML file; by default `report.html` in the run's folder.
        decision, verdict, curves, options: As `report_data` takes them.
        examples: The examples themselves, for their pictures, texts or cells; a run with a plan reads them again by default. Images that cannot be
            shown, and labels unlike the recorded ones, give a warning, and the page says why.

    Raises:
        OutputExists: `path` is a file that assay did not make.
        Mismatch: Parts that are not of the same examples.
        NotWritten: The disk refuses.
    """
    run = run if isinstance(run, Run) else Run(run)
    target = Path(path) if path is not None else run.paths.report
    try:
        if target.is_dir() or (target.exists() and MARK not in beginning(target)):
            raise OutputExists(f"{target} is there and is no report of assay; name another file.")
    except AssayError:
        raise
    except (OSError, ValueError) as error:
        raise NotWritten(f"{target} cannot be written ({error}); name another file.") from error
    if examples is None and has_plan(run):
        examples = load_data(plan_of(run)).train
    shown = report_data(run, table, decision=decision, verdict=verdict, curves=curves, examples=examples, options=options)
    if examples is not None and examples.pictures and shown.shown.pictures is None:
        warnings.warn(next(note for note in shown.notes if note.startswith("No pictures")), stacklevel=4)
    for note in shown.notes:
        if note.startswith(STRANGERS):
            warnings.warn(note, stacklevel=4)
    replace(target, render(shown).encode())
    return target
