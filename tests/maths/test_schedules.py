import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.maths.schedules import backwards, cost, every, marks, named, square_root, tree, within

SPLITS = {"every": every, "square_root": square_root, **{f"tree {arity}": tree(arity) for arity in (2, 3, 4, 16)}}
SPLITS |= {f"marks {apart}": marks(apart) for apart in (1, 7, 30)}


class Walk:
    """Counts the steps taken and the states alive."""

    def __init__(self):
        self.taken = self.alive = self.most = 0

    def mark(self, at):
        return Mark(self, at)

    def advance(self, state, start, stop):
        assert state.at == start < stop
        self.taken += stop - start
        return Mark(self, stop)


class Mark:
    def __init__(self, walk, at):
        self.walk, self.at = walk, at
        walk.alive += 1
        walk.most = max(walk.most, walk.alive)

    def __del__(self):
        self.walk.alive -= 1


def walked(split, start, stop):
    walk, seen = Walk(), []
    for step, state in backwards(walk.mark(start), start, stop, walk.advance, split):
        assert state.at == step
        seen.append(step)
        del state
    return walk, seen


@pytest.mark.parametrize("split", SPLITS.values(), ids=list(SPLITS))
@given(start=st.integers(0, 50), steps=st.integers(0, 200))
def test_every_step_comes_once_from_the_last_to_the_first_with_its_own_state(split, start, steps):
    walk, seen = walked(split, start, start + steps)
    assert seen == list(reversed(range(start, start + steps)))
    assert (walk.most if steps else 0, walk.taken) == cost(split, steps)
    assert walk.alive == 0


@pytest.mark.parametrize(("steps", "states"), [(63, 14), (625, 49), (782, 54), (15_640, 249)])
def test_square_root_costs_what_it_should(steps, states):
    held, taken = cost(square_root, steps)
    assert abs(held - 2 * math.sqrt(steps)) <= 3 and held <= states + 2
    assert taken < 2 * steps


@pytest.mark.parametrize(("arity", "states", "factor"), [(2, 11, 4.65), (4, 16, 3.64), (8, 23, 2.92), (16, 34, 2.53)])
def test_trees_cost_what_the_paper_counted_on_782_steps(arity, states, factor):
    held, taken = cost(tree(arity), 782)
    assert held <= states and taken / 782 == pytest.approx(factor, abs=0.02)


@given(states=st.integers(1, 60), steps=st.integers(1, 900))
def test_a_budget_is_kept_or_refused(states, steps):
    try:
        split = within(states, steps)
    except ValueError as error:
        assert cost(tree(2), steps)[0] > states and "fewest" in str(error)
    else:
        assert cost(split, steps)[0] <= states
        assert all(
            cost(split, steps)[1] <= cost(other, steps)[1] for other in (every, square_root) if cost(other, steps)[0] <= states
        )


def test_a_tree_of_one_part_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        tree(1)


@pytest.mark.parametrize(("steps", "apart"), [(100, 10), (782, 40), (30, 100)])
def test_marks_cost_what_they_should(steps, apart):
    held, taken = cost(marks(apart), steps)
    assert held <= steps / apart + apart + 1 and taken < 2 * steps


def test_splits_have_names():
    assert named("sqrt") is square_root and named("all") is every
    assert [cost(named(name), 90) for name in ("every=9", "tree", "tree=4")] == [
        cost(split, 90) for split in (marks(9), tree(2), tree(4))
    ]
    for wrong in ("log", "every", "every=", "every=0", "every=-3", "tree=1", "tree=x", "sqrt=2"):
        with pytest.raises(ValueError, match=r"schedule=|at least"):
            named(wrong)
