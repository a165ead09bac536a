"""Models of which each process keeps a part (`torch.distributed.fsdp.fully_shard`): their whole states, as one process has them, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

KIND = "fully_shard"


def sharded(model: nn.Module) -> bool:
    """Whether processes keep parts of the model's parameters, as `fully_shard` lets them."""
    return any(kind.__name__ == "FSDPModule" for layer in model.modules() for kind in type(layer).__mro__)


def in_parts(value: Any) -> bool:
    """Whether a tensor is one of which each process keeps a part."""
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")


def whole(state: Any, keep: bool) -> Any:
    """A state with whole tensors on the CPU in the place of parts. Every process calls this at once.

    Args:
        state: Nested dicts and lists, of one structure in all processes.
        keep: Whether this process wants it; else it gets nothing, and memory for a tensor at a time is used.
    """
    leaves, structure = pytree.tree_flatten(state)
    found: list[Any] = []
    for leaf in leaves:
        # Parts that wait on the CPU are gathered where the processes exchange tensors.
        made = leaf.to(leaf.device_mesh.device_type).full_tensor() if in_parts(leaf) else leaf
        if keep:
            found.append(made.cpu() if in_parts(leaf) else made)
    return pytree.tree_unflatten(found, structure) if keep else None


def own_parts(model: nn.Module) -> list[Tensor]:
    """The parameters of a model; of those that are kept in parts the part of this process."""
    if not sharded(model):
        return list(model.parameters())
    # Between passes a layer may hold whole parameters; for a state it gives its own part of them.
    return [value.to_local() for value in model.state_dict().values() if in_parts(value)]


def parts_of_model(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A whole state of a model, with the part of this process where it keeps parts. Every process calls this at once, with the same state."""
    held = model.state_dict()
    return {name: _part(value, held.get(name)) for name, value in state.items()}


def parts_of_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The same for the state of an optimizer; its parameters are numbered in the order of the groups."""
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved = [number for group in state["param_groups"] for number in group["params"]]
    places = dict(zip(saved, own, strict=False))
    slots = {
        number: {name: _part(value, places.get(number)) for name, value in of.items()} for number, of in state["state"].items()
    }
    return {**state, "state": slots}


def _part(value: Any, like: Any) -> Any:
    if not in_parts(like) or not isinstance(value, Tensor) or in_parts(value) or value.shape != like.shape:
        return value
    # Imported where it is needed: it costs others seconds.
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, like.placements).to(like.device)
