"""Saved models of a training that nobody recorded: state dicts in memory, in files, and in the folders that trainers leave behind."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import Mismatch, UsageError, listed, reading
from ..training.wrappers import names_inside

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
INSIDE = ("state_dict", "model_state_dict", "model")
"""Keys under which files that hold more than a model keep it, the commonest first."""
OPTIMIZERS = ("optimizer_states", "optimizer_state_dict", "optimizer")
WHOLE = ("model.safetensors", "pytorch_model.bin")
PARTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MOST_JSON = 256 * 2**20
"""Bytes of the largest JSON file that is read."""


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """One saved model.

    Attributes:
        name: What messages call it.
        read: Reads what is saved: a state dict, or a mapping that holds one.
        rates: Learning rate of each parameter group when it was saved, where another file than the model's says it.
    """

    name: str
    read: Callable[[], Any]
    rates: tuple[float, ...] | None = None


def saved_models(given: Any) -> Iterator[SavedModel]:
    """The saved models that a user gives, in their order; none of them is read yet.

    Args:
        given: A folder of them, or an iterable of state dicts, files and folders of one model each.

    Raises:
        UsageError: A path is absent or holds no model.
    """
    if isinstance(given, (str, os.PathLike)):
        yield from _in_folder(Path(given))
        return
    if isinstance(given, (Mapping, Tensor)) or not isinstance(given, Iterable):
        what = "a single state dict" if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise UsageError(f"checkpoints= is {what}; give a folder, or a list of state dicts or files in the order of training.")
    memory: set[int] = set()
    for place, one in enumerate(given):
        if isinstance(one, Mapping):
            own = {value.data_ptr() for value in one.values() if isinstance(value, Tensor) and value.numel()}
            if own & memory:
                raise UsageError(
                    f"Checkpoint {place} shares its memory with one before it, so that both are what the model was last; save copies, "
                    "copy.deepcopy(model.state_dict())."
                )
            memory |= own
            yield SavedModel(f"checkpoint {place}", lambda held=one: held)  # type: ignore[misc]
        elif isinstance(one, (str, os.PathLike)):
            yield _at(Path(one))
        else:
            raise UsageError(f"Checkpoint {place} is a {type(one).__name__}; give a state dict or the path of a file.")


def _in_folder(folder: Path) -> Iterator[SavedModel]:
    """The checkpoints of a trainer's folder, by the numbers in their names."""
    # A name that is too long is that of nothing, too.
    if not os.path.exists(folder):
        raise UsageError(f"{folder} is absent; give the folder of the checkpoints, or a list of files.")
    if not folder.is_dir():
        raise UsageError(f"{folder} is one file; give a list of files in the order of training, or their folder.")
    found = [path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    if not found:
        found = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES]
        numbered = [path for path in found if _numbers(path)]
        # Beside those with a number, `last.ckpt` is one of them once more.
        found = numbered or found
    if not found:
        raise UsageError(
            f"{folder} holds neither folders checkpoint-NUMBER nor files that end in {', '.join(SUFFIXES)}; give the folder of the checkpoints, or a list "
            "of files."
        )
    if len(found) > 1 and not all(map(_numbers, found)):
        raise UsageError(
            f"{folder}: the names of its {len(found)} files do not tell their order; give a list of them in the order of training."
        )
    yield from map(_at, _in_order(folder, found))


def _in_order(folder: Path, found: Sequence[Path]) -> list[Path]:
    """Saved models by the epoch or the step that all of their names tell, else by the numbers in them.

    Raises:
        UsageError: What differs first in the names are fractions, such as losses.
    """
    for word in ("epoch", "step"):
        told = [re.search(rf"{word}[=_-]?(\d+)", path.name, re.IGNORECASE) for path in found]
        at = {path: int(one[1]) for path, one in zip(found, told, strict=True) if one is not None}
        if len(at) == len(found):
            return sorted(found, key=lambda path: (at[path], _numbers(path), path.name))
    parts = {path: re.findall(r"\d+(?:\.\d+)?", path.stem if path.is_file() else path.name) for path in found}
    first = next((column for column in zip(*parts.values(), strict=False) if len(set(column)) > 1), ())
    if odd := [one for one in first if "." in one]:
        raise UsageError(
            f"{folder}: the names of its {len(found)} files differ first in fractions ({listed(odd, len(odd), 2)}), which do not tell their order; give a list of "
            "them in the order of training."
        )
    return sorted(found, key=lambda path: (_numbers(path), path.name))


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.stem if path.is_file() else path.name)))


def _at(path: Path) -> SavedModel:
    """The saved model in a file, or in a folder as Hugging Face's Trainer writes it."""
    if not os.path.exists(path):
        raise UsageError(f"{path} is absent; give the files of the checkpoints.")
    if path.is_dir():
        return SavedModel(str(path), lambda: _of_trainer(path), _rate_of_trainer(path))
    return SavedModel(str(path), lambda: _read(path))


def _read(path: Path) -> Any:
    """What a file holds; nothing in it is run."""
    with reading(path, UsageError, "Save model.state_dict() with torch.save or as safetensors."):
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import pickle

        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            held = f" ({found[1]})" if found else ""
            raise UsageError(
                f"{path} holds other objects than tensors and plain values{held}, or is damaged; reading them could run what stands in the file, so they are "
                "not read. Save the state dict by itself, torch.save(model.state_dict(), file), or give it in memory."
            ) from error


def _of_trainer(folder: Path) -> Any:
    for name in WHOLE:
        if (folder / name).is_file():
            return _read(folder / name)
    for name in PARTS:
        if (folder / name).is_file():
            return _joined(folder, folder / name)
    raise UsageError(
        f"{folder} holds no {' and no '.join(WHOLE)}; give the folder of a checkpoint with its weights (of adapters such as LoRA's, give the state dicts "
        "of the whole model)."
    )


def _joined(folder: Path, index: Path) -> dict[str, Tensor]:
    """A model in several files."""
    parts = _json(index).get("weight_map")
    names = sorted(set(parts.values())) if isinstance(parts, dict) and all(isinstance(one, str) for one in parts.values()) else []
    if not names or any(Path(name).name != name for name in names):
        raise UsageError(f"{index} names no files beside it; save the model again.")
    state: dict[str, Tensor] = {}
    for name in names:
        state |= _read(folder / name)
    return state


def _json(path: Path) -> dict[str, Any]:
    with reading(path, UsageError, "Save the checkpoint again."):
        if path.stat().st_size > MOST_JSON:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes, more than is read; give the rates as rates=.")
        body = json.loads(path.read_bytes())
    if not isinstance(body, dict):
        raise UsageError(f"{path} holds no JSON object; save the checkpoint again.")
    return body


def _rate_of_trainer(folder: Path) -> tuple[float, ...] | None:
    """The learning rate that Hugging Face's Trainer had logged last when it saved; None where it logged none."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return None
    state = _json(path)
    saved, log = state.get("global_step"), state.get("log_history")
    if not isinstance(saved, int) or not isinstance(log, list):
        return None
    rates = [
        (one["step"], one["learning_rate"])
        for one in log
        if isinstance(one, dict) and isinstance(one.get("learning_rate"), (int, float)) and isinstance(one.get("step"), int)
    ]
    before = [rate for step, rate in rates if step <= saved]
    return (float(before[-1]),) if before else None


def state_for(saved: SavedModel, model: nn.Module) -> tuple[dict[str, Tensor], tuple[float, ...] | None]:
    """The state of a model in what was saved, under the model's own names, and the learning rates where they are known.

    Args:
        saved: What was saved.
        model: The model, without wrappers.

    Raises:
        Mismatch: What was saved is not of this model, or holds several states that could be its.
    """
    body = saved.read()
    if not isinstance(body, Mapping):
        raise UsageError(f"{saved.name} holds a {type(body).__name__}; save model.state_dict(), a mapping from names to tensors.")
    rates = saved.rates or _rates_in(body)
    parts = {"": body} | {str(key): one for key, one in body.items() if isinstance(one, Mapping)}
    parts = {key: one for key, one in parts.items() if any(isinstance(value, Tensor) for value in one.values())}
    found: dict[str, dict[str, Tensor]] = {}
    why: Mismatch | None = None
    for key, part in parts.items():
        try:
            found[key] = _fitted(
                saved.name, {str(name): value for name, value in part.items() if isinstance(value, Tensor)}, model
            )
        except Mismatch as error:
            why = why if key and key not in INSIDE and why is not None else error
    for key in ("", *INSIDE):
        if key in found:
            return found[key], rates
    if len(found) == 1:
        return next(iter(found.values())), rates
    if found:
        raise Mismatch(
            f"{saved.name} holds several states of such a model ({listed(found, len(found))}); give the state dict that is meant."
        )
    raise why or Mismatch(
        f"{saved.name} holds no tensors; it holds {listed(map(str, body), len(body))}. Save model.state_dict()."
    )


def _fitted(where: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state under the names of a model, without the one prefix that all of its names have there.

    Raises:
        Mismatch: Names or shapes are not the model's.
    """
    own = model.state_dict()
    twins: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, value in own.items():
        twins.setdefault((value.data_ptr(), tuple(value.shape)), []).append(name)
    # Of weights that two layers share, files hold one name only.
    others = {name: names for names in twins.values() if len(names) > 1 for name in names}

    def place(name: str, prefix: str) -> str | None:
        return next((prefix + one for one in (name, *others.get(name, ())) if prefix + one in state), None)

    inner = names_inside(state, model)
    if own.keys() <= inner.keys():
        state, prefixes = inner, [""]
    else:
        first = next(iter(own))
        ends = [one for one in (first, *others.get(first, ()))]
        prefixes = sorted({name[: -len(end)] for name in state for end in ends if name.endswith(end)})
        prefixes = [one for one in prefixes if all(place(name, one) is not None for name in own)]
    if not prefixes:
        absent = [name for name in own if place(name, "") is None]
        raise Mismatch(
            f"{where} is not of this model: it lacks {len(absent)} of its {len(own)} tensors ({listed(absent, len(absent), 2)}), and holds "
            f"{listed(state, len(state), 2)}. Give the model that was saved."
        )
    if len(prefixes) > 1 and "" not in prefixes:
        raise Mismatch(
            f"{where} holds several such models, under {listed(prefixes, len(prefixes))}; give the state dict that is meant."
        )
    prefix = "" if "" in prefixes else prefixes[0]
    made = {name: state[place(name, prefix) or name] for name in own}
    if not prefix and (strange := [name for name in state if name not in own]):
        raise Mismatch(
            f"{where} is not of this model: it holds {len(strange)} tensors that the model has not ({listed(strange, len(strange), 2)}). Give the model "
            "that was saved."
        )
    for name, value in made.items():
        if value.shape != own[name].shape:
            raise Mismatch(
                f"{where} is not of this model: {name} has shape {tuple(value.shape)} in it, {tuple(own[name].shape)} in the model. Give the model that was "
                "saved."
            )
        broken = value.is_floating_point() and not bool(value.isfinite().all())
        # A buffer may hold -inf on purpose, as masks do.
        if broken and bool(own[name].isfinite().all()):
            raise Mismatch(
                f"{where}: {name} holds NaN or infinite numbers, so the training had diverged by then; leave this checkpoint out."
            )
    return made


def _rates_in(body: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The learning rates of the one optimizer that was saved beside a model; None where there is none, or several."""
    for key in OPTIMIZERS:
        part = body.get(key)
        if isinstance(part, Sequence) and len(part) == 1:
            part = part[0]
        groups = part.get("param_groups") if isinstance(part, Mapping) else None
        if isinstance(groups, Sequence) and groups and all(isinstance(one, Mapping) for one in groups):
            rates = [one.get("lr") for one in groups]
            if all(isinstance(one, (int, float, Tensor)) for one in rates):
                return tuple(map(float, rates))  # type: ignore[arg-type]
    return None
