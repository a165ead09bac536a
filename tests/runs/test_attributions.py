"""Attributions on disk: round trips, damage, and what a kill leaves."""

import contextlib
import dataclasses
import json
import threading

import numpy as np
import pytest
import torch

from assay.core.attribution import Attribution, Block
from assay.core.errors import BadScores, NotWritten, RunError, UsageError
from assay.core.ids import Ids
from assay.core.lineage import SCHEMA, Lineage
from assay.core.scores import Direction
from assay.runs import attributions
from assay.runs.artefacts import load_json
from assay.runs.attributions import RowFile, finishing, load_attribution, new_rows, save_attribution
from assay.runs.schema import seal

VALUES = torch.randn(7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
QUERIES, IDS = Ids([f"query {n}" for n in range(7)]), Ids(range(100, 111))


def cut(values, rows=3, columns=4):
    for a in range(0, 7, rows):
        for b in range(0, 11, columns):
            place = slice(a, min(a + rows, 7)), slice(b, min(b + columns, 11))
            yield Block(*place, values[place])


def saved(folder, *models):
    with contextlib.ExitStack() as ending:
        with new_rows(folder, "tracin", QUERIES, IDS) as (path, writer):
            for values in models or (VALUES,):
                writer.start_model()
                for block in cut(values):
                    writer.add(block)
            sums = writer.end()
            ending.enter_context(finishing(folder))
        weights = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        made = Attribution(
            QUERIES, IDS, torch.arange(7), weights / weights.sum(), RowFile(path, 11, sums), "tracin", {"target": "validation"}, "tracin",
            Direction.LOW_IS_SUSPECT, "rank only", Lineage("d", {"run": "r"}), ("Beware.",),
            diagnostics={"residual": 1e-9},
        )  # fmt: skip
        save_attribution(made, path)
    return made


def dense(found):
    return torch.cat([block.values for block in found.blocks()])


def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path):
    made = saved(tmp_path / "it")
    again = load_attribution(tmp_path / "it")
    assert torch.equal(dense(again), VALUES) and torch.equal(again.row("query 4"), VALUES[4])
    assert again.fingerprint == made.fingerprint and torch.equal(again.weights, made.weights)
    for name in ("queries", "ids", "method", "options", "title", "direction", "unit", "lineage", "warnings", "diagnostics"):
        assert getattr(again, name) == getattr(made, name), name
    assert torch.equal(again.labels, made.labels)


def test_the_values_are_an_npy_file_that_numpy_maps(tmp_path):
    saved(tmp_path / "it")
    (path,) = (tmp_path / "it").glob("*.npy")
    mapped = np.load(path, mmap_mode="r")
    assert mapped.dtype == np.float64 and np.array_equal(mapped, VALUES.numpy())


def test_several_models_are_their_mean_and_parts_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(attributions, "BLOCK_BYTES", 8 * 11 * 2)
    made = saved(tmp_path / "it", VALUES, 2 * VALUES, 6 * VALUES)
    torch.testing.assert_close(dense(made), 3 * VALUES, rtol=1e-14, atol=0)
    assert torch.equal(dense(load_attribution(tmp_path / "it")), dense(made))


def test_what_is_attributed_again_takes_the_place_of_the_old(tmp_path):
    saved(tmp_path / "it")
    old = load_attribution(tmp_path / "it")
    saved(tmp_path / "it", -VALUES)
    assert torch.equal(dense(load_attribution(tmp_path / "it")), -VALUES)
    assert len(list((tmp_path / "it").iterdir())) == 2
    # Who has it open reads on.
    assert torch.equal(dense(old), VALUES)


def write(folder, blocks, models=1):
    with new_rows(folder, "it", QUERIES, IDS) as (_, writer):
        for _ in range(models):
            writer.start_model()
            for block in blocks:
                writer.add(block)
        writer.end()


@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (list(cut(VALUES))[1:], "gave 65 values of the 77 pairs"),
        ([*cut(VALUES), Block(slice(6, 7), slice(0, 11), VALUES[6:])], "in several blocks|gave 88 values"),
        ([Block(slice(0, 7), slice(0, 11), VALUES.log())], "values are not finite"),
        ([], "gave 0 values of the 77 pairs"),
    ],
)
def test_blocks_that_are_no_matrix_leave_nothing_behind(tmp_path, blocks, words, models):
    with pytest.raises(BadScores, match=words):
        write(tmp_path / "it", blocks, models)
    assert list((tmp_path / "it").iterdir()) == []


def test_a_row_of_a_later_model_that_is_there_twice_stands_for_none_that_is_missing(tmp_path):
    rows = [Block(slice(at, at + 1), slice(0, 11), VALUES[at : at + 1]) for at in range(7)]
    with (
        pytest.raises(BadScores, match="gave 77 values of the 77 pairs of a query and an example, each of which has one"),
        new_rows(tmp_path / "it", "it", QUERIES, IDS) as (_, writer),
    ):
        for blocks in (rows, [rows[0], *rows[:-1]]):
            writer.start_model()
            for block in blocks:
                writer.add(block)
        writer.end()


def test_a_disk_that_is_full_leaves_the_old_one(tmp_path, monkeypatch):
    saved(tmp_path / "it")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attributions.os, "pwrite", full)
    with pytest.raises(NotWritten, match="the disk is full"):
        saved(tmp_path / "it", -VALUES)
    monkeypatch.undo()
    assert torch.equal(dense(load_attribution(tmp_path / "it")), VALUES) and len(list((tmp_path / "it").iterdir())) == 2


def test_stopped_before_the_head_is_written_the_old_one_stands(tmp_path, monkeypatch):
    saved(tmp_path / "it")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(attributions, "save_json", stopped)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path / "it", -VALUES)
    monkeypatch.undo()
    assert torch.equal(dense(load_attribution(tmp_path / "it")), VALUES)
    saved(tmp_path / "it", -VALUES)
    assert len(list((tmp_path / "it").iterdir())) == 2, "what was left is taken away"


def test_what_a_killed_process_left_is_taken_away_and_what_another_writes_is_not(tmp_path):
    with new_rows(tmp_path / "it", "it", QUERIES, IDS) as (path, writer):
        (left := tmp_path / "it" / ".values-0badf00d.npy.12345678.tmp").write_bytes(b"left")
        made = saved(tmp_path / "it")
        assert not left.exists()
        writer.start_model()
        writer.add(Block(slice(0, 7), slice(0, 11), -VALUES))
        writer.end()
    assert path.exists() and torch.equal(dense(load_attribution(tmp_path / "it")), dense(made))


def changed(folder, **fields):
    head = json.loads((folder / "attribution.json").read_text())
    body = {key: value for key, value in head.items() if key not in ("format", "schema_version", "checksum")}
    body |= fields
    (folder / "attribution.json").write_bytes(
        seal("attribution", {key: value for key, value in body.items() if value is not None})
    )


def values_of(folder):
    (path,) = folder.glob("*.npy")
    return path


def flipped(folder):
    body = bytearray(values_of(folder).read_bytes())
    body[-20] ^= 1
    values_of(folder).write_bytes(body)


def of_another_version(folder):
    body = bytearray(values_of(folder).read_bytes())
    body[6] = 9
    values_of(folder).write_bytes(body)


def of_another_shape(folder):
    np.save(values_of(folder), VALUES.numpy().T.copy())


DAMAGE = {
    "absent": (lambda folder: (folder / "attribution.json").unlink(), "does not exist"),
    "no values": (lambda folder: values_of(folder).unlink(), "cannot be read .No such file"),
    "cut off": (lambda folder: values_of(folder).write_bytes(values_of(folder).read_bytes()[:-9]), "is damaged: it holds"),
    "longer": (lambda folder: values_of(folder).write_bytes(values_of(folder).read_bytes() + b"x"), "is damaged: it holds"),
    "a flipped bit": (flipped, "row 6 is not what was written"),
    "no npy": (lambda folder: values_of(folder).write_bytes(b"nothing of the kind"), r"values-\w+\.npy"),
    "another version": (of_another_version, r"version \(9, 0\) of the format"),
    "another shape": (of_another_shape, "is damaged: it holds"),
    "other numbers": (lambda folder: np.save(values_of(folder), VALUES.float().numpy()), "is damaged: it holds"),
    "columns first": (lambda folder: np.save(values_of(folder), np.asfortranarray(VALUES.numpy())), "is damaged: it holds"),
    "no title": (lambda folder: changed(folder, title=None), "is damaged .title"),
    "fewer labels": (lambda folder: changed(folder, labels=[1, 2]), "is damaged"),
    "fewer checksums": (lambda folder: changed(folder, checksums=[1, 2]), "is damaged"),
    "fewer ids": (lambda folder: changed(folder, ids=[1, 2]), "is damaged"),
    "an id twice": (lambda folder: changed(folder, ids=[1] * 11), "is damaged"),
    "no queries": (lambda folder: changed(folder, queries=[], labels=[], weights=[], checksums=[]), "is damaged"),
    "a way out": (lambda folder: changed(folder, values="../../values-00000000.npy"), "is damaged .*its values stand in"),
    "newer": (
        lambda folder: (folder / "attribution.json").write_text(
            (folder / "attribution.json").read_text().replace(f'"schema_version": {SCHEMA}', '"schema_version": 99')
        ),
        "has schema 99, this assay reads up to",
    ),
    "of another kind": (lambda folder: (folder / "attribution.json").write_bytes(seal("verdict", {})), "holds no attribution"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_said_in_a_sentence(tmp_path, how):
    saved(tmp_path / "it")
    spoil, words = DAMAGE[how]
    spoil(tmp_path / "it")
    with pytest.raises(RunError, match=words) as raised:
        dense(load_attribution(tmp_path / "it"))
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_cut_off_while_it_is_read_it_is_refused_and_nobody_is_killed(tmp_path):
    saved(tmp_path / "it")
    found = load_attribution(tmp_path / "it")
    with open(values_of(tmp_path / "it"), "r+b") as file:
        file.truncate(200)
    with pytest.raises(RunError, match="was cut off"):
        found.row("query 6")


def test_more_ids_than_the_head_may_name_are_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(attributions, "MOST_IDS", 500)
    with pytest.raises(UsageError, match=r"The ids of 7 queries and 11 examples take 6\d\d bytes, and 500 are the most"):
        saved(tmp_path / "it")
    assert not (tmp_path / "it").exists()


def test_links_are_not_followed(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    saved(tmp_path / "attributions" / "it")
    path = values_of(tmp_path / "attributions" / "it")
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(RunError, match="is a link"):
        load_attribution(tmp_path / "attributions" / "it")


def test_who_ends_an_attribution_is_alone_with_its_folder(tmp_path):
    """Else a second writer takes away values that stand there and are not named yet."""
    folder, other = tmp_path / "it", threading.Thread(target=lambda: saved(tmp_path / "it", 2 * VALUES))
    with new_rows(folder, "tracin", QUERIES, IDS) as (path, writer):
        writer.start_model()
        for block in cut(VALUES):
            writer.add(block)
        sums = writer.end()
        ending = finishing(folder)
        ending.__enter__()
    other.start()
    other.join(0.5)
    assert path.exists()
    save_attribution(dataclasses.replace(saved(tmp_path / "like"), source=RowFile(path, 11, sums)), path)
    ending.__exit__(None, None, None)
    other.join()
    assert torch.equal(dense(load_attribution(folder)), 2 * VALUES)
    assert len([*folder.iterdir()]) == 2


def test_any_number_of_writers_and_readers_disturb_nobody(tmp_path):
    failed = []
    saved(tmp_path / "it")

    def doing(what, times):
        for _ in range(times):
            try:
                assert torch.equal(dense(what(tmp_path / "it")), VALUES)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=doing, args=given) for given in ([(saved, 30)] * 3 + [(load_attribution, 200)])]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed, failed[0]
    assert len([*(tmp_path / "it").iterdir()]) == 2


def test_a_reader_that_was_overtaken_reads_the_new_one(tmp_path, monkeypatch):
    saved(tmp_path / "it")
    stale = load_json("attribution", tmp_path / "it" / "attribution.json")
    saved(tmp_path / "it", 2 * VALUES)
    heads = [stale]
    monkeypatch.setattr("assay.runs.attributions.load_json", lambda kind, path: heads.pop() if heads else load_json(kind, path))
    assert torch.equal(dense(load_attribution(tmp_path / "it")), 2 * VALUES) and not heads


def test_what_a_killed_process_left_of_the_head_is_taken_away(tmp_path):
    saved(tmp_path / "it")
    (tmp_path / "it" / ".attribution.json.0123abcd.tmp").write_text("{")
    saved(tmp_path / "it")
    assert len([*(tmp_path / "it").iterdir()]) == 2


def test_the_largest_of_means_over_models_says_that_it_is_that(tmp_path):
    made = saved(tmp_path / "it")
    several = dataclasses.replace(made, models=3)
    (warning,) = [one for one in several.reduce("max").warnings if one not in made.warnings]
    assert "means over 3 models" in warning
    assert several.reduce("sum").warnings == several.reduce().warnings == made.reduce("max").warnings == made.warnings
