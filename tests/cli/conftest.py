import shutil

import pytest

from assay.cli.app import run_app
from cli.shell import SMALL


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Folder of a recorded run with every score and one decision, `drop`. It is read, never changed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert run_app(["record", str(folder), *SMALL]) == 0
    assert run_app(["score", str(folder), "all"]) == 0
    assert run_app(["choose", str(folder), "aum", "--policy", "top_k", "--keep", "0.9", "--name", "drop"]) == 0
    return folder


@pytest.fixture
def own(recorded, tmp_path):
    """The same run, to change."""
    return shutil.copytree(recorded, tmp_path / "own")
