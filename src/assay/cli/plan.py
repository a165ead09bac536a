"""`assay plan`: what will it cost?"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .record import check_several, epochs_kept, given, set_also
from .values import MaybeWhole, Switch, Whole

if TYPE_CHECKING:
    from ..experiments.estimate import Cost


def plan_(
    run: Path | None = None,
    /,
    *methods: str,
    plan: Path | None = None,
    data: str | None = None,
    net: str | None = None,
    epochs: MaybeWhole = None,
    batch: MaybeWhole = None,
    models: MaybeWhole = None,
    folds: MaybeWhole = None,
    select: str | None = None,
    device: str | None = None,
    view: str | None = None,
    keep_logits: bool | None = None,
    checkpoints: str | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    seeds: Whole = 5,
    draws: Whole = 5,
    subsets: Whole = 100,
    other_seeds: Whole = 0,
    only_other_seeds: Switch = False,
    decision: str | None = None,
    detect: float | None = None,
    where: str | None = None,
    inputs: list[str] | None = None,
) -> None:
    """Say what trainings will cost before they are begun.

    How many trainings, of how many steps, the hours on this machine, and the bytes on disk. A few steps are trained and measured. Of a run: what verify, cleanse, lds, loo and probe take; with methods such as shapley, which
    train a learner on parts of the examples, what these take. Without a run: what `assay record` with the same flags takes.

    Example: assay plan runs/digits --seeds 10 --detect 0.5 --where processes:4

    Example: assay plan runs/digits shapley:permutations=50 data_oob

    Example: assay plan --data cifar10:path=data --net resnet18 --epochs 200 --models 10 --device cuda

    Parameters
    ----------
    run
        Folder of a run that a plan recorded; none for a recording.
    methods
        METHOD or METHOD:option=value,...: methods that train a learner on parts of the examples.
    plan
        TOML plan of a recording.
    data
        Dataset with options (see `assay datasets`).
    net
        Net with options (see `assay nets`).
    epochs
        Epochs of the recording.
    batch
        Examples per step.
    models
        How many models are trained.
    folds
        Into how many folds the examples are split, each predicted by a model of the others.
    select
        Live selector that chooses the examples of each epoch.
    device
        cpu (the default) or cuda.
    view
        train, or eval for an extra pass after every epoch.
    keep_logits
        Store every epoch's logits.
    checkpoints
        Epochs whose checkpoint is kept: every, last, none, or epochs such as 0,5,10.
    set_
        Any other setting of the recipe as key=value; may be given several times.
    seeds
        Seeds of verify.
    draws
        Random removals of cleanse for each count.
    subsets
        Subsets of lds.
    other_seeds
        Other seeds that lds trains under without each subset.
    only_other_seeds
        Of lds: leave out the recorded training repeated.
    decision
        Name of the decision that --detect is asked of; not needed if there is only one.
    detect
        A difference in test accuracy, in percentage points: how many seeds it takes to find it.
    where
        Where the trainings would run, as the commands take it: for as many side by side the time is said too. By default processes; of the nets of --models
        or --folds, in this process one after the other, as `assay record` trains them unless it is told, and else in one thread each.
    inputs
        With methods: NAME=FILE, as `assay score` takes them; may be given several times.
    """
    from ..cluster.executors import side_by_side, threads_of_torch
    from ..core.errors import UsageError
    from ..data.arrays import rows_by_id
    from ..experiments.estimate import estimate_recording, estimate_retraining
    from ..experiments.game_costs import estimate_games
    from ..experiments.lds import LeaveOutGrid
    from ..experiments.plan import Plan
    from ..experiments.power import seeds_needed
    from ..runs.artefacts import load_decision
    from ..runs.disk import study_in
    from ..runs.paths import RunPaths, StudyPaths
    from ..runs.run import Run
    from .console import say
    from .saved import decision_of
    from .score import file_named, named_once

    recipe: dict[str, Any] = {"epochs": epochs, "batch": batch, "device": device}
    set_also(recipe, set_ or [])
    kept = {
        "view": view,
        "keep_logits": keep_logits,
        "checkpoints": epochs_kept(checkpoints) if checkpoints is not None else None,
    }
    settings = given(
        {
            "data": data,
            "net": net,
            "models": models,
            "folds": folds,
            "select": select,
            "recipe": given(recipe),
            "record": given(kept),
        }
    )
    if run is None:
        if detect is not None or decision is not None:
            raise UsageError("--detect and --decision are of a run; name its folder.")
        made = Plan.read(plan, settings) if plan is not None else Plan.make(settings)
        if where is None:
            # One after the other, in one process.
            show_costs([estimate_recording(made)], 1, "")
            return
        check_several(made, where)
        with threads_of_torch(1):
            show_costs([estimate_recording(made)], side_by_side(where), where)
        return
    if plan is not None or settings:
        raise UsageError(
            f"{run} says how it was trained; leave out {', '.join(['plan'] * (plan is not None) + list(settings))}, or the run for a recording."
        )
    where = "processes" if where is None else where
    paths = StudyPaths(run)
    if (name := study_in(paths.plan)) and not RunPaths(run).header.exists():
        place, file = (shlex.quote(str(one)) for one in (run, paths.plan))
        raise UsageError(
            f"{run} is a study and not a run; `assay study {name} {place} --plan {file} --dry-run` says what it takes."
        )
    opened = Run(run)
    if methods:
        whole = {
            "seeds": seeds, "draws": draws, "subsets": subsets, "other_seeds": other_seeds, "only_other_seeds": only_other_seeds,
            "decision": decision, "detect": detect,
        }  # fmt: skip
        defaults = plan_.__kwdefaults__ or {}
        if unread := [f"--{name.replace('_', '-')}" for name, value in whole.items() if value != defaults[name]]:
            raise UsageError(
                f"{' and '.join(unread)} {'is' if len(unread) == 1 else 'are'} of whole trainings; leave the methods out, or the flag."
            )
        rows = {name: rows_by_id(file, opened.ids) for name, file in named_once("inputs", map(file_named, inputs or ())).items()}
        costs = estimate_games(opened, methods, inputs=rows)
        show_costs(costs, side_by_side(where, opened.header.threads), where, GAMES)
        return
    if inputs is not None:
        raise UsageError("--inputs is read by methods; name one that trains a learner, with features=rows:NAME.")
    grid = LeaveOutGrid(subsets, same_seed=not only_other_seeds, other_seeds=other_seeds)
    costs = estimate_retraining(opened, seeds=seeds, draws=draws, grid=grid)
    show_costs(costs, side_by_side(where, opened.header.threads), where)
    if detect is not None:
        say(seeds_needed(load_decision(decision_of(opened, decision)), detect, run=opened).sentence)


STEPS = "Steps alone were measured: reading data, starting processes, evaluating and scoring are not in it, nor is waiting in a cluster's queue."
GAMES = (
    "Trainings were measured with what they predict, as the game makes them, and counted to its last draw: error= and truncate= may end it sooner. Learners that are trained many "
    "at once, or grow by an example at a time, stay in one process."
)


def show_costs(costs: "list[Cost]", workers: int, where: str, said: str = STEPS) -> None:
    """The costs as a table, and what is in them."""
    from ..core.words import lasted
    from ..reports.protocol import sized
    from .console import say, show_table
    from .output import Written

    rows = []
    for one in costs:
        times = [one.seconds_per_step, one.seconds(), *([one.seconds(workers)] if where else [])]
        cells = (Written(lasted(seconds), seconds) for seconds in times)
        rows.append((one.what, one.trainings, one.steps, *cells, Written(sized(one.bytes), one.bytes)))
    beside = [f"{workers:,} side by side"] if where else []
    columns = ("trainings for", "trainings", "steps of each", "a step", "one after the other", *beside, "on disk")
    show_table("What it takes, as measured on this machine", columns, rows, right=columns[1:])
    say(said)
