"""The charts of the page as Vega-Lite specifications. Each takes numbers that are already computed; colours come from the page's theme."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from ..core.curve import NONE, WORST, Curve, Removal
from ..core.curve import RANDOM as AT_RANDOM
from ..core.probe import Probe
from ..core.report_data import Agreement, ClassCounts, EmbeddingMap, Histogram, Influence, LearningCurve, ScoreComparison
from ..core.scores import CHANGE
from ..core.trial import ALL, KEPT, RANDOM, Comparison, Detection, Outcome

Spec = dict[str, Any]

ARMS = {KEPT: "decision", RANDOM: "random control", ALL: "all data"}
"""How the three arms are called on the page."""

RIGHT, WRONG = "right label", "wrong label"
HELPFUL, HARMFUL = "most helpful", "most harmful"
LEFT_OUT = {WORST: "the worst", AT_RANDOM: "random, mean", NONE: "none"}
"""How the arms of a curve are called on the page."""

DOTTED = 15
"""Lines of at most so many epochs carry a dot per epoch."""


def arm(name: str) -> str:
    """An arm's name on the page."""
    return ARMS.get(name, name)


def data_map(*, truth: bool, pictures: bool) -> Spec:
    """Confidence against variability, coloured by correctness; the page fills the datasets `examples` and `chosen` and listens to the selections
    `brush` and `pick`.
    """
    import altair as alt

    x = alt.X("variability:Q", title="variability", scale=alt.Scale(domain=[0, 0.5]))
    y = alt.Y("confidence:Q", title="confidence", scale=alt.Scale(domain=[0, 1]))
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("image",) * pictures + ("id", "given", "predicted") + ("true",) * truth]
    tooltip += [alt.Tooltip(f"{field}:Q", format=".3f") for field in ("confidence", "variability", "correctness")]
    color = alt.Color(
        "correctness:Q",
        title="correctness",
        scale=alt.Scale(domain=[0, 1], interpolate="lab"),
        legend=alt.Legend(gradientLength=120),
    )
    return framed(
        _chosen_from(x, y, color, tooltip, truth=truth), "Data map: confidence against variability of each example", height=380
    )


def trajectories(epochs: Sequence[int], *, truth: bool, noun: str = "epoch") -> Spec:
    """Probability of the given label by epoch, or by pass; the page fills the dataset `lines`."""
    import altair as alt

    ends = _ends(epochs)
    chart = (
        alt.Chart(alt.NamedData("lines"))
        .mark_line(point={"size": 16} if len(epochs) <= DOTTED else False, strokeWidth=1.3, opacity=0.75)
        .encode(
            x=alt.X("epoch:Q", title=noun, axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(domain=ends, nice=False)),
            y=alt.Y("probability:Q", title="probability of given label", scale=alt.Scale(domain=[0, 1])),
            detail="position:Q",
            tooltip=["id:N", "given:N", alt.Tooltip("epoch:Q", title=noun), alt.Tooltip("probability:Q", format=".2f")],
        )
    )
    if truth:
        chart = chart.encode(color=_label_color(alt))
    return framed(chart, f"Probability of the given label by {noun}, one line per chosen example", height=200)


def learning(curves: Sequence[LearningCurve], what: Literal["accuracy", "loss"]) -> Spec:
    """Accuracy in percent, or loss, of the recorded model by epoch, one line per part of the data; values that are not finite are left out."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"part": one.part, "epoch": epoch, "value": _rounded(100 * value if what == "accuracy" else value)}
        for one in curves
        if (values := getattr(one, what)) is not None
        for epoch, value in zip(one.epochs, values.tolist(), strict=True)
        if math.isfinite(value)
    ]
    ends = _ends(sorted({row["epoch"] for row in rows} or {0}))
    # All parts are in the domain, so that each has one colour in both charts.
    domain = ["test", "training", "validation", "held out"]
    parts = [part for part in domain if any(row["part"] == part for row in rows)]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 22}, strokeWidth=1.6)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=_whole(alt, ends), scale=alt.Scale(domain=ends, nice=False)),
            y=alt.Y(
                "value:Q",
                title="labels predicted, %" if what == "accuracy" else "mean loss, nats",
                scale=alt.Scale(zero=what == "loss"),
                axis=alt.Axis(tickCount=5),
            ),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=domain, range="ordinal"),
                legend=alt.Legend(orient="top", symbolType="circle", values=parts),
            ),
            tooltip=["part:N", "epoch:Q", alt.Tooltip("value:Q", title=what, format=".4g")],
        )
    )
    return framed(chart, f"{what.capitalize()} of the recorded model by epoch", height=150)


def histogram(one: Histogram, unit: str) -> Spec:
    """Counts per bin of one score; wrong labels are shown separately where they are known."""
    import altair as alt

    edges, counts = one.edges.tolist(), one.counts.tolist()
    wrong = one.wrong.tolist() if one.wrong is not None else [0] * len(counts)
    bars = [
        {"low": low, "high": high, "count": count, "label": label}
        for low, high, total, bad in zip(edges[:-1], edges[1:], counts, wrong, strict=True)
        for label, count in ((RIGHT, total - bad), (WRONG, bad))
        if count
    ]
    chart = (
        alt.Chart(alt.Data(values=bars))
        .mark_bar(binSpacing=0.5)
        .encode(
            x=alt.X("low:Q", bin="binned", title=unit, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=False)),
            x2="high:Q",
            y=alt.Y("count:Q", title="examples", axis=alt.Axis(tickCount=4)),
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".4g"),
                alt.Tooltip("high:Q", title="to", format=".4g"),
                "count:Q",
            ],
        )
    )
    if one.wrong is not None:
        chart = chart.encode(
            color=_label_color(alt, legend=False),
            order=alt.Order("label:N", sort="descending"),
            tooltip=[
                "label:N",
                alt.Tooltip("low:Q", title="from", format=".4g"),
                alt.Tooltip("high:Q", title="to", format=".4g"),
                "count:Q",
            ],
        )
    return framed(chart, f"Distribution of {one.title}", height=140)


def agreement(table: Agreement) -> Spec:
    """Rank correlations as a heat map with numbers; their intervals and the overlap show at a cell."""
    more: dict[str, Any] = {}
    if table.low is not None and table.high is not None and table.overlaps is not None:
        more = {"low": table.low.tolist(), "high": table.high.tolist(), "overlap": table.overlaps.tolist()}
    values = {"correlation": table.correlations.tolist(), **more}
    return _heat(table.titles, values, "correlation", f"{table.measure} between methods")


def overlaps(table: Agreement) -> Spec:
    """Overlap of the first examples of every two rankings as a heat map with numbers."""
    assert table.overlaps is not None
    values = {"overlap": table.overlaps.tolist()}
    return _heat(table.titles, values, "overlap", f"Overlap of the first {table.budget:,} of two rankings")


def _heat(titles: Sequence[str], values: dict[str, list[list[float]]], shown: str, description: str) -> Spec:
    import altair as alt

    cells = [
        {
            "one": one,
            "other": other,
            **{name: _digits(rows[i][j]) for name, rows in values.items() if i != j or name == shown},
        }
        for i, one in enumerate(titles)
        for j, other in enumerate(titles)
    ]
    names = list(titles)
    tooltip: list[Any] = ["one:N", "other:N", *(alt.Tooltip(f"{name}:Q", format=".3f") for name in values)]
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("one:N", title=None, sort=names, axis=alt.Axis(labelAngle=-45, labelLimit=140)),
        y=alt.Y("other:N", title=None, sort=names, axis=alt.Axis(labelLimit=140)),
        tooltip=tooltip,
    )
    scale = alt.Scale(domain=[-1, 1], domainMid=0, interpolate="lab")
    heat = base.mark_rect().encode(color=alt.Color(f"{shown}:Q", title=None, scale=scale, legend=None))
    numbers = base.mark_text(fontSize=11).encode(text=alt.Text(f"{shown}:Q", format=".2f"))
    return framed(alt.layer(heat, numbers), description, height=30 * len(names))


def _digits(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def probed(probe: Probe) -> Spec:
    """How well each method finds the flipped labels: AUC with its interval, the best first."""
    import altair as alt

    rows = [
        {
            "method": one.title,
            "auc": one.auc,
            "low": one.auc if one.low is None else one.low,
            "high": one.auc if one.high is None else one.high,
            "found": one.recovered,
            "told": "told from the best"
            if one.adjusted is not None and one.title not in probe.not_told_apart
            else "not told from the best",
        }
        for one in probe.methods
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("method:N", title=None, sort=[one.title for one in probe.methods], axis=alt.Axis(labelLimit=150)),
        tooltip=[
            "method:N",
            *(alt.Tooltip(f"{field}:Q", format=".4f") for field in ("auc", "low", "high")),
            alt.Tooltip("found:Q", title=f"found in the first {probe.inspected:,}", format=".1%"),
            "told:N",
        ],
    )
    x = alt.X("low:Q", title="AUC, with its 95 % interval", scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=5))
    filled = alt.condition("datum.told === 'not told from the best'", alt.value(1), alt.value(0))
    lines = base.mark_rule(strokeWidth=2).encode(x=x, x2=alt.X2("high:Q"))
    points = base.mark_point(filled=True, size=80, opacity=1, style="effect").encode(x="auc:Q", fillOpacity=filled)
    return framed(alt.layer(lines, points), "How well each method finds the flipped labels", height=24 * len(rows))


BEFORE, AFTER = "everything", "what stays"


def class_shares(names: Sequence[str], counts: ClassCounts) -> Spec:
    """Share of each class in everything and in what a decision leaves, by weight."""
    import altair as alt

    assert counts.after is not None
    rows = [
        {"class": name, "of": of, "share": _rounded(share)}
        for of, shares in ((BEFORE, counts.before), (AFTER, counts.after))
        for name, share in zip(names, shares.tolist(), strict=True)
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            y=alt.Y("class:N", title=None, sort=list(names), axis=alt.Axis(labelLimit=150)),
            yOffset=alt.YOffset("of:N", sort=[BEFORE, AFTER]),
            x=alt.X("share:Q", title="share of the class", axis=alt.Axis(format="%", tickCount=5)),
            # The empty name takes the first of the three colours, which is that of wrong labels.
            color=alt.Color(
                "of:N",
                title=None,
                scale=alt.Scale(domain=["", AFTER, BEFORE], range="ordinal"),
                legend=alt.Legend(orient="top", values=[BEFORE, AFTER]),
            ),
            tooltip=["class:N", "of:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    return framed(chart, "Share of each class in everything and in what the decision leaves", height=26 * len(names))


COLOURED = 20
"""Classes that can be told by colour."""


def embedding(one: EmbeddingMap, classes: Sequence[str] = (), *, known: Sequence[str], pictures: bool) -> Spec:
    """Shown examples in the plane of their features; the page fills the datasets `examples` and `chosen` and listens to `brush` and `pick`.

    Args:
        one: The map.
        classes: Names of the classes by which points are coloured; by default they are coloured by the rank of a score.
        known: Which labels of the examples are known: `given`, `predicted`, `true`.
        pictures: Whether the examples have pictures.
    """
    import altair as alt

    axis = alt.Axis(labels=False, ticks=False, grid=False)
    wide, high = (alt.Scale(domain=_around(values.tolist()), nice=False) for values in (one.across, one.up))
    x = alt.X("across:Q", title="first component", axis=axis, scale=wide)
    y = alt.Y("up:Q", title="second component", axis=axis, scale=high)
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("image",) * pictures + ("id", *known)]
    tooltip += [] if classes else [alt.Tooltip("rank:N"), alt.Tooltip("score:N")]
    color = (
        alt.Color(
            "given:N",
            title=None,
            sort=list(classes),
            scale=alt.Scale(domain=list(classes), scheme="tableau10" if len(classes) <= 10 else "tableau20"),
            legend=alt.Legend(symbolType="circle", columns=5, labelLimit=90),
        )
        if classes
        else alt.Color(
            "first:Q",
            title="last to first by the score",
            scale=alt.Scale(domain=[0, 1], range="ramp", reverse=True, interpolate="lab"),
            legend=alt.Legend(gradientLength=120, values=[]),
        )
    )
    return framed(_chosen_from(x, y, color, tooltip, truth="true" in known), "Map of the examples by their features", height=420)


def _chosen_from(x: Any, y: Any, color: Any, tooltip: Sequence[Any], *, truth: bool) -> Any:
    """Examples as points from which some are chosen by a box or a click, with rings around those that are."""
    import altair as alt

    marks: Spec = {"x": x, "y": y, "color": color, "tooltip": tooltip}
    if truth:
        marks["shape"] = alt.Shape(
            "label:N", title=None, scale=alt.Scale(domain=[RIGHT, WRONG], range=["circle", "triangle-up"]), sort=None
        )
    points = (
        alt.Chart(alt.NamedData("examples"), name="points")
        .mark_point(filled=True, size=34, opacity=0.75)
        .encode(**marks)
        .add_params(
            alt.selection_interval(name="brush", encodings=["x", "y"]),
            alt.selection_point(name="pick", fields=["position"], on="click", clear=False, toggle=False),
        )
    )
    rings = (
        alt.Chart(alt.NamedData("chosen"), name="rings")
        .mark_point(filled=False, size=110, strokeWidth=2, style="chosen")
        .encode(x=x, y=y)
    )
    return alt.layer(points, rings)


def accuracies(outcomes: Sequence[Outcome]) -> Spec:
    """Test accuracy per arm, one line per seed, so that pairs are seen."""
    import altair as alt

    arms = list(
        dict.fromkeys([name for name in ARMS if any(one.arm == name for one in outcomes)] + [one.arm for one in outcomes])
    )
    rows = [
        {
            "arm": arm(one.arm),
            "place": arms.index(one.arm),
            "seed": one.seed,
            "accuracy": 100 * one.accuracy,
            "examples": one.examples,
        }
        for one in outcomes
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 45, "filled": True}, strokeWidth=1, opacity=0.75)
        .encode(
            x=alt.X(
                "arm:N", title=None, sort=[arm(name) for name in arms], axis=alt.Axis(labelAngle=0), scale=alt.Scale(padding=0.35)
            ),
            y=alt.Y("accuracy:Q", title="test accuracy, %", scale=alt.Scale(zero=False, padding=8)),
            detail="seed:N",
            order="place:Q",
            tooltip=["arm:N", "seed:N", alt.Tooltip("accuracy:Q", format=".2f"), "examples:Q"],
        )
    )
    return framed(chart, "Test accuracy of each arm; a line joins the retrainings of one seed", height=220)


def effects(comparisons: Sequence[Comparison]) -> Spec:
    """Differences in accuracy with their intervals; hollow marks where there is no significant difference."""
    import altair as alt

    rows = [
        {
            "pair": f"{arm(one.treatment)}\n− {arm(one.baseline)}",
            "effect": 100 * one.effect,
            # Without an interval the line has no length.
            "low": 100 * (one.effect if one.low is None else one.low),
            "high": 100 * (one.effect if one.high is None else one.high),
            "p": one.p if one.adjusted is None else one.adjusted,
            "finding": "significant" if one.significant else "no significant difference",
        }
        for one in comparisons
    ]
    pairs = [str(row["pair"]) for row in rows]
    # Labels of two lines, so that the chart keeps its width on a phone.
    y = alt.Y("pair:N", title=None, sort=pairs, axis=alt.Axis(labelLimit=220, labelExpr="split(datum.label, '\\n')"))
    hollow = alt.condition("datum.finding === 'significant'", alt.value(1), alt.value(0))
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=y,
        tooltip=[
            "pair:N",
            *(alt.Tooltip(f"{field}:Q", format="+.2f") for field in ("effect", "low", "high")),
            alt.Tooltip("p:Q", format=".3g"),
            "finding:N",
        ],
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3], style="guide").encode(x="zero:Q")
    intervals = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="difference in test accuracy, points", axis=alt.Axis(tickCount=6)), x2=alt.X2("high:Q")
    )
    means = base.mark_point(filled=True, size=100, opacity=1, style="effect").encode(x="effect:Q", fillOpacity=hollow)
    return framed(
        alt.layer(zero, intervals, means), "Differences between arms with 95 % intervals over seeds", height=56 * len(pairs)
    )


def detection(found: Sequence[Detection]) -> Spec:
    """Wrong labels found against examples inspected, one line per score; the page sets the parameter `method` to highlight one line."""
    import altair as alt

    points = [{"title": one.title, "inspected": x, "recovered": y} for one in found for x, y in one.curve]
    method = alt.param(name="method", value=found[0].title)
    lifted = "datum.title === method"
    x = alt.X("inspected:Q", title="examples inspected", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("recovered:Q", title="wrong labels found", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    tooltip = [
        "title:N",
        alt.Tooltip("inspected:Q", format=".1%"),
        alt.Tooltip("recovered:Q", format=".1%"),
    ]
    others = (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=1.2, style="muted")
        .encode(x=x, y=y, detail="title:N", tooltip=tooltip)
    )
    one = (
        alt.Chart(alt.Data(values=points))
        .transform_filter(lifted)
        .mark_line(strokeWidth=2.6)
        .encode(x=x, y=y, order="inspected:Q", tooltip=tooltip)
    )
    chance = (
        alt.Chart(alt.Data(values=[{"inspected": 0, "recovered": 0}, {"inspected": 1, "recovered": 1}]))
        .mark_line(strokeDash=[4, 3], style="guide")
        .encode(x=x, y=y)
    )
    return framed(alt.layer(chance, others, one).add_params(method), "Wrong labels found against examples inspected", height=300)


def over_time(one: Influence, unit: str, names: tuple[str, str] = (HELPFUL, HARMFUL)) -> Spec:
    """Cumulative value of the extreme examples of a score at the end of each epoch."""
    rows = [
        {"id": str(id_), "kind": kind, "epoch": epoch, "value": _rounded(value)}
        for kind, top_examples in zip(names, (one.helpful, one.harmful), strict=True)
        if top_examples.over_time is not None
        for id_, values in zip(top_examples.ids, top_examples.over_time.T.tolist(), strict=True)
        for epoch, value in zip(one.epochs, values, strict=True)
    ]
    return _gathered(one, rows, "id", list(names), unit, f"{one.title}: value of the extreme examples over time")


def labels_over_time(one: Influence, unit: str) -> Spec:
    """Mean cumulative value of examples with right and with wrong labels at the end of each epoch."""
    rows = [
        {"kind": kind, "epoch": epoch, "value": _rounded(value)}
        for kind, values in ((RIGHT, one.right), (WRONG, one.wrong))
        if values is not None
        for epoch, value in zip(one.epochs, values.tolist(), strict=True)
    ]
    return _gathered(one, rows, "kind", [RIGHT, WRONG], unit, f"{one.title}: mean value of right and wrong labels over time")


def _gathered(one: Influence, rows: list[dict[str, Any]], line: str, kinds: list[str], unit: str, description: str) -> Spec:
    import altair as alt

    ends = _ends(one.epochs)
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 16} if len(one.epochs) <= DOTTED else False, strokeWidth=1.3, opacity=0.8)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=_whole(alt, ends), scale=alt.Scale(domain=ends, nice=False)),
            y=alt.Y("value:Q", title=unit if unit == CHANGE else "value", axis=alt.Axis(tickCount=5, format="~g")),
            detail=f"{line}:N",
            color=alt.Color(
                "kind:N", title=None, scale=alt.Scale(domain=kinds, range="category"), legend=alt.Legend(orient="top")
            ),
            tooltip=[f"{line}:N", "epoch:Q", alt.Tooltip("value:Q", format="+.4g")],
        )
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3], style="guide").encode(y="zero:Q")
    return framed(alt.layer(zero, lines), description, height=180)


def adjoints(one: Influence) -> Spec:
    """Norm of the adjoint before each epoch, on a logarithmic axis, so that values of 0 are left out."""
    import altair as alt

    rows = [{"epoch": epoch, "norm": _rounded(norm)} for epoch, norm in one.norms if 0 < norm < math.inf]
    ends = _ends([epoch for epoch, _ in one.norms])
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 30}, strokeWidth=1.5)
        .encode(
            x=alt.X("epoch:Q", title="before epoch", axis=_whole(alt, ends), scale=alt.Scale(domain=ends, nice=False)),
            y=alt.Y("norm:Q", title="norm of the adjoint", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=4, format="~g")),
            tooltip=[alt.Tooltip("epoch:Q", title="before epoch"), alt.Tooltip("norm:Q", format=".4g")],
        )
    )
    return framed(chart, f"{one.title}: norm of the adjoint before each epoch", height=180)


def score_comparison(one: ScoreComparison) -> Spec:
    """One score against its reference, a point per example; with the identity line where both are the same quantity."""
    import altair as alt

    wrong = one.wrong.tolist() if one.wrong is not None else [False] * len(one.ids)
    rows: list[dict[str, Any]] = [
        {"id": str(id_), "x": _rounded(x), "y": _rounded(y), "label": WRONG if bad else RIGHT}
        for id_, x, y, bad in zip(one.ids, one.values.tolist(), one.references.tolist(), wrong, strict=True)
    ]
    said = ("predicted", "measured") if one.measured else (one.title, one.reference)
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=20, opacity=0.6)
        .encode(
            x=alt.X("x:Q", title=f"{said[0]}: {one.title}" if one.measured else said[0], axis=alt.Axis(tickCount=5, format="~g")),
            y=alt.Y(
                "y:Q", title=f"{said[1]}: {one.reference}" if one.measured else said[1], axis=alt.Axis(tickCount=5, format="~g")
            ),
            tooltip=[
                "id:N",
                alt.Tooltip("x:Q", title=one.title, format="+.4g"),
                alt.Tooltip("y:Q", title=one.reference, format="+.4g"),
                *(["label:N"] if one.wrong is not None else []),
            ],
        )
    )
    if one.wrong is not None:
        points = points.encode(color=_label_color(alt))
    layers = [points]
    xs, ys = ([row[axis] for row in rows] for axis in ("x", "y"))
    if one.same and rows and (low := max(min(xs), min(ys))) < (high := min(max(xs), max(ys))):
        # Only as far as both reach, so that it never squeezes the points.
        ends = [{"x": end, "y": end} for end in (low, high)]
        layers.insert(0, alt.Chart(alt.Data(values=ends)).mark_line(strokeDash=[4, 3], style="guide").encode(x="x:Q", y="y:Q"))
    description = f"{one.title} against {one.reference}, a point per example"
    return framed(alt.layer(*layers), description, height=260)


def curve(one: Curve, part: Literal["validation", "test"]) -> Spec:
    """Accuracy against how many examples were left out: the worst, and random ones as mean and range."""
    import altair as alt

    def percent(removal: Removal) -> float:
        return 100 * (removal.validation_accuracy if part == "validation" else removal.test_accuracy)

    none = percent(one.none)
    rows = [
        {"count": removal.count, "arm": LEFT_OUT[removal.arm], "accuracy": percent(removal)}
        for removal in one.removals
        if removal.arm != NONE
    ]
    rows.append({"count": 0, "arm": LEFT_OUT[WORST], "accuracy": none})
    flat = [{"count": count, "arm": LEFT_OUT[NONE], "accuracy": none} for count in (0, *one.counts[-1:])]
    x = alt.X(
        "count:Q",
        title="examples left out",
        # As a logarithm above 1, with a place for 0.
        scale=alt.Scale(type="symlog", constant=1, nice=False, padding=10),
        axis=alt.Axis(values=[0, *one.counts], format=",d", labelOverlap="greedy", labelSeparation=6),
    )
    scale = alt.Scale(zero=False, padding=8)
    arms = [LEFT_OUT[name] for name in (WORST, AT_RANDOM, NONE)]
    look = {
        "x": x,
        "y": alt.Y("mean(accuracy):Q", title=f"{part} accuracy, %", scale=scale, axis=alt.Axis(tickCount=6)),
        "color": alt.Color(
            "arm:N",
            title=None,
            scale=alt.Scale(domain=arms, range="ordinal"),
            legend=alt.Legend(orient="top", symbolType="circle"),
        ),
        "tooltip": [
            "arm:N",
            alt.Tooltip("count:Q", format=",d"),
            alt.Tooltip("mean(accuracy):Q", title="accuracy, %", format=".2f"),
        ],
    }
    base = alt.Chart(alt.Data(values=rows))
    band = (
        base.transform_filter(f"datum.arm === '{LEFT_OUT[AT_RANDOM]}'")
        .mark_area(style="range")
        .encode(x=x, y=alt.Y("min(accuracy):Q", scale=scale), y2="max(accuracy):Q")
    )
    dashes = alt.Chart(alt.Data(values=flat)).mark_line(strokeDash=[5, 4], strokeWidth=1.8).encode(**look)
    lines = base.mark_line(point={"size": 36}, strokeWidth=1.8).encode(**look)
    chosen = alt.Chart(alt.Data(values=[{"count": one.best, "accuracy": percent(one.worst(one.best))}]))
    ring = chosen.mark_point(size=190, filled=False, strokeWidth=2, style="chosen").encode(x=x, y="accuracy:Q")
    description = f"{part.capitalize()} accuracy against how many of the worst by {one.scores} were left out; a ring marks the count chosen, {one.best:,}"
    return framed(alt.layer(band, dashes, lines, ring), description, height=260)


def _rounded(number: float) -> float:
    """Four digits, which is finer than a point is large."""
    return float(f"{number:.4g}")


def _around(values: Sequence[float]) -> list[float]:
    """Both ends of an axis on which no point touches the frame."""
    low, high = min(values), max(values)
    air = 0.03 * (high - low) or 1.0
    return [_rounded(low - air), _rounded(high + air)]


def _ends(epochs: Sequence[int]) -> list[float]:
    """Both ends of an axis of epochs; half an epoch of air around a single one, which a domain of no width could not place."""
    return [epochs[0], epochs[-1]] if len(epochs) > 1 else [epochs[0] - 0.5, epochs[0] + 0.5]


def _whole(alt, ends: Sequence[float]):
    """An axis of whole numbers: all of them while there are few, so that none stands twice."""
    few = ends[-1] - ends[0] <= 10
    values = {"values": list(range(math.ceil(ends[0]), math.floor(ends[-1]) + 1))} if few else {}
    return alt.Axis(format="d", tickMinStep=1, **values)


def _label_color(alt, *, legend: bool = True):
    scale = alt.Scale(domain=[RIGHT, WRONG], range="category")
    return alt.Color("label:N", title=None, scale=scale, legend=alt.Legend(orient="top") if legend else None)


def framed(chart, description: str, height: int) -> Spec:
    """The chart as JSON, as wide as its place on the page."""
    import altair as alt

    chart = chart.properties(
        width="container", height=height, description=description, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    spec = chart.to_dict()
    spec.pop("config", None)  # the theme is the page's, light or dark
    return spec
