"""`assay cleanse`: how many of the worst examples should go?"""

from pathlib import Path

from .values import MaybeWhole, Whole


def cleanse_(
    run: Path,
    score: str,
    /,
    *,
    counts: str | None = None,
    retrain: str = "last",
    draws: Whole = 5,
    by: str = "loss",
    executor: str = "processes",
    workers: MaybeWhole = None,
) -> None:
    """Train without the worst examples: how many should go?

    More and more of the worst by a score are left out. Each count is held against as many random examples and against none. The best count is chosen on what --validation held out; what the
    test examples say is shown and never chosen by. The curve is saved in the run's folder, and so is every finished training, so that
    the same command goes on where it was stopped.

    Example: assay cleanse runs/digits sgd_influence --counts 1,10,100

    Parameters
    ----------
    run
        Folder of the run.
    score
        A score of the run, METHOD or METHOD:option=value,...; it is computed if it is not there.
    counts
        How many to leave out, with commas; by default 1, 3, 10, 30, ... up to all that are predicted harmful, or half of the examples
        where the score only ranks.
    retrain
        last (the last epoch, from its checkpoint) or all (everything, from the beginning).
    draws
        How many random removals of each count.
    by
        Whether validation loss or validation accuracy chooses.
    executor
        processes (side by side on this machine) or inline.
    workers
        How many processes; by default as many as there are cores for, at the recorded number of threads each.
    """
    from ..cluster.executors import executor as pool_of
    from ..core.errors import UsageError
    from ..experiments.score import score as scored
    from ..runs.run import Run
    from .console import say, showing_progress

    try:
        wanted = None if counts is None else [int(part) for part in counts.split(",")]
    except ValueError as error:
        raise UsageError(f"--counts {counts!r} is no list of whole numbers such as 1,10,100.") from error
    opened = Run(run)
    with showing_progress() as progress, pool_of(executor, workers, opened.header.threads) as pool:
        scores = next(iter(scored(opened, score, save=True, pool=pool, progress=progress).values()))
        curve = cleansed(opened, scores, wanted, retrain, draws, by, pool, progress)
    show_curve(curve)
    say(curve.sentence)
    if curve.best:
        say(f"Next: assay choose {run} {score} --policy remove_worst --count auto --retrain {retrain}")


def cleansed(run, scores, counts, retrain, draws, by, pool, progress):
    """The curve of a score, saved in the run's folder."""
    from ..experiments.cleanse import cleanse
    from ..runs.artefacts import save_curve

    curve = cleanse(
        run, scores, counts=counts, retrain=retrain, draws=draws, chosen_by=by, pool=pool, save=True, progress=progress
    )
    save_curve(curve, run.paths.curve(f"{curve.scores}-{curve.retrained}"))
    return curve


def show_curve(curve) -> None:
    """The curve as a table: nothing removed, then for each count the worst and the mean of the random ones."""
    from .console import show_table

    fields = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    rows = [("0", "none", *(cell(curve.none, field) for field in fields))]
    for count in curve.counts:
        drawn = curve.random(count)
        rows.append((f"{count:,}", "worst", *(cell(curve.worst(count), field) for field in fields)))
        rows.append((f"{count:,}", f"random x {len(drawn)}", *(spread(drawn, field) for field in fields)))
    columns = ("removed", "which", *(field.replace("_", " ") for field in fields))
    trained = "the last epoch" if curve.retrained == "last" else "everything"
    show_table(f"Trained {trained} again without the worst by {curve.scores}", columns, rows, right=("removed", *columns[2:]))


def cell(removal, field: str) -> str:
    """One number of one training."""
    value = getattr(removal, field)
    return f"{100 * value:.2f} %" if field.endswith("accuracy") else f"{value:.4f}"


def spread(removals, field: str) -> str:
    """Mean and half the range of a number over trainings."""
    values = [getattr(one, field) for one in removals]
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if field.endswith("accuracy") else f"{mean:.4f} ± {half:.4f}"
