"""Influence on a language model with LoRA: a toy GPT is fine-tuned by adapters on sequences of which some are noise, recorded by one loss for each
sequence, and the change of a held-out loss that methods predict is compared with training again without each sequence.

Needs transformers and peft; nothing is downloaded, the model is made from a configuration and trained a little on its own before.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from machine import report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.maths.ranking import concordance

WORDS, LENGTH, PADDED = 32, 16, -100
METHODS = ("sgd_influence", "tracin")
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3, eps=1e-4),
}


def sequences(count: int, seed: int, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels of sequences of different lengths, each token the last one plus one of two steps; a part of them is noise."""
    draw = torch.Generator().manual_seed(seed)
    first, steps = torch.randint(WORDS, (count, 1), generator=draw), torch.tensor([3, 5])
    moves = steps[torch.randint(2, (count, LENGTH - 1), generator=draw)]
    tokens = torch.cat([first, moves], 1).cumsum(1) % WORDS
    random = torch.randint(WORDS, (count, LENGTH), generator=draw)
    bad = torch.arange(count) < round(noise * count)
    tokens = torch.where(bad[:, None], random, tokens)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (count, 1), generator=draw)
    return tokens, torch.where(torch.arange(LENGTH) < lengths, tokens, PADDED)


def losses(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The mean loss of each sequence over the tokens that count."""
    tokens, labels = batch
    return assay.token_losses(model(input_ids=tokens).logits[:, :-1], labels[:, 1:])


def adapted(seed: int = 0) -> nn.Module:
    """A small GPT that knows sequences of another kind, frozen, with adapters in its attention."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    size = {
        "vocab_size": WORDS,
        "n_positions": LENGTH,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    base = GPT2LMHeadModel(GPT2Config(**size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    optimizer = torch.optim.AdamW(base.parameters(), lr=3e-3)
    tokens, labels = sequences(256, seed + 1)
    for part in torch.arange(256).split(32):
        optimizer.zero_grad()
        losses(base, (WORDS - 1 - tokens[part], WORDS - 1 - labels[part].clamp(min=0))).mean().backward()
        optimizer.step()
    return get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True))


def fine_tuned(folder: Path, examples: int, epochs: int, optimizer_name: str) -> assay.Loop:
    """Record the fine-tuning of the adapters."""
    tokens, labels = sequences(examples, 5, noise=0.1)
    model = adapted()
    optimizer = OPTIMIZERS[optimizer_name]([one for one in model.parameters() if one.requires_grad])
    loader = DataLoader(TensorDataset(tokens, labels), 8, shuffle=True)
    keep, data = assay.Recording(checkpoints="every"), assay.DataSpec(losses=losses)
    with assay.record(folder, model, optimizer, loader, keep, data=data, seed=0) as recorder:
        for _ in range(epochs):
            for batch in recorder.epoch():
                values = losses(model, batch)
                optimizer.zero_grad()
                values.mean().backward()
                optimizer.step()
                recorder.losses(values)
    return assay.Loop(model, optimizer, loader, losses=losses)


def compared(folder: Path, loop: assay.Loop, methods: tuple[str, ...] = METHODS) -> dict[str, dict[str, float]]:
    """Of each method: Kendall's tau and the largest difference with leave-one-out, and seconds."""
    targets, found = {"validation": sequences(32, 9)}, {}
    for title in ("loo", *methods):
        began = time.perf_counter()
        (scores,) = assay.score(folder, title, loop=loop, targets=targets).values()
        found[title] = scores, time.perf_counter() - began
    truth, figures = found["loo"][0], {}
    for title, (scores, seconds) in found.items():
        figures[title] = {"tau with leave-one-out": concordance(scores.values, truth.values), "seconds": seconds}
        if scores.unit == truth.unit:
            apart = (scores.values - truth.values).abs().max() / truth.values.abs().max()
            figures[title]["largest difference, as a part of the largest value"] = float(apart)
    return figures


def main() -> None:
    """Fine-tune, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures: dict = {"sequences": given.examples, "epochs": given.epochs}
    for name in OPTIMIZERS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "run"
            loop = fine_tuned(folder, given.examples, given.epochs, name)
            figures["parameters trained"] = sum(one.numel() for one in loop.model.parameters() if one.requires_grad)
            figures[name] = compared(folder, loop)
            print(name, figures[name], flush=True)
    report("lora", figures, given.out)


if __name__ == "__main__":
    main()
