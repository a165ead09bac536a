"""How far SGD-influence is from leaving one example out, as `checks=` estimates it without training again, and as leaving 20 out one by one measures it.

scikit-learn's digits by the plan's MLP, batches of 64, a fifth of the training part held out as the target. The error is the norm of the differences as a part of
the norm of the values: estimated over 16 examples, as the score tells it, and over the 20 that are then left out.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from machine import report

import assay
from assay.experiments.evidence import open_replay
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.methods.sgd_influence import ESTIMATED

RECIPES: dict[str, dict[str, object]] = {
    "SGD, 5 epochs": {"epochs": 5, "lr": 0.05, "momentum": 0.0},
    "SGD, 20 epochs": {"epochs": 20, "lr": 0.05, "momentum": 0.0},
    "SGD, momentum .9, 20 epochs": {"epochs": 20, "lr": 0.005, "momentum": 0.9},
    "AdamW, 3 epochs": {"epochs": 3, "lr": 0.001, "optimizer": "adamw"},
    "AdamW, 20 epochs": {"epochs": 20, "lr": 0.001, "optimizer": "adamw"},
}


def main() -> None:
    """One recording for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left-out", type=int, default=20, help="examples that are left out one by one")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            record(Plan.make({"data": "digits", "validation": 0.2, "net": "mlp", "recipe": {**recipe, "batch": 64}}), folder)
            (scores,) = assay.score(folder, "sgd_influence:checks=1").values()
            replay = open_replay(folder)
            chosen = torch.randperm(len(replay.run.ids), generator=torch.Generator().manual_seed(0))[: given.left_out]
            groups = [torch.arange(0), *chosen.split(1)]
            ends = replay.retrained(groups, range(replay.epochs[-1].stop), ["validation"])[:, 0].double()
            values, true = scores.of(replay.run.ids.take(chosen.numpy())), ends[1:] - ends[0]
            ids = "+".join(map(str, replay.run.ids.take(chosen.numpy())))
            (carried,) = assay.score(folder, f"sgd_influence:form=accumulated,at_end=evaluated,ids={ids}").values()
            nearer = carried.of(replay.run.ids.take(chosen.numpy()))
            figures[name] = {
                "estimated": scores.diagnostics[ESTIMATED],
                "estimated of those left out": float((values - nearer).norm() / values.norm()),
                "error of what is carried": float((nearer - true).norm() / values.norm()),
                "measured": float((values - true).norm() / values.norm()),
                "correlation of values and measured changes": float(torch.corrcoef(torch.stack([values, true]))[0, 1]),
                "adjoint growth": scores.diagnostics["adjoint growth"],
            }
        print(name, figures[name], flush=True)
    report("first_order", {"left out": given.left_out, **figures}, given.out)


if __name__ == "__main__":
    main()
