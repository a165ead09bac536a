"""Several optimizers of one training: recorded, resumed and repeated as one."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import assay
from assay.core.errors import Mismatch, UsageError
from assay.replay.joined import JoinedOptimizers
from assay.replay.wrapped import inner_optimizer
from assay.runs.run import Run
from groups import slow
from integrations.test_loops import Accelerated
from integrations.test_replays import EXAMPLES, TensorDataset, data, net
from settings import grouped

HOW = assay.ReplayConfig(tolerance=1e-12)


def parts(model, body="sgd", head="adamw"):
    """One optimizer for the first layers and one for the last."""
    made = {
        "sgd": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, weight_decay=0.01),
        "plain": lambda own: torch.optim.SGD(own, lr=0.2),
        "adamw": lambda own: torch.optim.AdamW(own, lr=0.02, weight_decay=0.1, eps=1e-4),
    }
    return [made[body](model[:4].parameters()), made[head](model[4].parameters())]


def trained(folder, model, optimizers, epochs=3, steps=lambda number: (0, 1), clip=None, **given):
    inputs, labels, _ = data()
    loader = DataLoader(TensorDataset(inputs, labels), 4, shuffle=True)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(one, 0.97) for one in optimizers]
    taken = optimizers if len(optimizers) > 1 else optimizers[0]
    with assay.record(folder, model, taken, loader, **grouped({"seed": 0, "checkpoints": "every", **given})) as recorder:
        for _ in range(epochs):
            for number, (x, y) in enumerate(recorder.epoch()):
                logits = model(x)
                model.zero_grad()
                F.cross_entropy(logits, y).backward()
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                for place in steps(number):
                    optimizers[place % len(optimizers)].step()
                recorder.batch(logits, y)
                for one in schedules:
                    one.step()
    return assay.Loop(model, taken, loader, clip=clip)


TARGETS = {"validation": data()[2]}


def values(folder, loop, *methods, targets=TARGETS):
    return {
        name: one.values
        for name, one in assay.score(folder, list(methods), loop=loop, targets=targets, replay_config=HOW).items()
    }


def test_two_of_one_kind_are_one_with_two_groups(tmp_path):
    one, two = net(0.2), net(0.2)
    both = [
        torch.optim.SGD(two[:4].parameters(), lr=0.1, momentum=0.9),
        torch.optim.SGD(two[4].parameters(), lr=0.3, weight_decay=0.1),
    ]
    groups = [
        {"params": one[:4].parameters(), "lr": 0.1, "momentum": 0.9},
        {"params": one[4].parameters(), "lr": 0.3, "weight_decay": 0.1},
    ]
    alone = trained(tmp_path / "one", one, [torch.optim.SGD(groups)], steps=lambda number: (0,), clip=0.5)
    joined = trained(tmp_path / "two", two, both, clip=0.5)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    methods = ("sgd_influence", "tracin", "liveval", "loo", "influence:damping=0.1")
    expected, found = values(tmp_path / "one", alone, *methods), values(tmp_path / "two", joined, *methods)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("body", "head"), [("sgd", "adamw"), *slow(("adamw", "plain"), ("plain", "sgd"))])
def test_influence_through_both_is_the_derivative_of_the_training(tmp_path, body, head):
    model = net()
    loop = trained(tmp_path / "run", model, parts(model, body, head), clip=0.8)
    replay = assay.experiments.evidence.open_replay(tmp_path / "run", loop=loop, targets=TARGETS)
    found = values(tmp_path / "run", loop, "sgd_influence")["sgd_influence"]
    whole, ones = range(replay.epochs[-1].stop), torch.ones(EXAMPLES, dtype=torch.float64)
    for one in (0, EXAMPLES - 1):
        step = torch.zeros(EXAMPLES, dtype=torch.float64).index_fill(0, torch.tensor([one]), 1e-5)
        slope = (replay.reweighted(ones + step, whole, "validation") - replay.reweighted(ones - step, whole, "validation")) / 2e-5
        assert -slope == pytest.approx(float(found[one]), rel=1e-5, abs=1e-9)


def test_what_is_moved_goes_on_through_both(tmp_path):
    # Of one step, what is carried is what leaving out does.
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Identity(), nn.Identity(), nn.Linear(6, 3)).double()
    loop = trained(tmp_path / "run", model, parts(model), epochs=1)
    run = Run(tmp_path / "run")
    chosen = run.ids.take(run.order(0)[-1].numpy())
    ids = "+".join(map(str, chosen))
    method = f"sgd_influence:form=accumulated,at_end=evaluated,ids={ids}"
    (carried,) = assay.score(run, method, loop=loop, targets=TARGETS, replay_config=HOW).values()
    left = values(run.folder, loop, "loo")["loo"][run.ids.positions(chosen)]
    torch.testing.assert_close(carried.of(chosen), left, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda one: one, Accelerated])
def test_a_resumed_training_is_the_whole_one(tmp_path, wrap):
    whole, model = net(0.3), net(0.3)
    trained(tmp_path / "whole", whole, parts(whole))
    trained(tmp_path / "half", model, parts(model), epochs=2)
    again = net(0.3)
    with torch.no_grad():
        for value in again.parameters():
            value.zero_()
    pair = parts(again)
    inputs, labels, _ = data()
    loader = DataLoader(TensorDataset(inputs, labels), 4, shuffle=True)
    with assay.record(
        tmp_path / "half",
        again,
        [wrap(one) for one in pair],
        loader,
        **grouped({"seed": 0, "checkpoints": "every", "resume": True}),
    ) as recorder:
        rates = Run(tmp_path / "whole").rates(2)
        for number, (x, y) in enumerate(recorder.epoch()):
            logits = again(x)
            again.zero_grad()
            F.cross_entropy(logits, y).backward()
            for one, rate in zip(pair, rates[number].tolist(), strict=True):
                one.param_groups[0]["lr"] = rate
                one.step()
            recorder.batch(logits, y)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(Run(tmp_path / "whole").probs_sum(), Run(tmp_path / "half").probs_sum())


def test_values_of_steps_while_training_are_those_of_a_replay(tmp_path):
    one, two = net(), net()
    trained(tmp_path / "live", one, parts(one), live=["liveval"])
    loop = trained(tmp_path / "run", two, parts(two))
    live = assay.score(tmp_path / "live", "liveval")["liveval"].values
    again = assay.score(tmp_path / "run", "liveval", loop=loop, replay_config=HOW)["liveval"].values
    torch.testing.assert_close(live, again, rtol=1e-9, atol=1e-12)


def test_states_go_back_to_their_own(tmp_path):
    model = net()
    pair = parts(model)
    trained(tmp_path / "run", model, pair)
    joined, other = JoinedOptimizers(pair), JoinedOptimizers(parts(copy.deepcopy(model)))
    other.load_state_dict(joined.state_dict())
    for mine, theirs in zip(pair, other.parts, strict=True):
        one, two = mine.state_dict(), theirs.state_dict()
        assert one["param_groups"] == two["param_groups"] and one["state"].keys() == two["state"].keys()
        for number, slots in one["state"].items():
            assert slots.keys() == two["state"][number].keys()
            assert all(torch.equal(value, two["state"][number][slot]) for slot, value in slots.items())
    for again in (copy.deepcopy(joined), pickle.loads(pickle.dumps(joined))):
        assert isinstance(again, JoinedOptimizers) and again.parts[0] is not pair[0]
        assert all(
            torch.equal(a, b) for a, b in zip(again.parts[0].param_groups[0]["params"], model[:4].parameters(), strict=True)
        )
        again.step()
    assert len(other.state) == len(joined.state) == 6 and set(other.defaults) > {"momentum", "betas"}
    assert inner_optimizer([pair[0]]) is pair[0] and repr(joined) == "SGD and AdamW"


def test_what_is_no_step_of_all_is_refused(tmp_path):
    model = net()
    with pytest.raises(UsageError, match="In batch 1 of epoch 0 1 of 2 optimizers stepped; let all step together"):
        trained(tmp_path / "alone", model, parts(model), steps=lambda number: (0,) if number == 1 else (0, 1))
    model = net()
    with pytest.raises(UsageError, match="2 parameters are in two of the 2 optimizers"):
        trained(tmp_path / "shared", model, [torch.optim.SGD(model.parameters()), torch.optim.SGD(model[4].parameters())])
    model = net()
    loop = trained(tmp_path / "run", model, parts(model))
    first, second = parts(model)
    for other, words in (
        ([second, first], "recorded another model or optimizer: loaded state dict contains a parameter group"),
        ([first], "recorded another model or optimizer: loaded state dict has a different number of parameter groups"),
    ):
        with pytest.raises(Mismatch, match=words):
            values(tmp_path / "run", assay.Loop(model, other, loop.loader), "sgd_influence")


def test_one_that_a_gradient_scaler_keeps_from_its_step_ends_no_training(tmp_path):
    model = net()
    pair = parts(model)
    inputs, labels, _ = data()
    loader = DataLoader(TensorDataset(inputs, labels), 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with assay.record(tmp_path / "run", model, pair, loader) as recorder:
        for number, (x, y) in enumerate(recorder.epoch()):
            logits = model(x)
            model.zero_grad()
            scaler.scale(F.cross_entropy(logits, y)).backward()
            if number == 1:
                model[4].weight.grad[0, 0] = torch.inf
            for one in pair:
                scaler.step(one)
            scaler.update()
            recorder.batch(logits, y)
    run = Run(tmp_path / "run")
    assert run.epochs == 1 and torch.equal(run.labels, labels)
    with pytest.raises(Mismatch, match="does not give what was recorded"):
        values(run.folder, assay.Loop(model, pair, loader), "sgd_influence")
