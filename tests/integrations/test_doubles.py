"""A dataset that gives another item for a broken one is told from true duplicates, as far as it can be, and both are said once."""

import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from assay.core.errors import RunError, UsageError
from assay.integrations.pytorch import record
from assay.replay.digests import digest_of, digests_of
from assay.runs.run import Run
from settings import grouped

SIZE, BROKEN = 40, 5


class Data(Dataset):
    """Item BROKEN is another one, as `instead` says; labels come in pairs, so that the next item may have the same."""

    def __init__(self, instead=None, change=lambda x: x, size=SIZE):
        draw = torch.Generator().manual_seed(1)
        self.inputs, self.labels = torch.randn(size, 3, generator=draw), torch.arange(size) // 9 % 2
        self.instead, self.change = instead, change

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, key):
        if key == BROKEN and self.instead is not None:
            key = self.instead()
        return self.change(self.inputs[key]), self.labels[key]


def own_collate(items):
    inputs, labels = zip(*items, strict=True)
    return torch.stack(inputs), torch.stack(labels)


def trained(
    folder, dataset, view="train", collate=None, epochs=2, forward=lambda model, batch: (model(batch[0]), batch[1]), **given
):
    torch.manual_seed(3)
    random.seed(3)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = {name: given.pop(name) for name in ("clean", "ids", "seed", "resume") if name in given}
    told |= {"forward": forward} if view == "eval" else {}
    loader = DataLoader(dataset, 8, collate_fn=collate, **{"shuffle": True} | given)
    with record(folder, model, optimizer, loader, **grouped({"view": view, **told})) as recorder:
        for _ in range(epochs):
            for batch in recorder.epoch():
                logits, labels = forward(model, batch)
                optimizer.zero_grad()
                F.cross_entropy(logits, labels).backward()
                optimizer.step()
                recorder.batch(logits, labels)
    return Run(folder)


def said(*given, **how):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(*given, **how)
    return [str(one.message) for one in caught]


BOTH = pytest.mark.parametrize("view", ["train", "eval"])
COLLATES = pytest.mark.parametrize("collate", [None, own_collate], ids=["default", "own"])


@BOTH
@COLLATES
@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_item_for_a_broken_one_is_said_once_with_both_ids(tmp_path, view, collate, workers):
    (text,) = said(tmp_path / "run", Data(lambda: BROKEN + 1), view, collate, num_workers=workers)
    assert text == (
        "Epoch 0: 1 of 40 examples have inputs and label of another one (ids 5 and 6; 1 of these pairs are neighbours in the dataset). True "
        "duplicates may stay; but if the dataset gives the next item where one is broken, the scores are of the wrong examples: let it raise "
        "there, and leave broken items out by a Subset of the dataset."
    )


@BOTH
@COLLATES
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("draw", [lambda: random.randrange(9), lambda: int(torch.randint(9, ()))], ids=["random", "torch"])
def test_a_random_stand_in_is_refused_in_the_first_epoch(tmp_path, view, collate, workers, draw):
    # Of nine items of one class, whose labels never differ.
    with pytest.raises(
        UsageError, match=r"^Epoch 0: for id 5 the dataset gives the item of id \d once and that of id \d when it is asked again"
    ):
        trained(tmp_path / "run", Data(draw), view, collate, num_workers=workers)
    with pytest.raises(RunError, match="no committed epoch"):
        Run(tmp_path / "run")


@BOTH
def test_where_nothing_is_the_same_nothing_is_said_nor_asked_twice(tmp_path, view, monkeypatch):
    monkeypatch.setattr("assay.integrations.doubles.Doubles._asked", None)
    trained(tmp_path / "run", Data(), view)


def test_duplicates_under_other_labels_repeated_by_a_subset_or_without_content_are_no_finding(tmp_path):
    data = Data()
    data.inputs[20] = data.inputs[8]
    assert data.labels[20] == data.labels[8]
    data.labels[20] = 1 - data.labels[8]
    trained(tmp_path / "labels", data)
    trained(tmp_path / "subset", Subset(Data(), [*range(SIZE), 3, 3]), ids=range(SIZE + 2))
    numbers = [(key % 4, key % 2) for key in range(SIZE)]
    one_hot = lambda model, batch: (model(F.one_hot(batch[0], 4)[:, :3].float()), batch[1])  # noqa: E731
    trained(tmp_path / "numbers", numbers, forward=one_hot)


def test_tensors_in_memory_are_never_broken(tmp_path):
    data = TensorDataset(torch.zeros(SIZE, 3), torch.arange(SIZE) % 2)
    trained(tmp_path / "run", data)
    trained(tmp_path / "subset", Subset(data, range(SIZE)), "eval")


def test_many_duplicates_are_counted_and_few_are_named(tmp_path):
    data = Data(size=400)
    data.inputs[::4], data.labels[::4] = 1.0, 1
    (text,) = said(tmp_path / "run", data)
    assert "99 of 400 examples have inputs and label of another one (ids 0 and 4; 4 and 8; 8 and 12, and 96 more)" in text
    assert len(text) < 500 and "neighbours" not in text and "gives another item where one is broken" in text


def test_neighbours_are_those_of_the_set_behind_a_subset(tmp_path):
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0)).tolist()
    (text,) = said(tmp_path / "run", Subset(Data(lambda: BROKEN + 1), order))
    assert abs(order.index(BROKEN) - order.index(BROKEN + 1)) > 1
    assert "1 of these pairs are neighbours" in text and ("ids 5 and 6" in text or "ids 6 and 5" in text)
    last = Data()
    last.inputs[-1], last.labels[-1] = last.inputs[0], last.labels[0]
    (text,) = said(tmp_path / "last", last)
    assert "(ids 0 and 39; 1 of these pairs are neighbours" in text


def test_a_run_that_goes_on_says_nothing_again(tmp_path):
    data = Data(lambda: BROKEN + 1)
    assert len(said(tmp_path / "run", data, epochs=1)) == 1
    assert not said(tmp_path / "run", data, epochs=1, resume=True)


def flipped(x):
    return x.flip(0) if random.random() < 0.5 else x


def blank(x):
    return torch.zeros(3) if random.random() < 0.2 else x


@BOTH
def test_augmentation_is_no_stand_in(tmp_path, view):
    # True duplicates three times over, each flipped or not: whatever the draw, they are the same under the same seed.
    data = Data(change=flipped)
    for key in (2, 3, 4, 6, 7):
        data.inputs[key] = data.inputs[BROKEN]
    texts = said(tmp_path / "flipped", data, view)
    assert len(texts) == 1 and "neighbours" in texts[0]
    # Blank by chance is the same by chance: neither refused nor said.
    assert not said(tmp_path / "blank", Data(change=blank), view)


def test_the_clean_data_are_those_that_are_looked_at_in_a_clean_pass(tmp_path):
    (text,) = said(tmp_path / "run", Data(), "eval", clean=Data(lambda: BROKEN + 1))
    assert "ids 5 and 6" in text
    assert not said(tmp_path / "other", Data(lambda: BROKEN + 1), "eval", clean=Data())


def test_what_cannot_be_asked_for_alone_is_said_from_the_pass(tmp_path):
    class Whole(Data):
        def __getitems__(self, keys):
            if len(keys) == 1:
                raise RuntimeError("only whole batches")
            return [self[key] for key in keys]

    (text,) = said(tmp_path / "run", Whole(lambda: BROKEN + 1))
    assert "ids 5 and 6" in text


def test_asking_again_leaves_no_trace(tmp_path):
    class Drawing(Data):
        def __init__(self, instead):
            super().__init__(instead)
            self.generator = np.random.default_rng(7)

        def __getitem__(self, key):
            self.generator.random()
            random.random()
            return super().__getitem__(key)

    states = []
    for instead in (None, lambda: BROKEN + 1):
        data = Drawing(instead)
        said(tmp_path / str(len(states)), data)
        states.append((random.getstate(), torch.get_rng_state().tolist(), data.generator.bit_generator.state))
    assert states[0] == states[1]


# ---------------------------------------------------------------------- digests

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
ITEMS = {
    "tensor": lambda x: (torch.full((2, 2), x), 1),
    "bfloat16": lambda x: {"x": torch.full((3,), x, dtype=torch.bfloat16), "y": torch.tensor(3)},
    "array": lambda x: (np.full(3, x), np.int64(4)),
    "fraction": lambda x: (x, 1),
    "list": lambda x: {"input_ids": [1, 2, int(x)], "label": 0},
    "text": lambda x: (f"text {x}", 1),
    "nested": lambda x: {"a": {"b": [torch.zeros(2), (torch.ones(3), torch.full((2,), x))]}},
    "strided": lambda x: (torch.full((4, 4), x)[:, 1], 1),
    "graph": lambda x: (torch.full((2,), x, requires_grad=True), 1),
    "picture": lambda x: (Image.fromarray(PICTURE + np.uint8(x)), 1),
    "complex": lambda x: (torch.full((2,), x, dtype=torch.complex64), 1),
    "booleans": lambda x: (torch.tensor([True, x > 1.5]), 1),
}


@pytest.mark.parametrize("name", ITEMS)
def test_equal_content_has_equal_digests_and_other_content_others(name):
    items = [ITEMS[name](x) for x in (1.0, 2.0, 1.0)]
    one, other, same = map(digest_of, items)
    assert one == same != other and 0 not in (one, other)
    # Many together, stacked or as their batch, are told as each alone.
    assert digests_of(items).tolist() == [one, other, same]
    if name != "picture":
        assert digests_of(items, default_collate(items)).tolist() == [one, other, same]


def test_items_of_several_lengths_are_told_as_those_of_one():
    ragged = [(torch.arange(length), 0) for length in (2, 3, 2, 2)]
    assert digests_of(ragged).tolist() == [digest_of(item) for item in ragged] and len({*digests_of(ragged)}) == 2
    assert digests_of(ragged[2:]).tolist() == [digest_of(ragged[0])] * 2
    large = [(torch.full((5000,), float(x)), 0) for x in range(3)]
    assert digests_of(large).tolist() == [digest_of(item) for item in large]


@pytest.mark.parametrize("thing", [object(), np.array([object()]), {1, 2}], ids=["an object", "an array of objects", "a set"])
def test_what_cannot_be_told_is_told_so(thing):
    with pytest.raises(TypeError, match="has no content that can be told"):
        digest_of((torch.zeros(3), thing))


def test_what_is_no_content():
    assert digest_of((3, torch.tensor(1), None, np.int8(2))) == 0
    # A place in the dataset that an item tells is none: a stand-in may have it or not.
    x = torch.zeros(3)
    assert digest_of((x, 1, 5)) == digest_of((x, 1, 6)) != 0
    assert digest_of(("ab", "c")) != digest_of(("a", "bc"))
