"""Methods that run along in a user's loop: nothing reaches the training, and live is what a replay says afterwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, RunError, UsageError
from assay.runs.run import Run
from settings import grouped

EXAMPLES = 23


def world(dtype=torch.float32):
    torch.manual_seed(4)
    inputs = torch.randn(EXAMPLES, 5, dtype=dtype)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    layers = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)
    model = nn.Sequential(*layers).to(dtype)
    groups = [{"params": layers[0].parameters(), "lr": 0.02}, {"params": [*layers[1].parameters(), *layers[4].parameters()]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.8)
    return model, optimizer, DataLoader(TensorDataset(inputs, labels), 6, shuffle=True)


def trained(folder, live=(), epochs=4, stop=None, dtype=torch.float32, late=(), **given):
    """Train, in two sittings if `stop` says so."""
    for last in [*([stop] if stop else []), epochs]:
        model, optimizer, loader = world(dtype)
        recording = assay.record(
            folder,
            model,
            optimizer,
            loader,
            **grouped({"seed": 3, "checkpoints": "every", "live": live, "resume": True, **given}),
        )
        with recording as recorder:
            views = [recorder.live(one) for one in late]
            for _ in range(recorder.epochs, last):
                for x, y in recorder.epoch():
                    logits = model(x)
                    optimizer.zero_grad()
                    F.cross_entropy(logits, y).backward()
                    optimizer.step()
                    recorder.batch(logits, y)
    return model, optimizer, loader, views


METHODS = ["liveval", "liveval:delta_max=5,delta_step=2,eps_lo=0.01,eps_hi=0.02", "liveval:window_rule=alg3,delta_max=4", "aum"]


def test_the_weights_are_the_same_bits_with_and_without(tmp_path):
    with_it, *_ = trained(tmp_path / "with", METHODS)
    without, *_ = trained(tmp_path / "without")
    for (name, one), two in zip(with_it.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert Run(tmp_path / "with").fingerprint == Run(tmp_path / "without").fingerprint


def test_live_is_what_a_replay_says(tmp_path):
    model, optimizer, loader, _ = trained(tmp_path / "run", METHODS, dtype=torch.float64)
    live = assay.score(tmp_path / "run", METHODS)
    trained(tmp_path / "plain", dtype=torch.float64)
    loop = assay.Loop(model, optimizer, loader)
    again = assay.score(tmp_path / "plain", METHODS, loop=loop, targets={})
    for title, one in live.items():
        torch.testing.assert_close(one.values, again[title].values, rtol=1e-12, atol=1e-14)
        if title != "aum":
            torch.testing.assert_close(one.by_epoch, again[title].by_epoch, rtol=1e-12, atol=1e-14)
            assert dict(one.diagnostics) == dict(again[title].diagnostics)


def test_a_resumed_run_ends_in_the_same_bytes(tmp_path):
    trained(tmp_path / "whole", METHODS)
    whole = Run(tmp_path / "whole")
    for stop in (1, 3):
        trained(tmp_path / f"parts {stop}", METHODS, stop=stop)
        parts = Run(tmp_path / f"parts {stop}")
        assert whole.commits[-1].live.sums == parts.commits[-1].live.sums
        assert whole.commits[-1].live.notes == parts.commits[-1].live.notes


def test_the_value_over_time_is_in_the_run(tmp_path):
    trained(tmp_path / "run", METHODS, stop=2, dtype=torch.float64)
    run, table = Run(tmp_path / "run"), assay.score(tmp_path / "run", METHODS)
    orders = [batch for epoch in range(run.epochs) for batch in run.order(epoch)]
    for title in list(table)[:3]:
        stream = run.stream(title)
        assert stream.steps.tolist() == [step for step, batch in enumerate(orders) for _ in batch]
        assert torch.equal(stream.positions, torch.cat(orders))
        total = torch.zeros(EXAMPLES, dtype=torch.float64).index_add_(0, stream.positions, stream.values)
        torch.testing.assert_close(total, table[title].values, rtol=1e-12, atol=1e-14)
        assert bool((stream.values.abs() <= 1).all())
    with pytest.raises(UsageError, match=r"no value over time of 'aum'.*--live liveval"):
        run.stream("aum")
    assert run.check() > 0


def test_what_they_say_can_be_asked_at_any_time(tmp_path):
    model, optimizer, loader = world()
    with assay.record(tmp_path / "run", model, optimizer, loader, seed=0) as recorder:
        view, fold = recorder.live("liveval"), recorder.live("aum")
        with pytest.raises(MissingEvidence, match="aum has not seen enough yet"):
            fold.worst()
        seen = []
        for _ in range(2):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
                if not seen:
                    # A step is seen when the loop asks for the next batch.
                    with pytest.raises(MissingEvidence, match="liveval has not seen enough yet"):
                        view.scores()
                seen.append(view.scores() if view is not None and recorder.alongside._met.any() else None)
        met, seen = [0 if one is None else len(one) for one in seen], [one for one in seen if one is not None]
        assert met == [0, 6, 12, 18, *[EXAMPLES] * 4]
        for one in seen:
            assert bool(one.values.isfinite().all()) and bool((one.values != 0).all())
            assert len(one) + len(one.unscored) == EXAMPLES
        worst = view.worst(3)
        assert [value for _, value in worst] == sorted(value for _, value in worst) and len(worst) == 3
        assert str(view).startswith("liveval: first ids by now") and str(worst[0][0]) in str(view)
        with pytest.raises(UsageError, match="dual cannot join a training that has begun"):
            recorder.live("dual")
    assert Run(tmp_path / "run").header.live == ("liveval", "aum")


def test_methods_that_joined_must_join_again(tmp_path):
    trained(tmp_path / "run", late=["liveval"], stop=2)
    assert Run(tmp_path / "run").epochs == 4
    with pytest.raises(Mismatch, match="recorded with live="):
        trained(tmp_path / "run", epochs=5)


@pytest.mark.parametrize("method", ["oti", "in_run_shapley", "sgd_influence", "grand"])
def test_methods_that_look_ahead_are_refused(tmp_path, method):
    with pytest.raises(UsageError, match=f"{method} cannot run live"):
        trained(tmp_path / "run", [method])
    assert not (tmp_path / "run").exists()


def test_other_losses_and_batches(tmp_path):
    class Rows(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return {"x": x, "y": y}

    def losses(net, batch):
        return F.cross_entropy(net(batch["x"]), batch["y"], reduction="none", label_smoothing=0.1)

    model, optimizer, loader = world(torch.float64)
    loader = DataLoader(Rows(*loader.dataset.tensors), 6, shuffle=True)
    with assay.record(
        tmp_path / "run",
        model,
        optimizer,
        loader,
        assay.Recording(live=["liveval"], checkpoints="every"),
        data=assay.DataSpec(losses=losses),
        seed=0,
    ) as recorder:
        for _ in range(2):
            for batch in recorder.epoch():
                logits = model(batch["x"])
                optimizer.zero_grad()
                F.cross_entropy(logits, batch["y"], label_smoothing=0.1).backward()
                optimizer.step()
                recorder.batch(logits, batch["y"])
    live = assay.score(tmp_path / "run", "liveval")["liveval"]
    loop = assay.Loop(model, optimizer, loader, losses)
    how = assay.ReplayConfig(tolerance=1e-9)
    again = assay.score(tmp_path / "run", ["liveval:delta_max=3", "grand"], loop=loop, targets={}, replay_config=how)
    torch.testing.assert_close(live.values, again["liveval"].values, rtol=1e-9, atol=1e-12)
    params = Run(tmp_path / "run").model(1)
    model.load_state_dict(params)
    model.eval()
    for position in range(5):
        x, y = loader.dataset.tensors[0][position][None], loader.dataset.tensors[1][position][None]
        grads = torch.autograd.grad(losses(model, {"x": x, "y": y})[0], list(model.parameters()))
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        assert float(again["grand"].values[position]) == pytest.approx(float(norm), rel=1e-9)


def test_a_loop_that_does_not_step_once_per_batch_is_recorded_without_methods_that_value_steps(tmp_path):
    model, optimizer, loader = world()
    recording = assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(live=["liveval", "dual"]), seed=0)
    with (
        pytest.warns(
            UserWarning, match=r"liveval stopped .*in batch 0 the optimizer moved 0 times, .*DataSpec\(accumulate="
        ) as said,
        recording as recorder,
    ):
        for _ in range(2):
            for place, (x, y) in enumerate(recorder.epoch()):
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                if place % 2:
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.batch(logits, y)
    assert len(said) == 1
    run = Run(tmp_path / "run")
    assert run.epochs == 2 and run.check() and set(run.micro_batches(0)) == {2}
    with pytest.raises(
        MissingEvidence, match=r"liveval ran live .* but it stopped in epoch 0: in batch 0 the optimizer moved 0 times"
    ):
        assay.score(run, "liveval")
    with pytest.raises(MissingEvidence, match="it stopped in epoch 0"):
        run.stream("liveval")


BATCHES, EVERY = 8, 3
"""Of 3 examples, so that the steps of an epoch have 3, 3 and 2 batches, the last one of 2 examples."""


def accumulated(folder, divided, reduction="mean", live=(), every=EVERY, stop=None, left="step", epochs=2, **data):
    """Train with steps of several batches; `divided(batches of the step, examples of the step)` is what each loss is divided by."""
    for last in [*([stop] if stop else []), epochs]:
        model, optimizer, _ = world(torch.float64)
        loader = DataLoader(world(torch.float64)[2].dataset, 3, shuffle=True)
        recording = assay.Recording(live=live, checkpoints="every")
        spec = assay.DataSpec(reduction=reduction, **data)
        with assay.record(folder, model, optimizer, loader, recording, data=spec, seed=3, resume=True) as recorder:
            for _ in range(recorder.epochs, last):
                for number, (x, y) in enumerate(recorder.epoch()):
                    start = number - number % every
                    batches = min(every, BATCHES - start)
                    if number == start and not (left == "carry" and number == 0):
                        optimizer.zero_grad()
                    logits = model(x)
                    examples = min(3 * batches, EXAMPLES - 3 * start)
                    (F.cross_entropy(logits, y, reduction=reduction) / divided(batches, examples)).backward()
                    if number + 1 == start + batches and (batches == every or left == "step"):
                        optimizer.step()
                    recorder.batch(logits, y)
    return assay.Loop(model, optimizer, loader, reduction=reduction, **data)


DIVISIONS = {
    "by a number": (lambda batches, examples: 3, "mean", {"accumulate": 3}),
    "by batches": (lambda batches, examples: batches, "mean", {"accumulate": "batches"}),
    "by nothing": (lambda batches, examples: 1, "mean", {"accumulate": 1}),
    "by examples": (lambda batches, examples: examples, "sum", {"accumulate": "examples"}),
    "by a function": (lambda batches, examples: 2 * examples, "sum", {"accumulate": lambda batch: 2.0 * len(batch[1])}),
    "a sum in each step": (lambda batches, examples: 1, "sum", {"every": 1}),
}


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("by a number", None),
        ("by batches", 1),
        # A number like the first, and a mean like the second.
        pytest.param("by nothing", None, marks=pytest.mark.slow),
        pytest.param("by examples", 1, marks=pytest.mark.slow),
        ("by a function", None),
        ("a sum in each step", 1),
    ],
)
def test_steps_of_several_batches_are_valued_live_as_a_replay_values_them(tmp_path, name, stop):
    methods, (divided, reduction, given) = METHODS[1:3], DIVISIONS[name]
    loop = accumulated(tmp_path / "run", divided, reduction, methods, stop=stop, **given)
    run = Run(tmp_path / "run")
    assert run.micro_batches(0) == ([1] * BATCHES if "every" in given else [3, 3, 2]) and not run.stopped()
    live = assay.score(run, methods)
    accumulated(tmp_path / "plain", divided, reduction, stop=stop, **given)
    again = assay.score(tmp_path / "plain", methods, loop=loop, targets={})
    for title, one in live.items():
        torch.testing.assert_close(one.values, again[title].values, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(one.by_epoch, again[title].by_epoch, rtol=1e-12, atol=1e-14)
        assert dict(one.diagnostics) == dict(again[title].diagnostics)
    # Each step of the stream is one of several batches.
    steps = [torch.cat(step) for epoch in range(run.epochs) for step in run.steps(epoch)]
    stream = run.stream(methods[0])
    assert torch.equal(stream.positions, torch.cat(steps))
    assert stream.steps.tolist() == [number for number, step in enumerate(steps) for _ in step]


@pytest.mark.parametrize("left", ["drop", "carry"])
def test_batches_left_over_at_an_epochs_end_are_in_no_step_or_stop_live_methods(tmp_path, left):
    divided, reduction, given = DIVISIONS["by a number"]
    live = ["liveval:delta_max=5,delta_step=2,eps_lo=0.01,eps_hi=0.02"]
    if left == "carry":
        with pytest.warns(
            UserWarning, match="stopped running along in epoch 1: gradients of the last batches of an epoch went into"
        ):
            accumulated(tmp_path, divided, reduction, live, left=left, **given)
        return
    accumulated(tmp_path, divided, reduction, live, left=left, **given)
    run = Run(tmp_path)
    steps = [torch.cat(step) for epoch in range(run.epochs) for step in run.steps(epoch)]
    assert run.left_over(0) == 2 and len(steps) == 4 and torch.equal(run.stream(live[0]).positions, torch.cat(steps))


def test_what_losses_are_divided_by_is_one_of_a_few_words():
    with pytest.raises(UsageError, match="DataSpec: reduction='median' is neither 'mean' nor 'sum' nor a function"):
        assay.DataSpec(reduction="median")
    for wrong in (0, -1, float("inf"), "batch", "3"):
        with pytest.raises(UsageError, match=r"DataSpec: accumulate=.* is no number above 0 to divide a loss by"):
            assay.DataSpec(accumulate=wrong)


def test_a_window_may_begin_later_than_the_first_epoch(tmp_path):
    methods = ["liveval:window=1-2", "liveval:window=last"]
    trained(tmp_path / "run", methods, dtype=torch.float64)
    model, optimizer, loader, _ = trained(tmp_path / "plain", dtype=torch.float64)
    table = assay.score(tmp_path / "run", methods)
    again = assay.score(tmp_path / "plain", methods, loop=assay.Loop(model, optimizer, loader), targets={})
    for title, one in table.items():
        torch.testing.assert_close(one.values, again[title].values, rtol=1e-12, atol=1e-14)
    trained(tmp_path / "short", ["liveval:window=1-5"], epochs=3)
    with pytest.raises(UsageError, match="window=1-5 is outside the 3 recorded epochs"):
        assay.score(tmp_path / "short", "liveval:window=1-5")


def test_what_is_taken_up_again_stands_where_the_model_does():
    from assay.replay.functional import Functional
    from assay.replay.model_batches import ModelBatch
    from assay.replay.step_state import decode, encode

    model, *_ = world()
    functional = Functional(model)
    params = {name: value.detach() for name, value in model.named_parameters()}
    batch = ModelBatch(
        torch.tensor([1, 2]), params, functional, dict(model.named_buffers()), (torch.ones(2, 5), torch.tensor([0, 1]))
    )
    state = {"pending": [{"batch": batch}], "after": params, "values": [torch.zeros(3)]}
    # A device that is not the CPU and that every machine has.
    elsewhere = Functional(world()[0].to("meta"))
    found = decode(*encode(state), elsewhere)
    own = found["pending"][0]["batch"]
    placed = [*own.params.values(), *own.buffers.values(), *own.batch, *found["after"].values()]
    assert {value.device.type for value in placed} == {"meta"}
    assert own.positions.device.type == found["values"][0].device.type == "cpu"


def test_a_state_that_lacks_a_part_of_a_batch_is_refused():
    from assay.replay.functional import Functional
    from assay.replay.step_state import BATCH, WEIGHTED, decode, encode

    functional = Functional(world()[0])
    for mark, held, lacks in ((BATCH, {"positions": torch.ones(2)}, "params"), (WEIGHTED, {"batch": torch.ones(2)}, "weights")):
        with pytest.raises(RunError, match=f"damaged .no '{lacks}' of a batch.; record again"):
            decode(*encode({"pending": [{mark: held}]}), functional)


@pytest.mark.parametrize(
    ("divided", "reduction", "data", "said"),
    [
        (
            3,
            "mean",
            {"accumulate": 5},
            r"liveval stopped .*gradients of a step of 3 batches of your loop are 1\.667 times .*accumulate=",
        ),
        # In the first steps it could be clipping; the length of the gradients says that it is not.
        (5, "mean", {"accumulate": 3}, r"liveval stopped .*gradients of a step of 3 batches of your loop are 0\.6 times"),
        (1, "sum", {"every": 1}, r"liveval stopped .*gradients of a step of your loop are 3 times .*reduction="),
    ],
)
def test_a_loop_that_divides_otherwise_than_was_said_gets_no_live_values(tmp_path, divided, reduction, data, said):
    model, optimizer, _ = world(torch.float64)
    loader = DataLoader(world(torch.float64)[2].dataset, 3, shuffle=True)
    every = data.pop("every", EVERY)
    spec = assay.DataSpec(**data) if data else None
    with (
        pytest.warns(UserWarning, match=said),
        assay.record(tmp_path, model, optimizer, loader, assay.Recording(live=["liveval"]), data=spec, seed=3) as recorder,
    ):
        for number, (x, y) in enumerate(pair for _ in range(2) for pair in recorder.epoch()):
            at = number % BATCHES
            logits = model(x)
            (F.cross_entropy(logits, y, reduction=reduction) / divided).backward()
            if (at + 1) % every == 0 or at + 1 == BATCHES:
                optimizer.step()
                optimizer.zero_grad()
            recorder.batch(logits, y)
    with pytest.raises(MissingEvidence, match=r"stopped in epoch [01]"):
        assay.score(tmp_path, "liveval", strict=True)


def clip_each(parameters):
    for parameter in parameters:
        nn.utils.clip_grad_norm_([parameter], 0.05)


CLIPS = {
    "by norm": lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.05),
    "by value": lambda parameters: nn.utils.clip_grad_value_(parameters, 0.02),
    "each by its norm": clip_each,
}


def stepped(folder, factor=1.0, clip=lambda parameters: None, closure=False, scaler=None, optimizer=torch.optim.SGD, **settings):
    """A loop of a model that draws nothing, whose losses are multiplied by something that nobody said."""
    torch.manual_seed(0)
    model, loader = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), world()[2]
    made = optimizer(model.parameters(), lr=0.1, **settings)
    with assay.record(folder, model, made, loader, assay.Recording(live=["liveval"]), seed=3) as recorder:
        for _ in range(2):
            for x, y in recorder.epoch():

                def backward(x=x, y=y):
                    made.zero_grad()
                    logits = model(x)
                    loss = factor * F.cross_entropy(logits, y)
                    (loss if scaler is None else scaler.scale(loss)).backward()
                    clip(list(model.parameters()))
                    recorder.batch(logits, y)
                    return loss

                if closure:
                    made.step(backward)
                    continue
                backward()
                if scaler is None:
                    made.step()
                else:
                    scaler.step(made)
                    scaler.update()
    return assay.score(folder, "liveval", strict=True)["liveval"]


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("clip", CLIPS)
def test_gradients_that_were_clipped_are_those_of_the_losses(tmp_path, clip, closure):
    # A warning would be an error.
    assert len(stepped(tmp_path, clip=CLIPS[clip], closure=closure)) == EXAMPLES


def test_gradients_that_are_made_or_scaled_back_inside_a_step_are_compared_as_the_step_takes_them(tmp_path):
    assert len(stepped(tmp_path / "closure", closure=True)) == EXAMPLES
    fused = {"scaler": torch.amp.GradScaler("cpu"), "optimizer": torch.optim.AdamW, "fused": True}
    assert len(stepped(tmp_path / "fused", **fused)) == EXAMPLES


class Infinite(torch.amp.GradScaler):
    """Meets an infinity in the second and the third batch."""

    calls = 0

    def scale(self, loss):
        self.calls += 1
        return super().scale(loss * (float("inf") if self.calls in (2, 3) else 1))


class Forgetful(Infinite):
    """Leaves the same steps out by itself."""

    def scale(self, loss):
        self.calls += 1
        return loss

    def step(self, optimizer):
        if self.calls in (2, 3):
            optimizer.zero_grad()
        else:
            optimizer.step()

    def update(self):
        pass


@pytest.mark.parametrize("fused", [False, True])
def test_batches_whose_step_a_gradient_scaler_passes_over_are_in_no_step(tmp_path, fused):
    values = []
    for scaler in (Infinite("cpu"), Forgetful("cpu")):
        folder = tmp_path / type(scaler).__name__
        values.append(stepped(folder, scaler=scaler, optimizer=torch.optim.AdamW, fused=fused).values)
        assert [len(step) for step in Run(folder).steps(0)] == [1, 3]
    assert values[0].any()
    torch.testing.assert_close(*map(torch.as_tensor, values), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("factor", "settings"),
    [(2, {"closure": True}), (-1, {}), (2, {"scaler": True, "optimizer": torch.optim.AdamW, "fused": True})],
)
def test_another_factor_ends_live_values_wherever_the_gradients_are_made(tmp_path, factor, settings):
    if settings.get("scaler"):
        settings = {**settings, "scaler": torch.amp.GradScaler("cpu")}
    with (
        pytest.warns(UserWarning, match=rf"liveval stopped .*are {factor} times those of its losses"),
        pytest.raises(MissingEvidence, match="stopped in epoch 0"),
    ):
        stepped(tmp_path, factor, **settings)


def test_gradients_of_another_loss_are_a_doubt_in_a_sentence(tmp_path):
    torch.manual_seed(0)
    model, (_, _, loader) = nn.Linear(5, 3), world()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.warns(UserWarning, match=r"your loop do not point where those of the losses do \(cosine 0\..*DataSpec\(losses="),
        assay.record(tmp_path, model, optimizer, loader, assay.Recording(live=["liveval"]), seed=3) as recorder,
    ):
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + sum(one.square().sum() for one in model.parameters())).backward()
            optimizer.step()
            recorder.batch(logits, y)
