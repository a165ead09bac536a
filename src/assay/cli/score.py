"""`assay score`: from a recorded run to one number per example and method."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .values import MaybeWhole, Switch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from ..core.method import AbstractMethod
    from ..core.probe import Probe
    from ..core.scores import Scores
    from ..core.wrong_labels import ClassCount, WrongCount
    from ..runs.run import Run

Thing = TypeVar("Thing")
MADE_OF = "made of"
"""Name of the diagnostic that says what the passes of a run are which nobody recorded as epochs."""


def score_(
    run: Path | None = None,
    /,
    *methods: str,
    data: str | None = None,
    plan: Path | None = None,
    plant: str | None = None,
    seed: MaybeWhole = None,
    out: Path | None = None,
    inputs: list[str] | None = None,
    recompute: Switch = False,
    strict: Switch = False,
    schedule: str = "sqrt",
    memory: MaybeWhole = None,
    tolerance: float = 0.0,
    reference: list[str] | None = None,
    where: str | None = None,
) -> None:
    """Give every example of a run a number by each method.

    The scores are saved in the run's folder. A saved score that was made from this same recording is reused.
    Methods that read steps or checkpoints (sgd_influence, liveval, tracin, ...) replay the training; the target whose change they predict
    is set by their option target: validation (the examples that --validation held out), misclassified (those that the last
    model gets wrong), test, class=NAME, id=ID, or ids=FILE with a CSV of id and weight.

    Methods that need no recorded training (cg_score, data_oob, knn_disagreement:features=inputs) also take data in place of a run.

    Example: assay score runs/digits aum dual:window=5 sgd_influence:target=class=3

    Example: assay score --data digits cg_score

    Parameters
    ----------
    run
        Folder of the run; none with --data or --plan.
    methods
        METHOD or METHOD:option=value,...; `all` is every method that the run allows without being named. `assay methods` lists them.
    data
        Dataset with options (see `assay datasets`), or a path: a folder of images, a file of arrays, or a table. The data are kept in a run
        without training, which later commands take like any other run.
    plan
        TOML plan, as `assay record` takes it, to say more than --data can: the net and recipe that `assay verify` trains by.
    plant
        With --data or --plan: labels to make wrong, such as uniform:rate=0.1; the truth is kept aside.
    seed
        With --data or --plan: random seed of planting and of later trainings.
    out
        With --data or --plan: folder of that run; by default runs/NAME-untrained.
    inputs
        NAME=FILE: rows, such as embeddings, that a method with features=rows:NAME reads instead of the data; may
        be given several times. An npy file with a row for each example, in the run's order, or an npz file of `inputs` and `ids`.
    recompute
        Compute scores even if they are saved already.
    strict
        Stop at the first method whose evidence the run lacks, instead of returning the scores of the others.
    schedule
        Which states are stored for replaying steps backwards: sqrt (the default; every state if all take at most 256 MB, else about 2 sqrt(steps)),
        all (every state), every=STEPS (one state every STEPS steps), tree or tree=PARTS (fewest states: steps are halved, or
        split into PARTS, again and again).
    memory
        Largest number of bytes for stored states; the fastest schedule within it is used.
    tolerance
        Largest distance between replayed and recorded parameters at an epoch's end, as a fraction of the norm of the recorded ones; 0 (the default)
        requires identical bits. Saved scores of methods that replay the training are reused only if they were computed with the same tolerance.
    reference
        NAME=RUN or NAME=FILE: the last model of another run, or a state_dict in a safetensors file, for oti:reference=NAME; may be given
        several times.
    where
        Where loo retrains without each example (by default in processes), and where methods such as shapley train learners on parts of the examples (by default, and
        learners that are trained many at once always, in this process): inline, one after the other; processes, side by side on this machine, as many as there are cores
        for, at the recorded number of threads each, or processes:N; or slurm, jobs of the cluster, with options such as slurm:partition=cpu,time=240 (minutes; see
        docs/cluster.md).
    """
    from ..cluster.executors import executor
    from ..core.errors import UsageError, listed
    from ..core.scores import ordered
    from ..core.words import worded
    from ..data.arrays import rows_by_id
    from ..experiments.execution import Execution
    from ..experiments.page_parts import probes_of
    from ..experiments.request import Request
    from ..experiments.scorable import check_untrained, is_replayed, scorable, spreads
    from ..experiments.score import ALL, served
    from ..experiments.wrong_labels import count_wrong, countable
    from ..methods import METHODS, parse
    from ..replay.config import ReplayConfig
    from ..runs.run import Run
    from .console import caution, say, show_table, showing_progress

    if data is not None or plan is not None:
        if run is None:
            raise UsageError("Name a method, such as cg_score, or `all`.")
        if run.exists() and str(run) != ALL and not METHODS.knows(str(run).partition(":")[0]):
            raise UsageError(
                f"{run} holds its data already, so leave --data and --plan out: assay score {' '.join(map(str, (run, *methods)))}."
            )
        methods = (str(run), *methods)
        check_untrained([name for name in methods if name != ALL])
        opened = _without_training(data, plan, plant, seed, out)
        run = opened.folder
    elif run is None:
        raise UsageError("Name RUN, the folder of a run, and a method; or give --data and a method that needs no training.")
    elif plant is not None or seed is not None or out is not None:
        raise UsageError("--plant, --seed and --out go with --data or --plan; a recorded run has its own.")
    else:
        opened = Run(run)
    if not methods:
        raise UsageError(f"Name a method, or `all`; this run allows {', '.join(scorable(opened)[0])}.")
    how, named = ReplayConfig(schedule, memory, tolerance), [parse(name) for name in methods if name != ALL]
    replayed, retrained = (
        any(is_replayed(opened, one) for one in named),
        any(one.retrains or (where is not None and spreads(one)) for one in named),
    )
    _check_read(methods, named, replayed, retrained, how != ReplayConfig(), where is not None)
    with showing_progress() as progress, executor(where or "processes", threads=opened.header.threads) as pool:
        request = Request(
            strict=strict,
            save="recompute" if recompute else True,
            replay_config=how,
            references=named_once("reference", map(referred, reference or ())),
            inputs={
                name: rows_by_id(file, opened.ids) for name, file in named_once("inputs", map(file_named, inputs or ())).items()
            },
            execution=Execution(pool if retrained else None, progress),
        )
        table, refused = served(opened, list(dict.fromkeys(methods)), request, joined=False)
    rows, warned, partly = [], any(one.warnings for one in table.values()), any(len(one.unscored) for one in table.values())
    repeated = any(one.repeats is not None and len(one.repeats) > 1 for one in table.values())
    for title, one in table.items():
        first = one.ids.take(ordered(one.hardness(), one.ids, descending=True)[:5])
        values = one.values
        rows.append(
            (
                title,
                float(values.min()),
                float(values.mean()),
                float(values.max()),
                *([_half(one)] if repeated else []),
                one.unit,
                one.direction.value,
                listed(first, len(first)),
                *([f"{len(one):,}"] if partly else []),
                *([("warned, see below" if one.warnings else "")] if warned else []),
            )
        )
    columns = ["method", "least", "mean", "largest", *(["±"] * repeated), "unit", "direction", "first ids"]
    columns += ["scored"] * partly + ["trust"] * warned
    show_table(f"{len(opened.ids):,} examples of {run}", columns, rows, right=("least", "mean", "largest", "±", "scored"))
    if repeated:
        say(
            "±: half of the 95 % interval of a value over its repetitions (draws or models), mean over the examples on which no two agree exactly"
        )
    for of, titles in made_of(table).items():
        say(f"{', '.join(titles)}: made of {of}")
    if opened.smoothing:
        say(f"The recorded facts are {opened.smoothing}.")
    for title, one in table.items():
        for name, value in one.diagnostics.items():
            if name == MADE_OF:
                continue
            say(f"{title}: {name}: {worded(value)}")
        for warning in one.warnings:
            caution(warning, title)
    for words in left_out(refused):
        say(f"left out {words}")
    title, one = next(iter(table.items()))
    counted: WrongCount | None = None
    probes: Sequence[Probe] = ()
    if countable(opened) and any(one.direction.ranks_suspects for one in table.values()):
        counted = count_wrong(opened)
        show_wrong(counted)
        probes = probes_of(opened)[0]
        for probe in probes:
            if probe.count_sentence:
                say(f"By the probe of kind {probe.kind}: {probe.count_sentence}")
    say(f"Saved in {opened.paths.folder / 'scores'}. {next_step(opened, one, tolerance, counted, probes)}")


MOST_CLASSES = 12
"""Classes that are listed of those with wrong labels."""


def show_wrong(counted: "WrongCount") -> None:
    """How many labels are wrong, and in which classes most."""
    from .console import say

    say(counted.sentence)
    found = [one for one in counted.by_class if one.low >= 0.5] if counted.seen else []
    if found and len(counted.by_class) > 1:
        counts_by_class("Wrong labels by class", "wrong", found)
        if others := len(counted.by_class) - len(found):
            where = "the other class" if others == 1 else f"each of the other {others:,} classes"
            say(f"In {where} the interval holds 0: there may be none.")


def counts_by_class(title: str, what: str, counts: "Sequence[ClassCount]") -> None:
    """A table of counts, the largest first: for people of the first classes, in a document of all."""
    from . import output
    from .console import show_table

    found = sorted(counts, key=lambda one: -one.count)
    most = len(found) if output.now.json else MOST_CLASSES
    rows = [(one.name, f"{one.examples:,}", round(one.count), round(one.low), round(one.high)) for one in found[:most]]
    part = f" ({most} of {len(found)} classes, those with most)" if len(found) > most else ""
    columns = ("given class", "examples", f"{what}, about", "at least", "at most")
    show_table(f"{title}, 95 % intervals{part}", columns, rows, right=columns[1:])


def made_of(table: "Mapping[str, Scores]") -> "dict[str, list[str]]":
    """Titles of the scores of passes that somebody saved, or of folds, by what those are."""
    titles: dict[str, list[str]] = {}
    for title, one in table.items():
        if MADE_OF in one.diagnostics:
            titles.setdefault(str(one.diagnostics[MADE_OF]), []).append(title)
    return titles


def left_out(refused: "Mapping[str, str]") -> "list[str]":
    """The methods without a score and the reasons, with methods of the same reason grouped together."""
    titles: dict[str, list[str]] = {}
    for title, why in refused.items():
        titles.setdefault(why.removeprefix(f"{title} "), []).append(title)
    return [f"{', '.join(group)}: {why}" for why, group in titles.items()]


def next_step(
    run: "Run", scores: "Scores", tolerance: float, counted: "WrongCount | None" = None, probes: "Sequence[Probe]" = ()
) -> str:
    """The next command to run after a score; it never advises to drop what was not counted, by the margins or a probe that is shown."""
    from ..core.probe import to_drop
    from ..experiments.choose import counting_wrong
    from ..experiments.plan import has_plan

    # Options of a combination's parts stand behind semicolons, which a shell would read.
    title, folder = shlex.quote(scores.title), run.folder
    # A score is only found again under the tolerance that it was computed with.
    allowing = f" --tolerance {tolerance:g}" if scores.lineage is not None and "tolerance" in scores.lineage.parents else ""
    if has_plan(run) and run.passes is None and scores.direction.ranks_suspects and scores.harmful() is not None:
        return f"Next: assay cleanse {folder} {title}{allowing}"
    look = f"Look at the first ones on the page. Next: assay report {folder} --first {title}"
    if run.task != "classes":
        return look
    if scores.direction.ranks_suspects and counted is not None:
        advised = to_drop(counted, probes)
        if not advised:
            return f"Nothing is to be dropped. {look}"
        count = "auto" if advised == counted.whole else advised
        return f"Look at the first ones on the page: assay report {folder} --first {title}. Next: assay choose {folder} {title} --policy {counting_wrong()}:count={count}"
    if scores.direction.ranks_suspects:
        return f"How many labels are wrong {title} does not say. {look}"
    return f"{title} ranks difficulty, which says nothing about wrong labels. {look}"


def _check_read(
    methods: "Sequence[str]",
    named: "Sequence[AbstractMethod]",
    replayed: bool,
    retrained: bool,
    replay_config: bool,
    spread: bool,
) -> None:
    """Refuse flags that none of the methods would read."""
    from ..core.errors import UsageError
    from ..experiments.scorable import spread_by

    if replay_config and not replayed:
        raise UsageError(
            f"--schedule, --memory and --tolerance are for methods that replay the training; {', '.join(methods)} {'does' if len(methods) == 1 else 'do'} not."
        )
    if spread and not retrained:
        raise UsageError(f"--where is for {spread_by(named)}")


def _half(scores: "Scores") -> str:
    """Half of an example's interval over repetitions, mean over the examples that have one."""
    if scores.repeats is None or len(scores.repeats) < 2:
        return ""
    low, high = scores.interval()
    mean = float((high - low).nanmean()) / 2
    return "" if mean != mean else f"{mean:.2g}"


def _without_training(data: str | None, plan: Path | None, plant: str | None, seed: int | None, out: Path | None) -> "Run":
    """The run of a plan's data, written if it is not there yet."""
    from ..experiments.plan import Plan
    from ..experiments.record import untrained
    from .record import given, planting

    settings = given({"data": data, "seed": seed, "plant": planting(plant) if plant is not None else None})
    made = Plan.read(plan, settings) if plan is not None else Plan.make(settings)
    name = Path(made.data.partition(":")[0]).name
    return untrained(made, out if out is not None else Path("runs") / f"{name}-untrained")


def named_once(flag: str, pairs: "Iterable[tuple[str, Thing]]") -> "dict[str, Thing]":
    """The pairs of a flag by name; a name that is given twice is refused."""
    from ..core.errors import UsageError

    found: dict[str, Any] = {}
    for name, thing in pairs:
        if name in found:
            raise UsageError(f"--{flag} names {name!r} twice; give each a name of its own.")
        found[name] = thing
    return found


def file_named(text: str) -> tuple[str, str]:
    """Split `NAME=FILE` into the name and the file."""
    from ..core.errors import UsageError

    name, _, file = text.partition("=")
    if not name or not file:
        raise UsageError(f"--inputs {text!r} is not NAME=FILE.")
    return name, file


def referred(text: str) -> tuple[str, "dict[str, Tensor]"]:
    """Parse `NAME=RUN` or `NAME=FILE` into the name and the model parameters of that run or file."""
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
