"""Parts of a page that are computed when it is made: near duplicates, the map of the shown examples, probes."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.duplicates import DuplicateGroups
from ..core.errors import AssayError, Mismatch, UsageError
from ..core.features import FeatureSpec
from ..core.ids import Ids
from ..core.probe import Probe
from ..core.report_data import EmbeddingMap, ShownDuplicates, ShownExamples
from ..data.examples import Examples
from ..maths import draws
from ..maths.principal import principal_plane
from ..runs.artefacts import load_probe
from ..runs.run import Run
from .duplicates import duplicates
from .evidence import gather_inputs, open_replay
from .plan import has_plan

MOST_POINTS = 3000
"""Points of the map."""
MOST_FIRST = 2500
"""Points of a map of a part that are the first of the page; the others are drawn at random, so that what is usual is seen beside them."""
MOST_GROUPS = 24
"""Groups of near duplicates that are shown."""
MOST_MEMBERS = 4
"""Members of one group that are shown."""
MOST_MULTIPLICATIONS = 5e10
"""Examples squared times numbers in a row up to which near duplicates are looked for unasked: a few seconds."""


def near_duplicates(run: Run, examples: Examples | None) -> tuple[DuplicateGroups | None, str]:
    """Groups of near duplicates by the inputs, where looking for them takes seconds; and a sentence where they were not looked for."""
    if examples is None or len(run.ids) < 2:
        return None, ""
    if not examples.has_numbers:
        return None, (
            "Near duplicates were not looked for: the examples are texts or cells without numbers; give "
            "options=assay.ReportOptions(duplicates=assay.duplicates(run, 'rows:mine', inputs={'mine': embeddings}))."
        )
    n, dims = len(run.ids), int(np.prod(examples.shape))
    if n * n * dims > MOST_MULTIPLICATIONS:
        return None, (
            f"Near duplicates were not looked for among {n:,} examples of {dims:,} numbers, which takes minutes; "
            f"`assay report {run.folder} --duplicates inputs` does, or in other features such as penultimate."
        )
    labels = run.labels if run.task == "classes" else torch.zeros(n, dtype=torch.int64)
    try:
        found = duplicates(gather_inputs(run.ids, examples.plain()[examples.ids.positions(run.ids, "the data")], labels))
    except UsageError as error:
        return None, f"Near duplicates are not shown: {error}"
    if run.task != "classes":
        return dataclasses.replace(found, labels=torch.full_like(found.labels, -1), class_names=()), ""
    return dataclasses.replace(found, class_names=tuple(run.class_names)), ""


def check_duplicates(found: DuplicateGroups, run: Run) -> None:
    """Refuse duplicates of other examples.

    Raises:
        Mismatch: They are of other ids or labels than the run recorded.
    """
    known = np.isin(found.ids.values, run.ids.values) if found.ids.numeric == run.ids.numeric else np.zeros(len(found.ids), bool)
    what = "" if found.examples == len(run.ids) else f"were found among {found.examples:,} examples"
    if not known.all():
        what = f"hold example {found.ids.values[~known][0]}"
    elif run.task == "classes" and not torch.equal(found.labels, run.labels[run.ids.positions(found.ids, "the run")]):
        what = "have other labels"
    if what:
        raise Mismatch(
            f"The duplicates {what}, unlike the {len(run.ids):,} of {run.folder}; give those of this run, assay.duplicates({str(run.folder)!r})."
        )


def side_by_side(found: DuplicateGroups) -> tuple[Ids, tuple[int, ...], tuple[float, ...]]:
    """The members that are shown: those of groups with different labels first, then of the groups with the nearest two.

    Returns:
        Ids, number of the group and distance to the nearest other of the group, of each.
    """
    against = found.contradicting.tolist()
    shown = [*against, *sorted(set(range(len(found))) - set(against))][:MOST_GROUPS]
    places: list[int] = []
    for group in shown:
        members = (found.groups == group).nonzero().flatten()
        near = members[found.distances[members].argsort(stable=True)]
        # Of every label one first, so that a contradiction is seen.
        labels = found.labels[near].tolist()
        first = [at for place, at in enumerate(near.tolist()) if labels.index(labels[place]) == place]
        rest = [at for at in near.tolist() if at not in first]
        places += [*first[:MOST_MEMBERS], *rest][:MOST_MEMBERS]
    at = torch.tensor(places, dtype=torch.int64)
    return found.ids.take(at), tuple(found.groups[at].tolist()), tuple(found.distances[at].tolist())


def shown_duplicates(found: DuplicateGroups, run: Run, true: Tensor | None, looks: Callable[[Ids], dict]) -> ShownDuplicates:
    """The groups with what the page shows of their members.

    Args:
        found: The groups.
        run: The run.
        true: True class of each example of the run, if known.
        looks: Gives pictures or cells of some examples, for `ShownExamples`.
    """
    members, groups, distances = side_by_side(found)
    place = run.ids.positions(members, "the run")
    given = run.labels[place] if run.task == "classes" else None
    shown = ShownExamples(members, given, true=None if true is None else true[place], **looks(members))
    return ShownDuplicates(found, shown, groups, distances)


def embedding_map(run: Run, examples: Examples | None, shown: Ids, first: list[int]) -> EmbeddingMap | None:
    """The shown examples in the plane in which their features vary most: what goes into the last linear layer of the last kept model, or else their inputs.

    Args:
        run: The run.
        examples: The examples themselves; without them and without a plan there is no map.
        shown: The examples on the page.
        first: Their positions in the order in which the page opens; of more than a map holds, most are the first of these and
            the others random.
    """
    positions = torch.arange(len(shown))
    if len(shown) > MOST_POINTS:
        drawn = draws.permutation(shown.keys, 0, "points of the map").tolist()
        positions = torch.tensor(sorted([*dict.fromkeys([*first[:MOST_FIRST], *drawn])][:MOST_POINTS]))
    ids = shown.take(positions)
    made = _penultimate(run, ids)
    if made is None and examples is not None and examples.has_numbers:
        rows = examples.plain()[examples.ids.positions(ids, "the data")].flatten(1)
        made = (rows, "the inputs") if bool(rows.isfinite().all()) else None
    if made is None or len(ids) < 3 or made[0].shape[1] < 2:
        return None
    rows, words = made
    points, explained = principal_plane(rows)
    return EmbeddingMap(positions, points[:, 0], points[:, 1], explained, words)


def _penultimate(run: Run, ids: Ids) -> tuple[Tensor, str] | None:
    """What goes into the last linear layer of the last kept model, and in words what that is; None where no model can make it."""
    if not has_plan(run) or not run.epochs:
        return None
    try:
        features = open_replay(run, asked=()).features(FeatureSpec.parse("penultimate"), run.ids.positions(ids, "the run"))
    except AssayError:
        # No page fails for want of a map; its caption says which features it is of.
        return None
    rows = features.rows()
    if not bool(rows.isfinite().all()):
        return None
    return rows, f"what goes into the last layer of the last kept model ({rows.shape[1]:,} numbers)"


def probes_of(run: Run) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
    """The probes of a recording, and a sentence for each that is of an earlier state of it or cannot be read."""
    probes, notes = [], []
    for path in sorted(run.paths.probes.glob("*.json")):
        try:
            found = load_probe(path)
            if found.lineage is not None and found.lineage.parents.get("run") not in (None, run.fingerprint):
                raise Mismatch(
                    f"{path} is of another recording than {run.folder} holds now; `assay probe {run.folder}` makes it again."
                )
        except AssayError as error:
            notes.append(f"A probe is not shown: {error}")
            continue
        probes.append(found)
    return tuple(probes), tuple(notes)
