"""What a method may look at. It never holds the answer: which labels were planted wrong is not evidence."""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from ..maths.params import Params
from .arguments import checked_arguments
from .errors import MissingEvidence, UndeclaredNeed, UsageError, some
from .ids import Ids


class Need(enum.Enum):
    """One kind of fact. The value is its name; `how` tells a user how to get it recorded."""

    LABELS = "labels", "every run records the given labels"
    TARGET_PROBS = "target_probs", "every run records it"
    MARGINS = "margins", "every run records it"
    LOSSES = "losses", "every run records it"
    CORRECT = "correct", "every run records it"
    ENTROPIES = "entropies", "every run records it"
    ERROR_NORMS = "error_norms", "every run records it"
    TOP_PROBS = "top_probs", "every run records it"
    SECOND_PROBS = "second_probs", "every run records it"
    LOGITS = "logits", "record with keep_logits=True (`assay record --keep-logits`), or score live while training"
    MEAN_PROBS = (
        "mean_probs",
        "record with mean_probs=True (`assay record --mean-probs`), the default up to 4,194,304 examples x classes",
    )
    CHECKPOINTS = "checkpoints", "record with checkpoints 'every' or 'last', and score together with model and data"
    INPUTS = "inputs", "score together with the data: a run that `assay record` made, or loop= for your own"
    STEPS = "steps", "record with checkpoints 'every' or 'last', and score together with model, data and optimizer"

    how: str

    def __new__(cls, value: str, how: str) -> "Need":
        member = object.__new__(cls)
        member._value_ = value
        member.how = how
        return member


EPOCH_NEEDS = frozenset(
    {
        Need.TARGET_PROBS,
        Need.MARGINS,
        Need.LOSSES,
        Need.CORRECT,
        Need.ENTROPIES,
        Need.ERROR_NORMS,
        Need.TOP_PROBS,
        Need.SECOND_PROBS,
        Need.LOGITS,
    }
)
"""The needs that exist once per epoch and example."""


@runtime_checkable
class EpochSource(Protocol):
    """Where the facts of recorded epochs come from: a run on disk, tensors in memory, the epoch just trained."""

    recorded: int
    """How many epochs there are; they are numbered from 0."""
    holds: frozenset[Need]
    """The epoch needs that every epoch has."""

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch, in the order of the evidence's ids."""
        ...


DATA = ""
"""Name of the data themselves among inputs."""

Value = TypeVar("Value")
Space = dict[str, Tensor]
"""Memory that one epoch leaves to the next."""


class Epoch:
    """The facts of one epoch, each read when it is first asked for. Values are float64 whatever the store holds."""

    def __init__(self, source: EpochSource, index: int, needs: frozenset[Need], space: Space | None = None):
        self.index = index
        self._source, self._needs = source, needs
        self._space = {} if space is None else space
        self._read: dict[Any, Any] = {}

    def narrow(self, needs: frozenset[Need]) -> "Epoch":
        """The same epoch and the same cache, restricted to `needs`."""
        view = Epoch(self._source, self.index, self._needs & needs, self._space)
        view._read = self._read
        return view

    def _take(self, need: Need) -> Tensor:
        if need not in self._needs:
            raise UndeclaredNeed(f"`{need.value}` of epoch {self.index} was read but is not declared in `needs`.")
        if need not in self._read:
            fact = self._source.read(self.index, need)
            self._read[need] = fact if need is Need.CORRECT else fact.to(torch.float64)
        return self._read[need]

    def once(self, key: tuple, make: Callable[[], Value]) -> Value:
        """A value that several methods of a pass make alike, made by the first that asks.

        Args:
            key: Everything that the value depends on: what it is, its options, and the first epoch it looks at if not only this one.
            make: Makes it.
        """
        if key not in self._read:
            self._read[key] = make()
        return self._read[key]

    @property
    def target_probs(self) -> Float[Tensor, " examples"]:
        """Softmax probability of the given label, in [0, 1]."""
        return self._take(Need.TARGET_PROBS)

    @property
    def margins(self) -> Float[Tensor, " examples"]:
        """Logit of the given label minus the best other logit."""
        return self._take(Need.MARGINS)

    @property
    def losses(self) -> Float[Tensor, " examples"]:
        """Cross-entropy with the given label, in nats."""
        return self._take(Need.LOSSES)

    @property
    def correct(self) -> Tensor:
        """Whether the first of the largest logits is the given label; bool, (examples,)."""
        return self._take(Need.CORRECT)

    @property
    def entropies(self) -> Float[Tensor, " examples"]:
        """Entropy of the softmax, in nats."""
        return self._take(Need.ENTROPIES)

    @property
    def error_norms(self) -> Float[Tensor, " examples"]:
        """Euclidean distance from softmax to the one-hot given label, in [0, sqrt 2]."""
        return self._take(Need.ERROR_NORMS)

    @property
    def top_probs(self) -> Float[Tensor, " examples"]:
        """Largest softmax probability."""
        return self._take(Need.TOP_PROBS)

    @property
    def second_probs(self) -> Float[Tensor, " examples"]:
        """Second largest softmax probability (equal to the largest at a tie)."""
        return self._take(Need.SECOND_PROBS)

    @property
    def logits(self) -> Float[Tensor, "examples classes"]:
        """Model outputs before the softmax."""
        return self._take(Need.LOGITS)

    @property
    def probs(self) -> Float[Tensor, "examples classes"]:
        """Softmax of the logits. Computed once and shared by all methods of a pass."""
        if Need.LOGITS not in self._needs:
            return self._take(Need.LOGITS)
        return self.once(("probs",), self._softmax)

    def _softmax(self) -> Tensor:
        logits = self._read[Need.LOGITS] if Need.LOGITS in self._read else self._source.read(self.index, Need.LOGITS)
        # Classes first in memory: along a short last axis torch is several times slower. Not torch.softmax, whose last bits
        # depend on the number of threads.
        shape = logits.shape[::-1]
        if "probs" not in self._space or self._space["probs"].shape != shape:
            self._space["probs"] = torch.empty(shape, dtype=torch.float64)
        probs = self._space["probs"].copy_(logits.t())
        probs -= probs.amax(0)
        probs.exp_()
        probs /= probs.sum(0)
        return probs.t()




@runtime_checkable
class Batch(Protocol):
    """Some examples, and the loss of each as a function of the model's parameters, in eval mode: what gradients are taken of."""

    positions: Int[Tensor, " batch"]
    """Which examples, in the order of the evidence's ids. An example may stand here twice."""
    params: Params
    """Trainable parameters where the batch was met."""

    def losses(self, params: Params) -> Float[Tensor, " batch"]:
        """Loss of each example at `params`, differentiable; parameters that are left out are those of the batch."""
        ...

    def slopes(self, direction: Params) -> tuple[Float[Tensor, " batch"], str]:
        """<direction, grad l_i> of each example's loss, by the parameters that the direction names; and how it was had, in words."""
        ...

    def squares(self, names: Sequence[str]) -> tuple[Float[Tensor, " batch"], str]:
        """|grad l_i|^2 of each example's loss by these parameters; and how it was had, in words."""
        ...

    def products(self, direction: Params) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        """Both at once, each by parameter: slopes and squares, (batch,) each; and how they were had, in words."""
        ...

    def input_gradients(self) -> Float[Tensor, "batch ..."]:
        """Gradient of the logit of each example's given label by its input; by its embeddings where the input is tokens."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """What one layer of a net makes of every example.

    Attributes:
        name: Name of the module; `(input)` before the first layer, `(softmax)` after the last.
        rows: Flattened, of tokens the mean over the tokens; in the order of the evidence's ids.
    """

    name: str
    rows: Float[Tensor, "examples dims"]


@runtime_checkable
class Checkpoint(Protocol):
    """The model as it stood at the end of one epoch."""

    epoch: int
    """Counted from 0; -1 is the state before training."""
    rates: Mapping[str, float]
    """Learning rate of each parameter in the last step before; in the first step, for the state before training."""
    params: Params
    """Trainable parameters."""
    head: tuple[str, ...]
    """Names of the parameters of the last linear layer; empty if there is none."""

    def batches(self) -> Iterator[Batch]:
        """Every example once, without augmentation."""
        ...

    def embeddings(self, names: Sequence[str] | None = None) -> Iterator[Layer]:
        """What the layers make of every example, in eval mode, one after the other: the input, if it is numbers, the modules of these names
        (None: those that are found), and the softmax. A layer may be written into, and is only lent until the next one is asked for."""
        ...

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target by the parameters, here; also where the run ends with their average."""
        ...


@runtime_checkable
class CheckpointSource(Protocol):
    """The models that a run kept."""

    kept: tuple[int, ...]
    """Epochs whose end is kept, rising; -1 among them if the state before training is."""
    targets: tuple[str, ...]
    """Names of the numbers whose change can be asked for."""

    def at(self, epoch: int) -> Checkpoint:
        """The model at the end of one of the `kept` epochs."""
        ...

    def consensus(self) -> Int[Tensor, " examples"]:
        """The class that most of the recording's models end with; of several that of the largest mean probability."""
        ...


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """Derivative of a target by everything that one step hands to the next.

    Attributes:
        params: By the trainable parameters.
        carried: By the optimizer's buffers, by slot and parameter; empty as long as nothing depends on them.
        statistics: By the running statistics of normalisation layers, by name.
        averages: By the running averages of the trainable parameters; empty where training keeps none.
    """

    params: Params
    carried: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    statistics: Params = dataclasses.field(default_factory=dict)
    averages: Params = dataclasses.field(default_factory=dict)


@runtime_checkable
class Step(Batch, Protocol):
    """One optimizer step as it was taken. `params` are those before it."""

    index: int
    """Counted from 0 over the whole run."""
    epoch: int
    """The epoch that it belongs to."""
    rates: Mapping[str, float]
    """Learning rate of each parameter."""
    after: Params
    """Trainable parameters after the step. Only lent: copy what is kept longer than this step is the newest."""

    def batch_alone(self) -> Batch:
        """The batch, the parameters before the step and what else its losses need, to be kept as long as one likes."""
        ...

    def target(self, name: str) -> dict[str, Tensor]:
        """Gradient of a target by the parameters before the step, at them; also where the run ends with their average."""
        ...

    def target_product(self, name: str, direction: Params) -> dict[str, Tensor]:
        """Hessian of a target before the step times a direction."""
        ...

    def back(
        self, adjoints: Sequence[Adjoint], *, at: Params | None = None, curvature: bool = True
    ) -> list[tuple[Float[Tensor, " batch"], Adjoint]]:
        """For each adjoint of the state after the step: d target / d weight of each example's loss, and the adjoint before it.

        The step is differentiated as it was taken: train mode, the same augmentation and dropout, through its optimizer.

        Args:
            adjoints: One per target.
            at: Differentiate here instead of at `params`.
            curvature: Whether what changes the parameters changes later gradients too; else the adjoint by the parameters stays as it is.
        """
        ...


@runtime_checkable
class StepSource(Protocol):
    """A recorded training that can be taken again, forwards and backwards."""

    epochs: tuple[range, ...]
    """The steps of each epoch, counted over the whole run."""
    first: int
    """The earliest step that can be taken again."""
    targets: tuple[str, ...]
    """Names of the numbers whose change can be asked for."""
    derivative_errors: Mapping[int, float]
    """By step whose derivative was held against central differences: the relative error. Known after `back`."""
    unconfirmed: Mapping[int, str]
    """By step whose derivative could not be held against central differences: why. Known after `back`."""

    def visits(self, steps: range) -> Int[Tensor, " examples"]:
        """How often each example stands in the batches of these steps. Known without taking them again."""
        ...

    def sizes(self, steps: range) -> list[int]:
        """How many examples each of these steps took."""
        ...

    def retrained(
        self,
        without: Sequence[Int[Tensor, " group"]],
        steps: range,
        targets: Sequence[str],
        form: Literal["weight", "removed", "renormalised"] = "weight",
    ) -> Float[Tensor, "trainings targets"]:
        """Targets at the end of the run, had some examples been left out of these steps; one training for each group.

        Args:
            without: Positions of those left out, for each training.
            steps: Where they are left out; the other steps are taken as they were.
            targets: Which.
            form: `weight`: their losses count 0, the mean is still taken over the whole batch, which they still help to normalise.
                `removed`: they are not there, and the gradient is still divided by the batch's recorded size. `renormalised`: the mean
                is taken over those that are there. In the last two a batch without examples is no step.
        """
        ...

    def reweighted(self, weights: Float[Tensor, " examples"], steps: range, target: str) -> float:
        """A target at the end of the run, had the losses of these steps been multiplied by these weights."""
        ...

    def forwards(self, steps: range) -> Iterator[Step]:
        """These steps, first to last."""
        ...

    def backwards(self, steps: range, *, replay: bool = True) -> Iterator[Step]:
        """These steps, last to first. Without `replay` their `params` and `after` are those after the last step of the run."""
        ...

    def end(self, name: str) -> Adjoint:
        """Derivative of a target by the state after the last step of the run; the target is that of the averaged model, where one was kept."""
        ...

    def final(self) -> Params:
        """Trainable parameters after the last step of the run, not their average."""
        ...

    def reference(self, name: str) -> Params:
        """Trainable parameters that were given from outside, by the name that they were given."""
        ...


def as_rows(inputs: Any) -> Tensor:
    """Inputs in single precision, or in double if they are neither: whole numbers and short floats as they are worth.

    Raises:
        UsageError: They are no tensor of real numbers with a row for each example.
    """
    if not isinstance(inputs, Tensor):
        raise UsageError(f"Inputs are {type(inputs).__name__}; give a torch tensor with a row for each example.")
    if inputs.layout != torch.strided or inputs.is_complex() or inputs.device.type == "meta" or inputs.ndim < 2:
        what = "complex" if inputs.is_complex() else f"of layout {inputs.layout}, shape {tuple(inputs.shape)}, on {inputs.device}"
        raise UsageError(f"Inputs are {what}; give a dense tensor of real numbers with a row for each example.")
    return inputs if inputs.dtype in (torch.float32, torch.float64) else inputs.to(torch.float64)


class Evidence:
    """Facts about one recorded run, each under the need that names it.

    Attributes:
        ids: Stable id of each example; every fact is in this order.
        classes: How many classes the labels are drawn from.
        recorded: How many epochs were recorded (0 without a recording of epochs).
    """

    @checked_arguments
    def __init__(
        self,
        ids: Ids,
        classes: int,
        *,
        labels: Int[Tensor, " examples"] | None = None,
        epochs: EpochSource | None = None,
        mean_probs: Float[Tensor, "examples classes"] | Callable[[], Float[Tensor, "examples classes"]] | None = None,
        inputs: Num[Tensor, "examples ..."] | Mapping[str, Any] | None = None,
        checkpoints: CheckpointSource | None = None,
        steps: StepSource | None = None,
    ):
        """Put facts under their needs. Mean probabilities may be given as a function that reads them once they are asked for.

        Raises:
            UsageError: Labels, mean probabilities or inputs do not fit the ids and classes, or an input is not finite.
        """
        if labels is not None:
            _check_labels(labels, ids, classes)
            labels = labels.to(torch.int64)
        if isinstance(mean_probs, Tensor):
            _check_probs(mean_probs, ids, classes)
        given = {DATA: inputs} if isinstance(inputs, Tensor) else dict(inputs or {})
        rows = {name: as_rows(one) for name, one in given.items()}
        for one in rows.values():
            if len(one) != len(ids) or one.ndim < 2:
                raise UsageError(f"Inputs of shape {tuple(one.shape)} do not fit {len(ids)} examples; give one row each.")
            bad = ~one.isfinite().flatten(1).all(1)
            if bool(bad.any()):
                names = ids.take(bad)
                raise UsageError(f"Inputs of {len(names)} examples are NaN or infinite; ids {some(names, len(names))}.")
        self.ids, self.classes = ids, classes
        self.recorded = epochs.recorded if epochs is not None else 0
        held = {
            Need.LABELS: labels,
            Need.MEAN_PROBS: mean_probs,
            Need.INPUTS: rows or None,
            Need.CHECKPOINTS: checkpoints,
            Need.STEPS: steps,
        }
        self._held = {need: fact for need, fact in held.items() if fact is not None}
        self._source = epochs
        self._needs = frozenset(self._held) | (epochs.holds if epochs is not None else frozenset())

    @property
    def holds(self) -> frozenset[Need]:
        """The needs that can be read here."""
        return self._needs

    def narrow(self, reader: str, needs: frozenset[Need]) -> "Evidence":
        """The same facts, only those in `needs`.

        Raises:
            MissingEvidence: A need was never recorded; says how to record it.
        """
        if missing := sorted(needs - self._needs, key=lambda need: need.value):
            ways = "; ".join(f"{need.value}: {need.how}" for need in missing)
            raise MissingEvidence(f"{reader} needs {', '.join(n.value for n in missing)}, which this run lacks ({ways}).")
        view = object.__new__(Evidence)
        view.ids, view.classes, view.recorded = self.ids, self.classes, self.recorded
        view._held = {need: fact for need, fact in self._held.items() if need in needs}
        view._source = self._source
        view._needs = needs
        return view

    def _take(self, need: Need):
        if need not in self._needs or need not in self._held:
            raise UndeclaredNeed(f"`{need.value}` was read but is not declared in `needs`.")
        return self._held[need]

    def epoch(self, index: int, space: Space | None = None) -> Epoch:
        """One recorded epoch, showing the declared epoch facts only.

        Args:
            index: Which one, counted from 0.
            space: Memory to use again; what an earlier epoch of the same space gave is written over.

        Raises:
            UsageError: There is no such epoch.
        """
        if self._source is None or not 0 <= index < self.recorded:
            raise UsageError(f"Epoch {index} is not recorded; {self.recorded} epochs are, numbered from 0.")
        return Epoch(self._source, index, self._needs & EPOCH_NEEDS, space)

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """Given (possibly wrong) class, in [0, classes)."""
        return self._take(Need.LABELS)

    @property
    def mean_probs(self) -> Float[Tensor, "examples classes"]:
        """Softmax probabilities averaged over all recorded epochs."""
        held = self._take(Need.MEAN_PROBS)
        if isinstance(held, Tensor):
            return held
        probs = held()
        _check_probs(probs, self.ids, self.classes)
        return probs

    def inputs(self, name: str | None = None) -> Float[Tensor, "examples ..."]:
        """The examples themselves: images in 0..1, channels first, or rows; or rows of that name from outside.

        Raises:
            MissingEvidence: They were not given.
        """
        held, wanted = self._take(Need.INPUTS), DATA if name is None else name
        if wanted not in held:
            what = "The data themselves are" if name is None else f"Rows of the name {name!r} are"
            raise MissingEvidence(f"{what} not at hand; there are: {', '.join(filter(None, held))}.")
        return held[wanted]

    @property
    def checkpoints(self) -> CheckpointSource:
        """The models that the run kept."""
        return self._take(Need.CHECKPOINTS)

    @property
    def steps(self) -> StepSource:
        """The recorded training, to be taken again."""
        return self._take(Need.STEPS)


def _check_probs(probs: Tensor, ids: Ids, classes: int) -> None:
    if probs.shape != (len(ids), classes):
        raise UsageError(f"Mean probabilities of shape {tuple(probs.shape)} do not fit {len(ids)} examples of {classes} classes.")


def _check_labels(labels: Tensor, ids: Ids, classes: int) -> None:
    if labels.shape != (len(ids),):
        raise UsageError(f"Labels of shape {tuple(labels.shape)} do not fit {len(ids)} examples; give one class each.")
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        names, values = ids.take(outside), labels[outside].unique().tolist()
        raise UsageError(
            f"{len(names)} labels are outside 0..{classes - 1} ({some(values, len(values))}); ids {some(names, len(names))}."
        )
