"""How to train: every setting that decides the result, apart from net, data and example weights."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, no_type_check

from ..core.arguments import moved_keywords
from ..core.errors import UnknownName, UsageError
from ..core.lineage import fingerprint

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "step", "cosine", "one_cycle", "inverse_sqrt"]
LastBatch = Literal["keep", "drop", "even"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]

_CHOICES = {"optimizer": Optimizer, "schedule": Schedule, "last_batch": LastBatch, "precision": Precision, "device": Device}

_INTEGERS = {"epochs": 1, "batch": 1, "horizon": 1, "crop": 0, "seed": 0}
"""The smallest value of each whole number."""

_POSITIVE: tuple[str, Callable[[float], bool]] = ("above 0", lambda value: value > 0)
_NOT_NEGATIVE: tuple[str, Callable[[float], bool]] = ("0 or more", lambda value: value >= 0)
_FRACTION: tuple[str, Callable[[float], bool]] = ("in 0..1, 1 excluded", lambda value: 0 <= value < 1)
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": _POSITIVE,
    "momentum": _FRACTION,
    "dampening": _FRACTION,
    "weight_decay": _NOT_NEGATIVE,
    "eps": _POSITIVE,
    "gamma": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "final": _NOT_NEGATIVE,
    "warmup": ("between 0 and 1, both excluded", lambda value: 0 < value < 1),
    "divisor": ("1 or more", lambda value: value >= 1),
    "final_divisor": ("1 or more", lambda value: value >= 1),
    "clip": _POSITIVE,
    "resized_crop": _FRACTION,
    "ema": ("between 0 and 1, both excluded", lambda value: 0 < value < 1),
}

_OPTIONAL = ("horizon", "clip", "ema")
"""Numbers that may be None."""

_BELONGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd",)),
    "dampening": ("optimizer", ("sgd",)),
    "nesterov": ("optimizer", ("sgd",)),
    "betas": ("optimizer", ("adam", "adamw")),
    "eps": ("optimizer", ("adam", "adamw")),
    "milestones": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "final": ("schedule", ("cosine",)),
    "horizon": ("schedule", ("cosine", "one_cycle")),
    "warmup": ("schedule", ("one_cycle",)),
    "divisor": ("schedule", ("one_cycle",)),
    "final_divisor": ("schedule", ("one_cycle",)),
}
"""Settings that mean something under some choices only; elsewhere they must keep their default."""


# It reads what people wrote in a file and checks every field itself, in words for them; a type checker must not get there first.
@no_type_check
@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training run. A setting that the chosen optimizer or schedule would ignore is refused.

    Attributes:
        epochs: How many times every example is seen.
        lr: Learning rate; with a schedule, its largest value.
        batch: Examples per step.
        optimizer: `sgd`, `adam` (weight decay added to the gradient) or `adamw` (decoupled), with torch's meaning.
        momentum: Momentum of SGD.
        nesterov: Whether SGD uses Nesterov momentum; needs momentum.
        dampening: Dampening of SGD's momentum.
        weight_decay: Weight decay, applied to every trainable parameter.
        betas: Decay rates of Adam's two moment estimates.
        eps: Added to Adam's denominator.
        schedule: How the learning rate changes from step to step (see `rate`).
        milestones: Epochs at whose start the `step` schedule multiplies the rate by `gamma`.
        gamma: Factor of the `step` schedule.
        final: Learning rate that `cosine` approaches.
        horizon: Epochs that `cosine` or `one_cycle` is laid out for; None for `epochs`. 30 epochs with a horizon of 200 are
            the start of a long run, not a short one.
        warmup: Fraction of the steps in which `one_cycle` rises.
        divisor: `one_cycle` starts at lr / divisor.
        final_divisor: `one_cycle` ends at lr / divisor / final_divisor.
        clip: Largest norm of the gradient over all parameters; a longer gradient is scaled down to it (torch's clip_grad_norm_); None for
            no clipping.
        ema: Decay of the running average of the parameters, which is then the final model: the first step copies them,
            each later one makes it ema * average + (1 - ema) * parameters (torch's AveragedModel with get_ema_multi_avg_fn). Running
            statistics are not averaged. None for no average.
        last_batch: A last batch that is not full: `keep` it, `drop` it, or cut the epoch into `even` batches.
        precision: `float32`, on CUDA too with all its bits (no TF32), or `bfloat16` autocast (CUDA only).
        device: `cpu` or `cuda`.
        crop: Pixels of padding for random crops; 0 for none. Carried out by `TrainingData.augment`.
        resized_crop: Smallest part of an image's area that a random crop keeps, which is then resized to the whole image; 0.08 for ImageNet, 0
            for none. Carried out by `TrainingData.augment`.
        flip: Whether images are mirrored at random. Carried out by `TrainingData.augment`.
        seed: Random seed of the order, the augmentation and the dropout; also of the initial weights where a plan builds the net.

    Raises:
        UsageError: A value is outside its range, or belongs to another optimizer or schedule.
    """

    epochs: int
    lr: float
    batch: int = 128
    optimizer: Optimizer = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Schedule = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final: float = 0.0
    horizon: int | None = None
    warmup: float = 0.3
    divisor: float = 25.0
    final_divisor: float = 1e4
    clip: float | None = None
    ema: float | None = None
    last_batch: LastBatch = "keep"
    precision: Precision = "float32"
    device: Device = "cpu"
    crop: int = 0
    resized_crop: float = 0.0
    flip: bool = False
    seed: int = 0

    def __post_init__(self):
        for name, kind in _CHOICES.items():
            allowed = get_args(kind)
            if getattr(self, name) not in allowed:
                raise UsageError(f"Recipe: {name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")
        for name in ("nesterov", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"Recipe: {name}={getattr(self, name)!r} is not true or false.")
        for name, least in _INTEGERS.items():
            value = getattr(self, name)
            if not (name in _OPTIONAL and value is None) and not (_whole(value) and least <= value < 2**63):
                raise UsageError(f"Recipe: {name}={value!r} is not a whole number of {least} or more.")
        for name, (words, fits) in _NUMBERS.items():
            if not (name in _OPTIONAL and getattr(self, name) is None):
                object.__setattr__(self, name, _number(name, getattr(self, name), words, fits))
        object.__setattr__(self, "betas", self._checked_betas())
        object.__setattr__(self, "milestones", self._checked_milestones())
        for name, default in self._defaults().items():
            if name in _BELONGS and getattr(self, name) != default:
                choice, allowed = _BELONGS[name]
                if getattr(self, choice) not in allowed:
                    raise UsageError(
                        f"Recipe: {name}={getattr(self, name)!r} has no meaning with {choice} {getattr(self, choice)!r}, "
                        f"only with {' or '.join(allowed)}."
                    )
        if self.momentum == 0 and (self.nesterov or self.dampening):
            raise UsageError("Recipe: nesterov and dampening need a momentum above 0.")
        if self.nesterov and self.dampening:
            raise UsageError("Recipe: nesterov does not go with dampening; leave dampening at 0.")
        if self.schedule == "step" and not self.milestones:
            raise UsageError("Recipe: the step schedule needs milestones, the epochs at which the rate drops.")
        if self.schedule == "cosine" and self.final > self.lr:
            raise UsageError(f"Recipe: final={self.final} is above lr={self.lr}, but cosine goes down.")
        if self.horizon is not None and self.horizon < self.epochs:
            raise UsageError(
                f"Recipe: horizon={self.horizon} is shorter than epochs={self.epochs}; the schedule would end before."
            )
        if self.crop and self.resized_crop:
            raise UsageError(
                f"Recipe: crop={self.crop} and resized_crop={self.resized_crop} are two ways to crop an image; give one of them."
            )
        if self.precision == "bfloat16" and self.device != "cuda":
            raise UsageError("Recipe: precision 'bfloat16' needs device 'cuda'; on the CPU train in float32.")

    def _checked_betas(self) -> tuple[float, float]:
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise UsageError(f"Recipe: betas={self.betas!r} are not two numbers.")
        first, second = (_number("betas", beta, *_FRACTION) for beta in self.betas)
        return first, second

    def _checked_milestones(self) -> tuple[int, ...]:
        given = self.milestones
        if not isinstance(given, (tuple, list)) or not all(_whole(epoch) for epoch in given):
            raise UsageError(f"Recipe: milestones={given!r} are not whole numbers.")
        if list(given) != sorted(set(given)) or (given and not 1 <= given[0] <= given[-1] < self.epochs):
            raise UsageError(f"Recipe: milestones={list(given)} must rise, within 1..{self.epochs - 1} of {self.epochs} epochs.")
        return tuple(given)

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {field.name: field.default for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING}

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of one step, a pure function of the recipe and the arguments.

        constant:     lr
        step:         lr * gamma ** (how many milestones the step's epoch has reached)
        cosine:       final + (lr - final) * (1 + cos(pi * step / steps)) / 2; `final` is what the step after the last would get
        one_cycle:    a half cosine from lr / divisor up to lr over the first `warmup` of the steps, then one down to
                      lr / divisor / final_divisor at the last step; torch's OneCycleLR without its momentum cycle
        inverse_sqrt: lr / sqrt(step + 1)

        Args:
            step: Counted over the whole run, from 0.
            steps: Of the whole schedule: steps per epoch times `epochs`, or times `horizon` where that is set.

        Raises:
            UsageError: The step is not one of the schedule.
        """
        if not 0 <= step < steps:
            raise UsageError(f"Step {step} is outside 0..{steps - 1}, the steps of the schedule.")
        if self.schedule == "step":
            epoch = step * self.epochs // steps
            return self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            return _half_cosine(self.lr, self.final, step / steps)
        if self.schedule == "one_cycle":
            low, last = self.lr / self.divisor, steps - 1
            # Fewer steps than a warm-up takes leave no room to rise: the run then starts at the top.
            peak = max(self.warmup * steps - 1, 0.0)
            if step < peak:
                return _half_cosine(low, self.lr, step / peak)
            return _half_cosine(self.lr, low / self.final_divisor, (step - peak) / (last - peak) if last > peak else 0.0)
        if self.schedule == "inverse_sqrt":
            return self.lr / math.sqrt(step + 1)
        return self.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, truth values and lists, as TOML and JSON hold them; what is None is left out."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()}
        return {name: value for name, value in plain.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """`to_dict` without the settings that this optimizer and schedule do not use, for display."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in _BELONGS or getattr(self, _BELONGS[name][0]) in _BELONGS[name][1]
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; settings left out take their defaults.

        Raises:
            UnknownName: No setting has that name.
            UsageError: A value is out of its range, or `epochs` or `lr` is missing.
        """
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        for name in plain:
            if name not in fields:
                raise UnknownName("setting of a recipe", name, fields)
        absent = [name for name, default in fields.items() if default is dataclasses.MISSING and name not in plain]
        if absent:
            raise UsageError(f"The recipe needs a value for {' and '.join(absent)}.")
        settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        return cls(**settings)

    @property
    def fingerprint(self) -> str:
        """Hash over what decides each single step: all settings, but `epochs` only where the rate depends on it."""
        settings = self.to_dict()
        epochs = settings.pop("epochs")
        # Under the name of before, so that runs of before are still resumed.
        settings["ragged"] = settings.pop("last_batch")
        if not self.resized_crop:
            del settings["resized_crop"]
        if self.schedule in ("cosine", "one_cycle"):
            settings["horizon"] = self.horizon or epochs
        return fingerprint(repr(sorted(settings.items())))


Recipe.__init__ = moved_keywords({"ragged": "last_batch=..."})(Recipe.__init__)  # type: ignore[method-assign]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: object, words: str, fits: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not fits(value):
        raise UsageError(f"Recipe: {name}={value!r} is not a number {words}.")
    return float(value)


def _half_cosine(start: float, end: float, done: float) -> float:
    """From `start` at 0 to `end` at 1 along half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
