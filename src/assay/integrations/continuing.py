"""Recordings that trainers begin, and go on with when they resume from checkpoints of their own."""

import copy
import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from ..core.errors import Mismatch, OutputExists, UsageError
from ..replay.wrapped import inner_optimizer
from ..runs.paths import RunPaths
from ..runs.recorder import check_place
from ..runs.recording import Recording
from ..runs.run import AGAIN, Run
from ..training.wrappers import names_inside, unwrapped
from .data_spec import DataSpec
from .loop_recorder import LoopRecorder
from .loop_state import apart, saved_state
from .processes import first_process
from .pytorch import record
from .sharded import sharded, whole

MIDWAY = "the trainer went on in its middle, from a checkpoint that was saved there; save checkpoints at the ends of epochs to lose none"
"""Why an epoch is not recorded, as the warning names it."""


def seeded_when_iterated(loader: DataLoader, recorder: LoopRecorder) -> None:
    """Let a loader seed the epoch once more when its iterator is made: a trainer that resumes loads generators after it began the epoch.

    Args:
        loader: A keyed copy; the loader inside, if accelerate prepared it, is the one that is iterated.
        recorder: Is told; without a seed it does nothing.
    """
    if recorder.recorder.header.seed is None:
        return
    inside = vars(loader).get("base_dataloader", loader)
    kind = type(inside)

    def iterate(self: Any) -> Any:
        recorder.seed_again()
        return kind.__iter__(self)

    inside.__class__ = type(kind.__name__, (kind,), {"__iter__": iterate, "__module__": kind.__module__})


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What a user asked a trainer's recorder for; as the arguments of `record`."""

    folder: Path
    recording: Recording
    data: DataSpec
    seed: int | None
    about: Mapping[str, object] | None

    def __post_init__(self):
        if self.data.id_field is not None:
            raise UsageError(
                f"id_field={self.data.id_field!r} is for loops over recorder.epoch(), and a trainer's batches carry positions in its dataset; leave it out, "
                "and give ids= by position, or none."
            )

    def taken_again_by(self, loop: str) -> "Asked":
        """The same, with a fact about the run that says how the training is taken again: `loop`, as Python."""
        return dataclasses.replace(self, about={**(self.about or {}), AGAIN: loop})

    def check_new(self, way: str) -> None:
        """Refuse a folder that holds a run already; `way` says how the trainer goes on with one.

        Raises:
            OutputExists: It does.
        """
        try:
            check_place(RunPaths(self.folder))
        except OutputExists as error:
            if not RunPaths(self.folder).header.exists():
                raise
            raise OutputExists(
                f"{self.folder} already holds a run; record into another folder, or go on with it by {way}."
            ) from error

    def begin(self, model: nn.Module, optimizer: Any, loader: DataLoader, *, went: float, way: str) -> LoopRecorder:
        """Begin to record, or go on with the run that a trainer's checkpoint belongs to. Model and optimizer stay as the trainer has them.

        Args:
            model: What is trained.
            optimizer: What trains it.
            loader: The trainer's loader without keys.
            went: How many epochs the trainer has trained already; a fraction where it goes on in the middle of one.
            way: How the trainer goes on with a run, as the refusal names it.

        Raises:
            OutputExists: The folder holds a run, and the trainer begins anew.
            Mismatch: The run does not end where the trainer goes on.

        Warns:
            UserWarning: It does, with another state of the optimizer.
        """
        resumes = went > 0 and RunPaths(self.folder).header.exists()
        inner = unwrapped(model)
        # Parts are gathered by all processes at once, whether or not this one has the folder.
        parts = went > 0 and sharded(inner)
        now: dict[str, Any] = (
            {"model": inner.state_dict(), "optimizer": inner_optimizer(optimizer).state_dict()} if resumes or parts else {}
        )
        if parts:
            now = whole(now, resumes)
        if not went and first_process():
            self.check_new(way)
        held: list[Any] = []
        if resumes:
            self._check_goes_on(inner, now, went)
            held = [copy.deepcopy(part.state_dict()) for part in (inner, inner_optimizer(optimizer))]
        made = record(
            self.folder,
            model,
            optimizer,
            loader,
            self.recording,
            data=self.data,
            seed=self.seed,
            about=self.about,
            resume=resumes,
        )
        if resumes and made.epochs:
            # The trainer's own checkpoint may be later than the end of the run's last epoch.
            inner.load_state_dict(held[0])
            inner_optimizer(optimizer).load_state_dict(held[1])
        return made

    def _check_goes_on(self, model: nn.Module, now: Mapping[str, Any], went: float) -> None:
        run, epochs = Run(self.folder), math.floor(went)
        looked_at = epochs == went and run.epochs > 0 and run.header.checkpoints != "none"
        kept = saved_state(self.folder) if looked_at else {}
        other = apart(names_inside(kept["model"], model), now["model"]) if looked_at else []
        # A run is shorter than the training where an epoch was not trained whole in one process; the weights then tell that this is its end.
        shorter = run.epochs < epochs and (not other if looked_at else any(commit.skipped for commit in run.commits))
        if run.epochs != epochs and not shorter:
            at = f"resume the trainer from its checkpoint at the end of epoch {run.epochs - 1}, or " if run.epochs else ""
            raise Mismatch(
                f"{self.folder} holds {run.epochs} epochs, and the trainer goes on in epoch {epochs} (counted from 0); {at}record into another folder."
            )
        if not looked_at:
            return
        if other:
            raise Mismatch(
                f"{self.folder} ended epoch {run.epochs - 1} with other weights than the trainer's checkpoint has ({other[0]}); resume the trainer that was "
                "recorded, or record into another folder."
            )
        slots, found = (
            {
                f"{slot} of parameter {number}": value
                for number, of in state["optimizer"].get("state", {}).items()
                for slot, value in (of.items() if isinstance(of, Mapping) else [("state", of)])
            }
            for state in (kept, now)
        )
        if (other := apart(slots, found)) and first_process():
            warnings.warn(
                f"The trainer goes on with another state of the optimizer than {self.folder} ended epoch {run.epochs - 1} with ({other[0]}): what is recorded from here "
                "on is a training whose optimizer began anew, or lost a part of its state. Save the optimizer with the trainer's checkpoints, in a version that "
                "loads it (parts of a model: accelerate 1.13).",
                stacklevel=2,
            )


def end_of(folder: Path) -> dict[str, Any] | None:
    """The states of model and optimizer at the end of a run's last epoch; None where there is no run, no epoch, or no checkpoint.

    Raises:
        Mismatch: It was recorded otherwise.
    """
    if not RunPaths(folder).header.exists():
        return None
    run = Run(folder)
    return saved_state(folder) if run.epochs and run.header.checkpoints != "none" else None
