"""Verify: was the decision right? Retraining over seeds, and the planted truth where there is one."""

import dataclasses
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.decision import Decision
from ..core.errors import NotWritten, UsageError
from ..core.ids import Ids
from ..core.lineage import Lineage
from ..core.scores import Scores, ScoreTable
from ..core.trial import ALL, FEWEST, KEPT, RANDOM, Comparison, Detection, Outcome, Verdict
from ..maths import statistics
from ..runs.artefacts import load_claims, load_truth, save_outcome
from ..runs.run import Run
from .claims import ask, corrected
from .detection import check_dataset, check_judge, clean, detections_of
from .plan import plan_of
from .power import seeds_needed
from .progress import Progress
from .trials import Arm, Retrain, arms, control_of, finished_trial, redrawn, run_of, run_trials, trial_file


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
    recompute: bool = False,
    progress: Progress | None = None,
) -> Verdict:
    """Retrain after the decision, after the same actions on random examples, and on all examples, over seeds; compare, paired by seed.

    Within a seed all arms start from the same weights and see the examples that they share in the same order. The random arm is drawn anew
    for each seed, and so is a decision that a policy drew at random, if the scores that it used are available: in `scores`, or saved in the run.

    Significance is corrected for everything that was tested on the run: for both comparisons of the decision (Holm); for its place in
    the order of the decisions verified on the run, of which the k-th may spend 1 / (k (k + 1)) of the 5 % plus what the one before passed on
    (`maths.statistics.share`); and for earlier looks at the same decision with another number of seeds, each of which must have been
    significant. So a verdict stays what it is, whatever is verified later. For that the p-values of every verification with 3 or more seeds
    are kept in `verdicts/claims` of the run's folder, whether or not `save` is given.

    Args:
        decision: The decision to verify.
        run: The run that it was made from; by default the one its lineage names.
        scores: Scores whose ranking of wrong labels is compared with the truth.
        truth: Ids and true labels; by default those kept beside the run.
        retrain: Your own training, for runs recorded in your own loop; by default the plan of the run is used. Called as
            `retrain(ids, labels, weights, seed)` with an `Ids`, the class to train each of these examples on (int64), the factor of each
            example's loss (float64) and the seed; returns the accuracy on test examples, in 0..1.
        seeds: How many seeds, at least 2; with 2 nothing is called significant. They are not the run's own seed, with which the decision was
            made. Fix the number before you see a result: more seeds for a decision that was verified before make the interval narrower, but
            make nothing significant that was not so before.
        after: Number of seeds to skip, for instance those that were used before; new seeds make a new claim.
        detect: A difference in percentage points of test accuracy, above 0. The number of seeds that detects it with a power of 80 % is estimated
            from retrainings that the run's folder holds, and said in the verdict; too few `seeds` give a warning.
        pool: Where trials run: any `concurrent.futures.Executor`; by default in this process.
        save: Keep every finished retraining in the run's folder, and take from there what an earlier verification finished.
            Not with `retrain`, since a later call cannot check that its function is the same.
        recompute: Do every retraining again, even those that the folder already holds: a forged result looks like a real one.
        progress: Receives each finished retraining.

    Raises:
        UsageError: Fewer than 2 seeds, no plan and no `retrain`, a decision that keeps nothing or changes nothing, or one made by the
            very test examples that it would be judged by.
        Mismatch: The decision, the scores, the truth, the run and the data are not of the same dataset.
        RunError: The saved record of earlier verifications is damaged.
        NotWritten: With `save`, a finished retraining cannot be kept. (P-values that cannot be kept are warned of.)
        TrialFailed: A retraining ended in an error; with path and tail of its log.
    """
    progress = progress or Progress()
    if seeds < 2:
        raise UsageError(f"seeds={seeds} cannot tell an effect from chance; give at least 2.")
    if after < 0:
        raise UsageError(f"after={after} leaves out less than no seed; give 0 or more.")
    if save and retrain is not None:
        raise UsageError(
            "save=True does not go with retrain=, since a later call cannot check that its function is the same; leave it out."
        )
    began = time.perf_counter()
    opened = run_of(decision, run)
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
        check_judge(decision, plan)
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
            path = trial_file(opened, plan, arm, seed)
            if save and not recompute and (outcome := finished_trial(path, arm.name, seed)) is not None:
                outcomes.append(outcome)
            else:
                due.append((arm, seed, path))
    for outcome, path in run_trials(opened, plan, retrain, due, pool, outcomes, progress):
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
            ask(opened, verdict)
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
