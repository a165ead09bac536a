"""What VoG costs beside the passes that it needs: a forward pass and a backward pass to the input for each kept model and batch.

A small CNN is recorded on CIFAR-10 for ten epochs; then VoG over its ten models, and ten bare passes over the same images in the same batches
with the gradient of the given label's logit by the input, in turn; seconds as a ratio, medians over repeats.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import forget_peak, report, resident_mb

from assay.experiments.evidence import gather, open_replay
from assay.experiments.plan import Plan, load_data
from assay.experiments.record import record
from assay.methods.vog import VoG
from assay.replay.checkpoints import BLOCK

THREADS, MODELS = 2, 10


def bare(plan: Plan, states: list[dict[str, torch.Tensor]]) -> float:
    """Seconds of the passes alone."""
    loaded = load_data(plan)
    model = plan.build(loaded, 0).eval()
    images, labels = loaded.train.prepared(loaded.train.inputs), loaded.train.labels
    began = time.perf_counter()
    for state in states:
        model.load_state_dict(state)
        model.requires_grad_(False)
        for positions in torch.arange(len(images)).split(BLOCK):
            part = images[positions].requires_grad_()
            torch.autograd.grad(model(part).gather(1, labels[positions][:, None]).sum(), part)
    return time.perf_counter() - began


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder of CIFAR-10")
    parser.add_argument("--limit", type=int, default=5000, help="images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    plan = Plan.make(
        {
            "data": f"cifar10:path={given.data_path},limit={given.limit}",
            "net": "block_conv",
            "recipe": {"epochs": MODELS},
            "record": {"checkpoints": "every"},
        }
    )
    with tempfile.TemporaryDirectory() as place:
        run = record(plan, Path(place) / "run")
        states = [run.model(epoch) for epoch in range(MODELS)]

        method, taken, passes, peaks = VoG(), [], [], []
        for _ in range(given.repeats):
            passes.append(bare(plan, states))
            evidence = gather(run, open_replay(run))
            forget_peak()
            before, began = resident_mb("VmRSS"), time.perf_counter()
            method.run(evidence)
            taken.append(time.perf_counter() - began)
            peaks.append(resident_mb("VmHWM") - before)
    ratios = [one / other for one, other in zip(taken, passes, strict=True)]
    found = {
        "images": given.limit,
        "models": MODELS,
        "seconds": statistics.median(taken),
        "seconds of the passes": statistics.median(passes),
        "times the passes": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "asked: at most": 1.3,
        "mb above before": statistics.median(peaks),
    }
    report("vog", found, given.out)


if __name__ == "__main__":
    main()
