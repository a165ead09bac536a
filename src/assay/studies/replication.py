"""What the studies of several sections share: comparisons with a control, the plan and the table as files, and the page."""

import csv
import dataclasses
import io
import json
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.arguments import described
from ..core.errors import OutputExists, UsageError
from ..core.published import PublishedNumber
from ..core.replication import Measured, ReplicationStudy, RowComparison, Section
from ..core.study import ALL
from ..core.trial import FEWEST, Comparison
from ..experiments.estimate import Work, counted_work
from ..experiments.execution import Execution
from ..experiments.plan import Plan, PlanRecording, load_data
from ..maths.statistics import holm, paired
from ..reports.replication import render_replication
from ..runs.disk import replace, study_in
from ..runs.paths import STUDY_PLAN, StudyPaths
from ..runs.schema import here
from ..training.device import device_named
from .folders import claimed, written

TABLE = ("section", "row", "column", "seed", "value")


def owned(folder: str | Path, settings: Mapping[str, Any]) -> StudyPaths:
    """The paths of a study that writes a plan and a table too, if its folder is free or holds the same study.

    Raises:
        OutputExists: As `claimed`; also where a plan or table of something else is there.
    """
    paths = claimed(folder, settings)
    if paths.plan.exists() and not study_in(paths.plan):
        raise OutputExists(f"{paths.plan} is there and was not written by a study; name another folder.")
    # A study that wrote its plan may have been stopped between its table and its results.
    if paths.summary.exists() and not (paths.results.exists() or paths.plan.exists()):
        raise OutputExists(f"{paths.summary} is there and is of no study; name another folder.")
    return paths


def check_plan(plan: Plan) -> Plan:
    """Refuse a plan that says what such a study says itself.

    Raises:
        UsageError: It has several models, folds, a part of them, a selector or a table record; or this machine has no such device.
    """
    if plan.models > 1 or plan.member or plan.folds is not None or plan.select is not None or plan.record != PlanRecording():
        raise UsageError(
            "A study says itself how many models there are, what is chosen and what is recorded; leave models, member, folds, select and record out of "
            "the plan."
        )
    device_named(plan.training.device)
    return plan


def counted(seeds: int | None, preset: int) -> int:
    """How many repetitions.

    Raises:
        UsageError: It is below 1.
    """
    found = preset if seeds is None else seeds
    if found < 1:
        raise UsageError(f"seeds={found} is no whole number of 1 or more.")
    return found


def each_once(what: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of a setting.

    Raises:
        UsageError: There are none, or one is given twice.
    """
    found = tuple(values)
    if not found or len(set(found)) < len(found):
        raise UsageError(f"{what}: {', '.join(map(str, found)) or 'none'}; give at least one, and each once.")
    return found


def numbers_of(what: str, values: Sequence[Any], *, whole: bool = False) -> tuple[Any, ...]:
    """Numbers from 0 on, each once; whole ones from 1 on.

    Raises:
        UsageError: One is no such number, or given twice, or there is none.
    """
    kind, words = (numbers.Integral, "whole number of 1 or more") if whole else (numbers.Real, "number of 0 or more")
    for one in values:
        if isinstance(one, bool) or not isinstance(one, kind) or not (one >= 1 if whole else one >= 0):  # type: ignore[operator]
            raise UsageError(f"{what}: {described(one) if isinstance(one, Tensor) else repr(one)} is no {words}.")
    return each_once(what, [int(one) if whole else float(one) for one in values])  # type: ignore[call-overload]


def fractions_of(what: str, values: Sequence[float]) -> tuple[float, ...]:
    """Fractions in 0..1, both excluded, falling.

    Raises:
        UsageError: One is outside, or given twice, or there is none.
    """
    found = numbers_of(what, values)
    if bad := [one for one in found if not 0 < one < 1]:
        raise UsageError(f"{what}: {bad[0]:g} is outside 0..1, both excluded; give fractions such as 0.5.")
    return tuple(sorted(found, reverse=True))


def facts(plan: Plan) -> dict[str, Any]:
    """Data, net and machine, for people."""
    loaded, machine = load_data(plan), here()
    return {
        "data": plan.data,
        "training examples": len(loaded.train),
        "test examples": len(loaded.test),
        "net": plan.net,
        "recipe": plan.training.summary(),
        "torch": machine["torch"],
        "machine": machine["machine"],
        "made": machine["created"],
    }


def compared(found: ReplicationStudy) -> ReplicationStudy:
    """The study with every row compared with the control of its section, in pairs over seeds, and every p corrected for all of them (Holm)."""
    pairs = [one for section in found.sections if section.control for one in _pairs(found, section)]
    notes = list(found.notes)
    if not pairs:
        if len(found.seeds) == 1 and any(section.control for section in found.sections):
            notes.append(f"1 seed cannot tell a difference from chance: nothing is compared; give at least {FEWEST}.")
        return dataclasses.replace(found, notes=tuple(notes))
    if min(one.comparison.n for one in pairs) < FEWEST:
        notes.append(
            f"{len(found.seeds)} seeds cannot tell a difference from chance: nothing is called significant; give at least {FEWEST}."
        )
    corrected = holm([one.comparison.p for one in pairs])
    contests = tuple(
        dataclasses.replace(one, comparison=dataclasses.replace(one.comparison, adjusted=p, family=len(pairs)))
        for one, p in zip(pairs, corrected, strict=True)
    )
    return dataclasses.replace(found, contests=contests, notes=tuple(notes), claims=len(pairs))


def _pairs(found: ReplicationStudy, section: Section) -> Iterator[RowComparison]:
    for column in found.columns(section.name):
        control = found.values(section.name, section.control, column)
        for row in found.rows(section.name):
            mine = found.values(section.name, row, column)
            seeds = sorted(mine.keys() & control.keys())
            # What is trained on everything is no choice.
            if row in (section.control, ALL) or len(seeds) < 2:
                continue
            pair = paired([mine[seed] for seed in seeds], [control[seed] for seed in seeds])
            low, high = pair.interval if pair.interval is not None else (None, None)
            comparison = Comparison(row, section.control, pair.effect, low, high, pair.p, pair.test, pair.n)
            yield RowComparison(section.name, row, column, comparison)


def finish(found: ReplicationStudy, folder: str | Path) -> ReplicationStudy:
    """Compare, and write the study, its table and its page.

    Raises:
        NotWritten: The disk refuses.
    """
    found = compared(found)
    paths = StudyPaths(Path(folder))
    replace(paths.summary, table(found).encode())
    written(found, folder, render_replication(found))
    return found


def write_plan(
    execution: Execution | None,
    paths: StudyPaths,
    name: str,
    work: Sequence[Work],
    plan: Plan | None,
    grid: Mapping[str, Any],
    scale: str,
) -> None:
    """Write the plan that the study carries out as TOML that `--plan` takes; its first lines say how many trainings it is.

    Args:
        execution: Where the trainings run; where they are only announced nothing is written.
        paths: Where.
        name: Name of the study.
        work: All trainings.
        plan: The plan of one training; None for a study whose trainings have none.
        grid: What the study combines; None is left out.
        scale: The scale that says what neither of them does.

    Raises:
        NotWritten: The disk refuses.
    """
    if execution is not None and getattr(execution.pool, "dry_run", False):
        return
    text = f"{STUDY_PLAN}{name}\n# {counted_work(work)}\n# assay study {name} FOLDER --plan THIS_FILE does it again.\n"
    paths.folder.mkdir(parents=True, exist_ok=True)
    # What a study says itself is in no plan of its own.
    told = {} if plan is None else plan.plain()
    plain = {name: value for name, value in told.items() if name not in ("record", "models", "member")}
    replace(paths.plan, (text + toml({**plain, "study": {"scale": scale, **grid}})).encode())


def toml(settings: Mapping[str, Any]) -> str:
    """Settings as TOML: single values first, then a table for each mapping."""
    plain = [
        f"{key} = {_value(value)}" for key, value in settings.items() if value is not None and not isinstance(value, Mapping)
    ]
    tables = [
        "\n".join([f"\n[{key}]", *(f"{name} = {_value(one)}" for name, one in value.items() if one is not None)])
        for key, value in settings.items()
        if isinstance(value, Mapping) and value
    ]
    return "\n".join([*plain, *tables]) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_value(one)}" for name, one in value.items() if one is not None) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(one) for one in value)}]"
    # A text in JSON is one in TOML, but for a character that JSON need not escape.
    return json.dumps(value).replace("\x7f", "\\u007f")


def table(found: ReplicationStudy) -> str:
    """Every number as CSV, and the published ones with how each is known in the place of a seed."""
    return numbers_table(found.numbers, found.published)


def numbers_table(found: Iterable[tuple[str, str, str, int | str, float]], published: Iterable[PublishedNumber] = ()) -> str:
    """Numbers as CSV, and published ones with how each is known in the place of a seed.

    Args:
        found: Section, row, column, seed and value of each number.
        published: What stands beside.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TABLE)
    for *cell, value in found:
        writer.writerow((*cell, repr(value)))
    for one in published:
        number = "" if one.value is None else repr(one.value)
        writer.writerow((one.section, f"{one.row} ({one.source})", one.column, one.known, number))
    return text.getvalue()


def measured(section: str, row: str, seed: int, values: Mapping[str, float]) -> list[Measured]:
    """The numbers of one row and seed, by column."""
    return [Measured(section, row, column, seed, float(value)) for column, value in values.items()]
