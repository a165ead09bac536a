"""What every result carries: machine, versions and the command that makes it again."""

import json
import os
import pathlib
import platform
import shlex
import sys

import numpy
import torch

import assay


def processor() -> str:
    """The processor's own name."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def resident_mb(line: str) -> float:
    """A line of /proc/self/status in MB: VmRSS, what is resident now; VmHWM, the most since the last `forget_peak`."""
    words = next(text for text in pathlib.Path("/proc/self/status").read_text().splitlines() if text.startswith(line))
    return int(words.split()[1]) / 1024


def forget_peak() -> None:
    """Let VmHWM start again from what is resident now: importing alone peaks higher than scoring does."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def report(name: str, figures: dict, out: str | None) -> None:
    """Print the figures, and save them if a folder is given."""
    result = {
        "benchmark": name,
        "command": " ".join(
            [
                "python",
                f"benchmarks/{pathlib.Path(sys.argv[0]).name}",
                *("DIR" if part.startswith(("/", "..")) else shlex.quote(part) for part in sys.argv[1:]),
            ]
        ),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": {
            "assay": assay.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "figures": figures,
    }
    print(json.dumps(result, indent=1))
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
