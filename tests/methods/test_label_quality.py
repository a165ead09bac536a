"""Label quality: by hand, at its edges, and what it says of probabilities in sample."""

import math

import numpy as np
import pytest
import torch

import assay
from assay.core.ids import Ids
from assay.methods.label_quality import label_quality

VARIANTS = [{}, {"form": "normalized_margin", "adjust": True}, {"form": "confidence_weighted_entropy"}]
REFUSED = ["form=entropy", "adjust=maybe", "adjust=True,form=confidence_weighted_entropy"]
PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 1])


def test_by_hand():
    assert label_quality(PROBS, LABELS).tolist() == [0.7, 0.4, 0.0, 1.0]
    torch.testing.assert_close(label_quality(PROBS, LABELS, "normalized_margin"), torch.tensor([0.75, 0.55, 0.0, 1.0]).double())
    entropy = label_quality(PROBS, LABELS, "confidence_weighted_entropy")
    x = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1)) / math.log(3) / 0.7
    assert float(entropy[0]) == pytest.approx(math.log(1 + x) / x, rel=1e-12)
    # Certain of another class, and certain of the label.
    assert entropy[2:].tolist() == [0.0, 1.0]


def test_the_nearer_to_certain_the_better_by_entropy():
    sure = torch.tensor([1e-3, 1e-6, 1e-9, 1e-12, 0.0], dtype=torch.float64)
    found = label_quality(torch.stack([1 - sure, sure], 1), torch.zeros(5, dtype=torch.int64), "confidence_weighted_entropy")
    assert bool((found.diff() >= 0).all()) and float(found[2]) > 0.999999
    found = label_quality(torch.stack([1 - sure, sure], 1), torch.ones(5, dtype=torch.int64), "confidence_weighted_entropy")
    assert bool((found.diff() <= 0).all()) and float(found[-1]) == 0


def test_adjusted_by_hand():
    bounds = [(0.7) / 1, (0.0 + 1.0) / 2, 0.4]
    rows = []
    for row in PROBS.tolist():
        shifted = [p - bound + max(bounds) for p, bound in zip(row, bounds, strict=True)]
        rows.append([one / sum(shifted) for one in shifted])
    expected = torch.tensor([row[label] for row, label in zip(rows, LABELS.tolist(), strict=True)], dtype=torch.float64)
    torch.testing.assert_close(label_quality(PROBS, LABELS, adjust=True), expected)
    # The second class has no example: its probability stays what it is, up to the sum.
    few = label_quality(PROBS[:2], LABELS[:2], adjust=True)
    assert bool(few.isfinite().all()) and bool((few >= 0).all())


def test_in_sample_is_said_and_held_out_is_not(tmp_path):
    draw = np.random.default_rng(0)
    probs, labels = draw.dirichlet(np.ones(3), 40), draw.integers(0, 3, 40)
    for kind, said in (("out_of_fold", False), ("out_of_bag", False), ("evaluation", True)):
        run = assay.from_probs(tmp_path / kind, probs, labels, kind=kind)
        (found,) = assay.score(run, "label_quality").values()
        assert bool(found.warnings) == said
        torch.testing.assert_close(found.values, torch.from_numpy(probs[np.arange(40), labels]), rtol=1e-6, atol=1e-6)
    assert "record by folds" in found.warnings[0]
    evidence = assay.gather_logits(Ids(range(40)), torch.from_numpy(np.log(probs))[None], torch.from_numpy(labels))
    assert assay.score(evidence, "label_quality")["label_quality"].warnings
