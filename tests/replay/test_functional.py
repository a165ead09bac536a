import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.core.errors import UsageError
from assay.replay.functional import Functional
from assay.replay.losses import cross_entropies, cross_entropies_of
from assay.replay.model_batches import ModelBatch
from reference.curvature import gauss_newton, hessian
from reference.derivatives import flat, gradients_one_by_one

EXAMPLES, CLASSES = 11, 3
RULES, CHUNKS = "norms by layer", "gradients in chunks of examples"


def smoothed(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none", label_smoothing=0.1)


def world(kind):
    torch.manual_seed(0)
    if kind == "conv":
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES))
        inputs = torch.randn(EXAMPLES, 1, 6, 6, dtype=torch.float64)
    else:
        model, inputs = (
            nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)),
            torch.randn(EXAMPLES, 4, dtype=torch.float64),
        )
    model = model.double()
    params = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: torch.rand_like(value) + 0.5 for name, value in model.named_buffers() if value.is_floating_point()}
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    return model, params, buffers, direction, (inputs, torch.randint(0, CLASSES, (EXAMPLES,)))


@pytest.mark.parametrize("losses", [cross_entropies, smoothed])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("way", [RULES, CHUNKS])
def test_products_are_those_of_each_gradient(kind, way, losses):
    model, params, buffers, direction, batch = world(kind)
    if way == CHUNKS:
        # An own kind of layer, for which there is no rule.
        for layer in model.modules():
            layer.__class__ = type("Own", (type(layer),), {})
    functional = Functional(model, losses)
    found, said = functional.products(params, buffers, batch, tuple(params), direction)
    again, _ = functional.products(params, buffers, batch, tuple(params), direction)
    assert said == way and all(torch.equal(again.grad_dots[name], found.grad_dots[name]) for name in params)
    model.load_state_dict(buffers, strict=False)
    model.eval()
    torch.testing.assert_close(functional(params, buffers, batch), losses(model, batch).detach(), rtol=0, atol=1e-14)
    each = gradients_one_by_one(model, params, *batch, lambda outputs, labels: losses(nn.Identity(), (outputs, labels)))
    torch.testing.assert_close(torch.stack(list(found.grad_dots.values())).sum(0), each @ flat(direction), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.stack(list(found.grad_sq_norms.values())).sum(0), each.square().sum(1), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("made", [False, True])
def test_a_sweep_needs_no_value_of_a_gradient_unless_a_weight_is_made_of_others(made):
    model, *_, batch = world("conv")
    if made:
        nn.utils.parametrizations.weight_norm(model[0])
    functional, found = Functional(model), []
    buffers = {name: value for name, value in model.named_buffers()}
    for valued in (True, False):
        leaves = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
        losses, seen = functional.with_statistics(leaves, buffers, batch, valued=valued)
        weights = torch.ones_like(losses).requires_grad_()
        first = torch.autograd.grad((weights * losses).sum(), list(leaves.values()), create_graph=True)
        assert bool(torch.stack([part.isnan().any() for part in first]).any()) == (not valued and not made)
        along = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view(part.shape)).sum() for part in first)
        along = along + sum((value * value.detach()).sum() for calls in seen.values() for _, value in calls)
        found.append(torch.autograd.grad(along, [weights, *leaves.values()]))
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in found[1])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("outputs", [lambda x: (x, x), lambda x: x[:, 0], lambda x: x[:, :1]], ids=["two", "flat", "one logit"])
def test_outputs_that_are_no_logits_are_refused(outputs):
    class Model(nn.Linear):
        def forward(self, x):
            return outputs(super().forward(x))

    model = Model(4, CLASSES)
    params = {name: value.detach() for name, value in model.named_parameters()}
    with pytest.raises(
        UsageError,
        match=r"are not \(batch, classes\) with at least two classes|returns a tuple, .* \(model\(batch\[0\]\)\[0\], batch",
    ):
        Functional(model).predicted(params, {}, (torch.randn(EXAMPLES, 4), torch.zeros(EXAMPLES, dtype=torch.int64)))


class Boxed(nn.Module):
    """Returns more than its logits."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, inputs):
        return {"logits": self.inner(inputs), "size": torch.tensor(3.0)}


def boxed_smoothed(model, batch):
    return F.cross_entropy(model(batch["x"])["logits"], batch["y"], reduction="none", label_smoothing=0.1)


def boxed_forward(model, batch):
    return model(batch["x"])["logits"] / 2, batch["y"]


def taken(kind, form):
    """Model, functional and batch by which losses are given, and logits and losses as functions written out."""
    model, params, buffers, _, (x, y) = world(kind)
    if form == "pair":
        functional, batch = Functional(model), (x, y)
    else:
        model = Boxed(model)
        params, buffers = ({f"inner.{name}": value for name, value in part.items()} for part in (params, buffers))
        batch = {"x": x, "y": y}
        functional = Functional(model, cross_entropies_of(boxed_forward) if form == "forward" else boxed_smoothed, boxed_forward)

    def outputs(at):
        z = torch.func.functional_call(model, {**params, **buffers, **at}, (x,))
        return z if form == "pair" else z["logits"] / 2 if form == "forward" else z["logits"]

    def loss_of(z):
        return F.cross_entropy(z, y, reduction="none", label_smoothing=0.1 if form == "losses" else 0.0)

    return model, functional, params, buffers, batch, outputs, loss_of


@pytest.mark.parametrize("form", ["pair", "forward", "losses"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("whole", [True, False])
def test_curvature_products_are_those_of_the_dense_matrices(kind, form, whole):
    model, functional, params, buffers, batch, outputs, loss_of = taken(kind, form)
    chosen = params if whole else dict(list(params.items())[-2:])
    direction = {name: torch.randn_like(value) for name, value in chosen.items()}
    found = [functional.hvp(params, buffers, batch, direction), functional.ggnvp(params, buffers, batch, direction)]
    assert model.training and all(layer.training for layer in model.modules())
    model.eval()
    H, G = hessian(lambda at: loss_of(outputs(at)), chosen), gauss_newton(outputs, loss_of, chosen)
    for product, matrix in zip(found, (H, G), strict=True):
        torch.testing.assert_close(flat(product), matrix @ flat(direction), rtol=1e-10, atol=1e-10)
    logits = outputs({}) if form != "losses" else outputs({}) / 2
    torch.testing.assert_close(functional.outputs(params, buffers, batch), logits.detach(), rtol=0, atol=1e-14)
    leaves = {name: value.clone().requires_grad_() for name, value in chosen.items()}
    assert functional.outputs({**params, **leaves}, buffers, batch).requires_grad


@pytest.mark.parametrize("form", ["pair", "losses"])
@pytest.mark.parametrize("size", [None, 2])
def test_gradients_in_chunks_are_those_of_each_example(form, size, monkeypatch):
    model, functional, params, buffers, batch, outputs, loss_of = taken("conv", form)
    names = tuple(params)[-2:]
    if size is not None:
        monkeypatch.setattr("assay.replay.functional.CHUNK_BYTES", size * sum(8 * params[name].numel() for name in names))
    rows = []
    for place, part in functional.grads(params, buffers, batch, names):
        assert model.training and place == slice(len(rows), len(rows) + len(part[names[0]])) and list(part) == list(names)
        rows += [flat({name: value[n] for name, value in part.items()}) for n in range(place.stop - place.start)]
        assert size is None or len(part[names[0]]) <= size
    model.eval()
    each = torch.autograd.functional.jacobian(
        lambda row: loss_of(
            outputs({n: p.view_as(params[n]) for n, p in zip(names, row.split([params[n].numel() for n in names]), strict=True)})
        ),
        flat({name: params[name] for name in names}),
    )
    torch.testing.assert_close(torch.stack(rows), each, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["pair", "forward", "losses"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_layer_pairs_make_the_gradients(kind, form):
    model, functional, params, buffers, batch, _, _ = taken(kind, form)
    names, found = tuple(params), {}
    pairs = functional.layer_pairs(params, buffers, batch, names)
    assert model.training and all(layer.training for layer in model.modules())
    for pair in pairs:
        for name, value in pair.summed(torch.arange(1.0, EXAMPLES + 1, dtype=torch.float64)[pair.rows]).items():
            found[name] = found.get(name, 0) + value
    for rows, part in functional.grads(params, buffers, batch, names):
        for name, value in part.items():
            factors = torch.arange(1.0, EXAMPLES + 1, dtype=torch.float64)[rows]
            found[name] = found[name] - torch.einsum("n,n...->...", factors, value)
    assert set(found) == set(params)
    assert all(float(value.abs().max()) < 1e-10 for value in found.values())


@pytest.mark.parametrize("form", ["pair", "forward", "losses"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_derivatives_by_the_outputs_make_the_gradients_and_the_gauss_newton_matrix(kind, form):
    model, functional, params, buffers, batch, _, _ = taken(kind, form)
    names, modelled = tuple(params), ModelBatch(torch.arange(EXAMPLES), params, functional, buffers, batch)
    first, root = modelled.output_derivatives()
    own, by_outputs = (_each(modelled.grads(names, cotangents), params) for cotangents in (None, first))
    torch.testing.assert_close(by_outputs, own, rtol=1e-9, atol=1e-11)
    by_pairs: dict[str, torch.Tensor] = {}
    factors = torch.arange(1.0, EXAMPLES + 1, dtype=torch.float64)
    for pair in modelled.layer_pairs(names, first):
        for name, value in pair.summed(factors[pair.rows]).items():
            by_pairs[name] = by_pairs.get(name, 0) + value
    torch.testing.assert_close(flat({name: by_pairs[name] for name in names}), factors @ own, rtol=1e-9, atol=1e-11)
    # The sum over the columns of the square root is the matrix itself.
    columns = [_each(modelled.grads(names, column), params) for column in root.unbind(2)]
    made = sum(column.mT @ column for column in columns)
    assert model.training and all(layer.training for layer in model.modules())
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    torch.testing.assert_close(made @ flat(direction), flat(modelled.ggnvp(direction)), rtol=1e-9, atol=1e-11)
    with pytest.raises(UsageError, match="do not fit outputs of"):
        _each(modelled.grads(names, first[:, :2]), params)


def test_cotangents_go_where_the_model_is():
    # Rows of them are chosen by an index that is there.
    _, batch = Functional(nn.Linear(4, CLASSES, device="meta")).pulled(
        (torch.zeros(2, 4), torch.zeros(2)), torch.ones(2, CLASSES)
    )
    assert batch.cotangents.device.type == "meta"


def _each(chunks, params):
    """The gradients of all examples, a row each."""
    return torch.cat([torch.cat([part[name].flatten(1) for name in params], 1) for _, part in chunks])


def test_losses_that_are_not_convex_in_the_outputs_have_no_square_root():
    def concave(model, batch):
        return -model(batch[0]).square().sum(1)

    model, params, buffers, _, batch = world("linear")
    with pytest.raises(UsageError, match=r"not convex in the outputs.*give losses= that are convex in the outputs"):
        Functional(model, concave).output_derivatives(params, buffers, batch)
    first, root = Functional(model, linear).output_derivatives(params, buffers, batch)
    assert not root.any() and first.shape == root.shape[:2]


def test_layer_pairs_that_do_not_make_the_gradients_are_refused():
    model, params, buffers, _, batch = world("linear")
    with pytest.raises(UsageError, match=r"Parameter 0\.weight is used elsewhere too"):
        Functional(model, penalised).layer_pairs(params, buffers, batch, tuple(params))


def penalised(model, batch):
    return cross_entropies(model, batch) + 0.01 * model[0].weight.square().sum()


def called_twice(model, batch):
    return cross_entropies(model, batch) + cross_entropies(model, (batch[0] / 2, batch[1]))


def around(model, batch):
    return F.cross_entropy(model[2](model[1](model[0](batch[0]))), batch[1], reduction="none")


def linear(model, batch):
    return -model(batch[0]).gather(1, batch[1][:, None])[:, 0]


REFUSED = {
    penalised: r"read parameters beside what the model returns.*weight_decay\.$",
    called_twice: r"call the model 2 times.*let losses\(model, batch\) call model\(\.\.\.\) once\.$",
    around: "call the model 0 times",
    linear: "linear in the outputs",
}


@pytest.mark.parametrize("losses", REFUSED, ids=lambda losses: losses.__name__)
def test_losses_that_are_no_function_of_outputs_have_a_hessian_only(losses):
    model, params, buffers, direction, batch = world("linear")
    functional = Functional(model, losses)
    with pytest.raises(UsageError, match=REFUSED[losses]):
        functional.ggnvp(params, buffers, batch, direction)
    H = hessian(lambda at: losses(_Called(model, at), batch), params)
    torch.testing.assert_close(
        flat(functional.hvp(params, buffers, batch, direction)), H @ flat(direction), rtol=1e-10, atol=1e-10
    )


class _Called:
    """A sequence of layers with other parameters."""

    def __init__(self, model, at):
        self.model, self.at = model, at

    def __getitem__(self, place):
        part = _Called(
            self.model[place], {n.removeprefix(f"{place}."): v for n, v in self.at.items() if n.startswith(f"{place}.")}
        )
        part.weight = part.at.get("weight")
        return part

    def __call__(self, x):
        return torch.func.functional_call(self.model, self.at, (x,))


def test_padding_rows_have_no_curvature_as_they_have_no_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, CLASSES)).double()
    batch = torch.tensor([[0, 1], [2, 0], [3, 4]]), torch.tensor([0, 1, 2])
    params = {name: value.detach().clone() for name, value in model.named_parameters()}
    params["0.weight"][0] = 0.5
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    without = {**direction, "0.weight": direction["0.weight"].index_fill(0, torch.tensor(0), 0)}
    functional = Functional(model)
    for product in (functional.hvp, functional.ggnvp):
        one, other = (flat(product(params, {}, batch, along)) for along in (direction, without))
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)
        assert not product(params, {}, batch, direction)["0.weight"][0].any() and one.norm() > 0
