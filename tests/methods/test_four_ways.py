"""Pure function, fold in memory, fold over a run on disk, fold along the recording: one number."""

import tempfile

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load, save

from assay.core.accumulators import AbstractAccumulator, accumulate
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.core.needs import EPOCH_NEEDS, Need
from assay.experiments.evidence import gather, gather_logits
from assay.maths.divergences import error_norm
from assay.methods import catalogue
from assay.replay.live_methods import LiveMethods, live_state
from exports import exported
from methods.worlds import Facts, facts_of, in_memory, on_disk

FOLDS = {name: cls for name, cls in catalogue().items() if issubclass(cls, AbstractAccumulator)}
SAME = {"rtol": 1e-12, "atol": 1e-12}


def values_of(methods, evidence):
    return [result.values for result in accumulate(methods, evidence)]


PURE = {name: exported("methods", name, "PURE") for name in FOLDS}
"""The pure function of each accumulator: of a method, logits, labels and the probabilities of the labels."""


def options_of(name, epochs):
    """What to draw the options of an accumulator from, for recordings of so many epochs."""
    drawn = exported("methods", name, "DRAWN", None)
    if drawn is not None:
        return drawn(epochs)
    given = exported("methods", name, "VARIANTS")
    return st.sampled_from([one for one in given if FOLDS[name](**one).fewest_epochs <= epochs] or [{}])


@st.composite
def worlds(draw):
    epochs, examples, classes = draw(st.integers(4, 9)), draw(st.integers(3, 12)), draw(st.integers(2, 5))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    # Sharp enough for some to saturate, and rounded so that logits tie.
    logits = (torch.randn(epochs, examples, classes, generator=draws) * draw(st.sampled_from([0.5, 3.0, 30.0]))).round(decimals=1)
    labels = torch.randint(classes, (examples,), generator=draws)
    labels[:2] = torch.tensor([0, 1])
    methods = [cls(**draw(options_of(name, epochs))) for name, cls in FOLDS.items()]
    return logits, labels, methods


def agree(one, two, method):
    torch.testing.assert_close(one, two, **SAME, msg=lambda text: f"{method.title}: {text}")


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(worlds())
def test_pure_function_and_fold_in_memory(world):
    logits, labels, methods = world
    logits = logits.double()
    target = logits.softmax(-1)[:, torch.arange(len(labels)), labels]
    evidence = gather_logits(Ids(range(len(labels))), logits, labels)
    for method, values in zip(methods, values_of(methods, evidence), strict=True):
        assert values.dtype == torch.float64
        agree(values, PURE[method.name](method, logits, labels, target), method)


def stored(run):
    """The facts of a run as they were stored, and the probabilities of the logits beside them."""
    facts = {need: torch.stack([run.shard(e).read(need.value) for e in range(run.epochs)]) for need in EPOCH_NEEDS}
    return {need: fact if need is Need.CORRECT else fact.double() for need, fact in facts.items()}


@hypothesis.settings(max_examples=5, deadline=None)
@hypothesis.given(worlds(), st.data())
def test_fold_on_disk_and_along_the_recording(world, data):
    logits, labels, methods = world
    stop = data.draw(st.integers(1, len(logits)), label="epochs before the recording is stopped and resumed")
    with tempfile.TemporaryDirectory() as folder:
        # Which epoch is the last one, and is to be left out, shows at the end only.
        late = [m for m in methods if m.name == "dyn_unc" and m.drop_last and m.epochs is None]
        for method in late:
            with pytest.raises(UsageError, match="cannot run live"):
                LiveMethods([method])
        run = on_disk(f"{folder}/run", logits, labels, live=[m for m in methods if m not in late], stop=stop)
        here = values_of(methods, in_memory(stored(run), classes=logits.shape[-1]))
        there = values_of(methods, gather(run))
        for method, memory, disk in zip(methods, here, there, strict=True):
            assert torch.equal(memory, disk), method.title
            if method not in late:
                agree(method.compute(live_state(run, method)), disk, method)
        # Single precision on disk is the only difference to the pure functions of the logits.
        exact = values_of(methods, gather_logits(run.ids, logits.double(), labels))
        for method, disk, double in zip(methods, there, exact, strict=True):
            torch.testing.assert_close(disk, double, rtol=1e-5, atol=2e-5, msg=lambda text, m=method: f"{m.title}: {text}")
        facts = stored(run)
        norms = error_norm(logits.double().softmax(-1), labels)
        torch.testing.assert_close(facts[Need.ERROR_NORMS], norms, rtol=0, atol=1e-6)


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(worlds(), st.data())
def test_a_state_saved_and_loaded_goes_on_as_if_nothing_had_happened(world, data):
    logits, labels, methods = world
    facts, classes = facts_of(logits.double(), labels), logits.shape[-1]
    evidence = in_memory(facts, classes=classes)
    whole = values_of(methods, evidence)
    stop = data.draw(st.integers(0, len(logits)))
    for method, expected in zip(methods, whole, strict=True):
        state = method.start(len(labels), classes)
        for epoch in method.epochs_read(len(logits)):
            if epoch == stop:
                state = load(save(state))
            method.update(state, evidence.epoch(epoch))
        assert torch.equal(method.compute(state), expected), method.title
        assert torch.equal(method.compute(load(save(state))), expected), method.title


def test_one_pass_reads_each_fact_once():
    logits, labels = torch.randn(11, 6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    counted = []

    class Counted(Facts):
        def read(self, epoch, need):
            counted.append((epoch, need))
            return super().read(epoch, need)

    from assay.core.evidence import Evidence

    evidence = Evidence(Ids(range(6)), 3, epochs=Counted(facts_of(logits, labels)))
    values_of([cls() for cls in FOLDS.values()], evidence)
    assert len(counted) == len(set(counted)) and (10, Need.LOGITS) in counted
