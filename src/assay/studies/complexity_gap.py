"""Does the complexity gap find wrong labels, say what to prune, and agree with training dynamics? After Nohyun, Choi and Chung 2023.

Mislabel detection: labels are made wrong, the data are recorded and scored, and each score ranks the wrong ones. Pruning: in a recording with the given labels
the same fraction of every class is kept, of those that a score ranks highest or lowest, or at random; new nets are trained on it, as many steps as on
everything. Correlation: how alike the scores of that recording rank the examples. Sub-terms: what of cg = a2 + 2 ab + b2 finds wrong labels.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from .. import methods
from ..cluster.executors import executor
from ..core.arguments import checked_arguments, checked_fields
from ..core.errors import UnknownName, UsageError
from ..core.published import PublishedNumber
from ..core.replication import LeftOut, Measured, ReplicationStudy, Section
from ..core.scores import Scores
from ..core.study import ALL, EASY, HARD, RANDOM, Study
from ..experiments.detection import detect
from ..experiments.estimate import Work, announce, steps_of
from ..experiments.execution import Execution
from ..experiments.plan import LoadedData, Plan, load_data
from ..maths.ranking import rank_correlation
from ..runs.artefacts import load_scores
from ..runs.paths import RunPaths
from ..runs.run import Run
from .by_difficulty import Setup, pruned
from .folders import told
from .replication import check_plan, counted, each_once, facts, finish, fractions_of, measured, owned, write_plan
from .scaling import planned, probe_of, titled
from .trainings import Recorded, recordings

TERMS = ("a2", "ab", "b2")
"""The terms of the score, beside itself."""
SOURCE_RECIPE = {
    "epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine", "crop": 4, "flip": True,
}  # fmt: skip
"""The recipe of the released code."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study.

    Attributes:
        settings: Defaults for the plan of the final models.
        probe_epochs: Epochs of the recordings.
        models: Number of models in a recording.
        metrics: Scores beside the complexity gap.
        fractions: Fractions of every class that are kept.
        seeds: Number of repetitions.
    """

    settings: dict[str, Any]
    probe_epochs: int
    models: int
    metrics: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: int


SCALES = {
    "tiny": Scale(
        {"data": "digits:test=1000", "net": "mlp:widths=32", "recipe": {"epochs": 6, "batch": 64}},
        6, 2, ("el2n:at=2", "forgetting", "aum"), (0.6, 0.3), 3,
    ),
    "small": Scale(
        {"data": "digits", "net": "mlp:widths=64-64", "recipe": {"epochs": 20, "batch": 64}},
        20, 5, ("el2n:at=5", "forgetting", "aum", "confidence", "variability"), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 5,
    ),
    "paper": Scale(
        {"net": "resnet18", "recipe": SOURCE_RECIPE},
        200, 1, ("el2n:at=19", "forgetting", "aum", "confidence", "variability"), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 3,
    ),
}  # fmt: skip
"""`tiny` takes seconds, `small` some minutes, `paper` has the released code's net and recipe and wants a GPU and a dataset."""

DETECTION, SUBTERMS, CORRELATION, PRUNING = "Mislabel detection", "Sub-terms", "Correlation", "Pruning"
AUC, AVERAGE, PRECISION = "area under the ROC curve", "average precision", "precision among as many as are wrong"
ABSENT = "Nohyun, Choi and Chung 2023; its tables and figures were not at hand"
PUBLISHED = (
    PublishedNumber(DETECTION, "complexity gap", AUC, None, "not obtainable", ABSENT),
    PublishedNumber(SUBTERMS, "a2, ab and b2", AUC, None, "not obtainable", ABSENT),
    PublishedNumber(CORRELATION, "complexity gap with forgetting, EL2N and C-score", "Spearman", None, "not obtainable", ABSENT),
    PublishedNumber(
        PRUNING, "complexity gap on Fashion-MNIST, CIFAR-10 and CIFAR-100", "every fraction", None, "not obtainable", ABSENT
    ),
)
DEVIATIONS = (
    "Examples of other classes are drawn 5 times and scores averaged, where the released code draws once by default; one draw is noisy.",
    "C-scores, which the released code reads from files, are not compared: they are not made from a recording.",
    "EL2N is computed from this study's recordings, where the released code reads it from a file.",
    "A pruned set is seen in whole epochs, for as many steps as everything takes; the released code draws from it with replacement, and drops the last batch.",
    "Both ends are kept, each against a random choice of as many; the released code keeps one, by a flag.",
    "The fraction that is kept is the floor of fraction times examples in each class; the released code's rounding leaves 999 of 5,000 at 80 % pruned.",
    "Inputs that equal another of their class are worth 0, where the released code has no number.",
    "Every repetition has its own seeds of weights, order, random choice and planted labels.",
)


RATE = 0.2
"""Fraction of the labels that are made wrong by default."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class ComplexityGapGrid:
    """What a study of the complexity gap combines; settings left out take the values of its scale.

    Attributes:
        metrics: Scores beside the complexity gap, such as "el2n:at=5"; those of training dynamics.
        fractions: Fractions of every class that are kept.
        seeds: Number of repetitions.
        probe_epochs: Epochs of the recordings.
        models: Number of models in a recording.
        rate: Fraction of the labels that are made wrong for mislabel detection; .2 if None. Not beside a planting of the plan's own, nor for data with known wrong labels.
        rep_num: How often examples of other classes are drawn for the complexity gap.
        unbalance_ratio: How many of them for each example of the class.

    Raises:
        UsageError: A value is of a wrong kind or outside its range.
    """

    metrics: str | Sequence[str] | None = None
    fractions: Sequence[float] | None = None
    seeds: int | None = None
    probe_epochs: int | None = None
    models: int | None = None
    rate: float | None = None
    rep_num: int = 5
    unbalance_ratio: float = 1.0

    def __post_init__(self):
        if self.rate is not None and not 0 < self.rate < 1:
            raise UsageError(f"rate={self.rate:g} is outside 0..1, both excluded; give a fraction such as 0.2.")
        if self.fractions is not None:
            fractions_of("fractions", self.fractions)


@checked_arguments
def study_complexity_gap(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: ComplexityGapGrid | None = None,
    execution: Execution | None = None,
) -> ReplicationStudy:
    """Study of the complexity gap: mislabel detection, sub-terms, correlation with training dynamics, pruning; saved in `folder` with a page.

        study = assay.study_complexity_gap("studies/gap", scale="tiny")
        print(*study.sentences, sep="\\n")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe, seed, plant (the wrong labels of mislabel detection only), device.
        scale: `tiny`, `small` or `paper`.
        grid: Scores, fractions, seeds and the like; what it leaves out takes the values of `scale`.
        execution: Where recordings and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale, score or setting.
        UsageError: A value out of range, or no data named at the scale `paper`.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording or training ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, grid, execution = SCALES[scale], grid or ComplexityGapGrid(), execution or Execution()
    asked = planned(preset.settings, settings)
    plan = check_plan(asked.model_copy(update={"plant": None}))
    epochs = preset.probe_epochs if grid.probe_epochs is None else grid.probe_epochs
    models = preset.models if grid.models is None else grid.models
    gaps = _gaps(grid)
    others = preset.metrics if grid.metrics is None else titled(grid.metrics)
    metrics = each_once("metrics", [methods.parse(one).title for one in (gaps["cg"], *others)])
    setup = Setup(
        "complexity_gap",
        plan,
        # Forgetting and margins read every epoch, the complexity gap none of the states.
        {**probe_of(plan, epochs, models), "record": {"checkpoints": "last", "view": "eval"}},
        metrics,
        (1.0,),
        preset.fractions if grid.fractions is None else fractions_of("fractions", grid.fractions),
        counted(grid.seeds, preset.seeds),
        per_class=True,
    )
    if grid.rate is not None and asked.plant is not None:
        raise UsageError("The plan plants wrong labels of its own, beside which rate is not read; leave one of them out.")
    rate = RATE if grid.rate is None else grid.rate
    plant = {"kind": "uniform", "rate": rate} if asked.plant is None else asked.plant.model_dump(mode="json", exclude_none=True)
    plain = {"study": "complexity_gap", **setup.plain(), "gaps": gaps, "plant": plant}
    paths = owned(folder, told(plain))
    known = load_data(setup.final(0), anew=True).true_labels is not None
    if known and grid.rate is not None:
        raise UsageError("The data have known wrong labels of their own, beside which rate is not read; leave it out.")
    plans = [_dirty(setup, repetition, None if known else plant) for repetition in range(setup.seeds)]
    for one in plans:
        # Before anything is trained.
        _check_detectable(load_data(one))
    work = _work(setup, models)
    announce(execution, work)
    write_plan(
        execution,
        paths,
        setup.name,
        work,
        asked,
        {
            "metrics": list(metrics[1:]), "fractions": [one for one in setup.fractions if one < 1], "seeds": setup.seeds, "probe_epochs": epochs,
            "models": models, **({"rate": rate} if asked.plant is None and not known else {}), "rep_num": grid.rep_num, "unbalance_ratio": grid.unbalance_ratio,
        },
        scale,
    )  # fmt: skip
    titles = (*metrics, *(gaps[term] for term in TERMS))
    with ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        execution = dataclasses.replace(execution, pool=pool)
        wanted = [Recorded(f"wrong-{repetition}", one, titles) for repetition, one in enumerate(plans)]
        dirty = recordings(wanted, paths, pool, execution.progress)
        clean = recordings(
            [Recorded(f"probe-{repetition}", setup.probed(repetition, 1.0), titles, setup.final(repetition)) for repetition in range(setup.seeds)],
            paths, pool, execution.progress,
        )  # fmt: skip
        curve = pruned(setup, paths, execution)
    seeds = [setup.plan.seed + repetition for repetition in range(setup.seeds)]
    found: list[Measured] = []
    left: list[LeftOut] = []
    for seed, folder_of, one in zip(seeds, dirty, plans, strict=True):
        found += _detected(folder_of, one, metrics, gaps, seed)
    for seed, folder_of in zip(seeds, clean, strict=True):
        for number in _correlated([load_scores(RunPaths(folder_of).scores(title)) for title in titles], len(metrics), seed):
            if math.isnan(number.value):
                left.append(
                    LeftOut(
                        CORRELATION, number.row, number.column, f"One of them gives every example the same value, seed {seed}."
                    )
                )
            else:
                found.append(number)
    found += _curve(curve)
    study = ReplicationStudy(
        setup.name, told(plain), facts(setup.final(0)), sections(grid, known), tuple(found), (), PUBLISHED, tuple(left), DEVIATIONS,
    )  # fmt: skip
    return finish(study, folder)


def sections(grid: ComplexityGapGrid, known: bool) -> tuple[Section, ...]:
    """The tables of the study."""
    wrong = "The data's own wrong labels" if known else "Labels made wrong on purpose"
    return (
        Section(DETECTION, f"{wrong}, ranked by each score of a recording that has them.", "area or fraction", "measure"),
        Section(
            SUBTERMS,
            "The terms of cg = a2 + 2 ab + b2 on the same recordings, and how alike each ranks the examples.",
            "area or correlation",
            "measure",
            lowest=-1.0,
        ),
        Section(
            CORRELATION,
            "How alike the scores rank the examples of a recording with the given labels; every score is turned so that large means hard or suspect.",
            "Spearman's correlation",
            "score",
            lowest=-1.0,
        ),
        Section(
            PRUNING,
            "New nets, trained on what is kept of every class: what a score ranks highest (hardest), lowest (easiest), or a random choice.",
            "test accuracy",
            "kept",
            RANDOM,
            percent=True,
        ),
    )


def _gaps(grid: ComplexityGapGrid) -> dict[str, str]:
    """Titles of the score and of its terms.

    Raises:
        UsageError: `rep_num` or `unbalance_ratio` is out of range.
    """
    options = {"repeats": grid.rep_num, "ratio": grid.unbalance_ratio}
    return {term: methods.parse("cg_score", {**options, "term": term}).title for term in ("cg", *TERMS)}


def _dirty(setup: Setup, repetition: int, plant: dict[str, Any] | None) -> Plan:
    """The plan of the recording with wrong labels."""
    plain = {**setup.probed(repetition, 1.0).plain(), **({} if plant is None else {"plant": plant})}
    return Plan.make(plain)


def _check_detectable(loaded: LoadedData) -> None:
    """Refuse data in which no label is wrong, or all are.

    Raises:
        UsageError: There is nothing to detect.
    """
    wrong = 0 if loaded.true_labels is None else int((loaded.train.labels != loaded.true_labels).sum())
    if not 0 < wrong < len(loaded.train):
        raise UsageError(
            f"{wrong} of {len(loaded.train)} labels are wrong, and this study detects wrong ones among right ones; give --rate or a --plant that makes labels wrong, "
            "such as uniform:rate=0.2, or data with known wrong labels."
        )


def _work(setup: Setup, models: int) -> list[Work]:
    plan, probed = setup.final(0), setup.probed(0, 1.0)
    final = setup.seeds * (1 + (len(setup.fractions) - 1) * (1 + 2 * len(setup.metrics)))
    examples = len(load_data(plan).train)
    return [
        Work("recorded", 2 * setup.seeds * models, steps_of(probed, examples), probed, recorded=True),
        Work("final models of as many steps as everything takes", final, steps_of(plan, examples), plan),
    ]


def _detected(folder: Path, plan: Plan, metrics: Sequence[str], gaps: dict[str, str], seed: int) -> Iterator[Measured]:
    loaded, run = load_data(plan), Run(folder)
    assert loaded.true_labels is not None
    truth = loaded.train.ids, loaded.true_labels
    cg = load_scores(run.paths.scores(gaps["cg"]))
    for title in metrics:
        one = detect(load_scores(run.paths.scores(title)), run, truth)
        values = {AUC: one.auc, AVERAGE: one.average_precision, PRECISION: one.precision_at_planted}
        yield from measured(DETECTION, title, seed, values)
    for term, title in gaps.items():
        scores = load_scores(run.paths.scores(title))
        alike = float(rank_correlation(torch.stack([cg.of(run.ids), scores.of(run.ids)]))[0, 1])
        values = {AUC: detect(scores, run, truth).auc}
        yield from measured(SUBTERMS, term, seed, values if term == "cg" else {**values, "Spearman with cg": alike})


def _correlated(scores: Sequence[Scores], columns: int, seed: int) -> Iterator[Measured]:
    """Every score against the first so many."""
    ids = scores[0].ids
    table = rank_correlation(torch.stack([one.hardness()[one.ids.positions(ids, one.title)] for one in scores]))
    for place, one in enumerate(scores):
        for column, other in enumerate(scores[:columns]):
            yield Measured(CORRELATION, one.title, other.title, seed, float(table[place, column]))


def _curve(curve: Study) -> Iterator[Measured]:
    names = {HARD: "highest", EASY: "lowest"}
    for one in curve.trained:
        row = one.arm if one.arm in (RANDOM, ALL) else f"{names[one.arm]} by {one.metric}"
        yield Measured(PRUNING, row, f"{one.fraction:g}", one.seed, one.accuracy)
