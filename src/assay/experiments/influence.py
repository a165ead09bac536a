"""Influence: which examples harm and which help, by scores whose sign means something, and how such scores compare."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..core.ids import Ids
from ..core.needs import Need
from ..core.report_data import Influence, ScoreComparison, TopExamples
from ..core.results import ADJOINT_NORMS
from ..core.scores import CHANGE, RANK_ONLY, Scores, ordered
from ..maths import draws, ranking, statistics
from ..methods import METHODS

EXTREMES = 10
"""Examples at each end of a score that are shown by themselves."""
MOST_POINTS = 2000
"""Examples of one comparison that are drawn."""
SIGNED = (CHANGE, RANK_ONLY)
"""Units of the scores whose sign says whether an example helps."""

Wrong = Callable[[Ids], Bool[Tensor, " examples"]]
"""Which of some examples have a wrong label; None stands for a truth that is not known."""


def signed(scores: Scores) -> bool:
    """Whether the sign of a value says if an example helps or harms."""
    # Self-influence tells how much an example stands out, and is never below 0.
    return scores.unit in SIGNED and scores.direction.ranks_suspects and scores.options.get("target") != "self"


def helpfulness(scores: Scores) -> Float64[Tensor, " examples"]:
    """Values with the sign set so that above 0 means helpful, whichever sign the method was asked for."""
    return -scores.suspicion()


def influences(scores: Sequence[Scores], wrong: Wrong | None, most: int, most_epochs: int) -> tuple[Influence, ...]:
    """One `Influence` for each score whose sign is meaningful, exact scores first.

    Args:
        scores: Any scores.
        wrong: Which labels are wrong, where that is known.
        most: Largest number of extreme examples, counted over all scores together.
        most_epochs: How many epochs of values over time are given, at most.
    """
    able = _leading([one for one in scores if signed(one)])
    return tuple(_influence(one, wrong, min(EXTREMES, most // (2 * len(able))), most_epochs) for one in able)


def _leading(scores: Sequence[Scores]) -> list[Scores]:
    """Exact influence first, of several that with most to say of itself, then the plainest."""
    return sorted(scores, key=lambda one: (not _exact(one), -len(one.diagnostics), len(one.title)))


def _measured(scores: Scores) -> bool:
    """Whether the change was measured, by training again."""
    method = METHODS.get(scores.method)
    return method is not None and method.retrains


def _of_the_steps(scores: Scores) -> bool:
    """Whether the change is that of this very training, taken again step by step, and not of a training to some optimum."""
    method = METHODS.get(scores.method)
    return method is not None and scores.unit == CHANGE and Need.STEPS in method().reads


def _exact(scores: Scores) -> bool:
    return _of_the_steps(scores) and not _measured(scores)


def _influence(scores: Scores, wrong: Wrong | None, count: int, most_epochs: int) -> Influence:
    helps, tells = helpfulness(scores), scores.harmful() is not None
    count = min(count, len(scores) // 2)
    gathered, epochs = None, ()
    if scores.by_epoch is not None:
        wanted = (
            torch.linspace(0, len(scores.by_epoch) - 1, min(len(scores.by_epoch), most_epochs)).round().to(torch.int64).unique()
        )
        gathered, epochs = scores.by_epoch.cumsum(0)[wanted], tuple(wanted.tolist())

    def end(*, helpful: bool) -> TopExamples:
        place = ordered(helps, scores.ids, descending=helpful)[:count]
        return TopExamples(scores.ids.take(place), scores.values[place], gathered[:, place] if gathered is not None else None)

    bad = wrong(scores.ids) if wrong is not None and gathered is not None else None
    apart = gathered is not None and bad is not None and bool(bad.any()) and not bool(bad.all())
    return Influence(
        title=scores.title,
        target=str(scores.options.get("target", "")),
        harmful=end(helpful=False),
        helpful=end(helpful=True),
        harming=int((helps < 0).sum()) if tells else None,
        helping=int((helps > 0).sum()) if tells else None,
        epochs=epochs,
        wrong=gathered[:, bad].mean(1) if apart else None,  # type: ignore[index]
        right=gathered[:, ~bad].mean(1) if apart else None,  # type: ignore[index, operator]
        norms=_norms(scores),
    )


def _norms(scores: Scores) -> tuple[tuple[int, float], ...]:
    """The norms as (epoch, norm before it), the state after the last epoch counting as before the next."""
    backwards = scores.diagnostics.get(ADJOINT_NORMS)
    if scores.by_epoch is None or not isinstance(backwards, (list, tuple)):
        return ()
    after = len(scores.by_epoch)
    return tuple((after - back, float(norm)) for back, norm in enumerate(backwards))[::-1]


def comparisons(scores: Sequence[Scores], wrong: Wrong | None) -> tuple[ScoreComparison, ...]:
    """Every score against leave-one-out of the same target and window, and every approximation against the exact
    influence of the same target and window.

    Args:
        scores: Any scores; those without a target are in no comparison.
        wrong: Which labels are wrong, where that is known.
    """
    groups: dict[tuple[str, ...], list[Scores]] = {}
    for one in _leading(scores):
        if signed(one) and one.options.get("target"):
            groups.setdefault(_asked(one), []).append(one)
    pairs: list[tuple[Scores, Scores]] = []
    for group in groups.values():
        measured = [one for one in group if _measured(one)]
        # Exact forms differ by checks or sign, never in what they say.
        exact = [one for one in group if _exact(one)]
        others = [one for one in group if one not in measured and one not in exact]
        pairs += [(one, reference) for reference in measured for one in (*exact[:1], *others)]
        pairs += [(one, reference) for reference in exact[:1] for one in others]
    found = (_comparison(one, reference, wrong) for one, reference in pairs)
    return tuple(one for one in found if one is not None)


def _asked(scores: Scores) -> tuple[str, ...]:
    """What makes two scores tell the same change: the target, what it is made of, the steps that an example is left out of, and how queries are put
    together.
    """
    target = str(scores.options["target"])
    made_of = scores.lineage.parents.get(f"target {target}", "") if scores.lineage is not None else ""
    return target, made_of, str(scores.options.get("window", "all")), str(scores.options.get("reduce", "mean"))


def _comparison(scores: Scores, reference: Scores, wrong: Wrong | None) -> ScoreComparison | None:
    both = scores.ids.take(np.isin(scores.ids.values, reference.ids.values))
    if len(both) < 2:
        return None
    values = helpfulness(scores)[scores.ids.positions(both)]
    references = helpfulness(reference)[reference.ids.positions(both)]
    slope, pearson = statistics.line(values, references)
    drawn = torch.arange(len(both))
    if len(both) > MOST_POINTS:
        drawn = draws.permutation(both.keys, 0, "points on the page")[:MOST_POINTS]
    ids = both.take(drawn)
    return ScoreComparison(
        title=scores.title,
        reference=reference.title,
        target=str(scores.options["target"]),
        measured=_measured(reference),
        same=_of_the_steps(scores) and _of_the_steps(reference),
        ids=ids,
        values=values[drawn],
        references=references[drawn],
        wrong=wrong(ids) if wrong is not None else None,
        examples=len(both),
        tau=ranking.concordance(values, references),
        spearman=float(ranking.rank_correlation(torch.stack([values, references]))[0, 1]),
        pearson=pearson,
        slope=slope,
    )
