"""The accumulated form of SGD-influence (ACC-SGD-IE) for some examples, beside the exact form, influence and leave-one-out.

The settings, data and seeds of `assay study fidelity` (Hara et al. 2019, section 7.1). Of each seed's 200 training examples the first 20 are tracked;
Kendall's tau, and the mean absolute error as a part of the mean absolute change, are over these.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from scipy.stats import kendalltau
from torch import Tensor, nn

import assay
from assay.studies.fidelity import INFLUENCE, SETTINGS, alpha_of, drawn, loaded, losses_with, net_of
from assay.studies.own_loop import record

TRACKED = 20


def one_seed(cell: str, whole: tuple[np.ndarray, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Agreement of each form with leave-one-out over the tracked examples."""
    setting = SETTINGS[cell]
    x, y, held, held_labels = drawn(*whole, seed)
    alpha = alpha_of(x, y, seed) if setting.alpha is None else setting.alpha
    torch.manual_seed(seed)
    model = net_of(setting.net, x.shape[1]).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chunks = -(-len(y) // setting.batch)
    epochs = [np.array_split(np.random.RandomState(epoch).permutation(len(y)), chunks) for epoch in range(setting.epochs)]
    inputs, labels = torch.from_numpy(held), torch.from_numpy(held_labels).double()

    def validation(net: nn.Module) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(inputs)[:, 0], labels)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        loop = record(
            folder, model, optimizer, torch.from_numpy(x), torch.from_numpy(y), epochs,
            losses=losses_with(alpha), rate=(lambda step: 0.1 / (step + 1) ** 0.5) if setting.decays else None,
        )  # fmt: skip
        named = "+".join(str(one) for one in range(TRACKED))
        forms = {
            "exact": "sgd_influence",
            "accumulated, linear": f"sgd_influence:form=accumulated,ids={named}",
            "accumulated, evaluated": f"sgd_influence:form=accumulated,ids={named},at_end=evaluated",
            "influence": INFLUENCE[setting.net],
            "loo": "loo",
        }
        scores = assay.score_separately(folder, list(forms.values()), loop=loop, targets={"validation": validation})
        values = {form: score.values.numpy()[:TRACKED] for form, score in zip(forms, scores.values(), strict=True)}
    truth = values.pop("loo")
    return {
        form: {
            "tau": float(kendalltau(found, truth).statistic),
            "error": float(np.abs(found - truth).mean() / np.abs(truth).mean()),
        }
        for form, found in values.items()
    }


def main() -> None:
    """Measure settings over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="the folder that holds adult and mnist")
    parser.add_argument("--settings", nargs="+", default=["adult-logreg", "adult-dnn", "mnist-logreg", "mnist-dnn"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures: dict = {"tracked": TRACKED}
    for cell in given.settings:
        source = SETTINGS[cell].data
        whole = loaded(source, str(Path(given.data_path) / source))
        rows = [one_seed(cell, whole, seed) for seed in range(given.seeds)]
        figures[cell] = {
            form: {
                measure: {
                    "mean": float(np.mean([row[form][measure] for row in rows])),
                    "deviation": float(np.std([row[form][measure] for row in rows], ddof=1)),
                    "by seed": [row[form][measure] for row in rows],
                }
                for measure in ("tau", "error")
            }
            for form in rows[0]
        }
        for form, found in figures[cell].items():
            print(cell, form, *(f"{measure} {one['mean']:.3f}" for measure, one in found.items()), flush=True)
    report("accumulated", figures, given.out)


if __name__ == "__main__":
    main()
