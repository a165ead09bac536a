"""One file per scoring method. `catalogue()` finds them; nothing is registered."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping

from ..core import options
from ..core.errors import UnknownName, UsageError
from ..core.method import AbstractMethod


@functools.cache
def catalogue() -> dict[str, type[AbstractMethod]]:
    """Every method in this package, by name."""
    found: dict[str, type[AbstractMethod]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or not issubclass(cls, AbstractMethod):
                continue
            if inspect.isabstract(cls):
                continue
            if cls.name in found:
                raise RuntimeError(f"two methods are named {cls.name!r}: {found[cls.name]} and {cls}")
            found[cls.name] = cls
    return dict(sorted(found.items()))


def find(name: str) -> type[AbstractMethod]:
    """The method of that name.

    Raises:
        UnknownName: With the nearest names.
    """
    if name not in catalogue():
        raise UnknownName("method", name, catalogue())
    return catalogue()[name]


def parse(spec: object, given: Mapping[str, object] | None = None) -> AbstractMethod:
    """The method that `"name"` or `"name:option=value,..."` asks for; options in `given` win. A method is passed through.

    Raises:
        UnknownName: No such method or option.
        UsageError: A value that the option does not take, or options beside a finished method.
    """
    if isinstance(spec, AbstractMethod):
        if given:
            raise UsageError(
                f"{spec.title} already has its options; {', '.join(given)} cannot be set on it. Give a name instead."
            )
        return spec
    if not isinstance(spec, str):
        raise UsageError(f"{spec!r} is no method; give a name such as 'dual', 'name:option=value', or a method.")
    name, texts = options.split(spec)
    return options.build(find(name), "method", {**texts, **(given or {})})
