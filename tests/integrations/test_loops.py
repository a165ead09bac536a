"""Loops as users write them: wrapped models and optimizers, several optimizers, methods that cannot go on, settings that do not fit."""

import contextlib
import gc
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.accumulators import AbstractStepMethod
from assay.core.errors import Mismatch, MissingEvidence, NumericalError, OutputExists, RunError, UsageError
from assay.core.needs import Need
from assay.core.results import Result
from assay.core.scores import Direction
from assay.integrations.data_spec import DataSpec
from assay.integrations.pytorch import record
from assay.runs import run as module
from assay.runs.recording import Recording
from assay.runs.run import Run, read_run
from integrations.worlds import Numbers, frozen
from settings import grouped

EXAMPLES = 12


def data(dtype=torch.float32):
    inputs = torch.randn(EXAMPLES, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, torch.arange(EXAMPLES) % 3)


def net(seed=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def fit(recorder, model, step, epochs=1):
    for _ in range(epochs):
        for x, y in recorder.epoch():
            logits = model(x)
            model.zero_grad()
            F.cross_entropy(logits, y).backward()
            step()
            recorder.batch(logits, y)


def trained(folder, wrap=lambda model: model, view="train", make=None, epochs=2, **settings):
    inner = net()
    model = wrap(inner)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.5)
    with record(
        folder, model, (make or (lambda one: one))(optimizer), DataLoader(data(), 4), **grouped({"view": view, **settings})
    ) as recorder:
        fit(recorder, model, optimizer.step, epochs)
    return inner, Run(folder)


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_is_saved_under_its_own_names(tmp_path, name, view):
    model, run = trained(tmp_path / "wrapped", WRAPPERS[name], view, live=["liveval"])
    _, plain = trained(tmp_path / "plain", view=view, live=["liveval"])
    assert set(run.model(1)) == set(model.state_dict()) == set(plain.model(1))
    for key, value in plain.model(1).items():
        torch.testing.assert_close(run.model(1)[key], value)
    torch.testing.assert_close(assay.score(run, "liveval")["liveval"].values, assay.score(plain, "liveval")["liveval"].values)
    # Each goes on with what the other began.
    for folder, wrap in (("wrapped", lambda one: one), ("plain", WRAPPERS[name])):
        assert trained(tmp_path / folder, wrap, view, live=["liveval"], resume=True, epochs=1)[1].epochs == 3


def test_a_run_that_was_saved_with_the_names_of_a_wrapper_is_resumed(tmp_path):
    class Plain(nn.Module):
        """Hides that it wraps, as an earlier assay saw it."""

        def __init__(self, inner):
            super().__init__()
            self.module = inner

        def forward(self, x):
            return self.module(x)

    _, run = trained(tmp_path, Plain)
    assert all(key.startswith("module.") for key in run.model(0))
    model, run = trained(tmp_path, nn.DataParallel, resume=True, epochs=1)
    assert run.epochs == 3 and set(run.model(2)) == set(model.state_dict())


def test_a_compiled_layer_inside_loads_both_ways(tmp_path):
    def partly(model):
        model[0] = torch.compile(model[0], backend="eager")
        return model

    trained(tmp_path, partly)
    assert trained(tmp_path, resume=True, epochs=1)[1].epochs == 3
    assert trained(tmp_path, partly, resume=True, epochs=1)[1].epochs == 4


class Accelerated(Optimizer):
    """Hands everything on to the optimizer inside, and was never built as one, like accelerate's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    @property
    def state(self):
        return self.optimizer.state

    @property
    def defaults(self):
        return self.optimizer.defaults

    def step(self, closure=None):
        return self.optimizer.step(closure)


class Handing:
    """Is no Optimizer at all, like Lightning's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


@pytest.mark.parametrize(
    "wrap", [Accelerated, Handing, lambda one: Handing(Accelerated(one))], ids=["accelerate", "lightning", "both"]
)
def test_a_wrapped_optimizer_is_recorded_as_the_one_inside(tmp_path, wrap):
    _, run = trained(tmp_path / "wrapped", make=wrap)
    _, plain = trained(tmp_path / "plain")
    assert run.fingerprint == plain.fingerprint and run.checkpoint(1).sums == plain.checkpoint(1).sums
    assert trained(tmp_path / "wrapped", make=wrap, resume=True, epochs=1)[1].epochs == 3


class Prepared(DataLoader):
    """A loader around the one that it was made from, like accelerate's."""

    def __init__(self, base):
        vars(self)["base_dataloader"] = base

    def __getattr__(self, name):
        if name == "base_dataloader":
            raise AttributeError(name)
        return getattr(self.base_dataloader, name)

    def __iter__(self):
        yield from self.base_dataloader

    def __len__(self):
        return len(self.base_dataloader)


@pytest.mark.parametrize("view", ["train", "eval"])
def test_a_prepared_loader_is_recorded_as_the_one_inside(tmp_path, view):
    runs = []
    for folder, wrap in (("plain", lambda loader: loader), ("prepared", Prepared)):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with record(
            tmp_path / folder, model, optimizer, wrap(DataLoader(data(), 4, shuffle=True)), Recording(view=view), seed=1
        ) as recorder:
            fit(recorder, model, optimizer.step, 2)
        runs.append(Run(tmp_path / folder).fingerprint)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "wrap", [Accelerated, Handing, lambda one: Handing(Accelerated(one))], ids=["accelerate", "lightning", "both"]
)
@pytest.mark.parametrize("load", [lambda loader: loader, Prepared], ids=["plain", "prepared"])
def test_a_loop_takes_what_record_takes(tmp_path, wrap, load):
    model = net()
    optimizer, loader = torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data(), 4, shuffle=True)
    with record(tmp_path / "run", model, wrap(optimizer), load(loader), Recording(checkpoints="every"), seed=1) as recorder:
        fit(recorder, model, optimizer.step, 2)
    methods, targets = ["grand", "tracin", "sgd_influence"], {"validation": (torch.randn(3, 4), torch.tensor([0, 1, 2]))}
    wrapped, plain = (
        assay.score(tmp_path / "run", methods, loop=loop, targets=targets, save=False)
        for loop in (assay.Loop(model, wrap(optimizer), load(loader)), assay.Loop(model, optimizer, loader))
    )
    assert all(torch.equal(wrapped[name].values, plain[name].values) for name in methods)


NOT_OPTIMIZERS = {
    "none": (None, r"optimizer= is None; make the optimizer before recording"),
    "an empty list": ([], r"optimizer= is of type list and no torch optimizer"),
    "a list of two": ([torch.optim.SGD(net().parameters()), 3], "optimizer= is of type int and no torch optimizer"),
    "a number": (3, "optimizer= is 3; give Optimizer"),
}


@pytest.mark.parametrize("name", NOT_OPTIMIZERS)
def test_what_is_no_optimizer_is_refused(tmp_path, name):
    optimizer, words = NOT_OPTIMIZERS[name]
    with pytest.raises(UsageError, match=words):
        record(tmp_path / "run", net(), optimizer, DataLoader(data(), 4))
    with pytest.raises(UsageError, match="optimizer= is"):
        assay.Loop(net(), optimizer, DataLoader(data(), 4))
    with pytest.raises(UsageError, match="model= is a function"):
        record(tmp_path / "run", net, torch.optim.SGD(net().parameters()), DataLoader(data(), 4))
    assert not (tmp_path / "run").exists()


def test_ids_that_are_a_method_are_refused_with_what_to_give(tmp_path):
    class Named(Numbers):
        def ids(self):
            return [f"n{place}" for place in range(30)]

    model, optimizer = frozen()
    with pytest.raises(
        UsageError, match=r"Named\.ids is a method.*assay\.DataSpec.*ids=dataset\.ids\(\).*ids=range\(len\(dataset\)\)"
    ):
        record(tmp_path / "run", model, optimizer, DataLoader(Named(), 7))
    for place, ids in enumerate((Named().ids(), range(30))):
        with record(tmp_path / str(place), model, optimizer, DataLoader(Named(), 7), data=DataSpec(ids=ids)) as recorder:
            for x, y in recorder.epoch():
                recorder.batch(model(x), y)
        assert list(Run(tmp_path / str(place)).ids) == list(ids)


def hooks(optimizer):
    return len(optimizer._optimizer_step_pre_hooks)


class Odd:
    def state_dict(self):
        return {"rule": {1}}

    def load_state_dict(self, state):
        raise AssertionError


def test_a_refused_recording_leaves_nothing_behind(tmp_path):
    """No hook, no file, no generator moved, no mode changed."""
    trained(tmp_path / "there", epochs=1)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 4, shuffle=True, generator=torch.Generator().manual_seed(0))

    # Not Python's own: the tests' type checks draw from it.
    def everything():
        return (
            torch.get_rng_state().tolist(),
            loader.generator.get_state().tolist(),
            np.random.get_state()[1].tolist(),
        )

    average = nn.Linear(1, 1)
    before, modes = everything(), [module.training for module in model.modules()]
    attempts = [
        ("new", {"stateful": {"odd": Odd()}}, UsageError),
        ("new", {"stateful": {"odd": object()}}, UsageError),
        ("new", {"live": ["sgd_influence"]}, UsageError),
        ("new", {"view": "none"}, UsageError),
        ("new", {"about": {"a": object()}}, UsageError),
        ("there", {}, OutputExists),
        ("there", {"resume": True, "seed": 4}, Mismatch),
        ("there", {"resume": True, "stateful": {"ema": average}}, Mismatch),
        ("there", {"resume": True, "ids": range(5, 17)}, Mismatch),
    ]
    for folder, settings, error in attempts:
        with pytest.raises(error):
            record(tmp_path / folder, model, optimizer, loader, **grouped(settings))
        assert hooks(optimizer) == 0 and not (tmp_path / "new/run.json").exists(), settings
    assert everything() == before and [module.training for module in model.modules()] == modes
    with record(tmp_path / "good", model, optimizer, loader) as recorder:
        assert hooks(optimizer) == 1
        fit(recorder, model, optimizer.step)
    assert hooks(optimizer) == 0
    with pytest.raises(ZeroDivisionError), record(tmp_path / "error", model, optimizer, loader):
        1 / 0  # noqa: B018
    assert hooks(optimizer) == 0


def test_a_run_is_resumed_with_the_optimizer_and_the_objects_that_it_had(tmp_path):
    def go(optimizer=torch.optim.Adam, scheduled=True, resume=True):
        model = net()
        made = optimizer(model.parameters(), lr=0.01)
        stateful = {"scheduler": torch.optim.lr_scheduler.StepLR(made, 1)} if scheduled else {}
        with record(tmp_path, model, made, DataLoader(data(), 4), stateful=stateful, resume=resume) as recorder:
            fit(recorder, model, made.step)

    go(resume=False)
    with pytest.raises(Mismatch, match=r"is of another optimizer than SGD: it has no .*momentum"):
        go(torch.optim.SGD)
    with pytest.raises(Mismatch, match=r"holds the state of scheduler, which would be lost; .*stateful=\{'scheduler'"):
        go(scheduled=False)
    go()
    assert Run(tmp_path).epochs == 2


def test_weights_that_are_not_finite_end_the_recording_where_it_can_be_resumed(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = record(tmp_path, model, optimizer, DataLoader(data(), 4))
    with (
        pytest.raises(
            NumericalError, match=r"Epoch 1: after its last step .* NaN or infinite .*model/0.weight.* ends with epoch 0"
        ),
        recording,
    ):
        fit(recording, model, optimizer.step)
        fit(recording, model, optimizer.step)
        with torch.no_grad():
            model[0].weight.fill_(torch.nan)
    recording.close()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path, model, optimizer, DataLoader(data(), 4), resume=True) as recorder:
        assert recorder.epochs == 1
        fit(recorder, model, optimizer.step)
    assert Run(tmp_path).epochs == 2 and Run(tmp_path).check()


def test_a_schedule_may_begin_at_infinity(tmp_path):
    class Best:
        def state_dict(self):
            return {"best": torch.tensor(torch.inf)}

        def load_state_dict(self, state):
            assert state["best"] == torch.inf

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with record(tmp_path, model, optimizer, DataLoader(data(), 4), stateful={"best": Best()}, resume=True) as recorder:
            fit(recorder, model, optimizer.step)
    assert Run(tmp_path).epochs == 2


def test_a_group_may_join_in_the_middle_of_an_epoch(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with record(tmp_path, model, optimizer, DataLoader(data(), 4), Recording(live=["liveval"])) as recorder:
        for place, (x, y) in enumerate(recorder.epoch()):
            if place == 1:
                optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.3})
            logits = model(x)
            model.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    rates = Run(tmp_path).rates(0)
    assert rates[0, 1].isnan() and rates[1:].tolist() == [[0.1, 0.3], [0.1, 0.3]]


# ---------------------------------------------------------------- methods that run along


class Recomputed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 5), nn.Linear(5, 3), reentrant

    def forward(self, x):
        return self.last(checkpoint(lambda part: self.first(part).tanh(), x.requires_grad_(), use_reentrant=self.reentrant))


def plain_losses(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def autocast_losses(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return plain_losses(model, batch)


def failing(error):
    def losses(model, batch):
        raise error

    return losses


@pytest.mark.parametrize(
    ("model", "losses"),
    [
        (lambda: Recomputed(False), plain_losses),
        (lambda: Recomputed(True), plain_losses),
        (net, autocast_losses),
        (net, failing(MemoryError("no memory"))),
        (net, failing(RuntimeError("CUDA out of memory"))),
        (net, failing(UsageError("A sentence."))),
        (net, failing(KeyError("labels"))),
        (net, lambda model, batch: torch.full((len(batch[1]),), torch.nan)),
    ],
    ids=["checkpoint", "reentrant", "autocast", "memory", "device memory", "ours", "key", "nan"],
)
def test_a_live_method_never_ends_a_training(tmp_path, model, losses):
    """Whatever it meets: right, or stopped with one warning; the training and the recording are those without it."""
    ends = []
    for folder, live in (("with", ["liveval", "aum"]), ("without", ["aum"])):
        torch.manual_seed(0)
        made = model()
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with record(
                tmp_path / folder, made, optimizer, DataLoader(data(), 4), Recording(live=live), data=DataSpec(losses=losses)
            ) as recorder:
                fit(recorder, made, optimizer.step, 2)
        ends.append(made.state_dict())
        stops = [str(one.message) for one in said if "stopped running along" in str(one.message)]
        assert len(stops) <= (live[0] == "liveval")
        run = Run(tmp_path / folder)
        assert run.epochs == 2 and run.check()
        assert assay.score(run, "aum")["aum"].values.isfinite().all()
        if stops:
            assert "Training and recording go on without it." in stops[0]
            with pytest.raises(MissingEvidence, match=r"liveval ran live .* but it stopped in epoch 0: "):
                assay.score(run, "liveval")
        elif live[0] == "liveval":
            try:
                assert assay.score(run, "liveval")["liveval"].values.isfinite().all()
            except NumericalError:
                assert losses not in (plain_losses, autocast_losses)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    assert Run(tmp_path / "with").fingerprint == Run(tmp_path / "without").fingerprint


class Breaks(AbstractStepMethod):
    """Raises where it is told to."""

    name, needs, direction, unit, source = "breaks", frozenset({Need.STEPS}), Direction.LOW_IS_SUSPECT, "", None
    window = "all"

    def __init__(self, where, when=0):
        self.where, self.when, self.calls = where, when, 0

    @property
    def title(self):
        return "breaks"

    def _at(self, place):
        if place == self.where:
            self.calls += 1
            if self.calls > self.when:
                raise ValueError("broken")

    def start(self, examples, evidence=None):
        return {"n": torch.zeros(examples)}

    def update(self, state, step):
        self._at("absorb")
        state["n"][step.positions] += 1

    def streamed(self, state):
        self._at("streamed")
        return None, state

    def compute(self, state):
        self._at("finish")
        return Result(state["n"] + 0)


@pytest.mark.parametrize("when", [0, 1])
@pytest.mark.parametrize("where", ["absorb", "streamed", "finish"])
def test_a_method_may_break_anywhere(tmp_path, where, when):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"live": [Breaks(where, when), "dual:window=2"]}
    with pytest.warns(UserWarning, match=r"breaks stopped running along in epoch \d: ValueError: broken\.") as said:
        with record(tmp_path, model, optimizer, DataLoader(data(), 4), **grouped(settings)) as recorder:
            fit(recorder, model, optimizer.step, 3)
            with pytest.raises(MissingEvidence, match="breaks says nothing: "):
                recorder.live(Breaks("nowhere")).scores()
        # It stays so when the run is resumed, and nothing is said once more.
        with record(tmp_path, model, optimizer, DataLoader(data(), 4), **grouped({"resume": True, **settings})) as recorder:
            fit(recorder, model, optimizer.step, 1)
    assert len(said) == 1
    run = Run(tmp_path)
    assert run.epochs == 4 and run.check() and set(run.stopped()) == {"breaks"}
    assert len(assay.score(run, "dual:window=2")["dual:window=2"].values) == EXAMPLES


@pytest.mark.parametrize("given", ["head", "backbone", "one that moves alone"])
def test_a_second_optimizer_stops_methods_that_value_steps(tmp_path, given):
    model = net()
    backbone, head = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2]))
    alone = given == "one that moves alone"

    def step():
        if not alone:
            backbone.step()
        head.step()

    taken = backbone if given == "backbone" else head
    recording = record(tmp_path, model, taken, DataLoader(data(), 4), Recording(live=["liveval"]))
    if alone:
        with recording as recorder:
            fit(recorder, model, step)
        assert len(assay.score(Run(tmp_path), "liveval")["liveval"].values) == EXAMPLES
        return
    words = r"liveval stopped .*: 2 parameters that the given optimizer does not hold .* changed in a step, so another optimizer moves them"
    with pytest.warns(UserWarning, match=words), recording as recorder:
        fit(recorder, model, step)
    with pytest.raises(MissingEvidence, match="another optimizer moves them"):
        assay.score(Run(tmp_path), "liveval")


def test_an_epoch_that_was_left_stops_methods_that_value_steps(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path, model, optimizer, DataLoader(data(), 4), Recording(live=["liveval", "aum"])) as recorder:
        fit(recorder, model, optimizer.step)
        for x, y in recorder.epoch():
            recorder.batch(model(x), y)
            break
        with pytest.warns(UserWarning) as said:
            fit(recorder, model, optimizer.step)
    words = [str(one.message) for one in said]
    assert any("was left after 1 batches" in one for one in words) and any("liveval stopped" in one for one in words)
    assert len(assay.score(Run(tmp_path), "aum")["aum"].values) == EXAMPLES


def test_before_the_first_epoch_an_epoch_that_was_left_loses_nothing(tmp_path):
    def go(folder, left):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data(), 4, shuffle=True)
        with record(folder, model, optimizer, loader, Recording(live=["liveval"]), seed=1) as recorder:
            if left:
                next(recorder.epoch())
                with pytest.warns(UserWarning, match="was left after 1 batches"):
                    fit(recorder, model, optimizer.step)
            fit(recorder, model, optimizer.step, 1 if left else 2)
        return Run(folder)

    left, whole = go(tmp_path / "left", True), go(tmp_path / "whole", False)
    assert left.fingerprint == whole.fingerprint
    assert left.commits[-1].live.sums == whole.commits[-1].live.sums


# ---------------------------------------------------------------- readers of a recording that goes on


@pytest.mark.slow
def test_a_run_that_was_opened_while_it_is_recorded_goes_on_being_readable(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path, model, optimizer, DataLoader(data(), 4), Recording(live=["tdds:window=3", "liveval"])) as recorder:
        fit(recorder, model, optimizer.step, 4)
        run, other = Run(tmp_path), Run(tmp_path)
        assert run.epochs == 3
        before = {
            "aum": assay.score_separately(run, "aum")["aum"].values,
            "probs": run.mean_probs(),
            "kept": run.checkpoints(),
            "model": {epoch: run.model(epoch) for epoch in run.checkpoints()},
        }
        for _ in range(2):
            fit(recorder, model, optimizer.step, 2)
            for one in (run, other):
                gc.collect()
                assert one.epochs == 3 and one.checkpoints() == before["kept"] and one.check() > 0
                torch.testing.assert_close(assay.score_separately(one, "aum")["aum"].values, before["aum"])
                assert torch.equal(one.mean_probs(), before["probs"]) and torch.equal(one.mean_probs(), before["probs"])
                for epoch, state in before["model"].items():
                    assert all(torch.equal(one.model(epoch)[name], value) for name, value in state.items())
                assert len(assay.score_separately(one, "tdds:window=3")["tdds:window=3"].values) == EXAMPLES
                assert len(one.stream("liveval").values) == 3 * EXAMPLES
    assert Run(tmp_path).epochs == 8


def test_a_run_is_opened_whole_though_epochs_are_committed_meanwhile(tmp_path, monkeypatch):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path, model, optimizer, DataLoader(data(), 4), Recording(live=["aum"])) as recorder:
        fit(recorder, model, optimizer.step, 3)
        late = iter((3, 2))

        def read_and_go_on(paths):
            found = read_run(paths)
            fit(recorder, model, optimizer.step, next(late, 0))
            return found

        monkeypatch.setattr(module, "read_run", read_and_go_on)
        run = Run(tmp_path)
        monkeypatch.undo()
        assert run.epochs == 7 and run.check() and run.mean_probs() is not None
        fit(recorder, model, optimizer.step, 3)
        assert run.epochs == 7 and run.check() and run.mean_probs() is not None


def test_a_file_that_is_really_missing_is_missing(tmp_path):
    _, run = trained(tmp_path, epochs=3)
    (sums,) = (tmp_path / "sums").glob(f"*{run.epochs - 1}*")
    sums.unlink()
    assert run.mean_probs() is not None, "it was open"
    with pytest.raises(RunError, match="is missing though the run committed it"):
        Run(tmp_path).mean_probs()


def test_weights_that_are_restored_inside_the_block_are_said_and_named_by_the_refusal(tmp_path):
    def run_of(folder, inside):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data(), 4)
        with record(folder, model, optimizer, loader) as recorder:
            fit(recorder, model, optimizer.step)
            best = {name: value.clone() for name, value in model.state_dict().items()}
            fit(recorder, model, optimizer.step)
            if inside:
                model.load_state_dict(best)
            else:
                # Written and written back, as an average is for validation.
                now = {name: value.clone() for name, value in model.state_dict().items()}
                model.load_state_dict(best)
                model.load_state_dict(now)
        return Run(folder), assay.Loop(model, optimizer, loader)

    held = {"validation": (torch.randn(4, 4), torch.arange(4) % 3)}
    with pytest.warns(UserWarning, match="weights were changed between the last step of epoch 1 and its end"):
        run, loop = run_of(tmp_path / "inside", True)
    assert run.altered(1) and not run.altered(0)
    with pytest.raises(Mismatch, match=r"The weights were changed after the last step.*restore them after the block"):
        assay.score(run, "sgd_influence", targets=held, loop=loop)
    assert len(assay.score(run, "grand", loop=loop)["grand"]) == EXAMPLES
    run, loop = run_of(tmp_path / "after", False)
    assert not run.altered(1) and len(assay.score(run, "sgd_influence", targets=held, loop=loop)["sgd_influence"]) == EXAMPLES


@pytest.mark.parametrize("restores", [True, False])
def test_weights_that_are_restored_after_a_break_in_the_last_batch_are_noticed_too(tmp_path, restores):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 4)
    with contextlib.ExitStack() as block:
        if restores:
            block.enter_context(
                pytest.warns(UserWarning, match="weights were changed between the last step of epoch 1 and its end")
            )
        recorder = block.enter_context(record(tmp_path, model, optimizer, loader))
        fit(recorder, model, optimizer.step)
        best = {name: value.clone() for name, value in model.state_dict().items()}
        for number, (x, y) in enumerate(recorder.epoch(), 1):
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
            if number == len(loader):
                break
        if restores:
            model.load_state_dict(best)
    run = Run(tmp_path)
    assert run.epochs == 2 and run.altered(1) == restores and not run.altered(0)
    held = {"validation": (torch.randn(4, 4), torch.arange(4) % 3)}
    loop = assay.Loop(model, optimizer, loader)
    if restores:
        with pytest.raises(Mismatch, match=r"The weights were changed after the last step.*restore them after the block"):
            assay.score(run, "sgd_influence", targets=held, loop=loop)
    else:
        assert len(assay.score(run, "sgd_influence", targets=held, loop=loop)["sgd_influence"]) == EXAMPLES


def test_autocast_is_named_where_a_replay_differs(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 4)
    with record(tmp_path / "run", model, optimizer, loader) as recorder:
        for x, y in recorder.epoch():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(x)
            model.zero_grad()
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    held = {"validation": (torch.randn(4, 4), torch.arange(4) % 3)}
    with pytest.raises(
        Mismatch, match=r"computed in bfloat16 under torch\.autocast, in which a step is not repeated: record in float32"
    ):
        assay.score(tmp_path / "run", "sgd_influence", targets=held, loop=assay.Loop(model, optimizer, loader))
