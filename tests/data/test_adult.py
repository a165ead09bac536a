import pytest
import torch

from assay.core.errors import UsageError
from assay.data.adult import COLUMNS, Adult

LINE = "{}, {}, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, United-States, {}"
TRAIN = [LINE.format(39, "State-gov", "<=50K"), LINE.format(50, "?", ">50K"), LINE.format(61, "Private", "<=50K")]
TEST = ["|1x3 Cross validator", LINE.format(50, "Private", "<=50K."), LINE.format(25, "Never-worked", ">50K.")]


def write(folder, names=("adult.data", "adult.test"), train=TRAIN, test=TEST):
    for name, lines in zip(names, (train, test), strict=True):
        (folder / name).write_text("\n".join(lines) + "\n\n")
    return Adult(str(folder))


@pytest.mark.parametrize("names", [("adult.data", "adult.test"), ("adult-training.csv", "adult-test.csv")])
def test_the_pair(tmp_path, names):
    split = write(tmp_path, names).load()
    assert split.train.class_names == ("<=50K", ">50K")
    assert split.train.labels.tolist() == [0, 1, 0] and split.test.labels.tolist() == [0, 1]
    assert list(split.train.ids) == [0, 1, 2] and list(split.test.ids) == [3, 4]
    assert split.train.columns == COLUMNS[:14] and split.train.rows[1][:3] == ("50", "", "77516")
    assert split.test.inputs[0, 0] == 0  # 50 is the mean age
    # workclass: Private, State-gov, missing
    assert split.train.inputs[:, 1:4].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert torch.equal(split.test.inputs[1, 1:4], torch.zeros(3))
    assert len(split.notes) == 1 and "'workclass': 1 of 2" in split.notes[0]


def test_a_line_cut_short_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"adult\.test, line 3: 3 cells where there are 15 columns"):
        write(tmp_path, test=[*TEST[:2], "39, Private, 7"]).load()


def test_absent_files(tmp_path):
    with pytest.raises(UsageError, match=r"holds neither adult\.data with adult\.test nor .* is at https:.*SHA-256 5b00"):
        Adult(str(tmp_path)).load()
