"""Finding wrong labels: every method beside 5-fold cross-validation, how alike they rank, and what ensembles add; over seeds.

Tasks: `human`, the first 10,000 rows of CIFAR-10 under `worse_label`, trained as in `human_noise.py` (block_conv, 10 epochs, one-cycle);
`mnist`, the first 10,000 rows of MNIST with 10 % uniform flips drawn by the seed (LeNet, 10 epochs at the rate of `mnist.py`).

Three parts, each a command of its own. `detection`: one recorded run a seed, whose models are kept at every epoch, scored by every
method; AUC and average precision of each by the direction that it declares, also of those that rank difficulty and claim nothing about
labels. Seconds are those of a score alone, from opening the run to the values, with the data already in memory; recording and
cross-validation read them from disk. The complexity gap draws by the seed, else by its defaults. `agreement`: Spearman between every two
methods, turned so that large is suspect or hard, mean over the seeds, as a clustered heat map; it takes the seeds that `detection` kept
under the same settings. With --held-out `cld` is among the methods, with --with-learners Data-OOB of what goes into the last layer, and with
--with-probe the method that a probe of 2 % flips finds best, which it records the training once more for. `ensembles`: EL2N of the last epoch and GraNd at its end over 1, 3 and 10 models that are trained for these
epochs only, on a schedule as short; seconds of the whole, training included.

With --out every seed is kept in a file of its own once it is done, and taken from there if the command is started again with the
same settings, on whatever machine; remove these files if the code of a method has changed since.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from human_noise import cross_validated
from machine import processor, report
from over_seeds import detection_interval
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

import assay
from assay.core.lineage import fingerprint
from assay.core.scores import Scores
from assay.experiments.detection import detect
from assay.experiments.plan import Plan, load_data
from assay.experiments.record import record
from assay.experiments.scorable import scorable
from assay.maths.ranking import rank_correlation
from assay.maths.statistics import student_interval
from assay.methods import catalogue
from assay.runs.artefacts import load_truth
from assay.runs.run import Run

TASKS: dict[str, dict] = {
    "human": {
        "data": {"name": "cifar10", "labels": "worse_label"},
        "net": "block_conv",
        "recipe": {
            "lr": 0.03,
            "schedule": "one_cycle",
            "warmup": 0.3,
            "batch": 64,
            "flip": True,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 1e-4,
        },
    },
    "mnist": {
        "data": {"name": "mnist"},
        "net": "lenet",
        "recipe": {"lr": 0.05, "batch": 128},
        "plant": {"kind": "uniform", "rate": 0.1},
    },
}
TITLES = {"human": "CIFAR-10 under human labels", "mnist": "MNIST with 10 % flips"}
EPOCHS, FEW_EPOCHS = 10, 3
"""Of a whole training, and of one that is scored early."""
FOLDS = 5
BASELINE = f"{FOLDS}-fold self-confidence"
MODELS = (1, 3, 10)
STEPS = ("tracin:target=self", "oti", "liveval")
"""Methods that differentiate the whole training again."""
TARGETED = ("sgd_influence:target=tests,window=last", "in_run_shapley:target=tests")
"""Methods that also look at what is to be predicted: the first test images, under their true labels."""
TESTS = 256
LEARNERS = ("data_oob:learner=ridge,features=penultimate",)
"""Methods that train learners of their own."""
PROBE, RATE = "what the probe finds best", 0.02
EXTRA_TRAININGS = {BASELINE: FOLDS, PROBE: 1}
"""Of the net, beside the one that is recorded."""
SLOW = ("grand", "vog", "prediction_depth", "cg_score", "self_influence:factors=sampled")
"""Methods that take minutes: their derivatives, neighbours in every layer, or kernels are those of all examples."""
NEIGHBOURS = ("selfclean", "knn_disagreement", "outlier_distance", "knn_shapley:target=others")
"""Methods that look at the inputs of the last layer, which are asked for by name."""
COMBINED = ("combine:methods=aum+selfclean", "combine:methods=mean_margin+selfclean")
"""Rankings of two methods together, one of the training and one of neighbours."""


def planned(given: argparse.Namespace, seed: int, recording: dict, models: int = 1) -> Plan:
    """The training of a task."""
    task = TASKS[given.task]
    # As many are trained on with --held-out as without.
    limit = round(given.examples / (1 - given.held_out))
    data = {**task["data"], "path": str(Path(given.data_path) / task["data"]["name"]), "limit": limit}
    recipe = {**task["recipe"], "epochs": given.epochs, "device": given.device}
    return Plan.make(
        {
            **task,
            "data": data,
            "seed": seed,
            "models": models,
            "recipe": recipe,
            "record": recording,
            "validation": given.held_out,
        }
    )


def methods_of(run: Run, given: argparse.Namespace, seed: int) -> dict[str, str]:
    """What scores a run, by the name in the tables."""
    able, _ = scorable(run)
    early = given.epochs // 2
    specs = [
        *(name for name in able if name != "el2n"),
        *(
            f"el2n:at={early}",
            f"grand:at={early}",
            "grand",
            "vog",
            "prediction_depth",
            "prediction_depth:reference=label",
            "self_influence:factors=sampled",
        ),
        *(STEPS if given.with_steps else ()),
        *(TARGETED if given.with_targets else ()),
    ]
    if given.quick:
        specs = [*(name for name in able if name not in ("el2n", *SLOW)), f"el2n:at={early}"]
    specs += [*NEIGHBOURS, *COMBINED, *(LEARNERS if given.with_learners else ())]
    return {spec: spec for spec in specs} | ({} if given.quick else {"cg_score": f"cg_score:seed={seed}"})


def probed(run: Run, seed: int) -> tuple[str, Scores]:
    """The method that finds labels best which were flipped on purpose, and what it says of the run."""
    able, _ = scorable(run)
    # Neighbours in the place of the run's dynamics by one method only: the others take minutes, and found fewer.
    asked = [name for name in able if catalogue()[name].direction.ranks_suspects and name not in SLOW]
    found = assay.probe(run, [*asked, "knn_shapley:target=others"], flips=assay.Flips(rate=RATE, seed=seed))
    (scores,) = assay.score(run.folder, found.best).values()
    return found.best, scores


def figures_of(scores: Scores, run: Run, seconds: float) -> dict:
    """How well a score finds the wrong labels, and what it cost."""
    found = detect(scores, run, load_truth(run.paths.truth))
    return {
        "claims suspicion": found.claims_suspicion,
        "auc": found.auc,
        "ap": found.average_precision,
        "precision at the true count": found.precision_at_planted,
        "seconds": seconds,
    }


def detected(given: argparse.Namespace, seed: int) -> dict:
    """One run, scored by every method, and the baseline."""
    plan = planned(given, seed, {"keep_logits": True, "checkpoints": "every"})
    found: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        run = record(plan, Path(scratch) / "run")
        recorded = time.perf_counter() - began
        # Read once for all, so that the first method to ask for the data does not pay for the others.
        loaded = load_data(plan)
        tests = {"tests": loaded.test.take(torch.arange(TESTS))} if given.with_targets else None
        for name, spec in methods_of(run, given, seed).items():
            began = time.perf_counter()
            (found[name],) = assay.score(run.folder, spec, targets=tests if spec in TARGETED else None).values()
            seconds[name] = time.perf_counter() - began
        chose = None
        if given.with_probe:
            began = time.perf_counter()
            chose, found[PROBE] = probed(run, seed)
            seconds[PROBE] = time.perf_counter() - began
        if not given.without_folds:
            began = time.perf_counter()
            # Each fold has a seed of its own, counted on from this one.
            found[BASELINE] = cross_validated(plan, FOLDS, 100 * (seed + 1))
            seconds[BASELINE] = time.perf_counter() - began
        rows = torch.stack([one.of(run.ids) * one.direction.sign for one in found.values()])
        return {
            "wrong labels": int(loaded.wrong.sum()),
            "seconds: record": recorded,
            **({"the probe chose": chose} if chose else {}),
            "methods": {name: figures_of(scores, run, seconds[name]) for name, scores in found.items()},
            "spearman": rank_correlation(rows).tolist(),
        }


def ensembled(given: argparse.Namespace, seed: int) -> dict:
    """EL2N and GraNd over more and more models, each number of them recorded from the beginning."""
    found = {}
    wrong = 0
    for models in MODELS:
        plan = planned(given, seed, {"checkpoints": "last"}, models)
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            run = record(plan, Path(scratch) / "run")
            recorded = time.perf_counter() - began
            wrong = int(load_data(plan).wrong.sum())
            for name, spec in {"el2n": f"el2n:at={given.epochs - 1}", "grand": "grand"}.items():
                began = time.perf_counter()
                (scores,) = assay.score(run.folder, spec).values()
                found[f"{name}, {models} models" if models > 1 else f"{name}, 1 model"] = figures_of(
                    scores, run, recorded + time.perf_counter() - began
                )
    return {"wrong labels": wrong, "methods": found}


def measured(given: argparse.Namespace, seed: int, measure: Callable[[argparse.Namespace, int], dict]) -> dict:
    """The figures of a seed: those that an earlier start with the same settings kept, or new ones."""
    told_apart = (
        "examples",
        "epochs",
        "threads",
        "device",
        "held_out",
        *(("without_folds", "with_steps", "with_targets", "quick", "with_learners", "with_probe") if measure is detected else ()),
    )
    settings = {
        "measured": measure.__name__,
        "task": TASKS[given.task],
        **{name: getattr(given, name) for name in told_apart},
        "seed": seed,
        "versions": [assay.__version__, torch.__version__],
    }
    key = fingerprint(json.dumps(settings, sort_keys=True))
    path = Path(given.out) / "detection-seeds" / f"{measure.__name__}-{given.task}-seed{seed}-{key}.json" if given.out else None
    if path is not None and path.exists():
        print(f"seed {seed}: taken from {path}", flush=True)
        return json.loads(path.read_text())
    began = time.perf_counter()
    machine = f"{processor()}, {torch.cuda.get_device_name()}" if given.device == "cuda" else processor()
    told = {"seed": seed, "settings": settings, "machine": machine, **measure(given, seed)}
    print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(told) + "\n")
        unfinished.rename(path)
    return told


def over_seeds(numbers: Sequence[float]) -> dict:
    """Mean, and Student's 95 % interval of it where there are three or more."""
    ends = student_interval(numbers)
    return {"mean": round(statistics.fmean(numbers), 4), "interval": None if ends is None else [round(end, 4) for end in ends]}


def detected_over_seeds(runs: Sequence[dict], key: str, wrong: int) -> dict:
    """Mean of the AUC or the average precision, and its 95 % interval where one covers what it says."""
    values, aucs = [one[key] for one in runs], [one["auc"] for one in runs]
    return {"mean": round(statistics.fmean(values), 4), "interval": detection_interval(values, aucs, wrong)}


def summary(seeds: Sequence[dict]) -> dict[str, dict]:
    """Every method over all seeds, the best first."""
    rows = {}
    wrong = min(one["wrong labels"] for one in seeds)
    for name, first in seeds[0]["methods"].items():
        own = [one["methods"][name] for one in seeds]
        rows[name] = {
            "claims suspicion": first["claims suspicion"],
            "AUC": detected_over_seeds(own, "auc", wrong),
            "AP": detected_over_seeds(own, "ap", wrong),
            "precision at the true count": detected_over_seeds(own, "precision at the true count", wrong),
            "seconds": round(statistics.fmean(one["seconds"] for one in own), 3),
            "extra trainings": EXTRA_TRAININGS.get(name, 0),
        }
    return dict(sorted(rows.items(), key=lambda row: -row[1]["AUC"]["mean"]))


def table(rows: dict[str, dict]) -> str:
    """The summary in Markdown."""
    lines = [
        "| method | ranks | AUC, 95 % interval over seeds | AP | precision at the true count | seconds | extra trainings |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [
            f"{row[key]['mean']:.4f}"
            + ("" if row[key]["interval"] is None else " ({:.4f} to {:.4f})".format(*row[key]["interval"]))
            for key in ("AUC", "AP", "precision at the true count")
        ]
        title = name if name in EXTRA_TRAININGS else f"`{name.partition(', ')[0]}`{''.join(name.partition(', ')[1:])}"
        ranks = "suspicion" if row["claims suspicion"] else "difficulty"
        cost = f"{row['seconds']:.{1 if row['seconds'] > 1 else 3}f} | {row['extra trainings']}"
        lines.append(f"| {title} | {ranks} | {' | '.join(cells)} | {cost} |")
    return "\n".join(lines)


def agreement(seeds: Sequence[dict]) -> tuple[list[str], np.ndarray]:
    """Mean Spearman between every two methods that rank anything, and their names."""
    matrix = np.array([one["spearman"] for one in seeds], dtype=np.float64).mean(0)
    # A score without any spread correlates with nothing, itself included.
    ranking = ~np.isnan(matrix.diagonal())
    return list(itertools.compress(seeds[0]["methods"], ranking)), matrix[ranking][:, ranking]


CELL, TREE, LETTER = 30, 90, 8
"""Of the heat map, in pixels: a cell, the width of the tree, and what a letter of a name takes at most."""


def heat_map(names: Sequence[str], matrix: np.ndarray, suspects: set[str], title: str) -> str:
    """The agreement as SVG, alike methods beside each other, with the tree of their clusters; those that claim suspicion are bold.

    Clusters are joined by the mean of 1 - Spearman between their methods.
    """
    tree = linkage(squareform(1 - matrix, checks=False), "average", optimal_ordering=True)
    told = dendrogram(tree, no_plot=True)
    order, side, top, beside = told["leaves"], CELL * len(names), 30, LETTER * max(map(len, names)) + 10
    scale = TREE / max(1e-9, *(height for link in told["dcoord"] for height in link))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {TREE + side + beside + 20} {top + side + beside}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{TREE + 10}" y="20">{title}</text>',
        f'<g transform="translate({TREE + 10} {top})">',
        '<g fill="none" stroke="#555">',
    ]
    for heights, places in zip(told["dcoord"], told["icoord"], strict=True):
        # A leaf is 10 wide to scipy.
        points = (f"{-4 - h * scale:.1f},{p * CELL / 10:.1f}" for h, p in zip(heights, places, strict=True))
        parts.append(f'<polyline points="{" ".join(points)}"/>')
    parts += ["</g>", '<g text-anchor="middle" font-size="10">']
    for (row, column), value in np.ndenumerate(matrix[order][:, order]):
        # Without the 0 before the point, and without the minus of what is rounded to 0.
        ink = ' fill="white"' if abs(value) > 0.5 else ""
        word = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".")
        parts.append(
            f'<rect x="{column * CELL}" y="{row * CELL}" width="{CELL - 1}" height="{CELL - 1}" fill="{shade(value)}"/>'
            f'<text x="{(column + 0.5) * CELL:g}" y="{(row + 0.62) * CELL:g}"{ink}>{word}</text>'
        )
    parts.append("</g>")
    for place, name in enumerate(names[leaf] for leaf in order):
        weight = ' font-weight="bold"' if name in suspects else ""
        middle = (place + 0.5) * CELL
        parts.append(f'<text x="{side + 6}" y="{middle + 4:g}"{weight}>{name}</text>')
        parts.append(
            f'<text text-anchor="end" transform="translate({middle + 4:g} {side + 10}) rotate(-60)"{weight}>{name}</text>'
        )
    return "\n".join([*parts, "</g>", "</svg>", ""])


def shade(value: float) -> str:
    """White at 0, blue towards 1, red towards -1."""
    end = (8, 69, 148) if value > 0 else (165, 15, 21)
    return "#" + "".join(f"{round(255 + (part - 255) * abs(value)):02x}" for part in end)


def main() -> None:
    """Measure the seeds, and tell of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder that holds the folders cifar10 and mnist")
    parser.add_argument("--part", choices=("detection", "agreement", "ensembles"), default="detection")
    parser.add_argument("--task", choices=tuple(TASKS), default="human")
    parser.add_argument("--net", help="another net than the task's")
    parser.add_argument("--examples", type=int, default=10_000, help="the first so many rows")
    parser.add_argument("--epochs", type=int, help=f"{EPOCHS} by default, {FEW_EPOCHS} for ensembles")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--without-folds", action="store_true", help="leave cross-validation out")
    parser.add_argument("--quick", action="store_true", help=f"leave {', '.join(SLOW)} out, which take minutes")
    parser.add_argument("--with-steps", action="store_true", help=f"also {', '.join(STEPS)}, which take the training again")
    parser.add_argument("--with-targets", action="store_true", help=f"also {', '.join(TARGETED)}, of {TESTS} test images")
    parser.add_argument("--with-learners", action="store_true", help=f"also {', '.join(LEARNERS)}")
    parser.add_argument("--with-probe", action="store_true", help="also the method that a probe chooses")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        help="fraction of what is read that is held out for validation, so that cld can be scored",
    )
    parser.add_argument("--figure", help="SVG file for the heat map of the agreement")
    parser.add_argument("--out", help="folder for the JSON, and for that of every seed")
    given = parser.parse_args()
    if given.epochs is None:
        given.epochs = FEW_EPOCHS if given.part == "ensembles" else EPOCHS
    if given.net:
        TASKS[given.task]["net"] = given.net
    torch.set_num_threads(given.threads)
    measure = ensembled if given.part == "ensembles" else detected
    seeds = [measured(given, seed, measure) for seed in range(given.first_seed, given.first_seed + given.seeds)]
    figures: dict = {
        "task": given.task,
        "net": TASKS[given.task]["net"],
        "examples": given.examples,
        "epochs": given.epochs,
        "seeds": [one["seed"] for one in seeds],
        "machines of the seeds": sorted({one["machine"] for one in seeds}),
    }
    name = f"{given.part}-{given.task}{f'-{given.net}' if given.net else ''}"
    if given.part == "agreement":
        methods, matrix = agreement(seeds)
        pairs = itertools.combinations(range(len(methods)), 2)
        figures["mean Spearman"] = {f"{methods[i]} / {methods[j]}": round(float(matrix[i, j]), 4) for i, j in pairs}
        report(name, figures, given.out)
        if given.figure:
            suspects = {one for one, told in seeds[0]["methods"].items() if told["claims suspicion"]}
            title = f"Spearman between methods, {given.examples:,} examples of {TITLES[given.task]}, {f'mean over {len(seeds)} runs' if len(seeds) > 1 else 'one run'}"
            Path(given.figure).parent.mkdir(parents=True, exist_ok=True)
            Path(given.figure).write_text(heat_map(methods, matrix, suspects, title))
        return
    rows = summary(seeds)
    if given.part == "detection":
        figures["wrong labels"] = [one["wrong labels"] for one in seeds]
        figures["seconds: record"] = over_seeds([one["seconds: record"] for one in seeds])
        figures["held out"] = given.held_out
        if given.with_probe:
            figures["the probe chose"] = [one["the probe chose"] for one in seeds]
    figures["methods"] = rows
    figures["runs"] = [{"seed": one["seed"], "methods": one["methods"]} for one in seeds]
    report(name, figures, given.out)
    print(f"\n{table(rows)}")
    if given.part == "detection":
        print(f"\nSeconds of the recording: {figures['seconds: record']['mean']:.0f}.")


if __name__ == "__main__":
    main()
