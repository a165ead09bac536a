import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.maths.coverage import herded
from assay.policies.herding import Herding
from policies.worlds import in_features

VARIANTS = [{}, {"features": "inputs", "by_class": True}]
REFUSED = ["keep=-0.1", "keep=1.5", "keep=-1", "features=rows:,keep=0.1"]


def test_by_hand():
    # The mean is 3: 3.5 is nearest to it, 2.5 brings the mean of two to 3, and then 2 comes nearest. Released code begins at 9.
    decision = choose(
        Herding(3, features="inputs"), None, in_features([[1.0], [2.0], [3.5], [0.0], [9.0], [2.5]], ids=[5, 3, 8, 1, 2, 9])
    )
    assert list(decision.order) == [8, 9, 3]
    assert decision.reasons[2] == "number 1: with it the mean in inputs is 0.5 from that of all"
    assert decision.reasons[4] == "others keep the mean in inputs nearer to that of all"


def test_the_mean_of_what_stays_is_nearer_than_at_random():
    rows = torch.randn(300, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = choose(Herding(0.1, features="inputs"), None, in_features(rows)).kept
    gap = float((rows[kept].mean(0) - rows.mean(0)).norm())
    draw = torch.Generator().manual_seed(1)
    drawn = [float((rows[torch.randperm(300, generator=draw)[:30]].mean(0) - rows.mean(0)).norm()) for _ in range(20)]
    assert gap < min(drawn) / 3


def test_each_class_is_herded_to_its_own_mean():
    rows, labels = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4 // 3
    decision = choose(Herding(12, features="inputs", by_class=True), None, in_features(rows, labels), ["ant", "bee"])
    for label, count in ((0, 9), (1, 3)):
        members = (labels == label).nonzero().flatten()
        taken = [place for place in decision.order if labels[place] == label]
        assert taken == members[herded(rows[members], count, members)[0]].tolist()
    assert sum("of class bee" in reason for reason in decision.reasons) == 3


def test_what_overflows_is_refused_with_the_policy():
    with pytest.raises(UsageError, match="herding:keep=1,features=inputs: Distances are not finite"):
        choose(Herding(1, features="inputs"), None, in_features([[0.0], [1e300]]))
