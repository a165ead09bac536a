"""TRAK: how well it predicts retraining by size of the projection, checkpoints and models; bytes per example; queries per second.

LDS is that of `lds.py`: its nets, data, subsets and queries, with the method's values by query from one attribution. Truth: the recorded run again
with the left-out losses at weight 0 (same seed), and new trainings of those that stay, the mean of their losses over other seeds (10 to 12, where
`lds.py` has 1 to 3).

Store: scikit-learn's digits by a plan, an MLP. The first attribution makes and keeps the examples' projected gradients; the second, of other
queries, reads them.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import lds as protocol
import torch
import torch.nn.functional as F
from machine import report
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import assay
from assay.core.evidence import Evidence, ReplayedFacts
from assay.experiments.evidence import open_replay
from assay.experiments.plan import Plan
from assay.experiments.record import record as record_plan
from assay.maths import draws
from assay.methods import parse
from assay.replay.replay import Replay

TARGET = "target=queries"
SIZES = (64, 128, 256, 512, 1024, 2048)
SIDES = (4, 8, 16, 32)
DAMPINGS = (0.001, 0.01, 0.1, 1.0)
COUNTS = (1, 5, 10)


def methods() -> dict[str, str]:
    """What is compared on one recorded model, by title."""
    found = {f"dense, {size}": f"trak:{TARGET},project={size}" for size in SIZES}
    found |= {f"kronecker, {side} a side": f"trak:{TARGET},projection=kronecker,side={side}" for side in SIDES}
    found |= {f"damping {damping:g}": f"trak:{TARGET},damping={damping:g}" for damping in DAMPINGS}
    found |= {f"checkpoints, {count}": f"trak:{TARGET},checkpoints={count}" for count in COUNTS}
    found |= {f"LoGra, {side} a side": f"trak:{TARGET},output=loss,projection=kronecker,side={side}" for side in SIDES}
    found |= {kernel: f"trak:{TARGET},output=loss,kernel={kernel}" for kernel in ("dot", "cosine")}
    return found | {"source": f"source:{TARGET}", "tracin": f"tracin:{TARGET}"}


class Batches:
    """Positions of each batch of the epoch that is taken."""

    def __init__(self, epochs: protocol.Epochs):
        self.epochs, self.epoch = epochs, 0

    def __len__(self) -> int:
        return len(self.epochs[self.epoch])

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.epochs[self.epoch])


def recorded(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, epochs: protocol.Epochs
) -> assay.Loop:
    """Train on these batches, record every epoch, and say what the loop consisted of."""
    batches = Batches(epochs)
    loader = DataLoader(TensorDataset(inputs, labels), batch_sampler=batches)  # type: ignore[arg-type]
    with assay.record(folder, model, optimizer, loader, assay.Recording(checkpoints="every")) as recorder:
        for batches.epoch in range(len(epochs)):
            for x, y in recorder.epoch():
                optimizer.zero_grad()
                logits = model(x)
                F.cross_entropy(logits, y).backward()
                optimizer.step()
                recorder.batch(logits.detach(), y)
    return assay.Loop(model, optimizer, loader)


def attributed(title: str, replay: Replay, models: list[Replay] | None = None) -> Tensor:
    """(queries, examples) of one model, as a part of the mean over several."""
    run = replay.run
    facts = ReplayedFacts(replay, models or [replay])  # type: ignore[arg-type]
    evidence = Evidence(run.ids, run.classes, labels=run.labels, replayed=facts)
    method = parse(title)
    blocks = method.attribute(evidence.narrow(method.title, method.reads))  # type: ignore[attr-defined]
    return torch.cat([block.values for block in blocks])


def measured(case: protocol.Case, given: argparse.Namespace) -> dict:
    """LDS of every method on one net."""
    split = protocol.read(case, given.data_path)
    train, test = split.train, split.test
    chosen = draws.permutation(test.ids.keys, 0, "queries")[: given.queries]
    inputs, labels = train.prepared(train.inputs).flatten(1), train.labels.to(torch.int64)
    held, held_labels = test.prepared(test.inputs).flatten(1)[chosen], test.labels[chosen].to(torch.int64)
    names = [f"query{number}" for number in range(given.queries)]
    targets = {name: (held[n : n + 1], held_labels[n : n + 1]) for n, name in enumerate(names)}
    scores: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        replays = []
        for seed in range(max(COUNTS)):
            folder, model = Path(scratch) / str(seed), protocol.net_of(case, inputs.shape[1], seed)
            optimizer = torch.optim.SGD(model.parameters(), lr=protocol.RATE)
            loop = recorded(folder, model, optimizer, inputs, labels, protocol.orders(len(labels), case.epochs, seed))
            asked = {"queries": (held, held_labels), **(targets if seed == 0 else {})}
            replays.append(open_replay(folder, loop=loop, targets=asked))
        for title, method in methods().items():
            began = time.perf_counter()
            scores[title] = attributed(method, replays[0])
            seconds[title] = time.perf_counter() - began
        for count in COUNTS:
            parts = [attributed(f"trak:{TARGET}", one, replays[:count]) for one in replays[:count]]
            scores[f"models, {count}"] = torch.stack(parts).mean(0)
        groups = [
            draws.permutation(train.ids.keys, number, f"left out {given.share}")[: round(given.share * len(labels))]
            for number in range(given.subsets)
        ]
        replay = replays[0]
        actual = {"same seed": replay.retrained(groups, range(0, replay.epochs[-1].stop), names, "weight")}
    others = []
    for seed in range(max(COUNTS), max(COUNTS) + given.seeds):
        after = []
        for group in groups:
            stays = torch.ones(len(labels), dtype=torch.bool)
            stays[group] = False
            other = protocol.trained(case, inputs[stays], labels[stays], seed)
            with torch.no_grad():
                after.append(F.cross_entropy(other(held), held_labels, reduction="none").double())
        others.append(torch.stack(after))
    actual[f"mean of {given.seeds} other seeds"] = torch.stack(others).mean(0)
    rows = {}
    for title, values in scores.items():
        predicted = torch.stack([values[:, group].sum(1) for group in groups])
        rows[title] = {key: protocol.lds(predicted, truth) for key, truth in actual.items()}
        told = "".join(f"{row['lds']:>10.3f} {row['interval']!s:>20}" for row in rows[title].values())
        print(f"{title:24}{told}{seconds.get(title, 0.0):>10.2f} s", flush=True)
    return {
        "training examples": len(labels),
        "queries": given.queries,
        "subsets": given.subsets,
        "left out": given.share,
        "parameters": sum(value.numel() for value in model.parameters()),
        "lds": rows,
        "seconds: values of all queries": seconds,
    }


def stored(repeats: int) -> dict:
    """Bytes of what is kept, and seconds of the first attribution and of one of other queries."""
    plan = {"data": "digits", "net": "mlp", "seed": 0, "validation": 0.1, "recipe": {"epochs": 20, "batch": 64}}
    found = {}
    for title in ("project=128", "project=512", "project=2048", "projection=kronecker,side=8", "projection=kronecker,side=16"):
        figures = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as scratch:
                run = record_plan(Plan.make(plan), Path(scratch) / "run")
                times, counts = [], []
                for target in ("validation", "test"):
                    began = time.perf_counter()
                    made = assay.attribute(run, f"trak:target={target},{title}")
                    times.append(time.perf_counter() - began)
                    counts.append(len(made.queries))
                kept = sum(path.stat().st_size for path in (run.folder / "features").rglob("*") if path.is_file())
                figures.append((kept / len(run.ids), times[0], times[1], counts[1] / times[1]))
        best = [min(column) for column in list(zip(*figures, strict=True))[:3]]
        found[title] = {
            "bytes per example": round(best[0], 1),
            "seconds: first attribution": round(best[1], 3),
            "seconds: other queries": round(best[2], 3),
            "queries per second": round(max(figure[3] for figure in figures), 1),
            "queries": counts[1],
            "examples": len(run.ids),
        }
        print(title, found[title], flush=True)
    return found


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", help="folder of MNIST's four files")
    parser.add_argument("--part", nargs="+", choices=("lds", "store"), default=["lds", "store"])
    parser.add_argument("--cases", nargs="+", choices=tuple(protocol.CASES), default=["digits-relu"])
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3, help="how many other seeds")
    parser.add_argument("--repeats", type=int, default=3, help="how often the store is timed; the best counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="folder for the JSON, one for each part and case")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if "store" in given.part:
        report("trak-store", stored(given.repeats), given.out)
    for name in given.cases if "lds" in given.part else ():
        print(name, flush=True)
        report(f"trak-{name}", measured(protocol.CASES[name], given), given.out)


if __name__ == "__main__":
    main()
