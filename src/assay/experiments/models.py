"""The models of a recording: methods are run on each model, and their scores are averaged."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..core import accumulators, scoring
from ..core.accumulators import AbstractAccumulator, AbstractStepMethod, Spent
from ..core.errors import Mismatch, RunError
from ..core.evidence import Evidence
from ..core.ids import Ids
from ..core.method import AbstractMethod
from ..core.needs import EPOCH_NEEDS, Need
from ..core.results import Result
from ..core.scores import Scores
from ..replay.live_methods import live_state, step_result
from ..replay.replay import Replay
from ..runs.run import Run
from .evidence import Agreed, gather_labels, open_replay
from .plan import has_plan, models_asked
from .request import Request
from .retraining import Retraining
from .scorable import needs_training

ONE_DECIDES = 0.5
"""Part of the sum of squares of all models' values above which one model is said to decide their mean."""


def members_of(run: Run) -> list[Run]:
    """A run and the runs of the other models of its recording.

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


def open_models(models: Sequence[Run], asked: Sequence[str], request: Request, agreed: Agreed) -> list[Replay]:
    """Every model of a recording, ready to be replayed.

    Args:
        models: The runs of the models.
        asked: Names of the targets that will be used.
        request: Loop, targets, configuration and references of the replay, and where trainings run.
        agreed: What is known of the examples of the loop; written to.

    Raises:
        AssayError: As `open_replay`.
    """
    loop, targets, config = request.loop, request.targets, request.replay_config
    if loop is None and has_plan(models[0]) and not isinstance(targets, Mapping):
        targets = list(dict.fromkeys([*(targets or ()), *asked]))
    return [
        open_replay(
            model,
            loop=loop,
            targets=targets,
            replay_config=config,
            references=request.references,
            asked=asked,
            agreed=agreed,
            train_many=lambda replay: Retraining(
                replay,
                loop,
                targets,
                config,
                request.execution.pool,
                request.execution.progress,
                save=request.save,
                kept=request.kept,
            ),
        )
        for model in models
    ]


def over_models(
    models: Sequence[Run], due: Sequence[AbstractMethod], evidences: Sequence[Evidence], spent: Spent
) -> list[Scores]:
    """The scores of one model, or their means over several."""
    found = [computed(models[0], due, evidences[0], spent)]
    trained = [one for one in due if needs_training(one)]
    if len(models) == 1 or not trained:
        return found[0]
    found += [computed(model, trained, evidence, spent) for model, evidence in zip(models[1:], evidences[1:], strict=True)]
    titles = [one.title for one in trained]
    alone = [scores for scores in found[0] if scores.title not in titles]
    means = [mean_of([next(one for one in row if one.title == title) for row in found]) for title in titles]
    return alone + [average_training(one) if method.of_one_training else one for method, one in zip(trained, means, strict=True)]


def average_training(scores: Scores) -> Scores:
    """The mean over models of what each says of its own training: what it is about, how many signs are sure, and whether one model decides it."""
    low, high = scores.interval()
    assert scores.repeats is not None
    models = len(scores.repeats)
    about = f"the change in an average training, each with its own start and order, not in one of these {models}; an interval is of that average"
    sure = int(((low > 0) | (high < 0)).sum())
    squares = scores.repeats.double().square().sum(1)
    most = int(squares.argmax())
    part = float(squares[most] / squares.sum()) if squares.any() else 0.0
    warnings = scores.warnings
    if models > 2 and part > ONE_DECIDES:
        warnings += (
            f"Model {most + 1} of {models} makes up {part:.0%} of the squares of all models' values: its training is by far the most sensitive, and the mean is mostly "
            "about it. `repeats` holds the values of each model; their median follows no single one.",
        )
    return dataclasses.replace(
        scores,
        diagnostics={
            "about": about,
            "examples whose 95 % interval excludes 0": sure,
            "largest part of one model in the squares of all values": part,
            **scores.diagnostics,
        },
        warnings=warnings,
    )


def told_by(models: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The diagnostics of several models: the smallest and the largest of numbers that differ, of others the first model's."""
    told: dict[str, object] = {}
    for name, value in models[0].items():
        numbers = [one[name] for one in models if isinstance(one.get(name), int | float)]
        if len(numbers) == len(models) and len(set(numbers)) > 1:
            told[f"{name} (smallest of the models)"] = min(numbers)  # type: ignore[type-var]
            told[f"{name} (largest of the models)"] = max(numbers)  # type: ignore[type-var]
        else:
            told[f"{name} (first model)"] = value
    return told


def mean_of(scores: Sequence[Scores]) -> Scores:
    """The mean of the scores of several models, with the scores of each, over the examples that all of them cover."""
    first = scores[0]
    if any(one.ids != first.ids for one in scores):
        common = np.all([np.isin(first.ids.values, one.ids.values) for one in scores], axis=0)
        if not common.any():
            raise Mismatch(f"No example is covered by all {len(scores)} models of {first.title}; score another window.")
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
        diagnostics={"models": len(scores), **told_by([one.diagnostics for one in scores])},
        warnings=tuple(dict.fromkeys(warning for one in scores for warning in one.warnings)),
    )


def _only(scores: Scores, ids: Ids, unscored: Ids) -> Scores:
    place = scores.ids.positions(ids)
    by_epoch = None if scores.by_epoch is None else scores.by_epoch[:, place]
    return dataclasses.replace(scores, ids=ids, values=scores.values[place], unscored=unscored, by_epoch=by_epoch, repeats=None)


def computed(run: Run, methods: Sequence[AbstractMethod], evidence: Evidence, spent: Spent) -> list[Scores]:
    """The scores of one model by these methods, each from the values computed during training, or from the evidence."""
    if not methods:
        return []
    spent.since_last([])
    results, stored = [], []
    for method in methods:
        if (
            Need.STEPS not in evidence.holds
            and isinstance(method, AbstractStepMethod)
            and (result := step_result(run, method)) is not None
        ):
            results.append(scoring.checked(method, evidence, result, run.visits() > 0))
            spent.since_last([method])
            continue
        state = live_state(run, method) if isinstance(method, AbstractAccumulator) else None
        # A state that was folded while training is the same number without the stored logits.
        if state is not None and not method.reads <= evidence.holds:
            if run.epochs < method.fewest_epochs:  # type: ignore[attr-defined]
                raise accumulators.too_few(method, run.epochs, passes=run.passes)  # type: ignore[arg-type]
            results.append(scoring.checked(method, evidence, Result(method.compute(state), scored=method.scored(state))))  # type: ignore[attr-defined]
            spent.since_last([method])
        else:
            stored.append(method)
    if run.task == "labels":
        by_label = [one for one in stored if isinstance(one, AbstractAccumulator) or (one.reads and one.reads <= EPOCH_NEEDS)]
        stored = [one for one in stored if one not in by_label]
        results += [over_labels(run, one) for one in scoring.score(by_label, gather_labels(run), spent)] if by_label else []
    return results + (scoring.score(stored, evidence, spent) if stored else [])


def over_labels(run: Run, scores: Scores) -> Scores:
    """The value of each example, from those of its labels: their mean, or the value of the most suspect or hardest label.

    Args:
        run: A run of several labels for each example, which says how they are reduced.
        scores: The value of every pair of an example and a label.
    """
    labels = run.label_matrix().shape[1]
    # An epoch visits all labels of an example or none.
    met = torch.zeros(len(run.ids), dtype=torch.bool)
    met[torch.tensor(scores.ids.values.tolist(), dtype=torch.int64) // labels] = True
    values = scores.values.reshape(-1, labels)
    if run.header.reduce_labels == "mean":
        reduced = values.mean(1)
    else:
        reduced = values.gather(1, scores.hardness().reshape(values.shape).argmax(1, keepdim=True))[:, 0]
    return dataclasses.replace(
        scores,
        ids=run.ids if bool(met.all()) else run.ids.take(met),
        values=reduced,
        unscored=run.ids.take(~met),
        diagnostics={
            "labels of an example": values.shape[1],
            "value of an example": f"{run.header.reduce_labels} over its labels",
        }
        | dict(scores.diagnostics),
    )
