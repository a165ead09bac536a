"""The protocol of `assay study fidelity` once more without the library's replay, adjoints and leave-one-out, over more seeds.

Truth: 201 trainings side by side as one stack of parameters, each but the first with one example's loss at weight 0. Exact SGD-influence:
the derivative of the validation loss by the example weights, by autograd through one graph of the whole training. Same data, settings and
measures as the study, whose values per seed it must meet.
"""

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from scipy.stats import kendalltau
from torch import Tensor

from assay.core.fidelity import spread
from assay.studies.fidelity import PROTOCOL, PUBLISHED, SETTINGS, Setting, alpha_of, drawn, ends, loaded, net_of


def logits(params: list[Tensor], inputs: Tensor) -> Tensor:
    """(nets, batch), of a stack of nets of linear layers with ReLU between them."""
    values = torch.einsum("bi,noi->nbo", inputs, params[0]) + params[1][:, None]
    for place in range(2, len(params), 2):
        values = torch.einsum("nbi,noi->nbo", torch.relu(values), params[place]) + params[place + 1][:, None]
    return values[..., 0]


def losses(params: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """(nets, batch), without regulariser."""
    found = logits(params, inputs)
    return F.binary_cross_entropy_with_logits(found, labels.expand_as(found), reduction="none")


def train(
    setting: Setting, start: list[Tensor], x: Tensor, y: Tensor, weights: Tensor, alpha: float, graph: bool
) -> list[Tensor]:
    """The parameters after training with these example weights, one row for each net."""
    params = [value.expand(len(weights), *value.shape).clone().requires_grad_() for value in start]
    chunks, step = math.ceil(len(y) / setting.batch), 0
    for epoch in range(setting.epochs):
        for batch in np.array_split(np.random.RandomState(epoch).permutation(len(y)), chunks):
            rate = setting.rate / math.sqrt(step + 1) if setting.decays else setting.rate
            own = losses(params, x[batch], y[batch])
            own = own + alpha / 2 * torch.stack([p.square().flatten(1).sum(1) for p in params]).sum(0)[:, None]
            total = (weights[:, batch] * own).sum() / len(batch)
            gradients = torch.autograd.grad(total, params, create_graph=graph)
            params = [p - rate * g for p, g in zip(params, gradients, strict=True)]
            if not graph:
                params = [p.detach().requires_grad_() for p in params]
            step += 1
    return params


def one_seed(setting: Setting, whole: tuple[np.ndarray, np.ndarray], seed: int, size: int = PROTOCOL) -> dict[str, float]:
    """How well exact influence agrees with the truth."""
    parts = drawn(*whole, seed, size)
    alpha = alpha_of(parts[0], parts[1], seed) if setting.alpha is None else setting.alpha
    torch.manual_seed(seed)
    start = [p.detach() for p in net_of(setting.net, parts[0].shape[1]).double().parameters()]
    x, y, held, held_labels = (torch.from_numpy(part).double() for part in parts)
    weights = torch.ones(size + 1, size, dtype=torch.float64)
    weights[torch.arange(size) + 1, torch.arange(size)] = 0
    after = losses(train(setting, start, x, y, weights, alpha, False), held, held_labels).mean(1).detach()
    truth = (after[1:] - after[0]).numpy()
    ones = torch.ones(1, size, dtype=torch.float64, requires_grad=True)
    target = losses(train(setting, start, x, y, ones, alpha, True), held, held_labels).mean()
    exact = -torch.autograd.grad(target, ones)[0][0].numpy()
    both = ends(exact), ends(truth)
    return {
        "tau": float(kendalltau(exact, truth).statistic),
        "jaccard": len(both[0] & both[1]) / len(both[0] | both[1]),
    }


def main() -> None:
    """Measure one setting over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-path", required=True, help="folder that holds the folders adult (adult-training.csv, adult-test.csv) and mnist"
    )
    parser.add_argument("--setting", choices=tuple(name for name, one in SETTINGS.items() if one.data != "digits"), required=True)
    parser.add_argument("--seeds", type=int, default=100, help="how many, from 0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setting = SETTINGS[given.setting]
    whole = loaded(setting.data, str(Path(given.data_path) / setting.data))
    found = [one_seed(setting, whole, seed) for seed in range(given.seeds)]
    measures = {"tau": -1.0, "jaccard": 0.0}
    figures = {
        "published": [dataclasses.asdict(one) for one in PUBLISHED if one.setting == given.setting],
        **{measure: dataclasses.asdict(spread([one[measure] for one in found], lowest)) for measure, lowest in measures.items()},
        "by seed": {measure: [round(one[measure], 6) for one in found] for measure in measures},
    }
    report(f"fidelity_reference-{given.setting}", figures, given.out)


if __name__ == "__main__":
    main()
