import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import UsageError
from assay.core.models import WeightDecay
from assay.experiments.evidence import open_replay
from assay.replay.optimizers import weight_decay_of
from methods.loops import World

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {}, True),
    "Adam": (torch.optim.Adam, {}, True),
    "AdamW": (torch.optim.AdamW, {}, False),
    "Adam, decoupled": (torch.optim.Adam, {"decoupled_weight_decay": True}, False),
    "NAdam, decoupled": (torch.optim.NAdam, {"decoupled_weight_decay": True}, False),
    "RMSprop": (torch.optim.RMSprop, {}, True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_how_torch_s_optimizers_pull_towards_0(name):
    kind, given, coupled = OPTIMIZERS[name]
    p = nn.Parameter(torch.tensor([4.0]))
    optimizer = kind([p], lr=0.01, weight_decay=0.1, **given)
    assert weight_decay_of(optimizer, optimizer.param_groups[0]) == WeightDecay(0.1, coupled)
    # With no gradient, what is decoupled shrinks by rate * decay; what is coupled is a gradient as any other.
    p.grad = torch.zeros(1)
    optimizer.step()
    shrunk = float(p.detach()) == pytest.approx(4 * (1 - 0.01 * 0.1), rel=1e-6)
    assert shrunk == (not coupled) or name == "SGD"


def test_what_is_not_known_is_refused_only_where_there_is_a_decay():
    class Own(torch.optim.SGD):
        pass

    p = [nn.Parameter(torch.ones(1))]
    optimizer = Own(p, lr=0.1, weight_decay=0.3)
    with pytest.raises(UsageError, match=r"What Own does with weight_decay=0\.3 is not known; leave it out by decay=none"):
        weight_decay_of(optimizer, optimizer.param_groups[0])
    optimizer = Own(p, lr=0.1)
    assert weight_decay_of(optimizer, optimizer.param_groups[0]).factor == 0


def test_each_parameter_has_that_of_its_group_as_it_was_at_that_epoch(tmp_path):
    x, y = torch.randn(12, 3).double(), torch.arange(12) % 2
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    groups = [{"params": model[0].parameters(), "weight_decay": 0.0}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.2)
    loader = DataLoader(TensorDataset(x, y), 4)
    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for epoch in range(2):
            for x_, y_ in recorder.epoch():
                optimizer.param_groups[1]["weight_decay"] = 0.2 * (epoch + 1)
                logits = model(x_)
                optimizer.zero_grad()
                F.cross_entropy(logits, y_).backward()
                optimizer.step()
                recorder.batch(logits, y_)
    replay = open_replay(tmp_path / "run", loop=assay.Loop(model, optimizer, loader))
    for epoch, factor in ((-1, 0.2), (0, 0.2), (1, 0.4)):
        assert replay.at(epoch).weight_decay() == {name: WeightDecay(factor, True) for name in ("2.weight", "2.bias")}, epoch


REDUCTIONS = {
    "mean": ("mean", 1.0),
    # Three batches of 5, 5 and 3 examples.
    "sum": ("sum", 3 / 13),
    "own": (lambda batch: 2.0 * len(batch[1]), 2.0),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_it_is_per_unit_of_the_mean_loss(tmp_path, name):
    reduction, scale = REDUCTIONS[name]
    world = World(tmp_path / "run", "decay")
    replay = open_replay(world.run, loop=world.loop(reduction=reduction))
    found = replay.at(1).weight_decay()
    assert set(found) == set(dict(world.model.named_parameters()))
    assert all(one.coupled and one.factor == pytest.approx(0.05 * scale) for one in found.values())


def test_a_recipe_s_is_the_plan_s(tmp_path):
    from experiments import small

    run = small.recorded(tmp_path / "run", recipe={"epochs": 1, "weight_decay": 0.03, "optimizer": "adamw", "lr": 0.01})
    found = open_replay(run).at(0).weight_decay()
    assert found and set(found.values()) == {WeightDecay(0.03, False)}


@pytest.mark.parametrize(("said", "factor"), [(2, 0.05), (1, 0.025), ("batches", 0.05)])
def test_several_batches_of_a_step_count_as_the_loop_divides_them(tmp_path, said, factor):
    world = World(tmp_path / "run", "decay", batch=4, every=2)
    with pytest.raises(
        UsageError, match=r"not known how many losses the weight decay stands against; give assay\.Loop accumulate="
    ):
        open_replay(world.run, loop=world.loop(accumulate=None)).at(1).weight_decay()
    found = open_replay(world.run, loop=world.loop(accumulate=said)).at(1).weight_decay()
    # Steps of 4 + 4 and 4 + 1 examples, whose losses are divided by 8 and 8, and by 8 and 2.
    assert all(one.factor == pytest.approx(factor) for one in found.values())
    assert len({one.factor for one in found.values()}) == 1


def test_steps_of_an_unknown_number_of_losses_are_refused(tmp_path):
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    loader = DataLoader(TensorDataset(torch.randn(12, 3).double(), torch.arange(12) % 2), 4)
    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for number, (x, y) in enumerate(recorder.epoch()):
            logits = model(x)
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            if number == 2:
                optimizer.step()
            optimizer.zero_grad()
            recorder.batch(logits, y)
    loop = assay.Loop(model, optimizer, loader)
    with pytest.raises(
        UsageError, match=r"epoch 0, batch 2, the optimizer moved 2 times, not once, so that it is not known .*decay=none"
    ):
        _ = open_replay(tmp_path / "run", loop=loop).at(0).weight_decay()
    targets = {"validation": (torch.randn(4, 3).double(), torch.tensor([0, 1, 0, 1]))}
    assay.score(tmp_path / "run", "influence:decay=none", loop=loop, targets=targets)
