"""Models trained side by side end in the bits of each alone; where they would not, that is noticed before."""

import dataclasses

import pytest
import torch
from torch import nn

from assay.core.errors import NumericalError
from assay.core.ids import Ids
from assay.training import Observer, Recipe, train
from assay.training.together import Member, exact_together, train_together

N, DIMS, CLASSES = 61, 12, 4
IDS = Ids(range(7, 7 + N))
INPUTS = torch.randn(N, DIMS, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % CLASSES
RECIPES = {
    "sgd": Recipe(epochs=3, lr=0.1, batch=16),
    "momentum": Recipe(epochs=3, lr=0.1, batch=16, momentum=0.9, dampening=0.1, weight_decay=1e-3, schedule="cosine"),
    "nesterov": Recipe(epochs=3, lr=0.1, batch=16, momentum=0.9, nesterov=True, ragged="even"),
    "adam": Recipe(epochs=3, lr=0.01, batch=16, optimizer="adam", weight_decay=1e-3, ragged="drop"),
    "adamw": Recipe(epochs=3, lr=0.01, batch=16, optimizer="adamw", weight_decay=0.1, schedule="one_cycle"),
}


def net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(DIMS, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()


class Keeper(Observer):
    def __init__(self):
        self.seen = []

    def starts(self, state):
        self.seen.append(("starts", state))

    def epoch_begins(self, epoch):
        self.seen.append(("begins", epoch))

    def batch(self, positions, logits, labels, rate):
        self.seen.append(("batch", positions.clone(), logits.clone(), labels.clone(), rate))

    def epoch_ends(self, epoch, model, state):
        # What an observer draws reaches nothing.
        torch.rand(3)
        parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.seen.append(("ends", epoch, parameters, state))


def shifted(seed):
    def augment(batch, keys, *, epoch, step):
        return batch + 0.01 * (seed + epoch + step) + torch.from_numpy(keys % 3).float()[:, None]

    return augment


def members(recipe, count=3, resume=None, **more):
    return [
        Member(
            net(seed), dataclasses.replace(recipe, seed=seed), shifted(seed), Keeper(), resume[seed] if resume else None, **more
        )
        for seed in range(count)
    ]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    return one == other


def alone(recipe, count=3, resume=None):
    states, keepers, nets = [], [], []
    for seed in range(count):
        keepers.append(Keeper())
        nets.append(net(seed))
        states.append(
            train(
                nets[-1], INPUTS, LABELS, IDS, dataclasses.replace(recipe, seed=seed), augment=shifted(seed), observer=keepers[-1],
                resume=resume[seed] if resume else None,
            )
        )  # fmt: skip
    return states, keepers, nets


@pytest.mark.parametrize("name", RECIPES)
def test_together_is_alone_to_the_bit(name):
    group = members(RECIPES[name])
    assert exact_together(group, INPUTS, LABELS, IDS)
    before = torch.get_rng_state()
    found = train_together(group, INPUTS, LABELS, IDS)
    assert torch.equal(before, torch.get_rng_state())
    states, keepers, nets = alone(RECIPES[name])
    for place, (state, keeper) in enumerate(zip(states, keepers, strict=True)):
        assert same(found[place], state)
        assert same(group[place].observer.seen, keeper.seen)
        for one, other in zip(group[place].model.parameters(), nets[place].parameters(), strict=True):
            assert torch.equal(one, other) and one.grad is None
    # Each has parameters of its own again.
    first, second = (next(one.model.parameters()) for one in group[:2])
    with torch.no_grad():
        first.zero_()
    assert bool(second.any()) and not group[0].model.training


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_resumed_together_is_alone_to_the_bit(name):
    recipe = RECIPES[name]
    whole, keepers, _ = alone(recipe)
    after_one = [next(entry for entry in keeper.seen if entry[0] == "ends")[3] for keeper in keepers]
    found = train_together(members(recipe, resume=after_one), INPUTS, LABELS, IDS)
    assert all(map(same, found, whole))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(DIMS, CLASSES)

    def forward(self, x):
        return self.layer(x + torch.randn(x.shape))


class Sorting(nn.Module):
    """What vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(DIMS, CLASSES)

    def forward(self, x):
        return self.layer(x) * (2.0 if float(x.sum()) > 0 else 1.0)


@pytest.mark.parametrize(
    ("model", "recipe", "count"),
    [
        (lambda: nn.Sequential(nn.Linear(DIMS, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)), {}, 2),
        (lambda: nn.Sequential(nn.Linear(DIMS, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)), {}, 2),
        (Noisy, {}, 2),
        (Sorting, {}, 2),
        (lambda: nn.Sequential(nn.Linear(DIMS, CLASSES).requires_grad_(False), nn.Linear(CLASSES, CLASSES)), {}, 2),
        (lambda: nn.Sequential(nn.Linear(DIMS, 20_000), nn.Linear(20_000, CLASSES)), {}, 2),
        (lambda: nn.Sequential(nn.Unflatten(1, (1, DIMS)), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(40, CLASSES)), {}, 2),
        (lambda: net(0), {"clip": 1.0}, 2),
        (lambda: net(0), {"ema": 0.9}, 2),
        (lambda: net(0), {}, 1),
    ],
)
def test_what_would_not_be_the_same_is_not_done_together(model, recipe, count):
    group = [Member(model(), Recipe(epochs=1, lr=0.1, batch=16, **recipe)) for _ in range(count)]
    assert not exact_together(group, INPUTS, LABELS, IDS)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_accepted_is_the_same(seed):
    # Few inputs, classes and examples, where other orders of adding up round alike most of the time.
    draw = torch.Generator().manual_seed(seed)
    dims, classes, batch, n = (int(torch.randint(*ends, (1,), generator=draw)) for ends in ((1, 6), (2, 4), (1, 9), (20, 60)))
    inputs, labels, ids = torch.randn(n, dims, generator=draw), torch.arange(n) % classes, Ids(range(n))
    recipe = Recipe(epochs=6, lr=0.1, batch=batch, momentum=0.9 * (seed % 2))

    def made(member):
        torch.manual_seed(member)
        return nn.Linear(dims, classes) if seed % 3 else nn.Sequential(nn.Linear(dims, 7), nn.Tanh(), nn.Linear(7, classes))

    group = [Member(made(one), dataclasses.replace(recipe, seed=one)) for one in range(4)]
    if exact_together(group, inputs, labels, ids):
        found = train_together(group, inputs, labels, ids)
        assert all(
            map(same, found, [train(made(one), inputs, labels, ids, dataclasses.replace(recipe, seed=one)) for one in range(4)])
        )


def test_a_last_batch_too_small_for_the_same_kernels_is_noticed():
    # torch takes another way through two rows of one matrix than through two rows of each of many.
    few = IDS.take(range(50))
    group, inputs, labels = members(RECIPES["sgd"]), INPUTS[:50], LABELS[:50]
    if exact_together(group, inputs, labels, few):
        found = train_together(group, inputs, labels, few)
        alone = [
            train(net(n), inputs, labels, few, dataclasses.replace(RECIPES["sgd"], seed=n), augment=shifted(n)) for n in range(3)
        ]
        assert all(map(same, found, alone))


def test_a_step_that_differs_in_one_bit_is_noticed(monkeypatch):
    from assay.training import together

    group = members(RECIPES["sgd"])
    step = together._Stack.step

    def off(self, logits, labels, rate):
        found = step(self, logits, labels, rate)
        with torch.no_grad():
            value = self.params["0.weight"]
            value[1, 0, 0] = torch.nextafter(value[1, 0, 0], torch.tensor(9.0))
        return found

    monkeypatch.setattr(together._Stack, "step", off)
    assert not exact_together(group, INPUTS, LABELS, IDS)


def test_a_loss_that_is_not_finite_names_its_examples():
    inputs = INPUTS.clone()
    inputs[5] = 1e38
    group = [Member(net(seed), Recipe(epochs=1, lr=0.1, batch=16, seed=seed)) for seed in range(2)]
    with pytest.raises(NumericalError, match=r"Epoch 0, step \d: the loss of 1 examples is not finite; ids 12"):
        train_together(group, inputs * 10, LABELS, IDS)
