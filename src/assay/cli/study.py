"""`assay study`: replicate a whole experiment of a paper."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from .record import given, methods_named, planting, set_also
from .values import MaybeWhole, Switch

if TYPE_CHECKING:
    from ..core.cleansing import CleansingStudy
    from ..core.fidelity import FidelityStudy, PublishedAgreement, Spread
    from ..core.replication import ReplicationStudy
    from ..core.study import Study
    from ..runs.artefacts import AnyStudy
    from .output import Written

PLAN = ("plan", "data", "net", "plant", "seed", "epochs", "batch", "lr", "device", "set")
PRUNING = (*PLAN, "metrics", "sizes", "fractions", "seeds", "probe_epochs", "models", "per_class")
READ = {
    "scaling": (*PRUNING, "angles"),
    "difficulty": (*PRUNING, "checkpoint_interval", "pd_layers", "pd_alpha"),
    "cleansing": (*PLAN, "validation", "methods", "remove", "trials", "retrain", "chosen_by"),
    "fidelity": ("plan", "adult", "mnist", "newsgroups", "nets", "methods", "seeds", "examples", "regulariser"),
    "complexity_gap": (*PLAN, "metrics", "fractions", "seeds", "probe_epochs", "models", "rate", "rep_num", "unbalance_ratio"),
    "liveval": (
        *PLAN, "validation", "modes", "methods", "num_flip", "num_corrupt", "num_boundary", "num_scores", "intensity", "n_epochs", "selection_epochs", "fraction", "seeds",
        "flip_from", "flip_to", "delta_min", "delta_max", "delta_step", "eps_min", "eps_max",
    ),
    "coresets": (*PLAN, "validation", "methods", "selectors", "fractions", "seeds", "budget", "batches"),
    "pruning": (
        *PLAN, "methods", "fractions", "seeds", "early_epochs", "window", "trajectory_len", "window_size", "decay", "c_d", "c_0", "cutoff", "strata",
        "n_neighbor", "gamma", "budget", "batches", "corrupt", "corrupt_intensity",
    ),
}  # fmt: skip
"""Flags that each study reads."""


def study_(
    study: str,
    folder: Path,
    /,
    *,
    scale: str | None = None,
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
    validation: float | None = None,
    methods: list[str] | None = None,
    remove: str | None = None,
    trials: MaybeWhole = None,
    retrain: Literal["last", "all"] | None = None,
    chosen_by: Literal["loss", "accuracy"] | None = None,
    adult: str | None = None,
    mnist: str | None = None,
    newsgroups: str | None = None,
    nets: list[str] | None = None,
    examples: MaybeWhole = None,
    regulariser: Literal["losses", "optimizer"] | None = None,
    rate: float | None = None,
    rep_num: MaybeWhole = None,
    unbalance_ratio: float | None = None,
    modes: list[str] | None = None,
    num_flip: str | None = None,
    num_corrupt: str | None = None,
    num_boundary: str | None = None,
    num_scores: MaybeWhole = None,
    intensity: str | None = None,
    n_epochs: str | None = None,
    selection_epochs: MaybeWhole = None,
    fraction: str | None = None,
    flip_from: str | None = None,
    flip_to: str | None = None,
    delta_min: str | None = None,
    delta_max: str | None = None,
    delta_step: str | None = None,
    eps_min: str | None = None,
    eps_max: str | None = None,
    selectors: list[str] | None = None,
    budget: Literal["epochs", "steps"] | None = None,
    batches: str | None = None,
    early_epochs: MaybeWhole = None,
    window: MaybeWhole = None,
    trajectory_len: MaybeWhole = None,
    window_size: MaybeWhole = None,
    decay: float | None = None,
    c_d: float | None = None,
    c_0: float | None = None,
    cutoff: float | None = None,
    strata: MaybeWhole = None,
    n_neighbor: MaybeWhole = None,
    gamma: float | None = None,
    corrupt: float | None = None,
    corrupt_intensity: float | None = None,
    where: str = "processes",
    dry_run: Switch = False,
) -> None:
    """Replicate a study of a paper, on your data or the papers'.

    Studies of pruning: in each part of the data, models trained on that part rank the examples by difficulty. The hardest, the easiest or random ones are kept, and new
    nets are trained on them at as many steps as on everything. The study of cleansing repeats a training without the worst examples by influence, that of
    fidelity trains without each example and compares scores with what that does. The study and its page are kept in the folder, and so is every finished recording and training, so that the same command goes on where it was
    stopped, and one with more `--seeds` or `--trials` adds those that are missing.

    Example: assay study scaling studies/digits --scale tiny

    Parameters
    ----------
    study
        scaling (Sorscher et al. 2022: sizes times fractions, power laws, the frontier, the perceptron's theory), difficulty (which measure
        to prune by: EL2N, prediction depth, VoG and others), cleansing (Hara et al. 2019, Suzuki et al. 2021: accuracy without the worst examples),
        fidelity (Hara et al. 2019: scores against leave-one-out on Adult and MNIST), complexity_gap (Nohyun et al. 2023: wrong labels, pruning, agreement with
        training dynamics, sub-terms), liveval (Xu et al. 2025: flipped, corrupted and transformed examples, how early they are found, windows), coresets (all
        selectors and scores over fractions, beside random) or pruning (DUAL and TDDS with the baselines of their tables).
    folder
        Folder of the study, its recordings and its trainings.
    scale
        tiny (a minute), small (the default; less than an hour on two cores; cleansing two hours) or the paper's numbers, for GPUs: full for scaling and difficulty, paper for the others. It
        sets every option for which no flag is given.
    plan
        TOML file with data, net, seed and the tables plant, recipe and study, which has the scale and what the study combines by the names of its flags; of fidelity the
        table study only.
    data
        Dataset with options (see `assay datasets`); digits by default; must be given with --scale full or paper, and for cleansing with small.
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
    validation
        cleansing and liveval: fraction of the training examples that is held out, by which scores are made and, in cleansing, counts chosen.
    methods
        cleansing, fidelity, liveval and coresets: scores, such as sgd_influence,influence:damping=0.1; in cleansing random removal is always the control. pruning: rows of
        the papers' tables, such as el2n,dyn_unc,dual_beta,rs2; random is always the control.
    remove
        cleansing only: how many of the worst are left out, separated by commas.
    trials
        cleansing only: how many repetitions, each with its own split, weights, order, scores and random choice.
    retrain
        cleansing only: repeat the last epoch (the default) or all of training.
    chosen_by
        cleansing only: loss (the default) or accuracy on the validation examples chooses the count.
    adult
        fidelity only: folder of the files of Adult.
    mnist
        fidelity only: folder of MNIST's four files; of its ones and sevens.
    newsgroups
        fidelity only: scikit-learn's folder of data, with 20 Newsgroups in it; of its groups on the hardware of IBM's and of Apple's computers.
    nets
        fidelity only: logreg, dnn or both.
    examples
        fidelity only: training examples, and as many for validation; 200 in the protocol.
    regulariser
        fidelity only: in the losses of the examples, as in the protocol (the default), or in the optimizer, as weight decay, where methods by a Gauss-Newton matrix give scores too.
    rate
        complexity_gap only: fraction of the labels that are made wrong for mislabel detection.
    rep_num
        complexity_gap only: how often examples of other classes are drawn for the score.
    unbalance_ratio
        complexity_gap only: how many of them for each example of the class.
    modes
        liveval only: experiments, separated by commas; train_and_eval, flip, corrupt, early_detection, boundary_detection, sweep.
    num_flip
        liveval only: how many labels are flipped, separated by commas.
    num_corrupt
        liveval only: how many images are blurred, separated by commas.
    num_boundary
        liveval only: how many images are transformed, separated by commas.
    num_scores
        liveval only: how many examples are tracked, the altered ones among them.
    intensity
        liveval only: how far images are transformed, separated by commas.
    n_epochs
        liveval only: after how many epochs examples are scored, in early and boundary detection, separated by commas.
    selection_epochs
        liveval only: after how many epochs examples are scored in the other experiments; as many as --epochs by default.
    fraction
        liveval only: fractions that train_and_eval keeps, separated by commas.
    flip_from
        liveval only: class whose labels are flipped, by name.
    flip_to
        liveval only: the class that they are given.
    delta_min
        liveval only: smallest windows of the sweep, separated by commas.
    delta_max
        liveval only: largest windows of the sweep.
    delta_step
        liveval only: steps of the window, of the sweep.
    eps_min
        liveval only: lower thresholds of the sweep.
    eps_max
        liveval only: upper thresholds of the sweep.
    selectors
        coresets only: policies with their options but for keep and seed; by default all that keep a given fraction.
    budget
        coresets and pruning: as many epochs (the default; steps of ImageNet at the scale paper) or steps for what is kept as for everything.
    batches
        coresets and pruning: batch sizes by fraction, such as 0.2:64,0.1:32; none for the same everywhere.
    early_epochs
        pruning only: epochs that DUAL reads.
    window
        pruning only: its window, in epochs.
    trajectory_len
        pruning only: epochs that TDDS reads, whatever is pruned.
    window_size
        pruning only: the window of TDDS, in epochs.
    decay
        pruning only: weight of the newest window of TDDS; 0.9 by default.
    c_d
        pruning only: how late beta sampling turns to easy examples.
    c_0
        pruning only: concentration of beta sampling; 15 by default.
    cutoff
        pruning only: fraction of all examples that CCS and D2 drop first.
    strata
        pruning only: number of strata of CCS; 50 by default.
    n_neighbor
        pruning only: number of neighbours of D2; 5 by default.
    gamma
        pruning only: how fast what D2 takes from neighbours falls with the distance; 0.1 by default.
    corrupt
        pruning only: fraction of the training images that are corrupted.
    corrupt_intensity
        pruning only: how far.
    where
        inline, one after the other; processes, side by side on this machine, as many as there are cores, or processes:N (with several GPUs each its own);
        or slurm, each a job of the cluster, with options such as slurm:partition=gpu,gpus=1,time=240 (minutes; see docs/cluster.md).
    dry_run
        Say how many trainings of how many steps it takes, the hours on this machine and the bytes, and train nothing but a few steps that are measured. With --where slurm also
        print the script that would be sent next, and how many jobs it is, and send nothing.
    """
    from ..cluster.executors import Announced, executor, side_by_side
    from ..core.errors import UnknownName, UsageError
    from ..experiments.execution import Execution
    from ..experiments.plan import merged, settings_in
    from ..runs.paths import StudyPaths
    from ..studies.cleansing import CleansingGrid, study_cleansing
    from ..studies.complexity_gap import ComplexityGapGrid, study_complexity_gap
    from ..studies.coresets import CoresetsGrid, study_coresets
    from ..studies.costs import estimate_study
    from ..studies.difficulty import DifficultyGrid, study_difficulty
    from ..studies.fidelity import FidelityGrid, study_fidelity
    from ..studies.liveval import LiveValGrid, study_liveval
    from ..studies.pruning import PruningGrid, study_pruning
    from ..studies.scaling import ScalingGrid, study_scaling
    from .console import say, showing_progress
    from .plan import show_costs

    if study not in READ:
        raise UnknownName("study", study, READ)
    how: dict[str, Any] = {
        "metrics": None if metrics is None else methods_named(metrics),
        "sizes": numbers("sizes", sizes),
        "fractions": numbers("fractions", fractions),
        "seeds": seeds,
        "probe_epochs": probe_epochs,
        "models": models,
        "per_class": per_class or None,
        "angles": () if angles == "none" else numbers("angles", angles),
        "checkpoint_interval": checkpoint_interval,
        "pd_layers": pd_layers,
        "pd_alpha": pd_alpha,
        "methods": None if methods is None else methods_named(methods),
        "remove": counts("remove", remove),
        "trials": trials,
        "retrain": retrain,
        "chosen_by": chosen_by,
        "adult": adult,
        "mnist": mnist,
        "newsgroups": newsgroups,
        "nets": None if nets is None else methods_named(nets),
        "examples": examples,
        "regulariser": regulariser,
        "rate": rate,
        "rep_num": rep_num,
        "unbalance_ratio": unbalance_ratio,
        "modes": None if modes is None else methods_named(modes),
        "num_flip": counts("num-flip", num_flip),
        "num_corrupt": counts("num-corrupt", num_corrupt),
        "num_boundary": counts("num-boundary", num_boundary),
        "num_scores": num_scores,
        "intensity": numbers("intensity", intensity),
        "n_epochs": counts("n-epochs", n_epochs),
        "selection_epochs": selection_epochs,
        "fraction": numbers("fraction", fraction),
        "flip_from": flip_from,
        "flip_to": flip_to,
        "delta_min": counts("delta-min", delta_min),
        "delta_max": counts("delta-max", delta_max),
        "delta_step": counts("delta-step", delta_step),
        "eps_min": numbers("eps-min", eps_min),
        "eps_max": numbers("eps-max", eps_max),
        "selectors": None if selectors is None else methods_named(selectors),
        "budget": budget,
        "batches": by_fraction(batches),
        "early_epochs": early_epochs,
        "window": window,
        "trajectory_len": trajectory_len,
        "window_size": window_size,
        "decay": decay,
        "c_d": c_d,
        "c_0": c_0,
        "cutoff": cutoff,
        "strata": strata,
        "n_neighbor": n_neighbor,
        "gamma": gamma,
        "corrupt": corrupt,
        "corrupt_intensity": corrupt_intensity,
    }
    planned = {
        "plan": plan, "data": data, "net": net, "plant": plant, "seed": seed, "epochs": epochs, "batch": batch, "lr": lr, "device": device,
        "set": set_, "validation": validation,
    }  # fmt: skip
    for name in given({**planned, **how}):
        if name not in READ[study]:
            raise UsageError(f"--{name.replace('_', '-')} is not read by the study {study}; leave it out.")
    recipe: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "device": device}
    set_also(recipe, set_ or [])
    flags = given(
        {
            "data": data,
            "net": net,
            "seed": seed,
            "validation": validation,
            "plant": planting(plant) if plant is not None else None,
            "recipe": given(recipe),
        }
    )
    written = dict(settings_in(plan)) if plan is not None else {}
    # A plan that a study wrote holds its scale and what it combines too.
    table = combined(study, written.pop("study", {}))
    scale = scale or table.pop("scale", "small")
    settings, grid = merged(written, flags), {**{name: value for name, value in table.items() if name != "scale"}, **given(how)}
    if strange := [name for name in settings if "data" not in READ[study]]:
        raise UsageError(f"The plan's {strange[0]} is not read by the study {study}; leave it out.")
    carried_out: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[[Any], None]]] = {
        "scaling": (study_scaling, ScalingGrid, show_study),
        "difficulty": (study_difficulty, DifficultyGrid, show_study),
        "cleansing": (study_cleansing, CleansingGrid, show_cleansing),
        "fidelity": (study_fidelity, FidelityGrid, show_fidelity),
        "complexity_gap": (study_complexity_gap, ComplexityGapGrid, show_replication),
        "liveval": (study_liveval, LiveValGrid, show_replication),
        "coresets": (study_coresets, CoresetsGrid, show_replication),
        "pruning": (study_pruning, PruningGrid, show_replication),
    }
    function, combination_of, show = carried_out[study]
    # The study of fidelity has no plan of one training.
    asked: dict[str, Any] = {**({"settings": settings} if settings else {}), "scale": scale, "grid": combination_of(**grid)}
    if dry_run:
        show_costs(estimate_study(function, **asked), side_by_side(where), where)
        say("That is the most: what the folder holds already is not taken off, and of equal trainings one is done.")
        if where.partition(":")[0] != "slurm":
            return
    with showing_progress() as progress, executor(where, dry_run=dry_run) as pool:
        try:
            show(function(folder, **asked, execution=Execution(pool, progress)))
        except Announced as told:
            say(told.script)
            say(f"{told.jobs:,} job{'s' if told.jobs > 1 else ''} would be sent; those of later steps are like them.")
            return
    say(f"The page: {StudyPaths(folder).page}")


def combined(study: str, table: object) -> dict[str, Any]:
    """The table `study` of a plan: the scale, and what the study combines, by the names of its flags.

    Raises:
        UnknownName: The study combines nothing of that name.
        UsageError: It is no table.
    """
    from ..core.errors import UnknownName, UsageError

    if not isinstance(table, dict):
        raise UsageError(f"The plan's study = {table!r} is no table; write [study] and a line for each setting.")
    able = ["scale", *(name for name in READ[study] if name not in (*PLAN, "validation"))]
    if strange := [name for name in table if name not in able]:
        raise UnknownName(f"setting of the study {study}", strange[0], able)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def counts(flag: str, text: str | None) -> tuple[int, ...] | None:
    """Parse a text such as `0,10,100` into whole numbers."""
    from ..core.errors import UsageError

    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--{flag} {text!r} is no list of whole numbers such as 0,10,100.") from error


def by_fraction(text: str | None) -> dict[float, int] | None:
    """Parse a text such as `0.2:64,0.1:32` into a number of examples for each fraction; `none` is empty."""
    from ..core.errors import UsageError

    if text in (None, "none"):
        return None if text is None else {}
    try:
        pairs = [part.split(":") for part in text.split(",")]  # type: ignore[union-attr]
        return {float(fraction): int(batch) for fraction, batch in pairs}
    except ValueError as error:
        raise UsageError(f"--batches {text!r} is no list of fractions with their batch sizes such as 0.2:64,0.1:32.") from error


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
    from .console import show_table

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
    show_published(found)
    say_all(found)


def show_cleansing(found: "CleansingStudy") -> None:
    """Print mean accuracies and storage as tables, then the sentences that state the results."""
    from ..core.cleansing import NO_REMOVAL
    from ..core.curve import RANDOM
    from ..reports.protocol import sized
    from .console import show_table

    cells = [(NO_REMOVAL, 0), *((method, count) for method in (*found.methods, RANDOM) for count in found.counts)]
    rows = [
        (method, f"{count:,}", *spread([one.validation_accuracy for one in of]), *spread([one.test_accuracy for one in of]))
        for method, count in cells
        for of in [found.of(method, count)]
    ]
    columns = ("method", "removed", "validation accuracy, %", "sd", "test accuracy, %", "sd")
    show_table(f"Study {found.name}: {len(found.seeds)} trials", columns, rows, right=columns[1:])
    kept = [(one.method, one.what, f"{one.states:,}", sized(one.bytes), one.known) for one in found.storage]
    show_table(
        "What must be on disk", ("method", "what is kept", "states", "bytes", "how known"), kept, right=("states", "bytes")
    )
    if found.published:
        off = [(one.what, one.removed, in_percent(one.accuracy), one.known, one.source) for one in found.published]
        heads = ("method", "removed", "test accuracy, %", "how known", "source")
        show_table("Published", heads, off, right=("test accuracy, %",))
    say_all(found)


def show_fidelity(found: "FidelityStudy") -> None:
    """Print tau and Jaccard by setting and method with the published numbers, then the sentences that state the results."""
    from .console import show_table

    rows = []
    for setting in found.cells:
        for method in found.methods:
            taus, overlaps = (found.spread(setting, method, measure) for measure in ("tau", "jaccard"))  # type: ignore[arg-type]
            if taus is not None and overlaps is not None:
                cells = [with_deviation(one, ".3f", ".3f") for one in (taus, overlaps)]
                rows.append((method, setting, *cells, "measured"))
        published = [one for one in found.published if one.setting == setting]
        for what, source, known in dict.fromkeys((one.what, one.source, one.known) for one in published):
            by = {one.measure: one for one in published if (one.what, one.source) == (what, source)}
            cells = [with_deviation(by[m], ".3g", ".2f") for m in ("tau", "jaccard")]
            rows.append((what, setting, *cells, f"{source} ({known})"))
    show_table(
        "Study fidelity: mean (sd) over seeds", ("method", "setting", "tau", "Jaccard", "whose"), rows, right=("tau", "Jaccard")
    )
    say_all(found)


def show_replication(found: "ReplicationStudy") -> None:
    """Print a table for each section with the published numbers, then the sentences that state the results and where the study deviates."""
    from .console import show_table

    for section in found.sections:
        columns = found.columns(section.name)
        rows = []
        for row in found.rows(section.name):
            cells = [found.spread(section, row, column) for column in columns]
            rows.append((row, *(replicated(one, section.percent) for one in cells)))
        title = f"{section.name}: {section.measure}{', %' if section.percent else ''}, mean (sd) over {len(found.seeds)} seeds"
        show_table(title, (section.columns, *columns), rows, right=columns)
    show_published(found)
    if found.left_out:
        off = [(one.section, one.row, one.column, one.why) for one in found.left_out]
        show_table("Left out", ("section", "row", "column", "why"), off)
    say_all(found)


def show_published(found: "Study | ReplicationStudy") -> None:
    """Print what was published, how it is known, and what the study measured of it."""
    from .console import show_table
    from .output import written

    if found.published:
        off = [
            (one.section, one.row, one.column, one.known, written(one.value, ".4g"), written(found.beside(one), ".4g"))
            for one in found.published
        ]
        columns = ("section", "row", "column", "how known", "published", "here")
        show_table("Published", columns, off, right=("published", "here"))


def say_all(found: "AnyStudy") -> None:
    """Print what a study found, what a reader must know, and where it deviates from its sources."""
    from .console import say

    for words in (*found.sentences, *found.notes, *(f"Deviation: {words}" for words in found.deviations)):
        say(words)


def spread(errors: list[float]) -> "tuple[Written, Written]":
    """Mean and standard deviation over seeds of fractions, in percent."""
    import statistics

    return in_percent(statistics.fmean(errors)), in_percent(statistics.stdev(errors) if len(errors) > 1 else None)


def in_percent(fraction: float | None) -> "Written":
    """A fraction in a column of percents."""
    from .output import written

    return written(None if fraction is None else 100 * fraction, ".2f")


def replicated(found: "Spread | None", percent: bool) -> "Written":
    """A mean with deviation and interval."""
    from ..reports.replication import shown_spread
    from .output import Written

    if found is None:
        return Written("–", None)
    factor = 100 if percent else 1
    return Written(
        shown_spread(found, percent=percent),
        [one if one is None else factor * one for one in (found.mean, found.std, found.low, found.high)],
    )


def with_deviation(found: "Spread | PublishedAgreement", form: str, of_deviation: str) -> "Written":
    """A mean, and its deviation where it is known."""
    from .output import Written

    text = f"{found.mean:{form}}" + (f" ({found.std:{of_deviation}})" if found.std is not None else "")
    return Written(text, [found.mean, found.std])
