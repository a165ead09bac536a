"""The facts that a method may read. They never tell which labels were made wrong on purpose."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int, Num
from torch import Tensor

from .arguments import checked_arguments, checked_fields, moved_keywords
from .epochs import ClasslessSource, Epoch, EpochSource, PartialSource, Space, ValidatedSource
from .errors import MissingEvidence, UndeclaredNeed, UsageError, listed
from .features import DATA, Features, FeatureSource, FeatureSpec, QueryFeatureSource, given_features, rows_named
from .game import Game, GameMaker, Utility, Valuation
from .held_out import HeldOut, HeldOutRows, rows_name
from .ids import Ids
from .models import ModelSource, Queries
from .needs import EPOCH_NEEDS, Need
from .passes import Passes
from .steps import StepSource


def as_rows(inputs: Any) -> Tensor:
    """Inputs as floating-point numbers: float32 and float64 stay as they are, other types become float64 with the same values.

    Returns:
        float32 or float64, of the same shape.

    Raises:
        UsageError: The inputs are no dense tensor of real numbers with a row for each example.
    """
    if not isinstance(inputs, Tensor):
        raise UsageError(f"Inputs are {type(inputs).__name__}; give a torch tensor with a row for each example.")
    if inputs.layout != torch.strided or inputs.is_complex() or inputs.device.type == "meta" or inputs.ndim < 2:
        what = "complex" if inputs.is_complex() else f"of layout {inputs.layout}, shape {tuple(inputs.shape)}, on {inputs.device}"
        raise UsageError(f"Inputs are {what}; give a dense tensor of real numbers with a row for each example.")
    return inputs if inputs.dtype in (torch.float32, torch.float64) else inputs.to(torch.float64)


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class ReplayedFacts:
    """The facts that a training gives when it is taken again.

    Attributes:
        checkpoints: The models that the run kept.
        models: The kept models of every model of a recording of several, `checkpoints` among them.
        steps: The recorded training, whose steps can be replayed.
        features: Computes the features of kept models. Inputs are features by themselves.

    Raises:
        UsageError: A value is of a wrong kind, or `models` has no `checkpoints` beside it.
    """

    checkpoints: ModelSource | None = None
    models: Sequence[ModelSource] = ()
    steps: StepSource | None = None
    features: FeatureSource | None = None

    def __post_init__(self):
        if len(self.models) and self.checkpoints is None:
            raise UsageError(
                "ReplayedFacts: models= without checkpoints=; give the kept models of the first of them as checkpoints=."
            )


REPLAYED = [field.name for field in dataclasses.fields(ReplayedFacts)]


class Evidence:
    """Facts about one recorded run, each of a kind that a `Need` names.

    Attributes:
        ids: Stable id of each example; every fact is in this order.
        classes: How many classes the labels are drawn from; 0 where an example has no class.
        recorded: How many epochs were recorded (0 without a recording of epochs).
        passes: What these are, where somebody else's predictions stand in the place of recorded epochs; else None.
    """

    @moved_keywords(dict.fromkeys(REPLAYED, "replayed=assay.ReplayedFacts({name}=...)"))
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
        replayed: ReplayedFacts | None = None,
        games: GameMaker | None = None,
    ):
        """Make evidence of these facts.

        Mean probabilities may be passed as a function, which is called when they are first read.

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
                raise UsageError(f"Inputs of {len(names)} examples are NaN or infinite; ids {listed(names, len(names))}.")
        self.ids, self.classes = ids, classes
        self.recorded = epochs.recorded if epochs is not None else 0
        replayed = replayed or ReplayedFacts()
        features = replayed.features
        held = {
            Need.LABELS: labels,
            Need.MEAN_PROBS: mean_probs,
            Need.VALIDATION_LOSSES: epochs if isinstance(epochs, ValidatedSource) and epochs.validated else None,
            Need.CHECKPOINTS: (replayed.checkpoints, replayed.models) if replayed.checkpoints is not None else None,
            Need.STEPS: replayed.steps,
            Need.FEATURES: (rows, features) if rows or features is not None else None,
            Need.GAME: games,
        }
        self._held = {need: fact for need, fact in held.items() if fact is not None}
        self._source = epochs
        self.passes: Passes | None = getattr(epochs, "passes", None)
        self._needs = frozenset(self._held) | (epochs.holds if epochs is not None else frozenset())

    def beside(self, held_out: Mapping[str, HeldOut], games: GameMaker | None = None) -> "Evidence":
        """The same facts, and held-out examples beside them.

        Args:
            held_out: The held-out examples of each target, by its name.
            games: What makes games from now on; what did so before where it is None.

        Returns:
            A view: nothing is copied.

        Raises:
            UsageError: A held-out example is not finite or has none of the classes.
        """
        for name, held in held_out.items():
            held.check(name, self.classes)
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        more: dict[Need, Any] = {Need.HELD_OUT: dict(held_out)} if held_out else {}
        more |= {Need.GAME: games} if games is not None else {}
        view._held = {**self._held, **more}
        view._needs = self._needs | frozenset(more)
        return view

    @property
    def holds(self) -> frozenset[Need]:
        """The kinds of facts (`Need`) that this evidence has."""
        return self._needs

    def narrow(self, reader: str, needs: frozenset[Need]) -> "Evidence":
        """The same evidence, restricted to the facts in `needs`.

        Returns:
            A view: nothing is copied.

        Raises:
            MissingEvidence: A need was never recorded; says how to record it.
        """
        if missing := sorted(needs - self._needs, key=lambda need: need.value):
            source = self._source
            if isinstance(source, ClasslessSource) and (asked := [need.value for need in missing if need in source.absent]):
                raise MissingEvidence(
                    f"{reader} reads {', '.join(asked)}, which only examples with a class have; {source.without_classes()}"
                )
            ways = "; ".join(f"{need.value}: {need.how}" for need in missing)
            raise MissingEvidence(f"{reader} needs {', '.join(n.value for n in missing)}, which this run lacks ({ways}).")
        view = object.__new__(Evidence)
        view.ids, view.classes, view.recorded = self.ids, self.classes, self.recorded
        view._held = {need: fact for need, fact in self._held.items() if need in needs}
        view._source, view.passes = self._source, self.passes
        view._needs = needs
        return view

    def _take(self, need: Need):
        if need not in self._needs or need not in self._held:
            raise UndeclaredNeed(f"`{need.value}` was read but is not declared in `reads`.")
        return self._held[need]

    def epoch(self, index: int, space: Space | None = None) -> Epoch:
        """One recorded epoch, showing the declared epoch facts only.

        Args:
            index: Number of the epoch, counted from 0.
            space: Memory to reuse; the tensors of an earlier epoch read with the same `space` are overwritten.

        Returns:
            Facts of all examples; valid until the space is used again.

        Raises:
            UsageError: There is no such epoch.
        """
        if self._source is None or not 0 <= index < self.recorded:
            raise UsageError(f"Epoch {index} is not recorded; {self.recorded} epochs are, numbered from 0.")
        return Epoch(self._source, index, self._needs & EPOCH_NEEDS, space)

    def missing(self, epochs: range) -> dict[int, int]:
        """Which of these epochs lack facts of some examples, because they did not train on them, and of how many examples."""
        if not isinstance(self._source, PartialSource):
            return {}
        found = ((epoch, self._source.missing(epoch)) for epoch in epochs)
        return {epoch: int(mask.sum()) for epoch, mask in found if mask is not None}

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

    @property
    def validation_losses(self) -> Float64[Tensor, "epochs classes"]:
        """Mean cross-entropy of the validation examples of each class after every recorded epoch, in nats; NaN for a class without any."""
        source = self._take(Need.VALIDATION_LOSSES)
        return torch.stack([source.validation_losses(epoch).to(torch.float64) for epoch in range(self.recorded)])

    def features(self, spec: str | FeatureSpec) -> Features:
        """A row of numbers for each example (see `core.features.FeatureSpec`).

        Returns:
            The features; nothing is computed before their rows are asked for.

        Raises:
            UsageError: There are no features of that kind.
            MissingEvidence: The data from which the features are computed were not passed.
        """
        rows, source = self._take(Need.FEATURES)
        wanted = FeatureSpec.parse(spec) if isinstance(spec, str) else spec
        if not wanted.of_a_model:
            return given_features(self.ids, rows, wanted)
        if source is None:
            raise MissingEvidence(
                f"features={wanted} are made by a model that a run kept, and there is none here; score a run that was recorded with "
                "Recording(checkpoints='last'), or choose features=inputs or features=rows:NAME."
            )
        return source.features(wanted)

    @property
    def checkpoints(self) -> ModelSource:
        """The models that the run kept."""
        return self._take(Need.CHECKPOINTS)[0]

    @property
    def models(self) -> tuple[ModelSource, ...]:
        """The kept models of each model of a recording of several, `checkpoints` among them; of a recording of one, those alone.

        All share one copy of the data.
        """
        first, several = self._take(Need.CHECKPOINTS)
        return tuple(several) or (first,)

    def queries(self, name: str) -> Queries:
        """The rows of a target that is a mean of losses: their ids, labels and weights.

        A kept model gives their losses (`Model.queries`), a recorded training their derivatives (`StepSource.end`), and `held_out` their features.

        Returns:
            In the order in which a kept model gives their losses.

        Raises:
            UnknownName: There is no such target.
            MissingEvidence: There are no such held-out examples, where these are all that is read of a target.
            UsageError: The target is a function of the model, which has no rows.
        """
        if Need.HELD_OUT in self._needs and not self._needs & {Need.STEPS, Need.CHECKPOINTS}:
            return self._known(name).queries
        stepwise = Need.STEPS in self._needs and Need.CHECKPOINTS not in self._needs
        return self.steps.queries(name) if stepwise else self.checkpoints.queries(name)

    @property
    def steps(self) -> StepSource:
        """The recorded training, whose steps can be replayed."""
        return self._take(Need.STEPS)

    def target_features(self, spec: FeatureSpec, target: str) -> Features:
        """Features that a kept model makes of the rows of a target, as `features` makes those of the examples.

        Returns:
            In the order of `queries`.

        Raises:
            UnknownName: There is no such target.
            MissingEvidence: No model makes features here, or none makes features of that kind.
            UsageError: The model has no such features.
        """
        source = self._take(Need.FEATURES)[1]
        if not spec.of_a_model:
            raise MissingEvidence(
                f"features={spec} are not made by a model, and are known of the examples and not of target {target!r}; choose features of a kept model."
            )
        if not isinstance(source, QueryFeatureSource):
            raise MissingEvidence(
                f"features={spec} are made by a model that a run kept, and there is none here; choose features=inputs or features=rows:NAME."
            )
        return source.query_features(spec, target)

    def held_out(self, target: str, features: str | FeatureSpec = "inputs") -> HeldOutRows:
        """The held-out examples of a target, with the same features as the training examples have.

        Args:
            target: Name of the target, such as `validation`.
            features: Features of each example.

        Returns:
            Rows, labels and weights, in the order of `queries`; the reader may modify them.

        Raises:
            MissingEvidence: There are no such held-out examples, or what their features are made of was not passed.
            UsageError: The model has no such features.
        """
        held, wanted = self._known(target), FeatureSpec.parse(features) if isinstance(features, str) else features
        if wanted.of_a_model:
            rows = self.target_features(wanted, target).rows()
        else:
            rows = rows_named(held.inputs, DATA if wanted.kind == "inputs" else rows_name(wanted.name, target)).flatten(1)
        if len(rows) != len(held.ids):
            raise UsageError(
                f"{len(rows)} rows of the held-out examples {target!r} ({wanted}) do not fit their {len(held.ids)} labels; give a row for each."
            )
        return HeldOutRows(rows.to("cpu", copy=True), held.labels, held.weights)

    def _known(self, target: str) -> HeldOut:
        known: Mapping[str, HeldOut] = self._take(Need.HELD_OUT)
        if target not in known:
            raise MissingEvidence(
                f"There are no held-out examples {target!r}; there are: {', '.join(known) or 'none'}. {Need.HELD_OUT.how.capitalize()}."
            )
        return known[target]

    def game(self, learner: str, features: str = "inputs", target: str = "", utility: Utility = "accuracy") -> Game:
        """The game of a learner: it can be trained on any subset of the examples, from their features and given labels.

        Args:
            learner: The learner to train: its name with options.
            features: The features of each example that the learner is trained on.
            target: The held-out examples by which a subset is valued; none for a game that predicts only.
            utility: What of their predictions is the value.

        Returns:
            A game whose players are the examples, in the order of `ids`.

        Raises:
            MissingEvidence: The features or the held-out examples are not available.
            UnknownName: There is no such learner or option.
            UsageError: An option does not accept a value.
        """
        make = self._take(Need.GAME)
        valuation = Valuation(self.held_out(target, features), utility) if target else None
        return make(self.ids, self.features(features).rows(), self.labels, self.classes, learner, valuation)


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
            f"{len(names)} labels are outside 0..{classes - 1} ({listed(values, len(values))}); ids {listed(names, len(names))}."
        )
