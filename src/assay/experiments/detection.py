"""How well scores find the labels that are known to be wrong, and how clean a decision leaves the data."""

from collections.abc import Iterable

from jaxtyping import Bool, Int
from torch import Tensor

from ..core.decision import Decision
from ..core.errors import Mismatch, UsageError
from ..core.ids import Ids
from ..core.scores import Scores
from ..core.trial import Cleaning, Detection
from ..maths import ranking
from ..replay.targets import mean_loss
from ..runs.artefacts import load_corrupted
from ..runs.run import Run
from .plan import Plan, load_data

INSPECTED = 0.2
"""Fraction of the ranking within which `Detection.recovered` counts."""


def check_dataset(run: Run, scores: Iterable[Scores], decision: Decision | None = None) -> None:
    """Refuse scores and decisions of another dataset than the run's, and a decision of another recording or of other scores.

    Raises:
        Mismatch: Names the first that does not belong.
    """
    scores = list(scores)
    parts = [(f"scores {one.title} are of", one.lineage, "score") for one in scores]
    parts += [(f"decision {decision.title} is on", decision.lineage, "choose")] if decision is not None else []
    for what, lineage, verb in parts:
        if lineage is not None and lineage.dataset and lineage.dataset != run.dataset:
            raise Mismatch(
                f"The {what} dataset {lineage.dataset}, {run.folder} recorded {run.dataset}; {verb} again from this run."
            )
    made_of = decision.lineage.parents if decision is not None and decision.lineage is not None else {}
    what = ""
    if made_of.get("run", run.fingerprint) != run.fingerprint:
        # A run that was resumed after the decision, or a copy of a decision in another run.
        what = f"from recording {made_of['run']}, {run.folder} holds {run.fingerprint}"
    elif decision is not None:
        now = [one for one in scores if decision.title.endswith(f" by {one.title}")]
        if now and "scores" in made_of and not any(one.made(made_of["scores"]) for one in now):
            what = f"by scores {made_of['scores']}, which are now {', '.join(one.fingerprint for one in now)}"
    if what:
        raise Mismatch(f"The decision {decision.title} was made {what}; choose again.")  # type: ignore[union-attr]


def check_judge(decision: Decision, plan: Plan) -> None:
    """Refuse a decision that was made with the test examples that would judge it."""
    parents = decision.lineage.parents if decision.lineage is not None else {}
    targets = {name: value for name, value in parents.items() if name.startswith("target ")}
    if targets and (judge := mean_loss(load_data(plan).test, "test").fingerprint) in targets.values():
        (name, *_) = (name for name, value in targets.items() if value == judge)
        raise UsageError(
            f"The decision {decision.title} was made by {name}, which are the test examples that it would be judged by; score by "
            "target=validation and choose again."
        )


def detections_of(scores: Iterable[Scores], run: Run, truth: tuple[Ids, Int[Tensor, " examples"]]) -> tuple[Detection, ...]:
    """One detection per score; none for scores of right labels only, or of wrong ones only: there is nothing to tell apart.

    Raises:
        Mismatch: An example has no truth, or was not recorded.
    """
    return tuple(detect(one, run, truth) for one in scores if 0 < int(wrong_labels(one.ids, run, truth).sum()) < len(one))


def detect(scores: Scores, run: Run, truth: tuple[Ids, Int[Tensor, " examples"]]) -> Detection:
    """How well a score ranks the wrong labels of a run first.

    Raises:
        Mismatch: An example has no truth, or was not recorded.
        UsageError: No label is wrong, or all are.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    wrong = wrong_labels(scores.ids, run, truth)
    if not bool(wrong.any()) or bool(wrong.all()):
        raise UsageError(f"{int(wrong.sum())} of {len(wrong)} labels are wrong; detection needs wrong ones among right ones.")
    suspicion = scores.hardness()
    return Detection(
        title=scores.title,
        auc=float(roc_auc_score(wrong.numpy(), suspicion.numpy())),
        average_precision=float(average_precision_score(wrong.numpy(), suspicion.numpy())),
        precision_at_planted=ranking.precision_at(suspicion, wrong, int(wrong.sum())),
        recovered=ranking.recovered_fraction(suspicion, wrong, INSPECTED),
        claims_suspicion=scores.direction.ranks_suspects,
        curve=ranking.detection_curve(suspicion, wrong),
    )


def wrong_labels(ids: Ids, run: Run, truth: tuple[Ids, Int[Tensor, " examples"]]) -> Tensor:
    """Which of these examples have a given label that is not the true one.

    Raises:
        Mismatch: An example has no truth, or was not recorded.
        UsageError: The run knows no labels.
    """
    if run.task != "classes":
        raise UsageError(
            f"truth= tells which classes are wrong, and {run.folder} recorded {run.classes_in_words} example and no class; leave it out, and compare "
            "scores.values with what you know by scores.ids."
        )
    given = run.labels[run.ids.positions(ids, f"run {run.folder}")]
    return given != truth[1][truth[0].positions(ids, "the truth")]


def corrupted_of(ids: Ids, run: Run) -> Bool[Tensor, " examples"] | None:
    """Which of these examples' inputs were damaged on purpose when the run was recorded; None where none were.

    Raises:
        Mismatch: An example has no truth.
    """
    known = load_corrupted(run.paths.truth) if run.paths.truth.exists() else None
    return None if known is None else known[1][known[0].positions(ids, "the truth")]


def clean(decision: Decision, given: Int[Tensor, " examples"], truth: tuple[Ids, Int[Tensor, " examples"]]) -> Cleaning:
    """How many wrong labels a decision touches and how many it corrects, judged by the true labels.

    Raises:
        Mismatch: An example has no truth.
    """
    true = truth[1][truth[0].positions(decision.ids, "the truth")]
    wrong = given != true
    return Cleaning(
        planted=int(wrong.sum()),
        touched=int(decision.touched.sum()),
        hit=int((wrong & decision.touched).sum()),
        mended=int((wrong & (decision.labels == true)).sum()),
    )
