"""What a loop gives of one batch, or its validation: refused if it is no logits, labels or losses of the batch's examples."""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import NumericalError, UsageError, listed

BY_LOSSES = (
    "record the loss of each example with recorder.losses(values) in the place of recorder.batch(logits, labels), or in a clean pass with "
    "data=assay.DataSpec(task='losses', losses=...)"
)
"""The cure where examples have no class."""

LOST = (
    "as where collate_fn leaves items out, or the loop rows: keep every item that the sampler asks for, and leave examples out before, by a "
    "torch.utils.data.Subset of the dataset"
)
"""The likely cause, and its cure, where there are fewer rows than examples in a batch."""


def check_logits(logits: Any, examples: int, where: str) -> None:
    """Refuse what is no row of class logits, or one number, for each example.

    Raises:
        UsageError: It is of another shape or type.
    """
    if not isinstance(logits, Tensor):
        raise UsageError(f"{where}: logits are {type(logits).__name__}; give the torch tensor that the model returns.")
    if logits.ndim in (1, 2) and len(logits) < examples:
        raise UsageError(f"{where}: logits of shape {tuple(logits.shape)} do not fit a batch of {examples} examples, {LOST}.")
    if logits.ndim not in (1, 2) or len(logits) != examples:
        raise UsageError(
            f"{where}: logits of shape {tuple(logits.shape)} do not fit a batch of {examples} examples; "
            f"give one row of class logits per example, or, where an example holds more that is predicted, {BY_LOSSES}."
        )
    if not logits.is_floating_point():
        raise UsageError(f"{where}: logits are {logits.dtype}; give real numbers, such as torch.float32.")


def check_class_labels(labels: Any, examples: int, where: str) -> None:
    """Refuse labels that are not one integer for each example.

    Raises:
        UsageError: They are of another shape or type.
    """
    fits = isinstance(labels, Tensor) and labels.shape == (examples,)
    if not fits or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(
            f"{where}: labels are {_kind(labels)}; give one integer class per example. "
            "Soft and mixed labels cannot be recorded: of several labels 0 or 1 per example say so by data=assay.DataSpec(task='labels'), of any other "
            f"{BY_LOSSES}."
        )


def binary_labels(labels: Any, examples: int, what: str, where: str) -> Int[Tensor, " batch"]:
    """Labels 0 and 1 of a model with one logit as whole numbers, whatever their type and axes.

    Raises:
        UsageError: One is neither 0 nor 1, or there is not one for each example.
    """
    if isinstance(labels, Tensor) and labels.shape in ((examples,), (examples, 1)) and not labels.is_complex():
        labels = labels.detach().reshape(-1)
        strange = labels[(labels != 0) & (labels != 1)].unique().tolist()
        if not strange:
            return labels.to(torch.int64)
        kind = f"{labels.dtype} with values such as {listed(strange, len(strange), 2)}"
    else:
        kind = _kind(labels)
    raise UsageError(
        f"{where}: the model has 1 output, which is recorded as the logit of class 1 against 0, and {what} are {kind}; give 0 or 1 "
        f"for each example, or, if a number is predicted, {BY_LOSSES}."
    )


def check_losses(losses: Any, examples: int, where: str) -> None:
    """Refuse losses that are not one real number for each example.

    Raises:
        UsageError: They are of another shape or type.
    """
    if isinstance(losses, Tensor) and losses.ndim == 1 and len(losses) < examples:
        raise UsageError(f"{where}: there are {len(losses)} losses for a batch of {examples} examples, {LOST}.")
    if not isinstance(losses, Tensor) or losses.shape != (examples,) or not losses.is_floating_point():
        raise UsageError(
            f"{where}: losses are {_kind(losses)}; give a tensor with one real number for each of the batch's {examples} examples, such as "
            "a loss with reduction='none', averaged over what else an example holds."
        )


def check_label_rows(logits: Any, labels: Any, examples: int, where: str) -> None:
    """Refuse what is not one logit and one label 0 or 1 for each example and each of its labels.

    Raises:
        UsageError: Shapes or types do not fit, or a label is neither 0 nor 1.
    """
    if (
        not all(isinstance(part, Tensor) and part.ndim == 2 for part in (logits, labels))
        or logits.shape != labels.shape
        or len(logits) != examples
        or not logits.is_floating_point()
        or logits.shape[1] < 1
    ):
        raise UsageError(
            f"{where}: logits are {_kind(logits)} and labels {_kind(labels)}; give one real number and one label 0 or 1 for each of the "
            f"batch's {examples} examples and each label, (batch, labels)."
        )
    strange = labels[(labels != 0) & (labels != 1)].unique().tolist()
    if strange:
        raise UsageError(
            f"{where}: labels hold {listed(strange, len(strange), 2)}; give 0 or 1 for each label, or, where they are neither, {BY_LOSSES}."
        )


def check_validation(logits: Any, labels: Any, where: str) -> None:
    """Refuse what is not a row of class logits and one class for each validation example.

    Raises:
        UsageError: Shapes or types do not fit.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not isinstance(labels, Tensor) or labels.shape != logits.shape[:1]:
        raise UsageError(f"{where}: validation needs a row of class logits and one class for each example; give both as tensors.")
    if not logits.is_floating_point() or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(
            f"{where}: validation got {logits.dtype} logits and {labels.dtype} labels; give real numbers and integers."
        )


def validation_losses(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], classes: int, where: str
) -> Float[Tensor, " batch"]:
    """Cross-entropy of each validation example, in nats.

    Raises:
        UsageError: A label is none of the classes.
        NumericalError: A logit is NaN or infinite.
    """
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        values = labels[outside].unique().tolist()
        raise UsageError(
            f"{where}: validation labels are outside 0..{classes - 1} ({listed(values, len(values))}); give classes of the run."
        )
    if bad := int((~logits.isfinite().all(1)).sum()):
        raise NumericalError(
            f"{where}: logits of {bad} validation examples are NaN or infinite. Lower the learning rate; the epochs before are saved."
        )
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def warn_of_probabilities(logits: Float[Tensor, "batch classes"]) -> None:
    """Warn where logits are what a softmax returns."""
    rows = logits.to(torch.float32)
    if len(rows) and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 1e-3).all()):
        warnings.warn(
            "The logits of the first batch are probabilities (every row is 0 or more and adds up to 1), so that margins and confidences would "
            "be those of a second softmax; give recorder.batch what the model computes before its softmax, or torch.log(probabilities).",
            stacklevel=4,
        )


def _kind(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
