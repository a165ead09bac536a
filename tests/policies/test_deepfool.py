import dataclasses

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.policies.deepfool import DeepFool, boundary_distance
from assay.testing.selectors import KeptModel, world

VARIANTS = [{}, {"by_class": True, "epoch": 0}]
REFUSED = ["keep=-0.1", "keep=1.5", "epoch=-1,keep=0.1"]


def test_it_is_the_nearest_boundary_of_a_linear_layer():
    draw = np.random.default_rng(0)
    weight, bias, rows = draw.normal(size=(4, 6)), draw.normal(size=4), draw.normal(size=(25, 6))
    logits = rows @ weight.T + bias
    values = boundary_distance(torch.from_numpy(logits), torch.from_numpy(weight))
    for row, z, value in zip(rows, logits, values.tolist(), strict=True):
        # As DeepFool steps: to the nearest of the boundaries, along its normal. It ends there in one step.
        c = z.argmax()
        steps = [
            (abs(z[k] - z[c]) / ((weight[k] - weight[c]) @ (weight[k] - weight[c])) * (weight[k] - weight[c]))
            for k in range(4)
            if k != c
        ]
        step = min(steps, key=np.linalg.norm)
        assert value == pytest.approx(np.linalg.norm(step))
        assert ((row + 0.999 * step) @ weight.T + bias).argmax() == c != ((row + 1.001 * step) @ weight.T + bias).argmax()


def test_classes_of_equal_weights_have_no_boundary():
    weight = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert boundary_distance(torch.tensor([[2.0, 1, 0]]), weight).tolist() == pytest.approx([2 / 2**0.5])
    assert boundary_distance(torch.tensor([[2.0, 1]]), weight[:2]).tolist() == [float("inf")]


def test_the_nearest_to_a_boundary_stay():
    # The layer gives back what goes into it, so that the distance is the gap of the two largest by the root of 2.
    here = world()
    decision = here.decide(DeepFool(0.2))
    two = here.inputs.flatten(1).topk(2).values
    gap = (two[:, 0] - two[:, 1]).double() / 2**0.5
    assert float(gap[decision.kept].max()) <= float(gap[~decision.kept].min())
    assert decision.reasons[0] == f"{float(gap[0]):.4g} from the nearest boundary between classes"


@pytest.mark.parametrize("weight", [torch.eye(4) * 2, torch.ones(3, 4), torch.zeros(0, 4)])
def test_logits_that_no_linear_layer_makes_are_refused(weight, monkeypatch):
    monkeypatch.setattr(KeptModel, "params", property(lambda _: {"head.weight": weight}))
    with pytest.raises(UsageError, match=r"deepfool:keep=0.2: no trained linear layer makes .*bottom_k keeps"):
        world().decide(DeepFool(0.2))
    monkeypatch.setattr(KeptModel, "head", ())
    with pytest.raises(UsageError, match="no trained linear layer"):
        world().decide(DeepFool(0.2))


def test_one_logit_stands_for_two_classes(monkeypatch):
    here = world()
    rows = torch.stack([torch.zeros(60), torch.linspace(-3, 2, 60)], 1)
    monkeypatch.setattr(KeptModel, "params", property(lambda _: {"head.weight": torch.tensor([[0.0, 1.0]])}))
    decision = dataclasses.replace(here, inputs=rows).decide(DeepFool(6))
    near = rows[:, 1].abs().argsort()[:6]
    assert set(decision.kept_ids) == set(here.ids.take(near))
