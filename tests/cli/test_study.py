import pytest

from assay.runs.artefacts import load_study
from assay.runs.paths import StudyPaths
from cli.shell import here, sentence

QUICK = (
    "--scale", "tiny", "--data", "digits:test=1600", "--net", "logistic", "--epochs", "1", "--batch", "64", "--probe-epochs", "2",
    "--models", "1", "--seeds", "2", "--executor", "inline",
)  # fmt: skip


def test_a_study_by_command_is_kept_shown_and_on_a_page(capsys, tmp_path):
    folder = tmp_path / "study"
    flags = (
        *QUICK,
        "--sizes",
        "0.5,1",
        "--fractions",
        "0.5",
        "--metrics",
        "el2n:at=1,cg_score:protocol=rest",
        "--angles",
        "none",
    )
    code, out, err = here(capsys, "study", "scaling", folder, *flags)
    assert (code, err) == (0, "")
    found = load_study(StudyPaths(folder).results)
    assert found.metrics == ("el2n:at=1", "cg_score:protocol=rest") and found.sizes == (0.5, 1.0) and found.theory == ()
    errors = found.errors("hard", "el2n:at=1", 1.0, 0.5)
    assert f"{50 * sum(errors):.2f}" in out and all(words in out for words in found.sentences)
    assert out.rstrip().endswith(f"The page: {folder / 'study.html'}")
    # The same command finds everything done.
    _, again, _ = here(capsys, "study", "scaling", folder, *flags)
    assert "train 24/24 taken from an earlier study" in again


def test_a_plan_and_flags_say_what_is_trained(capsys, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'data = "digits:test=1600"\nnet = "logistic"\n[recipe]\nepochs = 1\nbatch = 99\n[plant]\nkind = "uniform"\nrate = 0.2\n'
    )
    flags = ("--plan", plan, "--batch", "64", "--set", "momentum=0.5", "--seeds", "1", "--probe-epochs", "2", "--models", "1")
    more = (
        "--metrics",
        "el2n,pd,vog",
        "--pd-layers",
        "2",
        "--checkpoint-interval",
        "2",
        "--fractions",
        "0.5",
        "--executor",
        "inline",
        "--per-class",
    )
    code, _, err = here(capsys, "study", "difficulty", tmp_path / "x", "--scale", "tiny", *flags, *more)
    assert (code, err) == (0, "")
    settings = load_study(StudyPaths(tmp_path / "x").results).settings
    assert settings["plan"]["plant"] == {"kind": "uniform", "rate": 0.2} and settings["per_class"] is True
    assert settings["plan"]["recipe"] == {"epochs": 1, "batch": 64, "momentum": 0.5}
    assert settings["probe"]["record"]["checkpoints"] == [1]


def test_cleansing_by_command_shows_accuracies_storage_and_choices(capsys, tmp_path):
    folder = tmp_path / "study"
    flags = (*("--data", "digits:test=1600", "--net", "logistic", "--epochs", "2", "--batch", "32", "--validation", "0.3"),
        *("--methods", "sgd_influence,influence:damping=0.1,layers=head,random", "--remove", "0,10,30", "--trials", "2"),
        *("--retrain", "last", "--chosen-by", "accuracy", "--scale", "tiny", "--executor", "inline"))  # fmt: skip
    code, out, err = here(capsys, "study", "cleansing", folder, *flags)
    assert (code, err) == (0, "")
    found = load_study(folder)
    assert found.methods == ("sgd_influence:window=last", "influence:layers=head,damping=0.1") and found.counts == (10, 30)
    assert found.settings["chosen_by"] == "accuracy" and found.settings["plan"]["validation"] == 0.3
    mean = sum(one.test_accuracy for one in found.of("random", 30)) / 2
    assert f"{100 * mean:.2f}" in out and "What must be on disk" in out
    assert all(words in out for words in (*found.sentences, *found.notes))
    assert out.rstrip().endswith(f"The page: {folder / 'study.html'}")
    _, again, _ = here(capsys, "study", "cleansing", folder, *flags)
    assert "record 2/2" in again and "trial 1 7/7 taken from an earlier run" in again


def test_a_plan_that_a_study_wrote_is_the_same_study(capsys, tmp_path):
    folder = tmp_path / "study"
    flags = ("--scale", "tiny", "--data", "digits:test=1600", "--net", "logistic", "--epochs", "2", "--batch", "32", "--methods", "aum", "--selectors",
        "top_k,moderate", "--fractions", "0.5,0.25", "--seeds", "1", "--batches", "0.25:16", "--executor", "inline")  # fmt: skip
    code, out, err = here(capsys, "study", "coresets", folder, *flags)
    assert (code, err) == (0, "")
    found = load_study(folder)
    assert found.rows("Test accuracy") == ("all", "random", "top_k by aum", "moderate", "rs2, anew every epoch")
    value = found.values("Test accuracy", "moderate", "0.25")[0]
    assert f"{100 * value:.2f}" in out and "not obtainable" in out and f"Deviation: {found.deviations[0]}" in out
    # Whatever the scale says, the plan says it all.
    again = ("--plan", folder / "plan.toml", "--scale", "small", "--executor", "inline")
    code, out, err = here(capsys, "study", "coresets", folder, *again)
    assert (code, err) == (0, "") and "train 9/9 taken from an earlier study" in out
    assert load_study(folder).fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("complexity_gap", ("--rate", "2"), "rate=2 is outside 0..1"),
        ("liveval", ("--modes", "flop"), "flop"),
        ("liveval", ("--num-flip", "a"), "--num-flip 'a' is no list of whole numbers"),
        ("liveval", ("--num-scores", "12"), "num_scores=12 is not above 12"),
        ("liveval", ("--fractions", "0.5"), "--fractions is not read by the study liveval"),
        ("coresets", ("--batches", "0.5"), "--batches '0.5' is no list of fractions"),
        ("pruning", ("--budget", "steps", "--corrupt", "2"), "corrupt=2"),
        ("pruning", ("--methods", "el2n,dual_beta", "--strata", "9"), "strata is read by CCS, DUAL + CCS only"),
        ("pruning", ("--trajectory-len", "0"), "trajectory_len=0"),
        ("pruning", ("--n-neighbor", "0", "--window-size", "5", "--decay", "0.5", "--c-0", "9", "--gamma", "1"), "n_neighbor=0"),
        ("liveval", ("--selection-epochs", "0"), "selection_epochs=0"),
    ],
)
def test_what_a_study_of_sections_cannot_do_is_one_sentence(capsys, tmp_path, name, flags, words):
    code, out, err = here(capsys, "study", name, tmp_path / "x", "--scale", "tiny", *flags)
    assert code == 2 and out == "" and words in sentence(err)


def test_the_table_study_of_a_plan_has_names_that_the_study_reads(capsys, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('data = "digits"\n[study]\nfractoins = [0.5]\n')
    code, _, err = here(capsys, "study", "coresets", tmp_path / "x", "--plan", plan)
    assert code == 2 and "'fractoins'" in sentence(err) and "fractions" in err
    plan.write_text('data = "digits"\nstudy = 3\n')
    code, _, err = here(capsys, "study", "coresets", tmp_path / "x", "--plan", plan)
    assert code == 2 and "is no table" in sentence(err)


@pytest.mark.slow
def test_fidelity_by_command(capsys, tmp_path):
    flags = (
        "--scale",
        "tiny",
        "--nets",
        "dnn",
        "--methods",
        "aum,loss",
        "--seeds",
        "1",
        "--examples",
        "21",
        "--executor",
        "inline",
    )
    code, out, err = here(capsys, "study", "fidelity", tmp_path / "x", *flags)
    assert (code, err) == (0, "")
    found = load_study(tmp_path / "x")
    assert found.methods == ("aum", "loss") and found.facts["examples"] == 21 and len(found.truths) == 1
    assert f"{found.measured[0].tau:.3f}" in out and all(words in out for words in found.sentences)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("fidelity", "x", "--data", "digits"), "--data is not read by the study fidelity; leave it out."),
        (
            ("fidelity", "x"),
            "The scale small needs data: give adult=FOLDER, mnist=FOLDER, newsgroups=FOLDER or several (`--adult`, `--mnist`, `--newsgroups`).",
        ),
        (("cleansing", "x", "--adult", "d"), "--adult is not read by the study cleansing; leave it out."),
        (("cleansing", "x", "--metrics", "aum"), "--metrics is not read by the study cleansing; leave it out."),
        (("cleansing", "x", "--per-class"), "--per-class is not read by the study cleansing; leave it out."),
        (("scaling", "x", "--remove", "3"), "--remove is not read by the study scaling; leave it out."),
        (("difficulty", "x", "--validation", "0.1"), "--validation is not read by the study difficulty; leave it out."),
        (("cleansing", "x", "--remove", "few"), "--remove 'few' is no list of whole numbers such as 0,10,100."),
        (("cleansing", "x"), "The plan needs a value for data; give it as --data"),
        (("cleansing", "x", "--scale", "tiny", "--methods", "vog"), "vog ranks difficulty"),
        (("scalling", "x"), "No study is named 'scalling'. Did you mean scaling"),
        (("scaling", "x", "--scale", "huge"), "No scale is named 'huge'"),
        (("scaling", "x", "--pd-layers", "3"), "--pd-layers is not read by the study scaling; leave it out."),
        (("difficulty", "x", "--angles", "10"), "--angles is not read by the study difficulty; leave it out."),
        (("scaling", "x", "--sizes", "half"), "--sizes 'half' is no list of numbers such as 0.1,0.5."),
        (("scaling", "x", "--sizes", "0"), "sizes: 0 is outside 0..1"),
        (("scaling", "x", "--fractions", "2"), "fractions: 2 is outside 0..1"),
        (("scaling", "x", "--seeds", "0"), "seeds=0 is no whole number"),
        (("scaling", "x", "--metrics", "el3n"), "No method is named 'el3n'"),
        (("scaling", "x", "--scale", "full"), "The plan needs a value for data; give it as --data"),
        (("scaling", "x", "--plan", "no.toml"), "no.toml does not exist"),
        (("scaling", "x", "--set", "epochs"), "--set 'epochs' is not of the form key=value."),
    ],
)
def test_what_cannot_be_studied_is_one_sentence(capsys, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = here(capsys, "study", *flags)
    assert code == 2 and out == "" and words in sentence(err)
    assert not (tmp_path / "x").exists()
