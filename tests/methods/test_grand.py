import pytest
import torch

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


def test_an_epoch_that_was_not_kept_is_refused(tmp_path):
    world = World(tmp_path / "run", checkpoints="last", epochs=4)
    with pytest.raises(MissingEvidence, match="kept no model of epoch 1"):
        world.score("grand:at=1")
