"""The type in which a loop's model computes under torch.autocast, noted in the first forward pass of each epoch."""

from typing import Any

import torch
from torch import nn

from .mixing import compiled


class CastWatch:
    """Notes the autocast settings that the model is called under. Compiled models are skipped, because the hook would stay in their compiled code."""

    def __init__(self, model: nn.Module, wrapped: nn.Module):
        """Get ready to look.

        Args:
            model: The model without its wrappers.
            wrapped: The model as the loop calls it.
        """
        self._model = None if any(compiled(layer) for layer in wrapped.modules()) else model
        self._found: dict[str, str] = {}
        self._hook: Any = None

    def begin(self) -> None:
        """Watch the first forward pass of a new epoch."""
        self.end()
        self._found = {}
        if self._model is None:
            return

        def look(*_: Any) -> None:
            on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
            self._found = {device: str(torch.get_autocast_dtype(device)).removeprefix("torch.") for device in on}
            self._removed()

        self._hook = self._model.register_forward_pre_hook(look)

    def end(self) -> dict[str, str]:
        """End an epoch and return the autocast type of each device; empty if none was seen."""
        self._removed()
        return self._found

    def _removed(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
