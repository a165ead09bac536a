import pytest
import torch

from experiments import small


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Nets this small are slower on several threads, most of all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A recorded run with planted truth. It is read, never changed."""
    return small.recorded(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture
def own(run, tmp_path):
    """The same run, to change."""
    return small.copied(run, tmp_path / "own")
