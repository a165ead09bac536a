"""How much memory a recording takes beside the training that it records."""

import threading
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.runs.tables import write_examples

PEAK_MB = 150


def peak_of_a_recording(folder, examples=40_000, classes=1_000):
    """Record one epoch of a net with many classes; megabytes at the peak above what the same training took before."""

    def held():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    model = torch.nn.Linear(4, classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.rand(examples, 4), torch.arange(examples) % classes), 200, shuffle=True)

    def train(batches, note=lambda logits, labels: None):
        for x, y in batches:
            logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            note(logits, y)

    train(loader)
    # Arrow imports pandas with the first table, where it is installed, which is no memory of a recording.
    write_examples(Path(folder).with_name("warm.parquet"), assay.Ids(["a", "b"]), torch.tensor([0, 1]), ("no", "yes"))
    peak, done = [0.0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], held())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorder = assay.record(folder, model, optimizer, loader)
        before = held()
        watching = threading.Thread(target=watch)
        watching.start()
        with recorder:
            for _ in range(2):
                train(recorder.epoch(), recorder.batch)
        assay.score(folder, ["aum", "confidence"])
        done.set()
        watching.join()
    assert peak[0] - before <= PEAK_MB, f"{peak[0] - before:.0f} MB"
    assert sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) < 16 * 2**20


@pytest.mark.slow
def test_many_classes_take_little_memory_by_default(nursery, tmp_path):
    assert nursery.run("integrations.test_memory:peak_of_a_recording", folder=str(tmp_path / "run")) == 0
