"""The recorder in a plain PyTorch loop: `record` wraps the loader so that ids travel with every batch (see `keyed`)."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.errors import Mismatch, MissingEvidence, UsageError, some
from ..core.ids import Ids
from ..core.method import AbstractMethod
from ..core.scores import Scores, ordered
from ..methods import parse
from ..runs.packing import pack, unpack
from ..runs.recorder import Checkpoints, Recorder
from ..runs.run import Run
from ..runs.schema import View
from ..training.functional import Losses, cross_entropies
from ..training.live import LiveSteps
from .keyed import KeyedBatch, KeyedDataset, check_loader, ids_of, keyed_copy
from .loop import seed_loop, untouched_generators


class Stateful(Protocol):
    """Anything with a state to save beside model and optimizer: a scheduler, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take up what was saved."""
        ...


@checked_arguments
def record(
    folder: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    loader: DataLoader,
    *,
    seed: int | None = None,
    view: View = "train",
    keep_logits: bool = False,
    mean_probs: bool = True,
    checkpoints: Checkpoints = "last",
    live: Sequence[str | AbstractMethod] = (),
    losses: Losses = cross_entropies,
    ids: Ids | Sequence[int] | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    clean: Dataset | None = None,
    forward: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None = None,
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
        model: Saved in the checkpoints; run in eval mode by `view="eval"`. Not changed.
        optimizer: Its learning rates are recorded, its state saved in the checkpoints.
        loader: The loop's DataLoader over a map-style dataset.
        seed: If given, torch, NumPy, `random` and the torch generators of the loader and its samplers are seeded from (seed, epoch)
            before each epoch, and workers start anew with each, so that an epoch's order, augmentation and dropout can be repeated
            and a run resumed bit for bit (with `in_order=False` the order of the batches still depends on the workers' speed).
            If None, no generator is touched.
        view: `"train"` records the logits of the training pass, free of cost, augmented, in train mode. `"eval"` runs a clean pass
            over all examples after each epoch.
        keep_logits: Store every epoch's logits, for methods such as TDDS that are to be scored later.
        mean_probs: Store the sum of the probabilities over epochs, for relabelling.
        checkpoints: Model and optimizer at epoch ends, as the next epoch finds them: `"every"`, `"last"`, `"none"`, or a list of
            epochs (the newest stays too, to resume from).
        live: Methods to run along: folds over epochs, whose scores need no stored logits, and folds over steps, such as `liveval`.
        losses: For methods that run along with the steps: `losses(model, batch)`, the loss of each example; cross-entropy of a batch
            `(inputs, labels)` by default.
        ids: Ids by position in the loader's dataset, instead of `ids_of(dataset)`.
        class_names: One name per output of the model.
        clean: For `view="eval"`: a dataset of the same examples in the same order without augmentation; the loader's own by default.
        forward: For `view="eval"`: `forward(model, batch) -> (logits, labels)`, where a batch is not `(inputs, labels)`.
        stateful: More objects to save and load with the checkpoints, such as `{"scheduler": scheduler}`. Step a scheduler where
            you like, also between epochs: an epoch is committed when the next one begins or the block ends.
        about: What is being trained, in words, for the report.
        resume: Go on with the run in `folder`, if there is one: model, optimizer and `stateful` are set to its last epoch.
            Loop over `range(recorder.epochs, total)`.

    Raises:
        UsageError: Ids cannot be captured from this loader, or a setting is outside its range.
        OutputExists: `folder` holds a run and `resume` is false.
        Mismatch: The run to resume has other examples or settings.
        RunLocked: Another process writes this run.
        NotWritten: The operating system refuses.
    """
    check_loader(loader)
    dataset = loader.dataset
    whole = ids_of(dataset) if ids is None else ids if isinstance(ids, Ids) else Ids(ids)
    size = len(dataset)  # type: ignore[arg-type]
    if len(whole) != size:
        raise UsageError(f"{len(whole)} ids were given for a dataset of {size} examples.")
    chosen = np.arange(size)
    if isinstance(loader.sampler, SubsetRandomSampler):
        chosen = np.asarray(loader.sampler.indices, dtype=np.int64)
    if view == "train":
        check_visits_all(loader, len(chosen))
    if clean is not None and view != "eval":
        raise UsageError("clean= is read by view='eval' only; leave it out, or record with view='eval'.")
    if forward is not None and view != "eval":
        raise UsageError("forward= is called by view='eval' only; leave it out, or record with view='eval'.")
    if clean is not None and len(ids_of(clean)) != size:
        raise Mismatch(
            f"clean= and the loader's dataset ({size} examples) differ in length; give the same examples in the same order."
        )
    if resume and checkpoints == "none":
        raise UsageError("A run without checkpoints cannot be resumed; record with checkpoints='last'.")
    methods = tuple(parse(method) for method in live)
    recorder = Recorder(
        folder,
        whole.take(chosen),
        view=view,
        keep_logits=keep_logits,
        mean_probs=mean_probs,
        checkpoints=checkpoints,
        live=methods,
        class_names=class_names,
        seed=seed,
        device=str(_device_of(model)),
        about=about,
        resume=resume,
        code=__version__,
    )
    try:
        loop = LoopRecorder(
            recorder, model, optimizer, loader, chosen, clean if clean is not None else dataset, forward, stateful or {}, losses
        )
        if recorder.epochs:
            loop.restore(Run(folder))
    except BaseException:
        recorder.close()
        raise
    return loop


def check_visits_all(loader: DataLoader, examples: int) -> None:
    """Refuse loaders of which it is plain that an epoch does not visit every example.

    Raises:
        UsageError: Dropped last batch, or a sampler of another length.
    """
    ways = "record with view='eval', which passes over every example after each epoch"
    if getattr(loader.sampler, "replacement", False):
        raise UsageError(
            f"{type(loader.sampler).__name__} draws with replacement, so an epoch does not visit each example once; {ways}."
        )
    if loader.drop_last and loader.batch_size and examples % loader.batch_size:
        raise UsageError(
            f"drop_last=True leaves {examples % loader.batch_size} of {examples} examples out of every epoch; set drop_last=False, or {ways}."
        )
    try:
        drawn = len(loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return
    if loader.batch_size is not None and drawn != examples:
        raise UsageError(
            f"The sampler draws {drawn} times per epoch from {examples} examples, so not each once; wrap the dataset in a Subset of those "
            f"to train on, or {ways}."
        )


class LoopRecorder:
    """A recorder attached to one loop. Made by `record`.

    Attributes:
        recorder: What writes the run.
    """

    def __init__(
        self,
        recorder: Recorder,
        model: nn.Module,
        optimizer: Optimizer,
        loader: DataLoader,
        chosen: np.ndarray,
        clean: Any,
        forward: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None,
        stateful: Mapping[str, Stateful],
        losses: Losses = cross_entropies,
    ):
        self.recorder = recorder
        self._steps = LiveSteps(model, losses, sum(commit.steps for commit in recorder.commits))
        recorder.functional = self._steps.functional
        self._model, self._optimizer, self._clean = model, optimizer, clean
        self._forward = forward if forward is not None else forward_pair
        self._stateful = dict(stateful)
        self._place = np.full(len(loader.dataset), -1, dtype=np.int64)  # type: ignore[arg-type]
        self._place[chosen] = np.arange(len(chosen))
        self._chosen = chosen
        self._loader = keyed_copy(loader, lasting_workers=recorder.header.seed is None)
        self._pending: Tensor | None = None
        self._batches_begun = 0
        self._rates: list[list[float]] = []
        self._watch = optimizer.register_step_pre_hook(self._stepping)
        self._open = self._whole = False
        if recorder.header.checkpoints != "none":
            # What cannot be saved is better known before the first epoch than after it.
            pack(self._state())

    def live(self, method: str | AbstractMethod) -> "Live":
        """One more method to run along, such as `"liveval"` or `"dual"`; what it says so far can be asked at any time.

        Call it before the first epoch, and again so when a run is resumed.

        Raises:
            UnknownName: No such method or option.
            UsageError: It cannot run along, or training has begun.
        """
        made = parse(method)
        if made.title not in {one.title for one in self.recorder.live}:
            self.recorder.add_live(made)
        return Live(self.recorder, made.title)

    def _walk(self, epoch: int, positions: Tensor, batch: Any, by_group: Sequence[float]) -> None:
        """Show the step just taken to the methods that read steps. Nothing that they do reaches the training."""
        device = _device_of(self._model)
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        rates = dict.fromkeys(self._steps.functional.names, 0.0)
        for rate, group in zip(by_group, self._optimizer.param_groups, strict=True):
            rates |= {names[id(parameter)]: rate for parameter in group["params"] if names.get(id(parameter)) in rates}
        placed = pytree.tree_map(lambda part: part.to(device) if isinstance(part, Tensor) else part, batch)
        with untouched_generators(device):
            self.recorder.absorb(self._steps.after(epoch, positions, placed, rates))

    def _check_moved(self, epoch: int) -> None:
        if len(self._rates) != 1:
            titles = ", ".join(method.title for method in self.recorder.walks)
            raise UsageError(
                f"Epoch {epoch}, batch {self._batches_begun - 1}: the optimizer moved {len(self._rates)} times, not once, and {titles} values "
                "single steps; leave it out of live=, or step once per batch."
            )

    def _stepping(self, optimizer: Optimizer, *_: Any) -> None:
        self._rates.append([float(group["lr"]) for group in optimizer.param_groups])

    @property
    def epochs(self) -> int:
        """How many epochs are committed."""
        return self.recorder.epochs

    def epoch(self) -> Iterator[Any]:
        """The batches of one epoch, as the loader gives them.

        The epoch is committed when the next one begins or the block ends: with the state that the next one starts from, so that
        nothing done in between, such as a scheduler's step, is lost to a run that is resumed.

        Raises:
            UsageError: The epoch before was left early, a batch was not recorded, the sampler gives no positions, or the optimizer did
                not move once per batch while methods that read steps run along.
            NumericalError: A logit is NaN or infinite.
            NotWritten: The operating system refuses; the epochs before are intact.
        """
        self._settle()
        if not self.epochs and self.recorder.keeps_checkpoints:
            tensors, note = pack(self._state())
            self.recorder.start(tensors, {"state": note})
        index = self.recorder.begin()
        seed_loop(self.recorder.header.seed, index, self._loader)
        self._open, self._batches_begun, self._pending = True, 0, None
        for fetched in self._loader:
            if not isinstance(fetched, KeyedBatch):
                raise UsageError(
                    f"{type(self._loader).__name__}.__iter__ changes its batches, so ids cannot travel with them; "
                    "change them in collate_fn or in the loop."
                )
            batch = fetched.batch
            positions = self._positions(fetched.keys)
            self._rates = []
            self._pending = positions if self.recorder.header.view == "train" else None
            self._batches_begun += 1
            if self.recorder.walks:
                self._steps.before()
            yield batch
            if self._pending is not None:
                raise UsageError(
                    f"Batch {self._batches_begun - 1} of epoch {index} was not recorded; call recorder.batch(logits, labels) in every step."
                )
            # A loop may set the rate before its step and a scheduler change it after, so what counts is the rate in the step.
            rates = self._rates[-1] if self._rates else [group["lr"] for group in self._optimizer.param_groups]
            self.recorder.step(positions, rates, updates=len(self._rates))
            if self.recorder.walks:
                self._check_moved(index)
                self._walk(index, positions, batch, rates)
        if self.recorder.header.view == "eval":
            self._observe_clean()
        self.recorder.complete()
        self._open, self._whole = False, True

    def batch(self, logits: Tensor, labels: Tensor) -> None:
        """What the model said of the batch just trained on. Not needed with `view="eval"`, where it only checks the call.

        Args:
            logits: (batch, classes), of the forward pass before the update.
            labels: (batch,), the given classes.

        Raises:
            UsageError: Called outside `epoch()` or twice for a batch, or shapes do not fit.
        """
        if not self._open:
            raise UsageError("recorder.batch was called outside recorder.epoch(); loop over `for x, y in recorder.epoch():`.")
        if self.recorder.header.view == "eval":
            return
        if self._pending is None:
            raise UsageError(
                f"Batch {self._batches_begun - 1} of epoch {self.epochs} was recorded twice; call recorder.batch once."
            )
        self.recorder.observe(self._pending, logits, labels)
        self._pending = None

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
                f"The sampler gives {some(strange, len(strange))}, which are not positions of the recorded examples."
            )
        return torch.from_numpy(place)

    def _observe_clean(self) -> None:
        loader = self._loader
        pool = DataLoader(
            KeyedDataset(self._clean),
            batch_sampler=[self._chosen[at : at + 512].tolist() for at in range(0, len(self._chosen), 512)],
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator(),
        )
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        try:
            with untouched_generators(_device_of(self._model)), torch.no_grad():
                for keys, batch in pool:
                    logits, labels = self._forward(self._model, batch)
                    self.recorder.observe(self._positions(keys), logits, labels)
        finally:
            for module, mode in modes:
                module.training = mode

    def _state(self) -> dict[str, Any]:
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            **{f"also {name}": part.state_dict() for name, part in self._stateful.items()},
        }

    def restore(self, run: Run) -> None:
        """Set model, optimizer and the other stateful objects to the end of the last committed epoch.

        Raises:
            RunError: That epoch kept no checkpoint.
            Mismatch: The checkpoint is of another model or optimizer.
        """
        file = run.checkpoint(run.epochs - 1)
        if "state" not in file.notes:
            raise Mismatch(f"{run.folder} was not recorded by a loop like this one; resume it with `assay record --resume`.")
        state = unpack(file.read_all(), file.notes["state"])
        if missing := {f"also {name}" for name in self._stateful} - state.keys():
            raise Mismatch(f"The checkpoint of {run.folder} holds no {', '.join(sorted(missing))}; resume as it was begun.")
        try:
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            for name, part in self._stateful.items():
                part.load_state_dict(state[f"also {name}"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise Mismatch(f"The checkpoint of {run.folder} is of another model or optimizer: {error}") from error

    def _settle(self) -> None:
        """Commit the epoch before, with the state that is there now."""
        if self._open:
            raise UsageError(
                f"Epoch {self.epochs} was left after {self._batches_begun} batches and is not recorded; use every batch of "
                "recorder.epoch(), or record with a loader that is as short as the epochs you want."
            )
        if self._whole:
            if self.recorder.keeps_checkpoints:
                tensors, note = pack(self._state())
                self.recorder.commit(tensors, {"state": note})
            else:
                self.recorder.commit()
            self._whole = False

    def __enter__(self) -> "LoopRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After an error nobody knows whether the work between two epochs was done; the resumed run does it again.
        try:
            if kind is None:
                self._settle()
        finally:
            self._watch.remove()
            self.recorder.close()


class Live:
    """What a method that runs along says so far."""

    def __init__(self, recorder: Recorder, title: str):
        self._recorder, self.title = recorder, title

    def scores(self) -> Scores:
        """One number per example by now.

        Raises:
            MissingEvidence: It has seen too little yet.
        """
        for scores in self._recorder.live_scores():
            if scores.title == self.title and len(scores):
                return scores
        raise MissingEvidence(f"{self.title} has not seen enough yet; let training go on.")

    def worst(self, count: int = 10) -> list[tuple[Any, float]]:
        """Ids and values of the most harmful, most suspect or hardest examples by now, the first one first."""
        scores = self.scores()
        places = ordered(scores.hardness(), scores.ids, descending=True)[:count].tolist()
        return [(scores.ids.values[place], float(scores.values[place])) for place in places]

    def __str__(self) -> str:
        return "\n".join([f"{self.title}: first ids by now", *(f"  {name!s:>12}  {value: .4g}" for name, value in self.worst())])


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def forward_pair(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """The forward pass of a batch `(inputs, labels)`.

    Raises:
        UsageError: The batch is something else.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise UsageError(
            "The clean pass got a batch that is not (inputs, labels); give forward=... that returns (logits, labels)."
        )
    inputs, labels = batch
    return model(inputs.to(_device_of(model))), labels
