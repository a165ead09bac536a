"""Budgets of every policy that has one: a fraction, a count, and shares of the classes."""

import dataclasses

import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.policies import catalogue
from assay.policies.per_class import class_budgets
from assay.testing.selectors import EXAMPLES, Case, world
from exports import exported

CASES = {
    f"{name}-{i}": Case(cls, options)
    for name, cls in catalogue().items()
    for i, options in enumerate(exported("policies", name, "VARIANTS"))
    if "keep" in {field.name for field in dataclasses.fields(cls)}
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_whole_number_is_the_count_that_a_fraction_comes_to(case):
    for keep, count in ((0.4, 24), (0.1, 6), (0.0, 0)):
        by_part, by_count = (world().decide(case.make(one)) for one in (keep, count))
        assert by_count.budget == count and torch.equal(by_part.actions, by_count.actions) and by_part.order == by_count.order
    for wrong in (-1, EXAMPLES + 1):
        with pytest.raises(UsageError, match=r"keep|ranks"):
            world().decide(case.make(wrong))


BY_CLASS = [
    ("window", {"start": 0.2, "by_class": True}, {"start": 0.2}),
    ("ccs", {"seed": 0, "cutoff": 0.2, "strata": 3, "by_class": True}, {"seed": 0, "cutoff": 0.2, "strata": 3}),
    ("beta", {"seed": 0, "by_class": True}, None),
    ("random", {"seed": 0, "stratified": True}, {"seed": 0}),
    ("per_class", {}, None),
]


@pytest.mark.parametrize(("name", "given", "plain"), BY_CLASS)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8, 7, 30])
def test_classes_give_in_proportion(name, given, plain, keep):
    """By class each gives its share to less than one example; without, some class does not."""
    here, cls = world(), catalogue()[name]
    share = torch.bincount(here.labels).double() * (keep if isinstance(keep, float) else keep / EXAMPLES)

    def apart(options):
        decision = choose(cls(keep=keep, **options), here.scores, here.evidence())
        return float((torch.bincount(here.labels[decision.kept], minlength=3) - share).abs().max())

    assert apart(given) < 1 + 1e-9
    if plain is not None and keep == 0.5:
        assert apart(plain) > 1


def test_a_class_is_cut_and_divided_by_itself():
    """In each class the policy by class chooses what the plain policy chooses of that class alone with its share."""
    here = world()
    for name, given in (("window", {"start": 0.25}), ("ccs", {"seed": 0, "cutoff": 0.25, "strata": 3})):
        cls = catalogue()[name]
        decision = choose(cls(keep=20, by_class=True, **given), here.scores, here.evidence())
        for label in range(3):
            mine = (here.labels == label).nonzero().flatten()
            alone, count = here.take(mine), int(decision.kept[mine].sum())
            assert torch.equal(choose(cls(keep=count, **given), alone.scores, alone.evidence()).kept, decision.kept[mine])


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("budget", [0, 1, 7, 59, 60])
def test_class_budgets_of_a_count_by_largest_remainder(budget, fill):
    counts = torch.tensor([31, 18, 11])
    found, exact = class_budgets(counts, budget, fill), [budget * count / 60 for count in counts.tolist()]
    assert all(int(share) <= one <= int(share) + fill for one, share in zip(found.tolist(), exact, strict=True))
    assert int(found.sum()) == budget or not fill
    if fill:
        rest = [share - int(share) for share in exact]
        added = [rest[k] for k in range(3) if int(found[k]) > int(exact[k])]
        assert not added or min(added) >= max([rest[k] for k in range(3) if int(found[k]) == int(exact[k])], default=0)


def test_so_many_of_each_class():
    here = world()
    decision = choose(catalogue()["per_class"](keep=12, each=True), here.scores, here.evidence())
    assert torch.bincount(here.labels[decision.kept]).tolist() == [12, 12, 11]
    assert decision.title == "per_class:keep=12,each=True by made" and "in the highest 12 of its class" in " ".join(
        decision.reasons
    )


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in CASES.items() if getattr(case.make(), "by_class", False)]
)
def test_classes_of_which_a_small_budget_keeps_nothing_are_named(case):
    decision = world().decide(case.make(1))
    absent = {0, 1, 2} - set(world().labels[decision.kept].tolist())
    assert decision.budget == 1 and len(absent) == 2
    assert any(words.startswith("Nothing of 2 classes") and "budget of 1 " in words for words in decision.warnings)
    assert not any("Nothing of" in words for words in world().decide(case.make(20)).warnings)
