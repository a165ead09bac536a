"""Cleaning that pays: test accuracy after suspects of CIFAR-10's human labels are dropped or relabelled, against random ones and against everything.

The first 10,000 rows of CIFAR-10 with the labels `worse_label` of CIFAR-10N are recorded once; a score ranks the suspects; each decision is verified over
seeds (`assay.verify`) by the clean test set. Retrainings are kept in the run's folder, so that a measurement that was stopped goes on.
"""

import argparse
from pathlib import Path

from machine import report

import assay
from assay.cluster.executors import executor
from assay.core.errors import RunError
from assay.core.trial import ALL, RANDOM
from assay.experiments.execution import Execution
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.runs.artefacts import load_truth


def planned(given: argparse.Namespace) -> Plan:
    """The training that is recorded and taken again."""
    data = {"name": "cifar10", "path": given.data_path, "labels": given.labels, "limit": given.examples}
    recipe = {
        **{
            "epochs": given.epochs,
            "lr": 0.03,
            "schedule": "one_cycle",
            "batch": 64,
            "flip": True,
            "momentum": 0.9,
            "nesterov": True,
        },
        "weight_decay": 1e-4,
    }
    return Plan.make({"data": data, "net": given.net, "seed": 0, "recipe": recipe, "record": {"checkpoints": "last"}})


def opened(plan: Plan, folder: Path) -> assay.Run:
    """The recorded run of the plan, from the folder where it is whole there."""
    try:
        run = assay.Run(folder)
        if run.epochs == plan.training.epochs:
            return run
    except RunError:
        return record(plan, folder)
    return record(plan, folder, resume=True)


def told(verdict: assay.Verdict) -> dict:
    """Accuracies of each arm and the comparisons of a verdict, in percent and points."""
    arms = {arm: [100 * one.accuracy for one in verdict.outcomes if one.arm == arm] for arm in verdict.arms}
    cleaning = verdict.cleaning
    return {
        "accuracy, %": {arm: sum(mine) / len(mine) for arm, mine in arms.items()},
        "by seed, %": arms,
        "against": {
            {RANDOM: "the same on random examples", ALL: "everything"}.get(one.baseline, one.baseline): {
                "effect, points": 100 * one.effect,
                "interval": None if one.low is None else [100 * one.low, 100 * one.high],
                "p": one.p,
                "p corrected": one.adjusted,
                "significant": one.significant,
            }
            for one in verdict.comparisons
        },
        "wrong labels among those touched": None if cleaning is None else [cleaning.hit, cleaning.touched],
        "mended": None if cleaning is None else cleaning.mended,
    }


def main() -> None:
    """Record, score, decide, verify."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder with CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--labels", default="worse_label")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--net", default="block_conv")
    parser.add_argument("--methods", default="aum", help="scores that rank suspects, separated by plus signs")
    parser.add_argument(
        "--parts", default="0.1,0.2,0.3,0.4", help="fractions of the examples that are dropped, or looked at for relabelling"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--control", help="a second control, such as rs2, of what is dropped")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", required=True, help="folder for the JSON, the run and its retrainings")
    given = parser.parse_args()
    plan = planned(given)
    run = opened(plan, Path(given.out) / f"cleaning-{given.labels}-{given.examples}-{given.net}-{given.epochs}")
    scores = assay.score(run, given.methods.split("+"), save=True)
    truth = load_truth(run.paths.truth)
    parts = list(map(float, given.parts.split(",")))
    found = {}
    with executor("inline") if given.workers == 1 else executor("processes", given.workers) as pool:
        for title, score in scores.items():
            for part in parts:
                drop = assay.choose(score, "bottom_k", keep=1 - part, by="suspicion")
                relabel = assay.choose(score, "relabel", count=round(part * len(run.ids)), run=run)
                for how, decision in (("drop", drop), ("relabel", relabel)):
                    seeds = assay.Seeds(given.seeds, control=given.control if how == "drop" else None)
                    verdict = assay.verify(decision, run=run, scores=scores, seeds=seeds, save=True, execution=Execution(pool))
                    found[f"{how} {part:g} by {title}"] = told(verdict)
                    print(f"{how} {part:g} by {title}:\n{verdict}\n", flush=True)
    figures = {
        "labels": given.labels,
        "examples": len(run.ids),
        "wrong labels": int((run.labels != truth[1]).sum()),
        "net": given.net,
        "recipe": plan.training.to_dict(),
        "seeds": given.seeds,
        "decisions": found,
    }
    report(f"cleaning-{given.labels}-{given.net}-{given.epochs}", figures, given.out)


if __name__ == "__main__":
    main()
