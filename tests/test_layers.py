"""Who may import whom, found by walking every import in the package; and the proof that the walker sees what it should."""

import ast
import pathlib

import pytest

import assay

ROOT = pathlib.Path(assay.__file__).parent
TESTS = pathlib.Path(__file__).parent

BASE = {"core", "maths"}
RUNS = BASE | {"runs"}
REPLAY = RUNS | {"data", "nets", "training", "replay"}
STEPS = REPLAY | {"methods", "policies", "learners", "integrations", "cluster", "reports"}
ALLOWED = {
    "maths": set(),
    "core": {"maths"},
    "methods": BASE,
    "policies": BASE,
    "learners": BASE,
    "data": BASE,
    "nets": BASE,
    "training": BASE,
    "runs": BASE,
    "replay": RUNS | {"data", "training"},
    "integrations": RUNS | {"methods", "policies", "training", "replay"},
    "cluster": {"core"},
    "reports": {"core"},
    "experiments": STEPS,
    "studies": STEPS | {"experiments"},
    "testing": STEPS | {"experiments"},
    "cli": STEPS | {"experiments", "studies"},
}
"""Each room, and the other rooms that it may import."""

DOORS = {
    ("core/tabular.py", "assay.runs.table_files"),
    ("core/decision.py", "assay.data.applying"),
}
"""Modules whose methods lead out of their room, so that a result can be asked for its file or its dataset; imported only when they are called."""

KNOWS_THE_VERSION = {"runs", "integrations", "cluster", "reports", "experiments", "cli", "studies"}
PURE = {"core", "maths", "methods", "policies", "learners"}
IMPURE = ("os", "pathlib", "json", "pickle", "logging", "socket", "subprocess", "shutil", "tempfile", "torch.utils.data")
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}


def imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Every module or name that this source imports, as a dotted path from the top; relative ones resolved against `package`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)] if node.level else ()
            base = (*base, *(node.module.split(".") if node.module else ()))
            found |= {".".join((*base, alias.name)) for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node) if ast.unparse(node) == "torch.utils.data" else "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found - {""}


def violations(source: str, package: tuple[str, ...]) -> list[str]:
    """What this source, standing in `package`, imports and must not."""
    room, wrong = package[1], []
    for name in sorted(imported(source, package)):
        parts = name.split(".")
        if parts[0] == "assay":
            other = parts[1] if len(parts) > 1 else ""
            if other == "__version__" and room in KNOWS_THE_VERSION:
                continue
            if other != room and other not in ALLOWED[room]:
                wrong.append(f"{room} must not import {name}")
        elif room in PURE and any(name == impure or name.startswith(f"{impure}.") for impure in IMPURE):
            wrong.append(f"{room} is pure and must not import {name}")
    return wrong


FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports(path):
    file = path.relative_to(ROOT)
    through = {f"{file.parts[0]} must not import {name}" for door, name in DOORS if door == file.as_posix()}
    found = {words for words in violations(path.read_text(), ("assay", *file.parts[:-1])) if not words.startswith(tuple(through))}
    assert found == set()


@pytest.mark.parametrize(("door", "name"), sorted(DOORS))
def test_a_door_is_opened_only_when_it_is_used(door, name):
    tree = ast.parse((ROOT / door).read_text())
    top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert violations(ast.unparse(top), ("assay", "core")) == [] != violations(ast.unparse(tree), ("assay", "core"))


def test_every_room_has_its_rule():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(ALLOWED)


def test_the_top_imports_nothing_until_asked():
    # `assay --help` must not wait for torch.
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        (("assay", "maths"), "from ..core.ids import Ids", "maths must not import assay.core.ids.Ids"),
        (("assay", "core"), "import assay.methods.aum", "core must not import assay.methods.aum"),
        (("assay", "maths"), "from ..core import ids", "maths must not import assay.core.ids"),
        (("assay", "methods"), "from assay.runs import run", "methods must not import assay.runs.run"),
        (("assay", "methods"), "from .. import runs", "methods must not import assay.runs"),
        (("assay", "methods"), "from ..policies.beta import Beta", "methods must not import assay.policies.beta.Beta"),
        (("assay", "methods"), "from .. import __version__", "methods must not import assay.__version__"),
        (("assay", "data"), "from ..training import loop", "data must not import assay.training.loop"),
        (("assay", "nets"), "from ..data import catalogue", "nets must not import assay.data.catalogue"),
        (("assay", "runs"), "from ..methods import parse", "runs must not import assay.methods.parse"),
        (("assay", "reports"), "from ..runs.run import Run", "reports must not import assay.runs.run.Run"),
        (("assay", "experiments"), "from ..cli.app import app", "experiments must not import assay.cli.app.app"),
        (
            ("assay", "experiments"),
            "from ..testing import check_method",
            "experiments must not import assay.testing.check_method",
        ),
        (("assay", "core"), "def f():\n    import json", "core is pure and must not import json"),
        (("assay", "methods"), "from os import path", "methods is pure and must not import os.path"),
        (("assay", "maths"), "import torch.utils.data as d", "maths is pure and must not import torch.utils.data"),
        (("assay", "maths"), "from torch.utils import data", "maths is pure and must not import torch.utils.data"),
        (("assay", "maths"), "import torch\ntorch.utils.data.DataLoader", "maths is pure and must not import torch.utils.data"),
        (("assay", "policies"), "import importlib\nimportlib.import_module('json')", "policies is pure and must not import json"),
        (
            ("assay", "integrations", "deep"),
            "from ...experiments import plan",
            "integrations must not import assay.experiments.plan",
        ),
    ],
)
def test_the_walker_catches_a_planted_violation(package, source, found):
    assert violations(source, package) == [found]


@pytest.mark.parametrize(
    ("package", "source"),
    [
        (
            ("assay", "methods"),
            "from ..core.accumulators import State\nfrom ..maths import draws\nfrom .confidence import confidence",
        ),
        (("assay", "runs"), "import json, os\nfrom .. import __version__\nfrom ..core.ids import Ids\nimport torch.utils.data"),
        (("assay", "maths"), "import osmium\nfrom jsonschema import json"),
        (("assay", "experiments"), "from ..reports.page import render\nfrom ..cluster import executors"),
    ],
)
def test_the_walker_lets_the_rest_pass(package, source):
    assert violations(source, package) == []


@pytest.mark.parametrize("room", ["methods", "policies"])
def test_every_method_and_policy_has_its_test(room):
    alone = [path.name for path in (ROOT / room).glob("[!_]*.py") if not (TESTS / room / f"test_{path.name}").exists()]
    assert alone == []


def test_no_module_has_a_name_that_says_nothing():
    assert [path for path in (*ROOT.rglob("*"), *TESTS.rglob("*.py")) if path.stem in SAYS_NOTHING] == []


MOST, LONG = 8, {"score": 10, "record": 11, "explain": 9}
"""Parameters of one function at most; and the functions for which docs/structure.md says why they take more."""


def long_signatures(source):
    """Functions of more than `MOST` parameters, and how many they take."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if (count := len([name for name in names if name not in ("self", "cls")])) > MOST:
                found[node.name] = count
    return found


def test_long_signatures_take_values():
    # A command has one parameter for each flag.
    paths = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] != "cli"]
    found = {name: count for path in paths for name, count in long_signatures(path.read_text()).items()}
    assert found == LONG
    assert long_signatures("def f(self, a, b, c, d, e, *, f, g, h): ...\ndef g(a, b, c, d, /, e, f, g, *, h, i=0): ...") == {
        "g": 9
    }
