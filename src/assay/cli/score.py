"""`assay score`: from a recorded run to one number per example and method."""

from pathlib import Path
from typing import TYPE_CHECKING

from .values import MaybeWhole, Switch

if TYPE_CHECKING:
    from torch import Tensor


def score_(
    run: Path,
    /,
    *methods: str,
    again: Switch = False,
    schedule: str = "sqrt",
    memory: MaybeWhole = None,
    tolerance: float = 0.0,
    reference: list[str] | None = None,
    executor: str = "processes",
    workers: MaybeWhole = None,
) -> None:
    """Give every example of a run a number by each method.

    The scores are saved in the run's folder. One that was made from this very recording is taken from there.
    Methods that read steps or kept models (sgd_influence, liveval, tracin, ...) take the training again; what they predict the change of
    is their option target: validation (what --validation held out), test, class=NAME, id=ID, or ids=FILE with a CSV of id and weight.

    Example: assay score runs/digits aum dual:window=5 sgd_influence:target=class=3

    Parameters
    ----------
    run
        Folder of the run.
    methods
        METHOD or METHOD:option=value,...; `all` is every method that the run allows. `assay methods` lists them.
    again
        Compute scores even if they are there.
    schedule
        How steps are gone backwards: sqrt (the default; every state where they take at most 256 MB, else about 2 sqrt(steps) of them),
        all (every state), every=STEPS (a mark every so many steps), tree or tree=PARTS (fewest states).
    memory
        Bytes that states may take; the fastest schedule that keeps to it is used.
    tolerance
        How far training taken again may end from the recorded parameters, as a part of their norm; 0 (the default) asks for the same bits.
        Scores that take the training again are only taken from the folder where they were computed with the same tolerance.
    reference
        NAME=RUN or NAME=FILE: the last model of another run, or a state_dict in a safetensors file, for oti:reference=NAME; may be given
        several times.
    executor
        Where loo trains again without each example: processes (side by side on this machine) or inline.
    workers
        How many processes; by default as many as there are cores for, at the recorded number of threads each.
    """
    from ..cluster.executors import executor as pool_of
    from ..core.errors import UsageError, some
    from ..core.scores import Direction, ordered
    from ..core.words import worded
    from ..experiments.again import Replaying
    from ..experiments.plan import has_plan
    from ..experiments.score import scorable, score_apart
    from ..runs.run import Run
    from .console import say, show_table, showing_progress

    opened = Run(run)
    able, unable = scorable(opened)
    wanted = [one for name in methods for one in (able if name == "all" else [name])]
    if not wanted:
        raise UsageError(f"Name a method, or `all`; this run allows {', '.join(able)}.")
    how = Replaying(schedule, memory, tolerance)
    with showing_progress() as progress, pool_of(executor, workers, opened.header.threads) as pool:
        table = score_apart(
            opened,
            list(dict.fromkeys(wanted)),
            save=True,
            again=again,
            replaying=how,
            references=dict(map(referred, reference or ())),
            pool=pool,
            progress=progress,
        )
    rows, warned, partly = [], any(one.warnings for one in table.values()), any(len(one.unscored) for one in table.values())
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
                *([f"{len(one):,}"] if partly else []),
                *([("warned, see below" if one.warnings else "")] if warned else []),
            )
        )
    columns = ["method", "least", "mean", "largest", "unit", "direction", "first ids"]
    columns += ["scored"] * partly + ["trust"] * warned
    show_table(f"{len(opened.ids):,} examples of {run}", columns, rows, right=("least", "mean", "largest", "scored"))
    for title, one in table.items():
        for name, value in one.diagnostics.items():
            say(f"{title}: {name}: {worded(value)}")
        for warning in one.warnings:
            say(f"{title}: WARNING: {warning}")
    if "all" in methods:
        for name, why in unable.items():
            say(f"left out {name}: {why}")
    title, one = next(iter(table.items()))
    # Where large values are the suspect ones, keeping the largest would keep the suspects.
    policy = "bottom_k" if one.direction is Direction.HIGH_IS_SUSPECT else "top_k"
    told = has_plan(opened) and one.direction.ranks_suspects and one.harmful() is not None
    step = f"cleanse {run} {title}" if told else f"choose {run} {title} --policy {policy} --keep 0.9"
    # A score is only found again under the tolerance that it was computed with.
    allowing = f" --tolerance {tolerance:g}" if one.lineage is not None and "tolerance" in one.lineage.parents else ""
    say(f"Saved in {opened.paths.folder / 'scores'}. Next: assay {step}{allowing}")


def referred(text: str) -> tuple[str, "dict[str, Tensor]"]:
    """`NAME=RUN` or `NAME=FILE` as a name and parameters."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..core.errors import UsageError
    from ..runs.run import Run

    name, equals, place = text.partition("=")
    if not name or not equals or not place:
        raise UsageError(f"--reference {text!r} is not NAME=RUN or NAME=FILE.")
    if Path(place).is_dir():
        run = Run(place)
        if not run.checkpoints():
            raise UsageError(f"--reference {name}: {place} kept no model; record it with --checkpoints last.")
        return name, run.model(run.checkpoints()[-1])
    try:
        return name, load_file(place)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--reference {name}: {place} is neither a run nor a readable safetensors file ({error}).") from error
