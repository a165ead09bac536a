"""Nested states, such as those of models and optimizers, as flat tensors and one text, and back."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.errors import RunError, UsageError


def pack(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Every tensor under its path (`optimizer/state/0/exp_avg`), and the rest as JSON in which `{"tensor": path}` stands for it.

    Raises:
        UsageError: A value is neither tensor, number, text, boolean, None, list, tuple nor mapping, or a key neither text nor integer.
    """
    tensors: dict[str, Tensor] = {}

    def flat(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            # The key "a/b" and the key "b" inside "a" have one path.
            while path in tensors:
                path += "+"
            # A copy, because parameters that share memory cannot stand twice in one safetensors file.
            tensors[path] = value.detach().to("cpu", copy=True)
            return {"tensor": path}
        if isinstance(value, Mapping):
            for key in value:
                if type(key) not in (int, str):
                    raise UsageError(f"{path} of the checkpoint has the key {key!r}, which is neither integer nor text.")
            return {"items": [[key, flat(inner, f"{path}/{key}")] for key, inner in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [flat(inner, f"{path}/{number}") for number, inner in enumerate(value)]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"value": value}
        raise UsageError(f"{path} of the checkpoint is a {type(value).__name__}, which cannot be saved without pickle.")

    return tensors, json.dumps({key: flat(value, str(key)) for key, value in state.items()})


def unpack(tensors: Mapping[str, Tensor], text: str) -> dict[str, Any]:
    """The inverse of `pack`.

    Raises:
        RunError: Text and tensors do not go together.
    """

    def whole(node: dict[str, Any]) -> Any:
        ((kind, body),) = node.items()
        if kind == "tensor":
            return tensors[body]
        if kind == "items":
            return {key: whole(inner) for key, inner in body}
        if kind in ("list", "tuple"):
            return (tuple if kind == "tuple" else list)(whole(inner) for inner in body)
        return body

    try:
        return {key: whole(node) for key, node in json.loads(text).items()}
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"A checkpoint is damaged ({error}); record again.") from error
