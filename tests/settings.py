"""Settings of a recording as one flat dictionary, which many tests vary one by one, put into the values that take them."""

from collections.abc import Mapping
from typing import Any

from assay.integrations.data_spec import DataSpec
from assay.integrations.selecting import LiveSelection
from assay.runs.recorder import Origin, Partial
from assay.runs.recording import Recording

LOOP = {
    "recording": (Recording, ("view", "keep_logits", "mean_probs", "checkpoints", "live")),
    "data": (DataSpec, ("ids", "class_names", "losses", "forward", "clean")),
}
OWN = {
    "recording": (Recording, ("view", "keep_logits", "mean_probs", "checkpoints")),
    "partial": (Partial, ("select", "labels")),
    "origin": (Origin, ("seed", "device", "about", "code")),
}


def _grouped(flat: Mapping[str, Any], groups: Mapping[str, tuple[Any, tuple[str, ...]]]) -> dict[str, Any]:
    left, result = dict(flat), {}
    for group, (made, names) in groups.items():
        if here := {name: left.pop(name) for name in names if name in left}:
            result[group] = made(**here)
    return {**result, **left}


def grouped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What `assay.record` takes; `select` and `epochs` are a live selection."""
    left = dict(flat)
    if "select" in left:
        left["select"] = LiveSelection(left.pop("select"), left.pop("epochs"))
    return _grouped(left, LOOP)


def grouped_recorder(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What `assay.Recorder` takes; `partial`, `select` and `labels` are of partial epochs."""
    left = dict(flat)
    partial = left.pop("partial", "select" in left)
    result = _grouped(left, OWN)
    return {**result, "partial": result.get("partial", Partial()) if partial else None}
