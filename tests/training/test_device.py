import os

import pytest
import torch
from torch import nn

from assay.training.device import deterministic, full_precision, modes_kept, own_random_state, seed_torch


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


def said():
    """Every way to ask torch how exactly CUDA multiplies; None where it refuses to tell."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    ways = [
        lambda: [part.fp32_precision for part in (cudnn.conv, cudnn.rnn, matmul)],
        lambda: cudnn.allow_tf32,
        lambda: matmul.allow_tf32,
        torch.get_float32_matmul_precision,
    ]
    found = []
    for way in ways:
        try:
            found.append(way())
        except RuntimeError:
            found.append(None)
    return found


BEFORE = {
    "as torch has it": lambda: None,
    "older, products too": lambda: torch.set_float32_matmul_precision("medium"),
    "older, off": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "newer, everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "newer, products only": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, mixed": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}


@pytest.fixture
def left_as_found():
    """What a test sets is set back as torch had it."""
    first = said()
    parts = torch.backends, torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    words = [part.fp32_precision for part in parts]
    yield
    torch.backends.fp32_precision = words[0]
    torch.backends.cudnn.allow_tf32 = first[1]
    torch.set_float32_matmul_precision(first[3])
    for part, word in zip(parts, words, strict=True):
        part.fp32_precision = word
    assert said() == first


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the older way only")
@pytest.mark.parametrize("set_before", BEFORE.values(), ids=BEFORE)
def test_float32_is_multiplied_with_all_its_bits_and_the_flags_come_back(set_before, left_as_found):
    set_before()
    before = said()
    with full_precision(torch.device("cpu")):
        assert said() == before
    with pytest.raises(ZeroDivisionError), full_precision(torch.device("cuda")):
        inside = said()
        raise ZeroDivisionError
    assert said() == before
    # `none` is what torch does unasked, or what it is asked for everywhere.
    assert set(inside[0]) <= ({"none", "ieee"} if torch.backends.fp32_precision == "none" else {"ieee"})


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
