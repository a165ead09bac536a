import dataclasses

import numpy as np
import pytest
import torch

from assay.core.decision import Decision
from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.core.scores import Direction, Scores, ScoreTable
from assay.core.tabular import FIRST, Table, texts


def scores(ids=("a", "b", "c"), values=(3.0, -1.0, 2.0), title="made"):
    values = torch.tensor(values, dtype=torch.float64)
    return Scores(Ids(list(ids)), values, "made", {}, title, Direction.LOW_IS_SUSPECT, "logits")


def decision(**changed):
    made = Decision(
        Ids([7, 3, 9]),
        torch.tensor([0, 2, 1]),
        torch.tensor([-1, 1, -1]),
        torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64),
        ("wrong", "<b>cat</b>", "fine"),
        "made",
        {},
        "made by hand",
        class_names=("dog", "cat"),
    )
    return dataclasses.replace(made, **changed)


def lists(columns):
    return {name: column.tolist() for name, column in columns.items()}


def test_columns_by_hand():
    assert lists(scores().to_numpy()) == {"id": ["a", "b", "c"], "value": [3.0, -1.0, 2.0], "rank": [3, 1, 2]}
    table = ScoreTable([scores(), scores(("c", "a", "b"), (1.0, 2.0, 3.0), "other")])
    assert lists(table.to_numpy()) == {"id": ["a", "b", "c"], "made": [3.0, -1.0, 2.0], "other": [2.0, 3.0, 1.0]}
    assert lists(decision().to_numpy()) == {
        "id": [7, 3, 9],
        "action": ["drop", "relabel", "keep"],
        "new_label": [None, 1, None],
        "new_class": ["", "cat", ""],
        "weight": [0.0, 1.0, 1.0],
        "reason": ["wrong", "<b>cat</b>", "fine"],
    }
    assert "new_class" not in decision(class_names=()).to_numpy()


def test_values_over_repetitions_have_the_ends_of_their_interval():
    repeats = torch.tensor([[1.0, 0.0, 5.0], [2.0, 0.0, 6.0], [3.0, 0.0, 4.0]], dtype=torch.float64)
    made = dataclasses.replace(scores(), values=repeats.mean(0), repeats=repeats)
    columns = made.to_numpy()
    low, high = made.interval()
    assert np.array_equal(columns["low"], low.numpy(), equal_nan=True) and np.isnan(columns["high"][1])
    assert columns["high"][0] == float(high[0]) > 2.0


def test_arrow_keeps_kinds_and_empty_cells():
    table = decision().to_arrow()
    assert table.to_pydict()["new_label"] == [None, 1, None] and table.to_pydict()["id"] == [7, 3, 9]
    assert scores().to_arrow().to_pydict()["id"] == ["a", "b", "c"]
    pa = pytest.importorskip("pyarrow")
    assert pa.table(decision()).equals(table)


def test_pandas_frames_join_by_index():
    pandas = pytest.importorskip("pandas")
    mine = pandas.DataFrame({"x": [1, 2, 3]}, index=["c", "a", "b"])
    joined = mine.join(scores().to_pandas())
    assert joined["value"].tolist() == [2.0, 3.0, -1.0] and joined.index.tolist() == ["c", "a", "b"]
    frame = decision().to_pandas()
    assert (
        frame.index.name == "id" and frame.loc[3, "new_label"] == 1 and frame["new_label"].isna().tolist() == [True, False, True]
    )
    assert str(frame["new_label"].dtype) == "Int64"


def test_polars_frames():
    polars = pytest.importorskip("polars")
    assert decision().to_polars()["new_label"].to_list() == [None, 1, None]
    assert polars.DataFrame(scores())["rank"].to_list() == [3, 1, 2]


def test_a_table_of_scores_is_not_taken_for_a_list_of_titles():
    with pytest.raises(UsageError, match=r"is no array; take table\.to_pandas"):
        np.asarray(ScoreTable([scores()]))


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_a_library_that_is_absent_is_named(monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UsageError, match=f"pip install {name}, or take to_numpy or to_arrow"):
        getattr(scores(), f"to_{name}")()


def test_a_notebook_shows_what_matters_first_and_runs_nothing():
    shown = decision()._repr_html_()
    assert shown.index("<td>7</td>") < shown.index("<td>3</td>") < shown.index("<td>9</td>")
    assert "&lt;b&gt;cat&lt;/b&gt;" in shown and "<b>" not in shown and "None" not in shown
    assert scores()._repr_html_().index("<td>b</td>") < scores()._repr_html_().index("<td>c</td>")
    assert "ScoreTable" in ScoreTable([])._repr_html_()


def test_what_is_shown_stays_short_whatever_the_size():
    n = 20_000
    made = decision(
        ids=Ids(range(n)),
        actions=torch.zeros(n, dtype=torch.int64),
        labels=torch.full((n,), -1),
        weights=torch.zeros(n, dtype=torch.float64),
        reasons=("a long reason " * 100,) * n,
    )
    assert len(repr(made)) < 200 and len(made._repr_html_()) < 10_000 and f"first {FIRST} of 20,000 rows" in made._repr_html_()
    many = scores(range(n), torch.arange(n).tolist())
    assert len(repr(many)) < 200 and len(many._repr_html_()) < 10_000


def test_a_table_of_columns():
    made = Table("two", {"id": np.array([1, 2]), "word": texts(["x", "y"])}, ["a note"])
    assert len(made) == 2 and made.to_arrow().to_pydict() == {"id": [1, 2], "word": ["x", "y"]} and "two" in repr(made)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(UsageError, match="Example 3: class 1 is none of the 1 that have a name"):
        decision(class_names=("dog",))
