"""What a run's folder holds beside the recording, found by name."""

from pathlib import Path

from ..core.curve import Curve
from ..core.errors import Mismatch, UnknownName, UsageError
from ..core.scores import Scores, ScoreTable
from ..runs.artefacts import load_curve, load_scores
from ..runs.run import Run


def decision_of(run: Run, name: str | None) -> Path:
    """The decision of that name, or the only one.

    Raises:
        UsageError: There is none, or there are several and none is named.
        UnknownName: There is none of that name.
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


def curve_of(run: Run, scores: Scores, retrained: str | None) -> Curve | None:
    """The curve of this very score of this very recording; None if there is none.

    Raises:
        UsageError: There are two, and it is not said which.
        RunError: A curve is damaged.
    """
    made_of = {"run": run.fingerprint, "scores": scores.fingerprint}
    curves = [load_curve(path) for path in sorted(run.paths.curve("x").parent.glob("*.json"))]
    found = {
        one.retrained: one
        for one in curves
        if one.lineage is not None and made_of.items() <= one.lineage.parents.items() and retrained in (None, one.retrained)
    }
    if len(found) > 1:
        raise UsageError(
            f"{run.folder} holds a curve of {scores.title} with the last epoch trained again and one with everything; say which with "
            "--retrain last or all."
        )
    return next(iter(found.values()), None)


def scores_of(run: Run) -> ScoreTable:
    """Every score saved in the run, in the order of their names.

    Raises:
        Mismatch: A score is of another dataset or recording, or two do not speak of the same examples.
        RunError: A score is damaged.
    """
    return ScoreTable(saved_scores(run))


def saved_scores(run: Run) -> list[Scores]:
    """The same, where some may speak of fewer examples than others.

    Raises:
        Mismatch: A score is of another dataset or recording.
        RunError: A score is damaged.
    """
    found = [load_scores(path) for path in sorted(run.paths.scores("x").parent.glob("*.parquet"))]
    for one in found:
        made_of = one.lineage.parents.get("run") if one.lineage is not None else None
        if one.lineage is None or one.lineage.dataset != run.dataset or made_of != run.fingerprint:
            # A run that was scored half-way and then resumed is another recording.
            raise Mismatch(
                f"The saved score {one.title} was made from recording {made_of or 'unknown'}, {run.folder} holds {run.fingerprint}; "
                f"score it again: assay score {run.folder} {one.title}."
            )
    return found


def curves_of(run: Run) -> list[Curve]:
    """Every curve saved in the run, in the order of their names.

    Raises:
        Mismatch: A curve is of another recording.
        RunError: A curve is damaged.
    """
    found = [load_curve(path) for path in sorted(run.paths.curve("x").parent.glob("*.json"))]
    for one in found:
        made_of = one.lineage.parents.get("run") if one.lineage is not None else None
        if made_of != run.fingerprint:
            raise Mismatch(
                f"The saved curve of {one.scores} was made from recording {made_of or 'unknown'}, {run.folder} holds {run.fingerprint}; "
                f"make it again: assay cleanse {run.folder} {one.scores} --retrain {one.retrained}."
            )
    return found
