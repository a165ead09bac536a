"""Every reader of files as one function from bytes: what it may end in is a value or an error of assay."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from assay import data
from assay.core.errors import AssayError
from assay.core.ids import Ids
from assay.data.arrays import rows_by_id
from assay.data.cifar10 import CIFAR10
from assay.data.mnist import read_idx
from assay.data.opcodes import content_of
from assay.data.pictures import pixels
from assay.experiments.plan import settings_in
from assay.runs import artefacts
from assay.runs.npy import import_npy
from assay.runs.run import Run

LONGEST = 2**20


def run_with(name):
    """Read a whole run in which one file has these bytes."""

    def read(place, body, whole):
        folder = place / "run"
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(body)
        run = Run(folder)
        run.check()
        for epoch in range(run.epochs):
            run.order(epoch), run.rates(epoch), run.shard(epoch).read_all()
        run.mean_probs()

    return read


def saved(load, name):
    def read(place, body, whole):
        (place / name).write_bytes(body)
        load(place / name)

    return read


def dataset(spec, name):
    def read(place, body, whole):
        (place / name).write_bytes(body)
        data.parse(spec.format(place / name)).load()

    return read


def pickled(place, body, whole):
    with contextlib.suppress(ValueError):
        content_of(body)


def archived(place, body, whole):
    (place / "cifar.tar.gz").write_bytes(body)
    CIFAR10(str(place / "cifar.tar.gz")).load()


def imported(place, body, whole):
    (place / "npy").mkdir()
    (place / "npy/0_Output.npy").write_bytes(body)
    np.save(place / "npy/0_Index.npy", np.arange(4))
    import_npy(place / "npy", torch.tensor([0, 1, 0, 1]), place / "run")


READERS = {
    "header": run_with("run.json"),
    "commits": run_with("commits.jsonl"),
    "examples": run_with("examples.parquet"),
    "shard": run_with("epochs/epoch-000000.safetensors"),
    "scores": saved(artefacts.load_scores, "x.parquet"),
    "decision": saved(artefacts.load_decision, "x.parquet"),
    "truth": saved(artefacts.load_truth, "x.parquet"),
    "verdict": saved(artefacts.load_verdict, "x.json"),
    "outcome": saved(artefacts.load_outcome, "x.json"),
    "curve": saved(artefacts.load_curve, "x.json"),
    "explanation": saved(artefacts.load_explanation, "x.json"),
    "lds": saved(artefacts.load_lds, "x.json"),
    "study": saved(artefacts.load_study, "x.json"),
    "plan": saved(settings_in, "x.toml"),
    "table": dataset("table:path={},label=label,test=0.5", "x.csv"),
    "parquet": dataset("table:path={},label=label,test=0.5", "x.parquet"),
    "npz": dataset("arrays:path={},test=0.5", "x.npz"),
    "npy": saved(lambda place: rows_by_id(place, Ids(range(4))), "x.npy"),
    "outputs": imported,
    "idx": saved(lambda place: read_idx(place, 3), "x"),
    "idx.gz": saved(lambda place: read_idx(place, 3), "x.gz"),
    "pickle": pickled,
    "archive": archived,
    "picture": lambda place, body, whole: pixels(body, "the picture"),
}
"""By name: what reads these bytes in a folder of its own, beside a whole run."""


def fed(name: str, body: bytes, whole: Path) -> str:
    """Give bytes to a reader: `read`, or the sentence in which it refuses them. Anything else is raised."""
    with tempfile.TemporaryDirectory() as place:
        try:
            READERS[name](Path(place), body, whole)
        except AssayError as error:
            words = str(error)
            assert words and len(words) < 3000 and "\x1b" not in words, words
            return words
    return "read"


def resealed(body: bytes) -> bytes:
    """JSON of assay with its checksum made anew, so that what is wrong reaches what reads it; other bytes as they are."""
    from assay.runs.schema import seal

    try:
        raw = json.loads(body)
        kind = raw.pop("format").removeprefix("assay-")
        raw.pop("schema_version", None), raw.pop("checksum", None)
        return seal(kind, raw)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return body
