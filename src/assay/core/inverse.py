"""The inverse of a kept model's damped curvature: how it is applied, how far it can be trusted, and what it says of examples that are left out."""

import abc
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..maths.damping import balanced_damping
from ..maths.kronecker import LEAST, Eigenbasis, EigenLayer, kronecker_inverse
from ..maths.leverage import Form, left_out, one_direction
from ..maths.solvers import NotPositive, RitzPairs, conjugate_gradients, lanczos, neumann_series
from .curvature import Curvature, Factors, along_rows, flat_rows, rows_of
from .curvature import Kind as CurvatureKind
from .errors import NoGaussNewton, NumericalError, UsageError, listed
from .evidence import Evidence
from .models import chosen_params

RTOL = 1e-8
"""Residual, as a part of the right-hand side, at which iterations stop by default."""
LOST = 1e-3
"""Residual, computed anew from the solution, above which rounding has taken over; of a low rank, above which a warning says what is left."""
DIGITS = 1e4
"""How many times the last digit of a product, as a part of the largest curvature, a damping must be for a solution to be known to `LOST`."""
DENSE = 5000
"""The most parameters for which the whole matrix is made."""
SPECTRUM = 2048
"""The most parameters for which all eigenvalues of the whole matrix are looked at; of more the smallest is found by iteration."""
RITZ = 50
"""Dimensions of the subspace that tells a damping where there are no Kronecker factors."""
Kind = Literal["cg", "cholesky", "lissa", "lanczos", "ekfac"]
Preconditioner = Literal["auto", "ekfac", "kronecker", "diagonal", "none"]


@dataclasses.dataclass(frozen=True)
class Solver:
    """How (curvature + damping) x = b is solved.

    Attributes:
        kind: `cg`, conjugate gradients; `lissa`, a Neumann series; `cholesky`, which factorises the whole matrix; or the approximations `ekfac` and
            `lanczos`, of low rank.
        preconditioner: Of `cg` and `lissa`: what is near to the inverse; `auto` for EK-FAC where all layers have rules, else the diagonal, else none.
        factors: Of which gradients EK-FAC is made.
        seed: Of the signs of `factors=sampled`.
        iterations: Largest number of iterations of `cg` and `lissa`.
        rtol: Residual, relative to the right-hand side, at which they stop.
        rank: Dimensions of the subspace of `lanczos`.
    """

    kind: Kind = "cg"
    preconditioner: Preconditioner = "auto"
    factors: Factors = "exact"
    seed: int = 0
    iterations: int = 1000
    rtol: float = RTOL
    rank: int = 100


class Inverse(abc.ABC):
    """The inverse of curvature + damping.

    Attributes:
        curvature: The curvature.
        damping: Number added to the diagonal.
        told: Diagnostics of all that was solved so far.
        warnings: What a reader must know of it.
    """

    def __init__(self, curvature: Curvature, damping: float):
        self.curvature, self.damping = curvature, damping
        self.told: dict[str, object] = {"damping": damping}
        self.warnings: tuple[str, ...] = ()

    @abc.abstractmethod
    def solve(self, b: Float64[Tensor, "entries columns"]) -> Float64[Tensor, "entries columns"]:
        """The inverse times each column.

        Raises:
            ValueError: The matrix is not positive definite, or the solution leaves too large a residual; the message says what helps.
        """

    def grams(self) -> Float64[Tensor, "examples outputs outputs"]:
        """J_i A^-1 J_i' of each example."""
        raise NotImplementedError

    def quadratic(self) -> Float64[Tensor, " examples"]:
        """g_i' A^-1 g_i of each example's gradient."""
        raise NotImplementedError

    def cotangents(self, form: Form) -> Float[Tensor, "examples outputs"] | None:
        """The derivatives by the outputs whose first order is what leaving each example out does.

        Returns:
            None for those of the losses.

        Raises:
            ValueError: Without some example there is no curvature left along a direction; names them.
        """
        return None if form == "first_order" else self._left_out(form, self.grams())

    def own(self, form: Form) -> Float64[Tensor, " examples"]:
        """The predicted rise of each example's own loss if it is left out.

        Returns:
            At least 0.

        Raises:
            ValueError: As in `cotangents`, and as in `solve`, by which a mix of all gradients tells the residual.
        """
        try:
            self.solve(self.curvature.mixed_gradient()[:, None])
        except UsageError as error:
            self.told["residual"] = f"not known: {error}"
        if form == "first_order":
            return self.quadratic() / self.curvature.examples
        grams = self.grams()
        both = self.curvature.by_outputs[0].double(), self._left_out(form, grams).double()
        return torch.einsum("nc,ncd,nd->n", both[0], grams, both[1]) / self.curvature.examples

    def _left_out(self, form: Form, grams: Tensor) -> Tensor:
        first, root = (part.double() for part in self.curvature.by_outputs)
        if form == "leverage" and not one_direction(root):
            raise UsageError(
                "form=leverage divides by 1 - leverage, which is what leaving an example out does where its loss curves along one direction of the outputs (one "
                "logit, two classes, one number to predict), and here it curves along more; choose form=newton_step, which is the same there and holds here too."
            )
        found, leverages = left_out(first, root, grams, self.curvature.examples, form)
        self.told["largest leverage"] = float(leverages.max())
        # Also NaN, which no comparison holds of.
        bad = ~(leverages < 1)
        if bool(bad.any()):
            names = self.curvature.ids.take(bad)
            raise ValueError(
                f"without one of {len(names)} examples (ids {listed(names, len(names))}) no curvature is left along some direction: their leverage is up to "
                f"{float(leverages.max()):.3g}; choose a damping above {self._sufficient(root, form):.2g}, or form=first_order"
            )
        return found

    def _sufficient(self, root: Tensor, form: Form) -> float:
        """A damping at which no leverage is above 1 / 2, because A is above it and so M below J_i J_i' over it."""
        own = root.mT @ self._plain() @ root
        sizes = torch.linalg.eigvalsh(own)[:, -1] if form == "newton_step" else own.diagonal(dim1=1, dim2=2).sum(1)
        return max(2 * float(sizes.max()) / self.curvature.examples, self.damping)

    def _plain(self) -> Float64[Tensor, "examples outputs outputs"]:
        """J_i J_i' of each example."""
        raise NotImplementedError

    def _residual(self, x: Tensor, b: Tensor) -> float:
        sizes = b.norm(dim=0)
        off = (b - self.curvature.times(x) - self.damping * x).norm(dim=0)
        return float(torch.where(sizes > 0, off / sizes, 0.0).max())

    def _tell(self, *, residual: float | None = None, iterations: int | None = None, least: float = math.inf) -> None:
        """Keep the worst of all that was solved."""
        told = self.told
        if residual is not None:
            told["residual"] = max(residual, float(told.get("residual", 0.0)))  # type: ignore[arg-type]
        if iterations is not None:
            told["iterations"] = max(iterations, int(told.get("iterations", 0)))  # type: ignore[call-overload]
        if least < math.inf:
            told["smallest curvature"] = min(least, float(told.get("smallest curvature", math.inf)))  # type: ignore[arg-type]

    def _checked(self, x: Tensor, b: Tensor, rtol: float = 0.0) -> float:
        residual = self._residual(x, b)
        # Also NaN, which no comparison holds of. What was asked for is no loss.
        if not residual <= max(LOST, 2 * rtol):
            raise ValueError(
                f"the solution leaves a residual of {residual:.2g}, because products in {self.curvature.dtype} have no more digits; choose a damping above "
                f"{self._sound(*self._ends(b)):.2g}"
            )
        return residual

    def _ends(self, b: Tensor) -> tuple[float, float]:
        """The smallest and the largest curvature, without the damping, nearly."""
        draw = torch.randn(len(b), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        values = lanczos(self.curvature.times, b[:, 0] / b[:, 0].norm().clamp(min=1e-300) + draw / draw.norm(), RITZ).values
        return float(values[0]), float(values[-1])

    def _sound(self, least: float, largest: float) -> float:
        """A damping with which the matrix is positive definite and a solution has digits."""
        return max(self.damping, -2 * least, DIGITS * torch.finfo(self.curvature.dtype).eps * largest)


class Dense(Inverse):
    """By Cholesky's factors of the whole matrix."""

    def __init__(self, curvature: Curvature, damping: float, matrix: Tensor):
        super().__init__(curvature, damping)
        whole = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
        if not bool(whole.isfinite().all()):
            raise ValueError("the curvature of the loss is not finite; look for NaN and overflow in the model")
        self._lower, failed = torch.linalg.cholesky_ex(whole)
        values = torch.linalg.eigvalsh(whole) if bool(failed) or len(whole) <= SPECTRUM else torch.tensor([self._least()])
        least = float(values[0])
        if bool(failed) or not least > 0:
            raise ValueError(
                f"the matrix is not positive definite: with damping {damping:g} its smallest eigenvalue is {least:.3g}; give a damping above "
                f"{self._sound(least - damping, float(values[-1])):.2g}"
            )
        self._tell(iterations=0, least=least)

    def _least(self) -> float:
        vector = torch.randn(len(self._lower), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        size = 1.0
        for _ in range(RITZ):
            vector = torch.cholesky_solve(vector / vector.norm(), self._lower)
            size = float(vector.norm())
        return 1 / size

    def solve(self, b: Tensor) -> Tensor:
        """The inverse times each column."""
        x = torch.cholesky_solve(b, self._lower)
        self._tell(residual=self._checked(x, b))
        return x

    def grams(self) -> Tensor:
        """J_i A^-1 J_i' of each example."""
        return self.curvature.grams(self._half)

    def _plain(self) -> Tensor:
        return self.curvature.grams(lambda rows: rows)

    def quadratic(self) -> Tensor:
        """g_i' A^-1 g_i of each example's gradient."""
        found = torch.zeros(self.curvature.examples, dtype=torch.float64)
        for positions, rows in self.curvature.gradients():
            found[positions] = self._half(rows.T).square().sum(0)
        return found

    def _half(self, rows: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._lower, rows, upper=False)


class Kronecker(Inverse):
    """By EK-FAC, an approximation of the Gauss-Newton matrix."""

    def __init__(self, curvature: Curvature, damping: float, basis: Eigenbasis):
        super().__init__(curvature, damping)
        shift = {name: damping + decay for name, decay in curvature.decay.items()}
        inverse = {matrix: layer.plus(shift) for matrix, layer in basis.layers.items()}
        self._basis, self._factors = basis, {matrix: 1 / part for matrix, part in inverse.items()}
        largest = max(float(part.max()) for part in inverse.values())
        if not largest < math.inf:
            raise ValueError("the curvature of the loss is not finite; look for NaN and overflow in the model")
        least = min(float(part.min()) for part in inverse.values())
        if not least > LEAST * largest:
            raise ValueError(
                f"EK-FAC's matrix has no inverse in double precision: with damping {damping:g} its smallest eigenvalue is {least:.3g}; give a damping "
                f"above {1e-6 * largest or 1e-6:.2g}"
            )
        self._tell(iterations=0, least=least)

    def _spectrum(self, layer: EigenLayer) -> Tensor:
        return self._factors[layer.matrix]

    def solve(self, b: Tensor) -> Tensor:
        """The approximation's inverse times each column.

        Residuals are those in the system that is approximated: of all columns where the examples' derivatives are kept in memory, and else of the first,
        because each would cost a pass over the examples.

        Returns:
            As many as were given.
        """
        x = flat_rows(self._basis.times(self._spectrum, rows_of(b, self.curvature.like)), self.curvature.names).T
        seen = b.shape[1] if self.curvature.jacobian is not None else 1
        if seen < b.shape[1]:
            self.told["residual of"] = "the first query of each block"
        self._tell(residual=(left := self._residual(x[:, :seen], b[:, :seen])))
        # Of a solution of 0 it is 1.
        if not left <= 1:
            self.warnings = (
                f"EK-FAC stands in the place of the curvature, and its solution leaves a residual of {self.told['residual']:.2g} of the right-hand side, where 0 leaves "
                "1: trust the order of these values and not their size; solver=cholesky, or cg where there is one, solves for the curvature itself, and a larger damping "
                "brings both together.",
            )
        return x

    def grams(self) -> Tensor:
        """J_i A^-1 J_i' of each example."""
        return self.curvature.grams_in(self._basis, self._spectrum)

    def _plain(self) -> Tensor:
        return self.curvature.grams_in(self._basis, lambda layer: torch.ones_like(layer.values))

    def quadratic(self) -> Tensor:
        """g_i' A^-1 g_i of each example's gradient."""
        return self.curvature.quadratic_in(self._basis, self._spectrum)


class Iterated(Inverse):
    """By products with the matrix: conjugate gradients, or a Neumann series."""

    def __init__(self, curvature: Curvature, damping: float, solver: Solver, near: Callable[[Tensor], Tensor] | None):
        super().__init__(curvature, damping)
        self._solver, self._near = solver, near

    def solve(self, b: Tensor) -> Tensor:
        """The inverse times each column."""
        solver = self._solver
        by = conjugate_gradients if solver.kind == "cg" else neumann_series
        try:
            found = by(
                self.curvature.times, b, most=solver.iterations, damping=self.damping, rtol=solver.rtol, precondition=self._near
            )
        except NotPositive as error:
            raise ValueError(
                f"the matrix is not positive definite: with damping {self.damping:g} its curvature along a direction is {error.curvature:.3g}; give a damping "
                f"above {self._reached(*self._ends(b)):.2g}"
            ) from error
        # Also NaN, which no comparison holds of.
        if not found.residual <= solver.rtol:
            words = "conjugate gradients" if solver.kind == "cg" else "the Neumann series"
            other = "" if solver.kind == "cg" else ", or solver=cg, which needs far fewer"
            least, largest = self._ends(b)
            reached = self._reached(least, largest)
            nothing = "" if reached < largest else " but is above all curvature, so that little is left of it"
            raise ValueError(
                f"{words} came to a residual of {found.residual:.2g} in {found.iterations} iterations, not to rtol={solver.rtol:g}; give more iterations{other}, "
                f"or choose a damping above {reached:.2g}, which needs fewer{nothing}"
            )
        self._tell(residual=self._checked(found.x, b, solver.rtol), iterations=found.iterations, least=found.curvature)
        return found.x

    def _reached(self, least: float, largest: float) -> float:
        """A sound damping with which the iterations reach rtol, given the ends of the curvature."""
        # The largest part of a condition that may be left: of the residual remains less than 2 sqrt(c) ((sqrt(c) - 1) / (sqrt(c) + 1))^k by conjugate
        # gradients, (1 - 1 / c)^k by a Neumann series, which may spend some steps on finding a length.
        most, rtol = self._solver.iterations, self._solver.rtol
        if self._solver.kind == "cg":
            left = (rtol / 8) ** (1 / most)
            condition = min(((1 + left) / (1 - left)) ** 2, DIGITS)
        else:
            condition = 1 / (1 - (rtol / 2) ** (1 / max(most / 2 - 1, 1)))
        if self._near is not None:
            # Of the matrix and of what is near to it together.
            condition = condition**0.5
        return max((largest - condition * least) / (condition - 1), self._sound(least, largest))


class LowRank(Inverse):
    """By Ritz pairs: what lies outside of their subspace is dropped."""

    def __init__(self, curvature: Curvature, damping: float, pairs: RitzPairs):
        super().__init__(curvature, damping)
        self._pairs = pairs
        least = float(pairs.values[0]) + self.damping
        if not least > 0:
            raise ValueError(
                f"the matrix is not positive definite: with damping {self.damping:g} its curvature along a direction is {least:.3g}; give a damping above "
                f"{self._sound(float(pairs.values[0]), float(pairs.values[-1])):.2g}"
            )
        self.told["rank"] = len(pairs.values)
        self._tell(iterations=len(pairs.values), least=least)

    def solve(self, b: Tensor) -> Tensor:
        """The inverse times each column, within the subspace."""
        vectors = self._pairs.vectors
        x = vectors @ ((vectors.T @ b) / (self._pairs.values + self.damping)[:, None])
        residual = self._residual(x, b)
        self._tell(residual=residual)
        if not residual <= LOST:
            self.warnings = (
                f"A subspace of {len(self._pairs.values)} dimensions leaves a residual of {self.told['residual']:.2g} of the right-hand side, which is dropped; "
                "choose a larger rank, or solver=cg.",
            )
        return x


@contextlib.contextmanager
def worded(title: str, kind: str) -> Iterator[None]:
    """Turn what solvers refuse into an error that names the method.

    Args:
        title: The method.
        kind: The curvature, where the method has a choice; else empty.

    Raises:
        NumericalError: A solver refused, and says what helps.
        UsageError: What was asked for cannot be computed.
    """
    try:
        yield
    except NoGaussNewton as error:
        other = " Or choose curvature=hessian with solver=cg." if kind == "gauss_newton" else ""
        raise UsageError(f"{title}: {error}{other}") from error
    except UsageError:
        raise
    except ValueError as error:
        instead = ", or choose curvature=gauss_newton" if kind == "hessian" else ""
        raise NumericalError(f"{title}: {error}{instead}.") from error


def check_options(title: str, at: int, damping: float | str, factors: Factors, seed: int) -> None:
    """Refuse options of a method that reads an inverse.

    Args:
        title: Title of the method, for messages.
        at: The epoch, counted from 0; -1 for the last kept model.
        damping: A number, or `auto`.
        factors: As in `factor_pairs`.
        seed: Of the signs of `sampled`.

    Raises:
        UsageError: A value is outside its range, or a seed is not read.
    """
    if at < -1:
        raise UsageError(f"{title}: at={at} is outside -1..; give an epoch counted from 0, or -1 for the last.")
    if isinstance(damping, (int, float)) and not (math.isfinite(damping) and damping >= 0):
        raise UsageError(f"{title}: damping={damping} is not a number from 0 on; give one, or auto.")
    if seed and factors != "sampled":
        raise UsageError(f"{title}: seed is not read with factors={factors}; leave it out.")


def curvature_of(reader: str, evidence: Evidence, at: int, layers: str, kind: CurvatureKind, decay: str) -> tuple[Curvature, str]:
    """The curvature of one kept model by chosen parameters.

    Args:
        reader: Who asks, for messages.
        evidence: With the kept models.
        at: The epoch, counted from 0; -1 for the last kept model.
        layers: As in `chosen_params`.
        kind: The Gauss-Newton matrix or the Hessian.
        decay: `recorded`, the weight decay of the optimizer where it is a part of what is minimised; or `none`.

    Returns:
        The curvature, and the weight decay in words.

    Raises:
        UsageError: There are no such parameters, or what the optimizer does with its weight decay is not known.
    """
    source = evidence.checkpoints
    model = source.at(source.kept[-1] if at == -1 else at)
    names = chosen_params(model, layers, reader)
    pulls = {name: pull for name, pull in model.weight_decay().items() if name in names} if decay == "recorded" else {}
    kinds = sorted({f"{pull.factor:g}, {'' if pull.coupled else 'not '}in the matrix" for pull in pulls.values()})
    coupled = {name: pull.factor for name, pull in pulls.items() if pull.coupled}
    return Curvature(model, names, evidence.ids, kind, coupled, source), "; ".join(kinds) or "none"


def inverse_of(
    reader: str, curvature: Curvature, solver: Solver, damping: float | None, target: Float64[Tensor, " entries"] | None = None
) -> Inverse:
    """The inverse of a curvature plus a damping.

    Args:
        reader: Who asks, for messages.
        curvature: The curvature.
        solver: How systems are solved.
        damping: Number added to the diagonal; None for `balanced_damping` of the target's gradient, or of the examples' own.
        target: Gradient of the target; None for the examples' own.

    Returns:
        What solves, and says how well.

    Raises:
        UsageError: Too many parameters for the whole matrix, or what was asked for needs layers with rules.
        NoGaussNewton: The losses are no function of what the model returns.
        ValueError: The matrix is not positive definite, or not finite; the message says what helps.
    """
    if solver.kind == "cholesky":
        if len(curvature) > DENSE:
            raise UsageError(
                f"{reader}: solver=cholesky makes a matrix of {len(curvature):,} x {len(curvature):,} entries, of which {DENSE:,} x {DENSE:,} are the most; "
                "choose another solver, or layers=head."
            )
        matrix = curvature.matrix()
        return Dense(curvature, _in_matrix(curvature, matrix, target) if damping is None else damping, matrix)
    if solver.kind == "lanczos":
        assert target is not None
        pairs = lanczos(curvature.times, target, solver.rank)
        return LowRank(curvature, balanced_damping(pairs.values, pairs.weights) if damping is None else damping, pairs)
    basis: Eigenbasis | None = None
    if solver.kind == "ekfac":
        try:
            basis = curvature.eigenbasis(solver.factors, solver.seed)
        except NoGaussNewton:
            raise
        except (UsageError, ValueError) as error:
            raise UsageError(
                f"{reader}: solver=ekfac: {str(error).rstrip('.')}; choose solver=cholesky, for at most {DENSE:,} parameters, or, for the influence on a target, solver=cg."
            ) from error
        return Kronecker(curvature, _in_basis(curvature, basis, target) if damping is None else damping, basis)
    return _iterated(reader, curvature, solver, damping, target)


def _iterated(reader: str, curvature: Curvature, solver: Solver, damping: float | None, target: Tensor | None) -> Inverse:
    kind, why = solver.preconditioner, ""
    basis: Eigenbasis | None = None
    if kind in ("auto", "ekfac", "kronecker"):
        try:
            basis = curvature.kfac() if kind == "kronecker" else curvature.eigenbasis(solver.factors, solver.seed)
            kind = "kronecker" if kind == "kronecker" else "ekfac"
        except (UsageError, ValueError) as error:
            if isinstance(error, NoGaussNewton) and curvature.kind == "gauss_newton":
                raise
            why = str(error).rstrip(".")
            if kind != "auto":
                raise UsageError(f"{reader}: preconditioner={kind}: {why}; choose preconditioner=none.") from error
            kind = "diagonal"
    diagonal: Tensor | None = None
    if kind == "diagonal":
        try:
            diagonal = curvature.diagonal()
        except UsageError as error:
            if isinstance(error, NoGaussNewton) and curvature.kind == "gauss_newton":
                raise
            if solver.preconditioner == "diagonal":
                raise UsageError(
                    f"{reader}: preconditioner=diagonal: {str(error).rstrip('.')}; choose preconditioner=none."
                ) from error
            kind = "none"
    if damping is None:
        assert target is not None
        if basis is not None:
            damping = _in_basis(curvature, basis, target)
        else:
            pairs = lanczos(curvature.times, target, RITZ)
            damping = balanced_damping(pairs.values, pairs.weights)
    near: Callable[[Tensor], Tensor] | None = None
    if basis is not None:
        near = _by_factors(curvature, basis, damping)
    elif diagonal is not None:
        whole = diagonal + damping
        inverse = 1 / whole.clamp(min=LEAST * float(whole.max()) or 1.0)
        near = functools.partial(along_rows, inverse)
    found = Iterated(curvature, damping, solver, near)
    found.told["preconditioner"] = f"{kind}, because {why[:1].lower()}{why[1:]}" if why else kind
    return found


def _by_factors(curvature: Curvature, basis: Eigenbasis, damping: float) -> Callable[[Tensor], Tensor]:
    inverse = kronecker_inverse(basis, {name: damping + decay for name, decay in curvature.decay.items()})

    def near(v: Tensor) -> Tensor:
        return flat_rows(inverse(rows_of(v, curvature.like)), curvature.names).T.reshape(v.shape)

    return near


def _in_matrix(curvature: Curvature, matrix: Tensor, target: Tensor | None) -> float:
    """The balanced damping of the whole matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    if target is not None:
        return balanced_damping(values, (vectors.T @ target).square())
    return balanced_damping(values, sum((rows @ vectors).square().sum(0) for _, rows in curvature.gradients()))


def _in_basis(curvature: Curvature, basis: Eigenbasis, target: Tensor | None) -> float:
    """The balanced damping of EK-FAC."""
    values = [
        layer.values + sum(curvature.decay[name] for name in matrix.names) / len(matrix.names)
        for matrix, layer in basis.layers.items()
    ]
    if target is None:
        squares = [layer.values for layer in curvature.own_spectrum(basis).layers.values()]
    else:
        squares = [part[0].square() for part in basis.turned(rows_of(target, curvature.like))]
    return balanced_damping(torch.cat([part.flatten() for part in values]), torch.cat([part.flatten() for part in squares]))
