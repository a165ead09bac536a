"""A toy language model with adapters: influence of the exact kind against training again without each sequence."""

import importlib.util
import pathlib
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
# What transformers and peft say of each other.
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_influence_of_a_fine_tuned_language_model_is_that_of_leaving_out(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location("lora", BENCHMARKS / "lora.py")
    lora = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lora)
    loop = lora.fine_tuned(tmp_path, 24, 2, "sgd")
    trained = {name for name, value in loop.model.named_parameters() if value.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    found = lora.compared(tmp_path, loop, ("sgd_influence",))["sgd_influence"]
    assert found["tau with leave-one-out"] > 0.9
    assert found["largest difference, as a part of the largest value"] < 0.3
