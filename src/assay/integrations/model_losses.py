"""The loss of each example, of what a model of Hugging Face's library returns: classes, several labels, numbers, or tokens."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..replay.losses import Losses, token_losses
from ..training.wrappers import unwrapped
from .batch_keys import check_one_label

Kind = Literal["classes", "labels", "numbers", "tokens"]
ALIGNED = ("ForTokenClassification", "ForMaskedLM", "ForConditionalGeneration")
"""Ends of the names of models whose token i has label i."""
OWN = "data=assay.DataSpec(task='losses', losses=...), a function (model, batch) that returns the loss of each example"


@dataclasses.dataclass(frozen=True, eq=False)
class ModelTask:
    """What a model's logits and labels are.

    Attributes:
        config: The model's, which names its problem; some models name it only when they are called first.
        shifted: Of tokens: whether the label of token i is that of the output before. None where the model's class does not tell.
    """

    config: Any
    shifted: bool | None

    @property
    def problem(self) -> Kind:
        """What the model says that it learns."""
        if self.shifted is not None:
            return "tokens"
        named = getattr(self.config, "problem_type", None)
        if named == "multi_label_classification":
            return "labels"
        one = named is None and getattr(self.config, "num_labels", 2) == 1
        return "numbers" if named == "regression" or one else "classes"

    def kind(self, logits: Tensor, labels: Any, where: str) -> Kind:
        """What is recorded of logits and labels; `where` is named in errors.

        Raises:
            UsageError: There are no labels, or it cannot be told which label belongs to which output.
        """
        tokens = logits.ndim > 2 and isinstance(labels, Tensor) and labels.shape == logits.shape[:-1]
        if tokens and self.shifted is not None:
            return "tokens"
        check_one_label(logits, labels, where)
        return "classes" if self.problem == "tokens" else self.problem

    def losses(self, kind: Kind, logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"]) -> Tensor:
        """The loss of each example: squared error, binary cross-entropy over its labels, or cross-entropy over its tokens."""
        labels = labels.to(logits.device)
        if kind == "tokens":
            if self.shifted:
                logits, labels = logits[:, :-1], labels[:, 1:]
            return token_losses(logits.float(), labels, reduction=reduction)
        if kind == "labels":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        if kind == "numbers":
            if logits.numel() != labels.numel():
                raise UsageError(
                    f"The model gives numbers of shape {tuple(logits.shape)} and the labels are of shape {tuple(labels.shape)}; give {OWN}."
                )
            return (logits.flatten(1) - labels.reshape(len(logits), -1)).square().mean(1)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    def counted(self, labels: Tensor) -> Tensor:
        """How many tokens count."""
        return ((labels[:, 1:] if self.shifted else labels) != -100).sum()


def task_of(model: nn.Module) -> ModelTask:
    """What a model's logits and labels are, told by its class and config; of one with adapters by those of the model inside."""
    inner: Any = unwrapped(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    names = [kind.__name__ for kind in type(inner).__mro__]
    return ModelTask(getattr(inner, "config", None), _shifted(names, getattr(inner, "config", None)))


def _shifted(names: list[str], config: Any) -> bool | None:
    if any(name.endswith(ALIGNED) for name in names):
        # Of decoders alone there are some of this name too; only those with an encoder are known to have their labels in place.
        aligned = not any(name.endswith(ALIGNED[2]) for name in names) or getattr(config, "is_encoder_decoder", False)
        return False if aligned else None
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError:
        return None
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return True if any(name in causal for name in names) else None


@dataclasses.dataclass(frozen=True, eq=False)
class ModelLosses:
    """`losses(model, batch)` as the model itself computes them; of tokens the sum over those of an example.

    Attributes:
        task: What logits and labels are.
        forward: Gives logits and labels, whatever their shapes.
        smoothing: The Trainer's label smoothing.
    """

    task: ModelTask
    forward: Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
    smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if self.smoothing:
            raise UsageError(
                "label_smoothing_factor= smooths the labels of classes, and the losses of tokens, numbers or several labels are not smoothed here; "
                "give losses=, a function (model, batch) that returns the loss of each example as the Trainer has it."
            )
        logits, labels = self.forward(model, batch)
        return self.task.losses(self.task.kind(logits, labels, "losses"), logits, labels, "sum")


@dataclasses.dataclass(frozen=True, eq=False)
class CountedTokens:
    """What the sum of the losses of a batch of tokens is divided by, where the model takes their mean.

    Attributes:
        task: Tells which tokens count.
        labels: Gives the labels of a batch.
    """

    task: ModelTask
    labels: Callable[[Any], Tensor]

    def __call__(self, batch: Any) -> float:
        return float(self.task.counted(self.labels(batch)))


class Returned:
    """A model in a training step that was called already: it gives once more what it returned."""

    def __init__(self, model: nn.Module, outputs: Any):
        self._model, self._outputs, self.calls = model, outputs, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self._outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_model"], name)


def losses_of_step(losses: Losses, model: nn.Module, outputs: Any, batch: Any) -> Tensor:
    """The loss of each example by a user's `losses(model, batch)`, of what the model returned in the training step.

    Raises:
        UsageError: They call the model not once.
    """
    returned = Returned(model, outputs)
    with torch.no_grad():
        values = losses(returned, batch)  # type: ignore[arg-type]  # stands in for the module
    if returned.calls != 1:
        raise UsageError(
            f"losses= calls the model {returned.calls} times for a batch, and what it returned in the training step is read once; call it once, on the batch "
            "as the trainer does."
        )
    return values
