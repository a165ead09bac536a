"""Which labels are wrong: one callback in Lightning's Trainer."""

import sys

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/lightning"


class Classifier(pl.LightningModule):
    """A module as it is; nothing in it is made for the recorder."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


draw = torch.Generator().manual_seed(0)
centres = 2 * torch.randn(3, 10, generator=draw)
truth = torch.randint(3, (400,), generator=draw)
inputs = centres[truth] + 2 * torch.randn(400, 10, generator=draw)
flipped = torch.rand(400, generator=draw) < 0.1
labels = torch.where(flipped, (truth + 1) % 3, truth)

torch.manual_seed(0)
trainer = pl.Trainer(
    max_epochs=8,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    callbacks=[assay.lightning.Recorder(FOLDER)],  # the one line
)
trainer.fit(Classifier(), DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True))

table = assay.score(FOLDER, ["aum", "loss"])
suspects = assay.choose(table["aum"], policy="top_k", keep=0.9).dropped_ids
found = sum(bool(flipped[id]) for id in suspects)
print(f"{found} of the {len(suspects)} most suspect labels are wrong; {int(flipped.sum())} of {len(flipped)} are in all.")
