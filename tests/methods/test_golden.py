"""Expected values from elsewhere (tests/golden/README.md): by the pure functions, by the folds in memory, from a recorded run."""

import pytest
import torch

from assay.core.ids import Ids
from assay.core.scoring import score
from assay.experiments.evidence import gather, gather_logits
from assay.methods import parse
from assay.methods.aum import aum
from assay.methods.confidence import confidence
from assay.methods.correctness import correctness
from assay.methods.dual import dual
from assay.methods.dyn_unc import dyn_unc
from assay.methods.el2n import el2n
from assay.methods.entropy import entropy
from assay.methods.forgetting import forgetting
from assay.methods.least_confidence import least_confidence
from assay.methods.loss import loss
from assay.methods.margin import margin
from assay.methods.tdds import tdds
from assay.methods.threshold_closeness import threshold_closeness
from assay.methods.variability import variability
from methods.worlds import golden, on_disk

TDDS_FORMS = {"": {}, "sumsq_": {"outer": "sumsq"}, "kl_sumsq_": {"inner": "kl", "outer": "sumsq"}}
TDDS_SPANS = [(30, 10), (20, 10), (10, 5), (40, 20)]

BY_METHOD = {
    "dual": "dual:epochs=30",
    "dynunc": "dyn_unc",
    "dynunc_drop_last": "dyn_unc:drop_last=true",
    "dynunc_T": "dyn_unc:epochs=30",
    "el2n": "el2n:at=20",
    "el2n_mean_first": "el2n:at=0,span=10",
    "el2n_sum_first": "el2n:at=0,span=10,reduce=sum",
    "el2n_mean_all": "el2n:at=0,span=40",
    "aum": "aum",
    "aum_T": "aum:epochs=30",
    "aum_prob_sum": "aum:form=probs,reduce=sum",
    "forgetting_cap": "forgetting",
    "forgetting_count": "forgetting:never_learned=count",
    "entropy": "entropy",
    "least_confidence": "least_confidence",
    "margin": "margin",
    "confidence": "confidence",
    "variability": "variability",
    "variability_ddof1": "variability:ddof=1",
    "correctness": "correctness",
    "threshold_closeness": "threshold_closeness",
    "loss_mean": "loss",
} | {
    f"tdds_{form}{span}_{window}": ",".join(
        [f"tdds:epochs={span},window={window}", *(f"{key}={value}" for key, value in options.items())]
    )
    for form, options in TDDS_FORMS.items()
    for span, window in TDDS_SPANS
}
"""Expected array, and the method that gives it."""


@pytest.fixture(scope="module")
def given():
    arrays = golden()
    logits = arrays["logits"].double()
    return arrays | {"logits": logits, "probs": logits.softmax(-1), "target": arrays["want_target_prob"]}


BY_FUNCTION = {
    "dual": lambda g: dual(g["target"][:30]),
    "dynunc": lambda g: dyn_unc(g["target"]),
    "dynunc_drop_last": lambda g: dyn_unc(g["target"], drop_last=True),
    "dynunc_T": lambda g: dyn_unc(g["target"][:30], 10),
    "el2n": lambda g: el2n(g["probs"][20], g["labels"]),
    "el2n_mean_first": lambda g: el2n(g["probs"][:10], g["labels"]),
    "el2n_sum_first": lambda g: 10 * el2n(g["probs"][:10], g["labels"]),
    "el2n_mean_all": lambda g: el2n(g["probs"], g["labels"]),
    "aum": lambda g: aum(g["logits"], g["labels"]),
    "aum_T": lambda g: aum(g["logits"][:30], g["labels"]),
    "aum_prob_sum": lambda g: 40 * aum(g["probs"], g["labels"]),
    "forgetting": lambda g: forgetting(g["want_correct"]),
    "forgetting_cap": lambda g: forgetting(g["want_correct"], 40.0),
    "forgetting_count": lambda g: forgetting(g["want_correct"], 0.0),
    "entropy": lambda g: entropy(g["probs"][-1]),
    "least_confidence": lambda g: least_confidence(g["probs"][-1]),
    "margin": lambda g: margin(g["probs"][-1]),
    "confidence": lambda g: confidence(g["target"]),
    "variability": lambda g: variability(g["target"]),
    "variability_ddof1": lambda g: variability(g["target"], 1),
    "correctness": lambda g: correctness(g["want_correct"]),
    "threshold_closeness": lambda g: threshold_closeness(g["target"]),
    "loss_mean": lambda g: loss(
        torch.nn.functional.cross_entropy(g["logits"].flatten(0, 1), g["labels"].repeat(40), reduction="none").view(40, -1)
    ),
} | {
    f"tdds_{form}{span}_{window}": lambda g, options=options, span=span, window=window: tdds(g["probs"][:span], window, **options)
    for form, options in TDDS_FORMS.items()
    for span, window in TDDS_SPANS
}
"""Expected array, and the pure function that gives it."""


def exact(key):
    return {"atol": 0.0 if key.startswith("forgetting") else 1e-9 if key.startswith("tdds") else 1e-10, "rtol": 0}


def single(key):
    if key.startswith("forgetting"):
        return {"atol": 0.0, "rtol": 0}
    if key.startswith(("aum", "loss")):
        return {"atol": 1e-5, "rtol": 0}
    return {"atol": 2e-6 if key.startswith("tdds") else 1e-6 * (10 if key == "el2n_sum_first" else 1), "rtol": 0}


def want(key):
    return golden()[f"want_{key}"].double()


@pytest.mark.parametrize("key", BY_FUNCTION)
def test_pure_function(key, given):
    torch.testing.assert_close(BY_FUNCTION[key](given), want(key), **exact(key))


def test_every_expected_value_is_used():
    assert {key.removeprefix("want_") for key in golden() if key.startswith("want_")} == {*BY_FUNCTION, "correct", "target_prob"}
    assert set(BY_FUNCTION) == {*BY_METHOD, "forgetting"}


def compare(evidence, tolerance):
    for key, scores in zip(BY_METHOD, score([parse(spec) for spec in BY_METHOD.values()], evidence), strict=True):
        torch.testing.assert_close(scores.values, want(key), **tolerance(key), msg=lambda text, key=key: f"{key}: {text}")


def test_folds_in_memory(given):
    compare(gather_logits(Ids(range(120)), given["logits"], given["labels"]), exact)


def test_folds_in_single_precision():
    arrays = golden()
    compare(gather_logits(Ids(range(120)), arrays["logits"], arrays["labels"]), single)


def test_folds_over_a_recorded_run(tmp_path):
    arrays = golden()
    run = on_disk(tmp_path / "run", arrays["logits"], arrays["labels"])
    compare(gather(run), single)
    for epoch in (0, 39):
        assert torch.equal(run.shard(epoch).read("correct"), arrays["want_correct"][epoch])
