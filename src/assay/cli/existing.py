"""`assay from-probs` and `assay from-logits`: a run of predictions that any model saved."""

from pathlib import Path

from .values import Switch


def from_probs_(
    run: Path,
    /,
    *predictions: Path,
    kind: str,
    labels: str | None = None,
    ids: str | None = None,
    classes: str | None = None,
    repeats: Switch = False,
) -> None:
    """Make a run of the saved probabilities of any model.

    It is scored, chosen from and reported like any other.

    Example: assay from-probs runs/forest probs.npy --labels y.npy --kind out_of_fold

    Example: assay from-probs runs/forest predictions.parquet --labels class --kind out_of_bag

    Parameters
    ----------
    run
        Folder of the run to make.
    predictions
        An npy file of probabilities, examples x classes or passes x examples x classes; several npy files of one pass each; or one Parquet file
        with a column for each class, perhaps beside columns id, label and epoch.
    kind
        What was predicted: training (the training pass), evaluation (the examples that the model was trained on, in evaluation mode), out_of_fold (by a
        model trained on the other folds), out_of_bag, or held_out.
    labels
        npy file with the given class of each example, by number or name; of a Parquet file the column, by default label.
    ids
        npy file with the id of each example, by default positions; of a Parquet file the column, by default id.
    classes
        Names of the classes in the order of the columns, separated by commas; of a Parquet file which columns they are.
    repeats
        The passes are repeats without an order, as of repeated cross-validation, and not the epochs of a training.
    """
    _make("from_probs", run, predictions, kind, labels, ids, classes, repeats)


def from_logits_(
    run: Path,
    /,
    *predictions: Path,
    kind: str,
    labels: str | None = None,
    ids: str | None = None,
    classes: str | None = None,
    repeats: Switch = False,
) -> None:
    """Make a run of the saved logits of any model.

    It is scored, chosen from and reported like any other.

    Example: assay from-logits runs/net epoch0.npy epoch1.npy epoch2.npy --labels y.npy --kind evaluation

    Parameters
    ----------
    run
        Folder of the run to make.
    predictions
        An npy file of logits, examples x classes or passes x examples x classes; several npy files of one pass each; or one Parquet file with a column
        for each class, perhaps beside columns id, label and epoch.
    kind
        What was predicted: training (the training pass), evaluation (the examples that the model was trained on, in evaluation mode), out_of_fold (by a
        model trained on the other folds), out_of_bag, or held_out.
    labels
        npy file with the given class of each example, by number or name; of a Parquet file the column, by default label.
    ids
        npy file with the id of each example, by default positions; of a Parquet file the column, by default id.
    classes
        Names of the classes in the order of the columns, separated by commas; of a Parquet file which columns they are.
    repeats
        The passes are repeats without an order, as of repeated cross-validation, and not the epochs of a training.
    """
    _make("from_logits", run, predictions, kind, labels, ids, classes, repeats)


def _make(
    function: str,
    run: Path,
    predictions: tuple[Path, ...],
    kind: str,
    labels: str | None,
    ids: str | None,
    classes: str | None,
    repeats: bool,
) -> None:
    from ..core.errors import UsageError
    from ..experiments import existing
    from .console import say

    if not predictions:
        raise UsageError(
            "Name the file of the predictions after the folder of the run: one npy or Parquet file, or an npy file for each pass."
        )
    made = getattr(existing, function)(
        run,
        predictions[0] if len(predictions) == 1 else list(predictions),
        labels,
        kind,
        ids=ids,
        class_names=None if classes is None else [name.strip() for name in classes.split(",")],
        repeats=repeats,
    )
    assert made.passes is not None
    say(
        f"{run}: {len(made.ids):,} examples in {made.classes} classes; {made.passes.summary(made.epochs)}. Next: assay score {run} all"
    )
