"""How good the recorded model was, and whom a decision hits: what a reader asks before believing a score."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from ..core.decision import Action, Decision
from ..core.errors import AssayError
from ..core.needs import Need
from ..core.passes import called
from ..core.report_data import ClassCounts, Confusion, LearningCurve
from ..data.examples import Examples
from ..runs.run import Run
from ..training.loop import predict
from ..training.state import standing_at
from .plan import has_plan, load_data, plan_of

HELD_OUT = "held out"
"""Part of the data of a recording in which no model was trained on the examples that it predicts."""
MOST_MEASURED = 5
"""Kept models that are measured on held-out examples."""
MOST_PAIRS = 15
"""Pairs of given and predicted class that are listed."""


def learning_curves(models: Sequence[Run], held_out: Mapping[int, float]) -> tuple[tuple[LearningCurve, ...], tuple[str, ...]]:
    """Accuracy and loss by epoch: in training from the recorded facts, on held-out examples from kept models or as the user says.

    Of several models the means. Where the run has a plan, the last kept model and a few before are measured on the held-out examples of its data. That these
    cannot be read, or a model not, is told and stops no page.

    Args:
        models: The recorded models.
        held_out: Accuracy on the user's own test examples, by epoch.

    Returns:
        The curves, and what could not be measured, a sentence each.
    """
    curves, notes = [], []
    epochs = min(run.epochs for run in models)
    if epochs:
        facts = [_training(run, epochs) for run in models]
        accuracy, loss = (_mean([one[part] for one in facts]) for part in (0, 1))
        if accuracy is not None or loss is not None:
            passes = models[0].passes
            part = HELD_OUT if passes is not None and passes.unseen else "training"
            if "pass" in called(passes, epochs):
                # Nothing follows on anything.
                accuracy, loss = (None if one is None else one.mean(0, keepdim=True) for one in (accuracy, loss))
                over = "in one pass" if epochs == 1 else f"mean of {epochs} passes"
                curves.append(LearningCurve(part, len(models[0].ids), (0,), accuracy, loss, over))
            else:
                curves.append(LearningCurve(part, len(models[0].ids), tuple(range(epochs)), accuracy, loss))
            if any(run.missing(epoch) is not None for run in models for epoch in range(epochs)):
                notes.append(
                    "Accuracy and loss in training are of the examples that an epoch trained on; the others have none in it."
                )
    losses, count = _validation_losses(models, epochs)
    try:
        measured = _measured(models) if epochs and has_plan(models[0]) else {}
    except AssayError as error:
        measured = {}
        notes.append(f"How good the recorded model is on held-out examples is not shown: {error}")
    if losses is not None and "validation" not in measured:
        curves.append(LearningCurve("validation", count, tuple(range(epochs)), None, losses))
    for part, (examples, at, found) in measured.items():
        curves.append(LearningCurve(part, examples, at, found))
    if held_out:
        at = tuple(sorted(map(int, held_out)))
        curves.append(LearningCurve("test", 0, at, torch.tensor([held_out[epoch] for epoch in at], dtype=torch.float64)))
    return tuple(curves), tuple(notes)


def _training(run: Run, epochs: int) -> tuple[Tensor | None, Tensor | None]:
    """Accuracy and mean loss of the examples that each epoch visited; None for what was not recorded."""
    found: list[Tensor | None] = []
    for need in (Need.CORRECT, Need.LOSSES):
        if need not in run.holds:
            found.append(None)
            continue
        values = []
        for epoch in range(epochs):
            fact, missing = run.shard(epoch).read(need.value).to(torch.float64), run.missing(epoch)
            values.append((fact if missing is None else fact[~missing]).mean())
        found.append(torch.stack(values))
    return found[0], found[1]


def _mean(rows: Sequence[Tensor | None]) -> Float64[Tensor, " epochs"] | None:
    there = [row for row in rows if row is not None]
    return torch.stack(there).mean(0) if len(there) == len(rows) else None


def _validation_losses(models: Sequence[Run], epochs: int) -> tuple[Tensor | None, int]:
    """Mean loss of the validation examples at the end of each epoch, and how many there are."""
    rows, count = [], 0
    for run in models:
        row = []
        for epoch in range(epochs):
            if (found := run.validation(epoch)) is None:
                return None, 0
            losses, counts = found
            count = int(counts.sum())
            # The mean of a class without examples is NaN.
            row.append((torch.where(counts > 0, losses, 0).to(torch.float64) * counts).sum() / max(1, count))
        rows.append(torch.stack(row)) if row else None
    return (torch.stack(rows).mean(0), count) if rows else (None, 0)


def _measured(
    models: Sequence[Run],
) -> dict[str, tuple[int, tuple[int, ...], Float64[Tensor, " epochs"]]]:
    """Size, epochs and accuracy of each held-out part, from the models that are kept of all of these."""
    kept = sorted(set.intersection(*(set(run.checkpoints()) for run in models)))
    if not kept:
        return {}
    at = torch.linspace(0, len(kept) - 1, min(len(kept), MOST_MEASURED)).round().to(torch.int64).unique().tolist()
    epochs = tuple(kept[place] for place in at)
    plan = plan_of(models[0])
    loaded = load_data(plan)
    device = plan.training.device if torch.cuda.is_available() else "cpu"
    model = plan.build(loaded, plan.seed)
    parts: dict[str, Examples] = {"validation": loaded.validation} if loaded.validation is not None else {}
    parts["test"] = loaded.test
    sums = {part: torch.zeros(len(epochs), dtype=torch.float64) for part in parts}
    for run in models:
        for place, epoch in enumerate(epochs):
            model.load_state_dict(run.model(epoch))
            with standing_at(model, run.averages(epoch)):
                for part, examples in parts.items():
                    logits = predict(model, examples.inputs, prepare=examples.prepared, device=device)
                    sums[part][place] += (logits.argmax(1) == examples.labels).double().mean()
    return {part: (len(parts[part]), epochs, total / len(models)) for part, total in sums.items()}


def class_counts(
    given: Int[Tensor, " examples"],
    classes: int,
    *,
    predicted: Int[Tensor, " examples"] | None = None,
    true: Int[Tensor, " examples"] | None = None,
    decision: Decision | None = None,
) -> ClassCounts:
    """Counts by given class.

    Args:
        given: Given class of each example.
        classes: How many classes there are.
        predicted: Class that the model predicts for each.
        true: True class of each, if known.
        decision: What is done with each, in the same order.
    """

    def count(mask: Bool[Tensor, " examples"]) -> Int[Tensor, " classes"]:
        return torch.bincount(given[mask], minlength=classes)

    acts = {action: count(decision.actions == action) for action in Action} if decision is not None else {}
    lost = None
    if decision is not None and true is not None:
        changed = (decision.actions == Action.DROP) | ((decision.actions == Action.RELABEL) & (decision.labels != given))
        lost = count((given == true) & changed)
    confusions: list[Confusion] = []
    pairs = 0
    if predicted is not None:
        against = predicted != given
        codes, counts = (given * classes + predicted)[against].unique(return_counts=True)
        touched = decision.touched if decision is not None else torch.zeros(len(given), dtype=torch.bool)
        hit = (given * classes + predicted)[against & touched]
        pairs = len(codes)
        for at in counts.argsort(descending=True, stable=True)[:MOST_PAIRS].tolist():
            code = int(codes[at])
            confusions.append(Confusion(code // classes, code % classes, int(counts[at]), int((hit == code).sum())))
    return ClassCounts(
        examples=torch.bincount(given, minlength=classes),
        against=count(predicted != given) if predicted is not None else None,
        dropped=acts.get(Action.DROP),
        relabelled=acts.get(Action.RELABEL),
        weighted=acts.get(Action.WEIGHT),
        wrong=count(given != true) if true is not None else None,
        lost=lost,
        confusions=tuple(confusions),
        pairs=pairs,
        kept=count(decision.actions != Action.DROP) if decision is not None else None,
        weights=torch.zeros(classes, dtype=torch.float64).index_add(0, given, decision.weights.double())
        if decision is not None
        else None,
    )
