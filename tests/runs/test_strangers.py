"""Run folders that somebody sent: links, pipes, devices, sizes that are claimed, files of other shapes, kinds and numbers."""

import dataclasses
import json
import os
import shutil
import struct
import time
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from assay.core.curve import NONE, RANDOM, WORST, Curve, Removal
from assay.core.decision import Decision
from assay.core.errors import RunError, UsageError
from assay.core.ids import Ids
from assay.core.lineage import Lineage
from assay.core.scores import Direction, Scores
from assay.core.trial import Comparison, Detection, Outcome, Verdict
from assay.experiments.verify import verify
from assay.replay.live_methods import LiveMethods
from assay.runs import artefacts
from assay.runs.disk import MOST_TEXT, checksum, replace, save_tensors
from assay.runs.paths import RunPaths
from assay.runs.recorder import Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from assay.runs.schema import seal
from runs.worlds import CLASSES, EXAMPLES, IDS, LABELS, LIVE, play, recorded


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers") / "run"
    recorded(folder, 3, checkpoints="every", live=LiveMethods(LIVE))
    lineage = Lineage(Run(folder).dataset, {"run": Run(folder).fingerprint})
    artefacts.save_scores(scores(lineage), folder / "scores/aum.parquet")
    artefacts.save_decision(decision(lineage), folder / "decisions/drop.parquet")
    artefacts.save_truth(IDS, LABELS, folder / "truth.parquet")
    artefacts.save_verdict(verdict(lineage), folder / "verdicts/drop.json")
    artefacts.save_curve(curve(lineage), folder / "curves/aum-last.json")
    artefacts.save_outcome(OUTCOME, folder / "trials/plan/kept-1.json")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


OUTCOME = Outcome("kept", 1, 0.5, 0.7, 20, 5, 0.1)


def scores(lineage):
    values = torch.linspace(0, 1, EXAMPLES, dtype=torch.float64)
    return Scores(IDS, values, "aum", {}, "aum", Direction.LOW_IS_SUSPECT, "logits", lineage=lineage)


def decision(lineage):
    n = EXAMPLES
    actions, labels = torch.ones(n, dtype=torch.int64), torch.full((n,), -1)
    return Decision(IDS, actions, labels, torch.ones(n, dtype=torch.float64), ("why",) * n, "top_k", {}, "top_k by aum", lineage)


def verdict(lineage):
    comparison = Comparison("kept", "random", 0.01, -0.1, 0.1, 0.5, "paired t", 2)
    detection = Detection("aum", 0.9, 0.8, 0.7, 0.6, True, ((0.0, 0.0), (1.0, 1.0)))
    return Verdict(
        "drop", (OUTCOME, dataclasses.replace(OUTCOME, seed=2)), (comparison,), (detection,), None, {"net": "mlp"}, lineage
    )


def curve(lineage):
    removals = tuple(Removal(arm, count, 0, 0.5, 0.7, 0.5, 0.7, 0.1) for arm, count in ((NONE, 0), (WORST, 3), (RANDOM, 3)))
    return Curve("aum", "last", removals, 3, "loss", lineage)


def everything(folder):
    """Read all that the folder holds."""
    run = Run(folder)
    run.check()
    for epoch in range(run.epochs):
        run.order(epoch), run.rates(epoch), run.momenta(epoch), run.shard(epoch).read_all(), run.model(epoch)
    run.mean_probs(), run.visits()
    artefacts.load_scores(run.paths.scores("aum"))
    artefacts.load_decision(run.paths.decision("drop"))
    artefacts.load_truth(run.paths.truth)
    artefacts.load_verdict(run.paths.verdict("drop"))
    artefacts.load_curve(run.paths.curve("aum-last"))
    artefacts.load_outcome(run.folder / "trials/plan/kept-1.json")


READ = [
    "run.json",
    "commits.jsonl",
    "examples.parquet",
    "truth.parquet",
    "epochs/epoch-000001.safetensors",
    "checkpoints/epoch-000000.safetensors",
    "sums/epoch-000002.safetensors",
    "live/epoch-000002.safetensors",
    "scores/aum.parquet",
    "decisions/drop.parquet",
    "verdicts/drop.json",
    "curves/aum-last.json",
    "trials/plan/kept-1.json",
]
FOLDERS = ["epochs", "checkpoints", "sums", "live", "scores", "decisions", "verdicts", "curves", "trials", "trials/plan"]


def linked(folder, name):
    """The same, but outside of the folder, and a link in its place."""
    outside = folder.parent / "outside"
    outside.mkdir()
    shutil.move(folder / name, outside / "there")
    (folder / name).symlink_to(outside / "there")
    return outside


@pytest.mark.parametrize("name", [*READ, *FOLDERS])
def test_nothing_is_read_through_a_link(folder, name):
    linked(folder, name)
    with pytest.raises(RunError, match=rf"run/{name} is a link, through which files outside of .* Put the file or folder itself"):
        everything(folder)


def test_the_folder_of_a_run_may_be_a_link_and_stand_anywhere(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link").symlink_to(folder)
    for place in (tmp_path / "elsewhere/link", folder / "../elsewhere/link", tmp_path / "elsewhere/../elsewhere/link"):
        everything(place)
    with Recorder(
        tmp_path / "elsewhere/link", IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True
    ) as recorder:
        play(recorder, 4)
    assert Run(folder).epochs == 4


def written(folder):
    """Write all that a folder may get."""
    run = Run(folder)
    lineage = artefacts.load_scores(folder / "scores/aum.parquet").lineage if (folder / "scores/aum.parquet").exists() else None
    artefacts.save_scores(scores(lineage), run.paths.scores("again"))
    artefacts.save_decision(decision(lineage), run.paths.decision("again"))
    artefacts.save_verdict(verdict(lineage), run.paths.verdict("again"))
    artefacts.save_curve(curve(lineage), run.paths.curve("again"))
    artefacts.save_outcome(OUTCOME, run.folder / "trials/plan/kept-2.json")
    replace(run.paths.report, b"page")
    verify(_half(run), run=run, seeds=2, retrain=lambda ids, labels, weights, seed: 0.5)
    with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        play(recorder, 5)


def _half(run):
    made = decision(Lineage(run.dataset, {"run": run.fingerprint}))
    actions, weights = made.actions.clone(), made.weights.clone()
    actions[:5], weights[:5] = 0, 0
    return dataclasses.replace(made, actions=actions, weights=weights)


@pytest.mark.parametrize(
    "name", [*FOLDERS, "writer.lock", "report.html", "commits.jsonl", "trials/logs", "trials/logs/kept-1.log", "streams"]
)
def test_nothing_is_written_through_a_link(folder, name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"years of work")
    if (folder / name).exists():
        shutil.move(folder / name, outside / "there")
    elif name in ("report.html", "trials/logs/kept-1.log"):
        (outside / "there").write_bytes(b"years of work")
    else:
        (outside / "there").mkdir()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(outside / "there")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    if name in ("streams", "trials/logs/kept-1.log"):
        # Nothing is streamed here, and a log is a new file whatever stood there.
        written(folder)
    else:
        with pytest.raises(RunError, match="is a link"):
            written(folder)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_commits_that_have_another_name_elsewhere_are_not_written_there(folder, tmp_path):
    os.link(folder / "commits.jsonl", tmp_path / "copy")
    before = (tmp_path / "copy").read_bytes()
    with Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True) as recorder:
        play(recorder, 4)
    assert Run(folder).epochs == 4 and (tmp_path / "copy").read_bytes() == before


@pytest.mark.parametrize("name", [*READ, "writer.lock"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(folder, name, kind):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        try:
            os.mknod(folder / name, 0o600 | 0o020000, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("no right to make devices")
    with pytest.raises(RunError, match=r"a folder, a pipe or a device|cannot be read"):
        everything(folder)
        Recorder(folder, IDS, Recording(checkpoints="every"), live=LiveMethods(LIVE), resume=True)


def resealed(path, change):
    """JSON changed in its place, its checksum made anew."""
    raw = json.loads(path.read_text())
    kind = raw.pop("format").removeprefix("assay-")
    raw.pop("schema_version"), raw.pop("checksum")
    change(raw)
    path.write_bytes(seal(kind, raw))


def put(*place, value):
    """A change that puts a value somewhere inside."""

    def change(raw):
        *way, last = place
        for part in way:
            raw = raw[part]
        raw[last] = value

    return change


ALIEN = [None, "text", 1.5, True, [], {}, [[1]], -1, 10**30, 1e308 * 10]
PLACES = {
    "verdicts/drop.json": [
        ("outcomes",), ("outcomes", 0), ("outcomes", 0, "accuracy"), ("outcomes", 0, "seed"), ("comparisons", 0, "p"), ("comparisons", 0, "n"),
        ("detections", 0, "curve"), ("detections", 0, "curve", 0), ("cleaning",), ("plan",), ("lineage",), ("lineage", "parents"), ("decision",),
    ],
    "trials/plan/kept-1.json": [("accuracy",), ("examples",), ("seconds",), ("arm",), ("steps",)],
    "curves/aum-last.json": [("removals",), ("removals", 0), ("removals", 0, "count"), ("best",), ("scores",), ("lineage", "seconds")],
    "run.json": [("threads",), ("examples",), ("view",), ("live",), ("checkpoints",), ("about",), ("seed",), ("keep_logits",)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in PLACES.items() for place in places])
def test_a_field_of_another_kind_is_refused_or_reads_as_it_stands(folder, name, place):
    """With every checksum right. Some of these values fit some of these fields; none ends in another error, and none is converted."""
    before, refused = (folder / name).read_bytes(), 0
    for value in ALIEN:
        (folder / name).write_bytes(before)
        resealed(folder / name, put(*place, value=value))
        try:
            everything(folder)
        except RunError as error:
            assert str(folder) in str(error) and len(str(error)) < 1000
            refused += 1
    assert refused >= 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", 1.5),
        ("accuracy", -0.1),
        ("accuracy", float("nan")),
        ("accuracy", 10.0**400 if False else float("inf")),
        ("examples", -1),
        ("seconds", -1.0),
        ("more", 1),
    ],
)
def test_numbers_outside_their_range_are_refused(folder, field, value):
    resealed(folder / "trials/plan/kept-1.json", put(field, value=value))
    with pytest.raises(RunError, match=r"kept-1\.json is damaged"):
        artefacts.load_outcome(folder / "trials/plan/kept-1.json")


def test_a_number_that_overflows_is_refused(folder):
    path = folder / "trials/plan/kept-1.json"
    path.write_text(path.read_text().replace('"accuracy": 0.5', '"accuracy": 1e400'))
    with pytest.raises(RunError, match="damaged"):
        artefacts.load_outcome(path)


@pytest.mark.parametrize(
    "name", ["run.json", "verdicts/drop.json", "trials/plan/kept-1.json", "curves/aum-last.json", "commits.jsonl"]
)
@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_text_nested_without_end_is_one_sentence(folder, name, bracket):
    body = (bracket * 100_000).encode()
    if name == "commits.jsonl":
        body += f"\t{zlib.crc32(body):08x}\n".encode()
    (folder / name).write_bytes(body)
    with pytest.raises(RunError, match=r"damaged|no commit") as caught:
        everything(folder)
    assert name in str(caught.value) and len(str(caught.value)) < 1000


def test_a_large_text_is_refused_before_it_is_read(folder):
    with (folder / "verdicts/drop.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunError, match=rf"has 1,099,511,627,776 bytes, where {MOST_TEXT:,} are the most"):
        artefacts.load_verdict(folder / "verdicts/drop.json")


def forged(path, columns, notes, kind):
    """A table whose checksum is right."""
    import assay.runs.tables as tables

    head = json.dumps({"format": f"assay-{kind}", "schema_version": 1, **notes})
    table = pa.table(columns).replace_schema_metadata({"assay": head, "checksum": tables._checksum(head, columns)})
    pq.write_table(table, path, compression="zstd")


NOTES = {
    "method": "aum",
    "options": {},
    "title": "aum",
    "direction": "low is suspect",
    "unit": "x",
    "unscored": [],
    "lineage": None,
}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": np.arange(3)}, "it has no column 'value'"),
        ({"value": np.ones(3)}, "it has no column 'id'"),
        ({"id": np.arange(3), "value": np.ones(3, np.int64)}, "'value' holds int64, where double or float is due"),
        ({"id": np.arange(3), "value": ["a", "b", "c"]}, "'value' holds"),
        ({"id": np.arange(3), "value": np.ones(3), "more": np.ones(3)}, "'more' holds double, which scores do not have"),
        ({"id": np.ones(3), "value": np.ones(3)}, "'id' holds double"),
        ({"id": np.zeros(3, np.int64), "value": np.ones(3)}, "damaged|more than once"),
        ({"id": np.arange(3), "value": pa.array([1.0, None, 2.0])}, "damaged"),
    ],
)
def test_tables_of_other_columns_are_refused(tmp_path, columns, words):
    path = tmp_path / "scores.parquet"
    plain = {name: value for name, value in columns.items() if isinstance(value, (np.ndarray, list))}
    if plain == columns:
        forged(path, columns, NOTES, "scores")
    else:
        pq.write_table(
            pa.table(columns).replace_schema_metadata({"assay": json.dumps({"format": "assay-scores", "schema_version": 1})}),
            path,
        )
    with pytest.raises((RunError, UsageError), match=words):
        artefacts.load_scores(path)


@pytest.mark.parametrize(
    "change",
    [{"direction": "up"}, {"unscored": [1.5]}, {"unscored": {}}, {"lineage": []}, {"lineage": {"dataset": 3}}, {"warnings": "all"}, {"diagnostics": []},
     {"options": None}, {"title": 7}, {"more": 1}],
)  # fmt: skip
def test_notes_of_another_kind_are_refused(tmp_path, change):
    forged(tmp_path / "s.parquet", {"id": np.arange(3), "value": np.ones(3)}, {**NOTES, **change}, "scores")
    with pytest.raises(RunError, match=r"s\.parquet is damaged"):
        artefacts.load_scores(tmp_path / "s.parquet")


def bomb(path, rows, columns, notes, kind):
    """Many rows in few bytes: every column one number again and again, written in parts."""
    head = json.dumps({"format": f"assay-{kind}", "schema_version": 1, **notes})
    schema = pa.schema([(name, type_) for name, type_ in columns.items()], metadata={"assay": head, "checksum": "00000000"})
    part = pa.table({name: pa.array(np.zeros(10**6), type_) for name, type_ in columns.items()}, schema=schema)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for _ in range(rows // 10**6):
            writer.write_table(part, row_group_size=10**6)


def test_a_small_file_of_many_rows_is_refused_before_memory_is_taken(folder, tmp_path):
    bomb(tmp_path / "many.parquet", 30 * 10**6, {"id": pa.int64(), "value": pa.float64()}, NOTES, "scores")
    assert (tmp_path / "many.parquet").stat().st_size < 2**19
    begun = time.process_time()
    with pytest.raises(RunError, match=r"claims 30,000,000 rows of 2 columns in [\d,]+ bytes, which cannot be"):
        artefacts.load_scores(tmp_path / "many.parquet")
    bomb(
        folder / "examples.parquet", 30 * 10**6, {"id": pa.int64(), "label": pa.int64()}, {"class_names": ["a", "b"]}, "examples"
    )
    with pytest.raises(RunError, match=rf"holds 30,000,000 rows, where {EXAMPLES} are due"):
        Run(folder)
    assert time.process_time() - begun < 20


def test_one_long_text_in_every_row_is_refused(tmp_path):
    n = 100_000
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["x" * 100_000]))
    columns = {
        "id": np.arange(n),
        "action": np.ones(n, np.int8),
        "label": np.ones(n, np.int64),
        "weight": np.ones(n),
        "reason": words.cast(pa.dictionary(pa.int32(), pa.string())),
    }
    head = json.dumps({"format": "assay-decision", "schema_version": 1})
    pq.write_table(pa.table(columns).replace_schema_metadata({"assay": head, "checksum": "0"}), tmp_path / "d.parquet")
    with pytest.raises(RunError, match=r"holds texts of 100,000 letters in 100,000 rows"):
        artefacts.load_decision(tmp_path / "d.parquet")


def rewritten(folder, epoch, **tensors):
    """A shard with other tensors in it, all checksums made anew."""
    run = Run(folder)
    commit = run.commits[epoch]
    old = run.shard(epoch).read_all()
    sums = save_tensors(run.paths.shard(epoch), {**old, **tensors})
    changed = commit.model_copy(update={"shard": commit.shard.model_copy(update={"sums": sums})})
    lines = [one.line() for one in run.commits]
    lines[epoch] = changed.line()
    (folder / "commits.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("losses", torch.zeros(EXAMPLES + 1)),
        ("losses", torch.zeros(EXAMPLES, 2)),
        ("losses", torch.zeros(EXAMPLES, dtype=torch.int64)),
        ("correct", torch.zeros(EXAMPLES)),
        ("order", torch.zeros(EXAMPLES)),
        ("order", torch.full((EXAMPLES,), EXAMPLES, dtype=torch.int32)),
        ("order", torch.full((EXAMPLES,), -1, dtype=torch.int32)),
        ("batch_sizes", torch.tensor([-1, EXAMPLES + 1], dtype=torch.int32)),
        ("batch_sizes", torch.tensor([1], dtype=torch.int32)),
        ("rates", torch.zeros(1, 2, dtype=torch.float64)),
        ("rates", torch.zeros(4, dtype=torch.int64)),
        ("momenta", torch.zeros(4, 2, dtype=torch.float64)),
        ("logits", torch.zeros(EXAMPLES, CLASSES + 1)),
    ],
)
def test_shards_of_another_shape_do_not_fit_their_run(folder, name, tensor):
    rewritten(folder, 1, **{name: tensor})
    with pytest.raises(RunError, match=r"epoch-000001\.safetensors does not fit its run"):
        everything(folder)


def test_a_label_that_is_no_class_is_refused(folder):
    artefacts.write_table(
        folder / "examples.parquet", "examples", IDS, {"label": LABELS + CLASSES}, {"class_names": list("abcd")}
    )
    with pytest.raises(RunError, match="a label is none of its 4 classes"):
        Run(folder)


HEADS = {
    "8 TB": {"losses": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]}},
    "a shape that is not its bytes": {"losses": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}},
    "no type": {"losses": {"dtype": "F1", "shape": [1], "data_offsets": [0, 4]}},
    "below 0": {"losses": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
    "before its begin": {"losses": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
    "texts": {"losses": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
    "a list": {"losses": []},
    "no object": [1],
    "notes": {"__metadata__": 7},
}


@pytest.mark.parametrize("case", HEADS)
def test_a_shard_that_claims_what_it_has_not_is_refused(folder, case):
    head = json.dumps(HEADS[case]).encode()
    path = folder / "epochs/epoch-000000.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"\0\0\0\0")
    with pytest.raises(RunError, match=r"epoch-000000\.safetensors"):
        everything(folder)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(RunError, match="a head of 9,223,372,036,854,775,808 bytes in a file of 10"):
        everything(folder)


def test_a_shard_that_is_cut_off_while_it_is_open_is_one_sentence(folder):
    shard = Run(folder).shard(0)
    os.truncate(shard.path, shard.path.stat().st_size - 200)
    with pytest.raises(RunError, match=r"was cut off while it was read|is damaged"):
        shard.read_all()


def test_what_was_read_outlives_its_file(folder):
    losses = Run(folder).shard(0).read("losses")
    before = checksum(losses)
    os.truncate(folder / "epochs/epoch-000000.safetensors", 0)
    assert checksum(losses) == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_file_obeys_the_umask(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        recorded(tmp_path / "run", 2, checkpoints="every", live=LiveMethods(LIVE))
        run = Run(tmp_path / "run")
        artefacts.save_scores(scores(None), run.paths.scores("aum"))
        verify(_half(run), run=run, seeds=2, retrain=lambda ids, labels, weights, seed: 0.5)
    finally:
        os.umask(old)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run").rglob("*") if path.is_file()} == {oct(mode)}


@pytest.mark.parametrize("name", ["a" * 300, "x\0y"])
def test_names_that_no_system_has_are_one_sentence(tmp_path, name):
    for call in (Run, lambda place: artefacts.load_scores(place), lambda place: artefacts.load_verdict(place)):
        with pytest.raises((RunError, UsageError)):
            call(tmp_path / name)


def test_files_that_may_not_be_read_are_one_sentence(folder, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("assay.runs.disk.os.open", denied)
    for name, call in (("run", Run), ("truth", lambda place: artefacts.load_truth(RunPaths(place).truth))):
        with pytest.raises(RunError, match=rf"{name}.* cannot be read.*Permission denied"):
            call(folder)


def test_ids_never_reach_the_terminal_as_commands(tmp_path):
    evil = "\x1b]52;c;Y3VybA==\x07picture\x9b2J\u202egnp"
    with pytest.raises(UsageError) as caught:
        Ids([evil, evil])
    assert str(caught.value).isprintable() and "\\x1b]52" in str(caught.value) and "\\u202e" in str(caught.value)
