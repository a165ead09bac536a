import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from assay.core.errors import UnknownName, UsageError
from assay.core.ids import Ids
from assay.data.examples import Examples
from assay.data.human import human_labels

TRUE = np.array([0, 1, 2, 0, 1, 2, 0, 1])
WORSE = np.array([0, 1, 0, 0, 2, 2, 1, 1])


def examples(rows=range(8)):
    rows = list(rows)
    return Examples(Ids(rows), torch.zeros(len(rows), 1), torch.from_numpy(TRUE[rows]), ("a", "b", "c"))


@pytest.mark.parametrize("zipped", [True, False])
def test_the_official_file_by_id(tmp_path, zipped):
    path = str(tmp_path / "CIFAR-10_human.pt")
    torch.save({"clean_label": TRUE, "worse_label": WORSE}, path, _use_new_zipfile_serialization=zipped)
    assert human_labels(examples(), path, "worse_label").tolist() == WORSE.tolist()
    assert human_labels(examples([5, 2, 4]), path, "worse_label").tolist() == [2, 0, 2]
    with pytest.raises(UnknownName, match="Did you mean worse_label"):
        human_labels(examples(), path, "worst_label")
    with pytest.raises(UsageError, match="holds clean_label, worse_label; say which by column="):
        human_labels(examples(), path)


def test_an_array_of_a_number_for_each_row(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, WORSE)
    assert human_labels(examples([1, 6]), str(path)).tolist() == [1, 1]
    with pytest.raises(UsageError, match="without columns"):
        human_labels(examples(), str(path), "worse_label")
    np.save(path, WORSE[:4])
    with pytest.raises(UsageError, match="holds 4 labels, and 4 ids are no row of it; 4, 5, 6, 7"):
        human_labels(examples(), str(path))
    np.save(path, WORSE + 2)
    with pytest.raises(UsageError, match=r"outside 0\.\.2; id"):
        human_labels(examples(), str(path))


def test_labels_of_another_set_or_order_are_no_noise(tmp_path):
    path = str(tmp_path / "human.pt")
    torch.save({"clean_label": TRUE[::-1].copy(), "worse_label": WORSE}, path)
    with pytest.raises(UsageError, match="clean_label is not the label of 6 of 8 examples"):
        human_labels(examples(), path, "worse_label")


class Command:
    def __reduce__(self):
        return print, ("hello",)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(UsageError, match=r"is absent. CIFAR-10N and CIFAR-100N are at github"):
        human_labels(examples(), str(tmp_path / "none.pt"), "worse_label")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"worse_label": Command()}))
    for body in (b"", b"hello", pickle.dumps(3) * 4, buffer.getvalue()):
        (tmp_path / "human.pt").write_bytes(body)
        with pytest.raises(UsageError, match="Fetch it again"):
            human_labels(examples(), str(tmp_path / "human.pt"), "worse_label")
    texts = Examples(Ids(["a", "b"]), torch.zeros(2, 1), torch.tensor([0, 1]), ("a", "b", "c"))
    np.save(tmp_path / "labels.npy", WORSE)
    with pytest.raises(UsageError, match="ids are texts"):
        human_labels(texts, str(tmp_path / "labels.npy"))
