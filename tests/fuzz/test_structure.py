"""Structure by hypothesis: files of assay's own making, with values of any kind and pieces of bytes changed in them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.reading import READERS, fed, resealed
from fuzz.seeds import made, recorded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("fuzz") / "run")


@pytest.fixture(scope="module")
def files(whole, tmp_path_factory):
    return made(whole, tmp_path_factory.mktemp("seeds") / "files")


def test_there_is_a_whole_file_for_every_reader(whole, files):
    assert files.keys() == READERS.keys()
    refused = {name for name in READERS if fed(name, files[name], whole) != "read"}
    assert refused <= {"archive"}, "which lacks five batches"


def places(value, way=()):
    """Every place in a JSON value, from the outside in."""
    yield way
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*way, key))


@pytest.mark.parametrize("name", ["header", "outcome", "verdict", "curve", "explanation", "lds", "study"])
def test_any_value_at_any_place(whole, files, name):
    raw = json.loads(files[name])
    every = [way for way in places(raw) if way and way[0] not in ("format", "schema_version", "checksum")]

    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(every), JSON)
    def holds(way, value):
        changed = json.loads(files[name])
        at = changed
        for key in way[:-1]:
            at = at[key]
        at[way[-1]] = value
        fed(name, resealed(json.dumps(changed).encode()), whole)

    holds()


@pytest.mark.parametrize("name", sorted(READERS))
def test_pieces_changed(whole, files, name):
    body = files[name]

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(body)), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=3))
    def holds(changes):
        changed = body
        for at, piece, length in changes:
            changed = changed[:at] + piece + changed[at + length :]
        fed(name, changed, whole)

    holds()
