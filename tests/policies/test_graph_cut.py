import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.policies.graph_cut import GraphCut
from policies.test_facility_location import drawn, evidence

VARIANTS = [{}]
REFUSED = [
    "keep=-0.1",
    "representation=0,keep=0.1",
    "representation=inf,keep=0.1",
    "representation=nan,keep=0.1",
    "greedy=eager,keep=0.1",
]


@pytest.mark.parametrize("greedy", ["naive", "lazy"])
def test_each_step_is_the_best_of_the_function_as_it_is_written_down(greedy):
    rows = torch.from_numpy(drawn(15))
    s = (1 + torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T) / 2

    def value(chosen):
        return float(0.4 * s[:, chosen].sum() - s[chosen][:, chosen].sum())

    order = []
    for _ in range(8):
        order.append(max((j for j in range(15) if j not in order), key=lambda j: value([*order, j])))
    assert list(choose(GraphCut(8, representation=0.4, greedy=greedy), None, evidence(rows)).order) == order


def test_an_example_that_is_most_like_itself_takes_itself_away():
    # The zeros are half as much like themselves as the others are: with what an example has in common with itself, which DeepCore's code drops, the
    # zeros add 0.9 * 2 - 0.5 and the others 0.9 * 2 - 1 or less.
    decision = choose(GraphCut(1, representation=0.9), None, evidence([[1.0, 0], [-1, 0], [0, 1], [0, 0]]))
    assert decision.order[0] == 3
    assert decision.reasons[3] == "graph_cut 1 in inputs, adds 1.3"


def test_representation_decides_between_the_middle_and_the_margin():
    rows = torch.tensor([[1.0, 0.01 * i] for i in range(8)] + [[-1.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    middle, margin = (choose(GraphCut(3, representation=many), None, evidence(rows)).order for many in (3.0, 0.05))
    assert all(position < 8 for position in middle) and {8, 9} <= set(margin)


def test_a_weight_below_0_is_refused():
    with pytest.raises(UsageError, match=r"representation=-1\.0 is no finite number above 0"):
        GraphCut(3, representation=-1.0)


def test_what_overflows_is_refused_by_its_name():
    with pytest.raises(UsageError, match=r"representation=1e.308 times the similarities is not finite"):
        choose(GraphCut(2, representation=1e308), None, evidence(drawn(20)))
