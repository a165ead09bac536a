"""Small real experiments that the tests of this folder share: 397 of scikit-learn's digits, a linear net, a few epochs."""

import shutil

from safetensors import safe_open

from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.runs.run import Run

SETTINGS = {
    "data": "digits:test=1400",
    "net": "logistic",
    "seed": 0,
    "plant": {"rate": 0.1},
    "recipe": {"epochs": 3, "batch": 64},
}


def settings(**changed):
    """The settings of the small plan with some changed; a setting of None is left out, tables are merged."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS.items()}
    for key, value in changed.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return {key: value for key, value in made.items() if value is not None}


def plan(**changed):
    return Plan.make(settings(**changed))


def recorded(folder, **changed):
    return record(plan(**changed), folder)


def copied(run, folder):
    """A run to change at will, of which nothing was asked yet."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("claims"))
    return Run(folder)


def files(folder, *names):
    """Bytes of the files below some folders of a run."""
    return {path: path.read_bytes() for name in names for path in sorted((folder / name).iterdir())}


def contents(run):
    """Everything that a run holds in safetensors files, to the bit: by file, each tensor and the notes."""
    found = {}
    for path in sorted(run.folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            bodies = {name: (str(one.dtype), one.shape, one.numpy().tobytes()) for name, one in tensors.items()}
            found[str(path.relative_to(run.folder))] = bodies, file.metadata()
    return found
