"""The page of a study of fidelity."""

from ..core.fidelity import FidelityStudy, Measure, Spread
from .charts import Spec, framed
from .html import minus
from .protocol import Part, deviations, render_protocol

NAMES: dict[Measure, tuple[str, str]] = {
    "tau": ("Kendall's tau", "over all examples"),
    "spearman": ("Spearman's rank correlation", "over all examples"),
    "jaccard": ("Jaccard overlap", "of the ten smallest and ten largest together"),
}


def render_fidelity(study: FidelityStudy) -> str:
    """The page of one study, the same bytes for the same study."""
    seeds = {one.seed for one in study.truths}
    lead = (
        f"{len(study.methods)} {'method' if len(study.methods) == 1 else 'methods'} against training again without each example, in "
        f"{len(study.cells)} {'setting' if len(study.cells) == 1 else 'settings'}, over {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}."
    )
    parts = [
        Part(
            f"{name}",
            f"{name} {of}, with leave-one-out: mean (standard deviation) over seeds, and in brackets a 95 % interval of the mean, made wider than "
            "Student's because such numbers are skewed."
            + (
                " Published numbers stand below, each with its source and how it is known."
                if _published(study, measure)
                else " Published numbers of these settings and this many examples are not obtainable."
            ),
            agreements(study, measure),
            ("method", *study.cells),
            [
                *(
                    (method, *(_cell(study.spread(setting, method, measure)) for setting in study.cells))
                    for method in study.methods
                ),
                *_published(study, measure),
            ],
        )
        for measure, (name, of) in NAMES.items()
    ]
    truths = [
        (
            one.setting,
            str(one.seed),
            f"{one.alpha:.4g}",
            f"{one.validation_loss:.4f}",
            f"{100 * one.validation_accuracy:.1f}",
            f"{one.seconds:.1f}",
        )
        for one in study.truths
    ]
    columns = ("setting", "seed", "regulariser", "validation loss", "validation accuracy, %", "leave-one-out, s")
    parts.append(
        Part(
            "Trainings", "The training of each seed on all examples, and how long those without each took.", None, columns, truths
        )
    )
    parts += deviations(study.deviations)
    return render_protocol(study, f"Fidelity: {study.facts.get('data', '')}", lead, parts)


def _cell(found: Spread | None) -> str:
    if found is None:
        return "–"
    spread = f" ({found.std:.3f})" if found.std is not None else ""
    within = (
        f" [{minus(f'{found.low:.3f}')} to {minus(f'{found.high:.3f}')}]"
        if found.low is not None and found.high is not None
        else ""
    )
    return f"{minus(f'{found.mean:.3f}')}{spread}{within}"


def _published(study: FidelityStudy, measure: Measure) -> list[tuple[str, ...]]:
    """A row for each published method of each source."""
    found = [one for one in study.published if one.measure == measure]
    rows = []
    for what, source, known in dict.fromkeys((one.what, one.source, one.known) for one in found):
        by_cell = {one.setting: one for one in found if (one.what, one.source, one.known) == (what, source, known)}
        cells = []
        for setting in study.cells:
            one = by_cell.get(setting)
            cells.append("–" if one is None else f"{one.mean:.3g}" + (f" ({one.std:.2f})" if one.std is not None else ""))
        rows.append((f"published: {what} ({source}; {known})", *cells))
    return rows


def agreements(study: FidelityStudy, measure: Measure) -> Spec:
    """Means over seeds by setting and method, a row for each, with bars of one standard deviation, and the published means."""
    import altair as alt

    rows: list[dict[str, str | float]] = []

    def add(setting: str, method: str, whose: str, mean: float, std: float | None) -> None:
        name = method if len(study.cells) == 1 else f"{setting} · {method}"
        # No value lies beyond the ends of the measure.
        ends = {"low": max(mean - (std or 0.0), -1.0), "high": min(mean + (std or 0.0), 1.0)}
        rows.append({"setting": setting, "method": method, "row": name, "whose": whose, "value": mean, **ends})

    for setting in study.cells:
        for method in study.methods:
            if (found := study.spread(setting, method, measure)) is not None:
                add(setting, method, "measured", found.mean, found.std)
        for one in study.published:
            if (one.setting, one.measure) == (setting, measure):
                add(setting, f"{one.what}, {one.source}", "published", one.mean, one.std)
    names = list(dict.fromkeys(str(row["row"]) for row in rows))
    title = NAMES[measure][0]
    y = {"y": alt.Y("row:N", title=None, sort=names, axis=None)}
    base = alt.Chart(alt.Data(values=rows))
    whose = ["measured", "published"]
    color = alt.Color("whose:N", title=None, scale=alt.Scale(domain=whose, scheme="tableau10"))
    x = alt.X("value:Q", title=title, scale=alt.Scale(domainMax=1, nice=False))
    # The name stands above its bar, so that a narrow page has room for both.
    labels = base.mark_text(align="left", dy=-9, fontSize=10).encode(x=alt.value(0), text="row:N", **y)
    bars = base.mark_rule(opacity=0.6, yOffset=3).encode(x=alt.X("low:Q", title=title), x2="high:Q", color=color, **y)
    points = base.mark_point(filled=True, size=50, yOffset=3).encode(
        x=x,
        color=color,
        shape=alt.Shape("whose:N", title=None, scale=alt.Scale(domain=whose, range=["circle", "diamond"])),
        tooltip=["setting:N", "method:N", "whose:N", alt.Tooltip("value:Q", format=".3f")],
        **y,
    )
    return framed(alt.layer(labels, bars, points), f"{title} with leave-one-out by setting and method", max(28 * len(names), 120))
