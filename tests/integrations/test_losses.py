"""Runs of one loss for each example: what is recorded, what can be scored, and what is refused in which words."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.cli.score import next_step
from assay.core.errors import MissingEvidence, NumericalError, RunError, UsageError
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.replay.losses import cross_entropies
from assay.replay.targets import MeanLoss
from assay.reports.page import render
from assay.runs.recorder import Partial, Recorder
from assay.runs.run import Run

EXAMPLES, BATCH, EPOCHS, RATE = 11, 4, 2, 0.1


def numbers(count, seed):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    return inputs, inputs @ torch.tensor([[1.0, 0.2], [-2.0, 0.5], [0.5, 1.0]], dtype=torch.float64) + 0.3


def squared(model, batch):
    """Of two numbers that are predicted together."""
    return (model(batch[0]) - batch[1]).square().sum(1)


def separate(model, batch):
    """Of two labels that an example may have both."""
    return F.binary_cross_entropy_with_logits(model(batch[0]), (batch[1] > 0).to(batch[1]), reduction="none").mean(1)


LOSSES = {"regression": squared, "several labels": separate}


class World:
    """A net that predicts two numbers, trained in a loop that records its losses."""

    def __init__(self, folder, losses=squared, view="train", task=None, epochs=EPOCHS, live=(), **more):
        self.losses, self.inputs, self.labels = losses, *numbers(EXAMPLES, 0)
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
        self.loader = DataLoader(
            TensorDataset(self.inputs, self.labels), BATCH, shuffle=True, generator=torch.Generator().manual_seed(2)
        )
        self.seen = []
        keep = assay.Recording(view=view, checkpoints="every", live=live)
        with assay.record(
            folder, self.model, self.optimizer, self.loader, keep, data=assay.DataSpec(losses=losses, task=task), **more
        ) as recorder:
            for _ in range(recorder.epochs, epochs):
                own = torch.full((EXAMPLES,), torch.nan, dtype=torch.float64)
                for batch in recorder.epoch():
                    values = losses(self.model, batch)
                    self.optimizer.zero_grad()
                    values.mean().backward()
                    self.optimizer.step()
                    recorder.losses(values)
                    own[self.places(batch[0])] = values.detach()
                self.seen.append(own)
        self.run = Run(folder)

    def places(self, inputs):
        return (inputs[:, None] == self.inputs[None]).all(-1).nonzero()[:, 1]

    def score(self, *methods, target=None, **given):
        loop = assay.Loop(self.model, self.optimizer, self.loader, losses=self.losses)
        targets = {"validation": numbers(5, 7)} if target is None else target
        return assay.score(self.run, list(methods), loop=loop, **({"targets": targets} if targets else {}), **given)

    def trained(self, weights):
        """The parameters at the end, as a function of the weight of each example's loss, in one graph."""
        at = {name: value.clone().requires_grad_() for name, value in self.start.items()}
        for epoch in range(self.run.epochs):
            for positions in self.run.order(epoch):
                losses = self.of(at, (self.inputs[positions], self.labels[positions]))
                loss = (weights[positions] * losses).sum() / len(positions)
                gradients = torch.autograd.grad(loss, [*at.values()], create_graph=True)
                at = {name: value - RATE * g for (name, value), g in zip(at.items(), gradients, strict=True)}
        return at

    def of(self, params, batch):
        return self.losses(lambda inputs: functional_call(self.model, params, (inputs,)), batch)

    def gradients(self, params, batch):
        """The gradient of each example's loss, one example after the other."""
        leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        rows = []
        for row in range(len(batch[0])):
            own = self.of(leaves, tuple(part[row : row + 1] for part in batch)).sum()
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(own, [*leaves.values()])]))
        return torch.stack(rows)


@pytest.fixture(scope="module", params=LOSSES)
def world(request, tmp_path_factory):
    return World(tmp_path_factory.mktemp("losses") / "run", LOSSES[request.param])


def test_what_is_recorded_are_the_losses_as_they_were(world):
    assert world.run.task == "losses" and world.run.holds == {Need.LOSSES} and world.run.classes == 0
    assert bool((world.run.labels == -1).all())
    for epoch, own in enumerate(world.seen):
        assert torch.equal(world.run.shard(epoch).read("losses"), own)
    assert "one loss for each" in repr(world.run) and world.run.check() > 0


def test_all_is_what_losses_allow(world):
    table = assay.score(world.run, "all")
    assert list(table) == ["loss"] and table["loss"].unit == "loss"
    torch.testing.assert_close(table["loss"].values, torch.stack(world.seen).mean(0))
    with pytest.raises(
        MissingEvidence, match=r"aum reads margins, .* one loss for each example\. Methods that work: grand, .*loss.*tracin"
    ):
        assay.score(world.run, "aum")
    assert set(table.refused) >= {"aum", "dual", "vog", "cg_score"}
    with pytest.raises(
        MissingEvidence, match=r"vog:by_class=False differentiates the logit of each example's class.*choose grand"
    ):
        world.score("vog:by_class=False", target={})
    assert all("one loss for each" in why for title, why in table.refused.items() if title in ("aum", "dual", "tdds", "el2n"))


def test_gradients_are_those_of_the_losses(world):
    kept = [world.run.model(epoch) for epoch in range(EPOCHS)]
    rows = [world.gradients(params, (world.inputs, world.labels)) for params in kept]
    held = [world.gradients(params, numbers(5, 7)) for params in kept]
    table = world.score("tracin", "grand", "trak:output=loss,projection=dense,project=100,damping=1")
    tracin = sum(RATE * own @ other.mean(0) for own, other in zip(rows, held, strict=True))
    torch.testing.assert_close(table["tracin"].values, tracin)
    assert table["grand"].unit.startswith("loss")
    pairs = world.score("tracin:reduce=max")["tracin:reduce=max"].values
    torch.testing.assert_close(pairs, sum(RATE * own @ other.T for own, other in zip(rows, held, strict=True)).amax(1))


def test_sgd_influence_is_the_derivative_of_training(world):
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    inputs, labels = numbers(5, 7)
    (slopes,) = torch.autograd.grad(world.of(world.trained(weights), (inputs, labels)).mean(), [weights])
    found = world.score("sgd_influence")["sgd_influence"]
    # Left out, the loss of the target changes by the opposite of what its weight adds.
    torch.testing.assert_close(found.values, -slopes, atol=1e-9, rtol=1e-7)
    by_function = world.score("sgd_influence", target={"validation": lambda net: world.losses(net, (inputs, labels)).mean()})
    torch.testing.assert_close(by_function["sgd_influence"].values, found.values)


def test_loo_is_training_without(world):
    target = numbers(5, 7)
    ones = torch.ones(EXAMPLES, dtype=torch.float64)
    whole = float(world.of(world.trained(ones), target).mean().detach())
    expected = []
    for left in range(EXAMPLES):
        weights = ones.clone()
        weights[left] = 0
        expected.append(float(world.of(world.trained(weights), target).mean().detach()) - whole)
    found = world.score("loo")["loo"].values
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-7)


def gauss_newton(world, params):
    """The matrix of the mean loss, from the derivatives of the outputs and the second derivatives of the losses by them, written out."""
    names = [*params]

    def of_one(inputs, labels):
        def outputs(*values):
            return functional_call(world.model, dict(zip(names, values, strict=True)), (inputs,))

        def loss(outputs):
            return world.losses(lambda _: outputs, (inputs, labels)).sum()

        jacobian = torch.cat([part.flatten(2)[0] for part in torch.autograd.functional.jacobian(outputs, (*params.values(),))], 1)
        hessian = torch.autograd.functional.hessian(loss, outputs(*params.values()))
        return jacobian.T @ hessian[0, :, 0] @ jacobian

    return sum(map(of_one, world.inputs.split(1), world.labels.split(1))) / EXAMPLES


@pytest.mark.parametrize("options", ["", "solver=cholesky", "curvature=hessian,solver=cholesky"])
def test_influence_is_by_the_curvature_of_the_losses(world, options):
    params, inputs = world.run.model(EPOCHS - 1), (world.inputs, world.labels)
    (found,) = world.score(f"influence:damping=2,{options}".rstrip(",")).values()
    if "hessian" in options:
        shapes = {name: value.shape for name, value in params.items()}

        def mean(flat):
            parts = flat.split([shape.numel() for shape in shapes.values()])
            return world.of(
                {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}, inputs
            ).mean()

        matrix = torch.autograd.functional.hessian(mean, torch.cat([value.flatten() for value in params.values()]))
    else:
        matrix = gauss_newton(world, params)
    damped = matrix + 2 * torch.eye(len(matrix), dtype=torch.float64)
    pulls = torch.linalg.solve(damped, world.gradients(params, numbers(5, 7)).mean(0))
    torch.testing.assert_close(found.values, world.gradients(params, inputs) @ pulls / EXAMPLES, atol=1e-9, rtol=1e-5)


def test_a_clean_pass_records_the_losses_that_it_is_told_of(tmp_path):
    world = World(tmp_path, view="eval", task="losses", epochs=1)
    inputs = (world.inputs, world.labels)
    assert torch.equal(world.run.shard(0).read("losses"), world.of(world.run.model(0), inputs).detach())
    with pytest.raises(
        UsageError, match=r"view='eval' a clean one; record with data=assay.DataSpec\(task='losses', losses=\.\.\.\)"
    ):
        World(tmp_path / "unsaid", view="eval")
    with pytest.raises(UsageError, match=r"no losses= is given; give data=assay.DataSpec\(task='losses', losses=\.\.\.\)"):
        World(tmp_path / "unknown", cross_entropies, view="eval", task="losses")
    with pytest.raises(UsageError, match="task='regression' is neither 'classes' nor 'labels' nor 'losses'"):
        assay.DataSpec(task="regression")


def test_a_resumed_run_goes_on_with_losses(tmp_path):
    whole = World(tmp_path / "whole", seed=3)
    for epochs in (1, 2):
        again = World(tmp_path / "resumed", seed=3, epochs=epochs, resume=True)
    for epoch in range(EPOCHS):
        assert torch.equal(again.run.shard(epoch).read("losses"), whole.run.shard(epoch).read("losses"))
    assert again.run.task == "losses" and again.run.fingerprint == whole.run.fingerprint


def test_methods_that_read_classes_stop_and_training_goes_on(tmp_path):
    with pytest.warns(
        UserWarning, match="aum stopped .*reads margins, of which this recording has not one number for each example"
    ):
        world = World(tmp_path, live=["loss", "aum", "liveval"])
    assert set(world.run.stopped()) == {"aum"}
    live = assay.score(world.run, ["loss", "liveval"])
    torch.testing.assert_close(live["loss"].values, torch.stack(world.seen).mean(0))
    assert live["loss"].unit == "loss"


def own(folder, losses, partial=None, **recording):
    with Recorder(folder, Ids(range(6)), assay.Recording(**recording), partial=partial) as recorder:
        for values in losses:
            recorder.begin()
            recorder.observe_losses(torch.arange(6)[: len(values)], values)
            recorder.commit()
    return Run(folder)


def test_epochs_may_leave_examples_out(tmp_path):
    run = own(tmp_path, [torch.ones(6), torch.ones(4)], Partial())
    assert run.missing(1).tolist() == [False] * 4 + [True] * 2
    assert run.shard(1).read("losses").isnan().tolist() == [False] * 4 + [True] * 2


MISTAKES = {
    "integers": (torch.ones(6, dtype=torch.int64), {}, "losses are torch.int64 of shape"),
    "a mean": (
        torch.ones(()),
        {},
        r"losses are torch.float32 of shape \(\); give a tensor with one real number for each of the batch's 6",
    ),
    "tokens": (torch.ones(6, 3), {}, r"shape \(6, 3\); .*averaged over what else an example holds"),
    "a list": ([1.0] * 6, {}, "losses are list"),
    "not finite": (torch.tensor([1.0, torch.nan, torch.inf, 1, 1, 1]), {}, "losses of 2 examples are NaN or infinite; ids 1, 2"),
    "logits kept": (
        torch.ones(6),
        {"keep_logits": True},
        "keep_logits=True keeps logits, and losses are recorded here; leave it out",
    ),
    "probabilities kept": (torch.ones(6), {"mean_probs": True}, "mean_probs=True sums up .*leave it out"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_losses_are_refused(tmp_path, mistake):
    losses, settings, words = MISTAKES[mistake]
    with (
        Recorder(tmp_path, Ids(range(6)), assay.Recording(**settings)) as recorder,
        pytest.raises((UsageError, NumericalError), match=f"(?s){words}") as caught,
    ):
        recorder.begin()
        recorder.observe_losses(torch.arange(6), losses)
        recorder.commit()
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="no committed epoch"):
        Run(tmp_path)


def test_a_run_records_logits_or_losses(tmp_path):
    places, logits, labels = torch.arange(6), 2 * torch.eye(3).repeat(2, 1), torch.arange(6) % 3
    with Recorder(tmp_path, Ids(range(6))) as recorder:
        recorder.begin()
        recorder.observe(places, logits, labels)
        with pytest.raises(UsageError, match="recorded logits of classes before, and losses are given now"):
            recorder.observe_losses(places, torch.ones(6))
        # Nothing is committed yet: what comes next decides.
        recorder.begin()
        recorder.observe_losses(places, torch.ones(6))
        with pytest.raises(UsageError, match="recorded losses before, and logits of classes are given now"):
            recorder.observe(places, logits, labels)
        with pytest.raises(
            UsageError, match=r"records no classes, and validation keeps a mean by class; leave recorder.validation out"
        ):
            recorder.validation(logits, labels)
        recorder.commit()
    with Recorder(tmp_path, Ids(range(6)), resume=True) as recorder:
        recorder.begin()
        with pytest.raises(UsageError, match="recorded losses before, and logits of classes are given now"):
            recorder.observe(places, logits, labels)
    with Recorder(tmp_path / "names", Ids(range(6)), class_names=["a", "b"]) as recorder:
        recorder.begin()
        with pytest.raises(UsageError, match="class_names= names classes, and examples have none here"):
            recorder.observe_losses(places, torch.ones(6))


def test_older_assays_read_the_header_of_classes(tmp_path):
    with Recorder(tmp_path / "classes", Ids(range(6))) as recorder:
        recorder.begin()
        recorder.observe(torch.arange(6), 2 * torch.eye(3).repeat(2, 1), torch.arange(6) % 3)
        recorder.commit()
    own(tmp_path / "losses", [torch.ones(6)])
    for name, task in (("classes", None), ("losses", "losses")):
        assert json.loads((tmp_path / name / "run.json").read_text()).get("task") == task


def test_a_loop_must_say_its_losses(world):
    loop = assay.Loop(world.model, world.optimizer, world.loader)
    with pytest.raises(
        UsageError,
        match=r"recorded one loss for each example, and the loop does not say which loss an example has; give assay.Loop\(\.\.\., losses=",
    ):
        assay.score(world.run, "grand", loop=loop)
    with pytest.raises(UsageError, match="which there is no cross-entropy of classes; give losses="):
        cross_entropies(nn.Linear(3, 1).double(), (world.inputs, world.labels[:, :1]))
    wrong = MeanLoss(*numbers(5, 7), torch.ones(5, dtype=torch.float64), by=lambda model, batch: model(batch[0]))
    with pytest.raises(
        UsageError, match=r"losses= gives shape \(5, 2\) for 5 examples of a target .*, or give a function of the model"
    ):
        [*wrong.losses(world.model)]


# One logit.


def binary(folder, logits, labels, validation=None):
    with Recorder(folder, Ids(range(len(labels))), assay.Recording(keep_logits=True)) as recorder:
        recorder.begin()
        recorder.observe(torch.arange(len(labels)), logits, labels)
        if validation:
            recorder.validation(*validation)
        recorder.commit()
    return Run(folder)


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool])
@pytest.mark.parametrize("axes", [1, 2])
def test_one_logit_is_its_two_class_form_to_the_bit(tmp_path, kind, axes):
    draw = torch.Generator().manual_seed(0)
    logit, labels = 9 * torch.randn(20, generator=draw), torch.arange(20) % 2
    two = torch.stack([torch.zeros(20), logit], 1)
    shape = (20, 1)[:axes]
    given = labels.to(kind).reshape(shape)
    one = binary(tmp_path / "one", logit.reshape(shape), given, (logit.reshape(shape), given))
    both = binary(tmp_path / "two", two, labels, (two, labels))
    assert one.shard(0).sums == both.shard(0).sums and one.fingerprint == both.fingerprint
    assert one.class_names == ("0", "1") and torch.equal(one.probs_sum(), both.probs_sum())
    torch.testing.assert_close(
        one.shard(0).read("losses"), F.binary_cross_entropy_with_logits(logit, labels.float(), reduction="none")
    )


LABELS = {
    "numbers": (torch.tensor([0.5, 2.0, 1.0, 0.0]), "torch.float32 with values such as 0.5, 2.0; give 0 or 1"),
    "classes": (torch.arange(4), "torch.int64 with values such as 2, 3"),
    "too many": (torch.zeros(4, 2), r"torch.float32 of shape \(4, 2\)"),
    "none": (None, "NoneType"),
    "not a number": (torch.tensor([torch.nan, 0, 1, 1]), "values such as nan"),
}


@pytest.mark.parametrize("mistake", LABELS)
def test_one_output_with_other_labels_names_losses(tmp_path, mistake):
    labels, words = LABELS[mistake]
    with (
        Recorder(tmp_path, Ids(range(4))) as recorder,
        pytest.raises(UsageError, match=f"{words}.*record the loss of each example with recorder.losses\\(values\\)"),
    ):
        recorder.begin()
        recorder.observe(torch.arange(4), torch.zeros(4, 1), labels)


def test_several_labels_name_losses(tmp_path):
    with Recorder(tmp_path, Ids(range(4))) as recorder:
        recorder.begin()
        for logits, labels in ((torch.zeros(4, 3), torch.ones(4, 3)), (torch.zeros(4, 3, 2, 2), torch.zeros(4, 2, 2))):
            with pytest.raises(UsageError, match=r"record the loss of each example with recorder.losses\(values\)"):
                recorder.observe(torch.arange(4), logits, labels)


# What else is made of a run.


def test_what_reads_classes_elsewhere_is_refused_and_the_rest_works(world, tmp_path):
    scores = assay.score(world.run, "loss")["loss"]
    decision = assay.choose(scores, "remove_worst", count=2)
    assert int(decision.touched.sum()) == 2
    with pytest.raises(
        MissingEvidence,
        match=r"per_class.* reads labels, .*one loss for each example\. Policies that read no class: .*k_center, .*top_k",
    ):
        assay.choose(scores, "per_class:keep=0.5", run=world.run)
    # One whose classes can be switched off says so, and works then.
    with pytest.raises(MissingEvidence, match=r"read no class: gradmatch:keep=4,features=rows:a,by_class=False, or bottom_k"):
        assay.choose(world.run, "gradmatch:keep=4,features=rows:a", inputs={"a": torch.ones(EXAMPLES, 2)})
    own = {"a": torch.arange(2.0 * EXAMPLES).view(EXAMPLES, 2)}
    assert assay.choose(world.run, "gradmatch:keep=4,features=rows:a,by_class=false", inputs=own).budget == 4
    with pytest.raises(MissingEvidence, match="an explanation is of a predicted class; score tracin with the query as target"):
        assay.explain(world.run, 3, method="tracin")
    with pytest.raises(MissingEvidence, match=r"trak reads labels, .*one loss for each example\. Methods that work: grand"):
        assay.attribute(world.run, "trak")
    loop = assay.Loop(world.model, world.optimizer, world.loader, losses=world.losses)
    targets = {"validation": numbers(5, 7), "test": numbers(5, 8)}
    with pytest.raises(MissingEvidence, match=r"A curve is of test accuracy, .*one loss for each example and no class"):
        assay.cleanse(world.run, scores, loop=loop, targets=targets)
    truth = (world.run.ids, torch.zeros(EXAMPLES, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"truth= tells which classes are wrong, .*leave it out"):
        assay.report_data(world.run, {"loss": scores}, options=assay.ReportOptions(truth=truth))


def test_the_next_step_says_nothing_of_wrong_labels(world):
    scores = assay.score(world.run, "loss")["loss"]
    assert next_step(world.run, scores, 0.0).startswith("Look at the first ones on the page. Next: assay report")


def test_a_row_of_a_target_has_its_own_value(world):
    loop = assay.Loop(world.model, world.optimizer, world.loader, losses=world.losses)
    found = assay.attribute(world.run, "tracin", loop=loop, targets={"validation": numbers(5, 7)})
    kept = [world.run.model(epoch) for epoch in range(EPOCHS)]
    pairs = [
        RATE * world.gradients(params, (world.inputs, world.labels)) @ world.gradients(params, numbers(5, 7)).T for params in kept
    ]
    torch.testing.assert_close(found.row(2), sum(pairs)[:, 2])
    rows = assay.attribute(world.run, "sgd_influence", loop=loop, targets={"validation": numbers(5, 7)})
    whole = world.score("sgd_influence")["sgd_influence"].values
    torch.testing.assert_close(torch.stack([rows.row(query) for query in range(5)]).mean(0), whole)


def test_the_page_shows_what_there_is(world):
    table = world.score("loss", "tracin")
    decision = assay.choose(table["loss"], "remove_worst", count=2)
    made = assay.report_data(world.run, table, decision=decision)
    assert made.shown.given is None and made.shown.predicted is None and made.data_map is None and made.trajectories is None
    assert made.class_names == () and any("one loss for each example" in note for note in made.notes)
    page = render(made)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["given"] is None and data["classes"] == [] and "Given class" not in page and "<span>given" not in page


def test_a_number_of_every_example_is_no_label(tmp_path):
    inputs, labels = numbers(EXAMPLES, 0)
    loader = DataLoader(TensorDataset(inputs, labels, torch.full((EXAMPLES,), -1)), BATCH)
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with assay.record(tmp_path, model, optimizer, loader, data=assay.DataSpec(losses=squared)) as recorder:
        for batch in recorder.epoch():
            recorder.losses(squared(model, batch))
    content = Run(tmp_path).content
    assert content is not None and content.label is None and content.reason == ""
