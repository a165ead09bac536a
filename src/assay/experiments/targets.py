"""Targets from the names on the command line and in plans, or from user objects; and the check that their examples are not trained on."""

import csv
import hashlib
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import Mismatch, RunError, UsageError, listed, reading
from ..data.examples import Examples
from ..replay.replay import Replay
from ..replay.targets import PART, Given, MeanLoss, Single, Target, mean_loss, weighted_mean
from ..runs.content import bytes_of, leaves_of
from ..runs.disk import read_bytes
from ..runs.run import Run
from .plan import LoadedData

ROW = 64
"""Bytes of an input above which its hash stands for it."""
TRAINED_ON = "The input of target {!r} is also the input of a training example, which then helps itself."


def target_of(name: str, given: Given, run: Run) -> Target:
    """A user's target as an object that can be differentiated.

    Raises:
        Mismatch: Some of its examples are trained on.
        UsageError: It is neither a function nor examples nor tensors.
    """
    if isinstance(given, MeanLoss):
        return given
    if isinstance(given, Examples):
        known = set(run.ids)
        if both := [one for one in given.ids if one in known]:
            raise Mismatch(
                f"{len(both)} of the {len(given)} examples of target {name!r} are trained on (ids {listed(both, len(both))}); what is trained on "
                "cannot say what helps. Hold other examples out."
            )
        if not given.has_numbers:
            raise UsageError(
                f"Target {name!r} is of texts or cells without numbers, which no model can be given; give (inputs, labels) as the model takes them."
            )
        return mean_loss(given, name)
    if callable(given):
        return Single(given)
    if not isinstance(given, tuple) or len(given) not in (2, 3) or not all(isinstance(part, Tensor) for part in given):
        raise UsageError(f"Target {name!r} is neither a function of the model nor Examples nor (inputs, labels) as tensors.")
    inputs, labels = given[0], given[1]
    weights = given[2] if len(given) == 3 else torch.ones(len(labels), dtype=torch.float64)
    return weighted_mean(name, inputs, labels, weights, None)


def planned_targets(
    loaded: LoadedData, texts: Sequence[str], predicted: Callable[[MeanLoss], Int[Tensor, " rows"]]
) -> dict[str, Target]:
    """The targets that the texts name, by text; `validation` is always among them if the plan holds examples out.

    Args:
        loaded: The plan's data.
        texts: Names of targets.
        predicted: Gives the class that the last kept model predicts for each row of a target.

    Raises:
        UsageError: A text names no target, or the plan held out no such examples.
    """
    found: dict[str, Target] = {}
    if loaded.validation is not None:
        found["validation"] = mean_loss(loaded.validation, "validation")
    for text in texts:
        kind, _, value = text.partition("=")
        if kind == "test" and not value:
            found[text] = mean_loss(loaded.test, text)
            continue
        if kind not in ("validation", "misclassified", "class", "id", "ids") or bool(value) == (
            kind in ("validation", "misclassified")
        ):
            raise UsageError(f"Target {text!r} is not validation, misclassified, test, class=NAME, id=ID or ids=FILE.")
        held = loaded.validation
        if held is None:
            raise UsageError(
                f"Target {text!r}: the plan held out no validation examples; record with `validation = 0.1` (`--validation 0.1`), or ask for "
                "target=test, which then can no longer judge a decision made by it."
            )
        if kind == "misclassified":
            wrong = predicted(mean_loss(held, text)) != held.labels
            if not bool(wrong.any()):
                raise UsageError(
                    f"Target {text!r}: the last kept model predicts the class of each of the {len(held)} validation examples; choose validation."
                )
            found[text] = mean_loss(held, text, wrong.to(torch.float64))
        elif kind == "class":
            found[text] = mean_loss(held, text, (held.labels == _class(held, value)).to(torch.float64))
        elif kind == "id":
            found[text] = mean_loss(held, text, _weights(held, {value: 1.0}, text))
        elif kind == "ids":
            found[text] = mean_loss(held, text, _weights(held, _read(value), text))
    return found


def _class(examples: Examples, name: str) -> int:
    if name not in examples.class_names:
        raise UsageError(f"Target class={name}: the classes are {listed(examples.class_names, examples.classes)}.")
    return examples.class_names.index(name)


def _weights(examples: Examples, given: Mapping[str, float], text: str) -> Tensor:
    places = {str(one): place for place, one in enumerate(examples.ids)}
    strange = [one for one in given if one not in places]
    if strange:
        raise UsageError(
            f"Target {text}: no validation example has the id {listed(strange, len(strange))}; choose among the {len(places):,} of them, "
            f"such as {listed(places, 3, most=3)}."
        )
    weights = torch.zeros(len(examples), dtype=torch.float64)
    for one, weight in given.items():
        weights[places[one]] = weight
    return weights


def _read(path: str) -> dict[str, float]:
    with reading(path, UsageError, "Give a CSV of id and weight."):
        try:
            rows = [row for row in csv.reader(io.StringIO(read_bytes(Path(path)).decode(), newline="")) if row]
            body = rows[1:] if rows and rows[0][:1] == ["id"] else rows
            return {row[0]: float(row[1]) if len(row) > 1 else 1.0 for row in body}
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}); give a CSV of id and weight.") from error
        except (ValueError, RunError) as error:
            raise UsageError(f"{path} is no CSV of id and weight ({error}).") from error


def check_disjoint(replay: Replay, asked: Collection[str] | None) -> dict[str, str]:
    """Warnings, by target name, on targets some of whose inputs equal training inputs; single equal rows occur in real tables.

    An input of a target is looked for among the rows of every tensor of the training batches, however those are laid out.

    Args:
        replay: The replay whose targets and training examples are compared.
        asked: Names of the targets to check; None for all.

    Raises:
        Mismatch: At least half of a target's inputs are inputs of training examples.
    """
    sought = {
        name: distinct(target)
        for name, target in replay.given.items()
        if isinstance(target, MeanLoss) and (asked is None or name in asked)
    }
    met: dict[str, set[bytes]] = {name: set() for name in sought}
    for positions in torch.arange(len(replay.run.ids)).split(PART) if sought else ():
        trained = {row for value in _tensors(replay.training.clean(positions), len(positions)) for row in _bytes(value)}
        for name, own in sought.items():
            met[name] |= trained & own
    remarks: dict[str, str] = {}
    for name, own in sought.items():
        target = replay.given[name]
        if isinstance(target, MeanLoss) and target.trained_on:
            remarks |= {name: TRAINED_ON.format(name)} if met[name] else {}
            continue
        if 2 * len(met[name]) >= len(own):
            raise Mismatch(
                f"{len(met[name])} of the {len(own)} examples of target {name!r} are trained on; what is trained on cannot say what helps. "
                "Hold other examples out."
            )
        if met[name]:
            remarks[name] = (
                f"{len(met[name])} of the {len(own)} inputs of target {name!r} are also inputs of training examples, which then help themselves."
            )
    return remarks


def _tensors(batch: object, size: int) -> list[Tensor]:
    """The tensors of a batch that hold more than one number of each example, or fractions: a whole number is a label."""
    return [
        value
        for _, value in leaves_of(batch)
        if isinstance(value, Tensor) and value.ndim and len(value) == size and (value.ndim > 1 or value.is_floating_point())
    ]


def distinct(target: MeanLoss) -> set[bytes]:
    """Every input that a target averages over, once."""
    return {row for part in target.prepared() for row in _bytes(part)}


def _bytes(inputs: Tensor) -> list[bytes]:
    """Each row by its type, shape and numbers, hashed where it is long."""
    kind = f"{inputs.dtype} {tuple(inputs.shape[1:])} ".encode()
    rows = [bytes_of(row) for row in inputs.detach().cpu()]
    return [kind + (row if len(row) <= ROW else hashlib.blake2b(row, digest_size=32).digest()) for row in rows]
