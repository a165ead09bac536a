"""Classes that can be chosen by name: those in a package of assay, and those that other packages offer by entry point."""

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import warnings
from collections.abc import Mapping
from typing import Generic, TypeVar

from . import options
from .errors import UnknownName, UsageError

Kind = TypeVar("Kind")
UNKNOWN = "a class of no package"
"""Stands for package and version of code that nobody can tell from another version of it."""


class Catalogue(Generic[Kind]):
    """Every class of one kind, such as methods, by its `name`. The classes of assay need no registration.

    Another package offers a class by an entry point, whose group is the name of assay's package and whose name is that of the class:

        [project.entry-points."assay.methods"]
        learning_time = "their_package.learning_time:LearningTime"

    A class is imported when asked for or listed. A class that cannot be used is an error when it is asked for, and one warning in a list.
    """

    def __init__(self, kind: str, base: type[Kind], package: str, *, asked: str, group: str = "", by_default: bool = False):
        """Make the catalogue of the concrete subclasses of `base` in the files of `package`.

        Args:
            kind: Word for such a class in messages.
            base: Base class of all of them.
            package: Full name of assay's package.
            asked: How a user asks for one, with NAME in the place of its name.
            group: Group of the entry points; by default the name of the package.
            by_default: Whether each must be usable without any option.
        """
        self.kind, self.asked, self._base, self._package, self._by_default = kind, asked, base, package, by_default
        self._group = group or package

    @functools.cached_property
    def own(self) -> dict[str, type[Kind]]:
        """The classes of assay's own package, by name.

        Raises:
            RuntimeError: Two classes have the same name.
        """
        found: dict[str, type[Kind]] = {}
        package = importlib.import_module(self._package)
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{self._package}.{info.name}")
            for cls in vars(module).values():
                if not inspect.isclass(cls) or cls.__module__ != module.__name__ or not issubclass(cls, self._base):
                    continue
                if inspect.isabstract(cls):
                    continue
                name: str = cls.name  # type: ignore[attr-defined]
                if name in found:
                    raise RuntimeError(f"{name!r} is the name of {found[name]} and of {cls}")
                found[name] = cls
        return dict(sorted(found.items()))

    @functools.cached_property
    def _offered(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """What other packages offer, by name. A name of ours stays ours."""
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for offer in importlib.metadata.entry_points(group=self._group):
            if offer.name in self.own:
                warnings.warn(
                    f"The {self.kind} {offer.name!r} of the package {_package_of(offer)} is left out, because assay has a {self.kind} "
                    "of that name; ask its authors for another name.",
                    stacklevel=2,
                )
            else:
                found.setdefault(offer.name, []).append(offer)
        return found

    @functools.cached_property
    def _loaded(self) -> dict[str, type[Kind] | UsageError]:
        return {}

    def classes(self) -> dict[str, type[Kind]]:
        """All usable classes, by name. A class of another package that cannot be used is left out with a warning."""
        found = dict(self.own)
        for name in self._offered:
            told = name in self._loaded
            cls = self._load(name)
            if not isinstance(cls, UsageError):
                found[name] = cls
            elif not told:
                warnings.warn(str(cls), stacklevel=2)
        return dict(sorted(found.items()))

    def knows(self, name: str) -> bool:
        """Whether assay or another package offers a class of that name."""
        return name in self._offered or name in self.own

    def find(self, name: str) -> type[Kind]:
        """The class of that name.

        Returns:
            The class itself, not an instance.

        Raises:
            UnknownName: No class has that name; the message lists the nearest names.
            UsageError: The class is of another package, and cannot be used.
        """
        if not self.knows(name):
            raise UnknownName(self.kind, name, [*self.own, *self._offered], _elsewhere(name))
        cls = self.own.get(name) or self._load(name)
        if isinstance(cls, UsageError):
            raise cls
        return cls

    def get(self, name: str) -> type[Kind] | None:
        """The class of that name, or None if no such class can be used: a saved file may name a class that is not installed here."""
        try:
            return self.find(name)
        except UsageError:
            return None

    def maker(self, cls: type) -> str:
        """The origin of a class: empty for assay's own, package and version for one offered by an entry point, `UNKNOWN` for any other."""
        name = getattr(cls, "name", "")
        if self.own.get(name) is cls:
            return ""
        if name in self._offered and self._load(name) is cls:
            offer = self._offered[name][0]
            return f"{_package_of(offer)} {offer.dist.version}" if offer.dist is not None else UNKNOWN
        return UNKNOWN

    def parse(self, spec: object, given: Mapping[str, object] | None = None) -> Kind:
        """The instance that `"name"` or `"name:option=value,..."` describes; options in `given` take precedence. An instance is returned unchanged.

        Returns:
            An instance with its options checked.

        Raises:
            UnknownName: There is no such name or option.
            UsageError: An option does not accept a value, or options were passed together with an instance.
        """
        if isinstance(spec, self._base):
            if given:
                title = getattr(spec, "title", type(spec).__name__)
                raise UsageError(f"{title} already has its options; {', '.join(given)} cannot be set on it. Give a name instead.")
            return spec
        if not isinstance(spec, str):
            some = next(iter(self.own))
            raise UsageError(f"{spec!r} is no {self.kind}; give a name such as {some!r}, 'name:option=value', or a {self.kind}.")
        name, texts = options.split(spec)
        return options.build(self.find(name), self.kind, {**texts, **(given or {})})

    def _load(self, name: str) -> type[Kind] | UsageError:
        """What other packages offer under a name, or why it cannot be used."""
        if name not in self._loaded:
            offers = self._offered[name]
            try:
                if len(offers) > 1:
                    raise TypeError(f"of {' and '.join(_package_of(offer) for offer in offers)}, only one may be installed")
                self._loaded[name] = self._checked(name, offers[0].load())
            except Exception as error:
                # Whatever goes wrong in code of other people must not take the other names away.
                why = str(error) if type(error) is TypeError else f"{type(error).__name__}: {error}"
                self._loaded[name] = UsageError(
                    f"The {self.kind} {name!r} of the package {_package_of(offers[0])} cannot be used ({' '.join(why.split())}); "
                    "mend or uninstall that package."
                )
        return self._loaded[name]

    def _checked(self, name: str, cls: object) -> type[Kind]:
        base = self._base.__name__
        if not inspect.isclass(cls) or not issubclass(cls, self._base):
            raise TypeError(f"{cls!r} is no subclass of {base}")
        if inspect.isabstract(cls):
            raise TypeError(f"{cls.__name__} lacks {', '.join(sorted(cls.__abstractmethods__))} of {base}")  # type: ignore[attr-defined]
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"{cls.__name__} is no dataclass, whose fields would be its options")
        if lacks := [said for said in vars(self._base).get("__annotations__", {}) if not hasattr(cls, said)]:
            raise TypeError(f"{cls.__name__} does not define its {', '.join(lacks)}")
        if cls.name != name:  # type: ignore[attr-defined]
            raise TypeError(f"{cls.__name__} calls itself {cls.name!r}")  # type: ignore[attr-defined]
        if self._by_default:
            cls()
        return cls  # type: ignore[return-value]


ROOMS = ("methods", "policies", "learners", "nets", "data")
"""Packages of assay that hold a catalogue. They are above this one, which names them and imports them only where a name is not found."""


def _elsewhere(name: str) -> str:
    """What a name that one catalogue does not know is in another, and how it is asked for there; empty if it is nothing."""
    for room in ROOMS:
        module = importlib.import_module(f"{__package__.rpartition('.')[0]}.{room}")
        for other in list(vars(module).values()):
            if isinstance(other, Catalogue) and other.knows(name):
                return f"a {other.kind}, asked for by {other.asked.replace('NAME', name)}"
    return ""


def _package_of(offer: importlib.metadata.EntryPoint) -> str:
    return offer.dist.name if offer.dist is not None else offer.module
