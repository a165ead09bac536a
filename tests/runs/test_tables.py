import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import RunError
from assay.core.ids import Ids
from assay.core.lineage import SCHEMA
from assay.runs.tables import read_examples, read_table, write_examples, write_table
from runs.worlds import recorded

COLUMNS = {"value": "double", "why": "text"}
NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True) | st.lists(
    NAMES, min_size=1, max_size=20, unique=True
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    # A folder such as sweeps make: no part of the path may turn into a column.
    return tmp_path_factory.mktemp("tables") / "seed=3" / "table.parquet"


@settings(max_examples=30, deadline=None)
@given(ids=IDS, names=st.lists(NAMES, min_size=1, max_size=4))
def test_examples_come_back_in_their_order(place, ids, names):
    labels = torch.arange(len(ids)) % len(names)
    write_examples(place, Ids(ids), labels, tuple(names))
    back_ids, back_labels, back_names = read_examples(place)
    assert back_ids == Ids(ids) and list(back_ids) == ids and torch.equal(back_labels, labels) and back_names == tuple(names)


def test_the_file_is_plain_parquet(place):
    write_table(place, "thing", Ids(["b", "a"]), {"value": torch.tensor([1.5, -0.0])}, {"unit": "nats"})
    table = pq.read_table(place, partitioning=None)
    assert table.to_pydict() == {"id": ["b", "a"], "value": [1.5, 0.0]}
    assert json.loads(table.schema.metadata[b"assay"])["unit"] == "nats"


def rewritten(path, **changes):
    table = pq.read_table(path, partitioning=None)
    head = {**json.loads(table.schema.metadata[b"assay"]), **changes}
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"assay": json.dumps(head)}), path)


def test_what_is_no_such_table_is_refused(tmp_path):
    path = tmp_path / "table.parquet"
    with pytest.raises(RunError, match="does not exist"):
        read_table(path, "thing", COLUMNS)
    for body, words in [(b"", "no Parquet file"), (b"PAR1 and so on PAR1", "no Parquet file")]:
        path.write_bytes(body)
        with pytest.raises(RunError, match=words):
            read_table(path, "thing", COLUMNS)
    with pytest.raises(RunError, match="no regular file"):
        read_table(tmp_path, "thing", COLUMNS)
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(RunError, match="holds no thing of assay"):
        read_table(path, "thing", COLUMNS)
    write_table(path, "other", Ids([1, 2]), {}, {})
    with pytest.raises(RunError, match="holds no thing of assay"):
        read_table(path, "thing", COLUMNS)
    write_table(path, "thing", Ids([1, 2]), {"value": torch.zeros(2, dtype=torch.float64), "why": ["", ""]}, {"unit": "nats"})
    rewritten(path, unit="bits")
    with pytest.raises(RunError, match=r"is damaged \(checksum\)"):
        read_table(path, "thing", COLUMNS)
    rewritten(path, schema_version=SCHEMA + 1)
    with pytest.raises(RunError, match=f"has schema {SCHEMA + 1}, this assay reads up to {SCHEMA}; upgrade"):
        read_table(path, "thing", COLUMNS)
    rewritten(path, schema_version="new")
    with pytest.raises(RunError, match="its schema_version is 'new'"):
        read_table(path, "thing", COLUMNS)


@pytest.mark.parametrize("ids", [Ids(range(30)), Ids([f"é{number}" for number in range(30)])], ids=["numbers", "texts"])
def test_every_changed_bit_is_noticed(tmp_path, ids):
    """Or it changes nothing that is read, such as the name of the library that wrote the file."""
    path = tmp_path / "table.parquet"
    values = torch.linspace(0, 1, 30, dtype=torch.float64)
    write_table(path, "thing", ids, {"value": values, "why": ["because"] * 30}, {"unit": "nats"})
    body, before, noticed = path.read_bytes(), read_table(path, "thing", COLUMNS), 0
    for at in range(0, len(body), 3):
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            back, columns, notes = read_table(path, "thing", COLUMNS)
        except RunError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            assert back == before[0] and notes == before[2] and columns["why"] == before[1]["why"]
            assert np.array_equal(columns["value"], before[1]["value"])
    assert noticed > len(body) / 3 * 0.5


THREADS = """
import os, sys
import pyarrow.parquet
from pathlib import Path
from assay.runs.tables import read_table
before = len(os.listdir("/proc/self/task"))
read_table(Path(sys.argv[1]), "examples", {"label": "int64"})
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux tells them")
def test_reading_starts_no_thread_that_could_outlive_the_interpreter(tmp_path):
    recorded(tmp_path / "run", 1)
    told = subprocess.run(
        [sys.executable, "-c", THREADS, str(tmp_path / "run/examples.parquet")], capture_output=True, text=True, check=True
    )
    assert int(told.stdout) == 0
