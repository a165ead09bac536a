import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)
from torch.utils.data.distributed import DistributedSampler

import assay
from assay.core.errors import Mismatch, MissingEvidence, NumericalError, OutputExists, RunError, UsageError
from assay.core.ids import Ids
from assay.integrations.data_spec import DataSpec
from assay.integrations.pytorch import record
from assay.replay.keyed import KeyedDataset, ids_of
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.worlds import (
    CLASSES,
    EPOCHS,
    STEPS,
    Announced,
    Backwards,
    ByName,
    Drawn,
    Fetched,
    Moving,
    Named,
    Numbers,
    Opened,
    Ragged,
    TensorKeys,
    Unsized,
    by_name,
    fit,
    frozen,
    labels_of,
    logits_of,
    net,
    open_dataset,
    weights,
)
from runs.worlds import assert_holds, recorded
from settings import grouped

KILLED = -9


def loop(folder, loader, epochs=2, **settings):
    """Record a frozen model; the numbers in each batch as the loop saw them."""
    model, optimizer = frozen()
    seen = []
    with record(folder, model, optimizer, loader, **grouped(settings)) as recorder:
        for _ in range(epochs):
            seen.append([])
            for batch in recorder.epoch():
                x, y = (batch["inputs"], batch["labels"]) if isinstance(batch, dict) else batch
                recorder.batch(model(x), y)
                seen[-1].append(x[:, 0].int().tolist())
    return Run(folder), seen


def check(run, seen, numbers, ids=None):
    """Every fact of every epoch is that of the example under whose id it stands, and every batch is the one that was seen."""
    assert list(run.ids) == list(numbers if ids is None else ids)
    assert torch.equal(run.labels, labels_of(numbers)) and run.epochs == len(seen)
    for epoch, batches in enumerate(seen):
        assert_holds(run.shard(epoch), logits_of(numbers), labels_of(numbers))
        assert [[numbers[position] for position in batch.tolist()] for batch in run.order(epoch)] == batches


def nested():
    return Subset(Subset(Numbers(40, first=100), [*range(39, 5, -2), 4]), [3, 1, 17, 0, 12, 9, 5])


LOADERS = {
    "sequential": lambda: (DataLoader(Numbers(), batch_size=7), range(30)),
    "shuffled": lambda: (DataLoader(Numbers(), batch_size=7, shuffle=True), range(30)),
    "generator": lambda: (DataLoader(Numbers(), 7, shuffle=True, generator=torch.Generator().manual_seed(5)), range(30)),
    "workers": lambda: (DataLoader(Numbers(), batch_size=4, shuffle=True, num_workers=2, prefetch_factor=3), range(30)),
    "persistent": lambda: (DataLoader(Numbers(), 4, shuffle=True, num_workers=2, persistent_workers=True), range(30)),
    "opened in its worker": lambda: (DataLoader(Opened(), 4, num_workers=2, worker_init_fn=open_dataset), range(30)),
    "divided": lambda: (DataLoader(Numbers(), batch_size=10, shuffle=True, drop_last=True), range(30)),
    "subset": lambda: (DataLoader(nested(), 3, shuffle=True), [4 if i == 17 else 39 - 2 * i for i in [3, 1, 17, 0, 12, 9, 5]]),
    "sampled subset": lambda: (DataLoader(Numbers(), 2, sampler=SubsetRandomSampler([5, 2, 29, 11, 3])), [5, 2, 29, 11, 3]),
    "sampled array": lambda: (DataLoader(Numbers(), 2, sampler=SubsetRandomSampler(np.array([5, 2, 9]))), [5, 2, 9]),
    "own sampler": lambda: (DataLoader(Numbers(), 7, sampler=Backwards(30)), range(30)),
    "keys as tensors": lambda: (DataLoader(Numbers(), 7, sampler=TensorKeys(30)), range(30)),
    "without length": lambda: (DataLoader(Numbers(), 7, sampler=Unsized()), range(30)),
    "list as sampler": lambda: (DataLoader(Numbers(10), 3, sampler=[9, 1, 0, 3, 2, 5, 4, 7, 6, 8]), range(10)),
    "own batches": lambda: (DataLoader(Numbers(), batch_sampler=Ragged()), range(30)),
    "torch batches": lambda: (DataLoader(Numbers(), batch_sampler=BatchSampler(RandomSampler(range(30)), 7, False)), range(30)),
    "concatenated": lambda: (DataLoader(ConcatDataset([Numbers(9), Numbers(21, first=9)]), 7, shuffle=True), range(30)),
    "whole batches": lambda: (DataLoader(Fetched(), batch_size=7, shuffle=True), range(30)),
    "subset of whole batches": lambda: (DataLoader(Subset(Fetched(), [8, 3, 9, 4]), batch_size=3, shuffle=True), [8, 3, 9, 4]),
    "own collate": lambda: (DataLoader(Numbers(), batch_size=7, shuffle=True, collate_fn=by_name), range(30)),
    "own class": lambda: (Announced(Numbers(), batch_size=7, shuffle=True), range(30)),
    "own class and workers": lambda: (Announced(Numbers(), 7, shuffle=True, num_workers=1, persistent_workers=True), range(30)),
}


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("name", LOADERS)
def test_ids_are_those_of_the_examples(tmp_path, name, seed):
    loader, numbers = LOADERS[name]()
    numbers = [100 + number for number in numbers] if name == "subset" else list(numbers)
    ids = None if name != "subset" else [number - 100 for number in numbers]
    run, seen = loop(tmp_path / "run", loader, seed=seed)
    check(run, seen, numbers, ids)
    if name in ("shuffled", "workers", "persistent"):
        assert seen[0] != seen[1] != [[*range(30)]]


def test_random_splits_have_the_ids_of_the_whole_set(tmp_path):
    parts = random_split(Named(30), [18, 12], generator=torch.Generator().manual_seed(0))
    taken = []
    for number, part in enumerate(parts):
        run, seen = loop(tmp_path / str(number), DataLoader(part, 5, shuffle=True))
        check(run, seen, list(part.indices), [f"number {index}" for index in part.indices])
        taken += list(run.ids)
    assert sorted(taken) == sorted(Named(30).ids)


@pytest.mark.parametrize("view", ["train", "eval"])
def test_ids_given_as_texts(tmp_path, view):
    texts = [f"row {number}" for number in range(30)]
    for name, dataset, more in [("own", Named(), {}), ("given", Numbers(), {"ids": texts})]:
        expected = Named().ids if name == "own" else texts
        run, seen = loop(tmp_path / name, DataLoader(dataset, 7, shuffle=True), view=view, **more)
        check(run, seen, range(30), expected)


@pytest.mark.slow
def test_batches_that_come_back_out_of_order_keep_their_ids(tmp_path):
    loader = DataLoader(Numbers(slow=(0, 13)), batch_size=3, num_workers=2, in_order=False)
    run, seen = loop(tmp_path / "run", loader)
    assert any(batches != sorted(batches) for batches in seen), "no batch overtook another; the test tried nothing"
    check(run, seen, range(30))


@pytest.mark.slow
def test_a_loader_whose_workers_are_started_by_spawning(tmp_path):
    """Where workers are not forked, all that travels with the batches must be pickled."""
    loader = DataLoader(Named(), 7, shuffle=True, num_workers=1, multiprocessing_context="spawn")
    run, seen = loop(tmp_path / "run", loader, epochs=1)
    check(run, seen, range(30), Named().ids)


def test_the_loader_and_its_dataset_are_left_as_they_were(tmp_path):
    loader = DataLoader(Numbers(), batch_size=7, shuffle=True)
    before = dict(vars(loader))
    loop(tmp_path / "run", loader)
    assert vars(loader) == before
    assert [x[:, 0].tolist() for x, _ in DataLoader(loader.dataset, 30)] == [[*map(float, range(30))]]


def test_what_a_worker_does_to_the_dataset_reaches_it():
    dataset = Numbers()
    keyed = KeyedDataset(dataset)
    keyed.offset = 7
    assert dataset.offset == keyed.offset == 7 and len(keyed) == 30 and not hasattr(keyed, "nothing")


REFUSED = {
    "iterable": lambda: DataLoader(type("Stream", (IterableDataset,), {"__iter__": lambda self: iter(range(9))})()),
    "no batching": lambda: DataLoader(Numbers(), batch_size=None),
    "a list": lambda: [(torch.zeros(2, 1), torch.zeros(2))],
    "a dataset": Numbers,
    "dropped": lambda: DataLoader(Numbers(), batch_size=7, drop_last=True),
    "weighted": lambda: DataLoader(Numbers(), 7, sampler=WeightedRandomSampler(torch.ones(30), 30)),
    "with replacement": lambda: DataLoader(Numbers(), 7, sampler=RandomSampler(range(30), replacement=True)),
    "a part": lambda: DataLoader(Numbers(), 7, sampler=Backwards(20)),
    "of several processes": lambda: DataLoader(Numbers(), 7, sampler=DistributedSampler(Numbers(), num_replicas=2, rank=0)),
    "an empty one": lambda: DataLoader(Subset(Numbers(), []), 7),
    "twice": lambda: DataLoader(Subset(Numbers(), [1, 2, 1]), 7),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_hides_its_ids_is_refused_before_anything_is_written(tmp_path, name):
    words = {
        "iterable": "IterableDataset has no stable ids",
        "no batching": "batch_size=None",
        "a list": "loader= is a list; give DataLoader",
        "a dataset": "loader= is a Numbers; give DataLoader",
        "dropped": "drop_last=True leaves 2 of 30 examples out",
        "weighted": "WeightedRandomSampler draws with replacement.*view='eval'",
        "with replacement": "RandomSampler draws with replacement",
        "a part": "draws 20 times per epoch from 30 examples",
        "of several processes": "gives each of 2 processes a part .* first process alone, record with assay.Recording\\(view='eval'\\)",
        "an empty one": "no examples",
        "twice": "1 ids occur more than once: 1",
    }[name]
    model, optimizer = frozen()
    with pytest.raises(UsageError, match=words) as caught:
        record(tmp_path / "run", model, optimizer, REFUSED[name]())
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


LATE = {
    "keys that are no positions": (
        lambda: DataLoader(ByName(), 2, sampler=["a", "b", "c"]),
        "gives keys such as 'a', not positions",
    ),
    "a sampler that repeats": (lambda: DataLoader(Numbers(3), 3, sampler=[0, 1, 1]), "1 ids came more than once: 1"),
    "a batch sampler that skips": (lambda: DataLoader(Numbers(3), batch_sampler=[[0], [2]]), "1 of 3 ids were not visited: 1"),
    "a negative key": (lambda: DataLoader(Numbers(3), 3, sampler=[0, 1, -1]), "gives -1, which are not positions"),
    "batches made anew": (lambda: Moving(Numbers(3), 3), "Moving.__iter__ changes its batches"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_only_shows_in_the_epoch_is_refused_there(tmp_path, name):
    make, words = LATE[name]
    with pytest.raises(UsageError, match=words):
        loop(tmp_path / "run", make())
    with pytest.raises(RunError, match="no committed epoch"):
        Run(tmp_path / "run")


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Numbers(), batch_size=7, drop_last=True, shuffle=True),
        lambda: DataLoader(Numbers(), 7, sampler=WeightedRandomSampler(torch.arange(30.0), 50)),
        lambda: DataLoader(Numbers(), 7, sampler=Backwards(20), num_workers=1),
    ],
    ids=["dropped", "weighted", "a part"],
)
def test_a_clean_pass_values_every_example_whatever_is_trained_on(tmp_path, make):
    run, seen = loop(tmp_path / "run", make(), view="eval")
    check(run, seen, range(30))


def test_a_clean_pass_over_another_dataset_and_other_batches(tmp_path):
    augmented, clean = Numbers(), Numbers()
    augmented.offset = 1000
    model, optimizer = frozen()
    loader = DataLoader(augmented, 7, shuffle=True, collate_fn=by_name)

    def forward(model, batch):
        return model(batch["inputs"]), batch["labels"]

    with record(
        tmp_path / "run", model, optimizer, loader, Recording(view="eval"), data=DataSpec(clean=clean, forward=forward)
    ) as recorder:
        for batch in recorder.epoch():
            assert float(batch["inputs"].min()) >= 1000
    assert_holds(Run(tmp_path / "run").shard(0), logits_of(range(30)), labels_of(range(30)))
    recorder = record(tmp_path / "other", model, optimizer, loader, Recording(view="eval"), data=DataSpec(clean=clean))
    with pytest.raises(UsageError, match=r"give data=assay\.DataSpec\(forward="), recorder:
        [*recorder.epoch()]


MISTAKEN = {
    "ids": ({"ids": [1, 2]}, UsageError, "2 ids were given for a dataset of 30"),
    "clean": ({"clean": Numbers()}, UsageError, "clean= is read by view='eval' only"),
    "short clean": ({"view": "eval", "clean": Numbers(3)}, Mismatch, "differ in length"),
    "view": ({"view": "test"}, UsageError, "view='test'"),
    "live": ({"live": ["dule"]}, UsageError, "Did you mean dual"),
    "twice live": ({"live": ["dual", "dual"]}, UsageError, "names a method twice"),
    "no checkpoint": ({"resume": True, "checkpoints": "none"}, UsageError, "cannot be resumed"),
    "checkpoints": ({"checkpoints": "all"}, UsageError, "checkpoints='all'"),
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_mistaken_settings_are_refused_before_anything_is_written(tmp_path, name):
    settings, kind, words = MISTAKEN[name]
    model, optimizer = frozen()
    with pytest.raises(kind, match=words):
        record(tmp_path / "run", model, optimizer, DataLoader(Numbers(), 7), **grouped(settings))
    assert not (tmp_path / "run").exists()


def test_ids_of_a_dataset():
    assert ids_of(Numbers(3)) == Ids([0, 1, 2]) and ids_of(Named(2)) == Ids(["number 0", "number 1"])
    assert ids_of(Subset(Named(4), torch.tensor([3, 1]))) == Ids(["number 3", "number 1"])
    wrong = type("Wrong", (Numbers,), {"ids": [1, 2]})(3)
    with pytest.raises(UsageError, match="names 2 examples, but the dataset has 3"):
        ids_of(wrong)
    with pytest.raises(UsageError, match="has no length"):
        ids_of(object())


# The loop itself.


def test_the_five_lines_work_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_set = TensorDataset(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(train_set, batch_size=128, shuffle=True)
    with assay.record("runs/mine", model, optimizer, loader, seed=0) as recorder:
        for epoch in range(12):  # noqa: B007
            for x, y in recorder.epoch():
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.batch(logits, y)
    table = assay.score("runs/mine", ["dual", "aum", "forgetting"])
    decision = assay.choose(table["dual"], policy="beta", keep=0.3, seed=0)
    assert set(table) == {"dual", "aum", "forgetting"} and decision.budget == 18 and Run("runs/mine").epochs == 12


@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("workers", [0, 2])
def test_recording_changes_nothing_in_the_training(nursery, tmp_path, view, workers):
    # In a child, because the checks of types that run with these tests draw from Python's generator themselves.
    child = "integrations.worlds:train_with_and_without"
    assert nursery.run(child, folder=str(tmp_path / "run"), view=view, workers=workers) == 0
    assert Run(tmp_path / "run").epochs == 3


def test_a_clean_pass_leaves_the_modes_of_all_modules(tmp_path):
    model = net()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    buffers = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path / "run", model, optimizer, DataLoader(Drawn(), 7), Recording(view="eval")) as recorder:
        for _ in recorder.epoch():
            pass
        assert [module.training for module in model.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in weights(model).items())


@pytest.mark.parametrize("workers", [0, 2])
def test_two_runs_with_one_seed_are_identical_and_another_seed_is_another_run(tmp_path, workers):
    def run(name, seed, before):
        loader = DataLoader(Drawn(), 7, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        end = fit(loader, 2, lambda model, optimizer: record(tmp_path / name, model, optimizer, loader, seed=seed), seed=before)
        return end[0], Run(tmp_path / name).fingerprint

    one, other, third = run("one", 5, 1), run("other", 5, 2), run("third", 6, 1)
    assert one[1] == other[1] != third[1]
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


RESUMED = {
    "in the first epoch": {"optimizer": "momentum", "scheduler": "step", "die": 2},
    "in the middle": {"optimizer": "momentum", "scheduler": "step", "die": 2 * STEPS + 1},
    "in the last batch": {"optimizer": "adam", "scheduler": "one_cycle", "die": 3 * STEPS},
    "at the very last": {"optimizer": "adam", "scheduler": "one_cycle", "die": EPOCHS * STEPS},
    "before the scheduler": {"optimizer": "adamw", "scheduler": "milestones", "die": "after 1"},
    "after the scheduler": {"optimizer": "adam", "scheduler": "milestones", "die": "after the schedule of 1"},
    "chained": {"optimizer": "momentum", "scheduler": "chain", "die": "after the schedule of 2"},
    "clean pass": {"optimizer": "adamw", "scheduler": "step", "die": 2 * STEPS + 3, "view": "eval"},
    "workers": {"optimizer": "momentum", "scheduler": "step", "die": 2 * STEPS + 2, "workers": 2},
    "own generator": {"optimizer": "momentum", "scheduler": "step", "die": 3 * STEPS + 2, "own": True},
}


FIRST = ("in the middle", "before the scheduler", "workers")
"""Cases of the first group; the second has all others."""


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in FIRST else pytest.mark.slow) for case in RESUMED])
def test_a_killed_training_is_resumed_to_the_same_bits(nursery, tmp_path, case):
    settings = {key: value for key, value in RESUMED[case].items() if key != "die"}
    die = RESUMED[case]["die"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train = "integrations.worlds:train"
    assert nursery.run(train, folder=str(whole), result=f"{whole}.pt", **settings) == 0
    assert nursery.run(train, folder=str(broken), result=f"{broken}.pt", die=die, **settings) == KILLED
    before = len([*broken.glob("epochs/*")])
    assert before < EPOCHS
    assert nursery.run(train, folder=str(broken), result=f"{broken}.pt", resume=True, **settings) == 0
    one, other = (torch.load(f"{place}.pt") for place in (whole, broken))
    assert one["optimizer"]["state"] and all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    for index, state in one["optimizer"]["state"].items():
        assert all(torch.equal(tensor, other["optimizer"]["state"][index][name]) for name, tensor in state.items())
    one, other = Run(whole), Run(broken)
    assert one.epochs == other.epochs == EPOCHS and one.fingerprint == other.fingerprint and other.check()
    # Shards, checkpoints, sums and live states, to the byte.
    for path in sorted(whole.glob("*/*.safetensors")):
        assert path.read_bytes() == (broken / path.relative_to(whole)).read_bytes(), path.name
    rates = [float(one.rates(epoch)[0, 0]) for epoch in range(EPOCHS)]
    assert len(set(rates)) > 1, "the schedule did nothing, so nothing was tried"


def steps(recorder, model, until=None):
    for number, (x, y) in enumerate(recorder.epoch()):
        if number == until:
            break
        recorder.batch(model(x), y)


def attach(folder, **settings):
    model, optimizer = frozen()
    return record(folder, model, optimizer, DataLoader(Numbers(), 7, shuffle=True), **grouped(settings)), model


def test_an_epoch_is_committed_with_what_was_done_until_the_next(tmp_path):
    recorder, model = attach(tmp_path, checkpoints="every")
    with pytest.warns(UserWarning, match="weights were changed between the last step of epoch 0 and its end") as said, recorder:
        for epoch in range(3):
            assert recorder.epochs == max(0, epoch - 1)
            steps(recorder, model)
            with torch.no_grad():
                model.weight.fill_(epoch + 10)
    run = Run(tmp_path)
    assert [float(run.checkpoint(epoch).read("model/weight")) for epoch in range(3)] == [10, 11, 12]
    assert len(said) == 1 and all(run.altered(epoch) for epoch in range(3))


@pytest.mark.parametrize("until", [0, 2, 4])
def test_an_epoch_that_is_left_early_closes_the_book_and_lets_the_program_go_on(tmp_path, until):
    recorder, model = attach(tmp_path)
    with (
        pytest.warns(UserWarning, match=rf"Epoch 1 of .* was left after {until + 1} batches and is not recorded .*epochs 0 to 0"),
        recorder,
    ):
        steps(recorder, model)
        steps(recorder, model, until)
    assert Run(tmp_path).epochs == 1 and Run(tmp_path).check()
    recorder, model = attach(tmp_path, resume=True)
    with recorder:
        steps(recorder, model)
    assert [commit.skipped for commit in Run(tmp_path).commits] == [0, 0]


def test_after_an_epoch_that_was_left_the_next_takes_its_number_and_the_run_says_what_is_missing(tmp_path):
    recorder, model = attach(tmp_path)
    with recorder:
        with pytest.warns(UserWarning, match=r"Epoch 0 of .* was left after 3 batches .*no epoch yet"):
            steps(recorder, model, 2)
            steps(recorder, model)
        with pytest.warns(UserWarning, match="Epoch 1 of .* was left after 2 batches"):
            steps(recorder, model, 1)
            steps(recorder, model)
        steps(recorder, model)
    run = Run(tmp_path)
    # Before the first epoch nothing is missing: the state before training is that of its beginning.
    assert run.epochs == 3 and [commit.skipped for commit in run.commits] == [0, 1, 0]
    for epoch in range(3):
        assert_holds(run.shard(epoch), logits_of(range(30)), labels_of(range(30)))


def test_batches_of_an_epoch_that_was_left_cannot_be_gone_on_with(tmp_path):
    recorder, model = attach(tmp_path)
    with recorder:
        old = recorder.epoch()
        x, y = next(old)
        recorder.batch(model(x), y)
        with pytest.warns(UserWarning, match="was left after 1 batches"):
            steps(recorder, model)
        with pytest.raises(UsageError, match="Epoch 0 was left, and its batches cannot be continued"):
            next(old)
    assert Run(tmp_path).epochs == 1


@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_whole_when_its_last_batch_was_recorded(tmp_path, view, workers):
    """As trainers do it: exactly as many batches as the loader has, and never one more."""

    def run(folder, more):
        model, optimizer = net(), None
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loader = DataLoader(Drawn(), 7, shuffle=True, num_workers=workers)
        recorder = record(folder, model, optimizer, loader, Recording(view=view, live=["liveval", "dual"]), seed=3)
        for _ in range(2):
            batches = recorder.epoch()
            for _ in range(len(loader)):
                x, y = next(batches)
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
            if more:
                assert next(batches, None) is None
        recorder.close()
        recorder.close()
        return Run(folder), weights(model)

    (exact, one), (asked, other) = run(tmp_path / "exact", False), run(tmp_path / "asked", True)
    assert exact.epochs == 2 and exact.check() and exact.fingerprint == asked.fingerprint
    assert all(torch.equal(one[name], other[name]) for name in one)
    for left, right in zip(exact.commits, asked.commits, strict=True):
        assert left.checkpoint.sums == right.checkpoint.sums and left.live.sums == right.live.sums


def test_a_stale_iterator_of_a_whole_epoch_just_ends(tmp_path):
    recorder, model = attach(tmp_path)
    with recorder:
        batches = recorder.epoch()
        for _ in range(5):
            x, y = next(batches)
            recorder.batch(model(x), y)
        steps(recorder, model)
        assert next(batches, None) is None
    assert Run(tmp_path).epochs == 2


def test_a_block_that_recorded_nothing_says_so(tmp_path):
    model, optimizer = frozen()
    recorder = record(tmp_path, model, optimizer, DataLoader(Numbers(), 7))
    with (
        pytest.warns(
            UserWarning, match=r"Nothing was recorded in .*nobody looped over recorder\.epoch\(\), though the optimizer moved 1"
        ),
        recorder,
    ):
        recorder._optimizer.step()
    with pytest.raises(UsageError, match="is closed"):
        next(recorder.epoch())
    recorder, model = attach(tmp_path, resume=True)
    with recorder:
        steps(recorder, model)
    # There is nothing left to do when a finished run is resumed.
    with attach(tmp_path, resume=True)[0] as recorder:
        assert recorder.epochs == 1


def test_forgetting_the_batch_is_an_error(tmp_path):
    recorder, _ = attach(tmp_path)
    words = r"Batch 0 of epoch 0 was not recorded; call recorder.batch\(logits, labels\) in every step"
    with pytest.raises(UsageError, match=words), recorder:
        for _ in recorder.epoch():
            pass


def test_forgetting_the_last_batch_is_an_error(tmp_path):
    recorder, model = attach(tmp_path)
    with pytest.raises(UsageError, match="Batch 4 of epoch 1 was not recorded"), recorder:
        steps(recorder, model)
        for number, (x, y) in enumerate(recorder.epoch()):
            if number < 4:
                recorder.batch(model(x), y)
    assert Run(tmp_path).epochs == 1


def test_recording_a_batch_twice_or_outside_is_an_error(tmp_path):
    recorder, model = attach(tmp_path)
    with recorder:
        with pytest.raises(UsageError, match=r"was called outside recorder\.epoch"):
            recorder.batch(logits_of([0]), labels_of([0]))
        for x, y in recorder.epoch():
            recorder.batch(model(x), y)
            with pytest.raises(UsageError, match="of epoch 0 was recorded twice"):
                recorder.batch(model(x), y)
        with pytest.raises(UsageError, match=r"was called outside recorder\.epoch"):
            recorder.batch(logits_of([0]), labels_of([0]))
    assert Run(tmp_path).epochs == 1


@pytest.mark.parametrize("where", ["in the epoch", "between epochs"])
def test_an_exception_leaves_the_committed_epochs(tmp_path, where):
    recorder, model = attach(tmp_path)
    with pytest.raises(ZeroDivisionError), recorder:
        steps(recorder, model)
        steps(recorder, model)
        if where == "in the epoch":
            for _ in recorder.epoch():
                1 / 0  # noqa: B018
        1 / 0  # noqa: B018
    # Between two epochs nobody knows what is done already, so that the epoch before is trained again.
    assert Run(tmp_path).epochs == (2 if where == "in the epoch" else 1) and Run(tmp_path).check()
    recorder, model = attach(tmp_path, resume=True)
    with recorder:
        for _ in range(recorder.epochs, 3):
            steps(recorder, model)
    assert Run(tmp_path).epochs == 3


def test_mistakes_in_the_batch_are_named(tmp_path):
    def broken(name, change):
        recorder, model = attach(tmp_path / name)
        with recorder:
            steps(recorder, model)
            for x, y in recorder.epoch():
                recorder.batch(*change(model(x), y, x[:, 0] == 12))

    with pytest.raises(NumericalError, match="Epoch 1: logits of 1 examples are NaN or infinite; ids 12"):
        broken("nan", lambda logits, y, at: (logits.masked_fill(at[:, None], torch.nan), y))
    with pytest.raises(UsageError, match="Epoch 1: the label of id 12 was 1 and is now 2"):
        broken("label", lambda logits, y, at: (logits, torch.where(at, 2, y)))
    with pytest.raises(UsageError, match=r"logits of shape \(6, 3\) do not fit a batch of 7"):
        broken("short", lambda logits, y, at: (logits[1:], y[1:]))
    with pytest.raises(UsageError, match=r"labels are torch\.float32 of shape"):
        broken("mixed", lambda logits, y, at: (logits, F.one_hot(y, CLASSES).float()))
    for name in ("nan", "label", "short", "mixed"):
        assert Run(tmp_path / name).epochs == 1


def test_what_cannot_be_saved_is_refused_at_once(tmp_path):
    model, optimizer = frozen()

    class Odd:
        def state_dict(self):
            return {"rule": {1, 2}}

        def load_state_dict(self, state):
            raise AssertionError

    loader = DataLoader(Numbers(), 7)
    with pytest.raises(UsageError, match="also odd/rule of the checkpoint is a set"):
        record(tmp_path / "run", model, optimizer, loader, stateful={"odd": Odd()})
    with record(
        tmp_path / "unsaved", model, optimizer, loader, Recording(checkpoints="none"), stateful={"odd": Odd()}
    ) as recorder:
        steps(recorder, model)
    assert Run(tmp_path / "unsaved").checkpoints() == []


def test_a_run_of_something_else_is_not_resumed(tmp_path):
    recorder, model = attach(tmp_path / "run")
    with recorder:
        steps(recorder, model)
    with pytest.raises(OutputExists, match="already holds a run"):
        attach(tmp_path / "run")
    loader = DataLoader(Numbers(), 7)
    other = torch.nn.Linear(1, 3)
    sgd = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(Mismatch, match="is of another model or optimizer"):
        record(tmp_path / "run", other, sgd, loader, resume=True)
    model, _ = frozen()
    two_groups = torch.optim.Adam([{"params": [model.weight]}, {"params": [other.weight]}])
    with pytest.raises(Mismatch, match="is of another model or optimizer"):
        record(tmp_path / "run", model, two_groups, loader, resume=True)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = {"scheduler": torch.optim.lr_scheduler.StepLR(sgd, 1)}
    with pytest.raises(Mismatch, match="holds no also scheduler"):
        record(tmp_path / "run", model, sgd, loader, resume=True, stateful=schedule)
    with pytest.raises(Mismatch, match="ids"):
        record(tmp_path / "run", model, sgd, DataLoader(Named(), 7), resume=True)
    with pytest.raises(Mismatch, match="seed"):
        record(tmp_path / "run", model, sgd, loader, resume=True, seed=1)
    # The refusals let go of the lock.
    recorder, model = attach(tmp_path / "run", resume=True)
    with recorder:
        steps(recorder, model)
    assert Run(tmp_path / "run").epochs == 2


def test_a_run_that_was_recorded_without_a_loop_is_not_resumed_by_one(tmp_path):
    recorded(tmp_path, 2)
    model, optimizer = frozen()
    loader = DataLoader(Subset(Numbers(), range(23)), 7)
    with pytest.raises(Mismatch, match="was not recorded by a loop like this one"):
        record(tmp_path, model, optimizer, loader, data=DataSpec(ids=Run(tmp_path).ids), resume=True)


def test_a_run_that_keeps_some_checkpoints_is_resumed_after_any_epoch(tmp_path):
    recorder, model = attach(tmp_path, checkpoints=[0])
    with recorder:
        for _ in range(4):
            steps(recorder, model)
    assert Run(tmp_path).checkpoints() == [0, 2, 3]
    resumed, other = attach(tmp_path, checkpoints=[0], resume=True)
    with resumed:
        assert resumed.epochs == 4
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_live_methods_score_without_stored_logits(tmp_path):
    loader = DataLoader(Drawn(), 7, shuffle=True)
    for name, settings in [("live", {"live": ["tdds:window=3", "dual:window=2"]}), ("stored", {"keep_logits": True})]:
        fit(
            loader,
            4,
            lambda model, optimizer, n=name, s=settings: record(
                tmp_path / n, model, optimizer, loader, **grouped({"seed": 1, **s})
            ),
        )
    live, stored = (assay.score(tmp_path / name, ["tdds:window=3", "dual:window=2"]) for name in ("live", "stored"))
    for title in live:
        torch.testing.assert_close(live[title].values, stored[title].values, rtol=0, atol=1e-12)
    with pytest.raises(MissingEvidence):
        assay.score(tmp_path / "live", ["tdds:window=4"])


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, 0.01)], ids=["sgd", "adamw"]
)
def test_momenta_that_a_schedule_cycles_are_recorded_by_step(tmp_path, make):
    model, loader = net(), DataLoader(Drawn(), batch_size=10)
    optimizer = make([{"params": [parameter]} for parameter in model.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=2 * len(loader))
    used = []
    with record(tmp_path / "run", model, optimizer, loader) as recorder:
        for _ in range(2):
            used.append([])
            for inputs, labels in recorder.epoch():
                logits = model(inputs)
                optimizer.zero_grad()
                F.cross_entropy(logits, labels).backward()
                groups = optimizer.param_groups
                used[-1].append([group["betas"] if "betas" in group else (group["momentum"], np.nan) for group in groups])
                optimizer.step()
                schedule.step()
                recorder.batch(logits, labels)
    run = Run(tmp_path / "run")
    for epoch in range(2):
        np.testing.assert_array_equal(run.momenta(epoch).numpy(), np.array(used[epoch]))
    assert len(run.momenta(0)[:, 0, 0].unique()) > 1, "nothing was cycled"


@pytest.mark.parametrize("setting", [{"lr": None}, {"betas": None}, {"betas": (0.9, 0.99, 0.999)}, {"momentum": None}], ids=str)
def test_settings_that_are_no_numbers_do_not_end_the_training(tmp_path, setting):
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            pass

    model, optimizer = frozen()
    optimizer = Own(model.parameters(), lr=0.1)
    optimizer.param_groups[0].update(setting)
    with record(tmp_path / "run", model, optimizer, DataLoader(Numbers(), batch_size=10)) as recorder:
        for inputs, labels in recorder.epoch():
            recorder.batch(model(inputs), labels)
            optimizer.step()
    run = Run(tmp_path / "run")
    assert run.rates(0).isnan().all() == (setting == {"lr": None})
    assert run.momenta(0)[..., 1].isnan().all()


def test_a_run_recorded_without_momenta_has_none(tmp_path):
    recorded(tmp_path / "run", 1)
    assert Run(tmp_path / "run").momenta(0) is None


class Bounded(torch.nn.Module):
    """Its embeddings write into their own weights in every forward pass."""

    def __init__(self, kind):
        super().__init__()
        self.table, self.out = kind(40, 5, max_norm=1.0), torch.nn.Linear(5, 2)

    def forward(self, x):
        rows = self.table(x)
        return self.out(torch.tanh(rows if rows.ndim == 2 else rows.mean(1)))


@pytest.mark.parametrize("kind", [torch.nn.Embedding, torch.nn.EmbeddingBag])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_that_writes_into_its_weights_is_trained_as_without_a_recorder(tmp_path, kind, frozen):
    draw = torch.Generator().manual_seed(0)
    examples = TensorDataset(torch.randint(0, 40, (64, 3), generator=draw), torch.arange(64) % 2)

    def trained(folder):
        torch.manual_seed(1)
        model, loader = Bounded(kind), DataLoader(examples, 8)
        model.table.weight.requires_grad_(not frozen)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=0.01)

        def epochs(batches, told):
            for x, y in batches:
                logits = model(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                told(logits, y)

        if folder is None:
            for _ in range(2):
                epochs(loader, lambda *_: None)
            return model
        with record(folder, model, optimizer, loader) as recorder:
            for _ in range(2):
                epochs(recorder.epoch(), recorder.batch)
        return model

    plain, watched = trained(None).state_dict(), trained(tmp_path / "run").state_dict()
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())


class Wide(torch.nn.Module):
    """A layer that does something with its own tensors whenever it is called, after as many numbers as it is given."""

    def __init__(self, what):
        super().__init__()
        self.linear, self.what, self.merged = torch.nn.Linear(4, 3), what, False
        self.delta = torch.nn.Parameter(torch.full((3, 4), 0.1))
        self.linear.weight.requires_grad_(what != "merges")
        self.register_buffer("calls", torch.zeros(1), persistent=what != "rebinds, not saved")
        self.register_buffer("seen", None)

    def train(self, mode=True):
        if self.what == "merges" and self.merged == mode:
            self.merged = not mode
            self.linear.weight.data += -self.delta if mode else self.delta
        return super().train(mode)

    def forward(self, x):
        if self.what == "counts":
            self.calls += 1
        elif self.what.startswith("rebinds"):
            self.calls = self.calls + 1
        elif self.what == "grows":
            self.calls.resize_(len(self.calls) + 1).fill_(float(len(self.calls)))
        elif self.what == "appears" and not self.training:
            self.seen = x.clone()
        elif self.what == "normalises":
            self.linear.weight.data /= self.linear.weight.data.norm(dim=1, keepdim=True)
        own = self.linear(x) if self.merged else self.linear(x) + x @ self.delta.T
        return own + self.calls.sum() / 100


ACTS = ["nothing", "counts", "rebinds", "rebinds, not saved", "grows", "appears", "normalises", "merges"]


@pytest.mark.parametrize(
    "what", [*ACTS, "batch norm", "spectral norm", "parametrized spectral norm", "weight norm", "max_norm", "bag"]
)
def test_a_clean_pass_leaves_every_bit_of_the_model_as_it_was(tmp_path, what):
    tokens = what in ("max_norm", "bag")
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 20, (24, 3), generator=draw) if tokens else torch.randn(24, 4, generator=draw)
    others = torch.randint(20, 40, (24, 3), generator=draw) if tokens else 3 * torch.randn(24, 4, generator=draw)
    examples, clean = (TensorDataset(values, torch.arange(24) % 2) for values in (inputs, others))
    others_of_torch = {
        "batch norm": lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)),
        "spectral norm": lambda: torch.nn.utils.spectral_norm(torch.nn.Linear(4, 2)),
        "parametrized spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 2)),
        "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 2)),
        "max_norm": lambda: Bounded(torch.nn.Embedding),
        "bag": lambda: Bounded(torch.nn.EmbeddingBag),
    }

    def trained(view):
        torch.manual_seed(1)
        model = others_of_torch.get(what, lambda: torch.nn.Sequential(Wide(what), torch.nn.Tanh(), torch.nn.Linear(3, 2)))()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3, momentum=0.9)
        more = {"clean": clean} if view == "eval" else {}
        with record(tmp_path / view, model, optimizer, DataLoader(examples, 8), **grouped({"view": view, **more})) as recorder:
            for _ in range(2):
                for x, y in recorder.epoch():
                    logits = model(x)
                    optimizer.zero_grad()
                    F.cross_entropy(logits, y).backward()
                    optimizer.step()
                    recorder.batch(logits, y)
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: value.detach() for name, value in held.items()}, [(type(m).__name__, m.training) for m in model.modules()]

    (plain, modes), (watched, own_modes) = trained("train"), trained("eval")
    assert modes == own_modes and plain.keys() == watched.keys()
    assert [name for name, value in plain.items() if not torch.equal(value, watched[name])] == []
