"""LDS (linear datamodeling score): does a method predict how the loss on one query changes when many examples are left out together?

Subsets that leave out a fixed share of the training examples are drawn; for each query (an example of the test part, drawn) the scores of
what is left out are added up, and Spearman's rho over the subsets holds these sums against the query's loss after training without them.
LDS is the mean of rho over the queries. Its interval is over queries and subsets, which all queries share (`assay.maths.crossed`).

Same seed: the recorded run itself taken again, same initial weights and same batches, either with the left-out losses at weight 0 and the
mean still over the whole batch (`weight`, what influence predicts), or with the mean over those that stay (`renormalised`).
Other seeds: new initial weights, new orders, and full batches of those that stay; each seed alone, and the mean of its losses with those
of the others.

Nets: 64 and 128 units with ReLU or tanh (digits, 20 epochs, rate 0.1), with ReLU (the first 2,000 rows of MNIST, 10 epochs, rate 0.1);
batches of 64, plain SGD, float32. The scores are those of the one recorded run, seed 0.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from own_loop import Epochs, record
from torch import Tensor, nn

import assay
from assay.data.digits import Digits
from assay.data.examples import Split
from assay.data.mnist import MNIST
from assay.experiments.evidence import open_replay
from assay.maths import crossed, draws

RATE, BATCH = 0.1, 64
METHODS = {
    "sgd_influence, exact": "sgd_influence:target=test",
    "sgd_influence, gauss_newton": "sgd_influence:target=test,form=gauss_newton",
    "sgd_influence, fisher": "sgd_influence:target=test,form=fisher",
    "sgd_influence, last_parameters": "sgd_influence:target=test,form=last_parameters",
    "sgd_influence, no_hessian": "sgd_influence:target=test,form=no_hessian",
    "influence, EK-FAC + CG": "influence:target=test",
    "influence, EK-FAC": "influence:target=test,solver=ekfac",
    "source": "source:target=test",
    "trak, 1 checkpoint": "trak:target=test",
    "trak, 5 checkpoints": "trak:target=test,checkpoints=5",
    "trak, 10 checkpoints": "trak:target=test,checkpoints=10",
    "tracin": "tracin:target=test",
}
DAMPINGS = (1e-4, 1e-3, 1e-1, 1.0)
"""Of `influence`, beside 0.01, its default, and what `auto` finds."""
METHODS |= {f"influence, damping {one:g}": f"influence:target=test,damping={one:g},rtol=1e-5" for one in DAMPINGS}
METHODS["influence, damping auto"] = "influence:target=test,damping=auto,rtol=1e-5"
METHODS["influence, EK-FAC, damping auto"] = "influence:target=test,solver=ekfac,damping=auto"


@dataclasses.dataclass(frozen=True)
class Case:
    """Data and net."""

    data: str
    activation: type[nn.Module]
    epochs: int


CASES = {
    "digits-relu": Case("digits", nn.ReLU, 20),
    "digits-tanh": Case("digits", nn.Tanh, 20),
    "mnist-relu": Case("mnist", nn.ReLU, 10),
}


def net_of(case: Case, dims: int, seed: int) -> nn.Module:
    """Two hidden layers, weights by the seed."""
    torch.manual_seed(seed)
    act = case.activation
    return nn.Sequential(nn.Linear(dims, 64), act(), nn.Linear(64, 128), act(), nn.Linear(128, 10))


def orders(examples: int, epochs: int, seed: int) -> Epochs:
    """Shuffled batches of each epoch, as even as they can be."""
    generator = np.random.RandomState(seed)
    return [np.array_split(generator.permutation(examples), -(-examples // BATCH)) for _ in range(epochs)]


def trained(case: Case, inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Another training of these examples alone."""
    model = net_of(case, inputs.shape[1], seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for epoch in orders(len(labels), case.epochs, seed):
        for batch in epoch:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return model


def lds(predicted: Tensor, actual: Tensor) -> dict:
    """Mean over queries of the correlation over subsets.

    Args:
        predicted: (subsets, queries).
        actual: (subsets, queries).
    """
    given = predicted.numpy(), actual.numpy()
    ends = crossed.crossed_interval(*given)
    return {
        "lds": round(float(crossed.query_correlations(*given).mean()), 4),
        "interval": None if ends is None else [round(end, 4) for end in ends],
    }


def read(case: Case, path: str | None) -> Split:
    """The examples."""
    if case.data == "digits":
        return Digits().load()
    if path is None:
        raise SystemExit("MNIST needs --data-path, the folder of its four files.")
    return MNIST(path, limit=2000).load()


def measured(case: Case, given: argparse.Namespace) -> dict:
    """One net on one dataset."""
    split = read(case, given.data_path)
    train, test = split.train, split.test
    chosen = draws.permutation(test.ids.keys, 0, "queries")[: given.queries]
    inputs, labels = train.prepared(train.inputs).flatten(1), train.labels.to(torch.int64)
    held, held_labels = test.prepared(test.inputs).flatten(1)[chosen], test.labels[chosen].to(torch.int64)
    names = [f"query{number}" for number in range(given.queries)]
    targets = {name: (held[n : n + 1], held_labels[n : n + 1]) for n, name in enumerate(names)}
    found: dict = {"training examples": len(labels), "queries": given.queries, "subsets": given.subsets}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        model = net_of(case, inputs.shape[1], 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        began = time.perf_counter()
        loop = record(folder, model, optimizer, inputs, labels, orders(len(labels), case.epochs, 0))
        found["seconds: training"] = time.perf_counter() - began
        scores, seconds = {}, {}
        for title, method in METHODS.items():
            began = time.perf_counter()
            try:
                values = assay.attribute(folder, method, loop=loop, targets={"test": (held, held_labels)})
            except assay.AssayError as error:
                found.setdefault("refused", {})[title] = str(error)
                print(error, flush=True)
                continue
            scores[title] = -values.direction.sign * torch.cat([block.values for block in values.blocks()])
            seconds[title] = time.perf_counter() - began
        scores["random"] = torch.randn(scores["tracin"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found["seconds: scores for all queries"] = seconds
        print({title: round(value, 1) for title, value in seconds.items()}, flush=True)
        with torch.no_grad():
            found["test accuracy"] = float(
                (model(test.prepared(test.inputs).flatten(1)).argmax(-1) == test.labels).double().mean()
            )
        replay = open_replay(folder, loop=loop, targets=targets)
        whole = range(0, replay.epochs[-1].stop)
        for share in given.shares:
            groups = [
                draws.permutation(train.ids.keys, number, f"left out {share}")[: round(share * len(labels))]
                for number in range(given.subsets)
            ]
            predicted = {title: torch.stack([values[:, group].sum(1) for group in groups]) for title, values in scores.items()}
            actual = {f"same seed, {form}": replay.retrained(groups, whole, names, form) for form in ("weight", "renormalised")}
            others = []
            for seed in range(1, given.seeds + 1):
                after = []
                for group in groups:
                    stays = torch.ones(len(labels), dtype=torch.bool)
                    stays[group] = False
                    other = trained(case, inputs[stays], labels[stays], seed)
                    with torch.no_grad():
                        after.append(F.cross_entropy(other(held), held_labels, reduction="none").double())
                others.append(torch.stack(after))
                actual[f"other seed {seed}"] = others[-1]
            actual[f"other seeds, mean of {given.seeds}"] = torch.stack(others).mean(0)
            # How far the changes under one seed tell those under another.
            between = [lds(one, other)["lds"] for one, other in itertools.combinations(others, 2)]
            renewed = [lds(actual["same seed, renormalised"], other)["lds"] for other in others]
            rows = {key: {title: lds(values, truth) for title, values in predicted.items()} for key, truth in actual.items()}
            found[f"{share:.0%} left out"] = {
                **rows,
                "changes under one other seed against another": between,
                "changes under the same seed, renormalised, against other seeds": renewed,
            }
            print(f"\n{share:.0%} left out{'':18}" + "".join(f"{key:>24}" for key in rows))
            for title in predicted:
                print(f"{title:32}" + "".join(f"{row[title]['lds']:>24.3f}" for row in rows.values()), flush=True)
    return found


def main() -> None:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", help="folder of MNIST's four files")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--seeds", type=int, default=3, help="how many other seeds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="folder for the JSON, one for each case")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.cases:
        print(name, flush=True)
        report(f"lds-{name}", measured(CASES[name], given), given.out)


if __name__ == "__main__":
    main()
