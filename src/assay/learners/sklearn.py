"""Any classifier of scikit-learn, by its dotted name."""

import dataclasses
import importlib
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import MOST_WORDS, AssayError, NumericalError, UnknownName, UsageError
from ..core.learner import AbstractLearner, Fitted, repeated


def _words(error: BaseException | str) -> str:
    return " ".join(str(error).split())[:MOST_WORDS].rstrip(".")


def _refusal(title: str, error: Exception) -> AssayError:
    """An error of scikit-learn as one of ours: of the options, or of this training."""
    from sklearn.utils._param_validation import InvalidParameterError

    kind = UsageError if isinstance(error, (InvalidParameterError, TypeError)) else NumericalError
    return kind(f"learner {title} failed: {type(error).__name__}: {_words(error)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Wrapped:
    """A fitted estimator of scikit-learn."""

    estimator: Any
    title: str
    classes: int
    remarks: tuple[str, ...] = ()

    def predict_probs(self, rows: Float[Tensor, "queries dims"]) -> Float64[Tensor, "queries classes"]:
        """The estimator's `predict_proba`; if it has none, 1 for the class that it predicts and 0 for the others.

        Raises:
            NumericalError: The estimator failed on these rows.
        """
        if not len(rows):
            return torch.zeros(0, self.classes, dtype=torch.float64)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if hasattr(self.estimator, "predict_proba"):
                    return torch.from_numpy(np.asarray(self.estimator.predict_proba(rows.numpy()), dtype=np.float64))
                there = torch.from_numpy(np.asarray(self.estimator.predict(rows.numpy())))
                return torch.nn.functional.one_hot(there, self.classes).to(torch.float64)
        except Exception as error:
            # What an estimator raises cannot be listed; no error of its own may become a number or reach the user.
            raise _refusal(self.title, error) from error


def fitted(
    estimator: Any,
    title: str,
    rows: Float[Tensor, "examples dims"],
    labels: Int[Tensor, " examples"],
    classes: int,
    weights: Float64[Tensor, " examples"],
    weighted: bool = False,
) -> Wrapped:
    """The estimator, trained on each example as often as the example's weight says.

    Whole-number weights become repeated rows, which is what a weight means here, whatever the estimator does with `sample_weight`; other weights are
    passed as `sample_weight`. With `weighted` all are, because the estimator is known to treat them like repeated rows.

    Raises:
        UsageError: A weight is no whole number and the estimator takes no weights, or it refuses the parameters that it was given.
        NumericalError: The training failed.
    """
    from sklearn.utils.validation import has_fit_parameter

    more: dict[str, np.ndarray] = {}
    if not weighted and (several := repeated(rows, labels, weights)) is not None:
        rows, labels = several
    elif has_fit_parameter(estimator, "sample_weight"):
        more["sample_weight"] = weights.numpy()
    else:
        raise UsageError(f"learner {title} takes no weights other than whole numbers; give such, or another learner.")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(rows.numpy(), labels.numpy(), **more)
    except Exception as error:
        # As above.
        raise _refusal(title, error) from error
    return Wrapped(estimator, title, classes, tuple(dict.fromkeys(_words(one.message) for one in caught)))  # type: ignore[arg-type]


def _value(text: str) -> object:
    """A number, true, false, none, or the text itself."""
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@dataclasses.dataclass(frozen=True)
class Sklearn(AbstractLearner):
    """A classifier of scikit-learn with any parameters that are numbers, texts, true, false or none.

    Args:
        estimator: Dotted name of the class, such as `sklearn.ensemble.RandomForestClassifier`.
        settings: Parameters of its constructor, `name=value` joined by `+`. `random_state` is the seed of each training.
    """

    estimator: str
    settings: str = ""
    name: ClassVar[str] = "sklearn"
    summary: ClassVar[str] = "any classifier of scikit-learn: sklearn.MODULE.CLASS:parameter=value+parameter=value"

    def __post_init__(self):
        super().__post_init__()
        self.made(0)

    def made(self, seed: int) -> Any:
        """The classifier, which is not trained yet.

        Args:
            seed: What it draws from, where it has a `random_state`.

        Raises:
            UnknownName: It has no such parameter.
            UsageError: There is no such classifier, or it cannot be made from numbers and texts.
        """
        from sklearn.base import BaseEstimator, is_classifier

        module, _, name = self.estimator.rpartition(".")
        cls: Any = None
        if module.partition(".")[0] == "sklearn":
            try:
                cls = getattr(importlib.import_module(module), name, None)
            except ImportError:
                cls = None
        if not (isinstance(cls, type) and issubclass(cls, BaseEstimator)):
            raise UsageError(
                f"learner {self.estimator!r} is no class of scikit-learn here; give a classifier such as sklearn.ensemble.RandomForestClassifier."
            )
        given: dict[str, object] = {}
        for part in filter(None, (part.strip() for part in self.settings.split("+"))):
            key, equals, text = part.partition("=")
            if not equals or not key or key in given:
                raise UsageError(f"learner {self.title}: {part!r} is not of the form parameter=value, or stands there twice.")
            given[key] = _value(text)
        try:
            known = cls().get_params(deep=False)
        except Exception as error:
            raise UsageError(
                f"learner {self.estimator} cannot be made from numbers and texts alone ({_words(error)}); give another one."
            ) from error
        for key in given:
            if key not in known:
                raise UnknownName(f"parameter of learner {self.estimator}", key, known)
        if "random_state" in given:
            raise UsageError(f"learner {self.title}: random_state is the seed of each training; give seed= instead.")
        made = cls(**given, **({"random_state": seed} if "random_state" in known else {}))
        if not is_classifier(made):
            raise UsageError(
                f"learner {self.estimator} is no classifier; give one such as sklearn.ensemble.RandomForestClassifier."
            )
        return made

    @property
    def title(self) -> str:
        """Name and options as they were given: `sklearn.tree.DecisionTreeClassifier:max_depth=3`."""
        return self.estimator + (f":{self.settings}" if self.settings else "")

    def train(
        self,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        weights: Float64[Tensor, " examples"],
        seed: int,
    ) -> Fitted:
        # scikit-learn takes seeds of 32 bits.
        return fitted(self.made(seed % 2**32), self.title, rows, labels, classes, weights)
