"""Methods run on evidence: those that share work together, and what they found held to be scores."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from .accumulators import AbstractDynamicsMethod, AbstractStepMethod, Spent, fold, walk
from .errors import BadScores, some
from .evidence import Evidence
from .method import AbstractMethod
from .results import Result
from .scores import Scores


def groups(methods: Sequence[AbstractMethod]) -> Iterator[list[AbstractMethod]]:
    """Methods that share work, together: all folds over epochs, all folds over steps, and of the others those of one class."""
    found: dict[object, list[AbstractMethod]] = {}
    for method in methods:
        kinds = (AbstractDynamicsMethod, AbstractStepMethod)
        found.setdefault(next((kind for kind in kinds if isinstance(method, kind)), type(method)), []).append(method)
    yield from found.values()


def score(methods: Sequence[AbstractMethod], evidence: Evidence, spent: Spent | None = None) -> list[Scores]:
    """Run methods on one run's evidence; all folds share one pass.

    Args:
        methods: Which.
        evidence: What they look at.
        spent: Where the seconds of each are written.

    Raises:
        MissingEvidence: The run did not record what a method needs.
        BadScores: A result is not one finite number per scored example.
    """
    spent = spent or Spent()
    views = [evidence.narrow(method.title, method.needs) for method in methods]
    found: dict[int, Tensor | Result] = {}
    for group in groups(methods):
        needs = frozenset().union(*(method.needs for method in group))
        spent.since_last([])
        made: Sequence[Tensor | Result]
        if isinstance(group[0], AbstractDynamicsMethod):
            made = fold(group, evidence.narrow("these methods", needs), spent)  # type: ignore[arg-type]
        elif isinstance(group[0], AbstractStepMethod):
            made = walk(group, evidence.narrow("these methods", needs), spent)  # type: ignore[arg-type]
        else:
            kind = type(group[0])
            made = kind.together(group, evidence.narrow(kind.name, needs))
            spent.since_last(group)
        found.update(zip(map(id, group), made, strict=True))
    return [checked(method, view, found[id(method)]) for method, view in zip(methods, views, strict=True)]


def checked(
    method: AbstractMethod, evidence: Evidence, found: Tensor | Result, scored: Bool[Tensor, " examples"] | None = None
) -> Scores:
    """What was found as the scores of `method`, or a refusal.

    Args:
        method: Who found it.
        evidence: In what.
        found: One number per example.
        scored: Which examples it speaks of, where `evidence` does not hold what that is told from.

    Raises:
        BadScores: Not one finite number per scored example.
    """
    findings = found if isinstance(found, Result) else Result(found)
    values = findings.values
    if values.shape != (len(evidence.ids),):
        raise BadScores(
            f"{method.title} returned shape {tuple(values.shape)}; expected one number for each of {len(evidence.ids)} examples."
        )
    mask = method.scored(evidence) if scored is None else scored
    values = values.detach().to("cpu", torch.float64)[mask]
    ids = evidence.ids if bool(mask.all()) else evidence.ids.take(mask)
    bad = ~values.isfinite()
    if bool(bad.any()):
        names = ids.take(bad)
        raise BadScores(f"{method.title}: {len(names)} values are not finite; ids {some(names, len(names))}.")
    return Scores(
        ids=ids,
        values=values,
        method=method.name,
        options={field.name: getattr(method, field.name) for field in dataclasses.fields(method)},  # type: ignore[arg-type]
        title=method.title,
        direction=method.direction,
        unit=method.unit,
        unscored=evidence.ids.take(~mask),
        by_epoch=None if findings.by_epoch is None else findings.by_epoch.detach().to("cpu", torch.float64)[:, mask],
        repeats=None if findings.repeats is None else findings.repeats.detach().to("cpu", torch.float64)[:, mask],
        diagnostics=dict(findings.diagnostics),
        warnings=findings.warnings,
    )
