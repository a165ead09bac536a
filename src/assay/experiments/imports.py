"""Decisions that were made in other tools: an edited table, issues that cleanlab found, tags and labels of FiftyOne, labels given in Label Studio."""

import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from .. import __version__
from ..core.arguments import checked_arguments, described
from ..core.decision import Action, Decision
from ..core.errors import Mismatch, RunError, UsageError, listed, reading
from ..core.lineage import Lineage, fingerprint
from ..core.words import printable
from ..runs.disk import read_bytes
from ..runs.run import Run
from ..runs.table_files import MOST_FILE, read_rows

FROM = Literal["csv", "jsonl", "parquet", "cleanlab", "fiftyone", "label-studio"]
"""Files that a decision is taken from."""
TABLES = ("csv", "jsonl", "parquet")
"""Tables, by the ending of their files."""
DROP = "drop"
"""FiftyOne's tag of samples that are dropped."""
IMPORTED = "import"
"""Stands for the policy of a decision that a person made."""


@checked_arguments
def import_decision(run: str | Path | Run, path: str | Path, kind: FROM) -> Decision:
    """A decision on a run from a file that was edited elsewhere.

    A table (`csv`, `jsonl`, `parquet`) has a row for each example of the run with `id` and `action` (keep, drop, relabel or weight); `new_class` (a name) or
    `new_label` (a number) where the action is relabel; `weight` where it is weight; and may have `reason` and any other columns. `assay export` writes such
    tables.

    cleanlab's table of issues, as a file of any of these kinds by its ending, with a row for each example: the columns `id` and `is_label_issue`. What is an issue is
    dropped, as cleanlab's `CleanLearning` does; `given_label`, where it is there, must be the recorded class, by name or number.

    FiftyOne's values by id (JSON): `{"tags": {id: [...]}, "label": {id: class}}`, either or both. A sample with the tag `drop` is dropped; one with another class than the
    recorded one is relabelled; what is not in the file stays as it is.

    Label Studio's export (JSON, not JSON-MIN) of tasks that `assay export --to label-studio` made: an example that was given another class than
    its recorded one is relabelled; examples that were not looked at, were skipped, or were given different classes by different people stay as they are, and
    the warnings of the decision say how many.

    Args:
        run: The run.
        path: The file.
        kind: What wrote it.

    Raises:
        UsageError: The file cannot be read; names the id and column that do not fit.
        Mismatch: Its ids are not those of the run.
    """
    opened, path = run if isinstance(run, Run) else Run(run), Path(path)
    if kind == "label-studio":
        with reading(path, UsageError, "Export the project as JSON again."):
            if opened.task != "classes":
                raise UsageError(
                    f"Label Studio tells classes, and {opened.folder} recorded {opened.classes_in_words} example; import a table of id and action (csv, jsonl or "
                    "parquet)."
                )
            body = json.loads(_content(path))
            return _decision(opened, path, *_answered(opened, path, body))
    if kind == "fiftyone":
        with reading(path, UsageError, "Write the values by id again, as docs/taking-results-out.md shows."):
            body = json.loads(_content(path), object_pairs_hook=functools.partial(_each_once, path))
            return _decision(opened, path, _tagged(opened, path, body), ())
    if kind == "cleanlab":
        if (ending := path.suffix[1:].lower()) not in TABLES:
            raise UsageError(f"{path} ends in none of .csv, .jsonl and .parquet; write the table of issues as one of these.")
        return _decision(opened, path, _found_issues(opened, path, read_rows(path, ending)), ())
    if kind not in TABLES:
        raise UsageError(f"kind={kind!r} is none of {', '.join(get_args(FROM))}.")
    return _decision(opened, path, _decided(opened, path, read_rows(path, kind)), ())


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, MOST_FILE)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; name the file to import.") from error
    except RunError as error:
        raise UsageError(str(error)) from error


Done = tuple[Action, int, float, str]
"""What is done with an example: action, new class or -1, weight, reason."""


def _decision(run: Run, path: Path, done: Sequence[Done], warnings: Sequence[str]) -> Decision:
    actions, labels, weights, reasons = zip(*done, strict=True)
    return Decision(
        ids=run.ids,
        actions=torch.tensor([int(action) for action in actions]),
        labels=torch.tensor(labels),
        weights=torch.tensor(weights, dtype=torch.float64),
        reasons=tuple(reasons),
        policy=IMPORTED,
        options={"file": path.name},
        title=f"{IMPORTED} of {path.name}",
        lineage=Lineage(
            dataset=run.dataset,
            parents={"run": run.fingerprint, "file": fingerprint(_content(path))},
            code=__version__,
            folder=str(run.folder),
        ),
        warnings=tuple(warnings),
        class_names=run.class_names,
    )


def _known(run: Run, path: Path, found: Iterable[Any], cure: str = "give the column id as it was exported") -> list[int | str]:
    """The ids in a file as the run has them; texts of a file that knows no numbers are read as such."""
    ids: list[int | str] = []
    for one in found:
        try:
            known = int(str(one)) if run.ids.numeric and not isinstance(one, bool) else str(one)
        except ValueError:
            known = str(one)
        if one is None or known not in run.ids:
            raise Mismatch(f"{path}: {described(one)} is no id of {run.folder}, whose ids look like {run.ids!r}; {cure}.")
        ids.append(known)
    if twice := sorted((one for one, count in Counter(ids).items() if count > 1), key=str):
        raise UsageError(f"{path} tells several times of {listed(twice, len(twice))}; leave one of each.")
    return ids


def _rows_by_id(
    run: Run, path: Path, rows: Sequence[Mapping[str, Any]], column: str, kept: str
) -> dict[int | str, Mapping[str, Any]]:
    """The rows of a table with a row for each example, by id; `kept` says how a row tells that its example stays."""
    for name in ("id", column):
        if not rows or any(name not in row for row in rows):
            raise UsageError(f"{path} has no column {name!r}; give one row for each example, with id and {column}.")
    by_id = dict(zip(_known(run, path, (row["id"] for row in rows)), rows, strict=True))
    if absent := [one for one in run.ids if one not in by_id]:
        raise Mismatch(f"{path} has no row of {len(absent)} examples: {listed(absent, len(absent))}; give each one, with {kept}.")
    return by_id


def _found_issues(run: Run, path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Done]:
    by_id = _rows_by_id(run, path, rows, "is_label_issue", "is_label_issue true or false")
    _check_given(run, path, by_id)
    done = []
    for one in run.ids:
        told = by_id[one]["is_label_issue"]
        word = _whole(told).lower()
        if word not in ("true", "false", "1", "0"):
            raise UsageError(f"{path}, id {one}: is_label_issue {described(told)} is neither true nor false.")
        done.append(
            (Action.DROP, -1, 0.0, "cleanlab: label issue") if word in ("true", "1") else (Action.KEEP, -1, 1.0, "no label issue")
        )
    return done


def _check_given(run: Run, path: Path, by_id: Mapping[int | str, Mapping[str, Any]]) -> None:
    """Refuse a table of other labels than the recorded ones: its column `given_label`, where it is there, names or numbers the classes.

    Raises:
        Mismatch: Names the first id of another class.
    """
    if run.task != "classes" or all(row.get("given_label") in (None, "") for row in by_id.values()):
        return
    rows = [(one, by_id[one].get("given_label"), label) for one, label in zip(run.ids, run.labels.tolist(), strict=True)]
    by_name = [one for one, given, label in rows if str(given) != run.class_names[label]]
    by_number = [one for one, given, label in rows if _whole(given) != str(label)]
    if by_name and by_number:
        # Whichever reading fits more of them.
        one = min(by_name, by_number, key=len)[0]
        given = by_id[one].get("given_label")
        label = next(run.class_names[label] for name, _, label in rows if name == one)
        raise Mismatch(
            f"{path}, id {one}: given_label {described(given)} is not the recorded class {label}; import the issues of these very labels."
        )


def _whole(value: Any) -> str:
    """A cell as text; of a whole number without its point, which pandas adds to columns with an empty cell."""
    text = str(value).strip()
    try:
        return str(int(float(text))) if not isinstance(value, bool) and float(text).is_integer() else text
    except (ValueError, OverflowError):
        return text


def _each_once(path: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if twice := sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1):
        raise UsageError(f"{path} tells several times of {listed(twice, len(twice))}; leave one of each.")
    return dict(pairs)


def _tagged(run: Run, path: Path, body: Any) -> list[Done]:
    parts = {"tags": list, "label": str}
    if not isinstance(body, dict) or not body or body.keys() - parts or not all(isinstance(one, dict) for one in body.values()):
        raise UsageError(
            f'{path} is no table of values by id; write {{"tags": {{id: [...]}}, "label": {{id: class}}}}, either or both.'
        )
    values: dict[str, dict[int | str, Any]] = {"tags": {}, "label": {}}
    for name, by_id in body.items():
        known = _known(run, path, by_id, "give the ids that the samples carry in the field assay_id")
        values[name] = {one: value for one, value in zip(known, by_id.values(), strict=True) if value is not None}
        for one, value in values[name].items():
            if not isinstance(value, parts[name]):
                raise UsageError(
                    f"{path}, id {one}: {name} {described(value)} is no {'list of tags' if name == 'tags' else 'name of a class'}."
                )
            if name == "label" and run.task != "classes":
                raise UsageError(f"{path} has labels, and {run.folder} recorded {run.classes_in_words} example; give tags alone.")
            if name == "label" and value not in run.class_names:
                raise UsageError(f"{path}, id {one}: label {described(value)} is none of {listed(run.class_names, run.classes)}.")
    done: list[Done] = []
    for one, label in zip(run.ids, run.labels.tolist(), strict=True):
        new = values["label"].get(one)
        if any(str(tag).strip().lower() == DROP for tag in values["tags"].get(one, ())):
            done.append((Action.DROP, -1, 0.0, f"FiftyOne: tagged {DROP}"))
        elif new is None or new == run.class_names[label]:
            done.append((Action.KEEP, -1, 1.0, "neither tagged nor given another class"))
        else:
            done.append(
                (Action.RELABEL, run.class_names.index(new), 1.0, f"FiftyOne: class {run.class_names[label]} becomes {new}")
            )
    return done


def _decided(run: Run, path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Done]:
    by_id = _rows_by_id(run, path, rows, "action", "the action keep or drop")
    done = [_row(run, f"{path}, id {one}", by_id[one]) for one in run.ids]
    for one, given, (action, _, weight, _) in zip(run.ids, run.labels.tolist(), done, strict=True):
        _check_read(run, f"{path}, id {one}", by_id[one], (action, given, weight))
    return done


def _check_read(run: Run, where: str, row: Mapping[str, Any], done: tuple[Action, int, float]) -> None:
    """Refuse a new class or a weight that the action of its row would leave unread.

    Raises:
        UsageError: Names the id, the column and the action that reads it.
    """
    action, given, weight = done
    new = row.get("new_class")
    if (
        action in (Action.KEEP, Action.WEIGHT)
        and new not in (None, "")
        and run.task == "classes"
        and new != run.class_names[given]
    ):
        raise UsageError(
            f"{where}: action {action.name.lower()} leaves new_class {described(new)} unread; say relabel, or empty the cell."
        )
    if action in (Action.KEEP, Action.RELABEL):
        try:
            told = float(row.get("weight", 1.0) or 1.0)
        except (TypeError, ValueError):
            return
        if told != weight and not math.isnan(told):
            raise UsageError(
                f"{where}: action {action.name.lower()} leaves weight {described(row['weight'])} unread; say weight, or empty the cell."
            )


def _row(run: Run, where: str, row: Mapping[str, Any]) -> Done:
    action = next((one for one in Action if one.name.lower() == str(row["action"]).strip().lower()), None)
    if action is None:
        raise UsageError(f"{where}: action {described(row['action'])} is none of keep, drop, relabel and weight.")
    label = _class(run, where, row) if action is Action.RELABEL else -1
    weight = {Action.DROP: 0.0, Action.WEIGHT: math.nan}.get(action, 1.0)
    if action is Action.WEIGHT:
        try:
            weight = float(row.get("weight"))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UsageError(
                f"{where}: weight {described(row.get('weight'))} is no number above 0; give the factor of the example's loss."
            )
    return action, label, weight, printable(str(row.get("reason") or "imported"))


def _class(run: Run, where: str, row: Mapping[str, Any]) -> int:
    """The new class of a row, by name or by number; where both are given they agree."""
    if run.task != "classes":
        raise UsageError(
            f"{where} is relabelled, and {run.folder} recorded {run.classes_in_words} example; say keep, drop or weight."
        )
    found = []
    if (name := row.get("new_class")) not in (None, ""):
        if name not in run.class_names:
            raise UsageError(f"{where}: new_class {described(name)} is none of {listed(run.class_names, run.classes)}.")
        found.append(run.class_names.index(name))
    if (number := row.get("new_label")) not in (None, ""):
        try:
            found.append(int(float(number)))
            known = float(number) == found[-1] and 0 <= found[-1] < run.classes
        except (TypeError, ValueError, OverflowError):
            known = False
        if not known:
            raise UsageError(f"{where}: new_label {described(number)} is outside 0..{run.classes - 1}.")
    if not found or len(set(found)) > 1:
        what = "neither new_class nor new_label" if not found else "a new_class and a new_label that differ"
        raise UsageError(f"{where} is relabelled and has {what}; say one class.")
    return found[0]


def _answered(run: Run, path: Path, body: Any) -> tuple[list[Done], list[str]]:
    if not isinstance(body, list) or not all(isinstance(one, dict) and isinstance(one.get("data"), dict) for one in body):
        raise UsageError(f"{path} is no list of tasks; export the project as JSON, and not as JSON-MIN or CSV.")
    if any("assay_id" not in one["data"] for one in body):
        raise UsageError(
            f"{path} has a task without assay_id; import the tasks that `assay export --to label-studio` wrote, and label those."
        )
    by_id = dict(zip(_known(run, path, (one["data"]["assay_id"] for one in body)), body, strict=True))
    done, unseen, split = [], 0, 0
    for one, label in zip(run.ids, run.labels.tolist(), strict=True):
        answers = [
            _answer(run, f"{path}, id {one}", given)
            for given in by_id.get(one, {}).get("annotations") or ()
            if not given.get("was_cancelled")
        ]
        classes = {answer for answer in answers if answer is not None}
        if len(classes) > 1:
            split += 1
            done.append((Action.KEEP, -1, 1.0, "different people gave it different classes: left as it is"))
        elif not classes:
            unseen += one in by_id
            done.append((Action.KEEP, -1, 1.0, "not labelled again"))
        else:
            (new,) = classes
            words = run.class_names[new]
            done.append(
                (Action.KEEP, -1, 1.0, f"labelled again: class {words} is right")
                if new == label
                else (Action.RELABEL, new, 1.0, f"labelled again: class {run.class_names[label]} becomes {words}")
            )
    warnings = [f"{split:,} examples were given different classes by different people and stay as they are."] if split else []
    return done, warnings + ([f"{unseen:,} of {len(body):,} tasks have no answer and stay as they are."] if unseen else [])


def _answer(run: Run, where: str, annotation: Any) -> int | None:
    """The class of one annotation; None where it has no answer."""
    found = [
        choice
        for part in annotation.get("result") or ()
        if part.get("from_name") == "class" and part.get("type") == "choices"
        for choice in part["value"]["choices"]
    ]
    if len(found) > 1:
        raise UsageError(f"{where} was given several classes, {listed(found, len(found))}, in one answer; give one.")
    if found and found[0] not in run.class_names:
        raise UsageError(
            f"{where} was given {described(found[0])}, which is none of the classes {listed(run.class_names, run.classes)}."
        )
    return run.class_names.index(found[0]) if found else None
