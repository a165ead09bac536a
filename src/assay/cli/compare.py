"""`assay compare`: do the methods agree, and which finds what is known to be wrong?"""

from pathlib import Path
from typing import TYPE_CHECKING

from .values import MaybeWhole

if TYPE_CHECKING:
    from ..core.method_comparison import MethodComparison

MOST_PAIRS = 15
"""Pairs that are listed with their intervals for people; in a document all are."""


def compare_(run: Path, /, *methods: str, budget: MaybeWhole = None) -> None:
    """Say how alike methods rank the examples.

    Where the truth is known, it is also told how well each finds the wrong labels. Rank correlations have 95 % intervals over the draw of examples.
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

    def cell(one: str, other: str, what: str) -> str:
        return "" if one == other else f"{getattr(made.of(one, other), what):.2f}"

    for title, what in (
        ("Spearman's rank correlation", "spearman"),
        (f"Overlap of the first {made.budget:,}", "overlap"),
    ):
        rows = [(one, *(cell(one, other, what) for other in made.titles)) for one in made.titles]
        show_table(title, ("method", *made.titles), rows, right=made.titles)
    say(f"The first {made.budget:,} of two rankings overlap by {made.chance:.2f} where chance alone ranks.")
    if len(made.pairs) <= MOST_PAIRS or output.now.json:
        rows = [
            (
                f"{one.one}, {one.other}",
                f"{one.spearman:.3f} [{one.low:.3f}, {one.high:.3f}]",
                f"{one.kendall:.3f} [{one.kendall_low:.3f}, {one.kendall_high:.3f}]",
                f"{one.overlap:.3f}",
            )
            for one in made.pairs
        ]
        columns = ("methods", "Spearman, 95 % interval", "Kendall, 95 % interval", "overlap")
        show_table("Every two methods", columns, rows, right=columns[1:])
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
                one.words,
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
