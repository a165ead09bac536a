import dataclasses
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import assay
from assay.core.accumulators import AbstractAccumulator
from assay.core.errors import BadScores, Mismatch, MissingEvidence, NumericalError, RunError, UnknownName, UsageError
from assay.core.ids import Ids
from assay.core.scoring import score as straight
from assay.experiments import models
from assay.experiments.evidence import gather, gather_logits
from assay.experiments.scorable import BESIDE, replayed, scorable
from assay.experiments.score import score, score_separately
from assay.learners import LEARNERS
from assay.methods import METHODS, catalogue
from assay.methods.aum import AUM
from assay.methods.entropy import Entropy
from assay.replay.config import ReplayConfig
from assay.replay.targets import mean_loss
from assay.runs.artefacts import load_scores, save_scores
from assay.runs.run import Run
from experiments import small
from methods.loops import World


def computed(monkeypatch):
    """Titles of the scores that are computed from now on."""
    titles = []
    original = models.computed

    def spy(run, methods, *beside):
        titles.extend(method.title for method in methods)
        return original(run, methods, *beside)

    monkeypatch.setattr(models, "computed", spy)
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
    score(own, ["aum", "loss"], save="recompute")
    score(own, "aum")
    assert titles == ["confidence", "aum", "loss", "aum"]


def test_what_was_made_before_another_fails_is_kept(tmp_path):
    world = World(tmp_path / "run")
    beside = {"loop": world.loop(), "targets": {"validation": (world.held_out, world.held_labels)}}
    with pytest.raises(NumericalError, match="in 2 iterations"):
        score(world.run, ["aum", "influence:iterations=2"], save=True, strict=True, **beside)
    assert [path.stem for path in Run(tmp_path / "run").paths.scores("aum").parent.iterdir()] == ["aum"]


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


def test_what_code_of_others_saved_is_theirs_of_one_version(own, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Mine(AUM):
        name = "mine"

        def compute(self, state):
            return super().compute(state) * factor

    factor = 1.0
    first = score(own, Mine(), save=True)["mine"].values
    factor = 2.0
    # Nobody can tell a class of no package from what it was before.
    assert torch.equal(score(own, Mine(), save=True)["mine"].values, 2 * first)
    monkeypatch.setattr(METHODS, "maker", lambda cls: "theirs 1.0")
    assert torch.equal(score(own, Mine(), save=True)["mine"].values, 2 * first)
    factor = 3.0
    assert torch.equal(score(own, Mine(), save=True)["mine"].values, 2 * first)
    monkeypatch.setattr(METHODS, "maker", lambda cls: "theirs 1.1")
    assert torch.equal(score(own, Mine(), save=True)["mine"].values, 3 * first)
    monkeypatch.undo()
    learner = "data_oob:bags=30"
    score(own, learner, save=True)
    monkeypatch.setattr(LEARNERS, "maker", lambda cls: "theirs 1.0")
    assert score(own, learner, save=True)[learner].lineage.parents["learner"] == "theirs 1.0"


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
        if catalogue()[name]().reads & BESIDE:
            assert ("replays the training" if replayed(catalogue()[name]()) else "reads the data") in why
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
        def compute(self, state):
            values = super().compute(state)
            values[3] = float("nan")
            return values

    with pytest.raises(BadScores, match=f"1 values are not finite; ids {own.ids.values[3]}"):
        score(own, Broken(), save=True)
    assert not own.paths.scores("aum").exists()


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run with validation examples whose last batch is dropped, so that no window of one epoch holds every example."""
    changed = {"recipe": {"last_batch": "drop"}, "record": {"view": "eval"}, "validation": 0.2}
    return small.recorded(tmp_path_factory.mktemp("held") / "run", **changed)


def test_scores_under_another_tolerance_are_computed_again(held, tmp_path, monkeypatch):
    own, titles = small.copied(held, tmp_path / "own"), computed(monkeypatch)
    about = ReplayConfig(tolerance=1e-6)
    exact, near = (score(own, "sgd_influence", save=True, replay_config=how)["sgd_influence"] for how in (None, about))
    assert titles == ["sgd_influence", "sgd_influence"]
    assert "tolerance" not in exact.lineage.parents and near.lineage.parents["tolerance"] == "1e-06"
    score_separately(own, ["sgd_influence", "aum"], save=True, replay_config=ReplayConfig(tolerance=1e-6, schedule="all"))
    assert titles[2:] == ["aum"], "a schedule changes no bit"
    assert score(own, "aum", save=True)["aum"].lineage.parents == {"run": own.fingerprint} and titles[3:] == []
    score(own, "sgd_influence", save=True)
    assert titles[3:] == ["sgd_influence"]


def test_a_loop_cannot_be_told_from_another_so_what_it_gives_is_computed_again(tmp_path, monkeypatch):
    world, titles = World(tmp_path / "run", clip=0.1), computed(monkeypatch)
    given = {
        "targets": {"validation": (world.held_out, world.held_labels)},
        "replay_config": ReplayConfig(tolerance=1e-9),
        "save": True,
    }
    names = ["oti", "sgd_influence:window=last", "aum"]
    first = score(world.run, names, loop=world.loop(), **given)
    assert first["oti"].lineage.parents == {"run": world.run.fingerprint, "tolerance": "1e-09", "loop": "a loop"}
    score(world.run, names, loop=world.loop(), **given)
    assert titles == [*names, *names[:2]]


def test_a_target_is_told_apart_by_what_the_model_is_given(held):
    validation = small.plan(validation=0.2).load().validation
    shifted = dataclasses.replace(validation, mean=(0.1,), std=(0.5,))
    one, other = mean_loss(validation, "validation"), mean_loss(shifted, "validation")
    assert one.fingerprint != other.fingerprint
    ready = dataclasses.replace(validation, inputs=validation.prepared(validation.inputs), mean=None, std=None)
    assert mean_loss(ready, "validation").fingerprint == one.fingerprint, "the same numbers, prepared elsewhere"


def test_methods_that_speak_of_other_examples_make_no_table(held, tmp_path, monkeypatch):
    own, titles = small.copied(held, tmp_path / "own"), computed(monkeypatch)
    names = ["aum", "sgd_influence:window=last"]
    with pytest.raises(Mismatch, match="sgd_influence:window=last covers 256 of 318 examples, aum of 318"):
        score(own, names, save=True)
    assert titles == [], "before anything is computed"
    apart = score_separately(own, names, save=True)
    assert [(title, len(one), len(one.unscored)) for title, one in apart.items()] == [("aum", 318, 0), (names[1], 256, 62)]
    assert titles == names
    with pytest.raises(Mismatch, match="score them in calls of their own, or by score_separately"):
        score(own, names, save=True)
    windows = ["sgd_influence:window=0-0", "sgd_influence:window=1-1"]
    with pytest.raises(Mismatch, match="covers 256 of 318 examples, sgd_influence:window=0-0 of 256, and not of the same"):
        score(own, windows)
    assert titles == names, "nor where as many are others"


def test_a_reference_that_no_method_asks_for_is_refused(held):
    weights = held.model(held.checkpoints()[-1])
    for methods in ("aum", "oti", ["aum", "oti:reference=mine"]):
        with pytest.raises(
            UsageError, match="No method asks for the reference 'other'; score oti:reference=other, or leave it out"
        ):
            score(held, methods, references={"mine": weights, "other": weights} if len(methods) == 2 else {"other": weights})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"schedule": "nonsense"}, "schedule='nonsense' is not one of sqrt"),
        ({"schedule": "every=0"}, "at least 1"),
        ({"memory": -3}, "memory=-3 is not a number of bytes above 0"),
        ({"memory": 0}, "memory=0 is not a number of bytes above 0"),
        ({"tolerance": 5}, r"tolerance=5 is outside 0\.\.1, 1 excluded"),
        ({"tolerance": 1}, "1 excluded"),
        ({"tolerance": -0.1}, "tolerance=-0.1 is outside"),
        ({"tolerance": float("nan")}, "tolerance=nan is outside"),
    ],
)
def test_what_no_replay_could_keep_to_is_refused_even_where_none_is_needed(given, words):
    with pytest.raises(UsageError, match=words):
        ReplayConfig(**given)


def test_a_method_that_the_run_cannot_serve_does_not_take_the_others_with_it(own):
    with pytest.warns(UserWarning, match="was not scored: ") as caught:
        table = score(own.folder, ["aum", "dual", "tdds", "loss"], save=True)
    assert len(caught) == 2, "one sentence each"
    assert list(table) == ["aum", "loss"] and list(table.refused) == ["dual", "tdds"]
    assert torch.equal(table["aum"].values, score(own, "aum")["aum"].values) and own.paths.scores("loss").exists()
    assert "keep_logits" in table.refused["tdds"] and repr(table).endswith("aum, loss; not scored: dual, tdds)")
    with pytest.raises(MissingEvidence, match="dual was not scored: dual reads at least 10 epochs"):
        table["dual"]
    with pytest.warns(UserWarning, match="dual was not scored"):
        assert list(score_separately(own, ["loss", "dual"])) == ["loss"]


def test_what_stays_an_error(own):
    for strict in (["aum", "dual"], ["tdds", "aum"]):
        with pytest.raises(MissingEvidence):
            score(own, strict, strict=True)
    with pytest.raises(MissingEvidence, match="dual reads at least 10"):
        score(own, ["dual", "tdds"])
    for wrong in ("amu", "aum:shape=1", "aum:form=nonsense", "dual:window=1"):
        with pytest.raises(UsageError):
            score(own, ["loss", wrong])
    with pytest.raises(UsageError, match="window=5-6 is outside"):
        score(own, ["loss", "oti:window=5-6"])


@pytest.mark.parametrize("epochs", [2, 3, 4, 6, 9])
def test_the_options_that_a_refusal_names_fit(epochs, tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"epochs": epochs}, record={"keep_logits": True})
    named = 0
    for name, cls in catalogue().items():
        if not isinstance(cls(), AbstractAccumulator) or cls().fewest_epochs <= epochs:
            continue
        with pytest.raises(MissingEvidence) as refused:
            score(run, name)
        if met := re.search(r"score (\S+), which fits", str(refused.value)):
            assert list(score(run, met[1])) == [met[1]]
            named += 1
        else:
            assert str(refused.value).endswith("Record more epochs.")
    assert named >= (3 if epochs > 2 else 2)
    with pytest.raises(MissingEvidence, match=f"score aum:epochs={epochs}, which fits"):
        score(run, "aum:epochs=12")


def test_all_is_every_method_that_the_run_allows(run):
    able, unable = scorable(run)
    table = score(run, "all")
    assert list(table) == able and table.refused == unable
    both = score(run, ["all", "dual:window=2", "aum"])
    assert sorted(both) == sorted([*able, "dual:window=2"]) and "dual" in both.refused


def test_of_an_own_loop_what_asks_for_the_loop_is_left_out_in_words_that_work(tmp_path):
    world = World(tmp_path / "run")
    left_out = score(world.run, "all").refused
    for name in ("sgd_influence", "oti", "vog"):
        assert left_out[name] == (
            f"replays the training of your own loop; in Python, name it: score(run, ['{name}'], loop=assay.Loop(model, optimizer, loader))."
        )
    with pytest.warns(UserWarning, match="sgd_influence was not scored: .* was recorded in your own loop"):
        assert list(score(world.run, ["aum", "sgd_influence"])) == ["aum"]
    with pytest.raises(UsageError, match="was recorded in your own loop"):
        score(world.run, "sgd_influence")
    with pytest.warns(
        UserWarning, match="sgd_influence was not scored: sgd_influence asks for target 'validation'; there are: none"
    ):
        table = score(world.run, ["grand", "sgd_influence"], loop=world.loop())
    assert list(table) == ["grand"] and list(table.refused) == ["sgd_influence"]


def test_of_a_plan_without_validation_what_asks_for_it_is_left_out_in_words_that_work(run):
    left_out = score(run, "all").refused
    assert "of which the plan held out none; record with --validation 0.1" in left_out["sgd_influence"]
    assert left_out["oti"] == "replays the training; name it to have it." and list(score(run, "oti")) == ["oti"]
    with pytest.warns(UserWarning, match="loo was not scored: Target 'validation': the plan held out no"):
        assert list(score(run, ["grand", "loo"])) == ["grand"]
    with pytest.raises(UsageError, match="held out no validation"):
        score(run, ["grand", "loo:target=class=3"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"targets": ["test"]}, "targets= is for methods that ask for the change of a number"),
        ({"replay_config": ReplayConfig(tolerance=0.1)}, "replay_config= is for methods that replay the training; aum"),
        (
            {"execution": assay.Execution(pool=ThreadPoolExecutor(1))},
            r"Execution\(pool=\) is for loo, which trains without each example",
        ),
        ({"references": {"mine": {}}}, "No method asks for the reference 'mine'"),
        ({"inputs": {"mine": torch.zeros(397, 2)}}, "No method reads rows named 'mine'"),
        ({"save": "anew"}, "save='anew' is no way of saving; give True, False or 'recompute'"),
    ],
)
def test_an_argument_that_no_method_reads_is_refused(run, given, words):
    with pytest.raises(UsageError, match=words):
        score(run, ["aum"], **given)
    with pytest.raises(UsageError, match=words):
        score(run, ["aum", "prediction_depth:reference=label"] if "references" in given else "all", **given)


def test_a_loop_beside_all_is_for_what_is_named_beside_it(tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(UsageError, match="Name one beside them, such as grand \\('all' names none"):
        score(world.run, "all", loop=world.loop())
    assert set(score(world.run, ["all", "grand"], loop=world.loop())) == {*score(world.run, "all"), "grand"}


def test_a_loop_that_no_method_reads_is_refused(run, tmp_path):
    world = World(tmp_path / "run")
    with pytest.raises(UsageError, match="loop= is for methods that replay the training or read the data; aum, loss do not"):
        score(world.run, ["aum", "loss"], loop=world.loop())
    with pytest.raises(UsageError, match="aum does not"):
        score(world.run, "aum", loop=world.loop())
    with pytest.raises(UsageError, match="was recorded by a plan"):
        score(run, "oti", loop=world.loop())


def test_seconds_belong_to_the_method(own, monkeypatch):
    class Slow(AUM):
        def compute(self, state):
            time.sleep(0.3)
            return super().compute(state)

    table = score(own, [Slow(), "loss", "grand"])
    assert table["aum"].lineage.seconds >= 0.3 > table["loss"].lineage.seconds
    total = sum(one.lineage.seconds for one in table.values())
    assert total > table["grand"].lineage.seconds > 0


def test_models_of_a_recording_share_one_copy_of_the_data(tmp_path, monkeypatch):
    run = small.recorded(tmp_path / "run", models=3, validation=0.2)
    opened, original = [], models.open_replay

    def spy(*args, **given):
        opened.append(original(*args, **given))
        return opened[-1]

    monkeypatch.setattr(models, "open_replay", spy)
    table = score(run, ["grand", "influence:layers=head"])
    assert len(table["influence:layers=head"].repeats) == len(opened) == 3
    assert len({one.training._data.inputs.data_ptr() for one in opened}) == 1


def test_evidence_in_memory_is_scored_too(run):
    ids, labels = Ids(range(4)), torch.tensor([0, 1, 0, 1])
    logits = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    evidence = gather_logits(ids, logits, labels)
    (by_hand,) = straight([AUM()], evidence)
    with pytest.warns(UserWarning, match="dual was not scored: dual reads at least 10 epochs"):
        table = score(evidence, ["aum", "dual"])
    assert list(table) == ["aum"] and torch.equal(table["aum"].values, by_hand.values)
    for given, words in (
        ({"save": True}, "save= is for recorded runs"),
        ({"execution": assay.Execution(pool=ThreadPoolExecutor(1))}, r"Execution\(pool=\) is for recorded"),
        ({"loop": object()}, "loop"),
    ):
        with pytest.raises(UsageError, match=words):
            score(evidence, "aum", **given)
    with pytest.raises(UsageError, match="'all' is for recorded runs"):
        score(evidence, "all")


@pytest.mark.parametrize("given", [{"save": 3}, {"save": "yes"}, {"strict": 1}, {"targets": 3}])
def test_arguments_of_a_wrong_kind_are_refused_also_where_scores_are_not_joined(own, given):
    with pytest.raises(UsageError, match=rf"{next(iter(given))}=('yes')? is "):
        score_separately(own, "aum", **given)
