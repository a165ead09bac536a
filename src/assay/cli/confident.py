"""`assay confident`: how many labels are wrong, and which classes are taken for which, by confident learning."""

from pathlib import Path
from typing import TYPE_CHECKING

from .values import Whole

if TYPE_CHECKING:
    from ..core.confident import ConfidentJoint


def confident_(run: Path, /, *, pairs: Whole = 10) -> None:
    """Estimate how many labels are wrong, by confident learning.

    It estimates how given and true labels are distributed together, and shows which classes are taken for which.

    The probabilities should be of models that were not trained on the example: a run recorded with --folds, or one made by `assay from-probs` of held-out
    predictions. Of other runs it says so. Which labels are wrong: assay choose RUN confident_learning.

    Example: assay confident runs/digits-folds

    Parameters
    ----------
    run
        Folder of the run.
    pairs
        How many pairs of a given and another true class are shown, those with most examples first.
    """
    from ..experiments.confident import confident_joint
    from .console import caution, say

    found = confident_joint(run)
    show_joint(found, pairs)
    for warning in found.warnings:
        caution(warning)
    say(f"Which labels these are: assay choose {run} confident_learning. As a ranking: assay score {run} label_quality")


def show_joint(found: "ConfidentJoint", pairs: int) -> None:
    """What was estimated: classes in one table, pairs of classes in another."""
    from .console import say, show_table

    joint, names = found.joint * found.examples, found.class_names
    rows = []
    for at, name in enumerate(names):
        given, true, right = float(joint[at].sum()), float(joint[:, at].sum()), float(joint[at, at])
        bound = float(found.thresholds[at])
        rows.append(
            (
                name,
                f"{bound:.3f}" if bound < 2 else "no label",
                f"{given:,.0f}",
                f"{true:,.0f}",
                f"{given - right:,.1f}",
                f"{true - right:,.1f}",
            )
        )
    columns = ("class", "threshold", "given", "true", "wrong with this label", "of this class under others")
    show_table(f"{found.examples:,} examples; {found.made_of}", columns, rows, right=columns[1:])
    apart = [
        (names[given], names[true], float(joint[given, true]))
        for given in range(len(names))
        for true in range(len(names))
        if given != true and float(joint[given, true]) > 0
    ]
    apart.sort(key=lambda row: -row[2])
    if apart[:pairs]:
        show_table(
            "Pairs of classes",
            ("given", "true", "examples"),
            [(a, b, f"{c:,.1f}") for a, b, c in apart[:pairs]],
            right=("examples",),
        )
    say(
        f"About {found.wrong_count:,} of {found.examples:,} labels are wrong ({100 * found.wrong:.1f} %), by {found.confident:,} examples that reach the "
        "threshold of a class; it is an estimate without an interval."
    )
