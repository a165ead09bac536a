"""Bad input: an exit code and one sentence each. Inside the test, by the seam that every command goes through."""

import json

import numpy as np
import pytest
import torch

from assay.cli.saved import saved_scores
from assay.core.lineage import SCHEMA
from assay.core.scores import ScoreTable
from assay.experiments.score import score
from assay.runs.artefacts import load_scores, save_scores
from assay.runs.run import Run
from cli.shell import SMALL, here, sentence
from experiments.test_verify import looped

REST = SMALL[2:]
"""The flags of the small run without its data."""


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused; gives its exit code and sentence."""

    def run(*arguments):
        code, _, err = here(capsys, *arguments)
        return code, sentence(err)

    return run


def written(tmp_path, name="d.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return f"arrays:path={tmp_path / name},test=0.25"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--net", "logistic"], "needs a value for data"),
        (["--data", "digts"], "Did you mean digits"),
        (["--data", "digits:tst=3"], "Did you mean test"),
        (["--data", "digits", "--net", "mpl"], "Did you mean mlp"),
        (["--data", "digits", "--net", "mlp:width=3"], "Did you mean widths"),
        (["--data", "digits", "--set", "nesterow=true"], "Did you mean nesterov"),
        (["--data", "digits", "--set", "nesterov"], "not of the form key=value"),
        (["--data", "digits", "--lr", "0.1", "--set", "lr=0.2"], "lr is given twice"),
        (["--data", "digits", "--set", "lr=0.1", "--set", "lr=0.2"], "lr is given twice"),
        (["--data", "digits", "--set", "seed=3"], "outside the recipe"),
        (["--data", "digits", "--schedule", "cosin"], "constant, step, cosine"),
        (["--data", "digits", "--optimizer", "adam", "--momentum", "0.9"], "no meaning with optimizer 'adam'"),
        (["--data", "digits", "--epochs", "0"], "epochs=0"),
        (["--data", "digits", "--clip", "0"], "clip=0.0 is not a number above 0"),
        (["--data", "digits", "--ema", "1"], "ema=1.0 is not a number between 0 and 1"),
        (["--data", "digits", "--view", "evl"], "record.view='evl' is neither 'train'"),
        (["--data", "digits", "--checkpoints", "often"], "epochs such as 0,5,10"),
        (["--data", "digits", "--checkpoints", "0,20"], "some of the 20 epochs"),
        (["--data", "digits", "--live", "tdd"], "Did you mean tdds"),
        (["--data", "digits", "--plant", "unifrm:rate=0.1"], "'uniform', 'pair', 'class', 'human', 'blur'"),
        (["--data", "digits", "--plant", "uniform:rat=0.1"], "Did you mean plant.rate"),
        (["--data", "digits", "--plant", "uniform"], "take a rate"),
        (["--data", "digits", "--plant", "uniform:rate=1.5"], "outside 0..1"),
        (["--data", "digits", "--plant", "class"], "take a matrix"),
        (["--data", "digits", "--plant", "class:matrix=[[0.9, 0.1], [0, 1]]"], "into the table plant of a plan"),
        (["--data", "adult:path=nowhere"], "nowhere is absent"),
        (["--data", "table:path=nowhere.csv,label=y"], "nowhere.csv is absent"),
        (["--data", "mnist"], "needs a value for path"),
        (["--plan", "nowhere.toml"], "nowhere.toml does not exist"),
        (["--data", "digits", "--last-batch", "drop"], "leaves 29 of 1437"),
        (["--data", "digits", "--net", "lenet"], "images of at least 12 x 12"),
        (["--data", "digits", "--crop", "9"], "crop=9 is outside"),
        (["--data", "digits", "--precision", "bfloat16"], "needs device 'cuda'"),
        (["--data", "digits", "--checkpoints", "none", "--resume"], "cannot be resumed"),
    ],
)
def test_a_recording_that_cannot_be_is_refused_and_leaves_nothing(refused, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, said = refused("record", "run", *arguments)
    assert code == 2 and words in said
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["study", "cleansing", "x", "--scale", "tiny", "--retrain", "none"], "--retrain"),
        (["study", "cleansing", "x", "--scale", "tiny", "--validation", "null"], "--validation"),
        (["record", "x", "--data", "digits", "--lr", "None"], "--lr"),
        (["verify", "x", "--seeds", "none"], "--seeds"),
    ],
)
def test_none_is_no_value_and_not_the_default(refused, tmp_path, monkeypatch, arguments, flag):
    monkeypatch.chdir(tmp_path)
    code, said = refused(*arguments)
    assert code == 2 and flag in said and not (tmp_path / "x").exists()


def test_data_that_cannot_be_learnt_from_are_refused(refused, tmp_path):
    rows, half = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    cases = {
        "one class": ({"inputs": rows, "labels": half * 0}, "labels are 0"),
        "missing label": ({"inputs": rows, "labels": np.where(np.arange(40) == 7, np.nan, half)}, "id 7"),
        "NaN input": ({"inputs": np.where(rows == rows[5, 1], np.nan, rows), "labels": half}, "ids 5"),
        "ids twice": ({"inputs": rows, "labels": half, "ids": half}, "more than once"),
    }
    for name, (arrays, words) in cases.items():
        code, said = refused("record", tmp_path / "run", "--data", written(tmp_path, **arrays), *REST)
        assert code == 2 and words in said, (name, said)
    spec = written(tmp_path, inputs=rows, labels=half, true_labels=half[::-1])
    assert "known truth" in refused("record", tmp_path / "run", "--data", spec, *REST)[1]
    spec = written(tmp_path, inputs=rows, labels=half)
    assert "need images" in refused("record", tmp_path / "run", "--data", spec, *REST, "--flip")[1]
    assert not (tmp_path / "run").exists()


def test_a_matrix_is_given_by_a_plan(capsys, tmp_path):
    matrix = [[0.0] * row + [1.0] + [0.0] * (9 - row) for row in range(10)]
    matrix[3] = [0.0] * 8 + [1.0, 0.0]
    (tmp_path / "plan.toml").write_text(
        f'data = "digits:test=1400"\nnet = "logistic"\n[plant]\nkind = "class"\nmatrix = {matrix}\n'
    )
    few = ("--epochs", "1")
    assert here(capsys, "record", tmp_path / "run", "--plan", tmp_path / "plan.toml", "--plant", "class", *few)[0] == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())["about"]
    assert about["wrong labels"] == int((torch.tensor(about["plan"]["plant"]["matrix"]).argmax(1) != torch.arange(10)).sum()) * 40
    flags = ("--plant", "pair:rate=0.5", *few)
    assert here(capsys, "record", tmp_path / "other", "--plan", tmp_path / "plan.toml", *flags)[0] == 0
    assert json.loads((tmp_path / "other" / "run.json").read_text())["about"]["plan"]["plant"] == {"kind": "pair", "rate": 0.5}


def test_nothing_is_overwritten_unasked(refused, own, tmp_path):
    code, said = refused("record", own, *SMALL)
    assert code == 2 and "already holds a run" in said and "--resume" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    code, said = refused("record", tmp_path / "full", *SMALL)
    assert code == 2 and "not empty" in said
    code, said = refused("report", own, "--out", tmp_path / "full" / "thesis.tex")
    assert code == 2 and "no report of assay" in said and (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    code, said = refused("choose", own, "aum", "--policy", "top_k", "--keep", "0.5", "--name", "drop")
    assert code == 2 and "holds another decision" in said


def test_a_run_is_resumed_by_its_own_plan(refused, own):
    code, said = refused("record", own, *SMALL, "--lr", "0.2", "--resume")
    assert code == 4 and "recipe.lr was None and is 0.2" in said


@pytest.mark.parametrize(
    ("methods", "expected", "words"),
    [
        ([], 2, "Name a method, or `all`; this run allows aum,"),
        (["amu"], 2, "Did you mean aum"),
        (["aum:fom=probs"], 2, "Did you mean form"),
        (["aum:form=prob"], 2, "'logits' or 'probs'"),
        (["aum:form"], 2, "not of the form key=value"),
        (["aum", "aum:form=logits"], 2, "titled 'aum'"),
        (["dual:window=1"], 2, "window=1 is too short"),
        (["dual"], 3, "at least 10 epochs, but this run has 3"),
        (["tdds:window=3"], 3, "`assay record --keep-logits`"),
        (
            ["k_center:keep=9"],
            2,
            "No method is named 'k_center'; that is a policy, asked for by `assay choose --policy k_center`.",
        ),
        (["infobatch"], 2, "that is a live selector, asked for by `assay record --select infobatch`"),
        (["mlp"], 2, "that is a net, asked for by `assay record --net mlp`"),
        (["digits"], 2, "that is a dataset, asked for by `assay record --data digits`"),
        (["data_oob:learner=aum"], 2, "that is a method, asked for by `assay score RUN aum`"),
        (["knn"], 2, "that is a learner, asked for by a method's option learner=knn"),
        (["aum", "--data", "digits"], 2, "holds its data already, so leave --data and --plan out: assay score"),
        (["all", "--data", "digits"], 2, "holds its data already"),
    ],
)
def test_a_score_that_cannot_be_is_refused(refused, recorded, methods, expected, words):
    code, said = refused("score", recorded, *methods)
    assert code == expected and words in said


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (["aum", "--policy", "topk"], 2, "Did you mean top_k"),
        (["aum", "--policy", "top_k"], 2, "needs a value for keep"),
        (["aum", "--policy", "top_k:kep=0.5"], 2, "Did you mean keep"),
        (["aum", "--policy", "top_k", "--keep", "1.2"], 2, "outside 0..1"),
        (["aum", "--policy", "top_k", "--keep", "nan"], 2, "outside 0..1"),
        (["aum", "--policy", "threshold:at_least=0", "--keep", "0.5"], 2, "No option of policy 'threshold' is named 'keep'"),
        (["aum", "--policy", "top_k", "--keep", "0.5", "--seed", "1"], 2, "No option of policy 'top_k' is named 'seed'"),
        (["aum", "--policy", "top_k:keep=0.5", "--keep", "0.4"], 2, "give it once"),
        (["aum", "--policy", "top_k:keep=0.5", "--name", "//"], 2, "makes no file name"),
        (["amu", "--policy", "top_k:keep=0.5"], 2, "Did you mean aum"),
        (["dual", "--policy", "top_k:keep=0.5"], 3, "at least 10 epochs"),
        (["aum", "--policy", "k_center:keep=9"], 2, "reads no score, so leave aum out: assay choose"),
        (["aum"], 2, "Name a policy: assay choose"),
        ([], 2, "Name a policy: assay choose"),
        (["k_centre:keep=9"], 2, "Did you mean k_center"),
        (["top_k:keep=0.5"], 2, "'top_k' chooses by a score; name one"),
        (["--policy", "top_k:keep=0.5"], 2, "'top_k' chooses by a score; name one"),
        (["k_center", "--keep", "398"], 2, "keep=398 is outside 0..397"),
        (["k_center", "--keep", "many"], 2, "is not a whole number or a number"),
        (["k_center:keep=9,features=rows:mine"], 3, "reads rows named 'mine', which are not given"),
        (["k_center:keep=9", "--tolerance", "0.1"], 2, "is for scores and curves that replay the training"),
        (["aum", "k_center:keep=9"], 2, "Policy 'k_center' reads no score, so leave aum out: assay choose"),
        (["k_center:keep=9", "aum"], 2, "k_center:keep=9."),
        (["aum", "top_k", "--keep", "0.3"], 2, "aum --policy top_k --keep 0.3."),
        (["aum", "dual"], 2, "dual is too much"),
        (["aum", "dual", "--policy", "top_k:keep=0.5"], 2, "dual is too much"),
        (["k_center:keep=9", "top_k:keep=0.5"], 2, "top_k:keep=0.5 is too much"),
        (["top_k", "--keep", "0.3"], 2, "SCORE --policy top_k --keep 0.3."),
        (["top_k:kep=0.5"], 2, "Did you mean keep"),
        (["beta:keep=0.5"], 2, "needs a value for seed"),
        (["aum", "top_k:kep=0.5"], 2, "Did you mean keep"),
        (["aum", "k_center:kep=9"], 2, "Did you mean keep"),
        (["remove_worst:harmful=false", "--count", "auto"], 2, "Did you mean harmful_only"),
        (["remove_worst:count=3", "--count", "auto"], 2, "give it once"),
        (["remove_worst", "--count", "auto"], 2, "SCORE --policy remove_worst --count auto."),
        (["aum", "--policy", "k_center", "--keep", "9"], 2, "k_center --keep 9."),
        (["infobatch:ratio=0.5"], 2, "record with it: `assay record --select infobatch`"),
        (["k_center", "--policy", "top_k:keep=0.5"], 2, "that is a policy, asked for by `assay choose --policy k_center`"),
        (["k_center"], 2, "needs a value for keep; give k_center:keep=VALUE."),
    ],
)
def test_a_decision_that_cannot_be_is_refused(refused, own, arguments, expected, words):
    code, said = refused("choose", own, *arguments)
    assert code == expected and words in said
    assert [path.stem for path in (own / "decisions").iterdir()] == ["drop"]


def test_a_wrong_option_of_a_policy_is_named_before_a_score_is_computed(refused, own):
    before = sorted((own / "scores").iterdir())
    for policy, words in (
        ("top_k:kep=0.5", "Did you mean keep"),
        ("top_k:keep=2.0", "outside 0..1"),
        ("top_k", "needs a value for keep"),
    ):
        code, said = refused("choose", own, "aum:epochs=1", "--policy", policy)
        assert code == 2 and words in said
    assert sorted((own / "scores").iterdir()) == before


@pytest.mark.parametrize("verb", ["verify", "report", "inspect", "record", "cleanse", "datasets", "nets", "demo"])
def test_what_no_command_reads_is_refused(refused, verb):
    takes = {"cleanse": ["RUN", "SCORE"], "datasets": [], "nets": [], "demo": []}.get(verb, ["RUN"])
    code, said = refused(verb, *takes, "aum")
    after = f" after {' '.join(takes)}" if takes else ""
    assert code == 2 and f"assay {verb} reads nothing{after}, but is given aum; leave it out" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "1"], "at least 2"),
        (["--decision", "drip"], "Did you mean drop"),
        (["--executor", "cluster"], "inline, processes"),
        (["--where", "slurm:nodes=2"], "nodes"),
        (["--where", "processes:0"], "must be 1 or more"),
        (["--executor", "inline", "--workers", "3"], "needs the executor 'processes'"),
        (["--workers", "0"], "must be 1 or more"),
    ],
)
def test_a_verification_that_cannot_be_is_refused(refused, recorded, arguments, words):
    code, said = refused("verify", recorded, *arguments)
    assert code == 2 and words in said


def test_a_decision_must_be_named_where_there_are_several_and_made_where_there_is_none(refused, own, capsys):
    assert here(capsys, "choose", own, "aum", "--policy", "top_k:keep=0.0", "--name", "nothing")[0] == 0
    for verb in ("verify", "report"):
        code, said = refused(verb, own)
        assert code == 2 and "name one with --decision: drop, nothing" in said
    code, said = refused("verify", own, "--decision", "nothing", "--seeds", "2")
    assert code == 2 and "nothing to train on" in said
    for path in (own / "decisions").iterdir():
        path.unlink()
    code, said = refused("verify", own)
    assert code == 2 and "holds no decision" in said
    assert here(capsys, "report", own)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--first", "amu"], "Did you mean aum"), (["--most", "0"], "at least 1"), (["--decision", "x"], "drop")],
)
def test_a_report_that_cannot_be_is_refused(refused, own, arguments, words):
    code, said = refused("report", own, *arguments)
    assert code == 2 and words in said and not (own / "report.html").exists()


def test_without_scores_there_is_nothing_to_report_or_export(refused, own, tmp_path):
    for path in (own / "scores").iterdir():
        path.unlink()
    for command in (("report", own), ("export", own, tmp_path / "npy", "--scores")):
        code, said = refused(*command)
        assert code == 2 and f"assay score {own} all" in said
    assert not (tmp_path / "npy").exists()


def test_scores_of_another_dataset_or_recording_are_refused(refused, own, capsys, tmp_path):
    other = tmp_path / "other"
    assert here(capsys, "record", other, *SMALL, "--seed", "3")[0] == 0
    theirs = score(other, "aum")["aum"]
    save_scores(theirs, own / "scores" / "aum.parquet")
    for command in (("report", own), ("verify", own), ("export", own, tmp_path / "npy", "--scores")):
        code, said = refused(*command)
        assert code == 4 and theirs.lineage.parents["run"] in said and f"assay score {own} aum" in said
    assert here(capsys, "score", own, "aum")[0] == 0 and here(capsys, "report", own)[0] == 0


@pytest.mark.parametrize(("flags", "words"), [(("--seed", "3"), "on dataset"), (("--lr", "0.3"), "was made from recording")])
def test_a_decision_of_another_dataset_or_recording_is_refused(refused, own, capsys, tmp_path, flags, words):
    other = tmp_path / "other"
    assert here(capsys, "record", other, *SMALL, *flags)[0] == 0
    assert here(capsys, "choose", other, "aum", "--policy", "top_k:keep=0.5", "--name", "drop")[0] == 0
    (own / "decisions" / "drop.parquet").write_bytes((other / "decisions" / "drop.parquet").read_bytes())
    for command in (("verify", own), ("verify", own, "--detect", "0.5"), ("report", own)):
        code, said = refused(*command)
        assert code == 4 and words in said


def test_a_run_that_is_none_is_refused(refused, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text('{"format": "somebody else\'s"}')
    for folder, words in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path, "is not an assay run"),
        (tmp_path / "foreign", "run.json"),
    ):
        for command in (("score", folder, "aum"), ("inspect", folder), ("verify", folder), ("report", folder)):
            code, said = refused(*command)
            assert code == 5 and words in said


def test_a_newer_or_damaged_run_is_refused(refused, own):
    header = (own / "run.json").read_text()
    (own / "run.json").write_text(header.replace(f'"schema_version": {SCHEMA}', '"schema_version": 999'))
    code, said = refused("inspect", own)
    assert code == 5 and "schema 999" in said and "upgrade assay" in said
    (own / "run.json").write_text(header[: len(header) // 2])
    assert refused("inspect", own)[0] == 5
    (own / "run.json").write_text(header)
    shard = own / "epochs" / "epoch-000001.safetensors"
    body = bytearray(shard.read_bytes())
    body[-5] ^= 1
    shard.write_bytes(body)
    for command in (("score", own, "aum", "forgetting", "loss", "entropy", "--recompute"), ("inspect", own, "--check")):
        code, said = refused(*command)
        assert code == 5 and "damaged" in said and "epoch-000001" in said
    shard.unlink()
    code, said = refused("inspect", own, "--check")
    assert code == 5 and "missing" in said


def test_a_damaged_artefact_is_refused(refused, own):
    path = own / "decisions" / "drop.parquet"
    path.write_bytes(path.read_bytes()[:50])
    code, said = refused("verify", own)
    assert code == 5 and "damaged" in said
    (own / "scores" / "aum.parquet").write_bytes(b"")
    code, said = refused("export", own, own / "npy", "--scores")
    assert code == 5 and "aum.parquet" in said


def test_training_that_diverges_names_epoch_and_ids(refused, tmp_path):
    code, said = refused("record", tmp_path / "run", *SMALL, "--lr", "1e20", "--momentum", "0")
    assert code == 6 and "Epoch 0" in said and "ids " in said and "lower the learning rate" in said


def test_a_trial_that_fails_names_its_log(capsys, tmp_path):
    folder = tmp_path / "run"
    batch = ("--batch", "390", "--last-batch", "drop", "--view", "eval")
    assert here(capsys, "record", folder, *SMALL[:-2], *batch)[0] == 0
    assert here(capsys, "choose", folder, "aum", "--policy", "top_k:keep=0.9", "--name", "drop")[0] == 0
    code, _, err = here(capsys, "verify", folder, "--executor", "inline", "--seeds", "2")
    log = folder / "trials" / "logs" / "kept-1.log"
    assert code == 7 and str(log) in err and log.exists()
    # Its sentence is followed by the tail of the log, which is what one looks for.
    assert err.splitlines()[0].startswith("assay: Trial kept-1 failed") and "do not fill one batch of 390" in err


def test_a_loop_of_ones_own_is_not_retrained(refused, tmp_path, capsys):
    run = looped(tmp_path / "mine")
    assert here(capsys, "choose", run.folder, "aum", "--policy", "top_k:keep=0.9")[0] == 0
    code, said = refused("verify", run.folder)
    assert code == 2 and "your own loop" in said and "retrain=FUNCTION" in said
    assert here(capsys, "report", run.folder)[0] == 0


@pytest.mark.parametrize("verb", ["inspect", "report"])
def test_a_run_of_ones_own_loop_can_be_looked_at(verb, tmp_path, capsys):
    run = looped(tmp_path / "mine", net="my net")
    assert here(capsys, "score", run.folder, "aum")[0] == 0
    code, out, _ = here(capsys, verb, run.folder)
    assert code == 0 and (verb == "report" or "my net" in out)


def test_scores_are_saved_by_the_names_that_tables_use(recorded):
    found = ScoreTable([load_scores(path) for path in sorted((recorded / "scores").glob("*.parquet"))])
    assert {"aum", "forgetting"} <= set(found)


def test_saved_scores_hold_one_copy_of_the_ids(recorded):
    run = Run(recorded)
    assert len(found := saved_scores(run)) > 1 and all(one.ids is run.ids for one in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "RUN", "aum", "--again"], "--again is now --recompute."),
        (["verify", "RUN", "--again"], "--again is now --recompute."),
        (["record", "RUN", "--data", "digits", "--ragged", "even"], "--ragged is now --last-batch."),
        (["record", "RUN", "--data", "digits", "--ragged=even"], "--ragged is now --last-batch."),
    ],
)
def test_options_of_before_name_the_new_word(refused, arguments, words):
    code, sentence = refused(*arguments)
    assert code == 2 and sentence == words


def test_options_of_before_are_named_only_where_the_command_has_the_new_one(refused):
    code, sentence = refused("report", "RUN", "--again")
    assert code == 2 and "--recompute" not in sentence
