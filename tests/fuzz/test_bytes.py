"""Bytes by atheris: each reader fuzzed by coverage for some seconds, from whole files and from what was once found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.reading import LONGEST, READERS, fed
from fuzz.seeds import made, recorded

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
"""A folder by reader: inputs that once ended in something else than a value or a sentence, or that cost too much."""
SECONDS = int(os.environ.get("FUZZ_SECONDS", "8"))
"""For each reader."""


@pytest.mark.parametrize(
    "path", sorted(path for path in CORPUS.rglob("*") if path.is_file()), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_was_found_before(path, tmp_path):
    fed(path.parent.name, path.read_bytes(), recorded(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_gives_the_right_answer_or_an_error_of_ours(name, tmp_path):
    pytest.importorskip("atheris", reason="atheris has no build for this Python")
    corpus, found = tmp_path / "corpus", tmp_path / "found"
    corpus.mkdir(), found.mkdir()
    (corpus / "whole").write_bytes(made(recorded(tmp_path / "run"), tmp_path / "files")[name])
    for path in (CORPUS / name).glob("*"):
        shutil.copy(path, corpus)
    flags = [
        f"-max_total_time={SECONDS}",
        "-timeout=20",
        "-rss_limit_mb=0",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={found}/",
        "-seed=1",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(HERE / "bytes_by_atheris.py"), name, *flags, str(corpus)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS + 300)
    kept = [path.name for path in found.iterdir()]
    assert process.returncode == 0 and not kept, f"{kept}: move them to {CORPUS / name}\n{process.stderr[-3000:]}"
