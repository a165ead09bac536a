import dataclasses
import math
from typing import ClassVar

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from assay.core.decision import Action
from assay.core.errors import Mismatch, MissingEvidence, UndeclaredNeed, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.method import Source
from assay.core.needs import Need
from assay.core.scores import Direction, Scores
from assay.core.selection import AbstractSelector, Pool, Selection, budget_of, choose, keep_first


def scores(values=(1.0, 2.0, 3.0, 4.0), unscored=(), **options):
    values = torch.tensor(values, dtype=torch.float64)
    ids = Ids([f"row {n}" for n in range(len(values))])
    return Scores(ids, values, "made", options, "made", Direction.HIGH_IS_HARD, "none", unscored=Ids(unscored))


@dataclasses.dataclass(frozen=True)
class Mixed(AbstractSelector):
    """Drops the first, relabels the second if `relabel`, halves the weight of the third."""

    relabel: bool = True
    name: ClassVar[str] = "mixed"
    reads: ClassVar[frozenset[Need]] = frozenset()
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source("none", "none")

    def select(self, pool: Pool) -> Selection:
        return Selection(
            kept=torch.tensor([False, True, True, True]),
            why_kept="as it was",
            why_touched="touched",
            labels=torch.tensor([5, 2 if self.relabel else -1, -1, -1]),
            weights=torch.tensor([1.0, 1.0, 0.5, 1.0], dtype=torch.float64),
            why_else={2: "half trusted"},
        )


@dataclasses.dataclass(frozen=True)
class Reader(AbstractSelector):
    """Keeps whom `reads` says; declares `reads`."""

    name: ClassVar[str] = "reader"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})
    nests: ClassVar[bool] = False
    source: ClassVar[Source] = Source("none", "none")

    def select(self, pool: Pool) -> Selection:
        return Selection(pool.labels > 0, "", "")


def test_ten_percent_of_fifty_thousand():
    assert budget_of(0.1, 50_000) == 5_000 and budget_of(0.2, 50_000) == 10_000  # int((1 - 0.9) * n) is one short
    assert budget_of(0.29, 100) == 29 and budget_of(0.57, 100) == 57  # 0.29 * 100 is 28.999999999999996
    assert budget_of(0.3, 10) == 3 and budget_of(0.0, 7) == 0 and budget_of(1.0, 7) == 7 and budget_of(0.5, 7) == 3


@hypothesis.given(st.integers(0, 2_000_000), st.integers(1, 1000).flatmap(lambda b: st.tuples(st.integers(0, b), st.just(b))))
def test_a_fraction_keeps_its_share(examples, fraction):
    part, whole = fraction
    assert budget_of(part / whole, examples) == examples * part // whole


@pytest.mark.parametrize("keep", [-0.01, 1.01, math.nan, math.inf])
def test_keep_is_a_fraction(keep):
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        budget_of(keep, 10)


def test_keep_first():
    assert keep_first(torch.tensor([2, 0, 1]), 2).tolist() == [True, False, True]
    assert keep_first(torch.tensor([2, 0, 1]), 0).tolist() == [False] * 3


def test_a_choice_becomes_a_decision():
    made = choose(Mixed(), scores())
    assert made.actions.tolist() == [Action.DROP, Action.RELABEL, Action.WEIGHT, Action.KEEP]
    assert made.labels.tolist() == [-1, 2, -1, -1]  # nobody is dropped and relabelled at once
    assert made.weights.tolist() == [0.0, 1.0, 0.5, 1.0]
    assert made.reasons == ("touched", "touched", "half trusted", "as it was")
    assert made.title == "mixed by made" and made.options == {"relabel": True}


@dataclasses.dataclass(frozen=True)
class Alone(AbstractSelector):
    """Keeps the first two, of which it names `named` in order."""

    named: str = "10"
    name: ClassVar[str] = "alone"
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source("none", "none")

    def select(self, pool: Pool) -> Selection:
        return Selection(torch.arange(len(pool)) < 2, "", "", order=torch.tensor([int(one) for one in self.named]))


def test_a_run_is_enough_where_no_score_is_needed():
    made = choose(Alone(), None, evidence())
    assert made.title == "alone" and list(made.order) == ["row 1", "row 0"] and made.ids == evidence().ids
    with pytest.raises(UsageError, match="'mixed' chooses by a score; give scores"):
        choose(Mixed(), None, evidence())
    with pytest.raises(UsageError, match="'alone' reads no score, so that made would not be used"):
        choose(Alone(), scores(), evidence())
    with pytest.raises(UsageError, match="neither scores nor a run"):
        choose(Alone())
    for name in ("scores", "values"):
        with pytest.raises(UsageError, match="chooses by a score, and none was given"):
            getattr(Pool(evidence().ids, evidence()), name)
    with pytest.raises(Mismatch, match="made is of other examples"):
        Pool(Ids([1, 2, 3, 4]), None, scores())


@pytest.mark.parametrize("named", ["0", "012", "00", "02"])
def test_an_order_of_other_examples_than_the_kept_is_refused(named):
    with pytest.raises(UsageError, match="'alone' gave an order of other examples than it keeps"):
        choose(Alone(named), None, evidence())


def test_scores_that_cannot_be_chosen_by():
    with pytest.raises(UsageError, match=r"1 scores of made are NaN; ids row 1\. Nothing was chosen"):
        choose(Mixed(), scores((1.0, math.nan, 3.0, 4.0)))
    with pytest.raises(UsageError, match=r"no value for 1 examples \(lost\)"):
        choose(Mixed(), scores(unscored=["lost"]))


@dataclasses.dataclass(frozen=True)
class Largest(AbstractSelector):
    """Keeps half, the largest labels first, and says so by an order."""

    name: ClassVar[str] = "largest"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source("none", "none")

    def select(self, pool: Pool) -> Selection:
        return Selection.first(pool.labels.argsort(descending=True, stable=True), len(pool) // 2, "large", "small")


def test_examples_without_a_score_are_left_as_they_are_if_that_is_asked_for():
    some = scores(unscored=["lost", "found"])
    plain = choose(Mixed(), scores())
    made = choose(Mixed(), some, unscored="keep")
    # What is decided on the others is what is decided on them alone.
    assert list(made.ids) == [*plain.ids, "lost", "found"]
    for name in ("actions", "labels", "weights"):
        assert torch.equal(getattr(made, name)[:4], getattr(plain, name)), name
    assert made.reasons == (*plain.reasons, *["not scored by made, so left as it is"] * 2)
    assert (
        made.actions[4:].tolist() == [Action.KEEP] * 2
        and made.labels[4:].tolist() == [-1] * 2
        and made.weights[4:].tolist() == [1, 1]
    )
    assert made.warnings == (
        *plain.warnings,
        "2 of 6 examples have no value of made (lost, found) and stay as they are; what is kept or dropped was counted among the other 4.",
    )
    assert made.title == plain.title and choose(Mixed(), scores(), unscored="keep").fingerprint == plain.fingerprint


def test_unscored_examples_stand_where_the_run_has_them_and_first_in_an_order():
    names = ("lost", "row 3", "row 0", "found", "row 1", "row 2")
    run = Evidence(Ids(list(names)), 4, labels=torch.tensor([3, 3, 0, 3, 1, 2]))
    made = choose(Largest(), scores(unscored=["found", "lost"]), run, unscored="keep")
    assert made.ids == run.ids and [str(one) for one in made.kept_ids] == ["lost", "row 3", "found", "row 2"]
    assert list(made.order) == ["found", "lost", "row 3", "row 2"]
    with pytest.raises(Mismatch, match="made covers 5 examples, the run 6"):
        choose(Largest(), scores(unscored=["lost"]), run, unscored="keep")
    with pytest.raises(Mismatch):
        choose(Largest(), scores(unscored=["lost", "another"]), run, unscored="keep")


def test_what_becomes_of_unscored_examples_is_asked_only_where_there_may_be_some():
    with pytest.raises(UsageError, match=r"leave these as they are with unscored='keep'"):
        choose(Mixed(), scores(unscored=["lost"]))
    # Where types are checked at run time, that check refuses it.
    with pytest.raises((UsageError, TypeCheckError), match="unscored"):
        choose(Mixed(), scores(), unscored="drop")
    with pytest.raises(UsageError, match="unscored='keep' is for a choice by scores, and alone is given none"):
        choose(Alone(), None, evidence(), unscored="keep")
    nobody = dataclasses.replace(scores(()), unscored=Ids(["lost"]))
    with pytest.raises(UsageError, match="made has no value for any example"):
        choose(Mixed(), nobody, unscored="keep")


def evidence(names=("row 0", "row 1", "row 2", "row 3")):
    return Evidence(Ids(list(names)), 2, labels=torch.tensor([0, 1, 0, 1]))


def test_facts_are_joined_by_id():
    assert choose(Reader(), scores(), evidence()).kept.tolist() == [False, True, False, True]
    turned = evidence(("row 3", "row 2", "row 1", "row 0"))
    assert choose(Reader(), scores(), turned).kept.tolist() == [True, False, True, False]


@pytest.mark.parametrize("policy", [Mixed(), Reader()])
def test_another_run_is_refused_whether_it_is_read_or_not(policy):
    with pytest.raises(Mismatch, match="ids are not in the run: row 3"):
        choose(policy, scores(), evidence(("row 0", "row 1", "row 2", "row 9")))
    with pytest.raises(Mismatch, match="covers 3 examples, the run 4"):
        choose(policy, scores((1.0, 2.0, 3.0)), evidence())


def test_facts_that_are_not_there():
    with pytest.raises(UsageError, match="reads the recorded run, which was not given"):
        choose(Reader(), scores())
    with pytest.raises(MissingEvidence, match="reader needs labels"):
        choose(Reader(), scores(), Evidence(scores().ids, 2))
    pool = Pool(scores().ids, evidence().narrow("nobody", frozenset()))
    with pytest.raises(UndeclaredNeed, match="labels"):
        pool.labels  # noqa: B018


def test_suspicion_is_not_asked_of_difficulty():
    assert Pool(scores().ids, None, scores()).by("values").tolist() == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(UsageError, match="ranks difficulty"):
        Pool(scores().ids, None, scores()).by("suspicion")
