"""Which measure of difficulty is worth pruning by? The protocol of a course project (CSC413: VoG, EL2N, prediction depth), corrected.

A part of the training examples (`initial_dataset_size`, here `sizes`) is ranked by difficulty, by models trained on it; percentages of it are
kept; new nets are trained on them for as many steps as on everything.

Departures from the project's code, each of which was an error or a gap: the models of EL2N differ in initial weights and order, and the score is
the mean of norms; VoG differentiates the logit of the given label; an example is not its own neighbour, and one set of neighbours
serves all layers; ties are broken by id; percentages are taken in whole numbers; saved results of an earlier call are found by
everything that they depend on; besides the hardest, the easiest and a random choice are trained too, over several seeds. All measures are
means over the models of one recording, where the project had several for EL2N only.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import UnknownName, UsageError
from ..core.study import Study
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
        folder: Folder of the study; if it holds the same study, that is continued.
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
    setup = Setup(
        "difficulty",
        plan,
        probe_of(
            plan, epochs, preset.models if grid.models is None else grid.models, list(range(interval - 1, epochs, interval))
        ),
        tuple(titles.get(one, one) for one in wanted),
        preset.sizes if grid.sizes is None else floats("sizes", grid.sizes),
        preset.fractions if grid.fractions is None else floats("fractions", grid.fractions),
        preset.seeds if grid.seeds is None else grid.seeds,
        grid.per_class,
    )
    found = study(setup, folder, execution or Execution())
    written(found, folder)
    return found
