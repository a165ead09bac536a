"""`assay study`: replicate a whole experiment of a paper."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .record import given, methods_named, planting, set_also
from .values import MaybeWhole, Switch

if TYPE_CHECKING:
    from ..core.study import Study

ONLY = {"scaling": ("angles",), "difficulty": ("checkpoint_interval", "pd_layers", "pd_alpha")}
"""Flags that one study reads and the other does not."""


def study_(
    study: str,
    folder: Path,
    /,
    *,
    scale: str = "small",
    plan: Path | None = None,
    data: str | None = None,
    net: str | None = None,
    plant: str | None = None,
    seed: MaybeWhole = None,
    epochs: MaybeWhole = None,
    batch: MaybeWhole = None,
    lr: float | None = None,
    device: str | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    metrics: list[str] | None = None,
    sizes: str | None = None,
    fractions: str | None = None,
    seeds: MaybeWhole = None,
    probe_epochs: MaybeWhole = None,
    models: MaybeWhole = None,
    per_class: Switch = False,
    angles: str | None = None,
    checkpoint_interval: MaybeWhole = None,
    pd_layers: MaybeWhole = None,
    pd_alpha: float | None = None,
    executor: str = "processes",
    workers: MaybeWhole = None,
) -> None:
    """Replicate a study: does pruning beat the power law?

    In each part of the data, models trained on that part rank the examples by difficulty. The hardest, the easiest or random ones are kept, and new
    nets are trained on them at as many steps as on everything. The study and its page are kept in the folder, and so is every finished recording and
    training, so that the same command goes on where it was stopped.

    Example: assay study scaling studies/digits --scale tiny

    Parameters
    ----------
    study
        scaling (Sorscher et al. 2022: sizes times fractions, power laws, the frontier, the perceptron's theory) or difficulty (which measure
        to prune by: EL2N, prediction depth, VoG and others).
    folder
        Folder of the study, its recordings and its trainings.
    scale
        tiny (a minute), small (less than an hour on two cores) or full (the paper's numbers, for GPUs). It sets every option for which no flag is
        given.
    plan
        TOML file with data, net, seed and the tables plant and recipe.
    data
        Dataset with options (see `assay datasets`); digits by default; must be given with --scale full.
    net
        Net with options (see `assay nets`).
    plant
        Labels to make wrong, such as uniform:rate=0.1.
    seed
        Random seed of the first repetition; the seeds of the others count up from it.
    epochs
        Epochs of the final models trained on everything; all other final models take as many steps.
    batch
        Examples per step.
    lr
        Learning rate; with a schedule, its largest value.
    device
        cpu (the default) or cuda.
    set_
        Any other setting of the recipe as key=value; may be given several times.
    metrics
        Scores that measure difficulty, such as el2n:at=5,cg_score; the study difficulty also takes el2n, pd and vog as its source defined them.
    sizes
        Sizes of the parts of the data, as fractions of the training examples, separated by commas.
    fractions
        Fractions of each part to keep, separated by commas; 1 is always included.
    seeds
        How many repetitions, each with its own part of the data, scores, random choice and weights.
    probe_epochs
        Epochs of the recording that ranks the examples by difficulty.
    models
        How many nets that recording has.
    per_class
        Keep the same fraction of every class.
    angles
        scaling only: angles between probe and teacher in the theory, in degrees, separated by commas; none for no theory.
    checkpoint_interval
        difficulty only: number of epochs between the checkpoints that VoG reads.
    pd_layers
        difficulty only: how many of the last layers prediction depth looks at.
    pd_alpha
        difficulty only: fraction of the examples in which prediction depth looks for neighbours; 1 by default.
    executor
        processes (side by side on this machine) or inline.
    workers
        How many processes; by default as many as there are cores.
    """
    from ..cluster.executors import executor as pool_of
    from ..core.errors import UnknownName, UsageError
    from ..experiments.execution import Execution
    from ..experiments.plan import merged, settings_in
    from ..runs.paths import StudyPaths
    from ..studies.difficulty import DifficultyGrid, study_difficulty
    from ..studies.scaling import ScalingGrid, study_scaling
    from .console import say, showing_progress

    if study not in ONLY:
        raise UnknownName("study", study, ONLY)
    own = {
        "angles": () if angles == "none" else numbers("angles", angles),
        "checkpoint_interval": checkpoint_interval,
        "pd_layers": pd_layers,
        "pd_alpha": pd_alpha,
    }
    for name, value in own.items():
        if value is not None and name not in ONLY[study]:
            raise UsageError(f"--{name.replace('_', '-')} is not read by the study {study}; leave it out.")
    recipe: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "device": device}
    set_also(recipe, set_ or [])
    flags = given(
        {
            "data": data,
            "net": net,
            "seed": seed,
            "plant": planting(plant) if plant is not None else None,
            "recipe": given(recipe),
        }
    )
    how: dict[str, Any] = {
        "metrics": None if metrics is None else methods_named(metrics),
        "sizes": numbers("sizes", sizes),
        "fractions": numbers("fractions", fractions),
        "seeds": seeds,
        "probe_epochs": probe_epochs,
        "models": models,
        "per_class": per_class,
        **{name: value for name, value in own.items() if value is not None},
    }
    run, grid = (study_scaling, ScalingGrid) if study == "scaling" else (study_difficulty, DifficultyGrid)
    settings = merged(settings_in(plan) if plan is not None else {}, flags)
    with showing_progress() as progress, pool_of(executor, workers) as pool:
        found = run(folder, settings, scale=scale, grid=grid(**how), execution=Execution(pool, progress))  # type: ignore[arg-type]
    show_study(found)
    say(f"The page: {StudyPaths(folder).page}")


def numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Parse a text such as `0.1,0.5` into numbers."""
    from ..core.errors import UsageError

    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--{flag} {text!r} is no list of numbers such as 0.1,0.5.") from error


def show_study(found: "Study") -> None:
    """Print the mean test errors as a table, then the sentences that state the results."""
    from ..core.study import ALL, EASY, HARD, RANDOM
    from .console import say, show_table

    rows = []
    ways = [(RANDOM, ""), *((arm, metric) for metric in found.metrics for arm in (HARD, EASY))]
    for size in found.sizes:
        fractions = {one.fraction for one in found.trained if one.size == size}
        # Parts of other seeds may differ by one example per class.
        cells = {fraction: round(found.examples(size, fraction)) for fraction in fractions}
        for fraction in sorted(cells, reverse=True):
            asked = [(ALL, "")] if fraction == 1 else ways
            errors = {way: found.errors(*way, size, fraction) for way in asked}
            rows += [
                (f"{size:.0%}", f"{fraction:.0%}", f"{cells[fraction]:,}", arm, metric or "–", *spread(errors[arm, metric]))
                for arm, metric in asked
            ]
    columns = ("chosen from", "kept", "examples", "arm", "by", "test error, %", "sd")
    show_table(f"Study {found.name}: {len(found.seeds)} seeds", columns, rows, right=("kept", "examples", *columns[5:]))
    for words in (*found.sentences, *found.notes):
        say(words)


def spread(errors: list[float]) -> tuple[str, str]:
    """Mean and standard deviation over seeds, in percent."""
    import statistics

    deviation = f"{100 * statistics.stdev(errors):.2f}" if len(errors) > 1 else "–"
    return f"{100 * statistics.fmean(errors):.2f}", deviation
