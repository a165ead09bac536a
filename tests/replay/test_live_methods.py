import pytest

from assay.core.errors import UsageError
from assay.methods.cg_score import CGScore
from assay.methods.dual import DUAL
from assay.methods.oti import OTI
from assay.methods.tdds import TDDS
from assay.replay.live_methods import LiveMethods


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ([DUAL(), DUAL(window=10)], "live= names a method twice: .*dual, dual"),
        ([CGScore()], "cg_score cannot run live; it reads neither epochs nor steps one by one"),
        ([OTI()], "oti cannot run live"),
    ],
)
def test_what_cannot_run_along_is_refused(methods, words):
    with pytest.raises(UsageError, match=words):
        LiveMethods(methods)
    live = LiveMethods([TDDS()])
    with pytest.raises(UsageError, match=words):
        for method in methods:
            live.add(method)
    assert live.titles[0] == "tdds"
