"""Which scores find harmful examples, how early, and what training without them gives? The experiments of LiveVal's released code (Xu et al. 2025).

`flip`: labels of one class are flipped to another. `corrupt`: images are blurred. `boundary_detection`: images get one of four transforms, at several intensities
and after several epochs. In each, some examples are altered among others that are tracked; a score finds those altered that are among its worst as many. `early_detection`: the
same for flips after 1, 2, ... epochs, and test accuracy of new nets without what was found. `train_and_eval`: new nets on the fraction that a score values most.
`sweep`: LiveVal with other windows. OTI's modes: scores of a training when it was recorded, of the stored training, and loaded.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import __version__, data, methods
from ..cluster.executors import executor
from ..core import options
from ..core.arguments import checked_arguments, checked_fields
from ..core.errors import UnknownName, UsageError
from ..core.ids import Ids
from ..core.lineage import fingerprint
from ..core.method import AbstractMethod
from ..core.published import PublishedNumber
from ..core.replication import LeftOut, Measured, ReplicationStudy, Section
from ..core.scores import ordered
from ..core.study import ALL, RANDOM
from ..core.trial import Outcome
from ..data.image_corruption import blurred
from ..experiments.estimate import Work, announce, steps_of
from ..experiments.evidence import open_replay
from ..experiments.execution import Execution
from ..experiments.plan import LoadedData, Plan, load_data
from ..experiments.progress import Progress
from ..experiments.retraining import Retraining
from ..experiments.score import score
from ..experiments.trials import TURN, Arm
from ..maths import draws, ranking
from ..replay.targets import accuracy
from ..runs.artefacts import finished, load_outcome, load_scores, save_outcome
from ..runs.paths import StudyPaths
from ..runs.run import Run
from .alterations import saved_arrays, transformed
from .folders import told
from .replication import check_plan, counted, each_once, facts, finish, fractions_of, measured, numbers_of, owned, write_plan
from .scaling import planned, titled
from .trainings import Job, Recorded, check_epochs, outcomes, recordings

Mode = Literal["train_and_eval", "flip", "corrupt", "early_detection", "boundary_detection", "sweep"]
MODES: tuple[Mode, ...] = ("train_and_eval", "flip", "corrupt", "early_detection", "boundary_detection", "sweep")
HELD = "test"
"""The target by which scores are made: the test part of the altered data is what the plan held out for validation."""
SWEPT = "liveval"
WINDOWS = ("delta_min", "delta_max", "delta_step", "eps_min", "eps_max")
WITHOUT = "the altered themselves"
NEW_NETS = ("flip", "clean")
"""The altered data on which new nets are trained."""
AT_LEAST = 2
"""The first window of LiveVal, where a sweep's smallest one allows it."""
RELEASED = {
    "epochs": 5, "batch": 256, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "schedule": "cosine", "final": 1e-4,
}  # fmt: skip
"""The recipe of the released code, by its defaults, with the 5 epochs of its scripts."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study: settings of the plan, and of the grid by name."""

    settings: dict[str, Any]
    grid: dict[str, Any]


METHODS = ("oti", SWEPT, "grand", "influence", "tracin", "loo:form=renormalised")
SCALES = {
    "tiny": Scale(
        {"data": "digits:test=1000", "net": "mlp:widths=16", "validation": 0.2, "recipe": {"epochs": 2, "batch": 32, "lr": 0.1, "momentum": 0.0}},
        {
            "methods": METHODS, "num_flip": (12,), "num_corrupt": (12,), "num_boundary": (12,), "num_scores": 30, "intensity": (1.0,), "n_epochs": (1, 2),
            "fraction": (0.5,), "seeds": 3, "delta_min": (1, 2), "delta_max": (3, 4), "delta_step": (1, 2), "eps_min": (0.01,), "eps_max": (0.1, 0.32),
        },
    ),
    "small": Scale(
        {"data": "digits", "net": "mlp:widths=32", "validation": 0.2, "recipe": {"epochs": 5, "batch": 32, "lr": 0.1, "momentum": 0.0}},
        {
            "methods": METHODS, "num_flip": (10, 20, 30, 40), "num_corrupt": (10, 20, 30, 40), "num_boundary": (40,), "num_scores": 100,
            "intensity": (0.1, 0.5, 1.0), "n_epochs": (1, 2, 3, 4, 5), "fraction": (0.8, 0.5, 0.1), "seeds": 3, "delta_min": (1, 2, 3),
            "delta_max": (3, 4, 5, 6), "delta_step": (1, 2, 3, 4, 5), "eps_min": (1e-4, 1e-3, 1e-2), "eps_max": (0.01, 0.1, 1.0),
        },
    ),
    "paper": Scale(
        {"net": "lenet", "validation": 0.1, "recipe": RELEASED},
        {
            "methods": METHODS, "num_flip": (10, 20, 30, 40), "num_corrupt": (10, 20, 30, 40), "num_boundary": (10, 20, 30, 40), "num_scores": 100,
            "intensity": (0.1, 0.5, 1.0), "n_epochs": (1, 2, 3, 4, 5), "fraction": (0.8, 0.5, 0.1), "seeds": 8, "delta_min": (1, 2, 3, 4, 5, 6),
            "delta_max": (3, 4, 5, 6), "delta_step": (1, 2, 3, 4, 5), "eps_min": (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2),
            "eps_max": (0.01, 0.032, 0.1, 0.32, 1.0),
        },
    ),
}  # fmt: skip
"""`tiny` takes less than a minute, `small` some twenty minutes, `paper` has the numbers of the released scripts and wants MNIST and a GPU."""

FLIP, CORRUPT, EARLY, BOUNDARY = "Flipped labels", "Corrupted inputs", "Early detection", "Boundary detection"
AREA, AVERAGE = "area under the ROC curve", "average precision"
AFTER, EVAL, OTI = "Accuracy without what was found", "Train and evaluate", "OTI's modes"
SWEEPS = {
    ("delta_min", "delta_step"): "Windows: smallest and step",
    ("delta_min", "delta_max"): "Windows: smallest and largest",
    ("eps_min", "eps_max"): "Windows: thresholds",
}
"""The tables of the sweep: their rows and columns."""
_RECORDED = (
    "authors' recorded results, MNIST, LeNet, 5 epochs, rate 0.1, 40 flips of 100, seeds 0 to 7; made by code with known errors; those by smallest window and step under "
    "thresholds of .00032 and .32"
)
_STEPS = (
    (0.622, 0.150, 0.191, 0.213, 0.191), (0.550, 0.281, 0.216, 0.263, 0.194), (0.569, 0.256, 0.238, 0.269, 0.247),
    (0.516, 0.272, 0.300, 0.281, 0.281), (0.475, 0.297, 0.309, 0.297, 0.275), (0.569, 0.328, 0.331, 0.303, 0.328),
)  # fmt: skip
_LARGEST = ((0.788, 0.816, 0.806, 0.800), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
_THRESHOLDS = {
    1e-4: (0.053, 0.119, 0.359, 0.572, 0.688), 3.2e-4: (0.072, 0.181, 0.566, 0.806, 0.775), 1e-3: (0.094, 0.275, 0.775, 0.797, 0.738),
    3.2e-3: (0.269, 0.441, 0.794, 0.856, 0.734), 1e-2: (0.444, 0.647, 0.850, 0.850, 0.738),
}  # fmt: skip
_ABSENT = "Xu et al. 2025; its tables were not at hand"
PUBLISHED = (
    *(
        PublishedNumber(SWEEPS["delta_min", "delta_step"], f"delta_min={row}", f"delta_step={column}", value, "exact", _RECORDED)
        for row, values in enumerate(_STEPS, 1)
        for column, value in enumerate(values, 1)
    ),
    *(
        PublishedNumber(SWEEPS["delta_min", "delta_max"], f"delta_min={row}", f"delta_max={column}", value, "exact", _RECORDED)
        for row, values in enumerate(_LARGEST, 1)
        for column, value in zip((3, 4, 5, 6), values, strict=True)
    ),
    *(
        PublishedNumber(SWEEPS["eps_min", "eps_max"], f"eps_min={row:g}", f"eps_max={column:g}", value, "exact", _RECORDED)
        for row, values in _THRESHOLDS.items()
        for column, value in zip((0.01, 0.032, 0.1, 0.32, 1.0), values, strict=True)
    ),
)
"""Of MNIST; what the authors' files of results hold."""
UNOBTAINABLE = tuple(
    PublishedNumber(section, "every method", "every column", None, "not obtainable", _ABSENT)
    for section in (FLIP, CORRUPT, EARLY, BOUNDARY, AFTER, EVAL)
)
DEVIATIONS = (
    "Scores see the altered labels and inputs, and so do the nets that are trained without what was found; the released code trains on clean ones.",
    "Detection is counted among the tracked examples only, by the direction that each method declares: by chance it finds as large a part as is altered. The released code ranks "
    "all examples, those without a score too, and judges GraNd by its lowest.",
    "LiveVal credits each value to its own batch, at the rate of its own step, without overwriting the model, and needs no order of its references; OTI scores the "
    "recorded training, and not another one in another order; its reference is the end of training, and its norm one over all parameters.",
    "Influence functions solve with a curvature matrix, where the released code takes a difference quotient; TracIn sums over the models after every epoch, where it takes the first.",
    "Influence functions, TracIn and leave-one-out look at a part of the training examples that is held out, where the released code takes 100 test examples: the test examples have no "
    "say in what is found.",
    "Leave-one-out repeats the recorded training without each tracked example, same start, same order, same rates; above 0 the example helps.",
    "Images are altered as bytes, before they are normalised, and the blur has no other strength than in the released code; its elastic transform is a rotation here too, and named so.",
    "Each number of epochs is trained, recorded and scored by itself; nothing of a shorter training is taken for a longer one. Every repetition has its own split, altered examples, "
    "weights and order.",
    "eps_min and eps_max are the lower and the upper threshold, .05 and .1 where windows are swept. Where a smallest window is larger than 2, the first window and the largest are at least as large; where "
    "it is as large as the largest, the window never changes, and the step has no effect.",
    "Train and evaluate keeps the examples of the largest values, as the released code does, and measures after the last epoch, not at the best one.",
)


FLIPPED = {"flip_from": "1", "flip_to": "7"}
"""The classes whose labels are exchanged by default."""
READ_BY = {
    **dict.fromkeys(("num_flip", *FLIPPED), ("flip", "early_detection", "sweep")), "num_corrupt": ("corrupt",), "num_boundary": ("boundary_detection",),
    "intensity": ("boundary_detection",), "n_epochs": ("early_detection", "boundary_detection"), "fraction": ("train_and_eval",),
    **dict.fromkeys(WINDOWS, ("sweep",)), "selection_epochs": ("train_and_eval", "flip", "corrupt", "sweep"),
}  # fmt: skip
"""The experiments that read an option that not all read."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class LiveValGrid:
    """What a study of LiveVal combines, by the names of the released code; settings left out take the values of its scale.

    Attributes:
        modes: Experiments: some of train_and_eval, flip, corrupt, early_detection, boundary_detection, sweep.
        methods: Scores, such as "oti" and "tracin"; a target of `validation` is what the plan holds out.
        num_flip: How many labels are flipped.
        num_corrupt: How many images are blurred.
        num_boundary: How many images are transformed.
        num_scores: How many examples are tracked, the altered ones among them.
        intensity: How far images are transformed.
        n_epochs: After how many epochs examples are scored, in early and boundary detection.
        fraction: Fractions that train_and_eval keeps.
        seeds: Number of repetitions.
        flip_from: Class whose labels are flipped, by name; "1" if None.
        flip_to: The class that they are given; "7" if None.
        delta_min: Smallest windows of the sweep.
        delta_max: Largest windows of the sweep.
        delta_step: Steps of the window, of the sweep.
        eps_min: Lower thresholds of the sweep.
        eps_max: Upper thresholds of the sweep.
        selection_epochs: After how many epochs examples are scored where `n_epochs` does not say it; the plan's if None. New nets of train_and_eval take the plan's.

    Raises:
        UsageError: A value is of a wrong kind or outside its range.
    """

    modes: str | Sequence[str] = MODES
    methods: str | Sequence[str] | None = None
    num_flip: Sequence[int] | None = None
    num_corrupt: Sequence[int] | None = None
    num_boundary: Sequence[int] | None = None
    num_scores: int | None = None
    intensity: Sequence[float] | None = None
    n_epochs: Sequence[int] | None = None
    fraction: Sequence[float] | None = None
    seeds: int | None = None
    flip_from: str | None = None
    flip_to: str | None = None
    delta_min: Sequence[int] | None = None
    delta_max: Sequence[int] | None = None
    delta_step: Sequence[int] | None = None
    eps_min: Sequence[float] | None = None
    eps_max: Sequence[float] | None = None
    selection_epochs: int | None = None

    def __post_init__(self):
        if self.selection_epochs is not None and self.selection_epochs < 1:
            raise UsageError(f"selection_epochs={self.selection_epochs} is no whole number of 1 or more.")
        source, to = (FLIPPED[name] if (value := getattr(self, name)) is None else value for name in FLIPPED)
        if source == to:
            raise UsageError(f"flip_from and flip_to are both {to!r}, which makes no label wrong; name two classes.")
        if self.intensity is not None and not all(one > 0 for one in numbers_of("intensity", self.intensity)):
            raise UsageError(f"intensity={list(self.intensity)}: at 0 an image stays as it is; give numbers above 0.")
        object.__setattr__(self, "modes", each_once("modes", titled(self.modes)))
        if strange := [mode for mode in self.modes if mode not in MODES]:
            raise UnknownName("experiment of this study", str(strange[0]), MODES)
        for name, modes in READ_BY.items():
            if getattr(self, name) is not None and not {*modes} & {*self.modes}:
                raise UsageError(
                    f"{name} is read by {' and '.join(modes)} only, and the modes are {', '.join(map(str, self.modes))}; leave it out."
                )
        for name in ("num_flip", "num_corrupt", "num_boundary", "n_epochs", "delta_min", "delta_max", "delta_step"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, numbers_of(name, values, whole=True))
        for name in ("eps_min", "eps_max", "intensity"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, numbers_of(name, values))
        if self.fraction is not None:
            fractions_of("fraction", self.fraction)

    def filled(self, preset: dict[str, Any]) -> dict[str, Any]:
        """All settings as plain values, those left out from a scale."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        preset = FLIPPED | preset
        found = {name: preset.get(name) if value is None else value for name, value in given.items()}
        return {name: tuple(value) if isinstance(value, (list, tuple)) else value for name, value in found.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Altered data and a training on them.

    Attributes:
        mode: How the data were altered: `flip`, `corrupt`, `boundary`, or `clean`.
        seed: Seed of the repetition.
        count: How many examples are altered.
        intensity: How far.
        epochs: How long is trained.
        altered: Ids of the altered examples.
        tracked: Ids of the tracked ones.
        plan: The plan of the recording; what the study's plan holds out is its test part.
        final: The plan of new nets, with the real test part; that of the recording where no new nets are trained.
    """

    mode: str
    seed: int
    count: int
    intensity: float
    epochs: int
    altered: Ids
    tracked: Ids
    plan: Plan
    final: Plan


@dataclasses.dataclass(frozen=True)
class _Setup:
    """Settings of a study, checked."""

    plan: Plan
    grid: dict[str, Any]
    methods: tuple[AbstractMethod, ...]

    @property
    def quick(self) -> tuple[AbstractMethod, ...]:
        """The methods that score a recording."""
        return tuple(one for one in self.methods if not one.retrains)

    @property
    def slow(self) -> tuple[AbstractMethod, ...]:
        """The methods that train again without each example."""
        return tuple(one for one in self.methods if one.retrains)

    @property
    def selection_epochs(self) -> int:
        """After how many epochs examples are scored where no other number is asked for."""
        return self.grid["selection_epochs"] or self.plan.training.epochs

    def seeds(self) -> list[int]:
        """The seeds of the repetitions."""
        return [self.plan.seed + repetition for repetition in range(self.grid["seeds"])]


@checked_arguments
def study_liveval(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: LiveValGrid | None = None,
    execution: Execution | None = None,
) -> ReplicationStudy:
    """Study of finding altered examples by LiveVal, OTI and others, and of training without them; saved in `folder` with a page.

        study = assay.study_liveval("studies/liveval", scale="tiny")
        print(*study.sentences, sep="\\n")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe, seed, validation, device.
        scale: `tiny`, `small` or `paper`.
        grid: Experiments, scores, counts and the like; what it leaves out takes the values of `scale`.
        execution: Where recordings and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale, experiment, score, class or setting.
        UsageError: A value out of range, no data named at the scale `paper`, or data that cannot be altered so.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording, a scoring or a training ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, execution = SCALES[scale], execution or Execution()
    setup = _setup(planned(preset.settings, settings), (grid or LiveValGrid()).filled(preset.grid))
    # A study without a number of its own has the settings that it always had.
    combined = {name: value for name, value in setup.grid.items() if name != "selection_epochs" or value is not None}
    plain = {"study": "liveval", "plan": setup.plan.plain(), **combined, "methods": [one.title for one in setup.methods]}
    paths = owned(folder, told(plain))
    load_data(_based(setup, setup.plan.seed), anew=True)
    with ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        progress = execution.progress
        work = _work(setup)
        announce(execution, work)
        cases = [case for seed in setup.seeds() for case in _cases(setup, seed, paths)]
        write_plan(
            execution,
            paths,
            "liveval",
            work,
            setup.plan,
            {
                **{name: value for name, value in setup.grid.items() if {*READ_BY.get(name, MODES)} & {*setup.grid["modes"]}},
                "methods": [one.title for one in setup.methods],
            },
            scale,
        )
        runs = recordings([_recorded(setup, case) for case in cases], paths, pool, progress)
        worth = [_valued(setup, case, Run(run), paths, pool, progress) for case, run in zip(cases, runs, strict=True)]
        found, jobs = _numbers(setup, cases, runs, worth)
        trained = outcomes([job for _, _, _, job in jobs], paths, pool, progress)
    found += [
        Measured(section, row, column, job.plan.seed, outcome.accuracy)
        for (section, row, column, job), outcome in zip(jobs, trained, strict=True)
    ]
    of_paper = data.parse(setup.plan.data).name == "mnist"
    published = (*(PUBLISHED if of_paper and "sweep" in setup.grid["modes"] else ()), *UNOBTAINABLE)
    made = {one.section for one in found}
    shown = tuple(section for section in sections(setup) if section.name in made)
    study = ReplicationStudy(
        "liveval", told(plain), facts(_based(setup, setup.plan.seed)), shown, tuple(found), (), tuple(one for one in published if one.section in made),
        tuple(_left_out(setup, made)), DEVIATIONS,
    )  # fmt: skip
    return finish(study, folder)


def _setup(plan: Plan, grid: dict[str, Any]) -> _Setup:
    """The settings, checked.

    Raises:
        UnknownName: No such score.
        UsageError: They do not go together.
    """
    check_plan(plan)
    if not plan.validation or plan.plant is not None:
        raise UsageError(
            "A study of altered examples needs a part held out by which scores are made, and alters labels itself; give validation, and no plant."
        )
    grid["seeds"] = counted(grid["seeds"], 1)
    titles = []
    for spec in titled(grid["methods"]):
        method = methods.parse(spec)
        held = getattr(method, "target", None) == "validation"
        method = methods.parse(spec, {"target": HELD}) if held and "target" not in options.split(spec)[1] else method
        if method.retrains and getattr(method, "window", "all") != "all":
            raise UsageError(f"{method.title}: examples are left out of all steps here; leave window out.")
        titles.append(method)
    each_once("methods", [method.title for method in titles])
    used = [name for name in ("num_flip", "num_corrupt", "num_boundary") if {*READ_BY[name]} & {*grid["modes"]}]
    most = max((max(grid[name]) for name in used), default=0)
    selected_after = grid["selection_epochs"] or plan.training.epochs
    detected_after = min(grid["n_epochs"]) if {"early_detection", "boundary_detection"} & set(grid["modes"]) else selected_after
    check_epochs([method.title for method in titles], min(detected_after, selected_after))
    if not most < grid["num_scores"]:
        raise UsageError(f"num_scores={grid['num_scores']} is not above {most}, the altered examples among them; track more.")
    del grid["methods"]
    return _Setup(plan, grid, tuple(titles))


def _based(setup: _Setup, seed: int) -> Plan:
    return Plan.make({**setup.plan.plain(), "seed": seed})


def _wanted(setup: _Setup) -> dict[tuple[str, int, float], set[int]]:
    """For how many epochs is trained on each altered data: by how they are altered, how many examples, and how far."""
    grid, epochs = setup.grid, setup.selection_epochs
    modes = grid["modes"]
    wanted: dict[tuple[str, int, float], set[int]] = {}
    for count in grid["num_flip"]:
        if {"flip", "sweep"} & set(modes):
            wanted.setdefault(("flip", count, 0.0), set()).add(epochs)
        if "early_detection" in modes:
            wanted.setdefault(("flip", count, 0.0), set()).update(grid["n_epochs"])
    if "corrupt" in modes:
        wanted |= {("corrupt", count, 0.0): {epochs} for count in grid["num_corrupt"]}
    if "boundary_detection" in modes:
        places = itertools.product(grid["num_boundary"], grid["intensity"])
        wanted |= {("boundary", count, intensity): set(grid["n_epochs"]) for count, intensity in places}
    if "train_and_eval" in modes:
        wanted["clean", 0, 0.0] = {epochs}
    return wanted


def _cases(setup: _Setup, seed: int, paths: StudyPaths) -> Iterator[Case]:
    """Every altered data and number of epochs of a repetition."""
    grid = setup.grid
    loaded = load_data(_based(setup, seed))
    for (mode, count, intensity), lengths in _wanted(setup).items():
        inputs, labels, altered, tracked = altered_data(loaded, mode, count, intensity, seed, grid)
        name = f"{mode}-{count}-{intensity:g}-{seed}"
        assert loaded.validation is not None
        # Absolute, so that the recording can be taken again from elsewhere.
        place = paths.data.absolute()
        files_of = {"record": saved_arrays(place / f"{name}-record.npz", loaded.train, inputs, labels, loaded.validation)}
        if mode in NEW_NETS:
            files_of["final"] = saved_arrays(place / f"{name}-final.npz", loaded.train, inputs, labels, loaded.test)
        for length in sorted(lengths):
            plain = {**setup.plan.plain(), "seed": seed, "validation": 0.0, "subset": 1.0}
            plain["recipe"] = {**setup.plan.recipe, "epochs": length}
            plans = {
                which: Plan.make({**plain, "data": options.join("arrays", {"path": str(path)})})
                for which, path in files_of.items()
            }
            if mode == "clean":
                plans["final"] = Plan.make(
                    {**plans["final"].plain(), "recipe": {**setup.plan.recipe, "epochs": setup.plan.training.epochs}}
                )
            record = Plan.make({**plans["record"].plain(), "record": {"checkpoints": "every"}})
            ids = loaded.train.ids
            yield Case(
                mode, seed, count, intensity, length, ids.take(altered), ids.take(tracked), record, plans.get("final", record)
            )


def altered_data(
    loaded: LoadedData, mode: str, count: int, intensity: float, seed: int, grid: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The training inputs and labels with some altered, and the positions of the altered and of the tracked examples.

    Raises:
        UnknownName: There is no class of that name.
        UsageError: There are too few examples, or inputs that are no images are to be altered as such.
    """
    train = loaded.train
    inputs, labels = train.inputs if train.inputs.dtype == torch.uint8 else train.prepared(train.inputs), train.labels.clone()
    order = draws.permutation(train.ids.keys, seed, "study altered")
    fit = order
    if mode == "flip":
        names = train.class_names
        for name in (grid["flip_from"], grid["flip_to"]):
            if name not in names:
                raise UnknownName(f"class of {len(names)}", name, names)
        source, to = names.index(grid["flip_from"]), names.index(grid["flip_to"])
        fit = order[labels[order] == source]
    elif mode != "clean" and inputs.dtype != torch.uint8:
        raise UsageError(
            f"Blur and transforms are of images in bytes, and these are {inputs.dtype} inputs of shape {train.shape}; leave {'boundary_detection' if mode == 'boundary' else mode} out of the modes."
        )
    if len(fit) < count or len(order) < grid["num_scores"]:
        raise UsageError(
            f"There are {len(fit)} examples to alter and {len(order)} to track, fewer than {count} and {grid['num_scores']}; alter or track fewer."
        )
    altered = fit[:count]
    rest = order[~torch.isin(order, altered)]
    tracked = torch.cat([altered, rest[: grid["num_scores"] - count]])
    if mode == "flip":
        labels[altered] = to
    elif mode == "corrupt":
        inputs = inputs.clone()
        inputs[altered] = blurred(inputs[altered].to(torch.float64)).round().clamp(0, 255).to(torch.uint8)
    elif mode == "boundary":
        inputs = inputs.clone()
        inputs[altered] = transformed(inputs[altered], train.ids.keys[altered.numpy()], intensity, seed)
    return inputs, labels, altered.sort().values, tracked.sort().values


def _swept(setup: _Setup) -> dict[tuple[str, str, str], str]:
    """The title of LiveVal in every cell of the sweep, by section, row and column."""
    grid, found = setup.grid, {}
    for (row, column), section in SWEEPS.items():
        for one, other in itertools.product(grid[row], grid[column]):
            given = {row: one, column: other}
            if row == "eps_min":
                if one > other:
                    continue
                how = {"eps_lo": float(one), "eps_hi": float(other)}
            else:
                first = max(AT_LEAST, one)
                largest = given.get("delta_max", max(*grid["delta_max"], first))
                if largest < first:
                    continue
                how = {"delta_min": one, "delta_0": first, "delta_max": largest}
                how |= {"delta_step": other} if column == "delta_step" else {}
            found[section, f"{row}={one:g}", f"{column}={other:g}"] = methods.parse(SWEPT, how).title
    return found


def _of_sweep(setup: _Setup, case: Case) -> bool:
    return (
        "sweep" in setup.grid["modes"]
        and case.mode == "flip"
        and case.count == max(setup.grid["num_flip"])
        and case.epochs == setup.selection_epochs
    )


def _recorded(setup: _Setup, case: Case) -> Recorded:
    titles = [one.title for one in setup.quick]
    if _of_sweep(setup, case):
        titles += list(_swept(setup).values())
    name = f"{case.mode}-{case.count}-{case.intensity:g}-{case.epochs}-{case.seed}"
    return Recorded(name, case.plan, tuple(dict.fromkeys(titles)))


def _valued(setup: _Setup, case: Case, run: Run, paths: StudyPaths, pool: Executor, progress: Progress) -> dict[str, Tensor]:
    """How harmful or hard each tracked example is, by title of the method; of clean data, how every example is valued."""
    worth = {}
    for method in setup.quick:
        scores = load_scores(run.paths.scores(method.title))
        worth[method.title] = (
            scores.of(run.ids) if case.mode == "clean" else scores.hardness()[scores.ids.positions(case.tracked, method.title)]
        )
    for method in setup.slow if case.mode != "clean" else ():
        worth[method.title] = -left_out_values(run, case, method, paths, pool, progress)
    return worth


def left_out_values(
    run: Run, case: Case, method: AbstractMethod, paths: StudyPaths, pool: Executor, progress: Progress
) -> Tensor:
    """By how much the loss rises when training is repeated without each tracked example; every training is kept.

    Raises:
        TrialFailed: A training ended in an error.
    """
    form, where = getattr(method, "form", "weight"), run.ids.positions(case.tracked, "the run")
    groups = [where[:0], *where.split(1)]
    made = [fingerprint(run.fingerprint, form, str(group.tolist()), __version__) for group in groups]
    places = [paths.trial(one, case.seed) for one in made]
    known = {
        place: old
        for place, path in enumerate(places)
        if (old := finished(functools.partial(load_outcome, made_of=path.stem), path)) is not None
    }
    task = f"{case.mode}, {case.epochs} epochs, seed {case.seed}: without each example"
    progress.advance(task, len(known), len(groups))
    if len(known) < len(groups):
        with TURN:
            replay = open_replay(run, targets=[HELD])
            steps = range(replay.epochs[-1].stop)
            trainings = Retraining(replay, None, [HELD], None, pool, save=True, passing=True)
            for one in trainings.each(groups, steps, (accuracy(HELD), HELD), form, tuple(known)):
                place = one.place
                right, loss = one.values
                known[place] = Outcome(
                    "without", case.seed, right, loss, len(run.ids) - len(groups[place]), len(steps), one.seconds
                )
                save_outcome(known[place], places[place], places[place].stem)
                progress.advance(task, len(known), len(groups))
    losses = torch.tensor([known[place].loss for place in range(len(groups))], dtype=torch.float64)
    return losses[1:] - losses[0]


Cell = tuple[str, str, str, Job]
"""Section, row and column of a number, and the training that gives it."""


def _numbers(
    setup: _Setup, cases: Sequence[Case], runs: Sequence[Path], worth: Sequence[dict[str, Tensor]]
) -> tuple[list[Measured], list[Cell]]:
    """What the scores found, and the trainings that show what that is good for."""
    found: list[Measured] = []
    jobs: list[Cell] = []
    for case, folder, values in zip(cases, runs, worth, strict=True):
        if case.mode == "clean":
            jobs += _kept(setup, case, Run(folder), values)
            continue
        for section, column in _columns(setup, case):
            for title, harm in values.items():
                for name, value in zip(
                    (section, f"{section}: {AREA}", f"{section}: {AVERAGE}"), detected(harm, case), strict=True
                ):
                    found += measured(name, title, case.seed, {column: value})
            if section == EARLY:
                jobs += _without(case, values, column)
        if _of_sweep(setup, case):
            found += _sweep(setup, case, Run(folder))
    return found, jobs


def _columns(setup: _Setup, case: Case) -> Iterator[tuple[str, str]]:
    """The sections and columns that a case counts for."""
    grid = setup.grid
    if case.mode == "flip" and "flip" in grid["modes"] and case.epochs == setup.selection_epochs:
        yield FLIP, f"{case.count}"
    if case.mode == "corrupt":
        yield CORRUPT, f"{case.count}"
    several = [f"{case.count} altered"] * (len(grid["num_flip" if case.mode == "flip" else "num_boundary"]) > 1)
    if case.mode == "flip" and "early_detection" in grid["modes"] and case.epochs in grid["n_epochs"]:
        yield EARLY, ", ".join([*several, f"{case.epochs} epoch{'s' * (case.epochs > 1)}"]) if several else f"{case.epochs}"
    if case.mode == "boundary":
        parts = [*several, *[f"intensity {case.intensity:g}"] * (len(grid["intensity"]) > 1)]
        yield BOUNDARY, ", ".join([*parts, f"{case.epochs} epoch{'s' * (case.epochs > 1)}"]) if parts else f"{case.epochs}"


def detected(harm: Tensor, case: Case) -> tuple[float, float, float]:
    """The fraction of the altered examples among as many of the largest values, the area under the ROC curve, and average precision, all among the tracked examples."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    altered = torch.from_numpy(np.isin(case.tracked.values, case.altered.values))
    truth, found = altered.numpy(), harm.numpy()
    rate = ranking.precision_at(harm, altered, case.count)
    return rate, float(roc_auc_score(truth, found)), float(average_precision_score(truth, found))


def _without(case: Case, values: dict[str, Tensor], column: str) -> Iterator[Cell]:
    """New nets on everything, and without as many as were altered: those found by each method, at random, and the altered themselves."""
    loaded = load_data(case.final)
    chance = draws.permutation(case.tracked.keys, case.seed, "study random removal")
    worst = {title: ordered(harm, case.tracked, descending=True) for title, harm in values.items()}
    worst |= {RANDOM: chance, WITHOUT: case.tracked.positions(case.altered, "the tracked examples")}
    yield AFTER, ALL, column, Job(case.final, _arm(loaded, torch.ones(len(loaded.train), dtype=torch.bool)))
    for title, order in worst.items():
        stays = torch.ones(len(loaded.train), dtype=torch.bool)
        stays[loaded.train.ids.positions(case.tracked.take(order[: case.count]), "the data")] = False
        yield AFTER, title, column, Job(case.final, _arm(loaded, stays))


def _arm(loaded: LoadedData, stays: Tensor) -> Arm:
    train = loaded.train
    return Arm("kept", train.ids.take(stays), train.labels[stays], torch.ones(int(stays.sum()), dtype=torch.float64))


def _kept(setup: _Setup, case: Case, run: Run, values: dict[str, Tensor]) -> Iterator[Cell]:
    """New nets on the fraction that each score values most, on as many at random, and on everything."""
    loaded = load_data(case.final)
    n = len(run.ids)
    orders = {title: ordered(value, run.ids, descending=True) for title, value in values.items()}
    orders[RANDOM] = draws.permutation(run.ids.keys, case.seed, "study random part")
    for fraction in setup.grid["fraction"]:
        for title, order in orders.items():
            stays = torch.zeros(n, dtype=torch.bool)
            stays[loaded.train.ids.positions(run.ids.take(order[: round(n * fraction)]), "the data")] = True
            yield EVAL, title, f"{fraction:g}", Job(case.final, _arm(loaded, stays))
        yield EVAL, ALL, f"{fraction:g}", Job(case.final, _arm(loaded, torch.ones(n, dtype=torch.bool)))


def _sweep(setup: _Setup, case: Case, run: Run) -> Iterator[Measured]:
    """LiveVal with other windows, and OTI's modes, on one recording."""
    for (section, row, column), title in _swept(setup).items():
        yield Measured(section, row, column, case.seed, detected(_harm(run, case, title), case)[0])
    for method in setup.quick:
        # OTI's released modes: train and score, score a stored training, load scores. Of a recording the first and the last are one file.
        if getattr(method, "reference", None) is not None:
            title = method.title
            stored = score(Run(run.folder), method, strict=True)[title]
            told_as = {
                "full: trained, then scored": load_scores(run.paths.scores(title)),
                "stored: the stored training scored again": stored,
                "scores: loaded": load_scores(run.paths.scores(title)),
            }
            for row, scores in told_as.items():
                harm = scores.hardness()[scores.ids.positions(case.tracked, title)]
                far = float((scores.values - load_scores(run.paths.scores(title)).values).abs().max())
                yield from measured(
                    OTI, row, case.seed, {"detection rate": detected(harm, case)[0], "largest difference from full": far}
                )


def _harm(run: Run, case: Case, title: str) -> Tensor:
    scores = load_scores(run.paths.scores(title))
    return scores.hardness()[scores.ids.positions(case.tracked, title)]


def sections(setup: _Setup) -> tuple[Section, ...]:
    """The tables of the study."""
    grid, tracked = setup.grid, setup.grid["num_scores"]
    told_as = {
        FLIP: (f"Labels of class {grid['flip_from']} flipped to {grid['flip_to']}, among {tracked} tracked examples.", "flipped"),
        CORRUPT: (f"Images blurred, among {tracked} tracked examples.", "blurred"),
        EARLY: (f"Flipped labels among {tracked} tracked examples, scored after a training of so many epochs.", "epochs"),
        BOUNDARY: (f"Images with noise, turned, or of another contrast, among {tracked} tracked examples, after a training of so many epochs.", "epochs"),
    }  # fmt: skip
    found = []
    for name, (words, columns) in told_as.items():
        chance = "By chance a score finds as large a part as is altered of the tracked."
        found.append(Section(name, f"{words} {chance}", "detection rate", columns, percent=True))
        found.append(Section(f"{name}: {AREA}", f"{words} By chance it is 0.5.", AREA, columns))
        # A random order comes to a little more, the fewer examples there are.
        found.append(
            Section(
                f"{name}: {AVERAGE}", f"{words} By chance it is about the part of the tracked that is altered.", AVERAGE, columns
            )
        )
    lost = "New nets, trained on the flipped labels for as many epochs, without as many examples as were flipped: those found, some at random, or the flipped themselves."
    found.append(Section(AFTER, lost, "test accuracy", "epochs", RANDOM, percent=True))
    kept = "New nets, trained on the fraction of clean data that a score values most."
    found.append(Section(EVAL, kept, "test accuracy", "kept", RANDOM, percent=True))
    found.append(
        Section(
            OTI,
            "One recording, scored in the three modes of the released code.",
            "detection rate or difference",
            "measure",
            highest=None,
        )
    )
    for (row, column), name in SWEEPS.items():
        words = f"LiveVal by {row} and {column}, on the recordings with {max(grid['num_flip'])} flipped labels of {tracked}."
        found.append(Section(name, words, "detection rate", column, percent=True))
    return tuple(found)


def _left_out(setup: _Setup, made: set[str]) -> Iterator[LeftOut]:
    if EVAL in made:
        for method in setup.slow:
            yield LeftOut(
                EVAL, method.title, "every fraction", "It trains once for each example, and here every example is valued."
            )
    for (row, column), section in SWEEPS.items():
        if section in made:
            there = {(one, other) for where, one, other in _swept(setup) if where == section}
            for one, other in itertools.product(setup.grid[row], setup.grid[column]):
                cell = f"{row}={one:g}", f"{column}={other:g}"
                if cell not in there:
                    yield LeftOut(section, *cell, "The smaller bound lies above the larger one.")


def _work(setup: _Setup) -> list[Work]:
    """All trainings: of each length those that are recorded, repeated without an example, and new."""
    grid, seeds, base = setup.grid, len(setup.seeds()), _based(setup, setup.plan.seed)
    examples = len(load_data(base).train)
    recorded, again, final = Counter[int](), Counter[int](), Counter[int]()
    for (mode, _, _), lengths in _wanted(setup).items():
        for length in lengths:
            recorded[length] += seeds
            if mode == "clean":
                final[setup.plan.training.epochs] += seeds * (len(grid["fraction"]) * (len(setup.quick) + 1) + 1)
                continue
            again[length] += seeds * len(setup.slow) * (1 + grid["num_scores"])
            if mode == "flip" and "early_detection" in grid["modes"] and length in grid["n_epochs"]:
                final[length] += seeds * (len(setup.methods) + 3)
    found = []
    for what, counts in (("recorded", recorded), ("repeated without an example", again), ("final models", final)):
        for length, number in sorted(counts.items()):
            plan = Plan.make({**base.plain(), "recipe": {**base.recipe, "epochs": length}})
            how = Plan.make({**plan.plain(), "record": {"checkpoints": "every"}}) if what == "recorded" else plan
            words = f"{what}, {length} epoch{'s' if length > 1 else ''}"
            if number:
                found.append(Work(words, number, steps_of(plan, examples), how, recorded=what == "recorded"))
    return found
