import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from assay.core.errors import Mismatch, NumericalError, UsageError
from assay.core.ids import Ids
from assay.maths import draws
from assay.training import Observer, Recipe, TrainingState, evaluate, predict, train
from assay.training.batches import TrainingData, batches

EXAMPLES, CLASSES = 23, 3
IDS = Ids(range(100, 100 + EXAMPLES))
IMAGES = torch.randint(0, 256, (EXAMPLES, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(EXAMPLES) % CLASSES

RECIPES = {
    "sgd": Recipe(epochs=4, lr=0.1, batch=5),
    "momentum": Recipe(epochs=4, lr=0.1, batch=5, momentum=0.9, dampening=0.1, weight_decay=1e-3, schedule="inverse_sqrt"),
    "nesterov": Recipe(
        epochs=4, lr=0.1, batch=5, momentum=0.9, nesterov=True, schedule="step", milestones=(2,), last_batch="even"
    ),
    "adam": Recipe(epochs=4, lr=0.01, batch=5, optimizer="adam", weight_decay=1e-3, schedule="cosine", last_batch="drop"),
    "adamw": Recipe(epochs=4, lr=0.01, batch=5, optimizer="adamw", weight_decay=0.1, schedule="one_cycle", crop=1, flip=True),
    "clipped": Recipe(epochs=4, lr=0.1, batch=5, momentum=0.9, clip=0.5, flip=True),
    "averaged": Recipe(epochs=4, lr=0.05, batch=5, momentum=0.9, clip=1.5, ema=0.9),
}


def prepare(batch):
    return batch.float() / 255


def augment(batch, keys, *, epoch, step):
    """Half of the images mirrored, by id, and noise from torch's generator, which the loop seeds."""
    mirrored = draws.uniform(keys, 0, "flip", epoch, step) < 0.5
    batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)
    return (batch + torch.randint(0, 2, batch.shape, dtype=torch.uint8)).clamp(max=255)


def net(seed=0):
    """BatchNorm has running statistics to carry over, dropout draws from torch's generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, CLASSES)
        )


def run(recipe, model=None, prepare=prepare, augment=augment, **more):
    model = net() if model is None else model
    return train(model, TrainingData(IMAGES, LABELS, IDS, prepare, augment), recipe, **more)


def assert_same(one, other):
    assert one.metadata == other.metadata and one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert value.dtype == other.tensors[name].dtype and torch.equal(value, other.tensors[name]), name


class Keeper(Observer):
    def __init__(self):
        self.states, self.batches, self.begun = [], [], []

    def epoch_begins(self, epoch):
        self.begun.append(epoch)

    def batch(self, positions, logits, labels, rate):
        self.batches.append((positions, logits, labels, rate))

    def epoch_ends(self, epoch, model, state):
        assert epoch == len(self.states) + self.begun[0]
        self.states.append(state)


@pytest.mark.parametrize("name", RECIPES)
def test_the_loop_takes_the_steps_of_plain_torch(name):
    recipe = dataclasses.replace(RECIPES[name], crop=0, flip=False)
    model, plain = net(), net()
    model[4].p = plain[4].p = 0.0
    state = train(model, TrainingData(IMAGES, LABELS, IDS, prepare=prepare), recipe)

    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    options = {"weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        options |= {"momentum": recipe.momentum, "dampening": recipe.dampening, "nesterov": recipe.nesterov}
    optimizer = kind(plain.parameters(), lr=recipe.lr, **options)
    averaged = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema or 0.5))
    done, steps = 0, recipe.epochs * len(batches(IDS.keys, recipe, 0))
    for epoch in range(recipe.epochs):
        for positions in batches(IDS.keys, recipe, epoch):
            optimizer.param_groups[0]["lr"] = recipe.rate(done, steps)
            optimizer.zero_grad()
            F.cross_entropy(plain(prepare(IMAGES[positions])), LABELS[positions]).backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(plain.parameters(), recipe.clip)
            optimizer.step()
            averaged.update_parameters(plain)
            done += 1
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    expected = dict(averaged.module.named_parameters()) if recipe.ema else {}
    assert state.averages.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state.averages[name], value.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_ends_in_the_same_bytes(name, tmp_path):
    keeper = Keeper()
    whole = run(RECIPES[name], observer=keeper)
    assert whole.epochs == 4 and whole.steps == 4 * len(batches(IDS.keys, RECIPES[name], 0))
    for state in keeper.states:
        save_file(state.tensors, tmp_path / "state.safetensors", state.metadata)
        with safe_open(tmp_path / "state.safetensors", "pt") as file:
            back = TrainingState.read({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118
        assert_same(state, back)
        # Another initialisation and a spoilt random state: everything must come from the file.
        torch.manual_seed(99)
        assert_same(run(RECIPES[name], net(seed=5), resume=back), whole)


def test_a_constant_schedule_can_be_prolonged():
    recipe = RECIPES["momentum"]
    short = run(dataclasses.replace(recipe, epochs=2))
    assert_same(run(recipe, resume=short), run(recipe))


def test_same_seed_same_bytes_other_seed_others_and_the_caller_untouched():
    torch.manual_seed(1)
    model = net()
    model[1].eval()
    before = torch.get_rng_state()
    first = run(RECIPES["adamw"], model)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training and not model[1].training and all(p.grad is None for p in model.parameters())
    torch.manual_seed(2)
    assert_same(run(RECIPES["adamw"]), first)
    other = run(dataclasses.replace(RECIPES["adamw"], seed=1))
    assert not torch.equal(other.tensors["model.5.weight"], first.tensors["model.5.weight"])


def test_the_position_of_an_example_does_not_matter():
    shuffled = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(3))
    first = run(RECIPES["adamw"])
    moved = train(
        net(),
        TrainingData(IMAGES[shuffled], LABELS[shuffled], IDS.take(shuffled), prepare=prepare, augment=augment),
        RECIPES["adamw"],
    )
    assert all(torch.equal(first.model[name], moved.model[name]) for name in first.model)


def test_an_observer_sees_the_forward_pass_before_the_update_and_changes_nothing():
    class Drawing(Keeper):
        def epoch_begins(self, epoch):
            super().epoch_begins(epoch)
            torch.rand(7)

        def batch(self, positions, logits, labels, rate):
            super().batch(positions, logits, labels, rate)
            torch.manual_seed(0)

        def epoch_ends(self, epoch, model, state):
            super().epoch_ends(epoch, model, state)
            predict(model, IMAGES, prepare=prepare)

    recipe, watcher, model = RECIPES["adamw"], Drawing(), net()
    watched = run(recipe, model, observer=watcher)
    assert_same(watched, run(recipe))
    assert_same(watched, run(recipe, observer=Keeper()))
    assert watcher.begun == [0, 1, 2, 3]
    expected = [positions for epoch in range(4) for positions in batches(IDS.keys, recipe, epoch)]
    for step, (positions, logits, labels, rate) in enumerate(watcher.batches):
        assert torch.equal(positions, expected[step]) and torch.equal(labels, LABELS[positions])
        assert not logits.requires_grad and rate == recipe.rate(step, len(expected))

    plain, start = Keeper(), net()
    start[4].p = 0.0
    run(dataclasses.replace(recipe, crop=0, flip=False), start, augment=None, observer=plain)
    fresh = net().train()
    fresh[4].p = 0.0
    torch.testing.assert_close(plain.batches[0][1], fresh(prepare(IMAGES[plain.batches[0][0]])).detach())


def test_a_state_is_a_copy():
    keeper = Keeper()
    run(RECIPES["momentum"], observer=keeper)
    weights = [state.tensors["model.5.weight"] for state in keeper.states]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(weights))


def test_weights_of_one_change_nothing_and_weight_zero_removes_without_renormalising():
    recipe = Recipe(epochs=1, lr=0.5, batch=EXAMPLES)
    inputs = prepare(IMAGES).flatten(1).double()

    def step(weights):
        model = nn.Linear(36, CLASSES).double()
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        train(model, TrainingData(inputs, LABELS, IDS), recipe, weights=weights)
        return model.weight.detach(), inputs

    plain, _ = step(None)
    ones, _ = step(torch.ones(EXAMPLES, dtype=torch.float64))
    assert torch.equal(plain, ones)
    weights = torch.ones(EXAMPLES, dtype=torch.float64)
    weights[:7] = 0
    weights[7] = 2.5
    weighted, _ = step(weights)
    # At zero weights every probability is 1 / classes, so the gradient can be written down.
    error = torch.full((EXAMPLES, CLASSES), 1 / CLASSES, dtype=torch.float64) - F.one_hot(LABELS, CLASSES)
    torch.testing.assert_close(weighted, -0.5 * (weights[:, None] * error).T @ inputs / EXAMPLES)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 30), st.sampled_from(["keep", "even"]))
def test_every_example_is_seen_once_per_epoch(batch, last_batch):
    keeper = Keeper()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    recipe = Recipe(epochs=2, lr=0.1, batch=batch, last_batch=last_batch)
    train(model, TrainingData(IMAGES, LABELS, IDS, prepare=prepare), recipe, observer=keeper)
    seen = torch.cat([positions for positions, *_ in keeper.batches])
    assert seen.bincount().tolist() == [2] * EXAMPLES


def test_frozen_parameters_stay():
    model = net()
    model[0].requires_grad_(False)
    frozen, learning = model[0].weight.clone(), model[5].weight.clone()
    state = run(RECIPES["momentum"], model)
    assert torch.equal(frozen, model[0].weight) and not torch.equal(learning, model[5].weight)
    assert not any(name.startswith("optimizer.momentum_buffer.0.") for name in state.tensors)
    assert_same(run(RECIPES["momentum"], model, resume=state), state)
    with pytest.raises(UsageError, match="no trainable parameter"):
        run(RECIPES["sgd"], model.requires_grad_(False))


def test_ctrl_c_passes_through_and_leaves_the_caller_as_it_was():
    class Impatient(Observer):
        def batch(self, positions, logits, labels, rate):
            raise KeyboardInterrupt

    before, model = torch.get_rng_state(), net().eval()
    with pytest.raises(KeyboardInterrupt):
        run(RECIPES["sgd"], model, observer=Impatient())
    assert torch.equal(before, torch.get_rng_state()) and not any(module.training for module in model.modules())


def test_a_loss_that_is_not_finite_names_epoch_step_and_ids():
    inputs = prepare(IMAGES).flatten(1)
    inputs[4, 0] = torch.nan
    step = next(step for step, positions in enumerate(batches(IDS.keys, RECIPES["sgd"], 0)) if 4 in positions)
    with pytest.raises(NumericalError, match=f"Epoch 0, step {step}: the loss of 1 examples is not finite; ids 104"):
        train(nn.Linear(36, CLASSES), TrainingData(inputs, LABELS, IDS), RECIPES["sgd"])


def test_parameters_that_blow_up_in_the_last_step_are_an_error():
    recipe = Recipe(epochs=1, lr=3e38, batch=EXAMPLES)
    with pytest.raises(NumericalError, match="After epoch 0"):
        train(nn.Linear(36, CLASSES), TrainingData(1e3 * prepare(IMAGES).flatten(1), LABELS, IDS), recipe)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": LABELS[:-1]}, "22 labels and 23 ids"),
        ({"labels": LABELS.float()}, "Labels are torch.float32"),
        ({"labels": torch.where(torch.arange(EXAMPLES) == 3, 7, LABELS)}, r"outside 0\.\.2; ids 103"),
        ({"labels": torch.where(torch.arange(EXAMPLES) == 3, -1, LABELS)}, r"outside 0\.\.2; ids 103"),
        ({"prepare": None}, "give `prepare`"),
        ({"augment": None}, r"crop=1 and flip=True, but TrainingData has no `augment` to do it; give one, or leave it out\."),
        ({"weights": torch.ones(3)}, "3 weights and 23 ids"),
        ({"weights": -torch.ones(EXAMPLES)}, "23 weights are negative or not finite; ids 100"),
        ({"weights": torch.full((EXAMPLES,), torch.nan)}, "not finite; ids 100"),
        ({"model": nn.Linear(5, 3)}, "Epoch 0, step 0: the model failed on a batch of shape"),
        ({"model": nn.Sequential(nn.Linear(6, 3))}, r"returned shape \(5, 1, 6, 3\)"),
        ({"recipe": dataclasses.replace(RECIPES["adamw"], batch=22)}, "BatchNorm"),
    ],
)
def test_what_does_not_go_together_is_refused(change, match):
    flat = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, CLASSES))
    data = {"inputs": IMAGES, "labels": LABELS, "ids": IDS, "prepare": prepare, "augment": augment}
    call = {"model": flat, "recipe": RECIPES["adamw"], **change}
    with pytest.raises(UsageError, match=match):
        train(data=TrainingData(**{name: call.pop(name, value) for name, value in data.items()}), **call)


def test_resuming_something_else_is_refused():
    recipe = RECIPES["momentum"]
    state = run(dataclasses.replace(recipe, epochs=1))
    with pytest.raises(Mismatch, match="trained by recipe"):
        run(dataclasses.replace(recipe, lr=0.2), resume=state)
    with pytest.raises(Mismatch, match="saw examples"):
        train(net(), TrainingData(IMAGES[1:], LABELS[1:], IDS.take(range(1, EXAMPLES)), prepare=prepare), recipe, resume=state)
    with pytest.raises(Mismatch, match="of another model"):
        run(recipe, nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES)), resume=state)
    with pytest.raises(Mismatch, match="stands at epoch 5"):
        run(recipe, resume=dataclasses.replace(state, epochs=5, steps=25))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_absent_device_is_refused():
    with pytest.raises(UsageError, match="finds no CUDA device"):
        run(dataclasses.replace(RECIPES["sgd"], device="cuda"))
    with pytest.raises(UsageError, match="finds no CUDA device"):
        predict(net(), IMAGES, prepare=prepare, device="cuda")
    with pytest.raises(UsageError, match="neither 'cpu' nor 'cuda'"):
        predict(net(), IMAGES, prepare=prepare, device="tpu")


@pytest.mark.parametrize("name", RECIPES)
def test_as_many_steps_as_the_epochs_take_are_the_epochs(name):
    # 5 steps in an epoch, 4 where what is left is dropped.
    recipe = RECIPES[name]
    per_epoch = len(batches(IDS.keys, recipe, 0))
    state = run(recipe, steps=4 * per_epoch)
    assert_same(dataclasses.replace(state, recipe=recipe.fingerprint), run(recipe))
    # Nothing goes on from there: the schedule was laid out to end.
    with pytest.raises(Mismatch, match="steps"):
        run(recipe, resume=state)


def test_steps_end_within_an_epoch_and_the_schedule_is_laid_out_over_them():
    recipe = Recipe(epochs=4, lr=0.1, batch=5, schedule="cosine")
    state = run(recipe, steps=7)
    assert (state.epochs, state.steps) == (2, 7)
    # By hand: the first five batches of epoch 0, then two of epoch 1, at the rates of a cosine over seven steps.
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for step in range(7):
        epoch, place = divmod(step, 5)
        if place == 0:
            torch.manual_seed(draws.integer(recipe.seed, "torch", epoch))
        at = batches(IDS.keys, recipe, epoch)[place]
        optimizer.param_groups[0]["lr"] = recipe.rate(step, 7)
        loss = F.cross_entropy(model(prepare(augment(IMAGES[at], IDS.keys[at.numpy()], epoch=epoch, step=place))), LABELS[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in model.named_parameters():
        found = next(tensor for key, tensor in state.tensors.items() if key.endswith(name))
        torch.testing.assert_close(found, value.detach(), rtol=1e-5, atol=1e-7)


def test_few_examples_are_passed_over_until_the_steps_are_taken():
    model = net()
    few = IDS.take(range(3))
    state = train(model, TrainingData(IMAGES[:3], LABELS[:3], few, prepare=prepare), Recipe(epochs=1, lr=0.1, batch=5), steps=9)
    assert (state.epochs, state.steps) == (9, 9)


@pytest.mark.parametrize("steps", [13, 15])
def test_a_training_of_so_many_steps_resumes_from_every_epoch(steps):
    keeper, recipe = Keeper(), dataclasses.replace(RECIPES["adam"], schedule="cosine", milestones=(), horizon=None)
    whole = run(recipe, observer=keeper, steps=steps)
    assert len(keeper.states) > 2 and keeper.states[-1].steps == steps
    for state in keeper.states:
        assert_same(run(recipe, net(seed=5), resume=state, steps=steps), whole)
    with pytest.raises(Mismatch, match=f"{steps} steps"):
        run(recipe, resume=keeper.states[0], steps=steps + 1)


@pytest.mark.parametrize("more", [{"steps": 0}, {"steps": 3, "recipe": "horizon"}])
def test_steps_that_do_not_go_with_the_rest_are_refused(more):
    recipe = Recipe(epochs=2, lr=0.1, batch=5, schedule="cosine", horizon=4 if more.pop("recipe", None) else None)
    with pytest.raises(UsageError, match=f"steps={more['steps']} must be a whole number of 1 or more, without a selector"):
        run(recipe, **more)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_repeats_itself_and_resumes(precision):
    recipe = dataclasses.replace(RECIPES["adam"], device="cuda", precision=precision)
    keeper = Keeper()
    whole = run(recipe, augment=None, observer=keeper)
    assert_same(run(recipe, augment=None), whole)
    assert_same(run(recipe, net(seed=5), augment=None, resume=keeper.states[1]), whole)
    assert all(logits.dtype == torch.float32 for _, logits, *_ in keeper.batches)


def test_predictions_do_not_depend_on_batches_and_touch_nothing():
    model = net().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = predict(model, IMAGES, prepare=prepare)
    assert whole.shape == (EXAMPLES, CLASSES) and not whole.requires_grad
    torch.testing.assert_close(predict(model, IMAGES, prepare=prepare, batch=4), whole)
    assert model.training and model[4].training and not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="no examples"):
        predict(model, IMAGES[:0], prepare=prepare)
    with pytest.raises(UsageError, match="give `prepare`"):
        predict(model, IMAGES)
    with pytest.raises(UsageError, match="batch=0"):
        predict(model, IMAGES, prepare=prepare, batch=0)


def test_evaluate_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    accuracy, loss = evaluate(nn.Identity(), logits, torch.tensor([0, 2, 0]), batch=2)
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx(float(F.cross_entropy(logits.double(), torch.tensor([0, 2, 0]))))
    with pytest.raises(UsageError, match="3 inputs and 2 labels"):
        evaluate(nn.Identity(), logits, torch.tensor([0, 1]))
    with pytest.raises(UsageError, match=r"Labels 0\.\.3 do not fit"):
        evaluate(nn.Identity(), logits, torch.tensor([0, 3, 0]))
    with pytest.raises(NumericalError, match="at positions 1"):
        evaluate(nn.Identity(), torch.where(logits == 1, torch.inf, logits), torch.tensor([0, 1, 0]))
