"""The laws that every method must pass, ours and other people's."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core import options
from ..core.accumulators import AbstractAccumulator
from ..core.errors import MissingEvidence, UsageError
from ..core.method import AbstractMethod, MonteCarlo
from ..core.needs import EPOCH_NEEDS, Need
from ..core.scores import Direction
from ..core.scoring import score
from ..methods import METHODS
from .attributors import Pairs, attributor_laws
from .laws import Law, Laws, a_frozen_dataclass_with_a_docstring, always, close, hold, hold_class, mistyped, refusal
from .worlds import (
    BESIDE,
    CLASSES,
    EPOCHS,
    EVERYTHING,
    EXAMPLES,
    HARD,
    TRAINED,
    WRONG,
    World,
    doubled,
    facts_of,
    named,
    renamed,
    reordered,
    saturated,
    six,
    world,
)

SEEDS = 8
"""Seeds that a Monte Carlo method is run with."""
FEW, MANY = 32, 512
"""Draws of an estimate, and how many more must bring it nearer to its limit."""

Brute = Callable[[Tensor, Tensor, AbstractMethod], Tensor]
"""The limit of a Monte Carlo method with its options, computed from inputs and labels."""


def over_seeds(method: AbstractMethod, values: Callable[[AbstractMethod], Tensor]) -> Tensor:
    """Results of `values` for a Monte Carlo method under each of several seeds, of shape (seeds, ...)."""
    assert isinstance(method.exactness, MonteCarlo)
    name = method.exactness.seed
    return torch.stack([values(dataclasses.replace(method, **{name: seed})) for seed in range(SEEDS)])  # type: ignore[type-var]


def in_standard_errors(values: Tensor) -> float:
    """Root mean square of the means over seeds, in standard errors of such means. About 1 where values scatter around 0."""
    error = float((values.var(0) / len(values)).mean())
    size = float(values.mean(0).square().mean())
    # Rounding is no deviation.
    if size < 1e-18:
        return 0.0
    return (size / error) ** 0.5 if error else float("inf")


def reordering_examples_reorders_scores(method: AbstractMethod) -> None:
    """The same examples in another order have the same scores in that order."""
    base = world().base(method)
    for seed in range(2):
        there, order = reordered(seed)
        scores = score([method], there.evidence())[0]
        assert scores.ids == world().ids.take(order), "scores are not in the order of the ids"
        close(method, scores.values, base[order])


def renaming_classes_changes_nothing(method: AbstractMethod) -> None:
    """Other numbers for the classes change no score."""
    close(method, renamed().say(method), world().base(method))


def it_reads_what_it_declares(method: AbstractMethod) -> None:
    """The method reads exactly the kinds of facts that `reads` declares; other kinds may be absent."""
    here = world()
    evidence = here.evidence()
    full = score([method], evidence)[0].values
    said, read = (", ".join(sorted(need.value for need in needs)) for needs in (method.reads, evidence.kinds_read))
    assert evidence.kinds_read == method.reads, f"it declares {said} and reads {read}"
    alone = score([method], here.evidence(holds=method.reads))[0].values
    assert torch.equal(alone, full), "it gives other values where nothing else is there"
    for need in method.reads:
        with refusal(MissingEvidence, need.value):
            score([method], here.evidence(holds=EVERYTHING - {need}))


def perturbed(here: World, epoch: int) -> list[dict[Need, Tensor]]:
    """The epoch facts with one epoch changed: to that of another training, to every example right, to every example wrong."""
    right = 20.0 * torch.nn.functional.one_hot(here.labels, CLASSES).double()
    found = []
    for logits in (world(1).logits[epoch], right, right.roll(1, dims=-1)):
        changed = here.logits.clone()
        changed[epoch] = logits
        found.append(facts_of(changed, here.labels))
    return found


def the_epochs_read_are_those_that_matter(method: AbstractMethod) -> None:
    """Changing an epoch changes the score if, and only if, `epochs_read` names that epoch."""
    assert isinstance(method, AbstractAccumulator)
    here = world()
    read = method.epochs_read(EPOCHS)
    evidence = here.evidence()
    base = score([method], evidence)[0].values
    assert {epoch for epoch, _ in evidence.epochs_read} == set(read), "it reads other epochs than it says"
    for epoch in range(EPOCHS):
        # What a method takes of an epoch may be the same in one other epoch, such as whether a prediction is right.
        changed = any(
            not torch.equal(score([method], here.evidence(facts=facts))[0].values, base) for facts in perturbed(here, epoch)
        )
        assert changed == (epoch in read), (
            f"epoch {epoch} is {'' if epoch in read else 'not '}read, but {'some' if changed else 'no'} other epoch in its place changes the values"
        )


def it_points_the_declared_way(method: AbstractMethod) -> None:
    """Planted wrong labels or hard examples have the high or low values that `direction` says."""
    scores = score([method], world().evidence())[0]
    easy = slice(HARD.stop, EXAMPLES)
    if method.direction in (Direction.HIGH_IS_SUSPECT, Direction.LOW_IS_SUSPECT):
        values, marked = scores.suspicion(), WRONG
        assert torch.equal(values, scores.hardness())
    else:
        with refusal(UsageError, "ranks difficulty"):
            scores.suspicion()
        values, marked = scores.hardness(), HARD
    gap = values[marked][:, None] - values[easy]
    auc = float(((gap > 0).double() + 0.5 * (gap == 0)).mean())
    assert auc > 0.7, f"the AUC of the planted examples is {auc:.2f}"


def same_input_same_score(method: AbstractMethod) -> None:
    """The same evidence gives the same values, to the bit."""
    one = world().base(method)
    torch.manual_seed(99)
    assert torch.equal(world().say(method), one), "a second call gave other values"


def the_world_is_untouched(method: AbstractMethod) -> None:
    """Facts, random state and settings of torch stay as they were."""
    evidence = world().evidence()
    facts = evidence.facts
    before = copy.deepcopy(facts)
    inputs = world().inputs.clone()
    torch.manual_seed(5)
    # Python's own generator is left out: the run-time type checker of the tests draws from it.
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_default_dtype()  # type: ignore[index, union-attr]
    score([method], evidence)
    # Rows that a caller gives are its own.
    assert torch.equal(evidence.features("inputs").rows(), inputs.flatten(1)), "it wrote into the inputs"
    assert torch.equal(torch.get_rng_state(), states[0]), "it moved torch's random state"
    assert np.random.get_state()[1].tolist() == states[1], "it moved NumPy's random state"  # type: ignore[index, union-attr]
    assert torch.get_default_dtype() == states[2], "it changed torch's default dtype"
    assert torch.is_grad_enabled(), "it left gradients switched off"
    for need, fact in before.items():
        assert torch.equal(facts[need], fact), f"it wrote into {need.value}"


def it_is_the_same_in_company(method: AbstractMethod) -> None:
    """Other methods in the same call change no value, to the bit."""
    # All that share a pass or a replay with it; everybody with everybody, retrainings included, is a test of its own.
    others = [
        cls()
        for cls in METHODS.own.values()
        # Games share nothing with anybody and take long with their own options.
        if not cls.retrains and cls().reads & TRAINED == method.reads & TRAINED and Need.HELD_OUT not in cls().reads
    ]
    together = score([*others, method], world().evidence())
    assert torch.equal(together[-1].values, world().base(method)), "beside others it gives other values"


def values_are_those_of_one_pass(method: AbstractMethod) -> None:
    """`run` gives the same values as scoring does."""
    view = world().evidence().narrow(method.title, method.reads)
    assert torch.equal(method.run(view).values, world().base(method)), "`run` gives other values"


def a_duplicated_example_gets_an_equal_score(method: AbstractMethod) -> None:
    """Two equal examples have equal scores; estimates by random draws are equal within the standard error of their difference."""
    if isinstance(method.exactness, MonteCarlo):

        def gaps(one: AbstractMethod) -> Tensor:
            values = doubled().say(one)
            return values[:EXAMPLES] - values[EXAMPLES:]

        apart = in_standard_errors(over_seeds(method, gaps))
        assert apart <= 3, f"equal examples are {apart:.1f} standard errors of their difference apart"
        return
    values = doubled().say(method)
    # Matrix products may add up the rows of a batch in different orders.
    near = {"rtol": 1e-9, "atol": 1e-12} if method.reads & BESIDE else {"rtol": 0.0, "atol": 0.0}
    close(method, values[:EXAMPLES], values[EXAMPLES:], **near)


def one_finite_float64_per_id(method: AbstractMethod) -> None:
    """There is one finite number in double precision for each id, also of saturated and constant outputs."""
    for here in (world(), saturated()):
        # Neighbours must be fewer than the examples.
        one = dataclasses.replace(method, k=min(method.k, len(here.ids) // 3)) if hasattr(method, "k") else method  # type: ignore[type-var]
        (scores,) = score([one], here.evidence())
        # Inputs of zeros may have no score; all else is scored by every method.
        blind = ~one.speaks_of(here.evidence().narrow(one.title, one.reads))
        assert not bool((blind & ~(here.inputs == 0).all(1)).any()), "some examples have no score"
        assert Need.FEATURES in method.reads or not bool(blind.any()), "some examples have no score"
        assert scores.ids == here.ids.take(~blind) and scores.unscored == here.ids.take(blind)
        assert scores.values.shape == (len(scores.ids),) and scores.values.dtype == torch.float64
        assert not scores.values.requires_grad and bool(scores.values.isfinite().all())
    raw = method.run(world().evidence().narrow(method.title, method.reads)).values
    assert raw.dtype == torch.float64, f"it gives {raw.dtype} and not double precision"


def too_few_epochs_are_refused(method: AbstractMethod) -> None:
    """As many epochs as `fewest_epochs` suffice, and one less is refused."""
    assert isinstance(method, AbstractAccumulator)
    least = method.fewest_epochs
    assert len(score([method], world().evidence(recorded=least))[0]) == EXAMPLES
    with refusal(MissingEvidence, rf"{method.name}.* at least {least} epochs, but this run has {least - 1}"):
        score([method], world().evidence(recorded=least - 1))
    shortest = method.epochs_read(least)
    assert len(shortest) >= 1 and shortest[-1] < least, "it reads epochs beyond the fewest"
    window = getattr(method, "window", None)
    assert not isinstance(window, int) or least >= window, "a window was filled from fewer epochs than it holds"


def a_pass_can_stop_anywhere(method: AbstractMethod) -> None:
    """An accumulator keeps nothing but its state, and computing the values midway changes nothing."""
    assert isinstance(method, AbstractAccumulator)
    evidence, expected = world().evidence(), world().base(method)
    state = method.start(EXAMPLES, CLASSES)
    for place, epoch in enumerate(method.epochs_read(EPOCHS)):
        method.update(state, evidence.epoch(epoch).narrow(method.reads & EPOCH_NEEDS))
        assert all(isinstance(part, Tensor) for part in state.values()), "the state holds something that is no tensor"
        if place % 3 == 2:
            held = {name: part.clone() for name, part in state.items()}
            with contextlib.suppress(MissingEvidence):
                method.compute(state)
            assert all(torch.equal(state[name], part) for name, part in held.items()), "`compute` changed the state"
            other = copy.deepcopy(method)
            other.start(EXAMPLES, CLASSES)
            method, state = other, held
    assert torch.equal(method.compute(state), expected), "stopped and gone on with, it gives other values"


def string_ids_work(method: AbstractMethod) -> None:
    """Ids may be texts, and change no value where nothing is drawn."""
    scores = score([method], named().evidence())[0]
    assert all(isinstance(one, str) for one in scores.ids) and torch.equal(named().say(method), scores.values)
    # What is drawn depends on the ids.
    if not draws(method):
        # Matrix products add up the rows in the order of the ids.
        near = {"rtol": 1e-9, "atol": 1e-12} if Need.FEATURES in method.reads else {"rtol": 0.0, "atol": 0.0}
        close(method, scores.values, world().base(method), **near)


def draws(method: AbstractMethod) -> bool:
    """Whether a method draws at random: it does if it is Monte Carlo, or if it has an option `seed` and accepts another value of it."""
    if isinstance(method.exactness, MonteCarlo) or not hasattr(method, "seed"):
        return isinstance(method.exactness, MonteCarlo)
    try:
        dataclasses.replace(method, seed=method.seed + 1)  # type: ignore[type-var]
    except UsageError as error:
        assert "seed" in str(error)
        return False
    return True


def the_title_says_all(method: AbstractMethod) -> None:
    """The title, parsed with its options, gives the same method again."""
    cls = type(method)
    name, texts = options.split(method.title)
    assert name == method.name and options.build(cls, "method", texts) == method, f"{method.title} is another method"
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        if not isinstance(field.default, float):
            continue
        try:
            other = dataclasses.replace(method, **{field.name: field.default * 0.987654321})  # type: ignore[type-var]
        except UsageError as error:
            # An option that the others leave unread may not be set.
            assert "is not read with" in str(error), error
            continue
        assert options.build(cls, "method", options.split(other.title)[1]) == other, f"{other.title} is another method"


def is_accumulator(method: AbstractMethod) -> bool:
    """Whether a method is an accumulator, which reads epochs one after the other."""
    return isinstance(method, AbstractAccumulator)


LAWS: Laws = {
    reordering_examples_reorders_scores: always,
    renaming_classes_changes_nothing: always,
    it_reads_what_it_declares: always,
    the_epochs_read_are_those_that_matter: is_accumulator,
    it_points_the_declared_way: always,
    same_input_same_score: always,
    the_world_is_untouched: always,
    it_is_the_same_in_company: always,
    values_are_those_of_one_pass: is_accumulator,
    a_duplicated_example_gets_an_equal_score: always,
    one_finite_float64_per_id: always,
    too_few_epochs_are_refused: is_accumulator,
    a_pass_can_stop_anywhere: is_accumulator,
    string_ids_work: always,
    the_title_says_all: always,
}
"""Each law, and the methods that it applies to."""


def converging(brute: Brute) -> Law:
    """The law that a Monte Carlo method converges to its limit, which `brute` computes by brute force."""

    def it_converges_to_brute_force(method: AbstractMethod) -> None:
        """On six examples the estimates scatter around what brute force gives, and more draws bring them nearer."""
        assert isinstance(method.exactness, MonteCarlo), "a limit is given, but it is not declared as MonteCarlo"
        here, name = six(), method.exactness.draws
        expected = brute(here.inputs.clone(), here.labels.clone(), method).to(torch.float64)

        def off(many: int) -> Tensor:
            return over_seeds(dataclasses.replace(method, **{name: many}), here.say) - expected  # type: ignore[type-var]

        few, many = off(FEW), off(MANY)
        apart = in_standard_errors(many)
        assert apart <= 5, f"with {name}={MANY} it is {apart:.1f} standard errors away from {expected.tolist()}"
        before, after = float(few.square().mean().sqrt()), float(many.square().mean().sqrt())
        assert after <= before / 2 or after < 1e-9, f"with {name}={MANY} it is {after:.3g} off, with {name}={FEW} {before:.3g}"

    return it_converges_to_brute_force


def laws_of(brute: Brute | None = None) -> Laws:
    """The laws that apply to a method.

    Args:
        brute: Function from inputs (examples, dims), labels (examples,) and a Monte Carlo method to the limit of its values as the number of draws
            grows.
    """
    return LAWS if brute is None else {**LAWS, converging(brute): always}


def it_says_what_it_is(cls: type[AbstractMethod]) -> None:
    """The class is a frozen dataclass with a name, a source, a unit and a docstring, and complete without options."""
    source = cls.source
    assert source.cite and source.url.startswith("https://") and source.departures, "`source` lacks cite, url or departures"
    assert cls.unit, "`unit` is empty"
    a_frozen_dataclass_with_a_docstring(cls)
    assert hash(cls()) == hash(cls()) and cls() == cls(), "two with the same options are not equal"
    assert cls().title == cls.name, f"without options its title is {cls().title}"


CLASS_LAWS: Laws = {it_says_what_it_is: always, mistyped("method"): always}
"""The laws that apply to a class, whatever its options."""


def check_method(
    method: AbstractMethod,
    *,
    variants: Sequence[Mapping[str, object]] = ({},),
    refused: Sequence[str] = (),
    brute: Brute | None = None,
    pairs: Pairs | None = None,
) -> None:
    """Test a method of your own with the laws that assay's methods pass; this takes seconds.

        from assay.testing import check_method

        def test_the_laws():
            check_method(LearningTime(), variants=[{}, {"epochs": 8}], refused=["epochs=0"])

    Args:
        method: The method to test.
        variants: Sets of options; the method is tested with each of them in turn.
        refused: Options that the method must refuse, as texts such as `k=0`; of several in a text the first is the one that is wrong.
        brute: Function from inputs (examples, dims), labels (examples,) and a Monte Carlo method to the limit of its values as the number of draws
            grows.
        pairs: Function from an attributor and evidence to its values (queries, examples), computed pair by pair.

    Raises:
        AssertionError: The method breaks a law; the message says which, and how.
        UsageError: The method refuses a variant.
    """
    hold_class(type(method), "method", CLASS_LAWS, refused)
    for given in variants:
        variant = dataclasses.replace(method, **given)  # type: ignore[type-var]
        hold(variant.title, {**laws_of(brute), **attributor_laws(pairs)}, variant)
