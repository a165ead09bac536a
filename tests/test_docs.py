"""The documents: what is public is explained, what is shown runs, what is linked exists, what exists is named."""

import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import runpy
import subprocess
import sys

import pytest

import assay
from assay.cli.app import VERBS
from assay.methods import catalogue as methods
from assay.policies import catalogue as policies

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(info.name for info in pkgutil.walk_packages(assay.__path__, "assay.") if not info.name.endswith("__main__"))


def named(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


def public(scope: dict, prefix: str, home: str):
    """(dotted name, object) of every public class, function, method and property that is written in this scope."""
    for name, thing in scope.items():
        bare = getattr(thing, "__func__", thing)
        bare = getattr(bare, "func", bare) if not inspect.isclass(bare) else bare  # cached properties
        if name.startswith("_") or getattr(bare, "__module__", home) != home:
            continue
        if inspect.isclass(thing):
            yield f"{prefix}{name}", thing
            if thing.__qualname__ == f"{prefix}{name}":
                yield from public(vars(thing), f"{prefix}{name}.", home)
        elif inspect.isfunction(bare) or isinstance(thing, property):
            yield f"{prefix}{name}", thing


def unexplained(module) -> list[str]:
    """Public names of a module without a docstring of their own or of the method that they override."""
    missing = []
    for dotted, thing in public(vars(module), "", module.__name__):
        if inspect.isclass(thing):
            words = thing.__dict__.get("__doc__")
            # A dataclass without docstring writes its signature there.
            explained = bool(words) and not words.startswith(f"{thing.__name__}(")
        elif "." in dotted:
            owner, _, name = dotted.rpartition(".")
            cls = module
            for part in owner.split("."):
                cls = getattr(cls, part)
            explained = any(inspect.getdoc(vars(base)[name]) for base in cls.__mro__ if name in vars(base))
        else:
            explained = bool(inspect.getdoc(thing))
        if not explained:
            missing.append(dotted)
    return missing


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    module = importlib.import_module(name)
    assert unexplained(module) == []
    source = pathlib.Path(module.__file__).read_text()
    assert module.__doc__ or not source.strip(), "the module does not say what it is"


def test_a_missing_docstring_is_seen(tmp_path, monkeypatch):
    (tmp_path / "planted_module.py").write_text(
        "import dataclasses, functools\n"
        "def told():\n    'Words.'\n"
        "def untold(): ...\n"
        "def _private(): ...\n"
        "class Told:\n    'Words.'\n    def told(self):\n        'Words.'\n    def untold(self): ...\n"
        "    @property\n    def bare(self): ...\n    @functools.cached_property\n    def kept(self): ...\n"
        "    @classmethod\n    def made(cls): ...\n"
        "class Heir(Told):\n    'Words.'\n    def told(self): ...\n"
        "@dataclasses.dataclass\nclass Untold:\n    x: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = unexplained(importlib.import_module("planted_module"))
    assert sorted(found) == ["Told.bare", "Told.kept", "Told.made", "Told.untold", "Untold", "untold"]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.name == "README.md" else pytest.mark.slow, id=named(page))
        for page in PAGES
        if blocks(page.read_text())
    ],
)
def test_the_python_that_a_page_shows_runs(page, tmp_path):
    # One process per page, its blocks one after the other, in an empty folder, as a reader would type them.
    program = "\n".join(blocks(page.read_text()))
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{program}\n{done.stderr}"


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page: pathlib.Path, text: str) -> list[str]:
    """Relative links and pictures of a page that lead nowhere."""
    text, broken = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file
        if not there.exists() or (anchor and anchor not in anchors(there.read_text() if file else text)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_seen():
    text = "# A head\n[a](nowhere.md) [b](README.md) [c](#a-head) [d](#no-head) [e](https://example.org/x) ![f](gone.png)"
    assert broken_links(ROOT / "page.md", text) == ["nowhere.md", "#no-head", "gone.png"]


def test_every_example_is_short_shown_on_a_page_and_run_by_a_test():
    shown = " ".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    run = " ".join(path.read_text() for path in (ROOT / "tests" / "examples").glob("test_*.py"))
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert examples and [one.name for one in examples if len(one.read_text().splitlines()) >= 60] == []
    assert [one.name for one in examples if not re.search(rf"\bexamples/{one.name}\b", shown)] == []
    assert [one.name for one in examples if not re.search(rf'"{one.stem}(\.py)?"', run)] == []


def test_everything_that_can_be_named_is_named_in_the_documents():
    text = "\n".join(page.read_text() for page in PAGES)
    code = " ".join(re.findall(r"`([^`\n]+)`", text) + re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL))
    words = set(re.findall(r"[\w.-]+", code))
    assert {*methods(), *policies()} - words == set()
    said = {verb for verb in VERBS if re.search(rf"\bassay {verb}\b", text) or f"`{verb}`" in text}
    assert set(VERBS) - said == set()


def test_the_tables_of_methods_and_policies_are_those_of_the_code():
    for file, page in runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"].items():
        assert (ROOT / "docs" / file).read_text() == page(), f"docs/{file} is stale; run `make docs`"


def test_the_page_on_structure_names_every_room():
    text = (ROOT / "docs" / "structure.md").read_text()
    rooms = [path.name for path in pathlib.Path(assay.__file__).parent.iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
