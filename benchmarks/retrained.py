"""Trainings of one plan on parts of its data, side by side, each kept in a file of its own, so that a measurement that was stopped goes on."""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import assay
from assay.cluster.executors import Call, executor, run_all
from assay.core.errors import RunError
from assay.core.ids import Ids
from assay.core.lineage import fingerprint
from assay.core.live_selection import AbstractLiveSelector
from assay.core.trial import Outcome
from assay.experiments.plan import LoadedData, Plan
from assay.experiments.trials import Arm, train_arm
from assay.runs.artefacts import load_outcome, save_outcome


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: of which examples, with which seed."""

    name: str
    plan: Plan
    arm: Arm
    seed: int

    @functools.cached_property
    def made_of(self) -> str:
        """Fingerprint of everything that the outcome depends on, but for the data, whose name and limits the plan says."""
        versions = assay.__version__, torch.__version__
        return fingerprint(json.dumps(self.plan.plain(), sort_keys=True), self.arm.fingerprint, str(self.seed), *versions)


def arm_of(name: str, loaded: LoadedData, ids: Ids | None = None, selector: AbstractLiveSelector | None = None) -> Arm:
    """An arm of these examples of the data, all by default, under their given labels and with weight 1."""
    train = loaded.train if ids is None else loaded.train.take(loaded.train.ids.positions(ids, "the data"))
    return Arm(name, train.ids, train.labels, torch.ones(len(train), dtype=torch.float64), selector)


def outcomes(jobs: Sequence[Job], folder: Path, workers: int | None) -> dict[str, Outcome]:
    """The outcome of each job by its name, from the folder where it was trained before."""
    found, due, paths = {}, [], {}
    for job in jobs:
        path = folder / "trainings" / f"{job.made_of}.json"
        try:
            found[job.name] = load_outcome(path, made_of=job.made_of)
        except RunError:
            name = f"t{len(due)}-{job.made_of}"
            due.append(Call(name, train_arm, (job.plan.plain(), job.arm, job.seed)))
            paths[name] = job, path
    began, done = time.perf_counter(), len(found)
    print(f"{done} of {len(jobs)} trainings were made before", flush=True)
    with executor("inline") if workers == 1 else executor("processes", workers) as pool:
        for name, outcome in run_all(pool, due, folder / "logs"):
            job, path = paths[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_outcome(outcome, path, job.made_of)
            found[job.name], done = outcome, done + 1
            left = (time.perf_counter() - began) / (done - len(jobs) + len(due)) * (len(jobs) - done)
            print(f"{done} of {len(jobs)}, about {left:.0f} s left: {job.name}: {outcome.accuracy:.4f}", flush=True)
    return found
