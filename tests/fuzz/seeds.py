"""Whole files of every kind, from which fuzzing starts."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from assay.core.curve import NONE, RANDOM, WORST, Curve, Removal
from assay.core.decision import Decision
from assay.core.explanation import Behind, Explanation
from assay.core.ids import Ids
from assay.core.lds import LDS, RankAgreement
from assay.core.lineage import Lineage
from assay.core.scores import Direction, Scores
from assay.core.study import Study
from assay.core.trial import Comparison, Detection, Outcome, Verdict
from assay.runs import artefacts
from assay.runs.recorder import Recorder


def recorded(folder: Path) -> Path:
    """A whole run of four examples and two epochs."""
    ids, labels = Ids(["a", "b", "c", "d"]), torch.tensor([0, 1, 0, 1])
    with Recorder(folder, ids) as recorder:
        for epoch in range(2):
            recorder.begin()
            positions = torch.arange(4)
            recorder.step(positions, [0.1])
            recorder.observe(positions, torch.eye(2)[labels] * (epoch + 2) - 1, labels)
            recorder.commit({"weight": torch.ones(2)}, {"epoch": str(epoch)})
    return folder


def made(whole: Path, place: Path) -> dict[str, bytes]:
    """A whole file for every reader, by its name in `reading.READERS`."""
    ids, ones = Ids(["a", "b", "c", "d"]), torch.ones(4, dtype=torch.float64)
    lineage = Lineage("0123456789abcdef", {"run": "0123456789abcdef"})
    outcome = Outcome("kept", 1, 0.5, 0.7, 4, 2, 0.1)
    removals = tuple(Removal(arm, count, 0, 0.5, 0.7, 0.5, 0.7, 0.1) for arm, count in ((NONE, 0), (WORST, 1), (RANDOM, 1)))
    comparison = Comparison("kept", "random", 0.01, -0.1, 0.1, 0.5, "t", 2)
    detection = Detection("aum", 0.9, 0.8, 0.7, 0.6, True, ((0.0, 0.0), (1.0, 1.0)))
    place.mkdir(parents=True, exist_ok=True)
    artefacts.save_scores(
        Scores(ids, ones, "aum", {}, "aum", Direction.LOW_IS_SUSPECT, "logits", lineage=lineage), place / "scores"
    )
    actions = torch.ones(4, dtype=torch.int64)
    artefacts.save_decision(
        Decision(ids, actions, -actions, ones, ("why",) * 4, "top_k", {}, "top_k", lineage), place / "decision"
    )
    artefacts.save_truth(ids, torch.tensor([0, 1, 0, 1]), place / "truth")
    artefacts.save_outcome(outcome, place / "outcome")
    artefacts.save_verdict(
        Verdict("d", (outcome,), (comparison,), (detection,), None, {"net": "mlp"}, lineage), place / "verdict"
    )
    artefacts.save_curve(Curve("aum", "last", removals, 1, "loss", lineage), place / "curve")
    behind = Behind("a", 0, 0.5, 1, False, "UklGRg==", "x 1")
    explained = Explanation(
        "test example b", 0, "given", 1, 0.6, 0.4, ("x", "y"), "tracin", "unit", (behind,), (behind,), 4, behind, "", "", lineage
    )
    artefacts.save_explanation(explained, place / "explanation")
    agreement = RankAgreement("tracin", "same seed", 0.5, 0.1, 0.9, (0.4, 0.6))
    artefacts.save_lds(
        LDS("validation", ("a", "b"), 2, 4, 1, 4, "weight", (1,), (agreement,), (agreement,), lineage), place / "lds"
    )
    artefacts.save_study(Study("scaling", {"a": 1}, {"b": "c"}, (), (), (), (), None, (), ()), place / "study")
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    files |= {"header": (whole / "run.json").read_bytes(), "commits": (whole / "commits.jsonl").read_bytes()}
    files |= {"examples": (whole / "examples.parquet").read_bytes()}
    files |= {"shard": (whole / "epochs/epoch-000000.safetensors").read_bytes()}
    files["plan"] = b'data = "digits"\n[recipe]\nepochs = 3\n'
    files["table"] = b"x,y,label\n1,a,p\n2,b,q\n3,a,p\n4,b,q\n"
    columns = {"x": [1.0, 2.0, 3.0, 4.0], "y": ["a", "b", "a", "b"], "label": ["p", "q", "p", "q"]}
    files["parquet"] = _bytes(lambda file: pq.write_table(pa.table(columns), file))
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    files["npz"] = _bytes(lambda file: np.savez(file, inputs=rows, labels=np.array([0, 1, 0, 1])))
    files["npy"] = files["outputs"] = _bytes(lambda file: np.save(file, rows))
    files["idx"] = bytes((0, 0, 8, 3)) + struct.pack(">III", 2, 2, 2) + bytes(8)
    files["idx.gz"] = gzip.compress(files["idx"], mtime=0)
    files["pickle"] = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)[:, :4], b"labels": [0, 1]}, protocol=2)
    files["archive"] = _bytes(_archive)
    files["picture"] = _bytes(lambda file: Image.new("RGB", (4, 4), (9, 8, 7)).save(file, "PNG"))
    return files


def _bytes(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _archive(file) -> None:
    batch = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, protocol=2)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("data_batch_1", "batches.meta"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(batch)
            tar.addfile(member, io.BytesIO(batch))
