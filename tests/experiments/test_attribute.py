"""Values by query of recorded runs: of a plan and of a user's own loop, saved, taken again, and refused."""

import dataclasses
import fcntl
import os
import shutil

import pytest
import torch

import assay
from assay.core.attribution import AbstractAttributor
from assay.core.errors import BadScores, Mismatch, MissingEvidence, UsageError
from assay.experiments.attribute import attributor_named
from assay.methods.tracin import TracIn
from assay.replay.checkpoints import CheckpointModel
from assay.replay.targets import parts_of_target, weighted_mean
from assay.runs.attributions import RowFile, load_attribution, save_attribution
from experiments import small
from methods.loops import EXAMPLES, World, inner


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small.recorded(tmp_path_factory.mktemp("attribute") / "run", validation=0.1, record={"checkpoints": "every"})


@pytest.fixture(scope="module")
def found(run):
    return assay.attribute(run, "tracin")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("attribute") / "own", "sgd")


def dense(found):
    return torch.cat([block.values for block in found.blocks()])


def own(world, method="tracin", **given):
    targets = {"validation": (world.held_out, world.held_labels)}
    return assay.attribute(world.run, method, **{"loop": world.loop(), "targets": targets, **given})


@pytest.mark.parametrize("layers", ["all", "head"])
def test_in_an_own_loop_it_is_every_product_by_hand(world, layers):
    found = own(world, f"tracin:layers={layers}")
    expected = torch.zeros(len(world.held_out), EXAMPLES, dtype=torch.float64)
    steps = world.by_hand()
    for epoch, last in enumerate((2, 5, 8)):
        params, rates = world.run.model(epoch), steps[last][2]
        for query in range(len(world.held_out)):
            pull = world.gradient(params, world.held_out[query : query + 1], world.held_labels[query : query + 1])
            for example in range(EXAMPLES):
                push = world.example_gradient(params, example)
                names = [name for name in push if layers == "all" or name.startswith("out")]
                expected[query, example] += inner({n: rates[n] * push[n] for n in names}, pull)
    torch.testing.assert_close(dense(found), expected, rtol=1e-10, atol=1e-13)
    assert list(found.queries) == list(range(len(world.held_out))) and torch.equal(found.labels, world.held_labels)
    assert found.ids == world.run.ids and found.unit == "rank only"


def test_its_mean_is_todays_score_of_the_target(world):
    score = world.score("tracin", "tracin:reduce=sum", "tracin:reduce=max")
    found, values = own(world), dense(own(world))
    torch.testing.assert_close(found.reduce("mean").values, score["tracin"].values, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.reduce().values, values.mean(0), rtol=1e-12, atol=1e-14)
    n = len(world.held_out)
    torch.testing.assert_close(score["tracin:reduce=sum"].values, n * score["tracin"].values, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(score["tracin:reduce=max"].values, values.amax(0), rtol=1e-10, atol=1e-13)
    assert found.reduce("max").title == "tracin:reduce=max"
    with pytest.raises(UsageError, match="how='least' is none of mean, sum and max"):
        found.reduce("least")


def test_rows_of_a_weighted_target_are_weighted_in_its_mean_alone(world):
    weights = torch.linspace(0.0, 2.0, len(world.held_out), dtype=torch.float64)
    targets = {"validation": (world.held_out, world.held_labels, weights)}
    found, plain = own(world, targets=targets), dense(own(world))
    torch.testing.assert_close(dense(found), plain, rtol=1e-12, atol=1e-14)
    score = world.score("tracin", "tracin:reduce=sum", targets=targets)
    torch.testing.assert_close(found.reduce("mean").values, score["tracin"].values, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(score["tracin:reduce=sum"].values, plain.sum(0), rtol=1e-10, atol=1e-13)


def test_of_a_plan_queries_have_the_ids_of_what_was_held_out(run, found):
    held = assay.experiments.plan.load_data(assay.experiments.plan.plan_of(run)).validation
    assert found.queries == held.ids and torch.equal(found.labels, held.labels) and found.ids == run.ids
    score = assay.score(run, "tracin")["tracin"].values
    torch.testing.assert_close(found.reduce("mean").values, score, rtol=1e-4, atol=1e-5)
    one = int(held.ids[3])
    alone = assay.score(run, f"tracin:target=id={one}")[f"tracin:target=id={one}"].values
    torch.testing.assert_close(found.row(one), alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        UsageError, match=r"no validation example has the id elsewhere; choose among the \d+ of them, such as \d+, \d+, \d+\.$"
    ):
        assay.score(run, "tracin:target=id=elsewhere")
    test = assay.attribute(run, "tracin:target=test,layers=head")
    assert len(test.queries) == 1400 and not set(test.queries) & set(found.queries)
    some = assay.attribute(run, "tracin:target=class=3")
    assert set(some.labels.tolist()) == {3} and set(some.queries) < set(found.queries)
    torch.testing.assert_close(some.row(some.queries[0]), found.row(some.queries[0]), rtol=1e-4, atol=1e-5)


def test_it_is_taken_from_the_folder_where_it_was_made_of_the_same(run, found, tmp_path, monkeypatch):
    copy = small.copied(run, tmp_path / "copy")
    assert load_attribution(copy.paths.attribution("tracin")).lineage.folder == str(copy.folder)
    made = []
    attribute = TracIn.attribute

    def counted(self, evidence, *args):
        made.append(self.title)
        yield from attribute(self, evidence, *args)

    monkeypatch.setattr(TracIn, "attribute", counted)
    again = assay.attribute(copy, "tracin")
    assert made == [] and again.fingerprint == found.fingerprint and again.lineage.parents == found.lineage.parents
    assert set(again.lineage.parents) == {"run", "target validation", "queries validation"}
    assert assay.attribute(copy, "tracin", recompute=True).fingerprint == found.fingerprint and made == ["tracin"]
    # What is damaged, or of another version, is no result.
    for spoil in (lambda path: path.write_bytes(path.read_bytes()[:-8]), lambda path: path.unlink()):
        spoil(next(copy.paths.attribution("tracin").glob("*.npy")))
        assert assay.attribute(copy, "tracin").fingerprint == found.fingerprint
    assert len(made) == 3
    monkeypatch.setattr("assay.experiments.attribute.__version__", "0.0.1")
    assay.attribute(copy, "tracin")
    assert len(made) == 4


def test_of_an_own_loop_or_of_other_queries_it_is_made_anew(world, monkeypatch):
    first = own(world)
    other = own(world, targets={"validation": (world.held_out[:4], world.held_labels[:4])})
    assert len(other.queries) == 4 and other.lineage.parents != first.lineage.parents
    assert len(own(world).queries) == len(world.held_out)


def test_other_ids_for_the_same_rows_are_other_queries(run, found):
    plan = assay.experiments.plan
    held = plan.load_data(plan.plan_of(run)).validation
    renamed = dataclasses.replace(held, ids=assay.Ids([f"row {one}" for one in held.ids]))
    other = assay.attribute(run, "tracin", targets={"validation": renamed})
    assert list(other.queries) == list(renamed.ids) and torch.equal(dense(other), dense(found))
    assert assay.attribute(run, "tracin").queries == found.queries


@pytest.mark.parametrize("form", ["exact", "fisher"])
def test_the_rows_of_influence_are_those_of_single_targets(world, form):
    how = assay.ReplayConfig(tolerance=1e-9)
    title = "sgd_influence:window=1-2" + (f",form={form}" if form != "exact" else "")
    found = own(world, title, replay_config=how)
    singles = {f"q{q}": (world.held_out[q : q + 1], world.held_labels[q : q + 1]) for q in range(len(world.held_out))}
    table = world.score(*(f"{title},target={name}" for name in singles), targets=singles)
    expected = torch.stack([one.values for one in table.values()])
    torch.testing.assert_close(dense(found), expected, rtol=0, atol=1e-10)
    assert found.unit == next(iter(table.values())).unit
    torch.testing.assert_close(found.reduce("mean").values, world.score(title)[title].values, rtol=0, atol=1e-10)


def test_influence_of_a_plan_is_reduced_to_its_score_and_says_what_a_reader_must_know(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.1, recipe={"epochs": 1, "batch": 85})
    found, score = assay.attribute(run, "sgd_influence"), assay.score(run, "sgd_influence")["sgd_influence"]
    near = 1e-5 * float(score.values.abs().max())
    torch.testing.assert_close(found.reduce("mean").values, score.values, rtol=0, atol=near)
    (rows,) = assay.score(run, "sgd_influence:reduce=sum").values()
    torch.testing.assert_close(rows.values, found.reduce("sum").values, rtol=0, atol=near * len(found.queries))
    assert found.warnings == score.warnings == rows.warnings and "stands out" in found.warnings[0]


def test_several_models_are_their_mean(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.1, models=2)
    found, table = assay.attribute(run, "tracin"), assay.score(run, "tracin")["tracin"]
    torch.testing.assert_close(found.reduce("mean").values, table.values, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(table.repeats[0], table.values, rtol=1e-3)


def test_many_queries_are_taken_a_few_at_a_time_and_say_the_same(world, monkeypatch):
    expected, sizes = dense(own(world)), []
    queries = CheckpointModel.queries

    def counted(self, name, rows=None, size=None):
        sizes.append(rows.stop - rows.start)
        return queries(self, name, rows, size)

    monkeypatch.setattr(CheckpointModel, "queries", counted)
    each = 8 * (EXAMPLES + sum(value.numel() for value in world.model.parameters()))
    evidence = {}
    attribute = TracIn.attribute

    def cramped(self, given, room=0):
        evidence[self.title] = given
        yield from attribute(self, given, 2 * each + 7)

    monkeypatch.setattr(TracIn, "attribute", cramped)
    torch.testing.assert_close(dense(own(world)), expected, rtol=1e-12, atol=1e-14)
    assert set(sizes) == {2, 1} and len(sizes) == 3 * 5


def test_progress_is_told(world):
    told = []

    class Told(assay.experiments.progress.Progress):
        def advance(self, task, done, total, words=""):
            told.append((task, done, total))

    own(world, progress=Told())
    assert told[-1] == ("tracin", 9 * EXAMPLES, 9 * EXAMPLES)


def function(model):
    return sum(value.square().sum() for value in model.parameters())


@pytest.mark.parametrize(
    ("method", "given", "error", "words"),
    [
        ("grand", {}, UsageError, r"grand gives one number per example, and none per query; choose .*tracin"),
        ("sgd_influence:checks=1", {}, UsageError, "checks=1 is of the whole target and not of its rows; leave it out"),
        ("sgd_influence:form=accumulated,ids=1", {}, UsageError, "form=accumulated is of the whole target"),
        ("tracin:reduce=max", {}, UsageError, r"reduce= is how scores are made .* ask the attribution for \.reduce\('max'\)"),
        ("tracin:target=self", {}, UsageError, "tracin:target=self has no value per query; leave target=self out"),
        ("tracin:every=step", {}, UsageError, "tracin:every=step has no value per query; leave every=step out"),
        ("tracin:target=test", {}, UsageError, "asks for target 'test'; there are: validation"),
        ("tracin", {"targets": {"validation": function}}, UsageError, "'validation' is a function of the model and has no rows"),
        ("tracin", {"targets": None}, UsageError, "asks for target 'validation'; there are: none"),
        ("tracin", {"loop": None}, UsageError, "recorded in your own loop, whose model and data assay does not know"),
        ("traicn", {}, UsageError, "Did you mean tracin"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_computed(world, monkeypatch, method, given, error, words):
    monkeypatch.setattr(CheckpointModel, "queries", None)
    with pytest.raises(error, match=words):
        own(world, method, **given)


def test_scores_by_rows_of_a_function_are_refused_and_its_mean_is_not(world):
    targets = {"validation": function}
    assert len(world.score("tracin", targets=targets)["tracin"]) == EXAMPLES
    with pytest.raises(UsageError, match="'validation' is a function of the model and has no rows to attribute to"):
        world.score("tracin:reduce=max", targets=targets)


def test_rows_that_the_model_cannot_take_are_refused_in_words(world):
    with pytest.raises(UsageError, match=r"Target 'validation' cannot be computed: Target [789] is out of bounds"):
        own(world, targets={"validation": (world.held_out, world.held_labels + 7)})
    with pytest.raises(UsageError, match="Target 'validation' cannot be computed"):
        own(world, targets={"validation": (world.held_out[:, :2], world.held_labels)})


def test_trained_rows_are_no_queries(world):
    with pytest.raises(Mismatch, match="are trained on"):
        own(world, targets={"validation": (world.inputs, world.labels)})


def test_values_that_are_no_numbers_are_refused_and_nothing_is_saved(world):
    far = world.held_out.clone()
    far[2] = torch.inf
    folder = world.run.paths.attribution("tracin:layers=head")
    with pytest.raises(BadScores, match=r"tracin:layers=head: .* values are not finite, the first of query 2 and example 0"):
        own(world, "tracin:layers=head", targets={"validation": (far, world.held_labels)})
    assert not folder.exists() or not list(folder.glob(".*"))


def test_a_run_that_trained_nothing_has_no_queries(tmp_path):
    run = assay.untrained(small.plan(), tmp_path / "run")
    with pytest.raises(MissingEvidence, match="tracin reads a training, and there is none here"):
        assay.attribute(run, "tracin")


def test_of_a_plan_without_validation_the_cure_is_said(tmp_path):
    run = small.recorded(tmp_path / "run", recipe={"epochs": 1})
    with pytest.raises(UsageError, match="the plan held out no validation examples"):
        assay.attribute(run, "tracin")
    assert len(assay.attribute(run, "tracin:target=test").queries) == 1400


def test_only_attributors_are_attributors():
    assert isinstance(attributor_named("tracin:layers=head"), AbstractAttributor)


def test_nobody_else_ends_an_attribution_from_where_its_values_stand_until_its_head_names_them(tmp_path, run, monkeypatch):
    shutil.copytree(run.folder, tmp_path / "run")
    held = []

    def alone(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(handle)

    def opened(path, *given):
        held.append(alone(path.parent))
        return RowFile(path, *given)

    def saved(made, path):
        held.append(alone(path.parent))
        save_attribution(made, path)

    monkeypatch.setattr("assay.experiments.attribute.RowFile", opened)
    monkeypatch.setattr("assay.experiments.attribute.save_attribution", saved)
    made = assay.attribute(tmp_path / "run", "tracin", recompute=True)
    assert held == [True, True] and not alone(made.source.path.parent)


class InDict(torch.nn.Linear):
    def forward(self, inputs):
        return {"logits": super().forward(inputs)}


def test_a_model_that_returns_no_tensor_is_refused_in_words():
    target = weighted_mean("t", torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2), None)
    with pytest.raises(UsageError, match=r"The model returned a dict for inputs and labels of a target.*or let the model return"):
        list(parts_of_target(target, InDict(3, 2), "t"))


def test_misclassified_examples_are_a_target_that_all_models_share(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.3, models=2)
    title = "influence:target=misclassified,layers=head"
    found = assay.attribute(run, title)
    held = assay.experiments.plan.load_data(assay.experiments.plan.plan_of(run)).validation
    model = assay.experiments.evidence.open_replay(run)
    last = model.at(model.kept[-1])
    predicted = torch.cat([batch.outputs({}).argmax(1) for batch in last.queries("validation")])
    assert list(found.queries) == list(held.ids.take(predicted != held.labels)) and 0 < len(found.queries) < len(held)
    scores = assay.score(run, title)[title]
    torch.testing.assert_close(found.reduce("mean").values, scores.values, rtol=1e-3, atol=1e-6)
