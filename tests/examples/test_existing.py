"""The example of what exists already runs as it stands, is short, and finds what it planted."""

import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "existing.py"


def test_the_example_finds_most_of_the_wrong_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = re.findall(r"^(.+): (\d+) of (\d+) wrong rows are among", capsys.readouterr().out, re.MULTILINE)
    assert [title for title, _, _ in said] == ["out of fold", "aum", "tracin:target=self", "grand:at=0"]
    assert all(int(found) > 0.6 * int(every) for _, found, every in said), said
    assert len(EXAMPLE.read_text().splitlines()) < 60
