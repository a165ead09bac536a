import os

import pytest
import torch
from torch import nn

from assay.training.device import deterministic, modes_kept, own_random_state, seed_torch


def flags():
    cudnn = torch.backends.cudnn
    return (
        cudnn.deterministic,
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_cuda_is_made_repeatable_and_the_flags_come_back(workspace, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = flags()
    with pytest.raises(ZeroDivisionError), deterministic(torch.device("cuda")):
        assert flags() == (True, False, True, False, workspace or ":4096:8")
        raise ZeroDivisionError
    assert flags() == before
    with deterministic(torch.device("cpu")):
        assert flags() == before


def test_seeding_inside_leaves_the_outside_alone():
    before = torch.get_rng_state()
    with own_random_state(torch.device("cpu")):
        seed_torch(3, torch.device("cpu"))
        first = torch.rand(2)
    assert torch.equal(before, torch.get_rng_state())
    with own_random_state(torch.device("cpu")):
        seed_torch(3, torch.device("cpu"))
        assert torch.equal(first, torch.rand(2))


def test_modes_come_back_module_by_module():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with modes_kept(model):
        model.eval()
    assert [module.training for module in model.modules()] == [True, True, False]
