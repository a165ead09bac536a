"""SGD-influence against the derivative of the unrolled training, against training again, and through the public API."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import assay
from assay.core.errors import Mismatch, NumericalError, UsageError
from assay.core.ids import Ids
from assay.data.examples import Examples
from assay.replay import replayable
from assay.replay.functional import Functional
from experiments import small
from methods.loops import EXAMPLES, OPTIMIZERS, World

VARIANTS = [
    {},
    {"window": "last"},
    {"form": "last_parameters"},
    {"form": "no_hessian", "sign": "weight"},
    {"checks": 2},
]
REFUSED = ["window=first", "window=3-1", "form=approximate", "sign=minus", "checks=-1", "checks=2,form=no_hessian"]


def by_unroll(world, first=0):
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    return -torch.autograd.grad(world.unrolled(weights, first), weights)[0]


def assert_equal(values, expected):
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_equals_the_derivative_of_the_unrolled_training(tmp_path_factory, optimizer, norm, clip, seed):
    # Batches of one have no statistics to normalise by.
    world = World(tmp_path_factory.mktemp("runs") / "run", optimizer, seed, clip=clip, norm=norm, batch=7 if norm else 5)
    table = world.score("sgd_influence", "sgd_influence:window=last", "sgd_influence:window=1-1", "sgd_influence:sign=weight")
    everything = by_unroll(world)
    assert_equal(table["sgd_influence"].values, everything)
    assert_equal(table["sgd_influence:sign=weight"].values, -everything)
    assert_equal(table["sgd_influence:window=last"].values, by_unroll(world, 2))
    assert_equal(table["sgd_influence:window=1-1"].values, by_unroll(world, 1) - by_unroll(world, 2))
    torch.testing.assert_close(table["sgd_influence"].by_epoch.sum(0), table["sgd_influence"].values, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", False), ("momentum", True), ("adam", False), ("adamw", True)])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000), ema=st.sampled_from([0.6, 0.95]))
def test_equals_the_derivative_of_the_unrolled_training_of_an_average(tmp_path_factory, optimizer, norm, clip, seed, ema):
    batch = 7 if norm else 5
    world = World(tmp_path_factory.mktemp("runs") / "run", optimizer, seed, clip=clip, norm=norm, batch=batch, ema=ema)
    table = world.score("sgd_influence", "sgd_influence:window=last")
    assert_equal(table["sgd_influence"].values, by_unroll(world))
    assert_equal(table["sgd_influence:window=last"].values, by_unroll(world, 2))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("given", [{}, {"ema": 0.8}, {"clip": 0.3, "norm": True, "batch": 7}])
def test_dropout_falls_as_it_fell(tmp_path, optimizer, given):
    world = World(tmp_path / "run", optimizer, seed=4, dropout=0.4, **given)
    assert {float(value) for mask in world.masks for value in mask.unique().round(decimals=9)} == {0.0, 1.666666667}
    assert_equal(world.score("sgd_influence")["sgd_influence"].values, by_unroll(world))


@pytest.mark.parametrize(("net", "cut"), [("logistic", {30, 4, 2}), ("block_conv", {64, 62})])
def test_a_large_batch_is_differentiated_in_parts_unless_its_examples_meet(tmp_path, monkeypatch, net, cut):
    run = small.recorded(tmp_path / "run", net=net, validation=0.2, recipe={"epochs": 1})
    sizes = []
    whole = Functional.with_statistics

    def told(functional, params, buffers, batch, **given):
        # In double precision a few examples are differentiated to confirm the derivative.
        if batch[0].dtype == torch.float32 and torch.is_grad_enabled():
            sizes.append(len(batch[1]))
        return whole(functional, params, buffers, batch, **given)

    monkeypatch.setattr(Functional, "with_statistics", told)
    expected = assay.score(run, "sgd_influence")["sgd_influence"].values
    assert set(sizes) == {64, 62}
    sizes.clear()
    monkeypatch.setattr(replayable, "PART", 30)
    monkeypatch.setattr(replayable, "PART_BYTES", 0)
    found = assay.score(run, "sgd_influence")["sgd_influence"].values
    assert set(sizes) == cut
    torch.testing.assert_close(found / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ema", [None, 0.7])
def test_the_forms_are_what_they_say(tmp_path, ema):
    world = World(tmp_path / "run", "sgd", epochs=2, ema=ema)
    table = world.score("sgd_influence:form=no_hessian", "sgd_influence:form=last_parameters")
    assert {one.unit for one in table.values()} == {"rank only"}
    steps = world.by_hand()
    final = steps[-1][-1]
    # The steps are taken at the parameters, and the target is that of their average.
    ending = {n: v.detach() for n, v in world.averaged.module.named_parameters()} if ema else final
    pull = world.gradient(ending, world.held_out, world.held_labels)
    expected = torch.zeros(EXAMPLES, dtype=torch.float64)
    for place, (_, positions, rates, before, _) in enumerate(steps):
        arrives = 1 - ema ** (len(steps) - place) if ema and place else 1.0
        for position in positions.tolist():
            g = world.example_gradient(before, position)
            expected[position] += arrives * sum(rates[n] * float((pull[n] * g[n]).sum()) for n in g) / len(positions)
    assert_equal(table["sgd_influence:form=no_hessian"].values, expected)
    last = torch.zeros(EXAMPLES, dtype=torch.float64)
    adjoint, waiting = (
        {n: 0 * v if ema else v.clone() for n, v in pull.items()},
        {n: v if ema else 0 * v for n, v in pull.items()},
    )
    for place, (_, positions, rates, _, _) in reversed(list(enumerate(steps))):
        kept = ema if ema and place else 0.0
        adjoint = {n: adjoint[n] + (1 - kept) * waiting[n] for n in adjoint}
        waiting = {n: kept * v for n, v in waiting.items()}
        for position in positions.tolist():
            g = world.example_gradient(final, position)
            last[position] += sum(rates[n] * float((adjoint[n] * g[n]).sum()) for n in g) / len(positions)
        size = 1e-6
        moved = [{n: final[n] + sign * size * rates[n] * adjoint[n] for n in final} for sign in (1, -1)]
        up, down = (world.gradient(at, world.inputs[positions], world.labels[positions]) for at in moved)
        adjoint = {n: adjoint[n] - (up[n] - down[n]) / (2 * size) for n in adjoint}
    torch.testing.assert_close(table["sgd_influence:form=last_parameters"].values, last, rtol=0, atol=1e-8)


def test_targets_and_windows_share_one_sweep(tmp_path, monkeypatch):
    world = World(tmp_path / "run")
    targets = {"validation": (world.held_out, world.held_labels), "one": (world.held_out[:1], world.held_labels[:1])}
    targets["mix"] = (world.held_out[:2], world.held_labels[:2], torch.tensor([3.0, 1.0]))
    targets["second"] = (world.held_out[1:2], world.held_labels[1:2])
    from assay.replay.replay import Replay

    sweeps, backwards = [], Replay.backwards

    def counted(self, steps, **given):
        sweeps.append(steps)
        return backwards(self, steps, **given)

    monkeypatch.setattr(Replay, "backwards", counted)
    names = [f"sgd_influence:target={name}" for name in ("one", "mix", "second")] + ["sgd_influence", "sgd_influence:window=last"]
    together = world.score(*names, targets=targets)
    assert sweeps == [range(0, 9)]
    for name, one in together.items():
        (alone,) = world.score(name, targets=targets).values()
        assert torch.equal(alone.values, one.values)
    mixed = 0.75 * together["sgd_influence:target=one"].values + 0.25 * together["sgd_influence:target=second"].values
    torch.testing.assert_close(together["sgd_influence:target=mix"].values, mixed, rtol=1e-10, atol=1e-14)


def test_what_is_said_beside_the_values(tmp_path):
    world = World(tmp_path / "run", batch=6)
    scores = world.score("sgd_influence")["sgd_influence"]
    assert scores.diagnostics["smallest batch as a part of the largest"] == pytest.approx(1 / 6)
    assert len(scores.diagnostics["adjoint norms, from the end backwards"]) == 4
    (last_batch,) = scores.warnings
    assert "smallest batch has 1 examples, the largest 6" in last_batch and "last_batch='even'" in last_batch


def test_the_check_trusts_a_smooth_training_and_not_a_wild_one(tmp_path):
    world = World(tmp_path / "smooth", "sgd", epochs=2, rate=0.3)
    smooth = world.score("sgd_influence:checks=3")["sgd_influence:checks=3"]
    assert smooth.diagnostics["relative error of the prediction"] < 0.01
    assert not any("do not trust" in warning for warning in smooth.warnings)
    wild = World(tmp_path / "wild", "sgd", epochs=12, rate=20)
    scores = wild.score("sgd_influence:checks=3")["sgd_influence:checks=3"]
    assert any("do not trust" in warning for warning in scores.warnings)


def test_a_wrong_derivative_is_refused_by_its_steps_and_refuted_by_training_again(tmp_path, monkeypatch):
    # Momentum lets the curvature count; the error is as large as that of torch's weight norm was.
    world = World(tmp_path / "run", "momentum", epochs=4)
    (right,) = world.score("sgd_influence:checks=4").values()
    assert not any("refutes" in warning for warning in right.warnings)
    from assay.replay.replayable import ReplayableTraining

    back = ReplayableTraining.back

    def careless(self, batch, before, rates, count, adjoints, **given):
        results = back(self, batch, before, rates, count, adjoints, **given)
        straight = back(self, batch, before, rates, count, adjoints, **{**given, "curvature": False})
        return [
            (slope, dataclasses.replace(adjoint, params={n: 0.5 * v + 0.5 * plain.params[n] for n, v in adjoint.params.items()}))
            for (slope, adjoint), (_, plain) in zip(results, straight, strict=True)
        ]

    monkeypatch.setattr(ReplayableTraining, "back", careless)
    with pytest.raises(NumericalError, match="The derivative of step 10 is wrong: central differences of the step itself"):
        world.score("sgd_influence")
    monkeypatch.setattr("assay.replay.replay.WRONG", float("inf"))
    (wrong,) = world.score("sgd_influence:checks=4").values()
    assert 0.05 < float((wrong.values - right.values).norm() / right.values.norm()) < 0.15
    assert any("refutes these values" in warning for warning in wrong.warnings)


def test_an_exploding_adjoint_is_said_or_refused(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=12, rate=20)
    growth = world.score("sgd_influence")["sgd_influence"]
    assert growth.diagnostics["adjoint growth"] > 10
    assert any("adjoint grows" in warning and "unstable" in warning for warning in growth.warnings)


def test_a_non_finite_adjoint_names_step_and_norm(tmp_path, monkeypatch):
    world = World(tmp_path / "run")
    from assay.replay.replayable import ReplayableTraining

    back = ReplayableTraining.back

    def broken(self, batch, before, rates, count, adjoints, **given):
        found = back(self, batch, before, rates, count, adjoints, **given)
        if count == 4:
            found[0][1].params["out.bias"][0] = torch.inf
        return found

    monkeypatch.setattr(ReplayableTraining, "back", broken)
    with pytest.raises(NumericalError, match=r"adjoint of target 'validation' has norm inf before step 4"):
        world.score("sgd_influence")


@pytest.mark.parametrize("schedule", ["all", "tree"])
def test_the_schedule_does_not_matter(tmp_path, schedule):
    world = World(tmp_path / "run", "momentum", checkpoints="last")
    base = world.score("sgd_influence")["sgd_influence"].values
    how = assay.ReplayConfig(schedule, tolerance=1e-9)
    targets = {"validation": (world.held_out, world.held_labels)}
    again = assay.score(world.run, "sgd_influence", targets=targets, loop=world.loop(), replay_config=how)
    assert torch.equal(again["sgd_influence"].values, base)


def test_the_adjoint_of_an_average_does_not_grow_while_it_waits(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=4, rate=1e-6, ema=0.9)
    scores = world.score("sgd_influence")["sgd_influence"]
    norms = scores.diagnostics["adjoint norms, from the end backwards"]
    assert norms[0] > 0 and norms == pytest.approx([norms[0]] * 5, rel=1e-4)
    assert not any("adjoint grows" in warning for warning in scores.warnings)


def test_a_window_outside_the_run_is_refused(tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(UsageError, match="window=2-3 is outside the 3 recorded epochs, 0-2"):
        world.score("sgd_influence:window=2-3")


def test_validation_examples_that_are_trained_on_are_refused(tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(Mismatch, match="3 of the 4 examples of target 'validation' are trained on"):
        targets = (torch.cat([world.inputs[:3], world.held_out[:1]]), torch.zeros(4, dtype=torch.int64))
        world.score("sgd_influence", targets={"validation": targets})


def test_validation_examples_under_trained_ids_are_refused(tmp_path):
    world = World(tmp_path / "run")
    held = Examples(Ids([5, *range(100, 108)]), world.held_out, world.held_labels, ("a", "b", "c"))
    with pytest.raises(Mismatch, match=r"1 of the 9 examples of target 'validation' are trained on \(ids 5\)"):
        world.score("sgd_influence", targets={"validation": held})
    apart = Examples(Ids(range(100, 109)), world.held_out, world.held_labels, ("a", "b", "c"))
    one, two = world.score("sgd_influence", targets={"validation": apart}), world.score("sgd_influence")
    # Examples are prepared in float32.
    torch.testing.assert_close(one["sgd_influence"].values, two["sgd_influence"].values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("inputs", "labels", "words"),
    [
        (torch.zeros(2, 7, dtype=torch.float64), torch.tensor([0, 1]), "cannot be computed: mat1 and mat2 shapes"),
        (torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 9]), r"cannot be computed: Target 9 is out of bounds\. Give"),
        (torch.ones(2, 3, dtype=torch.float64), torch.tensor([0]), "2 inputs, 1 labels"),
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path, inputs, labels, words):
    world = World(tmp_path / "run")
    with pytest.raises(UsageError, match=f"'validation'.*{words}"):
        world.score("sgd_influence", targets={"validation": (inputs, labels)})


def test_single_equal_inputs_are_told(tmp_path):
    world = World(tmp_path / "run")
    inputs = torch.cat([world.held_out, world.inputs[:1]])
    targets = {"validation": (inputs, torch.cat([world.held_labels, world.labels[:1]]))}
    (one,) = world.score("tracin", targets=targets).values()
    assert one.warnings == (
        "1 of the 10 inputs of target 'validation' are also inputs of training examples, which then help themselves.",
    )


def test_frozen_parameters_have_no_part(tmp_path):
    torch.manual_seed(0)
    world = World(tmp_path / "free", "sgd")
    base = world.score("sgd_influence")["sgd_influence"].values
    world.model.hidden.requires_grad_(False)
    with pytest.raises(Mismatch, match="does not give what was recorded"):
        world.score("sgd_influence")
    assert base.abs().max() > 0
