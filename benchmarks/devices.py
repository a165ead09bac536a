"""How far the same plan on the CPU and on a GPU leads to the same scores: every method, both devices of one machine.

Two nets: an MLP on scikit-learn's digits with planted flips, and block_conv on CIFAR-10 under human labels, whose training multiplies
rounding more with every step. For each method Spearman between the devices, and the largest gap as a part of the scores' standard
deviation. With `--device cpu` the other side is the same CPU with one thread: what rounding alone does.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from detection import STEPS, TARGETED, TASKS, TESTS
from machine import report

import assay
from assay.experiments.plan import Plan, load_data
from assay.experiments.record import record
from assay.experiments.scorable import scorable
from assay.maths.ranking import rank_correlation

FURTHER = ("grand", "vog", "prediction_depth", "prediction_depth:reference=label", *STEPS, *TARGETED)


def settings(data_path: str, examples: int, epochs: int) -> dict[str, dict]:
    """The plans, by name."""
    human = TASKS["human"]
    return {
        "digits": {"data": "digits", "net": "mlp", "plant": {"rate": 0.1}, "recipe": {"epochs": epochs, "lr": 0.05}},
        "human": {
            **human,
            "data": {**human["data"], "path": f"{data_path}/cifar10", "limit": examples},
            "recipe": {**human["recipe"], "epochs": epochs},
        },
    }


def scored(given: dict, device: str, threads: int, folder: Path) -> dict[str, torch.Tensor]:
    """Every method on one device."""
    torch.set_num_threads(threads)
    plan = Plan.make(
        {
            **given,
            "recipe": {**given["recipe"], "device": device},
            "record": {"keep_logits": True, "checkpoints": "every"},
        }
    )
    run = record(plan, folder)
    able, _ = scorable(run)
    tests = {"tests": load_data(plan).test.take(torch.arange(TESTS))}
    return {one.title: one.values for one in assay.score(run, [*able, *FURTHER], targets=tests).values()}


def main() -> None:
    """Both devices, compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder that holds the folder cifar10")
    parser.add_argument("--examples", type=int, default=2000, help="rows of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    gpu = given.device == "cuda"
    figures: dict = {"against": torch.cuda.get_device_name() if gpu else "one thread", "epochs": given.epochs}
    sides = ("cpu", given.threads), (given.device, given.threads if gpu else 1)
    with tempfile.TemporaryDirectory() as scratch:
        for name, plan in settings(given.data_path, given.examples, given.epochs).items():
            here, there = (scored(plan, *side, Path(scratch) / name / str(place)) for place, side in enumerate(sides))
            figures[name] = {
                method: {
                    "Spearman": float(rank_correlation(torch.stack([values, there[method]]))[0, 1]),
                    "largest gap, of the deviation": float((values - there[method]).abs().max() / values.std()),
                }
                for method, values in here.items()
                if values.std() > 0
            }
    # The last side may have left other threads than were asked for.
    torch.set_num_threads(given.threads)
    report("devices" if gpu else "devices-threads", figures, given.out)


if __name__ == "__main__":
    main()
