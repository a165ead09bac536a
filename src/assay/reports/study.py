"""One HTML file out of one study: no network, no second file, nothing computed but means and spreads."""

import statistics
from typing import Any

from ..core.study import ACCURACY, ALL, EASY, HARD, RANDOM, PowerLawFit, Study
from . import charts
from .charts import Spec, framed
from .html import CHARTS, environment, minus, policy, read, scripts

TITLES = {"scaling": "Pruning against the power law", "difficulty": "Which measure of difficulty to prune by"}
"""What each study is called on its page."""

DASHES = [[1, 0], [6, 3], [2, 2]]
"""Lines of the hardest, the easiest, and of what is neither."""


def render_study(study: Study) -> str:
    """The page of one study, the same bytes for the same study.

    Returns:
        HTML that loads nothing: charts and tables are inside, and its Content-Security-Policy forbids any request.
    """
    inlined = scripts([f"vendor/{name}" for name in CHARTS] + ["theme.js", "study.js"])
    made = environment()
    made.filters["minus"] = minus
    return made.get_template("study.html.j2").render(
        study=study,
        title=f"{TITLES.get(study.name, study.name)}: {study.facts.get('data', '')}",
        style=read("page.css"),
        scripts=inlined,
        policy=policy(inlined),
        specs=_specs(study),
        contests=_contests(study),
        angles=_angles(study),
        published=_published(study),
    )


def _specs(study: Study) -> dict[str, Spec]:
    """Every chart that has something to show."""
    specs = {f"kept-{place}": kept(study, size) for place, size in enumerate(study.sizes)}
    if len(study.sizes) > 1:
        specs["frontier"] = frontier(study)
        for place, metric in enumerate(study.metrics):
            specs[f"hard-{place}"] = against_law(study, HARD, metric)
            specs[f"easy-{place}"] = against_law(study, EASY, metric)
    if study.agreement is not None:
        specs["agreement"] = charts.agreement(study.agreement)
    for place, angle in enumerate(_angles(study)):
        specs[f"theory-{place}"] = theory(study, angle)
    return specs


def _contests(study: Study) -> list[dict[str, Any]]:
    """One row for each choice, with its three comparisons."""
    rows: dict[tuple[str, float, float], dict[str, Any]] = {}
    for one in study.contests:
        row = rows.setdefault(
            (one.metric, one.size, one.fraction),
            {"metric": one.metric, "size": one.size, "fraction": one.fraction, "examples": one.examples, "found": []},
        )
        row["found"].append(one.comparison)
    return list(rows.values())


def _published(study: Study) -> list[tuple[str, ...]]:
    """Every published number, how it is known, and what this study has of it; accuracies in percent."""

    def shown(section: str, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.2f} %" if section == ACCURACY else minus(f"{value:.4g}")

    return [
        (
            one.section,
            one.row,
            one.column,
            one.source,
            one.known,
            shown(one.section, one.value),
            shown(one.section, study.beside(one)),
        )
        for one in study.published
    ]


def _angles(study: Study) -> list[float]:
    return sorted({one.angle for one in study.theory})


def _law(study: Study) -> PowerLawFit | None:
    return next((law for law in study.laws if law.arm == ALL and not law.floor), None)


def _choices(study: Study, arm: str, metric: str) -> list[tuple[float, float, float, list[float]]]:
    """Size, fraction, mean number of examples and errors of every choice of an arm."""
    cells: dict[tuple[float, float], list[float]] = {}
    for one in study.trained:
        if (one.arm, one.metric) == (arm, metric):
            cells.setdefault((one.size, one.fraction), []).append(one.examples)
    return [
        (size, fraction, statistics.fmean(counts), study.errors(arm, metric, size, fraction))
        for (size, fraction), counts in cells.items()
    ]


def _spread(errors: list[float]) -> float:
    return statistics.stdev(errors) if len(errors) > 1 else 0.0


def kept(study: Study, size: float) -> Spec:
    """Mean test error against the kept fraction of one size, a line for each way of choosing, and a band for training on all examples."""
    import altair as alt

    rows, whole = [], study.errors(ALL, "", size, 1.0)
    for arm, metric in [(RANDOM, "")] + [(arm, metric) for metric in study.metrics for arm in (HARD, EASY)]:
        found = [(fraction, n, errors) for of, fraction, n, errors in _choices(study, arm, metric) if of == size]
        count = [one.examples for one in study.trained if (one.arm, one.size) == (ALL, size)]
        for fraction, n, errors in [*found, (1.0, statistics.fmean(count), whole)]:
            mean, spread = statistics.fmean(errors), _spread(errors)
            rows.append(
                {
                    "measure": metric or RANDOM,
                    "arm": arm,
                    "fraction": fraction,
                    "examples": n,
                    "error": 100 * mean,
                    "low": 100 * (mean - spread),
                    "high": 100 * (mean + spread),
                }
            )
    mean, spread = statistics.fmean(whole), 2 * _spread(whole)
    measures = [*study.metrics, RANDOM]
    scale = alt.Scale(zero=False, padding=6)
    y = alt.Y("error:Q", title="test error, %", scale=scale)
    look: dict[str, Any] = {
        "x": alt.X(
            "fraction:Q",
            title="kept",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(zero=False, padding=8, reverse=True),
        ),
        "color": _measured(alt, measures),
        "strokeDash": alt.StrokeDash(
            "arm:N", title=None, scale=alt.Scale(domain=[HARD, EASY, RANDOM], range=DASHES), legend=_dashed(alt)
        ),
        "detail": "arm:N",
        "tooltip": [
            "measure:N",
            "arm:N",
            alt.Tooltip("fraction:Q", format=".0%"),
            alt.Tooltip("examples:Q", format=",.0f"),
            alt.Tooltip("error:Q", format=".2f"),
        ],
    }
    band = (
        alt.Chart(alt.Data(values=[{"low": 100 * (mean - spread), "high": 100 * (mean + spread)}]))
        .mark_rect(style="muted", opacity=0.25)
        .encode(y=alt.Y("low:Q", title="test error, %", scale=scale), y2="high:Q")
    )
    base = alt.Chart(alt.Data(values=rows))
    bars = base.mark_rule(opacity=0.5).encode(
        x=look["x"], y=alt.Y("low:Q", title="test error, %", scale=scale), y2="high:Q", color=look["color"]
    )
    lines = base.mark_line(point={"size": 26, "filled": True}, strokeWidth=1.6).encode(y=y, **look)
    return framed(alt.layer(band, bars, lines), f"Test error against the kept fraction, chosen from {size:.0%} of the data", 280)


def against_law(study: Study, arm: str, metric: str) -> Spec:
    """Mean test error against the number of examples, a line for each kept fraction, and the power law of training on all examples."""
    import altair as alt

    found = [*_choices(study, ALL, ""), *_choices(study, arm, metric)]
    rows = [
        {"fraction": fraction, "size": size, "examples": n, "error": 100 * statistics.fmean(errors)}
        for size, fraction, n, errors in found
        if statistics.fmean(errors) > 0
    ]
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 30, "filled": True}, strokeWidth=1.6)
        .encode(
            x=_examples(alt),
            y=_error(alt),
            detail="fraction:N",
            color=alt.Color(
                "fraction:Q",
                title="kept",
                scale=alt.Scale(domain=[0, 1], range="ramp", interpolate="lab"),
                legend=alt.Legend(format="%", gradientLength=120, tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("fraction:Q", title="kept", format=".0%"),
                alt.Tooltip("size:Q", title="chosen from", format=".0%"),
                alt.Tooltip("examples:Q", format=",.0f"),
                alt.Tooltip("error:Q", title="test error, %", format=".2f"),
            ],
        )
    )
    return framed(alt.layer(*_lawful(alt, study), lines), f"Test error against examples, the {arm} by {metric}", 260)


def frontier(study: Study) -> Spec:
    """The frontier of every measure: the points that no other choice with so few examples beats; filled where significantly below the power law of
    training on all examples, which is drawn too."""
    import altair as alt

    rows = [
        {
            "measure": one.metric,
            "examples": one.examples,
            "error": 100 * one.error,
            "what": "everything" if one.arm == ALL else f"{one.fraction:.0%} {one.arm} of {one.size:.0%}",
            "below": "significantly below the law" if one.below else "not",
        }
        for one in study.frontiers
        if one.error > 0
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=_examples(alt),
        y=_error(alt),
        color=_measured(alt, list(study.metrics)),
        tooltip=[
            "measure:N",
            "what:N",
            alt.Tooltip("examples:Q", format=",.0f"),
            alt.Tooltip("error:Q", title="test error, %", format=".2f"),
            "below:N",
        ],
    )
    filled = alt.condition("datum.below !== 'not'", alt.value(1), alt.value(0))
    points = base.mark_point(size=70, filled=True, strokeWidth=1.5, opacity=1).encode(
        fillOpacity=filled, stroke=_measured(alt, list(study.metrics))
    )
    layers = [*_lawful(alt, study), base.mark_line(strokeWidth=1.5), points]
    return framed(
        alt.layer(*layers), "Frontiers of test error against examples; filled points lie significantly below the law", 340
    )


def theory(study: Study, angle: float) -> Spec:
    """The perceptron's error against the number of kept examples divided by the dimension, a line for each way of choosing."""
    import altair as alt

    curves = [one for one in study.theory if one.angle == angle or one.fraction == 1]
    rows = [
        {"keep": "everything" if one.fraction == 1 else one.keep, "fraction": one.fraction, "alpha": alpha, "error": error}
        for one in curves
        for alpha, error in zip(one.alphas, one.errors, strict=True)
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.7)
        .encode(
            x=alt.X(
                "alpha:Q",
                title="kept examples / dimension",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=[0.3, 0.5, 1, 2, 5, 10], format="~g"),
            ),
            y=alt.Y("error:Q", title="generalisation error", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g")),
            color=alt.Color(
                "fraction:Q",
                title="kept",
                scale=alt.Scale(domain=[0, 1], range="ramp", interpolate="lab"),
                legend=alt.Legend(format="%", gradientLength=120, tickCount=3),
            ),
            strokeDash=alt.StrokeDash(
                "keep:N", title=None, scale=alt.Scale(domain=[HARD, EASY, "everything"], range=DASHES), legend=_dashed(alt)
            ),
            tooltip=[
                "keep:N",
                alt.Tooltip("fraction:Q", format=".0%"),
                alt.Tooltip("alpha:Q", format=".3g"),
                alt.Tooltip("error:Q", format=".3g"),
            ],
        )
    )
    return framed(chart, f"Error of the perceptron with its probe at {angle:g} degrees to the teacher", 300)


def _lawful(alt, study: Study) -> list[Any]:
    """The law as a dashed line, where there is one."""
    law = _law(study)
    if law is None:
        return []
    counts = [one.examples for one in study.trained]
    ends = [{"examples": n, "error": 100 * law(n)} for n in (min(counts), max(counts))]
    line = alt.Chart(alt.Data(values=ends)).mark_line(strokeDash=[5, 4], strokeWidth=1.6, style="guide")
    return [line.encode(x=_examples(alt), y=_error(alt))]


def _examples(alt):
    return alt.X(
        "examples:Q",
        title="examples trained on",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=alt.Axis(tickCount=6, format="~s"),
    )


def _error(alt):
    scale = alt.Scale(type="log", nice=False, padding=10)
    return alt.Y("error:Q", title="test error, %", scale=scale, axis=alt.Axis(tickCount=6, format="~g"))


def _dashed(alt):
    return alt.Legend(
        symbolType="stroke", symbolSize=400, symbolStrokeWidth=1.8, symbolStrokeColor="gray", symbolFillColor="transparent"
    )


def _measured(alt, measures: list[str]):
    """A colour for each measure, from a palette that does not depend on the theme."""
    return alt.Color(
        "measure:N",
        title=None,
        scale=alt.Scale(domain=measures, scheme="tableau10"),
        legend=alt.Legend(symbolType="circle", columns=2, labelLimit=260),
    )
