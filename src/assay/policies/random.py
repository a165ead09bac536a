"""Keep examples at random: what every other policy must beat."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.ids import Ids
from ..core.method import Source
from ..core.needs import Need
from ..core.selection import AbstractSelector, Pool, Selection, count_of
from ..maths.draws import permutation
from ..maths.ranking import interleaved


def shuffled(ids: Ids, seed: int, purpose: str, *counters: int) -> Int[Tensor, " examples"]:
    """Positions in a random order that depends on the seed, the purpose, the counters (such as an epoch) and each id alone."""
    by_id = torch.argsort(ids.ranks)
    return by_id[permutation(ids.keys[by_id.numpy()], seed, purpose, *counters)]


@dataclasses.dataclass(frozen=True)
class Random(AbstractSelector):
    """Keeps examples drawn uniformly without replacement; no score is needed, and a given score is ignored.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1 (1.0 is all of them); or a whole number, how many stay.
        seed: Seed of the draw. A larger budget keeps everything that a smaller one keeps under the same seed.
        stratified: Whether each given class is drawn in proportion.
    """

    keep: int | float
    seed: int
    stratified: bool = False
    name: ClassVar[str] = "random"
    needs_score: ClassVar[bool] = False
    ignores_score: ClassVar[bool] = True
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Guo et al. 2022, DeepCore (uniform selection)",
        "https://arxiv.org/abs/2204.08499",
        "drawn per id, so that budgets nest and the order of the examples does not matter; strata by Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """Labels where the draw is stratified; a plain draw needs no run."""
        return frozenset({Need.LABELS}) if self.stratified else frozenset()

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        order = shuffled(pool.ids, self.seed, "policy random")
        if self.stratified:
            order = order[interleaved(pool.labels[order])]
        how = f"at random{' within its class' if self.stratified else ''}, seed {self.seed}"
        return Selection.first(order, budget, f"drawn {how}", f"not drawn {how}")
