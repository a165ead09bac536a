import dataclasses
import re

import pytest
from rich.console import Console

from assay import data, methods, nets, policies
from cli.shell import here

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
            assert cls().direction.value in rows[name] and cls().unit in rows[name] and cls.source.cite in rows[name]


@pytest.mark.parametrize("verb", ["methods", "policies"])
def test_what_the_options_of_one_mean_is_told(capsys, verb):
    for name, cls in ROOMS[verb].catalogue().items():
        code, out, _ = here(capsys, verb, name)
        assert code == 0 and cls.source.url in out
        rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
        for field in dataclasses.fields(cls):
            assert len(rows[field.name]) > 2, f"{name}: nothing is said of {field.name}"
    code, _, err = here(capsys, verb, "nonsense")
    assert code == 2 and "is named 'nonsense'" in err


def test_names_stay_in_one_piece_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr("assay.cli.console.console", Console(force_terminal=True, no_color=True, width=60))
    code, out, _ = here(capsys, "methods")
    assert code == 0 and all(name in out for name in methods.catalogue())
    assert max(len(re.sub("\x1b[^m]*m", "", line)) for line in out.splitlines()) <= 60
