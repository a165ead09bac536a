import json
import shutil

import pytest

from assay.core.errors import MissingEvidence, RunError, UsageError
from assay.core.lineage import SCHEMA
from assay.core.needs import Need
from assay.core.scoring import score
from assay.experiments.evidence import gather
from assay.methods.tdds import TDDS
from assay.replay.live_methods import LiveMethods, live_state
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run, read_run
from assay.runs.schema import read_commits
from runs.worlds import IDS, LABELS, LIVE, assert_holds, logits_of, play, recorded


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    recorded(folder, 3, live=LiveMethods(LIVE), checkpoints="every", class_names=["cat", "dog", "emu", "fox"])
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of a sound run, to be spoilt."""
    return shutil.copytree(made, tmp_path / "run")


def flip(path, at, bit=0):
    body = bytearray(path.read_bytes())
    body[at] ^= 1 << bit
    path.write_bytes(body)


def facts_of(run):
    return run.ids, run.labels.tolist(), run.class_names, run.fingerprint, run.header, run.epochs


def test_a_sound_run_opens_and_every_tensor_agrees(folder):
    run = Run(str(folder))
    assert run.epochs == 3 and run.classes == 4 and run.folder == folder
    # 8 facts, order, batch sizes, rates and 2 tensors of the checkpoint by epoch; the sum and the live states once.
    assert run.check() == 3 * (11 + 2) + 1 + 5 + 3
    for epoch in (-1, 3):
        with pytest.raises(UsageError, match="holds epochs 0 to 2"):
            run.shard(epoch)


ABSENT = {
    "no folder": (lambda folder: shutil.rmtree(folder), "does not exist"),
    "empty": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], r"is not an assay run \(no run.json\)"),
    "foreign": (lambda folder: (folder / "run.json").unlink(), "is not an assay run"),
    "another tool's": (lambda folder: (folder / "run.json").write_text('{"format": "lightning"}'), "holds no run of assay"),
    "a list": (lambda folder: (folder / "run.json").write_text("[1]"), "holds no run of assay"),
    "not JSON": (lambda folder: (folder / "run.json").write_bytes(b"\xff{"), "is damaged"),
    "cut": (lambda folder: (folder / "run.json").write_text((folder / "run.json").read_text()[:50]), "is damaged"),
    "a folder": (lambda folder: [(folder / "run.json").unlink(), (folder / "run.json").mkdir()], "is no regular file"),
    "no commits": (lambda folder: (folder / "commits.jsonl").unlink(), "has no committed epoch yet; let the recording"),
    "empty commits": (lambda folder: (folder / "commits.jsonl").write_bytes(b""), "has no committed epoch yet"),
    "no examples": (lambda folder: (folder / "examples.parquet").unlink(), "examples.parquet does not exist"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_what_is_no_run_is_refused(folder, case):
    spoil, words = ABSENT[case]
    spoil(folder)
    with pytest.raises(RunError, match=words) as caught:
        Run(folder)
    assert caught.value.exit_code == 5 and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_newer_schema_is_refused(folder):
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, "schema_version": SCHEMA + 1, "something": "new"}))
    for call in (Run, lambda folder: Recorder(folder, IDS, resume=True)):
        with pytest.raises(RunError, match=f"has schema {SCHEMA + 1}, this assay reads up to {SCHEMA}; upgrade assay"):
            call(folder)


@pytest.mark.parametrize("version", ["1", None, 0, True, 1.5])
def test_a_schema_that_is_none_is_refused(folder, version):
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, "schema_version": version}))
    with pytest.raises(RunError, match="its schema_version is"):
        Run(folder)


@pytest.mark.parametrize("name", ["run.json", "commits.jsonl", "examples.parquet"])
def test_every_changed_bit_of_the_small_files_is_noticed(folder, name):
    """Or it changes nothing that is read, such as a space between two fields."""
    before, body = facts_of(Run(folder)), (folder / name).read_bytes()
    noticed, tried = 0, range(0, len(body), 7 if name == "commits.jsonl" else 3)
    for at in [*tried, len(body) - 1]:
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 7
        (folder / name).write_bytes(damaged)
        try:
            after = facts_of(Run(folder))
        except RunError as error:
            assert name in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            assert after == before, f"byte {at} changed unnoticed"
    assert noticed > 0.5 * len(tried)


@pytest.mark.parametrize("missing", [False, True])
def test_a_spoilt_shard_is_named_and_the_other_epochs_can_be_read(folder, missing):
    path = folder / "epochs/epoch-000001.safetensors"
    run = Run(folder)
    if missing:
        path.unlink()
        words = f"{path} is missing though the run committed it"
    else:
        losses = run.shard(1).read("losses").numpy().tobytes()
        flip(path, path.read_bytes().index(losses) + 5, 3)
        words = f"{path} is damaged: 'losses' is not what was committed"
    for read in (lambda: run.shard(1).read("losses"), run.check, lambda: score([TDDS(window=3)], gather(run))):
        with pytest.raises((RunError, MissingEvidence)) as caught:
            read()
        if isinstance(caught.value, RunError):
            assert words in str(caught.value)
    assert_holds(run.shard(0), logits_of(0), LABELS)
    if not missing:
        assert run.shard(1).read("margins").shape == LABELS.shape


@pytest.mark.parametrize("kind", ["checkpoints", "sums", "live"])
def test_what_goes_with_an_epoch_is_checked_too(folder, kind):
    path = folder / kind / "epoch-000002.safetensors"
    flip(path, -1)
    with pytest.raises(RunError, match=f"{kind}/epoch-000002.safetensors is damaged"):
        Run(folder).check()


def test_a_changed_note_of_a_checkpoint_is_noticed(folder):
    path = folder / "checkpoints/epoch-000002.safetensors"
    flip(path, path.read_bytes().index(rb"epoch\": \"2") + 11)
    with pytest.raises(RunError, match="its notes are not what was committed"):
        Run(folder).checkpoint(2).notes  # noqa: B018
    with pytest.raises(RunError, match="its notes"):
        Run(folder).check()


@pytest.mark.parametrize("cut", [1, 5, 9, 10, 200])
def test_a_torn_last_line_was_never_committed(folder, cut):
    commits = folder / "commits.jsonl"
    commits.write_bytes(commits.read_bytes()[:-cut])
    assert Run(folder).epochs == 2 and Run(folder).check()
    with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        assert recorder.epochs == 2
        play(recorder, 4)
    assert Run(folder).epochs == 4 and Run(folder).check()


def test_a_torn_first_line_does_not_spoil_the_second(folder):
    commits = folder / "commits.jsonl"
    commits.write_bytes(commits.read_bytes()[:100])
    with pytest.raises(RunError, match="no committed epoch"):
        Run(folder)
    with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        play(recorder, 2)
    assert Run(folder).epochs == 2 and Run(folder).check()


def test_a_lost_line_is_noticed(folder):
    commits = folder / "commits.jsonl"
    first, _, third = commits.read_bytes().splitlines(keepends=True)
    commits.write_bytes(first + third)
    with pytest.raises(RunError, match="line 2 commits epoch 2; epoch 1 was due"):
        Run(folder)


def test_every_changed_bit_of_the_commits_is_noticed(made):
    body = (made / "commits.jsonl").read_bytes()
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(RunError, match=r"commits\.jsonl, line . "):
            read_commits(bytes(damaged), "commits.jsonl")


def test_every_prefix_of_the_commits_holds_its_whole_lines(made):
    body = (made / "commits.jsonl").read_bytes()
    for end in range(0, len(body) + 1, 7):
        commits, whole = read_commits(body[:end], "commits.jsonl")
        assert len(commits) == body[:end].count(b"\n") and body[:whole] == b"".join(body[:end].splitlines(True)[: len(commits)])


def test_the_examples_of_another_run_are_refused(folder, tmp_path):
    with Recorder(tmp_path / "other", IDS.take(range(23)[::-1])) as recorder:
        play(recorder, 1)
    shutil.copy(tmp_path / "other/examples.parquet", folder)
    with pytest.raises(RunError, match="its ids and labels are not those that were recorded"):
        Run(folder)


def test_leftovers_of_a_kill_do_no_harm_and_go_with_the_next_recording(folder):
    before = Run(folder).fingerprint
    mine = folder / "scores/.dual.parquet.abc.tmp"
    mine.parent.mkdir()
    leftovers = [
        folder / ".run.json.x.tmp",
        folder / ".commits.jsonl.x.tmp",
        folder / ".examples.parquet.x.tmp",
        folder / "epochs/.epoch-000003.safetensors.x.tmp",
        folder / "checkpoints/.epoch-000003.safetensors.x.tmp",
        mine,
    ]
    for path in leftovers:
        path.write_bytes(b"half a file")
    (folder / "epochs/epoch-000003.safetensors").write_bytes(b"whole but not committed")
    assert Run(folder).fingerprint == before and Run(folder).epochs == 3
    with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        # What other writers may be about to put in place is theirs.
        assert [path for path in leftovers if path.exists()] == [mine]
        play(recorder, 4)
    assert Run(folder).epochs == 4 and Run(folder).check()


def test_a_reader_stays_whole_while_the_run_grows(folder):
    run = Run(folder)
    with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        play(recorder, 4)
    assert run.epochs == 3 and run.check() and Run(folder).epochs == 4


def test_evidence_of_a_run_says_what_it_holds(folder):
    evidence = gather(Run(folder))
    assert evidence.recorded == 3 and evidence.ids == IDS and evidence.classes == 4
    assert Need.LOGITS not in evidence.holds and {Need.LABELS, Need.MEAN_PROBS, Need.MARGINS} <= evidence.holds
    with pytest.raises(MissingEvidence, match="keep_logits"):
        score([TDDS(window=3)], evidence)


@pytest.mark.slow
def test_readers_of_a_recording_that_goes_on_in_another_process_find_all_that_they_opened(nursery, tmp_path):
    pid = nursery.run("runs.children:record_and_wait", wait=False, folder=str(tmp_path / "run"), epochs=100_000)
    passed = 0
    try:
        while passed < 40:
            run = Run(tmp_path / "run")
            epochs = run.epochs
            # Whatever the reader does meanwhile, the recording goes on by some epochs.
            while len(read_run(run.paths)[1]) < epochs + 3:
                pass
            assert run.check() > 0 and run.mean_probs() is not None and run.checkpoints()
            assert run.model(run.checkpoints()[-1]) is not None and live_state(run, LIVE[0]) is not None
            passed += 1
    finally:
        nursery.kill(pid)
    assert Run(tmp_path / "run").check()
