import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from assay.core.errors import Mismatch, RunError, UsageError
from assay.training import Recipe, TrainingState
from assay.training.state import capture, restore
from assay.training.step import optimizer_of, update

ADAM = Recipe(epochs=1, lr=0.1, optimizer="adam")
NAMES = {"epochs": 1, "steps": 2, "recipe": "r", "ids": "i"}


def stepped(model):
    optimizer = optimizer_of(ADAM, model)
    update(optimizer, model(torch.ones(2, 3)).square().sum(), 0.1)
    return optimizer


def test_tied_weights_go_through_one_file():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    state = capture(model, stepped(model), **NAMES)
    back = TrainingState.read(load(save(state.tensors)), state.metadata)
    assert (back.epochs, back.steps, back.recipe, back.ids) == (1, 2, "r", "i")
    expected = model[0].weight.detach().clone()
    torch.nn.init.zeros_(model[0].weight)
    optimizer = optimizer_of(ADAM, model)
    restore(back, model, optimizer)
    assert torch.equal(model[1].weight, expected)
    assert all(torch.equal(value, back.tensors[name]) for name, value in capture(model, optimizer, **NAMES).tensors.items())


def test_the_random_state_comes_back():
    model = nn.Linear(3, 1)
    optimizer = stepped(model)
    with torch.random.fork_rng():
        state = capture(model, optimizer, **NAMES)
        drawn = torch.rand(4)
        restore(state, model, optimizer)
        assert torch.equal(drawn, torch.rand(4))


def test_what_cannot_be_captured_or_restored_is_refused():
    class Talkative(nn.Linear):
        def get_extra_state(self):
            return "text"

        def set_extra_state(self, state):
            pass

    model = Talkative(3, 1)
    with pytest.raises(UsageError, match="_extra_state' is str"):
        capture(model, stepped(model), **NAMES)
    other = nn.Linear(3, 1)
    state = capture(other, stepped(other), **NAMES)
    other.bias.requires_grad_(False)
    with torch.random.fork_rng(), pytest.raises(Mismatch, match="not a trainable parameter"):
        restore(state, other, optimizer_of(ADAM, other))


def test_averages_go_through_it_and_belong_to_a_model():
    model = nn.Linear(3, 1)
    optimizer = stepped(model)
    averages = {name: value.detach() / 2 for name, value in model.named_parameters()}
    state = capture(model, optimizer, averages, **NAMES)
    assert capture(model, optimizer, **NAMES).averages == {}
    with torch.random.fork_rng():
        back = restore(TrainingState.read(load(save(state.tensors)), state.metadata), model, optimizer)
        assert back.keys() == averages.keys() and all(torch.equal(back[name], averages[name]) for name in averages)
        # What goes on with them must not change the state.
        back["bias"].zero_()
        assert torch.equal(state.averages["bias"], averages["bias"])
        state.tensors.pop("average.bias")
        with pytest.raises(Mismatch, match="averages other parameters than this model trains; 'bias'"):
            restore(state, model, optimizer)


@pytest.mark.parametrize("drop", ["epochs", "recipe", "rng.cpu"])
def test_foreign_files_are_refused(drop):
    model = nn.Linear(3, 1)
    state = capture(model, stepped(model), **NAMES)
    tensors, metadata = dict(state.tensors), state.metadata
    tensors.pop(drop, None), metadata.pop(drop, None)
    with pytest.raises(RunError, match="not a training state"):
        TrainingState.read(tensors, metadata)
