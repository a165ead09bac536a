"""The laws that every live selector, which chooses before each epoch, must pass, ours and other people's."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..core import options
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector, EpochSelection, LiveState
from ..maths import draws
from ..training.batches import TrainingData
from ..training.loop import Observer, train
from ..training.recipe import Recipe
from ..training.state import TrainingState
from .laws import Laws, always, hold, hold_class
from .selectors import BOTH

EXAMPLES, EPOCHS, BATCH = 48, 12, 7
SEEDS = 3000
"""How often an epoch is drawn again to estimate the expectation of its selection."""
MIDDLE = EPOCHS // 2


def ids() -> Ids:
    """Ids in no order."""
    return Ids(np.random.default_rng(7).choice(10_000, EXAMPLES, replace=False) - 500)


def losses_in(epoch: int, there: Ids) -> Tensor:
    """Losses that fall from epoch to epoch, some fast, some hardly; each depends on id and epoch alone."""
    difficulty, noise = (draws.uniform(there.keys, 1, "losses of a law", counter) for counter in (0, 1 + epoch))
    return 2.5 * torch.exp(-epoch * (1 - difficulty)) + 0.1 * noise


def opening(
    selector: AbstractLiveSelector,
    there: Ids,
    epochs: int,
    seed: int = 0,
    between: Callable[[LiveState], LiveState] = lambda state: state,
) -> tuple[LiveState, list[EpochSelection]]:
    """The state after some epochs, and the selection of each epoch.

    Args:
        selector: The live selector.
        there: The examples.
        epochs: Number of epochs.
        seed: Seed of the training.
        between: Function applied to the state between two epochs.
    """
    state, chosen = selector.start(len(there)), []
    for epoch in range(epochs):
        choice = selector.select_epoch(state, there, epoch, EPOCHS, seed).checked(there, selector.title, epoch)
        # A copy, because a selector may go on writing into what it gave.
        chosen.append(EpochSelection(choice.kept.clone(), choice.weights.clone()))
        losses = losses_in(epoch, there).float()
        order = draws.permutation(there.keys, seed, "order of a law", epoch)
        for positions in order[chosen[-1].kept[order]].split(BATCH):
            selector.update(state, positions, losses[positions])
        state = between(state)
    return state, chosen


def equal(here: EpochSelection, there: EpochSelection) -> bool:
    """Whether two train on the same examples with the same weights."""
    return torch.equal(here.kept, there.kept) and torch.equal(here.weights[here.kept], there.weights[here.kept])


def an_epoch_can_train_on_it(selector: AbstractLiveSelector) -> None:
    """Every epoch has an example, and finite weights of 0 or more in double precision."""
    for choice in opening(selector, ids(), EPOCHS)[1]:
        assert choice.weights.dtype == torch.float64, f"weights are {choice.weights.dtype} and not double precision"
        assert float(choice.weights[choice.kept].sum()) > 0, "all weights of an epoch are 0"


def every_example_is_trained_on(selector: AbstractLiveSelector) -> None:
    """Every example is trained on in some epoch, with a weight above 0."""
    met = torch.zeros(EXAMPLES, dtype=torch.bool)
    for choice in opening(selector, ids(), EPOCHS)[1]:
        met |= choice.kept & (choice.weights > 0)
    assert bool(met.all()), f"{int((~met).sum())} of {EXAMPLES} examples are never trained on in {EPOCHS} epochs"


def same_seed_same_selection(selector: AbstractLiveSelector) -> None:
    """The same losses and seed give the same epochs, whatever the global random states."""
    chosen = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chosen.append(opening(selector, ids(), EPOCHS, seed=3)[1])
    assert all(map(equal, *chosen)), "a second training chose otherwise"


def the_order_of_the_examples_does_not_matter(selector: AbstractLiveSelector) -> None:
    """The same examples in another order are chosen alike, each with its weight."""
    here, order = ids(), torch.from_numpy(np.random.default_rng(1).permutation(EXAMPLES))
    base, moved = (opening(selector, there, EPOCHS)[1] for there in (here, here.take(order)))
    for epoch, (one, other) in enumerate(zip(base, moved, strict=True)):
        assert equal(EpochSelection(one.kept[order], one.weights[order]), other), f"epoch {epoch} is chosen otherwise"


def string_ids_work(selector: AbstractLiveSelector) -> None:
    """Ids may be texts."""
    opening(selector, Ids([f"photo {rank:03d}.png" for rank in ids().ranks.tolist()]), EPOCHS)


def the_state_is_all_that_it_keeps(selector: AbstractLiveSelector) -> None:
    """The state is finite tensors; saved and loaded between epochs by another object of the class, it leads to the same selections."""

    def stored(state: LiveState) -> LiveState:
        assert all(isinstance(part, Tensor) for part in state.values()), "the state holds something that is no tensor"
        assert all(bool(part.isfinite().all()) for part in state.values()), "the state holds something that is not finite"
        return {name: part.clone() for name, part in state.items()}

    stored(selector.start(EXAMPLES))
    whole = opening(selector, ids(), EPOCHS)[1]
    assert all(map(equal, whole, opening(selector, ids(), EPOCHS, between=stored)[1])), "gone on with, it chooses otherwise"
    state, _ = opening(selector, ids(), MIDDLE)
    held = stored(state)
    # Another training goes on beside this one.
    opening(selector, ids(), EPOCHS, seed=5)
    other = options.build(type(selector), "policy", options.split(selector.title)[1])
    assert other == selector, f"{selector.title} is another selector"
    after = other.select_epoch(held, ids(), MIDDLE, EPOCHS, 0)
    assert equal(whole[MIDDLE], after), "another object of the class goes on otherwise"


def choosing_leaves_everything_as_it_is(selector: AbstractLiveSelector) -> None:
    """`select_epoch` changes no state, `update` no losses, and neither the random states."""
    state, _ = opening(selector, ids(), MIDDLE)
    held = {name: part.clone() for name, part in state.items()}
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    here, positions = ids(), torch.arange(BATCH)
    selector.select_epoch(state, here, MIDDLE, EPOCHS, 0)
    assert here == ids() and all(torch.equal(state[name], part) for name, part in held.items()), "choosing changed the state"
    losses = losses_in(MIDDLE, here)[positions]
    before = losses.clone()
    selector.update(state, positions, losses)
    assert torch.equal(losses, before) and torch.equal(positions, torch.arange(BATCH)), "it wrote into the losses"
    assert torch.equal(torch.get_rng_state(), states[0]), "it moved torch's random state"
    assert np.random.get_state()[1].tolist() == states[1], "it moved NumPy's random state"  # type: ignore[index, union-attr]


def epochs_are_as_long_as_it_says(selector: AbstractLiveSelector) -> None:
    """If `epoch_size` is a number, every epoch has as many examples."""
    size = selector.epoch_size(EXAMPLES)
    counts = {int(choice.kept.sum()) for choice in opening(selector, ids(), EPOCHS)[1]}
    assert size is None or counts == {size}, f"epochs have {sorted(counts)} examples, and `epoch_size` says {size}"


def the_expected_gradient_is_that_of_all(selector: AbstractLiveSelector) -> None:
    """Over draws each example weighs 1 on average, left out as 0, within the standard error of that mean."""
    here = ids()
    state, _ = opening(selector, here, MIDDLE)
    choices = [selector.select_epoch(state, here, MIDDLE, EPOCHS, seed) for seed in range(SEEDS)]
    weights = torch.stack([torch.where(one.kept, one.weights, 0.0) for one in choices])
    off, error = weights.mean(0) - 1, weights.std(0) / SEEDS**0.5
    fixed = error == 0
    assert not bool(fixed.any()) or float(off[fixed].abs().max()) < 1e-9, "an example always has a weight other than 1"
    apart = off[~fixed].abs() / error[~fixed]
    assert not len(apart) or float(apart.max()) < 5, (
        f"the mean weight of an example is {float(off[~fixed][apart.argmax()] + 1):.3f}, {float(apart.max()):.1f} standard errors from 1"
    )
    # Draws that go together add up: the sums of gradients along some directions.
    directions = torch.randn(EXAMPLES, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = weights @ directions - directions.sum(0)
    spread = sums.std(0) / SEEDS**0.5
    assert bool((sums.mean(0).abs() <= 5 * spread + 1e-9).all()), "the mean of the weighted sums of gradients is not that of all"


def each_epoch_draws_anew(selector: AbstractLiveSelector) -> None:
    """If another seed changes the selection, so does another epoch."""
    here = ids()
    state, _ = opening(selector, here, MIDDLE)
    by_seed = [selector.select_epoch(state, here, MIDDLE, EPOCHS, seed) for seed in range(4)]
    by_epoch = [selector.select_epoch(state, here, epoch, EPOCHS, 0) for epoch in range(MIDDLE, MIDDLE + 4)]
    if not all(equal(by_seed[0], one) for one in by_seed):
        assert not all(equal(by_epoch[0], one) for one in by_epoch), "from the same losses each epoch draws the same examples"


class Middle(Observer):
    """Keeps the state after half the epochs."""

    state: TrainingState | None = None

    def epoch_ends(self, epoch: int, model: nn.Module, state: TrainingState) -> None:
        """Keep the state after half the epochs."""
        if epoch + 1 == MIDDLE:
            self.state = state


def training_by_it_resumes_to_the_same_bits(selector: AbstractLiveSelector) -> None:
    """A training that stopped in the middle ends where the one that did not stop ends."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(EXAMPLES) % 3
    inputs = torch.eye(3)[labels] + 0.7 * torch.randn(EXAMPLES, 3, generator=draw)
    recipe, middle = Recipe(epochs=EPOCHS, batch=BATCH, lr=0.3, momentum=0.9), Middle()  # type: ignore[abstract]

    def ended(resume: TrainingState | None, observer: Observer | None) -> TrainingState:
        model = nn.Linear(3, 3)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return train(model, TrainingData(inputs, labels, ids()), recipe, selector=selector, resume=resume, observer=observer)

    whole = ended(None, middle)
    assert middle.state is not None
    again = ended(copy.deepcopy(middle.state), None)
    assert whole.steps == again.steps and all(torch.equal(value, again.tensors[name]) for name, value in whole.tensors.items()), (
        "resumed, it ends elsewhere"
    )


LAWS: Laws = {
    an_epoch_can_train_on_it: always,
    every_example_is_trained_on: always,
    same_seed_same_selection: always,
    the_order_of_the_examples_does_not_matter: always,
    string_ids_work: always,
    the_state_is_all_that_it_keeps: always,
    choosing_leaves_everything_as_it_is: always,
    epochs_are_as_long_as_it_says: always,
    the_expected_gradient_is_that_of_all: lambda selector: selector.unbiased,
    each_epoch_draws_anew: always,
    training_by_it_resumes_to_the_same_bits: always,
}
"""Each law, and the live selectors that it applies to."""


def check_live_selector(
    selector: AbstractLiveSelector, *, variants: Sequence[Mapping[str, object]] = ({},), refused: Sequence[str] = ()
) -> None:
    """Test a live selector of your own with the laws that assay's own pass; this takes seconds.

        from assay.testing import check_live_selector

        def test_the_laws():
            check_live_selector(Half(), variants=[{}, {"ratio": 0.3}], refused=["ratio=1"])

    Args:
        selector: The live selector to test.
        variants: Sets of options; the selector is tested with each of them in turn.
        refused: Options that the selector must refuse, as texts such as `ratio=2`; of several in a text the first is the one that is wrong.

    Raises:
        AssertionError: It breaks a law; says which, and how.
        UsageError: It refuses a variant.
    """
    hold_class(type(selector), "policy", BOTH, refused)
    for given in variants:
        variant = dataclasses.replace(selector, **given)  # type: ignore[type-var]
        hold(variant.title, LAWS, variant)
