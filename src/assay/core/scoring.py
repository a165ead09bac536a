"""Running methods on evidence, those that share work together, and checking that their results are valid scores."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from .accumulators import AbstractAccumulator, AbstractStepMethod, Spent, accumulate, run_steps
from .errors import BadScores, NumericalError, listed
from .evidence import Evidence
from .method import AbstractMethod
from .needs import Need
from .results import Result
from .scores import Scores


def groups(methods: Sequence[AbstractMethod]) -> Iterator[list[AbstractMethod]]:
    """Methods in groups that share work: all that read epochs, all that read steps, and the others by class."""
    found: dict[object, list[AbstractMethod]] = {}
    for method in methods:
        kinds = (AbstractAccumulator, AbstractStepMethod)
        found.setdefault(next((kind for kind in kinds if isinstance(method, kind)), type(method)), []).append(method)
    yield from found.values()


def score(methods: Sequence[AbstractMethod], evidence: Evidence, spent: Spent | None = None) -> list[Scores]:
    """Run methods on one run's evidence; those that read epochs share one pass.

    Args:
        methods: The methods to run.
        evidence: The facts that the methods read.
        spent: Collects the seconds of each method.

    Returns:
        The scores of each method, in the order of the methods.

    Raises:
        MissingEvidence: The run did not record what a method needs.
        BadScores: A result is not one finite number per scored example.
    """
    spent = spent or Spent()
    views = [evidence.narrow(method.title, method.reads) for method in methods]
    found: dict[int, Result] = {}
    for group in groups(methods):
        reads = frozenset().union(*(method.reads for method in group))
        spent.since_last([])
        made: Sequence[Result]
        if isinstance(group[0], AbstractAccumulator):
            made = accumulate(group, evidence.narrow("these methods", reads), spent)  # type: ignore[arg-type]
        elif isinstance(group[0], AbstractStepMethod):
            made = run_steps(group, evidence.narrow("these methods", reads), spent)  # type: ignore[arg-type]
        else:
            kind = type(group[0])
            made = kind.run_together(group, evidence.narrow(kind.name, reads))
            spent.since_last(group)
        found.update(zip(map(id, group), made, strict=True))
    return [checked(method, view, found[id(method)]) for method, view in zip(methods, views, strict=True)]


def checked(
    method: AbstractMethod, evidence: Evidence, result: Result, scored: Bool[Tensor, " examples"] | None = None
) -> Scores:
    """The result as the `Scores` of `method`, after a check.

    Args:
        method: The method that gave the result.
        evidence: The facts that the method read.
        result: The result of the method.
        scored: Which examples the method can score, if that cannot be told from `evidence`.

    Returns:
        Finite scores, in double precision, of the examples that the method can score.

    Raises:
        BadScores: Not one finite number per scored example.
        NumericalError: Every effect on a target is exactly 0.
    """
    values = result.values
    if values.shape != (len(evidence.ids),):
        raise BadScores(
            f"{method.title} returned shape {tuple(values.shape)}; expected one number for each of {len(evidence.ids)} examples."
        )
    mask = result.scored if scored is None else scored
    if mask is None:
        mask = method.speaks_of(evidence)
    values = values.detach().to("cpu", torch.float64)[mask]
    ids = evidence.ids if bool(mask.all()) else evidence.ids.take(mask)
    bad = ~values.isfinite()
    if bool(bad.any()):
        names = ids.take(bad)
        raise BadScores(f"{method.title}: {len(names)} values are not finite; ids {listed(names, len(names))}.")
    by_gradients = method.reads & {Need.CHECKPOINTS, Need.STEPS} and not method.retrains
    if by_gradients and method.asks.named_targets and len(values) and not bool(values.any()):
        raise NumericalError(
            f"{method.title}: every value is 0, because the gradient of target {method.asks.named_targets[0]!r} is 0 by all parameters that are looked at, or no step moved "
            "them, so that nothing is told of any example; choose a target that depends on parameters which were trained."
        )
    return Scores(
        ids=ids,
        values=values,
        method=method.name,
        options={field.name: getattr(method, field.name) for field in dataclasses.fields(method)},  # type: ignore[arg-type]
        title=method.title,
        direction=method.direction,
        unit=method.unit_of(evidence),
        unscored=evidence.ids.take(~mask),
        by_epoch=None if result.by_epoch is None else result.by_epoch.detach().to("cpu", torch.float64)[:, mask],
        repeats=None if result.repeats is None else result.repeats.detach().to("cpu", torch.float64)[:, mask],
        diagnostics=dict(result.diagnostics),
        warnings=result.warnings,
    )
