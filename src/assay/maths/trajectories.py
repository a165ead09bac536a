r"""Optimizer steps and their adjoints: how a change of the state after a step goes back to the state before it.

A step takes the gradient g of the batch's loss at theta and the optimizer's buffers B to theta' and B'. Backwards, with lambda and
beta the derivatives of the target with respect to theta and B, everything that reaches theta through the loss passes through one vector,
gamma = d target / d g, so that

    d target / d w_i = <gamma, d g / d w_i>          lambda = (what does not pass through the loss) + H gamma

with H the Hessian of the batch's loss. `maths.derivatives` gives the inner products of the examples' gradients with gamma, `maths.curvature` H gamma.

Source: Hara et al. 2019 for plain SGD; the other optimizers are differentiated from torch.optim's own steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .params import Params, dot, norm

Rates = Mapping[str, float]
Buffers = Mapping[str, Params]
"""By slot, as torch.optim names it, then by parameter."""


@dataclasses.dataclass(frozen=True)
class Back:
    """A step's adjoint, apart from what passes through the loss.

    Attributes:
        gamma: d target / d gradient of the batch's loss, by parameter.
        params: d target / d params before the step, without H gamma.
        buffers: d target / d buffers before the step.
    """

    gamma: dict[str, Tensor]
    params: dict[str, Tensor]
    buffers: dict[str, dict[str, Tensor]]


@runtime_checkable
class Update(Protocol):
    """One optimizer's step, backwards; training itself takes the steps of torch.optim."""

    @property
    def linear(self) -> bool:
        """Whether the step is linear in gradient and buffers, so that `back` does not look at their values."""
        ...

    def back(
        self, after: Params, carried: Buffers, params: Params, gradients: Params, buffers: Buffers, rates: Rates, count: int
    ) -> Back:
        """The adjoint of a step.

        Args:
            after: d target / d params after the step.
            carried: d target / d buffers after the step; slots that nothing depends on yet may be left out.
            params: Parameters before the step.
            buffers: Buffers of the optimizer before the step.
            gradients: Gradients of the batch's loss, as the step used them.
            rates: Learning rate of each parameter.
            count: Number of the step, from 0.
        """
        ...


@dataclasses.dataclass(frozen=True)
class SGDUpdate(Update):
    """torch.optim.SGD.

    g = gradient + decay * theta; v' = momentum * v + (1 - dampening) * g (v' = g in the first step); theta' = theta - rate * v', or
    theta - rate * (g + momentum * v') with Nesterov.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    decay: float = 0.0

    @property
    def linear(self) -> bool:
        return True

    def back(
        self, after: Params, carried: Buffers, params: Params, gradients: Params, buffers: Buffers, rates: Rates, count: int
    ) -> Back:
        gamma, before, held = {}, {}, {}
        for name, adjoint in after.items():
            moved = -rates[name] * adjoint
            if not self.momentum:
                gamma[name] = moved
            else:
                nu = carried["momentum_buffer"][name] if carried else torch.zeros_like(adjoint)
                bar = nu + (self.momentum * moved if self.nesterov else moved)
                gamma[name] = (1.0 if count == 0 else 1 - self.dampening) * bar + (moved if self.nesterov else 0)
                held[name] = torch.zeros_like(adjoint) if count == 0 else self.momentum * bar
            before[name] = adjoint + self.decay * gamma[name]
        return Back(gamma, before, {"momentum_buffer": held} if self.momentum else {})


@dataclasses.dataclass(frozen=True)
class AdamUpdate(Update):
    """torch.optim.Adam, or AdamW with `decoupled`.

    g = gradient + decay * theta (Adam); m' = b1 m + (1 - b1) g; v' = b2 v + (1 - b2) g^2; with k = count + 1,
    m^ = m' / (1 - b1^k) and v^ = v' / (1 - b2^k): theta' = theta - rate * m^ / (sqrt(v^ + root) + eps), theta multiplied by 1 - rate * decay
    before (AdamW). Where v^ + root is 0 the derivative of its square root is taken to be 0.

    Attributes:
        root: Added under the square root, 0 in torch; a small one makes the step differentiable everywhere.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0
    decoupled: bool = False
    root: float = 0.0

    @property
    def linear(self) -> bool:
        return False

    def back(
        self, after: Params, carried: Buffers, params: Params, gradients: Params, buffers: Buffers, rates: Rates, count: int
    ) -> Back:
        gamma, before, m_bars, v_bars = {}, {}, {}, {}
        (b1, b2), coupled = self.betas, 0.0 if self.decoupled else self.decay
        for name, adjoint in after.items():
            g = gradients[name] + coupled * params[name]
            m, v = (buffers[slot][name] if count else torch.zeros_like(g) for slot in ("exp_avg", "exp_avg_sq"))
            m_hat, denominator, root = self._fraction(*self._means(m, v, g), count)
            m_after, v_after = (carried[slot][name] if carried else torch.zeros_like(g) for slot in ("exp_avg", "exp_avg_sq"))
            slope = torch.where(root > 0, 1 / (2 * root.clamp(min=torch.finfo(root.dtype).tiny)), 0.0)
            m_bar = m_after - rates[name] * adjoint / (denominator * (1 - b1 ** (count + 1)))
            v_bar = v_after + rates[name] * adjoint * m_hat * slope / (denominator.square() * (1 - b2 ** (count + 1)))
            gamma[name] = (1 - b1) * m_bar + 2 * (1 - b2) * g * v_bar
            m_bars[name], v_bars[name] = b1 * m_bar, b2 * v_bar
            shrunk = adjoint * (1 - rates[name] * self.decay) if self.decoupled else adjoint
            before[name] = shrunk + coupled * gamma[name]
        return Back(gamma, before, {"exp_avg": m_bars, "exp_avg_sq": v_bars})

    def _means(self, m: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        b1, b2 = self.betas
        return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g.square()

    def _fraction(self, m: Tensor, v: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        b1, b2 = self.betas
        under = v / (1 - b2 ** (count + 1)) + self.root
        # The inner choice keeps autograd from the root of 0, whose derivative is infinite.
        root = torch.where(under > 0, torch.where(under > 0, under, 1.0).sqrt(), 0.0)
        return m / (1 - b1 ** (count + 1)), root + self.eps, root


def clipped(gradients: Params, limit: float, soft: float = 0.0) -> dict[str, Tensor]:
    """Gradients scaled down together so that their common norm is at most `limit`.

    The factor is min(1, limit / (norm + soft)); torch's clip_grad_norm_ has soft = 1e-6.

    Returns:
        By the same names; in the unit of the gradients.
    """
    factor = limit / (norm(gradients) + soft)
    return {name: value * factor if factor < 1 else value for name, value in gradients.items()}


def clip_back(gamma: Params, gradients: Params, limit: float, soft: float = 0.0) -> dict[str, Tensor]:
    """The adjoint of `clipped`: d target / d gradients from d target / d clipped gradients."""
    size = norm(gradients)
    factor = limit / (size + soft)
    if not factor < 1:
        return dict(gamma)
    pull = factor * dot(gradients, gamma) / (size * (size + soft))
    return {name: factor * gamma[name] - pull * value for name, value in gradients.items()}


def average_back(
    after: Params, carried: Params, decay: float, first: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adjoint of a running average: decay * average + (1 - decay) * theta', or theta' itself where there is none yet.

    Args:
        after: d target / d params after the step, apart from what passes through their average.
        carried: d target / d averages after the step.
        decay: Decay of the averages.
        first: Whether the averages started at this step, as a copy of the parameters.

    Returns:
        d target / d params after the step, their average included, and d target / d averages before it.
    """
    kept = 0.0 if first else decay
    whole = {name: value + (1 - kept) * carried[name] for name, value in after.items()}
    return whole, {name: kept * value for name, value in carried.items()}
