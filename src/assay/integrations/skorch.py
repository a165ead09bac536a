"""The recorder in skorch, as a callback."""

import contextlib
import copy
import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..core.accumulators import AbstractStepMethod
from ..core.arguments import checked_arguments
from ..core.errors import UsageError
from ..core.ids import Ids
from ..methods import parse
from ..replay.keyed import KeyedBatch, behind_subsets, check_loader, keyed_copy
from ..replay.losses import Losses, cross_entropies, pair
from ..runs.recording import Recording
from ..runs.run import AGAIN, Run
from ..training.batches import placed
from .batch_keys import logits_of
from .continuing import Asked, end_of
from .data_spec import DataSpec
from .loop_recorder import LoopRecorder
from .loop_state import ends_alike
from .model_losses import losses_of_step
from .pytorch import record
from .versions import unknown_version

try:
    from skorch.callbacks import Callback
except ImportError:
    Callback = object

CURE = "let the net train on every batch of an epoch"
GO_ON = "Recorder(..., resume=True), or by loading a checkpoint of its last epoch that has a history (LoadInitState)"
EVAL = "record with assay.Recording(view='eval') and data=assay.DataSpec(forward=...), a function that returns (logits, labels)"
OWN = "give data=assay.DataSpec(task='losses', losses=...), a function (model, batch) that returns the loss of each example"
SAME_RATE = 1e-5
"""How far rates may differ, relative to each other, to be the same: recorded ones are in single precision."""


@dataclasses.dataclass(frozen=True)
class NetForward:
    """Logits and labels of a batch as a net of skorch has them.

    Attributes:
        gives: What the module returns: `logits` (or log probabilities), `probabilities` whose logarithm the net takes, `binary`, one logit, or
            `probability`, that of class 1.
    """

    gives: str

    def logits(self, outputs: Any) -> Tensor:
        """Class logits of what the module returned."""
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        if not isinstance(first, Tensor):
            found = logits_of(first)
            if found is None:
                raise UsageError(
                    f"The net's module returns a {type(first).__name__} without logits; let it return the logits, first in a tuple or named logits, or {EVAL}."
                )
            first = found
        if self.gives == "probabilities":
            # As NeuralNetClassifier.get_loss does it.
            return torch.log(first + torch.finfo(first.dtype).eps)
        if self.gives == "binary":
            # One logit z is exactly the two-class form (0, z).
            z = first.reshape(len(first), 1)
            return torch.cat([torch.zeros_like(z), z], 1)
        if self.gives == "probability":
            # As BCELoss does it.
            p = first.reshape(len(first), 1)
            return torch.cat([torch.log1p(-p), torch.log(p)], 1).clamp(min=-100)
        return first

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, labels = pair(batch)
        device = next((part.device for part in model.parameters()), inputs.device)
        return self.logits(model(inputs.to(device))), self.labels(labels).to(device)

    def labels(self, labels: Tensor) -> Tensor:
        """Classes of the targets that the net was given."""
        return labels.reshape(len(labels)).long() if self.gives in ("binary", "probability") else labels


@dataclasses.dataclass(frozen=True)
class NetLosses:
    """The loss of each example of a batch, in nats.

    Attributes:
        forward: Gives logits and labels.
    """

    forward: NetForward

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        logits, labels = self.forward(model, batch)
        if self.forward.gives in ("probabilities", "probability"):
            return F.nll_loss(logits, labels, reduction="none")
        return F.cross_entropy(logits, labels, reduction="none")


@dataclasses.dataclass(frozen=True)
class CriterionLosses:
    """The loss of each example, as a criterion of torch has it before it takes mean or sum over the batch.

    Attributes:
        criterion: With `reduction` "mean" or "sum".
    """

    criterion: nn.Module

    def of(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of each example, of what the module returned."""
        alone = copy.copy(self.criterion)
        alone.reduction = "none"  # type: ignore[assignment]  # a criterion's own attribute
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        values = alone(first, targets.to(first.device))
        if values.shape[:1] != targets.shape[:1]:
            raise UsageError(
                f"{type(self.criterion).__name__} gives values of shape {tuple(values.shape)} for {len(targets)} examples; {OWN}."
            )
        values = values.reshape(len(values), -1)
        return values.mean(1) if self.criterion.reduction == "mean" else values.sum(1)

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = pair(batch)
        device = next((part.device for part in model.parameters()), inputs.device)
        return self.of(model(inputs.to(device)), targets)


class KeyedIterator:
    """The kind of iterator that a net trains on, which gives its batches' keys to a recorder; as it was where nothing is recorded."""

    def __init__(self, original: Any, net: Any, recorder: "Recorder"):
        self.original, self._net, self._recorder = original, net, recorder

    def __call__(self, dataset: Any, **kwargs: Any) -> Any:
        loader = self.original(dataset, **kwargs)
        return self._recorder._opened(self._net, loader) if self._recorder.waits_ else loader


class Handed:
    """The batches of a keyed loader without their keys, which the recorder is told of just before."""

    def __init__(self, keyed: DataLoader, recorder: "Recorder"):
        self._keyed, self._recorder = keyed, recorder

    def __len__(self) -> int:
        return len(self._keyed)

    def __getattr__(self, name: str) -> Any:
        if name == "_keyed":
            raise AttributeError(name)
        return getattr(self._keyed, name)

    def __iter__(self) -> Iterator[Any]:
        for fetched in self._keyed:
            if not isinstance(fetched, KeyedBatch):
                raise UsageError(
                    f"{type(self._keyed).__name__}.__iter__ changes its batches, so ids cannot travel with them; change them in collate_fn."
                )
            self._recorder.fetched_ = fetched
            yield fetched.batch


class Recorder(Callback):  # type: ignore[misc, unused-ignore]
    """The recorder as a callback of skorch: `NeuralNetClassifier(..., callbacks=[assay.skorch.Recorder("runs/mine")])`.

    Module, data and criterion stay as they are, and without `seed` the training ends with the weights that it would end with. Ids are positions in `X`,
    also where `train_split` keeps a part of it for validation: the run then holds the rest. Probabilities, as a `NeuralNetClassifier` with its own
    criterion gives them, are recorded as their logarithms; one logit of a `NeuralNetBinaryClassifier` as the two-class form (0, z). Of a
    `NeuralNetRegressor` the loss of each example is recorded, by its criterion or by `DataSpec(losses=...)`; of a net with several labels of 0 and 1 for
    each example, what `DataSpec(task="labels")` asks for.

    Args:
        folder: Where the run is written; new or empty, unless `resume`.
        recording: What is kept, as for `assay.record`.
        data: Facts about examples and batches; `ids` name the rows of `X`.
        seed: If given, all generators are seeded from (seed, epoch) before each epoch, so that the training can be taken again. If None, none is touched.
        about: Description of what is trained, for the report.
        resume: Go on with the run in `folder`, if there is one: module and optimizer are set to its last epoch. Not needed where the net goes on by
            itself from the end of that epoch: by `partial_fit`, or from a checkpoint that `LoadInitState` or `load_params` loads, with its history.

    Raises:
        UsageError: skorch is not installed, or an argument is of a wrong kind. While it trains: ids or logits cannot be captured.
    """

    @checked_arguments
    def __init__(
        self,
        folder: str | Path,
        recording: Recording | None = None,
        data: DataSpec | None = None,
        seed: int | None = None,
        about: Mapping[str, object] | None = None,
        resume: bool = False,
    ):
        if Callback is object:
            raise UsageError("assay.skorch.Recorder needs the package skorch; install it by `pip install 'assay[skorch]'`.")
        # skorch copies a callback by its attributes; those that end in an underscore are not copied.
        self.folder, self.recording, self.data, self.seed, self.about, self.resume = folder, recording, data, seed, about, resume
        self.recorder_: LoopRecorder | None = None
        self.fetched_: KeyedBatch | None = None
        self.losses_: Losses | None = None
        self.waits_ = False

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **more: Any) -> None:
        """Look into the iterator of the fit that begins."""
        self._leave(net)
        if sum(isinstance(callback, Recorder) for _, callback in net.callbacks_) > 1:
            raise UsageError("This net has several recorders among its callbacks; leave one.")
        Asked(Path(self.folder), self.recording or Recording(), self.data or DataSpec(), self.seed, self.about)
        net.iterator_train = KeyedIterator(net.iterator_train, net, self)
        self.waits_ = True

    def _opened(self, net: Any, loader: Any) -> Handed:
        self.waits_ = False
        check_loader(loader)
        recording, forward = self.recording or Recording(), NetForward(_gives(net))
        data = self.data or DataSpec()
        own = data.losses is not cross_entropies
        if data.task is None and (own or data.forward is None) and _regresses(net):
            data = dataclasses.replace(data, task="losses")
        _check_net(net, recording, data)
        self.losses_ = None
        if data.task == "losses":
            self.losses_ = data.losses if own else _criterion_losses(net)
            data = dataclasses.replace(data, losses=self.losses_)
        elif not own and data.forward is None and (data.task == "labels" or _plain_loss(net)):
            data = dataclasses.replace(data, losses=_criterion_losses(net) if data.task == "labels" else NetLosses(forward))
        if data.forward is None and data.task != "losses" and recording.view == "eval":
            data = dataclasses.replace(data, forward=forward)
        if data.ids is not None:
            whole, places = behind_subsets(loader.dataset, torch.arange(len(loader.dataset)).numpy())
            ids = data.ids if isinstance(data.ids, Ids) else Ids(data.ids)
            if len(ids) == len(whole):
                data = dataclasses.replace(data, ids=ids.take(places))
        # A net that was initialized names its optimizers there.
        if not getattr(net, "_optimizers", None):
            raise unknown_version("skorch", f"no _optimizers in {type(net).__name__}")
        optimizers = [getattr(net, f"{name}_") for name in net._optimizers]
        optimizer = optimizers[0] if len(optimizers) == 1 else optimizers
        about = {**(self.about or {}), AGAIN: _again(net, loader, own)}
        # By now a callback has loaded what it loads when a training begins.
        went = len(net.history)
        if self.resume:
            self._set_back(net, went)
            self.recorder_ = record(
                self.folder, net.module_, optimizer, loader, recording, data=data, seed=self.seed, about=about, resume=True
            )
        else:
            asked = Asked(Path(self.folder), recording, data, self.seed, about)
            self.recorder_ = asked.begin(net.module_, optimizer, loader, went=went, way=GO_ON)
        if went and self.recorder_.epochs == went:
            self._tell_of_schedules(net, went)
        if not own:
            self.recorder_.recorder.smoothing = float(getattr(net.criterion_, "label_smoothing", 0.0))
        keyed = keyed_copy(loader, lasting_workers=self.seed is None)
        self.recorder_.keyed(keyed)
        return Handed(keyed, self)

    def _set_back(self, net: Any, went: int) -> None:
        """Say what of a net is not as it was at the end of the run's last epoch, to which its module and optimizer are set back.

        Warns:
            UserWarning: Other weights, or the place in a schedule, are lost.
        """
        if (kept := end_of(Path(self.folder))) is None:
            return
        if went and not ends_alike(kept, net.module_):
            warnings.warn(
                f"Recorder(..., resume=True) set the net back to the end of the last epoch in {self.folder}, from other weights that it had learnt or loaded; to "
                "go on from a checkpoint of skorch, leave resume= out and load the one of that epoch.",
                stacklevel=2,
            )
        kinds = {kind.__name__ for _, callback in net.callbacks_ for kind in type(callback).__mro__}
        if not went and "LRScheduler" in kinds:
            warnings.warn(
                f"The schedule of LRScheduler begins anew, because the net has no history of the epochs in {self.folder}; to go on with it, leave resume= out and "
                "load a checkpoint of skorch that has the history.",
                stacklevel=2,
            )

    def _tell_of_schedules(self, net: Any, went: int) -> None:
        """Say where a schedule does not go on as in a training that nobody interrupted: skorch makes it anew, and its checkpoints hold nothing of it but the rate."""
        for _, callback in net.callbacks_:
            if "LRScheduler" in {kind.__name__ for kind in type(callback).__mro__} and (
                doubt := self._doubt_of(net, callback, went)
            ):
                warnings.warn(
                    f"{self.folder}: what is recorded from epoch {went} on is a training with another schedule than one that was not interrupted. {doubt}",
                    stacklevel=2,
                )

    def _doubt_of(self, net: Any, callback: Any, went: int) -> str:
        schedule, by_batch = callback.lr_scheduler_, getattr(callback, "step_every", "epoch") == "batch"
        name = type(schedule).__name__
        if name == "ReduceLROnPlateau":
            return f"{name} counts anew since when nothing has become better, which no checkpoint of skorch holds; take a policy that goes by the epoch."
        taken, at = getattr(callback, "batch_idx_", went) if by_batch else went, getattr(schedule, "last_epoch", None)
        if at is not None and at != taken:
            return f"{name} goes on after {at} of its {taken} steps, because skorch counts epochs; give LRScheduler(..., last_epoch={taken - 1}) when you go on."
        group, rates = net.optimizer_.param_groups[0], []
        # What a policy asks of an optimizer, that of the simulation may lack.
        with contextlib.suppress(Exception):
            rates = list(callback.simulate(taken + 1, group["initial_lr"]))
        recorded = float(Run(self.folder).shard(went - 1).read("rates")[-1, 0]) if rates else 0.0
        # Where somebody else moves the rate too, nobody knows what it would be.
        if (
            not rates
            or not math.isclose(recorded, rates[-2], rel_tol=SAME_RATE)
            or math.isclose(group["lr"], rates[-1], rel_tol=SAME_RATE)
        ):
            return ""
        return (
            f"{name} goes on with a rate of {group['lr']:.6g}, which would be {rates[-1]:.6g}, because skorch makes it anew on the rate that the "
            "checkpoint holds; put Checkpoint on the other side of LRScheduler among the callbacks, or take a policy whose rate is a function of the epoch (LambdaLR)."
        )

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **more: Any) -> None:
        """Begin an epoch."""
        if self.recorder_ is not None:
            self.recorder_.begin_epoch()

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool | None = None, **more: Any) -> None:
        """Begin a batch."""
        if training and self.recorder_ is not None and self.fetched_ is not None:
            self.recorder_.begin_batch(self.fetched_)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool | None = None, **more: Any) -> None:
        """Record the batch's logits and labels."""
        if training and self.recorder_ is not None and self.fetched_ is not None:
            forward, self.fetched_ = NetForward(_gives(net)), None
            if self.losses_ is not None:
                if (self.recording or Recording()).view == "train":
                    self.recorder_.losses(self._values(net, more["y_pred"], batch))
                return
            labels = forward.labels(torch.as_tensor(batch[1]))
            # A clean pass holds the labels alone against the batch.
            clean = (self.recording or Recording()).view == "eval"
            self.recorder_.batch(labels if clean else forward.logits(more["y_pred"]), labels)

    def _values(self, net: Any, outputs: Any, batch: Any) -> Tensor:
        if isinstance(self.losses_, CriterionLosses):
            with torch.no_grad():
                return self.losses_.of(outputs, torch.as_tensor(batch[1]))
        assert self.losses_ is not None  # whoever calls has looked
        return losses_of_step(self.losses_, net.module_, outputs, placed(batch, torch.device(net.device)))

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **more: Any) -> None:
        """End and commit the epoch."""
        if self.recorder_ is not None:
            if self.fetched_ is not None:
                raise UsageError(
                    f"{type(net).__name__} trains on batches of which it tells no callback, so they cannot be recorded; let its run_single_epoch call "
                    "self.notify('on_batch_begin', ...) and self.notify('on_batch_end', ...), as that of skorch does."
                )
            # Now, because another callback may load the best weights when the training ends.
            self.recorder_.end_epoch(CURE)

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **more: Any) -> None:
        """End the recording."""
        recorder, self.recorder_ = self.recorder_, None
        self._leave(net)
        if recorder is not None:
            recorder.close()

    def _leave(self, net: Any) -> None:
        """Give up what an error left open, and take everything out of the net again."""
        self.waits_, self.fetched_ = False, None
        if isinstance(net.iterator_train, KeyedIterator):
            net.iterator_train = net.iterator_train.original
        if self.recorder_ is not None:
            recorder, self.recorder_ = self.recorder_, None
            recorder.__exit__(RuntimeError, None, None)


def _regresses(net: Any) -> bool:
    kinds = {kind.__name__ for kind in type(net).__mro__}
    return "NeuralNetRegressor" in kinds and not isinstance(net.criterion_, (nn.CrossEntropyLoss, nn.NLLLoss))


def _criterion_losses(net: Any) -> CriterionLosses:
    criterion = net.criterion_
    # A criterion of somebody's own may read its reduction elsewhere.
    known = type(criterion).__module__ == "torch.nn.modules.loss" and getattr(criterion, "reduction", None) in ("mean", "sum")
    overridden = not type(net).get_loss.__module__.startswith("skorch.")
    if not known or overridden or getattr(criterion, "weight", None) is not None:
        who = f"get_loss of {type(net).__name__}" if overridden else type(criterion).__name__
        raise UsageError(f"{who} does not tell the loss of each example; {OWN}.")
    return CriterionLosses(criterion)


def _gives(net: Any) -> str:
    """What a net's module returns; see `NetForward`."""
    kinds = {kind.__name__ for kind in type(net).__mro__}
    if "NeuralNetBinaryClassifier" in kinds:
        return "probability" if isinstance(net.criterion_, nn.BCELoss) else "binary"
    return "probabilities" if "NeuralNetClassifier" in kinds and isinstance(net.criterion_, nn.NLLLoss) else "logits"


def _plain_loss(net: Any) -> bool:
    """Whether a net trains on the mean cross-entropy of what its module returns."""
    kind = {"probabilities": nn.NLLLoss, "binary": nn.BCEWithLogitsLoss, "probability": nn.BCELoss, "logits": nn.CrossEntropyLoss}
    criterion = net.criterion_
    weights = [getattr(criterion, name, None) for name in ("weight", "pos_weight")]
    return (
        type(criterion) is kind[_gives(net)]
        and all(weight is None for weight in weights)
        and not getattr(criterion, "label_smoothing", 0.0)
        and getattr(criterion, "reduction", "") == "mean"
        and (getattr(type(net).get_loss, "__module__", "") or "").split(".")[0] == "skorch"
    )


def _again(net: Any, loader: DataLoader, own: bool) -> str:
    """How the training of a net is taken again, as Python; with losses of the user's own where they are needed."""
    data = "net.get_dataset(X, y)" if not isinstance(loader.dataset, Subset) else "net.get_split_datasets(X, y)[0]"
    needed = own or _gives(net) != "logits" or not _plain_loss(net)
    held = [f"net.{name}_" for name in net._optimizers]
    taken = held[0] if len(held) == 1 else f"[{', '.join(held)}]"
    return f"assay.Loop(net.module_, {taken}, net.get_iterator({data}, training=True){', losses=losses' if needed else ''})"


def _check_net(net: Any, recording: Recording, data: DataSpec) -> None:
    """Refuse values of steps whose loss is not known.

    Raises:
        UsageError: They are asked for.
    """
    if data.task in (None, "classes") and data.losses is cross_entropies and data.forward is None and not _plain_loss(net):
        steps = [str(method) for method in recording.live if isinstance(parse(method), AbstractStepMethod)]
        if steps:
            raise UsageError(
                f"{type(net).__name__} trains on another loss ({type(net.criterion_).__name__}) than the mean cross-entropy, and {', '.join(steps)} values its "
                f"steps; give the loss of each example as data=assay.DataSpec(losses=...), or leave {', '.join(steps)} out of Recording(live=...)."
            )
