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
    from ..core.errors import OutputExists, UsageError
    from ..experiments.review import review
    from ..runs.artefacts import load_decision, save_decision
    from ..runs.run import Run
    from .console import say
    from .saved import next_of

    if name is not None and not any(letter.isalnum() for letter in name):
        raise UsageError(f"--name {name!r} makes no file name; give it a letter or a digit.")
    opened = Run(run)
    result = review(opened, file, rest=rest)
    decision = result.decision
    path = opened.paths.decision(name if name is not None else decision.title.replace(" by ", "-by-").replace(" of ", "-of-"))
    if path.exists():
        if load_decision(path).fingerprint != decision.fingerprint:
            raise OutputExists(f"{path} holds another decision; give this one another --name.")
        say(f"{path} holds this very decision already.")
    else:
        save_decision(decision, path)
    marked = ", ".join(f"{count:,} {mark}" for mark, count in result.review.counts().items())
    say(f"{len(result.review):,} examples marked: {marked}.")
    say(result.sentence)
    counts = ", ".join(f"{action} {count:,}" for action, count in decision.counts().items())
    say(f"{decision.title}: {counts} of {len(decision):,} examples.")
    then = f" {next_of(opened, path.stem)}" if bool(decision.touched.any()) else " It changes nothing."
    say(f"Saved as {path.stem}.{then}")
