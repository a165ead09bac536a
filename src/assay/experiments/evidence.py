"""From a run, or from tensors in memory, to the evidence that methods read."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.epochs import EpochsInMemory
from ..core.errors import MissingEvidence, NumericalError, UsageError, listed
from ..core.evidence import Evidence, ReplayedFacts, as_rows
from ..core.features import DATA
from ..core.held_out import HeldOut
from ..core.ids import Ids
from ..core.lineage import fingerprint
from ..core.needs import Need
from ..maths.observations import faults
from ..methods import catalogue
from ..replay.agreement import Agreement
from ..replay.config import ReplayConfig
from ..replay.loop import Loop, LoopTraining
from ..replay.planned import PlannedTraining
from ..replay.replay import Replay, TrainMany
from ..replay.replayable import ReplayableTraining
from ..replay.targets import PART, Given, MeanLoss, Target
from ..runs.epochs import LabelEpochs, MeanEpochs, RecordedEpochs
from ..runs.run import AGAIN, Run
from ..training.batches import TrainingData
from ..training.state import TrainingState
from .games import game_of
from .plan import LoadedData, Plan, came_of, folds_of, has_plan, load_data, plan_of
from .targets import check_disjoint, planned_targets, target_of


@checked_arguments
def gather(
    run: Run,
    replay: Replay | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    replays: Sequence[Replay] = (),
    unread: Ids | None = None,
) -> Evidence:
    """All evidence that a run holds on its examples, read only when it is needed.

    Args:
        run: The run.
        replay: The run's steps and checkpoints, where model and data are available to replay them.
        inputs: The examples' inputs and user-given rows, by name, where available.
        replays: The replays of all models of the recording, where there are several.
        unread: Examples of which nobody reads mean probabilities.
    """
    return Evidence(
        run.ids,
        run.classes,
        labels=run.labels if run.task == "classes" else None,
        epochs=RecordedEpochs(run, catalogue) if run.epochs else None,
        mean_probs=_together([run], unread),
        inputs=inputs,
        replayed=ReplayedFacts(replay, replays, replay, replay),  # type: ignore[arg-type]
        games=game_of if run.classes and (inputs or replay is not None) else None,
    )


def gather_labels(run: Run) -> Evidence:
    """The facts of a run of several labels for each example: every pair of an example and a label is an example of two classes.

    Args:
        run: The run.
    """
    labels = run.label_matrix()
    return Evidence(Ids(range(labels.numel())), 2, labels=labels.flatten(), epochs=LabelEpochs(run))


def _together(runs: Sequence[Run], unread: Ids | None) -> Callable[[], Tensor] | None:
    """What reads the mean probabilities of some models, once and when they are asked for; None if a model kept none."""
    if not all(run.keeps_probs for run in runs):
        return None

    @functools.cache
    def read() -> Tensor:
        total = _probs(runs[0], unread)
        for run in runs[1:]:
            total += _probs(run, unread)
        return total / len(runs) if len(runs) > 1 else total

    return read


def _probs(run: Run, unread: Ids | None) -> Tensor:
    probs = run.mean_probs(unread)
    assert probs is not None
    return probs


def gather_together(
    runs: Sequence[Run], replay: Replay | None = None, inputs: Mapping[str, Tensor] | None = None, unread: Ids | None = None
) -> Evidence:
    """Evidence averaged over the models of a recording (probabilities, for policies and the report); for a single run, its own evidence.

    Args:
        runs: The runs of the models.
        replay: Replay of the first run, which computes features where they are needed.
        inputs: As `gather` takes them.
        unread: As `gather` takes it.
    """
    first = runs[0]
    if len(runs) == 1:
        return gather(first, replay, inputs, unread=unread)
    return Evidence(
        first.ids,
        first.classes,
        labels=first.labels,
        epochs=MeanEpochs(runs),
        mean_probs=_together(runs, unread),
        inputs=inputs,
        replayed=ReplayedFacts(checkpoints=replay, features=replay),  # type: ignore[arg-type]
    )


@checked_arguments
def gather_logits(ids: Ids, logits: Float[Tensor, "epochs examples classes"], labels: Int[Tensor, " examples"]) -> Evidence:
    """The evidence of logits in memory, such as those of a paper's released files.

    Raises:
        NumericalError: A logit is NaN or infinite; names the epoch and ids.
    """
    labels = labels.to(torch.int64)
    for epoch, rows in enumerate(logits):
        for bad, what, cure in faults(rows, labels):
            names = ids.take(bad)
            raise NumericalError(
                f"Epoch {epoch}: logits of {len(names)} examples {what}; ids {listed(names, len(names))}. {cure}."
            )

    @functools.cache
    def mean() -> Tensor:
        total = torch.zeros(logits.shape[1:], dtype=torch.float64)
        for rows in logits:
            total += rows.to(torch.float64).softmax(-1)
        return total / len(logits)

    return Evidence(ids, logits.shape[-1], labels=labels, epochs=EpochsInMemory(logits, labels), mean_probs=mean)


@checked_arguments
def gather_inputs(
    ids: Ids,
    inputs: Float[Tensor, "examples ..."],
    labels: Int[Tensor, " examples"],
    held_out: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Evidence:
    """The evidence of inputs in memory, such as embeddings of any model, for methods that need no training.

    Args:
        ids: Ids of the examples.
        inputs: A row of numbers for each.
        labels: Class of each.
        held_out: Inputs and labels of examples that were held out, by name, such as `validation`.

    Raises:
        UsageError: Inputs and labels do not fit each other or the ids, an input holds no number or one that is not finite; names the ids.
    """
    if len(inputs) and not inputs[0].numel():
        raise UsageError(
            f"The inputs of {len(inputs)} examples hold no number, as those of texts do; give rows of numbers, such as embeddings."
        )
    labels = labels.to(torch.int64)
    classes = max(2, int(labels.max()) + 1)
    evidence = Evidence(ids, classes, labels=labels, inputs=inputs, games=game_of)
    held = {name: HeldOut.of(name, as_rows(given[0]), given[1], classes) for name, given in (held_out or {}).items()}
    return evidence.beside(held) if held else evidence


LOOP = "a loop"
"""Stands for the fingerprint of a user's loop, whose computation cannot be identified."""

Agreed = dict[Path, Agreement]
"""What is known of the examples of a loop within one call, by the folder of its run."""


def open_replay(
    run: str | Path | Run,
    *,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    replay_config: ReplayConfig | None = None,
    references: Mapping[str, Mapping[str, Tensor]] | None = None,
    asked: Collection[str] | None = None,
    agreed: Agreed | None = None,
    train_many: Callable[[Replay], TrainMany] | None = None,
) -> Replay:
    """A run's steps and checkpoints, ready to be replayed.

    Args:
        run: The run.
        loop: The `Loop` that describes your own training loop; not for runs that `assay record` made, which have a plan.
        targets: Targets whose change may be predicted, by name: functions of the model, Examples, or (inputs, labels). For runs with a plan also
            texts: `validation`, `misclassified` (the validation examples that the last kept model gets wrong), `test`, `class=NAME` (the validation
            examples of one class), `id=ID` (one of them), or `ids=FILE` (a CSV of id and weight: a weighted mix of them). By default what the plan held out for validation.
        replay_config: How steps are replayed.
        references: Parameters that `oti` may take as its reference, by name: a model's state_dict each.
        asked: Names of the targets that will be used, all by default; their examples are compared with the training examples.
        agreed: A dict that several calls share, so that only the first of them checks the loop's examples.
        train_many: As `Replay` takes it.

    Raises:
        UsageError: No loop for a run without a plan, a loop for one with a plan, a target that does not fit, a collate_fn that does not keep the
            order of its items, or a model that draws at random in eval mode.
        Mismatch: The data, their order, their labels, the loader, the model or the losses are not those of the recording.
        MissingEvidence: The run kept no model.
    """
    run = run if isinstance(run, Run) else Run(run)
    how = replay_config or ReplayConfig()
    named: Mapping[str, Given] = targets if isinstance(targets, Mapping) else {}
    texts = [] if targets is None or isinstance(targets, Mapping) else list(targets)
    check_taken_again(run)
    training: ReplayableTraining
    found: dict[str, Target] = {}
    if has_plan(run):
        if loop is not None:
            raise UsageError(f"{run.folder} was recorded by a plan, which says how it was trained; leave loop= out.")
        plan = plan_of(run)
        loaded = load_data(plan)
        training = _training(run, plan, loaded)
        found = planned_targets(loaded, texts, functools.partial(predicted, run, loaded))
    else:
        if loop is None:
            # Targets that no method asks for would be refused.
            beside = "" if asked is not None and not asked else ", targets={'validation': (inputs, labels)}"
            raise UsageError(
                f"{run.folder} {came_of(run)}, whose model and data assay does not know; in Python, call with "
                f"loop={loop_in_words(run)}{beside}."
            )
        if texts:
            raise UsageError(
                f"Targets of your own loop are given as {{name: (inputs, labels) or function}}, not as {texts[0]!r}."
            )
        training = LoopTraining(run, loop)
    for name, given in named.items():
        target = found[name] = target_of(name, given, run)
        if run.task != "classes" and loop is not None and isinstance(target, MeanLoss):
            found[name] = dataclasses.replace(target, by=loop.losses)
    replay = Replay(
        run,
        training,
        found,
        schedule=how.schedule,
        memory=how.memory,
        tolerance=how.tolerance,
        references=references,
        train_many=train_many,
    )
    if isinstance(training, LoopTraining):
        agreement = _agreement(training, agreed)
        agreement.hold_model(replay.at(replay.kept[-1]))
        replay.cautions = tuple(agreement.cautions)
    replay.remarks.update(check_disjoint(replay, asked))
    return replay


def loop_in_words(run: Run) -> str:
    """The Python by which the training of a run is given to what takes it again, as its trainer makes it."""
    said = str(run.header.about.get(AGAIN, "assay.Loop(model, optimizer, loader)"))
    # A trainer that knows the loss of its model says so itself.
    return f"{said[:-1]}, losses=losses)" if run.task != "classes" and "Loop(" in said and "losses=" not in said else said


def check_taken_again(run: Run, instead: str = "") -> None:
    """Refuse to train again, or to look at models of, a run that holds predictions only; `instead` ends the sentence.

    Raises:
        MissingEvidence: It names what can be scored in its place.
    """
    if run.passes is not None and not run.states():
        raise MissingEvidence(f"{run.folder} holds predictions only, and no model to take again; {models_instead(run)}{instead}.")


def models_instead(run: Run) -> str:
    """What can be scored in place of a run that holds predictions only, as the end of a sentence."""
    if folds_of(run):
        return f"score one of the recordings in {run.paths.folds}"
    # What was made of saved predictions says so; what is left is an estimator that `assay.sklearn` fitted.
    if "made of" not in run.header.about:
        return "an estimator has none, so ask for methods that read passes (score by 'all' computes those), or record a torch model with assay.record"
    return "make a run of the models too, by assay.from_checkpoints, or record the training"


def _agreement(training: LoopTraining, agreed: Agreed | None) -> Agreement:
    known = {} if agreed is None else agreed
    if training.run.folder not in known:
        known[training.run.folder] = Agreement(training)
    return known[training.run.folder].of(training)


def data_of(run: Run, loop: Loop | None = None, agreed: Agreed | None = None) -> tuple[Tensor, str]:
    """The inputs of a run's examples, in the order of its ids, images in 0..1; and their fingerprint.

    Args:
        run: The run.
        loop: As `open_replay` takes it.
        agreed: As `open_replay` takes it.

    Raises:
        UsageError: The run has no plan and there is no loop, or the loop's batches do not begin with a floating-point tensor.
        Mismatch: The data are not those of the recording.
    """
    if has_plan(run):
        examples = load_data(plan_of(run)).train
        return examples.plain(), examples.content
    if loop is None:
        raise UsageError(
            f"{run.folder} {came_of(run)}, whose data assay does not know; in Python, give score(..., "
            f"loop={loop_in_words(run)}), or rows of your own, inputs={{NAME: rows}} with the option "
            "features=rows:NAME."
        )
    training = LoopTraining(run, loop)
    _agreement(training, agreed)
    parts = []
    for positions in torch.arange(len(run.ids)).split(PART):
        batch = training.clean(positions)
        inputs = batch[0] if isinstance(batch, (tuple, list)) else None
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise UsageError(
                f"The batches of the loader of {run.folder} do not begin with a tensor of fractions; give rows of your own, "
                "inputs={NAME: rows} with the option features=rows:NAME."
            )
        parts.append(inputs.cpu())
    return torch.cat(parts), LOOP


def shown_data(run: Run, wanted: bool, loop: Loop | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inputs of a run's examples under their name, and their fingerprint, where they are wanted; else nothing.

    Raises:
        AssayError: As `data_of`.
    """
    if not wanted:
        return {}, {}
    data, content = data_of(run, loop)
    return {DATA: data}, {DATA: content}


def given_rows(rows: Any) -> tuple[Tensor, str]:
    """User-given rows in the form that methods read, and their fingerprint.

    Raises:
        UsageError: They are not a tensor of real numbers with a row for each example.
    """
    made = as_rows(rows).detach().cpu().contiguous()
    return made, fingerprint(str(tuple(made.shape)), made.numpy().tobytes())


def known_mean_probs(evidence: Evidence) -> Tensor | None:
    """Mean probabilities of all examples; None where they were not kept, or some example was in no epoch and has none."""
    if Need.MEAN_PROBS not in evidence.holds:
        return None
    try:
        return evidence.mean_probs
    except MissingEvidence:
        return None


def identity(replay: Replay) -> dict[str, str]:
    """Fingerprint of each target that has one; a user's function has none."""
    return {name: target.fingerprint for name, target in replay.given.items() if isinstance(target, MeanLoss)}


def predicted(run: Run, loaded: LoadedData, target: MeanLoss) -> Int[Tensor, " rows"]:
    """The class that the last kept model predicts for each row of a target; of several models the first, so that all have one target."""
    first = Run(run.paths.recording)
    replay = Replay(first, _training(first, plan_of(first), loaded), {"rows": target})
    return torch.cat([batch.outputs({}).argmax(1).cpu() for batch in replay.at(replay.kept[-1]).queries("rows")])


def _training(run: Run, plan: Plan, loaded: LoadedData) -> ReplayableTraining:
    examples = loaded.train

    def states(epoch: int) -> TrainingState:
        file = run.state(epoch)
        return TrainingState.read(file.read_all(), file.notes)

    return PlannedTraining(
        plan.build(loaded, plan.model_seed),
        TrainingData(
            examples.inputs,
            examples.labels,
            examples.ids,
            prepare=examples.prepared,
            augment=plan.augmentation(loaded, plan.model_seed),
        ),
        plan.training,
        states,
        weights=run.weights if plan.selector is not None else None,
        made_of=fingerprint(examples.content, repr(run.header.about["plan"])),
    )
