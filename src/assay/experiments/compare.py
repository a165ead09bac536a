"""Compare: how alike methods rank the examples of a run, and how well each finds what is known to be wrong."""

import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.errors import Mismatch, UsageError
from ..core.ids import Ids
from ..core.lineage import Lineage
from ..core.method import AbstractMethod
from ..core.method_comparison import ComparedMethod, ComparedPair, MethodComparison
from ..core.scores import Direction, Scores, ordered
from ..core.wrong_labels import WrongCount
from ..maths import ranking
from ..runs.artefacts import load_truth
from ..runs.run import Run
from .detection import check_dataset, corrupted_of, wrong_labels
from .execution import Save
from .request import Request
from .score import ALL, served, unscored_of
from .wrong_labels import count_if_possible

TENTH = 0.1
"""Part of the examples whose overlap is told where neither a budget is given nor labels seem wrong."""


@checked_arguments
def compare(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod | Mapping[str, Scores] = ALL,
    *,
    budget: int | None = None,
    save: Save = False,
    truth: tuple[Ids, Int[Tensor, " examples"]] | None = None,
) -> MethodComparison:
    """How alike methods rank the examples of a run: rank correlations with intervals, the overlap of their first parts, and detection where the truth is known.

        compared = assay.compare("runs/digits")
        compared.of("aum", "loss").spearman

    Intervals are of 95 %, over the draw of examples: Spearman's by Fisher's transformation with the variance (1 + rho^2 / 2) / (n - 3), Kendall's with
    0.437 / (n - 4) (Bonett and Wright 2000), AUCs by DeLong's variance.

    Args:
        run: The run.
        methods: What is compared: names, methods, or scores by title; by default every method that the run allows.
        budget: Length of the first part of each ranking whose overlap is told; by default as many as labels seem wrong, or else a tenth.
        save: Whether scores are saved in the run's folder, and reused.
        truth: Ids and true labels; by default those that the run keeps aside, if it does. No method sees them.

    Raises:
        UsageError: Fewer than two methods, or a budget out of range.
        Mismatch: A score is of another dataset, or no example is scored by all methods.
        MissingEvidence: The run allows none of the methods.
    """
    began = time.perf_counter()
    run = run if isinstance(run, Run) else Run(run)
    refused: Mapping[str, str] = {}
    if isinstance(methods, Mapping):
        scores = list(methods.values())
    else:
        made, refused = served(run, methods, Request(save=save), joined=False)
        scores, refused = list(made.values()), unscored_of(methods, refused)
    check_dataset(run, scores)
    if len(scores) < 2:
        why = "".join(f" {title} was not scored: {words.rstrip('.')}." for title, words in refused.items())
        raise UsageError(f"{scores[0].title if scores else 'Nothing'} alone cannot be compared; name at least two methods.{why}")
    for title, words in refused.items():
        warnings.warn(f"{title} is not compared: {words}", stacklevel=3)
    ids = scores[0].ids
    for one in scores[1:]:
        ids = ids if one.ids == ids else ids.take(np.isin(ids.values, one.ids.values))
    if not len(ids):
        raise Mismatch(f"No example is scored by all of {', '.join(one.title for one in scores)}; compare fewer.")
    budget = budget if budget is not None else usual_budget(count_if_possible(run), len(ids))
    if not 1 <= budget <= len(ids):
        raise UsageError(f"budget={budget} is outside 1..{len(ids)}, the examples that all methods scored.")
    known = (
        truth
        if truth is not None
        else (load_truth(run.paths.truth) if run.paths.truth.exists() and run.task == "classes" else None)
    )
    wrong = None if known is None else wrong_labels(ids, run, known)
    corrupted = corrupted_of(ids, run)
    rows = torch.stack([one.of(ids) * one.direction.sign for one in scores])
    return MethodComparison(
        titles=tuple(one.title for one in scores),
        examples=len(ids),
        budget=budget,
        pairs=_pairs([one.title for one in scores], rows, ids, budget),
        wrong=None if wrong is None else int(wrong.sum()),
        detections=() if wrong is None else detected(scores, rows, wrong),
        corrupted=None if corrupted is None else int(corrupted.sum()),
        corruptions=() if corrupted is None else detected(scores, rows, corrupted),
        lineage=Lineage(
            run.dataset,
            {"run": run.fingerprint, **{f"scores {one.title}": one.fingerprint for one in scores}},
            __version__,
            device="cpu",
            seconds=time.perf_counter() - began,
            folder=str(run.folder),
        ),
    )


@checked_arguments
def combine(scores: Sequence[Scores] | Mapping[str, Scores]) -> Scores:
    """One ranking of suspects made of several: the mean of the normal scores of the ranks (`methods.combine`), of scores of any origin.

        both = assay.combine([table["aum"], table["knn_disagreement"]])
        decision = assay.choose(both, "threshold", count="auto", run="runs/digits")

    Args:
        scores: At least two scores of the same examples that rank suspects.

    Returns:
        Scores of which a high value is suspect.

    Raises:
        UsageError: Fewer than two scores, or one that ranks difficulty.
        Mismatch: The scores are of different examples or datasets.
    """
    parts = list(scores.values()) if isinstance(scores, Mapping) else list(scores)
    if len(parts) < 2:
        raise UsageError(f"{len(parts)} scores are no combination; give at least two.")
    first = parts[0]
    rows = []
    for one in parts:
        if len(one) != len(first) or (one.lineage and first.lineage and one.lineage.dataset != first.lineage.dataset):
            raise Mismatch(f"{one.title} and {first.title} are of other examples; combine scores of the same ones.")
        if one.lineage and first.lineage and one.lineage.parents.get("run") != first.lineage.parents.get("run"):
            raise Mismatch(f"{one.title} and {first.title} are of other recordings; combine scores of one run.")
        rows.append(one.suspicion()[one.ids.positions(first.ids, f"scores of {one.title}")])
    titles = "+".join(one.title for one in parts)
    lineage = first.lineage and Lineage(
        first.lineage.dataset,
        {
            **({"run": run} if (run := first.lineage.parents.get("run")) else {}),
            **{f"scores {one.title}": one.fingerprint for one in parts},
        },
        __version__,
        first.lineage.seed,
        folder=first.lineage.folder,
        drawn=first.lineage.drawn,
    )
    return Scores(
        first.ids,
        ranking.normal_scores(torch.stack(rows)).mean(0),
        "combination",
        {"scores": titles},
        f"combination of {titles}",
        Direction.HIGH_IS_SUSPECT,
        "mean normal score",
        unscored=first.unscored,
        lineage=lineage,
    )


def _pairs(titles: Sequence[str], rows: Tensor, ids: Ids, budget: int) -> tuple[ComparedPair, ...]:
    spearman, overlaps = ranking.rank_correlation(rows), first_overlaps(rows, ids, budget)
    found = []
    for i, j in itertools.combinations(range(len(rows)), 2):
        rho, tau = float(spearman[i, j]), ranking.concordance(rows[i], rows[j])
        tau_ends = ranking.correlation_interval(tau, len(ids), (0.437, 4))
        ends = spearman_interval(rho, len(ids))
        found.append(ComparedPair(titles[i], titles[j], rho, *ends, tau, *tau_ends, float(overlaps[i, j])))
    return tuple(found)


def spearman_interval(rho: float, examples: int) -> tuple[float, float]:
    """95 % interval of a rank correlation over the draw of examples; NaN where there is none."""
    return ranking.correlation_interval(rho, examples, (1 + rho**2 / 2, 3))


def first_overlaps(rows: Float[Tensor, "scores examples"], ids: Ids, budget: int) -> Float64[Tensor, "scores scores"]:
    """Part of the first examples of each ranking that are among the first of each other.

    Args:
        rows: A value for each example, the largest first.
        ids: The examples; of equal values the smallest id stands first.
        budget: How many of the first are held against each other.
    """
    first = torch.zeros(rows.shape, dtype=torch.float64)
    for place, row in enumerate(rows):
        first[place, ordered(row, ids, descending=True)[:budget]] = 1
    return first @ first.T / budget


def usual_budget(counted: WrongCount | None, examples: int) -> int:
    """How many of the first examples are held against each other unasked: as many as labels seem wrong, or else a tenth."""
    if counted is not None and counted.seen:
        return min(max(1, counted.whole), examples)
    return max(1, round(TENTH * examples))


def detected(scores: Sequence[Scores], rows: Tensor, wrong: Bool[Tensor, " examples"]) -> tuple[ComparedMethod, ...]:
    """How well each finds the wrong labels, or other examples of a kind; none where fewer than two are of it, or not."""
    from sklearn.metrics import average_precision_score

    count = int(wrong.sum())
    if min(count, len(wrong) - count) < 2:
        return ()
    areas, covariance = ranking.detection_areas(rows, wrong)
    found = []
    for place, one in enumerate(scores):
        low, high = ranking.area_interval(float(areas[place]), float(covariance[place, place]), count) or (None, None)
        precision = ranking.precision_at(rows[place], wrong, count)
        average = float(average_precision_score(wrong.numpy(), rows[place].numpy()))
        claims = one.direction.ranks_suspects
        found.append(
            ComparedMethod(one.title, claims, float(areas[place]), low, high, average, precision, round(count * (1 - precision)))
        )
    return tuple(sorted(found, key=lambda one: -one.auc))
