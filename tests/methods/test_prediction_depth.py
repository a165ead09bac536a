"""Prediction depth, against what was computed elsewhere and by hand, and its options on a real run."""

import pathlib

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import assay
from assay.core.errors import MissingEvidence, UnknownName, UsageError
from assay.methods.prediction_depth import depth, prediction_depth, probe
from experiments import small

VARIANTS = [
    {"k": 15},
    {"k": 15, "reference": "label"},
    {"k": 15, "reference": "consensus", "last": 2},
    {"k": 9, "support": 0.7, "itself": True, "project": 4},
]
REFUSED = ["seed=2", "k=0", "reference=truth", "last=0", "support=0", "project=0", "tie=middle", "layers=a++b", "at=-2"]

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "prediction_depth.npz"
K = 30


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        held = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: value.to(torch.int64) if value.dtype == torch.int16 else value for key, value in held.items()}


@pytest.fixture(scope="module")
def layers(golden):
    return [golden[f"emb{layer}"].double() for layer in range(5)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("loo", {}), ("self", {"itself": True}), ("support", {"support": None}), ("self_hightie", {"itself": True, "tie": "high"})],
)
def test_probes_equal_what_was_computed_elsewhere(golden, layers, kind, options):
    if "support" in options:
        options = {"support": golden["support_idx"]}
    found = torch.stack([probe(rows, golden["label"], K, **options) for rows in layers])
    assert torch.equal(found, golden[f"knn_{kind}"])
    single = torch.stack([probe(rows.float(), golden["label"], K, **options) for rows in layers])
    assert torch.equal(single, found)


def test_depths_equal_what_was_computed_elsewhere(golden, layers):
    label, final = golden["label"], golden["final_pred"]
    assert torch.equal(prediction_depth(layers, label, final), golden["pd_paper_loo"])
    assert torch.equal(prediction_depth(layers, label, label), golden["pd_label_loo"])
    probes = {kind: golden[f"knn_{kind}"] for kind in ("loo", "self", "support", "self_hightie")}
    assert torch.equal(depth(probes["self"], final), golden["pd_paper_self"])
    assert torch.equal(depth(probes["support"], final), golden["pd_support"])
    assert torch.equal(depth(probes["loo"], probes["loo"][-1]), golden["pd_consensus_lastknn_loo"])
    assert torch.equal(depth(probes["self_hightie"], label), golden["pd_course_layers5"])
    assert torch.equal(2 + depth(probes["self_hightie"][2:], label), golden["pd_course_layers3"])


def test_depth_by_hand():
    probes = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 0]])
    assert depth(probes, torch.ones(5, dtype=torch.int64)).tolist() == [0, 1, 2, 2, 3]


def test_without_layers_or_neighbours_there_is_no_depth():
    labels = torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="at least one layer"):
        prediction_depth([], labels, labels)
    with pytest.raises(ValueError, match="k=3 neighbours are asked for and there are 2"):
        prediction_depth([torch.eye(3)], labels, labels, k=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """397 digits with planted wrong labels, a net of two hidden layers, all models kept."""
    folder = tmp_path_factory.mktemp("depth") / "run"
    return small.recorded(
        folder, net="mlp:widths=32-16", recipe={"epochs": 8}, record={"checkpoints": "every"}, plant={"rate": 0.2}
    )


def scored(run, spec):
    return assay.score(run, spec)[spec]


def test_a_run_is_scored_by_the_layers_of_its_last_model(run):
    found = scored(run, "prediction_depth:k=10,tie=low")
    assert found.diagnostics == {"layers": ["(input)", "1", "3", "(softmax)"]} and found.unit == "layers"
    loaded = small.plan(plant={"rate": 0.2}).load()
    state, rows = run.model(7), loaded.train.prepared(loaded.train.inputs).flatten(1)
    one = rows @ state["1.weight"].T + state["1.bias"]
    two = one.relu() @ state["3.weight"].T + state["3.bias"]
    probs = (two.relu() @ state["5.weight"].T + state["5.bias"]).softmax(1)
    expected = prediction_depth([rows, one, two, probs], loaded.train.labels, probs.argmax(1), k=10)
    # The same layers by other products: which of two neighbours is nearer may turn where they are equally near but for rounding.
    assert float((found.values == expected).double().mean()) > 0.98
    early = scored(run, "prediction_depth:k=10,at=0,tie=low")
    assert not torch.equal(early.values, found.values)


def test_the_given_label_as_reference_finds_wrong_labels(run):
    wrong = small.plan(plant={"rate": 0.2}).load().wrong

    def auc(spec):
        values = scored(run, spec).values
        gap = values[wrong][:, None] - values[~wrong]
        return float(((gap > 0).double() + 0.5 * (gap == 0)).mean())

    assert auc("prediction_depth:k=10,reference=label") > 0.9
    assert auc("prediction_depth:k=10") < 0.8


def test_the_last_layers_keep_their_numbers(run):
    whole, last = (scored(run, f"prediction_depth:k=10,reference=label{more}").values for more in ("", ",last=2"))
    assert set(last.tolist()) <= {2, 3, 4} and torch.equal(last, whole.clamp(min=2))
    named = scored(run, "prediction_depth:k=10,layers=2")
    assert named.diagnostics["layers"] == ["(input)", "2", "(softmax)"]


def test_projection_and_support_say_how_near_they_come(run):
    exact = scored(run, "prediction_depth:k=10").values
    for more in ("project=12", "support=0.5"):
        found = scored(run, f"prediction_depth:k=10,{more}")
        share = float((found.values == exact).double().mean())
        # All 397 are in the sample.
        assert found.diagnostics["share of 397 examples whose depth is the exact one"] == share < 1
        assert found.diagnostics["Spearman with the exact depth of 397 examples"] == pytest.approx(
            spearmanr(found.values, exact).statistic
        )
        assert share > 0.5


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("prediction_depth:k=400", UsageError, "k=400 neighbours are asked for and there are 396"),
        ("prediction_depth:support=0.05,k=20", UsageError, "k=20 neighbours are asked for and there are 19"),
        ("prediction_depth:layers=body", UnknownName, "No layer of the model is named 'body'"),
        ("prediction_depth:at=9", MissingEvidence, "reads the model of epoch 9"),
    ],
)
def test_what_cannot_be_scored_is_refused(run, spec, error, words):
    with pytest.raises(error, match=words):
        assay.score(run, spec)
