"""`assay confident`: how many labels are wrong, and which classes are taken for which, by confident learning."""

from pathlib import Path
from typing import TYPE_CHECKING

from .values import Whole

if TYPE_CHECKING:
    from ..core.confident import ConfidentJoint
    from ..core.wrong_labels import WrongCount


def confident_(run: Path, /, *, pairs: Whole = 10) -> None:
    """Estimate how many labels are wrong, by confident learning.

    It estimates how given and true labels are distributed together, and shows which classes are taken for which. The 95 % intervals are over the draw of examples, given
    the probabilities: where classes overlap, right labels of unclear examples are counted too, which they do not cover.

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
    from ..experiments.wrong_labels import count_if_possible
    from ..runs.run import Run
    from .console import caution, say

    opened = Run(run)
    found, by_margins = confident_joint(opened), count_if_possible(opened)
    show_joint(found, pairs)
    for warning in found.warnings:
        caution(warning)
    if by_margins is not None:
        say(f"By margins: {by_margins.sentence}")
    say(next_step(run, found, by_margins))


def next_step(run: Path, found: "ConfidentJoint", by_margins: "WrongCount | None") -> str:
    """The next command; none that drops more than either count says can be wrong, and none where the interval of one holds 0."""
    ranking = f"assay score {run} label_quality"
    if found.droppable(by_margins):
        return f"Confident learning names {found.found:,} of them: assay choose {run} confident_learning. As a ranking: {ranking}"
    if found.seen and by_margins is not None and by_margins.seen and found.found:
        named = f"Confident learning names {found.found:,}, more than the margins allow"
        return f"{named}. Look at the first ones before any is dropped: {ranking}"
    return f"Nothing is to be dropped. As a ranking, to look at the first ones: {ranking}"


def show_joint(found: "ConfidentJoint", pairs: int) -> None:
    """What was estimated: classes in one table, pairs of classes in another."""
    from ..core.confident import COVERS
    from .console import say, show_table
    from .output import Written, written

    joint, names = found.joint * found.examples, found.class_names
    rows = []
    counts = [Written(f"{round(one.low):,} to {round(one.high):,}", [one.low, one.high]) for one in found.by_class or ()]
    counts = counts or [Written("", None)] * len(names)
    for at, name in enumerate(names):
        given, true, right = float(joint[at].sum()), float(joint[:, at].sum()), float(joint[at, at])
        bound = float(found.thresholds[at])
        rows.append(
            (
                name,
                Written(f"{bound:.3f}", bound) if bound < 2 else Written("no label", None),
                written(given, ",.0f"),
                written(true, ",.0f"),
                written(given - right, ",.1f"),
                counts[at],
                written(true - right, ",.1f"),
            )
        )
    columns = ("class", "threshold", "given", "true", "wrong with this label", "95 % interval", "of this class under others")
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
            [(a, b, written(c, ",.1f")) for a, b, c in apart[:pairs]],
            right=("examples",),
        )
    say(f"{found.sentence} {COVERS}")
