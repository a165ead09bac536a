import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assay.core.errors import MissingEvidence, UsageError
from assay.core.evidence import Evidence, ReplayedFacts
from assay.core.ids import Ids
from assay.core.selection import choose
from assay.maths.example_vectors import OuterVectors
from assay.policies.glister import Glister, Validation, glister
from assay.testing.linear import LinearSource
from policies.worlds import scores

VARIANTS = [{}]
REFUSED = ["keep=-0.1", "rate=0,keep=0.1", "rate=nan,keep=0.1", "every=0,keep=0.1"]


def world(n=24, dims=3, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randn(n, dims, generator=draw, dtype=torch.float64), torch.arange(n) % classes
    return inputs, labels, LinearSource(inputs, labels, classes)


def evidence(inputs, labels, source):
    return Evidence(Ids(range(len(labels))), 3, labels=labels, replayed=ReplayedFacts(checkpoints=source))


def obvious(source, inputs, labels, rate, count, allowed):
    """By autograd of the whole net, from the start at every step."""
    model = source.at(0)
    params = {name: value.clone() for name, value in model.params.items()}

    def gradient(x, y, at):
        leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
        loss = F.cross_entropy(F.linear(x, leaves["weight"], leaves["bias"]), y)
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, [leaves["weight"], leaves["bias"]])])

    each = torch.stack([gradient(inputs[[i]], labels[[i]], params) for i in range(len(labels))])
    order = []
    for step in range(count):
        moved = -rate * (each[order].mean(0) if order else torch.zeros(each.shape[1], dtype=torch.float64))
        at = {"weight": params["weight"] + moved[:-3].view_as(params["weight"]), "bias": params["bias"] + moved[-3:]}
        gains = each @ gradient(*model.held_out, at)
        order.append(max((i for i in allowed[step] if i not in order), key=lambda i: float(gains[i])))
    return order


@pytest.mark.parametrize("rate", [0.5, 30.0])
@pytest.mark.parametrize("by_class", [True, False])
def test_the_validation_gradient_is_computed_anew_after_every_example(rate, by_class):
    inputs, labels, source = world()
    decision = choose(Glister(9, rate=rate, by_class=by_class), None, evidence(inputs, labels, source))
    turns = [[i for i in range(24) if not by_class or int(labels[i]) == step % 3] for step in range(9)]
    assert list(decision.order) == obvious(source, inputs, labels, rate, 9, turns)
    never = choose(Glister(9, rate=rate, by_class=by_class, every=9), None, evidence(inputs, labels, source))
    # The misspelt keyword of DeepCore's code has the effect of `every`: without a new gradient the choice is another one.
    assert list(never.order) == obvious(source, inputs, labels, 0.0, 9, turns) and never.order != decision.order


def losses_of(order, rate, inputs, labels, source):
    model = source.at(0)
    leaves = {name: value.clone().requires_grad_() for name, value in model.params.items()}
    F.cross_entropy(F.linear(inputs[order], leaves["weight"], leaves["bias"]), labels[order]).backward()
    weight, bias = ((leaves[name] - rate * leaves[name].grad).detach() for name in ("weight", "bias"))
    return float(F.cross_entropy(F.linear(model.held_out[0], weight, bias), model.held_out[1]))


def test_a_step_on_those_kept_lowers_the_validation_loss_more_than_one_on_others():
    inputs, labels, source = world(120)
    decision = choose(Glister(12), None, evidence(inputs, labels, source))
    by_chance = [
        losses_of(np.random.default_rng(seed).choice(120, 12, replace=False), 0.5, inputs, labels, source) for seed in range(30)
    ]
    assert losses_of(list(decision.order), 0.5, inputs, labels, source) < min(by_chance)
    # The rate is that of the kept model where none is given, and the losses that are told are those after such a step.
    assert decision.order == choose(Glister(12, rate=0.5), None, evidence(inputs, labels, source)).order
    told = float(decision.reasons[decision.order[5]].split("validation loss ")[1].split()[0])
    assert told == pytest.approx(losses_of(list(decision.order[:5]), 0.5, inputs, labels, source), rel=1e-3)
    assert decision.order[:4] == choose(Glister(4), None, evidence(inputs, labels, source)).order


def test_planted_wrong_labels_are_taken_last():
    draw = torch.Generator().manual_seed(3)
    true = torch.arange(90) % 3
    inputs = 3 * F.one_hot(true, 3).double() + torch.randn(90, 3, generator=draw, dtype=torch.float64)
    labels = true.clone()
    labels[:30] = (true[:30] + 1) % 3
    held = 3 * F.one_hot(torch.arange(12) % 3, 3).double(), torch.arange(12) % 3
    source = LinearSource(inputs, labels, 3)
    source._model = dataclasses.replace(source._model, held_out=held)
    decision = choose(Glister(0.5), None, evidence(inputs, labels, source))
    assert int(decision.kept[:30].sum()) <= 5


def test_a_head_without_bias_and_weights_of_the_rows():
    inputs, labels, _ = world()
    errors = torch.randn(24, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    seen = Validation(inputs[:2], errors[:2], labels[:2], weights)
    leaf = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(errors[:2] + inputs[:2] @ leaf.T, labels[:2], reduction="none") @ weights
    assert torch.allclose(seen.gradient(leaf.detach()), torch.autograd.grad(loss, leaf)[0]) and seen.loss(
        leaf.detach()
    ) == pytest.approx(loss.item())
    order, losses = glister(OuterVectors(inputs, errors), seen, 0.1, [torch.arange(24)] * 4, every=2)
    assert len(order.unique()) == 4 and len(losses) == 2


def test_what_is_needed_is_said():
    inputs, labels, source = world()
    with pytest.raises(MissingEvidence, match="glister:keep=3 needs checkpoints"):
        choose(Glister(3), None, Evidence(Ids(range(24)), 3, labels=labels))
    with pytest.raises(UsageError, match="reads no score"):
        choose(Glister(3), scores(labels.double()), evidence(inputs, labels, source))

    class Still(type(source.at(0))):
        rates = {"weight": 0.0, "bias": 0.0}

    class Headless(type(source.at(0))):
        head = ()

    for kind, words in (
        (Still, r"learning rate of the head was 0\.0 .* such as rate=0\.1"),
        (Headless, "one trainable linear layer"),
    ):
        source._model = kind(**vars(source._model))
        with pytest.raises(UsageError, match=words):
            choose(Glister(3), None, evidence(inputs, labels, source))


def test_validation_losses_that_are_no_cross_entropies_are_refused():
    inputs, labels, source = world()
    queries = source.queries
    source.queries = lambda name: dataclasses.replace(queries(name), labels=queries(name).labels.flip(0))
    with pytest.raises(UsageError, match="are no cross-entropies of the logits"):
        choose(Glister(3), None, evidence(inputs, labels, source))


def test_a_step_that_overflows_is_refused():
    with pytest.raises(UsageError, match=r"step of rate=1e.308 the validation gradient is not finite; give a smaller rate"):
        choose(Glister(9, rate=1e308), None, evidence(*world()))
