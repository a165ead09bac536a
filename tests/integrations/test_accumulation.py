"""Steps made of several batches: what a recording says of them, and that they are repeated as they were taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, UsageError
from assay.runs.run import Run
from methods.loops import World

EXAMPLES, CLASSES = 13, 3


def data():
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 4, generator=draw, dtype=torch.float64)
    return TensorDataset(inputs, torch.arange(EXAMPLES) % CLASSES)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def trained(folder, every, at_end=False, clears=False, epochs=2, batch=2):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), batch, shuffle=True, generator=torch.Generator().manual_seed(1))
    waiting = 0
    with assay.record(folder, model, optimizer, loader) as recorder:
        for _ in range(epochs):
            if clears:
                optimizer.zero_grad()
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                logits = model(x)
                (F.cross_entropy(logits, y) / every).backward()
                recorder.batch(logits, y)
                waiting += 1
                if waiting == every or (at_end and number == len(loader)):
                    optimizer.step()
                    optimizer.zero_grad()
                    waiting = 0
            if clears:
                waiting = 0
    return Run(folder)


@pytest.mark.parametrize(
    ("how", "sizes", "left", "carried"),
    [
        ({"at_end": True}, [3, 3, 1], 0, None),
        ({"clears": True}, [3, 3], 1, None),
        ({}, [3, 3], 1, 1),
    ],
    ids=["steps at the end", "drops the rest", "carries the rest"],
)
def test_a_recording_says_which_batches_made_a_step(tmp_path, how, sizes, left, carried):
    run = trained(tmp_path, 3, **how)
    steps = run.steps(0)
    assert [len(step) for step in steps] == sizes == run.micro_batches(0) and run.left_over(0) == left
    order = run.order(0)
    assert [batch.tolist() for step in steps for batch in step] == [batch.tolist() for batch in order[: sum(sizes)]]
    assert run.last_batches(0) == [sum(sizes[: n + 1]) - 1 for n in range(len(sizes))]
    assert run.carried() == carried and run.uneven_updates() is None


def test_a_step_per_batch_is_written_as_ever(tmp_path):
    run = trained(tmp_path, 1)
    assert {"updates", "carried"}.isdisjoint(run.commits[0].shard.sums)
    assert [len(step) for step in run.steps(0)] == [1] * 7 and run.left_over(0) == 0 and run.carried() is None


def test_an_epoch_without_a_step_is_named(tmp_path):
    assert trained(tmp_path, 100, at_end=False, clears=True).uneven_updates() == (0, 6, 0)


def derivative(world, first=0):
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    return -torch.autograd.grad(world.unrolled(weights, first), weights)[0]


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "momentum"},
        {"optimizer": "adamw", "clip": 0.05},
        {"optimizer": "sgd", "norm": True},
        {"optimizer": "nesterov", "norm": True, "clip": 0.5, "divided": "batches"},
        {"optimizer": "adam", "dropout": 0.4, "divided": "batches"},
        {"optimizer": "decay", "dropout": 0.4, "ema": 0.7},
    ],
    ids=lambda given: ",".join(f"{name}={value}" for name, value in given.items()),
)
def test_influence_is_the_derivative_of_the_unrolled_steps(tmp_path, given):
    world = World(tmp_path, every=2, **given)
    assert [len(step) for step in world.run.steps(0)] == [2, 1]
    (scores,) = world.score("sgd_influence:checks=0").values()
    torch.testing.assert_close(scores.values, derivative(world), rtol=1e-9, atol=1e-12)
    assert max(scores.diagnostics["relative error of single steps' derivatives, by central differences"], 0) < 1e-4


METHODS = [
    *("tracin:target=validation", "oti", "oti:reference=best", "liveval", "in_run_shapley", "in_run_shapley:order=2", "loo"),
    *("loo:form=removed", "sgd_influence", "sgd_influence:form=no_hessian", "sgd_influence:form=gauss_newton"),
    *("sgd_influence:form=fisher", "sgd_influence:form=last_parameters"),
]


def test_steps_of_several_batches_are_those_of_one_large_batch(tmp_path):
    """Batches of 2, three to a step, against batches of 6 in the same order; there are 13 examples, so that the last step has one batch, of one."""
    small = World(tmp_path / "small", batch=2, every=3, divided="batches")
    large = World(tmp_path / "large", batch=6)
    assert [torch.cat(step).tolist() for step in small.run.steps(1)] == [step.tolist() for step in large.run.order(1)]
    few = "sgd_influence:form=accumulated,ids=1+5"
    pairs = [*zip(small.score(*METHODS).values(), large.score(*METHODS).values(), strict=True)]
    pairs += zip(small.score(few).values(), large.score(few).values(), strict=True)
    for method, (one, other) in zip([*METHODS, few], pairs, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=1e-8, atol=1e-10, equal_nan=True, msg=method)


@pytest.mark.parametrize(
    ("recorded", "said", "words"),
    [
        ({"divided": "batches"}, {"accumulate": None}, "taken to be divided by that; where your loop divides otherwise, give"),
        ({}, {"accumulate": 1}, "taken to be divided by accumulate=1"),
    ],
)
def test_another_division_is_refused_with_the_cure(tmp_path, recorded, said, words):
    world = World(tmp_path, every=2, **recorded)
    with pytest.raises(Mismatch, match=words):
        assay.score(
            world.run,
            "sgd_influence",
            targets={"validation": (world.held_out, world.held_labels)},
            loop=world.loop(**said),
        )


def test_gradients_that_are_carried_into_the_next_epoch_are_refused_and_dropped_ones_repeated(tmp_path):
    held = {"validation": (torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)}
    run = trained(tmp_path / "carried", 3)
    model = net()
    loop = assay.Loop(model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data(), 2))
    with pytest.raises(UsageError, match="first step of epoch 1 added to gradients of the last batches of epoch 0"):
        assay.score(run, "sgd_influence", targets=held, loop=loop)
    run = trained(tmp_path / "dropped", 3, clears=True)
    (scores,) = assay.score(run, "sgd_influence", targets=held, loop=loop).values()
    assert scores.values.isfinite().sum() > 6
    # The cure of the first refusal, which is what the second training did.
    with pytest.raises(UsageError, match=r"epoch 0, batch 6, the optimizer moved 0 times, not once, or never in the epoch"):
        assay.score(trained(tmp_path / "never", 100, clears=True), "sgd_influence", targets=held, loop=loop)


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_statistics_that_follow_several_batches_of_a_step_are_differentiated(tmp_path, momentum):
    """The derivative of the step, its statistics included, is compared with central differences of the step itself."""
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=momentum), nn.Tanh(), nn.Linear(5, CLASSES)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    loader = DataLoader(data(), 5)
    with assay.record(tmp_path, model, optimizer, loader) as recorder:
        for _ in range(2):
            optimizer.zero_grad()
            for number, (x, y) in enumerate(recorder.epoch()):
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                recorder.batch(logits, y)
                if number == 2:
                    optimizer.step()
    held = {"validation": (torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)}
    loop = assay.Loop(model, optimizer, loader, accumulate=1)
    (scores,) = assay.score(tmp_path, "sgd_influence", targets=held, loop=loop).values()
    assert scores.diagnostics["relative error of single steps' derivatives, by central differences"] < 1e-5


def test_batches_after_the_last_step_that_batch_norm_followed_are_refused(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, CLASSES)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    loader = DataLoader(data(), 5)
    with assay.record(tmp_path, model, optimizer, loader) as recorder:
        for number, (x, y) in enumerate(recorder.epoch()):
            logits = model(x)
            F.cross_entropy(logits, y).backward()
            recorder.batch(logits, y)
            if number == 1:
                optimizer.step()
    held = {"validation": (torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)}
    with pytest.raises(UsageError, match="epoch 0 ended with 1 batches after its last step, and the statistics of BatchNorm"):
        assay.score(tmp_path, "sgd_influence", targets=held, loop=assay.Loop(model, optimizer, loader))


def test_a_step_that_was_skipped_is_not_taken_for_an_accumulated_one(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 5)
    with assay.record(tmp_path, model, optimizer, loader) as recorder:
        for number, (x, y) in enumerate(recorder.epoch()):
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            recorder.batch(logits, y)
            if number != 1:
                optimizer.step()
    held = {"validation": (torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)}
    for accumulate in (None, 1, 2, "batches"):
        loop = assay.Loop(model, optimizer, loader, accumulate=accumulate)
        with pytest.raises(Mismatch, match=r"Steps were made of up to 2 batches.*scaler skipped steps"):
            assay.score(tmp_path, "sgd_influence", targets=held, loop=loop)


def test_a_loss_of_the_loop_s_own_and_a_sum_over_examples_are_divided_too(tmp_path):
    held = {"validation": (torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)}
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 5)
    with assay.record(tmp_path, model, optimizer, loader) as recorder:
        optimizer.zero_grad()
        for x, y in recorder.epoch():
            logits = model(x)
            (F.cross_entropy(logits, y, reduction="sum") / EXAMPLES).backward()
            recorder.batch(logits, y)
            if recorder.epochs == 0 and len(x) == 3:
                optimizer.step()
    given = {"accumulate": "examples", "reduction": "sum"}
    own = given | {"loss": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="sum")}
    counted = given | {"accumulate": lambda batch: (batch[1] >= 0).sum()}
    loops = [assay.Loop(model, optimizer, loader, **one) for one in (given, own, counted)]
    one, other, third = (assay.score(tmp_path, ["sgd_influence"], targets=held, loop=loop)["sgd_influence"] for loop in loops)
    torch.testing.assert_close(one.values, other.values)
    assert torch.equal(one.values, third.values)
    nothing = assay.Loop(model, optimizer, loader, **(given | {"accumulate": lambda batch: (batch[1] < 0).sum()}))
    with pytest.raises(UsageError, match=r"accumulate\(batch\) returned 0.0 for the batches of a step; return what"):
        assay.score(tmp_path, "sgd_influence", targets=held, loop=nothing)
    wrong = assay.Loop(model, optimizer, loader, **(own | {"reduction": "mean"}))
    with pytest.raises(UsageError, match="give reduction='sum'"):
        assay.score(tmp_path, "sgd_influence", targets=held, loop=wrong)


@pytest.mark.parametrize("accumulate", [0, -1, float("inf"), float("nan")])
def test_a_division_by_no_number_is_refused(accumulate):
    model = net()
    with pytest.raises(UsageError, match="is no number above 0 to divide a loss by"):
        assay.Loop(model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data(), 5), accumulate=accumulate)


def test_examples_of_smaller_batches_of_a_step_count_for_more(tmp_path):
    """Batches of 5, 5 and 3 make one step: each example counts 1 / (3 times its batch)."""
    world = World(tmp_path, every=3, epochs=1)
    ((batches, share, rates),) = world.steps(0)
    assert [len(batch) for batch in batches] == [5, 5, 3] and share == 3
    start = {name: world.start[name] for name, _ in world.model.named_parameters()}
    target = world.gradient(start, world.held_out, world.held_labels)
    want = torch.zeros(EXAMPLES, dtype=torch.float64)
    for batch in batches:
        for position in batch.tolist():
            own = world.example_gradient(start, position)
            for name, value in own.items():
                rate = float(rates[0] if name.startswith("hidden") else rates[1])
                want[position] += rate * float((value * target[name]).sum()) / (3 * len(batch))
    (scores,) = world.score("in_run_shapley").values()
    torch.testing.assert_close(scores.values, want, rtol=1e-9, atol=1e-12)
