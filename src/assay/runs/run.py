"""A recorded run, opened for reading: exactly its committed epochs, whatever happened after them."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.epochs import RECORD_ALL
from ..core.errors import MissingEvidence, RunError, UsageError, listed
from ..core.ids import Ids, dataset_fingerprint
from ..core.lineage import fingerprint
from ..core.needs import EPOCH_NEEDS, Need
from ..core.passes import Passes
from ..core.results import Stream
from .content import FIXED, LOSSES, NOTE, POSITIONS, START, WHOLE, Content, Losses
from .disk import MOST_COMMITS, TensorFile, read_bytes, study_in
from .paths import RunPaths, StudyPaths
from .schema import Commit, File, Header, Task, read_commits, read_header
from .tables import read_examples

DRAWN = "drawn from"
"""The fact about a run that says of which dataset its examples are a part."""

AGAIN = "taken again by"
"""The fact about a run that says how the training is given to methods that take it again, as Python: by a trainer whose recorder knows it."""

SAVED_RATES = "saved_rates"
"""Tensor of a shard whose model somebody saved: the learning rate of each parameter group then."""

SHARDED = "sharded"
"""Note of a checkpoint that says what kept the model in parts, one in each process."""


class Run:
    """A run on disk.

    Attributes:
        paths: Paths of its files.
        header: What was known when recording started.
        commits: One per committed epoch.
        ids: Stable id of each example, in recording order.
        labels: Given class of each example; -1 for each where the run knows no classes.
        class_names: One name per class; none where examples have several labels, or losses alone.
    """

    @checked_arguments
    def __init__(self, folder: str | Path):
        """Open the run in `folder`.

        Raises:
            RunError: The run is absent, not assay's, of a newer schema, damaged, or of a training without a committed epoch.
        """
        self.paths = RunPaths(Path(folder))
        self._held: dict[str, TensorFile] = {}
        self.header, self.commits = read_run(self.paths)
        # The writer takes away what two later epochs supersede: what is open by then can be read on.
        while not self._hold():
            self.header, self.commits = read_run(self.paths)
        if not self.commits and self.header.view != "none":
            raise RunError(f"{folder} has no committed epoch yet; let the recording finish its first epoch, or resume it.")
        self.ids, self.labels, self.class_names = read_examples(self.paths.examples, self.header.examples)
        dataset = dataset_fingerprint(self.ids, self.labels)
        if len(self.ids) != self.header.examples or any(commit.dataset != dataset for commit in self.commits):
            raise RunError(f"{self.paths.examples} is damaged: its ids and labels are not those that were recorded. Restore it.")
        if self.commits and (self.task == "classes") != bool(self.class_names):
            raise RunError(f"{self.paths.examples} is damaged: it does not have the classes of its run. Restore it from a copy.")
        self.dataset = dataset

    def _hold(self) -> bool:
        """Open the files that a recording which goes on takes away; whether all were there that belong to these commits."""
        self._held = {}
        keep = self.header.checkpoints
        passing = [commit.checkpoint for commit in self.commits[-2:] if keep != "every"]
        for file in [*passing, self._latest("sums"), self._latest("live")]:
            if file is None:
                continue
            try:
                self._held[file.name] = TensorFile(self.folder / file.name, file.sums, file.notes, self._expected)
            except RunError:
                # Gone because the run went on, or damaged, which whoever reads it is told.
                if len(read_run(self.paths)[1]) > len(self.commits):
                    return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": {}}

    def __repr__(self) -> str:
        return f"Run({self.folder}: {self.epochs} epochs, {len(self.ids):,} examples, {self.classes_in_words})"

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.paths.folder

    @property
    def epochs(self) -> int:
        """How many epochs are committed; they are numbered from 0."""
        return len(self.commits)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def task(self) -> Task:
        """What is recorded of each example: facts of its class, made of logits; facts of each of its labels; or its loss alone."""
        return self.header.task

    @property
    def classes_in_words(self) -> str:
        """How many classes there are, or what each example has instead."""
        return {"classes": f"{self.classes} classes", "labels": "several labels for each", "losses": "one loss for each"}[
            self.task
        ]

    def label_matrix(self) -> Int[Tensor, "examples labels"]:
        """The labels, 0 or 1, of each example, in a run of several labels for each.

        Raises:
            RunError: The run has no such labels, or its file is damaged.
        """
        shard = self.shard(0)
        if self.task != "labels" or "labels" not in shard.sums:
            raise RunError(f"{self.folder} holds no matrix of labels; it recorded {self.classes_in_words}.")
        return shard.read("labels").to(torch.int64)

    @functools.cached_property
    def members(self) -> tuple["Run", ...]:
        """The runs of the other models that were trained on these examples, as far as they have a committed epoch.

        Raises:
            RunError: Such a run is damaged, or of other examples.
        """
        folders = [folder for folder in sorted(self.paths.models.glob("[0-9]*")) if (folder / "run.json").exists()]
        found = tuple(Run(folder) for folder in folders if read_run(RunPaths(folder))[1])
        for one in found:
            if one.dataset != self.dataset or one.ids != self.ids:
                raise RunError(f"{one.folder} is of other examples than {self.folder}; record its models again.")
        return found

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over the dataset, the view and the checksums of everything recorded, of all models; not over dates."""
        recorded = (repr(sorted(commit.shard.sums.items())) for commit in self.commits)
        # What was not trained on is told apart by what is there to be looked at.
        content = () if self.commits else (str(self.header.about.get("content", "")),)
        return fingerprint(self.dataset, self.header.view, *content, *recorded, *(model.fingerprint for model in self.members))

    @property
    def passes(self) -> Passes | None:
        """What the passes are, where the run was made of what somebody else saved, or of folds; None for the epochs of a recorded training."""
        return None if self.header.passes is None else Passes(self.header.passes, self.header.repeats)

    def condition(self, name: str, epoch: int) -> str | int:
        """The `code`, `torch`, `machine`, `threads` or `device` of an epoch's recording: the header's, unless it came after an interruption."""
        return (self._commit(epoch).elsewhere or {}).get(name, getattr(self.header, name))  # type: ignore[call-overload]

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Which epochs were recorded after an interruption with other code, torch, threads or machine than the header says, in words."""
        words: dict[str, list[int]] = {}
        for commit in self.commits:
            if commit.elsewhere:
                words.setdefault(", ".join(f"{name} {value}" for name, value in sorted(commit.elsewhere.items())), []).append(
                    commit.epoch
                )
        return tuple(f"epochs {listed(epochs, len(epochs))} by {how}" for how, epochs in words.items())

    @property
    def smoothing(self) -> str:
        """What the recorded facts are of, in words, where the loss that was trained on is known to have smoothed labels; empty elsewhere."""
        amounts = sorted({commit.smoothing for commit in self.commits if commit.smoothing})
        if not amounts:
            return ""
        of = " and ".join(f"{amount:.4g}" for amount in amounts)
        return f"of the logits and the given labels, without the label smoothing of {of} that the loss has which was trained on"

    @property
    def selection(self) -> str:
        """Which live selector chose the examples of each epoch, and what part of the visits of all examples it took, in words; empty where none chose."""
        if not self.header.select or not self.epochs:
            return self.header.select
        taken = [int(self.visits_in(epoch).sum()) for epoch in range(self.epochs)]
        each = f"{min(taken):,} to {max(taken):,}" if min(taken) < max(taken) else f"{max(taken):,}"
        share = sum(taken) / (len(self.ids) * self.epochs)
        return f"{self.header.select} trained each epoch on {each} of {len(self.ids):,} examples, {100 * share:.1f} % of the visits of all"

    def _commit(self, epoch: int) -> Commit:
        if not 0 <= epoch < self.epochs:
            held = f"epochs 0 to {self.epochs - 1}" if self.epochs else "none, as nothing was trained"
            raise UsageError(f"Epoch {epoch} is not in {self.folder}; it holds {held}.")
        return self.commits[epoch]

    @property
    def _start(self) -> File | None:
        """The state before training; None where it was not kept, or nothing was trained."""
        return self.commits[0].start if self.commits else None

    def _latest(self, what: Literal["sums", "live", "stream"]) -> File | None:
        """A file of the last epoch; None where there is none."""
        return getattr(self.commits[-1], what) if self.commits else None

    def _open(self, file: File) -> TensorFile:
        held = self._held.get(file.name)
        if held is not None and not (self.folder / file.name).exists():
            return held
        try:
            return TensorFile(self.folder / file.name, file.sums, file.notes, self._expected)
        except RunError:
            if held is None or (self.folder / file.name).exists():
                raise
            return held

    def _expected(self, name: str, kind: torch.dtype, shape: tuple[int, ...]) -> str:
        """What is wrong with a tensor of a shard or of the summed probabilities, in words; empty if nothing is."""
        n, classes = len(self.ids), self.classes
        shapes: dict[str, tuple[str, tuple[int | None, ...]]] = {need.value: ("floating", (n,)) for need in EPOCH_NEEDS}
        shapes |= {name: ("floating", (n, classes)) for name in ("logits", "probs")}
        shapes |= {name: ("whole", (None,)) for name in ("order", "batch_sizes", "updates", "carried", "altered")}
        shapes |= {"correct": ("boolean", (n,)), "visits": ("whole", (n,)), "weights": ("floating", (n,))}
        shapes |= {"validation_losses": ("floating", (classes,)), "validation_counts": ("whole", (classes,))}
        if self.task == "labels":
            shapes |= {need.value: ("floating", (n, None)) for need in EPOCH_NEEDS}
            shapes |= {"correct": ("boolean", (n, None)), "labels": ("whole", (n, None))}
        if name not in shapes:
            return ""
        numbers, due = shapes[name]
        is_so = "boolean" if kind == torch.bool else "floating" if kind.is_floating_point else "whole"
        fits = len(shape) == len(due) and all(size in (None, length) for size, length in zip(due, shape, strict=True))
        if fits and is_so == numbers:
            return ""
        sizes = " x ".join("any" if size is None else str(size) for size in due)
        return f"{name!r} holds {kind} of shape {list(shape)}, where {sizes} {numbers} numbers are due"

    def _there(self, file: File) -> bool:
        return file.name in self._held or (self.folder / file.name).exists()

    def shard(self, epoch: int) -> TensorFile:
        """The facts of one epoch.

        Raises:
            UsageError: There is no such epoch.
            RunError: Its file is missing or damaged.
        """
        return self._open(self._commit(epoch).shard)

    @property
    def holds(self) -> frozenset[Need]:
        """The facts that every epoch has."""
        stored = self.commits[0].shard.sums if self.commits else ()
        return frozenset(need for need in EPOCH_NEEDS if need.value in stored)

    def missing(self, epoch: int) -> Bool[Tensor, " examples"] | None:
        """The examples that an epoch has no facts of, because it did not train on them; None if it has facts of all."""
        if "visits" not in self._commit(epoch).shard.sums:
            return None
        missing = self.shard(epoch).read("visits") == 0
        return missing if bool(missing.any()) else None

    def visits_in(self, epoch: int) -> Int[Tensor, " examples"]:
        """How often an epoch trained on each example."""
        return torch.bincount(torch.cat([torch.zeros(0, dtype=torch.int64), *self.order(epoch)]), minlength=len(self.ids))

    def weights(self, epoch: int) -> Float[Tensor, " examples"] | None:
        """The factor that each example's loss had in an epoch, 0 where it did not train on it; None if all that it trained on counted 1.

        Raises:
            RunError: A weight is negative or not finite.
        """
        shard = self.shard(epoch)
        if "weights" not in shard.sums:
            return None
        weights = shard.read("weights").to(torch.float64)
        if bool((~weights.isfinite() | (weights < 0)).any()):
            raise RunError(f"{shard.path} does not fit its run: a weight is negative or not finite. Restore it or record again.")
        return weights

    def order(self, epoch: int) -> list[Int[Tensor, " batch"]]:
        """Positions of the examples of each step, in the order in which the epoch trained on them."""
        shard = self.shard(epoch)
        order, sizes = shard.read("order").to(torch.int64), shard.read("batch_sizes").tolist()
        if any(size < 0 for size in sizes) or sum(sizes) != len(order) or bool(((order < 0) | (order >= len(self.ids))).any()):
            raise RunError(f"{shard.path} does not fit its run: its batches are not of its examples. Restore it or record again.")
        return list(order.split(sizes))

    def rates(self, epoch: int) -> Float[Tensor, "steps groups"]:
        """Learning rate of each step and parameter group."""
        shard = self.shard(epoch)
        rates, steps = shard.read("rates"), len(shard.read("batch_sizes"))
        if not rates.is_floating_point() or len(rates) != steps or rates.ndim != (2 if steps else 1):
            raise RunError(
                f"{shard.path} does not fit its run: rates of shape {list(rates.shape)} for {steps} steps. Restore it."
            )
        return rates

    @property
    def has_steps(self) -> bool:
        """Whether any optimizer step was recorded; of predictions and models that somebody saved none was."""
        return any(commit.steps for commit in self.commits)

    def saved_rates(self, epoch: int) -> Float[Tensor, " groups"]:
        """Learning rate of each parameter group when a model was saved, of a training of which no step was recorded.

        Raises:
            MissingEvidence: It was not known.
        """
        shard = self.shard(epoch)
        if SAVED_RATES not in shard.sums:
            raise MissingEvidence(
                f"The learning rate at checkpoint {epoch} of {self.folder} is not known, and such gradients are weighed by it; give assay.from_checkpoints "
                "rates=, one for each checkpoint."
            )
        rates = shard.read(SAVED_RATES)
        if rates.ndim != 1 or not rates.is_floating_point():
            raise RunError(f"{shard.path} does not fit its run: {SAVED_RATES} has shape {list(rates.shape)}. Restore it.")
        return rates

    def momenta(self, epoch: int) -> Float[Tensor, "steps groups 2"] | None:
        """Momentum settings of each step and parameter group: (momentum, NaN) of SGD, (beta1, beta2) of Adam, NaN where there is neither.

        Returns:
            None if they were not recorded: by an earlier version of assay, or in assay's own training loop, where they never change.
        """
        shard = self.shard(epoch)
        if "momenta" not in shard.sums:
            return None
        momenta, rates = shard.read("momenta"), self.rates(epoch)
        if not momenta.is_floating_point() or momenta.shape != (*rates.shape, 2):
            raise RunError(
                f"{shard.path} does not fit its run: momenta of shape {list(momenta.shape)} for rates of {list(rates.shape)}. Restore it."
            )
        return momenta

    def group_counts(self) -> list[tuple[int, int]]:
        """(epoch, number of parameter groups of the optimizer), for the first step and then wherever the number changed."""
        found: list[tuple[int, int]] = []
        for commit in self.commits:
            if not commit.steps:
                continue
            rates = self.rates(commit.epoch)
            # Steps before a group joined have no rate of it.
            joined = int((rates[0].isnan() & ~rates[-1].isnan()).sum())
            for count in (rates.shape[1] - joined, rates.shape[1]):
                if count and (not found or found[-1][1] != count):
                    found.append((commit.epoch, count))
        return found

    @functools.cached_property
    def content(self) -> Content | None:
        """The content of the examples; None where it was not recorded."""
        if not self.commits or FIXED not in self.commits[0].shard.sums:
            return None
        shard = self.shard(0)
        tensors = {name: shard.read(name) for name in (POSITIONS, FIXED, WHOLE)}
        return Content.read(tensors, shard.notes.get(NOTE, ""), len(self.ids), self.folder / self.commits[0].shard.name)

    def content_losses(self, epoch: int) -> Losses | None:
        """Losses of a few examples in eval mode at the end of an epoch, or before training (-1); None where they were not recorded."""
        shard, name = self.shard(max(epoch, 0)), LOSSES if epoch >= 0 else START
        return shard.read(name) if name in self._commit(max(epoch, 0)).shard.sums else None

    def gap(self) -> tuple[int, int] | None:
        """(epoch, number of batches) of the first epoch that was preceded by training on unrecorded batches; None if there is none."""
        return next(((commit.epoch, commit.skipped) for commit in self.commits if commit.skipped), None)

    def uneven_updates(self) -> tuple[int, int, int] | None:
        """(epoch, batch, number of optimizer updates) of the first batch in which the optimizer updated more than once, or of the last batch of the first
        epoch in which it never did; None if every update had one batch or several of its own epoch.
        """
        for commit in self.commits:
            if "updates" not in commit.shard.sums:
                continue
            updates = self.shard(commit.epoch).read("updates")
            for at in (updates > 1).nonzero().flatten().tolist():
                return commit.epoch, at, int(updates[at])
            if len(updates) and not bool(updates.any()):
                return commit.epoch, len(updates) - 1, 0
        return None

    def carried(self) -> int | None:
        """The first epoch whose first update added to gradients of batches of the epoch before; None if there is none."""
        return next((commit.epoch for commit in self.commits if "carried" in commit.shard.sums), None)

    def altered(self, epoch: int) -> bool:
        """Whether the weights kept of an epoch are others than those after its last step, because somebody else changed them."""
        return "altered" in self._commit(epoch).shard.sums

    def validation(self, epoch: int) -> tuple[Float[Tensor, " classes"], Int[Tensor, " classes"]] | None:
        """Mean cross-entropy (nats) and number of the validation examples of each class at the end of an epoch; None where none was measured.

        The mean of a class without validation examples is NaN.
        """
        shard = self.shard(epoch)
        if "validation_losses" not in shard.sums:
            return None
        return shard.read("validation_losses"), shard.read("validation_counts").to(torch.int64)

    @property
    def validated(self) -> bool:
        """Whether every epoch has the mean losses of validation examples."""
        return bool(self.commits) and all("validation_losses" in commit.shard.sums for commit in self.commits)

    def autocast(self, epoch: int) -> dict[str, str]:
        """The type in which the model computed under torch.autocast in an epoch, by device; empty if it did not."""
        return {device: kind for device, kind in (self._commit(epoch).autocast or {}).items()}

    @property
    def processes(self) -> int:
        """The largest number of processes that trained together in an epoch, each on a batch of its own in every step; 1 if none did."""
        return max((commit.processes or 1 for commit in self.commits), default=1)

    @property
    def sharded(self) -> str:
        """What kept parts of the model in several processes, as the first and the newest state say; empty if nothing did."""
        states = self.states()
        return max((self.state(epoch).notes.get(SHARDED, "") for epoch in {*states[:1], *states[-1:]}), default="")

    def micro_batches(self, epoch: int) -> list[int]:
        """How many batches each optimizer step of an epoch was made of, in their order: 1 each unless gradients were accumulated.

        If the optimizer updated several times in a batch, each further update is a step of that one batch; batches after the last update belong to
        no step.
        """
        shard = self.shard(epoch)
        if "updates" not in shard.sums:
            return [1] * self._commit(epoch).steps
        found, waiting = [], 0
        for count in shard.read("updates").tolist():
            waiting += 1
            if count:
                found += [waiting, *[1] * (count - 1)]
                waiting = 0
        return found

    def steps(self, epoch: int) -> list[list[Int[Tensor, " batch"]]]:
        """Positions of the examples of each optimizer step of an epoch, by batch: one batch per step unless gradients were accumulated.

        Batches after the last update belong to no step (see `left_over`).
        """
        order, counts = self.order(epoch), self.micro_batches(epoch)
        if sum(counts) > len(order) or not counts:
            # Several updates in one batch, or none in an epoch: nobody repeats such steps.
            return [[batch] for batch in order]
        batches = iter(order)
        return [[next(batches) for _ in range(count)] for count in counts]

    def step_count(self, epoch: int) -> int:
        """How many optimizer steps an epoch took, as `steps` gives them."""
        commit = self._commit(epoch)
        # Without reading which examples they took.
        return commit.steps if "updates" not in commit.shard.sums else len(self.steps(epoch))

    def last_batches(self, epoch: int) -> list[int]:
        """Number of the last batch of each step of `steps`: the one whose rates and momenta are those of the step."""
        return [end - 1 for end in itertools.accumulate(map(len, self.steps(epoch)))]

    def left_over(self, epoch: int) -> int:
        """How many batches an epoch ended with after its last optimizer step."""
        return 0 if "updates" not in self._commit(epoch).shard.sums else len(self.order(epoch)) - sum(map(len, self.steps(epoch)))

    @property
    def keeps_probs(self) -> bool:
        """Whether the probabilities were summed up over the epochs."""
        return self._latest("sums") is not None

    def probs_sum(self) -> Float[Tensor, "examples classes"] | None:
        """Softmax probabilities summed over all committed epochs; None if they were not kept."""
        file = self._latest("sums")
        return self._open(file).read("probs") if file is not None else None

    def mean_probs(self, unread: Ids | None = None) -> Float[Tensor, "examples classes"] | None:
        """Softmax probabilities of each example averaged over the committed epochs that have facts of it; None if they were not kept.

        Args:
            unread: Examples of which nobody reads them; NaN where no epoch trained on such an example.

        Raises:
            MissingEvidence: No epoch trained on another example.
        """
        total = self.probs_sum()
        if total is None:
            return None
        absent = torch.zeros(len(self.ids), dtype=torch.int64)
        for epoch in range(self.epochs):
            if (missing := self.missing(epoch)) is not None:
                absent += missing
        never = absent == self.epochs
        if unread is not None:
            never[self.ids.positions(unread, "the run")] = False
        if bool(never.any()):
            names = self.ids.take(never)
            raise MissingEvidence(
                f"{self.folder} has no mean probabilities of {len(names)} examples, on which no epoch trained: {listed(names, len(names))}. {RECORD_ALL}"
            )
        return total.div_((self.epochs - absent)[:, None])

    def checkpoints(self) -> list[int]:
        """The epochs whose checkpoint is still there."""
        return [c.epoch for c in self.commits if c.checkpoint is not None and self._there(c.checkpoint)]

    def checkpoint(self, epoch: int) -> TensorFile:
        """Model and optimizer at the end of one epoch.

        Raises:
            RunError: That epoch kept no checkpoint.
        """
        commit = self._commit(epoch)
        if commit.checkpoint is None or epoch not in self.checkpoints():
            raise RunError(
                f"{self.folder} keeps no checkpoint of epoch {epoch} (it keeps {self.checkpoints() or 'none'}); "
                "record with Recording(checkpoints='every')."
            )
        return self._open(commit.checkpoint)

    def states(self) -> list[int]:
        """The epochs at whose end model and optimizer are kept, rising; -1 is the state before training."""
        start = self._start
        return ([-1] if start is not None and (self.folder / start.name).exists() else []) + self.checkpoints()

    def state(self, epoch: int) -> TensorFile:
        """Model and optimizer at the end of an epoch, or before training (-1).

        Raises:
            RunError: That state was not kept.
        """
        if epoch >= 0:
            return self.checkpoint(epoch)
        start = self._start
        if start is None:
            raise RunError(f"{self.folder} keeps no state before training; record with checkpoints 'every' or 'last'.")
        return self._open(start)

    def model(self, epoch: int) -> dict[str, Tensor]:
        """The model's parameters and buffers at the end of an epoch, or before training (-1), by their names in it."""
        file = self.state(epoch)
        return {name: file.read(key) for key, name in _model_names(file.sums).items()}

    def state_checksums(self, epoch: int) -> dict[str, int]:
        """Checksum of each of the model's tensors at the end of an epoch, whether or not they are still kept."""
        file = self._commit(epoch).checkpoint
        return {} if file is None else {name: file.sums[key] for key, name in _model_names(file.sums).items()}

    def averages(self, epoch: int) -> dict[str, Tensor]:
        """The averaged parameters at the end of an epoch, or before training (-1), by their names in the model; empty if there are none."""
        file = self.state(epoch)
        return {name: file.read(key) for key, name in _average_names(file.sums).items()}

    def average_checksums(self, epoch: int) -> dict[str, int]:
        """Checksum of each of the averaged parameters at the end of an epoch, whether or not they are still kept."""
        file = self._commit(epoch).checkpoint
        return {} if file is None else {name: file.sums[key] for key, name in _average_names(file.sums).items()}

    def averaged_models(self, epoch: int) -> list[int]:
        """How often each averaged model of a user's loop had been updated by the end of an epoch, or before training (-1)."""
        file = self.state(epoch)
        return [int(file.read(key)) for key in file.sums if _counts_averages(key)]

    def stopped(self) -> dict[str, str]:
        """The live methods that stopped before the end, by title, and why."""
        file = self._latest("live")
        if file is None:
            return {}
        notes = self._open(file).notes
        return {key.removesuffix("|stopped"): why for key, why in notes.items() if key.endswith("|stopped")}

    def check_not_stopped(self, title: str) -> None:
        """Refuse a method that ran during training and stopped before the end.

        Raises:
            MissingEvidence: The method stopped; the message says why.
        """
        if (why := self.stopped().get(title)) is not None:
            raise MissingEvidence(f"{title} ran live while {self.folder} was recorded, but {why}")

    def live_states(self, title: str) -> TensorFile | None:
        """The newest file with states of live methods, where each name begins with a method's title; None if `title` did not run live."""
        file = self._latest("live")
        return None if file is None or title not in self.header.live else self._open(file)

    def stream(self, title: str) -> Stream:
        """The value of each visit (an example in the batch of a step) by a live method such as `liveval`, in the order of the steps.

        For the last steps the reference is the parameters at the last committed epoch.

        Raises:
            UsageError: No such method ran live, or it has no values over time.
            MissingEvidence: The method stopped before the end.
        """
        self.check_not_stopped(title)
        live, stream = self._latest("live"), self._latest("stream")
        if live is None or stream is None or f"{title}|steps" not in stream.sums:
            raise UsageError(
                f"{self.folder} holds no value over time of {title!r} (it ran live: {', '.join(self.header.live) or 'nothing'}); record "
                "with Recording(live=['liveval']) (`--live liveval`)."
            )
        fields = [field.name for field in dataclasses.fields(Stream)]
        parts = []
        for commit in self.commits:
            if commit.stream is not None:
                # One after the other, because every open file takes a handle of the process.
                file = self._open(commit.stream)
                parts.append([file.read(f"{title}|{name}") for name in fields])
        waiting = self._open(live)
        parts.append([waiting.read(f"{title}|found stream {name}") for name in fields])
        steps, positions, values = (torch.cat(column) for column in zip(*parts, strict=True))
        order = torch.argsort(steps, stable=True)
        return Stream(steps[order], positions[order], values[order])

    def visits(self) -> Int[Tensor, " examples"]:
        """How often each example occurs in the recorded batches."""
        found = torch.zeros(len(self.ids), dtype=torch.int64)
        for epoch in range(self.epochs):
            found += torch.bincount(torch.cat([found[:0], *self.order(epoch)]), minlength=len(found))
        return found

    def check(self) -> int:
        """Read everything that was committed, of all models; returns how many tensors agree with their checksums.

        Raises:
            RunError: A tensor is missing or damaged; names the first.
        """
        count = 0
        kept = set(self.checkpoints())
        for commit in self.commits:
            last = commit is self.commits[-1]
            files = [commit.shard]
            files += [commit.checkpoint] if commit.checkpoint is not None and commit.epoch in kept else []
            files += [file for file in (commit.start, commit.stream) if file is not None]
            files += [file for file in (commit.sums, commit.live) if last and file is not None]
            for file in files:
                opened = self._open(file)
                count += len(opened.read_all())
                opened.notes  # noqa: B018  (reading is checking)
        return count + sum(model.check() for model in self.members)


def _model_names(keys: Iterable[str]) -> dict[str, str]:
    """Names in the model of those keys of a checkpoint that belong to it."""
    # assay's own loop writes `model.NAME`, a user's loop packs `model/NAME`.
    return {key: key[len("model.") :] for key in keys if key.startswith(("model.", "model/"))}


def _average_names(keys: Iterable[str]) -> dict[str, str]:
    """Names in the model of those keys of a checkpoint that belong to its average."""
    # assay's own loop writes `average.NAME`; a user's packs a torch AveragedModel, whose module has the names of the model.
    keys = list(keys)
    rooms = ("average.", *(key.removesuffix("n_averaged") + "module." for key in keys if _counts_averages(key)))
    return {key: key[len(room) :] for room in rooms for key in keys if key.startswith(room)}


def _counts_averages(key: str) -> bool:
    return key.startswith("also ") and key.endswith("/n_averaged")


def _no_run(folder: Path) -> str:
    """Why a folder is no run, and what helps."""
    study = StudyPaths(folder)
    if os.path.lexists(study.results) or study_in(study.plan):
        recordings = sorted(RunPaths(place).header.parent for place in study.probes.glob("*")) if study.probes.is_dir() else []
        cure = f"name one of its recordings, such as {recordings[0]}" if recordings else "name the folder of a run"
        return f"{folder} is a study and not a run; {cure}."
    what = "is not an assay run (no run.json)" if folder.exists() else "does not exist"
    return f"{folder} {what}; record one with `assay record` or `assay.record(...)`."


def read_run(paths: RunPaths) -> tuple[Header, list[Commit]]:
    """Header and commits, without opening anything else.

    Raises:
        RunError: The run is absent, not assay's, of a newer schema, or damaged.
    """
    try:
        if not os.path.lexists(paths.header):
            raise RunError(_no_run(paths.folder))
        header = read_header(read_bytes(paths.header), str(paths.header))
        there = os.path.lexists(paths.commits)
        commits = read_commits(read_bytes(paths.commits, MOST_COMMITS), str(paths.commits))[0] if there else []
    except OSError as error:
        raise RunError(f"{paths.folder} cannot be read: {error.strerror or error}.") from error
    return header, commits
