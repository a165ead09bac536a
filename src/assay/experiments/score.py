"""Score: from a recorded run to one number per example and method."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from .. import __version__
from ..core import accumulators, scoring
from ..core import options as texts
from ..core.accumulators import AbstractAccumulator, Spent
from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import AssayError, Mismatch, MissingEvidence, NumericalError, RunError, TrialFailed, UsageError
from ..core.evidence import Evidence
from ..core.features import DATA
from ..core.game import GameMaker
from ..core.lineage import Lineage
from ..core.method import AbstractMethod
from ..core.needs import EPOCH_NEEDS, Need
from ..core.scores import Scores, ScoreTable
from ..methods import parse
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given
from ..runs.artefacts import save_scores
from ..runs.coalitions import CoalitionValues, KeptValues
from ..runs.run import DRAWN, Run
from .evidence import Agreed, data_of, gather, given_rows
from .execution import MOVED, RECOMPUTE, REPLAYING, Execution, Save
from .games import GamesBy, Spread, game_of
from .held_out import FoundHeldOut, held_out_asked, held_out_of
from .models import members_of, open_models, over_models
from .plan import folds_of, has_plan
from .request import Request
from .saved_scores import of_target, parents_of, saved_score
from .scorable import (
    BESIDE,
    check_classes,
    check_joinable,
    check_mean_probs,
    check_read,
    check_untrained,
    check_wanted,
    inputs_asked,
    is_replayed,
    looks_at_inputs,
    plays,
    replayed,
    scorable,
    unrecorded,
)

Made = TypeVar("Made")
ALL = "all"
"""In place of a name: every method that the run allows with its default options."""


@moved_keywords(MOVED | RECOMPUTE | REPLAYING)
@checked_arguments
def score(
    run: str | Path | Run | Evidence,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    *,
    strict: bool = False,
    save: Save = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    replay_config: ReplayConfig | None = None,
    references: Mapping[str, Mapping[str, Tensor]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    execution: Execution | None = None,
) -> ScoreTable:
    """One score per method, joined by id. All methods that read epochs one by one share one pass over the run.

    If the run lacks what a method needs, the other methods are still scored: a warning names it, and `ScoreTable.refused`
    gives the reason by its title.
    Names and options that do not exist are always an error, and so is a call that leaves no score at all.

    If some methods cover fewer examples than others, as with windows that leave some out, use `score_separately`, which does not join the scores.

    Methods that read steps or checkpoints replay the training. Runs made by `assay record` hold what that needs; for runs of your own
    loop, pass `loop`.

    Args:
        run: Folder of a run, or an open run; or evidence in memory, as `gather_logits` and `gather_inputs` make it.
        methods: Names, `"name:option=value,..."`, or methods; one or several. `"all"` is every method that the facts of the run
            allow; those that replay a training or read the data may take long and must be named beside it, as in `["all", "grand"]`. Of data without a training
            it is every method that needs none, but for games by held-out examples.
        strict: Raise the first refusal of a method, instead of returning the scores of the others.
        save: Write each score into the run's folder, and reuse a saved score that was made from this same recording; with `loop`, scores that
            need a replay are always computed, since a later call cannot check that its loop is the same. `"recompute"` computes and writes even
            those that are saved already.
        loop: The `Loop` that describes your own training loop.
        targets: The targets whose change may be predicted, by name: functions of the model, Examples, or (inputs, labels). Runs with a
            plan know `validation`, `misclassified`, `test`, `class=NAME`, `id=ID` and `ids=FILE` by themselves (see `experiments.evidence`).
        replay_config: How steps are replayed: schedule, memory, tolerance.
        references: Parameters from elsewhere that `oti:reference=NAME` steps towards, by name: a model's state_dict each.
        inputs: Rows by name, such as embeddings, that a method with `features=rows:NAME` reads instead of the data: one for each of the run's ids.
            Without them, a saved score that was made from rows of that name is reused.
        execution: Where whole trainings run, for methods that retrain without each example (loo), and who is told of each.

    Raises:
        UnknownName: No such method or option.
        MissingEvidence: The run did not record what any of the methods needs; with `strict`, what one of them needs.
        RunError: The run is absent or damaged.
        UsageError: No method, a target that is not there, or an argument that no method reads.
        BadScores: A method gave something that is not one finite number per example.
        Mismatch: The replay does not reproduce the recording, or methods cover different examples.
        NumericalError: An adjoint is not finite.
        TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
    """
    request = Request(strict, save, loop, targets, replay_config, references, inputs, execution or Execution())
    made, refused = served(run, methods, request, joined=True)
    _warn(methods, refused)
    return ScoreTable(list(made.values()), refused)


@moved_keywords(MOVED | RECOMPUTE | REPLAYING)
@checked_arguments
def score_separately(
    run: str | Path | Run | Evidence, methods: Sequence[str | AbstractMethod] | str | AbstractMethod, **given: Any
) -> dict[str, Scores]:
    """The scores that `score` gives, by title, each over the examples that its method covers: some may cover fewer than others.

    Args:
        run: The run.
        methods: One or several; a method whose evidence the run lacks is left out with a warning, as by `score`.
        given: Further arguments of `score`.

    Raises:
        AssayError: As `score`.
        TypeError: An argument that `score` does not take.
    """
    for name in given.keys() - ({field.name for field in dataclasses.fields(Request)} - {"alone"}):
        raise TypeError(f"score_separately() got an unexpected keyword argument {name!r}")
    made, refused = served(run, methods, Request(**given), joined=False)
    _warn(methods, refused)
    return made


def _warn(methods: object, refused: Mapping[str, str]) -> None:
    """Say which of the methods that were named have no score, and why."""
    for title, why in unscored_of(methods, refused).items():
        warnings.warn(f"{title} was not scored: {why}", stacklevel=5)


def unscored_of(methods: object, refused: Mapping[str, str]) -> dict[str, str]:
    """Those of the refused methods that were named, and why; what `all` leaves out nobody named."""
    listed = methods if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods]
    named = {parse(one).title for one in listed if one != ALL}
    return {title: why for title, why in refused.items() if title in named}


def served(
    run: str | Path | Run | Evidence,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    request: Request,
    *,
    joined: bool,
) -> tuple[dict[str, Scores], dict[str, str]]:
    """The scores of the methods that the run allows, by title; and the reasons against the others, by title. Issues no warning.

    Args:
        run, methods: As `score` takes them.
        request: What is given beside them.
        joined: Whether the scores must cover the same examples.

    Raises:
        AssayError: As `score`.
    """
    if isinstance(run, Evidence):
        return _in_memory(run, methods, request.strict, request.of_a_run)
    run = run if isinstance(run, Run) else Run(run)
    wanted, left_out = _wanted(run, methods)
    if left_out and not wanted:
        raise MissingEvidence(f"{run.folder} allows no method with its default options: {next(iter(left_out.values()))}")
    check_wanted(wanted)
    check_read(run, wanted, request)
    if not run.epochs:
        check_untrained(wanted)
    refused: dict[str, AssayError] = {}
    wanted = _recorded(run, _with_classes(run, wanted, request, refused), request, refused)
    models = members_of(run)
    agreed: Agreed = {}
    seen, content = _inputs(run, wanted, request, agreed)
    wanted, replays = _by_replay(models, wanted, request, refused, agreed)
    first = replays[0] if replays else None
    made: dict[str, Scores] = {}
    wanted, held = _held_out(run, wanted, request, seen, first, refused)
    content |= {of_target(name): found.content for name, found in held.items()}
    # Rows of held-out examples are none of the run's.
    shown = {
        name: rows for name, rows in seen.items() if name == DATA or not any(name in one.examples.inputs for one in held.values())
    }
    parents = {one.title: parents_of(run, one, first, request.loop, request.replay_config, content) for one in wanted}
    evidences = [gather(model, replays[place] if replays else None, shown, replays) for place, model in enumerate(models)]
    if held:
        beside = {name: found.examples for name, found in held.items()}
        evidences = [one.beside(beside, _games(run, request)) for one in evidences]
    elif any(map(plays, wanted)):
        evidences = [one.beside({}, _games(run, request)) if Need.GAME in one.holds else one for one in evidences]
    for one in wanted:
        if request.save and not request.recompute and (old := saved_score(run, one, parents[one.title])) is not None:
            made[one.title] = old
    due = [one for one in wanted if one.title not in made]
    for one in due:
        if looks_at_inputs(one) and DATA not in seen:
            data_of(run, request.loop)
        for name in inputs_asked(one):
            if name not in seen:
                raise UsageError(
                    f"{one.title} reads rows named {name!r}, which are neither given nor scored yet; give --inputs {name}=FILE "
                    f"(in Python inputs={{{name!r}: rows}})."
                )
    if joined:
        check_joinable(run, wanted, made, evidences[0])
    spent, by_title = Spent(), {one.title: one for one in due}
    for result in _each(models, due, evidences, spent, request, refused):
        one = by_title[result.title]
        lineage = Lineage(
            dataset=run.dataset,
            parents=parents[one.title],
            code=__version__,
            seed=run.header.seed,
            device=str(first.training.device) if first is not None and replayed(one) else "cpu",
            seconds=spent.seconds.get(one.title, 0.0),
            folder=str(run.folder),
            drawn=DRAWN in run.header.about,
        )
        remarks = (
            ()
            if first is None
            else tuple(first.remarks[name] for name in one.asks.named_targets if name in first.remarks and replayed(one))
        )
        if not replayed(one):
            remarks += tuple(words for name in one.asks.queries if name in held for words in held[name].remarks)
        # What could not be held against the recording concerns all that is taken from the replay.
        remarks += first.cautions if first is not None and replayed(one) else ()
        told = result.diagnostics
        if run.passes is not None and one.reads & (EPOCH_NEEDS | {Need.MEAN_PROBS}):
            told = {"made of": run.passes.summary(run.epochs, folds_of(run)), **told}
        made[one.title] = dataclasses.replace(result, lineage=lineage, warnings=(*result.warnings, *remarks), diagnostics=told)
        # At once, so that what fails later costs nothing that was made before.
        if request.save:
            save_scores(made[one.title], run.paths.scores(one.title))
    if not made:
        raise next(iter(refused.values()))
    return {one.title: made[one.title] for one in wanted if one.title in made}, left_out | {
        title: str(error) for title, error in refused.items()
    }


def _wanted(
    run: Run, methods: Sequence[str | AbstractMethod] | str | AbstractMethod
) -> tuple[list[AbstractMethod], dict[str, str]]:
    """The methods that are asked for; and of those that `all` leaves out, why."""
    named = list(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods]
    left_out: dict[str, str] = {}
    if any(isinstance(one, str) and one == ALL for one in named):
        able, left_out = scorable(run)
        beside = [parse(one) for one in named if not (isinstance(one, str) and one == ALL)]
        titles = {one.title for one in beside}
        left_out = {title: why for title, why in left_out.items() if title not in titles}
        return [*(parse(name) for name in able if name not in titles), *beside], left_out
    return [parse(one) for one in named], left_out


def _in_memory(
    evidence: Evidence,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    strict: bool,
    unread: Sequence[str],
) -> tuple[dict[str, Scores], dict[str, str]]:
    """The scores of evidence in memory, which has no folder, no steps and no models."""
    if unread:
        raise UsageError(f"{unread[0]} is for recorded runs, and this is evidence in memory; leave it out.")
    named = list(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods]
    if ALL in [one for one in named if isinstance(one, str)]:
        raise UsageError("'all' is for recorded runs; of evidence in memory name the methods.")
    wanted, refused = [parse(one) for one in named], dict[str, AssayError]()
    check_wanted(wanted)
    made: dict[str, Scores] = {}
    for group in scoring.groups(wanted):
        made |= {one.title: one for one in _or_refused(group, lambda these: scoring.score(these, evidence), strict, refused)}
    if not made:
        raise next(iter(refused.values()))
    return {one.title: made[one.title] for one in wanted if one.title in made}, {
        title: str(error) for title, error in refused.items()
    }


def _soft(error: AssayError, methods: Sequence[AbstractMethod]) -> bool:
    """Whether an error says that a run cannot serve a method, and not that the call is wrong."""
    if isinstance(error, UsageError):
        # What an option that nobody gave asks for, the caller did not ask for.
        return not any(texts.changed(one) for one in methods)
    return isinstance(error, (MissingEvidence, Mismatch, NumericalError))


def _soft_of(request: Request) -> Callable[[AssayError, Sequence[AbstractMethod]], bool]:
    """Which errors refuse a method alone."""
    return (lambda *_: True) if request.alone else _soft


def _or_refused(
    methods: Sequence[AbstractMethod],
    attempt: Callable[[list[AbstractMethod]], list[Made]],
    strict: bool,
    refused: dict[str, AssayError],
    soft: Callable[[AssayError, Sequence[AbstractMethod]], bool] = _soft,
) -> list[Made]:
    """What an attempt gives for methods that share work; where it is refused, one by one, with the refusals put to the others.

    Raises:
        AssayError: The call is wrong, or anything is refused and `strict`.
    """
    if not methods:
        return []
    try:
        return attempt(list(methods))
    except AssayError as error:
        if strict or (len(methods) == 1 and not soft(error, methods)) or isinstance(error, (RunError, TrialFailed)):
            raise
        if len(methods) == 1:
            refused[methods[0].title] = error
            return []
    return [made for one in methods for made in _or_refused([one], attempt, strict, refused, soft)]


def _with_classes(
    run: Run, wanted: Sequence[AbstractMethod], request: Request, refused: dict[str, AssayError]
) -> list[AbstractMethod]:
    """The methods that a run can serve that may know no classes.

    Raises:
        AssayError: No method is left, or anything is refused and `strict`.
    """

    def checked(methods: list[AbstractMethod]) -> list[AbstractMethod]:
        for one in methods:
            check_classes(run, one)
        return methods

    able = _or_refused(wanted, checked, request.strict, refused, lambda *_: True)
    if not able:
        raise next(iter(refused.values()))
    return able


def _recorded(
    run: Run, wanted: Sequence[AbstractMethod], request: Request, refused: dict[str, AssayError]
) -> list[AbstractMethod]:
    """The methods that find in the run, and in the loop's data, what they read; those that take the training again are not asked.

    Raises:
        AssayError: No method is left, or anything is refused and `strict`.
    """
    loop = request.loop

    def there(methods: list[AbstractMethod]) -> list[AbstractMethod]:
        for one in methods:
            # What was never recorded comes first: options cannot bring it.
            if not one.reads & BESIDE and one.title not in run.header.live:
                gather(run).narrow(one.title, one.reads)
                check_mean_probs(run, one)
            if (
                run.epochs
                and isinstance(one, AbstractAccumulator)
                and (why := accumulators.unserved(one, gather(run))) is not None
            ):
                raise why
            # Of a user's loop that is not given, saved scores may be all that is asked for.
            if looks_at_inputs(one) and loop is None and not has_plan(run) and not run.paths.scores(one.title).exists():
                data_of(run, loop)
        return methods

    able = _or_refused([one for one in wanted if not is_replayed(run, one)], there, request.strict, refused, lambda *_: True)
    return [one for one in wanted if one in able or is_replayed(run, one)]


def _by_replay(
    models: Sequence[Run],
    wanted: Sequence[AbstractMethod],
    request: Request,
    refused: dict[str, AssayError],
    agreed: Agreed,
) -> tuple[list[AbstractMethod], list[Replay]]:
    """The methods that can be served, and every model ready to be taken again if one of them asks for it.

    Raises:
        AssayError: The call is wrong, no method is left, or anything is refused and `strict`.
    """
    replays: list[Replay] = []
    # Methods that ask for the same targets need not look at all data one after another.
    known: dict[frozenset[str], list[Replay] | AssayError] = {}

    def opened(methods: list[AbstractMethod]) -> list[AbstractMethod]:
        for one in methods:
            if (why := unrecorded(models[0], one)) is not None:
                raise MissingEvidence(why)
        replays[:] = _replays(models, methods, request, known, agreed)
        return methods

    def soft(error: AssayError, methods: Sequence[AbstractMethod]) -> bool:
        return _soft_of(request)(error, methods) or (request.loop is None and not has_plan(models[0]))

    again = [one for one in wanted if is_replayed(models[0], one)]
    able = _or_refused(again, opened, request.strict, refused, soft)
    if len(able) < len(again):
        # What stands there is what the last of them asked for.
        opened(able)
    wanted = [one for one in wanted if one in able or one not in again]
    if not wanted:
        raise next(iter(refused.values()))
    return wanted, replays


def _held_out(
    run: Run,
    wanted: Sequence[AbstractMethod],
    request: Request,
    seen: Mapping[str, Tensor],
    replay: Replay | None,
    refused: dict[str, AssayError],
) -> tuple[list[AbstractMethod], dict[str, FoundHeldOut]]:
    """The methods that find the held-out examples that they read, and those by name.

    Raises:
        AssayError: No method is left, or anything is refused and `strict`.
    """
    held: dict[str, FoundHeldOut] = {}

    def found(methods: list[AbstractMethod]) -> list[AbstractMethod]:
        for name in held_out_asked(methods):
            if name not in held:
                held[name] = held_out_of(run, name, request, seen, replay)
        return methods

    reading = [one for one in wanted if Need.HELD_OUT in one.reads]
    able = _or_refused(reading, found, request.strict, refused, _soft_of(request))
    wanted = [one for one in wanted if one in able or one not in reading]
    if not wanted:
        raise next(iter(refused.values()))
    return wanted, held


def _games(run: Run, request: Request) -> GameMaker:
    """What makes games, which train where the request says: where scores are saved, the values of coalitions are too, so that a killed game goes on."""
    pool = request.execution.pool
    if isinstance(request.execution, GamesBy):
        return request.execution.maker
    maker: Callable[..., Any] = game_of if pool is None else functools.partial(game_of, spread=Spread(pool, run.paths.logs))
    if not request.save:
        return maker

    def keeper(made_of: str, width: int) -> CoalitionValues:
        return KeptValues(run.paths.coalitions(made_of), made_of, width, anew=request.recompute)

    return functools.partial(maker, keeper=keeper)


def _each(
    models: Sequence[Run],
    due: Sequence[AbstractMethod],
    evidences: Sequence[Evidence],
    spent: Spent,
    request: Request,
    refused: dict[str, AssayError],
) -> Iterator[Scores]:
    """The scores of the methods that can be computed; why the others cannot is written to `refused`."""
    for group in scoring.groups(due):
        yield from _or_refused(
            group, lambda these: over_models(models, these, evidences, spent), request.strict, refused, _soft_of(request)
        )


def _inputs(
    run: Run, wanted: Sequence[AbstractMethod], request: Request, agreed: Agreed
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the wanted methods of inputs look at, by name, and fingerprints."""
    both = {name: given_rows(rows) for name, rows in (request.inputs or {}).items()}
    seen, content = {name: rows for name, (rows, _) in both.items()}, {name: of for name, (_, of) in both.items()}
    # Of a user's loop that is not given, saved scores may be all that is asked for.
    if any(map(looks_at_inputs, wanted)) and (request.loop is not None or has_plan(run)):
        seen[DATA], content[DATA] = data_of(run, request.loop, agreed)
    return seen, content


def _replays(
    models: Sequence[Run],
    wanted: Sequence[AbstractMethod],
    request: Request,
    known: dict[frozenset[str], list[Replay] | AssayError],
    agreed: Agreed,
) -> list[Replay]:
    """Every model of a recording ready to be taken again, if a method asks for it; else none.

    Args:
        models, wanted, request: As they were given.
        known: What came of it, by the targets that were asked for; written to.
        agreed: What is known of the examples of the loop; written to.
    """
    if not any(is_replayed(models[0], one) for one in wanted):
        return []
    asked = [(one.title, target) for one in wanted if replayed(one) for target in one.asks.named_targets]
    key = frozenset(target for _, target in asked)
    if key not in known:
        try:
            known[key] = open_models(models, list(dict.fromkeys(target for _, target in asked)), request, agreed)
        except AssayError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, AssayError):
        raise found
    for title, target in asked:
        if target not in found[0].targets:
            raise UsageError(
                f"{title} asks for target {target!r}; there are: {', '.join(found[0].targets) or 'none'}. Name it with targets=, as "
                "(inputs, labels), Examples or a function of the model."
            )
    for target in (target for one in wanted if replayed(one) for target in one.asks.queries):
        # Before anything is computed.
        found[0].rows_of(target)
    return found
