"""From the saved models of a training that nobody recorded to a run: a clean pass by each, and the models themselves."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.passes import Passes
from ..replay.keyed import check_loader, ids_of
from ..replay.live_methods import LiveMethods
from ..runs.disk import whole_folder
from ..runs.paths import RunPaths
from ..runs.recorder import Origin, Recorder, check_place
from ..runs.recording import Recording
from ..runs.run import Run
from ..training.device import device_of
from ..training.wrappers import unwrapped
from .data_spec import DataSpec
from .loader_checks import check_losses
from .loop_recorder import LoopRecorder
from .loop_state import Parts
from .state_files import saved_models, state_for


@checked_arguments
def from_checkpoints(
    folder: str | Path,
    model: nn.Module,
    loader: Any,
    checkpoints: Any,
    rates: Sequence[Any] | None = None,
    *,
    data: DataSpec | None = None,
    about: Mapping[str, object] | None = None,
) -> Run:
    """A run of the saved models of a training that nobody recorded. Every one counts as an epoch, and passes over the examples once, in eval mode.

        run = assay.from_checkpoints("runs/old", model, DataLoader(train_set, 256), "outputs/checkpoints")
        loop = assay.Loop(model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(train_set, 256))
        table = assay.score(run, ["aum", "forgetting", "tracin:target=self", "grand", "vog"], loop=loop)

    Methods that read epochs or kept models can be computed then; those that read steps are refused, because what happened between two saved models is
    not known. Of the optimizer in `assay.Loop` only its parameter groups and its weight decay are read.

    Args:
        folder: Where the run is written; new or empty.
        model: The net, of which the weights do not matter; it is as it was afterwards.
        loader: A DataLoader over the training examples, or their dataset; without augmentation (else `assay.DataSpec(clean=...)`).
        checkpoints: A folder, or the saved models in the order of training: state dicts, or files (.pt, .pth, .ckpt, .bin, .safetensors). A folder is one
            of Hugging Face's Trainer (with `checkpoint-500` and so on), of Lightning or of any other files, ordered by the numbers in their names. Files may hold
            the state under `state_dict`, `model_state_dict` or `model`, and every name may have one prefix more than in the model. Files are read
            without running anything in them.
        rates: Learning rate of each saved model, for `tracin`: a number each, or one for each parameter group. By default those that the files hold:
            the optimizer's beside the model, or the last that Hugging Face's Trainer had logged.
        data: What the loader does not tell of examples and batches, as `assay.record` takes it.
        about: Description of what was trained, for the report.

    Raises:
        Mismatch: A file is not of this model.
        UsageError: A file cannot be read, there is no saved model, or rates do not fit.
        OutputExists: There is something in the folder.
        NumericalError: A model gives logits that are not finite.
        NotWritten: The operating system refuses.
    """
    loader = loader if isinstance(loader, DataLoader) else DataLoader(loader, batch_size=256)
    check_loader(loader)
    data = data or DataSpec()
    _check_data(data)
    if rates is not None and not all(isinstance(one, (int, float)) or _is_row(one) for one in rates):
        raise UsageError("rates= is a learning rate for each checkpoint, or a list of one for each parameter group.")
    inner = unwrapped(model)
    whole = ids_of(loader.dataset) if data.ids is None else data.ids if isinstance(data.ids, Ids) else Ids(data.ids)
    size = len(loader.dataset)  # type: ignore[arg-type]
    if len(whole) != size:
        raise UsageError(f"{len(whole)} ids were given for a dataset of {size} examples.")
    found = saved_models(checkpoints)
    first = next(found, None)
    if first is None:
        raise UsageError("There are no checkpoints; give at least one.")
    place = RunPaths(Path(folder))
    check_place(place, resumable=False)
    before = {name: value.detach().clone() for name, value in inner.state_dict().items()}
    own = {value.data_ptr() for value in inner.state_dict().values() if value.numel()}
    # Nothing is stepped: the recorder of loops watches an optimizer.
    parts = Parts(inner, torch.optim.SGD(inner.parameters(), lr=0.0), {})
    said = {"made of": "saved models", **(about or {})}
    device = str(device_of(inner))
    made = 0
    try:
        with whole_folder(place.folder) as part:
            recorder = Recorder(
                part,
                whole,
                Recording(view="eval", checkpoints="every"),
                class_names=data.class_names,
                origin=Origin(None, device, said, __version__, Passes("evaluation")),
            )
            recorder.reduce_labels = data.reduce_labels
            with recorder, LoopRecorder(recorder, LiveMethods([]), parts, loader, np.arange(size), data, model) as recording:
                for saved in itertools.chain([first], found):
                    state, known = state_for(saved, inner)
                    if rates is not None and made >= len(rates):
                        raise UsageError(f"{len(rates)} rates were given for more checkpoints; give one for each.")
                    if {value.data_ptr() for value in state.values() if value.numel()} & own:
                        raise UsageError(
                            f"{saved.name} shares its memory with the model, and so is what the model is now; save copies, copy.deepcopy(model.state_dict())."
                        )
                    inner.load_state_dict(state)
                    recording.saved_model(_row(rates[made], made) if rates is not None else known)
                    made += 1
            if rates is not None and len(rates) != made:
                raise UsageError(f"{len(rates)} rates were given for {made} checkpoints; give one for each.")
    finally:
        inner.load_state_dict(before)
    return Run(folder)


def _check_data(data: DataSpec) -> None:
    """Refuse what is said of a training pass, of which nothing is known here.

    Raises:
        UsageError: Something is, or losses are to be recorded and nobody says which.
    """
    said = {"id_field": data.id_field is not None, "visits": data.visits != "each", "labels": data.labels is not None}
    for name, given in said.items():
        if given:
            raise UsageError(
                f"{name}= is about the batches of a training, and saved models are read example by example; leave it out."
            )
    check_losses(data)


def _is_row(one: Any) -> bool:
    return isinstance(one, (Sequence, np.ndarray, Tensor)) and not isinstance(one, str)


def _row(given: Any, number: int) -> tuple[float, ...]:
    """The rates of one saved model, by parameter group."""
    row = tuple(map(float, given if _is_row(given) else [given]))
    if not row or not all(math.isfinite(one) and one >= 0 for one in row):
        raise UsageError(f"rates= of checkpoint {number} is {given!r}; a learning rate is a finite number of 0 or more.")
    return row
