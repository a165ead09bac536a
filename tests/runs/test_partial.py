"""Epochs that train on a part of the examples, or on some several times: what a run says of them, and who may read it."""

import math
import re

import pytest
import torch

from assay.core.accumulators import AbstractAccumulator
from assay.core.errors import Mismatch, MissingEvidence, UsageError, listed
from assay.core.needs import EPOCH_NEEDS, Need
from assay.core.scoring import score
from assay.experiments.evidence import gather, gather_together
from assay.maths.observations import observe
from assay.methods import catalogue
from assay.methods.aum import AUM
from assay.methods.confidence import Confidence
from assay.methods.correctness import Correctness
from assay.methods.loss import Loss
from assay.methods.threshold_closeness import ThresholdCloseness
from assay.methods.variability import Variability
from assay.replay.live_methods import LiveMethods
from assay.runs.recorder import Partial, Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from runs.worlds import CLASSES, EXAMPLES, IDS, LABELS, logits_of
from settings import grouped_recorder

VISITS = ((0, 1, 2, 3, 3, 5), tuple(range(EXAMPLES)), (7, 8, 7, 9, 7, 0))
"""Positions that each epoch trains on, in steps of two."""


def visit_logits(epoch, visit):
    """What the model says at one visit, another thing at each."""
    return 2 * torch.randn(1, CLASSES, generator=torch.Generator().manual_seed(100 * epoch + visit))


def recorded(folder, visits=VISITS, weight=None, **given):
    with Recorder(
        folder, IDS, **grouped_recorder({"partial": True, "labels": LABELS, "checkpoints": "none", **given})
    ) as recorder:
        for epoch, places in enumerate(visits):
            recorder.begin()
            for number, part in enumerate(torch.tensor(places).split(2)):
                recorder.step(part, [0.1], weights=None if weight is None else weight(epoch, part))
                logits = torch.cat([visit_logits(epoch, 2 * number + row) for row in range(len(part))])
                if recorder.header.view == "train":
                    recorder.observe(part, logits, LABELS[part])
            if recorder.header.view == "eval":
                recorder.observe(torch.arange(EXAMPLES), logits_of(epoch), LABELS)
            recorder.commit()
    return Run(folder)


@pytest.mark.parametrize("flush", [1, 2**21])
def test_facts_are_those_of_the_last_visit_and_missing_without_one(tmp_path, monkeypatch, flush):
    monkeypatch.setattr("assay.runs.observations.FLUSH_BYTES", flush)
    run = recorded(tmp_path)
    for epoch, places in enumerate(VISITS):
        last = {place: visit for visit, place in enumerate(places)}
        shard = run.shard(epoch)
        for name in EPOCH_NEEDS - {Need.LOGITS}:
            facts = shard.read(name.value)
            for place in range(EXAMPLES):
                if place in last:
                    want = observe(visit_logits(epoch, last[place]), LABELS[place : place + 1])[name.value][0]
                    torch.testing.assert_close(facts[place], want)
                else:
                    assert not facts[place] if name is Need.CORRECT else facts[place].isnan()
        assert run.visits_in(epoch).tolist() == [places.count(place) for place in range(EXAMPLES)]
        missing = run.missing(epoch)
        absent = [place not in last for place in range(EXAMPLES)]
        assert missing is None if not any(absent) else missing.tolist() == absent
    assert run.check() > 0


def test_an_epoch_that_visits_each_once_is_written_as_ever(tmp_path):
    plain = recorded(tmp_path / "plain", VISITS[1:2], partial=False)
    partial = recorded(tmp_path / "partial", VISITS[1:2], weight=lambda epoch, part: torch.ones(len(part)))
    assert plain.commits[0].shard == partial.commits[0].shard and plain.fingerprint == partial.fingerprint


def test_weights_are_kept_to_the_bit(tmp_path):
    run = recorded(tmp_path, weight=lambda epoch, part: 1 / (1 + part.to(torch.float64)) if epoch else None)
    assert run.weights(0) is None
    assert run.weights(1).tolist() == [1 / (1 + place) for place in range(EXAMPLES)]
    assert run.weights(2)[[7, 8, 9, 0]].tolist() == [1 / 8, 1 / 9, 1 / 10, 1.0] and int((run.weights(2) > 0).sum()) == 4


@pytest.mark.parametrize(
    "weights",
    [[1.0, -1.0], [math.nan, 1.0], [math.inf, 1.0], [2.0, 1.0]],
    ids=["negative", "nan", "infinite", "another than before"],
)
def test_a_weight_that_is_none_is_refused(tmp_path, weights):
    with Recorder(tmp_path, IDS, partial=Partial()) as recorder:
        recorder.begin()
        recorder.step(torch.tensor([0, 2]), [0.1])
        with pytest.raises(UsageError, match="Give each example one weight of 0 or more per epoch"):
            recorder.step(torch.tensor([0, 1]), [0.1], weights=torch.tensor(weights))


@pytest.mark.parametrize("visits", [VISITS[0], (*range(EXAMPLES), 4)])
def test_it_is_refused_unless_it_is_meant(tmp_path, visits):
    with pytest.raises(UsageError, match=r"came more than once|were not visited") as told:
        recorded(tmp_path, [visits], partial=False, labels=None)
    assert "partial=assay.runs.recorder.Partial()." in str(told.value)


def test_labels_that_nobody_told_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match=r"whose labels are not known yet.*Give partial=assay\.runs\.recorder\.Partial\(labels="):
        recorded(tmp_path, VISITS[:1], labels=None)
    assert recorded(tmp_path / "after", VISITS[1:], labels=None).epochs == 2


def test_two_labels_in_one_epoch_are_refused(tmp_path):
    for flush in (False, True):
        with Recorder(tmp_path / str(flush), IDS, partial=Partial()) as recorder:
            recorder.begin()
            recorder.observe(torch.tensor([0, 1]), logits_of(0)[:2], torch.tensor([0, 1]))
            with pytest.raises(UsageError, match="the label of id picture 00 was"):
                if flush:
                    recorder._flush()
                recorder.observe(torch.tensor([0]), logits_of(0)[:1], torch.tensor([2]))
                recorder._flush()


def test_an_epoch_of_nothing_is_refused(tmp_path):
    with Recorder(tmp_path, IDS, partial=Partial(labels=LABELS)) as recorder:
        recorder.begin()
        with pytest.raises(UsageError, match="trained on no example"):
            recorder.commit()


def test_a_clean_pass_misses_nothing(tmp_path):
    run = recorded(tmp_path, view="eval")
    assert [run.missing(epoch) for epoch in range(3)] == [None] * 3
    assert score([AUM()], gather(run))[0].values.isfinite().all()


def test_resuming_asks_for_the_same(tmp_path):
    recorded(tmp_path)
    with pytest.raises(Mismatch, match="partial=True, not False"):
        Recorder(tmp_path, IDS, Recording(checkpoints="none"), resume=True)


FOLDS = [method for cls in catalogue().values() if isinstance(method := cls(), AbstractAccumulator)]


@pytest.mark.parametrize("method", [one for one in FOLDS if not one.copes_with_partial], ids=lambda method: method.name)
def test_a_fold_over_epochs_is_refused_where_facts_are_missing(tmp_path, method):
    many = VISITS * 12
    run = recorded(tmp_path, many, keep_logits=True)
    epochs = [epoch for epoch in method.epochs_read(len(many)) if run.missing(epoch) is not None]
    if not epochs:
        assert score([method], gather(run))[0].values.isfinite().all()
        return
    named = re.escape(listed(epochs, len(epochs)))
    with pytest.raises(
        MissingEvidence, match=rf"{method.name}.* reads epochs that .* in epochs? {named} the facts .*view='eval'"
    ):
        score([method], gather(run))


def test_whoever_else_reads_such_a_fact_is_refused(tmp_path):
    evidence = gather(recorded(tmp_path, keep_logits=True))
    for name in ("target_probs", "logits", "probs", "correct"):
        with pytest.raises(MissingEvidence, match=r"Epoch 0 has no .* of 18 of 23 examples"):
            getattr(evidence.epoch(0), name)
    assert evidence.epoch(1).target_probs.isfinite().all()


def test_a_mean_over_the_epochs_that_trained_on_the_example(tmp_path):
    run = recorded(tmp_path)
    by_hand = torch.zeros(EXAMPLES, dtype=torch.float64)
    for place in range(EXAMPLES):
        values = []
        for epoch, places in enumerate(VISITS):
            if place in places:
                visit = max(number for number, other in enumerate(places) if other == place)
                values.append(float(visit_logits(epoch, visit).softmax(-1)[0, LABELS[place]]))
        by_hand[place] = sum(values) / len(values)
    torch.testing.assert_close(score([Confidence()], gather(run))[0].values, by_hand, rtol=1e-6, atol=0)
    (few,) = score([Confidence(epochs=1)], gather(run))
    assert set(few.ids.values) == {IDS.values[place] for place in VISITS[0]} and len(few.unscored) == EXAMPLES - len(few.ids)
    few_by_hand = {place: float(few.values[few.ids.values.tolist().index(IDS.values[place])]) for place in VISITS[0]}
    assert few_by_hand[5] == pytest.approx(float(visit_logits(0, 5).softmax(-1)[0, LABELS[5]]), rel=1e-6)


def test_a_sum_over_epochs_is_none_of_those_that_are_missing(tmp_path):
    run = recorded(tmp_path)
    assert len(score([AUM(), Correctness(), Loss(), ThresholdCloseness()], gather(run))) == 4
    with pytest.raises(MissingEvidence, match="aum:reduce=sum reads epochs that did not train on every example"):
        score([AUM(reduce="sum")], gather(run))


def test_mean_probabilities_are_over_the_epochs_that_trained_on_the_example(tmp_path):
    run = recorded(tmp_path)
    means = gather_together([run]).mean_probs
    torch.testing.assert_close(means.sum(1), torch.ones(EXAMPLES, dtype=torch.float64))
    torch.testing.assert_close(
        means.gather(1, LABELS[:, None])[:, 0], score([Confidence()], gather(run))[0].values, rtol=1e-6, atol=0
    )
    half = recorded(tmp_path / "half", VISITS[::2])
    with pytest.raises(MissingEvidence, match="no mean probabilities of 15 examples"):
        half.mean_probs()


def test_methods_that_run_along_stop_where_facts_are_missing_and_those_that_cope_go_on(tmp_path):
    with pytest.warns(
        UserWarning, match="variability stopped running along in epoch 0: Epoch 0 has no `target_probs` of 18 of 23"
    ):
        run = recorded(tmp_path, live=LiveMethods([Variability(), Confidence()]))
    assert list(run.stopped()) == ["variability"]
    live = run.live_states("confidence")
    state = {name.removeprefix("confidence|"): live.read(name) for name in live.sums if name.startswith("confidence|")}
    assert torch.equal(Confidence().compute(state), score([Confidence()], gather(run))[0].values)


@pytest.mark.parametrize(
    ("updates", "want"),
    [((1, 1, 1), [1, 1, 1]), ((0, 0, 1, 0, 1), [3, 2]), ((2, 0, 1), [1, 1, 2]), ((0, 1, 0), [2]), ((0, 0), [])],
)
def test_batches_of_each_optimizer_step(tmp_path, updates, want):
    with Recorder(tmp_path, IDS, Recording(view="eval", checkpoints="none")) as recorder:
        recorder.begin()
        for count in updates:
            recorder.step(torch.arange(EXAMPLES), [0.1], updates=count)
        recorder.observe(torch.arange(EXAMPLES), logits_of(0), LABELS)
        recorder.commit()
    assert Run(tmp_path).micro_batches(0) == want
