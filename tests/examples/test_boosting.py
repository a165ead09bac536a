"""The example of boosted trees runs as it stands, is short, and finds what it planted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "boosting.py"


@pytest.mark.slow
def test_the_example_finds_most_of_the_wrong_rows(tmp_path):
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "error", EXAMPLE], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"(\d+) of (\d+) wrong rows are among", done.stdout)
    assert len(counts) == 3 and all(int(found) > 0.6 * int(all_) for found, all_ in counts), done.stdout
    assert len(EXAMPLE.read_text().splitlines()) < 60
