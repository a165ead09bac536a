"""`assay verify`: was the decision right?"""

import dataclasses
from pathlib import Path

from .values import Switch, Whole


def verify_(
    run: Path,
    /,
    *,
    decision: str | None = None,
    seeds: Whole = 5,
    recompute: Switch = False,
    after: Whole = 0,
    detect: float | None = None,
    control: str | None = None,
    where: str = "processes",
) -> None:
    """Retrain over seeds: was the decision right?

    The net is retrained on the data after the decision, after the same actions on random examples, and on all examples; the three are compared.
    Every finished retraining is kept, so that the same command goes on where it was stopped. Significance is corrected
    for all decisions that were verified on the run, and for earlier verifications of this decision with fewer seeds.

    Parameters
    ----------
    run
        Folder of the run.
    decision
        Name of a decision in the run; not needed if there is only one.
    seeds
        How many seeds, at least 2; with 2 nothing is called significant. Fix the number before you see a result.
    recompute
        Do every retraining again, even those that the folder already holds; meant for a run that somebody else sent.
    after
        Number of seeds to skip, such as those of an earlier verification; new seeds make a new claim.
    detect
        A difference in test accuracy, in percentage points; the output first states how many seeds are needed to detect it.
    control
        A second control beside random removal: a live selector such as rs2, which trains every epoch on as many examples as the decision keeps, drawn anew,
        in as many steps.
    where
        inline, one after the other; processes, side by side on this machine, as many as there are cores, or processes:N (with several GPUs each its own);
        or slurm, each a job of the cluster, with options such as slurm:partition=gpu,gpus=1,time=240 (minutes; see docs/cluster.md).
    """
    from ..cluster.executors import executor
    from ..experiments.execution import Execution
    from ..experiments.power import seeds_needed
    from ..experiments.verify import Seeds, verify
    from ..runs.artefacts import load_decision, save_verdict
    from ..runs.run import Run
    from .console import say, showing_progress
    from .saved import decision_of, saved_scores

    opened = Run(run)
    path = decision_of(opened, decision)
    chosen = load_decision(path)
    # Not as a table: some scores may speak of fewer examples than others.
    scores = {one.title: one for one in saved_scores(opened)}
    power, asked = "", Seeds(seeds, after, control=control)
    if detect is not None:
        power = seeds_needed(chosen, detect, run=opened, control=control or "").sentence
        say(power)
    with showing_progress() as progress, executor(where) as pool:
        verdict = verify(
            chosen,
            run=opened,
            scores=scores,
            seeds=asked,
            save="recompute" if recompute else True,
            execution=Execution(pool, progress),
        )
    verdict = dataclasses.replace(verdict, power=power)
    save_verdict(verdict, opened.paths.verdict(path.stem))
    show_verdict(verdict)
    say(f"Next: assay report {run} --decision {path.stem}")


def show_verdict(verdict) -> None:
    """The verdict as tables and sentences."""
    from . import output
    from .console import say, show_table
    from .output import Written, percent, written

    rows = []
    for arm in verdict.arms:
        mine = [one for one in verdict.outcomes if one.arm == arm]
        mean = sum(one.accuracy for one in mine) / len(mine)
        by_seed = Written(" ".join(f"{100 * one.accuracy:.2f}" for one in mine), [one.accuracy for one in mine])
        rows.append((arm, f"{mine[0].examples:,}", percent(mean), by_seed))
    show_table(
        f"Retrained: {verdict.decision}",
        ("arm", "examples", "mean accuracy", "by seed"),
        rows,
        right=("examples", "mean accuracy"),
    )
    if output.now.json:
        # People read them as sentences.
        fields = ("treatment", "baseline", "effect", "low", "high", "p", "adjusted", "n", "test")
        compared = [tuple(getattr(one, field) for field in fields) for one in verdict.comparisons]
        show_table("Differences in test accuracy, over seeds", fields, compared, right=fields[2:8])
    if verdict.detections:
        found = [
            (
                one.title,
                written(one.auc, ".3f"),
                written(one.average_precision, ".3f"),
                written(one.precision_at_planted, ".3f"),
                percent(one.missed, 1),
                written(one.recovered, ".3f"),
                "suspicion" if one.claims_suspicion else "difficulty",
            )
            for one in sorted(verdict.detections, key=lambda one: -one.auc)
        ]
        columns = ("score", "AUC", "AP", "precision at k", "missed at k", "in first 20 %", "ranks")
        show_table("Finding the wrong labels (k: as many of the most suspect as are wrong)", columns, found, right=columns[1:6])
    if verdict.cleaning is not None:
        c = verdict.cleaning
        say(
            f"The decision touches {c.touched:,} examples, {c.hit:,} of the {c.planted:,} wrong labels among them; {c.mended:,} are mended."
        )
    for sentence in (*(comparison.sentence for comparison in verdict.comparisons), *verdict.scope):
        say(sentence)
