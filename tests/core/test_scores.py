import dataclasses

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from assay.core.errors import Mismatch, UnknownName, UsageError
from assay.core.ids import Ids
from assay.core.lineage import Lineage, fingerprint
from assay.core.scores import CHANGE, Direction, Scores, ScoreTable, ordered
from assay.maths.statistics import widened


def scores(values, ids=None, title="made", direction=Direction.HIGH_IS_SUSPECT, dataset=None, **options):
    values = torch.as_tensor(values, dtype=torch.float64)
    ids = Ids(range(len(values)) if ids is None else ids)
    return Scores(ids, values, "made", options, title, direction, "none", lineage=Lineage(dataset) if dataset else None)


def test_only_scores_in_the_unit_of_a_change_tell_harm_from_help():
    made = scores([-1.0, 0.0, 2.0], direction=Direction.LOW_IS_SUSPECT)
    assert made.harmful() is None
    assert dataclasses.replace(made, unit=CHANGE).harmful().tolist() == [True, False, False]
    assert dataclasses.replace(made, unit=CHANGE, direction=Direction.HIGH_IS_SUSPECT).harmful().tolist() == [False, False, True]
    with pytest.raises(UsageError, match="ranks difficulty"):
        dataclasses.replace(made, unit=CHANGE, direction=Direction.HIGH_IS_HARD).harmful()


@pytest.mark.parametrize(
    ("direction", "sign", "suspects"),
    [
        (Direction.HIGH_IS_SUSPECT, 1, True),
        (Direction.LOW_IS_SUSPECT, -1, True),
        (Direction.HIGH_IS_HARD, 1, False),
        (Direction.LOW_IS_HARD, -1, False),
    ],
)
def test_directions(direction, sign, suspects):
    made = scores([1.0, 3.0, 2.0], direction=direction)
    assert made.hardness().tolist() == [sign * 1.0, sign * 3.0, sign * 2.0]
    assert made.ranks().tolist() == ([3, 1, 2] if sign > 0 else [1, 3, 2])
    assert direction.ranks_suspects == suspects
    if suspects:
        assert torch.equal(made.suspicion(), made.hardness())
    else:
        with pytest.raises(UsageError, match=r"made ranks difficulty \(.*\), not suspicion"):
            made.suspicion()


@hypothesis.given(st.lists(st.integers(0, 3), max_size=30), st.booleans(), st.randoms(use_true_random=False))
def test_equal_values_stand_by_id_in_either_direction(values, descending, shuffler):
    names = list(range(100, 100 + len(values)))
    shuffler.shuffle(names)
    ids = Ids(names)
    order = ordered(torch.tensor(values, dtype=torch.float64), ids, descending=descending).tolist()
    assert order == sorted(range(len(values)), key=lambda i: (-values[i] if descending else values[i], names[i]))


def test_infinite_values_rank_and_nan_does_not():
    ids = Ids(["a", "b", "c"])
    assert ordered(torch.tensor([0.0, torch.inf, -torch.inf], dtype=torch.float64), ids, descending=True).tolist() == [1, 0, 2]
    with pytest.raises(UsageError, match="1 values are NaN and cannot be ranked; ids b"):
        ordered(torch.tensor([0.0, torch.nan, 1.0], dtype=torch.float64), ids, descending=True)


def test_values_of_some_examples():
    made = scores([1.0, 2.0, 3.0], ids=["a", "b", "c"])
    assert made.of(Ids(["c", "a"])).tolist() == [3.0, 1.0]
    with pytest.raises(Mismatch, match="1 ids are not in scores of made: z"):
        made.of(Ids(["z"]))


def test_ids_and_values_belong_together():
    with pytest.raises(UsageError, match=r"3 ids cannot carry values of shape \(2,\)"):
        scores([1.0, 2.0], ids=[1, 2, 3])


def test_the_fingerprint_is_of_ids_values_method_options_direction_and_unit():
    base = scores([1.0, 2.0], a=1)
    assert scores([1.0, 2.0], a=1).fingerprint == base.fingerprint
    others = [
        scores([1.0, 2.5], a=1),
        scores([1.0, 2.0], a=2),
        scores([1.0, 2.0], ids=[0, 5], a=1),
        dataclasses.replace(base, method="other"),
        dataclasses.replace(base, direction=Direction.LOW_IS_SUSPECT),
        dataclasses.replace(base, unit="nats"),
    ]
    assert len({one.fingerprint for one in [base, *others]}) == 7
    assert base.made(base.fingerprint) and not any(base.made(one.fingerprint) for one in others)


def test_what_an_earlier_assay_made_of_scores_is_known_as_made_of_them():
    base = scores([1.0, 2.0], a=1)
    # Without direction and unit, as it was.
    earlier = fingerprint(base.ids.fingerprint, base.values.numpy().tobytes(), "made", "[('a', 1)]")
    assert base.made(earlier) and earlier != base.fingerprint and not scores([1.0, 2.5], a=1).made(earlier)


def test_a_table_joins_by_id_in_the_order_of_the_first():
    table = ScoreTable(
        [scores([1.0, 2.0, 3.0], ids=["a", "b", "c"]), scores([30.0, 10.0, 20.0], ids=["c", "a", "b"], title="other")]
    )
    assert list(table) == ["made", "other"] and len(table) == 2 and "other" in table and "third" not in table
    assert list(table["other"].ids) == ["a", "b", "c"] and table["other"].values.tolist() == [10.0, 20.0, 30.0]
    assert repr(table) == "ScoreTable(3 examples; made, other)"
    with pytest.raises(UnknownName, match=r"No score in this table is named 'othr'\. Did you mean other"):
        table["othr"]


def test_an_empty_table():
    assert len(ScoreTable([])) == 0 and len(ScoreTable([]).ids) == 0


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        (scores([1.0, 2.0]), UsageError, "Two scores are titled 'made'"),
        (scores([1.0], title="b"), Mismatch, "Scores b cover 1 examples, made 2"),
        (scores([1.0, 2.0], ids=[0, 7], title="b"), Mismatch, "1 ids are not in scores of b: 1"),
        (scores([1.0, 2.0], title="b", dataset="beef"), Mismatch, "Scores b are of dataset beef, made of cafe"),
    ],
)
def test_scores_that_do_not_belong_together(other, error, words):
    with pytest.raises(error, match=words):
        ScoreTable([scores([5.0, 6.0], dataset="cafe"), other])


def repeated(repeats):
    ids = Ids(range(repeats.shape[1]))
    return Scores(ids, repeats.mean(0), "x", {}, "x", Direction.HIGH_IS_HARD, "events", repeats=repeats)


def test_counts_on_which_repetitions_agree_have_no_interval():
    found = repeated(torch.tensor([[0.0, 1.0, 0.25, 3.0], [0.0, 1.0, 0.5, 4.0], [0.0, 2.0, 1.0, 6.0]], dtype=torch.float64))
    low, high = found.interval()
    assert low.isnan().tolist() == high.isnan().tolist() == [True, True, False, False]
    half = widened(3) * np.std([3.0, 4.0, 6.0], ddof=1)
    assert (float(low[3]), float(high[3])) == pytest.approx((13 / 3 - half, 13 / 3 + half), rel=1e-9)


@pytest.mark.parametrize("models", [2, 3, 5, 10, 20])
def test_intervals_of_single_examples_cover_what_they_say(models):
    draw = np.random.default_rng(models)
    examples = 4000
    spread, rate, often = draw.normal(size=examples), draw.gamma(0.5, 1, examples), draw.beta(2, 1, examples)
    worlds = {
        "margins": (spread + 0.3 * draw.normal(size=(models, examples)), spread),
        "forgetting": (draw.poisson(rate, (models, examples)), rate),
        "correctness": (draw.binomial(20, often, (models, examples)) / 20, often),
        "confidences": (draw.beta(5, 1, (models, examples)), np.full(examples, 5 / 6)),
        "losses": (rate * draw.exponential(size=(models, examples)), rate),
    }
    for name, (repeats, true) in worlds.items():
        low, high = repeated(torch.from_numpy(repeats.astype(np.float64))).interval()
        held = ((low <= torch.from_numpy(true)) & (torch.from_numpy(true) <= high))[~low.isnan()].double()
        if name in ("margins", "confidences", "losses"):
            assert len(held) == examples
        if len(held) > 100:
            assert float(held.mean()) > 0.94 - 3 * (0.94 * 0.06 / len(held)) ** 0.5, name
