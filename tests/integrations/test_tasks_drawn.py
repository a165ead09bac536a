"""Tasks other than classes together with epochs as they are drawn, and losses that nobody named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import assay
from assay.core.errors import MissingEvidence, UsageError
from assay.runs.run import Run

EXAMPLES = 12
DRAW = torch.Generator().manual_seed(0)
INPUTS = torch.randn(EXAMPLES, 4, generator=DRAW, dtype=torch.float64)
SEVERAL = (torch.rand(EXAMPLES, 3, generator=DRAW) > 0.5).double()
NUMBERS = torch.randn(EXAMPLES, 3, generator=DRAW, dtype=torch.float64)
CLASSES = torch.arange(EXAMPLES) % 3


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def binary(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none").mean(1)


def weighted():
    return WeightedRandomSampler([1.0] * 4 + [0.2] * 8, 10, generator=torch.Generator().manual_seed(0))


def fit(folder, labels, losses, spec, live=(), logits=False, outputs=3, sampler=None, view="train"):
    """The run, the scores of the live methods, and what is needed for a loop."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Linear(4, outputs).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    loader = DataLoader(TensorDataset(INPUTS, labels), 5, sampler=sampler)
    with assay.record(folder, model, optimizer, loader, assay.Recording(live=live, view=view), data=spec) as recorder:
        held = [recorder.live(method) for method in live]
        for _ in range(3):
            for batch in recorder.epoch():
                values = losses(model, batch)
                if logits:
                    recorder.batch(model(batch[0]), batch[1])
                else:
                    recorder.losses(values)
                optimizer.zero_grad()
                values.mean().backward()
                optimizer.step()
        scores = [one.scores() for one in held]
    return Run(folder), scores, (model, optimizer, loader)


def cross(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize("sampler", [weighted, lambda: None], ids=["weighted", "all"])
def test_a_run_of_losses_whose_dataset_has_classes_can_be_opened(tmp_path, sampler):
    run, _, _ = fit(tmp_path, CLASSES, cross, assay.DataSpec(visits="any"), sampler=sampler())
    assert run.task == "losses" and run.labels.tolist() == [-1] * EXAMPLES
    (scores,) = assay.score(run, "loss").values()
    assert len(scores.ids) == int((run.visits() > 0).sum())


def test_losses_of_numbers_are_recorded_as_they_are_drawn(tmp_path):
    with pytest.raises(UsageError, match=r"or task='losses', if your loop calls recorder\.losses"):
        fit(tmp_path / "unsaid", NUMBERS, squared, assay.DataSpec(visits="any"), sampler=weighted())
    with pytest.raises(UsageError, match="labels= names classes, and task='losses' records none; leave it out"):
        fit(tmp_path / "both", NUMBERS, squared, assay.DataSpec(visits="any", task="losses", labels=CLASSES), sampler=weighted())
    run, _, _ = fit(tmp_path / "run", NUMBERS, squared, assay.DataSpec(visits="any", task="losses"), sampler=weighted())
    assert run.task == "losses" and 0 in run.visits_in(0).tolist()


def test_several_labels_are_recorded_as_they_are_drawn(tmp_path):
    spec = {"visits": "any", "task": "labels"}
    run, _, _ = fit(tmp_path / "dataset", SEVERAL, binary, assay.DataSpec(**spec), logits=True, sampler=weighted())
    assert 0 in run.visits_in(0).tolist() and torch.equal(run.label_matrix(), SEVERAL.to(torch.int64))
    visits, each = (
        torch.stack([run.visits_in(epoch) for epoch in range(3)]) > 0,
        torch.stack([run.shard(epoch).read("losses") for epoch in range(3)]),
    )
    met = visits.any(0)
    assert not bool(met.all())
    (loss,) = assay.score(run, "loss").values()
    assert list(loss.ids) == run.ids.take(met).values.tolist() and list(loss.unscored) == run.ids.take(~met).values.tolist()
    means = torch.where(visits[..., None], each.double(), 0.0).sum(0) / visits.sum(0)[:, None]
    torch.testing.assert_close(loss.values, means[met].mean(1))
    given = assay.DataSpec(**spec, labels=1 - SEVERAL)
    with pytest.raises(UsageError, match="are not those of before"):
        fit(tmp_path / "others", SEVERAL, binary, given, logits=True, sampler=weighted())
    with pytest.raises(UsageError, match="labels= is not a row of labels 0 or 1"):
        fit(tmp_path / "classes", SEVERAL, binary, assay.DataSpec(**spec, labels=CLASSES), logits=True, sampler=weighted())


def one_logit(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1].reshape(-1).double(), reduction="none")


@pytest.mark.parametrize("labels", [SEVERAL[:, 0], SEVERAL[:, :1], SEVERAL[:, 0] > 0], ids=["float", "column", "bool"])
def test_binary_labels_of_any_type_are_known_beforehand(tmp_path, labels):
    run, _, _ = fit(tmp_path, labels, one_logit, assay.DataSpec(visits="any"), logits=True, outputs=1, sampler=weighted())
    assert run.labels.tolist() == labels.reshape(-1).long().tolist()


@pytest.mark.parametrize("view", ["train", "eval"])
def test_live_values_take_no_cross_entropy_where_there_are_no_classes(tmp_path, view):
    for name, labels, losses, logits in (("labels", SEVERAL, binary, True), ("losses", NUMBERS, squared, False)):
        if view == "eval" and name == "losses":
            continue
        with (
            pytest.warns(UserWarning, match="nobody said what the loss of an example is"),
            pytest.raises(MissingEvidence, match=r"give data=assay\.DataSpec\(losses=\.\.\.\)"),
        ):
            fit(tmp_path / name, labels, losses, assay.DataSpec(task=name), live=("liveval",), logits=logits, view=view)
        spec = assay.DataSpec(task=name, losses=losses)
        _, (scores,), _ = fit(tmp_path / f"{name} said", labels, losses, spec, live=("liveval",), logits=logits, view=view)
        assert bool((scores.values != 0).all())


def test_models_are_read_by_no_cross_entropy_of_several_labels(tmp_path):
    run, _, parts = fit(tmp_path, SEVERAL, binary, assay.DataSpec(task="labels"), logits=True)
    with pytest.raises(UsageError, match=r"recorded several labels for each example, .* give assay\.Loop\(\.\.\., losses="):
        assay.score(run, "grand", loop=assay.Loop(*parts, forward=lambda model, batch: (model(batch[0]), batch[1])))
    (grand,) = assay.score(run, "grand", loop=assay.Loop(*parts, losses=binary)).values()
    assert bool((grand.values > 0).all())


def test_numbers_are_no_soft_labels(tmp_path):
    run, _, parts = fit(tmp_path / "numbers", NUMBERS, squared, assay.DataSpec(), sampler=None)
    forward = lambda model, batch: (model(batch[0]), batch[1])  # noqa: E731
    with pytest.raises(UsageError, match="are no classes and no probabilities of classes"):
        assay.score(run, "grand", loop=assay.Loop(*parts, forward=forward))
    run, _, parts = fit(tmp_path / "soft", NUMBERS.softmax(1), cross, assay.DataSpec())
    (one,) = assay.score(run, "grand", loop=assay.Loop(*parts, forward=forward)).values()
    (other,) = assay.score(run, "grand", loop=assay.Loop(*parts, losses=cross), save="recompute").values()
    torch.testing.assert_close(one.values, other.values)
