"""The page of a study of several sections: a figure and a table each, published numbers beside, and where the study deviates."""

from ..core.fidelity import Spread
from ..core.published import PublishedNumber
from ..core.replication import ReplicationStudy, Section
from .charts import Spec, framed
from .html import minus
from .protocol import Part, deviations, render_protocol

MARKS = {"above": "▲ ", "below": "▼ "}
"""Before a number that is told apart from its control."""
LINES = 12
"""A figure of more rows than this has no line for each, but shows the rows of each column by their order."""


def render_replication(study: ReplicationStudy) -> str:
    """The page of one study, the same bytes for the same study."""
    n = len(study.seeds)
    counted = ((len(study.measured), "number"), (len(study.sections), "section"), (n, "seed"))
    numbers, sections, seeds = (f"{many:,} {word}{'' if many == 1 else 's'}" for many, word in counted)
    lead = f"{numbers} in {sections}, over {seeds}."
    parts = [_part(study, section) for section in study.sections]
    if study.left_out:
        parts.append(
            Part(
                "Left out",
                "What has no number, and why.",
                None,
                ("section", "row", "column", "why"),
                [(one.section, one.row, one.column, one.why) for one in study.left_out],
                4,
            )
        )
    if study.published:
        parts.append(
            Part(
                "Published",
                "Every published number of the same things, how it is known, and the mean over seeds of what is measured here. Where none could be obtained, that is said.",
                None,
                ("section", "row", "column", "source", "how known", "published", "here"),
                [
                    (
                        one.section,
                        one.row,
                        one.column,
                        one.source,
                        one.known,
                        _shown(study, one, one.value),
                        _shown(study, one, study.beside(one)),
                    )
                    for one in study.published
                ],
                5,
            )
        )
    parts += deviations(study.deviations)
    return render_protocol(study, f"Study {study.name}: {study.facts.get('data', '')}", lead, parts)


def _part(study: ReplicationStudy, section: Section) -> Part:
    columns, rows = study.columns(section.name), study.rows(section.name)
    words = (
        f"{section.words} Numbers are {section.measure}{', %' if section.percent else ''}: mean (standard deviation) over seeds, and in brackets a 95 % "
        "interval of the mean."
    )
    if section.control and study.contests:
        words += (
            f" ▲ and ▼ are significantly above and below {section.control}: paired by seed, p below .05 after correction (Holm) for all "
            f"{study.claims} comparisons of the study."
        )
    shown = []
    beside = [one for one in study.published if one.section == section.name and one.value is not None]
    for row in dict.fromkeys((*rows, *(one.row for one in beside))):
        if row in rows:
            shown.append((row, *(_cell(study, section, row, column) for column in columns)))
        for source, known in dict.fromkeys((one.source, one.known) for one in beside if one.row == row):
            by_column = {one.column: _shown(study, one, one.value) for one in beside if (one.row, one.source) == (row, source)}
            shown.append((f"published: {row} ({source}; {known})", *(by_column.get(column, "–") for column in columns)))
    return Part(section.name, words, figure(study, section), (section.columns or "", *columns), shown)


def _cell(study: ReplicationStudy, section: Section, row: str, column: str) -> str:
    found = study.spread(section, row, column)
    if found is None:
        return "–"
    return MARKS.get(study.told(section.name, row, column), "") + shown_spread(found, percent=section.percent)


def shown_spread(found: Spread, *, percent: bool) -> str:
    """Mean, deviation and interval as a cell shows them."""

    def number(value: float) -> str:
        return minus(f"{100 * value:.2f}" if percent else f"{value:.3f}")

    spread = f" ({number(found.std)})" if found.std is not None else ""
    within = f" [{number(found.low)} to {number(found.high)}]" if found.low is not None and found.high is not None else ""
    return f"{number(found.mean)}{spread}{within}"


def _shown(study: ReplicationStudy, one: PublishedNumber, value: float | None) -> str:
    """A number of what was published, as its section shows it."""
    if value is None:
        return "–"
    percent = next((section.percent for section in study.sections if section.name == one.section), False)
    return minus(f"{100 * value:.4g}" if percent else f"{value:.4g}")


def figure(study: ReplicationStudy, section: Section) -> Spec:
    """Means over seeds with bars of one standard deviation: a line for each row where the columns are numbers, else a point for each row and column."""
    import altair as alt

    factor = 100 if section.percent else 1
    columns, rows = study.columns(section.name), study.rows(section.name)
    values = []
    for row in rows:
        for column in columns:
            if (found := study.spread(section, row, column)) is not None:
                mean, std = factor * found.mean, factor * (found.std or 0.0)
                at = _number(column)
                values.append({"row": row, "column": column, "at": at, "value": mean, "low": mean - std, "high": mean + std})
    title = section.measure + (", %" if section.percent else "")
    base = alt.Chart(alt.Data(values=values))
    tip = ["row:N", "column:N", alt.Tooltip("value:Q", format=".4f")]
    if len(columns) > 1 and len(rows) <= LINES and all(_number(column) is not None for column in columns):
        color = alt.Color(
            "row:N",
            title=None,
            scale=alt.Scale(domain=list(rows), scheme="tableau20"),
            legend=alt.Legend(symbolType="circle", columns=2, labelLimit=320),
        )
        x = alt.X("at:Q", title=section.columns, scale=alt.Scale(zero=False, padding=8))
        y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, padding=6))
        bars = base.mark_rule(opacity=0.4).encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=color)
        lines = base.mark_line(point=True).encode(x=x, y=y, color=color, tooltip=tip)
        return framed(alt.layer(bars, lines), f"{section.name}: {title} by {section.columns}, one line for each row", 300)
    color = alt.Color("column:N", title=section.columns or None, scale=alt.Scale(domain=list(columns), scheme="tableau10"))
    by_row = {"y": alt.Y("row:N", title=None, sort=list(rows), axis=alt.Axis(labelLimit=320))}
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=8))
    bars = base.mark_rule(opacity=0.4).encode(x=alt.X("low:Q", title=title), x2="high:Q", color=color, **by_row)
    points = base.mark_point(filled=True, size=45).encode(x=x, color=color, tooltip=tip, **by_row)
    return framed(alt.layer(bars, points), f"{section.name}: {title} by row", max(18 * len(rows), 120))


def _number(column: str) -> float | None:
    """The number that a column is about; None where it is none."""
    try:
        return float(column.removesuffix("%").strip())
    except ValueError:
        return None
