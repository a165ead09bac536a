"""How far SGD-influence is from leaving one example out, as `checks=` estimates it without training again, and as leaving 20 out one by one measures it.

scikit-learn's digits, batches of 64, a fifth of the training part held out as the target: by the plan's MLP under several optimizers, and by an MLP 64-128-10 with
ReLU or tanh in a loop of one's own. The error is the norm of the differences as a part of the norm of the values: estimated over 16 examples, as the score tells it,
and over the 20 that are then left out.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import report
from own_loop import record as record_loop
from sklearn.datasets import load_digits
from torch import Tensor, nn

import assay
from assay.experiments.evidence import open_replay
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.methods.sgd_influence import ESTIMATED

Again = dict[str, object]
"""What takes the training again, as `assay.score` takes it."""
RECIPES: dict[str, dict[str, object]] = {
    "SGD, 5 epochs": {"epochs": 5, "lr": 0.05, "momentum": 0.0},
    "SGD, 20 epochs": {"epochs": 20, "lr": 0.05, "momentum": 0.0},
    "SGD, momentum .9, 20 epochs": {"epochs": 20, "lr": 0.005, "momentum": 0.9},
    "AdamW, 3 epochs": {"epochs": 3, "lr": 0.001, "optimizer": "adamw"},
    "AdamW, 20 epochs": {"epochs": 20, "lr": 0.001, "optimizer": "adamw"},
}
TRAIN, HELD = 1150, 287


def planned(recipe: dict[str, object], folder: Path) -> Again:
    """Record the plan's MLP."""
    record(Plan.make({"data": "digits", "validation": 0.2, "net": "mlp", "recipe": {**recipe, "batch": 64}}), folder)
    return {}


def own(activation: Callable[[], nn.Module], folder: Path) -> Again:
    """Record 5 epochs of plain SGD."""
    pixels, labels = load_digits(return_X_y=True)
    draw = np.random.RandomState(0)
    order = draw.permutation(len(labels))[: TRAIN + HELD]
    inputs = torch.tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)[order]
    classes = torch.tensor(labels)[order]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), activation(), nn.Linear(128, 10))
    orders = [np.split(draw.permutation(TRAIN), range(64, TRAIN, 64)) for _ in range(5)]
    loop = record_loop(folder, model, torch.optim.SGD(model.parameters(), lr=0.05), inputs[:TRAIN], classes[:TRAIN], orders)
    return {"loop": loop, "targets": {"validation": (inputs[TRAIN:], classes[TRAIN:])}}


def measured(folder: Path, again: Again, left_out: int) -> dict[str, object]:
    """Estimated and measured errors of one recorded training."""
    (scores,) = assay.score(folder, "sgd_influence:checks=1", **again).values()  # type: ignore[arg-type]
    replay = open_replay(folder, **again)  # type: ignore[arg-type]
    chosen = torch.randperm(len(replay.run.ids), generator=torch.Generator().manual_seed(0))[:left_out]
    groups = [torch.arange(0), *chosen.split(1)]
    ends = replay.retrained(groups, range(replay.epochs[-1].stop), ["validation"])[:, 0].double()
    taken = replay.run.ids.take(chosen.numpy())
    carrying = f"sgd_influence:form=accumulated,at_end=evaluated,ids={'+'.join(map(str, taken))}"
    (carried,) = assay.score(folder, carrying, **again).values()  # type: ignore[arg-type]
    values, nearer, true = scores.of(taken), carried.of(taken), ends[1:] - ends[0]

    def apart(one: Tensor, other: Tensor) -> float:
        return float((one - other).norm() / values.norm())

    return {
        "estimated": scores.diagnostics[ESTIMATED],
        "estimated of those left out": apart(values, nearer),
        "measured": apart(values, true),
        "error of what is carried": apart(nearer, true),
        "correlation of values and measured changes": float(torch.corrcoef(torch.stack([values, true]))[0, 1]),
        "adjoint growth": scores.diagnostics["adjoint growth"],
    }


def main() -> None:
    """One recording for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left-out", type=int, default=20, help="examples that are left out one by one")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases: dict[str, Callable[[Path], Again]] = {
        "a loop, tanh, SGD, 5 epochs": lambda folder: own(nn.Tanh, folder),
        "a loop, ReLU, SGD, 5 epochs": lambda folder: own(nn.ReLU, folder),
        **{name: lambda folder, recipe=recipe: planned(recipe, folder) for name, recipe in RECIPES.items()},  # type: ignore[misc]
    }
    figures = {}
    for name, begun in cases.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            figures[name] = measured(folder, begun(folder), given.left_out)
        print(name, figures[name], flush=True)
    report("first_order", {"left out": given.left_out, **figures}, given.out)


if __name__ == "__main__":
    main()
