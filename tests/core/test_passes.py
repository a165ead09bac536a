"""What a method compares: held against permuted epochs, for every method and every variant of it."""

import pytest
import torch

from assay.core.accumulators import AbstractAccumulator, accumulate
from assay.core.errors import MissingEvidence
from assay.core.ids import Ids
from assay.core.passes import Passes
from assay.experiments.evidence import gather_logits
from assay.methods import catalogue
from exports import exported

EPOCHS, EXAMPLES, CLASSES = 14, 24, 3
DRAW = torch.Generator().manual_seed(0)
LABELS = torch.arange(EXAMPLES) % CLASSES
LOGITS = 2 * torch.randn(EPOCHS, EXAMPLES, CLASSES, generator=DRAW, dtype=torch.float64)

METHODS = [
    cls(**options)
    for name, cls in sorted(catalogue().items())
    if issubclass(cls, AbstractAccumulator)
    for options in exported("methods", name, "VARIANTS")
]


def evidence(logits, passes=None):
    made = gather_logits(Ids(range(EXAMPLES)), logits, LABELS)
    made.passes = passes
    return made


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.title)
def test_what_compares_nothing_feels_no_order_and_what_follows_epochs_does(method):
    read = method.epochs_read(EPOCHS)
    order = torch.arange(EPOCHS)
    order[read.start : read.stop] = order[read.start : read.stop].flip(0).roll(1)
    (before,), (after,) = (accumulate([method], evidence(logits)) for logits in (LOGITS, LOGITS[order]))
    same = torch.allclose(before.values, after.values, atol=1e-12)
    assert same == (method.compares != "order" or len(read) < 2)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.title)
def test_repeats_are_refused_to_what_follows_epochs_and_one_pass_to_what_compares(method):
    repeats = evidence(LOGITS, Passes("out_of_fold", repeats=True))
    in_order = evidence(LOGITS, Passes("out_of_fold"))
    accumulate([method], in_order)
    if method.compares == "order" and len(method.epochs_read(EPOCHS)) > 1:
        with pytest.raises(MissingEvidence, match="repeats without an order"):
            accumulate([method], repeats)
    else:
        accumulate([method], repeats)
    if method.fewest_epochs <= 1 and len(method.epochs_read(1)) == 1:
        one = evidence(LOGITS[:1], Passes("out_of_bag"))
        if method.compares == "nothing":
            accumulate([method], one)
        else:
            with pytest.raises(MissingEvidence, match="reads one here"):
                accumulate([method], one)


def test_what_passes_are_is_said_in_words():
    assert Passes("held_out").summary(1) == "1 pass, held out: each example is predicted by a model that was not trained on it"
    assert Passes("out_of_fold", repeats=True).summary(3).startswith("3 repeated passes, out of fold")
    assert Passes("out_of_fold").summary(1, 5).startswith("1 pass, held out, 5 folds: each example")
    assert [Passes(kind).unseen for kind in ("training", "evaluation", "out_of_fold", "out_of_bag", "held_out")] == [
        False,
        False,
        True,
        True,
        True,
    ]
