"""Given labels as class numbers: every reader uses these functions, so that invalid labels give the same error messages everywhere."""

import dataclasses
import reprlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError, listed

LONGEST_NAME = 1000
"""Letters of the longest name of a class: rows of texts take the memory of their longest in every row."""


NUMBERS = ((bool, np.bool_), (float, np.floating), (int, np.integer))
"""Kinds of numbers that labels can be, each all of one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where labels were read from, for error messages.

    Attributes:
        source: File, column or object.
        places: Id, line or row of each label.
        place: What `places` holds: `id`, `line` or `row`.
        absent: What to do about labels that are missing.
    """

    source: str
    places: Sequence[object] | np.ndarray
    place: str = "row"
    absent: str = "Label these examples or leave them out."

    def at(self, positions: Sequence[int] | np.ndarray) -> str:
        """A text that names the places of the labels at these positions."""
        return f"{self.place} {listed((self.places[int(position)] for position in positions), len(positions))}"


def checked(values: object, origin: Origin) -> np.ndarray:
    """The labels as a one-dimensional array, all whole numbers (int64) or all texts, in the order of `values`.

    False and True are the classes 0 and 1, and 2.0 is the class 2.

    Args:
        values: Labels as they were read; in a list or an object array, None, NaN and the empty text are missing.
        origin: Where they were read.

    Raises:
        UsageError: A label is missing, NaN, or of another type; names its place.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if not isinstance(array, np.ndarray):
        listed = list(array)  # type: ignore[call-overload]
        array = np.empty(len(listed), object)
        for position, value in enumerate(listed):
            array[position] = value
    if array.shape != (len(origin.places),):
        raise UsageError(
            f"{origin.source}: labels of shape {array.shape} for {len(origin.places)} examples; give each one label."
        )
    if array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype.kind in "fO":
        absent = np.flatnonzero([_absent(value) for value in array])
        if len(absent):
            raise UsageError(f"{origin.source}: {len(absent)} labels are missing or NaN; {origin.at(absent)}. {origin.absent}")
    if array.dtype.kind == "O" and len(array):
        kind = str if isinstance(array[0], str) else next((one for one in NUMBERS if isinstance(array[0], one)), int)
        for position, value in enumerate(array):
            if not isinstance(value, kind) or (isinstance(value, bool) and kind != NUMBERS[0]):
                raise UsageError(
                    f"{origin.source}: the label of {origin.at([position])} is {reprlib.repr(value)}. "
                    "Labels must all be whole numbers or all be texts."
                )
        if kind is str:
            long = [position for position, value in enumerate(array) if len(value) > LONGEST_NAME]
            if long:
                raise UsageError(
                    f"{origin.source}: the label of {origin.at(long[:1])} has {len(array[long[0]]):,} letters, where {LONGEST_NAME:,} are the "
                    "most. Give a short name to each class."
                )
            return array.astype(np.str_)
        if kind in NUMBERS[:2]:
            array = array.astype(bool if kind == NUMBERS[0] else np.float64)
    elif array.dtype.kind not in "iufb":
        raise UsageError(f"{origin.source}: labels are {array.dtype}. Give whole numbers from 0, or texts.")
    if array.dtype.kind == "f":
        parts = np.flatnonzero(array != np.floor(array))
        if len(parts):
            raise UsageError(
                f"{origin.source}: {len(parts)} of {len(array)} labels are no whole numbers (the first is {float(array[parts[0]])!r}, {origin.at(parts[:1])}), "
                "as the numbers of a regression are, and not classes. Give the classes, or classes of ranges such as low, middle and high."
            )
        array = array.astype(np.float64)
        large = np.flatnonzero(np.abs(array) >= 2.0**53)
        if len(large):
            raise UsageError(
                f"{origin.source}: the label of {origin.at(large[:1])} is {array[large[0]]:g}. Number the classes from 0."
            )
    large = np.flatnonzero([int(value) >= 2**63 or int(value) < -(2**63) for value in array] if array.dtype.kind in "uO" else [])
    if len(large):
        raise UsageError(f"{origin.source}: the label of {origin.at(large[:1])} is no 64-bit number. Number the classes from 0.")
    return array.astype(np.int64)


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, (float, np.floating)) and value != value)


def class_names(source: str, *parts: np.ndarray) -> tuple[str, ...]:
    """The class names that occur in labels: 0..largest for numbers, else the texts, sorted (numerically if all texts are numbers).

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
    if values.dtype.kind == "U":
        texts = distinct.tolist()
        return tuple(sorted(texts, key=int) if all(_whole(text) for text in texts) else texts)
    if distinct[-1] >= 2 * len(distinct) + 10:
        raise UsageError(
            f"{source}: labels go up to {distinct[-1]}, but only {len(distinct)} numbers occur. "
            "Number the classes from 0 without gaps, or give class_names."
        )
    # At least two names, so that `encode` can say which numbers are negative.
    return tuple(str(number) for number in range(max(2, int(distinct[-1]) + 1)))


def _whole(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def encode(values: np.ndarray, names: Sequence[str], origin: Origin) -> Int[Tensor, " examples"]:
    """Class number of each label; `values` must be what `checked` returned.

    Raises:
        UsageError: A number is outside the classes, or a text is not among their names; names its place.
    """
    if values.dtype.kind == "i":
        bad = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(bad):
            raise UsageError(
                f"{origin.source}: {len(bad)} labels are outside 0..{len(names) - 1}; {origin.at(bad)} "
                f"(the first is {values[bad[0]]}). Give every example one of the classes."
            )
        return torch.from_numpy(values.copy())
    number = {name: index for index, name in enumerate(names)}
    texts = values.tolist()
    bad = np.flatnonzero([text not in number for text in texts])
    if len(bad):
        raise UsageError(
            f"{origin.source}: {len(bad)} labels are not among the classes {listed(names, len(names))}; {origin.at(bad)} "
            f"(the first is {texts[bad[0]]!r}). Give every example one of the classes."
        )
    return torch.tensor([number[text] for text in texts], dtype=torch.int64)
