import collections
import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from assay.core.decision import Action, Decision
from assay.core.errors import Mismatch, UsageError
from assay.core.ids import Ids


def decision(ids=(0, 1, 2, 3, 4), new=None, dropped=(1,), weights=None, names=("dog", "cat", "owl")):
    """Drops the example at place 1 and, if asked, gives the one at place 3 the class `new`, or weighs."""
    n = len(ids)
    actions, labels = torch.full((n,), int(Action.KEEP)), torch.full((n,), -1)
    factors = torch.ones(n, dtype=torch.float64)
    for at, weight in (weights or {}).items():
        actions[at], factors[at] = Action.WEIGHT, weight
    if new is not None:
        actions[3], labels[3] = Action.RELABEL, new
    for at in dropped:
        actions[at], labels[at], factors[at] = Action.DROP, -1, 0.0
    return Decision(Ids(list(ids)), actions, labels, factors, ("",) * n, "made", {}, "made by hand", class_names=names)


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return self.items[place]


Pair = collections.namedtuple("Pair", "x y")
LABELS = [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("item", "label", "read", "new"),
    [
        (lambda i: (i, LABELS[i]), None, lambda item: item[1], 2),
        (lambda i: [i, torch.tensor(LABELS[i])], None, lambda item: item[1], torch.tensor(2)),
        (lambda i: (LABELS[i], i), 0, lambda item: item[0], 2),
        (lambda i: Pair(i, np.int64(LABELS[i])), None, lambda item: item.y, np.int64(2)),
        (lambda i: {"x": i, "y": LABELS[i]}, "y", lambda item: item["y"], 2),
        (lambda i: {"x": i, "y": ("dog", "cat", "owl")[LABELS[i]]}, "y", lambda item: item["y"], "owl"),
        (lambda i: (i, LABELS[i] == 1), None, lambda item: item[1], True),
    ],
)
def test_a_torch_dataset(item, label, read, new):
    data = Items([item(i) for i in range(5)])
    left = decision(new=1 if new is True else 2).apply(data, label=label)
    assert isinstance(left, torch.utils.data.Subset) and left.indices == [0, 2, 3, 4]
    before = [read(data[i]) for i in (0, 2, 3, 4)]
    after = [read(left[i]) for i in range(4)]
    assert after == [*before[:2], new, before[3]] and type(after[2]) is type(new) and type(left[2]) is type(data[3])
    assert read(data[3]) != new


def test_the_labels_travel_with_workers_and_plain_drops_need_no_wrapper():
    data = TensorDataset(torch.arange(5.0), torch.tensor(LABELS))
    made = decision(new=2)
    batches = list(DataLoader(made.apply(data), batch_size=4, num_workers=1))
    assert batches[0][1].tolist() == [0, 2, 2, 1] and batches[0][0].tolist() == [0.0, 2.0, 3.0, 4.0]
    assert decision().apply(data).dataset is data


def test_ids_that_are_no_positions_are_given():
    data = TensorDataset(torch.arange(5.0), torch.tensor(LABELS))
    named = decision(ids=("a", "b", "c", "d", "e"))
    with pytest.raises(UsageError, match=r"are not the positions 0 to 4 .* decision.ids if these are the very data"):
        named.apply(data)
    assert named.apply(data, ids=named.ids).indices == [0, 2, 3, 4]
    assert named.apply(data, ids=["e", "d", "c", "b", "a"]).indices == [0, 1, 2, 4]
    # Numbers in another order are ids and no positions.
    shuffled = decision(ids=(3, 1, 2, 0, 4))
    with pytest.raises(UsageError, match="are not the positions"):
        shuffled.apply(data)
    assert shuffled.apply(data, ids=range(5)).indices == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("ids", "kind", "words"),
    [
        (["a", "b", "c", "d", "x"], Mismatch, "1 examples of the data are not decided on: x"),
        (["a", "b", "c", "d"], UsageError, "4 ids for 5 examples"),
        ([1, 2, 3, 4, 5], Mismatch, "No id of the data, which look like"),
        (["a", "a", "c", "d", "e"], UsageError, "occur more than once"),
        ("name", UsageError, "give a row of ids"),
        (7, UsageError, "give a row of ids"),
    ],
)
def test_ids_that_do_not_fit_are_refused(ids, kind, words):
    with pytest.raises(kind, match=words):
        decision(ids=("a", "b", "c", "d", "e")).apply(TensorDataset(torch.arange(5.0)), ids=ids)


def test_examples_that_are_not_decided_on_stay_or_go_as_asked():
    made, data = decision(ids=(10, 11, 12, 13, 14)), TensorDataset(torch.arange(4.0))
    ids = [14, 99, 11, 10]
    with pytest.raises(Mismatch, match="99; say unmatched"):
        made.apply(data, ids=ids)
    assert made.apply(data, ids=ids, unmatched="keep").indices == [0, 1, 3]
    assert made.apply(data, ids=ids, unmatched="drop").indices == [0, 3]
    with pytest.raises(Mismatch, match="1 examples that were decided on are not in the data: 11"):
        made.apply(data, ids=[14, 13, 12, 10])
    with pytest.raises(UsageError, match="none of refuse, keep and drop"):
        made.apply(data, ids=ids, unmatched="maybe")
    with pytest.raises(Mismatch, match="No id of the data"):
        made.apply(data, ids=[1, 2, 3, 4], unmatched="keep")


@pytest.mark.parametrize(
    ("x", "y", "new"),
    [
        (np.arange(10).reshape(5, 2), np.array(LABELS), 2),
        (torch.arange(10).reshape(5, 2), torch.tensor(LABELS), 2),
        (np.arange(5), np.array(["dog", "cat", "owl", "dog", "cat"]), "owl"),
        (np.arange(5), np.array(LABELS, np.uint8), 2),
        (np.arange(5), np.array(LABELS, np.float32), 2.0),
        (np.arange(5), np.array(["dog", "cat", "owl", "dog", None], object), "owl"),
    ],
)
def test_arrays(x, y, new):
    left, labels = decision(new=2).apply((x, y))
    assert left.tolist() == [x[i].tolist() for i in (0, 2, 3, 4)] and type(labels) is type(y)
    assert labels.tolist() == [y[0], y[2], new, y[4]] and (labels.dtype == y.dtype) and y[3] != new


def test_names_are_needed_only_where_labels_change():
    pandas = pytest.importorskip("pandas")
    texts = np.array(["dog", "cat", "owl", "dog", "cat"])
    left, labels = decision(names=()).apply((np.arange(5), texts))
    assert left.tolist() == [0, 2, 3, 4] and labels.tolist() == ["dog", "owl", "dog", "cat"]
    assert decision(names=()).apply(pandas.DataFrame({"y": texts}), label="y")["y"].tolist() == labels.tolist()


def test_arrays_of_a_decision_that_weighs_have_a_third():
    made = decision(weights={0: 0.5, 4: 2.0})
    x, y, weights = made.apply((np.arange(5), np.array(LABELS)))
    assert weights.tolist() == [0.5, 1.0, 1.0, 2.0] and x.tolist() == [0, 2, 3, 4] and y.tolist() == [0, 2, 0, 1]
    with pytest.raises(UsageError, match=r"which no Subset can; train on all data with decision\.sampler"):
        made.apply(TensorDataset(torch.arange(5.0)))


def test_a_table_whose_classes_are_numbers_gets_these():
    made = decision(new=2, names=("1", "2", "3"))
    assert made.apply((np.arange(5), np.array(LABELS) + 1))[1].tolist() == [1, 3, 3, 2]
    # Classes 0 to 2 in a column of 1 to 3 would be wrong without a word.
    with pytest.raises(Mismatch, match="The labels hold 3, and the classes of the decision are 0, 1, 2"):
        decision(new=2, names=("0", "1", "2")).apply((np.arange(5), np.array(LABELS) + 1))
    with pytest.raises(Mismatch, match="The labels hold dog, owl"):
        decision(new=2, names=("a", "b", "c")).apply((np.arange(5), np.array(["dog", "a", "owl", "dog", "a"])))
    with pytest.raises(UsageError, match="does not know the names of the classes"):
        decision(new=2, names=()).apply((np.arange(5), np.array(["dog", "a", "owl", "dog", "a"])))
    with pytest.raises(UsageError, match="does not know the names of the classes"):
        decision(new=2, names=()).apply(Items([(1, "dog")] * 5))
    with pytest.raises(UsageError, match="cannot hold the classes"):
        decision(new=2).apply((np.arange(5), np.array([True, False, True, True, False])))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.arange(5), "give a map-style dataset"),
        ("data.csv", "give a map-style dataset"),
        (7, "give a map-style dataset"),
        ({"x": [1]}, "give a map-style dataset"),
        (type("Stream", (IterableDataset,), {"__iter__": lambda self: iter(())})(), "is not applied to a Stream"),
        ((np.arange(5), [1, 2, 3, 4, 5]), "arrays"),
        ((np.arange(5), np.arange(4)), "5 rows and y 4 labels"),
        ((np.arange(5), np.zeros((5, 3))), "one class for each example"),
        (Items([3] * 5), "has no label at 1"),
        (Items(["text"] * 5), "is a str, in which no label can be put"),
        (Items([(1, [0, 1])] * 5), "only a number or the name of a class"),
        (Items([{"y": 1}] * 5), "has no label at 1"),
    ],
)
def test_data_of_another_kind_are_refused(data, words):
    with pytest.raises(UsageError, match=words):
        decision(new=2).apply(data)


def test_arguments_that_nobody_reads_are_refused():
    with pytest.raises(UsageError, match="weight='w' names a column"):
        decision().apply(TensorDataset(torch.arange(5.0)), weight="w")
    with pytest.raises(UsageError, match="label='y' names a column"):
        decision().apply((np.arange(5), np.arange(5)), label="y")


@pytest.fixture(params=["pandas", "polars", pytest.param("datasets", marks=pytest.mark.slow)])
def framed(request):
    """How a frame of each kind is made of columns, and its columns as lists."""
    library = pytest.importorskip(request.param)
    if request.param == "datasets":
        return library.Dataset.from_dict, lambda frame: {name: frame[name][:] for name in frame.column_names}
    return library.DataFrame, lambda frame: {name: frame[name].to_list() for name in frame.columns}


@pytest.mark.parametrize(("labels", "new"), [(LABELS, 2), (["dog", "cat", "owl", "dog", "cat"], "owl")])
def test_frames(framed, labels, new):
    make, lists = framed
    frame = make({"name": ["e", "d", "c", "b", "a"], "y": labels, "x": [1.0, 2.0, 3.0, 4.0, 5.0]})
    made = decision(ids=("a", "b", "c", "d", "e"), new=2)
    left = made.apply(frame, ids="name", label="y", weight="w")
    assert type(left) is type(frame)
    assert lists(left) == {
        "name": ["e", "d", "c", "a"],
        "y": [labels[0], new, labels[2], labels[4]],
        "x": [1.0, 2.0, 3.0, 5.0],
        "w": [1.0] * 4,
    }
    assert lists(frame)["y"] == labels
    with pytest.raises(UsageError, match="changes labels; name their column by label="):
        made.apply(frame, ids="name")
    with pytest.raises(UsageError, match="label='z' is no column; the columns are name, y, x"):
        made.apply(frame, ids="name", label="z")
    with pytest.raises(UsageError, match="ids='z' is no column"):
        made.apply(frame, ids="z", label="y")
    with pytest.raises(UsageError, match=r"weighs examples; name a column .* by weight="):
        decision(ids=made.ids, weights={0: 0.5}).apply(frame, ids="name")


def test_a_frame_of_pandas_is_joined_by_its_index():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"y": pandas.Categorical(["dog", "cat", "owl", "dog", "cat"])}, index=[10, 11, 12, 13, 14])
    made = decision(ids=(14, 13, 12, 11, 10), new=2)
    left = made.apply(frame, label="y")
    assert left.index.tolist() == [10, 11, 12, 14] and left["y"].tolist() == ["dog", "owl", "owl", "cat"]
    assert isinstance(left["y"].dtype, pandas.CategoricalDtype)
    with pytest.raises(Mismatch, match="No id of the data"):
        decision(ids=("a", "b", "c", "d", "e")).apply(frame)
    small = frame.assign(y=pandas.array([0, 1, 2, 0, 1], dtype="Int8"))
    assert made.apply(small, label="y")["y"].tolist() == [0, 2, 2, 1] and str(made.apply(small, label="y")["y"].dtype) == "Int8"
    few = frame.assign(y=pandas.Categorical(["dog", "cat", "cat", "dog", "cat"], categories=["dog", "cat"]))
    with pytest.raises(UsageError, match="categories of 'y' lack owl"):
        made.apply(few, label="y")


@pytest.mark.slow
def test_named_classes_of_hugging_face_are_joined_by_name():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"x": datasets.Value("int64"), "y": datasets.ClassLabel(names=["owl", "cat", "dog"])})
    frame = datasets.Dataset.from_dict({"x": [1, 2, 3, 4, 5], "y": [2, 1, 0, 2, 1]}, features=features)
    left = decision(new=2).apply(frame, label="y")
    assert left["y"][:] == [2, 0, 0, 1] and left.features == features
    assert decision(new=2, names=("0", "1", "2")).apply(frame, label="y")["y"][:] == [2, 0, 2, 1]
    with pytest.raises(Mismatch, match="has no class named fox"):
        decision(new=2, names=("owl", "cat", "fox")).apply(frame, label="y")
    assert sorted(decision(ids=(5, 4, 3, 2, 1)).sampler(frame, ids="x")) == [0, 1, 2, 4]
    with pytest.raises(UsageError, match="give a map-style dataset"):
        decision().apply(datasets.DatasetDict({"train": frame}))


def test_samplers():
    data = TensorDataset(torch.arange(5.0))
    sampler = decision().sampler(DataLoader(data), seed=3)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == [0, 2, 3, 4] and first == list(decision().sampler(data, seed=3))
    weighed = decision(weights={0: 9.0, 4: 0.001}).sampler(data, seed=0)
    drawn = [i for _ in range(50) for i in weighed]
    assert len(drawn) == 200 and 1 not in drawn and drawn.count(0) > drawn.count(2) > drawn.count(4)
    assert list(decision(ids="abcde").sampler(data, ids=["e", "d", "c", "b", "a"], seed=1))
    for made, words in (
        (decision(new=1), "changes labels, which no sampler can"),
        (decision(dropped=range(5)), "nothing to draw"),
        (decision(ids="abcde"), "are not the positions"),
    ):
        with pytest.raises(UsageError, match=words):
            made.sampler(data)
    for other in ((np.arange(5), np.arange(5)), np.arange(5), 7):
        with pytest.raises(UsageError, match="of a map-style dataset or its loader"):
            decision().sampler(other)


def test_weights_for_a_loss():
    made = decision(weights={0: 0.5}, ids="abcde")
    assert made.loss_weights(["c", "a", "b", "a"]).tolist() == [1.0, 0.5, 0.0, 0.5]
    assert made.loss_weights(Ids(["a"])).dtype == torch.get_default_dtype()
    assert decision().loss_weights(torch.tensor([1, 0])).tolist() == [0.0, 1.0] and decision().loss_weights([]).tolist() == []
    with pytest.raises(Mismatch, match="not in the decision"):
        made.loss_weights(["z"])


def test_decisions_keep_their_class_names_on_disk(tmp_path):
    from assay.runs.artefacts import load_decision, save_decision

    save_decision(decision(new=2), tmp_path / "d.parquet")
    assert load_decision(tmp_path / "d.parquet").class_names == ("dog", "cat", "owl")
    assert dataclasses.replace(decision(), class_names=()).fingerprint == decision().fingerprint
