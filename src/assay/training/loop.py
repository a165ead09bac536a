"""The training loop: same recipe, same ids, same data, same bytes on the CPU."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.arguments import moved_keywords
from ..core.errors import AssayError, Mismatch, NumericalError, UsageError, listed
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector, EpochSelection
from ..maths import draws
from .batches import Augment, Prepare, TrainingData, batches, inputs_at, size_of, sizes
from .device import deterministic, device_named, full_precision, modes_kept, own_random_state, seed_torch
from .recipe import Recipe
from .state import TrainingState, capture, restore
from .step import average, batch_loss, example_losses, optimizer_of, trainable, update


@runtime_checkable
class Observer(Protocol):
    """Callbacks of a training. Subclasses override what they need; the rest does nothing.

    What an observer draws from torch's generator does not change the training. Of one whose attribute `epochs_only` is true only `epoch_ends` is called, so that
    steps cost nothing more.
    """

    def starts(self, state: TrainingState) -> None:
        """Called before the first epoch of a training that resumes nothing."""

    def epoch_begins(self, epoch: int) -> None:
        """Called before the first step of an epoch."""

    def selected(self, selection: EpochSelection) -> None:
        """Called with what a live selector chose for the epoch that has begun."""

    def batch(
        self, positions: Int[Tensor, " batch"], logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], rate: float
    ) -> None:
        """Called after a training forward pass, before its update.

        Args:
            positions: Where the examples stand in `ids`, on the CPU.
            logits: Detached, float32 or wider, on the training device.
            labels: Given labels, on the training device.
            rate: Learning rate of the update to come.
        """

    def step_begins(self, model: nn.Module) -> None:
        """Called before the forward pass of a step."""

    def stepped(self, positions: Int[Tensor, " batch"], batch: Tensor, labels: Int[Tensor, " batch"], rate: float) -> None:
        """Called after the update of a step.

        Args:
            positions, labels, rate: As `batch`.
            batch: The prepared inputs that the net was given.
        """

    def epoch_ends(self, epoch: int, model: nn.Module, state: TrainingState) -> None:
        """Called after the last step of an epoch. `state` is a copy from which training can be resumed."""


@moved_keywords(dict.fromkeys(("inputs", "labels", "ids", "prepare", "augment"), "data=assay.training.TrainingData({name}=...)"))
def train(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    *,
    weights: Tensor | None = None,
    observer: Observer | None = None,
    resume: TrainingState | None = None,
    steps: int | None = None,
    selector: AbstractLiveSelector | None = None,
) -> TrainingState:
    """Train in place by mean cross-entropy; the model ends on the recipe's device.

    Order, augmentation and dropout depend on seed, epoch, step and example ids only. torch's generator is seeded before
    each epoch from (seed, epoch) and given back as it was. Resuming ends in the bytes of the uninterrupted run (on the CPU, at
    the same number of threads).

    Args:
        model: The net; training starts from its weights.
        data: The examples.
        recipe: Settings of the training.
        weights: (examples,), factor of each example's loss; the divisor stays the size of the batch. None for 1.
        observer: Callbacks for every step and every epoch.
        resume: Go on after this state; the model's present weights are replaced.
        steps: Take exactly this many steps instead of the recipe's epochs, however few examples there are: as many passes over them as that
            takes, the last perhaps cut short, and the schedule laid out over these steps. Not with `selector` or a horizon.
        selector: Chooses the examples of each epoch before it begins, and their weights, which multiply `weights`. The steps of
            a shorter epoch are spread over the schedule of a whole one, if epochs differ in length.

    Returns:
        The state after the last epoch. With an `ema` in the recipe the model keeps the parameters that were trained; the averaged ones,
        which are the final model, are the state's `averages` (see `training.state.standing_at`).

    Raises:
        UsageError: Arguments that do not go together; the sentence says which.
        Mismatch: `resume` is of another recipe, model or set of examples.
        NumericalError: A loss or a parameter is not finite; names epoch, step and ids.
    """
    device = device_named(recipe.device)
    inputs, labels, ids, augment = data.inputs, data.labels, data.ids, data.augment
    _check(ids, recipe, augment, weights)
    size = selector.epoch_size(len(ids)) if selector is not None else None
    per_epoch = len(sizes(len(ids) if size is None else size, recipe.batch, recipe.last_batch))
    epochs, last = recipe.epochs, per_epoch * recipe.epochs
    if steps is not None:
        if (
            isinstance(steps, bool)
            or not isinstance(steps, int)
            or steps < 1
            or selector is not None
            or recipe.horizon is not None
        ):
            raise UsageError(
                f"steps={steps} must be a whole number of 1 or more, without a selector, or a horizon in the recipe."
            )
        epochs, last = -(-steps // per_epoch), steps
    horizon = per_epoch * recipe.horizon if recipe.horizon is not None else last
    trained_by = recipe.fingerprint if selector is None else f"{recipe.fingerprint}, {selector.title}"
    if steps is not None:
        trained_by = f"{trained_by}, {steps} steps"
    first = _first_epoch(resume, ids, (epochs, per_epoch, last), trained_by, selector is not None)
    ends, observer = observer, None if getattr(observer, "epochs_only", False) else observer
    chosen: dict[str, Tensor] = selector.start(len(ids)) if selector is not None else {}
    taken = 0 if resume is None else resume.steps
    model.to(device)
    optimizer = optimizer_of(recipe, model)
    averages: dict[str, Tensor] = {}

    def state_after(epochs: int) -> TrainingState:
        state = capture(
            model,
            optimizer,
            averages,
            epochs=epochs,
            steps=taken,
            recipe=trained_by,
            ids=ids.fingerprint,
        )
        state.tensors.update({f"selector.{name}": value.clone() for name, value in chosen.items()})
        return state

    with deterministic(device), full_precision(device), own_random_state(device), modes_kept(model):
        if resume is not None:
            averages.update(restore(resume, model, optimizer))
            chosen |= {name: resume.tensors[f"selector.{name}"].clone() for name in chosen}
        elif observer is not None:
            with own_random_state(device):
                seed_torch(seed_of_epoch(recipe, 0), device)
                observer.starts(state_after(0))
        for epoch in range(first, epochs):
            if observer is not None:
                with own_random_state(device):
                    observer.epoch_begins(epoch)
            cut, factor = batches(ids.keys, recipe, epoch)[: last - epoch * per_epoch], weights
            if selector is not None:
                choice = selector.select_epoch(chosen, ids, epoch, epochs, recipe.seed).checked(ids, selector.title, epoch)
                if observer is not None:
                    observer.selected(choice)
                if not choice.whole:
                    held = choice.kept.nonzero().flatten()
                    cut = tuple(held[part] for part in batches(ids.keys[held.numpy()], recipe, epoch))
                    factor = choice.weights if weights is None else choice.weights * weights
            model.train()
            seed_torch(seed_of_epoch(recipe, epoch), device)
            for step, (positions, batch) in enumerate(zip(cut, inputs_at(inputs, cut), strict=True)):
                # Of a whole epoch each step is its own place.
                place = step if selector is None else step * per_epoch // len(cut)
                rate = recipe.rate(epoch * per_epoch + place, horizon)
                batch, given = batch.to(device), labels[positions].to(device, torch.int64)
                factors = factor[positions].to(device) if factor is not None else None
                if augment is not None:
                    batch = augment(batch, ids.keys[positions.numpy()], epoch=epoch, step=step)
                batch = data.ready(batch)
                if observer is not None:
                    with own_random_state(device):
                        observer.step_begins(model)
                with explained(epoch, step, batch):
                    logits = forward(model, batch, recipe.precision)
                check_logits(logits, given, ids, positions)
                losses = example_losses(logits, given)
                check_finite(losses, ids, positions, epoch, step)
                if selector is not None:
                    selector.update(chosen, positions, losses.detach().cpu())
                if observer is not None:
                    with own_random_state(device):
                        observer.batch(positions, logits.detach(), given, rate)
                with explained(epoch, step, batch):
                    update(optimizer, batch_loss(losses, factors), rate, recipe.clip)
                taken += 1
                if recipe.ema is not None:
                    average(averages, trainable(model), recipe.ema)
                if observer is not None:
                    with own_random_state(device):
                        observer.stepped(positions, batch, given, rate)
            check_parameters(model, epoch)
            if ends is not None:
                with own_random_state(device):
                    ends.epoch_ends(epoch, model, state_after(epoch + 1))
        optimizer.zero_grad(set_to_none=True)
        return state_after(epochs)


def predict(
    model: nn.Module, inputs: Tensor, *, prepare: Prepare | None = None, batch: int = 512, device: str = "cpu"
) -> Float[Tensor, "examples classes"]:
    """Logits in eval mode without gradients, on the CPU. The model's modes, device and gradients come back as they were.

    Raises:
        UsageError: There are no inputs, they need `prepare`, or the device is absent.
    """
    if len(inputs) == 0:
        raise UsageError("There are no examples to predict.")
    if batch < 1:
        raise UsageError(f"batch={batch} is not a whole number of 1 or more.")
    if prepare is None and not inputs.is_floating_point():
        raise UsageError(f"Inputs are {inputs.dtype}; give `prepare`, which makes the floats that the net takes.")
    place = device_named(device)
    home = next((parameter.device for parameter in model.parameters()), place)
    rows: list[Tensor] = []
    with deterministic(place), full_precision(place), own_random_state(place), modes_kept(model), torch.no_grad():
        try:
            model.to(place).eval()
            # Plain inputs are split and not copied.
            plain = not hasattr(inputs, "start")
            for part in inputs.split(batch) if plain else inputs_at(inputs, torch.arange(len(inputs)).split(batch)):
                part = part.to(place)
                part = part if prepare is None else prepare(part)
                with explained(None, len(rows), part):
                    logits = model(part)
                _check_shape(logits, len(part))
                rows.append(logits.cpu())
        finally:
            model.to(home)
    return torch.cat(rows)


def evaluate(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    prepare: Prepare | None = None,
    batch: int = 512,
    device: str = "cpu",
) -> tuple[float, float]:
    """Accuracy (fraction in 0..1; the first of equal largest logits is the prediction) and mean cross-entropy in nats.

    Raises:
        UsageError: As `predict`; or labels that do not go with the inputs.
        NumericalError: A logit is not finite.
    """
    if len(labels) != len(inputs):
        raise UsageError(f"{len(inputs)} inputs and {len(labels)} labels do not go together.")
    logits = predict(model, inputs, prepare=prepare, batch=batch, device=device).to(torch.float64)
    labels = labels.cpu().to(torch.int64)
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UsageError(f"Labels {int(labels.min())}..{int(labels.max())} do not fit a net of {logits.shape[1]} classes.")
    finite = logits.isfinite().all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise NumericalError(
            f"{len(bad)} predictions are not finite, at positions {listed(bad, len(bad))}; the model has diverged."
        )
    return float((logits.argmax(1) == labels).double().mean()), float(example_losses(logits, labels).mean())


def forward(model: nn.Module, batch: Tensor, precision: str) -> Tensor:
    """The logits of a batch, in float32."""
    if precision == "float32":
        return model(batch)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return model(batch).float()


def _first_epoch(resume: TrainingState | None, ids: Ids, plan: tuple[int, int, int], trained_by: str, selected: bool) -> int:
    """The first epoch to train, of so many epochs, steps in each and steps in all."""
    if resume is None:
        return 0
    epochs, per_epoch, last = plan
    if resume.recipe != trained_by:
        raise Mismatch(
            f"The state to resume was trained by recipe {resume.recipe}, this one is {trained_by}; resume with the same."
        )
    if resume.ids != ids.fingerprint:
        raise Mismatch(f"The state to resume saw examples {resume.ids}, these are {ids.fingerprint}; resume with the same ids.")
    if (not selected and resume.steps != min(resume.epochs * per_epoch, last)) or resume.epochs > epochs:
        raise Mismatch(
            f"The state to resume stands at epoch {resume.epochs}, step {resume.steps}; "
            f"this recipe has {epochs} epochs of {per_epoch} steps."
        )
    return resume.epochs


def _check(ids: Ids, recipe: Recipe, augment: Augment | None, weights: Tensor | None) -> None:
    asked = [f"{name}={value}" for name in ("crop", "resized_crop", "flip") if (value := getattr(recipe, name))]
    if augment is None and asked:
        raise UsageError(
            f"The recipe asks for {' and '.join(asked)}, but TrainingData has no `augment` to do it; give one, or leave it out."
        )
    if weights is None:
        return
    if len(weights) != len(ids):
        raise UsageError(f"{len(weights)} weights and {len(ids)} ids do not go together.")
    wrong = ~weights.isfinite() | (weights < 0)
    if bool(wrong.any()):
        bad = ids.take(wrong)
        raise UsageError(f"{len(bad)} weights are negative or not finite; ids {listed(bad, len(bad))}.")


def seed_of_epoch(recipe: Recipe, epoch: int) -> int:
    """What torch's generator is seeded with before an epoch."""
    return draws.integer(recipe.seed, "torch", epoch)


def check_finite(losses: Tensor, ids: Ids, positions: Tensor, epoch: int, step: int) -> None:
    """Refuse losses that are not finite.

    Raises:
        NumericalError: Names epoch, step and ids.
    """
    if not bool(losses.isfinite().all()):
        bad = ids.take(positions[~losses.detach().isfinite().cpu()])
        raise NumericalError(
            f"Epoch {epoch}, step {step}: the loss of {len(bad)} examples is not finite; ids {listed(bad, len(bad))}. "
            "Look at their inputs, or lower the learning rate."
        )


def _check_shape(logits: Tensor, batch: int) -> None:
    if logits.ndim != 2 or len(logits) != batch:
        raise UsageError(
            f"The model returned shape {tuple(logits.shape)} for a batch of {batch}; expected (batch, classes) logits."
        )


def check_logits(logits: Tensor, labels: Tensor, ids: Ids, positions: Tensor) -> None:
    """Refuse logits that do not go with the labels.

    Raises:
        UsageError: They are not one row of classes for each example, or a label is none of the classes.
    """
    _check_shape(logits, len(labels))
    wrong = (labels < 0) | (labels >= logits.shape[1])
    if bool(wrong.any()):
        bad = ids.take(positions[wrong.cpu()])
        raise UsageError(
            f"The model has {logits.shape[1]} classes, but {len(bad)} labels are outside 0..{logits.shape[1] - 1}; "
            f"ids {listed(bad, len(bad))}."
        )


def check_parameters(model: nn.Module, epoch: int) -> None:
    """Refuse parameters that are not finite.

    Raises:
        NumericalError: Names the epoch and parameters.
    """
    bad = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if bad:
        raise NumericalError(
            f"After epoch {epoch} {len(bad)} parameters are not finite: {listed(bad, len(bad))}. Lower the learning rate."
        )


@contextlib.contextmanager
def explained(epoch: int | None, step: int, batch: Any) -> Iterator[None]:
    """Say in one sentence, with epoch and step, why torch refused a batch.

    Raises:
        UsageError: torch refused the batch.
    """
    try:
        yield
    except AssayError:
        raise
    except (RuntimeError, ValueError) as error:
        where = f"Batch {step}" if epoch is None else f"Epoch {epoch}, step {step}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        hint = "Give inputs of the shape and type that the net was built for."
        if "deterministic" in reason:
            hint = "Use a layer that has a repeatable implementation, or train on the CPU."
        elif isinstance(error, torch.OutOfMemoryError):
            hint = "Use a smaller batch."
        elif epoch is not None and size_of(batch) == 1:
            hint = "A batch of one does not go with BatchNorm; use last_batch='even' or 'drop', or another batch size."
        what = f"shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"{size_of(batch)} examples"
        raise UsageError(f"{where}: the model failed on a batch of {what}: {reason}. {hint}") from error
