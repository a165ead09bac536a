"""The models that a run kept, ready for batches, layers and targets."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import NotWritten, UsageError
from ..core.lineage import fingerprint
from ..core.models import ExampleRows, Layer, RowMaker, WeightDecay
from ..maths.differentiable import written_out
from ..maths.params import Params
from ..runs.rows import load_rows, save_rows
from ..training.device import mode
from ..training.state import standing_at
from .activations import Place, head_input, layered
from .example_rows import example_rows
from .functional import Functional
from .losses import cross_entropies
from .model_batches import ModelBatch
from .optimizers import weight_decay_of

if TYPE_CHECKING:
    from .replay import Replay
from .targets import parts_of_target, target_gradient

BLOCK = 256
"""Examples per batch where the run does not say it."""


class CheckpointModel:
    """One kept model of a run (`core.models.Model`)."""

    def __init__(self, replay: "Replay", epoch: int, state: dict[str, Tensor]):
        self._replay, self._state, self.epoch = replay, state, epoch
        self.params: Params = {name: state[name] for name in replay.training.functional.names}

    @property
    def task(self) -> str:
        """What the examples of the run have: `classes`, `labels` or `losses`."""
        return self._replay.run.task

    @functools.cached_property
    def rates(self) -> Mapping[str, float]:
        """Learning rate of each parameter in the last step before the checkpoint (before training: in the first step); 0 if no optimizer trains it (yet)."""
        run, training = self._replay.run, self._replay.training
        if not run.has_steps:
            return self._replay.rates(run.saved_rates(self.epoch).tolist(), training)
        by_group = self._replay.order(max(self.epoch, 0))[1][-1 if self.epoch >= 0 else 0].tolist()
        return self._replay.rates(by_group + self._replay.waiting(len(by_group)), training)

    def weight_decay(self) -> Mapping[str, WeightDecay]:
        """Weight decay of each parameter that the optimizer pulls towards 0, per unit of the mean loss.

        Raises:
            UsageError: What the optimizer does with its weight decay, or how many losses a step added up, is not known.
        """
        replay = self._replay
        with replay.isolated():
            training = replay.training.fork()
            training.load(self.epoch)
        by_group = [weight_decay_of(training.optimizer, group) for group in training.optimizer.param_groups]
        found = {name: decay for decay, names in zip(by_group, training.members, strict=True) for name in names if decay.factor}
        if not found:
            return found
        if (uneven := replay.run.uneven_updates()) is not None:
            epoch, step, count = uneven
            raise UsageError(
                f"{replay.run.folder}: in epoch {epoch}, batch {step}, the optimizer moved {count} times, not once, so that it is not known how many losses "
                "its weight decay stands against; leave it out by decay=none, with a damping in its place."
            )
        if replay.training.division_assumed:
            raise UsageError(
                f"{replay.run.folder}: several batches made a step, and nobody said what the loss of each is divided by, so that it is not known how many losses "
                "the weight decay stands against; give assay.Loop accumulate=, that number or 'batches', or leave it out by decay=none, with a damping "
                "in its place."
            )
        scale = 1.0 if replay.training.by_mean else replay.divisor(max(self.epoch, 0))
        return {name: dataclasses.replace(decay, factor=decay.factor * scale) for name, decay in found.items()}

    @functools.cached_property
    def head_input(self) -> Place | None:
        """What goes into the linear layer that makes the logits; None if there is none."""
        training, batch = self._replay.training, next(self._batches()).batch
        with (
            self._replay.isolated(),
            standing_at(training.model, self._state),
            mode(training.model, False),
            torch.no_grad(),
            written_out(),
        ):
            return head_input(training.model, lambda: training.functional.losses(training.model, batch))

    @functools.cached_property
    def head(self) -> tuple[str, ...]:
        """Names of the trainable parameters of the linear layer that makes the logits; empty if there is none."""
        if self.head_input is None:
            return ()
        training = self._replay.training
        layer = training.model.get_submodule(self.head_input.module)
        places = {id(parameter): full for full, parameter in training.model.named_parameters() if full in self.params}
        return tuple(places[id(parameter)] for parameter in layer.parameters() if id(parameter) in places)

    def batches(self, size: int | None = None, positions: Int[Tensor, " some"] | None = None) -> Iterator[ModelBatch]:
        """Every example once, or those at these positions, without augmentation.

        Raises:
            UsageError: An example's loss depends on the examples beside it.
        """
        if self._replay.training.coupled_losses:
            raise UsageError(self._replay.training.coupled_losses)
        yield from self._batches(size, positions)

    def passes(self, positions: Int[Tensor, " some"] | None = None) -> Iterator[ModelBatch]:
        """As `batches`, for who reads what the model makes of each example, and no gradients.

        Raises:
            UsageError: What the model makes of an example depends on the examples beside it.
        """
        if self._replay.training.coupled_outputs:
            raise UsageError(self._replay.training.coupled_outputs)
        yield from self._batches(None, positions)

    def _batches(self, size: int | None = None, positions: Int[Tensor, " some"] | None = None) -> Iterator[ModelBatch]:
        every = torch.arange(len(self._replay.run.ids)) if positions is None else positions
        for part in every.split(size or BLOCK):
            yield self.seen(part, self._replay.training.clean(part))

    def rows(self, name: str, make: RowMaker) -> ExampleRows:
        """A row of numbers for each example (see `core.models.Model`), in the run's folder unless the training is a user's loop."""
        replay = self._replay
        run, training = replay.run, replay.training

        def made() -> Iterator[Tensor]:
            return make(self.batches())  # type: ignore[arg-type]

        if not training.made_of:
            return example_rows(name, run.ids, made)
        made_of = fingerprint(training.made_of, run.dataset, repr(sorted(run.state(self.epoch).sums.items())), name)
        folder = run.paths.rows(self.epoch, name)
        try:
            return load_rows(folder, made_of) or save_rows(folder, made_of, made())
        except NotWritten:
            # A folder that cannot be written to can be scored all the same.
            return example_rows(name, run.ids, made)

    def queries(self, name: str, rows: slice | None = None, size: int | None = None) -> Iterator[ModelBatch]:
        """The rows of a target (see `core.models.Model`)."""
        replay, target = self._replay, self._replay.rows_of(name)
        training = replay.training
        if name not in replay.computed:
            # What cannot be computed is refused in words here, once, and not by torch below.
            with replay.isolated(), standing_at(training.model, self._state), mode(training.model, False), torch.no_grad():
                for _ in parts_of_target(target, training.model, name):
                    pass
            replay.computed.add(name)
        functional = Functional(training.functional.model, target.by or cross_entropies)
        buffers = {key: self._state.get(key, value) for key, value in training.buffers.items()}
        for positions in torch.arange(len(target.labels))[rows or slice(None)].split(size or BLOCK):
            batch = target.batch(positions, training.model, training.device)
            yield ModelBatch(positions, self.params, functional, buffers, batch)

    def seen(self, positions: Int[Tensor, " batch"], batch: Any) -> ModelBatch:
        """A batch together with this model (see `ModelBatch`)."""
        training = self._replay.training
        buffers = {name: self._state.get(name, value) for name, value in training.buffers.items()}
        return ModelBatch(positions, self.params, training.functional, buffers, batch)

    def embeddings(self, names: Sequence[str] | None = None) -> Iterator[Layer]:
        """The activations of every example in each layer (see `core.models.Model`).

        Raises:
            UnknownName: No module has that name.
            UsageError: There are no logits of a batch, a layer does not give rows, or what the model makes of an example depends on those beside it.
        """
        first = next(self.passes())
        yield from layered(
            first.functional.model,
            lambda: ((one.positions, one.batch) for one in self.passes()),
            lambda batch: first.functional.predicted(first.params, first.buffers, batch)[0],
            len(self._replay.run.ids),
            names,
            inputs_of=lambda batch: first.functional.inputs(first.params, first.buffers, batch),
        )

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target with respect to the parameters, taken at the parameters and not at their running average, as steps are."""
        with self._replay.isolated(), standing_at(self._replay.training.model, self._state):
            return target_gradient(self._replay.training, self._replay.named(name), name, statistics=False)[1]
