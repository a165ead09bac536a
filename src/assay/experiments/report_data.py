"""ReportData: a run and everything made from it, gathered for the page. What the page shows is computed here."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.arguments import checked_arguments, checked_fields, moved_keywords
from ..core.curve import Curve
from ..core.decision import Decision
from ..core.duplicates import DuplicateGroups
from ..core.errors import Mismatch, UsageError
from ..core.evidence import Evidence
from ..core.explanation import Explanation
from ..core.ids import Ids
from ..core.lineage import Lineage
from ..core.method_comparison import ComparedMethod
from ..core.passes import called
from ..core.report_data import (
    Agreement,
    DataMap,
    Histogram,
    Influence,
    Provenance,
    ReportData,
    ShownExamples,
    Trajectories,
    taken_by,
)
from ..core.scores import Scores, ScoreTable, ordered
from ..core.trial import Verdict
from ..core.wrong_labels import WrongCount
from ..data.examples import Examples
from ..data.pictures import for_people
from ..maths import draws, ranking
from ..runs.artefacts import load_truth
from ..runs.run import Run
from .claims import corrected
from .compare import detected, first_overlaps, spearman_interval, usual_budget
from .confident import joint_if_held_out
from .detection import check_dataset, clean, corrupted_of, detections_of, wrong_labels
from .evidence import gather_together, known_mean_probs
from .influence import comparisons, influences
from .models import members_of
from .page_parts import check_duplicates, embedding_map, near_duplicates, probes_of, shown_duplicates
from .plan import folds_of, has_plan
from .quality import class_counts, learning_curves
from .score import score
from .summary import Known, summary_of
from .wrong_labels import count_if_possible

MOST_SHOWN = 2000
"""Examples on one page, unless a decision touches more."""
MOST_DECIDED = 10_000
"""Examples that a decision touches and that are all on one page, unasked."""
MOST_EPOCHS = 40
"""Epochs of a trajectory that are drawn."""
BINS = 40
MOST_LETTERS = 2000
"""Letters of a text that are on the page: of as many examples as are shown unasked, 4 MB."""
LEAST_KAPPA = 0.1
"""Agreement of two rows of labels beyond chance (Cohen's kappa) below which they are hardly of the same examples."""
STRANGERS = "The given examples may be others than the recorded ones"
"""How the sentence on such examples begins."""


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class ReportOptions:
    """Settings of a report.

    Attributes:
        truth: Ids and true labels; by default those kept beside the run.
        title: Heading; by default made from the data and the run's folder.
        most: How many examples are shown one by one, at most. By default 2,000, or all that the decision touches, if these are 10,000 at most.
        explanations: Explanations of predictions that are shown.
        held_out: Accuracy of the recorded model on your test examples, in 0..1, by epoch counted from 0; a run with a plan measures its own.
        duplicates: Groups of near duplicates that are shown; by default those within a tenth of the usual distance by the inputs, where they are soon found.

    Raises:
        UsageError: No example may be shown, a value is of a wrong kind, or an accuracy or its epoch is outside its range.
    """

    truth: tuple[Ids, Int[Tensor, " examples"]] | None = None
    title: str = ""
    most: int | None = None
    explanations: Sequence[Explanation] = ()
    held_out: Mapping[int, float] = dataclasses.field(default_factory=dict)
    duplicates: DuplicateGroups | None = None

    def __post_init__(self):
        if self.most is not None and self.most < 1:
            raise UsageError(f"most={self.most} shows no example; give at least 1.")
        for epoch, accuracy in self.held_out.items():
            if (
                not isinstance(epoch, numbers.Integral)
                or epoch < 0
                or not isinstance(accuracy, numbers.Real)
                or not 0 <= accuracy <= 1
            ):
                raise UsageError(f"held_out has {epoch!r}: {accuracy!r}; give fractions of 0 to 1 by epochs counted from 0.")


MOVED: dict[str, str] = {field.name: "options=assay.ReportOptions({name}=...)" for field in dataclasses.fields(ReportOptions)}
"""Where the keywords of before went, as `moved_keywords` says it."""


@moved_keywords(MOVED)
@checked_arguments
def report_data(
    run: str | Path | Run,
    table: ScoreTable | Mapping[str, Scores],
    *,
    decision: Decision | None = None,
    verdict: Verdict | None = None,
    curves: Sequence[Curve] = (),
    examples: Examples | None = None,
    options: ReportOptions | None = None,
) -> ReportData:
    """Everything that a report shows of one run.

    Args:
        run: The run.
        table: Scores to show; the first is the one that the page opens with.
        decision: The decision on each example.
        verdict: The verdict of `verify` on this decision.
        curves: The curves of `cleanse`: results after leaving out the worst examples by a score.
        examples: The examples themselves, for their pictures, texts or cells.
        options: Heading, true labels, and how many examples are shown.

    Raises:
        Mismatch: Parts that are not of the same examples, or a verdict on another decision.
        RunError: The run is damaged.
    """
    options = options or ReportOptions()
    truth, most = options.truth, options.most
    run = run if isinstance(run, Run) else Run(run)
    scores = tuple(table.values())
    most = most if most is not None else _room(decision, scores)
    check_dataset(run, scores, decision)
    for curve in curves:
        if curve.lineage is not None and curve.lineage.dataset != run.dataset:
            raise Mismatch(
                f"The curve of {curve.scores} is of dataset {curve.lineage.dataset}, {run.folder} recorded {run.dataset}; cleanse this run."
            )
    for one in options.explanations:
        made_of = one.lineage.parents.get("run") if one.lineage is not None else None
        if made_of not in (None, run.fingerprint):
            raise Mismatch(
                f"The explanation of {one.query} is of recording {made_of}, {run.folder} holds {run.fingerprint}; explain it again."
            )
    judged = verdict.lineage.parents.get("decision") if verdict is not None and verdict.lineage is not None else None
    if decision is not None and judged not in (None, decision.fingerprint):
        raise Mismatch(f"The verdict is on another decision than {decision.title} as it is now; verify this one.")
    if verdict is not None:
        # Other decisions may have been verified on this run since.
        verdict = corrected(verdict, run)
    if truth is None and run.paths.truth.exists():
        truth = load_truth(run.paths.truth)
    damaged = corrupted_of(run.ids, run)
    if damaged is not None and truth is not None and not bool(wrong_labels(run.ids, run, truth).any()):
        # Of damaged images under right labels only the damage is to be found.
        truth = None

    def wrong_of(ids: Ids) -> Bool[Tensor, " examples"]:
        return wrong_labels(ids, run, truth)  # type: ignore[arg-type]

    known = wrong_of if truth is not None else None
    felt = influences(scores, known, most, MOST_EPOCHS)
    shown_ids, picked = _picked(run, scores, felt, decision, most)
    place = run.ids.positions(shown_ids, f"run {run.folder}")
    models = members_of(run)
    together = gather_together(models)
    probs = known_mean_probs(together)
    top, predicted = probs.max(1) if probs is not None else (None, None)
    # Of epochs that trained on a part of the examples no line and no place on the map can be drawn.
    gaps = bool(together.missing(range(run.epochs)))
    drawn = bool(run.epochs) and not gaps and run.task == "classes"
    # One pass that was saved has no spread, and a line of one point.
    mapped = drawn and (run.passes is None or run.epochs > 1)
    dynamics = score(run, ["confidence", "variability", "correctness"]) if mapped else None
    wrong = wrong_of(run.ids) if truth is not None else None
    trajectories, note = _trajectories(together, place) if mapped else (None, "")
    if run.task != "classes":
        note = f"No classes, no data map and no trajectories: the run recorded {run.classes_in_words} example."
    elif gaps:
        note = "No data map and no trajectories: some epochs trained on a part of the examples only, and have no facts of the others."
    given = run.labels[place] if run.task == "classes" else None
    looks, unseen = _looks(examples, shown_ids)
    strangers = _strangers(run, examples, shown_ids)
    true = truth[1][truth[0].positions(run.ids, "the truth")] if truth is not None else None
    learning, unmeasured = learning_curves(models, options.held_out)
    aligned = decision if decision is None or decision.ids == run.ids else _in_order(decision, run.ids)
    by_class = (
        class_counts(run.labels, run.classes, predicted=predicted, true=true, decision=aligned) if run.task == "classes" else None
    )
    cleaning = _cleaning(decision, run, truth)
    counted = count_if_possible(run)
    probes, unread = probes_of(run)
    groups, unsought = (options.duplicates, "") if options.duplicates is not None else near_duplicates(run, examples)
    doubles = None
    if options.duplicates is not None:
        check_duplicates(options.duplicates, run)
        if not len(options.duplicates):
            unsought = (
                f"No two examples are within {options.duplicates.within:.3g} of each other in {options.duplicates.features}."
            )
    if groups is not None and len(groups):
        doubles = shown_duplicates(groups, run, true, lambda members: _looks(examples, members)[0])
    made = ReportData(
        title=options.title or f"{str(run.header.about.get('data', 'Training data')).split(':')[0]}: {run.folder.name}",
        class_names=run.class_names,
        examples=len(run.ids),
        shown=ShownExamples(
            ids=shown_ids,
            given=given,
            predicted=predicted[place] if predicted is not None else None,
            true=true[place] if true is not None else None,
            predicted_probs=top[place] if top is not None else None,
            damaged=None if damaged is None else damaged[place],
            **looks,
        ),
        picked=picked,
        facts=_facts(models, predicted is not None, wrong, damaged),
        scores=scores,
        decision=decision,
        data_map=None
        if dynamics is None
        else DataMap(*(dynamics[name].of(shown_ids) for name in ("confidence", "variability", "correctness"))),
        trajectories=trajectories,
        histograms=tuple(_histogram(one, wrong_of(one.ids) if truth is not None else None) for one in scores),
        agreement=_agreement(scores, counted) if len(scores) > 1 else None,
        influences=felt,
        comparisons=comparisons(scores, known),
        curves=tuple(curves),
        explanations=tuple(options.explanations),
        verdict=verdict,
        detections=detections_of(scores, run, truth) if verdict is None and truth is not None else (),
        cleaning=cleaning if verdict is None else None,
        origins=_origins(run, scores, decision, curves, verdict),
        notes=tuple(
            filter(None, (note, unseen, strangers, *_pass_notes(run), *unmeasured, *unread, unsought, *_reader_notes(run)))
        ),
        summary=summary_of(Known(run, scores, decision, verdict, cleaning, learning, by_class, counted)),
        learning=learning,
        by_class=by_class,
        dataset=run.dataset if run.task == "classes" else "",
        compared=_compared(scores, wrong_of) if truth is not None else (),
        damages=() if damaged is None else _compared(scores, lambda ids: damaged[run.ids.positions(ids, "the run")]),
        damaged=None if damaged is None else (int(damaged.sum()), 0 if aligned is None else int(damaged[aligned.touched].sum())),
        counted=counted,
        joint=joint_if_held_out(run),
        probes=probes,
        duplicates=doubles,
    )
    return dataclasses.replace(made, embedding=embedding_map(run, examples, shown_ids, made.opening))


def _compared(scores: Sequence[Scores], sought_of: Callable[[Ids], Bool[Tensor, " examples"]]) -> tuple[ComparedMethod, ...]:
    """How well each score finds wrong labels, or damaged images, among the examples that it scored; the best first."""
    found = [
        method for one in scores for method in detected([one], (one.values * one.direction.sign).unsqueeze(0), sought_of(one.ids))
    ]
    return tuple(sorted(found, key=lambda one: -one.auc))


def _room(decision: Decision | None, scores: Sequence[Scores]) -> int:
    """How many examples a page shows unasked."""
    if decision is None:
        return MOST_SHOWN
    # Of a few that were taken half, so that what was not stands beside them.
    due = 2 * len(taken) if (taken := taken_by(decision, scores)) is not None else int(decision.touched.sum())
    return max(MOST_SHOWN, due) if due <= MOST_DECIDED else MOST_SHOWN


def _in_order(decision: Decision, ids: Ids) -> Decision:
    """The same decision in this order of ids, without what does not count by class."""
    place = decision.ids.positions(ids, f"decision {decision.title}")
    reasons = tuple(decision.reasons[at] for at in place.tolist())
    return dataclasses.replace(
        decision,
        ids=ids,
        actions=decision.actions[place],
        labels=decision.labels[place],
        weights=decision.weights[place],
        reasons=reasons,
    )


def _picked(
    run: Run, scores: Sequence[Scores], felt: Sequence[Influence], decision: Decision | None, most: int
) -> tuple[Ids, str]:
    """The examples that are shown one by one, and in words which these are: those that the decision touches before all others.

    Of a decision that took few examples in an order, by no score that is shown, those that it took first.
    """
    taken = _taken(run, scores, decision)
    if len(run.ids) <= most:
        # The page sorts by a score where there is one.
        return (run.ids if scores else run.ids.take(torch.tensor([*dict.fromkeys([*taken, *range(len(run.ids))])]))), ""
    orders = [ordered(one.hardness(), one.ids, descending=True) for one in scores]
    top_examples = dict.fromkeys(
        position
        for influence in felt
        for end in (influence.harmful, influence.helpful)
        for position in run.ids.positions(end.ids).tolist()
    )
    touched, chosen = taken or _touched(run, scores, orders, decision), dict[int, None]()
    # The section on influence shows its top examples whatever else is shown.
    room = most - len(top_examples)
    # Of what was taken half, so that what was not stands beside it.
    for position in taken[: most - most // 2] or touched:
        if position in top_examples or room:
            chosen[position] = None
            room -= position not in top_examples
    first = len(chosen)
    chosen |= top_examples
    extreme = len(chosen) - first
    half = max(len(chosen), min(most, first + (most - first) // 2)) if scores else 0
    for rank in range(len(run.ids)):
        for one, order in zip(scores, orders, strict=True):
            if len(chosen) < half and rank < len(order):
                chosen[int(run.ids.positions(one.ids.take(order[rank : rank + 1]))[0])] = None
        if len(chosen) >= half:
            break
    suspects = len(chosen) - extreme - first
    for position in draws.permutation(run.ids.keys, 0, "shown on the page").tolist():
        if len(chosen) >= most:
            break
        chosen.setdefault(position)
    drawn = len(chosen) - extreme - suspects - first
    parts = [
        f"{f'{first:,} of ' if first < len(touched) else ''}the {len(touched):,} that the decision {'keeps, in its order' if taken else 'touches'}"
        if first
        else "",
        f"the {extreme:,}{' more' if first else ''} that harm or help most by a score whose sign separates harm from help"
        if extreme
        else "",
        f"the {suspects:,}{' more' if first else ''} that rank first when each method in turn names its most suspect or hardest"
        if suspects
        else "",
        f"{drawn:,} drawn at random from the rest" if drawn else "",
    ]
    *others, last = filter(None, parts)
    listed = f"{', '.join(others)}, and {last}" if others else last
    due = len(touched) if not taken else 2 * len(touched)
    cure = (
        f" A page of all {len(touched):,} would be large: `assay report {run.folder} --most {due}` makes it (options=assay.ReportOptions(most={due}))."
        if first < len(touched)
        else ""
    )
    return run.ids.take(torch.tensor(list(chosen))), f"{listed}.{cure}"


def _taken(run: Run, scores: Sequence[Scores], decision: Decision | None) -> list[int]:
    """Positions of the few that a decision keeps, in its order; none where there is no such order."""
    taken = taken_by(decision, scores) if decision is not None else None
    return run.ids.positions(taken).tolist() if taken is not None else []


def _touched(run: Run, scores: Sequence[Scores], orders: Sequence[Tensor], decision: Decision | None) -> list[int]:
    """Positions of what a decision touches; the first by the score that it was made by stand before the others."""
    if decision is None:
        return []
    touched = decision.ids.take(decision.touched)
    made_by = [place for place, one in enumerate(scores) if decision.title.endswith(f" by {one.title}")]
    if made_by:
        ranked = scores[made_by[0]].ids.take(orders[made_by[0]])
        touched = Ids(
            [*ranked.take(np.isin(ranked.values, touched.values)), *touched.take(~np.isin(touched.values, ranked.values))]
        )
    return run.ids.positions(touched).tolist()


def _looks(examples: Examples | None, ids: Ids) -> tuple[dict, str]:
    """Pictures or cells of the shown examples, for `ShownExamples`; and a sentence where they are not shown as they are."""
    if examples is None:
        return (
            {},
            "The examples themselves are not shown; give report(..., examples=assay.examples_from_dataset(train_set)), or of texts and tables "
            "examples=assay.examples_from_arrays(X, y).",
        )
    try:
        place = examples.ids.positions(ids, "the data")
    except Mismatch as error:
        raise Mismatch(
            f"{error} Give the examples the ids of the run, as in assay.examples_from_dataset(train_set, ids=...)."
        ) from None
    if examples.rows is not None:
        rows = [examples.rows[at] for at in place.tolist()]
        cut = tuple(tuple(cell if len(cell) <= MOST_LETTERS else f"{cell[:MOST_LETTERS]}…" for cell in row) for row in rows)
        long = sum(row != shown for row, shown in zip(rows, cut, strict=True))
        note = f"Of {long:,} of the shown examples the text is cut after {MOST_LETTERS:,} letters." if long else ""
        return {"rows": cut, "columns": examples.columns}, note
    if not examples.pictures:
        shape = "x".join(map(str, examples.shape))
        cure = "; assay.examples_from_arrays(X, y, columns=[...]) names its cells" if len(examples.shape) == 1 else ""
        return (
            {},
            f"The examples themselves are not shown: an input is {shape} numbers, neither a picture nor a row of cells{cure}.",
        )
    pictures, note = for_people(examples.inputs[place])
    return ({} if pictures is None else {"pictures": pictures}), note


def _strangers(run: Run, examples: Examples | None, ids: Ids) -> str:
    """A sentence where the given examples hardly have the labels that were recorded under their ids; else an empty one."""
    if examples is None or run.task != "classes" or examples.class_names != run.class_names or not len(ids):
        return ""
    given, recorded = examples.labels[examples.ids.positions(ids, "the data")], run.labels[run.ids.positions(ids, "the run")]
    equal = float((given == recorded).double().mean())
    counts = [labels.bincount(minlength=run.classes).double() for labels in (given, recorded)]
    chance = float(counts[0] @ counts[1]) / len(ids) ** 2
    if equal == 1 or equal >= chance + LEAST_KAPPA * (1 - chance):
        return ""
    return (
        f"{STRANGERS}: {100 * equal:.0f} % have the label that was recorded under their id, which is as good as chance. "
        "Give them the ids of the run, ids=."
    )


def _facts(
    models: Sequence[Run], predicted: bool, wrong: Bool[Tensor, " examples"] | None, damaged: Bool[Tensor, " examples"] | None
) -> dict[str, str]:
    run = models[0]
    header, about = run.header, run.header.about
    seconds = sum((commit.seconds for commit in run.commits), 0.0)
    several = len(models) > 1
    if has_plan(run):
        facts = {
            "data": str(about["data"]),
            "examples": f"{len(run.ids):,} for training, {about['test examples']:,} for testing, {run.classes} classes",
            "net": f"{about['net']}, {about['parameters']:,} parameters",
            "recipe": ", ".join(f"{name} {value}" for name, value in about["recipe"].items()),  # type: ignore[attr-defined]
        }
    else:
        facts = {
            "data": "the loop's own dataset" if run.passes is None else "your own dataset",
            "examples": f"{len(run.ids):,} for training, {run.classes_in_words}",
            "net": "the loop's own model" if run.passes is None else "your own model",
            **{name: str(value) for name, value in about.items()},
        }
    facts["recorded"] = (
        "nothing: no net was trained"
        if not run.epochs
        else run.passes.summary(run.epochs, folds_of(run))
        if run.passes is not None
        else (
            (f"{len(models)} models, each of " if several else "")
            + f"{run.epochs} epochs, {header.view} pass, {sum(map(run.step_count, range(run.epochs))):,} steps"
            # What models took that were trained side by side cannot be told apart.
            + ("" if several else f" in {seconds:.1f} s")
            + (f", seed {header.seed}" if header.seed is not None else "")
        )
    )
    if header.select:
        facts["selected"] = (
            f"{header.select} chose before every epoch on which examples it trained, and with which weight: {run.selection}"
        )
    facts["machine"] = f"{header.machine}, {header.device}, {header.threads} threads, torch {header.torch}, assay {header.code}"
    for words in run.elsewhere:
        facts["machine"] += f"; {words}"
    if wrong is not None:
        facts["known truth"] = f"{int(wrong.sum()):,} of {len(wrong):,} given labels are wrong; no method saw which"
    if damaged is not None:
        facts["damaged"] = f"{int(damaged.sum()):,} of {len(damaged):,} images, on purpose; no method saw which"
    if predicted:
        over = f" and the {len(models)} models" if several else ""
        trained = " that trained on it" if header.partial else ""
        means = f", averaged over all recorded {called(run.passes, run.epochs)[1]}{trained}{over}"
        if run.passes is not None and run.epochs == 1:
            means = f", averaged over the {len(models)} models" if several else ""
        facts["predicted label"] = f"the class of the largest probability{means}"
    return facts


def _trajectories(evidence: Evidence, place: Tensor) -> tuple[Trajectories, str]:
    epochs = evidence.recorded
    wanted = torch.linspace(0, epochs - 1, min(epochs, MOST_EPOCHS)).round().to(torch.int64).unique().tolist()
    lines = torch.stack([evidence.epoch(epoch).target_probs[place] for epoch in wanted], dim=1)
    one, many = called(evidence.passes, epochs)
    note = f"Trajectories show {len(wanted)} of {epochs} {many}, evenly spaced." if len(wanted) < epochs else ""
    return Trajectories(tuple(wanted), lines, one), note


def _histogram(scores: Scores, wrong: Bool[Tensor, " examples"] | None) -> Histogram:
    values = scores.values
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    bins = torch.bucketize(values, edges[1:-1], right=True)
    counts = torch.bincount(bins, minlength=BINS)
    return Histogram(scores.title, edges, counts, torch.bincount(bins[wrong], minlength=BINS) if wrong is not None else None)


def _agreement(scores: Sequence[Scores], counted: WrongCount | None) -> Agreement | None:
    ids = first = scores[0].ids
    if not all(one.ids == first for one in scores):
        ids = first.take(np.all([np.isin(first.values, one.ids.values) for one in scores], axis=0))
    if not len(ids):
        return None
    rows = torch.stack([one.of(ids) * one.direction.sign for one in scores])
    titles, correlations = tuple(one.title for one in scores), ranking.rank_correlation(rows)
    ends = torch.tensor([[spearman_interval(value, len(ids)) for value in row] for row in correlations.tolist()])
    budget = usual_budget(counted, len(ids))
    measure = "Spearman rank correlation"
    if not all(len(one) == len(ids) for one in scores):
        measure += f" over the {len(ids):,} examples that all methods scored"
    low, high = ends.double().unbind(2)
    return Agreement(titles, correlations, measure, low, high, first_overlaps(rows, ids, budget), budget, len(ids))


def _cleaning(decision: Decision | None, run: Run, truth: tuple[Ids, Tensor] | None):
    if decision is None or truth is None:
        return None
    return clean(decision, run.labels[run.ids.positions(decision.ids, f"run {run.folder}")], truth)


def _origins(
    run: Run, scores: Sequence[Scores], decision: Decision | None, curves: Sequence[Curve], verdict: Verdict | None
) -> tuple[Provenance, ...]:
    header = run.header
    recorded = Lineage(
        dataset=run.dataset,
        code=header.code,
        seed=header.seed,
        device=header.device,
        seconds=sum((commit.seconds for commit in run.commits), 0.0),
    )
    origins = [Provenance("dataset", run.dataset), Provenance("run", run.fingerprint, recorded)]
    origins += [Provenance(f"scores {one.title}", one.fingerprint, one.lineage) for one in scores]
    origins += [Provenance(f"curve of {one.scores}", one.fingerprint, one.lineage) for one in curves]
    if decision is not None:
        origins.append(Provenance(f"decision {decision.title}", decision.fingerprint, decision.lineage))
    if verdict is not None:
        origins.append(Provenance("verdict", verdict.fingerprint, verdict.lineage))
    return tuple(origins)


def _reader_notes(run: Run) -> Sequence[str]:
    return run.header.about.get("notes", ()) if has_plan(run) else ()  # type: ignore[return-value]


def _pass_notes(run: Run) -> tuple[str, str]:
    return _pass_note(run), f"The recorded facts are {run.smoothing}." if run.smoothing else ""


def _pass_note(run: Run) -> str:
    if not run.epochs:
        return "Nothing was trained: the scores are of the examples alone."
    if run.passes is not None:
        return f"The values are of {run.passes.summary(run.epochs, folds_of(run))}."
    if run.header.view == "train":
        return (
            "Recorded on the training pass: every example of an epoch was seen by slightly different weights, with the augmentation "
            "of that epoch."
        )
    return "Recorded on a clean pass after every epoch, in eval mode and without augmentation."
