import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from methods.loops import EXAMPLES, Net, World

VARIANTS = [{}, {"order": 2, "window": "last"}]
REFUSED = ["order=3", "window=5-"]


def taylor(world, before, rates, order):
    """What a step on some examples lowers the target by, to this order, as a function of the step."""
    model = Net().double().eval()

    def target(params):
        return F.cross_entropy(functional_call(model, params, (world.held_out,)), world.held_labels)

    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    gradient = dict(zip(leaves, torch.autograd.grad(target(leaves), list(leaves.values())), strict=True))

    def lowered(move):
        first = sum(float((gradient[name] * move[name]).sum()) for name in move)
        if order == 1:
            return -first
        at = {name: value.clone().requires_grad_() for name, value in before.items()}
        grads = torch.autograd.grad(target(at), list(at.values()), create_graph=True)
        along = sum((g * move[name]).sum() for name, g in zip(at, grads, strict=True))
        curved = dict(zip(at, torch.autograd.grad(along, list(at.values())), strict=True))
        return -first - 0.5 * sum(float((curved[name] * move[name]).sum()) for name in move)

    return lowered


def shapley(world, step, order):
    """The Shapley value of the game of one step, by all its coalitions."""
    _, positions, rates, before, _ = step
    players = positions.tolist()
    lowered = taylor(world, before, rates, order)
    gradients = {p: world.example_gradient(before, p) for p in players}

    def worth(coalition):
        if not coalition:
            return 0.0
        return lowered({n: -rates[n] / len(players) * sum(gradients[p][n] for p in coalition) for n in before})

    values = {}
    for player in players:
        others = [p for p in players if p != player]
        values[player] = sum(
            math.factorial(size)
            * math.factorial(len(others) - size)
            / math.factorial(len(players))
            * (worth((*c, player)) - worth(c))
            for size in range(len(others) + 1)
            for c in itertools.combinations(others, size)
        )
    return values


def test_equals_the_shapley_value_of_every_step_by_all_coalitions(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=2, batch=4)
    table = world.score("in_run_shapley", "in_run_shapley:order=2")
    for order, one in zip((1, 2), table.values(), strict=True):
        expected = torch.zeros(EXAMPLES, dtype=torch.float64)
        for step in world.by_hand():
            for position, share in shapley(world, step, order).items():
                expected[position] += share
        torch.testing.assert_close(one.values, expected, rtol=1e-8, atol=1e-12)
        assert one.unit == "rank only"


def test_the_second_order_adds_up_to_what_training_did(tmp_path):
    world = World(tmp_path / "run", "sgd", rate=0.2)
    table = world.score("in_run_shapley", "in_run_shapley:order=2")
    steps = world.by_hand()
    model = Net().double().eval()
    start, end = (
        float(F.cross_entropy(functional_call(model, params, (world.held_out,)), world.held_labels))
        for params in (steps[0][3], steps[-1][4])
    )
    first, second = (abs(float(one.values.sum()) - (start - end)) for one in table.values())
    assert second < first / 5 and second < 0.02 * abs(start - end)


@pytest.mark.parametrize(
    ("optimizer", "given", "more"),
    [
        ("sgd", {}, None),
        ("sgd", {"ema": 0.7}, None),
        ("sgd", {"clip": 0.3}, "clipping of the gradient"),
        ("decay", {}, "weight decay"),
        ("momentum", {}, "momentum, weight decay"),
        ("adamw", {"clip": 0.3}, "the steps of AdamW, weight decay, clipping of the gradient"),
    ],
)
def test_it_is_told_where_a_step_was_not_that_of_plain_sgd(tmp_path, optimizer, given, more):
    world = World(tmp_path / "run", optimizer, epochs=1, batch=13, **given)
    warnings = world.score("in_run_shapley")["in_run_shapley"].warnings
    if more is None:
        assert not warnings
    else:
        (warning,) = warnings
        assert f"more than rate times gradient ({more}), and these values share out what a step of plain SGD" in warning
