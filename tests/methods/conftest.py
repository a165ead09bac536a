import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small trainings are taken again at the number of threads they were recorded at; workers side by side would fight for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
