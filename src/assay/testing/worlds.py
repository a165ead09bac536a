"""Small recordings on which the laws run methods: in memory, with the facts that a run would hold, and with a small net trained for them."""

import collections
import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..core.evidence import Evidence, ReplayedFacts
from ..core.features import Features, FeatureSpec
from ..core.held_out import HeldOut
from ..core.ids import Ids
from ..core.method import AbstractMethod
from ..core.models import ModelSource
from ..core.needs import EPOCH_NEEDS, Need
from ..core.scores import Scores
from ..core.scoring import score
from ..experiments.games import game_of
from ..maths.observations import observe
from ..replay.replay import Replay
from .training import DIMS, trained

EXAMPLES, EPOCHS, CLASSES = 64, 14, 4
WRONG, HARD = slice(0, 10), slice(10, 26)

TRAINED = frozenset({Need.STEPS, Need.CHECKPOINTS})
BESIDE = TRAINED | {Need.FEATURES}
HELD_OUT = "validation"
"""Name of the target."""
EVERYTHING = EPOCH_NEEDS | BESIDE | {Need.LABELS, Need.MEAN_PROBS, Need.VALIDATION_LOSSES, Need.GAME, Need.HELD_OUT}


class Facts:
    """Facts of the epochs as tensors, by need; handed out without a copy, so that a method that writes into them is detected."""

    def __init__(self, facts: dict[Need, Tensor], validation: Tensor | None = None):
        self.facts, self.holds = facts, frozenset(facts)
        self._validation, self.validated = validation, validation is not None
        self.recorded = len(next(iter(facts.values())))
        self.reads: set[tuple[int, Need]] = set()

    def read(self, epoch: int, need: Need) -> Tensor:
        """One fact of one epoch."""
        self.reads.add((epoch, need))
        return self.facts[need][epoch]

    def validation_losses(self, epoch: int) -> Tensor:
        """Mean loss of the validation examples of each class."""
        assert self._validation is not None
        return self._validation[epoch]


def facts_of(logits: Tensor, labels: Tensor) -> dict[Need, Tensor]:
    """Every epoch fact of these logits, in their precision."""
    rows = observe(logits.flatten(0, 1), labels.repeat(len(logits)))
    facts = {Need(name): fact.view(logits.shape[:2]) for name, fact in rows.items()}  # type: ignore[call-arg]
    return facts | {Need.LOGITS: logits.contiguous()}


class Counted(Evidence):
    """Evidence that records which kinds of facts are read, also through its narrowed views."""

    reads: "collections.Counter[Need]"

    @classmethod
    def of(cls, evidence: Evidence) -> "Counted":
        """The same evidence, counting from now on."""
        view = cls._like(evidence)
        view.reads = collections.Counter()
        return view

    @classmethod
    def _like(cls, evidence: Evidence) -> "Counted":
        view = object.__new__(cls)
        vars(view).update(vars(evidence))
        return view

    def narrow(self, reader: str, needs: frozenset[Need]) -> "Counted":
        """The same facts, only those in `needs`, counted together with these."""
        view = self._like(super().narrow(reader, needs))
        view.reads = self.reads
        return view

    def _take(self, need: Need):
        found = super()._take(need)
        self.reads[need] += 1
        return found

    @property
    def facts(self) -> dict[Need, Tensor]:
        """The epoch facts that are handed out, by kind."""
        return self._source.facts if isinstance(self._source, Facts) else {}

    @property
    def kinds_read(self) -> frozenset[Need]:
        """The kinds of facts that were read, those of epochs among them."""
        return frozenset(self.reads) | {need for _, need in self.epochs_read}

    @property
    def epochs_read(self) -> set[tuple[int, Need]]:
        """Which fact of which epoch was read."""
        return self._source.reads if isinstance(self._source, Facts) else set()


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """A small recording of some examples; the first ones are labelled wrong, the next are hard, which a method is not told.

    `inputs` and `batches` are what a small net is trained on, for methods that replay training; `held_out` is its target.
    """

    ids: Ids
    labels: Tensor
    logits: Tensor
    inputs: Tensor
    batches: tuple[tuple[Tensor, ...], ...]
    held_out: tuple[Tensor, Tensor]

    @functools.cached_property
    def facts(self) -> dict[Need, Tensor]:
        """All kinds of facts of all epochs."""
        return facts_of(self.logits, self.labels)

    @functools.cached_property
    def validation(self) -> Tensor:
        """Mean losses of validation examples by epoch and class, which follow those of the examples that are learned."""
        losses = self.facts[Need.LOSSES]
        learned = losses.mean(0) <= losses.mean(0).median()
        rows = []
        for one in range(int(self.logits.shape[-1])):
            here = learned & (self.labels == one)
            # In the order of the losses, so that the order of the examples changes no bit.
            rows.append(
                losses[:, here].sort(1).values.mean(1) if bool(here.any()) else torch.zeros(len(losses), dtype=torch.float64)
            )
        return torch.stack(rows, 1)

    @functools.cached_property
    def replay(self) -> Replay:
        """A small net trained on the inputs, to be trained again."""
        return trained(self.ids, self.inputs, self.labels, self.held_out, int(self.logits.shape[-1]), self.batches)

    def evidence(
        self,
        holds: frozenset[Need] = EVERYTHING,
        recorded: int | None = None,
        facts: Mapping[Need, Tensor] | None = None,
        checkpoints: ModelSource | None = None,
    ) -> Counted:
        """The evidence of a run that recorded these examples.

        Args:
            holds: The kinds of facts that are there.
            recorded: How many epochs; None for all.
            facts: Epoch facts to use instead of those of the logits.
            checkpoints: Kept models to use instead of those of the training.
        """
        # A copy each time: a method that writes into its input must not spoil the next law.
        shown = {need: fact[:recorded].clone() for need, fact in (facts or self.facts).items() if need in holds}
        probs = self.logits.softmax(-1).mean(0)
        held = HeldOut.of(HELD_OUT, *self.held_out, int(self.logits.shape[-1]))
        there = Counted.of(
            Evidence(
                self.ids,
                int(self.logits.shape[-1]),
                labels=self.labels if Need.LABELS in holds else None,
                epochs=Facts(shown, self.validation) if shown else None,
                mean_probs=probs if Need.MEAN_PROBS in holds else None,
                inputs=self.inputs.clone() if Need.FEATURES in holds else None,
                replayed=ReplayedFacts(
                    steps=self.replay if Need.STEPS in holds else None,  # type: ignore[arg-type]
                    checkpoints=checkpoints or self.replay if Need.CHECKPOINTS in holds else None,  # type: ignore[arg-type]
                    features=self if Need.FEATURES in holds else None,
                ),
                games=game_of if Need.GAME in holds else None,
            ).beside({HELD_OUT: held} if Need.HELD_OUT in holds else {})
        )
        return there.narrow("this world", holds & there.holds)

    def features(self, spec: FeatureSpec) -> Features:
        """Features from the kept models, which are trained when features are first asked for."""
        return self.replay.features(spec)

    def query_features(self, spec: FeatureSpec, name: str) -> Features:
        """Features of the rows of a target."""
        return self.replay.query_features(spec, name)

    def take(self, order: Tensor) -> "World":
        """The same examples in another order, trained on in the same batches."""
        now = order.argsort()
        batches = tuple(tuple(now[batch] for batch in epoch) for epoch in self.batches)
        return World(self.ids.take(order), self.labels[order], self.logits[:, order], self.inputs[order], batches, self.held_out)

    def scores(self, method: AbstractMethod) -> Scores:
        """The scores of a method, computed anew."""
        return score([method], self.evidence(holds=EVERYTHING if method.reads & TRAINED else EVERYTHING - TRAINED))[0]

    def say(self, method: AbstractMethod) -> Tensor:
        """The values of a method, computed anew: those of `scores`, without ids."""
        return self.scores(method).values

    @functools.cached_property
    def _said(self) -> dict[object, Tensor]:
        return {}

    def base(self, method: AbstractMethod) -> Tensor:
        """The values of a method as they were the first time that a law asked."""
        key = type(method), method.title
        if key not in self._said:
            self._said[key] = self.say(method)
        return self._said[key].clone()


@functools.cache
def world(seed: int = 0) -> World:
    """A small recording: easy examples are learned early; hard ones waver between two classes to the end; wrong ones are learned as their true class."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randint(CLASSES, (EXAMPLES,), generator=draw)
    given = true.clone()
    given[WRONG] = (true[WRONG] + 1) % CLASSES
    pull = torch.linspace(3.0, 8.0, EPOCHS, dtype=torch.float64)[:, None, None]
    logits = pull * torch.nn.functional.one_hot(true, CLASSES)
    next_to_it = torch.nn.functional.one_hot((true + 1) % CLASSES, CLASSES)
    logits[:, HARD] = 3.0 * (torch.nn.functional.one_hot(true, CLASSES) + next_to_it)[HARD].double()
    noise = torch.randn(EPOCHS, EXAMPLES, CLASSES, generator=draw, dtype=torch.float64)
    noise[:, HARD] *= 2
    logits = logits + noise
    ids = Ids(np.random.default_rng(seed).choice(10_000, EXAMPLES, replace=False) - 500)
    centres = 2 * torch.randn(CLASSES, DIMS, generator=draw, dtype=torch.float64)
    inputs = centres[true] + 0.3 * torch.randn(EXAMPLES, DIMS, generator=draw, dtype=torch.float64)
    inputs[HARD] = (inputs[HARD] + centres[(true[HARD] + 1) % CLASSES]) / 2
    held = torch.arange(4 * CLASSES) % CLASSES
    held_out = centres[held] + 0.3 * torch.randn(len(held), DIMS, generator=draw, dtype=torch.float64), held
    batches = tuple(torch.randperm(EXAMPLES, generator=draw).split(32) for _ in range(3))
    return World(ids, given, logits, inputs, batches, held_out)


@functools.cache
def saturated() -> World:
    """A small recording with constant, certain, certainly wrong, tied and wildly changing outputs."""
    logits = torch.zeros(EPOCHS, 6, CLASSES, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    logits[:, 1, 1] = logits[:, 2, 0] = 900.0
    logits[:, 3, 2:] = 50.0
    logits[::2, 4, 0] = logits[1::2, 4, 3] = 900.0
    logits[0, 5, 1] = logits[1:, 5, 2] = 1e4
    inputs = torch.eye(6, DIMS, dtype=torch.float64)
    inputs[:2] = 0
    inputs[2:] *= 50
    batches = tuple(torch.arange(6).split(3) for _ in range(3))
    return World(Ids(range(6)), labels, logits, inputs, batches, (inputs[3:] / 2, labels[3:].flip(0)))


@functools.cache
def reordered(seed: int) -> tuple[World, Tensor]:
    """The examples of `world()` in another order, and the order."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(EXAMPLES))
    return world().take(order), order


@functools.cache
def renamed() -> World:
    """`world()` with other numbers for the same classes."""
    here, name = world(), torch.tensor([2, 0, 3, 1])
    inputs, labels = here.held_out
    return dataclasses.replace(
        here, labels=name[here.labels], logits=here.logits[..., name.argsort()], held_out=(inputs, name[labels])
    )


@functools.cache
def doubled() -> World:
    """Every example of `world()` twice, next to each other in the batches."""
    here, twins = world(), torch.cat([torch.arange(EXAMPLES), torch.arange(EXAMPLES)])
    batches = tuple(tuple(torch.stack([batch, batch + EXAMPLES], 1).flatten() for batch in epoch) for epoch in here.batches)
    ids = Ids(range(2 * EXAMPLES))
    return World(ids, here.labels[twins], here.logits[:, twins], here.inputs[twins], batches, here.held_out)


@functools.cache
def named() -> World:
    """`world()` with texts for ids."""
    return dataclasses.replace(world(), ids=Ids([f"photo {number}.png" for number in world().ids]))


@functools.cache
def six() -> World:
    """Six examples of two classes, one of each labelled wrong: few enough to go through all subsets and orders of them."""
    draw = torch.Generator().manual_seed(0)
    true = torch.tensor([0, 0, 0, 1, 1, 1])
    given = torch.tensor([0, 0, 1, 1, 1, 0])
    centres = 2 * torch.randn(2, DIMS, generator=draw, dtype=torch.float64)
    inputs = centres[true] + 0.3 * torch.randn(6, DIMS, generator=draw, dtype=torch.float64)
    logits = 3.0 * torch.nn.functional.one_hot(true, 2) + torch.randn(EPOCHS, 6, 2, generator=draw, dtype=torch.float64)
    held_out = centres[torch.tensor([0, 1])], torch.tensor([0, 1])
    return World(Ids(range(6)), given, logits, inputs, tuple((torch.arange(6),) for _ in range(3)), held_out)
