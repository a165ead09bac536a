"""A training loop with the recorder against the same loop without it: six-conv CNN, CIFAR-10, batch 128, the training pass recorded.

Runs alternate within one process, each one epoch from the same weights; the figure is the median of the paired ratios.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from machine import report
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay import data, nets


def epoch(batches, model, optimizer, recorder) -> None:
    """One epoch, as a user writes it."""
    for x, y in batches:
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.batch(logits, y)


def timed(inputs, labels, folder: pathlib.Path | None) -> float:
    """Seconds of one epoch, recorded into `folder` if one is given."""
    model = nets.build("six_conv", tuple(inputs.shape[1:]), 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=128, shuffle=True)
    began = time.perf_counter()
    if folder is None:
        epoch(loader, model, optimizer, None)
    else:
        with assay.record(folder, model, optimizer, loader, seed=0) as recorder:
            epoch(recorder.epoch(), model, optimizer, recorder)
    return time.perf_counter() - began


def main() -> None:
    """Alternate, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder with CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--examples", type=int, default=6400)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    examples = data.parse("cifar10", {"path": given.data_path, "limit": given.examples}).load().train
    inputs = examples.prepared(examples.inputs)
    with tempfile.TemporaryDirectory() as scratch:
        timed(inputs, examples.labels, pathlib.Path(scratch) / "warm-up")
        pairs = []
        for number in range(given.pairs):
            folder = pathlib.Path(scratch) / str(number)
            # Which goes first changes from pair to pair, so that a drift of the machine does not favour one.
            if number % 2:
                with_recorder = timed(inputs, examples.labels, folder)
                without = timed(inputs, examples.labels, None)
            else:
                without = timed(inputs, examples.labels, None)
                with_recorder = timed(inputs, examples.labels, folder)
            pairs.append((with_recorder, without))
    ratios = [a / b for a, b in pairs]
    report(
        "recording_overhead",
        {
            "examples": len(inputs),
            "steps": -(-len(inputs) // 128),
            "seconds without, median": statistics.median(b for _, b in pairs),
            "seconds with, median": statistics.median(a for a, _ in pairs),
            "ratio of pairs, median": statistics.median(ratios),
            "ratio of pairs, all": [round(ratio, 4) for ratio in ratios],
            "asked: at most": 1.03,
        },
        given.out,
    )


if __name__ == "__main__":
    main()
