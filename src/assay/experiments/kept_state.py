"""The state of a training that was stopped in the middle: kept beside the place of its result, and gone when that is there."""

import json
import time
from pathlib import Path

import torch
import xxhash
from safetensors.torch import load, save
from torch import nn

from ..core.errors import RunError
from ..runs.disk import make_folder, opened, remove, replace
from ..training.loop import Observer
from ..training.state import TrainingState

EVERY = 60.0
"""Seconds of training after which a state is worth its writing."""
_NOTES = "notes"


class StateKeeper(Observer):
    """Keeps the newest state of a training in one file.

    Args:
        path: The file.
    """

    epochs_only = True

    def __init__(self, path: Path):
        self._path, self._last = path, time.monotonic()

    def epoch_ends(self, epoch: int, model: nn.Module, state: TrainingState) -> None:
        if time.monotonic() - self._last >= EVERY:
            make_folder(self._path.parent)
            notes = torch.frombuffer(bytearray(json.dumps(state.metadata).encode()), dtype=torch.uint8)
            body = save({**state.tensors, _NOTES: notes})
            replace(self._path, xxhash.xxh3_128_digest(body) + body)
            self._last = time.monotonic()

    def kept(self) -> TrainingState | None:
        """The state that an earlier process kept; None if it kept none, or one that cannot be read."""
        try:
            handle, size = opened(self._path)
            with open(handle, "rb") as file:
                body = file.read(size)
            if xxhash.xxh3_128_digest(body[16:]) != body[:16]:
                return None
            tensors = load(body[16:])
            return TrainingState.read(tensors, json.loads(bytes(tensors.pop(_NOTES).tolist())))
        except (OSError, RunError, ValueError, KeyError):
            # It only saves time; the training is right without.
            return None

    def forget(self) -> None:
        """Remove the file, because the training is finished."""
        remove(self._path)
