"""The recorder in skorch: facts are those of a plain loop over the same batches to the bit, and training goes on as if nobody recorded."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import assay
from assay.cli.app import run_app
from assay.core.errors import Mismatch, OutputExists, UsageError
from assay.integrations.data_spec import DataSpec
from assay.runs.recording import Recording
from assay.runs.run import Run

skorch = pytest.importorskip("skorch")
pytestmark = [
    pytest.mark.slow,
    # What the library itself warns of is its own.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*is not recorded"),
    pytest.mark.filterwarnings("error:.*gradients of your loop"),
    pytest.mark.filterwarnings("error:.*another state of the optimizer"),
]
SEED, EXAMPLES = 5, 22
X = np.random.default_rng(1).normal(size=(EXAMPLES, 4)).astype(np.float32)
Y = np.arange(EXAMPLES) % 3


class Net(nn.Module):
    def __init__(self, outputs=3, softmax=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, outputs))
        self.softmax = softmax

    def forward(self, x):
        return self.net(x).softmax(1) if self.softmax else self.net(x)


def net_of(callbacks, kind=None, **settings):
    chosen = {"criterion": nn.CrossEntropyLoss, "max_epochs": 2, "lr": 0.1, "batch_size": 4, "train_split": None, "verbose": 0}
    return (kind or skorch.NeuralNetClassifier)(
        callbacks=callbacks, **{"module": Net, **chosen, "iterator_train__shuffle": True, **settings}
    )


class HalfPrecise(Net):
    """Computes in bf16."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


def plain(folder, epochs=2, kind=Net, recording=None):
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 4, shuffle=True)
    with assay.record(folder, model, optimizer, loader, recording, seed=SEED) as recorder:
        for _ in range(epochs):
            for x, y in recorder.epoch():
                optimizer.zero_grad()
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    return Run(folder), model


def plain_by_losses(folder, model, targets, losses, recording):
    """A plain loop that says the loss of each example, two epochs; its loader."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.from_numpy(X), targets), 4, shuffle=True)
    with assay.record(folder, model, optimizer, loader, recording, data=DataSpec(losses=losses), seed=SEED) as recorder:
        for _ in range(2):
            for batch in recorder.epoch():
                optimizer.zero_grad()
                values = losses(model, batch)
                values.mean().backward()
                optimizer.step()
                recorder.losses(values)
    return loader


@pytest.mark.parametrize("workers", [0, 2])
def test_facts_and_weights_are_those_of_a_plain_loop(tmp_path, workers):
    live = Recording(live=["aum", "liveval"])
    net = net_of([assay.skorch.Recorder(tmp_path / "callback", live, seed=SEED)], iterator_train__num_workers=workers)
    net.fit(X, Y)
    run, model = plain(tmp_path / "plain", recording=live)
    recorded = Run(tmp_path / "callback")
    assert recorded.epochs == 2
    for epoch in range(2):
        for what in ("order", "batch_sizes", "losses", "margins", "rates"):
            assert torch.equal(recorded.shard(epoch).read(what), run.shard(epoch).read(what)), what
    for title in ("aum", "liveval"):
        ours, theirs = (assay.score(which, title, save=False, strict=True)[title].values for which in (recorded, run))
        assert theirs.any() and torch.equal(ours, theirs), title
    assert all(torch.equal(a, b) for a, b in zip(net.module_.state_dict().values(), model.state_dict().values(), strict=True))
    # Nothing is left in the net, which can be copied and trained again elsewhere.
    assert net.iterator_train is DataLoader
    from sklearn.base import clone

    assert clone(net).callbacks[0].folder == tmp_path / "callback"


def test_bf16_gives_the_facts_and_weights_of_a_plain_loop(tmp_path):
    net = net_of([assay.skorch.Recorder(tmp_path / "callback", seed=SEED)], module=HalfPrecise)
    net.fit(X, Y)
    run, model = plain(tmp_path / "plain", kind=HalfPrecise)
    recorded = Run(tmp_path / "callback")
    for epoch in range(2):
        assert recorded.commits[epoch].shard.sums == run.commits[epoch].shard.sums
    assert all(torch.equal(a, b) for a, b in zip(net.module_.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("named", [False, True])
def test_ids_are_rows_of_x_also_behind_a_split(tmp_path, named):
    data = DataSpec(ids=[f"row {number}" for number in range(EXAMPLES)]) if named else None
    net = net_of([assay.skorch.Recorder(tmp_path / "run", data=data)], train_split=skorch.dataset.ValidSplit(4))
    net.fit(X, Y)
    run = Run(tmp_path / "run")
    rows = [int(str(value).removeprefix("row ")) for value in run.ids.values]
    assert run.labels.tolist() == Y[rows].tolist()
    kept = net.get_split_datasets(X, Y)[0].indices
    assert rows == list(kept)


def test_probabilities_are_recorded_as_their_logarithms_and_one_logit_as_two(tmp_path):
    net = net_of(
        [assay.skorch.Recorder(tmp_path / "run", seed=SEED)],
        criterion=nn.NLLLoss,
        module__softmax=True,
        optimizer=torch.optim.SGD,
    )
    net.fit(X, Y)
    run, _ = plain(tmp_path / "plain")
    torch.testing.assert_close(Run(tmp_path / "run").shard(1).read("losses"), run.shard(1).read("losses"), rtol=1e-4, atol=1e-5)
    binary = net_of(
        [assay.skorch.Recorder(tmp_path / "binary", Recording(view="eval"))],
        skorch.NeuralNetBinaryClassifier,
        criterion=nn.BCEWithLogitsLoss,
        module__outputs=1,
    )
    binary.fit(X, (Y > 0).astype(np.float32))
    binary.module_.eval()
    with torch.no_grad():
        z = binary.module_(torch.from_numpy(X)).flatten()
    losses = F.binary_cross_entropy_with_logits(z, torch.from_numpy((Y > 0).astype(np.float32)), reduction="none")
    torch.testing.assert_close(Run(tmp_path / "binary").shard(1).read("losses"), losses, rtol=1e-5, atol=1e-6)


def test_without_a_seed_training_ends_as_if_nobody_recorded(tmp_path):
    weights = []
    for callbacks in ([], [assay.skorch.Recorder(tmp_path / "run", Recording(live=["aum", "liveval"]))]):
        torch.manual_seed(7)
        net = net_of(callbacks, train_split=skorch.dataset.ValidSplit(4))
        net.fit(X, Y)
        weights.append(net.module_.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert not Run(tmp_path / "run").stopped()


def test_the_clean_pass_is_of_every_example_after_each_epoch(tmp_path):
    clean = []

    class Looks(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **more):
            net.module_.eval()
            with torch.no_grad():
                clean.append(F.cross_entropy(net.module_(torch.from_numpy(X)), torch.from_numpy(Y), reduction="none"))

    recorder = assay.skorch.Recorder(tmp_path / "run", Recording(view="eval"))
    net_of([("looks", Looks()), ("recorder", recorder)], iterator_train__drop_last=True).fit(X, Y)
    run = Run(tmp_path / "run")
    assert run.epochs == 2 and run.commits[0].steps == 5 and not torch.equal(*clean)
    for epoch in range(2):
        torch.testing.assert_close(run.shard(epoch).read("losses"), clean[epoch], rtol=1e-5, atol=1e-6)


class OneProbability(Net):
    def forward(self, x):
        return super().forward(x).sigmoid()


def log_softmax_of(model, batch):
    return -(model(batch[0]) + torch.finfo(torch.float32).eps).log().gather(1, batch[1][:, None]).flatten()


def of_one_logit(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]).flatten(), batch[1], reduction="none")


def of_one_probability(model, batch):
    return F.binary_cross_entropy(model(batch[0]).flatten(), batch[1], reduction="none")


BY_CRITERION = {
    "probabilities": (Net(softmax=True), None, Y, log_softmax_of, {"criterion": nn.NLLLoss}),
    "one logit": (Net(1), "NeuralNetBinaryClassifier", Y > 0, of_one_logit, {"criterion": nn.BCEWithLogitsLoss}),
    "one probability": (OneProbability(1), "NeuralNetBinaryClassifier", Y > 0, of_one_probability, {"criterion": nn.BCELoss}),
}


@pytest.mark.parametrize("gives", BY_CRITERION)
def test_live_values_are_those_of_a_plain_loop_by_the_losses_it_trains_on(tmp_path, gives):
    module, kind, targets, losses, settings = BY_CRITERION[gives]
    targets = torch.from_numpy(targets if kind is None else targets.astype(np.float32))
    recording = Recording(live=["liveval"])
    net = net_of(
        [assay.skorch.Recorder(tmp_path / "run", recording, seed=SEED)],
        kind and getattr(skorch, kind),
        module=copy.deepcopy(module),
        **settings,
    )
    net.fit(X, targets.numpy())
    plain_by_losses(tmp_path / "plain", copy.deepcopy(module), targets, losses, recording)
    ours, theirs = (
        assay.score(tmp_path / name, "liveval", save=False, strict=True)["liveval"].values for name in ("run", "plain")
    )
    assert theirs.any() and len(set(theirs.tolist())) == EXAMPLES
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_methods_that_take_the_training_again(tmp_path):
    net = net_of([assay.skorch.Recorder(tmp_path / "run", seed=SEED)])
    net.fit(X, Y)
    loop = assay.Loop(net.module_, net.optimizer_, net.get_iterator(net.get_dataset(X, Y), training=True))
    targets = {"validation": (torch.from_numpy(X) + 1, torch.from_numpy(Y))}
    scores = assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    # The same as of a plain loop that trained alike.
    _, model = plain(tmp_path / "plain")
    own = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 4, shuffle=True)
    loop = assay.Loop(model, torch.optim.SGD(model.parameters(), lr=0.1), own)
    alike = assay.score(tmp_path / "plain", "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    assert torch.equal(scores.values, alike.values) and len(scores.ids) == EXAMPLES


def test_a_run_says_what_its_facts_are_of_and_how_it_is_taken_again(tmp_path, capsys):
    def said_of(folder, **settings):
        net_of([assay.skorch.Recorder(tmp_path / folder, seed=SEED)], max_epochs=1, **settings).fit(X, Y)
        assert run_app(["inspect", str(tmp_path / folder)]) == 0
        return " ".join(capsys.readouterr().out.split())

    whole, part = "net.get_dataset(X, y)", "net.get_split_datasets(X, y)[0]"
    loop = "score(run, ['sgd_influence'], loop=assay.Loop(net.module_, net.optimizer_, net.get_iterator({}, training=True){}))."
    said = said_of("plain", train_split=skorch.dataset.ValidSplit(4))
    assert "label smoothing" not in said and loop.format(part, "") in said
    said = said_of("smooth", criterion__label_smoothing=0.25)
    assert "of the logits and the given labels, without the label smoothing of 0.25" in said
    assert loop.format(whole, ", losses=losses") in said


def test_a_run_is_gone_on_with(tmp_path):
    net_of([assay.skorch.Recorder(tmp_path / "parts", seed=SEED)]).fit(X, Y)
    net = net_of([assay.skorch.Recorder(tmp_path / "parts", seed=SEED, resume=True)])
    net.fit(X, Y)
    net_of([assay.skorch.Recorder(tmp_path / "whole", seed=SEED)], max_epochs=4).fit(X, Y)
    run, whole = Run(tmp_path / "parts"), Run(tmp_path / "whole")
    assert run.epochs == 4 and run.fingerprint == whole.fingerprint
    with pytest.raises(OutputExists, match=r"already holds a run; .* by Recorder\(\.\.\., resume=True\)"):
        net_of([assay.skorch.Recorder(tmp_path / "parts")]).fit(X, Y)


def saving(folder, **settings):
    """A checkpoint of skorch's own at the end of every epoch."""
    return skorch.callbacks.Checkpoint(**{"monitor": None, "dirname": str(folder / "own"), **settings})


def momentum_of(folder, callbacks, **settings):
    return net_of([*callbacks, assay.skorch.Recorder(folder, seed=SEED)], optimizer__momentum=0.5, **settings)


@pytest.mark.parametrize("way", ["LoadInitState", "TrainEndCheckpoint", "load_params", "partial_fit", "warm_start"])
def test_a_run_is_gone_on_with_from_the_checkpoint_of_skorch(tmp_path, way):
    own = {"LoadInitState": saving(tmp_path), "load_params": saving(tmp_path)}.get(
        way, skorch.callbacks.TrainEndCheckpoint(dirname=str(tmp_path / "own"))
    )
    first = momentum_of(tmp_path / "parts", [own]).fit(X, Y)
    if way == "partial_fit":
        net = first.partial_fit(X, Y)
    elif way == "warm_start":
        net = first.set_params(warm_start=True).fit(X, Y)
    elif way == "load_params":
        net = momentum_of(tmp_path / "parts", []).initialize()
        net.load_params(checkpoint=own)
        net.partial_fit(X, Y)
    else:
        net = momentum_of(tmp_path / "parts", [skorch.callbacks.LoadInitState(own)]).fit(X, Y)
    whole = momentum_of(tmp_path / "whole", [], max_epochs=4).fit(X, Y)
    run = Run(tmp_path / "parts")
    assert run.epochs == len(net.history) == 4 and run.fingerprint == Run(tmp_path / "whole").fingerprint
    assert all(
        torch.equal(a, b) for a, b in zip(net.module_.state_dict().values(), whole.module_.state_dict().values(), strict=True)
    )


def test_a_checkpoint_of_skorch_that_is_not_the_end_of_the_run_is_refused_before_training(tmp_path):
    class First(skorch.callbacks.Checkpoint):
        def on_epoch_end(self, net, **more):
            if len(net.history) == 1:
                self.save_model(net)

    earlier = First(monitor=None, event_name=None, dirname=str(tmp_path / "own"))
    momentum_of(tmp_path / "run", [earlier]).fit(X, Y)
    load = skorch.callbacks.LoadInitState(earlier)
    with pytest.raises(Mismatch, match=r"holds 2 epochs, and the trainer goes on in epoch 1 .*checkpoint at the end of epoch 1"):
        momentum_of(tmp_path / "run", [load]).fit(X, Y)
    # Another training of as many epochs.
    other = saving(tmp_path, dirname=str(tmp_path / "other"))
    net_of([other], lr=0.2).fit(X, Y)
    with pytest.raises(Mismatch, match="ended epoch 1 with other weights than the trainer's checkpoint"):
        momentum_of(tmp_path / "run", [skorch.callbacks.LoadInitState(other)]).fit(X, Y)
    # Without a history nobody knows where it goes on.
    momentum_of(tmp_path / "blind", []).fit(X, Y).save_params(f_params=tmp_path / "params", f_optimizer=tmp_path / "optimizer")
    blind = momentum_of(tmp_path / "blind", []).initialize()
    blind.load_params(f_params=tmp_path / "params", f_optimizer=tmp_path / "optimizer")
    with pytest.raises(OutputExists, match="a checkpoint of its last epoch that has a history"):
        blind.partial_fit(X, Y)
    assert Run(tmp_path / "run").epochs == Run(tmp_path / "blind").epochs == 2
    # What assay keeps comes before what was loaded, and it says so.
    with pytest.warns(UserWarning, match="set the net back to the end of the last epoch"):
        net = net_of(
            [load, assay.skorch.Recorder(tmp_path / "run", seed=SEED, resume=True)], optimizer__momentum=0.5, max_epochs=1
        ).fit(X, Y)
    whole = momentum_of(tmp_path / "whole", [], max_epochs=3).fit(X, Y)
    assert torch.equal(net.module_.net[0].weight, whole.module_.net[0].weight)


def test_a_schedule_goes_on_by_the_history_of_a_checkpoint_and_else_it_is_told(tmp_path):
    def slowing():
        return skorch.callbacks.LRScheduler(policy=torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1 - epoch / 4)

    own = saving(tmp_path)
    momentum_of(tmp_path / "parts", [own, slowing()]).fit(X, Y)
    momentum_of(tmp_path / "whole", [slowing()], max_epochs=4).fit(X, Y)
    with pytest.warns(UserWarning, match="The schedule of LRScheduler begins anew"):
        net_of([slowing(), assay.skorch.Recorder(tmp_path / "parts", resume=True, seed=SEED)], max_epochs=0).fit(X, Y)
    momentum_of(tmp_path / "parts", [skorch.callbacks.LoadInitState(own), slowing()]).fit(X, Y)
    run, whole = Run(tmp_path / "parts"), Run(tmp_path / "whole")
    assert torch.equal(run.shard(3).read("rates"), whole.shard(3).read("rates")) and run.fingerprint == whole.fingerprint


def gone_on_with(folder, saves, schedule, before, again=None):
    """Whether a run that skorch's checkpoint goes on with is to the bit that of a training that was not interrupted."""
    own = saving(folder) if saves == "Checkpoint" else skorch.callbacks.TrainEndCheckpoint(dirname=str(folder / "own"))
    momentum_of(folder / "parts", [own, schedule()] if before else [schedule(), own]).fit(X, Y)
    whole = momentum_of(folder / "whole", [schedule()], max_epochs=4).fit(X, Y)
    net = momentum_of(folder / "parts", [skorch.callbacks.LoadInitState(own), (again or schedule)()]).fit(X, Y)
    pairs = zip(net.module_.state_dict().values(), whole.module_.state_dict().values(), strict=True)
    same = Run(folder / "parts").fingerprint == Run(folder / "whole").fingerprint
    assert same == all(torch.equal(one, other) for one, other in pairs)
    return same


def cosine(**settings):
    return skorch.callbacks.LRScheduler(policy=torch.optim.lr_scheduler.CosineAnnealingLR, **{"T_max": 4, **settings})


def halved():
    return skorch.callbacks.LRScheduler(policy=torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


def stepped(**more):
    return cosine(step_every="batch", T_max=40, **more)


@pytest.mark.parametrize(
    ("saves", "before"), [("Checkpoint", False), ("TrainEndCheckpoint", True), ("TrainEndCheckpoint", False)]
)
def test_a_cosine_goes_on_to_the_bit_from_a_checkpoint_that_has_its_next_rate(tmp_path, saves, before):
    assert gone_on_with(tmp_path, saves, cosine, before)


@pytest.mark.parametrize(
    ("schedule", "before", "words"),
    [
        (
            cosine,
            True,
            r"CosineAnnealingLR goes on with a rate of 0\.0853553, which would be 0\.05, .*; put Checkpoint on the other side",
        ),
        (halved, False, r"StepLR goes on with a rate of 0\.0125, which would be 0\.025, .*; put Checkpoint on the other side"),
        (
            stepped,
            False,
            r"CosineAnnealingLR goes on after 2 of its \d+ steps, because skorch counts epochs; give LRScheduler\(\.\.\., last_epoch=\d+\)",
        ),
    ],
)
def test_a_schedule_that_goes_on_otherwise_is_told(tmp_path, schedule, before, words):
    with pytest.warns(
        UserWarning, match=r"what is recorded from epoch 2 on is a training with another schedule .*" + words
    ) as said:
        assert not gone_on_with(tmp_path / "wrong", "Checkpoint", schedule, before)
    cure = re.search(r"last_epoch=(\d+)", str(said[-1].message))
    if cure:
        assert gone_on_with(tmp_path / "right", "Checkpoint", schedule, False, lambda: schedule(last_epoch=int(cure[1])))
    else:
        assert gone_on_with(tmp_path / "right", "Checkpoint", schedule, not before)


def test_a_schedule_that_goes_by_what_became_of_the_net_begins_anew_which_is_told(tmp_path):
    def waits():
        return skorch.callbacks.LRScheduler(policy=torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="train_loss")

    with pytest.warns(UserWarning, match="ReduceLROnPlateau counts anew since when nothing has become better"):
        gone_on_with(tmp_path, "Checkpoint", waits, False)


@pytest.mark.filterwarnings("default:.*another state of the optimizer")
def test_a_checkpoint_of_skorch_without_its_optimizer_is_told(tmp_path):
    own = saving(tmp_path, f_optimizer=None)
    momentum_of(tmp_path / "run", [own]).fit(X, Y)
    with pytest.warns(UserWarning, match=r"another state of the optimizer than .* \(momentum_buffer of parameter 0\)"):
        momentum_of(tmp_path / "run", [skorch.callbacks.LoadInitState(own)]).fit(X, Y)


@pytest.mark.filterwarnings("default:.*is not recorded")
def test_an_interrupt_keeps_the_epochs_before_and_an_error_holds_nothing(tmp_path):
    class Stops(skorch.callbacks.Callback):
        def on_batch_end(self, net, **more):
            if len(net.history) == 2 and len(net.history[-1]["batches"]) == 3:
                raise self.error

    stops = Stops()
    stops.error = KeyboardInterrupt()
    net = net_of([assay.skorch.Recorder(tmp_path / "run"), ("stops", stops)])
    with pytest.warns(UserWarning, match="Epoch 1 of .* was left after 3 batches and is not recorded"):
        net.fit(X, Y)
    assert Run(tmp_path / "run").epochs == 1
    stops.error = ValueError("mine")
    net = net_of([assay.skorch.Recorder(tmp_path / "other", resume=True), ("stops", stops)])
    with pytest.raises(ValueError, match="mine"):
        net.fit(X, Y)
    net.callbacks = net.callbacks[:1]
    net.fit(X, Y)
    assert Run(tmp_path / "other").epochs == 3


class Cosine(nn.Module):
    def forward(self, given, wanted):
        return 1 - F.cosine_similarity(given, wanted).mean()


class Penalised(skorch.NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        return super().get_loss(y_pred, y_true, X, training) + 0.1


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


@pytest.mark.parametrize("told", [False, True])
def test_losses_of_numbers_are_those_of_a_plain_loop_and_taken_again(tmp_path, told):
    numbers = X[:, :3] * 2
    data = DataSpec(losses=squared) if told else None
    recording = Recording(checkpoints="every", live=["liveval"])
    net = net_of(
        [assay.skorch.Recorder(tmp_path / "run", recording, data, seed=SEED)], skorch.NeuralNetRegressor, criterion=nn.MSELoss
    )
    net.fit(X, numbers)
    model = Net()
    loader = plain_by_losses(tmp_path / "plain", model, torch.from_numpy(numbers), squared, recording)
    run, plain_run = Run(tmp_path / "run"), Run(tmp_path / "plain")
    assert run.task == plain_run.task == "losses"
    loop = assay.Loop(net.module_, net.optimizer_, net.get_iterator(net.get_dataset(X, numbers), training=True), losses=squared)
    targets = {"validation": (torch.from_numpy(X) + 1, torch.from_numpy(numbers))}
    scores = assay.score(run, ["loss", "sgd_influence", "liveval"], loop=loop, targets=targets, save=False)
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    plain_loop = assay.Loop(model, own, loader, losses=squared)
    alike = assay.score(plain_run, ["loss", "sgd_influence", "liveval"], loop=plain_loop, targets=targets, save=False)
    for title in ("loss", "sgd_influence", "liveval"):
        assert alike[title].values.any()
        torch.testing.assert_close(scores[title].values, alike[title].values, rtol=1e-4, atol=1e-6)
    for epoch in range(2):
        torch.testing.assert_close(run.shard(epoch).read("losses"), plain_run.shard(epoch).read("losses"), rtol=1e-5, atol=1e-7)


class Tags(Net):
    """One of three classes for each of two tokens."""

    def __init__(self):
        super().__init__(6)

    def forward(self, x):
        return super().forward(x).unflatten(1, (3, 2))


def token_means(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none").mean(1)


def test_losses_of_tokens_are_those_of_a_plain_loop(tmp_path):
    tags, recording = np.stack([Y, (Y + 1) % 3], 1), Recording(live=["liveval"])
    callback = assay.skorch.Recorder(tmp_path / "run", recording, DataSpec(task="losses", losses=token_means), seed=SEED)
    net = net_of([callback], skorch.NeuralNet, module=Tags)
    net.fit(X, tags)
    model = Tags()
    plain_by_losses(tmp_path / "plain", model, torch.from_numpy(tags), token_means, recording)
    run, plain_run = Run(tmp_path / "run"), Run(tmp_path / "plain")
    assert run.task == plain_run.task == "losses" and run.epochs == 2
    for epoch in range(2):
        torch.testing.assert_close(run.shard(epoch).read("losses"), plain_run.shard(epoch).read("losses"), rtol=1e-5, atol=1e-7)
    ours, theirs = (assay.score(each, "liveval", save=False, strict=True)["liveval"].values for each in (run, plain_run))
    assert theirs.any()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_several_labels_for_each_example(tmp_path):
    several = (X[:, :3] > 0).astype(np.float32)
    net = net_of(
        [assay.skorch.Recorder(tmp_path / "run", data=DataSpec(task="labels"))],
        skorch.NeuralNet,
        criterion=nn.BCEWithLogitsLoss,
    )
    net.fit(X, several)
    run = Run(tmp_path / "run")
    assert run.task == "labels" and torch.equal(run.label_matrix().float(), torch.from_numpy(several))


class ByName(Net):
    def __init__(self, name="logits"):
        super().__init__()
        self.name = name

    def forward(self, x):
        return {self.name: super().forward(x), "inputs": x}


class TakesNames(skorch.NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **more):
        return F.cross_entropy(next(iter(y_pred.values())), y_true)


def test_logits_are_found_by_their_name(tmp_path):
    net_of([assay.skorch.Recorder(tmp_path / "run", seed=SEED)], TakesNames, module=ByName).fit(X, Y)
    run, _ = plain(tmp_path / "plain")
    assert torch.equal(Run(tmp_path / "run").shard(1).read("losses"), run.shard(1).read("losses"))
    with pytest.raises(
        UsageError, match=r"module returns a dict without logits; let it return the logits, first in a tuple or named"
    ):
        net_of([assay.skorch.Recorder(tmp_path / "scores")], TakesNames, module=ByName, module__name="scores").fit(X, Y)
    spec = DataSpec(forward=lambda model, batch: (model(batch[0])["scores"], batch[1]))
    clean = assay.skorch.Recorder(tmp_path / "clean", Recording(view="eval"), spec)
    net_of([clean], TakesNames, module=ByName, module__name="scores").fit(X, Y)
    assert Run(tmp_path / "clean").epochs == 2


class Silent(skorch.NeuralNetClassifier):
    def run_single_epoch(self, iterator, training, prefix, step_fn, **more):
        for batch in iterator or ():
            step_fn(batch, **more)


def test_a_net_that_tells_nobody_of_its_batches_and_two_recorders_are_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"Silent trains on batches of which it tells no callback.*self\.notify\('on_batch_begin'"
    ):
        net_of([assay.skorch.Recorder(tmp_path / "run")], Silent).fit(X, Y)
    with pytest.raises(UsageError, match="several recorders among its callbacks"):
        net_of([("one", assay.skorch.Recorder(tmp_path / "one")), ("two", assay.skorch.Recorder(tmp_path / "two"))]).fit(X, Y)
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_what_cannot_be_recorded_is_refused(tmp_path):
    with pytest.raises(UsageError, match="drop_last=True leaves 2 of 22 examples out of every epoch"):
        net_of([assay.skorch.Recorder(tmp_path / "run")], iterator_train__drop_last=True).fit(X, Y)
    with pytest.raises(UsageError, match=r"labels are torch\.float32 of shape"):
        net_of([assay.skorch.Recorder(tmp_path / "numbers")], skorch.NeuralNet, criterion=nn.MSELoss).fit(X, X[:, :3])
    for name, settings, words in (
        ("cosine", {"criterion": Cosine}, "Cosine does not tell the loss of each example; give data=assay.DataSpec"),
        ("own", {"criterion": nn.MSELoss, "kind": Penalised}, "get_loss of Penalised does not tell the loss of each example"),
    ):
        net = net_of([assay.skorch.Recorder(tmp_path / name)], **{"kind": skorch.NeuralNetRegressor, **settings})
        with pytest.raises(UsageError, match=words):
            net.fit(X, X[:, :3])
    with pytest.raises(UsageError, match="folder= is 7"):
        assay.skorch.Recorder(7)


class Elsewhere(skorch.NeuralNetClassifier):
    """Keeps its optimizers where another version may."""

    def on_train_begin(self, *args, **kwargs):
        super().on_train_begin(*args, **kwargs)
        self.__dict__.pop("_optimizers", None)


def test_another_version_is_refused_in_words(tmp_path):
    with pytest.raises(
        UsageError, match=r"This version of skorch.* has no _optimizers in Elsewhere, .* install one that is tested, 1\.3\.1 and"
    ):
        net_of([assay.skorch.Recorder(tmp_path / "run")], Elsewhere).fit(X, Y)


@pytest.mark.parametrize(
    ("kind", "criterion", "targets", "words"),
    [
        (None, nn.CrossEntropyLoss, Y, r"logits of shape \(3, 3\) do not fit a batch of 4 examples, as where collate_fn leaves"),
        (
            skorch.NeuralNetRegressor,
            nn.MSELoss,
            X[:, :3],
            "there are 3 losses for a batch of 4 examples, as where collate_fn leaves",
        ),
    ],
    ids=["classes", "numbers"],
)
def test_a_collator_that_loses_a_row_is_named(tmp_path, kind, criterion, targets, words):
    recorder = assay.skorch.Recorder(tmp_path / "run")
    net = net_of([recorder], kind, criterion=criterion, iterator_train__collate_fn=lambda items: default_collate(items[:-1]))
    with pytest.raises(UsageError, match=words):
        net.fit(X, targets)


def test_the_probability_of_class_1_is_recorded_as_its_logarithms(tmp_path):
    class Sigmoid(Net):
        def forward(self, x):
            return self.net(x).sigmoid().flatten()

    net = skorch.NeuralNetBinaryClassifier(
        Sigmoid,
        module__outputs=1,
        criterion=nn.BCELoss,
        max_epochs=2,
        lr=0.1,
        batch_size=4,
        train_split=None,
        verbose=0,
        callbacks=[assay.skorch.Recorder(tmp_path / "run", Recording(view="eval"))],
    )
    labels = (Y > 0).astype(np.float32)
    net.fit(X, labels)
    net.module_.eval()
    with torch.no_grad():
        probs = net.module_(torch.from_numpy(X)).flatten()
    losses = F.binary_cross_entropy(probs, torch.from_numpy(labels), reduction="none")
    torch.testing.assert_close(Run(tmp_path / "run").shard(1).read("losses"), losses, rtol=1e-5, atol=1e-6)


def test_losses_of_numbers_are_recorded_in_a_clean_pass(tmp_path):
    spec = DataSpec(task="losses", losses=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(1))
    recorder = assay.skorch.Recorder(tmp_path / "run", Recording(view="eval"), spec)
    net = net_of([recorder], skorch.NeuralNetRegressor, criterion=nn.MSELoss)
    net.fit(X, X[:, :3])
    net.module_.eval()
    with torch.no_grad():
        losses = (net.module_(torch.from_numpy(X)) - torch.from_numpy(X[:, :3])).square().mean(1)
    torch.testing.assert_close(Run(tmp_path / "run").shard(1).read("losses").float(), losses)


W = torch.tensor([1.0, 5.0, 0.2])


def test_values_of_steps_need_the_loss_that_the_net_trains_on(tmp_path):
    live, weighted = Recording(live=["liveval"]), {"criterion__weight": W}
    for number, settings in enumerate((weighted, {"criterion__label_smoothing": 0.3})):
        with pytest.raises(
            UsageError, match=r"trains on another loss .* liveval values its steps; give the loss of each example"
        ):
            net_of([assay.skorch.Recorder(tmp_path / str(number), live)], **settings).fit(X, Y)

    def losses(model, batch):
        return W[batch[1]] * F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    # The criterion divides by the weights of a batch.
    spec = DataSpec(losses=losses, reduction=lambda batch: W[batch[1]].sum())
    net_of([assay.skorch.Recorder(tmp_path / "said", live, spec)], **weighted).fit(X, Y)
    assert assay.score(tmp_path / "said", "liveval", save=False, strict=True)["liveval"].values.any()
    # Nothing else asks for them while recording; kept models are read with those of the loop.
    net = net_of([assay.skorch.Recorder(tmp_path / "run")], **weighted)
    net.fit(X, Y)
    loader = net.get_iterator(net.get_dataset(X, Y), training=True)
    (grand,) = assay.score(
        tmp_path / "run", "grand", loop=assay.Loop(net.module_, net.optimizer_, loader, losses=losses)
    ).values()
    assert bool((grand.values > 0).all())
