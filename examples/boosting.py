"""Which rows of a table have a wrong class? The stages of boosted trees tell; so do predictions of rows that were held out.

    python examples/boosting.py

In the place of `model.fit(X, y)` stands `assay.sklearn.record(model, X, y, folder)`; the model is fitted all the same.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

import assay

X, y = load_breast_cancer(return_X_y=True)
wrong = np.random.default_rng(0).random(len(y)) < 0.1
y = np.array(["malignant", "benign"])[np.where(wrong, 1 - y, y)]


def found(title, run, method):
    """How many of the rows that a method suspects most are wrong."""
    scores = assay.score(run, method)[method]
    suspects = np.argsort(-scores.hardness().numpy())[: wrong.sum()]
    print(f"{title}: {wrong[suspects].sum()} of {wrong.sum()} wrong rows are among the {len(suspects)} most suspect")
    return scores


# Each of the 40 stages is an epoch. `early_stopping=True` would hold rows back, on which the model is not trained.
model = HistGradientBoostingClassifier(max_iter=40, learning_rate=0.05, max_leaf_nodes=4, early_stopping=False)
run = assay.sklearn.record(model, X, y, "runs/boosting")
scores = found("margin over stages", run, "aum")

# Out-of-bag predictions of a forest: one pass of probabilities of trees that never saw the row.
forest = RandomForestClassifier(200, min_samples_leaf=5, oob_score=True, random_state=0)
found("out of bag", assay.sklearn.record(forest, X, y, "runs/forest"), "confidence")

# Any classifier, by folds: a copy that was fitted on the others predicts each row.
found("out of fold", assay.sklearn.record(model, X, y, "runs/folds", folds=5), "confidence")

decision = assay.choose(scores, "top_k", keep=0.9)
kept = decision.kept_positions.numpy()
model.fit(X[kept], y[kept])
print(f"{len(kept)} rows kept, {len(decision.dropped_ids)} dropped; the model is fitted without them")
