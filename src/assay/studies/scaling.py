"""Does pruning by difficulty beat the power law of the error? After Sorscher et al. 2022, Beyond neural scaling laws.

Parts of several sizes are drawn from the training examples. In each, a recording ranks examples by difficulty; the hardest, the easiest or a
random choice is kept; a new net is trained on the kept examples, all nets for the same number of steps. The page also shows the errors of the
perceptron, for which the paper works out what pruning can do.

`DEVIATIONS` says where this is not what the paper did.
"""

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .. import __version__
from ..cluster.executors import Call, executor, run_all
from ..core.arguments import checked_arguments, checked_fields, moved_keywords
from ..core.errors import UnknownName, UsageError
from ..core.published import PublishedNumber
from ..core.study import ACCURACY, ALL, EASY, HARD, LAW, Study, Theory
from ..experiments.execution import MOVED, Execution
from ..experiments.plan import Plan, merged
from ..experiments.progress import Progress
from ..maths.perceptron import learnt
from ..runs.paths import StudyPaths
from .by_difficulty import Setup, study, written

ALPHAS = tuple(float(f"{10 ** (-0.5 + 1.5 * place / 11):.3g}") for place in range(12))
"""Numbers of kept examples divided by the dimension, from 0.316 to 10."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study.

    Attributes:
        settings: Defaults for the plan of the final models.
        probe_epochs: Epochs of the recording that ranks examples by difficulty.
        models: Number of models in a recording.
        metrics: Scores that measure difficulty.
        sizes, fractions, seeds: As `Setup`.
        angles: Angles of the theory, in degrees.
    """

    settings: dict[str, Any]
    probe_epochs: int
    models: int
    metrics: tuple[str, ...]
    sizes: tuple[float, ...]
    fractions: tuple[float, ...]
    seeds: int
    angles: tuple[float, ...]


SCALES = {
    "tiny": Scale(
        {"data": "digits", "net": "mlp:widths=32", "recipe": {"epochs": 6, "batch": 64}},
        4, 2, ("el2n:at=2",), (0.25, 0.5, 1.0), (1.0, 0.6, 0.3), 2, (0.0,),
    ),
    "small": Scale(
        {"data": "digits", "net": "mlp:widths=64-64", "recipe": {"epochs": 20, "batch": 64}},
        20, 5, ("el2n:at=5", "prediction_depth", "vog", "cg_score"), (0.1, 0.2, 0.4, 0.7, 1.0), (1.0, 0.8, 0.6, 0.4, 0.2), 5, (0.0, 10.0),
    ),
    "full": Scale(
        {
            "net": "resnet18",
            "recipe": {
                "epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
                "schedule": "step", "milestones": [60, 120, 160], "gamma": 0.2, "crop": 4, "flip": True,
            },
        },
        40, 10, ("el2n:at=19", "prediction_depth", "vog", "cg_score"),
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 3, (0.0, 10.0, 20.0),
    ),
}  # fmt: skip
"""`tiny` takes a minute, `small` less than an hour on two cores, `full` is the paper's grid and wants GPUs and a dataset."""


_ABSENT = "Sorscher et al. 2022, Beyond neural scaling laws; its figures and tables were not at hand"
PUBLISHED = (
    PublishedNumber(ACCURACY, "everything, and the hardest by every measure", "every fraction and size", None, "not obtainable", _ABSENT),
    PublishedNumber(LAW, ALL, "exponent", None, "not obtainable", _ABSENT),
    PublishedNumber("Frontier", "every measure", "every number of examples", None, "not obtainable", _ABSENT),
    PublishedNumber("Theory", "perceptron", "every angle and fraction", None, "not obtainable", _ABSENT),
)  # fmt: skip
DEVIATIONS = (
    "Scores are made anew in each part of the data, from models that never see the rest.",
    "Each repetition has its own seeds for the part of the data, the recording, the random choice and the final net.",
    "The easiest and a random choice are trained in every size and fraction, beside the hardest.",
    "All final nets take as many steps as the plan's epochs take over the whole dataset, with the schedule laid out over these steps; how the paper counts could not be read.",
    "The points of a frontier are chosen by some seeds and measured by the others, and every p is corrected for all that the study tests.",
    "The theory is derived anew and checked against simulations: the paper's own saddle-point equations were not at hand.",
    "The paper's self-supervised prototypes are a policy here, in the study coresets, and no measure of this study.",
)


@dataclasses.dataclass(frozen=True)
@checked_fields
class StudyGrid:
    """The settings that a study combines; those left out take the values of its scale.

    Attributes:
        metrics: Scores that measure difficulty, such as "el2n:at=5".
        sizes: Sizes of the parts of the data, as fractions of the training examples.
        fractions: Fractions of each part to keep; 1 is always included.
        seeds: Number of repetitions.
        probe_epochs: Epochs of the recording that ranks examples by difficulty.
        models: Number of models in a recording.
        per_class: Keep the same fraction of every class.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    metrics: str | Sequence[str] | None = None
    sizes: Sequence[float] | None = None
    fractions: Sequence[float] | None = None
    seeds: int | None = None
    probe_epochs: int | None = None
    models: int | None = None
    per_class: bool = False


@dataclasses.dataclass(frozen=True)
class ScalingGrid(StudyGrid):
    """The settings that a study of scaling combines; those left out take the values of its scale.

    Attributes:
        angles: Angles between probe and teacher in the theory, in degrees from 0 to below 90; none for no theory.

    Raises:
        UsageError: A value is of a wrong kind.
    """

    angles: Sequence[float] | None = None


GRID = [field.name for field in dataclasses.fields(StudyGrid)]


@moved_keywords(MOVED | dict.fromkeys([*GRID, "angles"], "grid=assay.ScalingGrid({name}=...)"))
@checked_arguments
def study_scaling(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: ScalingGrid | None = None,
    execution: Execution | None = None,
) -> Study:
    """Study of training on the hardest, easiest and random parts of the data, in several sizes and at equal numbers of steps; saved in `folder` with
    a page.

        study = assay.study_scaling("studies/digits", scale="tiny")
        print(*study.sentences, sep="\\n")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe, seed, plant.
        scale: `tiny`, `small` or `full`.
        grid: Metrics, sizes, fractions, seeds and the like; what it leaves out takes the values of `scale`.
        execution: Where recordings and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale, metric or setting.
        UsageError: A value out of range, or no data named at the scale `full`.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording or training ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, grid = SCALES[scale], grid or ScalingGrid()
    turned = preset.angles if grid.angles is None else floats("angles", grid.angles)
    for angle in turned:
        if not 0 <= angle < 90:
            raise UsageError(f"angles: {angle:g} is outside 0..90 degrees, 90 excluded.")
    if len({f"{angle:g}" for angle in turned}) < len(turned):
        raise UsageError(f"angles: {', '.join(f'{angle:g}' for angle in turned)}; give each once.")
    plan = planned(preset.settings, settings)
    epochs = preset.probe_epochs if grid.probe_epochs is None else grid.probe_epochs
    models = preset.models if grid.models is None else grid.models
    setup = Setup(
        "scaling",
        plan,
        probe_of(plan, epochs, models),
        preset.metrics if grid.metrics is None else titled(grid.metrics),
        preset.sizes if grid.sizes is None else floats("sizes", grid.sizes),
        preset.fractions if grid.fractions is None else floats("fractions", grid.fractions),
        preset.seeds if grid.seeds is None else grid.seeds,
        grid.per_class,
        turned,
    )
    execution = execution or Execution()
    with ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        combined = {
            "metrics": list(setup.metrics), "sizes": list(setup.sizes), "fractions": list(setup.fractions), "seeds": setup.seeds, "probe_epochs": epochs,
            "models": models, "per_class": setup.per_class, "angles": list(turned),
        }  # fmt: skip
        found = study(setup, folder, dataclasses.replace(execution, pool=pool), scale, combined)
        theory = _theory(setup.fractions, turned, StudyPaths(Path(folder)).logs, pool, execution.progress)
    found = dataclasses.replace(found, theory=theory, published=PUBLISHED, deviations=DEVIATIONS)
    written(found, folder)
    return found


def floats(what: str, given: Any) -> tuple[float, ...]:
    """The numbers that were given for a setting.

    Raises:
        UsageError: A value is not a number.
    """
    try:
        return tuple(float(one) for one in given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}={given!r} are no numbers; give some, such as (0.5, 1.0).") from error


def titled(metrics: Any) -> tuple[str, ...]:
    """The names of scores, whether one name or several were given."""
    return (metrics,) if isinstance(metrics, str) else tuple(metrics)


def planned(preset: dict[str, Any], settings: dict[str, Any] | None) -> Plan:
    """The plan of the final models: the settings of a scale, overridden by the user's.

    Raises:
        UnknownName: No setting has that name.
        UsageError: As `Plan.make`.
    """
    given = dict(settings or {})
    # A schedule, a net or data of the user's own do not go with the recipe of others.
    base = dict(preset)
    if isinstance(given.get("recipe"), dict) and {"schedule", "optimizer"} & given["recipe"].keys():
        keep = {"epochs", "batch", "crop", "resized_crop", "flip"}
        base["recipe"] = {name: value for name, value in base["recipe"].items() if name in keep}
    net, spec = str(base.get("net", "")), given.get("data")
    if net.startswith("resnet") and ":" not in net and isinstance(spec, str) and spec.partition(":")[0] == "imagenet":
        # Unpooled, as for images of 32 pixels, images of 224 would be seen at four times the resolution.
        base["net"] = f"{net}:stem=imagenet"
    return Plan.make(merged(base, given))


def probe_of(plan: Plan, epochs: int, models: int, checkpoints: Any = None) -> dict[str, Any]:
    """Settings of the recording, with about ten checkpoints or those in `checkpoints`.

    Raises:
        UsageError: `epochs` or `models` is below 1.
    """
    if epochs < 1 or models < 1:
        raise UsageError(f"probe_epochs={epochs} and models={models} must be 1 or more.")
    if checkpoints is None:
        checkpoints = sorted({round((place + 1) * epochs / min(10, epochs)) - 1 for place in range(min(10, epochs))})
    recipe: dict[str, Any] = {"epochs": epochs}
    if plan.training.schedule == "step":
        # The first epochs of the whole training, whose later milestones are never reached.
        recipe["milestones"] = [one for one in plan.training.milestones if one < epochs]
        if not recipe["milestones"]:
            recipe.update(schedule="constant", milestones=[], gamma=0.1)
    elif plan.training.schedule in ("cosine", "one_cycle") and epochs < plan.training.epochs:
        recipe["horizon"] = plan.training.epochs
    # Without augmentation, as the papers score.
    return {"models": models, "recipe": recipe, "record": {"checkpoints": checkpoints, "view": "eval"}}


def _theory(
    fractions: Sequence[float], angles: Sequence[float], logs: Path, pool: Executor, progress: Progress
) -> tuple[Theory, ...]:
    """The perceptron's error for every way of keeping; each curve is one call."""
    ways = [(HARD, 1.0, 0.0)] if angles else []
    ways += [(keep, fraction, angle) for angle in angles for keep in (HARD, EASY) for fraction in fractions if fraction < 1]
    calls = [
        Call(f"theory-{keep}-{fraction:g}-{angle:g}", curve, (keep, fraction, angle), __version__)
        for keep, fraction, angle in ways
    ]
    found: dict[str, Theory] = {}
    progress.advance("theory", 0, len(calls))
    for name, one in run_all(pool, calls, logs, "theory"):
        found[name] = one
        progress.advance("theory", len(found), len(calls), name)
    return tuple(found[call.name] for call in calls)


def curve(keep: str, fraction: float, angle: float) -> Theory:
    """The perceptron's error against the number of kept examples divided by the dimension."""
    alphas = ALPHAS if angle == 0 or fraction == 1 else ALPHAS[::2]
    errors = tuple(learnt(alpha, fraction, keep, math.radians(angle)).error for alpha in alphas)  # type: ignore[arg-type]
    return Theory(keep, fraction, angle, alphas, errors)
