"""One step of a replay, and one run over steps."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ..core.errors import Mismatch, UsageError
from ..core.steps import Adjoint, Curvature
from ..maths import schedules
from ..maths.derivatives import check_twice_differentiable
from ..maths.differentiable import DifferentiableOperations, math_attention
from ..maths.params import Params, dot
from ..training.batches import size_of
from ..training.device import deterministic, mode, own_random_state, random_layers, random_state, set_random_state
from ..training.loop import explained
from ..training.state import standing_at
from .model_batches import ModelBatch

if TYPE_CHECKING:
    from .replay import Replay
from .replayable import ReplayableTraining, ReplayState
from .targets import parts_of_target, target_gradient

CONFIRM_TWICE = 100
"""Steps of a sweep from which on two of its derivatives, not one, are compared with central differences."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReplayedStep(ModelBatch):
    """One step of a replay (see `core.steps.Step`)."""

    index: int
    epoch: int
    rates: Mapping[str, float]
    after: Params
    step_run: "StepRun"
    before: ReplayState
    random: tuple[Tensor, ...]
    drawn: bool
    momenta: Tensor | None
    confirmed: bool
    """Whether the step's derivative is compared with central differences."""

    def back(
        self, adjoints: Sequence[Adjoint], *, at: Params | None = None, curvature: Curvature = "hessian"
    ) -> list[tuple[Tensor, Adjoint]]:
        """The step's derivative; see `core.steps.Step.back`."""
        training = self.step_run.training
        with self.step_run.isolated():
            training.set_momenta(self.momenta)
            if at is None and curvature == "hessian":
                self.step_run.confirm(self, adjoints)
            # Dropout must fall as it fell.
            set_random_state(self.random)
            return training.back(
                self.batch, self.before, self.rates, self.index, adjoints, at=at, curvature=curvature, whole=self.drawn
            )

    def gradient(self) -> dict[str, Tensor]:
        """Gradient of the step's loss; see `core.steps.Step.gradient`."""
        training = self.step_run.training
        with self.step_run.isolated():
            training.set_momenta(self.momenta)
            set_random_state(self.random)
            return training.gradient(self.batch, self.before)

    def batch_alone(self) -> ModelBatch:
        """The batch without the fields that only a step has."""
        return ModelBatch(self.positions, self.params, self.functional, self.buffers, self.batch)

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target with respect to the parameters before the step, taken at the parameters and not at their running average."""
        training = self.step_run.training
        with self.step_run.isolated(), standing_at(training.model, self.before.model):
            return target_gradient(training, self.step_run.replay.named(name), name, statistics=False)[1]

    def target_product(self, name: str, direction: Params) -> dict[str, Tensor]:
        """Product of a direction with the Hessian of a target before the step."""
        total: dict[str, Tensor] = {}
        model = self.step_run.training.model
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.step_run.isolated())
            stack.enter_context(standing_at(model, self.before.model))
            stack.enter_context(mode(model, False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(math_attention())
            stack.enter_context(DifferentiableOperations())
            leaves = {key: value for key, value in model.named_parameters() if key in self.functional.names}
            for part in parts_of_target(self.step_run.replay.named(name), model, name):
                first = torch.autograd.grad(part, list(leaves.values()), create_graph=True, materialize_grads=True)
                along = dot(dict(zip(leaves, first, strict=True)), direction)
                try:
                    check_twice_differentiable(along)
                    product = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
                except (NotImplementedError, RuntimeError) as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise UsageError(f"Target {name!r} cannot be differentiated twice: {reason}; choose order=1.") from error
                total = {key: total[key] + g if key in total else g for key, g in zip(leaves, product, strict=True)}
        return total


class StepRun:
    """One pass over the steps of a recorded training, on a separate copy of it, so that several passes may be in progress at the same time.

    Between two steps the process is as it is outside the pass: thread count, determinism and random states are restored.
    """

    def __init__(self, replay: "Replay", training: ReplayableTraining):
        self.replay, self.training = replay, training
        self._generators: Any = None
        self._losses: tuple[int, Tensor] = (-1, torch.zeros(0))
        self._held: tuple[int, dict[int, tuple[Any, tuple[Tensor, ...]]]] = (-1, {})
        self._to_confirm: frozenset[int] = frozenset()

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """A context manager with the thread count and kernels of the training, which restores the random states at its end."""
        threads = torch.get_num_threads()
        with own_random_state(self.training.device), deterministic(self.training.device), self.training.isolated():
            torch.set_num_threads(self.replay.run.header.threads)
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """A context manager as `isolated`, with the random states at which this pass stopped."""
        with self.isolated():
            if self._generators is not None:
                self.training.set_generators(self._generators)
            try:
                yield
            finally:
                self._generators = self.training.generators()

    def _resumed(self, steps: Iterator[ReplayedStep]) -> Iterator[ReplayedStep]:
        """The same steps, each made while standing."""
        while True:
            with self.standing():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def forwards(self, steps: range) -> Iterator[ReplayedStep]:
        """The steps, repeated first to last."""
        return self._resumed(self._forwards(steps))

    def backwards(self, steps: range, *, replay: bool = True) -> Iterator[ReplayedStep]:
        """These steps, last to first; without `replay`, all of them at the state at the end of the run."""
        # A step whose adjoint knows the optimizer's buffers says more than the very last.
        chosen = [steps.stop - min(2, len(steps)), *([steps[len(steps) // 2]] if len(steps) >= CONFIRM_TWICE else [])]
        self._to_confirm = frozenset(chosen)
        return self._resumed(self._backwards(steps) if replay else self._still(steps))

    # ------------------------------------------------------------------ single steps

    def state(self, epoch: int) -> ReplayState:
        """The state at the end of a kept epoch, ready for the next one's first step."""
        self.training.load(epoch)
        return self.training.state()

    def batch(self, index: int) -> tuple[Any, tuple[Tensor, ...]]:
        """The batch of the next step of the training, and torch's random state before that step."""
        epoch, number = self.replay.place(index)
        if not self.training.free and self._held[0] == epoch and number in self._held[1]:
            batch, random = self._held[1][number]
            set_random_state(random)
            return batch, random
        if number == 0:
            self.training.start_epoch(epoch)
        steps = self.replay.batches(epoch)
        first = sum(map(len, steps[:number]))
        found = []
        for place, positions in enumerate(steps[number], first):
            found.append(batch := self.training.batch(epoch, place, positions))
            if size_of(batch) != len(positions):
                raise Mismatch(
                    f"Epoch {epoch}, step {place} recorded {len(positions)} examples, the loader now gives {size_of(batch)}; give the "
                    "loader as it was."
                )
        batch = self.training.together(found)
        random = random_state(self.training.device)
        if not self.training.free:
            if self._held[0] != epoch:
                self._held = epoch, {}
            self._held[1][number] = batch, random
        return batch, random

    def advance_one(self, index: int) -> tuple[Any, tuple[Tensor, ...], bool]:
        """Take the next step; gives the step's batch, the random state before it, and whether the step drew random numbers."""
        replay = self.replay
        epoch, number = replay.place(index)
        # A recording that went on elsewhere after a break may have had other threads from then on.
        if (threads := int(replay.run.condition("threads", epoch))) != torch.get_num_threads():
            torch.set_num_threads(threads)
        _, rates, momenta = replay.order(epoch)
        batch, random = self.batch(index)
        self.training.set_momenta(None if momenta is None else momenta[number])
        with explained(epoch, number, batch):
            logits = self.training.step(batch, rates[number].tolist())
        if not replay.checked(epoch):
            known = replay.run.header.view == "train" and not replay.run.header.partial
            if logits is not None and known and not replay.compared(epoch):
                if self._losses[0] != epoch:
                    self._losses = epoch, replay.run.shard(epoch).read("losses")
                replay.compare(epoch, number, logits, self._losses[1])
            if index + 1 == replay.epochs[epoch].stop:
                replay.check(epoch, self.training)
        return batch, random, not torch.equal(random[-1], random_state(self.training.device)[-1])

    def advance(self, state: ReplayState, start: int, stop: int) -> ReplayState:
        """The state after the steps `start` to `stop`, taken from `state`."""
        self.training.restore(state)
        for index in range(start, stop):
            self.advance_one(index)
        return self.training.state()

    def _step(self, index: int, before: ReplayState) -> ReplayedStep:
        """Take one step, and everything about it."""
        self.training.restore(before)
        batch, random, drawn = self.advance_one(index)
        after = {name: value.clone() for name, value in self.training.params.items()}
        return self._described(index, before, batch, random, drawn, after)

    def _step_again(self, index: int, before: ReplayState, after: Params) -> ReplayedStep:
        """A step whose end is known already, without taking it once more."""
        self.training.restore(before)
        batch, random = self.batch(index)
        return self._described(index, before, batch, random, self._draws(), after)

    def _described(
        self, index: int, before: ReplayState, batch: Any, random: tuple[Tensor, ...], drawn: bool, after: Params
    ) -> ReplayedStep:
        epoch, number = self.replay.place(index)
        order, rates, momenta = self.replay.order(epoch)
        functional = self.training.functional_of(batch)
        return ReplayedStep(
            positions=order[number],
            params={name: before.model[name] for name in functional.names},
            functional=functional,
            buffers=self._buffers(before),
            batch=batch,
            index=index,
            epoch=epoch,
            rates=self.replay.rates(rates[number].tolist(), self.training),
            after=after,
            step_run=self,
            before=before,
            random=random,
            drawn=drawn,
            momenta=None if momenta is None else momenta[number],
            confirmed=index in self._to_confirm,
        )

    def _buffers(self, state: ReplayState) -> dict[str, Tensor]:
        return {name: state.model.get(name, value) for name, value in self.training.buffers.items()}

    def _draws(self) -> bool:
        """Whether a random layer is at work in training."""
        return bool(random_layers(self.training.model))

    def confirm(self, step: ReplayedStep, adjoints: Sequence[Adjoint]) -> None:
        """Refuse a training whose steps cannot be differentiated rightly: hidden state, and derivatives that central differences refute.

        Raises:
            UsageError: State that is no parameter depends on the parameters, and the loss or a target reads it.
            NumericalError: The derivative of the step is wrong.
        """
        self.replay.check_hidden_state(self.training, step)
        if step.confirmed and step.index not in self.replay.derivative_errors and adjoints:
            self.replay.confirm_derivative(self.training, step, adjoints[0])

    # ------------------------------------------------------------------ stretches of steps

    def _forwards(self, steps: range) -> Iterator[ReplayedStep]:
        anchor, epoch = self.replay.anchors(steps)[0]
        self.training.load(epoch)
        for index in range(anchor, steps.start):
            self.advance_one(index)
        for index in steps:
            before = self.training.state()
            batch, random, drawn = self.advance_one(index)
            yield self._described(index, before, batch, random, drawn, self.training.params)

    def _backwards(self, steps: range) -> Iterator[ReplayedStep]:
        anchors = self.replay.anchors(steps)
        stops = [*(step for step, _ in anchors[1:]), steps.stop]
        for (start, epoch), stop in reversed(list(zip(anchors, stops, strict=True))):
            state = self.state(epoch)
            if start < steps.start:
                state, start = self.advance(state, start, steps.start), steps.start
            following: Params | None = None
            for index, before in self._states(state, start, stop):
                # The last step of a stretch is taken, so that its end is held against the recorded one.
                step = self._step(index, before) if following is None else self._step_again(index, before, following)
                following = step.params
                yield step

    def _states(self, state: ReplayState, start: int, stop: int) -> Iterator[tuple[int, ReplayState]]:
        """The states before these steps, last to first."""
        replay = self.replay
        if self.training.free:
            yield from schedules.backwards(state, start, stop, self.advance, replay.split(state, stop - start))
            return
        # Batches come in the loader's own order only, so that every epoch is gone through from its beginning and then held.
        spans = [range(max(whole.start, start), min(whole.stop, stop)) for whole in replay.epochs]
        spans = [span for span in spans if span]
        outer, beside = self._outer(state, spans)
        for place, first in schedules.backwards(state, 0, len(spans), self._across(spans), outer):
            span = spans[place]
            if self._held[0] != replay.place(span.start)[0]:
                self.advance(first, span.start, span.stop)
            yield from schedules.backwards(first, span.start, span.stop, self.advance, replay.split(first, len(span), beside))

    def _across(self, spans: Sequence[range]) -> Callable[[ReplayState, int, int], ReplayState]:
        return lambda state, first, last: self.advance(state, spans[first].start, spans[last].start)

    def _outer(self, state: ReplayState, spans: Sequence[range]) -> tuple[schedules.Split, int]:
        """How the starts of epochs are held, and how many of them at most stand beside the one in hand.

        All of them; with a budget as many as it has room for beside the fewest that go through an epoch.
        """
        memory = self.replay.memory
        if memory is None or len(spans) == 1:
            return schedules.every, len(spans) - 1
        within = schedules.cost(schedules.tree(2), max(map(len, spans)))[0]
        split = self.replay.fitting(state, len(spans), memory - (within - 1) * state.bytes)
        return split, schedules.cost(split, len(spans))[0] - 1

    def _still(self, steps: range) -> Iterator[ReplayedStep]:
        end = self.replay.finish()
        final = {name: end.model[name] for name in self.training.functional.names}
        if self.training.free:
            if self._draws():
                raise UsageError(
                    "The model draws at random in training (dropout), so its steps cannot be seen again without being repeated; "
                    "choose form=exact."
                )
            for index in reversed(steps):
                self.training.restore(end)
                batch, random = self.batch(index)
                self.training.check_loss(batch)
                yield self._described(index, end, batch, random, False, final)
            return
        for step in self._backwards(steps):
            yield dataclasses.replace(step, params=final, after=final, before=end, buffers=self._buffers(end))


class RatesByName(dict[str, float]):
    """Learning rates by parameter, except for parameters trained by an optimizer that was not recorded."""

    def __missing__(self, name: str) -> NoReturn:
        raise UsageError(
            f"{name} is in no group of the optimizer that was recorded, and changed all the same: another optimizer trains it, whose "
            "learning rate is not known. Record with all of them as optimizer=[...], or ask for a method that needs no rates, such as grand."
        )
