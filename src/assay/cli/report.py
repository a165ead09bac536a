"""`assay report`: everything on one page."""

from pathlib import Path
from typing import Any, Literal

from .values import MaybeWhole


def report_(
    run: Path,
    /,
    *,
    decision: str | None = None,
    out: Path | None = None,
    first: str | None = None,
    most: MaybeWhole = None,
    duplicates: str | None = None,
    within: float | None = None,
    metric: Literal["cosine", "euclidean"] | None = None,
    inputs: list[str] | None = None,
    title: str = "",
) -> None:
    """Write everything on one HTML page.

    It shows the run, its scores and how alike they rank, how many labels seem wrong, probes, near duplicates, a map of features, the examples
    that harm and help most, the curves of cleansing, the decision and its verdict, where they exist, and needs no network.

    Parameters
    ----------
    run
        Folder of the run.
    decision
        Name of the decision to show; not needed if there is only one.
    out
        Path of the HTML file; by default report.html in the run's folder.
    first
        The score that the page opens with; by default the score that the decision was made by, else aum, else the first score.
    most
        How many examples are shown one by one, at most; by default 2,000, or all that the decision changes, if these are 10,000 at most.
    duplicates
        Features by which near duplicates are sought, such as penultimate, as `assay duplicates` takes them; by default the inputs, where that is soon done.
    within
        How near duplicates are: a part of the median distance of an example to its nearest other; 0.1 by default.
    metric
        cosine (the default) or euclidean, for near duplicates.
    inputs
        NAME=FILE: rows, such as embeddings, for --duplicates rows:NAME. An npy file with a row for each example, in the run's order, or an npz file
        of `inputs` and `ids`.
    title
        Heading of the page.
    """
    from ..core.errors import UnknownName, UsageError
    from ..data.arrays import rows_by_id
    from ..experiments.duplicates import duplicates as groups_of
    from ..experiments.report import report
    from ..experiments.report_data import ReportOptions
    from ..methods import METHODS
    from ..runs.artefacts import load_decision, load_verdict
    from ..runs.run import Run
    from .console import say
    from .saved import curves_of, decision_of, explanations_of, saved_scores
    from .score import file_named, named_once

    opened = Run(run)
    table = {one.title: one for one in saved_scores(opened)}
    chosen = verdict = None
    if decision is not None or any(opened.paths.decision("x").parent.glob("*.parquet")):
        path = decision_of(opened, decision)
        chosen = load_decision(path)
        if opened.paths.verdict(path.stem).exists():
            verdict = load_verdict(opened.paths.verdict(path.stem))
    # A policy that reads no score decides without any.
    explained = explanations_of(opened)
    if not table and not explained and (chosen is None or (chosen.lineage is not None and "scores" in chosen.lineage.parents)):
        raise UsageError(f"{run} holds no scores; make them with `assay score {run} all`.")
    opener = first or next((name for name in table if chosen is not None and chosen.title.endswith(f" by {name}")), "")
    # A score with a meaning of its sign is read most easily.
    opener = opener or next(
        (name for name, one in table.items() if (cls := METHODS.get(one.method)) and cls.below_zero), next(iter(table), "")
    )
    if opener and opener not in table:
        raise UnknownName("score in this run", opener, table)
    table = dict(sorted(table.items(), key=lambda item: item[0] != opener))
    curves = curves_of(opened, table)
    rows = {name: rows_by_id(file, opened.ids) for name, file in named_once("inputs", map(file_named, inputs or ())).items()}
    sought: dict[str, Any] = {"features": duplicates, "within": within, "metric": metric, "inputs": rows or None}
    sought = {name: value for name, value in sought.items() if value is not None}
    groups = groups_of(opened, **sought) if sought else None
    options = ReportOptions(title=title, most=most, explanations=explained, duplicates=groups)
    where = report(opened, table, out, decision=chosen, verdict=verdict, curves=curves, options=options)
    say(f"{where} ({where.stat().st_size / 1e6:.1f} MB)")
