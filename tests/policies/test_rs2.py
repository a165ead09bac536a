import numpy as np
import pytest
import torch

import assay
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.policies import parse_live
from assay.policies.rs2 import RS2
from experiments.small import recorded

VARIANTS = [{}, {"keep": 29, "replacement": True}]
"""Options that the laws run it with."""

REFUSED = ["keep=0", "keep=0.0", "keep=-0.1", "keep=1.5", "keep=-3", "keep=nan"]
"""Options that are refused."""


def epochs_of(selector, ids, epochs, seed=0):
    return [selector.select_epoch(selector.start(len(ids)), ids, epoch, epochs, seed) for epoch in range(epochs)]


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("keep", "count"), [(0.3, 3), (4, 4), (1.0, 10), (10, 10), (1, 1), (0.15, 1)])
def test_every_epoch_has_the_same_number_of_examples_of_weight_1(keep, count, replacement):
    for choice in epochs_of(RS2(keep, replacement), Ids(range(10)), 9):
        assert int(choice.kept.sum()) == count and set(choice.weights.tolist()) == {1.0}


@pytest.mark.parametrize(("n", "budget"), [(12, 4), (10, 4), (10, 3), (7, 6), (5, 5)])
def test_without_replacement_all_are_trained_on_before_any_pass_begins_again(n, budget):
    """By the definition: a pass is one order in parts; each example is in one part, those that fill the last part in two."""
    parts = -(-n // budget)
    choices = epochs_of(RS2(budget), Ids(range(n)), 3 * parts)
    for first in range(0, 3 * parts, parts):
        times = torch.stack([choice.kept for choice in choices[first : first + parts]]).sum(0)
        assert int(times.min()) == 1 and int((times == 2).sum()) == parts * budget - n and int(times.max()) <= 2
    if parts > 1:
        assert not torch.equal(choices[0].kept, choices[parts].kept)


def test_with_replacement_epochs_are_independent_and_uniform():
    """Over many epochs each example is in half of them, and each pair of neighbouring epochs shares as many examples as chance says, within 5 standard errors."""
    ids, epochs = Ids(range(20)), 1200
    kept = torch.stack([choice.kept for choice in epochs_of(RS2(0.5, replacement=True), ids, epochs)]).double()
    assert float((kept.mean(0) - 0.5).abs().max()) < 5 * 0.5 / epochs**0.5
    shared = (kept[1:] * kept[:-1]).sum(1)
    # Hypergeometric: 10 of 20 drawn twice share 5 on average, with a variance of 25/19.
    assert abs(float(shared.mean()) - 5) < 5 * (25 / 19 / (epochs - 1)) ** 0.5
    without = torch.stack([choice.kept for choice in epochs_of(RS2(0.5), ids, 40)]).double()
    assert float((without[1::2] * without[::2]).sum()) == 0


def test_passes_are_uniform_over_seeds():
    ids = Ids(range(10))
    kept = torch.stack([RS2(0.3).select_epoch({}, ids, 1, 9, seed).kept for seed in range(1000)]).double()
    assert float((kept.mean(0) - 0.3).abs().max()) < 5 * (0.21 / 1000) ** 0.5


def test_a_budget_of_no_example_is_refused_before_the_first_epoch():
    with pytest.raises(UsageError, match=r"keep=0\.01 of 50 examples is none; give keep=1 or more"):
        RS2(0.01).start(50)
    with pytest.raises(UsageError, match=r"keep=60 is outside 0\.\.50"):
        RS2(60).start(50)
    assert parse_live("rs2:keep=20").title == "rs2:keep=20" and RS2(1).start(50) == {}


@pytest.mark.parametrize("replacement", [False, True])
def test_a_planned_training_trains_on_what_it_says(tmp_path, replacement):
    title = "rs2:keep=0.3" + ",replacement=true" * replacement
    run = recorded(
        tmp_path / "run",
        net="mlp:widths=8",
        plant=None,
        subset=0.1,
        select=title,
        recipe={"epochs": 5, "batch": 16, "lr": 0.1},
        record={"checkpoints": "last"},
    )
    want = epochs_of(parse_live(title), run.ids, 5, seed=run.header.seed)
    for epoch, choice in enumerate(want):
        assert torch.equal(run.visits_in(epoch), choice.kept.to(torch.int64))
    assert run.header.partial


def test_a_loop_of_your_own_trains_on_what_it_says(tmp_path):
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(30, 3, generator=draw), torch.arange(30) % 3
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=7, shuffle=True)
    seen = []
    with assay.record(
        tmp_path / "run", model, optimizer, loader, seed=4,
        recording=assay.Recording(view="eval"), select=assay.LiveSelection("rs2:keep=0.4", epochs=4),
    ) as recorder:  # fmt: skip
        for _ in range(4):
            here = 0
            for rows, targets in recorder.epoch():
                losses = torch.nn.functional.cross_entropy(model(rows), targets, reduction="none")
                optimizer.zero_grad()
                recorder.weighted(losses).mean().backward()
                optimizer.step()
                here += len(rows)
            seen.append(here)
    assert seen == [12] * 4
    run = assay.Run(tmp_path / "run")
    want = epochs_of(RS2(0.4), run.ids, 4, seed=4)
    assert all(torch.equal(run.visits_in(epoch), choice.kept.to(torch.int64)) for epoch, choice in enumerate(want))
    assert np.isfinite(assay.score(run, "aum")["aum"].values.numpy()).all()
