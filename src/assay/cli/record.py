"""`assay record`: train a plan's net with the recorder on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .values import MaybeWhole, Switch

if TYPE_CHECKING:
    from ..experiments.plan import Plan
    from ..runs.run import Run


def record_(
    run: Path,
    /,
    *,
    plan: Path | None = None,
    data: str | None = None,
    net: str | None = None,
    estimator: str | None = None,
    plant: str | None = None,
    validation: float | None = None,
    subset: float | None = None,
    models: MaybeWhole = None,
    folds: MaybeWhole = None,
    seed: MaybeWhole = None,
    epochs: MaybeWhole = None,
    batch: MaybeWhole = None,
    lr: float | None = None,
    optimizer: str | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    clip: float | None = None,
    ema: float | None = None,
    last_batch: str | None = None,
    crop: MaybeWhole = None,
    resized_crop: float | None = None,
    flip: bool | None = None,
    select: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    view: str | None = None,
    keep_logits: bool | None = None,
    mean_probs: bool | None = None,
    checkpoints: str | None = None,
    live: list[str] | None = None,
    validation_losses: bool | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    where: str | None = None,
    resume: Switch = False,
) -> None:
    """Train a net with the recorder on.

    A TOML plan, flags, or both say what to train; flags override the plan.

    Example: assay record runs/digits --data digits --net mlp --plant uniform:rate=0.1 --epochs 20

    Parameters
    ----------
    run
        Folder of the run; new or empty, unless --resume.
    plan
        TOML file with data, net, seed and the tables plant, recipe, record.
    data
        Dataset with options, such as cifar10:path=DIR,labels=worse_label,limit=10000 (see `assay datasets`).
    net
        Net with options, such as mlp:widths=64-128 (see `assay nets`).
    estimator
        In the place of a net: a classifier of scikit-learn, such as sklearn.ensemble.HistGradientBoostingClassifier:max_iter=100+learning_rate=0.2, whose
        stages of boosting, --epochs of partial_fit, or with --folds out-of-fold predictions are recorded. It goes with --data, --plant, --validation,
        --subset, --folds, --seed, --epochs, --keep-logits and --mean-probs.
    plant
        Labels to make wrong: uniform:rate=0.1, pair:rate=0.1, class with a matrix in the plan, or human:labels=FILE,column=worse_label (CIFAR-10N); or images
        to damage under their right labels: blur:rate=0.1, noise, rotation, contrast or mixed, with strength= and of a blur kernel=. The truth is kept aside.
        If its kind differs from that of the plan's table plant, it replaces the whole table.
    validation
        Fraction of the training examples to hold out (before planting), for methods that predict changes on them; 0 by default.
    subset
        Fraction of the training examples that take part, the same of every class; all by default.
    models
        How many nets to train on the same examples, from different initial weights and in different orders; scores are then means over
        them, with intervals. 1 by default.
    folds
        Split the examples into so many folds, and score each by a model that was trained on the others: every row gets a score, also those that a table
        would draw for testing. The recordings of the folds stay in the run's folder.
    seed
        Random seed of initial weights, order, augmentation and planting.
    epochs
        How many times every example is seen; 20 by default.
    batch
        Examples per step; 128 by default.
    lr
        Learning rate; with a schedule, its largest value; 0.05 by default.
    optimizer
        sgd (the default), adam or adamw.
    momentum
        Momentum of sgd; 0.9 by default.
    weight_decay
        Weight decay, applied to every trainable parameter; 0.0005 by default.
    schedule
        How the learning rate changes from step to step: constant (the default), step, cosine, one_cycle or inverse_sqrt.
    clip
        Largest norm of the gradient; a longer gradient is scaled down to it. No clipping by default.
    ema
        Decay of a running average of the weights, such as 0.99; the average is then the final model. No averaging by default.
    last_batch
        A last batch that is not full: keep it (the default), drop it, or cut the epoch into even batches.
    crop
        Pixels of padding for random crops of images; 0 (the default) for none.
    resized_crop
        Smallest part of an image's area that a random crop keeps, which is then resized to the whole image, such as 0.08; no such crops by default.
    flip
        Whether images are mirrored at random; they are not by default.
    select
        Live selector that chooses the examples of each epoch before it begins, such as infobatch:ratio=0.5; by default every epoch trains on all.
    device
        cpu (the default) or cuda.
    precision
        float32 (the default), or bfloat16 on cuda.
    view
        Where the recorded logits come from: train (the training pass, no extra cost) or eval (an extra
        pass in eval mode without augmentation after every epoch).
    keep_logits
        Store every epoch's logits.
    mean_probs
        Store the running sum of the probabilities, for relabelling; by default if examples times classes are at most 4,194,304.
    checkpoints
        Epochs whose checkpoint is kept: every, last (the default), none, or epochs such as 0,5,10; the newest is kept too, to resume from.
    live
        Methods to compute during training, such as liveval,tdds; may be given several times.
    validation_losses
        Whether the mean loss of the held-out examples, by class, is measured at each epoch's end; by default if --validation holds some out.
    set_
        Any other setting of the recipe as key=value, such as nesterov=true or milestones=[10,15]; may be given several times.
    where
        Where the nets of --models or --folds are trained: one after the other in this process by default; processes, side by side on this machine, as many
        as there are cores, or processes:N (with several GPUs each its own), in one thread each; or slurm, each a job of the cluster, with options such as
        slurm:partition=gpu,gpus=1,time=240 (minutes; see docs/cluster.md).
    resume
        Go on after the last committed epoch of the run in the folder, if there is one.
    """
    from contextlib import nullcontext

    from ..cluster.executors import executor
    from ..core.words import printable
    from ..experiments.execution import Execution
    from ..experiments.plan import Plan
    from ..experiments.record import record
    from . import output
    from .console import say, showing_progress

    recipe: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "optimizer": optimizer,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "clip": clip,
        "ema": ema,
        "last_batch": last_batch,
        "crop": crop,
        "resized_crop": resized_crop,
        "flip": flip,
        "device": device,
        "precision": precision,
    }
    set_also(recipe, set_ or [])
    settings: dict[str, Any] = {
        "data": data,
        "net": net,
        "seed": seed,
        "validation": validation,
        "subset": subset,
        "models": models,
        "folds": folds,
        "plant": planting(plant) if plant is not None else None,
        "recipe": given(recipe),
        "select": select,
        "record": given(
            {
                "view": view,
                "keep_logits": keep_logits,
                "mean_probs": mean_probs,
                "checkpoints": epochs_kept(checkpoints) if checkpoints is not None else None,
                "live": None if live is None else methods_named(live),
                "validation": validation_losses,
            }
        ),
    }
    settings = given(settings)
    if estimator is not None:
        done = _estimated(run, estimator, settings, {"plan": plan, "where": where, "resume": resume or None})
        say(f"{run}: {len(done.ids):,} examples; {_passes(done, folds)}. Next: assay score {run} all")
        return
    made = Plan.read(plan, settings) if plan is not None else Plan.make(settings)
    if where is not None:
        check_several(made, where)
    with showing_progress() as progress, nullcontext() if where is None else executor(where) as pool:
        done = record(made, run, resume=resume, execution=Execution(pool, progress))
    for note in done.header.about.get("notes", ()):  # type: ignore[attr-defined]
        if printable(note) not in output.now.warnings:
            say(f"{made.data}: {note}")
    if done.passes is not None:
        say(f"{run}: {len(done.ids):,} examples; {_passes(done, made.folds)}. Next: assay score {run} all")
        return
    several = f" by each of {made.models} models" if made.models > 1 else ""
    if done.selection:
        say(f"{done.selection}.")
    say(f"{run}: {done.epochs} epochs of {len(done.ids):,} examples recorded{several}. Next: assay score {run} all")


def check_several(plan: "Plan", where: str) -> None:
    """Refuse --where for a plan of a single training.

    Raises:
        UsageError: There is one.
    """
    from ..core.errors import UsageError

    if plan.models == 1 and plan.folds is None:
        raise UsageError(f"--where {where} is for the nets of --models or --folds, and one net is trained here; leave it out.")


def _passes(run: "Run", folds: int | None) -> str:
    assert run.passes is not None
    return run.passes.summary(run.epochs, folds or 0)


def _estimated(run: Path, estimator: str, settings: dict[str, Any], others: dict[str, Any]) -> "Run":
    """Record a classifier of scikit-learn.

    Raises:
        UsageError: A flag was given that only a net's training reads.
    """
    from ..core.errors import UsageError
    from ..experiments.estimators import record_estimator
    from ..experiments.plan import Plan
    from ..integrations.sklearn import TableRecording

    recipe, kept = dict(settings.pop("recipe", {})), dict(settings.pop("record", {}))
    epochs = recipe.pop("epochs", None)
    mine = {name: kept.pop(name) for name in ("keep_logits", "mean_probs") if name in kept}
    read = ("data", "seed", "validation", "subset", "folds", "plant")
    unread = [*given({**others, **recipe, **kept}), *(name for name in settings if name not in read)]
    if unread:
        flag = {"validation": "validation-losses"}.get(unread[0], unread[0].replace("_", "-"))
        raise UsageError(
            f"--{flag} is for the training of a net, and --estimator records a classifier of scikit-learn; leave it out."
        )
    return record_estimator(Plan.make(settings), run, estimator, epochs=epochs, recording=TableRecording(**mine))


def set_also(recipe: dict[str, Any], pairs: list[str]) -> None:
    """Add the settings given by --set to a recipe."""
    from ..core.errors import UsageError

    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r} is not of the form key=value.")
        name = key.strip().replace("-", "_")
        if recipe.get(name) is not None:
            raise UsageError(f"{name} is given twice, the second time by --set {pair!r}; give it once.")
        recipe[name] = literal(value.strip())


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings to which the user gave a value."""
    return {key: value for key, value in settings.items() if value is not None and value != {}}


def planting(spec: str) -> dict[str, Any]:
    """Parse a text such as `uniform:rate=0.1` into the table `plant` of the plan."""
    from ..core import options
    from ..core.errors import UsageError

    if spec.replace(" ", "").startswith("class:"):
        raise UsageError(
            f"--plant {spec!r}: a matrix does not fit into a flag; write kind and matrix into the table plant of a plan."
        )
    kind, texts = options.split(spec)
    return {"kind": kind, **{key: literal(text) for key, text in texts.items()}}


def methods_named(texts: list[str]) -> list[str]:
    """Split a text such as `liveval:delta_max=5,delta_step=2,dual` into two methods: a comma before `option=value` belongs to the method before."""
    found: list[str] = []
    for text in texts:
        for place, part in enumerate(text.split(",")):
            name, equals, _ = part.partition("=")
            if place and equals and ":" not in name:
                found[-1] += f",{part}"
            else:
                found.append(part.strip())
    return found


def literal(text: str) -> Any:
    """The TOML value of a text (0.1, true, [1, 2]), or the text itself where it is no TOML value (step)."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def epochs_kept(text: str) -> str | list[int]:
    """Parse --checkpoints: `every`, `last` or `none` unchanged, or a text such as `0,5,10` into numbers."""
    from ..core.errors import UsageError

    if text in ("every", "last", "none"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--checkpoints {text!r} is not every, last, none or epochs such as 0,5,10.") from error
