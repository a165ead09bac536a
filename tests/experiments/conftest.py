import pytest

from experiments import small


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A recorded run with planted truth. It is read, never changed, but for the p-values that `verify` keeps in it."""
    return small.recorded(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture
def own(run, tmp_path):
    """The same run, to change."""
    return small.copied(run, tmp_path / "own")
