"""The recorder in a plain PyTorch loop: `record` wraps the loader so that ids travel with every batch (see `keyed`)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, SubsetRandomSampler

from .. import __version__
from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import Mismatch, OutputExists, RunLocked, UsageError
from ..core.ids import Ids
from ..methods import parse
from ..replay.keyed import check_loader, check_selectable, ids_of
from ..replay.live_methods import LiveMethods
from ..replay.wrapped import HoldsOptimizer, inner_optimizer
from ..runs.observations import Observations
from ..runs.packing import pack
from ..runs.parts import PartRecorder
from ..runs.recorder import Origin, Partial, Recorder
from ..runs.recording import Recording
from ..runs.run import DRAWN
from ..runs.schema import Header
from ..training.device import device_of
from ..training.wrappers import unwrapped
from .data_spec import DataSpec, as_labels, labels_of
from .loader_checks import check_losses, check_together, check_visits, check_visits_all
from .loop_recorder import LoopRecorder
from .loop_state import Parts, Stateful, ends_alike, saved_state
from .processes import Processes, alone_in_folder, check_not_alone, check_shared, first_process
from .selecting import LiveSelection, Selecting
from .versions import check_prepared

SELECTOR = "the live selector"
"""Name of the state of a live selector in the checkpoints."""


@moved_keywords(
    {
        **dict.fromkeys(("view", "keep_logits", "mean_probs", "checkpoints", "live"), "recording=assay.Recording({name}=...)"),
        **dict.fromkeys(
            ("ids", "class_names", "losses", "forward", "clean", "labels", "visits", "id_field", "task", "reduce_labels"),
            "data=assay.DataSpec({name}=...)",
        ),
        "epochs": "select=assay.LiveSelection(SELECTOR, epochs=...)",
    }
)
@checked_arguments
def record(
    folder: str | Path,
    model: nn.Module,
    # None is taken to be refused with what to do instead.
    optimizer: Optimizer | HoldsOptimizer | Sequence[Optimizer | HoldsOptimizer] | None,
    loader: DataLoader,
    recording: Recording | None = None,
    *,
    data: DataSpec | None = None,
    seed: int | None = None,
    # A text is taken to be refused with what to do instead.
    select: LiveSelection | str | None = None,
    stateful: Mapping[str, Stateful] | None = None,
    about: Mapping[str, object] | None = None,
    resume: bool = False,
) -> "LoopRecorder":
    """Attach a recorder to a training loop.

        with assay.record("runs/mine", model, optimizer, loader, seed=0) as recorder:
            for epoch in range(30):
                for x, y in recorder.epoch():
                    logits = model(x); loss = F.cross_entropy(logits, y)
                    optimizer.zero_grad(); loss.backward(); optimizer.step()
                    recorder.batch(logits, y)

    Args:
        folder: Where the run is written; new or empty, unless `resume`.
        model: Saved in the checkpoints; run in eval mode by `view="eval"`. Not changed. Of a model inside `torch.compile`, `DataParallel` or
            `DistributedDataParallel` the inner one is saved, under its own names; a clean pass leaves the parallel wrappers out. Where a loader shares
            the examples out to several processes (DistributedSampler, accelerate), each process calls this with the same folder, and the first one
            writes one run of all; so too where each keeps a part of the model (`torch.distributed.fsdp.fully_shard`), whose checkpoints are whole.
        optimizer: Its learning rates, momenta and betas are recorded, its state saved in the checkpoints. One that accelerate or
            Lightning wrapped is taken as well, and so is a list of several that step one after another on the same gradients, all in the same batches.
        loader: The loop's DataLoader over a map-style dataset.
        recording: What is kept, such as `assay.Recording(checkpoints="every", live=["aum"])`; by default the training pass and the newest checkpoint.
        data: Facts about examples and batches that the loader does not tell, such as `assay.DataSpec(ids=ids, forward=forward)`; by default batches are `(inputs, labels)`.
        seed: If given, torch, NumPy, `random` and the torch generators of the loader and its samplers are seeded from (seed, epoch)
            before each epoch, and workers start anew with each, so that an epoch's order, augmentation and dropout can be repeated
            and a run resumed bit for bit (with `in_order=False` the order of the batches still depends on the workers' speed).
            If None, no generator is touched.
        select: A live selector, as `assay.LiveSelection("infobatch:ratio=0.5", epochs=30)`, that chooses the examples of each epoch before it begins,
            and how much their losses weigh. `recorder.epoch()` then gives the batches of those alone, of the loader's size and in its order (one
            example left over joins the batch before), and the loop calls backward on `recorder.weighted(losses).mean()`, with the loss of each
            example. Draws depend on `seed` (0 if it is None), epoch and id. The loader must have one batch size, a sampler that gives each
            example once, and `drop_last=False`.
        stateful: More objects to save and load with the checkpoints, such as `{"scheduler": scheduler}`. Step a scheduler where
            you like, also between epochs: an epoch is committed when the next one begins or the block ends.
        about: Description of what is trained, for the report.
        resume: Go on with the run in `folder`, if there is one: model, optimizer and `stateful` are set to its last epoch.
            Loop over `range(recorder.epochs, total)`.

    Raises:
        UsageError: Ids cannot be captured from this loader, or a setting is outside its range. While it records: see `LoopRecorder.epoch`.
        OutputExists: `folder` holds a run and `resume` is false.
        Mismatch: The run to resume has other examples or settings.
        RunLocked: Another process writes this run.
        RunError: Another process of this training ended, or does not answer.
        NotWritten: The operating system refuses.
    """
    recording, data = recording or Recording(), data or DataSpec()
    check_loader(loader, data.id_field)
    check_prepared(loader)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model= is a {type(model).__name__}, no torch module; give the nn.Module that is trained.")
    inner, taking = unwrapped(model), inner_optimizer(optimizer)
    for name, part in (stateful or {}).items():
        if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            raise UsageError(f"stateful: {name} is a {type(part).__name__} without state_dict and load_state_dict; leave it out.")
    if isinstance(select, str):
        raise UsageError(
            f"select={select!r} does not say for how many epochs the loop trains; give select=assay.LiveSelection({select!r}, epochs=NUMBER)."
        )
    dataset = loader.dataset
    whole = _ids(loader, data)
    size = len(whole) if data.id_field is not None else len(dataset)  # type: ignore[arg-type]
    if len(whole) != size:
        raise UsageError(f"{len(whole)} ids were given for a dataset of {size} examples.")
    chosen = np.arange(size)
    if data.id_field is None and isinstance(loader.sampler, SubsetRandomSampler):
        chosen = np.asarray(loader.sampler.indices, dtype=np.int64)
        about = {**(about or {}), DRAWN: f"{len(chosen):,} of {size:,} examples of the dataset, by SubsetRandomSampler"}
    partial, processes = None, None
    if recording.view == "train" and data.id_field is None:
        processes = Processes.of(loader, model)
    if processes is None:
        check_not_alone(model, loader, recording.view)
    else:
        check_together(recording, select)
    if select is not None:
        check_selectable(loader)
        check_visits_all(loader, len(chosen), "give the loader a sampler that gives each example once, as shuffle=True does")
    elif data.visits == "any":
        partial = Partial(labels=_known_labels(loader, data, chosen))
    elif processes is not None:
        check_shared(loader, len(chosen), "record an epoch as it is drawn, with data=assay.DataSpec(visits='any')")
    elif recording.view == "train" and data.id_field is None:
        check_visits_all(loader, len(chosen))
    check_visits(recording, data, select)
    if data.clean is not None and recording.view != "eval":
        raise UsageError("clean= is read by view='eval' only; leave it out, or record with assay.Recording(view='eval').")
    if recording.view == "eval":
        check_losses(data)
    if data.clean is not None and len(ids_of(data.clean)) != size:
        raise Mismatch(
            f"clean= and the loader's dataset ({size} examples) differ in length; give the same examples in the same order."
        )
    if resume and recording.checkpoints == "none":
        raise UsageError("A run without checkpoints cannot be resumed; record with assay.Recording(checkpoints='last').")
    methods = LiveMethods([parse(method) for method in recording.live])
    selecting = None if select is None else Selecting(select, whole.take(chosen), chosen, size, 0 if seed is None else seed)
    if selecting is not None:
        partial = Partial(selecting.title)
    parts = Parts(inner, taking, dict(stateful or {}) | ({} if selecting is None else {SELECTOR: selecting}))
    if recording.checkpoints != "none":
        # What cannot be saved is better known before anything is written; model and optimizer that are kept in parts hold tensors and numbers alone.
        pack({name: part.state_dict() for name, part in parts.stateful.items()} if parts.sharded else parts.state())
    opened = functools.partial(
        Recorder,
        folder,
        whole.take(chosen),
        dataclasses.replace(recording, live=()),
        live=methods,
        partial=partial,
        class_names=data.class_names,
        origin=Origin(seed, str(device_of(inner)), about, __version__),
        resume=resume,
    )
    try:
        recorder = opened() if processes is None else _opened_together(processes, opened, recording, seed)
    except (RunLocked, OutputExists) as error:
        raise alone_in_folder(error) if processes is None else error from error.__cause__
    set_back = False
    try:
        if recorder.epochs:
            state = functools.partial(saved_state, Path(folder))
            # An optimizer that has taken steps, or was loaded.
            told = bool(parts.optimizer.state) and first_process() and not parts.sharded
            set_back = told and not ends_alike(state(), inner)
            parts.restore(
                state() if processes is None else processes.exchange("the state to resume", lambda: None, lambda _: state()),
                folder,
            )
            check_task(recorder, data)
        recorder.reduce_labels = data.reduce_labels
        # Each process of a parallel training would have to take part in what the wrapper does.
        seen = inner if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model
        made = LoopRecorder(recorder, methods, parts, loader, chosen, data, seen, processes or selecting)
        made.set_back = set_back
        return made
    except BaseException:
        recorder.close()
        if processes is not None:
            processes.end()
        raise


def _opened_together(
    processes: Processes, opened: Callable[..., Recorder], recording: Recording, seed: int | None
) -> Recorder | PartRecorder:
    """The recorder of the run in process 0, and in the others the one of this process's part.

    Raises:
        AssayError: What process 0 met when it opened the run.
        Mismatch: The processes record otherwise, or other examples.
    """
    folder, ids = opened.args[:2]  # type: ignore[attr-defined]  # a partial
    made: list[Recorder] = []

    def take(asked: list[tuple[str, str]]) -> tuple[Header, int, bool]:
        for process, other in enumerate(asked):
            if other != asked[0]:
                what = "examples" if other[0] != asked[0][0] else "settings"
                raise Mismatch(
                    f"Process {process} records other {what} than process 0; call assay.record in the same way in every process."
                )
        made.append(opened())
        made[0].processes = processes.size
        return made[0].opening

    settings = str((recording, seed, *(opened.keywords[name] for name in ("class_names", "resume"))))  # type: ignore[attr-defined]
    try:
        opening = processes.exchange("at the beginning", lambda: (ids.fingerprint, settings), take)
    except BaseException:
        for recorder in made:
            recorder.close()
        processes.end()
        raise
    if made:
        return made[0]
    part = PartRecorder(Path(folder), ids, opening, opened.keywords["live"], opened.keywords["class_names"])  # type: ignore[attr-defined]
    part.processes = processes.size
    return part


def _ids(loader: DataLoader, data: DataSpec) -> Ids:
    """The ids of the examples, as they are given or as the dataset names them.

    Raises:
        UsageError: They stand in the batches, and were not given.
    """
    if data.ids is not None:
        return data.ids if isinstance(data.ids, Ids) else Ids(data.ids)
    if data.id_field is not None:
        raise UsageError(
            f"id_field={data.id_field!r} says where a batch holds the ids of its examples, and not which there are; give all of them as "
            "data=assay.DataSpec(ids=..., id_field=...)."
        )
    return ids_of(loader.dataset)


def _known_labels(loader: DataLoader, data: DataSpec, chosen: np.ndarray) -> Tensor | None:
    """The labels of all examples, without which the first epoch must visit each; None for losses, of which no labels are known.

    Raises:
        UsageError: Those given are not one class, or a row of labels, for each example; or there are none, and the loader leaves examples out.
    """
    several = data.task == "labels"
    each = "a row of labels 0 or 1, with task='labels'," if several else "one class, a whole number,"
    if data.task == "losses":
        if data.labels is not None:
            raise UsageError("labels= names classes, and task='losses' records none; leave it out.")
        return None
    if data.labels is not None:
        count = int(chosen.max(initial=-1)) + 1 if data.id_field is not None else len(loader.dataset)  # type: ignore[arg-type]
        labels = as_labels(data.labels, count, several)
        if labels is None:
            raise UsageError(f"labels= is not {each} for each example of the dataset; give them by position.")
        return labels[chosen]
    labels = None if data.id_field is not None else labels_of(loader.dataset, several)
    if labels is None and data.id_field is None:
        try:
            check_visits_all(loader, len(chosen))
        except UsageError as error:
            said = ", task='labels', labels=...), a row of 0 and 1" if several else ", labels=...), one class"
            raise UsageError(
                f"{str(error).partition(';')[0]}, and the labels of those that the first epoch leaves out are not known; give "
                f"data=assay.DataSpec(visits='any'{said} for each example of the dataset, or task='losses', if your loop calls recorder.losses."
            ) from error
    return None if labels is None else labels[chosen]


def check_task(recorder: Observations, data: DataSpec) -> None:
    """Refuse to go on with a run of another task.

    Raises:
        Mismatch: The run recorded something else, or reduces labels otherwise.
    """
    for field, given in (("task", data.task), ("reduce_labels", data.reduce_labels)):
        if given is not None and given != (held := getattr(recorder.header, field)):
            raise Mismatch(
                f"{recorder.paths.folder} was recorded with {field}={held!r}, not {given!r}; resume it as it was begun."
            )
