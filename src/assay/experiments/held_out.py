"""The held-out examples of a run, by which learners are valued: what its plan held out, or what is given as a target."""

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.errors import Mismatch, UsageError
from ..core.features import DATA
from ..core.held_out import HeldOut, rows_name
from ..core.lineage import fingerprint
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..data.examples import Examples
from ..replay.targets import MeanLoss, Target
from ..runs.content import bytes_of
from ..runs.run import Run
from .evidence import predicted
from .plan import has_plan, load_data, plan_of
from .request import Request
from .targets import planned_targets, target_of


def held_out_asked(methods: Sequence[AbstractMethod]) -> list[str]:
    """Names of the targets whose examples value a learner."""
    return list(dict.fromkeys(name for one in methods if Need.HELD_OUT in one.reads for name in one.asks.queries))


def held_out_of(run: Run, name: str, request: Request, seen: Mapping[str, Tensor]) -> tuple[HeldOut, str]:
    """The examples of a target, and their fingerprint.

    Args:
        run: The run.
        name: Name of the target.
        request: Loop and targets, as they were given.
        seen: The inputs of the training examples, and all rows that the user gave, by name.

    Raises:
        UsageError: There is no such target, it is a function of the model, or its inputs are not in the form of the training examples.
        Mismatch: Half of its inputs or more are those of training examples.
    """
    given = request.targets if isinstance(request.targets, Mapping) else {}
    target: Target | None
    if name in given:
        target = target_of(name, given[name], run)
    elif has_plan(run):
        loaded = load_data(plan_of(run))
        target = planned_targets(loaded, [name], functools.partial(predicted, run, loaded)).get(name)
    else:
        target = None
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
    inputs = _inputs(run, name, target, given)
    held = HeldOut(target.queries.ids, target.queries.labels, target.queries.weights, {DATA: inputs} | _rows(name, seen))
    if DATA in seen:
        _check_apart(name, inputs, seen[DATA])
    weights = held.weights.numpy().tobytes()
    return held, fingerprint(f"{inputs.dtype} {tuple(inputs.shape)}", bytes_of(inputs), held.labels.numpy().tobytes(), weights)


def _inputs(run: Run, name: str, target: MeanLoss, given: Mapping[str, object]) -> Tensor:
    """The inputs of a target in the form of those of the training examples: of a plan as they are read, of a loop as its loader gives them."""
    if not has_plan(run):
        return torch.cat(list(target.prepared()))
    if name not in given:
        loaded = load_data(plan_of(run))
        examples = loaded.test if name.partition("=")[0] == "test" else loaded.validation
        assert isinstance(examples, Examples) and target.ids is not None
        return examples.take(examples.ids.positions(target.ids)).plain()
    own = given[name]
    if isinstance(own, Examples):
        return own.plain()
    raise UsageError(
        f"Target {name!r} is given as tensors, in the form that the net takes, and learners see the data of a plan as they are read; give it as Examples, "
        "or name what the plan held out, validation."
    )


def _rows(name: str, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: rows for key, rows in seen.items() if key and key.endswith(rows_name("", name))}


def _check_apart(name: str, inputs: Tensor, trained: Tensor) -> None:
    known = {bytes_of(row) for row in trained.flatten(1).to(inputs.dtype)}
    both = sum(bytes_of(row) in known for row in inputs.flatten(1))
    if 2 * both >= len(inputs):
        raise Mismatch(
            f"{both} of the {len(inputs)} examples of target {name!r} are trained on; what is trained on cannot say what helps. Hold other examples out."
        )
