"""One HTML file out of one report: no network, no second file, nothing computed."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import torch
from markupsafe import Markup, escape
from torch import Tensor

from ..core.confident import COVERS
from ..core.decision import Action
from ..core.lineage import SCHEMA
from ..core.report_data import Influence, ReportData, ShownExamples, TopExamples
from ..core.review import sample_order, suspects_of
from ..core.scores import RANK_ONLY, Scores
from ..core.wrong_labels import ClassCount
from . import charts
from .html import CHARTS, environment, minus, policy, read, scripts
from .thumbnails import thumbnail

SCRIPTS = (*CHARTS, "tabulator.min.js")
"""What is inlined from `vendor/`, in the order in which one needs the other."""

STEPS = 250
"""Trajectories travel as bytes: probabilities in steps of 1/250, finer than a line is thick. 255 says not visited."""

VISITED_NOT = 255


def render(report: ReportData) -> str:
    """The page of one report, the same bytes for the same report.

    Returns:
        HTML that loads nothing: charts, table and pictures are inside, and its Content-Security-Policy forbids any request.
    """
    inlined = scripts([f"vendor/{name}" for name in SCRIPTS] + ["theme.js", "page.js"])
    made = environment()
    made.filters["measure"] = _measure
    made.filters["signed"] = _signed
    made.filters["coded"] = _coded
    return made.get_template("page.html.j2").render(
        report=report,
        arm=charts.arm,
        styles=[read("vendor/tabulator_simple.min.css"), read("page.css")],
        scripts=inlined,
        policy=policy(inlined),
        data=_data(report),
        specs=_specs(report),
        histograms=[(one, _scores(report, one.title)) for one in report.histograms],
        targets=_targets(report),
        words=_words(report),
        classes=_classes(report),
        classes_open=CLASSES_OPEN,
        twins=_twins(report),
        twins_open=TWINS_OPEN,
        counted=_counted(report),
        by_share=_by_share,
        joint_covers=COVERS,
        compared={one.title: one for one in report.compared},
        # Where images were damaged and no label is wrong, no wrong labels were to be found.
        cleaned=report.cleaned if report.cleaned is None or report.cleaned.planted or report.damaged is None else None,
    )


def _scores(report: ReportData, title: str) -> Scores:
    return next(scores for scores in report.scores if scores.title == title)


def _words(report: ReportData) -> dict[str, Any]:
    """Sentences that depend on which parts there are."""
    shown, total = len(report.shown), report.examples
    return {
        "shown": f"All {total:,} examples are on this page."
        if shown == total
        else f"{shown:,} of {total:,} examples are on this page: {report.picked}",
        "decision": ", ".join(f"{action} {n:,}" for action, n in report.decision.counts().items()) if report.decision else "",
        "apart": any(one.wrong is not None for one in report.histograms),
    }


MOST_CHARTED = 30
"""Classes up to which their shares are drawn."""

TWINS_OPEN = 8
"""Groups of near duplicates that stand open; the others are folded away."""

CLASSES_OPEN = 12
"""Classes that stand open in the table of classes; the others are folded away."""


def _counted(report: ReportData) -> list[ClassCount]:
    """How many labels of each class seem to be wrong, the class with the largest share first; nothing where no number is told."""
    counted = report.counted
    if counted is None or not counted.clear or not counted.seen:
        return []
    return _by_share(counted.by_class)


def _by_share(counts: Sequence[ClassCount]) -> list[ClassCount]:
    """Counts of classes, the class with the largest share first."""
    return sorted(counts, key=lambda one: -one.count / max(1, one.examples))


def _twins(report: ReportData) -> list[dict[str, Any]]:
    """The groups of near duplicates that stand side by side, each with its cards."""
    if report.duplicates is None:
        return []
    found, shown, names = report.duplicates.found, report.duplicates.shown, report.class_names
    against, sizes = set(found.contradicting.tolist()), found.groups.bincount().tolist()
    blocks: dict[int, dict[str, Any]] = {}
    for at, (group, distance) in enumerate(zip(report.duplicates.groups, report.duplicates.distances, strict=True)):
        given, true = (None if labels is None else int(labels[at]) for labels in (shown.given, shown.true))
        block = blocks.setdefault(group, {"against": group in against, "size": sizes[group], "cards": []})
        block["cards"].append(
            {
                "id": shown.ids.values[at],
                "distance": distance,
                "given": None if given is None else names[given],
                "true": names[true] if true is not None and true != given else None,
                "picture": base64.b64encode(thumbnail(shown.pictures[at])).decode() if shown.pictures is not None else None,
                "row": _row(shown, at),
            }
        )
    return list(blocks.values())


def _row(shown: ShownExamples, at: int) -> str | None:
    """The cells of an example in one line; of one column alone without its name."""
    if shown.rows is None:
        return None
    if len(shown.columns) == 1:
        return shown.rows[at][0]
    return " · ".join(f"{name} {cell}" for name, cell in zip(shown.columns, shown.rows[at], strict=True))


def _classes(report: ReportData) -> list[dict[str, Any]]:
    """The rows of the table of classes, those hit hardest first; without a decision those that the model contradicts most."""
    counts = report.by_class
    if counts is None:
        return []
    columns = {
        name: made.tolist()
        for name in ("examples", "against", "kept", "dropped", "relabelled", "weighted", "wrong", "lost")
        if (made := getattr(counts, name)) is not None and (name not in ("relabelled", "weighted") or bool(made.any()))
    }
    rows = [
        {"name": name, **{column: made[at] for column, made in columns.items()}} for at, name in enumerate(report.class_names)
    ]
    if counts.after is not None and counts.weights is not None:
        parts = (counts.weights.tolist(), counts.before.tolist(), counts.after.tolist())
        for row, weight, before, after in zip(rows, *parts, strict=True):
            row |= {"weight": weight, "before": before, "after": after}
    keys = [key for key in columns if key in ("dropped", "relabelled", "weighted")] or [
        key for key in columns if key == "against"
    ]
    return sorted(rows, key=lambda row: -sum(row[key] for key in keys) / max(1, row["examples"]))


def _coded(text: str) -> Markup:
    """A text whose parts between backticks are code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def _targets(report: ReportData) -> list[dict[str, Any]]:
    """What stands in the section on influence, by target; scores without one come last."""
    blocks: dict[str, dict[str, Any]] = {}
    for place, one in enumerate(report.influences):
        block = blocks.setdefault(one.target, {"target": one.target, "panels": [], "comparisons": []})
        scores, (helpful, harmful) = _scores(report, one.title), _names(one)
        block["panels"].append(
            {
                "place": place,
                "scores": scores,
                "influence": one,
                "strips": [
                    (name, _cards(report, top_examples))
                    for name, top_examples in ((harmful, one.harmful), (helpful, one.helpful))
                    if len(top_examples.ids)
                ],
            }
        )
    for place, comparison in enumerate(report.comparisons):
        if comparison.target in blocks:
            blocks[comparison.target]["comparisons"].append((place, comparison))
    return sorted(blocks.values(), key=lambda block: block["target"] == "")


def _names(one: Influence) -> tuple[str, str]:
    """What the two ends are, in truth: where nothing helps, one end only harms least; some scores only rank."""
    if one.helping is None or one.harming is None:
        return f"ranked {charts.HELPFUL}", f"ranked {charts.HARMFUL}"
    return charts.HELPFUL if one.helping else "least harmful", charts.HARMFUL if one.harming else "least helpful"


def _cards(report: ReportData, top_examples: TopExamples) -> list[dict[str, Any]]:
    shown, classes = report.shown, report.class_names
    cards = []
    for id_, at, value in zip(
        top_examples.ids, shown.ids.positions(top_examples.ids).tolist(), top_examples.values.tolist(), strict=True
    ):
        given, true = (None if labels is None else int(labels[at]) for labels in (shown.given, shown.true))
        cards.append(
            {
                "position": at,
                "id": id_,
                "value": _signed(value),
                "given": classes[given] if given is not None else None,
                "true": classes[true] if true is not None and true != given else None,
                "row": _row(shown, at),
            }
        )
    return cards


def _specs(report: ReportData) -> dict[str, Any]:
    """Every chart that has something to show."""
    shown, specs = report.shown, {}
    if report.verdict is not None and report.verdict.outcomes:
        specs["accuracies"] = charts.accuracies(report.verdict.outcomes)
    if report.verdict is not None and report.verdict.comparisons:
        specs["effects"] = charts.effects(report.verdict.comparisons)
    if report.data_map is not None and len(shown):
        specs["map"] = charts.data_map(truth=shown.true is not None, pictures=shown.pictures is not None)
    if report.embedding is not None and len(report.embedding.positions):
        known = tuple(name for name in ("given", "predicted", "true") if getattr(shown, name) is not None)
        look: dict[str, Any] = {"known": known, "pictures": shown.pictures is not None}
        if report.scores:
            specs["embedding"] = charts.embedding(report.embedding, **look)
        if shown.given is not None and (len(report.class_names) <= charts.COLOURED or not report.scores):
            specs["embedding-class"] = charts.embedding(report.embedding, report.class_names, **look)
    if report.by_class is not None and report.by_class.after is not None and len(report.class_names) <= MOST_CHARTED:
        specs["classes"] = charts.class_shares(report.class_names, report.by_class)
    for place, probe in enumerate(report.probes):
        specs[f"probe-{place}"] = charts.probed(probe)
    if report.trajectories is not None and report.trajectories.epochs and len(shown):
        specs["lines"] = charts.trajectories(
            report.trajectories.epochs, truth=shown.true is not None, noun=report.trajectories.noun
        )
    by_epoch = [one for one in report.learning if not one.over]
    for part in ("accuracy", "loss"):
        if any(getattr(one, part) is not None for one in by_epoch):
            specs[f"learning-{part}"] = charts.learning(by_epoch, part)
    for place, one in enumerate(report.histograms):
        specs[f"histogram-{place}"] = charts.histogram(one, _scores(report, one.title).unit)
    for place, influence in enumerate(report.influences):
        unit = _scores(report, influence.title).unit
        if influence.epochs and len(influence.harmful.ids):
            specs[f"influence-{place}-time"] = charts.over_time(influence, unit, _names(influence))
        if influence.wrong is not None:
            specs[f"influence-{place}-labels"] = charts.labels_over_time(influence, unit)
        if any(0 < norm < math.inf for _, norm in influence.norms):
            specs[f"influence-{place}-norms"] = charts.adjoints(influence)
    for place, comparison in enumerate(report.comparisons):
        specs[f"comparison-{place}"] = charts.score_comparison(comparison)
    for place, curve in enumerate(report.curves):
        specs[f"curve-{place}-test"] = charts.curve(curve, "test")
        specs[f"curve-{place}-validation"] = charts.curve(curve, "validation")
    if report.agreement is not None and len(report.agreement.titles) > 1:
        specs["agreement"] = charts.agreement(report.agreement)
        if report.agreement.overlaps is not None:
            specs["overlaps"] = charts.overlaps(report.agreement)
    if report.found:
        specs["detection"] = charts.detection(report.found)
    return specs


def _data(report: ReportData) -> dict[str, Any]:
    """What the table, the data map and the chosen examples read: one list per fact, in the order of the shown."""
    shown = report.shown
    data: dict[str, Any] = {
        "total": report.examples,
        "classes": list(report.class_names),
        # Text, because JavaScript has no 64-bit integers.
        "ids": [str(id_) for id_ in shown.ids],
        "numeric": shown.ids.numeric,
        "given": shown.given.tolist() if shown.given is not None else None,
        "predicted": shown.predicted.tolist() if shown.predicted is not None else None,
        "true": shown.true.tolist() if shown.true is not None else None,
        "damaged": shown.damaged.tolist() if shown.damaged is not None else None,
        "columns": list(shown.columns),
        "rows": [list(row) for row in shown.rows] if shown.rows is not None else None,
        "pictures": [base64.b64encode(thumbnail(image)).decode() for image in shown.pictures]
        if shown.pictures is not None
        else None,
        "methods": [_method(report, scores) for scores in report.scores],
        "rankOnly": RANK_ONLY,
        "probs": _numbers(shown.predicted_probs, 4) if shown.predicted_probs is not None else None,
        "opening": _places(report.opening),
        "title": report.title,
    }
    if report.dataset:
        data["review"] = {
            "schema": SCHEMA,
            "dataset": report.dataset,
            "decision": report.decision.fingerprint if report.decision is not None else "",
            "title": report.decision.title if report.decision is not None else "",
        }
    if report.decision is not None:
        place = report.decision.ids.positions(shown.ids, "the decision").tolist()
        reasons: dict[str, int] = {}
        data["decision"] = {
            "actions": [Action(int(report.decision.actions[i])).name.lower() for i in place],
            "labels": report.decision.labels[place].tolist(),
            "weights": _numbers(report.decision.weights[place]),
            "reason": [reasons.setdefault(report.decision.reasons[i], len(reasons)) for i in place],
            "reasons": list(reasons),
            "sample": _sample(report),
        }
    if report.data_map is not None:
        data["map"] = {name: _numbers(getattr(report.data_map, name), 4) for name in ("confidence", "variability", "correctness")}
    if report.embedding is not None:
        one = report.embedding
        data["embedding"] = {
            "positions": one.positions.tolist(),
            "across": _numbers(one.across, 4),
            "up": _numbers(one.up, 4),
        }
    if report.trajectories is not None:
        probs = report.trajectories.target_probs
        steps = torch.where(probs.isnan(), VISITED_NOT, (probs.nan_to_num() * STEPS).round().clamp(max=STEPS)).to(torch.uint8)
        data["lines"] = {
            "epochs": list(report.trajectories.epochs),
            "steps": STEPS,
            "gap": VISITED_NOT,
            "values": base64.b64encode(steps.contiguous().numpy().tobytes()).decode(),
        }
    return data


def _places(order: Sequence[int]) -> list[int]:
    """From positions in an order to the place of each position in it."""
    places = [0] * len(order)
    for place, position in enumerate(order):
        places[position] = place
    return places


def _sample(report: ReportData) -> list[int | None] | None:
    """Place of each shown example in a random order of what the decision touches; None unless all of that is shown."""
    assert report.decision is not None
    turns = {id_: turn for turn, id_ in enumerate(sample_order(suspects_of(report.decision)))}
    places = [turns.get(id_) for id_ in report.shown.ids]
    return places if turns and len(turns) == sum(place is not None for place in places) else None


def _method(report: ReportData, scores) -> dict[str, Any]:
    """One score of the shown examples with ranks among all scored ones; null where the method cannot speak."""
    place = {id_: i for i, id_ in enumerate(scores.ids)}
    at = [place.get(id_) for id_ in report.shown.ids]
    values, ranks = scores.values.tolist(), scores.ranks().tolist()
    halves = None
    if scores.repeats is not None and len(scores.repeats) > 1:
        low, high = scores.interval()
        half = ((high - low) / 2).tolist()
        halves = [None if i is None else _number(half[i], 3) for i in at]
    return {
        "title": scores.title,
        "direction": scores.direction.value,
        "unit": scores.unit,
        "scored": len(scores),
        "suspects": scores.direction.ranks_suspects,
        "warnings": list(scores.warnings),
        "values": [None if i is None else _number(values[i]) for i in at],
        "halves": halves,
        "repeats": len(scores.repeats) if halves is not None else None,
        "ranks": [None if i is None else ranks[i] for i in at],
    }


def _measure(value: float) -> str:
    """A correlation or slope, which NaN leaves undefined."""
    return "–" if math.isnan(value) else minus(f"{value:.3f}")


def _signed(value: float) -> str:
    return minus(f"{value:+#.3g}")


def _numbers(values: Tensor, digits: int = 6) -> Sequence[float | None]:
    return [_number(value, digits) for value in values.to(torch.float64).tolist()]


def _number(value: float, digits: int = 6) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
