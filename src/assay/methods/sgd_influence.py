r"""SGD-influence: what a target would have become had an example been left out of the recorded training.

$$ s_i = -\frac{\partial \Phi}{\partial w_i}, \qquad
   \frac{\partial \Phi}{\partial w_i} = \sum_{t:\, i \in B_t} \frac1{b_t} \langle \gamma_t, \nabla \ell_i(\theta_t) \rangle $$

$\gamma_t$ is the derivative of the target with respect to the gradient of step $t$: for plain SGD $-\eta_t \lambda_{t+1}$, with the adjoint
$\lambda_T = \nabla \Phi(\theta_T)$, $\lambda_t = (I - \eta_t H_t) \lambda_{t+1}$ carried backwards through the recorded steps. $B_t$ is the batch of
step $t$, $b_t$ its size, $\eta_t$ its learning rate, $H_t$ the Hessian of its loss.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import NumericalError, UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Asks, Source
from ..core.needs import Need
from ..core.results import ADJOINT_NORMS, Result
from ..core.scores import CHANGE, RANK_ONLY, Direction
from ..core.spans import checked_span, span, steps_of
from ..core.steps import Adjoint, StepSource
from ..maths import draws
from ..maths.params import norm

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
        form: `exact`; `last_parameters` differentiates every step at the final parameters; `no_hessian` carries the adjoint with respect to the
            parameters backwards unchanged.

    Returns:
        The sums, and by target the norm of the adjoint after the last step and before each epoch, from the last to the first.

    Raises:
        NumericalError: The adjoint is not finite; the message names the step and the norm.
    """
    values = torch.zeros(len(targets), len(source.epochs), examples, dtype=torch.float64)
    adjoints = [source.end(name) for name in targets]
    norms = {name: [norm_of(adjoint)] for name, adjoint in zip(targets, adjoints, strict=True)}
    still = source.final() if form == "last_parameters" else None
    firsts = {epoch.start for epoch in source.epochs}
    for step in source.backwards(range(steps.start, source.epochs[-1].stop), replay=still is None):
        found = step.back(adjoints, at=still, curvature=form != "no_hessian")
        adjoints = [adjoint for _, adjoint in found]
        for place, (name, (grad_dots, adjoint)) in enumerate(zip(targets, found, strict=True)):
            # An example may stand twice in a batch, so its shares are added, not assigned.
            values[place, step.epoch].index_add_(0, step.positions, -grad_dots.to("cpu", torch.float64))
            size = norm_of(adjoint)
            if not size < float("inf"):
                raise NumericalError(
                    f"sgd_influence: the adjoint of target {name!r} has norm {size} before step {step.index}, so small changes grow "
                    "without bound from there on. Lower the learning rate, or choose a later window."
                )
            if step.index in firsts:
                norms[name].append(size)
    return values, norms


def norm_of(adjoint: Adjoint) -> float:
    """Euclidean norm, over all parameters, of the derivative with respect to a shift that moves the parameters and their running average alike."""
    return float(
        norm({name: value.to(torch.float64) + adjoint.averages.get(name, 0.0) for name, value in adjoint.params.items()})
    )


@dataclasses.dataclass(frozen=True)
class SGDInfluence(AbstractMethod):
    """Predicted change of the target if the example's loss is taken out of every step: above 0 the example helps, below 0 it harms.

    Args:
        target: The target whose change is predicted.
        window: Steps that the example is taken out of: `all`, `last` (the last epoch), or epochs such as `3-5`.
        form: `exact`, or two approximations for comparison: `last_parameters`, which needs only the last state, and `no_hessian`, which ignores that
            a change moves later gradients (TracIn at every step).
        sign: `removal`, or `weight`, the derivative with respect to the example's weight (Koh and Liang's up-weighting, the metagradient).
        checks: Number of random directions in which the prediction is compared with training again under slightly other example weights, four
            trainings each. Derivatives of single steps are compared with central differences in any case.
    """

    target: str = "validation"
    window: str = "all"
    form: Literal["exact", "last_parameters", "no_hessian"] = "exact"
    sign: Literal["removal", "weight"] = "removal"
    checks: int = 0
    name: ClassVar[str] = "sgd_influence"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.STEPS})
    source: ClassVar[Source] = Source(
        "Hara et al. 2019, section 4; Suzuki et al. 2021 for form=last_parameters",
        "https://arxiv.org/abs/1906.08473",
        "any optimizer that can be replayed, where the paper has plain SGD; states are replayed, not stored; the Hessian's share is "
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

    @property
    def direction(self) -> Direction:  # type: ignore[override]
        """Up-weighting a harmful example raises the target; taking it out lowers it."""
        return Direction.HIGH_IS_SUSPECT if self.sign == "weight" else Direction.LOW_IS_SUSPECT

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of the target for the exact form; the other forms only rank."""
        return CHANGE if self.form == "exact" else RANK_ONLY

    @property
    def asks(self) -> Asks:
        return Asks(targets=(self.target,))

    @classmethod
    def run_together(cls, methods: Sequence[AbstractMethod], evidence: Evidence) -> list[Result]:
        """Scores of several methods, with one sweep for all targets and windows of the same `form`."""
        own = [method for method in methods if isinstance(method, SGDInfluence)]
        source, found = evidence.steps, {}
        for form in dict.fromkeys(method.form for method in own):
            group = [method for method in own if method.form == form]
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
        return self._visits(evidence) > 0

    def _visits(self, evidence: Evidence) -> Int[Tensor, " examples"]:
        source = evidence.steps
        return source.visits(steps_of(source, span(self.window, len(source.epochs), self.title)))

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
        visits = self._visits(evidence)
        outside = float((visits == 0).double().mean())
        sizes = source.sizes(steps_of(source, epochs))
        least = min(sizes) / max(sizes)
        growth = max(norms) / norms[0] if norms[0] > 0 else 0.0
        diagnostics: dict[str, object] = {
            ADJOINT_NORMS: list(norms),
            "adjoint growth": growth,
            "share of examples outside the window": outside,
            "smallest batch as a part of the largest": least,
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
        if least < UNEVEN:
            warnings.append(
                f"The smallest batch has {min(sizes)} examples, the largest {max(sizes)}: in it each counts {1 / least:.1f} times as much and "
                "stands out. Give your loader a batch_size that divides the examples, or record a plan with last_batch='even' or 'drop'; with a live "
                "selector, whose epochs differ in size, that cannot be avoided."
            )
        if outside:
            warnings.append(
                f"{int((visits == 0).sum())} of {len(visits)} examples are in no step of the window and have no value."
            )
        if self.form == "exact" and source.derivative_errors:
            diagnostics["relative error of single steps' derivatives, by central differences"] = max(
                source.derivative_errors.values()
            )
        if self.form == "exact" and source.unconfirmed and not source.derivative_errors:
            step, reason = next(iter(source.unconfirmed.items()))
            warnings.append(
                f"These values may be right, but the derivative of step {step}, on which they rest, could not be checked by numerical "
                f"differences: {reason}. Compare a few of them with loo before you trust them."
            )
        if self.checks:
            checked, doubt = self._check(source, evidence, by_epoch.sum(0) * (1 if self.sign == "removal" else -1))
            diagnostics.update(checked)
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

    def _check(
        self, source: StepSource, evidence: Evidence, removal: Float[Tensor, " examples"]
    ) -> tuple[dict[str, object], str]:
        """Predicted against actual change along random directions, and whether the target changes steadily along them.

        The second value is `wrong` where smaller changes of the weights do not go where the prediction is, `far` where the prediction is
        the derivative but the changes are far from linear, and else empty.

        Metasmoothness: the share of directions in which the target, at one step back, at the recorded weights and one step on, rises
        twice or falls twice.

        Returns:
            Diagnostics by name, and `wrong`, `far` or an empty text.
        """
        steps = steps_of(source, span(self.window, len(source.epochs), self.title))
        ones = torch.ones(len(evidence.ids), dtype=torch.float64)
        here = source.reweighted(ones, steps, self.target)
        predicted, actual, shorter, steady = [], [], [], 0
        for number in range(self.checks):
            direction = draws.uniform(evidence.ids.keys, 0, "influence check", number) * 2 - 1
            direction *= CHECK / direction.norm()
            back, on = (source.reweighted(ones + sign * direction, steps, self.target) for sign in (-1, 1))
            less, more = (source.reweighted(ones + sign * direction / SHORTER, steps, self.target) for sign in (-1, 1))
            predicted.append(-float((direction * removal).sum()))
            actual.append((on - back) / 2)
            shorter.append((more - less) / 2 * SHORTER)
            steady += (on - here) * (here - back) > 0
        p, long, short = (torch.tensor(row, dtype=torch.float64) for row in (predicted, actual, shorter))
        # Over all directions together: along a single one the change may be 0 by chance.
        far, size = float((p - long).norm()), float(long.norm())
        error = far / size if size > 0 else float(far > 0)
        # Central differences err by the square of their length, so this is where they go.
        limit = (SHORTER**2 * short - long) / (SHORTER**2 - 1)
        curved, whole = float((long - short).norm()), float(limit.norm())
        refuted = curved < CONVERGED * whole and float((p - limit).norm()) - curved / 2 > REFUTED * whole
        return (
            {
                "predicted changes along random directions": predicted,
                "actual changes": actual,
                f"actual changes, {SHORTER} times those of weights {SHORTER} times smaller": shorter,
                "relative error of the prediction": error,
                "metasmoothness": steady / self.checks,
            },
            "wrong" if refuted else "far" if error > APART else "",
        )
