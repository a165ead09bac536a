"""What a scoring method is."""

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import options
from .evidence import Evidence
from .needs import Need
from .results import Result
from .scores import Direction


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a formula comes from, and how ours departs from it."""

    cite: str
    url: str
    departures: str = "none"


def derivatives_taken(ways: Iterable[str]) -> dict[str, object]:
    """The diagnostic that tells how derivatives were taken, which differ in speed only."""
    return {"derivatives taken by": ", ".join(sorted(ways)) or "none"}


class AbstractMethod(abc.ABC):
    """Gives every training example one number. Subclasses are final frozen dataclasses whose fields are the options."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    direction: ClassVar[Direction]
    unit: ClassVar[str]
    source: ClassVar[Source]
    retrains: ClassVar[bool] = False
    """Whether whole trainings are asked for, which can run in other processes."""

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.settle(self, "method")

    @abc.abstractmethod
    def values(self, evidence: Evidence) -> Float[Tensor, " examples"]:
        """One number per example, in the order of `evidence.ids`."""

    @classmethod
    def together(cls, methods: Sequence["AbstractMethod"], evidence: Evidence) -> list["Tensor | Result"]:
        """The values of several methods of this class, for classes that can share work between them."""
        return [method.findings(evidence.narrow(method.title, method.needs)) for method in methods]

    def findings(self, evidence: Evidence) -> "Tensor | Result":
        """The values, for methods that have more to say with what that is."""
        return self.values(evidence)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the numbers whose change the method asks for."""
        return ()

    @property
    def asks_inputs(self) -> str | None:
        """Name of the rows from outside that the method looks at in place of the data; None where it looks at the data, or at none."""
        return None

    @property
    def asks_reference(self) -> str | None:
        """Name of what the method steps towards, which may be parameters from outside; None where there is no such thing."""
        return None

    def scored(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """Which examples the method can speak of at all; the others are reported as unscored, never as 0."""
        return torch.ones(len(evidence.ids), dtype=torch.bool)

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `dual:window=5`."""
        return options.join(self.name, options.changed(self))
