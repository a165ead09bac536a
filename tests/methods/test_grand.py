from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import assay
import plain_loop
from assay.core.errors import MissingEvidence
from methods.loops import EXAMPLES, World, inner

VARIANTS = [{}, {"at": 1, "layers": "head"}]
REFUSED = ["at=-2", "layers=last"]


def test_equals_one_backward_pass_per_example(tmp_path):
    world = World(tmp_path / "run", "momentum")
    table = world.score("grand", "grand:at=0", "grand:layers=head")
    for title, epoch, names in (
        ("grand", 2, None),
        ("grand:at=0", 0, None),
        ("grand:layers=head", 2, ("out.weight", "out.bias")),
    ):
        params = {name: value for name, value in world.run.model(epoch).items()}
        for position in range(EXAMPLES):
            g = world.example_gradient(params, position)
            g = {name: g[name] for name in names or g}
            assert float(table[title].values[position]) == pytest.approx(inner(g, g) ** 0.5, rel=1e-10)


def test_the_head_has_a_closed_form(tmp_path):
    world = World(tmp_path / "run")
    params = world.run.model(2)
    hidden = torch.tanh(world.inputs @ params["hidden.weight"].T + params["hidden.bias"])
    errors = (hidden @ params["out.weight"].T + params["out.bias"]).softmax(-1) - torch.nn.functional.one_hot(world.labels, 3)
    expected = errors.norm(dim=1) * (1 + hidden.square().sum(1)).sqrt()
    torch.testing.assert_close(world.score("grand:layers=head")["grand:layers=head"].values, expected, rtol=1e-10, atol=1e-12)


def test_the_head_equals_the_golden_values(tmp_path):
    with np.load(Path(__file__).parent.parent / "golden" / "dynamics_features.npz") as archive:
        features, logits, labels, expected = (
            torch.from_numpy(archive[name]) for name in ("features", "grand_logits", "labels", "grand_last_layer")
        )
    # What the last layer reads matters by its length alone: vectors as long as the features, from which a fixed layer makes these logits.
    scaled = logits.double() / 1000
    left = (features.double().square().sum(1) - scaled.square().sum(1)).sqrt()
    rows, head = torch.cat([scaled, left[:, None]], 1), torch.nn.Linear(11, 10, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(1000 * torch.eye(10, 11)), head.bias.zero_()
    model = torch.nn.Sequential(torch.nn.Identity(), head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loader = DataLoader(TensorDataset(rows, labels.long()), 100, shuffle=True, generator=torch.Generator().manual_seed(0))
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        plain_loop.epoch(recorder, model, optimizer)
    made = assay.score(tmp_path / "run", "grand:layers=head", loop=assay.Loop(model, optimizer, loader))["grand:layers=head"]
    torch.testing.assert_close(made.values, expected, rtol=1e-9, atol=1e-10)


def test_an_epoch_that_was_not_kept_is_refused(tmp_path):
    world = World(tmp_path / "run", checkpoints="last", epochs=4)
    with pytest.raises(MissingEvidence, match="kept no model of epoch 1"):
        world.score("grand:at=1")
