import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.curvature import factor_pairs
from assay.core.errors import MissingEvidence, UsageError
from assay.experiments.evidence import gather, open_replay
from assay.maths.kronecker import eigenbasis, kronecker_factors
from assay.maths.params import flatten, unflatten
from assay.methods import source
from assay.methods.source import Unrolled, growth
from groups import slow
from methods.loops import OPTIMIZERS, World
from methods.test_tracin import one_by_one

VARIANTS = [{}, {"segments": 1, "checkpoints": "all", "reduce": "sum"}, {"segments": 2, "checkpoints": 1, "factors": "empirical"}]
REFUSED = [
    "segments=0",
    "checkpoints=0",
    "checkpoints=last",
    "factors=none",
    "seed=3",
    "decay=0.1",
]
SPLITS = {1: [[0, 1, 2]], 2: [[0, 1], [2]], 3: [[0], [1], [2]]}
"""Three epochs in one, two and three segments."""


def PAIRS(method, evidence):
    """From the definition, by matrices over all parameters and their exponentials."""
    source, queries, n = evidence.checkpoints, evidence.queries(method.target), len(evidence.ids)
    last = source.at(2)
    names = tuple(last.params)
    like = {name: value.double() for name, value in last.params.items()}
    asked = one_by_one(last.queries(method.target), names)
    rows = torch.stack([flatten(asked[query]) for query in range(len(queries.ids))])
    values = torch.zeros(len(queries.ids), n, dtype=torch.float64)
    first = 0
    parts = []
    for epochs in SPLITS[method.segments]:
        # Of three the outer two, of two the later one.
        chosen = (
            epochs
            if method.checkpoints == "all"
            else {(3, 2): [0, 2], (2, 1): [1]}.get((len(epochs), method.checkpoints), epochs)
        )
        hessian, gradients = torch.zeros(len(rows[0]), len(rows[0]), dtype=torch.float64), 0
        given = names, method.factors, evidence.ids.keys
        pairs = [pair for epoch in chosen for pair in factor_pairs(source.at(epoch).batches(), *given)]
        basis = eigenbasis(kronecker_factors(pairs, n * len(chosen))).corrected(pairs, n * len(chosen))
        hessian = torch.stack(
            [
                flatten(basis.times(lambda layer: layer.values, unflatten(row, like)))
                for row in torch.eye(len(hessian), dtype=torch.float64)
            ]
        )
        for epoch in chosen:
            own = one_by_one(source.at(epoch).batches(), names)
            gradients = gradients + torch.stack([flatten(own[place]) for place in range(n)]) / len(chosen)
        steps = source.step_sizes(range(first, epochs[-1] + 1)).sizes
        decay = source.at(chosen[-1]).weight_decay() if method.decay == "recorded" else {}
        hessian = hessian + torch.diag(
            flatten({k: torch.full_like(v, decay[k].factor if k in decay else 0.0) for k, v in like.items()})
        )
        sizes = torch.diag(flatten({name: torch.full_like(value, steps[name]) for name, value in like.items()}))
        parts.append((sizes @ hessian, sizes, gradients))
        first = epochs[-1] + 1
    for place, (moved, sizes, gradients) in enumerate(parts):
        gathered = integrated(moved) @ sizes
        for later, _, _ in parts[place + 1 :]:
            gathered = torch.matrix_exp(-later) @ gathered
        values += rows @ gathered @ gradients.T / n
    return values


def integrated(matrix):
    """The integral of exp(-s A) over s from 0 to 1, which is (I - exp(-A)) A^-1 where A has an inverse."""
    size = len(matrix)
    block = torch.zeros(2 * size, 2 * size, dtype=torch.float64)
    block[:size, :size], block[:size, size:] = -matrix, torch.eye(size, dtype=torch.float64)
    return torch.matrix_exp(block)[:size, size:]


@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", *slow("decay", "momentum", "dampening")])
def test_it_is_the_formula_with_matrices(tmp_path, optimizer, segments):
    world = World(tmp_path / "run", optimizer)
    targets = {"validation": (world.held_out, world.held_labels)}
    method = Unrolled(segments=segments)
    replay = open_replay(world.run, loop=world.loop(), targets=targets)
    expected = PAIRS(method, gather(world.run, replay)).mean(0)
    (scores,) = world.score(method.title).values()
    torch.testing.assert_close(scores.values, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))
    # By their recorded rates, over 1 - momentum; hidden layers learn at 0.7 of the rate.
    settings = OPTIMIZERS[optimizer][1]
    gain = (1 - settings.get("dampening", 0)) / (1 - settings.get("momentum", 0))
    rates = sum(float(rates[1]) for epoch in range(3) for rates in world.run.rates(epoch)) * gain
    sizes = replay.step_sizes(range(3)).sizes
    assert sizes["out.bias"] == pytest.approx(rates, rel=1e-6) and sizes["hidden.weight"] == pytest.approx(0.7 * rates, rel=1e-6)
    assert sum(scores.diagnostics["sum of the learning rates, by segment"]) == pytest.approx(rates, rel=1e-6)
    assert scores.warnings == () and scores.unit == "change of the target"


def test_weight_decay_may_be_left_out(tmp_path):
    world = World(tmp_path / "run", "decay")
    replay = open_replay(world.run, loop=world.loop(), targets={"validation": (world.held_out, world.held_labels)})
    expected = PAIRS(Unrolled(segments=2, decay="none"), gather(world.run, replay)).mean(0)
    table = world.score("source:segments=2,decay=none", "source:segments=2")
    torch.testing.assert_close(table["source:segments=2,decay=none"].values, expected, rtol=1e-8, atol=1e-12)
    assert not torch.allclose(table["source:segments=2"].values, expected, rtol=1e-3)


def test_drawn_factors_have_the_mean_of_the_exact_ones(tmp_path):
    world = World(tmp_path / "run", "sgd")
    titles = [f"source:segments=1,factors=sampled{f',seed={seed}' if seed else ''}" for seed in range(12)]
    table = world.score("source:segments=1", *titles)
    exact = table["source:segments=1"].values
    drawn = torch.stack([table[title].values for title in titles])
    assert not torch.equal(drawn[0], drawn[1])
    # Near to the exact one each, and their mean nearer; not equal to it, because the exponential is not linear.
    each, mean = (drawn - exact).norm(dim=1).mean() / exact.norm(), (drawn.mean(0) - exact).norm() / exact.norm()
    assert float(each) < 0.3 and float(mean) < 0.6 * float(each)


def test_without_curvature_a_step_is_as_long_as_its_rate():
    x = torch.tensor([0.0, 1e-300, 1e-12, 1e-6, 1.0, 50.0, 1e6], dtype=torch.float64)
    expected = torch.tensor([1, 1, 1, 1 - 5e-7, 1 - torch.e**-1, 1 / 50, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(growth(x), expected, rtol=1e-9, atol=0)


class Quadratic:
    """Linear regression by whole batches with one output, from its optimum on, with small steps."""

    def __init__(self, folder, steps, decay=0.0):
        draw = torch.Generator().manual_seed(1)
        self.x = torch.randn(30, 3, generator=draw, dtype=torch.float64)
        noise = torch.randn(30, generator=draw, dtype=torch.float64)
        self.y = (self.x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + noise)[:, None]
        model = nn.Linear(3, 1, bias=False).double()
        matrix = self.x[:20].T @ self.x[:20] + decay * 20 * torch.eye(3, dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(torch.linalg.solve(matrix, self.x[:20].T @ self.y[:20]).T)
        optimizer = torch.optim.SGD(model.parameters(), lr=3.0 / steps, weight_decay=decay)
        loader = DataLoader(TensorDataset(self.x[:20], self.y[:20], torch.arange(20) % 2), 20)
        with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
            for _ in range(steps):
                for batch in recorder.epoch():
                    optimizer.zero_grad()
                    self.losses(model, batch).mean().backward()
                    optimizer.step()
                    recorder.batch(torch.zeros(len(batch[0]), 2), batch[2])
        self.loop = assay.Loop(model, optimizer, loader, losses=self.losses)
        self.folder = folder

    @staticmethod
    def losses(model, batch):
        return 0.5 * (model(batch[0]) - batch[1]).square().sum(1)

    def held(self, model):
        return 0.5 * (model(self.x[20:]) - self.y[20:]).square().mean()

    def score(self, *methods):
        table = assay.score(self.folder, list(methods), loop=self.loop, targets={"validation": self.held})
        return [scores.values for scores in table.values()]


def test_of_a_quadratic_it_is_the_exact_unrolled_answer_in_small_steps(tmp_path):
    apart = []
    for steps in (8, 16, 32):
        world = Quadratic(tmp_path / f"{steps}", steps, decay=0.1)
        ours, again, exact = world.score("source:segments=1", "source:segments=4", "sgd_influence")
        apart.append(float((ours - exact).norm() / exact.norm()))
        # The curvature is the same in each part, so that parts of any size add up to the whole.
        torch.testing.assert_close(again, ours, rtol=1e-9, atol=1e-12)
    assert apart[0] < 0.1 and apart[1] < 0.6 * apart[0] and apart[2] < 0.6 * apart[1]


def test_its_mean_is_that_of_its_queries(tmp_path):
    world = World(tmp_path / "run", "momentum")
    targets = {"validation": (world.held_out, world.held_labels)}
    found = assay.attribute(world.run, "source", loop=world.loop(), targets=targets)
    (scores,) = world.score("source").values()
    torch.testing.assert_close(found.reduce("mean").values, scores.values, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("given", "words"), [({"optimizer": "adam"}, "steps of Adam are taken for plain"), ({"clip": 0.1}, "were clipped")]
)
def test_what_is_taken_for_granted_is_said(tmp_path, given, words):
    world = World(tmp_path / "run", **given)
    scores = world.score("source", "source:reduce=sum")
    targets = {"validation": (world.held_out, world.held_labels)}
    told = [one.warnings for one in (*scores.values(), assay.attribute(world.run, "source", loop=world.loop(), targets=targets))]
    assert len(told) == 3 and all(any(words in one for one in warnings) for warnings in told)
    assert scores["source:reduce=sum"].diagnostics == scores["source"].diagnostics


def test_summed_losses_move_by_the_size_of_the_batch(tmp_path):
    world = World(tmp_path / "run", "sgd")
    loop = world.loop(reduction="sum")
    one, other = (open_replay(world.run, loop=each, targets={}) for each in (world.loop(), loop))
    ratio = other.step_sizes(range(1)).sizes["out.bias"] / one.step_sizes(range(1)).sizes["out.bias"]
    # Of 13 examples in batches of 5, 5 and 3.
    assert ratio == pytest.approx(13 / 3)


def test_targets_that_are_asked_for_together_share_the_factors(tmp_path, monkeypatch):
    world, made = World(tmp_path / "run"), []
    original = source._mean_curvature

    def counted(*given):
        made.append(None)
        return original(*given)

    monkeypatch.setattr(source, "_mean_curvature", counted)
    targets = {"one": (world.held_out[:4], world.held_labels[:4]), "two": (world.held_out[4:], world.held_labels[4:])}
    specs = [f"source:segments=3,target={name}" for name in targets]
    together = world.score(*specs, targets=targets)
    assert len(made) == 3
    for spec, (name, target) in zip(specs, targets.items(), strict=True):
        (alone,) = world.score(spec, targets={name: target}).values()
        torch.testing.assert_close(together[alone.title].values, alone.values, rtol=0, atol=0)
    # Other options make others.
    made.clear()
    world.score("source:segments=3,target=one", "source:segments=1,target=one", targets={"one": targets["one"]})
    assert len(made) == 4


def test_too_few_models_are_refused_with_a_cure_that_works(tmp_path):
    world = World(tmp_path / "run", "sgd", checkpoints="last")
    with pytest.raises(
        MissingEvidence, match=r"source: segments=3 needs as many kept models at least, and the run kept 2; .*choose segments=2"
    ):
        world.score("source", strict=True)
    assert world.score("source:segments=2")["source:segments=2"].values.isfinite().all()


def test_a_layer_without_factors_is_refused(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out, self.scale = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return self.out(inputs) * self.scale

    model = Scaled()
    inputs, labels = torch.randn(15, 3, generator=torch.Generator().manual_seed(0)), torch.arange(15) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(inputs[:12], labels[:12]), 4)
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        for x, y in recorder.epoch():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            recorder.batch(model(x), y)
    given = {"loop": assay.Loop(model, optimizer, loader), "targets": {"validation": (inputs[12:], labels[12:])}}
    for title, cure in (("source:segments=1", "tracin"), ("trak:projection=kronecker", "projection=dense")):
        with pytest.raises(UsageError, match=rf"Parameter scale is in Scaled, .*; choose {cure}"):
            assay.score(tmp_path / "run", title, strict=True, **given)
    assert assay.score(tmp_path / "run", "trak", **given)["trak"].values.isfinite().all()
