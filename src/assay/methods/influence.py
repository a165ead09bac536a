r"""Influence function: what a target would become had an example been left out and training continued to the optimum near the last model.

$$ s_i = \frac1n \langle v, \nabla \ell_i(\theta) \rangle, \qquad (G + \delta I + \Lambda)\, v = \nabla \Phi(\theta), \qquad
   G = \frac1n \sum_j J_j^\top H_j J_j $$

$J_j$ is the derivative of the outputs for example $j$, $H_j$ the Hessian of its loss with respect to them, $n$ the number of examples, $\delta$ the
damping, $\Lambda$ the optimizer's weight decay; or $G$ is the Hessian of the mean loss itself. Of a query, $\Phi$ is its loss.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.attribution import ROOM, AbstractAttributor, Block
from ..core.curvature import Curvature, flat_rows
from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.inverse import RTOL, Inverse, Solver, check_options, curvature_of, inverse_of, worded
from ..core.method import Asks, Iterative, Source, derivatives_taken
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import CHANGE, Direction

READ_WITH = {
    "preconditioner": ("cg", "lissa"),
    "iterations": ("cg", "lissa"),
    "rtol": ("cg", "lissa"),
    "factors": ("cg", "lissa", "ekfac"),
    "seed": ("cg", "lissa", "ekfac"),
    "rank": ("lanczos",),
}
"""The solvers that read an option that not all read."""

NEGLIGIBLE = 0.01
"""Part by which curvature must change the values for them to be an influence."""


def influence(
    curvature: Curvature, solved: Float64[Tensor, "entries targets"], cotangents: Float[Tensor, "examples outputs"] | None = None
) -> Float64[Tensor, "targets examples"]:
    """Predicted change of each target if each example is left out, in the target's unit.

    Args:
        curvature: The curvature of the mean loss.
        solved: The inverse of the damped curvature times the gradient of each target, a column each.
        cotangents: The derivatives by the outputs whose first order is what leaving an example out does (see `Inverse.cotangents`); None for those of the losses.

    Returns:
        A row for each target, above 0 where leaving the example out makes the target rise.
    """
    return curvature.grad_dots(solved, cotangents) / curvature.examples


def _by_damping_alone(
    inverse: Inverse, gradient: Tensor, solved: Tensor, cotangents: Tensor | None, values: Tensor
) -> tuple[str, ...]:
    """What must be said where the curvature does next to nothing to the values."""
    if not inverse.damping:
        return ()
    plain = gradient / inverse.damping
    # What moves the solution this far lies where examples have gradients: it moves the values too, and a pass over the examples is saved.
    if float((solved - plain).norm()) > 10 * NEGLIGIBLE * float(plain.norm()):
        return ()
    alone = influence(inverse.curvature, plain, cotangents)[0]
    if float((values - alone).norm()) > NEGLIGIBLE * float(alone.norm()):
        return ()
    return (
        f"These values are those of no curvature, inner products of gradients divided by the damping of {inverse.damping:.3g}, but for {NEGLIGIBLE:.0%}: their order is that of "
        "the inner products, and their size is the damping's. Either the damping is too large, which a smaller one or damping=auto mends, or the model is saturated, "
        "as after a training without loss or one that broke off.",
    )


@dataclasses.dataclass(frozen=True)
class Influence(AbstractAttributor):
    """Predicted change of the target if the example's loss is taken out of the objective: above 0 it helps, below 0 it harms.

    With `reduce=mean` one system is solved for the target, whatever its number of queries; with values per query, one for each query.

    Args:
        target: The target whose change is predicted.
        at: The epoch at whose end the model is taken, counted from 0; -1 is the last that was kept.
        layers: `all` trainable parameters; or those of some layers, as if the other parameters were fixed: `head`, the linear layer that makes the logits, or
            names of modules joined by `+`.
        curvature: `gauss_newton`, which has no negative eigenvalue where the loss is convex in the outputs, or `hessian`.
        damping: Added to the diagonal of the curvature matrix of the mean loss, as it is: larger damping is more stable, and makes the values
            smaller. `auto`: the damping that carries a fifth of the target's gradient (`maths.damping`).
        decay: The `recorded` weight decay of the optimizer is added too, where it is a part of what is minimised (SGD, Adam, not AdamW), or `none`.
        solver: `cg`, conjugate gradients; `cholesky`, which builds the whole matrix, for at most 5,000 parameters; `lissa`, a Neumann series over all examples;
            or the approximations `ekfac`, of the matrix by Kronecker factors of each layer, and `lanczos`, of low rank.
        preconditioner: For `cg` and `lissa`, what is near to the inverse and saves iterations; it changes no value. `ekfac`, `kronecker` (K-FAC of the examples' own
            gradients), `diagonal`, `none`, or `auto`: `ekfac` where each layer has a rule, else `diagonal`.
        factors: Of which gradients EK-FAC is made: `exact`, a backward pass for each output, `sampled`, one for a mix of them by random signs, or `empirical`, the
            losses' own.
        seed: Of the signs of `factors=sampled`.
        iterations: Largest number of iterations of `cg` and `lissa`; each takes a pass over the examples, or over what is kept of them in memory.
        rtol: Residual, relative to the target's gradient, at which they stop.
        rank: Dimensions of the subspace of `lanczos`.
        form: `first_order` in the weight of the example; for `cholesky` and `ekfac` also one `newton_step` without it, or the first order divided by
            1 - `leverage`, where the loss curves along one direction of the outputs (one logit, two classes), which is the Newton step there.
    """

    target: str = "validation"
    at: int = -1
    layers: str = "all"
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    damping: float | Literal["auto"] = 0.01
    decay: Literal["recorded", "none"] = "recorded"
    solver: Literal["cg", "cholesky", "lissa", "lanczos", "ekfac"] = "cg"
    preconditioner: Literal["auto", "ekfac", "kronecker", "diagonal", "none"] = "auto"
    factors: Literal["exact", "sampled", "empirical"] = "exact"
    seed: int = 0
    iterations: int = 1000
    rtol: float = RTOL
    rank: int = 100
    form: Literal["first_order", "newton_step", "leverage"] = "first_order"
    name: ClassVar[str] = "influence"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS})
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = CHANGE
    exactness: ClassVar[Iterative] = Iterative(RTOL)
    source: ClassVar[Source] = Source(
        "Koh and Liang 2017, section 2",
        "https://arxiv.org/abs/1703.04730",
        "the sign is that of leaving the example out, divided by n, where theirs is that of up-weighting it; Gauss-Newton's matrix by default "
        "(Martens 2020); weight decay is in the matrix and not in an example's gradient; batch statistics stay as they are",
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("iterations", "rank"):
            if getattr(self, name) < 1:
                raise UsageError(f"{self.title}: {name}={getattr(self, name)} is below 1.")
        if not 0 < self.rtol < 1:
            raise UsageError(f"{self.title}: rtol={self.rtol} is outside 0..1, both excluded.")
        for field in dataclasses.fields(self):
            if self.solver not in READ_WITH.get(field.name, (self.solver,)) and getattr(self, field.name) != field.default:
                raise UsageError(f"{self.title}: {field.name} is not read with solver={self.solver}; leave it out.")
        if self.factors != "exact" and self.preconditioner not in ("auto", "ekfac"):
            raise UsageError(f"{self.title}: factors is not read with preconditioner={self.preconditioner}; leave it out.")
        check_options(self.title, self.at, self.damping, self.factors, self.seed)
        if self.curvature == "hessian" and (self.solver == "ekfac" or self.form != "first_order"):
            what = "solver=ekfac" if self.solver == "ekfac" else f"form={self.form}"
            raise UsageError(f"{self.title}: {what} takes Gauss-Newton's matrix; leave curvature=hessian out.")
        if self.form != "first_order" and self.solver not in ("cholesky", "ekfac"):
            raise UsageError(f"{self.title}: form={self.form} needs solver=cholesky or solver=ekfac; choose one of them.")

    @property
    def asks(self) -> Asks:
        # A mean may be of a function of the model, which has no rows.
        return super().asks if self.reduce != "mean" else Asks(targets=(self.target,))

    @property
    def query_set(self) -> str:
        return self.target

    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """Some queries by all examples at a time: as many as have gradients and solutions of at most `room` bytes together, at least one.

        Yields:
            Whole rows, from the first query on.
        """
        inverse, decay = self._inverse(evidence)
        curvature, count = inverse.curvature, len(evidence.queries(self.query_set).ids)
        with worded(self.title, self.curvature):
            cotangents = inverse.cotangents(self.form)
        # The gradients, and what conjugate gradients hold: solution, residual, direction, its image, and the preconditioned residual.
        step = max(1, room // (8 * (6 * len(curvature) + len(evidence.ids))))
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            pulls = self._pulls(curvature, rows)
            with worded(self.title, self.curvature):
                values = influence(curvature, inverse.solve(pulls), cotangents)
            yield Block(rows, slice(0, len(evidence.ids)), values, self._told(inverse, decay), inverse.warnings)

    def run(self, evidence: Evidence) -> Result:
        if self.reduce != "mean":
            return super().run(evidence)
        inverse, decay = self._inverse(evidence)
        gradient = self._gradient(inverse.curvature)
        with worded(self.title, self.curvature):
            solved, cotangents = inverse.solve(gradient[:, None]), inverse.cotangents(self.form)
            values = influence(inverse.curvature, solved, cotangents)[0]
            warned = _by_damping_alone(inverse, gradient[:, None], solved, cotangents, values)
        return Result(values, diagnostics=self._told(inverse, decay), warnings=(*inverse.warnings, *warned))

    def _told(self, inverse: Inverse, decay: str) -> dict[str, object]:
        curvature = inverse.curvature
        told = {"weight decay": decay, "parameters": len(curvature), **derivatives_taken(curvature.backends)}
        return inverse.told | told

    def _pulls(self, curvature: Curvature, rows: slice) -> Float64[Tensor, "entries queries"]:
        """The gradients of some queries, a column each."""
        pulls = torch.zeros(rows.stop - rows.start, len(curvature), dtype=torch.float64)
        for batch in curvature.model.queries(self.query_set, rows):
            for part, gradients in batch.grads(curvature.names):
                pulls[batch.positions[part] - rows.start] = flat_rows(gradients, curvature.names)
        return pulls.T

    def _inverse(self, evidence: Evidence) -> tuple[Inverse, str]:
        curvature, decay = curvature_of(self.name, evidence, self.at, self.layers, self.curvature, self.decay)
        asked = self.damping == "auto" or self.solver == "lanczos"
        target = self._gradient(curvature) if asked else None
        solver = Solver(self.solver, self.preconditioner, self.factors, self.seed, self.iterations, self.rtol, self.rank)
        with worded(self.title, self.curvature):
            damping = None if self.damping == "auto" else self.damping
            return inverse_of(self.name, curvature, solver, damping, target), decay

    def _gradient(self, curvature: Curvature) -> Float64[Tensor, " entries"]:
        """The target's gradient, in the order of the curvature's parameters."""
        gradient = curvature.model.target(self.target)
        row = torch.cat([gradient[name].detach().flatten().to("cpu", torch.float64) for name in curvature.names])
        if not bool(row.any()):
            raise UsageError(
                f"{self.title}: the gradient of target {self.target!r} is 0 by every one of the {len(row):,} parameters, so that no example could change it; "
                "choose layers=all, or a target that depends on them."
            )
        return row
