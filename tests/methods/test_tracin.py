import itertools

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.scoring import score
from assay.methods import parse
from assay.testing.worlds import world
from methods.loops import EXAMPLES, World, inner

VARIANTS = [{}, {"target": "self"}, {"layers": "head"}, {"every": "step"}, {"reduce": "sum"}, {"layers": "head", "reduce": "max"}]
REFUSED = [
    "layers=first",
    "every=epoch",
    "layers=head,every=step",
    "reduce=min",
    "reduce=max,target=self",
    "reduce=sum,every=step",
]


def PAIRS(method, evidence):
    """One gradient after the other, of the losses one by one."""
    queries = evidence.queries(method.target)
    values = torch.zeros(len(queries.ids), len(evidence.ids), dtype=torch.float64)
    for epoch in evidence.checkpoints.kept:
        if epoch < 0:
            continue
        model = evidence.checkpoints.at(epoch)
        names = model.head if method.layers == "head" else tuple(model.params)
        pulls, pushes = one_by_one(model.queries(method.target), names), one_by_one(model.batches(), names)
        for query, example in itertools.product(pulls, pushes):
            values[query, example] += sum(model.rates[n] * (pulls[query][n] * pushes[example][n]).sum() for n in names)
    return values


def one_by_one(batches, names):
    """Gradient of each row's loss, by position and name."""
    found = {}
    for batch in batches:
        leaves = {name: batch.params[name].detach().clone().requires_grad_() for name in names}
        for place, loss in zip(batch.positions.tolist(), batch.losses(leaves), strict=True):
            found[place] = dict(zip(names, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))
    return found


@pytest.mark.parametrize("spec", ["tracin", "tracin:target=self", "trak:checkpoints=all,project=32", "vog"])
def test_the_order_of_checkpoints_changes_nothing(spec):
    here, method = world(), parse(spec)

    class Turned:
        """The same models, from last to first."""

        kept = tuple(reversed(here.replay.kept))

        def __getattr__(self, name):
            return getattr(here.replay, name)

    (there,), (back,) = score([method], here.evidence()), score([method], here.evidence(checkpoints=Turned()))
    assert len(Turned.kept) > 2
    torch.testing.assert_close(back.values, there.values, rtol=1e-9, atol=1e-12)


# An average of the parameters changes where the run ends, not the parameters that TracIn looks at.
@pytest.mark.parametrize("ema", [None, 0.7])
def test_equals_products_by_hand(tmp_path, ema):
    world = World(tmp_path / "run", "sgd", ema=ema)
    names = ["tracin", "tracin:layers=head", "tracin:target=self", "tracin:every=step", "tracin:target=self,every=step"]
    table = world.score(*names)
    steps = world.by_hand()
    rates = [steps[last][2] for last in (2, 5, 8)]
    expected = {name: torch.zeros(EXAMPLES, dtype=torch.float64) for name in names}
    for epoch in range(3):
        params = world.run.model(epoch)
        pull = world.gradient(params, world.held_out, world.held_labels)
        for position in range(EXAMPLES):
            g = world.example_gradient(params, position)
            scaled = {n: rates[epoch][n] * g[n] for n in g}
            expected["tracin"][position] += inner(scaled, pull)
            expected["tracin:layers=head"][position] += inner({n: v for n, v in scaled.items() if n.startswith("out")}, pull)
            expected["tracin:target=self"][position] += inner(scaled, g)
    for _, positions, rate, before, _ in steps:
        pull = world.gradient(before, world.held_out, world.held_labels)
        for position in positions.tolist():
            g = world.example_gradient(before, position)
            scaled = {n: rate[n] * g[n] / len(positions) for n in g}
            expected["tracin:every=step"][position] += inner(scaled, pull)
            expected["tracin:target=self,every=step"][position] += inner(scaled, g)
    for name in names:
        torch.testing.assert_close(table[name].values, expected[name], rtol=1e-9, atol=1e-12)
    assert table["tracin"].direction is Direction.LOW_IS_SUSPECT
    assert table["tracin:target=self"].direction is Direction.HIGH_IS_SUSPECT
    assert table["tracin"].unit == "rank only" and table["tracin:every=step"].by_epoch.shape == (3, EXAMPLES)


def test_a_target_that_is_not_there_is_refused(tmp_path):
    world = World(tmp_path / "run", "sgd")
    with pytest.raises(UsageError, match="tracin:target=test asks for target 'test'; there are: validation"):
        world.score("tracin:target=test")
