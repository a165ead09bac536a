import pytest

from assay.studies.scaling import ScalingGrid, study_scaling

SMALL = {"data": "digits:test=1400", "net": "mlp:widths=16", "seed": 3, "recipe": {"epochs": 2, "batch": 32}}
"""397 of scikit-learn's digits and a small net."""
HOW = {
    "metrics": ("el2n:at=1", "vog"),
    "sizes": (0.5, 1.0),
    "fractions": (0.5,),
    "seeds": 2,
    "probe_epochs": 2,
    "models": 2,
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A small study and its folder, which tests only look at."""
    folder = tmp_path_factory.mktemp("study") / "scaling"
    return study_scaling(folder, SMALL, scale="tiny", grid=ScalingGrid(**HOW)), folder
