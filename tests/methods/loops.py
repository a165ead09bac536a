"""A small training in the user's own loop, recorded; the same training as one graph; and every step of it by hand."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.methods import parse
from assay.runs.run import Run
from settings import grouped

EXAMPLES, CLASSES = 13, 3


class Net(nn.Module):
    def __init__(self, norm=False, dropout=0.0):
        super().__init__()
        # What BatchNorm takes away again has a gradient of 0, where Adam's root has no derivative.
        self.hidden, self.out = nn.Linear(3, 5, bias=not norm), nn.Linear(5, CLASSES)
        self.norm = nn.BatchNorm1d(5) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, inputs):
        return self.out(self.drop(torch.tanh(self.norm(self.hidden(inputs)))))


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.3}),
    "decay": (torch.optim.SGD, {"lr": 0.3, "weight_decay": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "dampening": (torch.optim.SGD, {"lr": 0.2, "momentum": 0.8, "dampening": 0.4}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.1, "eps": 1e-4}),
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.2, "eps": 1e-4}),
}


def data(seed):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES + 9, 3, generator=draw, dtype=torch.float64)
    labels = torch.randint(CLASSES, (EXAMPLES + 9,), generator=draw)
    return inputs[:EXAMPLES], labels[:EXAMPLES], inputs[EXAMPLES:], labels[EXAMPLES:]


class World:
    """A training in the user's own loop, recorded; and the same training as one graph.

    Dropout is recorded with a seed, and what it let through in each batch is remembered in `masks`. Gradients of `every` batches are added up, each
    loss divided by `every`, or with `divided="batches"` by as many as there are in the step; the last step of an epoch may have fewer.
    """

    def __init__(
        self,
        folder,
        optimizer="sgd",
        seed=0,
        epochs=3,
        batch=5,
        clip=None,
        norm=False,
        checkpoints="every",
        rate=1.0,
        ema=None,
        dropout=0.0,
        every=1,
        divided=None,
    ):
        self.every, self.divided = every, divided
        self.inputs, self.labels, self.held_out, self.held_labels = data(seed)
        torch.manual_seed(seed)
        self.model = Net(norm, dropout).double()
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        kind, settings = OPTIMIZERS[optimizer]
        self.name, self.settings, self.clip, self.norm = optimizer, {**settings, "lr": settings["lr"] * rate}, clip, norm
        # Layers learn at different rates.
        groups = [
            {"params": self.model.hidden.parameters(), "lr": 0.7 * self.settings["lr"]},
            {"params": [*self.model.norm.parameters(), *self.model.out.parameters()]},
        ]
        self.optimizer = kind(groups, **self.settings)
        self.loader = DataLoader(
            TensorDataset(self.inputs, self.labels), batch, shuffle=True, generator=torch.Generator().manual_seed(seed)
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / math.sqrt(step + 1))
        self.ema, self.masks = ema, []
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
        given = {
            "checkpoints": checkpoints,
            "seed": seed if dropout else None,
            "stateful": {"ema": self.averaged} if ema else None,
        }
        watch = self.model.drop.register_forward_hook(lambda layer, args, out: self.masks.append((out / args[0]).detach()))
        with assay.record(folder, self.model, self.optimizer, self.loader, **grouped(given)) as recorder:
            for _ in range(epochs):
                for number, (x, y) in enumerate(recorder.epoch()):
                    logits = self.model(x)
                    if not number % every:
                        self.optimizer.zero_grad()
                    start = number - number % every
                    (F.cross_entropy(logits, y) / self.share(len(self.loader) - start)).backward()
                    if (number + 1) % every and number + 1 < len(self.loader):
                        recorder.batch(logits, y)
                        continue
                    if clip:
                        nn.utils.clip_grad_norm_(self.model.parameters(), clip)
                    self.optimizer.step()
                    if ema:
                        self.averaged.update_parameters(self.model)
                    self.scheduler.step()
                    recorder.batch(logits, y)
        watch.remove()
        self.run = Run(folder)

    def share(self, left):
        """What a loss is divided by in a step, when so many batches of its epoch were left before it."""
        return min(self.every, left) if self.divided == "batches" else self.every

    def steps(self, epoch):
        """Positions by batch, what each loss is divided by, and the rates, of each step of an epoch."""
        steps = self.run.steps(epoch)
        left = len(self.run.order(epoch))
        for step, rates in zip(steps, self.run.rates(epoch)[self.run.last_batches(epoch)], strict=True):
            yield step, self.share(left), rates
            left -= len(step)

    def loop(self, **given):
        own = {"clip": self.clip, "ema": self.ema, "accumulate": self.divided}
        return assay.Loop(self.model, self.optimizer, self.loader, **(own | given))

    def score(self, *methods, targets=None, **given):
        # Methods that have no target refuse one that nobody reads.
        asked = any(parse(method).asks.named_targets for method in methods)
        targets = targets or ({"validation": (self.held_out, self.held_labels)} if asked else None)
        how = assay.ReplayConfig(tolerance=1e-9)
        return assay.score(self.run, list(methods), targets=targets, loop=self.loop(), replay_config=how, **given)

    def unrolled(self, weights, first=0):
        """The target after the training with these loss weights from epoch `first` on, as one graph."""
        names = [name for name, _ in self.model.named_parameters()]
        params = {name: self.start[name].clone().requires_grad_() for name in names}
        buffers = {name: value.clone() for name, value in self.start.items() if name not in names}
        slots, count, averages, masks = {}, 0, {}, iter(self.masks)
        for epoch in range(self.run.epochs):
            for batches, share, rates in self.steps(epoch):
                total = 0
                for positions in batches:
                    own = weights[positions] if epoch >= first else torch.ones(len(positions), dtype=torch.float64)
                    losses, buffers = self.forward(params, buffers, positions, next(masks))
                    total = total + (own * losses).sum() / len(positions) / share
                gradients = dict(zip(names, torch.autograd.grad(total, list(params.values()), create_graph=True), strict=True))
                if self.clip:
                    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
                    factor = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
                    gradients = {name: g * factor for name, g in gradients.items()}
                count += 1
                params = {
                    name: self.stepped(
                        name, value, gradients[name], slots, float(rates[0] if name.startswith("hidden") else rates[1]), count
                    )
                    for name, value in params.items()
                }
                averages = {
                    name: self.ema * averages[name] + (1 - self.ema) * value if self.ema and averages else value
                    for name, value in params.items()
                }
        return self.evaluated(averages, buffers)

    def forward(self, params, buffers, positions, mask):
        hidden = self.inputs[positions] @ params["hidden.weight"].T + params.get("hidden.bias", 0)
        if self.norm:
            mean, var = hidden.mean(0), hidden.var(0, unbiased=False)
            buffers = {
                "norm.running_mean": 0.9 * buffers["norm.running_mean"] + 0.1 * mean,
                "norm.running_var": 0.9 * buffers["norm.running_var"] + 0.1 * hidden.var(0, unbiased=True),
            }
            hidden = (hidden - mean) / (var + 1e-5).sqrt() * params["norm.weight"] + params["norm.bias"]
        logits = mask * torch.tanh(hidden) @ params["out.weight"].T + params["out.bias"]
        return F.cross_entropy(logits, self.labels[positions], reduction="none"), buffers

    def evaluated(self, params, buffers):
        hidden = self.held_out @ params["hidden.weight"].T + params.get("hidden.bias", 0)
        if self.norm:
            hidden = (hidden - buffers["norm.running_mean"]) / (buffers["norm.running_var"] + 1e-5).sqrt()
            hidden = hidden * params["norm.weight"] + params["norm.bias"]
        return F.cross_entropy(torch.tanh(hidden) @ params["out.weight"].T + params["out.bias"], self.held_labels)

    def stepped(self, name, theta, g, slots, rate, count):
        s = self.settings
        decay = s.get("weight_decay", 0.0)
        if "adam" in self.name:
            g = g + decay * theta if self.name == "adam" else g
            m, v = slots.get(name, (0.0, 0.0))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
            slots[name] = m, v
            theta = theta * (1 - rate * decay) if self.name == "adamw" else theta
            return theta - rate * (m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + s["eps"])
        g = g + decay * theta
        if "momentum" in s:
            v = s["momentum"] * slots[name] + (1 - s.get("dampening", 0.0)) * g if name in slots else g
            slots[name] = v
            g = g + s["momentum"] * v if s.get("nesterov") else v
        return theta - rate * g

    def by_hand(self):
        """(epoch, positions, rate by name, parameters before, parameters after) of every step, trained once more."""
        model = Net(self.norm).double()
        model.load_state_dict(self.start)
        kind, _ = OPTIMIZERS[self.name]
        groups = [{"params": model.hidden.parameters()}, {"params": [*model.norm.parameters(), *model.out.parameters()]}]
        optimizer, steps = kind(groups, **self.settings), []
        for epoch in range(self.run.epochs):
            for positions, rates in zip(self.run.order(epoch), self.run.rates(epoch), strict=True):
                before = {name: value.detach().clone() for name, value in model.named_parameters()}
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = float(rate)
                optimizer.zero_grad()
                F.cross_entropy(model(self.inputs[positions]), self.labels[positions]).backward()
                optimizer.step()
                after = {name: value.detach().clone() for name, value in model.named_parameters()}
                names = {name: float(rates[0 if name.startswith("hidden") else 1]) for name in before}
                steps.append((epoch, positions, names, before, after))
        return steps

    def gradient(self, params, inputs, labels):
        """Of the mean loss, by name."""
        model = Net(self.norm).double().eval()
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = F.cross_entropy(functional_call(model, leaves, (inputs,)), labels)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def example_gradient(self, params, position):
        """Of one example's loss, by name."""
        return self.gradient(params, self.inputs[position : position + 1], self.labels[position : position + 1])


def inner(one, two):
    """Inner product over all parameters."""
    return float(sum((one[name] * two[name]).sum() for name in one))
