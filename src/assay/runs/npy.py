"""The npy files that the DUAL and TDDS codes write and read: per epoch `i_Output`, `i_Loss`, `i_Index`; per score `X_score`, `X_mask`."""

import io
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from ..core.errors import Mismatch, MissingEvidence, OutputExists, RunError, UsageError, reading
from ..core.ids import Ids
from ..core.needs import Need
from ..core.npy import read_npy
from ..core.scores import Scores, ordered
from .disk import make_folder, opened, replace, whole_folder
from .paths import RunPaths
from .recorder import Origin, Recorder, check_place
from .recording import Pass, Recording
from .run import Run

LOSS_TOLERANCE = 1e-3
"""How far a stored loss may be from the cross-entropy of the stored logits, in nats, rounding aside; more means other labels."""


def import_npy(
    source: str | Path, labels: Int[Tensor, " examples"], folder: str | Path, *, view: Pass = "train", code: str = ""
) -> Run:
    """Import a run from a folder of `i_Output.npy` (N, C) logits and `i_Index.npy` (N,), both in visiting order, i from 0.

    The entries of Index are positions in the full training set; they are the ids too, unless `ids.npy` (as `export_npy` writes it)
    names the positions otherwise. `i_Loss.npy` is optional and is checked against the labels, which the format does not keep.

    Args:
        source: Folder of the npy files.
        labels: Given class of each position 0..N-1.
        folder: Where the run is written.
        view: The pass that these logits are from: the released codes store the training pass.
        code: Version written into the header.

    Raises:
        UsageError: Files are missing, shapes are wrong, or a position is missing or occurs twice.
        Mismatch: The stored losses are not those of these labels.
        OutputExists: Something stands at `folder`.
        NotWritten: The operating system refuses.
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
    if labels.ndim != 1 or labels.is_floating_point():
        raise UsageError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give one integer class per position.")
    labels, n = labels.to(torch.int64), len(labels)
    ids = Ids(_read(source / "ids.npy", 1)) if (source / "ids.npy").exists() else Ids(range(n))
    if len(ids) != n:
        raise Mismatch(f"{source}/ids.npy names {len(ids)} examples, {n} labels were given; give the labels of the full set.")
    place = RunPaths(Path(folder))
    check_place(place, resumable=False)
    kept = Recording(view=view, keep_logits=True, checkpoints="none")
    with (
        # A run of half the files would open like one of all.
        whole_folder(place.folder) as part,
        Recorder(part, ids, kept, origin=Origin(about={"data": str(source)}, code=code)) as run,
    ):
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
            _check_losses(source / f"{epoch}_Loss.npy", outputs, given, logits.dtype)
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
        NotWritten: The operating system refuses.
    """
    if Need.LOGITS not in run.holds:
        raise MissingEvidence(f"{run.folder} keeps no logits ({Need.LOGITS.how}).")
    target = _fresh(folder)
    _write(target / "ids.npy", run.ids.values)
    for epoch in range(run.epochs):
        shard = run.shard(epoch)
        every = torch.arange(len(run.ids))
        visited = torch.cat([every[:0], *run.order(epoch)])
        # A run of view='eval' may have trained on some examples twice and on others never; its logits are of each once.
        order = visited if torch.equal(visited.sort().values, every) else every
        _write(target / f"{epoch}_Output.npy", shard.read("logits")[order].numpy())
        _write(target / f"{epoch}_Loss.npy", shard.read("losses")[order].numpy())
        _write(target / f"{epoch}_Index.npy", order.numpy())


def export_scores(scores: Scores, folder: str | Path) -> None:
    """Write `X_score.npy` (values in the order of ids) and `X_mask.npy` (positions sorted ascending by value, as DUAL reads it).

    Raises:
        OutputExists: One of the files is there.
        NotWritten: The operating system refuses.
    """
    score, mask = (Path(folder) / f"{scores.method}_{suffix}.npy" for suffix in ("score", "mask"))
    for path in (score, mask):
        if path.exists():
            raise OutputExists(f"{path} is there; name another folder.")
    _write(score, scores.values.numpy())
    _write(mask, ordered(scores.values, scores.ids, descending=False).numpy())


def _fresh(folder: str | Path) -> Path:
    target = Path(folder)
    make_folder(target)
    if any(target.glob("*.npy")):
        raise OutputExists(f"{folder} already holds npy files; name a new or empty folder.")
    return target


def _read(path: Path, axes: int) -> np.ndarray:
    with reading(path, RunError, "Copy it again."):
        try:
            handle, size = opened(path)
            with open(handle, "rb") as file:
                array = read_npy(file, size)
        except FileNotFoundError as error:
            raise UsageError(f"{path} does not exist; every epoch needs Output and Index.") from error
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path} is damaged or no npy file ({error}); copy it again.") from error
    if array.dtype.kind not in "biufU":
        raise UsageError(f"{path} holds {array.dtype}; give real numbers.")
    if array.ndim != axes:
        raise UsageError(f"{path} has {array.ndim} axes, {axes} were expected.")
    return array


def _write(path: Path, array: np.ndarray) -> None:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    replace(path, sink.getvalue())


def _check_losses(path: Path, logits: Tensor, labels: Tensor, stored_as: np.dtype) -> None:
    # Logits that are not finite have no loss; the recorder refuses them and names the ids.
    if not path.exists() or not bool(logits.isfinite().all()):
        return
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise UsageError(
            f"{path.parent} has logits of {logits.shape[1]} classes, but labels lie in {int(labels.min())}..{int(labels.max())}."
        )
    losses = _read(path, 1)
    if len(losses) != len(labels):
        raise UsageError(f"{path} has {len(losses)} losses for {len(labels)} rows of logits; copy the files of one epoch again.")
    exact = F.cross_entropy(logits.double(), labels, reduction="none")
    gap = (exact - torch.from_numpy(losses.astype(np.float64))).abs()
    # Stored with precision eps, a logit z moves the loss by up to eps |z|, and the loss itself is off by up to eps times its size.
    eps = max((float(np.finfo(kind).eps) for kind in (stored_as, losses.dtype) if kind.kind == "f"), default=0.0)
    allowed = LOSS_TOLERANCE + eps * (2 * logits.abs().amax(1) + exact)
    if not bool((gap <= allowed).all()):
        raise Mismatch(
            f"{path} is not the cross-entropy of these logits with the given labels (largest gap {float(gap.max()):.3g} nats); "
            "give the labels that the run was trained on."
        )
