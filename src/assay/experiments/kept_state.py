"""The state of a training that was stopped in the middle: kept beside the place of its result, and gone when that is there."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load, save
from torch import Tensor, nn

from ..core.errors import RunError
from ..replay.replayable import ReplayState
from ..runs.disk import make_folder, opened, remove, replace
from ..training.loop import Observer
from ..training.state import TrainingState

EVERY = 60.0
"""Seconds of training after which a state is worth its writing."""
_NOTES = "notes"


class _OneFile:
    """The newest of some tensors and notes in one file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self._path, self._last = path, time.monotonic()

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._last >= EVERY

    def _write(self, tensors: dict[str, Tensor], notes: object) -> None:
        make_folder(self._path.parent)
        text = torch.frombuffer(bytearray(json.dumps(notes).encode()), dtype=torch.uint8)
        body = save({**tensors, _NOTES: text})
        replace(self._path, xxhash.xxh3_128_digest(body) + body)
        self._last = time.monotonic()

    def _read(self) -> tuple[dict[str, Tensor], Any] | None:
        """What an earlier process wrote; None if it wrote nothing, or what cannot be read."""
        try:
            handle, size = opened(self._path)
            with open(handle, "rb") as file:
                body = file.read(size)
            if xxhash.xxh3_128_digest(body[16:]) != body[:16]:
                return None
            tensors = load(body[16:])
            return tensors, json.loads(bytes(tensors.pop(_NOTES).tolist()))
        except (OSError, RunError, ValueError, KeyError):
            # It only saves time; the training is right without.
            return None

    def forget(self) -> None:
        """Remove the file, because the training is finished."""
        remove(self._path)


class StateKeeper(_OneFile, Observer):
    """Keeps the newest state of a training in one file.

    Args:
        path: The file.
    """

    epochs_only = True

    def epoch_ends(self, epoch: int, model: nn.Module, state: TrainingState) -> None:
        if self._due:
            self._write(state.tensors, state.metadata)

    def kept(self) -> TrainingState | None:
        """The state that an earlier process kept; None if it kept none, or one that cannot be read."""
        found = self._read()
        try:
            return None if found is None else TrainingState.read(*found)
        except RunError:
            return None


class ReplayKeeper(_OneFile):
    """Keeps the newest state of a training that is repeated without some examples in one file (`replay.replay.ReplayStates`).

    Args:
        path: The file.
        training: Name of the training; the state of another one is none of it.
    """

    def __init__(self, path: Path, training: str):
        super().__init__(path)
        self._training = training

    def reached(self, step: int, state: Callable[[], ReplayState]) -> None:
        """Keep the state before a step, if it is worth its writing."""
        if not self._due:
            return
        found = state()
        parts = [("model", "", found.model), ("average", "", found.averages)]
        parts += [("slot", slot, values) for slot, values in found.slots.items()]
        named = [(kind, slot, name, value) for kind, slot, values in parts for name, value in values.items()]
        named += [("random", "", str(place), value) for place, value in enumerate(found.random)]
        # Names of parameters and slots may hold any sign.
        places = [[kind, slot, name, str(value.device)] for kind, slot, name, value in named]
        tensors = {str(place): value.cpu().contiguous() for place, (*_, value) in enumerate(named)}
        self._write(tensors, {"training": self._training, "step": step, "places": places})

    def kept(self) -> tuple[int, ReplayState] | None:
        """The state of this training that an earlier process kept, and the step before which it is; None if it kept none, or one that cannot be read."""
        read = self._read()
        if read is None or not isinstance(read[1], dict) or read[1].get("training") != self._training:
            return None
        model: dict[str, Tensor] = {}
        averages: dict[str, Tensor] = {}
        slots: dict[str, dict[str, Tensor]] = {}
        random: list[Tensor] = []
        try:
            tensors, notes = read
            for place, (kind, slot, name, device) in enumerate(notes["places"]):
                value = tensors[str(place)].to(device)
                if kind == "random":
                    random.append(value)
                else:
                    held = slots.setdefault(slot, {}) if kind == "slot" else averages if kind == "average" else model
                    held[name] = value
            return int(notes["step"]), ReplayState(model, slots, averages, tuple(random))
        except (KeyError, TypeError, ValueError, RuntimeError):
            return None
