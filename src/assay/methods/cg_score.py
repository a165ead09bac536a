r"""CG-score: the complexity gap, what one example adds to the complexity of fitting the labels y (+1 or -1) from the inputs x. Needs no training.

$$ \mathrm{CG}_i = y^\top H^{-1} y - y_{-i}^\top H_{-i}^{-1} y_{-i} = \frac{u_i^2}{D_i}, \qquad u = H^{-1} y,\quad D = \operatorname{diag}(H^{-1}),
   \quad H_{ij} = \frac{g_{ij} (\pi - \arccos g_{ij})}{2\pi},\quad g_{ij} = \frac{\langle x_i, x_j \rangle}{\|x_i\| \|x_j\|} $$
"""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError, listed
from ..core.evidence import Evidence
from ..core.features import INPUTS, ROWS, FeatureSpec
from ..core.ids import Ids
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths import draws
from ..maths.gram import Solution, Tiles, parallel_rows, relu_gram, solve, unit_rows
from ..maths.normalisation import statistics
from ..maths.ranking import rank_correlation
from ..maths.solvers import conjugate_gradients

Term = Literal["cg", "a2", "ab", "b2"]
TERMS: tuple[Term, ...] = ("cg", "a2", "ab", "b2")
JITTERS = (0.5e-10, 0.5e-8, 0.5e-6)
"""Tried in turn where H has no inverse: parts of its diagonal, which is 1/2."""
LOST = 1e-14
"""A jitter no larger is lost in the rounding of H."""
RESIDUAL = 1e-4
"""Where an iteration may stop: what is left, as a part of the right-hand side."""
UNSOLVED = 0.5
"""A residual above which an iteration has not come far enough to be silent about it."""
SAMPLE = 2000
"""Rows on which an approximation is compared with the exact score."""
SMALLEST_PART = 0.1
"""No entry of an estimated diag(H^-1) is taken to be smaller than this part of their median."""


def cg_score(
    inputs: Float[Tensor, "examples ..."],
    signs: Float[Tensor, " examples"] | Float[Tensor, "examples columns"],
    jitter: float = 0.0,
) -> Float[Tensor, " examples"] | Float[Tensor, "examples columns"]:
    """The part of y' (H + jitter I)^-1 y that each example adds; in float64, at least 0, no unit, large where labels are irregular.

    The score does not change if y becomes -y, if rows are multiplied by positive factors, or if all inputs are rotated; it does change if something,
    such as the mean, is subtracted from the inputs.

    Args:
        inputs: One input per row, flattened.
        signs: The label of each, +1 or -1; several columns share one factorisation.
        jitter: Added to the diagonal of H. With 0, rows that point the same way and have the same sign count as one row of the kernel, and leaving
            one of them out is worth 0.

    Returns:
        Of the shape of `signs`.

    Raises:
        ValueError: An input is all zeros, a sign is not +1 or -1, or H has no inverse, as where rows point the same way but have different signs.

    Source: Nohyun, Choi and Chung 2023; the closed form is that of the block inverse.
    """
    rows, columns = _checked(inputs, signs, jitter)
    return _values("cg", rows, columns, jitter)[0].reshape(signs.shape)


def terms(
    inputs: Float[Tensor, "examples ..."],
    signs: Float[Tensor, " examples"] | Float[Tensor, "examples columns"],
    jitter: float = 0.0,
) -> dict[str, Tensor]:
    """The score `cg` and its terms a2, ab and b2, each of the shape of `signs`: cg = a2 + 2 ab + b2.

    a2 = (u - y D)^2 / D comes from the others' labels alone, ab = y (u - y D) from theirs and the example's own, b2 = D from the example alone.

    Returns:
        By the name of the term: cg, a2, ab and b2.

    Raises:
        ValueError: As `cg_score`; also where rows point the same way and have the same sign, whose terms grow without bound as the jitter goes to 0.
    """
    rows, columns = _checked(inputs, signs, jitter)
    return {name: _values(name, rows, columns, jitter)[0].reshape(signs.shape) for name in TERMS}


def by_class(
    inputs: Float[Tensor, "examples ..."],
    labels: Int[Tensor, " examples"],
    negatives: Sequence[Int[Tensor, " _"]],
    term: Term = "cg",
    jitter: float = 0.0,
) -> Float[Tensor, " examples"]:
    """Scores of each class against rows of other classes that were drawn for it: one repetition of the paper's protocol for several classes.

    Args:
        inputs: One input per row.
        labels: Class of each.
        negatives: For each class that occurs, in ascending order, the rows of other classes that it is scored against.
        term: The score, or one of its terms.
        jitter: As `cg_score`.

    Returns:
        One per row, in the order of the rows.

    Raises:
        ValueError: As `cg_score`; also if `negatives` does not have one set of rows for each class, or a set has rows of the class itself.
    """
    found = torch.empty(len(labels), dtype=torch.float64)
    for one, drawn in zip(labels.unique(), negatives, strict=True):
        if bool((labels[drawn] == one).any()):
            raise ValueError(f"Rows {drawn[labels[drawn] == one].tolist()[:5]} are of class {int(one)} itself.")
        rows = torch.cat([(labels == one).nonzero().flatten(), drawn]).sort().values
        own = labels[rows] == one
        unit, columns = _checked(inputs[rows], torch.where(own, 1.0, -1.0), jitter)
        found[rows[own]] = _values(term, unit, columns, jitter)[0][own, 0]
    return found


def _checked(inputs: Tensor, signs: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    if not bool(((signs == 1) | (signs == -1)).all()):
        raise ValueError("Signs must be +1 or -1.")
    if not (math.isfinite(jitter) and jitter >= 0):
        raise ValueError(f"jitter={jitter} is not a number from 0 on.")
    return unit_rows(inputs.to(torch.float64)), signs.to(torch.float64).reshape(len(signs), -1)


def _values(
    term: Term,
    rows: Float[Tensor, "rows dims"],
    columns: Float[Tensor, "rows columns"],
    jitter: float,
    more: Sequence[float] = (),
    inverse: "Inverse | None" = None,
) -> tuple[Float[Tensor, "rows columns"], float]:
    """One term by unit row and column, and the jitter that it took: `jitter`, or the first of `more` with which H has an inverse."""
    first = parallel_rows(rows)
    kept, place = first.unique(return_inverse=True)
    singular = jitter <= LOST and len(kept) < len(rows)
    # Rows that point the same way under the same signs are one row; leaving one of them out leaves another in its place.
    joined = singular and term == "cg" and bool((columns == columns[first]).all())
    if not joined:
        kept = torch.arange(len(rows))
    # A kernel with equal rows has no inverse, whatever rounding says.
    tried = [*([] if singular and not joined else [jitter]), *more]
    solution, taken = (inverse or functools.partial(_factored, rows, columns))(kept, tried)
    if solution is not None:
        values = _term(term, solution, columns[kept])
        return (values[place].where((torch.bincount(place)[place] == 1)[:, None], 0.0) if joined else values), taken
    if singular and not joined:
        here = int((first != torch.arange(len(first))).nonzero()[0])
        raise ValueError(
            f"Rows {int(first[here])} and {here} point the same way, so that H has no inverse; give a jitter such as 1e-6."
        )
    raise ValueError(f"H with jitter={taken:g} is not positive definite to rounding; give a larger jitter.")


Inverse = Callable[[Tensor, Sequence[float]], tuple[Solution | None, float]]
"""From the rows that count and the jitters to try to what H^-1 says of them, and the jitter taken; None if none will do."""


def _factored(rows: Tensor, columns: Tensor, kept: Tensor, jitters: Sequence[float]) -> tuple[Solution | None, float]:
    gram = relu_gram(rows[kept])
    for jitter in jitters:
        if (solution := solve(gram, columns[kept], jitter)) is not None:
            return solution, jitter
    return None, jitters[-1] if jitters else 0.0


def _term(term: Term, solution: Solution, columns: Tensor) -> Tensor:
    u, diagonal = solution.products, solution.diagonal[:, None]
    if term == "cg":
        return u.square() / diagonal
    others = u - columns * diagonal
    if term == "a2":
        return others.square() / diagonal
    return columns * others if term == "ab" else diagonal.expand_as(u).clone()


@dataclasses.dataclass(frozen=True)
class CGScore(AbstractMethod):
    """High CG marks examples whose label the others do not explain: wrong labels and irregular examples.

    Args:
        inputs: NAME, short for `features=rows:NAME`; older scores were saved with it.
        features: Features of which the kernel is computed: `inputs`, the data themselves; `rows:NAME` given from outside, such as embeddings
            (`--inputs NAME=FILE`); or features from a kept model, such as `penultimate`.
        protocol: Each class against examples of other classes drawn at `random`, the mean over `repeats` (the paper), or all examples in one kernel,
            each class against the `rest`.
        repeats: How often examples of other classes are drawn, or examples are divided into blocks.
        ratio: How many examples of other classes are drawn for each example of the class.
        term: The score `cg`, or a term of cg = a2 + 2 ab + b2.
        transform: Transform of the features, such as images in 0..1: `raw`, `standardised` by channel or column, or `centred`, minus the mean. Each
            transform gives a different score.
        solver: `exact`, by `iteration` (conjugate gradients, and random signs for the diagonal), or in `blocks`, exact among some examples at a time.
        jitter: Added to the diagonal of H; with 0 nothing is added, unless H has no inverse: then the first of 5e-11, 5e-9 and 5e-7 that makes H
            invertible.
        iterations: Largest number of steps of conjugate gradients.
        probes: Number of random sign vectors that estimate the diagonal.
        block: About how many examples are in a block.
        largest: Largest number of examples in a kernel that is solved exactly, which takes 24 bytes for each pair of them; more are refused.
        seed: Seed of all draws.
    """

    inputs: str | None = None
    features: str = INPUTS
    protocol: Literal["random", "rest"] = "random"
    repeats: int = 5
    ratio: float = 1.0
    term: Term = "cg"
    transform: Literal["raw", "standardised", "centred"] = "raw"
    solver: Literal["exact", "iteration", "blocks"] = "exact"
    jitter: float = 0.0
    iterations: int = 300
    probes: int = 64
    block: int = 1000
    largest: int = 25_000
    seed: int = 0
    name: ClassVar[str] = "cg_score"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LABELS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "complexity y' H^-1 y"
    source: ClassVar[Source] = Source(
        "Nohyun, Choi and Chung 2023",
        "https://arxiv.org/abs/2301.00930",
        "others are drawn 5 times by default, not once, as a single draw is noisy; an input that another of its class equals, for which "
        "the authors' code has no number, is worth 0; inputs of zeros are left unscored",
    )

    def __post_init__(self):
        super().__post_init__()
        FeatureSpec.parse(self.features)
        if self.inputs is not None and self.features != INPUTS:
            raise UsageError(
                f"{self.title}: inputs={self.inputs} is features={ROWS}{self.inputs}, and there are other features; give one of them."
            )
        for option, least in (("repeats", 1), ("iterations", 1), ("probes", 1), ("block", 2), ("largest", 1), ("seed", 0)):
            if getattr(self, option) < least:
                raise UsageError(f"{self.title}: {option}={getattr(self, option)} is below {least}.")
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise UsageError(f"{self.title}: ratio={self.ratio} is not above 0.")
        if not (math.isfinite(self.jitter) and self.jitter >= 0):
            raise UsageError(f"{self.title}: jitter={self.jitter} is not a number from 0 on.")
        read = {
            "ratio": self.protocol == "random",
            "repeats": self.protocol == "random" or self.solver == "blocks",
            "iterations": self.solver == "iteration",
            "probes": self.solver == "iteration",
            "block": self.solver == "blocks",
            "seed": self.protocol == "random" or self.solver != "exact",
        }
        for field in dataclasses.fields(self):
            if not read.get(field.name, True) and getattr(self, field.name) != field.default:
                raise UsageError(
                    f"{self.title}: {field.name} is not read with protocol={self.protocol} and solver={self.solver}; leave it out."
                )

    @property
    def asks(self) -> Asks:
        return Asks(features=(self.features if self.inputs is None else f"{ROWS}{self.inputs}",))

    def speaks_of(self, evidence: Evidence) -> Bool[Tensor, " examples"]:
        """The examples whose transformed input is not all zeros; an input of zeros has no direction."""
        order, inputs = self._transformed(evidence)
        return torch.zeros(len(order), dtype=torch.bool).scatter(0, order, (inputs != 0).any(1))

    def run(self, evidence: Evidence) -> Result:
        order, inputs = self._transformed(evidence)
        there = (inputs != 0).any(1)
        if not bool(there.any()):
            raise UsageError(f"{self.title}: every input is all zeros, so that none has a direction; choose another transform.")
        order, inputs = order[there], inputs[there]
        problem = _Problem(self, inputs, evidence.labels[order], evidence.ids.take(order))
        found = torch.full((self.repeats if problem.chance else 1, len(there)), math.nan, dtype=torch.float64)
        try:
            for repetition, row in enumerate(found):
                row[order] = problem.values(repetition)
            if self.solver != "exact":
                problem.compare()
        except ValueError as error:
            raise UsageError(f"{self.title}: {error}") from error
        left, warnings = problem.met.get("largest relative residual", 0.0), problem.warnings
        if isinstance(left, float) and left > UNSOLVED:
            warnings = (
                *warnings,
                f"Conjugate gradients stopped with a residual of {left:.2g} times the right-hand side; give more than {self.iterations} iterations.",
            )
        return Result(found.mean(0), diagnostics=problem.met, warnings=warnings, repeats=found if problem.chance else None)

    def _transformed(self, evidence: Evidence) -> tuple[Int[Tensor, " examples"], Float[Tensor, "examples dims"]]:
        """Positions in the order of the ids, so that no sum depends on that of the examples, and the inputs in that order."""
        order = torch.argsort(evidence.ids.ranks)
        features = evidence.features(self.asks.features[0])
        inputs = features.rows()[order].unflatten(1, features.shape)
        if self.transform == "standardised":
            shape = (1, -1) + (1,) * (inputs.ndim - 2)
            mean, std = (torch.tensor(part, dtype=inputs.dtype).view(shape) for part in statistics(inputs))
            inputs = (inputs - mean) / std
        elif self.transform == "centred":
            inputs = inputs - inputs.mean(0, dtype=torch.float64).to(inputs.dtype)
        return order, inputs.flatten(1)


class _Problem:
    """The examples that have a direction, in the order of their ids, and what was met when kernels of theirs were solved."""

    def __init__(self, method: CGScore, inputs: Tensor, labels: Tensor, ids: Ids):
        self.method, self.inputs, self.labels, self.ids = method, inputs, labels, ids
        self.met: dict[str, object] = {}
        self.warnings: tuple[str, ...] = ()
        self._classes = labels.unique().tolist()
        self._members = {one: (labels == one).nonzero().flatten() for one in self._classes}
        # Classes are told apart by their first examples, whatever their numbers are.
        self._class_order = torch.zeros(max(self._classes) + 1, dtype=torch.int64)
        for one, members in self._members.items():
            self._class_order[one] = members[0]
        # Nothing is drawn for a class that all others stand against: these share one kernel, and one solution over all repetitions.
        self._whole = [
            one for one in self._classes if method.protocol == "rest" or self._others(one) == len(labels) - self._size(one)
        ]
        self._once: Tensor | None = None

    def _size(self, one: int) -> int:
        return len(self._members[one])

    def _others(self, one: int) -> int:
        """How many others a class stands against."""
        # As a fraction of the digits that were written, because 100 * 0.29 is 28.999... to a computer.
        drawn = math.floor(self._size(one) * fractions.Fraction(repr(self.method.ratio)))
        return min(drawn, len(self.labels) - self._size(one))

    @property
    def chance(self) -> bool:
        """Whether repetitions differ."""
        divided = self.method.solver == "blocks" and self._blocks(len(self.labels)) > 1
        return len(self._whole) < len(self._classes) or divided

    def _blocks(self, rows: int) -> int:
        return max(1, round(rows / self.method.block))

    def values(self, repetition: int) -> Float[Tensor, " examples"]:
        """The score of each example by the draws of one repetition."""
        found = torch.empty(len(self.labels), dtype=torch.float64)
        if self._whole:
            signs = torch.stack([self._signs(self.labels == one) for one in self._whole], 1)
            if self._once is None or self.method.solver == "blocks":
                self._once = self._solved(torch.arange(len(self.labels)), signs, repetition)
            for column, one in zip(self._once.T, self._whole, strict=True):
                found[self._members[one]] = column[self._members[one]]
        for one in self._classes:
            if one not in self._whole:
                rows, own = self._drawn(one, repetition)
                found[self._members[one]] = self._solved(rows, self._signs(own)[:, None], repetition)[own, 0]
        return found

    def _drawn(self, one: int, repetition: int) -> tuple[Tensor, Tensor]:
        """The examples of a class and others drawn for it, in order; and which are of the class."""
        members, pool = self._members[one], (self.labels != one).nonzero().flatten()
        name = int(self.ids.keys[int(self._class_order[one])])
        drawn = draws.permutation(self.ids.keys[pool.numpy()], self.method.seed, "cg_score others", repetition, name)
        rows = torch.cat([members, pool[drawn[: self._others(one)]]]).sort().values
        return rows, self.labels[rows] == one

    @staticmethod
    def _signs(own: Tensor) -> Tensor:
        return torch.where(own, 1.0, -1.0).to(torch.float64)

    def _solved(self, rows: Tensor, signs: Tensor, repetition: int, count: int | None = None) -> Tensor:
        """The term of each of these rows by column of signs; in `count` blocks, or in as many as the method says."""
        method = self.method
        if method.solver == "iteration":
            return self._iterated(rows, signs)
        if method.solver == "exact":
            return self._exact(rows, signs)
        count, values = count or self._blocks(len(rows)), torch.empty_like(signs)
        # Equal inputs go together, so that they are as equal in a block as they are in the whole.
        known: dict[bytes, int] = {}
        place = torch.tensor([known.setdefault(row.tobytes(), len(known)) for row in self.inputs[rows].numpy()])
        first = torch.full((len(known),), len(rows)).scatter_reduce_(0, place, torch.arange(len(rows)), "amin")
        order = draws.permutation(self.ids.keys[rows[first].numpy()], method.seed, "cg_score blocks", repetition)
        # Dealt out class by class, so that each block has its share of every one.
        order = order[torch.argsort(self._class_order[self.labels[rows[first[order]]]], stable=True)]
        block_of = torch.empty_like(order)
        block_of[order] = torch.arange(len(order)) % count
        for block in range(count):
            part = (block_of[place] == block).nonzero().flatten()
            values[part] = self._exact(rows[part], signs[part])
        return values

    def _unit(self, rows: Tensor) -> Tensor:
        return unit_rows(self.inputs[rows].to(torch.float64))

    def _exact(self, rows: Tensor, signs: Tensor) -> Tensor:
        method = self.method
        if len(rows) > method.largest:
            raise ValueError(
                f"a kernel of {len(rows):,} examples takes {24e-9 * len(rows) ** 2:.0f} GB; choose solver=iteration or solver=blocks, or "
                f"allow it by largest={len(rows)}."
            )
        values, jitter = _values(method.term, self._unit(rows), signs, method.jitter, () if method.jitter else JITTERS)
        self._jittered(rows, jitter)
        return values

    def _iterated(self, rows: Tensor, signs: Tensor) -> Tensor:
        method, unit = self.method, self._unit(rows)

        def inverse(kept: Tensor, jitters: Sequence[float]) -> tuple[Solution, float]:
            jitter, keys = jitters[0], self.ids.keys[rows[kept].numpy()]
            chance = torch.stack([_signs_of(keys, method.seed, probe) for probe in range(method.probes)], 1)
            found = conjugate_gradients(
                Tiles(unit[kept], jitter).times, torch.cat([signs[kept], chance], 1), most=method.iterations, rtol=RESIDUAL
            )
            u, rest = found.x.split([signs.shape[1], method.probes], 1)
            diagonal = (rest * chance).mean(1)
            least = SMALLEST_PART * float(diagonal.median())
            self._meet("iterations", found.iterations)
            self._meet("largest relative residual", found.residual)
            self._meet("entries of the diagonal raised to a tenth of their median", int((diagonal < least).sum()))
            return Solution(u, diagonal.clamp(min=least)), jitter

        # In float32 the smaller ones would be lost.
        values, jitter = _values(method.term, unit, signs, method.jitter, () if method.jitter else JITTERS[-1:], inverse)
        self._jittered(rows, jitter)
        return values

    def _jittered(self, rows: Tensor, jitter: float) -> None:
        if jitter > float(self.met.get("jitter", 0)):  # type: ignore[arg-type]
            self.met["jitter"] = jitter
        if jitter and not self.method.jitter and not self.warnings:
            first = parallel_rows(self._unit(rows))
            here = first != torch.arange(len(first))
            both = torch.cat([rows[first[here]], rows[here]]).unique()
            clash = bool((self.labels[rows] != self.labels[rows[first]]).any())
            cause = (
                f"the inputs of {listed(self.ids.take(both), len(both))} point the same way{', in part under other labels' * clash}"
                if len(both)
                else "inputs are too much alike"
            )
            self.warnings = (
                f"H has no inverse, because {cause}; {jitter:g} was added to its diagonal, and what stands out most may only tell that.",
            )

    def _meet(self, what: str, size: float | int) -> None:
        before = self.met.get(what, 0)
        self.met[what] = max(size, before) if isinstance(before, (int, float)) else size

    def compare(self) -> None:
        """Note how well the approximation ranks, compared with the exact score on a problem small enough for it."""
        method = self.method
        one = max(self._classes, key=self._size)
        rows = torch.arange(len(self.labels)) if one in self._whole else self._drawn(one, 0)[0]
        # Of as many blocks as the problem itself, which are then smaller and tell no better than it is.
        blocks = self._blocks(len(rows))
        chosen = draws.permutation(self.ids.keys[rows.numpy()], method.seed, "cg_score sample")[:SAMPLE]
        rows = rows[chosen.sort().values]
        own = self.labels[rows] == one
        if int(own.sum()) < 3:
            # Ranks of two say nothing.
            return
        signs, told = self._signs(own)[:, None], (dict(self.met), self.warnings)
        exact = self._exact(rows, signs)[own, 0]
        near = torch.stack(
            [self._solved(rows, signs, n, blocks)[own, 0] for n in range(method.repeats if self.chance else 1)]
        ).mean(0)
        self.met, self.warnings = told
        self.met[f"Spearman with the exact score on {len(rows):,} of the examples"] = float(
            rank_correlation(torch.stack([near, exact]))[0, 1]
        )


def _signs_of(keys: np.ndarray, seed: int, probe: int) -> Float64[Tensor, " rows"]:
    return torch.from_numpy((draws.words(keys, seed, "cg_score probes", probe) >> np.uint64(63)).astype(np.float64)) * 2 - 1
