"""Wrong methods on purpose: each makes one mistake that real code has made. Every law must catch one, and each must be caught."""

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from assay.core.accumulators import AbstractEpochMethod, AbstractSpanMethod, State
from assay.core.epochs import Epoch
from assay.core.evidence import Evidence
from assay.core.method import AbstractMethod, Iterative, MonteCarlo, Source
from assay.core.needs import Need
from assay.core.results import Result
from assay.core.scores import Direction
from assay.maths import draws
from assay.maths.windows import push, start_ring


@dataclasses.dataclass(frozen=True)
class MeanLoss(AbstractSpanMethod):
    """What the others spoil; right by itself."""

    name: ClassVar[str] = "mean_loss"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LOSSES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source("none", "none")

    def start(self, examples: int, classes: int) -> State:
        return {"total": torch.zeros(examples, dtype=torch.float64), "seen": torch.zeros((), dtype=torch.int64)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["total"] += epoch.losses
        state["seen"] += 1

    def compute(self, state: State) -> Tensor:
        return state["total"] / state["seen"]


@dataclasses.dataclass(frozen=True)
class LastEntropy(AbstractEpochMethod):
    """What the faulty methods of one epoch spoil; right by itself."""

    name: ClassVar[str] = "last_entropy"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.ENTROPIES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source("none", "none")

    def value(self, epoch: Epoch) -> Tensor:
        return epoch.entropies


@dataclasses.dataclass(frozen=True)
class FrozenWindow(MeanLoss):
    """The window never slides: the ring is full after its first turn and nothing replaces the oldest epoch."""

    window: int = 4

    @property
    def shortest_span(self) -> int:
        return self.window

    def start(self, examples: int, classes: int) -> State:
        return start_ring(self.window, examples)

    def update(self, state: State, epoch: Epoch) -> None:
        if int(state["seen"]) < self.window:
            push(state, epoch.losses)

    def compute(self, state: State) -> Tensor:
        return state["ring"].mean(0)


class ResetInTheLoop(MeanLoss):
    """The accumulator is made anew in every turn: the last epoch is all that stays."""

    def update(self, state: State, epoch: Epoch) -> None:
        state["total"] = epoch.losses.clone()
        state["seen"] += 1


class WrongEpochs(MeanLoss):
    """Says that it reads all epochs, and lets the first two pass."""

    def update(self, state: State, epoch: Epoch) -> None:
        if epoch.index >= 2:
            super().update(state, epoch)


class JoinedByArrival(MeanLoss):
    """Returns the values in sorted order instead of the order of the ids."""

    def compute(self, state: State) -> Tensor:
        return super().compute(state).sort().values


class ByPosition(MeanLoss):
    """What stands later counts a little more."""

    def compute(self, state: State) -> Tensor:
        values = super().compute(state)
        return values * (1 + torch.arange(len(values)) * 1e-6)


class ByClassNumber(MeanLoss):
    """Takes the number of a class for a size."""

    reads = frozenset({Need.LOSSES, Need.LOGITS})

    def update(self, state: State, epoch: Epoch) -> None:
        super().update(state, epoch)
        state["total"] += epoch.logits.argmax(-1)


class Undeclared(MeanLoss):
    """Looks at margins that it does not declare."""

    def update(self, state: State, epoch: Epoch) -> None:
        super().update(state, epoch)
        state["total"] -= epoch.margins


class DeclaresTooMuch(MeanLoss):
    """Asks every run for logits that it never reads."""

    reads = frozenset({Need.LOSSES, Need.LOGITS})


class PeeksAtTheTruth(MeanLoss):
    """Reads labels through the evidence although it declares none, as a peek at a planted truth would."""

    def run(self, evidence: Evidence) -> Result:
        return Result(super().run(evidence).values + evidence.labels)


class WrongDirection(MeanLoss):
    """A large loss is no sign of a right label."""

    direction = Direction.LOW_IS_SUSPECT


class WrongHardness(LastEntropy):
    """An undecided prediction is no sign of an easy example."""

    direction = Direction.LOW_IS_HARD


class Unseeded(MeanLoss):
    """Breaks ties by torch's global generator, which it moves on."""

    def compute(self, state: State) -> Tensor:
        return super().compute(state) + 1e-9 * torch.rand(len(state["total"]), dtype=torch.float64)


class SeedsTheWorld(MeanLoss):
    """Gives the same value twice by seeding everybody's generator."""

    def compute(self, state: State) -> Tensor:
        torch.manual_seed(0)
        return super().compute(state)


class WritesIntoItsInput(MeanLoss):
    """Clips the losses where they stand, so that the next method reads clipped ones."""

    def update(self, state: State, epoch: Epoch) -> None:
        epoch.losses.clamp_(max=1.0)
        super().update(state, epoch)


class SpoilsTheOthers(MeanLoss):
    """Counts its passes in the class: the first one gets it right."""

    passes: ClassVar[list[int]] = []

    def start(self, examples: int, classes: int) -> State:
        state = super().start(examples, classes)
        state["total"] += len(self.passes)
        self.passes.append(examples)
        return state


class LogOfZero(AbstractEpochMethod):
    """p ln p without the limit at 0."""

    name: ClassVar[str] = "log_of_zero"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LOGITS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source("none", "none")

    def value(self, epoch: Epoch) -> Tensor:
        return -(epoch.probs * epoch.probs.log()).sum(-1)


class OneNumber(MeanLoss):
    """Returns the mean over the dataset."""

    def compute(self, state: State) -> Tensor:
        return super().compute(state).mean()


class NoLowerBound(FrozenWindow):
    """Gives a value for half a window: the ring's empty places are zeros."""

    def update(self, state: State, epoch: Epoch) -> None:
        push(state, epoch.losses)

    @property
    def shortest_span(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True)
class KeepsItToItself(MeanLoss):
    """Keeps the running sum in the method instead of the state."""

    def start(self, examples: int, classes: int) -> State:
        object.__setattr__(self, "_total", torch.zeros(examples, dtype=torch.float64))
        return super().start(examples, classes)

    def update(self, state: State, epoch: Epoch) -> None:
        self._total += epoch.losses
        state["seen"] += 1

    def compute(self, state: State) -> Tensor:
        return self._total / state["seen"]


class KeepsWhatIsLent(MeanLoss):
    """Holds on to the probabilities of the epoch before, whose memory the next epoch uses again."""

    reads = frozenset({Need.LOGITS})

    def start(self, examples: int, classes: int) -> State:
        return super().start(examples, classes) | {"before": torch.zeros(examples, classes, dtype=torch.float64)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["total"] += (epoch.probs - state["before"]).abs().sum(-1)
        state["before"] = epoch.probs
        state["seen"] += 1


class FinishesForGood(MeanLoss):
    """Divides the running sum in place, so that a value looked up on the way spoils the rest."""

    def compute(self, state: State) -> Tensor:
        return state["total"].div_(state["seen"])


class SinglePrecision(MeanLoss):
    """Rounds to float32 on the way, and far losses with it."""

    def start(self, examples: int, classes: int) -> State:
        return super().start(examples, classes) | {"total": torch.zeros(examples, dtype=torch.float32)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["total"] += epoch.losses.float()
        state["seen"] += 1


class NumericIds(AbstractMethod):
    """Takes ids for numbers."""

    name: ClassVar[str] = "numeric_ids"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LOSSES})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "nats"
    source: ClassVar[Source] = Source("none", "none")

    def run(self, evidence: Evidence) -> Result:
        ids = torch.from_numpy(evidence.ids.values.astype(int))
        return Result(evidence.epoch(0).losses + 0.0 * ids)


@dataclasses.dataclass(frozen=True)
class AnotherTitle(MeanLoss):
    """Shortens an option for its title, which then names another method."""

    cap: float = 1.0

    @property
    def title(self) -> str:
        return f"{self.name}:cap={self.cap:.1f}"


@dataclasses.dataclass(frozen=True)
class LearningTime(AbstractSpanMethod):
    """First epoch from which an example stays right; right by itself."""

    name: ClassVar[str] = "learning_time"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CORRECT})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "epochs"
    source: ClassVar[Source] = Source("none", "none")

    def start(self, examples: int, classes: int) -> State:
        return {"since": torch.zeros(examples, dtype=torch.float64)}

    def update(self, state: State, epoch: Epoch) -> None:
        state["since"][~epoch.correct] = epoch.index + 1

    def compute(self, state: State) -> Tensor:
        return state["since"].clone()


class LossUnlessCertain(MeanLoss):
    """Loss of the last epoch, less 1 for each epoch in which a prediction is certain; right, though most other epochs change nothing."""

    def update(self, state: State, epoch: Epoch) -> None:
        state["total"] += epoch.losses < 1e-8
        state["last"] = epoch.losses.clone()

    def compute(self, state: State) -> Tensor:
        return state["last"] - state["total"]


class Solved(MeanLoss):
    """What a solver leaves unsolved depends on where an example stands; right, because it says so."""

    exactness = Iterative(rtol=1e-6)

    def compute(self, state: State) -> Tensor:
        values = super().compute(state)
        return values * (1 + 1e-6 * torch.cos(torch.arange(len(values), dtype=torch.float64)))


class SolvesLess(Solved):
    """Stops a hundred times earlier than it says."""

    exactness = Iterative(rtol=1e-8)


@dataclasses.dataclass(frozen=True)
class Sampled(AbstractMethod):
    """Squared distance from the mean input of the class, over coordinates drawn anew for each example; right by itself."""

    repeats: int = 32
    seed: int = 0
    name: ClassVar[str] = "sampled"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LABELS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "squared distance"
    source: ClassVar[Source] = Source("none", "none")
    exactness: ClassVar[MonteCarlo] = MonteCarlo(draws="repeats")

    def run(self, evidence: Evidence) -> Result:
        squares, keys = squares_of(evidence.features("inputs").rows(), evidence.labels), evidence.ids.keys
        drawn = [self.drawn(squares, keys, draw) for draw in range(self.repeats)]
        return Result(torch.stack(drawn).mean(0))

    def drawn(self, squares: Tensor, keys: np.ndarray, draw: int) -> Tensor:
        dims = squares.shape[1]
        place = draws.integers(keys, dims, self.seed, "sampled", draw)
        return dims * squares.gather(1, place[:, None])[:, 0]


def squares_of(inputs: Tensor, labels: Tensor) -> Tensor:
    own = torch.nn.functional.one_hot(labels).double()
    means = (own.T @ inputs) / own.sum(0)[:, None].clamp(min=1)
    return (inputs - means[labels]).square()


def BRUTE(inputs: Tensor, labels: Tensor, method: AbstractMethod) -> Tensor:
    """The limit of the sampled ones."""
    return squares_of(inputs, labels).sum(1)


class SampledByPosition(Sampled):
    """What stands later counts more, by more than chance."""

    def run(self, evidence: Evidence) -> Result:
        values = super().run(evidence).values
        return Result(values * (1 + torch.arange(len(values)) * 0.02))


class SampledFromHalf(Sampled):
    """Never draws the later coordinates."""

    def drawn(self, squares: Tensor, keys: np.ndarray, draw: int) -> Tensor:
        return 2 * super().drawn(squares[:, : squares.shape[1] // 2], keys, draw)


class SampledOnce(Sampled):
    """Takes the mean over one draw, many times."""

    def drawn(self, squares: Tensor, keys: np.ndarray, draw: int) -> Tensor:
        return super().drawn(squares, keys, 0)


class DeclaresInputs(MeanLoss):
    """Asks for inputs that it never reads, so that no run without them is scored."""

    reads = frozenset({Need.LOSSES, Need.FEATURES})


class SkipsOneEpoch(LearningTime):
    """Says that it reads all epochs, and lets one pass."""

    def update(self, state: State, epoch: Epoch) -> None:
        if epoch.index != 5:
            super().update(state, epoch)


SOUND = [MeanLoss, LastEntropy, LearningTime, LossUnlessCertain, Solved, Sampled]
FAULTY = {
    FrozenWindow: "the_epochs_read_are_those_that_matter",
    ResetInTheLoop: "the_epochs_read_are_those_that_matter",
    WrongEpochs: "the_epochs_read_are_those_that_matter",
    JoinedByArrival: "reordering_examples_reorders_scores",
    ByPosition: "a_duplicated_example_gets_an_equal_score",
    ByClassNumber: "renaming_classes_changes_nothing",
    Undeclared: "it_reads_what_it_declares",
    DeclaresTooMuch: "it_reads_what_it_declares",
    DeclaresInputs: "it_reads_what_it_declares",
    SkipsOneEpoch: "the_epochs_read_are_those_that_matter",
    SolvesLess: "reordering_examples_reorders_scores",
    SampledByPosition: "a_duplicated_example_gets_an_equal_score",
    SampledFromHalf: "it_converges_to_brute_force",
    SampledOnce: "it_converges_to_brute_force",
    PeeksAtTheTruth: "values_are_those_of_one_pass",
    SpoilsTheOthers: "it_is_the_same_in_company",
    WrongDirection: "it_points_the_declared_way",
    WrongHardness: "it_points_the_declared_way",
    Unseeded: "same_input_same_score",
    SeedsTheWorld: "the_world_is_untouched",
    WritesIntoItsInput: "the_world_is_untouched",
    LogOfZero: "one_finite_float64_per_id",
    OneNumber: "one_finite_float64_per_id",
    SinglePrecision: "one_finite_float64_per_id",
    NoLowerBound: "too_few_epochs_are_refused",
    KeepsItToItself: "a_pass_can_stop_anywhere",
    KeepsWhatIsLent: "a_pass_can_stop_anywhere",
    FinishesForGood: "a_pass_can_stop_anywhere",
    NumericIds: "string_ids_work",
    AnotherTitle: "the_title_says_all",
}
"""Each faulty method, and the law that was written against its mistake."""
