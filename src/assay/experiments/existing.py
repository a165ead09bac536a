"""From predictions that somebody saved to a run: probabilities or logits of any model, of one pass or of many."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.errors import Mismatch, UnknownName, UsageError, listed, reading
from ..core.ids import Ids
from ..core.npy import read_npy
from ..core.passes import KINDS, Passes
from ..data import labels as given
from ..data.arrays import as_array
from ..data.files import file_at
from ..maths.saved_probabilities import TOLERANCE, are_probs, log_probs
from ..runs.paths import RunPaths
from ..runs.recorder import check_place
from ..runs.run import Run
from ..runs.saved import save_passes

EPOCH, LABEL, ID = "epoch", "label", "id"
"""Columns of a Parquet file that are no class, unless they are named otherwise."""


@checked_arguments
def from_probs(
    folder: str | Path,
    probs: Any,
    labels: Any = None,
    kind: str = "",
    *,
    ids: Any = None,
    class_names: Sequence[str] | None = None,
    repeats: bool = False,
    about: Mapping[str, object] | None = None,
) -> Run:
    """A run of class probabilities that any model gave, which is scored, chosen from and reported like any other.

        probs = cross_val_predict(RandomForestClassifier(), X, y, cv=5, method="predict_proba")
        run = assay.from_probs("runs/forest", probs, y, "out_of_fold")
        table = assay.score(run, ["confidence", "aum", "loss"])

    What is recorded is the logarithm of each probability, which moves a row of logits by one number: margins (`aum`), losses and whatever is
    computed from the softmax are those of the model's own logits. A probability of 0 counts as half the smallest one of its pass that is above 0,
    and at most as 1e-7, which a warning says.

    Args:
        folder: Where the run is written; new or empty.
        probs: (examples, classes) for one pass, (epochs, examples, classes) for many, or an iterable of passes, of which one is in memory at a
            time: arrays, tensors, or paths. A path is of an .npy file of either shape, which is mapped and not read whole, or of a Parquet
            file with a column for each class, perhaps beside columns `id`, `label` and `epoch`.
        labels: Given class of each example: numbers from 0 in the order of the columns, or names; for a Parquet file the column's name, by default
            `label`. Also the path of an .npy file.
        kind: What was predicted: `training` (the training pass), `evaluation` (the examples that the model was trained on, in evaluation mode),
            `out_of_fold` (by a model trained on the other folds), `out_of_bag`, or `held_out`.
        ids: Stable id of each example; positions by default. For a Parquet file the column's name, by default `id` if there is one.
        class_names: Names in the order of the columns; by default the sorted names that occur as labels, as scikit-learn orders them. For a
            Parquet file which columns are the classes; by default all that are nothing else.
        repeats: Whether several passes are repeats without an order, as of repeated cross-validation, and not the epochs of a training.
        about: Description of what predicted, for the report.

    Raises:
        UsageError: Rows that are no probabilities, or do not fit labels and ids; names the pass, the id and the sum.
        OutputExists: There is something in the folder.
        NotWritten: The operating system refuses.
    """
    zeros = _Zeros()

    def logits(rows: Tensor, number: int, ids: Ids) -> Tensor:
        _check_probs(rows, number, ids)
        made, floor, held = log_probs(rows)
        zeros.add(number, floor, held)
        return made

    run = _made(folder, _Saved("probabilities", probs, labels, ids, class_names), _passes(kind, repeats), about, logits)
    zeros.warn(run)
    return run


@checked_arguments
def from_logits(
    folder: str | Path,
    logits: Any,
    labels: Any = None,
    kind: str = "",
    *,
    ids: Any = None,
    class_names: Sequence[str] | None = None,
    repeats: bool = False,
    about: Mapping[str, object] | None = None,
) -> Run:
    """A run of logits that any model gave; arguments and errors as of `from_probs`.

    Logarithms of probabilities are logits. A class may be masked by -inf, as long as the label's and one more are not.

    Args:
        folder: As `from_probs` takes it.
        logits: In the shapes and files that `from_probs` takes.
        labels, kind, ids, class_names, repeats, about: As `from_probs` takes them.

    Raises:
        UsageError: Rows that are probabilities, or do not fit labels and ids; names the pass and the id.
        NumericalError: A logit is NaN or infinite.
        OutputExists: There is something in the folder.
        NotWritten: The operating system refuses.
    """

    def checked(rows: Tensor, number: int, ids: Ids) -> Tensor:
        bad = rows.isnan().any(1) | (rows == torch.inf).any(1)
        if bool(bad.any()):
            _refuse(ids, bad, number, "logits", "are NaN or infinite")
        if len(rows) > 1 and bool(are_probs(rows).all()):
            raise UsageError(
                f"Pass {number}: every row of logits is 0 or more and adds up to 1, as probabilities do, whose margins would be those of a second "
                "softmax; give them to assay.from_probs (`assay from-probs`)."
            )
        return rows

    return _made(folder, _Saved("logits", logits, labels, ids, class_names), _passes(kind, repeats), about, checked)


def _passes(kind: str, repeats: bool) -> Passes:
    """What the passes are, as the user says it."""
    if not kind:
        raise UsageError(
            f"kind= is missing; say what was predicted: {', '.join(f'{name!r} ({what})' for name, (_, what) in KINDS.items())}."
        )
    return Passes(kind.replace("-", "_"), repeats)  # type: ignore[arg-type]  # which it checks itself


def _check_probs(rows: Float[Tensor, "examples classes"], number: int, ids: Ids) -> None:
    """Refuse rows that are no probabilities, with what they look like.

    Raises:
        UsageError: Names the first such row and its sum.
    """
    bad = ~rows.isfinite().all(1)
    if bool(bad.any()):
        _refuse(ids, bad, number, "probabilities", "are NaN or infinite")
    bad = ~are_probs(rows)
    if not bool(bad.any()):
        return
    at = int(bad.nonzero()[0])
    row, total = ids.take(bad), float(rows[at].sum())
    low = float(rows[at].min())
    fault = f"has {low:.6g} in it, which is below 0" if low < 0 else f"adds up to {total:.6g}"
    if bool((rows <= 0).all()) and bool(((rows.exp().sum(1) - 1).abs() <= TOLERANCE).all()):
        cure = "these are logarithms of probabilities, so give them to assay.from_logits (`assay from-logits`)"
    elif bool((rows < 0).any()):
        cure = "if these are logits, give them to assay.from_logits (`assay from-logits`)"
    elif bool(((rows.sum(1) - 100).abs() <= 100 * TOLERANCE).all()):
        cure = "these are per cent, so divide them by 100"
    else:
        cure = "give probabilities of classes of which exactly one is true, each row divided by its sum if that is what they are"
    raise UsageError(
        f"Pass {number}: the rows of {len(row)} of {len(rows)} examples are no probabilities; that of id {row.values[0]} {fault}, where every number is 0 or "
        f"more and the sum 1 (within {TOLERANCE:g}): {cure}."
    )


def _refuse(ids: Ids, bad: Tensor, number: int, what: str, fault: str) -> None:
    names = ids.take(bad)
    raise UsageError(
        f"Pass {number}: {what} of {len(names)} examples {fault}; ids {listed(names, len(names))}. Predict them too, or leave these examples out of every "
        "pass, as those that were in every bootstrap sample."
    )


class _Zeros:
    """The probabilities of 0 that were met."""

    def __init__(self) -> None:
        self._passes = self._examples = 0
        self._floors: list[float] = []

    def add(self, number: int, floor: float, held: Tensor) -> None:
        """Note those of one pass."""
        if floor:
            self._passes += 1
            self._examples = max(self._examples, int(held.sum()))
            self._floors.append(floor)

    def warn(self, run: Run) -> None:
        """Say what they count as, if there are any."""
        import warnings

        if not self._floors:
            return
        low, high = min(self._floors), max(self._floors)
        counted = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}, by pass"
        warnings.warn(
            f"{run.folder}: up to {self._examples:,} of {len(run.ids):,} examples have a probability of 0, which counts as {counted}: losses and margins of "
            "logits (loss, aum) are as large as that number makes them; confidence, error norms and margins of probabilities (aum:form=probs) do "
            "not feel it.",
            stacklevel=5,
        )


@dataclasses.dataclass
class _Saved:
    """What somebody saved, as it was given."""

    what: Literal["probabilities", "logits"]
    rows: Any
    labels: Any
    ids: Any
    class_names: Sequence[str] | None


def _made(
    folder: str | Path,
    saved: _Saved,
    passes: Passes,
    about: Mapping[str, object] | None,
    logits: Callable[[Tensor, int, Ids], Tensor],
) -> Run:
    check_place(RunPaths(Path(folder)), resumable=False)
    if _parquet(saved.rows):
        saved = _table(saved)
    passes_of_rows = _each(saved.rows, saved.what)
    first = next(passes_of_rows, None)
    if first is None:
        raise UsageError(f"There are no {saved.what}; give those of at least one pass.")
    if saved.labels is None:
        raise UsageError("labels= is missing; give the class of each example, by its number or its name.")
    labels = _array(saved.labels, "labels")
    held = _array(saved.ids, "ids") if saved.ids is not None and not isinstance(saved.ids, Ids) else saved.ids
    ids = held if isinstance(held, Ids) else Ids(range(len(first)) if held is None else held)
    if len(ids) != len(first):
        raise UsageError(f"{len(ids)} ids were given for {len(first)} rows of {saved.what}; give one for each.")
    classes = first.shape[1]
    origin = given.Origin("labels", ids.values, "id")
    values = given.checked(labels, origin)
    names = _names(values, classes, saved.class_names)
    encoded = given.encode(values, names, origin)

    def all_logits() -> Iterator[Tensor]:
        for number, rows in enumerate(itertools.chain([first], passes_of_rows)):
            if rows.shape != (len(ids), classes):
                raise UsageError(
                    f"Pass {number} has {tuple(rows.shape)} {saved.what}, pass 0 has {(len(ids), classes)}; give every pass the same examples and classes "
                    "in the same order."
                )
            yield logits(rows, number, ids)

    said = {"made of": f"saved {saved.what}", **(about or {})}
    return save_passes(folder, ids, encoded, all_logits(), passes, class_names=names, about=said, code=__version__)


def _names(values: np.ndarray, classes: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, in the order of the columns."""
    if names is not None:
        if len(names) != classes or len(set(names)) < len(names):
            raise UsageError(
                f"{len(names)} class names ({listed(names, len(names))}) for {classes} columns; give a different name for each."
            )
        return tuple(names)
    distinct = np.unique(values)
    if values.dtype.kind == "i":
        if int(distinct[0]) >= 0 and int(distinct[-1]) < classes:
            return tuple(str(number) for number in range(classes))
        raise UsageError(
            f"Labels go from {distinct[0]} to {distinct[-1]} where the {classes} columns are the classes 0 to {classes - 1}; number them in the order of the "
            "columns, as numpy.unique(labels, return_inverse=True)[1] does for scikit-learn's predict_proba."
        )
    if len(distinct) != classes:
        raise UsageError(
            f"{len(distinct)} different labels ({listed(distinct, len(distinct))}) for {classes} columns; give class_names= in the order of the columns."
        )
    return tuple(distinct.tolist())


def _each(rows: Any, what: str) -> Iterator[Float[Tensor, "examples classes"]]:
    """The passes, one after the other, in double precision."""
    if isinstance(rows, (np.ndarray, Tensor, str, os.PathLike)):
        yield from _of_one(rows, what)
        return
    if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
        # What a table iterates over are the names of its columns.
        raise UsageError(
            f"The {what} are a {type(rows).__name__}; give its numbers, rows.to_numpy(), and class_names=[*map(str, rows.columns)] if the columns are the "
            "classes."
        )
    if not isinstance(rows, Iterable):
        raise UsageError(f"The {what} are a {type(rows).__name__}; give an array, a path, or an iterable of them.")
    parts = iter(rows)
    first = next(parts, None)
    if first is None:
        return
    if isinstance(first, (list, tuple)) and not any(isinstance(one, (list, tuple, np.ndarray, Tensor)) for one in first):
        # The rows of one pass, written as lists.
        yield from _of_one(_plain([first, *parts], what), what)
        return
    for part in itertools.chain([first], parts):
        made = list(_of_one(part if isinstance(part, (np.ndarray, Tensor, str, os.PathLike)) else _plain(part, what), what))
        if len(made) != 1:
            raise UsageError(
                f"One of several arrays of {what} holds {len(made)} passes; give one of shape (examples, classes) for each pass."
            )
        yield made[0]


def _plain(values: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The {what} are no array of numbers ({' '.join(str(error).split())[:200]}); give rows of one length."
        ) from error


def _of_one(rows: Any, what: str) -> Iterator[Float[Tensor, "examples classes"]]:
    """The pass or the passes of one array or npy file."""
    if isinstance(rows, (str, os.PathLike)):
        rows = _mapped(rows)
    array = as_array(rows) if isinstance(rows, Tensor) else rows
    if array.dtype.kind not in "biuf":
        raise UsageError(f"The {what} are {array.dtype}; give real numbers.")
    if array.ndim not in (2, 3) or 0 in array.shape or array.shape[-1] < 2:
        binary = array.ndim == 1 or (array.ndim == 2 and array.shape[-1] == 1)
        cure = (
            f"of two classes give both columns, as numpy.stack([{'1 - p' if what == 'probabilities' else '0 * z'}, "
            f"{'p' if what == 'probabilities' else 'z'}], 1) makes them of one"
            if binary
            else "give (examples, classes) for one pass or (epochs, examples, classes) for many"
        )
        raise UsageError(f"The {what} have shape {tuple(array.shape)}; {cure}.")
    for part in array if array.ndim == 3 else array[None]:
        # A copy, because a mapped file is read-only and ends with its array.
        yield torch.from_numpy(np.array(part, dtype=np.float64))


def _mapped(path: str | os.PathLike) -> np.ndarray:
    """The array of an npy file, read from the disk where it is looked at."""
    file = file_at(str(path))
    if file.suffix.lower() != ".npy":
        raise UsageError(f"{file} is no .npy file; save the array with numpy.save, or give a Parquet file by itself.")
    with reading(file, UsageError, "Save the array with numpy.save."):
        try:
            return np.lib.format.open_memmap(file, mode="r")
        except (ValueError, EOFError) as error:
            raise UsageError(
                f"{file} is damaged or holds no plain array ({' '.join(str(error).split())[:200]}); save it with numpy.save."
            ) from error


def _array(values: Any, what: str) -> Any:
    """Labels or ids, of which a path is read."""
    if not isinstance(values, (str, os.PathLike)):
        return values
    if not str(values).lower().endswith(".npy"):
        raise UsageError(
            f"{what}={str(values)!r} is neither an .npy file nor, since the predictions are no Parquet file, the name of a column; give {what} as an "
            "array or a list."
        )
    file = file_at(str(values))
    with reading(file, UsageError, "Save them with numpy.save."):
        try:
            with open(file, "rb") as opened:
                return read_npy(opened, file.stat().st_size)
        except (ValueError, EOFError) as error:
            raise UsageError(f"{file} is damaged or holds no plain array ({error}); save it with numpy.save.") from error


# ------------------------------------------------------------------ Parquet


def _parquet(rows: Any) -> bool:
    return isinstance(rows, (str, os.PathLike)) and str(rows).lower().endswith((".parquet", ".pq"))


def _table(saved: _Saved) -> _Saved:
    """What a Parquet file holds, with its passes still on disk."""
    import pyarrow as pa
    from pyarrow import parquet

    file = file_at(str(saved.rows))
    with reading(file, UsageError, "Write it again as a plain table."):
        try:
            schema = parquet.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{file} cannot be read as Parquet ({' '.join(str(error).split())[:200]}).") from error
    held = {field.name: field.type for field in schema}
    if len(held) < len(schema):
        raise UsageError(f"{file} has two columns of one name; name each column differently.")

    def column(asked: Any, usual: str, what: str) -> str | None:
        if asked is not None and not isinstance(asked, str):
            return None
        if asked is not None and asked not in held:
            raise UnknownName(f"column of {file} for {what}", asked, held)
        return asked or (usual if usual in held else None)

    label, id_ = column(saved.labels, LABEL, "labels"), column(saved.ids, ID, "ids")
    epoch = EPOCH if EPOCH in held and EPOCH not in (saved.class_names or ()) else None
    names = list(saved.class_names) if saved.class_names is not None else [n for n in held if n not in (label, id_, epoch)]
    if absent := [name for name in names if name not in held]:
        raise UnknownName(f"column of {file} for class_names", absent[0], held)
    if wrong := [n for n in names if not (pa.types.is_floating(held[n]) or pa.types.is_integer(held[n]))]:
        raise UsageError(
            f"{file}: column {wrong[0]!r} holds {held[wrong[0]]}, no {saved.what} of a class; name the columns of the classes in class_names=."
        )
    whole = [name for name in names if pa.types.is_integer(held[name])]
    if saved.class_names is None and saved.what == "logits" and 0 < len(whole) < len(names):
        # Such as the number of a fold; among probabilities the sum of the row tells.
        raise UsageError(
            f"{file}: columns {listed(whole, len(whole))} hold whole numbers and the other columns of classes do not; if they are no classes, name those that "
            "are in class_names= (`--classes`)."
        )
    if len(names) < 2:
        raise UsageError(f"{file} has {len(names)} columns of classes; give one for each of at least two classes.")

    def read(columns: Sequence[str], at: object = None) -> pa.Table:
        with reading(file, UsageError, "Write it again as a plain table."):
            return parquet.read_table(file, columns=list(columns), filters=None if at is None else [(epoch, "=", at)])

    beside = [name for name in (label, id_) if name is not None]
    if epoch is None:
        epochs: list[Any] = [None]
    else:
        values = read([epoch]).column(0)
        if values.null_count or not pa.types.is_integer(values.type):
            raise UsageError(
                f"{file}: column {epoch!r} holds {values.type}, of which {values.null_count} are missing; give every row the number of its epoch."
            )
        epochs = sorted(values.unique().to_pylist())
    start = read(beside, epochs[0]) if beside else None
    ids = Ids(start.column(id_).to_pylist()) if start is not None and id_ is not None else saved.ids
    labels = start.column(label).to_pylist() if start is not None and label is not None else saved.labels

    def passes() -> Iterator[np.ndarray]:
        for at in epochs:
            held_now = read([*names, *beside], at)
            rows = np.stack([held_now.column(name).to_numpy().astype(np.float64) for name in names], 1)
            if id_ is not None and isinstance(ids, Ids) and epoch is not None:
                now = Ids(held_now.column(id_).to_pylist())
                if len(now) != len(ids):
                    raise Mismatch(
                        f"{file}: epoch {at} holds {len(now)} examples, epoch {epochs[0]} {len(ids)}; give every epoch the same examples."
                    )
                place = now.positions(ids, f"epoch {at} of {file}").numpy()
                rows = rows[place]
            else:
                place = np.arange(len(rows))
            if label is not None and at != epochs[0] and len(place) == len(labels):
                now_labels = held_now.column(label).to_pylist()
                changed = [i for i, row in enumerate(place.tolist()) if now_labels[row] != labels[i]]
                if changed:
                    who = (ids if isinstance(ids, Ids) else Ids(range(len(labels)))).take(np.array(changed))
                    raise Mismatch(
                        f"{file}: {len(changed)} examples have another label in epoch {at} than in epoch {epochs[0]}; ids {listed(who, len(who))}. "
                        + (
                            "Give each example one label."
                            if id_ is not None
                            else "Give the rows an id column, or every epoch the same order."
                        )
                    )
            yield rows

    return dataclasses.replace(saved, rows=passes(), labels=labels, ids=ids, class_names=_short(names, labels))


def _short(names: Sequence[str], labels: Any) -> list[str]:
    """Names of classes by the names of their columns, without what all columns begin with, where the labels are so named."""
    texts = {one for one in labels if isinstance(one, str)} if isinstance(labels, list) else set()
    if texts and not texts <= set(names):
        for length in range(1, min(map(len, names))):
            short = [name[length:] for name in names]
            if all(name.startswith(names[0][:length]) for name in names) and texts <= set(short):
                return short
    return list(names)
