r"""GraNd: norm of the example's loss gradient, early in training.

$$ \mathrm{GraNd}_i = \lVert \nabla_\theta \ell_i(\theta_e) \rVert_2 $$
"""

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.method import AbstractMethod, Source, derivatives_taken
from ..core.models import Model, chosen_params
from ..core.needs import Need
from ..core.results import Result
from ..core.scores import Direction


def grand(checkpoint: Model, examples: int, layers: str = "all", backends: set[str] | None = None) -> Float[Tensor, " examples"]:
    """Norm of each example's loss gradient at one model, without augmentation, in eval mode.

    Args:
        checkpoint: The kept model at which gradients are taken.
        examples: How many examples there are.
        layers: `all` trainable parameters, or only those of the linear layer that makes the logits, `head`.
        backends: A set to which the names of the backends that computed the derivatives are added.

    Returns:
        One per example, at least 0, in losses per unit of the parameters.

    Raises:
        UsageError: No trainable linear layer makes the logits.
    """
    names = chosen_params(checkpoint, layers, "grand")
    values = torch.zeros(examples, dtype=torch.float64)
    for batch in checkpoint.batches():
        grad_sq_norms, backend = batch.grad_sq_norms(names)
        values[batch.positions] = grad_sq_norms.to("cpu", torch.float64).sqrt()
        if backends is not None:
            backends.add(backend)
    return values


@dataclasses.dataclass(frozen=True)
class GraNd(AbstractMethod):
    """High GraNd marks examples that would move the model most: hard ones, and wrong ones.

    Args:
        at: The epoch at whose end the model is taken, counted from 0; -1 is the last recorded one.
        layers: Gradient with respect to `all` parameters, or to those of the linear layer that makes the logits, `head` (the DeepCore form).
    """

    at: int = -1
    layers: Literal["all", "head"] = "all"
    name: ClassVar[str] = "grand"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS})
    direction: ClassVar[Direction] = Direction.HIGH_IS_HARD
    unit: ClassVar[str] = "loss per parameter"
    source: ClassVar[Source] = Source(
        "Paul et al. 2021, definition 2.1",
        "https://arxiv.org/abs/2107.07075",
        "a mean over models where a recording has several, as the paper's ten initial ones, else of one",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.at < -1:
            raise UsageError(f"{self.title}: at={self.at} is outside -1..; give an epoch counted from 0, or -1 for the last.")

    def run(self, evidence: Evidence) -> Result:
        source, backends = evidence.checkpoints, set[str]()
        model = source.at(source.kept[-1] if self.at == -1 else self.at)
        values = grand(model, len(evidence.ids), self.layers, backends)
        return Result(values, diagnostics=derivatives_taken(backends))
