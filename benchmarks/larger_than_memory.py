"""Training and recording from a folder of 50,000 JPEG files: peak memory and seconds, decoded from disk batch by batch and held in memory.

The pictures are drawn at random (smooth shapes with noise, some 8 KB each); every recording runs in a process of its own, whose peak of resident memory is
reported, torch and all libraries included.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from machine import report
from PIL import Image

RECORD = """
import json, resource, sys, time
from assay import Plan
from assay.experiments.record import record
plan, folder = Plan.make(json.loads(sys.argv[1])), sys.argv[2]
began = time.perf_counter()
run = record(plan, folder)
facts = {"seconds": round(time.perf_counter() - began, 1), "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}
print(json.dumps(facts | {"examples": run.header.examples, "content": run.header.about["content"]}))
"""


def draw(root: pathlib.Path, train: int, test: int, side: int) -> int:
    """Write the folders; the bytes of all files."""
    drawn, size = np.random.default_rng(0), 0
    rows, columns = np.mgrid[:side, :side] / side
    for part, count in (("train", train), ("test", test)):
        for number in range(count):
            label = number % 10
            path = root / part / f"class{label}" / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            a, b, c = drawn.random(3)
            wave = np.sin(6.3 * ((1 + label) * (a * rows + (1 - a) * columns) + b))
            picture = 127 + 60 * wave[:, :, None] * np.array([1, c, 1 - c]) + drawn.integers(-25, 25, (side, side, 1))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=80)
            size += path.stat().st_size
    return size


def main() -> None:
    """Draw, record both ways, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--net", default="logistic")
    parser.add_argument(
        "--folder", help="where the pictures are drawn, and used again if they are there; a temporary one by default"
    )
    parser.add_argument("--memory", nargs="*", default=["0.5", "100"], help="values of memory= to record with")
    parser.add_argument("--out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(given.folder or scratch) / "pictures"
        began = time.perf_counter()
        size = None if root.exists() else draw(root, given.images, given.images // 25, given.side)
        print(f"drawn in {time.perf_counter() - began:.0f} s", flush=True)
        figures: dict[str, object] = {
            "images": given.images,
            "side": given.side,
            "file_mb": None if size is None else round(size / 1e6),
        }
        figures["decoded_gb"] = round(given.images * 3 * given.side**2 / 1e9, 2)
        for memory in given.memory:
            plan = {
                "data": f"folder:path={root},memory={memory}",
                "net": given.net,
                "recipe": {"epochs": given.epochs, "lr": 0.001},
                "record": {"mean_probs": True},
            }
            command = [sys.executable, "-c", RECORD, json.dumps(plan), str(pathlib.Path(scratch) / f"run-{memory}")]
            made = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[f"memory={memory}"] = json.loads(made.stdout.splitlines()[-1])
            print(f"memory={memory}: {figures[f'memory={memory}']}", flush=True)
        report("larger_than_memory", figures, given.out)


if __name__ == "__main__":
    main()
