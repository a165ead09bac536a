"""The recorder in a plain PyTorch loop: `record` wraps the loader so that ids travel with every batch (see `keyed`)."""

import contextlib
import dataclasses
import functools
import math
import numbers
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler

from .. import __version__
from ..core.accumulators import AbstractStepMethod
from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import AssayError, Mismatch, MissingEvidence, UsageError, listed
from ..core.ids import Ids
from ..core.method import AbstractMethod
from ..core.scores import Scores, ordered
from ..methods import parse
from ..replay.generators import seed_loop, untouched_generators
from ..replay.keyed import KeyedBatch, KeyedCollate, KeyedDataset, check_loader, check_selectable, collate_of, ids_of, keyed_copy
from ..replay.live import LiveSteps
from ..replay.live_methods import LiveMethods
from ..replay.losses import WeightedBatch, WeightedLosses, cross_entropies, cross_entropies_of, logits_alone
from ..replay.rows import ENOUGH, Finding, moved_in
from ..replay.single_examples import Watcher, evaluating
from ..replay.wrapped import HoldsOptimizer, inner_optimizer
from ..runs.packing import pack, unpack
from ..runs.parts import PartRecorder
from ..runs.recorder import Origin, Part, Partial, Recorder
from ..runs.recording import Recording
from ..runs.run import DRAWN, SAVED_RATES, Run
from ..runs.schema import Header
from ..training.batches import placed
from ..training.wrappers import names_inside, unwrapped
from .altered import AlteredWeights
from .carried import CarriedGradients
from .casts import CastWatch
from .data_spec import DataSpec, as_labels, ids_in, labels_of
from .doubles import Doubles
from .mixing import MixtureWatch
from .processes import Processes, Shares, check_shared
from .selecting import LiveSelection, Selecting

SELECTOR = "the live selector"
"""Name of the state of a live selector in the checkpoints."""


class Stateful(Protocol):
    """Anything with a state to save beside model and optimizer: a scheduler, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a saved state."""
        ...


@moved_keywords(
    {
        **dict.fromkeys(("view", "keep_logits", "mean_probs", "checkpoints", "live"), "recording=assay.Recording({name}=...)"),
        **dict.fromkeys(
            ("ids", "class_names", "losses", "forward", "clean", "task", "reduce_labels"), "data=assay.DataSpec({name}=...)"
        ),
        "epochs": "select=assay.LiveSelection(SELECTOR, epochs=...)",
    }
)
@checked_arguments
def record(
    folder: str | Path,
    model: nn.Module,
    # None and several are taken to be refused with what to do instead.
    optimizer: Optimizer | HoldsOptimizer | Sequence[Optimizer] | None,
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
            writes one run of all.
        optimizer: Its learning rates, momenta and betas are recorded, its state saved in the checkpoints. One that accelerate or
            Lightning wrapped is taken as well.
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
    if processes is not None:
        _check_together(recording, select)
    if select is not None:
        check_selectable(loader)
        check_visits_all(loader, len(chosen), "give the loader a sampler that gives each example once, as shuffle=True does")
    elif data.visits == "any":
        partial = Partial(labels=_known_labels(loader, data, chosen))
    elif processes is not None:
        check_shared(loader, len(chosen), "record an epoch as it is drawn, with data=assay.DataSpec(visits='any')")
    elif recording.view == "train" and data.id_field is None:
        check_visits_all(loader, len(chosen))
    _check_visits(recording, data, select)
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
        # What cannot be saved is better known before anything is written.
        pack(parts.state())
    opened = functools.partial(
        Recorder,
        folder,
        whole.take(chosen),
        dataclasses.replace(recording, live=()),
        live=methods,
        partial=partial,
        class_names=data.class_names,
        origin=Origin(seed, str(_device_of(inner)), about, __version__),
        resume=resume,
    )
    recorder = opened() if processes is None else _opened_together(processes, opened, recording, seed)
    try:
        if recorder.epochs:
            state = functools.partial(saved_state, Path(folder))
            parts.restore(
                state() if processes is None else processes.exchange("the state to resume", lambda: None, lambda _: state()),
                folder,
            )
            check_task(recorder, data)
        recorder.reduce_labels = data.reduce_labels
        # Each process of a parallel training would have to take part in what the wrapper does.
        seen = inner if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model
        return LoopRecorder(recorder, methods, parts, loader, chosen, data, seen, processes or selecting)
    except BaseException:
        recorder.close()
        if processes is not None:
            processes.end()
        raise


def _check_together(recording: Recording, select: LiveSelection | None) -> None:
    """Refuse what one process alone cannot tell the others.

    Raises:
        UsageError: A live selector, or a method that values steps while they are taken.
    """
    steps = [method for method in recording.live if isinstance(parse(method), AbstractStepMethod)]
    if select is not None or steps:
        what = "select= chooses the examples" if select is not None else f"live={list(map(str, steps))} values the steps"
        raise UsageError(
            f"{what} of a training in one process, and several train together; train in one process, or leave it out"
            f"{'' if select is not None else ' and score the finished run'}."
        )


def _opened_together(processes: Processes, opened: Callable[..., Recorder], recording: Recording, seed: int | None) -> Recorder:
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


def check_losses(data: DataSpec) -> None:
    """Refuse a clean pass of losses that nobody names.

    Raises:
        UsageError: They have no name.
    """
    if data.task == "losses" and data.losses is cross_entropies:
        raise UsageError(
            "task='losses' with view='eval' records losses(model, batch) in a clean pass, and no losses= is given; give "
            "data=assay.DataSpec(task='losses', losses=...), the loss of each example of a batch."
        )


def _check_visits(recording: Recording, data: DataSpec, select: LiveSelection | None) -> None:
    """Refuse settings of visits and ids that do not go together.

    Raises:
        UsageError: A setting would be ignored, or asks for what the loader cannot give.
    """
    if data.visits == "any" and (recording.view == "eval" or select is not None):
        other = "select= chooses the examples of" if select is not None else "view='eval' looks at every example after"
        raise UsageError(f"visits='any' is of a training pass as it is drawn, and {other} each epoch; leave one of the two out.")
    if data.labels is not None and data.visits != "any":
        raise UsageError("labels= is read with visits='any' only, where an epoch may leave examples out; leave it out.")
    if data.id_field is not None and (recording.view == "eval" or select is not None):
        other = "select= asks" if select is not None else "the clean pass of view='eval' asks"
        raise UsageError(
            f"id_field= is for batches as the loader gives them, and {other} for examples one by one; leave id_field= out, with a map-style dataset."
        )


def check_task(recorder: Recorder, data: DataSpec) -> None:
    """Refuse to go on with a run of another task.

    Raises:
        Mismatch: The run recorded something else, or reduces labels otherwise.
    """
    for field, given in (("task", data.task), ("reduce_labels", data.reduce_labels)):
        if given is not None and given != (held := getattr(recorder.header, field)):
            raise Mismatch(
                f"{recorder.paths.folder} was recorded with {field}={held!r}, not {given!r}; resume it as it was begun."
            )


def check_visits_all(
    loader: DataLoader,
    examples: int,
    ways: str = "record with assay.Recording(view='eval'), which passes over every example after each epoch, or an epoch as it is drawn, with "
    "data=assay.DataSpec(visits='any')",
) -> None:
    """Refuse loaders whose settings show that an epoch does not visit every example.

    Args:
        loader: The loader to check.
        examples: How many are recorded.
        ways: What else the user can do, as the error messages name it.

    Raises:
        UsageError: The loader drops its last batch, or its sampler and dataset differ in length.
    """
    sampler, size, drops = loader.sampler, loader.batch_size, loader.drop_last
    if size is None and type(loader.batch_sampler) is BatchSampler:
        # A loader that accelerate prepared has its settings there alone.
        sampler, size, drops = loader.batch_sampler.sampler, loader.batch_sampler.batch_size, loader.batch_sampler.drop_last
    if getattr(sampler, "replacement", False):
        raise UsageError(
            f"{type(sampler).__name__} draws with replacement, so an epoch does not visit each example once; {ways}."
        )
    if drops and size and examples % size:
        raise UsageError(
            f"drop_last=True leaves {examples % size} of {examples} examples out of every epoch; set drop_last=False, or {ways}."
        )
    try:
        drawn = len(loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return
    shares = Shares.of(loader)
    if shares.processes > 1:
        raise UsageError(
            f"{shares.kind} gives each of {shares.processes} processes a part of the examples, so none visits all of them; call "
            "torch.distributed.init_process_group before assay.record, and both in every process, or in the first "
            f"process alone, {ways}."
        )
    if loader.batch_size is not None and drawn != examples:
        raise UsageError(
            f"The sampler draws {drawn} times per epoch from {examples} examples, so not each once; wrap the dataset in a Subset of those "
            f"to train on, or {ways}."
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

    def state(self) -> dict[str, Any]:
        """The states of model, optimizer and the other objects."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{f"also {name}": part.state_dict() for name, part in self.stateful.items()},
        }

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
            self.model.load_state_dict(names_inside(state["model"], self.model))
            self.optimizer.load_state_dict(state["optimizer"])
            for name, part in self.stateful.items():
                part.load_state_dict(state[f"also {name}"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise Mismatch(f"The checkpoint of {folder} is of another model or optimizer: {error}") from error
        lacking = set[str]().union(
            *(names - group.keys() for names, group in zip(settings, self.optimizer.param_groups, strict=True))
        )
        if lacking:
            raise Mismatch(
                f"The checkpoint of {folder} is of another optimizer than {type(self.optimizer).__name__}: it has no "
                f"{', '.join(sorted(lacking))}. Resume with the optimizer that was recorded."
            )


@dataclasses.dataclass
class OpenEpoch:
    """An epoch whose batches are being trained on.

    Attributes:
        index: Its number.
        examples: How many it trains on.
        begun: How many batches were handed out.
        visited: How many examples those batches held.
        positions: Positions of the examples of the newest batch.
        batch: The newest batch.
        pending: Whether the logits of the newest batch are to come.
        whole: Whether the last batch was recorded, so that the epoch is complete.
    """

    index: int
    examples: int
    begun: int = 0
    visited: int = 0
    positions: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    batch: Any = None
    pending: bool = False
    whole: bool = False


class LoopRecorder:
    """A recorder attached to one loop. Made by `record`.

    Attributes:
        recorder: The recorder that writes the run.
    """

    def __init__(
        self,
        recorder: Recorder,
        live: LiveMethods,
        parts: Parts,
        loader: DataLoader,
        chosen: np.ndarray,
        data: DataSpec,
        seen: nn.Module,
        shared: Selecting | Processes | None = None,
    ):
        self.recorder = recorder
        self._processes = shared if isinstance(shared, Processes) else None
        self._selecting = selecting = shared if isinstance(shared, Selecting) else None
        losses = data.losses
        if losses is cross_entropies and data.forward is not None:
            losses = cross_entropies_of(data.forward)
        self._steps = LiveSteps(parts.model, losses if selecting is None else WeightedLosses(losses))
        self.alongside = live
        live.functional = self._steps.functional
        self._parts, self._model, self._optimizer = parts, parts.model, parts.optimizer
        self._seen, self._clean = seen, loader.dataset if data.clean is None else data.clean
        self._forward = data.forward if data.forward is not None else forward_pair
        self._id_field = data.id_field
        size = len(chosen) if data.id_field is not None else len(loader.dataset)  # type: ignore[arg-type]
        self._place = np.full(size, -1, dtype=np.int64)
        self._losses, self._task, self._has_forward = data.losses, data.task, data.forward is not None
        self._place[chosen] = np.arange(len(chosen))
        self._chosen = chosen
        self._watcher = Watcher(loader, chosen, recorder.ids, data.losses, data.forward)
        kept = None if selecting is None else selecting.places
        self._loader = loader
        if data.id_field is None:
            self._loader = keyed_copy(loader, lasting_workers=recorder.header.seed is None, kept=kept)
        self._rows = RowWatch(recorder.ids)
        seen_data = self._clean if recorder.header.view == "eval" else loader.dataset
        doubles = Doubles(loader, seen_data, chosen, recorder.ids)
        # An example that comes twice is no double.
        once = data.id_field is None and (data.visits == "each" or recorder.header.view == "eval")
        self._doubles = doubles if once and doubles.needed and not recorder.epochs else None
        self._mixtures = MixtureWatch(parts.model, seen)
        self._casts = CastWatch(parts.model, seen)
        self._settings: list[tuple[list[float], list[tuple[float, float]]]] = []
        self._carried = CarriedGradients(parts.model)
        self._altered, self._warned_of_altered = AlteredWeights(parts.model), False
        self._open: OpenEpoch | None = None
        self._uncommitted = self._closed = self._begun = False
        self._outside = 0
        self._by_id: dict[Any, int] = {}
        self._watch = self._optimizer.register_step_pre_hook(self._stepping)

    def live(self, method: str | AbstractMethod) -> "Live":
        """Add a method to compute during training, such as `"liveval"` or `"dual"`; its current scores can be read at any time.

        Call it before the first epoch, and call it again when a run is resumed.

        Raises:
            UnknownName: No such method or option.
            UsageError: The method cannot be computed during training, or training has begun.
        """
        made = parse(method)
        if self._processes is not None and isinstance(made, AbstractStepMethod):
            _check_together(Recording(live=(made,)), None)
        if made.title not in self.alongside.titles:
            self.recorder.check_joins(made.title)
            self.alongside.add(made)
            self.recorder.joined()
        return Live(self.alongside, made.title, self._writes)

    def _walk(self, epoch: OpenEpoch, by_group: Sequence[float]) -> None:
        """Show the step just taken to the methods that read steps. Nothing that they do reaches the training."""
        self._check_own_losses()
        device = _device_of(self._model)
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        rates = dict.fromkeys(self._steps.functional.names, 0.0)
        own: set[str] = set()
        # A group may have joined since the step.
        for rate, group in zip(by_group, self._optimizer.param_groups, strict=False):
            held = {names[id(parameter)] for parameter in group["params"] if names.get(id(parameter)) in rates}
            rates |= dict.fromkeys(held, rate)
            own |= held
        batch = placed(epoch.batch, device)
        weights = None if self._selecting is None else self._selecting.weights(epoch.positions)
        if weights is not None:
            batch = WeightedBatch(batch, weights.to(device))
        step = self._steps.after(epoch.index, epoch.positions, batch, rates)
        foreign = [name for name in rates if name not in own and not torch.equal(step.params[name], step.after[name])]
        if foreign:
            self.alongside.stop_steps(
                f"{len(foreign)} parameters that the given optimizer does not hold ({foreign[0]}) changed in a step, so another optimizer moves "
                "them; record one optimizer with a group for each rate."
            )
            return
        with untouched_generators(device):
            self.alongside.update(step)

    def _check_own_losses(self) -> None:
        """Refuse to value steps by the cross-entropy where examples have no class, so that it is not what the loop takes.

        Raises:
            UsageError: Nobody said what the loss of an example is.
        """
        task = self._task or self.recorder.task
        if self._losses is cross_entropies and (task == "labels" or (task == "losses" and not self._has_forward)):
            what = "several labels" if task == "labels" else "losses"
            raise UsageError(
                f"the run records {what}, and nobody said what the loss of an example is; give data=assay.DataSpec(losses=...), a function "
                "(model, batch) that returns the loss of each example of a batch as your loop has it."
            )

    @contextlib.contextmanager
    def _never_ending(self) -> Iterator[None]:
        """What goes wrong in showing a step ends the methods that read steps, not the training."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())[:400].rstrip(".")
            self.alongside.stop_steps(f"{said}." if isinstance(error, AssayError) else f"{type(error).__name__}: {said}.")

    def _stepping(self, optimizer: Optimizer, *_: Any) -> None:
        self._outside += self._open is None
        self._settings.append(_settings_of(optimizer))

    @property
    def epochs(self) -> int:
        """How many epochs are committed."""
        return self.recorder.epochs

    def epoch(self) -> Iterator[Any]:
        """The batches of one epoch, as the loader gives them.

        The epoch is complete once its last batch was recorded, even if the loop asks for no further batch. It is committed when the next one
        begins or the block ends: with the state that the next one starts from, so that nothing done in between, such as a scheduler's
        step, is lost to a run that is resumed. An epoch that is left early is not recorded, which a warning says; the next one takes its
        number.

        Raises:
            UsageError: The recorder is closed, a batch was not recorded, its rows are in another order than its items, the sampler gives no
                positions, or the dataset gives a random substitute for an item.
            NumericalError: A logit is NaN or infinite, or the weights at the end of the epoch before are.
            NotWritten: The operating system refuses; the epochs before are intact.
        """
        epoch = self._begin_epoch()
        for fetched in self._loader:
            if self._id_field is not None:
                fetched = KeyedBatch(self._named(fetched, f"Epoch {epoch.index}, batch {epoch.begun}"), fetched)
            if not isinstance(fetched, KeyedBatch):
                raise UsageError(
                    f"{type(self._loader).__name__}.__iter__ changes its batches, so ids cannot travel with them; "
                    "change them in collate_fn or in the loop."
                )
            self._hand_out(epoch, fetched)
            yield fetched.batch
            if epoch.whole:
                # The next epoch has begun, or the block has ended, meanwhile.
                return
            if self._open is not epoch:
                raise UsageError(
                    f"Epoch {epoch.index} was left, and its batches cannot be continued; loop over recorder.epoch() again."
                )
            self._take_in(epoch)
        self._finish(epoch)

    def keyed(self, loader: DataLoader) -> None:
        """Say that somebody else iterates the loader: a trainer, which then calls `begin_epoch`, `begin_batch`, `batch` and `end_epoch`.

        Args:
            loader: A keyed copy (`replay.keyed.keyed_copy`) of the loader that is recorded.
        """
        self._loader = loader

    def begin_epoch(self) -> None:
        """Begin an epoch whose batches somebody else asks for; before its loader is iterated. What is raised: see `epoch`."""
        self._begin_epoch()

    def seed_again(self) -> None:
        """Seed the epoch that has begun once more, where a trainer moved the generators before it iterates the loader."""
        if self._open is not None and not self._open.begun:
            self._seed(self._open.index)

    def _seed(self, epoch: int) -> None:
        seed_loop(self.recorder.header.seed, epoch, self._loader, 0 if self._processes is None else self._processes.rank)

    @property
    def _writes(self) -> bool:
        """Whether this process writes the run."""
        return self._processes is None or not self._processes.rank

    def _batches_due(self) -> int | None:
        """How many batches the loader gives in an epoch; None where its sampler has no length."""
        try:
            return len(self._loader)
        except (TypeError, NotImplementedError):
            return None

    def begin_batch(self, fetched: KeyedBatch) -> Any:
        """Begin a batch that somebody else asked for, before its forward pass; batches may have been fetched ahead.

        Args:
            fetched: What the keyed loader gave.

        Returns:
            The batch without its keys.

        Raises:
            UsageError: No epoch is open, the batch before was not recorded, or as in `epoch`.
        """
        epoch = self._open
        if epoch is None:
            raise UsageError("recorder.begin_batch was called outside an epoch; call recorder.begin_epoch() first.")
        if epoch.begun:
            self._take_in(epoch)
        self._hand_out(epoch, fetched)
        return fetched.batch

    def end_epoch(self, cure: str = "train on every batch of the loader", *, whole: bool | None = None) -> None:
        """End the epoch begun by `begin_epoch`, after its last step: it is committed if it is complete, and else left with a warning.

        Args:
            cure: What to do about an epoch that is not complete, as the warning names it.
            whole: With `view="eval"`: whether every batch was trained on, if that is not told by the length of the loader.

        Raises:
            UsageError: An example was not visited, or came twice.
            NumericalError: A logit, or the weights after the last step, are NaN or infinite.
            NotWritten: The operating system refuses; the epochs before are intact.
        """
        if self._open is not None:
            self._close_epoch(cure, whole)

    def _begin_epoch(self) -> OpenEpoch:
        if self._closed:
            raise UsageError(
                f"The recorder of {self.recorder.paths.folder} is closed; loop over recorder.epoch() inside its `with` block, or record with "
                "resume=True to go on."
            )
        self._close_epoch()
        if self._processes is not None:
            self._processes.check_begin(f"Epoch {self.epochs}", self._batches_due(), self._model)
        if self._writes:
            self._watcher.begin(self._model, not self.epochs, self.recorder.keeps_checkpoints)
        if not self.epochs and self.recorder.keeps_checkpoints:
            tensors, note = pack(self._parts.state())
            self.recorder.start(tensors, {"state": note})
        index, examples = self.recorder.begin(), len(self.recorder.ids)
        if self._selecting is not None:
            examples = self._selecting.begin(index, labels_known=index > 0 or self.recorder.header.view == "eval")
        self._steps.begin(sum(commit.steps for commit in self.recorder.commits))
        self._seed(index)
        self._begun = True
        self._casts.begin()
        self._carried.begin()
        self._open = epoch = OpenEpoch(index, examples)
        if self._id_field is None:
            looking = self._doubles and self.recorder.header.view == "train"
            collate_of(self._loader).digesting = len(self.recorder.ids) if looking else 0
        return epoch

    def _hand_out(self, epoch: OpenEpoch, fetched: KeyedBatch) -> None:
        """The batch that is trained on next."""
        epoch.positions, epoch.batch = self._positions(fetched.keys), fetched.batch
        self._rows.hold(fetched, epoch.positions, f"Epoch {epoch.index}, batch {epoch.begun}")
        if self._doubles and self.recorder.header.view == "train":
            self._doubles.take(epoch.positions, fetched.digests)
        epoch.begun += 1
        epoch.visited += len(epoch.positions)
        epoch.pending = self.recorder.header.view == "train"
        if epoch.pending:
            self._mixtures.begin(fetched.batch)
        self._settings = []
        if self.alongside.step_methods:
            with self._never_ending():
                self._steps.before()

    def _take_in(self, epoch: OpenEpoch) -> None:
        """The newest batch, now that its step was taken."""
        self._mixtures.end()
        self._carried.end(waits=not self._settings)
        if epoch.pending:
            raise UsageError(
                f"Batch {epoch.begun - 1} of epoch {epoch.index} was not recorded; call recorder.batch(logits, labels) in every step. A trainer that "
                "fetches several batches before it trains on them can be recorded with assay.Recording(view='eval')."
            )
        # A loop may set the rate before its step and a scheduler change it after, so what counts is the rate in the step.
        rates, momenta = self._settings[-1] if self._settings else _settings_of(self._optimizer)
        weights = None
        if self._selecting is not None:
            self._selecting.stepped(epoch.begun - 1, bool(self._settings))
            weights = self._selecting.weights(epoch.positions)
        self.recorder.step(epoch.positions, rates, updates=len(self._settings), momenta=momenta, weights=weights)
        if self.alongside.step_methods:
            if len(self._settings) != 1:
                self.alongside.stop_steps(
                    f"in batch {epoch.begun - 1} the optimizer moved {len(self._settings)} times, not once, and single steps are valued; step "
                    "once per batch, or score the finished run, where steps of several batches are repeated."
                )
            with self._never_ending():
                self._walk(epoch, rates)
        epoch.batch = None

    def _finish(self, epoch: OpenEpoch) -> None:
        """Every batch was taken in."""
        epoch.whole = True
        self._open = None
        self.recorder.autocast, self.recorder.carried = self._casts.end(), self._carried.seen
        if self.recorder.header.view == "eval":
            self._observe_clean()
        if self._processes is None:
            self.recorder.complete()
        else:
            self._processes.exchange(
                f"Epoch {epoch.index}, at its end",
                lambda: (self.recorder.part(), self._doubles and self._doubles.digests),
                self._merge,
            )
        if self._selecting is not None:
            self._selecting.finish()
        if self._doubles and self._writes:
            self._doubles.hold(self.recorder.epoch_labels, f"Epoch {epoch.index}", _device_of(self._model))
        self._doubles = None
        self._uncommitted = True
        self._altered.stepped()
        self._rows.rest(self._loader)

    def _merge(self, given: list[tuple[Part, np.ndarray | None]]) -> None:
        """Make one epoch of what all processes observed."""
        self.recorder.merge([part for part, _ in given])
        self.recorder.complete()
        if self._doubles:
            for digests in (digests for _, digests in given if digests is not None):
                self._doubles.digests = np.where(self._doubles.digests == 0, digests, self._doubles.digests)

    def _ended(self, epoch: OpenEpoch, whole: bool | None = None) -> bool:
        """Whether the newest batch is the last one, and was recorded."""
        if not epoch.begun or epoch.pending:
            return False
        header = self.recorder.header
        if header.view == "train" and self._processes is None and (not header.partial or self._selecting is not None):
            return epoch.visited >= epoch.examples
        if whole is not None:
            return whole
        # Of a sampler without a length only that it gives nothing more tells the end.
        due = self._batches_due()
        return due is not None and epoch.begun >= due

    def batch(self, logits: Tensor, labels: Tensor) -> None:
        """Record the model's logits of the batch just trained on. Not needed with `view="eval"`, where only the order of the labels is checked.

        Args:
            logits: (batch, classes), of the forward pass before the update; or (batch,) or (batch, 1), the logit of class 1 of a binary model.
                With `DataSpec(task="labels")` (batch, labels), the logit of each label.
            labels: (batch,), the given classes; of a model with one logit 0 or 1, of any type. Of several labels (batch, labels), each 0 or 1.

        Raises:
            UsageError: Called outside `epoch()` or twice for a batch, or shapes do not fit, or the labels are in another order than the
                batch's items.
        """
        epoch, where = self._newest("batch", "labels" if self._task == "labels" else "classes")
        if self.recorder.header.view == "eval":
            self._rows.hold_labels(labels, where)
            return
        # The forward pass is over; a trainer's next one may be of something else.
        self._mixtures.end()
        self._observe(epoch.positions, logits, labels)
        self._rows.hold_labels(labels, where)
        epoch.pending = False

    def _observe(self, positions: Tensor, logits: Tensor, labels: Tensor) -> None:
        (self.recorder.observe_labels if self._task == "labels" else self.recorder.observe)(positions, logits, labels)

    def losses(self, values: Tensor) -> None:
        """Record the loss of each example of the batch just trained on, for any task whose examples have no class: regression, several labels
        per example, sequences, segmentation. Takes the place of `batch`; not needed with `view="eval"`, which records `losses` of its `DataSpec`.

        Args:
            values: (batch,), of the forward pass before the update, in the loss's own unit.

        Raises:
            UsageError: Called outside `epoch()` or twice for a batch, there is not one loss for each example, or logits were recorded before.
        """
        epoch, _ = self._newest("losses", "losses")
        if self.recorder.header.view == "train":
            self._mixtures.end()
            self.recorder.observe_losses(epoch.positions, values)
            epoch.pending = False

    def _newest(self, call: str, task: str) -> tuple[OpenEpoch, str]:
        """The open epoch, whose newest batch is recorded by a call, and where it is, in words.

        Raises:
            UsageError: There is no batch to be recorded, or the call does not fit the task.
        """
        epoch = self._open
        if epoch is None or not epoch.begun:
            raise UsageError(f"recorder.{call} was called outside recorder.epoch(); loop over `for x, y in recorder.epoch():`.")
        if self._task not in (None, task):
            raise UsageError(f"recorder.{call} does not fit DataSpec(task={self._task!r}); leave task= out, or call the other.")
        if self.recorder.header.view == "eval":
            if task == "losses" and self._task is None:
                raise UsageError(
                    "recorder.losses records the training pass, and view='eval' a clean one; record with data=assay.DataSpec(task='losses', "
                    "losses=...), or with view='train'."
                )
        elif not epoch.pending:
            raise UsageError(f"Batch {epoch.begun - 1} of epoch {epoch.index} was recorded twice; call recorder.{call} once.")
        return epoch, f"Epoch {epoch.index}, batch {epoch.begun - 1}"

    def weighted(self, losses: Tensor) -> Tensor:
        """The losses of the batch just handed out, each times the weight that the live selector gives it; without one, as they are.

            loss = recorder.weighted(F.cross_entropy(logits, y, reduction="none")).mean()

        The mean is over the size of the batch, whatever the weights. The selector receives the losses without weights.

        Args:
            losses: (batch,), of the forward pass before the update, with their gradient.

        Raises:
            UsageError: Called outside `epoch()`, or there is not one loss for each example.
        """
        if self._selecting is None:
            return losses
        if self._open is None or not self._open.begun:
            raise UsageError("recorder.weighted was called outside recorder.epoch(); loop over `for x, y in recorder.epoch():`.")
        return self._selecting.weighted(losses, self._open.positions)

    def validation(self, logits: Tensor, labels: Tensor) -> None:
        """Record the model's logits of examples that it is not trained on, after the batches of an epoch and before the next; in one batch or
        several.

        Args:
            logits: (batch, classes), in eval mode.
            labels: (batch,), the classes.

        Raises:
            UsageError: Called before the last batch of an epoch was recorded, or shapes do not fit.
            NumericalError: A logit is NaN or infinite.
        """
        if not self._uncommitted and not (self._open is not None and self._ended(self._open)):
            raise UsageError(
                "recorder.validation was called outside the end of an epoch; call it after the loop over recorder.epoch()."
            )
        self.recorder.validation(logits, labels)

    def _positions(self, keys: Sequence[Any]) -> Int[Tensor, " batch"]:
        try:
            index = np.asarray([operator.index(key) for key in keys], dtype=np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"The sampler gives keys such as {keys[0]!r}, not positions in the dataset; ids cannot be captured."
            ) from error
        outside = (index < 0) | (index >= len(self._place))
        place = np.where(outside, -1, self._place[np.where(outside, 0, index)])
        if (place < 0).any():
            strange = index[place < 0]
            raise UsageError(
                f"The sampler gives {listed(strange, len(strange))}, which are not positions of the recorded examples."
            )
        return torch.from_numpy(place)

    def _named(self, batch: Any, where: str) -> list[int]:
        """Positions of the examples whose ids a batch holds.

        Raises:
            UsageError: It holds none, or one that was not announced.
        """
        values = ids_in(batch, self._id_field)  # type: ignore[arg-type]  # asked for where there is one
        known = {value: place for place, value in enumerate(self.recorder.ids)} if not self._by_id else self._by_id
        self._by_id = known
        # With quotes, by which a text is told from a number.
        strange = [repr(value) for value in values if value not in known]
        if strange:
            raise UsageError(
                f"{where}: {listed(strange, len(strange))} are none of the {len(known)} ids= that were given; name every example that the loader gives."
            )
        return [known[value] for value in values]

    def _observe_clean(self) -> None:
        loader = self._loader
        collate = KeyedCollate(loader.collate_fn.collate)  # type: ignore[union-attr]  # keyed_copy put it there
        collate.looking *= self._rows.looking
        collate.digesting = len(self._chosen) if self._doubles else 0
        pool = DataLoader(
            KeyedDataset(self._clean),
            batch_sampler=[self._chosen[at : at + 512].tolist() for at in range(0, len(self._chosen), 512)],
            collate_fn=collate,  # type: ignore[arg-type]  # takes what KeyedDataset gives, not a list
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator(),
        )
        with evaluating(self._seen), untouched_generators(_device_of(self._model)), torch.no_grad():
            for number, fetched in enumerate(pool):
                positions, where = self._positions(fetched.keys), f"Epoch {self.epochs}, clean pass, batch {number}"
                self._rows.hold(fetched, positions, where)
                if self._doubles:
                    self._doubles.take(positions, fetched.digests)
                if self._task == "losses":
                    self.recorder.observe_losses(
                        positions, self._losses(self._seen, placed(fetched.batch, _device_of(self._model)))
                    )
                    continue
                logits, labels = self._forward(self._seen, fetched.batch)
                self._observe(positions, logits, labels)
                self._rows.hold_labels(labels, where)

    def saved_model(self, rates: Sequence[float] | None) -> None:
        """Record the model as it stands, which somebody saved in a training of which no step is known: a clean pass, and the model.

        Args:
            rates: Learning rate of each parameter group when it was saved, where it is known.
        """
        self._watcher.begin(self._model, not self.epochs, True)
        index, self._begun = self.recorder.begin(), True
        self._observe_clean()
        self.recorder.complete()
        if self._doubles:
            self._doubles.hold(self.recorder.epoch_labels, f"Epoch {index}", _device_of(self._model))
            self._doubles = None
        self._rows.rest(self._loader)
        content, noted = self._watcher.stored(self._model, self.recorder.epoch_labels, not index)
        if rates is not None:
            content = {**content, SAVED_RATES: torch.tensor(rates, dtype=torch.float64)}
        tensors, note = pack({"model": self._model.state_dict()})
        self.recorder.commit(tensors, {"state": note}, (content, noted))

    def _close_epoch(self, cure: str = "", whole: bool | None = None) -> None:
        """Take in an epoch that ended without anybody asking for more, and commit it, with the state that is there now."""
        if self._open is not None:
            epoch = self._open
            if self._ended(epoch, whole):
                self._take_in(epoch)
                self._finish(epoch)
            else:
                self._leave(epoch, cure)
        if self._uncommitted:
            # Before the commit: what cannot be saved now cannot be saved by trying once more.
            self._uncommitted = False
            self.recorder.altered = self._altered.altered()
            if self.recorder.altered and not self._warned_of_altered and self._writes:
                # Once: a loop may change its weights after every epoch on purpose.
                self._warned_of_altered = True
                warnings.warn(
                    f"{self.recorder.paths.folder}: the weights were changed between the last step of epoch {self.epochs} and its end, as where the best ones are "
                    "restored; what is kept of the epoch are the changed ones, and its steps cannot be repeated. Restore weights after the block of "
                    "assay.record, or after recorder.close().",
                    stacklevel=4,
                )
            if self._processes is None:
                self._commit()
                return
            self._processes.exchange(
                f"Epoch {self.epochs}, at its commit", lambda: self.recorder.validation_sums, self._commit_together
            )
            if isinstance(self.recorder, PartRecorder):
                self.recorder.committed()

    def _commit(self) -> None:
        content = self._watcher.stored(self._model, self.recorder.epoch_labels, not self.epochs)
        if self.recorder.keeps_checkpoints:
            tensors, note = pack(self._parts.state())
            self.recorder.commit(tensors, {"state": note}, content)
        else:
            self.recorder.commit(content=content)

    def _commit_together(self, validated: list[tuple[Tensor, Tensor] | None]) -> None:
        """Commit the epoch with the validation examples of all processes."""
        sums = [both for both in validated if both is not None]
        if sums:
            self.recorder.validation_sums = (sum(total for total, _ in sums), sum(count for _, count in sums))  # type: ignore[assignment]
        self._commit()

    def _leave(self, epoch: OpenEpoch, cure: str) -> None:
        self._open = None
        self.recorder.leave()
        if not self._writes:
            return
        held = f"the run holds epochs 0 to {self.epochs - 1}" if self.epochs else "the run holds no epoch yet"
        cure = cure or "use every batch of recorder.epoch(), or record with a loader that is as short as the epochs you want"
        if epoch.pending and epoch.visited >= epoch.examples and not self.recorder.header.partial:
            cure = "call recorder.batch(logits, labels) for its last batch too"
        warnings.warn(
            f"Epoch {epoch.index} of {self.recorder.paths.folder} was left after {epoch.begun} batches and is not recorded ({held}); {cure}.",
            stacklevel=4,
        )

    def close(self) -> None:
        """Commit the last epoch and end the recording, as leaving the `with` block does; nothing if it has ended.

        Raises:
            UsageError: An example was not visited, or came twice, in the last epoch.
            NumericalError: The weights at the end of the last epoch are NaN or infinite.
            NotWritten: The operating system refuses; the epochs before are intact.
        """
        if self._closed:
            return
        try:
            self._close_epoch()
        finally:
            self._end()
        moved = f", though the optimizer moved {self._outside} times" if self._outside else ""
        if not self._begun and (self._outside or not self.epochs) and self._writes:
            warnings.warn(
                f"Nothing was recorded in {self.recorder.paths.folder}: nobody looped over recorder.epoch(){moved}. Train on the batches of "
                "recorder.epoch(), and call recorder.batch(logits, labels) in every step.",
                stacklevel=3,
            )

    def _end(self) -> None:
        self._closed, self._open = True, None
        self._mixtures.end()
        self._casts.end()
        self._carried.end(waits=False)
        self._watch.remove()
        self.recorder.close()
        if self._processes is not None:
            self._processes.end()

    def __enter__(self) -> "LoopRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After an error nobody knows whether the work between two epochs was done; the resumed run does it again.
        if kind is None:
            self.close()
        elif not self._closed:
            self._end()


class RowWatch:
    """Checks that the rows of the first batches are in the order of their items, where the values show it.

    Attributes:
        looking: Whether batches are still checked: until one epoch is complete.
    """

    def __init__(self, ids: Ids):
        self._ids = ids
        self._now: tuple[Finding, Tensor] | None = None
        self._suspected = self._labels_moved = 0
        self._trusted = False
        self.looking = True

    def hold(self, fetched: KeyedBatch, positions: Tensor, where: str) -> None:
        """Check a batch as the loader gave it.

        Args:
            fetched: The batch, with what was noted when it was collated.
            positions: Positions of its items.
            where: Epoch and batch, as the error message names them.

        Raises:
            UsageError: Its rows are in another order than its items.
        """
        finding = fetched.finding
        self._now = None if finding is None else (finding, positions)
        if finding is None or finding["follows"] is None:
            return
        if finding["follows"]:
            self._suspected = 0
            return
        self._suspected += len(positions)
        if finding["certain"] or self._suspected >= ENOUGH:
            row, other = finding["row"], self._ids.values[int(positions[finding["item"]])]
            raise UsageError(
                f"{where}: collate_fn gives other rows than the items in their order: row {row}, of id "
                f"{self._ids.values[int(positions[row])]}, is the item of id {other}. Keep every item and the order in collate_fn; sort in a "
                "batch_sampler instead."
            )

    def hold_labels(self, labels: Any, where: str) -> None:
        """Check the labels that the loop passes for the batch of the last `hold`; `where` is as there.

        Raises:
            UsageError: In several successive batches they are the items' labels in another order.
        """
        if self._now is None or self._trusted or not isinstance(labels, Tensor) or labels.is_floating_point():
            return
        (finding, positions), self._now = self._now, None
        moved = moved_in(finding["numbers"], labels.detach().flatten().tolist())
        self._trusted = moved is False
        self._labels_moved += len(positions) if moved else 0
        if self._labels_moved >= ENOUGH:
            raise UsageError(
                f"{where}: the labels given to recorder.batch are those of the batch's items in another order, so ids cannot follow them; give "
                "logits and labels in the order of the batch, and do not mix or sort its rows."
            )

    def rest(self, loader: DataLoader) -> None:
        """Stop checking, because one epoch is complete."""
        self._now, self.looking = None, False
        if isinstance(loader.collate_fn, KeyedCollate):
            loader.collate_fn.looking = 0


class Live:
    """Current scores of a method that is computed during training."""

    def __init__(self, alongside: LiveMethods, title: str, writes: bool = True):
        self._alongside, self.title, self._writes = alongside, title, writes

    def scores(self) -> Scores:
        """The current score of each example.

        Raises:
            MissingEvidence: The method has seen too few epochs or steps yet, or cannot go on.
        """
        if not self._writes:
            raise MissingEvidence(f"{self.title} is computed in process 0, which writes the run; ask for its scores there.")
        for scores in self._alongside.scores():
            if scores.title == self.title and len(scores):
                return scores
        if self.title in self._alongside.silent:
            raise MissingEvidence(f"{self.title} says nothing: {self._alongside.silent[self.title]}")
        raise MissingEvidence(f"{self.title} has not seen enough yet; let training go on.")

    def worst(self, count: int = 10) -> list[tuple[Any, float]]:
        """Ids and values of the most harmful, most suspect or hardest examples at present, the worst one first."""
        scores = self.scores()
        places = ordered(scores.hardness(), scores.ids, descending=True)[:count].tolist()
        return [(scores.ids.values[place], float(scores.values[place])) for place in places]

    def __str__(self) -> str:
        return "\n".join([f"{self.title}: first ids by now", *(f"  {name!s:>12}  {value: .4g}" for name, value in self.worst())])


def _settings_of(optimizer: Optimizer) -> tuple[list[float], list[tuple[float, float]]]:
    """What schedules change from step to step, by parameter group: learning rates; momentum or betas, as `Recorder.step` takes them."""
    groups = optimizer.param_groups
    return [_number(group.get("lr")) for group in groups], [_momenta(group) for group in groups]


def _momenta(group: Mapping[str, Any]) -> tuple[float, float]:
    betas = group.get("betas")
    if isinstance(betas, (tuple, list)) and len(betas) == 2:
        return _number(betas[0]), _number(betas[1])
    return _number(group.get("momentum")), math.nan


def _number(value: Any) -> float:
    """A setting as a number; NaN where an optimizer has none, as some that find their own rate."""
    return float(value) if isinstance(value, (numbers.Real, Tensor)) else math.nan


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def forward_pair(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of a batch `(inputs, labels)`, by a forward pass.

    Raises:
        UsageError: The batch is something else.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise UsageError(
            "The clean pass got a batch that is not (inputs, labels); give data=assay.DataSpec(forward=...), a function that returns (logits, labels)."
        )
    inputs, labels = batch
    return logits_alone(model(inputs.to(_device_of(model)))), labels
