"""Several optimizers that step one after another on the gradients of one loss, seen as one."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..core.errors import UsageError


class JoinedOptimizers(Optimizer):
    """The parameter groups, state and steps of several optimizers, in their order. The optimizers stay as they are.

    One step is a step of each of them.
    """

    def __init__(self, parts: Sequence[Optimizer]):
        """Join optimizers of different parameters.

        Raises:
            UsageError: A parameter is in two of them.
        """
        # Groups and state are those of the parts: torch's own constructor would make others.
        self.parts = tuple(parts)
        held = [id(parameter) for part in self.parts for group in part.param_groups for parameter in group["params"]]
        if twice := len(held) - len(set(held)):
            raise UsageError(
                f"{twice} parameters are in two of the {len(self.parts)} optimizers, so that one step moves them twice; give each optimizer its own."
            )
        self._stepped: set[int] = set()

    def __reduce__(self) -> Any:
        return JoinedOptimizers, (self.parts,)

    def __repr__(self) -> str:
        return name_of(self)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """All parameter groups, the very ones of the parts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The settings that any of the parts has."""
        return {name: value for part in self.parts for name, value in part.defaults.items()}

    @property
    def state(self) -> MutableMapping[Tensor, Any]:  # type: ignore[override]
        """What the parts hold of each parameter."""
        return _States(self.parts)

    @property
    def found_inf(self) -> bool:
        """Whether a GradScaler told any of them of an infinity."""
        return any(bool(getattr(part, "found_inf", None)) for part in self.parts)

    @property
    def grad_scale(self) -> Any:
        """The factor that a GradScaler left to a fused optimizer; None where there is none."""
        return next((scale for part in self.parts if (scale := getattr(part, "grad_scale", None)) is not None), None)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """A step of each."""
        assert closure is None
        for part in self.parts:
            part.step()

    # The parts call their own hooks; torch would look for ours, of which there are none.
    step.hooked = True  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As that of one optimizer with all groups: parameters are numbered through."""
        state, groups, first = {}, [], 0
        for part in self.parts:
            own = part.state_dict()
            state.update({first + number: value for number, value in own["state"].items()})
            groups += [{**group, "params": [first + number for number in group["params"]]} for group in own["param_groups"]]
            first = sum(len(group["params"]) for group in groups)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Hand each its part.

        Raises:
            ValueError: The state is of other optimizers.
        """
        groups, first = list(state_dict["param_groups"]), 0
        if len(groups) != len(self.param_groups):
            raise ValueError(f"the state has {len(groups)} parameter groups, the optimizers have {len(self.param_groups)}")
        for part in self.parts:
            own, groups = groups[: len(part.param_groups)], groups[len(part.param_groups) :]
            count = sum(len(group["params"]) for group in own)
            numbered = [{**group, "params": [number - first for number in group["params"]]} for group in own]
            state = {n - first: value for n, value in state_dict["state"].items() if first <= n < first + count}
            part.load_state_dict({"state": state, "param_groups": numbered})
            first += count

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Any:  # type: ignore[override]
        """Call a hook before each step of all: with the first of them that steps, and again with the next that steps for the second time."""

        def of(number: int) -> Callable[..., Any]:
            def first_of_all(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
                if self._stepped and number not in self._stepped:
                    self._stepped.add(number)
                    return None
                self._stepped = {number}
                return hook(self, args, kwargs)

            return first_of_all

        return _Handles([part.register_step_pre_hook(of(number)) for number, part in enumerate(self.parts)])

    def begin_batch(self) -> None:
        """Forget who has stepped before."""
        self._stepped = set()

    def end_batch(self, where: str) -> None:
        """Look at who has stepped.

        Raises:
            UsageError: Some have stepped and some have not, which is no step of all; unless a GradScaler kept those from it because their gradients
                are infinite.
        """
        waiting = [part for number, part in enumerate(self.parts) if number not in self._stepped]
        if self._stepped and not all(map(_infinite, waiting)):
            raise UsageError(
                f"{where} {len(self._stepped)} of {len(self.parts)} optimizers stepped; let all step together, or record with the one that trains most as optimizer=."
            )


class _Handles:
    """Handles of hooks, which are removed together."""

    def __init__(self, handles: Sequence[Any]):
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class _States(MutableMapping[Tensor, Any]):
    """The states of several optimizers, each parameter's with the optimizer that has it."""

    def __init__(self, parts: Sequence[Optimizer]):
        self._parts = parts
        self._owners = {id(one): part for part in parts for group in part.param_groups for one in group["params"]}

    def __getitem__(self, parameter: Tensor) -> Any:
        return self._owners[id(parameter)].state[parameter]

    def __setitem__(self, parameter: Tensor, value: Any) -> None:
        self._owners[id(parameter)].state[parameter] = value

    def __delitem__(self, parameter: Tensor) -> None:
        del self._owners[id(parameter)].state[parameter]

    def __iter__(self) -> Iterator[Tensor]:
        return (parameter for part in self._parts for parameter in part.state)

    def __len__(self) -> int:
        return sum(len(part.state) for part in self._parts)

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in part.state for part in self._parts)

    def get(self, parameter: Tensor, default: Any = None) -> Any:  # type: ignore[override]
        """Without making an empty entry, as indexing does."""
        owner = self._owners.get(id(parameter))
        return default if owner is None else owner.state.get(parameter, default)

    def clear(self) -> None:
        """Forget all."""
        for part in self._parts:
            part.state.clear()


def _infinite(optimizer: Optimizer) -> bool:
    gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    return not all(bool(one.to_dense().isfinite().all()) for one in gradients)


def optimizers_of(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """The optimizers that were joined, or the one itself."""
    return optimizer.parts if isinstance(optimizer, JoinedOptimizers) else (optimizer,)


def owner_of(optimizer: Optimizer, group: Mapping[str, Any]) -> Optimizer:
    """The optimizer whose parameter group this is."""
    return next(part for part in optimizers_of(optimizer) if any(own is group for own in part.param_groups))


def name_of(optimizer: Optimizer) -> str:
    """The kinds, in words."""
    return " and ".join(type(part).__name__ for part in optimizers_of(optimizer))
