"""`assay lds`: do the values predict what leaving many examples out together does?"""

from pathlib import Path
from typing import TYPE_CHECKING

from .values import MaybeWhole, Switch, Whole

if TYPE_CHECKING:
    from ..core.lds import LDS


def lds_(
    run: Path,
    /,
    *methods: str,
    subsets: Whole = 100,
    share: float | None = None,
    count: MaybeWhole = None,
    queries: Whole = 50,
    other_seeds: Whole = 0,
    only_other_seeds: Switch = False,
    form: str = "weight",
    draw: Whole = 0,
    recompute: Switch = False,
    tolerance: float = 0.0,
    where: str = "processes",
) -> None:
    """Leave many examples out together: do the values predict it?

    This measures LDS, the linear datamodeling score. Subsets of the examples are drawn, and the training is repeated without each. Spearman's rho
    over the subsets holds the sum of the values left out against the loss after training: for each drawn query, if the method has values per
    query (their mean is LDS), and for the whole target.
    Every finished training is kept, so that the same command goes on where it was stopped, and other methods or queries cost no
    training. The result is saved in the run's folder, lds/, beside those of other methods, queries and draws.

    Example: assay lds runs/digits tracin sgd_influence --subsets 100 --share 0.1 --other-seeds 3

    Parameters
    ----------
    run
        Folder of the run.
    methods
        METHOD or METHOD:option=value,... of methods whose values say what helps and what harms, all of the same target.
    subsets
        How many subsets are drawn.
    share
        Share of the examples that each subset leaves out; by default 0.1.
    count
        How many each leaves out, instead of a share; 1 is leave-one-out.
    queries
        How many rows of the target are drawn as queries, at most.
    other_seeds
        Train without each subset under so many other seeds too: other weights, other order. With 2 or more it is told how well the losses under one of
        them hold against the mean of the rest: what one real retraining reaches.
    only_other_seeds
        Leave out the recorded training repeated.
    form
        How examples are left out of the recorded batches: weight, removed or renormalised, as `loo` takes it.
    draw
        Random seed by which subsets and queries are drawn.
    recompute
        Do every training again, even those that the folder already holds.
    tolerance
        Largest distance between replayed and recorded parameters at an epoch's end, as a fraction of the norm of the recorded ones; 0 (the default)
        requires identical bits.
    where
        inline, one after the other; processes, side by side on this machine, as many as there are cores for, at the recorded number of threads each, or processes:N (with
        several GPUs each its own); or slurm, each a job of the cluster, with options such as slurm:partition=gpu,gpus=1,time=240 (minutes; see docs/cluster.md).
    """
    from ..cluster.executors import executor
    from ..experiments.execution import Execution
    from ..experiments.lds import LeaveOutGrid, lds, name_of
    from ..replay.config import ReplayConfig
    from ..runs.run import Run
    from .console import say, showing_progress

    opened = Run(run)
    grid = LeaveOutGrid(subsets, share, count, queries, not only_other_seeds, other_seeds, form, draw)  # type: ignore[arg-type]
    with showing_progress() as progress, executor(where, threads=opened.header.threads) as pool:
        made = lds(
            opened,
            methods,
            grid=grid,
            save="recompute" if recompute else True,
            replay_config=ReplayConfig(tolerance=tolerance),
            execution=Execution(pool, progress),
        )
    show_lds(made)
    say(f"Saved in {opened.paths.lds(name_of(made))}.")


def show_lds(made: "LDS") -> None:
    """The agreements as tables, and what they mean in sentences."""
    from ..core.lds import OTHERS, RETRAINING
    from .console import caution, say, show_table
    from .output import Written

    say(
        f"{made.left_out:,} of {made.examples:,} examples left out together, {made.subsets:,} subsets; target {made.target}, {made.rows:,} rows."
    )
    for title, found in (
        (f"LDS: mean rho over {len(made.queries):,} queries", made.single),
        ("Rho of the whole target", made.whole),
    ):
        cells = {(one.method, one.truth): Written(one.words, [one.value, one.low, one.high]) for one in found}
        rows = [
            (method, *(cells.get((method, truth), Written("", None)) for truth in made.truths))
            for method in dict.fromkeys(one.method for one in found)
        ]
        if rows:
            show_table(title, ("method", *made.truths), rows, right=made.truths)
    say("Spearman's rho over the subsets, with its 95 % interval over subsets and queries; 1 is a perfect prediction, 0 none.")
    if any(one.method == RETRAINING for one in made.whole):
        say(
            f"{RETRAINING}: the losses under one of the {len(made.seeds)} {OTHERS} against the mean of the rest, which is what one real retraining "
            "reaches."
        )
    for warning in made.warnings:
        caution(warning)
