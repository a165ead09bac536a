import pathlib

import pytest

import assay.methods
from assay.core.errors import UnknownName, UsageError
from assay.methods import catalogue, find, parse
from assay.methods.dual import DUAL
from assay.methods.forgetting import Forgetting


def test_every_file_is_a_method_under_its_own_name():
    files = {path.stem for path in pathlib.Path(assay.methods.__file__).parent.glob("[!_]*.py")}
    assert set(catalogue()) == files == {cls.__module__.rpartition(".")[2] for cls in catalogue().values()}
    assert list(catalogue()) == sorted(catalogue())
    assert find("dual") is DUAL


def test_the_nearest_name_is_offered():
    with pytest.raises(UnknownName, match=r"No method is named 'dul'\. Did you mean dual"):
        find("dul")
    with pytest.raises(UnknownName, match=r"No option of method 'dual' is named 'windo'\. Did you mean window\?"):
        parse("dual:windo=5")


def test_options_as_text_and_by_keyword():
    assert parse("dual:window=5, epochs=30") == DUAL(window=5, epochs=30)
    assert parse("dual:window=5", {"window": 6}) == DUAL(window=6)
    assert parse(DUAL(window=4)) == DUAL(window=4)
    assert parse("dual:epochs=none") == DUAL()
    assert parse("forgetting:never_learned=1000") == Forgetting(never_learned=1000.0) == parse("forgetting:never-learned=1e3")


def test_options_beside_a_finished_method_are_refused():
    with pytest.raises(UsageError, match="dual:window=5 already has its options; window cannot be set"):
        parse(DUAL(window=5), {"window": 6})


def test_what_is_no_name_is_refused():
    with pytest.raises(UsageError, match="3 is no method; give a name such as 'aum'"):
        parse(3)
