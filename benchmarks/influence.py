"""Influence on the mean test loss, and self-influence, on digits with a tenth of the labels flipped: seconds, memory, and how near to the exact values.

scikit-learn's digits, 1,437 to train on and 360 to test, standardised; 10 % of the training labels moved to another class. An MLP 64-128-10 (ReLU) or softmax
regression, SGD at rate 0.1, batches of 64, weight decay 1e-3, 20 epochs. Damping 1e-2, weight decay left out of the matrix, as peers do it.

Exact values: the damped Gauss-Newton system solved in float64 to 1e-12 by plain products with torch, nothing of assay's. rho is Spearman's with them. AUC and AP: the flipped labels
as positives; low influence on the test loss, or high self-influence, is suspect.

Every figure is taken in a process of its own: seconds of one call from the recorded run, or from the trained net for peers, the fastest of `--repeats`; and by how much the process's
resident memory peaked above what it had before the first call.
"""

import argparse
import copy
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import forget_peak, report, resident_mb
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.utils.data import DataLoader, TensorDataset

import assay

DAMPING, DECAY, RATE, BATCH, EPOCHS = 1e-2, 1e-3, 0.1, 64, 20
LIMIT = 120
"""Seconds after which a method is given up."""
LONG = 30
"""Seconds of a call above which it is not repeated."""
Call = Callable[[], np.ndarray]
OPTIONS = f"decay=none,damping={DAMPING}"
INFLUENCE = {
    "cg": f"influence:{OPTIONS}",
    "cg, no preconditioner": f"influence:{OPTIONS},preconditioner=none",
    "cg, diagonal": f"influence:{OPTIONS},preconditioner=diagonal",
    "cg, kronecker": f"influence:{OPTIONS},preconditioner=kronecker",
    "cg, sampled ekfac": f"influence:{OPTIONS},factors=sampled",
    "lissa": f"influence:{OPTIONS},solver=lissa,iterations=10000",
    "lanczos, rank 100": f"influence:{OPTIONS},solver=lanczos",
    "lanczos, rank 30": f"influence:{OPTIONS},solver=lanczos,rank=30",
    "ekfac": f"influence:{OPTIONS},solver=ekfac",
    "ekfac, sampled": f"influence:{OPTIONS},solver=ekfac,factors=sampled",
    "head": f"influence:{OPTIONS},layers=head",
    "cg, damping found": "influence:decay=none,damping=auto",
}
SOFTMAX = {
    "cholesky": f"influence:{OPTIONS},solver=cholesky",
    "newton step": f"influence:{OPTIONS},solver=cholesky,form=newton_step",
}
OTHERS = {
    "tracin": "tracin",
    "trak, 512 dimensions": "trak",
    "source": "source",
    "sgd_influence": "sgd_influence",
}
"""Not influence at the end of training, but asked the same: what an example does to the mean test loss."""
SELF = {
    "self, ekfac": f"self_influence:{OPTIONS}",
    "self, ekfac, sampled": f"self_influence:{OPTIONS},factors=sampled",
    "self, head": f"self_influence:{OPTIONS},layers=head",
    "self, head, cholesky": f"self_influence:{OPTIONS},layers=head,solver=cholesky",
    "self, tracin": "tracin:target=self",
}


def data() -> tuple[Tensor, Tensor, Tensor, Tensor, np.ndarray]:
    """Training inputs and given labels, test inputs and labels, and which labels were flipped."""
    inputs, labels = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(inputs, labels, test_size=360, random_state=0, stratify=labels)
    scaler = StandardScaler().fit(x)
    draw = np.random.default_rng(0)
    flipped = draw.choice(len(x), round(0.1 * len(x)), replace=False)
    y = y.copy()
    y[flipped] = (y[flipped] + draw.integers(1, 10, len(flipped))) % 10
    rows = [torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x, test_x)]
    return rows[0], torch.tensor(y), rows[1], torch.tensor(test_y), np.isin(np.arange(len(x)), flipped)


def net(kind: str) -> nn.Module:
    """An untrained net."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)) if kind == "mlp" else nn.Sequential(nn.Linear(64, 10))


def trained(kind: str, folder: Path) -> tuple[nn.Module, assay.Loop]:
    """The net after training, recorded."""
    x, y, *_ = data()
    model = net(kind)
    optimizer = torch.optim.SGD(model.parameters(), RATE, weight_decay=DECAY)
    loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))
    with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for _ in range(EPOCHS):
            for rows, labels in recorder.epoch():
                logits = model(rows)
                optimizer.zero_grad()
                F.cross_entropy(logits, labels).backward()
                optimizer.step()
                recorder.batch(logits, labels)
    return model, assay.Loop(model, optimizer, loader)


def exact(kind: str, model: nn.Module) -> np.ndarray:
    """The damped Gauss-Newton influence on the mean test loss, in float64."""
    x, y, test_x, test_y, _ = data()
    module = model.double()
    params = {name: value.detach() for name, value in module.named_parameters()}
    x, test_x = x.double(), test_x.double()

    def outputs(at: dict[str, Tensor]) -> Tensor:
        return functional_call(module, at, (x,))

    probs = outputs(params).softmax(1)
    sizes = [value.numel() for value in params.values()]

    def named(row: Tensor) -> dict[str, Tensor]:
        return {name: part.view(value.shape) for (name, value), part in zip(params.items(), row.split(sizes), strict=True)}

    def flat(at: dict[str, Tensor]) -> Tensor:
        return torch.cat([value.flatten() for value in at.values()])

    def times(v: Tensor) -> Tensor:
        moved = jvp(outputs, (params,), (named(v),))[1]
        curved = probs * moved - probs * (probs * moved).sum(1, keepdim=True)
        return flat(vjp(outputs, params)[1](curved)[0]) / len(x) + DAMPING * v

    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss = F.cross_entropy(functional_call(module, leaves, (test_x,)), test_y)
    u = flat(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    v, residual = torch.zeros_like(u), u.clone()
    direction, square = residual.clone(), residual @ residual
    while float(square.sqrt() / u.norm()) > 1e-12:
        image = times(direction)
        step = square / (direction @ image)
        v, residual = v + step * direction, residual - step * image
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    losses = jvp(lambda at: F.cross_entropy(outputs(at), y, reduction="none"), (params,), (named(v),))[1]
    model.float()
    return (losses / len(x)).numpy()


def ours(spec: str, kind: str, folder: Path) -> tuple[nn.Module, Call]:
    """Scoring a recorded run by a method of assay."""
    *_, test_x, test_y, _ = data()
    model, loop = trained(kind, folder)
    targets = None if spec in SELF.values() else {"validation": (test_x, test_y)}

    def call() -> np.ndarray:
        (scores,) = assay.score(folder, [spec], loop=loop, targets=targets).values()
        return scores.values.numpy()

    return model, call


def kronfluence(kind: str, folder: Path, *, alone: bool) -> tuple[nn.Module, Call]:
    """EK-FAC by kronfluence: influence on the mean test loss, or self-influence; larger helps, as ours."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    x, y, test_x, test_y, _ = data()
    model, _ = trained(kind, folder)

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(batch[0])
            labels = torch.multinomial(logits.softmax(1), 1).flatten() if sample else batch[1]
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    rows, queries = TensorDataset(x, y), TensorDataset(test_x, test_y)
    task = Classification()
    made: list[int] = []

    def call() -> np.ndarray:
        made.append(1)
        analyzer = Analyzer(
            "digits",
            prepare_model(copy.deepcopy(model), task),
            task,
            cpu=True,
            output_dir=str(folder / f"peer{len(made)}"),
            disable_tqdm=True,
        )
        analyzer.fit_all_factors("ekfac", rows, per_device_batch_size=len(x), factor_args=FactorArguments(strategy="ekfac"))
        arguments = ScoreArguments(damping_factor=DAMPING)
        if alone:
            analyzer.compute_self_scores("scores", "ekfac", rows, per_device_train_batch_size=len(x), score_args=arguments)
            return analyzer.load_self_scores("scores")["all_modules"].numpy()
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            queries,
            rows,
            per_device_query_batch_size=len(test_x),
            per_device_train_batch_size=len(x),
            score_args=arguments,
        )
        return analyzer.load_pairwise_scores("scores")["all_modules"].mean(0).numpy()

    return model, call


def captum(kind: str, folder: Path, *, what: str, alone: bool = False) -> tuple[nn.Module, Call]:
    """Captum at the last parameters: TracIn of the last layer, which is its fastest, or of all, or influence by Arnoldi's iteration with its defaults."""
    from captum.influence import TracInCP, TracInCPFast
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    x, y, test_x, test_y, _ = data()
    model, _ = trained(kind, folder)
    path = folder / "last.pt"
    torch.save(model.state_dict(), path)

    def load(module: nn.Module, checkpoint: str) -> float:
        module.load_state_dict(torch.load(checkpoint))
        return RATE

    def call() -> np.ndarray:
        own, rows, loss = copy.deepcopy(model), TensorDataset(x, y), nn.CrossEntropyLoss(reduction="sum")
        if what == "arnoldi":
            each = nn.CrossEntropyLoss(reduction="none")
            peer = ArnoldiInfluenceFunction(own, rows, str(path), load, loss_fn=each, batch_size=len(x), hessian_reg=DAMPING)
        elif what == "last layer":
            peer = TracInCPFast(own, list(own.children())[-1], rows, [str(path)], load, loss, len(x))
        else:
            peer = TracInCP(own, rows, [str(path)], load, loss_fn=loss, batch_size=len(x), sample_wise_grads_per_batch=True)
        if alone:
            return peer.self_influence().numpy()
        return peer.influence((test_x, test_y)).mean(0).numpy()

    return model, call


def dattri(kind: str, folder: Path, *, what: str) -> tuple[nn.Module, Call]:
    """Dattri at the last parameters: EK-FAC; conjugate gradients, of 10 steps (its default) on the Hessian; TracIn; TRAK of 512 dimensions."""
    from dattri.algorithm.influence_function import IFAttributorCG, IFAttributorEKFAC
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    x, y, test_x, test_y, _ = data()
    model, _ = trained(kind, folder)

    def loss(params, rows):
        image, label = rows
        return F.cross_entropy(
            functional_call(model, params, (image.unsqueeze(0) if image.ndim == 1 else image,)), label.reshape(-1)
        )

    def margin(params, rows):
        odds = torch.exp(-loss(params, rows))
        return torch.log(odds / (1 - odds))

    def call() -> np.ndarray:
        rows, queries = DataLoader(TensorDataset(x, y), len(x)), DataLoader(TensorDataset(test_x, test_y), len(test_x))
        task = AttributionTask(loss_func=margin if what == "trak" else loss, model=model, checkpoints=model.state_dict())
        if what == "tracin":
            peer = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False, device="cpu")
            with torch.no_grad():
                return peer.attribute(rows, queries).mean(1).numpy()
        if what == "trak":
            size = {"proj_dim": 512, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}
            chance = lambda params, row: torch.exp(-loss(params, row))  # noqa: E731
            peer = TRAKAttributor(task, chance, projector_kwargs=size, device="cpu")
        elif what == "cg":
            peer = IFAttributorCG(task, device="cpu", regularization=DAMPING)
        else:
            peer = IFAttributorEKFAC(task=task, device="cpu", damping=DAMPING)
        peer.cache(rows)
        found = peer.attribute(queries) if what == "trak" else peer.attribute(rows, queries)
        return found.mean(1).detach().numpy()

    return model, call


def pydvl(kind: str, folder: Path, *, what: str) -> tuple[nn.Module, Call]:
    """EK-FAC, conjugate gradients, LiSSA or Nystroem's sketch (rank 100) by pyDVL; the latter three on the Gauss-Newton matrix, else with its defaults."""
    from pydvl.influence.torch import CgInfluence, EkfacInfluence, LissaInfluence, NystroemSketchInfluence
    from pydvl.influence.torch.util import SecondOrderMode

    x, y, test_x, test_y, _ = data()
    model, _ = trained(kind, folder)

    def call() -> np.ndarray:
        own, gauss_newton = copy.deepcopy(model), {"second_order_mode": SecondOrderMode.GAUSS_NEWTON}
        if what == "ekfac":
            peer = EkfacInfluence(own, update_diagonal=True, hessian_regularization=DAMPING)
        elif what == "cg":
            peer = CgInfluence(own, F.cross_entropy, regularization=DAMPING, **gauss_newton)
        elif what == "nystroem":
            peer = NystroemSketchInfluence(own, F.cross_entropy, regularization=DAMPING, rank=100, **gauss_newton)
        else:
            peer = LissaInfluence(own, F.cross_entropy, regularization=DAMPING, **gauss_newton)
        return peer.fit(DataLoader(TensorDataset(x, y), 256)).influences(test_x, test_y, x, y).mean(0).detach().numpy()

    return model, call


def trak(kind: str, folder: Path) -> tuple[nn.Module, Call]:
    """TRAK of the last parameters, 512 dimensions."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    x, y, test_x, test_y, _ = data()
    model, _ = trained(kind, folder)
    made: list[int] = []

    def call() -> np.ndarray:
        made.append(1)
        own = copy.deepcopy(model).eval()
        size = sum(value.numel() for value in own.parameters())
        projector = BasicProjector(size, 512, 0, ProjectionType.normal, "cpu")
        peer = TRAKer(
            own,
            "image_classification",
            len(x),
            save_dir=str(folder / f"peer{len(made)}"),
            device="cpu",
            projector=projector,
            use_half_precision=False,
        )
        peer.load_checkpoint(own.state_dict(), model_id=0)
        peer.featurize(batch=(x, y), num_samples=len(x))
        peer.finalize_features()
        peer.start_scoring_checkpoint("test", own.state_dict(), model_id=0, num_targets=len(test_x))
        peer.score(batch=(test_x, test_y), num_samples=len(test_x))
        return np.asarray(peer.finalize_scores("test")).mean(1)

    return model, call


PEERS = {
    "kronfluence ekfac": functools.partial(kronfluence, alone=False),
    "self, kronfluence ekfac": functools.partial(kronfluence, alone=True),
    "captum tracin, last layer": functools.partial(captum, what="last layer"),
    "self, captum tracin, last layer": functools.partial(captum, what="last layer", alone=True),
    "captum tracin": functools.partial(captum, what="tracin"),
    "captum arnoldi": functools.partial(captum, what="arnoldi"),
    "dattri ekfac": functools.partial(dattri, what="ekfac"),
    "dattri cg": functools.partial(dattri, what="cg"),
    "dattri tracin": functools.partial(dattri, what="tracin"),
    "dattri TRAK, 512 dimensions": functools.partial(dattri, what="trak"),
    "pyDVL ekfac": functools.partial(pydvl, what="ekfac"),
    "pyDVL nystroem, rank 100": functools.partial(pydvl, what="nystroem"),
    "pyDVL cg": functools.partial(pydvl, what="cg"),
    "pyDVL lissa": functools.partial(pydvl, what="lissa"),
    "TRAK, 512 dimensions": functools.partial(trak),
}
"""Peers that are tried with --peers, where they are installed."""


def measured(name: str, kind: str, repeats: int) -> dict[str, object]:
    """One row of the table, in this process."""
    *_, flipped = data()
    with tempfile.TemporaryDirectory() as folder:
        specs = INFLUENCE | SOFTMAX | OTHERS | SELF
        model, call = ours(specs[name], kind, Path(folder) / "run") if name in specs else PEERS[name](kind, Path(folder) / "run")
        reference = exact(kind, model)
        before = resident_mb("VmRSS")
        forget_peak()
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            values = call()
            seconds.append(time.perf_counter() - begun)
            peak = resident_mb("VmHWM")
            if seconds[-1] > LONG:
                break
    suspicion = values if name.startswith("self") else -values
    return {
        "seconds": round(min(seconds), 3),
        "seconds of the first call": round(seconds[0], 3),
        "peak rise MB": round(peak - before, 1),
        "rho": None if name.startswith("self") else round(float(spearmanr(values, reference)[0]), 4),
        "AUC": round(float(roc_auc_score(flipped, suspicion)), 4),
        "AP": round(float(average_precision_score(flipped, suspicion)), 4),
    }


def main() -> None:
    """Every method in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="folder for influence.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also those other libraries that are installed")
    parser.add_argument("--peers-alone", action="store_true", help="only these, as influence-peers.json")
    parser.add_argument("--only", help="one method, in this process")
    parser.add_argument("--net", choices=["mlp", "softmax"], default="mlp", help="the net of --only")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measured(given.only, given.net, given.repeats)))
        return
    figures: dict[str, dict[str, object]] = {}
    for kind, names in (
        ("mlp", [*INFLUENCE, *OTHERS, *SELF]),
        ("softmax", ["cg", *SOFTMAX, "lissa", "lanczos, rank 100", "ekfac", *OTHERS, *SELF]),
    ):
        for name in [*(() if given.peers_alone else names), *(PEERS if given.peers or given.peers_alone else ())]:
            asked = [sys.executable, __file__, "--only", name, "--net", kind, "--repeats", str(given.repeats)]
            try:
                found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                row = {"failed": f"not done after {LIMIT} s"}
            else:
                told = found.stdout.splitlines() if found.returncode == 0 else []
                row = json.loads(told[-1]) if told else {"failed": (found.stderr.splitlines() or [""])[-1]}
            figures.setdefault(kind, {})[name] = row
            print(f"{kind:8s} {name:35s} {row}", file=sys.stderr)
    report("influence-peers" if given.peers_alone else "influence", figures, given.out)


if __name__ == "__main__":
    main()
