"""Recordings of scikit-learn's classifiers and of boosted trees: `assay.sklearn.record(estimator, X, y, folder)`."""

from .integrations.sklearn import TableRecording, record

__all__ = ["TableRecording", "record"]
