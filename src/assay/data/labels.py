"""Given labels as class numbers: every reader's labels pass through here, so that all are refused in the same words."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError, some


def checked(values: object, source: str, places: Sequence[object], place: str = "row") -> np.ndarray:
    """One row of labels, each a whole number or each a text.

    Args:
        values: Labels as they were read; in a list or an object array, None and NaN are missing.
        source: What they were read from, for messages.
        places: Where each label stands: its id, line or row.
        place: What `places` are.

    Returns:
        int64 or text, in the order of `values`.

    Raises:
        UsageError: A label is missing, NaN, or of another type; names its place.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if not isinstance(array, np.ndarray):
        listed = list(array)  # type: ignore[call-overload]
        array = np.empty(len(listed), object)
        array[:] = listed
    if array.shape != (len(places),):
        raise UsageError(f"{source}: labels of shape {array.shape} for {len(places)} examples; give one label for each.")
    if array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype.kind in "fO":
        absent = np.array([value is None or value != value or value == "" for value in array], bool)
        if absent.any():
            at = np.flatnonzero(absent)
            raise UsageError(
                f"{source}: {len(at)} labels are missing or NaN; {place} {some((places[i] for i in at), len(at))}. "
                "Label these examples or leave them out."
            )
    if array.dtype.kind == "O":
        texts = np.array([isinstance(value, str) for value in array], bool)
        numbers = np.array([isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in array], bool)
        wrong = np.flatnonzero(~(numbers if len(array) and numbers[0] else texts))
        if len(wrong):
            raise UsageError(
                f"{source}: the label of {place} {places[wrong[0]]} is {array[wrong[0]]!r}. "
                "Labels must all be whole numbers or all be texts."
            )
        if not len(array) or texts[0]:
            return array.astype(np.str_)
        array = np.array([_fitting(int(value), source, places[i], place) for i, value in enumerate(array)], np.int64)
    if array.dtype.kind not in "iu":
        raise UsageError(f"{source}: labels are {array.dtype}. Give whole numbers from 0, or texts.")
    if array.dtype.kind == "u" and len(array):
        _fitting(int(array.max()), source, places[int(array.argmax())], place)
    return array.astype(np.int64)


def _fitting(value: int, source: str, where: object, place: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise UsageError(f"{source}: the label of {place} {where} is {value}, which is no class number. Count classes from 0.")
    return value


def class_names(source: str, *parts: np.ndarray) -> tuple[str, ...]:
    """The classes that these labels speak of: 0..largest for numbers, else the texts, sorted (as numbers if all are).

    Raises:
        UsageError: There is no label, only one class, nearly as many classes as examples, or numbers with large gaps.
    """
    values = np.concatenate(parts)
    distinct = np.unique(values)
    if len(distinct) < 2:
        only = f"all {len(values)} labels are {distinct.tolist()[0]!r}" if len(distinct) else "there is no label"
        raise UsageError(f"{source}: {only}. Give examples of at least two classes.")
    if len(distinct) > max(20, len(values) // 2):
        raise UsageError(
            f"{source}: {len(values)} examples have {len(distinct)} different labels, which look like measurements or ids. "
            "Give a column of classes, or class_names if there are so many."
        )
    if values.dtype.kind == "i" and distinct[-1] >= 2 * len(distinct) + 10:
        raise UsageError(
            f"{source}: labels go up to {distinct[-1]}, but only {len(distinct)} numbers occur. Number the classes from 0 without "
            "gaps, or give class_names."
        )
    if values.dtype.kind == "i":
        return tuple(str(number) for number in range(int(distinct[-1]) + 1))
    texts = distinct.tolist()
    return tuple(sorted(texts, key=int) if all(_whole(text) for text in texts) else texts)


def _whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def encode(
    values: np.ndarray, names: Sequence[str], source: str, places: Sequence[object], place: str = "row"
) -> Int[Tensor, " examples"]:
    """Class number of each label that `checked` has passed.

    Raises:
        UsageError: A number is outside the classes, or a text is not among their names; names its place.
    """
    if values.dtype.kind == "i":
        bad = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(bad):
            raise UsageError(
                f"{source}: {len(bad)} labels are outside 0..{len(names) - 1}; {place} {some((places[i] for i in bad), len(bad))} "
                f"(the first is {values[bad[0]]}). Give every example one of the classes."
            )
        return torch.from_numpy(values.copy())
    number = {name: index for index, name in enumerate(names)}
    texts = values.tolist()
    bad = np.array([i for i, text in enumerate(texts) if text not in number], np.int64)
    if len(bad):
        raise UsageError(
            f"{source}: {len(bad)} labels are not among the classes {some(names, len(names))}; {place} "
            f"{some((places[i] for i in bad), len(bad))} (the first is {texts[bad[0]]!r})."
        )
    return torch.tensor([number[text] for text in texts], dtype=torch.int64)
