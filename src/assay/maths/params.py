"""Named tensors, such as the parameters of a model."""

from collections.abc import Mapping

from torch import Tensor

Params = Mapping[str, Tensor]
"""Tensors by parameter name."""
