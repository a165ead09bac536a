"""What type checkers and editors see of the public names, which are loaded when first used."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import assay

ROOT = Path(next(iter(importlib.util.find_spec("assay").submodule_search_locations)))


def test_the_stub_names_what_the_package_gives_and_from_where():
    tree = ast.parse((ROOT / "__init__.pyi").read_text())
    imported = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None
        for alias in node.names
    }
    assert imported == assay._HOMES
    (listed,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(listed) == sorted(assay.__all__) == dir(assay) and len(set(listed)) == len(listed)
    assert all(getattr(assay, name) is not None for name in listed)


@pytest.mark.slow
def test_a_type_checker_sees_functions_and_classes(tmp_path):
    (tmp_path / "user.py").write_text(
        "import assay\n"
        "reveal_type(assay.score)\n"
        "reveal_type(assay.choose(assay.score('x', 'aum')['aum'], 'top_k', keep=0.9).kept_ids)\n"
        "assay.score('x', 'aum', lop=None)\n"
        "assay.unheard_of\n"
    )
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300).stdout.splitlines()
    assert "def (run: str | pathlib.Path" in said[0] and "-> assay.core.scores.ScoreTable" in said[0]
    assert said[1].endswith('Revealed type is "assay.core.ids.Ids"')
    assert 'Unexpected keyword argument "lop" for "score"' in said[2] and "unheard_of" in said[-2]
