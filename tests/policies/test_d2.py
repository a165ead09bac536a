import math

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.scores import Direction
from assay.core.selection import choose
from assay.maths.neighbour_graph import joined, k_nearest
from assay.policies.d2 import D2, forward_messages
from policies.worlds import golden_features, in_features, scores

VARIANTS = [{"k": 30}, {"k": 30, "by_class": True, "features": "inputs"}]
REFUSED = [
    *["keep=-0.1", "keep=1.5", "k=0,keep=0.1", "gamma_f=-1,keep=0.1", "gamma_r=inf,keep=0.1", "cutoff=2,keep=0.1"],
    "features=rows:,keep=0.1",
]


def test_golden():
    given = golden_features()
    rows, ranks = given["features"].double(), torch.arange(500)
    graph = joined(*k_nearest(rows, 5, ranks), ranks)
    torch.testing.assert_close(forward_messages(given["forgetting_cap"], graph), given["d2_forward"], rtol=0, atol=1e-10)
    decision = choose(D2(0.3, features="inputs"), scores(given["forgetting_cap"]), in_features(rows))
    assert list(decision.order) == given["d2_pick_keep0.3"].tolist()


def slow(rows, hardness, count, k, gamma_f, gamma_r):
    """The definition, an edge after another."""
    n = len(rows)
    gaps = [[float(np.linalg.norm(rows[i] - rows[j])) for j in range(n)] for i in range(n)]
    near = [sorted((j for j in range(n) if j != i), key=lambda j: (gaps[i][j], j))[:k] for i in range(n)]
    beside = [[j for j in range(n) if j in near[i] or i in near[j]] for i in range(n)]
    values = [hardness[i] + sum(math.exp(-gamma_f * gaps[i][j]) * hardness[j] for j in beside[i]) for i in range(n)]
    taken = []
    while len(taken) < count:
        best = max((i for i in range(n) if i not in taken), key=lambda i: (values[i], -i))
        taken.append(best)
        for j in beside[best]:
            values[j] -= math.exp(-gamma_r * gaps[best][j]) * values[best]
    return taken


@pytest.mark.parametrize(("k", "gamma_f", "gamma_r"), [(1, 1.0, 0.1), (4, 0.0, 1.0), (50, 0.5, 0.5)])
def test_it_is_the_slow_loop(k, gamma_f, gamma_r):
    draw = np.random.default_rng(k)
    rows, hardness = draw.normal(size=(40, 2)), draw.uniform(size=40)
    policy = D2(1.0, features="inputs", k=k, gamma_f=gamma_f, gamma_r=gamma_r)
    decision = choose(policy, scores(hardness), in_features(rows.tolist()))
    assert list(decision.order) == slow(rows, hardness, 40, k, gamma_f, gamma_r)


def test_a_score_whose_low_values_are_hard_is_turned_and_shifted():
    # Released code turns accumulated margin in one mode and not in the other.
    draw = np.random.default_rng(0)
    rows, aum = draw.normal(size=(30, 2)), draw.normal(size=30)
    policy = D2(0.5, features="inputs", k=3)
    by_margin = choose(policy, scores(aum, Direction.LOW_IS_SUSPECT), in_features(rows.tolist()))
    by_hardness = choose(policy, scores(aum.max() - aum), in_features(rows.tolist()))
    unturned = choose(policy, scores(aum - aum.min()), in_features(rows.tolist()))
    assert by_margin.order == by_hardness.order != unturned.order


def test_the_hardest_are_cut_before_and_send_no_messages():
    draw = np.random.default_rng(1)
    rows, hardness = draw.normal(size=(20, 2)), draw.permutation(20).astype(float)
    decision = choose(D2(0.5, features="inputs", k=3, cutoff=0.25), scores(hardness), in_features(rows.tolist()))
    stays = np.flatnonzero(hardness < 15)
    assert list(decision.order) == stays[slow(rows[stays], hardness[stays], 10, 3, 1.0, 0.1)].tolist()
    cut = [i for i, reason in enumerate(decision.reasons) if reason == "among the 5 hardest or most suspect by made, cut before"]
    assert cut == np.flatnonzero(hardness >= 15).tolist()
    with pytest.raises(UsageError, match=r"keep=0.8 asks for 16 of 20 examples, but cutoff=0.25 leaves 15; lower one of them"):
        choose(D2(0.8, features="inputs", cutoff=0.25), scores(hardness), in_features(rows.tolist()))
    nobody = choose(D2(0.0, features="inputs", cutoff=1.0), scores(hardness), in_features(rows.tolist()))
    assert nobody.budget == 0


def test_infinite_scores_and_what_overflows_are_refused():
    with pytest.raises(UsageError, match="1 values of made are infinite and cannot be sent on; ids 1"):
        choose(D2(0.5, features="inputs"), scores([1.0, float("inf")]), in_features([[0.0], [1.0]]))
    with pytest.raises(UsageError, match=r"d2:keep=0.5,features=inputs: Distances are not finite"):
        choose(D2(0.5, features="inputs"), scores([1.0, 2.0, 3.0]), in_features([[0.0], [1e300], [1.0]]))
