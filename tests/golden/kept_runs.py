"""Makes small runs to be kept: one by a plan, one of a loop, each with scores; the plan's also with a decision and a verdict.

`PYTHONPATH=src:tests python -m golden.kept_runs FOLDER` writes them anew, in the schema of the day.
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from settings import grouped

PLAN = {
    "data": "digits",
    "net": "logistic",
    "subset": 0.05,
    "validation": 0.2,
    "plant": {"rate": 0.2},
    "recipe": {"epochs": 3, "batch": 16, "lr": 0.1},
    "record": {"checkpoints": "every", "live": ["forgetting"]},
}
PLANNED = ["aum", "confidence", "correctness", "el2n:at=1", "dual:epochs=3,window=2", "forgetting", "grand", "sgd_influence"]
LOOPED = ["aum", "confidence", "dual:epochs=3,window=2", "grand", "entropy"]
EXAMPLES = 24


def parts():
    """Model, optimizer and loader of the loop; all numbers by rule."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.arange(parameter.numel()).sin().reshape(parameter.shape) / 2)
    inputs = torch.stack([torch.arange(EXAMPLES).mul(factor).sin() for factor in (1.0, 2.3, 3.7)], 1)
    labels = torch.arange(EXAMPLES) % 3
    loader = DataLoader(TensorDataset(inputs, labels), 8, shuffle=True)
    return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5), loader


def record_loop(folder, **given):
    """Three epochs of the loop."""
    net, optimizer, loader = parts()
    with assay.record(
        folder, net, optimizer, loader, **grouped({"seed": 0, "checkpoints": "every", "live": ["aum"], **given})
    ) as recorder:
        for _ in range(3):
            for x, y in recorder.epoch():
                logits = net(x)
                optimizer.zero_grad()
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    return assay.Run(folder)


def score(run: assay.Run) -> assay.ScoreTable:
    """The scores that are kept with a run."""
    if run.folder.name == "loop":
        return assay.score(run, LOOPED, loop=assay.Loop(*parts()))
    # Another processor may add up otherwise.
    return assay.score(run, PLANNED, replay_config=assay.ReplayConfig(tolerance=1e-4))


def make(folder: Path) -> None:
    """Both runs, by names that hold no place of this machine."""
    from assay.experiments.record import record

    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    plan = record(assay.Plan.make(PLAN), "plan")
    for run in (plan, record_loop("loop")):
        for one in score(run).values():
            assay.save_scores(one, run.paths.scores(one.title))
    aum = score(plan)["aum"]
    decision = assay.choose(aum, "bottom_k", keep=0.8)
    assay.save_decision(decision, plan.paths.decision("cleaned"))
    assay.save_verdict(assay.verify(decision, run=plan, seeds=2), plan.paths.verdict("cleaned"))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
