"""Combined rankings, by hand and against single methods."""

import dataclasses
import statistics

import pytest
import torch

import assay
from assay.core.errors import BadScores, MissingEvidence, UsageError
from assay.core.ids import Ids
from assay.core.method import AbstractMethod
from assay.core.needs import Need
from assay.core.results import Result
from assay.core.scores import Direction
from assay.experiments.scorable import inputs_asked
from assay.methods import METHODS, parse
from assay.methods.aum import AUM
from assay.methods.combine import combine

VARIANTS = []
REFUSED = [
    "methods=aum",
    "methods=aum+aum",
    "methods=aum+entropy",
    "methods=aum+nonsense",
    "methods=combine+aum",
    "methods=loo+aum",
]


def test_by_hand():
    made = combine(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0]]))
    normal = statistics.NormalDist().inv_cdf
    wanted = [(normal(3 / 4) + normal(1.5 / 4)) / 2, (normal(1 / 4) + normal(1.5 / 4)) / 2, (normal(2 / 4) + normal(3 / 4)) / 2]
    assert made.tolist() == pytest.approx(wanted)


def test_options_of_a_part_follow_behind_semicolons():
    method = parse("combine:methods=aum;form=probs+knn_disagreement;features=inputs;k=5")
    assert [one.title for one in method.parts] == ["aum:form=probs", "knn_disagreement:features=inputs,k=5"]
    assert Need.FEATURES in method.reads and method.asks.features == ("inputs",)


@dataclasses.dataclass(frozen=True)
class Half(AbstractMethod):
    """Scores a part of the examples, or gives what is no number."""

    odd: bool = True
    bad: bool = False
    name, reads, direction, unit, source = "half", frozenset({Need.LABELS}), Direction.HIGH_IS_SUSPECT, "none", AUM.source

    def run(self, evidence):
        values = torch.arange(len(evidence.ids), dtype=torch.float64)
        return Result(
            values / 0 - values / 0 if self.bad else values,
            scored=torch.arange(len(values)) % 2 == self.odd,
            diagnostics={"of": 3},
        )


def test_parts_that_score_some_examples_or_none_together(monkeypatch):
    monkeypatch.setitem(METHODS.own, "half", Half)
    evidence = assay.gather_logits(Ids(range(8)), torch.randn(4, 8, 3), torch.arange(8) % 3)
    (made,) = assay.score(evidence, "combine:methods=aum+half").values()
    assert list(made.ids) == [1, 3, 5, 7] and list(made.unscored) == [0, 2, 4, 6] and made.diagnostics == {"half: of": 3}
    with pytest.raises(MissingEvidence, match="no example has a value by all of them"):
        assay.score(evidence, "combine:methods=half+half;odd=false")
    with pytest.raises(BadScores, match="half:bad=True: 4 values are not finite"):
        assay.score(evidence, "combine:methods=aum+half;bad=true")


def test_rows_of_held_out_examples_are_asked_for_by_the_part_that_reads_them():
    method = parse("combine:methods=knn_disagreement;features=rows:z+knn_shapley;features=inputs")
    assert inputs_asked(method) == ["z", ""]


def test_it_is_the_combination_of_the_scores_alone():
    draw = torch.Generator().manual_seed(0)
    evidence = assay.gather_logits(Ids(range(30)), torch.randn(4, 30, 3, generator=draw), torch.arange(30) % 3)
    table = assay.score(evidence, ["combine:methods=aum+loss", "aum", "loss"])
    together = combine(torch.stack([table["aum"].suspicion(), table["loss"].suspicion()]))
    assert torch.equal(table["combine:methods=aum+loss"].values, together)
    with pytest.raises(UsageError, match="ranks difficulty"):
        parse("combine:methods=aum+dual")
