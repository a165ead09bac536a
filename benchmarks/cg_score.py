"""The complexity gap: seconds and memory beside a loop over examples, and how near the approximations for many examples come.

Five parts, each a command of its own. `loop`: the closed form beside a loop that takes each example out of the inverse (as the
authors' code does), two classes of random rows. `protocol`: the paper's protocol with 5 repetitions on CIFAR-10. `iteration`: conjugate
gradients on one kernel of many MNIST images beside the exact score. `digits`: planted flips. `cost`: seconds against the number of examples.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from machine import forget_peak, report, resident_mb
from sklearn.metrics import roc_auc_score

from assay import data
from assay.core.evidence import Evidence
from assay.core.scoring import score
from assay.data.corruption import plant
from assay.data.examples import Examples
from assay.maths import gram, ranking
from assay.methods.cg_score import CGScore, cg_score

THREADS = 2
COUNTS = (400, 800, 2000)
"""Examples of the loop."""
MANY = 20_000
"""Images of the iteration."""
FLIPS, SEEDS = 0.2, 5


def by_loop(rows: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Each example taken out of the inverse by the block formula, one after the other."""
    inverse = torch.linalg.inv(gram.relu_gram(rows))
    # What is found stands in one place: numbers strewn between so large matrices would keep their memory from being used again.
    whole, found = signs @ inverse @ signs, torch.empty(len(rows), dtype=torch.float64)
    for out in range(len(rows)):
        rest = torch.cat([torch.arange(out), torch.arange(out + 1, len(rows))])
        column = inverse[rest, out]
        without = inverse[rest][:, rest] - torch.outer(column, column) / inverse[out, out]
        found[out] = whole - signs[rest] @ without @ signs[rest]
    return found


def loop(_: Path) -> dict:
    """The closed form and the loop, on the same rows in turn."""
    found = {}
    for count in COUNTS:
        draw = torch.Generator().manual_seed(0)
        rows = gram.unit_rows(torch.randn(count, 784, generator=draw, dtype=torch.float64))
        signs = torch.randint(2, (count,), generator=draw, dtype=torch.float64) * 2 - 1
        closed, slow = [], []
        for _repeat in range(3 if count < 2000 else 1):
            began = time.perf_counter()
            expected = by_loop(rows, signs)
            slow.append(time.perf_counter() - began)
            for _again in range(5):
                began = time.perf_counter()
                values = cg_score(rows, signs)
                closed.append(time.perf_counter() - began)
        found[str(count)] = {
            "loop, seconds": statistics.median(slow),
            "closed form, seconds": statistics.median(closed),
            "times faster": statistics.median(slow) / statistics.median(closed),
            "largest difference": float((values - expected).abs().max()),
        }
    return found


def scored(examples: Examples, **options) -> tuple[dict, torch.Tensor]:
    """Seconds and memory of a score, and the score."""
    evidence = Evidence(examples.ids, examples.classes, labels=examples.labels, inputs=examples.plain())
    forget_peak()
    before, began = resident_mb("VmRSS"), time.perf_counter()
    (scores,) = score([CGScore(**options)], evidence)
    told = {"seconds": time.perf_counter() - began, "mb": resident_mb("VmHWM") - before, "mb of the inputs": before}
    return told | {name: value for name, value in scores.diagnostics.items() if isinstance(value, float | int)}, scores.values


def protocol(folder: Path) -> dict:
    """The paper's protocol on CIFAR-10, whose labels people got wrong, as they are and standardised."""
    split = data.parse(f"cifar10:path={folder / 'cifar10'},labels=worse_label,limit=10000").load()
    wrong = split.train.labels != split.true_labels
    found: dict = {"examples": len(split.train)}
    for transform in ("raw", "standardised"):
        told, values = scored(split.train, transform=transform)
        found[transform] = told | {"AUC of human label noise": roc_auc_score(wrong, values)}
    return found


def iteration(folder: Path) -> dict:
    """One kernel of many images: exact, and by conjugate gradients."""
    train = data.parse(f"mnist:path={folder / 'mnist'},limit={MANY}").load().train
    near, approximate = scored(train, protocol="rest", solver="iteration")
    exact, values = scored(train, protocol="rest")
    spearman = float(ranking.rank_correlation(torch.stack([approximate, values]))[0, 1])
    return {"examples": len(train), "iteration": near, "exact": exact, "Spearman of both": spearman}


def digits(_: Path) -> dict:
    """Uniform flips in scikit-learn's digits, by number of repetitions: AUC by seed."""
    train = data.parse("digits:test=97").load().train
    found = {}
    for repeats in (1, 5, 10):
        aucs = []
        for seed in range(SEEDS):
            planted = plant(train, "uniform", FLIPS, seed)
            _, values = scored(planted.examples, repeats=repeats, seed=seed)
            aucs.append(roc_auc_score(planted.examples.labels != planted.true_labels, values))
        found[str(repeats)] = {"mean AUC": statistics.mean(aucs), "least": min(aucs), "largest": max(aucs)}
    return {"examples": len(train), "flipped": FLIPS, "repetitions": found}


def cost(folder: Path) -> dict:
    """Seconds of one kernel against the number of examples, and the exponent."""
    whole = data.parse(f"mnist:path={folder / 'mnist'},limit=8000").load().train
    seconds = {}
    for count in (500, 1000, 2000, 4000, 8000):
        part = whole.take(torch.arange(count))
        seconds[count] = statistics.median(scored(part, protocol="rest")[0]["seconds"] for _ in range(3))
    logs = np.log(np.array([list(seconds), list(seconds.values())]))
    return {"seconds": {str(n): s for n, s in seconds.items()}, "exponent": float(np.polyfit(logs[0], logs[1], 1)[0])}


PARTS = {"loop": loop, "protocol": protocol, "iteration": iteration, "digits": digits, "cost": cost}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder that holds the folders cifar10 and mnist")
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    report(f"cg_score-{given.part}", PARTS[given.part](Path(given.data_path)), given.out)


if __name__ == "__main__":
    main()
