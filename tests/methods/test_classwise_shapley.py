"""Class-wise Shapley: against the paper's formula over all subsets and orders."""

import itertools

import pytest
import torch

from assay.core.game import Valuation
from assay.core.held_out import HeldOutRows
from assay.core.ids import Ids
from assay.core.scoring import score
from assay.experiments.games import game_of
from assay.methods.classwise_shapley import ClasswiseShapley, classwise_shapley
from assay.testing.worlds import six
from methods.game_worlds import evidence, planted

VARIANTS = [{"learner": "knn:k=3", "samples": 4, "utility": "prob"}]
"""Options that the laws run it with."""

REFUSED = ["samples=1", "error=-1", "utility=log_prob"]
"""Options that are refused."""


def by_formula(game, labels):
    """The mean over all subsets of the other classes and all orders of an example's own."""
    found = torch.zeros(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        mine, others = (mask.nonzero().flatten().tolist() for mask in (labels == label, labels != label))

        def worth(members, label=label):
            mask = torch.zeros(1, len(labels), dtype=torch.bool)
            mask[0, list(members)] = True
            parts = game.class_values(mask)[0]
            return float(parts[label] * (parts.sum() - parts[label]).exp())

        subsets = [part for size in range(len(others) + 1) for part in itertools.combinations(others, size)]
        orders = list(itertools.permutations(mine))
        for beside in subsets:
            for order in orders:
                for place, one in enumerate(order):
                    rise = worth((*beside, *order[: place + 1])) - worth((*beside, *order[:place]))
                    found[one] += rise / len(subsets) / len(orders)
    return found


def BRUTE(inputs, labels, method):
    held = HeldOutRows.alike(*six().held_out)
    game = game_of(Ids(range(len(labels))), inputs, labels, 2, method.learner, Valuation(held, method.utility))
    return by_formula(game, labels)


def test_the_pure_function_by_hand():
    found = classwise_shapley(torch.tensor([0.0, 0.2, 0.1]), torch.tensor([0.5, 0.5, 0.0]))
    e = torch.tensor(0.5, dtype=torch.float64).exp()
    torch.testing.assert_close(found, torch.stack([0.2 * e, 0.1 - 0.2 * e]), rtol=1e-7, atol=1e-7)


def test_values_by_class_add_up_to_the_value():
    rows, labels, held = planted()
    for utility in ("accuracy", "prob", "log_prob"):
        game = game_of(Ids(range(24)), rows, labels, 3, "knn", Valuation(HeldOutRows.alike(*held), utility))
        masks = torch.rand(5, 24, generator=torch.Generator().manual_seed(0)) < 0.5
        parts = game.class_values(masks)
        assert parts.shape == (5, 3)
        torch.testing.assert_close(parts.sum(1), game.values(masks), rtol=1e-12, atol=1e-12)
    # The accuracy on a class, as a share of all held-out examples.
    game = game_of(Ids(range(24)), rows, labels, 3, "ridge", Valuation(HeldOutRows.alike(*held)))
    right = game.predictions(masks)[:, 24:].argmax(2) == held[1]
    expected = torch.stack([(right & (held[1] == label)).double().sum(1) / 60 for label in range(3)], 1)
    torch.testing.assert_close(game.class_values(masks), expected, rtol=1e-12, atol=1e-12)


def test_the_values_of_a_class_add_up_to_its_mean_rise_and_wrong_labels_are_low():
    rows, labels, held = planted()
    (found,) = score([ClasswiseShapley(learner="knn:k=3", samples=40)], evidence(rows, labels, held))
    wrong = torch.zeros(24, dtype=torch.bool)
    wrong[::6] = True
    assert float((found.values[wrong][:, None] < found.values[~wrong]).double().mean()) > 0.9
    # None of a class is predicted before its first example.
    assert bool((found.values[~wrong] > -0.01).all()) and found.unit.startswith("mean change of a exp(b)")
    early = score([ClasswiseShapley(learner="knn:k=3", samples=400, error=0.05)], evidence(rows, labels, held))[0]
    assert 8 <= early.diagnostics["samples"] < 400 and early.diagnostics["standard error: largest"] <= 0.05


def test_renamed_classes_draw_the_same():
    rows, labels, held = planted()
    name = torch.tensor([1, 2, 0])
    one = score([ClasswiseShapley(learner="knn:k=3", samples=4)], evidence(rows, labels, held))[0]
    other = score([ClasswiseShapley(learner="knn:k=3", samples=4)], evidence(rows, name[labels], (held[0], name[held[1]])))[0]
    torch.testing.assert_close(one.values, other.values, rtol=1e-12, atol=1e-12)
    assert one.values.std() > 0 and pytest.approx(float(one.values[-1] - one.values[-2]), abs=0.2) == 0
