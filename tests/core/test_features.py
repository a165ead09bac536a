"""Texts that name features, and features that are there: the data and rows from outside."""

import pytest
import torch

from assay.core import features
from assay.core.errors import MissingEvidence, UndeclaredNeed, UsageError
from assay.core.evidence import Evidence
from assay.core.features import FeatureSpec
from assay.core.ids import Ids
from assay.core.needs import Need

IDS = Ids(["a", "b", "c"])


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("inputs", FeatureSpec("inputs")),
        # What a user's rows are called is the user's own affair.
        ("rows:clip@2:x", FeatureSpec("rows", "clip@2:x")),
        ("penultimate", FeatureSpec("penultimate")),
        ("penultimate@0", FeatureSpec("penultimate", epoch=0)),
        ("layer:a.b#2@13", FeatureSpec("layer", "a.b#2", epoch=13)),
        ("head_grads@7", FeatureSpec("head_grads", epoch=7)),
        ("grads:project=512", FeatureSpec("grads", project=512)),
        ("grads:project=1@4", FeatureSpec("grads", project=1, epoch=4)),
    ],
)
def test_a_text_is_read_and_written_the_same(text, spec):
    assert FeatureSpec.parse(text) == spec and str(spec) == text
    assert spec.of_a_model == (spec.kind not in ("inputs", "rows"))


@pytest.mark.parametrize(
    "text",
    ["", "input", "rows", "rows:", "layer", "layer:", "layer:@3", "penultimate@", "penultimate@-1", "penultimate@1.0", "penultimate@\u0663",
     "head_grads:x", "grads", "grads:512", "grads:project=", "grads:project=0", "grads:project=-3", "inputs@0", " penultimate", "@3"],
)  # fmt: skip
def test_every_other_text_is_refused(text):
    with pytest.raises(UsageError, match=r"^features=.*; give"):
        FeatureSpec.parse(text)


@pytest.fixture
def inputs():
    return {"": torch.arange(12.0).view(3, 2, 2), "e": torch.eye(3, dtype=torch.float64)}


def test_the_data_and_rows_are_features(inputs, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 2)
    evidence = Evidence(IDS, 2, inputs=inputs)
    data, rows = evidence.features("inputs"), evidence.features(FeatureSpec("rows", "e"))
    assert (data.dims, rows.dims) == (4, 3) and data.ids == rows.ids == IDS
    assert torch.equal(data.rows(), torch.arange(12.0).view(3, 4)) and rows.rows().dtype == torch.float64
    assert [part for part, _ in data.blocks()] == [slice(0, 2), slice(2, 4)]
    # A reader may write into what it reads, while others read.
    for (_, one), (_, other) in zip(data.blocks(), data.blocks(), strict=True):
        one.zero_()
        assert bool(other.any())
    data.rows().zero_()
    assert torch.equal(data.rows(), torch.arange(12.0).view(3, 4))


def test_a_fingerprint_is_of_the_numbers(inputs, monkeypatch):
    def of(spec, **other):
        return Evidence(IDS, 2, inputs={**inputs, **other}).features(spec).fingerprint

    first = of("inputs")
    monkeypatch.setattr(features, "BLOCK", 1)
    assert of("inputs") == first == of("rows:e", e=inputs[""])
    changed = inputs[""].clone()
    changed[2, 1, 1] += 1
    others = [
        of("rows:e"),
        of("rows:e", e=changed),
        of("rows:e", e=inputs[""].double()),
        of("rows:e", e=inputs[""].view(3, 4)[:, :2]),
    ]
    assert len({first, *others}) == 5


def test_rows_that_are_not_there_are_refused_with_a_cure(inputs):
    evidence = Evidence(IDS, 2, inputs=inputs[""])
    words = r"Rows of the name 'f' were not passed \(passed: none\); give inputs=\{'f': rows\}\."
    with pytest.raises(MissingEvidence, match=words):
        evidence.features("rows:f")
    given = Evidence(IDS, 2, inputs={"f": inputs["e"]}).features("rows:f")
    assert torch.equal(given.rows().unflatten(1, given.shape), inputs["e"])


def test_what_is_not_there_or_not_declared_is_refused(inputs):
    evidence = Evidence(IDS, 2, inputs={"e": inputs["e"]})
    with pytest.raises(MissingEvidence, match=r"The inputs of the examples were not passed \(passed: e\)"):
        evidence.features("inputs")
    with pytest.raises(MissingEvidence, match=r"Rows of the name 'f' were not passed \(passed: e\)"):
        evidence.features("rows:f")
    with pytest.raises(MissingEvidence, match=r"features=penultimate@3 are made by a model .* choose features=inputs"):
        evidence.features("penultimate@3")
    with pytest.raises(UndeclaredNeed, match="`features` was read but is not declared"):
        evidence.narrow("nobody", frozenset()).features("rows:e")
    with pytest.raises(MissingEvidence, match=r"knn needs features, which this run lacks \(features: score together with"):
        Evidence(IDS, 2).narrow("knn", frozenset({Need.FEATURES}))
