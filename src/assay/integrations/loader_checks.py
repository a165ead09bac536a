"""What a loader and the settings of a recording show before the training: whether every example is visited, and what does not go together."""

from torch.utils.data import BatchSampler, DataLoader

from ..core.accumulators import AbstractStepMethod
from ..core.errors import UsageError
from ..methods import parse
from ..replay.losses import cross_entropies
from ..runs.recording import Recording
from .data_spec import DataSpec
from .processes import Shares
from .selecting import LiveSelection


def check_visits_all(
    loader: DataLoader,
    examples: int,
    ways: str = "record with assay.Recording(view='eval'), which passes over every example after each epoch, or an epoch as it is drawn, with "
    "data=assay.DataSpec(visits='any')",
) -> None:
    """Refuse loaders whose settings show that an epoch does not visit every example.

    Args:
        loader: The loader to check.
        examples: How many are recorded.
        ways: What else the user can do, as the error messages name it.

    Raises:
        UsageError: The loader drops its last batch, or its sampler and dataset differ in length.
    """
    sampler, size, drops = loader.sampler, loader.batch_size, loader.drop_last
    if size is None and type(loader.batch_sampler) is BatchSampler:
        # A loader that accelerate prepared has its settings there alone.
        sampler, size, drops = loader.batch_sampler.sampler, loader.batch_sampler.batch_size, loader.batch_sampler.drop_last
    if getattr(sampler, "replacement", False):
        raise UsageError(
            f"{type(sampler).__name__} draws with replacement, so an epoch does not visit each example once; {ways}."
        )
    if drops and size and examples % size:
        raise UsageError(
            f"drop_last=True leaves {examples % size} of {examples} examples out of every epoch; set drop_last=False, or {ways}."
        )
    try:
        drawn = len(loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return
    shares = Shares.of(loader)
    if shares.processes > 1:
        raise UsageError(
            f"{shares.kind} gives each of {shares.processes} processes a part of the examples, so none visits all of them; call "
            "torch.distributed.init_process_group before assay.record, and both in every process, or in the first "
            f"process alone, {ways}."
        )
    if loader.batch_size is not None and drawn != examples:
        raise UsageError(
            f"The sampler draws {drawn} times per epoch from {examples} examples, so not each once; wrap the dataset in a Subset of those "
            f"to train on, or {ways}."
        )


def check_visits(recording: Recording, data: DataSpec, select: LiveSelection | None) -> None:
    """Refuse settings of visits and ids that do not go together.

    Raises:
        UsageError: A setting would be ignored, or asks for what the loader cannot give.
    """
    if data.visits == "any" and (recording.view == "eval" or select is not None):
        other = "select= chooses the examples of" if select is not None else "view='eval' looks at every example after"
        raise UsageError(f"visits='any' is of a training pass as it is drawn, and {other} each epoch; leave one of the two out.")
    if data.labels is not None and data.visits != "any":
        raise UsageError("labels= is read with visits='any' only, where an epoch may leave examples out; leave it out.")
    if data.id_field is not None and (recording.view == "eval" or select is not None):
        other = "select= asks" if select is not None else "the clean pass of view='eval' asks"
        raise UsageError(
            f"id_field= is for batches as the loader gives them, and {other} for examples one by one; leave id_field= out, with a map-style dataset."
        )


def check_losses(data: DataSpec) -> None:
    """Refuse a clean pass of losses that nobody names.

    Raises:
        UsageError: They have no name.
    """
    if data.task == "losses" and data.losses is cross_entropies:
        raise UsageError(
            "task='losses' with view='eval' records losses(model, batch) in a clean pass, and no losses= is given; give "
            "data=assay.DataSpec(task='losses', losses=...), the loss of each example of a batch."
        )


def check_together(recording: Recording, select: LiveSelection | None) -> None:
    """Refuse what one process alone cannot tell the others.

    Raises:
        UsageError: A live selector, or a method that values steps while they are taken.
    """
    steps = [method for method in recording.live if isinstance(parse(method), AbstractStepMethod)]
    if select is not None or steps:
        what = "select= chooses the examples" if select is not None else f"live={list(map(str, steps))} values the steps"
        raise UsageError(
            f"{what} of a training in one process, and several train together; train in one process, or leave it out"
            f"{'' if select is not None else ' and score the finished run'}."
        )
