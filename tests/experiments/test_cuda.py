"""The same plan on both devices: the CPU and the GPU differ by rounding alone."""

import pytest
import torch

import assay
from assay import nets
from assay.experiments.scorable import scorable
from assay.maths.ranking import rank_correlation
from assay.training import predict
from experiments import small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DIFFERENTIATED = (
    "grand",
    "vog",
    "prediction_depth",
    "prediction_depth:reference=label",
    "tracin:target=self",
    "oti",
    "liveval",
    "in_run_shapley",
    "influence:damping=0.1",
    "influence:damping=0.1,solver=ekfac",
    "self_influence:damping=0.1",
    "sgd_influence",
    "sgd_influence:form=last_parameters",
    "sgd_influence:form=gauss_newton",
    "sgd_influence:form=fisher",
    "influence:solver=cholesky,layers=head,form=newton_step,damping=1.0",
    "influence:solver=ekfac,form=leverage,damping=1.0",
    "self_influence:solver=cholesky,layers=head",
    "source",
    "trak",
    "trak:projection=kronecker,output=loss",
)
"""Methods that need more than what was written down while training."""


def recorded(folder, device, **changed):
    """A small net at a small rate, so that rounding is not multiplied."""
    recipe = {"device": device, "lr": 0.02, "momentum": 0.0}
    return small.recorded(
        folder,
        net="mlp:widths=32",
        recipe=recipe,
        validation=0.2,
        record={"checkpoints": "every", "keep_logits": True},
        **changed,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return {device: recorded(folder / device, device) for device in ("cpu", "cuda")}


def test_scores_agree_across_devices(runs):
    able, _ = scorable(runs["cpu"])
    tables = {device: assay.score(run, [*able, *DIFFERENTIATED]) for device, run in runs.items()}
    assert len(tables["cpu"]) == len(able) + len(DIFFERENTIATED)
    for here, there in zip(tables["cpu"].values(), tables["cuda"].values(), strict=True):
        spread = float(here.values.std())
        gap = float((here.values - there.values).abs().max())
        assert gap <= 1e-3 * max(spread, 1e-6), f"{here.title}: differs by {gap:g}, with a spread of {spread:g}"
        if spread:
            assert float(rank_correlation(torch.stack([here.values, there.values]))[0, 1]) > 0.999, here.title


def test_a_run_on_the_gpu_repeats_itself(runs, tmp_path):
    again = recorded(tmp_path / "again", "cuda")
    assert small.contents(again) == small.contents(runs["cuda"])
    assert all(
        torch.equal(one.values, other.values)
        for one, other in zip(
            assay.score(runs["cuda"], DIFFERENTIATED).values(), assay.score(again, DIFFERENTIATED).values(), strict=True
        )
    )


def test_convolutions_keep_all_bits_of_float32():
    model = nets.build("block_conv", (3, 32, 32), 10, seed=0)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    here, there = (predict(model, images, device=device) for device in ("cpu", "cuda"))
    # Factors rounded to the ten bits of TF32 move these logits by 6e-6 of the largest, float32 by 5e-8.
    torch.testing.assert_close(there, here, rtol=0, atol=1e-6 * float(here.abs().max()))
