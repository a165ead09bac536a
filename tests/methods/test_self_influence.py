import functools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import NumericalError, UsageError
from assay.core.models import chosen_params
from assay.core.scores import Direction
from assay.methods import parse
from assay.testing.worlds import world
from methods.loops import World
from methods.test_influence import FORMS, damped, pieces

VARIANTS = [
    {},
    {"solver": "cholesky", "layers": "head"},
    {"damping": "auto"},
    {"form": "newton_step", "damping": 3.0},
    {"factors": "empirical", "form": "newton_step", "damping": 1.0},
]
REFUSED = [
    "at=-2",
    "damping=-1",
    "damping=some",
    "decay=0.1",
    "solver=cg",
    "factors=sampled,solver=cholesky",
    "seed=1",
    "seed=1,solver=cholesky",
    "form=second",
]


@functools.cache
def known(layers):
    here = world()
    evidence = here.evidence()
    model = evidence.checkpoints.at(evidence.checkpoints.kept[-1])
    names = chosen_params(model, layers, "test")
    return model, names, pieces(model, names)


@pytest.mark.parametrize("form", ["first_order", "newton_step"])
@pytest.mark.parametrize(
    "options",
    [
        "solver=cholesky",
        "",
        "layers=head,damping=0.1",
        "solver=cholesky,damping=auto",
        "damping=auto",
        "factors=empirical,damping=1",
        "factors=sampled,seed=3,damping=1",
    ],
)
def test_equals_the_formula_example_by_example(form, options):
    here = world()
    method = parse(f"self_influence:form={form}{',' if options else ''}{options}")
    evidence = here.evidence().narrow(method.title, method.reads)
    (model, names, examples), n = known(method.layers), len(evidence.ids)
    matrix = damped(method, model, evidence.ids, names, examples, torch.stack([one[1] for one in examples]))
    expected = torch.stack([FORMS[form](matrix, one[2], one[1], one[1], n) for one in examples])
    found = method.run(evidence)
    torch.testing.assert_close(found.values, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    assert bool((found.values >= 0).all()) and found.diagnostics["smallest curvature"] > 0
    assert ("largest leverage" in found.diagnostics) == (form != "first_order")


def test_without_an_example_whose_leverage_is_whole_nothing_is_told(tmp_path):
    held = World(tmp_path / "run")
    with pytest.raises(
        NumericalError,
        match=r"without one of .* examples \(ids .*leverage is up to .*; choose a damping above 0\.\d+, or form=first_order",
    ):
        held.score("self_influence:damping=1e-9,form=newton_step,factors=empirical")
    held.score("self_influence:damping=1e-9,factors=empirical")
    held.score("self_influence:damping=1,form=newton_step,factors=empirical")


def test_a_net_without_rules_is_refused_with_a_cure_that_works(tmp_path):
    held = World(tmp_path / "run")
    (scores,) = held.score("self_influence").values()
    assert scores.direction is Direction.HIGH_IS_SUSPECT and scores.unit == "rise of the example's own loss"
    with pytest.raises(
        NumericalError, match=r"EK-FAC's matrix has no inverse .*with damping 0 its smallest eigenvalue .*; give a damping above"
    ):
        held.score("self_influence:damping=0")
    with pytest.raises(
        UsageError, match=r"layers=hiden: hiden is no module with trainable parameters; those are hidden, out; join several by \+"
    ):
        held.score("self_influence:layers=hiden")
    (both,) = held.score("self_influence:layers=hidden+out").values()
    torch.testing.assert_close(both.values, scores.values)


def test_a_residual_is_told_and_one_without_digits_is_refused(tmp_path):
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(14, 3, generator=draw), torch.randint(3, (14,), generator=draw)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(x, y), 5)
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        for a, b in recorder.epoch():
            optimizer.zero_grad()
            F.cross_entropy(model(a), b).backward()
            optimizer.step()
            recorder.batch(model(a), b)

    def score(options):
        (found,) = assay.score(tmp_path / "run", f"self_influence:{options}", loop=assay.Loop(model, optimizer, loader)).values()
        return found

    exact, near = score("solver=cholesky").diagnostics, score("solver=ekfac").diagnostics
    assert 0 < exact["residual"] < 1e-4 < near["residual"] < 2
    with pytest.raises(NumericalError, match=r"leaves a residual of .*products in torch\.float32 have no more digits") as refused:
        score("solver=cholesky,damping=1e-16")
    (named,) = re.findall("a damping above ([0-9.e+-]+[0-9])", str(refused.value))
    assert score(f"solver=cholesky,damping={float(named) * 1.01:g}").diagnostics["residual"] < 1e-3
