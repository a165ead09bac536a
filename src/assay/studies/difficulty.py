"""Which measure of difficulty is worth pruning by? The protocol of a course project (CSC413: VoG, EL2N, prediction depth), corrected.

A part of the training examples (`initial_dataset_size`, here `sizes`) is ranked by difficulty, by models trained on it; percentages of it are
kept; new nets are trained on them for as many steps as on everything.

`DEVIATIONS` says where this is not what the project's code did, each of which was an error or a gap there.
"""

import dataclasses
from pathlib import Path
from typing import Any

from .. import data
from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import UnknownName, UsageError
from ..core.published import PublishedNumber
from ..core.study import ACCURACY, AGREEMENT, ALL, HARD, LAW, RANDOM, Study
from ..experiments.execution import MOVED, Execution
from .by_difficulty import Setup, study, written
from .scaling import GRID, Scale, StudyGrid, floats, planned, probe_of, titled
from .scaling import SCALES as SCALING

PROJECT = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "batch": 128}
SCALES = {
    "tiny": Scale(
        SCALING["tiny"].settings, 4, 2, ("el2n", "pd", "vog"), (1.0,), (1.0, 0.7, 0.4), 2, (),
    ),
    "small": Scale(
        SCALING["small"].settings, 20, 5, ("el2n", "pd", "vog", "cg_score"), (1.0,), (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 5, (),
    ),
    "full": Scale(
        {"net": "resnet18", "recipe": {**PROJECT, "epochs": 200, "schedule": "step", "milestones": [60, 120, 160], "gamma": 0.2}},
        200, 10, ("el2n", "pd", "vog", "cg_score"), (1.0,), (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 3, (),
    ),
}  # fmt: skip
"""`full` has the project's own numbers: ResNet-18, 200 epochs, no augmentation."""
LAYERS = {"tiny": None, "small": None, "full": 9}
INTERVAL = {"tiny": 1, "small": 2, "full": 5}
EL2N_EPOCH = 20
"""The epoch after which EL2N is read, or the last one of a shorter recording."""


_NOTEBOOK = "outputs kept in the project's notebook, CIFAR-10, one seed, no augmentation"
_PLOTS = "plots of the project's notebook, CIFAR-10, one seed, no augmentation"
_MEASURES = ("vog", "el2n", "prediction_depth")
_READ_OFF = {
    "0.7 of 1": {"vog": 0.865, "el2n": 0.844, "prediction_depth": 0.757, RANDOM: 0.838},
    "0.6 of 1": {"vog": 0.825, "el2n": 0.809, "prediction_depth": 0.737, RANDOM: 0.810},
}
"""Test accuracies by what is kept; random is a smaller part of the data there, all of which is trained on."""
UNOBTAINABLE = (
    PublishedNumber(ACCURACY, "hard by every measure", "every other fraction", None, "not obtainable", "the project's report; not at hand"),
    PublishedNumber(ACCURACY, "hard by every measure, on SVHN", "every fraction", None, "not obtainable", "the project's report; not at hand"),
    PublishedNumber(ACCURACY, "easy by every measure", "every fraction", None, "not obtainable", "the project trained no easiest"),
)  # fmt: skip
PUBLISHED = {
    "cifar10": (
        PublishedNumber(LAW, ALL, "exponent", 0.428, "exact", _NOTEBOOK),
        # The notebook counts errors in percent: 10^3.169 at one example.
        PublishedNumber(LAW, ALL, "scale", 14.76, "exact", _NOTEBOOK),
        PublishedNumber(AGREEMENT, "el2n", "prediction_depth", 0.39, "exact", _NOTEBOOK),
        PublishedNumber(AGREEMENT, "vog", "el2n", -0.005, "exact", _NOTEBOOK),
        PublishedNumber(AGREEMENT, "vog", "prediction_depth", -0.03, "exact", _NOTEBOOK),
        PublishedNumber(ACCURACY, ALL, "1 of 1", 0.888, "read off a figure", _PLOTS),
        *(
            PublishedNumber(ACCURACY, row if row == RANDOM else f"{HARD} by {row}", column, value, "read off a figure", _PLOTS)
            for column, values in _READ_OFF.items()
            for row, value in values.items()
        ),
    ),
}
"""By data."""
DEVIATIONS = (
    "The models of EL2N differ in initial weights and order, and the score is the mean of norms; the project's were copies of one that saw the same batches, and its score a mean of squares.",
    "VoG differentiates the logit of the given label, and not the sum of all logits.",
    "An example is not its own neighbour, and all layers look for neighbours among the same examples.",
    "Prediction depth is held against the given label, as in the project; the paper's own reference, the net's prediction, is prediction_depth without options.",
    "Equal scores are ordered by id, and not cut by chance.",
    "Percentages are taken in whole numbers: 70 % of 45,000 are 31,500, where the project kept 31,499.",
    "Saved scores are found by everything that they depend on, and not by metric, dataset and size alone.",
    "The easiest and a random choice are trained beside the hardest, over several seeds.",
    "All measures are means over the models of one recording, where the project had several for EL2N only.",
    "All final nets take exactly as many steps as everything takes; the project rounded up to whole passes.",
)


@dataclasses.dataclass(frozen=True)
class DifficultyGrid(StudyGrid):
    """The settings that a study of difficulty combines; those left out take the values of its scale.

    Its `metrics` are `el2n` (after 20 epochs, or the last of fewer), `pd` (prediction depth against the given label), `vog`, or any other score with
    its options.

    Attributes:
        checkpoint_interval: Number of epochs between the checkpoints that VoG reads.
        pd_layers: How many of the last layers prediction depth looks at; all if None.
        pd_alpha: Fraction of the examples in which prediction depth looks for neighbours; all if None.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    checkpoint_interval: int | None = None
    pd_layers: int | None = None
    pd_alpha: float | None = None


@moved_keywords(
    MOVED | dict.fromkeys([*GRID, "checkpoint_interval", "pd_layers", "pd_alpha"], "grid=assay.DifficultyGrid({name}=...)")
)
@checked_arguments
def study_difficulty(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: DifficultyGrid | None = None,
    execution: Execution | None = None,
) -> Study:
    """Study of pruning parts of the data by several measures of difficulty, at equal numbers of steps; saved in `folder` with a page.

        study = assay.study_difficulty("studies/digits", scale="tiny")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe (batch, epochs, ...), seed, device.
        scale: `tiny`, `small` or `full`, which has the numbers of the CSC413 project.
        grid: Metrics, sizes, fractions, seeds and the like; what it leaves out takes the values of `scale`.
        execution: Where recordings and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale, metric or setting.
        UsageError: A value out of range, an option that no metric reads, or no data named at the scale `full`.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording or training ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, grid = SCALES[scale], grid or DifficultyGrid()
    checkpoint_interval, pd_layers, pd_alpha = grid.checkpoint_interval, grid.pd_layers, grid.pd_alpha
    plan = planned(preset.settings, settings)
    epochs = preset.probe_epochs if grid.probe_epochs is None else grid.probe_epochs
    wanted = preset.metrics if grid.metrics is None else titled(grid.metrics)
    interval = INTERVAL[scale] if checkpoint_interval is None else checkpoint_interval
    if not 1 <= interval <= max(epochs, 1):
        raise UsageError(f"checkpoint_interval={interval} is outside 1..{epochs}, the epochs of the recording.")
    if checkpoint_interval is not None and not any(one.partition(":")[0] == "vog" for one in wanted):
        raise UsageError(f"checkpoint_interval is read by the metric vog only; it is not among {', '.join(wanted)}.")
    if (pd_layers is not None or pd_alpha is not None) and "pd" not in wanted:
        raise UsageError(f"pd_layers and pd_alpha are read by the metric pd only; it is not among {', '.join(wanted)}.")
    layers = LAYERS[scale] if pd_layers is None else pd_layers
    depth = f"prediction_depth:reference=label,support={1.0 if pd_alpha is None else pd_alpha!r}" + (
        f",last={layers}" if layers is not None else ""
    )
    titles = {"el2n": f"el2n:at={min(EL2N_EPOCH, epochs) - 1}", "pd": depth}
    models = preset.models if grid.models is None else grid.models
    setup = Setup(
        "difficulty",
        plan,
        probe_of(plan, epochs, models, list(range(interval - 1, epochs, interval))),
        tuple(titles.get(one, one) for one in wanted),
        preset.sizes if grid.sizes is None else floats("sizes", grid.sizes),
        preset.fractions if grid.fractions is None else floats("fractions", grid.fractions),
        preset.seeds if grid.seeds is None else grid.seeds,
        grid.per_class,
    )
    of_vog, of_depth = any(one.partition(":")[0] == "vog" for one in wanted), "pd" in wanted
    combined = {
        "metrics": list(wanted), "sizes": list(setup.sizes), "fractions": list(setup.fractions), "seeds": setup.seeds, "probe_epochs": epochs,
        "models": models, "per_class": setup.per_class, "checkpoint_interval": interval if of_vog else None,
        "pd_layers": layers if of_depth else None, "pd_alpha": pd_alpha if of_depth else None,
    }  # fmt: skip
    found = study(setup, folder, execution or Execution(), scale, combined)
    # Of planted labels nothing was published.
    known = PUBLISHED.get(data.parse(plan.data).name, ()) if plan.plant is None else ()
    found = dataclasses.replace(found, published=(*known, *UNOBTAINABLE), deviations=DEVIATIONS)
    written(found, folder)
    return found
