import dataclasses

import pytest

from assay import data
from assay.core import options
from assay.core.errors import UnknownName, UsageError
from assay.data.dataset import AbstractDataset


def test_every_reader_is_found():
    expected = (
        "adult arrays cifar10 cifar100 digits fashion_mnist folder imagenet mnist newsgroups stl10 svhn table tiny_imagenet"
    )
    assert " ".join(data.catalogue()) == expected


@pytest.mark.parametrize("cls", data.catalogue().values(), ids=lambda cls: cls.name)
def test_a_dataset_is_a_frozen_value_with_a_summary_of_one_line(cls):
    assert issubclass(cls, AbstractDataset) and cls.__dataclass_params__.frozen
    assert cls.summary and "\n" not in cls.summary and len(cls.summary) < 110


@pytest.mark.parametrize("cls", data.catalogue().values(), ids=lambda cls: cls.name)
def test_every_option_is_described(cls):
    text = cls.__doc__ or ""
    assert [field.name for field in dataclasses.fields(cls) if f"{field.name}:" not in text] == []


def test_unknown_name_has_the_nearest():
    with pytest.raises(UnknownName, match=r"No dataset is named 'cifar'\. Did you mean cifar10"):
        data.find("cifar")


def test_parse_reads_texts_as_the_types_of_the_options():
    dataset = data.parse("cifar10:path=some/folder,labels=worse_label,limit=10000")
    assert dataset == data.find("cifar10")(path="some/folder", labels="worse_label", limit=10000)
    assert dataset.title == "cifar10:path=some/folder,labels=worse_label,limit=10000"
    assert data.parse(dataset.title) == dataset
    assert data.parse(dataset) is dataset
    assert data.parse("folder:path=x", {"test": "0.25"}).test == 0.25


def test_a_table_is_split_by_a_fraction_or_by_a_file():
    assert data.parse("table:path=a.csv,label=-1,test=0.25").test == 0.25
    given = data.parse("table:path=a.csv,label=income,test=b.csv,id=0")
    assert (given.label, given.test, given.id) == ("income", "b.csv", 0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mnist", "needs a value for path"),
        ("mnist:path=x,limits=3", "Did you mean limit"),
        ("mnist:path=x,limit=many", "not a whole number or none"),
        ("folder:path=x,colours=sepia", "'rgb' or 'grey'"),
    ],
)
def test_wrong_options_are_refused(spec, words):
    with pytest.raises(UsageError, match=words):
        data.parse(spec)


def test_options_split_and_join_are_inverse_for_titles():
    assert options.split(data.parse("digits:test=300").title) == ("digits", {"test": "300"})
