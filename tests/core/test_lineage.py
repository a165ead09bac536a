import hypothesis
from hypothesis import strategies as st

from assay.core.lineage import fingerprint

PARTS = st.lists(st.binary(max_size=8), max_size=4)


@hypothesis.given(PARTS, PARTS)
def test_a_fingerprint_keeps_its_parts_apart(one, two):
    assert (fingerprint(*one) == fingerprint(*two)) == (one == two)


def test_texts_and_bytes():
    assert fingerprint("ab") == fingerprint(b"ab") and fingerprint("a", "b") != fingerprint("ab")
    assert len(fingerprint()) == 16
