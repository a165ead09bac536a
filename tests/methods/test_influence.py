import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core import curvature
from assay.core.curvature import Curvature
from assay.core.errors import AssayError, NumericalError, UsageError
from assay.core.models import chosen_params
from assay.experiments.evidence import gather, open_replay
from assay.maths.damping import balanced_damping
from assay.maths.ranking import rank_correlation
from assay.methods import parse
from groups import slow
from maths.test_kronecker import whole
from methods.loops import World, inner
from methods.test_tracin import one_by_one
from reference.curvature import gauss_newton, hessian
from reference.derivatives import flat

VARIANTS = [
    {},
    {"preconditioner": "kronecker"},
    {"layers": "head", "solver": "cholesky", "at": 1},
    {"curvature": "hessian", "damping": 10.0},
    {"solver": "lissa", "damping": 1.0, "layers": "head"},
    {"solver": "lanczos", "rank": 1000},
    {"solver": "ekfac", "damping": "auto"},
    {"solver": "ekfac", "damping": 1.0, "form": "newton_step"},
    {"solver": "cholesky", "damping": 3.0, "form": "newton_step", "reduce": "sum"},
]
REFUSED = [
    "at=-2",
    "curvature=fisher",
    "damping=-1",
    "damping=inf",
    "decay=0.1",
    "damping=some",
    "solver=arnoldi",
    "preconditioner=kfac",
    "preconditioner=diagonal,solver=lanczos",
    "factors=own",
    "factors=sampled,solver=cholesky",
    "factors=empirical,preconditioner=none",
    "seed=1",
    "seed=1,factors=empirical",
    "rank=5",
    "rank=0,solver=lanczos",
    "form=newton_step",
    "form=leverage,solver=lanczos",
    "form=leverage,solver=cholesky,curvature=hessian",
    "solver=ekfac,curvature=hessian",
    "form=second,solver=ekfac",
    "reduce=min",
    "iterations=0",
    "rtol=0",
    "rtol=1",
    "rtol=1e-6,solver=cholesky",
    "iterations=5,solver=cholesky",
    "preconditioner=kronecker,solver=cholesky",
]


def pieces(model, names, *, curved=False):
    """Of every example, in their order: the outputs' derivatives, the gradient, and the Gauss-Newton matrix and, if asked for, the Hessian of its loss."""
    found = {}
    for batch in model.batches():
        leaves = {name: batch.params[name].detach().clone().requires_grad_() for name in names}

        def rows(values, leaves=leaves):
            return torch.stack(
                [
                    flat(dict(zip(leaves, torch.autograd.grad(v, list(leaves.values()), retain_graph=True), strict=True)))
                    for v in values
                ]
            )

        logits, losses = batch.outputs(leaves), batch.losses(leaves)
        for place, position in enumerate(batch.positions.tolist()):
            J, p = rows(logits[place]), logits[place].detach().softmax(0)
            H = torch.diag(p) - torch.outer(p, p)
            own = hessian(lambda at, place=place, batch=batch: batch.losses(at)[place : place + 1], leaves) if curved else None
            found[position] = J, rows(losses[place : place + 1])[0], J.T @ H @ J, own
    return [found[position] for position in range(len(found))]


def one_newton_step(matrix, own, u, g, n):
    return u @ torch.linalg.solve(matrix - own / n, g) / n


FORMS = {
    "first_order": lambda matrix, own, u, g, n: u @ torch.linalg.solve(matrix, g) / n,
    "newton_step": one_newton_step,
}


def damped(method, model, ids, names, examples, targets):
    """The whole damped matrix that a method with its options stands for."""
    decay = model.weight_decay() if method.decay == "recorded" else {}
    pulls = {name: decay[name].factor if name in decay and decay[name].coupled else 0.0 for name in names}
    shift = flat({name: torch.full_like(model.params[name], pulls[name]) for name in names})
    matrix = sum(one[3 if getattr(method, "curvature", "") == "hessian" else 2] for one in examples) / len(examples)
    if method.solver == "ekfac":
        basis = Curvature(model, names, ids).eigenbasis(method.factors, method.seed)
        matrix = whole(basis, {name: model.params[name] for name in names})
    matrix = matrix + torch.diag(shift)
    delta = method.damping
    if delta == "auto":
        values, vectors = torch.linalg.eigh(matrix)
        delta = balanced_damping(values, (targets @ vectors).square().sum(0))
    return matrix + delta * torch.eye(len(matrix), dtype=torch.float64)


def PAIRS(method, evidence):
    """Each query with each example, by the whole matrix."""
    source = evidence.checkpoints
    model = source.at(source.kept[-1] if method.at == -1 else method.at)
    names = chosen_params(model, method.layers, "test")
    examples, pulls = pieces(model, names, curved=method.curvature == "hessian"), one_by_one(model.queries(method.target), names)
    weights, n = evidence.queries(method.target).weights, len(evidence.ids)
    rows = torch.stack([flat(pulls[query]) for query in range(len(pulls))])
    matrix = damped(method, model, evidence.ids, names, examples, (weights @ rows)[None])
    values = [[FORMS[method.form](matrix, one[2], u, one[1], n) for one in examples] for u in rows]
    return torch.tensor([[float(value) for value in row] for row in values], dtype=torch.float64)


def dense(world, epoch, *, curvature="gauss_newton", damping=0.01, decay=0.0, names=None):
    """The score of each example by the whole matrix, from the definition."""
    params = dict(world.run.model(epoch))
    params = {name: value for name, value in params.items() if name in dict(world.model.named_parameters())}
    chosen = {name: params[name] for name in names or params}

    def outputs(at):
        return torch.func.functional_call(world.model.eval(), {**params, **at}, (world.inputs,))

    def loss_of(z):
        return F.cross_entropy(z, world.labels, reduction="none")

    n = len(world.inputs)
    matrix = (
        gauss_newton(outputs, loss_of, chosen)
        if curvature == "gauss_newton"
        else hessian(lambda at: loss_of(outputs(at)), chosen)
    )
    matrix = matrix / n + (damping + decay) * torch.eye(len(matrix), dtype=torch.float64)
    u = flat({name: world.gradient(params, world.held_out, world.held_labels)[name] for name in chosen})
    v = torch.linalg.solve(matrix, u)
    each = [flat({name: world.example_gradient(params, i)[name] for name in chosen}) for i in range(n)]
    return torch.stack(each) @ v / n


CASES = {
    "influence": {},
    "influence:damping=0.1,at=0": {"damping": 0.1, "epoch": 0},
    "influence:layers=head": {"names": ("out.weight", "out.bias")},
    "influence:curvature=hessian,damping=1": {"curvature": "hessian", "damping": 1.0},
}


@pytest.mark.parametrize("title", CASES)
@pytest.mark.parametrize("solver", ["cg", "cholesky"])
@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("decay", 0.05), ("adam", 0.1), *slow(("adamw", 0.0))])
def test_equals_the_dense_solve(tmp_path, title, solver, optimizer, decay):
    world, given = World(tmp_path / "run", optimizer), dict(CASES[title])
    epoch = given.pop("epoch", 2)
    spec = title if solver == "cg" else f"{title}{',' if ':' in title else ':'}solver=cholesky"
    (scores,) = world.score(spec).values()
    expected = dense(world, epoch, decay=decay, **given)
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    told = scores.diagnostics
    assert told["damping"] == given.get("damping", 0.01) and told["residual"] <= 1e-7 and told["smallest curvature"] > 0
    assert told["iterations"] > 0 or solver == "cholesky"
    assert told["weight decay"] == {"sgd": "none", "adamw": "0.2, not in the matrix"}.get(optimizer, f"{decay:g}, in the matrix")


@pytest.mark.parametrize("solver", ["cg", "cholesky", "lanczos", "cg,preconditioner=none"])
def test_normalisation_by_batches_stays_as_it_is(tmp_path, solver):
    # Neither a batch of one, nor one of all, but the running statistics.
    world = World(tmp_path / "run", norm=True)
    (scores,) = world.score(f"influence:solver={solver}").values()
    model = world.model.eval()
    params, n = {name: value.detach() for name, value in model.named_parameters()}, len(world.inputs)

    def outputs(at, inputs=world.inputs):
        return torch.func.functional_call(model, at, (inputs,))

    def gradient(inputs, labels):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = F.cross_entropy(outputs(leaves, inputs), labels)
        return flat(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))

    matrix = gauss_newton(outputs, lambda z: F.cross_entropy(z, world.labels, reduction="none"), params) / n
    v = torch.linalg.solve(
        matrix + 0.01 * torch.eye(len(matrix), dtype=torch.float64), gradient(world.held_out, world.held_labels)
    )
    expected = torch.stack([gradient(world.inputs[i : i + 1], world.labels[i : i + 1]) for i in range(n)]) @ v / n
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_weight_decay_may_be_left_out(tmp_path):
    world = World(tmp_path / "run", "decay")
    (scores,) = world.score("influence:decay=none").values()
    expected = dense(world, 2)
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


class Convex:
    """Logistic regression with weight decay, by full batches, recorded at its optimum; or trained again without one example."""

    def __init__(self, reduction="mean", decay=0.05, examples=60):
        draw = torch.Generator().manual_seed(3)
        self.x = torch.randn(examples + 40, 4, generator=draw, dtype=torch.float64)
        noise = 0.7 * torch.randn(examples + 40, generator=draw, dtype=torch.float64)
        self.y = (self.x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64) + noise > 0).long()
        self.n, self.decay, self.reduction = examples, decay, reduction

    def model(self):
        torch.manual_seed(0)
        return nn.Linear(4, 2).double()

    @property
    def held(self):
        return self.x[self.n :], self.y[self.n :]

    def change(self, without):
        """Of the target, by minimising anew what is left of the objective."""
        return self.minimum(without) - self.minimum(None)

    def minimum(self, without):
        model = self.model()
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
        )
        keep = torch.ones(self.n, dtype=torch.float64)
        if without is not None:
            keep[without] = 0
        share = 1 / self.n if self.reduction == "mean" else 1.0

        def closure():
            optimizer.zero_grad()
            losses = F.cross_entropy(model(self.x[: self.n]), self.y[: self.n], reduction="none")
            loss = share * keep @ losses + self.decay / 2 * sum(p.square().sum() for p in model.parameters())
            loss.backward()
            return loss

        optimizer.step(closure)
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return float(F.cross_entropy(model(self.held[0]), self.held[1]).detach())

    def scored(self, folder, *specs):
        self.minimum(None)
        model = self.model()
        model.load_state_dict(self.state)
        rate = 0.5 if self.reduction == "mean" else 0.5 / self.n
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=self.decay)
        loader = DataLoader(TensorDataset(self.x[: self.n], self.y[: self.n]), self.n)
        with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y, reduction=self.reduction).backward()
                optimizer.step()
                recorder.batch(logits, y)
        loop = assay.Loop(model, optimizer, loader, reduction=self.reduction)
        return assay.score(folder, list(specs), loop=loop, targets={"validation": self.held})


@pytest.mark.parametrize(("reduction", "decay"), [("mean", 0.05), ("sum", 3.0)])
def test_it_tells_what_training_again_to_the_optimum_does(tmp_path, reduction, decay):
    convex = Convex(reduction, decay)
    scores = convex.scored(tmp_path / "run", "influence:damping=0")["influence:damping=0.0"]
    actual = torch.tensor([convex.change(i) for i in range(convex.n)], dtype=torch.float64)
    values = scores.values
    assert float(rank_correlation(torch.stack([values, actual]))[0, 1]) > 0.97
    # First order in the weight of an example: nearly the size, and the sign of all that matter.
    slope = float(values @ actual / (values @ values))
    assert 0.9 < slope < 1.3
    big = actual.abs() > 0.2 * actual.abs().max()
    assert torch.equal(values[big] > 0, actual[big] > 0) and bool((values > 0).any()) and bool((values < 0).any())
    assert torch.equal(scores.harmful(), values < 0)


def test_a_larger_damping_is_steadier_and_smaller(tmp_path):
    world = World(tmp_path / "run")
    sizes = [next(iter(world.score(f"influence:damping={d}").values())) for d in (0.01, 1.0, 100.0)]
    norms = [float(one.values.norm()) for one in sizes]
    assert norms[0] > norms[1] > norms[2]
    params = world.run.model(2)
    u = world.gradient(params, world.held_out, world.held_labels)
    pull = torch.tensor([inner(u, world.example_gradient(params, i)) for i in range(len(world.inputs))], dtype=torch.float64)
    far = next(iter(world.score("influence:damping=1e6").values())).values
    torch.testing.assert_close(far * 1e6 * len(world.inputs), pull, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", ["cg", "cholesky"])
def test_negative_curvature_is_refused_and_the_cure_works(tmp_path, solver):
    world = World(tmp_path / "run", epochs=1)
    spec = f"influence:curvature=hessian,damping=0,solver={solver}"
    with pytest.raises(
        NumericalError, match=r"not positive definite: with damping 0 .*or choose curvature=gauss_newton\."
    ) as error:
        world.score(spec)
    cure = float(str(error.value).rpartition("give a damping above ")[2].partition(",")[0])
    assert cure > 0
    world.score(spec.replace("curvature=hessian,damping=0", "damping=0.01"))
    if solver == "cholesky":
        world.score(spec.replace("damping=0", f"damping={cure * 1.01}"))


def test_what_does_not_converge_is_refused(tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(
        NumericalError,
        match=r"residual of .* in 2 iterations, not to rtol=1e-08; give more iterations, or choose a damping above [0-9.e+]*, which needs fewer",
    ):
        world.score("influence:iterations=2")
    world.score("influence:iterations=200")


def test_many_parameters_take_conjugate_gradients(tmp_path, monkeypatch):
    monkeypatch.setattr("assay.core.inverse.DENSE", 10)
    world = World(tmp_path / "run")
    with pytest.raises(
        UsageError, match="matrix of 38 x 38 entries, of which 10 x 10 are the most; choose another solver, or layers=head"
    ):
        world.score("influence:solver=cholesky")


def test_products_without_digits_are_refused(tmp_path, monkeypatch):
    world, real, left = World(tmp_path / "run"), Curvature.times, []
    (found,) = world.score("influence").values()

    def last_is_off(self, vectors):
        left.append(None)
        return (1.1 if len(left) == found.diagnostics["iterations"] + 1 else 1.0) * real(self, vectors)

    monkeypatch.setattr(Curvature, "times", last_is_off)
    with pytest.raises(
        NumericalError,
        match=r"leaves a residual of .* products in torch.float64 have no more digits; choose a damping above 0.01",
    ):
        world.score("influence")


def test_an_optimizer_whose_decay_is_not_known_is_refused(tmp_path):
    class Own(torch.optim.SGD):
        pass

    world = World(tmp_path / "run", "decay")
    world.optimizer.__class__ = Own
    with pytest.raises(UsageError, match=r"What Own does with weight_decay=0\.05 is not known; leave it out by decay=none"):
        world.score("influence")
    world.score("influence:decay=none")


class Uneven:
    """Inputs of very different sizes: a curvature that is, too."""

    def __init__(self, folder, model, tokens=False, examples=200, classes=3):
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(examples + 40, 8, generator=draw, dtype=torch.float64) * torch.logspace(-1.5, 1, 8, dtype=torch.float64)
        x = torch.randint(6, (examples + 40, 8), generator=draw) if tokens else x.to(next(model.parameters()).dtype)
        y = torch.randint(classes, (examples + 40,), generator=draw)
        self.held, self.folder, self.data = (x[examples:], y[examples:]), folder, (x[:examples], y[:examples])
        loader = DataLoader(TensorDataset(x[:examples], y[:examples]), 50)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=1e-5)
        with assay.record(folder, model, optimizer, loader) as recorder:
            for _ in range(3):
                for a, b in recorder.epoch():
                    logits = model(a)
                    optimizer.zero_grad()
                    F.cross_entropy(logits, b).backward()
                    optimizer.step()
                    recorder.batch(logits, b)
        self.loop = assay.Loop(model, optimizer, loader)

    def score(self, options):
        return self.of(f"influence:{options}")

    def of(self, method):
        targets = {"validation": self.held} if method.startswith("influence") else None
        (found,) = assay.score(self.folder, method, loop=self.loop, targets=targets).values()
        return found


class Read(nn.Module):
    """Tokens, a convolution in groups, a normalisation."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(6, 4, padding_idx=0), nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular", groups=2)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, tokens):
        return self.out(self.norm(self.mix(self.embed(tokens).mT).mT).tanh().mean(1))


NETS = {
    "one layer": lambda: nn.Linear(8, 3),
    "two layers": lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
    "tokens": Read,
}


@pytest.mark.parametrize(
    ("net", "options", "saved"),
    [
        ("one layer", "damping=1e-4", 0.5),
        ("two layers", "damping=1e-4", 0.8),
        ("two layers", "damping=1e-4,layers=head", 1.0),
        ("two layers", "damping=3,curvature=hessian", None),
        ("tokens", "damping=1e-3", None),
    ],
)
def test_kronecker_factors_change_no_value_and_save_iterations_where_inputs_are_uneven(tmp_path, net, options, saved):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS[net]().double(), net == "tokens")
    plain, turned = (world.score(f"{options},preconditioner={one}") for one in ("none", "kronecker"))
    torch.testing.assert_close(turned.values, plain.values, rtol=1e-5, atol=1e-7 * float(plain.values.abs().max()))
    # Another way, not the same one twice.
    assert not torch.equal(turned.values, plain.values) and turned.diagnostics["residual"] <= 1e-7
    assert saved is None or turned.diagnostics["iterations"] < saved * plain.diagnostics["iterations"]


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.twice(self.twice(x).tanh()).tanh())


def test_kronecker_factors_of_a_layer_that_is_used_twice_are_refused_with_a_cure_that_works(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", Reused().double(), examples=50)
    with pytest.raises(
        UsageError,
        match=r"influence: preconditioner=kronecker: Parameter twice\.weight is in a layer that is called 2 times .*; choose preconditioner=none\.",
    ):
        world.score("preconditioner=kronecker")
    world.score("preconditioner=none")
    world.score("preconditioner=kronecker,layers=head")


SOLVERS = {
    "cholesky": "solver=cholesky",
    "ekfac cg": "preconditioner=ekfac",
    "sampled cg": "factors=sampled,seed=2",
    "empirical cg": "factors=empirical",
    "kronecker cg": "preconditioner=kronecker",
    "diagonal cg": "preconditioner=diagonal",
    "plain cg": "preconditioner=none",
    "series": "solver=lissa,preconditioner=none",
    "ekfac series": "solver=lissa",
    "low rank": "solver=lanczos,rank=500",
}


@pytest.mark.parametrize(("net", "held"), [*((net, 2**28) for net in NETS), ("two layers", 0)])
def test_all_solvers_agree(tmp_path, net, held, monkeypatch):
    # Whether layers are kept in memory, or all is done by passes over the examples.
    monkeypatch.setattr(curvature, "HELD", held)
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS[net]().double(), net == "tokens", examples=60)
    found = {name: world.score(f"damping=3,{options}") for name, options in SOLVERS.items()}
    expected = found["cholesky"].values
    for name, scores in found.items():
        off = float((scores.values - expected).abs().max() / expected.abs().max())
        assert off < 1e-6 and scores.diagnostics["residual"] < 1e-6 and not scores.warnings, name
        assert scores.diagnostics["smallest curvature"] >= 2.99999, name
        told = "layer pairs of all outputs" in scores.diagnostics["derivatives taken by"]
        assert told == (held > 0), name
    if net != "tokens":
        assert found["ekfac series"].diagnostics["iterations"] < found["series"].diagnostics["iterations"]


@st.composite
def nets(draw):
    """A small net with inputs of 8 numbers, and how many classes it tells apart."""
    sizes, classes = [8, *draw(st.lists(st.integers(2, 6), max_size=2))], draw(st.integers(2, 4))
    bends, biased, normed = draw(st.sampled_from([nn.Tanh, nn.ReLU, nn.GELU])), draw(st.booleans()), draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 2**20)))
    layers = [
        layer
        for wide, narrow in itertools.pairwise(sizes)
        for layer in (nn.Linear(wide, narrow, bias=biased), *([nn.LayerNorm(narrow)] if normed else []), bends())
    ]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes, bias=biased)).double(), classes


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(made=nets(), examples=st.integers(10, 60), damping=st.sampled_from([0.1, 1.0, 10.0]))
def test_solvers_agree_with_the_dense_solve_on_random_nets(tmp_path_factory, made, examples, damping):
    model, classes = made
    world = Uneven(tmp_path_factory.mktemp("runs") / "run", model, examples=examples, classes=classes)
    params, (held, held_labels) = dict(model.named_parameters()), world.held
    inputs, labels = world.data

    def losses(at, x=inputs, y=labels):
        return F.cross_entropy(torch.func.functional_call(model, at, (x,)), y, reduction="none")

    matrix = gauss_newton(
        lambda at: torch.func.functional_call(model, at, (inputs,)),
        lambda z: F.cross_entropy(z, labels, reduction="none"),
        params,
    )
    matrix = matrix / examples + (damping + 1e-5) * torch.eye(len(matrix), dtype=torch.float64)
    pulled = flat(
        dict(zip(params, torch.autograd.grad(losses(params, held, held_labels).mean(), list(params.values())), strict=True))
    )
    solved = dict(
        zip(params, torch.linalg.solve(matrix, pulled).split([value.numel() for value in params.values()]), strict=True)
    )
    along = {name: solved[name].reshape(value.shape) for name, value in params.items()}
    expected = torch.func.jvp(losses, ({name: value.detach() for name, value in params.items()},), (along,))[1] / examples
    for name, options in SOLVERS.items():
        try:
            scores = world.score(f"damping={damping},{options}")
        except NumericalError as error:
            # Where curvature is far above the damping the series is slow, and says so.
            assert "series" in name and damping < 10 and "the Neumann series came to a residual of" in str(error)
            continue
        off = float((scores.values - expected).abs().max() / expected.abs().max())
        assert off < 1e-6 and scores.diagnostics["residual"] < 1e-6, (name, off)


def test_solvers_of_the_hessian_agree(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=60)
    wanted = ("cholesky", "ekfac cg", "diagonal cg", "plain cg", "ekfac series", "low rank")
    found = [world.score(f"damping=3,curvature=hessian,{SOLVERS[name]}").values for name in wanted]
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=0, atol=1e-6 * float(found[0].abs().max()))
    gauss_newton = world.score("damping=3").values
    assert float((gauss_newton - found[0]).abs().max()) > 1e-4 * float(found[0].abs().max())


@pytest.mark.parametrize(
    "options", ["solver=cholesky", "solver=ekfac", "solver=cholesky,layers=head", "solver=ekfac,layers=hidden"]
)
@pytest.mark.parametrize("held", [0, 2**28])
def test_one_newton_step_leaves_out_the_example_s_own_curvature(tmp_path, options, held, monkeypatch):
    monkeypatch.setattr(curvature, "HELD", held)
    world = World(tmp_path / "run", "decay")
    method = parse(f"influence:form=newton_step,damping=1,{options}")
    (scores,) = world.score(method.title).values()
    replay = open_replay(world.run, loop=world.loop(), targets={"validation": (world.held_out, world.held_labels)})
    evidence = gather(world.run, replay).narrow(method.title, method.reads)
    queries = PAIRS(method, evidence)
    torch.testing.assert_close(scores.values, queries.mean(0), rtol=1e-7, atol=1e-9)
    rows = assay.attribute(
        world.run, method.title, loop=world.loop(), targets={"validation": (world.held_out, world.held_labels)}
    )
    torch.testing.assert_close(torch.stack([rows.row(one) for one in rows.queries]), queries, rtol=1e-7, atol=1e-9)
    (first,) = world.score(f"influence:damping=1,{options}").values()
    assert float((first.values - scores.values).abs().max()) > 1e-3 * float(first.values.abs().max())


@pytest.mark.parametrize("options", ["influence:damping=1,solver=cholesky", "self_influence:damping=1"])
def test_the_leverage_is_the_newton_step_where_the_loss_curves_along_one_direction_and_refused_elsewhere(tmp_path, options):
    two = Uneven(tmp_path / "two", nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2)).double(), examples=30, classes=2)
    three = Uneven(tmp_path / "three", NETS["one layer"]().double(), examples=30)
    step, leverage = (two.of(f"{options},form={form}") for form in ("newton_step", "leverage"))
    torch.testing.assert_close(leverage.values, step.values, rtol=1e-9, atol=0)
    assert float((two.of(options).values / step.values - 1).abs().max()) > 1e-3
    # With three classes the trace counts two directions, of which the gradient has one: no number divides rightly.
    with pytest.raises(UsageError, match="here it curves along more; choose form=newton_step"):
        three.of(f"{options},form=leverage")
    three.of(f"{options},form=newton_step")


def test_one_newton_step_of_least_squares_is_training_again_without_the_example(tmp_path):
    class Squares(nn.Module):
        """Two logits whose cross-entropy is replaced by squared errors."""

        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(x)

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 4, generator=draw, dtype=torch.float64), torch.randint(2, (20,), generator=draw)
    model = Squares().double()
    held = torch.randn(6, 4, generator=draw, dtype=torch.float64), torch.randint(2, (6,), generator=draw)
    decay = 0.3

    def losses(net, batch):
        return (net(batch[0]) - F.one_hot(batch[1], 2)).square().sum(1)

    def optimum(keep):
        rows = torch.cat([x, torch.ones(20, 1, dtype=torch.float64)], 1)[keep]
        return torch.linalg.solve(
            2 * rows.T @ rows / 20 + decay * torch.eye(5, dtype=torch.float64), 2 * rows.T @ F.one_hot(y[keep], 2).double() / 20
        )

    def put(theta):
        model.out.weight.data, model.out.bias.data = theta[:4].T.contiguous(), theta[4].clone()
        return float(losses(model, held).mean().detach())

    every = torch.arange(20)
    put(optimum(every))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, weight_decay=decay)
    loader = DataLoader(TensorDataset(x, y), 20)
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        for a, b in recorder.epoch():
            optimizer.zero_grad()
            losses(model, (a, b)).mean().backward()
            optimizer.step()
            recorder.batch(model(a), b)
    loop = assay.Loop(model, optimizer, loader, losses=losses)
    # Linear in the parameters: the change of theta is exact, and so is that of a target that is linear in theta.
    probe = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    targets = {"linear": lambda net: (torch.cat([net.out.weight, net.out.bias[:, None]], 1) * probe).sum()}
    titles = [f"influence:target=linear,damping=0,form=newton_step,solver={one}" for one in ("cholesky", "ekfac")]
    found = assay.score(tmp_path / "run", titles, loop=loop, targets=targets)
    now = optimum(every).T
    actual = torch.stack([((optimum(every[every != i]).T - now) * probe).sum() for i in range(20)])
    for scores in found.values():
        torch.testing.assert_close(scores.values, actual, rtol=1e-8, atol=1e-12)


def test_the_damping_found_balances_and_is_that_of_every_solver(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=60)
    exact = world.score("damping=auto,solver=cholesky").diagnostics["damping"]
    assert world.score("damping=auto,solver=lanczos,rank=500").diagnostics["damping"] == pytest.approx(exact, rel=1e-6)
    near = {one: world.score(f"damping=auto,{one}").diagnostics["damping"] for one in ("solver=ekfac", "solver=cg")}
    assert near["solver=ekfac"] == near["solver=cg"] and 0.1 < near["solver=ekfac"] / exact < 10
    found, given = world.score("damping=auto"), world.score(f"damping={near['solver=cg']}")
    torch.testing.assert_close(found.values, given.values, rtol=1e-6, atol=1e-12)


def test_where_a_layer_has_no_rule_the_solver_takes_the_diagonal_and_says_why(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", Reused().double(), examples=50)
    found = {one: world.score(f"damping=0.1,preconditioner={one}") for one in ("auto", "none", "diagonal")}
    for one in found.values():
        torch.testing.assert_close(one.values, found["none"].values, rtol=1e-6, atol=1e-9)
    assert (
        found["auto"]
        .diagnostics["preconditioner"]
        .startswith("diagonal, because parameter twice.weight is in a layer that is called 2 times")
    )
    assert found["auto"].diagnostics["derivatives taken by"] == "grad_dots: forward"
    balanced = world.score("damping=auto").diagnostics["damping"]
    assert balanced == pytest.approx(world.score("damping=auto,solver=cholesky").diagnostics["damping"], rel=1e-3)
    with pytest.raises(
        UsageError,
        match=r"influence: solver=ekfac: Parameter twice\.weight is .*; choose solver=cholesky, for at most 5,000 parameters, or, for the influence on a target, solver=cg",
    ):
        world.score("solver=ekfac")
    world.score("solver=cg")
    world.score("solver=ekfac,layers=head")
    with pytest.raises(
        UsageError,
        match=r"self_influence: solver=ekfac: Parameter twice\.weight is [^;]*; choose solver=cholesky, for at most 5,000 parameters, or",
    ):
        assay.score(world.folder, "self_influence", loop=world.loop)
    assay.score(world.folder, "self_influence:solver=cholesky", loop=world.loop)
    assay.score(world.folder, "self_influence:layers=head", loop=world.loop)


def test_losses_that_read_parameters_are_refused_with_cures_that_work(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["one layer"]().double(), examples=50)

    def losses(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none") + 0.05 * model.weight.square().sum()

    world.loop = assay.Loop(world.loop.model, world.loop.optimizer, world.loop.loader, losses)
    for solver in ("cg", "ekfac", "cholesky", "cg,preconditioner=ekfac", "cg,preconditioner=diagonal"):
        with pytest.raises(
            UsageError, match=r"no Gauss-Newton matrix; .*weight_decay\. Or choose curvature=hessian with solver=cg\.$"
        ):
            world.score(f"damping=0.5,solver={solver}")
    world.score("damping=0.5,curvature=hessian,solver=cg")
    # These have no other curvature.
    for method in ("self_influence", "self_influence:solver=cholesky", "source:segments=1,target=validation"):
        with pytest.raises(
            UsageError, match=r"no Gauss-Newton matrix; leave that part to the optimizer's weight_decay[.;](?!.*hessian)"
        ):
            given = {"targets": {"validation": world.held}} if "target" in method else {}
            assay.score(world.folder, method, loop=world.loop, **given)


@pytest.mark.parametrize(
    "method",
    [
        "tracin:target=zero",
        "tracin:target=hidden,layers=head",
        "sgd_influence:target=zero",
        "influence:target=zero",
        "source:segments=1,target=zero",
        "in_run_shapley:target=zero",
    ],
)
def test_a_target_that_the_parameters_do_not_reach_is_told_and_not_scored(tmp_path, method):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=30)
    targets = {"zero": lambda net: (net[0].weight * 0).sum(), "hidden": lambda net: net[0].weight.square().sum()}
    asked = {name: target for name, target in targets.items() if f"target={name}" in method}
    with pytest.raises(AssayError, match=r"the gradient of target '(zero|hidden)' is 0 by"):
        assay.score(world.folder, method, loop=world.loop, targets=asked)


@pytest.mark.parametrize("solver", ["cg", "cholesky", "ekfac", "lanczos"])
def test_a_damping_beside_which_curvature_is_nothing_is_said(tmp_path, solver):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=40)
    (words,) = world.score(f"damping=1e6,solver={solver}").warnings[-1:]
    assert words.startswith(
        "These values are those of no curvature, inner products of gradients divided by the damping of 1e+06, but for 1%"
    )
    assert not any("no curvature" in one for one in world.score(f"damping=1,solver={solver}").warnings)


@pytest.mark.parametrize("method", ["influence", "influence:solver=ekfac", "tracin", "sgd_influence", "source:segments=1"])
def test_queries_without_a_gradient_are_told_and_not_attributed(tmp_path, method):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["one layer"]().double(), examples=20)
    with torch.no_grad():
        logits = world.loop.model(1e9 * world.held[0])
    # Sure beyond the digits of its numbers, and right.
    rows, labels = 1e9 * world.held[0], logits.argmax(1)
    with pytest.raises(NumericalError, match=r"the gradient of each of the 2 queries of 'validation' is 0"):
        assay.attribute(world.folder, method, loop=world.loop, targets={"validation": (rows[:2], labels[:2])})
    mixed = torch.cat([world.held[0][:1], rows[:1]]), torch.cat([world.held[1][:1], labels[:1]])
    found = assay.attribute(world.folder, method, loop=world.loop, targets={"validation": mixed})
    first, second = (found.row(one) for one in found.queries)
    assert first.abs().max() > 0 and not second.any()
    assert any("1 of 2 queries (ids 1) have 0 for every example" in words for words in found.warnings)


def test_how_far_ekfac_is_from_solving_for_the_curvature_is_told(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=60)
    far, near = (world.score(f"damping={damping},solver=ekfac") for damping in (1e-5, 10))
    assert far.diagnostics["residual"] > 1 and far.diagnostics["iterations"] == 0
    assert (
        len(far.warnings) == 1
        and f"a residual of {far.diagnostics['residual']:.2g} of the right-hand side, where 0 leaves 1" in far.warnings[0]
    )
    assert near.diagnostics["residual"] < 1 and not near.warnings


def test_what_a_low_rank_drops_is_told(tmp_path):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=60)
    found = world.score("damping=1e-3,solver=lanczos,rank=4")
    assert found.diagnostics["rank"] == 4 and found.diagnostics["residual"] > 1e-3
    assert (
        "A subspace of 4 dimensions leaves a residual of" in found.warnings[0]
        and "choose a larger rank, or solver=cg" in found.warnings[0]
    )
    assert not world.score("damping=1e-3,solver=lanczos,rank=60").warnings
    # Values per query too, whose gradients lie elsewhere.
    given = {"loop": world.loop, "targets": {"validation": world.held}}
    told = assay.attribute(world.folder, "influence:damping=1e-3,solver=lanczos,rank=4", **given).warnings
    assert len(told) == 1 and "A subspace of 4 dimensions leaves a residual of" in told[0]
    assert not assay.attribute(world.folder, "influence:damping=1e-3,solver=lanczos,rank=200", **given).warnings


@pytest.mark.parametrize("solver", ["cg", "cholesky", "ekfac"])
def test_values_by_query_say_how_well_they_were_solved(tmp_path, solver):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=60)
    given = {"loop": world.loop, "targets": {"validation": world.held}}
    found = assay.attribute(world.folder, f"influence:damping=0.01,solver={solver}", **given)
    told, scores = found.diagnostics, world.score(f"damping=0.01,solver={solver}").diagnostics
    assert set(told) == set(scores) and told["damping"] == 0.01 and told["parameters"] == scores["parameters"]
    # The worst of all queries, of which each is a system of its own: only EK-FAC's is another system.
    assert (told["residual"] <= 1e-7) == (solver != "ekfac")
    assert found.reduce("max").diagnostics == told


def test_the_residual_of_ekfac_is_the_worst_of_all_queries(tmp_path, monkeypatch):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().double(), examples=60)
    spec, given = "influence:damping=0.3,solver=ekfac", {"loop": world.loop}
    rows, labels = world.held

    def told(rows, labels):
        return assay.attribute(world.folder, spec, targets={"validation": (rows, labels)}, **given)

    single = [told(rows[[one]], labels[[one]]).diagnostics["residual"] for one in range(len(rows))]
    found = told(rows, labels)
    assert found.diagnostics["residual"] == pytest.approx(max(single), rel=1e-9) and max(single) > 1.01 * single[0]
    assert "residual of" not in found.diagnostics and bool(found.warnings) == (max(single) > 1)
    monkeypatch.setattr(curvature, "HELD", 0)
    found = told(rows, labels)
    assert found.diagnostics["residual of"] == "the first query of each block"


@pytest.mark.parametrize("rtol", [0.01, 0.3])
def test_a_residual_that_was_asked_for_is_no_loss_of_digits(tmp_path, rtol):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"](), examples=60)
    found = world.score(f"damping=0.01,rtol={rtol},preconditioner=none")
    assert 1e-3 < found.diagnostics["residual"] <= 2 * rtol


FAILURES = {
    "curvature=hessian,damping=0,solver=lanczos,rank=40": r"not positive definite: with damping 0 .*give a damping above .*or choose curvature=gauss_newton",
    "curvature=hessian,damping=0,solver=lissa": r"not positive definite|came to a residual",
    "damping=1e-12,solver=lissa": r"the Neumann series came to a residual of .* give more iterations, or solver=cg",
    "iterations=3": r"came to a residual of .* in 3 iterations",
    "iterations=3,solver=lissa": r"came to a residual of .* in 3 iterations",
    "damping=0,solver=ekfac": r"EK-FAC's matrix has no inverse .* give a damping above",
    "damping=0,solver=cholesky": r"not positive definite: with damping 0 its smallest eigenvalue",
    "damping=1e-6,solver=ekfac,form=newton_step": r"without one of .* examples \(ids .*choose a damping above 0\.\d+, or form=first_order",
}


@pytest.mark.parametrize("options", FAILURES)
def test_a_failure_is_told_with_a_cure_and_never_becomes_a_score(tmp_path, options):
    world = World(tmp_path / "run", epochs=1)
    with pytest.raises(NumericalError, match=FAILURES[options]):
        world.score(f"influence:{options}")
    titled = assay.methods.parse(f"influence:{options}").title
    with pytest.raises(NumericalError, match=FAILURES[options]):
        assay.attribute(world.run, titled, loop=world.loop(), targets={"validation": (world.held_out, world.held_labels)})
    cured = dict(part.split("=") for part in options.split(",")) | {"damping": "3"}
    if "iterations" in cured:
        cured["iterations"] = "500"
    world.score("influence:" + ",".join(f"{key}={value}" for key, value in cured.items()))


@pytest.mark.parametrize("kind", [torch.float32, *slow(torch.float64)])
@pytest.mark.parametrize(
    "options",
    [
        "damping=0,solver=cholesky",
        "damping=0,solver=ekfac",
        "damping=0,solver=lissa",
        "damping=1e-7,solver=lissa,preconditioner=none",
        "damping=0,solver=lanczos",
        "damping=1e-6,iterations=3",
        "damping=1e-6,iterations=5,preconditioner=none",
        "damping=0,curvature=hessian",
        "damping=0,curvature=hessian,solver=lissa",
        "damping=0,curvature=hessian,solver=cholesky",
        "damping=1e-6,solver=ekfac,form=newton_step",
    ],
)
def test_the_damping_that_a_refusal_names_is_taken(tmp_path, options, kind):
    torch.manual_seed(0)
    world = Uneven(tmp_path / "run", NETS["two layers"]().to(kind), examples=20)
    with pytest.raises(NumericalError) as refused:
        world.score(f"{options},decay=none")
    (named,) = re.findall(r"a damping above ([0-9.e+-]+[0-9])", str(refused.value))
    given = dict(part.split("=") for part in options.split(",")) | {"damping": f"{float(named) * 1.01:g}"}
    world.score("decay=none," + ",".join(f"{key}={value}" for key, value in given.items()))


def test_a_function_of_the_model_is_a_target_and_one_that_parameters_do_not_reach_is_refused(tmp_path):
    world = World(tmp_path / "run")
    group = torch.arange(len(world.held_out)) % 2 == 0

    def gap(net):
        """By how much the mean loss of one group is above that of the other."""
        losses = F.cross_entropy(net(world.held_out), world.held_labels, reduction="none")
        return losses[group].mean() - losses[~group].mean()

    targets = {"gap": gap, "hidden": lambda net: net.hidden.weight.square().sum()}
    (scores,) = world.score("influence:target=gap", targets=targets).values()
    halves = [(world.held_out[part], world.held_labels[part]) for part in (group, ~group)]
    both = world.score("influence:target=a", "influence:target=b", targets=dict(zip("ab", halves, strict=True)))
    expected = both["influence:target=a"].values - both["influence:target=b"].values
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-7 * float(expected.abs().max()))
    for options in ("", ",solver=ekfac", ",solver=cholesky", ",damping=auto"):
        with pytest.raises(
            UsageError, match=r"the gradient of target 'hidden' is 0 by every one of the 18 parameters, .*choose layers=all"
        ):
            world.score(f"influence:target=hidden,layers=head{options}", targets=targets)
    world.score("influence:target=hidden", targets=targets)
    with pytest.raises(UsageError, match="rows"):
        world.score("influence:target=gap,reduce=sum", targets=targets)


GROUP = [0, 3, 4, 9]


def test_a_group_is_the_sum_of_its_members(tmp_path):
    world = World(tmp_path / "run")
    params = {name: value for name, value in world.run.model(2).items() if name in dict(world.model.named_parameters())}
    # Its gradient by one backward pass of the sum of its losses, and one solve by the whole matrix.
    together = flat(world.gradient(params, world.inputs[GROUP], world.labels[GROUP])) * len(GROUP)
    pull = flat(world.gradient(params, world.held_out, world.held_labels))

    def outputs(at):
        return torch.func.functional_call(world.model.eval(), at, (world.inputs,))

    matrix = gauss_newton(outputs, lambda z: F.cross_entropy(z, world.labels, reduction="none"), params) / len(world.inputs)
    by_hand = pull @ torch.linalg.solve(matrix + 0.01 * torch.eye(len(matrix), dtype=torch.float64), together) / len(world.inputs)
    (scores,) = world.score("influence").values()
    torch.testing.assert_close(scores.values[GROUP].sum(), by_hand, rtol=1e-6, atol=0)
    # And of the whole training: the derivative of the end by one factor of all their losses.
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    weights = torch.ones(len(world.inputs), dtype=torch.float64).index_fill(0, torch.tensor(GROUP), 0)
    (slope,) = torch.autograd.grad(world.unrolled(weights + factor * (1 - weights)), factor)
    (scores,) = world.score("sgd_influence").values()
    torch.testing.assert_close(scores.values[GROUP].sum(), -slope, rtol=1e-8, atol=0)


def test_layers_can_be_listed(tmp_path):
    world = World(tmp_path / "run")
    (every,), (listed,) = (world.score(f"influence:{one}").values() for one in ("layers=hidden+out", "layers=hidden"))
    (whole_,) = world.score("influence").values()
    torch.testing.assert_close(every.values, whole_.values, rtol=1e-6, atol=1e-10)
    expected = dense(world, 2, names=("hidden.weight", "hidden.bias"))
    torch.testing.assert_close(listed.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    with pytest.raises(
        UsageError, match=r"influence: layers=hidden\+last: last is no module with trainable parameters; those are hidden, out"
    ):
        world.score("influence:layers=hidden+last")


def test_several_queries_are_columns_of_one_solve(tmp_path, monkeypatch):
    world, real, widths = World(tmp_path / "run"), Curvature.times, []

    def counted(self, vectors):
        widths.append(vectors[0].numel())
        return real(self, vectors)

    monkeypatch.setattr(Curvature, "times", counted)
    world.score("influence")
    assert set(widths) == {1}
    widths.clear()
    targets = {"validation": (world.held_out, world.held_labels)}
    assay.attribute(world.run, "influence", loop=world.loop(), targets=targets)
    assert set(widths) == {len(world.held_out)} and len(widths) < 60
