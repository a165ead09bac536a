import json
import math
import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.core.errors import UnknownName, UsageError
from assay.training import Recipe

FULL = [
    Recipe(epochs=3, lr=1),
    Recipe(epochs=9, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="step", milestones=(3, 6), gamma=0.2),
    Recipe(epochs=30, lr=0.1, schedule="cosine", horizon=200, final=1e-4, last_batch="even", crop=4, flip=True, seed=7),
    Recipe(epochs=2, lr=1e-3, optimizer="adamw", betas=(0.8, 0.99), eps=1e-6, schedule="one_cycle", warmup=0.25),
    Recipe(epochs=2, lr=0.1, optimizer="sgd", momentum=0.9, dampening=0.1, schedule="inverse_sqrt", last_batch="drop"),
    Recipe(epochs=30, lr=0.1, resized_crop=0.08, flip=True),
    Recipe(epochs=2, lr=0.1, clip=1, ema=0.99),
]


@pytest.mark.parametrize("recipe", FULL)
def test_a_recipe_survives_json_and_toml(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    texts = (f"{name} = {json.dumps(value)}" for name, value in recipe.to_dict().items())
    assert Recipe.from_dict(tomllib.loads("\n".join(texts))) == recipe


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": 0}, "epochs=0 is not a whole number of 1 or more"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"epochs": True}, "epochs=True"),
        ({"lr": 0}, "lr=0 is not a number above 0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"lr": "0.1"}, "lr='0.1'"),
        ({"batch": 0}, "batch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"flip": 1}, "flip=1 is not true or false"),
        ({"optimizer": "rmsprop"}, "not one of sgd, adam, adamw"),
        ({"schedule": "exponential"}, "not one of constant, step, cosine, one_cycle, inverse_sqrt"),
        ({"last_batch": "pad"}, "not one of keep, drop, even"),
        ({"momentum": 1.0}, "momentum=1.0 is not a number in 0..1"),
        ({"nesterov": True}, "need a momentum"),
        ({"dampening": 0.1}, "need a momentum"),
        ({"momentum": 0.9, "dampening": 0.1, "nesterov": True}, "does not go with dampening"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum=0.9 has no meaning with optimizer 'adam'"),
        ({"betas": (0.5, 0.9)}, "has no meaning with optimizer 'sgd'"),
        ({"optimizer": "adam", "betas": (0.5,)}, "not two numbers"),
        ({"optimizer": "adam", "betas": (0.5, 1.0)}, "betas=1.0"),
        ({"milestones": (1,)}, "has no meaning with schedule 'constant'"),
        ({"schedule": "step"}, "needs milestones"),
        ({"schedule": "step", "milestones": (3, 2)}, "must rise"),
        ({"schedule": "step", "milestones": (2, 5)}, "within 1..4"),
        ({"schedule": "step", "milestones": (1.5,)}, "not whole numbers"),
        ({"schedule": "cosine", "final": 0.2}, "above lr"),
        ({"schedule": "cosine", "horizon": 3}, "shorter than epochs"),
        ({"schedule": "cosine", "warmup": 0.1}, "only with one_cycle"),
        ({"schedule": "one_cycle", "warmup": 1.0}, "between 0 and 1"),
        ({"precision": "bfloat16"}, "needs device 'cuda'"),
        ({"clip": 0}, "clip=0 is not a number above 0"),
        ({"clip": math.inf}, "clip=inf is not a number"),
        ({"clip": True}, "clip=True"),
        ({"ema": 0}, "ema=0 is not a number between 0 and 1, both excluded"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"ema": "0.99"}, "ema='0.99'"),
        ({"resized_crop": 1.0}, "resized_crop=1.0 is not a number in 0..1, 1 excluded"),
        ({"resized_crop": 0.5, "crop": 2}, "crop=2 and resized_crop=0.5 are two ways"),
        ({"lr": None}, "lr=None is not a number above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    with pytest.raises(UsageError, match=match):
        Recipe(**{"epochs": 5, "lr": 0.1, **change})


def test_unknown_and_missing_settings_are_named():
    with pytest.raises(UnknownName, match="Did you mean momentum"):
        Recipe.from_dict({"epochs": 1, "lr": 0.1, "momentun": 0.9})
    with pytest.raises(UsageError, match="epochs and lr"):
        Recipe.from_dict({})


def torch_rates(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("per_epoch", [1, 7, 20])
def test_rates_are_those_of_torch(per_epoch):
    schedulers, epochs = torch.optim.lr_scheduler, 8
    steps = epochs * per_epoch
    cases = {
        Recipe(epochs=epochs, lr=0.1, schedule="cosine", final=0.01): lambda o: schedulers.CosineAnnealingLR(o, steps, 0.01),
        Recipe(epochs=epochs, lr=0.1, schedule="step", milestones=(2, 5)): lambda o: schedulers.MultiStepLR(
            o, [2 * per_epoch, 5 * per_epoch], 0.1
        ),
        Recipe(epochs=epochs, lr=0.1, schedule="one_cycle", warmup=0.4, divisor=10, final_divisor=50): lambda o: (
            schedulers.OneCycleLR(o, 0.1, steps + 1, pct_start=0.4, div_factor=10, final_div_factor=50, cycle_momentum=False)
        ),
        Recipe(epochs=epochs, lr=0.1, schedule="inverse_sqrt"): lambda o: schedulers.LambdaLR(o, lambda t: (t + 1) ** -0.5),
    }
    for recipe, make in cases.items():
        # torch's one-cycle refuses the call after its last step, so it is laid out one step longer.
        length = steps + (recipe.schedule == "one_cycle")
        ours = [recipe.rate(step, length) for step in range(steps)]
        assert ours == pytest.approx(torch_rates(make, steps), rel=1e-9), recipe.schedule


@given(st.sampled_from(FULL), st.integers(1, 300))
def test_rates_stay_between_zero_and_lr(recipe, steps):
    assert all(0 < recipe.rate(step, steps) <= recipe.lr * (1 + 1e-12) for step in range(steps))


def test_one_cycle_peaks_at_lr_and_a_step_outside_is_refused():
    recipe = Recipe(epochs=10, lr=0.1, schedule="one_cycle", warmup=0.3)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert max(rates) == rates[29] == 0.1 and rates[0] == pytest.approx(0.004) and rates[-1] == pytest.approx(4e-7)
    assert [recipe.rate(0, 1)] == [0.1]
    with pytest.raises(UsageError, match=r"outside 0\.\.99"):
        recipe.rate(100, 100)


def test_the_fingerprint_ignores_epochs_only_where_the_rate_does():
    assert Recipe(epochs=3, lr=0.1).fingerprint == Recipe(epochs=9, lr=0.1).fingerprint
    assert Recipe(epochs=3, lr=0.1).fingerprint != Recipe(epochs=3, lr=0.2).fingerprint
    cosine = Recipe(epochs=3, lr=0.1, schedule="cosine")
    assert cosine.fingerprint != Recipe(epochs=9, lr=0.1, schedule="cosine").fingerprint
    assert cosine.fingerprint == Recipe(epochs=2, lr=0.1, schedule="cosine", horizon=3).fingerprint


def test_a_setting_that_is_not_there_leaves_the_fingerprint_as_it_was():
    # Recorded states name the recipe by it.
    assert Recipe(epochs=3, lr=0.1).fingerprint == "ef8b623d0a7db419"
    assert FULL[3].fingerprint == "5ee1c289bba7acbe"
    assert len({Recipe(epochs=3, lr=0.1, **more).fingerprint for more in ({}, {"clip": 1.0}, {"ema": 0.9}, {"ema": 0.99})}) == 4


def test_what_is_told_is_what_matters():
    assert "ema" not in Recipe(epochs=3, lr=0.1).summary() and FULL[-1].summary()["clip"] == 1.0
    told = Recipe(epochs=3, lr=0.1, momentum=0.9, schedule="cosine").summary()
    assert told["momentum"] == 0.9 and told["final"] == 0.0 and told["batch"] == 128
    assert not {"betas", "eps", "milestones", "gamma", "warmup", "divisor"} & set(told)
    assert "momentum" not in Recipe(epochs=3, lr=0.1, optimizer="adam").summary()
