import csv
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from assay.core.errors import NotWritten, UsageError
from assay.core.tabular import Table, texts, whole_or_none
from assay.runs.table_files import RISKY, WRITERS, guarded, read_rows, unguarded

TABLE = Table(
    "all kinds",
    {
        "id": texts(["=1+1", "'", "-5", "plain", '@a,"b"\nc']),
        "value": np.array([0.1, -2.5, np.nan, 1e-300, 3.0]),
        "label": whole_or_none(np.array([1, 0, 2, 0, 0]), np.array([True, False, True, True, False])),
    },
)


@hypothesis.given(st.text(max_size=6).map(lambda text: text) | st.text("=+-@'\t\ra", max_size=5))
def test_no_cell_is_a_formula_and_each_comes_back(text):
    assert unguarded(guarded(text)) == text
    assert guarded(text)[:1] not in set(RISKY) - {"'"}


def test_a_spreadsheet_sees_texts_and_numbers(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "value", "label"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "''", "'-5", "plain", '\'@a,"b"\nc']
    # A number that is negative is no formula.
    assert [row[1] for row in rows[1:]] == ["0.1", "-2.5", "nan", "1e-300", "3.0"]
    assert [row[2] for row in rows[1:]] == ["1", "", "2", "0", ""]


@pytest.mark.parametrize("kind", WRITERS)
def test_ids_come_back_from_every_kind_of_file(tmp_path, kind):
    getattr(TABLE, f"to_{kind}")(str(tmp_path / "t"))
    rows = read_rows(tmp_path / "t", kind)
    assert [row["id"] for row in rows] == TABLE.to_numpy()["id"].tolist()
    assert [None if row["label"] is None else int(row["label"]) for row in rows] == [1, None, 2, 0, None]
    assert float(rows[3]["value"]) == 1e-300


def test_json_lines_are_json(tmp_path):
    TABLE.to_jsonl(tmp_path / "t.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert rows[2] == {"id": "-5", "value": None, "label": 2}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_cannot_be_written_or_read_is_a_sentence(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"\xff\x00{")
    with pytest.raises(NotWritten):
        getattr(TABLE, f"to_{kind}")(tmp_path / "file" / "t")
    with pytest.raises(UsageError, match="does not exist; name the file to import"):
        read_rows(tmp_path / "nowhere", kind)
    with pytest.raises(UsageError, match="is damaged or of another kind"):
        read_rows(tmp_path / "file", kind)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("csv", "id,id\n1,2\n", "several columns named id"),
        ("csv", "id,action\n1,drop\n2\n", "line 3: 1 cells under 2 column names"),
        ("jsonl", '{"id": 1}\n[2]\n', "line 2 is no object"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, kind, text, words):
    (tmp_path / "t").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_rows(tmp_path / "t", kind)


def test_what_a_spreadsheet_saves_is_read(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfid,action\r\n'=x,drop\r\n\r\n")
    assert read_rows(tmp_path / "t.csv", "csv") == [{"id": "=x", "action": "drop"}]
