"""The recorder in Hugging Face's Trainer: `attach` for a trainer that is built, `Recorder` for one that somebody else builds."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..core.accumulators import AbstractStepMethod
from ..core.arguments import checked_arguments
from ..core.errors import UsageError
from ..methods import parse
from ..replay.generators import untouched_generators
from ..replay.keyed import KeyedBatch, KeyedDataset, check_loader, keyed_copy
from ..replay.loop import Loop
from ..replay.losses import Losses, cross_entropies, cross_entropies_of
from ..replay.single_examples import evaluating
from ..runs.paths import RunPaths
from ..runs.recorder import check_place
from ..runs.recording import Recording
from ..training.batches import placed
from .batch_keys import LABELS, NAME, Carried, DictCollate, check_one_label, labels_in, logits_of, taken
from .continuing import MIDWAY, Asked, seeded_when_iterated
from .data_spec import DataSpec
from .loop_recorder import LoopRecorder
from .model_losses import OWN, CountedTokens, ModelLosses, ModelTask, losses_of_step, task_of
from .processes import first_process
from .versions import check_has, check_prepared, unknown_version

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = object  # `attach` is given a trainer of the library, and `Recorder` says what to install.

CURE = "let the Trainer train on every batch of an epoch, and set max_steps to whole epochs"
WRAPPED = ("train", "get_train_dataloader", "training_step", "compute_loss")
"""The methods of a Trainer that `attach` looks into; all are public."""
SAME_LOSS = 1e-4
"""How far two losses and their gradients may differ, relative to both, to be the same: what is added up in another order."""
WAY = "trainer.train(resume_from_checkpoint=True)"
ARGUMENTS = (
    *(
        "n_gpu",
        "world_size",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "auto_find_batch_size",
        "train_batch_size",
        "dataloader_drop_last",
    ),
    *("gradient_accumulation_steps", "label_smoothing_factor", "max_grad_norm", "torch_compile", "device"),
)
"""What is read of a Trainer's arguments."""
EVAL = "record with assay.Recording(view='eval'), which passes over every example after each epoch"


@dataclasses.dataclass(frozen=True)
class NamedForward:
    """Logits and labels of a batch that is a dict: the model is given all of it, but the labels only where it cannot be called without.

    Attributes:
        labels: Names under which the labels may stand.
    """

    labels: tuple[str, ...] = LABELS

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits, labels = self.whole(model, batch)
        check_one_label(logits, labels, "The clean pass")
        return logits, labels

    def whole(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits and labels, whatever their shapes."""
        if not isinstance(batch, Mapping):
            raise UsageError(
                f"A batch is a {type(batch).__name__}, no dict; give data=assay.DataSpec(forward=...), a function that returns (logits, labels)."
            )
        labels = labels_in(batch, self.labels)
        kept = _asked_for(model)
        logits = logits_of(model(**{name: part for name, part in batch.items() if name not in self.labels or name in kept}))
        if logits is None:
            raise UsageError(
                "The model returns no logits; give data=assay.DataSpec(forward=...), a function that returns (logits, labels)."
            )
        return logits, labels

    def labels_of(self, batch: Any) -> Tensor:
        """The labels of a batch."""
        return labels_in(batch, self.labels)


def _asked_for(model: nn.Module) -> frozenset[str]:
    """What the model cannot be called without; nothing where that cannot be told, as of TorchScript."""
    try:
        given = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    return frozenset(one.name for one in given if one.default is one.empty)


@dataclasses.dataclass(frozen=True)
class SmoothedLosses:
    """Cross-entropies with label smoothing as the Trainer computes them, in nats.

    Attributes:
        forward: Gives logits and labels.
        smoothing: Share of the label that is spread over all classes.
    """

    forward: NamedForward
    smoothing: float

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        logits, labels = self.forward(model, batch)
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)


class Events(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """What `attach` and `Recorder` have in common: the recording of one training, told by the Trainer's events."""

    def __init__(
        self,
        folder: str | Path,
        recording: Recording | None,
        data: DataSpec | None,
        seed: int | None,
        about: Mapping[str, object] | None,
    ):
        self.folder, self.recording = Path(folder), recording or Recording()
        self._data, self._seed, self._about = data or DataSpec(), seed, about
        self._labels: tuple[str, ...] = LABELS
        self._recorder: LoopRecorder | None = None
        self._task, self._labelled = ModelTask(None, None), False
        self._first = 0
        self._cure = CURE
        self._again, self._own = "assay.huggingface.loop_of(trainer)", False

    @property
    def recorder(self) -> LoopRecorder:
        """The recorder of the training in progress.

        Raises:
            UsageError: Nothing is being trained.
        """
        if self._recorder is None:
            raise UsageError(
                f"Nothing is being recorded in {self.folder}; the recorder is there from trainer.train() on until its end."
            )
        return self._recorder

    @property
    def forward(self) -> NamedForward:
        """Logits and labels of a batch."""
        return NamedForward(self._labels)

    def _losses(self, smoothing: float) -> Losses:
        if self._task.problem != "classes":
            return ModelLosses(self._task, self.forward.whole, smoothing)
        return SmoothedLosses(self.forward, smoothing) if smoothing else cross_entropies_of(self.forward)

    def _told(self, data: DataSpec, smoothing: float) -> DataSpec:
        """What is known of the data, with what the model tells of them."""
        problem, clean = self._task.problem, self.recording.view == "eval"
        if data.losses is not cross_entropies or data.forward is not None:
            return data
        if clean and problem == "tokens":
            raise UsageError(
                f"A clean pass does not know by which loss an example of many tokens is recorded; give {OWN}, such as assay.token_losses(logits, labels) does."
            )
        if data.task is None and (problem == "labels" or (clean and problem == "numbers")):
            data = dataclasses.replace(data, task="labels" if problem == "labels" else "losses")
        if problem != "classes" or data.task in (None, "classes"):
            data = dataclasses.replace(data, losses=self._losses(smoothing))
        return data

    def _observe(self, model: nn.Module, outputs: Any, batch: Any, labels: Any, where: str) -> None:
        """Record what the model returned in a training step."""
        if self._data.task == "losses" and self._data.losses is not cross_entropies:
            self.recorder.losses(losses_of_step(self._data.losses, model, outputs, batch))
            return
        logits = logits_of(outputs)
        assert logits is not None  # whoever calls has looked
        kind = self._task.kind(logits, labels, where)
        if kind in ("tokens", "numbers"):
            self.recorder.losses(self._task.losses(kind, logits.detach(), labels, "mean"))
            return
        if kind == "labels" and not self._labelled:
            raise UsageError(
                f"{where}: an example has {logits.shape[-1]} labels, each 0 or 1; say so by data=assay.DataSpec(task='labels'), or by problem_type in the model's config."
            )
        self.recorder.batch(logits, labels.to(logits.device))

    def _open(self, args: Any, state: Any, model: nn.Module, optimizer: Any, loader: DataLoader) -> LoopRecorder:
        """Begin to record, or go on with the run that the Trainer's checkpoint belongs to."""
        self._task = task_of(model)
        data = self._told(self._data, args.label_smoothing_factor)
        self._labelled = data.task == "labels"
        if data.forward is None and data.task != "losses" and self.recording.view == "eval":
            data = dataclasses.replace(data, forward=self.forward)
        went = state.global_step / math.ceil(len(loader) / args.gradient_accumulation_steps)
        again = self._again if self._data.losses is cross_entropies else f"{self._again[:-1]}, losses=losses)"
        asked = Asked(self.folder, self.recording, data, self._seed, self._about).taken_again_by(again)
        made = asked.begin(model, optimizer, loader, went=went, way=WAY)
        self._first = math.floor(went) - made.epochs
        self._cure = MIDWAY if went % 1 else CURE
        if not self._own and self._data.losses is cross_entropies:
            # Facts are made of the model's logits, whatever the Trainer makes of the labels in its loss.
            made.recorder.smoothing = float(args.label_smoothing_factor)
        return made

    def _leave(self) -> None:
        """Give up what is open, after an error."""
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            recorder.__exit__(RuntimeError, None, None)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Begin an epoch."""
        if self._recorder is not None:
            self._recorder.begin_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End and commit the epoch."""
        if self._recorder is not None:
            # Now, because the best model may be loaded before the training ends.
            self._recorder.end_epoch(self._cure)
            self._cure = CURE

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End the recording."""
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            recorder.close()


class Attached(Events):
    """A recorder in a Trainer. Made by `attach`."""

    def __init__(self, trainer: Any, folder: Any, recording: Any, data: Any, seed: Any, about: Any):
        super().__init__(folder, recording, data, seed, about)
        self._labels = _label_names(trainer)
        self._trainer = trainer
        self._compute_loss = trainer.compute_loss
        self._again = f"attached.loop() or {self._again}"
        self._loader: DataLoader | None = None
        self._keyed: DataLoader | None = None
        self._training = self._stepping = self._recorded = False
        for name in WRAPPED:
            original = getattr(trainer, name)
            setattr(trainer, name, functools.wraps(original)(functools.partial(getattr(self, f"_{name}_seen"), original)))
        trainer.add_callback(self)

    def detach(self) -> None:
        """Take the recorder out of the trainer again."""
        for name in WRAPPED:
            vars(self._trainer).pop(name, None)
        self._trainer.remove_callback(self)
        self._leave()

    def _train_seen(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        _check_trainer(self._trainer, self.recording, self._data)
        self._own = _own_loss(self._trainer)
        self._leave()
        self._training, self._keyed = True, None
        try:
            return original(*args, **kwargs)
        except RuntimeError as error:
            if self._recorder is not None:
                # It says so in its words if another process is gone.
                recorder, self._recorder = self._recorder, None
                recorder.__exit__(type(error), error, error.__traceback__)
            raise
        finally:
            self._training = False
            self._leave()

    def _get_train_dataloader_seen(self, original: Callable[..., Any]) -> Any:
        made = original()
        if not self._training or self._recorder is not None:
            return made
        check_loader(made)
        check_prepared(made)
        self._loader = made
        self._keyed = keyed_copy(made, lasting_workers=self._seed is None, collate=DictCollate)
        return self._keyed

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Begin to record, or go on with the run that the checkpoint belongs to."""
        trainer = self._trainer
        if self._loader is None or self._keyed is None:
            raise UsageError(
                f"{type(trainer).__name__} trains on a loader that get_train_dataloader did not make, so ids cannot be captured; let "
                "get_train_dataloader return the loader."
            )
        self._recorder = self._open(args, state, trainer.model, trainer.optimizer, self._loader)
        self._recorder.keyed(self._keyed)
        seeded_when_iterated(self._keyed, self._recorder)

    def _training_step_seen(self, original: Callable[..., Any], model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self._recorder is None:
            return original(model, inputs, *args, **kwargs)
        fetched = taken(inputs)
        if fetched is None:
            raise UsageError(
                f"A batch of {type(self._trainer).__name__} carries no ids: it was made again on the way from the loader; hand on what the loader gives, "
                f"with {NAME!r} in it, to training_step."
            )
        batch = fetched.batch
        # A copy, because losses may take the labels out.
        self._recorder.begin_batch(fetched._replace(batch=dict(batch) if isinstance(batch, Mapping) else batch))
        self._stepping, self._recorded = True, False
        try:
            loss = original(model, batch, *args, **kwargs)
        finally:
            self._stepping = False
        if not self._recorded and self.recording.view == "train":
            raise UsageError(
                f"{type(self._trainer).__name__}.training_step does not call compute_loss, so there are no logits to record; call it, or {EVAL}."
            )
        return loss

    def _compute_loss_seen(
        self, original: Callable[..., Any], model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        if not self._stepping or self.recording.view == "eval":
            return original(model, inputs, return_outputs=return_outputs, **kwargs)
        name = f"{type(self._trainer).__name__}.compute_loss"
        labels = labels_in(inputs, self._labels)
        # A copy, because losses may take the labels out.
        batch = dict(inputs) if isinstance(inputs, Mapping) else inputs
        both = original(model, inputs, return_outputs=True, **kwargs)
        outputs = both[1] if isinstance(both, tuple) and len(both) == 2 else None
        own = self._data.task == "losses" and outputs is not None
        if not own and logits_of(outputs) is None:
            raise UsageError(
                f"{name} returns no logits when it is asked for outputs (return_outputs=True), as fused losses have none; return (loss, outputs) with "
                f"outputs.logits, or {EVAL}."
            )
        if self._recorded:
            raise UsageError(f"{name} is called twice for a batch, and one of its outputs is recorded; call it once, or {EVAL}.")
        if self._task.problem == "numbers" and self._own and self._data.losses is cross_entropies:
            raise UsageError(f"{type(self._trainer).__name__} computes a loss of its own of numbers; give {OWN}.")
        self._observe(model, outputs, batch, labels, name)
        self._recorded = True
        return both if return_outputs else both[0]

    def loop(self, **changes: Any) -> Loop:
        """The training that was recorded, for methods that take it again: `assay.score(run, "sgd_influence", loop=attached.loop())`.

        Args:
            changes: Fields of `assay.Loop` to set otherwise, such as `losses=` where the Trainer's loss is your own.

        Raises:
            UsageError: The Trainer computes a loss of its own, and `losses=` does not say that of each example.
        """
        if self._data.losses is not cross_entropies:
            changes = {"losses": self._data.losses, **changes}
        return _loop(self._trainer, changes, self._loader, self._first, self._compute_loss)


@checked_arguments
def attach(
    trainer: Any,
    folder: str | Path,
    recording: Recording | None = None,
    *,
    data: DataSpec | None = None,
    seed: int | None = None,
    about: Mapping[str, object] | None = None,
) -> Attached:
    """Record what a Hugging Face Trainer trains, from its next `train()` on.

        trainer = Trainer(model, args, train_dataset=train_set)
        assay.attach(trainer, "runs/mine")
        trainer.train()

    Dataset, collator, model, loss and evaluation stay as they are, and without `seed` the training ends with the weights that it would end with. Ids
    are positions in the train dataset, or `data=assay.DataSpec(ids=...)`. `trainer.train(resume_from_checkpoint=...)` goes on with the run in
    `folder`; an epoch of which only a part is trained in one process is not recorded, which a warning says.

    Args:
        trainer: A `transformers.Trainer`, or what inherits from it.
        folder: Where the run is written; new or empty, unless the Trainer resumes.
        recording: What is kept, as for `assay.record`.
        data: Facts about the examples; by default a batch is a dict, the model is given all of it but the labels (these too where its `forward`
            asks for them), and returns logits.
        seed: If given, all generators are seeded from (seed, epoch) before each epoch, so that `attached.loop()` can be scored by methods that take the
            training again. If None, no generator is touched.
        about: Description of what is trained, for the report.

    Returns:
        The recorder in the trainer: `attached.loop()` after the training, `attached.recorder.live("aum")` while it trains.

    Raises:
        UsageError: Ids or logits cannot be captured from this trainer. While it trains: as `assay.record`.
        OutputExists: `folder` holds something else than a run.
    """
    recording = recording or Recording()
    for name in (*WRAPPED, "callback_handler", "args", "model"):
        if not hasattr(trainer, name) and _of_the_library(type(trainer)):
            raise unknown_version("transformers", f"no {name} in {type(trainer).__name__}")
        if not hasattr(trainer, name):
            raise UsageError(
                f"attach: trainer= is a {type(trainer).__name__} without {name}; give a transformers.Trainer, or record a loop of your own by assay.record."
            )
    if any(isinstance(callback, Events) for callback in trainer.callback_handler.callbacks):
        raise UsageError("This trainer is recorded already; call detach() on what attach returned, or build another trainer.")
    check_has("transformers", trainer.args, *ARGUMENTS)
    _check_trainer(trainer, recording, data or DataSpec())
    steps = [str(method) for method in recording.live if isinstance(parse(method), AbstractStepMethod)]
    if steps and (data is None or data.losses is cross_entropies) and _own_loss(trainer):
        raise UsageError(
            f"{type(trainer).__name__} computes a loss of its own, and {', '.join(steps)} values its steps; give the loss of each example as "
            f"data=assay.DataSpec(losses=...), or leave {', '.join(steps)} out of Recording(live=...)."
        )
    # What another process of this training wrote already is no other run.
    if not RunPaths(Path(folder)).header.exists() and first_process():
        check_place(RunPaths(Path(folder)))
    return Attached(trainer, folder, recording, data, seed, about)


class NamedBatches(DictCollate):
    """A collate whose batches must be dicts, inside which the keys pass a Trainer that nobody looks into."""

    def __call__(self, fetched: KeyedBatch) -> Any:
        made = super().__call__(fetched)
        if isinstance(made, KeyedBatch):
            raise UsageError(
                f"The collator makes a {type(made.batch).__name__} of a batch, and the callback records batches that are dicts; let it return a dict, or use "
                "assay.attach(trainer, folder)."
            )
        return made


class Recorder(Events):
    """The recorder as a callback, for a Trainer that somebody else builds: `Trainer(..., callbacks=[assay.huggingface.Recorder("runs/mine")])`.

    The model must be called with the whole batch once in every step, as the Trainer's own loss calls it, and return logits; where it is not, use
    `assay.attach(trainer, folder)`. Arguments are those of `attach`.
    """

    @checked_arguments
    def __init__(
        self,
        folder: str | Path,
        recording: Recording | None = None,
        *,
        data: DataSpec | None = None,
        seed: int | None = None,
        about: Mapping[str, object] | None = None,
    ):
        if TrainerCallback is object:
            raise UsageError(
                "assay.huggingface.Recorder needs the package transformers; install it by `pip install 'assay[hf]'`."
            )
        super().__init__(folder, recording, data, seed, about)
        self._undo = contextlib.ExitStack()
        self._newest: Carried | None = None
        self._batch: dict[str, Any] = {}
        self._seen = self._awaiting = False

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **more: Any,
    ) -> None:
        """Begin to record, or go on with the run that the checkpoint belongs to."""
        self._leave()
        for name, part in (("model", model), ("optimizer", optimizer), ("train_dataloader", train_dataloader)):
            if part is None:
                raise unknown_version("transformers", f"no {name} among what it tells callbacks in on_train_begin")
        check_has("transformers", args, *ARGUMENTS)
        _check_arguments(args, self.recording)
        check_loader(train_dataloader)
        check_prepared(train_dataloader)
        if args.torch_compile:
            raise UsageError(
                "torch_compile=True hides from a callback what the model is given; use assay.attach(trainer, folder)."
            )
        # The Trainer holds the loader by now, so the recorder takes a copy as it was, and the loader itself is keyed.
        plain = copy.copy(train_dataloader)
        inside = vars(train_dataloader).get("base_dataloader")
        if isinstance(inside, DataLoader):
            vars(plain)["base_dataloader"] = copy.copy(inside)
        held = inside if isinstance(inside, DataLoader) else train_dataloader
        before = {name: vars(held)[name] for name in ("dataset", "collate_fn", "persistent_workers")}
        self._recorder = self._open(args, state, model, optimizer, plain)
        self._undo.callback(vars(held).update, before)
        vars(held).update(dataset=KeyedDataset(held.dataset), collate_fn=NamedBatches(held.collate_fn))
        if self._seed is not None:
            vars(held)["persistent_workers"] = False
        self._recorder.keyed(train_dataloader)
        self._undo.callback(setattr, held, "__class__", type(held))
        seeded_when_iterated(train_dataloader, self._recorder)
        self._newest, self._seen, self._awaiting = None, False, False
        self._undo.callback(model.register_forward_pre_hook(self._called, with_kwargs=True, prepend=True).remove)
        self._undo.callback(model.register_forward_hook(self._returned, with_kwargs=True).remove)

    def _called(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        carried = kwargs.get(NAME)
        if not isinstance(carried, Carried):
            return None
        if self._recorder is not None:
            if carried is self._newest:
                raise UsageError(
                    f"The model is called twice for a batch, and one of its outputs is recorded; call it once, or {EVAL}."
                )
            self._newest, self._seen = carried, True
            batch = {name: kwargs[name] for name in carried.names if name in kwargs}
            if carried.labels is not None and labels_in(batch) is None:
                batch["labels"] = carried.labels.to(next(model.parameters()).device)
            self._batch = batch
            self._recorder.begin_batch(KeyedBatch(carried.keys, batch, carried.finding, carried.digests))
            # Only now, because methods that run along call the model for the step before.
            self._awaiting = True
        return args, {name: part for name, part in kwargs.items() if name != NAME}

    def _returned(self, model: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if self._recorder is None or self._newest is None or not self._awaiting:
            return
        self._awaiting = False
        if self.recording.view == "eval":
            return
        if self._data.task != "losses" and logits_of(outputs) is None:
            raise UsageError(f"{type(model).__name__} returns no logits in training, as fused losses have none; {EVAL}.")
        self._observe(model, outputs, self._batch, self._newest.labels, type(model).__name__)

    def _stepped(self) -> None:
        if self._recorder is not None and not self._seen:
            raise UsageError(
                f"The model was not called with the whole batch, in which {NAME!r} is, so ids cannot be captured; use assay.attach(trainer, folder)."
            )
        self._seen = False

    def on_substep_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Check that a batch was seen."""
        self._stepped()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Check that a batch was seen."""
        self._stepped()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End the recording."""
        self._undo.close()
        super().on_train_end(args, state, control, **more)

    def _leave(self) -> None:
        self._undo.close()
        super()._leave()


@dataclasses.dataclass(frozen=True, eq=False)
class TrainerCount:
    """How many labels of a batch count, as the Trainer counts them for its loss.

    Attributes:
        trainer: It is only read.
    """

    trainer: Any

    def __call__(self, batch: Any) -> Tensor | None:
        # The method hands on the batches of a step, and their count: here one batch.
        return self.trainer.get_batch_samples(iter([dict(batch)]), 1, self.trainer.args.device)[1]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainerLoss:
    """What a Trainer calls backward on for a batch, before it is divided for a step of several.

    Attributes:
        compute_loss: The Trainer's.
        count: Gives the number of labels that the Trainer tells it; None where it is told that there is 1, so that the loss is a sum.
    """

    compute_loss: Callable[..., Any]
    count: TrainerCount | None

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        count = torch.tensor(1.0) if self.count is None else self.count(batch)
        return self.compute_loss(model, dict(batch), num_items_in_batch=count)


@dataclasses.dataclass(frozen=True, eq=False)
class EpochsBegin:
    """Tells a Trainer's loader which epoch begins, as the Trainer does.

    Attributes:
        loader: The loader.
        first: The Trainer's number of the run's first epoch.
    """

    loader: Any
    first: int = 0

    def __call__(self, epoch: int) -> None:
        within = getattr(getattr(self.loader, "batch_sampler", None), "batch_sampler", None)
        for part in (self.loader, within):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(self.first + epoch)


def loop_of(trainer: Any, **changes: Any) -> Loop:
    """The training of a Trainer, for methods that take a recorded run again: `assay.score(run, "sgd_influence", loop=loop_of(trainer))`.

    The trainer may have been built anew, as it was when the run was recorded by `assay.attach(..., seed=...)`.

    Args:
        trainer: The Trainer; it is not changed, but for an optimizer if it has none yet.
        changes: Fields of `assay.Loop` to set otherwise.

    Raises:
        UsageError: The Trainer computes a loss of its own, and `losses=` does not say that of each example.
    """
    return _loop(trainer, changes)


def _loop(
    trainer: Any, changes: Mapping[str, Any], loader: Any = None, first: int = 0, compute_loss: Callable[..., Any] | None = None
) -> Loop:
    args = trainer.args
    check_has("transformers", trainer, "get_batch_samples", "model_accepts_loss_kwargs", "create_optimizer", "label_names")
    check_has("transformers", args, *ARGUMENTS)
    if trainer.optimizer is None:
        trainer.create_optimizer()
    if loader is None:
        with untouched_generators(args.device):
            # From this seed the Trainer's own loader draws its orders.
            torch.manual_seed(args.seed)
            loader = trainer.get_train_dataloader()
    forward, smoothing = NamedForward(_label_names(trainer)), args.label_smoothing_factor
    task, count = task_of(trainer.model), TrainerCount(trainer)
    compute_loss = compute_loss or trainer.compute_loss
    own = _own_loss(trainer, loader)
    if own and "losses" not in changes:
        raise UsageError(
            f"{type(trainer).__name__} computes a loss of its own; give the loss of each example as losses=, a function of (model, batch)."
        )
    parts: dict[str, Any] = {
        "model": trainer.model,
        "optimizer": trainer.optimizer,
        "loader": loader,
        "forward": forward,
        "loss": TrainerLoss(compute_loss, count),
        "clip": args.max_grad_norm or None,
        "begin_epoch": EpochsBegin(loader, first),
    }
    if task.problem != "classes":
        parts["losses"] = ModelLosses(task, forward.whole, smoothing)
    elif smoothing:
        parts["losses"] = SmoothedLosses(forward, smoothing)
    tokens = task.problem == "tokens"
    if "accumulate" not in changes and (tokens or args.gradient_accumulation_steps > 1):
        with untouched_generators(args.device):
            over_steps = _sums_over_steps(trainer, compute_loss, loader)
        if over_steps:
            parts |= {"loss": TrainerLoss(compute_loss, None), "reduction": "sum", "accumulate": count}
        else:
            parts["accumulate"] = "batches" if _divides(trainer) else 1
    elif "accumulate" not in changes and not own and _multiplies(trainer, compute_loss, loader):
        # The mean over the processes takes back what the Trainer multiplied by.
        parts["accumulate"] = 1
    if tokens and "accumulate" in parts and parts.get("reduction") != "sum":
        parts["reduction"] = CountedTokens(task, forward.labels_of)
    return Loop(**{**parts, **changes})


def _divides(trainer: Any) -> bool:
    """Whether the Trainer divides the loss of each batch by how many batches a step has."""
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    if said is not None:
        return not said
    return not getattr(trainer, "model_accepts_loss_kwargs", False) and trainer.compute_loss_func is None


def _multiplies(trainer: Any, compute_loss: Callable[..., Any], loader: DataLoader) -> bool:
    """Whether the Trainer multiplies a loss by the number of processes though it is a mean: it is told the number of labels, and does not heed it."""
    if not getattr(trainer.args, "average_tokens_across_devices", False):
        return False
    # What cannot be tried stays as it is: a wrong division is refused at the first epoch's end.
    with untouched_generators(trainer.args.device), contextlib.suppress(Exception):
        return _sums_over_steps(trainer, compute_loss, loader) is False
    return False


def _sums_over_steps(trainer: Any, compute_loss: Callable[..., Any], loader: DataLoader) -> bool | None:
    """Whether the loss is a sum divided by the number of labels in all batches of a step, which models may be told and not heed; None if it is not told.

    Raises:
        UsageError: It depends on that number otherwise.
    """
    batch = _few(loader, trainer.args.device)
    count = TrainerCount(trainer)(batch)
    if count is None or not (getattr(trainer, "model_accepts_loss_kwargs", False) or trainer.compute_loss_func is not None):
        return None
    with evaluating(trainer.model), torch.no_grad():
        once, twice = (float(compute_loss(trainer.model, dict(batch), num_items_in_batch=times * count)) for times in (1, 2))
    close = 1e-3 * abs(once)
    if abs(once - twice) <= close:
        return False
    if abs(once - 2 * twice) <= close and getattr(trainer, "loss_is_scaled_for_ga", None) is not False:
        return True
    raise UsageError(
        f"{type(trainer).__name__} is told that a step has {float(count):g} labels, then twice as many, and its loss goes from {once:.6g} to {twice:.6g}, so it "
        "cannot be told what the loss of each batch of a step is divided by; give loop(loss=..., reduction=..., accumulate=...), as for assay.Loop."
    )


def _own_loss(trainer: Any, loader: DataLoader | None = None) -> bool:
    """Whether the loss is another one than that of the library and its models: a function of one's own, or that of a subclass which does more than call the
    library's and look at the outputs. A subclass's is tried on the first few examples, in value and gradient, with a copy of the trainer, which may note what
    it sees."""
    if getattr(trainer, "compute_loss_func", None) is not None:
        return True
    if _of_the_library(type(trainer).compute_loss):
        return False
    kinds: tuple[Any, ...] = type(trainer).__mro__
    library = next(kind for kind in kinds if "compute_loss" in vars(kind) and _of_the_library(kind.compute_loss))
    noted = {name: copy.deepcopy(value) for name, value in vars(trainer).items() if isinstance(value, (dict, list, set))}
    other, found = copy.copy(trainer), []
    vars(other).update(noted)
    with untouched_generators(trainer.args.device), evaluating(trainer.model), torch.enable_grad():
        wanted = [value for value in trainer.model.parameters() if value.requires_grad]
        # What cannot be tried is a loss of one's own.
        try:
            batch = _few(trainer.get_train_dataloader() if loader is None else loader, trainer.args.device)
            count = TrainerCount(trainer)(batch)
            for kind in (kinds[0], library):
                # A copy, because losses may take the labels out.
                loss = kind.compute_loss(other, trainer.model, dict(batch), num_items_in_batch=count)
                gradients = torch.autograd.grad(loss, wanted, materialize_grads=True)
                found.append(torch.cat([one.detach().flatten().double() for one in (loss, *gradients)]))
        except Exception:
            return True
    return not bool((found[0] - found[1]).norm() <= SAME_LOSS * found[1].norm())


def _few(loader: DataLoader, device: torch.device) -> dict[str, Any]:
    """A batch of the first few examples."""
    dataset: Any = loader.dataset
    keys = list(range(min(4, len(dataset))))
    whole = getattr(dataset, "__getitems__", None)
    return dict(placed(loader.collate_fn(whole(keys) if whole else [dataset[key] for key in keys]), device))


def _label_names(trainer: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*LABELS, *(trainer.label_names or ()))))


def _of_the_library(what: Any) -> bool:
    return (getattr(what, "__module__", "") or "").split(".")[0] == "transformers"


def _check_trainer(trainer: Any, recording: Recording, data: DataSpec) -> None:
    """Refuse trainers whose batches or logits cannot be captured.

    Raises:
        UsageError: It is one of those.
    """
    _check_arguments(trainer.args, recording)
    dataset = trainer.train_dataset
    if isinstance(dataset, IterableDataset) or (dataset is not None and not hasattr(dataset, "__len__")):
        raise UsageError(
            f"The train dataset is a {type(dataset).__name__}, which has no stable ids; give a map-style dataset with __len__ and __getitem__."
        )
    if dataset is not None and trainer.args.dataloader_drop_last and recording.view == "train" and data.visits == "each":
        left = len(dataset) % trainer.args.train_batch_size
        if left:
            raise UsageError(
                f"dataloader_drop_last=True leaves {left} of {len(dataset)} examples out of every epoch; set it to False, or {EVAL}, or an epoch as it "
                "is drawn, with data=assay.DataSpec(visits='any', labels=...)."
            )


def _shards_fully(args: Any) -> bool:
    """Whether the Trainer keeps a model in parts by `fully_shard`, FSDP's second version."""
    config, told = args.fsdp_config, getattr(args, "fsdp_plugin_args", None)
    # transformers 4 leaves the version to what accelerate reads.
    version = os.environ.get("FSDP_VERSION", "1") if told is None else (told or {}).get("fsdp_version")
    return str(version) == "2" and not (isinstance(config, dict) and config.get("xla"))


def _check_arguments(args: Any, recording: Recording) -> None:
    if args.n_gpu > 1:
        raise UsageError(
            f"The Trainer would spread each batch over {args.n_gpu} GPUs by DataParallel, which is not recorded; set CUDA_VISIBLE_DEVICES to one of them."
        )
    if args.world_size > 1 and recording.view == "eval":
        raise UsageError(
            f"{args.world_size} processes train together, and a clean pass is recorded by one; record with view='train', or start the Trainer in one process."
        )
    second = "fsdp_config={'version': 2}" if hasattr(args, "fsdp_plugin_args") else "FSDP_VERSION=2 in the environment"
    if args.deepspeed:
        raise UsageError(
            f"DeepSpeed keeps parameters in parts, which are not recorded; train without it, or with fsdp and {second}."
        )
    if args.fsdp and not _shards_fully(args):
        raise UsageError(
            f"FSDP in its first version, or by torch_xla, keeps flattened parts of parameters, which are not recorded; set {second}, or train without fsdp."
        )
    if args.auto_find_batch_size:
        raise UsageError(
            "auto_find_batch_size=True begins the training again with other batches; set it to False and per_device_train_batch_size to what fits."
        )
