"""Laws that hold for every method, shipped or new; and the proof that each law can fail."""

import contextlib
import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch

from assay.core import options
from assay.core.accumulators import AbstractAccumulator
from assay.core.errors import MissingEvidence, UndeclaredNeed, UnknownName, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.method import AbstractMethod
from assay.core.needs import EPOCH_NEEDS, Need
from assay.core.scores import Direction
from assay.core.scoring import score
from assay.methods import catalogue, parse
from assay.runs.artefacts import load_scores, save_scores
from exports import exported
from faulty.laws import broken_laws
from faulty.methods import FAULTY, SOUND, MeanLoss
from methods.trained import DIMS, trained
from methods.worlds import Facts, facts_of

EXAMPLES, EPOCHS, CLASSES = 64, 14, 4
WRONG, HARD = slice(0, 10), slice(10, 26)


TRAINED = frozenset({Need.STEPS, Need.CHECKPOINTS})
BESIDE = TRAINED | {Need.INPUTS, Need.FEATURES}
EVERYTHING = EPOCH_NEEDS | BESIDE | {Need.LABELS, Need.MEAN_PROBS}


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What a run recorded of some examples; the first ones were labelled wrong, the next are hard (the method does not know).

    `inputs` and `batches` are what a small net is trained on, for methods that take training again; `held_out` is its target.
    """

    ids: Ids
    labels: torch.Tensor
    logits: torch.Tensor
    inputs: torch.Tensor
    batches: tuple
    held_out: tuple

    @functools.cached_property
    def facts(self) -> dict[Need, torch.Tensor]:
        return facts_of(self.logits, self.labels)

    @functools.cached_property
    def replay(self):
        return trained(self.ids, self.inputs, self.labels, self.held_out, CLASSES, self.batches)

    def evidence(self, holds=EVERYTHING, recorded=None, facts=None) -> Evidence:
        # A copy each time: a method that writes into its input must not spoil the next law.
        facts = {need: fact[:recorded].clone() for need, fact in (facts or self.facts).items() if need in holds}
        probs = self.logits.softmax(-1).mean(0)
        return Evidence(
            self.ids,
            CLASSES,
            labels=self.labels if Need.LABELS in holds else None,
            epochs=Facts(facts) if facts else None,
            mean_probs=probs if Need.MEAN_PROBS in holds else None,
            inputs=self.inputs.clone() if holds & {Need.INPUTS, Need.FEATURES} else None,
            steps=self.replay if Need.STEPS in holds else None,
            checkpoints=self.replay if Need.CHECKPOINTS in holds else None,
            features=self if Need.FEATURES in holds else None,
        ).narrow("this world", holds)

    def features(self, spec):
        """Of the kept models, which are trained once somebody asks."""
        return self.replay.features(spec)

    def take(self, order) -> "World":
        now = order.argsort()
        batches = tuple(tuple(now[batch] for batch in epoch) for epoch in self.batches)
        return World(self.ids.take(order), self.labels[order], self.logits[:, order], self.inputs[order], batches, self.held_out)

    def say(self, method: AbstractMethod) -> torch.Tensor:
        """The values of a method, computed anew."""
        return score([method], self.evidence(holds=EVERYTHING if method.reads & TRAINED else EVERYTHING - TRAINED))[0].values

    @functools.cached_property
    def _said(self) -> dict:
        return {}

    def base(self, method: AbstractMethod) -> torch.Tensor:
        """The values of a method as they were the first time that a law asked."""
        key = type(method), method.title
        if key not in self._said:
            self._said[key] = self.say(method)
        return self._said[key].clone()


@functools.cache
def world(seed=0) -> World:
    """Easy examples are learned early; hard ones waver between two classes to the end; wrong ones are learned as their true class."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randint(CLASSES, (EXAMPLES,), generator=draw)
    given = true.clone()
    given[WRONG] = (true[WRONG] + 1) % CLASSES
    pull = torch.linspace(3.0, 8.0, EPOCHS, dtype=torch.float64)[:, None, None]
    logits = pull * torch.nn.functional.one_hot(true, CLASSES)
    next_to_it = torch.nn.functional.one_hot((true + 1) % CLASSES, CLASSES)
    logits[:, HARD] = 3.0 * (torch.nn.functional.one_hot(true, CLASSES) + next_to_it)[HARD].double()
    noise = torch.randn(EPOCHS, EXAMPLES, CLASSES, generator=draw, dtype=torch.float64)
    noise[:, HARD] *= 2
    logits = logits + noise
    ids = Ids(np.random.default_rng(seed).choice(10_000, EXAMPLES, replace=False) - 500)
    centres = 2 * torch.randn(CLASSES, DIMS, generator=draw, dtype=torch.float64)
    inputs = centres[true] + 0.3 * torch.randn(EXAMPLES, DIMS, generator=draw, dtype=torch.float64)
    inputs[HARD] = (inputs[HARD] + centres[(true[HARD] + 1) % CLASSES]) / 2
    held = torch.arange(4 * CLASSES) % CLASSES
    held_out = centres[held] + 0.3 * torch.randn(len(held), DIMS, generator=draw, dtype=torch.float64), held
    batches = tuple(torch.randperm(EXAMPLES, generator=draw).split(32) for _ in range(3))
    return World(ids, given, logits, inputs, batches, held_out)


@functools.cache
def saturated() -> World:
    """Constant, certain, certainly wrong, tied and wildly turning outputs."""
    logits = torch.zeros(EPOCHS, 6, CLASSES, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    logits[:, 1, 1] = logits[:, 2, 0] = 900.0
    logits[:, 3, 2:] = 50.0
    logits[::2, 4, 0] = logits[1::2, 4, 3] = 900.0
    logits[0, 5, 1] = logits[1:, 5, 2] = 1e4
    inputs = torch.eye(6, DIMS, dtype=torch.float64)
    inputs[:2] = 0
    inputs[2:] *= 50
    batches = tuple(torch.arange(6).split(3) for _ in range(3))
    return World(Ids(range(6)), labels, logits, inputs, batches, (inputs[3:] / 2, labels[3:].flip(0)))


@functools.cache
def reordered(seed) -> tuple[World, torch.Tensor]:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(EXAMPLES))
    return world().take(order), order


@functools.cache
def renamed() -> World:
    here, name = world(), torch.tensor([2, 0, 3, 1])
    inputs, labels = here.held_out
    return dataclasses.replace(
        here, labels=name[here.labels], logits=here.logits[..., name.argsort()], held_out=(inputs, name[labels])
    )


@functools.cache
def doubled() -> World:
    here, twins = world(), torch.cat([torch.arange(EXAMPLES), torch.arange(EXAMPLES)])
    batches = tuple(tuple(torch.stack([batch, batch + EXAMPLES], 1).flatten() for batch in epoch) for epoch in here.batches)
    ids = Ids(range(2 * EXAMPLES))
    return World(ids, here.labels[twins], here.logits[:, twins], here.inputs[twins], batches, here.held_out)


@functools.cache
def named() -> World:
    return dataclasses.replace(world(), ids=Ids([f"photo {number}.png" for number in world().ids]))


def reordering_examples_reorders_scores(method):
    base = world().base(method)
    for seed in range(2):
        there, order = reordered(seed)
        scores = score([method], there.evidence())[0]
        assert scores.ids == world().ids.take(order)
        torch.testing.assert_close(scores.values, base[order], rtol=1e-12, atol=1e-12)


def renaming_classes_changes_nothing(method):
    torch.testing.assert_close(renamed().say(method), world().base(method), rtol=1e-12, atol=1e-12)


def it_reads_what_it_declares(method):
    here = world()
    evidence = here.evidence()
    full = score([method], evidence)[0].values
    read = {need for _, need in evidence._source.reads}
    assert read == method.reads & EPOCH_NEEDS, f"declares {method.reads}, reads {read}"
    assert torch.equal(score([method], here.evidence(holds=method.reads))[0].values, full)
    for need in method.reads:
        with pytest.raises(MissingEvidence, match=need.value):
            score([method], here.evidence(holds=EVERYTHING - {need}))


def the_epochs_read_are_those_that_matter(method):
    here, other = world(), world(1)
    read = method.epochs_read(EPOCHS)
    evidence = here.evidence()
    base = score([method], evidence)[0].values
    assert {epoch for epoch, _ in evidence._source.reads} == set(read)
    for epoch in range(EPOCHS):
        facts = {need: fact.clone() for need, fact in here.facts.items()}
        for need, fact in facts.items():
            fact[epoch] = other.facts[need][epoch]
        changed = not torch.equal(score([method], here.evidence(facts=facts))[0].values, base)
        assert changed == (epoch in read), f"epoch {epoch}: {'read' if epoch in read else 'not read'}, but changed is {changed}"


def it_points_the_declared_way(method):
    scores = score([method], world().evidence())[0]
    easy = slice(HARD.stop, EXAMPLES)
    if method.direction in (Direction.HIGH_IS_SUSPECT, Direction.LOW_IS_SUSPECT):
        values, marked = scores.suspicion(), WRONG
        assert torch.equal(values, scores.hardness())
    else:
        with pytest.raises(UsageError, match="ranks difficulty"):
            scores.suspicion()
        values, marked = scores.hardness(), HARD
    gap = values[marked][:, None] - values[easy]
    auc = float(((gap > 0).double() + 0.5 * (gap == 0)).mean())
    assert auc > 0.7, f"AUC of the planted examples {auc:.2f}"


def same_input_same_score(method):
    one = world().base(method)
    torch.manual_seed(99)
    assert torch.equal(world().say(method), one)


def the_world_is_untouched(method):
    evidence = world().evidence()
    before = copy.deepcopy(evidence._source.facts)
    inputs = world().inputs.clone()
    torch.manual_seed(5)
    # Python's own generator is left out: the run-time type checker of the tests draws from it.
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_default_dtype()
    score([method], evidence)
    if method.reads & {Need.INPUTS, Need.FEATURES}:
        # Rows that a caller gives are its own.
        assert torch.equal(evidence.inputs(), inputs), "wrote into the inputs"
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), torch.get_default_dtype()) == states[1:]
    assert torch.is_grad_enabled()
    for need, fact in before.items():
        assert torch.equal(evidence._source.facts[need], fact), f"wrote into {need.value}"


def it_is_the_same_in_company(method):
    # All that share a pass or a replay with it; everybody with everybody, trainings of `loo` included, is `test_all_methods_at_once`.
    others = [cls() for name, cls in catalogue().items() if name != "loo" and cls().reads & TRAINED == method.reads & TRAINED]
    together = score([*others, method], world().evidence())
    assert torch.equal(together[-1].values, world().base(method))


def values_are_the_fold(method):
    view = world().evidence().narrow(method.title, method.reads)
    assert torch.equal(method.run(view).values, world().base(method))


def a_duplicated_example_gets_an_equal_score(method):
    values = doubled().say(method)
    # Matrix products may add up the rows of a batch in different orders.
    close = {"rtol": 1e-9, "atol": 1e-12} if method.reads & BESIDE else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(values[:EXAMPLES], values[EXAMPLES:], **close)


def one_finite_float64_per_id(method):
    for here in (world(), saturated()):
        # Neighbours must be fewer than the examples.
        one = dataclasses.replace(method, k=min(method.k, len(here.ids) // 3)) if hasattr(method, "k") else method
        (scores,) = score([one], here.evidence())
        # Inputs of zeros may have no score; all else is scored by every method.
        blind = ~one.speaks_of(here.evidence().narrow(one.title, one.reads))
        assert not bool((blind & ~(here.inputs == 0).all(1)).any()) and (Need.INPUTS in method.reads or not bool(blind.any()))
        assert scores.ids == here.ids.take(~blind) and scores.unscored == here.ids.take(blind)
        assert scores.values.shape == (len(scores.ids),) and scores.values.dtype == torch.float64
        assert not scores.values.requires_grad and bool(scores.values.isfinite().all())
    raw = method.run(world().evidence().narrow(method.title, method.reads)).values
    assert raw.dtype == torch.float64, "the fold itself keeps double precision"


def too_few_epochs_are_refused(method):
    least = method.fewest_epochs
    assert len(score([method], world().evidence(recorded=least))[0]) == EXAMPLES
    with pytest.raises(MissingEvidence, match=rf"{method.name}.* at least {least} epochs, but this run has {least - 1}"):
        score([method], world().evidence(recorded=least - 1))
    shortest = method.epochs_read(least)
    assert len(shortest) >= 1 and shortest[-1] < least
    if hasattr(method, "window"):
        assert least >= method.window, "a window was filled from fewer epochs than it holds"


def a_fold_can_stop_anywhere(method):
    evidence, expected = world().evidence(), world().base(method)
    state = method.start(EXAMPLES, CLASSES)
    for place, epoch in enumerate(method.epochs_read(EPOCHS)):
        method.update(state, evidence.epoch(epoch).narrow(method.reads & EPOCH_NEEDS))
        assert all(isinstance(part, torch.Tensor) for part in state.values())
        if place % 3 == 2:
            held = {name: part.clone() for name, part in state.items()}
            with contextlib.suppress(MissingEvidence):
                method.compute(state)
            assert all(torch.equal(state[name], part) for name, part in held.items()), "finish changed the state"
            other = copy.deepcopy(method)
            other.start(EXAMPLES, CLASSES)
            method, state = other, held
    assert torch.equal(method.compute(state), expected)


def string_ids_work(method):
    scores = score([method], named().evidence())[0]
    assert all(isinstance(one, str) for one in scores.ids) and torch.equal(named().say(method), scores.values)
    # What is drawn depends on the ids.
    if not draws(method):
        # Matrix products add up the rows in the order of the ids.
        close = {"rtol": 1e-9, "atol": 1e-12} if Need.INPUTS in method.reads else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(scores.values, world().base(method), **close)


def draws(method):
    """Whether a method draws anything, which those with a seed say by reading another one."""
    if not hasattr(method, "seed"):
        return False
    try:
        dataclasses.replace(method, seed=method.seed + 1)
    except UsageError as error:
        assert "seed" in str(error)
        return False
    return True


def the_title_says_all(method):
    name, texts = options.split(method.title)
    assert name == method.name and options.build(type(method), "method", texts) == method
    for field in dataclasses.fields(method):
        if not isinstance(field.default, float):
            continue
        try:
            other = dataclasses.replace(method, **{field.name: field.default * 0.987654321})
        except UsageError as error:
            # An option that the others leave unread may not be set.
            assert "is not read with" in str(error)
            continue
        assert options.build(type(method), "method", options.split(other.title)[1]) == other


def is_fold(method):
    return isinstance(method, AbstractAccumulator)


def always(method):
    return True


LAWS = {
    reordering_examples_reorders_scores: always,
    renaming_classes_changes_nothing: always,
    it_reads_what_it_declares: always,
    the_epochs_read_are_those_that_matter: is_fold,
    it_points_the_declared_way: always,
    same_input_same_score: always,
    the_world_is_untouched: always,
    it_is_the_same_in_company: always,
    values_are_the_fold: is_fold,
    a_duplicated_example_gets_an_equal_score: always,
    one_finite_float64_per_id: always,
    too_few_epochs_are_refused: is_fold,
    a_fold_can_stop_anywhere: is_fold,
    string_ids_work: always,
    the_title_says_all: always,
}
"""Each law, and which methods it speaks of."""

METHODS = {
    method.title: method
    for name, cls in catalogue().items()
    for method in (cls(**given) for given in exported("methods", name, "VARIANTS"))
}


@pytest.mark.parametrize(
    ("law", "method"),
    [
        pytest.param(law, method, id=f"{law.__name__}-{title}")
        for law, applies in LAWS.items()
        for title, method in METHODS.items()
        if applies(method)
    ],
)
def test_law(law, method):
    law(method)


def test_all_methods_at_once():
    for scores in score(list(METHODS.values()), world().evidence()):
        assert torch.equal(scores.values, world().base(METHODS[scores.title])), scores.title


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.__name__)
def test_the_laws_pass_what_the_faulty_ones_are_made_from(cls):
    assert broken_laws(LAWS, cls()) == set()


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_every_faulty_method_is_caught(cls):
    assert FAULTY[cls] in broken_laws(LAWS, cls())


def test_every_law_catches_a_faulty_method():
    assert set(FAULTY.values()) == {law.__name__ for law in LAWS}


def test_all_four_directions_are_there():
    assert {method.direction for method in METHODS.values()} == set(Direction)


@pytest.mark.parametrize("spec", [f"{name}:{text}" for name in catalogue() for text in exported("methods", name, "REFUSED", [])])
def test_options_out_of_range_are_refused(spec):
    with pytest.raises(UsageError, match=spec.partition(":")[2].partition("=")[0]):
        parse(spec)


def test_every_method_with_a_number_or_a_choice_has_options_that_it_refuses():
    # A text of any kind may be all that an option takes.
    free = {
        name
        for name, cls in catalogue().items()
        if all(field.type in (str, "str", str | None) for field in dataclasses.fields(cls))
    }
    assert {name for name in catalogue() if not exported("methods", name, "REFUSED", [])} <= free


@pytest.mark.parametrize("name", catalogue())
def test_an_unknown_option_names_the_nearest(name):
    first = next((field.name for field in dataclasses.fields(catalogue()[name])), None)
    if first is None:
        pytest.skip("without options")
    with pytest.raises(UnknownName, match=rf"No option of method '{name}' is named '{first}s'. Did you mean .*{first}"):
        parse(f"{name}:{first}s=3")


@pytest.mark.parametrize("given", [{"epochs": "3"}, {"epochs": 2.5}, {"epochs": True}])
def test_options_of_another_type_are_refused(given):
    # On a method of the tests, because the run-time type checker of the tests watches the shipped ones and is faster.
    with pytest.raises(UsageError, match="method 'mean_loss', option 'epochs'"):
        MeanLoss(**given)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert MeanLoss(epochs=np.int64(3)).title == "mean_loss:epochs=3" and type(MeanLoss(epochs=np.int64(3)).epochs) is int


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_saved_and_loaded_is_the_same(method, tmp_path):
    for here in (world(), named()):
        (scores,) = score([method], here.evidence())
        save_scores(scores, tmp_path / "scores.parquet")
        again = load_scores(tmp_path / "scores.parquet")
        assert again.fingerprint == scores.fingerprint and torch.equal(again.values, scores.values)
        assert (again.repeats is None) == (scores.repeats is None)
        assert scores.repeats is None or torch.equal(again.repeats, scores.repeats)
        assert (again.ids, again.method, again.options, again.title) == (scores.ids, scores.method, scores.options, scores.title)
        assert (again.direction, again.unit, again.unscored) == (scores.direction, scores.unit, scores.unscored)
        assert parse(again.title) == method


@pytest.mark.parametrize("name", catalogue())
def test_every_method_says_what_it_is(name):
    cls = catalogue()[name]
    assert cls.name == name == cls.__module__.rpartition(".")[2] and callable(
        getattr(__import__(cls.__module__, fromlist=[name]), name)
    )
    assert cls.source.cite and cls.source.url.startswith("https://") and cls.source.departures and cls.unit
    assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__ + "(")
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen and not cls.__subclasses__()
    assert hash(cls()) == hash(cls()) and cls() == parse(name)


@pytest.mark.parametrize("need", sorted(EPOCH_NEEDS, key=lambda need: need.value), ids=lambda need: need.value)
def test_every_undeclared_fact_of_an_epoch_raises(need):
    view = world().evidence().narrow("nobody", frozenset(EPOCH_NEEDS - {need}))
    with pytest.raises(UndeclaredNeed, match=f"`{need.value}` of epoch 0 was read but is not declared"):
        getattr(view.epoch(0), need.value)
    with pytest.raises(UndeclaredNeed, match=need.value):
        getattr(view.epoch(0).narrow(EPOCH_NEEDS), need.value)


@pytest.mark.parametrize("need", sorted(set(Need) - EPOCH_NEEDS, key=lambda need: need.value), ids=lambda need: need.value)
def test_every_other_undeclared_fact_raises(need):
    view = world().evidence().narrow("nobody", EPOCH_NEEDS)
    with pytest.raises(UndeclaredNeed, match=f"`{need.value}` was read but is not declared"):
        asked = {Need.INPUTS: view.inputs, Need.FEATURES: lambda: view.features("inputs")}
        asked.get(need, lambda: getattr(view, need.value))()
