"""Inspects examples of a user's dataset one by one, without side effects: their content, and losses in eval mode."""

import contextlib
import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from ..core.ids import Ids
from ..maths import draws
from ..runs.content import OPENED, Content, Part, evaluated, looked_at, parts_of, together
from ..training.batches import mapped, placed
from ..training.device import device_of
from ..training.wrappers import unwrapped
from .generators import loader_generators, seed_all, untouched_generators
from .keyed import KeyedDataset
from .losses import Forward, Losses, cross_entropies, cross_entropies_of

DRAWN_TWICE = 16
"""Examples that are drawn twice, to find out what is drawn at random."""
OBJECTS = 2000
"""Objects inside a dataset among which generators are looked for."""


class SingleExample(NamedTuple):
    """One example, looked at alone.

    Attributes:
        parts: The parts of a batch that holds this example alone.
        batch: That batch, where it was asked for.
        item: The dataset's item, where it was asked for.
    """

    parts: list[Part]
    batch: Any = None
    item: Any = None


class Singles(KeyedDataset):
    """Examples of a dataset by position: each fetched under a seed of its own, and collated alone."""

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[Any], Any],
        keys: Sequence[int],
        words: Sequence[Sequence[int]],
        items: int,
        opened: int,
    ):
        """Args:
        dataset: The user's.
        collate: The loader's.
        keys: Positions in the dataset.
        words: Seeds of each example, for a first and a second draw.
        items: Of so many, the first ones, batch and item are handed out too.
        opened: How deep objects are opened.
        """
        super().__init__(dataset)
        vars(self).update(_collate=collate, _keys=list(keys), _words=list(words), _items=items, _opened=opened)

    def __getitem__(self, place: tuple[int, int]) -> SingleExample:
        which, draw = place
        seed_quickly(self._words[draw][which])
        batch = self._collate([item_of(self._keyed, self._keys[which])])
        if which >= self._items or draw:
            return SingleExample(parts_of(batch, self._opened))
        # Asked for once more, because a collate may take its items apart.
        seed_quickly(self._words[draw][which])
        return SingleExample(parts_of(batch, self._opened), batch, item_of(self._keyed, self._keys[which]))


def item_of(dataset: Any, key: int) -> Any:
    """One item, fetched in the same way as the dataset gives several items at once."""
    whole = getattr(dataset, "__getitems__", None)
    return whole([key])[0] if whole else dataset[key]


def seed_quickly(word: int) -> None:
    """Seed torch's, NumPy's and Python's global generators."""
    # Not by torch.manual_seed, which takes a hundred times as long to look for devices.
    torch.default_generator.manual_seed(word % 2**63)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(word % 2**63)
    np.random.seed(word % 2**32)
    random.seed(word)


def _same(value: Any) -> Any:
    return value


@contextlib.contextmanager
def no_trace(loader: DataLoader, device: torch.device, dataset: Any = None) -> Iterator[None]:
    """A context manager that restores all generators at its end: global ones, the loader's, its samplers', those in its dataset and in `dataset`."""
    others = [generator for _, generator in loader_generators(loader)] + generators_within((loader.dataset, dataset))
    states = [(generator, _state_of(generator)) for generator in others]
    with untouched_generators(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for generator, state in states:
                _set_state(generator, state)


def generators_within(dataset: Any) -> list[Any]:
    """Generators that a dataset holds itself, in its attributes, transforms and inner datasets."""
    waiting, met, generators = [dataset], set[int](), []
    while waiting and len(met) < OBJECTS:
        value = waiting.pop()
        if id(value) in met or isinstance(value, (Tensor, np.ndarray, str, bytes, int, float, type(None), type)):
            continue
        met.add(id(value))
        if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            generators.append(value)
        elif isinstance(value, dict):
            waiting.extend(list(value.values())[:OBJECTS])
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(list(value)[:OBJECTS])
        else:
            waiting.extend(getattr(value, "__dict__", {}).values())
    return generators


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def single_examples(
    loader: DataLoader,
    chosen: np.ndarray,
    ids: Ids,
    positions: Tensor,
    *,
    workers: bool,
    items: int = 0,
    repeats: int = 0,
    opened: int = OPENED,
) -> tuple[list[SingleExample], list[SingleExample]]:
    """Examples looked at one by one, each drawn under a seed that depends on its id only.

    Args:
        loader: The loader whose dataset and collate function are used, and whose kind of worker reads the dataset.
        chosen: Position in the dataset of each id.
        ids: Ids of all examples.
        positions: Positions of the examples to look at.
        workers: Whether a loader with workers asks the dataset in a worker, so that this process does not open what each worker opens.
        items: For how many of them the batch and the item are kept too.
        repeats: How many of them are drawn a second time, under another seed.
        opened: How deep objects inside batches are opened.

    Returns:
        The examples, and the second draws of the first `repeats` of them.
    """
    keys = chosen[positions.numpy()].tolist()
    words = [draws.words(ids.keys[positions.numpy()], 0, "content", draw).tolist() for draw in range(2)]
    singles = Singles(loader.dataset, loader.collate_fn, keys, words, items, opened)
    places = [(place, 0) for place in range(len(keys))] + [(place, 1) for place in range(min(repeats, len(keys)))]
    both = asked_alone(loader, singles, places, workers)
    return both[: len(keys)], both[len(keys) :]


def asked_alone(loader: DataLoader, dataset: Any, places: Sequence[Any], workers: bool) -> list[Any]:
    """The items of a dataset at some places; with `workers` read in a worker, where the loader has workers."""
    if not (workers and loader.num_workers):
        return [dataset[place] for place in places]
    pool = DataLoader(
        dataset,
        batch_size=None,
        sampler=places,  # type: ignore[arg-type]
        collate_fn=_same,
        num_workers=1,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
        generator=torch.Generator(),
    )
    return list(pool)


def drawn_parts(first: Sequence[SingleExample], second: Sequence[SingleExample]) -> tuple[str, ...]:
    """Paths of the parts that two draws of an example do not have in common."""
    apart: dict[str, None] = {}
    for one, other in zip(first, second, strict=False):
        known = {part.path: part.fingerprint for part in other.parts}
        apart |= {part.path: None for part in one.parts if known.get(part.path) != part.fingerprint}
        apart |= {path: None for path in known.keys() - {part.path for part in one.parts}}
    return tuple(apart)


def label_part(seen: Sequence[SingleExample], labels: Tensor) -> str | None:
    """Path of the part that is the label of every example; None where none is."""
    known = [{part.path: part.number for part in one.parts} for one in seen]
    # A run of losses knows no labels.
    for path in known[0] if known and bool((labels >= 0).all()) else ():
        if all(one.get(path) == int(label) for one, label in zip(known, labels, strict=True)):
            return path
    return None


def collated(loader: DataLoader, items: Sequence[Any], device: torch.device) -> Any:
    """Items as one batch, on a device; the same each time, also where the collate draws at random."""
    seed_all(draws.integer(0, "content of a batch"))
    return placed(loader.collate_fn(list(items)), device)


def by_what(losses: Losses, forward: Forward | None) -> tuple[str, Losses]:
    """The function with which a loop's examples can be evaluated, and its name in `Content.losses_by`."""
    if losses is not cross_entropies:
        return "losses", losses
    return ("pair", cross_entropies) if forward is None else ("forward", cross_entropies_of(forward))


class Watcher:
    """Looks at the examples of a loop that is being recorded, and at a few losses. Nothing that goes wrong here reaches the training.

    Attributes:
        reason: Why something could not be looked at; empty if nothing.
    """

    def __init__(self, loader: DataLoader, chosen: np.ndarray, ids: Ids, losses: Losses, forward: Forward | None):
        self._loader, self._chosen, self._ids = loader, chosen, ids
        self._by, self._losses = by_what(losses, forward)
        self._seen: list[SingleExample] | None = None
        self._drawn: tuple[str, ...] = ()
        self._batch: Any = None
        self._evaluate = False
        self._start: Tensor | None = None
        self.reason = ""

    def begin(self, model: nn.Module, first: bool, evaluate: bool) -> None:
        """Before the first recorded epoch of this process: look at the examples, and at the losses before training.

        Args:
            model: The model that is trained.
            first: Whether nothing has been trained yet.
            evaluate: Whether models are kept, so that losses are worth computing.
        """
        if self._seen is not None:
            return
        self._seen, self._evaluate = [], evaluate
        few = evaluated(len(self._ids)) if evaluate else 0
        # What the examples consist of is kept in the first epoch; a run that goes on needs those only whose losses are computed.
        positions = looked_at(self._ids)[: len(self._ids) if first else few]
        if not len(positions):
            return
        try:
            with no_trace(self._loader, device_of(model)):
                self._seen, second = single_examples(
                    self._loader,
                    self._chosen,
                    self._ids,
                    positions,
                    workers=True,
                    items=few,
                    repeats=DRAWN_TWICE if first else 0,
                )
                if evaluate:
                    self._batch = collated(self._loader, [one.item for one in self._seen[:few]], torch.device("cpu"))
                self._seen = [SingleExample(one.parts) for one in self._seen]
            self._drawn = drawn_parts(self._seen, second)
        except Exception as error:
            self._seen, self._evaluate = [], False
            self.reason = f"the dataset could not be asked for single examples ({reason_of(error)})"
        if first:
            self._start = self._few_losses(model)

    def _few_losses(self, model: nn.Module) -> Tensor | None:
        if not self._evaluate:
            return None
        try:
            with untouched_generators(device_of(model)), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # A copy, because a model may work on its inputs in place.
                batch = mapped(lambda part: part.clone() if isinstance(part, Tensor) else part, self._batch)
                losses = evaluated_losses(model, self._losses, placed(batch, device_of(model)))
            if losses.shape != (evaluated(len(self._ids)),):
                raise ValueError(f"losses of shape {tuple(losses.shape)}, not one of each example")
            # A model that has diverged is no model to hold another one against.
            return losses if bool(losses.isfinite().all()) else None
        except Exception as error:
            self._evaluate = False
            self.reason = f"the losses of a few examples could not be computed in eval mode ({reason_of(error)})"
            return None

    def stored(self, model: nn.Module, labels: Tensor, first: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The entries for the shard of the epoch that just ended.

        Args:
            model: The model as it is at the epoch's end.
            labels: Labels of all examples.
            first: Whether it is the run's first epoch.
        """
        losses = self._few_losses(model)
        tensors = {} if losses is None else {"content losses": losses}
        if not first:
            return tensors, {}
        positions = looked_at(self._ids)[: len(self._seen or ())]
        seen = self._seen or []
        without = frozenset(self._drawn)
        label = label_part(seen, labels[positions])
        content = Content(
            positions,
            torch.tensor([together(one.parts, without) for one in seen], dtype=torch.int64),
            torch.tensor([together(one.parts) for one in seen], dtype=torch.int64),
            self._drawn,
            None if label in without else label,
            self._by,
            self.reason,
        )
        if self._start is not None:
            tensors["content start"] = self._start
        return tensors | content.tensors(), {"content": content.note()}


def evaluated_losses(model: nn.Module, losses: Losses, batch: Any) -> Tensor:
    """The loss of each example of a batch in eval mode, float32 or better, without changing the model's mode, buffers and attributes."""
    inner = unwrapped(model)
    modes = [(module, module.training) for module in inner.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in inner.buffers()]
    device = device_of(inner)
    try:
        for module in inner.modules():
            # Not by eval(), which some modules override to change their weights.
            module.training = False
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            found = losses(shadow(inner), batch).detach().cpu()
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
    return found if found.dtype == torch.float64 else found.to(torch.float32)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context manager with a model in eval mode, which restores modes, buffers and the parameters that a pass may write into, to the bit.

    Some modules change their weights in the forward pass (`max_norm`) or in `eval()` (adapters that are merged), count calls, or go on observing.
    """
    modes = [(module, module.training) for module in model.modules()]
    own = [module for module, _ in modes if type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval]
    written = {id(value) for module in own for value in module.parameters()} | _renormalised(model)
    held: list[tuple[Any, str, Tensor | None, Tensor | None]] = [
        (store, name, value, None if value is None or is_lazy(value) else value.detach().clone())
        for module, _ in modes
        for store in (module._parameters, module._buffers)
        for name, value in store.items()
        if value is None or store is module._buffers or value.requires_grad or id(value) in written
    ]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            # What eval() did beyond the mode, train() undoes.
            if module in own:
                module.train() if training else module.eval()
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for store, name, value, before in held:
                store[name] = value
                if value is None or before is None or torch.equal(value, before):
                    continue
                # An observer may have given its buffer another shape.
                (value if value.shape == before.shape else value.resize_(before.shape)).copy_(before)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def shadow(model: nn.Module) -> nn.Module:
    """A copy of a model, without hooks but torch's own, that shares only parameters which nothing changes.

    What its modules keep in attributes while they run does not reach the model, and user hooks are not called. Parameters that are trained are copied
    too: a forward pass may write into them, as that of an embedding with `max_norm` does.
    """
    hooks = {id(hook): hook for layer in model.modules() for name in HOOKS for hook in getattr(layer, name).values()}
    written = _renormalised(model)
    held: list[Tensor] = [p for p in model.parameters() if not p.requires_grad and id(p) not in written]
    held += [value for layer in model.modules() for value in vars(layer).values() if isinstance(value, Tensor)]
    other = copy.deepcopy(model, hooks | {id(value): value for value in held})
    for layer in other.modules():
        for name in HOOKS:
            own = getattr(layer, name)
            for key in [key for key, hook in own.items() if not _of_torch(hook)]:
                del own[key]
    return other


def _renormalised(model: nn.Module) -> set[int]:
    """The parameters, by identity, of layers that renormalise them in the forward pass."""
    return {id(p) for layer in model.modules() if getattr(layer, "max_norm", None) is not None for p in layer.parameters()}


def _of_torch(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or type(hook).__module__).split(".")[0] == "torch"


class Halves(TorchFunctionMode):
    """A context manager that finds out whether an operation inside it gives 16-bit floating-point numbers, as under autocast.

    Attributes:
        met: Whether an operation did.
    """

    met = False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self.met = self.met or (isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16))
        return value


def reason_of(error: BaseException) -> str:
    """The first line of an error."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:200].rstrip(". ")
