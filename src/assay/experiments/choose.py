"""Choose: from scores to a decision on every example."""

import dataclasses
import time
from pathlib import Path

from .. import __version__
from ..core import options as texts
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
        UsageError: An option is out of range or given twice, a score is NaN, or the policy needs a run and none is known.
        Mismatch: The scores are of another dataset than the run.
    """
    if isinstance(policy, str) and (twice := sorted(texts.split(policy)[1].keys() & options.keys())):
        raise UsageError(f"{', '.join(twice)} is given in {policy!r} and again beside it; give it once.")
    chosen = parse(policy, options)
    began = time.perf_counter()
    parent, opened, evidence = scores.lineage, None, None
    if run is not None or (chosen.needs and parent is not None and parent.folder):
        opened = run if isinstance(run, Run) else Run(run if run is not None else parent.folder)  # type: ignore[union-attr]
        if parent is not None and parent.dataset and parent.dataset != opened.dataset:
            raise Mismatch(
                f"{scores.title} scores dataset {parent.dataset}, {opened.folder} recorded {opened.dataset}; score this run again."
            )
        evidence = gather(opened)
    if evidence is None and chosen.needs:
        raise UsageError(f"Policy {chosen.name!r} reads the recorded run, and these scores name none; give run=PATH.")
    decision = core.choose(chosen, scores, evidence)
    lineage = Lineage(
        dataset=parent.dataset if parent and parent.dataset else opened.dataset if opened else "",
        parents={**(parent.parents if parent else {}), "scores": scores.fingerprint},
        code=__version__,
        seed=getattr(chosen, "seed", None),
        device="cpu",
        seconds=time.perf_counter() - began,
        folder=parent.folder if parent and parent.folder else str(opened.folder) if opened else "",
    )
    return dataclasses.replace(decision, lineage=lineage)
