"""The complexity gap: against what was computed elsewhere, against leaving each example out, and at its edges."""

import pathlib

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from assay.core.errors import UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.scoring import score
from assay.methods import cg_score as module
from assay.methods.cg_score import CGScore, by_class, cg_score, terms
from reference.cg_score import gaps

VARIANTS = [
    {},
    {"protocol": "rest", "transform": "centred"},
    {"solver": "blocks", "block": 20, "repeats": 3},
    {"solver": "iteration", "protocol": "rest", "probes": 16},
    {"term": "ab"},
    {"features": "penultimate", "jitter": 0.1},
]
REFUSED = [
    "ratio=0",
    "repeats=0",
    "jitter=-1",
    "protocol=pairs",
    "term=a",
    "solver=fast",
    "transform=white",
    "block=1,solver=blocks",
    "probes=0",
    "iterations=0",
    "seed=-1",
    "largest=0",
    "seed=3,protocol=rest",
    "features=pixels",
    "inputs=e,features=penultimate",
]

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "cg_score.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        held = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: value.double() if value.dtype == torch.uint8 else value for key, value in held.items()}


def close(found, expected, rtol=1e-7, atol=1e-9):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def random(n, dims, seed):
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (n,), generator=draw, dtype=torch.float64) * 2 - 1
    return torch.randn(n, dims, generator=draw, dtype=torch.float64), signs


def evidence(inputs, labels, ids=None):
    return Evidence(Ids(range(len(labels))) if ids is None else ids, int(labels.max()) + 1, labels=labels, inputs=inputs)


def scored(inputs, labels, ids=None, **options):
    return score([CGScore(**options)], evidence(inputs, labels, ids))[0]


def test_two_classes_equal_what_was_computed_elsewhere(golden):
    inputs, signs = golden["binary_X"], golden["binary_y"]
    close(cg_score(inputs, signs), golden["binary_cg"])
    close(cg_score(inputs, signs), golden["binary_cg_bruteforce"], rtol=1e-6)
    for name, values in terms(inputs, signs).items():
        close(values, golden[f"binary_{name}"])


def test_given_negatives_equal_what_was_computed_elsewhere(golden):
    inputs, labels = golden["multi_X"], golden["multi_label"]
    for drawn, expected in zip(golden["multi_neg_idx"], golden["multi_cg_per_rep"], strict=True):
        close(by_class(inputs, labels, [rows[rows >= 0] for rows in drawn]), expected)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("term", ["cg", "a2", "ab", "b2"])
def test_the_official_protocol_equals_what_was_computed_elsewhere(golden, ratio, term):
    inputs, labels, order = golden["multi_X"], golden["multi_label"], golden["multi_legacy_class_order"].argsort()
    drawn = [[rows[rows >= 0] for rows in one[order]] for one in golden[f"multi_legacy_ratio{ratio}_neg"]]
    mean = torch.stack([by_class(inputs, labels, rows, term) for rows in drawn]).mean(0)
    close(mean, golden[f"multi_legacy_ratio{ratio}_{term}"])


def test_one_against_the_rest_equals_what_was_computed_elsewhere(golden):
    inputs, labels = golden["multi_X"], golden["multi_label"]
    columns = torch.where(torch.nn.functional.one_hot(labels) == 1, 1.0, -1.0)
    close(cg_score(inputs, columns), golden["rest_cg_all_columns"])
    close(scored(inputs.float(), labels, protocol="rest").values, golden["rest_cg"])


@pytest.mark.parametrize("size", ["0.1", "0.01", "0.001"])
def test_colinear_rows_under_a_jitter_equal_what_was_computed_elsewhere(golden, size):
    close(cg_score(golden["jitter_X"], golden["jitter_y"], float(size)), golden[f"jitter_cg_lam{size}"])


def test_any_features_are_looked_at_and_images_by_channel():
    images, labels = torch.rand(30, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    here = Evidence(Ids(range(30)), 3, labels=labels, inputs={"": images.flatten(1), "e": images})

    def values(**options):
        return score([CGScore(**options)], here)[0].values

    assert torch.equal(values(features="rows:e"), values(inputs="e")) and torch.equal(values(features="rows:e"), values())
    by_channel = values(features="rows:e", transform="standardised")
    assert not torch.equal(by_channel, values(transform="standardised")), "rows are standardised column by column"
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True, correction=0)
    close(by_channel, scored((images - mean) / std, labels).values, rtol=1e-4)


@given(st.integers(1, 14), st.integers(2, 6), st.integers(0, 10**6), st.sampled_from([0.0, 1e-3, 0.3]))
@settings(max_examples=60, deadline=None)
def test_it_is_what_leaving_each_example_out_takes_away(n, dims, seed, jitter):
    inputs, signs = random(n, dims, seed)
    gram = module.relu_gram(module.unit_rows(inputs)) + jitter * torch.eye(n)
    condition = float(torch.linalg.cond(gram))
    assume(condition < 1e6)
    found = cg_score(inputs, signs, jitter)
    expected = torch.from_numpy(gaps(inputs.numpy(), signs.numpy(), jitter))
    close(found, expected, rtol=1e-12 * condition + 1e-9, atol=1e-12 * condition * float(found.max()))
    assert bool((found >= 0).all())
    close(sum(terms(inputs, signs, jitter)[name] * (2 if name == "ab" else 1) for name in ("a2", "ab", "b2")), found, rtol=1e-6)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_signs_lengths_and_rotations_change_nothing_and_a_shift_does(seed):
    inputs, signs = random(20, 6, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    base = cg_score(inputs, signs)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64))
    lengths = torch.rand(20, 1, generator=draw, dtype=torch.float64) * 10 + 0.01
    for other in (cg_score(inputs, -signs), cg_score(inputs * lengths, signs), cg_score(inputs @ turn, signs)):
        close(other, base, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(cg_score(inputs - inputs.mean(0), signs), base, rtol=1e-3)


def test_equal_rows_of_one_sign_are_worth_nothing_and_do_not_change_the_others():
    inputs, signs = random(20, 6, 1)
    more, longer = torch.cat([inputs, 2.5 * inputs[3:5]]), torch.cat([signs, signs[3:5]])
    found = cg_score(more, longer)
    assert found[[3, 4, 20, 21]].tolist() == [0.0] * 4
    others = [place for place in range(20) if place not in (3, 4)]
    close(found[others], cg_score(inputs, signs)[others])
    # As the jitter goes, so does what they are worth.
    near = cg_score(more, longer, 1e-9)
    close(near, found, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="Rows 3 and 20 point the same way, so that H has no inverse; give a jitter"):
        terms(more, longer)


def test_equal_rows_of_both_signs_are_refused_and_grow_as_the_jitter_shrinks():
    inputs, signs = random(20, 6, 2)
    more, both = torch.cat([inputs, 0.1 * inputs[:1]]), torch.cat([signs, -signs[:1]])
    with pytest.raises(ValueError, match="Rows 0 and 20 point the same way"):
        cg_score(more, both)
    large, small = cg_score(more, both, 1e-4), cg_score(more, both, 1e-6)
    assert float(small[0] / large[0]) == pytest.approx(100, rel=0.05) and float(small[20] * 1e-6) == pytest.approx(2, rel=0.05)


def test_opposite_rows_are_fine():
    inputs, signs = random(20, 6, 3)
    inputs[7] = -inputs[2]
    close(cg_score(inputs, signs), torch.from_numpy(gaps(inputs.numpy(), signs.numpy())), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signs": torch.tensor([1.0, -1, 0])}, r"Signs must be \+1 or -1"),
        ({"inputs": torch.tensor([[1.0, 2], [0, 0], [1, 0]])}, r"Rows \[1\] of the inputs are all zeros"),
        ({"jitter": -1.0}, "jitter=-1.0 is not a number from 0 on"),
        ({"jitter": float("nan")}, "jitter=nan is not a number from 0 on"),
    ],
)
def test_what_has_no_score_is_refused(change, words):
    given_ = {"inputs": torch.eye(3)[:, :2] + 0.1, "signs": torch.tensor([1.0, -1, 1]), "jitter": 0.0} | change
    with pytest.raises(ValueError, match=words):
        cg_score(**given_)


def test_rows_of_the_class_itself_are_no_negatives():
    with pytest.raises(ValueError, match=r"Rows \[1\] are of class 0 itself"):
        by_class(torch.eye(4) + 1, torch.tensor([0, 0, 1, 1]), [torch.tensor([1, 2]), torch.tensor([0])])


def digits(n=300, flips=0.2):
    from sklearn.datasets import load_digits

    images, labels = (torch.from_numpy(part[:n]) for part in load_digits(return_X_y=True))
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(n, generator=draw) < flips
    return images.float() / 16, torch.where(wrong, (labels + 1 + torch.randint(9, (n,), generator=draw)) % 10, labels), wrong


def test_more_repetitions_find_more_wrong_labels_and_tell_how_sure_they_are():
    inputs, labels, wrong = digits(600)

    def auc(values):
        gap = values[wrong][:, None] - values[~wrong]
        return float(((gap > 0).double() + 0.5 * (gap == 0)).mean())

    one, ten = scored(inputs, labels, repeats=1), scored(inputs, labels, repeats=10)
    assert auc(ten.values) > 0.97 and auc(ten.values) >= auc(one.values)
    assert ten.repeats.shape == (10, 600) and one.repeats.shape == (1, 600)
    close(ten.values, ten.repeats.mean(0))
    low, high = ten.interval()
    more = scored(inputs, labels, repeats=10, seed=1).values
    inside = ((low <= more) & (more <= high)).double().mean()
    # Two means of ten differ by more than one of them from the truth.
    assert 0.6 < float(inside) < 0.95
    with pytest.raises(UsageError, match="computed once"):
        one.interval()


def test_draws_depend_on_ids_only():
    inputs, labels, _ = digits(120)
    names = Ids([f"row {n}" for n in range(120)])
    base = scored(inputs, labels, names, repeats=2)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(4))
    again = scored(inputs[order], labels[order], names.take(order), repeats=2)
    close(again.of(names), base.values)
    other = scored(inputs, labels, names, repeats=2, seed=1)
    assert not torch.allclose(other.values, base.values)


def test_each_class_and_repetition_draws_its_own_others():
    inputs, labels, _ = digits(200)
    problem = module._Problem(CGScore(), inputs.flatten(1), labels, Ids(range(200)))
    drawn = {(one, n): set(problem._drawn(one, n)[0][~problem._drawn(one, n)[1]].tolist()) for one in (0, 1) for n in (0, 1)}
    assert len({frozenset(rows) for rows in drawn.values()}) == 4
    # Without what the two classes may not draw alike, they still draw differently.
    common = {place for place in range(200) if int(labels[place]) not in (0, 1)}
    assert drawn[0, 0] & common != drawn[1, 0] & common


@pytest.mark.parametrize(("ratio", "others"), [(0.29, 29), (1.0, 100), (2.0, 200), (7.0, 300), (0.001, 0)])
def test_the_ratio_counts_what_it_says(ratio, others):
    labels = torch.arange(400) % 4
    problem = module._Problem(
        CGScore(ratio=ratio), torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), labels, Ids(range(400))
    )
    assert problem._others(0) == others
    assert problem.chance == (others < 300)
    if others < 300:
        rows, own = problem._drawn(0, 0)
        assert int(own.sum()) == 100 and len(rows) == 100 + others


def test_where_nothing_is_drawn_there_is_one_repetition_and_one_kernel(golden):
    inputs, labels = golden["binary_X"].float(), (golden["binary_y"] < 0).long()
    found = scored(inputs, labels)
    close(found.values, golden["binary_cg"])
    assert found.repeats is None and found.diagnostics == {}


def test_inputs_of_zeros_are_left_unscored():
    inputs, labels, _ = digits(60)
    inputs[[4, 9]] = 0
    found = scored(inputs, labels)
    assert sorted(found.unscored) == [4, 9] and len(found) == 58
    rest = torch.tensor([place for place in range(60) if place not in (4, 9)])
    alone = scored(inputs[rest], labels[rest], Ids(rest))
    close(alone.of(found.ids), found.values)


def test_clashing_labels_are_scored_under_a_jitter_that_is_told():
    inputs, labels, _ = digits(100)
    inputs[50], labels[50], labels[0] = 2 * inputs[0], 3, 5
    labels[1] = labels[2] = 5
    found = scored(inputs, labels, protocol="rest")
    assert found.diagnostics["jitter"] == 0.5e-10
    assert "inputs of 0, 50 point the same way, in part under other labels; 5e-11 was added" in found.warnings[0]
    assert set(found.ids.take(found.values.topk(2).indices)) == {0, 50}
    asked = scored(inputs, labels, protocol="rest", jitter=1e-3)
    assert asked.diagnostics == {"jitter": 1e-3} and not asked.warnings
    assert "jitter=0.001" in asked.title


def test_transforms_are_what_they_say_and_part_of_the_title():
    images = torch.rand(80, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images[:, 1] = images[:, 1] * 5 + 2
    labels = torch.arange(80) % 2
    shape = (1, 3, 1, 1)
    mean = images.double().mean((0, 2, 3)).view(shape)
    std = ((images.double() - mean) ** 2).mean((0, 2, 3)).sqrt().view(shape)
    by_hand = {
        "raw": images,
        "standardised": ((images - mean) / std).float(),
        "centred": (images - images.double().mean(0)).float(),
    }
    signs = torch.where(labels == 0, 1.0, -1.0)
    for name, inputs in by_hand.items():
        found = scored(images, labels, transform=name)
        close(found.values, cg_score(inputs, signs), rtol=1e-3, atol=1e-4)
        assert found.title == ("cg_score" if name == "raw" else f"cg_score:transform={name}")


@pytest.mark.parametrize("protocol", ["random", "rest"])
def test_iteration_ranks_as_the_exact_score_does_and_says_how_well(protocol):
    inputs, labels, _ = digits(500)
    exact = scored(inputs, labels, protocol=protocol)
    near = scored(inputs, labels, protocol=protocol, solver="iteration")
    assert spearmanr(near.values, exact.values).statistic > 0.98
    assert near.diagnostics["iterations"] < 300 and near.diagnostics["largest relative residual"] <= 1e-4 and not near.warnings
    (told,) = [value for name, value in near.diagnostics.items() if name.startswith("Spearman with the exact score on ")]
    assert 0.97 < told < 1


def test_iteration_takes_equal_rows_as_they_are():
    inputs, labels, _ = digits(200)
    inputs[100], labels[100] = 3 * inputs[0], labels[0]
    exact = scored(inputs, labels, protocol="rest")
    near = scored(inputs, labels, protocol="rest", solver="iteration")
    assert near.values[[0, 100]].tolist() == exact.values[[0, 100]].tolist() == [0, 0]
    labels[100] = (labels[0] + 1) % 10
    near = scored(inputs, labels, protocol="rest", solver="iteration", iterations=300)
    assert near.diagnostics["jitter"] == 0.5e-6 and "0, 100" in near.warnings[0]
    assert bool(near.values.isfinite().all())


def test_blocks_come_near_the_exact_score_and_say_how_near():
    inputs, labels, _ = digits(600)
    exact = scored(inputs, labels, protocol="rest")
    few, many = (scored(inputs, labels, protocol="rest", solver="blocks", block=150, repeats=n) for n in (1, 8))
    agreement = [spearmanr(one.values, exact.values).statistic for one in (few, many)]
    assert 0.4 < agreement[0] < agreement[1] < 0.999
    told = many.diagnostics["Spearman with the exact score on 600 of the examples"]
    assert abs(told - agreement[1]) < 0.1
    whole = scored(inputs, labels, protocol="rest", solver="blocks", block=600, repeats=1)
    close(whole.values, exact.values)


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": "rest", "ratio": 2.0},
        {"protocol": "rest", "repeats": 3},
        {"iterations": 5},
        {"probes": 5},
        {"solver": "iteration", "block": 10},
    ],
)
def test_an_option_that_would_not_be_read_is_refused(options):
    with pytest.raises(UsageError, match=f"{list(options)[-1]} is not read with"):
        CGScore(**options)


def test_an_iteration_that_stops_too_soon_says_so():
    inputs, labels, _ = digits(300)
    near = scored(inputs, labels, protocol="rest", solver="iteration", iterations=3)
    assert near.diagnostics["iterations"] == 3
    assert "stopped with a residual of" in near.warnings[0] and "more than 3 iterations" in near.warnings[0]


def test_whole_numbers_and_short_floats_are_what_they_are_worth():
    inputs, labels, _ = digits(120)
    whole = (inputs * 16).round()
    for transform in ("raw", "standardised", "centred"):
        expected = scored(whole.double(), labels, transform=transform).values
        for dtype in (torch.int64, torch.uint8, torch.bfloat16):
            assert torch.equal(scored(whole.to(dtype), labels, transform=transform).values, expected)
    blocks = {"protocol": "rest", "solver": "blocks", "block": 40, "repeats": 2}
    assert torch.equal(scored(whole.to(torch.bfloat16), labels, **blocks).values, scored(whole.double(), labels, **blocks).values)


def test_what_has_no_score_at_all_is_refused_in_words():
    labels = torch.arange(20) % 2
    same = torch.ones(20, 3)
    for inputs, transform in ((torch.zeros(20, 3), "raw"), (same, "centred")):
        with pytest.raises(UsageError, match="every input is all zeros"):
            scored(inputs, labels, transform=transform)
    rows, clashing = random(20, 5, 0)[0], labels.clone()
    rows[1], clashing[:2] = rows[0], torch.tensor([0, 1])
    with pytest.raises(UsageError, match=r"cg_score:jitter=1e-20: Rows \d+ and \d+ point the same way, so that H has no inverse"):
        scored(rows.float(), clashing, jitter=1e-20)


def test_a_kernel_that_is_too_large_is_refused_and_a_small_sample_compares():
    inputs, labels, _ = digits(300)
    with pytest.raises(
        UsageError, match="a kernel of 300 examples takes 0 GB; choose solver=iteration or solver=blocks, or allow"
    ):
        scored(inputs, labels, protocol="rest", largest=200)
    found = scored(inputs, labels, protocol="rest", solver="blocks", block=100, largest=300)
    assert "Spearman with the exact score on 300 of the examples" in found.diagnostics
    # In a single block nothing is drawn, so there is one repetition and no interval of no width.
    whole = scored(inputs, labels, protocol="rest", solver="blocks", block=300)
    assert whole.repeats is None


def test_equal_rows_of_one_label_do_not_clash():
    inputs, labels, _ = digits(100)
    inputs[50], labels[50] = 2 * inputs[0], labels[0]
    found = scored(inputs, labels, protocol="rest", term="b2")
    assert "inputs of 0, 50 point the same way; 5e-11 was added" in found.warnings[0]
