import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from assay.cluster import Call, InlineExecutor, executor, executors, run_all
from assay.core.errors import NotWritten, TrialFailed, UnknownName, UsageError

FAR = 60
"""Seconds that no test waits: how long a worker would sleep if nobody ended it."""


def square(number):
    return number * number


def threads_of_torch():
    return torch.get_num_threads()


def fail(number):
    raise ValueError(f"trial {number} cannot be")


def fail_in_a_way_that_cannot_be_sent():
    raise UnknownName("net", "lenett", ["lenet"])


def unsendable():
    return lambda: None


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path, then):
    while not path.exists():
        time.sleep(0.01)
    return then


def touch(path):
    path.touch()
    raise RuntimeError("touched")


def pids(folder, name):
    (folder / name).write_text(str(os.getpid()))
    time.sleep(FAR)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def until(condition):
    deadline = time.monotonic() + FAR / 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def squares(count):
    return [Call(f"square-{number}", square, (number,)) for number in range(count)]


@pytest.fixture(scope="module")
def pool():
    with executor("processes", workers=2) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inline", "threads", "processes"])
def test_every_executor_gives_all_results(kind, pool, tmp_path):
    if kind == "processes":
        results = dict(run_all(pool, squares(7), tmp_path))
    else:
        with InlineExecutor() if kind == "inline" else ThreadPoolExecutor(2) as other:
            results = dict(run_all(other, squares(7), tmp_path))
    assert results == {f"square-{number}": number * number for number in range(7)}
    assert (tmp_path / "square-3.log").read_text().endswith("ended square-3\n")


def test_inline_results_come_one_by_one(tmp_path):
    results = run_all(executor("inline"), squares(3), tmp_path)
    assert next(results) == ("square-0", 0)
    assert (tmp_path / "square-1.log").read_text() == ""


@pytest.mark.slow
def test_a_call_has_the_threads_asked_for_wherever_it_runs(tmp_path):
    before = torch.get_num_threads()
    assert dict(run_all(executor("inline", threads=3), [Call("t", threads_of_torch)], tmp_path)) == {"t": 3}
    assert torch.get_num_threads() == before
    with executor("processes", workers=1, threads=3) as pool:
        assert dict(run_all(pool, [Call("t", threads_of_torch)], tmp_path)) == {"t": 3}


def test_inline_keeps_exceptions_and_lets_ctrl_c_through():
    def interrupt():
        raise KeyboardInterrupt

    with executor("inline") as inline:
        assert isinstance(inline.submit(fail, 3).exception(), ValueError)
        assert isinstance(inline.submit(sys.exit, 1).exception(), SystemExit)
        with pytest.raises(KeyboardInterrupt):
            inline.submit(interrupt)
        assert list(inline.map(square, [1, 2])) == [1, 4]
    with pytest.raises(RuntimeError, match="after shutdown"):
        inline.submit(square, 1)


@pytest.mark.parametrize("kind", ["inline", "processes"])
@pytest.mark.parametrize(
    ("function", "args", "reason"), [(fail, (4,), "ValueError: trial 4"), (fail_in_a_way_that_cannot_be_sent, (), "lenett")]
)
def test_a_failed_trial_carries_path_and_tail_of_its_log(kind, function, args, reason, pool, tmp_path):
    calls = [Call("bad.one", function, args)]
    with pytest.raises(TrialFailed, match=f"(?s)bad.one failed with .*{reason}.*bad.one.log ends with.*raise ") as caught:
        list(run_all(pool if kind == "processes" else executor("inline"), calls, tmp_path))
    assert "Traceback" in (tmp_path / "bad.one.log").read_text() and caught.value.exit_code == 7


def test_after_a_failure_running_trials_still_deliver_and_waiting_ones_do_not_begin(pool, tmp_path):
    calls = [Call("slow", wait_for, (tmp_path / "go", "slow result")), Call("bad", touch, (tmp_path / "go",)), *squares(300)]
    results = {}
    with pytest.raises(TrialFailed, match="Trial bad failed with RuntimeError: touched"):
        for name, result in run_all(pool, calls, tmp_path):
            results[name] = result
    assert results["slow"] == "slow result"
    begun = [path for path in tmp_path.glob("square-*.log") if path.stat().st_size]
    assert len(begun) < 300 and set(results) == {"slow"} | {path.stem for path in begun}


def test_what_cannot_be_sent_is_a_failed_trial(pool, tmp_path):
    for name, function in (("result", unsendable), ("call", lambda: 1)):
        with pytest.raises(TrialFailed, match=rf"(?s){name} failed with.*{name}.log ends with"):
            list(run_all(pool, [Call(name, function)], tmp_path))
        assert "Traceback" in (tmp_path / f"{name}.log").read_text()


def test_a_worker_that_dies_is_a_failed_trial(tmp_path):
    with executor("processes", workers=1) as pool:
        with pytest.raises(TrialFailed, match=r"(?s)died while running trial dies: .*dies.log ends with\n  began dies"):
            list(run_all(pool, [*squares(2), Call("dies", die), *squares(9)[5:]], tmp_path))
        with pytest.raises(TrialFailed, match="died while running trial square-0"):
            list(run_all(pool, squares(1), tmp_path))


def interrupted(tmp_path, signal_number):
    """A parent with two sleeping workers, signalled once both run. What the parent said, and the workers' process ids."""
    code = f"""
        import sys
        from pathlib import Path
        from assay.cluster import Call, executor, run_all
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_executors import pids

        if __name__ == "__main__":
            folder = Path({str(tmp_path)!r})
            with executor("processes", workers=2) as pool:
                list(run_all(pool, [Call(name, pids, (folder, name)) for name in "abcdef"], folder / "logs"))
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"))
    workers = [int((tmp_path / name).read_text()) for name in "ab"]
    parent.send_signal(signal_number)
    said = parent.communicate(timeout=FAR / 2)[1]
    return said, workers


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_the_workers_and_begins_nothing_new(tmp_path):
    said, workers = interrupted(tmp_path, signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt")
    until(lambda: not any(map(alive, workers)))
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killing_the_parent_leaves_no_worker_behind(tmp_path):
    _, workers = interrupted(tmp_path, signal.SIGKILL)
    until(lambda: not any(map(alive, workers)))


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(UsageError, match="not one of inline, processes"):
        executor("cluster")
    with pytest.raises(UsageError, match="needs the executor 'processes'"):
        executor("inline", workers=2)
    for numbers in ({"workers": 0}, {"threads": 0}):
        with pytest.raises(UsageError, match="must be 1 or more"):
            executor("processes", **numbers)
    with pytest.raises(UsageError, match="share a name: square-0"):
        list(run_all(executor("inline"), squares(1) * 2, tmp_path))
    for name in ("../up", "", ".hidden", "a b"):
        with pytest.raises(UsageError, match="cannot name a call"):
            list(run_all(executor("inline"), [Call(name, square, (1,))], tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match="cannot be written"):
        list(run_all(executor("inline"), squares(1), tmp_path / "file"))


@pytest.mark.slow
def test_calls_that_were_cancelled_before_the_workers_are_ended_trouble_nobody(tmp_path, monkeypatch):
    # Ctrl-C may come while the caller looks at a result: what waits is then cancelled first, the workers are ended after.
    caught = []
    monkeypatch.setattr(threading, "excepthook", caught.append)
    pool = executor("processes", workers=1)
    with pytest.raises(KeyboardInterrupt), pool:
        running = pool.submit(pids, tmp_path, "pid")
        waiting = [pool.submit(square, number) for number in range(6)]
        until((tmp_path / "pid").exists)
        assert any([future.cancel() for future in waiting])
        raise KeyboardInterrupt
    assert not caught, caught[0].exc_value
    assert isinstance(running.exception(), BrokenExecutor) and all(future.done() for future in waiting)


def alone(running):
    """Threads of torch, and how many calls run now."""
    running.append(1)
    threads = [torch.get_num_threads()]
    for _ in range(20):
        threads.append(len(running))
        time.sleep(0.001)
    running.pop()
    return threads[0], max(threads[1:])


def threads_and_wait(meet):
    meet.wait()
    found = torch.get_num_threads()
    meet.wait()
    return found


def test_calls_in_threads_of_one_process_take_turns_at_their_number_of_threads(tmp_path):
    """MKL has one number for the process: a call that ended would change it under another that still computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    running = []
    try:
        with ThreadPoolExecutor(2) as pool:
            calls = [Call(name, alone, (running,)) for name in "abcd"]
            assert dict(run_all(pool, calls, tmp_path)) == dict.fromkeys("abcd", (1, 1))
            assert torch.get_num_threads() == 2
            meet = threading.Barrier(2, timeout=20)
            assert [one.result() for one in [pool.submit(threads_and_wait, meet) for _ in range(2)]] == [2, 2], (
                "in the pool's threads too"
            )
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_take_several_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(executors.signal, "signal", lambda *_: None)
    taken, seen = multiprocessing.Value("i", 0), []
    for _ in range(4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        executors._begin_worker(["2", "5", "7"], taken)
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["2,5,7", "5,7,2", "7,2,5", "2,5,7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert executors._cuda_devices() == ["4", "6"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert executors._cuda_devices() == ["0", "1"]


def device_of_worker(folder):
    """The first device of the worker that makes this call, once four workers are at work."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 4:
        time.sleep(0.01)
    return os.environ["CUDA_VISIBLE_DEVICES"].partition(",")[0]


@pytest.mark.slow
def test_each_of_four_workers_has_a_gpu_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(executors, "_cuda_devices", lambda: ["0", "1", "2", "3"])
    with executor("processes:4") as pool:
        calls = [Call(name, device_of_worker, (tmp_path / "here",)) for name in "abcd"]
        (tmp_path / "here").mkdir()
        assert sorted(dict(run_all(pool, calls, tmp_path / "logs")).values()) == ["0", "1", "2", "3"]


def test_an_executor_by_its_text():
    with executor("processes:3", threads=2) as pool:
        assert pool.workers == 3 and pool.threads == 2
    for text in ("processes:0", "processes:-1", "inline:0"):
        with pytest.raises(UsageError, match="must be 1 or more"):
            executor(text)
    for text in ("processes:many", "inline:x", "slurm2", ""):
        with pytest.raises(UsageError, match="is not one of inline, processes, processes:N, slurm"):
            executor(text)
