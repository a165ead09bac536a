"""Again: a recorded run joined with what trained it, so that its steps and kept models can be differentiated."""

import csv
import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.arguments import checked_fields
from ..core.errors import Mismatch, RunError, UsageError, reading, some
from ..core.lineage import fingerprint
from ..data.examples import Examples
from ..integrations.agreement import Agreement
from ..integrations.loop import Loop, LoopCourse
from ..maths import schedules
from ..runs.content import bytes_of, leaves_of
from ..runs.disk import read_bytes
from ..runs.replay import Replay, Target
from ..runs.run import Run
from ..training.course import Course
from ..training.recipe_course import RecipeCourse
from ..training.state import TrainingState
from .plan import Material, Plan, has_plan, material_of, plan_of

LOOP = "a loop"
"""Stands for the fingerprint of a user's loop: what it computes cannot be told."""
PART = 128
"""Examples of a target in one graph."""
ROW = 64
"""Bytes of an input above which its hash stands for it."""

Agreed = dict[Path, Agreement]
"""What is known of the examples of a loop within one call, by the folder of its run."""
Function = Callable[[nn.Module], Tensor]
"""From the model (in eval mode) to one number."""
Given = Function | Examples | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""A target: a function, or examples, or inputs and labels (and a weight for each), whose weighted mean of cross-entropies is taken."""


@dataclasses.dataclass(frozen=True, eq=False)
class MeanLoss:
    """Weighted mean of the cross-entropies of some examples, in nats.

    Attributes:
        inputs: As the net takes them, or as `prepare` does.
        labels: Class of each.
        weights: How much each counts; they are divided by their sum.
        prepare: Turns a part of the inputs into what the net takes.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor
    prepare: Callable[[Tensor], Tensor] | None = None

    def __call__(self, model: nn.Module) -> Iterator[Tensor]:
        device = next(model.parameters()).device
        total = self.weights.sum()
        for start in range(0, len(self.inputs), PART):
            part = slice(start, start + PART)
            logits = model(self.ready(self.inputs[part].to(device), model))
            if logits.ndim != 2 or logits.shape[1] < 2:
                raise UsageError(
                    f"The model returned shape {tuple(logits.shape)} for inputs and labels of a target; where it gives no row of class logits "
                    "per example, give a function of the model instead."
                )
            losses = F.cross_entropy(logits, self.labels[part].to(device, torch.int64), reduction="none")
            yield (losses * (self.weights[part] / total).to(losses)).sum()

    def ready(self, inputs: Tensor, model: nn.Module) -> Tensor:
        """Some of the inputs as the model takes them."""
        # What assay prepares is float32, whatever the model is.
        return inputs if self.prepare is None else self.prepare(inputs).to(next(model.parameters()).dtype)

    def prepared(self) -> Iterator[Tensor]:
        """The inputs in parts, as the model takes them but for its type."""
        for start in range(0, len(self.inputs), PART):
            part = self.inputs[start : start + PART]
            yield (part if self.prepare is None else self.prepare(part)).detach().cpu().contiguous()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over everything that is averaged, the inputs as they are prepared: other means or deviations are other inputs."""
        return fingerprint(
            *(part for one in self.prepared() for part in (f"{one.dtype} {tuple(one.shape)}", bytes_of(one))),
            self.labels.to(torch.int64).numpy().tobytes(),
            self.weights.to(torch.float64).numpy().tobytes(),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Single:
    """A user's function as a target of one part."""

    function: Function

    def __call__(self, model: nn.Module) -> Iterator[Tensor]:
        yield self.function(model)


@dataclasses.dataclass(frozen=True)
@checked_fields
class Replaying:
    """How steps are taken again.

    Attributes:
        schedule: `sqrt`, `all`, `every=STEPS`, `tree` or `tree=PARTS` (see `runs.replay.Replay`).
        memory: Bytes that states may take; None for what the schedule takes.
        tolerance: How far a replay may end from the recorded parameters, as a part of their norm; 0 for the same bits.
    """

    schedule: str = "sqrt"
    memory: int | None = None
    tolerance: float = 0.0

    def __post_init__(self):
        """Refuse what no replay could keep to, even where none is needed.

        Raises:
            UsageError: A setting is out of range.
        """
        try:
            schedules.named(self.schedule)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory={self.memory} is not a number of bytes above 0.")
        if not 0 <= self.tolerance < 1:
            raise UsageError(f"tolerance={self.tolerance} is outside 0..1, 1 excluded.")

    @property
    def identity(self) -> dict[str, str]:
        """What results depend on, by name: how far from the recorded parameters they may have been computed, unless that is nowhere."""
        return {"tolerance": str(float(self.tolerance))} if self.tolerance else {}


def again(
    run: str | Path | Run,
    *,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    replaying: Replaying | None = None,
    references: Mapping[str, Mapping[str, Tensor]] | None = None,
    asked: Collection[str] | None = None,
    agreed: Agreed | None = None,
) -> Replay:
    """A run's steps and kept models, ready to be taken again.

    Args:
        run: The run.
        loop: What your own loop consists of; not for runs that `assay record` made, which know their plan.
        targets: What may be asked for, by name: functions of the model, Examples, or (inputs, labels). For runs with a plan also texts:
            `validation`, `test`, `class=NAME` (the validation examples of one class), `id=ID` (one of them), or `ids=FILE`
            (a CSV of id and weight: a weighted mix of them). By default what the plan held out for validation.
        replaying: How steps are taken again.
        references: Parameters from elsewhere that `oti` may be asked for as its reference, by name: a model's state_dict each.
        asked: The targets that will be asked for, all by default: their examples are held against those that are trained on.
        agreed: Of calls that are given the same dict, only the first one looks at the loop's examples.

    Raises:
        UsageError: No loop for a run without a plan, a loop for one with, a target that does not fit, a collate_fn that does not keep the
            order of its items, or a model that draws at random in eval mode.
        Mismatch: The data, their order, their labels, the loader, the model or the losses are not those of the recording.
        MissingEvidence: The run kept no model.
    """
    run = run if isinstance(run, Run) else Run(run)
    how = replaying or Replaying()
    named: Mapping[str, Given] = targets if isinstance(targets, Mapping) else {}
    texts = [] if targets is None or isinstance(targets, Mapping) else list(targets)
    course: Course
    found: dict[str, Target] = {}
    if has_plan(run):
        if loop is not None:
            raise UsageError(f"{run.folder} was recorded by a plan, which says how it was trained; leave loop= out.")
        plan = plan_of(run)
        material = material_of(plan)
        course = _course(run, plan, material)
        found = _planned(material, texts)
    else:
        if loop is None:
            raise UsageError(
                f"{run.folder} was recorded in your own loop, whose model and data assay does not know; in Python, give "
                "score(..., loop=assay.Loop(model, optimizer, loader), targets={'validation': (inputs, labels)})."
            )
        if texts:
            raise UsageError(
                f"Targets of your own loop are given as {{name: (inputs, labels) or function}}, not as {texts[0]!r}."
            )
        course = LoopCourse(run, loop)
    for name, given in named.items():
        found[name] = _own(name, given, run)
    replay = Replay(run, course, found, schedule=how.schedule, memory=how.memory, tolerance=how.tolerance, references=references)
    if isinstance(course, LoopCourse):
        agreement = _agreement(course, agreed)
        agreement.hold_model(replay.at(replay.kept[-1]))
        replay.cautions = tuple(agreement.cautions)
    replay.remarks.update(_check_apart(replay, asked))
    return replay


def _agreement(course: LoopCourse, agreed: Agreed | None) -> Agreement:
    known = {} if agreed is None else agreed
    if course.run.folder not in known:
        known[course.run.folder] = Agreement(course)
    return known[course.run.folder].of(course)


def data_of(run: Run, loop: Loop | None = None, agreed: Agreed | None = None) -> tuple[Tensor, str]:
    """The examples of a run themselves, in the order of its ids, images in 0..1; and a fingerprint of them.

    Args:
        run: The run.
        loop: As `again` takes it.
        agreed: Likewise.

    Raises:
        UsageError: The run has no plan and there is no loop, or the loop's batches do not begin with numbers.
        Mismatch: The data are not those of the recording.
    """
    if has_plan(run):
        examples = material_of(plan_of(run)).train
        return examples.plain(), examples.content
    if loop is None:
        raise UsageError(
            f"{run.folder} was recorded in your own loop, whose data assay does not know; in Python, give score(..., "
            "loop=assay.Loop(model, optimizer, loader)), or rows of your own: score('cg_score:inputs=NAME', inputs={NAME: rows})."
        )
    course = LoopCourse(run, loop)
    _agreement(course, agreed)
    parts = []
    for positions in torch.arange(len(run.ids)).split(PART):
        batch = course.clean(positions)
        inputs = batch[0] if isinstance(batch, (tuple, list)) else None
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise UsageError(
                f"The batches of the loader of {run.folder} do not begin with a tensor of fractions; give rows of your own: "
                "score('cg_score:inputs=NAME', inputs={NAME: rows})."
            )
        parts.append(inputs.cpu())
    return torch.cat(parts), LOOP


def identity(replay: Replay) -> dict[str, str]:
    """Fingerprint of each target that has one; what a user's function computes cannot be told."""
    return {name: target.fingerprint for name, target in replay.given.items() if isinstance(target, MeanLoss)}


def _course(run: Run, plan: Plan, material: Material) -> Course:
    examples = material.train

    def states(epoch: int) -> TrainingState:
        file = run.state(epoch)
        return TrainingState.read(file.read_all(), file.notes)

    return RecipeCourse(
        plan.build(material, plan.model_seed),
        examples.inputs,
        examples.labels,
        examples.ids,
        plan.training,
        states,
        prepare=examples.prepared,
        augment=plan.augmentation(material, plan.model_seed),
    )


def _own(name: str, given: Given, run: Run) -> Target:
    if isinstance(given, Examples):
        known = set(run.ids)
        if both := [one for one in given.ids if one in known]:
            raise Mismatch(
                f"{len(both)} of the {len(given)} examples of target {name!r} are trained on (ids {some(both, len(both))}); what is trained on "
                "cannot say what helps. Hold other examples out."
            )
        return mean_loss(given, name)
    if callable(given):
        return Single(given)
    if not isinstance(given, tuple) or len(given) not in (2, 3) or not all(isinstance(part, Tensor) for part in given):
        raise UsageError(f"Target {name!r} is neither a function of the model nor Examples nor (inputs, labels) as tensors.")
    inputs, labels = given[0], given[1]
    weights = given[2] if len(given) == 3 else torch.ones(len(labels), dtype=torch.float64)
    return _mean(name, inputs, labels, weights, None)


def _mean(name: str, inputs: Tensor, labels: Tensor, weights: Tensor, prepare: Callable[[Tensor], Tensor] | None) -> MeanLoss:
    if not len(inputs) == len(labels) == len(weights) or not len(inputs):
        raise UsageError(
            f"Target {name!r}: {len(inputs)} inputs, {len(labels)} labels and {len(weights)} weights do not go together."
        )
    if not bool(weights.isfinite().all()) or not float(weights.sum()) > 0:
        raise UsageError(f"Target {name!r}: its weights must be finite and add up to more than 0.")
    return MeanLoss(inputs, labels, weights.to(torch.float64), prepare)


def _planned(material: Material, texts: Sequence[str]) -> dict[str, Target]:
    found: dict[str, Target] = {}
    if material.validation is not None:
        found["validation"] = mean_loss(material.validation, "validation")
    for text in texts:
        kind, _, value = text.partition("=")
        if kind == "test" and not value:
            found[text] = mean_loss(material.test, text)
            continue
        if kind not in ("validation", "class", "id", "ids") or bool(value) == (kind == "validation"):
            raise UsageError(f"Target {text!r} is not validation, test, class=NAME, id=ID or ids=FILE.")
        held = material.validation
        if held is None:
            raise UsageError(
                f"Target {text!r}: the plan held out no validation examples; record with `validation = 0.1` (`--validation 0.1`), or ask for "
                "target=test, which then can no longer judge a decision made by it."
            )
        if kind == "class":
            found[text] = mean_loss(held, text, (held.labels == _class(held, value)).to(torch.float64))
        elif kind == "id":
            found[text] = mean_loss(held, text, _weights(held, {value: 1.0}, text))
        elif kind == "ids":
            found[text] = mean_loss(held, text, _weights(held, _read(value), text))
    return found


def mean_loss(examples: Examples, name: str, weights: Tensor | None = None) -> MeanLoss:
    """The mean loss of these examples, as a target of that name.

    Raises:
        UsageError: No example has a weight.
    """
    weights = torch.ones(len(examples), dtype=torch.float64) if weights is None else weights
    if bool((weights != 0).any()):
        examples, weights = examples.take(weights != 0), weights[weights != 0]
    return _mean(name, examples.inputs, examples.labels, weights, examples.prepared)


def _class(examples: Examples, name: str) -> int:
    if name not in examples.class_names:
        raise UsageError(f"Target class={name}: the classes are {some(examples.class_names, examples.classes)}.")
    return examples.class_names.index(name)


def _weights(examples: Examples, given: Mapping[str, float], text: str) -> Tensor:
    places = {str(one): place for place, one in enumerate(examples.ids)}
    strange = [one for one in given if one not in places]
    if strange:
        raise UsageError(f"Target {text}: {some(strange, len(strange))} are no validation examples.")
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


def _check_apart(replay: Replay, asked: Collection[str] | None) -> dict[str, str]:
    """Sentences on targets some of whose examples look like trained ones, by name: single equal rows happen in real tables.

    An input of a target is looked for among the rows of every tensor of the training batches, however those are laid out.

    Args:
        replay: Whose targets and training examples.
        asked: The targets that are looked at; None for all.

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
        trained = {row for value in _tensors(replay.course.clean(positions), len(positions)) for row in _bytes(value)}
        for name, own in sought.items():
            met[name] |= trained & own
    for name, own in sought.items():
        if 2 * len(met[name]) >= len(own):
            raise Mismatch(
                f"{len(met[name])} of the {len(own)} examples of target {name!r} are trained on; what is trained on cannot say what helps. "
                "Hold other examples out."
            )
    return {
        name: f"{len(rows)} of the {len(sought[name])} inputs of target {name!r} are also inputs of training examples, which then help themselves."
        for name, rows in met.items()
        if rows
    }


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
