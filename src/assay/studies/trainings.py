"""What studies train: recordings with their scores, and final models. Each is kept in the study's folder, and done once."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from .. import __version__, methods
from ..cluster.executors import Call, run_all
from ..core.accumulators import AbstractAccumulator
from ..core.errors import UsageError
from ..core.lineage import fingerprint
from ..core.trial import Outcome
from ..experiments.plan import Plan, load_data
from ..experiments.progress import Progress
from ..experiments.record import record
from ..experiments.request import Request
from ..experiments.score import served
from ..experiments.trials import TURN, Arm, state_file, train_arm
from ..maths import draws
from ..runs.artefacts import finished, load_outcome, load_scores, save_outcome
from ..runs.paths import RunPaths, StudyPaths


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """A recording that is due, with its scores.

    Attributes:
        name: Name of its log.
        plan: How it is trained.
        scores: Titles of the scores.
        data: The plan of which the data are fingerprinted; that of the recording where None.
    """

    name: str
    plan: Plan
    scores: tuple[str, ...]
    data: Plan | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A final training that is due.

    Attributes:
        plan: How it is trained; the seed of weights and order is drawn from the plan's.
        arm: Of which examples.
        steps: How many steps it takes; None for the epochs of the plan.
    """

    plan: Plan
    arm: Arm
    steps: int | None = None


def recordings(
    wanted: Sequence[Recorded], paths: StudyPaths, pool: Executor, progress: Progress, refused: dict[str, str] | None = None
) -> list[Path]:
    """Record and score what is still due, and return the folder of each; equal recordings are done once, with the scores of all that ask for them.

    With `refused`, a score that cannot be made is no error: its title is written there, with where and why.

    Raises:
        TrialFailed: A recording or a scoring ended in an error.
    """
    folders: list[Path] = []
    by_folder: dict[Path, tuple[Recorded, dict[str, None]]] = {}
    for one in wanted:
        plain = json.dumps(one.plan.plain(), sort_keys=True)
        folders.append(paths.probe(fingerprint(plain, load_data(one.data or one.plan).content, __version__)))
        by_folder.setdefault(folders[-1], (one, {}))[1].update(dict.fromkeys(one.scores))
    calls = [
        Call(
            one.name,
            probe,
            (one.plan.plain(), str(folder.absolute()), tuple(titles), refused is None),
            fingerprint(folder.name, *titles),
            resumes=True,
        )
        for folder, (one, titles) in by_folder.items()
        if not titles or not all(scored(folder, title) for title in titles)
    ]
    total = len(by_folder)
    progress.advance("record", total - len(calls), total)
    for done, (name, why) in enumerate(run_all(pool, calls, paths.logs, "record", total - len(calls)), total - len(calls) + 1):
        progress.advance("record", done, total, name)
        if refused is not None:
            refused |= {
                title: f"{name}: {words.removeprefix(f'{title}: ')}" for title, words in why.items() if title not in refused
            }
    return folders


def check_epochs(titles: Iterable[str], epochs: int, cure: str = "epochs") -> None:
    """Refuse, before anything is recorded, scores that read more epochs than there will be.

    Raises:
        UsageError: Names the first such score, and what to give more of.
    """
    for one in map(methods.parse, titles):
        if isinstance(one, AbstractAccumulator) and one.fewest_epochs > epochs:
            raise UsageError(
                f"{one.title} reads at least {one.fewest_epochs} epochs, and the recordings have {epochs}; give more {cure}, or options that fit."
            )


def scored(folder: Path, title: str) -> bool:
    """Whether a recording has this score."""
    return finished(load_scores, RunPaths(folder).scores(title)) is not None


def probe(plain: Mapping[str, object], folder: str, scores: Sequence[str], strict: bool = True) -> dict[str, str]:
    """Record a plan and score it, in the folder of the recording.

    Returns:
        Titles of the scores that cannot be made, and why; none where `strict`.

    Raises:
        AssayError: As `record` and `score`; where not `strict`, if no score can be made.
    """
    with TURN:
        run = record(Plan.make(plain), folder, resume=RunPaths(Path(folder)).header.exists())
        if not scores:
            return {}
        request = Request(strict=strict, save=True, alone=not strict)
        return served(run, list(scores), request, joined=strict)[1]


def outcomes(jobs: Sequence[Job], paths: StudyPaths, pool: Executor, progress: Progress) -> list[Outcome]:
    """What each training came to; equal ones are done once.

    Raises:
        TrialFailed: A training ended in an error.
    """
    where = files(jobs, paths)
    known: dict[Path, Outcome] = {}
    calls: dict[str, Call] = {}
    names: dict[str, Path] = {}
    for job, path in zip(jobs, where, strict=True):
        if path in known or path.stem in calls:
            continue
        if (outcome := finished(functools.partial(load_outcome, made_of=path.stem), path)) is not None:
            known[path] = outcome
            continue
        seed = draws.integer(job.plan.seed, "study final")
        work = job.plan.plain(), job.arm, seed, job.steps, str(state_file(path))
        calls[path.stem] = Call(path.stem, train_arm, work, path.stem, resumes=True)
        names[path.stem] = path
    total, done = len(known) + len(calls), len(known)
    progress.advance("train", done, total, "taken from an earlier study" if done else "")
    for name, outcome in run_all(pool, list(calls.values()), paths.logs, "train", done):
        done += 1
        known[names[name]] = outcome
        save_outcome(outcome, names[name], name)
        progress.advance("train", done, total, f"{outcome.examples:,} examples: test accuracy {outcome.accuracy:.4f}")
    return [known[path] for path in where]


def files(jobs: Sequence[Job], paths: StudyPaths) -> list[Path]:
    """Where the outcome of each training is kept: by everything that it depends on, so that equal trainings have one file."""
    plans = {id(job.plan): job.plan for job in jobs}
    # Each plan's data are read once, though jobs of other plans stand in between.
    contents = {place: load_data(plan).content for place, plan in plans.items()}
    texts = {place: json.dumps(plan.plain(), sort_keys=True) for place, plan in plans.items()}
    return [
        paths.trial(
            fingerprint(
                fingerprint(texts[id(job.plan)], contents[id(job.plan)], __version__, str(job.steps)), job.arm.fingerprint
            ),
            job.plan.seed,
        )
        for job in jobs
    ]
