"""The recorder in Lightning, as a callback."""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ..core.arguments import checked_arguments
from ..core.errors import Mismatch, UsageError
from ..replay.generators import inside_shares, sampler_of
from ..replay.keyed import KeyedBatch, check_loader, ids_of, keyed_copy
from ..replay.losses import cross_entropies
from ..runs.given_values import LOST
from ..runs.recording import Recording
from .batch_keys import check_one_label, labels_in, logits_of
from .continuing import MIDWAY, Asked
from .data_spec import DataSpec
from .loop_recorder import LoopRecorder
from .processes import Shares, connected, noted
from .versions import unknown_version

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        Callback = object

EVAL = "record with assay.Recording(view='eval'), which passes over every example after each epoch"
CURE = "let the Trainer train on every batch of an epoch"
WAY = "trainer.fit(..., ckpt_path=...)"
LOSSES = "losses"
"""Name of the losses of a batch's examples in what `training_step` returns."""


class LossTap:
    """Sees what `torch.nn.functional.cross_entropy` is given while one batch is trained on; `nn.CrossEntropyLoss` calls it too."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.smoothing = 0.0
        """The label smoothing of the newest call."""
        self.altered = ""
        """What makes a call another loss than the mean cross-entropy; empty if nothing does."""
        self._original: Callable[..., Any] | None = None

    def start(self) -> None:
        """Begin to look."""
        self.stop()
        self.calls, self.altered, self.smoothing = [], "", 0.0
        original = self._original = F.cross_entropy
        arguments = inspect.signature(original)

        @functools.wraps(original)
        def seen(input: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(input, Tensor) and isinstance(target, Tensor):
                self.calls.append((input.detach(), target))
                given = arguments.bind(input, target, *args, **kwargs).arguments
                self.smoothing = float(given.get("label_smoothing", 0.0))
                names = {"weight": None, "label_smoothing": 0.0, "reduction": "mean"}
                self.altered = ", ".join(
                    name for name, usual in names.items() if given.get(name, usual) is not usual and given[name] != usual
                )
            return original(input, target, *args, **kwargs)

        F.cross_entropy = seen

    def stop(self) -> None:
        """Look no more."""
        if self._original is not None:
            F.cross_entropy, self._original = self._original, None

    @staticmethod
    def held_by(function: Any) -> str:
        """The name by which a function calls a cross_entropy that its file imported itself; empty if it does not. To be asked while nobody looks."""
        plain = inspect.unwrap(function)
        names = getattr(getattr(plain, "__code__", None), "co_names", ())
        return next((name for name in names if plain.__globals__.get(name) is F.cross_entropy), "")

    def found(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Logits and labels of the calls for a batch of so many examples."""
        return [
            (logits, labels)
            for logits, labels in self.calls
            if logits.ndim == 2 and labels.shape == (size,) and len(logits) == size and not labels.is_floating_point()
        ]


class Recorder(Callback):  # type: ignore[misc, unused-ignore]
    """The recorder as a callback of Lightning: `Trainer(callbacks=[assay.lightning.Recorder("runs/mine")])`.

    Module, data and loss stay as they are, and without `seed` the training ends with the weights that it would end with. Logits and labels are those
    that `training_step` returns as `{"loss": loss, "logits": logits, "labels": labels}` (labels may be left out where a batch is a pair, or a dict with
    `labels`), or else those that it gives to cross_entropy. Where examples have no class (numbers, tokens), what it returns as `{"loss": loss,
    "losses": losses.detach()}` is recorded, the loss of each example; several labels of 0 and 1 are said by `DataSpec(task="labels")`. `ckpt_path=`
    goes on with the run in `folder`. Validation is left alone. With `strategy="ddp"`, and with
    `ModelParallelStrategy` where it shares out examples alone, all processes record one run.

    Args:
        folder: Where the run is written; new or empty, unless the Trainer resumes.
        recording: What is kept, as for `assay.record`.
        data: Facts about examples and batches; by default a batch is `(inputs, labels)`, and the module gives logits of the inputs.
        seed: If given, all generators are seeded from (seed, epoch) before each epoch, so that the training can be taken again. If None, none is touched.
        about: Description of what is trained, for the report.

    Raises:
        UsageError: Lightning is not installed, or an argument is of a wrong kind. While it trains: ids or logits cannot be captured.
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
        if Callback is object:
            raise UsageError(
                "assay.lightning.Recorder needs the package lightning; install it by `pip install 'assay[lightning]'`."
            )
        self._asked = Asked(Path(folder), recording or Recording(), data or DataSpec(), seed, about)
        self._undo = contextlib.ExitStack()
        self._tap = LossTap()
        self._recorder: LoopRecorder | None = None
        self._loader: DataLoader | None = None
        self._keyed: DataLoader | None = None
        self._fetched: KeyedBatch | None = None
        self._begun = self._batches = 0
        self._midway = False
        self._active = self._open = self._awaited = False

    @property
    def recorder(self) -> LoopRecorder:
        """The recorder of the training in progress.

        Raises:
            UsageError: Nothing is being trained.
        """
        if self._recorder is None:
            raise UsageError(
                f"Nothing is being recorded in {self._asked.folder}; the recorder is there while trainer.fit() trains."
            )
        return self._recorder

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look into the loader and the batches of the `fit` that begins."""
        if stage != "fit":
            return
        self._leave()
        if trainer.fast_dev_run:
            warnings.warn("fast_dev_run trains on a few batches, so nothing is recorded.", stacklevel=2)
            return
        self._check(trainer, pl_module)
        # Lightning makes its iterator before any later hook, and hands the loader to no hook but the strategy's, in which it is shared out to the processes.
        source, strategy = trainer.fit_loop._data_source, trainer.strategy
        for part, name, seen in ((source, "dataloader", self._dataloader), (strategy, "process_dataloader", self._prepared)):
            vars(part)[name] = functools.partial(seen, getattr(part, name))
            self._undo.callback(vars(part).pop, name, None)
        for part in (pl_module, trainer.datamodule):
            if part is not None:
                hook = part.on_before_batch_transfer
                vars(part)["on_before_batch_transfer"] = functools.wraps(hook)(functools.partial(self._taken, hook))
                self._undo.callback(vars(part).pop, "on_before_batch_transfer", None)
        self._active = True

    def _check(self, trainer: Any, pl_module: Any) -> None:
        if not hasattr(getattr(trainer.fit_loop, "_data_source", None), "dataloader"):
            raise unknown_version("lightning", "no _data_source with a dataloader in trainer.fit_loop")
        if sum(isinstance(callback, Recorder) for callback in trainer.callbacks) > 1:
            raise UsageError("This Trainer has several recorders among its callbacks; leave one.")
        if trainer.world_size > 1:
            self._check_together(trainer)
        if trainer.overfit_batches:
            raise UsageError("overfit_batches makes another loader of a few batches; leave it out, or leave the recorder out.")
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            raise UsageError(
                "training_step takes dataloader_iter, so that batches pass no hook; let it take batch and batch_idx."
            )

    def _check_together(self, trainer: Any) -> None:
        kinds = [kind.__name__ for kind in type(trainer.strategy).__mro__]
        parts = "ModelParallelStrategy" in kinds
        if not parts and ("DDPStrategy" not in kinds or "DeepSpeedStrategy" in kinds):
            raise UsageError(
                f"{kinds[0]} does not keep the whole model in each of its {trainer.world_size} processes, or shares examples out in a way of its own, and neither is "
                "recorded; train with strategy='ddp', with ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1) and fully_shard in "
                "configure_model, or with devices=1."
            )
        if parts and (together := trainer.strategy.device_mesh["tensor_parallel"].size()) > 1:
            raise UsageError(
                f"tensor_parallel_size={together} lets several processes work on one batch, which is not recorded; give "
                f"ModelParallelStrategy(data_parallel_size={trainer.world_size}, tensor_parallel_size=1)."
            )
        if self._asked.recording.view == "eval":
            raise UsageError(
                f"{trainer.world_size} processes train together, and a clean pass is recorded by one; record with view='train', or set devices=1."
            )

    def _dataloader(self, original: Callable[[], Any]) -> Any:
        made = original()
        if not isinstance(made, DataLoader):
            kind = f"a {type(made).__name__}"
            raise UsageError(
                f"The training data are {kind}, and one torch DataLoader is recorded; give one (over a ConcatDataset, if there are several datasets)."
            )
        check_loader(made)
        if self._loader is not None and ids_of(made.dataset) != ids_of(self._loader.dataset):
            raise Mismatch("train_dataloader() gave other examples than before; return a loader over the same dataset each time.")
        self._awaited = True
        return made

    def _prepared(self, original: Callable[[Any], Any], loader: Any) -> Any:
        """The loader as it is iterated, now that every process has its part of it."""
        made = original(loader)
        if not self._awaited:
            # Of a validation.
            return made
        self._awaited = False
        if connected() and Shares.of(made).processes == 1:
            raise UsageError(
                f"Each of {torch.distributed.get_world_size()} processes trains on all examples, so an example is trained on several times in an epoch; leave "
                "use_distributed_sampler=True, or give the loader a DistributedSampler."
            )
        self._loader = self._loader or made
        self._keyed = keyed_copy(made, lasting_workers=self._asked.seed is None)
        sampler = sampler_of(made)
        inner = inside_shares(sampler)
        if self._asked.seed is not None and getattr(inner, "generator", True) is None and inner is not sampler:
            # All processes draw one order, of which each takes its part; else each would draw its own from numbers that are its own.
            inner.generator = torch.Generator()
            self._undo.callback(setattr, inner, "generator", None)
        if self._recorder is not None:
            self._recorder.keyed(self._keyed)
        return self._keyed

    def _taken(self, hook: Callable[..., Any], batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, KeyedBatch):
            self._fetched, batch = batch, batch.batch
        return hook(batch, dataloader_idx)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record, or go on with the run that the checkpoint belongs to."""
        if not self._active:
            return
        if self._loader is None or self._keyed is None:
            raise UsageError(
                "Lightning trains on a loader that was there before this fit(); make the Trainer anew for each fit()."
            )
        whole = self._asked.recording.view == "train" and self._asked.data.visits == "each"
        if whole and trainer.num_training_batches < len(self._keyed):
            raise UsageError(
                f"limit_train_batches leaves {len(self._keyed) - trainer.num_training_batches} of {len(self._keyed)} batches out of every epoch; leave it "
                f"out, or {EVAL}, or an epoch as it is drawn, with data=assay.DataSpec(visits='any')."
            )
        if self._asked.recording.view == "eval" and self._asked.data.forward is None and _lacks_forward(pl_module):
            raise UsageError(
                f"view='eval' calls the module on a batch's inputs, and {type(pl_module).__name__} has no forward; give it one, or give "
                "data=assay.DataSpec(forward=...), a function that returns (logits, labels)."
            )
        self._midway = midway = bool(getattr(trainer.fit_loop, "restarted_mid_epoch", False))
        optimizers = trainer.optimizers
        self._recorder = self._asked.taken_again_by(self._again(trainer)).begin(
            pl_module,
            optimizers[0] if len(optimizers) == 1 else optimizers,
            self._loader,
            went=trainer.current_epoch + 0.5 * midway,
            way=WAY,
        )
        self._recorder.keyed(self._keyed)
        self._begun, self._open = 0, False

    def _again(self, trainer: Any) -> str:
        """How the training is taken again, as Python."""
        norm = trainer.gradient_clip_val and str(trainer.gradient_clip_algorithm or "norm").endswith("norm")
        more = {
            "losses=losses": self._asked.data.losses is not cross_entropies,
            "accumulate=trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
            "clip=trainer.gradient_clip_val": norm,
        }
        taken = "trainer.optimizers[0]" if len(trainer.optimizers) == 1 else "trainer.optimizers"
        return f"assay.Loop({', '.join(('module', taken, 'loader', *(words for words, so in more.items() if so)))})"

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin an epoch."""
        if self._recorder is None:
            return
        self._recorder.begin_epoch()
        if self._asked.seed is not None and not self._begun:
            # Made before the generators were seeded; in later epochs Lightning makes it after this hook.
            iter(trainer.fit_loop._data_fetcher)
        self._begun, self._batches, self._open = self._begun + 1, 0, True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin a batch."""
        if self._recorder is None:
            return
        fetched, self._fetched = self._fetched, None
        if fetched is None:
            raise UsageError(
                "A batch carries no ids: its loader was made again, or a hook before on_before_batch_transfer changed it; leave the loader as it is."
            )
        if not self._open:
            # An epoch in whose middle a checkpoint was saved has no beginning here.
            self.on_train_epoch_start(trainer, pl_module)
        self._recorder.begin_batch(fetched._replace(batch=batch))
        self._batches += 1
        self._size = len(fetched.keys)
        if self._asked.recording.view == "train":
            self._tap.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the batch's logits and labels."""
        if self._recorder is None or self._asked.recording.view != "train":
            return
        self._tap.stop()
        name = f"{type(pl_module).__name__}.training_step"
        # A batch whose logits cross_entropy was given is recorded, whatever came of its loss.
        if pl_module.automatic_optimization and not outputs and not self._tap.calls:
            also = "call F.cross_entropy with the logits of the whole batch before it returns None, or "
            raise UsageError(
                f"{name} returned None for batch {batch_idx} of epoch {trainer.current_epoch}, by which Lightning skips the step, and so gave nothing of the "
                f"batch to record; {also if self._asked.data.task in (None, 'classes') else ''}leave such examples out of the training set, or {EVAL}."
            )
        if (
            isinstance(outputs, Mapping)
            and LOSSES in outputs
            and (self._asked.data.task == "losses" or logits_of(outputs) is None)
        ):
            self._recorder.losses(outputs[LOSSES])
            return
        if self._asked.data.task == "losses":
            raise UsageError(
                f"{name} returns no losses of the examples, which task='losses' records; return {{'loss': loss, 'losses': losses}}, with the loss of each "
                "example of the batch, detached."
            )
        logits = logits_of(outputs) if isinstance(outputs, Mapping) else None
        if logits is not None:
            labels = labels_in(outputs) if labels_in(outputs) is not None else labels_in(batch)
        else:
            logits, labels = self._seen_in(pl_module, name)
        check_one_label(logits, labels, name)
        if self._tap.altered and self._asked.data.losses is cross_entropies and self._recorder.alongside.step_methods:
            self._recorder.alongside.stop_steps(
                f"{name} gives cross_entropy {self._tap.altered}, and steps are valued by the mean cross-entropy; give data=assay.DataSpec(losses=...), the loss "
                "of each example of a batch as the module has it."
            )
        self._recorder.recorder.smoothing = self._tap.smoothing
        self._recorder.batch(logits, labels)

    def _seen_in(self, pl_module: Any, name: str) -> tuple[Tensor, Tensor]:
        """Logits and labels that the module gave to cross_entropy.

        Raises:
            UsageError: There are not those of one call, for each example of the batch.
        """
        calls, found = self._tap.calls, self._tap.found(self._size)
        if len(found) == 1:
            return found[0]
        returned = (
            f"return {{'loss': loss, 'logits': logits, 'labels': labels}}, or where examples have no class {{'loss': loss, 'losses': losses}} with the loss of "
            f"each, or {EVAL}"
        )
        if calls and not found:
            logits, labels = calls[0]
            fewer = logits.ndim == 2 and len(logits) < self._size and not labels.is_floating_point()
            cure = f", {LOST}" if fewer else f", so these are not the logits and the class of each; {returned}"
            raise UsageError(
                f"{name} gives cross_entropy logits of shape {tuple(logits.shape)} and labels of {labels.dtype} and shape {tuple(labels.shape)} in a batch of "
                f"{self._size} examples{cure}."
            )
        why = ""
        if not calls:
            held = self._tap.held_by(type(pl_module).training_step)
            why = (
                f" (its file imports it as {held}, by which name a call is not seen: call F.cross_entropy)"
                if held
                else " (another loss, or one that was imported by its name, is not seen)"
            )
        raise UsageError(
            f"{name} returns no logits, and called F.cross_entropy (or nn.CrossEntropyLoss) {len(found)} times, not once, with class logits of the batch{why}; "
            f"{returned}."
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End and commit the epoch."""
        if self._recorder is not None:
            self._open = False
            # Now, because another callback may change the weights when the training ends.
            cure = MIDWAY if self._midway and self._begun == 1 else CURE
            self._recorder.end_epoch(cure, whole=self._batches >= trainer.num_training_batches)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the recording."""
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            self._leave()
            recorder.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give up what is open; the epochs before are on disk."""
        # At once: Lightning answers a signal from whoever started the processes by raising anew wherever this one is.
        if self._recorder is not None and (broken := self._recorder.broken_by(exception)) is not None:
            # Lightning cleans up and raises its own on; an error from here would stop both.
            exception.add_note(noted(broken))
        self._leave()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave nothing behind."""
        self._leave()

    def _leave(self) -> None:
        """Give up what is open, and take everything out of trainer and module again."""
        self._tap.stop()
        self._undo.close()
        self._active = self._awaited = False
        self._loader = self._keyed = self._fetched = None
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            recorder.__exit__(RuntimeError, None, None)


def _lacks_forward(module: Any) -> bool:
    home = getattr(type(module).forward, "__module__", "").split(".")[0]
    return home in ("torch", "lightning", "pytorch_lightning")
