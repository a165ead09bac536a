"""Flipped classes in UCI Adult: which rows do the stages of boosted trees suspect, beside held-out predictions of the same estimator?

The training file of Adult, encoded as `adult` encodes it (numbers standardised, a column for each category), with 10 % of the classes flipped by the
seed. For each estimator one recording in the place of `fit`, with all methods that its stages or epochs allow, and beside it self-confidence: the
probability that copies give to the class of rows that they were not fitted on, by 5 folds. A forest is recorded by its out-of-bag predictions. AUC and average
precision of the flipped rows, each method ranked by its declared direction; seconds of plain `fit`, of recording, of scoring, and of the folds.

Estimators are scikit-learn's, and LightGBM's and XGBoost's where they are installed.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from machine import report
from over_seeds import detection_interval
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neural_network import MLPClassifier

import assay
from assay.data.adult import Adult
from assay.data.corruption import plant

STAGES = ["aum", "confidence", "loss", "correctness", "forgetting", "el2n", "margin", "entropy", "variability", "dual", "dyn_unc"]
EPOCHS = 20
HELD_OUT = ["confidence", "aum"]


def estimators(seed: int, stages: int, threads: int) -> dict:
    """By name: an estimator, how it is recorded, and the methods to score."""
    found = {
        "HistGradientBoosting": (
            HistGradientBoostingClassifier(max_iter=stages, early_stopping=False, random_state=seed),
            {},
            STAGES,
        ),
        "HistGradientBoosting, small steps": (
            HistGradientBoostingClassifier(
                max_iter=stages, learning_rate=0.02, max_leaf_nodes=8, early_stopping=False, random_state=seed
            ),
            {},
            STAGES,
        ),
        "GradientBoosting": (GradientBoostingClassifier(n_estimators=stages, subsample=0.5, random_state=seed), {}, STAGES),
        "RandomForest, out of bag": (
            RandomForestClassifier(200, oob_score=True, min_samples_leaf=3, n_jobs=threads, random_state=seed),
            {},
            HELD_OUT,
        ),
        "SGD, logistic": (
            SGDClassifier(loss="log_loss", max_iter=EPOCHS, tol=None, random_state=seed),
            {"epochs": EPOCHS},
            STAGES,
        ),
        "MLP": (MLPClassifier((64,), max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=seed), {"epochs": EPOCHS}, STAGES),
    }
    if importlib.util.find_spec("lightgbm"):
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(n_estimators=stages, n_jobs=threads, random_state=seed, verbose=-1)
        found["LightGBM"] = model, {}, STAGES
    if importlib.util.find_spec("xgboost"):
        from xgboost import XGBClassifier

        found["XGBoost"] = XGBClassifier(n_estimators=stages, n_jobs=threads, random_state=seed), {}, STAGES
    return found


def judged(table: assay.ScoreTable, wrong: torch.Tensor) -> dict:
    """AUC and average precision of every score."""
    return {
        name: {
            "ranks": scores.direction.value,
            "auc": float(roc_auc_score(wrong, scores.hardness())),
            "ap": float(average_precision_score(wrong, scores.hardness())),
        }
        for name, scores in table.items()
    }


def timed(call, *args, **given):
    """What a call returns, and how many seconds it took."""
    began = time.perf_counter()
    return call(*args, **given), time.perf_counter() - began


def one(x, y, wrong: torch.Tensor, named: tuple, given: argparse.Namespace) -> dict:
    """An estimator fitted, recorded, scored, and folded."""
    estimator, way, methods = named
    plain = clone(estimator)
    recorded, scored = {"recording": assay.sklearn.TableRecording(every=given.every)} if not way else {}, {}
    if methods is HELD_OUT:
        recorded = {}
    with tempfile.TemporaryDirectory() as scratch:
        seconds = {}
        if not way:
            seconds["fit"] = timed(plain.fit, x, y)[1]
        run, seconds["record"] = timed(assay.sklearn.record, estimator, x, y, Path(scratch) / "run", **way, **recorded)
        table, seconds["score"] = timed(assay.score, run, methods)
        scored["recorded"] = judged(table, wrong)
        if methods is not HELD_OUT:
            folded, seconds["5 folds"] = timed(assay.sklearn.record, clone(plain), x, y, Path(scratch) / "folds", folds=5)
            scored["5 folds"] = judged(assay.score(folded, HELD_OUT), wrong)
        size = sum(file.stat().st_size for file in (Path(scratch) / "run").rglob("*") if file.is_file())
        return {"epochs": run.epochs, "seconds": seconds, "MB on disk": round(size / 2**20, 1), **scored}


def main() -> None:
    """Measure all estimators over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder of Adult's two files")
    parser.add_argument("--examples", type=int, help="how many of the first rows; all by default")
    parser.add_argument("--stages", type=int, default=100)
    parser.add_argument("--every", type=int, default=1, help="record every so many stages")
    parser.add_argument("--rate", type=float, default=0.1, help="fraction of the classes that are flipped")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of estimators")
    parser.add_argument("--name", default="boosted_trees", help="of the JSON")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    # The net is asked to stop there.
    warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
    rows = Adult(given.data_path).load().train
    rows = rows.take(torch.arange(len(rows)) < (given.examples or len(rows)))
    runs: dict[str, list[dict]] = {}
    for seed in range(given.seeds):
        planted = plant(rows, "uniform", given.rate, seed)
        # A forest of trees sorts columns; what they are in memory is no part of what is measured.
        x, y = planted.examples.inputs.numpy(), planted.examples.labels.numpy()
        for name, named in estimators(seed, given.stages, given.threads).items():
            if given.only and name not in given.only:
                continue
            runs.setdefault(name, []).append(one(x, y, planted.mask, named, given))
            last = runs[name][-1]
            print(f"seed {seed}, {name}: { ({key: round(value, 1) for key, value in last['seconds'].items()}) }", flush=True)
    figures: dict = {
        "rows": len(rows),
        "flipped": int(planted.count),
        "settings": {key: value for key, value in vars(given).items() if key not in ("data_path", "out")},
        "estimators": {},
    }
    for name, by_seed in runs.items():
        print(
            f"\n{name}, {by_seed[0]['epochs']} epochs, seconds "
            + ", ".join(f"{key} {statistics.median(run['seconds'][key] for run in by_seed):.1f}" for key in by_seed[0]["seconds"])
        )
        table = {}
        for part in ("recorded", "5 folds"):
            for method in by_seed[0].get(part, ()):
                aucs, aps = ([run[part][method][key] for run in by_seed] for key in ("auc", "ap"))
                table[method if part == "recorded" else f"5 folds: {method}"] = {
                    "ranks": by_seed[0][part][method]["ranks"],
                    "auc": [round(statistics.fmean(aucs), 4), detection_interval(aucs, aucs, planted.count)],
                    "ap": [round(statistics.fmean(aps), 4), detection_interval(aps, aucs, planted.count)],
                }
        for method, row in sorted(table.items(), key=lambda pair: -pair[1]["auc"][0]):
            print(f"  {method:24}{row['ranks']:24}{row['auc'][0]:.4f} {row['auc'][1]}  {row['ap'][0]:.4f} {row['ap'][1]}")
        figures["estimators"][name] = {"means": table, "runs": by_seed}
    report(given.name, figures, given.out)


if __name__ == "__main__":
    main()
