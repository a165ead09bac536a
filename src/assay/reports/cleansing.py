"""The page of a study of cleansing."""

import statistics
from collections.abc import Sequence

from ..core.cleansing import NO_REMOVAL, Cleansed, CleansingStudy
from ..core.curve import RANDOM
from .charts import Spec, framed
from .html import minus
from .protocol import Part, deviations, render_protocol, sized


def render_cleansing(study: CleansingStudy) -> str:
    """The page of one study, the same bytes for the same study."""
    n = len(study.seeds)
    lead = (
        f"{len(study.trained):,} trainings: with all examples, without the worst by {len(study.methods)} "
        f"{'method' if len(study.methods) == 1 else 'methods'}, and without as many at random, in {n} {'trial' if n == 1 else 'trials'}."
    )
    parts = [
        Part(
            "Accuracy against removals",
            "Test accuracy, mean over trials, against how many of the worst were left out; bars are standard deviations. The band is no removal, "
            "mean ± 1 standard deviation.",
            accuracies(study),
            ("method", "removed", "validation loss", "validation accuracy, %", "test loss", "test accuracy, %"),
            [_row(method, count, study.of(method, count)) for method, count in _cells(study)],
        ),
        Part(
            "Chosen counts",
            "How many to remove, chosen in each trial on the validation examples by which the scores were made too, among those predicted to do harm "
            "where the method says so; the test examples had no say.",
            None,
            ("method", "trial", "predicted harmful", "removed", "test accuracy, %", "with nothing removed, %"),
            [
                (
                    one.method,
                    str(one.seed),
                    "–" if one.harmful is None else f"{one.harmful:,}",
                    f"{one.removed:,}",
                    _percent([found]),
                    _percent([none]),
                )
                for method in study.methods
                for one, found, none in zip(
                    sorted((each for each in study.chosen if each.method == method), key=lambda each: each.seed),
                    study.at_choice(method),
                    study.of(NO_REMOVAL, 0),
                    strict=True,
                )
            ],
        ),
        Part(
            "Storage",
            "What must be on disk for a method to score the recorded training. Files as they are, or worked out from the tensors of one state; published bytes are of their source's own training.",
            None,
            ("method", "what is kept", "states", "bytes", "how known"),
            [(one.method, one.what, f"{one.states:,}", sized(one.bytes), one.known) for one in study.storage],
            2,
        ),
    ]
    if study.contests:
        parts.insert(1, _contests(study))
    if study.published:
        parts.append(
            Part(
                "Published",
                "Test accuracies of the published figures, read off them by eye; their protocols differ from this one as the deviations say.",
                None,
                ("method", "source", "how known", "removed", "test accuracy, %"),
                [(one.what, one.source, one.known, one.removed, f"{100 * one.accuracy:.2f}") for one in study.published],
                3,
            )
        )
    elif study.deviations:
        parts.append(
            Part(
                "Published",
                "Published numbers of these data are not obtainable: the sources at hand have MNIST and CIFAR-10 only.",
            )
        )
    parts += deviations(study.deviations)
    return render_protocol(study, f"Cleansing: {study.facts.get('data', '')}", lead, parts)


def _contests(study: CleansingStudy) -> Part:
    rows = []
    for one in study.contests:
        found = one.comparison
        within = "–" if found.low is None or found.high is None else f"{_points(found.low)} to {_points(found.high)}"
        mark = ("▲ " if found.effect > 0 else "▼ ") if found.significant else ""
        removed = "as chosen" if one.removed is None else f"{one.removed:,}"
        adjusted = "–" if found.adjusted is None else f"{found.adjusted:.3g}"
        rows.append((one.method, found.baseline, removed, f"{mark}{_points(found.effect)}", within, f"{found.p:.3g}", adjusted))
    return Part(
        "Comparisons",
        "Difference in test accuracy, in points, in pairs over trials. ▲ and ▼ are significant: p below .05 after correction (Holm) for everything that "
        "the study tests.",
        None,
        ("method", "against", "removed", "difference", "95 % interval over trials", "p", "corrected p"),
        rows,
        2,
    )


def _points(difference: float) -> str:
    return minus(f"{100 * difference:+.2f}")


def _cells(study: CleansingStudy) -> list[tuple[str, int]]:
    return [(NO_REMOVAL, 0), *((method, count) for method in (*study.methods, RANDOM) for count in study.counts)]


def _row(method: str, count: int, found: Sequence[Cleansed]) -> tuple[str, ...]:
    def mean(field: str) -> str:
        return f"{statistics.fmean(getattr(one, field) for one in found):.4f}"

    validation = f"{100 * statistics.fmean(one.validation_accuracy for one in found):.2f}"
    return method, f"{count:,}", mean("validation_loss"), validation, mean("test_loss"), _percent(found)


def _percent(found: Sequence[Cleansed]) -> str:
    """Mean test accuracy in percent, with its standard deviation where there are several trainings."""
    values = [100 * one.test_accuracy for one in found]
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def accuracies(study: CleansingStudy) -> Spec:
    """Mean test accuracy against the number removed, on a log scale: a line for each method and for random removal, a band for no removal."""
    import altair as alt

    rows = []
    for method, count in _cells(study)[1:]:
        values = [100 * one.test_accuracy for one in study.of(method, count)]
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append({"method": method, "removed": count, "accuracy": mean, "low": mean - spread, "high": mean + spread})
    none = [100 * one.test_accuracy for one in study.of(NO_REMOVAL, 0)]
    mean, spread = statistics.fmean(none), statistics.stdev(none) if len(none) > 1 else 0.0
    scale = alt.Scale(zero=False, padding=6)
    x = alt.X(
        "removed:Q", title="removed", scale=alt.Scale(type="log", nice=False, padding=10), axis=alt.Axis(tickCount=6, format="~s")
    )
    color = alt.Color(
        "method:N",
        title=None,
        scale=alt.Scale(domain=[*study.methods, RANDOM], scheme="tableau10"),
        legend=alt.Legend(symbolType="circle", columns=2, labelLimit=320),
    )
    band = (
        alt.Chart(alt.Data(values=[{"low": mean - spread, "high": mean + spread}]))
        .mark_rect(style="muted", opacity=0.25)
        .encode(y=alt.Y("low:Q", title="test accuracy, %", scale=scale), y2="high:Q")
    )
    level = (
        alt.Chart(alt.Data(values=[{"accuracy": mean}]))
        .mark_rule(style="guide", strokeDash=[5, 4])
        .encode(y=alt.Y("accuracy:Q", title="test accuracy, %", scale=scale))
    )
    base = alt.Chart(alt.Data(values=rows))
    bars = base.mark_rule(opacity=0.5).encode(
        x=x, y=alt.Y("low:Q", title="test accuracy, %", scale=scale), y2="high:Q", color=color
    )
    lines = base.mark_line(point={"size": 30, "filled": True}, strokeWidth=1.6).encode(
        x=x,
        y=alt.Y("accuracy:Q", title="test accuracy, %", scale=scale),
        color=color,
        tooltip=["method:N", alt.Tooltip("removed:Q", format=",.0f"), alt.Tooltip("accuracy:Q", format=".2f")],
    )
    return framed(alt.layer(band, level, bars, lines), "Test accuracy against the number of examples removed", 340)
