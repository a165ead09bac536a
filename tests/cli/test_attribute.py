import re
import shutil

import pytest

from assay.runs.attributions import load_attribution
from assay.runs.run import Run
from cli.shell import SMALL, here, sentence


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    from assay.cli.app import run_app

    folder = tmp_path_factory.mktemp("attribute") / "run"
    assert run_app(["record", str(folder), *SMALL, "--validation", "0.1"]) == 0
    return folder


def test_the_first_query_is_shown_and_the_matrix_saved(held, capsys):
    code, out, err = here(capsys, "attribute", held, "tracin", "--top", "3")
    assert code == 0 and err == ""
    found = load_attribution(Run(held).paths.attribution("tracin"))
    first = found.queries[0]
    top = found.top(first, 3)
    assert f"Query {first}, class {top.label} (rank only)" in out
    for place, (good, bad) in enumerate(zip(top.helpful.ids, top.harmful.ids, strict=True)):
        assert re.search(rf"^ *{place + 1} +{good} +[\d.e-]+ +{bad} +-", out, re.MULTILINE), out
    assert not re.search(r"^ *4 ", out, re.MULTILINE) and f"{len(found.queries)} queries by {len(found.ids)} examples" in out


def test_queries_are_named_and_taken_from_the_folder(held, capsys, monkeypatch):
    assert here(capsys, "attribute", held, "tracin")[0] == 0
    queries = load_attribution(Run(held).paths.attribution("tracin")).queries
    monkeypatch.setattr("assay.methods.tracin.tracin_rows", None)
    code, out, _ = here(capsys, "attribute", held, "tracin", "--query", queries[2], "--query", queries[5])
    assert code == 0 and f"Query {queries[2]}, " in out and f"Query {queries[5]}, " in out and f"Query {queries[0]}, " not in out
    monkeypatch.undo()
    before = next(Run(held).paths.attribution("tracin").glob("*.npy"))
    assert here(capsys, "attribute", held, "tracin", "--recompute")[0] == 0
    assert not before.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tracin", "--query", "nobody"], 2, r"No query has the id 'nobody'; the 40 queries are .* and 35 more\."),
        (["tracin", "--top", "0"], 2, "--top 0 is below 1"),
        (["aum"], 2, "aum gives one number per example, and none per query; choose .*tracin"),
        (["tracin:every=step"], 2, "has no value per query; leave every=step out"),
        (["tracin:reduce=sum"], 2, "reduce= is how scores are made"),
        (["tracin:target=class=99"], 2, "the classes are"),
        (["tracin", "aum"], 2, "assay attribute reads nothing after RUN METHOD, but is given aum"),
    ],
)
def test_what_is_wrong_is_one_sentence(held, capsys, arguments, code, words):
    said, _, err = here(capsys, "attribute", held, *arguments)
    assert said == code and re.search(words, sentence(err)), err


def test_a_run_that_is_not_there_or_kept_no_model(held, tmp_path, capsys):
    assert here(capsys, "attribute", tmp_path / "none", "tracin")[0] == 5
    copy = shutil.copytree(held, tmp_path / "copy")
    assert here(capsys, "record", tmp_path / "bare", *SMALL, "--validation", "0.1", "--checkpoints", "none")[0] == 0
    code, _, err = here(capsys, "attribute", tmp_path / "bare", "tracin")
    assert code == 3 and "kept no model" in sentence(err)
    # A row that is not what was written is refused, and the cure that is named works.
    assert here(capsys, "attribute", copy, "tracin")[0] == 0
    (path,) = Run(copy).paths.attribution("tracin").glob("*.npy")
    body = bytearray(path.read_bytes())
    body[200] ^= 1
    path.write_bytes(body)
    code, _, err = here(capsys, "attribute", copy, "tracin")
    assert code == 5 and "row 0 is not what was written; attribute again with recompute=True" in sentence(err)
    assert here(capsys, "attribute", copy, "tracin", "--recompute")[0] == 0


def test_inspect_names_what_is_there(held, capsys):
    assert here(capsys, "attribute", held, "tracin:layers=head")[0] == 0
    assert re.search(r"attributions .*tracin=?.*layers=head", here(capsys, "inspect", held)[1])


def test_scores_are_reduced_by_name(held, capsys):
    code, out, err = here(capsys, "score", held, "tracin:reduce=max", "tracin:reduce=sum", "tracin")
    assert code == 0, err
    assert "tracin:reduce=max" in out


def test_influence_by_query_is_taken_again_as_asked(held, capsys):
    code, out, err = here(capsys, "attribute", held, "sgd_influence:window=last", "--memory", "100000000", "--tolerance", "1e-6")
    assert code == 0 and err == "" and "(change of the target)" in out
    assert load_attribution(Run(held).paths.attribution("sgd_influence:window=last")).lineage.parents["tolerance"] == "1e-06"
    code, _, err = here(capsys, "attribute", held, "sgd_influence", "--memory", "0")
    assert code == 2 and "memory=0" in sentence(err)
