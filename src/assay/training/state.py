"""Everything that training needs in order to go on, as flat tensors."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..core.errors import Mismatch, RunError, UsageError
from ..maths.params import Params
from .step import trainable


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingState:
    """Training as it stands after some epochs. `tensors` and `metadata` together fit into one safetensors file.

    Attributes:
        epochs: How many epochs are done.
        steps: How many steps are done.
        tensors: Copies on the CPU, none sharing memory: `model.NAME`, `optimizer.SLOT.NAME`, `rng.DEVICE`, and `average.NAME` where
            parameters are averaged.
        recipe: Fingerprint of the recipe.
        ids: Fingerprint of the example ids.
    """

    epochs: int
    steps: int
    tensors: dict[str, Tensor]
    recipe: str
    ids: str

    @property
    def metadata(self) -> dict[str, str]:
        """What is not a tensor, as texts."""
        return {"epochs": str(self.epochs), "steps": str(self.steps), "recipe": self.recipe, "ids": self.ids}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> "TrainingState":
        """The inverse: a state from its tensors and its metadata.

        Raises:
            RunError: The metadata is not that of a training state.
        """
        try:
            state = cls(int(metadata["epochs"]), int(metadata["steps"]), dict(tensors), metadata["recipe"], metadata["ids"])
        except (KeyError, ValueError) as error:
            raise RunError(
                f"This is not a training state: bad metadata {dict(metadata)}. Give the checkpoint of a run."
            ) from error
        if "rng.cpu" not in tensors:
            raise RunError("This is not a training state: it holds no random state `rng.cpu`. Give the checkpoint of a run.")
        return state

    @property
    def model(self) -> dict[str, Tensor]:
        """The model's parameters and buffers, as `load_state_dict` takes them."""
        return {name.removeprefix("model."): value for name, value in self.tensors.items() if name.startswith("model.")}

    @property
    def averages(self) -> dict[str, Tensor]:
        """The averaged parameters, which are then the final model; empty if nothing is averaged or no step was taken."""
        return {name.removeprefix("average."): value for name, value in self.tensors.items() if name.startswith("average.")}


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor] | None = None,
    *,
    epochs: int,
    steps: int,
    recipe: str,
    ids: str,
) -> TrainingState:
    """Copy the present state of a training run, torch's random state included.

    Args:
        model, optimizer: Model and optimizer of the training run.
        averages: The averaged parameters by name, if there are any.
        epochs, steps, recipe, ids: As in `TrainingState`.

    Raises:
        UsageError: The model keeps extra state that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UsageError(f"The model's state {name!r} is {type(value).__name__}, not a tensor, and cannot be captured.")
        tensors[f"model.{name}"] = value
    for name, parameter in trainable(model).items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{slot}.{name}"] = value
            elif value is not None:
                raise UsageError(f"The optimizer's {slot!r} of {name!r} is {type(value).__name__}, not a tensor.")
    tensors |= {f"average.{name}": value for name, value in (averages or {}).items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if any(parameter.is_cuda for parameter in model.parameters()):
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    # .to alone would hand out the live tensor on the CPU, and tied parameters would share memory.
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return TrainingState(epochs, steps, copies, recipe, ids)


def restore(state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put model, optimizer and torch's random state where they stood; the inverse of `capture`.

    Returns:
        The averaged parameters, copied to where the model is.

    Raises:
        Mismatch: The state is of another model.
    """
    parameters = trainable(model)
    averages = state.averages
    if averages and averages.keys() != parameters.keys():
        strange = sorted(averages.keys() ^ parameters.keys())
        raise Mismatch(f"The training state averages other parameters than this model trains; {strange[0]!r} is one of them.")
    try:
        model.load_state_dict(state.model)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise Mismatch(f"The training state is of another model: {first} Give the net that the run was recorded with.") from error
    optimizer.state.clear()
    for key, value in state.tensors.items():
        room, _, rest = key.partition(".")
        if room != "optimizer":
            continue
        slot, _, name = rest.partition(".")
        if name not in parameters:
            raise Mismatch(f"The training state holds {slot!r} of {name!r}, which is not a trainable parameter of this model.")
        # Adam counts its steps on the CPU, wherever the parameters are.
        device = "cpu" if slot == "step" else parameters[name].device
        optimizer.state[parameters[name]][slot] = value.to(device, copy=True)
    torch.set_rng_state(state.tensors["rng.cpu"])
    if "rng.cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["rng.cuda"])
    return {name: averages[name].to(parameters[name].device, copy=True) for name in parameters if averages}


@contextlib.contextmanager
def standing_at(model: nn.Module, values: Params) -> Iterator[None]:
    """Context in which the model has these parameters and buffers."""
    own = model.state_dict()
    before = {name: own[name].clone() for name in values if name in own}
    with torch.no_grad():
        for name in before:
            own[name].copy_(values[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)
