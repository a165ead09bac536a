"""Choose: from scores to a decision on every example."""

import dataclasses
import time
from pathlib import Path

from .. import __version__
from ..core import options as texts
from ..core import selection as core
from ..core.arguments import checked_arguments
from ..core.curve import Curve
from ..core.decision import Decision
from ..core.errors import Mismatch, UsageError
from ..core.lineage import Lineage
from ..core.scores import Scores
from ..core.selection import AbstractSelector
from ..policies import catalogue, find, parse
from ..runs.run import Run
from .evidence import gather, gather_together
from .models import members_of


@checked_arguments
def choose(
    scores: Scores,
    policy: str | AbstractSelector,
    *,
    run: str | Path | Run | None = None,
    curve: Curve | None = None,
    **options: object,
) -> Decision:
    """Apply one policy to one score.

        decision = assay.choose(table["dual"], policy="beta", keep=0.3, seed=0)
        decision = assay.choose(influence, policy="remove_worst", curve=assay.cleanse(run, influence))

    Args:
        scores: What to choose by.
        policy: Name, `"name:option=value,..."`, or a policy.
        run: The recorded run, for policies that read it; by default the run that the scores were made from.
        curve: A curve of these scores, whose best count is taken as the option `count` of the policy remove_worst.
        options: Options of the policy.

    Raises:
        UnknownName: No such policy or option.
        UsageError: An option is out of range or given twice, a score is NaN, a curve for another policy, or the policy needs a run and none
            is known.
        Mismatch: The scores are of another dataset than the run, or the curve is of other scores.
    """
    if curve is not None:
        options = _counted(scores, policy, curve, options)
    if isinstance(policy, str) and (twice := sorted(texts.split(policy)[1].keys() & options.keys())):
        raise UsageError(f"{', '.join(twice)} is given in {policy!r} and again beside it; give it once.")
    chosen = parse(policy, options)
    began = time.perf_counter()
    parent, opened, evidence = scores.lineage, None, None
    if run is not None or (chosen.reads and parent is not None and parent.folder):
        opened = run if isinstance(run, Run) else Run(run if run is not None else parent.folder)  # type: ignore[union-attr]
        if parent is not None and parent.dataset and parent.dataset != opened.dataset:
            raise Mismatch(
                f"{scores.title} scores dataset {parent.dataset}, {opened.folder} recorded {opened.dataset}; score this run again."
            )
        evidence = gather_together(members_of(opened)) if chosen.reads else gather(opened)
    if evidence is None and chosen.reads:
        raise UsageError(f"Policy {chosen.name!r} reads the recorded run, and these scores name none; give run=PATH.")
    decision = core.choose(chosen, scores, evidence, opened.class_names if opened is not None else None)
    lineage = Lineage(
        dataset=parent.dataset if parent and parent.dataset else opened.dataset if opened else "",
        parents={
            **(parent.parents if parent else {}),
            "scores": scores.fingerprint,
            **({"curve": curve.fingerprint} if curve is not None else {}),
        },
        code=__version__,
        seed=getattr(chosen, "seed", None),
        device="cpu",
        seconds=time.perf_counter() - began,
        folder=parent.folder if parent and parent.folder else str(opened.folder) if opened else "",
    )
    if parent is not None and parent.drawn:
        lineage = dataclasses.replace(lineage, drawn=True)
    return dataclasses.replace(decision, lineage=lineage)


def counting() -> list[str]:
    """Names of the policies whose count may be taken from a curve."""
    return [name for name, cls in catalogue().items() if cls.counts_by_curve]


def _counted(scores: Scores, policy: str | AbstractSelector, curve: Curve, options: dict[str, object]) -> dict[str, object]:
    """The options, with the count that a curve found best."""
    cls = find(texts.split(policy)[0]) if isinstance(policy, str) else type(policy)
    if not cls.counts_by_curve:
        raise UsageError(
            f"A curve says how many the policy {' or '.join(counting())} should drop; {cls.name} does not remove the worst."
        )
    if "count" in options:
        raise UsageError(f"count={options['count']} is given beside a curve, whose best count is {curve.best}; give one of them.")
    made_of = curve.lineage.parents.get("scores") if curve.lineage is not None else None
    if curve.scores != scores.title or (made_of is not None and not scores.made(made_of)):
        raise Mismatch(
            f"The curve is of scores {curve.scores} {made_of or ''}, not of {scores.title} {scores.fingerprint}; cleanse by these."
        )
    return {**options, "count": curve.best}
