r"""SGD-influence: what a target would have become had an example been left out of the recorded training.

$$ s_i = -\frac{\partial \Phi}{\partial w_i}, \qquad
   \frac{\partial \Phi}{\partial w_i} = \sum_{t:\, i \in B_t} \frac1{b_t} \langle \gamma_t, \nabla \ell_i(\theta_t) \rangle $$

$\gamma_t$ is the derivative of the target with respect to the gradient of step $t$: for plain SGD $-\eta_t \lambda_{t+1}$, with the adjoint
$\lambda_T = \nabla \Phi(\theta_T)$, $\lambda_t = (I - \eta_t H_t) \lambda_{t+1}$ carried backwards through the recorded steps. $B_t$ is the batch of
step $t$, $b_t$ its size, $\eta_t$ its learning rate, $H_t$ the Hessian of its loss.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.attribution import ROOM, AbstractAttributor, Block
from ..core.errors import NumericalError, UsageError, listed
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import ADJOINT_NORMS, Result
from ..core.scores import CHANGE, RANK_ONLY, Direction
from ..core.spans import checked_span, span, steps_of
from ..core.steps import Adjoint, Curvature, Step, StepSource
from ..maths import draws
from ..maths.curvature import leave_one_out_hvps
from ..maths.params import Params, dot, flatten, norm

Form = Literal["exact", "gauss_newton", "fisher", "last_parameters", "no_hessian", "accumulated"]
CURVATURES: Mapping[str, Curvature] = {"gauss_newton": "gauss_newton", "fisher": "fisher", "no_hessian": "none"}
"""The matrix of the forms that have another than the Hessian."""
PER_QUERY = 8
"""What a query's sweep holds, in the bytes of the parameters, at most: two adjoints with two buffers of the optimizer, gamma and a product."""
UNSTABLE = 10.0
"""Growth of the adjoint's norm above which a linear answer is not to be trusted: small changes grow by this factor."""
UNEVEN = 0.5
"""Part of the largest batch below which the members of a smaller one count so much more that they stand out."""
CHECK = 1.0
"""Norm of the change of all weights along a random direction when the prediction is compared with training again: as far as leaving
one example out."""
SHORTER = 4
"""The prediction is also compared with changes of weights that many times smaller, which separates a wrong derivative from a curved target."""
APART = 0.2
"""Relative error of the predicted changes above which the values are not to be trusted."""
NOT_THE_STEP = 1e-2
"""Distance of a step from that of its losses in eval mode, as a part of its length, above which it is another one."""
ROUNDED = 16
"""And beyond so many units of rounding of the parameters."""
ESTIMATED = "error of the first order, estimated without training again"
TRIED = 16
"""Examples on which it is estimated, at most."""
PER_TRACKED = 9
"""What an example that is carried forwards holds, in the bytes of the parameters, at most: its change and two buffers in double precision, product, gradient
and direction."""
STILL = 0.02
"""Difference between changes of two lengths, as a part of them, below which there is nothing left to go on."""
CONVERGED = 0.25
"""Difference between longer and shorter changes, as a part of them, from which on nobody knows where still smaller ones go."""
REFUTED = 0.05
"""Relative distance from where the changes go as they get smaller, beyond half of what they still change by: the derivative is wrong."""


def sgd_influence(
    source: StepSource, examples: int, targets: Sequence[str], steps: range, form: str = "exact"
) -> tuple[Float[Tensor, "targets epochs examples"], dict[str, list[float]]]:
    """The share of each epoch in -d target / d weight of each example, for several targets in one sweep, and the norms of the adjoints.

    Args:
        source: The recorded training.
        examples: How many examples there are.
        targets: Names of targets of `source`.
        steps: The steps of the window. The sweep goes from the end of the run back to the first of them.
        form: `exact`; `gauss_newton` and `fisher` have these matrices in the place of the Hessian; `last_parameters` differentiates every step at the
            final parameters; `no_hessian` carries the adjoint with respect to the parameters backwards unchanged.

    Returns:
        The sums, and by target the norm of the adjoint after the last step and before each epoch, from the last to the first.

    Raises:
        NumericalError: The adjoint is not finite; the message names the step and the norm.
    """
    values = torch.zeros(len(targets), len(source.epochs), examples, dtype=torch.float64)
    adjoints = {f"target {name!r}": source.end(name) for name in targets}
    norms = {name: [norm_of(adjoint)] for name, adjoint in zip(targets, adjoints.values(), strict=True)}
    firsts = {epoch.start for epoch in source.epochs}
    for step, shares, carried in _sweep(source, adjoints, steps.start, form):
        # An example may stand twice in a batch, so its shares are added, not assigned.
        values[:, step.epoch].index_add_(1, step.positions, shares)
        if step.index in firsts:
            for name, adjoint in zip(targets, carried, strict=True):
                norms[name].append(norm_of(adjoint))
    return values, norms


def sgd_influence_rows(
    source: StepSource, examples: int, target: str, rows: slice, steps: range, form: str = "exact"
) -> Float[Tensor, "queries examples"]:
    """-d loss of a query / d weight of each example in these steps, for some queries in one sweep.

    Args:
        source: The recorded training.
        examples: How many examples there are.
        target: Name of a target that is a mean over queries.
        rows: Which queries, a slice with start and stop; the adjoints of all of them are in memory at once.
        steps: The steps of the window. The sweep goes from the end of the run back to the first of them.
        form: As `sgd_influence` takes it.

    Returns:
        A row for each of these queries, in double precision, in the unit of the loss.

    Raises:
        NumericalError: The adjoint of a query is not finite; the message names query, step and norm.
    """
    values = torch.zeros(rows.stop - rows.start, examples, dtype=torch.float64)
    ids = source.queries(target).ids
    adjoints = {f"query {ids[query]} of {target!r}": source.end(target, query) for query in range(rows.start, rows.stop)}
    for step, shares, _ in _sweep(source, adjoints, steps.start, form):
        if step.index in steps:
            values.index_add_(1, step.positions, shares)
    return values


def _sweep(
    source: StepSource, adjoints: Mapping[str, Adjoint], start: int, form: str
) -> Iterator[tuple[Step, Float[Tensor, "targets batch"], list[Adjoint]]]:
    """The steps from the end of the run back to `start`, each with -d target / d weight of its examples, and the adjoints before it.

    Args:
        source: The recorded training.
        adjoints: At the end of the run, by what they are called in messages.
        start: The last step of the sweep.
        form: As `sgd_influence` takes it.

    Yields:
        The shares in double precision, a row for each adjoint.

    Raises:
        NumericalError: An adjoint is not finite; the message names it, the step and the norm.
    """
    names, carried = list(adjoints), list(adjoints.values())
    still = source.final() if form == "last_parameters" else None
    for step in source.backwards(range(start, source.epochs[-1].stop), replay=still is None):
        found = step.back(carried, at=still, curvature=CURVATURES.get(form, "hessian"))
        carried = [adjoint for _, adjoint in found]
        for name, adjoint in zip(names, carried, strict=True):
            if not (size := norm_of(adjoint)) < float("inf"):
                raise NumericalError(
                    f"sgd_influence: the adjoint of {name} has norm {size} before step {step.index}, so small changes grow "
                    "without bound from there on. Lower the learning rate, or choose a later window."
                )
        yield step, torch.stack([-grad_dots.to("cpu", torch.float64) for grad_dots, _ in found]), carried


def accumulated_influence(
    source: StepSource, tracked: Int[Tensor, " tracked"], target: str, steps: range, *, evaluated: bool = False
) -> Float[Tensor, " tracked"]:
    r"""Predicted change of a target if each of a few examples is left out, with what is moved carried forwards through every step.

    $$ \delta g_t = \frac1{b_t} \sum_{j \in B_t,\, j \ne i} H_j(\theta_t)\, \delta_t - [i \in B_t]\, \frac1{b_t} \nabla \ell_i(\theta_t) $$

    is how the gradient of the step changes. For plain SGD $\delta_{t+1} = \delta_t - \eta_t\, \delta g_t$; any other optimizer, and clipping, takes its
    step with the changed gradient from the changed state. The example's own Hessian is not among those that act on what leaving it out has
    moved, as it is among the steps of the exact form.

    Args:
        source: The recorded training.
        tracked: Positions of the examples; each costs the bytes of the parameters, and a Hessian product in each step.
        target: Name of the target.
        steps: The steps that they are left out of; what is moved is carried on to the end of the run.
        evaluated: Whether the target is computed at the moved parameters, and not to first order.

    Returns:
        In the unit of the target: above 0 where it would be larger without the example.

    Raises:
        UsageError: The steps are not those of the losses in eval mode, or averages of the parameters are kept.
        NumericalError: What was moved is not finite.
    """
    end, final = source.end(target), source.final()
    if end.averages:
        raise UsageError(
            "sgd_influence: form=accumulated carries the parameters, and this training keeps averages of the parameters; choose form=exact."
        )
    carrier = source.carrier(len(tracked))
    for step in source.forwards(range(steps.start, source.epochs[-1].stop)):
        rows = [(step.positions == one).nonzero()[:, 0] if step.index in steps else () for one in tracked]
        total, found = leave_one_out_hvps(step.losses, step.params, [_as(one, step.params) for one in carrier.moved], rows)
        taken, b = step.gradient(), len(step.positions)
        move = {name: step.rates[name] * value for name, value in taken.items()}
        apart = norm({name: value - step.rates[name] * total[name] / b for name, value in move.items()})
        if not apart <= NOT_THE_STEP * norm(move) + ROUNDED * torch.finfo(apart.dtype).eps * norm(step.params):
            raise UsageError(
                f"sgd_influence: form=accumulated is for steps that are those of the losses in eval mode, and step {step.index} is not, as where "
                "dropout or BatchNorm have a part; choose form=exact."
            )
        carrier.take(step, taken, [{name: (value - own[name]) / b for name, value in product.items()} for product, own in found])
    moved = [_as(one, final) for one in carrier.moved]
    if evaluated:
        here = source.target_value(target, final)
        ends = [{name: value + one[name] for name, value in final.items()} for one in moved]
        changes = [source.target_value(target, one) - here for one in ends]
    else:
        changes = [float(dot(end.params, one)) for one in moved]
    values = torch.tensor(changes, dtype=torch.float64)
    if not bool(values.isfinite().all()):
        raise NumericalError(
            "sgd_influence: what leaving an example out moves grows without bound. Lower the learning rate, or choose a later window."
        )
    return values


def _as(values: Params, like: Params) -> dict[str, Tensor]:
    return {name: value.to(like[name].dtype) for name, value in values.items()}


def metasmoothness(ends: Sequence[Params]) -> float:
    """How steadily the parameters at the end of training move as the weights of the examples do.

    The share of coordinates that move the same way twice less the share that turn back, each coordinate weighed by how far it moves.

    Args:
        ends: Parameters at the end of three trainings, with example weights w, w + h v and w + 2 h v.

    Returns:
        In -1..1; 1 where nothing moves.

    Source: Engstrom et al. 2025 (arXiv 2503.13751), definition 2. Departures: none.
    """
    first, middle, last = (flatten(end).to(torch.float64) for end in ends)
    moved = (last - first).abs()
    if not bool(moved.any()):
        return 1.0
    return float((moved * (middle - first).sign() * (last - middle).sign()).sum() / moved.sum())


def norm_of(adjoint: Adjoint) -> float:
    """Euclidean norm, over all parameters, of the derivative with respect to a shift that moves the parameters and their running average alike."""
    return float(
        norm({name: value.to(torch.float64) + adjoint.averages.get(name, 0.0) for name, value in adjoint.params.items()})
    )


@dataclasses.dataclass(frozen=True)
class SGDInfluence(AbstractAttributor):
    """Predicted change of the target if the example's loss is taken out of every step: above 0 the example helps, below 0 it harms.

    With `reduce=mean` the value comes from the gradient of the target, in one sweep, and no value per query is computed.

    Of one model, the change is that of this very training: its start, its order, its draws. Of several models of a recording (`--models 16`) the value is
    their mean: the change in an average training, which is what another training, under another seed, may be held against. `Scores.interval` says
    how well so many models know that mean, not how far a single training lies from it.

    Args:
        target: The target whose change is predicted.
        window: Steps that the example is taken out of: `all`, `last` (the last epoch), or epochs such as `3-5`.
        form: `exact`, or four approximations for comparison: `gauss_newton` and `fisher`, which have the Gauss-Newton matrix or the empirical Fisher
            matrix of each step in the place of its Hessian; `last_parameters`, which needs only the last state; and `no_hessian`, which ignores
            that a change moves later gradients (TracIn at every step). `accumulated` is for a few examples: it carries what leaving one out
            moves forwards, without the Hessian of its own loss (ACC-SGD-IE), through any optimizer that can be replayed.
        ids: For `form=accumulated`, the ids of the examples, joined by `+`; the others have no value.
        at_end: For `form=accumulated`, the change of the target to first order (`linear`), or its value at the moved parameters less that at the
            last ones (`evaluated`), which comes nearer to what leaving out does.
        sign: `removal`, or `weight`, the derivative with respect to the example's weight (Koh and Liang's up-weighting, the metagradient).
        checks: Number of random directions in which the prediction is compared with training again under slightly other example weights, four
            trainings each, which also give the `metasmoothness`. With them the change of the target without a few examples is computed
            by `form=accumulated,at_end=evaluated`, which says how far first order is from it; kinks, such as those of ReLU, add to that and are not seen. Derivatives of single steps are compared with
            central differences in any case.
    """

    target: str = "validation"
    window: str = "all"
    form: Form = "exact"
    sign: Literal["removal", "weight"] = "removal"
    checks: int = 0
    ids: str = ""
    at_end: Literal["linear", "evaluated"] = "linear"
    name: ClassVar[str] = "sgd_influence"
    of_one_training: ClassVar[bool] = True
    reads: ClassVar[frozenset[Need]] = frozenset({Need.STEPS})
    source: ClassVar[Source] = Source(
        "Hara et al. 2019, section 4; Suzuki et al. 2021 for form=last_parameters; arXiv 2510.26185 for form=accumulated",
        "https://arxiv.org/abs/1906.08473",
        "any optimizer that can be replayed, where the papers have plain SGD; states are replayed, not stored; the Hessian's share is "
        "divided by the batch once (the released code of the cleansing experiments divides twice)",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_span(self.window, self.title)
        if self.checks < 0:
            raise UsageError(f"{self.title}: checks={self.checks} is not a number of directions, 0 or more.")
        if self.checks and self.form != "exact":
            raise UsageError(
                f"{self.title}: checks={self.checks} holds the exact form against training; leave form={self.form} out."
            )
        if self.form == "accumulated":
            if not self.ids:
                raise UsageError(
                    f"{self.title}: name the examples with ids=ID+ID, because each costs the bytes of the parameters."
                )
            if self.sign != "removal" or self.reduce != "mean":
                raise UsageError(
                    f"{self.title}: form=accumulated is of leaving out, and of the whole target; leave sign= and reduce= out."
                )
        elif self.ids or self.at_end != "linear":
            raise UsageError(f"{self.title}: ids= and at_end= are read with form=accumulated only; leave them out.")
        if self.checks and self.reduce != "mean":
            raise UsageError(
                f"{self.title}: checks={self.checks} holds the mean over all queries against training; leave reduce={self.reduce} out."
            )

    @property
    def direction(self) -> Direction:  # type: ignore[override]
        """Up-weighting a harmful example raises the target; taking it out lowers it."""
        return Direction.HIGH_IS_SUSPECT if self.sign == "weight" else Direction.LOW_IS_SUSPECT

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of the target for the exact and the accumulated form; the other forms only rank."""
        return CHANGE if self.form in ("exact", "accumulated") else RANK_ONLY

    @property
    def asks(self) -> Asks:
        # A mean may be of a function of the model, which has no rows.
        return Asks(targets=(self.target,)) if self.reduce == "mean" else super().asks

    @property
    def query_set(self) -> str:
        if self.checks or self.form == "accumulated":
            other = f"checks={self.checks}" if self.checks else "form=accumulated"
            raise UsageError(f"{self.title}: {other} is of the whole target and not of its rows; leave it out.")
        return self.target

    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """Some queries by all examples at a time: as many as have adjoints and rows of at most `room` bytes together, at least one.

        The steps are gone through once for each such group.

        Yields:
            Whole rows, from the first query on.
        """
        source, count = evidence.steps, len(evidence.queries(self.query_set).ids)
        steps = steps_of(source, span(self.window, len(source.epochs), self.title))
        held = sum(value.numel() * value.element_size() for value in source.final().values())
        group = max(1, room // (8 * len(evidence.ids) + PER_QUERY * held))
        for start in range(0, count, group):
            rows = slice(start, min(start + group, count))
            values = sgd_influence_rows(source, len(evidence.ids), self.query_set, rows, steps, self.form)
            values = values if self.sign == "removal" else -values
            yield Block(rows, slice(0, len(evidence.ids)), values, warnings=self._remarks(evidence))

    @property
    def reads_between(self) -> bool:
        return self.form != "last_parameters"

    @classmethod
    def run_together(cls, methods: Sequence[AbstractMethod], evidence: Evidence) -> list[Result]:
        """Scores of several methods, with one sweep for all targets and windows of the same `form`."""
        own = [method for method in methods if isinstance(method, SGDInfluence)]
        source, found = evidence.steps, {}
        for method in own:
            if method.reduce != "mean":
                found[method] = AbstractAttributor.run(method, evidence)
            elif method.form == "accumulated":
                found[method] = method._accumulated(evidence)
        swept = [method for method in own if method not in found]
        for form in dict.fromkeys(method.form for method in swept):
            group = [method for method in swept if method.form == form]
            targets = list(dict.fromkeys(method.target for method in group))
            windows = [steps_of(source, span(method.window, len(source.epochs), method.title)) for method in group]
            earliest = min(windows, key=lambda steps: steps.start)
            values, norms = sgd_influence(source, len(evidence.ids), targets, earliest, form)
            for method in group:
                found[method] = method._told(evidence, values[targets.index(method.target)], norms[method.target])
        return [found[method] for method in own]

    def run(self, evidence: Evidence) -> Result:
        (found,) = self.run_together([self], evidence)
        return found

    def speaks_of(self, evidence: Evidence) -> Tensor:
        seen = self._visits(evidence) > 0
        if self.form != "accumulated":
            return seen
        named = torch.zeros_like(seen)
        named[self._tracked(evidence)] = True
        return seen & named

    def _tracked(self, evidence: Evidence) -> Int[Tensor, " tracked"]:
        places = {str(one): place for place, one in enumerate(evidence.ids)}
        named = list(dict.fromkeys(self.ids.split("+")))
        if missing := [one for one in named if one not in places]:
            raise UsageError(
                f"{self.title}: {missing[0]!r} is the id of no example; there are {listed(evidence.ids, len(evidence.ids))}."
            )
        return torch.tensor([places[one] for one in named])

    def _accumulated(self, evidence: Evidence) -> Result:
        source, tracked = evidence.steps, self._tracked(evidence)
        steps = steps_of(source, span(self.window, len(source.epochs), self.title))
        values = torch.zeros(len(evidence.ids), dtype=torch.float64)
        values[tracked] = accumulated_influence(source, tracked, self.target, steps, evaluated=self.at_end == "evaluated")
        return Result(values, warnings=self._remarks(evidence))

    def _visits(self, evidence: Evidence) -> Int[Tensor, " examples"]:
        source = evidence.steps
        return source.visits(steps_of(source, span(self.window, len(source.epochs), self.title)))

    def _remarks(self, evidence: Evidence) -> tuple[str, ...]:
        source, visits, found = evidence.steps, self._visits(evidence), []
        sizes = source.sizes(steps_of(source, span(self.window, len(source.epochs), self.title)))
        if (least := min(sizes) / max(sizes)) < UNEVEN:
            found.append(
                f"The smallest batch has {min(sizes)} examples, the largest {max(sizes)}: in it each counts {1 / least:.1f} times as much and "
                "stands out. Give your loader a batch_size that divides the examples, or record a plan with last_batch='even' or 'drop'; with a live "
                "selector, whose epochs differ in size, that cannot be avoided."
            )
        named = visits[self._tracked(evidence)] if self.form == "accumulated" else visits
        if outside := int((named == 0).sum()):
            found.append(f"{outside} of {len(named)} examples are in no step of the window and have no value.")
        if self.form == "exact" and source.unconfirmed and not source.derivative_errors:
            step, reason = next(iter(source.unconfirmed.items()))
            found.append(
                f"These values may be right, but the derivative of step {step}, on which they rest, could not be checked by numerical "
                f"differences: {reason}. Compare a few of them with loo before you trust them."
            )
        return tuple(found)

    def _told(self, evidence: Evidence, by_epoch: Float[Tensor, "epochs examples"], norms: Sequence[float]) -> Result:
        """The window's part of a sweep, with what there is to say of it.

        Args:
            evidence: The recorded training.
            by_epoch: The share of each epoch.
            norms: Norm of the adjoint at the end and before each epoch, from the last to the first.

        Returns:
            Values in the unit of the target.
        """
        source = evidence.steps
        epochs = span(self.window, len(source.epochs), self.title)
        inside = torch.zeros(len(source.epochs), 1, dtype=torch.float64)
        inside[epochs.start : epochs.stop] = 1
        by_epoch = by_epoch * inside * (1 if self.sign == "removal" else -1)
        norms = norms[: len(source.epochs) - epochs.start + 1]
        sizes = source.sizes(steps_of(source, epochs))
        growth = max(norms) / norms[0] if norms[0] > 0 else 0.0
        diagnostics: dict[str, object] = {
            ADJOINT_NORMS: list(norms),
            "adjoint growth": growth,
            "share of examples outside the window": float((self._visits(evidence) == 0).double().mean()),
            "smallest batch as a part of the largest": min(sizes) / max(sizes),
        }
        warnings = []
        if growth > UNSTABLE and self.form == "exact":
            warnings.append(
                f"The adjoint grows {growth:.3g}-fold over the window: training was unstable, and what leaving an example out really does "
                "may be far from this linear answer. A lower learning rate or a shorter window helps."
            )
        elif growth > UNSTABLE:
            warnings.append(
                f"The adjoint of this approximation grows {growth:.3g}-fold over the window, which says nothing of the training but much of "
                "the approximation: compare it with form=exact."
            )
        warnings += self._remarks(evidence)
        if self.form == "exact" and source.derivative_errors:
            diagnostics["relative error of single steps' derivatives, by central differences"] = max(
                source.derivative_errors.values()
            )
        if self.checks:
            checked, doubt = self._check(source, evidence, by_epoch.sum(0) * (1 if self.sign == "removal" else -1))
            diagnostics.update(checked)
            tried, estimated = self._estimated(evidence, by_epoch.sum(0) * (1 if self.sign == "removal" else -1))
            diagnostics[ESTIMATED] = estimated
            if isinstance(estimated, float) and estimated > APART:
                warnings.append(
                    f"Leaving an example out is no small change here: of {tried} examples, what it moves, carried forwards, changes the target otherwise than "
                    f"these values say by {estimated:.2g} of their size. "
                    + (
                        "Trust their order more than their size; "
                        if estimated < 1
                        else "Trust neither their order nor their size for single examples; "
                    )
                    + "form=accumulated,at_end=evaluated comes nearer for a few, and loo measures."
                )
            if doubt == "wrong":
                warnings.append(
                    "Training again with slightly other weights refutes these values: they are "
                    f"{checked['relative error of the prediction']:.2g} of the changes away, and smaller changes of the weights do not bring the "
                    "two together. Use loo, and tell us of the model."
                )
            if doubt == "far":
                warnings.append(
                    "Training again with slightly other weights gives other changes than predicted (relative error "
                    f"{checked['relative error of the prediction']:.2g}, metasmoothness {checked['metasmoothness']:.2g}): do not trust the size of "
                    "these values."
                )
        return Result(by_epoch.sum(0), by_epoch, diagnostics, tuple(warnings))

    def _estimated(self, evidence: Evidence, values: Float[Tensor, " examples"]) -> tuple[int, float | str]:
        """How far first order is from what leaving examples out does, by `accumulated_influence`, without training again; ours.

        Returns:
            Of how many examples, drawn from those of the window; and the difference as a part of their values, or why there is none.
        """
        source, size = evidence.steps, sum(value.numel() * value.element_size() for value in evidence.steps.final().values())
        inside = self._visits(evidence).nonzero()[:, 0]
        order = draws.uniform(evidence.ids.keys, 0, "influence carried")[inside].argsort()
        tried = inside[order][: min(TRIED, max(1, ROOM // (PER_TRACKED * size)))]
        steps = steps_of(source, span(self.window, len(source.epochs), self.title))
        try:
            found = accumulated_influence(source, tried, self.target, steps, evaluated=True)
        except UsageError as error:
            return len(tried), f"none, because {str(error).removeprefix('sgd_influence: ').partition(';')[0]}"
        whole = float(values[tried].norm())
        return len(tried), float((found - values[tried]).norm()) / whole if whole else 0.0

    def _check(
        self, source: StepSource, evidence: Evidence, removal: Float[Tensor, " examples"]
    ) -> tuple[dict[str, object], str]:
        """Predicted against actual change along random directions, and whether the target changes steadily along them.

        The second value is `wrong` where changes of three lengths, 1, 1 / 4 and 1 / 16, go elsewhere than the prediction as they get smaller, `far` where the prediction is
        the derivative but the changes are far from linear, and else empty.

        `metasmoothness` is taken of the trainings at one step back, at the recorded weights and one step on, the mean over directions.

        Returns:
            Diagnostics by name, and `wrong`, `far` or an empty text.
        """
        steps = steps_of(source, span(self.window, len(source.epochs), self.title))
        ones = torch.ones(len(evidence.ids), dtype=torch.float64)
        here, middle = source.reweighted_end(ones, steps, self.target)
        predicted, actual, shorter, smooth, steady, directions = [], [], [], [], 0, []
        for number in range(self.checks):
            direction = draws.uniform(evidence.ids.keys, 0, "influence check", number) * 2 - 1
            direction *= CHECK / direction.norm()
            directions.append(direction)
            (back, first), (on, last) = (source.reweighted_end(ones + sign * direction, steps, self.target) for sign in (-1, 1))
            less, more = (source.reweighted(ones + sign * direction / SHORTER, steps, self.target) for sign in (-1, 1))
            predicted.append(-float((direction * removal).sum()))
            actual.append((on - back) / 2)
            shorter.append((more - less) / 2 * SHORTER)
            steady += (on - here) * (here - back) > 0
            smooth.append(metasmoothness([first, middle, last]))
        p, long, short = (torch.tensor(row, dtype=torch.float64) for row in (predicted, actual, shorter))
        # Over all directions together: along a single one the change may be 0 by chance.
        far, size = float((p - long).norm()), float(long.norm())
        error = far / size if size > 0 else float(far > 0)
        doubted = refuted(p, (long, short))
        if doubted:
            # Over the kinks of a net two lengths may agree by chance: a third must go on as smooth changes do.
            tried = []
            for one in directions:
                less, more = (source.reweighted(ones + sign * one / SHORTER**2, steps, self.target) for sign in (-1, 1))
                tried.append((more - less) / 2 * SHORTER**2)
            doubted = refuted(p, (long, short, torch.tensor(tried, dtype=torch.float64)))
        return (
            {
                "predicted changes along random directions": predicted,
                "actual changes": actual,
                f"actual changes, {SHORTER} times those of weights {SHORTER} times smaller": shorter,
                "relative error of the prediction": error,
                "metasmoothness": sum(smooth) / self.checks,
                "share of directions in which the target goes on as it begins": steady / self.checks,
            },
            "wrong" if doubted else "far" if error > APART else "",
        )


def refuted(predicted: Float64[Tensor, " directions"], changes: Sequence[Float64[Tensor, " directions"]]) -> bool:
    """Whether changes, by central differences of lengths each `SHORTER` times smaller than the one before, go elsewhere than predicted.

    Their error is of the second order, so that each is 1 / SHORTER² of the one before; where they do not come nearer to each other nobody knows where
    they go, and nothing is refuted.

    Args:
        predicted: Derivative along each direction.
        changes: For two lengths or more, the longest first, the change per length along each direction.

    Returns:
        Whether the prediction is further from where they go than `REFUTED` of it, beyond half of what they still change by.
    """
    gaps = [float((longer - shorter).norm()) for longer, shorter in itertools.pairwise(changes)]
    limit = (SHORTER**2 * changes[-1] - changes[-2]) / (SHORTER**2 - 1)
    size = float(limit.norm())
    settles = gaps[0] < CONVERGED * size and all(
        after < max(before / SHORTER, STILL * size) for before, after in itertools.pairwise(gaps)
    )
    return settles and float((predicted - limit).norm()) - gaps[-1] / 2 > REFUTED * size
