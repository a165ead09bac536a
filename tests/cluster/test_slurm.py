"""SLURM: what is asked of it and what is made of its answers; and in the second group, on a real cluster of one node, every way in which a job can end."""

import dataclasses
import functools
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

import assay
from assay.cluster import Call, executor, run_all
from assay.cluster.ledger import read_ledgers
from assay.cluster.slurm import KEPT, Slurm, SlurmExecutor, _remove_old
from assay.cluster.slurm_queue import Ended, Queue
from assay.core.errors import TrialFailed, UnknownName, UsageError
from assay.experiments import kept_state
from assay.experiments.kept_state import StateKeeper
from assay.experiments.plan import Plan, load_data
from assay.experiments.trials import Arm, train_arm

PATIENCE = 240
"""Seconds after which a test gives up."""


def square(number):
    return number * number


def fail(number):
    raise ValueError(f"trial {number} cannot be")


def die(path):
    path.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)


def wait(path, go, value):
    with path.open("a") as file:
        file.write(f"{os.environ.get('SLURM_ARRAY_JOB_ID', os.environ.get('SLURM_JOB_ID'))} {os.getpid()}\n")
    while not go.exists():
        time.sleep(0.05)
    return value


def outlast(path):
    """At first as long as SLURM lets a job live that does not end when it is told to; then at once."""
    if path.exists():
        return "again"
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    path.touch()
    time.sleep(10 * PATIENCE)


def counted(path, seconds):
    """Goes on where it was stopped, as a training with states does; how often it began."""
    begun = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(begun))
    if begun == 1:
        time.sleep(seconds)
    return begun


def train_and_wait(plan, arm, folder):
    """One training that after its third epoch waits for the end of its job, and goes on in the next; each state that it keeps is counted."""
    write, counts = StateKeeper._write, folder / "counts"
    counts.mkdir(exist_ok=True)

    def wrote(self, *given):
        write(self, *given)
        number = len(list(counts.iterdir())) + 1
        (counts / str(number)).touch()
        if number == 3:
            time.sleep(PATIENCE)

    kept_state.EVERY, StateKeeper._write = 0.0, wrote
    return train_arm(plan, arm, 0, None, str(folder / "state"))


def until(condition):
    deadline = time.monotonic() + PATIENCE / 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def trains(logs):
    """Processes that train now, and their jobs, by the logs of a study."""
    began = [re.findall(r"^began (?!probe)\S+ in process (\d+)", path.read_text(), re.M) for path in logs.glob("*.log")]
    jobs = {int(pid): job_of(pid) for found in began for pid in found}
    return {pid: job for pid, job in jobs.items() if job}


def job_of(pid):
    """The job of a process, as squeue names it; None if it has ended."""
    try:
        said = dict(line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None
    array = said.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{said['SLURM_ARRAY_TASK_ID']}" if array else said.get("SLURM_JOB_ID")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function that puts a command of SLURM in place that says something and ends with a code; no other is there."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, says="", code=0, complains=""):
        path = folder / name
        path.write_text(f"#!/bin/sh\nprintf '%s' '{says}'\nprintf '%s' '{complains}' >&2\nexit {code}\n")
        path.chmod(0o755)

    return put


def test_what_squeue_says(commands):
    queue = Queue()
    assert queue.states(["12_0"]) is None, "no answer is no news"
    commands("squeue", "12_0|RUNNING|None\n12_1|PENDING|JobArrayTaskLimit\n")
    assert queue.states(["12_0", "12_1"]) == {"12_0": "RUNNING None", "12_1": "PENDING JobArrayTaskLimit"}
    commands("squeue", code=1, complains="slurm_load_jobs error: Invalid job id specified")
    assert queue.states(["12"]) == {}
    commands("squeue", code=1, complains="Unable to contact slurm controller")
    assert queue.states(["12"]) is None


def test_how_a_job_ended_is_said_by_sacct_or_where_that_is_off_by_scontrol(commands):
    queue = Queue()
    assert queue.ended("12_1") is None
    commands(
        "scontrol", "JobId=13 ArrayJobId=12 JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15 RunTime=00:02:11 TimeLimit=00:02:00"
    )
    assert queue.ended("12_1") == Ended("TIMEOUT", "exit code 0:15", 2)
    commands("sacct", "12_0|COMPLETED|0:0|00:01:00\n12_1|CANCELLED by 0|0:9|1-02:05:00\n")
    assert queue.ended("12_1") == Ended("CANCELLED", "exit code 0:9", 26 * 60 + 5)
    commands("sacct", "12_1|TIMEOUT|0:9|Partition_Limit\n")
    assert queue.ended("12_1") == Ended("TIMEOUT", "exit code 0:9", None)
    commands("sacct", code=1, complains="Slurm accounting storage is disabled")
    assert queue.ended("12_1").state == "TIMEOUT"
    commands("scontrol", "JobState=RUNNING ExitCode=0:0")
    assert queue.ended("12_1") is None and not Queue.failed(None) and not Queue.failed(Ended("COMPLETED", ""))


@pytest.mark.parametrize(
    ("limit", "asked", "words"),
    [
        ("00:02:00", 60, "at its time limit of 2 minutes; the same command again asks for 60"),
        ("00:01:00", 1, "at its time limit of 1 minute; give more with slurm:time="),
        ("UNLIMITED", 60, "at its time limit; give more with slurm:time="),
    ],
)
def test_a_time_limit_is_that_of_the_job_and_not_of_the_command_that_found_it(limit, asked, words, commands, tmp_path):
    pytest.importorskip("submitit")
    commands("sacct", f"12_1|TIMEOUT|0:15|{limit}")
    found = SlurmExecutor(Slurm(time=asked, folder=str(tmp_path)), dry_run=True)
    assert found._reason("12_1", found._queue.ended("12_1")) == f"job 12_1 was ended {words}"


@pytest.mark.parametrize(
    ("code", "complains", "kept"),
    [
        (0, "", False),
        (1, "scancel: error: Kill job error on job id 12: Invalid job id specified", False),
        (1, "scancel: error: Unable to contact slurm controller", True),
        (1, "", True),
    ],
)
def test_what_is_stopped_leaves_nothing_but_what_a_later_command_takes_up(code, complains, kept, commands, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name in ("srun", "squeue"):
        commands(name)
    commands("sbatch", "Submitted batch job 12")
    commands("scancel", code=code, complains=complains)
    home = tmp_path / "jobs"
    slurm = SlurmExecutor(Slurm(folder=str(home)))
    monkeypatch.setattr(slurm, "_watch", lambda: None)
    call, logs = Call("stopped", square, (1,), "key"), {"stopped": tmp_path / "stopped.log"}
    (future,) = slurm.send([call], logs, 1)
    sent = {".job", ".pkl", ".sh"}
    assert {path.suffix for path in home.iterdir()} == sent
    # A result that comes while the job is being ended.
    future.files.with_suffix(".result").write_bytes(pickle.dumps((1,)))
    slurm.stop()
    assert future.done() and {path.suffix for path in home.iterdir()} == {".result", *(sent if kept else ())}
    assert logs["stopped"].exists() != kept and (kept or logs["stopped"].read_text() == "stopped stopped\n")
    (again,) = slurm.send([call], logs, 1)
    assert again.result() == 1


def test_what_a_job_asks_for():
    asked = Slurm.parse("slurm:partition=gpu,gpus=2,time=240,mem=7.5,cpus=8")
    assert asked.title == "slurm:time=240,partition=gpu,cpus=8,gpus=2,mem=7.5"
    said = asked.parameters(3)
    assert said["gpus_per_node"] == 2 and said["mem"] == "7680M" and said["cpus_per_task"] == 8 and said["signal_delay_s"] == 90
    plain = Slurm.parse("slurm").parameters(3)
    assert plain["cpus_per_task"] == 3 and not {"partition", "mem", "gpus_per_node"} & plain.keys()
    assert Slurm(time=1).parameters(1)["signal_delay_s"] == 15
    with pytest.raises(UnknownName, match="Did you mean partition"):
        Slurm.parse("slurm:partitions=gpu")
    for wrong in ("slurm:time=0", "slurm:time=1.5", "slurm:gpus=-1", "slurm:mem=much"):
        with pytest.raises(UsageError):
            Slurm.parse(wrong)
    with pytest.raises(UsageError, match="slurm:jobs=3 says how many"):
        executor("slurm", workers=3)


@pytest.mark.slow
def test_jobs_are_never_kept_where_a_stranger_may_have_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Slurm().home == tmp_path / "cache" / "assay" / "slurm"
    pytest.importorskip("submitit")
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o770)
    with pytest.raises(UsageError, match="can be written by others"):
        SlurmExecutor(Slurm(folder=str(home)), dry_run=True)._home()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(UsageError, match="belongs to somebody else"):
        SlurmExecutor(Slurm(folder=str(tmp_path)), dry_run=True)._home()


def test_only_old_files_of_jobs_are_removed(tmp_path):
    old = time.time() - KEPT - 60
    ours = [
        "0" * 32 + ".result",
        "0" * 32 + ".job",
        "call-" + "0" * 16 + ".log",
        "12_0_log.err",
        "12_3_0_result.pkl",
        "12_submission.sh",
    ]
    others = ["study.json", "0.result", "results.pkl", "12.txt"]
    for name in (*ours, *others):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    (tmp_path / "13_0_log.err").touch()
    _remove_old(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "13_0_log.err"}


@pytest.mark.slow
def test_without_slurm_or_submitit_it_says_so(monkeypatch, commands):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "submitit", None)
        with pytest.raises(UsageError, match=r"needs submitit.*pip install 'assay\[slurm\]'"):
            executor("slurm")
    pytest.importorskip("submitit")
    with pytest.raises(UsageError, match="SLURM's sbatch is not found"):
        executor("slurm")


@functools.cache
def slurm_answers():
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


needs_slurm = [
    pytest.mark.slow,
    # As a text, that it is asked for by these tests alone: where no daemon answers, sinfo takes seconds to say so.
    pytest.mark.skipif("not slurm_answers()", reason="no SLURM answers here; .ci/slurm-up starts one"),
]


@pytest.fixture
def pool(tmp_path):
    pytest.importorskip("submitit")
    made = []

    def start(**more):
        made.append(SlurmExecutor(Slurm(**{"time": 5, "folder": str(tmp_path / "jobs"), **more}), pause=0.2, grace=5))
        return made[-1]

    yield start
    for one in made:
        one.stop()


class TestOnACluster:
    pytestmark = needs_slurm

    def test_an_array_gives_all_results_and_leaves_nothing_behind(self, pool, tmp_path):
        calls = [Call(f"square-{number}", square, (number,), str(number)) for number in range(5)]
        with pool() as slurm:
            assert dict(run_all(slurm, calls, tmp_path / "logs")) == {f"square-{number}": number**2 for number in range(5)}
        assert (tmp_path / "logs" / "square-3.log").read_text().endswith("ended square-3\n")
        assert not list((tmp_path / "jobs").iterdir())

    def test_a_future_is_one_of_the_standard_library(self, pool):
        with pool() as slurm:
            assert list(slurm.map(square, [1, 2])) == [1, 4]
            assert "trial 3 cannot be" in str(slurm.submit(fail, 3).exception(timeout=PATIENCE))
        with pytest.raises(RuntimeError, match="after shutdown"):
            slurm.submit(square, 1)

    def test_a_failed_trial_carries_the_tail_of_its_log(self, pool, tmp_path):
        with (
            pytest.raises(TrialFailed, match=r"(?s)bad failed with ValueError: trial 4.*bad.log ends with.*raise "),
            pool() as slurm,
        ):
            list(run_all(slurm, [Call("bad", fail, (4,))], tmp_path))

    def test_a_worker_that_is_killed_is_a_named_failure_and_the_others_deliver(self, pool, tmp_path):
        results = {}
        calls = [Call("dies", die, (tmp_path / "died",)), Call("good", square, (3,))]
        with (
            pytest.raises(
                TrialFailed, match=r"dies failed, because the worker of job \S+ ended without a result \(FAILED, exit code"
            ),
            pool() as slurm,
        ):
            for name, result in run_all(slurm, calls, tmp_path / "logs"):
                results[name] = result
        assert results in ({"good": 9}, {}) and (tmp_path / "died").exists()
        (status,) = read_ledgers(tmp_path / "logs")
        assert (status.failed, status.first_failed, status.done, status.alive) == (1, "dies", len(results), False)

    def test_a_job_that_is_cancelled_is_a_named_failure(self, pool, tmp_path):
        begun = tmp_path / "begun"

        def cancelled():
            for name, result in run_all(slurm, [Call("waits", wait, (begun, tmp_path / "go", 1))], tmp_path / "logs"):
                raise AssertionError((name, result))

        with pool() as slurm:
            threading.Thread(
                target=lambda: (
                    until(lambda: begun.exists() and begun.read_text()),
                    subprocess.run(["scancel", begun.read_text().split()[0]]),
                )
            ).start()
            with pytest.raises(TrialFailed, match=r"waits failed, because job \S+ was cancelled"):
                cancelled()

    def test_past_its_time_limit_a_call_is_a_failure_and_one_that_resumes_goes_on(self, pool, tmp_path):
        # One after the other: a call that has not begun when another fails is never begun, and the node may be busy.
        seconds = 200
        again, once = (
            Call("again", counted, (tmp_path / "count", seconds), "key", resumes=True),
            Call("once", time.sleep, (seconds,)),
        )
        with pool(time=1) as slurm:
            assert dict(run_all(slurm, [again], tmp_path / "logs")) == {"again": 2}
        with pytest.raises(TrialFailed, match=r"once failed with TimeLimit: .* keeps no state"), pool(time=1) as slurm:
            list(run_all(slurm, [once], tmp_path / "logs"))

    def test_a_later_process_takes_up_what_an_earlier_one_sent(self, pool, tmp_path):
        code = f"""
            import sys
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import test_slurm as here
            folder = Path({str(tmp_path)!r})
            slurm = here.SlurmExecutor(here.Slurm(time=5, folder=str(folder / "jobs")), pause=0.2)
            calls = [here.Call(name, here.wait, (folder / name, folder / "go", name), name) for name in "ab"]
            list(here.run_all(slurm, calls, folder / "logs"))
        """
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(code))
        parent = subprocess.Popen([sys.executable, script])
        until(lambda: all((tmp_path / name).exists() for name in "ab"))
        (status,) = read_ledgers(tmp_path / "logs")
        assert (status.running, status.queued, status.alive) == (2, 0, True)
        parent.kill()
        parent.wait()
        assert not read_ledgers(tmp_path / "logs")[0].alive
        calls = [Call(name, wait, (tmp_path / name, tmp_path / "go", name), name) for name in "ab"]
        with pool() as slurm:
            results = run_all(slurm, calls, tmp_path / "logs")
            (tmp_path / "go").touch()
            assert dict(results) == {"a": "a", "b": "b"}
        assert [len((tmp_path / name).read_text().splitlines()) for name in "ab"] == [1, 1], "nothing ran twice"

    def test_a_job_that_is_being_ended_is_not_taken_up(self, pool, tmp_path):
        call, logs = Call("lasts", outlast, (tmp_path / "begun",), "key"), {"lasts": tmp_path / "lasts.log"}
        first = pool()
        (future,) = first.send([call], logs, 1)
        until(lambda: (tmp_path / "begun").exists())
        # From outside: what was kept of the job stays.
        subprocess.run(["scancel", future.job_id], check=True)
        with pool() as second:
            (again,) = second.send([call], logs, 1)
            assert again.result(timeout=PATIENCE) == "again" and again.job_id != future.job_id

    def test_ctrl_c_ends_the_jobs(self, pool, tmp_path):
        slurm = pool()
        futures = slurm.send(
            [Call("waits", wait, (tmp_path / "begun", tmp_path / "go", 1))], {"waits": tmp_path / "waits.log"}, 1
        )
        until((tmp_path / "begun").exists)
        slurm.stop()
        assert not list((tmp_path / "jobs").iterdir())
        assert "was stopped" in str(next(iter(futures)).exception(timeout=PATIENCE))
        until(lambda: not slurm._queue.states([next(iter(futures)).job_id]))

    def test_what_slurm_refuses_is_one_sentence(self, pool, tmp_path):
        with pytest.raises(UsageError, match=r"SLURM refused the jobs \(.*partition"), pool(partition="nowhere") as slurm:
            list(run_all(slurm, [Call("square", square, (1,))], tmp_path))

    def test_a_study_a_verdict_and_models_by_jobs_are_those_of_one_process(self, pool, tmp_path):
        from assay.experiments.record import record
        from assay.runs.paths import StudyPaths
        from studies.test_costs import CASES, PLAN

        study, settings, grid = CASES["scaling"]
        run = record(Plan.make(PLAN), tmp_path / "run")
        decision = assay.choose(assay.score(run, "aum")["aum"], "top_k", keep=0.5)
        studies, verdicts, models = [], [], []
        with pool() as slurm:
            for where in (None, slurm):
                how = assay.Execution(pool=where)
                folder = tmp_path / ("inline" if where is None else "jobs")
                studies.append(study(folder, settings, scale="tiny", grid=grid, execution=how))
                verdicts.append(assay.verify(decision, run=run, seeds=2, execution=how))
                models.append(record(Plan.make({**PLAN, "models": 2}), folder / "models", execution=how))
        assert studies[0].fingerprint == studies[1].fingerprint
        assert StudyPaths(tmp_path / "inline").summary.read_bytes() == StudyPaths(tmp_path / "jobs").summary.read_bytes()
        inline, jobs = ([dataclasses.replace(one, seconds=0.0) for one in verdict.outcomes] for verdict in verdicts)
        assert inline == jobs
        assert models[0].fingerprint == models[1].fingerprint and all(one.check() for one in models)
        assert models[0].members[0].fingerprint == models[1].members[0].fingerprint

    def test_a_study_goes_on_after_a_cancelled_job_and_a_killed_worker(self, pool, tmp_path):
        from assay.runs.paths import StudyPaths
        from assay.studies.scaling import ScalingGrid, study_scaling

        # Trainings longer than what SLURM leaves a cancelled job.
        plan = {"data": "digits:test=800", "net": "mlp:widths=256-256", "recipe": {"epochs": 250, "batch": 16}}
        grid = ScalingGrid(seeds=1, sizes=(1.0,), fractions=(0.5,), metrics=("aum",), models=1, angles=())

        def study(folder, where):
            return study_scaling(folder, plan, scale="tiny", grid=grid, execution=assay.Execution(pool=where))

        folder = tmp_path / "jobs"

        def cancel():
            until(lambda: trains(folder / "logs"))
            subprocess.run(["scancel", next(iter(trains(folder / "logs").values()))], check=True)

        def kill():
            until(lambda: trains(folder / "logs"))
            os.kill(next(iter(trains(folder / "logs"))), signal.SIGKILL)

        for end, reason in ((cancel, r"job \S+ was cancelled"), (kill, r"ended without a result \(FAILED")):
            threading.Thread(target=end).start()
            with pytest.raises(TrialFailed, match=reason), pool() as slurm:
                study(folder, slurm)
            until(lambda: not trains(folder / "logs"))
        with pool() as slurm:
            study(folder, slurm)
        study(tmp_path / "inline", None)
        assert StudyPaths(folder).summary.read_bytes() == StudyPaths(tmp_path / "inline").summary.read_bytes()

    def test_a_training_past_its_time_limit_goes_on_to_the_same_bytes(self, pool, tmp_path):
        recipe = {"epochs": 8, "batch": 32, "momentum": 0.9, "schedule": "one_cycle"}
        plan = Plan.make({"data": "digits:test=300", "net": "mlp", "recipe": recipe})
        train = load_data(plan).train
        arm = Arm("all", train.ids, train.labels, torch.ones(len(train), dtype=torch.float64))
        call = Call("long", train_and_wait, (plan.plain(), arm, tmp_path), "long", resumes=True)
        with pool(time=1) as slurm:
            ((_, found),) = run_all(slurm, [call], tmp_path / "logs")
        assert (tmp_path / "logs" / "long.log").read_text().count("began long") == 2
        # The second job trains what the first did not.
        assert len(list((tmp_path / "counts").iterdir())) == 8
        assert dataclasses.replace(found, seconds=0.0) == dataclasses.replace(train_arm(plan.plain(), arm, 0), seconds=0.0)
