"""Whether a loop trains on mixtures of two examples (mixup, CutMix), which have no one label: detected from the model's inputs."""

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..training.batches import tensors

ROWS = 8
"""Rows of a batch that are looked at."""
CLOSE = 1e-4
"""Largest distance, as a part of what was mixed in, between a row and the mixture that it is taken for."""


def mixture_of(given: Tensor, batch: Tensor) -> str | None:
    """`mixup` or `CutMix`, if most of the first rows are such mixtures of two rows of the batch; None otherwise.

    mixup: given_i - batch_i = m (batch_j - batch_i) with 0 < m < 1. CutMix: each number of given_i is that of batch_i or of batch_j.

    Args:
        given: (batch, ...), the inputs that the model was given.
        batch: Inputs of the same shape, as the loader gave them.
    """
    x, z = (part.detach().to("cpu", torch.float64).flatten(1) for part in (batch, given))
    found = {"mixup": 0, "CutMix": 0}
    rows = range(min(ROWS, len(x)))
    for i in rows:
        moved, others = z[i] - x[i], x - x[i]
        size = moved.norm()
        # One number more than a line has: any two numbers are a multiple of one.
        if moved.numel() < 3 or not size > 0 or not bool(torch.isfinite(size)):
            continue
        lengths = others.square().sum(1)
        share = torch.where(lengths > 0, (others @ moved) / lengths.clamp(min=1e-300), 0.0)
        apart = (moved - share[:, None] * others).norm(dim=1)
        # A share of an empty image is the same as a smaller scale.
        full = x.norm(dim=1) > 0
        if bool((full & (apart <= CLOSE * size) & (share > CLOSE) & (share < 1 - CLOSE)).any()):
            found["mixup"] += 1
            continue
        changed = moved != 0
        if bool(changed.any()) and not bool(changed.all()) and bool((z[i][changed] == x[:, changed]).all(1).any()):
            found["CutMix"] += 1
    kind = max(found, key=found.__getitem__)
    return kind if 2 * found[kind] > len(rows) else None


class MixtureWatch:
    """Looks at what a model is given in the first batch of an epoch or two, and warns once if those are mixtures of examples.

    Nothing is called, drawn or changed. Compiled models are skipped, because the hook would stay in their compiled code.
    """

    def __init__(self, model: nn.Module, wrapped: nn.Module):
        """Get ready to look.

        Args:
            model: The model without its wrappers.
            wrapped: The model as the loop calls it.
        """
        self._model = model
        self._batches = 0 if any(compiled(layer) for layer in wrapped.modules()) else 2
        self._hook: Any = None

    def begin(self, batch: Any) -> None:
        """Watch what the model is given; the loader has just given this batch."""
        self.end()
        if not self._batches:
            return
        self._batches -= 1
        leaves = [leaf for leaf in tensors(batch) if leaf.is_floating_point() and leaf.ndim > 1]

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            parts = [part for part in pytree.tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
            pairs = [(part, leaf) for part in parts for leaf in leaves if part.shape == leaf.shape]
            # Somebody else's program goes on whatever this look meets.
            with contextlib.suppress(RuntimeError, TypeError):
                kinds = [kind for part, leaf in pairs if (kind := mixture_of(part, leaf)) is not None]
                if kinds:
                    self._batches = 0
                    warnings.warn(
                        f"The model is given mixtures of two examples ({kinds[0]}), and recorder.batch one label for each, so what is recorded "
                        "describes mixtures and not examples. Record with assay.Recording(view='eval'), which looks at every example by itself.",
                        stacklevel=2,
                    )

        self._hook = self._model.register_forward_pre_hook(look, with_kwargs=True)

    def end(self) -> None:
        """The batch was recorded, or the loop left it."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def compiled(layer: nn.Module) -> bool:
    """Whether torch.compile made this layer's call."""
    return hasattr(layer, "_orig_mod") or getattr(layer, "_compiled_call_impl", None) is not None
