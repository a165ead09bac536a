"""What training the models of a recording side by side saves: seconds of `record` with it and without, in turn, the same bytes."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import report

from assay.experiments import record
from assay.experiments.plan import Plan

WORKS = {
    "logistic": ("logistic", 64),
    "mlp, 32": ("mlp:widths=32", 64),
    "mlp, 64-64": ("mlp:widths=64-64", 64),
    "mlp, 128": ("mlp", 128),
}
"""Nets on scikit-learn's digits, and their batch."""


def recorded(plan: Plan, together: bool) -> tuple[float, str, bool]:
    """Seconds, the fingerprint of what was recorded, and whether the models went side by side."""
    real, taken = record.exact_together, []
    record.exact_together = lambda *args, **more: taken.append(together and real(*args, **more)) or taken[-1]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            run = record.record(plan, Path(scratch) / "run")
            return time.perf_counter() - began, run.fingerprint, taken[0]
    finally:
        record.exact_together = real


def main() -> None:
    """Record each with and without, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures = {}
    for name, (net, batch) in WORKS.items():
        recipe = {"epochs": given.epochs, "batch": batch}
        plan = Plan.make({"data": "digits", "net": net, "models": given.models, "recipe": recipe})
        # The first one reads the data and imports what is needed.
        recorded(plan, True)
        pairs = [(recorded(plan, True), recorded(plan, False)) for _ in range(given.repeats)]
        ratios = [alone[0] / together[0] for together, alone in pairs]
        figures[name] = {
            "batch": batch,
            "side by side": pairs[0][0][2],
            "the same bytes": len({print_ for pair in pairs for _, print_, _ in pair}) == 1,
            "seconds, together": statistics.median(together[0] for together, _ in pairs),
            "seconds, one by one": statistics.median(alone[0] for _, alone in pairs),
            "gain": statistics.median(ratios),
            "gain, range": [min(ratios), max(ratios)],
        }
    report("together", {"models": given.models, "epochs": given.epochs, **figures}, given.out)


if __name__ == "__main__":
    main()
