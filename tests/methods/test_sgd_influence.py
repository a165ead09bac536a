"""SGD-influence against the derivative of the unrolled training, against training again, and through the public API."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, NumericalError, UsageError
from assay.core.ids import Ids
from assay.core.scores import Direction
from assay.core.spans import span
from assay.data.examples import Examples
from assay.experiments.evidence import gather, open_replay
from assay.maths import draws
from assay.maths.ranking import concordance
from assay.methods import parse
from assay.methods.sgd_influence import ESTIMATED, PER_QUERY, metasmoothness, refuted
from assay.replay import replayable
from assay.replay.functional import Functional
from assay.replay.replay import Replay
from assay.runs.run import Run
from experiments import small
from groups import slow
from methods.loops import EXAMPLES, OPTIMIZERS, Net, World, data

VARIANTS = [
    {},
    {"window": "last"},
    {"form": "last_parameters"},
    {"form": "no_hessian", "sign": "weight"},
    {"form": "gauss_newton", "window": "0-1"},
    {"form": "fisher"},
    {"checks": 2},
    {"reduce": "max"},
]
REFUSED = [
    "window=first",
    "window=3-1",
    "form=approximate",
    "sign=minus",
    "checks=-1",
    "checks=2,form=no_hessian",
    "checks=2,form=fisher",
    "checks=1,reduce=sum",
    "reduce=min",
    "form=accumulated",
    "form=accumulated,ids=1,sign=weight",
    "form=accumulated,ids=1,reduce=sum",
    "form=accumulated,ids=1,checks=1",
    "ids=1",
    "at_end=evaluated",
    "at_end=last,form=accumulated,ids=1",
]
jacobian = torch.autograd.functional.jacobian


def matrix_of(form, losses, outputs, row):
    """The matrix of a step in a form, written out, of losses and outputs as functions of a row of parameters."""
    if form == "no_hessian":
        return torch.zeros(len(row), len(row), dtype=torch.float64)
    if form == "fisher":
        gradients = jacobian(losses, row)
        return gradients.T @ gradients / len(gradients)
    if form == "gauss_newton":
        moved, p = jacobian(outputs, row), outputs(row).softmax(-1)
        return torch.einsum("bcp,bcd,bdq->pq", moved, torch.diag_embed(p) - p[:, :, None] * p[:, None], moved) / len(p)
    return torch.autograd.functional.hessian(lambda at: losses(at).mean(), row)


def row_of(params):
    return torch.cat([value.detach().flatten() for value in params.values()])


def by_name(row, like):
    parts = row.split([value.numel() for value in like.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def PAIRS(method, evidence):
    """Every step's gradients and matrix written out; one query after the other goes back through them. Of SGD with momentum."""
    replay, window = evidence.steps, span(method.window, len(evidence.steps.epochs), "")
    momentum, final = replay.training.optimizer.param_groups[0]["momentum"], replay.final()
    taken = []
    for step in replay.forwards(range(replay.epochs[-1].stop)):
        params = final if method.form == "last_parameters" else dict(step.params)
        functions = [lambda at, f=f, like=params: f(by_name(at, like)) for f in (step.losses, step.outputs)]
        rates = row_of({name: torch.full_like(value, step.rates[name]) for name, value in params.items()})
        matrix = matrix_of(method.form, *functions, row_of(params))
        taken.append((step.epoch, step.positions, rates, jacobian(functions[0], row_of(params)), matrix))
    values = torch.zeros(len(evidence.queries(method.target).ids), len(evidence.ids), dtype=torch.float64)
    for batch in replay.at(replay.kept[-1]).queries(method.target):
        pulls = jacobian(lambda at, batch=batch: batch.losses(by_name(at, final)), row_of(final))
        for query, adjoint in zip(batch.positions.tolist(), pulls, strict=True):
            carried = torch.zeros_like(adjoint)
            for epoch, positions, rates, gradients, matrix in reversed(taken):
                gamma = carried - rates * adjoint
                if epoch in window:
                    values[query].index_add_(0, positions, -gradients @ gamma / len(positions))
                adjoint, carried = adjoint + matrix @ gamma, momentum * gamma
    return values if method.sign == "removal" else -values


def by_unroll(world, first=0):
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    return -torch.autograd.grad(world.unrolled(weights, first), weights)[0]


def assert_equal(values, expected):
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize(
    ("norm", "clip"),
    [(True, 0.3), *slow((False, None), (False, 0.3), (True, None))],
)
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


def swept_by_hand(world, form):
    """The sweep with every matrix written out, of SGD with or without momentum and decay, and BatchNorm as it is in training."""
    decay, momentum = world.settings.get("weight_decay", 0.0), world.settings.get("momentum", 0.0)
    steps = world.by_hand()
    like = steps[-1][-1]
    buffers = {name: value for name, value in world.start.items() if name not in like}
    for count, (_, positions, _, before, _) in enumerate(steps):
        buffers = world.forward(before, buffers, positions, world.masks[count])[1]
    held = {name: value for name, value in buffers.items() if value.is_floating_point()}

    def ends(params, statistics):
        return world.evaluated(by_name(params, like), by_name(statistics, held) if held else {})

    empty = torch.zeros(0, dtype=torch.float64)
    adjoint, waiting = jacobian(ends, (row_of(like), row_of(held) if held else empty))
    carried, values = torch.zeros_like(adjoint), torch.zeros(EXAMPLES, dtype=torch.float64)
    for count, (_, positions, rates, before, _) in reversed(list(enumerate(steps))):

        def seen(at, count=count, positions=positions):
            losses, after = world.forward(by_name(at, like), buffers, positions, world.masks[count])
            return losses, torch.cat([after[name].flatten() for name in held]) if held else empty

        def outputs(at, positions=positions):
            params = by_name(at, like)
            hidden = world.inputs[positions] @ params["hidden.weight"].T + params.get("hidden.bias", 0)
            if world.norm:
                hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
                hidden = hidden * params["norm.weight"] + params["norm.bias"]
            return torch.tanh(hidden) @ params["out.weight"].T + params["out.bias"]

        row = row_of(before)
        gamma = carried - row_of({name: torch.full_like(value, rates[name]) for name, value in like.items()}) * adjoint
        values.index_add_(0, positions, -jacobian(lambda at, seen=seen: seen(at)[0], row) @ gamma / len(positions))
        matrix = matrix_of(form, lambda at, seen=seen: seen(at)[0], outputs, row)
        through = waiting @ jacobian(lambda at, seen=seen: seen(at)[1], row) if held else 0.0
        adjoint, carried = adjoint + matrix @ gamma + decay * gamma + through, momentum * gamma
        waiting = 0.9 * waiting
    return values


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", ["decay", "momentum"])
def test_the_forms_with_another_matrix_are_the_sweep_with_it(tmp_path, optimizer, norm):
    world = World(tmp_path / "run", optimizer, norm=norm, batch=7 if norm else 5)
    names = {"exact": "sgd_influence"} | {form: f"sgd_influence:form={form}" for form in ("gauss_newton", "fisher")}
    table = world.score(*names.values())
    for form, title in names.items():
        assert_equal(table[title].values, swept_by_hand(world, form))
        assert table[title].unit == ("change of the target" if form == "exact" else "rank only")
    loop = world.loop(losses=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"))
    targets, how = {"validation": (world.held_out, world.held_labels)}, assay.ReplayConfig(tolerance=1e-9)
    by_function = assay.score(world.run, names["gauss_newton"], targets=targets, loop=loop, replay_config=how)
    assert_equal(by_function[names["gauss_newton"]].values, table[names["gauss_newton"]].values)


def test_the_exact_form_ranks_as_leaving_out_does_and_the_fisher_form_worse(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=16)
    forms = ["sgd_influence", "sgd_influence:form=gauss_newton", "sgd_influence:form=fisher", "sgd_influence:form=no_hessian"]
    table = world.score(*forms, "loo")
    exact, gauss_newton, fisher, none = (concordance(table[form].values, table["loo"].values) for form in forms)
    assert min(exact, gauss_newton) > fisher > none


@pytest.mark.parametrize(
    ("optimizer", "given"),
    [("sgd", {}), ("momentum", {"norm": True, "batch": 7}), ("adam", {"clip": 0.3}), ("adamw", {"ema": 0.7})],
)
def test_a_row_is_the_score_of_its_query_alone(tmp_path, optimizer, given, monkeypatch):
    world = World(tmp_path / "run", optimizer, **given)
    sweeps, backwards = [], Replay.backwards
    monkeypatch.setattr(Replay, "backwards", lambda self, steps, **how: sweeps.append(steps) or backwards(self, steps, **how))
    weights = torch.arange(1, 10, dtype=torch.float64)
    singles = {f"q{q}": (world.held_out[q : q + 1], world.held_labels[q : q + 1]) for q in range(9)}
    targets = {"validation": (world.held_out, world.held_labels, weights), **singles}
    replay = open_replay(world.run, loop=world.loop(), targets=targets, replay_config=assay.ReplayConfig(tolerance=1e-9))
    evidence = gather(world.run, replay)
    for title in ("sgd_influence", "sgd_influence:form=gauss_newton,window=1-1,sign=weight"):
        method = parse(title)
        view = evidence.narrow(title, method.reads)
        rows = torch.zeros(9, EXAMPLES, dtype=torch.float64)
        bytes_ = 8 * EXAMPLES + PER_QUERY * 8 * sum(value.numel() for value in replay.final().values())
        alone = method.run_together([dataclasses.replace(method, target=target) for target in targets], view)
        for room, groups in ((4 * bytes_, 3), (2**30, 1)):
            sweeps.clear()
            for block in method.attribute(view, room=room):
                rows[block.queries] = block.values
            assert len(sweeps) == groups
            assert_equal(rows, torch.stack([one.values for one in alone[1:]]))
        assert_equal(alone[0].values, weights @ rows / weights.sum())


def test_targets_and_windows_share_one_sweep(tmp_path, monkeypatch):
    world = World(tmp_path / "run")
    targets = {"validation": (world.held_out, world.held_labels), "one": (world.held_out[:1], world.held_labels[:1])}
    targets["mix"] = (world.held_out[:2], world.held_labels[:2], torch.tensor([3.0, 1.0]))
    targets["second"] = (world.held_out[1:2], world.held_labels[1:2])
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


def test_metasmoothness_is_the_share_of_movement_that_goes_on():
    ends = [{"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[0.0], [1.0]])}]
    ends += [{"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[-1.0], [1.0]])}]
    ends += [{"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[-2.0], [1.0]])}]
    # Three units and two go on, one turns back.
    assert metasmoothness(ends) == pytest.approx((3 - 1 + 2) / 6)
    assert metasmoothness(ends[:1] * 3) == 1.0


def test_the_checks_take_metasmoothness_of_the_parameters_that_training_ends_with(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=2, ema=0.7, rate=8)
    (scores,) = world.score("sgd_influence:checks=2,window=last").values()
    targets, how = {"validation": (world.held_out, world.held_labels)}, assay.ReplayConfig(tolerance=1e-9)
    replay = open_replay(world.run, loop=world.loop(), targets=targets, replay_config=how)
    steps, found = replay.epochs[1], []
    for number in range(2):
        direction = draws.uniform(world.run.ids.keys, 0, "influence check", number) * 2 - 1
        trained = [replay.reweighted_end(1 + k * direction / direction.norm(), steps, "validation") for k in (-1, 0, 1)]
        assert trained[1][0] == pytest.approx(float(world.evaluated(trained[1][1], {})))
        found.append(metasmoothness([end for _, end in trained]))
    ends = dict(world.averaged.module.named_parameters())
    assert all(torch.allclose(value, ends[name], rtol=1e-9) for name, value in trained[1][1].items())
    assert scores.diagnostics["metasmoothness"] == pytest.approx(sum(found) / 2) and -1 < sum(found) / 2 < 1


@pytest.mark.parametrize("optimizer", ["sgd", *slow("momentum")])
def test_the_estimated_error_rises_with_that_of_leaving_out(tmp_path, optimizer):
    true, estimated = [], []
    for rate in (0.1, 1, 4):
        world = World(tmp_path / f"run{rate}", optimizer, rate=rate)
        first, second = world.score("sgd_influence:checks=1", "loo").values()
        true.append(float((second.values - first.values).norm() / first.values.norm()))
        estimated.append(first.diagnostics[ESTIMATED])
        assert any("no small change here: of 13 examples" in warning for warning in first.warnings) == (estimated[-1] > 0.2)
    assert true == sorted(true) and estimated == sorted(estimated) and true[-1] > 10 * true[0] and estimated[-1] > 0.2
    assert all(0.8 < guess / real < 1.25 for guess, real in zip(estimated, true, strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", *slow("adam")])
def test_the_estimate_knows_that_adam_s_steps_do_not_shrink_with_the_gradient(tmp_path, optimizer):
    # In so short a training nearly all of a step is the sign of the gradient, and first order says next to nothing about leaving out.
    world = World(tmp_path / "run", optimizer, rate=0.1)
    first, second = world.score("sgd_influence:checks=1", "loo").values()
    true = float((second.values - first.values).norm() / first.values.norm())
    assert true > 0.8 and first.diagnostics[ESTIMATED] == pytest.approx(true, rel=0.02)
    words = "Trust neither their order nor their size" if true > 1 else "Trust their order more than their size"
    assert any("no small change here" in warning and words in warning for warning in first.warnings)


def test_the_error_is_estimated_on_examples_of_the_window_that_are_carried_forwards(tmp_path, monkeypatch):
    monkeypatch.setattr("assay.methods.sgd_influence.TRIED", 4)
    world = World(tmp_path / "run", "sgd")
    (checked,) = world.score("sgd_influence:window=last,checks=1,sign=weight").values()
    tried = draws.uniform(world.run.ids.keys, 0, "influence carried").argsort()[:4].tolist()
    ids = "+".join(map(str, tried))
    (carried,) = world.score(f"sgd_influence:window=last,form=accumulated,at_end=evaluated,ids={ids}").values()
    values = -checked.of(Ids(tried))
    expected = float((carried.of(Ids(tried)) - values).norm() / values.norm())
    assert checked.diagnostics[ESTIMATED] == pytest.approx(expected, rel=1e-9)
    (scores,) = World(tmp_path / "averaged", "momentum", ema=0.7).score("sgd_influence:checks=1").values()
    assert (
        scores.diagnostics[ESTIMATED]
        == "none, because form=accumulated carries the parameters, and this training keeps averages of the parameters"
    )


def test_a_wrong_derivative_is_refused_by_its_steps_and_refuted_by_training_again(tmp_path, monkeypatch):
    # Momentum lets the curvature count; the error is as large as that of torch's weight norm was.
    world = World(tmp_path / "run", "momentum", epochs=4)
    (right,) = world.score("sgd_influence:checks=4").values()
    assert not any("refutes" in warning for warning in right.warnings)
    from assay.replay.replayable import ReplayableTraining

    back = ReplayableTraining.back

    def careless(self, batch, before, rates, count, adjoints, **given):
        results = back(self, batch, before, rates, count, adjoints, **given)
        straight = back(self, batch, before, rates, count, adjoints, **{**given, "curvature": "none"})
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


def test_only_changes_that_settle_refute_a_prediction():
    def refutes(predicted, *changes):
        return refuted(torch.tensor(predicted).double(), [torch.tensor(one).double() for one in changes])

    # Of a smooth target with the derivative 1 the change over length h is 1 + c h².
    smooth = [[1 + 0.2 / 16**turn, -0.5 + 0.1 / 16**turn] for turn in range(3)]
    for lengths in (smooth[:2], smooth):
        assert refutes([1.3, -0.5], *lengths)
        assert not refutes([1.0, -0.5], *lengths) and not refutes([1.02, -0.51], *lengths)
    # A third length sees more than two.
    assert refutes([1.1, -0.5], *smooth) and not refutes([1.1, -0.5], *smooth[:2])
    # A net of ReLUs: changes of two lengths agree by chance, the third shows that they settle nowhere.
    kinks = [[-0.0040], [-0.0047], [-0.0153]]
    assert refutes([-0.0029], *kinks[:2]) and not refutes([-0.0029], *kinks)
    assert not refutes([1.0], [1.0], [2.0]) and not refutes([0.0], [0.0], [0.0])


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


def carried_by_hand(world, example, first=0):
    """What leaving an example out moves, with every Hessian written out and two optimizers stepping side by side; and the end of training."""
    like = {name: world.start[name] for name, _ in world.model.named_parameters()}
    here, there, slots, others = dict(like), dict(like), {}, {}
    for count, (epoch, batches, share, rates) in enumerate(
        (e, *step) for e in range(world.run.epochs) for step in world.steps(e)
    ):
        row = row_of(here)
        gradient, moved = torch.zeros_like(row), torch.zeros_like(row)
        for positions in batches:
            out = (positions == example).double() if epoch >= first else torch.zeros(len(positions), dtype=torch.float64)

            def losses(row, positions=positions):
                return world.forward(by_name(row, like), {}, positions, 1.0)[0]

            hessian = torch.autograd.functional.hessian(lambda at, losses=losses, out=out: ((1 - out) * losses(at)).sum(), row)
            slopes, b = jacobian(losses, row), len(positions) * share
            gradient = gradient + slopes.sum(0) / b
            moved = moved + (hessian @ (row_of(there) - row) - out @ slopes) / b
        both = []
        for params, own, whole in ((here, slots, gradient), (there, others, gradient + moved)):
            if world.clip:
                whole = whole * torch.clamp(world.clip / (whole.norm() + 1e-6), max=1.0)
            pull = by_name(whole, like)
            rate = {name: float(rates[0] if name.startswith("hidden") else rates[1]) for name in like}
            both.append({name: world.stepped(name, params[name], pull[name], own, rate[name], count + 1) for name in like})
        here, there = both
    return row_of(there) - row_of(here), row_of(here)


@pytest.mark.parametrize(
    ("optimizer", "given", "window", "first"),
    [
        ("sgd", {}, "all", 0),
        ("adamw", {"clip": 0.3}, "last", 2),
        *slow(*((name, {}, "all", 0) for name in OPTIMIZERS if name != "sgd"), ("sgd", {}, "last", 2)),
        *slow(("nesterov", {"clip": 0.3}, "all", 0), ("adam", {"every": 2}, "all", 0), ("momentum", {"every": 2}, "last", 2)),
    ],
)
def test_the_accumulated_form_is_carried_forwards_through_every_step(tmp_path, optimizer, given, window, first):
    world = World(tmp_path / "run", optimizer, **given)
    like = dict(world.model.named_parameters())

    def target(row):
        return world.evaluated(by_name(row, like), {})

    chosen = [7, 2, 12]
    moved, ends = zip(*(carried_by_hand(world, one, first) for one in chosen), strict=True)
    linear = torch.stack([jacobian(target, end) @ one for one, end in zip(moved, ends, strict=True)])
    evaluated = torch.stack([target(end + one) - target(end) for one, end in zip(moved, ends, strict=True)])
    for at_end, expected in (("linear", linear), ("evaluated", evaluated)):
        title = f"sgd_influence:window={window},form=accumulated,ids=7+2+12,at_end={at_end}"
        (scores,) = world.score(title).values()
        assert list(scores.ids) == sorted(chosen) and len(scores.unscored) == EXAMPLES - 3
        assert scores.unit == "change of the target" and scores.direction is Direction.LOW_IS_SUSPECT
        assert_equal(scores.of(Ids(chosen)), expected)


@pytest.mark.parametrize("kind", ["scheduled momentum", "scheduled betas", "rmsprop"])
def test_what_is_carried_takes_the_steps_as_they_were_taken(tmp_path, kind):
    # Of one step at the end of training, what is carried is what leaving out does, whatever the optimizer makes of its gradient.
    inputs, labels, held, held_labels = data(0)
    model = Net().double()
    made = {
        "scheduled momentum": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "scheduled betas": lambda: torch.optim.AdamW(model.parameters(), lr=0.1, eps=1e-3),
        "rmsprop": lambda: torch.optim.RMSprop(model.parameters(), lr=0.05, momentum=0.5, eps=1e-3),
    }
    optimizer = made[kind]()
    loader = DataLoader(TensorDataset(inputs, labels), 5, generator=torch.Generator().manual_seed(0), shuffle=True)
    schedule = None if kind == "rmsprop" else torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=9)
    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="every"), seed=0) as recorder:
        for _ in range(3):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
                if schedule:
                    schedule.step()
    run = Run(tmp_path / "run")
    last = run.ids.take(run.order(2)[-1].numpy())
    ids = "+".join(map(str, last))
    carried, left = (
        next(
            iter(
                assay.score(
                    run,
                    method,
                    loop=assay.Loop(model, optimizer, loader),
                    targets={"validation": (held, held_labels)},
                    replay_config=assay.ReplayConfig(tolerance=1e-9),
                ).values()
            )
        )
        for method in (f"sgd_influence:window=last,form=accumulated,at_end=evaluated,ids={ids}", "loo:window=last")
    )
    torch.testing.assert_close(carried.of(last), left.of(last), rtol=1e-9, atol=1e-12)


def test_the_accumulated_form_comes_nearer_to_leaving_out(tmp_path):
    world = World(tmp_path / "run", "sgd", epochs=8)
    everyone = "+".join(map(str, range(EXAMPLES)))
    own, evaluated = (f"sgd_influence:form=accumulated,ids={everyone}{end}" for end in ("", ",at_end=evaluated"))
    table = world.score("sgd_influence", own, evaluated, "loo")
    errors = [float((table[one].values - table["loo"].values).norm()) for one in ("sgd_influence", own, evaluated)]
    assert errors[0] > errors[1] > 2 * errors[2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ema": 0.7}, "carries the parameters, and this training keeps averages of the parameters; choose form=exact"),
        ({"norm": True, "batch": 7}, "step 0 is not, as where dropout or BatchNorm have a part"),
        ({"dropout": 0.4}, "step 0 is not, as where dropout or BatchNorm have a part"),
        ({}, "'13' is the id of no example; there are 0, 1, 2, 3, 4 and 8 more"),
    ],
)
def test_what_the_accumulated_form_is_not_of_is_refused(tmp_path, given, words):
    world = World(tmp_path / "run", epochs=1, **given)
    with pytest.raises(UsageError, match=words):
        world.score(f"sgd_influence:form=accumulated,ids={3 if given else 13}")
