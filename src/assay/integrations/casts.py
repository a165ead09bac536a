"""The type in which a loop's model computes under torch.autocast, noted in the first forward pass of each epoch."""

from typing import Any

import torch
from torch import nn

from .mixing import compiled


class CastWatch:
    """Notes the autocast settings that the model is called under, or under which its forward calls a layer, as in a model prepared by accelerate.

    Compiled models are skipped, because hooks would stay in their compiled code, and layers of TorchScript, which take none.
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

        def look() -> bool:
            on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
            self._found = {device: str(torch.get_autocast_dtype(device)).removeprefix("torch.") for device in on}
            if on:
                self._removed()
            return bool(on)

        def look_inside(*_: Any) -> None:
            look()

        def leave(*_: Any) -> None:
            self._removed()

        def look_into(*_: Any) -> None:
            # A forward pass that ended in an error has left its hooks.
            self._removed(but=1)
            # In eval mode hooks keep some layers of torch from their fastest form, whose bits are others.
            if look() or not model.training:
                return
            for layer in model.modules():
                # TorchScript's layers take no hooks.
                if layer is not model and not isinstance(layer, torch.jit.ScriptModule):
                    self._hooks.append(layer.register_forward_pre_hook(look_inside))
            self._hooks.append(model.register_forward_hook(leave))

        self._hooks = [model.register_forward_pre_hook(look_into)]

    def end(self) -> dict[str, str]:
        """End an epoch and return the autocast type of each device; empty if none was seen."""
        self._removed()
        return self._found

    def _removed(self, but: int = 0) -> None:
        for hook in self._hooks[but:]:
            hook.remove()
        del self._hooks[but:]
