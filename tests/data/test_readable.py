"""Texts, DataFrames and named cells become rows that people read, and inputs where all cells are numbers."""

import datetime
import types

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.arrays import examples_from_arrays
from assay.data.image_corruption import corrupt
from assay.experiments.evidence import gather_inputs
from assay.experiments.targets import target_of

pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")

LABELS = [0, 1, 0, 1]
TEXTS = ["good", "", "<b>bad</b>", "zwei\nZeilen"]
FRAME = pd.DataFrame(
    {
        "age": [39.0, 50.5, None, 38.0],
        "job": pd.Categorical(["a", "b", None, "a"]),
        "since": pd.to_datetime(["2024-01-31", "2024-02-01 12:30", None, "2024-01-31"], format="ISO8601"),
        "member": [True, False, True, None],
        "ratio": np.array([0.1, 0.2, 1 / 3, 1e30], np.float32),
    },
    index=[5, 3, 9, 1],
)
CELLS = (
    ("39", "a", "2024-01-31", "True", "0.1"),
    ("50.5", "b", "2024-02-01 12:30:00", "False", "0.2"),
    ("", "", "", "True", "0.3333333"),
    ("38", "a", "2024-01-31", "", "1e+30"),
)


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(pd.Categorical(TEXTS)),
        pl.Series(TEXTS),
    ],
    ids=lambda texts: f"{type(texts).__name__} {getattr(texts, 'dtype', '')}",
)
def test_texts_are_one_column_without_numbers(texts):
    examples = examples_from_arrays(texts, LABELS)
    assert examples.rows == tuple((text,) for text in TEXTS) and examples.columns == ("text",)
    assert all(type(row[0]) is str for row in examples.rows)
    assert examples.inputs.shape == (4, 0) and not examples.has_numbers and not examples.pictures
    assert list(examples.ids) == [0, 1, 2, 3] and examples.take(torch.tensor([2])).rows == (("<b>bad</b>",),)


def test_a_dataframe_shows_its_cells_as_people_write_them():
    examples = examples_from_arrays(FRAME, LABELS)
    assert examples.columns == ("age", "job", "since", "member", "ratio") and examples.rows == CELLS
    assert list(examples.ids) == [5, 3, 9, 1] and not examples.has_numbers
    plain = pl.DataFrame(
        {name: [None if pd.isna(one) else one for one in FRAME[name].tolist()] for name in ("age", "job", "member")}
    )
    examples = examples_from_arrays(plain, LABELS)
    assert examples.rows == tuple((row[0], row[1], row[3]) for row in CELLS) and list(examples.ids) == [0, 1, 2, 3]
    short = pl.DataFrame({"ratio": pl.Series([0.1, None, 0.2, 3], dtype=pl.Float32), "day": [datetime.date(2024, 1, 31)] * 4})
    assert examples_from_arrays(short, LABELS).rows[:2] == (("0.1", "2024-01-31"), ("", "2024-01-31"))

    class Own(pd.DataFrame):
        pass

    assert examples_from_arrays(Own(FRAME), LABELS).rows == CELLS


def test_cells_that_are_all_numbers_are_the_inputs_too():
    numbers = np.array([[1, 0.5], [2, 0.1 + 0.2], [3, 1e6], [4, -2]])
    rows = (("1", "0.5"), ("2", "0.3"), ("3", "1000000"), ("4", "-2"))
    frame = pd.DataFrame(numbers, columns=["size", "ratio"])
    for examples in (
        examples_from_arrays(frame, LABELS),
        examples_from_arrays(pl.DataFrame(frame.to_dict("list")), LABELS),
        examples_from_arrays(numbers, LABELS, columns=["size", "ratio"]),
        examples_from_arrays(numbers.tolist(), LABELS, columns=("size", "ratio")),
        examples_from_arrays(torch.from_numpy(numbers), LABELS, columns=np.array(["size", "ratio"])),
        examples_from_arrays(torch.from_numpy(numbers).float(), LABELS, columns=frame.columns),
    ):
        assert examples.rows == rows and examples.columns == ("size", "ratio") and examples.has_numbers
        assert torch.equal(examples.inputs, torch.from_numpy(numbers).float())
    normalised = examples_from_arrays(frame, LABELS, mean=[1, 0], std=[1, 2])
    assert normalised.rows == rows and normalised.prepared(normalised.inputs)[0].tolist() == [0, 0.25]
    assert examples_from_arrays(numbers, LABELS).rows is None
    for number in (np.nan, np.inf, 1e300):
        examples = examples_from_arrays(np.where(numbers == 3, number, numbers), LABELS, columns=["size", "ratio"])
        assert examples.rows[2][0] == {"nan": ""}.get(str(number), f"{number:g}") and not examples.has_numbers
    mixed = examples_from_arrays([["x", 1], ["y", None]] * 2, LABELS, columns=["letter", "number"])
    assert mixed.rows == (("x", "1"), ("y", "")) * 2 and not mixed.has_numbers


def test_ids_are_an_index_that_names_rows():
    for index, ids in (
        ([7, 5, 6, 8], [7, 5, 6, 8]),
        (list("dcba"), list("dcba")),
        ([1, 1, 2, 3], [0, 1, 2, 3]),
        ([0.5, 1, 2, 3], [0, 1, 2, 3]),
    ):
        assert list(examples_from_arrays(pd.Series(TEXTS, index=index), LABELS).ids) == ids
        assert list(examples_from_arrays(FRAME.set_axis(index), LABELS).ids) == ids
    assert list(examples_from_arrays(FRAME, LABELS, ids=range(4)).ids) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (TEXTS[:3], {}, r"labels of shape \(4,\) for 3 examples; give each one label"),
        (FRAME[:3], {}, r"labels of shape \(4,\) for 3 examples"),
        (TEXTS, {"ids": [1, 2]}, "2 ids for 4 inputs; give one id for each"),
        (
            ["a", None, "b", float("nan")],
            {"ids": "wxyz"},
            "2 texts are missing or NaN; id x, z. Give these examples a text or leave",
        ),
        (pd.Series(["a", None, "b", "c"], dtype="string"), {}, "1 texts are missing or NaN; id 1"),
        (["a", 1, "b", "c"], {}, "the text of id 1 is 1; give each example a text"),
        (["a", ["b"], "b", "c"], {}, "the text of id 1 is a list; give each example a text"),
        (TEXTS, {"columns": ["text"]}, r"columns= names the cells of an array .*, and texts are one column; leave it out"),
        (TEXTS, {"mean": [0.0], "std": [1.0]}, "mean and std are of numbers, and these examples have none; leave them out"),
        (FRAME, {"columns": list("abcde")}, "and a DataFrame names its own; leave it out"),
        (FRAME[:0], {}, "the DataFrame has no rows; give at least one example"),
        (FRAME[[]], {}, "the table has no columns; give at least one"),
        (FRAME[["age", "job", "age"]], {}, "1 column names occur more than once: age; give each column a name of its own"),
        (
            FRAME.assign(parts=[[1], [2], [3], [4]]),
            {},
            "the cell of id 5 in column 'parts' is a list; .* or leave the column out",
        ),
        (FRAME.assign(code=b"x"), {}, "the cell of id 5 in column 'code' is a bytes"),
        (np.zeros((4, 2)), {"columns": ["a"]}, "1 names in columns= for 2 columns; give one name for each"),
        (np.zeros((4, 2)), {"columns": ["a", "a"]}, "1 column names occur more than once: a"),
        (np.zeros((4, 1, 2, 2)), {"columns": ["a"]}, r"columns= names the cells of rows .*of shape \(4, 1, 2, 2\); leave it out"),
        ([["x", 1]] * 4, {}, r"inputs are <U\d+; give numbers, or the names of the cells by columns="),
        (pd.Series([1, 2, 3, 4]), {}, r"inputs have shape \(4,\)"),
    ],
)
def test_what_cannot_be_read_is_named(inputs, options, words):
    with pytest.raises(UsageError, match=words):
        examples_from_arrays(inputs, LABELS, **options)


def test_what_computes_with_inputs_refuses_texts_in_a_sentence():
    texts = examples_from_arrays(TEXTS, LABELS)
    for computed in (texts.plain, lambda: texts.prepared(texts.inputs)):
        with pytest.raises(
            UsageError, match="These 4 examples are texts or cells for people to read, without numbers to compute with; give"
        ):
            computed()
    with pytest.raises(UsageError, match="inputs of 4 examples hold no number, as those of texts do; give rows of numbers"):
        gather_inputs(texts.ids, texts.inputs, texts.labels)
    with pytest.raises(UsageError, match="Target 'validation' is of texts or cells without numbers, which no model can be given"):
        target_of("validation", texts, types.SimpleNamespace(ids=Ids([9])))
    with pytest.raises(UsageError, match="needs images"):
        corrupt(texts, "blur", 0.5)


def test_other_texts_have_another_content():
    one, other = (examples_from_arrays(texts, LABELS) for texts in (TEXTS, TEXTS[::-1]))
    assert one.content == examples_from_arrays(TEXTS, LABELS).content != other.content
    assert one.fingerprint == other.fingerprint
