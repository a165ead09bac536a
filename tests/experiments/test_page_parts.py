"""What a page computes when it is made: agreement with intervals, the count, probes, near duplicates, the map."""

import dataclasses

import numpy as np
import pytest
import torch

import assay
from assay.core import wrong_labels
from assay.core.errors import Mismatch, RunError, UsageError
from assay.core.features import FeatureSpec
from assay.core.lineage import Lineage
from assay.core.probe import Probe, ProbedMethod
from assay.core.report_data import Agreement, EmbeddingMap
from assay.experiments import page_parts
from assay.experiments.choose import choose
from assay.experiments.compare import first_overlaps
from assay.experiments.evidence import open_replay
from assay.experiments.report_data import report_data
from assay.experiments.score import score
from assay.maths.principal import principal_plane
from assay.runs.artefacts import save_probe
from experiments import small


@pytest.fixture(scope="module")
def table(run):
    return score(run, ["aum", "loss", "entropy"])


@pytest.fixture(scope="module")
def data():
    return small.plan().load().train


@pytest.fixture(scope="module")
def made(run, table, data):
    decision = choose(table["aum"], "top_k", keep=0.5)
    return report_data(run, table, examples=data, decision=decision)


def test_agreement_and_detection_are_those_of_compare(run, table, made):
    compared = assay.compare(run, table)
    assert made.agreement.budget == compared.budget == made.counted.whole and made.agreement.examples == 397
    for one, other, rho, low, high, overlap in made.agreement.pairs:
        pair = compared.of(one, other)
        assert (rho, low, high, overlap) == pytest.approx((pair.spearman, pair.low, pair.high, pair.overlap))
    rhos = [pair[2] for pair in made.agreement.pairs]
    assert len(rhos) == 3 and rhos == sorted(rhos, reverse=True)
    for shown, found in zip(made.compared, compared.detections, strict=True):
        # A sum may differ in its last bit with where its numbers lie in memory.
        assert dataclasses.replace(shown, low=found.low, high=found.high) == found
        assert (shown.low, shown.high) == pytest.approx((found.low, found.high), rel=1e-12)


def test_the_count_is_that_of_the_run(run, made):
    assert made.counted.fingerprint == assay.count_wrong(run).fingerprint


def test_a_run_without_finite_margins_is_shown_and_compared_without_a_count(run, table, monkeypatch):
    def infinite(evidence):
        return torch.full((397,), float("inf"), dtype=torch.float64), torch.ones(397, dtype=torch.bool)

    monkeypatch.setattr(wrong_labels, "mean_margins", infinite)
    made = report_data(run, table)
    assert made.counted is None and made.agreement.budget == assay.compare(run, table).budget == 40


def test_what_a_decision_leaves_of_each_class(run, made):
    counts, kept = made.by_class, made.decision.kept
    assert torch.equal(counts.kept, torch.bincount(run.labels[kept], minlength=10)) and int(counts.kept.sum()) == int(kept.sum())
    assert torch.equal(counts.weights, counts.kept.double())
    assert float(counts.before.sum()) == pytest.approx(1) and float(counts.after.sum()) == pytest.approx(1)
    assert float(counts.after[0]) == pytest.approx(int(counts.kept[0]) / int(kept.sum()))


def test_weights_of_a_decision_count_by_class(run, table):
    decision = choose(table["aum"], "top_k", keep=0.5)
    heavy = dataclasses.replace(
        decision,
        actions=torch.where(decision.kept & (run.labels == 3), 3, decision.actions),
        weights=torch.where(decision.kept & (run.labels == 3), 2.0, decision.weights),
    )
    plain, counts = (report_data(run, table, decision=one).by_class for one in (decision, heavy))
    assert float(counts.weights[3]) == 2 * float(plain.weights[3]) and counts.kept.equal(plain.kept)
    assert counts.after[3] > plain.after[3]


def test_the_map_is_of_what_goes_into_the_last_layer(run, made, data):
    plane, explained = principal_plane(open_replay(run, asked=()).features(FeatureSpec.parse("penultimate")).rows())
    one = made.embedding
    assert one.positions.tolist() == list(range(397)) and "last layer of the last kept model" in one.features
    assert torch.allclose(one.across, plane[:, 0], atol=1e-4) and one.explained == pytest.approx(explained, abs=1e-4)


@pytest.mark.parametrize("why", ["no plan", "no model"])
def test_without_a_model_to_load_the_map_is_of_the_inputs(run, data, monkeypatch, why):
    def refuse(*args, **kwargs):
        raise RunError("The checkpoint is damaged.")

    monkeypatch.setattr(page_parts, *(("has_plan", lambda run: False) if why == "no plan" else ("open_replay", refuse)))
    one = page_parts.embedding_map(run, data, run.ids, [])
    assert one.features == "the inputs"
    assert torch.allclose(one.across, principal_plane(data.plain().flatten(1))[0][:, 0])
    assert page_parts.embedding_map(run, None, run.ids, []) is None


def test_a_map_of_many_holds_the_first_and_others_at_random(run, data, monkeypatch):
    monkeypatch.setattr(page_parts, "MOST_POINTS", 40)
    monkeypatch.setattr(page_parts, "MOST_FIRST", 20)
    first = list(range(396, -1, -1))
    one = page_parts.embedding_map(run, data, run.ids, first)
    taken = one.positions.tolist()
    assert len(taken) == 40 and set(first[:20]) <= set(taken) and taken == sorted(set(taken))
    assert one.positions.equal(page_parts.embedding_map(run, data, run.ids, first).positions)


def test_near_duplicates_stand_side_by_side_those_with_different_labels_first(run, table, data):
    inputs = data.inputs.clone()
    inputs[10], inputs[20] = inputs[11], inputs[21]
    labels = data.labels.clone()
    same = next(i for i in range(30, 397) if labels[i] == labels[30 - 1])
    inputs[same] = inputs[29]
    made = report_data(run, table, examples=dataclasses.replace(data, inputs=inputs))
    doubles = made.duplicates
    assert doubles.found.examples == 397 and len(doubles.groups) == len(doubles.shown) == 6
    ids = [set(doubles.shown.ids.values[2 * at : 2 * at + 2].tolist()) for at in range(3)]
    wanted = [{int(run.ids.values[a]), int(run.ids.values[b])} for a, b in ((10, 11), (20, 21), (29, same))]
    against = [
        one for one, (a, b) in zip(wanted, ((10, 11), (20, 21), (29, same)), strict=True) if run.labels[a] != run.labels[b]
    ]
    assert sorted(map(sorted, ids)) == sorted(map(sorted, wanted)) and against and ids[: len(against)] != []
    assert all(one in ids[: len(against)] for one in against) and max(doubles.distances) < 1e-6
    assert torch.equal(doubles.shown.pictures[0], inputs[run.ids.positions(doubles.shown.ids)[0]])


def test_given_duplicates_are_shown_and_those_of_other_examples_refused(run, table):
    found = assay.duplicates(run, within=0.6)
    options = assay.ReportOptions(duplicates=found)
    made = report_data(run, {"aum": table["aum"]}, options=options).duplicates
    assert len(found) > 1 and made.found is found and made.shown.pictures is None
    with_other_ids = dataclasses.replace(found, ids=assay.Ids(found.ids.values + 5000))
    with_other_labels = dataclasses.replace(found, labels=(found.labels + 1) % 10)
    among_others = dataclasses.replace(found, examples=9)
    for other, words in (
        (with_other_ids, "hold example"),
        (with_other_labels, "have other labels"),
        (among_others, "among 9 examples"),
    ):
        with pytest.raises(Mismatch, match=words):
            report_data(run, table, options=assay.ReportOptions(duplicates=other))


def test_of_a_large_group_every_label_is_shown_first():
    found = assay.DuplicateGroups(
        assay.Ids([5, 6, 7, 8, 9]),
        torch.zeros(5, dtype=torch.int64),
        torch.tensor([0.1, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
        torch.tensor([1, 1, 1, 1, 0]),
        0.5,
        1.0,
        "inputs, cosine",
        20,
        ("a", "b"),
    )
    ids, groups, _ = page_parts.side_by_side(found)
    assert ids.values.tolist() == [5, 9, 6, 7] and groups == (0, 0, 0, 0)


def test_groups_with_different_labels_stand_before_nearer_ones():
    distances = torch.tensor([0.1, 0.1, 0.3, 0.2, 0.2], dtype=torch.float64)
    numbers, labels = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 1, 0, 0, 1])
    found = assay.DuplicateGroups(assay.Ids([5, 6, 7, 8, 9]), numbers, distances, labels, 0.5, 1.0, "inputs, cosine", 20)
    ids, groups, apart = page_parts.side_by_side(found)
    assert ids.values.tolist() == [8, 9, 7, 5, 6] and groups == (1, 1, 1, 0, 0) and apart == (0.2, 0.2, 0.3, 0.1, 0.1)


def test_overlap_counts_the_first_of_two_rankings():
    rows = torch.tensor([[9.0, 8.0, 7.0, 1.0], [9.0, 1.0, 8.0, 7.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    found = first_overlaps(rows, assay.Ids([3, 2, 1, 0]), 2)
    # Of equal values the smallest ids stand first.
    assert found.tolist() == [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]


def test_many_examples_are_not_searched_for_duplicates_unasked(run, data, monkeypatch):
    monkeypatch.setattr(page_parts, "MOST_MULTIPLICATIONS", 1e6)
    found, words = page_parts.near_duplicates(run, data)
    assert found is None and f"`assay report {run.folder} --duplicates inputs`" in words
    assert page_parts.near_duplicates(run, None) == (None, "")


def test_probes_of_this_recording_are_shown_and_others_told(own, table):
    method = ProbedMethod("aum", 0.97, 0.95, 0.99, 0.8, 0.9)
    probe = Probe("uniform", 10, 50, 397, 0, (method,), Lineage(own.dataset, {"run": own.fingerprint}, "0.1.0"))
    save_probe(probe, own.paths.probe("uniform-0.02-0"))
    save_probe(dataclasses.replace(probe, lineage=Lineage(own.dataset, {"run": "other"}, "0.1.0")), own.paths.probe("old"))
    own.paths.probe("broken").write_text("{")
    made = report_data(own, table)
    assert [one.best for one in made.probes] == ["aum"]
    told = [note for note in made.notes if note.startswith("A probe is not shown")]
    assert len(told) == 2 and any("old.json" in note and "assay probe" in note for note in told)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="overlaps"):
        Agreement(("a", "b"), torch.eye(2), overlaps=torch.eye(3), budget=1, examples=2)
    with pytest.raises(UsageError, match="finite numbers up"):
        EmbeddingMap(torch.arange(1), torch.zeros(1).double(), torch.tensor([np.nan]), (0.5, 0.5), "the inputs")
