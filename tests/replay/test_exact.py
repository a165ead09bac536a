"""Exact influence of nets that are hard to differentiate: equal to central differences of a training written by hand, or refused."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import NumericalError, UsageError
from assay.replay.derivative_check import STEPS
from assay.replay.derivative_check import _compared as compared
from assay.replay.replay import WRONG

EXAMPLES, CLASSES, EPOCHS, BATCH = 12, 3, 3, 4
# What torch says of a reentrant checkpoint in evaluation.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.2),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.05, eps=1e-4, weight_decay=0.1),
}


class Checkpointed(nn.Module):
    def __init__(self, reentrant, dropout=0.0):
        super().__init__()
        self.first, self.body, self.out = (
            nn.Linear(5, 6),
            nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(dropout)),
            nn.Linear(6, CLASSES),
        )
        self.reentrant = reentrant

    def forward(self, x):
        return self.out(checkpoint(self.body, torch.tanh(self.first(x)), use_reentrant=self.reentrant))


class OwnNorm(nn.Module):
    """Normalises by running statistics of its own, which are written in training and read in evaluation."""

    def __init__(self, features):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x):
        mean, var = (x.mean(0), x.var(0)) if self.training else (self.running_mean, self.running_var)
        if self.training:
            self.running_mean.lerp_(mean.detach(), 0.1)
            self.running_var.lerp_(var.detach(), 0.1)
        return (x - mean) / (var + 1e-5).sqrt()


class Watched(nn.Module):
    """Keeps what nobody reads: a counter, the features of the last batch, a running mean for a plot; and a temperature that only falls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(6))
        self.register_buffer("temperature", torch.full((), 2.0))
        self.first, self.out = nn.Linear(5, 6), nn.Linear(6, CLASSES)
        self.features = None

    def forward(self, x):
        self.features = torch.tanh(self.first(x))
        if self.training:
            self.steps += 1
            self.seen.lerp_(self.features.detach().mean(0), 0.1)
            self.temperature.mul_(0.9)
        return self.out(self.features) / self.temperature


class Centred(nn.Module):
    """Subtracts a mean that it keeps as a plain attribute, and that training moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(6))
        self.first, self.out = nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if self.training:
            self.centre.lerp_(hidden.detach().mean(0), 0.3)
        return self.out(hidden - self.centre)


class Twice(nn.Module):
    """One BatchNorm for two places."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.first, self.second, self.norm, self.out = (
            nn.Linear(5, 6),
            nn.Linear(6, 6),
            nn.BatchNorm1d(6, momentum=momentum),
            nn.Linear(6, CLASSES),
        )

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.second(torch.tanh(self.norm(self.first(x)))))))


class Shared(nn.Module):
    """One weight in two layers, one layer under two names, and a normalisation under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.again, self.norm, self.out = self.second, nn.BatchNorm1d(5), nn.Linear(5, CLASSES)
        self.tail = nn.Sequential(self.norm, nn.Tanh(), self.out)

    def forward(self, x):
        return self.tail(torch.tanh(self.again(torch.tanh(self.first(x)))))


class Tokens(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 6, **settings), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.out(torch.tanh(self.table(x.abs().mul(2).long().clamp(max=6)).sum(1)))


class Scaled(torch.autograd.Function):
    """Twice its input, whose derivative forgets to say so when it is differentiated itself."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(scale)
        return x * scale.detach()

    @staticmethod
    def backward(ctx, gradient):
        (scale,) = ctx.saved_tensors
        return gradient * scale.detach(), None


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.out(Scaled.apply(hidden, 1 + hidden.square()))


def mlp(wrap=lambda layer: layer, norm=nn.Identity):
    return nn.Sequential(wrap(nn.Linear(5, 6)), norm(), nn.Tanh(), nn.Linear(6, CLASSES))


def old(name):
    def wrap(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return getattr(nn.utils, name)(layer)

    return wrap


RIGHT = {
    "plain": mlp,
    "checkpoint, not reentrant": lambda: Checkpointed(False),
    "checkpoint, reentrant": lambda: Checkpointed(True),
    "compiled": lambda: torch.compile(mlp(norm=lambda: nn.BatchNorm1d(6)), backend="eager"),
    "a compiled part": lambda: nn.Sequential(torch.compile(mlp(norm=lambda: nn.BatchNorm1d(6)), backend="eager")),
    "data parallel": lambda: nn.DataParallel(mlp()),
    "weight norm": lambda: mlp(parametrizations.weight_norm),
    "weight norm, old": lambda: mlp(old("weight_norm")),
    "weight norm of everything": lambda: mlp(lambda layer: parametrizations.weight_norm(layer, dim=None)),
    "orthogonal": lambda: mlp(parametrizations.orthogonal),
    "batch norm": lambda: mlp(norm=lambda: nn.BatchNorm1d(6)),
    "batch norm, cumulative": lambda: mlp(norm=lambda: nn.BatchNorm1d(6, momentum=None)),
    "batch norm, called twice": Twice,
    "batch norm, cumulative, called twice": lambda: Twice(None),
    "sparse embedding": lambda: Tokens(sparse=True),
    "padded embedding": lambda: Tokens(padding_idx=0),
    "watched": Watched,
    "shared": Shared,
}
REFUSED = {
    "spectral norm": (lambda: mlp(parametrizations.spectral_norm), r"parametrizations\.weight\.0\._[uv] follows the parameters"),
    "spectral norm, old": (lambda: mlp(old("spectral_norm")), r"0\.weight_[uv] follows the parameters"),
    "a norm of one's own": (lambda: mlp(norm=lambda: OwnNorm(6)), r"1\.running_(mean|var) follows the parameters"),
    "a centre of one's own": (Centred, "centre follows the parameters"),
    "instance norm that tracks": (
        lambda: nn.Sequential(
            nn.Linear(5, 6),
            nn.Unflatten(1, (2, 3)),
            nn.InstanceNorm1d(2, track_running_stats=True),
            nn.Flatten(),
            nn.Linear(6, CLASSES),
        ),
        r"2\.running_(mean|var) follows the parameters",
    ),
    "counted embedding": (lambda: Tokens(scale_grad_by_freq=True), "scale_grad_by_freq=True"),
    "bounded embedding": (lambda: Tokens(max_norm=1.0), "max_norm changes its own weights"),
    "a wrong second derivative": (Wrong, r"The derivative of step \d+ is wrong: central differences"),
}


def data():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES + 6, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(CLASSES, (EXAMPLES + 6,), generator=draw)
    return inputs[:EXAMPLES], labels[:EXAMPLES], (inputs[EXAMPLES:], labels[EXAMPLES:])


def made(net):
    torch.manual_seed(1)
    return net().double()


def recorded(folder, net, optimizer):
    """Model, optimizer and loader after a recorded training, and the model as it began."""
    inputs, labels, _ = data()
    model = made(net)
    start = made(net)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    loader = DataLoader(TensorDataset(inputs, labels), BATCH, shuffle=True, generator=torch.Generator().manual_seed(2))
    with assay.record(folder, model, optimizer, loader) as recorder:
        for _ in range(EPOCHS):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    return model, optimizer, loader, start


def by_hand(run, start, optimizer, weights):
    """The loss on what was held out after a training with these weights of the losses."""
    inputs, labels, (held, held_labels) = data()
    model = start()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    for epoch in range(run.epochs):
        for positions in run.order(epoch):
            losses = F.cross_entropy(model(inputs[positions]), labels[positions], reduction="none")
            optimizer.zero_grad()
            (weights[positions] * losses).mean().backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(held), held_labels))


def scored(folder, model, optimizer, loader, *methods):
    loop = assay.Loop(model, optimizer, loader)
    how = assay.ReplayConfig(tolerance=1e-9)
    return assay.score(folder, list(methods), loop=loop, targets={"validation": data()[2]}, replay_config=how)


# torch's other optimizers take no sparse gradients.
PAIRS = [
    pytest.param(name, optimizer, marks=[] if optimizer == next(iter(OPTIMIZERS)) else [pytest.mark.slow])
    for name in RIGHT
    for optimizer in OPTIMIZERS
    if name != "sparse embedding" or optimizer == "sgd"
]
"""Every net by the first optimizer, and by the others in the second group."""


@pytest.mark.parametrize(("name", "optimizer"), PAIRS)
def test_influence_is_what_central_differences_of_the_training_say(tmp_path, name, optimizer):
    model, optimized, loader, _ = recorded(tmp_path / "run", RIGHT[name], optimizer)
    scores = scored(tmp_path / "run", model, optimized, loader, "sgd_influence")["sgd_influence"]
    run = assay.Run(tmp_path / "run")
    step, found = 1e-5, []
    for place in range(EXAMPLES):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(EXAMPLES, dtype=torch.float64)
            weights[place] += sign * step
            ends.append(by_hand(run, lambda: made(RIGHT[name]), optimizer, weights))
        found.append(-(ends[0] - ends[1]) / (2 * step))
    expected = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_differentiated_rightly_is_refused(tmp_path, name):
    net, words = REFUSED[name]
    model, optimizer, loader, _ = recorded(tmp_path / "run", net, "sgd")
    with pytest.raises((UsageError, NumericalError), match=words):
        scored(tmp_path / "run", model, optimizer, loader, "sgd_influence")


def one_by_one(model):
    """Norm of the gradient of each example's loss, one backward pass each."""
    inputs, labels, _ = data()
    model.eval()
    norms = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(x[None]), y[None]).backward()
        parts = [p.grad.to_dense() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([part.square().sum() for part in parts]).sum().sqrt()))
    return torch.tensor(norms, dtype=torch.float64)


@pytest.mark.parametrize("name", [*RIGHT, *REFUSED])
def test_methods_that_ask_for_gradients_only_work_all_the_same(tmp_path, name):
    net = RIGHT.get(name) or REFUSED[name][0]
    model, optimizer, loader, _ = recorded(tmp_path / "run", net, "sgd")
    table = scored(tmp_path / "run", model, optimizer, loader, "grand", "tracin", "oti", "liveval")
    if "counted" not in name:
        torch.testing.assert_close(table["grand"].values, one_by_one(model), rtol=1e-6, atol=1e-9)


def joining(folder, late, left=False, momentum=0.9):
    """A loop whose second group of parameters joins after an epoch, or is there from the start with a rate of 0, or is taken out."""
    draw = torch.Generator().manual_seed(0)
    examples = TensorDataset(torch.randn(8, 3, generator=draw), torch.arange(8) % 2)
    torch.manual_seed(1)
    model, loader = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), DataLoader(examples, 4)
    optimizer = torch.optim.SGD([{"params": list(model[2].parameters()), "lr": 0.1}], lr=0.1, momentum=momentum)
    second = {"params": list(model[0].parameters()), "lr": 0.0}
    if not late:
        optimizer.add_param_group(second)
    with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every"), seed=0) as recorder:
        for epoch in range(2):
            if epoch == 1 and left:
                for parameter in optimizer.param_groups.pop()["params"]:
                    del optimizer.state[parameter]
            elif epoch == 1:
                if late:
                    optimizer.add_param_group(second)
                optimizer.param_groups[1]["lr"] = 0.05
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    held_out = torch.randn(3, 3, generator=draw), torch.tensor([0, 1, 0])
    return {"loop": assay.Loop(model, optimizer, loader)}, {"targets": {"validation": held_out}}


@pytest.mark.parametrize("method", ["loo", "sgd_influence"])
def test_steps_of_a_training_that_groups_joined_are_refused_with_a_cure_that_works(tmp_path, method):
    loop, targets = joining(tmp_path / "late", late=True)
    with pytest.raises(UsageError, match=r"1 parameter groups in epoch 0 and 2 in epoch 1.* such as grand, tracin and vog"):
        assay.score(tmp_path / "late", method, **loop, **targets)
    assert len(assay.score(tmp_path / "late", "grand", **loop)["grand"]) == 8
    loop, targets = joining(tmp_path / "early", late=False)
    assert len(assay.score(tmp_path / "early", method, **loop, **targets)[method]) == 8


@pytest.mark.parametrize(
    ("epoch", "words"), [(0, "1 parameter groups in epoch 0 and 2 by its end"), (1, "in epoch 0 and 2 in epoch 1")]
)
def test_groups_that_join_within_an_epoch_are_told_of(tmp_path, epoch, words):
    examples = TensorDataset(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    model, loader = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), DataLoader(examples, 2)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for number in range(2):
            for place, (x, y) in enumerate(recorder.epoch()):
                if (number, place) == (epoch, 2):
                    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.05})
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    loop, targets = assay.Loop(model, optimizer, loader), {"validation": (torch.ones(2, 3), torch.tensor([0, 1]))}
    for method in ("loo", "sgd_influence"):
        with pytest.raises(UsageError, match=words):
            assay.score(tmp_path / "run", method, loop=loop, targets=targets)
    (scores,) = assay.score(tmp_path / "run", "tracin", loop=loop, targets=targets).values()
    assert bool(scores.values.isfinite().all())


def test_tracin_takes_what_has_not_joined_yet_as_not_trained(tmp_path):
    methods, tables = ["tracin", "tracin:target=self", "grand", "vog"], {}
    for late in (True, False):
        loop, targets = joining(tmp_path / str(late), late, momentum=0.0)
        tables[late] = assay.score(tmp_path / str(late), methods, **loop, **targets)
    for name in methods:
        torch.testing.assert_close(tables[True][name].values, tables[False][name].values, rtol=0, atol=0)
    assert tables[True]["tracin"].values.abs().min() > 0


def test_rates_of_a_training_that_groups_left_are_refused_with_the_true_cause(tmp_path):
    loop, targets = joining(tmp_path / "run", late=False, left=True)
    with pytest.raises(UsageError, match=r"2 parameter groups in epoch 0 and 1 in epoch 1; which of them were taken out"):
        assay.score(tmp_path / "run", "tracin", **loop, **targets)
    assert len(assay.score(tmp_path / "run", "grand", **loop)["grand"]) == 8


@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"scale_grad_by_freq": True}])
def test_gradients_of_an_embedding_bag_are_those_of_the_loss(tmp_path, options):
    draw = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(0, 4, (12, 5), generator=draw), torch.arange(12) % 2

    def net(**settings):
        torch.manual_seed(1)
        return nn.Sequential(nn.EmbeddingBag(4, 5, mode="sum", **settings), nn.Tanh(), nn.Linear(5, 2)).double()

    model, loader = net(**options), DataLoader(TensorDataset(tokens, labels), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        for x, y in recorder.epoch():
            logits = model(x)
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    loop, plain = assay.Loop(model, optimizer, loader), net()
    norms = [
        sum(part.square().sum() for part in torch.autograd.grad(F.cross_entropy(plain(x[None]), y[None]), plain.parameters()))
        ** 0.5
        for x, y in zip(tokens, labels, strict=True)
    ]
    (scores,) = assay.score(tmp_path / "run", "grand:layers=all", loop=loop).values()
    assert torch.allclose(scores.values, torch.stack(norms), rtol=1e-6)
    words = (
        "divides its gradient by counts"
        if "scale_grad_by_freq" in options
        else "cannot be differentiated twice: .* is not implemented. Change"
    )
    with pytest.raises(UsageError, match=words):
        assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets={"validation": (tokens[:3] * 0 + 1, labels[:3])})


class Single(nn.Module):
    """Makes float32 of whatever it is given."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(x.float())


def test_why_a_derivative_could_not_be_checked_is_said_plainly(tmp_path):
    draw = torch.Generator().manual_seed(0)
    examples = TensorDataset(torch.randn(8, 3, generator=draw), torch.arange(8) % 2)
    model, loader = Single(), DataLoader(examples, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with assay.record(tmp_path / "run", model, optimizer, loader, seed=0) as recorder:
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    loop, targets = (
        assay.Loop(model, optimizer, loader),
        {"validation": (torch.randn(3, 3, generator=draw), torch.tensor([0, 1, 0]))},
    )
    (scores,) = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=targets).values()
    (warning,) = scores.warnings
    assert warning == (
        "These values may be right, but the derivative of step 0, on which they rest, could not be checked by numerical differences: that takes "
        "the step once more with weights and inputs in float64, in which the model does not run (mat1 and mat2 must have the same dtype, but got "
        "Float and Double). A model that makes its tensors in the type of its inputs or weights can be checked. Compare a few of them with loo "
        "before you trust them."
    )


def test_what_rounding_may_hide_is_no_error_of_a_derivative():
    # Terms so large that a difference of length 1e-6 loses half a percent of it, as where a schedule ends at a rate next to 0.
    large = 0.005 * STEPS[0] / (4 * torch.finfo(torch.float64).eps)

    def ends(step, slope):
        return tuple(torch.tensor([large, sign * step * slope], dtype=torch.float64) for sign in (1, -1))

    for off in (0.0004, -0.004):
        check = compared(lambda step, slope=1 + off: ends(step, slope), 1.0, 1.0, WRONG)
        assert check.error <= WRONG and check.conclusive
    assert compared(lambda step: ends(step, 1.02), 1.0, 1.0, WRONG).error > WRONG
