import numpy as np
import pytest
import torch

from assay.core import greedy_selection
from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.selection import choose
from assay.maths.example_vectors import DenseVectors
from assay.maths.greedy import maximise
from assay.maths.similarities import Similarity
from assay.maths.submodular import FacilityLocation as Covering
from assay.policies import parse
from assay.policies.facility_location import FacilityLocation

VARIANTS = [{}]
REFUSED = [
    "keep=-0.1",
    "keep=1.5",
    "features=rows:,keep=0.1",
    "greedy=eager,keep=0.1",
    "similarity=dot,keep=0.1",
    "seed=1,keep=0.1",
]


def evidence(rows, labels=None, ids=None):
    rows = torch.as_tensor(np.asarray(rows))
    labels = None if labels is None else torch.as_tensor(labels)
    return Evidence(Ids(range(len(rows)) if ids is None else ids), 3, labels=labels, inputs=rows)


def drawn(n=60, dims=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dims))


def test_by_hand():
    # On a line, whose greatest distance from the mean (3.25) is 6.75: similarities are 1 - d / 13.5. The second and the third have distances of 11 in
    # all, and 5 is less than 9; then the last saves 9, and the first as much as the third, 1.
    decision = choose(FacilityLocation(3, similarity="euclidean"), None, evidence([[0.0], [1], [2], [10]], ids=[7, 5, 9, 3]))
    assert list(decision.order) == [5, 3, 7]
    assert decision.reasons == (
        "facility_location 3 in inputs, adds 0.07407",
        "facility_location 1 in inputs, adds 3.185",
        "not taken by facility_location in inputs",
        "facility_location 2 in inputs, adds 0.6667",
    )
    assert decision.warnings == () and decision.title == "facility_location:keep=3,similarity=euclidean"


def test_classes_are_taken_each_by_itself_in_proportion():
    labels = np.random.default_rng(2).permutation(np.repeat([0, 1, 2], [30, 20, 10]))
    made = evidence(drawn(), labels)
    decision = choose(FacilityLocation(0.2, by_class=True), None, made, ["ant", "bee", "cat"])
    assert torch.bincount(made.labels[decision.kept]).tolist() == [6, 4, 2]
    for label in range(3):
        members = (made.labels == label).nonzero().flatten()
        order, _ = maximise(Covering(Similarity(DenseVectors(torch.from_numpy(drawn())[members]))), len(members))
        taken = [position for position in decision.order if int(made.labels[position]) == label]
        assert taken == members[order][: len(taken)].tolist()
    assert sum("of class bee" in reason for reason in decision.reasons) == 4


def test_a_class_that_gets_nothing_is_named():
    decision = choose(FacilityLocation(1, by_class=True), None, evidence(drawn(4), [0, 0, 0, 1]), ["ant", "bee", "cat"])
    assert decision.budget == 1 and "Nothing of 1 class (bee) is kept" in decision.warnings[0]


def test_every_way_of_searching_is_an_option():
    made = evidence(drawn(200))
    by = {how: choose(FacilityLocation(20, greedy=how), None, made) for how in ("naive", "lazy", "approximate")}
    assert by["naive"].order == by["lazy"].order and by["approximate"].budget == 20
    drawings = [choose(parse(f"facility_location:keep=20,greedy=stochastic,seed={seed}"), None, made) for seed in (0, 0, 1)]
    assert drawings[0].order == drawings[1].order != drawings[2].order
    assert drawings[0].order == choose(FacilityLocation(40, greedy="stochastic", seed=0), None, made).order[:20]

    def reached(decision):
        s = Similarity(DenseVectors(torch.from_numpy(drawn(200)))).rows(torch.arange(200))
        return float(s[:, decision.kept].max(1).values.sum())

    by_chance = [reached(choose(parse(f"random:keep=0.1,seed={seed}"), None, made)) for seed in range(20)]
    # 64 of 200 examples at each of 20 steps: 1 - 1/e - exp(-6.4) of the best at least, in expectation.
    assert min(map(reached, [*by.values(), *drawings])) > max(by_chance)
    assert reached(drawings[0]) > 0.95 * reached(by["lazy"]) and reached(by["approximate"]) > 0.95 * reached(by["lazy"])


def test_a_draw_depends_on_ids_and_not_on_the_order_of_the_examples(monkeypatch):
    monkeypatch.setattr(greedy_selection, "SAMPLE", 5)
    rows, order = drawn(), np.random.default_rng(3).permutation(60)
    policy = FacilityLocation(10, greedy="stochastic", seed=4)
    assert choose(policy, None, evidence(rows)).order == choose(policy, None, evidence(rows[order], ids=order)).order


def test_a_seed_goes_with_draws_only():
    with pytest.raises(UsageError, match="needs a seed, such as seed=0"):
        FacilityLocation(3, greedy="stochastic")
    with pytest.raises(UsageError, match="seed=1 goes with greedy=stochastic only"):
        FacilityLocation(3, seed=1)


def test_planted_duplicates_are_taken_once_each():
    rows = np.repeat(drawn(12, 6), [20, 15, 10, 5, 2, 2, 1, 1, 1, 1, 1, 1], axis=0)
    decision = choose(FacilityLocation(12), None, evidence(rows))
    assert len(np.unique(rows[decision.kept.numpy()], axis=0)) == 12


def test_what_overflows_is_refused_with_the_policy():
    with pytest.raises(UsageError, match="facility_location:keep=2: Similarities are not finite"):
        choose(FacilityLocation(2), None, evidence([[0.0], [1e200]]))
