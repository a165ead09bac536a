"""Loops of accelerate: `record` before or after `prepare`, with the same facts as without it."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, default_collate

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


def prepared(accumulate=1, workers=0, mixed=None, prepares=True):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate, mixed_precision=mixed)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    loader = DataLoader(data(), 4, shuffle=True, num_workers=workers)
    return accelerator, *(accelerator.prepare(model, optimizer, loader) if prepares else (model, optimizer, loader))


def fit(accelerator, model, optimizer, batches, note=lambda logits, labels: None):
    for x, y in batches:
        with accelerator.accumulate(model):
            logits = model(x)
            accelerator.backward(F.cross_entropy(logits, y))
            optimizer.step()
            optimizer.zero_grad()
            note(logits, y)


def trained(folder, order, accumulate=1, epochs=2, resume=False, data=None, workers=0, mixed=None, **recording):
    accelerator, model, optimizer, loader = prepared(accumulate, workers, mixed, prepares=order == "after")
    kept = Recording(**{"live": ["aum"], **recording})
    recorder = assay.record(folder, model, optimizer, loader, kept, data=data, seed=3, resume=resume)
    if order == "before":
        model, optimizer = accelerator.prepare(model, optimizer)
    with recorder:
        for _ in range(recorder.epochs, epochs):
            fit(accelerator, model, optimizer, recorder.epoch(), recorder.batch)
    return Run(folder), accelerator.unwrap_model(model)


def plain(folder, accumulate=1, loader=None, autocast=False, live=("aum",)):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    loader = loader or DataLoader(data(), 4, shuffle=True)
    with assay.record(folder, model, optimizer, loader, Recording(live=live), seed=3) as recorder:
        for _ in range(2):
            for number, (x, y) in enumerate(recorder.epoch(), 1):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    logits = model(x)
                logits = logits.float()
                (F.cross_entropy(logits, y) / accumulate).backward()
                if number % accumulate == 0 or number == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.batch(logits, y)
    return Run(folder), model


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def loader_of():
    return accelerate.Accelerator(cpu=True).prepare(DataLoader(data(), 4, shuffle=True))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loader_prepared_or_not_is_recorded_as_it_was_iterated(tmp_path, accumulate):
    run, model = trained(tmp_path / "before", "before", accumulate)
    other, plainly = plain(tmp_path / "plain", accumulate)
    assert run.fingerprint == other.fingerprint and same(model, plainly)
    run, model = trained(tmp_path / "after", "after", accumulate)
    other, plainly = plain(tmp_path / "prepared", accumulate, loader_of())
    assert run.fingerprint == other.fingerprint and same(model, plainly)


@pytest.mark.parametrize("settings", [{"workers": 2}, {"mixed": "bf16"}], ids=["workers", "bf16"])
def test_workers_and_bf16_give_the_facts_and_weights_of_a_plain_loop(tmp_path, settings):
    run, model = trained(tmp_path / "run", "after", **settings)
    other, plainly = plain(tmp_path / "plain", loader=loader_of(), autocast="mixed" in settings)
    assert run.epochs == 2 and same(model, plainly)
    for one, twin in zip(run.commits, other.commits, strict=True):
        # A prepared model computes in bf16 inside its forward, so also the losses in eval mode that a run keeps to check loops by.
        apart = {name for name, value in one.shard.sums.items() if twin.shard.sums[name] != value}
        assert all(name.startswith("content") for name in apart) and ("mixed" in settings or not apart)
        assert one.autocast == twin.autocast == ({"cpu": "bfloat16"} if "mixed" in settings else None)


def test_a_model_that_is_no_longer_prepared_for_bf16_is_told_so(tmp_path):
    trained(tmp_path / "run", "after", mixed="bf16", checkpoints="every")
    model, loader = net(), loader_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    words = r"computed in bfloat16 under torch\.autocast, and here it does not: where its forward set that"
    with pytest.raises(Mismatch, match=words):
        assay.score(
            tmp_path / "run", "grand", strict=True, loop=assay.Loop(model, optimizer, loader, begin_epoch=loader.set_epoch)
        )


def test_without_a_seed_training_ends_as_if_nobody_recorded(tmp_path):
    weights = []
    for recorded in (False, True):
        torch.manual_seed(7)
        accelerator, model, optimizer, loader = prepared(accumulate=2)
        if recorded:
            with assay.record(tmp_path / "run", model, optimizer, loader, Recording(live=["aum"])) as recorder:
                for _ in range(2):
                    fit(accelerator, model, optimizer, recorder.epoch(), recorder.batch)
        else:
            for _ in range(2):
                fit(accelerator, model, optimizer, loader)
        weights.append(model)
    assert same(*weights) and Run(tmp_path / "run").epochs == 2


def test_a_resumed_training_goes_on_with_its_run(tmp_path):
    whole, model = trained(tmp_path / "whole", "after", epochs=4)
    trained(tmp_path / "parts", "after")
    run, again = trained(tmp_path / "parts", "after", epochs=4, resume=True)
    assert run.epochs == whole.epochs == 4 and run.fingerprint == whole.fingerprint and same(again, model)


def saved(folder, epochs, *, load=None, when="after", save=None, begin=0, seed=3, seedable=True, resume=False):
    """A loop that keeps checkpoints of accelerate, with a schedule; recorded, if it is given a folder."""
    torch.manual_seed(11)
    config = accelerate.utils.DataLoaderConfiguration(use_seedable_sampler=seedable)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, DataLoader(data(), 4, shuffle=True), scheduler)

    def train(batches, note=lambda logits, labels: None):
        for epoch in range(begin, epochs):
            loader.set_epoch(epoch)
            fit(accelerator, model, optimizer, batches(), note)
            scheduler.step()
            if save and epoch == epochs - 1:
                accelerator.save_state(save)

    if load and when == "before":
        accelerator.load_state(load)
    if folder is None:
        if load and when == "after":
            accelerator.load_state(load)
        train(lambda: loader)
        return model
    with assay.record(folder, model, optimizer, loader, seed=seed, resume=resume) as recorder:
        if load and when == "after":
            accelerator.load_state(load)
        train(recorder.epoch, recorder.batch)
    return model


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("seedable", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_is_gone_on_with_from_the_checkpoint_of_accelerate(tmp_path, when, seedable, seed):
    own, settings = str(tmp_path / "own"), {"seedable": seedable, "seed": seed}
    saved(tmp_path / "parts", 2, save=own, **settings)
    model = saved(tmp_path / "parts", 4, begin=2, load=own, when=when, resume=True, **settings)
    whole = saved(tmp_path / "whole", 4, **settings)
    run = Run(tmp_path / "parts")
    assert run.epochs == 4 and run.fingerprint == Run(tmp_path / "whole").fingerprint and same(model, whole)
    if seed is None:
        # As if nobody recorded.
        saved(None, 2, save=own, **settings)
        assert same(saved(None, 4, begin=2, load=own, **settings), model)


@pytest.mark.parametrize("counted", [False, True])
def test_a_prepared_loader_draws_the_order_of_the_epoch_that_was_set(tmp_path, counted):
    def order(folder, begin, resume=False):
        config = accelerate.utils.DataLoaderConfiguration(use_seedable_sampler=True, data_seed=1)
        accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
        made = net()
        prepared = accelerator.prepare(made, torch.optim.SGD(made.parameters(), lr=0.1), DataLoader(data(), 4, shuffle=True))
        with assay.record(folder, *prepared, seed=4, resume=resume) as recorder:
            for epoch in range(begin, begin + 2):
                if counted:
                    prepared[2].set_epoch(epoch)
                fit(accelerator, *prepared[:2], recorder.epoch(), recorder.batch)
        assert prepared[2].iteration == begin + 2
        return [Run(folder).shard(epoch).read("order").tolist() for epoch in range(Run(folder).epochs)]

    order(tmp_path / "parts", 0)
    orders = order(tmp_path / "parts", 2, resume=True)
    # Without a count of the user's, by the seed, which lets a run be resumed to the bit.
    assert len({tuple(each) for each in orders}) == 4
    if counted:
        assert order(tmp_path / "later", 2) == orders[2:]


def test_a_checkpoint_of_accelerate_that_is_not_the_end_of_the_run_is_not_taken_silently(tmp_path):
    first, run = str(tmp_path / "first"), tmp_path / "run"
    saved(run, 1, save=first)
    saved(run, 2, begin=1, resume=True)
    kept = Run(run).fingerprint
    with pytest.raises(Mismatch, match="ended epoch 1 with other weights than the model has now, which something changed after"):
        saved(run, 3, begin=2, load=first, resume=True)
    assert Run(run).fingerprint == kept
    accelerator, model, optimizer, loader = prepared()
    with assay.record(run, model, optimizer, loader, seed=3, resume=True) as recorder:
        fit(accelerator, model, optimizer, accelerator.skip_first_batches(loader, 2))
        with pytest.raises(Mismatch, match=r"as steps outside recorder\.epoch\(\) did"):
            next(recorder.epoch())
    with pytest.warns(UserWarning, match=r"set model and optimizer back to the end of epoch 1 of .* learnt or loaded"):
        saved(run, 3, begin=2, load=first, when="before", resume=True)


def test_live_values_are_those_of_a_plain_loop_and_accumulated_ones_those_of_a_replay(tmp_path):
    def values(run, **more):
        return assay.score(run, "liveval", save=False, strict=True, **more)["liveval"].values

    run, _ = trained(tmp_path / "run", "after", live=["liveval"])
    other, _ = plain(tmp_path / "plain", loader=loader_of(), live=["liveval"])
    assert values(run).any() and torch.equal(values(run), values(other))
    # 3 batches in steps of 2 and 1; accelerate divides each by 2.
    live, _ = trained(tmp_path / "live", "after", 2, live=["liveval"], data=assay.DataSpec(accumulate=2))
    silent, _ = trained(tmp_path / "silent", "after", 2)
    _, model, optimizer, loader = prepared(2)
    loop = assay.Loop(model, optimizer, loader, begin_epoch=loader.set_epoch, accumulate=2)
    assert live.micro_batches(0) == [2, 1] and not live.stopped()
    torch.testing.assert_close(values(live), values(silent, loop=loop), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_clean_pass_and_live_values(tmp_path, order):
    run, model = trained(tmp_path / "run", order, view="eval")
    inputs, labels = data().tensors
    with torch.no_grad():
        losses = F.cross_entropy(model.eval()(inputs), labels, reduction="none")
    torch.testing.assert_close(run.shard(1).read("losses"), losses, rtol=1e-5, atol=1e-6)
    assert assay.score(run, "aum", save=False)["aum"].values.isfinite().all()


def test_methods_that_take_the_training_again(tmp_path):
    run, _ = trained(tmp_path / "run", "after")
    _, model, optimizer, loader = prepared()
    loop = assay.Loop(model, optimizer, loader, begin_epoch=loader.set_epoch)
    targets = {"validation": (torch.randn(3, 4), torch.tensor([0, 1, 2]))}
    scores = assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    assert scores.values.isfinite().all() and scores.values.any()


def test_accumulated_steps_are_taken_again_as_accelerate_divides_them(tmp_path):
    # 3 batches in steps of 2 and 1; accelerate divides each by 2.
    run, _ = trained(tmp_path / "run", "after", accumulate=2)
    other, _ = plain(tmp_path / "plain", 2, loader_of())
    accelerator, model, optimizer, loader = prepared(accumulate=2)
    targets = {"validation": (torch.randn(3, 4), torch.tensor([0, 1, 2]))}

    def scored(run, divided):
        loop = assay.Loop(model, optimizer, loader, begin_epoch=loader.set_epoch, accumulate=divided)
        return assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"].values

    assert torch.equal(scored(run, accelerator.gradient_accumulation_steps), scored(other, 2))
    with pytest.raises(Mismatch):
        scored(run, "batches")


def test_a_collator_that_loses_a_row_is_named(tmp_path):
    accelerator, model, optimizer, loader = prepared(prepares=False)
    loader = DataLoader(loader.dataset, 4, collate_fn=lambda items: default_collate(items[:-1]))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with (
        pytest.raises(UsageError, match=r"shape \(3, 3\) do not fit a batch of 4 examples, as where collate_fn leaves items out"),
        assay.record(tmp_path / "run", model, optimizer, loader) as recorder,
    ):
        fit(accelerator, model, optimizer, recorder.epoch(), recorder.batch)


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
