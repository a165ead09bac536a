"""The folder of a study: whose it is, and what it holds at the end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import OutputExists
from ..experiments.report import MARK
from ..runs.artefacts import AnyStudy, load_study, save_study
from ..runs.disk import beginning, replace
from ..runs.paths import RunPaths, StudyPaths


def told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study, with the version, as a file gives them back."""
    return json.loads(json.dumps({**settings, "version": __version__}))


GROWING = ("seeds", "trials")
"""Settings that say how often a study is repeated: a larger number keeps all that there is and adds to it."""


def claimed(folder: str | Path, settings: Mapping[str, Any]) -> StudyPaths:
    """The paths of a study, if its folder is free or holds the same study, or that study with fewer repetitions.

    Args:
        folder: Where the study is kept.
        settings: Its settings, as `told` gives them.

    Raises:
        OutputExists: The folder holds a run, a study of other settings, or files of other kinds in its places.
    """
    paths = StudyPaths(Path(folder))
    if RunPaths(Path(folder)).header.exists():
        raise OutputExists(f"{folder} holds a run; name another folder.")
    if paths.results.exists() and (old := load_study(paths.results).settings) != settings and not _grown(old, settings):
        raise OutputExists(f"{folder} holds a study of other settings ({_difference(old, settings)}); name another folder.")
    if paths.page.is_dir() or (paths.page.exists() and MARK not in beginning(paths.page)):
        raise OutputExists(f"{paths.page} is there and is no page of assay; name another folder.")
    for place in (paths.results, paths.page, paths.summary, paths.plan, paths.probes, paths.trials, paths.logs, paths.data):
        if place.is_symlink():
            raise OutputExists(f"{place} is a link, through which files elsewhere would be written; name another folder.")
    for place in (paths.folder, paths.probes, paths.trials, paths.logs, paths.data):
        if place.exists() and not place.is_dir():
            raise OutputExists(f"{place} is a file, and a study needs a folder there; name another folder.")
    return paths


def written(found: AnyStudy, folder: str | Path, page: str) -> Path:
    """Save a study and its page in its folder, and return the path of the page.

    Raises:
        NotWritten: The disk refuses.
    """
    paths = StudyPaths(Path(folder))
    save_study(found, paths.results)
    replace(paths.page, page.encode())
    return paths.page


def _grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the new settings are the old ones with more repetitions."""
    names = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    return all(name in GROWING and old.get(name, 0) < new.get(name, 0) for name in names)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], inside: str = "") -> str:
    """The first setting that differs, of tables the first inside of them."""
    name = next(name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))
    was, now = old.get(name), new.get(name)
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        return _difference(was, now, f"{inside}{name}.")
    return f"{inside}{name} was {was!r} and is {now!r}"
