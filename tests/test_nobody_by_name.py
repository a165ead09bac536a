"""No module outside `methods/` and `policies/` knows a method or a policy by its name; what it must know of one is a declared trait."""

import ast
import pathlib
import re

import pytest

import assay
from assay import methods, policies

ROOT = pathlib.Path(assay.__file__).parent
NAMES = {*methods.METHODS.own, *policies.POLICIES.own}
WORDS = {
    *("beta", "confidence", "correctness", "entropy", "loss", "margin", "per_class", "random", "relabel", "threshold"),
    *("combine", "influence", "source", "variability", "window", "label_quality"),
}
"""Names that are also words of the field or options; as texts they are not looked for, as what a method is compared with they are."""
ASKED = {"method", "policy"}
"""Attributes and variables that hold a name."""

EXAMPLES = {
    # What to score instead, at the end of a refusal; the replay sees no catalogue.
    "replay/activations.py": {"grand"},
    "replay/functional.py": {"tracin"},
    "replay/batch_norm.py": {"tracin", "oti", "liveval"},
    "replay/replay.py": {"grand", "tracin", "vog", "oti", "liveval", "loo"},
    "replay/replayable.py": {"grand", "vog", "tracin", "oti", "liveval"},
    "replay/steps.py": {"grand"},
    # How an option is written, with a method that has it.
    "core/scores.py": {"aum"},
    "cli/score.py": {"cg_score"},
    "cli/choose.py": {"k_center"},
    "cli/confident.py": {"confident_learning"},
    "experiments/choose.py": {"aum", "k_center", "glister"},
    "core/selection.py": {"aum"},
    "experiments/scorable.py": {"dual", "oti", "cg_score", "grand", "sgd_influence", "tracin", "vog"},
    "core/accumulators.py": {"aum"},
    "replay/loop.py": {"grand", "tracin"},
    "experiments/existing.py": {"aum"},
    "integrations/sklearn.py": {"aum"},
    "runs/run.py": {"liveval"},
    # The default of a command, and what to name where none was named.
    "experiments/explain.py": {"tracin"},
    "experiments/lds.py": {"tracin"},
    # What these commands are: a run from end to end by methods of our choice, and the papers' own metrics.
    "cli/demo.py": {"aum", "tdds", "top_k"},
    "studies/scaling.py": {"el2n", "prediction_depth", "vog", "cg_score"},
    "studies/difficulty.py": {"el2n", "prediction_depth", "vog", "cg_score"},
    "studies/cleansing.py": {"sgd_influence"},
    "studies/fidelity.py": {"sgd_influence", "loo"},
    "studies/complexity_gap.py": {"cg_score", "el2n", "forgetting", "aum"},
    "studies/coresets.py": {"herding", "aum", "dual", "dyn_unc", "el2n", "forgetting", "tdds"},
    "studies/pruning.py": {
        *("el2n", "forgetting", "aum", "dyn_unc", "tdds", "dual"),
        *("top_k", "bottom_k", "ccs", "d2", "moderate", "bws"),
    },
    "studies/liveval.py": {"oti", "liveval", "grand", "tracin", "loo"},
    # Studies that have the name of the method that they are about.
    "__init__.py": {"liveval"},
    "runs/artefacts.py": {"liveval"},
    "cli/study.py": {"liveval"},
}
"""Names in texts that a user reads or that a study is made of, by file."""


def texts(tree: ast.AST) -> list[tuple[int, str]]:
    """Every text that is no docstring, with its line."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def known(source: str, examples: set[str] = frozenset(), package: tuple[str, ...] = ("assay", "experiments")) -> list[str]:
    """Where this source, standing in `package`, knows a method or policy by name."""
    tree, found = ast.parse(source), []
    for line, text in texts(tree):
        if named := set(re.findall(r"\w+", text)) & (NAMES - WORDS) - examples:
            found.append(f"line {line} names {', '.join(sorted(named))}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asked = any(getattr(side, "attr", getattr(side, "id", "")) in ASKED for side in sides)
            told = {text for side in sides for _, text in texts(side)} & NAMES
            if asked and told:
                found.append(f"line {node.lineno} compares with {', '.join(sorted(told))}")
        elif isinstance(node, ast.ImportFrom):
            parts = (
                [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                if node.level
                else node.module.split(".")
            )
            parts = [*filter(None, parts)]
            alone = [*parts[2:], *(alias.name for alias in node.names)] if parts[:1] == ["assay"] else []
            if parts[1:2] in (["methods"], ["policies"]) and set(alone) & NAMES | set(parts[2:]):
                found.append(f"line {node.lineno} imports {'.'.join(parts)}")
    return found


FILES = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("methods", "policies")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_is_known_by_name(path):
    inside = path.relative_to(ROOT)
    assert known(path.read_text(), EXAMPLES.get(inside.as_posix(), set()), ("assay", *inside.parts[:-1])) == []


@pytest.mark.parametrize("file", EXAMPLES)
def test_every_exception_is_still_needed(file):
    here = {word for _, text in texts(ast.parse((ROOT / file).read_text())) for word in re.findall(r"\w+", text)}
    assert EXAMPLES[file] - here == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if scores.method == 'aum': ...", "line 1 names aum"),
        ("LINEAR = 'sgd_influence'", "line 1 names sgd_influence"),
        ("scored = f'give {x} to remove_worst:count=3'", "line 1 names remove_worst"),
        ("ok = scores.method == 'loss'", "line 1 compares with loss"),
        ("ok = policy in ('random', 'mine')", "line 1 compares with random"),
        ("from ..policies.remove_worst import RemoveWorst", "line 1 imports assay.policies.remove_worst"),
        ("from assay.methods import loo", "line 1 imports assay.methods"),
    ],
)
def test_a_name_is_seen(source, found):
    assert found in known(source)


@pytest.mark.parametrize(
    "source",
    [
        "'''By aum.'''",
        "def f():\n    'aum and loo'",
        "which = 'loss'",
        "from ..methods import parse, catalogue",
        "kind == 'random'",
    ],
)
def test_the_rest_passes(source):
    assert known(source) == []
