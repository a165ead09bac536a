"""Cleansing: what is removed, what it came to, and by what the count is chosen."""

import dataclasses

import pytest
import torch

import assay
from assay.cluster.executors import InlineExecutor
from assay.core.curve import NONE, RANDOM, WORST
from assay.core.errors import Mismatch, RunError, UsageError
from assay.core.ids import Ids
from assay.core.scores import CHANGE, Direction
from assay.data.examples import Examples
from assay.experiments import cleanse, evidence, retraining
from assay.experiments.cleanse import curve_for, curve_of, default_counts
from assay.experiments.plan import Plan
from assay.experiments.score import score
from assay.replay.config import ReplayConfig
from assay.runs.artefacts import load_curve, save_curve
from assay.training.batches import TrainingData
from assay.training.loop import evaluate, train
from assay.training.state import TrainingState
from experiments import small
from experiments.test_verify import Told, looped
from methods.loops import World


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run with validation examples and planted wrong labels. It is read, never changed."""
    return small.recorded(tmp_path_factory.mktemp("held") / "run", validation=0.2)


@pytest.fixture(scope="module")
def influence(held):
    return score(held, "sgd_influence")["sgd_influence"]


@pytest.fixture(scope="module")
def curve(held, influence):
    return cleanse.cleanse(held, influence, grid=assay.RemovalGrid(counts=[30, 5], draws=2, retrain="last"))


def by_hand(run, removed, retrain):
    """Validation and test accuracy and loss of a training of its own, in which the removed weigh 0."""
    plan = Plan.make(run.header.about["plan"])
    loaded, state = plan.load(), None
    examples = loaded.train
    weights = torch.ones(len(examples))
    weights[examples.ids.positions(removed, "the data")] = 0
    model = plan.build(loaded, plan.seed)
    if retrain == "all":
        train(
            model,
            TrainingData(examples.inputs, examples.labels, examples.ids, prepare=examples.prepared),
            plan.training,
            weights=weights,
        )
    else:
        file = run.state(run.epochs - 2)
        state = TrainingState.read(file.read_all(), file.notes)
        given = {"weights": weights, "resume": state}
        train(model, TrainingData(examples.inputs, examples.labels, examples.ids, examples.prepared), plan.training, **given)
    return [
        value
        for part in (loaded.validation, loaded.test)
        for value in evaluate(model, part.inputs, part.labels, prepare=part.prepared)
    ]


def measured(removal):
    return [removal.validation_accuracy, removal.validation_loss, removal.test_accuracy, removal.test_loss]


def lowest(scores, count):
    """Ids of the lowest values, which sgd_influence predicts to harm most."""
    return scores.ids.take(scores.values.argsort()[:count])


@pytest.mark.parametrize("retrain", ["last", "all"])
def test_the_outcomes_are_those_of_training_by_hand(held, influence, retrain):
    made = cleanse.cleanse(held, influence, grid=assay.RemovalGrid(counts=[20], retrain=retrain, draws=1))
    assert made.retrained == retrain
    removed = {NONE: lowest(influence, 0), WORST: lowest(influence, 20)}
    for one in (made.none, made.worst(20)):
        assert measured(one) == pytest.approx(by_hand(held, removed[one.arm], retrain), abs=1e-6)
    assert made.worst(20).validation_loss < made.none.validation_loss < made.random(20)[0].validation_loss


def test_both_windows_differ(held, influence, curve):
    everything = cleanse.cleanse(held, influence, grid=assay.RemovalGrid(counts=[5, 30], draws=1, retrain="all"))
    assert everything.none.validation_loss == pytest.approx(curve.none.validation_loss, abs=1e-6)
    assert everything.worst(30).validation_loss != curve.worst(30).validation_loss


def test_a_curve_says_what_it_is_made_of(held, influence, curve):
    assert [(one.arm, one.count, one.seed) for one in curve.removals] == [
        (NONE, 0, 0),
        *[(WORST, 5, 0), (RANDOM, 5, 1), (RANDOM, 5, 2)],
        *[(WORST, 30, 0), (RANDOM, 30, 1), (RANDOM, 30, 2)],
    ]
    assert curve.scores == "sgd_influence" and curve.chosen_by == "loss" and all(one.seconds > 0 for one in curve.removals)
    parents = curve.lineage.parents
    assert parents["run"] == held.fingerprint and parents["scores"] == influence.fingerprint
    assert set(parents) == {"run", "scores", "target validation", "target test"}
    assert parents["target validation"] != parents["target test"]


def test_random_removals_differ_by_draw_and_repeat_by_seed(held, influence, curve, monkeypatch):
    groups = []
    original = retraining.Retraining.each

    def spied(self, without, *given):
        groups.extend(without)
        return original(self, without, *given)

    monkeypatch.setattr(retraining.Retraining, "each", spied)
    again_made = cleanse.cleanse(held, influence, grid=assay.RemovalGrid(counts=[5, 30], draws=2, retrain="last"))
    assert again_made.fingerprint == curve.fingerprint
    assert [len(group) for group in groups] == [0, 5, 5, 5, 30, 30, 30]
    assert all(len(group.unique()) == len(group) for group in groups)
    assert set(groups[2].tolist()) != set(groups[3].tolist()) and set(groups[5].tolist()) != set(groups[6].tolist())
    assert held.ids.take(groups[4]) == lowest(influence, 30)
    one, other = curve.random(30)
    assert one.validation_loss != other.validation_loss
    first = list(groups)
    groups.clear()
    cleanse.cleanse(
        held,
        dataclasses.replace(influence, values=-influence.values),
        grid=assay.RemovalGrid(counts=[30], draws=2, retrain="last"),
    )
    assert [set(one.tolist()) for one in groups[2:]] == [set(one.tolist()) for one in first[5:]], "whatever the score says"


@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_the_count_is_chosen_on_validation_data_whatever_the_test_says(held, influence, monkeypatch, by):
    # The loss would have 35 go, the accuracy 30.
    grid = assay.RemovalGrid([3, 10, 30, 35], "last", draws=1, chosen_by=by)
    honest = cleanse.cleanse(held, influence, grid=grid)
    original = evidence.load_data

    def absurd(plan):
        loaded = original(plan)
        wrong = dataclasses.replace(loaded.test, labels=(loaded.test.labels + 1) % 10)
        return dataclasses.replace(loaded, test=wrong)

    monkeypatch.setattr(evidence, "load_data", absurd)
    misled = cleanse.cleanse(held, influence, grid=grid)
    tried = [misled.worst(count) for count in (0, *misled.counts)]
    assert misled.none.test_accuracy < 0.2 < 0.8 < honest.none.test_accuracy
    assert misled.best == honest.best == {"loss": 35, "accuracy": 30}[by]
    assert misled.best != min(tried, key=lambda one: one.test_loss).count != honest.best
    assert [one.validation_loss for one in misled.removals] == [one.validation_loss for one in honest.removals]


def test_accuracy_chooses_by_accuracy(held, influence, curve):
    grids = (assay.RemovalGrid([5, 30, 35], "last", draws=1, chosen_by=by) for by in ("loss", "accuracy"))
    by_loss, by_accuracy = (cleanse.cleanse(held, influence, grid=grid) for grid in grids)
    assert by_accuracy.removals[0].validation_loss == by_loss.removals[0].validation_loss == curve.removals[0].validation_loss
    best = max(by_accuracy.worst(count).validation_accuracy for count in (0, 5, 30, 35))
    assert by_accuracy.worst(by_accuracy.best).validation_accuracy == best and by_accuracy.chosen_by == "accuracy"
    assert by_accuracy.best == 30 != by_loss.best == 35


def test_only_what_is_predicted_harmful_is_removed(held, influence):
    harmful = int((influence.values < 0).sum())
    made = cleanse.cleanse(held, influence, grid=assay.RemovalGrid(draws=1))
    assert made.counts == (1, 3, 10, 30, harmful)
    with pytest.raises(UsageError, match=rf"{harmful + 1}, 300 cannot be removed, sgd_influence predicts only {harmful} of 318"):
        cleanse.cleanse(held, influence, grid=assay.RemovalGrid(counts=[3, harmful + 1, 300]))
    helpful = dataclasses.replace(influence, values=influence.values.abs())
    with pytest.raises(UsageError, match="predicts none of 318 examples to be harmful"):
        cleanse.cleanse(held, helpful)


def test_scores_that_only_rank_go_up_to_half(held):
    aum = score(held, "aum")["aum"]
    made = cleanse.cleanse(held, aum, grid=assay.RemovalGrid(draws=1))
    assert made.counts == (1, 3, 10, 30, 100, 159)
    turned = dataclasses.replace(aum, values=-aum.values, direction=Direction.HIGH_IS_SUSPECT)
    same = cleanse.cleanse(held, turned, grid=assay.RemovalGrid(counts=[10], draws=1))
    assert measured(same.worst(10)) == measured(made.worst(10))


@pytest.mark.parametrize(
    ("most", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 3]), (10, [1, 3, 10]), (47, [1, 3, 10, 30, 47]), (300, [1, 3, 10, 30, 100, 300])],
)
def test_default_counts(most, counts):
    assert default_counts(most) == counts


def test_the_choice_can_be_decided_on_and_saved(held, influence, curve, tmp_path):
    decision = assay.choose(influence, policy="remove_worst", count=curve.best)
    assert len(decision.dropped_ids) == curve.best and set(decision.dropped_ids) == set(lowest(influence, curve.best))
    assert assay.cleanse is cleanse.cleanse
    save_curve(curve, tmp_path / "curve.json")
    assert load_curve(tmp_path / "curve.json") == curve


def test_finished_trainings_are_taken_from_the_run(held, influence, curve, tmp_path):
    own = small.copied(held, tmp_path / "own")
    told = Told()
    first = cleanse.cleanse(
        own,
        influence,
        grid=assay.RemovalGrid(counts=[5], draws=2, retrain="last"),
        save=True,
        execution=assay.Execution(progress=told),
    )
    assert told.words[-1][:2] == (4, 4)
    given = {"grid": assay.RemovalGrid([5, 30], "last", draws=2), "save": True}
    whole = cleanse.cleanse(own, influence, **given, execution=assay.Execution(progress=(more := Told())))
    assert more.words[0] == (4, 7, "taken from an earlier run") and len(more.words) == 4
    assert whole.fingerprint == curve.fingerprint and whole.removals[:4] == first.removals
    (kept,) = own.folder.glob("trials/*/worst-30-*.json")
    kept.write_bytes(b"damaged")
    assert cleanse.cleanse(own, influence, **given).fingerprint == curve.fingerprint
    other = cleanse.cleanse(
        own,
        influence,
        grid=assay.RemovalGrid(counts=[5], draws=2, retrain="all"),
        save=True,
        execution=assay.Execution(progress=(none := Told())),
    )
    assert none.words[0][0] == 0 and other.worst(5).validation_loss != first.worst(5).validation_loss


@pytest.mark.parametrize(("source", "copy"), [("worst-5", "worst-30"), ("random-5", "worst-5"), ("none-0", "random-30")])
def test_a_copied_training_counts_for_nothing(held, influence, curve, tmp_path, source, copy):
    own = small.copied(held, tmp_path / "own")
    given = {"grid": assay.RemovalGrid([5, 30], "last", draws=2), "save": True}
    cleanse.cleanse(own, influence, **given)
    (original, *_), (replaced, *_) = (sorted(own.folder.glob(f"trials/*/{name}-*.json")) for name in (source, copy))
    replaced.write_bytes(original.read_bytes())
    assert (
        cleanse.cleanse(own, influence, **given, execution=assay.Execution(progress=(told := Told()))).fingerprint
        == curve.fingerprint
    )
    assert told.words[0] == (6, 7, "taken from an earlier run")


def test_an_executor_makes_the_same_curve(held, influence, curve, tmp_path):
    own = small.copied(held, tmp_path / "own")
    with InlineExecutor() as pool:
        spread = cleanse.cleanse(
            own, influence, grid=assay.RemovalGrid(counts=[5, 30], draws=2, retrain="last"), execution=assay.Execution(pool=pool)
        )
    assert spread.fingerprint == curve.fingerprint
    assert len(list((own.paths.trials / "logs").glob("*.log"))) == 7


def test_a_loop_of_ones_own_brings_its_own_targets(tmp_path):
    world = World(tmp_path / "run")
    half = [(world.held_out[part], world.held_labels[part]) for part in (slice(0, 5), slice(5, 9))]
    targets = {"validation": half[0], "test": half[1]}
    scores = world.score("loo:window=last", targets=targets)["loo:window=last"]
    made = cleanse.cleanse(world.run, scores, grid=assay.RemovalGrid(counts=[1], draws=1), loop=world.loop(), targets=targets)
    assert made.worst(1).validation_loss - made.none.validation_loss == pytest.approx(float(scores.values.min()), abs=1e-12)
    assert made.none.test_accuracy in (0.0, 0.25, 0.5, 0.75, 1.0)
    wrong = [
        ({"targets": None}, "as target 'validation' and 'test'"),
        ({"targets": {"validation": half[0]}}, "as target 'test'"),
        ({"targets": {**targets, "test": lambda model: model.out.weight.sum()}}, "as target 'test'"),
        ({"targets": {"validation": half[0], "test": half[0]}}, "validation examples are the test examples"),
        ({"loop": None}, r"give cleanse\(\.\.\., loop="),
        ({"save": True}, "does not go with loop=, since a later call"),
    ]
    for given, words in wrong:
        with pytest.raises(UsageError, match=words):
            cleanse.cleanse(world.run, scores, **({"loop": world.loop(), "targets": targets} | given))


def test_the_test_examples_have_no_say_through_the_scores(held, tmp_path):
    judged = score(held, "sgd_influence:target=test")["sgd_influence:target=test"]
    with pytest.raises(UsageError, match="sgd_influence:target=test was made by the test examples"):
        cleanse.cleanse(held, judged, grid=assay.RemovalGrid(counts=[5], draws=1))
    world = World(tmp_path / "run")
    targets, loop = halves(world), world.loop()
    for name in ("test", "judge"):
        given = {"validation": targets["validation"], name: targets["test"]}
        (scores,) = world.score(f"loo:window=last,target={name}", targets=given).values()
        with pytest.raises(UsageError, match="was made by the test examples"):
            cleanse.cleanse(world.run, scores, grid=assay.RemovalGrid(counts=[1], draws=1), loop=loop, targets=targets)


def halves(world, validation=slice(0, 5), test=slice(5, 9)):
    """What a world held out, in two parts."""
    parts = {"validation": validation, "test": test}
    return {name: (world.held_out[part], world.held_labels[part]) for name, part in parts.items()}


def test_validation_examples_of_which_most_are_test_examples_are_refused(tmp_path):
    world = World(tmp_path / "run")
    scores = world.score("loo:window=last", targets=halves(world))["loo:window=last"]
    given = {"grid": assay.RemovalGrid([1], draws=1), "loop": world.loop()}
    with pytest.raises(UsageError, match="5 of the 6 validation examples are the test examples too"):
        cleanse.cleanse(world.run, scores, **given, targets=halves(world, slice(0, 6), slice(1, 9)))
    with pytest.raises(UsageError, match="2 of the 6 validation examples are the test examples too"):
        cleanse.cleanse(world.run, scores, **given, targets=halves(world, slice(0, 6), slice(4, 7)))
    # Single equal rows happen in real tables.
    made = cleanse.cleanse(world.run, scores, **given, targets=halves(world, slice(0, 6), slice(5, 9)))
    assert made.counts == (1,)


def test_examples_are_targets_too(tmp_path):
    world = World(tmp_path / "run")
    parts = halves(world)
    scores = world.score("loo:window=last", targets=parts)["loo:window=last"]
    given = {"grid": assay.RemovalGrid([1], draws=1), "loop": world.loop()}
    examples = {
        name: Examples(Ids(range(100 * place, 100 * place + len(inputs))), inputs.float(), labels, ("a", "b", "c"))
        for place, (name, (inputs, labels)) in enumerate(parts.items(), 1)
    }
    made, plain = (cleanse.cleanse(world.run, scores, **given, targets=targets) for targets in (examples, parts))
    for one, other in zip(made.removals, plain.removals, strict=True):
        assert measured(one) == pytest.approx(measured(other), abs=1e-6)


@pytest.mark.parametrize(
    ("window", "unit", "retrained"),
    [
        ("last", CHANGE, "last"),
        ("all", CHANGE, "all"),
        ("1-2", CHANGE, "all"),
        (None, CHANGE, "all"),
        (None, "logits", "last"),
        (5, "logits", "last"),
    ],
)
def test_what_is_trained_again_follows_what_the_scores_are_about(held, influence, window, unit, retrained):
    options = {"target": "validation"} if window is None else {"target": "validation", "window": window}
    scores = dataclasses.replace(influence, options=options, unit=unit)
    assert cleanse.cleanse(held, scores, grid=assay.RemovalGrid(counts=[3], draws=1)).retrained == retrained
    assert cleanse.cleanse(held, scores, grid=assay.RemovalGrid(counts=[3], draws=1, retrain="last")).retrained == "last", (
        "unless it is said"
    )


def test_a_curve_under_a_tolerance_is_another_curve(held, influence, tmp_path):
    own = small.copied(held, tmp_path / "own")
    given = {"grid": assay.RemovalGrid([5], "last", draws=1), "save": True}
    exact = cleanse.cleanse(own, influence, **given)
    about = ReplayConfig(tolerance=1e-3)
    assert curve_of(own, influence).fingerprint == exact.fingerprint and curve_of(own, influence, replay_config=about) is None
    near = cleanse.cleanse(own, influence, **given, replay_config=about, execution=assay.Execution(progress=(told := Told())))
    assert told.words[0][:2] == (0, 3), "nothing is taken from the trainings without a tolerance"
    assert near.lineage.parents["tolerance"] == "0.001" and "tolerance" not in exact.lineage.parents
    assert curve_of(own, influence) is None and curve_of(own, influence, replay_config=about).lineage == near.lineage
    assert curve_of(own, influence, replay_config=ReplayConfig(schedule="all", memory=10**9)) is None
    assert curve_of(own, influence, replay_config=ReplayConfig(schedule="all", tolerance=1e-3)) is not None, "these change no bit"


def test_a_curve_of_another_version_does_not_count(held, influence, curve, tmp_path):
    own = small.copied(held, tmp_path / "own")
    path = own.paths.curve("sgd_influence-last")
    save_curve(curve, path)
    assert curve_of(own, influence).fingerprint == curve.fingerprint
    save_curve(dataclasses.replace(curve, lineage=dataclasses.replace(curve.lineage, code="0.0.1")), path)
    assert curve_of(own, influence) is None


def test_a_kept_curve_is_taken_and_else_one_is_made_and_kept(held, influence, tmp_path):
    own = small.copied(held, tmp_path / "own")
    kept = cleanse.cleanse(own, influence, grid=assay.RemovalGrid(counts=[5], draws=1, retrain="last"), save=True)
    assert load_curve(own.paths.curve("sgd_influence-last")) == kept
    assert curve_for(own, influence) == kept, "whichever is there"
    made = curve_for(own, influence, retrain="all")
    assert made.retrained == "all" and load_curve(own.paths.curve("sgd_influence-all")) == made
    told = Told()
    assert curve_for(own, influence, retrain="all", execution=assay.Execution(progress=told)) == made and not told.words
    with pytest.raises(UsageError, match="say which"):
        curve_for(own, influence)
    some = influence.ids.take(range(300))
    rest = influence.ids.take(range(300, 318))
    part = dataclasses.replace(influence, ids=some, values=influence.of(some), unscored=rest, by_epoch=None)
    with pytest.raises(UsageError, match="sgd_influence has no value for 18 examples"):
        curve_for(own, part, execution=assay.Execution(progress=told))
    assert not told.words, "before anything is trained"


def test_a_curve_says_how_many_are_decided_on(influence, curve):
    decision = assay.choose(influence, "remove_worst", curve=curve)
    assert decision.fingerprint == assay.choose(influence, "remove_worst", count=curve.best).fingerprint
    assert decision.lineage.parents["curve"] == curve.fingerprint and len(decision.dropped_ids) == curve.best > 0
    other = dataclasses.replace(influence, values=influence.values * 2)
    aum = dataclasses.replace(influence, title="aum")
    wrong = [
        (influence, {"policy": "bottom_k", "keep": 0.5}, UsageError, "bottom_k does not remove the worst"),
        (
            influence,
            {"policy": "remove_worst", "count": 3},
            UsageError,
            f"count=3 is given beside a curve, whose best count is {curve.best}",
        ),
        (influence, {"policy": "remove_worst:count=3"}, UsageError, "count is given in 'remove_worst:count=3' and again"),
        (other, {"policy": "remove_worst"}, Mismatch, f"not of sgd_influence {other.fingerprint}"),
        (aum, {"policy": "remove_worst"}, Mismatch, "The curve is of scores sgd_influence"),
    ]
    for scores, given, kind, words in wrong:
        with pytest.raises(kind, match=words):
            assay.choose(scores, **given, curve=curve)


def test_without_validation_examples_nothing_is_chosen(run):
    with pytest.raises(UsageError, match="held out no validation examples, and a count is never chosen on test examples"):
        cleanse.cleanse(run, score(run, "aum")["aum"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"counts": []}, "from 1 on"),
        ({"counts": [0, 5]}, "from 1 on"),
        ({"counts": [2.5]}, r"counts=\[2.5\]: give whole numbers from 1 on"),
        ({"counts": ["3"]}, r"counts=\['3'\]: give whole numbers from 1 on"),
        ({"counts": [True]}, "from 1 on"),
        ({"draws": 0}, "draws=0"),
        ({"chosen_by": "luck"}, "chosen_by='luck' is neither 'loss' nor"),
        ({"retrain": "first"}, "retrain='first' is neither 'last'"),
        ({"targets": {}}, "leave targets= out"),
    ],
)
def test_bad_settings_are_refused(held, influence, given, words):
    settings = {name: value for name, value in given.items() if name != "targets"}
    with pytest.raises(UsageError, match=words):
        cleanse.cleanse(held, influence, grid=assay.RemovalGrid(**settings), targets=given.get("targets"))


def test_difficulty_is_refused_before_anything_is_built(held, monkeypatch):
    monkeypatch.setattr(cleanse, "open_replay", lambda *given, **more: pytest.fail("a replay was built"))
    with pytest.raises(UsageError, match="ranks difficulty"):
        cleanse.cleanse(held, score(held, "entropy")["entropy"])


def test_bad_scores_are_refused(held, influence, tmp_path):
    with pytest.raises(UsageError, match="ranks difficulty"):
        cleanse.cleanse(held, score(held, "entropy")["entropy"])
    strange = dataclasses.replace(influence, lineage=dataclasses.replace(influence.lineage, dataset="another"))
    with pytest.raises(Mismatch, match="of dataset another"):
        cleanse.cleanse(held, strange)
    own = looped(tmp_path / "loop")
    with pytest.raises(UsageError, match=r"give cleanse\("):
        cleanse.cleanse(own, score(own, "aum")["aum"])


def test_a_curve_in_the_place_of_another_is_refused(held, influence, curve, tmp_path):
    own = small.copied(held, tmp_path / "own")
    save_curve(curve, own.paths.curve("sgd_influence-last"))
    body = own.paths.curve("sgd_influence-last").read_bytes()
    own.paths.curve("sgd_influence-last").unlink()
    own.paths.curve("sgd_influence-all").write_bytes(body)
    with pytest.raises(RunError, match=r"holds the curve of sgd_influence, which belongs at .*sgd_influence-last\.json"):
        curve_of(own, influence)
    own.paths.curve("sgd_influence-all").rename(own.paths.curve("mine"))
    assert curve_of(own, influence).fingerprint == curve.fingerprint, "a name of one's own says nothing else"
    own.paths.curve("sgd_influence-last").write_bytes(body)
    with pytest.raises(RunError, match="both hold the curve of sgd_influence"):
        curve_of(own, influence)
