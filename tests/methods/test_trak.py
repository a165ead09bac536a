import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import MissingEvidence, NumericalError, UsageError
from assay.experiments.evidence import open_replay
from assay.maths.projections import rademacher
from assay.methods.trak import trak
from assay.replay.model_batches import ModelBatch
from experiments import small
from methods.loops import World

VARIANTS = [
    {},
    {"output": "loss", "projection": "kronecker", "damping": 0.1},
    {"output": "logit", "checkpoints": "all"},
    {"kernel": "dot", "output": "loss", "checkpoints": 2},
    {"kernel": "cosine", "reduce": "max"},
    {"output": "methods.test_trak.brier", "damping": 0.5},
]
REFUSED = [
    "output=entropy",
    "output=methods.test_trak.nobody",
    "output=methods.nowhere.function",
    "output=torch.exp",
    "output=methods.test_trak.brier@00000000",
    "output=.brier",
    "output=..methods.test_trak.brier",
    "kernel=rbf",
    "projection=sparse",
    "project=0",
    "side=0,projection=kronecker",
    "checkpoints=0",
    "checkpoints=first",
    "damping=-1",
    "damping=inf",
    "side=3",
    "project=5,projection=kronecker",
    "damping=0.2,kernel=dot",
]


def brier(logits, labels):
    """An output function of a user's: Brier's score, as a gain."""
    p = logits.softmax(1)
    return p[range(len(labels)), labels] - p.square().sum(1) / 2


def PAIRS(method, evidence):
    """From the definition: gradients by autograd one by one, whole matrices, the linear system of each query."""
    queries = evidence.queries(method.target)
    trained = [epoch for epoch in evidence.checkpoints.kept if epoch >= 0]
    count = {"last": 1, "all": len(trained)}.get(method.checkpoints, method.checkpoints)
    kernel = torch.zeros(len(queries.ids), len(evidence.ids), dtype=torch.float64)
    missing = torch.zeros(len(evidence.ids), dtype=torch.float64)
    labels = evidence.labels if method.output != "loss" else None
    for epoch in trained[-count:]:
        model = evidence.checkpoints.at(epoch)
        asked, _ = rows_of(method, model.queries(method.target), queries.labels)
        own, errors = rows_of(method, model.batches(), labels)
        kernel += kernel_of(method, asked, own) / count
        missing += (1 if errors is None or method.kernel != "trak" else errors) / count
    return kernel * missing


def kernel_of(method, asked, own):
    if method.kernel == "dot":
        return asked @ own.T
    if method.kernel == "cosine":
        return torch.tensor([[float(F.cosine_similarity(q, e, 0)) for e in own] for q in asked], dtype=torch.float64)
    moments = sum(torch.outer(row, row) for row in own)
    damped = moments + method.damping * moments.trace() / len(moments) * torch.eye(len(moments), dtype=torch.float64)
    return torch.stack([torch.linalg.solve(damped, row) for row in asked]) @ own.T


def rows_of(method, batches, labels):
    """Projected gradient of each row's output, and 1 - p of its label."""
    found, errors = [], []
    for batch in batches:
        leaves = {name: value.detach().clone().requires_grad_() for name, value in batch.params.items()}
        if method.output == "loss":
            values = batch.losses(leaves)
        else:
            logits, own = batch.outputs(leaves), labels[batch.positions]
            p = logits.softmax(1)[range(len(own)), own]
            values = {
                "margin": lambda p=p: torch.log(p / (1 - p)),
                "logit": lambda logits=logits, own=own: logits[range(len(own)), own],
            }.get(method.output, lambda logits=logits, own=own: brier(logits, own))()
            errors += (1 - p).tolist() if method.output in ("margin", "logit") else [1.0] * len(own)
        for value in values:
            gradient = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), retain_graph=True), strict=True))
            found.append(projected(method, gradient))
    return torch.stack(found), torch.tensor(errors, dtype=torch.float64) if errors else None


def projected(method, gradient):
    """By the whole matrix. A kronecker projection is tested where nothing is left as it is, below."""
    whole = torch.cat([value.flatten() for value in gradient.values()])
    if method.projection == "kronecker" or len(whole) <= method.project:
        return whole.double()
    return whole.double() @ torch.cat(
        [rademacher(method.seed, name, range(value.numel()), method.project) for name, value in gradient.items()]
    )


def attributed(world, title):
    targets = {"validation": (world.held_out, world.held_labels)}
    found = assay.attribute(world.run, title, loop=world.loop(), targets=targets)
    return torch.cat([block.values for block in found.blocks()])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("trak") / "run", "sgd")


CASES = [
    {"project": 7},
    {"project": 7, "seed": 3, "output": "loss", "damping": 0.0},
    {"project": 40, "output": "logit", "checkpoints": "all", "damping": 1.0},
    {"project": 5, "kernel": "cosine", "checkpoints": 2},
    {"project": 5, "kernel": "dot", "output": "loss"},
    {"project": 6, "output": "methods.test_trak.brier"},
]


@pytest.mark.parametrize("given", CASES, ids=str)
def test_it_is_the_definition_with_the_whole_matrix(world, given):
    method = assay.methods.trak.Trak(**given)
    replay = open_replay(world.run, loop=world.loop(), targets={"validation": (world.held_out, world.held_labels)})
    evidence = assay.experiments.evidence.gather(world.run, replay)
    expected = PAIRS(method, evidence)
    torch.testing.assert_close(attributed(world, method.title), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_the_pure_function_is_the_formula():
    draw = torch.Generator().manual_seed(0)
    queries, examples, errors = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((2, 3), (9, 3), (9,)))
    inverse = torch.linalg.inv(examples.T @ examples)
    torch.testing.assert_close(trak(queries, examples, errors, 0.0), queries @ inverse @ examples.T * errors)
    # The hat matrix of least squares: fitted values do not move by a change of basis.
    turn = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(trak(queries @ turn, examples @ turn, errors, 0.0), trak(queries, examples, errors, 0.0))


def test_an_orthogonal_projection_of_full_rank_changes_nothing():
    draw = torch.Generator().manual_seed(0)
    queries, examples = (torch.randn(rows, 6, generator=draw, dtype=torch.float64) for rows in (2, 9))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64)).Q
    torch.testing.assert_close(trak(queries @ turn, examples @ turn, damping=0.3), trak(queries, examples, damping=0.3))


@pytest.mark.parametrize("given", ["project=44", "project=7"])
def test_singular_moments_are_refused_with_a_cure_that_works(world, given):
    # 38 parameters and 13 examples.
    title = f"trak:{given},damping=0"
    if given == "project=7":
        assert attributed(world, title).isfinite().all()
        return
    with pytest.raises(
        NumericalError, match=r"38 projected numbers have rank 13, .* with damping=0 no inverse; choose a damping above 0"
    ):
        attributed(world, title)
    assert attributed(world, f"trak:{given}").isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_that_depend_on_each_other_up_to_rounding_are_refused(dtype):
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        examples = torch.randn(40, 4, generator=draw, dtype=dtype)
        examples = torch.cat([examples, -examples.sum(1, keepdim=True), examples[:, :2] / 3], 1)
        with pytest.raises(ValueError, match=r"7 projected numbers have rank 4, .*; choose a damping above 0, such as 0\.1"):
            trak(examples[:2], examples, damping=0.0)
        assert trak(examples[:2], examples, damping=0.1).isfinite().all()
        assert trak(examples[:2, :4], examples[:, :4], damping=0.0).isfinite().all()


@pytest.mark.parametrize(("value", "words"), [(0.0, "gradients of all examples are 0"), (math.nan, "a gradient is not finite")])
def test_gradients_that_say_nothing_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        trak(torch.ones(1, 3), torch.full((5, 3), value))


def test_an_example_that_the_model_is_certain_of_has_finite_gradients(tmp_path):
    from assay.maths.margins import log_odds_derivative

    logits = torch.tensor([[900.0, 0.0, -1.0], [-900.0, 3.0, 900.0], [1.0, 2.0, 0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    found = log_odds_derivative(logits, labels)
    torch.testing.assert_close(found[0], torch.tensor([1.0, -1 / (1 + math.exp(-1)), -1 / (1 + math.e)], dtype=torch.float64))
    leaf = logits[2:].clone().requires_grad_()
    p = leaf.softmax(1)[0, 1]
    torch.testing.assert_close(found[2:], torch.autograd.grad(torch.log(p / (1 - p)), leaf)[0])
    assert found.isfinite().all() and torch.equal(found.sum(1).abs() < 1e-12, torch.ones(3, dtype=torch.bool))


class Counting:
    """Rows whose gradients are taken from now on, and whose outputs are looked at."""

    def __init__(self, monkeypatch):
        self.gradients = self.outputs = 0
        grads, pairs, outputs = ModelBatch.grads, ModelBatch.layer_pairs, ModelBatch.outputs

        def counted(self_, *given):
            self.gradients += len(self_.positions)
            return grads(self_, *given)

        def of_layers(self_, *given):
            self.gradients += len(self_.positions)
            return pairs(self_, *given)

        def looked(self_, *given):
            self.outputs += len(self_.positions)
            return outputs(self_, *given)

        monkeypatch.setattr(ModelBatch, "grads", counted)
        monkeypatch.setattr(ModelBatch, "layer_pairs", of_layers)
        monkeypatch.setattr(ModelBatch, "outputs", looked)

    def taken(self):
        found, self.gradients, self.outputs = (self.gradients, self.outputs), 0, 0
        return found


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trak") / "run"
    return small.recorded(folder, validation=0.1, models=2, record={"checkpoints": "every"})


@pytest.mark.parametrize("projection", ["project=20", "projection=kronecker,side=4"])
def test_other_queries_read_no_training_examples_gradient(planned, tmp_path, monkeypatch, projection):
    run, counting = small.copied(planned, tmp_path / "run"), Counting(monkeypatch)
    n, spec = len(run.ids), f"trak:{projection},checkpoints=2"
    first = assay.attribute(run, spec)
    held = len(first.queries)
    # Two epochs of two models; the outputs of the examples give the gradient's direction, and once more 1 - p.
    assert counting.taken() == (4 * (n + held), 4 * (2 * n + held))
    one = first.queries[0]
    other = assay.attribute(run, f"trak:target=id={one},{projection},checkpoints=2")
    assert counting.taken() == (4, 4)
    torch.testing.assert_close(other.row(one), first.row(one), rtol=1e-3, atol=1e-5 * float(first.row(one).abs().max()))
    # Another kernel reads the same gradients; another seed does not.
    assay.attribute(run, f"{spec},kernel=dot")
    assert counting.taken() == (4 * held, 4 * held)
    (scores,) = assay.score(run, spec).values()
    assert counting.taken()[0] == 4 * held
    assert (
        scores.diagnostics["kept with the run (first model)"] == "yes"
        and scores.diagnostics["bytes per example and model (first model)"] <= 80
    )
    torch.testing.assert_close(scores.values, first.reduce("mean").values, rtol=1e-9, atol=1e-12)
    assay.attribute(run, f"{spec},seed=1")
    assert counting.taken()[0] == 4 * (n + held)


def test_models_of_a_recording_are_averaged_kernel_by_kernel(planned, tmp_path):
    run = small.copied(planned, tmp_path / "run")
    title = "trak:project=20"
    found = assay.attribute(run, title)
    kernels, errors = [], []
    for member in (run, *run.members):
        replay = open_replay(member)
        evidence = assay.experiments.evidence.gather(member, replay)
        method = assay.methods.trak.Trak(project=20)
        model = replay.at(replay.kept[-1])
        asked, _ = rows_of(method, model.queries("validation"), evidence.queries("validation").labels)
        own, missing = rows_of(method, model.batches(), evidence.labels)
        kernels.append(kernel_of(method, asked.double(), own.double()))
        errors.append(missing)
    expected = sum(kernels) / 2 * (sum(errors) / 2)
    values = torch.cat([block.values for block in found.blocks()])
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    apart = (kernels[0] * errors[0] + kernels[1] * errors[1]) / 2
    assert float((values - apart).norm()) > 10 * float((values - expected).norm())


def test_what_is_damaged_or_of_another_model_is_made_again(planned, tmp_path, monkeypatch):
    run, counting, title = (
        small.copied(planned, tmp_path / "run"),
        Counting(monkeypatch),
        "trak:output=loss,kernel=dot,project=20",
    )
    expected = assay.score(run, title)[title].values
    n = len(run.ids)
    assert counting.taken()[0] > n
    (folder, *_) = sorted((run.folder / "features").glob("*/*"))
    part, head = folder / "part-000000.safetensors", folder / "rows.json"

    def flip(path):
        body = bytearray(path.read_bytes())
        body[-3] ^= 1
        path.write_bytes(body)

    for spoil in (flip, lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])):
        for path in (part, head):
            spoil(path)
            torch.testing.assert_close(assay.score(run, title)[title].values, expected, rtol=0, atol=0)
            assert n < counting.taken()[0] < 2 * n
    assert assay.score(run, title)[title].values.equal(expected) and counting.taken()[0] < n
    # Gradients of other examples, or by another version, at the same place.
    monkeypatch.setattr("assay.runs.rows.__version__", "0.0.1")
    assay.score(run, title)
    assert counting.taken()[0] > 2 * n


def test_a_folder_that_cannot_be_written_to_is_scored_all_the_same(planned, tmp_path, monkeypatch):
    from assay.core.errors import NotWritten

    run, title = small.copied(planned, tmp_path / "run"), "trak:output=loss,project=20"
    expected = assay.score(run, title)[title]

    def full(*_):
        raise NotWritten("the disk is full")

    monkeypatch.setattr("assay.runs.rows.save_tensors", full)
    other = small.copied(planned, tmp_path / "other")
    found = assay.score(other, title)[title]
    assert found.values.equal(expected.values) and found.diagnostics["kept with the run (first model)"] == "no"
    assert not (other.folder / "features").exists() or not list((other.folder / "features").glob("*/*/*.json"))


def test_more_models_than_were_kept_are_refused(planned):
    with pytest.raises(
        MissingEvidence, match="trak:checkpoints=4 compares gradients of 4 models after training, and the run kept 3"
    ):
        assay.score(planned, "trak:checkpoints=4")


def test_losses_of_another_kind_are_compared_by_themselves(tmp_path):
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(15, 3, generator=draw), torch.arange(15) % 2
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(inputs[:12], labels[:12]), 4)

    def losses(model, batch):
        return (model(batch[0]) - F.one_hot(batch[1], 2)).square().sum(1)

    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="last")) as recorder:
        for x, y in recorder.epoch():
            optimizer.zero_grad()
            losses(model, (x, y)).mean().backward()
            optimizer.step()
            recorder.batch(model(x), y)
    given = {"loop": assay.Loop(model, optimizer, loader, losses=losses), "targets": {"validation": (inputs[12:], labels[12:])}}
    with pytest.raises(UsageError, match=r"output=margin is for losses that are the cross-entropy .*; choose output=loss"):
        assay.score(tmp_path / "run", "trak", strict=True, **given)
    assert assay.score(tmp_path / "run", "trak:output=loss", **given)["trak:output=loss"].values.isfinite().all()


def mean_logit(logits, labels):
    return logits.mean()


def constant(logits, labels):
    return torch.zeros(len(labels))


@pytest.mark.parametrize("function", [mean_logit, constant])
def test_an_output_function_that_gives_no_number_of_each_row_is_refused(world, function):
    with pytest.raises(UsageError, match=r"let it give one number for each row that depends on the logits"):
        attributed(world, f"trak:output=methods.test_trak.{function.__name__}")


def test_an_output_function_that_cannot_be_imported_is_one_sentence_with_a_cure(tmp_path, monkeypatch):
    for name, code in {"my_output": "def gap(logits, labels):\n    return logits[:, 0]\n", "broken_output": "1 +\n"}.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "lacking_output.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    # As a console script has it: its own folder and not the current one.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    with pytest.raises(
        UsageError, match=r"Python finds no module my_output on its path, .* \(PYTHONPATH=\. is the current one\)"
    ):
        assay.methods.parse("trak:output=my_output.gap")
    cured = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])}
    code = "from assay.methods import parse; print(parse('trak:output=my_output.gap').title)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=cured, capture_output=True, text=True)
    assert done.stdout.startswith("trak:output=my_output.gap@"), done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    for output, words in (
        ("broken_output.gap", r"broken_output cannot be imported \(SyntaxError: .*\); mend that first\.$"),
        ("lacking_output.gap", "lacking_output cannot be imported .*No module named 'no_such_package'"),
        ("my_output.part.gap", r"there is no module my_output\.part; give the dotted name of a function that is there\.$"),
        ("my_output.nobody", "my_output has no function of Python of that name"),
        (".gap", "no dotted name of a function of yours; give one of these"),
    ):
        with pytest.raises(UsageError, match=words):
            assay.methods.parse(f"trak:output={output}")
    assert assay.methods.parse("trak:output=my_output.gap").title.startswith("trak:output=my_output.gap@")


def test_the_code_of_an_output_function_stands_in_the_title(monkeypatch):
    import methods.test_trak as own

    def made():
        return assay.methods.trak.Trak(output="methods.test_trak.brier")

    first = made().title
    assert first.startswith("trak:output=methods.test_trak.brier@") and first == made().title
    assert assay.methods.parse(first).title == first
    monkeypatch.setattr(own, "brier", lambda logits, labels: [one.sum() for one in logits])
    assert made().title != first
    with pytest.raises(UsageError, match="the function's code is another now"):
        assay.methods.parse(first)
