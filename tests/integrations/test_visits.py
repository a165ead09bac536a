"""Epochs as they are drawn: with replacement, by weights, in part; and loaders whose batches hold the ids themselves."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

import assay
from assay.cli.app import run_app
from assay.core.errors import MissingEvidence, UsageError
from assay.experiments.trials import redrawn
from assay.maths.observations import observe
from assay.runs.artefacts import load_decision
from assay.runs.run import Run

EXAMPLES = 12


def data():
    inputs = torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TensorDataset(inputs, torch.arange(EXAMPLES) % 3)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Linear(4, 3).double()


def fit(recorder, model, optimizer, epochs=3, parts=lambda batch: batch):
    """What the model said at each visit, by epoch: (position by its inputs, logits)."""
    said, known = [], data().tensors[0]
    for _ in range(epochs):
        said.append([])
        for batch in recorder.epoch():
            x, y = parts(batch)
            logits = model(x)
            said[-1] += [(int((known == row).all(1).nonzero()), out) for row, out in zip(x, logits.detach(), strict=True)]
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    return said


def recorded(folder, loader, epochs=3, seed=None, recording=None, **spec):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    given = assay.DataSpec(visits="any", **spec)
    with assay.record(folder, model, optimizer, loader, recording, data=given, seed=seed) as recorder:
        said = fit(recorder, model, optimizer, epochs)
    return Run(folder), said, assay.Loop(model, optimizer, loader)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


LOADERS = {
    "weighted": lambda: DataLoader(data(), 5, sampler=WeightedRandomSampler([1.0] * 4 + [0.2] * 8, 10, generator=drawn())),
    "replacement": lambda: DataLoader(data(), 4, sampler=RandomSampler(data(), replacement=True, generator=drawn(1))),
    "fewer": lambda: DataLoader(data(), 3, sampler=RandomSampler(data(), num_samples=7, generator=drawn(2))),
    "drop_last": lambda: DataLoader(data(), 5, shuffle=True, drop_last=True, generator=drawn(3)),
    "all": lambda: DataLoader(data(), 5, shuffle=True, generator=drawn(4)),
}


@pytest.mark.parametrize(
    ("name", "seed"), [("weighted", 3), ("replacement", None), ("fewer", 3), ("drop_last", None), ("all", None)]
)
def test_an_epoch_is_recorded_as_it_was_drawn(tmp_path, name, seed):
    run, said, loop = recorded(tmp_path, LOADERS[name](), seed=seed)
    labels = data().tensors[1]
    assert run.labels.tolist() == labels.tolist()
    total = torch.zeros(EXAMPLES, dtype=torch.float64)
    epochs = torch.zeros(EXAMPLES)
    for epoch, visits in enumerate(said):
        places = [place for place, _ in visits]
        assert run.visits_in(epoch).tolist() == [places.count(place) for place in range(EXAMPLES)]
        last = dict(visits)
        margins = run.shard(epoch).read("margins")
        for place in range(EXAMPLES):
            if place not in last:
                assert margins[place].isnan()
                continue
            want = observe(last[place][None].float(), labels[place : place + 1])["margins"][0]
            assert margins[place] == want
            total[place] += float(want)
            epochs[place] += 1
    (aum,) = assay.score(run, "aum").values()
    assert len(aum.unscored) == int((epochs == 0).sum())
    torch.testing.assert_close(aum.values, (total / epochs)[epochs > 0].to(torch.float64), rtol=1e-6, atol=1e-7)
    assert assay.report(run, assay.score(run, ["aum", "confidence"]), tmp_path / "page.html").exists()
    # Methods that read steps or kept models mean what they say, whoever was drawn.
    held = {"validation": (torch.randn(4, 4, dtype=torch.float64, generator=drawn(9)), torch.arange(4) % 3)}
    influence = assay.score(run, "sgd_influence", targets=held, loop=loop)["sgd_influence"]
    assert len(influence) == int((epochs > 0).sum())
    if bool((epochs < 3).any()):
        with pytest.raises(MissingEvidence, match="forgetting reads epochs that did not train on every example"):
            assay.score(run, "forgetting")


def test_examples_that_no_epoch_drew_are_left_as_they_are_where_that_is_asked_for(tmp_path, capsys):
    run, _, _ = recorded(tmp_path / "run", LOADERS["fewer"](), epochs=1)
    aum = assay.score(run, "aum", save=True)["aum"]
    assert len(aum) == 7
    with pytest.raises(UsageError, match=r"aum has no value for 5 examples .*unscored='keep' \(`--unscored keep`\)"):
        assay.choose(aum, "remove_worst", count=2)
    with pytest.warns(UserWarning, match=r"5 of 12 examples have no value of aum .* stay as they are"):
        made = assay.choose(aum, "remove_worst", count=2, unscored="keep")
    assert made.ids == run.ids and made.budget == 10
    assert set(made.ids.take(~made.kept)) == {
        name for name, _ in sorted(zip(aum.ids, aum.values.tolist(), strict=True), key=lambda one: one[1])[:2]
    }
    asked = ["choose", str(run.folder), "aum", "--policy", "remove_worst", "--count", "2", "--name", "two"]
    assert run_app(asked) == 2 and "--unscored keep" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="stay as they are"):
        assert run_app([*asked, "--unscored", "keep"]) == 0
    assert load_decision(run.paths.decision("two")).fingerprint == made.fingerprint
    # What is drawn at random is drawn anew with the others left as they are, too.
    with pytest.warns(UserWarning, match="stay as they are"):
        by_chance = assay.choose(aum, "random:keep=0.5", seed=1, unscored="keep")
    again = redrawn(by_chance, run, [aum])
    assert again is not None and all(bool(again(seed).kept[run.ids.positions(aum.unscored)].all()) for seed in range(3))
    # What nobody knows of them is not read.
    with pytest.warns(UserWarning, match="stay as they are"):
        relabelled = assay.choose(aum, "relabel", count=2, unscored="keep")
    touched = relabelled.labels >= 0
    assert int(touched.sum()) == 2 and not bool(touched[run.ids.positions(aum.unscored)].any())
    with pytest.raises(MissingEvidence, match="no mean probabilities of 5 examples"):
        run.mean_probs()


def test_influence_of_drawn_epochs_is_the_derivative_of_their_steps(tmp_path):
    run, _, loop = recorded(tmp_path, LOADERS["replacement"](), epochs=2)
    (inputs, labels), start = data().tensors, net()
    held = torch.randn(5, 4, dtype=torch.float64, generator=drawn(7)), torch.arange(5) % 3
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    params = [value.detach().clone().requires_grad_() for value in start.parameters()]
    for epoch in range(2):
        for batch in run.order(epoch):
            losses = F.cross_entropy(F.linear(inputs[batch], *params), labels[batch], reduction="none")
            grads = torch.autograd.grad((weights[batch] * losses).mean(), params, create_graph=True)
            params = [value - 0.3 * g for value, g in zip(params, grads, strict=True)]
    want = -torch.autograd.grad(F.cross_entropy(F.linear(held[0], *params), held[1]), weights)[0]
    (scores,) = assay.score(run, "sgd_influence", targets={"validation": held}, loop=loop).values()
    torch.testing.assert_close(scores.values, want[run.visits() > 0], rtol=1e-9, atol=1e-12)


class Bare(torch.utils.data.Dataset):
    """Tells nobody its labels."""

    def __init__(self, **given):
        self.inner = data()
        vars(self).update(given)

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, at):
        return self.inner[at]


def test_labels_of_what_the_first_epoch_leaves_out_are_asked_for_or_found(tmp_path):
    def loader(dataset):
        return DataLoader(dataset, 4, sampler=RandomSampler(dataset, num_samples=8, generator=drawn()))

    with pytest.raises(UsageError, match=r"labels of those that the first epoch leaves out are not known; give .*labels=\.\.\."):
        recorded(tmp_path / "none", loader(Bare()))
    assert not (tmp_path / "none").exists()
    labels = data().tensors[1]
    for name, dataset, spec in (
        ("given", Bare(), {"labels": labels.tolist()}),
        ("targets", Bare(targets=labels.tolist()), {}),
        ("subset", Subset(Bare(targets=labels), range(EXAMPLES)), {}),
    ):
        run, _, _ = recorded(tmp_path / name, loader(dataset), **spec)
        assert run.labels.tolist() == labels.tolist()
    with pytest.raises(
        UsageError, match=r"labels known beforehand must be those that the loop gives, as data=assay\.DataSpec\(labels="
    ):
        recorded(tmp_path / "others", loader(Bare()), labels=labels.flip(0))
    with pytest.raises(UsageError, match="labels= is not one class, a whole number, for each example"):
        recorded(tmp_path / "short", loader(Bare()), labels=labels[:3])


def test_resuming_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, _, _ = recorded(tmp_path / "whole", LOADERS["weighted"](), epochs=3, seed=1)
    recorded(tmp_path / "run", LOADERS["weighted"](), epochs=1, seed=1)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    spec = assay.DataSpec(visits="any")
    with assay.record(tmp_path / "run", model, optimizer, LOADERS["weighted"](), data=spec, seed=1, resume=True) as recorder:
        fit(recorder, model, optimizer, 2)
    run = Run(tmp_path / "run")
    assert [one.shard.sums for one in run.commits] == [one.shard.sums for one in whole.commits]


@pytest.mark.parametrize(
    ("spec", "recording", "words"),
    [
        ({"visits": "any"}, {"view": "eval"}, "view='eval' looks at every example after each epoch"),
        ({"labels": [0] * EXAMPLES}, {}, "labels= is read with visits='any' only"),
        ({"id_field": "id"}, {}, r"give all of them as data=assay\.DataSpec\(ids=\.\.\., id_field=\.\.\.\)"),
        ({"id_field": "id", "ids": range(EXAMPLES)}, {"view": "eval"}, "leave id_field= out, with a map-style dataset"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_anything_is_written(tmp_path, spec, recording, words):
    model = net()
    with pytest.raises(UsageError, match=words):
        assay.record(
            tmp_path / "run",
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            DataLoader(data(), 4),
            assay.Recording(**recording),
            data=assay.DataSpec(**spec),
        )
    assert not (tmp_path / "run").exists()


def test_visits_of_another_kind_are_refused():
    with pytest.raises(UsageError, match="visits='many' is neither 'each'"):
        assay.DataSpec(visits="many")


# ---------------------------------------------------------------------- ids in the batches

NAMES = [f"row {place}" for place in range(EXAMPLES)]


class Stream(IterableDataset):
    """Gives the examples in another order in each epoch, with their ids."""

    def __init__(self, skips=()):
        self.epoch, self.skips = 0, skips

    def __iter__(self):
        order = torch.randperm(EXAMPLES, generator=drawn(self.epoch)).tolist()
        self.epoch += 1
        for place in order:
            x, y = data()[place]
            if place not in self.skips:
                yield {"id": NAMES[place], "x": x, "y": y}


def streamed(folder, dataset, batch_size=5, **spec):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    loader = DataLoader(dataset, batch_size)
    given = assay.DataSpec(**({"ids": NAMES, "id_field": "id"} | spec))
    with assay.record(folder, model, optimizer, loader, data=given) as recorder:
        said = fit(recorder, model, optimizer, 2, parts=lambda batch: (batch["x"], batch["y"]))
    return Run(folder), said, (model, optimizer, loader)


def test_a_stream_is_recorded_by_the_ids_in_its_batches(tmp_path):
    run, said, parts = streamed(tmp_path / "run", Stream())
    assert list(run.ids) == NAMES and run.labels.tolist() == data().tensors[1].tolist()
    for epoch, visits in enumerate(said):
        assert [place for place, _ in visits] == torch.cat(run.order(epoch)).tolist()
    assert len(assay.score(run, ["aum", "forgetting"])) == 2
    with pytest.raises(UsageError, match="An IterableDataset has no stable ids"):
        assay.Loop(*parts)
    # The same examples by position serve the kept models.
    model, optimizer, _ = parts
    loop = assay.Loop(model, optimizer, DataLoader(data(), 5), ids=NAMES)
    assert list(assay.score(run, "grand", loop=loop)["grand"].ids) == NAMES


def test_a_stream_that_leaves_examples_out_is_refused_or_counted(tmp_path):
    with pytest.raises(UsageError, match="1 of 12 ids were not visited: row 3"):
        streamed(tmp_path / "each", Stream(skips=[3]))
    run, _, _ = streamed(tmp_path / "any", Stream(skips=[3]), visits="any", labels=data().tensors[1])
    assert run.visits()[3] == 0
    (aum,) = assay.score(run, "aum").values()
    assert list(aum.unscored) == ["row 3"]


def test_ids_that_a_batch_does_not_hold_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"Epoch 0, batch 0: .*are none of the 12 ids= that were given"):
        streamed(tmp_path / "others", Stream(), ids=range(EXAMPLES))
    with pytest.raises(UsageError, match=r"'row [0-9]+', .*are none of the 12 ids= that were given"):
        streamed(tmp_path / "types", Stream(), ids=range(EXAMPLES))
    for number, (value, kind) in enumerate([(0.5, "float"), (None, "NoneType"), (b"a", "bytes"), ([3], "list")]):
        batches = [{"id": [value] * 5, **dict(zip("xy", data()[:5], strict=True))}]
        with pytest.raises(
            UsageError, match=f"The part 'id' of a batch holds .*, of type {kind}; ids are texts or whole numbers"
        ):
            streamed(tmp_path / str(number), batches, batch_size=None)
    with pytest.raises(UsageError, match=re.escape("has no 'name', where id_field= says")):
        streamed(tmp_path / "field", Stream(), id_field="name")
    with pytest.raises(UsageError, match=r"An IterableDataset has no stable ids; .*id_field="):
        streamed(tmp_path / "none", Stream(), id_field=None)


def test_the_page_says_that_curves_are_of_the_examples_that_were_drawn(tmp_path):
    run, _, _ = recorded(tmp_path / "run", LOADERS["weighted"](), recording=assay.Recording(checkpoints="none"))
    data = assay.report_data(run, assay.score(run, "loss"))
    assert any("are of the examples that an epoch trained on" in note for note in data.notes)


def test_methods_of_mean_probabilities_are_left_out_where_an_example_has_none(tmp_path):
    run, _, _ = streamed(tmp_path / "any", Stream(skips=[3]), visits="any", labels=data().tensors[1])
    table = assay.score(run, "all")
    assert "aum" in table and "on which no epoch trained: row 3" in table.refused["label_quality"]
    with pytest.raises(MissingEvidence, match="no mean probabilities of 1 example"):
        assay.score(run, "mean_margin")
