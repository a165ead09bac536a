"""The losses of a step's batch in train mode, differentiated once and, by the matrix of one's choice, twice."""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NoGaussNewton, UsageError
from ..core.steps import Curvature
from ..maths.derivatives import check_twice_differentiable
from ..maths.params import Params, dot
from .functional import Functional


class StepLosses(abc.ABC):
    """Losses of a part of a batch; `total` is the size of the whole, by which their sum is divided in the step.

    Attributes:
        gradients: Of their sum divided by `total`, by the name of each parameter that it reaches.
        seen: BatchNorm's batch statistics (see `Functional.with_statistics`).
        size: How many losses there are.
    """

    gradients: dict[str, Tensor]
    seen: dict[str, list[tuple[float, Tensor]]]
    size: int

    @abc.abstractmethod
    def back(self, gamma: Params, statistics: Sequence[Tensor], *, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """<gamma, gradient of each loss> / total; and by parameter the matrix times gamma, with the derivative of the `statistics` added.

        Args:
            gamma: By the names of `gradients`.
            statistics: Numbers that depend on the parameters through what was `seen`.
            last: Whether this is the last call, which gives its memory back as it goes.

        Raises:
            NotImplementedError, RuntimeError: An operation of the model has no derivative that is needed.
        """


class _Whole(StepLosses):
    """With the Hessian, or with none."""

    def __init__(
        self, functional: Functional, leaves: Params, buffers: Params, batch: Any, total: int, valued: bool, curved: bool
    ):
        self._leaves, self._curved = dict(leaves), curved
        self._values, self.seen = functional.with_statistics(leaves, buffers, batch, valued=valued)
        self._weights, self.size = torch.ones_like(self._values).requires_grad_(), len(self._values)
        first = torch.autograd.grad(
            (self._weights * self._values).sum() / total, list(leaves.values()), create_graph=True, allow_unused=True
        )
        self._graph = {name: value for name, value in zip(leaves, first, strict=True) if value is not None}
        self.gradients = {name: value.detach() for name, value in self._graph.items()}

    def back(self, gamma: Params, statistics: Sequence[Tensor], *, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        product = torch.stack([(self._graph[name] * gamma[name]).sum() for name in self._graph] + [*statistics]).sum()
        check_twice_differentiable(product)
        wanted = [self._weights, *(self._leaves.values() if self._curved else ())]
        slope, *rest = torch.autograd.grad(product, wanted, retain_graph=not last, materialize_grads=True)
        return slope, dict(zip(self._leaves, rest, strict=bool(rest)))


class _Fisher(_Whole):
    """With the mean of g_i g_i', where g_i is the gradient of an example's loss in its batch, without the example's weight."""

    def __init__(self, functional: Functional, leaves: Params, buffers: Params, batch: Any, total: int, valued: bool):
        super().__init__(functional, leaves, buffers, batch, total, valued, curved=False)
        self._factors = functional.factors(batch).to(self._values)

    def back(self, gamma: Params, statistics: Sequence[Tensor], *, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        slope, _ = super().back(gamma, (), last=False)
        # The losses and the slopes both have the factor, the matrix has it once.
        shares = torch.where(self._factors == 0, 0.0, slope / self._factors)
        moved = torch.stack([(shares * self._values).sum(), *statistics]).sum()
        found = torch.autograd.grad(moved, list(self._leaves.values()), retain_graph=not last, materialize_grads=True)
        return slope, dict(zip(self._leaves, found, strict=True))


class _GaussNewton(StepLosses):
    """With J' H J: what the model returns is differentiated once, and the losses with respect to that twice."""

    def __init__(self, functional: Functional, leaves: Params, buffers: Params, batch: Any, total: int):
        self._leaves = dict(leaves)
        try:
            outputs, apart, values, self.seen = functional.split_with_statistics(leaves, buffers, batch)
        except NoGaussNewton as error:
            raise UsageError(f"{str(error).rstrip('.')}, or choose form=exact.") from error
        if any(
            part is not None
            for part in torch.autograd.grad(values.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
        ):
            raise UsageError(
                "The losses read parameters beside what the model returns, such as a regulariser does, so they are no function of its outputs, "
                "and there is no Gauss-Newton matrix; leave that part to the optimizer's weight_decay, or choose form=exact."
            )
        self._weights, self.size = torch.ones_like(values).requires_grad_(), len(values)
        pull = torch.autograd.grad((self._weights * values).sum() / total, apart, create_graph=True, allow_unused=True)
        read = [place for place, part in enumerate(pull) if part is not None]
        self._pull = [part for part in pull if part is not None]
        self._outputs, self._apart = [outputs[place] for place in read], [apart[place] for place in read]
        held = list(leaves.values())
        first = torch.autograd.grad(
            self._outputs, held, [part.detach() for part in self._pull], retain_graph=True, allow_unused=True
        )
        self.gradients = {name: value for name, value in zip(leaves, first, strict=True) if value is not None}
        # J v is the derivative of <J' c, v> by c.
        self._factors = [torch.zeros_like(part).requires_grad_() for part in self._outputs]
        transposed = torch.autograd.grad(self._outputs, held, self._factors, create_graph=True, allow_unused=True)
        self._transposed = {name: value for name, value in zip(leaves, transposed, strict=True) if value is not None}

    def back(self, gamma: Params, statistics: Sequence[Tensor], *, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        product = dot(self._transposed, {name: gamma[name] for name in self._transposed})
        check_twice_differentiable(product)
        moved = torch.autograd.grad(product, self._factors, retain_graph=True, materialize_grads=True)
        along = torch.stack([(pull * part).sum() for pull, part in zip(self._pull, moved, strict=True)]).sum()
        slope, *curved = torch.autograd.grad(along, [self._weights, *self._apart], retain_graph=True, allow_unused=True)
        if all(part is None for part in curved):
            raise UsageError(
                "The losses are linear in what the model returns, so Gauss-Newton's matrix is 0 everywhere; let the model return its logits, or "
                "choose form=exact."
            )
        pulls = [torch.zeros_like(out) if part is None else part for out, part in zip(self._outputs, curved, strict=True)]
        ends, given = [*self._outputs, *statistics], [*pulls, *(torch.ones_like(one) for one in statistics)]
        found = torch.autograd.grad(ends, list(self._leaves.values()), given, retain_graph=not last, materialize_grads=True)
        return slope, dict(zip(self._leaves, found, strict=True))


def step_losses(
    curvature: Curvature, functional: Functional, leaves: Params, buffers: Params, batch: Any, total: int, valued: bool
) -> StepLosses:
    """The losses of a part of a batch, differentiated once.

    Args:
        curvature: The matrix of their second derivative.
        functional: The model with its losses.
        leaves: The parameters, which are differentiated by.
        buffers: The model's buffers.
        batch: The part.
        total: Size of the whole batch.
        valued: Whether the gradients are read, and not only differentiated again.

    Raises:
        UsageError: There is no such matrix of these losses.
    """
    if curvature == "gauss_newton":
        return _GaussNewton(functional, leaves, buffers, batch, total)
    if curvature == "fisher":
        return _Fisher(functional, leaves, buffers, batch, total, valued)
    return _Whole(functional, leaves, buffers, batch, total, valued, curved=curvature == "hessian")
