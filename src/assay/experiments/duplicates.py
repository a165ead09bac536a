"""Near duplicates: from a run's examples to groups of those that are nearly the same."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core.arguments import checked_arguments
from ..core.duplicates import DuplicateGroups
from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.features import FeatureSpec
from ..core.method import Asks
from ..core.needs import Need
from ..maths.neighbours import Metric, close_pairs, nearest_distances
from ..replay.loop import Loop
from ..runs.run import Run
from .choose import Beside, looked_at
from .evidence import gather_together
from .scorable import inputs_asked, looks_at_inputs, replayed


@dataclasses.dataclass(frozen=True)
class _Asker:
    """What is asked for, as methods and policies say it."""

    features: str
    name: str = "duplicates"
    title: str = "duplicates"
    reads: frozenset[Need] = frozenset({Need.FEATURES})

    @property
    def asks(self) -> Asks:
        return Asks(features=(str(FeatureSpec.parse(self.features)),))


@checked_arguments
def duplicates(
    run: str | Path | Run | Evidence,
    features: str = "inputs",
    *,
    within: float = 0.1,
    metric: Metric = "cosine",
    loop: Loop | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> DuplicateGroups:
    """Groups of examples that are nearly the same: each is within a distance of another of its group.

        found = assay.duplicates("runs/digits", within=0.2)
        found.contradicting                                  # groups whose members have different labels

    Args:
        run: Folder of a run, or an open run, also one without training; or evidence in memory, as `gather_inputs` makes it.
        features: Features in which distances are taken: `inputs`, `rows:NAME`, or of a kept model `penultimate`, `layer:NAME`.
        within: The distance, as a part of the median distance of an example to its nearest other; 0 for exact duplicates only.
        metric: `cosine` or `euclidean`.
        loop: The `Loop` that describes your own training loop, for its data or its kept model.
        inputs: Rows by name, such as embeddings, for `features=rows:NAME`.

    Raises:
        UsageError: `within` is below 0, there is one example, or the features cannot be made.
        MissingEvidence: The run lacks what the features are made of.
        RunError: The run is absent or damaged.
    """
    if not 0 <= within < float("inf"):
        raise UsageError(
            f"within={within} is no part of a distance; give 0 for exact duplicates, or a number above, such as 0.1."
        )
    asker: Any = _Asker(features)
    names: tuple[str, ...] = ()
    if isinstance(run, Evidence):
        if loop is not None or inputs is not None:
            raise UsageError("loop= and inputs= are for recorded runs; the evidence holds its own rows.")
        evidence, names = run, tuple(map(str, range(run.classes)))
    else:
        opened = run if isinstance(run, Run) else Run(run)
        if unread := [name for name in inputs or () if name not in inputs_asked(asker)]:
            raise UsageError(
                f"duplicates reads {features}, and no rows named {unread[0]!r}; give rows:{unread[0]} as the features, or leave them out."
            )
        if loop is not None and not looks_at_inputs(asker) and not replayed(asker):
            raise UsageError(f"loop= is for features of the data or of a kept model; {features} are neither. Leave it out.")
        shown, _, replay = looked_at(opened, asker, Beside(loop, inputs or {}), "duplicates")
        evidence = gather_together([opened], replay, shown)
        names = tuple(opened.class_names) if opened.task == "classes" else ()
    labels = evidence.labels if Need.LABELS in evidence.holds else torch.full((len(evidence.ids),), -1)
    if len(evidence.ids) < 2:
        raise UsageError("duplicates: there is one example, and no other that could be like it; give more examples.")
    rows = evidence.features(features).rows()
    try:
        typical = float(nearest_distances(rows, 1, cosine=metric == "cosine").median())
        one, two, apart = close_pairs(rows, within * typical, cosine=metric == "cosine")
    except ValueError as error:
        raise UsageError(f"duplicates by {features}: {error}") from error
    n, ids = len(evidence.ids), evidence.ids
    _, parts = connected_components(coo_array((np.ones(len(one)), (one.numpy(), two.numpy())), shape=(n, n)), directed=False)
    nearest = torch.full((n,), torch.inf, dtype=torch.float64)
    for side in (one, two):
        nearest.scatter_reduce_(0, side, apart, "amin")
    found = nearest.isfinite().nonzero().flatten()
    # Groups by their nearest two, then by their smallest id; members by id.
    group = torch.from_numpy(parts).to(torch.int64)
    tightest = torch.full((n,), torch.inf, dtype=torch.float64).scatter_reduce_(0, group, nearest, "amin")
    first = torch.full((n,), n).scatter_reduce_(0, group, ids.ranks, "amin")
    keys = ids.ranks[found], first[group[found]], tightest[group[found]]
    found = found[torch.from_numpy(np.lexsort([key.numpy() for key in keys]))]
    numbers = torch.cat([torch.zeros(min(1, len(found)), dtype=torch.int64), (group[found].diff() != 0).long()]).cumsum(0)
    return DuplicateGroups(
        ids=ids.take(found),
        groups=numbers,
        distances=nearest[found],
        labels=labels[found],
        within=within * typical,
        typical=typical,
        features=f"{features}, {metric}",
        examples=n,
        class_names=names,
    )
