"""SelfClean's score of labels: by hand, pair by pair, and at its edges."""

import pytest
import torch

from assay.methods.selfclean import selfclean

VARIANTS = [{"features": "inputs"}, {"features": "inputs", "metric": "euclidean"}]
REFUSED = ["metric=l1", "features=pictures"]


def test_by_hand():
    rows, labels = torch.tensor([[0.0], [1.0], [3.0], [3.5]]), torch.tensor([0, 0, 1, 0])
    # Nearest of its class and of another: 1 and 3, 1 and 2, none and 0.5, 2.5 and 0.5.
    expected = torch.tensor([9 / 10, 4 / 5, 0.0, 0.25 / 6.5], dtype=torch.float64)
    torch.testing.assert_close(selfclean(rows, labels, "euclidean"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pair_by_pair(metric):
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 3, generator=draw, dtype=torch.float64), torch.randint(3, (40,), generator=draw)
    expected = []
    for one in range(40):
        apart = (
            (rows - rows[one]).norm(dim=1) if metric == "euclidean" else 1 - torch.cosine_similarity(rows, rows[one : one + 1])
        )
        others = torch.arange(40) != one
        own, other = (float(apart[others & kind].min()) for kind in (labels == labels[one], labels != labels[one]))
        expected.append(other**2 / (own**2 + other**2))
    torch.testing.assert_close(selfclean(rows, labels, metric), torch.tensor(expected).double(), rtol=1e-6, atol=1e-9)


def test_edges():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Duplicates of both classes; and one that is alone in its class.
    assert selfclean(rows, torch.tensor([0, 0, 1, 1])).tolist() == [0.5, 0.5, 0.0, 0.5]
    assert selfclean(rows, torch.zeros(4, dtype=torch.int64)).tolist() == [1.0] * 4
    assert selfclean(rows, torch.arange(4)).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="there is one example"):
        selfclean(rows[:1], torch.tensor([0]))
