"""The type in which a loop's model computes under torch.autocast, noted in the first forward pass of each epoch."""

from typing import Any

import torch
from torch import nn

from .mixing import compiled


class CastWatch:
    """Notes the autocast settings that the model is called under, or that its forward sets, as that of a model prepared by accelerate does.

    Compiled models are skipped, because hooks would stay in their compiled code.
    """

    def __init__(self, model: nn.Module, wrapped: nn.Module):
        """Get ready to look.

        Args:
            model: The model without its wrappers.
            wrapped: The model as the loop calls it.
        """
        self._model = None if any(compiled(layer) for layer in wrapped.modules()) else model
        self._found: dict[str, str] = {}
        self._hooks: list[Any] = []

    def begin(self) -> None:
        """Watch the first forward pass of a new epoch."""
        self.end()
        self._found = {}
        if self._model is None:
            return

        model = self._model

        def look(*_: Any) -> bool:
            on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
            self._found = {device: str(torch.get_autocast_dtype(device)).removeprefix("torch.") for device in on}
            if on:
                self._removed()
            return bool(on)

        def look_inside(*_: Any) -> None:
            look()

        def look_into(*_: Any) -> None:
            # In eval mode hooks keep some layers of torch from their fastest form, whose bits are others.
            if look() or not model.training:
                return
            self._removed()
            inside = [layer for layer in model.modules() if layer is not model]
            self._hooks = [layer.register_forward_pre_hook(look_inside) for layer in inside]
            self._hooks.append(model.register_forward_hook(lambda *_: self._removed(), always_call=True))

        self._hooks = [model.register_forward_pre_hook(look_into)]

    def end(self) -> dict[str, str]:
        """End an epoch and return the autocast type of each device; empty if none was seen."""
        self._removed()
        return self._found

    def _removed(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
