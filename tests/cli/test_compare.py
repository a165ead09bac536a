import json
import shutil

import pytest

from assay.runs.artefacts import load_probe
from assay.runs.run import Run
from cli.shell import here, sentence


def test_methods_are_compared_and_the_document_holds_every_pair(own, capsys):
    code, out, _ = here(capsys, "compare", own, "aum", "loss", "entropy", "--budget", "40")
    assert (
        code == 0
        and "Spearman's rank correlation" in out
        and "Overlap of the first 40" in out
        and "overlap by 0.10 where chance" in out
    )
    assert "Finding the 40 labels that are known to be wrong" in out and "40 of 397 labels are known to be wrong" in out
    code, out, _ = here(capsys, "compare", own, "--json")
    tables = {one["title"]: one["rows"] for one in json.loads(out)["tables"]}
    methods = len(tables["Spearman's rank correlation"])
    assert code == 0 and len(tables["Every two methods"]) == methods * (methods - 1) / 2 > 15
    code, _, err = here(capsys, "compare", own, "aum")
    assert code == 2 and "name at least two methods" in sentence(err)


def test_without_a_truth_the_next_step_is_the_probe(own, capsys):
    Run(own).paths.truth.unlink()
    code, out, _ = here(capsys, "compare", own, "aum", "loss")
    assert code == 0 and f"no truth is known. Next: assay probe {own}" in out


def test_a_probe_names_the_method_to_go_on_with(own, capsys):
    code, out, _ = here(capsys, "probe", own, "aum", "loss", "--flip", "0.06")
    found = load_probe(Run(own).paths.probe("confusion-0.06-0"))
    assert code == 0 and f"Next: assay choose {own} {found.best} --policy threshold:count=auto" in out
    assert f"{found.flipped} of 397 labels flipped by confusion" in out and found.sentence.split(" (AUC")[0] in out
    shutil.rmtree(Run(own).paths.probe_run("confusion-0.06-0"))
    code, again, _ = here(capsys, "probe", own, "aum", "loss", "--flip", "0.06")
    assert code == 0 and found.sentence in again and "train accuracy" not in again


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--flip", "0.9"), "outside 0..0.5"), (("--kind", "pair"), "no kind of flips"), (("entropy",), "ranks difficulty")],
)
def test_a_probe_that_says_nothing_is_refused(recorded, capsys, flags, words):
    code, _, err = here(capsys, "probe", recorded, *flags)
    assert code == 2 and words in sentence(err)
