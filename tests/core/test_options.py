import dataclasses
from typing import Literal

import hypothesis
import numpy as np
import pydantic
import pytest
from hypothesis import strategies as st

from assay.core import options
from assay.core.errors import UnknownName, UsageError


@dataclasses.dataclass(frozen=True)
class Knobs:
    """One option of each type."""

    keep: float
    window: int = 10
    epochs: int | None = None
    drop: bool = False
    kind: Literal["abs", "kl"] = "abs"
    never: Literal["epochs"] | float = "epochs"
    where: str = "here"

    def __post_init__(self):
        options.coerce(self, "thing")


def make(**given):
    return options.build(Knobs, "thing", {"keep": 0.5, **given})


def test_split():
    assert options.split("dual") == ("dual", {})
    assert options.split(" dual : window = 5 , drop-last=true,") == ("dual", {"window": "5", "drop_last": "true"})
    for spec, words in [
        ("a:b", "'b' in 'a:b' is not of the form"),
        ("a:=3", "not of the form"),
        ("a:b=1,b=2", "'b' is given twice"),
    ]:
        with pytest.raises(UsageError, match=words):
            options.split(spec)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("keep", "0.25", 0.25),
        ("keep", "1", 1.0),
        ("window", "7", 7),
        ("epochs", "none", None),
        ("epochs", "3", 3),
        ("drop", "true", True),
        ("drop", "No", False),
        ("kind", "kl", "kl"),
        ("never", "epochs", "epochs"),
        ("never", "2", 2.0),
        ("where", "there", "there"),
    ],
)
def test_texts_are_read_as_the_type_of_the_field(name, text, value):
    read = getattr(make(**{name: text}), name)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("keep", "half", "a number"),
        ("keep", None, "a number"),
        ("window", "2.5", "a whole number"),
        ("window", 2.5, "a whole number"),
        ("window", True, "a whole number"),
        ("window", "", "a whole number"),
        ("epochs", "all", "a whole number or none"),
        ("drop", "perhaps", "true or false"),
        ("drop", 1, "true or false"),
        ("kind", "l1", "'abs' or 'kl'"),
        ("never", "max", "'epochs' or a number"),
        ("where", 3, "a text"),
    ],
)
def test_other_values_are_refused(name, value, words):
    with pytest.raises(UsageError, match=f"thing 'Knobs', option '{name}': .* is not {words}"):
        make(**{name: value})
    if not isinstance(value, str):
        with pytest.raises(UsageError, match=f"option '{name}'"):
            Knobs(**{"keep": 0.5, name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("window", True), ("window", 5.0), ("window", "5.0"), ("drop", "on"), ("keep", True)]
)
def test_what_pydantic_would_take_is_refused(name, value):
    """Its lax mode, which reads texts, takes true for 1 and 5.0 for 5; its strict mode reads no texts."""
    kind = {field.name: field.type for field in dataclasses.fields(Knobs)}[name]
    pydantic.TypeAdapter(kind).validate_python(value)
    with pytest.raises(UsageError, match=f"option '{name}'"):
        make(**{name: value})


@pytest.mark.parametrize("given", [{"keep": "0.5"}, {"window": "3"}, {"drop": "true"}, {"never": "2"}, {"epochs": "none"}])
def test_a_finished_instance_holds_no_texts(given):
    with pytest.raises(UsageError, match="stands where a value of another type belongs"):
        Knobs(**{"keep": 0.5, **given})


def test_one_value_one_title():
    assert options.changed(Knobs(keep=1, never=2)) == {"keep": 1.0, "never": 2.0}
    assert type(Knobs(keep=1).keep) is float and type(Knobs(0.5, np.int64(3)).window) is int
    assert type(Knobs(keep=np.float32(0.5)).keep) is float


def test_unknown_and_missing_options():
    with pytest.raises(UnknownName, match=r"No option of thing 'Knobs' is named 'windo'\. Did you mean window "):
        make(windo=3)
    with pytest.raises(UsageError, match="Thing 'Knobs' needs a value for keep; give Knobs:keep=VALUE"):
        options.build(Knobs, "thing", {})
    with pytest.raises(UsageError, match="needs a value for keep; give Knobs:window=3,keep=VALUE"):
        options.build(Knobs, "thing", {"window": 3})


@pytest.mark.parametrize(
    ("spec", "cure"),
    [
        ("Knobs:keep=0.5:window=3", "Knobs:keep=0.5,window=3"),
        ("Knobs:keep=0.5;window=3;kind=kl", "Knobs:keep=0.5,window=3,kind=kl"),
        ("Knobs:window=3,keep=0.5:kind=kl,drop=yes", "Knobs:window=3,keep=0.5,kind=kl,drop=yes"),
    ],
)
def test_options_that_no_comma_separates_are_refused_with_the_spec_that_works(spec, cure):
    with pytest.raises(UsageError, match=rf" Commas separate options: {cure}\.$"):
        options.build(Knobs, "thing", options.split(spec)[1])
    assert options.build(Knobs, "thing", options.split(cure)[1])


@pytest.mark.parametrize("value", ["0.5:3", "0.5:b=3", np.zeros(3)])
def test_other_colons_are_no_options(value):
    with pytest.raises(UsageError, match=r" is not a number\.$"):
        options.build(Knobs, "thing", {"keep": value})


@hypothesis.given(
    keep=st.floats(allow_nan=False),
    window=st.integers(),
    epochs=st.none() | st.integers(),
    drop=st.booleans(),
    kind=st.sampled_from(["abs", "kl"]),
    never=st.just("epochs") | st.floats(allow_nan=False),
)
def test_what_is_joined_is_split_and_built_again(**given):
    knobs = Knobs(**given)
    name, texts = options.split(options.join("knobs", options.changed(knobs)))
    assert name == "knobs" and options.build(Knobs, "thing", texts) == knobs
    every = options.join("knobs", dataclasses.asdict(knobs))
    assert options.build(Knobs, "thing", options.split(every)[1]) == knobs
