"""The protocol of the studies that compare choices: score a recording, keep a fraction by every choice, train new nets on what stays, all in the same way."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from .. import methods
from ..cluster.executors import Call, run_all
from ..core import options
from ..core.errors import AssayError, UsageError
from ..core.lineage import fingerprint
from ..core.needs import Need
from ..core.replication import LeftOut, Measured
from ..core.selection import budget_of
from ..core.study import ALL
from ..experiments.choose import decide
from ..experiments.estimate import Work, steps_of
from ..experiments.execution import Execution
from ..experiments.plan import LoadedData, Plan, load_data
from ..experiments.trials import TURN, Arm
from ..policies import catalogue, live_catalogue, parse_live
from ..runs.artefacts import finished, load_decision, load_scores, save_decision
from ..runs.paths import RunPaths, StudyPaths
from ..runs.run import Run
from ..training.batches import sizes
from .scaling import probe_of
from .trainings import Job, Recorded, check_epochs, outcomes, recordings

Budget = Literal["epochs", "steps"]
SECTION = "Test accuracy"
EVERY_EPOCH = ", anew every epoch"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way of keeping a fraction of the examples.

    Attributes:
        row: What it is called.
        selector: The policy, without its options `keep` and `seed`.
        score: Title of the score that it chooses by; None for a policy that needs none.
    """

    row: str
    selector: str
    score: str | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is compared, and how all nets are trained.

    Attributes:
        plan: How nets on all examples are trained; its seed is that of the first repetition.
        choices: The choices, by fraction that is kept.
        live: Live selectors that train every epoch on as many examples, chosen anew.
        seeds: Number of repetitions.
        budget: Whether all take as many `epochs`, or as many `steps` as everything takes.
        batches: Batch sizes, by fraction that is kept; the plan's where none is named.
        view: Which pass is recorded: `eval` or `train`.
        models: How many nets a recording has.
    """

    plan: Plan
    choices: Mapping[float, Sequence[Choice]]
    live: tuple[str, ...]
    seeds: int
    budget: Budget = "epochs"
    batches: Mapping[float, int] = dataclasses.field(default_factory=dict)
    view: Literal["train", "eval"] = "eval"
    models: int = 1

    def __post_init__(self):
        """Refuse what does not go together.

        Raises:
            UsageError: The plan has a horizon or too few epochs, a batch size is for no fraction or below 1, or a choice is named twice.
        """
        if self.plan.training.horizon is not None:
            raise UsageError("A study lays the schedule out itself; leave horizon out of the plan.")
        if strange := [fraction for fraction in self.batches if fraction not in self.choices]:
            raise UsageError(f"batches: {strange[0]:g} is none of the fractions {', '.join(f'{one:g}' for one in self.choices)}.")
        if bad := [batch for batch in self.batches.values() if batch < 1]:
            raise UsageError(f"batches: {bad[0]} is no whole number of 1 or more.")
        check_epochs(self.scores, self.plan.training.epochs)
        for fraction, choices in self.choices.items():
            rows = [choice.row for choice in choices]
            if len(set(rows)) < len(rows):
                raise UsageError(
                    f"{next(row for row in rows if rows.count(row) > 1)} is named twice at {fraction:g}; name each choice once."
                )

    @property
    def scores(self) -> tuple[str, ...]:
        """Titles of the scores that are chosen by."""
        chosen_by = (choice.score for choices in self.choices.values() for choice in choices)
        return tuple(dict.fromkeys(score for score in chosen_by if score is not None))

    def of(self, repetition: int) -> Plan:
        """The plan of one repetition."""
        return Plan.make({**self.plan.plain(), "seed": self.plan.seed + repetition})

    def recorded(self, repetition: int) -> Recorded:
        """The recording of a repetition, with the scores that are read of it."""
        plan = self.of(repetition)
        titles = dict.fromkeys(
            choice.score for choices in self.choices.values() for choice in choices if choice.score is not None
        )
        logits = any(Need.LOGITS in methods.parse(title).reads for title in titles)
        record = {"checkpoints": "last", "view": self.view, "keep_logits": logits}
        how = probe_of(plan, plan.training.epochs, self.models)
        return Recorded(
            f"probe-{repetition}", Plan.make({**plan.plain(), **how, "recipe": plan.recipe, "record": record}), tuple(titles)
        )

    def work(self) -> list[Work]:
        """All trainings."""
        plan, examples = self.of(0), len(load_data(self.of(0)).train)
        steps = steps_of(plan, examples)
        found = [
            Work("recorded", self.seeds * self.models, steps, self.recorded(0).plan, recorded=True),
            Work("final models on everything", self.seeds, steps, plan),
        ]
        for fraction, choices in self.choices.items():
            of_part = self.of_part(plan, fraction)
            taken = steps if self.budget == "steps" else steps_of(of_part, budget_of(fraction, examples))
            number = self.seeds * (len(choices) + len(self.live))
            found.append(Work(f"final models on {100 * fraction:g} %", number, taken, of_part))
        return found

    def of_part(self, plan: Plan, fraction: float) -> Plan:
        """The plan of a repetition with the batch size of a fraction."""
        batch = self.batches.get(fraction)
        return plan if batch is None else Plan.make({**plan.plain(), "recipe": {**plan.recipe, "batch": batch}})


def measured(protocol: Protocol, paths: StudyPaths, execution: Execution) -> tuple[list[Measured], list[LeftOut]]:
    """The test accuracy of every choice, seed and fraction; and what could not choose, and why.

    Raises:
        TrialFailed: A recording, a choice or a training ended in an error.
    """
    pool, progress = execution.pool, execution.progress
    assert pool is not None
    folders = recordings([protocol.recorded(repetition) for repetition in range(protocol.seeds)], paths, pool, progress)
    calls, meant = [], {}
    for repetition, folder in enumerate(folders):
        for fraction, choices in protocol.choices.items():
            name = f"choose-{repetition}-{fraction:g}"
            specs = tuple((choice.selector, choice.score) for choice in choices)
            work = str(folder.absolute()), specs, fraction, protocol.of(repetition).seed
            calls.append(Call(name, choose, work, fingerprint(folder.name, repr(work[1:]))))
            meant[name] = fraction, choices
    answers: dict[str, dict[tuple[str, str | None], str]] = {}
    for name, failed in run_all(pool, calls, paths.logs, "choose"):
        answers[name] = failed
        progress.advance("choose", len(answers), len(calls), name)
    refused: dict[tuple[float, str], str] = {}
    # In the order of the repetitions, so that the reason told is that of the first, wherever choices are made.
    for name, (fraction, choices) in meant.items():
        for choice in choices:
            if (why := answers[name].get((choice.selector, choice.score))) is not None:
                refused.setdefault((fraction, choice.row), why)
    cells, jobs = [], []
    for repetition, folder in enumerate(folders):
        for fraction, row, job in _jobs(protocol, repetition, folder, refused):
            cells.append((row, f"{fraction:g}"))
            jobs.append(job)
    trained = outcomes(jobs, paths, pool, progress)
    found = [
        Measured(SECTION, row, column, job.plan.seed, outcome.accuracy)
        for (row, column), job, outcome in zip(cells, jobs, trained, strict=True)
    ]
    return found, [LeftOut(SECTION, row, f"{fraction:g}", why) for (fraction, row), why in refused.items()]


def choose(folder: str, specs: Sequence[tuple[str, str | None]], keep: float, seed: int) -> dict[tuple[str, str | None], str]:
    """Make the decisions that are not saved in the folder of the recording, and return why others cannot be made."""
    refused = {}
    with TURN:
        run = Run(folder)
        for spec, score in specs:
            path = decided(Path(folder), spec, score, keep, seed)
            if finished(load_decision, path) is not None:
                continue
            try:
                by = None if score is None else load_scores(run.paths.scores(score))
                # What keeps suspects is part of what is compared, so that nobody is warned of it.
                decision = decide(
                    run if by is None else by, spec, None if by is None else run, options=budget_options(spec, keep, seed)
                )
            except AssayError as error:
                refused[spec, score] = str(error)
                continue
            save_decision(decision, path)
    return refused


def budget_options(spec: str, keep: float, seed: int) -> dict[str, object]:
    """The options that a policy is given beside those in its text: what stays, and a seed where it must have one, or chooses by one in the place of a score."""
    cls = catalogue()[options.split(spec)[0]]
    seeds = [field for field in dataclasses.fields(cls) if field.name == "seed"]  # type: ignore[arg-type]
    draws = any(field.default is dataclasses.MISSING or cls.ignores_score for field in seeds)
    return {"keep": keep, **({"seed": seed} if draws else {})}


def decided(folder: Path, spec: str, score: str | None, keep: float, seed: int) -> Path:
    """Where the decision of a choice is kept."""
    return RunPaths(folder).decision(fingerprint(spec, score or "", repr(keep), str(seed)))


def _jobs(
    protocol: Protocol, repetition: int, folder: Path, refused: Mapping[tuple[float, str], str]
) -> Iterator[tuple[float, str, Job]]:
    """Every training of a repetition, with the fraction and the row that it counts for."""
    plan = protocol.of(repetition)
    loaded = load_data(plan)
    recipe = plan.training
    steps = steps_of(plan, len(loaded.train))
    taken = steps if protocol.budget == "steps" else None
    everything = Job(plan, _arm(loaded, torch.ones(len(loaded.train), dtype=torch.bool)), taken)
    for fraction, choices in protocol.choices.items():
        of_part = protocol.of_part(plan, fraction)
        yield fraction, ALL, everything
        for choice in choices:
            if (fraction, choice.row) in refused:
                continue
            decision = load_decision(decided(folder, choice.selector, choice.score, fraction, plan.seed))
            kept = decision.kept
            ids = decision.ids.take(kept)
            labels = loaded.train.labels[loaded.train.ids.positions(ids, "the data")]
            yield fraction, choice.row, Job(of_part, Arm("kept", ids, labels, decision.weights[kept]), taken)
        for spec in protocol.live:
            selector = parse_live(spec, {"keep": fraction})
            per_epoch = len(sizes(budget_of(fraction, len(loaded.train)), of_part.training.batch, recipe.last_batch))
            # A live selector goes by epochs: as many as reach the steps.
            epochs = recipe.epochs if taken is None else math.ceil(taken / per_epoch)
            anew = (
                Plan.make({**of_part.plain(), "recipe": {**of_part.recipe, "epochs": epochs}})
                if epochs != recipe.epochs
                else of_part
            )
            arm = dataclasses.replace(everything.arm, name=selector.name, selector=selector)
            yield fraction, f"{spec}{EVERY_EPOCH}", Job(anew, arm)


def _arm(loaded: LoadedData, stays: torch.Tensor) -> Arm:
    train = loaded.train
    return Arm(ALL, train.ids.take(stays), train.labels[stays], torch.ones(int(stays.sum()), dtype=torch.float64))


def live_controls() -> tuple[str, ...]:
    """The live selectors that train every epoch on a given number of examples."""
    return tuple(
        name
        for name, cls in live_catalogue().items()
        if any(field.name == "keep" for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    )
