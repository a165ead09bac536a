"""Finding flipped labels of texts: the methods that one recorded run can answer, beside 5-fold cross-validated self-confidence of the same net.

`trak` attributes to rows, and the target here is a function of the model; `source` refuses the embedding of places; games and Data-OOB train learners of rows.

Made texts: each has one of eight topics; a topic is a distribution over 2,000 words around a background that all share (Dirichlet), and a text mixes its topic with
the background and with one other topic. Texts have 16 to 64 words and are padded within their batch. A tenth of the labels moves to another topic.
The net is an encoder of two layers of width 64 with dropout, trained by AdamW in a plain loop over batches that are dicts.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import report
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

import assay

WORDS, TOPICS, BATCH, FOLDS = 2000, 8, 32, 5
GRADIENTS = (
    "tracin:target=self",
    "grand",
    "self_influence:layers=head",
    # Not of the embedding of places, which sees no example by itself.
    "self_influence:layers=words+layers+head",
    "vog",
    "tracin",
    "influence:layers=head",
    "influence:layers=words+layers+head,solver=ekfac",
)
STEPS = ("sgd_influence", "in_run_shapley", "oti", "liveval")
"""What repeats the recorded steps."""
WINDOWS = ("el2n:at=4", "dual:window=4", "dyn_unc:window=4", "tdds:window=4")
"""What asks for more epochs than these unless it is told."""
NEIGHBOURS = (
    *(
        "knn_disagreement:features=penultimate",
        "outlier_distance:features=penultimate",
        "prediction_depth",
        "selfclean:features=penultimate",
    ),
    *("knn_shapley:target=others,features=penultimate", "cg_score:features=penultimate"),
)
ASK = ("influence", "tracin", "sgd_influence", "in_run_shapley")
"""Whose scores are of a target."""
Batch = dict[str, Tensor]


class Encoder(nn.Module):
    """Words, places, two layers of attention, the mean over what is no padding, a linear head."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS + 1, 64), nn.Embedding(64, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, TOPICS)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits of the topics."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.layers(self.words(tokens) + self.places(places), src_key_padding_mask=~mask)
        weights = mask.to(hidden.dtype)[:, :, None]
        return self.head((hidden * weights).sum(1) / weights.sum(1))


def made(texts: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Words of each text, and its topic."""
    draw = np.random.RandomState(seed)
    background = draw.dirichlet(np.full(WORDS, 0.3))
    topics = [draw.dirichlet(40 * background + 1e-3) for _ in range(TOPICS)]
    words, labels = [], draw.randint(TOPICS, size=texts)
    for label in labels:
        other = topics[draw.randint(TOPICS)]
        mixed = 0.4 * topics[label] + 0.2 * other + 0.4 * background
        words.append(torch.from_numpy(draw.choice(WORDS, size=draw.randint(16, 65), p=mixed / mixed.sum()) + 1))
    return words, torch.from_numpy(labels)


def collate(items: list[tuple[Tensor, int]]) -> Batch:
    """A batch, padded to its longest text."""
    tokens = nn.utils.rnn.pad_sequence([words for words, _ in items], batch_first=True)
    return {"tokens": tokens, "mask": tokens > 0, "labels": torch.tensor([label for _, label in items])}


def forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and labels of a batch."""
    return model(batch["tokens"], batch["mask"]), batch["labels"]


def trained(items: list[tuple[Tensor, int]], epochs: int, seed: int, folder: Path | None = None) -> tuple[nn.Module, assay.Loop]:
    """A net trained on these texts, recorded if a folder is given."""
    torch.manual_seed(seed)
    model, loader = Encoder(), DataLoader(items, BATCH, shuffle=True, collate_fn=collate)  # type: ignore[arg-type, var-annotated]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loop = assay.Loop(model, optimizer, loader, forward=forward)

    def step(batch: Batch) -> Tensor:
        logits, labels = forward(model, batch)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        return logits

    if folder is None:
        for _ in range(epochs):
            for batch in loader:
                step(batch)
        return model, loop
    spec, kept = assay.DataSpec(forward=forward), assay.Recording(checkpoints="every", keep_logits=True)
    with assay.record(folder, model, optimizer, loader, kept, data=spec, seed=seed) as recorder:
        for _ in range(epochs):
            for batch in recorder.epoch():
                recorder.batch(step(batch), batch["labels"])
    return model, loop


def predicted(model: nn.Module, items: list[tuple[Tensor, int]]) -> Tensor:
    """Probabilities in eval mode."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        parts = [forward(model, collate(items[at : at + 256]))[0].softmax(1) for at in range(0, len(items), 256)]
    return torch.cat(parts)


def one_seed(texts: int, epochs: int, seed: int, methods: list[str], folds: bool) -> dict[str, dict[str, float]]:
    """AUC, AP and seconds of each method, and of cross-validation with `folds`."""
    words, true = made(texts + texts // 4, seed)
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(texts, generator=generator) < 0.1
    moved = (true[:texts] + torch.randint(1, TOPICS, (texts,), generator=generator)) % TOPICS
    given = torch.where(wrong, moved, true[:texts])
    items = list(zip(words[:texts], given.tolist(), strict=True))
    test = list(zip(words[texts:], true[texts:].tolist(), strict=True))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, began = Path(scratch) / "run", time.perf_counter()
        model, loop = trained(items, epochs, seed, folder)
        recorded = time.perf_counter() - began
        right = float((predicted(model, test).argmax(1) == true[texts:]).double().mean())
        print(f"seed {seed}: test accuracy {right:.3f}, {recorded:.1f} s", flush=True)
        whole = collate(test)

        def held(net: nn.Module) -> Tensor:
            return F.cross_entropy(*forward(net, whole))

        targets = {"validation": held} if any(one.startswith(ASK) for one in methods) else None
        table = assay.score(folder, methods, loop=loop, targets=targets)
        for title, scores in table.items():
            values = scores.hardness().numpy()
            found[title] = {
                "AUC": roc_auc_score(wrong, values), "AP": average_precision_score(wrong, values),
                "seconds": scores.lineage.seconds if scores.lineage is not None else float("nan"),
            }  # fmt: skip
    found["the recorded training"] = {"seconds": recorded, "test accuracy": right}
    if not folds:
        return found
    began, confidence = time.perf_counter(), torch.zeros(texts)
    fold = torch.randperm(texts, generator=generator) % FOLDS
    for number in range(FOLDS):
        inside = [items[at] for at in (fold != number).nonzero().flatten().tolist()]
        outside = (fold == number).nonzero().flatten()
        probs = predicted(trained(inside, epochs, seed + 100 + number)[0], [items[at] for at in outside.tolist()])
        confidence[outside] = probs.gather(1, given[outside][:, None])[:, 0]
    found["5-fold self-confidence"] = {
        "AUC": roc_auc_score(wrong, -confidence), "AP": average_precision_score(wrong, -confidence),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip
    return found


def main() -> None:
    """Measure over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--methods", nargs="+", default=["all", *WINDOWS, *GRADIENTS, *STEPS, *NEIGHBOURS], help="all of these by default"
    )
    parser.add_argument("--without-folds", action="store_true", help="leave cross-validation out")
    parser.add_argument("--name", default="texts", help="of the JSON")
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [one_seed(given.texts, given.epochs, seed, given.methods, not given.without_folds) for seed in range(given.seeds)]
    figures = {
        title: {
            measure: {"mean": float(np.mean(values)), "by seed": values}
            for measure in rows[0][title]
            if (values := [round(row[title][measure], 4) for row in rows])
        }
        for title in rows[0]
    }
    report(given.name, {"texts": given.texts, "epochs": given.epochs, **figures}, given.out)
    for title, found in sorted(figures.items(), key=lambda pair: -pair[1].get("AUC", {"mean": 0.0})["mean"]):
        print(f"{title:36}", *(f"{measure} {one['mean']:.4f}" for measure, one in found.items()))


if __name__ == "__main__":
    main()
