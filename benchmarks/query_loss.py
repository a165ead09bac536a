"""Query loss difference: what leaving out the 1 % of the examples that help one query most does to its loss, beside leaving out 1 % at random.

The protocol of bergson's comparison (the recorded training is repeated without them, same weights and same batches), on digits and on the
first 2,000 rows of MNIST; nets and recipe are those of the `lds` figures. Mean over the queries, with Student's interval.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import report
from own_loop import Epochs, record
from scipy.stats import t
from torch import nn

import assay
from assay.data.digits import Digits
from assay.data.mnist import MNIST
from assay.experiments.evidence import open_replay

METHODS = {
    "sgd_influence": "sgd_influence:target=test",
    "influence, EK-FAC + CG": "influence:target=test",
    "influence, EK-FAC": "influence:target=test,solver=ekfac",
    "source": "source:target=test",
    "trak": "trak:target=test",
    "tracin": "tracin:target=test",
}


def orders(examples: int, epochs: int) -> Epochs:
    """Shuffled batches of each epoch, as even as they can be."""
    generator = np.random.RandomState(0)
    return [np.array_split(generator.permutation(examples), -(-examples // 64)) for _ in range(epochs)]


def main() -> None:
    """Measure both datasets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder of MNIST's four files")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--draws", type=int, default=5, help="random subsets, of which the mean counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures: dict = {}
    for data, split, epochs in (("digits", Digits().load(), 20), ("mnist", MNIST(given.data_path, limit=2000).load(), 10)):
        inputs = split.train.prepared(split.train.inputs).flatten(1)
        labels = split.train.labels.to(torch.int64)
        chosen = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[: given.queries]
        held = split.test.prepared(split.test.inputs).flatten(1)[chosen], split.test.labels[chosen].to(torch.int64)
        count = round(given.share * len(labels))
        names = [f"query{number}" for number in range(given.queries)]
        singles = {name: (held[0][n : n + 1], held[1][n : n + 1]) for n, name in enumerate(names)}
        rows: dict = {}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "run"
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loop = record(folder, model, optimizer, inputs, labels, orders(len(labels), epochs))
            replay = open_replay(folder, loop=loop, targets=singles)
            whole = range(0, replay.epochs[-1].stop)
            generator = torch.Generator().manual_seed(1)
            random = [torch.randperm(len(labels), generator=generator)[:count] for _ in range(given.draws)]
            nothing = torch.empty(0, dtype=torch.int64)
            after = replay.retrained([nothing, *random], whole, names, "weight")
            before, by_chance = after[0], after[1:].mean(0)
            for title, method in METHODS.items():
                began = time.perf_counter()
                found = assay.attribute(folder, method, loop=loop, targets={"test": held})
                seconds = time.perf_counter() - began
                values = -found.direction.sign * torch.cat([block.values for block in found.blocks()])
                groups = [row.argsort(descending=True)[:count] for row in values]
                without = replay.retrained(groups, whole, names, "weight").diagonal()
                rises = (without - before).numpy()
                beyond = (without - by_chance).numpy()
                half = float(t.ppf(0.975, len(beyond) - 1)) * beyond.std(ddof=1) / len(beyond) ** 0.5
                rows[title] = {
                    "rise of the query's loss": float(rises.mean()),
                    "beyond random": [float(beyond.mean() - half), float(beyond.mean()), float(beyond.mean() + half)],
                    "queries above random": int((beyond > 0).sum()),
                    "seconds": seconds,
                }
                print(data, title, rows[title], flush=True)
            rows["random"] = {"rise of the query's loss": float((by_chance - before).mean())}
        figures[data] = {"left out": count, "mean loss before": float(before.mean()), **rows}
    report("query_loss", figures, given.out)


if __name__ == "__main__":
    main()
