"""Planted flips in MNIST in the protocol of LiveVal's released scripts: which method finds them inside a small tracked set?

LeNet, 5 epochs, batches of 256, plain SGD at 0.1 (the rate of the released sweeps; their command line has momentum 0.9 by default,
the paper's step none). In each run 10, 20, 30 or 40 ones drawn by the seed are labelled 7, in what is trained on; the tracked set
is these and as many other examples, drawn by the seed, as make 100. Fewer flips of a seed are part of its more. Detection rate: the part of
the flips among as many examples of the tracked set as there are flips, the most harmful first (chance: flips / 100); AUC and average
precision inside the tracked set too. Only the first rows of MNIST are trained on, as given by --examples; the 1,000 rows after them, with
true labels, are what SGD-influence and TracIn predict the loss of.

Each method ranks by the direction that it declares: low is harmful for SGD-influence, TracIn, OTI, LiveVal and AUM; high is hard or suspect
for GraNd, TracIn of itself and the mean loss. The released scripts take the lowest GraNd.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import report
from over_seeds import interval
from own_loop import record
from sklearn.metrics import average_precision_score, roc_auc_score

import assay
from assay import nets
from assay.data.examples import Examples
from assay.data.mnist import MNIST
from assay.maths import draws, ranking
from assay.methods import parse
from assay.runs.run import Run
from assay.training.loop import predict

TRACKED = 100
HELD_OUT = 1000
ONE, SEVEN = 1, 7
METHODS = {
    "sgd_influence, all epochs": "sgd_influence",
    "sgd_influence, last epoch": "sgd_influence:window=last",
    "tracin": "tracin",
    "tracin of itself": "tracin:target=self",
    "oti": "oti",
    "liveval": "liveval",
    "grand, last epoch": "grand",
    "grand, first epoch": "grand:at=0",
    "aum": "aum",
    "loss": "loss",
}


def planted(examples: Examples, flips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the ones that are to be flipped, and of the tracked set that they are part of."""
    keys = examples.ids.keys
    ones = (examples.labels == ONE).nonzero().flatten()
    flipped = ones[draws.permutation(keys[ones], seed, "flips")[:flips]]
    others = torch.ones(len(examples), dtype=torch.bool)
    others[flipped] = False
    rest = others.nonzero().flatten()
    rest = rest[draws.permutation(keys[rest], seed, "tracked")[: TRACKED - flips]]
    return flipped, torch.cat([flipped, rest])


def one(examples: Examples, held: Examples, test: Examples, flips: int, seed: int, given: argparse.Namespace) -> dict:
    """Flip, record, score, look for the flips."""
    flipped, tracked = planted(examples, flips, seed)
    labels = examples.labels.to(torch.int64).clone()
    labels[flipped] = SEVEN
    torch.manual_seed(seed)
    model = nets.parse("lenet").module((1, 28, 28), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=given.lr, momentum=given.momentum)
    chunks = [np.random.RandomState(1000 * seed + epoch).permutation(len(examples)) for epoch in range(given.epochs)]
    epochs = [np.array_split(order, range(given.batch, len(order), given.batch)) for order in chunks]
    inputs = examples.prepared(examples.inputs)
    targets = {"validation": (held.prepared(held.inputs), held.labels.to(torch.int64))}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        began = time.perf_counter()
        loop = record(folder, model, optimizer, inputs, labels, epochs)
        trained = time.perf_counter() - began
        # The labels that the training pass saw, not those of the clean set behind it.
        if not bool((Run(folder).labels[flipped] == SEVEN).all()):
            raise SystemExit("The flips did not reach the training.")
        began = time.perf_counter()
        table = assay.score(folder, list(METHODS.values()), loop=loop, targets=targets)
        scored = time.perf_counter() - began
    wrong = torch.zeros(len(tracked), dtype=torch.bool)
    wrong[:flips] = True
    found = {}
    for name, method in METHODS.items():
        suspicion = table[parse(method).title].hardness()[tracked]
        found[name] = {
            "rate": ranking.precision_at(suspicion, wrong, flips),
            "auc": roc_auc_score(wrong, suspicion),
            "ap": average_precision_score(wrong, suspicion),
        }
    right = predict(model, test.inputs, prepare=test.prepared).argmax(-1) == test.labels
    return {
        "seed": seed,
        "flips": flips,
        "test accuracy": float(right.double().mean()),
        "adjoint growth": table["sgd_influence"].diagnostics["adjoint growth"],
        "seconds": [trained, scored],
        "methods": found,
    }


def main() -> None:
    """Measure all counts over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder of MNIST's four files")
    parser.add_argument("--examples", type=int, default=6000, help="how many rows are trained on")
    parser.add_argument("--flips", type=int, nargs="+", default=[10, 20, 30, 40])
    parser.add_argument("--seeds", type=int, default=8, help="how many, from 0")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="flips", help="of the JSON")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    split = MNIST(given.data_path, limit=given.examples + HELD_OUT).load()
    places = torch.arange(len(split.train))
    examples, held = split.train.take(places < given.examples), split.train.take(places >= given.examples)
    runs: list[dict] = []
    # An interrupted measurement tells of the seeds that are done.
    with contextlib.suppress(KeyboardInterrupt):
        for seed in range(given.seeds):
            own = []
            for flips in given.flips:
                own.append(one(examples, held, split.test, flips, seed, given))
                seconds = "+".join(f"{part:.1f}" for part in own[-1]["seconds"])
                print(f"seed {seed}, {flips} flips: test accuracy {own[-1]['test accuracy']:.4f}, {seconds} s", flush=True)
            runs += own
    seeds = sorted({run["seed"] for run in runs})
    figures: dict = {
        "seeds": seeds,
        "settings": {key: value for key, value in vars(given).items() if key not in ("data_path", "out")},
        "test accuracy": statistics.fmean(run["test accuracy"] for run in runs),
        "largest adjoint growth": max(run["adjoint growth"] for run in runs),
        "rate / AUC / AP": {},
    }
    print(
        f"\n{'':28}"
        + "".join(f"{flips:>10}" for flips in given.flips)
        + "   rate by number of flips, then AUC and AP over all runs"
    )
    for name in METHODS:
        row: dict = {}
        for flips in given.flips:
            own = [run["methods"][name] for run in runs if run["flips"] == flips]
            row[str(flips)] = {key: round(statistics.fmean(found[key] for found in own), 4) for key in ("rate", "auc", "ap")}
        # Runs of one seed share flips and weights, so that the interval is over the means of seeds.
        for key in ("rate", "auc", "ap"):
            means = [statistics.fmean(r["methods"][name][key] for r in runs if r["seed"] == seed) for seed in seeds]
            row[f"{key}, all"] = {
                "mean": round(statistics.fmean(means), 4),
                "interval": interval(means),
            }
        figures["rate / AUC / AP"][name] = row
        rates = "".join(f"{row[str(flips)]['rate']:>10.3f}" for flips in given.flips)
        print(f"{name:28}{rates}   {row['auc, all']['mean']:.4f} {row['auc, all']['interval']}  {row['ap, all']['mean']:.4f}")
    figures["runs"] = runs
    report(given.name, figures, given.out)


if __name__ == "__main__":
    main()
