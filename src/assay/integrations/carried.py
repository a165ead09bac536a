"""Whether gradients that an epoch ended with go into the first step of the next one: detected where the first backward pass adds to them."""

import functools
from typing import Any

from torch import Tensor, nn


class CarriedGradients:
    """Looks at the first backward pass of an epoch, where the epoch before ended without an optimizer step on its last batches.

    Nothing is called, drawn or changed.

    Attributes:
        seen: Whether that pass of this epoch added to gradients of the epoch before.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._waits = self.seen = False
        self._hooks: list[Any] = []

    def begin(self) -> None:
        """An epoch begins."""
        self.seen = False
        self._unhook()
        if self._waits:
            self._hooks = [
                parameter.register_hook(functools.partial(self._look, parameter))
                for parameter in self._model.parameters()
                if parameter.requires_grad and parameter.is_leaf
            ]
        self._waits = False

    def end(self, waits: bool) -> None:
        """A batch was trained on; whether its gradients wait for a later step."""
        self._waits = waits
        self._unhook()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _look(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        held = parameter.grad
        self.seen = self.seen or (held is not None and bool((held != 0).any()))
