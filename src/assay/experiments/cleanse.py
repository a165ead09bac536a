"""Cleanse: train again without the worst examples, more and more of them, and choose on validation data how many should go."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from .. import __version__
from ..core.curve import NONE, RANDOM, WORST, By, Curve, Removal, best_count
from ..core.errors import RunError, UsageError, some
from ..core.lineage import Lineage, fingerprint
from ..core.scores import Scores
from ..integrations.loop import Loop
from ..maths import draws as random
from ..policies.remove_worst import removable, worst
from ..runs.artefacts import load_removal, save_removal
from ..runs.replay import Replay
from ..runs.run import Run
from .again import Given, Replaying, again, identity
from .progress import Progress
from .retraining import Retraining, accuracy, with_accuracies
from .verify import check_dataset, has_plan, plan_of

VALIDATION, TEST = "validation", "test"
"""Names of the two targets: the count is chosen on the first, the second is only told."""
MEASURED = (accuracy(VALIDATION), VALIDATION, accuracy(TEST), TEST)
"""What every training tells, in the order of `Removal`'s fields."""

Window = Literal["last", "all"]
"""What is trained again: the last epoch from its checkpoint, or everything from the start."""


def cleanse(
    run: str | Path | Run,
    scores: Scores,
    *,
    counts: Sequence[int] | None = None,
    retrain: Window = "last",
    draws: int = 5,
    chosen_by: By = "loss",
    pool: Executor | None = None,
    save: bool = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | None = None,
    replaying: Replaying | None = None,
    progress: Progress | None = None,
) -> Curve:
    """Train again without the worst examples by a score, without as many random ones, and with all; choose the count on validation data.

        curve = assay.cleanse("runs/digits", table["sgd_influence"])
        decision = assay.choose(table["sgd_influence"], policy="remove_worst", count=curve.best)

    An example that is left out weighs 0; start, order, rates, augmentation and what a batch's loss is divided by stay as recorded.

    Args:
        run: The run.
        scores: What says which examples are the worst. Where it predicts harm, only those predicted harmful are ever removed.
        counts: How many to leave out; by default 1, 3, 10, 30, ... up to all that are predicted harmful, or half of the examples where
            the score only ranks.
        retrain: `last` epoch from its checkpoint, or `all` from the beginning.
        draws: How many random removals of each count.
        chosen_by: Whether the best count has the least `loss` or the highest `accuracy` on the validation examples. Test examples
            are told of and never chosen by.
        pool: Where trainings run: any `concurrent.futures.Executor`; by default in this process.
        save: Keep every finished training in the run's folder, and take from there what an earlier call finished. Not with `loop`,
            which cannot be told from another one later.
        loop: What your own loop consists of; not for runs with a plan.
        targets: With `loop`: `{"validation": (inputs, labels), "test": (inputs, labels)}`. A plan knows its own.
        replaying: How far training taken again may differ.
        progress: Told of each finished training.

    Raises:
        UsageError: A setting is out of range, no validation examples, or no example is predicted harmful.
        Mismatch: Run and scores are not of the same dataset.
        MissingEvidence: The run kept no model to start from.
        TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
    """
    began = time.perf_counter()
    progress = progress or Progress()
    run = run if isinstance(run, Run) else Run(run)
    _check(retrain, draws, chosen_by, save, loop)
    check_dataset(run, [scores])
    counts = _counts(scores, counts)
    replay, given = _replay(run, loop, targets, replaying)
    places = run.ids.positions(scores.ids, f"run {run.folder}")
    suspects = places[worst(scores, counts[-1])]
    base = run.header.seed or 0
    wanted = [(NONE, 0, base, suspects[:0])]
    for count in counts:
        wanted.append((WORST, count, base, suspects[:count]))
        for seed in range(base + 1, base + 1 + draws):
            drawn = random.permutation(scores.ids.keys, seed, "cleanse")[:count]
            wanted.append((RANDOM, count, seed, places[drawn]))
    known = {f"target {name}": value for name, value in identity(replay).items()}
    shelf = fingerprint(run.fingerprint, repr(sorted(known.items())), retrain, __version__)
    files = [run.paths.trial(shelf, f"{arm}-{count}-{_told(group)}", seed) for arm, count, seed, group in wanted]
    done = {place: old for place, file in enumerate(files) if save and (old := _finished(file)) is not None}
    progress.advance("cleanse", len(done), len(wanted), "taken from an earlier run" if done else "")
    due = [place for place in range(len(wanted)) if place not in done]
    trainings = Retraining(replay, loop, given, replaying, pool)
    last = replay.epochs[-1]
    steps = last if retrain == "last" else range(last.stop)
    for one in trainings.each([wanted[place][3] for place in due], steps, MEASURED, "weight"):
        place = due[one.place]
        arm, count, seed, _ = wanted[place]
        right, loss, test_right, test_loss = one.values
        done[place] = removal = Removal(arm, count, seed, right, loss, test_right, test_loss, one.seconds)
        if save:
            save_removal(removal, files[place])
        words = f"{arm}, {count:,} removed: validation loss {removal.validation_loss:.4f}"
        progress.advance("cleanse", len(done), len(wanted), words)
    removals = tuple(done[place] for place in range(len(wanted)))
    return Curve(
        scores=scores.title,
        retrained=retrain,
        removals=removals,
        best=best_count(removals, chosen_by),
        chosen_by=chosen_by,
        lineage=Lineage(
            dataset=run.dataset,
            parents={"run": run.fingerprint, "scores": scores.fingerprint, **known},
            code=__version__,
            seed=base,
            device=str(replay.course.device),
            seconds=time.perf_counter() - began,
            folder=str(run.folder),
        ),
    )


def default_counts(most: int) -> list[int]:
    """1, 3, 10, 30, 100, ... below `most`, and `most` itself."""
    steps = sorted(factor * 10**power for power in range(len(str(most))) for factor in (1, 3))
    return [*(count for count in steps if count < most), most]


def _check(retrain: str, draws: int, chosen_by: str, save: bool, loop: Loop | None) -> None:
    if retrain not in ("last", "all"):
        raise UsageError(f"retrain={retrain!r} is neither 'last' (epoch) nor 'all'.")
    if chosen_by not in ("loss", "accuracy"):
        raise UsageError(f"chosen_by={chosen_by!r} is neither 'loss' nor 'accuracy', of the validation examples.")
    if draws < 1:
        raise UsageError(f"draws={draws} leaves nothing to hold the worst against; give at least 1.")
    if save and loop is not None:
        raise UsageError(
            "save=True cannot tell your loop from another one later; leave it out, and save the curve with save_curve."
        )


def _counts(scores: Scores, given: Sequence[int] | None) -> list[int]:
    """The counts to try, rising."""
    most = removable(scores)
    if not most:
        raise UsageError(f"{scores.title} predicts none of {len(scores)} examples to be harmful, so there is nothing to remove.")
    if given is None:
        return default_counts(most if scores.harmful() is not None else max(most // 2, 1))
    counts = sorted(set(given))
    if not counts or counts[0] < 1:
        raise UsageError(f"counts={list(given)}: give whole numbers from 1 on; removing nothing is tried by itself.")
    if counts[-1] > most:
        limit = (
            f"predicts only {most} of {len(scores)} examples to be harmful"
            if scores.harmful() is not None
            else f"scores {most} examples"
        )
        beyond = [count for count in counts if count > most]
        raise UsageError(
            f"counts: {some(beyond, len(beyond))} cannot be removed, {scores.title} {limit}; give counts in 1..{most}."
        )
    return counts


def _replay(
    run: Run, loop: Loop | None, targets: Mapping[str, Given] | None, replaying: Replaying | None
) -> tuple[Replay, Mapping[str, Given] | Sequence[str]]:
    """The training, and its two targets as `again` takes them."""
    given: Mapping[str, Given] | Sequence[str]
    if has_plan(run):
        if targets is not None:
            raise UsageError(
                f"{run.folder} was recorded by a plan, which has validation and test examples of its own; leave targets= out."
            )
        if not plan_of(run).validation:
            raise UsageError(
                f"{run.folder} held out no validation examples, and a count is never chosen on test examples; record with "
                "`validation = 0.1` (`--validation 0.1`)."
            )
        given = [VALIDATION, TEST]
    else:
        if loop is None:
            raise UsageError(
                f"{run.folder} was recorded in your own loop, whose model and data assay does not know; in Python, give cleanse(..., "
                "loop=assay.Loop(model, optimizer, loader), targets={'validation': (inputs, labels), 'test': (inputs, labels)})."
            )
        own = {} if targets is None else targets
        if wrong := [name for name in (VALIDATION, TEST) if not isinstance(own.get(name), tuple)]:
            raise UsageError(
                f"A curve needs (inputs, labels) as target {' and '.join(map(repr, wrong))}; give targets={{'validation': (inputs, "
                "labels), 'test': (inputs, labels)}."
            )
        given = {name: own[name] for name in (VALIDATION, TEST)}
    replay = with_accuracies(again(run, loop=loop, targets=given, replaying=replaying))
    same = identity(replay)
    if same[VALIDATION] == same[TEST]:
        raise UsageError("The validation examples are the test examples; a count must not be chosen on what it is judged by.")
    return replay, given


def _told(group: Int[Tensor, " group"]) -> str:
    """Fingerprint of those left out."""
    return fingerprint(group.sort().values.numpy().tobytes())


def _finished(path: Path) -> Removal | None:
    """What an earlier call left there. A damaged file is no result; that training is done again."""
    try:
        return load_removal(path) if path.exists() else None
    except RunError:
        return None
