"""`assay cleanse`: how many of the worst examples should be removed?"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .values import Whole

if TYPE_CHECKING:
    from ..core.curve import Curve, Removal
    from .output import Written


def cleanse_(
    run: Path,
    score: str,
    /,
    *,
    counts: str | None = None,
    retrain: str | None = None,
    draws: Whole = 5,
    by: str = "loss",
    tolerance: float = 0.0,
    where: str = "processes",
) -> None:
    """Find out how many of the worst examples to remove.

    The net is retrained without increasing numbers of the worst examples by a score. Each count is compared with as many random examples and with
    none. The best count is chosen on the examples that --validation held out; test results are shown but never used for the choice. The curve is
    saved in the run's folder, and so is every finished training, so that the same command goes on where it was stopped.

    Example: assay cleanse runs/digits sgd_influence --counts 1,10,100

    Parameters
    ----------
    run
        Folder of the run.
    score
        A score of the run, METHOD or METHOD:option=value,...; it is computed if the run has not saved it.
    counts
        Numbers of examples to leave out, separated by commas; by default 1, 3, 10, 30, ... up to all that are predicted harmful, or half of the
        examples where the score only ranks.
    retrain
        last (the last epoch, from its checkpoint) or all (all epochs, from the beginning). By default, the steps that the score covers: all if its
        window is more than the last epoch (such as sgd_influence without window=last), or if it predicts a change of the target
        and has no window (such as influence); else last.
    draws
        Number of random removals for each count.
    by
        Whether the best count has the least validation loss or the highest validation accuracy.
    tolerance
        Largest distance between replayed and recorded parameters at an epoch's end, as a fraction of the norm of the recorded ones; 0 (the default)
        requires identical bits.
    where
        inline, one after the other; processes, side by side on this machine, as many as there are cores for, at the recorded number of threads each, or processes:N (with
        several GPUs each its own); or slurm, each a job of the cluster, with options such as slurm:partition=gpu,gpus=1,time=240 (minutes; see docs/cluster.md).
    """
    from ..cluster.executors import executor
    from ..core.errors import UsageError
    from ..experiments.choose import counting
    from ..experiments.cleanse import RemovalGrid, cleanse, undecided
    from ..experiments.execution import Execution
    from ..experiments.scorable import is_replayed
    from ..experiments.score import score as scored
    from ..methods import parse
    from ..replay.config import ReplayConfig
    from ..runs.run import Run
    from .console import say, showing_progress

    try:
        wanted = None if counts is None else [int(part) for part in counts.split(",")]
    except ValueError as error:
        raise UsageError(f"--counts {counts!r} is no list of whole numbers such as 1,10,100.") from error
    opened, how = Run(run), ReplayConfig(tolerance=tolerance)
    grid = RemovalGrid(wanted, retrain, draws, by)  # type: ignore[arg-type]
    with showing_progress() as progress, executor(where, threads=opened.header.threads) as pool:
        method = parse(score)
        (scores,) = scored(
            opened,
            method,
            save=True,
            replay_config=how if is_replayed(opened, method) else None,
            execution=Execution(pool if method.retrains else None, progress),
        ).values()
        curve = cleanse(
            opened,
            scores,
            grid=grid,
            save=True,
            replay_config=how,
            execution=Execution(pool, progress),
        )
    show_curve(curve)
    say(curve.sentence)
    if opened.members:
        say(f"The score is the mean over {len(opened.members) + 1} models; the first of them was retrained.")
    if words := undecided(scores):
        say(words)
    elif curve.misled:
        say(
            f"The test examples do not confirm this count; look at the first examples before anything is dropped: assay report {run}"
        )
    elif curve.best:
        allowing = f" --tolerance {tolerance:g}" if tolerance else ""
        say(
            f"Next: assay choose {run} {shlex.quote(score)} --policy {counting()[0]} --count auto --retrain {curve.retrained}{allowing}"
        )


def show_curve(curve: "Curve") -> None:
    """Print the curve as a table: nothing removed, then for each count the worst examples removed and the mean over random removals."""
    from .console import say, show_table

    fields = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    rows = [("0", "none", *(cell(curve.none, field) for field in fields))]
    for count in curve.counts:
        drawn = curve.random(count)
        rows.append((f"{count:,}", "worst", *(cell(curve.worst(count), field) for field in fields)))
        rows.append((f"{count:,}", f"random x {len(drawn)}", *(spread(drawn, field) for field in fields)))
    columns = ("removed", "which", *(field.replace("_", " ") for field in fields))
    trained = "the last epoch" if curve.retrained == "last" else "everything"
    show_table(f"Retrained {trained} without the worst by {curve.scores}", columns, rows, right=("removed", *columns[2:]))
    if any(len(curve.random(count)) > 1 for count in curve.counts):
        say("±: half of the range over the random removals, which is no interval of their mean.")


def cell(removal: "Removal", field: str) -> "Written":
    """One field of one retraining, as a table cell."""
    from .output import percent, written

    value = getattr(removal, field)
    return percent(value) if field.endswith("accuracy") else written(value, ".4f")


def spread(removals: "Sequence[Removal]", field: str) -> "Written":
    """Mean and half the range of a field over several retrainings; for a single retraining, the number alone."""
    from .output import Written

    if len(removals) == 1:
        return cell(removals[0], field)
    values = [getattr(one, field) for one in removals]
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    text = f"{100 * mean:.2f} ± {100 * half:.2f} %" if field.endswith("accuracy") else f"{mean:.4f} ± {half:.4f}"
    return Written(text, [mean, half])
