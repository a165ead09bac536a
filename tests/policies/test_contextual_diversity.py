import numpy as np
import pytest
import torch

from assay.core.errors import UsageError
from assay.core.selection import choose
from assay.policies.contextual_diversity import ContextualDiversity
from policies.worlds import in_features

VARIANTS = [{}, {"by_class": True, "features": "rows:other"}]
REFUSED = ["keep=-0.1", "keep=1.5", "features=inputs,keep=0.1", "features=penultimate,keep=0.1"]


def of(probs, **more):
    with np.errstate(divide="ignore"):
        return in_features(np.zeros((len(probs), 1)).tolist(), logits=np.maximum(np.log(probs), -700), **more)


def test_by_hand():
    # The third is nearest to the mean; the first two are certain, of two classes, and the last is like the third.
    made = of([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4], [0.5, 0.5]], ids=[4, 3, 2, 1])
    decision = choose(ContextualDiversity(3, features="rows:logits"), None, made)
    assert list(decision.order) == [1, 3, 4] and decision.reasons[3].startswith("center 1, predicted nearest to the mean")
    # 0.5 (1 - 0.5) (ln 1 - ln 0.5) + 0.5 (0.5) (ln 0.5 - ln 1e-12), where a probability of 0 without 1e-12 gives no number.
    assert decision.reasons[1] == f"center 2, predicted {0.25 * np.log(1e12):.4g} nats from the nearest one before it"


def test_the_softmax_of_logits_is_what_is_compared_whatever_is_added_to_them():
    probs = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    plain = choose(ContextualDiversity(0.3, features="rows:logits"), None, of(probs))
    made = in_features(np.zeros((40, 1)).tolist(), logits=np.log(probs) + np.arange(40)[:, None])
    assert choose(ContextualDiversity(0.3, features="rows:logits"), None, made).order == plain.order


def test_what_has_no_softmax_is_refused():
    with pytest.raises(UsageError, match="features=penultimate are no class predictions; give logits"):
        ContextualDiversity(1, features="penultimate")
    with pytest.raises(UsageError, match="rows:logits has 1 number for each example; give one logit for each"):
        choose(ContextualDiversity(1, features="rows:logits"), None, in_features([[0.0], [1.0]], logits=torch.ones(2, 1)))
