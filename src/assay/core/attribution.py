"""Attribution: the value of every training example for each query, in blocks, and its reduction to scores."""

import abc
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from . import options
from .arguments import checked_arguments, checked_fields
from .errors import BadScores, UnknownName, UsageError, listed
from .evidence import Evidence
from .ids import Ids
from .lineage import Lineage, fingerprint
from .method import AbstractMethod, Asks
from .results import Result
from .scores import Direction, Scores, ordered
from .tabular import Table, texts

Reducer = Literal["mean", "sum", "max"]
"""How the values of all queries become one number per example; the mean weighs the queries as their target does."""
ROOM = 256 * 2**20
"""Bytes that what is made of some queries at a time may take."""
MOST_NAMED = 20
"""Queries that are all named where one is asked for that is not there."""
BLOCK_BYTES = 32 * 2**20
"""Bytes of the blocks in which an attribution is read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Values of some queries and some examples.

    Attributes:
        queries: Slice of the queries' positions, with start and stop given and step 1.
        examples: Slice of the examples' positions, of the same kind.
        values: A row for each query, a column for each example.
        diagnostics: How far the values can be trusted, by name, as JSON holds it: of this block and all before it, so that the last speaks of all.
        warnings: What a reader must know before trusting the values, a sentence each; likewise.
    """

    queries: slice
    examples: slice
    values: Tensor
    diagnostics: Mapping[str, object] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AbstractAttributor(AbstractMethod):
    """Gives every pair of a query and a training example a number, which says by its sign whether the example helps or harms the query.

    Subclasses are final frozen dataclasses with a `query_set` and `attribute`. Their direction says which sign: above 0 helps where low values are
    suspect, below 0 where high ones are.

    Args:
        reduce: How scores are made of all queries: their `mean`, weighted as the target of that name weighs them, `sum` or `max`.
    """

    reduce: Reducer = dataclasses.field(default="mean", kw_only=True)

    @property
    @abc.abstractmethod
    def query_set(self) -> str:
        """Name of the queries: a target that is a mean over rows, each of which is a query.

        Raises:
            UsageError: With these options there is no value of a single query.
        """

    @property
    def asks(self) -> Asks:
        return Asks(queries=(self.query_set,))

    @abc.abstractmethod
    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """The values of every pair of a query and an example, each once, in blocks; never the whole matrix at once.

        Args:
            evidence: The facts that the attributor reads.
            room: Bytes of memory for several queries at a time, beyond what one query needs. It changes no value.
        """

    def run(self, evidence: Evidence) -> Result:
        """The blocks reduced to one number per example; the whole matrix is never in memory."""
        weights, last = evidence.queries(self.query_set).weights, LastBlock()
        values = reduced(self.title, last.of(self.attribute(evidence)), weights, len(evidence.ids), self.reduce)
        return Result(values, diagnostics=last.diagnostics, warnings=last.warnings)


class LastBlock:
    """Remembers what the last of some blocks says of all of them.

    Attributes:
        diagnostics: Its diagnostics.
        warnings: Its warnings.
    """

    def __init__(self) -> None:
        self.diagnostics: Mapping[str, object] = {}
        self.warnings: tuple[str, ...] = ()

    def of(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks."""
        for block in blocks:
            self.diagnostics, self.warnings = dict(block.diagnostics), block.warnings
            yield block


class PairCheck:
    """Tells whether blocks held every pair of a query and an example once, from a number for each query and each example.

    Attributes:
        pairs: How many pairs there were.
    """

    def __init__(self, queries: int, examples: int):
        # Sums of random numbers and not counts: a row that is there twice must not stand for one that is missing.
        self._keys = torch.randint(-(2**62), 2**62, (queries,), generator=torch.Generator().manual_seed(0))
        self._sums, self.pairs = torch.zeros(examples, dtype=torch.int64), 0

    def add(self, block: Block) -> None:
        """Take note of a block of checked slices."""
        self._sums[block.examples] += self._keys[block.queries].sum()
        self.pairs += block.values.numel()

    @property
    def complete(self) -> bool:
        """Whether each pair was in one block; of other blocks this is true with a probability of about 2^-62."""
        return bool((self._sums == self._keys.sum()).all())


def reduced(
    title: str, blocks: Iterable[Block], weights: Float64[Tensor, " queries"], examples: int, how: Reducer
) -> Float64[Tensor, " examples"]:
    """One number per example from the values of all queries, block by block.

    Args:
        title: Title of the attributor, for messages.
        blocks: Blocks that hold every pair of a query and an example once, in any order.
        weights: How much each query counts in the mean; they add up to 1.
        examples: How many examples there are.
        how: `mean`, weighted; `sum` or `max`, which ignore the weights.

    Returns:
        In double precision, in the order of the examples.

    Raises:
        BadScores: The blocks do not hold every pair of a query and an example once.
    """
    total = torch.full((examples,), -torch.inf if how == "max" else 0.0, dtype=torch.float64)
    seen = PairCheck(len(weights), examples)
    for block in blocks:
        values, here = checked_values(title, block, len(weights), examples), block.examples
        if how == "max":
            total[here] = torch.maximum(total[here], values.amax(0))
        else:
            total[here] += (weights[block.queries] @ values) if how == "mean" else values.sum(0)
        seen.add(block)
    if not seen.complete:
        raise BadScores(f"{title} does not give every query by every example one value; report it to whoever wrote it.")
    return total


def checked_values(title: str, block: Block, queries: int, examples: int) -> Float64[Tensor, "block_queries block_examples"]:
    """The values of a block in double precision.

    Returns:
        On the CPU, row by row in memory.

    Raises:
        BadScores: The values do not have the shape of the block's slices, or are not finite.
    """
    for place, count in ((block.queries, queries), (block.examples, examples)):
        if place.step not in (None, 1) or place.start is None or place.stop is None or not 0 <= place.start < place.stop <= count:
            raise BadScores(f"{title} gave a block of positions {place.start}..{place.stop} among {count}.")
    values, wanted = block.values, (block.queries.stop - block.queries.start, block.examples.stop - block.examples.start)
    if values.shape != wanted:
        raise BadScores(f"{title} gave a block of shape {tuple(values.shape)}; expected {wanted}.")
    values = values.detach().to("cpu", torch.float64).contiguous()
    if not bool(values.isfinite().all()):
        query, example = (~values.isfinite()).nonzero()[0].tolist()
        raise BadScores(
            f"{title}: {int((~values.isfinite()).sum())} values are not finite, the first of query {block.queries.start + query} and example "
            f"{block.examples.start + example}, counted from 0."
        )
    return values


@runtime_checkable
class RowSource(Protocol):
    """Source of an attribution's rows, such as a file; the reader may modify the rows."""

    checksums: tuple[int, ...]
    """Checksum of the row of each query."""

    def read(self, queries: range) -> Float64[Tensor, "rows examples"]:
        """The values of these queries for every example.

        Raises:
            RunError: The rows are damaged.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class TopExamples:
    """The examples at one end of a query's values.

    Attributes:
        ids: The most extreme first; equal values by id.
        values: Value of each.
    """

    ids: Ids
    values: Float64[Tensor, " extremes"]


@dataclasses.dataclass(frozen=True, eq=False)
class Top:
    """The training examples that count most for one query.

    Attributes:
        query: Id of the query.
        label: Its given class.
        helpful: The examples that help most.
        harmful: The examples that harm most.
    """

    query: int | str
    label: int
    helpful: TopExamples
    harmful: TopExamples


@dataclasses.dataclass(frozen=True, eq=False)
@checked_fields
class Attribution:
    """The value of every training example for each query, on disk; one row at a time is in memory.

    Attributes:
        queries: Ids of the queries, in the order of the rows; for tensors passed as a target, positions counted from 0.
        ids: Ids of the training examples, in the order of the columns.
        labels: Given class of each query.
        weights: How much each query counts in the target that they are of; they add up to 1.
        source: Source of the rows.
        method: Name in the catalogue.
        options: All options the attributor ran with.
        title: Name with the options that differ from their defaults.
        direction: What a large value means for the example.
        unit: Unit of the values.
        lineage: Where the attribution comes from.
        warnings: What a reader must know before trusting the values, a sentence each.
        models: Of how many models the values are the mean.
        diagnostics: How far the values can be trusted, by name, as JSON holds it; of several models the smallest and the largest where numbers differ, else that of the first.
    """

    queries: Ids
    ids: Ids
    labels: Int[Tensor, " queries"]
    weights: Float64[Tensor, " queries"]
    source: RowSource
    method: str
    options: Mapping[str, object]
    title: str
    direction: Direction
    unit: str
    lineage: Lineage | None = None
    warnings: tuple[str, ...] = ()
    models: int = 1
    diagnostics: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        rows = len(self.queries)
        if self.labels.shape != (rows,) or self.weights.shape != (rows,) or len(self.source.checksums) != rows:
            raise UsageError(f"{rows} queries, {len(self.labels)} labels and {len(self.weights)} weights do not go together.")

    def __repr__(self) -> str:
        warned = f"; warned: {self.warnings[0]}" if self.warnings else ""
        return f"Attribution({self.title}: {len(self.queries):,} queries x {len(self.ids):,} examples, {self.unit}{warned})"

    def blocks(self) -> Iterator[Block]:
        """All values, some queries by all examples at a time, from the first query to the last."""
        step = max(1, BLOCK_BYTES // (8 * max(1, len(self.ids))))
        for start in range(0, len(self.queries), step):
            part = range(start, min(start + step, len(self.queries)))
            yield Block(slice(part.start, part.stop), slice(0, len(self.ids)), self.source.read(part))

    @checked_arguments
    def row(self, query: int | str) -> Float64[Tensor, " examples"]:
        """The values of one query, in the order of `ids`.

        Returns:
            In the unit of the attribution; its direction says on which side of 0 an example helps.

        Raises:
            UsageError: No query has this id.
        """
        at = self._place(query)
        return self.source.read(range(at, at + 1))[0]

    @checked_arguments
    def top(self, query: int | str, k: int = 5) -> Top:
        """The `k` most helpful and the `k` most harmful examples of one query; fewer where fewer help or harm.

        Returns:
            Ids and values of both ends.

        Raises:
            UsageError: No query has this id, k is below 1, or the values rank difficulty.
        """
        if k < 1:
            raise UsageError(f"k={k} is below 1; ask for one example or more.")
        if not self.direction.ranks_suspects:
            raise UsageError(f"{self.title} ranks difficulty ({self.direction.value}), and not help or harm; look at its rows.")
        at, values = self._place(query), self.row(query)
        helps = -self.direction.sign * values

        def end(*, helpful: bool) -> TopExamples:
            place = ordered(helps, self.ids, descending=helpful)[:k]
            place = place[helps[place] > 0] if helpful else place[helps[place] < 0]
            return TopExamples(self.ids.take(place), values[place])

        return Top(self.queries[at], int(self.labels[at]), end(helpful=True), end(helpful=False))  # type: ignore[arg-type]

    @checked_arguments
    def top_table(self, k: int = 5, queries: Iterable[int] | Iterable[str] | Ids | None = None) -> Table:
        """The examples that count most for each query as one table, which goes to frames and files as scores do.

        Args:
            k: How many of the most helpful, and how many of the most harmful examples of each query.
            queries: The queries; None for all.

        Returns:
            A table with the columns `query`, `label` (its given class, a number), `end` (helpful or harmful), `place` (from 1), `id` and `value`.

        Raises:
            UsageError: As `top` does.
        """
        found = [self.top(query, k) for query in (self.queries if queries is None else queries)]
        rows = [
            (one.query, one.label, name, place, id_, value)
            for one in found
            for name, end in (("helpful", one.helpful), ("harmful", one.harmful))
            for place, (id_, value) in enumerate(zip(end.ids, end.values.tolist(), strict=True), 1)
        ]
        query, label, end, place, ids, value = zip(*rows, strict=True) if rows else ((),) * 6
        columns = {
            "query": np.array(query, self.queries.values.dtype),
            "label": np.array(label, np.int64),
            "end": texts(end),
            "place": np.array(place, np.int64),
            "id": np.array(ids, self.ids.values.dtype),
            "value": np.array(value, np.float64),
        }
        return Table(f"the examples behind {len(found):,} queries by {self.title}", columns)

    def _place(self, query: int | str) -> int:
        if query not in self.queries:
            if len(self.queries) <= MOST_NAMED:
                raise UnknownName("query", str(query), map(str, self.queries))
            raise UsageError(
                f"No query has the id {query!r}; the {len(self.queries):,} queries are {listed(self.queries.values, len(self.queries))}."
            )
        return int(self.queries.positions(Ids([query]))[0])  # type: ignore[arg-type]

    @checked_arguments
    def reduce(self, how: Reducer = "mean") -> Scores:
        """One number per example from all queries: their `mean`, weighted as their target weighs them, `sum` or `max`.

        Returns:
            In the unit and direction of the attribution, of all its examples.

        Raises:
            UsageError: `how` is none of these.
        """
        if how not in ("mean", "sum", "max"):
            raise UsageError(f"how={how!r} is none of mean, sum and max.")
        name, texts = options.split(self.title)
        parents = {} if self.lineage is None else {**self.lineage.parents, "attribution": self.fingerprint}
        warned: tuple[str, ...] = ()
        if how == "max" and self.models > 1:
            warned = (
                f"The largest of means over {self.models} models is not the mean of each model's largest value, which `assay.score` gives under the "
                "same title.",
            )
        return Scores(
            ids=self.ids,
            values=reduced(self.title, self.blocks(), self.weights, len(self.ids), how),
            method=self.method,
            options={**self.options, "reduce": how},
            title=options.join(name, texts if how == "mean" else {"reduce": how, **texts}),
            direction=self.direction,
            unit=self.unit,
            lineage=None if self.lineage is None else dataclasses.replace(self.lineage, parents=parents),
            warnings=self.warnings + warned,
            diagnostics=self.diagnostics,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over ids, queries, the checksums of all rows, method and options, and what a value means."""
        return fingerprint(
            self.ids.fingerprint,
            self.queries.fingerprint,
            self.weights.numpy().tobytes(),
            repr(self.source.checksums),
            self.method,
            repr(sorted(self.options.items())),
            self.direction.value,
            self.unit,
        )
