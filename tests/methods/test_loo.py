import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from groups import slow
from methods.loops import EXAMPLES, OPTIMIZERS, Net, World

VARIANTS = [{}, {"window": "1-1", "form": "renormalised"}]
REFUSED = ["window=0", "form=dropped"]


def trained_without(world, left_out, form, first=0):
    """The whole training in plain torch, without an example from epoch `first` on."""
    model = Net(world.norm).double()
    model.load_state_dict(world.start)
    kind, _ = OPTIMIZERS[world.name]
    groups = [{"params": model.hidden.parameters()}, {"params": [*model.norm.parameters(), *model.out.parameters()]}]
    optimizer = kind(groups, **world.settings)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(world.ema)) if world.ema else None
    for epoch in range(world.run.epochs):
        for positions, rates in zip(world.run.order(epoch), world.run.rates(epoch), strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = float(rate)
            stays = (positions != left_out) | (epoch < first)
            optimizer.zero_grad()
            if form == "weight":
                losses = F.cross_entropy(model(world.inputs[positions]), world.labels[positions], reduction="none")
                (losses * stays).sum().div(len(positions)).backward()
            elif bool(stays.any()):
                left = positions[stays]
                losses = F.cross_entropy(model(world.inputs[left]), world.labels[left], reduction="none")
                losses.sum().div(len(positions) if form == "removed" else len(left)).backward()
            else:
                continue
            if world.clip:
                nn.utils.clip_grad_norm_(model.parameters(), world.clip)
            optimizer.step()
            if averaged is not None:
                averaged.update_parameters(model)
    with torch.no_grad():
        return float(F.cross_entropy((averaged or model).eval()(world.held_out), world.held_labels))


@pytest.mark.parametrize("form", ["weight", "removed", "renormalised"])
@pytest.mark.parametrize(
    ("optimizer", "norm", "ema"), [("momentum", True, 0.8), *slow(("adamw", False, None), ("sgd", False, 0.9))]
)
def test_equals_training_again_in_plain_torch(tmp_path, form, optimizer, norm, ema):
    world = World(tmp_path / "run", optimizer, norm=norm, batch=7 if norm else 6, clip=0.5, ema=ema)
    table = world.score(f"loo:form={form}" if form != "weight" else "loo", f"loo:form={form},window=last")
    for one, first in zip(table.values(), (0, 2), strict=True):
        base = trained_without(world, -1, form)
        expected = torch.tensor([trained_without(world, i, form, first) - base for i in range(EXAMPLES)], dtype=torch.float64)
        torch.testing.assert_close(one.values, expected, rtol=0, atol=1e-10)


def test_influence_ranks_like_it(tmp_path):
    from scipy.stats import kendalltau

    world = World(tmp_path / "run", "sgd", epochs=6)
    table = world.score("loo", "sgd_influence")
    assert kendalltau(table["loo"].values.numpy(), table["sgd_influence"].values.numpy()).statistic > 0.8
