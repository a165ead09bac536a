"""Features: a row of numbers for each example, computed as a specification says."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..maths.example_vectors import DenseVectors, OuterVectors, Vectors
from .errors import MissingEvidence, UsageError
from .ids import Ids

INPUTS = "inputs"
"""The inputs themselves, flattened."""
ROWS = "rows:"
"""Followed by a name: rows that the user passes, such as embeddings of another model."""
PENULTIMATE = "penultimate"
"""The input of the linear layer that makes the logits."""
LOGITS = "logits"
"""What the model gives each class."""
LAYER = "layer:"
"""Followed by the name of a module: its output, flattened; of tokens the mean over the tokens."""
HEAD_GRADS = "head_grads"
"""Gradient of each example's loss with respect to weight and bias of the linear layer that makes the logits."""
GRADS = "grads:project="
"""Followed by a number: gradient of each example's loss with respect to all trainable parameters, projected to that many dimensions."""

DATA = ""
"""Name of the examples' own inputs among the inputs."""
BLOCK = 4096
"""Rows of a block of features that are in memory."""

Kind = Literal["inputs", "rows", "penultimate", "logits", "layer", "head_grads", "grads"]


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """What features are made of: `inputs`, `rows:NAME`, `penultimate`, `logits`, `layer:NAME`, `head_grads` or `grads:project=NUMBER`.

    The last five are computed with a model that the run kept: the last one, or with the suffix `@EPOCH` that of this epoch, counted from 0.

    Attributes:
        kind: Which of these kinds.
        name: Name of the user's rows or of a layer; `layer:NAME#2` is the output of the layer's second call in a forward pass.
        project: Dimension that gradients are projected to; 0 for other kinds.
        epoch: Epoch at whose end the model is taken; None for the last kept one.
    """

    kind: Kind
    name: str = ""
    project: int = 0
    epoch: int | None = None

    @classmethod
    def parse(cls, text: str, reader: str = "") -> "FeatureSpec":
        """The specification that a text describes.

        Args:
            text: Such as `inputs`, `rows:NAME` or `penultimate@3`.
            reader: Who asks, with which messages then begin.

        Returns:
            A specification whose `str` is the text again.

        Raises:
            UsageError: There are no such features.
        """
        try:
            return cls._parsed(text)
        except UsageError as error:
            if not reader:
                raise
            raise UsageError(f"{reader}: {error}") from error

    @classmethod
    def _parsed(cls, text: str) -> "FeatureSpec":
        if text == INPUTS:
            return cls("inputs")
        # Names of rows are a user's own and may hold any sign; rows from outside do not change from epoch to epoch.
        if text.startswith(ROWS) and text != ROWS:
            return cls("rows", text.removeprefix(ROWS))
        bare, at, epoch = text.rpartition("@") if "@" in text else (text, "", "")
        if bare == INPUTS:
            raise UsageError(f"features={text} asks for inputs of an epoch, and they are the same in all; give features=inputs.")
        if at and not (epoch.isascii() and epoch.isdigit()):
            raise UsageError(f"features={text} asks for the epoch {epoch!r}; give a whole number from 0 on, such as {bare}@0.")
        when = int(epoch) if at else None
        whole: dict[str, Kind] = {PENULTIMATE: "penultimate", LOGITS: "logits", HEAD_GRADS: "head_grads"}
        if bare in whole:
            return cls(whole[bare], epoch=when)
        if bare.startswith(LAYER) and bare != LAYER:
            return cls("layer", bare.removeprefix(LAYER), epoch=when)
        number = bare.removeprefix(GRADS)
        if bare.startswith(GRADS) and number.isascii() and number.isdigit() and int(number) >= 1:
            return cls("grads", project=int(number), epoch=when)
        raise UsageError(
            f"features={text} is none of inputs, rows:NAME, penultimate, logits, layer:NAME, head_grads and grads:project=NUMBER (from 1 on), the "
            "last five with the suffix @EPOCH for another epoch than the last; give one of these."
        )

    @property
    def of_a_model(self) -> bool:
        """Whether the features are computed with a model that the run kept."""
        return self.kind not in ("inputs", "rows")

    def __str__(self) -> str:
        bare = {"rows": f"{ROWS}{self.name}", "layer": f"{LAYER}{self.name}", "grads": f"{GRADS}{self.project}"}.get(
            self.kind, self.kind
        )
        return bare if self.epoch is None else f"{bare}@{self.epoch}"


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """A row of numbers for each example. Nothing is computed before it is asked for; any number of readers may read at once.

    Attributes:
        spec: Specification of the features.
        ids: Ids of the examples, in the order of the rows.
        dims: Numbers in a row.
        read: Function that starts an iteration over the blocks.
        shape: Shape of one input before it was flattened, such as (channels, height, width); for other features that of a row.
        whole: Function that gives all rows at once, if they are stored as a whole, such as in a file; else None.
        factors: Function that gives two factors whose outer products the rows are, but for the order of their numbers; or None where they have none.
    """

    spec: FeatureSpec
    ids: Ids
    dims: int
    read: Callable[[], Iterator[tuple[slice, Tensor]]]
    shape: tuple[int, ...] = ()
    whole: Callable[[], Tensor] | None = None
    factors: Callable[[], OuterVectors | None] | None = None

    def __post_init__(self):
        object.__setattr__(self, "shape", self.shape or (self.dims,))

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "block dims"]]]:
        """Pairs of positions and their rows (float32 or float64), from first to last, each row once. The reader may modify the rows."""
        return self.read()

    def rows(self) -> Float[Tensor, "examples dims"]:
        """All rows in one tensor, which the reader may modify."""
        if self.whole is not None:
            return self.whole()
        rows: Tensor | None = None
        for part, block in self.blocks():
            if rows is None:
                rows = torch.empty(len(self.ids), self.dims, dtype=block.dtype)
            rows[part] = block
        assert rows is not None
        return rows

    def vectors(self) -> Vectors:
        """All rows as vectors that inner products are taken of: their factors where they have some, which take much less room."""
        found = self.factors() if self.factors is not None else None
        return found if found is not None else DenseVectors(self.rows())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over the numbers, 16 hex digits; goes through all blocks once."""
        digest, dtype = hashlib.sha256(f"{len(self.ids)} {self.dims} ".encode()), ""
        for _, block in self.blocks():
            dtype = str(block.dtype)
            digest.update(block.contiguous().numpy().tobytes())
        digest.update(dtype.encode())
        return digest.hexdigest()[:16]


@runtime_checkable
class FeatureSource(Protocol):
    """Makes features of kept models."""

    def features(self, spec: FeatureSpec) -> Features:
        """Features of this kind; the model is loaded only when the features are read."""
        ...


@runtime_checkable
class QueryFeatureSource(Protocol):
    """Makes features of kept models of the rows of a target, as those of the examples are made."""

    def query_features(self, spec: FeatureSpec, name: str) -> Features:
        """Features of this kind, which a model makes, for each row of the target of that name."""
        ...


def rows_named(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """The inputs of the examples, under the name `DATA`, or the user's rows by their name.

    Returns:
        The tensor itself, one row or image for each example.

    Raises:
        MissingEvidence: The inputs or rows were not passed.
    """
    if name in inputs:
        return inputs[name]
    what = "The inputs of the examples were" if name == DATA else f"Rows of the name {name!r} were"
    raise MissingEvidence(
        f"{what} not passed (passed: {', '.join(filter(None, inputs)) or 'none'}); give inputs={{{name!r}: rows}}."
    )


def given_features(ids: Ids, inputs: Mapping[str, Tensor], spec: FeatureSpec) -> Features:
    """Features that need no model: the inputs of the examples, or the user's rows.

    Args:
        ids: Ids of the examples.
        inputs: The inputs of the examples under the name `DATA`, and the user's rows by name.
        spec: Specification of the features.

    Returns:
        Features whose blocks are copies, on the CPU.

    Raises:
        MissingEvidence: The inputs or rows were not passed.
    """
    name = DATA if spec.kind == "inputs" else spec.name
    given = rows_named(inputs, name)
    rows = given.flatten(1)

    def read() -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, rows[part].to("cpu", copy=True)

    return Features(spec, ids, rows.shape[1], read, tuple(given.shape[1:]))
