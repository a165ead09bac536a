import dataclasses
from typing import ClassVar

import pytest
import torch

from assay.core.errors import BadScores, UndeclaredNeed, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.method import AbstractMethod, Source
from assay.core.needs import Need
from assay.core.results import Result
from assay.core.scores import Direction
from assay.core.scoring import checked, score
from assay.core.spans import checked_window
from assay.methods.aum import AUM
from faulty.methods import LastEntropy, MeanLoss, Undeclared
from methods.worlds import in_memory

EVIDENCE = Evidence(Ids(["a", "b", "c"]), 2, labels=torch.tensor([0, 1, 1]))


@dataclasses.dataclass(frozen=True)
class Says(AbstractMethod):
    """Gives a NaN to the second example, and speaks of all but `silent`."""

    silent: str = "none"
    name: ClassVar[str] = "says"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "none"
    source: ClassVar[Source] = Source("none", "none")

    def run(self, evidence):
        return Result(torch.tensor([1.0, float("nan"), 3.0]))

    def speaks_of(self, evidence):
        return torch.tensor([name != self.silent for name in evidence.ids])


def test_an_example_of_which_the_method_cannot_speak_is_reported():
    (made,) = score([Says(silent="b")], EVIDENCE)
    assert list(made.ids) == ["a", "c"] and list(made.unscored) == ["b"] and made.values.tolist() == [1.0, 3.0]
    assert made.values.dtype == torch.float64 and made.title == "says:silent=b" and made.options == {"silent": "b"}


def test_a_failure_never_becomes_a_score():
    with pytest.raises(BadScores, match="says: 1 values are not finite; ids b"):
        score([Says()], EVIDENCE)
    with pytest.raises(BadScores, match=r"says returned shape \(2,\); expected one number for each of 3"):
        checked(Says(), EVIDENCE, Result(torch.zeros(2)))
    with pytest.raises(BadScores, match=r"returned shape \(3, 1\)"):
        checked(Says(), EVIDENCE, Result(torch.zeros(3, 1)))


def test_folds_and_others_come_back_in_the_order_asked_for():
    losses = torch.rand(3, 3, dtype=torch.float64)
    facts = in_memory({Need.LOSSES: losses, Need.ENTROPIES: losses.flip(0)})
    evidence = Evidence(facts.ids, 2, labels=torch.tensor([0, 1, 1]), epochs=facts._source)

    class First(Says):
        name = "first"

        def run(self, evidence):
            return Result(evidence.labels.double())

    made = score([LastEntropy(), First(), MeanLoss(), MeanLoss(epochs=2)], evidence)
    assert [one.title for one in made] == ["last_entropy", "first", "mean_loss", "mean_loss:epochs=2"]
    torch.testing.assert_close(made[0].values, losses[0])
    torch.testing.assert_close(made[3].values, losses[:2].mean(0))
    assert score([], evidence) == []


def test_what_another_method_of_the_pass_declares_stays_undeclared():
    facts = {Need.LOSSES: torch.rand(3, 3), Need.MARGINS: torch.rand(3, 3)}
    with pytest.raises(UndeclaredNeed, match="`margins` of epoch 0 was read but is not declared"):
        score([AUM(), Undeclared()], in_memory(facts))


def test_checked_window():
    assert checked_window(3) == 3 and checked_window(3, 3) == 3
    with pytest.raises(UsageError, match="window=1 is too short; a window needs at least 2"):
        checked_window(1)
    with pytest.raises(UsageError, match="2 epochs are fewer than window=3"):
        checked_window(3, 2)
