"""Methods of other people's packages: found by entry point, refused by name where they cannot be used."""

import pathlib
import sys
import textwrap
import warnings

import pytest

from assay.core import catalogue
from assay.core.catalogue import UNKNOWN, Catalogue
from assay.core.errors import UnknownName, UsageError
from assay.core.method import AbstractMethod
from assay.data import DATASETS
from assay.learners import LEARNERS
from assay.methods import METHODS
from assay.methods.aum import AUM
from assay.methods.confidence import Confidence
from assay.nets import NETS
from assay.policies import LIVE, POLICIES, parse, parse_live
from assay.policies.infobatch import InfoBatch
from assay.policies.top_k import TopK

STRANGER = """
    import dataclasses
    from typing import ClassVar

    from assay.core.accumulators import AbstractMeanMethod
    from assay.core.method import Source
    from assay.core.needs import Need
    from assay.core.scores import Direction


    @dataclasses.dataclass(frozen=True)
    class Stranger(AbstractMeanMethod):
        '''Mean loss, of a stranger.'''

        {field}
        name: ClassVar[str] = "stranger"
        reads: ClassVar[frozenset[Need]] = frozenset({{Need.LOSSES}})
        direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
        {unit}
        source: ClassVar[Source] = Source("nobody", "https://example.org")

        def value(self, epoch):
            return epoch.losses
"""
GOOD = {"field": "", "unit": 'unit: ClassVar[str] = "nats"'}


def package(folder, name, offers, source=STRANGER.format(**GOOD), group="assay.methods"):
    """An installed package: a module and what its metadata offer."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{offer} = {value}" for offer, value in offers.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
    (folder / f"{name}_code.py").write_text(textwrap.dedent(source))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What installs packages and gives the catalogue as a new process sees it."""
    monkeypatch.syspath_prepend(tmp_path)

    before = set(sys.modules)

    def install(name, offers, source=STRANGER.format(**GOOD)):
        package(tmp_path, name, offers, source)
        return Catalogue("method", AbstractMethod, "assay.methods", asked="`assay score RUN NAME`", by_default=True)

    yield install
    for name in set(sys.modules) - before:
        if name.endswith("_code"):
            del sys.modules[name]


def test_a_method_of_another_package_is_found_and_takes_options(installed):
    methods = installed("strangers", {"stranger": "strangers_code:Stranger"})
    cls = methods.find("stranger")
    assert methods.parse("stranger") == cls() and methods.classes() == dict(sorted({**METHODS.own, "stranger": cls}.items()))
    assert methods.parse("stranger:epochs=3").title == "stranger:epochs=3"
    with pytest.raises(UnknownName, match=r"No method is named 'strange'. Did you mean stranger"):
        methods.find("strange")


def test_nothing_of_another_package_is_imported_before_it_is_asked_for(installed):
    methods = installed("bombs", {"bomb": "bombs_code:Bomb"}, "raise SystemError('imported')")
    assert methods.find("aum") is AUM


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise SystemError('out of\\n order')", "SystemError: out of order"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("", "AttributeError: .*Stranger"),
        ("Stranger = 3", "3 is no subclass of AbstractMethod"),
        ("from assay.core.accumulators import AbstractMeanMethod as Stranger", "lacks value of AbstractMethod"),
        (STRANGER.format(**GOOD).replace("@dataclasses.dataclass(frozen=True)", ""), None),
        (STRANGER.format(field="", unit=""), "Stranger does not define its unit"),
        (STRANGER.format(**GOOD).replace('= "stranger"', '= "another"'), "Stranger calls itself 'another'"),
        (
            STRANGER.format(field="many: int = dataclasses.field(kw_only=True)", unit=GOOD["unit"]),
            "missing 1 required keyword-only argument: 'many'",
        ),
    ],
)
def test_what_cannot_be_used_is_an_error_when_asked_for_and_one_warning_in_a_list(installed, source, why):
    methods = installed("broken", {"stranger": "broken_code:Stranger"}, source)
    if why is None:
        # A subclass of a dataclass is one too, with its options.
        assert methods.find("stranger")().title == "stranger"
        return
    with pytest.warns(
        UserWarning, match=rf"^The method 'stranger' of the package broken cannot be used \(.*{why}.*\); mend"
    ) as told:
        assert methods.classes() == METHODS.own
    assert len(told) == 1 and "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert methods.classes() == METHODS.own
    with pytest.raises(UsageError, match=rf"(?s)The method 'stranger' of the package broken cannot be used \(.*{why}"):
        methods.parse("stranger:epochs=3")


def test_a_name_of_ours_stays_ours_and_says_whose_is_left_out(installed):
    methods = installed("thieves", {"confidence": "thieves_code:Stranger"})
    with pytest.warns(
        UserWarning, match="'confidence' of the package thieves is left out, because assay has a method of that name"
    ):
        assert methods.find("confidence") is Confidence


def test_whose_a_class_is(installed):
    methods = installed("offers", {"stranger": "offers_code:Stranger"})
    assert methods.maker(AUM) == "" and methods.maker(methods.find("stranger")) == "offers 1.0"
    assert methods.maker(type("AUM", (AUM,), {})) == methods.maker(type("Other", (AUM,), {"name": "other"})) == UNKNOWN


def test_of_two_packages_with_one_name_neither_is_taken(installed):
    installed("first", {"stranger": "first_code:Stranger"})
    methods = installed("second", {"stranger": "second_code:Stranger"})
    with pytest.raises(UsageError, match=r"cannot be used \(of (first and second|second and first), only one may be installed\)"):
        methods.find("stranger")


@pytest.mark.parametrize(
    "group", ["assay.methods", "assay.policies", "assay.live_policies", "assay.learners", "assay.nets", "assay.datasets"]
)
def test_each_kind_has_a_group_of_entry_points(tmp_path, monkeypatch, group):
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "offers", {"stranger": "offers_code:Nobody"}, group=group)
    kinds = [METHODS, POLICIES, LIVE, LEARNERS, NETS, DATASETS]
    for kind in kinds:
        # As a new process sees it.
        vars(kind).pop("_offered", None)
    try:
        assert [kind.knows("stranger") for kind in kinds] == [kind._group == group for kind in kinds]
        assert sum(kind.knows("stranger") for kind in kinds) == 1
    finally:
        for kind in kinds:
            vars(kind).pop("_offered", None)


@pytest.mark.parametrize(("group", "name"), [("assay.policies", "infobatch"), ("assay.live_policies", "top_k")])
def test_a_policy_of_another_package_hides_none_of_ours_of_the_other_kind(tmp_path, monkeypatch, group, name):
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "offers", {name: "offers_code:Nobody"}, group=group)
    for kind in (POLICIES, LIVE):
        vars(kind).pop("_offered", None)
    try:
        assert POLICIES.knows(name) and LIVE.knows(name)
        if name == "infobatch":
            assert type(parse_live("infobatch")) is InfoBatch
        else:
            assert type(parse("top_k:keep=0.5")) is TopK
            # Not said to be ours, which chooses otherwise.
            with pytest.raises(UsageError, match="The live selector 'top_k' of the package offers cannot be used"):
                parse_live("top_k")
    finally:
        for kind in (POLICIES, LIVE):
            vars(kind).pop("_offered", None)
            vars(kind).pop("_loaded", None)


def test_two_of_ours_with_one_name_are_a_fault_of_ours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / "__init__.py").write_text("")
    for name in ("one", "two"):
        (tmp_path / "twins" / f"{name}.py").write_text(textwrap.dedent(STRANGER.format(**GOOD)))
    with pytest.raises(RuntimeError, match=r"'stranger' is the name of .*twins.one.* and of .*twins.two"):
        Catalogue("method", AbstractMethod, "twins", asked="").classes()


def test_a_name_is_looked_for_in_every_catalogue():
    packages = pathlib.Path(catalogue.__file__).parent.parent.glob("*/__init__.py")
    assert {one.parent.name for one in packages if "Catalogue(" in one.read_text()} == set(catalogue.ROOMS)
