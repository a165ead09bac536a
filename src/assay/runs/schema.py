"""The text files of a run as models: the header, and one line per committed epoch."""

import json
import zlib
from typing import Literal

import pydantic

from ..core.errors import RunError
from ..core.lineage import SCHEMA

View = Literal["train", "eval"]


class FrozenModel(pydantic.BaseModel):
    """Read-only, and no unknown fields."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Header(FrozenModel):
    """`run.json`: what is known when a recording starts.

    Attributes:
        view: `train`, the training forward pass itself, before each update; `eval`, a clean pass after each epoch.
        keep_logits: Whether every epoch's logits are stored.
        mean_probs: Whether the running sum of probabilities is stored.
        checkpoints: Which epochs keep their checkpoint.
        examples: How many ids there are.
        live: Titles of the methods that ran along.
        seed: Seed of the run, if assay seeds it.
        device: Where the model stood.
        about: Data, net and recipe in words, for people and for `assay verify`.
    """

    format: Literal["assay-run"] = "assay-run"
    schema_version: int = SCHEMA
    created: str
    code: str
    torch: str
    machine: str
    threads: int
    view: View
    keep_logits: bool
    mean_probs: bool
    checkpoints: Literal["every", "last", "none"] | tuple[int, ...]
    examples: int
    live: tuple[str, ...] = ()
    seed: int | None
    device: str
    about: dict[str, object] = {}


class File(FrozenModel):
    """One committed safetensors file: its name inside the run, and the CRC-32 of each tensor."""

    name: str
    sums: dict[str, int]


class Commit(FrozenModel):
    """One line of `commits.jsonl`: an epoch that is wholly on disk."""

    epoch: int
    shard: File
    checkpoint: File | None = None
    sums: File | None = None
    live: File | None = None
    dataset: str
    steps: int
    seconds: float
    at: str

    def line(self) -> str:
        """The JSON of the commit, a tab, and its CRC-32."""
        body = self.model_dump_json()
        return f"{body}\t{zlib.crc32(body.encode()):08x}"


def read_commits(body: bytes, where: str) -> tuple[list[Commit], int]:
    """The commits, and how many bytes they take. A last line without its end was never committed and does not count.

    Raises:
        RunError: A whole line does not match its checksum, or the epochs are not 0, 1, 2, ...
    """
    commits: list[Commit] = []
    whole = body.rfind(b"\n") + 1
    for number, line in enumerate(body[:whole].decode(errors="replace").splitlines(), 1):
        text, _, check = line.partition("\t")
        if f"{zlib.crc32(text.encode()):08x}" != check:
            raise RunError(f"{where}, line {number} is damaged (checksum); restore the file from a copy or record again.")
        commit = Commit.model_validate_json(text)
        if commit.epoch != len(commits):
            raise RunError(
                f"{where}, line {number} commits epoch {commit.epoch}; epoch {len(commits)} was due. Restore the file."
            )
        commits.append(commit)
    return commits, whole


def read_header(text: str, where: str) -> Header:
    """The header.

    Raises:
        RunError: Foreign, newer or damaged.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise RunError(f"{where} is damaged (not JSON); restore it from a copy or record again.") from error
    if not isinstance(raw, dict) or raw.get("format") != "assay-run":
        raise RunError(f"{where} is not the header of an assay run; point to a folder that `assay record` made.")
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA:
        raise RunError(f"{where} has schema {version}, this assay reads up to {SCHEMA}; upgrade assay to open this run.")
    try:
        return Header.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise RunError(f"{where} is damaged: {field}: {first['msg']}. Restore it or record again.") from error
