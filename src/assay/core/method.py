"""The interface of scoring methods."""

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
    """The values come from an iterative solver, which stops once |residual| / |right-hand side| is small enough.

    Attributes:
        rtol: The ratio at which it stops, unless an option says otherwise.
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
"""How close to the formula the values are."""


@dataclasses.dataclass(frozen=True)
class Asks:
    """The inputs that a method asks for by name; the user may have to pass them.

    Attributes:
        targets: Numbers whose change is predicted, such as `validation`.
        features: Rows of numbers for each example (see `core.features`), such as `inputs` or `rows:NAME`.
        queries: Targets that are means over rows, such as `validation`, for each row of which there is a value of its own.
        references: Parameters that steps should go towards, such as `final`, or names of parameters that the user passes.
        learners: Learners to train, by name with options.
    """

    targets: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()

    @property
    def named_targets(self) -> tuple[str, ...]:
        """All targets by name, whether their change or their rows are asked for, each once; a user passes them with targets=."""
        return tuple(dict.fromkeys((*self.targets, *self.queries)))


def derivatives_taken(ways: Iterable[str]) -> dict[str, object]:
    """The diagnostic that says in which ways derivatives were computed; the ways differ only in speed."""
    return {"derivatives taken by": ", ".join(sorted(ways)) or "none"}


class AbstractMethod(abc.ABC):
    """Gives every training example one number. Subclasses are final frozen dataclasses whose fields are the options.

    If what is read, or what a large value means, depends on an option, the subclass defines that attribute as a property.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[Need]]
    """The kinds of facts that the method reads; it cannot read any other."""
    direction: ClassVar[Direction]
    unit: ClassVar[str]
    source: ClassVar[Source]
    exactness: ClassVar[Exactness] = Exact()
    retrains: ClassVar[bool] = False
    """Whether the method needs whole trainings, which can run in other processes."""
    of_one_training: ClassVar[bool] = False
    """Whether the values are about the very training that was recorded, so that a mean over models is about an average training and not about one."""
    below_zero: ClassVar[str] = ""
    """What a value below 0 means for an example, as the end of a sentence; empty where the sign has no meaning."""

    def __post_init__(self):
        """Refuse options of the wrong type. Subclasses check ranges after this.

        Raises:
            UsageError: An option is not what its type says.
        """
        options.coerce(self, "method")

    @abc.abstractmethod
    def run(self, evidence: Evidence) -> Result:
        """One number per example, in the order of `evidence.ids`, with diagnostics and warnings."""

    def unit_of(self, evidence: Evidence) -> str:
        """The unit of the values from this evidence; `unit` unless it depends on whether examples have classes."""
        return self.unit

    @classmethod
    def run_together(cls, methods: Sequence["AbstractMethod"], evidence: Evidence) -> list[Result]:
        """The results of several methods of this class, for classes that can share work between them."""
        return [method.run(evidence.narrow(method.title, method.reads)) for method in methods]

    @property
    def asks(self) -> Asks:
        """The inputs that the method asks for by name."""
        return Asks()

    @property
    def parts(self) -> "tuple[AbstractMethod, ...]":
        """The methods that it is made of, each of which asks for its own inputs; of most the method itself."""
        return (self,)

    @property
    def reads_between(self) -> bool:
        """Whether the method reads states of the training between those that are kept, so that these must be made again by replay."""
        return Need.STEPS in self.reads

    def speaks_of(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """Which examples can have a value, known before anything is computed; the others are reported as unscored."""
        return torch.ones(len(evidence.ids), dtype=torch.bool)

    def check_layers(self, named: Callable[[Sequence[str] | None], Sequence[str]]) -> None:  # noqa: B027
        """Refuse a net that lacks the layers that the method needs, before anything is recorded; by default a method needs none.

        Args:
            named: Function that gives the names of the net's layers: of those asked for, or of all that it finds.

        Raises:
            UsageError: The net has no such layers, or too few.
        """

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `dual:window=5`."""
        return options.join(self.name, options.changed(self))
