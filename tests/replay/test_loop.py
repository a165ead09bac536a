"""What a loop that is taken again must say of itself, and of the average that it keeps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.errors import Mismatch, MissingEvidence, UsageError

EXAMPLES, CLASSES = 12, 3


def data():
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(EXAMPLES + 6, 4, generator=draw)
    return inputs, torch.arange(EXAMPLES + 6) % CLASSES


def net(width=5):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, CLASSES))


def trained(folder, ema=0.8, often=1, late=0, extra=(), epochs=2, stop=None, averaging=None, **settings):
    """A recorded loop, in two sittings if `stop` says so: model, optimizer, loader and averaged model.

    Args:
        often: How many updates of the average a step has; `late`: before how many steps there is none.
        extra: Names of more averaged models.
        averaging: What is averaged, where it is not the model.
    """
    inputs, labels = data()
    for last in [*([stop] if stop else []), epochs]:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        loader = DataLoader(TensorDataset(inputs[:EXAMPLES], labels[:EXAMPLES]), 4, shuffle=True)
        averaged = AveragedModel(averaging or model, multi_avg_fn=get_ema_multi_avg_fn(ema), **settings)
        stateful = {"ema": averaged} | {name: AveragedModel(model) for name in extra}
        with assay.record(
            folder, model, optimizer, loader, assay.Recording(checkpoints="every"), seed=0, stateful=stateful, resume=True
        ) as recorder:
            for _ in range(recorder.epochs, last):
                for step, (x, y) in enumerate(recorder.epoch()):
                    logits = model(x)
                    optimizer.zero_grad()
                    F.cross_entropy(logits, y).backward()
                    optimizer.step()
                    for _ in range(often if recorder.epochs or step >= late else 0):
                        averaged.update_parameters(averaging or model)
                    recorder.batch(logits, y)
    return model, optimizer, loader, averaged


def scored(folder, model, optimizer, loader, **given):
    inputs, labels = data()
    targets = {"validation": (inputs[EXAMPLES:], labels[EXAMPLES:])}
    return assay.score(folder, "sgd_influence", loop=assay.Loop(model, optimizer, loader, **given), targets=targets)[
        "sgd_influence"
    ]


@pytest.mark.parametrize("given", [{"ema": 0}, {"ema": 1.0}, {"ema": float("nan")}, {"clip": 0.0}, {"clip": -1}])
def test_settings_out_of_range_are_refused(given):
    model = net()
    ((name, value),) = given.items()
    with pytest.raises(UsageError, match=f"Loop: {name}={value} is not"):
        assay.Loop(model, torch.optim.SGD(model.parameters()), DataLoader(TensorDataset(*data())), **given)


def test_an_average_is_taken_again_to_the_bit_also_of_a_resumed_run(tmp_path):
    *loop, averaged = trained(tmp_path / "run", epochs=3)
    whole = scored(tmp_path / "run", *loop, ema=0.8)
    *loop, other = trained(tmp_path / "parts", epochs=3, stop=1)
    assert all(torch.equal(one, two) for one, two in zip(averaged.parameters(), other.parameters(), strict=True))
    assert torch.equal(scored(tmp_path / "parts", *loop, ema=0.8).values, whole.values)
    # Without ema= what counts is the model itself.
    assert not torch.allclose(scored(tmp_path / "run", *loop).values, whole.values, rtol=0.05)


def test_an_average_may_have_begun_before_the_recording(tmp_path):
    *loop, averaged = trained(tmp_path / "first")
    model, optimizer, loader = loop
    inputs, labels = data()
    with assay.record(tmp_path / "run", model, optimizer, loader, seed=0, stateful={"ema": averaged}) as recorder:
        for _ in range(2):
            for x, y in recorder.epoch():
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                averaged.update_parameters(model)
                recorder.batch(logits, y)
    targets = {"validation": (inputs[EXAMPLES:], labels[EXAMPLES:])}
    how = assay.Loop(model, optimizer, loader, ema=0.8)
    table = assay.score(tmp_path / "run", ["sgd_influence:checks=2", "loo"], loop=how, targets=targets)
    (checked,) = (one for title, one in table.items() if title.startswith("sgd"))
    assert checked.diagnostics["relative error of the prediction"] < 0.05


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"often": 2}, UsageError, "updated 6 times by the end of epoch 0, after 3 recorded steps"),
        ({"late": 2}, UsageError, "updated 1 times by the end of epoch 0, after 3 recorded steps"),
        ({"extra": ["swa"]}, MissingEvidence, "recorded 2 averaged models; record with stateful={'ema': averaged_model}"),
        ({"use_buffers": True}, UsageError, r"has other buffers than the model \(1\.running_mean\), by use_buffers=True"),
        ({"averaging": net(width=7)}, Mismatch, "averaged model that .* recorded is not one of this model"),
        ({"ema": 0.9}, Mismatch, "the average of .* among them; they are .* of their norm apart"),
    ],
)
def test_an_average_that_cannot_be_taken_again_is_refused(tmp_path, given, error, words):
    *loop, _ = trained(tmp_path / "run", **given)
    with pytest.raises(error, match=words):
        scored(tmp_path / "run", *loop, ema=0.8)


def test_an_average_that_was_not_recorded_is_refused(tmp_path):
    *loop, _ = trained(tmp_path / "run")
    model, optimizer, loader = loop
    with assay.record(tmp_path / "bare", model, optimizer, loader) as recorder:
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    with pytest.raises(
        MissingEvidence, match=r"ema=0\.8, and .* recorded no averaged models; record with stateful={'ema': averaged_model}"
    ):
        scored(tmp_path / "bare", *loop, ema=0.8)
