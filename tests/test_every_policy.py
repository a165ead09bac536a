"""Laws that hold for every policy, shipped or new; and the proof that each law can fail."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scores import Direction, Scores
from assay.core.selection import AbstractSelector, Pool, choose
from assay.experiments.trials import arms
from assay.policies import catalogue, parse
from assay.policies.random import Random
from assay.runs.artefacts import load_decision, save_decision
from assay.testing.laws import broken_laws, refusal
from exports import exported
from faulty.policies import FAULTY, SOUND, Drawn
from policies.worlds import Recorded

EXAMPLES, EPOCHS, CLASSES = 60, 4, 3
KEEPS = (0.0, 0.1, 0.2, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One policy class with options; keep and seed are set by the laws."""

    cls: type[AbstractSelector]
    options: dict

    @property
    def fields(self) -> set[str]:
        return {field.name for field in dataclasses.fields(self.cls)}

    @property
    def keeps(self) -> list[float]:
        """The budgets that these options leave room for."""
        taken = self.options.get("start", 0) + self.options.get("cutoff", 0)
        return [keep for keep in KEEPS if keep + taken <= 1]

    def make(self, keep=0.4, seed=0) -> AbstractSelector:
        given = {name: value for name, value in (("keep", keep), ("seed", seed)) if name in self.fields}
        return self.cls(**given, **self.options)


@dataclasses.dataclass(frozen=True)
class World:
    """Scores with many ties, three classes of unequal size, and what the run recorded; the examples in no order."""

    ids: Ids
    values: torch.Tensor
    labels: torch.Tensor
    target_probs: torch.Tensor
    mean_probs: torch.Tensor
    inputs: torch.Tensor

    def take(self, order) -> "World":
        return World(
            self.ids.take(order),
            self.values[order],
            self.labels[order],
            self.target_probs[:, order],
            self.mean_probs[order],
            self.inputs[order],
        )

    @property
    def scores(self) -> Scores:
        return Scores(self.ids, self.values, "made", {}, "made", Direction.HIGH_IS_SUSPECT, "none")

    def evidence(self, holds=frozenset(Need)) -> Evidence:
        return Evidence(
            self.ids,
            CLASSES,
            labels=self.labels if Need.LABELS in holds else None,
            epochs=Recorded(self.target_probs) if Need.TARGET_PROBS in holds else None,
            mean_probs=self.mean_probs if Need.MEAN_PROBS in holds else None,
            inputs={"": self.inputs, "other": self.inputs.flip(1).square()} if Need.FEATURES in holds else None,
        )

    def decide(self, policy):
        return choose(policy, self.scores_for(policy), self.evidence())

    def scores_for(self, policy):
        return self.scores if policy.needs_score or policy.ignores_score else None


def world() -> World:
    draw = np.random.default_rng(7)
    probs = torch.from_numpy(draw.dirichlet(np.ones(CLASSES), (EPOCHS, EXAMPLES)))
    labels = torch.from_numpy(draw.permutation(np.repeat([0, 1, 2], [31, 18, 11])))
    return World(
        ids=Ids(draw.choice(10_000, EXAMPLES, replace=False) - 500),
        values=torch.from_numpy(draw.integers(1, 10, EXAMPLES) / 10),
        labels=labels,
        target_probs=probs[:, torch.arange(EXAMPLES), labels],
        mean_probs=probs.mean(0),
        inputs=torch.from_numpy(draw.integers(0, 4, (EXAMPLES, 2, 2)).astype(np.float32)),
    )


CLUSTERS = (20, 12, 8, 6, 5, 4, 3, 2)
"""How many examples stand near to each other, each group of them far from the others."""


def clustered() -> tuple[World, torch.Tensor]:
    """The same examples in clusters, of which each holds one class; and the cluster of each."""
    here, draw = world(), np.random.default_rng(1)
    cluster = torch.from_numpy(draw.permutation(np.repeat(np.arange(len(CLUSTERS)), CLUSTERS)))
    centers = 100 * torch.eye(len(CLUSTERS))
    inputs = (centers[cluster] + torch.from_numpy(draw.normal(size=(EXAMPLES, len(CLUSTERS))))).float()
    return dataclasses.replace(here, labels=cluster % CLASSES, inputs=inputs), cluster


def exact_count(case):
    for keep in case.keeps:
        decision = world().decide(case.make(keep))
        assert decision.budget == math.floor(keep * EXAMPLES + 1e-9), keep


def budgets_nest(case):
    smaller = set()
    for keep in case.keeps:
        kept = set(world().decide(case.make(keep)).kept_ids)
        assert smaller <= kept, keep
        smaller = kept


def nothing_and_all(case):
    assert world().decide(case.make(0.0)).budget == 0
    assert world().decide(case.make(max(case.keeps))).budget == math.floor(max(case.keeps) * EXAMPLES + 1e-9)


def ties_break_by_id(case):
    here = world()
    level = dataclasses.replace(
        here,
        values=torch.full_like(here.values, 0.5),
        mean_probs=torch.eye(CLASSES, dtype=torch.float64)[(here.labels + 1) % CLASSES],
        inputs=torch.ones_like(here.inputs),
    )
    decision = level.decide(case.make(0.4))
    chosen = decision.touched if bool(decision.kept.all()) else decision.kept
    groups = level.labels if Need.LABELS in case.make().reads and "keep" in case.fields else torch.zeros(EXAMPLES)
    for group in groups.unique():
        sorted_ids = torch.argsort(level.ids.ranks)
        row = chosen[sorted_ids][groups[sorted_ids] == group]
        assert int((row.int().diff() != 0).sum()) <= 2, "equal values are not taken as one run of sorted ids"
        if "start" not in case.options:
            assert bool(row[0]) and not bool(row[-1])


def nan_is_refused(case):
    here, broken = world(), {}
    reads = case.make().reads
    if here.scores_for(case.make()) is not None:
        broken["values"] = here.values.clone()
        broken["values"][5] = math.nan
    if Need.FEATURES in reads:
        broken["inputs"] = here.inputs.clone()
        broken["inputs"][5, 0] = math.nan
    if Need.MEAN_PROBS in reads:
        broken["mean_probs"] = here.mean_probs.clone()
        broken["mean_probs"][5, 1] = math.nan
    if Need.TARGET_PROBS in reads:
        broken["target_probs"] = here.target_probs.clone()
        broken["target_probs"][1, 5] = math.nan
    for name, values in broken.items():
        with refusal(UsageError):
            dataclasses.replace(here, **{name: values}).decide(case.make())


def same_call_same_decision(case):
    one, two = world().decide(case.make(seed=3)), world().decide(case.make(seed=3))
    assert one.fingerprint == two.fingerprint and one.reasons == two.reasons


def another_seed_differs(case):
    assert len({world().decide(case.make(seed=seed)).fingerprint for seed in range(5)}) == 5


def order_does_not_matter(case):
    here = world()
    base = here.decide(case.make())
    for seed in range(3):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(EXAMPLES))
        again = here.take(order).decide(case.make())
        assert again.ids == base.ids.take(order)
        assert torch.equal(again.actions, base.actions[order])
        assert torch.equal(again.labels, base.labels[order])
        assert torch.equal(again.weights, base.weights[order])
        assert again.reasons == tuple(base.reasons[i] for i in order)


def keep_outside_is_refused(case):
    for keep in (-0.1, -1e-9, 1.0001, 2.0, math.nan, math.inf):
        with refusal(UsageError, "keep"):
            case.make(keep)


def input_is_untouched(case):
    here, before = world(), world()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
    here.decide(case.make())
    assert here.ids == before.ids
    for name in ("values", "labels", "target_probs", "mean_probs", "inputs"):
        assert torch.equal(getattr(here, name), getattr(before, name)), name
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1]) and np.random.get_state()[2] == states[2]


def string_ids_work(case):
    here = world()
    named = dataclasses.replace(here, ids=Ids([f"photo {rank:03d}.png" for rank in here.ids.ranks.tolist()]))
    by_name, by_number = named.decide(case.make()), here.decide(case.make())
    assert all(isinstance(one, str) for one in by_name.kept_ids)
    assert by_name.budget == by_number.budget
    if "seed" not in case.fields:
        assert torch.equal(by_name.actions, by_number.actions)


def reads_what_it_declares(case):
    full = world().decide(case.make())
    bare = choose(case.make(), world().scores_for(case.make()), world().evidence(case.make().reads))
    assert bare.fingerprint == full.fingerprint


def the_order_is_that_of_the_budgets(case):
    """The first k of a larger decision's order are what a budget of k keeps, in its order."""
    whole = world().decide(case.make(max(case.keeps))).order
    for keep in case.keeps:
        decision = world().decide(case.make(keep))
        assert (decision.order is None) == (whole is None), keep
        if whole is not None:
            assert decision.order == whole[: decision.budget] and set(decision.order) == set(decision.kept_ids), keep


def weights_survive_to_retraining(case):
    """What is trained on is what was selected: to the file and back, in the arm of the decision, and as many such weights in its control."""
    here, policy = world(), case.make()
    view = here.evidence().narrow(policy.title, policy.reads)
    selection, decision = policy.select(Pool(here.ids, view, here.scores_for(policy))), here.decide(policy)
    weights = torch.ones(EXAMPLES, dtype=torch.float64) if selection.weights is None else selection.weights
    with tempfile.TemporaryDirectory() as folder:
        save_decision(decision, Path(folder) / "decision.parquet")
        back = load_decision(Path(folder) / "decision.parquet")
    assert back.fingerprint == decision.fingerprint and back.order == decision.order
    treated, control, _ = arms(back, here.labels, seed=0)
    assert treated.ids == here.ids.take(selection.kept) and torch.equal(treated.weights, weights[selection.kept])
    assert torch.equal(control.weights.sort().values, treated.weights.sort().values)


def clusters_are_covered(case):
    """As many examples as there are clusters come from more of them than those of a random choice do."""
    here, cluster = clustered()
    budget = len(CLUSTERS) / EXAMPLES
    covered = len(cluster[here.decide(case.make(budget)).kept].unique())
    drawn = [len(cluster[here.decide(Random(budget, seed)).kept].unique()) for seed in range(20)]
    assert covered > np.mean(drawn) + 1


def budgeted(case):
    return "keep" in case.fields


LAWS = {
    exact_count: budgeted,
    budgets_nest: lambda case: budgeted(case) and case.cls.nests,
    nothing_and_all: budgeted,
    ties_break_by_id: lambda case: "seed" not in case.fields and case.cls.name != "threshold",
    nan_is_refused: lambda case: True,
    same_call_same_decision: lambda case: True,
    another_seed_differs: lambda case: "seed" in case.fields,
    order_does_not_matter: lambda case: True,
    keep_outside_is_refused: budgeted,
    input_is_untouched: lambda case: True,
    string_ids_work: lambda case: True,
    reads_what_it_declares: lambda case: True,
    the_order_is_that_of_the_budgets: lambda case: budgeted(case) and case.cls.nests,
    weights_survive_to_retraining: lambda case: True,
    clusters_are_covered: lambda case: budgeted(case) and bool(case.make().asks.features),
}
"""Each law, and which policies it speaks of."""

CASES = {
    f"{name}-{i}": Case(cls, options)
    for name, cls in catalogue().items()
    for i, options in enumerate(exported("policies", name, "VARIANTS"))
}


@pytest.mark.parametrize(
    ("law", "case"),
    [
        pytest.param(law, case, id=f"{law.__name__}-{name}")
        for law, applies in LAWS.items()
        for name, case in CASES.items()
        if applies(case)
    ],
)
def test_law(law, case):
    law(case)


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.__name__)
def test_the_laws_pass_what_the_faulty_ones_are_made_from(cls):
    assert broken_laws(LAWS, Case(cls, {})) == {}


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_every_faulty_policy_is_caught(cls):
    assert FAULTY[cls] in broken_laws(LAWS, Case(cls, {}))


def test_every_law_catches_a_faulty_policy():
    assert set(FAULTY.values()) == {law.__name__ for law in LAWS}


@pytest.mark.parametrize("given", [{"keep": "0.3"}, {"keep": None}, {"keep": True}, {"seed": "1"}, {"seed": 0.5}, {"seed": None}])
def test_options_of_another_type_are_refused(given):
    # On a policy of the tests, because the run-time type checker of the tests watches the shipped ones and is faster.
    with pytest.raises(UsageError, match=next(iter(given))):
        Drawn(**{"keep": 0.3, "seed": 1, **given})


@pytest.mark.parametrize("name", catalogue())
def test_every_policy_says_where_it_comes_from(name):
    cls = catalogue()[name]
    assert cls.name == name and cls.source.cite and cls.source.url.startswith("https://") and cls.source.departures
    assert cls.__doc__ and cls.__doc__ != "" and not cls.__doc__.startswith(cls.__name__ + "(")
    assert isinstance(cls.nests, bool) and all(
        isinstance(case.make().reads, frozenset) for case in CASES.values() if case.cls is cls
    )


@pytest.mark.parametrize("spec", [f"{name}:{text}" for name in catalogue() for text in exported("policies", name, "REFUSED", [])])
def test_options_out_of_range_are_refused(spec):
    name, _, options = spec.partition(":")
    with pytest.raises(UsageError, match="|".join([name, *(one.partition("=")[0] for one in options.split(","))])):
        parse(spec)
