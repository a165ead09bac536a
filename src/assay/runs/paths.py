"""The only owner of file names inside a run's folder."""

import dataclasses
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where each thing of a run stands."""

    folder: Path

    @property
    def header(self) -> Path:
        return self.folder / "run.json"

    @property
    def commits(self) -> Path:
        return self.folder / "commits.jsonl"

    @property
    def examples(self) -> Path:
        return self.folder / "examples.parquet"

    @property
    def lock(self) -> Path:
        return self.folder / "writer.lock"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.toml"

    @property
    def truth(self) -> Path:
        return self.folder / "truth.parquet"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    def shard(self, epoch: int) -> Path:
        return self.folder / "epochs" / f"epoch-{epoch:06d}.safetensors"

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / f"epoch-{epoch:06d}.safetensors"

    def sums(self, epoch: int) -> Path:
        return self.folder / "sums" / f"epoch-{epoch:06d}.safetensors"

    def live(self, epoch: int) -> Path:
        return self.folder / "live" / f"epoch-{epoch:06d}.safetensors"

    def of_epoch(self, epoch: int) -> tuple[Path, ...]:
        """Every file that the commit of an epoch names."""
        return self.shard(epoch), self.checkpoint(epoch), self.sums(epoch), self.live(epoch)

    def scores(self, title: str) -> Path:
        return self.folder / "scores" / f"{slug(title)}.parquet"

    def decision(self, name: str) -> Path:
        return self.folder / "decisions" / f"{slug(name)}.parquet"

    def verdict(self, name: str) -> Path:
        return self.folder / "verdicts" / f"{slug(name)}.json"

    def trial(self, plan: str, arm: str, seed: int) -> Path:
        return self.trials / plan / f"{arm}-{seed}.json"


def slug(title: str) -> str:
    """A title as a file name: everything but letters, digits and `._=-` becomes `+`."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "+", title)
