"""The npy files that the DUAL and TDDS codes write and read: per epoch `i_Output`, `i_Loss`, `i_Index`; per score `X_score`, `X_mask`."""

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from ..core.errors import Mismatch, MissingEvidence, OutputExists, RunError, UsageError
from ..core.evidence import Need
from ..core.ids import Ids
from ..core.scores import Scores, ordered
from .disk import make_folder, writing
from .recorder import Recorder
from .run import Run
from .schema import View

LOSS_TOLERANCE = 1e-3
"""How far a stored loss may be from the cross-entropy of the stored logits, in nats; more means that the labels are others."""


def import_npy(
    source: str | Path, labels: Int[Tensor, " examples"], folder: str | Path, *, view: View = "train", code: str = ""
) -> Run:
    """A run from a folder of `i_Output.npy` (N, C) logits and `i_Index.npy` (N,), both in visiting order, i from 0.

    Ids are the entries of Index, positions in the full training set. `i_Loss.npy` is optional and is held against the labels,
    which the format does not keep.

    Args:
        source: Folder of the npy files.
        labels: Given class of each position 0..N-1.
        folder: Where the run is written.
        view: Which pass these logits are of: the released codes store the training pass.
        code: Version written into the header.

    Raises:
        UsageError: No or not all files, wrong shapes, positions that are not each there once.
        Mismatch: The stored losses are not those of these labels.
    """
    source = Path(source)
    numbers = sorted(
        int(match[1]) for path in source.glob("*_Output.npy") if (match := re.fullmatch(r"(\d+)_Output\.npy", path.name))
    )
    if not numbers:
        raise UsageError(f"{source} holds no i_Output.npy; give the folder of the released npy files.")
    if numbers != list(range(len(numbers))):
        raise UsageError(
            f"{source} holds epochs {numbers[0]} to {numbers[-1]} with gaps; epochs are numbered from 0 without gaps."
        )
    n = len(labels)
    with Recorder(
        folder, Ids(range(n)), view=view, keep_logits=True, checkpoints="none", about={"data": str(source)}, code=code
    ) as run:
        for epoch in numbers:
            logits, index = _read(source / f"{epoch}_Output.npy", 2), _read(source / f"{epoch}_Index.npy", 1)
            if len(logits) != len(index) or index.dtype.kind not in "iu":
                raise UsageError(
                    f"{source}, epoch {epoch}: {len(logits)} rows of logits and {len(index)} indices do not go together."
                )
            positions = torch.from_numpy(index.astype(np.int64))
            if len(index) and not (int(positions.min()) >= 0 and int(positions.max()) < n):
                raise UsageError(
                    f"{source}/{epoch}_Index.npy names positions outside 0..{n - 1}; give the labels of the full set."
                )
            outputs, given = torch.from_numpy(logits.astype(np.float32)), labels[positions]
            _check_losses(source / f"{epoch}_Loss.npy", outputs, given)
            run.begin()
            run.step(positions, [])
            run.observe(positions, outputs, given)
            run.commit()
    return Run(folder)


def export_npy(run: Run, folder: str | Path) -> None:
    """Write the recorded epochs of a run as `i_Output.npy`, `i_Loss.npy` and `i_Index.npy`, and the ids as `ids.npy`.

    Raises:
        MissingEvidence: The run keeps no logits.
        OutputExists: The folder holds npy files.
    """
    if Need.LOGITS not in run.holds:
        raise MissingEvidence(f"{run.folder} keeps no logits ({Need.LOGITS.how}).")
    target = _fresh(folder)
    _write(target / "ids.npy", run.ids.values)
    for epoch in range(run.epochs):
        shard = run.shard(epoch)
        order = torch.cat(run.order(epoch)) if run.order(epoch) else torch.arange(len(run.ids))
        _write(target / f"{epoch}_Output.npy", shard.read("logits")[order].numpy())
        _write(target / f"{epoch}_Loss.npy", shard.read("losses")[order].numpy())
        _write(target / f"{epoch}_Index.npy", order.numpy())


def export_scores(scores: Scores, folder: str | Path) -> None:
    """Write `X_score.npy` (values in the order of ids) and `X_mask.npy` (positions sorted ascending by value, as DUAL reads it).

    Raises:
        OutputExists: One of the files is there.
    """
    target = Path(folder)
    make_folder(target)
    for suffix, array in (("score", scores.values), ("mask", ordered(scores.values, scores.ids, descending=False))):
        path = target / f"{scores.method}_{suffix}.npy"
        if path.exists():
            raise OutputExists(f"{path} is there; name another folder.")
        _write(path, array.numpy())


def _fresh(folder: str | Path) -> Path:
    target = Path(folder)
    make_folder(target)
    if any(target.glob("*.npy")):
        raise OutputExists(f"{folder} already holds npy files; name a new or empty folder.")
    return target


def _read(path: Path, axes: int) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; every epoch needs Output and Index.") from error
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{path} is damaged or no npy file ({error}); copy it again.") from error
    if array.ndim != axes:
        raise UsageError(f"{path} has {array.ndim} axes, {axes} were expected.")
    return array


def _write(path: Path, array: np.ndarray) -> None:
    with writing(path), open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)


def _check_losses(path: Path, logits: Tensor, labels: Tensor) -> None:
    if not path.exists():
        return
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise UsageError(
            f"{path.parent} has logits of {logits.shape[1]} classes, but labels lie in {int(labels.min())}..{int(labels.max())}."
        )
    stored = torch.from_numpy(_read(path, 1).astype(np.float64))
    gap = (F.cross_entropy(logits.double(), labels, reduction="none") - stored).abs()
    if len(stored) != len(labels) or float(gap.max()) > LOSS_TOLERANCE:
        raise Mismatch(
            f"{path} is not the cross-entropy of these logits with the given labels (largest gap {float(gap.max()):.3g} nats); "
            "give the labels that the run was trained on."
        )
