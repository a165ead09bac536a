"""Prediction depth on many images with the embeddings of a wide net: seconds and memory.

A ResNet-18 is recorded on CIFAR-10 for one epoch in a process of its own (how well it does is beside the point), and scored in others:
exactly, and with layers projected at random.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import forget_peak, report, resident_mb

from assay.experiments.evidence import open_replay
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.experiments.score import score

THREADS = 2
SPECS = ("prediction_depth", "prediction_depth:project=512")


def scored(folder: Path, spec: str) -> dict:
    """Seconds and memory of one score, in this process."""
    open_replay(folder)
    forget_peak()
    before, began = resident_mb("VmRSS"), time.perf_counter()
    scores = score(folder, spec)[spec]
    return {
        "seconds": time.perf_counter() - began,
        "peak mb": resident_mb("VmHWM"),
        "mb before": before,
        "layers": len(scores.diagnostics["layers"]),  # type: ignore[arg-type]
        **{name: value for name, value in scores.diagnostics.items() if isinstance(value, float)},
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder of CIFAR-10")
    parser.add_argument("--limit", type=int, default=10_000, help="images")
    parser.add_argument("--run", help="folder of a run that is there already, to score it in this process")
    parser.add_argument("--spec")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    if given.run is not None:
        print(json.dumps(scored(Path(given.run), given.spec)))
        return
    found: dict = {"images": given.limit}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        plan = Plan.make(
            {
                "data": f"cifar10:path={given.data_path},limit={given.limit}",
                "net": "resnet18",
                "recipe": {"epochs": 1, "lr": 0.02},
            }
        )
        found["training, seconds"] = sum(commit.seconds for commit in record(plan, folder).commits)
        for spec in SPECS:
            command = [sys.executable, __file__, "--data-path", given.data_path, "--run", str(folder), "--spec", spec]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[spec] = json.loads(done.stdout.splitlines()[-1])
            print(spec, found[spec], flush=True)
    report("prediction_depth", found, given.out)


if __name__ == "__main__":
    main()
