"""Checks of the arguments of public functions against their annotations, so that a wrong kind gives one sentence, not a deep traceback."""

import functools
import inspect
import numbers
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

import jaxtyping
import numpy as np
from torch import Tensor

from .errors import UsageError

Taken = ParamSpec("Taken")
Returned = TypeVar("Returned")
Made = TypeVar("Made")

PLAIN = (int, float, str, bool, object)
"""Kinds whose single values in a list are left to the function, which can say which of them is wrong."""


def checked_arguments(function: Callable[Taken, Returned]) -> Callable[Taken, Returned]:
    """The same function, which refuses arguments of another kind than its annotations say before it does anything.

    Missing or unknown arguments still raise Python's TypeError. The function itself checks which values of the right kind it accepts.

    Returns:
        A function of the same signature and name.

    Raises:
        UsageError: From the function that is returned: an argument is of a wrong kind; names it and the kinds that fit.
    """
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        return typing.get_type_hints(function)

    @functools.wraps(function)
    def held(*args: Taken.args, **kwargs: Taken.kwargs) -> Returned:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            # Python's own words name the function, which those of `bind` do not.
            return function(*args, **kwargs)
        for name, value in bound.arguments.items():
            hint, kind = hints().get(name, Any), signature.parameters[name].kind
            if kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL) or name == "self":
                continue
            if value is signature.parameters[name].default:
                continue
            if not fits(value, hint):
                raise UsageError(refusal(_called(function), name, value, hint))
            if words := _no_path(value, hint):
                raise UsageError(f"{_called(function)}: {name}= {words}")
        return function(*args, **kwargs)

    return held


def moved_keywords(places: Mapping[str, str]) -> Callable[[Callable[Taken, Returned]], Callable[Taken, Returned]]:
    """A decorator for a function of which keywords of before have another name now, or are fields of a value that it takes.

    Args:
        places: How each is given now, by its name, with `{name}` for it.

    Returns:
        A decorator that keeps signature and name.

    Raises:
        UsageError: From the function that is returned: a keyword is one of before; says how it is given now.
    """

    def decorated(function: Callable[Taken, Returned]) -> Callable[Taken, Returned]:
        @functools.wraps(function)
        def held(*args: Taken.args, **kwargs: Taken.kwargs) -> Returned:
            for name in kwargs:
                if name in places:
                    raise UsageError(f"{_called(function)}: {name}= is now given as {places[name].format(name=name)}.")
            return function(*args, **kwargs)

        return held

    return decorated


def check_fields(made: Any) -> None:
    """Check the fields of a dataclass instance against their annotations.

    Raises:
        UsageError: A field is of a wrong kind; names it and the kinds that fit.
    """
    cls: Any = type(made)
    for name, hint in _fields(cls).items():
        if not fits(value := getattr(made, name), hint):
            raise UsageError(refusal(cls.__name__, name, value, hint))


def checked_fields(cls: type[Made]) -> type[Made]:
    """Decorator of a dataclass: its fields are checked against their annotations before its own `__post_init__` runs."""
    own: Callable[[Any], None] | None = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_fields(self)
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return cls


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: hints[name] for name in cls.__dataclass_fields__}


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of a kind that the annotation allows. Only the kind is checked, never the range, the size or the type of numbers."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin is typing.Literal:
        return type(value) in {type(one) for one in inner}
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and _all_fit(value.values(), inner[1])
    if origin is Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Iterable) and origin.__module__ in ("collections.abc", "builtins"):
        # A text is a row of characters where any row will do.
        no_row = (type, bytes, Mapping) if origin is Iterable or inner[0] is str else (type, str, bytes, Mapping)
        return not isinstance(value, no_row) and hasattr(value, "__iter__") and _row_of(value, inner[0])
    return _is(value, hint if origin is None else origin)


def _row_of(values: Any, hint: Any) -> bool:
    """Whether what can be gone through is a row of such things."""
    if isinstance(values, (Tensor, np.ndarray)):
        if hint in (int, float, str):
            if isinstance(values, Tensor):
                return values.ndim == 1 and hint is not str
            return values.ndim == 1 and values.dtype.kind in ("UO" if hint is str else "iufO")
        return values.ndim > 0 and (hint in (Any, object) or isinstance(hint, TypeVar))
    return not isinstance(values, (list, tuple)) or _all_fit(values, hint)


def _all_fit(values: Iterable[object], hint: Any) -> bool:
    """Whether what stands in a list is of its kind, where that is one kind that the function itself would not look at."""
    return not isinstance(hint, type) or hint in PLAIN or all(fits(value, hint) for value in values)


def _is(value: object, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, (bool, np.bool_))
    if kind is Executor:
        # As clusters have them, that are none by inheritance.
        return hasattr(value, "submit")
    if _is_path(kind):
        return hasattr(value, "__fspath__")
    if _is_array(kind):
        shaped: Any = jaxtyping.Shaped[kind.array_type, kind.dim_str]
        whole = kind.dtype is jaxtyping.Int and isinstance(value, Tensor)
        return isinstance(value, shaped) and not (whole and (value.is_floating_point() or value.is_complex()))
    try:
        return isinstance(value, kind)
    except TypeError:
        # A protocol that cannot be asked at run time.
        return True


LONGEST = 255
"""Bytes (on Linux) or characters that a name in a folder may have."""


def _no_path(value: object, hint: Any) -> str:
    """What keeps a path from standing on any disk, with the way out; empty if nothing does."""
    if not any(map(_is_path, (hint, *typing.get_args(hint)))) or not (isinstance(value, str) or _is_path(value)):
        return ""
    text = str(value)
    if "\0" in text:
        return f"is {text[:60]!r}, which holds a NUL; give a path without one."
    names = text.replace("\\", "/").split("/")
    longest = max(len(name.encode(errors="replace")) if sys.platform == "linux" else len(name) for name in names)
    return (
        f"has a name of {longest} bytes, and a name on a disk has at most {LONGEST}; give a shorter one."
        if longest > LONGEST
        else ""
    )


def _is_path(kind: Any) -> bool:
    return hasattr(kind, "__fspath__")


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractArray)


def refusal(where: str, name: str, value: object, hint: Any) -> str:
    """The error message: which value was passed, which kinds fit, and, if the value is close to one of them, how to convert it."""
    return f"{where}: {name}= is {described(value)}; give {_words(hint)}.{_cure(value, hint)}"


def described(value: object) -> str:
    """A value as short words: what it is, and its shape or the first of its characters."""
    if value is None:
        return "None"
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, str | numbers.Number):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        kinds = list(dict.fromkeys(_words(one) for one in inner if one is not type(None)))
        return " or ".join(kinds) + (", or leave it out" if type(None) in inner else "")
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return f"({', '.join(map(_words, inner))})"
    if origin is Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {_words(inner[1])}"
    if isinstance(origin, type) and issubclass(origin, Iterable) and inner:
        many = {int: "whole numbers", float: "numbers", str: "texts"}
        return f"a list of {many.get(inner[0]) or _words(inner[0])}"
    if _is_array(hint):
        return f"a {'tensor' if hint.array_type is Tensor else hint.array_type.__name__} of shape ({hint.dim_str.strip().replace(' ', ', ')})"
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", object: "any value"}
    if _is_path(hint):
        return "a path"
    return plain.get(hint, getattr(origin or hint, "__name__", str(hint)))


def _cure(value: object, hint: Any) -> str:
    """The way from what is often given to what is meant."""
    from .scores import Scores, ScoreTable

    wanted = typing.get_args(hint) or (hint,)
    if Scores in wanted and isinstance(value, Mapping):
        names = [name for name, one in value.items() if isinstance(one, Scores)]
        return f" Name one of its scores: table[{names[0]!r}]." if names else ""
    if ScoreTable in wanted and isinstance(value, Scores):
        return f" Put the score into one: assay.ScoreTable([scores]), or {{{value.title!r}: scores}}."
    return ""


def _called(function: Callable[..., Any]) -> str:
    """How users call it: `Run` for its `__init__`."""
    name = function.__qualname__
    return name.removesuffix(".__init__")
