"""The text files of a run: the header, one line per committed epoch, and JSON that carries its own checksum."""

import datetime
import json
import platform
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch

from ..core.errors import RunError, UsageError, reading
from ..core.lineage import SCHEMA
from ..core.passes import Kind
from .paths import RunPaths

View = Literal["train", "eval", "none"]
Task = Literal["classes", "labels", "losses"]
ReduceLabels = Literal["mean", "worst"]


def now() -> str:
    """Date and time in the form that headers and commits hold."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def here() -> dict[str, Any]:
    """Date, version of torch, machine and threads: the first fields of a header."""
    return {
        "created": now(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
Checksum = Annotated[int, pydantic.Field(ge=0, lt=2**64)]
MOST_THREADS = 512
"""More threads than any machine is given for one training; so many that a forged number cannot exhaust the machine when it is set."""
MOST_PROCESSES = 2**20
"""More processes than train together anywhere."""

Threads = Annotated[int, pydantic.Field(ge=1, le=MOST_THREADS)]
CONDITIONS = "code", "torch", "machine", "threads", "device"
"""Fields of a header on which the last bits of everything recorded depend."""


class FrozenModel(pydantic.BaseModel):
    """A model that is read-only and refuses unknown fields."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @classmethod
    def strictly(cls, text: str | bytes) -> Any:
        """The model that this JSON holds; every field must have exactly its declared type.

        Raises:
            pydantic.ValidationError: A field is missing or wrong; the error names it.
        """
        return cls.model_validate_json(text, strict=True)


class Header(FrozenModel):
    """`run.json`: what is known when a recording starts.

    Attributes:
        view: `train`, the training forward pass itself, before each update; `eval`, a clean pass after each epoch; `none`, no
            training at all.
        keep_logits: Whether every epoch's logits are stored.
        mean_probs: Whether the running sum of probabilities is stored.
        checkpoints: Which epochs keep their checkpoint.
        examples: How many ids there are.
        live: Titles of the methods that ran during the recording.
        partial: Whether an epoch may have trained on a part of the examples, or on some several times.
        select: Title of the live selector that chose each epoch's examples; empty without one.
        task: Whether each example has one class and its facts are made of logits, or several labels 0 or 1 with facts of each, or facts are one
            loss for each example.
        reduce_labels: How the values of an example's labels become its own, where it has several.
        passes: What the passes are, where the run was made of what somebody else saved; None for the epochs of a recorded training.
        repeats: Whether those passes have no order, as in repeated cross-validation.
        seed: Seed of the run, if assay seeds it.
        device: Device of the model.
        about: Data, net and recipe in words, for people and for `assay verify`.
    """

    format: Literal["assay-run"] = "assay-run"
    schema_version: int = SCHEMA
    created: str
    code: str
    torch: str
    machine: str
    threads: Threads
    view: View
    keep_logits: bool
    mean_probs: bool
    checkpoints: Literal["every", "last", "none"] | tuple[Count, ...]
    examples: Annotated[int, pydantic.Field(ge=1, lt=2**40)]
    live: tuple[str, ...] = ()
    partial: bool = False
    select: str = ""
    task: Task = "classes"
    reduce_labels: ReduceLabels = "mean"
    passes: Kind | None = None
    repeats: bool = False
    seed: int | None
    device: str
    about: dict[str, object] = {}


class File(FrozenModel):
    """One committed safetensors file: its name inside the run, the checksum of each tensor, and that of the notes."""

    name: str
    sums: dict[str, Checksum]
    notes: Checksum


class Commit(FrozenModel):
    """One line of `commits.jsonl`: an epoch that is wholly on disk.

    `start`, in the first line, is the state before training; `skipped` is the number of batches trained on since the last epoch, in an
    epoch that was left early and not recorded; `elsewhere` names, for an epoch recorded after an interruption, the code, torch, machine and
    so on, as far as they differ from the header's; `autocast` is the type in which the model computed under torch.autocast, by device;
    `processes` is how many trained together, each on a batch of its own in every step; `smoothing` is the label smoothing of the loss that was
    trained on, where it is known to have one.
    """

    epoch: Count
    shard: File
    checkpoint: File | None = None
    start: File | None = None
    sums: File | None = None
    live: File | None = None
    stream: File | None = None
    dataset: str
    steps: Count
    skipped: Count = 0
    seconds: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
    at: str
    elsewhere: dict[Literal["code", "torch", "machine", "threads", "device"], str | Threads] | None = None
    autocast: dict[Literal["cpu", "cuda"], Literal["float16", "bfloat16", "float32"]] | None = None
    processes: Annotated[int, pydantic.Field(ge=2, le=MOST_PROCESSES)] | None = None
    smoothing: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None

    @property
    def misnamed(self) -> str | None:
        """The name of a file that is not among the places of this epoch's files; None if there is none."""
        places = RunPaths(Path())
        named = (
            (self.shard, places.shard(self.epoch)),
            (self.checkpoint, places.checkpoint(self.epoch)),
            (self.start, places.start),
            (self.sums, places.sums(self.epoch)),
            (self.live, places.live(self.epoch)),
            (self.stream, places.stream(self.epoch)),
        )
        return next((file.name for file, place in named if file is not None and file.name != place.as_posix()), None)

    def line(self) -> str:
        """The JSON of the commit, a tab, and its CRC-32."""
        # Left out where they say nothing, so that assays before them read the line.
        silent = {name for name in ("elsewhere", "autocast", "processes", "smoothing") if getattr(self, name) is None}
        body = self.model_dump_json(exclude=silent)
        return f"{body}\t{zlib.crc32(body.encode()):08x}"


def read_commits(body: bytes, where: str) -> tuple[list[Commit], int]:
    """The commits, and how many bytes they take. A last line without its end was never committed and does not count.

    Raises:
        RunError: A whole line does not match its checksum, or the epochs are not 0, 1, 2, ...
    """
    commits: list[Commit] = []
    *lines, torn = body.split(b"\n")
    whole = len(body) - len(torn)
    # What follows a whole checksum can only be a line's end that was changed: that line was committed.
    if len(torn.partition(b"\t")[2]) > 8:
        lines.append(torn)
    for number, line in enumerate(lines, 1):
        text, _, check = line.partition(b"\t")
        if f"{zlib.crc32(text):08x}".encode() != check:
            raise RunError(f"{where}, line {number} is damaged (checksum); restore the file from a copy or record again.")
        try:
            commit = Commit.strictly(text)
        except pydantic.ValidationError as error:
            raise RunError(f"{where}, line {number} is no commit of this assay ({first_of(error)}); upgrade assay.") from error
        if commit.epoch != len(commits):
            raise RunError(
                f"{where}, line {number} commits epoch {commit.epoch}; epoch {len(commits)} was due. Restore the file."
            )
        if commit.misnamed is not None:
            raise RunError(
                f"{where}, line {number} names the file {commit.misnamed!r}, which is no file of its epoch. Restore it."
            )
        commits.append(commit)
    return commits, whole


def write_header(header: Header) -> bytes:
    """The body of `run.json`.

    Raises:
        UsageError: `about` holds something that JSON cannot.
    """
    # Left out where it says nothing, so that assays before it read the header.
    silent = {"format", "schema_version"} | ({"task"} if header.task == "classes" else set())
    silent |= {"reduce_labels"} if header.task != "labels" else set()
    silent |= {"passes", "repeats"} if header.passes is None else set()
    try:
        return seal("run", header.model_dump(mode="json", exclude=silent))
    except (TypeError, ValueError) as error:
        raise UsageError(f"about= cannot be written as JSON ({error}); give texts, numbers, lists and mappings.") from error


def read_header(body: bytes, where: str) -> Header:
    """The header.

    Raises:
        RunError: The file is not assay's, is of a newer schema, or is damaged.
    """
    raw = unseal("run", body, where)
    try:
        return Header.strictly(json.dumps(raw))
    except pydantic.ValidationError as error:
        raise RunError(f"{where} is damaged ({first_of(error)}); restore it from a copy or record again.") from error


def seal(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Fields as JSON that names its kind and carries the CRC-32 of the rest.

    Raises:
        TypeError: A value cannot be written as JSON.
    """
    body = {"format": f"assay-{kind}", "schema_version": SCHEMA, **fields}
    return (json.dumps({**body, "checksum": _checksum(body)}, indent=1) + "\n").encode()


def unseal(kind: str, body: bytes, where: str) -> dict[str, Any]:
    """The inverse of `seal`.

    Raises:
        RunError: The file is not assay's, is of a newer schema, or is damaged.
    """
    with reading(where, RunError, "Restore it from a copy or make it again."):
        try:
            raw = json.loads(body)
        except ValueError as error:
            raise RunError(f"{where} is damaged (not JSON: {error}); restore it from a copy or make it again.") from error
        if not isinstance(raw, dict) or raw.pop("format", None) != f"assay-{kind}":
            raise RunError(f"{where} holds no {kind} of assay; point to one that assay made.")
        version = raw.pop("schema_version", None)
        check_version(version, where)
        check = raw.pop("checksum", None)
        if check != _checksum({"format": f"assay-{kind}", "schema_version": version, **raw}):
            raise RunError(f"{where} is damaged (checksum); restore it from a copy or make it again.")
        return raw


def check_version(version: object, where: object) -> None:
    """Refuse a file that a newer assay wrote.

    Raises:
        RunError: The schema is newer, or missing.
    """
    if type(version) is not int or version < 1:
        raise RunError(f"{where} is damaged: its schema_version is {version!r}. Restore it from a copy or make it again.")
    if version > SCHEMA:
        raise RunError(f"{where} has schema {version}, this assay reads up to {SCHEMA}; upgrade assay to open it.")


def _checksum(body: Mapping[str, Any]) -> str:
    # Through JSON and back, because a tuple or an integer key is another thing once it was written.
    return f"{zlib.crc32(json.dumps(json.loads(json.dumps(body)), sort_keys=True).encode()):08x}"


def first_of(error: pydantic.ValidationError) -> str:
    """The first error of a model's validation, with the field's name."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
