"""What one epoch of a recording has observed of each example, in memory: buffered, checked and turned into facts."""

import abc
import math
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.arguments import described
from ..core.errors import NumericalError, UsageError, listed
from ..core.ids import Ids
from ..maths.observations import faults, observe, two_classes
from .alongside import Alongside
from .epoch_steps import EpochSteps
from .given_values import (
    BY_LOSSES,
    binary_labels,
    check_class_labels,
    check_label_rows,
    check_logits,
    check_losses,
    check_validation,
    validation_losses,
    warn_of_probabilities,
)
from .known_labels import KnownLabels
from .merging import Part, check_parts
from .paths import RunPaths
from .schema import Header, ReduceLabels, Task

FLUSH_BYTES = 2 * 2**20
"""Logits held back before their facts are computed: one vectorised pass, and on a GPU one transfer, for many batches."""

CLEAN_OR_PARTIAL = (
    "record with Recording(view='eval'), or give an assay.Recorder of your own partial=assay.runs.recorder.Partial()"
)
"""The cures where an epoch does not visit every example exactly once."""

SMALL = 2**22
"""Examples times classes up to which the probabilities are summed up unless it is asked otherwise: 32 MB on disk."""


class Observations(abc.ABC):
    """What a recording knows of its examples, and what the epoch that is open has observed of each; nothing here is on disk.

    Attributes:
        paths: Where the run is, for messages.
        ids: Of the examples.
        header: What the recording was asked to keep.
        alongside: The methods that run during it.
        classes: How many the model has; 0 before the first logits.
        autocast: The type, by device, in which the model computes under torch.autocast in this epoch, such as `{"cuda": "bfloat16"}`; set after
            `begin`.
        altered: Whether the weights that are kept are others than those after the last step; set before `commit`.
        carried: Whether the first update of this epoch adds to gradients of batches of the epoch before; set after `begin`.
        reduce_labels: How the values of an example's labels become its own, where it has several (see `observe_labels`); set before the first
            epoch is committed.
        validation_sums: Sum of the losses and number of the validation examples of each class in this epoch; None where there were none.
        processes: How many processes train together, each on a part of an epoch that `merge` takes in. An example that comes again, because their
            samplers fill up the last batches, is then counted, and the facts of its first visit are kept.
        smoothing: The label smoothing of the loss that is trained on, where it is known and is none of the facts; stays until it is set again.
    """

    header: Header
    processes = 1
    smoothing = 0.0

    def __init__(self, paths: RunPaths, ids: Ids, alongside: Alongside, class_names: Sequence[str] | None = None):
        """Know what is known before anything is observed; `header` is to be set, and `_clear` called, before an epoch."""
        self.paths, self.ids, self.alongside = paths, ids, alongside
        if odd := [name for name in (() if class_names is None else class_names) if not isinstance(name, str)]:
            raise UsageError(
                f"class_names= holds {described(odd[0])}, which is no text; give [str(name) for name in class_names]."
            )
        self._names = tuple(class_names) if class_names is not None else None
        self.classes = 0
        self.reduce_labels: ReduceLabels = "mean"
        self._task: Task | Literal[""] = ""
        self._labels = KnownLabels(ids)
        # Whether it hangs on the number of classes that probabilities are summed up, and whether that was asked for.
        self._undecided = self._asked_probs = False
        self._warned = self._open = False

    @property
    @abc.abstractmethod
    def keeps_checkpoints(self) -> bool:
        """Whether the state at the end of an epoch is to be saved."""

    @property
    @abc.abstractmethod
    def epochs(self) -> int:
        """How many epochs are committed, which is also the number of the epoch to come."""

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """The class of each example, as far as the epochs before tell it or it is known beforehand; -1 where it is not known."""
        return self._labels.classes

    @property
    def task(self) -> Task | Literal[""]:
        """What is recorded of each example; empty before the first batch."""
        return self._task

    @property
    def _where(self) -> str:
        return f"Epoch {self.epochs}"

    def _clear(self) -> None:
        """Forget the open epoch."""
        self._facts: dict[str, Tensor] = {}
        self._visits = torch.zeros(len(self.ids), dtype=torch.int64)
        self._held: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._held_bytes = 0
        self._steps = EpochSteps()
        self.validation_sums: tuple[Tensor, Tensor] | None = None
        self.autocast: Mapping[str, str] = {}
        self.carried = self.altered = False
        self._begun = time.perf_counter()
        if not self.epochs:
            self.classes, self._task = 0, ""
        self._labels.clear(first=not self.epochs)

    def check_joins(self, title: str) -> None:
        """Refuse a method that would run during training from now on, but has not run from the start.

        Raises:
            UsageError: The first epoch has begun.
        """
        if self._open or (self.epochs and title not in self.header.live):
            raise UsageError(f"{title} cannot join a training that has begun; add it before the first epoch.")

    # ------------------------------------------------------------------ what a loop gives

    def step(
        self,
        positions: Int[Tensor, " batch"],
        rates: Sequence[float],
        updates: int = 1,
        momenta: Sequence[tuple[float, float]] | None = None,
        weights: Float[Tensor, " batch"] | None = None,
    ) -> None:
        """Record one batch, and the optimizer step that it ends, if it ends one.

        Where gradients are accumulated, call it once per batch in the order in which the batches were trained on: with `updates=0` for each but the
        last batch of a step. A step is then all batches since the one before; rates and momenta that count are those of its last batch.

        Args:
            positions: Positions of the examples in the batch.
            rates: Learning rate of each parameter group.
            updates: How often the optimizer updated the parameters in it: 0 where its gradient waits for the next batch.
            momenta: For each parameter group (momentum, NaN) or (beta1, beta2), both NaN where there is neither; given where a schedule may
                change them. None where they are those of the checkpoint throughout.
            weights: Factor of the loss of each of these examples; None for 1.

        Raises:
            UsageError: A weight is negative, not finite, or another one than the example had before in this epoch.
        """
        positions = positions.to("cpu", torch.int64)
        self._steps.weigh(positions, weights, self.ids, self._where)
        self._steps.add(positions, rates, updates, momenta)

    def observe(self, positions: Int[Tensor, " batch"], logits: Tensor, labels: Tensor) -> None:
        """Record the outputs of a forward pass for some examples. The facts are computed once enough outputs are buffered.

        One logit z for each example, (batch,) or (batch, 1), is that of a binary model: with labels 0 and 1, of any type, what is recorded is
        that of the logits (0, z).

        Raises:
            UsageError: Logits or labels are of the wrong shape or type, or losses were recorded before.
        """
        self._check_task("classes")
        check_logits(logits, len(positions), self._where)
        if logits.ndim == 1 or logits.shape[1] == 1:
            logits, labels = two_classes(logits.detach()), binary_labels(labels, len(positions), "labels", self._where)
        self._check_classes(logits.shape[1])
        self._decide_mean_probs()
        check_class_labels(labels, len(positions), self._where)
        logits = logits.detach()
        if not self._warned:
            self._warned = True
            warn_of_probabilities(logits)
        self._hold("classes", positions, logits, labels)

    def observe_losses(self, positions: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        """Record the loss of some examples, where there are no classes; a run records either logits or losses.

        Args:
            positions: Positions of the examples.
            losses: The loss of each, in the loss's own unit; kept in double precision.

        Raises:
            UsageError: There is not one real number for each example, logits were recorded before, or the run is to keep what is made of logits.
        """
        self._check_task("losses")
        check_losses(losses, len(positions), self._where)
        if self.header.keep_logits:
            raise UsageError("Recording: keep_logits=True keeps logits, and losses are recorded here; leave it out.")
        self._check_no_classes()
        self._hold("losses", positions, losses, None)

    def observe_labels(self, positions: Int[Tensor, " batch"], logits: Float[Tensor, "batch labels"], labels: Tensor) -> None:
        """Record the outputs of a forward pass for some examples that have several labels, each 0 or 1.

        Each label is a binary problem of its own, with the facts of the logits (0, z). Methods that read facts give each label a value;
        the value of an example is their mean, or with `reduce_labels="worst"` that of its most suspect or hardest label.

        Args:
            positions: Positions of the examples.
            logits: The logit of each label.
            labels: (batch, labels), 0 or 1, of any type.

        Raises:
            UsageError: Shapes do not fit, a label is neither 0 nor 1, or something else was recorded before.
        """
        self._check_task("labels")
        check_label_rows(logits, labels, len(positions), self._where)
        known = self._labels.rows
        if known is not None and known.shape[1] != logits.shape[1]:
            raise UsageError(
                f"{self._where}: the model has {logits.shape[1]} outputs, it had {known.shape[1]} before; record one head per run."
            )
        self._check_no_classes()
        if known is None:
            self._labels.rows = torch.full((len(self.ids), logits.shape[1]), -1)
        self._hold("labels", positions, logits, labels.detach().to(torch.int64))

    def validation(self, logits: Tensor, labels: Tensor) -> None:
        """Record this epoch's outputs for validation examples, in one call or several; only the mean loss per class is kept.

        Args:
            logits: (batch, classes), in eval mode.
            labels: (batch,), the classes.

        Raises:
            UsageError: Logits and labels do not fit each other or the classes of the run, or the run records losses.
            NumericalError: A logit is NaN or infinite.
        """
        if self._task not in ("", "classes"):
            raise UsageError(
                f"{self._where}: {self.paths.folder} records no classes, and validation keeps a mean by class; leave recorder.validation out, and "
                "give held-out examples as targets= when you score."
            )
        if isinstance(logits, Tensor) and (logits.ndim == 1 or logits.shape[1:] == (1,)) and logits.is_floating_point():
            logits, labels = two_classes(logits.detach()), binary_labels(labels, len(logits), "validation labels", self._where)
        check_validation(logits, labels, self._where)
        self._check_classes(logits.shape[1])
        logits, labels = logits.detach().to("cpu", torch.float64), labels.detach().to("cpu", torch.int64)
        losses = validation_losses(logits, labels, self.classes, self._where)
        totals, counts = self.validation_sums or (
            torch.zeros(self.classes, dtype=torch.float64),
            torch.zeros(self.classes, dtype=torch.int64),
        )
        self.validation_sums = totals.index_add(0, labels, losses), counts + torch.bincount(labels, minlength=self.classes)

    # ------------------------------------------------------------------ from what is given to facts

    def _hold(self, task: Task, positions: Tensor, numbers: Tensor, labels: Tensor | None) -> None:
        """Buffer what was observed until its facts are computed."""
        self._task = task
        # A copy, because loops may reuse the memory of a batch before the facts are computed.
        self._held.append((positions, numbers.detach().clone(), None if labels is None else labels.detach().clone()))
        self._held_bytes += numbers.numel() * numbers.element_size()
        if self._held_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Compute the facts of what is buffered."""
        if not self._held:
            return
        positions = torch.cat([held[0].to("cpu", torch.int64) for held in self._held])
        numbers = torch.cat([held[1] for held in self._held])
        classes = [held[2] for held in self._held if held[2] is not None]
        labels = torch.cat(classes).to(numbers.device, torch.int64) if classes else None
        self._held, self._held_bytes = [], 0
        if bool(((positions < 0) | (positions >= len(self.ids))).any()):
            raise UsageError(
                f"{self._where}: positions {int(positions.min())}..{int(positions.max())} are outside "
                f"0..{len(self.ids) - 1}; a position is the place of an id in the order given at the start."
            )
        visits = self._visits + torch.bincount(positions, minlength=len(self.ids))
        twice = visits > 1
        if bool(twice.any()) and not self._may_be_partial and self.processes == 1:
            names = self.ids.take(twice)
            raise UsageError(
                f"{self._where}: {len(names)} ids came more than once: {listed(names, len(names))}. "
                f"A recorded training pass visits every example once; with a repeating sampler, {CLEAN_OR_PARTIAL}."
            )
        many = self._task == "labels"
        if labels is None:
            facts = self._of_losses(positions, numbers)
        else:
            facts = (self._of_labels if many else self._of_logits)(positions, numbers, labels)
        if bool(twice.any()):
            kept = self._kept_visits(positions, None if many else labels)
            positions, facts = positions[kept], {name: fact[kept.to(fact.device)] for name, fact in facts.items()}
        # Counted only now: an epoch some of whose logits were refused must not pass for whole.
        self._visits = visits
        if "labels" in facts:
            self._labels.given[positions] = facts.pop("labels").cpu()
        for name, fact in facts.items():
            self._place(name, positions, fact.cpu())

    def _place(self, name: str, positions: Tensor, fact: Tensor) -> None:
        """Keep a fact of some examples."""
        if name not in self._facts:
            # What was not seen is nowhere taken for a number.
            absent = math.nan if fact.is_floating_point() and name != "probs" else 0
            self._facts[name] = torch.full((len(self.ids), *fact.shape[1:]), absent, dtype=fact.dtype)
        self._facts[name][positions] = fact

    def _of_losses(self, positions: Tensor, losses: Tensor) -> dict[str, Tensor]:
        self._refuse_numbers(
            positions[~losses.isfinite().cpu()], "are NaN or infinite", "Lower the learning rate or mend these inputs", "losses"
        )
        return {"losses": losses.to(torch.float64)}

    def _of_labels(self, positions: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self._labels.learn_rows(positions, labels.cpu(), self._where)
        self._refuse_numbers(
            positions[~logits.isfinite().all(1).cpu()], "are NaN or infinite", "Lower the learning rate or mend these inputs"
        )
        logits = logits.to(torch.float32)
        flat = observe(two_classes(logits.flatten()), labels.flatten())
        facts = {name: fact.reshape(logits.shape) for name, fact in flat.items()}
        if self.header.keep_logits:
            facts["logits"] = logits
        return facts

    def _of_logits(self, positions: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        given = labels.cpu()
        self._labels.check_range(positions, given, self.classes, self._where)
        self._labels.check_same(positions, given, self.labels[positions], self._where)
        for bad, what, cure in faults(logits, labels):
            self._refuse_numbers(positions[bad.cpu()], what, cure)
        logits = logits.to(torch.float32)
        facts: dict[str, Tensor] = observe(logits, labels)
        whole = torch.stack([fact.isfinite() for fact in facts.values() if fact.is_floating_point()]).all(0)
        self._refuse_numbers(
            positions[~whole.cpu()], "are so large that margins or losses overflow in float32", "Scale the model's outputs down"
        )
        facts["labels"] = labels
        if self.header.keep_logits or self.alongside.reads_logits:
            facts["logits"] = logits
        if self.header.mean_probs:
            facts["probs"] = logits.softmax(-1)
        return facts

    @property
    def _may_be_partial(self) -> bool:
        """Whether facts are those of a training pass that may leave examples out. A clean pass never does."""
        return self.header.partial and self.header.view == "train"

    def _kept_visits(self, positions: Tensor, labels: Tensor | None) -> Bool[Tensor, " rows"]:
        """Those rows whose facts are kept of an example that comes several times: its last one, or of several processes its first."""
        places, first = torch.arange(len(positions)), not self._may_be_partial
        one = torch.zeros(len(self.ids), dtype=torch.int64)
        one = one.scatter_reduce_(0, positions, places, "amin" if first else "amax", include_self=False)
        if labels is not None:
            labels = labels.cpu()
            for known in (labels[one[positions]], self._labels.given[positions]):
                self._labels.check_same(positions, labels, known, self._where)
        kept = one[positions] == places
        return kept & (self._visits[positions] == 0) if first else kept

    @property
    def sums_by_default(self) -> bool:
        """Whether the probabilities are few enough to be summed up unless it is asked otherwise."""
        return len(self.ids) * self.classes <= SMALL

    def _decide_mean_probs(self) -> bool:
        """By default the probabilities are summed up where that is small, which is known with the first logits; whether that just ruled it out."""
        undecided, self._undecided = self._undecided, False
        if not undecided or self.sums_by_default:
            return False
        self.header = self.header.model_copy(update={"mean_probs": False})
        return True

    # ------------------------------------------------------------------ checks against what is known

    def _check_task(self, task: str) -> None:
        if self._task and self._task != task:
            names = {"classes": "logits of classes", "labels": "several labels for each example", "losses": "losses"}
            raise UsageError(
                f"{self._where}: {self.paths.folder} recorded {names[self._task]} before, and {names[task]} are given now; record one of them "
                "throughout a run."
            )

    def _check_no_classes(self) -> None:
        if self._asked_probs:
            raise UsageError(
                "Recording: mean_probs=True sums up the probabilities of classes, and examples have none here; leave it out."
            )
        if self._names is not None:
            raise UsageError("class_names= names classes, and examples have none here; leave it out.")

    def _check_classes(self, classes: int) -> None:
        if classes < 2:
            raise UsageError(
                f"The model has {classes} outputs; valuing needs logits of at least 2 classes, or losses: {BY_LOSSES}."
            )
        if self.classes and classes != self.classes:
            raise UsageError(
                f"{self._where}: the model has {classes} outputs, it had {self.classes} before; record one head per run."
            )
        if self._names is not None and len(self._names) != classes:
            raise UsageError(f"{len(self._names)} class names do not fit a model with {classes} outputs; give one for each.")
        self.classes = classes

    def _refuse_numbers(self, positions: Tensor, what: str, cure: str, of: str = "logits") -> None:
        if len(positions):
            names = self.ids.take(positions)
            raise NumericalError(
                f"{self._where}: {of} of {len(names)} examples {what}; ids {listed(names, len(names))}. "
                f"{cure}; the epochs before are saved."
            )

    # ------------------------------------------------------------------ several processes

    def part(self) -> Part:
        """What this process observed of the epoch, for `merge` in the process that writes the run.

        Raises:
            UsageError: As `complete`, of what was observed here.
            NumericalError: A logit is NaN or infinite.
        """
        self._flush()
        rows, sizes = self._visits.nonzero().flatten(), self._steps.sizes
        numbers = torch.zeros(len(self.ids), dtype=torch.int64).scatter_reduce_(
            0,
            self._steps.order,
            torch.repeat_interleave(torch.arange(len(sizes)), sizes),
            "amax" if self._may_be_partial else "amin",
            include_self=False,
        )
        facts = {name: fact[rows] for name, fact in self._facts.items()}
        several = self._labels.rows
        return Part(
            task=self._task,
            classes=self.classes,
            rows=rows,
            numbers=numbers[rows],
            facts=facts,
            labels=self._labels.given[rows],
            label_matrix=None if several is None else several[rows],
            steps=self._steps,
        )

    def merge(self, parts: Sequence[Part]) -> None:
        """Make one epoch of the parts of all processes, this one's first: of the first batch of each, then of the second batches, and so on.

        An optimizer step is then one on the batches of all processes. Facts are those of the visit with the smallest batch number, then process; with
        `partial` the largest.

        Raises:
            UsageError: The parts are not of one epoch, or an example has two labels.
        """
        check_parts(parts, self._where)
        said = self.autocast, self.carried, self._begun
        self._clear()
        self.autocast, self.carried, self._begun = said
        self._task = parts[0].task
        if self._task == "classes":
            self._check_classes(parts[0].classes)
            self._decide_mean_probs()
        newest = torch.full((len(self.ids),), -1, dtype=torch.int64)
        for process, part in enumerate(parts):
            rows, keys = part.rows, part.numbers * len(parts) + process
            if part.label_matrix is not None:
                self._labels.learn_rows(rows, part.label_matrix, self._where)
            elif part.task == "classes":
                for known in (self.labels, self._labels.given):
                    self._labels.check_same(rows, part.labels, known[rows], self._where)
            before = newest[rows]
            takes = (before < 0) | ((keys > before) if self._may_be_partial else (keys < before))
            newest[rows[takes]] = keys[takes]
            self._labels.given[rows[takes]] = part.labels[takes]
            for name, fact in part.facts.items():
                self._place(name, rows[takes], fact[takes])
            self._visits += torch.bincount(part.steps.order, minlength=len(self.ids))
        extra = int(self._visits.sum()) - len(self.ids)
        # What fills up the last batches of all processes is less than a batch of each.
        if not self._may_be_partial and extra >= sum(max(map(len, part.steps.batches), default=1) for part in parts):
            raise UsageError(
                f"{self._where}: the {len(parts)} processes made {extra} visits more than there are examples, which is more than fills up their last batches; "
                "give each a sampler of its own part, as torch.utils.data.DistributedSampler does, or record with data=assay.DataSpec(visits='any')."
            )
        self._steps.interleave([part.steps for part in parts])

    # ------------------------------------------------------------------ a whole epoch

    def complete(self) -> None:
        """Check that the epoch can be committed, without writing anything yet.

        Raises:
            UsageError: An example was not visited or came twice (with `partial`: no example was visited, or the label of an
                unvisited one is unknown), a label is no class, or all labels are equal.
            NumericalError: A logit is NaN or infinite.
        """
        self._flush()
        absent = self._visits == 0
        if self._may_be_partial and bool(absent.any()):
            self._check_partial(absent)
        elif bool(absent.any()):
            names = self.ids.take(absent)
            raise UsageError(
                f"{self._where}: {len(names)} of {len(self.ids)} ids were not visited: {listed(names, len(names))}. "
                f"A recorded training pass visits every example; with drop_last or a partial sampler, {CLEAN_OR_PARTIAL}."
            )
        if self._task in ("losses", "labels"):
            return
        labels = self.epoch_labels
        if bool((labels == labels[0]).all()):
            raise UsageError(f"All {len(self.ids)} labels are class {int(labels[0])}; valuing needs at least 2 classes.")

    def _check_partial(self, absent: Tensor) -> None:
        unknown = absent & self._labels.unknown() & (self._task != "losses")
        if bool(absent.all()):
            raise UsageError(f"{self._where} trained on no example; let every epoch train on one at least.")
        if bool(unknown.any()):
            names = self.ids.take(unknown)
            raise UsageError(
                f"{self._where} did not visit {len(names)} of {len(self.ids)} ids, whose labels are not known yet: {listed(names, len(names))}. "
                "Give partial=assay.runs.recorder.Partial(labels=...) (assay.record: data=assay.DataSpec(labels=...)), one class for each example, "
                "(examples, labels) of task='labels', or let the first epoch train on all."
            )

    @property
    def epoch_labels(self) -> Int[Tensor, " examples"]:
        """The labels seen in the complete, uncommitted epoch; for examples that it did not visit, the labels known so far; -1 without classes."""
        if self._task in ("labels", "losses"):
            # Those known beforehand say nothing of a run without classes.
            return torch.full_like(self.labels, -1)
        return self._labels.of_epoch()

    def _count_visits(self) -> None:
        """Make a fact of how often each example was visited, where that is not once."""
        if self._may_be_partial and bool((self._visits != 1).any()):
            self._facts["visits"] = self._visits.to(torch.uint8 if int(self._visits.max()) < 256 else torch.int32)

    @property
    def _shown(self) -> Mapping[str, Tensor]:
        """The facts of the complete epoch that the methods which run along are shown."""
        # Of several labels there is no number of each example that a method could be shown.
        return {name: fact for name, fact in self._facts.items() if self._task != "labels" or name == "visits"}

    def _stored(self) -> dict[str, Tensor]:
        """What a shard holds of the complete epoch."""
        stored = {name: fact for name, fact in self._facts.items() if name != "probs"}
        if not self.header.keep_logits:
            stored.pop("logits", None)
        if not self.epochs and self._labels.rows is not None:
            stored["labels"] = self._labels.rows.to(torch.uint8)
        stored |= self._steps.tensors()
        for name, holds in (("carried", self.carried), ("altered", self.altered)):
            if holds:
                stored[name] = torch.ones(1, dtype=torch.int32)
        if self.validation_sums is not None:
            totals, counts = self.validation_sums
            # Of a class without examples the mean is NaN.
            stored |= {"validation_losses": totals / counts, "validation_counts": counts}
        return stored
