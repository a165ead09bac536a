"""Does retraining without the worst examples make a better model? The cleansing of Hara et al. 2019, section 7.2, and of the example released
with Suzuki et al. 2021.

In each trial a net is trained and recorded, every method scores the training examples by the loss on validation examples, and the last epoch (or
all of training) is repeated without the n worst, for every n, without as many random examples, and with all. How many to remove is chosen on the
validation examples and shown on the test examples.

`DEVIATIONS` says where this is not what the released codes do, each of which is an error or a gap there.
"""

import csv
import dataclasses
import io
import numbers
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import data, methods
from ..cluster.executors import executor
from ..core import options
from ..core.arguments import checked_arguments, checked_fields
from ..core.cleansing import (
    NO_REMOVAL,
    SUMMARY,
    ChosenCount,
    Cleansed,
    CleansingStudy,
    CountComparison,
    ReadOff,
    Storage,
    chosen_count,
)
from ..core.curve import NONE, RANDOM, WORST, By
from ..core.errors import NumericalError, UnknownName, UsageError
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..core.scores import Scores
from ..core.selection import worst
from ..core.trial import FEWEST, Comparison
from ..experiments.cleanse import Wanted, Window, check_test, curve_replay, shelf_of, trained_without, window_of
from ..experiments.estimate import Work, announce, steps_of
from ..experiments.evidence import identity
from ..experiments.execution import Execution
from ..experiments.plan import Plan, PlanRecording, load_data, merged
from ..experiments.retraining import Retraining
from ..maths import draws
from ..maths.statistics import holm, paired
from ..replay.config import ReplayConfig
from ..reports.cleansing import render_cleansing
from ..runs.artefacts import load_scores
from ..runs.disk import replace
from ..runs.paths import StudyPaths
from ..runs.run import Run
from ..runs.schema import here
from ..training.device import device_named
from .folders import told, written
from .replication import owned, write_plan
from .scaling import planned, titled
from .trainings import Recorded, recordings

SOURCE = {"lr": 0.05, "momentum": 0.0, "weight_decay": 0.0, "batch": 64, "last_batch": "even"}
"""The recipe of both codes: plain SGD at a constant rate."""
INFLUENCES = ("sgd_influence", "sgd_influence:form=last_parameters")
FIRST = 10_000
"""How many rows of the training file the scale `small` takes, of data that have a `limit`."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study.

    Attributes:
        settings: Defaults for the plan.
        methods: Scores that say which examples are the worst.
        remove: How many of them are left out.
        trials: Number of repetitions.
        limit: Training rows that are used where the data have more and name no limit; None for all.
    """

    settings: dict[str, Any]
    methods: tuple[str, ...]
    remove: tuple[int, ...]
    trials: int
    limit: int | None = None


SCALES = {
    "tiny": Scale(
        {"data": "digits", "net": "mlp:widths=32", "validation": 0.2, "recipe": {**SOURCE, "epochs": 6}},
        (*INFLUENCES, "influence"), (0, 1, 10, 40, 100, 200), 3,
    ),
    "small": Scale(
        {"net": "six_conv", "validation": 0.2, "recipe": {**SOURCE, "epochs": 20}},
        (*INFLUENCES, "influence:damping=0.1,layers=head,rtol=1e-06"), (0, 10, 40, 100, 200, 600, 1000), 3, FIRST,
    ),
    "paper": Scale(
        {"net": "six_conv", "validation": 0.2, "recipe": {**SOURCE, "epochs": 20}},
        (*INFLUENCES, "influence:damping=0.1"), (0, 1, 10, 40, 100, 200, 600, 1000, 3000, 5000, 10000, 30000), 6,
    ),
}  # fmt: skip
"""`tiny` takes less than a minute, `small` is planned for two hours on two cores, `paper` has the released example's numbers and wants GPUs."""
OF_DATA: dict[str, dict[str, Any]] = {
    # 10,000 of 60,000 validate.
    "mnist": {"validation": 1 / 6, "recipe": {"crop": 2}},
    "cifar10": {"validation": 0.2, "recipe": {"crop": 4, "flip": True}},
    "stl10": {"validation": 0.2, "recipe": {"crop": 4, "flip": True}},
}
"""What both codes do with these data; in the scales `small` and `paper`."""

README = "README figure of the example released with Suzuki et al. 2021"
SLIDES = "slides of Hara et al. 2019"
ABSTRACT = "published, abstract of Suzuki et al. 2021"
PUBLISHED_STORAGE = {
    "mnist": (
        Storage("Suzuki et al., last epoch", "the last parameters", 1, 1_236_000, False, ABSTRACT),
        # Of 50,000 examples in batches of 32.
        Storage("Hara et al., last epoch", "the state before each of its steps", 1563, 1_932_000_000, False, ABSTRACT),
    ),
}
"""Bytes on disk that are published, by data."""
PUBLISHED = {
    "mnist": (
        ReadOff("no removal", "0", 0.98967, README),
        ReadOff("Hara, every state of the last epoch", "600", 0.9909, README),
        ReadOff("Hara, every state of the last epoch", "1,000", 0.9916, README),
        ReadOff("Hara, every state of the last epoch", "5,000 (its best)", 0.9919, README),
        ReadOff("Hara, every state of the last epoch", "30,000", 0.9910, README),
        ReadOff("last parameters only", "600", 0.9910, README),
        ReadOff("last parameters only", "1,000", 0.9915, README),
        ReadOff("last parameters only", "5,000 (its best)", 0.9919, README),
        ReadOff("last parameters only", "30,000", 0.9908, README),
        ReadOff("random, lowest", "any", 0.9895, README),
        ReadOff("random, highest", "any", 0.9898, README),
        ReadOff("no removal", "0", 1 - 0.0086, SLIDES),
        ReadOff("SGD-influence, all epochs", "about 30 (its best)", 1 - 0.0075, SLIDES),
        ReadOff("SGD-influence, last epoch", "about 30 (its best)", 1 - 0.0075, SLIDES),
        ReadOff("SGD-influence, last epoch", "10,000", 1 - 0.0101, SLIDES),
        ReadOff("influence function", "600 to 1,000 (its best)", 1 - 0.0076, SLIDES),
    ),
    "cifar10": (
        ReadOff("no removal", "0", 1 - 0.1675, SLIDES),
        ReadOff("SGD-influence, all epochs", "300 to 1,000 (its best)", 1 - 0.156, SLIDES),
        ReadOff("SGD-influence, last epoch", "about 30 to 60 (its best)", 1 - 0.1555, SLIDES),
        ReadOff("SGD-influence, last epoch", "10,000", 1 - 0.185, SLIDES),
        ReadOff("influence function", "3,000 (its best)", 1 - 0.1615, SLIDES),
    ),
}
"""Published test accuracies, all read off figures, by data."""


DEVIATIONS = (
    "The Hessian's share of SGD-influence is divided by the batch once, where the released codes divide it twice.",
    "Influence functions have the sign of leaving an example out, which is reversed in the released codes.",
    "Every trial starts from weights, a split and an order of its own, and not from the weights of the trial before.",
    "The start of each window is kept, so that all of training can be repeated too.",
    "Results are found by everything that they depend on, and not by method and seed alone.",
    "An example's gradient is the one in its batch, with the batch's statistics, and not in a batch of one.",
    "A random choice is seeded, and its parts nest.",
    "The training from which nothing is removed is done and counted once in each trial.",
    "Digits are not mirrored; images keep their size and have the mean and deviation of their training part.",
    "An epoch is cut into even batches.",
    "The count is chosen on validation examples, among those predicted to do harm, where the released codes read the best one off the test curve.",
    "The validation part is the same fraction of every class.",
)


@dataclasses.dataclass(frozen=True)
@checked_fields
class CleansingGrid:
    """The settings that a study of cleansing combines; those left out take the values of its scale.

    Attributes:
        methods: Scores that say which examples are the worst, such as "sgd_influence"; a method that covers a window of steps and names none covers the
            steps that are retrained. `random` may be named too: it is always the control.
        remove: How many of the worst are left out; 0 is always included, and counts from the number of training examples on are left out with a note.
        trials: Number of repetitions.
        retrain: Whether the `last` epoch is repeated from its start, or `all` of training.
        chosen_by: Whether the best count has the least `loss` or the highest `accuracy` on the validation examples.

    Raises:
        UsageError: A value is of a wrong kind or outside its range.
    """

    methods: str | Sequence[str] | None = None
    remove: Sequence[int] | None = None
    trials: int | None = None
    retrain: Window = "last"
    chosen_by: By = "loss"

    def __post_init__(self):
        if self.retrain not in ("last", "all"):
            raise UsageError(f"retrain={self.retrain!r} is neither 'last' (epoch) nor 'all'.")
        if self.chosen_by not in ("loss", "accuracy"):
            raise UsageError(f"chosen_by={self.chosen_by!r} is neither 'loss' nor 'accuracy', of the validation examples.")
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"trials={self.trials} is no whole number of 1 or more.")
        if self.remove is None:
            return
        whole = all(isinstance(count, numbers.Integral) and not isinstance(count, bool) for count in self.remove)
        if not whole or not self.remove or min(self.remove) < 0 or not max(self.remove):
            raise UsageError(f"remove={list(self.remove)}: give whole numbers from 0 on, at least one of them above 0.")


@dataclasses.dataclass(frozen=True)
class _Setup:
    """Settings of a study, checked."""

    plan: Plan
    methods: tuple[str, ...]
    remove: tuple[int, ...]
    trials: int
    retrain: Window
    chosen_by: By

    def of_trial(self, trial: int) -> Plan:
        """The plan of one trial: another seed, and the two states that scoring and retraining read."""
        epochs = self.plan.training.epochs
        kept = sorted({max(epochs - 2, 0), epochs - 1}) if self.retrain == "last" else [epochs - 1]
        return Plan.make({**self.plan.plain(), "seed": self.plan.seed + trial, "record": {"checkpoints": kept}})

    def plain(self) -> dict[str, Any]:
        """All settings as plain values that JSON can hold."""
        return {**dataclasses.asdict(self), "plan": self.plan.plain()}


@checked_arguments
def study_cleansing(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: CleansingGrid | None = None,
    execution: Execution | None = None,
) -> CleansingStudy:
    """Study of retraining without the worst examples by several methods; saved in `folder` with a page and a table, `summary.csv`.

        study = assay.study_cleansing("studies/cleansing", scale="tiny")
        print(*study.sentences, sep="\\n")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe, seed, validation, subset, plant.
        scale: `tiny`, `small` or `paper`.
        grid: Methods, counts, trials and the like; what it leaves out takes the values of `scale`.
        execution: Where recordings and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale, method or setting.
        UsageError: A value out of range, no data named at the scales `small` and `paper`, no validation examples, or a method that does not say who is
            suspect.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording or a training ended in an error.
        NumericalError: No method gives a score in every trial; one that gives none in a trial is left out with a note while there are others.
    """
    grid = grid or CleansingGrid()
    setup = _setup(settings, scale, grid)
    paths = owned(folder, told({"study": "cleansing", **setup.plain()}))
    # Files may have changed since this process last read them.
    loaded = load_data(setup.of_trial(0), anew=True)
    setup.plan.augmentation(loaded, 0)
    recipe = setup.plan.training
    if recipe.last_batch == "drop" and len(loaded.train) % recipe.batch:
        raise UsageError(
            f"last_batch='drop' leaves {len(loaded.train) % recipe.batch} of {len(loaded.train)} examples out of the last epoch, so that nobody knows "
            "whether they are the worst; use last_batch='even' or 'keep'."
        )
    fit = tuple(count for count in setup.remove if count < len(loaded.train))
    if not fit:
        raise UsageError(
            f"remove: none of {', '.join(map(str, setup.remove))} is below {len(loaded.train)}, the training examples."
        )
    notes = []
    if left := [f"{count:,}" for count in setup.remove if count not in fit]:
        notes.append(f"{', '.join(left)} were not removed: there are {len(loaded.train):,} training examples.")
    work = _work(setup, len(fit), len(loaded.train))
    announce(execution, work)
    combined = {
        # As they were asked for: a title leaves out a window that is the default, which a text without one need not be.
        "methods": list(SCALES[scale].methods if grid.methods is None else titled(grid.methods)),
        "remove": list(setup.remove), "trials": setup.trials, "retrain": setup.retrain, "chosen_by": setup.chosen_by,
    }  # fmt: skip
    write_plan(execution, paths, "cleansing", work, setup.plan, combined, scale)
    execution = execution or Execution()
    with ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        execution = dataclasses.replace(execution, pool=pool)
        whole = setup
        runs, refused = _recorded(setup, paths, execution)
        setup = dataclasses.replace(setup, methods=tuple(title for title in setup.methods if title not in refused))
        notes += [f"{title} is left out: no score in {why}" for title, why in refused.items()]
        trained: list[Cleansed] = []
        chosen: list[ChosenCount] = []
        for run in runs:
            of_trial = _trained(setup, run, fit, execution)
            trained += of_trial
            chosen += _chosen(setup, run, of_trial)
    notes += _warned(setup, runs)
    name = data.parse(setup.plan.data).name
    found = CleansingStudy(
        "cleansing", told({"study": "cleansing", **whole.plain()}), _facts(setup, runs[0]), tuple(trained), tuple(chosen),
        storage=(*_storage(setup, runs[0]), *PUBLISHED_STORAGE.get(name, ())), published=PUBLISHED.get(name, ()), notes=tuple(notes), deviations=DEVIATIONS,
    )  # fmt: skip
    found = compared(found)
    replace(paths.summary, table(found).encode())
    written(found, folder, render_cleansing(found))
    return found


def _work(setup: _Setup, counts: int, examples: int) -> list[Work]:
    """All trainings: the recordings, and what is repeated of them."""
    plan = setup.of_trial(0)
    steps = steps_of(plan, examples)
    each = 1 + counts * (1 + len(setup.methods))
    repeated = steps if setup.retrain == "all" else steps // plan.training.epochs
    return [
        Work("recorded", setup.trials, steps, plan, recorded=True),
        Work("repeated without the worst or random ones", setup.trials * each, repeated, plan),
    ]


def _setup(settings: dict[str, Any] | None, scale: str, grid: CleansingGrid) -> _Setup:
    """The settings of a scale with the user's over them.

    Raises:
        UnknownName: No such scale, method or setting.
        UsageError: A value out of range, or a method that does not say who is suspect.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset = SCALES[scale]
    given = dict(settings or {})
    base = preset.settings
    if isinstance(spec := given.get("data"), str) and "data" not in base:
        source = data.parse(spec)
        base = merged(base, OF_DATA.get(source.name, {}))
        if preset.limit is not None and getattr(source, "limit", 0) is None and len(source.load().train) > preset.limit:
            given["data"] = options.join(source.name, {**options.changed(source), "limit": preset.limit})
    plan = planned(base, given)
    if plan.models > 1 or plan.member or plan.record != PlanRecording():
        raise UsageError(
            "A study of cleansing repeats one training and says itself what is recorded; leave models, member and record out of the plan."
        )
    if not plan.validation:
        raise UsageError(
            "The plan holds out no validation examples, and a count is never chosen on test examples; give validation."
        )
    device_named(plan.training.device)
    asked = preset.methods if grid.methods is None else titled(grid.methods)
    found = tuple(_over(one, grid.retrain) for one in asked if one != RANDOM)
    titles = tuple(one.title for one in found)
    if not titles or len(set(titles)) < len(titles):
        raise UsageError(f"methods: {', '.join(titles) or 'none but random'}; give at least one, and each once.")
    if wrong := [one.title for one in found if not one.direction.ranks_suspects]:
        raise UsageError(
            f"{wrong[0]} ranks difficulty and does not say which examples are the worst; choose a method that ranks suspects."
        )
    counts = tuple(sorted({*map(int, preset.remove if grid.remove is None else grid.remove)} - {0}))
    trials = preset.trials if grid.trials is None else grid.trials
    return _Setup(plan, titles, counts, trials, grid.retrain, grid.chosen_by)


def _over(spec: str, retrain: Window) -> AbstractMethod:
    """The method; if it covers a window of steps and the text names none, that of the steps that are retrained."""
    method = methods.parse(spec)
    windowed = Need.STEPS in method.reads and isinstance(getattr(method, "window", None), str)
    return methods.parse(spec, {"window": retrain}) if windowed and "window" not in options.split(spec)[1] else method


def _recorded(setup: _Setup, paths: StudyPaths, execution: Execution) -> tuple[list[Run], dict[str, str]]:
    """Record and score every trial, in a folder of its own; and which methods give no score in a trial, and why.

    Raises:
        TrialFailed: A recording failed, or no method gives a score.
    """
    plans = [setup.of_trial(trial) for trial in range(setup.trials)]
    wanted = [Recorded(f"trial-{plan.seed}", plan, setup.methods) for plan in plans]
    assert execution.pool is not None
    refused: dict[str, str] = {}
    folders = recordings(wanted, paths, execution.pool, execution.progress, refused)
    if len(refused) == len(setup.methods):
        raise NumericalError(f"No method gives a score in every trial. In {next(iter(refused.values()))}")
    return [Run(folder) for folder in folders], refused


def _scores(setup: _Setup, run: Run) -> list[Scores]:
    return [load_scores(run.paths.scores(title)) for title in setup.methods]


def _trained(setup: _Setup, run: Run, counts: Sequence[int], execution: Execution) -> list[Cleansed]:
    """Every training of one trial; those of an earlier call are taken from the run's folder."""
    how, seed = ReplayConfig(), run.header.seed or 0
    replay, given = curve_replay(run, None, None, how)
    everyone = torch.arange(len(run.ids))
    rows: list[tuple[str, str, Tensor]] = [(RANDOM, RANDOM, draws.permutation(run.ids.keys, seed, "cleanse"))]
    for one in _scores(setup, run):
        check_test(one, replay)
        if len(one.unscored):
            raise UsageError(
                f"{one.title} has no value for {len(one.unscored)} examples, so that nobody knows whether they are the worst; choose a method, or a "
                "window, that covers all of them."
            )
        rows.append((one.title, WORST, run.ids.positions(one.ids, one.title)[worst(one, len(one))]))
    wanted: list[Wanted] = [(NONE, 0, seed, everyone[:0])]
    meant = [(NO_REMOVAL, 0, 0)]
    places: dict[tuple[str, bytes], int] = {}
    for title, arm, order in rows:
        for count in counts:
            group = order[:count]
            # Methods may agree on who the worst are.
            key = arm, group.sort().values.numpy().tobytes()
            if key not in places:
                places[key] = len(wanted)
                wanted.append((arm, count, seed, group))
            meant.append((title, count, places[key]))
    known = {f"target {name}": value for name, value in identity(replay).items()} | how.identity
    # Who is removed leaves the batch, and what remains is divided by its recorded size, as in both codes.
    form = "removed"
    trainings = Retraining(replay, None, given, how, execution.pool, execution.progress, f"trial {seed}")
    done = trained_without(trainings, wanted, setup.retrain, shelf_of(run, known, setup.retrain, form), form)
    return [
        Cleansed(
            title, count, seed, done[place].validation_loss, done[place].test_loss, done[place].validation_accuracy,
            done[place].test_accuracy, done[place].seconds,
        )
        for title, count, place in meant
    ]  # fmt: skip


def _chosen(setup: _Setup, run: Run, trained: Sequence[Cleansed]) -> Iterator[ChosenCount]:
    """The count of each method in one trial."""
    for one in _scores(setup, run):
        harmful = one.harmful()
        most = None if harmful is None else int(harmful.sum())
        among = [each for each in trained if each.method in (NO_REMOVAL, one.title)]
        yield ChosenCount(one.title, run.header.seed or 0, most, chosen_count(among, setup.chosen_by, most))


def compared(found: CleansingStudy) -> CleansingStudy:
    """The study with its comparisons: each method's chosen count and each of its counts against no removal, each count against random removal; every p
    corrected for all of them (Holm)."""
    n = len(found.seeds)
    if n < 2:
        return dataclasses.replace(
            found, notes=(*found.notes, "One trial cannot tell a difference from chance; give at least 3.")
        )
    contests = []
    none = found.of(NO_REMOVAL, 0)
    for method in found.methods:
        contests.append(
            CountComparison(method, None, _comparison(f"the choice by {method}", found.at_choice(method), NO_REMOVAL, none))
        )
        for count in found.counts:
            arm, name = found.of(method, count), f"removing {count:,} by {method}"
            contests.append(CountComparison(method, count, _comparison(name, arm, NO_REMOVAL, none)))
            contests.append(CountComparison(method, count, _comparison(name, arm, "random removal", found.of(RANDOM, count))))
    notes = list(found.notes)
    if n < FEWEST:
        notes.append(f"{n} trials cannot tell a difference from chance: nothing is called significant; give at least {FEWEST}.")
        return dataclasses.replace(found, contests=tuple(contests), notes=tuple(notes))
    corrected = holm([one.comparison.p for one in contests])
    contests = [
        dataclasses.replace(one, comparison=dataclasses.replace(one.comparison, adjusted=p, family=len(contests)))
        for one, p in zip(contests, corrected, strict=True)
    ]
    return dataclasses.replace(found, contests=tuple(contests), notes=tuple(notes), claims=len(contests))


def _comparison(treatment: str, arm: Sequence[Cleansed], baseline: str, other: Sequence[Cleansed]) -> Comparison:
    """Test accuracy of two rows of trainings, by trial."""
    one = paired([each.test_accuracy for each in arm], [each.test_accuracy for each in other])
    low, high = one.interval if one.interval is not None else (None, None)
    return Comparison(treatment, baseline, one.effect, low, high, one.p, one.test, one.n)


def _storage(setup: _Setup, run: Run) -> Iterator[Storage]:
    """What each method needs on disk, and what the original codes keep for the same training."""
    last = run.epochs - 1
    for title in setup.methods:
        method, scores = methods.parse(title), load_scores(run.paths.scores(title))
        if Need.STEPS in method.reads and method.reads_between:
            states = [last - 1 if window_of(scores) == "last" else -1, last]
            yield Storage(
                title,
                "the trained model, and the state at the start of its window: the others are made again",
                2,
                _size(run, states),
                True,
            )
        elif Need.STEPS in method.reads:
            yield Storage(title, "the trained model", 1, _size(run, [last]), True)
        elif Need.CHECKPOINTS in method.reads:
            kept = [last] if isinstance(getattr(method, "at", None), int) else run.checkpoints()
            yield Storage(title, "the trained model" if kept == [last] else "every kept state", len(kept), _size(run, kept), True)
        else:
            facts = sum(run.paths.shard(epoch).stat().st_size for epoch in range(run.epochs))
            yield Storage(title, "no state; facts of every epoch", 0, facts, True)
    model = sum(value.numel() * value.element_size() for value in run.model(last).values())
    steps = [len(run.order(epoch)) for epoch in range(run.epochs)]
    yield Storage("Hara et al., last epoch", "the state before each of its steps", steps[-1], steps[-1] * model, False)
    yield Storage("Hara et al., all epochs", "the state before each step", sum(steps), sum(steps) * model, False)


def _size(run: Run, epochs: Sequence[int]) -> int:
    """Bytes of the files of some states; -1 is the state before training."""
    return sum((run.paths.start if epoch < 0 else run.paths.checkpoint(epoch)).stat().st_size for epoch in epochs)


def _warned(setup: _Setup, runs: Sequence[Run]) -> Iterator[str]:
    """What the scores warn of, once for all trials."""
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        for one in _scores(setup, run):
            for warning in one.warnings:
                found.setdefault((one.title, warning), run.header.seed or 0)
    for (title, warning), seed in found.items():
        yield f"{title}, trial {seed}: {warning}"


def _facts(setup: _Setup, run: Run) -> dict[str, Any]:
    about, machine = run.header.about, here()
    return {
        "data": setup.plan.data,
        **{
            name: about[name]
            for name in ("examples", "validation examples", "test examples", "net", "parameters", "recipe")
            if name in about
        },
        "retrained": "the last epoch" if setup.retrain == "last" else "all epochs",
        "torch": machine["torch"],
        "machine": machine["machine"],
        "made": machine["created"],
    }


def table(found: CleansingStudy) -> str:
    """The summary table as CSV (see `CleansingStudy.summary`)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SUMMARY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.summary)
    return text.getvalue()
