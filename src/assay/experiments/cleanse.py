"""Cleanse: retrain without increasing numbers of the worst examples, and choose on validation data how many to remove."""

import dataclasses
import numbers
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from jaxtyping import Int
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments, checked_fields, moved_keywords
from ..core.curve import NONE, RANDOM, WORST, By, Curve, Removal, best_count
from ..core.errors import MissingEvidence, RunError, UsageError, listed
from ..core.lineage import Lineage, fingerprint
from ..core.scores import CHANGE, Scores
from ..core.selection import removable, worst
from ..maths import draws as random
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given, MeanLoss, accuracy
from ..runs.artefacts import finished, load_curve, load_removal, save_curve, save_removal
from ..runs.run import Run
from .detection import check_dataset
from .evidence import check_taken_again, identity, loop_in_words, open_replay
from .execution import MOVED, REPLAYING, Execution
from .plan import came_of, has_plan, plan_of
from .progress import Progress
from .retraining import Retraining
from .targets import distinct

VALIDATION, TEST = "validation", "test"
"""Names of the two targets: the count is chosen on the first, the second is only reported."""
MEASURED = (accuracy(VALIDATION), VALIDATION, accuracy(TEST), TEST)
"""What is measured after every training, in the order of `Removal`'s fields."""

Window = Literal["last", "all"]
"""What is retrained: the last epoch from its checkpoint, or all epochs from the start."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class RemovalGrid:
    """The removals that a cleansing tries, and how it tells the best of them.

    Attributes:
        counts: How many to leave out; by default 1, 3, 10, 30, ... up to all that are predicted harmful, or half of the examples where
            the score only ranks.
        retrain: `last` epoch from its checkpoint, or `all` from the beginning; by default the steps that the scores cover: `all` if their
            window is more than the last epoch, or if they predict a change of the target and have no window, else `last`.
        draws: Number of random removals for each count.
        chosen_by: Whether the best count has the least `loss` or the highest `accuracy` on the validation examples. Test examples
            are reported but never used for the choice.

    Raises:
        UsageError: A setting is of a wrong kind or outside its range.
    """

    counts: Sequence[int] | None = None
    retrain: Window | None = None
    draws: int = 5
    chosen_by: By = "loss"

    def __post_init__(self):
        if self.retrain not in (None, *get_args(Window)):
            raise UsageError(f"retrain={self.retrain!r} is neither 'last' (epoch) nor 'all'.")
        if self.chosen_by not in get_args(By):
            raise UsageError(f"chosen_by={self.chosen_by!r} is neither 'loss' nor 'accuracy', of the validation examples.")
        if self.draws < 1:
            raise UsageError(f"draws={self.draws} leaves no random removals to compare the worst with; give at least 1.")


@moved_keywords(
    MOVED
    | REPLAYING
    | dict.fromkeys([field.name for field in dataclasses.fields(RemovalGrid)], "grid=assay.RemovalGrid({name}=...)")
)
@checked_arguments
def cleanse(
    run: str | Path | Run,
    scores: Scores,
    *,
    grid: RemovalGrid | None = None,
    save: bool = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | None = None,
    replay_config: ReplayConfig | None = None,
    execution: Execution | None = None,
) -> Curve:
    """Retrain without the worst examples by a score, without as many random ones, and with all; choose the count on validation data.

        curve = assay.cleanse("runs/digits", table["sgd_influence"])
        decision = assay.choose(table["sgd_influence"], policy="remove_worst", count=curve.best)

    An example that is left out has weight 0; initial state, order, learning rates, augmentation and the divisor of each batch's loss stay as
    recorded.

    Args:
        run: The run.
        scores: Scores that rank the worst examples. If they predict harm, only examples predicted harmful are ever removed.
        grid: Which removals are tried, and how the best count is chosen, such as `assay.RemovalGrid(counts=[1, 10, 100], draws=3)`.
        save: Keep the curve and every finished training in the run's folder, and take from there the trainings that an earlier call
            finished. Not with `loop`, since a later call cannot check that its loop is the same.
        loop: The `Loop` that describes your own training loop; not for runs with a plan.
        targets: With `loop`: `{"validation": (inputs, labels), "test": (inputs, labels)}`, or Examples. A plan has its own targets.
        replay_config: How far replayed parameters may differ from the recorded ones.
        execution: Where trainings run, and who is told of each.

    Raises:
        UsageError: A setting is out of range, no validation examples, no example is predicted harmful, or the test examples would have a
            say: as the scores' target, or among the validation examples.
        Mismatch: Run and scores are not of the same dataset.
        MissingEvidence: The run kept no model to start from.
        TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
    """
    began = time.perf_counter()
    grid, execution = grid or RemovalGrid(), execution or Execution()
    run = run if isinstance(run, Run) else Run(run)
    retrain = grid.retrain if grid.retrain is not None else window_of(scores)
    if save and loop is not None:
        raise UsageError(
            "save=True does not go with loop=, since a later call cannot check that its loop is the same; leave it out, and save the curve with save_curve."
        )
    check_dataset(run, [scores])
    counts, how = _counts(scores, grid.counts), replay_config or ReplayConfig()
    replay, given = curve_replay(run, loop, targets, how)
    known = {f"target {name}": value for name, value in identity(replay).items()} | how.identity
    check_test(scores, replay)
    places = run.ids.positions(scores.ids, f"run {run.folder}")
    suspects = places[worst(scores, counts[-1])]
    base = run.header.seed or 0
    wanted = [(NONE, 0, base, suspects[:0])]
    for count in counts:
        wanted.append((WORST, count, base, suspects[:count]))
        for seed in range(base + 1, base + 1 + grid.draws):
            drawn = random.permutation(scores.ids.keys, seed, "cleanse")[:count]
            wanted.append((RANDOM, count, seed, places[drawn]))
    trainings = Retraining(replay, loop, given, how, execution.pool, execution.progress, "cleanse")
    removals = trained_without(trainings, wanted, retrain, shelf_of(run, known, retrain) if save else None)
    curve = Curve(
        scores=scores.title,
        retrained=retrain,
        removals=removals,
        best=best_count(removals, grid.chosen_by),
        chosen_by=grid.chosen_by,
        lineage=Lineage(
            dataset=run.dataset,
            parents={"run": run.fingerprint, "scores": scores.fingerprint, **known},
            code=__version__,
            seed=base,
            device=str(replay.training.device),
            seconds=time.perf_counter() - began,
            folder=str(run.folder),
        ),
    )
    if save:
        save_curve(curve, run.paths.curve(f"{curve.scores}-{curve.retrained}"))
    return curve


Wanted = tuple[str, int, int, Int[Tensor, " group"]]
"""Arm, count, seed, and the positions of those left out."""


def shelf_of(run: Run, known: Mapping[str, str], retrain: Window, form: str = "weight") -> str:
    """Name of the folder in which trainings without some examples are kept: of run, targets, tolerance, window and form of leaving out."""
    forms = () if form == "weight" else (form,)
    return fingerprint(run.fingerprint, repr(sorted(known.items())), retrain, __version__, *forms)


def trained_without(
    trainings: Retraining, wanted: Sequence[Wanted], retrain: Window, shelf: str | None, form: str = "weight"
) -> tuple[Removal, ...]:
    """Train once for each of `wanted`, in their order, without the examples named there.

    Args:
        trainings: The recorded training, where it is repeated, and who is told.
        wanted: What is left out; the arm, count and seed name the file.
        retrain: Which steps examples are left out of.
        shelf: Where in the run's folder finished trainings are kept, and taken from if they are there (`shelf_of`); None to keep none.
        form: How an example is left out of a batch (see `StepSource.retrained`).

    Raises:
        Mismatch: The replay does not reproduce the recording.
        TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
    """
    run, progress, task = trainings.replay.run, trainings.progress, trainings.task
    files = [run.paths.trial(shelf or "", f"{arm}-{count}-{_print_of(group)}", seed) for arm, count, seed, group in wanted]
    done = {place: old for place, file in enumerate(files) if shelf and (old := finished(load_removal, file)) is not None}
    progress.advance(task, len(done), len(wanted), "taken from an earlier run" if done else "")
    due = len(done) < len(wanted)
    last = trainings.replay.epochs[-1]
    steps = last if retrain == "last" else range(last.stop)
    quiet = dataclasses.replace(trainings, progress=Progress(), save=shelf is not None, passing=True)
    for one in quiet.each([group for *_, group in wanted], steps, MEASURED, form, tuple(done)) if due else ():
        place = one.place
        arm, count, seed, _ = wanted[place]
        right, loss, test_right, test_loss = one.values
        done[place] = removal = Removal(arm, count, seed, right, loss, test_right, test_loss, one.seconds)
        if shelf:
            save_removal(removal, files[place])
        words = f"{arm}, {count:,} removed: validation loss {removal.validation_loss:.4f}"
        progress.advance(task, len(done), len(wanted), words)
    return tuple(done[place] for place in range(len(wanted)))


@moved_keywords(MOVED | REPLAYING)
@checked_arguments
def curve_for(
    run: str | Path | Run,
    scores: Scores,
    *,
    retrain: Window | None = None,
    replay_config: ReplayConfig | None = None,
    execution: Execution | None = None,
) -> Curve:
    """The curve that the run's folder holds for a score; if there is none, `cleanse` makes it and it is saved.

        decision = assay.choose(scores, "remove_worst", curve=curve_for("runs/digits", scores))

    Args:
        run: The run, recorded by a plan.
        scores: Scores that rank the worst examples; they must cover every example, or they allow no decision.
        retrain: The curve from retraining the `last` epoch or `all` epochs; by default the one that is saved, else as in `cleanse`.
        replay_config, execution: As `cleanse` takes them.

    Raises:
        UsageError: Both curves are saved and `retrain` does not say which, or examples have no score; or as `cleanse`.
        RunError: A curve is damaged.
    """
    run = run if isinstance(run, Run) else Run(run)
    if words := undecided(scores):
        raise UsageError(words)
    curve = curve_of(run, scores, retrain, replay_config)
    if curve is None:
        curve = cleanse(
            run, scores, grid=RemovalGrid(retrain=retrain), save=True, replay_config=replay_config, execution=execution
        )
    return curve


def curve_of(run: Run, scores: Scores, retrained: str | None = None, replay_config: ReplayConfig | None = None) -> Curve | None:
    """The kept curve of this very score of this very recording, by this version of assay; None if there is none.

    Raises:
        UsageError: There are two, and `retrained` does not say which.
        RunError: A curve is damaged.
    """
    tolerance = (replay_config or ReplayConfig()).identity.get("tolerance")
    found = {
        one.retrained: one
        for one in saved_curves(run)
        if one.lineage is not None
        and one.lineage.code == __version__
        and one.lineage.parents.get("run") == run.fingerprint
        and scores.made(one.lineage.parents.get("scores", ""))
        and one.lineage.parents.get("tolerance") == tolerance
        and retrained in (None, one.retrained)
    }
    if len(found) > 1:
        raise UsageError(
            f"{run.folder} holds a curve of {scores.title} with the last epoch retrained and one with all epochs; say which with "
            "--retrain last or all."
        )
    return next(iter(found.values()), None)


def saved_curves(run: Run) -> list[Curve]:
    """Every curve in the run's folder, in the order of their names.

    Raises:
        RunError: A curve is damaged, saved under another curve's name, or saved twice.
    """
    curves: dict[tuple[str, str], Path] = {}
    found = []
    for path in sorted(run.paths.curve("x").parent.glob("*.json")):
        curve = load_curve(path)
        what, due = (curve.scores, curve.retrained), run.paths.curve(f"{curve.scores}-{curve.retrained}")
        # Of the names that `cleanse` gives each belongs to one curve; other names are the user's own.
        if path != due and path.stem.endswith(tuple(f"-{window}" for window in get_args(Window))):
            raise RunError(f"{path} holds the curve of {curve.scores}, which belongs at {due}. Make the curves of both again.")
        if what in curves:
            raise RunError(
                f"{path} and {curves[what]} both hold the curve of {curve.scores}. Take away the one that is not meant."
            )
        curves[what] = path
        found.append(curve)
    return found


def undecided(scores: Scores) -> str:
    """A sentence on why these scores allow no decision on every example; empty if they allow it."""
    if not len(scores.unscored):
        return ""
    return (
        f"{scores.title} has no value for {len(scores.unscored)} examples ({listed(scores.unscored, len(scores.unscored))}), so no decision "
        "on every example can be made by it; score by a window that holds them all."
    )


def window_of(scores: Scores) -> Window:
    """Default of `retrain`: the steps that the scores cover, or the last epoch if they cover no steps.

    Scores that predict the change of the target without an example cover all steps, unless they name a window.
    """
    window = scores.options.get("window", "all" if scores.unit == CHANGE else "last")
    # The window of other methods is a number of epochs that slides.
    return "all" if isinstance(window, str) and window != "last" else "last"


def default_counts(most: int) -> list[int]:
    """1, 3, 10, 30, 100, ... below `most`, and `most` itself."""
    steps = sorted(factor * 10**power for power in range(len(str(most))) for factor in (1, 3))
    return [*(count for count in steps if count < most), most]


def _counts(scores: Scores, given: Sequence[int] | None) -> list[int]:
    """The counts to try, rising."""
    most = removable(scores)
    if not most:
        raise UsageError(f"{scores.title} predicts none of {len(scores)} examples to be harmful, so there is nothing to remove.")
    if given is None:
        return default_counts(most if scores.harmful() is not None else max(most // 2, 1))
    whole = all(isinstance(count, numbers.Integral) and not isinstance(count, bool) for count in given)
    counts = sorted({int(count) for count in given}) if whole else []
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
            f"counts: {listed(beyond, len(beyond))} cannot be removed, {scores.title} {limit}; give counts in 1..{most}."
        )
    return counts


def curve_replay(
    run: Run, loop: Loop | None, targets: Mapping[str, Given] | None, replay_config: ReplayConfig | None
) -> tuple[Replay, Mapping[str, Given] | Sequence[str]]:
    """The training, and its two targets as `open_replay` takes them."""
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
        check_taken_again(run)
        if loop is None:
            raise UsageError(
                f"{run.folder} {came_of(run)}, whose model and data assay does not know; in Python, give cleanse(..., "
                f"loop={loop_in_words(run)}, targets={{'validation': (inputs, labels), 'test': (inputs, labels)}})."
            )
        if unread := [name for name in targets or {} if name not in (VALIDATION, TEST)]:
            raise UsageError(f"A curve reads the targets 'validation' and 'test', not {unread[0]!r}; leave it out.")
        given = dict(targets or {})
    replay = open_replay(run, loop=loop, targets=given, replay_config=replay_config)
    if replay.run.task != "classes":
        raise MissingEvidence(
            f"A curve is of test accuracy, and {replay.run.folder} recorded {replay.run.classes_in_words} example and no class; choose a decision by a score, and "
            "train again without what it drops."
        )
    if wrong := [name for name in (VALIDATION, TEST) if not isinstance(replay.given.get(name), MeanLoss)]:
        raise UsageError(
            f"A curve needs (inputs, labels) or Examples as target {' and '.join(map(repr, wrong))}; give targets={{'validation': "
            "(inputs, labels), 'test': (inputs, labels)}."
        )
    return replay, given


def _print_of(group: Int[Tensor, " group"]) -> str:
    """Fingerprint of those left out."""
    return fingerprint(group.sort().values.numpy().tobytes())


def check_test(scores: Scores, replay: Replay) -> None:
    """Refuse a curve in which the test examples would have a say.

    Raises:
        UsageError: The scores were made by them, or at least half of either part's inputs are inputs of the other: single equal rows happen
            in real tables.
    """
    validation, test = (replay.given[name] for name in (VALIDATION, TEST))
    assert isinstance(validation, MeanLoss) and isinstance(test, MeanLoss)
    one, other = distinct(validation), distinct(test)
    if 2 * len(one & other) >= min(len(one), len(other)):
        raise UsageError(
            f"{len(one & other)} of the {len(one)} validation examples are the test examples too; a count must not be chosen on what it is "
            "judged by."
        )
    if scores.lineage is not None and test.fingerprint in scores.lineage.parents.values():
        raise UsageError(
            f"{scores.title} was made by the test examples, and a count must not be chosen on what it is judged by; score by "
            "target=validation."
        )
