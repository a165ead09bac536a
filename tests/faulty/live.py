"""Wrong live selectors on purpose: each makes one mistake that real code has made. Every law must catch one, and each must be caught."""

import dataclasses
from typing import ClassVar

import torch

from assay.core.live_selection import AbstractLiveSelector, EpochSelection
from assay.core.method import Source
from assay.maths.draws import uniform


@dataclasses.dataclass(frozen=True)
class Drops(AbstractLiveSelector):
    """What the others spoil; right by itself: leaves an example out with probability `ratio` where its last loss is below 1."""

    ratio: float = 0.4
    name: ClassVar[str] = "drops"
    unbiased: ClassVar[bool] = True
    source: ClassVar[Source] = Source("nobody", "https://example.org")

    def start(self, examples):
        return {"losses": torch.full((examples,), 10.0, dtype=torch.float64)}

    def update(self, state, positions, losses):
        state["losses"][positions] = losses.double()

    def draws(self, state, ids, epoch, seed):
        return uniform(ids.keys, seed, "drops", epoch)

    def select_epoch(self, state, ids, epoch, epochs, seed):
        below = state["losses"] < 1
        dropped = below & (self.draws(state, ids, epoch, seed) < self.ratio)
        return EpochSelection(~dropped, torch.ones(len(ids), dtype=torch.float64).masked_fill(below, 1 / (1 - self.ratio)))


@dataclasses.dataclass(frozen=True)
class Alternates(Drops):
    """Draws nothing and promises nothing; right by itself: every second epoch is without the half of the lowest losses."""

    unbiased: ClassVar[bool] = False

    def select_epoch(self, state, ids, epoch, epochs, seed):
        kept = (state["losses"] >= state["losses"].median()) | (epoch % 2 == 0)
        return EpochSelection(kept, torch.ones(len(ids), dtype=torch.float64))


class Unweighted(Drops):
    """Leaves the weights out, which nobody sees in the accuracy."""

    def select_epoch(self, state, ids, epoch, epochs, seed):
        return dataclasses.replace(
            super().select_epoch(state, ids, epoch, epochs, seed), weights=torch.ones(len(ids), dtype=torch.float64)
        )


class WeighsByCount(Drops):
    """Weighs by the share that was kept of all examples, not of those that could be left out."""

    def select_epoch(self, state, ids, epoch, epochs, seed):
        choice = super().select_epoch(state, ids, epoch, epochs, seed)
        return dataclasses.replace(
            choice, weights=torch.full((len(ids),), len(ids) / float(choice.kept.sum()), dtype=torch.float64)
        )


class DrawsTogether(Drops):
    """One draw for all, between 0.1 and 1, as if it were between 0 and 1."""

    def draws(self, state, ids, epoch, seed):
        return 1 - uniform(ids.keys[:1], seed, "drops", epoch).expand(len(ids)) * 0.9


class DrawsPositions(Drops):
    """Draws by the place of an example."""

    def draws(self, state, ids, epoch, seed):
        return torch.rand(len(ids), generator=torch.Generator().manual_seed(1000 * seed + epoch), dtype=torch.float64)


class DrawsGlobally(Drops):
    """torch.rand, which the training's own draws move."""

    def draws(self, state, ids, epoch, seed):
        return torch.rand(len(ids), dtype=torch.float64)


class DrawsOnce(Drops):
    """The same examples are left out in every epoch."""

    def draws(self, state, ids, epoch, seed):
        return uniform(ids.keys, seed, "drops")


MEMORY: dict[str, torch.Tensor] = {}


class Remembers(Drops):
    """Keeps the losses where no checkpoint finds them."""

    def update(self, state, positions, losses):
        if "losses" not in MEMORY or len(MEMORY["losses"]) != len(state["losses"]):
            MEMORY["losses"] = torch.full_like(state["losses"], 10.0)
        MEMORY["losses"][positions] = losses.double()

    def select_epoch(self, state, ids, epoch, epochs, seed):
        if epoch == 0:
            MEMORY.clear()
        return super().select_epoch({"losses": MEMORY.get("losses", state["losses"])}, ids, epoch, epochs, seed)


class StartsAtInfinity(Drops):
    """A state that no checkpoint takes."""

    def start(self, examples):
        return {"losses": torch.full((examples,), torch.inf, dtype=torch.float64)}


class CountsChoices(Drops):
    """Counts in the state how often it was asked."""

    def start(self, examples):
        return super().start(examples) | {"asked": torch.zeros(1)}

    def draws(self, state, ids, epoch, seed):
        state["asked"] += 1
        return uniform(ids.keys, seed, "drops", epoch)


class NormalisesInPlace(Drops):
    """Clips the losses that the loop is about to call backward on."""

    def update(self, state, positions, losses):
        super().update(state, positions, losses.clamp_(max=0.5))


class NeverAgain(Drops):
    """Leaves out for good what it has once found easy, from the beginning."""

    unbiased = False

    def select_epoch(self, state, ids, epoch, epochs, seed):
        kept = uniform(ids.keys, seed, "drops") > 0.3
        return EpochSelection(kept, torch.ones(len(ids), dtype=torch.float64))


class DropsAll(Drops):
    """Where all losses are low, nothing is left."""

    unbiased = False

    def select_epoch(self, state, ids, epoch, epochs, seed):
        return EpochSelection((state["losses"] >= 1) & (epoch < 9), torch.ones(len(ids), dtype=torch.float64))


class SaysAnotherSize(Drops):
    """Says that every epoch is whole."""

    def epoch_size(self, examples):
        return examples


class NumericIds(Drops):
    """Takes ids for numbers."""

    def draws(self, state, ids, epoch, seed):
        return uniform(ids.values.astype("int64").astype("uint64"), seed, "drops", epoch)


class AddsLater(Drops):
    """Puts into the state what was not there at the start, and so is not looked for in a checkpoint."""

    def update(self, state, positions, losses):
        super().update(state, positions, losses)
        state["low"] = state["losses"].quantile(0.3)

    def select_epoch(self, state, ids, epoch, epochs, seed):
        below = state["losses"] < state.get("low", torch.tensor(1.0))
        dropped = below & (self.draws(state, ids, epoch, seed) < self.ratio)
        return EpochSelection(~dropped, torch.ones(len(ids), dtype=torch.float64).masked_fill(below, 1 / (1 - self.ratio)))


SOUND = [Drops, Alternates]
FAULTY = {
    Unweighted: "the_expected_gradient_is_that_of_all",
    WeighsByCount: "the_expected_gradient_is_that_of_all",
    DrawsTogether: "the_expected_gradient_is_that_of_all",
    DrawsPositions: "the_order_of_the_examples_does_not_matter",
    DrawsGlobally: "same_seed_same_selection",
    DrawsOnce: "each_epoch_draws_anew",
    Remembers: "the_state_is_all_that_it_keeps",
    StartsAtInfinity: "the_state_is_all_that_it_keeps",
    CountsChoices: "choosing_leaves_everything_as_it_is",
    NormalisesInPlace: "choosing_leaves_everything_as_it_is",
    NeverAgain: "every_example_is_trained_on",
    DropsAll: "an_epoch_can_train_on_it",
    SaysAnotherSize: "epochs_are_as_long_as_it_says",
    NumericIds: "string_ids_work",
    AddsLater: "training_by_it_resumes_to_the_same_bits",
}
"""Each faulty live selector, and the law that was written against its mistake."""
