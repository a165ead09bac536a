"""A recorded training as something that can be taken again: its model, its optimizer, its batches, and each step's derivative."""

import abc
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import AssayError, UsageError
from ..core.evidence import Adjoint
from ..maths.derivatives import every_derivative, refuse_cut
from ..maths.trajectories import AdamUpdate, SGDUpdate, Update, average_back, clip_back, clipped
from .device import random_state, set_random_state
from .functional import Functional, Params, rows, size_of
from .step import average, trainable

TORCH_CLIP = 1e-6
"""What torch's clip_grad_norm_ adds to the norm."""
PART = 32
"""Examples per part, at least, of a batch that is differentiated in parts: with images measured faster than whole on the CPU, in less memory."""
PART_CUDA = 256
"""The same on CUDA, where small parts leave the device idle: a batch of 128 took four times as long in parts of 32."""
PART_BYTES = 2**16
"""Of what the model is given: where examples are small, a part has as many as fit, because every part costs the same once more."""


def _part_size(batch: Any, device: torch.device) -> int:
    """Examples in one part of a batch."""
    held = sum(part.numel() * part.element_size() for part in pytree.tree_leaves(batch) if isinstance(part, Tensor))
    return max(PART_CUDA if device.type == "cuda" else PART, PART_BYTES * size_of(batch) // max(held, 1))


def update_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Update:
    """What one parameter group of a torch optimizer does in a step.

    Raises:
        UsageError: Another optimizer than SGD, Adam and AdamW, or a variant of them that is not differentiated here.
    """
    kind = type(optimizer)
    for flag in ("amsgrad", "maximize"):
        if group.get(flag):
            raise UsageError(f"{kind.__name__} with {flag}=True cannot be walked backwards; train without it.")
    if kind is torch.optim.SGD:
        return SGDUpdate(float(group["momentum"]), float(group["dampening"]), group["nesterov"], float(group["weight_decay"]))
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
        first, second = group["betas"]
        return AdamUpdate((float(first), float(second)), float(group["eps"]), float(group["weight_decay"]), decoupled)
    raise UsageError(
        f"{kind.__name__} cannot be walked backwards; torch's SGD, Adam and AdamW can. For an optimizer of your own, give update=..."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """Training as it stands before a step: everything that the step reads, copied."""

    model: dict[str, Tensor]
    slots: dict[str, dict[str, Tensor]]
    averages: dict[str, Tensor]
    random: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        slots = [self.averages, *self.slots.values()]
        tensors = [*self.model.values(), *(value for slot in slots for value in slot.values()), *self.random]
        return sum(value.numel() * value.element_size() for value in tensors)


class Course(abc.ABC):
    """The steps of one recorded training, to be taken again on a model of its own.

    `begin` an epoch, then for each of its steps `fetch` the batch and `take` the step; all in order, or with `free` set from any
    `Snapshot` on.

    Attributes:
        model: The model that is trained again; nobody else's.
        optimizer: Its optimizer.
        functional: The model with its losses.
        groups: How each parameter group is updated, and the names in it, in the optimizer's order.
        clip: Largest norm of the gradient; None for no clipping.
        ema: Decay of the running average of the parameters; None where there is none, so that the parameters themselves count.
        averages: That average now, by name; empty before its first update.
        early: How often it had been updated before the first recorded step.
        free: Whether any batch can be fetched at any time, so that an epoch need not be gone through from its beginning.
        separable: Whether the losses of a batch are known not to depend on each other apart from BatchNorm and random layers.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    functional: Functional
    groups: Sequence[tuple[Update, tuple[str, ...]]]
    clip: float | None = None
    ema: float | None = None
    averages: dict[str, Tensor]
    early: int = 0
    free: bool = True
    separable: bool = False

    @abc.abstractmethod
    def load(self, epoch: int) -> None:
        """Put model and optimizer where they stood at the end of a kept epoch (-1: before training)."""

    @abc.abstractmethod
    def begin(self, epoch: int) -> None:
        """Get ready for the first step of an epoch: seeds, loader."""

    @abc.abstractmethod
    def fetch(self, epoch: int, step: int, positions: Int[Tensor, " batch"]) -> Any:
        """The batch of one step of an epoch, as it was trained on."""

    @abc.abstractmethod
    def clean(self, positions: Int[Tensor, " batch"]) -> Any:
        """A batch of these examples, without augmentation."""

    @abc.abstractmethod
    def take(
        self, batch: Any, rates: Sequence[float], weights: Tensor | None = None, divisor: int | None = None
    ) -> Tensor | None:
        """The optimizer step on a batch, exactly as it was taken; the logits before it where they are known.

        Args:
            batch: The batch.
            rates: Learning rate of each parameter group.
            weights: Factor of each example's loss; None for none.
            divisor: What the sum of the losses is divided by; the batch's size by default.
        """

    def apart(self) -> contextlib.AbstractContextManager[None]:
        """While steps are taken again: what this training draws from besides torch's generators stays as it is outside."""
        return contextlib.nullcontext()

    def follow(self) -> None:
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
        """Where the model stands."""
        return next(iter(self.model.parameters())).device

    def snapshot(self) -> Snapshot:
        """A copy of the present state."""
        slots: dict[str, dict[str, Tensor]] = {}
        for name, parameter in trainable(self.model).items():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    slots.setdefault(slot, {})[name] = value.clone()
        model = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        averages = {name: value.clone() for name, value in self.averages.items()}
        return Snapshot(model, slots, averages, random_state(self.device))

    def restore(self, snapshot: Snapshot) -> None:
        """Stand where a snapshot was taken."""
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(snapshot.model[name])
        self.optimizer.state.clear()
        parameters = trainable(self.model)
        for slot, values in snapshot.slots.items():
            for name, value in values.items():
                self.optimizer.state[parameters[name]][slot] = value.clone()
        self.averages = {name: value.clone() for name, value in snapshot.averages.items()}
        set_random_state(snapshot.random)

    def rates(self, by_group: Sequence[float]) -> dict[str, float]:
        """Learning rate of each trainable parameter.

        Raises:
            UsageError: The run recorded another number of parameter groups.
        """
        if len(by_group) != len(self.groups):
            raise UsageError(
                f"The run recorded the rates of {len(by_group)} parameter groups, this optimizer has {len(self.groups)}; give the "
                "optimizer as it was."
            )
        return {name: float(rate) for rate, (_, names) in zip(by_group, self.groups, strict=True) for name in names}

    def back(
        self,
        batch: Any,
        before: Snapshot,
        rates: Mapping[str, float],
        count: int,
        adjoints: Sequence[Adjoint],
        *,
        at: Params | None,
        curvature: bool,
        whole: bool,
    ) -> list[tuple[Tensor, Adjoint]]:
        """A step's derivative; see `core.evidence.Step.back`.

        Args:
            batch: What the step was taken on.
            before: The state before it, with torch's random state standing there too.
            rates: Learning rate of each parameter.
            count: Number of the step, from 0.
            adjoints, at, curvature: As there.
            whole: Not in parts, because a random layer draws for the whole batch at once.

        Raises:
            UsageError: An operation of the model has no second derivative.
        """
        params = {name: before.model[name] for name in self.functional.names} if at is None else dict(at)
        buffers = {name: before.model.get(name, value) for name, value in self.model.named_buffers()}
        linear = self.clip is None and all(update.linear for update, _ in self.groups)
        total = size_of(batch)
        apart = self.separable and linear and not whole and not self._couples()
        size = _part_size(batch, self.device) if apart else total
        # What follows the parameters after the step comes first on the way back.
        adjoints = [self._through_average(adjoint, count) for adjoint in adjoints]
        slopes: list[list[Tensor]] = [[] for _ in adjoints]
        curved: list[dict[str, Tensor]] = [{} for _ in adjoints]
        backs = None
        for start in range(0, total, size):
            part = batch if size >= total else rows(batch, slice(start, start + size))
            try:
                backs = self._part(part, total, params, buffers, before, rates, count, adjoints, curvature, slopes, curved)
            except AssayError:
                raise
            except torch.OutOfMemoryError as error:
                raise UsageError(
                    f"Step {count} does not fit into memory when it is differentiated ({total} examples, {len(adjoints)} targets); ask for "
                    "fewer targets at once."
                ) from error
            except (NotImplementedError, RuntimeError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UsageError(
                    f"The losses of this model cannot be differentiated twice: {reason}. Change that layer, or choose a method that asks for "
                    "gradients only, such as tracin, oti or liveval."
                ) from error
        assert backs is not None
        results = []
        for adjoint, back, slope, product in zip(adjoints, backs, slopes, curved, strict=True):
            after = {name: back.params[name] + product[name] if curvature else value for name, value in adjoint.params.items()}
            momenta = self._momenta(buffers)
            fading = {name: (1 - momenta[name]) * value for name, value in adjoint.statistics.items()}
            results.append((torch.cat(slope), Adjoint(after, back.buffers, fading, adjoint.averages)))
        return results

    def _part(
        self,
        batch: Any,
        total: int,
        params: Params,
        buffers: Params,
        before: Snapshot,
        rates: Mapping[str, float],
        count: int,
        adjoints: Sequence[Adjoint],
        curvature: bool,
        slopes: list[list[Tensor]],
        curved: list[dict[str, Tensor]],
    ) -> list["_Backs"]:
        with torch.enable_grad(), every_derivative():
            leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
            # An update that is linear in the gradient, unclipped, has an adjoint that does not look at it.
            valued = self.clip is not None or not all(update.linear for update, _ in self.groups)
            values, seen = self.functional.with_statistics(leaves, buffers, batch, valued=valued)
            weights = torch.ones_like(values).requires_grad_()
            first = torch.autograd.grad(
                (weights * values).sum() / total, list(leaves.values()), create_graph=True, allow_unused=True
            )
            graph = {name: value for name, value in zip(leaves, first, strict=True) if value is not None}
            gradients = {name: graph[name].detach() if name in graph else torch.zeros_like(leaf) for name, leaf in leaves.items()}
            # torch passes over a parameter that the loss did not reach, and leaves its buffers and its decay alone.
            idle = leaves.keys() - graph.keys() if len(values) == total else set()
            backs = [self._through_update(adjoint, params, gradients, before, rates, count, idle) for adjoint in adjoints]
            for place, (adjoint, back) in enumerate(zip(adjoints, backs, strict=True)):
                terms = [(graph[name] * back.gamma[name]).sum() for name in graph]
                terms += [
                    momentum * (adjoint.statistics[name] * value).sum()
                    for name, (momentum, value) in seen.items()
                    if name in adjoint.statistics
                ]
                product = torch.stack(terms).sum()
                refuse_cut(product)
                wanted = [weights, *leaves.values()] if curvature else [weights]
                slope, *rest = torch.autograd.grad(
                    product, wanted, retain_graph=place < len(adjoints) - 1, materialize_grads=True
                )
                slopes[place].append(slope)
                for name, value in zip(leaves, rest, strict=bool(rest)):
                    curved[place][name] = curved[place][name] + value if name in curved[place] else value
        return backs

    def _through_average(self, adjoint: Adjoint, count: int) -> Adjoint:
        if self.ema is None:
            return adjoint
        params, averages = average_back(adjoint.params, adjoint.averages, self.ema, first=count + self.early == 0)
        return dataclasses.replace(adjoint, params=params, averages=averages)

    def _through_update(
        self,
        adjoint: Adjoint,
        params: Params,
        gradients: Params,
        before: Snapshot,
        rates: Mapping[str, float],
        count: int,
        idle: Set[str],
    ) -> "_Backs":
        limited = gradients if self.clip is None else clipped(gradients, self.clip, TORCH_CLIP)
        gamma = {name: torch.zeros_like(params[name]) for name in idle}
        moved = {name: adjoint.params[name] for name in idle}
        held = {slot: {name: values[name] for name in idle if name in values} for slot, values in adjoint.carried.items()}
        for update, group in self.groups:
            for own, names in _by_count(update, before.slots, [name for name in group if name not in idle], count).items():
                back = update.back(
                    {name: adjoint.params[name] for name in names},
                    _of(adjoint.carried, names),
                    {name: params[name] for name in names},
                    {name: limited[name] for name in names},
                    _of(before.slots, names),
                    {name: rates[name] for name in names},
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

    def _couples(self) -> bool:
        return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in self.model.modules())

    def _momenta(self, buffers: Params) -> dict[str, float]:
        """How much of each running statistic one batch replaces."""
        found: dict[str, float] = {}
        for name, layer in self.model.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                prefix = f"{name}." if name else ""
                moving = layer.training and layer.track_running_stats
                count = int(buffers.get(f"{prefix}num_batches_tracked", torch.zeros(()))) + 1
                momentum = 0.0 if not moving else 1 / count if layer.momentum is None else float(layer.momentum)
                found |= {f"{prefix}running_mean": momentum, f"{prefix}running_var": momentum}
        return found


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
class _Backs:
    gamma: dict[str, Tensor]
    params: dict[str, Tensor]
    buffers: dict[str, dict[str, Tensor]]
