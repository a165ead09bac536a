"""The laws on every policy of ours, chosen once or before every epoch, and the proof that each law can fail."""

import pytest

from assay.core import options
from assay.core.errors import UsageError
from assay.core.method import Source
from assay.policies import catalogue, live_catalogue
from assay.testing import check_live_selector, check_selector, live
from assay.testing.laws import broken_laws, refuses
from assay.testing.selectors import BOTH, CLASS_LAWS, LAWS, Case
from exports import exported
from faulty import live as faulty_live
from faulty.policies import FAULTY, SOUND, Drawn, OrderOfIds, Ranked

CASES = {
    f"{name}-{i}": Case(cls, options)
    for name, cls in catalogue().items()
    for i, options in enumerate(exported("policies", name, "VARIANTS"))
}


@pytest.mark.parametrize(
    ("law", "case"),
    [
        # Of a policy's sets of options the first; the others in the second group.
        pytest.param(law, case, id=f"{law.__name__}-{name}", marks=[] if name.endswith("-0") else [pytest.mark.slow])
        for law, applies in LAWS.items()
        for name, case in CASES.items()
        if applies(case)
    ],
)
def test_law(law, case):
    law(case)


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.__name__)
def test_the_laws_pass_what_the_faulty_ones_are_made_from(cls):
    assert broken_laws(LAWS, Case(cls, {})) == {}


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_every_faulty_policy_is_caught(cls):
    assert FAULTY[cls] in broken_laws(LAWS, Case(cls, {}))


def test_every_law_catches_a_faulty_policy():
    assert set(FAULTY.values()) == {law.__name__ for law in LAWS}


@pytest.mark.parametrize("given", [{"keep": "0.3"}, {"keep": None}, {"keep": True}, {"seed": "1"}, {"seed": 0.5}, {"seed": None}])
def test_options_of_another_type_are_refused(given):
    # On a policy of the tests, because the run-time type checker of the tests watches the shipped ones and is faster.
    with pytest.raises(UsageError, match=next(iter(given))):
        Drawn(**{"keep": 0.3, "seed": 1, **given})


@pytest.mark.parametrize("law", CLASS_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", catalogue())
def test_law_of_classes(law, name):
    law(catalogue()[name])


@pytest.mark.parametrize(
    ("changed", "law"),
    [
        ({"__doc__": None}, "it_says_what_it_is"),
        ({"name": ""}, "it_says_what_it_is"),
        ({"source": Source("nobody", "nowhere")}, "it_says_what_it_is"),
        ({"nests": None}, "it_says_whether_it_nests"),
    ],
)
def test_a_class_that_does_not_say_what_it_is_is_caught(changed, law):
    assert broken_laws(CLASS_LAWS, catalogue()["top_k"]) == {}
    assert list(broken_laws(CLASS_LAWS, type("Odd", (catalogue()["top_k"],), {"__doc__": "Odd.", **changed}))) == [law]


def test_an_option_that_is_taken_under_any_name_is_caught(monkeypatch):
    monkeypatch.setattr(options, "build", lambda *given: None)
    assert list(broken_laws(CLASS_LAWS, catalogue()["top_k"])) == ["a_mistyped_option_is_refused_with_the_nearest"]


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in catalogue() for text in exported("policies", name, "REFUSED", [])]
)
def test_options_out_of_range_are_refused(name, text):
    refuses("policy", text)(catalogue()[name])


@pytest.mark.parametrize(
    ("cls", "given", "words"),
    [
        (Ranked, {}, None),
        (Ranked, {"refused": ["keep=0.5"]}, r"ranked:keep=0.5 breaks the law `options_out_of_range_are_refused` .*: not refused"),
        (
            Ranked,
            {"refused": ["kept=2"]},
            r"ranked:kept=2 breaks the law `options_out_of_range_are_refused` .*: it has no such options",
        ),
        (OrderOfIds, {}, r"ranked:keep=0.4 breaks the law `the_order_is_that_of_the_budgets`"),
    ],
)
def test_other_people_are_told_which_law_their_policy_breaks(cls, given, words):
    class OfAStranger(cls):
        """Keeps the largest values."""

        source = Source("nobody", "https://example.org")

    if words is None:
        check_selector(OfAStranger(0.3), refused=["keep=2", "keep=-1"], **given)
        return
    with pytest.raises(AssertionError, match=words):
        check_selector(OfAStranger(0.3), **given)


def test_a_refusal_of_an_option_that_is_missing_is_none_of_the_one_that_is_wrong():
    class OfAStranger(Drawn):
        """Draws."""

        source = Source("nobody", "https://example.org")

    with pytest.raises(AssertionError, match=r"ranked:keep=2 breaks .*: behind keep=2 give seed too, which it needs"):
        check_selector(OfAStranger(0.3, 0), refused=["keep=2"])


def test_the_budgets_are_those_that_the_options_leave_room_for():
    assert (
        max(Case(catalogue()["window"], {"start": 0.2}).keeps)
        == max(Case(catalogue()["ccs"], {"cutoff": 0.2, "strata": 3}).keeps)
        == 0.8
    )
    assert max(Case(catalogue()["top_k"], {}).keeps) == 1.0


SELECTORS = {
    selector.title: selector
    for name, cls in live_catalogue().items()
    for selector in (cls(**given) for given in exported("policies", name, "VARIANTS"))
}


@pytest.mark.parametrize(
    ("law", "selector"),
    [
        pytest.param(law, selector, id=f"{law.__name__}-{title}")
        for title, selector in SELECTORS.items()
        for law, applies in live.LAWS.items()
        if applies(selector)
    ],
)
def test_law_of_live_selectors(law, selector):
    law(selector)


@pytest.mark.parametrize("law", BOTH, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", live_catalogue())
def test_law_of_classes_of_live_selectors(law, name):
    law(live_catalogue()[name])


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in live_catalogue() for text in exported("policies", name, "REFUSED")]
)
def test_options_of_live_selectors_out_of_range_are_refused(name, text):
    refuses("policy", text)(live_catalogue()[name])


@pytest.mark.parametrize("cls", faulty_live.SOUND, ids=lambda cls: cls.__name__)
def test_the_laws_pass_the_live_selectors_that_the_faulty_ones_are_made_from(cls):
    assert broken_laws(live.LAWS, cls()) == {}


@pytest.mark.slow
@pytest.mark.parametrize("cls", faulty_live.FAULTY, ids=lambda cls: cls.__name__)
def test_every_faulty_live_selector_is_caught(cls):
    assert faulty_live.FAULTY[cls] in broken_laws(live.LAWS, cls())


def test_every_law_catches_a_faulty_live_selector():
    assert set(faulty_live.FAULTY.values()) == {law.__name__ for law in live.LAWS}


def test_other_people_are_told_which_law_their_live_selector_breaks():
    class OfAStranger(faulty_live.Unweighted):
        """Leaves easy examples out."""

        source = Source("nobody", "https://example.org", "none")

    with pytest.raises(
        AssertionError,
        match=r"drops breaks the law `the_expected_gradient_is_that_of_all` .*always has a weight|drops breaks .*standard errors from 1",
    ):
        check_live_selector(OfAStranger())
    with pytest.raises(AssertionError, match=r"drops:ratio=2 breaks the law `options_out_of_range_are_refused` .*: not refused"):
        check_live_selector(OfAStranger(), refused=["ratio=2"])
