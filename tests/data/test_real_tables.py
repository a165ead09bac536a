"""Tables and folders as people have them: dates, texts, ids, broken lines, rows without a label, files that are no pictures."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from assay import data
from assay.core.errors import UsageError
from assay.data.folder import Folder
from assay.data.table import Table
from data.test_folder import classes, picture

START = datetime.date(2023, 12, 31)
DAYS = [START + datetime.timedelta(days=3 * row) for row in range(300)]
WORDS = ["good tea", "bad coffee", "tea", "no words here"]


def shop(folder, name="shop.csv", change=lambda lines: lines):
    """300 rows: an id, a day, a text, a number and a label."""
    lines = ["order,day,note,price,kind"]
    lines += [f"o{row},{DAYS[row]},{WORDS[row % 4]} {row},{row % 7},{'ab'[row % 2]}" for row in range(300)]
    (folder / name).write_text("\n".join(change(lines)) + "\n")
    return str(folder / name)


def test_days_are_numbers_and_words_are_bags(tmp_path):
    split = Table(shop(tmp_path), "kind", id="order", text="note", text_dims=32).load()
    assert any("column 'day': its cells are dates, and count in days" in note for note in split.notes)
    days = torch.tensor([float(DAYS[int(str(one)[1:])].toordinal()) for one in split.train.ids], dtype=torch.float64)
    wanted = (days - days.mean()) / days.std(correction=0)
    assert torch.allclose(split.train.inputs[:, 0].double(), wanted, atol=1e-5)
    words = split.train.inputs[:, 1:33]
    norms = words.norm(dim=1)
    # Two words of one text may fall on each other with opposite signs.
    assert bool(((norms - 1).abs() < 1e-6).float().mean() > 0.9) and len(split.train.inputs[0]) == 34
    # The same words are the same numbers whatever stands beside them.
    again = Table(shop(tmp_path), "kind", id="order", text="note", text_dims=32, dates="day", drop="price").load()
    assert torch.equal(again.train.inputs[:, 1:33], words) and again.notes == ()
    assert split.train.rows[0][1].startswith(tuple(WORDS))


def test_dates_of_every_form_are_days_in_utc(tmp_path):
    cells = ["2024-01-31", "2024-01-31 12:00", "2024-01-31T12:00:00+12:00", "20240201", ""]
    rows = "\n".join(f"{cell},{row},{row % 2}" for row, cell in enumerate(cells * 2))
    (tmp_path / "t.csv").write_text(f"day,x,y\n{rows}\n")
    made = Table(str(tmp_path / "t.csv"), "y", test=0.2, dates="day", drop="x").load()
    both = torch.cat([made.train.inputs, made.test.inputs])
    order = [*made.train.ids, *made.test.ids]
    found = {int(one) % 5: row[0] for one, row in zip(order, both, strict=True) if int(one) < 5}
    # One day apart from each other by what they say.
    day = float(found[3] - found[0])
    assert float(found[1] - found[0]) == pytest.approx(day / 2, rel=1e-4) and float(found[2] - found[0]) == pytest.approx(
        0, abs=1e-5
    )
    assert all(row[1] == (int(one) % 5 == 4) for one, row in zip(order, both, strict=True))
    table = pa.table({"day": DAYS, "y": [row % 2 for row in range(300)]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert Table(str(tmp_path / "t.parquet"), "y").load().train.inputs.shape[1] == 1


def test_a_few_dates_stay_categories_unless_they_are_named(tmp_path):
    rows = "\n".join(f"2024-01-{1 + row % 3:02d},{row % 2}" for row in range(12))
    (tmp_path / "t.csv").write_text(f"day,y\n{rows}\n")
    assert Table(str(tmp_path / "t.csv"), "y").load().train.inputs.shape[1] == 3
    assert Table(str(tmp_path / "t.csv"), "y", dates="day").load().train.inputs.shape[1] == 1


def test_rows_of_another_length_without_id_and_without_label_are_skipped_and_listed(tmp_path):
    def broken(lines):
        lines[3] += ",surplus"
        lines[5] = lines[5].rpartition(",")[0] + ","
        lines[8] = "," + lines[8].partition(",")[2]
        return lines

    path = shop(tmp_path, change=broken)
    options = {"id": "order", "drop": "note+day"}
    with pytest.raises(
        UsageError, match=r"line 4: 6 cells where there are 5 columns\. Mend the line, or skip such lines by on_error=skip"
    ):
        Table(path, "kind", **options).load()
    with pytest.raises(
        UsageError, match=r"1 labels are missing or NaN; line 6\. Label these rows, or skip them by unlabelled=skip"
    ):
        Table(path, "kind", on_error="skip", **options).load()
    said = r"shop\.csv: 3 of 300 rows were skipped: line 4 \(6 cells where there are 5 columns\), line 6 \(no label\), line 9 \(no id\)\."
    with pytest.warns(UserWarning, match=said):
        split = Table(path, "kind", on_error="skip", unlabelled="skip", **options).load()
    assert len(split.train) + len(split.test) == 297 and split.notes[0].endswith("line 9 (no id).")
    assert not {"o2", "o4"} & {*split.train.ids, *split.test.ids}
    # Row numbers stay those of the file.
    with pytest.warns(UserWarning, match="3 of 300|2 of 300"):
        plain = Table(path, "kind", on_error="skip", unlabelled="skip", drop="order+note+day").load()
    assert sorted([*plain.train.ids, *plain.test.ids]) == [row for row in range(300) if row not in (2, 4)]
    with pytest.warns(UserWarning, match="rows were skipped") as all_said:
        apart = Table(path, "kind", test=path, on_error="skip", unlabelled="skip", drop="order+note+day").load()
    assert len(all_said) == 2 and min(apart.test.ids) == 300 and max(apart.test.ids) == 599


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "order"}, r"column 'note': .* too many categories.*name the column in text= to read its words, or in drop="),
        ({"text": "note"}, r"column 'order': .* no two are equal, so if they name the rows give id=order"),
        ({"id": "order", "text": "note", "dates": "price"}, r"column 'price': '0' \(line \d+\) is no date such as 2024-01-31"),
        ({"id": "order", "text": "note+day", "dates": "day"}, r"day stand in more than one of categorical=, dates= and text="),
        ({"id": "order", "text": "note", "dates": "order"}, r"order in dates= are no inputs"),
        ({"id": "order", "text": "note", "text_dims": 0}, "text_dims=0 is below 1"),
        ({"on_error": "ignore"}, "on_error='ignore' is neither 'refuse' nor 'skip'"),
        ({"unlabelled": "drop"}, "unlabelled='drop' is neither 'refuse' nor 'skip'"),
    ],
)
def test_what_cannot_be_read_names_a_cure(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        Table(shop(tmp_path), "kind", **options).load()


def test_a_day_of_the_test_part_that_is_none_is_refused(tmp_path):
    second = shop(tmp_path, "second.csv", lambda lines: [*lines[:4], lines[4].replace(str(DAYS[3]), "soon")])
    with pytest.raises(UsageError, match=r"second\.csv, line 5: 'soon' in column 'day' is no date"):
        Table(shop(tmp_path), "kind", id="order", text="note", test=second).load()
    nothing = shop(tmp_path, "nothing.csv", lambda lines: [lines[0], *(line[:-1] for line in lines[1:])])
    with pytest.raises(UsageError, match=r"none of its 300 rows has what is needed; the first has no label"):
        Table(nothing, "kind", unlabelled="skip").load()


def test_whole_numbers_that_look_like_ids_are_told(tmp_path):
    rows = "\n".join(f"{row},{row % 3},{row % 2}" for row in range(20))
    (tmp_path / "t.csv").write_text(f"customer_id,x,y\n{rows}\n")
    (note,) = Table(str(tmp_path / "t.csv"), "y").load().notes
    assert "column 'customer_id'" in note and "name it in id=" in note
    assert Table(str(tmp_path / "t.csv"), "y", id="customer_id").load().notes == ()


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("table:path={path},drop=note,day,label=kind", {"drop": "note+day"}),
        ("{path}:label=kind,drop=note,day,price", {"drop": "note+day+price"}),
        ("{path}:label=kind,drop=note+day", {"drop": "note+day"}),
        (
            "{path}:label=kind,missing=NA,-,drop=note,categorical=price,day",
            {"missing": "NA+-", "drop": "note", "categorical": "price+day"},
        ),
    ],
)
def test_columns_may_be_separated_by_commas(tmp_path, spec, wanted):
    made = data.parse(spec.format(path=shop(tmp_path)))
    assert {name: getattr(made, name) for name in wanted} == wanted and made.label == "kind"


def test_a_comma_anywhere_else_is_still_refused(tmp_path):
    with pytest.raises(UsageError, match="not of the form key=value"):
        data.parse(f"{shop(tmp_path)}:label=kind,day")


def test_files_that_are_no_pictures_are_skipped_and_listed(tmp_path):
    classes(tmp_path, 6)
    (tmp_path / "readme.txt").write_text("about these pictures")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "dog" / "broken.png").write_bytes((tmp_path / "dog" / "0.png").read_bytes()[:40])
    from PIL import Image

    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tmp_path / "dog" / "deep.png")
    with pytest.raises(UsageError, match=r"readme\.txt beside the class folders.*on_error=skip"):
        Folder(str(tmp_path), test=0.25).load()
    with pytest.warns(UserWarning, match="4 files were skipped, 12 were read") as said:
        split = Folder(str(tmp_path), test=0.25, on_error="skip").load()
    assert len(said) == 1 and len(split.train) + len(split.test) == 12 and split.drawn
    for name, why in (
        ("readme.txt", "beside"),
        ("cat/notes.txt", "cannot be read as an image"),
        ("dog/deep.png", "more than 8 bits"),
    ):
        assert name in split.notes[0] and why in split.notes[0]
    (tmp_path / "readme.txt").unlink()
    with pytest.raises(UsageError, match=r"notes\.txt .*Or skip what is no image by on_error=skip"):
        Folder(str(tmp_path), test=0.25).load()
    for file in (tmp_path / "cat").glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(UsageError, match="cat holds no image that can be read"):
        Folder(str(tmp_path), test=0.25, on_error="skip").load()
    picture(tmp_path / "cat" / "0.png", 3, size=(9, 9))
    with pytest.raises(UsageError, match="Give size= to scale all images"):
        Folder(str(tmp_path), test=0.25, on_error="skip").load()
