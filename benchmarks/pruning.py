"""Pruning by every policy and selector under one protocol: test accuracy of what stays, beside a random part of the same size.

For each seed the plan is recorded once, scored, and every policy that has an option `keep` chooses from that recording; what stays is trained from new weights by the
same recipe, in as many epochs, with another seed, which all choices share. A policy that chooses by a score does so by each of several. Differences from random are
paired by seed, and their p corrected (Holm) for all of them together; what is significantly below random is named as such. Live selectors that train every epoch on a given
number of examples stand beside them, at equal steps. Policies are found, not listed: what cannot choose here stands in the figures with the reason. Runs and
trainings are kept in the folder, so that a measurement that was stopped goes on.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch
from machine import report
from retrained import Job, arm_of, outcomes

import assay
from assay.core.decision import Decision
from assay.core.errors import AssayError, RunError
from assay.experiments.choose import decide
from assay.experiments.plan import Plan, load_data
from assay.experiments.record import record
from assay.maths.statistics import holm, paired
from assay.policies import catalogue, live_catalogue
from assay.studies.coresets import specs
from assay.studies.parts import budget_options

TASKS = {
    "digits": {
        "data": {"name": "digits"},
        "net": "mlp",
        "recipe": {"lr": 0.1, "batch": 32, "momentum": 0.9, "schedule": "one_cycle"},
    },
    "mnist": {
        "data": {"name": "mnist"},
        "net": "lenet",
        "recipe": {"lr": 0.05, "batch": 64, "momentum": 0.9, "schedule": "one_cycle"},
    },
    "human": {
        "data": {"name": "cifar10", "labels": "worse_label"},
        "net": "block_conv",
        "recipe": {
            **{
                "lr": 0.03,
                "batch": 64,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 1e-4,
                "schedule": "one_cycle",
                "warmup": 0.3,
            },
            "flip": True,
        },
    },
}
FOLDERS = {"mnist": "mnist", "human": "cifar10"}
RANDOM, LATER = "random", 1000
"""The policy that all others are held against; what is added to a seed for the trainings on what stays."""


def opened(plan: Plan, folder: Path) -> assay.Run:
    """The recorded run of the plan, from the folder where it is whole there."""
    try:
        if (run := assay.Run(folder)).epochs == plan.training.epochs:
            return run
    except RunError:
        return record(plan, folder)
    return record(plan, folder, resume=True)


def chosen(given: argparse.Namespace, run: assay.Run, keep: float, seed: int) -> tuple[dict[str, Decision], dict[str, str]]:
    """The decision of every policy, by its name and score, and why others made none."""
    found, refused = {}, {}
    scores = assay.score(run, given.methods.split("+"), save=True)
    for spec, by_score in specs()[0].items():
        defaults = {field.name: field.default for field in dataclasses.fields(catalogue()[spec.split(":")[0]])}
        options = budget_options(spec, keep, seed)
        if given.only and spec.split(":")[0] not in (RANDOM, *given.only.split(",")):
            continue
        # Those of logits or gradients read these.
        if defaults.get("features") in ("inputs", "penultimate"):
            options["features"] = given.features
        for by in scores.values() if by_score else [None]:
            title = spec if by is None else f"{spec} by {by.title}"
            try:
                # What keeps suspects is part of what is measured, so that nobody is warned of it.
                found[title] = decide(run if by is None else by, spec, None if by is None else run, options=options)
            except AssayError as error:
                refused[title] = str(error)
    return found, refused


def main() -> None:
    """Choose, train, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", help="folder that holds the folders cifar10 and mnist")
    parser.add_argument("--task", choices=tuple(TASKS), default="digits")
    parser.add_argument("--net", help="another net than the task's")
    parser.add_argument("--examples", type=int, help="the first so many rows; all by default")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--keeps", default="0.9,0.7,0.5,0.3,0.1", help="fractions that stay")
    parser.add_argument("--methods", default="aum+dual:window=3+forgetting", help="scores, separated by plus signs")
    parser.add_argument("--features", default="penultimate")
    parser.add_argument("--only", help="names of policies, separated by commas, beside random")
    parser.add_argument("--unweighted", action="store_true", help="train what a policy gives weights without them too")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", required=True, help="folder for the JSON, the runs and the trainings")
    given = parser.parse_args()
    task, out, keeps = dict(TASKS[given.task]), Path(given.out), list(map(float, given.keeps.split(",")))
    if given.net:
        task["net"] = given.net
    data = {
        **task["data"],
        **({"path": str(Path(given.data_path) / FOLDERS[given.task])} if given.data_path else {}),
        **({"limit": given.examples} if given.examples else {}),
    }
    jobs, refused, examples = [], {}, 0
    for seed in range(given.seeds):
        plan = Plan.make(
            {
                **task,
                **{"data": data, "recipe": {**task["recipe"], "epochs": given.epochs}, "seed": seed, "validation": 0.1},
                "record": {"checkpoints": "last"},
            }
        )
        folder = f"pruning-{given.task}-{task['net']}-{given.examples or 'all'}-{given.epochs}"
        run = opened(plan, out / folder / f"seed{seed}")
        loaded = load_data(plan)
        examples = len(loaded.train)
        jobs.append(Job(f"all|1|{seed}", plan, arm_of("all", loaded), seed + LATER))
        for keep in keeps:
            decisions, failed = chosen(given, run, keep, seed)
            refused |= {f"{title} at keep={keep}": why for title, why in failed.items()}
            for title, decision in decisions.items():
                arm = dataclasses.replace(arm_of("kept", loaded, decision.kept_ids), weights=decision.weights[decision.kept])
                jobs.append(Job(f"{title}|{keep}|{seed}", plan, arm, seed + LATER))
                if given.unweighted and not bool((arm.weights == 1).all()):
                    jobs.append(
                        Job(f"{title}, unweighted|{keep}|{seed}", plan, arm_of("kept", loaded, decision.kept_ids), seed + LATER)
                    )
            for name, cls in live_catalogue().items():
                if any(field.name == "keep" for field in dataclasses.fields(cls)):
                    jobs.append(
                        Job(
                            f"{name}, every epoch|{keep}|{seed}",
                            plan,
                            arm_of(name, loaded, selector=cls(keep=keep)),
                            seed + LATER,
                        )
                    )
    found = outcomes(jobs, out, given.workers)
    accuracy: dict[tuple[str, str], dict[int, float]] = {}
    for name, outcome in found.items():
        title, keep, seed = name.rsplit("|", 2)
        accuracy.setdefault((title, keep), {})[int(seed)] = outcome.accuracy
    rows, compared = {}, []
    for (title, keep), mine in accuracy.items():
        row = rows[f"{title} at keep={keep}"] = {
            "mean, %": 100 * statistics.fmean(mine.values()),
            "by seed, %": [100 * one for one in mine.values()],
        }
        if title in ("all", RANDOM) or len(mine) < 2:
            continue
        pair = paired(list(mine.values()), [accuracy[RANDOM, keep][seed] for seed in mine])
        row |= {
            "minus random, points": 100 * pair.effect,
            "interval": None if pair.interval is None else [100 * end for end in pair.interval],
            "p": pair.p,
        }
        compared.append(row)
    for row, p in zip(compared, holm([row["p"] for row in compared]) if compared else [], strict=True):
        told = "above" if row["minus random, points"] > 0 else "below"
        row |= {
            "p corrected": p,
            "told": f"{told} random" if p < 0.05 and len(row["by seed, %"]) > 2 else "not told apart from random",
        }
    figures = {
        "task": given.task,
        "net": task["net"],
        "examples": examples,
        "epochs": given.epochs,
        "seeds": given.seeds,
        "rows": rows,
        "below random": sorted(name for name, row in rows.items() if row.get("told") == "below random"),
        "could not choose": refused,
        "left out": specs()[1],
        "seconds of training": sum(one.seconds for one in found.values()),
    }
    report(
        f"pruning-{given.task}{f'-{given.net}' if given.net else ''}{'-unweighted' if given.unweighted else ''}",
        figures,
        given.out,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
