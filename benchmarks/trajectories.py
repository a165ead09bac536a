"""What exact SGD-influence and LiveVal cost beside the training that they explain: seconds, memory, bytes on disk.

A run is recorded by `assay.experiments.record` in a process of its own, and scored in others; each tells its seconds and how far its
memory rose. Seconds are told as a multiple of what the same steps took in training (the recorded seconds of the epochs of the window),
medians over repeats.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from machine import forget_peak, report, resident_mb

from assay.runs.run import Run

WORKS = {
    "exact, last epoch": ["sgd_influence:window=last"],
    "exact, all epochs": ["sgd_influence"],
    "exact, last epoch, few states held": ["sgd_influence:window=last"],
    "last_parameters, last epoch": ["sgd_influence:form=last_parameters,window=last"],
    "exact, all epochs, few states held": ["sgd_influence"],
    "exact, all epochs, three targets": ["sgd_influence", "sgd_influence:target=class=3", "sgd_influence:target=class=5"],
    "no_hessian, all epochs": ["sgd_influence:form=no_hessian"],
    "liveval, all epochs, afterwards": ["liveval"],
    "oti, all epochs": ["oti"],
    "in_run_shapley, all epochs": ["in_run_shapley"],
    "tracin, kept models": ["tracin"],
}
"""What is scored, each in a process of its own, by the default schedule; or with few states held, as `sqrt` does where they are large."""
ASKED = tuple(WORKS)[:4]
"""What is scored of the larger net if nothing else is said."""


def recorded(folder: Path, settings: dict, live: list[str]) -> None:
    """Record in this process."""
    from assay.experiments.plan import Plan
    from assay.experiments.record import record

    plan = Plan.make({**settings, "record": {"checkpoints": settings.get("checkpoints", "every"), "live": live}})
    forget_peak()
    before = resident_mb("VmRSS")
    record(plan, folder)
    print(json.dumps({"mb": resident_mb("VmHWM") - before}))


def scored(folder: Path, methods: list[str], schedule: str) -> None:
    """Score in this process, and tell."""
    import torch

    from assay.experiments.evidence import open_replay
    from assay.experiments.score import score
    from assay.methods import catalogue
    from assay.replay.config import ReplayConfig

    # Reading the data and what Python imports on first use are no part of the training's seconds either.
    targets = [method.partition("target=")[2] for method in methods if "target=" in method]
    open_replay(folder, targets=targets)
    catalogue()
    torch.func.vmap(lambda x: x)(torch.zeros(1))
    forget_peak()
    before, began = resident_mb("VmRSS"), time.perf_counter()
    score(folder, methods, replay_config=ReplayConfig(schedule))
    print(json.dumps({"seconds": time.perf_counter() - began, "mb": resident_mb("VmHWM") - before}))


def apart(*arguments: str) -> dict:
    """One of the two above in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(folder: Path) -> list[float]:
    """What each epoch took in training."""
    return [commit.seconds for commit in Run(folder).commits]


def once(name: str, settings: dict, works: Sequence[str], few: str) -> dict:
    """One recording without and one with live values, and every work on the first; `few` is the schedule of few states."""
    with tempfile.TemporaryDirectory() as place:
        folder, live = Path(place) / "plain", Path(place) / "live"
        plain = apart("record", str(folder), json.dumps(settings), "[]")
        along = apart("record", str(live), json.dumps(settings), '["liveval"]')
        epochs = seconds_of(folder)
        found: dict = {
            "training": {"seconds": sum(epochs), "mb": plain["mb"]},
            "liveval, live": {
                "seconds": sum(seconds_of(live)),
                "mb": along["mb"],
                "times training": sum(seconds_of(live)) / sum(epochs),
                "times memory": along["mb"] / plain["mb"],
            },
            "bytes": kept(Run(folder)),
        }
        for work in works:
            told = apart("score", str(folder), json.dumps(WORKS[work]), few if "few" in work else "sqrt")
            found[work] = {**told, "times training": told["seconds"] / (epochs[-1] if "last epoch" in work else sum(epochs))}
            print(name, work, found[work], flush=True)
    return found


def kept(run: Run) -> dict[str, int]:
    """Bytes of states on disk: what the exact form reads for the last epoch, and what other ways would keep."""
    steps = [commit.steps for commit in run.commits]
    before, after = ((run.folder / commit.checkpoint.name).stat().st_size for commit in run.commits[-2:])
    return {
        "exact, last epoch: its first and its last state": before + after,
        "last_parameters: the last state": after,
        "store all, last epoch": after * (steps[-1] + 1),
        "store all, all epochs": after * (sum(steps) + 1),
    }


def together(found: list[dict]) -> dict:
    """Medians over repeats, and the range of what is told as a multiple."""
    merged: dict = {}
    for key, first in found[0].items():
        values = [one[key] for one in found]
        if isinstance(first, dict):
            merged[key] = together(values)
        else:
            merged[key] = statistics.median(values)
            if key.startswith("times"):
                merged[f"{key}, range"] = [min(values), max(values)]
    return merged


def main() -> None:
    """Measure, write, print."""
    if len(sys.argv) > 1 and sys.argv[1] == "record":
        return recorded(Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
    if len(sys.argv) > 1 and sys.argv[1] == "score":
        return scored(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder of MNIST")
    parser.add_argument("--epochs", type=int, default=2, help="on MNIST; digits have 20")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything is done, from the recording on")
    parser.add_argument("--only", choices=("digits", "mnist"))
    parser.add_argument("--all", action="store_true", help="on MNIST every method, which takes twice as long")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    digits = {"data": "digits", "net": "mlp", "validation": 0.2, "recipe": {"epochs": 20, "lr": 0.05, "batch": 64}}
    mnist = {
        "data": f"mnist:path={given.data_path},limit=11000",
        "net": "six_conv",
        "validation": 1000 / 11000,
        "recipe": {"epochs": given.epochs, "lr": 0.05, "batch": 64, "momentum": 0.0, "weight_decay": 0.0},
    }
    cases = {
        "digits, MLP": (digits, tuple(WORKS), "every=5"),
        "MNIST, 10,000 examples, six-conv": (mnist, tuple(WORKS) if given.all else ASKED, "every=13"),
    }
    found = {"repeats": given.repeats}
    for name, (settings, works, few) in cases.items():
        if given.only is None or name.lower().startswith(given.only):
            parts = [once(name, settings, works, few) for _ in range(given.repeats)]
            found[name] = {"settings": settings, **together(parts)}
    report("trajectories", found, given.out)


if __name__ == "__main__":
    main()
