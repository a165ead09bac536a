"""How many labels are wrong: the count and its interval against what is known, on clean data, planted flips and human labels.

Digits (MLP of the demo, and a linear net), the first 10,000 rows of MNIST (LeNet, 10 epochs) and of CIFAR-10 (block_conv, 10 epochs, as in `human_noise.py`; LeNet), each recorded
once. Beside the count stands what `threshold:fdr=` drops by AUM, and the part of right labels among it. Recordings are kept in the folder --runs, and taken from there.

With --probe KINDS every run is probed instead (another training for each kind): the count by where flipped labels rank, by AUM, and AUM's threshold; a count that the probe
refuses is given all the same, beside why.
"""

import argparse
from pathlib import Path

import torch
from machine import report

import assay
from assay.core.lineage import fingerprint
from assay.core.wrong_labels import WrongCount
from assay.experiments.plan import Plan, plan_of
from assay.experiments.probe import mended_chance
from assay.experiments.record import record
from assay.maths.planted_counts import PlantedCount, count_by_planted
from assay.runs.artefacts import load_truth
from assay.runs.run import Run

RATES = (0.05, 0.1, 0.2)
"""Asked parts of right labels."""
DEMO = {"epochs": 20, "lr": 0.1, "batch": 64, "momentum": 0.9, "weight_decay": 5e-4}
HUMAN = {
    "epochs": 10,
    "lr": 0.03,
    "schedule": "one_cycle",
    "warmup": 0.3,
    "batch": 64,
    "flip": True,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
}


def tasks(folder: str) -> dict[str, dict]:
    """Settings of each recording, by name."""
    digits = {"data": "digits", "net": "mlp", "recipe": DEMO}
    mnist = {
        "data": {"name": "mnist", "path": f"{folder}/mnist", "limit": 10_000},
        "net": "lenet",
        "recipe": {"epochs": 10, "lr": 0.05, "batch": 128},
    }

    def cifar(labels: str, net: str) -> dict:
        data = {"name": "cifar10", "path": f"{folder}/cifar10", "labels": labels, "limit": 10_000}
        return {"data": data, "net": net, "recipe": HUMAN, "record": {"keep_logits": True, "checkpoints": "none"}}

    def flipped(base: dict, rate: float, kind: str = "uniform") -> dict:
        return {**base, "plant": {"kind": kind, "rate": rate}}

    linear = {**digits, "net": "logistic"}
    return {
        "digits, clean": digits,
        "digits, 0.5 % flipped": flipped(digits, 0.005),
        "digits, 2 % flipped": flipped(digits, 0.02),
        "digits, 10 % flipped (the demo)": flipped(digits, 0.1),
        "digits, 10 % to the next class": flipped(digits, 0.1, "pair"),
        "digits, 40 % flipped": flipped(digits, 0.4),
        "digits, linear net, clean": linear,
        "digits, linear net, 10 % flipped": flipped(linear, 0.1),
        "MNIST, as it is": mnist,
        "MNIST, 10 % flipped": flipped(mnist, 0.1),
        "CIFAR-10, as it is": cifar("label", "block_conv"),
        "CIFAR-10N, worst human labels": cifar("worse_label", "block_conv"),
        "CIFAR-10N, worst human labels, LeNet": cifar("worse_label", "lenet"),
    }


def recorded(settings: dict, folder: Path) -> Run:
    """The recording of a task; one that is there is opened."""
    return Run(folder) if (folder / "run.json").exists() else record(Plan.make({**settings, "seed": 0}), folder)


def figures_of(run: Run) -> dict:
    """The count, what is known, and how right the asked part of right labels is."""
    counted: WrongCount = assay.count_wrong(run)
    wrong = known_wrong(run)
    found = {
        "examples": len(run.ids),
        "wrong": int(wrong.sum()),
        "count": round(counted.count, 1),
        "interval": [round(counted.low, 1), round(counted.high, 1)],
        "told apart": counted.clear,
        "within": bool(counted.low <= int(wrong.sum()) <= counted.high),
        "classes within": sum(
            one.low <= int(wrong[run.labels == at].sum()) <= one.high for at, one in enumerate(counted.by_class)
        ),
        "seconds": round(counted.lineage.seconds, 2) if counted.lineage else None,
    }
    scores = assay.score(run, "aum")["aum"]
    for rate in RATES if counted.seen else ():
        dropped = ~assay.choose(scores, "threshold", run=run, fdr=rate).kept
        found[f"fdr={rate}: dropped, right among them"] = [int(dropped.sum()), round(float((~wrong[dropped]).double().mean()), 3)]
    return found


def probed_figures(run: Run, kinds: list[str], seeds: list[int]) -> dict:
    """What probes of these kinds count, by AUM's ranking."""
    found = {"examples": len(run.ids), "wrong": int(known_wrong(run).sum())}
    counted = assay.count_wrong(run)
    found["by margins"] = [round(counted.low), round(counted.count), round(counted.high)] if counted.clear else "cannot be told"
    for kind, seed in ((kind, seed) for kind in kinds for seed in seeds):
        probe = assay.probe(run, "aum", flips=assay.Flips(kind=kind, seed=seed))
        one = probe.methods[0].counted
        assert one is not None
        told = {"planted": probe.flipped, "area": round(one.area, 4), "told": one.holds}
        if not one.told:
            one = unrefused(run, probe)
        told |= {"count": [round(one.low), round(one.count), round(one.high)], "within": one.low <= found["wrong"] <= one.high}
        if probe.threshold is not None:
            told["below AUM's threshold"] = [round(getattr(probe.threshold, name)) for name in ("low", "count", "high")]
        found[f"{kind}, seed {seed}"] = told
    return found


def unrefused(run: Run, probe: assay.Probe) -> PlantedCount:
    """The count by AUM's ranking that a probe refuses."""
    folders = [path for path in run.paths.probe("x").parent.glob(f"{probe.kind}-*") if path.is_dir()]
    assert probe.lineage is not None
    made = probe.lineage.parents["labels"]
    again = next(one for one in map(Run, folders) if fingerprint(one.labels.numpy().tobytes()) == made)
    planted = {"matrix": None, **plan_of(again).plain()["probe"]}
    suspicion, easier = assay.score(again, "aum")["aum"].suspicion().numpy(), probe.kind == "extra_class"
    chance = mended_chance(planted, run)
    return count_by_planted(suspicion, (again.labels != run.labels).numpy(), probe.seed, mended=chance, easier=easier)


def known_wrong(run: Run) -> torch.Tensor:
    """Which labels are known to be wrong."""
    if not run.paths.truth.exists():
        return torch.zeros(len(run.ids), dtype=torch.bool)
    ids, true = load_truth(run.paths.truth)
    return run.labels != true[ids.positions(run.ids)]


def main() -> None:
    """Record, count, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-path", required=True, help="folder with mnist and cifar10")
    parser.add_argument("--runs", required=True, type=Path, help="folder of the recordings")
    parser.add_argument("--only", nargs="*", help="tasks, by the beginning of their names")
    parser.add_argument("--probe", nargs="*", default=[], help="kinds of probes, such as confusion uniform extra_class")
    parser.add_argument("--probe-seeds", nargs="*", type=int, default=[0], help="seeds of the probes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures = {}
    for place, (name, settings) in enumerate(tasks(given.data_path).items()):
        if given.only is None or any(name.startswith(one) for one in given.only):
            run = recorded(settings, given.runs / f"{place:02d}")
            figures[name] = probed_figures(run, given.probe, given.probe_seeds) if given.probe else figures_of(run)
            print(name, figures[name], flush=True)
    report("wrong_counts-probe" if given.probe else "wrong_counts", figures, given.out)


if __name__ == "__main__":
    main()
