"""How many seeds are needed to detect a difference."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.decision import Decision
from ..core.errors import UsageError
from ..core.trial import ALL, FEWEST, KEPT, RANDOM, Comparison
from ..maths import statistics
from ..policies import parse_live
from ..runs.artefacts import finished, load_claims, load_verdict
from ..runs.run import Run
from .claims import decision_key, turn_of
from .detection import check_dataset
from .plan import Plan, plan_of
from .trials import arms, finished_trial, redrawn, run_of, trial_file


@dataclasses.dataclass(frozen=True)
class SeedsNeeded:
    """How many seeds are needed to detect a difference.

    Attributes:
        points: The difference, in percentage points of test accuracy.
        seeds: Number of seeds that detects it with a power of 80 %, at least 3; None if it cannot be estimated or is above 10,000.
        spread: Standard deviation over seeds of the difference between two arms, in points; None where nothing was retrained yet.
        pilot: How many seeds `spread` was estimated from.
        sentence: The result as a sentence.
    """

    points: float
    seeds: int | None
    spread: float | None
    pilot: int
    sentence: str


@checked_arguments
def seeds_needed(
    decision: Decision, points: float, *, run: str | Path | Run | None = None, own: bool = False, control: str = ""
) -> SeedsNeeded:
    """How many seeds `verify` needs to find a difference in test accuracy with a power of 80 %, by the paired t-test.

    The spread of a difference over seeds is that of the retrainings in the run's folder: of this decision, where there are 3 seeds or
    more, else of all verdicts. The significance level is that of the first
    step of Holm's correction, within the share of 5 % that falls to the decision after those verified before (see `verify`).

    Args:
        decision: The decision to verify.
        points: The difference, in percentage points of test accuracy, above 0.
        run: The run that it was made from; by default the one its lineage names.
        own: Whether it will be verified by a function of your own, whose retrainings only verdicts keep.
        control: The second control that it will be verified against; empty for none.

    Raises:
        UsageError: A difference that is not above 0, or no run is named.
        Mismatch: The decision is of another dataset or recording.
    """
    if not 0 < points <= 100:
        raise UsageError(f"detect={points} is no difference in percentage points; give a number above 0 and up to 100.")
    opened = run_of(decision, run)
    check_dataset(opened, (), decision)
    plan = None if own else plan_of(opened)
    given = opened.labels[opened.ids.positions(decision.ids, f"run {opened.folder}")]
    spread, pilot = _spread(opened, decision, plan, given)
    asked = f"A difference of {points:g} points of test accuracy"
    if spread is None or not spread > 0:
        why = f"all {pilot} seeds so far differ by the same" if pilot else "nothing was retrained on this run yet"
        return SeedsNeeded(
            points, None, None, pilot,
            f"How many seeds {asked[0].lower()}{asked[1:]} takes cannot be said, because {why}; verify another decision of this run with 3 seeds "
            "first, and keep its retrainings.",
        )  # fmt: skip
    second = parse_live(control).title if control else ""
    this = decision_key(decision.fingerprint, own, (opened.header.seed or 0) + 1, second)
    _, share = turn_of(load_claims(opened.paths.claims), this)
    alpha = Comparison.alpha * share / (3 if control else 2)
    needed = statistics.pairs_needed(points / 100, spread, alpha)
    most = statistics.pairs_needed(points / 100, statistics.upper_spread(spread, pilot), alpha)
    told = "more than 10,000" if needed is None else f"{needed:,}"
    upper = "more than 10,000" if most is None else f"{most:,}"
    return SeedsNeeded(
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
            found = [finished_trial(trial_file(run, plan, arm, seed), arm.name, seed) for arm in trio]
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
