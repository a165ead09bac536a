"""The examples of trainers are run as they stand, and find what they say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "hf_trainer": "transformers",
    "lightning_callback": "lightning",
    "skorch_callback": "skorch",
    "accelerate_loop": "accelerate",
}


def test_examples_are_short():
    for name in NEEDS:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60, name


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_finds_the_wrong_labels(tmp_path, name):
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) of the (\d+) most suspect labels are wrong; (\d+) of (\d+) are in all", done.stdout)
    assert found is not None, done.stdout
    right, suspects, wrong, everyone = map(int, found.groups())
    # Four times what drawing at random would find.
    assert right / suspects > 4 * wrong / everyone
