"""Saved models of a training that nobody recorded: the run that they make gives what the recorded training gives."""

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, NumericalError, OutputExists, UsageError

N, CLASSES, EPOCHS = 60, 3, 3
DRAW = torch.Generator().manual_seed(0)
INPUTS = torch.randn(N, 6, generator=DRAW)
LABELS = torch.arange(N) % CLASSES
DATA = TensorDataset(INPUTS, LABELS)
HELD = torch.randn(9, 6, generator=DRAW), torch.arange(9) % CLASSES


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))


def loader():
    return DataLoader(DATA, batch_size=20)


def trained(folder=None):
    """States after each epoch, and the rates; recorded along if a folder is given."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    states, rates, batches = [], [], loader()
    recording = assay.Recording(view="eval", checkpoints="every")
    recorder = None if folder is None else assay.record(folder, model, optimizer, batches, recording)
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = 0.2 / (epoch + 1)
        for x, y in batches if recorder is None else recorder.epoch():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        states.append(copy.deepcopy(model.state_dict()))
        rates.append(optimizer.param_groups[0]["lr"])
    if recorder is not None:
        recorder.close()
    return states, rates


STATES, RATES = trained()
METHODS = [
    "aum",
    "confidence",
    "forgetting",
    "el2n:at=2",
    "grand",
    "tracin:target=self",
    "tracin",
    "vog",
    "prediction_depth:k=5",
]


def loop(model=None):
    model = model or net(1)
    # Another optimizer than that of the training: its state was not saved.
    return assay.Loop(model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0), loader())


def scores_of(folder, methods=METHODS, made=None):
    asked = any(method in ("tracin", "sgd_influence", "source", "loo", "in_run_shapley") for method in methods)
    return assay.score(folder, methods, loop=made or loop(), targets={"validation": HELD} if asked else None)


def test_scores_are_those_of_the_recorded_training(tmp_path):
    states, rates = trained(tmp_path / "recorded")
    assert all(torch.equal(states[-1][name], STATES[-1][name]) for name in states[-1])
    model = net(3)
    before = copy.deepcopy(model.state_dict())
    run = assay.from_checkpoints(tmp_path / "run", model, loader(), STATES, RATES)
    assert run.epochs == EPOCHS and run.passes.kind == "evaluation" and not run.has_steps and rates == RATES
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and model.training
    found = scores_of(run)
    own = net()
    wanted = scores_of(tmp_path / "recorded", made=assay.Loop(own, torch.optim.SGD(own.parameters(), lr=0.2), loader()))
    for title in METHODS:
        assert torch.allclose(found[title].values, wanted[title].values, rtol=1e-6, atol=1e-9), title
    assert found["aum"].diagnostics["made of"].startswith("3 passes, in evaluation mode: the model was trained on")
    # Examples and model are compared with the recording, as of any run.
    with pytest.raises(Mismatch):
        scores_of(run, ["grand"], made=dataclasses.replace(loop(), loader=DataLoader(TensorDataset(-INPUTS, LABELS), 20)))


def test_influence_at_the_last_saved_model_is_a_solve_by_hand(tmp_path):
    head = nn.Sequential(nn.Linear(6, CLASSES, bias=False))
    torch.manual_seed(5)
    states = [{"0.weight": 0.3 * torch.randn(CLASSES, 6)} for _ in range(2)]
    run = assay.from_checkpoints(tmp_path / "run", head, DATA, states)
    damping = 0.05
    title = f"influence:solver=cholesky,damping={damping},decay=none"
    made = assay.Loop(head, torch.optim.SGD(head.parameters(), lr=0.1), loader())
    (scores,) = assay.score(run, [title], loop=made, targets={"validation": HELD}).values()
    found = scores.values
    weight = states[-1]["0.weight"].double()
    jacobians = torch.func.vmap(torch.func.grad(lambda w, x, y: F.cross_entropy((x @ w.T)[None], y[None])), (None, 0, 0))
    own = jacobians(weight, INPUTS.double(), LABELS).flatten(1)
    mean = lambda w: F.cross_entropy(INPUTS.double() @ w.reshape(CLASSES, 6).T, LABELS)  # noqa: E731
    hessian = torch.func.hessian(mean)(weight.flatten())
    target = jacobians(weight, HELD[0].double(), HELD[1]).flatten(1).mean(0)
    wanted = own @ torch.linalg.solve(hessian + damping * torch.eye(len(hessian)), target) / N
    assert torch.allclose(found.abs(), wanted.abs(), rtol=1e-4, atol=1e-9)
    assert torch.corrcoef(torch.stack([found, wanted]))[0, 1].abs() > 0.9999


def test_methods_of_steps_and_of_rates_that_are_not_known_are_refused_in_a_sentence(tmp_path):
    run = assay.from_checkpoints(tmp_path / "run", net(), DATA, STATES)
    for method in ("sgd_influence", "loo", "oti", "in_run_shapley", "tracin:target=self,every=step"):
        with pytest.raises(MissingEvidence, match="was made of saved models, between which no step is known"):
            scores_of(run, [method])
    with pytest.raises(MissingEvidence, match=r"learning rate at checkpoint 0 .* give assay\.from_checkpoints rates="):
        scores_of(run, ["tracin:target=self"])
    with pytest.raises(MissingEvidence, match="no step is known, and so not how far they went"):
        scores_of(run, ["source"])
    with pytest.raises(MissingEvidence, match="between which no step is known"):
        assay.attribute(run, "sgd_influence", loop=loop(), targets={"validation": HELD})
    refused = assay.score(run, "all").refused
    assert "no step is known" in refused["sgd_influence"] and "loop=assay.Loop" in refused["grand"]


def written(folder, how):
    """The states as somebody's trainer left them."""
    folder.mkdir()
    for place, (state, rate) in enumerate(zip(STATES, RATES, strict=True)):
        groups = {"param_groups": [{"lr": rate, "params": [0, 1]}], "state": {}}
        step = 3 * (place + 1)
        if how == "state dicts":
            torch.save(state, folder / f"epoch_{9 + place}.pt")
        elif how == "safetensors":
            save_file(state, folder / f"{step}.safetensors")
        elif how == "a dictionary":
            torch.save({"model_state_dict": state, "optimizer_state_dict": groups, "epoch": place}, folder / f"{step}.pth")
        elif how == "compiled and parallel":
            torch.save({f"module._orig_mod.{name}": value for name, value in state.items()}, folder / f"{step}.pt")
        elif how == "lightning":
            body = {"state_dict": {f"net.{name}": value for name, value in state.items()} | {"loss.weight": torch.ones(3)}}
            body |= {"optimizer_states": [groups], "hyper_parameters": {"lr": 0.2}, "epoch": place, "global_step": step}
            torch.save(body, folder / f"epoch={place}-step={step}.ckpt")
            torch.save(body, folder / "last.ckpt")
        else:
            (folder / f"checkpoint-{step}").mkdir()
            log = [{"step": 3 * (one + 1), "learning_rate": RATES[one], "loss": 1.0} for one in range(EPOCHS)] + [
                {"step": step, "eval_loss": 1.0}
            ]
            (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(
                json.dumps({"global_step": step, "log_history": log})
            )
            if how == "hugging face":
                save_file(state, folder / f"checkpoint-{step}" / "model.safetensors")
            else:
                names = list(state)
                for part, own in enumerate((names[:3], names[3:])):
                    save_file({name: state[name] for name in own}, folder / f"checkpoint-{step}" / f"part-{part}.safetensors")
                where = {name: f"part-{int(place >= 3)}.safetensors" for place, name in enumerate(names)}
                (folder / f"checkpoint-{step}" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize(
    ("how", "rated"),
    [
        ("state dicts", False),
        ("safetensors", False),
        ("compiled and parallel", False),
        ("a dictionary", True),
        ("lightning", True),
        ("hugging face", True),
        ("hugging face in parts", True),
    ],
)
def test_every_kind_of_folder(tmp_path, how, rated):
    folder = written(tmp_path / "saved", how)
    run = assay.from_checkpoints(tmp_path / "run", net(), loader(), folder)
    assert run.epochs == EPOCHS
    for epoch, state in enumerate(STATES):
        kept = run.model(epoch)
        assert all(torch.equal(kept[name], value) for name, value in state.items())
    if rated:
        assert [float(run.saved_rates(epoch)) for epoch in range(EPOCHS)] == pytest.approx(RATES)
    else:
        with pytest.raises(MissingEvidence):
            run.saved_rates(0)


def test_weights_that_two_layers_share_may_stand_once_in_a_file(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.up.weight = self.down.weight

        def forward(self, x):
            return self.up(torch.tanh(self.down(x)))

    save_file({"down.weight": torch.eye(6)}, tmp_path / "1.safetensors")
    run = assay.from_checkpoints(tmp_path / "run", Tied(), DataLoader(DATA, 20), [tmp_path / "1.safetensors"])
    assert torch.allclose(
        run.shard(0).read("target_probs"), torch.tanh(INPUTS).softmax(1).gather(1, LABELS[:, None])[:, 0], atol=1e-6
    )


class Payload:
    """What would run where a file is unpickled."""

    def __reduce__(self):
        return (print, ("never printed",))


def test_a_file_that_could_run_code_is_not_read(tmp_path, capsys):
    torch.save({"state_dict": STATES[0], "hook": Payload()}, tmp_path / "1.ckpt")
    with pytest.raises(UsageError, match="reading them could run what stands in the file"):
        assay.from_checkpoints(tmp_path / "run", net(), DATA, [tmp_path / "1.ckpt"])
    assert "never printed" not in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused_and_leaves_model_and_folder_as_they_were(tmp_path):
    model = net(3)
    before = copy.deepcopy(model.state_dict())
    one = STATES[0]
    other = nn.Linear(6, 3).state_dict()
    torch.save({"ema": one, "student": one}, tmp_path / "two.pt")
    torch.save({f"{prefix}.{name}": value for prefix in ("a", "b") for name, value in one.items()}, tmp_path / "prefixes.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "empty").mkdir()
    (tmp_path / "unordered").mkdir()
    for name in ("best.pt", "final.pt"):
        torch.save(one, tmp_path / "unordered" / name)
    live = model.state_dict()
    nan = {name: value * float("nan") if value.is_floating_point() else value for name, value in one.items()}
    for checkpoints, extra, error, words in (
        ([one, other], {}, Mismatch, "checkpoint 1 is not of this model: it lacks 9 of its 9 tensors"),
        ([one | {"extra": torch.zeros(1)}], {}, Mismatch, "holds 1 tensors that the model has not"),
        ([one | {"0.weight": torch.zeros(2, 2)}], {}, Mismatch, r"0\.weight has shape \(2, 2\) in it, \(8, 6\) in the model"),
        ([nan], {}, Mismatch, "NaN or infinite"),
        ([live], {}, UsageError, "shares its memory with the model"),
        ([one, one], {}, UsageError, "Checkpoint 1 shares its memory with one before it"),
        (one, {}, UsageError, "a single state dict"),
        ([], {}, UsageError, "There are no checkpoints"),
        (5, {}, UsageError, "checkpoints= is a int"),
        ([5], {}, UsageError, "Checkpoint 0 is a int"),
        ([tmp_path / "two.pt"], {}, Mismatch, "several states of such a model"),
        ([tmp_path / "prefixes.pt"], {}, Mismatch, r"several such models, under a\., b\."),
        ([tmp_path / "broken.pt"], {}, UsageError, "broken.pt"),
        ([tmp_path / "absent.pt"], {}, UsageError, "is absent"),
        (tmp_path / "empty", {}, UsageError, "neither folders checkpoint-NUMBER nor files"),
        (tmp_path / "unordered", {}, UsageError, "do not tell their order"),
        ([tmp_path / "empty"], {}, UsageError, "holds no model.safetensors"),
        (STATES, {"rates": [0.1]}, UsageError, "1 rates were given for more checkpoints"),
        (STATES, {"rates": [0.1] * 4}, UsageError, "4 rates were given for 3 checkpoints"),
        (STATES, {"rates": [0.1, -1, 0.1]}, UsageError, "rates= of checkpoint 1 is -1"),
        (STATES, {"rates": ["a"] * 3}, UsageError, "rates= is a learning rate for each checkpoint"),
        (STATES, {"data": assay.DataSpec(ids=range(3))}, UsageError, "3 ids were given for a dataset of 60"),
    ):
        with pytest.raises(error, match=words):
            assay.from_checkpoints(tmp_path / "run", model, DATA, checkpoints, **extra)
        assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".run*")), words
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), words
    huge = one | {"3.weight": torch.full((CLASSES, 8), 3e38)}
    with pytest.raises(NumericalError):
        assay.from_checkpoints(tmp_path / "run", model, DATA, [huge])
    assay.from_checkpoints(tmp_path / "run", model, DATA, STATES)
    with pytest.raises(OutputExists):
        assay.from_checkpoints(tmp_path / "run", model, DATA, STATES)


def test_the_order_of_files_is_that_of_epochs_and_not_of_losses_in_their_names(tmp_path):
    for epoch, loss in enumerate((0.9, 0.5, 0.7)):
        for folder, name in (("told", f"val_loss={loss:.2f}-epoch={epoch}.ckpt"), ("untold", f"net_{loss}_{epoch}.pt")):
            (tmp_path / folder).mkdir(exist_ok=True)
            torch.save(STATES[epoch], tmp_path / folder / name)
    run = assay.from_checkpoints(tmp_path / "run", net(), loader(), tmp_path / "told")
    listed = assay.from_checkpoints(tmp_path / "listed", net(), loader(), STATES[:3])
    for epoch in range(3):
        assert torch.equal(run.shard(epoch).read("losses"), listed.shard(epoch).read("losses"))
    with pytest.raises(UsageError, match=r"differ first in fractions \(0\.\d, 0\.\d and 1 more\), which do not tell their order"):
        assay.from_checkpoints(tmp_path / "other", net(), loader(), tmp_path / "untold")


def test_several_labels_are_reduced_as_it_is_said(tmp_path):
    labels = (torch.rand(N, CLASSES, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    batches = DataLoader(TensorDataset(INPUTS, labels), batch_size=20)
    run = assay.from_checkpoints(
        tmp_path / "run", net(), batches, STATES, data=assay.DataSpec(task="labels", reduce_labels="worst")
    )
    each = torch.stack([run.shard(epoch).read("losses") for epoch in range(EPOCHS)]).double().mean(0)
    (loss,) = assay.score(run, "loss").values()
    torch.testing.assert_close(loss.values, each.max(1).values)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ids": range(N), "id_field": 0}, "id_field= is about the batches of a training"),
        ({"visits": "any"}, "visits= is about the batches of a training"),
        ({"visits": "any", "labels": LABELS.numpy()}, "visits= is about the batches of a training"),
        ({"task": "losses"}, "no losses= is given"),
    ],
)
def test_what_is_said_of_a_training_pass_is_refused(tmp_path, spec, words):
    with pytest.raises(UsageError, match=words):
        assay.from_checkpoints(tmp_path / "run", net(), loader(), STATES, data=assay.DataSpec(**spec))
    assert not (tmp_path / "run").exists()
