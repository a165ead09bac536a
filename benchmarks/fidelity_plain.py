"""The exact form of fidelity.py once more, in plain torch and without assay: an independent check, over as many seeds as were published.

All 201 trainings (each example left out, and none) run side by side as one batch of nets, and the exact influence is the derivative of the
whole training as one graph.
"""

import argparse
import math
from pathlib import Path

import fidelity
import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from scipy.stats import kendalltau
from torch import Tensor

SIZE = fidelity.SIZE


def outputs(layers: list[Tensor], inputs: Tensor) -> Tensor:
    """(nets, examples): the logits of many nets, each layer a weight (nets, out, in) and a bias (nets, out)."""
    values = inputs.expand(len(layers[0]), *inputs.shape)
    for place in range(0, len(layers), 2):
        values = torch.einsum("nei,noi->neo", values, layers[place]) + layers[place + 1][:, None]
        values = torch.relu(values) if place + 2 < len(layers) else values
    return values[..., 0]


def entropies(layers: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """(nets, examples): binary cross-entropy of each."""
    logits = outputs(layers, inputs)
    return F.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none")


def trained(
    start: list[Tensor], weights: Tensor, data: tuple[Tensor, Tensor], steps: list, alpha: float, graph: bool
) -> list[Tensor]:
    """The nets after plain SGD with these loss weights (nets, examples)."""
    layers = [part.expand(len(weights), *part.shape).clone().requires_grad_() for part in start]
    for batch, rate in steps:
        decay = torch.stack([part.square().flatten(1).sum(1) for part in layers]).sum(0)
        losses = entropies(layers, data[0][batch], data[1][batch]) + alpha / 2 * decay[:, None]
        total = (weights[:, batch] * losses).sum() / len(batch)
        gradients = torch.autograd.grad(total, layers, create_graph=graph)
        layers = [part - rate * gradient for part, gradient in zip(layers, gradients, strict=True)]
        if not graph:
            layers = [part.detach().requires_grad_() for part in layers]
    return layers


def one_seed(setting: fidelity.Setting, whole: tuple[np.ndarray, np.ndarray], seed: int) -> dict[str, float]:
    """Kendall's tau and Jaccard overlap of the exact influence with leaving out."""
    x, y, held, held_labels = (torch.from_numpy(part).double() for part in fidelity.drawn(*whole, seed))
    alpha = fidelity.alpha_of(x.numpy(), y.numpy(), seed) if setting.net == "logreg" else 0.001
    torch.manual_seed(seed)
    start = [part.detach() for part in fidelity.net_of(setting.net, x.shape[1]).double().parameters()]
    chunks = math.ceil(SIZE / setting.batch)
    orders = [np.array_split(np.random.RandomState(epoch).permutation(SIZE), chunks) for epoch in range(setting.epochs)]
    batches = [batch for order in orders for batch in order]
    steps = [(batch, 0.1 / math.sqrt(t + 1) if setting.decays else 0.1) for t, batch in enumerate(batches)]
    without = torch.cat([torch.ones(1, SIZE), 1 - torch.eye(SIZE)]).double()
    nets = trained(start, without, (x, y), steps, alpha, graph=False)
    after = entropies(nets, held, held_labels).mean(1).detach()
    truth = (after[1:] - after[0]).numpy()
    weights = torch.ones(1, SIZE, dtype=torch.float64, requires_grad=True)
    net = trained(start, weights, (x, y), steps, alpha, graph=True)
    exact = -torch.autograd.grad(entropies(net, held, held_labels).mean(), weights)[0][0].numpy()
    one, other = fidelity.ends(exact), fidelity.ends(truth)
    return {"tau": float(kendalltau(exact, truth).statistic), "jaccard": len(one & other) / len(one | other)}


def main() -> None:
    """Measure one setting over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", required=True, help="folder that holds the folders adult and mnist")
    parser.add_argument("--setting", choices=tuple(fidelity.SETTINGS), required=True)
    parser.add_argument("--seeds", type=int, default=100, help="how many, from 0")
    parser.add_argument("--out", help="folder for the JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = fidelity.SETTINGS[given.setting]
    place = Path(given.data_path) / setting.data
    whole = fidelity.adult(place) if setting.data == "adult" else fidelity.ones_and_sevens(place)
    found = [one_seed(setting, whole, seed) for seed in range(given.seeds)]
    figures = {name: fidelity.summary([one[name] for one in found]) for name in ("tau", "jaccard")}
    report(f"fidelity_plain-{given.setting}", {**figures, "seeds": found}, given.out)


if __name__ == "__main__":
    main()
