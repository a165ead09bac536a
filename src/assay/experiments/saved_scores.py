"""Scores that an earlier call wrote, and what scores are made of."""

import dataclasses
from collections.abc import Mapping

from .. import __version__
from ..core.catalogue import UNKNOWN
from ..core.lineage import fingerprint
from ..core.method import AbstractMethod
from ..core.scores import Scores
from ..core.selection import AbstractSelector
from ..learners import LEARNERS
from ..learners import parse as parse_learner
from ..methods import METHODS
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..runs.artefacts import finished, load_scores
from ..runs.run import Run
from .evidence import LOOP, identity
from .scorable import inputs_asked, replayed

FUNCTION = "a function"
"""Stands for the fingerprint of a target that a user computes."""


def parents_of(
    run: Run,
    method: AbstractMethod | AbstractSelector,
    replay: Replay | None,
    loop: Loop | None,
    replay_config: ReplayConfig | None,
    content: Mapping[str, str],
) -> dict[str, str]:
    """Fingerprints of what a score or a decision is made of: the recording, the inputs if it reads them, the target if there is one, a reference
    from elsewhere; the package of the method and learner, if it is not assay; and whatever else the values depend on."""
    parents = {"run": run.fingerprint}
    looked = inputs_asked(method)
    if looked and all(name in content for name in looked):
        parents["inputs"] = content[looked[0]] if len(looked) == 1 else fingerprint(*(content[name] for name in looked))
    if isinstance(method, AbstractMethod) and (maker := METHODS.maker(type(method))):
        parents["method"] = maker
    for learner in method.asks.learners:
        if maker := LEARNERS.maker(type(parse_learner(learner))):
            parents["learner"] = maker
    if isinstance(method, AbstractMethod):
        parents |= {key: content[key] for key in map(of_target, method.asks.queries) if key in content}
    if replay is None or not replayed(method):
        return parents
    parents |= (replay_config or ReplayConfig()).identity | ({} if loop is None else {"loop": LOOP})
    known = identity(replay)
    parents |= {of_target(target): known.get(target, FUNCTION) for target in method.asks.named_targets}
    given = [replay.references[name] for name in method.asks.references if name in replay.references]
    if given:
        parents["reference"] = fingerprint(
            *(part for one in given for name, value in one.items() for part in (name, value.cpu().numpy().tobytes()))
        )
    return parents


def of_target(name: str) -> str:
    """What the fingerprint of a target is called."""
    return f"target {name}"


def can_be_told(parents: Mapping[str, str]) -> bool:
    """Whether equal parents mean equal artefacts: not if a user's function or loop, which cannot be compared, is among them."""
    return not {FUNCTION, LOOP, UNKNOWN} & {*parents.values()}


def saved_score(run: Run, method: AbstractMethod, parents: Mapping[str, str]) -> Scores | None:
    """The score that an earlier call saved for this method, if this version of assay made it from the same `parents`."""
    scores = finished(load_scores, run.paths.scores(method.title))
    if scores is None or scores.title != method.title:
        return None
    lineage = scores.lineage
    if lineage is None or lineage.code != __version__:
        return None
    made_of = dict(lineage.parents)
    if "inputs" not in parents:
        # Rows that are not given this time: their name, which the title holds, or the user's own loop stands for them.
        made_of.pop("inputs", None)
    if "reference" not in parents:
        # A reference that is not given this time: its name, which the title holds, stands for it.
        made_of.pop("reference", None)
    if made_of != parents:
        return None
    if not can_be_told(parents):
        return None
    return dataclasses.replace(scores, lineage=dataclasses.replace(lineage, folder=str(run.folder)))
