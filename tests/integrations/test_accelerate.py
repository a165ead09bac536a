"""Loops of accelerate: `record` before or after `prepare`, with the same facts as without it."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import assay
from assay.core.errors import Mismatch, UsageError
from assay.replay.generators import seed_loop
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.test_loops import data, net

accelerate = pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*is not recorded"),
    pytest.mark.filterwarnings("error:.*gradients of your loop"),
]


def trained(folder, order, accumulate=1, view="train"):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    loader = DataLoader(data(), 4, shuffle=True)
    if order == "after":
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    recorder = assay.record(folder, model, optimizer, loader, Recording(view=view, live=["aum"]), seed=3)
    if order == "before":
        model, optimizer = accelerator.prepare(model, optimizer)
    with recorder:
        for _ in range(2):
            for x, y in recorder.epoch():
                with accelerator.accumulate(model):
                    logits = model(x)
                    accelerator.backward(F.cross_entropy(logits, y))
                    optimizer.step()
                    optimizer.zero_grad()
                    recorder.batch(logits, y)
    return Run(folder), accelerator.unwrap_model(model)


def plain(folder, accumulate=1, loader=None):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    loader = loader or DataLoader(data(), 4, shuffle=True)
    with assay.record(folder, model, optimizer, loader, Recording(live=["aum"]), seed=3) as recorder:
        for _ in range(2):
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                logits = model(x)
                (F.cross_entropy(logits, y) / accumulate).backward()
                if number % accumulate == 0 or number == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.batch(logits, y)
    return Run(folder), model


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loader_prepared_or_not_is_recorded_as_it_was_iterated(tmp_path, accumulate):
    run, model = trained(tmp_path / "before", "before", accumulate)
    other, same = plain(tmp_path / "plain", accumulate)
    assert run.fingerprint == other.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    prepared = accelerate.Accelerator(cpu=True).prepare(DataLoader(data(), 4, shuffle=True))
    run, model = trained(tmp_path / "after", "after", accumulate)
    other, same = plain(tmp_path / "prepared", accumulate, prepared)
    assert run.fingerprint == other.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_clean_pass_and_live_values(tmp_path, order):
    run, model = trained(tmp_path / "run", order, view="eval")
    inputs, labels = data().tensors
    with torch.no_grad():
        losses = F.cross_entropy(model.eval()(inputs), labels, reduction="none")
    torch.testing.assert_close(run.shard(1).read("losses"), losses, rtol=1e-5, atol=1e-6)
    assert assay.score(run, "aum", save=False)["aum"].values.isfinite().all()


def test_methods_that_take_the_training_again_and_resuming(tmp_path):
    run, _ = trained(tmp_path / "run", "after")
    model, optimizer, loader = accelerate.Accelerator(cpu=True).prepare(
        made := net(), torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.5), DataLoader(data(), 4, shuffle=True)
    )
    loop = assay.Loop(model, optimizer, loader, begin_epoch=loader.set_epoch)
    targets = {"validation": (torch.randn(3, 4), torch.tensor([0, 1, 2]))}
    scores = assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    assert scores.values.isfinite().all()
    with assay.record(tmp_path / "run", model, optimizer, loader, Recording(live=["aum"]), seed=3, resume=True) as recorder:
        assert recorder.epochs == 2


def test_accumulated_steps_are_taken_again_as_accelerate_divides_them(tmp_path):
    # 3 batches in steps of 2 and 1; accelerate divides each by 2.
    run, _ = trained(tmp_path / "run", "after", accumulate=2)
    other, _ = plain(tmp_path / "plain", 2, accelerate.Accelerator(cpu=True).prepare(DataLoader(data(), 4, shuffle=True)))
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(
        made := net(), torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.5), DataLoader(data(), 4, shuffle=True)
    )
    targets = {"validation": (torch.randn(3, 4), torch.tensor([0, 1, 2]))}

    def scored(run, divided):
        loop = assay.Loop(model, optimizer, loader, begin_epoch=loader.set_epoch, accumulate=divided)
        return assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"].values

    assert torch.equal(scored(run, accelerator.gradient_accumulation_steps), scored(other, 2))
    with pytest.raises(Mismatch):
        scored(run, "batches")


def test_a_prepared_loader_that_leaves_examples_out_is_refused_before_training(tmp_path):
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(
        made := net(), torch.optim.SGD(made.parameters(), lr=0.1), DataLoader(data(), 5, shuffle=True, drop_last=True)
    )
    with pytest.raises(UsageError, match="drop_last=True leaves 2 of 12 examples out of every epoch"):
        assay.record(tmp_path / "run", model, optimizer, loader)
    assert not (tmp_path / "run").exists()


def test_the_seed_reaches_the_sampler_whose_batches_are_shared_out():
    def shared(process):
        return accelerate.data_loader.prepare_data_loader(
            DataLoader(data(), 3, shuffle=True), num_processes=2, process_index=process, put_on_device=False
        )

    loaders = [shared(process) for process in (0, 1, 0)]
    orders = []
    for process, loader in enumerate(loaders[:2]):
        seed_loop(7, 1, loader, process)
        orders.append(list(loader.batch_sampler))
    # Another begins with that epoch, as a resumed training does.
    seed_loop(7, 1, loaders[2])
    assert list(loaders[2].batch_sampler) == orders[0]
    assert sorted(place for order in orders for batch in order for place in batch) == list(range(12))
