"""What exact SGD-influence and LiveVal cost beside the training that they explain: seconds, memory, bytes on disk.

A run is recorded by `assay.experiments.record` in a process of its own, and scored in others; each tells its seconds and how far its
memory rose. Seconds are told as a multiple of what the same steps took in training (the recorded seconds of the epochs of the window).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import forget_peak, report, resident_mb

from assay.runs.run import Run

WORKS = {
    "exact, last epoch": ["sgd_influence:window=last"],
    "exact, all epochs": ["sgd_influence"],
    "exact, last epoch, every state held": ["sgd_influence:window=last"],
    "exact, all epochs, every state held": ["sgd_influence"],
    "exact, all epochs, three targets": ["sgd_influence", "sgd_influence:target=class=3", "sgd_influence:target=class=5"],
    "last_parameters, last epoch": ["sgd_influence:form=last_parameters,window=last"],
    "no_hessian, all epochs": ["sgd_influence:form=no_hessian"],
    "liveval, all epochs, afterwards": ["liveval"],
    "oti, all epochs": ["oti"],
    "in_run_shapley, all epochs": ["in_run_shapley"],
    "tracin, kept models": ["tracin"],
}
"""What is scored, each in a process of its own."""
HELD = ("exact, last epoch, every state held", "exact, all epochs, every state held")
"""What is scored with schedule=all instead of sqrt."""
ASKED = ("exact, last epoch", "exact, all epochs", "last_parameters, last epoch")
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

    from assay.experiments.again import Replaying, again
    from assay.experiments.score import score

    # Reading the data and what Python imports on first use are no part of the training's seconds either.
    targets = [method.partition("target=")[2] for method in methods if "target=" in method]
    again(folder, targets=targets)
    torch.func.vmap(lambda x: x)(torch.zeros(1))
    forget_peak()
    before, began = resident_mb("VmRSS"), time.perf_counter()
    score(folder, methods, replaying=Replaying(schedule))
    print(json.dumps({"seconds": time.perf_counter() - began, "mb": resident_mb("VmHWM") - before}))


def apart(*arguments: str) -> dict:
    """One of the two above in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(folder: Path) -> list[float]:
    """What each epoch took in training."""
    return [commit.seconds for commit in Run(folder).commits]


def measured(name: str, settings: dict, works: list[str], live_too: bool = True) -> dict:
    """One net on one dataset."""
    found: dict = {"settings": settings}
    with tempfile.TemporaryDirectory() as place:
        folder, live = Path(place) / "plain", Path(place) / "live"
        plain = apart("record", str(folder), json.dumps(settings), "[]")
        epochs = seconds_of(folder)
        found["training"] = {"seconds by epoch": epochs, "mb": plain["mb"]}
        if live_too:
            along = apart("record", str(live), json.dumps(settings), '["liveval"]')
            found["liveval, live"] = {
                "times training": sum(seconds_of(live)) / sum(epochs),
                "mb": along["mb"],
                "times memory": along["mb"] / plain["mb"],
            }
        run = Run(folder)
        steps = [commit.steps for commit in run.commits]
        state = (run.folder / run.commits[-1].checkpoint.name).stat().st_size
        found["bytes"] = {
            "one state": state,
            "this run keeps for its last epoch": state,
            "store all, last epoch": state * steps[-1],
            "store all, all epochs": state * sum(steps),
            "last parameters only": state,
        }
        for work in works:
            told = apart("score", str(folder), json.dumps(WORKS[work]), "all" if work in HELD else "sqrt")
            window = epochs[-1] if "last epoch" in work else sum(epochs)
            found[work] = {**told, "times training": told["seconds"] / window}
            print(name, work, found[work], flush=True)
        shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure, write, print."""
    if len(sys.argv) > 1 and sys.argv[1] == "record":
        return recorded(Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
    if len(sys.argv) > 1 and sys.argv[1] == "score":
        return scored(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder of MNIST")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", choices=("digits", "mnist"))
    parser.add_argument("--all", action="store_true", help="on MNIST every method, which takes three times as long")
    parser.add_argument("--held", action="store_true", help="exact influence with every state held in memory, and nothing else")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    digits = {"data": "digits", "net": "mlp", "validation": 0.2, "recipe": {"epochs": 20, "lr": 0.05, "batch": 64}}
    mnist = {
        "data": f"mnist:path={given.data_path},limit=11000",
        "net": "six_conv",
        "validation": 1000 / 11000,
        "recipe": {"epochs": given.epochs, "lr": 0.05, "batch": 64, "momentum": 0.0, "weight_decay": 0.0},
    }
    found = {}
    if given.only != "mnist":
        works = [work for work in WORKS if (work in HELD) == given.held]
        found["digits, MLP"] = measured("digits", digits, works, not given.held)
    if given.only != "digits":
        works = [work for work in WORKS if (work in HELD if given.held else work not in HELD and (given.all or work in ASKED))]
        found["MNIST, 10,000 examples, six-conv"] = measured("mnist", mnist, works, not given.held)
    report("trajectories-held" if given.held else "trajectories", found, given.out)


if __name__ == "__main__":
    main()
