"""Record the fit of a classifier of scikit-learn on a dataset by its name, in the place of a net's training."""

from pathlib import Path

from .. import learners
from ..core.arguments import checked_arguments
from ..core.errors import UsageError, listed
from ..integrations.sklearn import TableRecording, record
from ..runs.artefacts import save_truth
from ..runs.run import Run
from .plan import Plan, load_data


@checked_arguments
def record_estimator(
    plan: Plan, folder: str | Path, estimator: str, *, epochs: int | None = None, recording: TableRecording | None = None
) -> Run:
    """Fit a classifier on a plan's examples and record what it says of every row, as `assay.sklearn.record` does.

    Args:
        plan: Says which examples, with which labels planted wrong, held out for validation or split into folds; its net and recipe are not read.
        folder: Where the run is written; new or empty.
        estimator: `sklearn.MODULE.CLASS:parameter=value+parameter=value`; its `random_state` is the plan's seed.
        epochs: For `partial_fit`: how many times to go over the rows.
        recording: What is kept.

    Raises:
        UnknownName: No such parameter.
        UsageError: There is no such classifier, or it cannot be recorded with these settings.
        OutputExists: `folder` is taken.
        NotWritten: The disk refuses.
    """
    if not estimator.strip().startswith(learners.DOTTED):
        raise UsageError(
            f"estimator {estimator!r} is no dotted name of scikit-learn; give one such as sklearn.ensemble.HistGradientBoostingClassifier:max_iter=100."
        )
    fitted = learners.parse(estimator).made(plan.seed % 2**32)  # type: ignore[attr-defined]  # a dotted name is one of scikit-learn's
    loaded = load_data(plan, anew=True)
    examples = loaded.train
    there = examples.labels.unique().tolist()
    if lacking := [name for label, name in enumerate(examples.class_names) if label not in there]:
        raise UsageError(
            f"{plan.data}: no row is of class {listed(lacking, len(lacking))}, and a classifier knows only the classes that it is given; take more rows, or leave "
            "the class out of the data."
        )

    kept = recording or TableRecording()
    tables = [
        (part.prepared(part.inputs).flatten(1).numpy(), part.labels.numpy())
        for part in (examples, loaded.validation)
        if part is not None
    ]
    run = record(
        fitted,
        *tables[0],
        folder,
        epochs=epochs,
        folds=plan.folds,
        validation=tables[1] if len(tables) > 1 else None,
        recording=TableRecording(
            every=kept.every,
            ids=examples.ids,
            class_names=examples.class_names,
            keep_logits=kept.keep_logits,
            mean_probs=kept.mean_probs,
        ),
    )
    if loaded.true_labels is not None:
        save_truth(examples.ids, loaded.true_labels, run.paths.truth, corrupted=loaded.corrupted)
    return run
