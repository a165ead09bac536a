"""`assay methods`, `policies`, `datasets`, `nets`: what there is to choose from."""

import dataclasses
import inspect


def methods_(*names: str) -> None:
    """List the scoring methods, or describe the options of one.

    Example: assay methods cg_score

    Parameters
    ----------
    names
        Methods whose options are described; without any, all methods are listed in one table.
    """
    from ..methods import catalogue, find
    from .console import show_table

    if names:
        for name in names:
            show_options(name, find(name))
        return
    rows = []
    for name, cls in catalogue().items():
        needs = ", ".join(sorted(need.value for need in cls().reads))
        rows.append((name, cls().direction.value, cls().unit, needs, options_of(cls), cls.source.cite))
    show_table("Scoring methods", ("method", "direction", "unit", "reads", "options", "source"), rows)


def policies_(*names: str) -> None:
    """List the policies, or describe the options of one.

    Parameters
    ----------
    names
        Policies whose options are described; without any, all policies are listed in one table.
    """
    from ..policies import catalogue, find, live_catalogue
    from .console import show_table

    live = live_catalogue()
    if names:
        for name in names:
            show_options(name, live[name] if name in live else find(name))
        return
    rows = [
        (
            name,
            first_sentence(cls),
            "yes" if cls.needs_score else "may be given" if cls.ignores_score else "no",
            options_of(cls),
            cls.source.cite,
        )
        for name, cls in catalogue().items()
    ]
    show_table("Policies", ("policy", "what it does", "score", "options", "source"), rows)
    live_rows = [(name, first_sentence(cls), options_of(cls), cls.source.cite) for name, cls in live.items()]
    show_table("Live selectors, for assay record --select", ("selector", "what it does", "options", "source"), live_rows)


def datasets_() -> None:
    """List the datasets that can be read."""
    from ..data import catalogue
    from .console import show_table

    show_table(
        "Datasets",
        ("dataset", "what it is", "options"),
        [(name, cls.summary, options_of(cls)) for name, cls in catalogue().items()],
    )


def nets_() -> None:
    """List the nets."""
    from ..nets import catalogue
    from .console import show_table

    show_table(
        "Nets", ("net", "what it is", "options"), [(name, cls.summary, options_of(cls)) for name, cls in catalogue().items()]
    )


def show_options(name: str, cls) -> None:
    """One entry of a catalogue: what it does, and each option with its default and what it means."""
    from ..core.method import AbstractMethod
    from .console import say, show_table

    say(f"{name}: {first_sentence(cls)}")
    if issubclass(cls, AbstractMethod):
        say(
            f"direction: {cls().direction.value}; unit: {cls().unit}; reads {', '.join(sorted(need.value for need in cls().reads))}"
        )
    say(f"source: {cls.source.cite}, {cls.source.url}; departures: {cls.source.departures}")
    told = meanings(cls)
    rows = []
    for field in dataclasses.fields(cls):
        default = "none: give one" if field.default is dataclasses.MISSING else str(field.default)
        rows.append((field.name, default, told.get(field.name, "")))
    if rows:
        show_table(f"Options, as {name}:option=value", ("option", "default", "meaning"), rows)
    else:
        say("It has no options.")


def meanings(cls) -> dict[str, str]:
    """The meaning of each option, from the docstrings of a class and its base classes."""
    found: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        # A dataclass without a docstring of its own is given its signature.
        part = inspect.cleandoc(vars(kind).get("__doc__") or "").partition("Args:\n")[2]
        name = ""
        for line in part.splitlines():
            if not line.startswith(" "):
                break
            if line[4:5] != " ":
                name, _, words = line.strip().partition(": ")
                found[name] = words
            else:
                found[name] += f" {line.strip()}"
    return found


def options_of(cls) -> str:
    """The options of a catalogue entry with their defaults."""
    parts = []
    for field in dataclasses.fields(cls):
        bare = field.default is dataclasses.MISSING
        parts.append(field.name if bare else f"{field.name}={field.default}")
    return " ".join(parts) or "none"


def first_sentence(cls) -> str:
    """The first line of a docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]
