"""What a classifier says of rows while it is fitted: after each stage of boosting, after each epoch of `partial_fit`, or once it is fitted."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import softmax
from torch import Tensor

from ..core.errors import MOST_WORDS, AssayError, NumericalError, UsageError, listed
from ..maths.saved_probabilities import are_probs, log_probs

Array = np.ndarray
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """What a classifier says of rows.

    Attributes:
        values: (rows, classes).
        probs: Whether these are probabilities; else they are logits.
    """

    values: Float64[Tensor, "rows classes"]
    probs: bool = False

    def logits(self) -> tuple[Float64[Tensor, "rows classes"], float]:
        """Logits, and the number that a probability of 0 counts as; 0 if there is none."""
        if not self.probs:
            return self.values, 0.0
        logits, floor, _ = log_probs(self.values)
        return logits, floor


Passes = Iterator[tuple[Told, ...]]
"""One item for each pass: what is said of the rows of each table, in the order in which the tables were given."""


@contextlib.contextmanager
def asked(title: str, what: str) -> Iterator[None]:
    """Turn an error of the estimator into one sentence that names it.

    Raises:
        UsageError: The estimator failed.
    """
    try:
        yield
    except AssayError:
        raise
    except Exception as error:
        # What an estimator raises cannot be listed.
        words = " ".join(str(error).split())[:MOST_WORDS].rstrip(".")
        raise UsageError(
            f"{title} failed in {what}: {type(error).__name__}: {words}. Correct the estimator's settings or the data."
        ) from error


def from_decision(values: Any, classes: int) -> Float64[Tensor, "rows classes"]:
    """Decision values as logits: a column z of a binary classifier becomes exactly the two logits (0, z).

    Raises:
        UsageError: There is not one column for each class.
    """
    raw = np.asarray(values, dtype=np.float64)
    raw = raw[:, None] if raw.ndim == 1 else raw
    if classes == 2 and raw.shape[1] == 1:
        raw = np.concatenate([np.zeros_like(raw), raw], axis=1)
    if raw.shape[1] != classes:
        raise UsageError(
            f"The decision values have {raw.shape[1]} columns for {classes} classes; give an estimator with one per class "
            "(decision_function_shape='ovr' of an SVC), or one with predict_proba."
        )
    return torch.from_numpy(np.ascontiguousarray(raw))


def checked_probs(values: Any, classes: int) -> Float64[Tensor, "rows classes"]:
    """Probabilities as the estimator gave them.

    Raises:
        UsageError: There is not one column for each class.
        NumericalError: A row is not of probabilities that sum to 1.
    """
    probs = np.asarray(values, dtype=np.float64)
    if probs.ndim != 2 or probs.shape[1] != classes:
        raise UsageError(f"predict_proba gives {probs.shape[1:]} numbers per row for {classes} classes; give one for each class.")
    found = torch.from_numpy(np.ascontiguousarray(probs))
    bad = ~are_probs(found)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise NumericalError(
            f"predict_proba of row {row} is {listed(probs[row], classes)}, whose sum is not 1; give an estimator whose classes exclude each other."
        )
    return found


def scale_of(values: Any, probs: Any, classes: int) -> float | None:
    """The factor by which decision values are logits, so that their softmax are the classifier's own probabilities; None if there is none.

    It is 1 for most, 2 for the exponential loss, and 1 / (classes - 1) for AdaBoost. Where all probabilities are near 0 and 1, as for a few held-out rows, several
    fit; then logarithms of probabilities tell them apart.
    """
    logits, given = from_decision(values, classes).numpy(), np.asarray(probs, dtype=np.float64)
    able = [
        scale
        for scale in dict.fromkeys((1.0, 2.0, 1 / (classes - 1)))
        if np.allclose(softmax(scale * logits, axis=1), given, rtol=0, atol=1e-5)
    ]
    misses = [_log_miss(scale * logits, given) for scale in able]
    best = int(np.argmin(misses)) if able else 0
    return able[best] if able and misses[best] <= 1 else None


def _log_miss(logits: Array, probs: Array) -> float:
    """By how much the logarithms of ratios of probabilities are not those of logits, at most, as a share of what rounding near 1 comes to: at most a factor
    of 2, or all of what single precision cannot hold beside 1."""
    wanted = logits - logits.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        found = np.log(probs) - np.log(probs.max(axis=1, keepdims=True))
    there = probs > 0
    miss = np.abs(found[there] - wanted[there]) / (1 + 0.01 * np.abs(wanted[there]))
    lost = wanted[~there] > np.log(1e-7)
    return max(float(miss.max(initial=0)), 2.0 if lost.any() else 0.0)


def told(model: Any, rows: Any, classes: int) -> Told:
    """What a fitted classifier says: its decision values where their softmax are its probabilities, else its probabilities.

    Raises:
        UsageError: It has neither decision values nor probabilities for each class.
        NumericalError: Its probabilities do not sum to 1.
    """
    return as_told(*said(model, rows, classes), classes)


def said(model: Any, rows: Any, classes: int) -> tuple[Array | None, Array | None]:
    """Decision values and probabilities of a fitted classifier; None for what it has not, or what cannot be logits.

    Raises:
        UsageError: It has neither for each class.
    """
    decides, estimates = hasattr(model, "decision_function"), hasattr(model, "predict_proba")
    if not decides and not estimates:
        raise UsageError(
            f"{type(model).__name__} has neither decision_function nor predict_proba; give a classifier with either."
        )
    # The probabilities of this loss are decision values cut at -1 and 1, which look like their softmax where all are beyond.
    decides &= not estimates or getattr(model, "loss", "") != "modified_huber"
    raw = np.asarray(model.decision_function(rows)) if decides else None
    if not estimates:
        if classes > 2 and getattr(model, "decision_function_shape", "") == "ovo":
            # Of three classes there are three pairs, too.
            raise UsageError("The decision values are of pairs of classes; set decision_function_shape='ovr'.")
        return raw, None
    return raw, np.asarray(model.predict_proba(rows))


def as_told(raw: Array | None, probs: Array | None, classes: int) -> Told:
    """Decision values where they have no probabilities or their softmax are these, else the probabilities.

    Raises:
        UsageError: There is not one column for each class.
        NumericalError: Probabilities do not sum to 1.
    """
    if probs is None:
        return Told(from_decision(raw, classes))
    if raw is not None and (classes == 2 or raw.shape[1:] == (classes,)):
        scale = scale_of(raw, probs, classes)
        if scale is not None:
            return Told(scale * from_decision(raw, classes))
    return Told(checked_probs(probs, classes), probs=True)


# ---------------------------------------------------------------------- boosting


Staged = Callable[[Any, int], Iterator[Array]]
"""Of rows and `every`: an array for each stage that is kept."""


def kept(stages: Iterable[Item], every: int) -> Iterator[Item]:
    """Every `every`-th item, and the last one."""
    last: Item | None = None
    for number, last in enumerate(stages, 1):
        if number % every == 0:
            yield last
            last = None
    if last is not None:
        yield last


def _ends(total: int, every: int) -> list[tuple[int, int]]:
    return [(start, min(start + every, total)) for start in range(0, total, every)]


def _of_scikit_learn(model: Any) -> tuple[Staged | None, Staged]:
    def margins(rows: Any, every: int) -> Iterator[Array]:
        return kept(model.staged_decision_function(rows), every)

    def probs(rows: Any, every: int) -> Iterator[Array]:
        return kept(model.staged_predict_proba(rows), every)

    return margins if hasattr(model, "staged_decision_function") else None, probs


def _of_lightgbm(model: Any) -> tuple[Staged, Staged]:
    total = model.best_iteration_ or model.booster_.current_iteration()

    def margins(rows: Any, every: int) -> Iterator[Array]:
        # Each tree is asked once: what a range of them says is added to what those before said.
        found: Any = 0.0
        for start, end in _ends(total, every):
            found = found + model.predict(rows, raw_score=True, start_iteration=start, num_iteration=end - start)
            yield found

    def probs(rows: Any, every: int) -> Iterator[Array]:
        return (model.predict_proba(rows, num_iteration=end) for _, end in _ends(total, every))

    return margins, probs


def _of_xgboost(model: Any) -> tuple[Staged, Staged]:
    best = getattr(model, "best_iteration", None)
    total = model.get_booster().num_boosted_rounds() if best is None else best + 1

    def margins(rows: Any, every: int) -> Iterator[Array]:
        found = None
        for bounds in _ends(total, every):
            found = model.predict(rows, output_margin=True, base_margin=found, iteration_range=bounds)
            yield found

    def probs(rows: Any, every: int) -> Iterator[Array]:
        return (model.predict_proba(rows, iteration_range=(0, end)) for _, end in _ends(total, every))

    return margins, probs


def _is_lightgbm(model: Any) -> bool:
    return hasattr(type(model), "booster_")


def _is_xgboost(model: Any) -> bool:
    return hasattr(type(model), "get_booster")


def is_boosted(model: Any) -> bool:
    """Whether a classifier, fitted or not, is boosted in stages that can be asked one by one."""
    names = "staged_decision_function", "staged_predict_proba"
    return any(hasattr(model, name) for name in names) or _is_lightgbm(model) or _is_xgboost(model)


def check_boosted(model: Any, title: str) -> None:
    """Refuse boosting whose stages, once it is fitted, are not those that it went through.

    Raises:
        UsageError: It weighs trees anew or averages them, or it has none.
    """
    settings = model.get_params() if _is_lightgbm(model) or _is_xgboost(model) else {}
    kind = next((settings[name] for name in ("boosting", "boost", "boosting_type", "booster") if settings.get(name)), "")
    if kind not in ("", "gbdt", "gbtree", "goss"):
        trees = "boosting_type='gbdt'" if _is_lightgbm(model) else "booster='gbtree'"
        raise UsageError(
            f"{title} of kind {kind!r} has no stages that stay as they were while it is fitted; take {trees}, or give folds=5 for out-of-fold "
            "predictions."
        )


def watched(model: Any, validation: tuple[Any, Any] | None) -> dict[str, Any]:
    """What `fit` of LightGBM or XGBoost is given besides, where it is to stop early and there are rows to watch; else nothing."""
    settings = model.get_params() if _is_lightgbm(model) or _is_xgboost(model) else {}
    stops = any(settings.get(name) for name in ("early_stopping_rounds", "early_stopping_round", "n_iter_no_change"))
    if not stops or validation is None:
        return {}
    # By its name since LightGBM 4.7, or by that of before, which XGBoost has.
    split = "eval_X" in inspect.signature(model.fit).parameters
    return {"eval_X": (validation[0],), "eval_y": (validation[1],)} if split else {"eval_set": [validation]}


def _first_scale(margins: Iterator[Array], probs: Iterator[Array], classes: int) -> float | None:
    """The scale by the first stage, because probabilities of later ones are too near 0 and 1 to tell factors apart."""
    pair = next(zip(margins, probs, strict=False), None)
    return None if pair is None else scale_of(*pair, classes)


def boosted(model: Any, tables: Sequence[Any], classes: int, every: int) -> Passes:
    """What is said after every `every`-th stage of a fitted classifier and after its last one; of each table, one stage in memory at a time.

    Raises:
        UsageError: It does not give one number for each class.
        NumericalError: Its probabilities do not sum to 1.
    """
    of = _of_lightgbm if _is_lightgbm(model) else _of_xgboost if _is_xgboost(model) else _of_scikit_learn
    margins, probs = of(model)
    scale = None if margins is None else _first_scale(margins(tables[0], every), probs(tables[0], every), classes)
    if margins is None or scale is None:
        yield from zip(
            *((Told(checked_probs(stage, classes), probs=True) for stage in probs(rows, every)) for rows in tables), strict=True
        )
        return
    yield from zip(
        *((Told(scale * from_decision(stage, classes)) for stage in margins(rows, every)) for rows in tables), strict=True
    )
