"""Report: one page of a run and everything made from it, written to a file."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path

from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import AssayError, NotWritten, OutputExists
from ..core.scores import Scores, ScoreTable
from ..reports import render
from ..runs.disk import beginning, replace
from ..runs.run import Run
from .plan import has_plan, load_data, plan_of
from .report_data import MOVED, ReportContent, report_data

MARK = b'<meta name="generator" content="assay'
"""What a page of ours begins with; only such a file is written over unasked."""


@moved_keywords(MOVED)
@checked_arguments
def report(
    run: str | Path | Run,
    table: ScoreTable | Mapping[str, Scores],
    path: str | Path | None = None,
    content: ReportContent | None = None,
) -> Path:
    """Write the report and return its path.

    Args:
        run: The run.
        table: Scores to show; the first is the one that the page opens with.
        path: Path of the HTML file; by default `report.html` in the run's folder.
        content: What is shown beside the scores, such as `assay.ReportContent(decision=decision, verdict=verdict)`. Images that cannot be shown are
            warned of, and the page says why.

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
    content = content or ReportContent()
    if content.examples is None and has_plan(run):
        content = dataclasses.replace(content, examples=load_data(plan_of(run)).train)
    shown, examples = report_data(run, table, content), content.examples
    if examples is not None and examples.pictures and shown.shown.pictures is None:
        warnings.warn(next(note for note in shown.notes if note.startswith("No pictures")), stacklevel=4)
    replace(target, render(shown).encode())
    return target
