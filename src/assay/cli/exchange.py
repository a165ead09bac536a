"""`assay import` and `assay export`: the npy files of the DUAL and TDDS codes."""

from pathlib import Path

from .values import Switch


def import_(source: Path, run: Path, /, *, labels: Path, view: str = "train") -> None:
    """Make a run from the npy files of the DUAL and TDDS codes.

    These are i_Output.npy, i_Index.npy and, if it is there, i_Loss.npy, with i the epoch.

    Parameters
    ----------
    source
        Folder of the npy files.
    run
        Folder of the run to make.
    labels
        npy file with the given class of the example at every position; the format itself does not store labels.
    view
        The pass that the logits come from: train (the training pass, as the released codes store it) or eval.
    """
    import numpy as np
    import torch

    from .. import __version__
    from ..core.errors import UsageError, reading
    from ..core.npy import read_npy
    from ..data.files import file_at
    from ..runs.npy import import_npy
    from .console import say

    with reading(labels, UsageError, "Give an npy file of classes."):
        try:
            with open(file_at(str(labels)), "rb") as file:
                array = read_npy(file, labels.stat().st_size)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"{labels} is no readable npy file ({error}).") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"{labels} holds {array.dtype} with {array.ndim} axes; give one whole number per example.")
    made = import_npy(source, torch.from_numpy(array.astype(np.int64)), run, view=view, code=__version__)  # type: ignore[arg-type]
    say(f"{run}: {made.epochs} epochs of {len(made.ids):,} examples. Next: assay score {run} all")


def export_(run: Path, folder: Path, /, *, scores: Switch = False) -> None:
    """Write a run or its scores as npy files of DUAL and TDDS.

    Epoch i becomes i_Output.npy, i_Loss.npy and i_Index.npy; the score of method X becomes X_score.npy (values in the
    order of the examples) and X_mask.npy (positions of the examples, by rising value).

    Parameters
    ----------
    run
        Folder of the run.
    folder
        Where the npy files are written.
    scores
        Write the saved scores instead of the epochs.
    """
    from ..core.errors import UsageError
    from ..runs.npy import export_npy, export_scores
    from ..runs.run import Run
    from .console import say
    from .saved import saved_scores

    opened = Run(run)
    if not scores:
        export_npy(opened, folder)
        say(f"{folder}: {opened.epochs} epochs")
        return
    saved = saved_scores(opened)
    if not saved:
        raise UsageError(f"{run} holds no scores; make them with `assay score {run} all`.")
    # The npy files say by place which example a value is of.
    found = [one for one in saved if len(one) == len(opened.ids)]
    if not found:
        raise UsageError(
            f"No score of {run} covers all {len(opened.ids):,} examples, as the npy files do; score by another method."
        )
    names = [one.method for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{run} holds several scores of {', '.join(twice)}, but the npy files are named by method; take one out of {run / 'scores'}."
        )
    for one in found:
        export_scores(one, folder)
    for one in saved:
        if one not in found:
            say(f"left out {one.title}: it covers {len(one):,} of {len(opened.ids):,} examples only.")
    say(f"{folder}: {', '.join(one.title for one in found)}")
