"""A training whose steps can be repeated and differentiated."""

import abc
import contextlib
import copy
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..core.errors import AssayError, UsageError
from ..core.steps import Adjoint, Curvature
from ..maths.differentiable import math_attention
from ..maths.params import Params
from ..maths.trajectories import SGDUpdate, Update, average_back, clip_back, clipped
from ..training.batches import MicroBatches, parts_of, rows, size_of, tensors
from ..training.device import random_state, set_random_state
from ..training.step import average, trainable
from .functional import Functional
from .joined import JoinedOptimizers, optimizers_of
from .losses import WeightedBatch
from .optimizers import TORCH_CLIP, update_of
from .step_losses import step_losses

PART = 32
"""Examples per part, at least, of a batch that is differentiated in parts: with images measured faster than whole on the CPU, in less memory."""
PART_CUDA = 256
"""The same on CUDA, where small parts leave the device idle: a batch of 128 took four times as long in parts of 32."""
PART_BYTES = 2**16
"""Of what the model is given: where examples are small, a part has as many as fit, because every part costs the same once more."""


def _part_size(batch: Any, device: torch.device) -> int:
    """Examples in one part of a batch."""
    held = sum(part.numel() * part.element_size() for part in tensors(batch))
    return max(PART_CUDA if device.type == "cuda" else PART, PART_BYTES * size_of(batch) // max(held, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class ReplayState:
    """Training as it stands before a step: everything that the step reads, copied."""

    model: dict[str, Tensor]
    slots: dict[str, dict[str, Tensor]]
    averages: dict[str, Tensor]
    random: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        """Memory that the state takes, in bytes."""
        slots = [self.averages, *self.slots.values()]
        tensors = [*self.model.values(), *(value for slot in slots for value in slot.values()), *self.random]
        return sum(value.numel() * value.element_size() for value in tensors)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "ReplayState":
        """The state with `change` applied to every tensor but the random state."""
        slots = {slot: {name: change(value) for name, value in values.items()} for slot, values in self.slots.items()}
        model, averages = ({name: change(value) for name, value in part.items()} for part in (self.model, self.averages))
        return ReplayState(model, slots, averages, self.random)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model that shares nothing with it, also where a module holds a tensor that was computed, which deepcopy refuses."""
    memo = {}
    for layer in model.modules():
        for value in vars(layer).values():
            if isinstance(value, Tensor):
                plain = _plain(value)
                if plain is not value or not value.is_leaf:
                    memo[id(value)] = plain.detach().clone()
    return copy.deepcopy(model, memo)


def _plain(value: Tensor) -> Tensor:
    """A tensor without the wrappers that vmap and forward mode leave around what a module keeps of a forward pass."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return value


def over(optimizer: torch.optim.Optimizer, model: nn.Module, other: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of the same kind and settings, without state, over the parameters of another model of the same structure.

    Args:
        optimizer: An optimizer over parameters of `model`.
        model: The model that is trained by it.
        other: A copy of the model.

    Raises:
        UsageError: The optimizer holds parameters that are not the model's.
    """
    if isinstance(optimizer, JoinedOptimizers):
        return JoinedOptimizers([over(part, model, other) for part in optimizer.parts])
    places = dict(zip(map(id, model.parameters()), other.parameters(), strict=True))
    strange = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in places]
    if strange:
        raise UsageError(
            f"The optimizer holds {len(strange)} parameters that are not the model's; give the model and its own optimizer."
        )
    groups = [{**group, "params": [places[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
    # As unpickling does it: no constructor of an optimizer is known to take back all of its settings.
    made = type(optimizer).__new__(type(optimizer))
    made.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": groups})
    return made


class ReplayableTraining(abc.ABC):
    """The steps of one recorded training, to be repeated on a separate model.

    Call `start_epoch`, then for each step of the epoch `batch` and `step`; all in order, or, where `free` is set, from any `ReplayState` on.

    Attributes:
        model: The model that is trained again; a copy that nothing else uses.
        optimizer: Its optimizer.
        functional: The model with its losses.
        members: The names in each parameter group, in the optimizer's order.
        clip: Largest norm of the gradient; None for no clipping.
        ema: Decay of the running average of the parameters; None where there is none, so that the parameters themselves count.
        averages: The running average now, by parameter name; empty before its first update.
        early: How often the average had been updated before the first recorded step.
        free: Whether any batch can be fetched at any time, so that an epoch need not be gone through from its beginning.
        separable: Whether the losses of a batch are known not to depend on each other apart from BatchNorm and random layers.
        coupled_losses: What shows that an example's loss depends on the examples beside it, also in eval mode; empty where nothing does.
        coupled_outputs: The same of what the model returns for it, and so of its features.
        made_of: Fingerprint of model structure and examples; empty where they cannot be told, as in a user's loop.
        by_mean: Whether every step takes the mean of its batch's losses.
        division_assumed: Whether nobody said what the loss of each of several batches of a step is divided by; steps that are repeated show it.
        weights: Factor of each example's loss in an epoch, None for 1; None where no live selector gave any.
        causes: A sentence on why the repeated steps may differ from the recorded ones, the commonest cause first.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    functional: Functional
    members: Sequence[tuple[str, ...]]
    clip: float | None = None
    ema: float | None = None
    averages: dict[str, Tensor]
    early: int = 0
    free: bool = True
    separable: bool = False
    coupled_losses: str = ""
    coupled_outputs: str = ""
    made_of: str = ""
    by_mean: bool = True
    division_assumed: bool = False
    weights: Callable[[int], Tensor | None] | None = None
    causes: str = "torch, the processor, the number of threads, the net or the data are not those of the recording."

    def updates(self) -> list[Update]:
        """The update rule of each parameter group.

        Raises:
            UsageError: The optimizer's step cannot be differentiated here.
        """
        return [update_of(self.optimizer, group) for group in self.optimizer.param_groups]

    def set_momenta(self, by_group: Tensor | None) -> None:
        """Give the optimizer the momenta of one step, where a scheduler changes them; (groups, 2), NaN for what a group does not have."""
        if by_group is None:
            return
        for group, (first, second) in zip(self.optimizer.param_groups, by_group.tolist(), strict=True):
            if "betas" in group and first == first:
                group["betas"] = (first, second)
            elif "momentum" in group and first == first:
                group["momentum"] = first

    def generators(self) -> Any:
        """The random states that the steps draw from, as they are now."""
        return random_state(self.device)

    def set_generators(self, state: Any) -> None:
        """The inverse of `generators`."""
        set_random_state(state)

    def fork(self) -> "ReplayableTraining":
        """A copy of the training with a separate model and optimizer, so that original and copy can be replayed at the same time."""
        other = copy.copy(self)
        other.model = copied(self.model)
        other.optimizer = self.optimizer_over(other.model)
        other.functional = self.functional.of(other.model)
        other.averages = {}
        return other

    def optimizer_over(self, other: nn.Module) -> torch.optim.Optimizer:
        """An optimizer of the same kind and settings, without state, over other parameters, in the order of the model's."""
        return over(self.optimizer, self.model, other)

    def check_steps(self) -> None:
        """Refuse a training whose steps cannot be repeated; its kept models can be used all the same.

        Raises:
            UsageError: Randomness was recorded without a seed, or the optimizer needs more than the gradient.
        """
        if any(isinstance(part, torch.optim.LBFGS) for part in optimizers_of(self.optimizer)):
            raise UsageError(
                "LBFGS computes the loss several times in a step, so its steps cannot be repeated; methods of kept models, such as "
                "grand and vog, can be asked for."
            )

    @abc.abstractmethod
    def load(self, epoch: int) -> None:
        """Restore model and optimizer to the end of a kept epoch (-1: before training)."""

    @abc.abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Get ready for the first step of an epoch: seeds, loader."""

    @abc.abstractmethod
    def batch(self, epoch: int, step: int, positions: Int[Tensor, " batch"]) -> Any:
        """The batch of one step of an epoch, as it was trained on."""

    def weighted(self, batch: Any, epoch: int, positions: Int[Tensor, " batch"]) -> Any:
        """A batch with the weights of its losses, where a live selector gave the epoch any."""
        weights = None if self.weights is None else self.weights(epoch)
        return batch if weights is None else WeightedBatch(batch, weights[positions].to(self.device))

    @abc.abstractmethod
    def clean(self, positions: Int[Tensor, " batch"]) -> Any:
        """A batch of these examples, without augmentation."""

    @abc.abstractmethod
    def step(
        self, batch: Any, rates: Sequence[float], weights: Tensor | None = None, divisor: float | None = None
    ) -> Tensor | None:
        """Take the optimizer step on a batch, exactly as in training; gives the logits before the step where they are known.

        Args:
            batch: The batch.
            rates: Learning rate of each parameter group.
            weights: Factor of each example's loss; None for none.
            divisor: Number that the sum of the losses is divided by; by default that of training.
        """

    def divisor(self, batch: Any) -> float:
        """Number that the sum of a batch's losses is divided by in training: the batch size, where the mean is taken.

        Of several batches of one step, the number that has the same effect on the size of the step.
        """
        if isinstance(batch, MicroBatches):
            return size_of(batch) / sum(size_of(part) / own for part, own in zip(batch.parts, batch.divisors, strict=True))
        return float(size_of(batch))

    def share(self, batches: Sequence[Any]) -> float:
        """What the loss of each of the batches of one step is divided by, beside its own `divisor`."""
        return float(len(batches))

    def together(self, batches: Sequence[Any]) -> Any:
        """The batch of a step that was made of these: the batch itself if it is one that is not divided otherwise, else `MicroBatches`."""
        share = self.share(batches)
        if len(batches) == 1 and share == 1:
            return batches[0]
        return MicroBatches(tuple(batches), share, tuple(share * self.divisor(batch) for batch in batches))

    def check_loss(self, batch: Any) -> None:  # noqa: B027  (assay's own loop has one loss only)
        """Refuse a training whose loss of this batch is not as the user described it.

        Raises:
            UsageError: The loss is not the sum of the examples' losses divided by the `divisor`.
        """

    def functional_of(self, batch: Any) -> Functional:
        """The model with its losses scaled so that the training loss of this batch is their mean."""
        if isinstance(batch, MicroBatches):
            # Its parts are scaled one by one (see `model_batches`).
            return self.functional
        divisor, size = self.divisor(batch), size_of(batch)
        return self.functional if divisor == size else self.functional.scaled(size / divisor)

    def isolated(self) -> contextlib.AbstractContextManager[None]:
        """A context manager for repeating steps, which restores the generators besides torch's that this training draws from."""
        return contextlib.nullcontext()

    def update_ema(self) -> None:
        """Let the average follow the parameters, after a step."""
        if self.ema is not None:
            average(self.averages, self.params, self.ema)

    @property
    def params(self) -> dict[str, Tensor]:
        """The trainable parameters now, detached but not copied."""
        return {name: value.detach() for name, value in trainable(self.model).items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers now, not copied."""
        return dict(self.model.named_buffers())

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(iter(self.model.parameters())).device

    def state(self) -> ReplayState:
        """A copy of the present state."""
        slots: dict[str, dict[str, Tensor]] = {}
        for name, parameter in trainable(self.model).items():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    slots.setdefault(slot, {})[name] = value.clone()
        model = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        averages = {name: value.clone() for name, value in self.averages.items()}
        return ReplayState(model, slots, averages, random_state(self.device))

    def restore(self, state: ReplayState) -> None:
        """Restore the training to a saved state."""
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(state.model[name])
        self.optimizer.state.clear()
        parameters = trainable(self.model)
        for slot, values in state.slots.items():
            for name, value in values.items():
                self.optimizer.state[parameters[name]][slot] = value.clone()
        self.averages = {name: value.clone() for name, value in state.averages.items()}
        set_random_state(state.random)

    def rates(self, by_group: Sequence[float]) -> dict[str, float]:
        """Learning rate of each trainable parameter.

        Raises:
            UsageError: The run recorded another number of parameter groups.
        """
        if len(by_group) != len(self.members):
            raise UsageError(
                f"The run recorded the rates of {len(by_group)} parameter groups, this optimizer has {len(self.members)}; give the "
                "optimizer as it was."
            )
        return {name: float(rate) for rate, names in zip(by_group, self.members, strict=True) for name in names}

    def back(
        self,
        batch: Any,
        before: ReplayState,
        rates: Mapping[str, float],
        count: int,
        adjoints: Sequence[Adjoint],
        *,
        at: Params | None,
        curvature: Curvature,
        whole: bool,
    ) -> list[tuple[Tensor, Adjoint]]:
        """A step's derivative; see `core.steps.Step.back`.

        Args:
            batch: The batch of the step.
            before: The state before it, with torch's random state before it too.
            rates: Learning rate of each parameter.
            count: Number of the step, from 0.
            adjoints, at, curvature: As in `core.steps.Step.back`.
            whole: Whether to take the batch as a whole and not in parts, because a random layer draws for the whole batch at once.

        Raises:
            UsageError: An operation of the model has no second derivative.
        """
        taken = self._taken(size_of(batch), before, rates, count, self.updates(), at)
        linear, total = self.clip is None and all(update.linear for update in taken.updates), taken.total
        apart = self.separable and linear and not whole and not self.couples()
        size = _part_size(batch, self.device) if apart else total
        # What follows the parameters after the step comes first on the way back.
        adjoints = [self._through_average(adjoint, count) for adjoint in adjoints]
        grad_dots: list[list[Tensor]] = [[] for _ in adjoints]
        hvps: list[dict[str, Tensor]] = [{} for _ in adjoints]
        backs: list[_Backs] | None = None
        fading: dict[str, float] = {}
        cuts = (rows(batch, slice(start, start + size)) for start in range(0, total, size)) if size < total else parts_of(batch)
        for place, part in enumerate(cuts):
            try:
                if isinstance(batch, MicroBatches) and taken.accumulated is None:
                    taken = dataclasses.replace(taken, accumulated=self._accumulated(batch, taken))
                backs, fading = self._part(part, taken, place, adjoints, curvature, grad_dots, hvps)
            except AssayError:
                raise
            except torch.OutOfMemoryError as error:
                raise UsageError(
                    f"Step {count} does not fit into memory when it is differentiated ({total} examples, {len(adjoints)} targets); ask for "
                    "fewer targets at once."
                ) from error
            except (NotImplementedError, RuntimeError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
                raise UsageError(
                    f"The losses of this model cannot be differentiated twice: {reason}. Change that layer, or choose a method that asks for "
                    "gradients only, such as tracin, oti or liveval."
                ) from error
        assert backs is not None
        results = []
        for adjoint, back, slope, product in zip(adjoints, backs, grad_dots, hvps, strict=True):
            after = {
                name: back.params[name] + product[name] if curvature != "none" else value
                for name, value in adjoint.params.items()
            }
            # Of a layer that was not called nothing fades.
            statistics = {name: fading.get(name, 1.0) * value for name, value in adjoint.statistics.items()}
            results.append((torch.cat(slope), Adjoint(after, back.buffers, statistics, adjoint.averages)))
        return results

    def gradient(self, batch: Any, before: ReplayState) -> dict[str, Tensor]:
        """Gradient of a step's loss; see `core.steps.Step.gradient`.

        Args:
            batch: The batch of the step.
            before: The state before it.
        """
        taken = self._taken(size_of(batch), before, {}, 0, ())
        if isinstance(batch, MicroBatches):
            return self._accumulated(batch, taken).gradients
        leaves, functional = _leaves(taken.params), self.functional_of(batch)
        with torch.enable_grad(), math_attention():
            losses = step_losses("none", functional, leaves, taken.buffers, batch, total=taken.total, valued=True)
        return {name: value.detach() for name, value in losses.gradients.items()}

    def _taken(
        self,
        total: int,
        before: ReplayState,
        rates: Mapping[str, float],
        count: int,
        updates: Sequence[Update],
        at: Params | None = None,
    ) -> "_Taken":
        params = {name: before.model[name] for name in self.functional.names} if at is None else dict(at)
        buffers = {name: before.model.get(name, value) for name, value in self.model.named_buffers()}
        return _Taken(total, updates, params, buffers, before, rates, count)

    def _part(
        self,
        batch: Any,
        taken: "_Taken",
        place: int,
        adjoints: Sequence[Adjoint],
        curvature: Curvature,
        grad_dots: list[list[Tensor]],
        hvps: list[dict[str, Tensor]],
    ) -> tuple[list["_Backs"], dict[str, float]]:
        with torch.enable_grad(), math_attention():
            accumulated = taken.accumulated
            if accumulated is None:
                # An update that is linear in the gradient, unclipped, has an adjoint that does not look at it.
                valued = self.clip is not None or not all(update.linear for update in taken.updates)
                leaves = _leaves(taken.params)
                losses = step_losses(
                    curvature, self.functional_of(batch), leaves, taken.buffers, batch, total=taken.total, valued=valued
                )
                reached, calls, before = losses.gradients, _momenta(losses.seen), dict[str, int]()
                # torch passes over a parameter that the loss did not reach, and leaves its buffers and its decay alone.
                idle = leaves.keys() - reached.keys() if losses.size == taken.total else set()
            else:
                set_random_state(accumulated.random[place])
                leaves, functional = _leaves(taken.params), self.functional.scaled(accumulated.factors[place])
                losses = step_losses(
                    curvature, functional, leaves, accumulated.buffers[place], batch, total=taken.total, valued=False
                )
                reached, calls, before = accumulated.gradients, accumulated.momenta, accumulated.before[place]
                idle = leaves.keys() - reached.keys()
            if not reached:
                raise UsageError(
                    "The losses depend on no parameter of the model that they are given; let losses(model, batch) call that model, not "
                    "another one."
                )
            gradients = {name: reached[name] if name in reached else torch.zeros_like(leaf) for name, leaf in leaves.items()}
            backs = [self._through_update(adjoint, taken, gradients, idle) for adjoint in adjoints]
            shares = {name: _shares(own) for name, own in calls.items()}
            for number, (adjoint, back) in enumerate(zip(adjoints, backs, strict=True)):
                statistics = [
                    share * (adjoint.statistics[name] * value).sum()
                    for name, seen in losses.seen.items()
                    if name in adjoint.statistics
                    for share, (_, value) in zip(shares[name][1][before.get(name, 0) :], seen, strict=False)
                ]
                slope, moved = losses.back(
                    {name: back.gamma[name] for name in losses.gradients}, statistics, last=number == len(adjoints) - 1
                )
                grad_dots[number].append(slope)
                for name, value in moved.items():
                    hvps[number][name] = hvps[number][name] + value if name in hvps[number] else value
        return backs, {name: kept for name, (kept, _) in shares.items()}

    def _accumulated(self, batch: MicroBatches, taken: "_Taken") -> "_Accumulated":
        """The gradients of the batches of a step, added up; each batch is differentiated again later, by itself, so that one graph is held at a time."""
        found = _Accumulated([taken.total / divisor for divisor in batch.divisors])
        buffers = dict(taken.buffers)
        with torch.enable_grad(), math_attention():
            for part, factor in zip(batch.parts, found.factors, strict=True):
                found.random.append(random_state(self.device))
                found.buffers.append(dict(buffers))
                found.before.append({name: len(own) for name, own in found.momenta.items()})
                losses = step_losses(
                    "none", self.functional.scaled(factor), _leaves(taken.params), buffers, part, total=taken.total, valued=True
                )
                for name, value in losses.gradients.items():
                    found.gradients[name] = found.gradients[name] + value if name in found.gradients else value
                for name, own in _momenta(losses.seen).items():
                    found.momenta.setdefault(name, []).extend(own)
                    counter = f"{name.removesuffix('running_mean')}num_batches_tracked"
                    if name.endswith("running_mean") and counter in buffers:
                        # Where it has no momentum, a layer weighs a batch by how many it has seen.
                        buffers[counter] = buffers[counter] + len(own)
        return found

    def _through_average(self, adjoint: Adjoint, count: int) -> Adjoint:
        if self.ema is None:
            return adjoint
        params, averages = average_back(adjoint.params, adjoint.averages, self.ema, first=count + self.early == 0)
        return dataclasses.replace(adjoint, params=params, averages=averages)

    def _through_update(self, adjoint: Adjoint, taken: "_Taken", gradients: Params, idle: Set[str]) -> "_Backs":
        params, slots = taken.params, taken.before.slots
        limited = gradients if self.clip is None else clipped(gradients, self.clip, TORCH_CLIP)
        gamma = {name: torch.zeros_like(params[name]) for name in idle}
        moved = {name: adjoint.params[name] for name in idle}
        held = {slot: {name: values[name] for name in idle if name in values} for slot, values in adjoint.carried.items()}
        for update, group in zip(taken.updates, self.members, strict=True):
            for own, names in _by_count(update, slots, [name for name in group if name not in idle], taken.count).items():
                back = update.back(
                    {name: adjoint.params[name] for name in names},
                    _of(adjoint.carried, names),
                    {name: params[name] for name in names},
                    {name: limited[name] for name in names},
                    _of(slots, names),
                    {name: taken.rates[name] for name in names},
                    own,
                )
                gamma |= back.gamma
                moved |= back.params
                for slot, values in back.buffers.items():
                    held.setdefault(slot, {}).update(values)
        for values in held.values():
            values |= {name: torch.zeros_like(params[name]) for name in idle if name not in values}
        if self.clip is not None:
            gamma = clip_back(gamma, gradients, self.clip, TORCH_CLIP)
        return _Backs(gamma, moved, held)

    def couples(self) -> bool:
        """Whether BatchNorm makes the losses of a batch depend on each other."""
        return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in self.model.modules())


def _leaves(params: Params) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def _momenta(seen: Mapping[str, Sequence[tuple[float, Tensor]]]) -> dict[str, list[float]]:
    return {name: [momentum for momentum, _ in calls] for name, calls in seen.items()}


def _shares(momenta: Sequence[float]) -> tuple[float, list[float]]:
    """How much of a running statistic is left after some calls of its layer in one step, and how much of it is what each call saw."""
    kept, shares = 1.0, []
    for momentum in reversed(momenta):
        shares.append(momentum * kept)
        kept *= 1 - momentum
    return kept, shares[::-1]


def _of(slots: Mapping[str, Params], names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The buffers of these parameters; a slot that one of them lacks is not there yet."""
    return {
        slot: {name: values[name] for name in names} for slot, values in slots.items() if all(name in values for name in names)
    }


def _by_count(update: Update, slots: Mapping[str, Params], names: Sequence[str], index: int) -> dict[int, list[str]]:
    """Parameters by the number of the step in the optimizer's own count of each.

    It may have stepped before the recording, and counts for a parameter from the first step in which that had a gradient.
    """
    found: dict[int, list[str]] = {}
    for name in names:
        if isinstance(update, SGDUpdate):
            count = int(name in slots.get("momentum_buffer", {}))
        elif "step" in slots:
            count = int(slots["step"][name]) if name in slots["step"] else 0
        else:
            count = index
        found.setdefault(count, []).append(name)
    return found


@dataclasses.dataclass(frozen=True)
class _Taken:
    """A step as it was taken, of which a derivative is asked for."""

    total: int
    """Examples in its batch."""
    updates: Sequence[Update]
    params: Params
    buffers: Params
    before: ReplayState
    rates: Mapping[str, float]
    count: int
    accumulated: "_Accumulated | None" = None


@dataclasses.dataclass
class _Accumulated:
    """A step of several batches: what was seen of all of them together."""

    factors: list[float]
    """What the losses of each batch are multiplied by, so that their mean over the examples of the step is the training loss."""
    gradients: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Of the training loss, by the parameters that it reaches."""
    momenta: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Of all calls of a normalising layer, by the name of the running statistic."""
    before: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """How many calls each such layer had before each batch."""
    random: list[tuple[Tensor, ...]] = dataclasses.field(default_factory=list)
    """torch's random state before each batch."""
    buffers: list[Params] = dataclasses.field(default_factory=list)
    """The model's buffers before each batch, as far as normalising layers read them in training."""


@dataclasses.dataclass(frozen=True)
class _Backs:
    gamma: dict[str, Tensor]
    params: dict[str, Tensor]
    buffers: dict[str, dict[str, Tensor]]
