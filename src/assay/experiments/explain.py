"""Explain: from a recorded run and one query to the training examples behind its prediction."""

import base64
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.attribution import AbstractAttributor
from ..core.errors import AssayError, MissingEvidence, UnknownName, UsageError, listed
from ..core.explanation import Behind, Explanation, LabelFrom
from ..core.features import DATA
from ..core.lineage import Lineage, fingerprint
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..core.scores import Scores, ordered
from ..data.examples import Examples
from ..data.own import own_input
from ..data.pictures import for_people
from ..methods import catalogue, parse
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given, MeanLoss
from ..reports.thumbnails import thumbnail
from ..runs.artefacts import save_explanation
from ..runs.run import Run
from .evidence import Agreed, gather_together, known_mean_probs
from .models import members_of, open_models
from .plan import has_plan, load_data, plan_of
from .request import Request
from .scorable import inputs_asked, is_replayed
from .score import score
from .targets import TRAINED_ON

DEFAULT = "tracin"
"""The method that explains where none is named."""
QUERY = "query"
"""Name of the target that a method is given."""
VALIDATION, TEST, TRAINING = "validation", "test", "training"
"""Parts of the examples by which an id can be told from an equal one."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Query:
    """One input, and what is known of it."""

    words: str
    inputs: Tensor
    label: int | None = None
    like: Examples | None = None
    position: int | None = None
    picture: Tensor | None = None
    row: str = ""
    note: str = ""

    def rows(self, label: int) -> MeanLoss:
        """The loss of this class as a target."""
        prepare = None if self.like is None else self.like.prepared
        one = torch.ones(1, dtype=torch.float64)
        return MeanLoss(self.inputs, torch.tensor([label]), one, prepare, trained_on=True)


@checked_arguments
def explain(
    run: str | Path | Run,
    example: int | str | None = None,
    *,
    query: Any = None,
    label: int | str | None = None,
    method: str | AbstractMethod = DEFAULT,
    k: int = 5,
    save: bool = False,
    loop: Loop | None = None,
    replay_config: ReplayConfig | None = None,
) -> Explanation:
    """The training examples that help and harm one prediction most.

        assay.explain("runs/digits", 17)
        assay.explain("runs/digits", query="mine.png", label="7")

    A method that predicts how a target changes is given the loss of the query as its target: of its given label, of the class that `label` names, or
    else of the class that the model predicts. A helpful example lowers that loss, a harmful one raises it. The prediction is that of
    the last recorded model; of several models of a recording the mean probabilities and values are taken.

    Args:
        run: The run.
        example: Id of an example that the run held out for validation or testing, or of a training example, whose own loss is then explained. Where
            parts share ids, `validation=ID`, `test=ID` or `training=ID`. With `loop`, of a training example.
        query: Instead of it an input of your own. For runs with a plan a file: a picture, an .npy or .npz file of one input, or for tables a CSV
            file of a header and one row. With `loop`, `(input, label)`, the label None where it is not known.
        label: Name or number of the class whose loss is explained.
        method: A method with a target, such as an attributor.
        k: How many helpful and how many harmful examples, at most.
        save: Keep the explanation in the run's folder, where the command `assay report` finds it; in Python the page takes it by
            `assay.ReportOptions(explanations=[...])`.
        loop: The `Loop` that describes your own training loop; not for runs with a plan.
        replay_config: How the steps are repeated, for methods that repeat them: tolerance, schedule, memory.

    Raises:
        UnknownName: No such method, option, example or class.
        UsageError: Neither or both of `example` and `query`, a method without a target, or an input of another shape.
        MissingEvidence: The run kept no model of its last epoch, or lacks what the method needs.
        Mismatch: Data, model or loop are not those of the recording.
    """
    began = time.perf_counter()
    run = run if isinstance(run, Run) else Run(run)
    if (example is None) == (query is None):
        raise UsageError("Name one thing to explain: the id of an example, or query=, an input of your own.")
    if k < 1:
        raise UsageError(f"k={k} is below 1; ask for one example or more.")
    if run.task != "classes":
        raise MissingEvidence(
            f"{run.folder} recorded {run.classes_in_words} example, and an explanation is of a predicted class; score {method} with the query as target: "
            "score(run, METHOD, loop=..., targets={'validation': (inputs, labels)})."
        )
    named, aimed = _aimed(method)
    if has_plan(run) and Need.GAME in aimed.reads:
        raise UsageError(
            f"{named.title} trains learners on the data of a plan as they are read, and a query is in the form that the net takes; explain by a method that plays "
            f"no game, such as {DEFAULT}."
        )
    replays = open_models(members_of(run), [], Request(loop=loop, replay_config=replay_config), Agreed())
    asked = _query(run, replays[0], example, query, loop)
    probs = _probs(replays, asked)
    predicted = int(probs.argmax())
    number, label_from = _label(run, asked, label, predicted)
    targets: dict[str, Given] = {QUERY: asked.rows(number)}  # type: ignore[dict-item]
    how = replay_config if is_replayed(run, aimed) else None
    with _as_named(named, aimed):
        (scores,) = score(run, aimed, strict=True, loop=loop, targets=targets, replay_config=how).values()
    helps = -scores.direction.sign * scores.values
    ends = []
    for helpful in (True, False):
        place = ordered(helps, scores.ids, descending=helpful)[:k]
        ends.append(place[helps[place] > 0] if helpful else place[helps[place] < 0])
    made = Explanation(
        query=asked.words,
        label=number,
        label_from=label_from,
        predicted=predicted,
        probability=float(probs[predicted]),
        label_probability=float(probs[number]),
        class_names=run.class_names,
        method=named.title,
        unit=scores.unit,
        helpful=_behind(run, replays[0], scores, ends[0], asked),
        harmful=_behind(run, replays[0], scores, ends[1], asked),
        examples=len(scores),
        own=_own(run, replays[0], scores, asked),
        picture=_picture(asked.picture)[0],
        row=asked.row,
        lineage=Lineage(
            dataset=run.dataset,
            parents={
                "run": run.fingerprint,
                "scores": scores.fingerprint,
                "query": asked.rows(number).fingerprint,
                **(replay_config or ReplayConfig()).identity,
            },
            code=__version__,
            seed=run.header.seed,
            device=str(replays[0].training.device),
            seconds=time.perf_counter() - began,
            folder=str(run.folder),
        ),
        warnings=tuple(
            _said(words, named, aimed) for words in (asked.note, _unscored(scores), *_known(scores.warnings, asked)) if words
        ),
        diagnostics=scores.diagnostics,
    )
    if save:
        save_explanation(made, run.paths.explanation(name_of(made)))
    return made


def name_of(made: Explanation) -> str:
    """Name under which an explanation is saved in the run's folder: another query, class or method has another."""
    query = made.lineage.parents.get("query", "") if made.lineage is not None else ""
    return f"{made.query} by {made.method} {fingerprint(query)[:8]}"


def _aimed(method: str | AbstractMethod) -> tuple[AbstractMethod, AbstractMethod]:
    """The method as it was named, and with the query as its target.

    Raises:
        UsageError: It has no target, or one was named; or an option means nothing for one query.
    """
    named = parse(method)
    fields = {field.name: field for field in dataclasses.fields(named)}  # type: ignore[arg-type]
    aimed = dataclasses.replace(named, target=QUERY) if "target" in fields else named  # type: ignore[type-var]
    if aimed.asks.named_targets != (QUERY,) or not aimed.direction.ranks_suspects:
        able = [name for name, cls in catalogue().items() if "target" in cls.__dataclass_fields__]  # type: ignore[attr-defined]
        raise UsageError(f"{named.title} does not say what an example is worth to one prediction; choose {' or '.join(able)}.")
    if getattr(named, "target", None) != fields["target"].default:
        raise UsageError(f"{named.title}: the target is the query here; leave the option target out.")
    if isinstance(named, AbstractAttributor) and named.reduce != "mean":
        raise UsageError(
            f"{named.title}: reduce= makes one number of many queries, and here is only one; leave reduce={named.reduce} out."
        )
    if rows := [one for one in inputs_asked(aimed) if one != DATA]:
        raise UsageError(
            f"{named.title} reads rows named {rows[0]!r}, and of the query there are none; choose features=inputs or features=penultimate."
        )
    return named, aimed


def _said(words: str, named: AbstractMethod, aimed: AbstractMethod) -> str:
    """A sentence in the user's words, who gave the method no target."""
    return words.replace(aimed.title, named.title).replace(f"target {QUERY!r}", "the query")


@contextlib.contextmanager
def _as_named(named: AbstractMethod, aimed: AbstractMethod) -> Iterator[None]:
    """Puts errors into the user's words.

    Raises:
        AssayError: The same error.
    """
    try:
        yield
    except AssayError as error:
        error.args = tuple(_said(one, named, aimed) if isinstance(one, str) else one for one in error.args)
        raise


def _query(run: Run, replay: Replay, example: int | str | None, query: Any, loop: Loop | None) -> _Query:
    if has_plan(run):
        loaded = load_data(plan_of(run))
        if query is None:
            return _held(run, {VALIDATION: loaded.validation, TEST: loaded.test, TRAINING: loaded.train}, example)
        if not isinstance(query, (str, Path)):
            raise UsageError(
                f"{run.folder} was recorded by a plan, whose data are read from files; give query= as the path of a file, not "
                f"{type(query).__name__}."
            )
        own = own_input(str(query), loaded.train, loaded.own)
        picture = own.inputs if loaded.train.pictures else None
        row = _cells(loaded.train.columns, own.row)
        return _Query(
            f"the input of {Path(query).name}", own.inputs, own.label, loaded.train, picture=picture, row=row, note=own.note
        )
    if query is None:
        place = {str(one): at for at, one in enumerate(run.ids)}.get(str(example).removeprefix(f"{TRAINING}="))
        if place is None:
            raise UsageError(
                f"No training example has the id {str(example)!r}, and of your own loop assay knows no others; give query=(input, label)."
            )
        batch = replay.training.clean(torch.tensor([place]))
        inputs = batch[0] if isinstance(batch, (tuple, list)) else None
        if not isinstance(inputs, Tensor) or inputs.ndim < 2:
            raise UsageError(
                f"The batches of the loader of {run.folder} do not begin with a tensor of inputs; give query=(input, label) as the model takes it."
            )
        words = f"training example {run.ids.values[place]}"
        return _Query(words, inputs.cpu(), int(run.labels[place]), position=place, picture=inputs.cpu())
    if not isinstance(query, tuple) or len(query) != 2 or not isinstance(query[0], Tensor):
        raise UsageError("With loop=, give query=(input, label): a tensor as the model takes it, and a class or None.")
    inputs, label = query
    batch = replay.training.clean(torch.tensor([0]))
    like = batch[0] if isinstance(batch, (tuple, list)) else None
    if not isinstance(like, Tensor) or tuple(inputs.shape) != tuple(like.shape):
        inputs = inputs[None]
    if isinstance(like, Tensor) and inputs.shape != like.shape:
        raise UsageError(
            f"The input of query= has shape {tuple(inputs.shape[1:])}, an example's input {tuple(like.shape[1:])}; give one of that shape."
        )
    if not bool(inputs.isfinite().all()):
        raise UsageError("The input of query= is not finite everywhere; give finite numbers.")
    number = None if label is None else _number(run, int(label) if isinstance(label, Tensor) and label.numel() == 1 else label)
    return _Query("your input", inputs.detach().cpu(), number, picture=inputs.detach().cpu())


def _held(run: Run, parts: dict[str, Examples | None], example: int | str | None) -> _Query:
    """The example of that id in a run with a plan."""
    text, places = str(example), {}
    part, _, id_ = text.partition("=")
    for name, examples in parts.items():
        if examples is None:
            continue
        known = {str(one): at for at, one in enumerate(examples.ids)}
        if text in known:
            places[name] = known[text]
        elif part == name and id_ in known:
            places[name] = known[id_]
    if not places:
        names = [name for name, examples in parts.items() if examples is not None]
        some = "; ".join(
            f"{name}: {listed(examples.ids.values, len(examples))}" for name, examples in parts.items() if examples is not None
        )
        raise UsageError(f"No example of {run.folder} ({', '.join(names)}) has the id {text!r}. There are {some}.")
    if len(places) > 1:
        ways = " or ".join(f"{name}={text}" for name in places)
        raise UsageError(f"The id {text!r} is of several examples; name one of them as {ways}.")
    ((name, at),) = places.items()
    found = parts[name]
    assert found is not None
    one = found.take(torch.tensor([at]))
    row = _cells(one.columns, one.rows[0] if one.rows is not None else ())
    picture = one.inputs if one.pictures else None
    position = at if name == TRAINING else None
    return _Query(f"{name} example {one.ids.values[0]}", one.inputs, int(one.labels[0]), one, position, picture, row)


def _probs(replays: Sequence[Replay], asked: _Query) -> Float64[Tensor, " classes"]:
    """Probability of each class by the last models of the recording, their mean."""
    found = []
    for replay in replays:
        replay.given[QUERY] = asked.rows(0)
        model = replay.at(len(replay.epochs) - 1)
        (batch,) = model.queries(QUERY)
        logits, _ = batch.functional.predicted(batch.params, batch.buffers, batch.batch)
        found.append(logits[0].to("cpu", torch.float64).softmax(-1))
    return torch.stack(found).mean(0)


def _label(run: Run, asked: _Query, label: int | str | None, predicted: int) -> tuple[int, LabelFrom]:
    if label is not None:
        return _number(run, label), "named"
    return (predicted, "predicted") if asked.label is None else (asked.label, "given")


def _number(run: Run, label: object) -> int:
    """Number of a class by its name or number.

    Raises:
        UnknownName: There is none.
    """
    if isinstance(label, str):
        if label not in run.class_names:
            raise UnknownName("class", label, run.class_names)
        return run.class_names.index(label)
    if not isinstance(label, (int, np.integer)) or isinstance(label, bool) or not 0 <= label < run.classes:
        raise UsageError(f"label={label!r} is no class; give a name, or a number of 0 to {run.classes - 1}.")
    return int(label)


def _behind(run: Run, replay: Replay, scores: Scores, places: Tensor, asked: _Query) -> tuple[Behind, ...]:
    """The training examples at these places of the scores, with what people are shown of them."""
    if not len(places):
        return ()
    positions = run.ids.positions(scores.ids.take(places))
    together = gather_together(members_of(run))
    probs = known_mean_probs(together)
    believed = None if probs is None else probs.argmax(1)
    loaded = load_data(plan_of(run)).train if has_plan(run) else None
    pictures, rows = [""] * len(places), [""] * len(places)
    if loaded is not None:
        where = loaded.ids.positions(run.ids.take(positions))
        pictures = _picture(loaded.inputs[where] if loaded.pictures else None, len(places))
        if loaded.rows is not None:
            rows = [_cells(loaded.columns, loaded.rows[at]) for at in where.tolist()]
    else:
        batch = replay.training.clean(positions)
        seen = batch[0] if isinstance(batch, (tuple, list)) else None
        pictures = _picture(seen.cpu() if isinstance(seen, Tensor) else None, len(places))
    return tuple(
        Behind(
            id=run.ids.values[at].item() if run.ids.numeric else str(run.ids.values[at]),
            label=int(run.labels[at]),
            value=float(scores.values[place]),
            believed=None if believed is None else int(believed[at]),
            itself=at == asked.position,
            picture=pictures[number],
            row=rows[number],
        )
        for number, (place, at) in enumerate(zip(places.tolist(), positions.tolist(), strict=True))
    )


def _own(run: Run, replay: Replay, scores: Scores, asked: _Query) -> Behind | None:
    """The query itself among the training examples."""
    if asked.position is None or run.ids.values[asked.position] not in scores.ids:
        return None
    return _behind(run, replay, scores, scores.ids.positions(run.ids.take(torch.tensor([asked.position]))), asked)[0]


def _picture(inputs: Tensor | None, count: int = 1) -> list[str]:
    """Thumbnails of these inputs as base64; empty texts where they are no pictures."""
    shown = None if inputs is None or inputs.ndim != 4 else for_people(inputs)[0]
    return [""] * count if shown is None else [base64.b64encode(thumbnail(one)).decode() for one in shown]


def _cells(columns: Sequence[str], row: Sequence[str]) -> str:
    return " · ".join(f"{name} {cell}" for name, cell in zip(columns, row, strict=True)) if row else ""


def _known(warnings: Sequence[str], asked: _Query) -> list[str]:
    """The warnings without the one that a training example is trained on."""
    return [words for words in warnings if asked.position is None or words != TRAINED_ON.format(QUERY)]


def _unscored(scores: Scores) -> str:
    if not len(scores.unscored):
        return ""
    return f"{len(scores.unscored):,} training examples have no value ({listed(scores.unscored, len(scores.unscored))}) and are not among these."
