import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.curve import Curve, Removal
from assay.core.decision import Action, Decision
from assay.core.errors import NotWritten, RunError
from assay.core.explanation import Explanation
from assay.core.ids import Ids
from assay.core.lds import LDS, RankAgreement, SubsetTraining
from assay.core.lineage import SCHEMA, Lineage
from assay.core.scores import Direction, Scores
from assay.core.trial import Cleaning, Comparison, Detection, Outcome, Verdict
from assay.runs import artefacts
from assay.runs.tables import write_table
from runs.test_tables import IDS, NAMES
from runs.worlds import recorded

FRACTIONS = st.floats(0, 1)


def fields(**strategies):
    """The fields of a noun. The nouns are made inside the tests: their checks of types draw at random, which strategies must not."""
    return st.fixed_dictionaries(strategies)


LINEAGES = st.none() | fields(
    dataset=NAMES,
    parents=st.dictionaries(st.sampled_from(["run", "scores", "decision"]), NAMES),
    code=NAMES,
    seed=st.none() | st.integers(-(2**63), 2**63),
    seconds=st.floats(0, 1e9),
    folder=NAMES,
)
OPTIONS = st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES, max_size=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("artefacts")


def same_bits(one, other):
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def lineage(drawn):
    return None if drawn is None else Lineage(**drawn)


@settings(max_examples=30, deadline=None)
@given(ids=IDS, unscored=st.just([]) | IDS, words=st.tuples(NAMES, NAMES, NAMES), options=OPTIONS, come=LINEAGES, data=st.data())
def test_scores_come_back_to_the_bit(place, ids, unscored, words, options, come, data):
    values = torch.tensor(data.draw(st.lists(st.floats(), min_size=len(ids), max_size=len(ids))), dtype=torch.float64)
    direction = data.draw(st.sampled_from(Direction))
    scores = Scores(Ids(ids), values, words[0], options, words[1], direction, words[2], Ids(unscored), lineage(come))
    artefacts.save_scores(scores, place / "scores.parquet")
    back = artefacts.load_scores(place / "scores.parquet")
    assert same_bits(back.values, scores.values)
    for field in ("ids", "method", "options", "title", "direction", "unit", "unscored", "lineage", "fingerprint"):
        assert getattr(back, field) == getattr(scores, field), field


CHOICES = st.one_of(
    st.just((Action.DROP, -1, 0.0)),
    st.just((Action.KEEP, -1, 1.0)),
    st.tuples(st.just(Action.RELABEL), st.integers(0, 2**62), st.just(1.0)),
    st.tuples(st.just(Action.WEIGHT), st.just(-1), st.floats(1e-300, 1e300)),
)


@settings(max_examples=30, deadline=None)
@given(ids=IDS, words=st.tuples(NAMES, NAMES, NAMES), options=OPTIONS, come=LINEAGES, data=st.data())
def test_decisions_come_back_to_the_bit(place, ids, words, options, come, data):
    actions, labels, weights = zip(*data.draw(st.lists(CHOICES, min_size=len(ids), max_size=len(ids))), strict=True)
    decision = Decision(
        ids=Ids(ids),
        actions=torch.tensor(actions),
        labels=torch.tensor(labels),
        weights=torch.tensor(weights, dtype=torch.float64),
        reasons=tuple(f"{words[0]} {number}" for number in range(len(ids))),
        policy=words[1],
        options=options,
        title=words[2],
        lineage=lineage(come),
        order=data.draw(st.none() | st.permutations([one for one, done in zip(ids, actions, strict=True) if done]).map(Ids)),
        warnings=words[:1],
    )
    artefacts.save_decision(decision, place / "decision.parquet")
    back = artefacts.load_decision(place / "decision.parquet")
    for field in ("actions", "labels", "weights"):
        assert same_bits(getattr(back, field), getattr(decision, field)), field
    for field in ("ids", "reasons", "policy", "options", "title", "lineage", "fingerprint", "order", "warnings"):
        assert getattr(back, field) == getattr(decision, field), field


def test_a_decision_of_an_earlier_assay_has_no_order_and_one_that_is_none_is_damage(tmp_path):
    columns = {
        "action": np.array([0, 1, 3], np.int8),
        "label": np.full(3, -1),
        "weight": np.array([0.0, 1, 2]),
        "reason": ["a", "b", "c"],
    }
    notes = {"policy": "top_k", "options": {}, "title": "top_k by dual", "lineage": None}
    path = tmp_path / "decision.parquet"
    write_table(path, "decision", Ids([4, 5, 6]), columns, notes)
    back = artefacts.load_decision(path)
    assert back.order is None and back.warnings == () and list(back.kept_ids) == [5, 6]
    write_table(path, "decision", Ids([4, 5, 6]), {"place": np.array([-1, 1, 0]), **columns}, notes)
    assert artefacts.load_decision(path).order == Ids([6, 5])
    for places in ([0, 1, 2], [-1, 0, -1], [-1, 0, 0], [-1, 0, 2], [-1, -1, -1], [-2, 0, 2]):
        write_table(path, "decision", Ids([4, 5, 6]), {"place": np.array(places), **columns}, notes)
        with pytest.raises(RunError, match=r"is damaged .*the places of the kept examples are no order of them"):
            artefacts.load_decision(path)
    write_table(path, "decision", Ids([4, 5, 6]), {"place": np.array([0.0, 1, 2]), **columns}, notes)
    with pytest.raises(RunError, match="its column 'place' holds double"):
        artefacts.load_decision(path)


@settings(max_examples=30, deadline=None)
@given(ids=IDS)
def test_the_truth_comes_back(place, ids):
    true = torch.arange(len(ids)) * 5 % 7
    artefacts.save_truth(Ids(ids), true, place / "truth.parquet")
    back, labels = artefacts.load_truth(place / "truth.parquet")
    assert back == Ids(ids) and same_bits(labels, true)


OUTCOMES = fields(
    arm=st.sampled_from(["kept", "random", "all"]),
    seed=st.integers(0, 2**63),
    accuracy=FRACTIONS,
    loss=st.none() | st.floats(allow_nan=False),
    examples=st.integers(0),
    steps=st.none() | st.integers(0),
    seconds=st.floats(0, 1e9),
)
COMPARISONS = fields(
    treatment=NAMES, baseline=NAMES, effect=FRACTIONS, low=FRACTIONS, high=FRACTIONS, p=FRACTIONS, test=NAMES, n=st.integers(2)
)
DETECTIONS = fields(
    title=NAMES,
    auc=FRACTIONS,
    average_precision=FRACTIONS,
    precision_at_planted=FRACTIONS,
    recovered=FRACTIONS,
    claims_suspicion=st.booleans(),
    curve=st.lists(st.tuples(FRACTIONS, FRACTIONS), max_size=3).map(tuple),
)
CLEANINGS = fields(planted=st.integers(0), touched=st.integers(0), hit=st.integers(0), mended=st.integers(0))


@settings(max_examples=30, deadline=None)
@given(
    outcomes=st.lists(OUTCOMES, max_size=3),
    comparisons=st.lists(COMPARISONS, max_size=2),
    detections=st.lists(DETECTIONS, max_size=2),
    cleaning=st.none() | CLEANINGS,
    plan=st.dictionaries(NAMES, st.integers() | NAMES | st.lists(st.integers(), max_size=2), max_size=3),
    come=LINEAGES,
)
def test_verdicts_and_outcomes_come_back_equal(place, outcomes, comparisons, detections, cleaning, plan, come):
    verdict = Verdict(
        "decision",
        tuple(Outcome(**one) for one in outcomes),
        tuple(Comparison(**one) for one in comparisons),
        tuple(Detection(**one) for one in detections),
        None if cleaning is None else Cleaning(**cleaning),
        plan,
        lineage(come),
    )
    artefacts.save_verdict(verdict, place / "verdict.json")
    assert artefacts.load_verdict(place / "verdict.json") == verdict
    for outcome in verdict.outcomes:
        artefacts.save_outcome(outcome, place / "outcome.json")
        assert artefacts.load_outcome(place / "outcome.json") == outcome


MEASURED = fields(
    validation_accuracy=FRACTIONS,
    validation_loss=st.floats(0, 1e9),
    test_accuracy=FRACTIONS,
    test_loss=st.floats(0, 1e9),
    seconds=st.floats(0, 1e9),
)


@settings(max_examples=30, deadline=None)
@given(
    measured=st.lists(MEASURED, min_size=5, max_size=5),
    words=st.tuples(NAMES, st.sampled_from(["last", "all"]), st.sampled_from([0, 1, 30]), st.sampled_from(["loss", "accuracy"])),
    seed=st.integers(0, 2**63),
    come=LINEAGES,
)
def test_curves_and_removals_come_back_equal(place, measured, words, seed, come):
    arms = [("none", 0), ("worst", 1), ("random", 1), ("worst", 30), ("random", 30)]
    removals = tuple(Removal(arm, count, seed, **one) for (arm, count), one in zip(arms, measured, strict=True))
    title, retrained, best, by = words
    curve = Curve(title, retrained, removals, best, by, lineage(come))
    artefacts.save_curve(curve, place / "curve.json")
    assert artefacts.load_curve(place / "curve.json") == curve
    for removal in removals:
        artefacts.save_removal(removal, place / "removal.json")
        assert artefacts.load_removal(place / "removal.json") == removal


def test_a_loss_that_is_not_finite_comes_back(place):
    outcome = Outcome("kept", 0, 0.1, math.inf, 3, 4, 0.5)
    artefacts.save_outcome(outcome, place / "outcome.json")
    assert artefacts.load_outcome(place / "outcome.json") == outcome
    artefacts.save_outcome(dataclasses.replace(outcome, loss=math.nan), place / "outcome.json")
    assert math.isnan(artefacts.load_outcome(place / "outcome.json").loss)


SCORES = Scores(Ids([3, 1]), torch.tensor([0.5, 1.5], dtype=torch.float64), "dual", {}, "dual", Direction.HIGH_IS_HARD, "p")
DECISION = Decision(
    Ids([3, 1]),
    torch.tensor([0, 1]),
    torch.tensor([-1, -1]),
    torch.tensor([0.0, 1.0], dtype=torch.float64),
    ("low", "high"),
    "top_k",
    {},
    "top_k of dual",
)
OUTCOME = Outcome("kept", 0, 0.5, 1.0, 10, 20, 0.1)
VERDICT = Verdict("top_k", (OUTCOME,), (Comparison("kept", "all", 0.1, 0.0, 0.2, 0.04, "t", 2),))
REMOVAL = Removal("none", 0, 0, 0.5, 1.0, 0.5, 1.0, 0.1)
CURVE = Curve("aum", "last", (REMOVAL,), 0, "loss")
EXPLANATION = Explanation("test example 1", 0, "given", 1, 0.6, 0.4, ("a", "b"), "tracin", "unit", (), (), 10)
AGREEMENT = RankAgreement("tracin", "same seed", 0.5, None, None)
KINDS = {
    "scores": (artefacts.save_scores, artefacts.load_scores, SCORES),
    "decision": (artefacts.save_decision, artefacts.load_decision, DECISION),
    "verdict": (artefacts.save_verdict, artefacts.load_verdict, VERDICT),
    "outcome": (artefacts.save_outcome, artefacts.load_outcome, OUTCOME),
    "curve": (artefacts.save_curve, artefacts.load_curve, CURVE),
    "removal": (artefacts.save_removal, artefacts.load_removal, REMOVAL),
    "subset training": (artefacts.save_subset_training, artefacts.load_subset_training, SubsetTraining(1, None, (0.5,), 0.1)),
    "explanation": (artefacts.save_explanation, artefacts.load_explanation, EXPLANATION),
    "lds": (artefacts.save_lds, artefacts.load_lds, LDS("validation", (1, 2), 9, 10, 1, 4, "weight", (), (), (AGREEMENT,))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_absent_damaged_and_foreign_files_are_refused(tmp_path, kind):
    save, load, thing = KINDS[kind]
    path = tmp_path / "deep" / kind
    with pytest.raises(RunError, match=f"{path} does not exist; make it first"):
        load(path)
    save(thing, path)
    body = path.read_bytes()
    for damaged in (b"", body[:-30], body[: len(body) // 2], b"\0" * len(body), b"[]", b'{"format": 3}'):
        path.write_bytes(damaged)
        with pytest.raises(RunError) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 5
    for other, (save_other, _, another) in KINDS.items():
        if other != kind:
            save_other(another, path)
            with pytest.raises(RunError, match=rf"no {kind} of assay|no Parquet file|not JSON"):
                load(path)
    with pytest.raises(RunError):
        load(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotWritten):
        save(thing, tmp_path / "file" / kind)


@pytest.mark.parametrize("kind", ["verdict", "outcome", "curve", "removal"])
def test_a_newer_or_changed_file_of_text_is_refused(tmp_path, kind):
    save, load, thing = KINDS[kind]
    save(thing, tmp_path / kind)
    text = (tmp_path / kind).read_text()
    (tmp_path / kind).write_text(text.replace('accuracy": 0.5', 'accuracy": 0.6'))
    with pytest.raises(RunError, match=r"is damaged \(checksum\)"):
        load(tmp_path / kind)
    (tmp_path / kind).write_text(text.replace(f'"schema_version": {SCHEMA}', '"schema_version": 9'))
    with pytest.raises(RunError, match=f"has schema 9, this assay reads up to {SCHEMA}"):
        load(tmp_path / kind)


def test_a_field_too_many_is_damage(tmp_path):
    artefacts.save_json("outcome", {**dataclasses.asdict(OUTCOME), "more": 1}, tmp_path / "outcome.json")
    with pytest.raises(RunError, match=r"is damaged.*more"):
        artefacts.load_outcome(tmp_path / "outcome.json")
    assert json.loads((tmp_path / "outcome.json").read_text())["more"] == 1


def test_what_stands_in_a_run_is_of_that_run_wherever_we_are(tmp_path, monkeypatch):
    recorded(tmp_path / "run", 1)
    path = tmp_path / "run" / "scores" / "dual.parquet"
    made = Scores(Ids([1, 2]), torch.zeros(2, dtype=torch.float64), "dual", {}, "dual", Direction.HIGH_IS_HARD, "probability")
    made = dataclasses.replace(made, lineage=Lineage("x", folder="run"))
    artefacts.save_scores(made, path)
    monkeypatch.chdir(tmp_path)
    assert artefacts.load_scores(path.relative_to(tmp_path)).lineage.folder == str(tmp_path / "run")
    artefacts.save_scores(made, tmp_path / "away" / "dual.parquet")
    assert artefacts.load_scores(tmp_path / "away" / "dual.parquet").lineage.folder == "run"
