import gc
import os
import tempfile
from pathlib import Path

import torch

from assay.core.ids import Ids
from assay.replay import example_rows
from assay.replay.example_rows import example_rows as made_now


def held(folder):
    """Whether this process has a file of the folder open."""
    return any(str(folder) in os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())


def test_rows_are_made_once_in_memory_or_in_a_file_that_goes(tmp_path, monkeypatch):
    rows = torch.arange(30, dtype=torch.float32).reshape(10, 3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(example_rows, "BLOCK", 4)
    for limit, filed in ((10**6, False), (0, True)):
        monkeypatch.setattr(example_rows, "ON_DISK", limit)
        times = []

        def make(times=times):
            times.append(1)
            yield from rows.clone().split(3)

        found = made_now("rows", Ids(range(10)), make)
        for _ in range(2):
            blocks = list(found.blocks())
            assert torch.equal(torch.cat([block for _, block in blocks]), rows)
            assert [part.start for part, _ in blocks] == [0, 4, 8]
            # The reader may write into what it is given.
            blocks[0][1].zero_()
        assert times == [1] and (found.dims, found.bytes, found.kept) == (3, 12, False)
        # The file has no name any more.
        assert not list(tmp_path.iterdir()) and filed == held(tmp_path)
        del found, blocks
        gc.collect()
        assert not held(tmp_path)
