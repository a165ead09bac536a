"""Options of methods and policies: the fields of their frozen dataclasses, given by keyword or as `name:key=value,...`."""

import dataclasses
import math
import numbers
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .arguments import described
from .errors import UnknownName, UsageError

Built = TypeVar("Built")


def split(spec: str) -> tuple[str, dict[str, str]]:
    """`"dual:window=5,epochs=30"` as `("dual", {"window": "5", "epochs": "30"})`.

    Returns:
        The name, and the options as texts.

    Raises:
        UsageError: A part is not `key=value`, or a key occurs twice.
    """
    name, _, rest = spec.partition(":")
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"Option {part!r} in {spec!r} is not of the form key=value.")
        if key in given:
            raise UsageError(f"Option {key!r} is given twice in {spec!r}.")
        given[key] = value.strip()
    return name.strip(), given


def join(name: str, options: Mapping[str, object]) -> str:
    """The inverse of `split`."""
    texts = (f"{key}={'none' if value is None else value}" for key, value in options.items())
    return name + (":" + ",".join(texts) if options else "")


def build(cls: type[Built], kind: str, given: Mapping[str, object]) -> Built:
    """An instance of the dataclass `cls` with these options; texts are read as the field's type. `kind` is its word in messages.

    Returns:
        The instance, with its options checked.

    Raises:
        UnknownName: No field has that name.
        UsageError: A value cannot be read as the field's type, or a field without default is missing.
    """
    name = getattr(cls, "name", cls.__name__)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise UnknownName(f"option of {kind} {name!r}", key, fields)
        try:
            values[key] = _read(value, hints[key], f"{kind} {name!r}, option {key!r}")
        except UsageError as error:
            commas = re.sub(rf"[:;](?=(?:{'|'.join(fields)})=)", ",", value) if isinstance(value, str) else None
            if commas in (None, value):
                raise
            raise UsageError(f"{error} Commas separate options: {join(name, {**given, key: commas})}.") from None
    absent = [
        key
        for key, field in fields.items()
        if key not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if absent:
        whole = join(name, {**given, **dict.fromkeys(absent, "VALUE")})
        raise UsageError(f"{kind.capitalize()} {name!r} needs a value for {', '.join(absent)}; give {whole}.")
    return cls(**values)


def coerce(value: object, kind: str) -> None:
    """Check the options of a dataclass instance against their types; a whole number becomes a float where the type is float.

    Raises:
        UsageError: An option is not what its type says.
    """
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        given = getattr(value, field.name)
        where = f"{kind} {getattr(value, 'name', type(value).__name__)!r}, option {field.name!r}"
        read = _read(given, hints[field.name], where)
        # Texts are for `build` to read; a text that arrives here would stay one.
        if isinstance(read, str) != isinstance(given, str):
            raise UsageError(f"{where}: the text {given!r} stands where a value of another type belongs.")
        # Frozen instances settle before anybody sees them; 1 and 1.0 must not give two titles.
        object.__setattr__(value, field.name, read)


def changed(value: object) -> dict[str, Any]:
    """The options of a dataclass instance that differ from their defaults."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)  # type: ignore[arg-type]
        if getattr(value, field.name) != field.default
    }


def at_least(value: Any, *, finite: bool = True, **bounds: int | float) -> None:
    """Refuse options of a method, policy or learner below these bounds.

    Args:
        value: The object, whose title begins the message.
        finite: Whether infinity is refused too.
        bounds: The smallest value of each option.

    Raises:
        UsageError: Names the first option that is no number, is infinite or is below its bound.
    """
    for name, bound in bounds.items():
        given = getattr(value, name)
        if given != given or (finite and abs(given) == math.inf):
            raise UsageError(f"{value.title}: {name}={given} is no {'finite ' if finite else ''}number; give {bound:g} or more.")
        if given < bound:
            raise UsageError(f"{value.title}: {name}={given} is below {bound:g}.")


def _read(value: object, hint: Any, where: str) -> object:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for kind in kinds:
        read = _as(value, kind)
        if read is not NotImplemented:
            return read
    allowed = " or ".join(_words(kind) for kind in kinds)
    raise UsageError(f"{where}: {described(value)} is not {allowed}.")


def _as(value: object, kind: Any) -> object:
    if typing.get_origin(kind) is typing.Literal:
        return value if isinstance(value, str) and value in typing.get_args(kind) else NotImplemented
    if kind is type(None):
        return None if value is None or value == "none" else NotImplemented
    if kind is bool:
        texts = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, str):
            return texts.get(value.lower(), NotImplemented)
        return value if isinstance(value, bool) else NotImplemented
    if kind is str:
        return value if isinstance(value, str) else NotImplemented
    if isinstance(value, bool) or kind not in (int, float):
        return NotImplemented
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            return NotImplemented
    if isinstance(value, numbers.Real) and (kind is float or isinstance(value, numbers.Integral)):
        try:
            return kind(value)
        except OverflowError:
            return NotImplemented
    return NotImplemented


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}.get(
        kind, str(kind)
    )
