import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from assay.maths.trajectories import AdamUpdate, SGDUpdate, average_back, clip_back, clipped
from reference.derivatives import slopes_and_product
from reference.updates import averaged, step

UPDATES = {
    "sgd": SGDUpdate(),
    "decay": SGDUpdate(decay=0.1),
    "momentum": SGDUpdate(momentum=0.9, decay=0.01),
    "dampening": SGDUpdate(momentum=0.8, dampening=0.3),
    "nesterov": SGDUpdate(momentum=0.9, nesterov=True, decay=0.05),
    "adam": AdamUpdate(decay=0.1),
    "adam with a root": AdamUpdate(betas=(0.8, 0.95), root=1e-6),
    "adamw": AdamUpdate(decay=0.2, decoupled=True),
}
TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2),
}
EXAMPLES, DIMS, CLASSES = 7, 3, 3


def drawn(draw, *shape):
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def start(draw):
    return {"hidden": drawn(draw, DIMS, 4), "out": drawn(draw, 4, CLASSES)}


@pytest.mark.parametrize("name", TORCH)
def test_the_steps_are_those_of_torch(name):
    draw = torch.Generator().manual_seed(0)
    params = start(draw)
    mirror = [value.clone().requires_grad_() for value in params.values()]
    optimizer, buffers = TORCH[name](mirror), {}
    for count in range(6):
        gradients = {name: drawn(draw, *value.shape) for name, value in params.items()}
        for value, gradient in zip(mirror, gradients.values(), strict=True):
            value.grad = gradient.clone()
        optimizer.step()
        params, buffers = step(UPDATES[name], params, gradients, buffers, dict.fromkeys(params, 0.1), count)
        for ours, theirs in zip(params.values(), mirror, strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-13, atol=1e-14)


class Training:
    """A tanh net on a few examples: an order with an example twice in a batch, rates by step and by layer."""

    def __init__(self, update, seed, steps=5, limit=None):
        draw = torch.Generator().manual_seed(seed)
        self.update, self.limit = update, limit
        self.start, self.inputs = start(draw), drawn(draw, EXAMPLES, DIMS)
        self.labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=draw)
        self.held_out = drawn(draw, 4, DIMS), torch.randint(0, CLASSES, (4,), generator=draw)
        self.order = [torch.randint(0, EXAMPLES, (3 + count % 2,), generator=draw) for count in range(steps)]
        self.order[1][0] = self.order[1][1]
        self.rates = [{"hidden": 0.2 / (count + 1), "out": 0.1} for count in range(steps)]

    def losses(self, positions):
        x, y = self.inputs[positions], self.labels[positions]
        return lambda params: F.cross_entropy((x @ params["hidden"]).tanh() @ params["out"], y, reduction="none")

    def target(self, params):
        x, y = self.held_out
        return F.cross_entropy((x @ params["hidden"]).tanh() @ params["out"], y)

    def gradients(self, params, weights, positions):
        leaves = {name: value if value.requires_grad else value.clone().requires_grad_() for name, value in params.items()}
        mean = (weights[positions] * self.losses(positions)(leaves)).sum() / len(positions)
        found = torch.autograd.grad(mean, list(leaves.values()), create_graph=weights.requires_grad)
        return dict(zip(params, found, strict=True))

    def states(self, weights):
        """(params, buffers, raw gradients) before each step, and the final parameters."""
        params, buffers, seen = self.start, {}, []
        for count, positions in enumerate(self.order):
            gradients = self.gradients(params, weights, positions)
            seen.append((params, buffers, gradients))
            used = clipped(gradients, self.limit) if self.limit else gradients
            params, buffers = step(self.update, params, used, buffers, self.rates[count], count)
        return seen, params

    def unrolled(self):
        """d target / d weights by one graph from end to end."""
        weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(self.target(self.states(weights)[1]), weights)[0]

    def swept(self):
        """The same by walking backwards, step by step."""
        seen, final = self.states(torch.ones(EXAMPLES, dtype=torch.float64))
        final = {name: value.detach().requires_grad_() for name, value in final.items()}
        adjoint = dict(zip(final, torch.autograd.grad(self.target(final), list(final.values())), strict=True))
        total, carried = torch.zeros(EXAMPLES, dtype=torch.float64), {}
        for count, (params, buffers, gradients) in reversed(list(enumerate(seen))):
            used = clipped(gradients, self.limit) if self.limit else gradients
            back = self.update.back(adjoint, carried, params, used, buffers, self.rates[count], count)
            gamma = clip_back(back.gamma, gradients, self.limit) if self.limit else back.gamma
            positions = self.order[count]
            share = torch.full((len(positions),), 1 / len(positions), dtype=torch.float64)
            slopes, product = slopes_and_product(self.losses(positions), params, share, gamma)
            total.index_add_(0, positions, share * slopes)
            adjoint = {name: back.params[name] + product[name] for name in params}
            carried = back.buffers
        return total


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), steps=st.integers(2, 8))
@pytest.mark.parametrize("name", UPDATES)
def test_the_sweep_is_the_unrolled_training(name, seed, steps):
    training = Training(UPDATES[name], seed, steps)
    expected = training.unrolled()
    torch.testing.assert_close(training.swept(), expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def norms(training):
    seen, _ = training.states(torch.ones(EXAMPLES, dtype=torch.float64))
    return torch.stack([torch.cat([g.flatten() for g in gradients.values()]).norm() for _, _, gradients in seen])


@pytest.mark.parametrize("name", UPDATES)
def test_clipped_steps_too(name):
    training = Training(UPDATES[name], 1, steps=8)
    training.limit = float(norms(training).median())
    assert bool((norms(training) > training.limit).any()) and bool((norms(training) < training.limit).any())
    expected = training.unrolled()
    torch.testing.assert_close(training.swept(), expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("name", UPDATES)
def test_finite_differences_agree(name):
    training, size = Training(UPDATES[name], 2), 1e-5
    swept = training.swept()
    for example in range(EXAMPLES):
        weights = torch.ones(2, EXAMPLES, dtype=torch.float64)
        weights[:, example] += torch.tensor([size, -size])
        up, down = (float(training.target(training.states(row)[1])) for row in weights)
        assert (up - down) / (2 * size) == pytest.approx(float(swept[example]), rel=1e-4, abs=1e-7)


def test_a_coordinate_without_gradient_stays_finite():
    update, theta = AdamUpdate(), {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    gradient = {"x": torch.tensor([0.0, 0.5], dtype=torch.float64)}
    back = update.back({"x": torch.ones(2, dtype=torch.float64)}, {}, theta, gradient, {}, {"x": 0.1}, 0)
    assert all(bool(part["x"].isfinite().all()) for part in (back.gamma, back.params, *back.buffers.values()))


def test_a_short_gradient_is_not_clipped():
    gradients = {"x": torch.tensor([0.3, 0.4])}
    assert torch.equal(clipped(gradients, 0.5)["x"], gradients["x"])
    assert torch.equal(clip_back({"x": torch.ones(2)}, gradients, 0.5)["x"], torch.ones(2))
    torch.testing.assert_close(clipped(gradients, 0.25)["x"], torch.tensor([0.15, 0.2]))


@pytest.mark.parametrize("decay", [0.2, 0.99])
def test_averages_are_those_of_torch_and_go_back_as_autograd_does(decay):
    draw, module = torch.Generator().manual_seed(0), torch.nn.Linear(3, 2).double()
    mirror = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
    averages, thetas = {}, []
    for _ in range(4):
        thetas.append({name: drawn(draw, *value.shape).requires_grad_() for name, value in module.named_parameters()})
        averages = averaged(averages, thetas[-1], decay)
        module.load_state_dict(thetas[-1])
        mirror.update_parameters(module)
    for name, value in mirror.module.named_parameters():
        torch.testing.assert_close(averages[name], value, rtol=1e-13, atol=1e-14)
    pull = {name: drawn(draw, *value.shape) for name, value in averages.items()}
    target = torch.stack([(pull[name] * value).sum() for name, value in averages.items()]).sum()
    carried, none = pull, {name: torch.zeros_like(value) for name, value in pull.items()}
    for place in (3, 2, 1, 0):
        expected = torch.autograd.grad(target, list(thetas[place].values()), retain_graph=True)
        back, carried = average_back(none, carried, decay, first=place == 0)
        for ours, theirs in zip(back.values(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert not any(value.any() for value in carried.values())
    both, _ = average_back(pull, pull, decay)
    torch.testing.assert_close(both["bias"], (2 - decay) * pull["bias"])
