"""Learners trained on many coalitions side by side, or along growing ones, against one training after the other."""

import pytest
import torch

from assay.learners import catalogue, logistic, parse

SPECS = [
    "knn",
    "knn:k=1",
    "knn:k=40",
    "ridge",
    "net:width=4+steps=20",
    "logistic:tolerance=1e-12",
    "logistic:c=0.01+tolerance=1e-12",
]


def world(kind, n=30, classes=4, seed=0):
    """Rows in general, in whole numbers (equal distances, constant columns), or each twice under different labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    rows = 2 * torch.eye(classes, 5)[labels].double() + torch.randn(n, 5, generator=draw, dtype=torch.float64)
    if kind == "whole numbers":
        rows = rows.round().clamp(min=0)
    if kind == "twice":
        rows[n // 2 :] = rows[: n // 2]
    return rows, labels, rows[torch.randperm(n, generator=draw)[:9]] + (kind == "general") * 0.1


KINDS = ["general", "whole numbers", "twice"]


def alone(spec, rows, labels, weights, seeds, queries):
    return torch.stack(
        [parse(spec).fit(rows, labels, 4, one, seed).predict_probs(queries) for one, seed in zip(weights, seeds, strict=True)]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_side_by_side_is_one_after_the_other(spec, kind):
    rows, labels, queries = world(kind)
    weights = torch.randint(0, 3, (8, 30), generator=torch.Generator().manual_seed(1)).double()
    # Few examples, two classes only, and a coalition of all.
    weights[0], weights[1] = 0, weights[1].where(labels < 2, 0.0)
    weights[0, [int((labels == 0).nonzero()[0]), int((labels == 3).nonzero()[0])]] = 1
    weights[2] = 1
    seeds = list(range(8))
    found = parse(spec).train_many(rows, labels, 4, weights, seeds, queries)
    if found is None:
        assert type(parse(spec)).train_many is type(parse("tree")).train_many
        return
    assert len(found[1]) == 8
    torch.testing.assert_close(found[0], alone(spec, rows, labels, weights, seeds, queries), rtol=1e-7, atol=1e-9)
    assert parse(spec).train_many(rows, labels, 4, weights, seeds, queries[:0])[0].shape == (8, 0, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_growing_is_training_anew(spec, kind):
    rows, labels, queries = world(kind)
    growing = parse(spec).grow(rows, labels, 4, 3, queries)
    if growing is None:
        assert type(parse(spec)).grow is type(parse("tree")).grow
        return
    orders = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    for size in range(30):
        growing.add(orders[:, size])
        weights = torch.zeros(len(orders), 30).scatter_(1, orders[:, : size + 1], 1.0)
        found = growing.predict_probs()
        torch.testing.assert_close(found, alone(spec, rows, labels, weights, [0] * len(weights), queries), rtol=1e-7, atol=1e-9)
        if size == 10:
            # One is left behind.
            kept = torch.tensor([True, False, True])
            growing.keep(kept)
            orders = orders[kept]
    assert not growing.remarks


def test_growing_says_what_did_not_converge_and_parts_change_nothing(monkeypatch):
    rows, labels, queries = world("general")
    hasty, whole = parse("logistic:iterations=1").grow(rows, labels, 4, 3, queries), []
    for cut in (False, True):
        if cut:
            monkeypatch.setattr(logistic, "ROOM", 1)
        growing = parse("logistic").grow(rows, labels, 4, 3, queries)
        for place in range(12):
            places = torch.tensor([place, place + 3, 29 - place])
            growing.add(places)
            if not cut:
                hasty.add(places)
        whole.append(growing.predict_probs())
        growing.keep(torch.zeros(3, dtype=torch.bool))
        assert growing.predict_probs().shape == (0, 9, 4) and not growing.remarks
    torch.testing.assert_close(*whole, rtol=1e-6, atol=1e-8)
    hasty.predict_probs()
    assert hasty.remarks == {"logistic:iterations=1 did not converge within iterations=1": 3}


def test_every_learner_is_tried_here_that_has_a_form_of_its_own():
    plain = catalogue()["tree"]
    own = {name for name, cls in catalogue().items() if cls.grow is not plain.grow or cls.train_many is not plain.train_many}
    assert own <= {parse(spec).name for spec in SPECS}


@pytest.mark.parametrize("unit", [2.0**660, 2.0**-660])
@pytest.mark.parametrize("spec", ["knn", "ridge", "net:width=4+steps=20", "logistic:tolerance=1e-12"])
def test_numbers_whose_squares_are_infinite_or_zero_are_learned_from(spec, unit):
    rows, labels, queries = world("general")
    learner = parse(spec)
    expected = learner.fit(rows, labels, 4).predict_probs(queries)
    torch.testing.assert_close(
        learner.fit(rows * unit, labels, 4).predict_probs(queries * unit), expected, rtol=1e-12, atol=1e-12
    )
    if (growing := learner.grow(rows * unit, labels, 4, 1, queries * unit)) is not None:
        for place in range(len(rows)):
            growing.add(torch.tensor([place]))
        torch.testing.assert_close(growing.predict_probs()[0], expected, rtol=1e-9, atol=1e-12)
