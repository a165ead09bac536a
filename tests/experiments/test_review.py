"""Marks of a reviewer, taken back: what fits becomes a decision, what does not is refused in a sentence."""

import json

import pytest

import assay
from assay.core.errors import Mismatch, UsageError
from assay.core.review import sample_order, suspects_of
from assay.experiments.choose import choose
from assay.experiments.score import score
from assay.experiments.verify import verify
from assay.runs.artefacts import load_truth, save_decision


@pytest.fixture(scope="module")
def table(run):
    return score(run, "aum")


@pytest.fixture(scope="module")
def decision(table):
    return choose(table["aum"], "top_k", keep=0.9)


@pytest.fixture
def saved(run, decision, tmp_path):
    """Writes a file as the page does."""

    def write(*marks, **changed):
        body = {
            "assay": "review",
            "schema": 2,
            "dataset": run.dataset,
            "decision": decision.fingerprint,
            "title": decision.title,
            "marks": [
                {"id": str(id_), "mark": mark, **({"label": label} if label is not None else {})} for id_, mark, label in marks
            ],
        }
        (tmp_path / "review.json").write_text(json.dumps({**body, **changed}))
        return tmp_path / "review.json"

    return write


def test_a_whole_review_mends_what_is_wrong(run, table, decision, saved):
    """A reviewer who knows the truth marks the suspects in random order."""
    ids, true = load_truth(run.paths.truth)
    drawn = list(sample_order(suspects_of(decision)))[:20]
    where = {id_: at for at, id_ in enumerate(ids)}
    labels = {id_: (int(true[where[id_]]), int(run.labels[where[id_]])) for id_ in drawn}
    marks = [(id_, "wrong", t) if t != g else (id_, "right", None) for id_, (t, g) in labels.items()]
    result = assay.review(run, saved(*marks), decision=decision, scores=table["aum"])
    wrong = [id_ for id_, mark, _ in marks if mark == "wrong"]
    assert 0 < len(wrong) < 20 and result.decision.counts() == {"keep": 397 - len(wrong), "relabel": len(wrong)}
    assert result.precision.wrong == len(wrong) and result.precision.population.startswith("20 suspects drawn at random from")
    assert result.precision.low < result.precision.share < result.precision.high
    # What holds for the sample's population is known here.
    suspects = suspects_of(decision)
    truly = sum(int(true[where[id_]]) != int(run.labels[where[id_]]) for id_ in suspects) / len(suspects)
    assert result.precision.low <= truly <= result.precision.high
    parents = result.decision.lineage.parents
    assert parents["decision"] == decision.fingerprint and parents["run"] == run.fingerprint and parents["review"]
    assert len(verify(result.decision, run=run, seeds=2).outcomes) == 6


def test_the_first_in_order_are_known_for_what_they_are(run, table, decision, saved):
    ranks = dict(zip(table["aum"].ids, table["aum"].ranks().tolist(), strict=True))
    first = sorted(suspects_of(decision), key=ranks.get)[:12]
    marks = saved(*((id_, "wrong", None) for id_ in first))
    found = assay.review(run, marks, decision=decision, scores=table["aum"])
    assert found.precision.population.startswith("the first 12 of") and found.precision.population.endswith("suspects by aum")
    assert list(found.decision.dropped_ids) == [id_ for id_ in run.ids if id_ in first]
    assert "picked at random" in assay.review(run, marks, decision=decision).sentence, "the score is not saved"
    assert assay.review(run, marks, decision=decision, rest="decision").decision.counts() == decision.counts()


def test_the_reviewed_decision_is_found_in_the_run(own, decision, saved):
    path = saved((int(own.ids.values[0]), "wrong", None))
    with pytest.raises(Mismatch, match=r"is not among those in .* \(none\); make the page anew"):
        assay.review(own, path)
    save_decision(decision, own.paths.decision("mine"))
    assert assay.review(own, path).review.decision == decision.fingerprint


def test_a_page_without_a_decision_can_be_reviewed(run, table, saved):
    ranks = dict(zip(table["aum"].ids, table["aum"].ranks().tolist(), strict=True))
    first = sorted(run.ids, key=ranks.get)[:3]
    path = saved(*((id_, "wrong", None) for id_ in first), decision="", title="")
    found = assay.review(run, path, scores=table["aum"])
    assert found.decision.counts() == {"drop": 3, "keep": 394} and found.decision.title == "review of all examples"
    assert found.precision.population == "the first 3 of 397 examples by aum"
    with pytest.raises(UsageError, match="a page without a decision"):
        assay.review(run, path, rest="decision")


def test_what_does_not_fit_is_refused(run, decision, saved):
    id_, other = (int(one) for one in run.ids.values[:2])
    given = int(run.labels[0])

    def refused(kind, words, *marks, **changed):
        with pytest.raises(kind, match=words):
            assay.review(run, saved(*marks, **changed), decision=decision)

    refused(Mismatch, "marks examples of dataset other", (id_, "right", None), dataset="other")
    refused(Mismatch, "reviews decision .* and decision top_k", (id_, "right", None), decision="other")
    refused(Mismatch, "1 ids are not in run", (999999, "right", None))
    refused(Mismatch, "ids of .* are whole numbers", ("a", "right", None))
    refused(UsageError, "more than once", (id_, "right", None), (id_, "wrong", None))
    refused(UsageError, "more than once", (id_, "right", None), (f"0{id_}", "wrong", None))
    refused(UsageError, "wrong and gives it the label that it has", (id_, "wrong", given))
    refused(UsageError, "gives it a new label; mark it wrong", (id_, "unsure", (given + 1) % 10))
    refused(Mismatch, "has 10 classes", (id_, "wrong", 10))
    refused(Mismatch, "gives example .* the class 3", marks=[{"id": str(id_), "mark": "wrong", "label": 3, "name": "ship"}])
    refused(UsageError, "holds no mark")
    refused(UsageError, "no review saved by a page", (id_, "perhaps", None))
    refused(UsageError, "no review saved by a page", (id_, "right", None), assay="verdict")
    refused(UsageError, "is of schema 99", (id_, "right", None), schema=99)
    path = saved((other, "right", None))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UsageError, match="no review saved by a page"):
        assay.review(run, path, decision=decision)
    with pytest.raises(UsageError, match="cannot be read"):
        assay.review(run, path.parent / "absent.json", decision=decision)
    with pytest.raises(UsageError, match=r"'keep' (or|nor) 'decision'"):
        assay.review(run, path, decision=decision, rest="drop")
