"""Choose: from scores, or from a run alone, to a decision on every example."""

import dataclasses
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..core import options as texts
from ..core import selection as core
from ..core.arguments import checked_arguments
from ..core.curve import Curve
from ..core.decision import Decision
from ..core.errors import Mismatch, MissingEvidence, UsageError
from ..core.features import DATA
from ..core.lineage import Lineage
from ..core.method import AbstractMethod
from ..core.needs import CLASS_NEEDS, Need
from ..core.scores import Scores
from ..core.selection import AbstractSelector, Unscored
from ..policies import catalogue, find, parse
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given
from ..runs.run import DRAWN, Run
from .evidence import Agreed, check_taken_again, data_of, gather_together, given_rows, loop_in_words, open_replay
from .models import members_of
from .plan import came_of, has_plan
from .saved_scores import parents_of
from .scorable import inputs_asked, looks_at_inputs, replayed

ROWS_DO = frozenset({Need.FEATURES, Need.LABELS})
"""Needs for which rows from outside can stand in for data and model."""


@dataclasses.dataclass(frozen=True)
class Beside:
    """What a policy may look at beside the run (see `choose`)."""

    loop: Loop | None = None
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, Given] | None = None


@checked_arguments
def choose(
    scores: Scores | Run | str | Path,
    policy: str | AbstractSelector,
    *,
    run: str | Path | Run | None = None,
    curve: Curve | None = None,
    loop: Loop | None = None,
    inputs: Mapping[str, Any] | None = None,
    unscored: Unscored = "refuse",
    targets: Mapping[str, Given] | None = None,
    **options: object,
) -> Decision:
    """Apply one policy to one score, or to a run where the policy reads no score.

        decision = assay.choose(table["dual"], policy="beta", keep=0.3, seed=0)
        decision = assay.choose(influence, policy="remove_worst", curve=assay.cleanse(run, influence))
        decision = assay.choose("runs/digits", "k_center:keep=0.1,features=inputs")

    A policy that keeps the examples that a score ranks as most suspect, such as top_k by loss, gives a warning; `by="suspicion"` says that this is
    intended.

    Args:
        scores: Scores to choose by; or a run or its folder, for policies that need no score, such as k_center and random.
        policy: Name, `"name:option=value,..."`, or a policy.
        run: The recorded run, for policies that read it; by default the run that the scores were made from.
        curve: A curve of these scores, whose best count is taken as the option `count` of the policy remove_worst.
        loop: The `Loop` that describes your own training loop, for policies that look at the data of a run recorded in it.
        inputs: Rows by name, such as embeddings, that `features=rows:NAME` reads: one row for each of the run's ids.
        unscored: What becomes of examples for which the score has no value, such as those that no epoch trained on: `refuse` to choose, or `keep` them
            as they are, with that reason; a fraction or number that the policy keeps or drops then counts the scored ones only.
        targets: Validation examples by name, as (inputs, labels) or Examples, for policies that ask for some, such as glister; by default what a plan held
            out, or names as `assay.score` takes them, such as `glister:target=class=3`.
        options: Options of the policy.

    Raises:
        UnknownName: No such policy or option.
        UsageError: An option is out of range or given twice, a score is NaN, a curve for another policy, a score for a policy that reads
            none or none for one that needs it, loop, inputs or targets that the policy does not look at, the policy needs a run and none is known, or
            examples have no score.
        Mismatch: The scores are of another dataset than the run, or the curve is of other scores.
        MissingEvidence: The run did not record what the policy reads, or rows of that name were not given.
    """
    decision = decide(scores, policy, run, curve, Beside(loop, inputs or {}, targets), options, unscored)
    for warning in decision.warnings:
        warnings.warn(f"{decision.title}: {warning}", stacklevel=3)
    return decision


def decide(
    scores: Scores | Run | str | Path,
    policy: str | AbstractSelector,
    run: str | Path | Run | None = None,
    curve: Curve | None = None,
    beside: Beside | None = None,
    options: Mapping[str, object] | None = None,
    unscored: Unscored = "refuse",
) -> Decision:
    """As `choose`, but without issuing the decision's warnings."""
    options, beside = dict(options or {}), beside or Beside()
    loop = beside.loop
    by = scores if isinstance(scores, Scores) else None
    if by is None:
        if run is not None:
            raise UsageError(
                f"The run is given twice, first and as run={str(getattr(run, 'folder', run))!r}; leave the second out."
            )
        run = scores  # type: ignore[assignment]
    if curve is not None:
        options = _counted(by, policy, curve, options)
    chosen = with_options(policy, options)
    if by is None and chosen.needs_score:
        raise UsageError(
            f"Policy {chosen.name!r} chooses by a score, and {getattr(run, 'folder', run)} is a run; give one of its scores, such as "
            f"choose(assay.score(run, 'aum')['aum'], {chosen.title!r})."
        )
    _check_looked_at(chosen, beside)
    began = time.perf_counter()
    parent, opened, evidence = by.lineage if by is not None else None, None, None
    looked, remarks, device = dict[str, str](), tuple[str, ...](), "cpu"
    known = parent is not None and parent.folder
    # Where examples without a score stand among the others, only the run knows.
    gaps = known and len(by.unscored) and Path(parent.folder).exists()  # type: ignore[union-attr]
    if run is not None or (chosen.reads and known) or gaps:
        opened = run if isinstance(run, Run) else Run(run if run is not None else parent.folder)  # type: ignore[union-attr]
        if by is not None and parent is not None and parent.dataset and parent.dataset != opened.dataset:
            raise Mismatch(
                f"{by.title} scores dataset {parent.dataset}, {opened.folder} recorded {opened.dataset}; score this run again."
            )
        _check_classes(opened, chosen)
        models = members_of(opened) if chosen.reads else [opened]
        seen, content, replay = looked_at(opened, chosen, beside)
        # A score's own gaps are kept as they are, or refused in its words.
        evidence = gather_together(models, replay, seen, by.unscored if by is not None else None)
        looked = parents_of(opened, chosen, replay, loop, None, content)
        looked.pop("run")
        if replay is not None:
            device, remarks = str(replay.training.device), replay.cautions
            if len(models) > 1:
                what = f"The features ({', '.join(chosen.asks.features)})" if chosen.asks.features else "Gradients and losses"
                remarks += (f"{what} are those that the first of {len(models)} models makes.",)
            remarks += tuple(replay.remarks[name] for name in chosen.asks.named_targets if name in replay.remarks)
    if evidence is None and chosen.reads:
        raise UsageError(f"Policy {chosen.name!r} reads the recorded run, and these scores name none; give run=PATH.")
    decision = core.choose(chosen, by, evidence, opened.class_names if opened is not None else None, unscored)
    lineage = Lineage(
        dataset=parent.dataset if parent and parent.dataset else opened.dataset if opened else "",
        parents={
            **(parent.parents if parent else {}),
            **({"scores": by.fingerprint} if by is not None else {"run": opened.fingerprint} if opened is not None else {}),
            **({"curve": curve.fingerprint} if curve is not None else {}),
            **looked,
        },
        code=__version__,
        seed=getattr(chosen, "seed", None),
        device=device,
        seconds=time.perf_counter() - began,
        folder=parent.folder if parent and parent.folder else str(opened.folder) if opened else "",
    )
    if parent.drawn if parent is not None else by is None and opened is not None and DRAWN in opened.header.about:
        lineage = dataclasses.replace(lineage, drawn=True)
    return dataclasses.replace(decision, lineage=lineage, warnings=(*decision.warnings, *remarks))


def with_options(policy: str | AbstractSelector, options: Mapping[str, object]) -> AbstractSelector:
    """The policy with the options beside it.

    Raises:
        UnknownName: No such policy or option.
        UsageError: An option is missing, given twice or out of range.
    """
    if isinstance(policy, str) and (twice := sorted(texts.split(policy)[1].keys() & options.keys())):
        raise UsageError(f"{', '.join(twice)} is given in {policy!r} and again beside it; give it once.")
    return parse(policy, options)


def counting() -> list[str]:
    """Names of the policies whose count may be taken from a curve."""
    return [name for name, cls in catalogue().items() if cls.counts_by_curve]


def counting_wrong() -> str:
    """Name of the policy that drops as many examples as labels seem to be wrong."""
    return next(name for name, cls in catalogue().items() if cls.counts_wrong)


def _check_classes(run: Run, policy: AbstractSelector) -> None:
    """Refuse a policy that reads classes, of a run whose examples have none.

    Raises:
        MissingEvidence: Names what it reads, and the policies that work.
    """
    if run.task != "classes" and (asked := sorted(need.value for need in policy.reads & CLASS_NEEDS)):
        able = [name for name, cls in catalogue().items() if not _reads_by_default(cls) & CLASS_NEEDS]
        switched = (
            dataclasses.replace(policy, **{field.name: False})  # type: ignore[type-var]
            for field in dataclasses.fields(policy)  # type: ignore[arg-type]
            if getattr(policy, field.name) is True
        )
        also = [f"{one.title}, or " for one in switched if not one.reads & CLASS_NEEDS][:1]
        raise MissingEvidence(
            f"{policy.title} reads {', '.join(asked)}, which only examples with a class have; {run.folder} recorded {run.classes_in_words} example. "
            f"Policies that read no class: {''.join(also)}{', '.join(able)}."
        )


def _reads_by_default(policy: type[AbstractSelector]) -> frozenset[Need]:
    """What a policy reads where its options are left out, those too that must be given."""
    try:
        # Defaults of a dataclass are attributes of the class.
        return object.__new__(policy).reads
    except AttributeError:
        return CLASS_NEEDS


def _check_looked_at(policy: AbstractSelector, beside: Beside) -> None:
    """Refuse rows, targets and a loop that the policy would not look at.

    Raises:
        UsageError: Names the first such argument.
    """
    if unread := [name for name in beside.inputs if name not in inputs_asked(policy)]:
        raise UsageError(
            f"{policy.title} does not read rows named {unread[0]!r}; choose by k_center:features=rows:{unread[0]}, or leave them out."
        )
    if beside.targets is not None and not policy.asks.named_targets:
        raise UsageError(
            f"targets= is for policies that ask for validation examples, such as glister; {policy.title} does not. Leave it out."
        )
    if beside.loop is not None and not looks_at_inputs(policy) and not replayed(policy):
        raise UsageError(f"loop= is for policies that read the data; {policy.title} does not. Leave it out.")


def looked_at(
    run: Run, policy: AbstractSelector | AbstractMethod, beside: Beside, verb: str = "choose"
) -> tuple[dict[str, Tensor], dict[str, str], Replay | None]:
    """The data and rows that a policy or a method of features looks at, by name, fingerprints of them, and what makes features of kept models, if any are asked for.

    Raises:
        UsageError: The run is of a loop that is not given, or of a plan, and a loop is given.
        MissingEvidence: Rows of that name are not given, or the run holds no model that could make features.
    """
    reader = policy.title if verb == "choose" else verb
    loop, inputs = beside.loop, beside.inputs
    if looks_at_inputs(policy) or replayed(policy):
        if loop is not None and has_plan(run):
            raise UsageError(f"{run.folder} was recorded by a plan, which says how it was trained; leave loop= out.")
        read = [field.name for field in dataclasses.fields(policy) if getattr(policy, field.name) in policy.asks.features]  # type: ignore[arg-type]
        rows = ",".join(f"{option}=rows:NAME" for option in read)
        given = f"{policy.name}:{rows}" if verb == "choose" else "rows:NAME as the features"
        instead = f", or rows of your own: {given} and inputs={{NAME: rows}}" if read and policy.reads <= ROWS_DO else ""
        if replayed(policy):
            check_taken_again(run, instead)
        if loop is None and not has_plan(run):
            what = "model and data assay does" if replayed(policy) else "data assay does"
            raise UsageError(
                f"{run.folder} {came_of(run)}, whose {what} not know; in Python, give {verb}(..., "
                f"loop={loop_in_words(run)}){instead}."
            )
    seen, content, agreed = dict[str, Tensor](), dict[str, str](), Agreed()
    for name in inputs_asked(policy):
        if name == DATA:
            seen[name], content[name] = data_of(run, loop, agreed)
        elif name not in inputs:
            raise MissingEvidence(
                f"{reader} reads rows named {name!r}, which are not given; give --inputs {name}=FILE (in Python "
                f"inputs={{{name!r}: rows}})."
            )
        else:
            seen[name], content[name] = given_rows(inputs[name])
    return seen, content, _opened(run, policy, beside, agreed) if replayed(policy) else None


def _opened(run: Run, policy: AbstractSelector | AbstractMethod, beside: Beside, agreed: Agreed) -> Replay:
    """What makes the features, gradients and losses that a policy asks for.

    Raises:
        UsageError: A target that it asks for is not there.
    """
    asked, targets = policy.asks.named_targets, beside.targets
    named: Mapping[str, Given] | list[str] | None = list(asked) if targets is None and has_plan(run) else targets
    replay = open_replay(run, loop=beside.loop, targets=named, asked=asked, agreed=agreed)
    for target in asked:
        if target not in replay.targets:
            raise UsageError(
                f"{policy.title} asks for target {target!r}; there are: {', '.join(replay.targets) or 'none'}. Give choose(..., targets={{{target!r}: (inputs, labels)}})."
            )
        replay.rows_of(target)
    return replay


def _counted(
    scores: Scores | None, policy: str | AbstractSelector, curve: Curve, options: dict[str, object]
) -> dict[str, object]:
    """The options, with the count that a curve found best."""
    cls = find(texts.split(policy)[0]) if isinstance(policy, str) else type(policy)
    if not cls.counts_by_curve:
        raise UsageError(
            f"A curve says how many the policy {' or '.join(counting())} should drop; {cls.name} does not remove the worst."
        )
    if scores is None:
        raise UsageError(f"A curve is of scores; give {curve.scores} in the place of the run.")
    if "count" in options:
        raise UsageError(f"count={options['count']} is given beside a curve, whose best count is {curve.best}; give one of them.")
    made_of = curve.lineage.parents.get("scores") if curve.lineage is not None else None
    if curve.scores != scores.title or (made_of is not None and not scores.made(made_of)):
        raise Mismatch(
            f"The curve is of scores {curve.scores} {made_of or ''}, not of {scores.title} {scores.fingerprint}; cleanse by these."
        )
    return {**options, "count": curve.best}
