"""Equal examples within one recording: true duplicates, or a substitute that a dataset returns instead of a broken item."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..core.errors import UsageError
from ..core.ids import Ids
from ..maths import draws
from ..replay.digests import digest_of
from ..replay.keyed import KeyedDataset, behind_subsets
from ..replay.single_examples import asked_alone, item_of, no_trace, seed_quickly

ASKED, DRAWN = 8, 4
"""Pairs of equal examples that are asked for again before anything is said of them, and how often."""
SHOWN = 3
"""Pairs that are named."""


class Alone(KeyedDataset):
    """Digests of a dataset's items, each fetched alone under a seed."""

    def __getitem__(self, place: tuple[int, int]) -> int:
        key, word = place
        seed_quickly(word)
        return digest_of(item_of(self._keyed, key))


class Pair(NamedTuple):
    """Two examples that had the same content and label in a pass; by position."""

    one: int
    other: int
    neighbours: bool


class Doubles:
    """Looks for equal examples among all that the first recorded pass gives.

    Attributes:
        digests: Hash of the content of each example; 0 where it was not seen, or cannot be computed.
    """

    def __init__(self, loader: DataLoader, dataset: Any, chosen: np.ndarray, ids: Ids):
        """Args:
        loader: The loop's DataLoader.
        dataset: The dataset that the recorded pass reads.
        chosen: Position in the dataset of each id.
        ids: Ids of all examples.
        """
        self._loader, self._dataset, self._chosen, self._ids = loader, dataset, chosen, ids
        self.digests = np.zeros(len(ids), dtype=np.int64)

    @property
    def needed(self) -> bool:
        """Whether the dataset could return a substitute item at all: tensors in memory are never broken."""
        return type(behind_subsets(self._dataset, self._chosen)[0]) is not TensorDataset

    def take(self, positions: Tensor, digests: np.ndarray | None) -> None:
        """Add some examples of the pass, with the digests of their content."""
        self.digests[positions.numpy()] = 0 if digests is None else digests

    def hold(self, labels: Tensor, where: str, device: torch.device) -> None:
        """Report which examples are equal, once the pass is over.

        Some equal pairs are fetched again, both items under one new seed: true duplicates are equal again, while an item that was substituted at
        random is then another one.

        Raises:
            UsageError: The dataset returns a different item each time that one example is fetched.
        """
        pairs = self._pairs(labels.numpy())
        if not pairs:
            return
        asked = pairs[:ASKED]
        try:
            with no_trace(self._loader, device, self._dataset):
                again = self._asked(asked)
        except Exception:
            # What cannot be asked for alone was the same in the pass all the same.
            again = []
        for pair, seen in zip(asked, again, strict=False):
            self._refuse_chance(pair, seen, where)
        # Of augmented examples some are equal by chance.
        same = [pair for pair, seen in zip(asked, again, strict=True) if all(a == b for a, b in seen)] if again else asked
        if same:
            self._warn(same, pairs, where)

    def _pairs(self, labels: np.ndarray) -> list[Pair]:
        """Each example with the one before it that is the same; neighbours in the dataset first."""
        known = np.sort(self.digests)
        if not ((known[1:] == known[:-1]) & (known[1:] != 0)).any():
            # In most datasets; sorting by two keys takes longer.
            return []
        order = np.lexsort((labels, self.digests))
        digests = self.digests[order]
        equal = (digests[1:] == digests[:-1]) & (labels[order[1:]] == labels[order[:-1]]) & (digests[1:] != 0)
        ones, others = order[:-1][equal], order[1:][equal]
        _, places = behind_subsets(self._dataset, self._chosen)
        apart = np.abs(places[ones] - places[others])
        # The next of the last is the first; what a Subset repeats is known to be the same.
        near = (apart == 1) | (apart == places.max())
        return [Pair(int(ones[at]), int(others[at]), bool(near[at])) for at in np.lexsort((ones, ~near)) if apart[at]]

    def _asked(self, pairs: list[Pair]) -> list[list[tuple[int, int]]]:
        """For each pair, the digests of both in each draw."""
        words = [draws.integer(0, "double", draw) for draw in range(DRAWN)]
        keys = self._chosen.tolist()
        places = [(keys[at], word) for pair in pairs for word in words for at in (pair.one, pair.other)]
        found = iter(asked_alone(self._loader, Alone(self._dataset), places, workers=True))
        return [[(next(found), next(found)) for _ in words] for _ in pairs]

    def _refuse_chance(self, pair: Pair, seen: list[tuple[int, int]], where: str) -> None:
        was = self.digests[pair.one]
        for both in seen:
            for position, now in zip((pair.one, pair.other), both, strict=True):
                # Alike under one seed are true duplicates, however they are augmented; another one's content is no augmentation.
                if both[0] == both[1] or now in (0, was) or not len(stranger := np.flatnonzero(self.digests == now)):
                    continue
                own, first, then = (self._ids.values[at] for at in (position, sum(pair[:2]) - position, int(stranger[0])))
                raise UsageError(
                    f"{where}: for id {own} the dataset gives the item of id {first} once and that of id {then} when it is asked again, as where "
                    "another one stands in for a broken one, so scores would be of the wrong examples; let it raise there, and leave broken items "
                    "out by a Subset of the dataset."
                )

    def _warn(self, same: list[Pair], pairs: list[Pair], where: str) -> None:
        names = [f"{self._ids.values[pair.one]} and {self._ids.values[pair.other]}" for pair in same[:SHOWN]]
        more = f", and {len(pairs) - len(names):,} more" if len(pairs) > len(names) else ""
        near = sum(pair.neighbours for pair in pairs)
        neighbours = f"; {near:,} of these pairs are neighbours in the dataset" if near else ""
        warnings.warn(
            f"{where}: {len(pairs):,} of {len(self._ids):,} examples have inputs and label of another one (ids {'; '.join(names)}{more}"
            f"{neighbours}). True duplicates may stay; but if the dataset gives {'the next' if near else 'another'} item where one is broken, the "
            "scores are of the wrong examples: let it raise there, and leave broken items out by a Subset of the dataset.",
            stacklevel=4,
        )
