import contextlib
import dataclasses
import json
import shutil
from xml.etree import ElementTree

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import assay
from assay.core.decision import Action, Decision
from assay.core.errors import AssayError, Mismatch, MissingEvidence, UsageError
from assay.core.ids import Ids
from assay.core.scores import CHANGE
from assay.experiments.exports import dataset_card, fiftyone_fields, issue_table, label_studio_tasks, result_table
from assay.experiments.imports import import_decision
from assay.runs.run import Run
from assay.runs.table_files import read_rows

IDS = ["=a", "-b", "c", "d", "'e", "f"]
NAMES = ("=dog", "cat", "owl")
GIVEN = [0, 1, 2, 0, 1, 2]
THINGS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*IDS, *NAMES, "drop", "weight", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def recorded(folder, recording=None):
    """A run of six examples with awkward ids, whose two epochs are written down: example d is taken for a cat."""
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 1, 1, 2])] * torch.tensor([4.0, 3.0, 2.0, 3.0, 1.0, 5.0])[:, None]
    recorder = assay.Recorder(folder, Ids(IDS), recording, class_names=NAMES)
    with recorder:
        for _ in range(2):
            recorder.begin()
            recorder.observe(torch.arange(6), logits, torch.tensor(GIVEN))
            recorder.commit()
    return Run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("exports") / "run")


@pytest.fixture(scope="module")
def aum(run):
    return assay.score(run, "aum")["aum"]


def decision(run, **changed):
    made = Decision(
        run.ids,
        torch.tensor([1, 1, 0, 2, 1, 1]),
        torch.tensor([-1, -1, -1, 1, -1, -1]),
        torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64),
        ("",) * 6,
        "made",
        {},
        "made by hand",
        class_names=run.class_names,
    )
    return dataclasses.replace(made, **changed)


def rows(table):
    columns = table.to_numpy()
    return [dict(zip(columns, row, strict=True)) for row in zip(*(column.tolist() for column in columns.values()), strict=True)]


def test_one_table_of_everything(run, aum):
    made = rows(result_table(run, [aum], decision(run)))
    third = made[3]
    assert third["id"] == "d" and third["given_class"] == "=dog" and third["predicted_class"] == "cat"
    assert third["aum"] == -3.0 and third["rank aum"] == 1 and third["action"] == "relabel" and third["new_class"] == "cat"
    assert third["given_probability"] == pytest.approx(1 / (2 + np.exp(3.0)), rel=1e-6)
    assert made[2]["action"] == "drop" and made[2]["weight"] == 0.0 and made[2]["new_class"] == ""
    part = dataclasses.replace(aum, ids=Ids(["c", "d"]), values=torch.tensor([2.0, 1.0], dtype=torch.float64), title="part")
    assert [row["part"] for row in rows(result_table(run, [part]))] == [None, None, 2.0, 1.0, None, None]
    assert result_table(run, [part]).to_arrow().to_pydict()["rank part"] == [None, None, 2, 1, None, None]
    with pytest.raises(UsageError, match="Two scores are titled aum"):
        result_table(run, [aum, aum])
    with pytest.raises(Mismatch, match="score again from this run"):
        result_table(run, [dataclasses.replace(aum, lineage=dataclasses.replace(aum.lineage, dataset="other"))])


def test_issues_by_what_the_score_claims_or_a_decision_says(run, aum):
    table = issue_table(run, aum)
    made = rows(table)
    assert [row["is_label_issue"] for row in made] == [False, False, False, True, False, False]
    # By rising aum: d -3, 'e 1, c 2, -b 3, =a 4, f 5.
    assert [row["label_quality"] for row in made] == [0.8, 0.6, 0.4, 0.0, 0.2, 1.0]
    assert (made[3]["given_label"], made[3]["predicted_label"], made[3]["aum"]) == ("=dog", "cat", -3.0)
    assert "0 for the most suspect" in table.notes[1] and "below 0" in table.notes[0]
    assert [row["is_label_issue"] for row in rows(issue_table(run, aum, decision(run)))] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    harm = dataclasses.replace(aum, unit=CHANGE, method="made")
    assert [row["is_label_issue"] for row in rows(issue_table(run, harm))] == [False, False, False, True, False, False]
    with pytest.raises(UsageError, match="does not say which are wrong; name a decision"):
        issue_table(run, assay.score(run, "loss")["loss"])
    with pytest.raises(UsageError, match="ranks difficulty"):
        issue_table(run, assay.score(run, "entropy")["entropy"])


def test_without_probabilities_nothing_is_predicted(tmp_path):
    bare = recorded(tmp_path / "bare", assay.Recording(mean_probs=False))
    one = assay.score(bare, "aum")["aum"]
    assert "predicted_class" not in result_table(bare, [one]).to_numpy()
    with pytest.raises(MissingEvidence, match="kept no mean probabilities"):
        issue_table(bare, one)
    tasks, _ = label_studio_tasks(bare, one, items={name: {"text": name} for name in IDS})
    assert "predictions" not in tasks[0]


def test_fields_of_fiftyone(run, aum):
    fields = fiftyone_fields(run, [aum], decision(run))
    assert fields["assay_aum"]["d"] == -3.0 and fields["assay_rank_aum"]["d"] == 1 and fields["assay_action"]["c"] == "drop"
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert all(name.isidentifier() for name in fields)
    with pytest.raises(UsageError, match="Two columns make the field assay_aum"):
        fiftyone_fields(run, [aum, dataclasses.replace(aum, title="AUM")])


def test_tasks_come_with_an_interface_and_suspects_first(run, aum):
    items = {name: {"text": f"text {name}"} for name in IDS}
    tasks, view = label_studio_tasks(run, aum, items=items)
    assert [task["data"]["assay_id"] for task in tasks] == ["d", "'e", "c", "-b", "=a", "f"]
    first = tasks[0]
    assert first["data"] == {"text": "text d", "assay_id": "d", "given_class": "=dog", "rank": 1, "score": -3.0}
    (guess,) = first["predictions"]
    tree = ElementTree.fromstring(view)
    choices = tree.find("Choices")
    (answer,) = guess["result"]
    assert answer["value"] == {"choices": ["cat"]} and 0.9 < guess["score"] < 1
    assert (
        (answer["from_name"], answer["to_name"]) == (choices.get("name"), tree.find("Text").get("name")) == ("class", "content")
    )
    assert choices.get("toName") == "content" and tuple(one.get("value") for one in choices) == NAMES
    assert tree.find("Text").get("value") == "$text"
    some, _ = label_studio_tasks(run, aum, decision(run), items=items)
    assert [task["data"]["assay_id"] for task in some] == ["d", "c"]
    few, _ = label_studio_tasks(run, aum, items=items, most=2)
    assert len(few) == 2
    _, view = label_studio_tasks(run, aum, items={name: {"image": f"http://x/{name}"} for name in IDS})
    assert ElementTree.fromstring(view).find("Image").get("value") == "$image"
    cells, _ = label_studio_tasks(run, aum, items={name: {"age": 3, "town": "x"} for name in IDS})
    assert cells[0]["data"]["text"] == "age: 3\ntown: x"
    for given, words in (({}, "give --items FILE"), ({"items": {"d": {"text": ""}}}, "5 examples are not among the items")):
        with pytest.raises(UsageError, match=words):
            label_studio_tasks(run, aum, **given)
    with pytest.raises(UsageError, match="most=0 is below 1"):
        label_studio_tasks(run, aum, items=items, most=0)


def answers(tasks, **given):
    """What Label Studio exports once some tasks were answered: classes by id, a list for several people."""
    exported = []
    for number, task in enumerate(tasks):
        many = given.get(task["data"]["assay_id"], [])
        annotations = [
            {
                "id": 7,
                # What was begun before it was skipped may be there still.
                "was_cancelled": one == "skipped",
                "result": [
                    {
                        "from_name": "class",
                        "to_name": "content",
                        "type": "choices",
                        "origin": "manual",
                        "value": {"choices": ["owl" if one == "skipped" else one]},
                    }
                ]
                * (one != "nothing"),
            }
            for one in ([many] if isinstance(many, str) else many)
        ]
        exported.append({"id": number, "annotations": annotations, **task})
    return exported


def test_labels_given_in_label_studio_come_back(run, aum, tmp_path):
    tasks, _ = label_studio_tasks(run, aum, items={name: {"text": name} for name in IDS}, most=5)
    path = tmp_path / "export.json"
    path.write_text(
        json.dumps(answers(tasks, d="cat", c="owl", **{"'e": ["owl", "cat"], "-b": "skipped", "=a": ["owl", "owl", "nothing"]}))
    )
    made = import_decision(run, path, "label-studio")
    assert made.to_numpy()["action"].tolist() == ["relabel", "keep", "keep", "relabel", "keep", "keep"]
    assert made.labels.tolist() == [2, -1, -1, 1, -1, -1] and made.ids == run.ids
    assert made.reasons[3] == "labelled again: class =dog becomes cat" and "is right" in made.reasons[2]
    assert made.reasons[5] == "not labelled again" and "different people" in made.reasons[4]
    assert made.warnings == (
        "1 examples were given different classes by different people and stay as they are.",
        "1 of 5 tasks have no answer and stay as they are.",
    )
    assert made.lineage.dataset == run.dataset and made.lineage.parents["run"] == run.fingerprint
    # What is kept does not depend on when it was imported.
    assert import_decision(run, path, "label-studio").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("{", UsageError, "is damaged or of another kind"),
        ('{"a": 1}', UsageError, "is no list of tasks; export the project as JSON, and not as JSON-MIN"),
        ('[{"id": 1, "text": "x", "class": "cat"}]', UsageError, "is no list of tasks"),
        ('[{"data": {"text": "x"}}]', UsageError, "a task without assay_id"),
        ('[{"data": {"assay_id": "zz"}}]', Mismatch, "'zz' is no id of"),
        ('[{"data": {"assay_id": "d"}}, {"data": {"assay_id": "d"}}]', UsageError, "tells several times of d"),
        ("fox", UsageError, "id d was given 'fox', which is none of the classes"),
        ("cat+owl", UsageError, "several classes, cat, owl, in one answer"),
    ],
)
def test_answers_that_do_not_fit_are_refused(run, tmp_path, body, kind, words):
    if not body.startswith(("[", "{")):
        result = [{"from_name": "class", "to_name": "content", "type": "choices", "value": {"choices": body.split("+")}}]
        body = json.dumps([{"data": {"assay_id": "d"}, "annotations": [{"result": result}]}])
    (tmp_path / "a.json").write_text(body)
    with pytest.raises(kind, match=words):
        import_decision(run, tmp_path / "a.json", "label-studio")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_decision_goes_out_and_comes_back(run, aum, tmp_path, kind):
    made = decision(
        run,
        actions=torch.tensor([1, 3, 0, 2, 1, 1]),
        weights=torch.tensor([1.0, 0.1 + 0.2, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64),
        reasons=("=1+1", "two", "three", "four", "five", "six"),
    )
    for table in (made, result_table(run, [aum], made)):
        getattr(table, f"to_{kind}")(tmp_path / "d")
        back = import_decision(run, tmp_path / "d", kind)
        assert back.fingerprint == made.fingerprint and back.reasons == made.reasons and back.class_names == NAMES


def test_a_table_edited_by_hand(run, tmp_path):
    path = tmp_path / "edited.csv"
    lines = [
        "id,action,new_class,new_label,weight,comment",
        "'=a,Keep,,,,",
        "'-b,relabel,owl,,,x",
        "c,relabel,,0,,",
        "d,drop,,,,",
    ]
    path.write_text("\n".join([*lines, "''e,weight,,,2.5,", "f,relabel,'=dog,0,,"]) + "\n")
    made = import_decision(run, path, "csv")
    assert made.labels.tolist() == [-1, 2, 0, -1, -1, 0] and made.weights.tolist() == [1.0, 1.0, 1.0, 0.0, 2.5, 1.0]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("f,vanish,,,", UsageError, "id f: action 'vanish' is none of keep, drop, relabel and weight"),
        ("f,relabel,,,", UsageError, "neither new_class nor new_label"),
        ("f,relabel,fox,,", UsageError, "new_class 'fox' is none of"),
        ("f,relabel,,3,", UsageError, "new_label '3' is outside 0..2"),
        ("f,relabel,,x,", UsageError, "new_label 'x' is outside 0..2"),
        ("f,relabel,cat,0,", UsageError, "a new_class and a new_label that differ"),
        ("f,weight,,,-1", UsageError, "weight '-1' is no number above 0"),
        ("f,weight,,,", UsageError, "weight None is no number above 0"),
        ("g,keep,,,", Mismatch, "'g' is no id of"),
        ("d,keep,,,", UsageError, "tells several times of d"),
        ("", Mismatch, "has no row of 1 examples: f"),
    ],
)
def test_a_cell_that_does_not_fit_is_named(run, tmp_path, line, kind, words):
    rest = [f"{name},keep,,," for name in ("'=a", "'-b", "c", "d", "''e")]
    (tmp_path / "d.csv").write_text("\n".join(["id,action,new_class,new_label,weight", *rest, line]) + "\n")
    with pytest.raises(kind, match=words):
        import_decision(run, tmp_path / "d.csv", "csv")


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.dictionaries(st.sampled_from(["id", "action", "new_class", "new_label", "weight", "reason"]), THINGS))
def test_whatever_stands_in_a_row_is_read_or_refused(run, tmp_path, row):
    rest = [{"id": name, "action": "keep"} for name in IDS[:-1]]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(one) for one in [*rest, {"id": "f", "action": "relabel", **row}]))
    try:
        made = import_decision(run, tmp_path / "d.jsonl", "jsonl")
    except AssayError as error:
        assert len(str(error)) < 600
    else:
        assay.save_decision(made, tmp_path / "d.parquet")
        made.to_csv(tmp_path / "d.csv")
        assert import_decision(run, tmp_path / "d.csv", "csv").fingerprint == made.fingerprint


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(THINGS, st.sampled_from(["annotations", "result", "value", "choices"]))
def test_whatever_stands_in_an_export_is_read_or_refused(run, tmp_path, thing, place):
    value = {"choices": thing} if place == "choices" else thing if place == "value" else {"choices": ["cat"]}
    result = thing if place == "result" else [{"from_name": "class", "to_name": "content", "type": "choices", "value": value}]
    task = {"data": {"assay_id": "d"}, "annotations": thing if place == "annotations" else [{"result": result}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    with contextlib.suppress(AssayError):
        import_decision(run, tmp_path / "a.json", "label-studio")


def test_ids_that_are_numbers_come_back_from_texts(tmp_path):
    recorder = assay.Recorder(tmp_path / "run", Ids([5, -3]))
    with recorder:
        recorder.begin()
        recorder.observe(torch.arange(2), 3 * torch.eye(2), torch.tensor([0, 1]))
        recorder.commit()
    (tmp_path / "d.csv").write_text("id,action\n-3,drop\n5,keep\n")
    made = import_decision(tmp_path / "run", tmp_path / "d.csv", "csv")
    assert made.ids == Ids([5, -3]) and made.actions.tolist() == [Action.KEEP, Action.DROP]
    (tmp_path / "d.csv").write_text("id,action\nx,drop\n5,keep\n")
    with pytest.raises(Mismatch, match="'x' is no id"):
        import_decision(tmp_path / "run", tmp_path / "d.csv", "csv")
    (tmp_path / "d.csv").write_text("name,action\nx,drop\n")
    with pytest.raises(UsageError, match="has no column 'id'"):
        import_decision(tmp_path / "run", tmp_path / "d.csv", "csv")


def test_a_card_tells_what_was_made_of_what(run, aum):
    card = dataset_card(run, [aum], [decision(run, title="made | by_hand")])
    for words in (
        run.dataset,
        run.fingerprint,
        aum.fingerprint,
        "drop 1, keep 4, relabel 1",
        "Pleiss et al. 2020",
        r"made \| by\_hand",
    ):
        assert words in card
    assert all(line.count("|") - line.count(r"\|") == 3 for line in card.splitlines() if line.startswith("|"))


def test_the_table_is_written_by_ids(run, aum, tmp_path):
    issue_table(run, aum).to_csv(tmp_path / "i.csv")
    assert [row["id"] for row in read_rows(tmp_path / "i.csv", "csv")] == IDS
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("task", ["losses", "labels"])
def test_runs_of_examples_without_a_class_are_exported_as_tables_and_come_back(tmp_path, task):
    inputs = torch.arange(12.0).reshape(6, 2)
    targets = inputs[:, :1] if task == "losses" else (inputs > 4).float()
    net = torch.nn.Linear(2, targets.shape[1])
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), 3)
    with assay.record(tmp_path / "run", net, optimizer, loader, data=assay.DataSpec(task=task)) as recorder:
        for x, y in recorder.epoch():
            logits = net(x)
            values = (logits - y).square().mean(1)
            optimizer.zero_grad()
            values.mean().backward()
            optimizer.step()
            recorder.losses(values) if task == "losses" else recorder.batch(logits, y)
    run = Run(tmp_path / "run")
    loss = assay.score(run, "loss")["loss"]
    chosen = assay.choose(loss, "bottom_k:keep=0.5,by=suspicion")
    table = result_table(run, [loss], chosen)
    assert list(table.to_numpy()) == ["id", "loss", "rank loss", "action", "weight", "reason"]
    assert fiftyone_fields(run, [loss], chosen)["assay_loss"] == dict(zip("012345", loss.values.tolist(), strict=True))
    assert f"6, {run.classes_in_words}" in dataset_card(run, [loss])
    table.to_csv(tmp_path / "out.csv")
    assert import_decision(run, tmp_path / "out.csv", "csv").actions.tolist() == chosen.actions.tolist()
    (tmp_path / "in.csv").write_text("id,action,new_class\n" + "".join(f"{i},relabel,cat\n" for i in range(6)))
    marks = [{"id": "3", "mark": "wrong", "label": 1, "name": "cat"}]
    said = {"assay": "review", "schema": 1, "dataset": run.dataset, "decision": "", "title": "", "marks": marks}
    (tmp_path / "review.json").write_text(json.dumps(said))
    with pytest.raises(Mismatch, match=f"the class 1 .cat., and .* recorded {run.classes_in_words} example"):
        assay.review(run, tmp_path / "review.json")
    items = {i: {"text": "x"} for i in range(6)}
    for call in (
        lambda: issue_table(run, loss, chosen),
        lambda: label_studio_tasks(run, loss, items=items),
        lambda: import_decision(run, tmp_path / "in.csv", "csv"),
        lambda: import_decision(run, tmp_path / "in.csv", "label-studio"),
    ):
        with pytest.raises(UsageError, match=f"recorded {run.classes_in_words} example"):
            call()


def test_of_epochs_as_drawn_there_are_no_mean_probabilities_and_all_else_is_exported(tmp_path):
    data = torch.utils.data.TensorDataset(torch.randn(6, 2), torch.tensor(GIVEN))
    net = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(data, 2, sampler=torch.utils.data.WeightedRandomSampler([1.0, 1, 1, 1, 0, 0], 4))
    with assay.record(tmp_path / "run", net, optimizer, loader, data=assay.DataSpec(visits="any")) as recorder:
        for x, y in recorder.epoch():
            logits = net(x)
            recorder.batch(logits, y)
            optimizer.step()
    run = Run(tmp_path / "run")
    loss = assay.score(run, "loss")["loss"]
    assert set(result_table(run, [loss]).to_numpy()) == {"id", "given_class", "loss", "rank loss"}
    tasks, _ = label_studio_tasks(run, loss, items={i: {"text": "x"} for i in range(6)})
    assert tasks and all("predictions" not in task for task in tasks)
    with pytest.raises(MissingEvidence, match="has no mean probabilities of"):
        issue_table(run, loss)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("keep,cat,1", "action keep leaves new_class 'cat' unread; say relabel"),
        ("weight,cat,0.5", "action weight leaves new_class 'cat' unread; say relabel"),
        ("keep,,0.5", "action keep leaves weight '0.5' unread; say weight"),
        ("relabel,cat,0.5", "action relabel leaves weight '0.5' unread; say weight"),
    ],
)
def test_a_cell_that_its_action_would_leave_unread_is_refused(run, tmp_path, cells, words):
    others = "".join(f"{one},keep,,\n" for one in IDS if one != "d")
    path = tmp_path / "edited.csv"
    path.write_text(f"id,action,new_class,weight\nd,{cells}\n{others}")
    with pytest.raises(UsageError, match=f"id d: {words}"):
        import_decision(run, path, "csv")
    path.write_text(f"id,action,new_class,weight\nd,keep,=dog,1.0\n{others}")
    assert import_decision(run, path, "csv").counts() == {"keep": 6}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_issues_of_cleanlab_are_dropped(run, aum, tmp_path, kind):
    out = issue_table(run, aum, decision(run))
    path = tmp_path / f"issues.{kind}"
    getattr(out, f"to_{kind}")(path)
    issues = dict(zip(out.to_numpy()["id"].tolist(), out.to_numpy()["is_label_issue"].tolist(), strict=True))
    back = import_decision(run, path, "cleanlab")
    assert back.ids == run.ids and sum(issues.values()) == 2
    assert [action == "drop" for action in back.to_numpy()["action"].tolist()] == [issues[one] for one in run.ids]
    assert {*back.reasons} == {"cleanlab: label issue", "no label issue"}


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (["id,quality", "c,1"], UsageError, "no column 'is_label_issue'; give one row for each example, with id and is_label_issue"),
        (["id,is_label_issue", "c,True"], Mismatch, "no row of 5 examples: .*; give each one, with is_label_issue true or false"),
        (["id,is_label_issue", *(f"{one},maybe" for one in ("'=a", "'-b", "c", "d", "''e", "f"))], UsageError, "'maybe' is neither true nor false"),
        (["id,is_label_issue,given_label", *(f"{one},0,fox" for one in ("'=a", "'-b", "c", "d", "''e", "f"))], Mismatch, "given_label 'fox' is not the recorded class"),
    ],
)  # fmt: skip
def test_issues_that_do_not_fit_are_refused(run, tmp_path, lines, kind, words):
    path = tmp_path / "issues.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(kind, match=words):
        import_decision(run, path, "cleanlab")
    path.rename(path.with_suffix(".txt"))
    with pytest.raises(UsageError, match=r"ends in none of \.csv, \.jsonl and \.parquet"):
        import_decision(run, path.with_suffix(".txt"), "cleanlab")


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        (["1", "2", "3", "1"], True),
        (["0", "1", "2", "0"], True),
        (["0.0", "1.0", "2.0", "0.0"], True),
        (["1", "2", "2", "0"], False),
        (["1", "2", "", "1"], False),
    ],
)
def test_given_labels_are_names_or_numbers_in_the_whole_table(tmp_path, given, fits):
    recorder = assay.Recorder(tmp_path / "run", Ids(range(4)), class_names=("1", "2", "3"))
    with recorder:
        recorder.begin()
        recorder.observe(torch.arange(4), 3 * torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 0]))
        recorder.commit()
    path = tmp_path / "issues.csv"
    path.write_text(
        "id,is_label_issue,given_label\n" + "".join(f"{one},{float(one == 2)},{word}\n" for one, word in enumerate(given))
    )
    if fits:
        assert (import_decision(tmp_path / "run", path, "cleanlab").actions == Action.DROP).tolist() == [
            False,
            False,
            True,
            False,
        ]
    else:
        with pytest.raises(Mismatch, match=r"id [023]: given_label .* is not the recorded class"):
            import_decision(tmp_path / "run", path, "cleanlab")


def test_tags_and_classes_of_fiftyone_come_back(run, tmp_path):
    path = tmp_path / "reviewed.json"
    told = dict(zip(run.ids.values.tolist(), (run.class_names[one] for one in run.labels.tolist()), strict=True))
    first, second, third, *_ = told
    path.write_text(
        json.dumps({"tags": {first: ["seen", "Drop"], second: [], third: None}, "label": {**told, first: "cat", second: "owl"}})
    )
    made = import_decision(run, path, "fiftyone")
    changed = told[second] != "owl"
    assert made.to_numpy()["action"].tolist() == ["drop", "relabel" if changed else "keep", *["keep"] * 4] and changed
    assert made.labels[1] == run.class_names.index("owl") and made.reasons[0] == "FiftyOne: tagged drop"
    path.write_text(json.dumps({"tags": {third: ["drop"]}}))
    assert import_decision(run, path, "fiftyone").to_numpy()["action"].tolist() == ["keep", "keep", "drop", *["keep"] * 3]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("[]", UsageError, "is no table of values by id"),
        ("{}", UsageError, "is no table of values by id"),
        ('{"assay_aum": {"d": 1}}', UsageError, "is no table of values by id"),
        ('{"tags": {"zz": []}}', Mismatch, "'zz' is no id of .* give the ids that the samples carry in the field assay_id"),
        ('{"tags": {"d": "drop"}}', UsageError, "id d: tags 'drop' is no list of tags"),
        ('{"label": {"d": 3}}', UsageError, "id d: label 3 is no name of a class"),
        ('{"label": {"d": "fox"}, "tags": {"d": ["drop"]}}', UsageError, "id d: label 'fox' is none of"),
        ('{"label": {"d": ""}}', UsageError, "id d: label '' is none of"),
        ('{"tags": {"d": ["drop"], "d": []}}', UsageError, "tells several times of d; leave one"),
        ("{", UsageError, "is damaged or of another kind"),
    ],
)
def test_values_of_fiftyone_that_do_not_fit_are_refused(run, tmp_path, body, kind, words):
    (tmp_path / "f.json").write_text(body)
    with pytest.raises(kind, match=words):
        import_decision(run, tmp_path / "f.json", "fiftyone")


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(THINGS, st.sampled_from(["body", "tags", "label", "a tag", "a label"]))
def test_whatever_stands_in_values_of_fiftyone_is_read_or_refused(run, tmp_path, thing, place):
    bodies = {"body": thing, "tags": {"tags": thing}, "label": {"label": thing}, "a tag": {"tags": {"d": thing}}}
    (tmp_path / "f.json").write_text(json.dumps(bodies.get(place, {"label": {"d": thing}})))
    with contextlib.suppress(AssayError):
        import_decision(run, tmp_path / "f.json", "fiftyone")


@pytest.mark.slow
def test_a_table_that_cleanlab_made_drops_its_issues(tmp_path):
    classification = pytest.importorskip("cleanlab.classification", reason="the extra `oracles` is not installed")
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 120)
    inputs, given = draw.normal(size=(120, 4)) + 4 * np.eye(3, 4)[truth], np.where(np.arange(120) < 6, (truth + 1) % 3, truth)
    recorder = assay.Recorder(tmp_path / "run", Ids(range(120)))
    with recorder:
        recorder.begin()
        recorder.observe(torch.arange(120), 3 * torch.eye(3)[torch.from_numpy(truth)], torch.from_numpy(given))
        recorder.commit()
    issues = classification.CleanLearning(LogisticRegression(), seed=0).find_label_issues(inputs, given)
    issues.assign(id=range(120)).to_csv(tmp_path / "issues.csv")
    made = import_decision(tmp_path / "run", tmp_path / "issues.csv", "cleanlab")
    assert (made.actions == Action.DROP).tolist() == issues["is_label_issue"].tolist() and int(
        (made.actions == Action.DROP).sum()
    ) >= 6
    issues.assign(id=range(120), given_label=truth).to_csv(tmp_path / "issues.csv")
    with pytest.raises(Mismatch, match=r"given_label '.' is not the recorded class"):
        import_decision(tmp_path / "run", tmp_path / "issues.csv", "cleanlab")
