"""The scores, decisions and curves that a run's folder holds beside the recording, looked up by name."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ..core.curve import Curve
from ..core.decision import Decision
from ..core.errors import Mismatch, OutputExists, UnknownName, UsageError
from ..core.explanation import Explanation
from ..core.scores import Scores
from ..experiments.cleanse import saved_curves
from ..runs.artefacts import load_decision, load_explanation, load_scores, save_decision
from ..runs.run import Run
from .console import say


def decision_of(run: Run, name: str | None) -> Path:
    """The decision of that name, or the only one.

    Raises:
        UsageError: The run holds no decision, or holds several and none is named.
        UnknownName: No decision of the run has that name.
    """
    from ..runs.paths import slug

    known = {path.stem: path for path in sorted(run.paths.decision("x").parent.glob("*.parquet"))}
    if not known:
        raise UsageError(f"{run.folder} holds no decision; make one with `assay choose {run.folder} SCORE --policy POLICY`.")
    if name is None:
        if len(known) > 1:
            raise UsageError(f"{run.folder} holds several decisions; name one with --decision: {', '.join(known)}.")
        return next(iter(known.values()))
    if slug(name) not in known:
        raise UnknownName("decision in this run", name, known)
    return known[slug(name)]


def check_name(name: str | None) -> None:
    """Refuse a name of which no file name can be made.

    Raises:
        UsageError: It has neither letter nor digit.
    """
    if name is not None and not any(letter.isalnum() for letter in name):
        raise UsageError(f"--name {name!r} makes no file name; give it a letter or a digit.")


def keep_decision(run: Run, decision: Decision, name: str) -> None:
    """Save a decision in the run under a name, and say what it does and what comes next.

    Raises:
        OutputExists: Another decision has that name.
    """
    path = run.paths.decision(name)
    if path.exists():
        if load_decision(path).fingerprint != decision.fingerprint:
            raise OutputExists(f"{path} holds another decision; give this one another --name.")
        say(f"{path} holds this very decision already.")
    else:
        save_decision(decision, path)
    counts = ", ".join(f"{action} {count:,}" for action, count in decision.counts().items())
    say(f"{decision.title}: {counts} of {len(decision):,} examples.")
    then = next_of(run, path.stem) if bool(decision.touched.any()) else "It changes nothing."
    say(f"Saved as {path.stem}. {then}")


def next_of(run: Run, name: str) -> str:
    """How a saved decision is verified."""
    from ..experiments.plan import came_of, has_plan, tests_apart

    if has_plan(run) and tests_apart(run):
        return f"Next: assay verify {run.folder} --decision {name}"
    why = "the run has no test examples of its own" if has_plan(run) else f"the run {came_of(run)}"
    return f"Next, in Python: assay.verify(decision, retrain=...), because {why}."


def saved_scores(run: Run) -> list[Scores]:
    """Every score saved in the run, in the order of their names; some may cover fewer examples than others.

    Raises:
        Mismatch: A score belongs to another dataset or recording.
        RunError: A score is damaged.
    """
    found = []
    for path in sorted(run.paths.scores("x").parent.glob("*.parquet")):
        one = load_scores(path)
        # Of a million texts each copy takes some 200 MB.
        found.append(dataclasses.replace(one, ids=run.ids) if one.ids == run.ids else one)
    for one in found:
        made_of = one.lineage.parents.get("run") if one.lineage is not None else None
        if one.lineage is None or one.lineage.dataset != run.dataset or made_of != run.fingerprint:
            # A run that was scored half-way and then resumed is another recording.
            raise Mismatch(
                f"The saved score {one.title} was made from recording {made_of or 'unknown'}, {run.folder} holds {run.fingerprint}; "
                f"score it again: assay score {run.folder} {one.title}."
            )
    return found


def curves_of(run: Run, scores: Mapping[str, Scores]) -> list[Curve]:
    """Every curve saved in the run, in the order of their names.

    Raises:
        Mismatch: A curve belongs to another recording, or was made from values that differ from the saved score with its title.
        RunError: A curve is damaged.
    """
    found = saved_curves(run)
    for one in found:
        made_of = one.lineage.parents if one.lineage is not None else {}
        values = scores.get(one.scores)
        what = ""
        if made_of.get("run") != run.fingerprint:
            what = f"made from recording {made_of.get('run', 'unknown')}, {run.folder} holds {run.fingerprint}"
        elif values is not None and "scores" in made_of and not values.made(made_of["scores"]):
            what = f"made by scores {made_of['scores']}, {run.folder} now holds {values.fingerprint} under that title"
        if what:
            raise Mismatch(
                f"The saved curve of {one.scores} was {what}; make it again: assay cleanse {run.folder} {one.scores} --retrain "
                f"{one.retrained}."
            )
    return found


def explanations_of(run: Run) -> list[Explanation]:
    """Every explanation saved in the run, in the order of their names.

    Raises:
        Mismatch: An explanation belongs to another recording.
        RunError: An explanation is damaged.
    """
    found = []
    for path in sorted(run.paths.explanation("x").parent.glob("*.json")):
        found.append(one := load_explanation(path))
        made_of = one.lineage.parents.get("run") if one.lineage is not None else None
        if made_of != run.fingerprint:
            raise Mismatch(
                f"{path} was made from recording {made_of or 'unknown'}, {run.folder} holds {run.fingerprint}; explain it again, or take the file away."
            )
    return found
