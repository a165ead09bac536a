"""--where, the flags of before, --dry-run and `assay status`."""

import json
import os
import time

import pytest

from assay.cli.app import _placed
from assay.cluster import Call, executor, run_all
from assay.core.errors import TrialFailed
from assay.core.words import lasted
from cli.shell import here, sentence
from cli.test_study import QUICK


def square(number):
    return number * number


def fail():
    raise ValueError("no")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("verify run --executor inline --seeds 2", "verify run --seeds 2 --where inline"),
        ("verify run --executor=processes --workers=3", "verify run --where processes:3"),
        ("score run loo --workers 3", "score run loo --where processes:3"),
        ("lds run tracin --where slurm", "lds run tracin --where slurm"),
        ("record run --workers 3", "record run --workers 3"),
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
