"""The parts of every page: a template, inline styles and scripts, and a Content-Security-Policy that allows nothing else."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from ..core.words import worded

if TYPE_CHECKING:
    import jinja2

CHARTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
"""What draws charts, from `vendor/`, in the order in which one needs the other."""


def environment() -> "jinja2.Environment":
    """The Jinja environment that renders the templates of this package."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    made.filters["count"] = lambda number: f"{number:,}"
    made.filters["share"] = lambda fraction: f"{100 * fraction:.1f} %"
    made.filters["worded"] = lambda value: worded(value, lambda number: minus(f"{number:.4g}"))
    return made


def read(name: str) -> str:
    """A file of this package."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def scripts(names: Sequence[str]) -> list[str]:
    """Scripts that are safe inside a script element: without end tags and without references to source maps."""
    return [_inline(read(name)) for name in names]


def _inline(script: str) -> str:
    lines = (line for line in script.split("\n") if not line.startswith("//# sourceMappingURL="))
    return "\n" + "\n".join(lines).replace("</script", "<\\/script").replace("<!--", "<\\!--").strip() + "\n"


def policy(scripts: Iterable[str]) -> str:
    """The Content-Security-Policy: nothing may be fetched and only these scripts may run, so that injected markup has no effect."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    # Vega and the table set styles at run time, which no hash can foresee.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def minus(number: str) -> str:
    """The number with a minus sign as wide as the plus sign, except in an exponent."""
    return f"−{number[1:]}" if number.startswith("-") else number
