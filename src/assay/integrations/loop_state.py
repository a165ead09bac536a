"""The objects that a loop changes in training, which checkpoints save and a resumed recording sets back."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from ..core.errors import Mismatch, UsageError
from ..replay.joined import name_of
from ..runs.packing import unpack
from ..runs.run import Run
from ..training.wrappers import names_inside
from .sharded import parts_of_model, parts_of_optimizer, sharded, whole


class Stateful(Protocol):
    """Anything with a state to save beside model and optimizer: a scheduler, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a saved state."""
        ...


@dataclasses.dataclass(frozen=True)
class Parts:
    """The objects that a loop changes in training and that checkpoints save.

    Attributes:
        model: The model without its wrappers.
        optimizer: The optimizer without its wrappers.
        stateful: More objects with a state, by name.
    """

    model: nn.Module
    optimizer: Optimizer
    stateful: Mapping[str, Stateful]

    @property
    def sharded(self) -> bool:
        """Whether each process keeps a part of the model."""
        return sharded(self.model)

    def state(self, keep: bool = True) -> dict[str, Any]:
        """The states of model, optimizer and the other objects. Of a model that is kept in parts every process must call this at once, those too that do not
        keep the state.
        """
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{f"also {name}": part.state_dict() for name, part in self.stateful.items()},
        }
        return whole(state, keep) if self.sharded else state

    def check_sharded_before(self) -> None:
        """Refuse a model of which processes keep parts only since its state was restored: the optimizer's state is of the whole parameters that were.

        Raises:
            UsageError: It is one.
        """
        own = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        if self.sharded and any(id(parameter) not in own for parameter in self.optimizer.state):
            raise UsageError(
                "The model was whole when assay.record restored the optimizer's state, and is kept in parts now, which have none; resume by calling "
                "assay.record after fully_shard, or after accelerator.prepare(model, optimizer)."
            )

    def restore(self, state: Mapping[str, Any], folder: str | Path) -> None:
        """Set all to a state, as `saved_state` gives it.

        Raises:
            Mismatch: The checkpoint is of another model or optimizer, or of other stateful objects.
        """
        held, given = {name for name in state if name.startswith("also ")}, {f"also {name}" for name in self.stateful}
        if missing := given - held:
            raise Mismatch(f"The checkpoint of {folder} holds no {', '.join(sorted(missing))}; resume as it was begun.")
        if left := sorted(name.removeprefix("also ") for name in held - given):
            raise Mismatch(
                f"The checkpoint of {folder} holds the state of {', '.join(left)}, which would be lost; resume as it was begun, with "
                f"stateful={{{left[0]!r}: ...}}."
            )
        settings = [group.keys() & self.optimizer.defaults.keys() for group in self.optimizer.param_groups]
        try:
            self.model.load_state_dict(parts_of_model(names_inside(state["model"], self.model), self.model))
            self.optimizer.load_state_dict(parts_of_optimizer(state["optimizer"], self.optimizer))
            for name, part in self.stateful.items():
                part.load_state_dict(state[f"also {name}"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise Mismatch(f"The checkpoint of {folder} is of another model or optimizer: {error}") from error
        lacking = set[str]().union(
            *(names - group.keys() for names, group in zip(settings, self.optimizer.param_groups, strict=True))
        )
        if lacking:
            raise Mismatch(
                f"The checkpoint of {folder} is of another optimizer than {name_of(self.optimizer)}: it has no "
                f"{', '.join(sorted(lacking))}. Resume with the optimizer that was recorded."
            )


def saved_state(folder: Path) -> dict[str, Any]:
    """The states at the end of the last committed epoch of a run.

    Raises:
        RunError: That epoch kept no checkpoint.
        Mismatch: It was recorded otherwise.
    """
    run = Run(folder)
    file = run.checkpoint(run.epochs - 1)
    if "state" not in file.notes:
        raise Mismatch(f"{run.folder} was not recorded by a loop like this one; resume it with `assay record --resume`.")
    return unpack(file.read_all(), file.notes["state"])


def ends_alike(kept: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether a model has the weights that were kept."""
    return not apart(names_inside(kept["model"], model), model.state_dict())


def apart(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what was kept and is otherwise, or not there."""
    return [name for name, value in kept.items() if name not in now or not _same(value, now[name])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one.cpu(), other.cpu())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return False
    # A number may come back as one of another kind, and one that is none is equal to itself.
    return bool(one == other) or (one != one and other != other)
