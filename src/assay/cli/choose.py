"""`assay choose`: from a score to a decision on every example."""

from pathlib import Path

from .values import MaybeWhole


def choose_(
    run: Path,
    score: str,
    /,
    *,
    policy: str,
    keep: float | None = None,
    count: str | None = None,
    seed: MaybeWhole = None,
    name: str | None = None,
    retrain: str | None = None,
    tolerance: float = 0.0,
) -> None:
    """Decide by a score which examples to keep, drop or relabel.

    The decision is saved in the run's folder.

    Examples: assay choose runs/digits dual --policy beta --keep 0.3 --seed 0,
    assay choose runs/digits sgd_influence --policy remove_worst --count auto

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
    count
        How many examples are concerned, for policies that count; auto takes what `assay cleanse` found best on validation data.
    seed
        For policies that draw at random.
    name
        Name of the decision; by default made from policy and score.
    retrain
        With --count auto, which curve: of the last epoch trained again (last) or of everything (all); by default the one that is there,
        else as `assay cleanse` makes it.
    tolerance
        How far training taken again for the score or the curve may end from the recorded parameters, as a part of their norm; as it was
        given to `assay score` and `assay cleanse`.
    """
    from ..cluster.executors import executor as pool_of
    from ..core.errors import OutputExists, UsageError
    from ..experiments.choose import choose, counting
    from ..experiments.cleanse import curve_for
    from ..experiments.scorable import takes_again
    from ..experiments.score import score as scored
    from ..methods import parse
    from ..policies import find
    from ..replay.config import ReplayConfig
    from ..runs.artefacts import load_decision, save_decision
    from ..runs.run import Run
    from .console import say, showing_progress

    if name is not None and not any(letter.isalnum() for letter in name):
        raise UsageError(f"--name {name!r} makes no file name; give it a letter or a digit.")
    auto = count == "auto"
    if auto and not find(policy.partition(":")[0]).counts_by_curve:
        raise UsageError(f"--count auto is for the policy {' or '.join(counting())}; {policy} does not remove the worst.")
    if retrain not in (None, "last", "all") or (retrain is not None and not auto):
        raise UsageError(
            f"--retrain {retrain} does not go with --count {count}; it says which curve --count auto takes, last or all."
        )
    try:
        number = None if count is None or auto else int(count)
    except ValueError as error:
        raise UsageError(
            f"--count {count!r} is neither a whole number nor auto, which takes what `assay cleanse` found best."
        ) from error
    opened, how = Run(run), ReplayConfig(tolerance=tolerance)
    options = {key: value for key, value in {"keep": keep, "seed": seed, "count": number}.items() if value is not None}
    replayed = takes_again(opened, parse(score))
    if tolerance and not auto and not replayed:
        raise UsageError(f"--tolerance is for training taken again; neither {score} nor --count {count} does that. Leave it out.")
    (scores,), curve = scored(opened, score, save=True, replaying=how if replayed else None).values(), None
    if auto:
        with showing_progress() as progress, pool_of("processes", threads=opened.header.threads) as pool:
            curve = curve_for(opened, scores, retrain=retrain, pool=pool, replaying=how, progress=progress)  # type: ignore[arg-type]
        say(curve.sentence)
    decision = choose(scores, policy, run=opened, curve=curve, **options)
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
