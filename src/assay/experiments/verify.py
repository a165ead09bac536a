"""Verify: was the decision right? Retraining over seeds, and the planted truth where there is one."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import threading
import time
import warnings
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
from ..core.arguments import checked_arguments
from ..core.decision import Action, Decision
from ..core.errors import AssayError, Mismatch, NotWritten, NumericalError, UsageError
from ..core.ids import Ids
from ..core.lineage import Lineage, fingerprint
from ..core.scores import Scores, ScoreTable
from ..core.trial import (
    ALL,
    FEWEST,
    KEPT,
    RANDOM,
    REMOVAL,
    Claim,
    Cleaning,
    Comparison,
    Detection,
    Look,
    Outcome,
    Verdict,
)
from ..maths import draws, ranking, statistics
from ..policies import parse
from ..replay.targets import mean_loss
from ..runs.artefacts import (
    finished,
    load_claims,
    load_outcome,
    load_scores,
    load_truth,
    load_verdict,
    save_claim,
    save_outcome,
)
from ..runs.run import Run
from ..training.loop import evaluate, train
from ..training.state import standing_at
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
    """The three arms of one seed: the decision; the same actions on examples drawn at random; every example as given.

    The random arm drops as many, weighs as many by the same weights, and relabels as many, each to another class than its given one,
    drawn evenly from the classes that there are.

    Args:
        decision: What is to be verified.
        given: Given labels, in the order of the decision's ids.
        seed: Of the random arm.
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


def control_of(decision: Decision) -> str:
    """What the random arm does, in words."""
    counts = decision.counts()
    words = {"drop": "removal", "relabel": "relabelling", "weight": "weighting"}
    acts = [word for action, word in words.items() if action in counts]
    return f"random {' and '.join(acts)} of equal size" if acts else REMOVAL


@checked_arguments
def verify(
    decision: Decision,
    *,
    run: str | Path | Run | None = None,
    scores: ScoreTable | Mapping[str, Scores] | None = None,
    truth: tuple[Ids, Int[Tensor, " examples"]] | None = None,
    retrain: Retrain | None = None,
    seeds: int = 5,
    after: int = 0,
    detect: float | None = None,
    pool: Executor | None = None,
    save: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> Verdict:
    """Retrain with the decision, with the same on random examples and with everything, over seeds; compare, paired by seed.

    Within a seed all arms start from the same weights and see the examples that they share in the same order. The random arm is drawn anew
    for each seed, and so is the decision where a policy with a seed made it by scores that are at hand: `scores`, or those saved in the run.

    What is called significant is corrected for everything that was asked of the run: both comparisons of the decision (Holm), its place in
    the order of the decisions that were verified on it, of which the k-th may spend 1 / (k (k + 1)) of the 5 % and what the one before passed on
    (`maths.statistics.share`), and earlier looks at the same decision with another number of seeds, of which each must have been
    significant. So a verdict stays what it is, whatever is verified later. For that the p-values of every verification with 3 or more seeds
    are kept in `verdicts/claims` of the run's folder, whether or not `save` is given.

    Args:
        decision: What to verify.
        run: The run that it was made from; by default the one its lineage names.
        scores: Scores to hold against the truth.
        truth: Ids and true labels; by default those kept beside the run.
        retrain: Your own training, for runs recorded in your own loop; by default the plan of the run is trained again. Called as
            `retrain(ids, labels, weights, seed)` with an `Ids`, the class to train each of these examples on (int64), the factor of each
            one's loss (float64) and the seed; returns the accuracy on test examples, in 0..1.
        seeds: How many seeds, at least 2; with 2 nothing is called significant. They are not the run's own seed, with which the decision was
            made. Fix the number before you look: more seeds for a decision that was looked at before make the interval narrower,
            and call nothing significant that was not so before.
        after: Leave out so many seeds, for instance those that were looked at before: fresh seeds are another claim.
        detect: A difference in percentage points of test accuracy, above 0. How many seeds find it with a power of 80 % is estimated from
            retrainings that the run's folder holds, and said in the verdict; too few `seeds` are warned of.
        pool: Where trials run: any `concurrent.futures.Executor`; by default in this process.
        save: Keep every finished retraining in the run's folder, and take from there what an earlier verification finished.
            Not with `retrain`, whose results cannot be told from those of another function.
        again: Train everything again, whatever finished retrainings the folder holds: nobody can tell a forged one from a real one.
        progress: Told of each finished retraining.

    Raises:
        UsageError: Fewer than 2 seeds, no plan and no `retrain`, a decision that keeps nothing or changes nothing, or one made by the
            very test examples that it would be judged by.
        Mismatch: The decision, the scores, the truth, the run and the data are not of the same dataset.
        RunError: What was asked of the run before is damaged.
        NotWritten: With `save`, a finished retraining cannot be kept. (P-values that cannot be kept are warned of.)
        TrialFailed: A retraining ended in an error; with path and tail of its log.
    """
    progress = progress or Progress()
    if seeds < 2:
        raise UsageError(f"seeds={seeds} cannot tell an effect from chance; give at least 2.")
    if after < 0:
        raise UsageError(f"after={after} leaves out less than no seed; give 0 or more.")
    if save and retrain is not None:
        raise UsageError("save=True cannot tell your retrain function from another one later; leave it out.")
    began = time.perf_counter()
    opened = _run_of(decision, run)
    if seeds >= FEWEST:
        # Damage is better known before hours of training.
        load_claims(opened.paths.claims)
    check_dataset(opened, (scores or {}).values(), decision)
    given = opened.labels[opened.ids.positions(decision.ids, f"run {opened.folder}")]
    check_verifiable(decision, given)
    known = truth if truth is not None else load_truth(opened.paths.truth) if opened.paths.truth.exists() else None
    detections: tuple[Detection, ...] = ()
    cleaning = None
    if known is not None:
        detections = detections_of((scores or {}).values(), opened, known)
        cleaning = clean(decision, given, known)
    plan = None if retrain is not None else plan_of(opened)
    if plan is not None:
        _check_judge(decision, plan)
    power = ""
    if detect is not None:
        need = seeds_needed(decision, detect, run=opened, own=retrain is not None)
        power = need.sentence
        if need.seeds is None or need.seeds > seeds:
            warnings.warn(f"{power} This verification has {seeds}.", stacklevel=3)
    base = opened.header.seed or 0
    first = base + 1 + after
    drawn = redrawn(decision, opened, (scores or {}).values())
    outcomes: list[Outcome] = []
    due: list[tuple[Arm, int, Path]] = []
    for seed in range(first, first + seeds):
        for arm in arms(drawn(seed) if drawn is not None else decision, given, seed):
            path = _trial(opened, plan, arm, seed)
            if save and not again and (outcome := _finished(path, arm.name, seed)) is not None:
                outcomes.append(outcome)
            else:
                due.append((arm, seed, path))
    for outcome, path in _trials(opened, plan, retrain, due, pool, outcomes, progress):
        outcomes.append(outcome)
        if save:
            save_outcome(outcome, path, path.parent.name)
    outcomes.sort(key=lambda one: ((KEPT, RANDOM, ALL).index(one.arm), one.seed))
    verdict = Verdict(
        decision=decision.title,
        outcomes=tuple(outcomes),
        comparisons=tuple(
            dataclasses.replace(compare(outcomes, KEPT, other), control=control_of(decision)) for other in (RANDOM, ALL)
        ),
        detections=detections,
        cleaning=cleaning,
        plan=plan.plain() if plan is not None else {"retrain": getattr(retrain, "__name__", "own function")},
        lineage=Lineage(
            dataset=opened.dataset,
            parents={"run": opened.fingerprint, "decision": decision.fingerprint},
            code=__version__,
            seed=first,
            device=plan.training.device if plan is not None else "",
            seconds=time.perf_counter() - began,
            folder=str(opened.folder),
        ),
        redrawn=drawn is not None,
        power=power,
    )
    if seeds >= FEWEST:
        try:
            _ask(opened, verdict)
        except NotWritten as error:
            # What was trained for hours must not be lost with it.
            warnings.warn(f"{error} So later verifications of this run are not corrected for this one.", stacklevel=3)
    return corrected(verdict, opened)


def check_verifiable(decision: Decision, given: Int[Tensor, " examples"]) -> None:
    """Refuse a decision of which retraining can show nothing.

    Raises:
        UsageError: It keeps no example, or every example stays as it is.
    """
    if not decision.budget:
        raise UsageError(
            f"The decision {decision.title} keeps none of {len(decision)} examples, so that there is nothing to train on; choose one that "
            "keeps some."
        )
    same = (decision.weights == 1) & ((decision.labels < 0) | (decision.labels == given))
    if bool(same.all()):
        raise UsageError(
            f"The decision {decision.title} leaves all {len(decision)} examples as they are, so that there is nothing to verify; choose one "
            "that drops, relabels or weighs some."
        )


def redrawn(decision: Decision, run: Run, scores: Iterable[Scores] = ()) -> Callable[[int], Decision] | None:
    """How a decision that a policy with a seed drew is drawn anew for a trial's seed; None where it cannot be.

    It cannot where the policy draws nothing, the scores that it was made by are not at hand, or the policy does not come to this decision
    by its own seed, as after a change by hand.
    """
    from .choose import choose

    options = dict(decision.options)
    made_by = decision.lineage.parents.get("scores") if decision.lineage is not None else None
    own = options.get("seed")
    if not isinstance(own, int) or made_by is None:
        return None
    by = next((one for one in scores if one.made(made_by)), None)
    if by is None:
        # A score that cannot be read is none that the decision can be drawn by.
        saved = (finished(load_scores, path) for path in sorted(run.paths.scores("x").parent.glob("*.parquet")))
        by = next((one for one in saved if one is not None and one.made(made_by)), None)
    if by is None:
        return None

    def draw(seed: int) -> Decision:
        return choose(by, parse(decision.policy, {**options, "seed": seed}), run=run)

    try:
        same = draw(own).fingerprint == decision.fingerprint
    except AssayError:
        return None
    return (lambda seed: draw(draws.integer(own, "decision drawn anew", seed))) if same else None


def _trial(run: Run, plan: Plan | None, arm: Arm, seed: int) -> Path:
    """Where a retraining is kept."""
    how = [json.dumps(plan.plain(), sort_keys=True), material_of(plan).content] if plan else ["own"]
    return run.paths.trial(fingerprint(*how, __version__, arm.fingerprint), arm.name, seed)


def _finished(path: Path, arm: str, seed: int) -> Outcome | None:
    """A retraining that is kept there, if it is of what its place says and no copy of another."""
    return finished(functools.partial(load_outcome, made_of=path.parent.name, arm=arm, seed=seed), path)


@dataclasses.dataclass(frozen=True)
class Need:
    """How many seeds a difference takes.

    Attributes:
        points: The difference, in percentage points of test accuracy.
        seeds: How many find it with a power of 80 %, at least 3; None where it cannot be said or is above 10,000.
        spread: Standard deviation over seeds of the difference between two arms, in points; None where nothing was retrained yet.
        pilot: How many seeds it was estimated from.
        sentence: All of it in words.
    """

    points: float
    seeds: int | None
    spread: float | None
    pilot: int
    sentence: str


@checked_arguments
def seeds_needed(decision: Decision, points: float, *, run: str | Path | Run | None = None, own: bool = False) -> Need:
    """How many seeds `verify` needs to find a difference in test accuracy with a power of 80 %, by the paired t-test.

    The spread of a difference over seeds is that of the retrainings in the run's folder: of this decision, where there are 3 seeds or
    more, else of all verdicts. The level is that of the first step of Holm's correction, at the decision's turn among those verified before.

    Args:
        decision: What is to be verified.
        points: The difference, in percentage points of test accuracy, above 0.
        run: The run that it was made from; by default the one its lineage names.
        own: Whether it will be verified by a function of your own, whose retrainings only verdicts keep.

    Raises:
        UsageError: A difference that is not above 0, or no run is named.
        Mismatch: The decision is of another dataset or recording.
    """
    if not 0 < points <= 100:
        raise UsageError(f"detect={points} is no difference in percentage points; give a number above 0 and up to 100.")
    opened = _run_of(decision, run)
    check_dataset(opened, (), decision)
    plan = None if own else plan_of(opened)
    given = opened.labels[opened.ids.positions(decision.ids, f"run {opened.folder}")]
    spread, pilot = _spread(opened, decision, plan, given)
    asked = f"A difference of {points:g} points of test accuracy"
    if spread is None or not spread > 0:
        why = f"all {pilot} seeds so far differ by the same" if pilot else "nothing was retrained on this run yet"
        return Need(
            points, None, None, pilot,
            f"How many seeds {asked[0].lower()}{asked[1:]} takes cannot be said, because {why}; verify another decision of this run with 3 seeds "
            "first, and keep its retrainings.",
        )  # fmt: skip
    this = _key(decision.fingerprint, own, (opened.header.seed or 0) + 1)
    _, share = _turn(load_claims(opened.paths.claims), this)
    alpha = Comparison.alpha * share / 2
    needed = statistics.pairs_needed(points / 100, spread, alpha)
    most = statistics.pairs_needed(points / 100, statistics.upper_spread(spread, pilot), alpha)
    told = "more than 10,000" if needed is None else f"{needed:,}"
    upper = "more than 10,000" if most is None else f"{most:,}"
    return Need(
        points, needed, 100 * spread, pilot,
        f"{asked} takes about {told} seeds to be found in 80 % of cases (up to {upper}, as far as {pilot} seeds tell): it spreads by "
        f"{100 * spread:.2f} points over seeds.",
    )  # fmt: skip


def _spread(run: Run, decision: Decision, plan: Plan | None, given: Tensor) -> tuple[float | None, int]:
    """Standard deviation over seeds of the difference between two arms, as a fraction, and from how many seeds."""
    base = run.header.seed or 0
    if plan is not None:
        again, rows = redrawn(decision, run), []
        for seed in itertools.count(base + 1):
            trio = arms(again(seed) if again is not None else decision, given, seed)
            found = [_finished(_trial(run, plan, arm, seed), arm.name, seed) for arm in trio]
            if any(one is None for one in found):
                break
            rows.append([one.accuracy for one in found if one is not None])
        if len(rows) >= FEWEST:
            kept, random, everything = np.array(rows).T
            return float(max((kept - random).std(ddof=1), (kept - everything).std(ddof=1))), len(rows)
    variances, degrees = [], 0
    for path in sorted(run.paths.verdict("x").parent.glob("*.json")):
        verdict = finished(load_verdict, path)
        if verdict is None or not verdict.comparisons or (plan is None) != ("retrain" in verdict.plan):
            continue
        seeds = sorted({one.seed for one in verdict.outcomes})
        accuracy = {(one.arm, one.seed): one.accuracy for one in verdict.outcomes}
        if len(seeds) < FEWEST:
            continue
        pairs = [np.array([accuracy[KEPT, seed] - accuracy[other, seed] for seed in seeds]) for other in (RANDOM, ALL)]
        variances.append((len(seeds) - 1) * max(float(one.var(ddof=1)) for one in pairs))
        degrees += len(seeds) - 1
    return (math.sqrt(sum(variances) / degrees), degrees + 1) if degrees else (None, 0)


def _key(decision: str, own: bool, first: int) -> str:
    """What a claim is known by: the decision's fingerprint, how it is trained, and the first seed."""
    return fingerprint(decision, "own" if own else "plan", str(first))


def _made_of(verdict: Verdict) -> str:
    assert verdict.lineage is not None and verdict.lineage.seed is not None
    return _key(verdict.lineage.parents["decision"], "retrain" in verdict.plan, verdict.lineage.seed)


def _look(verdict: Verdict) -> Look:
    measured = repr([(one.arm, one.seed, one.accuracy) for one in verdict.outcomes])
    return Look(verdict.comparisons[0].n, fingerprint(measured), tuple(one.p for one in verdict.comparisons))


def _ask(run: Run, verdict: Verdict) -> None:
    """Keep what was asked, so that whatever is asked later is corrected for it.

    Raises:
        NotWritten: The operating system refuses.
        RunError: What was asked before is damaged.
    """
    made_of = _made_of(verdict)
    claims = {one.made_of: one for one in load_claims(run.paths.claims)}
    claim = claims.get(made_of) or Claim(verdict.decision, made_of, place=_turn(claims.values(), made_of)[0])
    seen = claim.seen(_look(verdict))
    if seen is not claim:
        save_claim(seen, run.paths.claim(made_of))


def _turn(claims: Iterable[Claim], made_of: str) -> tuple[int, float]:
    """Which claim of its run this is, and the part of the level that it may spend; one that was not asked yet is the next."""
    earlier, place = {}, 0
    # Those of an older assay know no place and were first; two that were asked in the same moment have the same.
    for one in sorted(claims, key=lambda claim: (claim.place, claim.made_of)):
        place = max(place + 1, one.place)
        if one.made_of == made_of:
            break
        # The first look, so that later ones change nothing of what was said of the decisions that follow.
        earlier[place] = one.looks[0].ps
    else:
        place += 1
    return place, statistics.share(place, earlier, Comparison.alpha)


def corrected(verdict: Verdict, run: Run) -> Verdict:
    """The verdict with its p corrected for everything that was asked of its run before it; as it is where it cannot claim anything.

    Raises:
        RunError: What was asked is damaged.
    """
    lineage = verdict.lineage
    if not verdict.comparisons or lineage is None or "decision" not in lineage.parents or lineage.seed is None:
        return verdict
    if any(one.n < FEWEST for one in verdict.comparisons):
        return verdict
    made_of, look = _made_of(verdict), _look(verdict)
    claims = {one.made_of: one for one in load_claims(run.paths.claims)}
    place, share = _turn(claims.values(), made_of)
    mine = claims[made_of] = claims.get(made_of, Claim(verdict.decision, made_of, place=place)).seen(look)
    looks = tuple(sorted(one.seeds for one in mine.looks if one != look))
    ps = [min(1.0, p / share) for p in statistics.holm(mine.ps)]
    return dataclasses.replace(
        verdict,
        comparisons=tuple(
            dataclasses.replace(one, adjusted=p, family=len(ps), looks=looks, place=place, share=share)
            for one, p in zip(verdict.comparisons, ps, strict=True)
        ),
        decisions=len(claims),
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
    found = statistics.paired([by_seed[0][seed] for seed in common], [by_seed[1][seed] for seed in common])
    low, high = found.interval if found.interval is not None else (None, None)
    return Comparison(treatment, baseline, found.effect, low, high, found.p, found.test, found.n)


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
        now = [one for one in scores if decision.title.endswith(f" by {one.title}")]
        if now and "scores" in made_of and not any(one.made(made_of["scores"]) for one in now):
            what = f"by scores {made_of['scores']}, which are now {', '.join(one.fingerprint for one in now)}"
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
    said: object = retrain(arm.ids, arm.labels, arm.weights, seed)
    try:
        # Whether something succeeded, and a text, would pass for numbers.
        accuracy = math.nan if isinstance(said, (bool, np.bool_, str, bytes)) else float(said)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        accuracy = math.nan
    if not 0 <= accuracy <= 1:
        raise NumericalError(f"retrain returned {said!r:.100} for arm {arm.name}, seed {seed}; return an accuracy in 0..1.")
    return Outcome(arm.name, seed, accuracy, None, len(arm.ids), None, time.perf_counter() - began)
