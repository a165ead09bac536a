"""Several models trained side by side: one forward and one backward pass for all, where that gives the bits that each alone would have."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..core.ids import Ids
from .batches import Augment, Prepare, batches, sizes
from .device import modes_kept, own_random_state, seed_torch
from .loop import Observer, check_finite, check_logits, check_parameters, explained, seed_of_epoch
from .recipe import Recipe
from .state import TrainingState, capture, restore
from .step import example_losses, optimizer_over, update

LARGEST = 200_000
"""Parameters of a model above which its own arithmetic takes the time, and not the calls."""
COMPARED, LEAST_TRIALS = 10_000, 10
"""Logits that are compared for every size of batch, and the fewest steps that are tried."""


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One of the models.

    Attributes:
        model: Trained in place.
        recipe: The same for all but for the seed.
        augment: As `training.train` takes it.
        observer: Sees every step and every epoch.
        resume: Go on after this state, of as many epochs as the others'.
    """

    model: nn.Module
    recipe: Recipe
    augment: Augment | None = None
    observer: Observer | None = None
    resume: TrainingState | None = None


class _Stack:
    """Parameters of all models one on the other, each model's own being a view into them, and one optimizer over all."""

    def __init__(self, models: Sequence[nn.Module], recipe: Recipe):
        self._base, self._models = models[0], models
        self.params: dict[str, Tensor] = {}
        own = [dict(model.named_parameters()) for model in models]
        for name in own[0]:
            self.params[name] = torch.stack([one[name].detach() for one in own]).requires_grad_()
            for place, one in enumerate(own):
                one[name].data = self.params[name].data[place]
        self.optimizer = optimizer_over(recipe, list(self.params.values()))

    def logits(self, batch: Tensor) -> Tensor:
        return vmap(lambda params, one: functional_call(self._base, params, (one,)))(self.params, batch)

    def step(self, logits: Tensor, labels: Tensor, rate: float) -> Tensor:
        """Losses of every model's batch, after one step of all."""
        losses = example_losses(logits.flatten(0, 1), labels.flatten()).view(labels.shape)
        update(self.optimizer, (losses.sum(1) / labels.shape[1]).sum(), rate)
        return losses

    def optimizer_of(self, place: int, recipe: Recipe) -> torch.optim.Optimizer:
        """One model's own optimizer, as it stands."""
        parameters = dict(self._models[place].named_parameters())
        found = optimizer_over(recipe, list(parameters.values()))
        for name, stacked in self.params.items():
            for slot, value in self.optimizer.state.get(stacked, {}).items():
                whole = isinstance(value, Tensor) and value.shape == stacked.shape
                found.state[parameters[name]][slot] = value[place] if whole else value
        return found

    def resume(self, states: Sequence[TrainingState], recipe: Recipe) -> None:
        """Put all where they stood."""
        optimizers = []
        for model, state in zip(self._models, states, strict=True):
            optimizers.append(optimizer_over(recipe, list(model.parameters())))
            # Into the views, so that the stack stands there too.
            restore(state, model, optimizers[-1])
        for name, stacked in self.params.items():
            slots = [one.state[dict(model.named_parameters())[name]] for one, model in zip(optimizers, self._models, strict=True)]
            for slot, first in slots[0].items():
                whole = isinstance(first, Tensor) and first.shape == stacked.shape[1:]
                self.optimizer.state[stacked][slot] = torch.stack([one[slot] for one in slots]) if whole else first

    def part(self) -> None:
        """Give every model parameters of its own again."""
        for model in self._models:
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()


def may_go_together(net: nn.Module, recipe: Recipe) -> bool:
    """Whether such nets are worth a trial (see `exact_together`): small, of linear layers only, plainly trained on the CPU."""
    plain = recipe.device == "cpu" and recipe.clip is None and recipe.ema is None
    small = sum(parameter.numel() for parameter in net.parameters()) <= LARGEST
    still = any(True for _ in net.buffers()) or not all(parameter.requires_grad for parameter in net.parameters())
    linear = all(next(part.parameters(recurse=False), None) is None or type(part) is nn.Linear for part in net.modules())
    return plain and small and linear and not still


def exact_together(
    members: Sequence[Member], inputs: Tensor, labels: Tensor, ids: Ids, *, prepare: Prepare | None = None
) -> bool:
    """Whether these models, trained together, end in the bits of each alone: tried on many random steps of every size of batch.

    In which order a step adds up depends on shapes and not on numbers, so that steps which agree on enough numbers agree on all: another
    order rounds some of them otherwise. Nets with other layers with parameters than linear ones, buffers, random layers or frozen
    parameters, clipping, running averages and devices other than the CPU are not tried, nor are large nets, for which it does not pay.
    """
    recipe, nets = members[0].recipe, [member.model for member in members]
    if len(nets) < 2 or not may_go_together(nets[0], recipe):
        return False
    alone, together = ([copy.deepcopy(net).train() for net in nets] for _ in range(2))
    stack = _Stack(together, recipe)
    optimizers = [optimizer_over(recipe, list(net.parameters())) for net in alone]
    with own_random_state(torch.device("cpu")):
        draw = torch.Generator().manual_seed(0)
        random = torch.get_rng_state()
        for size in dict.fromkeys(sizes(len(ids), recipe.batch, recipe.ragged)):
            positions = torch.stack([(torch.arange(size) + place) % len(ids) for place in range(len(nets))])
            real = _prepared(members, [inputs[one] for one in positions], ids, positions, 0, 0, prepare)
            if not real.is_floating_point():
                return False
            classes = int(labels.max()) + 1
            for _ in range(max(LEAST_TRIALS, -(-COMPARED // (len(nets) * size * max(classes, 2))))):
                # Numbers of which none is 0 and none is like another, which real inputs often are.
                batch = torch.randn(real.shape, generator=draw, dtype=real.dtype)
                given = torch.randint(classes, labels[positions].shape, generator=draw)
                try:
                    found = stack.logits(batch)
                except RuntimeError:
                    # What vmap cannot do, no one notices: each is trained alone.
                    return False
                own = [net(one) for net, one in zip(alone, batch, strict=True)]
                if not torch.equal(found.detach(), torch.stack(own).detach()):
                    return False
                for optimizer, logits, target in zip(optimizers, own, given, strict=True):
                    update(optimizer, example_losses(logits, target).sum() / size, recipe.lr)
                stack.step(found, given, recipe.lr)
                if not _same(alone, together):
                    return False
        drawn = not torch.equal(random, torch.get_rng_state())
    return not drawn


def _same(one: Sequence[nn.Module], other: Sequence[nn.Module]) -> bool:
    return all(
        torch.equal(mine, yours)
        for net, twin in zip(one, other, strict=True)
        for mine, yours in zip(net.parameters(), twin.parameters(), strict=True)
    )


def train_together(
    members: Sequence[Member], inputs: Tensor, labels: Tensor, ids: Ids, *, prepare: Prepare | None = None
) -> list[TrainingState]:
    """Train all in place, as `training.train` would one by one, in lockstep; see `exact_together` for when that is so to the bit.

    Args:
        members: Models, recipes that differ in nothing but the seed, and what goes with each.
        inputs, labels, ids, prepare: As `training.train`.

    Returns:
        The state of each after the last epoch.

    Raises:
        UsageError: As `training.train`.
        NumericalError: A loss or a parameter is not finite; names epoch, step and ids.
    """
    recipe, cpu = members[0].recipe, torch.device("cpu")
    per_epoch = len(sizes(len(ids), recipe.batch, recipe.ragged))
    steps = per_epoch * (recipe.horizon or recipe.epochs)
    stack = _Stack([member.model for member in members], recipe)

    def state_of(place: int, epochs: int) -> TrainingState:
        member = members[place]
        return capture(
            member.model,
            stack.optimizer_of(place, member.recipe),
            epochs=epochs,
            steps=epochs * per_epoch,
            recipe=member.recipe.fingerprint,
            ids=ids.fingerprint,
        )

    with own_random_state(cpu), _modes_kept(members):
        first = 0
        states = [member.resume for member in members if member.resume is not None]
        if states:
            stack.resume(states, recipe)
            first = states[0].epochs
        else:
            for place, member in enumerate(members):
                if member.observer is not None:
                    seed_torch(seed_of_epoch(member.recipe, 0), cpu)
                    member.observer.starts(state_of(place, 0))
        for epoch in range(first, recipe.epochs):
            for member in members:
                if member.observer is not None:
                    member.observer.epoch_begins(epoch)
                member.model.train()
            orders = [batches(ids.keys, member.recipe, epoch) for member in members]
            for step in range(per_epoch):
                rate = recipe.rate(epoch * per_epoch + step, steps)
                positions = torch.stack([order[step] for order in orders])
                batch = _prepared(members, [inputs[one] for one in positions], ids, positions, epoch, step, prepare)
                given = labels[positions].to(torch.int64)
                for member in members:
                    if member.observer is not None:
                        member.observer.step_begins(member.model)
                with explained(epoch, step, batch[0]):
                    logits = stack.logits(batch)
                for place, rows in enumerate(positions):
                    check_logits(logits[place], given[place], ids, rows)
                    check_finite(example_losses(logits[place].detach(), given[place]), ids, rows, epoch, step)
                for place, member in enumerate(members):
                    if member.observer is not None:
                        member.observer.batch(positions[place], logits[place].detach(), given[place], rate)
                with explained(epoch, step, batch[0]):
                    stack.step(logits, given, rate)
                for place, member in enumerate(members):
                    if member.observer is not None:
                        member.observer.stepped(positions[place], batch[place], given[place], rate)
            for place, member in enumerate(members):
                check_parameters(member.model, epoch)
                if member.observer is not None:
                    seed_torch(seed_of_epoch(member.recipe, epoch), cpu)
                    state = state_of(place, epoch + 1)
                    member.observer.epoch_ends(epoch, member.model, state)
        ends = []
        for place, member in enumerate(members):
            seed_torch(seed_of_epoch(member.recipe, recipe.epochs - 1), cpu)
            ends.append(state_of(place, recipe.epochs))
        stack.part()
        return ends


def _prepared(
    members: Sequence[Member],
    parts: Sequence[Tensor],
    ids: Ids,
    positions: Tensor,
    epoch: int,
    step: int,
    prepare: Prepare | None,
) -> Tensor:
    found = []
    for member, part, rows in zip(members, parts, positions, strict=True):
        if member.augment is not None:
            part = member.augment(part, ids.keys[rows.numpy()], epoch=epoch, step=step)
        found.append(part if prepare is None else prepare(part))
    return torch.stack(found)


@contextlib.contextmanager
def _modes_kept(members: Sequence[Member]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for member in members:
            stack.enter_context(modes_kept(member.model))
        yield
