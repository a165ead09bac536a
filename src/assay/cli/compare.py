"""`assay compare`: do the methods agree, and which finds what is known to be wrong?"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .values import MaybeWhole

if TYPE_CHECKING:
    from ..core.method_comparison import MethodComparison
    from .output import Written

    Matrix = tuple[str, tuple[str, ...], list[tuple[object, ...]], tuple[str, ...]]

MOST_PAIRS = 15
"""Pairs that are listed with their intervals for people; in a document all are."""
WIDTH = 100
"""Columns of a terminal in which a matrix is readable."""
BETWEEN = 3
"""Columns between those of a table."""


def compare_(run: Path, /, *methods: str, budget: MaybeWhole = None) -> None:
    """Say how alike methods rank the examples.

    Where the truth is known, it is also told how well each finds the wrong labels. Rank correlations have 95 % intervals over the draw of examples, which are listed of two to six
    methods, and with --json of all.
    The overlap is that of the first examples of both rankings. Scores are saved in the run's folder.

    Example: assay compare runs/digits

    Example: assay compare runs/digits aum loss el2n --budget 100

    Parameters
    ----------
    run
        Folder of the run.
    methods
        METHOD or METHOD:option=value,...; by default every method that the run allows.
    budget
        How many of the first examples of each ranking are held against each other; by default as many as labels seem wrong, or else a tenth.
    """
    from ..experiments.compare import compare
    from ..experiments.score import ALL
    from ..runs.run import Run

    show_comparison(compare(Run(run), methods or ALL, budget=budget, save=True), run)


def show_comparison(made: "MethodComparison", run: Path) -> None:
    """Correlations and overlaps as tables, and how well each method finds wrong labels."""
    from . import output
    from .console import say, show_table
    from .output import Written, written

    for title, what in (
        ("Spearman's rank correlation", "spearman"),
        (f"Overlap of the first {made.budget:,}", "overlap"),
    ):
        for table in matrices(title, made, what, whole=output.now.json):
            show_table(*table)
    say(f"The first {made.budget:,} of two rankings overlap by {made.chance:.2f} where chance alone ranks.")
    if len(made.pairs) <= MOST_PAIRS or output.now.json:
        rows = [
            (
                f"{one.one}, {one.other}",
                within(one.spearman, one.low, one.high),
                within(one.kendall, one.kendall_low, one.kendall_high),
                written(one.overlap, ".3f"),
            )
            for one in made.pairs
        ]
        columns = ("methods", "Spearman, 95 % interval", "Kendall, 95 % interval", "overlap")
        show_table("Every two methods", columns, rows, right=columns[1:])
    else:
        say(
            f"The 95 % intervals of these {len(made.pairs):,} correlations are left out here; name two to six methods (assay compare {run} {shlex.join(made.titles[:2])}), or give "
            "--json."
        )
    if made.wrong is None:
        say(f"Which of them finds wrong labels these rankings do not say, because no truth is known. Next: assay probe {run}")
        return
    for count, found, few, long in (
        (made.wrong, made.detections, "wrong", "labels that are known to be wrong"),
        (made.corrupted or 0, made.corruptions, "damaged", "images that were damaged on purpose"),
    ):
        heads = ("method", "ranks", "AUC, 95 % interval", "average precision", f"{few} in the first {count:,}", "missed")
        told: list[tuple[object, ...]] = [
            (
                one.title,
                "suspicion" if one.claims_suspicion else "difficulty",
                Written(one.words, [one.auc, one.low, one.high]),
                one.average_precision,
                one.precision,
                f"{one.missed:,}",
            )
            for one in found
        ]
        if told:
            show_table(f"Finding the {count:,} {long}", heads, told, right=heads[2:])
    if made.wrong or made.corrupted is None:
        say(f"{made.wrong:,} of {made.examples:,} labels are known to be wrong; no method saw which.")
    if made.corrupted is not None:
        say(f"{made.corrupted:,} of {made.examples:,} images were damaged on purpose; no method saw which.")


def within(number: float, low: float, high: float) -> "Written":
    """A number with its interval."""
    from .output import Written

    return Written(f"{number:.3f} [{low:.3f}, {high:.3f}]", [number, low, high])


def matrices(title: str, made: "MethodComparison", what: str, *, whole: bool) -> "Iterator[Matrix]":
    """The numbers of every two methods as tables (title, columns, rows, columns of numbers) that are readable.

    Where titles as heads are too wide, letters stand for them, which the rows name; what is too wide still is continued in a further table.

    Args:
        title: What the numbers are.
        made: The comparison.
        what: The number, as a pair has it.
        whole: Whether it is one table with titles as heads, however wide.
    """
    from .output import Written, written

    titles = made.titles
    cells = [
        [Written("", None) if one == other else written(getattr(made.of(one, other), what), ".2f") for other in titles]
        for one in titles
    ]
    first = max(map(len, ("method", *titles)))
    if whole or first + sum(BETWEEN + max(len(head), len("-0.12")) for head in titles) <= WIDTH:
        yield title, ("method", *titles), [(head, *row) for head, row in zip(titles, cells, strict=True)], titles
        return
    heads = [_letters(at) for at in range(len(titles))]
    named = [f"{letter} {head}" for letter, head in zip(heads, titles, strict=True)]
    first = max(map(len, named))
    most = max(1, (WIDTH - first) // (BETWEEN + len("-.12")))
    for begin in range(0, len(titles), most):
        part = tuple(heads[begin : begin + most])
        rows: list[tuple[object, ...]] = [
            (head, *(str(cell).replace("0.", ".") for cell in row[begin : begin + most]))
            for head, row in zip(named, cells, strict=True)
        ]
        where = f" ({part[0]} to {part[-1]} of {heads[-1]})" if len(part) < len(heads) else ""
        yield f"{title}{where}", ("method", *part), rows, part


def _letters(at: int) -> str:
    """a to z, then aa, ab and so on."""
    return (_letters(at // 26 - 1) if at >= 26 else "") + chr(ord("a") + at % 26)
