r"""Self-influence: by how much an example's own loss would rise had the example been left out and training continued to the optimum near the last model.

$$ s_i = \frac1n \nabla \ell_i(\theta)^\top (G + \delta I + \Lambda)^{-1} \nabla \ell_i(\theta) $$

with the curvature, damping and weight decay of `influence`. It is high for examples that the model could not predict from the others: wrong labels, and rare ones.
"""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float64
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.inverse import Inverse, Solver, check_options, curvature_of, inverse_of, worded
from ..core.method import AbstractMethod, Source, derivatives_taken
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction
from ..maths.leverage import Form


def self_influence(inverse: Inverse, form: Form = "first_order") -> Float64[Tensor, " examples"]:
    """Predicted rise of each example's own loss if the example is left out.

    Args:
        inverse: Inverse of the damped curvature of the mean loss.
        form: As in `influence`.

    Returns:
        At least 0, in losses.

    Raises:
        ValueError: Nothing is left without some example; the message says what helps.
    """
    return inverse.own(form)


@dataclasses.dataclass(frozen=True)
class SelfInfluence(AbstractMethod):
    """High for examples whose loss would rise most without them: wrong labels, and rare or hard ones.

    Args:
        at: The epoch at whose end the model is taken, counted from 0; -1 is the last that was kept.
        layers: `all` trainable parameters; or those of some layers, as if the other parameters were fixed: `head`, the linear layer that makes the logits, or
            names of modules joined by `+`.
        damping: Added to the diagonal of the Gauss-Newton matrix of the mean loss, as it is. `auto`: the damping that carries a fifth of the
            examples' gradients (`maths.damping`).
        decay: The `recorded` weight decay of the optimizer is added too, where it is a part of what is minimised (SGD, Adam, not AdamW), or `none`.
        solver: `ekfac`, an approximation of the matrix by Kronecker factors of each layer; or `cholesky`, the whole matrix, for at most 5,000 parameters.
        factors: Of which gradients EK-FAC is made: `exact`, a backward pass for each output, `sampled`, one for a mix of them by random signs, or `empirical`, the
            losses' own.
        seed: Of the signs of `factors=sampled`.
        form: `first_order` in the weight of the example; one `newton_step` without it; or the first order divided by 1 - `leverage`, where the loss curves along
            one direction of the outputs (one logit, two classes): the same as the Newton step there.
    """

    at: int = -1
    layers: str = "all"
    damping: float | Literal["auto"] = 0.01
    decay: Literal["recorded", "none"] = "recorded"
    solver: Literal["ekfac", "cholesky"] = "ekfac"
    factors: Literal["exact", "sampled", "empirical"] = "exact"
    seed: int = 0
    form: Literal["first_order", "newton_step", "leverage"] = "first_order"
    name: ClassVar[str] = "self_influence"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_SUSPECT
    unit: ClassVar[str] = "rise of the example's own loss"
    source: ClassVar[Source] = Source(
        "Koh and Liang 2017, section 2",
        "https://arxiv.org/abs/1703.04730",
        "the sign is that of leaving the example out, divided by n; Gauss-Newton's matrix; weight decay is in the matrix and not in an example's gradient; "
        "batch statistics stay as they are",
    )

    def __post_init__(self):
        super().__post_init__()
        check_options(self.title, self.at, self.damping, self.factors, self.seed)
        if self.factors != "exact" and self.solver != "ekfac":
            raise UsageError(f"{self.title}: factors is not read with solver={self.solver}; leave it out.")

    def run(self, evidence: Evidence) -> Result:
        curvature, decay = curvature_of(self.name, evidence, self.at, self.layers, "gauss_newton", self.decay)
        solver = Solver(self.solver, factors=self.factors, seed=self.seed)
        with worded(self.title, ""):
            inverse = inverse_of(self.name, curvature, solver, None if self.damping == "auto" else self.damping)
            values = self_influence(inverse, self.form)
        told = {"weight decay": decay, "parameters": len(curvature), **derivatives_taken(curvature.backends)}
        return Result(values, diagnostics=inverse.told | told, warnings=inverse.warnings)
