import pytest
import torch

from assay.core.errors import Mismatch, UnknownName, UsageError
from methods.loops import EXAMPLES, World, inner

VARIANTS = [{}, {"reference": "best", "form": "raw", "norm": "by_tensor", "reduce": "sum"}, {"rate": "one", "window": "0-1"}]
REFUSED = ["reference=", "norm=l1", "window=last-1", "rate=two", "reduce=max"]


def minus(one, two):
    return {name: one[name] - two[name] for name in one}


def by_hand(world, reference_of=None, raw=False, by_tensor=False, rate=None):
    """Per visit, then the mean over visits."""
    steps = world.by_hand()
    reference = steps[-1][-1] if reference_of is None else reference_of(steps)
    total, visits = torch.zeros(EXAMPLES, dtype=torch.float64), torch.zeros(EXAMPLES, dtype=torch.float64)
    for _, positions, rates, before, _ in steps:
        for position in positions.tolist():
            apart = minus(reference, before)
            g = world.example_gradient(before, position)
            left = {n: apart[n] + (rates[n] if rate is None else rate) * g[n] for n in g}
            if by_tensor:
                d, u = (sum(float(part[n].norm()) for n in part) for part in (apart, left))
            else:
                d, u = inner(apart, apart) ** 0.5, inner(left, left) ** 0.5
            total[position] += 0 if d == 0 else d - u if raw else (d - u) / (d + u)
            visits[position] += 1
    return total / visits


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_equals_distances_by_hand(tmp_path, optimizer):
    world = World(tmp_path / "run", optimizer)
    variants = {
        "oti": {},
        "oti:form=raw": {"raw": True},
        "oti:norm=by_tensor": {"by_tensor": True},
        "oti:rate=one": {"rate": 1.0},
        "oti:reference=0": {"reference_of": lambda steps: steps[2][-1]},
        "oti:reference=2": {},
    }
    for title, one in world.score(*variants).items():
        torch.testing.assert_close(one.values, by_hand(world, **variants[title]), rtol=1e-9, atol=1e-12)
        assert one.unit == "rank only"


def test_best_is_after_the_epoch_with_the_lowest_mean_loss(tmp_path):
    world = World(tmp_path / "run", "sgd", rate=8, seed=3)
    steps = world.by_hand()
    losses = torch.zeros(3)
    for epoch, positions, _, before, _ in steps:
        one = [
            torch.nn.functional.cross_entropy(world_outputs(world, before, p), world.labels[p : p + 1])
            for p in positions.tolist()
        ]
        losses[epoch] += float(torch.stack(one).mean()) / 3
    best = int(losses.argmin())
    found = world.score("oti:reference=best", f"oti:reference={best}")
    assert torch.equal(found["oti:reference=best"].values, found[f"oti:reference={best}"].values)


def world_outputs(world, params, position):
    hidden = torch.tanh(world.inputs[position : position + 1] @ params["hidden.weight"].T + params["hidden.bias"])
    return hidden @ params["out.weight"].T + params["out.bias"]


def test_the_window_and_the_sum(tmp_path):
    world = World(tmp_path / "run")
    table = world.score("oti:reduce=sum", "oti:reduce=sum,window=0-1", "oti:reduce=sum,window=last")
    whole, first, last = table.values()
    torch.testing.assert_close(first.values + last.values, whole.values, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(whole.by_epoch[2], last.values, rtol=1e-12, atol=1e-15)


def test_an_epoch_outside_the_run_is_refused(tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(UsageError, match="reference=3 is outside the 3 recorded epochs"):
        world.score("oti:reference=3")


def test_a_reference_from_elsewhere(tmp_path):
    world = World(tmp_path / "run", "sgd")
    elsewhere = {name: value + 0.1 for name, value in world.by_hand()[-1][-1].items()}
    references = {"mine": elsewhere}
    (one,) = world.score("oti:reference=mine", references=references).values()
    torch.testing.assert_close(one.values, by_hand(world, lambda steps: elsewhere), rtol=1e-9, atol=1e-12)
    assert one.lineage.parents["reference"]
    with pytest.raises(UnknownName, match=r"reference .*'mini'.*Did you mean mine"):
        world.score("oti", "oti:reference=mine", "oti:reference=mini", references=references)
    with pytest.raises(Mismatch, match=r"Reference 'mine' is of another model: hidden.weight .* is not in it"):
        world.score("oti:reference=mine", references={"mine": {"weight": torch.ones(3)}})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_layers_without_a_rule_give_the_same(tmp_path, monkeypatch, optimizer):
    """Their gradients are made example by example; of others slopes and norms are taken without."""
    world = World(tmp_path / "run", optimizer, norm=True, batch=7)
    names = ["oti", "oti:form=raw,norm=by_tensor", "liveval", "liveval:delta_0=1,delta_max=1"]
    by_layer = world.score(*names)
    assert by_layer["oti"].diagnostics["derivatives taken by"] == "norms by layer"
    monkeypatch.setattr("assay.maths.layer_rules.RULES", {})
    for title, one in world.score(*names).items():
        torch.testing.assert_close(one.values, by_layer[title].values, rtol=1e-7, atol=1e-9)
        assert one.diagnostics["derivatives taken by"] == "gradients in chunks of examples"
