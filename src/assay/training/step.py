"""One training step, in the parts that a replay or a derivative takes apart: forward, loss, update, average."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..core.errors import UsageError
from .recipe import Recipe


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name, each once.

    Raises:
        UsageError: There is none.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise UsageError("The model has no trainable parameter; set requires_grad on what should learn.")
    return found


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimizer over the trainable parameters. The rate is set at each `update`."""
    parameters = list(trainable(model).values())
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            dampening=recipe.dampening,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay)


def example_losses(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Cross-entropy of each example with its given label, in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def batch_loss(
    losses: Float[Tensor, " batch"], weights: Float[Tensor, " batch"] | None = None, divisor: float | None = None
) -> Float[Tensor, ""]:
    """Mean over the batch of weight times loss.

    The divisor is the size of the batch whatever the weights, so an example of weight 0 is taken out without
    making the others count more; unless another `divisor` is given.
    """
    return (losses if weights is None else losses * weights.to(losses.dtype)).sum() / (divisor or len(losses))


def update(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], rate: float, clip: float | None = None) -> None:
    """Gradients of the loss, scaled down to a norm of `clip` if they are longer, then one optimizer step at this rate."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def average(averages: dict[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    """Let running averages follow the parameters after a step, in place: decay * average + (1 - decay) * parameter.

    Args:
        averages: By name; empty before the first step, which copies the parameters.
        params: After the step.
        decay: Between 0 and 1.
    """
    if not averages:
        averages.update({name: value.detach().clone() for name, value in params.items()})
        return
    # torch's own, so that the average of an AveragedModel is repeated to the bit.
    get_ema_multi_avg_fn(decay)(list(averages.values()), [params[name].detach() for name in averages], 0)
