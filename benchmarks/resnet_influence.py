"""Influence on the mean test loss and self-influence of 10,000 images by EK-FAC of a ResNet-18: as a multiple of an epoch, memory, and human noise found.

The first 10,000 rows of CIFAR-10 with the labels `worse_label` of CIFAR-10N, whose truth is `label`. A ResNet-18 is recorded in a process of its
own, and each score, or several that share factors, is made by another. AUC: wrong labels as positives. Memory: by how much the resident memory peaks above what it was before.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from machine import forget_peak, report, resident_mb

import assay
from assay.experiments.detection import detect
from assay.experiments.evidence import open_replay
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.runs.artefacts import load_truth
from assay.runs.run import Run

SPECS = (
    "self_influence:factors=sampled influence:target=test,solver=ekfac,factors=sampled",
    "self_influence:layers=head",
    "influence:target=test,layers=head",
    "aum",
)


def scored(folder: pathlib.Path, specs: list[str]) -> dict:
    """Scores made by one call in this process: seconds and memory of all, and of each seconds and how well it finds wrong labels."""
    if specs != ["aum"]:
        open_replay(folder)
    forget_peak()
    before, began = resident_mb("VmRSS"), time.perf_counter()
    made = assay.score(folder, specs)
    figures: dict = {"seconds": time.perf_counter() - began, "MB": resident_mb("VmHWM") - before}
    truth = load_truth(Run(folder).paths.truth)
    for title, scores in made.items():
        found = detect(scores, Run(folder), truth)
        figures[title] = {
            "seconds": scores.lineage.seconds,
            "AUC": found.auc,
            "AP": found.average_precision,
            "diagnostics": {name: value for name, value in scores.diagnostics.items() if isinstance(value, int | float | str)},
            "warnings": list(scores.warnings),
        }
    return figures


def main() -> None:
    """Record once, score in processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder of CIFAR-10")
    parser.add_argument("--limit", type=int, default=10_000, help="training images, and as many of the test part")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--specs", nargs="+", default=list(SPECS), help="methods; several in one text are scored together")
    parser.add_argument("--keep", help="folder for the run, which is taken as it is where it is there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spec", help="scores of the run in --keep, in this process")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.spec is not None:
        print(json.dumps(scored(pathlib.Path(given.keep), given.spec.split())))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "run" if given.keep is None else pathlib.Path(given.keep)
        if not folder.exists():
            plan = Plan.make(
                {
                    "data": {"name": "cifar10", "path": given.data_path, "labels": "worse_label", "limit": given.limit},
                    "net": "resnet18",
                    "recipe": {
                        "epochs": given.epochs, "lr": 0.03, "schedule": "one_cycle", "warmup": 0.3, "batch": 64, "flip": True,
                        "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4,
                    },
                    "record": {"keep_logits": True},
                }
            )  # fmt: skip
            record(plan, folder)
        epoch = min(commit.seconds for commit in Run(folder).commits)
        figures: dict = {"images": given.limit, "epochs": given.epochs, "seconds of an epoch": epoch}
        for spec in given.specs:
            command = [
                sys.executable, __file__, "--data-path", given.data_path, "--keep", str(folder), "--spec", spec,
                "--threads", str(given.threads),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                figures[spec] = {"error": done.stderr.splitlines()[-1]}
            else:
                figures[spec] = json.loads(done.stdout.splitlines()[-1])
                figures[spec]["epochs"] = figures[spec]["seconds"] / epoch
            print(spec, figures[spec], flush=True)
    report("resnet_influence", figures, given.out)


if __name__ == "__main__":
    main()
