import pytest

from assay.core.errors import UnknownName, UsageError
from assay.policies import catalogue, find, parse
from assay.policies.beta import Beta
from assay.policies.top_k import TopK


def test_every_policy_is_found():
    assert list(catalogue()) == sorted(
        [
            "beta",
            "bottom_k",
            "bws",
            "cal",
            "ccs",
            "confident_learning",
            "contextual_diversity",
            "craig",
            "d2",
            "deepfool",
            "facility_location",
            "glister",
            "gradmatch",
            "graph_cut",
            "herding",
            "k_center",
            "log_determinant",
            "metriq",
            "moderate",
            "per_class",
            "random",
            "relabel",
            "remove_worst",
            "ssp",
            "threshold",
            "top_k",
            "window",
            "zcore",
        ]
    )
    assert find("top_k") is TopK


def test_the_nearest_name_is_offered():
    with pytest.raises(UnknownName, match=r"No policy is named 'topk'\. Did you mean top_k"):
        find("topk")


def test_options_as_text():
    assert parse("beta:keep=0.3,seed=4,c_d=5.5") == Beta(0.3, 4, c_d=5.5)
    assert parse("beta:keep=0.3", {"seed": 4}).title == "beta:keep=0.3,seed=4"
    assert parse(TopK(0.5)) == TopK(0.5)
    with pytest.raises(UsageError, match="already has its options"):
        parse(TopK(0.5), {"keep": 0.3})
    with pytest.raises(UsageError, match="by"):
        parse("top_k:keep=0.3,by=hardness")
    with pytest.raises(UnknownName, match="Did you mean keep"):
        parse("top_k:kep=0.3")
