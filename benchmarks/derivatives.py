"""What inner products with gradients and gradient norms by `maths.derivatives` cost beside one forward and backward pass, and beside the ways that they replace.

Six-convolution CNN, one CIFAR-10 batch, eval mode (so that every example has a gradient of its own). Each way runs in a process of its
own, which tells the median of its seconds and how far its memory rose above what it held before. Every process times the forward
and backward pass too, in turn with its way, and the ratio is taken within the process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import forget_peak, report, resident_mb
from torch.func import functional_call, grad, vmap

from assay import nets
from assay.maths.derivatives import directional
from assay.maths.layer_rules import example_products

ASKED = {"directional": 1.4, "norms": 2.2}


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One number per example."""
    return F.cross_entropy(outputs, targets, reduction="none")


def ways(batch: int, device: str) -> dict:
    """Each way as a function without arguments."""
    torch.manual_seed(0)
    module = nets.build("six_conv", (3, 32, 32), 10, seed=0).eval().to(device)
    inputs, targets = torch.randn(batch, 3, 32, 32).to(device), torch.randint(10, (batch,)).to(device)
    params = {name: value.detach() for name, value in module.named_parameters()}
    direction = {name: torch.randn_like(value) for name, value in params.items()}

    def losses(here):
        return loss(functional_call(module, here, (inputs,)), targets)

    def train_step():
        module.zero_grad(set_to_none=True)
        loss(module(inputs), targets).mean().backward()

    def one(here, x, y):
        return loss(functional_call(module, here, (x[None],)), y[None])[0]

    def vmapped(chunk=16):
        return torch.cat(
            [
                torch.stack(
                    [g.flatten(1).square().sum(1) for g in vmap(grad(one), in_dims=(None, 0, 0))(params, x, y).values()]
                ).sum(0)
                for x, y in zip(inputs.split(chunk), targets.split(chunk), strict=True)
            ]
        )

    def looped():
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        return [torch.autograd.grad(one(leaves, x, y), list(leaves.values())) for x, y in zip(inputs, targets, strict=True)]

    return {
        "train": train_step,
        "directional": lambda: directional(losses, params, direction),
        "norms": lambda: example_products(module, params, inputs, targets, loss).grad_sq_norms,
        "vmap of gradients": vmapped,
        "loop over examples": looped,
    }


def megabytes_of(way: Callable[[], object], device: str) -> float:
    """By how much memory rises above what was held before: the process's, or that of the device."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    forget_peak()
    before = resident_mb("VmRSS")
    way()
    return resident_mb("VmHWM") - before


def seconds_of(way: Callable[[], object], device: str, times: int) -> float:
    """Seconds of each of some calls, the device waited for."""
    began = time.perf_counter()
    for _ in range(times):
        way()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def side(name: str, given: argparse.Namespace) -> dict:
    """Seconds of one way and of the forward and backward pass in turn; MB above what was held before."""
    every = ways(given.batch, given.device)
    # On the CPU memory first, while nothing that was freed lies about to be used again; CUDA's libraries take theirs in a first call.
    if given.device == "cuda":
        every[name]()
    megabytes = megabytes_of(every[name], given.device)
    every["train"]()
    # A batch takes a GPU a few milliseconds.
    times = 10 if given.device == "cuda" else 1
    seconds: dict[str, list[float]] = {name: [], "train": []}
    for _ in range(given.repeats):
        for way in seconds:
            seconds[way].append(seconds_of(every[way], given.device, times))
    ratios = [a / b for a, b in zip(seconds[name], seconds["train"], strict=True)]
    return {"seconds": statistics.median(seconds[name]), "times forward and backward": statistics.median(ratios), "MB": megabytes}


def main() -> None:
    """One process per way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.side:
        print(json.dumps(side(given.side, given)))
        return
    figures: dict[str, dict] = {}
    for name in ways(2, "cpu"):
        command = [sys.executable, __file__, "--side", name]
        for key in ("batch", "repeats", "threads", "device"):
            command += [f"--{key}", str(getattr(given, key))]
        figures[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figures[name]["times its memory"] = figures[name]["MB"] / figures["train"]["MB"]
        if name in ASKED:
            figures[name]["asked: at most"] = ASKED[name]
    place = {"device": torch.cuda.get_device_name()} if given.device == "cuda" else {}
    name = "derivatives-cuda" if given.device == "cuda" else "derivatives"
    report(name, {"batch": given.batch, **place, "by way": figures}, given.out)


if __name__ == "__main__":
    main()
