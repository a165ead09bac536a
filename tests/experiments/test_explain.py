"""Explanations: the values are those of the query as a target, the ends are its ends, and every kind of query is told apart."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, NumericalError, UnknownName, UsageError
from assay.core.explanation import Behind
from assay.experiments.attribute import attribute
from assay.experiments.evidence import open_replay
from assay.experiments.explain import explain, name_of
from assay.experiments.plan import load_data, plan_of
from assay.experiments.report import report
from assay.replay.config import ReplayConfig
from assay.runs.artefacts import load_explanation
from experiments import small
from methods.loops import World


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run with validation examples and planted wrong labels. It is read, never changed."""
    return small.recorded(tmp_path_factory.mktemp("held") / "run", validation=0.2)


@pytest.fixture(scope="module")
def loaded(held):
    return load_data(plan_of(held))


def ends(made):
    return [[(one.id, one.value) for one in end] for end in (made.helpful, made.harmful)]


def logits(run, inputs):
    model = load_model(run)
    with torch.no_grad():
        return model.eval()(inputs).double()


def load_model(run):
    plan = plan_of(run)
    model = plan.build(plan.load(), plan.seed)
    model.load_state_dict(run.model(run.epochs - 1))
    return model


def test_a_held_out_example_has_the_row_of_its_attribution(held, loaded):
    matrix = attribute(held, "tracin")
    for query in (matrix.queries[0], matrix.queries[7]):
        top, made = matrix.top(query, 4), explain(held, query, k=4)
        for end, mine in ((top.helpful, made.helpful), (top.harmful, made.harmful)):
            assert [one.id for one in mine] == list(end.ids)
            assert [one.value for one in mine] == pytest.approx(end.values.tolist(), rel=1e-5)
        assert made.label == top.label and made.label_from == "given" and made.query == f"validation example {query}"
        assert made.examples == 318 and made.unit == matrix.unit and made.own is None
        (at,) = loaded.validation.ids.positions(assay.Ids([query])).tolist()
        inputs = loaded.validation.prepared(loaded.validation.inputs[at : at + 1])
        probs = logits(held, inputs)[0].softmax(-1)
        assert made.predicted == int(probs.argmax()) and made.probability == pytest.approx(float(probs.max()), abs=1e-6)
        assert made.label_probability == pytest.approx(float(probs[made.label]), abs=1e-6)


def test_sgd_influence_is_that_of_the_query_as_target(held, loaded):
    query = loaded.validation.ids.values[3].item()
    made = explain(held, query, method="sgd_influence:window=last", k=318)
    scores = assay.score(held, f"sgd_influence:window=last,target=id={query}", targets=[f"id={query}"])
    (wanted,) = scores.values()
    values = {one.id: one.value for one in (*made.helpful, *made.harmful)}
    assert values == pytest.approx(
        {id_: value for id_, value in zip(wanted.ids, wanted.values.tolist(), strict=True) if value}, rel=1e-5
    )
    assert all(one.value > 0 for one in made.helpful) and all(one.value < 0 for one in made.harmful)
    assert made.method == "sgd_influence:window=last" and made.unit == "change of the target"


def test_test_and_training_examples_are_explained_too(held, loaded):
    test = loaded.test.ids.values[0].item()
    assert explain(held, f"test={test}", k=1).query == f"test example {test}"
    position = 5
    one = loaded.train.ids.values[position].item()
    made = explain(held, one, k=318)
    assert made.query == f"training example {one}" and made.label == int(held.labels[position]) and made.own.id == one
    marked = [behind.id for behind in (*made.helpful, *made.harmful) if behind.itself]
    assert marked == [one] and made.own.value > 0, "the example helps its own loss"
    assert not any("helps itself" in words for words in made.warnings)


def test_an_input_of_ones_own_is_the_held_out_example_that_it_equals(held, loaded, tmp_path):
    np.save(tmp_path / "mine.npy", loaded.validation.inputs[2].numpy())
    id_, label = loaded.validation.ids.values[2].item(), int(loaded.validation.labels[2])
    name = loaded.train.class_names[label]
    named = explain(held, query=str(tmp_path / "mine.npy"), label=name, k=3)
    assert ends(named) == ends(explain(held, id_, k=3)) and named.label_from == "named"
    open_ = explain(held, query=tmp_path / "mine.npy", k=3)
    assert open_.label_from == "predicted" and open_.label == open_.predicted and "its class is not known" in open_.sentence
    assert open_.query == "the input of mine.npy" and open_.picture
    other = explain(held, id_, label=(label + 1) % 10, k=3)
    assert other.label == (label + 1) % 10 and ends(other) != ends(named)


def test_an_input_that_is_trained_on_is_explained_and_said(held, loaded, tmp_path):
    np.save(tmp_path / "mine.npy", loaded.train.inputs[2].numpy())
    made = explain(held, query=str(tmp_path / "mine.npy"), k=1)
    assert any("is also the input of a training example, which then helps itself" in words for words in made.warnings)


def test_the_default_can_be_another_method(held):
    assert explain(held, f"training={held.ids.values[0]}").method == "tracin"


def test_suspicious_is_whom_the_models_did_not_believe(held):
    believed = held.mean_probs().argmax(1)
    made = explain(held, f"training={held.ids.values[0]}", k=50)
    for one in (*made.helpful, *made.harmful):
        (at,) = held.ids.positions(assay.Ids([one.id])).tolist()
        assert one.believed == int(believed[at]) and one.suspicious == (int(believed[at]) != int(held.labels[at]))
        assert one.label == int(held.labels[at]) and one.picture
    assert {one.suspicious for one in (*made.helpful, *made.harmful)} == {True, False}
    assert Behind(1, 0, 0.5).suspicious is None


def test_models_of_a_recording_are_averaged(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.2, models=2)
    query = load_data(plan_of(run)).validation.ids.values[0].item()
    made, top = explain(run, query, k=3), attribute(run, "tracin").top(query, 3)
    assert [one.id for one in made.helpful] == list(top.helpful.ids)
    both = [open_replay(one).at(run.epochs - 1) for one in (run, *run.members)]
    part = load_data(plan_of(run)).validation
    probs = []
    for model in both:
        (batch, *_) = model.queries("validation")
        probs.append(batch.functional.predicted(batch.params, batch.buffers, batch.batch)[0][0].double().softmax(-1))
    assert made.probability == pytest.approx(float(torch.stack(probs).mean(0).max()), abs=1e-6) and len(part)


def test_a_loop_of_ones_own(tmp_path):
    world = World(tmp_path / "own")
    x, y = world.held_out[0], int(world.held_labels[0])
    targets = {"validation": (world.held_out[:1], world.held_labels[:1])}
    top = attribute(world.run, "tracin", loop=world.loop(), targets=targets).top(0, 3)
    made = explain(world.run, query=(x, y), loop=world.loop(), k=3)
    assert [one.id for one in made.helpful] == list(top.helpful.ids) and made.query == "your input"
    assert ends(explain(world.run, query=(x[None], torch.tensor(y)), loop=world.loop(), k=3)) == ends(made)
    assert explain(world.run, query=(x, None), loop=world.loop()).label_from == "predicted"
    assert ends(explain(world.run, query=(x, np.int64(y)), loop=world.loop(), k=3)) == ends(made)
    assert ends(explain(world.run, query=(x, None), label=np.int64(y), loop=world.loop(), k=3)) == ends(made)
    own = explain(world.run, world.run.ids.values[2].item(), loop=world.loop(), k=3)
    assert own.own.id == world.run.ids.values[2] and own.label == int(world.labels[2])
    for given, words in (
        ({"example": "nobody"}, "No training example has the id 'nobody'"),
        ({"query": "mine.png"}, r"give query=\(input, label\)"),
        ({"query": (x[:1], 0)}, "The input of query= has shape"),
        ({"query": (x, 99)}, "label=99 is no class"),
        ({"query": (x * float("nan"), 0)}, "The input of query= is not finite"),
    ):
        with pytest.raises(UsageError, match=words):
            explain(world.run, loop=world.loop(), **given)
    with pytest.raises(UsageError, match=r"loop=assay\.Loop"):
        explain(world.run, query=(x, y))


def test_a_training_example_of_whole_numbers_is_explained(tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(0, 9, (12, 4))
    labels = tokens[:, 0] % 2
    model = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(tokens, labels), batch_size=4)
    with assay.record(tmp_path / "run", model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for x, y in recorder.epoch():
            optimizer.zero_grad()
            logits = model(x)
            torch.nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    loop = assay.Loop(model, optimizer, loader)
    made = explain(tmp_path / "run", 3, loop=loop, k=12)
    assert made.own is not None and made.own.id == 3
    assert ends(explain(tmp_path / "run", query=(tokens[3], labels[3]), loop=loop, k=12)) == ends(made)


def test_how_far_a_replay_may_be_off_can_be_said(held):
    one = held.ids.values[0].item()
    strict = explain(held, one, method="sgd_influence:window=last")
    allowed = explain(held, one, method="sgd_influence:window=last", replay_config=ReplayConfig(tolerance=1e-3))
    assert ends(allowed) == ends(strict) and allowed.lineage.parents["tolerance"]


def test_what_cannot_be_is_refused(held):
    one = held.ids.values[0].item()
    for given, kind, words in (
        ({}, UsageError, "Name one thing to explain"),
        ({"example": one, "query": "a.png"}, UsageError, "Name one thing to explain"),
        ({"example": one, "k": 0}, UsageError, "k=0 is below 1"),
        ({"example": -5}, UsageError, "has the id '-5'. There are validation: "),
        ({"example": one, "label": "eleven"}, UnknownName, "No class is named 'eleven'"),
        ({"example": one, "label": 10}, UsageError, "label=10 is no class"),
        ({"example": one, "method": "aum"}, UsageError, "aum does not say what an example is worth to one prediction; choose "),
        (
            {"example": one, "method": "shapley"},
            UsageError,
            "shapley trains learners on the data of a plan .*; explain by a method that plays no game",
        ),
        ({"example": one, "method": "tracin:target=test"}, UsageError, "leave the option target out"),
        ({"example": one, "method": "influence:reduce=max"}, UsageError, "here is only one; leave reduce=max out"),
        (
            {"example": one, "method": "knn_shapley:features=rows:X"},
            UsageError,
            "of the query there are none; choose features=inputs",
        ),
        ({"query": (torch.zeros(1), 0)}, UsageError, "give query= as the path of a file"),
    ):
        with pytest.raises(kind, match=words):
            explain(held, **given)


def test_errors_and_warnings_call_the_method_as_it_was_asked_for(held, tmp_path):
    one = held.ids.values[0].item()
    for method, kind, words in (
        ("influence:iterations=1,rtol=1e-12", NumericalError, r"^influence:iterations=1,rtol=1e-12: conjugate"),
        ("trak:checkpoints=99", MissingEvidence, r"^trak:checkpoints=99 compares"),
    ):
        with pytest.raises(kind, match=words):
            explain(held, one, method=method)
    inputs = load_data(plan_of(held)).train.inputs[2].numpy()
    np.save(tmp_path / "mine.npy", inputs)
    (said,) = [words for words in explain(held, query=str(tmp_path / "mine.npy"), k=1).warnings if "helps itself" in words]
    assert said == "The input of the query is also the input of a training example, which then helps itself."


def test_a_saved_one_comes_back_and_stands_on_the_page(held, tmp_path):
    run = small.copied(held, tmp_path / "mine")
    made = explain(run, f"training={run.ids.values[0]}", k=2, save=True)
    path = run.paths.explanation(name_of(made))
    assert dataclasses.replace(load_explanation(path), lineage=None) == dataclasses.replace(made, lineage=None)
    assert repr(made).startswith(f"Explanation(Training example {run.ids.values[0]} is predicted to be ")
    options = assay.ReportOptions(explanations=[made])
    page = report(run, assay.score(run, ["aum"]), options=options).read_text()
    section = page[page.index('<section id="behind"') :].partition("</section>")[0]
    assert "What is behind this prediction" in section and made.sentence.replace("'", "&#39;") in section
    for one in (*made.helpful, *made.harmful):
        assert f"<b>{one.id}</b>" in section and f'src="data:image/webp;base64,{one.picture}"' in section
    assert 'href="#behind"' in page
    other = dataclasses.replace(made, lineage=dataclasses.replace(made.lineage, parents={"run": "another"}))
    with pytest.raises(Mismatch, match="is of recording another"):
        report(run, assay.score(run, ["aum"]), options=assay.ReportOptions(explanations=[other]))
    plain = report(run, assay.score(run, ["aum"])).read_text()
    assert 'id="behind"' not in plain


def test_a_picture_that_is_none_is_refused():
    with pytest.raises(UsageError, match="no base64 text"):
        Behind(1, 0, 0.5, picture='"><script>')
