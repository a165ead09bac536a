"""`assay plan`: what it says of runs and recordings, and what it refuses."""

import json
import re
import shlex

import numpy as np
import pytest

from cli.shell import SMALL, here, sentence


def test_a_run_and_a_recording_are_planned(own, capsys):
    code, out, _ = here(capsys, "plan", own, "--seeds", "4", "--where", "processes:2", "--json")
    assert code == 0 and not json.loads(out)["error"]
    (table,) = json.loads(out)["tables"]
    assert table["rows"][0][:3] == ["verify, 4 seeds", 12, 21] and table["columns"][5] == "2 side by side"
    flags = [one for one in SMALL if one not in ("--plant", "uniform:rate=0.1")]
    code, out, _ = here(capsys, "plan", *flags, "--models", "3", "--json")
    (table,) = json.loads(out)["tables"]
    assert code == 0 and table["rows"][0][:3] == ["record", 3, 21] and "side by side" not in str(table["columns"])
    code, out, _ = here(capsys, "plan", *flags, "--folds", "3", "--where", "processes:3", "--json")
    (table,) = json.loads(out)["tables"]
    assert code == 0 and table["columns"][5] == "3 side by side" and table["rows"][0][4] == pytest.approx(3 * table["rows"][0][5])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("RUN", "--epochs", "3"), "says how it was trained; leave out recipe"),
        (("--detect", "1", "--data", "digits"), "--detect and --decision are of a run"),
        (("RUN", "--where", "cloud"), "is not one of inline"),
        (("--data", "digits", "--net", "logistic", "--models", "2", "--where", "cloud"), "is not one of inline"),
        (("--data", "digits", "--net", "logistic", "--where", "inline"), "--where inline is for the nets of --models or --folds"),
        (("RUN", "--seeds", "0"), "must be 1 or more"),
    ],
)
def test_plans_that_cannot_be_are_refused(own, capsys, flags, words):
    code, _, err = here(capsys, "plan", *(own if one == "RUN" else one for one in flags))
    assert code == 2 and words in sentence(err)


@pytest.mark.slow
def test_a_study_is_no_run_and_the_cure_works(capsys, tmp_path):
    folder = str(tmp_path / "a study")
    flags = ("--scale", "tiny", "--seeds", "1", "--selectors", "moderate", "--methods", "loss", "--fractions", "0.5")
    code, *_ = here(capsys, "study", "coresets", folder, *flags)
    assert code == 0
    code, _, err = here(capsys, "plan", folder)
    command = sentence(err).split("`")[1]
    assert code == 2 and "is a study and not a run" in err and command.startswith("assay study coresets '")
    name, *words = shlex.split(command)
    code, out, _ = here(capsys, *words, "--json")
    assert name == "assay" and code == 0 and json.loads(out)["tables"][0]["rows"][0][:2] == ["recorded", 1]
    for verb in ("plan", "record"):
        code, _, err = here(capsys, verb, *([] if verb == "plan" else [str(tmp_path / "run")]), "--plan", f"{folder}/plan.toml")
        assert code == 2 and "is the plan of a study; `assay study coresets FOLDER --plan" in err
    # Other commands read its recordings.
    code, _, err = here(capsys, "score", folder, "loss")
    recording = re.search(r"is a study and not a run; name one of its recordings, such as (.*)\.", sentence(err))[1]
    assert code == 5 and here(capsys, "score", recording, "loss")[0] == 0


def test_games_on_a_run_are_planned(own, capsys):
    code, out, _ = here(
        capsys, "plan", own, "data_oob:bags=7,learner=tree", "data_oob:bags=3,learner=ridge", "--where", "processes:2", "--json"
    )
    (table,) = json.loads(out)["tables"]
    assert code == 0 and [row[:3] for row in table["rows"]] == [
        ["data_oob:bags=7", 7, 1],
        ["data_oob:bags=3,learner=ridge", 3, 1],
    ]
    code, _, err = here(capsys, "plan", own, "aum")
    assert code == 2 and "aum trains no learner" in sentence(err)
    code, _, err = here(capsys, "plan", own, "data_oob", "--detect", "1")
    assert code == 2 and "leave the methods out" in sentence(err)
    code, _, err = here(capsys, "plan", own, "data_oob", "--seeds", "99", "--only-other-seeds")
    assert code == 2 and "--seeds and --only-other-seeds are of whole trainings" in sentence(err)
    code, _, err = here(capsys, "plan", own, "--inputs", "e=e.npy")
    assert code == 2 and "--inputs is read by methods" in sentence(err)


def test_games_by_rows_of_ones_own_are_planned(own, capsys, tmp_path):
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(397, 3)))
    flags = ("plan", own, "data_oob:bags=3,features=rows:e")
    code, out, _ = here(capsys, *flags, "--inputs", f"e={tmp_path / 'e.npy'}", "--json")
    assert code == 0 and json.loads(out)["tables"][0]["rows"][0][1] == 3
    code, _, err = here(capsys, *flags)
    assert code == 2 and "give --inputs e=FILE" in sentence(err)
