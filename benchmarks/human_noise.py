"""Finding human label noise: one recorded run against 5-fold cross-validated self-confidence of the same net.

The first 10,000 rows of CIFAR-10 with the labels `worse_label` of CIFAR-10N, whose truth is `label`. One run of a three-block CNN
with BatchNorm is recorded, and every method scores it; the baseline trains the same net five times on four fifths and takes the
held-out probability of the given label, which is what users of confident learning do.
"""

import argparse
import pathlib
import tempfile
import time

import torch
from machine import report

import assay
from assay.core.scores import Direction, Scores
from assay.experiments.detection import detect
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.experiments.scorable import scorable
from assay.maths import draws
from assay.runs.artefacts import load_truth
from assay.training.batches import TrainingData
from assay.training.loop import predict, train


def cross_validated(plan: Plan, folds: int, seed: int) -> Scores:
    """Held-out probability of the given label, with folds stratified by class."""
    loaded = plan.load()
    examples = loaded.train
    order = draws.permutation(examples.ids.keys, seed, "folds")
    fold = torch.empty(len(examples), dtype=torch.int64)
    for label in range(examples.classes):
        members = order[examples.labels[order] == label]
        fold[members] = torch.arange(len(members)) % folds
    held_out = torch.empty(len(examples), dtype=torch.float64)
    for number in range(folds):
        inside, outside = fold != number, fold == number
        part = examples.take(inside)
        model = plan.build(loaded, seed + number)
        recipe = plan.recipe_with(seed + number)
        augment = plan.augmentation(loaded, seed + number)
        train(model, TrainingData(part.inputs, part.labels, part.ids, prepare=examples.prepared, augment=augment), recipe)
        logits = predict(model, examples.inputs[outside], prepare=examples.prepared, device=recipe.device)
        held_out[outside] = logits.double().softmax(-1).gather(1, examples.labels[outside][:, None])[:, 0]
    return Scores(
        examples.ids, held_out, "self_confidence", {}, "5-fold self-confidence", Direction.LOW_IS_SUSPECT, "probability"
    )


def main() -> None:
    """Record, score, cross-validate, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder with CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--warmup", type=float, default=0.3)
    parser.add_argument("--net", default="block_conv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-folds", action="store_true", help="leave the baseline out")
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan.make(
        {
            "data": {"name": "cifar10", "path": given.data_path, "labels": "worse_label", "limit": given.examples},
            "net": given.net,
            "seed": given.seed,
            "recipe": {
                "epochs": given.epochs,
                "lr": given.lr,
                "schedule": "one_cycle",
                "warmup": given.warmup,
                "batch": given.batch,
                "flip": True,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 1e-4,
            },
            "record": {"keep_logits": True},
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        run = record(plan, pathlib.Path(scratch) / "run")
        recorded = time.perf_counter() - began
        began = time.perf_counter()
        names, _ = scorable(run)
        if "el2n" not in names:
            names.append(f"el2n:at={given.epochs // 2}")
        table = assay.score(run, names)
        scored = time.perf_counter() - began
        truth = load_truth(run.paths.truth)
        found = {title: detect(one, run, truth) for title, one in table.items()}
        figures = {
            "examples": len(run.ids),
            "wrong labels": int((run.labels != truth[1]).sum()),
            "recipe": plan.training.to_dict(),
            "seconds: record": recorded,
            "seconds: all methods": scored,
            "AUC / AP": {title: [round(one.auc, 4), round(one.average_precision, 4)] for title, one in found.items()},
        }
        if not given.without_folds:
            began = time.perf_counter()
            baseline = detect(cross_validated(plan, 5, given.seed + 100), run, truth)
            figures["seconds: 5-fold cross-validation"] = time.perf_counter() - began
            figures["AUC / AP"]["5-fold self-confidence"] = [round(baseline.auc, 4), round(baseline.average_precision, 4)]
    report(f"human_noise-{given.net}-seed{given.seed}", figures, given.out)


if __name__ == "__main__":
    main()
