"""`assay duplicates`: groups of examples that are nearly the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .values import Whole

if TYPE_CHECKING:
    from ..core.duplicates import DuplicateGroups


def duplicates_(
    run: Path,
    /,
    *,
    features: str = "inputs",
    within: float = 0.1,
    metric: Literal["cosine", "euclidean"] = "cosine",
    inputs: list[str] | None = None,
    out: Path | None = None,
    show: Whole = 10,
) -> None:
    """Show groups of examples that are nearly the same.

    An example is in a group if it is near enough to another of the group. Distances are taken in any features, and
    groups whose labels differ are named.

    Example: assay duplicates runs/digits --features penultimate --within 0.2

    Parameters
    ----------
    run
        Folder of the run, also of one without training (`assay score --data`).
    features
        inputs, rows:NAME (with --inputs NAME=FILE), or of a kept model penultimate, layer:NAME or grads:project=NUMBER.
    within
        How near: a part of the median distance of an example to its nearest other; 0 for exact duplicates only.
    metric
        cosine or euclidean.
    inputs
        NAME=FILE: rows, such as embeddings, for --features rows:NAME. An npy file with a row for each example, in the run's order, or an npz file of
        `inputs` and `ids`.
    out
        CSV file of all groups: id, group, given_class, distance.
    show
        How many groups are shown, those with the nearest two examples first.
    """
    from ..data.arrays import rows_by_id
    from ..experiments.duplicates import duplicates
    from ..runs.run import Run
    from .console import say
    from .score import file_named, named_once

    opened = Run(run)
    rows = {name: rows_by_id(file, opened.ids) for name, file in named_once("inputs", map(file_named, inputs or ())).items()}
    found = duplicates(opened, features, within=within, metric=metric, inputs=rows or None)
    show_groups(found, show)
    if out is not None:
        found.to_csv(out)
        say(f"Written to {out}.")


def show_groups(found: "DuplicateGroups", most: int) -> None:
    """The nearest groups as a table, and how many there are in sentences."""
    from ..core.errors import listed
    from .console import say, show_table

    apart = set(found.contradicting.tolist())
    rows = []
    for group in range(min(most, len(found))):
        place = found.groups == group
        members = found.ids.take(place)
        classes = dict.fromkeys(found.class_names[label] for label in found.labels[place].tolist()) if found.class_names else {}
        rows.append(
            (
                group,
                len(members),
                float(found.distances[place].min()),
                listed(members, len(members)),
                ", ".join(classes),
                "different labels" if group in apart else "",
            )
        )
    if rows:
        show_table(
            f"Near duplicates by {found.features}",
            ("group", "examples", "distance", "ids", "classes", ""),
            rows,
            right=("group", "examples", "distance"),
        )
    if not len(found):
        say(
            f"No two of {found.examples:,} examples are within {found.within:.3g} of each other by {found.features} (the median distance to the nearest other is "
            f"{found.typical:.3g})."
        )
        return
    say(
        f"{len(found):,} groups of {len(found.ids):,} of {found.examples:,} examples within {found.within:.3g} of each other (the median distance to the nearest "
        f"other is {found.typical:.3g}); {found.superfluous:,} could go if one of each group stayed; {len(apart):,} groups have different labels."
    )
