"""`assay choose`: from a score, or from a run alone, to a decision on every example."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .values import MaybeWhole


def choose_(
    run: Path,
    score: str | None = None,
    /,
    *more: Annotated[str, Parameter(show=False)],
    policy: str | None = None,
    keep: str | None = None,
    count: str | None = None,
    seed: MaybeWhole = None,
    name: str | None = None,
    inputs: list[str] | None = None,
    unscored: Literal["refuse", "keep"] = "refuse",
    retrain: str | None = None,
    tolerance: float = 0.0,
) -> None:
    """Keep, drop or relabel each example, by a score or by the data.

    The decision is saved in the run's folder.

    Examples: assay choose runs/digits dual --policy beta --keep 0.3 --seed 0,
    assay choose runs/digits sgd_influence --policy remove_worst --count auto,
    assay choose runs/digits k_center:keep=0.1,features=inputs

    Parameters
    ----------
    run
        Folder of the run.
    score
        A score of the run, METHOD or METHOD:option=value,...; it is computed if the run has not saved it. For policies that read no score, such
        as k_center, give the policy here, or leave it out.
    policy
        POLICY or POLICY:option=value,...; `assay policies` lists them.
    keep
        Fraction of the examples that stay (0.1), or a whole number, how many stay (100), for policies with a budget.
    count
        Number of examples to act on, for policies that take a count; auto takes for threshold as many as labels seem to be wrong, for remove_worst
        the count that `assay cleanse` chose on validation data.
    seed
        Random seed, for policies that draw at random.
    name
        Name of the decision; by default made from policy and score.
    inputs
        NAME=FILE: rows, such as embeddings, that features=rows:NAME reads instead of the data. An npy file with a row for each example, in
        the run's order, or an npz file of `inputs` and `ids`.
    unscored
        What becomes of examples for which the score has no value: refuse to choose, or keep them as they are and choose among the others.
    retrain
        With --count auto: the curve from retraining the last epoch (last) or all epochs (all); by default the saved curve, or if there is none,
        the one that `assay cleanse` makes by default.
    tolerance
        Largest distance between replayed and recorded parameters at an epoch's end, as a fraction of the norm of the recorded ones; the same value
        that was given to `assay score` and `assay cleanse`.
    """
    from ..cluster.executors import executor
    from ..core.errors import UsageError
    from ..core.scores import Scores
    from ..data.arrays import rows_by_id
    from ..experiments.choose import choose
    from ..experiments.cleanse import curve_for
    from ..experiments.execution import Execution
    from ..experiments.scorable import is_replayed
    from ..experiments.score import score as scored
    from ..methods import parse
    from ..replay.config import ReplayConfig
    from ..runs.run import Run
    from .console import say, showing_progress
    from .saved import check_name, keep_decision
    from .score import file_named, named_once

    check_name(name)
    flags = _Flags(keep, count, seed)
    score, policy = _asked(run, score, more, policy, flags)
    auto = flags.by_curve(policy)
    if retrain not in (None, "last", "all") or (retrain is not None and not auto):
        raise UsageError(
            f"--retrain {retrain} does not go with --count {count}; it says which curve --count auto takes, last or all."
        )
    opened, how = Run(run), ReplayConfig(tolerance=tolerance)
    options = flags.options(policy)
    by: Scores | Run = opened
    replayed = score is not None and is_replayed(opened, parse(score))
    if tolerance and not auto and not replayed:
        raise UsageError(
            f"--tolerance is for scores and curves that replay the training; neither {score or policy} nor --count {count} does that. Leave it out."
        )
    rows = {label: rows_by_id(file, opened.ids) for label, file in named_once("inputs", map(file_named, inputs or ())).items()}
    if score is not None:
        (by,) = scored(opened, score, save=True, replay_config=how if replayed else None).values()
    curve = None
    if auto:
        with showing_progress() as progress, executor("processes", threads=opened.header.threads) as pool:
            curve = curve_for(opened, by, retrain=retrain, replay_config=how, execution=Execution(pool, progress))  # type: ignore[arg-type]
        say(curve.sentence)
    seen = opened if score is not None else None
    decision = choose(by, policy, run=seen, curve=curve, inputs=rows, unscored=unscored, **options)  # type: ignore[arg-type]
    keep_decision(opened, decision, name if name is not None else decision.title.replace(" by ", "-by-"))


@dataclasses.dataclass(frozen=True)
class _Flags:
    """Options of a policy that have a flag of their own, as they were given."""

    keep: str | None
    count: str | None
    seed: int | None

    def __str__(self) -> str:
        return "".join(f" --{key} {value}" for key, value in dataclasses.asdict(self).items() if value is not None)

    def by_curve(self, policy: str) -> bool:
        """Whether a curve is asked to give the count.

        Raises:
            UnknownName: No such policy.
            UsageError: The policy takes no count that could be found.
        """
        from ..core.errors import UsageError
        from ..experiments.choose import counting
        from ..policies import find

        cls = find(policy.partition(":")[0].strip())
        if self.count != "auto" or cls.counts_wrong:
            return False
        if not cls.counts_by_curve:
            raise UsageError(f"--count auto is for the policy {' or '.join(counting())}; {policy} does not remove the worst.")
        return True

    def options(self, policy: str) -> dict[str, object]:
        """The options that the policy is given, but for a count that a curve is to give.

        Raises:
            UsageError: --count is no number.
        """
        from ..core.errors import UsageError

        try:
            found = self.count is None or self.count == "auto"
            count = self.count if found else int(self.count)  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(
                f"--count {self.count!r} is neither a whole number nor auto, which takes what `assay cleanse` found best."
            ) from error
        given = {"keep": self.keep, "seed": self.seed, "count": None if self.by_curve(policy) else count}
        return {key: value for key, value in given.items() if value is not None}

    def check(self, policy: str) -> None:
        """Refuse a policy whose options are wrong, before a score is asked for or computed.

        Raises:
            UnknownName: No such policy or option.
            UsageError: An option is missing, given twice or out of range.
        """
        from ..experiments.choose import with_options

        # Any count does here in the place of that of a curve, which is not made yet.
        with_options(policy, self.options(policy) | ({"count": 0} if self.by_curve(policy) else {}))


def _asked(run: Path, score: str | None, more: Sequence[str], policy: str | None, flags: _Flags) -> tuple[str | None, str]:
    """The score and the policy that were named; a policy that reads no score may stand in the place of the score.

    Args:
        run: The run, as it was named.
        score: The argument after the run.
        more: Arguments after that one, which the command does not take.
        policy: The value of --policy.
        flags: Flags that are options of the policy; a corrected command repeats them.

    Raises:
        UsageError: No policy, wrong options of it, no score for a policy that needs one, a score for one that reads none, or more than one of either.
        UnknownName: No such policy or option.
    """
    from ..core.errors import UnknownName, UsageError
    from ..methods import catalogue as methods
    from ..policies import LIVE, catalogue, find

    if more:
        policies = [text for text in (score, *more) if text and text.partition(":")[0].strip() in catalogue()]
        scores = [text for text in (score, *more) if text and text not in policies]
        if policy is not None or len(policies) != 1 or len(scores) != 1:
            raise UsageError(
                f"{' '.join(more)} is too much: give one score and one policy, as in assay choose {run} SCORE --policy POLICY."
            )
        flags.check(policies[0])
        if find(policies[0].partition(":")[0].strip()).needs_score:
            raise UsageError(f"A policy goes behind --policy: assay choose {run} {scores[0]} --policy {policies[0]}{flags}.")
        (score,), (policy,) = scores, policies
    if policy is None:
        named = (score or "").partition(":")[0].strip()
        if LIVE.knows(named):
            find(named)
        if named and named not in catalogue() and named not in methods():
            raise UnknownName("policy or score", named, [*catalogue(), *methods()])
        if score is None or named not in catalogue():
            raise UsageError(
                f"Name a policy: assay choose {run} {score or 'SCORE'} --policy POLICY; `assay policies` lists them, and one that reads no "
                "score, such as k_center:keep=0.1, may stand in the place of SCORE."
            )
        score, policy = None, score
    assert policy is not None
    flags.check(policy)
    cls = find(policy.partition(":")[0].strip())
    if score is None and cls.needs_score:
        raise UsageError(f"Policy {cls.name!r} chooses by a score; name one: assay choose {run} SCORE --policy {policy}{flags}.")
    if score is not None and not cls.needs_score and not cls.ignores_score:
        raise UsageError(f"Policy {cls.name!r} reads no score, so leave {score} out: assay choose {run} {policy}{flags}.")
    return score, policy
