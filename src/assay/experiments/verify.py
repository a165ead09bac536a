"""Verify: was the decision right? Retraining over seeds, and the planted truth where there is one."""

import dataclasses
import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments, checked_fields, moved_keywords
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
from .execution import MOVED, RECOMPUTE, Execution, Save, check_save
from .plan import Plan, load_data, plan_of
from .power import seeds_needed
from .trials import (
    Arm,
    Retrain,
    arms,
    control_arm,
    control_of,
    finished_trial,
    live_control,
    redrawn,
    run_of,
    run_trials,
    trial_file,
)


@dataclasses.dataclass(frozen=True)
@checked_fields
class Seeds:
    """The seeds over which a decision is verified; where the other settings are left out, their number alone says so.

    Attributes:
        number: How many, at least 2; with 2 nothing is called significant. They are not the run's own seed, with which the decision was
            made. Fix the number before you see a result: more seeds for a decision that was verified before make the interval narrower, but
            make nothing significant that was not so before.
        after: Number of seeds to skip, for instance those that were used before; new seeds make a new claim.
        detect: A difference in percentage points of test accuracy, above 0. The number of seeds that detects it with a power of 80 % is estimated
            from retrainings that the run's folder holds, and said in the verdict; too few seeds give a warning.
        control: A second control beside random removal: a live selector such as `"rs2"`, which trains every epoch on as many examples as the decision
            keeps, chosen anew from all, in as many steps. Its p is corrected together with the others.

    Raises:
        UnknownName: There is no such live selector or option.
        UsageError: Fewer than 2 seeds, or a setting is of a wrong kind or outside its range.
    """

    number: int = 5
    after: int = 0
    detect: float | None = None
    control: str | None = None

    def __post_init__(self):
        if self.number < 2:
            raise UsageError(f"seeds={self.number} cannot tell an effect from chance; give at least 2.")
        if self.after < 0:
            raise UsageError(f"after={self.after} leaves out less than no seed; give 0 or more.")
        if self.control is not None:
            live_control(self.control, 2, 1)


@moved_keywords(MOVED | RECOMPUTE | dict.fromkeys(("after", "detect"), "seeds=assay.Seeds(NUMBER, {name}=...)"))
@checked_arguments
def verify(
    decision: Decision,
    *,
    run: str | Path | Run | None = None,
    scores: ScoreTable | Mapping[str, Scores] | None = None,
    truth: tuple[Ids, Int[Tensor, " examples"]] | None = None,
    retrain: Retrain | None = None,
    seeds: int | Seeds = 5,
    save: Save = False,
    execution: Execution | None = None,
) -> Verdict:
    """Retrain after the decision, after the same actions on random examples, and on all examples, over seeds; compare, paired by seed.

        verdict = assay.verify(decision, seeds=assay.Seeds(5, control="rs2"), save=True)

    Within a seed all arms start from the same weights and see the examples that they share in the same order. The random arm is drawn anew
    for each seed, and so is a decision that a policy drew at random, if the scores that it used are available: in `scores`, or saved in the run.

    Significance is corrected for everything that was tested on the run: for all comparisons of the decision (Holm); for its place in
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
            example's loss (float64) and the seed; returns the accuracy on test examples, in 0..1. With a second control it must take `each_epoch` too: for
            that control a function whose call `each_epoch(epoch)` gives the positions in `ids` to train that epoch on; for the others it is not given.
        seeds: How many seeds, at least 2; or `assay.Seeds(5, control="rs2")`, by which a second control is trained, some seeds are skipped or an effect to
            detect is named.
        save: Keep every finished retraining in the run's folder, and take from there what an earlier verification finished; `"recompute"` takes
            nothing from there, since a forged result looks like a real one.
            Not with `retrain`, since a later call cannot check that its function is the same.
        execution: Where retrainings run, and who is told of each.

    Raises:
        UsageError: Fewer than 2 seeds, no plan and no `retrain`, a decision that keeps nothing or changes nothing, or one made by the
            very test examples that it would be judged by; or a second control that cannot be trained.
        Mismatch: The decision, the scores, the truth, the run and the data are not of the same dataset.
        RunError: The saved record of earlier verifications is damaged.
        NotWritten: With `save`, a finished retraining cannot be kept. (P-values that cannot be kept are warned of.)
        TrialFailed: A retraining ended in an error; with path and tail of its log.
    """
    execution, seeds = execution or Execution(), seeds if isinstance(seeds, Seeds) else Seeds(seeds)
    check_save(save)
    if save and retrain is not None:
        raise UsageError(
            f"save={save!r} does not go with retrain=, since a later call cannot check that its function is the same; leave it out."
        )
    began = time.perf_counter()
    opened = run_of(decision, run)
    if seeds.number >= FEWEST:
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
        if not load_data(plan).test_apart:
            raise UsageError(
                f"{opened.folder} scored every row, those too that {plan.data} would draw for testing, so that none is left to verify by; give a test part of "
                "its own when recording (test=FILE), or in Python verify(..., retrain=FUNCTION)."
            )
    second = None
    if seeds.control is not None:
        second = control_arm(decision, given, seeds.control)
        check_control(second, plan, retrain)
    control, power = second.name if second is not None else "", ""
    if seeds.detect is not None:
        need = seeds_needed(decision, seeds.detect, run=opened, own=retrain is not None, control=control)
        power = need.sentence
        if need.seeds is None or need.seeds > seeds.number:
            warnings.warn(f"{power} This verification has {seeds.number}.", stacklevel=4)
    base = opened.header.seed or 0
    first = base + 1 + seeds.after
    drawn = redrawn(decision, opened, (scores or {}).values())
    outcomes: list[Outcome] = []
    due: list[tuple[Arm, int, Path]] = []
    for seed in range(first, first + seeds.number):
        for arm in (
            *arms(drawn(seed) if drawn is not None else decision, given, seed),
            *([second] if second is not None else []),
        ):
            path = trial_file(opened, plan, arm, seed)
            if save and save != "recompute" and (outcome := finished_trial(path, arm.name, seed)) is not None:
                outcomes.append(outcome)
            else:
                due.append((arm, seed, path))
    for outcome, path in run_trials(opened, plan, retrain, due, execution, outcomes, bool(save)):
        outcomes.append(outcome)
        if save:
            save_outcome(outcome, path, path.parent.name)
    baselines = [RANDOM, ALL] if second is None else [RANDOM, second.name, ALL]
    outcomes.sort(key=lambda one: ([KEPT, *baselines].index(one.arm), one.seed))
    verdict = Verdict(
        decision=decision.title,
        outcomes=tuple(outcomes),
        comparisons=tuple(
            dataclasses.replace(
                compare(outcomes, KEPT, other), control=control_of(decision), anew=second is not None and other == second.name
            )
            for other in baselines
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
        control=control,
    )
    if seeds.number >= FEWEST:
        try:
            ask(opened, verdict)
        except NotWritten as error:
            # What was trained for hours must not be lost with it.
            warnings.warn(f"{error} So later verifications of this run are not corrected for this one.", stacklevel=4)
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


def check_control(second: Arm, plan: Plan | None, retrain: Retrain | None) -> None:
    """Refuse a second control that cannot be trained as the other arms are.

    Raises:
        UsageError: Says why, and what to do.
    """
    if plan is not None and plan.select is not None:
        raise UsageError(
            f"The run was recorded with select={plan.select}, which also chooses the examples of each epoch of the other arms, so that control={second.name} would "
            "differ from these in two things; leave control= out, or verify a run that was recorded without select=."
        )
    if retrain is None:
        return
    assert second.selector is not None
    if second.selector.start(len(second.ids)):
        raise UsageError(
            f"control={second.name} chooses by the losses of the epochs before, which retrain= does not give it; leave control= out."
        )
    try:
        taken = inspect.signature(retrain).parameters
    except (TypeError, ValueError):
        return
    if "each_epoch" not in taken and all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        raise UsageError(
            f"control={second.name} trains each epoch on other examples, and retrain= takes no each_epoch; write retrain(ids, labels, weights, seed, "
            "each_epoch=None), which trains epoch number e on the positions each_epoch(e) of ids where each_epoch is given."
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
