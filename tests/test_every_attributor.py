"""The laws on every attributor of ours beside those of methods, and the proof that each law can fail."""

import dataclasses

import pytest

from assay.methods import catalogue
from assay.testing import check_method
from assay.testing.attributors import attributes, attributor_laws
from assay.testing.laws import broken_laws
from exports import exported
from faulty.attributors import FAULTY, PAIRS, LastDots

ATTRIBUTORS = {
    method.title: method
    for name, cls in catalogue().items()
    for method in (cls(**given) for given in exported("methods", name, "VARIANTS"))
    if attributes(method) and method.reduce == "mean"
}
"""One for each set of options that is no other way to put the queries together."""


def laws_of(method):
    return attributor_laws(exported("methods", method.name, "PAIRS"))


def marks(method):
    """A law is asked of the first of a method's sets of options, and of the others in the second group."""
    first = next(one for one in ATTRIBUTORS.values() if one.name == method.name)
    return [] if method is first else [pytest.mark.slow]


@pytest.mark.parametrize(
    ("law", "method"),
    [
        pytest.param(law, method, id=f"{law.__name__}-{title}", marks=marks(method))
        for title, method in ATTRIBUTORS.items()
        for law in laws_of(method)
    ],
)
def test_law(law, method):
    law(method)


def test_what_the_faulty_ones_are_made_from_passes():
    assert broken_laws(attributor_laws(PAIRS), LastDots()) == {}


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_every_faulty_attributor_is_caught(cls):
    assert FAULTY[cls] in broken_laws(attributor_laws(PAIRS), cls())


def test_every_law_catches_a_faulty_attributor():
    assert set(FAULTY.values()) == {law.__name__ for law in attributor_laws(PAIRS)}


def test_other_people_hold_theirs_to_the_same_laws():
    @dataclasses.dataclass(frozen=True)
    class OfAStranger(LastDots):
        """A large value helps."""

        source = dataclasses.replace(LastDots.source, url="https://example.org")

    check_method(OfAStranger(), variants=[{}, {"reduce": "sum"}], refused=["reduce=min"], pairs=PAIRS)

    class OfAnother(OfAStranger):
        """A large value helps, and the last example is lost."""

        blocks = next(iter(FAULTY)).blocks

    with pytest.raises(AssertionError, match="breaks the law"):
        check_method(OfAnother(), pairs=PAIRS)
