"""Choose: from scores to a decision on every example."""

import dataclasses
import time
from pathlib import Path

from .. import __version__
from ..core import policy as core
from ..core.decision import Decision
from ..core.errors import Mismatch, UsageError
from ..core.lineage import Lineage
from ..core.policy import AbstractPolicy
from ..core.scores import Scores
from ..policies import parse
from ..runs.gather import gather
from ..runs.run import Run


def choose(scores: Scores, policy: str | AbstractPolicy, *, run: str | Path | Run | None = None, **options: object) -> Decision:
    """Apply one policy to one score.

        decision = assay.choose(table["dual"], policy="beta", keep=0.3, seed=0)

    Args:
        scores: What to choose by.
        policy: Name, `"name:option=value,..."`, or a policy.
        run: The recorded run, for policies that read it; by default the run that the scores were made from.
        options: Options of the policy.

    Raises:
        UnknownName: No such policy or option.
        UsageError: An option is out of range, a score is NaN, or the policy needs a run and none is known.
        Mismatch: The scores are of another dataset than the run.
    """
    chosen = parse(policy, options)
    began = time.perf_counter()
    evidence = None
    if run is not None or (chosen.needs and scores.lineage is not None and scores.lineage.folder):
        opened = run if isinstance(run, Run) else Run(run if run is not None else scores.lineage.folder)  # type: ignore[union-attr]
        if scores.lineage is not None and scores.lineage.dataset != opened.dataset:
            raise Mismatch(
                f"{scores.title} scores dataset {scores.lineage.dataset}, {opened.folder} recorded {opened.dataset}; score this run again."
            )
        evidence = gather(opened)
    if evidence is None and chosen.needs:
        raise UsageError(f"Policy {chosen.name!r} reads the recorded run, and these scores name none; give run=PATH.")
    decision = core.choose(chosen, scores, evidence)
    parent = scores.lineage
    lineage = Lineage(
        dataset=parent.dataset if parent else "",
        parents={**(parent.parents if parent else {}), "scores": scores.fingerprint},
        code=__version__,
        seed=getattr(chosen, "seed", None),
        device="cpu",
        seconds=time.perf_counter() - began,
        folder=parent.folder if parent else "",
    )
    return dataclasses.replace(decision, lineage=lineage)
