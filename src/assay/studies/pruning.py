"""Is a pruned dataset as good as the whole, by scores of the first epochs? The tables of DUAL (2025) and TDDS (2024), with the baselines that stand in them.

The first epochs of a long training are recorded (30 of 200 for DUAL; 10 to 90 for TDDS by how much is pruned; all for the baselines that read all), a fraction is
kept by each row of the table, and new nets are trained on it, with smaller batches where little is kept. Labels can be wrong (the plan's table plant) and images corrupted.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import data, methods, policies
from ..core import options
from ..core.arguments import checked_arguments, checked_fields
from ..core.errors import UnknownName, UsageError
from ..core.published import Known, PublishedNumber
from ..core.replication import ReplicationStudy
from ..core.study import ALL, RANDOM
from ..data.image_corruption import corrupt
from ..experiments.execution import Execution
from ..experiments.plan import Plan, load_data, merged
from ..runs.paths import StudyPaths
from .alterations import saved_arrays
from .coresets import batches_of, carried_out
from .parts import SECTION, Budget, Choice, Protocol, budget_options, live_controls
from .replication import check_plan, counted, each_once, finish, fractions_of
from .scaling import planned, titled

SCHEDULE = 200
"""Epochs of the schedule in which the papers count, but for ImageNet."""
WINDOW, EL2N_AT = 10, 20
"""DUAL's window; the epoch after which EL2N is read, counted from 0."""
SHORTEST = 3
"""Fewest epochs of a window, where a schedule is shorter than the papers'."""
PRUNED = (0.3, 0.5, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class OfData:
    """What the papers set by dataset.

    Attributes:
        c_d: How late DUAL's sampling turns to easy examples.
        cutoff: What CCS and D2 drop first, by fraction pruned (PRUNED).
        tdds: Epochs that TDDS reads, and its window, by fraction pruned.
        early: Epochs that DUAL reads.
        schedule: Epochs of the schedule in which all these are counted.
        batches: At the scale `paper`, batch sizes by fraction; None for those of the scale.
        budget: At the scale `paper`, whether nets on a part take as many epochs, or as many steps as on everything.
    """

    c_d: float
    cutoff: tuple[float, ...]
    tdds: tuple[tuple[int, int], ...]
    early: int = 30
    schedule: int = SCHEDULE
    batches: Mapping[float, int] | None = None
    budget: Budget = "epochs"


CIFAR10 = OfData(5.5, (0.0, 0.0, 0.1, 0.1, 0.3), ((70, 10), (90, 10), (80, 10), (30, 10), (10, 5)))
OF_DATA = {
    "cifar10": CIFAR10,
    "cifar100": OfData(4.0, (0.1, 0.2, 0.2, 0.4, 0.5), ((90, 10), (70, 10), (60, 20), (20, 10), (10, 5))),
    # As many steps of 256 whatever is kept.
    "imagenet": OfData(11.0, (0.0, 0.1, 0.2, 0.2, 0.3), ((60, 10),) * 5, 60, 60, {}, "steps"),
}
"""By name of the reader; other data take those of CIFAR-10."""
CIFAR = {
    "epochs": SCHEDULE, "batch": 128, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "schedule": "cosine", "crop": 4, "flip": True,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    # The README's schedule: a whole cosine of 60 epochs.
    "imagenet": {
        "net": "resnet34",
        "recipe": {**CIFAR, "epochs": 60, "batch": 256, "weight_decay": 1e-4, "nesterov": False, "crop": 0, "resized_crop": 0.08},
    },
}
"""What the plan of the scale `paper` is for other data than CIFAR."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study.

    Attributes:
        settings: Defaults for the plan.
        fractions: Fractions that are kept.
        batches: Batch sizes by fraction.
        seeds: Number of repetitions.
    """

    settings: dict[str, Any]
    fractions: tuple[float, ...]
    batches: dict[float, int]
    seeds: int


SCALES = {
    "tiny": Scale({"data": "digits:test=1000", "net": "mlp:widths=16", "recipe": {"epochs": 20, "batch": 64, "schedule": "cosine"}}, (0.3, 0.1), {0.1: 16}, 3),
    "small": Scale(
        {"data": "digits", "net": "mlp:widths=64", "recipe": {"epochs": 60, "batch": 64, "schedule": "cosine"}}, (0.7, 0.5, 0.3, 0.2, 0.1), {0.2: 32, 0.1: 16}, 5,
    ),
    "paper": Scale({"net": "resnet18", "recipe": CIFAR}, (0.7, 0.5, 0.3, 0.2, 0.1), {0.2: 64, 0.1: 32}, 3),
}  # fmt: skip
"""`tiny` takes less than a minute, `small` some minutes, `paper` has the papers' protocol and wants GPUs and a dataset."""

_FIGURE = "README figure of DUAL, ResNet-18"
_DUAL = "abstract of DUAL, ResNet-34"
_TDDS = "TDDS, its own setup with score-weighted losses"
_COLUMNS = ("0.7", "0.5", "0.3", "0.2", "0.1")
_READ_OFF: dict[str, dict[str, tuple[float | None, ...]]] = {
    "cifar10": {
        "random": (94.39, 93.20, 90.47, 88.30, 83.72),
        "EL2N": (95.42, 95.18, 91.62, None, None),
        "Dyn-Unc": (95.5, 95.35, 91.79, 83.34, None),
        "TDDS (their run)": (94.43, 93.10, 91.02, 88.25, 82.49),
        "CCS": (95.31, 95.06, 92.68, 91.25, 85.92),
        "D2": (94.12, 93.26, 92.34, 90.38, 86.08),
        "DUAL + beta": (95.51, 95.23, 93.04, 91.42, 87.10),
        "DUAL": (None,) * 5,
        "forgetting": (None,) * 5,
        "AUM": (None,) * 5,
    },
    "cifar100": {
        "random": (75.14, 71.68, 64.86, 59.25, 45.1),
        "EL2N": (77.12, 68.98, None, None, None),
        "Dyn-Unc": (77.64, 74.24, 64.31, 55.05, None),
        "TDDS (their run)": (75.0, 71.82, 64.6, 59.87, 47.96),
        "CCS": (77.15, 73.76, 68.65, 64.08, 54.2),
        "D2": (76.49, 73.84, 62.98, 61.48, 50.15),
        "DUAL + beta": (77.86, 74.66, 69.25, 64.77, 54.56),
        "DUAL": (None,) * 5,
        "forgetting": (None,) * 5,
        "AUM": (None,) * 5,
    },
}


def _figure(name: str) -> tuple[PublishedNumber, ...]:
    return tuple(
        PublishedNumber(SECTION, row, column, None if value is None else round(value / 100, 6), _known(value), _FIGURE)
        for row, values in _READ_OFF[name].items()
        for column, value in zip(_COLUMNS, values, strict=True)
    )


def _known(value: float | None) -> Known:
    return "not obtainable" if value is None else "read off a figure"


PUBLISHED = {
    "cifar10": _figure("cifar10"),
    "cifar100": (
        *_figure("cifar100"),
        PublishedNumber(SECTION, "TDDS", "0.7", 0.7756, "exact", _TDDS),
        PublishedNumber(SECTION, "TDDS", "0.1", 0.5451, "exact", _TDDS),
        PublishedNumber(SECTION, ALL, "1", 0.7821, "exact", _TDDS),
    ),
    "imagenet": (PublishedNumber(SECTION, "DUAL + beta", "0.1", 0.60, "exact", _DUAL),),
}
"""By data; numbers that lie outside the figure are not obtainable."""
UNOBTAINABLE = (
    PublishedNumber(
        SECTION,
        "every row, with wrong labels or corrupted images",
        "every fraction",
        None,
        "not obtainable",
        "DUAL; its tables were not at hand",
    ),
)
ROWS = (
    RANDOM, "EL2N", "entropy", "forgetting", "AUM", "Dyn-Unc", "TDDS", "CCS", "D2", "Moderate", "BWS", "DUAL", "DUAL + CCS", "DUAL + beta",
)  # fmt: skip
"""Rows of the tables that keep a fraction once."""
_OF_DUAL = ("DUAL", "DUAL + CCS", "DUAL + beta")
READ_BY = {
    "early_epochs": ("EL2N", *_OF_DUAL),
    "window": ("Dyn-Unc", *_OF_DUAL),
    "c_d": ("DUAL + beta",),
    "c_0": ("DUAL + beta",),
    "cutoff": ("CCS", "D2", "DUAL + CCS"),
    "strata": ("CCS", "DUAL + CCS"),
    "trajectory_len": ("TDDS",),
    "window_size": ("TDDS",),
    "decay": ("TDDS",),
    "n_neighbor": ("D2",),
    "gamma": ("D2",),
}
"""Which rows read an option."""
ADDED = ("methods", "trajectory_len", "window_size", "decay", "c_0", "strata", "n_neighbor", "gamma")
DEVIATIONS = (
    "TDDS has the windows and the probabilities of its authors' code; DUAL's code froze the window and took logits for probabilities, from which its TDDS row may come.",
    "AUM is the mean margin over all epochs, lowest first; DUAL's code kept the last epoch only, easiest first.",
    "Examples that are never learned are the most forgettable; DUAL's code gave them no forgetting.",
    "floor(fraction times examples) stay; the codes' rounding leaves 4,999 of 50,000 at 10 %.",
    "Draws are seeded by the repetition. Nets on a part weigh all examples alike; TDDS' code scales the loss of a batch by its mean score.",
    "Every number is after the last epoch; both codes follow the best one. All scores are read of one recording of the whole schedule, those of early epochs of its first ones.",
    "Where a schedule is not as long as the papers' (200 epochs, of ImageNet 60), all epochs and windows of theirs are taken as the same fractions of it, a window of at least 3. On "
    "ImageNet TDDS reads all 60 epochs, where its row has 70.",
    "D2 drops first what CCS drops, and ranks by forgetting. Moderate and BWS read the last recorded net.",
    "On ImageNet nets on a part take as many steps as the whole takes in 60 epochs (300,300 of 256 examples), where the papers' take 300,000.",
    "ImageNet's random resized crops are cut from the middle square of a picture, as it is read, and not from the whole picture.",
    "Corrupted images have noise, a rotation or another contrast, drawn evenly; which corruptions DUAL's table has could not be read.",
)


@dataclasses.dataclass(frozen=True)
@checked_fields
class PruningGrid:
    """What a study of pruning combines; settings left out take the values of its scale and data.

    Attributes:
        fractions: Fractions that are kept.
        seeds: Number of repetitions.
        early_epochs: Epochs that DUAL reads; 30 of 200, and as large a part of other schedules.
        window: Its window; 10 of 200 epochs.
        c_d: How late beta sampling turns to easy examples.
        cutoff: What CCS and D2 drop first, as a fraction of all examples.
        budget: Whether all nets take as many `epochs`, or as many `steps` as on everything; by default epochs, and steps on ImageNet at the scale `paper`.
        batches: Batch sizes by fraction, such as {0.1: 32}; the plan's elsewhere. Empty for the plan's everywhere, which ImageNet has at the scale `paper`.
        corrupt: Fraction of the training images that are corrupted.
        corrupt_intensity: How far; 1 if None.
        methods: Rows of the tables, such as "EL2N" and "DUAL + beta", whatever the case and signs, and "rs2"; all if None. Random is always the control.
        trajectory_len: Epochs that TDDS reads, whatever is pruned.
        window_size: Its window.
        decay: Weight of its newest window; 0.9.
        c_0: Concentration of beta sampling; 15.
        strata: Number of strata of CCS; 50.
        n_neighbor: Number of neighbours of D2; 5.
        gamma: How fast what D2 takes from neighbours falls with the distance; 0.1.

    Raises:
        UnknownName: No such row.
        UsageError: A value is of a wrong kind or outside its range, or no row that is asked for reads it.
    """

    fractions: Sequence[float] | None = None
    seeds: int | None = None
    early_epochs: int | None = None
    window: int | None = None
    c_d: float | None = None
    cutoff: float | None = None
    budget: Budget | None = None
    batches: Mapping[float, int] | None = None
    corrupt: float = 0.0
    corrupt_intensity: float | None = None
    methods: str | Sequence[str] | None = None
    trajectory_len: int | None = None
    window_size: int | None = None
    decay: float | None = None
    c_0: float | None = None
    strata: int | None = None
    n_neighbor: int | None = None
    gamma: float | None = None

    @property
    def far(self) -> float:
        """How far images are corrupted."""
        return 1.0 if self.corrupt_intensity is None else self.corrupt_intensity

    def __post_init__(self):
        if self.budget not in (None, "epochs", "steps"):
            raise UsageError(f"budget={self.budget!r} is neither 'epochs' nor 'steps'.")
        if self.fractions is not None:
            fractions_of("fractions", self.fractions)
        if self.corrupt_intensity is not None and not self.corrupt:
            raise UsageError("corrupt_intensity is read where images are corrupted; give corrupt too, or leave it out.")
        if not 0 <= self.corrupt <= 1 or not self.far > 0:
            raise UsageError(
                f"corrupt={self.corrupt:g} is a fraction in 0..1, and corrupt_intensity={self.far:g} a number above 0."
            )
        for name in ("early_epochs", "window", "trajectory_len", "window_size", "strata", "n_neighbor"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name}={value} is no whole number of 1 or more.")
        if self.methods is None:
            return
        named = {_bare(row): row for row in (*ROWS, *live_controls())}
        if strange := [one for one in titled(self.methods) if _bare(one) not in named]:
            raise UnknownName("row of this study", strange[0], named.values())
        object.__setattr__(self, "methods", each_once("methods", [named[_bare(one)] for one in titled(self.methods)]))
        for option, readers in READ_BY.items():
            if getattr(self, option) is not None and not {*readers} & {*titled(self.methods)}:
                raise UsageError(
                    f"{option} is read by {', '.join(readers)} only, none of which is among {', '.join(titled(self.methods))}; leave it out."
                )

    @property
    def added(self) -> dict[str, Any]:
        """The options that a later version added, as far as they are given: a study without them has the settings that it always had."""
        found = {name: getattr(self, name) for name in ADDED if getattr(self, name) is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@checked_arguments
def study_pruning(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: PruningGrid | None = None,
    execution: Execution | None = None,
) -> ReplicationStudy:
    """Study of pruning by scores of the first epochs, DUAL and TDDS with the baselines of their tables; saved in `folder` with a page.

        study = assay.study_pruning("studies/pruning", scale="tiny")
        print(*study.sentences, sep="\\n")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe, seed, plant, device.
        scale: `tiny`, `small` or `paper`.
        grid: Fractions, seeds, windows and the like; what it leaves out takes the values of `scale` and of the data.
        execution: Where recordings, choices and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale or setting.
        UsageError: A value out of range, or no data named at the scale `paper`.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording, a choice or a training ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, grid = SCALES[scale], grid or PruningGrid()
    given = dict(settings or {})
    spec = given.get("data")
    named = data.parse(spec).name if isinstance(spec, str) else ""
    base = merged(preset.settings, SETTINGS.get(named, {})) if scale == "paper" else preset.settings
    plan = check_plan(planned(base, given))
    of_data = OF_DATA.get(data.parse(plan.data).name, CIFAR10)
    fractions = fractions_of("fractions", preset.fractions if grid.fractions is None else grid.fractions)
    own = of_data if scale == "paper" else CIFAR10
    preset_batches = preset.batches if own.batches is None else own.batches
    batches = (
        {one: batch for one, batch in preset_batches.items() if one in fractions}
        if grid.batches is None
        else batches_of(grid.batches)
    )
    budget = own.budget if grid.budget is None else grid.budget
    choices = {fraction: rows(fraction, plan.training.epochs, of_data, grid) for fraction in fractions}
    live = tuple(one for one in live_controls() if grid.methods is None or one in grid.methods)
    protocol = Protocol(plan, choices, live, counted(grid.seeds, preset.seeds), budget, batches, "train")
    combined = {
        "fractions": list(fractions), "seeds": protocol.seeds, "early_epochs": grid.early_epochs, "window": grid.window, "c_d": grid.c_d, "cutoff": grid.cutoff,
        "budget": budget, "batches": {f"{fraction:g}": batch for fraction, batch in batches.items()}, "corrupt": grid.corrupt, **({"corrupt_intensity": grid.far} if grid.corrupt else {}), **grid.added,
    }  # fmt: skip
    altered = functools.partial(corrupted, plan, grid.corrupt, grid.far) if grid.corrupt else None
    study = carried_out("pruning", protocol, folder, combined, scale, execution or Execution(), altered)
    name = data.parse(plan.data).name
    published = beside(PUBLISHED.get(name, ()), fractions) if plan.plant is None and not grid.corrupt else ()
    notes = []
    if plan.training.epochs != of_data.schedule:
        notes.append(
            f"The papers count in a schedule of {of_data.schedule} epochs, and this one has {plan.training.epochs}: epochs and windows are as large a part of it."
        )
    return finish(
        dataclasses.replace(study, published=(*published, *UNOBTAINABLE), deviations=DEVIATIONS, notes=tuple(notes)), folder
    )


def beside(published: Sequence[PublishedNumber], fractions: Sequence[float]) -> tuple[PublishedNumber, ...]:
    """Published numbers in the columns of what they stand beside: nets on everything are the same in each."""
    found: list[PublishedNumber] = []
    for one in published:
        found += [dataclasses.replace(one, column=f"{fraction:g}") for fraction in fractions] if one.row == ALL else [one]
    return tuple(found)


def rows(keep: float, epochs: int, of_data: OfData, grid: PruningGrid) -> tuple[Choice, ...]:
    """The rows of the papers' tables for one fraction that is kept, all or those that are asked for, and random.

    Args:
        keep: The fraction.
        epochs: Of the whole schedule.
        of_data: What the papers set for these data, by fraction pruned; the nearest is taken.
        grid: Settings over these.

    Raises:
        UsageError: The schedule is too short for what is read of it.
    """
    place = min(range(len(PRUNED)), key=lambda one: abs(PRUNED[one] - (1 - keep)))
    whole = of_data.schedule
    window = _part(WINDOW, epochs, whole, SHORTEST) if grid.window is None else grid.window
    early = min(max(_part(of_data.early, epochs, whole), window + 1), epochs) if grid.early_epochs is None else grid.early_epochs
    at = min(_part(EL2N_AT, epochs, whole), early - 1)
    last, span = of_data.tdds[place]
    tdds_window = _part(span, epochs, whole, SHORTEST) if grid.window_size is None else grid.window_size
    tdds_epochs = (
        min(max(_part(last, epochs, whole), tdds_window + 1), epochs) if grid.trajectory_len is None else grid.trajectory_len
    )
    if max(early, tdds_epochs, window + 1) > epochs:
        raise UsageError(
            f"The first {max(early, tdds_epochs, window + 1)} epochs are read, and the plan has {epochs}; give more epochs, or fewer early_epochs or trajectory_len."
        )
    if tdds_window > tdds_epochs:
        raise UsageError(
            f"window_size={tdds_window} is more than the {tdds_epochs} epochs that TDDS reads; give a smaller window_size or a longer trajectory_len."
        )
    cutoff = of_data.cutoff[place] if grid.cutoff is None else grid.cutoff
    c_d = of_data.c_d if grid.c_d is None else grid.c_d
    dual = methods.parse("dual", {"window": window, "epochs": early}).title
    tdds = {"window": tdds_window, "epochs": tdds_epochs, **_given(decay=grid.decay)}
    ccs = options.join("ccs", {"cutoff": cutoff, **_given(strata=grid.strata)})
    d2 = options.join("d2", {"cutoff": cutoff, **_given(k=grid.n_neighbor, gamma_r=grid.gamma)})
    beta = options.join("beta", {"c_d": c_d, **_given(c_0=grid.c_0)})
    found = (
        Choice(RANDOM, "random"),
        Choice("EL2N", "top_k", methods.parse("el2n", {"at": at}).title),
        Choice("entropy", "top_k", methods.parse("entropy").title),
        Choice("forgetting", "top_k", methods.parse("forgetting").title),
        Choice("AUM", "bottom_k", methods.parse("aum").title),
        Choice("Dyn-Unc", "top_k", methods.parse("dyn_unc", {"window": window}).title),
        Choice("TDDS", "top_k", methods.parse("tdds", tdds).title),
        Choice("CCS", ccs, methods.parse("aum", {"form": "probs", "reduce": "sum"}).title),
        Choice("D2", d2, methods.parse("forgetting").title),
        Choice("Moderate", "moderate"),
        Choice("BWS", "bws", methods.parse("forgetting").title),
        Choice("DUAL", "top_k", dual),
        Choice("DUAL + CCS", ccs, dual),
        Choice("DUAL + beta", beta, dual),
    )
    asked = tuple(one for one in found if grid.methods is None or one.row in (RANDOM, *grid.methods))
    for choice in asked:
        # Refuses, before anything is recorded, options that are out of range.
        policies.parse(choice.selector, budget_options(choice.selector, keep, 0))
    return asked


def _given(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _bare(row: str) -> str:
    """A row's name without case, signs and spaces."""
    return "".join(letter for letter in row.lower() if letter.isalnum())


def _part(count: int, epochs: int, whole: int, least: int = 1) -> int:
    """As large a part of a schedule as `count` is of the papers'."""
    return max(least, round(count * epochs / whole))


def corrupted(plan: Plan, rate: float, intensity: float, paths: StudyPaths) -> Plan:
    """The plan on data of which a fraction of the training images is corrupted; test images, and what the plan holds out, are as they were.

    Raises:
        UsageError: The inputs are no images from 0 to 1, or beside wrong labels they do not fit into memory.
        NotWritten: The disk refuses.
    """
    damage = {"kind": "mixed", "rate": rate, "strength": intensity, "seed": plan.seed}
    if plan.plant is None:
        return Plan.make({**plan.plain(), "plant": damage})
    # A plan plants one thing: beside wrong labels the images are damaged in a file of their own.
    plain = plan.model_copy(update={"plant": None})
    part, whole = load_data(plain).train, load_data(plain.model_copy(update={"validation": 0.0}))
    inputs = whole.train.inputs.clone()
    inputs[whole.train.ids.positions(part.ids, plan.data)] = corrupt(
        part, "mixed", rate, intensity, seed=plan.seed
    ).examples.inputs
    inputs = inputs if inputs.dtype == torch.uint8 else whole.train.prepared(inputs)
    path = saved_arrays(paths.data.absolute() / "corrupted.npz", whole.train, inputs, whole.train.labels, whole.test)
    return Plan.make({**plan.plain(), "data": options.join("arrays", {"path": str(path)}), "subset": 1.0})
