"""Record: train the plan's net with the recorder on."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..cluster.executors import Call, run_all
from ..core.arguments import checked_arguments, moved_keywords
from ..core.errors import Mismatch, NotWritten, OutputExists, RunError, UsageError, listed
from ..core.lineage import fingerprint
from ..core.live_selection import EpochSelection
from ..core.passes import Passes
from ..data.examples import Examples
from ..replay.live import LiveSteps
from ..replay.live_methods import LiveMethods
from ..replay.losses import WeightedBatch, WeightedLosses, cross_entropies
from ..runs.artefacts import save_folds, save_truth
from ..runs.disk import remove
from ..runs.paths import RunPaths
from ..runs.recorder import Origin, Partial, Recorder
from ..runs.recording import Recording
from ..runs.run import Run
from ..runs.untrained import untrained as write_untrained
from ..training.batches import TrainingData
from ..training.device import device_named
from ..training.loop import Observer, predict, train
from ..training.recipe import Recipe
from ..training.state import TrainingState, standing_at
from .execution import MOVED, Execution
from .plan import LoadedData, Plan, load_data
from .progress import Progress
from .trials import TURN


class _Tap(Observer):
    """Carries what the training loop shows over to the recorder."""

    def __init__(
        self,
        recorder: Recorder,
        live: LiveMethods,
        examples: Examples,
        recipe: Recipe,
        model: nn.Module,
        progress: Progress,
        task: str,
        validation: Examples | None = None,
    ):
        self._live, self._validation = live, validation
        self._recorder, self._examples, self._recipe = recorder, examples, recipe
        self._progress, self._task = progress, task
        self._right = self._seen = 0
        self._weights: Tensor | None = None
        self._steps = LiveSteps(model, WeightedLosses(cross_entropies), first=sum(commit.steps for commit in recorder.commits))
        live.functional = self._steps.functional

    def starts(self, state: TrainingState) -> None:
        self._recorder.start(state.tensors, state.metadata)

    def epoch_begins(self, epoch: int) -> None:
        self._recorder.begin()
        self._recorder.autocast = {} if self._recipe.precision == "float32" else {"cuda": self._recipe.precision}
        self._right = self._seen = 0

    def selected(self, selection: EpochSelection) -> None:
        self._weights = None if selection.whole else selection.weights

    def step_begins(self, model: nn.Module) -> None:
        if self._live.step_methods:
            self._steps.before()

    def stepped(self, positions: Tensor, batch: Tensor, labels: Tensor, rate: float) -> None:
        if self._live.step_methods:
            rates = dict.fromkeys(self._steps.functional.names, rate)
            seen: Any = (batch, labels)
            if self._weights is not None:
                seen = WeightedBatch(seen, self._weights[positions].to(labels.device))
            self._live.update(self._steps.after(self._recorder.epochs, [(positions, seen)], rates))

    def batch(self, positions: Tensor, logits: Tensor, labels: Tensor, rate: float) -> None:
        self._recorder.step(positions, [rate], weights=None if self._weights is None else self._weights[positions])
        if self._recorder.header.view == "train":
            self._recorder.observe(positions, logits, labels)
        self._right += int((logits.argmax(1) == labels).sum())
        self._seen += len(positions)

    def epoch_ends(self, epoch: int, model: nn.Module, state: TrainingState) -> None:
        if self._recorder.header.view == "eval":
            examples = self._examples
            with standing_at(model, state.averages):
                logits = predict(model, examples.inputs, prepare=examples.prepared, device=self._recipe.device)
            self._recorder.observe(torch.arange(len(examples)), logits, examples.labels)
        if self._validation is not None:
            held = self._validation
            with standing_at(model, state.averages):
                logits = predict(model, held.inputs, prepare=held.prepared, device=self._recipe.device)
            self._recorder.validation(logits, held.labels)
        self._recorder.commit(state.tensors, state.metadata)
        for scores in self._live.scores():
            self._progress.most(scores)
        self._progress.advance(self._task, epoch + 1, self._recipe.epochs, f"train accuracy {self._right / self._seen:.3f}")


@moved_keywords(MOVED)
@checked_arguments
def record(plan: Plan, folder: str | Path, *, resume: bool = False, execution: Execution | None = None) -> Run:
    """Train by the plan and record into `folder`; with `resume`, go on after the last committed epoch, with the same bytes as without the
    interruption.

    The first of several models is the run itself, the others are runs in its folder `models`. With folds the run holds, for every example, what the models
    that were trained without its fold predict; those are runs in its folder `folds`. Where they kept several epochs, the passes are those epochs.

    Several models, or those of the folds, may be trained in an executor's places, `execution=assay.Execution(pool)`: each by the executor's number of torch
    threads, with the same bytes as in this process by as many.

    Raises:
        UsageError: The plan cannot be carried out, or an executor is given for a single training.
        OutputExists: `folder` holds a run and `resume` is false.
        Mismatch: The run to resume was recorded by another plan or from other data.
        NumericalError: A loss or logit is not finite.
        NotWritten: The disk refuses.
        TrialFailed: A training in another place ended in an error; those that others had finished are kept.
    """
    execution = execution or Execution()
    loaded, paths, progress = plan.load(), RunPaths(Path(folder)), execution.progress
    if plan.folds is not None and plan.fold is None:
        _record_folds(plan, loaded, paths, resume, execution)
        return Run(folder)
    if execution.pool is not None:
        _record_models(plan, loaded, paths, resume, execution.pool, progress)
        return Run(folder)
    _record_model(plan, loaded, paths.folder, resume, progress, "record")
    for place in range(1, plan.models):
        task = f"record model {place + 1} of {plan.models}"
        _record_model(plan.of_member(place), loaded, paths.model(place).folder, resume, progress, task)
    return Run(folder)


def _record_models(plan: Plan, loaded: LoadedData, paths: RunPaths, resume: bool, pool: Executor, progress: Progress) -> None:
    """Train the models of the plan in an executor's places."""
    if plan.models == 1:
        raise UsageError(
            "Execution(pool=) is for plans of several models or with folds, which are trained each by itself; the plan has one training: leave it out."
        )
    _check_recordable(plan, len(loaded.train), resume)
    # The folder becomes a run before the models in it do.
    model = plan.build(loaded, plan.model_seed)
    with _begun(plan, loaded, paths.folder, resume, model, LiveMethods(plan.live)) as recorder, _forgotten_if_empty(recorder):
        _check_resumed(recorder, plan, loaded.train)
    members = {"model-1": (plan, paths.folder)}
    members |= {f"model-{place + 1}": (plan.of_member(place), paths.model(place).folder) for place in range(1, plan.models)}
    _spread(members, loaded.train, paths, pool, progress)


def _spread(
    members: Mapping[str, tuple[Plan, Path]], examples: Examples, paths: RunPaths, pool: Executor, progress: Progress
) -> None:
    """Record each of several plans into a folder of its own, in an executor's places, but those that are there whole.

    Raises:
        TrialFailed: One ended in an error.
    """
    calls = [
        Call(
            f"record-{name}",
            _record_elsewhere,
            (plan.plain(), str(folder.absolute())),
            fingerprint(str(folder.absolute()), json.dumps(plan.plain(), sort_keys=True), examples.content, __version__),
            resumes=plan.record.checkpoints != "none",
        )
        for name, (plan, folder) in members.items()
        if not _whole(plan, folder)
    ]
    before, total = len(members) - len(calls), len(members)
    progress.advance("record", before, total)
    for done, (name, _) in enumerate(run_all(pool, calls, paths.logs, "record", before), before + 1):
        progress.advance("record", done, total, name)


def _whole(plan: Plan, folder: Path) -> bool:
    """Whether a recording by the plan came to its end; what is damaged did not, which is said when it is gone on with."""
    try:
        return Run(folder).epochs == plan.training.epochs
    except RunError:
        return False


def _record_elsewhere(plain: Mapping[str, object], folder: str) -> None:
    """Record one model, in whatever process this is; a recording that was begun goes on."""
    with TURN:
        plan = Plan.make(plain)
        _train_recorded(plan, load_data(plan), Path(folder), True, Progress(), "record")


def _check_recordable(plan: Plan, examples: int, resume: bool) -> None:
    """Refuse a training that cannot be recorded, or not be gone on with.

    Raises:
        UsageError: Names the setting.
    """
    recipe = plan.training
    device_named(recipe.device)
    if recipe.last_batch == "drop" and plan.record.view == "train" and plan.selector is None and examples % recipe.batch:
        raise UsageError(
            f"last_batch='drop' leaves {examples % recipe.batch} of {examples} examples out of every epoch; "
            "use last_batch='keep' or 'even', or record a clean pass after every epoch (`view = \"eval\"` under `[record]`, `--view eval`)."
        )
    if resume and plan.record.checkpoints == "none":
        raise UsageError("A run without checkpoints cannot be resumed; record with checkpoints 'last'.")


def _begun(plan: Plan, loaded: LoadedData, folder: Path, resume: bool, model: nn.Module, live: LiveMethods) -> Recorder:
    """The recorder of one model of the plan."""
    return Recorder(
        folder,
        loaded.train.ids,
        dataclasses.replace(plan.record, live=()),
        live=live,
        partial=None if plan.selector is None else Partial(plan.selector.title, loaded.train.labels),
        class_names=loaded.train.class_names,
        origin=Origin(plan.model_seed, plan.training.device, about(plan, loaded, model), __version__),
        resume=resume,
    )


def _record_model(plan: Plan, loaded: LoadedData, folder: Path, resume: bool, progress: Progress, task: str) -> None:
    """Train one model of the plan and record it, if that can be."""
    _check_recordable(plan, len(loaded.train), resume)
    _train_recorded(plan, loaded, folder, resume, progress, task)


def _train_recorded(plan: Plan, loaded: LoadedData, folder: Path, resume: bool, progress: Progress, task: str) -> None:
    examples, recipe, live = loaded.train, plan.training, LiveMethods(plan.live)
    augment = plan.augmentation(loaded, recipe.seed)
    model = plan.build(loaded, plan.model_seed)
    recorder = _begun(plan, loaded, folder, resume, model, live)
    with recorder, _forgotten_if_empty(recorder):
        _check_resumed(recorder, plan, examples)
        if loaded.true_labels is not None:
            save_truth(examples.ids, loaded.true_labels, recorder.paths.truth, corrupted=loaded.corrupted)
        state = None
        if recorder.epochs:
            file = Run(folder).checkpoint(recorder.epochs - 1)
            state = TrainingState.read(file.read_all(), file.notes)
        progress.advance(task, recorder.epochs, recipe.epochs)
        held = loaded.validation if plan.record.validation is not False else None
        train(
            model,
            TrainingData(examples.inputs, examples.labels, examples.ids, prepare=examples.prepared, augment=augment),
            recipe,
            observer=_Tap(recorder, live, examples, recipe, model, progress, task, held),
            resume=state,
            selector=plan.selector,
        )


def _check_resumed(recorder: Recorder, plan: Plan, examples: Examples) -> None:
    """Refuse to go on with a run that another plan or other data began.

    Raises:
        Mismatch: Names the first difference.
    """
    folder = recorder.paths.folder
    # The content hash takes the pixels in, which ids and labels alone do not.
    if (was := recorder.header.about.get("content")) != examples.content:
        raise Mismatch(
            f"{folder} was recorded from data {was}, {plan.data} now is {examples.content}; resume with the same data."
        )
    old, new = recorder.header.about.get("plan"), plan.plain()
    if old != new:
        raise Mismatch(f"{folder} was recorded by another plan ({_difference(old, new)}); resume it with the same settings.")


def _record_folds(plan: Plan, loaded: LoadedData, paths: RunPaths, resume: bool, execution: Execution) -> None:
    """Train a model without each fold, and record what it predicts of that fold."""
    examples, recipe = loaded.train, plan.training
    device_named(recipe.device)
    numbers = plan.numbers(loaded)
    facts = about(plan, loaded, plan.build(loaded, plan.model_seed))
    if alone := [examples.class_names[label] for label, count in enumerate(examples.labels.bincount().tolist()) if count == 1]:
        one = f"The classes {listed(alone, len(alone))} have one example each, which no model of the other folds has seen the class of; its scores say so only."
        facts["notes"] = [*loaded.notes, one]
    recorder = Recorder(
        paths.folder,
        examples.ids,
        Recording(view="eval", keep_logits=True, mean_probs=plan.record.mean_probs, checkpoints="none"),
        class_names=examples.class_names,
        origin=Origin(plan.model_seed, recipe.device, facts, __version__, Passes("out_of_fold")),
        resume=resume,
    )
    with recorder, _forgotten_if_empty(recorder):
        _check_resumed(recorder, plan, examples)
        if loaded.true_labels is not None:
            save_truth(examples.ids, loaded.true_labels, paths.truth, corrupted=loaded.corrupted)
        folds = range(plan.folds or 0)
        if execution.pool is not None:
            for fold in folds:
                _check_recordable(plan, int((numbers != fold).sum()), resume)
            members = {f"fold-{fold + 1}": (plan.of_fold(fold), paths.fold(fold).folder) for fold in folds}
            _spread(members, examples, paths, execution.pool, execution.progress)
        else:
            for fold in folds:
                part, task = loaded.without(numbers == fold), f"record fold {fold + 1} of {plan.folds}"
                _record_model(plan.of_fold(fold), part, paths.fold(fold).folder, resume, execution.progress, task)
        save_folds(examples.ids, numbers, paths.fold_table)
        for epoch in _epochs_kept(plan)[recorder.epochs :]:
            recorder.begin()
            for fold in folds:
                held = (numbers == fold).nonzero().flatten()
                logits = _predicted(plan.of_fold(fold), loaded, Run(paths.fold(fold).folder), epoch, held)
                recorder.observe(held, logits, examples.labels[held])
            recorder.commit()


def _epochs_kept(plan: Plan) -> Sequence[int]:
    """The epochs of which each fold's model is kept for good."""
    asked, epochs = plan.record.checkpoints, plan.training.epochs
    if isinstance(asked, str):
        return range(epochs) if asked == "every" else [epochs - 1]
    return sorted(set(asked))


def _predicted(plan: Plan, loaded: LoadedData, run: Run, epoch: int, held: Tensor) -> Tensor:
    """Logits of some examples by the model that a run kept of an epoch, by its averaged parameters if there are any."""
    model, file = plan.build(loaded, plan.model_seed), run.checkpoint(epoch)
    state = TrainingState.read(file.read_all(), file.notes)
    model.load_state_dict(state.model)
    examples = loaded.train
    with standing_at(model, state.averages):
        return predict(model, examples.take(held).inputs, prepare=examples.prepared, device=plan.training.device)


@checked_arguments
def untrained(plan: Plan, folder: str | Path) -> Run:
    """A run of the plan's data without training, for methods that need no training; a run that the folder already holds is opened.

        table = assay.score(assay.untrained(assay.Plan.make({"data": "digits"}), "runs/digits"), "cg_score")

    Raises:
        UsageError: The plan cannot be carried out.
        OutputExists: `folder` holds something else.
        Mismatch: `folder` holds another plan, or other data.
        NotWritten: The disk refuses.
    """
    if not isinstance(plan, Plan):
        raise UsageError(f"untrained takes a plan, such as Plan.make({{'data': 'digits'}}), and not {type(plan).__name__}.")
    loaded = load_data(plan, anew=True)
    examples = loaded.train
    facts = about(plan, loaded, plan.build(loaded, plan.seed))
    if not RunPaths(Path(folder)).header.exists():
        made = write_untrained(
            folder,
            examples.ids,
            examples.labels,
            examples.class_names,
            true_labels=loaded.true_labels,
            seed=plan.seed,
            about=facts,
            code=__version__,
        )
        if loaded.true_labels is not None and loaded.corrupted is not None:
            save_truth(examples.ids, loaded.true_labels, made.paths.truth, corrupted=loaded.corrupted)
        return made
    run = Run(folder)
    if run.header.view != "none":
        raise OutputExists(f"{folder} holds a recorded run; score it without data, or name another folder.")
    if (old := run.header.about.get("plan")) != plan.plain():
        raise Mismatch(f"{folder} is of another plan ({_difference(old, plan.plain())}); name another folder.")
    if run.header.about.get("content") != examples.content:
        raise Mismatch(
            f"{folder} is of data {run.header.about.get('content')}, {plan.data} now is {examples.content}; name another folder."
        )
    return run


@contextlib.contextmanager
def _forgotten_if_empty(recorder: Recorder) -> Iterator[None]:
    """A recording that fails before anything is worth keeping leaves its folder free for the next try."""
    try:
        yield
    except BaseException:
        paths = recorder.paths
        inside = any(any(part.glob("*/run.json")) for part in (paths.folds, paths.models))
        if not recorder.epochs and not paths.examples.exists() and not inside:
            with contextlib.suppress(NotWritten):
                remove(recorder.paths.truth)
                remove(recorder.paths.header)
        raise


def _difference(old: object, new: dict[str, object]) -> str:
    """The first setting in which two plans differ, in words."""
    if not isinstance(old, dict):
        return "its own loop"
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict) and was != now:
            name, was, now = next(
                (f"{name}.{key}", was.get(key), now.get(key))
                for key in sorted(was.keys() | now.keys())
                if was.get(key) != now.get(key)
            )
        if was != now:
            return f"{name} was {was!r} and is {now!r}"
    return "the order of its settings"


def about(plan: Plan, loaded: LoadedData, model: nn.Module) -> dict[str, object]:
    """What is being trained, for people and for `verify`."""
    examples = loaded.train
    facts: dict[str, object] = {
        "plan": plan.plain(),
        "data": plan.data,
        "content": examples.content,
        "examples": len(examples),
        "test examples": len(loaded.test) if loaded.test_apart else 0,
        "classes": examples.classes,
        "net": plan.net,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": plan.training.summary(),
    }
    if loaded.validation is not None:
        facts["validation examples"] = len(loaded.validation)
    if loaded.wrong is not None:
        facts["wrong labels"] = int(loaded.wrong.sum())
    if loaded.corrupted is not None:
        facts["corrupted examples"] = int(loaded.corrupted.sum())
    if loaded.notes:
        facts["notes"] = list(loaded.notes)
    return facts
