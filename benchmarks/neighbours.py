"""KNN-Shapley of 20,000 examples for 1,000 queries, and label errors by confident learning on digits: seconds, memory, and how well planted wrong labels are found.

The data, splits and planted labels of the comparison of other libraries, whose seconds on a machine of this class stand in docs/results. Seconds are of the score alone; of label
errors those of five logistic regressions of scikit-learn, which give held-out probabilities, stand beside.
"""

import argparse
import time

import numpy as np
import torch
from machine import forget_peak, report, resident_mb
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.preprocessing import StandardScaler

import assay
from assay.core.ids import Ids
from assay.experiments.evidence import gather_inputs
from assay.maths.confident import find
from assay.methods.label_quality import label_quality

NEIGHBOURS = 5


def flipped(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a tenth is wrong, and which."""
    draw, given = np.random.default_rng(0), labels.copy()
    wrong = draw.choice(len(given), round(0.1 * len(given)), replace=False)
    given[wrong] = (given[wrong] + draw.integers(1, 10, len(wrong))) % 10
    return given, np.isin(np.arange(len(given)), wrong)


def found(suspicion: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """How well the wrong labels rank."""
    return {"auc": float(roc_auc_score(wrong, suspicion)), "ap": float(average_precision_score(wrong, suspicion))}


def shapley_of_neighbours() -> dict:
    """Values of 20,000 examples of 32 numbers for 1,000 queries."""
    draw = np.random.default_rng(0)
    weights, rows = draw.normal(size=(32, 10)), draw.normal(size=(21_000, 32))
    labels = (rows @ weights + 0.5 * draw.normal(size=(21_000, 10))).argmax(1)
    given, wrong = flipped(labels[:20_000])
    held = torch.from_numpy(rows[20_000:]), torch.from_numpy(labels[20_000:])

    def scored(count: int) -> assay.Scores:
        evidence = gather_inputs(
            Ids(range(count)), torch.from_numpy(rows[:count]), torch.from_numpy(given[:count]), {"validation": held}
        )
        (scores,) = assay.score(evidence, f"knn_shapley:features=inputs,k={NEIGHBOURS}").values()
        return scores

    # Once on a few, so that nothing is loaded during the measurement.
    scored(100)
    forget_peak()
    before, began = resident_mb("VmRSS"), time.perf_counter()
    scores = scored(20_000)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "MB": resident_mb("VmHWM") - before, **found(scores.suspicion().numpy(), wrong)}


def label_errors() -> dict:
    """Confident learning on 1,437 digits from held-out probabilities."""
    pixels, labels = load_digits(return_X_y=True)
    rows, _, true, _ = train_test_split(pixels, labels, test_size=360, random_state=0, stratify=labels)
    given, wrong = flipped(true)
    rows, began = StandardScaler().fit_transform(rows), time.perf_counter()
    held_out = cross_val_predict(LogisticRegression(max_iter=1000), rows, given, cv=5, method="predict_proba")
    trained = time.perf_counter() - began
    probs, classes = torch.from_numpy(held_out), torch.from_numpy(given)
    began = time.perf_counter()
    quality = label_quality(probs, classes)
    issues = find(probs, classes, torch.arange(len(classes)), "both")
    seconds = time.perf_counter() - began
    told = {
        "labels found": int(issues.sum()),
        "of them wrong": int((issues.numpy() & wrong).sum()),
        "wrong labels": int(wrong.sum()),
    }
    return {"seconds of five trainings": trained, "seconds": seconds, **found(-quality.numpy(), wrong), **told}


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    report("neighbours", {"knn_shapley": shapley_of_neighbours(), "label errors": label_errors()}, given.out)


if __name__ == "__main__":
    main()
