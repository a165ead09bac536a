"""Selectors by features: seconds, memory, and how both grow, beside a plain NumPy form.

Each selector keeps a tenth of n rows of 512 dimensions, single precision: a mixture of 100 clusters of different sizes. Each measurement is a process
of its own, so that no peak is hidden by an earlier one; the memory is the rise above what is resident before the selection, the rows left out. The
plain form holds all distances of n rows to the n rows, as code that is a few lines of NumPy does, at the smaller n. Selectors that assay does
not have are passed over.
"""

import argparse
import json
import math
import subprocess
import sys
import time

import numpy as np
import torch
from machine import forget_peak, report, resident_mb

from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.scores import Direction, Scores
from assay.core.selection import choose
from assay.policies import catalogue

DIMS, KEEP, CLASSES = 512, 0.1, 10
SMALL, MIDDLE, LARGE = 5_000, 15_000, 50_000
TOLD = ("seconds", "CPU seconds", "MB")
SELECTORS = {
    "k_center": {},
    "herding": {"features": "inputs"},
    "contextual_diversity": {"features": "rows:logits"},
    "cal": {"features": "inputs", "predictions": "rows:logits"},
    "moderate": {"features": "inputs"},
    "d2": {"features": "inputs"},
    "zcore": {"samples": 10_000, "seed": 0},
    "facility_location": {"features": "inputs"},
    "craig": {"features": "inputs"},
    "log_determinant": {"features": "inputs"},
}


def made(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, labels and logits."""
    draw = torch.Generator().manual_seed(0)
    cluster = torch.multinomial(1 / torch.arange(1.0, 101), n, replacement=True, generator=draw)
    centers = 2 * torch.randn(100, DIMS, generator=draw)
    rows = centers[cluster] + torch.randn(n, DIMS, generator=draw)
    return rows, cluster % CLASSES, rows[:, :CLASSES].clone()


def evidence_of(n: int) -> tuple[Evidence, Scores]:
    """The rows as evidence, and a score of difficulty."""
    rows, labels, logits = made(n)
    ids = Ids(range(n))
    scores = Scores(ids, rows[:, 0].double(), "made", {}, "made", Direction.HIGH_IS_HARD, "none")
    return Evidence(ids, CLASSES, labels=labels, inputs={"": rows, "logits": logits}), scores


def plain_k_center(rows: np.ndarray, count: int) -> list[int]:
    """Greedy k-center on the matrix of all distances."""
    sizes = (rows**2).sum(1)
    apart = np.sqrt(np.maximum(sizes[:, None] + sizes - 2 * rows @ rows.T, 0))
    taken = [int(((rows - rows.mean(0)) ** 2).sum(1).argmin())]
    while len(taken) < count:
        taken.append(int(apart[:, taken].min(1).argmax()))
    return taken


def plain_herding(rows: np.ndarray, count: int) -> list[int]:
    """Herding, all distances anew in each step."""
    mean, total, taken = rows.mean(0), np.zeros(rows.shape[1]), []
    for j in range(1, count + 1):
        gaps = np.linalg.norm(j * mean - total - rows, axis=1)
        gaps[taken] = np.inf
        taken.append(int(gaps.argmin()))
        total += rows[taken[-1]]
    return taken


def plain_facility_location(rows: np.ndarray, count: int) -> list[int]:
    """Naive greedy facility location on the matrix of all similarities."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similar = 0.5 + 0.5 * unit @ unit.T
    best, taken = np.zeros(len(rows)), []
    for _ in range(count):
        gains = np.maximum(similar - best[:, None], 0).sum(0)
        gains[taken] = -1
        taken.append(int(gains.argmax()))
        best = np.maximum(best, similar[:, taken[-1]])
    return taken


def plain_craig(rows: np.ndarray, count: int) -> list[int]:
    """Naive greedy CRAIG on the matrix of all distances of each class, a tenth of each."""
    labels, taken = made(len(rows))[1].numpy(), []
    for one in range(CLASSES):
        members = np.flatnonzero(labels == one)
        sizes = (rows[members] ** 2).sum(1)
        apart = np.sqrt(np.maximum(sizes[:, None] + sizes - 2 * rows[members] @ rows[members].T, 0))
        near, chosen = apart.max() - apart, []
        best = np.zeros(len(members))
        for _ in range(round(count * len(members) / len(rows))):
            gains = np.maximum(near - best[:, None], 0).sum(0)
            gains[chosen] = -1
            chosen.append(int(gains.argmax()))
            best = np.maximum(best, near[:, chosen[-1]])
        taken += list(members[chosen])
    return taken


PLAIN = {
    "k_center": plain_k_center,
    "herding": plain_herding,
    "facility_location": plain_facility_location,
    "craig": plain_craig,
}
# The greedy forms break ties otherwise, and CRAIG's order goes through the classes.
ALIKE = ("k_center", "herding")


def measured(name: str, n: int, plain: bool) -> dict:
    """Seconds and memory of one selection in this process."""
    given, scores = evidence_of(n)
    if plain:
        rows = made(n)[0].numpy()
    else:
        policy = catalogue()[name](keep=int(KEEP * n), **SELECTORS[name])  # type: ignore[call-arg]
        few, its = evidence_of(200)
        # Once on a few, so that nothing is loaded during the measurement.
        choose(type(policy)(keep=20, **SELECTORS[name]), its if policy.needs_score else None, few)  # type: ignore[call-arg]
    forget_peak()
    before, began, busy = resident_mb("VmRSS"), time.perf_counter(), time.process_time()
    if plain:
        order = PLAIN[name](rows, int(KEEP * n))
    else:
        decision = choose(policy, scores if policy.needs_score else None, given)
        order = list(decision.order)[:20] if decision.order is not None else []
    told = {
        "seconds": time.perf_counter() - began,
        "CPU seconds": time.process_time() - busy,
        "MB": resident_mb("VmHWM") - before,
    }
    return told | {"first": [int(one) for one in order[:20]]}


def apart(name: str, n: int, threads: int, plain: bool = False) -> dict:
    """The same in a process of its own."""
    size = ["--examples", str(n), "--threads", str(threads)]
    call = [sys.executable, __file__, "--one", name, *size, *(["--plain"] if plain else [])]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="folder to write the figures to")
    parser.add_argument("--selectors", nargs="*", default=list(SELECTORS), help="which; all by default")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--examples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and NumPy")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        print(json.dumps(measured(given.one, given.examples, given.plain)))
        return
    figures = {}
    for name in [one for one in given.selectors if one in catalogue()]:
        small, middle, large = (apart(name, n, given.threads) for n in (SMALL, MIDDLE, LARGE))
        figures[name] = {str(n): {key: one[key] for key in TOLD} for n, one in ((SMALL, small), (MIDDLE, middle), (LARGE, large))}
        for what in TOLD:
            figures[name][f"exponent of {what}"] = math.log(max(large[what], 0.01) / max(middle[what], 0.01)) / math.log(
                LARGE / MIDDLE
            )
        if name in PLAIN:
            plain = apart(name, SMALL, given.threads, plain=True)
            figures[name]["plain NumPy"] = {key: plain[key] for key in TOLD} | {
                "the first 20 are the same": plain["first"] == small["first"] if name in ALIKE else None,
                "times the seconds of assay": plain["seconds"] / small["seconds"],
            }
        print(name, figures[name], flush=True)
    report("feature_selectors", figures, given.out)


if __name__ == "__main__":
    main()
