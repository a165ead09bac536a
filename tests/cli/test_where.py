"""--where, the flags of before, --dry-run and `assay status`."""

import json
import os
import time

import pytest

from assay.cli.app import _placed
from assay.cluster import Call, executor, run_all
from assay.cluster.executors import trained
from assay.cluster.ledger import read_ledgers
from assay.core.errors import TrialFailed
from assay.core.words import lasted
from cli.shell import here, sentence
from cli.test_study import QUICK


def square(number):
    return number * number


def keeps(done, of, fails=False):
    """A call of several trainings."""
    for number in range(done):
        trained(number + 1, of)
    assert not fails


def look(logs):
    """What the status is while a call is at work: two of its five trainings took 30 seconds, and ended 10 seconds ago."""
    keeps(2, 5)
    assert len((logs / "part.log").read_text().splitlines()) == 3
    now = time.time()
    lines = (
        f"began part in process 1 at {now - 40:.3f}",
        "trained part 1 of 5 at 1.0",
        f"trained part 2 of 5 at {now - 10:.3f}",
        "",
    )
    (logs / "part.log").write_text("\n".join(lines))
    return read_ledgers(logs)


def fail():
    raise ValueError("no")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("verify run --executor inline --seeds 2", "verify run --seeds 2 --where inline"),
        ("verify run --executor=processes --workers=3", "verify run --where processes:3"),
        ("score run loo --workers 3", "score run loo --where processes:3"),
        ("lds run tracin --where slurm", "lds run tracin --where slurm"),
        ("record run --models 2 --workers 3", "record run --models 2 --where processes:3"),
        ("report run --workers 3", "report run --workers 3"),
        ("verify run --workers", "verify run --workers"),
    ],
)
def test_the_flags_of_before_say_the_same(given, said):
    assert _placed(given.split()) == said.split()


def test_status_says_how_far_the_trainings_are(capsys, tmp_path):
    calls = [Call(f"square-{number}", square, (number,)) for number in range(3)]
    results = run_all(executor("inline"), calls, tmp_path / "logs", "train", 4)
    next(results)
    code, out, err = here(capsys, "status", tmp_path)
    assert (code, err) == (0, "") and "at work" in out
    # Of an inline executor nothing runs while somebody looks.
    assert [cell.strip() for cell in next(line for line in out.splitlines() if "train " in line).split()][:5] == [
        "train",
        "5",
        "0",
        "0",
        "2",
    ]
    results.close()
    assert "give it again" in here(capsys, "status", tmp_path)[1]
    assert len(list(run_all(executor("inline"), calls, tmp_path / "logs", "train", 4))) == 3
    with pytest.raises(TrialFailed):
        list(run_all(executor("inline"), [Call("bad", fail)], tmp_path / "logs", "theory"))
    code, out, _ = here(capsys, "status", tmp_path, "--json")
    found = json.loads(out)
    assert [row[:5] for row in found["tables"][0]["rows"]] == [["train", 7, 0, 0, 0], ["theory", 0, 0, 1, 0]]
    assert "the first of them bad" in found["warnings"][0] and "give it again" in found["sentences"][-1]


def test_the_status_of_a_study_counts_what_its_recordings_gave_out(capsys, tmp_path):
    calls = [Call(f"square-{number}", square, (number,)) for number in range(3)]
    list(run_all(executor("inline"), calls, tmp_path / "logs", "record"))
    for recording, number in (("a", 3), ("b", 2)):
        list(run_all(executor("inline"), calls[:number], tmp_path / "probes" / recording / "trials" / "logs", "retrain"))
    at_work = run_all(executor("inline"), calls, tmp_path / "probes" / "c" / "trials" / "logs", "retrain")
    next(at_work)
    _, out, _ = here(capsys, "status", tmp_path, "--json")
    found = json.loads(out)
    assert [row[:5] for row in found["tables"][0]["rows"]] == [
        ["record", 3, 0, 0, 0],
        ["retrain, of 3 recordings so far", 6, 0, 0, 2],
    ]
    assert "at work" in found["sentences"][-1]
    list(at_work)
    found = json.loads(here(capsys, "status", tmp_path, "--json")[1])
    assert found["tables"][0]["rows"][1][1] == 8 and "so far" in found["sentences"][-1]
    # What the study itself gave out is no more done because its recordings' trainings are.
    stopped = run_all(executor("inline"), calls, tmp_path / "logs", "train")
    next(stopped)
    stopped.close()
    assert "give it again" in here(capsys, "status", tmp_path)[1]


def test_a_call_that_runs_is_told_from_one_that_waits_and_from_one_whose_process_is_gone(capsys, tmp_path):
    calls = [Call(name, square, (1,)) for name in "abcd"]
    results = run_all(executor("inline"), calls, tmp_path / "logs")
    next(results)
    for name, span in (("a", 40), ("b", 30)):
        (tmp_path / "logs" / f"{name}.log").write_text(
            f"began {name} in process 1 at {time.time() - span:.3f}\n" + "ended a\n" * (name == "a")
        )
    _, out, _ = here(capsys, "status", tmp_path, "--json")
    (row,) = json.loads(out)["tables"][0]["rows"]
    assert row[:6] == ["trials", 1, 1, 0, 2, "40 s"]
    # Two more after the 10 seconds that are left of the one that runs.
    assert row[6] in ("1 min 30 s", "1 min 29 s", "1 min 28 s")
    results.close()
    _, out, _ = here(capsys, "status", tmp_path, "--json")
    assert json.loads(out)["tables"][0]["rows"][0][:5] == ["trials", 1, 0, 0, 3]


def test_trainings_that_are_given_out_several_at_a_time_are_counted_one_by_one(capsys, tmp_path):
    logs = tmp_path / "logs"
    calls = [
        Call("whole", keeps, (3, 3), trainings=3),
        Call("part", look, (logs,), trainings=5),
        Call("next", keeps, (2, 2), trainings=2),
    ]
    given_out = run_all(executor("inline"), calls, logs, "retrain", 10)
    assert next(given_out) == ("whole", None)
    (logs / "whole.log").write_text(
        "began whole in process 1 at 100.0\ntrained whole 1 of 3 at 120.0\ntrained whole 3 of 3 at 150.0\nended whole\n"
    )
    # Seen by a call that is at its third training of five.
    _, (found,) = next(given_out)
    assert (found.done, found.running, found.failed, found.queued, found.alive) == (10 + 3 + 2, 1, 0, 2 + 2, True)
    # 50 seconds in two trainings (the third was kept already), and 30 in two; three are left of this call, at work for 10 seconds, and two of the next.
    each = (50 + 30) / (2 + 2)
    assert found.seconds == pytest.approx(each) and found.seconds_left == pytest.approx(5 * each - 10, abs=2)
    given_out.close()
    with pytest.raises(TrialFailed):
        list(run_all(executor("inline"), [Call("part", keeps, (2, 5, True), trainings=5)], logs, "retrain", 13))
    _, out, _ = here(capsys, "status", tmp_path, "--json")
    assert json.loads(out)["tables"][0]["rows"][0][:5] == ["retrain", 15, 0, 1, 2]
    # Its process is gone; of a call that an earlier command sent with ten, four were due.
    ledger = json.loads((logs / "retrain.ledger").read_text())
    (logs / "retrain.ledger").write_text(json.dumps({**ledger, "trainings": [4]}))
    (logs / "part.log").write_text("began part in process 1 at 5.0\ntrained part 7 of 10 at 6.0\n")
    _, out, _ = here(capsys, "status", tmp_path, "--json")
    assert json.loads(out)["tables"][0]["rows"][0][:5] == ["retrain", 13 + 1, 0, 0, 3]
    # A job goes on without the command, unless that ended it.
    (logs / "retrain.ledger").write_text(json.dumps({**ledger, "trainings": [4], "where": "SlurmExecutor"}))
    for said, running in (("", 1), ("stopped part\n", 0)):
        with (logs / "part.log").open("a") as log:
            log.write(said)
        _, out, _ = here(capsys, "status", tmp_path, "--json")
        assert json.loads(out)["tables"][0]["rows"][0][:5] == ["retrain", 13 + 1, running, 0, 3 - running]


def test_status_of_what_is_none_is_refused(capsys, tmp_path):
    code, _, err = here(capsys, "status", tmp_path)
    assert code == 5 and "has no logs of trainings" in sentence(err)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train.ledger").write_text("{}")
    assert "train.ledger is damaged" in sentence(here(capsys, "status", tmp_path)[2])
    (tmp_path / "logs" / "train.ledger").unlink()
    (tmp_path / "logs" / "train.ledger").symlink_to(os.devnull)
    assert "no regular file" in sentence(here(capsys, "status", tmp_path)[2])


def test_times_in_words():
    assert [lasted(one) for one in (0.25, 3, 59.6, 90, 3600, 12_060, 360_000)] == [
        "0.25 s",
        "3 s",
        "1 min",
        "1 min 30 s",
        "1 h",
        "3 h 21 min",
        "100 h",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "study", ["scaling", "difficulty", "cleansing", "fidelity", "complexity_gap", "liveval", "coresets", "pruning"]
)
def test_a_dry_run_on_a_cluster_leaves_nothing_behind(capsys, tmp_path, study):
    pytest.importorskip("submitit")
    where = f"slurm:folder={tmp_path / 'jobs'}"
    code, out, err = here(capsys, "study", study, tmp_path / "s", "--scale", "tiny", "--where", where, "--dry-run")
    # The altered data of liveval, which its jobs are told to read, are what the script is about.
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert (code, err) == (0, "") and "#SBATCH" in out
    assert all(path.startswith("s/data/") for path in left) if study == "liveval" else not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dry_run_prints_the_script_and_sends_nothing(capsys, tmp_path):
    quick = (*QUICK[:-2], "--sizes", "0.5,1", "--metrics", "el2n:at=1")
    code, out, err = here(capsys, "study", "scaling", tmp_path / "s", *quick, "--where", "processes:2", "--dry-run")
    assert (code, err) == (0, "") and not list(tmp_path.iterdir())
    assert "2 side by side" in out and "final models" in out and "train nothing" not in out and "#SBATCH" not in out
    pytest.importorskip("submitit")
    where = f"slurm:partition=gpu,gpus=1,time=240,folder={tmp_path / 'jobs'}"
    code, out, err = here(
        capsys,
        "study",
        "scaling",
        tmp_path / "s",
        *quick,
        "--where",
        where,
        "--dry-run",
    )
    assert (code, err) == (0, "") and not list(tmp_path.iterdir())
    for line in ("--array=0-3%4", "--partition=gpu", "--gpus-per-node=1", "--time=240", "--signal=USR2@90"):
        assert f"#SBATCH {line}\n" in out
    assert "4 jobs would be sent" in out
