"""The laws that every attributor must pass, ours and other people's, besides those for methods."""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..core.attribution import AbstractAttributor, checked_values, reduced
from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod
from ..core.models import Batch, Model
from ..core.scoring import score
from ..replay.checkpoints import CheckpointModel
from .laws import Law, Laws, close
from .worlds import EXAMPLES, Counted, World, doubled, reordered, six, world

Pairs = Callable[[AbstractAttributor, Evidence], Tensor]
"""The values of an attributor, of shape (queries, examples), computed pair by pair."""
SMALL = 7
"""Rows of a batch where batches are small."""


def whole(method: AbstractMethod, evidence: Evidence, **given: int) -> Tensor:
    """The matrix of all queries by all examples; asserts that each pair is there once."""
    assert isinstance(method, AbstractAttributor)
    view = evidence.narrow(method.title, method.reads)
    shape = len(view.queries(method.query_set).ids), len(view.ids)
    values, seen = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.int64)
    for block in method.attribute(view, **given):
        values[block.queries, block.examples] = checked_values(method.title, block, *shape)
        seen[block.queries, block.examples] += 1
    assert bool((seen == 1).all()), f"{int((seen == 0).sum())} pairs are in no block, {int((seen > 1).sum())} in several"
    return values


def near(method: AbstractMethod, here: Tensor, there: Tensor) -> None:
    """Assert that two matrices are equal up to the order of sums."""
    close(method, here, there, rtol=1e-9, atol=1e-9 * float(there.abs().max()))


def blocks_cover_every_pair_once(method: AbstractMethod) -> None:
    """Every query by every example is in one block, as finite numbers, and there is more than one number in it."""
    values = whole(method, world().evidence())
    assert len(values.unique()) > 1, "all pairs have one value"


def blocks_of_any_size_say_the_same(method: AbstractMethod) -> None:
    """However little room there is, the values are the same, and the blocks are no larger."""
    assert isinstance(method, AbstractAttributor)
    evidence = world().evidence()
    near(method, whole(method, evidence, room=1), whole(method, evidence))
    view = evidence.narrow(method.title, method.reads)
    largest = max(block.queries.stop - block.queries.start for block in method.attribute(view, room=1))
    assert largest == 1, f"with no room to spare, {largest} queries are taken together"


class _SmallBatches:
    """A kept model whose batches have few rows."""

    def __init__(self, model: CheckpointModel):
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def batches(self) -> Iterator[Batch]:
        return self._model.batches(SMALL)  # type: ignore[return-value]

    def queries(self, name: str, rows: slice | None = None) -> Iterator[Batch]:
        return self._model.queries(name, rows, SMALL)  # type: ignore[return-value]


class _SmallBatchSource:
    def __init__(self, here: World):
        self._replay = here.replay

    def __getattr__(self, name: str) -> object:
        return getattr(self._replay, name)

    def at(self, epoch: int) -> Model:
        return _SmallBatches(self._replay.at(epoch))  # type: ignore[return-value]


def small_batches(here: World) -> Counted:
    """The evidence of a world whose kept models give few rows at a time."""
    return here.evidence(checkpoints=_SmallBatchSource(here))  # type: ignore[arg-type]


def batches_of_any_size_say_the_same(method: AbstractMethod) -> None:
    """The batch size changes no value."""
    near(method, whole(method, small_batches(world())), whole(method, world().evidence()))


def reordering_examples_reorders_columns(method: AbstractMethod) -> None:
    """The same examples in another order have the same columns in that order."""
    there, order = reordered(0)
    near(method, whole(method, there.evidence()), whole(method, world().evidence())[:, order])


def a_duplicated_example_gets_an_equal_column(method: AbstractMethod) -> None:
    """Two equal examples are worth the same to every query."""
    values = whole(method, doubled().evidence())
    near(method, values[:, :EXAMPLES], values[:, EXAMPLES:])


def scores_are_the_reduced_matrix(method: AbstractMethod) -> None:
    """Scores by mean, sum and max equal the means, sums and maxima of the matrix, however they are computed."""
    evidence = world().evidence()
    values, weights = whole(method, evidence), evidence.queries(method.query_set).weights  # type: ignore[attr-defined]
    for how, expected in (("mean", weights @ values), ("sum", values.sum(0)), ("max", values.amax(0))):
        (scores,) = score([dataclasses.replace(method, reduce=how)], world().evidence())  # type: ignore[call-arg, type-var]
        near(method, scores.values, expected)
        blocks = method.attribute(evidence.narrow(method.title, method.reads))  # type: ignore[attr-defined]
        near(method, reduced(method.title, blocks, weights, EXAMPLES, how), expected)  # type: ignore[arg-type]


def attributes(method: AbstractMethod) -> bool:
    """Whether a method, with its options, gives a value per query."""
    try:
        return isinstance(method, AbstractAttributor) and bool(method.query_set)
    except UsageError:
        return False


ATTRIBUTOR_LAWS: Laws = {
    blocks_cover_every_pair_once: attributes,
    blocks_of_any_size_say_the_same: attributes,
    batches_of_any_size_say_the_same: attributes,
    reordering_examples_reorders_columns: attributes,
    a_duplicated_example_gets_an_equal_column: attributes,
    scores_are_the_reduced_matrix: attributes,
}
"""Each law, and the methods that it applies to."""


def pair_by_pair(pairs: Pairs) -> Law:
    """The law that an attributor gives the values that `pairs` computes pair by pair."""

    def it_is_what_every_pair_gives_alone(method: AbstractMethod) -> None:
        """On six examples and on all, the matrix is what the formula gives for one query and one example after the other."""
        for here in (six(), world()):
            expected = pairs(method, here.evidence().narrow(method.title, method.reads))  # type: ignore[arg-type]
            near(method, whole(method, here.evidence()), expected)

    return it_is_what_every_pair_gives_alone


def attributor_laws(pairs: Pairs | None = None) -> Laws:
    """The laws that apply to an attributor besides those of methods.

    Args:
        pairs: Function from an attributor and evidence to its values (queries, examples), computed pair by pair.
    """
    return ATTRIBUTOR_LAWS if pairs is None else {**ATTRIBUTOR_LAWS, pair_by_pair(pairs): attributes}
