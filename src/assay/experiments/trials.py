"""Trials: the same training after a decision, after the same actions on random examples, and on all examples, over seeds."""

import contextlib
import dataclasses
import functools
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from .. import __version__
from ..cluster.executors import Call, executor, run_all
from ..core import options as texts
from ..core.decision import Action, Decision
from ..core.errors import AssayError, NumericalError, UsageError
from ..core.ids import Ids
from ..core.lineage import fingerprint
from ..core.live_selection import AbstractLiveSelector
from ..core.scores import Scores
from ..core.trial import ALL, KEPT, RANDOM, REMOVAL, Outcome
from ..maths import draws
from ..policies import live_catalogue, parse, parse_live
from ..runs.artefacts import finished, load_outcome, load_scores
from ..runs.run import Run
from ..training.batches import TrainingData
from ..training.loop import evaluate, train
from ..training.state import TrainingState, standing_at
from .execution import Execution
from .kept_state import StateKeeper
from .plan import LoadedData, Plan, load_data

Retrain = Callable[..., float]
"""`retrain(ids, labels, weights, seed)` trains on exactly these examples and returns the accuracy on test examples, in 0..1.

For a second control it is called with `each_epoch` too: a function that gives for the number of an epoch the positions in `ids` of the examples that it
trains on.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """Training data of one arm of the comparison.

    Attributes:
        name: `kept`, `random` or `all`; or the title of the live selector of a second control.
        ids: The examples that take part.
        labels: The class to train each on.
        weights: Factor of each example's loss.
        selector: Chooses the examples of each epoch, in the place of the plan's selector; None where that stays.
    """

    name: str
    ids: Ids
    labels: Int[Tensor, " kept"]
    weights: Float64[Tensor, " kept"]
    selector: AbstractLiveSelector | None = None

    @property
    def examples(self) -> int:
        """How many examples take part: in all, or in each epoch where these are chosen anew."""
        size = self.selector.epoch_size(len(self.ids)) if self.selector is not None else None
        return len(self.ids) if size is None else size

    @property
    def fingerprint(self) -> str:
        """Hash over everything that the arm trains on."""
        chosen = () if self.selector is None else (self.selector.title,)
        return fingerprint(self.ids.fingerprint, self.labels.numpy().tobytes(), self.weights.numpy().tobytes(), *chosen)

    def __reduce__(self):
        # torch sends tensors to other processes through shared memory, which small containers lack and which a worker that is
        # ended half-way leaves with a traceback.
        return _arm, (self.name, self.ids.values, self.labels.numpy(), self.weights.numpy(), self.selector)


def _arm(name: str, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray, selector: AbstractLiveSelector | None) -> Arm:
    return Arm(name, Ids(ids), torch.from_numpy(labels), torch.from_numpy(weights), selector)


@dataclasses.dataclass(frozen=True)
class EachEpoch:
    """The examples that a second control trains on in each epoch, for a training of your own.

    Attributes:
        ids: All examples.
        selector: A live selector that reads no losses.
        seed: Seed of the training.
    """

    ids: Ids
    selector: AbstractLiveSelector
    seed: int

    def __call__(self, epoch: int) -> Int[Tensor, " chosen"]:
        """Positions in `ids` of the examples of an epoch, which is counted from 0, rising."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise UsageError(f"each_epoch({epoch!r}): epochs are whole numbers, counted from 0.")
        # A selector without a state reads no losses; it is not told how many epochs there are, which a loop need not know either.
        choice = self.selector.select_epoch({}, self.ids, epoch, epoch + 1, self.seed)
        return choice.checked(self.ids, self.selector.title, epoch).kept.nonzero().flatten()


def arms(decision: Decision, given: Int[Tensor, " examples"], seed: int) -> list[Arm]:
    """The three arms of one seed: the decision; the same actions on examples drawn at random; every example as given.

    The random arm drops as many examples, gives as many the same weights, and relabels as many, each to another class than its given one,
    drawn evenly from the classes that occur.

    Args:
        decision: The decision to verify.
        given: Given labels, in the order of the decision's ids.
        seed: Random seed of the random arm.
    """
    labels = torch.where(decision.labels >= 0, decision.labels, given)
    ones = torch.ones(len(decision), dtype=torch.float64)
    order = draws.permutation(decision.ids.keys, seed, "random removal")
    # The first in the order are dropped, so that arms that drop share what they drop, whatever else they do.
    acts = [(decision.actions == action).nonzero().flatten() for action in (Action.DROP, Action.RELABEL, Action.WEIGHT)]
    dropped, relabelled, weighted = order.split([*map(len, acts), len(order) - sum(map(len, acts))])[:3]
    stays, weights, drawn = torch.ones(len(decision), dtype=torch.bool), ones.clone(), given.clone()
    stays[dropped] = False
    weights[weighted] = decision.weights[acts[2]]
    classes = torch.cat([given, labels]).unique()
    if len(relabelled) and len(classes) > 1:
        step = draws.integers(decision.ids.keys[relabelled.numpy()], len(classes) - 1, seed, "random relabel") + 1
        drawn[relabelled] = classes[(torch.searchsorted(classes, given[relabelled]) + step) % len(classes)]
    kept = decision.kept
    return [
        Arm(KEPT, decision.ids.take(kept), labels[kept], decision.weights[kept]),
        Arm(RANDOM, decision.ids.take(stays), drawn[stays], weights[stays]),
        Arm(ALL, decision.ids, given, ones),
    ]


def live_control(spec: str, examples: int, budget: int) -> AbstractLiveSelector:
    """The live selector of a second control, which trains each epoch on as many examples as a decision keeps.

    Args:
        spec: Name of a live selector, with its options but for `keep`.
        examples: How many examples there are.
        budget: How many the decision keeps.

    Raises:
        UnknownName: There is no such live selector or option.
        UsageError: It does not train every epoch on a given number of examples, or `keep` is given.
    """
    name, given = texts.split(spec)
    known = live_catalogue()
    able = [one for one, cls in known.items() if any(field.name == "keep" for field in dataclasses.fields(cls))]  # type: ignore[arg-type]
    chosen = parse_live(spec, {"keep": budget}) if name in able or name not in known else None
    if chosen is None or chosen.epoch_size(examples) != budget:
        raise UsageError(
            f"control={spec} does not train every epoch on a given number of examples, so that it takes other steps than the decision; give one that does: "
            f"{', '.join(able)}."
        )
    if "keep" in given:
        raise UsageError(
            f"control={spec} trains each epoch on as many examples as the decision keeps; leave keep={given['keep']} out."
        )
    return chosen


def control_arm(decision: Decision, given: Int[Tensor, " examples"], spec: str) -> Arm:
    """A second control of a decision: every epoch trains on as many examples as the decision keeps, chosen anew from all, as given.

    Raises:
        UnknownName: There is no such live selector or option.
        UsageError: The selector cannot be a control, or the decision keeps all examples.
    """
    chosen = live_control(spec, len(decision), decision.budget)
    if decision.budget == len(decision):
        raise UsageError(
            f"control={spec} would train every epoch on all {len(decision)} examples, because the decision {decision.title} drops none, and that is what "
            "the arm of all examples does; leave control= out."
        )
    return Arm(parse_live(spec).title, decision.ids, given, torch.ones(len(decision), dtype=torch.float64), chosen)


def control_of(decision: Decision) -> str:
    """A phrase that says what the random arm does."""
    counts = decision.counts()
    words = {"drop": "removal", "relabel": "relabelling", "weight": "weighting"}
    acts = [word for action, word in words.items() if action in counts]
    return f"random {' and '.join(acts)} of equal size" if acts else REMOVAL


def redrawn(decision: Decision, run: Run, scores: Iterable[Scores] = ()) -> Callable[[int], Decision] | None:
    """Function that redraws, for a trial's seed, a decision that a policy drew at random; None where that is impossible.

    It is impossible if the policy draws nothing, the scores that it used are not available, or the policy does not reproduce this decision
    with its own seed, as after a change by hand.
    """
    from .choose import decide

    options = dict(decision.options)
    parents = decision.lineage.parents if decision.lineage is not None else {}
    made_by, own = parents.get("scores"), options.get("seed")
    if not isinstance(own, int) or not parents:
        return None
    # What was made by no score was made from the run alone.
    by: Scores | Run | None = run if made_by is None else next((one for one in scores if one.made(made_by)), None)
    if by is None and made_by is not None:
        # A score that cannot be read is none that the decision can be drawn by.
        saved = (finished(load_scores, path) for path in sorted(run.paths.scores("x").parent.glob("*.parquet")))
        by = next((one for one in saved if one is not None and one.made(made_by)), None)
    if by is None:
        return None

    def draw(seed: int) -> Decision:
        made, known = parse(decision.policy, {**options, "seed": seed}), isinstance(by, Scores)
        # Of a score with gaps there is no other decision.
        return decide(by, made, run if known else None, unscored="keep" if known else "refuse")

    try:
        same = draw(own).fingerprint == decision.fingerprint
    except AssayError:
        return None
    return (lambda seed: draw(draws.integer(own, "decision drawn anew", seed))) if same else None


def trial_file(run: Run, plan: Plan | None, arm: Arm, seed: int) -> Path:
    """Path of the file in which a retraining is saved."""
    how = [json.dumps(plan.plain(), sort_keys=True), load_data(plan).content] if plan else ["own"]
    return run.paths.trial(fingerprint(*how, __version__, arm.fingerprint), arm.name, seed)


def state_file(path: Path) -> Path:
    """Where the state of a training is kept until its result is in `path`."""
    return path.absolute().with_suffix(".state")


def finished_trial(path: Path, arm: str, seed: int) -> Outcome | None:
    """The retraining saved at `path`, if it is of this arm and seed and not a copy of another."""
    return finished(functools.partial(load_outcome, made_of=path.parent.name, arm=arm, seed=seed), path)


def run_of(decision: Decision, run: str | Path | Run | None) -> Run:
    """The run that a decision was made from, unless another is given.

    Raises:
        UsageError: None is given, and the decision names none.
    """
    if isinstance(run, Run):
        return run
    folder = run if run is not None else decision.lineage.folder if decision.lineage is not None else ""
    if not folder:
        raise UsageError("The decision names no run; give run=PATH of the run that it was made from.")
    return Run(folder)


def run_trials(
    run: Run,
    plan: Plan | None,
    retrain: Retrain | None,
    due: Sequence[tuple[Arm, int, Path]],
    execution: Execution,
    done: Sequence[Outcome],
    save: bool = True,
) -> Iterator[tuple[Outcome, Path]]:
    """Train the arms that are due, each with its seed, and yield each outcome with its file as soon as it is finished; with `save`, one that is stopped leaves the
    state from which it goes on.

    Raises:
        TrialFailed: A training failed.
    """
    total, progress = len(due) + len(done), execution.progress
    progress.advance("verify", len(done), total, "taken from an earlier verification" if done else "")
    calls, paths = [], {}
    for arm, seed, path in due:
        # Titles have signs that no log's name may have.
        name = f"{arm.name if arm.selector is None else 'control'}-{seed}"
        paths[name] = path
        if plan is None:
            # What a function of the user's own does, no file says, so that it has no key.
            calls.append(Call(name, _own, (retrain, arm, seed)))
            continue
        work = plan.plain(), arm, seed, None, str(state_file(path)) if save else ""
        calls.append(Call(name, train_arm, work, str(path.absolute()), resumes=save))
    finished = len(done)
    with contextlib.ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        for name, outcome in run_all(pool, calls, run.paths.logs, "verify", len(done)):
            finished += 1
            progress.advance(
                "verify", finished, total, f"{outcome.arm}, seed {outcome.seed}: test accuracy {outcome.accuracy:.4f}"
            )
            yield outcome, paths[name]


TURN = threading.RLock()
"""torch's random generator is one per process, so that trials in threads of one process must take turns."""


def train_arm(plain: Mapping[str, Any], arm: Arm, seed: int, steps: int | None = None, keep: str = "") -> Outcome:
    """One retraining by the plan, of the arm's examples from new initial weights: the accuracy after the last epoch, or after `steps` steps.

    Args:
        plain: The plan.
        arm: The examples.
        seed: Of weights and order.
        steps: As `training.loop.train` takes them.
        keep: File for the state of a long training, from which the same call goes on; empty for none.

    Raises:
        AssayError: As `training.loop.train`.
    """
    with TURN:
        return _trained(Plan.make(plain), arm, seed, steps, StateKeeper(Path(keep)) if keep else None)  # type: ignore[abstract]


def _trained(plan: Plan, arm: Arm, seed: int, steps: int | None, keeper: StateKeeper | None) -> Outcome:
    began = time.perf_counter()
    loaded = load_data(plan)
    model, state = trained_model(plan, loaded, arm, seed, steps, keeper=keeper)
    if keeper is not None:
        keeper.forget()
    test = loaded.test
    with standing_at(model, state.averages):
        accuracy, loss = evaluate(model, test.inputs, test.labels, prepare=test.prepared, device=plan.training.device)
    return Outcome(arm.name, seed, accuracy, loss, arm.examples, state.steps, time.perf_counter() - began)


def trained_model(
    plan: Plan, loaded: LoadedData, arm: Arm, seed: int, steps: int | None = None, *, keeper: StateKeeper | None = None
) -> tuple[nn.Module, TrainingState]:
    """The model after one retraining of the arm's examples from new initial weights, and the state in which the training ended.

    Raises:
        AssayError: As `training.loop.train`.
    """
    examples = loaded.train.take(loaded.train.ids.positions(arm.ids, plan.data))
    model = plan.build(loaded, seed)
    weights = None if bool((arm.weights == 1).all()) else arm.weights.to(torch.float32)
    state = train(
        model,
        TrainingData(
            examples.inputs, arm.labels, examples.ids, prepare=examples.prepared, augment=plan.augmentation(loaded, seed)
        ),
        plan.recipe_with(seed),
        weights=weights,
        observer=keeper,
        resume=keeper.kept() if keeper is not None else None,
        steps=steps,
        selector=plan.selector if arm.selector is None else arm.selector,
    )
    return model, state


def _own(retrain: Retrain, arm: Arm, seed: int) -> Outcome:
    began = time.perf_counter()
    anew = {} if arm.selector is None else {"each_epoch": EachEpoch(arm.ids, arm.selector, seed)}
    said: object = retrain(arm.ids, arm.labels, arm.weights, seed, **anew)
    try:
        # Whether something succeeded, and a text, would pass for numbers.
        accuracy = math.nan if isinstance(said, (bool, np.bool_, str, bytes)) else float(said)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        accuracy = math.nan
    if not 0 <= accuracy <= 1:
        raise NumericalError(f"retrain returned {said!r:.100} for arm {arm.name}, seed {seed}; return an accuracy in 0..1.")
    return Outcome(arm.name, seed, accuracy, None, arm.examples, None, time.perf_counter() - began)
