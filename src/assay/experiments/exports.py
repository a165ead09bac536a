"""Results for other tools: one table of a run, cleanlab's table of issues, fields of FiftyOne, tasks of Label Studio, the part of a dataset card."""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import torch
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.decision import Action, Decision
from ..core.errors import MissingEvidence, UsageError, listed
from ..core.ids import Ids
from ..core.needs import Need
from ..core.scores import Scores, ScoreTable
from ..core.tabular import Table, texts
from ..core.words import printable
from ..data.examples import Examples
from ..data.pictures import for_people
from ..methods import METHODS
from ..runs.run import Run
from .detection import check_dataset
from .evidence import gather_together, known_mean_probs
from .models import members_of
from .plan import came_of, folds_of, has_plan, load_data, plan_of

ISSUES = (Action.DROP, Action.RELABEL)
"""What a decision does with an example that it takes for wrong."""
CONTENT = "content"
"""Name of what is shown, in a labelling interface; its answer is `class`."""


@checked_arguments
def result_table(
    run: str | Path | Run,
    scores: ScoreTable | Mapping[str, Scores] | Sequence[Scores] = (),
    decision: Decision | None = None,
) -> Table:
    """All that is known of each example of a run, in the run's order.

    Args:
        run: The run.
        scores: Scores of it; examples that a score does not cover have an empty cell.
        decision: A decision on it.

    Returns:
        A table with the columns `id`, `given_class` (where examples have a class), `predicted_class` and `given_probability` (of the given class; both by the mean
        probabilities over the recorded epochs, where they were kept of every example); under the title of each score its value and `rank TITLE`; and `action`,
        `new_class`, `weight` and `reason` of the decision.

    Raises:
        Mismatch: A score or the decision is of another recording.
    """
    opened = run if isinstance(run, Run) else Run(run)
    many = _scores(scores)
    check_dataset(opened, many, decision)
    n = len(opened.ids)
    columns: dict[str, np.ndarray] = {"id": opened.ids.values}
    if opened.task == "classes":
        columns["given_class"] = _names(opened, opened.labels)
    if (probs := _probs(opened)) is not None:
        columns["predicted_class"] = _names(opened, probs.argmax(1))
        columns["given_probability"] = probs[torch.arange(n), opened.labels].to(torch.float64).numpy()
    for one in many:
        place = opened.ids.positions(one.ids, f"run {opened.folder}").numpy()
        for title, values in ((one.title, one.values.numpy()), (f"rank {one.title}", one.ranks().numpy())):
            covered = np.ma.MaskedArray(np.zeros(n, values.dtype), np.ones(n, bool))
            covered[place] = values
            columns[title] = covered
    if decision is not None:
        place = opened.ids.positions(decision.ids, f"run {opened.folder}").numpy()
        for name, empty in (("action", ""), ("new_class", ""), ("weight", 1.0), ("reason", "")):
            found = _named(decision, opened).get(name)
            if found is not None:
                column = texts([empty] * n) if isinstance(empty, str) else np.full(n, empty)
                column[place] = found
                columns[name] = column
    return Table(f"results of {opened.folder}", columns)


@checked_arguments
def issue_table(run: str | Path | Run, score: Scores, decision: Decision | None = None) -> Table:
    """Which labels are issues, in the columns of cleanlab's `get_label_issues`.

    Args:
        run: The run.
        score: Scores that rank suspects.
        decision: A decision on the same examples; those that it drops or relabels are the issues. Without one, they are those of which the score itself claims it: values
            below 0 that say so, or a predicted change of a target that is harmful.

    Returns:
        A table with the columns `id`, `is_label_issue`, `label_quality` (the place of the score among all examples: 0 for the most suspect, 1 for the least), `given_label` and
        `predicted_label` (names of classes, the latter by the mean probabilities over the recorded epochs), and the score's values under its title.

    Raises:
        UsageError: Examples have no class, the score ranks difficulty, or neither it nor a decision says which labels are issues.
        MissingEvidence: The run kept no probabilities, or not those of every example.
        Mismatch: The score or the decision is of another recording or of other examples.
    """
    opened = run if isinstance(run, Run) else Run(run)
    check_dataset(opened, [score], decision)
    _check_classes(opened, "cleanlab's table of issues")
    together = gather_together(members_of(opened))
    probs = together.mean_probs if Need.MEAN_PROBS in together.holds else None
    if probs is None:
        raise MissingEvidence(f"{opened.folder} kept no mean probabilities, which say what is predicted ({Need.MEAN_PROBS.how}).")
    place = opened.ids.positions(score.ids, f"run {opened.folder}")
    score.suspicion()  # refuses what ranks difficulty
    n = len(score)
    if decision is not None:
        done = decision.actions[decision.ids.positions(score.ids, f"decision {decision.title}")]
        issues, why = torch.isin(done, torch.tensor([int(one) for one in ISSUES])), f"{decision.title} drops or relabels it"
    elif (harmful := score.harmful()) is not None:
        issues, why = harmful, f"{score.title} predicts that it does harm"
    elif (cls := METHODS.get(score.method)) is not None and cls.below_zero:
        issues, why = score.values < 0, f"{score.title} is below 0: {cls.below_zero}"
    else:
        raise UsageError(
            f"{score.title} ranks labels and does not say which are wrong; name a decision that drops or relabels some, made by `assay choose`."
        )
    quality = (score.ranks().to(torch.float64) - 1) / max(1, n - 1)
    columns = {
        "id": score.ids.values,
        "is_label_issue": issues.numpy(),
        "label_quality": quality.numpy(),
        "given_label": _names(opened, opened.labels[place]),
        "predicted_label": _names(opened, probs.argmax(1)[place]),
        score.title: score.values.numpy(),
    }
    notes = (
        f"is_label_issue: {why}.",
        f"label_quality: the place of {score.title} among {n:,} examples, 0 for the most suspect and 1 for the least; it is no probability.",
    )
    return Table(f"label issues of {opened.folder}", columns, notes)


@checked_arguments
def fiftyone_fields(
    run: str | Path | Run,
    scores: ScoreTable | Mapping[str, Scores] | Sequence[Scores] = (),
    decision: Decision | None = None,
) -> dict[str, dict[str, Any]]:
    """The columns of `result_table` as FiftyOne's `Dataset.set_values(field, values, key_field=...)` takes them.

    Returns:
        For each field, whose name begins with `assay_`, its value by the id of the example as a text; cells that are empty are left out.

    Raises:
        UsageError: Two scores make the same name of a field.
        Mismatch: A score or the decision is of another recording.
    """
    columns = result_table(run, scores, decision).to_numpy()
    ids = [str(one) for one in columns.pop("id").tolist()]
    fields: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        field = f"assay_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}"
        if field in fields:
            raise UsageError(f"Two columns make the field {field}; leave out one of the scores.")
        fields[field] = {one: value for one, value in zip(ids, column.tolist(), strict=True) if value is not None}
    return fields


@checked_arguments
def label_studio_tasks(
    run: str | Path | Run,
    score: Scores,
    decision: Decision | None = None,
    *,
    items: Mapping[Any, Mapping[str, Any]] | None = None,
    most: int | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Tasks for Label Studio, the most suspect first, each with the model's prediction; and the labelling interface that they go with.

    Args:
        run: The run.
        score: Scores that rank suspects.
        decision: Only the examples that this decision drops, relabels or weighs become tasks; None for all.
        items: What is shown of each example, by id: an `image` (an address), a `text`, or any columns, which are shown as text. A run with a plan shows its
            own pictures or cells by default.
        most: At most so many tasks; None for all.

    Returns:
        The tasks, and the interface as XML: put it into the project's settings before the tasks are imported.

    Raises:
        UsageError: Examples have no class, the score ranks difficulty, or what is to be shown is not known.
        Mismatch: The score or the decision is of another recording, or an example is not among `items`.
    """
    opened = run if isinstance(run, Run) else Run(run)
    check_dataset(opened, [score], decision)
    _check_classes(opened, "a task of Label Studio")
    if most is not None and most < 1:
        raise UsageError(f"most={most} is below 1; ask for one task or more.")
    score.suspicion()
    order = score.ranks().argsort()
    if decision is not None:
        touched = decision.touched[decision.ids.positions(score.ids, f"decision {decision.title}")]
        order = order[touched[order]]
    order = order[:most]
    ids, ranks = score.ids.take(order), score.ranks()[order].tolist()
    place = opened.ids.positions(ids, f"run {opened.folder}")
    contents, probs = _contents(opened, ids, items), _probs(opened)
    tasks = []
    for at, one in enumerate(ids):
        row = int(place[at])
        given = opened.class_names[int(opened.labels[row])]
        data = {
            **contents[at],
            "assay_id": one,
            "given_class": given,
            "rank": ranks[at],
            "score": float(score.values[order[at]]),
        }
        task: dict[str, Any] = {"data": data}
        if probs is not None:
            best = int(probs[row].argmax())
            answer = {
                "from_name": "class",
                "to_name": CONTENT,
                "type": "choices",
                "value": {"choices": [opened.class_names[best]]},
            }
            task["predictions"] = [
                {"model_version": f"assay {opened.fingerprint}", "score": float(probs[row, best]), "result": [answer]}
            ]
        tasks.append(task)
    shown = next((kind for kind in ("image", "text") if contents and kind in contents[0]), "text")
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in opened.class_names)
    tag = "Image" if shown == "image" else "Text"
    view = (
        f'<View>\n  <{tag} name="{CONTENT}" value="${shown}"/>\n  <Header value="Given: $given_class"/>\n'
        f'  <Choices name="class" toName="{CONTENT}" choice="single" showInline="true">\n{choices}\n  </Choices>\n</View>\n'
    )
    return tasks, view


@checked_arguments
def dataset_card(
    run: str | Path | Run,
    scores: ScoreTable | Mapping[str, Scores] | Sequence[Scores] = (),
    decisions: Sequence[Decision] = (),
) -> str:
    """A part of a dataset card, in Markdown: what was recorded, scored and decided, with the fingerprints by which each can be told.

    Args:
        run: The run.
        scores: Scores of it.
        decisions: Decisions on it.

    Raises:
        Mismatch: A score or a decision is of another recording.
    """
    opened = run if isinstance(run, Run) else Run(run)
    many = _scores(scores)
    check_dataset(opened, many)
    for one in decisions:
        check_dataset(opened, [], one)
    header, passes = opened.header, opened.passes
    source = "one recorded training" if passes is None else _marked(str(header.about.get("made of", "recorded predictions")))
    recorded = (
        f"{opened.epochs} epochs, pass `{header.view}`, seed {header.seed}"
        if passes is None
        else passes.summary(opened.epochs, folds_of(opened))
    )
    lines = [
        "## How the labels were examined",
        "",
        f"Every training example was valued by [assay](https://pypi.org/project/assay) {header.code} from {source}.",
        "",
        "| | |",
        "|---|---|",
        f"| examples | {len(opened.ids):,}{' in ' if opened.task == 'classes' else ', '}{opened.classes_in_words} |",
        f"| dataset (SHA-256 of ids and given labels) | `{opened.dataset}` |",
        f"| recording | `{opened.fingerprint}`, {recorded}, torch {header.torch} |",
    ]
    lines += [
        f"| score {_marked(one.title)} | `{one.fingerprint}`, {one.direction.value}, unit {_marked(one.unit)}; {_source(one.method)} |"
        for one in many
    ]
    for one in decisions:
        counts = ", ".join(f"{action} {count:,}" for action, count in one.counts().items())
        lines.append(f"| decision {_marked(one.title)} | `{one.fingerprint}`, {counts} |")
    return "\n".join(lines) + "\n"


def _marked(text: str) -> str:
    """A text of the user's in a cell of Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(printable(text).split()))


def _source(method: str) -> str:
    cls = METHODS.get(method)
    return f"[{_marked(cls.source.cite)}]({cls.source.url})" if cls is not None else f"method {_marked(method)}"


def _scores(scores: ScoreTable | Mapping[str, Scores] | Iterable[Scores]) -> list[Scores]:
    found = list(scores.values() if isinstance(scores, Mapping) else scores)
    if twice := sorted({one.title for one in found if [other.title for other in found].count(one.title) > 1}):
        raise UsageError(f"Two scores are titled {listed(twice, len(twice))}; give each once.")
    return found


def _names(run: Run, labels: Tensor) -> np.ndarray:
    return texts([run.class_names[label] for label in labels.tolist()])


def _probs(run: Run) -> Tensor | None:
    return known_mean_probs(gather_together(members_of(run)))


def _check_classes(run: Run, what: str) -> None:
    if run.task != "classes":
        raise UsageError(
            f"{what} is about the class of each example, and {run.folder} recorded {run.classes_in_words} example; export a table: `assay export "
            f"{run.folder} FILE --to csv`, in Python assay.result_table."
        )


def _named(decision: Decision, run: Run) -> dict[str, np.ndarray]:
    """The columns of a decision, with the names of the run's classes."""
    if run.task != "classes":
        return decision.to_numpy()
    names = texts([run.class_names[label] if label >= 0 else "" for label in decision.labels.tolist()])
    return {**decision.to_numpy(), "new_class": names}


def _contents(run: Run, ids: Ids, items: Mapping[Any, Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """What is shown of each example."""
    if items is not None:
        if absent := [one for one in ids if one not in items]:
            raise UsageError(
                f"{len(absent)} examples are not among the items: {listed(absent, len(absent))}; give what is shown of each."
            )
        return [_shown(dict(items[one])) for one in ids]
    if not has_plan(run):
        raise UsageError(
            f"{run.folder} {came_of(run)}, whose data assay does not know; give --items FILE, a table of id and text or image (in Python "
            "items={id: {'text': ...}})."
        )
    return _pictured(load_data(plan_of(run)).train, ids)


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    if "image" in item or "text" in item:
        return item
    return {**item, "text": "\n".join(f"{name}: {value}" for name, value in item.items())}


def _pictured(examples: Examples, ids: Ids) -> list[dict[str, Any]]:
    place = examples.ids.positions(ids, "the data")
    if examples.rows is not None:
        return [
            {"text": "\n".join(f"{name}: {cell}" for name, cell in zip(examples.columns, examples.rows[at], strict=True))}
            for at in place.tolist()
        ]
    pictures, note = for_people(examples.inputs[place]) if examples.pictures else (None, "An input is a row of numbers.")
    if pictures is None:
        raise UsageError(f"{note} Give --items FILE, a table of id and text or image, for people to look at.")
    return [{"image": _png(picture)} for picture in pictures]


def _png(picture: Tensor) -> str:
    """A picture as an address that holds it."""
    from PIL import Image

    body = io.BytesIO()
    Image.fromarray(
        picture.permute(1, 2, 0).squeeze(2).contiguous().numpy()
        if picture.shape[0] == 1
        else picture.permute(1, 2, 0).contiguous().numpy()
    ).save(body, "PNG")
    return f"data:image/png;base64,{base64.b64encode(body.getvalue()).decode()}"
