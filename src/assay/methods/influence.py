r"""Influence function: what a target would become had an example been left out and training continued to the optimum near the last model.

$$ s_i = \frac1n \langle v, \nabla \ell_i(\theta) \rangle, \qquad (G + \delta I + \Lambda)\, v = \nabla \Phi(\theta), \qquad
   G = \frac1n \sum_j J_j^\top H_j J_j $$

$J_j$ is the derivative of the outputs for example $j$, $H_j$ the Hessian of its loss with respect to them, $n$ the number of examples, $\delta$ the
damping, $\Lambda$ the optimizer's weight decay; or $G$ is the Hessian of the mean loss itself.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import NumericalError, UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Asks, Iterative, Source, derivatives_taken
from ..core.models import Model, WeightDecay, chosen_params
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import CHANGE, Direction
from ..maths.kronecker import eigenbasis, kronecker_factors, kronecker_inverse
from ..maths.params import Params, flatten, unflatten
from ..maths.solvers import conjugate_gradients

RTOL = 1e-8
"""Residual, as a part of the target's gradient, at which conjugate gradients stop by default."""
LOST = 1e-3
"""Residual, computed anew from the solution, above which rounding has taken over."""
DENSE = 2048
"""The most parameters for which the whole matrix is made."""
FORMS = {"gauss_newton": "ggnvp", "hessian": "hvp"}


@dataclasses.dataclass(frozen=True)
class Solver:
    """How (curvature + damping) x = gradient is solved.

    Attributes:
        kind: `cg`, conjugate gradients, or `cholesky`, which factorises the whole matrix.
        preconditioner: `none`, or `kronecker`, for conjugate gradients.
        iterations: Largest number of steps of conjugate gradients.
        rtol: Residual, relative to the right-hand side, at which they stop.
    """

    kind: str = "cg"
    preconditioner: str = "none"
    iterations: int = 1000
    rtol: float = RTOL


def influence(
    model: Model,
    examples: int,
    target: str,
    *,
    layers: str = "all",
    curvature: str = "gauss_newton",
    damping: float = 0.01,
    decay: Mapping[str, WeightDecay] | None = None,
    solver: Solver | None = None,
) -> tuple[Float[Tensor, " examples"], dict[str, object]]:
    """Predicted change of a target if each example is left out, in the target's unit, and how the system was solved.

    Args:
        model: Where gradients and curvature are taken, without augmentation, in eval mode.
        examples: How many examples there are.
        target: Name of a target of the model.
        layers: `all` trainable parameters, or only those of the linear layer that makes the logits, `head`.
        curvature: `gauss_newton` or `hessian`, of the mean loss.
        damping: Added to the diagonal of the curvature matrix.
        decay: Weight decay of each parameter, such as `model.weight_decay()`; None for none.
        solver: How the system is solved; by default by conjugate gradients.

    Returns:
        One change per example, above 0 where leaving it out makes the target rise; and diagnostics of the solution by name.

    Raises:
        UsageError: No trainable linear layer makes the logits, or too many parameters for the whole matrix; or the losses cannot be differentiated as often as
            needed; or a parameter has no Kronecker factors.
        ValueError: The matrix is not positive definite, or the solver did not converge; the message says what helps.
    """
    names = chosen_params(model, layers, "influence")
    here = {name: model.params[name] for name in names}
    pulls, solver = decay or {}, solver or Solver()
    rtol = solver.rtol
    added = {name: pulls[name].factor if name in pulls and pulls[name].coupled else 0.0 for name in names}
    gradient = model.target(target)
    right = _row({name: gradient[name] for name in names})
    diagonal = _row({name: torch.full_like(value, added[name]) for name, value in here.items()})

    def matvec(v: Tensor) -> Tensor:
        (image,) = _products(model, [unflatten(v, here)], curvature)
        return image / examples + diagonal * v

    diagnostics: dict[str, object]
    if solver.kind == "cholesky":
        v, diagnostics = _dense(model, here, curvature, examples, diagonal, right, damping)
    else:
        near = _kronecker(model, here, examples, damping, added) if solver.preconditioner == "kronecker" else None
        found = conjugate_gradients(matvec, right, most=solver.iterations, damping=damping, rtol=rtol, precondition=near)
        if found.residual > rtol:
            raise ValueError(
                f"conjugate gradients came to a residual of {found.residual:.2g} in {found.iterations} iterations, not to rtol={rtol:g}; choose a "
                f"damping above {damping:g}, which needs fewer of them, or more iterations"
            )
        v, diagnostics = found.x, {"iterations": found.iterations}
        if found.iterations:
            diagnostics["smallest curvature"] = found.curvature
    size = float(right.norm())
    residual = float((right - matvec(v) - damping * v).norm()) / size if size else 0.0
    # Also NaN, which no comparison holds of.
    if not residual <= LOST:
        raise ValueError(
            f"the solution leaves a residual of {residual:.2g}, because products in {next(iter(here.values())).dtype} have no more digits; choose a "
            f"damping above {damping:g}"
        )
    values, backends, along = torch.zeros(examples, dtype=torch.float64), set[str](), unflatten(v, here)
    for batch in model.batches():
        dots, backend = batch.grad_dots(along)
        values[batch.positions] = dots.to("cpu", torch.float64) / examples
        backends.add(backend)
    kinds = sorted(
        {f"{pull.factor:g}, {'' if pull.coupled else 'not '}in the matrix" for name, pull in pulls.items() if name in here}
    )
    return values, {
        "residual": residual,
        **diagnostics,
        "damping": damping,
        "weight decay": "; ".join(kinds) or "none",
        "parameters": len(right),
        **derivatives_taken(backends),
    }


def _row(params: Params) -> Float[Tensor, " entries"]:
    return flatten({name: value.detach().to("cpu", torch.float64) for name, value in params.items()})


def _products(model: Model, directions: Sequence[Params], curvature: str) -> list[Tensor]:
    """Curvature of the sum of the losses times each direction, in one pass over the examples."""
    totals: list[Tensor] = []
    for batch in model.batches():
        product: Callable[[Params], Params] = getattr(batch, FORMS[curvature])
        parts = [_row(product(direction)) for direction in directions]
        totals = [total + part for total, part in zip(totals, parts, strict=True)] if totals else parts
    return totals


def _kronecker(
    model: Model, here: Params, examples: int, damping: float, added: Mapping[str, float]
) -> Callable[[Tensor], Tensor]:
    """Multiplication by the inverse of the curvature as Kronecker factors of the examples' own gradients have it."""
    try:
        pairs = (pair for batch in model.batches() for pair in batch.layer_pairs(tuple(here)))
        inverse = kronecker_inverse(
            eigenbasis(kronecker_factors(pairs, examples)), {name: damping + factor for name, factor in added.items()}
        )
    except ValueError as error:
        raise UsageError(f"influence: preconditioner=kronecker: {str(error).rstrip('.')}; choose preconditioner=none.") from error
    like = {name: value.to("cpu", torch.float64) for name, value in here.items()}
    return lambda row: flatten(inverse(unflatten(row, like)))


def _dense(
    model: Model, here: Params, curvature: str, examples: int, diagonal: Tensor, right: Tensor, damping: float
) -> tuple[Tensor, dict[str, object]]:
    """The solution by the whole matrix, and its smallest eigenvalue."""
    if len(right) > DENSE:
        raise UsageError(
            f"influence: solver=cholesky makes a matrix of {len(right):,} x {len(right):,} entries, of which {DENSE:,} x {DENSE:,} are the most; choose "
            "solver=cg, or layers=head."
        )
    unit = torch.eye(len(right), dtype=torch.float64)
    matrix = torch.stack(_products(model, [unflatten(row, here) for row in unit], curvature)) / examples
    matrix = (matrix + matrix.T) / 2 + torch.diag(diagonal + damping)
    if not bool(matrix.isfinite().all()):
        raise ValueError("the curvature of the loss is not finite; look for NaN and overflow in the model")
    least = float(torch.linalg.eigvalsh(matrix)[0])
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed) or not least > 0:
        raise ValueError(
            f"the matrix is not positive definite: with damping {damping:g} its smallest eigenvalue is {least:.3g}; give a damping above "
            f"{damping - 2 * min(least, 0.0) or 1e-6:.2g}"
        )
    return torch.cholesky_solve(right[:, None], lower)[:, 0], {"iterations": 0, "smallest curvature": least}


@dataclasses.dataclass(frozen=True)
class Influence(AbstractMethod):
    """Predicted change of the target if the example's loss is taken out of the objective: above 0 it helps, below 0 it harms.

    Args:
        target: The target whose change is predicted.
        at: The epoch at whose end the model is taken, counted from 0; -1 is the last that was kept.
        layers: `all` trainable parameters, or those of the linear layer that makes the logits, `head`, as if the other parameters were fixed.
        curvature: `gauss_newton`, which has no negative eigenvalue where the loss is convex in the outputs, or `hessian`.
        damping: Added to the diagonal of the curvature matrix of the mean loss, as it is: larger damping is more stable, and makes the values
            smaller.
        decay: The `recorded` weight decay of the optimizer is added too, where it is a part of what is minimised (SGD, Adam, not AdamW), or `none`.
        solver: `cg`, conjugate gradients; or `cholesky`, which builds the whole matrix, for at most 2,048 parameters.
        preconditioner: `none`, or for conjugate gradients `kronecker`, K-FAC's factors of each layer. The values stay the same. It saves iterations
            where the inputs of a layer have very different sizes, and costs some where they are alike.
        iterations: Largest number of iterations of conjugate gradients; each takes a pass over the examples.
        rtol: Residual, relative to the target's gradient, at which conjugate gradients stop.
    """

    target: str = "validation"
    at: int = -1
    layers: Literal["all", "head"] = "all"
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    damping: float = 0.01
    decay: Literal["recorded", "none"] = "recorded"
    solver: Literal["cg", "cholesky"] = "cg"
    preconditioner: Literal["none", "kronecker"] = "none"
    iterations: int = 1000
    rtol: float = RTOL
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
        if self.at < -1:
            raise UsageError(f"{self.title}: at={self.at} is outside -1..; give an epoch counted from 0, or -1 for the last.")
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise UsageError(f"{self.title}: damping={self.damping} is not a number from 0 on.")
        if self.iterations < 1:
            raise UsageError(f"{self.title}: iterations={self.iterations} is below 1.")
        if not 0 < self.rtol < 1:
            raise UsageError(f"{self.title}: rtol={self.rtol} is outside 0..1, both excluded.")
        for field in dataclasses.fields(self):
            unread = self.solver == "cholesky" and field.name in ("preconditioner", "iterations", "rtol")
            if unread and getattr(self, field.name) != field.default:
                raise UsageError(f"{self.title}: {field.name} is not read with solver=cholesky; leave it out.")

    @property
    def asks(self) -> Asks:
        return Asks(targets=(self.target,))

    def run(self, evidence: Evidence) -> Result:
        source = evidence.checkpoints
        model = source.at(source.kept[-1] if self.at == -1 else self.at)
        try:
            values, diagnostics = influence(
                model,
                len(evidence.ids),
                self.target,
                layers=self.layers,
                curvature=self.curvature,
                damping=self.damping,
                decay=model.weight_decay() if self.decay == "recorded" else None,
                solver=Solver(self.solver, self.preconditioner, self.iterations, self.rtol),
            )
        except UsageError:
            raise
        except ValueError as error:
            instead = ", or choose curvature=gauss_newton" if self.curvature == "hessian" else ""
            raise NumericalError(f"{self.title}: {error}{instead}.") from error
        return Result(values, diagnostics=diagnostics)
