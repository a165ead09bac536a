"""Which part of the data to keep? Every selector, and every score of training dynamics by every policy that chooses by one, under one protocol.

For each seed the plan is recorded once and scored; every choice keeps the same fraction from that recording; what stays is trained from new weights by the same
recipe, all choices from the same ones. Differences from a random part are paired by seed, and their p corrected for all of them together; what is
significantly below random is called so. Live selectors that train every epoch on as many examples, chosen anew, stand beside them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .. import methods
from ..cluster.executors import executor
from ..core import options
from ..core.arguments import checked_arguments, checked_fields
from ..core.errors import UnknownName, UsageError
from ..core.published import PublishedNumber
from ..core.replication import LeftOut, ReplicationStudy, Section
from ..core.study import RANDOM
from ..experiments.estimate import announce
from ..experiments.execution import Execution
from ..experiments.plan import Plan, load_data
from ..policies import catalogue, parse
from ..runs.paths import StudyPaths
from .folders import told
from .parts import SECTION, Budget, Choice, Protocol, budget_options, live_controls, measured
from .replication import check_plan, counted, each_once, facts, finish, fractions_of, owned, write_plan
from .scaling import planned, titled

NEEDED = {"start": ("0.1", "0.3"), "cutoff": ("0.0", "0.1")}
"""Values for options without a default, other than `keep` and `seed`; those that do not fit a budget are left out."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study.

    Attributes:
        settings: Defaults for the plan.
        methods: Scores.
        fractions: Fractions that are kept.
        seeds: Number of repetitions.
    """

    settings: dict[str, Any]
    methods: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: int


DYNAMICS = ("aum", "confidence", "correctness", "dual", "dyn_unc", "el2n", "entropy", "forgetting", "tdds", "variability")
SCALES = {
    "tiny": Scale(
        {"data": "digits:test=1000", "net": "mlp:widths=16", "validation": 0.1, "recipe": {"epochs": 4, "batch": 32}}, ("aum", "dual:window=3"), (0.2,), 5,
    ),
    "small": Scale(
        {"data": "digits", "net": "mlp:widths=32", "validation": 0.1, "recipe": {"epochs": 12, "batch": 32}},
        ("aum", "confidence", "correctness", "dual:window=4", "dyn_unc:window=4", "el2n:at=3", "entropy", "forgetting", "tdds:window=4", "variability"),
        (0.5, 0.3, 0.1), 5,
    ),
    "paper": Scale(
        {
            "net": "resnet18", "validation": 0.1,
            "recipe": {
                "epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "schedule": "cosine", "crop": 4, "flip": True,
            },
        },
        DYNAMICS, (0.9, 0.7, 0.5, 0.3, 0.2, 0.1), 5,
    ),
}  # fmt: skip
"""`tiny` takes less than a minute, `small` some ten minutes, `paper` has DeepCore's net, recipe and fractions from 10 % on, and wants GPUs."""
PUBLISHED = (
    PublishedNumber(
        SECTION,
        "every selector on CIFAR-10",
        "every fraction",
        None,
        "not obtainable",
        "Guo, Zhao and Bai 2022 (DeepCore); its tables were not at hand",
    ),
)
DEVIATIONS = (
    "All choices of a seed are made from one recording of the full training, where the released code trains for a number of epochs of its own for each; features and gradients are those "
    "of the recorded net, and not of one that was trained on ImageNet.",
    "A part of the training examples is held out for the selectors that ask for one, and no net is trained on it.",
    "Contextual diversity, herding, least confidence, entropy, margin, CAL, log-determinant and forgetting are as their papers have them; the released code inverts herding and CAL, ranks by "
    "the largest logit, keeps the most certain where classes are not balanced, and gives examples that are never learned no forgetting.",
    "What keeps as few as a batch is trained as it is; all choices take as many epochs, or with budget=steps as many steps as everything.",
    "Every number is after the last epoch, and not of the best one.",
)


@dataclasses.dataclass(frozen=True)
@checked_fields
class CoresetsGrid:
    """What a study of coresets combines; settings left out take the values of its scale.

    Attributes:
        methods: Scores, each of which every policy that needs one chooses by.
        selectors: Policies with their options but for keep and seed, such as "k_center:features=inputs"; by default all that have an option keep.
        fractions: Fractions that are kept.
        seeds: Number of repetitions.
        budget: Whether all nets take as many `epochs`, or as many `steps` as on everything.
        batches: Batch sizes by fraction, such as {0.1: 32}; the plan's elsewhere.

    Raises:
        UsageError: A value is of a wrong kind or outside its range.
    """

    methods: str | Sequence[str] | None = None
    selectors: str | Sequence[str] | None = None
    fractions: Sequence[float] | None = None
    seeds: int | None = None
    budget: Budget = "epochs"
    batches: Mapping[float, int] | None = None

    def __post_init__(self):
        if self.budget not in ("epochs", "steps"):
            raise UsageError(f"budget={self.budget!r} is neither 'epochs' nor 'steps'.")
        if self.fractions is not None:
            fractions_of("fractions", self.fractions)


@checked_arguments
def study_coresets(
    folder: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: CoresetsGrid | None = None,
    execution: Execution | None = None,
) -> ReplicationStudy:
    """Study of all selectors, and of scores of training dynamics, that keep fractions of the data; saved in `folder` with a page.

        study = assay.study_coresets("studies/coresets", scale="tiny")
        print(*study.sentences, sep="\\n")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        settings: Settings of the plan: data, net, recipe, seed, plant, validation, device.
        scale: `tiny`, `small` or `paper`.
        grid: Scores, selectors, fractions and the like; what it leaves out takes the values of `scale`.
        execution: Where recordings, choices and trainings run, and who is told of each.

    Raises:
        UnknownName: No such scale, score, policy or setting.
        UsageError: A value out of range, or no data named at the scale `paper`.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording, a choice or a training ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, grid = SCALES[scale], grid or CoresetsGrid()
    plan = check_plan(planned(preset.settings, settings))
    scores = each_once(
        "methods", [methods.parse(one).title for one in (preset.methods if grid.methods is None else titled(grid.methods))]
    )
    for spec in () if grid.selectors is None else titled(grid.selectors):
        if given := [name for name in ("keep", "seed") if name in options.split(spec)[1]]:
            raise UsageError(f"selectors: {spec} gives {given[0]}, which the study gives by fractions and seeds; leave it out.")
    found, absent = specs() if grid.selectors is None else ({spec: _needs_score(spec) for spec in titled(grid.selectors)}, {})
    # The control is always there.
    choices = _choices({RANDOM: False, **found}, scores)
    if grid.selectors is None:
        # Whoever names a selector is told why it cannot choose; of all of them those that read a suspicion are for scores that are one.
        choices = tuple(one for one in choices if "by=suspicion" not in one.selector or _suspects(one.score))
    fractions = fractions_of("fractions", preset.fractions if grid.fractions is None else grid.fractions)
    protocol = Protocol(
        plan,
        dict.fromkeys(fractions, choices),
        live_controls(),
        counted(grid.seeds, preset.seeds),
        grid.budget,
        batches_of(grid.batches),
    )
    combined = {
        "methods": list(scores), "selectors": [one for one in found if one != RANDOM], "fractions": list(fractions), "seeds": protocol.seeds, "budget": grid.budget,
        "batches": {f"{fraction:g}": batch for fraction, batch in protocol.batches.items()} or None,
    }  # fmt: skip
    left = tuple(LeftOut(SECTION, name, "every fraction", why) for name, why in absent.items())
    study = carried_out("coresets", protocol, folder, combined, scale, execution or Execution())
    return finish(
        dataclasses.replace(study, left_out=(*study.left_out, *left), published=PUBLISHED, deviations=DEVIATIONS), folder
    )


def carried_out(
    name: str,
    protocol: Protocol,
    folder: str | Path,
    combined: Mapping[str, Any],
    scale: str,
    execution: Execution,
    altered: Callable[[StudyPaths], Plan] | None = None,
) -> ReplicationStudy:
    """A study of choices, not compared and not written yet; `scale` stands in its plan, and `altered` writes other data into its folder, and returns the plan of these.

    Raises:
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A recording, a choice or a training ended in an error.
    """
    plan = protocol.plan
    settings = told({"study": name, "plan": plan.plain(), **combined})
    paths = owned(folder, settings)
    plan.augmentation(load_data(plan, anew=True), 0)
    work = protocol.work()
    announce(execution, work)
    write_plan(execution, paths, name, work, plan, combined, scale)
    with ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        carried = protocol if altered is None else dataclasses.replace(protocol, plan=altered(paths))
        found, left = measured(carried, paths, dataclasses.replace(execution, pool=pool))
    each = "epochs" if protocol.budget == "epochs" else "steps"
    words = f"New nets, trained for as many {each} on what is kept of the training examples; by column, which fraction that is."
    section = Section(SECTION, words, "test accuracy", "kept", RANDOM, percent=True)
    return ReplicationStudy(name, settings, facts(plan), (section,), tuple(found), left_out=tuple(left))


def batches_of(given: Mapping[Any, int] | None) -> dict[float, int]:
    """Batch sizes by fraction; a file has fractions as texts.

    Raises:
        UsageError: A fraction is no number.
    """
    try:
        return {float(fraction): batch for fraction, batch in (given or {}).items()}
    except ValueError as error:
        raise UsageError(
            f"batches={dict(given or {})!r}: give a number of examples for each fraction, such as {{0.1: 32}}."
        ) from error


def specs() -> tuple[dict[str, bool], dict[str, str]]:
    """Every policy that has a budget, with the options that it needs, and whether it chooses by a score; and why others are left out."""
    found, absent = {}, {}
    for name, cls in catalogue().items():
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        needs = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in ("keep", "seed")]
        if "keep" not in fields:
            absent[name] = "it has no option keep"
        elif unknown := [key for key in needs if key not in NEEDED]:
            absent[name] = f"nobody gave a value for {', '.join(unknown)}"
        else:
            choices = [[f"{key}={value}" for value in NEEDED[key]] for key in needs] or [[""]]
            # The examples that a score suspects are dropped or kept, whichever end of its values they are.
            ends = ["", "by=suspicion"] if "by" in fields and cls.needs_score else [""]
            for texts in (",".join(filter(None, both)) for both in itertools.product(choices[0], ends)):
                found[":".join(filter(None, (name, texts)))] = cls.needs_score
    return found, absent


def _needs_score(spec: str) -> bool:
    """Whether a policy chooses by a score.

    Raises:
        UnknownName: There is no such policy or option.
        UsageError: It has no option keep, or an option is out of range.
    """
    name = options.split(spec)[0]
    known = catalogue()
    if name in known and "keep" not in {field.name for field in dataclasses.fields(known[name])}:  # type: ignore[arg-type]
        raise UsageError(f"The policy {name} has no option keep, so that it keeps no given fraction; leave it out.")
    # What fits a small part may not fit a large one, which is then told beside its fraction.
    return parse(spec, budget_options(spec, 0.001, 0) if name in known else {}).needs_score


def _suspects(score: str | None) -> bool:
    return score is not None and methods.parse(score).direction.ranks_suspects


def _choices(found: Mapping[str, bool], scores: Sequence[str]) -> tuple[Choice, ...]:
    return tuple(
        Choice(spec if score is None else f"{spec} by {score}", spec, score)
        for spec, by_score in found.items()
        for score in (scores if by_score else (None,))
    )
