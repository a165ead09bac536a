import itertools

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.policies.log_determinant import LogDeterminant
from policies.test_facility_location import drawn, evidence

VARIANTS = [{}]
REFUSED = ["keep=-0.1", "ridge=0,keep=0.1", "ridge=nan,keep=0.1", "greedy=eager,keep=0.1"]


def volume(rows, chosen, ridge=0.01):
    unit = torch.nn.functional.normalize(rows[list(chosen)])
    return float(torch.logdet((1 + unit @ unit.T) / 2 + ridge * torch.eye(len(chosen), dtype=torch.float64)))


def test_each_step_leaves_the_largest_volume():
    rows, order = torch.from_numpy(drawn(15, 3)), []
    # More than dimensions, so that the ridge decides too.
    for _ in range(8):
        order.append(max((j for j in range(15) if j not in order), key=lambda j: volume(rows, [*order, j])))
    decision = choose(LogDeterminant(8), None, evidence(rows))
    assert list(decision.order) == order
    assert decision.reasons[order[0]].endswith("in inputs, adds 0.00995 to the log of the volume")


def test_it_spreads_and_does_not_crowd():
    # The variance that is explained, which DeepCore's code maximises, would take the neighbours of the first.
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [-1.0, 0.3], [0.0, 1.0]], dtype=torch.float64)
    kept = choose(LogDeterminant(3), None, evidence(rows)).order
    assert set(kept) == max(
        (set(subset) for subset in itertools.combinations(range(5), 3)), key=lambda subset: volume(rows, subset)
    )
    assert {3, 4} <= set(kept)


def test_no_ridge_is_refused():
    with pytest.raises(UsageError, match=r"ridge=0\.0 is no finite number above 0"):
        LogDeterminant(3, ridge=0.0)


def test_a_ridge_that_rounding_swallows_is_refused_by_its_name():
    rows = np.repeat(np.eye(8) + 0.1, 2, 0)
    with pytest.raises(UsageError, match=r"ridge=1e-300 is lost in the rounding of similarities; give at least 1\.4e-14"):
        choose(LogDeterminant(16, ridge=1e-300), None, evidence(rows))
    assert {i // 2 for i in choose(LogDeterminant(8, ridge=1.5e-14), None, evidence(rows)).order} == set(range(8))
