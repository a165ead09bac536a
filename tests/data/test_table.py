import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from assay.core.errors import UnknownName, UsageError
from assay.data.table import Table

TRAIN = """\
who,age,job,score,label
a,20,cook,1,yes
b,30,nurse,1,no
c,?,cook,1,yes
d,40,,1,no
"""
TEST = """\
who,age,job,score,label
e,30,pilot,1,no
f,,?,?,yes
"""


def write(folder, train=TRAIN, second=TEST, **options):
    (folder / "train.csv").write_text(train)
    (folder / "test.csv").write_text(second)
    return Table(**{"path": str(folder / "train.csv"), "label": "label", "test": str(folder / "test.csv"), **options})


def test_by_hand(tmp_path):
    split = write(tmp_path, id="who").load()
    std = np.sqrt(200 / 3)
    # age, age missing, cook, nurse, job missing, score (constant)
    expected = [[-10 / std, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0], [10 / std, 0, 0, 0, 1, 0]]
    assert torch.allclose(split.train.inputs, torch.tensor(expected, dtype=torch.float32))
    assert split.test.inputs.tolist() == [[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0]]
    assert split.train.inputs.dtype == torch.float32 and split.train.mean is None
    assert list(split.train.ids) == list("abcd") and list(split.test.ids) == ["e", "f"]
    assert split.train.class_names == ("no", "yes") and split.train.labels.tolist() == [1, 0, 1, 0]
    assert split.test.labels.tolist() == [0, 1]


def test_what_training_lacks_is_counted(tmp_path):
    notes = write(tmp_path, id="who").load().notes
    assert [note.partition("test.csv, ")[2] for note in notes] == [
        "column 'job': 1 of 2 cells hold a category that training lacks, and are 0 in all its columns.",
        "column 'score': 1 of 2 cells are missing where no training cell is, and stand at the training mean.",
    ]


def test_people_see_the_cells_but_neither_the_label_nor_what_is_dropped(tmp_path):
    train = write(tmp_path, id="who", drop="score").load().train
    assert train.columns == ("age", "job")
    assert train.rows == (("20", "cook"), ("30", "nurse"), ("", "cook"), ("40", ""))


def test_what_is_shown_is_no_input_and_seen_by_people(tmp_path):
    split, plain = write(tmp_path, id="who", show="score").load(), write(tmp_path, id="who", drop="score").load()
    assert torch.equal(split.train.inputs, plain.train.inputs) and torch.equal(split.test.inputs, plain.test.inputs)
    assert split.train.columns == ("age", "job", "score")
    assert split.train.rows == (("20", "cook", "1"), ("30", "nurse", "1"), ("", "cook", "1"), ("40", "", "1"))
    assert write(tmp_path, show="score+who").load().train.columns == ("who", "age", "job", "score")
    (tmp_path / "own.csv").write_text("score,job,age\n7,cook,20\n")
    inputs, label, cells = split.own.read(str(tmp_path / "own.csv"))
    assert torch.equal(inputs, split.train.inputs[:1]) and label is None and cells == ("20", "cook", "7")
    for more in ({"drop": "score"}, {"id": "score"}):
        with pytest.raises(UsageError, match="score in show= stand also in drop=, or are label or id"):
            write(tmp_path, show="score", **more).load()
    with pytest.raises(UsageError, match="score in categorical= are no inputs, but dropped, shown, label or id"):
        write(tmp_path, show="score", categorical="score").load()


def test_against_scikit_learn_fitted_on_train_only(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"{x!r},{c},{y}"
        for x, c, y in zip(rng.normal(5, 3, 60).tolist(), rng.choice(list("pqr"), 60), rng.integers(0, 2, 60), strict=True)
    ]
    (tmp_path / "all.csv").write_text("x,c,y\n" + "\n".join(rows))
    split = Table(str(tmp_path / "all.csv"), "y", test=0.25).load()
    assert len(split.train) == 45 and sorted([*split.train.ids, *split.test.ids]) == list(range(60))
    numbers, letters = ([[row[i]] for row in split.train.rows] for i in (0, 1))
    scaler, encoder = StandardScaler().fit(np.array(numbers, float)), OneHotEncoder(handle_unknown="ignore").fit(letters)
    for part in (split.train, split.test):
        x = scaler.transform(np.array([[row[0]] for row in part.rows], float))
        c = encoder.transform([[row[1]] for row in part.rows]).toarray()
        assert np.allclose(part.inputs.numpy(), np.concatenate([x, c], 1), atol=1e-6)


def test_times_in_nanoseconds_are_standardised(tmp_path):
    """scikit-learn's StandardScaler takes their spread, 0.7 ms, for rounding, and leaves inputs of a million."""
    times = 1_700_000_000_000_000_000 + 256 * np.arange(10_000)
    assert StandardScaler().fit(times.astype(np.float64)[:, None]).scale_ == 1 and times.std() > 700_000
    rows = "\n".join(f"{time},{time // 256 % 2}" for time in times)
    inputs = write(tmp_path, f"time,label\n{rows}\n", f"time,label\n{times[0]},0\n", label="label").load().train.inputs
    assert float(inputs.abs().max()) == pytest.approx(3**0.5, rel=1e-3)


def test_the_test_part_does_not_touch_the_encoding(tmp_path):
    one = write(tmp_path).load().train.inputs
    two = write(tmp_path, second=TEST.replace("30", "9999").replace("pilot", "nurse")).load().train.inputs
    assert torch.equal(one, two)


def test_row_numbers_are_ids_by_default(tmp_path):
    split = write(tmp_path, drop="who").load()
    assert list(split.train.ids) == [0, 1, 2, 3] and list(split.test.ids) == [4, 5]


def test_numeric_ids_and_texts_that_only_look_so(tmp_path):
    table = "n,x,y\n{},1,a\n{},2,b\n{},3,a\n{},4,b\n"
    (tmp_path / "t.csv").write_text(table.format(7, 9, 8, 11))
    (tmp_path / "u.csv").write_text(table.format("007", 7, 8, 9))
    numeric, texts = (Table(str(tmp_path / f"{name}.csv"), "y", test=0.5, id="n").load() for name in "tu")
    assert {*numeric.train.ids, *numeric.test.ids} == {7, 8, 9, 11}
    assert {*texts.train.ids, *texts.test.ids} == {"007", "7", "8", "9"}


@pytest.mark.parametrize("label", ["label", 4, -1])
def test_the_label_by_name_or_position(tmp_path, label):
    assert write(tmp_path, label=label, id=0).load().train.labels.tolist() == [1, 0, 1, 0]


def test_no_header_other_delimiter_skipped_lines_and_comments(tmp_path):
    body = 'made by hand\n# a comment, with commas\n20;cook;yes\n\n 30 ; "nurse; night";no\n# another\n40;cook;yes\n50;cook;no\n'
    (tmp_path / "t.csv").write_text(body)
    split = Table(str(tmp_path / "t.csv"), 2, test=0.5, header=False, delimiter=";", skip=1, comment="#").load()
    rows = dict(zip([*split.train.ids, *split.test.ids], split.train.rows + split.test.rows, strict=True))
    assert rows == {0: ("20", "cook"), 1: ("30", "nurse; night"), 2: ("40", "cook"), 3: ("50", "cook")}
    assert split.train.columns == ("0", "1")
    (tmp_path / "t.tsv").write_text("x\ty\n1\ta\n2\tb\n3\ta\n4\tb\n")
    assert Table(str(tmp_path / "t.tsv"), "y", test=0.5, delimiter="tab").load().train.columns == ("x",)


def test_line_numbers_count_every_line(tmp_path):
    body = 'skipped\n# comment\nx,y\n\n1,a\n"two\nlines",b\n3\n'
    (tmp_path / "t.csv").write_text(body)
    with pytest.raises(UsageError, match=r"t\.csv, line 8: 1 cells where there are 2 columns"):
        Table(str(tmp_path / "t.csv"), "y", skip=1, comment="#").load()


def test_codes_can_be_categories(tmp_path):
    split = write(tmp_path, drop="who+score", categorical="age").load()
    assert split.train.inputs.shape[1] == 4 + 3  # 20, 30, 40, missing; cook, nurse, missing


def test_an_underscore_does_not_make_a_number(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n1_0,a\n1_0,b\n2_0,a\n2_0,b\n")
    assert set(Table(str(tmp_path / "t.csv"), "y", test=0.5).load().train.inputs.flatten().tolist()) <= {0.0, 1.0}


def test_missing_texts_can_be_named(tmp_path):
    train = TRAIN.replace("?", "NA")
    split = write(tmp_path, train=train, missing="NA+?", drop="who").load()
    assert torch.equal(split.train.inputs, write(tmp_path, drop="who").load().train.inputs)


def test_parquet(tmp_path):
    columns = {
        "x": pa.array([0.1, None, 3.0, float("nan")]),
        "flag": pa.array([True, False, True, None]),
        "y": pa.array([1, 0, 1, 0], pa.int8()),
        "id": pa.array(["d", "c", "b", "a"]),
    }
    for name in ("train", "test"):
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    split = Table(str(tmp_path / "train.parquet"), "y", test=str(tmp_path / "test.parquet"), id="id").load()
    assert split.train.rows == (("0.1", "True"), ("", "False"), ("3.0", "True"), ("", ""))
    # x, x missing, False, True, flag missing
    expected = [[-1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert torch.allclose(split.train.inputs, torch.tensor(expected, dtype=torch.float32))
    assert list(split.train.ids) == list("dcba") and split.train.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(UsageError, match="is Parquet, to which header, skip cannot apply"):
        Table(str(tmp_path / "train.parquet"), "y", header=False, skip=2).load()
    (tmp_path / "test.parquet").write_bytes(b"hello")
    with pytest.raises(UsageError, match=r"test\.parquet cannot be read as Parquet"):
        Table(str(tmp_path / "train.parquet"), "y", test=str(tmp_path / "test.parquet")).load()
    parquet.write_table(pa.table({"x": [[1], [2]], "y": [0, 1]}), tmp_path / "nested.parquet")
    with pytest.raises(UsageError, match="column 'x' holds list"):
        Table(str(tmp_path / "nested.parquet"), "y").load()


@pytest.mark.parametrize(
    ("train", "options", "words"),
    [
        (
            TRAIN.replace("b,30,nurse,1,no", "b,30,nurse,1,"),
            {},
            r"train\.csv, column 'label': 1 labels are missing or NaN; line 3",
        ),
        (TRAIN.replace("no", "yes"), {}, "column 'label': all 4 labels are 'yes'"),
        (
            TRAIN.replace("no", "0.5").replace("yes", "2"),
            {},
            r"column 'label': \d of 4 labels are no whole numbers \(the first is 0\.5, line \d\), as the numbers of a regression are",
        ),
        (TRAIN, {"test": 1.5}, r"test=1\.5 is outside 0\.\.1"),
        (TRAIN, {"label": "lable"}, r"named 'lable'\. Did you mean label"),
        (TRAIN, {"label": 5}, "no column 5: positions run from 0 to 4"),
        (TRAIN, {"id": "nobody"}, "named 'nobody'"),
        (TRAIN, {"id": "label"}, "cannot be both label and id"),
        (TRAIN, {"id": "score"}, "column 'score': 1 ids occur more than once: 1"),
        (TRAIN, {"id": "age"}, "column 'age': 1 ids are missing; line 4"),
        (TRAIN, {"drop": "who+agee"}, r"named 'agee'\. Did you mean age"),
        (TRAIN, {"drop": "who+age+job+score"}, "no column is left"),
        (TRAIN, {"drop": "job", "categorical": "job"}, "job in categorical= are no inputs"),
        (TRAIN, {"on_missing": "refuse"}, r"train\.csv, line 4: the cell in column 'age' is missing"),
        (TRAIN, {"most_categories": 3}, r"column 'who': 4 different texts \(not a number: 'a', line 2\) are too many"),
        (TRAIN.replace("20", "inf"), {}, "column 'age': its numbers are infinite"),
        (TRAIN.replace("30", "-1e300").replace("20", "1e300"), {}, "too large to standardise"),
        (TRAIN.replace("20", "?").replace("30", "?").replace("40", "?"), {}, "column 'age': every training cell is missing"),
        (TRAIN.replace("job", "age"), {}, "column names 'age' occur more than once"),
        (TRAIN.replace("score", "points"), {}, "Both need the same in the same order"),
        (TRAIN.replace("cook", '"cook'), {}, r"train\.csv cannot be read as CSV"),
        (TRAIN.partition("\n")[0], {}, "holds no rows"),
        ("", {}, "holds no rows"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, train, options, words):
    with pytest.raises(UsageError, match=words):
        write(tmp_path, train=train, **options).load()


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (TEST.replace("30", "old"), r"test\.csv, line 2: 'old' in column 'age' is no finite number"),
        (TEST.replace("30", "nan"), r"test\.csv, line 2: 'nan' in column 'age' is no finite number"),
        (TEST.replace("no", "maybe"), r"test\.csv, column 'label': 1 labels are not among the classes no, yes; line 2"),
    ],
)
def test_what_cannot_be_used_in_the_test_part_is_named(tmp_path, test, words):
    with pytest.raises(UsageError, match=words):
        write(tmp_path, second=test).load()


def test_other_encodings_and_absent_files(tmp_path):
    table = write(tmp_path)
    (tmp_path / "train.csv").write_bytes("x,y\nü,a\n".encode("latin1"))
    with pytest.raises(UsageError, match=r"cannot be read as CSV .*utf-8.* Save it as UTF-8\."):
        table.load()
    with pytest.raises(UnknownName, match="named 'label'"):
        write(tmp_path, train="\ufeffx,y\nü,a\n").load()
    with pytest.raises(UsageError, match="is absent"):
        Table(str(tmp_path / "none.csv"), "y").load()


@pytest.mark.parametrize("options", [{"delimiter": "::"}, {"delimiter": ""}, {"skip": -1}, {"on_missing": "guess"}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Table("t.csv", "y", **options)


def test_a_column_of_numbers_that_a_few_texts_make_categories_is_told(tmp_path):
    rows = "".join(f"{chr(97 + at)},{at},{at % 3},{'x' * (at % 2)}1,{at % 2}\n" for at in range(8)).replace("c,2,", "c,0x2,")
    found = write(
        tmp_path,
        train="who,age,job,score,label\n" + rows,
        second=TEST.replace("no", "0").replace("yes", "1"),
        id="who",
        categorical="job",
    )
    told = [note for note in found.load().notes if "are numbers" in note]
    assert len(told) == 1 and "column 'age': 7 of 8 cells are numbers" in told[0] and "'0x2' (line 4)" in told[0]
    assert not [note for note in write(tmp_path, id="who").load().notes if "are numbers" in note]
