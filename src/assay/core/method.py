"""What a scoring method is."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool
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


@dataclasses.dataclass(frozen=True)
class Exact:
    """The values are those of the formula, to the rounding of double precision."""


@dataclasses.dataclass(frozen=True)
class Iterative:
    """The values are solved for until the residual is at most this part of the right-hand side.

    Attributes:
        rtol: That part, by default.
    """

    rtol: float


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
    """The values are means over random draws, with a standard error that falls with their number.

    Attributes:
        draws: Name of the option that says how many draws there are.
        seed: Name of the option that seeds them.
    """

    draws: str
    seed: str = "seed"


Exactness = Exact | Iterative | MonteCarlo
"""How near to its formula a method comes: what may be asked of its values."""


@dataclasses.dataclass(frozen=True)
class Asks:
    """What a method asks for by name, which a user may have to give.

    Attributes:
        targets: Numbers whose change is predicted, such as `validation`.
        features: Rows of numbers for each example (see `core.features`), such as `inputs` or `rows:NAME`.
        queries: Rows that are predicted for one by one: targets that are means over given rows, such as `validation`.
        references: Parameters that training went towards.
        learners: Learners that are trained, by name with options.
    """

    targets: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()

    @property
    def named_targets(self) -> tuple[str, ...]:
        """Everything that a user names with targets=: numbers, and those whose rows are looked at, each once."""
        return tuple(dict.fromkeys((*self.targets, *self.queries)))


def derivatives_taken(ways: Iterable[str]) -> dict[str, object]:
    """The diagnostic that tells how derivatives were taken, which differ in speed only."""
    return {"derivatives taken by": ", ".join(sorted(ways)) or "none"}


class AbstractMethod(abc.ABC):
    """Gives every training example one number. Subclasses are final frozen dataclasses whose fields are the options.

    Where an option decides what is read, or what a large value means, the subclass has a property of that name.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[Need]]
    """The kinds of facts that are looked at; no others can be."""
    direction: ClassVar[Direction]
    unit: ClassVar[str]
    source: ClassVar[Source]
    exactness: ClassVar[Exactness] = Exact()
    retrains: ClassVar[bool] = False
    """Whether whole trainings are asked for, which can run in other processes."""
    below_zero: ClassVar[str] = ""
    """What a value below 0 says of an example, as the end of a sentence; empty where 0 is a number like others."""

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.coerce(self, "method")

    @abc.abstractmethod
    def run(self, evidence: Evidence) -> Result:
        """One number per example, in the order of `evidence.ids`, with what there is to say beside them."""

    @classmethod
    def run_together(cls, methods: Sequence["AbstractMethod"], evidence: Evidence) -> list[Result]:
        """The results of several methods of this class, for classes that can share work between them."""
        return [method.run(evidence.narrow(method.title, method.reads)) for method in methods]

    @property
    def asks(self) -> Asks:
        """What is asked for by name."""
        return Asks()

    def speaks_of(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """Which examples there can be a value of at all, known before anything is computed; the others are reported as unscored."""
        return torch.ones(len(evidence.ids), dtype=torch.bool)

    def check_layers(self, named: Callable[[Sequence[str] | None], Sequence[str]]) -> None:  # noqa: B027
        """Refuse a net that lacks the layers that are asked for, before anything is recorded; by default none are.

        Args:
            named: Gives the names of the net's layers: of those asked for, or of all that are found.

        Raises:
            UsageError: There are no such layers, or too few.
        """

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `dual:window=5`."""
        return options.join(self.name, options.changed(self))
