"""Count: from a recorded run to how many labels are wrong."""

import dataclasses
import time
from pathlib import Path

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.errors import MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.lineage import Lineage
from ..core.scores import Scores
from ..core.wrong_labels import WrongCount, wrong_count
from ..runs.run import Run
from .evidence import gather_together
from .models import members_of


@checked_arguments
def count_wrong(run: str | Path | Run | Evidence | Scores) -> WrongCount:
    """How many labels of a run are wrong, with a 95 % interval, overall and by class.

        counted = assay.count_wrong("runs/digits")
        counted.count, counted.low, counted.high, counted.by_class
        counted.false_discoveries(table["loss"])  # the part of right labels among the k most suspect, for each k

    It reads the margins that every run of classes records: wrong labels are resisted as a group, with the larger output on another class over the recorded
    epochs. The count says so of labels that the model resists; a model that has memorised its labels, or that is too weak to know the classes, sees fewer, or
    says so by a wide interval. `assay.probe` tells which method finds wrong labels in these data.

    Args:
        run: Folder of a run, an open run, scores of one, or evidence in memory.

    Raises:
        MissingEvidence: Examples have no class, or no training was recorded.
        RunError: The run is absent or damaged.
        UsageError: Scores that name no run.
    """
    if isinstance(run, Evidence):
        return wrong_count(run)
    if isinstance(run, Scores):
        if run.lineage is None or not run.lineage.folder:
            raise UsageError(f"{run.title} names no run; give the run itself: assay.count_wrong(RUN).")
        run = run.lineage.folder
    began = time.perf_counter()
    run = run if isinstance(run, Run) else Run(run)
    if not countable(run):
        what = f"recorded {run.classes_in_words} example" if run.task != "classes" else "recorded no training"
        raise MissingEvidence(
            f"Wrong labels are counted by the margins of classes over a training, and {run.folder} {what}; record one of classes."
        )
    found = wrong_count(gather_together(members_of(run)), run.class_names)
    lineage = Lineage(
        dataset=run.dataset,
        parents={"run": run.fingerprint},
        code=__version__,
        seed=run.header.seed,
        device="cpu",
        seconds=time.perf_counter() - began,
        folder=str(run.folder),
    )
    return dataclasses.replace(found, lineage=lineage)


def count_if_possible(run: Run) -> WrongCount | None:
    """The count of wrong labels; None of a run in which they cannot be counted."""
    if not countable(run):
        return None
    try:
        return count_wrong(run)
    except (MissingEvidence, UsageError):
        # Kept runs may lack margins, or hold infinite ones; what only shows the count beside other things goes without.
        return None


def countable(run: Run) -> bool:
    """Whether a run has what the count reads."""
    return run.task == "classes" and bool(run.epochs)
