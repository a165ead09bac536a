"""The recorder around classifiers of tables: scikit-learn's, LightGBM's and XGBoost's."""

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments, checked_fields, described, moved_keywords
from ..core.errors import UsageError, listed
from ..core.ids import Ids, index_of
from ..core.passes import Passes
from ..runs.disk import whole_folder
from ..runs.paths import RunPaths
from ..runs.recorder import Origin, Recorder, check_place
from ..runs.recording import Recording
from ..runs.run import Run
from . import stages
from .stages import Told, asked

KINDS = {
    "stages": Passes("evaluation"),
    "epochs": Passes("evaluation"),
    "bags": Passes("out_of_bag"),
    "folds": Passes("out_of_fold"),
}
"""What the passes of each way of recording are."""

Split = tuple[np.ndarray, np.ndarray]
"""Positions to train on, and positions that are held out."""

LONGEST = 300
"""Letters of an estimator's settings that are kept with the run."""


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class TableRecording:
    """What is recorded of a classifier, and what its table does not tell.

    Attributes:
        every: Record every `every`-th stage or epoch, and the last one.
        ids: Id of each row; by default the index of a DataFrame (of `X`, else of `y`) where it is whole numbers or texts that occur once, else 0, 1, 2, ...
        class_names: One name per class, in sorted order of the classes; by default the classes themselves.
        sample_weight: Weight of each row in the fit, as scikit-learn takes it; in a pipeline that of the last step.
        keep_logits: Store the logits of every recorded pass, for methods such as TDDS.
        mean_probs: Store the sum of the probabilities over passes, for relabelling; by default where rows times classes are at most 4,194,304.

    Raises:
        UsageError: A setting is of a wrong kind, or `every` is below 1.
    """

    every: int = 1
    ids: Ids | Sequence[int] | Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    sample_weight: Any = None
    keep_logits: bool = False
    mean_probs: bool | None = None

    def __post_init__(self):
        if self.every < 1:
            raise UsageError(
                f"TableRecording: every={self.every} is below 1; give 1 to record each stage, or 10 for every tenth."
            )


_HERE = {
    name: "recording=assay.sklearn.TableRecording({name}=...)"
    for name in (field.name for field in dataclasses.fields(TableRecording))
}


@moved_keywords(_HERE)
@checked_arguments
def record(
    estimator: Any,
    X: Any,
    y: Any,
    folder: str | Path,
    *,
    epochs: int | None = None,
    folds: Any = None,
    validation: tuple[Any, Any] | None = None,
    recording: TableRecording | None = None,
) -> Run:
    """Fit a classifier and record what it says of every row: in the place of `estimator.fit(X, y)`.

    What the epochs of the run are depends on the estimator:

    * boosting (`HistGradientBoostingClassifier`, `GradientBoostingClassifier`, `AdaBoostClassifier`, LightGBM, XGBoost): its stages. It is fitted by its
      own `fit`, and then asked stage by stage.
    * `partial_fit` (`SGDClassifier`, `MLPClassifier`, `Perceptron`, ...): `epochs` calls, each with all rows, in another order each time where the
      estimator shuffles and its `random_state` is a whole number.
    * `oob_score=True` (`RandomForestClassifier`, `BaggingClassifier`, ...): one pass of its out-of-bag predictions.
    * any other, with `folds`: one pass in which each row is predicted by a copy that was fitted on the other folds.

    All but folds fit the estimator itself, as `fit` would; with folds it stays as it is. The last step of a Pipeline is the estimator.

    Logits are such that their softmax are the estimator's own probabilities: its decision values where that is so (one column z as (0, z)), else the
    logarithms of its probabilities. Without `predict_proba` they are the decision values.

    Args:
        estimator: A classifier, or a Pipeline that ends in one.
        X: Rows: an array, a DataFrame or a sparse matrix, whatever the estimator takes.
        y: Class of each row: whole numbers, texts or booleans.
        folder: Where the run is written, new or empty; it is there whole or not at all.
        epochs: For `partial_fit`: how many times to go over the rows.
        folds: How many stratified folds, drawn with seed 0; or a splitter of scikit-learn, or pairs of (training, held-out) positions. Splits that hold
            every row out several times are as many passes.
        validation: Rows and classes that are not trained on; the mean loss of each class is recorded after each stage or epoch. LightGBM and XGBoost
            watch them where they are to stop early.
        recording: What is kept, ids, names of classes and weights.

    Returns:
        The run.

    Raises:
        UsageError: The estimator has no stages, epochs or out-of-bag predictions; it failed; or the data do not fit together.
        NumericalError: A logit is not finite, or probabilities do not sum to 1.
        OutputExists: `folder` is taken.
        NotWritten: The disk refuses.
    """
    recording, final = recording or TableRecording(), _final(estimator)
    title = type(final).__name__
    check_place(RunPaths(Path(folder)), resumable=False)
    table = _table(X, y, recording, "X", "y")
    tables = [X] if validation is None else [X, validation[0]]
    held = None if validation is None else _validation(validation, table)
    way = _way(final, title, epochs, folds, validation, recording)
    weights = _weights(final, title, recording, len(table.ids), "partial_fit" if way == "epochs" else "fit")
    about = {"data": f"a table of {len(table.ids):,} rows", "net": " ".join(repr(estimator).split())[:LONGEST]}
    if weights is not None:
        about["weights"] = "rows are weighted by sample_weight"
    kind = KINDS[way]
    if way == "folds":
        splits = list(_splits(table, folds))
        kind = dataclasses.replace(kind, repeats=sum(len(test) for _, test in splits) > len(table.ids))
        passes = _out_of_fold(estimator, X, y, table, weights, splits)
        about["splits"] = " ".join(repr(folds).split())[:LONGEST]
    elif way == "epochs":
        passes = stages.kept(_by_epoch(estimator, final, (X, y), table, weights, tables, epochs or 0), recording.every)
        about["epochs"] = f"{_nth(recording.every, 'call')} of partial_fit"
    else:
        with asked(title, "fit"):
            # A pipeline cannot bring such rows to its last step.
            more = stages.watched(final, validation) if final is estimator else {}
            estimator.fit(X, y, **_named(estimator, weights), **more)
        _check_classes(final, table, title)
        if way == "stages":
            if caution := _held_back(final, title):
                about["caution"] = caution
                warnings.warn(caution, stacklevel=4)
            passes = stages.boosted(final, [_before(estimator, rows) for rows in tables], len(table.classes), recording.every)
            about["epochs"] = f"{_nth(recording.every, 'stage')} of boosting"
        else:
            passes = iter([(_out_of_bag(final, table, title),)])
    with _one_stream(final) if way == "epochs" else contextlib.nullcontext():
        return _write(
            Path(folder),
            table,
            held,
            recording,
            Origin(about=about, code=__version__, passes=kind),
            _guarded(passes, title),
        )


# ---------------------------------------------------------------------- what is given


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """The rows that are recorded.

    Attributes:
        ids: Id of each.
        labels: Place of each one's class among `classes`.
        classes: The classes as they stand in `y`, sorted.
        names: One name per class.
    """

    ids: Ids
    labels: Int[Tensor, " rows"]
    classes: np.ndarray
    names: tuple[str, ...]


def _final(estimator: Any) -> Any:
    """The estimator itself, or the last step of a pipeline.

    Raises:
        UsageError: It is no classifier.
    """
    from sklearn.base import is_classifier

    if isinstance(estimator, type) or not hasattr(estimator, "fit") or not hasattr(estimator, "get_params"):
        made = (
            f"; give {estimator.__name__}(...)" if isinstance(estimator, type) else ", such as HistGradientBoostingClassifier()"
        )
        raise UsageError(f"estimator= is {described(estimator)} and no classifier{made}.")
    final = estimator
    while hasattr(final, "steps") and hasattr(final, "named_steps"):
        final = final.steps[-1][1]
    if isinstance(final, str) or not is_classifier(final):
        raise UsageError(
            f"estimator= is {described(estimator)} that ends in {described(final)}, and no classifier; values of a regression or of a transformation "
            "cannot be recorded here. Give a classifier, such as HistGradientBoostingClassifier()."
            if final is not estimator
            else f"estimator= is {described(estimator)} and no classifier; give one, such as HistGradientBoostingClassifier()."
        )
    return final


def _count(rows: Any, name: str) -> int:
    if isinstance(rows, (str, bytes, type, Mapping)) or not (hasattr(rows, "shape") or hasattr(rows, "__len__")):
        raise UsageError(
            f"record: {name}= is {described(rows)}; give an array, a DataFrame or a sparse matrix with a row for each example."
        )
    shape = getattr(rows, "shape", None)
    if shape is not None and len(shape) == 0:
        raise UsageError(f"record: {name}= is a single number; give a row for each example.")
    return int(shape[0]) if shape is not None else len(rows)


def _table(X: Any, y: Any, recording: TableRecording, rows: str, labels: str) -> _Table:
    n = _count(X, rows)
    values = _values(y, n, labels)
    given = recording.ids if recording.ids is not None else _index(X, y, n)
    ids = given if isinstance(given, Ids) else Ids(given)
    if len(ids) != n:
        raise UsageError(f"{len(ids)} ids do not fit {n} rows; give one for each.")
    missing = np.fromiter(map(_is_missing, values.tolist()), bool, n)
    if missing.any():
        without = ids.take(missing)
        raise UsageError(
            f"{len(without)} of {n} rows have no class in {labels}: ids {listed(without, len(without))}. Give them one or leave these rows out."
        )
    try:
        classes, places = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise UsageError(
            f"{labels}= mixes kinds of values ({error}); give all classes as texts or all as whole numbers."
        ) from error
    if classes.dtype.kind == "f" and not np.array_equal(classes, classes.round()):
        raise UsageError(
            f"{labels}= holds numbers such as {classes[classes != classes.round()][0]:g}, which are those of a regression and no classes; give classes, such as "
            "low, middle and high."
        )
    if len(classes) < 2:
        raise UsageError(f"All {n} rows are of class {classes[0] if n else '(none)'}; valuing needs at least 2 classes.")
    names = tuple(str(int(value)) if classes.dtype.kind == "f" else str(value) for value in classes)
    if recording.class_names is not None:
        if len(recording.class_names) != len(classes):
            raise UsageError(f"{len(recording.class_names)} class names do not fit {len(classes)} classes; give one for each.")
        names = tuple(map(str, recording.class_names))
    return _Table(ids, torch.from_numpy(places.reshape(-1).astype(np.int64)), classes, names)


def _values(y: Any, n: int, name: str) -> np.ndarray:
    """The classes as one array; says of what is none why."""
    if y is None or isinstance(y, (str, bytes, type, Mapping)) or not (hasattr(y, "shape") or hasattr(y, "__len__")):
        raise UsageError(f"record: {name}= is {described(y)}; give one class for each row.")
    values = np.asarray(y)
    if values.ndim != 1:
        cure = (
            f"give {name}.ravel()" if values.ndim == 2 and values.shape[1] == 1 else "only one class for each row can be recorded"
        )
        raise UsageError(f"record: {name}= is of shape {values.shape}; {cure}.")
    if values.dtype.kind not in "biufUO":
        raise UsageError(f"record: {name}= holds {values.dtype}; give classes as whole numbers, texts or booleans.")
    if len(values) != n:
        raise UsageError(f"record: {len(values)} classes in {name}= do not fit {n} rows; give one for each.")
    return values


def _is_missing(value: object) -> bool:
    # What pandas has for it is equal to nothing, and no boolean either.
    return not isinstance(value, str) and str(value) in ("None", "nan", "<NA>", "NaT")


def _index(X: Any, y: Any, n: int) -> Any:
    """The index of a DataFrame, where it names rows."""
    for rows in (X, y):
        try:
            if (found := index_of(rows)) is not None:
                return found
        except UsageError as error:
            warnings.warn(
                f"The DataFrame's index names no rows ({str(error).rstrip('.')}); they are numbered 0 to {n - 1}. Give ids with "
                "recording=assay.sklearn.TableRecording(ids=...).",
                stacklevel=6,
            )
    return range(n)


def _validation(given: tuple[Any, Any], table: _Table) -> Int[Tensor, " validation"]:
    n = _count(given[0], "validation")
    values = _values(given[1], n, "validation")
    if not n:
        raise UsageError("validation= has no rows; give some, or leave it out.")
    places = {value: place for place, value in enumerate(table.classes.tolist())}
    strange = [value for value in values.tolist() if _is_missing(value) or value not in places]
    if strange:
        raise UsageError(
            f"{len(strange)} validation rows are of no class of y ({listed(dict.fromkeys(map(str, strange)), len(set(map(str, strange))))}); leave these rows out."
        )
    return torch.tensor([places[value] for value in values.tolist()], dtype=torch.int64)


def _way(final: Any, title: str, epochs: int | None, folds: Any, validation: object, recording: TableRecording) -> str:
    """By what the passes are made: stages, epochs, bags or folds.

    Raises:
        UsageError: By nothing; or a setting does not go with it.
    """
    bags = "oob_score" in final.get_params()
    if folds is not None:
        way = "folds"
    elif stages.is_boosted(final):
        stages.check_boosted(final, title)
        way = "stages"
    elif hasattr(final, "partial_fit"):
        way = "epochs"
        if epochs is None:
            raise UsageError(f"{title} learns by partial_fit; say how many times it goes over the rows, such as epochs=20.")
        if epochs < 1:
            raise UsageError(f"epochs={epochs} is below 1; give how many times {title} goes over the rows.")
    elif bags and final.get_params()["oob_score"]:
        way = "bags"
    else:
        raise UsageError(
            f"{title} has neither stages of boosting nor partial_fit{' nor, without oob_score=True,' if bags else ' nor'} out-of-bag predictions; "
            f"{'set oob_score=True, or ' if bags else ''}give folds=5 (`--folds 5`) for out-of-fold predictions."
        )
    what = {"folds": "folds", "stages": "the stages of boosting", "epochs": "partial_fit", "bags": "out-of-bag predictions"}[way]
    if epochs is not None and way != "epochs":
        cure = "set n_estimators or max_iter of the estimator" if way == "stages" else "leave epochs= out"
        raise UsageError(f"epochs={epochs} is for partial_fit, and {title} is recorded by {what}; {cure}.")
    if way in ("folds", "bags"):
        if validation is not None:
            raise UsageError(
                f"validation= is for stages and epochs, and {title} is recorded by {what}, which are held out themselves; leave it out."
            )
        if recording.every != 1:
            raise UsageError(
                f"every={recording.every} is for stages and epochs, and {title} is recorded by {what}; leave it out."
            )
    if way in ("stages", "epochs") and (way == "epochs" or final.get_params().get("warm_start")) and _is_fitted(final):
        raise UsageError(
            f"{title} is fitted already, and would go on from there, on rows that nobody knows of; give sklearn.base.clone(estimator)."
        )
    return way


def _is_fitted(model: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    return True


def _weights(final: Any, title: str, recording: TableRecording, n: int, method: str) -> np.ndarray | None:
    if recording.sample_weight is None:
        return None
    weights = np.asarray(recording.sample_weight)
    if weights.dtype.kind not in "biuf" or weights.shape != (n,):
        raise UsageError(f"sample_weight= is {described(weights)}; give one number for each of {n} rows.")
    if "sample_weight" not in inspect.signature(getattr(final, method)).parameters:
        raise UsageError(f"{title}.{method} takes no sample_weight; leave it out, or give another estimator.")
    return weights


def _named(estimator: Any, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """The weights by the name that `fit` of an estimator, or of a pipeline, has for them."""
    if weights is None:
        return {}
    name = "sample_weight"
    while hasattr(estimator, "steps"):
        step, estimator = estimator.steps[-1]
        name = f"{step}__{name}" if name == "sample_weight" else name.replace("sample_weight", f"{step}__sample_weight")
    return {name: weights}


# ---------------------------------------------------------------------- passes


def _before(estimator: Any, rows: Any) -> Any:
    """Rows as they come to the last step of a pipeline."""
    while hasattr(estimator, "steps"):
        if len(estimator.steps) > 1:
            rows = estimator[:-1].transform(rows)
        estimator = estimator.steps[-1][1]
    return rows


def _check_classes(model: Any, table: _Table, title: str) -> None:
    found = np.atleast_1d(getattr(model, "classes_", ()))
    if not np.array_equal(found, table.classes):
        raise UsageError(
            f"{title} knows the classes {listed(found, len(found))}, and y holds {listed(table.classes, len(table.classes))}; give y with "
            "every class and no other."
        )


def _held_back(model: Any, title: str) -> str:
    """What there is to say of rows that the estimator itself held back to know when to stop; empty if it did not."""
    stops = getattr(model, "do_early_stopping_", getattr(model, "n_iter_no_change", None) is not None)
    part = getattr(model, "validation_fraction", None)
    if not stops or part is None:
        return ""
    said = f"{part:.0%} of the rows" if part < 1 else f"{part} rows"
    off = "early_stopping=False" if hasattr(model, "do_early_stopping_") else "n_iter_no_change=None"
    return (
        f"{title} held {said} back to know when to stop, and does not tell which: it was not fitted on these, so that they look more suspect than they are. "
        f"Set {off}."
    )


def _by_epoch(
    estimator: Any,
    final: Any,
    given: tuple[Any, Any],
    table: _Table,
    weights: np.ndarray | None,
    tables: Sequence[Any],
    epochs: int,
) -> stages.Passes:
    """What is said after each call of `partial_fit` with all rows."""
    rows, y = given
    owner = estimator
    while hasattr(owner, "steps"):
        if len(owner.steps) > 1:
            head = owner[:-1]
            rows = head.fit_transform(rows, y)
            # With a cache a pipeline fits copies of its steps.
            owner.steps[:-1] = head.steps
        owner = owner.steps[-1][1]
    more = {} if weights is None else {"sample_weight": weights}
    seen = [_before(estimator, one) for one in tables]
    for _ in range(epochs):
        final.partial_fit(rows, y, classes=table.classes, **more)
        yield tuple(stages.told(final, one, len(table.classes)) for one in seen)


@contextlib.contextmanager
def _one_stream(model: Any) -> Iterator[None]:
    """Draw what all epochs draw from one generator: `partial_fit` would start from a seed again each time, with the same order."""
    from sklearn.utils import check_random_state

    seed = model.get_params().get("random_state")
    if not isinstance(seed, (int, np.integer)):
        yield
        return
    model.set_params(random_state=check_random_state(seed))
    try:
        yield
    finally:
        model.set_params(random_state=seed)


def _out_of_bag(model: Any, table: _Table, title: str) -> Told:
    probs = np.asarray(model.oob_decision_function_, dtype=np.float64)
    without = ~(probs.sum(1) > 0)
    if without.any():
        names = table.ids.take(without)
        raise UsageError(
            f"{title}: {len(names)} of {len(table.ids)} rows were in the sample of every member, so that none predicts them out of bag; ids "
            f"{listed(names, len(names))}. Set a larger n_estimators."
        )
    return Told(stages.checked_probs(probs, len(table.classes)), probs=True)


def _out_of_fold(
    estimator: Any, X: Any, y: Any, table: _Table, weights: np.ndarray | None, splits: Sequence[Split]
) -> stages.Passes:
    """What is said of held-out rows by copies of the estimator; one item each time every row was held out once more."""
    from sklearn.base import clone

    n, classes = len(table.ids), len(table.classes)
    title = type(_final(estimator)).__name__
    targets = y if hasattr(y, "iloc") else np.asarray(y)
    parts: list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]] = []
    seen = np.zeros(n, dtype=bool)
    for train, test in splits:
        if seen[test].any():
            twice = table.ids.take(test[seen[test]])
            raise UsageError(
                f"folds= holds out {len(twice)} rows again before it held out all; ids {listed(twice, len(twice))}. Give splits of which each row is held out once."
            )
        absent = np.setdiff1d(np.arange(classes), table.labels.numpy()[train])
        if len(absent):
            raise UsageError(
                f"folds=: a copy would be fitted on no row of class {table.names[absent[0]]!r}; leave that class out, or give fewer folds."
            )
        model = clone(estimator)
        with asked(title, "fit"):
            part = _taken(targets, train)
            model.fit(_taken(X, train), part, **_named(model, None if weights is None else weights[train]))
        final = _final(model)
        _check_classes(final, table, title)
        parts.append((test, *stages.said(final, _before(model, _taken(X, test)), classes)))
        seen[test] = True
        if seen.all():
            places, raw, probs = zip(*parts, strict=True)
            # Of all rows together, since a few do not tell whether decision values are logits, and all folds must be alike.
            yield (stages.as_told(_joined(places, raw), _joined(places, probs), classes),)
            parts, seen = [], np.zeros_like(seen)
    if seen.any():
        never = table.ids.take(~seen)
        raise UsageError(
            f"folds= never holds out {len(never)} of {n} rows; ids {listed(never, len(never))}. Give splits of which each row is held out once."
        )


def _joined(places: Sequence[np.ndarray], parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """What copies said of their parts of the rows, in the order of the rows; None if one of them said nothing."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    values = np.concatenate(there)
    return values[np.concatenate(places).argsort()]


def _splits(table: _Table, folds: Any) -> Iterator[Split]:
    from sklearn.model_selection import StratifiedKFold

    n, labels = len(table.ids), table.labels.numpy()
    if isinstance(folds, (int, np.integer)) and not isinstance(folds, bool):
        counts = np.bincount(labels)
        if not 2 <= folds <= n:
            raise UsageError(f"folds={folds} is outside 2 to {n}, the number of rows; give 5, or another number in between.")
        if counts.min() < folds:
            least = int(counts.argmin())
            raise UsageError(
                f"folds={folds}: class {table.names[least]!r} has {counts[least]} rows, and each fold needs one; give fewer folds, or leave that class out."
            )
        folds = StratifiedKFold(int(folds), shuffle=True, random_state=0)
    if hasattr(folds, "split") and not isinstance(folds, (str, bytes, type)):
        if "Group" in type(folds).__name__:
            raise UsageError(
                f"folds= is {described(folds)}, whose groups record does not know; give its pairs of positions, folds=list(splitter.split(X, y, groups))."
            )
        with asked(type(folds).__name__, "split"):
            folds = list(folds.split(np.zeros((n, 1)), labels))
    if isinstance(folds, (str, bytes, type, Mapping)) or not hasattr(folds, "__iter__"):
        raise UsageError(
            f"folds= is {described(folds)}; give a number of folds, a splitter of scikit-learn or pairs of positions."
        )
    for pair in folds:
        try:
            train, test = (np.arange(n)[np.asarray(part)] for part in pair)
        except (TypeError, ValueError, IndexError) as error:
            raise UsageError(
                f"folds= gives a split that is no pair of positions in 0 to {n - 1} ({error}); give (training, held-out) positions."
            ) from error
        if len(np.intersect1d(train, test)):
            raise UsageError(
                "folds= gives a split that trains on rows that it holds out; give positions that are in one of the two."
            )
        yield train, test


def _taken(rows: Any, places: np.ndarray) -> Any:
    if hasattr(rows, "iloc"):
        return rows.iloc[places]
    if isinstance(rows, (list, tuple)):
        return [rows[place] for place in places]
    return (rows.tocsr() if hasattr(rows, "tocsr") else rows)[places]


# ---------------------------------------------------------------------- the run


def _guarded(passes: stages.Passes, title: str) -> stages.Passes:
    """The same passes, with an error of the estimator as one sentence."""
    while True:
        with asked(title, "the passes that are recorded"):
            found = next(passes, None)
        if found is None:
            return
        yield found


def _nth(every: int, what: str) -> str:
    return f"every {what}" if every == 1 else f"every {every}th {what} and the last"


def _write(
    folder: Path,
    table: _Table,
    held: Int[Tensor, " validation"] | None,
    recording: TableRecording,
    origin: Origin,
    passes: stages.Passes,
) -> Run:
    """Write each pass as an epoch; the folder is there whole or not at all."""
    kept = Recording(view="eval", keep_logits=recording.keep_logits, mean_probs=recording.mean_probs, checkpoints="none")
    everyone = torch.arange(len(table.ids))
    floors: list[float] = []
    with whole_folder(folder) as part, Recorder(part, table.ids, kept, class_names=table.names, origin=origin) as recorder:
        for told, *others in passes:
            logits, floor = told.logits()
            floors += [floor] if floor else []
            recorder.begin()
            recorder.observe(everyone, logits, table.labels)
            if held is not None:
                recorder.validation(others[0].logits()[0], held)
            recorder.commit()
        if not recorder.epochs:
            raise UsageError("The estimator has no stage to record; set n_estimators or max_iter to at least 1.")
    if floors:
        warnings.warn(
            f"{folder}: there are probabilities of 0, which count as {min(floors):.3g}: losses and margins of logits (loss, aum) are as large as that number makes "
            "them; confidence, error norms and margins of probabilities (aum:form=probs) do not feel it.",
            stacklevel=5,
        )
    return Run(folder)
