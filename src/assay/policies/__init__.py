"""One file per policy. `catalogue()` finds them; nothing is registered."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping

from ..core import options
from ..core.errors import UnknownName, UsageError
from ..core.selection import AbstractSelector


@functools.cache
def catalogue() -> dict[str, type[AbstractSelector]]:
    """Every policy in this package, by name."""
    found: dict[str, type[AbstractSelector]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or not issubclass(cls, AbstractSelector):
                continue
            if inspect.isabstract(cls):
                continue
            if cls.name in found:
                raise RuntimeError(f"two policies are named {cls.name!r}: {found[cls.name]} and {cls}")
            found[cls.name] = cls
    return dict(sorted(found.items()))


def find(name: str) -> type[AbstractSelector]:
    """The policy of that name.

    Raises:
        UnknownName: With the nearest names.
    """
    if name not in catalogue():
        raise UnknownName("policy", name, catalogue())
    return catalogue()[name]


def parse(spec: str | AbstractSelector, given: Mapping[str, object] | None = None) -> AbstractSelector:
    """The policy that `"name"` or `"name:option=value,..."` asks for; options in `given` win. A policy is passed through.

    Raises:
        UnknownName: No such policy or option.
        UsageError: A value that the option does not take, or options beside a finished policy.
    """
    if isinstance(spec, AbstractSelector):
        if given:
            raise UsageError(
                f"{spec.title} already has its options; {', '.join(given)} cannot be set on it. Give a name instead."
            )
        return spec
    name, texts = options.split(spec)
    return options.build(find(name), "policy", {**texts, **(given or {})})
