import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.experiments.evidence import open_replay
from assay.maths.single_example_steps import gain
from assay.methods.liveval import LiveVal, liveval, value
from assay.replay.config import ReplayConfig
from methods.loops import EXAMPLES, World, inner

VARIANTS = [{}, {"delta_max": 5, "delta_step": 2, "reduce": "mean"}, {"window_rule": "alg3"}, {"window_rule": "fixed"}]
REFUSED = [
    "delta_0=0",
    "delta_min=0",
    "delta_max=1",
    "delta_step=0",
    "eps_lo=0.2",
    "eps_hi=inf",
    "window_rule=none",
    "reduce=max",
    "window=x",
]

DOUBLES = st.floats(-1e3, 1e3, allow_nan=False, width=64)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(DOUBLES, DOUBLES), min_size=1, max_size=5), st.floats(1e-6, 10))
def test_the_formula(pairs, lr):
    delta, g = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    found = float(value((delta * g).sum()[None], g.square().sum()[None], delta.square().sum()[None], lr))
    d, u = float(delta.norm()), float((delta + lr * g).norm())
    assert -1 - 1e-9 <= found <= 1 + 1e-9
    if d + u > 1e-3:
        # Near u = 0 the three products have lost half of the digits.
        assert found == pytest.approx((d - u) / (d + u), abs=1e-6 if u < 1e-5 * d else 1e-9)
    bound = lr * float(g.norm()) / (d + u) if d + u else 0
    assert abs(found) <= bound + 1e-6
    if found > 1e-9:
        assert -float((delta * g).sum()) > lr / 2 * float(g.square().sum())


def test_the_scale_does_not_matter():
    one = value(torch.tensor([0.3]), torch.tensor([2.0]), torch.tensor([1.5]), 0.1)
    torch.testing.assert_close(value(torch.tensor([0.3 * 49]), torch.tensor([2.0 * 49]), torch.tensor([1.5 * 49]), 0.1), one)


def test_raw_and_normalised_agree():
    inner_, length, distance = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.1]), torch.tensor([1.0, 4.0])
    d, u = distance.sqrt(), (distance + 2 * inner_ + length).sqrt()
    torch.testing.assert_close(gain(inner_, length, distance, normalised=False), d - u)
    torch.testing.assert_close(gain(inner_, length, distance), (d - u) / (d + u))


def by_hand(world, method):
    """The definition, with every parameter vector at hand."""
    steps = world.by_hand()
    thetas = [steps[0][3]] + [after for *_, after in steps]
    last, delta, before = len(steps), method.delta_0, None
    total, deltas = torch.zeros(EXAMPLES, dtype=torch.float64), []
    for t, (_, positions, rates, theta, _) in enumerate(steps, 1):
        loss = mean_loss(world, thetas[t], positions)
        if method.window_rule == "adaptive" and before is not None:
            rate = abs(loss - before) / delta
            if rate > method.eps_hi:
                delta = min(delta + method.delta_step, method.delta_max)
            elif rate < method.eps_lo:
                delta = max(delta - method.delta_step, method.delta_min)
        before = loss
        deltas.append(delta)
        reference = thetas[min(t + delta - 1, last)]
        for position in positions.tolist():
            apart = {n: reference[n] - theta[n] for n in theta}
            g = world.example_gradient(theta, position)
            left = {n: apart[n] + rates[n] * g[n] for n in g}
            d, u = math.sqrt(inner(apart, apart)), math.sqrt(inner(left, left))
            total[position] += (d - u) / (d + u)
    return total, deltas


def mean_loss(world, params, positions):
    hidden = torch.tanh(world.inputs[positions] @ params["hidden.weight"].T + params["hidden.bias"])
    return float(torch.nn.functional.cross_entropy(hidden @ params["out.weight"].T + params["out.bias"], world.labels[positions]))


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"delta_max": 5, "delta_step": 3, "eps_lo": 0.02, "eps_hi": 0.05},
        {"window_rule": "fixed", "delta_0": 3},
        {"delta_0": 1, "delta_max": 1},
    ],
)
def test_equals_the_definition(tmp_path, optimizer, options):
    world, method = World(tmp_path / "run", optimizer, epochs=4, batch=4), LiveVal(**options)
    (one,) = world.score(method).values()
    expected, deltas = by_hand(world, method)
    torch.testing.assert_close(one.values, expected, rtol=1e-8, atol=1e-10)
    assert one.diagnostics["mean window"] == pytest.approx(sum(deltas) / len(deltas))


def test_a_batch_of_one_against_its_own_step_is_warned_of(tmp_path):
    world = World(tmp_path / "run", "sgd", batch=6)
    (one,) = world.score("liveval:delta_0=1,delta_max=1").values()
    (warning,) = one.warnings
    assert "3 batches of one example" in warning and "always gives 1" in warning


@pytest.mark.parametrize("options", ["window_rule=alg3,delta_0=1,delta_max=1", "window_rule=fixed"])
def test_so_is_one_whose_window_was_cut_short_by_the_end(tmp_path, options):
    world = World(tmp_path / "run", "sgd", batch=6, epochs=1)
    (one,) = world.score(f"liveval:{options}").values()
    alone = world.run.order(0)[-1]
    assert len(alone) == 1 and float(one.values[alone]) == pytest.approx(1.0)
    (warning,) = one.warnings
    assert "1 batches of one example" in warning


def replayed(world):
    return open_replay(world.run, loop=world.loop(), targets={}, replay_config=ReplayConfig(tolerance=1e-9))


@pytest.mark.parametrize("rule", ["adaptive", "alg3", "window_loss", "fixed"])
def test_it_holds_few_parameter_vectors(tmp_path, rule):
    world, method = (
        World(tmp_path / "run", "sgd", epochs=6, batch=3, rate=3),
        LiveVal(delta_max=4, delta_step=2, window_rule=rule),
    )
    state, most = method.start(EXAMPLES), 0
    for step in replayed(world).forwards(range(0, 30)):
        method.update(state, step)
        held = {id(entry["batch"].params["out.bias"]) for entry in state["pending"]}
        held |= {id(one["out.bias"]) for one in state["states"].values()}
        held |= {id(state["before"][2].params["out.bias"])} if "before" in state else set()
        most = max(most, len(held) + 1)
    assert 2 <= most <= method.delta_max + 1


def test_every_value_is_given_in_the_end_whatever_the_windows(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=5, batch=3, rate=5)
    (one,) = world.score("liveval:delta_max=6,delta_step=4,eps_lo=0.01,eps_hi=0.02,reduce=mean").values()
    assert one.diagnostics["largest window"] == 6
    assert bool((one.values != 0).all()) and bool((one.values.abs() <= 1).all())


def test_a_loss_that_is_not_finite_leaves_the_window(tmp_path):
    world, method = World(tmp_path / "run", "sgd"), LiveVal()
    state = method.start(EXAMPLES)

    def broken(step):
        losses = step.losses
        object.__setattr__(step, "losses", lambda params: losses(params) * (torch.nan if params is step.after else 1))
        return step

    for number, step in enumerate(replayed(world).forwards(range(0, 9))):
        method.update(state, broken(step) if number == 4 else step)
    assert state["skipped"] == 2


def test_the_pure_function_takes_steps(tmp_path):
    world = World(tmp_path / "run", "sgd")
    steps = list(replayed(world).forwards(range(0, 9)))
    # A replay lends `after`; here it is the next step's beginning, or the end.
    for step, following in zip(steps, [*(s.params for s in steps[1:]), replayed(world).final()], strict=True):
        object.__setattr__(step, "after", following)
    (one,) = world.score("liveval:delta_max=4").values()
    torch.testing.assert_close(liveval(steps, EXAMPLES, delta_max=4), one.values, rtol=1e-12, atol=1e-14)
