"""The laws on every method of ours, and the proof that each law can fail."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from assay.core.errors import UndeclaredNeed, UsageError
from assay.core.method import MonteCarlo
from assay.core.needs import EPOCH_NEEDS, Need
from assay.core.scores import Direction
from assay.core.scoring import score
from assay.methods import catalogue, parse
from assay.runs.artefacts import load_scores, save_scores
from assay.testing import check_method
from assay.testing.laws import broken_laws, refuses
from assay.testing.methods import CLASS_LAWS, it_is_the_same_in_company, laws_of
from assay.testing.worlds import named, world
from exports import exported
from faulty.methods import BRUTE, FAULTY, SOUND, MeanLoss

METHODS = {
    method.title: method
    for name, cls in catalogue().items()
    for method in (cls(**given) for given in exported("methods", name, "VARIANTS"))
}


BRUTES = {name: brute for name in catalogue() if (brute := exported("methods", name, "BRUTE", None)) is not None}
"""Limits of the Monte Carlo methods, by name."""


def marks(law, method):
    """A law is asked of one of a method's sets of options, and of the others in the second group. Of what trains again without each example the last set
    trains least; a limit is asked of the first.
    """
    alike = [one for one in METHODS.values() if one.name == method.name]
    limit = law.__name__ == "it_converges_to_brute_force"
    one = alike[-1] if method.retrains and not limit else alike[0]
    return [pytest.mark.slow] if method is not one or (limit and method.retrains and method is not alike[-1]) else []


@pytest.mark.parametrize(
    ("law", "method"),
    [
        pytest.param(law, method, id=f"{law.__name__}-{title}", marks=marks(law, method))
        for title, method in METHODS.items()
        for law, applies in laws_of(BRUTES.get(method.name)).items()
        # Everybody in the company of everybody is one call, below.
        if applies(method) and law is not it_is_the_same_in_company
    ],
)
def test_law(law, method):
    law(method)


@functools.cache
def together():
    """The scores of all methods in one call, by title."""
    return {scores.title: scores for scores in score(list(METHODS.values()), world().evidence())}


def test_all_methods_at_once_and_in_the_other_order():
    backwards = score(list(METHODS.values())[::-1], world().evidence())
    assert len(backwards) == len(together()) == len(METHODS)
    for scores in (*together().values(), *backwards):
        assert torch.equal(scores.values, world().base(METHODS[scores.title])), scores.title


def broken(cls, *names):
    """The laws of these names, by default all, that a method breaks."""
    laws = laws_of(BRUTE if isinstance(cls.exactness, MonteCarlo) else None)
    return broken_laws({law: applies for law, applies in laws.items() if not names or law.__name__ in names}, cls())


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.__name__)
def test_the_laws_pass_what_the_faulty_ones_are_made_from(cls):
    assert broken(cls) == {}


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_every_faulty_method_is_caught(cls):
    assert [*broken(cls, FAULTY[cls])] == [FAULTY[cls]]


def test_every_law_catches_a_faulty_method():
    assert set(FAULTY.values()) == {law.__name__ for law in laws_of(BRUTE)}


def test_every_method_that_draws_has_a_limit_and_no_other():
    assert BRUTES.keys() == {name for name, cls in catalogue().items() if isinstance(cls.exactness, MonteCarlo)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {},
            r"mean_loss breaks the law `it_points_the_declared_way` \(Planted wrong labels .* says\): the AUC of the planted examples is 0.0",
        ),
        ({"refused": ["epochs=3"]}, r"mean_loss:epochs=3 breaks the law `options_out_of_range_are_refused` .*: not refused"),
        ({"variants": [{"epochs": 8}]}, r"mean_loss:epochs=8 breaks the law `it_points_the_declared_way`"),
    ],
)
def test_other_people_are_told_which_law_their_method_breaks(given, words):
    class OfAStranger(MeanLoss):
        """A large loss is no sign of a right label."""

        direction = Direction.LOW_IS_SUSPECT
        source = dataclasses.replace(MeanLoss.source, url="https://example.org")

    with pytest.raises(AssertionError, match=words):
        check_method(OfAStranger(), **given)


def test_all_four_directions_are_there():
    assert {method.direction for method in METHODS.values()} == set(Direction)


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in catalogue() for text in exported("methods", name, "REFUSED", [])]
)
def test_options_out_of_range_are_refused(name, text):
    refuses("method", text)(catalogue()[name])


def test_every_method_with_a_number_or_a_choice_has_options_that_it_refuses():
    # A text of any kind may be all that an option takes.
    free = {
        name
        for name, cls in catalogue().items()
        if all(field.type in (str, "str", str | None) for field in dataclasses.fields(cls))
    }
    assert {name for name in catalogue() if not exported("methods", name, "REFUSED", [])} <= free


@pytest.mark.parametrize("law", CLASS_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", catalogue())
def test_law_of_classes(law, name):
    law(catalogue()[name])


@pytest.mark.parametrize(
    "changed",
    [{"__doc__": None}, {"unit": ""}, {"source": dataclasses.replace(MeanLoss.source, url="nowhere")}, {"title": "other"}],
)
def test_a_class_that_does_not_say_what_it_is_is_caught(changed):
    cls = catalogue()["aum"]
    assert broken_laws(CLASS_LAWS, cls) == {}
    assert list(broken_laws(CLASS_LAWS, type("Odd", (cls,), {"__doc__": "Odd.", **changed}))) == ["it_says_what_it_is"]


@pytest.mark.parametrize("given", [{"epochs": "3"}, {"epochs": 2.5}, {"epochs": True}])
def test_options_of_another_type_are_refused(given):
    # On a method of the tests, because the run-time type checker of the tests watches the shipped ones and is faster.
    with pytest.raises(UsageError, match="method 'mean_loss', option 'epochs'"):
        MeanLoss(**given)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert MeanLoss(epochs=np.int64(3)).title == "mean_loss:epochs=3" and type(MeanLoss(epochs=np.int64(3)).epochs) is int


def check_saved(scores, method, path):
    save_scores(scores, path)
    again = load_scores(path)
    assert again.fingerprint == scores.fingerprint and torch.equal(again.values, scores.values)
    assert (again.repeats is None) == (scores.repeats is None)
    assert scores.repeats is None or torch.equal(again.repeats, scores.repeats)
    assert (again.ids, again.method, again.options, again.title) == (scores.ids, scores.method, scores.options, scores.title)
    assert (again.direction, again.unit, again.unscored) == (scores.direction, scores.unit, scores.unscored)
    assert parse(again.title) == method


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_saved_and_loaded_is_the_same(method, tmp_path):
    check_saved(together()[method.title], method, tmp_path / "scores.parquet")


@pytest.mark.parametrize("title", ["aum", "outlier_distance:features=inputs"])
def test_saved_and_loaded_under_ids_that_are_texts_is_the_same(title, tmp_path):
    method = parse(title)
    check_saved(score([method], named().evidence())[0], method, tmp_path / "scores.parquet")


@pytest.mark.parametrize("name", catalogue())
def test_every_method_is_named_like_its_file_and_its_pure_function(name):
    cls = catalogue()[name]
    ours = [one for one in cls.__subclasses__() if one.__module__.startswith("assay.")]
    assert cls.name == name == cls.__module__.rpartition(".")[2] and not ours
    assert callable(getattr(__import__(cls.__module__, fromlist=[name]), name))


@pytest.mark.parametrize("need", sorted(EPOCH_NEEDS, key=lambda need: need.value), ids=lambda need: need.value)
def test_every_undeclared_fact_of_an_epoch_raises(need):
    view = world().evidence().narrow("nobody", frozenset(EPOCH_NEEDS - {need}))
    with pytest.raises(UndeclaredNeed, match=f"`{need.value}` of epoch 0 was read but is not declared"):
        getattr(view.epoch(0), need.value)
    with pytest.raises(UndeclaredNeed, match=need.value):
        getattr(view.epoch(0).narrow(EPOCH_NEEDS), need.value)


@pytest.mark.parametrize("need", sorted(set(Need) - EPOCH_NEEDS, key=lambda need: need.value), ids=lambda need: need.value)
def test_every_other_undeclared_fact_raises(need):
    view = world().evidence().narrow("nobody", EPOCH_NEEDS)
    with pytest.raises(UndeclaredNeed, match=f"`{need.value}` was read but is not declared"):
        asked = {
            Need.FEATURES: lambda: view.features("inputs"),
            Need.GAME: lambda: view.game("tree"),
            Need.HELD_OUT: lambda: view.held_out("validation"),
        }
        asked.get(need, lambda: getattr(view, need.value))()
