"""`assay choose`: from a score to a decision on every example."""

from pathlib import Path

from .values import MaybeWhole


def choose_(
    run: Path, score: str, /, *, policy: str, keep: float | None = None, seed: MaybeWhole = None, name: str | None = None
) -> None:
    """Decide by a score which examples to keep, drop or relabel.

    The decision is saved in the run's folder.

    Example: assay choose runs/digits dual --policy beta --keep 0.3 --seed 0

    Parameters
    ----------
    run
        Folder of the run.
    score
        A score of the run, METHOD or METHOD:option=value,...; it is computed if it is not there.
    policy
        POLICY or POLICY:option=value,...; `assay policies` lists them.
    keep
        Fraction of the examples that stay, for policies with a budget.
    seed
        For policies that draw at random.
    name
        Name of the decision; by default made from policy and score.
    """
    from ..core.errors import OutputExists, UsageError
    from ..experiments.choose import choose
    from ..experiments.score import score as scored
    from ..runs.artefacts import load_decision, save_decision
    from ..runs.run import Run
    from .console import say

    if name is not None and not any(letter.isalnum() for letter in name):
        raise UsageError(f"--name {name!r} makes no file name; give it a letter or a digit.")
    opened = Run(run)
    options = {key: value for key, value in {"keep": keep, "seed": seed}.items() if value is not None}
    table = scored(opened, score, save=True)
    decision = choose(next(iter(table.values())), policy, run=opened, **options)
    label = name if name is not None else decision.title.replace(" by ", "-by-")
    path = opened.paths.decision(label)
    if path.exists():
        if load_decision(path).fingerprint != decision.fingerprint:
            raise OutputExists(f"{path} holds another decision; give this one another --name.")
        say(f"{path} holds this very decision already.")
    else:
        save_decision(decision, path)
    counts = ", ".join(f"{action} {count:,}" for action, count in decision.counts().items())
    say(f"{decision.title}: {counts} of {len(decision):,} examples.")
    say(f"Saved as {path.stem}. Next: assay verify {run} --decision {path.stem}")
