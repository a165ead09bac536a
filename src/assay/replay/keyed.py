"""Loaders whose batches carry the keys under which their items were asked for.

The loader is copied, not rebuilt: the copy shares its samplers, worker settings and generator, its dataset hands out (key, item) and its collate
strips the keys again before the loop sees the batch. So the ids are right with any number of workers, prefetching, persistent workers and
`in_order=False`, whatever the order in which batches come back.
"""

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, Subset, default_collate

from ..core.errors import UsageError
from ..core.ids import Ids
from .digests import digests_of
from .rows import Finding, compared, fields_of

LOOKED_AT = 8
"""Batches of an epoch, for each worker, whose rows are compared with their items."""


class KeyedBatch(NamedTuple):
    """A batch with the keys under which its items were asked for. A tuple, so that pinning memory reaches the tensors.

    Attributes:
        keys: One key per item.
        batch: The batch as the loop sees it.
        finding: Whether the rows are in the order of the items (`rows.compared`); None where this was not checked or cannot be.
        digests: Hash of each item's content (`digests.digests_of`); None where it was not asked for or cannot be computed.
    """

    keys: list[Any]
    batch: Any
    finding: Finding | None = None
    digests: np.ndarray | None = None


class KeyedDataset(Dataset):
    """A dataset that hands out, with the items of a batch, the keys under which they were asked for.

    Any other attribute is read from and set on the wrapped dataset, because a `worker_init_fn` finds this object in its worker.
    """

    def __init__(self, dataset: Any):
        vars(self)["_keyed"] = dataset

    def __len__(self) -> int:
        return len(self._keyed)

    def __getitems__(self, keys: Sequence[Any]) -> KeyedBatch:
        whole = getattr(self._keyed, "__getitems__", None)
        return KeyedBatch(list(keys), whole(keys) if whole else [self._keyed[key] for key in keys])

    def __getattr__(self, name: str) -> Any:
        # While it is unpickled in a worker, the dataset is not there yet.
        if "_keyed" not in vars(self):
            raise AttributeError(name)
        return getattr(self._keyed, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._keyed, name, value)


class KeyedCollate:
    """The loop's own collate, with the keys carried past it.

    Attributes:
        looking: For how many coming batches the rows are compared with the items.
        digesting: For how many coming items a hash of the content is computed.
    """

    def __init__(self, collate: Callable[[Any], Any]):
        self.collate = collate
        self.looking = LOOKED_AT
        self.digesting = 0

    def __call__(self, fetched: KeyedBatch) -> KeyedBatch:
        looking, digesting = self.looking > 0, self.digesting > 0
        self.looking -= looking
        self.digesting -= digesting * len(fetched.keys)
        items = fetched.batch if isinstance(fetched.batch, list) and len(fetched.batch) == len(fetched.keys) else None
        plain = self.collate is default_collate
        # Before the batch is made, because a collate may take its items apart.
        fields = _unless_odd(lambda: [fields_of(item) for item in items]) if looking and items else None
        digests = _unless_odd(lambda: digests_of(items)) if digesting and items and not plain else None
        batch = self.collate(fetched.batch)
        if digesting and items and plain:
            digests = _unless_odd(lambda: digests_of(items, batch))
        return KeyedBatch(fetched.keys, batch, fields and _unless_odd(lambda: compared(fields, batch)), digests)


def _unless_odd(look: Callable[[], Any]) -> Any:
    """The result of a check of a user's objects; None where they are of a kind that cannot be checked."""
    try:
        return look()
    except Exception:
        return None


def ids_of(dataset: Any) -> Ids:
    """The ids of a map-style dataset: its attribute `ids`, else those of the full set behind a Subset, else the index.

    Raises:
        UsageError: The dataset has no length, or `ids` does not fit it.
    """
    if isinstance(dataset, Subset):
        return ids_of(dataset.dataset).take(np.asarray(dataset.indices, dtype=np.int64))
    try:
        n = len(dataset)
    except TypeError as error:
        raise UsageError(f"{type(dataset).__name__} has no length; give a map-style dataset with __len__.") from error
    given = getattr(dataset, "ids", None)
    if callable(given):
        raise UsageError(
            f"{type(dataset).__name__}.ids is a method, not the ids themselves; give assay.DataSpec (a loop that is scored: assay.Loop) "
            "ids=dataset.ids() if it returns one id for each example, else ids=range(len(dataset))."
        )
    ids = Ids(np.arange(n)) if given is None else given if isinstance(given, Ids) else Ids(given)
    if len(ids) != n:
        raise UsageError(f"{type(dataset).__name__}.ids names {len(ids)} examples, but the dataset has {n}.")
    return ids


def behind_subsets(dataset: Any, keys: np.ndarray) -> tuple[Any, np.ndarray]:
    """The full dataset behind nested Subsets, and the examples' positions in it."""
    while isinstance(dataset, Subset):
        dataset, keys = dataset.dataset, np.asarray(dataset.indices, dtype=np.int64)[keys]
    return dataset, keys


def check_loader(loader: Any, id_field: str | int | None = None) -> None:
    """Refuse a loader from which ids cannot be captured.

    Args:
        loader: The user's loader.
        id_field: Where its batches hold ids themselves; None where they do not.

    Raises:
        UsageError: It is no DataLoader, has no map-style dataset, does not batch automatically, or is recorded already.
    """
    if not isinstance(loader, DataLoader):
        raise UsageError(f"{type(loader).__name__} is no torch DataLoader; ids can only travel with the batches of one.")
    if isinstance(loader.dataset, KeyedDataset):
        raise UsageError("This loader's batches are recorded already, by another recorder; leave one of the two out.")
    if id_field is not None:
        return
    if isinstance(loader.dataset, IterableDataset):
        raise UsageError(
            "An IterableDataset has no stable ids; give a map-style dataset with __len__ and __getitem__, or, while recording, batches that hold the ids of "
            "their examples, with data=assay.DataSpec(ids=..., id_field=...)."
        )
    if loader.batch_sampler is None:
        raise UsageError(
            "With batch_size=None the dataset makes the batches and hides the ids; let the DataLoader batch, or, while recording, let batches hold the ids of "
            "their examples, with data=assay.DataSpec(ids=..., id_field=...)."
        )


def check_selectable(loader: DataLoader) -> None:
    """Refuse loaders whose batches cannot be made of a part of the examples.

    Raises:
        UsageError: Somebody else cuts the batches, or the last one is dropped.
    """
    if type(loader.batch_sampler) is not BatchSampler:
        raise UsageError(
            f"select= leaves examples out before the batches are cut, and {type(loader.batch_sampler).__name__} cuts them itself; give the "
            "DataLoader batch_size= and a sampler."
        )
    if loader.drop_last:
        raise UsageError(
            "drop_last=True leaves examples out that select= chose, so their weights would no longer make up for the rest; set drop_last=False."
        )


class KeptSampler(Sampler):
    """The keys of a sampler, without those that an epoch leaves out.

    Attributes:
        kept: Whether each key is kept; set before each epoch.
    """

    def __init__(self, sampler: Any, kept: np.ndarray):
        self._sampler, self.kept = sampler, kept

    @property
    def generator(self) -> Any:
        """Of the sampler, so that it is seeded as without this one."""
        return getattr(self._sampler, "generator", None)

    def __len__(self) -> int:
        return int(self.kept.sum())

    @property
    def leaves_out(self) -> bool:
        """Whether it gives fewer than the sampler, which says how many those are."""
        try:
            return len(self) < len(self._sampler)
        except (TypeError, NotImplementedError):
            return False

    def __iter__(self) -> Iterator[Any]:
        for key in self._sampler:
            try:
                place = operator.index(key)
            except TypeError:
                place = -1
            # A key that is no position is refused by whoever gets the batch.
            if not 0 <= place < len(self.kept) or self.kept[place]:
                yield key


class KeptBatches(BatchSampler):
    """The batches of a `KeptSampler`. Where leaving out leaves one example for a batch of its own, it joins the batch before.

    BatchNorm cannot be trained on one example, and in a mean over itself alone it would count as much as a batch.
    """

    def __init__(self, sampler: KeptSampler, size: int):
        super().__init__(sampler, size, False)
        self._sampler = sampler

    @property
    def _joins(self) -> bool:
        kept = len(self._sampler)
        return 1 < self.batch_size < kept and kept % self.batch_size == 1 and self._sampler.leaves_out

    def __len__(self) -> int:
        return super().__len__() - self._joins

    def __iter__(self) -> Iterator[list[Any]]:
        held: list[Any] = []
        joined = len(self) if self._joins else 0
        for number, batch in enumerate(super().__iter__(), 1):
            if number == joined:
                held = batch
            else:
                yield held + batch


def keyed_copy(
    loader: DataLoader,
    *,
    lasting_workers: bool = True,
    kept: np.ndarray | None = None,
    collate: type[KeyedCollate] = KeyedCollate,
) -> DataLoader:
    """A copy of a loader whose batches are `KeyedBatch`.

    Args:
        loader: A loader that `check_loader` accepts.
        lasting_workers: Whether workers may persist from epoch to epoch, with random states that cannot be reproduced.
        kept: Which positions its batches are made of, in the sampler's order; it may be written into before each epoch. None for all.
        collate: A kind of collate that carries the keys in another way.

    Raises:
        UsageError: Its batches cannot be made of a part of the examples.
    """
    if kept is not None:
        check_selectable(loader)
    copied = copy.copy(loader)
    base = vars(loader).get("base_dataloader")
    if isinstance(base, DataLoader):
        # A loader that accelerate prepared iterates over the one it was made from.
        vars(copied)["base_dataloader"] = keyed_copy(base, lasting_workers=lasting_workers, kept=kept, collate=collate)
        return copied
    # DataLoader refuses these assignments once it is built; the copy has not been iterated yet.
    vars(copied).update(dataset=KeyedDataset(loader.dataset), collate_fn=collate(loader.collate_fn), _iterator=None)
    if not lasting_workers:
        vars(copied)["persistent_workers"] = False
    if kept is not None:
        sampler = KeptSampler(loader.sampler, kept)
        vars(copied)["batch_sampler"] = KeptBatches(sampler, loader.batch_size)  # type: ignore[arg-type]
    return copied


def count_alike(loader: DataLoader, other: DataLoader) -> None:
    """Let a loader that accelerate prepared count its epochs on from where another one is, whose copy it is, or which is a copy of it: the count says in
    which order its sampler draws. Nothing to do for any other loader.
    """
    if isinstance(vars(other).get("base_dataloader"), DataLoader) and "iteration" in vars(other):
        vars(loader)["iteration"] = vars(other)["iteration"]


def collate_of(loader: DataLoader) -> KeyedCollate:
    """The collate of a keyed copy."""
    base = vars(loader).get("base_dataloader")
    return collate_of(base) if isinstance(base, DataLoader) else loader.collate_fn  # type: ignore[return-value]  # keyed_copy put it there
