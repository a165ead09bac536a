"""A learner trained on coalitions of the examples."""

import dataclasses
import functools
import hashlib
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .. import __version__
from ..cluster.executors import Call, run_all
from ..core.errors import AssayError, MissingEvidence, NumericalError, UsageError, listed
from ..core.game import Coalitions, GameMaker, Utility, Valuation
from ..core.ids import Ids
from ..core.learner import AbstractLearner, Constant, Fitted
from ..core.lineage import fingerprint
from ..learners import LEARNERS, parse
from ..maths import draws
from ..maths.games import utilities
from ..runs.coalitions import CoalitionValues
from .execution import Execution

SLACK = 1e-6
"""How far probabilities of an example may add up to something else than 1."""
ROOM = 2**26
"""Bytes that the predictions of coalitions trained side by side may take, and as many the rows of numbers that each example has in them."""

CHUNKS = 64
"""Largest number of calls in which coalitions are sent out."""
TURN = threading.RLock()
"""A game that was sent is one per process."""


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
    """Where coalitions are trained on.

    Attributes:
        pool: Any executor.
        logs: Folder of the logs.
    """

    pool: Executor
    logs: Path


@dataclasses.dataclass(frozen=True, eq=False)
class GamesBy(Execution):
    """With this, games are made by `maker` and nothing is kept of them.

    Attributes:
        maker: Makes every game.
    """

    maker: GameMaker = dataclasses.field(kw_only=True)


Part = tuple[Int[Tensor, " part"], Float64[Tensor, "part queries classes"], Sequence[bool]]
"""Places of some of the coalitions, the probabilities of rows by the learner trained on each, the classes as they are given, and whether each training left remarks."""
Keeper = Callable[[str, int], CoalitionValues]
"""Opens the values of coalitions of one game, by its fingerprint and how many numbers a value is."""


def game_of(
    ids: Ids,
    rows: Float[Tensor, "examples dims"],
    labels: Int[Tensor, " examples"],
    classes: int,
    learner: str | AbstractLearner,
    valuation: Valuation | None = None,
    keeper: Keeper = CoalitionValues,
    spread: Spread | None = None,
) -> "RetrainingGame":
    """The cooperative game of a learner trained on coalitions of these examples.

    Raises:
        UnknownName: No such learner or option.
        UsageError: A value that the option does not take.
    """
    game = RetrainingGame(ids, rows, labels, classes, parse(learner), valuation, keeper=keeper)
    game.spread = spread
    return game


class RetrainingGame:
    """Game that trains the learner from scratch on every coalition, or where the learner can, on many side by side or along growing ones.

    The learner sees the examples in the order of their ids, and the classes in the order of their first examples: neither the order in which
    examples are given nor the numbers of their classes can change a prediction, whatever a learner makes of ties.

    Attributes:
        players: The examples.
        remarks: Messages of the trainings, with the number of trainings that gave each.
        trained: How many trainings there were.
        spread: Where coalitions are trained on by learners that take one after the other; None for this process.
    """

    def __init__(
        self,
        ids: Ids,
        rows: Float[Tensor, "examples dims"],
        labels: Int[Tensor, " examples"],
        classes: int,
        learner: AbstractLearner,
        valuation: Valuation | None = None,
        *,
        seed: int = 0,
        keeper: Keeper = CoalitionValues,
    ):
        """Prepare; nothing is trained yet.

        Args:
            ids: The examples.
            rows: What the learner sees of each.
            labels: Given class of each.
            classes: How many classes there are.
            learner: The learner to train.
            valuation: By what coalitions are valued.
            seed: Random seed of the learner's draws, together with the coalition.
            keeper: Where values of coalitions are kept: in memory, or in files from which a later call goes on.

        Raises:
            UsageError: Rows and labels do not fit.
        """
        if len(rows) != len(ids) or len(labels) != len(ids) or rows.ndim != 2:
            raise UsageError(f"{len(ids)} players do not fit rows {tuple(rows.shape)} and labels {tuple(labels.shape)}.")
        held = valuation.held_out if valuation is not None else None
        if held is not None and (held.rows.shape[1:] != rows.shape[1:] or len(held.rows) != len(held.labels)):
            raise UsageError(
                f"Held-out rows {tuple(held.rows.shape)} and labels {tuple(held.labels.shape)} do not fit rows {tuple(rows.shape)}."
            )
        rows, labels = rows.detach().cpu(), labels.cpu()
        self.players, self.remarks, self.trained = ids, Counter[str](), 0
        self._learner, self._seed, self._classes = learner, seed, classes
        self.spread: Spread | None = None
        self._order = torch.argsort(ids.ranks)
        self._rows, self._given = rows[self._order], labels[self._order]
        self._keys = ids.keys[self._order.numpy()]
        self._names = _by_first(self._given, classes)
        self._labels = self._names[self._given]
        # In the same order, because products of matrices may add up a row by where it stands.
        self._queries = self._rows if held is None else torch.cat([self._rows, held.rows.to(rows.dtype)])
        self._valuation, self._keeper = valuation, keeper
        self._kept: dict[str, CoalitionValues] = {}
        # Sums of two words for each player: a coalition's name, which a player who joins changes by an addition.
        self._words = np.stack([draws.words(self._keys, number, "coalition") for number in (0, 1)], 1)

    def predictions(self, coalitions: Coalitions) -> Float64[Tensor, "coalitions queries classes"]:
        """See `Game.predictions`."""
        found = torch.empty(len(coalitions), len(self._queries), self._classes, dtype=torch.float64)
        players = len(self.players)
        for part, probs, _ in self._probs(self._checked(coalitions), self._queries):
            given = torch.empty_like(probs)
            given[:, self._order], given[:, players:] = probs[:, :players], probs[:, players:]
            found[part] = given
        return found

    def player_utilities(self, coalitions: Coalitions, utility: Utility) -> Float64[Tensor, "coalitions players"]:
        """See `Game.player_utilities`."""
        found = self._known_or_trained(
            self._checked(coalitions),
            self._opened(f"players' {utility}", len(self.players)),
            self._rows,
            lambda probs: utilities(probs, self._given, utility),
            alike=True,
        )
        return found[:, self._order.argsort()]

    def values(self, coalitions: Coalitions) -> Float64[Tensor, " coalitions"]:
        """See `Game.values`."""
        return self._valued(self._checked(coalitions), "values")[:, 0]

    def class_values(self, coalitions: Coalitions) -> Float64[Tensor, "coalitions classes"]:
        """See `Game.class_values`."""
        return self._valued(self._checked(coalitions), "values by class")

    def path_values(
        self, orders: Int[Tensor, "orders players"], truncate: float = 0.0
    ) -> tuple[Float64[Tensor, "orders sizes"], Int[Tensor, " orders"]]:
        """See `Game.path_values`."""
        players = len(self.players)
        if orders.ndim != 2 or not torch.equal(orders.sort(1).values, torch.arange(players).expand(len(orders), -1)):
            raise UsageError(
                f"Orders of shape {tuple(orders.shape)} are not orders of {players} players; give each position once in a row."
            )
        places = self._order.argsort()[orders]
        whole = float(self.values(torch.ones(1, players, dtype=torch.bool))) if truncate else 0.0
        values, sizes = torch.empty(len(orders), players + 1, dtype=torch.float64), torch.empty(len(orders), dtype=torch.int64)
        room = max(1, ROOM // (8 * self._classes * max(1, len(self._held.rows))))
        for start in range(0, len(orders), room):
            part = slice(start, start + room)
            values[part], sizes[part] = self._paths(places[part], truncate, whole)
        return values, sizes

    @property
    def _held(self):
        if self._valuation is None:
            raise MissingEvidence(
                "This game has no held-out examples by which a coalition could be valued; make it with a valuation, or ask for predictions."
            )
        return self._valuation.held_out

    def _store(self, kind: str) -> CoalitionValues:
        """The values of coalitions that are known."""
        held, utility = self._held, str(self._valuation.utility)  # type: ignore[union-attr]
        return self._opened(
            kind, self._classes if kind == "values by class" else 1, utility, held.rows, held.labels, held.weights
        )

    def _opened(self, kind: str, width: int, utility: str = "", *held: Tensor) -> CoalitionValues:
        """What is known of coalitions of one kind, so many numbers of each."""
        if kind not in self._kept:
            maker = LEARNERS.maker(type(self._learner)) or ""
            made_of = fingerprint(
                kind, self._learner.title, maker, utility, str(self._seed), str(self._classes),
                *(part for one in (self._rows, self._keys, self._given, *held) for part in _bytes(one)),
            )  # fmt: skip
            self._kept[kind] = self._keeper(made_of, width)
        return self._kept[kind]

    def _worth(self, probs: Float64[Tensor, "coalitions queries classes"], by_class: bool) -> Float64[Tensor, "coalitions parts"]:
        held = self._held
        terms = utilities(probs, held.labels, self._valuation.utility)  # type: ignore[union-attr]
        # Counts stay whole numbers until they are divided.
        alike = bool((held.weights == held.weights[0]).all())
        terms, whole = (terms, float(len(held.labels))) if alike else (terms * held.weights, 1.0)
        if not by_class:
            # By NumPy, because torch splits the sum of one long row among threads, which changes its last bit.
            return torch.from_numpy(terms.numpy().sum(1, keepdims=True)) / whole
        return torch.zeros(len(probs), self._classes, dtype=torch.float64).index_add_(1, held.labels, terms) / whole

    def _valued(self, coalitions: Int[Tensor, "coalitions players"], kind: str) -> Float64[Tensor, "coalitions parts"]:
        rows = self._held.rows.to(self._rows.dtype)
        return self._known_or_trained(
            coalitions, self._store(kind), rows, lambda probs: self._worth(probs, kind == "values by class")
        )

    def _known_or_trained(
        self,
        coalitions: Int[Tensor, "coalitions players"],
        store: CoalitionValues,
        rows: Tensor,
        worth: Callable[[Tensor], Tensor],
        alike: bool = False,
    ) -> Float64[Tensor, "coalitions parts"]:
        """The numbers of each coalition: those that are known, and of the others what the predictions of these rows are worth; `alike` as in `_probs`."""
        names = self._named(coalitions)
        due = list({name: place for place, name in reversed(list(enumerate(names))) if name not in store}.values())[::-1]
        for part, probs, remarked in self._probs(coalitions[due], rows, alike) if due else ():
            store.add([names[due[place]] for place in part.tolist()], worth(probs), remarked)
        return store.table(names)

    def _named(self, coalitions: Int[Tensor, "coalitions players"]) -> list[bytes]:
        counts = coalitions.numpy().astype(np.uint64)
        words = np.stack([(counts * self._words[:, side]).sum(1, dtype=np.uint64) for side in (0, 1)], 1)
        return [row.tobytes() for row in words]

    def _checked(self, coalitions: Coalitions) -> Int[Tensor, "coalitions players"]:
        if coalitions.ndim != 2 or coalitions.shape[1] != len(self.players) or coalitions.is_floating_point():
            raise UsageError(
                f"Coalitions of shape {tuple(coalitions.shape)}, {coalitions.dtype}, do not fit {len(self.players)} players; give a column of "
                "true and false, or of whole numbers, for each."
            )
        counts = coalitions.to(torch.int64)
        if bool((counts < 0).any()):
            raise UsageError("A coalition holds a player less than 0 times; give 0 for players that are left out.")
        return counts[:, self._order]

    def _paths(
        self, places: Int[Tensor, "orders players"], truncate: float, whole: float
    ) -> tuple[Float64[Tensor, "orders sizes"], Int[Tensor, " orders"]]:
        """`path_values` of some orders, players in the order of their ids: all of them known, or all computed, so that the same call gives the same bits."""
        orders, players = places.shape
        words = np.concatenate([np.zeros((orders, 1, 2), np.uint64), self._words[places.numpy()].cumsum(1, dtype=np.uint64)], 1)
        growing = self._learner.grow(self._rows, self._labels, self._classes, orders, self._held.rows.to(self._rows.dtype))
        kind = "values" if growing is None else "values of growing coalitions"
        store = self._store(kind)
        values, sizes = torch.empty(orders, players + 1, dtype=torch.float64), torch.full((orders,), players + 1)
        values[:, 0] = self.values(torch.zeros(1, players, dtype=torch.bool))
        active, members = torch.arange(orders), torch.zeros(orders, players, dtype=torch.int64)
        known = growing is None or _all_known(store, words, truncate, whole)
        for size in range(players):
            if truncate:
                near = (values[active, size] - whole).abs() <= truncate
                stopped = active[near]
                sizes[stopped], values[stopped, size + 1 :] = size + 1, values[stopped, size, None]
                active = active[~near]
                if growing is not None:
                    growing.keep(~near)
            if not len(active):
                break
            joined = places[active, size]
            members[active, joined] = 1
            names = [row.tobytes() for row in words[active.numpy(), size + 1]]
            if growing is None:
                values[active, size + 1] = self._valued(members[active], kind)[:, 0]
                continue
            if not known:
                growing.add(joined)
                worth = self._worth(self._sound(growing.predict_probs()[..., self._names], members[active]), False)
                store.add(names, worth, [bool(growing.remarks)] * len(names))
            values[active, size + 1] = torch.tensor([store[name][0] for name in names], dtype=torch.float64)
        if growing is not None and not known:
            self.trained += int((sizes - 1).sum())
            self.remarks.update(growing.remarks)
        return values, sizes

    def _where(self, counts: Int[Tensor, " players"]) -> str:
        inside = self._order[counts > 0]
        names = f" (ids {listed(self.players.take(inside), len(inside))})" if 0 < len(inside) < len(counts) else ""
        return f"{self._learner.title}, trained on {len(inside)} of {len(counts)} examples{names}"

    def _sound(
        self, probs: Float64[Tensor, "coalitions queries classes"], coalitions: Int[Tensor, "coalitions players"]
    ) -> Float64[Tensor, "coalitions queries classes"]:
        """The probabilities, which are refused unless they are such; names the coalition."""
        sound = ((probs.isfinite() & (probs >= 0)).all(-1) & ((probs.sum(-1) - 1).abs() <= SLACK)).all(-1)
        if not bool(sound.all()):
            where = self._where(coalitions[int((~sound).nonzero()[0])])
            raise NumericalError(f"{where}, gave something other than probabilities that add up to 1 for each row.")
        return probs

    def _probs(self, coalitions: Int[Tensor, "coalitions players"], rows: Tensor, alike: bool = False) -> Iterator[Part]:
        """Every coalition in some part, as soon as the learner is trained on all of the part, so that a kill costs only what was being trained.

        With `alike` a single coalition too is trained as many side by side are, so that its bits do not tell how many were asked for.
        """
        size = max(1, ROOM // (8 * max(1, len(rows), coalitions.shape[1]) * self._classes))
        for part in torch.arange(len(coalitions)).split(size) if len(coalitions) else ():
            together = self._together(coalitions[part], rows) if alike or len(coalitions) > 1 else None
            if together is not None:
                yield part, *together
            elif self.spread is not None and len(part) > 1:
                yield from self._elsewhere(coalitions, part, rows)
            else:
                for place in part.split(1):
                    yield place, *self.one_by_one(coalitions[place], rows)

    def one_by_one(
        self, coalitions: Int[Tensor, "coalitions players"], rows: Tensor
    ) -> tuple[Float64[Tensor, "coalitions queries classes"], Sequence[bool]]:
        """The probabilities of these rows by the learner trained on one coalition after the other, in the order of the ids, and whether each left remarks."""
        probs, remarked = zip(*(self._predicted(counts, rows) for counts in coalitions), strict=True)
        return torch.stack(probs), remarked

    def _elsewhere(
        self, coalitions: Int[Tensor, "coalitions players"], block: Int[Tensor, " block"], rows: Tensor
    ) -> Iterator[Part]:
        """As `_probs`, of the coalitions of one block, wherever the executor puts them."""
        assert self.spread is not None
        back = self._order.argsort()
        work = pickle.dumps(
            (
                self.players.values,
                self._rows[back].numpy(),
                self._given[back].numpy(),
                self._classes,
                self._learner,
                self._seed,
                rows.numpy(),
            )
        )
        parts = {f"coalitions-{number:02d}": part for number, part in enumerate(block.tensor_split(min(CHUNKS, len(block))))}
        calls = [
            Call(
                name,
                trained_apart,
                (work, coalitions[part].numpy()),
                fingerprint(work, coalitions[part].numpy().tobytes(), __version__),
                trainings=len(part),
            )
            for name, part in parts.items()
        ]
        for name, (probs, remarked, remarks) in run_all(self.spread.pool, calls, self.spread.logs, "coalitions"):
            self.remarks.update(remarks)
            self.trained += len(probs)
            yield parts[name], torch.from_numpy(probs), remarked

    def _together(
        self, coalitions: Int[Tensor, "coalitions players"], rows: Tensor
    ) -> tuple[Float64[Tensor, "coalitions queries classes"], Sequence[bool]] | None:
        """As `_probs`, by learners trained side by side; None where the learner has no form for it, or it failed: one by one it will be told which."""
        there = torch.zeros(len(coalitions), self._classes, dtype=torch.int64).index_add_(
            1, self._labels, (coalitions > 0).long()
        )
        several = (there > 0).sum(1) > 1
        found = torch.empty(len(coalitions), len(rows), self._classes, dtype=torch.float64)
        remarked = [False] * len(coalitions)
        if bool(several.any()):
            seeds = [self._seed_of(counts) for counts in coalitions[several]]
            try:
                made = self._learner.train_many(
                    self._rows, self._labels, self._classes, coalitions[several].to(torch.float64), seeds, rows
                )
            except AssayError:
                return None
            if made is None:
                return None
            found[several] = self._sound(made[0][..., self._names], coalitions[several])
            for place, remarks in zip(several.nonzero().flatten().tolist(), made[1], strict=True):
                self.remarks.update(remarks)
                remarked[place] = len(remarks) > 0
            self.trained += len(seeds)
        for place in (~several).nonzero().flatten().tolist():
            found[place], remarked[place] = self._predicted(coalitions[place], rows)
        return found, remarked

    def _predicted(self, counts: Int[Tensor, " players"], rows: Tensor) -> tuple[Float64[Tensor, "queries classes"], bool]:
        """As `_probs`, of one coalition in the order of the ids."""
        where = self._where(counts)
        try:
            fitted = self._fitted(counts)
            probs = fitted.predict_probs(rows)
        except AssayError as error:
            kind = UsageError if isinstance(error, UsageError) else NumericalError
            raise kind(f"{where}: {error}") from error
        except Exception as error:
            # A learner may be anybody's: whatever ends it must not become a number.
            raise NumericalError(f"{where}, failed: {type(error).__name__}: {error}.") from error
        if probs.shape != (len(rows), self._classes):
            raise NumericalError(f"{where}, gave something other than probabilities that add up to 1 for each row.")
        self.remarks.update(fitted.remarks)
        return self._sound(probs[None], counts[None])[0][:, self._names], len(fitted.remarks) > 0

    def _fitted(self, counts: Int[Tensor, " players"]) -> Fitted:
        self.trained += 1
        if not bool(counts.any()):
            return Constant(torch.full((self._classes,), 1 / self._classes, dtype=torch.float64))
        return self._learner.fit(self._rows, self._labels, self._classes, counts, self._seed_of(counts))

    def _seed_of(self, counts: Int[Tensor, " players"]) -> int:
        # What a learner draws belongs to the coalition, so that nothing hangs on what was trained before it.
        words = draws.words(self._keys, self._seed, "coalition") * counts.numpy().astype(np.uint64)
        return draws.integer(self._seed, "learner", int(words.sum(dtype=np.uint64)))


def trained_apart(work: bytes, coalitions: np.ndarray) -> tuple[np.ndarray, list[bool], dict[str, int]]:
    """What `one_by_one` gives of some coalitions of a game that was sent, and the remarks.

    Raises:
        AssayError: As the learner.
    """
    with TURN:
        game, rows = _rebuilt(work)
        game.remarks.clear()
        probs, remarked = game.one_by_one(torch.from_numpy(coalitions), rows)
        return probs.numpy(), list(remarked), dict(game.remarks)


@functools.lru_cache(maxsize=1)
def _rebuilt(work: bytes) -> tuple[RetrainingGame, Tensor]:
    """The game in another process, built once for all that is asked of it."""
    ids, inputs, labels, classes, learner, seed, rows = pickle.loads(work)
    game = RetrainingGame(Ids(ids), torch.from_numpy(inputs), torch.from_numpy(labels), classes, learner, seed=seed)
    return game, torch.from_numpy(rows)


def _all_known(store: CoalitionValues, words: np.ndarray, truncate: float, whole: float) -> bool:
    """Whether the values of all coalitions of these orders are known, up to where they are truncated."""
    for row in words:
        for name in row[1:]:
            key = name.tobytes()
            if key not in store:
                return False
            if truncate and abs(store[key][0] - whole) <= truncate:
                break
    return True


def _bytes(value: Tensor | np.ndarray) -> Sequence[str | bytes]:
    array = value.contiguous().numpy() if isinstance(value, Tensor) else np.ascontiguousarray(value)
    return f"{array.dtype} {array.shape}", hashlib.blake2b(array.tobytes(), digest_size=32).digest()


def _by_first(labels: Int[Tensor, " examples"], classes: int) -> Int[Tensor, " classes"]:
    """For each class its place by the first example that has it; those that none has come last."""
    first = torch.full((classes,), len(labels)).scatter_reduce_(0, labels, torch.arange(len(labels)), "amin")
    return torch.argsort(torch.argsort(first, stable=True), stable=True)
