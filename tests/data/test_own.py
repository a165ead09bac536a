"""An input of the user's own is brought into the form of the examples, or refused in a sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.examples import Examples
from assay.data.own import own_input
from data.test_table import write


def examples(inputs):
    return Examples(Ids(range(len(inputs))), inputs, torch.tensor([0, 1]), ("a", "b"))


GREY = examples(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
RGB = examples(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
ROWS = examples(torch.zeros(2, 3))
PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_picture_becomes_as_the_examples_are():
    Image.fromarray(PIXELS).save("grey.png")
    assert own_input("grey.png", GREY).inputs.tolist() == [[PIXELS.tolist()]]
    assert own_input("grey.png", RGB).inputs.tolist() == [[PIXELS.tolist()] * 3] and not own_input("grey.png", RGB).note
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save("large.png")
    large = own_input("large.png", GREY)
    assert large.inputs.tolist() == [[[[7] * 4] * 4]] and large.note == "The picture was scaled from 8 x 8 to 4 x 4 pixels."


def test_arrays_are_taken_as_they_are():
    np.save("one.npy", PIXELS[None])
    np.save("batch.npy", PIXELS[None, None].astype(np.int64))
    np.savez("one.npz", inputs=PIXELS[None])
    for name in ("one.npy", "batch.npy", "one.npz"):
        own = own_input(name, GREY)
        assert own.inputs.dtype == torch.uint8 and own.inputs.tolist() == [[PIXELS.tolist()]] and own.label is None
    np.save("row.npy", np.array([1.5, 2, 3]))
    assert own_input("row.npy", ROWS).inputs.tolist() == [[1.5, 2, 3]]


def test_a_row_of_a_table_is_encoded_as_the_training_rows(tmp_path):
    split = write(tmp_path, id="who").load()
    (tmp_path / "mine.csv").write_text("score,job,age,label\n1,nurse,30,no\n")
    own = own_input("mine.csv", split.train, split.own)
    assert torch.equal(own.inputs[0], split.train.inputs[1]) and own.label == 0 and own.row == split.train.rows[1]
    (tmp_path / "open.csv").write_text("score,job,age\n1,cook,?\n")
    own = own_input("open.csv", split.train, split.own)
    assert torch.equal(own.inputs[0], split.train.inputs[2]) and own.label is None
    other = write(tmp_path, id="who", missing="?", delimiter=",").load()
    assert torch.equal(own_input("open.csv", other.train, other.own).inputs, own.inputs)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("score,job,age\n1,cook,30\n1,cook,30\n", "holds 2 rows; give one"),
        ("score,age\n1,30\n", "lacks the columns job"),
        ("score,job,age,more\n1,cook,30,1\n", "has no columns more"),
        ("score,job,age\n1,cook,old\n", "'old' in column 'age' is no finite number"),
        ("score,job,age,label\n1,cook,30,maybe\n", "maybe"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path, body, words):
    split = write(tmp_path, id="who").load()
    (tmp_path / "mine.csv").write_text(body)
    with pytest.raises(UsageError, match=words):
        own_input("mine.csv", split.train, split.own)


def test_what_is_no_input_is_refused():
    Image.fromarray(np.zeros((4, 6), np.uint8)).save("wide.png")
    np.save("flat.npy", np.zeros(16, np.uint8))
    np.save("fractions.npy", np.zeros((1, 4, 4)))
    np.save("large.npy", np.full((1, 4, 4), 300))
    np.save("nan.npy", np.array([1, np.nan, 2]))
    np.savez("two.npz", inputs=PIXELS[None], labels=np.zeros(1))
    for name in ("words.png", "words.npy", "words.npz"):
        with open(name, "w") as file:
            file.write("words")
    for name, like, words in (
        ("wide.png", GREY, "wide.png has 6 x 4 pixels, and the examples 4 x 4"),
        ("wide.png", ROWS, "an input is 3 numbers, no picture"),
        ("flat.npy", GREY, r"has shape \(16,\); one input has shape \(1, 4, 4\)"),
        ("fractions.npy", GREY, "whole numbers of 0 to 255"),
        ("large.npy", GREY, "300 to 300; the examples are whole numbers"),
        ("nan.npy", ROWS, "not all finite"),
        ("two.npz", GREY, "must hold one array, named inputs"),
        ("words.png", GREY, "cannot be read as an image"),
        ("words.npy", GREY, "cannot be read as an array"),
        ("words.npz", GREY, "cannot be read as an array"),
        ("absent.png", GREY, "absent"),
        ("mine.csv", GREY, "absent"),
    ):
        with pytest.raises(UsageError, match=words):
            own_input(name, like)
    with open("mine.csv", "w") as file:
        file.write("a\n1\n")
    with pytest.raises(UsageError, match="no rows of a table"):
        own_input("mine.csv", GREY)
