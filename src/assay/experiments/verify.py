"""Verify: was the decision right? Retraining over seeds, and the planted truth where there is one."""

import contextlib
import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from .. import __version__
from ..cluster.executors import Call, executor, run_all
from ..core.decision import Decision
from ..core.errors import Mismatch, NumericalError, UsageError
from ..core.ids import Ids
from ..core.lineage import Lineage, fingerprint
from ..core.scores import Scores, ScoreTable
from ..core.trial import ALL, KEPT, RANDOM, Cleaning, Comparison, Detection, Outcome, Verdict
from ..maths import draws, ranking, statistics
from ..runs.artefacts import finished, load_outcome, load_truth, save_outcome
from ..runs.run import Run
from ..training.functional import standing_at
from ..training.loop import evaluate, train
from .again import mean_loss
from .plan import Plan, material_of, plan_of
from .progress import Progress

INSPECTED = 0.2
"""Part of the ranking within which `Detection.recovered` counts."""

Retrain = Callable[[Ids, Int[Tensor, " kept"], Float64[Tensor, " kept"], int], float]
"""`retrain(ids, labels, weights, seed)` trains on exactly these examples and returns the accuracy on test examples, in 0..1."""


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """What one arm trains on.

    Attributes:
        name: `kept`, `random` or `all`.
        ids: The examples that take part.
        labels: The class to train each on.
        weights: Factor of each one's loss.
    """

    name: str
    ids: Ids
    labels: Int[Tensor, " kept"]
    weights: Float64[Tensor, " kept"]

    @property
    def fingerprint(self) -> str:
        """Hash over everything that the arm trains on."""
        return fingerprint(self.ids.fingerprint, self.labels.numpy().tobytes(), self.weights.numpy().tobytes())

    def __reduce__(self):
        # torch sends tensors to other processes through shared memory, which small containers lack and which a worker that is
        # ended half-way leaves with a traceback.
        return _arm, (self.name, self.ids.values, self.labels.numpy(), self.weights.numpy())


def _arm(name: str, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Arm:
    return Arm(name, Ids(ids), torch.from_numpy(labels), torch.from_numpy(weights))


def arms(decision: Decision, given: Int[Tensor, " examples"], seed: int) -> list[Arm]:
    """The three arms of one seed: the decision; as many examples dropped at random as it touches; every example as given.

    Args:
        decision: What is to be verified.
        given: Given labels, in the order of the decision's ids.
        seed: Of the random removal.
    """
    labels = torch.where(decision.labels >= 0, decision.labels, given)
    kept = decision.kept
    touched = int(decision.touched.sum())
    order = draws.permutation(decision.ids.keys, seed, "random removal")
    stays = torch.ones(len(decision), dtype=torch.bool)
    stays[order[:touched]] = False
    ones = torch.ones(len(decision), dtype=torch.float64)
    return [
        Arm(KEPT, decision.ids.take(kept), labels[kept], decision.weights[kept]),
        Arm(RANDOM, decision.ids.take(stays), given[stays], ones[stays]),
        Arm(ALL, decision.ids, given, ones),
    ]


def verify(
    decision: Decision,
    *,
    run: str | Path | Run | None = None,
    scores: ScoreTable | Mapping[str, Scores] | None = None,
    truth: tuple[Ids, Int[Tensor, " examples"]] | None = None,
    retrain: Retrain | None = None,
    seeds: int = 5,
    pool: Executor | None = None,
    save: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> Verdict:
    """Retrain with the decision, with random removal of equal size and with everything, over seeds; compare, paired by seed.

    Within a seed all arms start from the same weights and see the examples that they share in the same order.

    Args:
        decision: What to verify.
        run: The run that it was made from; by default the one its lineage names.
        scores: Scores to hold against the truth.
        truth: Ids and true labels; by default those kept beside the run.
        retrain: Your own training, for runs recorded in your own loop; by default the plan of the run is trained again.
        seeds: How many seeds, at least 2. They are not the run's own seed, with which the decision was made.
        pool: Where trials run: any `concurrent.futures.Executor`; by default in this process.
        save: Keep every finished retraining in the run's folder, and take from there what an earlier verification finished.
            Not with `retrain`, whose results cannot be told from those of another function.
        again: Train everything again, whatever finished retrainings the folder holds: nobody can tell a forged one from a real one.
        progress: Told of each finished retraining.

    Raises:
        UsageError: Fewer than 2 seeds, no plan and no `retrain`, a decision that leaves an arm without examples, or one made by the
            very test examples that it would be judged by.
        Mismatch: The decision, the scores, the truth, the run and the data are not of the same dataset.
        TrialFailed: A retraining ended in an error; with path and tail of its log.
    """
    progress = progress or Progress()
    if seeds < 2:
        raise UsageError(f"seeds={seeds} cannot tell an effect from chance; give at least 2.")
    if save and retrain is not None:
        raise UsageError("save=True cannot tell your retrain function from another one later; leave it out.")
    began = time.perf_counter()
    opened = _run_of(decision, run)
    check_dataset(opened, (scores or {}).values(), decision)
    if not decision.budget or bool(decision.touched.all()):
        raise UsageError(
            f"The decision {decision.title} keeps {decision.budget} and touches {int(decision.touched.sum())} of "
            f"{len(decision)} examples, so one of the arms has nothing to train on; choose one that leaves some as they are."
        )
    given = opened.labels[opened.ids.positions(decision.ids, f"run {opened.folder}")]
    known = truth if truth is not None else load_truth(opened.paths.truth) if opened.paths.truth.exists() else None
    detections: tuple[Detection, ...] = ()
    cleaning = None
    if known is not None:
        detections = detections_of((scores or {}).values(), opened, known)
        cleaning = clean(decision, given, known)
    plan = None if retrain is not None else plan_of(opened)
    if plan is not None:
        _check_judge(decision, plan)
    base = opened.header.seed or 0
    outcomes: list[Outcome] = []
    due: list[tuple[Arm, int, Path]] = []
    for seed in range(base + 1, base + 1 + seeds):
        for arm in arms(decision, given, seed):
            how = [json.dumps(plan.plain(), sort_keys=True), material_of(plan).content] if plan else ["own"]
            path = opened.paths.trial(fingerprint(*how, __version__, arm.fingerprint), arm.name, seed)
            if save and not again and (outcome := finished(load_outcome, path)) is not None:
                outcomes.append(outcome)
            else:
                due.append((arm, seed, path))
    for outcome, path in _trials(opened, plan, retrain, due, pool, outcomes, progress):
        outcomes.append(outcome)
        if save:
            save_outcome(outcome, path)
    outcomes.sort(key=lambda one: ((KEPT, RANDOM, ALL).index(one.arm), one.seed))
    return Verdict(
        decision=decision.title,
        outcomes=tuple(outcomes),
        comparisons=(compare(outcomes, KEPT, RANDOM), compare(outcomes, KEPT, ALL)),
        detections=detections,
        cleaning=cleaning,
        plan=plan.plain() if plan is not None else {"retrain": getattr(retrain, "__name__", "own function")},
        lineage=Lineage(
            dataset=opened.dataset,
            parents={"run": opened.fingerprint, "decision": decision.fingerprint},
            code=__version__,
            seed=base + 1,
            device=plan.training.device if plan is not None else "",
            seconds=time.perf_counter() - began,
            folder=str(opened.folder),
        ),
    )


def compare(outcomes: Sequence[Outcome], treatment: str, baseline: str) -> Comparison:
    """Test accuracy of two arms, paired over the seeds that both have.

    Raises:
        UsageError: Fewer than 2 seeds in common.
    """
    by_seed = [{one.seed: one.accuracy for one in outcomes if one.arm == arm} for arm in (treatment, baseline)]
    common = sorted(by_seed[0].keys() & by_seed[1].keys())
    if len(common) < 2:
        raise UsageError(f"{treatment} and {baseline} have {len(common)} seeds in common; verify with at least 2.")
    a, b = ([arm[seed] for seed in common] for arm in by_seed)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    low, high = statistics.bootstrap_interval(differences)
    p, test = statistics.paired_test(a, b)
    return Comparison(treatment, baseline, float(np.mean(differences)), low, high, p, test, len(common))


def check_dataset(run: Run, scores: Iterable[Scores], decision: Decision | None = None) -> None:
    """Refuse scores and decisions of another dataset than the run's, and a decision of another recording or of other scores.

    Raises:
        Mismatch: The first that does not belong.
    """
    scores = list(scores)
    parts = [(f"scores {one.title} are of", one.lineage, "score") for one in scores]
    parts += [(f"decision {decision.title} is on", decision.lineage, "choose")] if decision is not None else []
    for what, lineage, verb in parts:
        if lineage is not None and lineage.dataset and lineage.dataset != run.dataset:
            raise Mismatch(
                f"The {what} dataset {lineage.dataset}, {run.folder} recorded {run.dataset}; {verb} again from this run."
            )
    made_of = decision.lineage.parents if decision is not None and decision.lineage is not None else {}
    what = ""
    if made_of.get("run", run.fingerprint) != run.fingerprint:
        # A run that was resumed after the decision, or a copy of a decision in another run.
        what = f"from recording {made_of['run']}, {run.folder} holds {run.fingerprint}"
    elif decision is not None:
        now = {one.fingerprint for one in scores if decision.title.endswith(f" by {one.title}")}
        if now and made_of.get("scores", *now) not in now:
            what = f"by scores {made_of['scores']}, which are now {', '.join(now)}"
    if what:
        raise Mismatch(f"The decision {decision.title} was made {what}; choose again.")  # type: ignore[union-attr]


def _check_judge(decision: Decision, plan: Plan) -> None:
    """Refuse a decision that was made by what it would be judged by."""
    parents = decision.lineage.parents if decision.lineage is not None else {}
    targets = {name: value for name, value in parents.items() if name.startswith("target ")}
    if targets and (judge := mean_loss(material_of(plan).test, "test").fingerprint) in targets.values():
        (name, *_) = (name for name, value in targets.items() if value == judge)
        raise UsageError(
            f"The decision {decision.title} was made by {name}, which are the test examples that it would be judged by; score by "
            "target=validation and choose again."
        )


def detections_of(scores: Iterable[Scores], run: Run, truth: tuple[Ids, Int[Tensor, " examples"]]) -> tuple[Detection, ...]:
    """One detection per score; none for scores of right labels only, or of wrong ones only: there is nothing to tell apart.

    Raises:
        Mismatch: An example has no truth, or was not recorded.
    """
    return tuple(detect(one, run, truth) for one in scores if 0 < int(wrong_labels(one.ids, run, truth).sum()) < len(one))


def detect(scores: Scores, run: Run, truth: tuple[Ids, Int[Tensor, " examples"]]) -> Detection:
    """How well a score ranks the wrong labels of a run first.

    Raises:
        Mismatch: An example has no truth, or was not recorded.
        UsageError: No label is wrong, or all are.
    """
    wrong = wrong_labels(scores.ids, run, truth)
    if not bool(wrong.any()) or bool(wrong.all()):
        raise UsageError(f"{int(wrong.sum())} of {len(wrong)} labels are wrong; detection needs wrong ones among right ones.")
    suspicion = scores.hardness()
    return Detection(
        title=scores.title,
        auc=ranking.auc(suspicion, wrong),
        average_precision=ranking.average_precision(suspicion, wrong),
        precision_at_planted=ranking.precision_at(suspicion, wrong, int(wrong.sum())),
        recovered=ranking.recovered_fraction(suspicion, wrong, INSPECTED),
        claims_suspicion=scores.direction.ranks_suspects,
        curve=ranking.detection_curve(suspicion, wrong),
    )


def wrong_labels(ids: Ids, run: Run, truth: tuple[Ids, Int[Tensor, " examples"]]) -> Tensor:
    """Which of these examples have a given label that is not the true one.

    Raises:
        Mismatch: An example has no truth, or was not recorded.
    """
    given = run.labels[run.ids.positions(ids, f"run {run.folder}")]
    return given != truth[1][truth[0].positions(ids, "the truth")]


def clean(decision: Decision, given: Int[Tensor, " examples"], truth: tuple[Ids, Int[Tensor, " examples"]]) -> Cleaning:
    """The decision against the truth.

    Raises:
        Mismatch: An example has no truth.
    """
    true = truth[1][truth[0].positions(decision.ids, "the truth")]
    wrong = given != true
    return Cleaning(
        planted=int(wrong.sum()),
        touched=int(decision.touched.sum()),
        hit=int((wrong & decision.touched).sum()),
        mended=int((wrong & (decision.labels == true)).sum()),
    )


def _run_of(decision: Decision, run: str | Path | Run | None) -> Run:
    if isinstance(run, Run):
        return run
    folder = run if run is not None else decision.lineage.folder if decision.lineage is not None else ""
    if not folder:
        raise UsageError("The decision names no run; give run=PATH of the run that it was made from.")
    return Run(folder)


def _trials(
    run: Run,
    plan: Plan | None,
    retrain: Retrain | None,
    due: Sequence[tuple[Arm, int, Path]],
    pool: Executor | None,
    done: Sequence[Outcome],
    progress: Progress,
) -> Iterator[tuple[Outcome, Path]]:
    total = len(due) + len(done)
    progress.advance("verify", len(done), total, "taken from an earlier verification" if done else "")
    calls, paths = [], {}
    for arm, seed, path in due:
        name = f"{arm.name}-{seed}"
        paths[name] = path
        work = (train_arm, (plan.plain(), arm, seed)) if plan is not None else (_own, (retrain, arm, seed))
        calls.append(Call(name, *work))
    finished = len(done)
    with contextlib.ExitStack() as stack:
        if pool is None:
            pool = stack.enter_context(executor("inline"))
        for name, outcome in run_all(pool, calls, run.paths.logs):
            finished += 1
            progress.advance(
                "verify", finished, total, f"{outcome.arm}, seed {outcome.seed}: test accuracy {outcome.accuracy:.4f}"
            )
            yield outcome, paths[name]


TURN = threading.Lock()
"""torch's random generator is one per process, so that trials in threads of one process must take turns."""


def train_arm(plain: Mapping[str, Any], arm: Arm, seed: int, steps: int | None = None) -> Outcome:
    """One retraining by the plan: the arm's examples, fresh weights, the accuracy after the last epoch, or after so many steps.

    Raises:
        AssayError: As `training.loop.train`.
    """
    with TURN:
        return _trained(Plan.make(plain), arm, seed, steps)


def _trained(plan: Plan, arm: Arm, seed: int, steps: int | None) -> Outcome:
    began = time.perf_counter()
    material = material_of(plan)
    recipe = plan.recipe_with(seed)
    examples = material.train.take(material.train.ids.positions(arm.ids, plan.data))
    model = plan.build(material, seed)
    weights = None if bool((arm.weights == 1).all()) else arm.weights.to(torch.float32)
    state = train(
        model,
        examples.inputs,
        arm.labels,
        examples.ids,
        recipe,
        prepare=examples.prepared,
        augment=plan.augmentation(material, seed),
        weights=weights,
        steps=steps,
    )
    test = material.test
    with standing_at(model, state.averages):
        accuracy, loss = evaluate(model, test.inputs, test.labels, prepare=test.prepared, device=recipe.device)
    return Outcome(arm.name, seed, accuracy, loss, len(arm.ids), state.steps, time.perf_counter() - began)


def _own(retrain: Retrain, arm: Arm, seed: int) -> Outcome:
    began = time.perf_counter()
    accuracy = float(retrain(arm.ids, arm.labels, arm.weights, seed))
    if not math.isfinite(accuracy) or not 0 <= accuracy <= 1:
        raise NumericalError(f"retrain returned {accuracy} for arm {arm.name}, seed {seed}; return an accuracy in 0..1.")
    return Outcome(arm.name, seed, accuracy, None, len(arm.ids), None, time.perf_counter() - began)
