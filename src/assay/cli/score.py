"""`assay score`: from a recorded run to one number per example and method."""

from pathlib import Path

from .values import Switch


def score_(run: Path, /, *methods: str, again: Switch = False) -> None:
    """Give every example of a run a number by each method.

    The scores are saved in the run's folder. One that was made from this very recording is taken from there.

    Example: assay score runs/digits aum dual:window=5 forgetting

    Parameters
    ----------
    run
        Folder of the run.
    methods
        METHOD or METHOD:option=value,...; `all` is every method that the run allows. `assay methods` lists them.
    again
        Compute scores even if they are there.
    """
    from ..core.errors import UsageError, some
    from ..core.scores import Direction, ordered
    from ..experiments.score import scorable, score
    from ..runs.run import Run
    from .console import say, show_table

    opened = Run(run)
    able, unable = scorable(opened)
    wanted = [one for name in methods for one in (able if name == "all" else [name])]
    if not wanted:
        raise UsageError(f"Name a method, or `all`; this run allows {', '.join(able)}.")
    table = score(opened, list(dict.fromkeys(wanted)), save=True, again=again)
    rows = []
    for title, one in table.items():
        first = one.ids.take(ordered(one.hardness(), one.ids, descending=True)[:5])
        values = one.values
        rows.append(
            (
                title,
                f"{values.min():.4g}",
                f"{values.mean():.4g}",
                f"{values.max():.4g}",
                one.unit,
                one.direction.value,
                some(first, len(first)),
            )
        )
    columns = ("method", "least", "mean", "largest", "unit", "direction", "first ids")
    show_table(f"{len(table.ids):,} examples of {run}", columns, rows, right=("least", "mean", "largest"))
    if "all" in methods:
        for name, why in unable.items():
            say(f"left out {name}: {why}")
    title, one = next(iter(table.items()))
    # Where large values are the suspect ones, keeping the largest would keep the suspects.
    policy = "bottom_k" if one.direction is Direction.HIGH_IS_SUSPECT else "top_k"
    say(f"Saved in {opened.paths.folder / 'scores'}. Next: assay choose {run} {title} --policy {policy} --keep 0.9")
