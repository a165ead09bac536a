"""A method and selectors in a package of somebody else: installed, listed, used and held to the laws, with no file of ours changed."""

import os
import subprocess
import sys
import textwrap

import pytest

from cli.shell import ENVIRONMENT, PATIENCE, SMALL, sentence

METHOD = '''
    """Learning time."""

    import dataclasses
    from typing import ClassVar

    import torch

    from assay.core.accumulators import AbstractSpanMethod
    from assay.core.method import Source
    from assay.core.needs import Need
    from assay.core.scores import Direction


    @dataclasses.dataclass(frozen=True)
    class LearningTime(AbstractSpanMethod):
        """First epoch, counted from 0, from which an example stays right; the number of epochs if it ends wrong.

        Args:
            epochs: How many of the first epochs are looked at; all by default.
        """

        name: ClassVar[str] = "learning_time"
        reads: ClassVar[frozenset[Need]] = frozenset({Need.CORRECT})
        direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
        unit: ClassVar[str] = "epochs"
        source: ClassVar[Source] = Source("nobody", "https://example.org")

        def start(self, examples, classes):
            return {"since": torch.zeros(examples, dtype=torch.float64)}

        def update(self, state, epoch):
            state["since"][~epoch.correct] = epoch.index + 1

        def compute(self, state):
            return state["since"].clone()
'''
SELECTORS = '''
    """A selector that chooses once, and one that chooses before every epoch."""

    import dataclasses
    from typing import ClassVar

    import torch

    from assay.core.errors import UsageError
    from assay.core.live_selection import AbstractLiveSelector, EpochSelection
    from assay.core.method import Source
    from assay.core.scores import ordered
    from assay.core.selection import AbstractSelector, Selection, budget_of
    from assay.maths.draws import uniform


    @dataclasses.dataclass(frozen=True)
    class Smallest(AbstractSelector):
        """Keeps the smallest values; equal ones by id.

        Args:
            keep: Which part of the examples.
        """

        keep: float
        name: ClassVar[str] = "smallest"
        nests: ClassVar[bool] = True
        source: ClassVar[Source] = Source("nobody", "https://example.org")

        def __post_init__(self):
            super().__post_init__()
            budget_of(self.keep, 0)

        def select(self, pool):
            order = ordered(pool.values, pool.ids, descending=False)
            return Selection.first(order, budget_of(self.keep, len(pool)), "small", "large")


    @dataclasses.dataclass(frozen=True)
    class Thinned(AbstractLiveSelector):
        """Leaves an example out with a fixed probability after the first epoch; the others weigh more.

        Args:
            share: The probability.
        """

        share: float = 0.5
        name: ClassVar[str] = "thinned"
        unbiased: ClassVar[bool] = True
        source: ClassVar[Source] = Source("nobody", "https://example.org")

        def __post_init__(self):
            super().__post_init__()
            if not 0 <= self.share < 1:
                raise UsageError(f"share={self.share} is outside 0..1, 1 excluded.")

        def start(self, examples):
            return {}

        def update(self, state, positions, losses):
            pass

        def select_epoch(self, state, ids, epoch, epochs, seed):
            ones = torch.ones(len(ids), dtype=torch.float64)
            if not epoch:
                return EpochSelection(ones > 0, ones)
            return EpochSelection(uniform(ids.keys, seed, "thinned", epoch) >= self.share, ones / (1 - self.share))
'''
LAWS = """
    from assay.testing import check_live_selector, check_method, check_selector
    from stranger.learning_time import LearningTime
    from stranger.selectors import Smallest, Thinned

    check_method(LearningTime(), variants=[{}, {"epochs": 8}], refused=["epochs=0"])
    check_selector(Smallest(0.3), refused=["keep=2"])
    check_live_selector(Thinned(), variants=[{}, {"share": 0.2}], refused=["share=1"])
"""
WRONG = """
    import dataclasses
    from assay.core.scores import Direction
    from assay.testing import check_method
    from stranger.learning_time import LearningTime


    class Turned(LearningTime):
        '''Learning time, turned round.'''

        direction = Direction.LOW_IS_SUSPECT


    check_method(Turned())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What runs Python where the package is installed, as pip lays it down in a folder of its own."""
    site, place = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    (site / "stranger").mkdir()
    (site / "stranger" / "__init__.py").write_text("")
    (site / "stranger" / "learning_time.py").write_text(textwrap.dedent(METHOD))
    (site / "stranger" / "selectors.py").write_text(textwrap.dedent(SELECTORS))
    (site / "stranger" / "broken.py").write_text("import nothing_that_is_installed\n")
    info = site / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[assay.methods]\nlearning_time = stranger.learning_time:LearningTime\nbroken = stranger.broken:Broken\n"
        "[assay.policies]\nsmallest = stranger.selectors:Smallest\n[assay.live_policies]\nthinned = stranger.selectors:Thinned\n"
    )
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=place,
            env={**ENVIRONMENT, "PYTHONPATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr

    return python


@pytest.mark.slow
def test_a_method_of_a_stranger_is_scored_like_ours(installed):
    code, out, err = installed("-m", "assay", "methods", "learning_time")
    assert (code, err) == (0, "") and "First epoch, counted from 0" in out and "How many of the first epochs" in out
    code, out, err = installed("-m", "assay", "record", "run", *SMALL)
    assert (code, err) == (0, "")
    code, out, err = installed("-m", "assay", "score", "run", "learning_time", "learning_time:epochs=2")
    assert (code, err) == (0, "") and "learning_time:epochs=2" in out
    code, out, err = installed("-m", "assay", "choose", "run", "learning_time", "--policy", "top_k", "--keep", "0.9")
    assert code == 0 and "those are the most suspect" in err and "drop 40" in out
    code, out, err = installed("-m", "assay", "report", "run")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_selectors_of_a_stranger_are_used_like_ours(installed):
    code, out, err = installed("-m", "assay", "policies", "thinned")
    assert (code, err) == (0, "") and "Leaves an example out with a fixed probability" in out
    code, out, err = installed("-m", "assay", "record", "thin", *SMALL, "--select", "thinned:share=0.4")
    assert (code, err) == (0, "")
    seen = "import assay; run = assay.Run('thin'); assert set(run.weights(1).tolist()) == {0.0, 1 / 0.6}"
    assert installed("-c", seen) == (0, "", "")
    code, out, err = installed("-m", "assay", "choose", "thin", "confidence", "--policy", "smallest", "--keep", "0.9")
    assert code == 0 and "drop 40" in out


@pytest.mark.slow
def test_what_cannot_be_used_takes_nothing_else_away(installed):
    code, out, err = installed("-m", "assay", "--help")
    assert (code, err) == (0, "") and "methods" in out
    code, out, err = installed("-m", "assay", "methods")
    assert code == 0 and "learning_time" in out and "aum" in out
    assert sentence(err).startswith("The method 'broken' of the package stranger cannot be used (ModuleNotFoundError: ")
    code, out, err = installed("-m", "assay", "methods", "broken")
    assert code == 2 and out == "" and sentence(err).endswith("mend or uninstall that package.")


@pytest.mark.slow
def test_a_method_and_selectors_of_a_stranger_are_held_to_the_laws(installed):
    assert installed("-W", "error", "-c", textwrap.dedent(LAWS)) == (0, "", "")
    code, _, err = installed("-c", textwrap.dedent(WRONG))
    assert code == 1 and "AssertionError: learning_time breaks the law `it_points_the_declared_way`" in err
    # The laws ask for no tool that only our own tests need.
    unneeded = "import sys, assay.testing; assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    assert installed("-c", unneeded) == (0, "", "")
