"""Several processes that train one model together (DistributedDataParallel), recorded as one run: the first process writes, the others hand their parts to it."""

import dataclasses
import datetime
import re
import sys
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..core.errors import AssayError, Mismatch, OutputExists, RunError, RunLocked, UsageError
from ..replay.generators import inside_shares, sampler_of
from ..training.wrappers import unwrapped
from .sharded import in_parts, sharded

Taken = TypeVar("Taken")

WAITS = datetime.timedelta(minutes=30)
"""How long a process waits for the others before it ends with an error: as long as torch's own groups over gloo."""
DISCONNECTED = re.compile(r"\bgloo\b|\bnccl\b|connection (closed|reset|refused)|broken pipe|\bpeer\b|timed out", re.IGNORECASE)
"""What torch's errors of its groups hold, whatever trains over them."""
SAME = 1e-6
"""How far the sums of a parameter may differ between processes, relative to the sum of its sizes: what kinds of devices round differently."""


@dataclasses.dataclass(frozen=True)
class Shares:
    """How a loader shares the examples out to processes.

    Attributes:
        processes: To how many; 1 where it gives all examples.
        kind: The class that does so.
    """

    processes: int
    kind: str

    @classmethod
    def of(cls, loader: DataLoader) -> "Shares":
        """As the loader's samplers say it: torch's and Lightning's share out examples, accelerate's share out batches."""
        told = ((sampler_of(loader), "num_replicas"), (loader.batch_sampler, "num_processes"))
        return cls(*max((getattr(part, name, 1), type(part).__name__) for part, name in told))


def check_shared(loader: DataLoader, examples: int, ways: str) -> None:
    """Refuse loaders that show that the processes together leave examples out.

    Args:
        loader: One process's.
        examples: How many are recorded.
        ways: What else the user can do.

    Raises:
        UsageError: It draws with replacement, or drops what does not fill the batches of all processes.
    """
    shares, batches = Shares.of(loader), loader.batch_sampler
    # accelerate's batch sampler shares out the batches of another one.
    inner: Any = getattr(batches, "batch_sampler", batches)
    sampler, size = getattr(inner, "sampler", loader.sampler), getattr(inner, "batch_size", None) or 1
    drawn = inside_shares(sampler)
    if getattr(drawn, "replacement", False):
        raise UsageError(f"{type(drawn).__name__} draws with replacement, so an epoch does not visit each example once; {ways}.")
    left = 0
    if getattr(sampler, "drop_last", False):
        left = examples % shares.processes
    if getattr(inner, "drop_last", False):
        left = left or (-(-examples // shares.processes) % size if inner is batches else examples % (size * shares.processes))
    if left:
        raise UsageError(
            f"drop_last=True leaves out what does not fill the batches of all {shares.processes} processes; set drop_last=False, or {ways}."
        )


class Processes:
    """The processes of one training, over a gloo group of their own.

    Every method is called by all of them, or the others wait until they give up.

    Attributes:
        rank: Number of this process; 0 writes the run.
        size: How many there are.
    """

    def __init__(self) -> None:
        """Meet the others.

        Raises:
            RunError: They do not come.
        """
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        try:
            self._group: Any = torch.distributed.new_group(backend="gloo", timeout=WAITS)
        except RuntimeError as error:
            raise RunError(
                f"Process {self.rank} of {self.size} did not meet the others ({reason(error)}); call assay.record in every process, with the same folder."
            ) from error

    @classmethod
    def of(cls, loader: DataLoader, model: nn.Module) -> "Processes | None":
        """The processes that the loader shares the examples out to; None where it does not, or where they are not connected.

        Raises:
            UsageError: It shares them out to another number of processes than train, or the model is kept in parts.
            RunError: The others do not come.
        """
        shares = Shares.of(loader)
        if shares.processes == 1 or not connected():
            return None
        size = torch.distributed.get_world_size()
        if shares.processes != size and any(map(in_parts, model.parameters())):
            raise UsageError(
                f"{shares.kind} shares the examples out to {shares.processes} processes, and {size} keep parts of the model, so that several work on one batch, "
                "which is not recorded; shard along one dimension by fully_shard alone, without tensor parallelism."
            )
        if shares.processes != size:
            raise UsageError(
                f"{shares.kind} shares the examples out to {shares.processes} processes, and {size} train together; give it num_replicas={size}."
            )
        check_whole(model)
        return cls()

    def exchange(self, where: str, give: Callable[[], Any], take: Callable[[list[Any]], Taken]) -> Taken:
        """Give something to process 0, which makes something of what all gave; every process gets that, or the first error that was met.

        Args:
            where: What is exchanged, in words; must be the same in all.
            give: Called in each process.
            take: Called in process 0 with what they gave, in the order of the processes.

        Raises:
            AssayError: One of them raised it; in all of them.
            RunError: Another process ended, or is elsewhere in the training.
        """
        given, failed = _tried(give)
        here: Exception | None = failed
        told: list[Any] = [None] * self.size
        self.collective(
            where,
            lambda: torch.distributed.gather_object(
                (where, given, failed and _told(failed, self.rank)), told if self.rank == 0 else None, dst=0, group=self._group
            ),
        )
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            errors = [error for _, _, error in told if error is not None]
            places = {place for place, _, _ in told}
            if errors:
                outcome[1] = errors[0]
            elif len(places) > 1:
                outcome[1] = (
                    RunError,
                    f"The processes are not at one point of the training ({'; '.join(sorted(places))}); let each run the same loop.",
                )
            else:
                made, failed = _tried(lambda: take([value for _, value, _ in told]))
                here = here or failed
                outcome = [made, failed and _told(failed, 0)]
        self.collective(where, lambda: torch.distributed.broadcast_object_list(outcome, src=0, group=self._group))
        if here is not None:
            raise here
        if outcome[1] is not None:
            kind, words = outcome[1]
            raise kind(words)
        return outcome[0]

    def collective(self, where: str, call: Callable[[], Taken]) -> Taken:
        """What a call returns in which all processes take part.

        Raises:
            RunError: Another process ended.
        """
        try:
            return call()
        except RuntimeError as error:
            raise self.broken(where, error) from error

    def broken(self, where: str, error: BaseException) -> RunError:
        """The error in words that ends a training one of whose processes is gone."""
        return RunError(
            f"Process {self.rank} of {self.size}, {where}: another process ended or does not answer ({reason(error)}), so the epoch is not recorded; "
            "start all processes again, and go on with the run."
        )

    def check_begin(self, where: str, batches: int | None, model: nn.Module) -> None:
        """Compare what each process begins an epoch with.

        Args:
            where: The epoch, in words.
            batches: How many batches this process's loader gives; None where it does not say.
            model: As it is here.

        Raises:
            UsageError: A process has more batches than another.
            Mismatch: The weights differ, so that these are several trainings.
        """

        def held(all_given: list[tuple[int | None, dict[str, tuple[float, float]]]]) -> None:
            counts = [count for count, _ in all_given]
            if len(set(counts)) > 1:
                raise UsageError(
                    f"{where}: the loaders of the processes give {', '.join(map(str, counts))} batches, and each step takes one of each; let the sampler fill "
                    "up what is left (DistributedSampler with drop_last=False, accelerate's even_batches=True)."
                )
            (_, first), *others = all_given
            for process, (_, sums) in enumerate(others, 1):
                names = [
                    name
                    for name, (total, size) in sums.items()
                    if not abs(total - first.get(name, (torch.nan, 0))[0]) <= SAME * size
                ]
                if names or len(sums) != len(first):
                    raise Mismatch(
                        f"{where}: process {process} has other weights than process 0 ({(names or ['another model'])[0]}), so these are several trainings; "
                        "wrap the model in torch.nn.parallel.DistributedDataParallel, and resume all processes from the same epoch."
                    )

        self.exchange(where, lambda: (batches, weight_sums(model)), held)

    def end(self) -> None:
        """Leave the others."""
        group, self._group = self._group, None
        if group is not None and connected():
            torch.distributed.destroy_process_group(group)


def said_at_the_end(broken_by: Callable[[BaseException], RunError | None]) -> Callable[[], None]:
    """Let an error that ends the interpreter say in its note what `broken_by` says of it: a trainer tells its callbacks of no error.

    Args:
        broken_by: A method; its object is not kept alive.

    Returns:
        A function that ends this.
    """
    held, before = weakref.WeakMethod(broken_by), sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if listening and (asked := held()) is not None and (broken := asked(error)) is not None:
            error.add_note(noted(broken))
        before(kind, error, trace)

    def end() -> None:
        listening.clear()
        # Another hook may have come after this one, and call it.
        if sys.excepthook is hook:
            sys.excepthook = before

    listening = [True]
    sys.excepthook = hook
    return end


def noted(broken: RunError) -> str:
    """An error in words, as the note of torch's that it is about."""
    return f"{type(broken).__name__}: {broken}"


def connected() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def first_process() -> bool:
    """Whether this is the process that writes a run of all, or the only one."""
    return not connected() or torch.distributed.get_rank() == 0


def check_whole(model: nn.Module) -> None:
    """Refuse a model whose parameters are kept in parts of which no whole state is gathered.

    Raises:
        UsageError: It is one.
    """
    parts = [type(layer).__name__ for layer in model.modules() if type(layer).__name__.startswith("FullySharded")]
    if parts or (any(map(in_parts, model.parameters())) and not sharded(model)):
        raise UsageError(
            f"{(parts or ['DTensor'])[0]} keeps parameters in parts, which are not recorded; train with torch.distributed.fsdp.fully_shard or "
            "DistributedDataParallel."
        )


def check_not_alone(model: nn.Module, loader: DataLoader, view: str) -> None:
    """Refuse to record in one process what several hold parts of, or what several train whose loaders know nothing of each other.

    Args:
        model: As it is trained, with its wrappers.
        loader: One process's, which shares nothing out.
        view: What is recorded: the training pass, or a clean one.

    Raises:
        UsageError: A pass of the model would wait for the others, or the run would hold a part of the training.
    """
    if not connected():
        return
    size = torch.distributed.get_world_size()
    if sharded(unwrapped(model)):
        raise UsageError(
            f"fully_shard keeps parts of the model in {size} processes, and one alone cannot record it; call assay.record in every "
            "process, with view='train' and a loader whose DistributedSampler shares the examples out."
        )
    if view == "train" and any(isinstance(part, nn.parallel.DistributedDataParallel) for part in model.modules()):
        raise UsageError(
            f"{size} processes train one model, and {type(sampler_of(loader)).__name__} draws for this one alone, so a run would hold a part of the training; "
            "give the loader a DistributedSampler (or a subclass that draws otherwise, with data=assay.DataSpec(visits='any')), or let accelerate prepare it. Or "
            "record with view='eval', in process 0 alone."
        )


def alone_in_folder(error: AssayError) -> AssayError:
    """What a taken folder means in a process of several whose loader shares nothing out; any other error as it is."""
    if not isinstance(error, (RunLocked, OutputExists)) or first_process():
        return error
    return type(error)(
        f"Process {torch.distributed.get_rank()}: {error} If that is process 0 of this training: its loader shares no examples out, so that each process records a run "
        "of its own; give it a DistributedSampler, or call assay.record after accelerator.prepare(loader)."
    )


def weight_sums(model: nn.Module) -> dict[str, tuple[float, float]]:
    """The sum of each parameter, and of the sizes of its numbers; none of parameters that are not numbers yet, or kept in parts, of which there is one."""
    with torch.no_grad():
        real: Mapping[str, Tensor] = {
            name: value for name, value in model.named_parameters() if value.is_floating_point() and not in_parts(value)
        }
        sums = [(value.sum(dtype=torch.float64), value.abs().sum(dtype=torch.float64)) for value in real.values()]
        flat = torch.stack([one for pair in sums for one in pair]).cpu().view(-1, 2).tolist() if sums else []
    return {name: (total, size) for name, (total, size) in zip(real, flat, strict=True)}


def disconnected(error: BaseException | None) -> bool:
    """Whether this is what torch says in one process when another is gone, as by `kill -9` in the middle of a step."""
    return isinstance(error, RuntimeError) and not isinstance(error, AssayError) and DISCONNECTED.search(str(error)) is not None


def reason(error: BaseException) -> str:
    """The first line of what torch says, in brackets of a sentence."""
    return " ".join((str(error).splitlines() or [type(error).__name__])[0].split())[:200].rstrip(". ")


def _tried(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error


def _told(error: Exception, rank: int) -> tuple[type[AssayError], str]:
    """An error as it can be handed to another process: some are not made of their message alone."""
    if not isinstance(error, AssayError):
        return RunError, f"Process {rank} failed: {type(error).__name__}: {reason(error)}."
    kinds = (kind for kind in type(error).__mro__ if issubclass(kind, AssayError) and "__init__" not in vars(kind))
    return next(kinds), f"Process {rank}: {error}"
