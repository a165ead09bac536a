"""The page of a study of a published protocol: findings, then parts of a chart and a table each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .charts import Spec
from .html import CHARTS, environment, policy, read, scripts


class Told(Protocol):
    """What the page shows of every study."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings in words."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was run, for people."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was made."""
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        title: Its heading.
        words: What is shown, in a sentence or two.
        chart: A chart above the table; None for none.
        columns: Heads of the table; empty for no table.
        rows: Cells, as they are shown; the first heads its row.
        texts: How many columns at the left are texts and not numbers.
    """

    title: str
    words: str
    chart: Spec | None = None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    texts: int = 1


def render_protocol(study: Told, title: str, lead: str, parts: Sequence[Part]) -> str:
    """The page of one study, the same bytes for the same study; it loads nothing, and its Content-Security-Policy forbids any request."""
    inlined = scripts([f"vendor/{name}" for name in CHARTS] + ["theme.js", "study.js"])
    return (
        environment()
        .get_template("protocol.html.j2")
        .render(
            study=study,
            title=title,
            lead=lead,
            parts=parts,
            style=read("page.css"),
            scripts=inlined,
            policy=policy(inlined),
            specs={f"part-{place}": part.chart for place, part in enumerate(parts, 1) if part.chart is not None},
        )
    )


def deviations(study_deviations: Sequence[str]) -> list[Part]:
    """The part that says where a study does other things than its sources; none where nothing is told."""
    rows = [(str(place), words) for place, words in enumerate(study_deviations, 1)]
    return (
        [Part("Deviations", "Where this study does other things than its sources.", None, ("", "what"), rows, 2)] if rows else []
    )


def sized(count: int) -> str:
    """A number of bytes as text."""
    power = next((power for power in (3, 2, 1) if count >= 1000**power), 0)
    return f"{count:,} B" if not power else f"{count / 1000**power:.3g} {('kB', 'MB', 'GB')[power - 1]}"
