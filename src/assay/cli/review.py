"""`assay review`: what a reviewer marked on the page, taken back."""

from pathlib import Path
from typing import Literal


def review_(
    run: Path,
    file: Path,
    /,
    *,
    rest: Literal["keep", "decision"] = "keep",
    name: str | None = None,
) -> None:
    """Take back the marks saved on the page, as a decision.

    Also tells the measured share of wrong labels among the suspects, with an interval. Examples marked wrong are relabelled where the reviewer named a class, and
    dropped where not; those marked right or unsure are kept. The decision is saved in the run's folder.

    Parameters
    ----------
    run
        Folder of the run that the page showed.
    file
        The file that the page saved, review.json.
    rest
        What is done with examples that were not reviewed: keep them as they are (keep), or do what the reviewed decision does (decision).
    name
        Name of the decision; by default made from the reviewed one.
    """
    from ..experiments.review import review
    from ..runs.run import Run
    from .console import say
    from .saved import check_name, keep_decision

    check_name(name)
    opened = Run(run)
    result = review(opened, file, rest=rest)
    decision = result.decision
    marked = ", ".join(f"{count:,} {mark}" for mark, count in result.review.counts().items())
    say(f"{len(result.review):,} examples marked: {marked}.")
    say(result.sentence)
    keep_decision(opened, decision, name if name is not None else decision.title.replace(" by ", "-by-").replace(" of ", "-of-"))
