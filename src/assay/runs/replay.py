"""A recorded run taken again: any state of it, its steps forwards and backwards, and the models that it kept."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.errors import AssayError, Mismatch, MissingEvidence, NumericalError, UnknownName, UsageError
from ..core.evidence import Adjoint, Layer
from ..maths import schedules
from ..maths.derivatives import every_derivative, refuse_cut
from ..maths.observations import observe
from ..training.activations import layered
from ..training.course import Course, Params, Snapshot
from ..training.device import deterministic, own_random_state, random_state, set_random_state
from ..training.functional import SeenBatch, differentiable_statistics, mode, pair, random_layers, rows, size_of, standing_at
from ..training.loop import explained
from .disk import checksum
from .run import Run
from .schema import here

Target = Callable[[nn.Module], Iterator[Tensor]]
"""From the model in eval mode to numbers that add up to the target; several, so that one graph need not hold all examples."""
Spread = Callable[[Sequence[Tensor], range, Sequence[str], str], Tensor]
"""`Replay.retrained` for several groups, by whoever can do it elsewhere."""
BLOCK = 256
"""Examples per batch where the run does not say it."""
HELD_BYTES = 256 * 2**20
"""What the states of a stretch may take to be all held under `sqrt`."""


@dataclasses.dataclass(frozen=True, eq=False)
class TakenStep(SeenBatch):
    """One step of a replay (see `core.evidence.Step`)."""

    index: int
    epoch: int
    rates: Mapping[str, float]
    after: Params
    replay: "Replay"
    before: Snapshot
    random: tuple[Tensor, ...]
    drawn: bool

    def back(
        self, adjoints: Sequence[Adjoint], *, at: Params | None = None, curvature: bool = True
    ) -> list[tuple[Tensor, Adjoint]]:
        """The step's derivative; see `core.evidence.Step.back`."""
        # Dropout must fall as it fell.
        set_random_state(self.random)
        return self.replay.course.back(
            self.batch, self.before, self.rates, self.index, adjoints, at=at, curvature=curvature, whole=self.drawn
        )

    def batch_alone(self) -> SeenBatch:
        """The batch without what belongs to the step only."""
        return SeenBatch(self.positions, self.params, self.functional, self.buffers, self.batch)

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target by the parameters before the step, at them and not at their average."""
        with standing_at(self.replay.course.model, self.before.model):
            return _gradient(self.replay.course, self.replay.named(name), name)[1]

    def target_product(self, name: str, direction: Params) -> dict[str, Tensor]:
        """Hessian of a target before the step times a direction."""
        total: dict[str, Tensor] = {}
        model = self.replay.course.model
        with standing_at(model, self.before.model), mode(model, False), torch.enable_grad(), every_derivative():
            leaves = {key: value for key, value in model.named_parameters() if key in self.functional.names}
            for part in _parts(self.replay.named(name), model, name):
                first = torch.autograd.grad(part, list(leaves.values()), create_graph=True, materialize_grads=True)
                along = torch.stack([(g * direction[key]).sum() for key, g in zip(leaves, first, strict=True)]).sum()
                try:
                    refuse_cut(along)
                    product = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
                except (NotImplementedError, RuntimeError) as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise UsageError(f"Target {name!r} cannot be differentiated twice: {reason}; choose order=1.") from error
                total = {key: total[key] + g if key in total else g for key, g in zip(leaves, product, strict=True)}
        return total


class Replay:
    """The steps and the kept models of one run (`StepSource` and `CheckpointSource`).

    The model ends each epoch with the very parameters that were recorded, or the replay is refused. Where training kept a running
    average of the parameters, a target at the end of the run is the averaged model's.
    """

    def __init__(
        self,
        run: Run,
        course: Course,
        targets: Mapping[str, Target],
        *,
        schedule: str = "sqrt",
        memory: int | None = None,
        tolerance: float = 0.0,
        references: Mapping[str, Params] | None = None,
    ):
        """Get ready; nothing is computed yet.

        Args:
            run: What was recorded.
            course: How its steps are taken.
            targets: The numbers whose change can be asked for.
            schedule: `sqrt` (every state of the stretch in memory where they take at most `HELD_BYTES`; else about 2 sqrt(steps) of
                them, each step taken at most twice), `all` (every state in memory), `every=STEPS` (a mark every so many steps), `tree`
                or `tree=PARTS` (about (parts - 1) log(steps) states, each step taken about log(steps) times).
            memory: Bytes that the states may take; the fastest schedule that keeps to it is used instead.
            tolerance: Largest relative difference between the parameters at an epoch's end and the recorded ones; 0 asks for the
                same bits. Needs a kept checkpoint to compare with.
            references: Parameters from elsewhere that may be asked for, by name.

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
        self.run, self.course = run, course
        self.memory, self.tolerance = memory, tolerance
        self.kept = tuple(run.states())
        if not self.kept:
            raise MissingEvidence(
                f"{run.folder} kept no model from which its steps could be taken again; record with checkpoints='every', or 'last' "
                "for the last epoch and the whole run."
            )
        if (uneven := run.uneven_updates()) is not None:
            epoch, step, count = uneven
            raise UsageError(
                f"{run.folder}: in epoch {epoch}, batch {step}, the optimizer moved {count} times, not once; steps with accumulated or skipped "
                "gradients cannot be taken again. Record a loop that steps once per batch."
            )
        bounds = [0]
        for commit in run.commits:
            bounds.append(bounds[-1] + commit.steps)
        self.epochs = tuple(range(a, b) for a, b in itertools.pairwise(bounds))
        self._starts = bounds[:-1]
        self.first = bounds[self.kept[0] + 1]
        self.targets = tuple(targets)
        self.given = dict(targets)
        self.remarks: dict[str, str] = {}
        """What a reader must know of a target, a sentence each, by its name."""
        self.references = {name: self._of_this_model(name, values) for name, values in (references or {}).items()}
        self._orders: dict[int, tuple[list[Tensor], Tensor]] = {}
        self._end: Snapshot | None = None
        self._begun: tuple[int, Snapshot] | None = None
        self.spread: Spread | None = None
        self.peers: Sequence[Replay] = ()
        self._checked: set[int] = set()
        self._differing: dict[int, str] = {}
        self._losses: tuple[int, Tensor] = (-1, torch.zeros(0))
        self._held: tuple[int, dict[int, tuple[Any, tuple[Tensor, ...]]]] = (-1, {})

    # ------------------------------------------------------------------ what was recorded

    def _order(self, epoch: int) -> tuple[list[Tensor], Tensor]:
        if epoch not in self._orders:
            if len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = self.run.order(epoch), self.run.rates(epoch)
        return self._orders[epoch]

    def _place(self, index: int) -> tuple[int, int]:
        """Epoch of a step, and its number in it."""
        epoch = bisect.bisect_right(self._starts, index) - 1
        return epoch, index - self._starts[epoch]

    def visits(self, steps: range) -> Int[Tensor, " examples"]:
        """How often each example stands in the batches of these steps."""
        found = torch.zeros(len(self.run.ids), dtype=torch.int64)
        for epoch, whole in enumerate(self.epochs):
            met = max(whole.start, steps.start) < min(whole.stop, steps.stop)
            for number, batch in enumerate(self._order(epoch)[0] if met else []):
                if whole.start + number in steps:
                    found += torch.bincount(batch, minlength=len(found))
        return found

    def sizes(self, steps: range) -> list[int]:
        """How many examples each of these steps took."""
        found = []
        for epoch, whole in enumerate(self.epochs):
            if max(whole.start, steps.start) < min(whole.stop, steps.stop):
                found += [len(batch) for n, batch in enumerate(self._order(epoch)[0]) if whole.start + n in steps]
        return found

    # ------------------------------------------------------------------ taking steps

    @contextlib.contextmanager
    def _taking(self) -> Iterator[None]:
        """Everything as it was in training: threads, random state of our own, repeatable kernels."""
        threads = torch.get_num_threads()
        with own_random_state(self.course.device), deterministic(self.course.device), self.course.apart():
            torch.set_num_threads(self.run.header.threads)
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    def _state(self, epoch: int) -> Snapshot:
        """The state at the end of a kept epoch, ready for the next one's first step."""
        self.course.load(epoch)
        return self.course.snapshot()

    def _fetch(self, index: int) -> tuple[Any, tuple[Tensor, ...]]:
        """The batch of the step that the course stands before, and torch's random state as the step finds it."""
        epoch, number = self._place(index)
        positions = self._order(epoch)[0][number]
        if not self.course.free and self._held[0] == epoch and number in self._held[1]:
            batch, random = self._held[1][number]
            set_random_state(random)
            return batch, random
        if number == 0:
            self.course.begin(epoch)
        batch = self.course.fetch(epoch, number, positions)
        if size_of(batch) != len(positions):
            raise Mismatch(
                f"Epoch {epoch}, step {number} recorded {len(positions)} examples, the loader now gives {size_of(batch)}; give the "
                "loader as it was."
            )
        random = random_state(self.course.device)
        if not self.course.free:
            if self._held[0] != epoch:
                self._held = epoch, {}
            self._held[1][number] = batch, random
        return batch, random

    def _take(self, index: int) -> tuple[Any, tuple[Tensor, ...], bool]:
        """Take one step from where the course stands: its batch, the random state that it found, and whether it drew from it."""
        epoch, number = self._place(index)
        # A recording that went on elsewhere after a break may have had other threads from then on.
        if (threads := int(self.run.condition("threads", epoch))) != torch.get_num_threads():
            torch.set_num_threads(threads)
        order, rates = self._order(epoch)
        batch, random = self._fetch(index)
        with explained(epoch, number, batch):
            logits = self.course.take(batch, rates[number].tolist())
        if epoch not in self._checked:
            if logits is not None and self.run.header.view == "train" and epoch not in self._differing:
                self._compare(epoch, number, logits, order[number])
            if index + 1 == self.epochs[epoch].stop:
                self._check(epoch)
                self._checked.add(epoch)
        return batch, random, not torch.equal(random[-1], random_state(self.course.device)[-1])

    def _compare(self, epoch: int, number: int, logits: Tensor, positions: Tensor) -> None:
        """Remember the first step whose losses are not those that were recorded."""
        if self._losses[0] != epoch:
            self._losses = epoch, self.run.shard(epoch).read("losses")
        recorded = self._losses[1][positions]
        labels = self.run.labels[positions].to(logits.device)
        found = observe(logits.to(torch.float32), labels)["losses"].cpu()
        if not torch.equal(found, recorded):
            at = int((found != recorded).nonzero()[0])
            self._differing[epoch] = (
                f"step {number} is the first that differs: the loss of id {self.run.ids.values[int(positions[at])]} was {float(recorded[at]):.9g} and is {float(found[at]):.9g}"
            )

    def _refuse(self, epoch: int, where: str) -> NoReturn:
        first = f" ({self._differing[epoch]})" if epoch in self._differing else ""
        here_now = here()
        changed = {name: self.run.condition(name, epoch) for name in ("torch", "machine")}
        other = [f"{name} {then}, here is {here_now[name]}" for name, then in changed.items() if then != here_now[name]]
        if other:
            raise Mismatch(
                f"Taking {self.run.folder} again does not give what was recorded: epoch {epoch}, {where}{first}. It was recorded by "
                f"{' and '.join(other)}: take it again there, or record it here."
            )
        raise Mismatch(
            f"Taking {self.run.folder} again does not give what was recorded: epoch {epoch}, {where}{first}. Training was not "
            "deterministic, or model, data, optimizer or torch are not those of the recording."
        )

    def _check(self, epoch: int) -> None:
        """Hold the parameters at an epoch's end, and their average, against the recorded ones."""
        sums = self.run.state_sums(epoch)
        now = {name: value for name, value in self.course.model.state_dict().items() if name in sums}
        if self.course.averages:
            sums |= {f"the average of {name}": value for name, value in self.run.average_sums(epoch).items()}
            own = {f"the average of {name}": value for name, value in self.course.averages.items()}
            now |= {name: value for name, value in own.items() if name in sums}
        differing = [name for name, value in now.items() if checksum(value) != sums[name]]
        if not differing:
            return
        gap = self._gap(epoch)
        if self.tolerance == 0:
            far = "" if gap is None else f"; they are {gap:.2g} of their norm apart, and tolerance=0 allows nothing"
            self._refuse(epoch, f"{len(differing)} of {len(now)} tensors differ at its end, {differing[0]} among them{far}")
        if gap is not None and not gap <= self.tolerance:
            self._refuse(epoch, f"the parameters are {gap:.2g} of their norm apart at its end, and tolerance={self.tolerance:g}")

    def _gap(self, epoch: int) -> float | None:
        """Distance from the recorded parameters and their average at an epoch's end, as a part of their norm; None if they were not kept."""
        if epoch not in self.kept:
            return None
        recorded = self.run.model(epoch)
        own = {name: value.double().cpu() for name, value in self.course.params.items()}
        if self.course.averages:
            recorded |= {f"the average of {name}": value for name, value in self.run.averages(epoch).items()}
            own |= {f"the average of {name}": value.double().cpu() for name, value in self.course.averages.items()}
        apart = torch.stack([(own[name] - recorded[name].double()).square().sum() for name in own]).sum().sqrt()
        return float(apart / torch.stack([recorded[name].double().square().sum() for name in own]).sum().sqrt())

    def _advance(self, state: Snapshot, start: int, stop: int) -> Snapshot:
        self.course.restore(state)
        for index in range(start, stop):
            self._take(index)
        return self.course.snapshot()

    def _step(self, index: int, before: Snapshot) -> TakenStep:
        """Take one step, and everything about it."""
        self.course.restore(before)
        batch, random, drawn = self._take(index)
        after = {name: value.clone() for name, value in self.course.params.items()}
        return self._told(index, before, batch, random, drawn, after)

    def _told(
        self, index: int, before: Snapshot, batch: Any, random: tuple[Tensor, ...], drawn: bool, after: Params
    ) -> TakenStep:
        epoch, number = self._place(index)
        order, rates = self._order(epoch)
        functional = self.course.functional
        return TakenStep(
            positions=order[number],
            params={name: before.model[name] for name in functional.names},
            functional=functional,
            buffers=self._buffers(before),
            batch=batch,
            index=index,
            epoch=epoch,
            rates=self.course.rates(rates[number].tolist()),
            after=after,
            replay=self,
            before=before,
            random=random,
            drawn=drawn,
        )

    def _buffers(self, state: Snapshot) -> dict[str, Tensor]:
        return {name: state.model.get(name, value) for name, value in self.course.buffers.items()}

    def _anchors(self, steps: range) -> list[tuple[int, int]]:
        """(step, epoch kept just before it) of the kept states that these steps can be taken from, in order."""
        if steps.start < self.first:
            raise MissingEvidence(
                f"Step {steps.start} cannot be taken again: {self.run.folder} kept no model before step {self.first}. Choose a later window, "
                "or record with checkpoints='every'."
            )
        found = [(self.epochs[epoch].stop if epoch >= 0 else 0, epoch) for epoch in self.kept]
        found = [(step, epoch) for step, epoch in found if step < steps.stop]
        start = max(place for place, (step, _) in enumerate(found) if step <= steps.start)
        return found[start:]

    def forwards(self, steps: range) -> Iterator[TakenStep]:
        """These steps, first to last."""
        if not steps:
            return
        with self._taking():
            anchor, epoch = self._anchors(steps)[0]
            self.course.load(epoch)
            for index in range(anchor, steps.start):
                self._take(index)
            for index in steps:
                before = self.course.snapshot()
                batch, random, drawn = self._take(index)
                # Whoever looks at the step may draw, but not from the training.
                now = random_state(self.course.device)
                yield self._told(index, before, batch, random, drawn, self.course.params)
                set_random_state(now)

    def backwards(self, steps: range, *, replay: bool = True) -> Iterator[TakenStep]:
        """These steps, last to first."""
        if not steps:
            return
        with self._taking():
            if not replay:
                yield from self._still(steps)
                return
            anchors = self._anchors(steps)
            stops = [*(step for step, _ in anchors[1:]), steps.stop]
            for (start, epoch), stop in reversed(list(zip(anchors, stops, strict=True))):
                state = self._state(epoch)
                if start < steps.start:
                    state, start = self._advance(state, start, steps.start), steps.start
                following: Params | None = None
                for index, before in self._walk(state, start, stop):
                    # The last step of a stretch is taken, so that its end is held against the recorded one.
                    step = self._step(index, before) if following is None else self._retold(index, before, following)
                    following = step.params
                    yield step

    def _retold(self, index: int, before: Snapshot, after: Params) -> TakenStep:
        """A step whose end is known already, without taking it once more."""
        self.course.restore(before)
        batch, random = self._fetch(index)
        return self._told(index, before, batch, random, self._draws(), after)

    def _walk(self, state: Snapshot, start: int, stop: int) -> Iterator[tuple[int, Snapshot]]:
        if self.course.free:
            yield from schedules.backwards(state, start, stop, self._advance, self._split(state, stop - start))
            return
        # Batches come in the loader's own order only, so that every epoch is gone through from its beginning and then held.
        spans = [range(max(whole.start, start), min(whole.stop, stop)) for whole in self.epochs]
        spans = [span for span in spans if span]
        outer, beside = self._outer(state, spans)
        for place, own in schedules.backwards(state, 0, len(spans), self._across(spans), outer):
            span = spans[place]
            if self._held[0] != self._place(span.start)[0]:
                self._advance(own, span.start, span.stop)
            yield from schedules.backwards(own, span.start, span.stop, self._advance, self._split(own, len(span), beside))

    def _across(self, spans: Sequence[range]) -> Callable[[Snapshot, int, int], Snapshot]:
        return lambda state, first, last: self._advance(state, spans[first].start, spans[last].start)

    def _outer(self, state: Snapshot, spans: Sequence[range]) -> tuple[schedules.Split, int]:
        """How the starts of epochs are held, and how many of them at most stand beside the one in hand.

        All of them; with a budget as many as it has room for beside the fewest that go through an epoch.
        """
        if self.memory is None or len(spans) == 1:
            return schedules.every, len(spans) - 1
        within = schedules.cost(schedules.tree(2), max(map(len, spans)))[0]
        split = self._fitting(state, len(spans), self.memory - (within - 1) * state.bytes)
        return split, schedules.cost(split, len(spans))[0] - 1

    def _split(self, state: Snapshot, steps: int, beside: int = 0) -> schedules.Split:
        """How a stretch of steps is held, beside so many other states."""
        if self.memory is not None:
            return self._fitting(state, steps, self.memory - beside * state.bytes)
        if self._named_split is schedules.square_root and (beside + steps) * state.bytes <= HELD_BYTES:
            return schedules.every
        return self._named_split

    def _fitting(self, state: Snapshot, steps: int, memory: int) -> schedules.Split:
        try:
            return schedules.within(memory // state.bytes, steps)
        except ValueError as error:
            raise UsageError(f"memory={self.memory}: a state takes {state.bytes} bytes. {error}") from error

    def _still(self, steps: range) -> Iterator[TakenStep]:
        end = self._finish()
        final = {name: end.model[name] for name in self.course.functional.names}
        if self.course.free:
            if self._draws():
                raise UsageError(
                    "The model draws at random in training (dropout), so its steps cannot be seen again without being taken again; "
                    "choose form=exact."
                )
            for index in reversed(steps):
                batch, random = self._fetch(index)
                yield self._told(index, end, batch, random, False, final)
            return
        for step in self.backwards(steps):
            yield dataclasses.replace(step, params=final, after=final, before=end, buffers=self._buffers(end))

    def retrained(
        self, without: Sequence[Int[Tensor, " group"]], steps: range, targets: Sequence[str], form: str = "weight"
    ) -> Float[Tensor, "trainings targets"]:
        """Targets at the end of the run, had some examples been left out; see `StepSource.retrained`."""
        if self.spread is not None and len(without) > 1:
            return self.spread(without, steps, targets, form)
        values = torch.zeros(len(without), len(targets), dtype=torch.float64)
        for place, group in enumerate(without):
            weights = torch.ones(len(self.run.ids), dtype=torch.float64)
            weights[group] = 0
            values[place] = torch.tensor(self._again(weights, steps, targets, form), dtype=torch.float64)
        return values

    def reweighted(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> float:
        """A target at the end of the run, had the losses of these steps been multiplied by these weights."""
        return self._again(weights, steps, [target], "weight")[0]

    def _again(self, weights: Tensor, steps: range, targets: Sequence[str], form: str) -> list[float]:
        with self._taking():
            if self._begun is None or self._begun[0] != steps.start or not self.course.free:
                anchor, epoch = self._anchors(range(steps.start, self.epochs[-1].stop))[0]
                self._begun = steps.start, self._advance(self._state(epoch), anchor, steps.start)
            self.course.restore(self._begun[1])
            for index in range(steps.start, self.epochs[-1].stop):
                epoch, number = self._place(index)
                order, recorded = self._order(epoch)
                positions, rates = order[number], recorded[number].tolist()
                batch, _ = self._fetch(index)
                own = weights[positions].to(self.course.device) if index in steps else None
                stays = None if own is None or form == "weight" else own > 0
                if stays is not None and not bool(stays.any()):
                    continue
                left = batch if stays is None or bool(stays.all()) else rows(batch, stays)
                with explained(epoch, number, left):
                    if stays is None:
                        self.course.take(left, rates, own)
                    else:
                        self.course.take(left, rates, divisor=len(positions) if form == "removed" else None)
            return [self._value(name) for name in targets]

    # ------------------------------------------------------------------ the end, and targets

    def _finish(self) -> Snapshot:
        if self._end is None:
            with self._taking():
                last = len(self.epochs) - 1
                if last not in self.kept:
                    raise MissingEvidence(f"{self.run.folder} kept no model of its last epoch; record with checkpoints='last'.")
                self._end = self._state(last)
        return self._end

    def _draws(self) -> bool:
        """Whether a random layer is at work in training."""
        return bool(random_layers(self.course.model))

    def final(self) -> Params:
        """Trainable parameters after the last step, not their average."""
        end = self._finish()
        return {name: end.model[name] for name in self.course.functional.names}

    def reference(self, name: str) -> Params:
        """Trainable parameters that were given from outside.

        Raises:
            UnknownName: None have that name.
        """
        if name not in self.references:
            raise UnknownName("reference", name, ("final", "best", "best_batch", *self.references))
        return self.references[name]

    def _of_this_model(self, name: str, values: Params) -> dict[str, Tensor]:
        own = self.course.params
        for key, value in own.items():
            if key not in values or values[key].shape != value.shape:
                shape = "is not in it" if key not in values else f"has shape {tuple(values[key].shape)} in it"
                raise Mismatch(
                    f"Reference {name!r} is of another model: {key} of shape {tuple(value.shape)} {shape}. Give the model's state_dict."
                )
        return {key: values[key].detach().to(value) for key, value in own.items()}

    def end(self, name: str) -> Adjoint:
        """Derivative of a target by the state after the last step."""
        with self._taking():
            end = self._finish()
            self.course.restore(end)
            with standing_at(self.course.model, self.course.averages):
                _, params, statistics = _gradient(self.course, self.named(name), name)
        if self.course.ema is None:
            return Adjoint(params, {}, statistics)
        return Adjoint({key: torch.zeros_like(value) for key, value in params.items()}, {}, statistics, params)

    def _value(self, name: str) -> float:
        """A target where the course stands: at the average of the parameters, if there is one."""
        target, model = self.named(name), self.course.model
        with torch.no_grad(), mode(model, False), standing_at(model, self.course.averages):
            value = float(torch.stack([part.to(torch.float64) for part in _parts(target, model, name)]).sum())
        if not abs(value) < float("inf"):
            raise NumericalError(f"Target {name!r} is {value}; the model has diverged.")
        return value

    def named(self, name: str) -> Target:
        """A target by its name.

        Raises:
            UnknownName: There is none.
        """
        if name not in self.given:
            raise UnknownName("target", name, self.given)
        return self.given[name]

    # ------------------------------------------------------------------ kept models

    def consensus(self) -> Tensor:
        """The class that most of the recording's models end with; of several that of the largest mean probability.

        Raises:
            UsageError: A batch is not (inputs, labels).
        """
        probs = torch.stack([peer.final_probs for peer in self.peers or [self]])
        counts = nn.functional.one_hot(probs.argmax(-1), probs.shape[-1]).sum(0)
        total = probs.sum(0)
        most = counts == counts.amax(1, keepdim=True)
        return total.masked_fill(~most, -1).argmax(1)

    @functools.cached_property
    def final_probs(self) -> Tensor:
        """Softmax of every example by the last kept model."""
        return torch.cat(
            [
                batch.functional.logits(batch.params, batch.buffers, pair(batch.batch)[0]).softmax(-1).cpu()
                for batch in self.at(self.kept[-1]).batches()
            ]
        )

    def at(self, epoch: int) -> "KeptModel":
        """The model at the end of a kept epoch.

        Raises:
            MissingEvidence: It was not kept.
        """
        if epoch not in self.kept:
            raise MissingEvidence(
                f"{self.run.folder} kept no model of epoch {epoch}; it kept {', '.join(map(str, self.kept))} (-1 is the state before "
                "training). Record with checkpoints='every'."
            )
        with self._taking():
            state = self._state(epoch)
        return KeptModel(self, epoch, state)


class KeptModel:
    """One kept model of a run (`core.evidence.Checkpoint`)."""

    def __init__(self, replay: Replay, epoch: int, state: Snapshot):
        self._replay, self._state, self.epoch = replay, state, epoch
        course = replay.course
        rates = replay.run.rates(max(epoch, 0))
        self.rates: Mapping[str, float] = course.rates(rates[-1 if epoch >= 0 else 0].tolist())
        self.params: Params = {name: state.model[name] for name in course.functional.names}
        self.head: tuple[str, ...] = ()
        for name, layer in course.model.named_modules():
            if isinstance(layer, nn.Linear):
                own = (f"{name}.weight" if name else "weight", f"{name}.bias" if name else "bias")
                self.head = tuple(one for one in own if one in self.params) or self.head

    def batches(self) -> Iterator[SeenBatch]:
        """Every example once, without augmentation."""
        course = self._replay.course
        buffers = {name: self._state.model.get(name, value) for name, value in course.buffers.items()}
        for positions in torch.arange(len(self._replay.run.ids)).split(BLOCK):
            yield SeenBatch(positions, self.params, course.functional, buffers, course.clean(positions))

    def embeddings(self, names: Sequence[str] | None = None) -> Iterator[Layer]:
        """What the layers make of every example (see `core.evidence.Checkpoint`).

        Raises:
            UnknownName: No module has that name.
            UsageError: A batch is not (inputs, labels), or a layer does not give rows.
        """
        first = next(self.batches())
        yield from layered(
            first.functional.model,
            lambda: ((one.positions, pair(one.batch)[0]) for one in self.batches()),
            lambda inputs: first.functional.logits(first.params, first.buffers, inputs),
            len(self._replay.run.ids),
            names,
        )

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target by the parameters, at them: steps are taken at the parameters, not at their average."""
        with standing_at(self._replay.course.model, self._state.model):
            return _gradient(self._replay.course, self._replay.named(name), name)[1]


def _parts(target: Target, model: nn.Module, name: str) -> Iterator[Tensor]:
    """The numbers that add up to a target.

    Raises:
        UsageError: It cannot be computed, or is no single number.
    """
    try:
        for part in target(model):
            if not isinstance(part, Tensor) or part.ndim or not part.is_floating_point():
                raise UsageError(f"Target {name!r} is no single number; return a scalar tensor.")
            yield part
    except AssayError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"Target {name!r} cannot be computed: {reason}. Give inputs and labels as the model takes them."
        ) from error


def _gradient(course: Course, target: Target, name: str) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Value of a target, and its derivative by trainable parameters and by running statistics.

    Raises:
        UsageError: It does not depend on the parameters.
        NumericalError: It is not finite.
    """
    model = course.model
    buffers = {n: b for n, b in model.named_buffers() if b.is_floating_point() and n.endswith(("running_mean", "running_var"))}
    leaves = {n: p for n, p in model.named_parameters() if n in course.functional.names}
    total: dict[str, Tensor] = {}
    value = 0.0
    depends = False
    with mode(model, False), torch.enable_grad(), differentiable_statistics():
        try:
            for buffer in buffers.values():
                buffer.requires_grad_()
            for part in _parts(target, model, name):
                value += float(part.detach())
                if not part.requires_grad:
                    continue
                wanted = [*leaves.values(), *buffers.values()]
                found = torch.autograd.grad(part, wanted, allow_unused=True)
                for key, leaf, gradient in zip([*leaves, *buffers], wanted, found, strict=True):
                    depends = depends or (key in leaves and gradient is not None)
                    gradient = torch.zeros_like(leaf) if gradient is None else gradient
                    total[key] = total[key] + gradient if key in total else gradient
        finally:
            for buffer in buffers.values():
                buffer.requires_grad_(False)
    if not depends:
        raise UsageError(f"Target {name!r} does not depend on any trainable parameter of the model; nothing could change it.")
    if not value < float("inf") or value != value:
        raise NumericalError(f"Target {name!r} is {value}; the model has diverged.")
    return value, {n: total[n] for n in leaves}, {n: total[n] for n in buffers}
