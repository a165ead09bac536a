"""Explanation: the training examples behind one prediction, helpful and harmful."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from .arguments import checked_fields
from .errors import UsageError
from .lineage import Lineage, fingerprint

LabelFrom = Literal["given", "named", "predicted"]
"""Whose class the explained loss is of: the example's given label, one that the user named, or the class that the model predicts."""


@dataclasses.dataclass(frozen=True)
class Behind:
    """One training example behind a prediction.

    Attributes:
        id: Its id.
        label: Its given class.
        value: What it is worth to the query, in the unit of the method.
        believed: The class that the recorded models gave the largest mean probability; None where the run kept none.
        itself: Whether it is the query itself.
        picture: Thumbnail as base64 of WEBP; empty where there is none.
        row: Its cells in words, for tables; empty where there are none.
    """

    id: int | str
    label: int
    value: float
    believed: int | None = None
    itself: bool = False
    picture: str = ""
    row: str = ""

    def __post_init__(self):
        _check_picture(self.picture)

    @property
    def suspicious(self) -> bool | None:
        """Whether the models believed another class than the given one; None where that is not known."""
        return None if self.believed is None else self.believed != self.label


@dataclasses.dataclass(frozen=True)
@checked_fields
class Explanation:
    """The training examples that help and harm one prediction most.

    Attributes:
        query: What is explained, in words.
        label: The class whose loss on the query is explained.
        label_from: Where that class comes from.
        predicted: The class that the model predicts.
        probability: Its probability, in 0..1; the mean over the models of a recording.
        label_probability: Probability of `label`.
        class_names: Name of each class.
        method: Title of the method that gave the values.
        unit: Unit of the values.
        helpful: The examples that lower the loss most, the most helpful first.
        harmful: The examples that raise it most, the most harmful first.
        examples: Among how many training examples they were found.
        own: The query itself, where it is a training example and has a value.
        picture: Thumbnail of the query as base64 of WEBP; empty where there is none.
        row: Its cells in words, for tables; empty where there are none.
        lineage: Where the explanation comes from.
        warnings: What a reader must know before trusting the values, a sentence each.
        diagnostics: How far the values can be trusted, by name, as JSON holds it.
    """

    query: str
    label: int
    label_from: LabelFrom
    predicted: int
    probability: float
    label_probability: float
    class_names: tuple[str, ...]
    method: str
    unit: str
    helpful: tuple[Behind, ...]
    harmful: tuple[Behind, ...]
    examples: int
    own: Behind | None = None
    picture: str = ""
    row: str = ""
    lineage: Lineage | None = None
    warnings: tuple[str, ...] = ()
    diagnostics: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        _check_picture(self.picture)
        numbers = [self.label, self.predicted]
        for one in (*self.helpful, *self.harmful, *([] if self.own is None else [self.own])):
            numbers += [one.label, *([] if one.believed is None else [one.believed])]
        if wrong := [number for number in numbers if not 0 <= number < len(self.class_names)]:
            raise UsageError(f"Class {wrong[0]} is outside 0..{len(self.class_names) - 1}, the classes of the explanation.")
        for value in (self.probability, self.label_probability):
            if not -1e-9 <= value <= 1 + 1e-9:
                raise UsageError(f"{value} is no probability.")

    def __repr__(self) -> str:
        ends = [
            f"{name} {', '.join(f'{one.id} ({self.class_names[one.label]}, {one.value:.3g})' for one in end[:3]) or 'none'}"
            for name, end in (("helpful", self.helpful), ("harmful", self.harmful))
        ]
        return f"Explanation({self.sentence} By {self.method}, {self.unit}: {'; '.join(ends)})"

    @property
    def sentence(self) -> str:
        """The prediction, and which loss the values are about."""
        names = self.class_names
        said = (
            f"{self.query[0].upper()}{self.query[1:]} is predicted to be {names[self.predicted]} ({100 * self.probability:.1f} %)"
        )
        if self.label_from == "predicted":
            return f"{said}; its class is not known, so the values are about the loss of the predicted class."
        whose = "given label" if self.label_from == "given" else "class, as you name it,"
        if self.label == self.predicted:
            return f"{said}, which is its {whose.rstrip(',')}."
        return (
            f"{said}; its {whose} is {names[self.label]} ({100 * self.label_probability:.1f} %), whose loss the values are about."
        )

    @property
    def fingerprint(self) -> str:
        """Hash over the prediction and the examples behind it."""
        return fingerprint(
            self.query, self.method, self.unit, repr((self.label, self.label_from, self.predicted, self.probability)),
            repr([(one.id, one.label, one.value, one.itself) for one in (*self.helpful, *self.harmful)]),
        )  # fmt: skip


def _check_picture(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text):
        raise UsageError("A picture is no base64 text; make the explanation again.")
