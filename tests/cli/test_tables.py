import dataclasses
import subprocess
import sys

import pytest

from assay import data, methods, nets, policies
from cli.shell import ENVIRONMENT, here

ROOMS = {"methods": methods, "policies": policies, "datasets": data, "nets": nets}


@pytest.mark.parametrize("verb", ROOMS)
def test_the_table_has_a_row_for_every_entry_with_its_options(capsys, verb):
    code, out, _ = here(capsys, verb)
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    for name, cls in ROOMS[verb].catalogue().items():
        for field in dataclasses.fields(cls):
            assert field.name in rows[name], (name, field.name)
        if verb == "methods":
            assert cls.direction.value in rows[name] and cls.unit in rows[name] and cls.source.cite in rows[name]


def test_names_stay_in_one_piece_on_a_narrow_terminal():
    script = (
        "from assay.cli.console import console; console._force_terminal = True; from assay.cli import main; main(['methods'])"
    )
    environment = {**ENVIRONMENT, "COLUMNS": "60", "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in methods.catalogue())
    assert max(map(len, done.stdout.splitlines())) < 150
