"""Rows that do not follow their items are found at the first batch, in both views; whatever follows them is let through."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from assay.core.errors import UsageError
from assay.integrations.data_spec import DataSpec
from assay.integrations.pytorch import record
from assay.replay import single_examples
from assay.replay.rows import compared, fields_of, moved_in
from assay.runs.recording import Recording
from assay.runs.run import Run

TEXTS = [torch.arange(1, 2 + place * 7 % 9) + 10 * place for place in range(24)]
LABELS = [place * 5 % 7 % 3 for place in range(24)]


class Texts(Dataset):
    """Tokens of unequal lengths with their labels, in whatever shape `item` makes of them."""

    def __init__(self, item=lambda tokens, label: (tokens, label), size=24):
        self.item, self.size = item, size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        return self.item(TEXTS[key], LABELS[key])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(300, 3)

    def forward(self, tokens):
        return self.table(tokens).sum(1)


def padded(items):
    tokens, labels = zip(*items, strict=True)
    return nn.utils.rnn.pad_sequence(list(tokens), batch_first=True), torch.tensor(labels)


def left_padded(items):
    tokens, labels = zip(*items, strict=True)
    return nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_side="left"), torch.tensor(labels)


def by_length(items):
    return padded(sorted(items, key=lambda item: -len(item[0])))


def only_long(items):
    good = [item for item in items if len(item[0]) > 1]
    return padded([*good, *good[: len(items) - len(good)]])


def labels_only(items):
    """The inputs are made of the items in a way that nobody can follow."""
    items = sorted(items, key=lambda item: -len(item[0]))
    return torch.stack([tokens.new_tensor([int(tokens.sum()) % 299]) for tokens, _ in items]), torch.tensor([y for _, y in items])


def trained(folder, dataset, collate, view="train", change=lambda x, y: (x, y), batch=8, **settings):
    torch.manual_seed(3)
    model = Bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(dataset, batch, collate_fn=collate, **settings)
    seen = 0
    forward = (lambda model, batch: (model(next(iter(batch))), [*batch][1])) if view == "eval" else None
    try:
        with record(folder, model, optimizer, loader, Recording(view=view), data=DataSpec(forward=forward)) as recorder:
            for x, y in recorder.epoch():
                seen += 1
                x, y = change(x, y)
                recorder.batch(model(x), y)
    finally:
        trained.batches = seen
    return Run(folder)


@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_that_sorts_is_refused_at_the_first_batch(tmp_path, view, workers):
    with pytest.raises(UsageError, match=r"Epoch 0, batch 0: collate_fn gives other rows .* row 0, of id 0, is the item of id"):
        trained(tmp_path, Texts(), by_length, view, num_workers=workers)
    assert trained.batches == 0


def test_a_clean_pass_is_held_against_its_own_items(tmp_path):
    # Lengths rise, so that batches of two are in order, and the clean pass over all is not.
    clean = Texts()
    with pytest.raises(UsageError, match="Epoch 0, clean pass, batch 0: collate_fn gives other rows"):
        trained(tmp_path, Texts(), lambda items: by_length(items) if len(items) > 8 else padded(items), "eval")
    assert clean.size == 24


def test_two_texts_are_enough(tmp_path):
    with pytest.raises(UsageError, match="row 0, of id 0, is the item of id 1"):
        trained(tmp_path, Texts(size=2), lambda items: padded(items[::-1]), "eval", batch=2)


def test_a_collate_that_drops_and_repeats_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Keep every item and the order in collate_fn"):
        trained(tmp_path, Texts(), only_long)


def test_labels_alone_tell_where_inputs_cannot_be_followed(tmp_path):
    with pytest.raises(UsageError, match="collate_fn gives other rows"):
        trained(tmp_path, Texts(), labels_only)


@pytest.mark.parametrize("view", ["train", "eval"])
def test_a_loop_that_sorts_its_batch_or_mixes_its_labels_is_refused(tmp_path, view):
    def turned(x, y):
        order = torch.arange(len(y)).roll(1)
        return x[order], y[order]

    with pytest.raises(
        UsageError, match=r"batch [01]: the labels given to recorder.batch are those of the batch's items in another order"
    ):
        trained(tmp_path, Texts(), padded, view, turned)


class Batch:
    def __init__(self, items):
        self.tokens, self.labels = padded(items)

    def __iter__(self):
        return iter((self.tokens, self.labels))


FOLLOWED = {
    "padded": (Texts(), padded, None),
    "padded on the left": (Texts(), left_padded, None),
    "its own class": (Texts(), Batch, None),
    "lists and numbers": (Texts(lambda tokens, label: (tokens.tolist(), np.int64(label))), None, None),
    "classes named anew": (Texts(), lambda items: padded([(x, 2 - y) for x, y in items]), None),
    "classes named anew in the loop": (Texts(), padded, lambda x, y: (x, 2 - y)),
    "noise by item": (Texts(), padded, lambda x, y: (x, (y + x[:, 0] % 2) % 3)),
    "noise in the collate": (Texts(), lambda items: (padded(items)[0] + 0 * torch.rand(1).long(), padded(items)[1]), None),
    "an item of texts": (
        Texts(lambda tokens, label: {"text": " ".join(map(str, tokens.tolist())), "class": f"c{label}"}),
        "texts",
        None,
    ),
}


def from_texts(items):
    rows = [([int(word) for word in item["text"].split()], int(item["class"][1:])) for item in items]
    return padded([(torch.tensor(tokens), label) for tokens, label in rows])


def from_lists(items):
    return padded([(torch.tensor(tokens), int(label)) for tokens, label in items])


@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_follows_its_items_is_recorded(tmp_path, name, view):
    dataset, collate, change = FOLLOWED[name]
    collate = {None: from_lists, "texts": from_texts}.get(collate, collate)
    change = change or (lambda x, y: (x, y))
    assert trained(tmp_path, dataset, collate, view, change, shuffle=True).epochs == 1


def test_looking_draws_nothing_and_calls_nothing_twice(tmp_path, monkeypatch):
    # What looks at single examples, once, is held to leave no trace elsewhere.
    monkeypatch.setattr(single_examples.Watcher, "begin", lambda *_: None)
    calls = []

    def drawing(items):
        calls.append(len(items))
        x, y = padded(items)
        return x + 0 * torch.randint(9, (1,)), y

    torch.manual_seed(5)
    for _ in DataLoader(Texts(), 8, collate_fn=drawing, shuffle=True):
        pass
    after, plain = torch.get_rng_state(), calls[:]
    calls.clear()
    model = Bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path, model, optimizer, DataLoader(Texts(), 8, collate_fn=drawing, shuffle=True)) as recorder:
        torch.manual_seed(5)
        for x, y in recorder.epoch():
            recorder.batch(model(x), y)
    assert calls == plain and torch.equal(torch.get_rng_state(), after)


def test_a_collate_may_take_its_items_apart(tmp_path):
    def popping(items):
        labels = torch.tensor([item.pop("label") for item in items])
        return nn.utils.rnn.pad_sequence([item["tokens"] for item in items], batch_first=True), labels

    dataset = Texts(lambda tokens, label: {"tokens": tokens, "label": label})
    assert trained(tmp_path, dataset, popping).epochs == 1


def test_items_that_cannot_be_looked_at_are_let_through(tmp_path):
    class Odd:
        @property
        def __dict__(self):
            raise OSError("closed")

        def __init__(self, tokens, label):
            object.__setattr__(self, "_parts", (tokens, label))

        __slots__ = ("_parts",)

    dataset = Texts(lambda tokens, label: Odd(tokens, label))
    assert trained(tmp_path, dataset, lambda items: padded([item._parts for item in items])).epochs == 1


def test_findings():
    def found(items, batch):
        return compared([fields_of(item) for item in items], batch)["follows"]

    numbers = [(float(place), place % 2) for place in range(6)]
    assert found(numbers, [torch.arange(6.0), torch.arange(6) % 2]) is True
    assert found(numbers, torch.arange(6).flip(0) % 2) is None, "equal numbers became equal numbers"
    assert found(numbers, torch.tensor([0, 0, 0, 1, 1, 1])) is False
    assert found(numbers, torch.zeros(6)) is None and found(numbers, "nothing") is None and found([], []) is None
    assert found([(torch.ones(2), 0), (torch.ones(2), 0)], [torch.ones(2, 2), torch.zeros(2)]) is None, "all are alike"


@pytest.mark.parametrize(
    ("labels", "moved"),
    [([0, 1, 2, 0], False), ([1, 0, 0, 2], True), ([1, 2, 0, 1], None), ([3, 4, 5, 3], None), ([0, 1], None)],
    ids=str,
)
def test_labels_that_moved(labels, moved):
    assert moved_in({("label",): [0, 1, 2, 0], ("constant",): [1, 1, 1, 1]}, labels) is moved
