"""The held-out examples of a run, which value learners and ask neighbours: what its plan held out, or what is given as a target."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.errors import Mismatch, UsageError
from ..core.features import DATA
from ..core.held_out import HeldOut, rows_name
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..replay.replay import Replay
from ..replay.targets import MeanLoss, Target
from ..runs.content import bytes_of
from ..runs.run import Run
from .evidence import predicted
from .plan import has_plan, load_data, plan_of
from .request import Request
from .targets import TRAINED_ON, planned_targets, target_of


@dataclasses.dataclass(frozen=True, eq=False)
class FoundHeldOut:
    """The held-out examples of a target.

    Attributes:
        examples: The examples.
        content: Their fingerprint.
        remarks: What must be said of them, at most a sentence.
    """

    examples: HeldOut
    content: str
    remarks: tuple[str, ...] = ()


def held_out_asked(methods: Sequence[AbstractMethod]) -> list[str]:
    """Names of the targets whose examples are read."""
    return list(dict.fromkeys(name for one in methods if Need.HELD_OUT in one.reads for name in one.asks.queries))


def held_out_of(run: Run, name: str, request: Request, seen: Mapping[str, Tensor], replay: Replay | None = None) -> FoundHeldOut:
    """The examples of a target.

    Args:
        run: The run.
        name: Name of the target.
        request: Loop and targets, as they were given.
        seen: The inputs of the training examples, where anybody looks at them, and all rows that the user gave, by name.
        replay: The training, where it is taken again; it knows the targets that were asked for, and what to say of them.

    Raises:
        UsageError: There is no such target, it is a function of the model, its inputs are not in the form of the training examples, or a label is no class.
        Mismatch: Half of its inputs or more are those of training examples.
    """
    target = replay.named(name) if replay is not None and name in replay.targets else _target(run, name, request)
    if target is None:
        raise UsageError(
            f"There are no held-out examples {name!r}: "
            + (
                "the plan held out none; record with `validation = 0.1` (`--validation 0.1`), or give "
                if has_plan(run)
                else "give them as "
            )
            + f"targets={{{name!r}: (inputs, labels)}}."
        )
    if not isinstance(target, MeanLoss):
        raise UsageError(
            f"Target {name!r} is a function of the model, by which no other learner can be valued; give it as (inputs, labels) or Examples."
        )
    inputs = {DATA: _inputs(run, name, target)} if DATA in seen else {}
    rows = {key: rows for key, rows in seen.items() if key and key.endswith(rows_name("", name))}
    asked = target.queries
    held = HeldOut(asked.ids, asked.labels, asked.weights, inputs | rows)
    held.check(name, run.classes)
    remarks = _apart(name, target, inputs[DATA], seen[DATA]) if DATA in seen else ()
    return FoundHeldOut(held, target.fingerprint, remarks)


def _target(run: Run, name: str, request: Request) -> Target | None:
    given = request.targets if isinstance(request.targets, Mapping) else {}
    if name in given:
        return target_of(name, given[name], run)
    if not has_plan(run):
        return None
    loaded = load_data(plan_of(run))
    return planned_targets(loaded, [name], functools.partial(predicted, run, loaded)).get(name)


def _inputs(run: Run, name: str, target: MeanLoss) -> Tensor:
    """The inputs of a target in the form of those of the training examples: of a plan as they are read, of a loop as its loader gives them."""
    if not has_plan(run):
        return torch.cat(list(target.prepared()))
    if target.prepare is not None:
        return target.plain()
    raise UsageError(
        f"Target {name!r} is given as tensors, in the form that the net takes, and the data of a plan are read as they are; give it as Examples, "
        "or name what the plan held out, validation."
    )


def _apart(name: str, target: MeanLoss, inputs: Tensor, trained: Tensor) -> tuple[str, ...]:
    known = {bytes_of(row) for row in trained.flatten(1).to(inputs.dtype)}
    both = sum(bytes_of(row) in known for row in inputs.flatten(1))
    if target.trained_on:
        return (TRAINED_ON.format(name),) if both else ()
    if 2 * both >= len(inputs):
        raise Mismatch(
            f"{both} of the {len(inputs)} examples of target {name!r} are trained on; what is trained on cannot say what helps. Hold other examples out."
        )
    also = (
        f"{both} of the {len(inputs)} inputs of target {name!r} are also inputs of training examples, which then help themselves."
    )
    return (also,) if both else ()
