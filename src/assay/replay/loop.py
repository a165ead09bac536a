"""A description of a user's own loop, with which a run recorded in the loop can be repeated step by step."""

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from ..core.arguments import checked_fields
from ..core.errors import AssayError, Mismatch, MissingEvidence, UsageError, listed
from ..core.ids import Ids
from ..maths import draws
from ..maths.trajectories import Update
from ..runs.content import OPENED, leaves_of
from ..runs.packing import unpack
from ..runs.run import Run
from ..training.batches import MicroBatches, parts_of, placed, size_of, tensors
from ..training.device import random_layers
from ..training.step import batch_loss, trainable
from ..training.wrappers import names_inside, unwrapped, wrapped_alike
from .division import Accumulate, Division, Reduction
from .functional import Functional
from .generators import loader_generators, seed_all, seed_loop, untouched_generators
from .joined import name_of
from .keyed import KeyedBatch, check_loader, ids_of, keyed_copy
from .losses import (
    Forward,
    Losses,
    WeightedLosses,
    cross_entropies,
    cross_entropies_of,
    forward_pair,
)
from .reduction import check_reduction
from .replayable import ReplayableTraining, copied, over
from .wrapped import HoldsOptimizer, inner_optimizer

SIZES_CHECKED = 3
"""Batch sizes for which `loss` is compared with `losses`: a sum agrees with a multiple of a mean where all sizes are equal."""


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Loop:
    """The parts of your loop. Model and optimizer are only read: a copy is trained again.

    Attributes:
        model: The net; its weights do not matter, those of the run are loaded. Give it in train mode as your loop has it; if it is in eval mode, all
            of it is put into train mode.
        optimizer: The optimizer over the model's parameters, grouped as at the end of training; several in the order in which they were recorded. Rates and settings are those that the run recorded.
            One that accelerate or Lightning wrapped is taken as well.
        loader: The loader that was recorded. If `seed=` was given at recording, it is iterated as it was then; if not, batches are collated again
            from the recorded order.
        losses: `losses(model, batch)`: the loss of each example, without reduction. Regularisers in the loss belong to each example.
            By default the cross-entropy of what `forward` gives.
        loss: `loss(model, batch)`: what your loop calls backward on, so that steps are repeated to the bit; where it adds up the gradients of several
            batches, before it is divided for that. It must be what `losses` and `reduction` say, apart from rounding: both are compared in the first steps that are repeated.
        reduction: How the losses of a batch become what your loop calls backward on: their `"mean"`, their `"sum"`, or their sum divided by
            what `reduction(batch)` returns. torch's class-weighted cross-entropy, whose mean is divided by the sum of the weights, is
            `losses=lambda model, batch: W[batch[1]] * F.cross_entropy(model(batch[0]), batch[1], reduction="none")` with
            `reduction=lambda batch: W[batch[1]].sum()`.
        forward: `forward(model, batch) -> (logits, labels)`, where a batch is not `(inputs, labels)` or your loop prepares it: for methods
            that look at logits or layers, such as `vog` and `prediction_depth`. The same as at recording, if it was given there.
        accumulate: Where your loop adds up the gradients of several batches before a step, what it divides the loss of each by: a number, 1 where it
            does not divide; `"batches"`, as many as there are in the step; or `"examples"`, as many as there are in these, which goes with
            `reduction="sum"`; or the sum over the step's batches of what `accumulate(batch)` returns, such as how many tokens count. By default the largest number of batches that a step of the run has, also where the last step of an epoch has fewer. Which
            batches made a step is read from the run.
        clip: Largest norm of the gradient, if your loop calls clip_grad_norm_.
        ema: Decay of the running average of the parameters, if your loop keeps one: a torch AveragedModel with
            get_ema_multi_avg_fn(ema), updated once after every step and recorded with `stateful={"ema": averaged_model}`. Targets at
            the end of training are then the averaged model's.
        update: The update rule of your optimizer, where it is not torch's SGD, Adam or AdamW.
        begin_epoch: Called with the epoch's number before its first batch, for what your loop does there (`sampler.set_epoch`).
        clean: The same dataset without augmentation, for methods that look at examples between epochs; the loader's own by default. If that dataset
            draws at random, the same one draw of each example is always taken.
        ids: The ids given at recording, if any.
    """

    model: nn.Module
    optimizer: Optimizer | HoldsOptimizer | Sequence[Optimizer | HoldsOptimizer]
    loader: DataLoader
    losses: Losses = cross_entropies
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    reduction: Reduction = "mean"
    forward: Forward | None = None
    accumulate: Accumulate = None
    clip: float | None = None
    ema: float | None = None
    update: Update | None = None
    begin_epoch: Callable[[int], None] | None = None
    clean: Dataset | None = None
    ids: Ids | Sequence[int] | Sequence[str] | None = None

    def __post_init__(self):
        inner_optimizer(self.optimizer)
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"Loop: clip={self.clip} is not a norm above 0.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"Loop: ema={self.ema} is not a decay between 0 and 1, both excluded.")
        Division(self.reduction, self.accumulate)
        for name in ("losses", "forward"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise UsageError(
                    f"Loop: {name}={getattr(self, name)!r} is no function; give {name}(model, batch), or leave it out."
                )
        check_loader(self.loader)


class LoopTraining(ReplayableTraining):
    """The steps of a user's loop."""

    causes = (
        "The commonest causes: momentum or betas that a scheduler changes in a run of an older assay, label smoothing or class weights "
        "without losses= or loss=, clipping without clip=, autocast, ids= left out; then data, model, optimizer, torch or the number of "
        "threads that are not those of the recording."
    )

    def __init__(self, run: Run, loop: Loop):
        """Copy model and optimizer.

        Raises:
            Mismatch: The loader is not over the examples of the run.
            MissingEvidence: There is an `ema`, and no averaged model was recorded.
            UsageError: The optimizer is not the model's, or the averaged model was not updated once in every step.
        """
        self._run, self._loop = run, loop
        self.model = copied(unwrapped(loop.model))
        if not self.model.training:
            self.model.train()
        self.model.zero_grad(set_to_none=True)
        self._stepped = wrapped_alike(loop.model, self.model)
        self.optimizer = over(inner_optimizer(loop.optimizer), unwrapped(loop.model), self.model)
        # What `forward` gives may be soft labels, whose cross-entropies were recorded; several labels have none.
        if loop.losses is cross_entropies and (run.task == "labels" or (run.task == "losses" and loop.forward is None)):
            raise UsageError(
                f"{run.folder} recorded {run.classes_in_words} example, and the loop does not say which loss an example has; give assay.Loop(..., losses=...), a function "
                "(model, batch) that returns the loss of each example of a batch as your loop has it."
            )
        self._forward = loop.forward or forward_pair
        self._losses = cross_entropies_of(self._forward) if loop.losses is cross_entropies else loop.losses
        self._selected = bool(run.header.select)
        if self._selected:
            if loop.loss is not None:
                raise UsageError(
                    f"loss= knows no weights of single losses, and {run.folder} was recorded with select={run.header.select}; say by losses= and "
                    "reduction= what your loop computes, and leave loss= out."
                )
            self._losses = WeightedLosses(self._losses)
            self.weights = functools.lru_cache(maxsize=2)(run.weights)
        self.functional = Functional(self.model, self._losses, self._forward)
        self.label_path: str | None = None
        """Path of the labels in a batch, so that they are compared with the run's whenever examples are read."""
        self._sizes_checked: set[int] = set()
        self.clip, self.ema, self.averages = loop.clip, loop.ema, {}
        self.early = 0 if loop.ema is None else self._updates_before(run)
        names = {id(parameter): name for name, parameter in trainable(self.model).items()}
        self.members = [
            tuple(names[id(parameter)] for parameter in group["params"] if id(parameter) in names)
            for group in self.optimizer.param_groups
        ]
        # One process draws neither the orders nor the random numbers of several.
        self.free = run.header.seed is None or run.processes > 1
        self._most = max((count for epoch in range(run.epochs) for count in run.micro_batches(epoch)), default=1)
        self._division = Division(loop.reduction, loop.accumulate, self._most)
        self.by_mean = loop.reduction == "mean" and self._most == 1 and loop.accumulate in (None, 1, "batches")
        self.division_assumed = self._most > 1 and loop.accumulate is None
        if self._most > 1:
            self.causes = (
                f"Steps were made of up to {self._most} batches, and the loss of each is taken to be divided by "
                f"{'that' if loop.accumulate is None else f'accumulate={loop.accumulate}'}; where your loop divides otherwise, give assay.Loop accumulate= that "
                "number, 1 where it does not divide, 'batches' where a last step of fewer batches is divided by these, or 'examples'. Where a gradient "
                f"scaler skipped steps, or augmentation in this process draws beside dropout, give DataLoader num_workers, or train again. {self.causes}"
            )
        if run.processes > 1:
            self.causes = (
                f"{run.processes} processes took each step together, and the gradients of three or more are added up in an order that one process does not "
                f"repeat: allow the rounding by replay_config=assay.ReplayConfig(tolerance=1e-4). {self.causes}"
            )
        whole = ids_of(loop.loader.dataset) if loop.ids is None else loop.ids if isinstance(loop.ids, Ids) else Ids(loop.ids)
        chosen = np.arange(len(whole))
        if isinstance(loop.loader.sampler, SubsetRandomSampler):
            chosen = np.asarray(loop.loader.sampler.indices, dtype=np.int64)
        if whole.take(chosen) != run.ids:
            also = " and, if assay.record was given ids, the same to assay.Loop as ids=" if len(chosen) == len(run.ids) else ""
            raise Mismatch(
                f"{run.folder} recorded {len(run.ids)} ids {run.ids!r}, the loop's loader has {len(chosen)}: {whole.take(chosen)!r}. Give "
                f"the loader that was recorded{also}."
            )
        self._chosen, self._places = chosen, len(whole)
        self._batches: Iterator[Any] = iter(())
        self._steps_checked = False

    @property
    def loop(self) -> Loop:
        """The user's description of the loop."""
        return self._loop

    @property
    def run(self) -> Run:
        """The recorded run."""
        return self._run

    @property
    def chosen(self) -> np.ndarray:
        """Position in the dataset of each of the run's ids."""
        return self._chosen

    def fork(self) -> "LoopTraining":
        other = super().fork()
        assert isinstance(other, LoopTraining)
        other._stepped = wrapped_alike(self._loop.model, other.model)
        other._batches = iter(())
        return other

    def updates(self) -> list[Update]:
        missing = set(self.functional.names) - {name for names in self.members for name in names}
        if missing:
            raise UsageError(
                f"{len(missing)} trainable parameters are not in the optimizer ({sorted(missing)[0]}); set requires_grad=False on what is "
                "not trained, or give the optimizer as it was."
            )
        if self._loop.update is not None:
            return [self._loop.update for _ in self.members]
        return super().updates()

    def check_steps(self) -> None:
        super().check_steps()
        if self.free and not self._steps_checked:
            self._refuse_chance(self._run)
        if self._run.processes > 1:
            if kind := self._run.sharded:
                raise UsageError(
                    f"{self._run.folder} was trained in {self._run.processes} processes, each of which kept a part of the model ({kind}), and such steps are not repeated "
                    "in one; use methods that do not repeat steps, such as grand and tracin, or train with DistributedDataParallel."
                )
            self._refuse_batch_statistics()
        self._steps_checked = True

    def _refuse_batch_statistics(self) -> None:
        """Refuse to repeat in one process what several normalised each by its own batch, or together."""
        kinds = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, _NormBase)}
        for name, layer in kinds.items():
            if isinstance(layer, _BatchNorm) or layer.track_running_stats:
                raise UsageError(
                    f"{self._run.folder} was trained in {self._run.processes} processes, and {name} ({type(layer).__name__}) keeps statistics of the batches of one "
                    "of them, which cannot be repeated in one process; use GroupNorm or LayerNorm, or methods that do not repeat steps, such as grand and tracin."
                )

    def _updates_before(self, run: Run) -> int:
        """How often the averaged model had been updated before the recording began."""
        early = None
        for epoch in run.states():
            steps = sum(map(run.step_count, range(epoch + 1)))
            counts = run.averaged_models(epoch)
            if len(counts) != 1:
                raise MissingEvidence(
                    f"Loop has ema={self.ema}, and {run.folder} recorded {len(counts) or 'no'} averaged models; record with "
                    "stateful={'ema': averaged_model}, a torch.optim.swa_utils.AveragedModel of your model, and no other."
                )
            early = counts[0] - steps if early is None else early
            if early < 0 or counts[0] - steps != early:
                raise UsageError(
                    f"{run.folder}: the averaged model was updated {counts[0]} times by the end of epoch {epoch}, after {steps} recorded steps; only "
                    "an average that is updated once after every step can be repeated."
                )
        return early or 0

    def _refuse_chance(self, run: Run) -> None:
        names = random_layers(self.model)
        cure = f"{run.folder} recorded no random state; record with seed=... so that it can be repeated."
        if run.processes > 1:
            cure = f"{run.folder} was trained in {run.processes} processes, whose random numbers one process does not draw; train without it, or in one process."
        if names:
            raise UsageError(f"{names[0]} draws at random in training, and {cure}")
        with untouched_generators(self.device):
            few = torch.arange(min(4, len(self._chosen)))
            first, second = (self._collated(self._loop.loader.dataset, few) for _ in range(2))
        same = all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
        if not same:
            raise UsageError(f"The dataset gives other inputs each time it is asked (random augmentation), and {cure}")

    def load(self, epoch: int) -> None:
        file = self._run.state(epoch)
        if "state" not in file.notes:
            raise Mismatch(f"{self._run.folder} was not recorded in a loop of your own; score it without loop=.")
        state = unpack(file.read_all(), file.notes["state"])
        try:
            self.model.load_state_dict(names_inside(state["model"], self.model))
            if not self._run.has_steps and "optimizer" not in state:
                # Saved models without an optimizer: the settings are those that the loop has.
                return
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            first = " ".join(str(error).split())[:300].rstrip(". ")
            raise Mismatch(f"{self._run.folder} recorded another model or optimizer: {first}. Give both as they were.") from error
        groups = zip(inner_optimizer(self._loop.optimizer).param_groups, self.optimizer.param_groups, strict=True)
        lacking = [name for before, now in groups for name in self.optimizer.defaults if name in before and name not in now]
        if lacking:
            raise Mismatch(
                f"{self._run.folder} recorded another optimizer than {name_of(self.optimizer)}, whose {lacking[0]} is not in the "
                "recorded settings. Give the optimizer as it was."
            )
        # torch turns what an optimizer keeps into the parameters' type, which it may not have been in.
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for place, slots in state["optimizer"]["state"].items():
            for slot, value in slots.items():
                held = self.optimizer.state[parameters[place]]
                if isinstance(value, Tensor) and value.dtype != held[slot].dtype:
                    held[slot] = value.to(held[slot].device, copy=True)
        if self.ema is not None:
            self.averages = self._averages(state)

    def _averages(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """The parameters of the averaged model of a checkpoint; none before its first update."""
        (part,) = (part for name, part in state.items() if name.startswith("also ") and "n_averaged" in part)
        found = {name.removeprefix("module."): value for name, value in part.items() if name.startswith("module.")}
        own = self.model.state_dict()
        if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in own.items()}:
            raise Mismatch(
                f"The averaged model that {self._run.folder} recorded is not one of this model; give the model as it was."
            )
        if not int(part["n_averaged"]):
            return {}
        apart = [
            name for name in dict(self.model.named_buffers()) if name in own and not torch.equal(found[name], own[name].cpu())
        ]
        if apart:
            raise UsageError(
                f"{self._run.folder}: the averaged model has other buffers than the model ({apart[0]}), by use_buffers=True or update_bn; "
                "only averages of the parameters can be repeated. Record with use_buffers=False."
            )
        return {name: found[name].to(self.device, copy=True) for name in self.functional.names}

    def start_epoch(self, epoch: int) -> None:
        if self._loop.begin_epoch is not None:
            self._loop.begin_epoch(epoch)
        if not self.free:
            seed_loop(self._run.header.seed, epoch, self._loop.loader)
            kept = None
            if self._selected:
                kept = np.zeros(self._places, dtype=bool)
                kept[self._chosen[(self._run.visits_in(epoch) > 0).numpy()]] = True
            self._batches = iter(keyed_copy(self._loop.loader, lasting_workers=False, kept=kept))

    def batch(self, epoch: int, step: int, positions: Int[Tensor, " batch"]) -> Any:
        if self.free:
            return self.weighted(self._collated(self._loop.loader.dataset, positions), epoch, positions)
        fetched = next(self._batches, None)
        wanted = self._chosen[positions.numpy()]
        if not isinstance(fetched, KeyedBatch) or list(map(int, fetched.keys)) != wanted.tolist():
            raise Mismatch(
                f"Epoch {epoch}, step {step}: the loader does not give the examples that were recorded there; give the loader as it was, and "
                "what your loop does before an epoch as begin_epoch=."
            )
        return self.weighted(self._placed(fetched.batch), epoch, positions)

    def clean(self, positions: Int[Tensor, " batch"]) -> Any:
        with untouched_generators(self.device):
            # A dataset that draws at random gives the same each time it is asked for the same.
            seed_all(draws.integer(self._run.header.seed or 0, "clean", int(positions[0])))
            try:
                batch = self._collated(self._loop.clean if self._loop.clean is not None else self._loop.loader.dataset, positions)
            except AssayError:
                raise
            except Exception as error:
                # Whatever a user's dataset raises.
                which = "clean=" if self._loop.clean is not None else "The loader's dataset"
                what = " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__
                raise UsageError(
                    f"{which} cannot be asked for a batch of ids {listed(self._run.ids.take(positions.numpy()), len(positions))}: {what}. Give "
                    "a dataset whose items collate_fn of the loader puts together, as it does those of the loader's dataset."
                ) from error
        if self.label_path is not None:
            self._check_labels(batch, positions)
        return batch

    def _check_labels(self, batch: Any, positions: Tensor) -> None:
        """Refuse a batch whose labels are not those that the run recorded for these examples."""
        labels = dict(leaves_of(batch, opened=OPENED)).get(self.label_path or "")
        recorded = self._run.labels[positions]
        if not isinstance(labels, Tensor) or labels.numel() != len(positions):
            raise Mismatch(
                f"{self._run.folder}: a batch of {len(positions)} examples has no {len(positions)} labels at {self.label_path}, where they stood "
                "when it was recorded; give dataset and collate_fn as they were."
            )
        apart = labels.reshape(-1).cpu() != recorded
        if bool(apart.any()):
            ids, at = self._run.ids.take(positions[apart].numpy()), int(apart.nonzero()[0])
            where = "clean=" if self._loop.clean is not None else "the loader's dataset and collate_fn"
            raise Mismatch(
                f"{self._run.folder}: {where} give other labels than were recorded for ids {listed(ids, len(ids))} (id {ids.values[0]}: "
                f"{int(recorded[at])} was recorded, {int(labels.reshape(-1)[at])} is given); give the examples in the recorded order, each with "
                "its own label."
            )

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """A context manager that restores NumPy's, Python's, the loader's and its samplers' generators at its end."""
        own = loader_generators(self._loop.loader)
        before = [generator.get_state() for _, generator in own]
        with untouched_generators(self.device):
            try:
                yield
            finally:
                for (_, generator), state in zip(own, before, strict=True):
                    generator.set_state(state)

    def generators(self) -> Any:
        loader = [generator.get_state() for _, generator in loader_generators(self._loop.loader)]
        return super().generators(), np.random.get_state(), random.getstate(), loader

    def set_generators(self, state: Any) -> None:
        torch_state, numpy_state, python_state, loader = state
        super().set_generators(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for (_, generator), own in zip(loader_generators(self._loop.loader), loader, strict=True):
            generator.set_state(own)

    def _collated(self, dataset: Any, positions: Tensor) -> Any:
        keys = self._chosen[positions.numpy()].tolist()
        whole = getattr(dataset, "__getitems__", None)
        return self._placed(self._loop.loader.collate_fn(whole(keys) if whole else [dataset[key] for key in keys]))

    def _placed(self, batch: Any) -> Any:
        return placed(batch, self.device)

    def step(
        self, batch: Any, rates: Sequence[float], weights: Tensor | None = None, divisor: float | None = None
    ) -> Tensor | None:
        plain = weights is None and divisor is None
        if plain and self._loop.loss is not None:
            self.check_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        logits: list[Tensor | None] = []
        if isinstance(batch, MicroBatches):
            factors = [None] * len(batch.parts) if weights is None else weights.split(list(map(size_of, batch.parts)))
            for part, own, divided in zip(batch.parts, factors, batch.divisors, strict=True):
                # One that all examples were left out of.
                if not size_of(part):
                    continue
                loss, seen = self._loss(part) if plain else (batch_loss(self._losses(self._stepped, part), own, divided), None)
                (loss / batch.share if plain else loss).backward()
                logits.append(seen)
        elif plain:
            loss, seen = self._loss(batch)
            loss.backward()
            logits.append(seen)
        else:
            divided = self.divisor(batch) if divisor is None else divisor
            batch_loss(self._losses(self._stepped, batch), weights, divided).backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], self.clip)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self.update_ema()
        known = [one.detach() for one in logits if one is not None]
        return torch.cat(known) if known and len(known) == len(logits) else None

    def _loss(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """What the loop calls backward on for a batch, before it is divided for a step of several; and the logits, where they are known."""
        if self._loop.loss is not None:
            return self._loop.loss(self._stepped, batch), None
        if self._loop.losses is cross_entropies and isinstance(self._loop.reduction, str) and not self._selected:
            # The reduction that most loops use, whose last bits are not those of a mean of single losses.
            logits, labels = self._forward(self._stepped, batch)
            return F.cross_entropy(logits, labels, reduction=self._loop.reduction), logits
        losses = self._losses(self._stepped, batch)
        return losses.mean() if self._loop.reduction == "mean" else batch_loss(losses, None, self.divisor(batch)), None

    def share(self, batches: Sequence[Any]) -> float:
        return self._division.share(batches)

    def divisor(self, batch: Any) -> float:
        return super().divisor(batch) if isinstance(batch, MicroBatches) else self._division.divisor(batch)

    def check_loss(self, batch: Any) -> None:
        """Compare `loss` with the value that `losses` and `reduction` give, in the first steps of each of the first few batch sizes."""
        for part in parts_of(batch) if self._loop.loss is not None else ():
            size = size_of(part)
            if size and size not in self._sizes_checked and len(self._sizes_checked) < SIZES_CHECKED:
                check_reduction(self, self._loop.loss, self._losses, self._forward, part)  # type: ignore[arg-type]
                self._sizes_checked.add(size)
