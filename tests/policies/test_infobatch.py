import numpy as np
import pytest
import torch

from assay.core.errors import UnknownName, UsageError
from assay.core.ids import Ids
from assay.core.live_selection import AbstractLiveSelector, EpochSelection
from assay.maths.draws import uniform
from assay.policies import catalogue, find, live_catalogue, parse, parse_live
from assay.policies.infobatch import InfoBatch

VARIANTS = [{}, {"ratio": 0.8}, {"ratio": 0.3, "delta": 1.0}]
"""Options that the laws run it with."""

REFUSED = ["ratio=1", "ratio=-0.1", "delta=1.5", "delta=-1", "ratio=nan"]
"""Options that are refused."""

IDS = Ids([f"e{number}" for number in range(6)])
LOSSES = torch.tensor([0.1, 0.2, 0.3, 4.0, 5.0, 0.0])


def state_after(selector, losses, ids=IDS):
    state = selector.start(len(ids))
    for part in torch.arange(len(ids)).split(4):
        selector.update(state, part, losses[part])
    return state


def by_hand(ids, losses, epoch, ratio, seed):
    """The definition, example by example: who is below the mean and drawn under the ratio is left out, others below it weigh more."""
    mean = sum(losses.tolist()) / len(ids)
    kept, weights = [], []
    for place, loss in enumerate(losses.tolist()):
        draw = float(uniform(ids.keys[place : place + 1], seed, "policy infobatch", epoch)[0])
        kept.append(not (loss < mean and draw < ratio))
        weights.append(1 / (1 - ratio) if loss < mean else 1.0)
    return kept, weights


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 7])
def test_an_epoch_is_what_the_definition_says(ratio, seed):
    selector = InfoBatch(ratio)
    state = state_after(selector, LOSSES)
    for epoch in range(1, 8):
        choice = selector.select_epoch(state, IDS, epoch, 10, seed)
        kept, weights = by_hand(IDS, LOSSES, epoch, ratio, seed)
        assert choice.kept.tolist() == kept and choice.weights.tolist() == weights


@pytest.mark.parametrize(("epochs", "first"), [(8, 7), (10, 8), (200, 175), (1, 0)])
def test_the_last_epochs_train_on_all(epochs, first):
    selector = InfoBatch(0.99)
    state = state_after(selector, LOSSES)
    whole = [selector.select_epoch(state, IDS, epoch, epochs, 0).whole for epoch in range(epochs)]
    assert all(whole[first:]) and not any(whole[:first])


def test_before_any_loss_is_known_nothing_is_dropped_and_the_unseen_never_are():
    selector = InfoBatch(0.99)
    state = selector.start(6)
    assert selector.select_epoch(state, IDS, 0, 10, 0).whole
    selector.update(state, torch.tensor([0, 3]), torch.tensor([0.1, 4.0]))
    choice = selector.select_epoch(state, IDS, 1, 10, 0)
    assert choice.kept.tolist() == [False, True, True, True, True, True]
    assert choice.weights[1:].tolist() == [1.0] * 5


@pytest.mark.parametrize("loss", [0.1, 1 / 3, 2.3025851])
def test_equal_losses_are_not_below_their_mean(loss):
    ids = Ids(range(1000))
    selector = InfoBatch(0.99)
    state = state_after(selector, torch.full((1000,), loss), ids)
    assert selector.select_epoch(state, ids, 1, 10, 0).whole


def test_a_draw_depends_on_seed_epoch_and_id_alone():
    ids, order = Ids(range(200)), torch.randperm(200, generator=torch.Generator().manual_seed(0))
    losses = torch.rand(200, generator=torch.Generator().manual_seed(1))
    selector = InfoBatch()
    here = selector.select_epoch(state_after(selector, losses, ids), ids, 2, 10, 5)
    there = selector.select_epoch(state_after(selector, losses[order], ids.take(order)), ids.take(order), 2, 10, 5)
    assert torch.equal(here.kept[order], there.kept) and torch.equal(here.weights[order], there.weights)
    others = [selector.select_epoch(state_after(selector, losses, ids), ids, epoch, 10, seed) for epoch, seed in ((3, 5), (2, 6))]
    assert all(not torch.equal(here.kept, other.kept) for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_the_expected_weighted_gradient_is_that_of_all_examples(ratio):
    """Over many seeds the mean of the weighted sums of gradients is the full sum, within five standard errors; without the weights it is not."""
    ids, draw = Ids(range(40)), torch.Generator().manual_seed(0)
    inputs, targets = (
        torch.randn(40, 3, generator=draw, dtype=torch.float64),
        torch.randn(40, generator=draw, dtype=torch.float64),
    )
    weight = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    residuals = inputs @ weight - targets
    gradients = 2 * residuals[:, None] * inputs
    selector = InfoBatch(ratio)
    state = state_after(selector, residuals.square(), ids)
    seeds = 4000
    choices = [selector.select_epoch(state, ids, 1, 10, seed) for seed in range(seeds)]
    sums = torch.stack([(choice.kept * choice.weights) @ gradients for choice in choices])
    error = sums.std(0) / seeds**0.5
    assert bool(((sums.mean(0) - gradients.sum(0)).abs() < 5 * error).all())
    bare = torch.stack([choice.kept.to(torch.float64) @ gradients for choice in choices])
    assert not bool(((bare.mean(0) - gradients.sum(0)).abs() < 5 * error).all())


def test_it_is_a_policy_of_its_own_kind():
    assert live_catalogue()["infobatch"] is InfoBatch and "infobatch" not in catalogue()
    assert issubclass(InfoBatch, AbstractLiveSelector) and parse_live("infobatch:ratio=0.3").title == "infobatch:ratio=0.3"
    for call in (find, parse):
        with pytest.raises(UsageError, match=r"chooses before every epoch.*--select infobatch"):
            call("infobatch")
    with pytest.raises(UsageError, match="top_k chooses once, by a score"):
        parse_live("top_k:keep=0.3")
    with pytest.raises(UnknownName, match="infobatch"):
        parse_live("infobach")


@pytest.mark.parametrize(
    ("kept", "weights", "words"),
    [
        ([False] * 6, [1.0] * 6, "keeps no example in epoch 4"),
        ([True] * 6, [1.0] * 5 + [-1.0], "negative or not finite; ids e5"),
        ([True] * 6, [np.nan] + [1.0] * 5, "negative or not finite; ids e0"),
        ([True] * 5, [1.0] * 5, "needs one bool `kept` and one weight for each"),
    ],
)
def test_a_selection_that_no_epoch_can_train_on_is_refused(kept, weights, words):
    selection = EpochSelection(torch.tensor(kept), torch.tensor(weights, dtype=torch.float64))
    with pytest.raises(UsageError, match=words):
        selection.checked(IDS, "some", 4)
