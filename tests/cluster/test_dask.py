"""Any executor of the standard library's kind: Dask's, with workers that are processes."""

import dataclasses

import pytest

import assay
from assay.core.errors import TrialFailed
from assay.experiments.plan import Plan
from assay.experiments.record import record
from studies.test_costs import PLAN

pytestmark = [
    pytest.mark.slow,
    # What the library says of its own port and of what it leaves open.
    pytest.mark.filterwarnings("ignore:.*dashboard|.*[Pp]ort .* is already in use:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
]


@pytest.fixture(scope="module")
def executor():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client.get_executor()


def test_a_verdict_by_dask_is_that_of_one_process(executor, tmp_path):
    run = record(Plan.make(PLAN), tmp_path / "run")
    decision = assay.choose(assay.score(run, "aum")["aum"], "top_k", keep=0.5)
    inline, apart = (assay.verify(decision, run=run, seeds=2, execution=assay.Execution(pool)) for pool in (None, executor))
    # Two trainings of the recording's own threads, wherever they are.
    assert [dataclasses.replace(one, seconds=0.0) for one in inline.outcomes] == [
        dataclasses.replace(one, seconds=0.0) for one in apart.outcomes
    ]


def test_what_fails_there_is_named_here(executor, tmp_path):
    run = record(Plan.make(PLAN), tmp_path / "run")
    decision = assay.choose(assay.score(run, "aum")["aum"], "top_k", keep=0.5)

    def fails(ids, labels, weights, seed):
        raise ValueError("no memory left on that node")

    with pytest.raises(TrialFailed, match=r"failed with ValueError: no memory left on that node"):
        assay.verify(decision, run=run, retrain=fails, seeds=2, execution=assay.Execution(executor))
