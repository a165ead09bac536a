"""Wrong attributors on purpose: each makes one mistake that real code has made. Every law must catch one, and each must be caught."""

import dataclasses
from typing import ClassVar

import torch

from assay.core.attribution import ROOM, AbstractAttributor, Block
from assay.core.method import Source
from assay.core.needs import Need
from assay.core.scores import RANK_ONLY, Direction


@dataclasses.dataclass(frozen=True)
class LastDots(AbstractAttributor):
    """<gradient of the query's loss, gradient of the example's loss> at the last model, pair by pair; right by itself."""

    name: ClassVar[str] = "last_dots"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = RANK_ONLY
    source: ClassVar[Source] = Source("none", "none")

    @property
    def query_set(self):
        return "validation"

    def attribute(self, evidence, room=ROOM):
        source, examples = evidence.checkpoints, len(evidence.ids)
        model = source.at(source.kept[-1])
        count = len(evidence.queries("validation").ids)
        step = min(self.together(room, examples), count)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            pulls = self.rows(model.queries("validation", rows), rows.start, rows.stop - rows.start)
            yield from self.blocks(rows, pulls @ self.rows(model.batches(), 0, examples).T)

    def together(self, room, examples):
        return max(1, room // (8 * examples))

    def blocks(self, rows, values):
        half = values.shape[1] // 2
        yield Block(rows, slice(0, half), values[:, :half])
        yield Block(rows, slice(half, values.shape[1]), values[:, half:])

    def rows(self, batches, first, count):
        found = {}
        for batch in batches:
            for part, gradients in batch.grads(tuple(batch.params)):
                for place, row in zip(batch.positions[part].tolist(), zip(*gradients.values(), strict=True), strict=True):
                    found[place] = torch.cat([one.flatten() for one in row])
        return torch.stack([found[first + at] for at in range(count)])


def PAIRS(method, evidence):
    """By the losses alone."""
    model = evidence.checkpoints.at(evidence.checkpoints.kept[-1])

    def gradients(batches):
        found = []
        for batch in batches:
            leaves = {name: value.detach().clone().requires_grad_() for name, value in batch.params.items()}
            for loss in batch.losses(leaves):
                whole = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
                found.append(torch.cat([one.flatten() for one in whole]))
        return found

    examples = gradients(model.batches())
    return torch.stack(
        [torch.stack([query @ example for example in examples]) for query in gradients(model.queries("validation"))]
    )


class LeavesTheTailOut(LastDots):
    """The last column is beyond a block that is counted in whole steps."""

    def blocks(self, rows, values):
        yield Block(rows, slice(0, values.shape[1] - 1), values[:, :-1])


class GivesRowsTwice(LastDots):
    """Blocks overlap by a column."""

    def blocks(self, rows, values):
        yield Block(rows, slice(0, 10), values[:, :10])
        yield Block(rows, slice(9, values.shape[1]), values[:, 9:])


class ForgetsWhereItStands(LastDots):
    """Every block of queries is centred by itself."""

    def blocks(self, rows, values):
        yield from super().blocks(rows, values - values.mean(0))


class TakesAllAtOnce(LastDots):
    """Reads nothing of how much room there is."""

    def together(self, room, examples):
        return 10**6


class ByBatch(LastDots):
    """Divides a gradient by the size of the batch that it happened to be computed in."""

    def rows(self, batches, first, count):
        batches = list(batches)
        return super().rows(iter(batches), first, count) / len(batches[0].positions)


class ByColumn(LastDots):
    """Later columns count more."""

    def blocks(self, rows, values):
        yield from super().blocks(rows, values * (1 + 0.01 * torch.arange(values.shape[1])))


class BesideTheFirst(LastDots):
    """Values are differences from the first example's, whichever that is."""

    def blocks(self, rows, values):
        yield from super().blocks(rows, values - values[:, :1])


class MeanOfMagnitudes(LastDots):
    """A shorter way to the mean that is another number."""

    def run(self, evidence):
        found = super().run(evidence)
        return dataclasses.replace(found, values=found.values.abs()) if self.reduce == "mean" else found


class Unscaled(LastDots):
    """Cosines, where products are promised."""

    def rows(self, batches, first, count):
        return torch.nn.functional.normalize(super().rows(batches, first, count), dim=1)


FAULTY = {
    LeavesTheTailOut: "blocks_cover_every_pair_once",
    GivesRowsTwice: "blocks_cover_every_pair_once",
    ForgetsWhereItStands: "blocks_of_any_size_say_the_same",
    TakesAllAtOnce: "blocks_of_any_size_say_the_same",
    ByBatch: "batches_of_any_size_say_the_same",
    ByColumn: "a_duplicated_example_gets_an_equal_column",
    BesideTheFirst: "reordering_examples_reorders_columns",
    MeanOfMagnitudes: "scores_are_the_reduced_matrix",
    Unscaled: "it_is_what_every_pair_gives_alone",
}
"""Each faulty attributor, and the law that was written against its mistake."""
