"""The laws that every selector that chooses once (a policy) must pass, ours and other people's."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.decision import Decision
from ..core.errors import UsageError
from ..core.evidence import Evidence, ReplayedFacts
from ..core.features import DATA, Features, FeatureSpec, given_features
from ..core.ids import Ids
from ..core.live_selection import AbstractLiveSelector
from ..core.models import Queries, StepSizes
from ..core.needs import Need
from ..core.scores import Direction, Scores
from ..core.selection import AbstractSelector, Pool, choose
from ..experiments.trials import arms
from ..maths import draws
from ..runs.artefacts import load_decision, save_decision
from .laws import Laws, a_frozen_dataclass_with_a_docstring, always, hold, hold_class, mistyped, refusal
from .linear import LinearSource
from .worlds import Facts

EXAMPLES, EPOCHS, CLASSES = 60, 4, 3
USUAL = 0.4
KEEPS = (0.0, 0.1, 0.2, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One policy class with options; keep and seed are set by the laws."""

    cls: type[AbstractSelector]
    options: Mapping[str, object]

    @property
    def fields(self) -> set[str]:
        """The names of its options."""
        return {field.name for field in dataclasses.fields(self.cls)}  # type: ignore[arg-type]

    @property
    def draws(self) -> bool:
        """Whether it draws at random: it has a seed, which is not left out."""
        seeds = [field.default for field in dataclasses.fields(self.cls) if field.name == "seed"]  # type: ignore[arg-type]
        return any(self.options.get("seed", default) is not None for default in seeds)

    @functools.cached_property
    def keeps(self) -> list[float]:
        """The budgets that these options allow, among them 0 and the one that `make` uses by default."""

        def fits(keep: float) -> bool:
            try:
                world().decide(self.make(keep))
            except UsageError:
                return False
            return True

        return [keep for keep in KEEPS if keep in (0.0, USUAL) or fits(keep)]

    def make(self, keep: float = USUAL, seed: int = 0) -> AbstractSelector:
        """The policy, with this budget and seed where it has such options."""
        given = {name: value for name, value in (("keep", keep), ("seed", seed if self.draws else None)) if name in self.fields}
        return self.cls(**{**self.options, **given})  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class KeptModel:
    """A kept model, the source of it and of its features: a linear layer that gives back what goes into it, which are the inputs."""

    ids: Ids
    inputs: Tensor
    epoch = 0
    kept: tuple[int, ...] = (0,)
    targets: tuple[str, ...] = ()
    head: tuple[str, ...] = ("head.weight",)

    @property
    def params(self) -> dict[str, Tensor]:
        """The layer's weights."""
        return {"head.weight": torch.eye(self.inputs.flatten(1).shape[1])}

    def at(self, epoch: int) -> "KeptModel":
        """The only model."""
        return self

    def features(self, spec: FeatureSpec) -> Features:
        """Logits, and what goes into the layer that makes them; other kinds are the same rows."""
        return dataclasses.replace(given_features(self.ids, {DATA: self.inputs}, FeatureSpec("inputs")), spec=spec)

    def queries(self, name: str) -> Queries:
        """There are no targets."""
        raise UsageError(f"There is no target {name!r}.")

    def step_sizes(self, epochs: range) -> StepSizes:
        """There were no steps."""
        return StepSizes({})

    def final_probs(self) -> Tensor:
        """Softmax of the logits."""
        return self.inputs.flatten(1).softmax(1)


@dataclasses.dataclass(frozen=True)
class World:
    """Scores with many ties, three classes of unequal size, and what the run recorded; the examples in no order."""

    ids: Ids
    values: Tensor
    labels: Tensor
    target_probs: Tensor
    mean_probs: Tensor
    inputs: Tensor

    def take(self, order: Tensor) -> "World":
        """The same examples in another order."""
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
        """The score that policies choose by."""
        return Scores(self.ids, self.values, "made", {}, "made", Direction.HIGH_IS_SUSPECT, "none")

    def evidence(self, holds: frozenset[Need] = frozenset(Need), *, targets: bool = False) -> Evidence:
        """The evidence of the examples, with these kinds of facts; with targets the kept model is a drawn one that has some."""
        model = KeptModel(self.ids, self.inputs)
        source = LinearSource(self.inputs, self.labels, CLASSES) if targets else model
        replayed = ReplayedFacts(
            checkpoints=source if Need.CHECKPOINTS in holds else None,  # type: ignore[arg-type]
            features=model if Need.FEATURES in holds else None,
        )
        return Evidence(
            self.ids,
            CLASSES,
            labels=self.labels if Need.LABELS in holds else None,
            epochs=Facts({Need.TARGET_PROBS: self.target_probs}) if Need.TARGET_PROBS in holds else None,
            mean_probs=self.mean_probs if Need.MEAN_PROBS in holds else None,
            inputs={"": self.inputs, "other": self.inputs.flip(1).square()} if Need.FEATURES in holds else None,
            replayed=replayed,
        )

    def decide(self, policy: AbstractSelector) -> Decision:
        """The decision of a policy on the examples."""
        return choose(policy, self.scores_for(policy), self.evidence(targets=has_targets(policy)))

    def scores_for(self, policy: AbstractSelector) -> Scores | None:
        """The score, for a policy that takes one."""
        return self.scores if policy.needs_score or policy.ignores_score else None


def has_targets(policy: AbstractSelector) -> bool:
    """Whether the policy asks for validation examples."""
    return bool(policy.asks.named_targets)


def world() -> World:
    """The examples, made anew each time, so that a policy that writes into them is detected."""
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
"""Sizes of the clusters, which are far from each other."""


def clustered() -> tuple[World, Tensor]:
    """The same examples in clusters, of which each holds one class; and the cluster of each."""
    here, draw = world(), np.random.default_rng(1)
    cluster = torch.from_numpy(draw.permutation(np.repeat(np.arange(len(CLUSTERS)), CLUSTERS)))
    centers = 100 * torch.eye(len(CLUSTERS))
    inputs = (centers[cluster] + torch.from_numpy(draw.normal(size=(EXAMPLES, len(CLUSTERS))))).float()
    return dataclasses.replace(here, labels=cluster % CLASSES, inputs=inputs), cluster


TWINS = 3
"""How often each example is there among duplicates."""


def duplicated(seed: int = 2) -> tuple[World, Tensor]:
    """The same examples as a few, each of which is there several times; and which one each is."""
    here, draw = world(), np.random.default_rng(seed)
    which = torch.from_numpy(draw.permutation(np.arange(EXAMPLES) // TWINS))
    inputs = torch.from_numpy(10 * draw.normal(size=(EXAMPLES // TWINS, 32)))[which].float()
    return dataclasses.replace(here, labels=which % CLASSES, values=here.values[which], inputs=inputs), which


def exact_count(case: Case) -> None:
    """It keeps floor(keep * examples)."""
    for keep in case.keeps:
        decision = world().decide(case.make(keep))
        assert decision.budget == math.floor(keep * EXAMPLES + 1e-9), keep


def budgets_nest(case: Case) -> None:
    """A larger budget keeps all that a smaller one keeps."""
    smaller = set[object]()
    for keep in case.keeps:
        kept = set[object](world().decide(case.make(keep)).kept_ids)
        assert smaller <= kept, keep
        smaller = kept


def nothing_and_all(case: Case) -> None:
    """A budget of nothing and the largest one work, and where one fits, smaller ones do."""
    assert case.keeps == list(KEEPS[: len(case.keeps)]), f"of the budgets {KEEPS} it takes {case.keeps}"
    assert world().decide(case.make(0.0)).budget == 0
    assert world().decide(case.make(max(case.keeps))).budget == math.floor(max(case.keeps) * EXAMPLES + 1e-9)


def ties_break_by_id(case: Case) -> None:
    """Of equal examples those with the smallest ids are kept, class by class if the policy reads labels."""
    here = world()
    level = dataclasses.replace(
        here,
        values=torch.full_like(here.values, 0.5),
        mean_probs=torch.eye(CLASSES, dtype=torch.float64)[(here.labels + 1) % CLASSES],
        inputs=torch.ones_like(here.inputs),
    )
    decision = level.decide(case.make(0.4))
    chosen = decision.touched if bool(decision.kept.all()) else decision.kept
    by_class = Need.LABELS in case.make().reads and ("keep" in case.fields or not case.make().needs_score)
    groups = level.labels if by_class else torch.zeros(EXAMPLES)
    if "keep" not in case.fields and (bool(chosen.all()) or not bool(chosen.any())):
        # By bounds, equal values go one way.
        return
    for group in groups.unique():
        sorted_ids = torch.argsort(level.ids.ranks)
        row = chosen[sorted_ids][groups[sorted_ids] == group]
        assert int((row.int().diff() != 0).sum()) <= 2, "equal values are not taken as one run of sorted ids"
        # A policy with an option `start` passes over the first ones.
        assert hasattr(case.make(), "start") or (bool(row[0]) and not bool(row[-1])), (
            "of equal values not the smallest ids are taken"
        )


def nan_is_refused(case: Case) -> None:
    """A fact or score that is no number is refused."""
    here, broken = world(), dict[str, Tensor]()
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
            dataclasses.replace(here, **{name: values}).decide(case.make())  # type: ignore[arg-type]


def same_call_same_decision(case: Case) -> None:
    """The same call gives the same decision with the same reasons."""
    one, two = world().decide(case.make(seed=3)), world().decide(case.make(seed=3))
    assert one.fingerprint == two.fingerprint and one.reasons == two.reasons


def another_seed_differs(case: Case) -> None:
    """Another seed gives another decision."""
    assert len({world().decide(case.make(seed=seed)).fingerprint for seed in range(5)}) == 5


def order_does_not_matter(case: Case) -> None:
    """The same examples in another order get the same decision."""
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


def keep_outside_is_refused(case: Case) -> None:
    """A budget outside 0..1 is refused when the policy is made."""
    for keep in (-0.1, -1e-9, 1.0001, 2.0, math.nan, math.inf):
        with refusal(UsageError, "keep"):
            case.make(keep)


def input_is_untouched(case: Case) -> None:
    """Scores, facts and random states stay as they were."""
    here, before = world(), world()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), np.random.get_state()[2]  # type: ignore[index, union-attr]
    here.decide(case.make())
    assert here.ids == before.ids
    for name in ("values", "labels", "target_probs", "mean_probs", "inputs"):
        assert torch.equal(getattr(here, name), getattr(before, name)), name
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and np.random.get_state()[2] == states[2]  # type: ignore[index, union-attr]


def string_ids_work(case: Case) -> None:
    """Ids may be texts, and change no decision where nothing is drawn."""
    here = world()
    named = dataclasses.replace(here, ids=Ids([f"photo {rank:03d}.png" for rank in here.ids.ranks.tolist()]))
    by_name, by_number = named.decide(case.make()), here.decide(case.make())
    assert all(isinstance(one, str) for one in by_name.kept_ids)
    assert by_name.budget == by_number.budget
    if not case.draws:
        assert torch.equal(by_name.actions, by_number.actions)


def reads_what_it_declares(case: Case) -> None:
    """Facts that the policy does not declare may be absent."""
    full = world().decide(case.make())
    policy = case.make()
    bare = choose(policy, world().scores_for(policy), world().evidence(policy.reads, targets=has_targets(policy)))
    assert bare.fingerprint == full.fingerprint


def the_order_is_that_of_the_budgets(case: Case) -> None:
    """The first k examples in the order of a larger decision are those that a budget of k keeps, in the same order."""
    whole = world().decide(case.make(max(case.keeps))).order
    for keep in case.keeps:
        decision = world().decide(case.make(keep))
        assert (decision.order is None) == (whole is None), keep
        if whole is not None and decision.order is not None:
            assert decision.order == whole[: decision.budget] and set(decision.order) == set(decision.kept_ids), keep


def weights_survive_to_retraining(case: Case) -> None:
    """Training uses the selected examples and weights, also after saving; its control uses as many examples with as many weights."""
    here, policy = world(), case.make()
    view = here.evidence(targets=has_targets(policy)).narrow(policy.title, policy.reads)
    selection, decision = policy.select(Pool(here.ids, view, here.scores_for(policy))), here.decide(policy)
    weights = torch.ones(EXAMPLES, dtype=torch.float64) if selection.weights is None else selection.weights
    with tempfile.TemporaryDirectory() as folder:
        save_decision(decision, Path(folder) / "decision.parquet")
        back = load_decision(Path(folder) / "decision.parquet")
    assert back.fingerprint == decision.fingerprint and back.order == decision.order
    treated, control, _ = arms(back, here.labels, seed=0)
    assert treated.ids == here.ids.take(selection.kept) and torch.equal(treated.weights, weights[selection.kept])
    assert torch.equal(control.weights.sort().values, treated.weights.sort().values)


def clusters_are_covered(case: Case) -> None:
    """With as many examples as clusters, the selection covers more clusters than a random one does."""
    here, cluster = clustered()
    budget = len(CLUSTERS)
    covered = len(cluster[here.decide(case.make(budget / EXAMPLES)).kept].unique())
    drawn = [len(cluster[draws.permutation(here.ids.keys, seed, "clusters")[:budget]].unique()) for seed in range(20)]
    assert covered > np.mean(drawn) + 1


def duplicates_are_passed_over(case: Case) -> None:
    """Where each example is there several times, the selection holds fewer duplicates than a random one does."""
    budget = EXAMPLES // TWINS
    distinct, drawn = [], []
    for here, which in (duplicated(2), duplicated(3), duplicated(4)):
        distinct.append(len(which[here.decide(case.make(budget / EXAMPLES)).kept].unique()))
        drawn += [len(which[draws.permutation(here.ids.keys, seed, "duplicates")[:budget]].unique()) for seed in range(20)]
    assert np.mean(distinct) > np.mean(drawn) + 1


def budgeted(case: Case) -> bool:
    """Whether the policy keeps a given fraction."""
    return "keep" in case.fields


def spreads(case: Case) -> bool:
    """Whether the policy keeps a given fraction and chooses examples that differ in their features."""
    return budgeted(case) and case.cls.spreads and bool(case.make().asks.features)


LAWS: Laws = {
    exact_count: budgeted,
    budgets_nest: lambda case: budgeted(case) and case.cls.nests,
    nothing_and_all: budgeted,
    ties_break_by_id: lambda case: not case.draws,
    nan_is_refused: always,
    same_call_same_decision: always,
    another_seed_differs: lambda case: case.draws,
    order_does_not_matter: always,
    keep_outside_is_refused: budgeted,
    input_is_untouched: always,
    string_ids_work: always,
    reads_what_it_declares: always,
    the_order_is_that_of_the_budgets: lambda case: budgeted(case) and case.cls.nests,
    weights_survive_to_retraining: always,
    clusters_are_covered: spreads,
    duplicates_are_passed_over: spreads,
}
"""Each law, and the policies that it applies to."""


def it_says_what_it_is(cls: type[AbstractSelector] | type[AbstractLiveSelector]) -> None:
    """The class is a frozen dataclass with a name, a source and a docstring."""
    source = cls.source
    assert cls.name and source.cite and source.url.startswith("https://"), "`name` is empty, or `source` lacks cite or url"
    assert source.departures, "`source` lacks departures"
    a_frozen_dataclass_with_a_docstring(cls)


def it_says_whether_it_nests(cls: type[AbstractSelector]) -> None:
    """`nests` is true or false."""
    assert isinstance(cls.nests, bool), "`nests` is missing"


BOTH: Laws = {it_says_what_it_is: always, mistyped("policy"): always}
"""The laws that apply to a class, for selectors that choose once and for those that choose before every epoch."""
CLASS_LAWS: Laws = {**BOTH, it_says_whether_it_nests: always}
"""The laws that apply to the class of a selector that chooses once, whatever its options."""


def check_selector(
    selector: AbstractSelector, *, variants: Sequence[Mapping[str, object]] = ({},), refused: Sequence[str] = ()
) -> None:
    """Test a selector (policy) of your own with the laws that assay's own pass; this takes seconds.

        from assay.testing import check_selector

        def test_the_laws():
            check_selector(Spread(keep=0.3), variants=[{}, {"by_class": True}], refused=["keep=2"])

    Args:
        selector: The selector to test. Its options `keep` and `seed`, where it has them, are set by the laws.
        variants: Sets of options; the selector is tested with each of them in turn.
        refused: Options that the selector must refuse, as texts such as `keep=2`; give the required options behind it.

    Raises:
        AssertionError: It breaks a law; says which, and how.
        UsageError: It refuses a variant.
    """
    cls = type(selector)
    hold_class(cls, "policy", CLASS_LAWS, refused)
    own = {field.name: getattr(selector, field.name) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for given in variants:
        variant = {**own, **given}
        case = Case(cls, {name: value for name, value in variant.items() if name != "keep"})
        hold(case.make().title, LAWS, case)
