"""The same trainings inline, in processes and as jobs of SLURM: seconds, what a training costs beside its own time, and whether the bytes are equal.

With SLURM a few jobs are killed on the way, and the command is given again until all is there.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from machine import report

from assay.cluster import Call, executor, run_all
from assay.cluster.slurm import Slurm, SlurmExecutor
from assay.core.errors import TrialFailed
from assay.core.lineage import fingerprint
from assay.core.trial import Outcome
from assay.experiments.plan import Plan, load_data
from assay.experiments.trials import Arm, train_arm

PLAN = {"data": "digits", "net": "mlp:widths=64-64", "recipe": {"epochs": 20, "batch": 64}}


def trained(where: str, calls: Sequence[Call], folder: Path, kill: int) -> dict[str, object]:
    """Run the calls, again after every failure until all are there."""
    found: dict[str, Outcome] = {}
    began, failures, killed = time.perf_counter(), 0, 0
    while len(found) < len(calls):
        due = [call for call in calls if call.name not in found]
        pool = SlurmExecutor(Slurm.parse(where), pause=1.0) if where.startswith("slurm") else executor(where)
        try:
            with pool:
                for name, outcome in run_all(pool, due, folder / "logs"):
                    assert name not in found, f"{name} was counted twice"
                    found[name] = outcome
                    if (
                        kill
                        and where.startswith("slurm")
                        and killed < kill
                        and len(found) >= (killed + 1) * len(calls) // (kill + 1)
                    ):
                        running = subprocess.run(
                            ["squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i"], capture_output=True, text=True, check=True
                        )
                        # The last one has just begun. Without the half minute in which a cancelled job may still end well.
                        ids = sorted(running.stdout.split(), key=lambda one: int(one.partition("_")[2]))
                        if ids and not subprocess.run(["scancel", "-s", "KILL", ids[-1]]).returncode:
                            killed += 1
                            print(f"{len(found)} done; killed {ids[-1]}", flush=True)
        except TrialFailed as error:
            failures += 1
            print(str(error).splitlines()[0][:200], flush=True)
    seconds, own = time.perf_counter() - began, sum(one.seconds for one in found.values())
    made = fingerprint(*(f"{name} {found[name].accuracy!r} {found[name].loss!r}" for name in sorted(found)))
    return {
        "where": where.partition(",folder")[0],
        "seconds": round(seconds, 1),
        "of the trainings": round(own, 1),
        "made": made,
        "killed": killed,
        "failures survived": failures,
    }


def main() -> None:
    """Measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--where", nargs="+", default=["inline", "processes:2"])
    parser.add_argument("--kill", type=int, default=4)
    parser.add_argument("--out")
    given = parser.parse_args()
    plan = Plan.make(PLAN)
    data = load_data(plan).train
    arm = Arm("all", data.ids, data.labels, torch.ones(len(data), dtype=torch.float64))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, where in enumerate(given.where):
            calls = [
                Call(f"trial-{seed}", train_arm, (plan.plain(), arm, seed), f"{folder} {seed}") for seed in range(given.trials)
            ]
            rows.append(trained(where, calls, Path(folder) / str(number), given.kill))
            print(rows[-1], flush=True)
    assert len({row["made"] for row in rows}) == 1, "not the same bytes"
    report("where", {"trials": given.trials, "plan": PLAN, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
