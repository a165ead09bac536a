"""InfoBatch: how many steps it saves, and what that does to the accuracy.

The same training over seeds: on all examples in every epoch; by InfoBatch; and, with as many steps as InfoBatch takes, on a random part of every epoch (RS2) and on
all examples in fewer epochs. Differences are paired by seed: within one the weights and the order of the examples are the same.
"""

import argparse
from pathlib import Path

from machine import report
from retrained import Job, arm_of, outcomes

from assay.experiments.plan import Plan, load_data
from assay.maths.statistics import holm, paired, student_interval
from assay.policies import parse_live

TASKS = {
    "digits": {
        "data": {"name": "digits"},
        "net": "mlp",
        "recipe": {"epochs": 40, "lr": 0.1, "batch": 32, "momentum": 0.9, "schedule": "one_cycle"},
    },
    "mnist": {
        "data": {"name": "mnist"},
        "net": "lenet",
        "recipe": {"epochs": 10, "lr": 0.05, "batch": 64, "momentum": 0.9, "schedule": "one_cycle"},
    },
}
WHOLE, INFOBATCH, RS2, SHORTER = "all", "infobatch", "rs2, as many steps", "all, fewer epochs"


def main() -> None:
    """Train, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", help="the folder of MNIST's four files")
    parser.add_argument("--task", choices=tuple(TASKS), default="digits")
    parser.add_argument("--subset", type=float, help="a fraction of the examples, drawn at random; all by default")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float, help="the largest rate; that of the task by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--select", default="infobatch", help="the live selector, with its options")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", required=True, help="folder for the JSON and for every training")
    given = parser.parse_args()
    task = TASKS[given.task]
    data = {**task["data"], **({"path": given.data_path} if given.data_path else {})}
    epochs = given.epochs or task["recipe"]["epochs"]
    recipe = {**task["recipe"], **({} if given.lr is None else {"lr": given.lr})}

    def planned(epochs: int) -> Plan:
        subset = {} if given.subset is None else {"subset": given.subset}
        return Plan.make({"data": data, "net": task["net"], "recipe": {**recipe, "epochs": epochs}, **subset})

    plan = planned(epochs)
    loaded, selector, folder = load_data(plan), parse_live(given.select), Path(given.out)
    seeds = range(1, given.seeds + 1)
    first = [Job(f"{WHOLE} {seed}", plan, arm_of("all", loaded), seed) for seed in seeds]
    first += [Job(f"{INFOBATCH} {seed}", plan, arm_of("infobatch", loaded, selector=selector), seed) for seed in seeds]
    found = outcomes(first, folder, given.workers)
    share = {seed: found[f"{INFOBATCH} {seed}"].steps / found[f"{WHOLE} {seed}"].steps for seed in seeds}
    # Fewer epochs are rounded up, so that they are not worse for want of steps.
    second = [
        Job(f"{RS2} {seed}", plan, arm_of("rs2", loaded, selector=parse_live(f"rs2:keep={share[seed]!r}")), seed)
        for seed in seeds
    ]
    second += [
        Job(f"{SHORTER} {seed}", planned(-(-round(1e6 * epochs * share[seed]) // 10**6)), arm_of("all", loaded), seed)
        for seed in seeds
    ]
    found |= outcomes(second, folder, given.workers)
    arms = {arm: [found[f"{arm} {seed}"] for seed in seeds] for arm in (WHOLE, INFOBATCH, RS2, SHORTER)}
    accuracy = {arm: [one.accuracy for one in mine] for arm, mine in arms.items()}
    pairs = [(INFOBATCH, WHOLE), (INFOBATCH, RS2), (INFOBATCH, SHORTER)]
    compared = [paired(accuracy[one], accuracy[other]) for one, other in pairs]
    saved = [100 * (1 - one) for one in share.values()]
    figures = {
        "task": given.task,
        "select": given.select,
        "examples": len(loaded.train),
        "epochs": epochs,
        "lr": recipe["lr"],
        "seeds": list(seeds),
        "steps saved, %": {"mean": sum(saved) / len(saved), "interval": student_interval(saved)},
        "accuracy, %": {
            arm: {"mean": 100 * sum(mine) / len(mine), "by seed": [100 * one for one in mine]} for arm, mine in accuracy.items()
        },
        "steps": {arm: [one.steps for one in mine] for arm, mine in arms.items()},
        "seconds of training": {arm: sum(one.seconds for one in mine) for arm, mine in arms.items()},
        "difference, points": {
            f"{one} - {other}": {
                "effect": 100 * found.effect,
                "interval": None if found.interval is None else [100 * end for end in found.interval],
                "p": found.p,
                "p corrected": p,
            }
            for (one, other), found, p in zip(pairs, compared, holm([found.p for found in compared]), strict=True)
        },
    }
    report(f"infobatch-{given.task}" + ("" if given.lr is None else f"-lr{given.lr:g}"), figures, given.out)


if __name__ == "__main__":
    main()
