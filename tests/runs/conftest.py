import os
import subprocess

import pytest

from runs.nursery import Nursery


@pytest.fixture(scope="session")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        why = f"a small file system cannot be mounted here: {mounted.stderr.strip()}"
        if os.environ.get("ASSAY_NO_MOUNT") == "1":
            pytest.skip(why)
        pytest.fail(f"{why}. Run as root, or set ASSAY_NO_MOUNT=1 to go without the tests of full and read-only disks.")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
