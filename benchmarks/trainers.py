"""A training in each trainer with the recorder against the same without it: a 4-layer encoder of width 128 on texts of 64 tokens.

Trainings alternate within one process, each from the same weights; the figures are the median of the paired ratios with the range between them, and the ratio of the
fastest two. They are told of seconds by the clock and of processor time, which other work on the machine disturbs less.
"""

import argparse
import cProfile
import pathlib
import pstats
import statistics
import tempfile
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

WORDS, TOKENS, CLASSES, BATCH = 1000, 64, 4, 32


def clocks() -> np.ndarray:
    """Seconds by the clock, and of processor time."""
    return np.array([time.perf_counter(), time.process_time()])


class Encoder(nn.Module):
    """Four layers of width 128 over tokens, and a linear head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)).mean(1))


def hugging_face(tokens, labels, folder) -> np.ndarray:
    """Seconds of one epoch of a BERT in Hugging Face's Trainer."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

    config = BertConfig(
        vocab_size=WORDS, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, num_labels=CLASSES
    )
    rows = [{"input_ids": row, "labels": int(label)} for row, label in zip(tokens, labels, strict=True)]
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            scratch, per_device_train_batch_size=BATCH, num_train_epochs=1, save_strategy="no", report_to=[], disable_tqdm=True
        )
        trainer = Trainer(
            BertForSequenceClassification(config), settings, train_dataset=rows, data_collator=default_data_collator
        )
        if folder is not None:
            assay.attach(trainer, folder)
        began = clocks()
        trainer.train()
        return clocks() - began


def lightning(tokens, labels, folder) -> np.ndarray:
    """Seconds of one epoch of the encoder in Lightning's Trainer."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Encoder()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    callbacks = [] if folder is None else [assay.lightning.Recorder(folder)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, **quiet)
    loader = DataLoader(TensorDataset(tokens, labels), BATCH, shuffle=True)
    module = Module()
    began = clocks()
    trainer.fit(module, loader)
    return clocks() - began


def skorch(tokens, labels, folder) -> np.ndarray:
    """Seconds of one epoch of the encoder in skorch."""
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        Encoder,
        criterion=nn.CrossEntropyLoss,
        max_epochs=1,
        batch_size=BATCH,
        train_split=None,
        verbose=0,
        callbacks=[] if folder is None else [assay.skorch.Recorder(folder)],
    )
    net.initialize()
    began = clocks()
    net.partial_fit(tokens, labels)
    return clocks() - began


def accelerate(tokens, labels, folder) -> np.ndarray:
    """Seconds of one epoch of the encoder in a loop on accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = Encoder()
    loader = DataLoader(TensorDataset(tokens, labels), BATCH, shuffle=True)
    net, optimizer, loader = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-3), loader)

    def trained(epoch, told=lambda logits, y: None):
        for x, y in epoch:
            optimizer.zero_grad()
            logits = net(x)
            accelerator.backward(F.cross_entropy(logits, y))
            optimizer.step()
            told(logits, y)

    began = clocks()
    if folder is None:
        trained(loader)
    else:
        with assay.record(folder, net, optimizer, loader, seed=0) as recorder:
            trained(recorder.epoch(), recorder.batch)
    return clocks() - began


def profiled(tokens, labels) -> dict[str, float]:
    """Seconds that the recorder spends in Lightning: once and at the beginning, at the end of the epoch, and in all batches together."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as scratch:
        # What is imported and set up in the first training is not of the recorder.
        lightning(tokens[:BATCH], labels[:BATCH], pathlib.Path(scratch) / "warm")
        torch.manual_seed(0)
        profile.enable()
        whole = lightning(tokens, labels, pathlib.Path(scratch) / "run")[0]
        profile.disable()
    parts = {
        "on_train_epoch_start": "begins",
        "on_train_epoch_end": "ends",
        "on_train_batch_start": "batches",
        "on_train_batch_end": "batches",
    }
    found = {"begins": 0.0, "ends": 0.0, "batches": 0.0}
    for (file, _, function), (_, _, _, seconds, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file == assay.lightning.__file__ and function in parts:
            found[parts[function]] += seconds
    return {**found, "the whole epoch": whole}


def compared(plain: list[float], recorded: list[float]) -> dict:
    """Overhead of recorded trainings over unrecorded ones, in pairs."""
    ratios = [one / other for one, other in zip(recorded, plain, strict=True)]
    return {
        "overhead": statistics.median(ratios) - 1,
        "range": [min(ratios) - 1, max(ratios) - 1],
        # Other work on the machine only ever adds time.
        "of the fastest": min(recorded) / min(plain) - 1,
        "unrecorded": statistics.median(plain),
    }


TRAINERS = {"Hugging Face": hugging_face, "Lightning": lightning, "skorch": skorch, "accelerate": accelerate}


def main() -> None:
    """Alternate, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=3200)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=list(TRAINERS))
    parser.add_argument("--profile", action="store_true", help="only say where Lightning's epoch spends time in the recorder")
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (given.examples,), generator=draw)
    tokens = torch.randint(1, WORDS, (given.examples, TOKENS), generator=draw)
    if given.profile:
        report("trainers-profile", {"examples": given.examples, **profiled(tokens, labels)}, given.out)
        return
    figures = {}
    for name in given.trainers:
        plain, recorded = [], []
        with tempfile.TemporaryDirectory() as scratch:
            for pair in range(given.pairs + 1):
                # Whatever grows or cools during the run falls on either side.
                for folder in (
                    (pathlib.Path(scratch) / str(pair), None) if pair % 2 else (None, pathlib.Path(scratch) / str(pair))
                ):
                    torch.manual_seed(0)
                    took = TRAINERS[name](tokens, labels, folder)
                    # The first pair warms up.
                    if pair:
                        (plain if folder is None else recorded).append(took)
        figures[name] = {
            clock: compared([one[place] for one in plain], [one[place] for one in recorded])
            for place, clock in enumerate(("seconds", "processor time"))
        }
        for clock, told in figures[name].items():
            low, high = told["range"]
            print(
                f"{name}, {clock}: {told['overhead']:+.1%} (from {low:+.1%} to {high:+.1%}) of {told['unrecorded']:.2f} s; fastest against fastest {told['of the fastest']:+.1%}",
                flush=True,
            )
    report("trainers", {"examples": given.examples, "pairs": given.pairs, **figures}, given.out)


if __name__ == "__main__":
    main()
