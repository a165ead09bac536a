import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from assay.core.errors import UsageError
from assay.data.pictures import for_people
from assay.data.torch_dataset import examples_from_dataset

ROWS, LABELS = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 1])


class Items(Dataset):
    def __init__(self, items, classes=None):
        self.items, self.read = items, []
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        return self.items[index]


def test_every_item_is_read_once():
    dataset = Items(list(zip(ROWS, LABELS, strict=True)), ["ant", "bee", "cat"])
    examples = examples_from_dataset(dataset)
    assert dataset.read == [0, 1, 2, 3]
    assert torch.equal(examples.inputs, ROWS) and torch.equal(examples.labels, LABELS)
    assert examples.class_names == ("ant", "bee", "cat") and list(examples.ids) == [0, 1, 2, 3]


def test_a_subset_keeps_the_indices_of_the_full_set():
    full = Items(list(zip(ROWS, LABELS.tolist(), strict=True)), ["ant", "bee", "cat"])
    subset = Subset(Subset(full, [3, 0, 2]), [2, 0])
    examples = examples_from_dataset(subset)
    assert list(examples.ids) == [2, 3] and examples.labels.tolist() == [2, 1]
    assert examples.class_names == ("ant", "bee", "cat")
    assert list(examples_from_dataset(subset, ids=["x", "y"]).ids) == ["x", "y"]


def test_other_datasets_of_torch():
    dataset = ConcatDataset([TensorDataset(ROWS, LABELS), TensorDataset(ROWS + 1, LABELS)])
    examples = examples_from_dataset(dataset, class_names=["a", "b", "c"])
    assert torch.equal(examples.inputs, torch.cat([ROWS, ROWS + 1])) and list(examples.ids) == list(range(8))


def test_images_as_tensors_and_as_pil():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    pil = examples_from_dataset(Items([(Image.fromarray(pixels[0]), "a"), (Image.fromarray(pixels[1]), "b")]))
    assert pil.inputs.dtype == torch.uint8 and np.array_equal(pil.inputs.numpy(), pixels.transpose(0, 3, 1, 2))
    grey = examples_from_dataset(Items([(Image.fromarray(image[..., 0]), label) for label, image in enumerate(pixels)]))
    assert grey.shape == (1, 4, 5)
    floats = examples_from_dataset(Items([(torch.rand(3, 4, 5), label) for label in (0, 1)]))
    assert floats.pictures and floats.inputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "is empty"),
        ([(ROWS[0], 0), ROWS[1]], "Item 1 of Items is a Tensor; give pairs"),
        ([(ROWS[0], 0), (ROWS[1], 1, 2)], "Item 1 of Items is a tuple of 3; give pairs"),
        ([(ROWS[0], 0), (ROWS[1, :2], 1)], r"Item 1 is float32 of shape \(2,\), item 0 float32 of shape \(3,\)"),
        ([(ROWS[0], 0), (ROWS[1].double(), 1)], "Item 1 is float64"),
        ([(torch.tensor(1.0), 0)], "Input of item 0 is a single number"),
        ([(("premise", "hypothesis"), 0)], "Input of item 0 is a tuple; .* a text, or a dict of cells by name"),
        ([("text", 0), (None, 1)], "Input of item 1 is a NoneType"),
        ([("text", 0), (ROWS[1], 1)], r"Item 1 is float32 of shape \(3,\), item 0 a text"),
        ([(ROWS[0], 0), ("text", 1)], r"Item 1 is a text, item 0 float32 of shape \(3,\)"),
        ([({"age": 1}, 0), ({"size": 1}, 1)], "Item 1 is a row of size, item 0 a row of age"),
        ([({"age": 1}, 0), ({"age": [1]}, 1)], "Input of item 1 is a dict that holds a list as 'age'; give cells that are texts"),
        ([({}, 0), ({}, 1)], "Input of item 0 is a dict that is empty"),
        (
            [{"text": "a"}, {"text": "b"}],
            r'Item 0 of Items is a dict; give pairs .* or of texts \(row\["text"\], row\["label"\]\)',
        ),
        ([{"text": "a", "label": 0, "labels": 1}], "Item 0 of Items is a dict; give pairs"),
        ([{"input_ids": [1, 2], "labels": 0}], "Item 0 of Items is a dict; give pairs"),
        ([{"label": 0}], "Item 0 of Items is a dict; give pairs"),
        ([(ROWS[0], 0), (ROWS[1], 1.0)], r"label of id 1 is 1\.0"),
        ([(ROWS[0], 0), (ROWS[1], None)], "1 labels are missing or NaN; id 1"),
        ([(ROWS[0], 0), (ROWS[1], torch.tensor([1]))], "label of id 1 is tensor"),
        ([(ROWS[0], 0), (ROWS[1], torch.tensor(float("nan")))], "missing or NaN; id 1"),
        ([(ROWS[0], 1), (ROWS[1], 1)], "all 2 labels are 1"),
        ([(ROWS[0], 0), (ROWS[1] * float("inf"), 1)], "NaN, infinite"),
    ],
)
def test_items_that_cannot_be_used_are_named(items, words):
    with pytest.raises(UsageError, match=words):
        examples_from_dataset(Items(items))


def test_an_error_of_the_dataset_names_its_item():
    class Broken(Items):
        def __getitem__(self, index):
            return super().__getitem__(index) if index < 2 else {}["absent"]

    with pytest.raises(UsageError, match=r"Item 2 of Broken cannot be read \(KeyError"):
        examples_from_dataset(Broken([(row, 0) for row in ROWS]))


def test_a_stream_has_no_stable_ids():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(UsageError, match="Stream is no map-style dataset"):
        examples_from_dataset(Stream())


BYTES = torch.randint(256, (6, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.49, 0.48, 0.44), (0.2, 0.25, 0.21)


def normalised(images):
    # As torchvision's ToTensor and Normalize do it.
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (MEAN, STD))
    return [images[at].to(torch.float32).div(255).sub(mean).div(std) for at in range(len(images))]


def test_a_normalisation_is_undone_and_done_again_to_the_same_bits():
    items = normalised(BYTES)
    for mean, std in ((MEAN, STD), (np.array(MEAN), torch.tensor(STD, dtype=torch.float64))):
        examples = examples_from_dataset(Items(list(zip(items, range(6), strict=True))), mean=mean, std=std)
        assert torch.equal((examples.inputs * 255).round().to(torch.uint8), BYTES) and examples.inputs.dtype == torch.float32
        assert torch.equal(examples.prepared(examples.inputs), torch.stack(items))
        assert torch.equal(for_people(examples.inputs)[0], BYTES) and for_people(examples.inputs)[1] == ""


def test_one_mean_and_deviation_go_for_all_channels():
    items = [BYTES[at].float().div(255).sub(0.5).div(0.25) for at in range(6)]
    examples = examples_from_dataset(Items(list(zip(items, range(6), strict=True))), mean=[0.5], std=(0.25,))
    assert examples.mean == (0.5,) * 3 and torch.equal(examples.prepared(examples.inputs), torch.stack(items))
    assert torch.equal(for_people(examples.inputs)[0], BYTES)


def test_what_was_never_normalised_stays():
    fractions = BYTES.float() / 255
    for inputs in (fractions, fractions * 1000, BYTES):
        examples = examples_from_dataset(Items(list(zip(inputs, range(6), strict=True))), mean=MEAN, std=STD)
        assert torch.equal(examples.inputs, inputs)


def test_items_of_any_form_are_told_by_item():
    rows = [{"image": image, "label": label} for image, label in zip(BYTES, range(6), strict=True)]
    with pytest.raises(UsageError, match=r'Item 0 of Items is a dict; .* item=lambda row: \(row\["image"\], row\["label"\]\)'):
        examples_from_dataset(Items(rows))
    examples = examples_from_dataset(Items(rows), item=lambda row: (row["image"], row["label"]))
    assert torch.equal(examples.inputs, BYTES) and examples.labels.tolist() == list(range(6))
    with pytest.raises(UsageError, match=r"item= fails on item 0 of Items, a dict \(KeyError: 'picture'\)"):
        examples_from_dataset(Items(rows), item=lambda row: (row["picture"], row["label"]))


def test_arrays_with_channels_last_are_turned():
    for images in (BYTES.repeat(1, 1, 2, 1).numpy(), BYTES.repeat(1, 1, 2, 1).numpy() / np.float32(255)):
        last = images.transpose(0, 2, 3, 1)
        for given in (last, torch.from_numpy(last)):
            turned = examples_from_dataset(Items(list(zip(given, range(6), strict=True))))
            assert np.array_equal(turned.inputs.numpy(), images)


def test_every_kind_of_pil_image_of_eight_bits():
    colour = Image.fromarray(BYTES[0].numpy().transpose(1, 2, 0))
    for mode, channels in (("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)):
        pair = [(colour.convert(mode), 0), (colour.rotate(180).convert(mode), 1)]
        assert examples_from_dataset(Items(pair)).shape == (channels, 5, 4)
    with pytest.raises(UsageError, match="of more than 8 bits"):
        examples_from_dataset(Items([(Image.fromarray(np.ones((2, 2), np.uint16)), 0)]))


def test_short_floats_are_as_they_are_worth():
    for kind in (torch.bfloat16, torch.float16):
        rows = ROWS.to(kind)
        assert torch.equal(examples_from_dataset(Items(list(zip(rows, LABELS, strict=True)))).inputs, rows.float())


def test_items_of_texts_and_of_plain_cells_are_rows_to_read():
    texts, labels = ["good", "bad", "<b>", "fine"], LABELS.tolist()
    pairs = examples_from_dataset(Items(list(zip(texts, labels, strict=True)), ["ant", "bee", "cat"]))
    assert pairs.rows == (("good",), ("bad",), ("<b>",), ("fine",)) and pairs.columns == ("text",)
    assert not pairs.has_numbers and pairs.class_names == ("ant", "bee", "cat") and pairs.labels.tolist() == labels
    fields = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    for made in (
        examples_from_dataset(Items(fields)),
        examples_from_dataset(Items(fields), item=lambda row: (row["text"], row["label"])),
        examples_from_dataset(Items([({"text": text}, label) for text, label in zip(texts, labels, strict=True)])),
    ):
        assert made.rows == pairs.rows and made.columns == ("text",) and made.labels.tolist() == labels
    cells = [{"age": torch.tensor(20 + at), "job": job, "labels": at % 2} for at, job in enumerate(("a", None, "c"))]
    subset = examples_from_dataset(Subset(Items(cells), [2, 1]))
    assert subset.columns == ("age", "job") and subset.rows == (("22", "c"), ("21", "")) and list(subset.ids) == [2, 1]
    numbers = examples_from_dataset(Items([({"age": at, "size": at / 2}, at % 2) for at in range(4)]))
    assert numbers.inputs.tolist() == [[0, 0], [1, 0.5], [2, 1], [3, 1.5]] and numbers.rows[1] == ("1", "0.5")


@pytest.mark.slow
def test_a_dataset_of_hugging_face_is_read_as_it_is():
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "source": [1, 2, 3, 4], "label": [0, 1, 0, 1]})
    examples = examples_from_dataset(made)
    assert examples.columns == ("text", "source") and examples.rows[3] == ("d", "4") and examples.labels.tolist() == [0, 1, 0, 1]
