"""Review: the marks that a page saved, taken back as a decision and as the measured share of wrong labels among the suspects."""

import collections
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.decision import Action, Decision
from ..core.errors import Mismatch, UsageError, listed, reading
from ..core.ids import Ids
from ..core.lineage import SCHEMA, Lineage
from ..core.review import Mark, Rest, Review, ReviewResult, decided, precision_of, suspects_of
from ..core.scores import Scores, ordered
from ..runs.artefacts import load_decision, load_scores
from ..runs.disk import read_bytes
from ..runs.run import Run
from ..runs.schema import FrozenModel
from .detection import check_dataset

CURE = "Save the marks again from the page (Save marks)."


class _Mark(FrozenModel):
    id: str
    mark: Literal["right", "wrong", "unsure"]
    label: Annotated[int, pydantic.Field(ge=0)] | None = None
    name: str | None = None


class _File(FrozenModel):
    assay: Literal["review"]
    schema_: Annotated[int, pydantic.Field(alias="schema", ge=1)]
    dataset: str
    decision: str
    title: str
    marks: tuple[_Mark, ...]


@checked_arguments
def review(
    run: str | Path | Run,
    file: str | Path,
    *,
    decision: Decision | None = None,
    scores: Scores | None = None,
    rest: Rest = "keep",
) -> ReviewResult:
    """Take back what a reviewer marked on the page.

        result = assay.review("runs/mine", "review.json")
        print(result.sentence)
        assay.save_decision(result.decision, "runs/mine/decisions/reviewed.parquet")

    Examples marked wrong are relabelled where the reviewer named a class, and dropped where not; those marked right or unsure are kept.

    Args:
        run: The run that the page showed.
        file: The file that the page saved.
        decision: The decision that the page showed; by default the one in the run's folder with the fingerprint that the file names.
        scores: What that decision was made by, to see whether the first suspects in order were reviewed; by default the score in the run's folder.
        rest: What is done with examples that were not reviewed: `keep` them as they are, or what the `decision` does.

    Raises:
        UsageError: The file is no review, names an example twice, or a class that there is not; or rest="decision" without a decision.
        Mismatch: The marks are of another dataset, decision or examples.
        RunError: The run, a decision or a score in it is damaged.
    """
    began = time.perf_counter()
    if rest not in ("keep", "decision"):
        raise UsageError(f"rest={rest!r} is neither 'keep' nor 'decision'.")
    run, path = run if isinstance(run, Run) else Run(run), Path(file)
    said = _read(path)
    if said.dataset != run.dataset:
        raise Mismatch(
            f"{path} marks examples of dataset {said.dataset}, {run.folder} recorded {run.dataset}; name the run that the page showed."
        )
    marks = _marks(said, run, path)
    if said.decision or decision is not None:
        base = _decision(run, said, decision, path)
    elif rest == "decision":
        raise UsageError(f"{path} is of a page without a decision, so that rest='decision' names nothing; leave it out.")
    else:
        base = _all_kept(run)
    check_dataset(run, [scores] if scores is not None else [], base if said.decision else None)
    suspects, noun = (suspects_of(base), "suspects") if said.decision else (run.ids, "examples")
    by = scores if scores is not None else _saved(run, base)
    ranked = None
    if by is not None and len(suspects) and bool(np.isin(suspects.values, by.ids.values).all()):
        ranked = suspects.take(ordered(by.of(suspects) * by.direction.sign, suspects, descending=True))
    made = decided(marks, base, run.class_names, rest)
    assert made.lineage is not None
    lineage = dataclasses.replace(made.lineage, code=__version__, seconds=time.perf_counter() - began)
    precision = precision_of(marks, suspects, ranked, by.title if by is not None else "", noun)
    return ReviewResult(marks, dataclasses.replace(made, lineage=lineage), precision)


def _read(path: Path) -> _File:
    with reading(path, UsageError, CURE):
        body = read_bytes(path)
        try:
            said = _File.strictly(body)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"{path} is no review saved by a page of assay ({where + ': ' if where else ''}{first['msg']}). {CURE}"
            ) from error
    if said.schema_ > SCHEMA:
        raise UsageError(
            f"{path} is of schema {said.schema_}, and this assay reads up to {SCHEMA}; install the assay that made the page."
        )
    return said


def _marks(said: _File, run: Run, path: Path) -> Review:
    """The marks by id, each looked up in the run."""
    if not said.marks:
        raise UsageError(f"{path} holds no mark; mark examples on the page and save again.")
    texts = [one.id for one in said.marks]
    if run.ids.numeric:
        bad = [
            text
            for text in texts
            if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdigit() or len(text) > 20
        ]
        if bad:
            raise Mismatch(
                f"{path} marks {listed(bad, len(bad))}, and ids of {run.folder} are whole numbers; name the run that the page showed."
            )
    twice = [text for text, count in collections.Counter(texts).items() if count > 1]
    if twice:
        raise UsageError(f"{path} marks {listed(twice, len(twice))} more than once; keep one mark of each.")
    ids = Ids([int(text) for text in texts]) if run.ids.numeric else Ids(texts)
    place = run.ids.positions(ids, f"run {run.folder}")
    for one, given in zip(said.marks, run.labels[place].tolist(), strict=True):
        if one.label is None:
            continue
        if one.mark != "wrong":
            raise UsageError(
                f"{path} marks example {one.id} {one.mark} and gives it a new label; mark it wrong, or take the label away."
            )
        if run.task != "classes":
            raise Mismatch(
                f"{path} gives example {one.id} the class {one.label} ({one.name}), and {run.folder} recorded {run.classes_in_words} example; name the run "
                "that the page showed."
            )
        if one.label >= run.classes or one.name not in (None, run.class_names[one.label]):
            raise Mismatch(
                f"{path} gives example {one.id} the class {one.label} ({one.name}), and {run.folder} has {run.classes} classes, among them "
                f"{run.class_names[min(one.label, run.classes - 1)]!r} as {min(one.label, run.classes - 1)}; name the run that the page showed."
            )
        if one.label == given:
            raise UsageError(
                f"{path} marks example {one.id} wrong and gives it the label that it has; mark it right, or choose another class."
            )
    labels = torch.tensor([-1 if one.label is None else one.label for one in said.marks])
    return Review(ids, tuple(Mark(one.mark) for one in said.marks), labels, said.dataset, said.decision)


def _decision(run: Run, said: _File, given: Decision | None, path: Path) -> Decision:
    """The decision that was reviewed: the one given, or the one in the run's folder with this fingerprint."""
    if given is not None:
        if given.fingerprint != said.decision:
            raise Mismatch(
                f"{path} reviews decision {said.title or 'none'} {said.decision}, and decision {given.title} is {given.fingerprint}; give the one "
                "that the page showed, or review a page of this one."
            )
        return given
    held = {file.stem: load_decision(file) for file in sorted(run.paths.decision("x").parent.glob("*.parquet"))}
    found = next((one for one in held.values() if one.fingerprint == said.decision), None)
    if found is None:
        raise Mismatch(
            f"{path} reviews decision {said.title} {said.decision}, which is not among those in {run.folder} ({', '.join(held) or 'none'}); make the page "
            "anew and review that, or in Python give review(..., decision=)."
        )
    return found


def _all_kept(run: Run) -> Decision:
    n = len(run.ids)
    return Decision(
        run.ids,
        torch.full((n,), int(Action.KEEP)),
        torch.full((n,), -1),
        torch.ones(n, dtype=torch.float64),
        ("nothing was decided",) * n,
        "none",
        {},
        "all examples",
        Lineage(run.dataset, {"run": run.fingerprint}, folder=str(run.folder)),
    )


def _saved(run: Run, base: Decision) -> Scores | None:
    """The saved score that a decision was made by."""
    made_of = base.lineage.parents.get("scores") if base.lineage is not None else None
    if made_of is None:
        return None
    for path in sorted(run.paths.scores("x").parent.glob("*.parquet")):
        one = load_scores(path)
        if one.made(made_of):
            return one
    return None
