"""dattri's MNIST-10 benchmark (Deng et al. 2024, arXiv 2410.04555): attribution of single test losses on 5,000 training and 500 test digits.

Softmax regression: plain SGD at rate 0.01, 20 epochs. MLP 784-128-64-10 with dropout 0.1: momentum 0.9 at rate 0.01, 50 epochs. Batches of 64.

LDS: 50 subsets of half of the examples, a training on each under a seed of its own; the mean over queries of Spearman's rho between the sum
of the values and the query's loss. With `--runs` also by the mean loss of so many trainings on each subset, which differ in their seeds. LOO: 50 trainings without one example each, under the recorded seed's weights and an order of their own;
the mean over queries of Pearson's correlation. This is not dattri's protocol: its `retrain_loo` passes one fixed seed to every training and a loader that does not shuffle. In trainings in
an order of their own all batches hold other examples than the recorded ones, so the same is held against trainings in the recorded order too, in which the example's loss counts 0 and
nothing else differs; these are the nearest to dattri's. Mislabels: a tenth of the labels is flipped, and self-influence ranks them by AUC. The published
values are read off charts; the published trainings draw other subsets, and LDS uses all 500 test examples where `--queries` says so.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from own_loop import record
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import assay
from assay.data.mnist import MNIST
from assay.experiments.evidence import open_replay
from assay.maths.crossed import crossed_interval, query_correlations

BATCH, RATE = 64, 0.01
MEMBERS = 1000
"""The seed of the first of several recorded trainings."""
MEAN, STD = 0.1307, 0.3081
PUBLISHED = {
    "lr": {"LDS": {"influence": 0.80, "trak, 50 models": 0.68, "tracin": 0.33}, "LOO": {"influence": 0.88}},
    "mlp": {
        "LDS": {"trak, 50 models": 0.45, "trak, 10 models": 0.33, "influence by CG": 0.26, "tracin": 0.15},
        "LOO": {"all methods, at most": 0.02},
        "mislabels": {"trak": 0.98, "influence by CG": 0.87},
    },
}
METHODS = {
    "tracin": "tracin:target=test",
    "influence, EK-FAC": "influence:target=test,solver=ekfac",
    "influence, EK-FAC + CG": "influence:target=test",
    "influence, damping 0.1": "influence:target=test,damping=0.1",
    "influence, damping found": "influence:target=test,damping=auto",
    "trak, last checkpoint": "trak:target=test",
    "source": "source:target=test",
    "sgd_influence": "sgd_influence:target=test",
}
SELF = ("self_influence", "tracin:target=self")


def net_of(kind: str, seed: int) -> nn.Module:
    """The benchmark's nets, weights by the seed."""
    torch.manual_seed(seed)
    if kind == "lr":
        return nn.Sequential(nn.Linear(784, 10))
    return nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
    )


def rounds(kind: str) -> tuple[int, float]:
    """Epochs and momentum."""
    return (20, 0.0) if kind == "lr" else (50, 0.9)


def losses_after(
    kind: str, inputs: Tensor, labels: Tensor, kept: Tensor, seeds: list[int], held: tuple[Tensor, Tensor]
) -> Tensor:
    """Loss of each held-out example after a training on each subset, all trainings side by side.

    Args:
        kind: `lr` or `mlp`.
        inputs: (examples, 784).
        labels: (examples,).
        kept: Positions that each training sees, (trainings, subset).
        seeds: Of weights, order and dropout, one for each training.
        held: Inputs and labels of the held-out examples.

    Returns:
        (trainings, held-out).
    """
    epochs, momentum = rounds(kind)
    nets = [net_of(kind, seed) for seed in seeds]
    at = [
        torch.stack([dict(net.named_parameters())[name].detach() for net in nets]).requires_grad_()
        for name, _ in nets[0].named_parameters()
    ]
    optimizer = torch.optim.SGD(at, lr=RATE, momentum=momentum)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = kept.shape[1]

    def outputs(rows: Tensor, training: bool) -> Tensor:
        for place in range(0, len(at), 2):
            rows = torch.baddbmm(at[place + 1][:, None], rows, at[place].mT)
            if place + 2 < len(at):
                rows = F.dropout(rows.relu(), 0.1, training)
        return rows

    torch.manual_seed(seeds[0])
    for _ in range(epochs):
        order = torch.stack([torch.randperm(size, generator=one) for one in generators])
        for part in order.split(BATCH, 1):
            batch = kept.gather(1, part)
            optimizer.zero_grad()
            logits = outputs(inputs[batch], True)
            # The sum over trainings of each one's mean: their gradients do not mix.
            F.cross_entropy(logits.flatten(0, 1), labels[batch].flatten(), reduction="sum").div(batch.shape[1]).backward()
            optimizer.step()
    with torch.no_grad():
        logits = outputs(held[0].expand(len(seeds), -1, -1), False)
        # In single precision the loss of what a net is sure of is 0, whatever it was trained on.
        return F.cross_entropy(logits.flatten(0, 1).double(), held[1].repeat(len(seeds)), reduction="none").view(len(seeds), -1)


def recorded(folder: Path, kind: str, inputs: Tensor, labels: Tensor, seed: int = 0) -> assay.Loop:
    """The training on all examples, recorded in its own loop; weights and order by the seed."""
    epochs, momentum = rounds(kind)
    model = net_of(kind, seed)
    generator = np.random.RandomState(seed)
    cuts = range(BATCH, len(labels), BATCH)
    orders = [np.split(generator.permutation(len(labels)), cuts) for _ in range(epochs)]
    return record(folder, model, torch.optim.SGD(model.parameters(), lr=RATE, momentum=momentum), inputs, labels, orders)


def matrix(attribution: assay.Attribution) -> np.ndarray:
    """All values, (queries, examples), above 0 where the example helps."""
    rows = torch.cat([block.values for block in attribution.blocks()])
    return (-attribution.direction.sign * rows).numpy()


def left_out_correlation(values: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Pearson's correlation over the examples left out, the mean over the queries in which both vary, and how many these are.

    Args:
        values: (left out, queries).
        losses: After each was left out, of the same shape.
    """
    varies = (values.std(0) > 0) & (losses.std(0) > 0)
    found = [np.corrcoef(values[:, query], losses[:, query])[0, 1] for query in varies.nonzero()[0]]
    return {"value": float(np.mean(found)) if found else float("nan"), "queries": len(found)}


def main() -> None:
    """Measure one net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder of MNIST's four files")
    parser.add_argument("--net", choices=("lr", "mlp"), required=True)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--runs", type=int, default=1, help="trainings on each subset, by whose mean loss LDS is told too")
    parser.add_argument("--methods", nargs="*", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--trak-models", nargs="*", type=int, default=[], help="also TRAK's mean over so many recorded trainings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    split = MNIST(given.data_path).load()
    data = []
    for part, count in ((split.train, given.examples), (split.test, given.queries)):
        pixels = part.inputs[:count].flatten(1).to(torch.float32) / 255
        data.append(((pixels - MEAN) / STD, part.labels[:count].to(torch.int64)))
    (inputs, labels), held = data
    generator = torch.Generator().manual_seed(0)
    halves = torch.stack([torch.randperm(len(labels), generator=generator)[: len(labels) // 2] for _ in range(given.subsets)])
    found: dict = {
        "published, read off charts": PUBLISHED[given.net],
        "LDS": {},
        "LOO": {},
        "LOO, recorded order": {},
        "seconds": {},
    }
    began = time.perf_counter()
    several = [
        losses_after(given.net, inputs, labels, halves, [run * given.subsets + one for one in range(1, given.subsets + 1)], held)
        for run in range(given.runs)
    ]
    after, mean_after = several[0].numpy(), torch.stack(several).mean(0).numpy()
    left = torch.randperm(len(labels), generator=generator)[: given.subsets]
    everything = torch.arange(len(labels))
    ones = torch.stack([everything[everything != one] for one in left])
    alone = losses_after(given.net, inputs, labels, ones, [0] * given.subsets, held).numpy()
    found["seconds"]["retrainings"] = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        began = time.perf_counter()
        loop = recorded(folder, given.net, inputs, labels)
        found["seconds"]["recorded training"] = time.perf_counter() - began
        names = [f"query{number}" for number in range(len(held[1]))]
        singles = {name: (held[0][n : n + 1], held[1][n : n + 1]) for n, name in enumerate(names)}
        replay = open_replay(folder, loop=loop, targets=singles)
        same = replay.retrained(list(left.split(1)), range(replay.epochs[-1].stop), names, "weight").numpy()

        def tell(title: str, values: np.ndarray) -> None:
            # What helps lowers the loss of those that it is trained with.
            predicted = -np.stack([values[:, half].sum(1) for half in halves.numpy()])
            rho = float(query_correlations(predicted, after).mean())
            without = values[:, left.numpy()].T
            own, recorded_order = (left_out_correlation(without, losses) for losses in (alone, same))
            found["LDS"][title] = {"value": rho, "interval": crossed_interval(predicted, after)}
            if given.runs > 1:
                found["LDS"][title] |= {
                    f"by the mean of {given.runs} trainings": float(query_correlations(predicted, mean_after).mean()),
                    "its interval": crossed_interval(predicted, mean_after),
                }
            found["LOO"][title] = own
            found["LOO, recorded order"][title] = recorded_order
            print(title, found["LDS"][title], own, recorded_order, round(found["seconds"][title], 1), flush=True)

        for title in given.methods:
            began = time.perf_counter()
            values = matrix(assay.attribute(folder, METHODS[title], loop=loop, targets={"test": held}))
            found["seconds"][title] = time.perf_counter() - began
            tell(title, values)
        began, total = time.perf_counter(), np.zeros((len(held[1]), len(labels)))
        for number in range(max(given.trak_models, default=0)):
            # Seeds of no retraining.
            path = Path(scratch) / "member"
            other = recorded(path, given.net, inputs, labels, MEMBERS + number)
            total += matrix(assay.attribute(path, METHODS["trak, last checkpoint"], loop=other, targets={"test": held}))
            shutil.rmtree(path)
            if number + 1 in given.trak_models:
                title = f"trak, {number + 1} models"
                found["seconds"][title] = time.perf_counter() - began
                tell(title, total / (number + 1))
        wrong = torch.randperm(len(labels), generator=generator)[: len(labels) // 10]
        noisy = labels.clone()
        noisy[wrong] = (noisy[wrong] + torch.randint(1, 10, (len(wrong),), generator=generator)) % 10
        flags = np.zeros(len(labels))
        flags[wrong.numpy()] = 1
        folder = Path(scratch) / "noisy"
        loop = recorded(folder, given.net, inputs, noisy)
        found["mislabels, AUC"] = {}
        for method in (*SELF, "aum"):
            (scores,) = assay.score(folder, method, loop=None if method == "aum" else loop).values()
            found["mislabels, AUC"][method] = float(roc_auc_score(flags, (scores.direction.sign * scores.values).numpy()))
            print(method, found["mislabels, AUC"][method], flush=True)
    report(f"dattri-{given.net}", found, given.out)


if __name__ == "__main__":
    main()
