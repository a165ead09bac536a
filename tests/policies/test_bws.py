import pathlib

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.policies.bws import BWS, window_accuracies, window_starts
from policies.worlds import scores

VARIANTS = [{"features": "inputs"}, {"features": "rows:other", "step": 0.15}]
REFUSED = [
    "keep=-1",
    "step=0,keep=0.3",
    "step=1.5,keep=0.3",
    "penalty=0,keep=0.3",
    "penalty=inf,keep=0.3",
    "features=nothing,keep=0.3",
]


def world(n=80, dims=5, seed=0):
    draw = np.random.default_rng(seed)
    labels = torch.from_numpy(draw.integers(0, 3, n))
    rows = torch.from_numpy(draw.normal(size=(n, dims))) + 1.5 * torch.nn.functional.one_hot(labels, dims)
    return rows, labels, torch.from_numpy(draw.normal(size=n))


def by_hand(rows, labels, order, budget, start, penalty):
    """Normal equations summed example by example, and predictions counted one by one."""
    dims, classes = rows.shape[1], int(labels.max()) + 1
    gram, moments = penalty * np.eye(dims), np.zeros((dims, classes))
    for place in order[start : start + budget].tolist():
        row = rows[place].numpy()
        gram += np.outer(row, row)
        moments[:, labels[place]] += row
    weight = np.linalg.solve(gram, moments)
    return sum(int(np.argmax(row @ weight)) == label for row, label in zip(rows.numpy(), labels.tolist(), strict=True)) / len(
        rows
    )


@pytest.mark.parametrize(("dims", "budget"), [(5, 20), (5, 3), (40, 20)])
@pytest.mark.parametrize("penalty", [1.0, 0.1])
def test_accuracies_are_those_of_the_definition(dims, budget, penalty):
    rows, labels, values = world(dims=dims)
    order = values.argsort(descending=True)
    starts = window_starts(80, budget, 0.1)
    want = [by_hand(rows, labels, order, budget, start, penalty) for start in starts]
    assert window_accuracies(rows[order], labels[order], budget, starts, penalty).tolist() == pytest.approx(want, abs=1e-12)


def test_golden():
    folder = pathlib.Path(__file__).parent.parent / "golden"
    with np.load(folder / "dynamics_windows.npz") as archive:
        golden = {name: torch.from_numpy(archive[name]) for name in archive.files}
    values = golden["forgetting_cap"]
    starts = window_starts(500, 150, 0.05)
    assert starts == golden["bws_start"].tolist()
    order = torch.argsort(values, descending=True, stable=True)
    found = window_accuracies(golden["features"][order], golden["labels"][order], 150, starts)
    assert found.tolist() == pytest.approx(golden["bws_acc"].tolist(), abs=1e-12)
    evidence = Evidence(Ids(range(500)), 10, labels=golden["labels"], inputs={"emb": golden["features"]})
    decision = choose(BWS(0.3, "rows:emb"), scores(values), evidence)
    assert list(decision.kept_ids) == sorted(order[75:225].tolist()) and int(golden["bws_best_start"]) == 75
    assert decision.reasons[int(order[75])].startswith(
        "within the 150 ranks from 75 on (0 is the hardest or most suspect) by made, the best of 15 windows, from which a ridge classifier on rows:emb is "
        "right on 89.4 % of all"
    )


@pytest.mark.parametrize(
    ("examples", "budget", "step", "starts"),
    [(10, 4, 0.2, [0, 2, 4, 6]), (10, 10, 0.05, [0]), (10, 0, 0.5, [0, 5, 10]), (10, 8, 0.05, [0, 1, 2]), (3, 1, 1.0, [0])],
)
def test_windows_start_at_every_step_and_end_within_the_ranking(examples, budget, step, starts):
    assert window_starts(examples, budget, step) == starts


def test_it_passes_over_wrong_labels_and_starts_at_the_hard_end_where_that_is_better():
    """Of wrong labels at the hard end a window is worse than one behind them; the direction of the score says which end that is."""
    rows, labels, _ = world(n=400)
    wrong = torch.arange(400) < 80
    given = torch.where(wrong, (labels + 1) % 3, labels)
    evidence = Evidence(Ids(range(400)), 3, labels=given, inputs=rows)
    for direction, sign in ((Direction.HIGH_IS_SUSPECT, 1), (Direction.LOW_IS_SUSPECT, -1)):
        decision = choose(BWS(80, "inputs"), scores(sign * wrong.double(), direction), evidence)
        assert decision.budget == 80 and not bool(decision.kept[wrong].any())


def test_equal_windows_go_to_the_hardest_and_too_large_rows_are_refused():
    evidence = Evidence(Ids(range(8)), 2, labels=torch.tensor([0, 1] * 4), inputs=torch.ones(8, 2))
    assert list(choose(BWS(2, "inputs"), scores(torch.arange(8.0)), evidence).kept_ids) == [6, 7]
    huge = Evidence(Ids(range(8)), 2, labels=torch.tensor([0, 1] * 4), inputs=torch.full((8, 2), 1e200, dtype=torch.float64))
    with pytest.raises(UsageError, match=r"bws:.*Products of features are not finite"):
        choose(BWS(2, "inputs"), scores(torch.arange(8.0)), huge)


def test_steps_of_less_than_a_rank_are_every_rank():
    # A thousand million multiples of the step would take minutes.
    assert window_starts(30, 10, 1e-9) == window_starts(30, 10, 1 / 30) == list(range(21))


def test_a_penalty_that_rounding_swallows_is_refused():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 2))).repeat(1, 2)
    with pytest.raises(ValueError, match="penalty=1e-300 is lost"):
        window_accuracies(rows, torch.arange(20) % 2, 10, [0], 1e-300)
