"""Which methods a run allows, and the checks of a request for scores."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from ..core import accumulators
from ..core.accumulators import AbstractAccumulator
from ..core.errors import Mismatch, MissingEvidence, UsageError, listed
from ..core.evidence import Evidence
from ..core.features import DATA, FeatureSpec
from ..core.held_out import rows_name
from ..core.learner import AbstractLearner
from ..core.method import AbstractMethod
from ..core.needs import CLASS_NEEDS, Need
from ..core.scores import Scores
from ..core.selection import AbstractSelector
from ..learners import parse as parse_learner
from ..methods import catalogue, parse
from ..replay.config import ReplayConfig
from ..runs.run import AGAIN, Run
from .evidence import gather, loop_in_words, models_instead
from .plan import folds_of, has_plan
from .request import Request

BESIDE = frozenset({Need.STEPS, Need.CHECKPOINTS, Need.FEATURES, Need.GAME, Need.HELD_OUT})
"""Needs that ask for anything beside the run."""


VALIDATION = "validation"
"""Name of the target that methods ask for by default."""


def check_untrained(methods: Sequence[str | AbstractMethod]) -> None:
    """Refuse methods that read a training, where there is none.

    Raises:
        MissingEvidence: Names the first that does.
        UnknownName: No such method, learner or option.
    """
    for one in map(parse, methods):
        check_learners(one)
        if needs_training(one):
            raise MissingEvidence(f"{one.title} reads a training, and there is none here; record one with `assay record`.")


def check_classes(run: Run, method: AbstractMethod) -> None:
    """Refuse a method that reads classes, of a run whose examples have none: neither data nor options can bring them.

    Raises:
        MissingEvidence: Names what it reads, and the methods that work.
    """
    if run.task != "classes" and method.title not in run.header.live:
        gather(run).narrow(method.title, method.reads & CLASS_NEEDS)


def check_mean_probs(run: Run, method: AbstractMethod) -> None:
    """Refuse a method that reads mean probabilities of a run where some examples were in no epoch and have none.

    Raises:
        MissingEvidence: Names the examples.
    """
    if run.header.partial and Need.MEAN_PROBS in method.reads and run.keeps_probs:
        run.mean_probs()


def replayed(method: AbstractMethod | AbstractSelector) -> bool:
    """Whether a method or a policy reads steps, checkpoints or features from them, and so needs model and data besides the run."""
    return bool(method.reads & {Need.STEPS, Need.CHECKPOINTS}) or any(spec.of_a_model for spec in _features_asked(method))


def needs_training(method: AbstractMethod) -> bool:
    """Whether a method looks at more than the examples alone."""
    return not method.reads <= {Need.LABELS, Need.FEATURES, Need.GAME, Need.HELD_OUT} or replayed(method)


def inputs_asked(method: AbstractMethod | AbstractSelector) -> list[str]:
    """Names of the inputs that a method or a policy looks at: of user-given rows, those of held-out examples too, and `DATA` for the data themselves."""
    if isinstance(method, AbstractMethod) and method.parts != (method,):
        return list(dict.fromkeys(name for part in method.parts for name in inputs_asked(part)))
    specs = [spec for spec in _features_asked(method) if not spec.of_a_model]
    beside = [
        rows_name(spec.name, target)
        for spec in specs
        if spec.kind == "rows" and Need.HELD_OUT in method.reads
        for target in method.asks.queries  # type: ignore[attr-defined]
    ]
    return [spec.name if spec.kind == "rows" else DATA for spec in specs] + beside


def check_learners(method: AbstractMethod) -> None:
    """Refuse an unknown learner before anything is computed.

    Raises:
        UnknownName: No such learner or option.
        UsageError: A value that an option does not take.
    """
    for learner in method.asks.learners:
        parse_learner(learner)


def looks_at_inputs(method: AbstractMethod | AbstractSelector) -> bool:
    """Whether a method or a policy looks at the data themselves."""
    return DATA in inputs_asked(method)


def _features_asked(method: AbstractMethod | AbstractSelector) -> list[FeatureSpec]:
    return [FeatureSpec.parse(text) for text in method.asks.features]


def check_wanted(wanted: Sequence[AbstractMethod]) -> None:
    """Refuse a request that names no method, a method twice, or an unknown learner.

    Raises:
        UsageError: No method or a method twice, or a learner's option with a value that it does not take.
    """
    if not wanted:
        raise UsageError("No method was named; name at least one, such as 'dual', or 'all'.")
    titles = [one.title for one in wanted]
    if twice := [title for place, title in enumerate(titles) if title in titles[:place]]:
        raise UsageError(f"Two scores are titled {twice[0]!r}; give each other options, or score once.")
    for one in wanted:
        check_learners(one)


def check_read(
    run: Run,
    wanted: Sequence[AbstractMethod],
    request: Request,
) -> None:
    """Refuse arguments that none of the methods would read.

    Raises:
        UsageError: Names the first such argument.
    """
    loop, targets, replay_config = request.loop, request.targets, request.replay_config
    none = f"{listed([one.title for one in wanted], len(wanted))} {'does' if len(wanted) == 1 else 'do'} not"
    retaken = any(is_replayed(run, one) for one in wanted)
    if unused := [
        name for name in request.references or () if name not in {asked for one in wanted for asked in one.asks.references}
    ]:
        raise UsageError(f"No method asks for the reference {unused[0]!r}; score oti:reference={unused[0]}, or leave it out.")
    if unread := [name for name in request.inputs or () if name not in {asked for one in wanted for asked in inputs_asked(one)}]:
        raise UsageError(
            f"No method reads rows named {unread[0]!r}; score a method with features=rows:{unread[0]}, such as "
            f"cg_score:features=rows:{unread[0]}, or leave them out."
        )
    if loop is not None and not retaken and not any(map(looks_at_inputs, wanted)):
        raise UsageError(
            f"loop= is for methods that replay the training or read the data; {none}. Name one beside them, such as grand "
            "('all' names none that may take as long as a training), or leave it out."
        )
    if loop is not None and has_plan(run):
        raise UsageError(f"{run.folder} was recorded by a plan, which says how it was trained; leave loop= out.")
    if replay_config is not None and replay_config != ReplayConfig() and not retaken:
        raise UsageError(f"replay_config= is for methods that replay the training; {none}. Leave it out.")
    if request.execution.pool is not None and not any(map(spreads, wanted)):
        raise UsageError(f"Execution(pool=) is for {spread_by(wanted)} Leave it out.")
    if isinstance(targets, str):
        raise UsageError(f"targets= is the text {targets!r}; give a list of names, such as [{targets!r}].")
    # One mapping may serve several calls, so that not every entry has to be asked for.
    if targets is not None and len(targets) and not any(asks_targets(run, one) for one in wanted):
        raise UsageError(
            f"targets= is for methods that ask for the change of a number, such as sgd_influence:target=NAME; {none}. Leave it out."
        )


def plays(method: AbstractMethod) -> bool:
    """Whether a method trains a learner on parts of the examples."""
    return Need.GAME in method.reads


def spreads(method: AbstractMethod) -> bool:
    """Whether a method has trainings that another process can do: those of learners that are trained many at once stay where they are."""
    return method.retrains or (plays(method) and not all(map(_together, method.asks.learners)))


def _together(learner: str) -> bool:
    return type(parse_learner(learner)).train_many is not AbstractLearner.train_many


def spread_by(wanted: Sequence[AbstractMethod]) -> str:
    """What is trained elsewhere, and that these methods are not, in words that follow "... is for"."""
    titles = ", ".join(one.title for one in wanted) or "all"
    why = "train their learners side by side in this process" if any(map(plays, wanted)) else "do neither"
    return f"{' or '.join(retraining())}, which trains without each example, and methods that train learners one by one on parts of the examples; {titles} {why}."


def retraining() -> list[str]:
    """Names of the methods that retrain."""
    return [name for name, cls in catalogue().items() if cls.retrains]


def is_replayed(run: Run, method: AbstractMethod) -> bool:
    """Whether a method replays the training of this run: it reads steps, checkpoints or features from them, and was not computed during training."""
    return replayed(method) and method.title not in run.header.live


def asks_targets(run: Run, method: AbstractMethod) -> bool:
    """Whether a method of this run reads a target: its change, or its examples."""
    return bool((is_replayed(run, method) or Need.HELD_OUT in method.reads) and method.asks.named_targets)


def check_joinable(run: Run, wanted: Sequence[AbstractMethod], made: Mapping[str, Scores], evidence: Evidence) -> None:
    """Refuse, before anything is computed, methods that do not cover the same examples.

    Raises:
        Mismatch: Names the first that differs.
    """

    def spoken_of(method: AbstractMethod) -> Bool[Tensor, " examples"]:
        mask = torch.ones(len(run.ids), dtype=torch.bool)
        if method.title in made:
            mask[run.ids.positions(made[method.title].unscored)] = False
            return mask
        if not method.reads & BESIDE and not run.header.partial:
            return mask
        return (
            method.speaks_of(evidence.narrow(method.title, method.reads)) if method.reads <= evidence.holds else run.visits() > 0
        )

    first, *others = wanted
    there = spoken_of(first)
    for one in others:
        if not torch.equal(own := spoken_of(one), there):
            raise Mismatch(
                f"{one.title} covers {int(own.sum())} of {len(own)} examples, {first.title} of {int(there.sum())}, and not of the same; one "
                "table cannot join them, so score them in calls of their own, or by score_separately."
            )


def scorable(run: Run) -> tuple[list[str], dict[str, str]]:
    """Names of the methods that this run allows with their default options, and why it does not allow the others."""
    evidence, able, unable = gather(run), [], {}
    for name, cls in catalogue().items():
        method = cls()
        if not run.epochs and needs_training(method):
            unable[name] = "reads a training, and nothing was trained here."
            continue
        if not run.epochs and {Need.GAME, Need.HELD_OUT} <= method.reads:
            unable[name] = "trains a learner thousands of times; name it to have it."
            continue
        try:
            check_classes(run, method)
        except MissingEvidence:
            # One sentence for all of them, because a list names each method that works.
            unable[name] = f"reads what only examples with a class have, and this run recorded {run.classes_in_words} example."
            continue
        if run.epochs and method.reads & BESIDE and method.title not in run.header.live:
            unable[name] = needed_beside(run, method)
            continue
        try:
            if run.epochs and method.title not in run.header.live:
                evidence.narrow(method.title, method.reads)
                check_mean_probs(run, method)
            if isinstance(method, AbstractAccumulator) and (why := accumulators.unserved(method, evidence)) is not None:
                raise why
        except MissingEvidence as error:
            unable[name] = str(error)
        else:
            able.append(name)
    return able, unable


def unrecorded(run: Run, method: AbstractMethod) -> str | None:
    """Why a run that was made of what somebody else saved, or of folds, cannot serve a method that replays a training; None if it can."""
    if run.passes is None or not replayed(method):
        return None
    steps = Need.STEPS in method.reads
    if run.states():
        return (
            f"{method.title} reads the steps of the training, and {run.folder} was made of saved models, between which no step is known; record the training "
            "with assay.record, or score what kept models can tell, such as grand, tracin, vog or influence."
            if steps
            else None
        )
    saved = "made of" in run.header.about and not folds_of(run)
    cure = "record the training" if steps and saved else models_instead(run)
    return f"{method.title} reads {'the steps of the training' if steps else 'kept models'}, and {run.folder} holds predictions only; {cure}."


def needed_beside(run: Run, method: AbstractMethod) -> str:
    """A sentence on how to use a method that needs model or data besides the run, or on what the run lacks for it."""
    if (why := unrecorded(run, method)) is not None:
        return why.partition(" ")[2]
    again = replayed(method)
    what = "replays the training" if again else "reads the data"
    if again and not run.states():
        return f"{what}, and the run kept no model; record with Recording(checkpoints='last')."
    if run.passes is not None and not again and not has_plan(run):
        asked = f"{method.name}:features=rows:NAME"
        return f"{what}, of which {run.folder} knows nothing; give rows of your own: score(run, [{asked!r}], inputs={{'NAME': rows}})."
    if not has_plan(run):
        whose = "your trainer" if AGAIN in run.header.about else "your own loop"
        return f"{what} of {whose}; in Python, name it: score(run, [{method.title!r}], loop={loop_in_words(run)})."
    held = run.header.about["plan"].get("validation")  # type: ignore[attr-defined]
    if VALIDATION in method.asks.named_targets and not held:
        return f"{what} and asks for validation examples, of which the plan held out none; record with --validation 0.1."
    return f"{what}; name it to have it."
