"""`assay probe`: which method finds wrong labels best in these data?"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from .values import Switch, Whole

if TYPE_CHECKING:
    from ..core.probe import Probe
    from ..runs.run import Run


def probe_(
    run: Path,
    /,
    *methods: str,
    flip: float | None = None,
    kind: str = "confusion",
    seed: Whole = 0,
    recompute: Switch = False,
    where: str = "inline",
) -> None:
    """Say which method finds labels flipped on purpose.

    A few labels are flipped, the training is recorded again, and each method is held against the flipped ones, which needs no other truth. The
    recording under these labels is kept in the run's folder, so that the same command goes on where it was
    stopped, and other methods cost no training. The data themselves are not changed.

    Where they rank among the others says how many of those are wrong, if wrong labels rank like them. With an extra class, whose examples are
    resisted less, they give an upper end, and the threshold of AUM.

    Example: assay probe runs/digits --flip 0.02

    Example: assay probe runs/digits --kind extra_class

    Example: assay probe runs/digits aum loss knn_disagreement

    Parameters
    ----------
    run
        Folder of a run that `assay record` made.
    methods
        METHOD or METHOD:option=value,... of methods that rank suspects; by default, and by `all`, all that the run allows.
    flip
        Fraction of the labels that are flipped; by default 0.02, and with an extra class 1 / (classes + 1).
    kind
        confusion (to a class that the model confuses the given one with, as people do), uniform (to any other class) or extra_class (to a class
        more, which no example truly has).
    seed
        Random seed by which labels are drawn.
    recompute
        Score again, even if a result is saved.
    where
        Where it trains: inline, in this process; processes; or slurm, as a job of the cluster with options such as slurm:partition=gpu,gpus=1,time=240 (see
        docs/cluster.md).
    """
    from ..cluster.executors import executor
    from ..experiments.execution import Execution
    from ..experiments.probe import Flips, probe
    from ..runs.run import Run
    from .console import say, showing_progress

    opened = Run(run)
    with showing_progress() as progress, executor(where, threads=opened.header.threads) as pool:
        found = probe(
            opened,
            methods or None,
            flips=Flips(flip, kind, seed),  # type: ignore[arg-type]
            save="recompute" if recompute else True,
            execution=Execution(pool, progress),
        )
    show_probe(found)
    say(next_step(opened, found))


def next_step(run: "Run", found: "Probe") -> str:
    """The next command; none that drops more than every count says can be wrong, and none where the interval of the count by margins holds 0."""
    from ..core.probe import to_drop
    from ..experiments.choose import counting_wrong
    from ..experiments.wrong_labels import count_if_possible

    folder, title, by_margins = run.folder, shlex.quote(found.best), count_if_possible(run)
    advised = to_drop(by_margins, [found])
    if by_margins is None or not advised:
        return f"Nothing is to be dropped. Look at the first ones on the page. Next: assay report {folder} --first {title}"
    count = "auto" if advised == by_margins.whole else advised
    return f"By margins: {by_margins.sentence} Next: assay choose {folder} {title} --policy {counting_wrong()}:count={count}"


def show_probe(found: "Probe") -> None:
    """How well each method found the flipped labels, and what that means."""
    from .console import say, show_table
    from .output import Written, written
    from .score import counts_by_class

    rows = [
        (
            one.title,
            Written(one.words, [one.auc, one.low, one.high]),
            one.average_precision,
            round(one.recovered * found.flipped),
            Written("the best", None) if one.adjusted is None else written(one.adjusted, ".3g"),
            one.wrong,
        )
        for one in found.methods
    ]
    columns = (
        "method",
        "AUC, 95 % interval",
        "average precision",
        f"in the first {found.inspected:,}",
        "p against the best",
        "wrong before",
    )
    how = found.planted if found.threshold else f"{found.planted} by {found.kind}"
    show_table(f"{found.flipped:,} of {found.examples:,} labels {how}", columns, rows, right=columns[1:])
    say(found.sentence)
    say(
        "Intervals are over the draw of examples; p is corrected for all pairs of methods. Labels that were wrong before count as right, for all methods alike."
    )
    if found.recall is not None:
        say(
            f"The count of wrong labels sees {found.recall:.0%} of the {'flipped ones' if not found.threshold else 'threshold examples'}."
        )
    if found.count_sentence:
        say(found.count_sentence)
    if found.threshold:
        say(found.threshold_sentence)
        counts_by_class("Labels below AUM's threshold by class", "below", found.threshold.by_class)
