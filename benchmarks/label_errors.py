"""The validated label errors of MNIST's test images: how many of the 15 are among the first 15, 50, 100 and 200 of each ranking.

The 100 candidates and the votes of five annotators are those of Northcutt, Athalye and Mueller 2021 (cleanlab/label-errors): an error is a candidate whose
given label fewer than three of five kept. Only what confident learning flagged was shown to annotators, so the set favours it; `their probabilities` are the
cross-validated ones that it flagged by, ranked by their self-confidence.

LeNet is trained on the 10,000 test images themselves, recorded in a loop of one's own, without cross-validation. Beside each method by one model stand the mean
of its ranks over all models (`mean rank`), and mean ranks of pairs of methods. With --turned each visit of an image is turned by up to 12 degrees, scaled by up to a
tenth and moved by up to 3 pixels, so that the net learns its label by heart later.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from over_seeds import interval
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.data.mnist import MNIST
from assay.nets.lenet import LeNet

DEPTHS = (15, 50, 100, 200)
BY_MODEL = ("knn_disagreement", "selfclean", "knn_shapley:target=others", "outlier_distance")
EARLY = ("aum:epochs=4", "loss:epochs=4", "confidence:epochs=4")
PAIRS = (
    ("mean_margin", "aum:epochs=4"),
    ("mean_margin", "selfclean"),
    ("mean_margin", "knn_shapley:target=others"),
    ("mean_margin", "selfclean:features=inputs"),
)
OF_INPUTS = ("knn_disagreement:features=inputs", "selfclean:features=inputs", "knn_shapley:target=others,features=inputs")


def errors_of(folder: Path) -> tuple[list[int], torch.Tensor]:
    """Rows of the validated errors, and the ranks by the probabilities that confident learning had."""
    votes = json.loads((folder / "mnist_mturk.json").read_text())
    rows = [one["id"] for one in votes if one["mturk"]["given"] < 3]
    return rows, torch.from_numpy(np.load(folder / "mnist_test_set_pyx.npy"))


def recalls(suspicion: torch.Tensor, errors: list[int]) -> dict[str, float]:
    """Share of the errors among the first so many, and the mean over the errors of how many right labels stand behind them."""
    place = (-suspicion).argsort(stable=True).argsort()
    found = {f"at {depth}": float((place[errors] < depth).double().mean()) for depth in DEPTHS}
    wrong = torch.zeros(len(place), dtype=torch.bool)
    wrong[errors] = True
    return found | {"auc": float((place[errors][:, None] < place[~wrong]).double().mean())}


def ranks(suspicion: torch.Tensor) -> torch.Tensor:
    """Places from the most suspect on, turned so that large is suspect; equal values have their mean place."""
    _, group, counts = suspicion.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last - (counts - 1) / 2)[group]


def turned(pixels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Images turned, scaled and moved, each its own way, over their darkest value."""
    one = torch.rand(4, len(pixels), generator=draw) * 2 - 1
    angle, scale, move = one[0] * np.pi / 15, 1 + one[1] / 10, one[2:] * 3 / 14
    rows = (
        torch.stack((angle.cos() / scale, -angle.sin() / scale, move[0]), 1),
        torch.stack((angle.sin() / scale, angle.cos() / scale, move[1]), 1),
    )
    where = F.affine_grid(torch.stack(rows, 1), pixels.shape, align_corners=False)
    return F.grid_sample(pixels - pixels.min(), where, align_corners=False) + pixels.min()


def scored(examples, seed: int, given: argparse.Namespace, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Suspicion by every method from one training, and seconds: of the recording, and of each method that reads features."""
    torch.manual_seed(seed)
    inputs = examples.prepared(examples.inputs)
    model = LeNet().layers(tuple(inputs.shape[1:]), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=given.rate, momentum=0.9)
    draw, draws = (torch.Generator().manual_seed(seed) for _ in range(2))
    loader = DataLoader(TensorDataset(inputs, examples.labels), given.batch, shuffle=True, generator=draw)
    began = time.perf_counter()
    with assay.record(
        folder, model, optimizer, loader, assay.Recording(view=given.view, checkpoints="last", keep_logits=True), seed=seed
    ) as recorder:
        for _ in range(given.epochs):
            for x, y in recorder.epoch():
                optimizer.zero_grad()
                logits = model(turned(x, draws) if given.turned else x)
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits, y)
    seconds = {"record": time.perf_counter() - began}
    loop = assay.Loop(model, optimizer, loader)
    found = {}
    began = time.perf_counter()
    table = assay.score(folder, ["all", *EARLY])
    seconds["all of the recorded epochs"] = time.perf_counter() - began
    for title, one in table.items():
        found[title] = one.hardness()
    for title in BY_MODEL + (OF_INPUTS if given.with_inputs and seed == 0 else ()):
        began = time.perf_counter()
        (one,) = assay.score(folder, title, loop=loop).values()
        seconds[title] = time.perf_counter() - began
        found[title] = one.hardness()
    return found, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder that holds mnist and label_errors")
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--view", default="train", choices=("train", "eval"))
    parser.add_argument("--turned", action="store_true", help="turn, scale and move the images at each visit")
    parser.add_argument("--with-inputs", action="store_true", help="methods of neighbours by pixels too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = Path(given.data_path)
    errors, theirs = errors_of(folder / "label_errors")
    examples = MNIST(str(folder / "mnist")).load().test
    by_seed, seconds = [], []
    for seed in range(given.models):
        with tempfile.TemporaryDirectory() as scratch:
            found, spent = scored(examples, seed, given, Path(scratch) / "run")
        if given.with_inputs and seed:
            found |= {title: by_seed[0][title] for title in OF_INPUTS}
        by_seed.append(found)
        seconds.append(spent)
        print(f"seed {seed}:", *(f"{title} {taken:.0f} s" for title, taken in spent.items()), flush=True)
    rows = {}

    def told(title: str, many: list[dict[str, float]]) -> None:
        rows[title] = {
            name: {
                "mean": round(statistics.fmean(one[name] for one in many), 4),
                "interval": interval([one[name] for one in many]),
            }
            for name in many[0]
        }

    titles = list(by_seed[0])
    pairs = [pair for pair in PAIRS if set(pair) <= set(titles)]
    for title in titles:
        told(title, [recalls(one[title], errors) for one in by_seed])
    for pair in pairs:
        told(f"mean rank of {' and '.join(pair)}", [recalls(sum(ranks(one[title]) for title in pair), errors) for one in by_seed])
    for ranked in [(title,) for title in titles] + pairs if given.models > 1 else ():
        together = sum(ranks(one[title]) for one, title in itertools.product(by_seed, ranked))
        name = f"mean rank of {' and '.join(ranked)}" if len(ranked) > 1 else ranked[0]
        told(f"{name}, {given.models} models", [recalls(together, errors)])
    told("their probabilities", [recalls(-theirs[torch.arange(len(theirs)), examples.labels].double(), errors)])
    for title, row in sorted(rows.items(), key=lambda pair: -pair[1]["at 100"]["mean"]):
        print(f"{title:<75}", *(f"{row[name]['mean']:.3f}" for name in row))
    report(
        "label_errors-turned" if given.turned else "label_errors",
        {"errors": len(errors), "recall": rows, "seconds": seconds},
        given.out,
    )


if __name__ == "__main__":
    main()
