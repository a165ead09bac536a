"""A run taken again: the same states forwards and backwards, and a refusal when they are not the recorded ones."""

import dataclasses

import pytest
import torch
from torch import nn

from assay.core.errors import Mismatch, MissingEvidence, UnknownName, UsageError
from assay.core.ids import Ids
from assay.core.models import ModelSource
from assay.core.steps import StepSource
from assay.methods.sgd_influence import sgd_influence
from assay.replay import replay as replay_module
from assay.replay import steps as steps_module
from assay.replay.planned import PlannedTraining
from assay.replay.replay import Replay
from assay.runs.recorder import Origin, Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from assay.training.batches import TrainingData
from assay.training.loop import Observer, train
from assay.training.recipe import Recipe
from assay.training.state import TrainingState
from groups import slow

EXAMPLES, CLASSES = 22, 3


def net(dropout=0.0, norm=False, seed=0):
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, CLASSES))


def data():
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 4, generator=draw)
    return inputs, (inputs @ torch.randn(4, CLASSES, generator=draw)).argmax(1), Ids([f"row {n}" for n in range(EXAMPLES)])


class Written(Observer):
    """Hands the training over to a recorder, and remembers every state."""

    def __init__(self, recorder):
        self.recorder, self.steps = recorder, []

    def starts(self, state):
        self.recorder.start(state.tensors, state.metadata)

    def epoch_begins(self, epoch):
        self.recorder.begin()

    def batch(self, positions, logits, labels, rate):
        self.recorder.step(positions, [rate])
        self.recorder.observe(positions, logits, labels)

    def epoch_ends(self, epoch, model, state):
        self.recorder.commit(state.tensors, state.metadata)


def recorded(folder, recipe, model, checkpoints="last"):
    inputs, labels, ids = data()
    inputs = inputs.to(next(model.parameters()).dtype)
    recorder = Recorder(folder, ids, Recording(checkpoints=checkpoints), origin=Origin(seed=recipe.seed))
    with recorder:
        train(
            model, TrainingData(inputs, labels, ids, augment=noise if recipe.flip else None), recipe, observer=Written(recorder)
        )
    return Run(folder)


def noise(batch, keys, *, epoch, step):
    return batch + 0.01 * (epoch + 1) * (step + 1)


def again(run, recipe, model, inputs=None, labels=None, **given):
    own_inputs, own_labels, ids = data()
    own_inputs = own_inputs.to(next(model.parameters()).dtype)
    inputs = own_inputs if inputs is None else inputs
    labels = own_labels if labels is None else labels

    def states(epoch):
        file = run.state(epoch)
        return TrainingState.read(file.read_all(), file.notes)

    training = PlannedTraining(model, TrainingData(inputs, labels, ids, augment=noise if recipe.flip else None), recipe, states)
    targets = {"loss": lambda m: iter([nn.functional.cross_entropy(m(own_inputs), own_labels)])}
    return Replay(run, training, targets, **given)


RECIPES = {
    "sgd": ({}, {}),
    "momentum": ({"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "last_batch": "even"}, {}),
    "adam": ({"optimizer": "adam", "schedule": "cosine"}, {"dropout": 0.4}),
    "adamw": ({"optimizer": "adamw", "weight_decay": 0.1, "flip": True}, {"norm": True}),
    "averaged": ({"momentum": 0.8, "clip": 0.5, "ema": 0.9, "flip": True}, {"norm": True, "dropout": 0.3}),
}


@pytest.mark.parametrize("checkpoints", ["last", [1], *slow("every")])
@pytest.mark.parametrize("name", RECIPES)
def test_forwards_and_backwards_give_the_states_of_the_training(tmp_path, monkeypatch, name, checkpoints):
    settings, shape = RECIPES[name]
    recipe = Recipe(epochs=4, lr=0.05, batch=5, seed=7, **settings)
    run = recorded(tmp_path / "run", recipe, net(**shape), checkpoints)
    replay = again(run, recipe, net(**shape, seed=1))
    assert isinstance(replay, StepSource) and isinstance(replay, ModelSource)
    every = range(0, replay.epochs[-1].stop)
    forwards = [
        (step.index, {n: v.clone() for n, v in step.params.items()}, step.batch[0].clone(), step.random)
        for step in replay.forwards(every)
    ]
    final = run.model(3)
    assert [index for index, *_ in forwards] == list(every)
    for schedule in ("sqrt", "all", "every=3", "tree=3", "sqrt of few bytes"):
        monkeypatch.setattr(replay_module, "HELD_BYTES", 0 if "few" in schedule else 10**9)
        schedule = schedule.split()[0]
        other = again(run, recipe, net(**shape, seed=2), schedule=schedule)
        after = None
        for step in other.backwards(every):
            index, params, batch, random = forwards[step.index]
            assert index == step.index
            assert all(torch.equal(step.params[n], params[n]) for n in params)
            assert torch.equal(step.batch[0], batch) and torch.equal(step.random[0], random[0])
            expected = {n: final[n] for n in params} if after is None else after
            assert all(torch.equal(step.after[n], expected[n]) for n in params)
            after = params
        assert step.index == 0
        assert [step.index for step in other.backwards(range(6, 13))] == list(range(12, 5, -1))


AVERAGED = {"momentum": 0.8, "clip": 0.5, "ema": 0.9, "flip": True}
ADAM = {"optimizer": "adam", "lr": 0.01, "eps": 1e-3, "clip": 0.7, "ema": 0.8, "flip": True}


@pytest.mark.parametrize(
    ("settings", "dtype", "size", "tolerance"),
    [(AVERAGED, torch.float64, 1e-4, 1e-7), (AVERAGED, torch.float32, 0.03, 2e-3), (ADAM, torch.float64, 1e-4, 2e-5)],
)
def test_the_influence_is_the_slope_of_training_again(tmp_path, settings, dtype, size, tolerance):
    recipe = Recipe(**{"epochs": 3, "lr": 0.05, "batch": 8, "seed": 5, "last_batch": "even", **settings})
    # What BatchNorm takes away again has a gradient of 0, which Adam makes much of.
    shape = {"dropout": 0.3, "norm": recipe.optimizer == "sgd"}
    run = recorded(tmp_path / "run", recipe, net(**shape).to(dtype))
    replay = again(run, recipe, net(**shape, seed=1).to(dtype))
    every = range(replay.epochs[-1].stop)
    by_epoch = sgd_influence(replay, EXAMPLES, ["loss"], every)[0][0]
    for first in (0, 1):
        removal, slopes = by_epoch[first:].sum(0), []
        for seed in range(2):
            direction = torch.randn(EXAMPLES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            moved = range(replay.epochs[first].start, every.stop)
            on, back = (replay.reweighted(1 + sign * size * direction, moved, "loss") for sign in (1, -1))
            # The largest slope that a direction of this length can have tells what an error is small against.
            scale = float(direction.norm() * removal.norm())
            slopes.append(abs(on - back) / (2 * size) / scale)
            assert abs((on - back) / (2 * size) + float(direction @ removal)) < tolerance * scale
        assert max(slopes) > 0.05


def test_a_target_at_the_end_is_that_of_the_averaged_model(tmp_path):
    recipe = Recipe(epochs=3, lr=0.1, batch=5, ema=0.95)
    run = recorded(tmp_path / "run", recipe, net())
    replay = again(run, recipe, net(seed=1))
    inputs, labels, _ = data()
    losses = []
    for params in (run.averages(2), run.model(2)):
        model = net()
        model.load_state_dict(params)
        losses.append(float(nn.functional.cross_entropy(model(inputs), labels).detach()))
    assert replay.reweighted(torch.ones(EXAMPLES), replay.epochs[2], "loss") == pytest.approx(losses[0], abs=1e-7)
    assert abs(losses[0] - losses[1]) > 1e-3
    end = replay.end("loss")
    model.load_state_dict(run.averages(2))
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), list(model.parameters()))
    for (name, averaged), expected in zip(end.averages.items(), gradients, strict=True):
        torch.testing.assert_close(averaged, expected)
        assert not end.params[name].any() and torch.equal(replay.final()[name], run.model(2)[name])
    # A kept model is looked at as it stood, not at its average.
    model.load_state_dict(run.model(2))
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), list(model.parameters()))
    for value, expected in zip(replay.at(2).target("loss").values(), gradients, strict=True):
        torch.testing.assert_close(value, expected)


def test_a_target_of_a_kept_model_or_step_with_batch_statistics_has_autograd_s_gradient(tmp_path):
    recipe = Recipe(epochs=2, lr=0.1, batch=5)
    run = recorded(tmp_path / "run", recipe, net(norm=True))
    replay = again(run, recipe, net(norm=True, seed=1))
    inputs, labels, _ = data()
    model = net(norm=True).eval()

    def expected(state):
        model.load_state_dict(state)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))

    found = [(replay.at(1).target("loss"), expected(run.model(1)))]
    found += [(step.target("loss"), expected({**step.buffers, **step.params})) for step in replay.forwards(range(3))]
    for target, gradients in found:
        assert target.keys() == gradients.keys() and float(gradients["0.weight"].norm()) > 1e-3
        for name, value in target.items():
            torch.testing.assert_close(value, gradients[name], rtol=1e-4, atol=1e-6)
        assert not any(buffer.requires_grad for buffer in replay.training.model.buffers())


def test_an_average_takes_memory_and_must_end_as_it_was_recorded(tmp_path):
    recipe = Recipe(epochs=2, lr=0.05, batch=5, ema=0.9)
    run = recorded(tmp_path / "run", recipe, net())
    plain = again(recorded(tmp_path / "plain", dataclasses.replace(recipe, ema=None), net()), Recipe(2, 0.05, 5), net())
    replay = again(run, recipe, net())
    averaged = sum(value.numel() * value.element_size() for value in replay.final().values())
    assert replay._own.state(1).bytes == plain._own.state(1).bytes + averaged
    other = dataclasses.replace(recipe, ema=0.8)
    with pytest.raises(
        Mismatch, match=r"epoch 0, 4 of 8 tensors differ at its end, the average of 0\.weight among them; they are"
    ):
        list(again(run, other, net()).forwards(range(10)))
    assert len(list(again(run, other, net(), tolerance=0.5).forwards(range(10)))) == 10
    with pytest.raises(Mismatch, match="of their norm apart at its end, and tolerance=1e-09"):
        list(again(run, other, net(), tolerance=1e-9).forwards(range(10)))
    with pytest.raises(Mismatch, match="ema=None, and the state after epoch 1 holds an average"):
        again(run, dataclasses.replace(recipe, ema=None), net()).end("loss")
    with pytest.raises(Mismatch, match=r"ema=0\.9, and the state after epoch 1 holds none"):
        again(plain.run, recipe, net()).end("loss")


def test_the_random_state_outside_and_the_threads_stay(tmp_path):
    recipe = Recipe(epochs=2, lr=0.05, batch=5)
    run = recorded(tmp_path / "run", recipe, net(dropout=0.3))
    replay = again(run, recipe, net(dropout=0.3))
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    for step in replay.backwards(range(10)):
        step.back([replay.end("loss")])
    replay.at(-1)
    assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_what_was_kept(tmp_path):
    recipe = Recipe(epochs=4, lr=0.05, batch=5)
    for checkpoints, kept in (("last", (-1, 2, 3)), ("every", (-1, 0, 1, 2, 3)), ([0], (-1, 0, 2, 3))):
        run = recorded(tmp_path / str(checkpoints), recipe, net(), checkpoints)
        replay = again(run, recipe, net())
        assert replay.kept == kept and replay.first == 0
    with pytest.raises(MissingEvidence, match=r"kept no model of epoch 1.*checkpoints='every'"):
        replay.at(1)
    (run.folder / "checkpoints" / "start.safetensors").unlink()
    late = again(Run(run.folder), recipe, net())
    assert late.first == 5
    with pytest.raises(MissingEvidence, match=r"Step 0 cannot be repeated.*before step 5"):
        list(late.backwards(range(20)))
    bare = recorded(tmp_path / "none", recipe, net(), "none")
    with pytest.raises(MissingEvidence, match="kept no model to take steps again from"):
        again(bare, recipe, net())


@pytest.mark.parametrize("way", ["forwards", "backwards"])
def test_other_data_are_refused_at_the_first_differing_step(tmp_path, way):
    recipe = Recipe(epochs=2, lr=0.05, batch=5, seed=2)
    run = recorded(tmp_path / "run", recipe, net())
    inputs, _, _ = data()
    third = run.order(0)[2][1]
    changed = inputs.clone()
    changed[third] += 1e-3
    replay = again(run, recipe, net(), inputs=changed)
    # Backwards begins with the last kept state, so the first step to differ is met in its epoch.
    epoch, step = (0, 2) if way == "forwards" else (1, next(n for n, batch in enumerate(run.order(1)) if third in batch))
    words = rf"epoch {epoch}.*step {step} is the first that differs: the loss of id row {int(third)} was"
    with pytest.raises(Mismatch, match=words):
        list(getattr(replay, way)(range(10)))
    with pytest.raises(Mismatch, match="of their norm apart at its end, and tolerance=1e-09"):
        list(getattr(again(run, recipe, net(), inputs=changed, tolerance=1e-9), way)(range(10)))
    assert len(list(getattr(again(run, recipe, net(), inputs=changed, tolerance=0.5), way)(range(10)))) == 10


@pytest.mark.parametrize(("fits", "taken"), [(16, 16), (15, 12 + 4 * 3 + 1)])
def test_sqrt_holds_every_state_where_they_take_few_bytes(tmp_path, monkeypatch, fits, taken):
    recipe = Recipe(epochs=1, lr=0.05, batch=1, seed=7)
    run = recorded(tmp_path / "run", recipe, net(), "last")
    replay = again(run, recipe, net())
    (state,) = [step.before for step in replay.backwards(range(0, 1))]
    monkeypatch.setattr(replay_module, "HELD_BYTES", fits * state.bytes)
    calls = []
    take = steps_module.StepRun.advance_one
    monkeypatch.setattr(
        steps_module.StepRun, "advance_one", lambda step_run, index: (calls.append(index), take(step_run, index))[1]
    )
    assert [step.index for step in replay.backwards(range(0, 16))] == list(reversed(range(16)))
    assert len(calls) == taken


def test_a_memory_budget_is_kept_or_refused(tmp_path):
    recipe = Recipe(epochs=2, lr=0.05, batch=1, last_batch="keep")
    run = recorded(tmp_path / "run", recipe, net())
    replay = again(run, recipe, net())
    state = replay._own.state(-1)
    assert [step.index for step in again(run, recipe, net(), memory=10 * state.bytes).backwards(range(44))] == list(
        range(43, -1, -1)
    )
    with pytest.raises(UsageError, match=r"memory=.* a state takes .* fewest"):
        list(again(run, recipe, net(), memory=2 * state.bytes).backwards(range(44)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"schedule": "log"}, "schedule='log' is not one of"),
        ({"schedule": "every=0"}, "Marks 0 steps apart"),
        ({"memory": 0}, "memory=0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, given, words):
    recipe = Recipe(epochs=2, lr=0.05, batch=5)
    run = recorded(tmp_path / "run", recipe, net())
    with pytest.raises(UsageError, match=words):
        again(run, recipe, net(), **given)


def test_targets_must_be_there_and_depend_on_the_parameters(tmp_path):
    recipe = Recipe(epochs=2, lr=0.05, batch=5)
    run = recorded(tmp_path / "run", recipe, net())
    replay = again(run, recipe, net())
    with pytest.raises(UnknownName, match=r"'los'.*Did you mean loss"):
        replay.end("los")
    replay.given["fixed"] = lambda model: iter([torch.tensor(3.0)])
    with pytest.raises(UsageError, match="'fixed' does not depend on any trainable parameter"):
        replay.end("fixed")
    replay.given["vector"] = lambda model: iter([model[0].weight])
    with pytest.raises(UsageError, match="'vector' is no single number"):
        replay.end("vector")
