"""Runs of one's own loop that cannot be taken again, or whose steps have no derivative: each is refused in one sentence with its code."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import AssayError, Mismatch, MissingEvidence, UsageError
from assay.experiments.evidence import open_replay
from assay.methods import parse
from assay.runs.run import Run
from assay.testing.training import Given
from settings import grouped

EXAMPLES, DIMS, CLASSES = 12, 3, 3


def data():
    draw = torch.Generator().manual_seed(8)
    return torch.randn(EXAMPLES, DIMS, generator=draw, dtype=torch.float64), torch.arange(EXAMPLES) % CLASSES


def held():
    inputs, labels = data()
    return {"validation": (inputs.flip(0) * 0.5 + 0.1, labels)}


def net(*layers):
    model = nn.Sequential(*(layers or (nn.Linear(DIMS, 4), nn.Tanh())), nn.Linear(4, CLASSES)).double()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return model


def recorded(folder, model, loader=None, every=1, optimizer=None, epochs=2, **given):
    """A loop whose optimizer moves after every so many batches."""
    loader = loader or DataLoader(TensorDataset(*data()), 4)
    optimizer = optimizer or torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.2)
    with assay.record(folder, model, optimizer, loader, **grouped({"checkpoints": "every", **given})) as recorder:
        for epoch in range(epochs):
            if isinstance(loader.batch_sampler, Given):
                loader.batch_sampler.epoch = epoch
            for place, (x, y) in enumerate(recorder.epoch()):
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                if place % every == every - 1:
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.batch(logits, y)
    return assay.Loop(model, optimizer, loader)


def held_for(method):
    """The target, for methods that ask for one."""
    return held() if parse(method).asks.targets else None


def refused(kind, code, words, folder, loop, methods="sgd_influence", targets=None):
    with pytest.raises(AssayError, match=words) as caught:
        assay.score(folder, methods, loop=loop, targets=held() if targets is None else targets)
    assert type(caught.value) is kind and caught.value.exit_code == code
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_a_run_without_checkpoints_says_how_to_record_them(tmp_path):
    loop = recorded(tmp_path / "run", net(), checkpoints="none")
    refused(MissingEvidence, 3, "record with Recording\\(checkpoints='last'\\) .* or 'every'", tmp_path / "run", loop)


def test_a_loop_is_needed_and_it_must_be_that_of_the_run(tmp_path):
    loop = recorded(tmp_path / "run", net())
    refused(UsageError, 2, r"own loop.*loop=assay\.Loop", tmp_path / "run", None)
    other = recorded(tmp_path / "other", net(nn.Linear(DIMS, 4), nn.Tanh(), nn.Linear(4, 4)))
    refused(Mismatch, 4, "recorded another model or optimizer", tmp_path / "run", other)
    inputs, labels = data()
    fewer = assay.Loop(loop.model, loop.optimizer, DataLoader(TensorDataset(inputs[1:], labels[1:]), 4))
    refused(
        Mismatch, 4, r"recorded 12 ids.*the loop's loader has 11: .*Give the loader that was recorded\.$", tmp_path / "run", fewer
    )
    named = assay.Loop(loop.model, loop.optimizer, loop.loader, ids=[f"a{place}" for place in range(12)])
    refused(Mismatch, 4, r"recorded 12 ids.*was given ids, the same to assay\.Loop as ids=\.$", tmp_path / "run", named)


def test_dropout_without_a_recorded_random_state_is_refused(tmp_path):
    loop = recorded(tmp_path / "run", net(nn.Linear(DIMS, 4), nn.Dropout(0.5)))
    refused(UsageError, 2, r"1 draws at random.*recorded no random state; record with seed=", tmp_path / "run", loop)


class Jittered(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x), y


def test_augmentation_without_a_recorded_random_state_is_refused_and_with_one_repeated(tmp_path):
    loader = DataLoader(Jittered(*data()), 4)
    loop = recorded(tmp_path / "run", net(), loader)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    refused(UsageError, 2, r"other inputs each time.*record with seed=", tmp_path / "run", loop)
    assert torch.equal(torch.get_rng_state(), before), "asking has drawn from the user's generator"
    seeded = recorded(tmp_path / "seeded", net(), loader, seed=4)
    (scores,) = assay.score(tmp_path / "seeded", "sgd_influence", loop=seeded, targets=held()).values()
    assert scores.values.abs().max() > 0


def test_accumulated_gradients_are_divided_as_the_loop_says(tmp_path):
    loop = recorded(tmp_path / "run", net(), every=3)
    refused(
        Mismatch, 4, r"taken to be divided by that.*give assay\.Loop accumulate= that number, 1 where", tmp_path / "run", loop
    )
    (scores,) = assay.score(
        tmp_path / "run", "sgd_influence", loop=dataclasses.replace(loop, accumulate=1), targets=held()
    ).values()
    assert scores.values.abs().max() > 0


def test_an_optimizer_without_an_adjoint_is_refused(tmp_path):
    model = net()
    loop = recorded(tmp_path / "run", model, optimizer=torch.optim.RMSprop(model.parameters(), lr=0.01))
    refused(UsageError, 2, r"RMSprop cannot be differentiated.*give update=", tmp_path / "run", loop)
    model = net()
    loop = recorded(tmp_path / "two", model, optimizer=torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True))
    refused(UsageError, 2, "Adam with amsgrad=True cannot be differentiated", tmp_path / "two", loop)


class Once(torch.autograd.Function):
    """x squared, with a derivative that has none itself."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OnceLayer(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Squared(nn.Module):
    def forward(self, x):
        return x.square()


def test_an_operation_without_a_second_derivative_is_named(tmp_path):
    loop = recorded(tmp_path / "run", net(nn.Linear(DIMS, 4), OnceLayer()))
    words = "cannot be differentiated twice: .*once_differentiable.*tracin"
    refused(UsageError, 2, words, tmp_path / "run", loop)
    refused(UsageError, 2, words, tmp_path / "run", loop, "sgd_influence:form=no_hessian")
    # What asks for gradients only is as it would be without the operation.
    plain = recorded(tmp_path / "plain", net(nn.Linear(DIMS, 4), Squared()))
    names = ["tracin", "oti", "liveval", "grand", "tracin:every=step", "in_run_shapley"]
    how = assay.ReplayConfig(tolerance=1e-12)
    table = assay.score(tmp_path / "run", names, loop=loop, targets=held(), replay_config=how)
    for title, other in assay.score(tmp_path / "plain", names, loop=plain, targets=held(), replay_config=how).items():
        told = table[title].diagnostics["derivatives taken by"], other.diagnostics["derivatives taken by"]
        # What one method says does not depend on the others.
        assert ("grad_dots: one by one" in told[0]) == title.startswith(("tracin", "in_run")) and "one by one" not in told[1]
        torch.testing.assert_close(table[title].values, other.values, rtol=1e-9, atol=1e-12)


def test_other_inputs_than_the_recorded_are_refused_with_their_ids(tmp_path):
    loop = recorded(tmp_path / "run", net())
    inputs, labels = data()
    inputs[5] += 0.01
    changed = assay.Loop(loop.model, loop.optimizer, DataLoader(TensorDataset(inputs, labels), 4))
    words = r"the inputs of ids 5 \(1 of 12 looked at\) are not those that were recorded\. Give data, transforms, collate_fn and"
    refused(Mismatch, 4, words, tmp_path / "run", changed)


def test_frozen_layers_have_no_part(tmp_path):
    def frozen():
        model = net()
        model[0].requires_grad_(False)
        return model

    loop = recorded(tmp_path / "run", frozen())
    (scores,) = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=held()).values()
    run, (inputs, labels) = Run(tmp_path / "run"), data()
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    features = frozen()[:2](inputs).detach()
    w, b = (p.detach().requires_grad_() for p in frozen()[2].parameters())
    for batch in (batch for epoch in range(run.epochs) for batch in run.order(epoch)):
        losses = F.cross_entropy(features[batch] @ w.T + b, labels[batch], reduction="none")
        gw, gb = torch.autograd.grad((weights[batch] * losses).mean(), (w, b), create_graph=True)
        w, b = w - 0.2 * gw, b - 0.2 * gb
    there, classes = held()["validation"]
    target = F.cross_entropy(frozen()[:2](there).detach() @ w.T + b, classes)
    torch.testing.assert_close(scores.values, -torch.autograd.grad(target, weights)[0], rtol=1e-9, atol=1e-13)
    everything = net()
    everything.requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameter"):
        recorded(tmp_path / "none", everything, optimizer=torch.optim.SGD(net().parameters(), lr=0.1))


@pytest.mark.parametrize("method", ["sgd_influence", "liveval", "oti:reduce=sum", "in_run_shapley", "tracin:every=step"])
def test_an_example_that_stands_twice_in_a_batch_gets_both_shares(tmp_path, method):
    inputs, labels = data()
    twice = [[0, 1, 0, 2], [3, 4, 5, 6], [7, 8, 9, 10]], [[11, 1, 2, 3], [4, 5, 4, 6], [7, 8, 9, 10]]
    loader = DataLoader(TensorDataset(inputs, labels), batch_sampler=Given(twice))
    loop = recorded(tmp_path / "run", net(), loader, view="eval")
    (found,) = assay.score(
        tmp_path / "run", method, loop=loop, targets=held_for(method), replay_config=assay.ReplayConfig(tolerance=1e-12)
    ).values()
    # The same training with a twin under another id in the second place.
    apart = [[0, 1, 12, 2], *twice[0][1:]], [twice[1][0], [4, 5, 13, 6], twice[1][2]]
    twins = TensorDataset(torch.cat([inputs, inputs[[0, 4]]]), torch.cat([labels, labels[[0, 4]]]))
    loader = DataLoader(twins, batch_sampler=Given(apart))
    loop = recorded(tmp_path / "apart", net(), loader, view="eval")
    (other,) = assay.score(
        tmp_path / "apart", method, loop=loop, targets=held_for(method), replay_config=assay.ReplayConfig(tolerance=1e-12)
    ).values()
    expected = {int(id_): float(value) for id_, value in zip(other.ids, other.values, strict=True)}
    expected[0] += expected.pop(12)
    expected[4] += expected.pop(13)
    assert len(found) == EXAMPLES
    torch.testing.assert_close(
        found.values, torch.tensor([expected[int(id_)] for id_ in found.ids]).double(), rtol=1e-6, atol=1e-9
    )


def assert_exact(folder, loop):
    """Influence is the derivative of training again: central differences by the weights of some examples."""
    how = assay.ReplayConfig(tolerance=1e-12)
    (scores,) = assay.score(folder, "sgd_influence", loop=loop, targets=held(), replay_config=how).values()
    replay, ones = open_replay(folder, loop=loop, targets=held(), replay_config=how), torch.ones(EXAMPLES, dtype=torch.float64)
    steps, size = range(replay.epochs[-1].stop), 1e-4
    for place in (0, 5, 10):
        move = size * torch.eye(EXAMPLES, dtype=torch.float64)[place]
        up, down = (replay.reweighted(ones + sign * move, steps, "validation") for sign in (1, -1))
        assert float(scores.values[place]) == pytest.approx((down - up) / (2 * size), rel=1e-5, abs=1e-9)
    assert scores.values.abs().max() > 1e-4


def test_batch_norm_that_was_frozen_by_hand(tmp_path):
    model = net(nn.Linear(DIMS, 4), nn.BatchNorm1d(4), nn.Tanh())
    with torch.no_grad():
        model[1].running_mean += 0.3
        model[1].running_var *= 2
    model[1].eval()
    assert_exact(tmp_path / "run", recorded(tmp_path / "run", model, epochs=3))


class Forked(nn.Module):
    """A head that nothing reaches, and one that only every other batch does."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.body, self.head, self.unused, self.odd = (
            nn.Linear(DIMS, 4),
            nn.Linear(4, CLASSES),
            nn.Linear(4, CLASSES),
            nn.Linear(4, 4),
        )
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)

    def forward(self, inputs):
        hidden = torch.tanh(self.body(inputs))
        return self.head(hidden + self.odd(hidden) if len(inputs) == 3 else hidden)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.05),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=0.1, eps=1e-3),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1, eps=1e-3),
    ],
    ids=["momentum", "adam", "adamw"],
)
def test_parameters_that_a_step_does_not_reach(tmp_path, optimizer):
    model = Forked()
    batches = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11]], [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10, 11]]
    loader = DataLoader(TensorDataset(*data()), batch_sampler=Given(batches))
    assert_exact(tmp_path / "run", recorded(tmp_path / "run", model, loader, optimizer=optimizer(model)))


class Scaled(nn.Module):
    """A parameter that is one number, and a weight that is used behind its layer's back too."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = net(nn.Linear(DIMS, 4), nn.Tanh()), nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, inputs):
        return self.scale * self.inner(inputs) + inputs @ self.inner[0].weight.T[:, :CLASSES]


@pytest.mark.parametrize("method", ["grand", "tracin:target=self", "oti", "liveval", "tracin"])
def test_a_number_for_a_parameter_and_a_weight_used_behind_its_layers_back(tmp_path, method):
    # Batches of several sizes: what the first confirms or refutes holds for those after it.
    loop = recorded(tmp_path / "run", Scaled(), DataLoader(TensorDataset(*data()), 5))
    how = assay.ReplayConfig(tolerance=1e-12)
    (scores,) = assay.score(tmp_path / "run", method, loop=loop, targets=held_for(method), replay_config=how).values()
    with pytest.MonkeyPatch.context() as patch:
        # Each example by itself, by autograd.
        patch.setattr("assay.maths.layer_rules.RULES", {})
        patch.setattr("assay.replay.checkpoints.BLOCK", 1)
        (other,) = assay.score(tmp_path / "run", method, loop=loop, targets=held_for(method), replay_config=how).values()
    torch.testing.assert_close(scores.values, other.values, rtol=1e-7, atol=1e-10)
    if method == "grand":
        model, (inputs, labels) = Scaled(), data()
        model.load_state_dict(Run(tmp_path / "run").model(1))
        for place in range(EXAMPLES):
            loss = F.cross_entropy(model(inputs[place][None]), labels[place][None])
            norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm()
            assert float(scores.values[place]) == pytest.approx(float(norm), rel=1e-9)


def test_one_training_leaves_nothing_to_the_next(tmp_path):
    loop = recorded(tmp_path / "run", net())
    replay = open_replay(tmp_path / "run", loop=loop, targets=held(), replay_config=assay.ReplayConfig(tolerance=1e-12))
    groups, steps = [torch.tensor([place]) for place in range(4)], range(replay.epochs[-1].stop)
    there = replay.retrained(groups, steps, ["validation"])
    assert torch.equal(replay.retrained(groups[::-1], steps, ["validation"]).flip(0), there)
    assert len(set(there.flatten().tolist())) == 4


def test_a_run_of_one_epoch_has_a_last_epoch(tmp_path):
    loop = recorded(tmp_path / "run", net(), epochs=1)
    table = assay.score(tmp_path / "run", ["sgd_influence", "sgd_influence:window=last"], loop=loop, targets=held())
    one, two = table.values()
    assert torch.equal(one.values, two.values)


def test_a_dataset_that_draws_at_random_is_looked_at_alike_each_time(tmp_path):
    import numpy as np

    # Not from Python's own generator, because the run-time type checker of the tests draws from it.
    class Drawing(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x * (1 + 0.1 * torch.rand(()).double()) + 0.1 * np.random.rand(), y

    loader = DataLoader(Drawing(*data()), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    loop = recorded(tmp_path / "run", net(), loader, seed=2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), loader.generator.get_state()
    one, two = (assay.score(tmp_path / "run", ["grand", "sgd_influence", "loo"], loop=loop, targets=held()) for _ in range(2))
    for title, scores in one.items():
        assert torch.equal(scores.values, two[title].values), title
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), loader.generator.get_state()
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and torch.equal(before[2], after[2])


def test_the_last_parameters_are_differentiated_with_the_last_buffers_seeded_or_not(tmp_path):
    values = []
    for seed in (None, 5):
        model, folder = net(), tmp_path / f"run {seed}"
        loop = recorded(folder, model, optimizer=torch.optim.Adam(model.parameters(), lr=0.05), seed=seed, epochs=3)
        how = assay.ReplayConfig(tolerance=1e-12)
        (scores,) = assay.score(
            folder, "sgd_influence:form=last_parameters", loop=loop, targets=held(), replay_config=how
        ).values()
        values.append(scores.values)
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-13)


def test_what_torch_refuses_is_a_sentence_with_its_step(tmp_path):
    loader = DataLoader(TensorDataset(*data()), 10)
    loop = recorded(tmp_path / "norm", net(nn.Linear(DIMS, 4), nn.BatchNorm1d(4)), loader)
    refused(UsageError, 2, r"Epoch \d, step 1: the model failed.*A batch of one", tmp_path / "norm", loop, "loo:form=removed")

    class Triples(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x, y, torch.tensor(index)

    triples, model = DataLoader(Triples(*data()), 4), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with assay.record(tmp_path / "three", model, optimizer, triples, assay.Recording(checkpoints="every")) as recorder:
        for x, y, _ in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    loop = assay.Loop(model, optimizer, triples)
    refused(UsageError, 2, r"A batch is not \(inputs, labels\); give losses=", tmp_path / "three", loop)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(1, 4), nn.Linear(4, CLASSES)

    def forward(self, inputs):
        x = self.embed(inputs[:, None, :, None])
        return self.out(F.scaled_dot_product_attention(x, x, x).mean((1, 2)))


def test_attention_has_every_derivative(tmp_path):
    torch.manual_seed(0)
    model = Attending().double()
    loop = recorded(tmp_path / "run", model)
    assert_exact(tmp_path / "run", loop)
    (scores,) = assay.score(tmp_path / "run", "in_run_shapley:order=2", loop=loop, targets=held()).values()
    assert scores.values.abs().max() > 0


@pytest.mark.parametrize("states", [8, 12])
def test_a_memory_budget_counts_the_starts_of_epochs_too(tmp_path, states, monkeypatch):
    model = net()
    loop = recorded(tmp_path / "run", model, seed=0, epochs=16, checkpoints="last")
    from assay.replay.replayable import ReplayState

    how = assay.ReplayConfig(tolerance=1e-12)
    (base,) = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=held(), replay_config=how).values()
    alive, most = set(), [0]

    class Counted(ReplayState):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(id(self))
            most[0] = max(most[0], len(alive))

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr("assay.replay.replayable.ReplayState", Counted)
    size = open_replay(tmp_path / "run", loop=loop, targets=held())._own.state(-1).bytes
    how = assay.ReplayConfig(tolerance=1e-12, memory=states * size)
    (scores,) = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=held(), replay_config=how).values()
    torch.testing.assert_close(scores.values, base.values, rtol=1e-9, atol=1e-13)
    # Beside the budget stand the step in hand, its successor and the end of the run.
    assert most[0] <= states + 3
    refused_how = assay.ReplayConfig(memory=3 * size)
    with pytest.raises(UsageError, match="a state takes"):
        assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=held(), replay_config=refused_how)
