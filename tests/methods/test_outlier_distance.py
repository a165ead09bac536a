"""Outlier distance: by hand, by scikit-learn, and at duplicates."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import assay
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.methods.outlier_distance import outlier_distance

VARIANTS = [{"features": "inputs"}, {"features": "inputs", "metric": "euclidean", "reduce": "kth", "k": 8}]
REFUSED = ["k=0", "metric=l1", "reduce=max", "features=pictures"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_it_is_what_scikit_learn_finds(metric):
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart, _ = NearestNeighbors(n_neighbors=4, metric=metric, algorithm="brute").fit(rows.numpy()).kneighbors()
    apart = torch.from_numpy(apart)
    torch.testing.assert_close(outlier_distance(rows, 4, metric), apart.mean(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(outlier_distance(rows, 4, metric, "kth"), apart[:, -1], rtol=1e-9, atol=1e-12)


def test_duplicates_are_at_distance_0_and_scale_is_that_of_the_rows():
    rows = torch.tensor([[3e150, 1e150], [3e150, 1e150], [0.0, 4e150], [0.1, 0.3]], dtype=torch.float64)
    found = outlier_distance(rows, 1, "euclidean")
    assert found[:2].tolist() == [0.0, 0.0] and float(found[3]) == pytest.approx(10**0.5 * 1e150)
    assert outlier_distance(rows, 1)[:2].tolist() == [0.0, 0.0]
    with pytest.raises(UsageError, match="k=10 neighbours are asked for and there are 3"):
        assay.score(
            assay.gather_inputs(Ids(range(4)), rows, torch.zeros(4, dtype=torch.int64)), "outlier_distance:features=inputs"
        )
