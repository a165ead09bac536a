"""Probe: flip a few labels of the user's own data, record again, and say which method finds them, and how many others are wrong."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from .. import __version__
from ..cluster.executors import Call, InlineExecutor, run_all
from ..core.arguments import checked_arguments, checked_fields
from ..core.errors import Mismatch, MissingEvidence, RunError, UsageError
from ..core.evidence import Evidence
from ..core.lineage import Lineage, fingerprint
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..core.probe import EXTRA, Probe, ProbedMethod, ThresholdExamples
from ..core.scores import Scores
from ..core.wrong_labels import ClassCount, WrongCount, mean_margins, wrong_count
from ..data.corruption import extra_class, flipped_labels
from ..maths import draws
from ..maths.planted_counts import PlantedCount, below_threshold, count_by_planted
from ..maths.ranking import area_interval, detection_areas, precision_at
from ..maths.statistics import holm
from ..methods import parse
from ..runs.artefacts import finished, load_probe, save_probe
from ..runs.run import Run
from .evidence import gather_together
from .execution import Execution
from .models import members_of
from .plan import Plan, came_of, has_plan, load_data, plan_of
from .record import record as recorded
from .request import Request
from .scorable import scorable
from .score import ALL, served
from .trials import TURN

Labelled = Callable[[Int[Tensor, " examples"], Path], object]
"""`record(labels, folder)` trains once on these labels, in the order of the run's ids, and records into the folder."""
FEWEST = 10
"""Flipped labels below which methods cannot be told apart."""
USUAL_RATE = 0.02
MOST_CLASSES = 100
"""Classes up to which a plan holds the chances of each to become each other."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class Flips:
    """Which labels a probe flips.

    Attributes:
        rate: Fraction of the labels, in (0, 0.5]; by default 0.02, and with an extra class 1 / (classes + 1), so that it is as large as the others.
        kind: `confusion`, to another class by the mean probabilities that the model gives the others, which looks like the errors that people make; `uniform`, to any
            other class; or `extra_class`, to a class more, which no example truly has and for which the net gets one more output (AUM's threshold examples).
        seed: Random seed of the draw.

    Raises:
        UsageError: A setting is outside its range.
    """

    rate: float | None = None
    kind: Literal["confusion", "uniform", "extra_class"] = "confusion"
    seed: int = 0

    def __post_init__(self):
        if self.rate is not None and not 0 < self.rate <= 0.5:
            raise UsageError(
                f"rate={self.rate} is outside 0..0.5, 0 excluded; it is the fraction of the labels that are flipped."
            )
        if self.kind not in ("confusion", "uniform", EXTRA):
            raise UsageError(f"kind={self.kind!r} is no kind of flips; give 'confusion', 'uniform' or '{EXTRA}'.")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed} is no seed; give 0 or more.")

    def of(self, classes: int) -> "Flips":
        """The same with the rate filled in, for data of so many classes."""
        usual = 1 / (classes + 1) if self.kind == EXTRA else USUAL_RATE
        return self if self.rate is not None else dataclasses.replace(self, rate=usual)


@checked_arguments
def probe(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod | None = None,
    *,
    flips: Flips | None = None,
    record: Callable[..., object] | None = None,
    save: bool | Literal["recompute"] = True,
    execution: Execution | None = None,
) -> Probe:
    """Which method finds wrong labels best in these data, without any truth: a few labels are flipped, the training is recorded again, and each method says where
    they are.

        found = assay.probe("runs/digits", flips=assay.Flips(rate=0.02))
        decision = assay.choose(assay.score(run, found.best)[found.best], "threshold", count="auto")
        found.methods[0].counted  # how many labels were wrong before, if wrong ones rank like the flipped ones

    The recording under flipped labels is kept in the run's folder, and goes on where it was stopped. AUCs have 95 % intervals (DeLong) over the draw of
    examples, not over trainings; every two methods are compared on the same examples, and all comparisons are corrected together (Holm). Labels that were
    wrong before count as right ones, for all methods alike, so that every AUC is a little too low.

    Where the flipped ones stand among the others says how many of those are wrong, by every method's ranking (`maths.planted_counts`), if wrong labels rank like the
    flipped ones. An extra class, which models resist less than a wrong one, gives an upper end, and AUM's threshold. Both are refused where the count by margins
    (`assay.count_wrong`) says otherwise, or cannot be told, because people's errors are harder to find.

    Args:
        run: The run.
        methods: Names, `"name:option=value,..."`, or methods that rank suspects; by default all that the run allows.
        flips: Which labels are flipped; by default 2 %, by confusion.
        record: For a run of your own loop: `record(labels, folder)`, which trains once on these labels, in the order of the run's ids, and records into the
            folder; with an extra class the labels have one class more, for which the net needs one more output. A run with a plan is recorded by its plan.
        save: Whether the result is saved, and reused; `"recompute"` scores again. The recording itself is always kept.
        execution: Where the training runs that a plan says, and who is told of it and of each method.

    Raises:
        UsageError: Fewer than 10 labels would flip, a method ranks difficulty, or the run is of a loop and `record` is not given.
        MissingEvidence: Examples have no class, or the run kept no mean probabilities for flips by confusion.
        Mismatch: The data have changed, or the folder holds another recording.
    """
    began, flips, execution = time.perf_counter(), flips or Flips(), execution or Execution()
    run = run if isinstance(run, Run) else Run(run)
    if run.task != "classes" or not run.epochs:
        raise MissingEvidence(
            f"A probe flips classes and trains again; {run.folder} recorded {run.classes_in_words} example in {run.epochs} epochs."
        )
    if record is None and not has_plan(run):
        raise UsageError(
            f"{run.folder} {came_of(run)}, which assay cannot repeat; give assay.probe(..., record=FUNCTION), where FUNCTION(labels, folder) "
            "trains on these labels and records into the folder."
        )
    if record is not None and has_plan(run):
        raise UsageError(f"{run.folder} was recorded by a plan, which says how it is trained; leave record= out.")
    wanted = _suspecting(run, methods)
    flips = flips.of(run.classes)
    planted = _planted(run, flips)
    labels = _planted_labels(run, planted)
    flipped = labels != run.labels
    if int(flipped.sum()) < FEWEST:
        raise UsageError(
            f"rate={flips.rate:g} flips {int(flipped.sum())} of {len(flipped)} labels; flip at least {FEWEST}, with rate={min(0.5, 2 * FEWEST / len(flipped)):.2g} or more."
        )
    name = f"{flips.kind}-{flips.rate:g}-{planted['seed']}"
    parents = {
        "run": run.fingerprint,
        "labels": fingerprint(labels.numpy().tobytes()),
        "methods": fingerprint(*sorted(one.title for one in wanted)),
    }
    path = run.paths.probe(name)
    old = finished(load_probe, path) if save is True else None
    made = None if old is None or old.lineage is None else (old.lineage.parents, old.lineage.code)
    # A result of before labels were counted by it is made again, from the same recording.
    if old is not None and made == (parents, __version__) and all(one.counted is not None for one in old.methods):
        return old
    again = _recorded(run, labels, planted, run.paths.probe_run(name), record, execution)
    # Scores take a pool only where one of them retrains.
    scoring = execution if any(one.retrains for one in wanted) else dataclasses.replace(execution, pool=None)
    scores, refused = served(again, wanted, Request(save=save, execution=scoring), joined=False)
    whole = {title: one for title, one in scores.items() if len(one) == len(again.ids)}
    if whole:
        # Such as one that reads validation examples of each class, of which the extra class has none.
        some = f"it does not score all {len(again.ids)} examples, so that it cannot be compared on them."
        refused, scores = {**refused, **dict.fromkeys(scores.keys() - whole.keys(), some)}, whole
    for title, words in sorted(refused.items()):
        warnings.warn(f"{title} is not probed: {words}", stacklevel=3)
    evidence = gather_together(members_of(again))
    counted = wrong_count(evidence)
    # Beside the flipped labels others may be wrong, which rank as high.
    inspected = max(int(flipped.sum()), counted.whole)
    by_ranks = _Counting(
        mended_chance(planted, run), flips.kind == EXTRA, wrong_count(gather_together(members_of(run))), flips.seed
    )
    found = Probe(
        kind=flips.kind,
        flipped=int(flipped.sum()),
        inspected=inspected,
        examples=len(flipped),
        seed=flips.seed,
        methods=probed(list(scores.values()), again, flipped, inspected, by_ranks),
        recall=_recall(counted, flipped),
        threshold=_threshold(evidence, run, flipped) if flips.kind == EXTRA else None,
        lineage=Lineage(run.dataset, parents, __version__, flips.seed, "cpu", time.perf_counter() - began, str(run.folder)),
    )
    if save:
        save_probe(found, path)
    return found


@dataclasses.dataclass(frozen=True)
class _Counting:
    """How a probe counts the labels that were wrong before, by a score's ranking.

    Attributes:
        mended: Chance that planting makes a wrong label right.
        easier: Whether wrong labels are easier to find than the planted ones, so that these give an upper end only.
        by_margins: The count of the run itself.
        seed: Seed of its draws.
    """

    mended: float
    easier: bool
    by_margins: WrongCount
    seed: int

    def of(self, suspicion: Float64[Tensor, " examples"], flipped: Bool[Tensor, " examples"]) -> PlantedCount:
        """The count; refused where the run's own count lies outside its interval, or is not told.

        People's errors are harder to find than planted ones, so that the count is too small and nothing in the ranks shows it: on 4,104 of CIFAR-10N's 10,000 it was 2,437 by flips,
        and the upper end of an extra class 3,917.
        """
        seed = draws.integer(self.seed, "count of wrong labels by planted ones")
        found = count_by_planted(suspicion.numpy(), flipped.numpy(), seed, mended=self.mended, easier=self.easier)
        known = self.by_margins
        if not found.told or (known.clear and known.low <= found.high and found.low <= known.high):
            return found
        why: Literal["contradicted", "unchecked"] = "contradicted" if known.clear else "unchecked"
        return dataclasses.replace(found, count=0.0, low=0.0, high=float(len(flipped)), right=0.0, holds=why)


def probed(
    scores: Sequence[Scores], run: Run, flipped: Bool[Tensor, " examples"], inspected: int, by_ranks: _Counting
) -> tuple[ProbedMethod, ...]:
    """How well each score ranks the flipped labels first, the best first.

    Args:
        scores: Scores of the recording under flipped labels.
        run: That recording.
        flipped: Which labels were flipped.
        inspected: Length of the part of each ranking in which the flipped ones are counted.
        by_ranks: How the labels that were wrong before are counted.

    Raises:
        MissingEvidence: A score does not cover all examples.
    """
    from sklearn.metrics import average_precision_score

    if part := [one.title for one in scores if len(one) != len(run.ids)]:
        raise MissingEvidence(
            f"{part[0]} does not score all {len(run.ids)} examples, so that methods cannot be compared on them; leave it out."
        )
    rows = torch.stack([one.of(run.ids) * one.direction.sign for one in scores])
    areas, covariance = detection_areas(rows, flipped)
    best = int(areas.argmax())
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    adjusted = dict(zip(pairs, holm([_equal(areas, covariance, i, j) for i, j in pairs]), strict=True)) if pairs else {}
    count = int(flipped.sum())
    found = []
    for place, one in enumerate(scores):
        low, high = area_interval(float(areas[place]), float(covariance[place, place]), count) or (None, None)
        precision = float(average_precision_score(flipped.numpy(), rows[place].numpy()))
        p = None if place == best else adjusted[max(place, best), min(place, best)]
        recovered = precision_at(rows[place], flipped, inspected) * inspected / count
        counted = by_ranks.of(rows[place], flipped)
        found.append(ProbedMethod(one.title, float(areas[place]), low, high, precision, recovered, p, counted))
    return tuple(sorted(found, key=lambda one: (one.adjusted is not None, -one.auc)))


def _equal(areas: Float64[Tensor, " methods"], covariance: Tensor, i: int, j: int) -> float:
    """Two-sided p that two areas are equal."""
    from scipy.stats import norm

    difference = float(areas[i] - areas[j])
    variance = float(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
    return 1.0 if difference == 0 or variance <= 0 else float(2 * norm.sf(abs(difference) / variance**0.5))


def _suspecting(run: Run, methods: Sequence[str | AbstractMethod] | str | AbstractMethod | None) -> list[AbstractMethod]:
    """The methods that are compared."""
    named = [ALL] if methods is None else [methods] if isinstance(methods, (str, AbstractMethod)) else list(methods)
    able = [one for name in scorable(run)[0] if (one := parse(name)).direction.ranks_suspects] if ALL in named else []
    wanted = able + [parse(one) for one in named if one != ALL]
    if hard := [one for one in wanted if not one.direction.ranks_suspects]:
        raise UsageError(
            f"{hard[0].title} ranks difficulty ({hard[0].direction.value}), and a probe asks who finds wrong labels; leave it out."
        )
    if not wanted:
        raise UsageError("A probe compares methods; name at least one, or leave methods out for all that the run allows.")
    return list({one.title: one for one in wanted}.values())


def _planted(run: Run, flips: Flips) -> dict:
    """The flips as a plan's table has them."""
    if flips.kind in ("uniform", EXTRA):
        return {"kind": flips.kind, "rate": flips.rate, "seed": _seed(run, flips), "matrix": None}
    evidence = gather_together(members_of(run))
    if Need.MEAN_PROBS not in evidence.holds or run.classes > MOST_CLASSES:
        why = (
            f"has {run.classes} classes"
            if run.classes > MOST_CLASSES
            else "kept no mean probabilities, which say what the model confuses"
        )
        raise MissingEvidence(f"{run.folder} {why}; flip by kind='uniform' (`--kind uniform`).")
    matrix = confusions(evidence.mean_probs, run.labels, flips.rate or USUAL_RATE)
    return {"kind": "class", "rate": None, "seed": _seed(run, flips), "matrix": matrix.tolist()}


def _seed(run: Run, flips: Flips) -> int:
    """The seed of the draw: another one where it would draw the very labels that the plan planted wrong, which depend on (seed, id) alike."""
    if not has_plan(run) or flips.kind == EXTRA or (planted := plan_of(run).plant) is None:
        return flips.seed
    same = (planted.kind == "class") == (flips.kind == "confusion")
    used = plan_of(run).seed if planted.seed is None else planted.seed
    return draws.integer(flips.seed, "probe of planted labels") if same and used == flips.seed else flips.seed


def _planted_labels(run: Run, planted: dict) -> Int[Tensor, " examples"]:
    """The labels that are trained on."""
    if planted["kind"] == EXTRA:
        return extra_class(run.labels, run.classes, run.ids.keys, planted["rate"], planted["seed"])
    return flipped_labels(run.labels, run.classes, run.ids.keys, **planted)


def mended_chance(planted: dict, run: Run) -> float:
    """Chance that a wrong label is flipped to the true class, if wrong labels go to the classes that flips go to."""
    if planted["kind"] == EXTRA:
        return 0.0
    if planted["matrix"] is None:
        return 1 / (run.classes - 1)
    others = torch.tensor(planted["matrix"], dtype=torch.float64).fill_diagonal_(0)
    others = others / others.sum(1, keepdim=True).clamp(min=1e-300)
    return float((others**2).sum(1)[run.labels].mean())


def _threshold(evidence: Evidence, run: Run, extra: Bool[Tensor, " examples"]) -> ThresholdExamples:
    """How many labels are resisted as much as nearly all threshold examples."""
    margins, _ = mean_margins(evidence)
    # By the classes that were given before: of those that got the extra one nothing is known.
    found = below_threshold(-margins.numpy(), extra.numpy(), run.labels.numpy(), draws.integer(0, "AUM's threshold"))
    sizes = run.labels.bincount(minlength=run.classes).tolist()
    by_class = tuple(
        ClassCount(name, size, *map(float, row)) for name, size, row in zip(run.class_names, sizes, found.by_group, strict=False)
    )
    return ThresholdExamples(-found.threshold, *found.total, by_class)


def confusions(probs: Tensor, labels: Int[Tensor, " examples"], rate: float) -> Float64[Tensor, "classes classes"]:
    """The chance of each class to become each other: `rate` in all, in proportion to the mean probability that examples of the class give the other.

    Returns:
        Rows that sum to 1.
    """
    classes = probs.shape[1]
    sums = torch.zeros(classes, classes, dtype=torch.float64).index_add(0, labels, probs.to(torch.float64))
    sums.fill_diagonal_(0)
    # A class without examples, or that nothing is confused with, becomes any other.
    sums = torch.where(sums.sum(1, keepdim=True) > 0, sums, 1 - torch.eye(classes, dtype=torch.float64))
    matrix = rate * sums / sums.sum(1, keepdim=True)
    return matrix + (1 - rate) * torch.eye(classes, dtype=torch.float64)


def _recorded(
    run: Run,
    labels: Int[Tensor, " examples"],
    planted: dict,
    folder: Path,
    record: Labelled | None,
    execution: Execution,
) -> Run:
    """The recording under the flipped labels; one that is there is taken, or gone on with."""
    if record is None:
        plan = plan_of(run)
        made = Plan.make({**plan.plain(), "probe": {name: value for name, value in planted.items() if value is not None}})
        begun = (folder / "run.json").exists()
        if begun and made.record.checkpoints == "none":
            again = _whole(made, folder)
        elif execution.pool is None or isinstance(execution.pool, InlineExecutor):
            again = recorded(made, folder, resume=begun, execution=Execution(progress=execution.progress))
        else:
            name = f"probe-{folder.name}"
            work = made.plain(), str(folder.absolute())
            key = fingerprint(json.dumps(made.plain(), sort_keys=True), load_data(made).content, __version__)
            execution.progress.advance("record", 0, 1)
            for _ in run_all(execution.pool, [Call(name, record_elsewhere, work, key, resumes=True)], run.paths.logs, "probe"):
                execution.progress.advance("record", 1, 1)
            again = Run(folder)
    else:
        if not (folder / "run.json").exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            record(labels, folder)
        again = Run(folder)
    if again.ids != run.ids or not torch.equal(again.labels, labels):
        raise Mismatch(
            f"{folder} holds a recording of other ids or labels than the probe flips; record these labels with these ids, or remove it."
        )
    if planted["kind"] == EXTRA and again.classes != run.classes + 1:
        raise Mismatch(
            f"{folder} holds a recording of {again.classes} classes, and with the extra one there are {run.classes + 1}; give the net one more output, and remove it."
        )
    if again.epochs < run.epochs:
        raise RunError(f"{folder} holds {again.epochs} epochs and {run.folder} {run.epochs}; remove it, and probe again.")
    return again


def record_elsewhere(plain: Mapping[str, Any], folder: str) -> None:
    """Record by a plan into a folder, or go on with what is there, where an executor puts it.

    Raises:
        AssayError: As `record`.
    """
    with TURN:
        recorded(Plan.make(plain), folder, resume=(Path(folder) / "run.json").exists())


def _whole(plan: Plan, folder: Path) -> Run:
    """A recording that kept no checkpoint, and so cannot be gone on with, if it came to its end.

    Raises:
        RunError: It was stopped.
    """
    again = Run(folder)
    models = [again, *again.members]
    if len(models) < plan.models or any(one.epochs < plan.training.epochs for one in models):
        raise RunError(
            f"{folder} holds a probe that was stopped and kept no checkpoint to go on from; remove it, and probe again."
        )
    return again


def _recall(counted: WrongCount, flipped: Bool[Tensor, " examples"]) -> float | None:
    """Mean chance of being wrong that the count gives the flipped labels; None where it cannot tell, or not of all."""
    return float(counted.chances[flipped].mean()) if counted.clear and len(counted) == len(flipped) else None
