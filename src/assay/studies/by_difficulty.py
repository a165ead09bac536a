"""What the studies of pruning share: rank a part of the data by difficulty, keep a fraction of it, train for equal numbers of steps, compare."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .. import methods
from ..cluster.executors import executor
from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.report_data import Agreement
from ..core.scores import Scores, ordered
from ..core.selection import budget_of
from ..core.study import ALL, EASY, HARD, RANDOM, ArmComparison, FrontierPoint, PowerLawFit, Pruned, Study
from ..core.trial import FEWEST, Outcome
from ..experiments.estimate import Work, announce, steps_of
from ..experiments.execution import Execution
from ..experiments.plan import LoadedData, Plan, PlanRecording, load_data
from ..experiments.progress import Progress
from ..experiments.trials import Arm
from ..experiments.verify import compare
from ..maths import draws, power_law, ranking, statistics
from ..replay.activations import layered
from ..reports.study import render_study
from ..runs.artefacts import load_scores
from ..runs.disk import replace
from ..runs.paths import RunPaths, StudyPaths
from ..runs.run import Run
from ..runs.schema import here
from ..training.batches import sizes
from ..training.device import device_named
from . import folders
from .folders import told
from .replication import numbers_table, owned, write_plan
from .trainings import Job, Recorded, check_epochs, outcomes, recordings


@dataclasses.dataclass(frozen=True)
class Setup:
    """Settings of a study: what is trained on which parts of the data.

    Attributes:
        name: Name of the study.
        plan: How every final model is trained; its seed is that of the first repetition.
        probe: Settings, overriding those of `plan`, of the recording that ranks examples by difficulty.
        metrics: Scores that measure difficulty, by title.
        sizes: Sizes of the parts of the data, as fractions of the training examples.
        fractions: Fractions of each part to keep; 1 is always included.
        seeds: Number of repetitions, each with its own part of the data, scores, random choice and training.
        per_class: Whether the same fraction of every class is kept.
        angles: Angles between probe and teacher in the theory, in degrees; empty for no theory.

    Raises:
        UsageError: Nothing to study, a fraction out of range or given twice, a plan that holds examples out or has several models, or a probe
            that is no plan.
        UnknownName: An unknown metric.
    """

    name: str
    plan: Plan
    probe: Mapping[str, Any]
    metrics: tuple[str, ...]
    sizes: tuple[float, ...]
    fractions: tuple[float, ...]
    seeds: int
    per_class: bool = False
    angles: tuple[float, ...] = ()

    def __post_init__(self):
        for what, given in (("sizes", self.sizes), ("fractions", self.fractions)):
            if bad := [one for one in given if not 0 < one <= 1]:
                raise UsageError(f"{what}: {bad[0]:g} is outside 0..1, 0 excluded; give fractions such as 0.5.")
            # Calls and files are named by six digits.
            if len({f"{one:g}" for one in given}) < len(given) or not given:
                raise UsageError(f"{what}: {', '.join(f'{one:g}' for one in given) or 'none'}; give at least one, and each once.")
        object.__setattr__(self, "sizes", tuple(sorted(self.sizes)))
        object.__setattr__(self, "fractions", tuple(sorted({*self.fractions, 1.0}, reverse=True)))
        titles = tuple(methods.parse(one).title for one in self.metrics)
        if not titles or len(set(titles)) < len(titles):
            raise UsageError(f"metrics: {', '.join(titles) or 'none'}; give at least one, and each once.")
        object.__setattr__(self, "metrics", titles)
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int) or self.seeds < 1:
            raise UsageError(f"seeds={self.seeds} is no whole number of 1 or more.")
        plan = self.plan
        if plan.validation or plan.subset < 1 or plan.models > 1 or plan.member or plan.training.horizon is not None:
            raise UsageError(
                "A study chooses its own parts and takes its own steps; leave validation, subset, models, member and a horizon out of the "
                "plan."
            )
        if plan.record != PlanRecording():
            raise UsageError("A study says itself what its recordings keep; leave the table record out of the plan.")
        device_named(plan.training.device)
        check_epochs(titles, self.probed(0, self.sizes[0]).training.epochs, "probe epochs")

    def final(self, repetition: int) -> Plan:
        """The plan of the final models of a repetition."""
        return Plan.make({**self.plan.plain(), "seed": self.plan.seed + repetition})

    def probed(self, repetition: int, size: float) -> Plan:
        """The plan of the recording of a part of the data."""
        base = self.final(repetition).plain()
        recipe = {**base.get("recipe", {}), **self.probe.get("recipe", {})}
        return Plan.make({**base, **self.probe, "recipe": recipe, "subset": size})

    def plain(self) -> dict[str, Any]:
        """All settings as plain values that JSON can hold."""
        return {**dataclasses.asdict(self), "plan": self.plan.plain(), "probe": dict(self.probe)}


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A training that is due, and for what it counts."""

    arm: str
    metric: str
    size: float
    fraction: float
    repetition: int
    kept: Arm


def kept(
    hardness: Tensor, ids: Ids, fraction: float, arm: str, labels: Int[Tensor, " examples"] | None = None
) -> Int[Tensor, " kept"]:
    """Positions that an arm keeps, in rising order: the floor(fraction * examples) hardest or easiest; with `labels`, counted within each class.

    Examples are sorted by hardness, equal values by id; the easy arm keeps the first ones and the hard arm the last ones, so that up to a
    fraction of 1/2 no example is in both.

    Args:
        hardness: Larger is harder.
        ids: Ids of the examples.
        fraction: Fraction to keep, in 0..1; with `labels`, the same fraction of every class.
        arm: `hard` or `easy`.
        labels: Given class of each example, if classes are counted separately.
    """
    order = ordered(hardness.to(torch.float64), ids, descending=False)
    groups = [order] if labels is None else [order[labels[order] == one] for one in labels.unique()]
    parts = [
        group[: budget_of(fraction, len(group))] if arm == EASY else group[len(group) - budget_of(fraction, len(group)) :]
        for group in groups
    ]
    return torch.cat(parts).sort().values


def study(setup: Setup, folder: str | Path, execution: Execution, scale: str, combined: Mapping[str, Any]) -> Study:
    """Do all recordings, scorings, prunings and trainings still due, and return the study; `written` saves it.

    Recordings and trainings are kept in `folder` as they are finished, and reused when the same study is run again.

    Args:
        setup: Settings of the study.
        folder: Where recordings and trainings are kept.
        execution: Where recordings and trainings run, and who is told of each.
        scale: The scale, for the plan that is written.
        combined: What the study combines by the names of its options, for the same.

    Raises:
        UsageError: The plan does not fit the data, a choice keeps no example, or prediction depth is asked for more layers than there are.
        UnknownName: Prediction depth is asked for an unknown layer.
        OutputExists: The folder holds a study of other settings, or files of other kinds in its places.
        TrialFailed: A recording or a training ended in an error; with path and tail of its log.
    """
    paths = owned(folder, _told(setup))

    def begin(work: Sequence[Work]) -> None:
        write_plan(execution, paths, setup.name, work, setup.plan, combined, scale)

    return pruned(setup, paths, execution, begin)


def pruned(setup: Setup, paths: StudyPaths, execution: Execution, begin: Callable[[Sequence[Work]], None] | None = None) -> Study:
    """As `study`, in a folder that belongs to a study already; `begin` is called with all trainings before the first."""
    progress = execution.progress
    # Files may have changed since this process last read them.
    loaded = load_data(setup.final(0), anew=True)
    setup.plan.augmentation(loaded, 0)
    _check_layers(setup, loaded)
    steps = _steps(setup)
    work = _work(setup, steps)
    announce(execution, work)
    if begin is not None:
        begin(work)
    with contextlib.ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        probes = _probes(setup, paths, pool, progress)
        trials = [trial for repetition in range(setup.seeds) for trial in _due(setup, repetition, probes)]
        plans = [setup.final(repetition) for repetition in range(setup.seeds)]
        jobs = [Job(plans[trial.repetition], trial.kept, steps) for trial in trials]
        # Trainings by a plan always tell their loss.
        trained_as: list[Any] = outcomes(jobs, paths, pool, progress)
    trained = tuple(
        Pruned(
            trial.arm, trial.metric, trial.size, trial.fraction, setup.plan.seed + trial.repetition,
            outcome.examples, steps, outcome.accuracy, outcome.loss, outcome.seconds,
        )
        for trial, outcome in zip(trials, trained_as, strict=True)
    )  # fmt: skip
    found = analysed(Study(setup.name, _told(setup), _facts(setup, steps), trained))
    return dataclasses.replace(found, agreement=_agreement(setup, probes))


def _check_layers(setup: Setup, loaded: LoadedData) -> None:
    """Refuse, before anything is recorded, layers that the net does not have."""
    model, few = setup.final(0).build(loaded, 0).eval(), loaded.train.prepared(loaded.train.inputs[:7])

    def named(names: Sequence[str] | None) -> list[str]:
        with torch.no_grad():
            return [layer.name for layer in layered(model, lambda: iter([(torch.arange(len(few)), few)]), model, len(few), names)]

    for one in map(methods.parse, setup.metrics):
        one.check_layers(named)


def written(found: Study, folder: str | Path) -> Path:
    """Save a study, its table and its page in its folder, and return the path of the page.

    Raises:
        NotWritten: The disk refuses.
    """
    replace(StudyPaths(Path(folder)).summary, numbers_table(found.numbers, found.published).encode())
    return folders.written(found, folder, render_study(found))


def analysed(found: Study) -> Study:
    """The study with its power laws, its frontiers (the points that no other choice with so few examples beats) and its contests (hard against easy,
    each against random) added."""
    laws, notes = _laws(found)
    frontiers, contests, claims = _together(
        [point for metric in found.metrics for point in _frontier(found, metric)], list(_contests(found))
    )
    seeds = len(found.seeds)
    whole = _by_seed(found, _chosen(found, lambda one: one.arm == ALL))[_halves(seeds)[1]]
    if bool((whole <= 0).any()):
        notes.append("No point is compared with the power law, because a training on everything made no test error at all.")
    if 1 < seeds < FEWEST:
        notes.append(
            f"{seeds} seeds cannot tell a difference from chance: nothing is called significant; give at least {FEWEST}."
        )
    if seeds <= FEWEST:
        notes.append(
            f"The points of a frontier are not tested: that takes {FEWEST + 1} seeds or more, of which some choose the points and at least "
            f"{FEWEST} others test them, and there {'is' if seeds == 1 else 'are'} {seeds}."
        )
    return dataclasses.replace(
        found, laws=tuple(laws), frontiers=frontiers, contests=contests, notes=(*found.notes, *notes), claims=claims
    )


def _told(setup: Setup) -> dict[str, Any]:
    """The settings as a file gives them back."""
    return told(setup.plain())


def _facts(setup: Setup, steps: int) -> dict[str, Any]:
    loaded = load_data(setup.final(0))
    machine = here()
    return {
        "data": setup.plan.data,
        "training examples": len(loaded.train),
        "test examples": len(loaded.test),
        "net": setup.plan.net,
        "steps of each training": steps,
        "recipe": setup.plan.training.summary(),
        "torch": machine["torch"],
        "machine": machine["machine"],
        "made": machine["created"],
    }


def _steps(setup: Setup) -> int:
    """As many steps as the plan's epochs take over all training examples."""
    plan = setup.final(0)
    return steps_of(plan, len(load_data(plan).train))


def _work(setup: Setup, steps: int) -> list[Work]:
    """All trainings, a size after the other."""
    found = []
    for size in setup.sizes:
        plan = setup.probed(0, size)
        taken = steps_of(plan, len(load_data(plan).train))
        found.append(Work(f"recorded on {100 * size:g} %", setup.seeds * plan.models, taken, plan, recorded=True))
    parts = 1 + (len(setup.fractions) - 1) * (1 + 2 * len(setup.metrics))
    return [*found, Work("final models", setup.seeds * len(setup.sizes) * parts, steps, setup.final(0))]


Probes = Mapping[tuple[int, float], Path]
"""Folder of the recording, by repetition and size."""


def _probes(setup: Setup, paths: StudyPaths, pool: Executor, progress: Progress) -> Probes:
    """Record every part of the data in every repetition, and score it."""
    places = [(repetition, size) for repetition in range(setup.seeds) for size in setup.sizes]
    wanted = [
        Recorded(f"probe-{repetition}-{size:g}", setup.probed(repetition, size), setup.metrics, setup.final(repetition))
        for repetition, size in places
    ]
    return dict(zip(places, recordings(wanted, paths, pool, progress), strict=True))


def _due(setup: Setup, repetition: int, probes: Probes) -> Iterator[_Trial]:
    """Every arm of a repetition."""
    selection = draws.integer(setup.plan.seed + repetition, "study selection")
    for size in setup.sizes:
        folder = probes[repetition, size]
        run = Run(folder)
        scores = [load_scores(RunPaths(folder).scores(metric)) for metric in setup.metrics]
        everyone = torch.arange(len(run.ids))
        # Sorted by chance, the last so many are a random choice.
        chance = torch.empty(len(run.ids), dtype=torch.float64)
        chance[draws.permutation(run.ids.keys, selection, "random part")] = everyone.to(torch.float64)
        labels = run.labels if setup.per_class else None
        for fraction in setup.fractions:
            if fraction == 1:
                yield _Trial(ALL, "", size, fraction, repetition, _arm(ALL, run, everyone))
                continue
            for arm, metric, hardness in _choices(scores, chance, run.ids):
                chosen = kept(hardness, run.ids, fraction, HARD if arm == RANDOM else arm, labels)
                if not len(chosen):
                    raise UsageError(
                        f"Of {len(run.ids)} examples (size {size:g}) {fraction:g} is none; give a larger size or fraction."
                    )
                recipe = setup.plan.training
                # Refuses, before anything is trained, a choice that does not fill a batch where what is left is dropped.
                sizes(len(chosen), recipe.batch, recipe.last_batch)
                yield _Trial(arm, metric, size, fraction, repetition, _arm(arm, run, chosen))


def _choices(scores: Sequence[Scores], chance: Tensor, ids: Ids) -> Iterator[tuple[str, str, Tensor]]:
    yield RANDOM, "", chance
    for one in scores:
        if len(one.unscored):
            raise UsageError(
                f"{one.title} has no value for {len(one.unscored)} examples, so that they are neither hard nor easy; choose another metric."
            )
        hardness = one.hardness()[one.ids.positions(ids, one.title)]
        yield HARD, one.title, hardness
        yield EASY, one.title, hardness


def _arm(name: str, run: Run, positions: Tensor) -> Arm:
    return Arm(name, run.ids.take(positions), run.labels[positions], torch.ones(len(positions), dtype=torch.float64))


Choice = tuple[str, str, float, float]
"""Arm, metric, size and fraction."""


def _by_seed(found: Study, choices: Sequence[Choice]) -> np.ndarray:
    """Test errors by seed and choice."""
    return np.array([found.errors(*choice) for choice in choices]).T


def _examples(found: Study, choice: Choice) -> float:
    """Mean number of examples of a choice; parts of other seeds may differ by one per class."""
    return float(np.mean([one.examples for one in found.trained if (one.arm, one.metric, one.size, one.fraction) == choice]))


def _chosen(found: Study, keep: Callable[[Pruned], bool]) -> list[Choice]:
    return list(dict.fromkeys((one.arm, one.metric, one.size, one.fraction) for one in found.trained if keep(one)))


def _laws(found: Study) -> tuple[list[PowerLawFit], list[str]]:
    laws, notes = [], []
    for arm, arms in ((ALL, (ALL,)), (RANDOM, (ALL, RANDOM))):
        choices = _chosen(found, lambda one, arms=arms: one.arm in arms)  # type: ignore[misc]
        if arm == RANDOM and len(choices) == len(_chosen(found, lambda one: one.arm == ALL)):
            continue
        n = [_examples(found, choice) for choice in choices]
        curves = _by_seed(found, choices)
        for floor in (False, True):
            if len(set(n)) < (4 if floor else 2):
                continue
            try:
                law = power_law.fit(n, curves.mean(0).tolist(), floor=floor)
            except ValueError as error:
                notes.append(f"No law of {arm}{' with a floor' * floor}: {error}")
                continue
            interval = None
            if len(curves) > 1 and not floor:
                try:
                    interval = power_law.exponent_interval(n, curves.tolist())
                except ValueError as error:
                    notes.append(f"No interval of the exponent of {arm}, because of one seed: {error}")
            low, high = interval if interval is not None else (None, None)
            if not floor or law.floor:
                laws.append(PowerLawFit(arm, law.scale, law.exponent, law.floor, low, high, len(set(n)), len(curves)))
    return laws, notes


def _halves(seeds: int) -> tuple[slice, slice]:
    """Which seeds choose a frontier and which test it, by place: at least 3 test; with fewer than 4 seeds all choose and none tests."""
    if seeds < FEWEST + 1:
        return slice(0, seeds), slice(seeds, seeds)
    choose = min(seeds // 2, seeds - FEWEST)
    return slice(0, choose), slice(choose, seeds)


def _frontier(found: Study, metric: str) -> list[FrontierPoint]:
    """The frontier of everything, and of the hardest and the easiest by one metric.

    Some seeds choose its points and the others measure them: an error that a point was chosen for is too small.
    """
    choices = _chosen(found, lambda one: one.arm == ALL or one.metric == metric)
    n, curves = [_examples(found, choice) for choice in choices], _by_seed(found, choices)
    choosing, testing = _halves(len(curves))
    means = curves[choosing].mean(0)
    measured = curves[testing].mean(0) if len(curves[testing]) else means
    points: list[FrontierPoint] = []
    last = 0.0
    for place in power_law.frontier(list(zip(n, means.tolist(), strict=True))):
        before, error = points[-1] if points else None, float(measured[place])
        slope = None
        if before is not None and error > 0 and before.error > 0:
            slope = float(np.log(error / before.error) / np.log(n[place] / last))
        last = n[place]
        arm, _, size, fraction = choices[place]
        point = FrontierPoint(metric, arm, size, fraction, round(n[place]), error, slope)
        points.append(_against_law(found, point, choices[place], n[place], testing))
    return points


def _against_law(found: Study, point: FrontierPoint, choice: Choice, n: float, testing: slice) -> FrontierPoint:
    """The point with its distance from the law: the law's error minus its own, each seed with its own law of everything."""
    whole = _chosen(found, lambda one: one.arm == ALL)
    sizes, curves = [_examples(found, one) for one in whole], _by_seed(found, whole)[testing]
    if len(curves) < FEWEST or len(set(sizes)) < 2 or bool((curves <= 0).any()) or choice[0] == ALL:
        return point
    if not min(sizes) <= n <= max(sizes):
        # No law is held to where it was not seen.
        return point
    expected = [power_law.fit(sizes, curve.tolist())(n) for curve in curves]
    gain = statistics.paired(expected, found.errors(*choice)[testing])
    low, high = gain.interval if gain.interval is not None else (None, None)
    return dataclasses.replace(point, gain=gain.effect, low=low, high=high, p=gain.p)


def _together(
    frontiers: Sequence[FrontierPoint], contests: Sequence[ArmComparison]
) -> tuple[tuple[FrontierPoint, ...], tuple[ArmComparison, ...], int]:
    """All that is tested, with each p corrected for how many there are (Holm), and that number."""
    claimed = [one.comparison.n >= FEWEST for one in contests]
    ps = [one.p for one in frontiers if one.p is not None]
    ps += [one.comparison.p for one, claim in zip(contests, claimed, strict=True) if claim]
    corrected = iter(statistics.holm(ps))
    return (
        tuple(one if one.p is None else dataclasses.replace(one, adjusted=next(corrected)) for one in frontiers),
        tuple(
            dataclasses.replace(one, comparison=dataclasses.replace(one.comparison, adjusted=next(corrected), family=len(ps)))
            if claim
            else one
            for one, claim in zip(contests, claimed, strict=True)
        ),
        len(ps),
    )


def _contests(found: Study) -> Iterator[ArmComparison]:
    """hard against easy, hard against random, easy against random."""
    if len(found.seeds) < 2:
        return
    for metric in found.metrics:
        for _, _, size, fraction in _chosen(found, lambda one, metric=metric: (one.arm, one.metric) == (HARD, metric)):  # type: ignore[misc]
            for one, other in ((HARD, EASY), (HARD, RANDOM), (EASY, RANDOM)):
                mine = [
                    Outcome(each.arm, each.seed, each.accuracy, each.loss, each.examples, each.steps, each.seconds)
                    for each in found.trained
                    if (each.size, each.fraction) == (size, fraction)
                    and (each.arm, each.metric) in ((one, metric), (other, "" if other == RANDOM else metric))
                ]
                count = round(found.examples(size, fraction))
                comparison = dataclasses.replace(compare(mine, one, other), control="a random choice of as many")
                yield ArmComparison(metric, size, fraction, count, comparison)


def _agreement(setup: Setup, probes: Probes) -> Agreement | None:
    """How alike the metrics rank the largest part, on average over the repetitions."""
    if len(setup.metrics) < 2:
        return None
    tables = []
    for repetition in range(setup.seeds):
        paths = RunPaths(probes[repetition, setup.sizes[-1]])
        scores = [load_scores(paths.scores(metric)) for metric in setup.metrics]
        rows = torch.stack([one.of(scores[0].ids) * one.direction.sign for one in scores])
        tables.append(ranking.rank_correlation(rows))
    over = f", mean over {setup.seeds} seeds" if setup.seeds > 1 else ""
    return Agreement(setup.metrics, torch.stack(tables).mean(0), f"Spearman rank correlation{over}")
