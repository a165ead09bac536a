"""The recorder of one loop: it hands out the batches of an epoch with their ids, takes in what the loop says of each, and commits the epoch."""

import contextlib
import dataclasses
import functools
import math
import numbers
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..core.accumulators import AbstractStepMethod
from ..core.errors import AssayError, Mismatch, RunError, UsageError, listed
from ..core.method import AbstractMethod
from ..methods import parse
from ..replay.generators import seed_loop, untouched_generators
from ..replay.joined import JoinedOptimizers
from ..replay.keyed import KeyedBatch, KeyedCollate, KeyedDataset, collate_of, count_alike, keyed_copy
from ..replay.live import LiveSteps
from ..replay.live_gradients import LiveGradients
from ..replay.live_methods import LiveMethods
from ..replay.losses import WeightedBatch, WeightedLosses, cross_entropies, cross_entropies_of, logits_alone
from ..replay.single_examples import Watcher, evaluating
from ..runs.merging import Part
from ..runs.packing import pack
from ..runs.parts import PartRecorder
from ..runs.recorder import Recorder
from ..runs.recording import Recording
from ..runs.run import SAVED_RATES, SHARDED, Run
from ..training.batches import placed
from ..training.device import device_of
from .across_batch import beside_others, copied, doubt_of
from .altered import AlteredWeights
from .carried import CarriedGradients
from .casts import CastWatch
from .data_spec import DataSpec, ids_in
from .doubles import Doubles
from .live_scores import Live
from .loader_checks import check_together
from .loop_state import Parts, ends_alike, saved_state
from .mixing import MixtureWatch
from .processes import Processes, disconnected, said_at_the_end
from .row_watch import RowWatch
from .selecting import Selecting
from .sharded import KIND

CLEAN = 512
"""Examples in a batch of a clean pass."""


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
        broken: Whether the loop broke in its last batch, and what it changed after that is known.
    """

    index: int
    examples: int
    begun: int = 0
    visited: int = 0
    positions: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    batch: Any = None
    pending: bool = False
    whole: bool = False
    broken: bool = False


class LoopRecorder:
    """A recorder attached to one loop. Made by `record`.

    Attributes:
        recorder: The recorder that writes the run, or in another process of the same training that of its part.
        set_back: Whether resuming took other weights away, which somebody had loaded or trained; told where the loop goes on.
    """

    def __init__(
        self,
        recorder: Recorder | PartRecorder,
        live: LiveMethods,
        parts: Parts,
        loader: DataLoader,
        chosen: np.ndarray,
        data: DataSpec,
        seen: nn.Module,
        shared: Selecting | Processes | None = None,
    ):
        self.recorder = recorder
        self._writer = recorder if isinstance(recorder, Recorder) else None
        self._processes = shared if isinstance(shared, Processes) else None
        self._selecting = selecting = shared if isinstance(shared, Selecting) else None
        losses = data.losses
        if losses is cross_entropies and data.forward is not None:
            losses = cross_entropies_of(data.forward)
        self._steps = LiveSteps(parts.model, losses if selecting is None else WeightedLosses(losses), division=data.division)
        self._gradients = LiveGradients(parts.model, self._steps.functional.names)
        self._waiting: list[tuple[Tensor, Any]] = []
        self._steps_before: int | None = None
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
        self.set_back = False
        self._given = self._loader = loader
        if recorder.epochs and recorder.header.seed is not None and not vars(loader).get("iteration", 1):
            # A loader that accelerate prepared and that has given nothing yet begins with the order of its first epoch.
            vars(loader)["iteration"] = recorder.epochs
        if data.id_field is None:
            self._loader = keyed_copy(loader, lasting_workers=recorder.header.seed is None, kept=kept)
        self._rows = RowWatch(recorder.ids)
        seen_data = self._clean if recorder.header.view == "eval" else loader.dataset
        doubles = Doubles(loader, seen_data, chosen, recorder.ids)
        # An example that comes twice is no double.
        once = data.id_field is None and (data.visits == "each" or recorder.header.view == "eval")
        self._doubles = doubles if once and doubles.needed and not recorder.epochs else None
        self._alone = bool(recorder.epochs)
        self._mixtures = MixtureWatch(parts.model, seen)
        self._casts = CastWatch(parts.model, seen)
        self._settings: list[tuple[list[float], list[tuple[float, float]]]] = []
        self._carried = CarriedGradients(parts.model)
        self._altered, self._warned_of_altered = AlteredWeights(parts.model), False
        # From here on as the run ended.
        self._altered.stepped()
        self._open: OpenEpoch | None = None
        self._uncommitted = self._closed = self._begun = False
        self._outside = 0
        self._by_id: dict[Any, int] = {}
        self._watch = self._optimizer.register_step_pre_hook(self._stepping)
        self._silent = None if self._processes is None else said_at_the_end(self.broken_by)

    def live(self, method: str | AbstractMethod) -> "Live":
        """Add a method to compute during training, such as `"liveval"` or `"dual"`; its current scores can be read at any time.

        Call it before the first epoch, and call it again when a run is resumed.

        Raises:
            UnknownName: No such method or option.
            UsageError: The method cannot be computed during training, or training has begun.
        """
        made = parse(method)
        if self._processes is not None and isinstance(made, AbstractStepMethod):
            check_together(Recording(live=(made,)), None)
        if made.title not in self.alongside.titles:
            self.recorder.check_joins(made.title)
            self.alongside.add(made)
            self.recorder.joined()
        return Live(self.alongside, made.title, self._writes)

    def _walk(self, epoch: OpenEpoch, by_group: Sequence[float]) -> None:
        """Show the step just taken to the methods that read steps. Nothing that they do reaches the training."""
        self._check_own_losses()
        device = device_of(self._model)
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        rates = dict.fromkeys(self._steps.functional.names, 0.0)
        own: set[str] = set()
        # A group may have joined since the step.
        for rate, group in zip(by_group, self._optimizer.param_groups, strict=False):
            held = {names[id(parameter)] for parameter in group["params"] if names.get(id(parameter)) in rates}
            rates |= dict.fromkeys(held, rate)
            own |= held
        step = self._steps.after(epoch.index, self._waiting, rates)
        foreign = [name for name in rates if name not in own and not torch.equal(step.params[name], step.after[name])]
        if foreign:
            self.alongside.stop_steps(
                f"{len(foreign)} parameters that the given optimizer does not hold ({foreign[0]}) changed in a step, so another optimizer moves "
                "them; give all of them as optimizer=[...]."
            )
            return
        with untouched_generators(device):
            if doubt := self._gradients.compare(step):
                warnings.warn(f"{self.recorder.paths.folder}: {doubt}", stacklevel=2)
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

    def _stepping(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]] | None:
        self._outside += self._open is None
        if bool(getattr(optimizer, "found_inf", None)):
            # A fused optimizer is told of a GradScaler's infinity in its step, and moves nothing.
            return None
        self._settings.append(_settings_of(optimizer))
        if self.alongside.step_methods and self._open is not None:
            return self._gradients.hold(optimizer, args, kwargs)
        return None

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
            Mismatch: Somebody changed the weights of a resumed model before its first epoch.
            NumericalError: A logit is NaN or infinite, or the weights at the end of the epoch before are.
            NotWritten: The operating system refuses; the epochs before are intact.
        """
        self._check_goes_on()
        epoch = self._begin_epoch()
        for fetched in self._fetched():
            if self._id_field is not None:
                fetched = KeyedBatch(self._named(fetched, f"Epoch {epoch.index}, batch {epoch.begun}"), fetched)
            if not isinstance(fetched, KeyedBatch):
                raise UsageError(
                    f"{type(self._loader).__name__}.__iter__ changes its batches, so ids cannot travel with them; "
                    "change them in collate_fn or in the loop."
                )
            self._hand_out(epoch, fetched)
            try:
                yield fetched.batch
            except GeneratorExit:
                # The loop broke; what it changes from here on was not done by a step.
                if self._open is epoch and self._ended(epoch):
                    self._altered.stepped()
                    epoch.broken = True
                raise
            if epoch.whole:
                # The next epoch has begun, or the block has ended, meanwhile.
                return
            if self._open is not epoch:
                raise UsageError(
                    f"Epoch {epoch.index} was left, and its batches cannot be continued; loop over recorder.epoch() again."
                )
            self._take_in(epoch)
        self._finish(epoch)

    def _fetched(self) -> Iterator[Any]:
        """The batches of the keyed loader, which counts its epochs with the one that the loop was given."""
        count_alike(self._loader, self._given)
        yield from self._loader
        count_alike(self._given, self._loader)

    def _check_goes_on(self) -> None:
        """Refuse a resumed model that somebody gave other weights meanwhile, as by a checkpoint of another epoch, and tell what resuming took away.

        Raises:
            Mismatch: It has other weights than those with which the run ended.
        """
        if not self.epochs or self._begun or self._parts.sharded:
            # Changes between two epochs are told at the commit of the first one.
            return
        if self.set_back:
            warnings.warn(
                f"assay.record(..., resume=True) set model and optimizer back to the end of epoch {self.epochs - 1} of {self.recorder.paths.folder}, from other weights "
                "that they had learnt or loaded; to go on from those, record into another folder.",
                stacklevel=3,
            )
        if self._processes is None:
            self._check_weights()
        else:
            self._processes.exchange(f"Epoch {self.epochs}, before it", lambda: None, lambda _: self._check_weights())

    def _check_weights(self) -> None:
        # A model that moved to another device has the same weights, and other sums.
        if self._altered.altered() and not ends_alike(saved_state(self.recorder.paths.folder), self._model):
            moved = ", as steps outside recorder.epoch() did" if self._outside else ""
            raise Mismatch(
                f"{self.recorder.paths.folder} ended epoch {self.epochs - 1} with other weights than the model has now, which something changed after "
                f"assay.record(..., resume=True){moved}; load nothing, or the checkpoint of the end of that epoch, or record into another folder."
            )

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
        return self._writer is not None

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
        self._parts.check_sharded_before()
        if self._processes is not None:
            self._processes.check_begin(f"Epoch {self.epochs}", self._batches_due(), self._model)
        if self._writes:
            # A model of which others keep parts gives no losses in this process alone.
            self._watcher.begin(self._model, not self.epochs, self.recorder.keeps_checkpoints and not self._parts.sharded)
        if not self.epochs and (state := self._packed(f"Epoch {self.epochs}, at its beginning")) is not None:
            assert self._writer is not None
            self._writer.start(*state)
        index, examples = self.recorder.begin(), len(self.recorder.ids)
        if self._selecting is not None:
            examples = self._selecting.begin(index, labels_known=index > 0 or self.recorder.header.view == "eval")
        self._begin_steps()
        self._seed(index)
        self._begun = True
        self._casts.begin()
        self._carried.begin()
        self._open = epoch = OpenEpoch(index, examples)
        if self._id_field is None:
            looking = self._doubles and self.recorder.header.view == "train"
            collate_of(self._loader).digesting = len(self.recorder.ids) if looking else 0
        return epoch

    def _begin_steps(self) -> None:
        """Count the steps from those of the committed epochs on; batches that waited for a step of an epoch before are in none."""
        self._waiting = []
        if not self.alongside.step_methods or self._writer is None:
            return
        if self._steps_before is None:
            run = Run(self._writer.paths.folder) if self.epochs else None
            self._steps_before = 0 if run is None else sum(map(run.step_count, range(run.epochs)))
        self._steps.begin(self._steps_before)

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
        if isinstance(self._optimizer, JoinedOptimizers):
            self._optimizer.begin_batch()
        if self.alongside.step_methods:
            self._gradients.begin(len(self._waiting))
            if not self._waiting:
                with self._never_ending():
                    self._steps.before()

    def _take_in(self, epoch: OpenEpoch) -> None:
        """The newest batch, now that its step was taken."""
        self._mixtures.end()
        self._carried.end(waits=not self._settings)
        if isinstance(self._optimizer, JoinedOptimizers):
            self._optimizer.end_batch(f"In batch {epoch.begun - 1} of epoch {epoch.index}")
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
            with self._never_ending():
                self._show(epoch, rates)
        epoch.batch = None

    def _show(self, epoch: OpenEpoch, rates: Sequence[float]) -> None:
        """Show the newest batch to the methods that read steps: now if a step ended with it, else with the batches of the step to come."""
        moved, where = len(self._settings), f"in batch {epoch.begun - 1} the optimizer moved"
        if moved > 1:
            raise UsageError(f"{where} {moved} times, not once, and single steps are valued; step once per batch at most.")
        if not moved and self._gradients.thrown_away():
            self._waiting = []
            return
        if not moved and self._steps.division.accumulate is None:
            raise UsageError(
                f"{where} 0 times, and what the losses of a step of several batches are divided by was not said; say it as "
                "data=assay.DataSpec(accumulate=...), or score the finished run, where such steps are repeated."
            )
        if self._carried.seen:
            raise UsageError(
                "gradients of the last batches of an epoch went into the first step of the next one, so that this step has batches of two epochs; take a "
                "step at each epoch's end, or clear the gradients there."
            )
        device = device_of(self._model)
        batch = placed(epoch.batch, device)
        weights = None if self._selecting is None else self._selecting.weights(epoch.positions)
        self._waiting.append((epoch.positions, batch if weights is None else WeightedBatch(batch, weights.to(device))))
        if moved:
            self._walk(epoch, rates)
            self._waiting = []

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
            self._doubles.hold(self.recorder.epoch_labels, f"Epoch {epoch.index}", device_of(self._model))
        self._doubles = None
        self._uncommitted = True
        if not epoch.broken:
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

        It sees logits and labels and not the loss of the loop: under label smoothing, class weights or a loss of your own, what is recorded is still the plain
        cross-entropy of these labels.

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
            batch_sampler=[self._chosen[at : at + CLEAN].tolist() for at in range(0, len(self._chosen), CLEAN)],
            collate_fn=collate,  # type: ignore[arg-type]  # takes what KeyedDataset gives, not a list
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator(),
        )
        with evaluating(self._seen), untouched_generators(device_of(self._model)), torch.no_grad():
            for number, fetched in enumerate(pool):
                positions, where = self._positions(fetched.keys), f"Epoch {self.epochs}, clean pass, batch {number}"
                self._rows.hold(fetched, positions, where)
                if self._doubles:
                    self._doubles.take(positions, fetched.digests)
                others = None if self._alone or number else beside_others(fetched.batch, len(positions))
                # A copy, because a model may work on its inputs in place.
                before = None if others is None else copied(fetched.batch)
                values, labels = self._clean_values(fetched.batch)
                if others is not None:
                    self._hold_alone(values, before, others, positions)
                if labels is None:
                    self.recorder.observe_losses(positions, values)
                    continue
                self._observe(positions, values, labels)
                self._rows.hold_labels(labels, where)

    def _clean_values(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Logits and labels of a batch, or its losses and no labels."""
        if self._task == "losses":
            return self._losses(self._seen, placed(batch, device_of(self._model))), None
        return self._forward(self._seen, batch)

    def _hold_alone(self, values: Tensor, batch: Any, others: Any, positions: Tensor) -> None:
        """Warn, once, where what the clean pass gives of an example is not its own."""
        self._alone = True

        def again(some: Any) -> Tensor:
            # Nothing that it draws or counts reaches the pass.
            with evaluating(self._seen), untouched_generators(device_of(self._model)):
                return self._clean_values(copied(some))[0]

        doubt = doubt_of(values, again, batch, others, self.recorder.ids, positions)
        if doubt and self._writes:
            warnings.warn(f"{self.recorder.paths.folder}: {doubt}", stacklevel=6)

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
            self._doubles.hold(self.recorder.epoch_labels, f"Epoch {index}", device_of(self._model))
            self._doubles = None
        self._rows.rest(self._loader)
        content, noted = self._watcher.stored(self._model, self.recorder.epoch_labels, not index)
        if rates is not None:
            content = {**content, SAVED_RATES: torch.tensor(rates, dtype=torch.float64)}
        tensors, note = pack({"model": self._model.state_dict()})
        assert self._writer is not None
        self._writer.commit(tensors, {"state": note}, (content, noted))

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
            where = f"Epoch {self.epochs}, at its commit"
            state = self._packed(where) if self._parts.sharded else None
            take = functools.partial(self._commit_together, state)
            self._processes.exchange(where, lambda: self.recorder.validation_sums, take)
            if isinstance(self.recorder, PartRecorder):
                self.recorder.committed()

    def _packed(self, where: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The state to keep and its notes; None where none is kept, or another process keeps it, which is given the parts of the model that are here."""
        if not self._parts.sharded:
            if self._writer is None or not self._writer.keeps_checkpoints:
                return None
            tensors, note = pack(self._parts.state())
            return tensors, {"state": note}
        if self.recorder.header.checkpoints == "none":
            return None
        gather = functools.partial(self._parts.state, self._writes)
        state = gather() if self._processes is None else self._processes.collective(where, gather)
        if not self._writes:
            return None
        tensors, note = pack(state)
        return tensors, {"state": note, SHARDED: KIND}

    def _commit(self, state: tuple[dict[str, Tensor], dict[str, str]] | None = None) -> None:
        content = self._watcher.stored(self._model, self.recorder.epoch_labels, not self.epochs)
        tensors, notes = state or self._packed(f"Epoch {self.epochs}, at its commit") or (None, None)
        assert self._writer is not None
        self._writer.commit(tensors, notes, content)
        self._steps_before = self._steps.index

    def _commit_together(
        self, state: tuple[dict[str, Tensor], dict[str, str]] | None, validated: list[tuple[Tensor, Tensor] | None]
    ) -> None:
        """Commit the epoch with the validation examples of all processes."""
        sums = [both for both in validated if both is not None]
        if sums:
            self.recorder.validation_sums = (sum(total for total, _ in sums), sum(count for _, count in sums))  # type: ignore[assignment]
        self._commit(state)

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
        if self._silent is not None:
            self._silent()
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
        if error is not None and (broken := self.broken_by(error)) is not None:
            raise broken from error

    def broken_by(self, error: BaseException) -> RunError | None:
        """What an error that ends the training says where another process of it is gone; None for any other error."""
        if self._processes is None or not disconnected(error):
            return None
        return self._processes.broken(f"epoch {self.epochs}", error)


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
    return logits_alone(model(inputs.to(device_of(model)))), labels
