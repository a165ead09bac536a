"""The decisions that were tested on one recording, saved so that their p-values are corrected together."""

import dataclasses
from collections.abc import Iterable

from ..core.lineage import fingerprint
from ..core.trial import FEWEST, Claim, Comparison, Look, Verdict
from ..maths import statistics
from ..runs.artefacts import load_claims, save_claim
from ..runs.run import Run


def decision_key(decision: str, own: bool, first: int, control: str = "") -> str:
    """Key of a claim: the decision's fingerprint, whether the user's `own` function or the plan retrains, the first seed, and a second control.

    With a second control a verification makes another claim, of three comparisons, and has a turn of its own.
    """
    return fingerprint(decision, "own" if own else "plan", str(first), *((control,) if control else ()))


def decision_fingerprint(verdict: Verdict) -> str:
    """Key of the claim that a verdict makes (see `decision_key`)."""
    assert verdict.lineage is not None and verdict.lineage.seed is not None
    return decision_key(verdict.lineage.parents["decision"], "retrain" in verdict.plan, verdict.lineage.seed, verdict.control)


def look_of(verdict: Verdict) -> Look:
    """One look at a claim, from a verdict: the number of seeds, a fingerprint of the accuracies, and the p-values."""
    measured = repr([(one.arm, one.seed, one.accuracy) for one in verdict.outcomes])
    return Look(verdict.comparisons[0].n, fingerprint(measured), tuple(one.p for one in verdict.comparisons))


def ask(run: Run, verdict: Verdict) -> None:
    """Save the claim of a verdict in the run's folder, so that later verdicts are corrected for it.

    Raises:
        NotWritten: The operating system refuses.
        RunError: The saved claims are damaged.
    """
    made_of = decision_fingerprint(verdict)
    claims = {one.made_of: one for one in load_claims(run.paths.claims)}
    claim = claims.get(made_of) or Claim(verdict.decision, made_of, place=turn_of(claims.values(), made_of)[0])
    seen = claim.seen(look_of(verdict))
    if seen is not claim:
        save_claim(seen, run.paths.claim(made_of))


def turn_of(claims: Iterable[Claim], made_of: str) -> tuple[int, float]:
    """Position of a claim among its run's claims, and its share of the significance level; a claim that is not saved yet comes next."""
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
    """The verdict with its p-values corrected for all earlier claims of its run; unchanged where it cannot call anything significant.

    Raises:
        RunError: The saved claims are damaged.
    """
    lineage = verdict.lineage
    if not verdict.comparisons or lineage is None or "decision" not in lineage.parents or lineage.seed is None:
        return verdict
    if any(one.n < FEWEST for one in verdict.comparisons):
        return verdict
    made_of, look = decision_fingerprint(verdict), look_of(verdict)
    claims = {one.made_of: one for one in load_claims(run.paths.claims)}
    place, share = turn_of(claims.values(), made_of)
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
