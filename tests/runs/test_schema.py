import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import RunError
from assay.runs.schema import Commit, File, read_commits, seal, unseal

FLOATS = st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text().filter(lambda key: key not in ("format", "schema_version", "checksum"))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_fields_come_back_as_they_were(fields):
    assert unseal("thing", seal("thing", fields), "here") == fields


def test_tuples_and_numbers_as_keys_come_back_as_json_has_them():
    assert unseal("thing", seal("thing", {"a": (1, (2,)), "b": {3: 4}}), "here") == {"a": [1, [2]], "b": {"3": 4}}


def test_a_changed_field_is_noticed_and_another_layout_is_not():
    body = seal("thing", {"accuracy": 0.91, "names": ["a"]})
    assert unseal("thing", json.dumps(json.loads(body), indent=7).encode(), "here") == {"accuracy": 0.91, "names": ["a"]}
    for old, new in [(b"0.91", b"0.99"), (b'"names"', b'"nameS"'), (b'["a"]', b"[]"), (b'"checksum": "', b'"checksum": "0')]:
        changed = json.dumps(json.loads(body)).encode().replace(old, new)
        assert changed != json.dumps(json.loads(body)).encode()
        with pytest.raises(RunError, match=r"here is damaged \(checksum\)"):
            unseal("thing", changed, "here")
    with pytest.raises(RunError, match="here holds no other of assay"):
        unseal("other", body, "here")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5), st.binary(max_size=30).filter(lambda tail: b"\n" not in tail))
def test_commits_come_back_and_a_torn_tail_does_not_count(names, tail):
    commits = [
        Commit(
            epoch=epoch,
            shard=File(name=f"epochs/epoch-{epoch:06d}.safetensors", sums={name: 2**32 - 1 for name in names}, notes=0),
            live=File(name=f"live/epoch-{epoch:06d}.safetensors", sums={}, notes=7),
            dataset="ab",
            steps=1,
            seconds=0.1,
            at=name,
        )
        for epoch, name in enumerate(names)
    ]
    body = b"".join(commit.line().encode() + b"\n" for commit in commits)
    if b"\t" in tail:
        tail = tail.replace(b"\t", b"")
    assert read_commits(body + tail, "here") == (commits, len(body))
    # A last line that was being written is a beginning of a whole one.
    line = commits[0].line().encode() if commits else b"\t00000000"
    for end in (0, len(line) // 2, len(line) - 1, len(line)):
        assert read_commits(body + line[:end], "here") == (commits, len(body))


def test_a_line_of_a_later_assay_is_refused():
    commit = Commit(epoch=0, shard=File(name="e", sums={}, notes=0), dataset="ab", steps=1, seconds=0.1, at="now")

    class Later(Commit):
        extra: int = 3

    with pytest.raises(RunError, match="here, line 1 is no commit of this assay"):
        read_commits(Later(**commit.model_dump()).line().encode() + b"\n", "here")


@pytest.mark.parametrize(
    "name",
    [
        "../other/epochs/epoch-000000.safetensors",
        "/etc/passwd",
        "epochs/epoch-000001.safetensors",
        "sums/epoch-000000.safetensors",
        "",
    ],
)
def test_a_commit_names_the_files_of_its_epoch_only(name):
    commit = Commit(epoch=0, shard=File(name=name, sums={}, notes=0), dataset="ab", steps=1, seconds=0.1, at="now")
    with pytest.raises(RunError, match=r"here, line 1 names the file .* which is no file of its epoch"):
        read_commits(commit.line().encode() + b"\n", "here")
