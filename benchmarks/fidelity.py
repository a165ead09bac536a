"""Fidelity: how well each method ranks what leaving an example out really does, in the protocol of Hara et al. 2019, section 7.1.

200 training and 200 validation examples of Adult, or of MNIST's ones against sevens, by scikit-learn's train_test_split (the run's
seed, then seed + 1), standardised on the training part. Logistic regression (rate 0.1 / sqrt(step + 1), batches of 5; 20 epochs on
Adult, 5 on MNIST; alpha = 1 / (200 C), C by scikit-learn's LogisticRegressionCV) and a ReLU net of 8 and 8 units (rate 0.1, batches of
20, 10 epochs, alpha = 0.001). Binary cross-entropy and alpha/2 |theta|^2 in every example's loss; plain SGD; initial weights by the
run's seed; the order of an epoch by the epoch's number. float64, where the released code has float32.

Truth: 200 trainings, each with one example's loss at weight 0 (`loo`), against the training on all, by the loss on the validation part.
Kendall's tau and Spearman's rho over all 200 examples; Jaccard overlap of the ten largest and ten smallest together. Scores are turned
so that low means harmful, by the direction that each method declares. Adult's categories are merged as in the released code, 62 inputs.
"""

import argparse
import contextlib
import dataclasses
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from over_seeds import interval
from own_loop import record
from scipy.stats import kendalltau, spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import assay
from assay.data.adult import COLUMNS
from assay.data.mnist import MNIST
from assay.data.table import read_csv
from assay.methods import parse

SIZE = 200
ENDS = 10
"""How many of the largest, and how many of the smallest, Jaccard compares."""
METHODS = {
    "sgd_influence, exact": "sgd_influence",
    "sgd_influence, last_parameters": "sgd_influence:form=last_parameters",
    "sgd_influence, no_hessian": "sgd_influence:form=no_hessian",
    "in_run_shapley, order 1": "in_run_shapley",
    "in_run_shapley, order 2": "in_run_shapley:order=2",
    "tracin": "tracin",
    "tracin of itself": "tracin:target=self",
    "oti": "oti",
    "liveval": "liveval",
    "grand": "grand",
    "aum": "aum",
    "loss": "loss",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One dataset and net, and what was published of the exact form: tau and Jaccard, mean and deviation over 100 seeds."""

    data: str
    net: str
    decays: bool
    epochs: int
    batch: int
    tau: tuple[float, float]
    jaccard: tuple[float, float]


SETTINGS = {
    "adult-logreg": Setting("adult", "logreg", True, 20, 5, (0.93, 0.02), (0.80, 0.10)),
    "adult-dnn": Setting("adult", "dnn", False, 10, 20, (0.75, 0.10), (0.59, 0.16)),
    "mnist-logreg": Setting("mnist", "logreg", True, 5, 5, (0.95, 0.02), (0.83, 0.10)),
    "mnist-dnn": Setting("mnist", "dnn", False, 10, 20, (0.45, 0.12), (0.37, 0.15)),
}

SCHOOL = ("1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th")
REGIONS = {
    "US": "United-States,Cuba",
    "Western": "England,Germany,Canada,Italy,France,Greece,Philippines",
    "Poor": "Mexico,Puerto-Rico,Honduras,Jamaica,Columbia,Laos,Portugal,Haiti,Dominican-Republic,El-Salvador,Guatemala,Peru,"
    "Trinadad&Tobago,Outlying-US(Guam-USVI-etc),Nicaragua,Vietnam,Holand-Netherlands",
    "Eastern": "India,Iran,Cambodia,Taiwan,Japan,Yugoslavia,China,Hong",
    "Poland team": "South,Poland,Ireland,Hungary,Scotland,Thailand,Ecuador",
}
MERGED: dict[str, dict[str | None, str]] = {
    "workclass": {None: "0", "Without-pay": "Never-worked"},
    "education": dict.fromkeys(SCHOOL, "Primary"),
    "marital-status": {"Married-AF-spouse": "Married-civ-spouse"},
    "occupation": {None: "0", "Armed-Forces": "0"},
    "native-country": {None: "US", **{country: region for region, text in REGIONS.items() for country in text.split(",")}},
}
"""Which categories the protocol takes together; None is a missing cell."""


def adult(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Both files of Adult: numbers first, then one column per merged category."""
    parts = [read_csv(folder / f"adult-{part}.csv", columns=COLUMNS, comment="|") for part in ("training", "test")]
    rows = [row for part in parts for row in part.rows]
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    labels = np.array([cell.startswith(">50K") for cell in columns.pop("income")], dtype=np.int64)
    numbers, categories = [], []
    for name, cells in columns.items():
        if cells[0].lstrip("-").isdigit():
            values = np.array(cells, dtype=np.float64)
            numbers.append(np.log1p(values) if name == "fnlwgt" else values)
        else:
            merged = np.array([MERGED.get(name, {}).get(cell, cell) for cell in cells])
            categories += [merged == one for one in np.unique(merged)]
    return np.stack([*numbers, *categories], 1).astype(np.float64), labels


def ones_and_sevens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's training images but the first 5,000, which the protocol's reader kept apart: all ones, then all sevens; in 0..1."""
    train = MNIST(str(folder)).load().train
    images, digits = train.inputs[5000:].flatten(1).numpy() / 255, train.labels[5000:].numpy()
    ones, sevens = images[digits == 1], images[digits == 7]
    return np.concatenate([ones, sevens]), np.repeat([0, 1], [len(ones), len(sevens)])


def drawn(inputs: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and validation part of one seed, standardised."""
    x, rest, y, rest_labels = train_test_split(inputs, labels, train_size=SIZE, test_size=2 * SIZE, random_state=seed)
    held, _, held_labels, _ = train_test_split(rest, rest_labels, train_size=SIZE, test_size=SIZE, random_state=seed + 1)
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), y, scaler.transform(held), held_labels


def alpha_of(inputs: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Strength of the regulariser of logistic regression."""
    with warnings.catch_warnings():
        # The protocol takes C as it comes, after scikit-learn's own number of iterations.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        found = LogisticRegressionCV(random_state=seed, fit_intercept=False, cv=5).fit(inputs, labels)
    return 1 / (float(np.ravel(found.C_)[0]) * SIZE)


def net_of(kind: str, dims: int) -> nn.Module:
    """Logistic regression with bias, or two hidden layers of 8."""
    if kind == "logreg":
        return nn.Linear(dims, 1)
    return nn.Sequential(nn.Linear(dims, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def losses_with(alpha: float) -> Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]:
    """Binary cross-entropy of each example, each with the whole regulariser."""

    def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        plain = F.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels.to(inputs.dtype), reduction="none")
        return plain + alpha / 2 * nn.utils.parameters_to_vector(model.parameters()).square().sum()

    return losses


def ends(values: np.ndarray) -> set[int]:
    """The ten smallest and the ten largest."""
    order = np.argsort(values, kind="stable")
    return {*order[:ENDS].tolist(), *order[-ENDS:].tolist()}


def one_seed(setting: Setting, whole: tuple[np.ndarray, np.ndarray], seed: int, folder: Path) -> dict:
    """Record, leave every example out, score, compare."""
    x, y, held, held_labels = drawn(*whole, seed)
    alpha = alpha_of(x, y, seed) if setting.net == "logreg" else 0.001
    torch.manual_seed(seed)
    model = net_of(setting.net, x.shape[1]).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chunks = math.ceil(SIZE / setting.batch)
    epochs = [np.array_split(np.random.RandomState(epoch).permutation(SIZE), chunks) for epoch in range(setting.epochs)]
    rate = (lambda step: 0.1 / math.sqrt(step + 1)) if setting.decays else None
    losses = losses_with(alpha)
    loop = record(folder, model, optimizer, torch.from_numpy(x), torch.from_numpy(y), epochs, losses=losses, rate=rate)
    inputs, labels = torch.from_numpy(held), torch.from_numpy(held_labels).double()

    def validation(net: nn.Module) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(inputs)[:, 0], labels)

    began = time.perf_counter()
    truth = assay.score(folder, ["loo"], loop=loop, targets={"validation": validation})["loo"].values.numpy()
    loo = time.perf_counter() - began
    began = time.perf_counter()
    table = assay.score(folder, list(METHODS.values()), loop=loop, targets={"validation": validation})
    seconds = time.perf_counter() - began
    figures = {}
    for name, method in METHODS.items():
        values = (-table[parse(method).title].hardness()).numpy()
        both = ends(values), ends(truth)
        figures[name] = {
            "tau": float(kendalltau(values, truth).statistic),
            "spearman": float(spearmanr(values, truth).statistic),
            "jaccard": len(both[0] & both[1]) / len(both[0] | both[1]),
        }
    exact = table["sgd_influence"]
    with torch.no_grad():
        loss = float(validation(model))
        right = float(((model(inputs)[:, 0] > 0) == (labels > 0)).double().mean())
    return {
        "seed": seed,
        "alpha": alpha,
        "validation accuracy": right,
        "validation loss": loss,
        "adjoint growth": exact.diagnostics["adjoint growth"],
        "warned": any("adjoint grows" in text for text in exact.warnings),
        "slope of truth on exact": float(np.polyfit(exact.values.numpy(), truth, 1)[0]),
        "seconds: leave-one-out": loo,
        "seconds: methods": seconds,
        "methods": figures,
    }


def summary(values: list[float]) -> dict:
    """Mean, deviation over seeds, 95 % interval of the mean where there are three seeds or more, median; of a correlation or an overlap."""
    mean, n = statistics.fmean(values), len(values)
    deviation = statistics.stdev(values) if n > 1 else 0.0
    return {
        "mean": round(mean, 4),
        "std": round(deviation, 4),
        "interval": interval(values, -1.0),
        "median": round(statistics.median(values), 4),
    }


def begun(description: str | None, seeds: int) -> tuple[argparse.Namespace, Setting, tuple[np.ndarray, np.ndarray]]:
    """What the command line asks for, and the data of that setting."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-path", required=True, help="folder that holds the folders adult (adult-training.csv, adult-test.csv) and mnist"
    )
    parser.add_argument("--setting", choices=tuple(SETTINGS), required=True)
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from 0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setting = SETTINGS[given.setting]
    place = Path(given.data_path) / setting.data
    return given, setting, adult(place) if setting.data == "adult" else ones_and_sevens(place)


def main() -> None:
    """Measure one setting over seeds."""
    given, setting, whole = begun(__doc__, seeds=20)
    found = []
    # An interrupted measurement tells of the seeds that are done.
    with contextlib.suppress(KeyboardInterrupt):
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                found.append(one_seed(setting, whole, seed, Path(scratch) / "run"))
            exact = found[-1]["methods"]["sgd_influence, exact"]
            print(f"seed {seed}: exact tau {exact['tau']:.3f}, growth {found[-1]['adjoint growth']:.1f}", flush=True)
    rows = {
        name: {measure: summary([one["methods"][name][measure] for one in found]) for measure in ("tau", "spearman", "jaccard")}
        for name in METHODS
    }
    print(f"\n{given.setting}, {len(found)} seeds: mean (std) [95 % interval of the mean]")
    for name, row in rows.items():
        cells = [f"{m} {s['mean']:.3f} ({s['std']:.3f}) {s['interval']}" for m, s in row.items()]
        print(f"{name:32} {'   '.join(cells)}")
    figures = {
        "setting": dataclasses.asdict(setting),
        "inputs": whole[0].shape[1],
        "dtype": "float64",
        "published, exact: mean and deviation over 100 seeds": {"tau": setting.tau, "jaccard": setting.jaccard},
        "methods": rows,
        "seeds whose adjoint grows more than 10-fold": sum(one["warned"] for one in found),
        "seeds": found,
    }
    report(f"fidelity-{given.setting}", figures, given.out)


if __name__ == "__main__":
    main()
