"""A clean pass of a model that looks across the batch in eval mode too says so, and no other says it."""

import copy
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.integrations import loop_recorder

ACROSS = r"run: the model looks across the batch also in eval mode: a value of id \d+ is .* in a batch of 26 examples and .* beside others"


def net(*between):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), *between, nn.ReLU(), nn.Linear(8, 3))


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        logits = self.net(x)
        return logits - logits.mean(0)


class Drawn(Centred):
    def forward(self, x):
        return F.dropout(self.net(x))


class Counting(Centred):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.net(x) + self.calls


class Half(Centred):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


class Bags(nn.Module):
    """Takes all words of a batch in one row, and where each example begins."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 3)

    def forward(self, starts, words):
        return self.bag(words, starts)


def inputs(dtype=torch.float32):
    return torch.randn(26, 4, generator=torch.Generator().manual_seed(1)).to(dtype), torch.arange(26) % 3


def said(folder, model, *, epochs=2, loader=None, loss=None, **data):
    dtype = next(model.parameters()).dtype
    loader = loader or DataLoader(TensorDataset(*inputs(dtype)), 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = assay.record(
            folder, model, optimizer, loader, assay.Recording(view="eval", keep_logits=not data), data=assay.DataSpec(**data)
        )
        with made as recorder:
            for _ in range(epochs):
                for batch in recorder.epoch():
                    optimizer.zero_grad()
                    (loss or F.cross_entropy)(model(*batch[:-1]), batch[-1]).backward()
                    optimizer.step()
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("model", [Centred(), net(nn.BatchNorm1d(8, track_running_stats=False))])
def test_a_model_whose_clean_pass_is_not_of_each_example_is_told_once(tmp_path, model):
    (one,) = said(tmp_path / "run", model)
    assert re.search(ACROSS, one)


def test_losses_across_the_batch_are_told(tmp_path):
    def losses(model, batch):
        values = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return values - values.mean()

    (one,) = said(tmp_path / "run", net(), task="losses", losses=losses)
    assert "looks across the batch also in eval mode" in one


@pytest.mark.parametrize(
    "model",
    [
        net(nn.BatchNorm1d(8), nn.Dropout(0.5)),
        net(nn.LayerNorm(8)).bfloat16(),
        Half(),
        Drawn(),
        Counting(),
        torch.compile(net(), backend="eager"),
    ],
)
def test_no_other_model_is(tmp_path, model):
    assert said(tmp_path / "run", model) == []


def test_a_batch_that_cannot_be_taken_apart_is_not_judged(tmp_path):
    labels = torch.arange(12) % 3

    def together(rows):
        words = torch.cat([row[0] for row in rows])
        starts = torch.tensor([0, *(len(row[0]) for row in rows[:-1])]).cumsum(0)
        return starts, words, torch.stack([row[1] for row in rows])

    items = [(torch.arange(place, place + 1 + place % 4) % 9, labels[place]) for place in range(12)]
    loader = DataLoader(items, 4, collate_fn=together)
    forward = {"forward": lambda model, batch: (model(*batch[:2]), batch[2])}
    assert said(tmp_path / "run", Bags(), loader=loader, **forward) == []


def test_saved_models_are_looked_at_too(tmp_path):
    model = Centred()
    with pytest.warns(UserWarning, match=ACROSS):
        assay.from_checkpoints(
            tmp_path / "run", model, DataLoader(TensorDataset(*inputs()), 7), [copy.deepcopy(model.state_dict())]
        )


@pytest.mark.parametrize("kind", [Centred, Drawn, Counting])
def test_looking_changes_no_fact(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(loop_recorder, "CLEAN", 8)
    torch.manual_seed(0)
    said(tmp_path / "looked", kind())
    monkeypatch.setattr(loop_recorder, "beside_others", lambda batch, size: None)
    torch.manual_seed(0)
    assert said(tmp_path / "not", kind()) == []
    sums = [[commit.shard.sums for commit in assay.Run(tmp_path / name).commits] for name in ("looked", "not")]
    assert sums[0] == sums[1]
