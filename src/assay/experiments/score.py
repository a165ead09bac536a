"""Score: from a recorded run to one number per example and method."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from .. import __version__
from ..core import method as core
from ..core.errors import Mismatch, MissingEvidence, RunError, UsageError
from ..core.evidence import DATA, Evidence, Need, as_rows
from ..core.ids import Ids
from ..core.lineage import Lineage, fingerprint
from ..core.method import AbstractDynamicsMethod, AbstractMethod, AbstractStepMethod
from ..core.scores import Scores, ScoreTable
from ..integrations.loop import Loop
from ..methods import catalogue, parse
from ..runs.artefacts import finished, load_scores, save_scores
from ..runs.gather import gather
from ..runs.replay import Replay
from ..runs.run import Run
from .again import LOOP, Given, Replaying, data_of, identity
from .again import again as taken_again
from .plan import has_plan, models_asked
from .progress import Progress
from .retraining import Retraining

WITHOUT_TRAINING = frozenset({Need.INPUTS, Need.LABELS})
"""Needs of methods that look at the examples alone."""
FUNCTION = "a function"
"""Stands for the fingerprint of a target that a user computes."""
REPLAYED = frozenset({Need.STEPS, Need.CHECKPOINTS})
"""Needs that ask for model and data beside the run."""
BESIDE = REPLAYED | {Need.INPUTS}
"""Needs that ask for anything beside the run."""


def score(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    *,
    save: bool = False,
    again: bool = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    replaying: Replaying | None = None,
    references: Mapping[str, Mapping[str, Tensor]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    pool: Executor | None = None,
    progress: Progress | None = None,
) -> ScoreTable:
    """One score per method, joined by id. All methods that fold over epochs share one pass over the run.

    Where some methods speak of fewer examples than others, as by windows that do not hold them all, `score_apart` does not join them.

    Methods that read steps or kept models take the training again. `assay record` made runs that know how; for runs of your own
    loop, `loop` says it.

    Args:
        run: Folder of a run, or an open run.
        methods: Names, `"name:option=value,..."`, or methods; one or several.
        save: Write each score into the run's folder, and take it from there if it was made from this very recording; with `loop`, which
            cannot be told from another one later, those that take the training again are always computed.
        again: With `save`, compute even what is there.
        loop: What your own loop consists of.
        targets: The numbers whose change may be asked for, by name: functions of the model, Examples, or (inputs, labels). Runs with a
            plan know `validation`, `test`, `class=NAME`, `id=ID` and `ids=FILE` by themselves (see `experiments.again`).
        replaying: How steps are taken again: schedule, memory, tolerance.
        references: Parameters from elsewhere that `oti:reference=NAME` steps towards, by name: a model's state_dict each.
        inputs: Rows that `cg_score:inputs=NAME` looks at in place of the data, such as embeddings, by name: one for each of the run's ids.
            Without them a score that was saved of rows of that name is taken.
        pool: Where whole trainings run, for methods that train again without each example (loo): any `concurrent.futures.Executor`; by
            default in this process.
        progress: Told of such trainings.

    Raises:
        UnknownName: No such method or option.
        MissingEvidence: The run did not record what a method needs.
        RunError: The run is absent or damaged.
        UsageError: No method, a target that is not there, or a reference that no method asks for.
        BadScores: A method gave something that is not one finite number per example.
        Mismatch: Taking the training again does not give what was recorded, or methods speak of other examples than others.
        NumericalError: An adjoint is not finite.
        TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
    """
    made = _scored(
        run,
        methods,
        joined=True,
        save=save,
        again=again,
        loop=loop,
        targets=targets,
        replaying=replaying,
        references=references,
        inputs=inputs,
        pool=pool,
        progress=progress,
    )
    return ScoreTable(list(made.values()))


def score_apart(
    run: str | Path | Run, methods: Sequence[str | AbstractMethod] | str | AbstractMethod, **given: Any
) -> dict[str, Scores]:
    """The same scores by title, each of the examples that its method can speak of: some may be of fewer than others.

    Args:
        run: The run.
        methods: One or several.
        given: As `score` takes it.

    Raises:
        AssayError: As `score`.
    """
    return _scored(run, methods, joined=False, **given)


def _scored(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    *,
    joined: bool,
    save: bool = False,
    again: bool = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    replaying: Replaying | None = None,
    references: Mapping[str, Mapping[str, Tensor]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    pool: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    run = run if isinstance(run, Run) else Run(run)
    wanted = [parse(one) for one in (methods if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods])]
    _check_wanted(wanted, references or {}, inputs or {})
    if loop is not None and not isinstance(loop, Loop):
        raise UsageError(f"loop= is {type(loop).__name__}; give assay.Loop(model, optimizer, loader).")
    if not run.epochs:
        check_untrained(wanted)
    models = members_of(run)
    seen, content = _inputs(run, wanted, loop, inputs or {})
    replays = _replays(models, wanted, loop, targets, replaying, references, pool, progress)
    first = replays[0] if replays else None
    made: dict[str, Scores] = {}
    parents = {one.title: _parents(run, one, first, loop, replaying, content) for one in wanted}
    evidences = [gather(model, replays[place] if replays else None, seen) for place, model in enumerate(models)]
    for one in wanted:
        if save and not again and (old := _saved(run, one, parents[one.title])) is not None:
            made[one.title] = old
    due = [one for one in wanted if one.title not in made]
    for one in due:
        if _looks(one) and DATA not in seen:
            data_of(run, loop)
        if (name := _rows(one)) is not None and name not in seen:
            raise UsageError(
                f"{one.title} looks at rows named {name!r}, which are neither given nor scored yet; give --inputs {name}=FILE "
                f"(in Python inputs={{{name!r}: rows}})."
            )
    if joined:
        _check_joinable(run, wanted, made, evidences[0])
    began = time.perf_counter()
    for result in _over_models(models, due, evidences):
        made[result.title] = result
    seconds = time.perf_counter() - began
    for one in due:
        lineage = Lineage(
            dataset=run.dataset,
            parents=parents[one.title],
            code=__version__,
            seed=run.header.seed,
            device=str(first.course.device) if first is not None and one.needs & REPLAYED else "cpu",
            seconds=seconds,
            folder=str(run.folder),
        )
        remarks = () if first is None else tuple(first.remarks[name] for name in one.targets if name in first.remarks)
        made[one.title] = dataclasses.replace(made[one.title], lineage=lineage, warnings=(*made[one.title].warnings, *remarks))
        if save:
            save_scores(made[one.title], run.paths.scores(one.title))
    return {one.title: made[one.title] for one in wanted}


def check_untrained(methods: Sequence[str | AbstractMethod]) -> None:
    """Refuse methods that read a training, where there is none.

    Raises:
        MissingEvidence: The first that does.
        UnknownName: No such method or option.
    """
    for one in map(parse, methods):
        if not one.needs <= WITHOUT_TRAINING:
            raise MissingEvidence(f"{one.title} reads a training, and there is none here; record one with `assay record`.")


def _rows(method: AbstractMethod) -> str | None:
    """Name of the rows from outside that a method looks at; None for one that looks at the data, or at none."""
    return getattr(method, "inputs", None)


def _looks(method: AbstractMethod) -> bool:
    """Whether a method looks at the data themselves."""
    return Need.INPUTS in method.needs and _rows(method) is None


def _inputs(
    run: Run, wanted: Sequence[AbstractMethod], loop: Loop | None, given: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the wanted methods of inputs look at, by name, and fingerprints."""
    if not isinstance(given, Mapping):
        raise UsageError(f"inputs= is {type(given).__name__}; give {{NAME: rows}}, a tensor with a row for each example by name.")
    seen = {name: as_rows(rows).detach().cpu().contiguous() for name, rows in given.items()}
    content = {name: fingerprint(str(tuple(rows.shape)), rows.numpy().tobytes()) for name, rows in seen.items()}
    # Of a user's loop that is not given, saved scores may be all that is asked for.
    if any(map(_looks, wanted)) and (loop is not None or has_plan(run)):
        seen[DATA], content[DATA] = data_of(run, loop)
    return seen, content


def _replays(
    models: Sequence[Run],
    wanted: Sequence[AbstractMethod],
    loop: Loop | None,
    targets: Mapping[str, Given] | Sequence[str] | None,
    replaying: Replaying | None,
    references: Mapping[str, Mapping[str, Tensor]] | None,
    pool: Executor | None,
    progress: Progress | None,
) -> list[Replay]:
    """Every model of a recording ready to be taken again, if a method asks for it; else none."""
    live = models[0].header.live
    if not any(one.needs & REPLAYED and one.title not in live for one in wanted):
        return []
    asked = [(one.title, target) for one in wanted if one.needs & REPLAYED for target in one.targets]
    if loop is None and has_plan(models[0]) and not isinstance(targets, Mapping):
        targets = list(dict.fromkeys([*(targets or ()), *(target for _, target in asked)]))
    found: list[Replay] = []
    for model in models:
        replay = taken_again(model, loop=loop, targets=targets, replaying=replaying, references=references)
        replay.spread = Retraining(replay, loop, targets, replaying, pool, progress or Progress())
        # Each knows all, itself among them, also those that are still to come.
        replay.peers = found
        found.append(replay)
    for title, target in asked:
        if target not in found[0].targets:
            raise UsageError(
                f"{title} asks for target {target!r}; there are: {', '.join(found[0].targets) or 'none'}. Name it with targets=, as "
                "(inputs, labels), Examples or a function of the model."
            )
    return found


def members_of(run: Run) -> list[Run]:
    """A run and those of the other models of its recording.

    Raises:
        RunError: They are fewer than the plan says, or have fewer epochs.
    """
    if not run.epochs:
        # All models of a plan would look at the same examples.
        return [run]
    models, asked = [run, *run.members], models_asked(run)
    if len(models) != asked or any(one.epochs != run.epochs for one in models):
        epochs = ", ".join(str(one.epochs) for one in models)
        raise RunError(f"{run.folder} holds {len(models)} of {asked} models, of {epochs} epochs; go on with --resume.")
    return models


def _over_models(models: Sequence[Run], due: Sequence[AbstractMethod], evidences: Sequence[Evidence]) -> list[Scores]:
    """The scores of one model, or their means over several."""
    found = [_computed(models[0], due, evidences[0])]
    trained = [one for one in due if not one.needs <= WITHOUT_TRAINING]
    if len(models) == 1 or not trained:
        return found[0]
    found += [_computed(model, trained, evidence) for model, evidence in zip(models[1:], evidences[1:], strict=True)]
    titles = [one.title for one in trained]
    alone = [scores for scores in found[0] if scores.title not in titles]
    return alone + [_mean([next(one for one in row if one.title == title) for row in found]) for title in titles]


def _mean(scores: Sequence[Scores]) -> Scores:
    """The mean of what several models say, and what each says; of the examples that all of them speak of."""
    first = scores[0]
    if any(one.ids != first.ids for one in scores):
        common = np.all([np.isin(first.ids.values, one.ids.values) for one in scores], axis=0)
        if not common.any():
            raise Mismatch(f"No example is spoken of by all {len(scores)} models of {first.title}; score another window.")
        ids, everyone = first.ids.take(common), Ids([*first.ids, *first.unscored])
        unscored = everyone.take(~np.isin(everyone.values, ids.values))
        scores = [_only(one, ids, unscored) for one in scores]
        first = scores[0]
    values = torch.stack([one.values for one in scores])
    by_epoch = [one.by_epoch for one in scores if one.by_epoch is not None]
    return dataclasses.replace(
        first,
        values=values.mean(0),
        repeats=values,
        by_epoch=torch.stack(by_epoch).mean(0) if len(by_epoch) == len(scores) else None,
        diagnostics={"models": len(scores), **{f"{name} (first model)": value for name, value in first.diagnostics.items()}},
        warnings=tuple(dict.fromkeys(warning for one in scores for warning in one.warnings)),
    )


def _only(scores: Scores, ids: Ids, unscored: Ids) -> Scores:
    place = scores.ids.positions(ids)
    by_epoch = None if scores.by_epoch is None else scores.by_epoch[:, place]
    return dataclasses.replace(scores, ids=ids, values=scores.values[place], unscored=unscored, by_epoch=by_epoch, repeats=None)


def _check_wanted(wanted: Sequence[AbstractMethod], references: Mapping[str, object], inputs: Mapping[str, object]) -> None:
    if not wanted:
        raise UsageError("No method was named; name at least one, such as 'dual'.")
    titles = [one.title for one in wanted]
    if twice := [title for place, title in enumerate(titles) if title in titles[:place]]:
        raise UsageError(f"Two scores are titled {twice[0]!r}; give each other options, or score once.")
    asked = {getattr(one, "reference", None) for one in wanted}
    if unused := [name for name in references if name not in asked]:
        raise UsageError(f"No method asks for the reference {unused[0]!r}; score oti:reference={unused[0]}, or leave it out.")
    if unread := [name for name in inputs if name not in {_rows(one) for one in wanted}]:
        raise UsageError(f"No method looks at rows named {unread[0]!r}; score cg_score:inputs={unread[0]}, or leave them out.")


def _check_joinable(run: Run, wanted: Sequence[AbstractMethod], made: Mapping[str, Scores], evidence: Evidence) -> None:
    """Refuse, before anything is computed, methods that do not speak of the same examples.

    Raises:
        Mismatch: The first that differs.
    """

    def spoken_of(method: AbstractMethod) -> Bool[Tensor, " examples"]:
        mask = torch.ones(len(run.ids), dtype=torch.bool)
        if method.title in made:
            mask[run.ids.positions(made[method.title].unscored)] = False
            return mask
        if not method.needs & BESIDE:
            return mask
        return method.scored(evidence.narrow(method.title, method.needs)) if method.needs <= evidence.holds else run.visits() > 0

    first, *others = wanted
    there = spoken_of(first)
    for one in others:
        if not torch.equal(own := spoken_of(one), there):
            raise Mismatch(
                f"{one.title} speaks of {int(own.sum())} of {len(own)} examples, {first.title} of {int(there.sum())}, and not of the same; one "
                "table cannot join them, so score them in calls of their own, or by score_apart."
            )


def _parents(
    run: Run,
    method: AbstractMethod,
    replay: Replay | None,
    loop: Loop | None,
    replaying: Replaying | None,
    content: Mapping[str, str],
) -> dict[str, str]:
    """Fingerprints of what a score is made of: the recording, the inputs if it looks at them, the target if there is one, a reference
    from elsewhere; and what else its values hang on."""
    parents = {"run": run.fingerprint}
    if Need.INPUTS in method.needs and (looked := _rows(method) or DATA) in content:
        parents["inputs"] = content[looked]
    if replay is None or not method.needs & REPLAYED:
        return parents
    parents |= (replaying or Replaying()).identity | ({} if loop is None else {"loop": LOOP})
    known = identity(replay)
    parents |= {f"target {target}": known.get(target, FUNCTION) for target in method.targets}
    given = replay.references.get(str(getattr(method, "reference", "")))
    if given is not None:
        parents["reference"] = fingerprint(
            *(part for name, value in given.items() for part in (name, value.cpu().numpy().tobytes()))
        )
    return parents


def scorable(run: Run) -> tuple[list[str], dict[str, str]]:
    """Names of the methods that this run allows with their default options, and why it does not allow the others."""
    evidence, able, unable = gather(run), [], {}
    for name, cls in catalogue().items():
        method = cls()
        if not run.epochs:
            if method.needs <= WITHOUT_TRAINING:
                able.append(name)
            else:
                unable[name] = f"{name} reads a training, and nothing was trained here."
            continue
        if method.needs & BESIDE and method.title not in run.header.live:
            how = "takes the training again" if method.needs & REPLAYED else "looks at the data"
            unable[name] = f"{name} {how}; name it to have it."
            continue
        try:
            if method.title not in run.header.live:
                evidence.narrow(method.title, method.needs)
            if isinstance(method, AbstractDynamicsMethod) and run.epochs < method.fewest_epochs:
                raise MissingEvidence(f"{name} reads at least {method.fewest_epochs} epochs, this run has {run.epochs}.")
        except MissingEvidence as error:
            unable[name] = str(error)
        else:
            able.append(name)
    return able, unable


def _computed(run: Run, methods: Sequence[AbstractMethod], evidence: Evidence) -> list[Scores]:
    if not methods:
        return []
    results, stored = [], []
    for method in methods:
        if (
            Need.STEPS not in evidence.holds
            and isinstance(method, AbstractStepMethod)
            and (findings := run.walk_findings(method)) is not None
        ):
            results.append(core.checked(method, evidence, findings, run.visits() > 0))
            continue
        state = run.live_state(method) if isinstance(method, AbstractDynamicsMethod) else None
        # A state that was folded while training is the same number without the stored logits.
        if state is not None and not method.needs <= evidence.holds:
            if run.epochs < method.fewest_epochs:  # type: ignore[attr-defined]
                raise MissingEvidence(
                    f"{method.title} reads at least {method.fewest_epochs} epochs, but this run has {run.epochs}. "  # type: ignore[attr-defined]
                    "Record more epochs, or give the method options that fit."
                )
            results.append(core.checked(method, evidence, method.finish(state)))  # type: ignore[attr-defined]
        else:
            stored.append(method)
    return results + (core.score(stored, evidence) if stored else [])


def _saved(run: Run, method: AbstractMethod, parents: Mapping[str, str]) -> Scores | None:
    """What an earlier call wrote of this method, if it was made of the same by this version of assay."""
    scores = finished(load_scores, run.paths.scores(method.title))
    if scores is None or scores.title != method.title:
        return None
    lineage = scores.lineage
    if lineage is None or lineage.code != __version__:
        return None
    made_of = dict(lineage.parents)
    if "inputs" not in parents:
        # Rows that are not given this time: their name, which the title holds, or the user's own loop stands for them.
        made_of.pop("inputs", None)
    if "reference" not in parents:
        # A reference that is not given this time: its name, which the title holds, stands for it.
        made_of.pop("reference", None)
    if made_of != parents:
        return None
    if {FUNCTION, LOOP} & {*parents.values()}:
        # What it computes cannot be told, so neither can whether it is still the same.
        return None
    return dataclasses.replace(scores, lineage=dataclasses.replace(lineage, folder=str(run.folder)))
