"""Trainings taken again many times: the same bytes wherever they run."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import assay
from assay.cluster.executors import InlineExecutor, executor
from assay.core.errors import TrialFailed, UsageError
from assay.experiments import retraining
from assay.experiments.evidence import open_replay
from assay.experiments.retraining import Retraining
from assay.experiments.score import score
from assay.training.loop import evaluate
from experiments import small
from experiments.test_verify import Told
from methods.loops import World


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run of 40 examples, with validation examples. It is read, never changed."""
    return small.recorded(tmp_path_factory.mktemp("held") / "run", data="digits:test=1747", validation=0.2, recipe={"batch": 16})


@pytest.fixture(scope="module")
def processes():
    with executor("processes", workers=1) as pool:
        yield pool


def replayed(run):
    return open_replay(run, targets=["validation", "test"])


def test_accuracies_and_losses_are_those_of_an_evaluation(held):
    replay = replayed(held)
    names = ["validation accuracy", "validation", "test accuracy", "test"]
    ((right, loss, test_right, test_loss),) = replay.retrained([torch.tensor([3, 5])], replay.epochs[-1], names).tolist()
    plan = small.Plan.make(held.header.about["plan"])
    loaded = plan.load()
    for examples, one, other in ((loaded.validation, right, loss), (loaded.test, test_right, test_loss)):
        accuracy, mean = evaluate(replay.training.model, examples.inputs, examples.labels, prepare=examples.prepared)
        assert one == accuracy and abs(other - mean) < 1e-6


def test_an_accuracy_is_weighted_as_its_loss_is(tmp_path):
    world = World(tmp_path / "run")
    weights = torch.arange(9, dtype=torch.float64)
    replay = open_replay(world.run, loop=world.loop(), targets={"own": (world.held_out, world.held_labels, weights)})
    nothing = torch.zeros(0, dtype=torch.int64)
    value = float(replay.retrained([nothing], replay.epochs[-1], ["own accuracy"]))
    right = replay.training.model.eval()(world.held_out).argmax(1) == world.held_labels
    assert 0 < value < 1 and abs(value - float((weights * right).sum() / weights.sum())) < 1e-12
    assert replay.targets == ("own",), "methods, for which less is better, do not see it"
    with pytest.raises(UsageError, match="'own accuracy'; there are: own"):
        world.score("loo:target=own accuracy", targets={"own": (world.held_out, world.held_labels)})


@pytest.mark.slow
def test_loo_is_the_same_bytes_wherever_it_runs(held, processes):
    alone = score(held, "loo:window=last")["loo:window=last"].values
    for pool in (processes, InlineExecutor()):
        told = Told()
        assert torch.equal(
            score(held, "loo:window=last", execution=assay.Execution(pool=pool, progress=told))["loo:window=last"].values, alone
        )
        assert told.words[0][0] == 0 and told.words[-1][:2] == (len(held.ids) + 1, len(held.ids) + 1)
    logs = list((held.paths.trials / "logs").glob("without-*.log"))
    assert len(logs) == len(held.ids) + 1 and all("ended" in log.read_text() for log in logs)


def test_threads_of_one_process_take_turns(held):
    alone = score(held, "loo:window=last")["loo:window=last"].values
    with ThreadPoolExecutor(3) as pool:
        assert torch.equal(score(held, "loo:window=last", execution=assay.Execution(pool=pool))["loo:window=last"].values, alone)


def test_many_trainings_go_out_in_few_chunks(held, monkeypatch):
    monkeypatch.setattr(retraining, "CHUNKS", 3)
    monkeypatch.setattr(
        retraining,
        "run_all",
        lambda pool, calls, logs, task, before: ((call.name, call.function(*call.args)) for call in seen(calls)),
    )
    sent = []

    def seen(calls):
        sent.extend(calls)
        return calls

    replay = replayed(held)
    groups = list(torch.arange(8).split(1))
    spread = Retraining(replay, pool=InlineExecutor())
    found = spread(groups, replay.epochs[-1], ["validation"], "weight")
    assert [[place for place, _ in call.args[1]] for call in sent] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert torch.equal(found, torch.cat([replay.retrained([group], replay.epochs[-1], ["validation"]) for group in groups]))


def test_a_loop_of_ones_own_runs_elsewhere_if_it_can_be_sent(tmp_path, processes):
    world = World(tmp_path / "run", epochs=2)
    targets = {"validation": (world.held_out, world.held_labels)}
    alone = world.score("loo:window=last")["loo:window=last"].values
    assert torch.equal(world.score("loo:window=last", execution=assay.Execution(pool=processes))["loo:window=last"].values, alone)
    loop = world.loop(losses=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"))
    given = {"loop": loop, "targets": targets, "replay_config": assay.ReplayConfig(tolerance=1e-9)}
    with pytest.raises(UsageError, match=r"cannot be sent to other processes \(.*\); leave Execution\(pool=\) out"):
        assay.score(world.run, "loo:window=last", execution=assay.Execution(pool=processes), **given)
    found = assay.score(world.run, "loo:window=last", execution=assay.Execution(pool=InlineExecutor()), **given)[
        "loo:window=last"
    ].values
    assert torch.allclose(found, alone, rtol=0, atol=1e-12)


def test_a_run_that_changed_before_its_work_was_done_is_refused(held, tmp_path):
    own = small.copied(held, tmp_path / "own")
    packed = Retraining(replayed(own), targets=["validation", "test"])._packed()
    lines = own.paths.commits.read_bytes().splitlines(keepends=True)
    own.paths.commits.write_bytes(b"".join(lines[:2]))
    with pytest.raises(assay.AssayError, match="holds recording"):
        retraining._rebuilt(packed)


def test_a_training_that_fails_elsewhere_is_a_failed_trial(held, processes):
    replay = replayed(held)
    spread = Retraining(replay, targets=["validation", "test"], pool=processes)
    with pytest.raises(TrialFailed, match=r"failed with IndexError.*without-0[01]\.log"):
        spread([torch.tensor([10_000])] * 2, replay.epochs[-1], ["validation"], "weight")
