"""Saving and loading what is made from runs: scores, decisions, verdicts, curves, studies and the planted truth."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydantic
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.cleansing import CleansingStudy
from ..core.curve import Curve, Removal
from ..core.decision import Action, Decision
from ..core.errors import MOST_WORDS, RunError
from ..core.explanation import Explanation
from ..core.fidelity import FidelityStudy, SeedResult
from ..core.ids import Ids
from ..core.lds import LDS, SubsetTraining
from ..core.lineage import Lineage
from ..core.probe import Probe
from ..core.published import PublishedNumber
from ..core.replication import ReplicationStudy
from ..core.report_data import Agreement
from ..core.scores import Direction, Scores
from ..core.study import ArmComparison, FrontierPoint, PowerLawFit, Pruned, Study, Theory
from ..core.trial import Claim, Outcome, Verdict
from .disk import read_bytes, replace
from .paths import RunPaths, StudyPaths
from .schema import FrozenModel, first_of, seal, unseal
from .tables import read_table, write_table

Made = TypeVar("Made")
AnyStudy = Study | CleansingStudy | FidelityStudy | ReplicationStudy
"""What a study comes to, by what it studies."""
REAL, WHOLE = "double or float", "int64 or int32 or int16 or int8 or uint8"
"""Types of columns."""
ROUNDING = 1e-9
"""How far a fraction may be outside 0..1."""


@checked_arguments
def save_scores(scores: Scores, path: str | Path) -> None:
    """Save scores as one Parquet file: `id`, `value`, a column per epoch or per repetition where there are any, and metadata.

    Raises:
        NotWritten: The operating system refuses.
    """
    notes = {
        "method": scores.method,
        "options": dict(scores.options),
        "title": scores.title,
        "direction": scores.direction.value,
        "unit": scores.unit,
        "unscored": list(scores.unscored),
        "lineage": lineage_fields(scores.lineage),
        "diagnostics": dict(scores.diagnostics),
        "warnings": list(scores.warnings),
    }
    rows = {
        f"{what} {n}": row
        for what, held in (("epoch", scores.by_epoch), ("repeat", scores.repeats))
        for n, row in enumerate(() if held is None else held)
    }
    write_table(Path(path), "scores", scores.ids, {"value": scores.values, **rows}, notes)


@checked_arguments
def load_scores(path: str | Path) -> Scores:
    """The inverse of `save_scores`, to the bit.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    ids, columns, notes = read_table(path, "scores", {"value": REAL, "epoch *": REAL, "repeat *": REAL})
    with noticing_damage(path):
        said = notes_as(ScoresNotes, notes)
        return Scores(
            ids=ids,
            values=torch.from_numpy(columns["value"]).to(torch.float64),
            method=said.method,
            options=said.options,
            title=said.title,
            direction=said.direction,
            unit=said.unit,
            unscored=Ids(said.unscored),
            lineage=at_home(said.lineage, path),
            by_epoch=_rows("epoch", columns),
            repeats=_rows("repeat", columns),
            diagnostics=said.diagnostics,
            warnings=said.warnings,
        )


def _rows(what: str, columns: Mapping[str, Any]) -> torch.Tensor | None:
    rows = [columns[f"{what} {n}"] for n in range(len(columns)) if f"{what} {n}" in columns]
    return torch.stack([torch.from_numpy(row).to(torch.float64) for row in rows]) if rows else None


@checked_arguments
def save_decision(decision: Decision, path: str | Path) -> None:
    """Save a decision as one Parquet file: `id`, `action` (0 drop, 1 keep, 2 relabel, 3 weight), `label`, `weight` and `reason`.

    If the kept examples have an order, also `place`: the place of the example in it, from 0, and -1 for examples that are not kept.

    Raises:
        NotWritten: The operating system refuses.
    """
    notes = {
        "policy": decision.policy,
        "options": dict(decision.options),
        "title": decision.title,
        "lineage": lineage_fields(decision.lineage),
        "warnings": list(decision.warnings),
        "class_names": list(decision.class_names),
    }
    place = {}
    if decision.order is not None:
        place["place"] = torch.full((len(decision),), -1)
        place["place"][decision.ids.positions(decision.order)] = torch.arange(len(decision.order))
    columns = {
        **place,
        "action": decision.actions.numpy().astype(np.int8),
        "label": decision.labels,
        "weight": decision.weights,
        "reason": list(decision.reasons),
    }
    write_table(Path(path), "decision", decision.ids, columns, notes)


@checked_arguments
def load_decision(path: str | Path) -> Decision:
    """The inverse of `save_decision`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    ids, columns, notes = read_table(
        path, "decision", {"action": "int8", "label": WHOLE, "weight": REAL, "reason": "text", "place?": "int64"}
    )
    with noticing_damage(path):
        said = notes_as(DecisionNotes, notes)
        return Decision(
            ids=ids,
            actions=torch.from_numpy(columns["action"]).to(torch.int64),
            labels=torch.from_numpy(columns["label"]).to(torch.int64),
            weights=torch.from_numpy(columns["weight"]).to(torch.float64),
            reasons=tuple(columns["reason"]),
            policy=said.policy,
            options=said.options,
            title=said.title,
            lineage=at_home(said.lineage, path),
            order=_order(ids, columns),
            warnings=said.warnings,
            class_names=said.class_names,
        )


def _order(ids: Ids, columns: Mapping[str, Any]) -> Ids | None:
    """The examples that have a place in an order, in that order; every kept one has a place of its own."""
    if "place" not in columns:
        return None
    place = columns["place"]
    kept = columns["action"] != int(Action.DROP)
    if ((place >= 0) != kept).any() or (np.sort(place[kept]) != np.arange(kept.sum())).any():
        raise ValueError("the places of the kept examples are no order of them")
    return ids.take(np.flatnonzero(kept)[np.argsort(place[kept])])


_TRUTH = {"true_label": WHOLE, "corrupted?": WHOLE}


@checked_arguments
def save_truth(
    ids: Ids, true_labels: Int[Tensor, " examples"], path: str | Path, *, corrupted: Bool[Tensor, " examples"] | None = None
) -> None:
    """Save the true class of each example, and which inputs were damaged on purpose, beside the run and never inside its evidence.

    Raises:
        NotWritten: The operating system refuses.
    """
    columns = {"true_label": true_labels}
    if corrupted is not None:
        columns["corrupted"] = corrupted.to(torch.int64)
    write_table(Path(path), "truth", ids, columns, {})


@checked_arguments
def load_truth(path: str | Path) -> tuple[Ids, Int[Tensor, " examples"]]:
    """The inverse of `save_truth`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    ids, columns, _ = read_table(Path(path), "truth", _TRUTH)
    return ids, torch.from_numpy(columns["true_label"]).to(torch.int64)


@checked_arguments
def load_corrupted(path: str | Path) -> tuple[Ids, Bool[Tensor, " examples"]] | None:
    """Which inputs were damaged on purpose, as `save_truth` keeps it; None where none were.

    Raises:
        RunError: As `load_truth`.
    """
    ids, columns, _ = read_table(Path(path), "truth", _TRUTH)
    return (ids, torch.from_numpy(columns["corrupted"]) != 0) if "corrupted" in columns else None


@checked_arguments
def save_folds(ids: Ids, folds: Int[Tensor, " examples"], path: str | Path) -> None:
    """Save the fold of each example, by whose model it was not trained on.

    Raises:
        NotWritten: The operating system refuses.
    """
    write_table(Path(path), "folds", ids, {"fold": folds}, {})


@checked_arguments
def load_folds(path: str | Path) -> tuple[Ids, Int[Tensor, " examples"]]:
    """The inverse of `save_folds`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    ids, columns, _ = read_table(Path(path), "folds", {"fold": WHOLE})
    return ids, torch.from_numpy(columns["fold"]).to(torch.int64)


def save_json(kind: str, body: Mapping[str, Any], path: str | Path) -> None:
    """Save `body` as a JSON file that names its kind.

    Raises:
        NotWritten: The operating system refuses.
    """
    replace(Path(path), seal(kind, body))


def load_json(kind: str, path: str | Path) -> dict[str, Any]:
    """The inverse of `save_json`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    try:
        body = read_bytes(Path(path))
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; make it first.") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error}); name another file.") from error
    return unseal(kind, body, str(path))


def save_outcome(outcome: Outcome, path: Path, made_of: str = "") -> None:
    """Save one retraining, so that a verification that was stopped need not repeat it.

    Args:
        outcome: Result of the retraining.
        path: Where it is kept.
        made_of: Fingerprint of everything that was trained: plan, data, examples, labels, weights.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("outcome", {**dataclasses.asdict(outcome), "made_of": made_of}, path)


def load_outcome(path: Path, made_of: str | None = None, arm: str | None = None, seed: int | None = None) -> Outcome:
    """The inverse of `save_outcome`.

    Args:
        path: Where it is kept.
        made_of: The fingerprint that it must be made of; None for any.
        arm: The arm that it must be of; None for any.
        seed: The seed that it must have; None for any.

    Raises:
        RunError: The file is absent, damaged, of another kind, of a newer schema, or a retraining of something else, such as a copy of another file.
    """
    body = load_json("outcome", path)
    with noticing_damage(path):
        content = _typed(str | None, body.pop("made_of", None))
        found = _typed(Outcome, body)
    for what, wanted, is_ in (("made of", made_of, content), ("of arm", arm, found.arm), ("of seed", seed, found.seed)):
        if wanted is not None and wanted != is_:
            raise RunError(f"{path} holds a retraining {what} {is_}, and its name says {wanted}; remove it.")
    return found


def save_seed_result(found: SeedResult, path: Path, made_of: str) -> None:
    """Save one seed of a study of fidelity, with the fingerprint of everything that it was made of.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("seed result", {**dataclasses.asdict(found), "made_of": made_of}, path)


def load_seed_result(path: Path, made_of: str) -> SeedResult:
    """The inverse of `save_seed_result`.

    Raises:
        RunError: The file is absent, damaged, of another kind, of a newer schema, or made of something else, such as a copy of another file.
    """
    body = load_json("seed result", path)
    with noticing_damage(path):
        content = _typed(str, body.pop("made_of", None))
        found = _typed(SeedResult, body)
    if content != made_of:
        raise RunError(f"{path} holds a result made of {content}, and its name says {made_of}; remove it.")
    return found


def save_claim(claim: Claim, path: Path) -> None:
    """Save every look at a decision.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("claim", dataclasses.asdict(claim), path)


MOST_CLAIMS = 1_000_000
"""Decisions of one run: a greater place in their order is none that verification made."""


def load_claims(folder: Path) -> list[Claim]:
    """All claims (looks at the run's decisions), in the order of the files.

    Raises:
        RunError: A file is damaged, of another kind, of a newer schema, or not what its name says, such as a copy of another.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        body = load_json("claim", path)
        with noticing_damage(path):
            claim = _typed(Claim, body)
            looks = claim.looks
            if not all(0 <= p <= 1 for look in looks for p in look.ps) or len({len(look.ps) for look in looks}) != 1:
                raise ValueError("its p-values are outside 0..1, or not equally many at each look")
            if claim.place > MOST_CLAIMS:
                raise ValueError(f"its place is {claim.place}")
        if claim.made_of != path.stem:
            raise RunError(f"{path} holds the claim {claim.made_of}, and its name says {path.stem}; remove it.")
        found.append(claim)
    return found


def _comparison(body: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison from JSON; one of an older assay loses its interval, a percentile bootstrap that was too narrow."""
    return {**body, **({} if "family" in body else {"low": None, "high": None})}


@checked_arguments
def save_verdict(verdict: Verdict, path: str | Path) -> None:
    """Save the verdict with all its outcomes.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("verdict", dataclasses.asdict(verdict), path)


@checked_arguments
def load_verdict(path: str | Path) -> Verdict:
    """The inverse of `save_verdict`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    body = load_json("verdict", path)
    with noticing_damage(path):
        body["comparisons"] = list(map(_comparison, body["comparisons"]))
        verdict = _typed(Verdict, body)
    return dataclasses.replace(verdict, lineage=at_home(verdict.lineage, path))


def save_removal(removal: Removal, path: Path) -> None:
    """Save one training without some examples, so that a curve that was stopped need not repeat it.

    The path says what was trained and without which examples, and the file repeats its path.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("removal", {**dataclasses.asdict(removal), "made_of": _place(path)}, path)


def load_removal(path: Path) -> Removal:
    """The inverse of `save_removal`.

    Raises:
        RunError: The file is absent, damaged, of another kind, of a newer schema, or of another place, such as a copy of another file.
    """
    body = load_json("removal", path)
    with noticing_damage(path):
        content = _typed(str | None, body.pop("made_of", None))
        found = _typed(Removal, body)
    if content != _place(path):
        raise RunError(f"{path} holds the training {content}, and its place says {_place(path)}; remove it.")
    return found


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@checked_arguments
def save_curve(curve: Curve, path: str | Path) -> None:
    """Save the curve with all its removals.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("curve", dataclasses.asdict(curve), path)


@checked_arguments
def load_curve(path: str | Path) -> Curve:
    """The inverse of `save_curve`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    curve = _noun("curve", Curve, path)
    return dataclasses.replace(curve, lineage=at_home(curve.lineage, path))


def save_subset_training(training: SubsetTraining, path: Path) -> None:
    """Save one training without a subset, so that an LDS that was stopped need not repeat it.

    The path says what was trained and without which examples, and the file repeats its path.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("subset training", {**dataclasses.asdict(training), "made_of": _place(path)}, path)


def load_subset_training(path: Path) -> SubsetTraining:
    """The inverse of `save_subset_training`.

    Raises:
        RunError: The file is absent, damaged, of another kind, of a newer schema, or of another place, such as a copy of another file.
    """
    body = load_json("subset training", path)
    with noticing_damage(path):
        content = _typed(str, body.pop("made_of", None))
        found = _typed(SubsetTraining, body)
        if not all(map(math.isfinite, found.losses)):
            raise ValueError("a loss is no finite number")
    if content != _place(path):
        raise RunError(f"{path} holds the training {content}, and its place says {_place(path)}; remove it.")
    return found


@checked_arguments
def save_lds(lds: LDS, path: str | Path) -> None:
    """Save the agreements of all methods.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("lds", dataclasses.asdict(lds), path)


@checked_arguments
def load_lds(path: str | Path) -> LDS:
    """The inverse of `save_lds`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    lds = _noun("lds", LDS, path)
    return dataclasses.replace(lds, lineage=at_home(lds.lineage, path))


@checked_arguments
def save_probe(probe: Probe, path: str | Path) -> None:
    """Save what a probe came to.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("probe", dataclasses.asdict(probe), path)


@checked_arguments
def load_probe(path: str | Path) -> Probe:
    """The inverse of `save_probe`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    probe = _noun("probe", Probe, path)
    return dataclasses.replace(probe, lineage=at_home(probe.lineage, path))


@checked_arguments
def save_explanation(explanation: Explanation, path: str | Path) -> None:
    """Save the examples behind one prediction, with their thumbnails.

    Raises:
        NotWritten: The operating system refuses.
    """
    save_json("explanation", dataclasses.asdict(explanation), path)


@checked_arguments
def load_explanation(path: str | Path) -> Explanation:
    """The inverse of `save_explanation`.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    path = Path(path)
    explanation = _noun("explanation", Explanation, path)
    return dataclasses.replace(explanation, lineage=at_home(explanation.lineage, path))


@checked_arguments
def save_study(study: AnyStudy, path: str | Path) -> None:
    """Save the study with all its trainings.

    Raises:
        NotWritten: The operating system refuses.
    """
    if not isinstance(study, Study):
        save_json("study", dataclasses.asdict(study), path)
        return
    body = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
    for name in ("trained", "laws", "frontiers", "contests", "theory", "published"):
        body[name] = [dataclasses.asdict(one) for one in body[name]]
    if (agreement := study.agreement) is not None:
        # NaN, which JSON has no word for, is where a metric ranks nothing.
        rows = [[None if cell != cell else cell for cell in row] for row in agreement.correlations.tolist()]
        body["agreement"] = {"titles": agreement.titles, "correlations": rows, "measure": agreement.measure}
    save_json("study", body, path)


@checked_arguments
def load_study(path: str | Path) -> AnyStudy:
    """The inverse of `save_study`; `path` may also be the folder of a study. Of a study of pruning it is a `Study`, of the others their own kind.

    Raises:
        RunError: The file is absent, damaged, of another kind, or of a newer schema.
    """
    if Path(path).is_dir():
        path = StudyPaths(Path(path)).results
    body = load_json("study", path)
    with noticing_damage(path):
        if body["name"] in KINDS:
            return _typed(KINDS[body["name"]], body)
        # An older assay's intervals were percentile bootstraps, which were too narrow.
        unknown = {} if "claims" in body else {"low": None, "high": None}
        agreement = body["agreement"]
        if agreement is not None:
            rows = [[math.nan if cell is None else cell for cell in row] for row in agreement["correlations"]]
            agreement = Agreement(tuple(agreement["titles"]), torch.tensor(rows, dtype=torch.float64), agreement["measure"])
        return Study(
            name=_typed(str, body["name"]),
            settings=_typed(dict[str, object], body["settings"]),
            facts=_typed(dict[str, object], body["facts"]),
            trained=_typed(tuple[Pruned, ...], body["trained"]),
            laws=_typed(tuple[PowerLawFit, ...], [{**law, **unknown} for law in body["laws"]]),
            frontiers=_typed(tuple[FrontierPoint, ...], [{**best, **unknown} for best in body["frontiers"]]),
            contests=_typed(
                tuple[ArmComparison, ...],
                [{**contest, "comparison": _comparison(contest["comparison"])} for contest in body["contests"]],
            ),
            agreement=agreement,
            theory=_typed(tuple[Theory, ...], body["theory"]),
            notes=_typed(tuple[str, ...], body["notes"]),
            claims=_typed(int, body.get("claims", 0)),
            published=_typed(tuple[PublishedNumber, ...], body.get("published", [])),
            deviations=_typed(tuple[str, ...], body.get("deviations", [])),
        )


KINDS: dict[str, type] = {
    "cleansing": CleansingStudy,
    "fidelity": FidelityStudy,
    **dict.fromkeys(("complexity_gap", "liveval", "coresets", "pruning"), ReplicationStudy),
}
"""Studies that are saved field by field, by name."""


def finished(load: Callable[[Path], Made], path: Path) -> Made | None:
    """The result that an earlier call saved at `path`. A damaged or newer file counts as no result: the work is done and saved again."""
    try:
        return load(path) if path.exists() else None
    except RunError:
        return None


FRACTIONS = frozenset(
    {"accuracy", "validation_accuracy", "test_accuracy", "auc", "average_precision", "precision_at_planted"}
    | {"recovered", "p", "adjusted", "size", "fraction", "share"}
)
COUNTS = frozenset(
    {"examples", "steps", "planted", "touched", "hit", "mended", "n", "count", "best", "points", "seeds", "seconds"}
    | {"flipped", "inspected", "family", "decisions", "claims", "place", "removed", "harmful", "states", "bytes"}
)
"""Fields, in any noun, that lie in 0..1; and fields that are 0 or more."""


def _noun(kind: str, noun: type[Made], path: Path) -> Made:
    """An artefact that was saved as JSON, if every field has exactly its type and is within its range."""
    body = load_json(kind, path)
    with noticing_damage(path):
        return _typed(noun, body)


def _typed(kind: Any, body: object) -> Any:
    """What JSON holds, as this type; nothing is converted.

    Raises:
        ValueError: A field is of another type, or outside its range; names it.
    """
    made = pydantic.TypeAdapter(kind).validate_json(json.dumps(body), strict=True)
    _check_ranges(made, body)
    return made


def _check_ranges(made: object, body: Any) -> None:
    if isinstance(made, (tuple, list)):
        for inner, raw in zip(made, body, strict=True):
            _check_ranges(inner, raw)
    if not dataclasses.is_dataclass(made):
        return
    fields = {field.name for field in dataclasses.fields(made)}
    if alien := sorted(set(body) - fields):
        raise ValueError(f"it has the field {alien[0]!r}, which is none of its kind")
    for name in fields & set(body):
        value = getattr(made, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # A training that went astray has such a loss, and its accuracy counts.
            if value != value and "loss" not in name:
                raise ValueError(f"{name} is no number")
            if (name in FRACTIONS and not -ROUNDING <= value <= 1 + ROUNDING) or (name in COUNTS and value < 0):
                raise ValueError(f"{name} is {value}")
        _check_ranges(value, body[name])


class ScoresNotes(FrozenModel):
    """Metadata saved with the values of scores."""

    method: str
    options: dict[str, object]
    title: str
    direction: Direction
    unit: str
    unscored: tuple[int, ...] | tuple[str, ...]
    lineage: Lineage | None
    diagnostics: dict[str, object] = {}
    warnings: tuple[str, ...] = ()


class DecisionNotes(FrozenModel):
    """Metadata saved with the actions of a decision."""

    policy: str
    options: dict[str, object]
    title: str
    lineage: Lineage | None
    warnings: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


Notes = TypeVar("Notes", bound=FrozenModel)


def notes_as(kind: type[Notes], notes: Mapping[str, Any]) -> Notes:
    """The notes of a file as this model.

    Raises:
        pydantic.ValidationError: A field is missing or wrong.
    """
    return kind.strictly(json.dumps({name: value for name, value in notes.items() if name not in ("format", "schema_version")}))


class noticing_damage:
    """A context manager that turns the error on a field that is missing, of the wrong type or out of range into one sentence."""

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pydantic.ValidationError):
            raise RunError(f"{self.path} is damaged ({first_of(error)}); make it again.") from error
        if isinstance(error, Exception) and not isinstance(error, RunError):
            raise RunError(
                f"{self.path} is damaged ({type(error).__name__}: {str(error)[:MOST_WORDS]}); make it again."
            ) from error


def lineage_fields(lineage: Lineage | None) -> dict[str, Any] | None:
    """A lineage as it is saved."""
    return None if lineage is None else dataclasses.asdict(lineage)


def at_home(lineage: Lineage | None, path: Path) -> Lineage | None:
    """A saved lineage, naming the folder of the run as it stands now.

    Args:
        lineage: The lineage.
        path: File that it was saved in, one folder below the run's.
    """
    if lineage is None:
        return None
    # What stands in a run's folder is of that run, wherever it has been moved to and wherever we are called from.
    home = path.absolute().parent.parent
    return dataclasses.replace(lineage, folder=str(home)) if RunPaths(home).header.exists() else lineage
