"""`assay record`, `score` and `report` on all of MNIST with a tenth of the labels flipped, as commands of their own."""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

from machine import report

from assay.experiments.detection import detect
from assay.runs.artefacts import load_scores, load_truth
from assay.runs.run import Run


def main() -> None:
    """Run the three commands, and tell seconds, bytes and detection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder with the four idx files")
    parser.add_argument("--net", default="lenet")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--keep", help="folder to keep the run and its report in")
    parser.add_argument("--out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(given.keep or scratch) / "mnist"
        commands = {
            "record": [
                *("record", folder, "--data", f"mnist:path={given.data_path}", "--net", given.net, "--plant", "uniform:rate=0.1"),
                *("--epochs", given.epochs, "--lr", "0.05", "--batch", "128", "--live", "tdds", "--seed", "0"),
            ],
            "score": ["score", folder, "all"],
            "report": ["report", folder],
        }
        seconds = {}
        for verb, words in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "assay", *map(str, words)], check=True)
            seconds[verb] = time.perf_counter() - began
        run = Run(folder)
        truth = load_truth(run.paths.truth)
        found = [detect(load_scores(path), run, truth) for path in sorted((folder / "scores").glob("*.parquet"))]
        figures = {
            "examples": len(run.ids),
            "epochs": run.epochs,
            "net": given.net,
            "wrong labels": int((run.labels != truth[1]).sum()),
            "seconds": seconds,
            "report MB": run.paths.report.stat().st_size / 1e6,
            "run MB": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
            "AUC / AP": {one.title: [round(one.auc, 4), round(one.average_precision, 4)] for one in found},
        }
    report("mnist", figures, given.out)


if __name__ == "__main__":
    main()
