r"""What leaving one example out does to a quadratic objective, in the space of its outputs.

With $A$ the curvature of the mean loss of $n$ examples, $J_i$ the derivative of an example's outputs, $f_i$ that of its loss by the outputs and $H_i = R_i R_i^\top$
the second: without the example the curvature is $A - J_i^\top H_i J_i / n$, and by Woodbury's identity

$$ \Big(A - \frac{J_i^\top H_i J_i}{n}\Big)^{-1} J_i^\top f_i = A^{-1} J_i^\top \tilde f_i, \qquad
   \tilde f_i = f_i + R_i \big(n I - R_i^\top M_i R_i\big)^{-1} R_i^\top M_i f_i, \qquad M_i = J_i A^{-1} J_i^\top $$

so that one Newton step is the first order with $\tilde f_i$ in the place of $f_i$. Where $H_i$ has one direction, as with one output or two classes, that divides by
$1 - h_i$, $h_i = \mathrm{tr}(R_i^\top M_i R_i) / n$ the leverage (Cook and Weisberg 1982). With more directions no one number does it: the trace counts them all, and
divides by far too little.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Form = Literal["first_order", "newton_step", "leverage"]
ONE = 1e-6
"""Part of the curvature by the outputs that may lie outside of its first direction for it to be one: more than rounding leaves, less than a class adds."""


def one_direction(root: Float[Tensor, "examples outputs columns"]) -> bool:
    """Whether the curvature by the outputs, R R', has one direction for each example."""
    sizes = torch.linalg.eigvalsh((root.mT @ root).double()).clamp(min=0)
    return bool((sizes.sum(1) - sizes[:, -1] <= ONE * sizes.sum(1)).all())


def left_out(
    first: Float[Tensor, "examples outputs"],
    root: Float[Tensor, "examples outputs columns"],
    grams: Float[Tensor, "examples outputs outputs"],
    examples: int,
    form: Form,
) -> tuple[Float[Tensor, "examples outputs"], Float[Tensor, " examples"]]:
    """The derivatives by the outputs that the first order takes for it to be what leaving the example out does.

    Args:
        first: f of each example.
        root: R of each example.
        grams: M of each example.
        examples: Of how many examples the curvature is the mean.
        form: `newton_step`; `leverage`, where the curvature has `one_direction`; or `first_order`, which changes nothing.

    Returns:
        The derivatives; and the leverage of each example, for `newton_step` the largest eigenvalue of R' M R / n, at and above 1 of which there is
        no curvature left along some direction and the derivatives mean nothing.
    """
    own = root.mT @ grams @ root / examples
    if form == "newton_step":
        leverages = torch.linalg.eigvalsh(own)[:, -1]
        sound = (leverages < 1)[:, None, None]
        rest = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device) - torch.where(sound, own, 0.0)
        moved = root.mT @ (grams @ first[:, :, None]) / examples
        return first + (root @ torch.linalg.solve(rest, moved))[:, :, 0], leverages
    leverages = own.diagonal(dim1=1, dim2=2).sum(1)
    return (first / (1 - leverages)[:, None] if form == "leverage" else first), leverages
