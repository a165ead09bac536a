"""What methods cost that train a learner on parts of the examples: their trainings are counted by playing without training, and a few are measured."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.errors import UsageError
from ..core.game_method import BLOCK
from ..core.learner import AbstractLearner, Growing
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..learners import parse as parse_learner
from ..methods import catalogue, parse
from ..replay.loop import Loop
from ..replay.targets import Given
from ..runs.coalitions import CoalitionValues, record_size
from ..runs.run import Run
from .estimate import LONG, Cost
from .games import GamesBy, RetrainingGame
from .request import Request
from .scorable import plays
from .score import served

SHORT = 1.0
"""Seconds of a first training below which it is measured again, without what was set up in it."""
POINTS = 5
"""Sizes at which a learner that grows along orders is measured."""
STOPPING = ("error", "truncate")
"""Options that end a game early, by values that are not known before."""


class CountedGame(RetrainingGame):
    """Game in which every coalition is worth 0, and nothing is trained until it is asked what a training takes."""

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self._asked_for: set[bytes] = set()
        self._orders: Tensor = torch.empty(0, len(self.players), dtype=torch.int64)
        self._paths_asked = 0
        self._largest: tuple[Tensor, Tensor, bool] | None = None
        self._width = 1

    def path_values(
        self, orders: Int[Tensor, "orders players"], truncate: float = 0.0
    ) -> tuple[Float64[Tensor, "orders sizes"], Int[Tensor, " orders"]]:
        """Values of 0."""
        self._paths_asked += len(orders)
        if len(orders) > len(self._orders):
            self._orders = orders[:BLOCK]
        sizes = len(self.players) + 1
        return torch.zeros(len(orders), sizes, dtype=torch.float64), torch.full((len(orders),), sizes)

    def _known_or_trained(
        self, coalitions: Int[Tensor, "coalitions players"], store: CoalitionValues, rows: Tensor, worth: Any, alike: bool = False
    ) -> Float64[Tensor, "coalitions parts"]:
        self._asked_for.update(self._named(coalitions))
        if self._largest is None or len(coalitions) > len(self._largest[0]):
            spread = torch.linspace(0, len(coalitions) - 1, min(BLOCK, len(coalitions))).round().long()
            self._largest, self._width = (coalitions[spread], rows, alike), store.width
        return torch.zeros(len(coalitions), store.width, dtype=torch.float64)

    @property
    def asked(self) -> int:
        """How many trainings it takes at most."""
        return len(self._asked_for) + self._paths_asked * len(self.players)

    @property
    def bytes(self) -> int:
        """What the values take on disk."""
        return self.asked * record_size(self._width)

    def seconds(self) -> tuple[float, bool]:
        """Seconds of one training, and whether it can be trained elsewhere than in this process, one by one.

        Raises:
            AssayError: As the learner.
        """
        if not self._paths_asked:
            assert self._largest is not None
            coalitions, rows, alike = self._largest
            return self._seconds_of([coalitions], rows, alike)
        places, rows = self._order.argsort()[self._orders], self._held.rows.to(self._rows.dtype)
        growing = self._learner.grow(self._rows, self._labels, self._classes, len(places), rows)
        if growing is None:
            groups = []
            for size in torch.linspace(1, places.shape[1], POINTS).round().long().tolist():
                groups.append(torch.zeros(places.shape, dtype=torch.int64).scatter_(1, places[:, :size], 1))
            return self._seconds_of(groups, rows, False)
        return _grown(growing, places) / len(places), False

    def _seconds_of(self, groups: Sequence[Int[Tensor, "coalitions players"]], rows: Tensor, alike: bool) -> tuple[float, bool]:
        """Seconds of one of these trainings, of which the game asks for each group together, and whether they are trained one by one."""

        def spent(coalitions: Tensor) -> float:
            began = time.perf_counter()
            for _ in self._probs(coalitions, rows, alike):
                pass
            return time.perf_counter() - began

        # The last are the largest where they grow.
        last = groups[-1][-1:]
        one = spent(last)
        if one < SHORT:
            one = spent(last)
        if type(self._learner).train_many is AbstractLearner.train_many:
            each = torch.cat(list(groups))
            number = min(len(each), max(1, int(LONG / one)))
            # From the small to the large ones, so that their mean is that of all.
            part = each[torch.linspace(0, len(each) - 1, number).round().long()] if number > 1 else last
            return (one if number == 1 else spent(part) / number), True
        took, trained = 0.0, 0
        for group in reversed(groups):
            took, trained = took + spent(group), trained + len(group)
            if took > LONG:
                break
        return took / trained, False


def _grown(growing: Growing, places: Int[Tensor, "orders players"]) -> float:
    """Seconds in which all of these orders grow by one example: the mean of what it takes at a few sizes, up to that which is reached in time."""
    sizes = {round((number + 0.5) / POINTS * places.shape[1]) for number in range(POINTS)}
    began, settled, spent = time.perf_counter(), False, list[float]()
    for size, joined in enumerate(places.T):
        before = time.perf_counter()
        growing.add(joined)
        if settled:
            growing.predict_probs()
            spent.append(time.perf_counter() - before)
            settled = False
        elif size + 1 in sizes or time.perf_counter() - began > LONG:
            # In the game each was trained with an example less just before.
            growing.predict_probs()
            settled = True
        if spent and time.perf_counter() - began > LONG:
            break
    # The sizes that were not reached take as long at least as the last one that was.
    return sum(spent + spent[-1:] * (POINTS - len(spent))) / max(POINTS, len(spent))


@checked_arguments
def estimate_games(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    *,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> list[Cost]:
    """What methods cost that train a learner on parts of the examples: shapley, banzhaf, data_oob and their like.

        costs = assay.estimate_games("runs/digits", "shapley:learner=logistic,permutations=50")

    Trainings are counted by playing the game without training, up to its last draw: options that stop it earlier (`error`, `truncate`) are left out, so that it
    takes at most as many. A few are measured, many side by side or along growing parts of the examples where the learner can, as in the game.

    Args:
        run: The run.
        methods: One or several that train a learner.
        loop, targets, inputs: As `score` takes them.

    Raises:
        UsageError: A method trains no learner, or is made of several methods.
        AssayError: As `score`.
    """
    run = run if isinstance(run, Run) else Run(run)
    listed = [methods] if isinstance(methods, (str, AbstractMethod)) else list(methods)
    return [_cost(run, parse(one), loop, targets, inputs) for one in listed]


def _cost(
    run: Run,
    method: AbstractMethod,
    loop: Loop | None,
    targets: Mapping[str, Given] | Sequence[str] | None,
    inputs: Mapping[str, Any] | None,
) -> Cost:
    """What one method costs."""
    if not plays(method):
        # What is made of other methods reads what they do.
        able = [name for name, cls in catalogue().items() if isinstance(cls.reads, frozenset) and Need.GAME in cls.reads]
        raise UsageError(
            f"{method.title} trains no learner on parts of the examples, so that there is nothing to count; these do: {', '.join(able)}."
        )
    if method.parts != (method,):
        inside = ", ".join(one.title for one in method.parts if plays(one))
        raise UsageError(f"{method.title} is made of other methods; name those that train a learner: {inside}.")
    made: list[CountedGame] = []

    def counted(ids, rows, labels, classes, learner, valuation=None) -> CountedGame:
        made.append(CountedGame(ids, rows, labels, classes, parse_learner(learner), valuation))
        return made[-1]

    stopping = {field.name: 0.0 for field in dataclasses.fields(method) if field.name in STOPPING}  # type: ignore[arg-type]
    request = Request(strict=True, loop=loop, targets=targets, inputs=inputs, execution=GamesBy(maker=counted))
    served(run, [dataclasses.replace(method, **stopping)], request, joined=False)  # type: ignore[type-var]
    trainings = sum(one.asked for one in made)
    measured = [(one.asked, *one.seconds()) for one in made]
    seconds = sum(asked * took for asked, took, _ in measured) / max(1, trainings)
    apart = all(alone for *_, alone in measured)
    return Cost(method.title, trainings, 1, seconds, sum(one.bytes for one in made), torch.get_num_threads(), apart)
