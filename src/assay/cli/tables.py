"""`assay methods`, `policies`, `datasets`, `nets`: what there is to choose from."""

import dataclasses


def methods_() -> None:
    """List the scoring methods and their options."""
    from ..methods import catalogue
    from .console import show_table

    rows = []
    for name, cls in catalogue().items():
        needs = ", ".join(sorted(need.value for need in cls().needs))
        rows.append((name, cls.direction.value, cls.unit, needs, options_of(cls), cls.source.cite))
    show_table("Scoring methods", ("method", "direction", "unit", "reads", "options", "source"), rows)


def policies_() -> None:
    """List the policies and their options."""
    from ..policies import catalogue
    from .console import show_table

    rows = [(name, first_sentence(cls), options_of(cls), cls.source.cite) for name, cls in catalogue().items()]
    show_table("Policies", ("policy", "what it does", "options", "source"), rows)


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
