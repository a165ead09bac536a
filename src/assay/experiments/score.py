"""Score: from a recorded run to one number per example and method."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..core import method as core
from ..core.errors import MissingEvidence, RunError, UsageError
from ..core.lineage import Lineage
from ..core.method import AbstractDynamicsMethod, AbstractMethod
from ..core.scores import Scores, ScoreTable
from ..methods import catalogue, parse
from ..runs.artefacts import load_scores, save_scores
from ..runs.gather import gather
from ..runs.run import Run


def score(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    *,
    save: bool = False,
    again: bool = False,
) -> ScoreTable:
    """One score per method, joined by id. All methods that fold over epochs share one pass over the run.

    Args:
        run: Folder of a run, or an open run.
        methods: Names, `"name:option=value,..."`, or methods; one or several.
        save: Write each score into the run's folder, and take it from there if it was made from this very recording.
        again: With `save`, compute even what is there.

    Raises:
        UnknownName: No such method or option.
        MissingEvidence: The run did not record what a method needs.
        RunError: The run is absent or damaged.
        BadScores: A method gave something that is not one finite number per example.
    """
    run = run if isinstance(run, Run) else Run(run)
    wanted = [parse(one) for one in ([methods] if isinstance(methods, (str, AbstractMethod)) else methods)]
    if not wanted:
        raise UsageError("No method was named; name at least one, such as 'dual'.")
    made: dict[str, Scores] = {}
    for one in wanted:
        if save and not again and (old := _saved(run, one)) is not None:
            made[one.title] = old
    due = [one for one in wanted if one.title not in made]
    began = time.perf_counter()
    for result in _computed(run, due):
        made[result.title] = result
    seconds = time.perf_counter() - began
    for one in due:
        lineage = Lineage(
            dataset=run.dataset,
            parents={"run": run.fingerprint},
            code=__version__,
            seed=run.header.seed,
            device="cpu",
            seconds=seconds,
            folder=str(run.folder),
        )
        made[one.title] = dataclasses.replace(made[one.title], lineage=lineage)
        if save:
            save_scores(made[one.title], run.paths.scores(one.title))
    return ScoreTable([made[one.title] for one in wanted])


def scorable(run: Run) -> tuple[list[str], dict[str, str]]:
    """Names of the methods that this run allows with their default options, and why it does not allow the others."""
    evidence, able, unable = gather(run), [], {}
    for name, cls in catalogue().items():
        method = cls()
        try:
            if not (isinstance(method, AbstractDynamicsMethod) and run.live_state(method) is not None):
                evidence.narrow(method.title, method.needs)
            if isinstance(method, AbstractDynamicsMethod) and run.epochs < method.fewest_epochs:
                raise MissingEvidence(f"{name} reads at least {method.fewest_epochs} epochs, this run has {run.epochs}.")
        except MissingEvidence as error:
            unable[name] = str(error)
        else:
            able.append(name)
    return able, unable


def _computed(run: Run, methods: Sequence[AbstractMethod]) -> list[Scores]:
    if not methods:
        return []
    evidence = gather(run)
    results, stored = [], []
    for method in methods:
        state = run.live_state(method) if isinstance(method, AbstractDynamicsMethod) else None
        # A state that was folded while training is the same number without the stored logits.
        if state is not None and not method.needs <= evidence.holds:
            if run.epochs < method.fewest_epochs:  # type: ignore[attr-defined]
                raise MissingEvidence(
                    f"{method.title} reads at least {method.fewest_epochs} epochs, but this run has {run.epochs}. "  # type: ignore[attr-defined]
                    "Record more epochs, or give the method options that fit."
                )
            results.append(core.checked(method, evidence, method.finish(state)))  # type: ignore[attr-defined]
        else:
            stored.append(method)
    return results + (core.score(stored, evidence) if stored else [])


def _saved(run: Run, method: AbstractMethod) -> Scores | None:
    path = run.paths.scores(method.title)
    if not path.exists():
        return None
    try:
        scores = load_scores(path)
    except RunError:
        # A damaged or newer file is no result; it is computed and written again.
        return None
    lineage = scores.lineage
    if lineage is None or lineage.parents.get("run") != run.fingerprint or lineage.code != __version__:
        return None
    if scores.title != method.title:
        return None
    return dataclasses.replace(scores, lineage=dataclasses.replace(lineage, folder=str(run.folder)))
