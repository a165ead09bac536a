"""What trainings will cost, before they are begun: measured from a few steps on this machine."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..cluster.executors import threads_of_torch
from ..core.arguments import checked_arguments
from ..core.errors import UsageError
from ..runs.observations import SMALL
from ..runs.run import Run
from ..training.batches import TrainingData, sizes
from ..training.loop import predict, train
from ..training.state import TrainingState
from .execution import Execution
from .lds import LeaveOutGrid
from .plan import LoadedData, Plan, load_data, plan_of

WARM, MEASURED = 3, 12
"""Steps before the measured ones, in which kernels and memory are set up; and how many are measured."""
LONG = 10.0
"""Seconds after which warming up has measured enough."""
FACTS = 33
"""Bytes of an epoch for each example: seven numbers, its place in the order and whether it was right."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some trainings cost.

    Attributes:
        what: What they are for.
        trainings: How many there are.
        steps: Optimizer steps of each; 1 for a learner's, which is measured as a whole.
        seconds_per_step: As measured on this machine.
        bytes: What stays on disk.
        threads: torch threads of each.
        apart: Whether they can run side by side in several processes.
    """

    what: str
    trainings: int
    steps: int
    seconds_per_step: float
    bytes: int
    threads: int = 1
    apart: bool = True

    def seconds(self, workers: int = 1) -> float:
        """Of all trainings on machines like this one, so many side by side, each as fast as if it were alone."""
        return math.ceil(self.trainings / (workers if self.apart else 1)) * self.steps * self.seconds_per_step


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Trainings of one kind that something long consists of.

    Attributes:
        what: What they are, as it follows a number: "final models on 30 %".
        trainings: How many there are at most.
        steps: Optimizer steps of each.
        plan: How they are trained; or a function that measures the seconds of one step, where there is no plan.
        recorded: Whether they are recorded.
    """

    what: str
    trainings: int
    steps: int
    plan: Plan | Callable[[], float]
    recorded: bool = False


class Planned(Exception):
    """Raised by a dry run in the place of the first training.

    Attributes:
        work: All that would be trained.
    """

    def __init__(self, work: Sequence[Work]):
        super().__init__(counted_work(work))
        self.work = tuple(work)


def counted_work(work: Sequence[Work]) -> str:
    """How many trainings it is, in words."""
    total = sum(one.trainings for one in work)
    kinds = [f"{one.trainings:,} {one.what if one.trainings > 1 else one.what.replace('models', 'model')}" for one in work]
    return f"{total:,} trainings at most: {', '.join(kinds)}."


class DryRun(Execution):
    """With this a study ends before its first training."""


def announce(execution: Execution | None, work: Sequence[Work]) -> None:
    """End a dry run here.

    Raises:
        Planned: It is one.
    """
    if isinstance(execution, DryRun):
        raise Planned(work)


def estimate_work(work: Sequence[Work], threads: int = 1) -> list[Cost]:
    """What trainings cost, each with so many torch threads; equal plans are measured once.

    Raises:
        UsageError: A plan does not fit the data, or the device is absent.
        AssayError: As training.
    """
    known: dict[str, tuple[float, TrainingState]] = {}

    def measured(plan: Plan) -> tuple[float, TrainingState]:
        plain = plan.plain()
        # Neither how long is trained, nor what is recorded, nor the seed changes what a step takes.
        recipe = {name: value for name, value in plain.pop("recipe", {}).items() if name != "epochs"}
        key = json.dumps({**plain, "seed": 0, "models": 1, "record": None, "recipe": recipe}, sort_keys=True)
        if key not in known:
            known[key] = _measured(plan, load_data(plan))
        return known[key]

    costs = []
    with threads_of_torch(threads):
        for one in work:
            seconds, size = one.plan() if not isinstance(one.plan, Plan) else measured(one.plan)[0], OUTCOME
            if isinstance(one.plan, Plan) and one.recorded:
                cost = _recording(one.plan, load_data(one.plan), *measured(one.plan))
                seconds, size = cost.seconds_per_step, cost.bytes // cost.trainings
            costs.append(Cost(one.what, one.trainings, one.steps, seconds, one.trainings * size, threads))
    return costs


def steps_of(plan: Plan, examples: int) -> int:
    """Optimizer steps of one training by the plan on so many examples."""
    recipe = plan.training
    size = plan.selector.epoch_size(examples) if plan.selector is not None else None
    return recipe.epochs * len(sizes(examples if size is None else size, recipe.batch, recipe.last_batch))


@checked_arguments
def estimate_recording(plan: Plan) -> Cost:
    """What recording by a plan costs.

    Args:
        plan: The plan; its data are read, and a few steps are trained.

    Raises:
        UsageError: The plan does not fit the data, or the device is absent.
        AssayError: As training.
    """
    loaded = load_data(plan)
    return _recording(plan, loaded, *_measured(plan, loaded))


def _recording(plan: Plan, loaded: LoadedData, seconds: float, state: TrainingState) -> Cost:
    """What recording costs, given the seconds of a step and a state."""
    epochs, number = plan.training.epochs, plan.folds or plan.models
    kept = plan.record.checkpoints
    states = epochs + 1 if kept == "every" else 0 if kept == "none" else 3 if kept == "last" else len(set(kept)) + 3
    examples, classes = len(loaded.train), loaded.train.classes
    steps = steps_of(plan, examples)
    if plan.record.view == "eval":
        seconds += epochs * _pass(plan, loaded) / steps
    facts = FACTS + (4 * classes if plan.record.keep_logits else 0)
    size = epochs * examples * facts + states * sum(one.nbytes for one in state.tensors.values())
    summed = examples * classes <= SMALL if plan.record.mean_probs is None else plan.record.mean_probs
    if summed:
        # The last two.
        size += 2 * 8 * examples * classes
    return Cost("record", number, steps, seconds, number * size, torch.get_num_threads())


@checked_arguments
def estimate_retraining(run: str | Path | Run, *, seeds: int = 5, draws: int = 5, grid: LeaveOutGrid | None = None) -> list[Cost]:
    """What the commands cost that train again on a run that a plan recorded.

    Args:
        run: The run.
        seeds: Seeds of `verify`.
        draws: Random removals for each count of `cleanse`, at its own counts.
        grid: What `lds` leaves out.

    Returns:
        The costs of verify, cleanse (from the beginning), lds, loo (from the beginning) and probe.

    Raises:
        UsageError: The run has no plan, or fewer than 1 seed or draw.
    """
    from .cleanse import default_counts

    if seeds < 1 or draws < 1:
        raise UsageError(f"seeds={seeds} and draws={draws} must be 1 or more.")
    run, grid = run if isinstance(run, Run) else Run(run), grid or LeaveOutGrid()
    plan = plan_of(run)
    loaded, threads = load_data(plan), run.header.threads
    # As the commands train: verify on one thread, the others as the run was recorded.
    with threads_of_torch(threads):
        seconds, _ = _measured(plan, loaded)
    alone = seconds
    if threads != 1:
        with threads_of_torch(1):
            alone, _ = _measured(plan, loaded)
    examples = len(loaded.train)
    steps, grown = steps_of(plan, examples), _bytes(run.folder)
    counts = len(default_counts(max(examples // 2, 1)))
    removals = 1 + counts * (1 + draws)
    number = (grid.same_seed + grid.other_seeds) * grid.subsets
    return [
        Cost(f"verify, {seeds} seeds", 3 * seeds, steps, alone, 3 * seeds * OUTCOME),
        Cost(f"cleanse --retrain all, {counts} counts, {draws} draws", removals, steps, seconds, removals * OUTCOME, threads),
        Cost(f"lds, {grid.subsets} subsets", number, steps, seconds, number * OUTCOME, threads),
        Cost("leave-one-out", 1 + examples, steps, seconds, 8 * examples, threads),
        Cost("probe", 1, steps, seconds, grown, threads),
    ]  # fmt: skip


OUTCOME = 500
"""Bytes of a file with the result of one training."""


def _measured(plan: Plan, loaded: LoadedData) -> tuple[float, TrainingState]:
    """Seconds of one step of the plan's training, evaluation aside, and the state after a few."""
    examples = loaded.train
    data = TrainingData(
        examples.inputs,
        examples.labels,
        examples.ids,
        prepare=examples.prepared,
        augment=plan.augmentation(loaded, plan.model_seed),
    )
    # Of so many steps there is no schedule that would change how long one takes.
    recipe = dataclasses.replace(plan.training, horizon=None)

    def spent(steps: int) -> tuple[float, TrainingState]:
        model = plan.build(loaded, plan.model_seed)
        began = time.perf_counter()
        state = train(model, data, recipe, steps=steps)
        return time.perf_counter() - began, state

    short, state = spent(WARM)
    if short > LONG:
        return short / WARM, state
    # Twice the short one: what a training takes to set up is in both, and is taken off.
    short, _ = spent(WARM)
    long, state = spent(WARM + MEASURED)
    return max((long - short) / MEASURED, long / (WARM + MEASURED) / 10), state


def _pass(plan: Plan, loaded: LoadedData) -> float:
    """Seconds of one clean pass over the examples, measured on a part of them."""
    examples, part = loaded.train, min(len(loaded.train), MEASURED * plan.training.batch)
    model = plan.build(loaded, plan.model_seed)
    began = time.perf_counter()
    predict(model, examples.inputs[:part], prepare=examples.prepared, device=plan.training.device)
    return (time.perf_counter() - began) * len(examples) / part


def _bytes(folder: Path) -> int:
    """What the recording itself takes on disk."""
    parts = ("epochs", "checkpoints", "sums", "models", "folds")
    return sum(path.stat().st_size for part in parts for path in (folder / part).rglob("*") if path.is_file())
