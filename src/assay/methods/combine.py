r"""Combination of several rankings of suspects: the mean of normal scores.

$$ s_i = \frac1M \sum_{m=1}^{M} \Phi^{-1}\!\left(\frac{r_{m,i}}{n + 1}\right) $$

$r_{m,i}$ is the rank of example i by the suspicion of method m, from 1 for the least suspect (equal values share their mean rank), $n$ the number of examples
and $\Phi^{-1}$ the inverse of the normal distribution function. Ranks, because the units of methods differ; normal scores, because first places count more than
places in the middle.
"""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.errors import MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..core.scoring import checked
from ..maths.ranking import normal_scores


def combine(suspicion: Float[Tensor, "methods examples"]) -> Float64[Tensor, " examples"]:
    """Mean over methods of the normal score of each example's rank.

    Args:
        suspicion: Suspicion by each method; larger is more suspect.

    Returns:
        One per example, without unit; about 0 in the middle of the ranking.

    Raises:
        ValueError: A value is NaN.

    Source: van der Waerden 1952.
    """
    return normal_scores(suspicion).mean(0)


@dataclasses.dataclass(frozen=True)
class Combine(AbstractMethod):
    """High values mark labels that several methods suspect together.

    Args:
        methods: Names of at least two methods that rank suspects, joined by `+`; options of one follow behind semicolons, as in
            `aum+knn_disagreement;features=inputs;k=5`.
    """

    methods: str = "aum+confidence"
    name: ClassVar[str] = "combine"
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "mean normal score"
    source: ClassVar[Source] = Source(
        "van der Waerden 1952, normal scores",
        "https://doi.org/10.1016/S1385-7258(52)50063-5",
        "a mean over rankings in the place of a test",
    )

    def __post_init__(self):
        super().__post_init__()
        try:
            titles = [one.title for one in self.parts]
        except UsageError as error:
            raise UsageError(f"methods={self.methods}: {error}") from error
        if len(titles) < 2 or len(set(titles)) < len(titles):
            raise UsageError(
                f"methods={self.methods} are not two different methods or more; give such as {self.name}:methods=aum+confidence."
            )
        for one in self.parts:
            if not one.direction.ranks_suspects:
                raise UsageError(
                    f"methods={self.methods}: {one.title} ranks difficulty ({one.direction.value}), not suspects; leave it out."
                )
            if one.retrains or isinstance(one, Combine):
                raise UsageError(
                    f"methods={self.methods}: {one.title} cannot be a part; score it alone, and combine scores by assay.combine([...])."
                )

    @property
    def parts(self) -> tuple[AbstractMethod, ...]:
        """The methods that are combined."""
        from . import parse

        specs = [part.strip().split(";", 1) for part in self.methods.split("+")]
        return tuple(parse(":".join([name, *(rest.replace(";", ",") for rest in options)])) for name, *options in specs)

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """What any of the methods reads."""
        return frozenset[Need]().union(*(one.reads for one in self.parts))

    @property
    def asks(self) -> Asks:
        """What any of the methods asks for."""
        asked = [one.asks for one in self.parts]
        fields = [field.name for field in dataclasses.fields(Asks)]
        return Asks(*(tuple(dict.fromkeys(name for one in asked for name in getattr(one, field))) for field in fields))

    def speaks_of(self, evidence: Evidence) -> Tensor:
        masks = [one.speaks_of(evidence.narrow(one.title, one.reads)) for one in self.parts]
        return torch.stack(masks).all(0)

    def run(self, evidence: Evidence) -> Result:
        views = [evidence.narrow(one.title, one.reads) for one in self.parts]
        made = [checked(one, view, one.run(view)) for one, view in zip(self.parts, views, strict=True)]
        there = torch.ones(len(evidence.ids), dtype=torch.bool)
        for one in made:
            there[evidence.ids.positions(one.unscored)] = False
        if not bool(there.any()):
            raise MissingEvidence(
                f"{self.title}: no example has a value by all of them; combine methods that score the same examples."
            )
        ids, values = evidence.ids.take(there), torch.zeros(len(there), dtype=torch.float64)
        values[there] = combine(torch.stack([one.of(ids) * one.direction.sign for one in made]))
        warnings = tuple(f"{one.title}: {words}" for one in made for words in one.warnings)
        told = {f"{one.title}: {name}": value for one in made for name, value in one.diagnostics.items()}
        return Result(values, scored=there, diagnostics=told, warnings=warnings)
