"""A decision carried out on data: datasets of torch and Hugging Face, frames of pandas and polars, arrays."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, SubsetRandomSampler, WeightedRandomSampler

from ..core.arguments import checked_arguments, described
from ..core.decision import Action, Decision, Unmatched
from ..core.errors import Mismatch, UsageError, listed
from ..core.ids import Ids


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """What a decision says of each example of some data, in their order.

    Attributes:
        decision: The decision.
        kept: Positions of the examples that stay, rising.
        known: Which examples were decided on.
        labels: New class of each example; -1 where it keeps its label.
        weights: Factor of each example's loss; 0 where it is dropped.
    """

    decision: Decision
    kept: np.ndarray
    known: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @property
    def relabels(self) -> bool:
        """Whether the decision changes any label, here or elsewhere."""
        return bool((self.decision.labels >= 0).any())

    @property
    def weighs(self) -> bool:
        """Whether the decision weighs any example, here or elsewhere."""
        return bool((self.decision.actions == Action.WEIGHT).any())


def matched(decision: Decision, ids: Ids, unmatched: Unmatched) -> Matched:
    """What a decision says of each of these examples.

    Raises:
        UsageError: `unmatched` is none of its words.
        Mismatch: An example is not decided on, or one that is decided on is not there, and `unmatched` is `refuse`; or no example is both.
    """
    if unmatched not in ("refuse", "keep", "drop"):
        raise UsageError(f"unmatched={unmatched!r} is none of refuse, keep and drop.")
    known = np.isin(ids.values, decision.ids.values) if ids.numeric == decision.ids.numeric else np.zeros(len(ids), bool)
    if len(ids) and not known.any():
        raise Mismatch(
            f"No id of the data, which look like {ids!r}, was decided on; those look like {decision.ids!r}. Give the ids that were recorded, "
            "of the same kind, by ids=."
        )
    if unmatched == "refuse" and not known.all():
        strange = ids.values[~known]
        raise Mismatch(
            f"{len(strange)} examples of the data are not decided on: {listed(strange, len(strange))}; say unmatched='keep' or 'drop'."
        )
    if unmatched == "refuse" and len(ids) < len(decision):
        absent = decision.ids.values[~np.isin(decision.ids.values, ids.values)]
        raise Mismatch(
            f"{len(absent)} examples that were decided on are not in the data: {listed(absent, len(absent))}; say unmatched='keep' or 'drop' to "
            "apply the decision to the rest."
        )
    place = decision.ids.positions(ids.take(known)).numpy()
    weights = np.full(len(ids), 1.0 if unmatched == "keep" else 0.0)
    labels = np.full(len(ids), -1)
    weights[known], labels[known] = decision.weights.numpy()[place], decision.labels.numpy()[place]
    return Matched(decision, np.flatnonzero(weights > 0), known, labels, weights)


@checked_arguments
def applied(decision: Decision, data: Any, *, ids: Any, label: int | str | None, weight: str | None, unmatched: str) -> Any:
    """The data as the decision leaves them; see `Decision.apply`."""
    kind = _kind(data)
    if kind is None:
        raise UsageError(
            f"A decision is not applied to {described(data)}; give a map-style dataset of torch, a datasets.Dataset, a frame of pandas or polars, or "
            "arrays (X, y)."
        )
    found = matched(decision, kind.ids(decision, data, ids), unmatched)  # type: ignore[arg-type]
    if weight is not None and not kind.columns:
        raise UsageError(f"weight={weight!r} names a column, and {described(data)} has none; leave it out.")
    if found.weighs and weight is None and kind.columns:
        raise UsageError(f"{decision.title} weighs examples; name a column for the factors of their losses by weight=.")
    if found.relabels and label is None and kind.columns:
        raise UsageError(f"{decision.title} changes labels; name their column by label=.")
    return kind.apply(found, data, label, weight)


@checked_arguments
def sampler_of(decision: Decision, data: Any, *, ids: Any, unmatched: str, seed: int | None) -> Sampler[int]:
    """A sampler of what a decision keeps; see `Decision.sampler`."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    kind = _kind(dataset)
    if kind is None or kind not in (_TORCH, _FRAMES["datasets"]):
        raise UsageError(f"A sampler is of a map-style dataset or its loader, not of {described(dataset)}; give one of these.")
    found = matched(decision, kind.ids(decision, dataset, ids), unmatched)  # type: ignore[arg-type]
    if found.relabels:
        raise UsageError(f"{decision.title} changes labels, which no sampler can; train on decision.apply(dataset).")
    if not len(found.kept):
        raise UsageError(
            f"{decision.title} keeps nothing of these data, so that there is nothing to draw; give data of which it keeps some."
        )
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if (found.weights[found.kept] == 1).all():
        return SubsetRandomSampler(found.kept.tolist(), generator)
    return WeightedRandomSampler(found.weights.tolist(), len(found.kept), replacement=True, generator=generator)


class Relabelled(Dataset):
    """A dataset of which some items have another label; the dataset itself stays as it is.

    Attributes:
        dataset: The dataset.
        labels: New class of the items that have one, by position.
    """

    def __init__(self, dataset: Any, labels: dict[int, int], where: int | str, names: tuple[str, ...]):
        self.dataset, self.labels, self._where, self._names = dataset, labels, where, names
        for position in list(labels)[:1]:
            self[position]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        item = self.dataset[position]
        place = int(position) % len(self)
        if place not in self.labels:
            return item
        where = self._where
        try:
            old = item[where]
        except (TypeError, LookupError) as error:
            raise UsageError(
                f"Item {place} of {type(self.dataset).__name__}, a {type(item).__name__}, has no label at {where!r}; say where it stands by label=, a "
                "key or a position in the item."
            ) from error
        new = _like(old, self.labels[place], self._names)
        if isinstance(item, dict):
            return {**item, where: new}
        if not isinstance(item, (tuple, list)) or not isinstance(where, int):
            raise UsageError(
                f"Item {place} of {type(self.dataset).__name__} is a {type(item).__name__}, in which no label can be put; only tuples, lists and dicts "
                "are known. Give the dataset a label of its own."
            )
        parts = [*item]
        parts[where] = new
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)


def _like(old: Any, number: int, names: tuple[str, ...]) -> Any:
    """A class as the labels beside it are written: a text as its name, all else as a number of the same kind."""
    if isinstance(old, str):
        return _named(number, names)
    if isinstance(old, bool):
        return bool(number)
    if isinstance(old, int):
        return number
    if isinstance(old, (Tensor, np.generic, np.ndarray)) and old.ndim == 0:
        return torch.full_like(old, number) if isinstance(old, Tensor) else np.asarray(number).astype(old.dtype)[()]
    raise UsageError(
        f"A label is {described(old)}; only a number or the name of a class can be replaced by another. Say where it stands by label=."
    )


def relabelled_column(old: np.ndarray, found: Matched) -> np.ndarray:
    """A column of labels as it is after the decision, for all rows: texts by the name of the class; numbers by the name too where all names are
    numbers, as in a table whose classes are 1, 2 and 3, else by the number of the class.

    Raises:
        UsageError: The column is neither of texts nor of numbers, or names are needed and not known.
        Mismatch: A label in the column is no class that the decision knows.
    """
    names, changed = found.decision.class_names, found.labels >= 0
    there = [value for value in old[found.known].tolist() if value is not None and value == value]
    if all(isinstance(value, (int, float)) for value in there):
        numbers = [_number(name) for name in names]
        codes: list[Any] = [*range(len(names))] if None in numbers else numbers
    elif all(isinstance(value, str) for value in there):
        codes = list(names)
        if not names and bool(changed.any()):
            raise UsageError(f"The labels are texts, and {NO_NAMES}")
    else:
        strange = next(value for value in there if not isinstance(value, (int, float, str)))
        raise UsageError(f"The labels hold {described(strange)}; give a column of texts or of numbers.")
    if names and (odd := sorted({value for value in there if value not in codes}, key=str)):
        raise Mismatch(
            f"The labels hold {listed(odd, len(odd))}, and the classes of the decision are {listed(names, len(names))}; give the column that was "
            "recorded, or the names of the classes in it: dataclasses.replace(decision, class_names=...)."
        )
    coded = [codes[label] if names else label for label in found.labels[changed].tolist()]
    new = old.astype(object) if old.dtype.kind == "U" else old.copy()
    new[changed] = coded
    if new[changed].tolist() != coded:
        raise UsageError(f"A column of {old.dtype} cannot hold the classes {listed(coded, len(coded))}; give it another type.")
    return new


NO_NAMES = (
    "the decision does not know the names of the classes; give them: dataclasses.replace(decision, class_names=run.class_names)."
)


def _named(number: int, names: tuple[str, ...]) -> str:
    if not names:
        raise UsageError(f"The labels are texts, and {NO_NAMES}")
    return names[number]


def _number(name: str) -> int | float | None:
    """The number that a text says; a truth value is one too, and a whole number that has no decimals."""
    try:
        value = float({"False": "0", "True": "1"}.get(name, name))
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How a decision is applied to one kind of data: how to find the ids, what to do, and whether there are named columns."""

    ids: Callable[[Decision, Any, Any], Ids]
    apply: Callable[[Matched, Any, Any, Any], Any]
    columns: bool


def _kind(data: Any) -> _Kind | None:
    root = _root(data)
    if root in _FRAMES:
        return _FRAMES[root] if type(data).__name__ in ("DataFrame", "Dataset") else None
    if isinstance(data, tuple):
        return _ARRAYS if len(data) == 2 and all(isinstance(part, (np.ndarray, Tensor)) and part.ndim for part in data) else None
    if (
        isinstance(data, (np.ndarray, Tensor, str, dict, IterableDataset))
        or not hasattr(type(data), "__getitem__")
        or not _sized(data)
    ):
        return None
    return _TORCH


def _root(data: Any) -> str:
    """The package of one of the frames of `_FRAMES` that the data are of, also through a class of the user's own."""
    return next((root for cls in type(data).__mro__ if (root := cls.__module__.partition(".")[0]) in _FRAMES), "")


def _sized(data: Any) -> bool:
    try:
        return len(data) >= 0
    except (TypeError, NotImplementedError):
        return False


def _ids(decision: Decision, count: int, ids: Any, data: Any) -> Ids:
    """The given ids, or the positions where these are what was decided on."""
    if ids is not None:
        if isinstance(ids, str) or not (isinstance(ids, Iterable) and not isinstance(ids, (bytes, dict))):
            raise UsageError(
                f"ids= is {described(ids)}; give a row of ids, one for each of the {count:,} examples, in their order."
            )
        made = ids if isinstance(ids, Ids) else Ids(ids)
        if len(made) != count:
            raise UsageError(f"ids= has {len(made):,} ids for {count:,} examples; give one for each, in their order.")
        return made
    positions = np.arange(count)
    if not decision.ids.numeric or not np.array_equal(decision.ids.values, positions):
        raise UsageError(
            f"The ids decided on, {decision.ids!r}, are not the positions 0 to {count - 1} in {described(data)}; give ids=, one for each example in its "
            "order: decision.ids if these are the very data that were recorded, range(len(data)) if ids are positions in larger data."
        )
    return Ids(positions)


def _column_ids(decision: Decision, data: Any, ids: Any, names: Iterable[str], column: Callable[[str], Any]) -> Ids:
    if not isinstance(ids, str):
        return _ids(decision, len(data), ids, data)
    if ids not in (known := list(names)):
        raise UsageError(f"ids={ids!r} is no column; the columns are {listed(known, len(known), 10)}.")
    return Ids(column(ids))


def _check_column(name: Any, names: Iterable[str]) -> None:
    if name not in (known := list(names)):
        raise UsageError(f"label={name!r} is no column; the columns are {listed(known, len(known), 10)}.")


def _apply_torch(found: Matched, data: Any, label: Any, weight: Any) -> Any:
    if found.weighs:
        raise UsageError(
            f"{found.decision.title} weighs examples, which no Subset can; train on all data with decision.sampler(dataset), or multiply losses by "
            "decision.loss_weights(ids)."
        )
    labels = {int(at): int(found.labels[at]) for at in found.kept if found.labels[at] >= 0}
    base = Relabelled(data, labels, 1 if label is None else label, found.decision.class_names) if labels else data
    return Subset(base, found.kept.tolist())


def _apply_arrays(found: Matched, data: Any, label: Any, weight: Any) -> Any:
    x, y = data
    if label is not None:
        raise UsageError(f"label={label!r} names a column, and the labels of arrays are the second one; leave it out.")
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
    if array.ndim != 1 and found.relabels:
        raise UsageError(f"y is {described(y)}; new labels need one class for each example.")
    new = relabelled_column(array, found) if found.relabels else array
    if new.dtype != array.dtype and array.dtype.kind == "U":
        new = new.astype(np.str_)
    kept = torch.from_numpy(found.kept)
    left = [
        part[kept.to(part.device)] if isinstance(part, Tensor) else part[found.kept]
        for part in (x, torch.from_numpy(new).to(y.device, y.dtype) if isinstance(y, Tensor) else new)
    ]
    if found.weighs:
        left.append(torch.from_numpy(found.weights)[kept] if isinstance(x, Tensor) else found.weights[found.kept])
    return tuple(left)


def _array_ids(decision: Decision, data: Any, ids: Any) -> Ids:
    if len(data[0]) != len(data[1]):
        raise UsageError(f"X has {len(data[0]):,} rows and y {len(data[1]):,} labels; give one label for each row.")
    return _ids(decision, len(data[0]), ids, data[0])


def _pandas_ids(decision: Decision, data: Any, ids: Any) -> Ids:
    if ids is None:
        return Ids(data.index.to_numpy())
    return _column_ids(decision, data, ids, data.columns, lambda name: data[name].to_numpy())


def _apply_pandas(found: Matched, data: Any, label: Any, weight: Any) -> Any:
    left = data.iloc[found.kept].copy()
    if label is not None:
        _check_column(label, data.columns)
        old = data[label]
        # Categories are written as what they are made of, and come back as categories.
        plain = old.astype(old.cat.categories.dtype) if hasattr(old, "cat") else old
        new = relabelled_column(plain.to_numpy(), found)[found.kept]
        if hasattr(old, "cat") and (
            strange := sorted({str(value) for value in new if value == value and value not in set(old.cat.categories)})
        ):
            raise UsageError(f"The categories of {label!r} lack {listed(strange, len(strange))}; add them to the column.")
        left[label] = type(old)(new, index=left.index, dtype=old.dtype)
    if weight is not None:
        left[weight] = found.weights[found.kept]
    return left


def _polars_ids(decision: Decision, data: Any, ids: Any) -> Ids:
    return _column_ids(decision, data, ids, data.columns, lambda name: data[name].to_numpy())


def _apply_polars(found: Matched, data: Any, label: Any, weight: Any) -> Any:
    left = data[found.kept.tolist()]
    series = type(data[:, 0])
    if label is not None:
        _check_column(label, data.columns)
        new = relabelled_column(data[label].to_numpy(), found)[found.kept]
        left = left.with_columns(series(label, new.tolist()).cast(data[label].dtype))
    return left if weight is None else left.with_columns(series(weight, found.weights[found.kept]))


def _hf_ids(decision: Decision, data: Any, ids: Any) -> Ids:
    return _column_ids(decision, data, ids, data.column_names, lambda name: list(data[name]))


def _apply_hf(found: Matched, data: Any, label: Any, weight: Any) -> Any:
    left, names, kept = data.select(found.kept.tolist()), data.column_names, found.kept
    if label is not None:
        _check_column(label, names)
        feature = data.features[label]
        new = _hf_labels(found, np.asarray(data.with_format(None)[label][:]), getattr(feature, "names", None))
        left = left.remove_columns(label).add_column(label, new[kept].tolist()).cast_column(label, feature)
        left = left.select_columns(names)
    return left if weight is None else left.add_column(weight, found.weights[kept].tolist())


def _hf_labels(found: Matched, old: np.ndarray, classes: list[str] | None) -> np.ndarray:
    """The labels of a column; where it names its classes, whose numbers need not be those of the decision, they are joined by name."""
    names = found.decision.class_names
    if not classes or not found.relabels:
        return relabelled_column(old, found) if found.relabels else old
    if names == tuple(map(str, range(len(names)))):
        return np.where(found.labels >= 0, found.labels, old)
    if strange := sorted(set(names) - set(classes)):
        raise Mismatch(
            f"The label column has no class named {listed(strange, len(strange))}; give a column that has the classes of the decision."
        )
    number = np.array([classes.index(name) for name in names])
    return np.where(found.labels >= 0, number[found.labels], old)


_TORCH = _Kind(lambda decision, data, ids: _ids(decision, len(data), ids, data), _apply_torch, columns=False)
_ARRAYS = _Kind(_array_ids, _apply_arrays, columns=False)
_FRAMES = {
    "pandas": _Kind(_pandas_ids, _apply_pandas, columns=True),
    "polars": _Kind(_polars_ids, _apply_polars, columns=True),
    "datasets": _Kind(_hf_ids, _apply_hf, columns=True),
}
