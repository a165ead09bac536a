"""`assay import` and `assay export`: a run and its results for other tools, and decisions that were made in them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .values import MaybeWhole, Switch

if TYPE_CHECKING:
    from ..core.decision import Decision
    from ..core.scores import Scores
    from ..runs.run import Run

TABLES = ("csv", "jsonl", "parquet")
"""Kinds of files that hold one table."""
To = Literal["npy", "csv", "jsonl", "parquet", "cleanlab", "fiftyone", "label-studio", "card"]
From = Literal["npy", "csv", "jsonl", "parquet", "cleanlab", "fiftyone", "label-studio"]


def import_(
    source: Path,
    run: Path,
    /,
    *,
    from_: Annotated[From, Parameter(name="--from")] = "npy",
    labels: Path | None = None,
    view: str | None = None,
    name: str | None = None,
) -> None:
    """Make a run or a decision from files of other tools.

    A run comes from the npy files of the DUAL and TDDS codes: i_Output.npy, i_Index.npy and, if it is there, i_Loss.npy, with i the epoch.

    A decision comes from a table with id and action, as `assay export` writes it; from cleanlab's table of issues, which are dropped; from tags and labels of FiftyOne; or from
    the labels given in Label Studio to the tasks that it wrote. It is saved in the run's folder. RUN may then stand before SOURCE too.

    Example: assay import runs/digits answers.json --from label-studio

    Parameters
    ----------
    source
        Folder of the npy files, or the file with the decision.
    run
        Folder of the run to make, or of the run that the decision is on.
    from_
        What SOURCE is: npy files; a table of a decision as csv, jsonl or parquet; a table of cleanlab, a csv, jsonl or parquet file with id and is_label_issue; a JSON
        file of tags and labels by id of fiftyone; or the JSON export of a project of label-studio.
    labels
        With npy files: an npy file with the given class of the example at every position; the format itself does not store labels.
    view
        With npy files: the pass that the logits come from, train (by default; the training pass, as the released codes store it) or eval.
    name
        With a decision: its name; by default that of the file.
    """
    from ..core.errors import UsageError

    if from_ == "npy":
        if labels is None:
            raise UsageError("Name the file of the given classes: --labels FILE; the npy files do not hold them.")
        if name is not None:
            raise UsageError(f"--name {name} is for decisions; leave it out.")
        _import_npy(source, run, labels, "train" if view is None else view)
        return
    if labels is not None or view is not None:
        raise UsageError("--labels and --view go with npy files; leave them out.")
    if source.is_dir() and not run.is_dir():
        source, run = run, source
    _import_decision(source, run, from_, name)


def _import_decision(source: Path, run: Path, kind: From, name: str | None) -> None:
    from ..experiments.imports import import_decision
    from ..runs.run import Run
    from .console import caution
    from .saved import check_name, keep_decision

    check_name(name)
    opened = Run(run)
    decision = import_decision(opened, source, kind)  # type: ignore[arg-type]
    for warning in decision.warnings:
        caution(warning)
    keep_decision(opened, decision, name if name is not None else source.stem)


def _import_npy(source: Path, run: Path, labels: Path, view: str) -> None:
    import numpy as np
    import torch

    from .. import __version__
    from ..core.errors import UsageError, reading
    from ..core.npy import read_npy
    from ..data.files import file_at
    from ..runs.npy import import_npy
    from .console import say

    with reading(labels, UsageError, "Give an npy file of classes."):
        try:
            with open(file_at(str(labels)), "rb") as file:
                array = read_npy(file, labels.stat().st_size)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"{labels} is no readable npy file ({error}).") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"{labels} holds {array.dtype} with {array.ndim} axes; give one whole number per example.")
    made = import_npy(source, torch.from_numpy(array.astype(np.int64)), run, view=view, code=__version__)  # type: ignore[arg-type]
    say(f"{run}: {made.epochs} epochs of {len(made.ids):,} examples. Next: assay score {run} all")


def export_(
    run: Path,
    place: Path,
    /,
    *,
    to: To = "npy",
    scores: Switch = False,
    score: list[str] | None = None,
    decision: str | None = None,
    items: Path | None = None,
    most: MaybeWhole = None,
) -> None:
    """Write a run or its results for other tools.

    npy: epoch i becomes i_Output.npy, i_Loss.npy and i_Index.npy of the DUAL and TDDS codes; with --scores the score of method X becomes X_score.npy (values
    in the order of the examples) and X_mask.npy (positions of the examples, by rising value).

    csv, jsonl, parquet: one table of all examples with given and predicted class, every saved score with its ranks, and the decision. CSV is safe to open in a
    spreadsheet: texts that begin with = + - @ ' a tab or a line end get a ' before them, which `assay import` takes off.

    cleanlab: a table of is_label_issue, label_quality, given_label and predicted_label, by the ending of PLACE (.csv, .jsonl or .parquet).

    fiftyone: a JSON file of fields, each with its values by id. label-studio: a JSON file of tasks, suspects first, and beside it the labelling interface
    (.xml). card: a part of a dataset card, in Markdown.

    Example: assay export runs/digits results.csv --to csv --decision top_k+keep=0.9-by-aum

    Parameters
    ----------
    run
        Folder of the run.
    place
        Folder of the npy files, or the file to write.
    to
        What is written.
    scores
        With npy: write the saved scores instead of the epochs.
    score
        A saved score of the run by its title; may be given several times. By default all saved scores; cleanlab and label-studio take one.
    decision
        A decision of the run. cleanlab takes what it drops or relabels as issues; label-studio asks about what it touches only.
    items
        With label-studio: a table (.csv, .jsonl or .parquet) of id and image (an address), text, or any columns, for people to look at; by default what a
        run by a plan shows itself.
    most
        With label-studio: at most so many tasks; by default 1,000.
    """
    from ..core.errors import UsageError
    from ..runs.artefacts import load_decision
    from ..runs.run import Run
    from .saved import decision_of

    unread = [
        flag
        for flag, given, takers in (
            ("--scores", scores, ("npy",)),
            ("--score", score, (*TABLES, "cleanlab", "fiftyone", "label-studio", "card")),
            ("--decision", decision, (*TABLES, "cleanlab", "fiftyone", "label-studio", "card")),
            ("--items", items, ("label-studio",)),
            ("--most", most, ("label-studio",)),
        )
        if given not in (None, False) and to not in takers
    ]
    if unread:
        raise UsageError(f"{' and '.join(unread)} {'are' if len(unread) > 1 else 'is'} not read with --to {to}; leave it out.")
    opened = Run(run)
    if to == "npy":
        _export_npy(opened, place, scores)
        return
    chosen = load_decision(decision_of(opened, decision)) if decision is not None else None
    _export(opened, place, to, _wanted(opened, score, to), chosen, (items, 1000 if most is None else most))


def _wanted(run: "Run", titles: list[str] | None, to: To) -> "list[Scores]":
    """The saved scores that were named, or all; one that ranks suspects for what takes one."""
    from ..core.errors import UnknownName, UsageError
    from .saved import saved_scores

    saved = {one.title: one for one in saved_scores(run)}
    for title in titles or ():
        if title not in saved:
            raise UnknownName("score saved in this run", title, saved)
    found = [saved[title] for title in titles] if titles else list(saved.values())
    if to not in ("cleanlab", "label-studio"):
        return found
    able = [one for one in found if one.direction.ranks_suspects]
    if not able:
        raise UsageError(
            f"{run.folder} holds no {'such ' if titles else ''}score that ranks suspects; make one, such as `assay score {run.folder} all`."
        )
    if len(able) > 1:
        raise UsageError(f"Name one score with --score: {', '.join(one.title for one in able)}.")
    return able


def _export(
    run: "Run", place: Path, to: To, scores: "list[Scores]", decision: "Decision | None", shown: tuple[Path | None, int]
) -> None:
    import json

    from ..core.errors import UsageError
    from ..experiments.exports import dataset_card, fiftyone_fields, issue_table, label_studio_tasks, result_table
    from ..runs.disk import replace
    from ..runs.table_files import WRITERS
    from .console import say

    if to in TABLES:
        WRITERS[to](result_table(run, scores, decision), place)
        say(f"{place}: {len(run.ids):,} examples")
        return
    if to == "cleanlab":
        kind = _kind_of(place)
        table = issue_table(run, scores[0], decision)
        WRITERS[kind](table, place)
        found = int(table.to_numpy()["is_label_issue"].sum())
        for note in table.notes:
            say(note)
        say(f"{place}: {found:,} issues among {len(table):,} examples")
    elif to == "fiftyone":
        fields = fiftyone_fields(run, scores, decision)
        replace(place, json.dumps(fields, ensure_ascii=False, allow_nan=False).encode())
        say(f"{place}: {', '.join(fields)}; the keys are ids as texts.")
    elif to == "label-studio":
        items, most = shown
        if place.suffix == ".xml":
            raise UsageError(
                f"{place} is what the labelling interface would be called; name the file of the tasks, such as tasks.json."
            )
        tasks, view = label_studio_tasks(run, scores[0], decision, items=_items(run, items), most=most)
        replace(place, json.dumps(tasks, ensure_ascii=False, allow_nan=False).encode())
        replace(place.with_suffix(".xml"), view.encode())
        say(f"{place}: {len(tasks):,} tasks. {place.with_suffix('.xml')}: the labelling interface, for the project's settings.")
        say(f"Next, with the project exported as JSON: assay import {run.folder} FILE --from label-studio")
    else:
        replace(place, dataset_card(run, scores, [decision] if decision is not None else []).encode())
        say(f"{place}: put it into the README.md of the dataset.")


def _kind_of(path: Path) -> str:
    from ..core.errors import UsageError

    if (kind := path.suffix[1:].lower()) not in TABLES:
        raise UsageError(f"{path} does not say which kind of table it is; let its name end in .csv, .jsonl or .parquet.")
    return kind


def _items(run: "Run", path: Path | None) -> dict | None:
    """What is shown of each example, by id, from a table."""
    from ..core.errors import UsageError
    from ..runs.table_files import read_rows

    if path is None:
        return None
    rows = read_rows(path, _kind_of(path))
    if not rows or any("id" not in row for row in rows):
        raise UsageError(f"{path} has no column 'id'; give one row for each example, with id and what is shown of it.")
    known = {str(one): one for one in run.ids}
    return {known.get(str(row["id"]), row["id"]): {name: cell for name, cell in row.items() if name != "id"} for row in rows}


def _export_npy(opened: "Run", folder: Path, scores: bool) -> None:
    from ..core.errors import UsageError
    from ..experiments.plan import folds_of
    from ..runs.npy import export_npy, export_scores
    from .console import say
    from .saved import saved_scores

    run = opened.folder
    if not scores:
        export_npy(opened, folder)
        many = f"{opened.epochs} epochs" if opened.passes is None else opened.passes.summary(opened.epochs, folds_of(opened))
        say(f"{folder}: {many}")
        return
    saved = saved_scores(opened)
    if not saved:
        raise UsageError(f"{run} holds no scores; make them with `assay score {run} all`.")
    # The npy files say by place which example a value is of.
    found = [one for one in saved if len(one) == len(opened.ids)]
    if not found:
        raise UsageError(
            f"No score of {run} covers all {len(opened.ids):,} examples, as the npy files do; score by another method."
        )
    names = [one.method for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{run} holds several scores of {', '.join(twice)}, but the npy files are named by method; take one out of {run / 'scores'}."
        )
    for one in found:
        export_scores(one, folder)
    for one in saved:
        if one not in found:
            say(f"left out {one.title}: it covers {len(one):,} of {len(opened.ids):,} examples only.")
    say(f"{folder}: {', '.join(one.title for one in found)}")
