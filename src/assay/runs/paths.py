"""The file names inside the folders of runs and of studies; no other module forms them."""

import dataclasses
import os
import re
from pathlib import Path

from ..core.errors import RunError
from ..core.lineage import fingerprint

_HEADS = "run.json", "study.json"
STUDY_PLAN = "# A study of assay: "
"""How the file of a study's plan begins; the study's name follows."""


def home_of(path: Path) -> Path | None:
    """The folder of the run or study that a file belongs to: the outermost folder above it that holds a header file; None if there is none."""
    homes = [folder for folder in path.parents if any(os.path.lexists(folder / head) for head in _HEADS)]
    return homes[-1] if homes else None


def refuse_links(path: Path) -> Path:
    """The path, unless a file of a run or study is a link or stands behind one. The folder of the run itself may be a link.

    Raises:
        RunError: There is a link, which the message names; or the path holds a NUL character.
    """
    if "\0" in str(path):
        raise RunError(f"{path} has a NUL in it, which no name of a file has; give another name.")
    asked, path = path, path.absolute()
    ups = [place for place, part in enumerate(path.parts) if part == ".."]
    if ups:
        path = Path(*path.parts[: ups[-1] + 1]).resolve().joinpath(*path.parts[ups[-1] + 1 :])
    home = home_of(path)
    place = home
    for part in path.relative_to(home).parts if home is not None else ():
        place = place / part  # type: ignore[operator]
        if place.is_symlink():
            raise RunError(
                f"{place} is a link, through which files outside of {home} would be read or written. Put the file or folder itself there."
            )
    return asked


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Paths of the files of a run."""

    folder: Path

    @property
    def header(self) -> Path:
        """The header: what was known when recording started."""
        return self.folder / "run.json"

    @property
    def commits(self) -> Path:
        """One line per committed epoch."""
        return self.folder / "commits.jsonl"

    @property
    def examples(self) -> Path:
        """Ids and given labels."""
        return self.folder / "examples.parquet"

    @property
    def lock(self) -> Path:
        """The lock, held by the one process that writes."""
        return self.folder / "writer.lock"

    @property
    def truth(self) -> Path:
        """True labels, where they are known."""
        return self.folder / "truth.parquet"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def trials(self) -> Path:
        """Folder of finished retrainings."""
        return self.folder / "trials"

    @property
    def logs(self) -> Path:
        """Folder of what retrainings print.

        Raises:
            RunError: It is a link, or stands behind one.
        """
        return refuse_links(self.trials / "logs")

    @property
    def recording(self) -> Path:
        """Folder of the first run of the recording that this is a model of."""
        above = self.folder.parent
        return above.parent if above.name == "models" and (above.parent / "run.json").exists() else self.folder

    @property
    def models(self) -> Path:
        """Folder of the other models' runs."""
        return self.folder / "models"

    def model(self, member: int) -> "RunPaths":
        """Folder of the run of another model; these are numbered from 1."""
        return RunPaths(self.models / f"{member:03d}")

    @property
    def folds(self) -> Path:
        """Folder of the recordings that were each trained without one fold of the examples."""
        return self.folder / "folds"

    def fold(self, number: int) -> "RunPaths":
        """Folder of the recording that was trained without one fold; folds are numbered from 0."""
        return RunPaths(self.folds / f"{number:03d}")

    @property
    def fold_table(self) -> Path:
        """The fold of each example."""
        return self.folds / "folds.parquet"

    def shard(self, epoch: int) -> Path:
        """Facts of one epoch."""
        return self.folder / "epochs" / f"epoch-{epoch:06d}.safetensors"

    def checkpoint(self, epoch: int) -> Path:
        """Model and optimizer at the end of one epoch."""
        return self.folder / "checkpoints" / f"epoch-{epoch:06d}.safetensors"

    @property
    def start(self) -> Path:
        """Model and optimizer before training."""
        return self.folder / "checkpoints" / "start.safetensors"

    def sums(self, epoch: int) -> Path:
        """Probabilities summed up to one epoch."""
        return self.folder / "sums" / f"epoch-{epoch:06d}.safetensors"

    def live(self, epoch: int) -> Path:
        """States of the live methods, up to one epoch."""
        return self.folder / "live" / f"epoch-{epoch:06d}.safetensors"

    def stream(self, epoch: int) -> Path:
        """Values of the visits that became final in one epoch, from the step methods that run during training."""
        return self.folder / "streams" / f"epoch-{epoch:06d}.safetensors"

    def of_epoch(self, epoch: int) -> tuple[Path, ...]:
        """Every file that the commit of an epoch names."""
        return self.shard(epoch), self.checkpoint(epoch), self.sums(epoch), self.live(epoch), self.stream(epoch)

    def scores(self, title: str) -> Path:
        """One score."""
        return self.folder / "scores" / f"{title_slug(title)}.parquet"

    def attribution(self, title: str) -> Path:
        """Folder of one attribution."""
        return self.folder / "attributions" / title_slug(title)

    def rows(self, epoch: int, name: str) -> Path:
        """Folder of rows for each example that were made with the model of one epoch."""
        return self.folder / "features" / f"epoch-{epoch:06d}" / title_slug(name)

    def coalitions(self, made_of: str) -> Path:
        """Values of the coalitions of one game, by what it is made of."""
        return self.folder / "games" / f"{made_of}.values"

    def retrained(self, made_of: str) -> Path:
        """Folder of what trainings without some examples came to, by what they are made of."""
        return self.folder / "retrained" / made_of

    def decision(self, name: str) -> Path:
        """One decision."""
        return self.folder / "decisions" / f"{slug(name)}.parquet"

    def verdict(self, name: str) -> Path:
        """One verdict."""
        return self.folder / "verdicts" / f"{slug(name)}.json"

    @property
    def claims(self) -> Path:
        """Folder of the claims (looks at the run's decisions), one file per claim."""
        return self.folder / "verdicts" / "claims"

    def claim(self, made_of: str) -> Path:
        """Every look at one decision."""
        return self.claims / f"{made_of}.json"

    def curve(self, name: str) -> Path:
        """One curve of accuracy against removals."""
        return self.folder / "curves" / f"{title_slug(name)}.json"

    def explanation(self, name: str) -> Path:
        """One explanation of a prediction."""
        return self.folder / "explanations" / f"{slug(name)}.json"

    def lds(self, name: str) -> Path:
        """One LDS of some methods."""
        return self.folder / "lds" / f"{title_slug(name)}.json"

    @property
    def probes(self) -> Path:
        """Folder of the probes."""
        return self.folder / "probes"

    def probe(self, name: str) -> Path:
        """What one probe came to."""
        return self.probes / f"{slug(name)}.json"

    def probe_run(self, name: str) -> Path:
        """Folder of the recording of one probe, under labels of which some were flipped."""
        return self.probes / slug(name)

    def trial(self, plan: str, arm: str, seed: int) -> Path:
        """One finished retraining."""
        return self.trials / plan / f"{slug(arm)}-{seed}.json"


@dataclasses.dataclass(frozen=True)
class StudyPaths:
    """Paths of the files of a study."""

    folder: Path

    @property
    def results(self) -> Path:
        """The study itself."""
        return self.folder / "study.json"

    @property
    def page(self) -> Path:
        """Its page."""
        return self.folder / "study.html"

    @property
    def summary(self) -> Path:
        """Its table of all trainings, for studies that have one."""
        return self.folder / "summary.csv"

    @property
    def plan(self) -> Path:
        """Its plan, for studies that write one."""
        return self.folder / "plan.toml"

    @property
    def data(self) -> Path:
        """Folder of data that it altered."""
        return self.folder / "data"

    @property
    def logs(self) -> Path:
        """Folder of what trainings print.

        Raises:
            RunError: It is a link, or stands behind one.
        """
        return refuse_links(self.folder / "logs")

    @property
    def probes(self) -> Path:
        """Folder of the recordings."""
        return self.folder / "probes"

    @property
    def trials(self) -> Path:
        """Folder of the finished trainings."""
        return self.folder / "trials"

    def probe(self, plan: str) -> Path:
        """The run by whose scores a plan's examples are hard or easy, by the fingerprint of plan and data."""
        return self.probes / plan

    def trial(self, made_of: str, seed: int) -> Path:
        """One finished training, by the fingerprint of everything that it was made of."""
        return self.trials / f"{made_of}-{seed}.json"


_PLAIN = r"[A-Za-z0-9._=-]+"


def title_slug(title: str) -> str:
    """A score's title as a file name that no other title has: `slug`, plus a hash unless the title has the plain form NAME:OPTION=VALUE,..."""
    if re.fullmatch(rf"{_PLAIN}(:{_PLAIN}(,{_PLAIN})*)?", title):
        return slug(title)
    return f"{slug(title)}-{fingerprint(title)[:8]}"


def slug(title: str) -> str:
    """A title as a file name: everything but letters, digits and `._=-` becomes `+`."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "+", title)
