import dataclasses

import pytest
import torch

from assay.core.errors import BadScores, MissingEvidence, RunError, UnknownName, UsageError
from assay.core.method import score as straight
from assay.experiments import score as module
from assay.experiments.score import REPLAYED, scorable, score
from assay.methods import catalogue
from assay.methods.aum import AUM
from assay.methods.entropy import Entropy
from assay.runs.artefacts import load_scores, save_scores
from assay.runs.gather import gather
from assay.runs.run import Run
from experiments import small


def computed(monkeypatch):
    """Titles of the scores that are computed from now on."""
    titles = []
    original = module._computed

    def spy(run, methods, replay):
        titles.extend(method.title for method in methods)
        return original(run, methods, replay)

    monkeypatch.setattr(module, "_computed", spy)
    return titles


def test_one_pass_says_what_each_method_says_alone(run):
    table = score(run.folder, ["aum", "dual:window=2", AUM(form="probs"), "entropy"])
    assert list(table) == ["aum", "dual:window=2", "aum:form=probs", "entropy"]
    (alone,) = straight([Entropy()], gather(run))
    assert torch.equal(table["entropy"].values, alone.values)
    lineage = table["aum"].lineage
    assert lineage.dataset == run.dataset and lineage.parents == {"run": run.fingerprint} and lineage.folder == str(run.folder)
    assert list(score(run, "aum")) == ["aum"]


def test_saved_scores_of_this_recording_are_taken(own, monkeypatch):
    first = score(own, ["aum", "loss"], save=True)
    titles = computed(monkeypatch)
    again = score(own, ["loss", "aum", "confidence"], save=True)
    assert titles == ["confidence"]
    assert all(again[name].fingerprint == first[name].fingerprint for name in first)
    score(own, ["aum", "loss"], save=True, again=True)
    score(own, "aum")
    assert titles == ["confidence", "aum", "loss", "aum"]


def test_nothing_is_written_unless_asked(own):
    score(own, "aum")
    assert not own.paths.scores("aum").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda one: dataclasses.replace(one, lineage=None),
        lambda one: dataclasses.replace(one, lineage=dataclasses.replace(one.lineage, parents={"run": "another"})),
        lambda one: dataclasses.replace(one, lineage=dataclasses.replace(one.lineage, code="0.0.1")),
        lambda one: dataclasses.replace(one, title="aum:form=probs"),
    ],
    ids=["no lineage", "another recording", "another version", "another score"],
)
def test_saved_scores_of_anything_else_are_computed_again(own, monkeypatch, change):
    good = score(own, "aum", save=True)["aum"]
    path = own.paths.scores("aum")
    save_scores(change(dataclasses.replace(good, values=good.values * 0)), path)
    titles = computed(monkeypatch)
    assert score(own, "aum", save=True)["aum"].fingerprint == good.fingerprint
    assert titles == ["aum"] and load_scores(path).fingerprint == good.fingerprint


def test_a_damaged_saved_score_is_computed_again(own):
    good = score(own, "aum", save=True)["aum"]
    path = own.paths.scores("aum")
    path.write_bytes(path.read_bytes()[:100])
    assert score(own, "aum", save=True)["aum"].fingerprint == good.fingerprint
    assert load_scores(path).fingerprint == good.fingerprint


def test_scores_of_half_a_run_do_not_count_for_the_whole(own, tmp_path):
    half = small.copied(own, tmp_path / "half")
    lines = half.paths.commits.read_bytes().splitlines(keepends=True)
    half.paths.commits.write_bytes(b"".join(lines[:2]))
    early = score(half.folder, "aum", save=True)["aum"]
    half.paths.commits.write_bytes(b"".join(lines))
    late = score(half.folder, "aum", save=True)["aum"]
    assert early.fingerprint != late.fingerprint == score(own, "aum")["aum"].fingerprint


def test_a_moved_run_keeps_its_scores_under_its_new_place(own, tmp_path, monkeypatch):
    score(own, "aum", save=True)
    moved = Run(own.folder.rename(tmp_path / "moved"))
    titles = computed(monkeypatch)
    assert score(moved, "aum", save=True)["aum"].lineage.folder == str(tmp_path / "moved") and not titles


def test_scorable_says_what_works_and_why_the_rest_does_not(run):
    able, unable = scorable(run)
    assert sorted([*able, *unable]) == sorted(catalogue())
    assert score(run, able).keys() == set(able)
    for name, why in unable.items():
        assert name in why
        if catalogue()[name]().needs & REPLAYED:
            assert "takes the training again" in why
            continue
        with pytest.raises(MissingEvidence):
            score(run, name)
    assert "keep_logits" in unable["tdds"] and "10 epochs" in unable["dual"]


def test_a_live_method_without_enough_epochs_says_so(tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"epochs": 2}, record={"live": ["tdds:window=3"]})
    with pytest.raises(MissingEvidence, match="at least 3 epochs, but this run has 2"):
        score(run, "tdds:window=3")
    assert "at least 10 epochs" not in scorable(run)[1]["tdds"], "tdds with default options did not run along"


@pytest.mark.parametrize(
    ("methods", "kind", "words"),
    [
        ("amu", UnknownName, "Did you mean aum"),
        ("aum:shape=probs", UnknownName, "No option of method 'aum'"),
        (["aum", "aum:epochs=none"], UsageError, "titled 'aum'"),
        ([], UsageError, "No method was named"),
        ("aum:epochs=9", MissingEvidence, "at least 9 epochs, but this run has 3"),
    ],
)
def test_bad_methods_are_refused(run, methods, kind, words):
    with pytest.raises(kind, match=words):
        score(run, methods)


def test_an_absent_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        score(tmp_path / "nowhere", "aum")


def test_a_method_that_fails_gives_no_score(own):
    class Broken(AUM):
        def finish(self, state):
            values = super().finish(state)
            values[3] = float("nan")
            return values

    with pytest.raises(BadScores, match=f"1 values are not finite; ids {own.ids.values[3]}"):
        score(own, Broken(), save=True)
    assert not own.paths.scores("aum").exists()
