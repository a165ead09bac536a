import pytest
import torch

from assay.core.errors import Mismatch, NotWritten, OutputExists, UsageError
from assay.data.arrays import examples_from_arrays
from assay.experiments.report import MARK, report
from assay.experiments.report_data import ReportOptions
from assay.experiments.score import score
from experiments import small
from experiments.test_verify import looped


def test_the_page_stands_in_the_run_and_may_be_made_again(own):
    table = score(own, ["aum", "loss"])
    path = report(own, table)
    first = path.read_bytes()
    assert path == own.paths.report and MARK in first[:4096] and len(first) > 100_000
    assert b"data:image" in first or b"iVBOR" in first, "the plan's data are read again for their pictures"
    assert report(own, table, options=ReportOptions(title="Another")) == path and b"Another" in path.read_bytes()


def test_a_foreign_file_or_folder_is_left_alone(run, tmp_path):
    table = score(run, "aum")
    (tmp_path / "thesis.html").write_text("<html>years of work</html>")
    for path in (tmp_path / "thesis.html", tmp_path):
        with pytest.raises(OutputExists, match="no report of assay"):
            report(run, table, path)
    assert (tmp_path / "thesis.html").read_text() == "<html>years of work</html>"


def test_a_place_that_cannot_be_written_is_said(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match=r"was not written: .* choose another folder"):
        report(run, score(run, "aum"), tmp_path / "file" / "report.html")


def test_a_loop_of_ones_own_needs_no_plan(tmp_path):
    run = looped(tmp_path / "mine", plan="as in the paper")
    assert report(run, score(run, "aum"), tmp_path / "page.html").exists()


def test_a_page_of_changed_data_is_refused(tmp_path):
    import numpy as np

    path = tmp_path / "d.npz"
    rows, labels = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    np.savez(path, inputs=rows, labels=labels)
    run = small.recorded(tmp_path / "run", data=f"arrays:path={path},test=0.5", plant=None)
    np.savez(path, inputs=rows, labels=1 - labels)
    with pytest.raises(Mismatch, match="restore the data"):
        report(run, score(run, "aum"))


def test_images_that_cannot_be_shown_are_warned_of(own, tmp_path):
    images = torch.rand(len(own.ids), 2, 4, 4)
    examples = examples_from_arrays(images, own.labels, own.ids, class_names=own.class_names)
    with pytest.warns(UserWarning, match="No pictures are shown: an input has shape 2x4x4"):
        page = report(own, score(own, "aum"), tmp_path / "page.html", examples=examples).read_text()
    assert "No pictures are shown: an input has shape 2x4x4" in page


def test_a_name_too_long_for_the_disk_is_refused(own):
    for name in ("x" * 300, "y\0z"):
        with pytest.raises(UsageError, match=r"report: path= (has a name of 300 bytes|is 'y.x00z', which holds a NUL)"):
            report(own, score(own, "aum"), name)
