"""Checkpointing schedules: the order in which training states are recomputed to go backwards with few of them in memory.

A training of W steps that keeps only its start is split into parts; one sweep forward marks where each part begins, then the parts are
gone through backwards one by one, each split again until all its states are in memory.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

State = TypeVar("State")
Split = Callable[[int, int], int]
"""`split(steps, depth)`: into how many parts a stretch is cut, 2 to `steps`; `steps` itself holds every state."""


def every(steps: int, depth: int) -> int:
    """Hold every state: W states, W - 1 steps taken."""
    return steps


def square_root(steps: int, depth: int) -> int:
    """About sqrt(W) marks, then every state between two of them: 2 sqrt(W) states, under 2 W steps taken."""
    return math.ceil(math.sqrt(steps)) if depth == 0 else steps


def marks(apart: int) -> Split:
    """A mark every `apart` steps, then every state between two of them: W / apart + apart states, under 2 W steps taken.

    Returns:
        A function from a stretch to the parts that it is cut into.

    Raises:
        ValueError: Fewer than 1 step apart.
    """
    if apart < 1:
        raise ValueError(f"Marks {apart} steps apart do not go forward; give at least 1.")
    return lambda steps, depth: math.ceil(steps / apart) if depth == 0 else steps


def tree(arity: int) -> Split:
    """Always `arity` parts: (arity - 1) log W states, (arity - 1) / arity W log W steps taken, with logarithms to base `arity`.

    Returns:
        A function from a stretch to the parts that it is cut into.

    Raises:
        ValueError: Fewer than 2 parts.
    """
    if arity < 2:
        raise ValueError(f"A tree of {arity} parts does not split anything; give at least 2.")
    return lambda steps, depth: min(arity, steps)


def named(name: str) -> Split:
    """The split of this name: `sqrt` (`square_root`), `all` (`every`), `every=STEPS` (`marks`), `tree` or `tree=PARTS` (`tree`, 2 parts by default).

    Returns:
        A function from a stretch to the parts that it is cut into.

    Raises:
        ValueError: No split has this name.
    """
    kind, equals, number = name.partition("=")
    if not equals and kind in ("sqrt", "all", "tree"):
        return {"sqrt": square_root, "all": every, "tree": tree(2)}[kind]
    if kind in ("every", "tree") and number.isdecimal():
        return marks(int(number)) if kind == "every" else tree(int(number))
    raise ValueError(f"schedule={name!r} is not one of sqrt, all, every=STEPS, tree and tree=PARTS.")


def within(states: int, steps: int) -> Split:
    """The split that recomputes the fewest steps while it holds at most `states` states.

    Returns:
        A function from a stretch to the parts that it is cut into.

    Raises:
        ValueError: Not even halving fits.
    """
    splits = [every, square_root, *(tree(arity) for arity in (16, 8, 4, 2))]
    fitting = [split for split in splits if cost(split, steps)[0] <= states]
    if not fitting:
        least = cost(tree(2), steps)[0]
        raise ValueError(f"{steps} steps cannot be gone backwards with {states} states in memory; {least} are the fewest.")
    return min(fitting, key=lambda split: cost(split, steps)[1])


def cost(split: Split, steps: int, depth: int = 0) -> tuple[int, int]:
    """How many states are held at most, and how many steps are recomputed."""
    if steps <= 1:
        return min(steps, 1), 0
    bounds = _bounds(split, 0, steps, depth)
    parts = [cost(split, stop - start, depth + 1) for start, stop in itertools.pairwise(bounds)]
    # While part p is walked, the marks before it and the states of the part itself are held.
    return max(place + held for place, (held, _) in enumerate(parts)), bounds[-2] + sum(taken for _, taken in parts)


def backwards(
    state: State, start: int, stop: int, advance: Callable[[State, int, int], State], split: Split, depth: int = 0
) -> Iterator[tuple[int, State]]:
    """(step, state before it), from stop - 1 down to `start`.

    Args:
        state: The state before step `start`.
        start: First step to go through.
        stop: The step after the last one.
        advance: `advance(state, a, b)` takes steps a to b - 1 from the state before a, and gives the state before b.
        split: Says into how many parts a stretch of steps is cut.
        depth: Recursion depth: how often this stretch was split off from a longer one.

    Yields:
        Each step of the stretch once, the last first, with the state before it.
    """
    if stop - start == 1:
        yield start, state
    if stop - start <= 1:
        return
    bounds = _bounds(split, start, stop, depth)
    marks = [state]
    del state
    for a, b in itertools.pairwise(bounds[:-1]):
        marks.append(advance(marks[-1], a, b))
    for place in reversed(range(len(marks))):
        yield from backwards(marks.pop(), bounds[place], bounds[place + 1], advance, split, depth + 1)


def _bounds(split: Split, start: int, stop: int, depth: int) -> list[int]:
    steps = stop - start
    parts = max(2, min(split(steps, depth), steps))
    return [start + steps * part // parts for part in range(parts + 1)]
