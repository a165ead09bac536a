"""All dynamics methods over a stored run, against a NumPy version that stacks everything.

Each side runs in a process of its own, which tells its seconds (files to scores, imports aside) and how far its memory rose above
what it held after importing. Both read the same logits; the results are compared.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from machine import forget_peak, report, resident_mb

from assay.runs.recorder import Origin

NAMES = [
    "dual",
    "dyn_unc",
    "tdds",
    "el2n",
    "aum",
    "forgetting",
    "entropy",
    "least_confidence",
    "margin",
    "loss",
    "confidence",
    "variability",
    "correctness",
    "threshold_closeness",
]


def make(folder: pathlib.Path, examples: int, classes: int, epochs: int) -> None:
    """A recorded run of synthetic learners, and the same logits as npy files."""
    import torch

    import assay

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (examples,), generator=generator)
    pull = torch.rand(examples, 1, generator=generator) * 6
    onehot = torch.nn.functional.one_hot(labels, classes)
    (folder / "npy").mkdir(parents=True)
    np.save(folder / "labels.npy", labels.numpy())
    with assay.Recorder(
        folder / "run",
        assay.Ids(range(examples)),
        assay.Recording(keep_logits=True, checkpoints="none"),
        origin=Origin(code=assay.__version__),
    ) as recorder:
        for epoch in range(epochs):
            noise = torch.randn(examples, classes, generator=generator)
            logits = pull * (epoch + 1) / epochs * onehot + noise
            np.save(folder / "npy" / f"{epoch}_Output.npy", logits.numpy())
            recorder.begin()
            recorder.observe(torch.arange(examples), logits, labels)
            recorder.commit()


def side(which: str, folder: pathlib.Path, epochs: int, threads: int) -> None:
    """One side's figures, printed as JSON, with its scores saved beside the run."""
    import torch

    torch.set_num_threads(threads)
    if which == "assay":
        import pyarrow.parquet  # noqa: F401  the run's tables are read with it; imports are not what is measured

        import assay

        # Loaded by name, since assay imports its parts when they are first used.
        score, methods = assay.score, list(NAMES)
        forget_peak()
        before, began = resident_mb("VmRSS"), time.perf_counter()
        table = score(folder / "run", methods)
        seconds, after = time.perf_counter() - began, resident_mb("VmHWM")
        values = {name: table[name].values.numpy() for name in methods}
    else:
        from stacked import stacked_scores

        forget_peak()
        before, began = resident_mb("VmRSS"), time.perf_counter()
        values = stacked_scores(folder / "npy", np.load(folder / "labels.npy"), epochs)
        seconds, after = time.perf_counter() - began, resident_mb("VmHWM")
    np.savez(folder / f"{which}.npz", **values)
    print(json.dumps({"seconds": seconds, "mb": after - before, "mb in all": after}))


def run_side(which: str, folder: pathlib.Path, epochs: int, threads: int) -> dict:
    """The figures of one side, from a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--side",
        which,
        "--folder",
        str(folder),
        "--epochs",
        str(epochs),
        "--threads",
        str(threads),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Make the run, time both sides in turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side(given.side, given.folder, given.epochs, given.threads)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "full"
        make(folder, given.examples, given.classes, given.epochs)
        ours, theirs = [], []
        for _ in range(given.repeats):
            ours.append(run_side("assay", folder, given.epochs, given.threads))
            theirs.append(run_side("numpy", folder, given.epochs, given.threads))
        with np.load(folder / "assay.npz") as a, np.load(folder / "numpy.npz") as b:
            gaps = {name: float(np.abs(a[name] - b[name]).max()) for name in NAMES}
        growth = {}
        for examples, epochs in ((given.examples, given.epochs // 4), (given.examples // 2, given.epochs)):
            part = pathlib.Path(scratch) / f"{examples}-{epochs}"
            make(part, examples, given.classes, epochs)
            growth[f"{examples} examples, {epochs} epochs"] = run_side("assay", part, epochs, given.threads)["mb"]
    seconds = [statistics.median(one["seconds"] for one in each) for each in (ours, theirs)]
    memory = [statistics.median(one["mb"] for one in each) for each in (ours, theirs)]
    report(
        "scoring_stored_run",
        {
            "examples": given.examples,
            "classes": given.classes,
            "epochs": given.epochs,
            "methods": len(NAMES),
            "assay seconds, median": seconds[0],
            "numpy seconds, median": seconds[1],
            "times faster": seconds[1] / seconds[0],
            "assay MB above imports, median": memory[0],
            "numpy MB above imports, median": memory[1],
            "part of the memory": memory[0] / memory[1],
            "assay MB above imports, other sizes": growth,
            "largest gap between the two, by method": gaps,
            "asked": "at least 10 times faster in a tenth of the memory",
        },
        given.out,
    )


if __name__ == "__main__":
    main()
