"""One reader under atheris: `python bytes_by_atheris.py READER CORPUS [libFuzzer's flags]`. Run by `test_bytes.py`."""

import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["assay.core.npy", "assay.data", "assay.runs", "assay.experiments.plan"]):
    from fuzz.reading import fed, resealed
    from fuzz.seeds import recorded

MEMORY = 1500 * 2**20
"""Bytes that a reader may take beyond what the process has when it is ready."""


def main() -> None:
    name, *rest = sys.argv[1:]
    whole = recorded(Path(tempfile.mkdtemp()) / "run")

    def one(body: bytes) -> None:
        fed(name, body, whole)
        if (again := resealed(body)) != body:
            fed(name, again, whole)

    ready = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (ready + MEMORY, ready + MEMORY))
    atheris.Setup([sys.argv[0], *rest], one)
    atheris.Fuzz()


main()
