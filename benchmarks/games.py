"""Games on digits: seconds of Data Shapley and Data-OOB beside plain trainings one after the other, and what is found of planted wrong labels.

Two parts, each a command of its own. `shapley`: 50 orders of 200 images valued by the test images. `data_oob`: 100 models of 1,437 images. In both 10 % of
the labels are wrong on purpose. The images are split and the labels drawn as in the comparison of other libraries, whose seconds on a machine of this class stand
in docs/results.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from machine import report
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import assay
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.experiments.evidence import gather_inputs

THREADS = 2
SMALL, ORDERS, BAGS = 200, 50, 100
LEARNERS = ("logistic", "logistic:tolerance=0.0001", "ridge", "knn", "net:steps=30")


def digits(examples: int) -> tuple[Evidence, np.ndarray]:
    """The first training images, some labelled wrong, and which; the test images held out."""
    pixels, labels = load_digits(return_X_y=True)
    inputs, test, given, true = train_test_split(pixels, labels, test_size=360, random_state=0, stratify=labels)
    scale = StandardScaler().fit(inputs)
    inputs, test, given = scale.transform(inputs)[:examples], scale.transform(test), given[:examples].copy()
    draw = np.random.default_rng(0)
    wrong = draw.choice(len(given), round(0.1 * len(given)), replace=False)
    given[wrong] = (given[wrong] + draw.integers(1, 10, len(wrong))) % 10
    held = {"validation": (torch.from_numpy(test), torch.from_numpy(true))}
    return gather_inputs(Ids(range(len(given))), torch.from_numpy(inputs), torch.from_numpy(given), held), np.isin(
        np.arange(len(given)), wrong
    )


def plain(examples: int, count: int) -> float:
    """Seconds that scikit-learn takes for one training at its own tolerance, on the first so many rows of random orders: the mean over sizes."""
    evidence, _ = digits(examples)
    rows, labels = evidence.features("inputs").rows().numpy(), evidence.labels.numpy()
    draw, spent = np.random.default_rng(0), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in np.linspace(20, examples, count).astype(int):
            order = draw.permutation(examples)[:size]
            began = time.perf_counter()
            LogisticRegression(max_iter=1000).fit(rows[order], labels[order])
            spent.append(time.perf_counter() - began)
    return float(np.mean(spent))


def scored(examples: int, title: str) -> dict:
    """Seconds of a score, and how well it finds the wrong labels."""
    evidence, wrong = digits(examples)
    began = time.perf_counter()
    (found,) = assay.score(evidence, title).values()
    seconds = time.perf_counter() - began
    suspicion = found.suspicion().numpy()
    there = np.isin(np.arange(examples), found.ids.values)
    told = {name: value for name, value in found.diagnostics.items() if isinstance(value, int | float)}
    return {
        "seconds": seconds,
        "auc": float(roc_auc_score(wrong[there], suspicion)),
        "ap": float(average_precision_score(wrong[there], suspicion)),
        **told,
    }


def shapley() -> dict:
    """Data Shapley by every learner, with and without cutting orders, in the seconds of as many plain trainings."""
    one = plain(SMALL, 20)
    found: dict = {"one plain training, seconds": one, "as many plain trainings, seconds": one * SMALL * ORDERS}
    for learner in LEARNERS:
        for cut in ("", ",truncate=0.02"):
            if learner.startswith("net") and not cut:
                continue
            title = f"shapley:learner={learner},permutations={ORDERS}{cut}"
            found[title] = scored(SMALL, title)
            found[title]["times faster than plain trainings"] = (
                found["as many plain trainings, seconds"] / found[title]["seconds"]
            )
            print(title, found[title], flush=True)
    return found


def data_oob() -> dict:
    """Data-OOB by every learner."""
    found: dict = {"one plain training, seconds": plain(1437, 5)}
    for learner in (*LEARNERS[:4], "tree"):
        title = f"data_oob:learner={learner},bags={BAGS}"
        found[title] = scored(1437, title)
        print(title, found[title], flush=True)
    return found


PARTS = {"shapley": shapley, "data_oob": data_oob}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    report(f"games-{given.part}", PARTS[given.part](), given.out)


if __name__ == "__main__":
    main()
