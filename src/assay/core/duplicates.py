"""Groups of examples that are nearly the same."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from .arguments import checked_fields
from .errors import UsageError
from .ids import Ids
from .tabular import Tabular, texts


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class DuplicateGroups(Tabular):
    """Groups of examples each of which is near enough to another of its group.

    Attributes:
        ids: The examples that are in a group, group by group, those of a group by id; the group with the nearest two first.
        groups: Number of the group of each, from 0.
        distances: Distance of each to the nearest other of its group.
        labels: Given class of each; -1 where examples have none.
        within: Largest distance of two neighbours in a group.
        typical: Median distance of all examples to their nearest other.
        features: In which features, and by which metric.
        examples: How many examples were compared.
        class_names: One name per class.
    """

    ids: Ids
    groups: Int[Tensor, " members"]
    distances: Float64[Tensor, " members"]
    labels: Int[Tensor, " members"]
    within: float
    typical: float
    features: str
    examples: int
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        if not len(self.ids) == len(self.groups) == len(self.distances) == len(self.labels):
            raise UsageError(
                f"{len(self.ids)} ids, {len(self.groups)} groups, {len(self.distances)} distances and {len(self.labels)} labels do not go together."
            )

    def __len__(self) -> int:
        return 0 if not len(self.groups) else int(self.groups.max()) + 1

    @property
    def superfluous(self) -> int:
        """How many examples could go if one of each group stayed."""
        return len(self.ids) - len(self)

    @property
    def contradicting(self) -> Int[Tensor, " groups"]:
        """Numbers of the groups whose members have different labels."""
        low = torch.full((len(self),), torch.iinfo(torch.int64).max).scatter_reduce_(0, self.groups, self.labels, "amin")
        high = torch.full((len(self),), -1, dtype=torch.int64).scatter_reduce_(0, self.groups, self.labels, "amax")
        return (low != high).nonzero().flatten()

    def members(self, group: int) -> Ids:
        """The examples of a group.

        Returns:
            By id.

        Raises:
            UsageError: There is no such group.
        """
        if not 0 <= group < len(self):
            raise UsageError(f"group={group} is none of the {len(self)} groups, which are numbered from 0.")
        return self.ids.take(self.groups == group)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """A row for each example of a group: `id`, `group`, `given_class` (where examples have one) and `distance` to the nearest other of the group."""
        columns: dict[str, np.ndarray] = {"id": self.ids.values, "group": self.groups.numpy()}
        if self.class_names:
            columns["given_class"] = texts([self.class_names[label] for label in self.labels.tolist()])
        return columns | {"distance": self.distances.numpy()}

    def __repr__(self) -> str:
        return (
            f"DuplicateGroups({len(self):,} groups of {len(self.ids):,} of {self.examples:,} examples within {self.within:.3g} in {self.features}; "
            f"{len(self.contradicting):,} with different labels)"
        )
