"""`assay attribute`: from a recorded run to what every training example is worth to each query."""

from pathlib import Path

from .values import MaybeWhole, Switch, Whole


def attribute_(
    run: Path,
    method: str,
    /,
    *,
    top: Whole = 5,
    query: list[str] | None = None,
    recompute: Switch = False,
    schedule: str = "sqrt",
    memory: MaybeWhole = None,
    tolerance: float = 0.0,
) -> None:
    """Say which training examples help and harm single predictions.

    The values of all queries by all examples are written into the run's folder, attributions/METHOD, and reused if they were made from
    this same recording. Queries are the rows of the method's option target: validation (the examples that --validation held out), misclassified
    (those that the last model gets wrong), test, class=NAME, id=ID, or ids=FILE.

    Example: assay attribute runs/digits tracin --top 10 --query 17

    Parameters
    ----------
    run
        Folder of the run.
    method
        METHOD or METHOD:option=value,... of a method that has values per query, such as tracin:target=test.
    top
        How many helpful and how many harmful examples are named.
    query
        Id of a query; may be given several times. By default the first one.
    recompute
        Compute the values even if they are saved already.
    schedule
        Which states are stored for replaying steps backwards, as `assay score` takes it.
    memory
        Largest number of bytes for stored states; the fastest schedule within it is used.
    tolerance
        Largest distance between replayed and recorded parameters at an epoch's end, as a fraction of the norm of the recorded ones; 0 (the default)
        requires identical bits. Saved values are reused only if they were computed with the same tolerance.
    """
    from ..core.errors import UsageError
    from ..core.words import worded
    from ..experiments.attribute import attribute
    from ..replay.config import ReplayConfig
    from ..runs.run import Run
    from .console import caution, say, show_table, showing_progress

    if top < 1:
        raise UsageError(f"--top {top} is below 1; ask for one example or more.")
    opened = Run(run)
    with showing_progress() as progress:
        how = ReplayConfig(schedule, memory, tolerance)
        found = attribute(opened, method, recompute=recompute, replay_config=how, progress=progress)
    known = {str(one): one for one in found.queries}
    wanted = list(dict.fromkeys(query)) if query else [str(found.queries[0])]
    for text in wanted:
        best = found.top(known.get(text, text), top)
        rows = []
        for place in range(max(len(best.helpful.ids), len(best.harmful.ids))):
            cells: list[object] = []
            for end in (best.helpful, best.harmful):
                cells += [str(end.ids[place]), float(end.values[place])] if place < len(end.ids) else ["", ""]
            rows.append((str(place + 1), *cells))
        show_table(
            f"Query {text}, class {best.label} ({found.unit})",
            ("", "helpful", "value", "harmful", "value"),
            rows,
            right=("", "value"),
        )
    for name, value in found.diagnostics.items():
        say(f"{found.title}: {name}: {worded(value)}")
    for warning in found.warnings:
        caution(warning, found.title)
    say(
        f"{len(known):,} queries by {len(found.ids):,} examples, saved in {opened.paths.attribution(found.title)}. "
        f"Next: assay attribute {run} {found.title} --query ID, or for one number per example assay score {run} {found.title}"
    )
