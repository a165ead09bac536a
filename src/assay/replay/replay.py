"""Repeats a recorded run: any of its states, its steps forwards and backwards, and the models that it kept."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.errors import AssayError, Mismatch, MissingEvidence, NumericalError, UnknownName, UsageError
from ..core.features import Features, FeatureSpec
from ..core.models import Queries, StepSizes
from ..core.steps import Adjoint, Carrier
from ..maths import schedules
from ..maths.observations import observe
from ..maths.params import Params
from ..runs.disk import checksum
from ..runs.run import Run
from ..runs.schema import here
from ..training.batches import parts_of, rows
from ..training.device import mode, set_random_state
from ..training.loop import explained
from ..training.state import standing_at
from ..training.wrappers import names_inside
from .carrier import OptimizerCarrier
from .checkpoints import CheckpointModel
from .derivative_check import check_derivative
from .features import features_of
from .hidden_state import hidden_state
from .joined import name_of
from .optimizers import beyond_sgd, momentum_of
from .replayable import ReplayableTraining, ReplayState
from .steps import RatesByName, ReplayedStep, StepRun
from .targets import MeanLoss, RowLosses, Target, accuracies_of, parts_of_target, row_losses_of, target_gradient

TrainMany = Callable[[Sequence[Tensor], range, Sequence[str], str], Tensor]
"""`Replay.retrained` for several groups, in other processes, say; each training is a call of `Replay.retrained` for one group."""


class ReplayStates(Protocol):
    """Where the newest state of one training is kept, so that it goes on from there when it is made again."""

    def kept(self) -> tuple[int, ReplayState] | None:
        """The first step that is not in the kept state, and the state; None if none is kept."""
        ...

    def reached(self, step: int, state: Callable[[], ReplayState]) -> None:
        """Called before the first step of an epoch; `state` gives a copy of where the training stands."""
        ...


HELD_BYTES = 256 * 2**20
"""Bytes up to which `sqrt` keeps all states of a stretch."""
WRONG = 1e-4
"""Relative error of a step's derivative in double precision above which it is wrong."""

ROUNDING = 1000
"""Multiples of the precision of the parameters' type within which two trainings differ by the order of their sums alone."""
AS_ROUNDED = (
    "That is rounding: the steps are the recorded ones by another formula or on another kernel. Give loss= as your loop computes it, or allow "
    "it by replay_config=assay.ReplayConfig(tolerance=1e-6)."
)


class Replay:
    """The steps and the kept models of one run (`StepSource` and `CheckpointSource`).

    The model ends each epoch with the recorded parameters, to the bit or within `ReplayConfig.tolerance`, or the replay is refused. Where training
    kept a running average of the parameters, a target at the end of the run is the averaged model's.
    """

    def __init__(
        self,
        run: Run,
        training: ReplayableTraining,
        targets: Mapping[str, Target],
        *,
        schedule: str = "sqrt",
        memory: int | None = None,
        tolerance: float = 0.0,
        references: Mapping[str, Params] | None = None,
        train_many: "Callable[[Replay], TrainMany] | None" = None,
    ):
        """Get ready; nothing is computed yet.

        Args:
            run: The recorded run.
            training: How its steps are taken.
            targets: The numbers whose change can be asked for.
            schedule: `sqrt` (every state of the stretch in memory where they take at most `HELD_BYTES`; else about 2 sqrt(steps) of
                them, each step taken at most twice), `all` (every state in memory), `every=STEPS` (a mark every so many steps), `tree`
                or `tree=PARTS` (about (parts - 1) log(steps) states, each step taken about log(steps) times).
            memory: Bytes that the states may take; the fastest schedule that keeps to it is used instead.
            tolerance: Largest relative difference between the parameters at an epoch's end and the recorded ones; 0 asks for the
                same bits. Needs a kept checkpoint to compare with.
            references: Parameters from elsewhere that may be asked for, by name.
            train_many: Given this replay, makes what trains without each of several groups; by default one training after the other, here.

        Raises:
            MissingEvidence: The run kept no state from which training could start again.
            Mismatch: A reference is of another model.
            UsageError: A setting is out of range.
        """
        try:
            self._named_split = schedules.named(schedule)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if memory is not None and memory < 1:
            raise UsageError(f"memory={memory} is not a number of bytes above 0.")
        if not 0 <= tolerance < 1:
            raise UsageError(f"tolerance={tolerance} is outside 0..1, 1 excluded.")
        self.run, self.training = run, training
        self.memory, self.tolerance = memory, tolerance
        self.kept = tuple(run.states())
        if not self.kept:
            raise MissingEvidence(
                f"{run.folder} kept no model to take steps again from, or to look into; record with Recording(checkpoints='last') (the default; for the "
                "last epoch and the whole run) or 'every'."
                if run.epochs
                else f"{run.folder} holds data only, and no model was trained there; record one with `assay record`."
            )
        bounds = [0]
        for commit in run.commits:
            bounds.append(bounds[-1] + run.step_count(commit.epoch))
        self.epochs = tuple(range(a, b) for a, b in itertools.pairwise(bounds))
        self._starts = bounds[:-1]
        self.first = bounds[self.kept[0] + 1]
        self.targets = tuple(targets)
        # An accuracy has no derivative, so that no method is offered it.
        self.given = accuracies_of(targets) | row_losses_of(targets) | dict(targets)
        self.computed: set[str] = set()
        """Targets that a kept model was seen to compute."""
        self.remarks: dict[str, str] = {}
        """Cautions about a target, one sentence each, by the name of the target."""
        self.cautions: tuple[str, ...] = ()
        """Cautions about everything that is computed from this replay, one sentence each."""
        self.references = {name: self._of_this_model(name, values) for name, values in (references or {}).items()}
        self._orders: dict[int, tuple[list[Tensor], Tensor, Tensor | None]] = {}
        self._batches: dict[int, list[list[Tensor]]] = {}
        self._end: ReplayState | None = None
        self._begun: tuple[int, ReplayState] | None = None
        self._train_many = None if train_many is None else train_many(self)
        self._checked: set[int] = set()
        self._differing: dict[int, str] = {}
        self._steps_checked = self._state_checked = False
        self.derivative_errors: dict[int, float] = {}
        """Relative error of the derivatives that were compared with central differences, by step."""
        self.unconfirmed: dict[int, str] = {}
        """Why a derivative could not be compared with central differences, in a sentence, by step."""
        self._own = StepRun(self, training)

    # ------------------------------------------------------------------ what was recorded

    def order(self, epoch: int) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Positions, rates by group, and momenta by group if they were recorded, of each step of an epoch."""
        if epoch not in self._orders:
            if len(self._orders) > 1:
                old = next(iter(self._orders))
                self._orders.pop(old)
                self._batches.pop(old)
            rates, momenta = self.run.rates(epoch), self.run.momenta(epoch)
            self._batches[epoch] = steps = self.run.steps(epoch)
            if len(steps) != len(rates):
                last = self.run.last_batches(epoch)
                rates, momenta = rates[last], None if momenta is None else momenta[last]
            self._orders[epoch] = [torch.cat(batches) for batches in steps], rates, momenta
        return self._orders[epoch]

    def batches(self, epoch: int) -> list[list[Tensor]]:
        """Positions of the examples of each step of an epoch, by batch: several where gradients were accumulated."""
        self.order(epoch)
        return self._batches[epoch]

    def place(self, index: int) -> tuple[int, int]:
        """Epoch of a step, and its number in it."""
        epoch = bisect.bisect_right(self._starts, index) - 1
        return epoch, index - self._starts[epoch]

    def visits(self, steps: range) -> Int[Tensor, " examples"]:
        """How often each example occurs in the batches of these steps."""
        found = torch.zeros(len(self.run.ids), dtype=torch.int64)
        for epoch, whole in enumerate(self.epochs):
            met = max(whole.start, steps.start) < min(whole.stop, steps.stop)
            for number, batch in enumerate(self.order(epoch)[0] if met else []):
                if whole.start + number in steps:
                    found += torch.bincount(batch, minlength=len(found))
        return found

    def sizes(self, steps: range) -> list[int]:
        """Batch size of each of these steps."""
        found = []
        for epoch, whole in enumerate(self.epochs):
            if max(whole.start, steps.start) < min(whole.stop, steps.stop):
                found += [len(batch) for n, batch in enumerate(self.order(epoch)[0]) if whole.start + n in steps]
        return found

    # ------------------------------------------------------------------ taking steps

    def check_steps(self) -> None:
        """Refuse a run whose steps cannot be repeated.

        Raises:
            UsageError: The optimizer did not move once per batch, parameter groups joined it, or what the steps drew from was not recorded.
        """
        if self._steps_checked:
            return
        if not self.run.has_steps:
            raise MissingEvidence(
                f"{self.run.folder} was made of saved models, between which no step is known; record the training, or ask for methods of kept models, such as "
                "grand, tracin and vog."
            )
        if (uneven := self.run.uneven_updates()) is not None:
            epoch, step, count = uneven
            raise UsageError(
                f"{self.run.folder}: in epoch {epoch}, batch {step}, the optimizer moved {count} times, not once, or never in the epoch; such steps cannot be "
                "repeated. Record a loop that steps once per batch, or once for several batches of an epoch, or ask for methods of kept models, such "
                "as grand, tracin and vog."
            )
        if (late := self.run.carried()) is not None:
            raise UsageError(
                f"{self.run.folder}: the first step of epoch {late} added to gradients of the last batches of epoch {late - 1}, which a kept model does not "
                "hold, so the steps cannot be repeated. Record a loop that steps after the last batch of each epoch, or calls optimizer.zero_grad() "
                "before its first; or ask for methods of kept models, such as grand, tracin and vog."
            )
        if self.training.couples():
            left = [epoch for epoch in range(len(self.epochs)) if self.run.left_over(epoch)]
            if left:
                raise UsageError(
                    f"{self.run.folder}: epoch {left[0]} ended with {self.run.left_over(left[0])} batches after its last step, and the statistics of BatchNorm "
                    "followed them, so the steps cannot be repeated. Record a loop that steps after the last batch of each epoch, or ask for methods "
                    "of kept models, such as grand, tracin and vog."
                )
        if (gap := self.run.gap()) is not None:
            epoch, batches = gap
            raise UsageError(
                f"{self.run.folder}: before epoch {epoch}, {batches} batches were trained on in an epoch that was left early and is not recorded, "
                "so its steps cannot be repeated. Record a loop that uses every batch of an epoch, or ask for methods of kept models, such "
                "as grand, tracin and vog."
            )
        self.check_groups()
        self.training.check_steps()
        self._steps_checked = True

    def check_groups(self) -> None:
        """Refuse a training whose optimizer had other parameter groups at its end than at its beginning.

        Raises:
            UsageError: Parameter groups joined the optimizer.
        """
        if len(groups := self.run.group_counts()) > 1:
            (first, few), (epoch, many) = groups[:2]
            where = f"in epoch {epoch}" if epoch > first else "by its end"
            raise UsageError(
                f"{self.run.folder}: the optimizer had {few} parameter groups in epoch {first} and {many} {where}; steps of a training in "
                "which groups join cannot be repeated. Record with all groups from the start, those that are not yet trained with a rate of 0, "
                "or ask for methods of kept models, such as grand, tracin and vog."
            )

    def forwards(self, steps: range) -> Iterator[ReplayedStep]:
        """The steps, repeated first to last on a separate copy of the model."""
        if not steps and self.run.has_steps:
            return iter(())
        self.check_steps()
        return StepRun(self, self.training.fork()).forwards(steps)

    def backwards(self, steps: range, *, replay: bool = True) -> Iterator[ReplayedStep]:
        """The steps, last to first, on a separate copy of the model."""
        if not steps and self.run.has_steps:
            return iter(())
        self.check_steps()
        self.training.updates()
        return StepRun(self, self.training.fork()).backwards(steps, replay=replay)

    def isolated(self) -> contextlib.AbstractContextManager[None]:
        """A context manager with the thread count and kernels of the training, which restores the random states at its end."""
        return self._own.isolated()

    def check_hidden_state(self, training: ReplayableTraining, step: "ReplayedStep") -> None:
        """Refuse a training that is differentiated wrongly because of state that is neither a parameter nor BatchNorm's.

        Raises:
            UsageError: Such state follows the parameters, and the loss or a target reads it.
        """
        if self._state_checked:
            return
        ends = [
            sums for commit in self.run.commits if (sums := names_inside(self.run.state_checksums(commit.epoch), training.model))
        ]
        buffers = {name for name, value in training.buffers.items() if value.is_floating_point()}
        changing = [name for name in buffers if len({sums[name] for sums in ends if name in sums}) > 1]
        params = {name: step.before.model[name] for name in training.functional.names}
        with torch.no_grad():
            set_random_state(step.random)
            # What a layer hides, it hides in each batch of a step.
            first = parts_of(step.batch)[0]
            statistics = training.functional.with_statistics(params, step.buffers, first)[1]
        read = hidden_state(
            training,
            first,
            step.before,
            step.random,
            lambda: training.step(step.batch, list(self.order(step.epoch)[1][self.place(step.index)[1]].tolist())),
            statistics,
            changing,
            [functools.partial(self._evaluated, name) for name in self.targets],
        )
        if read:
            raise UsageError(
                f"{read[0]} follows the parameters from step to step, and the loss or a target reads it, but it is neither a parameter nor "
                "a running statistic of torch's BatchNorm, so the derivative of the training would be wrong. Choose a method that trains "
                "again (loo) or that asks for gradients only (tracin, oti, liveval), or train without that layer."
            )
        self._state_checked = True

    def _evaluated(self, name: str, model: nn.Module) -> float:
        return float(torch.stack([part.to(torch.float64) for part in parts_of_target(self.named(name), model, name)]).sum())

    def confirm_derivative(self, training: ReplayableTraining, step: "ReplayedStep", adjoint: Adjoint) -> None:
        """Compare a step's derivative with central differences, in double precision.

        Raises:
            NumericalError: The derivative is wrong.
        """
        number = self.place(step.index)[1]
        try:
            by_group = self.order(step.epoch)[1][number].tolist()
            check = check_derivative(training, step, by_group, adjoint, tolerance=WRONG)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssayError) as error:
            # What was made of it on the way advises what does not help here.
            cause = error.__cause__ or error
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(". ")
            self.unconfirmed[step.index] = (
                f"that takes the step once more with weights and inputs in float64, in which the model does not run ({reason}). A model that makes "
                "its tensors in the type of its inputs or weights can be checked"
            )
            return
        if check.error <= WRONG:
            self.derivative_errors[step.index] = check.error
        elif check.conclusive:
            raise NumericalError(
                f"The derivative of step {step.index} is wrong: central differences of the step itself are {check.error:.2g} of its size away. "
                "An operation of the model has a wrong second derivative, or the update= of Loop does. Choose a method that trains again "
                "(loo) or that asks for gradients only (tracin, oti, liveval)."
            )
        else:
            self.unconfirmed[step.index] = (
                f"differences over a shorter and a longer distance disagree by about {check.error:.2g} of the derivative's size, as they do next to "
                "a kink of the loss (ReLU, max pooling)"
            )

    def anchors(self, steps: range) -> list[tuple[int, int]]:
        """(step, epoch kept just before it) of the kept states that these steps can be taken from, in order.

        Raises:
            MissingEvidence: None was kept before the first of them.
        """
        if steps.start < self.first:
            raise MissingEvidence(
                f"Step {steps.start} cannot be repeated: {self.run.folder} kept no model before step {self.first}. Choose a later window, "
                "or record with Recording(checkpoints='every')."
            )
        places = [(self.epochs[epoch].stop if epoch >= 0 else 0, epoch) for epoch in self.kept]
        places = [(step, epoch) for step, epoch in places if step < steps.stop]
        start = max(place for place, (step, _) in enumerate(places) if step <= steps.start)
        return places[start:]

    def compare(self, epoch: int, number: int, logits: Tensor, recorded: Tensor) -> None:
        """Remember the first step of an epoch whose losses are not those that were recorded.

        Args:
            epoch, number: Epoch of the step, and its number in the epoch.
            logits: Logits that the repeated step gives.
            recorded: The losses of all examples in this epoch.
        """
        positions = self.order(epoch)[0][number]
        labels = self.run.labels[positions].to(logits.device)
        losses = observe(logits.to(torch.float32), labels)["losses"].cpu()
        if not torch.equal(losses, recorded[positions]):
            at = int((losses != recorded[positions]).nonzero()[0])
            self._differing[epoch] = (
                f"step {number} is the first that differs: the loss of id {self.run.ids.values[int(positions[at])]} was "
                f"{float(recorded[positions][at]):.9g} and is {float(losses[at]):.9g}"
            )

    def compared(self, epoch: int) -> bool:
        """Whether a step of this epoch is known to differ."""
        return epoch in self._differing

    def checked(self, epoch: int) -> bool:
        """Whether this epoch is known to end where it was recorded to end."""
        return epoch in self._checked

    def rates(self, by_group: Sequence[float], training: ReplayableTraining) -> Mapping[str, float]:
        """Learning rate of each trainable parameter; for one that the recorded optimizer does not hold, 0 if training left it unchanged, else none."""
        rates, names = training.rates(by_group), training.functional.names
        if set(names) <= rates.keys():
            return rates
        return RatesByName(rates | dict.fromkeys(self._untouched - rates.keys(), 0.0))

    def waiting(self, groups: int) -> list[float]:
        """Learning rates of the parameter groups that had not yet joined an optimizer with `groups` groups: 0, because it does not train them.

        Raises:
            UsageError: Groups were taken out of the optimizer, so that nobody knows which of them these are.
        """
        counts = self.run.group_counts()
        many = [count for _, count in counts]
        if many != sorted(many):
            (first, more), (epoch, few) = next((a, b) for a, b in itertools.pairwise(counts) if b[1] < a[1])
            raise UsageError(
                f"{self.run.folder}: the optimizer had {more} parameter groups in epoch {first} and {few} in epoch {epoch}; which of them were taken "
                "out was not recorded, and so whose the learning rates are. Record with a rate of 0 for what is no longer trained, or ask for a "
                "method that needs no rates, such as grand."
            )
        return [0.0] * (many[-1] - groups)

    @functools.cached_property
    def _untouched(self) -> set[str]:
        """Names of the trainable parameters that training left as they were."""
        first, last = (
            names_inside(self.run.model(epoch), self.training.model) for epoch in (self.run.states()[0], self.run.states()[-1])
        )
        return {name for name in self.training.functional.names if torch.equal(first[name], last[name])}

    def check(self, epoch: int, training: ReplayableTraining) -> None:
        """Compare the parameters at an epoch's end, and their average, with the recorded ones.

        Raises:
            Mismatch: They differ by more than the tolerance.
        """
        self._checked.add(epoch)
        sums = names_inside(self.run.state_checksums(epoch), training.model)
        now = {name: value for name, value in training.model.state_dict().items() if name in sums}
        if training.averages:
            sums |= {f"the average of {name}": value for name, value in self.run.average_checksums(epoch).items()}
            averages = {f"the average of {name}": value for name, value in training.averages.items()}
            now |= {name: value for name, value in averages.items() if name in sums}
        differing = [name for name, value in now.items() if checksum(value) != sums[name]]
        if not differing:
            return
        gap = self._gap(epoch, training)
        if self.tolerance == 0:
            far = "" if gap is None else f"; they are {gap:.2g} of their norm apart, and ReplayConfig(tolerance=0) allows nothing"
            where = f"{len(differing)} of {len(now)} tensors differ at its end, {differing[0]} among them{far}"
            if gap is not None and gap <= ROUNDING * max(torch.finfo(value.dtype).eps for value in training.params.values()):
                self._refuse(epoch, where, AS_ROUNDED)
            self._refuse(epoch, where)
        if gap is not None and not gap <= self.tolerance:
            self._refuse(epoch, f"the parameters are {gap:.2g} of their norm apart at its end, and tolerance={self.tolerance:g}")

    def _refuse(self, epoch: int, where: str, causes: str | None = None) -> NoReturn:
        self._checked.discard(epoch)
        message = f"Taking {self.run.folder} again does not give what was recorded: epoch {epoch}, {where}"
        if epoch in self._differing:
            message += f" ({self._differing[epoch]})"
        now_here = here()
        recorded = {name: self.run.condition(name, epoch) for name in ("torch", "machine")}
        changed = [f"{name} {then}, here is {now_here[name]}" for name, then in recorded.items() if then != now_here[name]]
        if changed:
            raise Mismatch(f"{message}. It was recorded by {' and '.join(changed)}: take it again there, or record it here.")
        if self.run.altered(epoch):
            raise Mismatch(
                f"{message}. The weights were changed after the last step of that epoch, as where the best ones are restored: record again and restore them after "
                "the block of assay.record, or ask for methods of kept models, such as grand, tracin and vog."
            )
        if kinds := self.run.autocast(epoch):
            raise Mismatch(
                f"{message}. The recorded model computed in {' and '.join(sorted(set(kinds.values())))} under torch.autocast, in which a step is not repeated: record "
                "in float32, or ask for methods of kept models, such as grand, tracin and vog."
            )
        raise Mismatch(f"{message}. {causes or self.training.causes}")

    def _gap(self, epoch: int, training: ReplayableTraining) -> float | None:
        """Distance from the recorded parameters and their average at an epoch's end, as a part of their norm; None if they were not kept."""
        if epoch not in self.kept:
            return None
        recorded = names_inside(self.run.model(epoch), training.model)
        own = {name: value.double().cpu() for name, value in training.params.items()}
        if training.averages:
            recorded |= {f"the average of {name}": value for name, value in self.run.averages(epoch).items()}
            own |= {f"the average of {name}": value.double().cpu() for name, value in training.averages.items()}
        apart = torch.stack([(own[name] - recorded[name].double()).square().sum() for name in own]).sum().sqrt()
        return float(apart / torch.stack([recorded[name].double().square().sum() for name in own]).sum().sqrt())

    def split(self, state: ReplayState, steps: int, beside: int = 0) -> schedules.Split:
        """The schedule by which the states of a stretch of steps are kept or computed again, while `beside` other states are kept."""
        if self.memory is not None:
            return self.fitting(state, steps, self.memory - beside * state.bytes)
        if self._named_split is schedules.square_root and (beside + steps) * state.bytes <= HELD_BYTES:
            return schedules.every
        return self._named_split

    def fitting(self, state: ReplayState, steps: int, memory: int) -> schedules.Split:
        """The fastest schedule for a stretch of steps whose kept states fit into `memory` bytes.

        Raises:
            UsageError: `memory` bytes do not hold enough states.
        """
        try:
            return schedules.within(memory // state.bytes, steps)
        except ValueError as error:
            raise UsageError(f"memory={self.memory}: a state takes {state.bytes} bytes. {error}") from error

    def retrained(
        self,
        without: Sequence[Int[Tensor, " group"]],
        steps: range,
        targets: Sequence[str],
        form: str = "weight",
        states: ReplayStates | None = None,
    ) -> Float[Tensor, "trainings targets"]:
        """Targets at the end of the run, had some examples been left out; see `StepSource.retrained`.

        `targets.row_losses(NAME)` takes a column for each row of the target NAME. With `states`, for one group alone, the training goes on from the state
        that is kept there; not for a training whose epochs must be gone through from their beginning.
        """
        if self._train_many is not None and len(without) > 1:
            return self._train_many(without, steps, targets, form)
        values = []
        for group in without:
            weights = torch.ones(len(self.run.ids), dtype=torch.float64)
            weights[group] = 0
            values.append(torch.tensor(self._again(weights, steps, targets, form, states), dtype=torch.float64))
        return torch.stack(values) if values else torch.zeros(0, len(targets), dtype=torch.float64)

    def reweighted(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> float:
        """A target at the end of the run, had the losses of these steps been multiplied by these weights."""
        return self._again(weights, steps, [target], "weight")[0]

    def reweighted_end(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> tuple[float, Params]:
        """As `reweighted`, with the parameters that the target was computed at: their average, if there is one."""
        value = self.reweighted(weights, steps, target)
        end = self.training.averages or self.training.params
        return value, {name: value.detach().clone() for name, value in end.items()}

    def hold_end(self, steps: range) -> None:
        """Refuse a training that, replayed unchanged from a kept state before these steps, does not end where the recorded one did.

        Raises:
            Mismatch: An epoch ends elsewhere, by more than the tolerance.
            UsageError: The steps cannot be repeated.
        """
        self.check_steps()
        stop = self.epochs[-1].stop
        anchor, epoch = self.anchors(range(steps.start, stop))[0]
        if all(self.checked(one) for one in range(epoch + 1, len(self.epochs))):
            return
        step_run = self._own
        self._begun = None
        with step_run.isolated():
            step_run.advance(step_run.state(epoch), anchor, stop)

    def _again(
        self, weights: Tensor, steps: range, targets: Sequence[str], form: str, states: ReplayStates | None = None
    ) -> list[float]:
        self.hold_end(steps)
        step_run = self._own
        with step_run.isolated():
            if self._begun is None or self._begun[0] != steps.start or not self.training.free:
                anchor, epoch = self.anchors(range(steps.start, self.epochs[-1].stop))[0]
                self._begun = steps.start, step_run.advance(step_run.state(epoch), anchor, steps.start)
            if not self.training.free:
                states = None
            first, begun = (states.kept() if states is not None else None) or self._begun
            self.training.restore(begun)
            for index in range(first, self.epochs[-1].stop):
                epoch, number = self.place(index)
                if states is not None and number == 0 and index > first:
                    states.reached(index, self.training.state)
                order, recorded, momenta = self.order(epoch)
                positions, rates = order[number], recorded[number].tolist()
                batch, _ = step_run.batch(index)
                self.training.set_momenta(None if momenta is None else momenta[number])
                own = weights[positions].to(self.training.device) if index in steps else None
                stays = None if own is None or form == "weight" else own > 0
                if stays is not None and not bool(stays.any()):
                    continue
                left = batch
                if stays is not None and not bool(stays.all()):
                    for part in parts_of(batch):
                        self.training.functional.check_rows(self.training.params, self.training.buffers, part)
                    left = rows(batch, stays)
                with explained(epoch, number, left):
                    if stays is None:
                        self.training.step(left, rates, own)
                    else:
                        self.training.step(left, rates, divisor=self.training.divisor(batch) if form == "removed" else None)
            return [value for name in targets for value in self._values(name)]

    # ------------------------------------------------------------------ the end, and targets

    def finish(self) -> ReplayState:
        """The state after the last step.

        Raises:
            MissingEvidence: It was not kept.
            UsageError: Parameter groups joined the optimizer during training.
        """
        if self._end is None:
            self.check_groups()
            last = len(self.epochs) - 1
            if last not in self.kept:
                raise MissingEvidence(
                    f"{self.run.folder} kept no model of its last epoch; record with Recording(checkpoints='last')."
                )
            with self._own.isolated():
                self._end = self._own.state(last)
        return self._end

    def final(self) -> Params:
        """Trainable parameters after the last step, not their average."""
        end = self.finish()
        return {name: end.model[name] for name in self.training.functional.names}

    def reference(self, name: str) -> Params:
        """The reference parameters that the user gave under this name.

        Raises:
            UnknownName: No reference has this name.
        """
        if name not in self.references:
            raise UnknownName("reference", name, ("final", "best", "best_batch", *self.references))
        return self.references[name]

    def _of_this_model(self, name: str, values: Params) -> dict[str, Tensor]:
        own = self.training.params
        for key, value in own.items():
            if key not in values or values[key].shape != value.shape:
                shape = "is not in it" if key not in values else f"has shape {tuple(values[key].shape)} in it"
                raise Mismatch(
                    f"Reference {name!r} is of another model: {key} of shape {tuple(value.shape)} {shape}. Give the model's state_dict."
                )
        return {key: values[key].detach().to(value) for key, value in own.items()}

    @functools.cached_property
    def beyond_sgd(self) -> tuple[str, ...]:
        """What moved the parameters in a step besides rate times the gradient of its loss (see `core.steps.StepSource`)."""
        groups = [part for group in self.training.optimizer.param_groups for part in beyond_sgd(self.training.optimizer, group)]
        return tuple(dict.fromkeys([*groups, *([] if self.training.clip is None else ["clipping of the gradient"])]))

    def carrier(self, count: int) -> Carrier:
        """Trainings that differ a little from the recorded one (see `core.steps.StepSource.carrier`)."""
        return OptimizerCarrier(self.training, count)

    def end(self, name: str, query: int | None = None) -> Adjoint:
        """Derivative of a target, or of the loss of one of its rows, with respect to the state after the last step."""
        end, target = self.finish(), self.named(name) if query is None else self.rows_of(name).row(query)
        with self._own.isolated():
            self.training.restore(end)
            with standing_at(self.training.model, self.training.averages):
                _, params, statistics = target_gradient(self.training, target, name)
        if self.training.ema is None:
            return Adjoint(params, {}, statistics)
        return Adjoint({key: torch.zeros_like(value) for key, value in params.items()}, {}, statistics, params)

    def target_value(self, name: str, params: Params) -> float:
        """A target at these parameters, all else being as it is after the last step."""
        end = self.finish()
        with self._own.isolated():
            self.training.restore(end)
            return self._value(name, params)

    def _value(self, name: str, at: Params | None = None) -> float:
        """A target where the training stands, at the average of the parameters, if there is one; or at other parameters."""
        value = float(self._parts(name, at).sum())
        if not abs(value) < float("inf"):
            raise NumericalError(f"Target {name!r} is {value}; the model has diverged.")
        return value

    def _values(self, name: str) -> list[float]:
        """A target where the training stands; of `RowLosses` each row."""
        if not isinstance(self.named(name), RowLosses):
            return [self._value(name)]
        found = self._parts(name)
        if not bool(found.isfinite().all()):
            raise NumericalError(f"Target {name!r} is not finite; the model has diverged.")
        return found.tolist()

    def _parts(self, name: str, at: Params | None = None) -> Tensor:
        target, model = self.named(name), self.training.model
        with torch.no_grad(), mode(model, False), standing_at(model, self.training.averages if at is None else at):
            return torch.stack([part.to("cpu", torch.float64) for part in parts_of_target(target, model, name)])

    def named(self, name: str) -> Target:
        """A target by its name.

        Raises:
            UnknownName: There is none.
        """
        if name not in self.given:
            raise UnknownName("target", name, self.targets)
        return self.given[name]

    def rows_of(self, name: str) -> MeanLoss:
        """The target of that name, if it is a mean over rows.

        Raises:
            UnknownName: There is none.
            UsageError: It is a function of the model.
        """
        target = self.named(name)
        if not isinstance(target, MeanLoss):
            raise UsageError(
                f"Target {name!r} is a function of the model and has no rows to attribute to; give it as (inputs, labels) or Examples."
            )
        return target

    def queries(self, name: str) -> Queries:
        """The rows of a target (see `core.models.ModelSource`)."""
        return self.rows_of(name).queries

    # ------------------------------------------------------------------ kept models

    def final_probs(self) -> Tensor:
        """Softmax of every example by the last kept model."""
        return self._final_probs

    @functools.cached_property
    def _final_probs(self) -> Tensor:
        return torch.cat(
            [
                batch.functional.predicted(batch.params, batch.buffers, batch.batch)[0].softmax(-1).cpu()
                for batch in self.at(self.kept[-1]).passes()
            ]
        )

    def features(self, spec: FeatureSpec, positions: Int[Tensor, " some"] | None = None) -> Features:
        """Features that a kept model makes; the model is loaded now, the features are computed when they are asked for.

        Args:
            spec: The kind of features.
            positions: Positions of the examples that have features; all by default.

        Raises:
            MissingEvidence: The model was not kept.
            UsageError: The model has no such features.
        """
        ids = self.run.ids if positions is None else self.run.ids.take(positions)
        return features_of(self._model_of(spec), ids, spec, positions=positions)

    def _model_of(self, spec: FeatureSpec) -> CheckpointModel:
        kept = [epoch for epoch in self.kept if epoch >= 0]
        if spec.epoch is None and not kept:
            raise MissingEvidence(
                f"features={spec} are of a model after training, and {self.run.folder} kept none; record with Recording(checkpoints='last')."
            )
        return self.at(kept[-1] if spec.epoch is None else spec.epoch)

    def query_features(self, spec: FeatureSpec, name: str) -> Features:
        """Features that a kept model makes of the rows of a target, as it makes those of the examples.

        Raises:
            UnknownName: There is no such target.
            MissingEvidence: The model was not kept.
            UsageError: The target has no rows, or the model has no such features.
        """
        return features_of(self._model_of(spec), self.rows_of(name).queries.ids, spec, name)

    def step_sizes(self, epochs: range) -> StepSizes:
        """How far the steps of these epochs went along the gradient of the mean loss (see `core.models.ModelSource`).

        Raises:
            UsageError: The optimizer did not move once per batch.
        """
        if not self.run.has_steps:
            raise MissingEvidence(
                f"{self.run.folder} was made of saved models, between which no step is known, and so not how far they went; record the training, or ask for "
                "methods that need no steps, such as grand and tracin."
            )
        if (uneven := self.run.uneven_updates()) is not None:
            epoch, step, count = uneven
            raise UsageError(
                f"{self.run.folder}: in epoch {epoch}, batch {step}, the optimizer moved {count} times, not once, so that the rates of its moves are "
                "not known. Record a loop that steps once per batch, or ask for methods that need none, such as grand and tracin."
            )
        if self.training.division_assumed:
            raise UsageError(
                f"{self.run.folder}: several batches made a step, and nobody said what the loss of each is divided by; give assay.Loop accumulate=, that number or "
                "'batches', or ask for methods that need no step sizes, such as grand and tracin."
            )
        training, sums = self.training, torch.zeros(max(count for _, count in self.run.group_counts()), dtype=torch.float64)
        with self.isolated():
            training = training.fork()
            training.load(self.kept[-1])
        kinds = [momentum_of(training.optimizer, group) for group in training.optimizer.param_groups]
        for epoch in epochs:
            _, rates, momenta = self.order(epoch)
            rates = rates.to(torch.float64).nan_to_num()
            for place in range(rates.shape[1]):
                momentum = kinds[place]
                if momentum is not None and momenta is not None:
                    recorded = momenta[:, place, 0].to(torch.float64)
                    momentum = dataclasses.replace(momentum, factor=torch.where(recorded.isnan(), momentum.factor, recorded))
                gain = 1.0 if momentum is None else momentum.gain
                sums[place] += float((rates[:, place] * gain).sum()) / (1.0 if training.by_mean else self.divisor(epoch))
        said = []
        if None in kinds:
            said.append(
                f"The steps of {name_of(training.optimizer)} are taken for plain gradient steps at its learning rates; the size of the values means "
                "nothing then, and their order is that of another training."
            )
        if training.clip is not None:
            said.append("The gradients were clipped, and count here as they were before.")
        if self.run.header.select or self.run.header.partial:
            said.append("The steps did not take every example equally often, and count here as if they did.")
        if self.run.gap() is not None:
            said.append("Some batches were trained on in epochs that were not recorded, and do not count here.")
        return StepSizes(dict(self.rates(sums.tolist(), training)), tuple(said))

    def divisor(self, epoch: int) -> float:
        """For each example of an epoch, the number that its batch's sum of losses is divided by in a step."""
        training, steps = self.training, self.batches(epoch)
        clean = (training.together([training.clean(batch) for batch in batches]) for batches in steps)
        return sum(map(training.divisor, clean)) / sum(len(batch) for batches in steps for batch in batches)

    def at(self, epoch: int) -> "CheckpointModel":
        """The model at the end of a kept epoch.

        Raises:
            MissingEvidence: It was not kept.
        """
        if epoch not in self.kept:
            there = ", ".join(str(one) for one in self.kept if one >= 0) or "none"
            if epoch >= self.run.epochs:
                raise MissingEvidence(
                    f"{self.run.folder} kept no model of epoch {epoch}: it has {self.run.epochs} epochs, counted from 0, and kept models of {there}; choose one of these."
                )
            raise MissingEvidence(
                f"{self.run.folder} kept no model of epoch {epoch}, counted from 0, but of {there}. Choose one of these, or record with Recording(checkpoints='every')."
            )
        kept = names_inside(self.run.model(epoch), self.training.model)
        now = self.training.model.state_dict()
        for name, value in now.items():
            if name not in kept or kept[name].shape != value.shape:
                what = (
                    "is not in it"
                    if name not in kept
                    else f"has shape {tuple(kept[name].shape)} in it, {tuple(value.shape)} here"
                )
                raise Mismatch(
                    f"{self.run.folder} recorded another model or optimizer: {name} {what}. Give the model as it was recorded."
                )
        return CheckpointModel(self, epoch, {name: kept[name].to(value, copy=True) for name, value in now.items()})
