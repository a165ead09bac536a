"""Expected values from elsewhere (tests/golden/README.md), through the public API: recorded in a loop with the given start, order and
rates, then scored."""

import itertools
import json
import pathlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import assay
from assay.maths.ranking import rank_correlation
from assay.maths.trajectories import AdamUpdate
from groups import slow

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = [
    "logreg2_sgd", "mlp2_relu_sgd", "softmax10_sgd", "mlp10_sgd", "mlp10_momentum", "mlp10_adam",
    *slow("mlp10_sgd_wd", "mlp10_momentum_damp", "mlp10_nesterov", "mlp10_adam_epsroot", "mlp10_adamw", "mlp10_sgd_const05", "mlp10_sgd_const02"),
]  # fmt: skip
CURVED = [
    "mlp2_relu_sgd", "mlp10_sgd_const02", *slow("mlp10_sgd", "mlp10_sgd_wd", "mlp10_sgd_const05"),
]  # fmt: skip
HOW = assay.ReplayConfig(tolerance=1e-9)


def case(name):
    with np.load(GOLDEN / "sgd_influence.npz") as archive:

        def read(key):
            value = archive[key]
            return read(str(value)[1:]) if value.dtype.kind == "U" and str(value).startswith("=") else value

        found = {key.partition("/")[2]: read(key) for key in archive.files if key.startswith(f"{name}/")}
    return {k: torch.tensor(v).double() / 16 if k in ("X_train", "X_val") else v for k, v in found.items()}


class Rooted(torch.optim.Optimizer):
    """Adam (or AdamW) with a constant under the root, as an optimizer of the user's own."""

    def __init__(self, params, lr, betas, eps, root, weight_decay, decoupled):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "root": root, "weight_decay": weight_decay, "decoupled": decoupled}
        )

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (b1, b2), rate = group["betas"], group["lr"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                g = p.grad if group["decoupled"] else p.grad + group["weight_decay"] * p
                p *= 1 - rate * group["weight_decay"] if group["decoupled"] else 1
                state["step"] += 1
                k = float(state["step"])
                state["exp_avg"].mul_(b1).add_((1 - b1) * g)
                state["exp_avg_sq"].mul_(b2).add_((1 - b2) * g.square())
                root = (state["exp_avg_sq"] / (1 - b2**k) + group["root"]).sqrt()
                p -= rate * state["exp_avg"] / (1 - b1**k) / (root + group["eps"])


def optimizer_of(given, parameters, alpha=0.0):
    kind, rest = given["name"], {key: value for key, value in given.items() if key not in ("name", "eps_root")}
    rest = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
    if given.get("eps_root"):
        apart = kind == "adamw"
        update = AdamUpdate(tuple(given["betas"]), given["eps"], given["weight_decay"], apart, given["eps_root"])
        return Rooted(parameters, lr=0.1, root=given["eps_root"], decoupled=apart, **rest), update
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds.get(kind, torch.optim.SGD)(parameters, lr=0.1, **rest), None


class Numbered(Dataset):
    """Inputs and labels; the epoch is set by the loop, as for a distributed sampler."""

    def __init__(self, inputs, labels, offsets=None):
        self.inputs, self.labels, self.offsets, self.steps = inputs, labels, offsets, {}

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        x, y = self.inputs[index], self.labels[index]
        if self.offsets is not None:
            dy, dx = self.offsets[self.steps[index], index]
            x = F.pad(x, (1, 1, 1, 1))[:, dy : dy + 8, dx : dx + 8]
        return x, y


class Orders:
    """The batches of the epoch that the loop is in, as a batch sampler."""

    def __init__(self, given, dataset):
        self.order, self.epochs, self.dataset, self.epoch = given["order"], given["epoch_of_step"], dataset, 0

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.dataset.steps = {i: t for t in self.now() for i in self.batch(t)}

    def now(self):
        return np.flatnonzero(self.epochs == self.epoch)

    def batch(self, step):
        return [int(i) for i in self.order[step] if i >= 0]

    def __iter__(self):
        return (self.batch(step) for step in self.now())

    def __len__(self):
        return len(self.now())


def load(model, theta):
    nn.utils.vector_to_parameters(torch.tensor(theta), model.parameters())


def recorded(folder, given, model, optimizer, losses, dataset, rates, update=None):
    """Train with the given start, order and rates."""
    load(model, given["theta0"])
    orders = Orders(given, dataset)
    # The order of golden epochs is given, so nothing is left to a seed; this one lets the dataset be asked in that order only.
    loader = DataLoader(dataset, batch_sampler=orders)
    seen = []
    watch = model.register_forward_hook(lambda net, args, logits: seen.append(logits.detach()))
    with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every"), seed=0) as recorder:
        for epoch in range(int(given["epoch_of_step"].max()) + 1):
            orders.set_epoch(epoch)
            for batch, step in zip(recorder.epoch(), orders.now(), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = float(rates[step])
                optimizer.zero_grad()
                losses(model, batch).mean().backward()
                optimizer.step()
                (logits,) = seen
                seen.clear()
                two = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
                recorder.batch(two, batch[1])
    watch.remove()
    return assay.Loop(model, optimizer, loader, losses, update=update, begin_epoch=orders.set_epoch)


def flat(name, folder, *, in_losses=True, **changed):
    given = case(name) | changed
    sizes, alpha = given["sizes"].tolist(), float(given["alpha"])
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), {"tanh": nn.Tanh, "relu": nn.ReLU}.get(str(given["act"]), nn.Identity)()]
    model = nn.Sequential(*layers[:-1]).double()

    def plain(logits, labels):
        if str(given["loss"]) == "bce":
            return F.binary_cross_entropy_with_logits(logits[:, 0], labels.double(), reduction="none")
        return F.cross_entropy(logits, labels, reduction="none")

    def losses(net, batch):
        decay = torch.stack([p.square().sum() for p in net.parameters()]).sum() if in_losses else 0.0
        return plain(net(batch[0]), batch[1]) + alpha / 2 * decay

    optimizer, update = optimizer_of(json.loads(str(given["opt"])), model.parameters())
    if not in_losses:
        optimizer.param_groups[0]["weight_decay"] += alpha
    labels, held = (torch.tensor(given[key]).long() for key in ("y_train", "y_val"))
    dataset = Numbered(given["X_train"], labels)
    loop = recorded(folder, given, model, optimizer, losses, dataset, given["lrs"], update)
    targets = {"validation": lambda net: plain(net(given["X_val"]), held).mean()}
    return given, loop, targets


@pytest.mark.parametrize("name", CASES)
def test_every_optimizer_and_window(name, tmp_path):
    given, loop, targets = flat(name, tmp_path / "run")
    np.testing.assert_allclose(nn.utils.parameters_to_vector(loop.model.parameters()).detach(), given["theta_T"], atol=1e-12)
    names = ["sgd_influence", "sgd_influence:window=last"]
    pairs = {"suzuki_all": "form=last_parameters", "suzuki_last": "form=last_parameters,window=last"}
    pairs |= {"nohess_all": "form=no_hessian", "nohess_last": "form=no_hessian,window=last"}
    pairs = {key: f"sgd_influence:{options}" for key, options in pairs.items() if key in given}
    table = assay.score(tmp_path / "run", [*names, *pairs.values()], loop=loop, targets=targets, replay_config=HOW)
    for key, title in {"sgdinf_all": names[0], "sgdinf_last": names[1], **pairs}.items():
        (one,) = (s for s in table.values() if s.title == assay.methods.parse(title).title)
        expected = torch.tensor(given[key])
        torch.testing.assert_close(
            one.values, expected, rtol=0, atol=1e-10 * float(expected.abs().max()), msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", ["logreg2_sgd", "softmax10_sgd"])
def test_influence_functions(name, tmp_path):
    with np.load(GOLDEN / "influence.npz") as archive:
        golden = {key.partition("/")[2]: archive[key] for key in archive.files if key.startswith(f"{name}/")}
    given, loop, targets = flat(name, tmp_path / "run", in_losses=False)
    np.testing.assert_allclose(nn.utils.parameters_to_vector(loop.model.parameters()).detach(), given["theta_T"], atol=1e-12)
    specs = [f"influence:decay=none,curvature={one}" for one in ("hessian", "gauss_newton")]
    # At the optimum, where the objective is left where it is by steps of no length.
    still = flat(name, tmp_path / "still", in_losses=False, theta0=golden["theta_opt"], lrs=0 * given["lrs"])
    cases = [(specs, "run", loop, targets, golden["kl_at_thetaT"])]
    cases += [(["influence:damping=0", "influence:damping=0,solver=cholesky"], "still", *still[1:], golden["kl_influence"])]
    for asked, folder, own, held, values in cases:
        for one in assay.score(tmp_path / folder, asked, loop=own, targets=held).values():
            torch.testing.assert_close(one.values, torch.tensor(values), rtol=0, atol=1e-6 * np.abs(values).max())
    order = torch.stack([one.values, torch.tensor(golden["loo"])])
    assert float(rank_correlation(order)[0, 1]) > 0.97, "minimised again without each example"
    titles = ["influence:damping=0,solver=cholesky,form=newton_step"]
    (step,) = assay.score(tmp_path / "still", titles, loop=still[1], targets=still[2]).values()
    values = golden["newton_step_influence"]
    torch.testing.assert_close(step.values, torch.tensor(values), rtol=0, atol=1e-9 * np.abs(values).max())
    # One Newton step goes further on the way, where the first order falls short.
    actual = torch.tensor(golden["loo"])
    assert float((step.values - actual).norm()) < float((one.values - actual).norm())


@pytest.mark.parametrize("name", CURVED)
def test_influence_with_the_hessian_at_the_last_parameters(name, tmp_path):
    with np.load(GOLDEN / "influence.npz") as archive:
        expected, damping = archive[f"{name}/kl_at_thetaT"], float(archive[f"{name}/kl_damp"])
    _, loop, targets = flat(name, tmp_path / "run", in_losses=False)
    title = f"influence:curvature=hessian,decay=none,rtol=1e-10,damping={damping!r}"
    (found,) = assay.score(tmp_path / "run", title, loop=loop, targets=targets).values()
    torch.testing.assert_close(found.values, torch.tensor(expected), rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["logreg2_sgd", *slow("mlp10_momentum")])
def test_leave_one_out(name, tmp_path):
    given, loop, targets = flat(name, tmp_path / "run")
    table = assay.score(tmp_path / "run", ["loo", "loo:window=last"], loop=loop, targets=targets, replay_config=HOW)
    for key, title in (("loo_all", "loo"), ("loo_last", "loo:window=last")):
        torch.testing.assert_close(table[title].values, torch.tensor(given[key]), rtol=0, atol=1e-10)


class ConvNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 10)

    def forward(self, inputs):
        return self.out(F.avg_pool2d(torch.tanh(self.norm(self.conv(inputs))), 2).flatten(1))


CONV_INFLUENCE = {"sgd_influence": "metagrad_all", "sgd_influence:window=last": "metagrad_last"}
CONV_REMOVALS = {
    "loo": "loo_weight0_all",
    "loo:window=last": "loo_weight0_last",
    "loo:form=removed": "loo_removed_all",
    "loo:window=last,form=removed": "loo_removed_last",
}


@pytest.mark.parametrize(
    "wanted", [CONV_INFLUENCE, pytest.param(CONV_REMOVALS, marks=pytest.mark.slow)], ids=["influence", "removals"]
)
def test_conv_with_batch_norm_and_augmentation(wanted, tmp_path):
    given = case("convbn10_sgd_aug")
    model = ConvNorm().double()
    labels, held = (torch.tensor(given[key]).long() for key in ("y_train", "y_val"))
    dataset = Numbered(given["X_train"], labels, given["offsets"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = np.full(len(given["order"]), float(given["lr"]))
    loop = recorded(tmp_path / "run", given, model, optimizer, softmax, dataset, rates)
    np.testing.assert_allclose(nn.utils.parameters_to_vector(model.parameters()).detach(), given["theta_T"], atol=1e-12)
    np.testing.assert_allclose(model.norm.running_var, given["running_var_T"], atol=1e-12)
    targets = {"validation": (given["X_val"], held)}
    table = assay.score(tmp_path / "run", list(wanted), loop=loop, targets=targets, replay_config=HOW)
    for title, key in wanted.items():
        values = torch.tensor(-given[key] if key.startswith("metagrad") else given[key])
        torch.testing.assert_close(table[title].values, values, rtol=0, atol=1e-10 * max(1.0, float(values.abs().max())))


def live_case(name):
    with np.load(GOLDEN / "liveval.npz") as archive:
        return {key.partition("/")[2]: archive[key] for key in archive.files if key.startswith(f"{name}/")}


class Listed:
    """Given batches, epoch by epoch."""

    def __init__(self, batches, epochs):
        self.epochs, self.epoch = np.split(np.arange(len(batches)), epochs), 0
        self.batches = batches

    def __iter__(self):
        for step in self.epochs[self.epoch]:
            yield [int(i) for i in self.batches[step] if i >= 0]

    def __len__(self):
        return len(self.epochs[self.epoch])


def binary(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1].double(), reduction="none")


def softmax(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def both(logits):
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def lived(name, folder, epochs=4):
    """Train a small golden case in a loop of one's own."""
    given = live_case("case_b_adaptive" if name == "case_e_alg3_rule" else name)
    inputs, labels = torch.tensor(given["X"]), torch.tensor(given["y"]).long()
    classes = int(given.get("num_classes", 1))
    model = nn.Linear(inputs.shape[1], classes).double()
    load(model, given["theta0"])
    losses = binary if classes == 1 else softmax
    batches = Listed(given["batches"], epochs)
    loader = DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_sampler=batches)
    settings = {key: given[name] for key, name in (("momentum", "momentum"), ("weight_decay", "weight_decay")) if name in given}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, nesterov="nesterov" in given, **{k: float(v) for k, v in settings.items()}
    )
    step = 0
    with assay.record(
        folder,
        model,
        optimizer,
        loader,
        assay.Recording(view="eval", checkpoints="every"),
        data=assay.DataSpec(forward=lambda net, batch: (both(net(batch[0])), batch[1])),
    ) as recorder:
        for epoch in range(epochs):
            batches.epoch = epoch
            for x, y in recorder.epoch():
                optimizer.param_groups[0]["lr"] = float(given["lr"][step])
                optimizer.zero_grad()
                losses(model, (x, y)).mean().backward()
                optimizer.step()
                step += 1
    np.testing.assert_allclose(nn.utils.parameters_to_vector(model.parameters()).detach(), given["theta"][-1], atol=1e-12)
    return given, assay.Loop(model, optimizer, loader, losses)


def scored(folder, loop, *methods, targets=None):
    table = assay.score(folder, list(methods), loop=loop, targets=targets, replay_config=HOW)
    return [table[assay.methods.parse(method).title] for method in methods]


RULES = {
    "case_a_fixed_window": ("delta_0=2,window_rule=fixed", 1),
    "case_b_adaptive": ("delta_0=2,delta_max=4", 4),
    "case_c_nonmonotone": ("delta_0=2,delta_max=5,delta_step=3,eps_lo=0.03,eps_hi=0.06", 4),
    "case_e_alg3_rule": ("delta_0=2,delta_max=4,eps_lo=0.025,eps_hi=0.04,window_rule=alg3", 4),
    "case_g_momentum": ("", 4),
}


@pytest.mark.parametrize("name", RULES)
def test_liveval(name, tmp_path):
    options, epochs = RULES[name]
    _, loop = lived(name, tmp_path / "run", epochs=epochs)
    want = live_case(name)
    method = f"liveval:{options}" if options else "liveval"
    (one,) = scored(tmp_path / "run", loop, method)
    torch.testing.assert_close(one.values, torch.tensor(want["v_cum"]), rtol=0, atol=1e-7)
    assert (
        one.diagnostics["mean window"] == pytest.approx(want["delta"].mean())
        and one.diagnostics["largest window"] == want["delta"].max()
    )
    by_epoch = torch.tensor(want["v_step"]).view(epochs, -1, len(one)).sum(1)
    torch.testing.assert_close(one.by_epoch, by_epoch, rtol=0, atol=1e-7)
    if name == "case_b_adaptive":
        windows = scored(tmp_path / "run", loop, f"{method},window=0-0", f"{method},window=1-2")
        for window, key in zip(windows, ("v_epoch1", "v_steps_4_to_9"), strict=True):
            torch.testing.assert_close(window.values, torch.tensor(want[key]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("reference", ["final", "best_batch"])
@pytest.mark.parametrize("norm", ["global", "by_tensor"])
def test_oti(reference, norm, tmp_path):
    given, loop = lived("case_d_oti", tmp_path / "run")
    kinds = {"norm": "normalised", "raw": "raw"}
    for short, form in kinds.items():
        options = f"reference={reference},norm={norm},form={form}"
        mean, total = scored(tmp_path / "run", loop, f"oti:{options}", f"oti:{options},reduce=sum")
        stem = f"{short}_{reference.partition('_')[0]}_{norm.replace('by_tensor', 'pertensor')}"
        torch.testing.assert_close(mean.values, torch.tensor(given[f"{stem}_mean"]), rtol=0, atol=1e-7)
        torch.testing.assert_close(total.by_epoch, torch.tensor(given[stem]), rtol=0, atol=1e-7)
        if short == "norm":
            torch.testing.assert_close(total.values, torch.tensor(given[f"{stem}_sum"]), rtol=0, atol=1e-7)


def test_the_baselines(tmp_path):
    given, loop = lived("case_f_baselines", tmp_path / "run")
    held = torch.tensor(given["X_test"]), torch.tensor(given["y_test"])
    targets = {"validation": lambda net: binary(net, held).mean()}
    names = [
        "tracin",
        "tracin:target=self",
        "grand:at=0",
        "loo:form=renormalised",
        "tracin:layers=head",
        "grand:at=0,layers=head",
    ]
    keys = ["tracin", "tracin_self", "grand_after_epoch1", "loo_loss_without_minus_full", "tracin", "grand_after_epoch1"]
    for one, key in zip(scored(tmp_path / "run", loop, *names, targets=targets), keys, strict=True):
        torch.testing.assert_close(one.values, torch.tensor(given[key]), rtol=0, atol=1e-10)
    damping, count = float(given["if_damping"]), len(given["y"])
    titles = [
        f"influence:damping={damping!r},{one}"
        for one in ("curvature=hessian", "solver=cholesky", "preconditioner=none", "solver=lanczos")
    ]
    for found in scored(tmp_path / "run", loop, *titles, targets=targets):
        # Up-weighting is leaving out the other way round, of one example in n.
        expected = torch.tensor(-given["influence_up_loss"] / count)
        torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))
