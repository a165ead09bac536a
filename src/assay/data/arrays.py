"""Examples from arrays, texts or tables in memory, or from one .npz file of arrays."""

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.arguments import checked_arguments
from ..core.errors import UnknownName, UsageError, listed, reading
from ..core.ids import Ids, index_of
from ..core.npy import is_npz, read_npy, read_npz
from ..maths.normalisation import statistics
from . import labels as given
from .dataset import AbstractDataset
from .examples import Examples, Split
from .files import file_at
from .readable import Readable, frame_read, is_frame, is_texts, listed_values, table_read, texts_read
from .splitting import held_out

_REQUIRED = ("inputs", "labels")
SHORT = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Floats that NumPy does not have."""
_OPTIONAL = ("ids", "true_labels", "class_names", "test_inputs", "test_labels", "test_ids")


@dataclasses.dataclass(frozen=True)
class Arrays(AbstractDataset):
    """Ids are the array `ids`, or positions in `inputs`; those of `test_inputs` continue from there.

    The file holds `inputs` and `labels`, and may hold `ids`, `true_labels`, `class_names`, `test_inputs`, `test_labels`,
    `test_ids`. Any other array is refused. `examples_from_arrays` says what they may contain. uint8 images are normalised by
    mean and standard deviation of the training part.

    Attributes:
        path: The .npz file.
        test: Fraction of every class that is set aside, drawn by id; for files without `test_inputs`.
        seed: Random seed of that draw.
        standardise: Whether float inputs are normalised too, per column or channel.
    """

    path: str
    test: float | None = None
    seed: int = 0
    standardise: bool = False
    name: ClassVar[str] = "arrays"
    summary: ClassVar[str] = "NumPy arrays in one .npz file: inputs, labels, and optionally ids, truth and a test part"

    def load(self) -> Split:
        """Read the file."""
        file = file_at(self.path)
        arrays = _read(str(file))
        for key in ("inputs", "test_inputs"):
            if key in arrays and arrays[key].dtype.kind not in "biuf":
                raise UsageError(f"{file}: {key} are {arrays[key].dtype}; give numbers.")
        ready = "test_inputs" in arrays
        if ready and self.test is not None:
            raise UsageError(f"{file} brings its own test part; leave out test={self.test}.")
        if not ready and self.test is None:
            raise UsageError(f"{file} has no test_inputs. Add them with test_labels, or give a fraction such as test=0.2.")
        if ready != ("test_labels" in arrays) or ("test_ids" in arrays and not ready):
            raise UsageError(f"{file}: test_inputs and test_labels go together, and test_ids with them.")

        rows, test_rows = len(arrays["inputs"]), len(arrays["test_inputs"]) if ready else 0
        ids = _ids(arrays.get("ids", np.arange(rows)), f"{file}, ids")
        test_ids = _ids(arrays.get("test_ids", np.arange(rows, rows + test_rows)), f"{file}, test_ids")
        origins = {
            key: given.Origin(f"{file}, {key}", (test_ids if key == "test_labels" else ids).values, "id")
            for key in ("labels", "true_labels", "test_labels")
            if key in arrays
        }
        values = {key: given.checked(arrays[key], origin) for key, origin in origins.items()}
        if len({array.dtype.kind for array in values.values()}) > 1:
            raise UsageError(f"{file}: {', '.join(values)} must all be numbers or all be texts.")
        if "class_names" in arrays:
            names = tuple(arrays["class_names"].tolist())
        else:
            names = given.class_names(f"{file}, {', '.join(values)}", *values.values())

        train = examples_from_arrays(arrays["inputs"], values["labels"], ids, class_names=names, source=str(file))
        test_truth = None
        truth = given.encode(values["true_labels"], names, origins["true_labels"]) if "true_labels" in values else None
        if self.test is None:
            source = f"{file}, test part"
            test = examples_from_arrays(arrays["test_inputs"], values["test_labels"], test_ids, class_names=names, source=source)
        else:
            aside = held_out(train.ids, train.labels, self.test, self.seed)
            train, test = train.take(~aside), train.take(aside)
            truth, test_truth = (truth[~aside], truth[aside]) if truth is not None else (None, None)
        if self.standardise or train.inputs.dtype == torch.uint8:
            mean, std = statistics(train.inputs)
            train, test = (dataclasses.replace(part, mean=mean, std=std) for part in (train, test))
        return Split(train, test, truth, drawn=self.test is not None, test_true_labels=test_truth)


def _read(path: str) -> dict[str, np.ndarray]:
    with reading(path, UsageError, "Save plain arrays with numpy.savez."), open(path, "rb") as file:
        try:
            if not is_npz(file):
                read_npy(file, file_at(path).stat().st_size)
                raise UsageError(f"{path} holds a single array. Save inputs and labels together with numpy.savez.")
            arrays = read_npz(file, _REQUIRED + _OPTIONAL)
        except UsageError:
            raise
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} cannot be read as .npz ({error}). Save plain arrays with numpy.savez.") from error
    for key in arrays:
        if key not in _REQUIRED + _OPTIONAL:
            raise UnknownName(f"array of {path}", key, _REQUIRED + _OPTIONAL)
    for key, array in arrays.items():
        if array.ndim == 0:
            raise UsageError(f"{path}: {key} is a single value; give one entry per example or class.")
    absent = [key for key in _REQUIRED if key not in arrays]
    if absent:
        raise UsageError(f"{path} lacks the array {' and '.join(absent)}; it holds {', '.join(arrays) or 'none'}.")
    return arrays


def as_array(values: Tensor) -> np.ndarray:
    """A tensor as a NumPy array; short float types that NumPy lacks (such as bfloat16) become float32, which represents all their values."""
    values = values.detach().cpu()
    return (values.to(torch.float32) if values.dtype in SHORT else values).resolve_conj().resolve_neg().numpy()


@checked_arguments
def examples_from_arrays(
    inputs: np.ndarray | Tensor | Sequence[Any],
    labels: np.ndarray | Tensor | Sequence[Any],
    ids: Ids | Iterable[int] | Iterable[str] | np.ndarray | Tensor | None = None,
    *,
    columns: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | np.ndarray | Tensor | None = None,
    std: Sequence[float] | np.ndarray | Tensor | None = None,
    source: str = "these arrays",
) -> Examples:
    """Make `Examples` from arrays, texts or a table, with no memory shared.

    Of texts and tables the page shows the cells as they are, a text as the column `text`. Where all cells are finite numbers, they are the
    inputs too; else the examples have no numbers, and what computes with inputs refuses them.

    Args:
        inputs: uint8 images (examples, channels, height, width) or (examples, height, width), which stay uint8; any
            numbers (examples, ...), which become float32; texts; a DataFrame of pandas or polars; or with `columns` an array of cells
            (examples, columns).
        labels: Class numbers from 0, or texts.
        ids: One per example; None for the index of a DataFrame or Series of pandas where it is whole numbers or texts that occur once, else for
            positions. A loop records positions: `ids=range(len(frame))`.
        columns: Names of the cells of an array of two axes, which the page then shows.
        class_names: Names in the order of the class numbers; None for the numbers or texts that occur. Give them for a test
            part, so that it has the classes of the training part.
        mean: What `Examples.prepared` subtracts, per channel or column, or one number for all channels of images; None for nothing.
        std: What `Examples.prepared` divides by after that; required with `mean`.
        source: What messages call the arrays.

    Raises:
        UsageError: Inputs, labels or ids are missing, not finite, of a wrong type or do not go together; names the ids.
    """
    held = _given(inputs, columns, source)
    which = _usual_ids(inputs, len(held)) if ids is None else ids if isinstance(ids, Ids) else _ids(ids, source)
    if len(which) != len(held):
        raise UsageError(f"{source}: {len(which)} ids for {len(held)} inputs; give one id for each.")
    origin = given.Origin(source, which.values, "id")
    values = given.checked(labels, origin)
    names = given.class_names(source, values) if class_names is None else tuple(class_names)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{source}: class_names {listed(names, len(names))} must be two or more different texts.")
    prepared, read = _prepared(held, columns, which, source)
    if (mean is None) != (std is None):
        raise UsageError(f"{source}: mean and std go together; give both or neither.")
    if mean is not None and not prepared.shape[1]:
        raise UsageError(f"{source}: mean and std are of numbers, and these examples have none; leave them out.")
    # As torchvision's Normalize, one number goes for all channels of images.
    means, stds = (
        None if what is None else _numbers(what, prepared.shape[1], source, prepared.ndim == 4) for what in (mean, std)
    )
    if stds is not None and not all(one > 0 for one in stds):
        raise UsageError(f"{source}: std is {listed(stds, len(stds))}; a standard deviation to divide by is above 0.")
    rows, titles = (None, ()) if read is None else (read.rows, read.columns)
    return Examples(which, prepared, given.encode(values, names, origin), names, means, stds, rows, titles)


def _given(inputs: Any, columns: Sequence[str] | None, source: str) -> Any:
    """A DataFrame as it is, texts as a list, all else as an array of at least one example."""
    if isinstance(inputs, Tensor) and (inputs.layout != torch.strided or inputs.device.type == "meta"):
        raise UsageError(
            f"{source}: inputs are of layout {inputs.layout} on {inputs.device}; give a dense tensor that holds numbers."
        )
    frame, texts = is_frame(inputs), is_texts(inputs)
    if (frame or texts) and columns is not None:
        whose = "a DataFrame names its own" if frame else "texts are one column"
        raise UsageError(f"{source}: columns= names the cells of an array (examples, columns), and {whose}; leave it out.")
    if frame and not len(inputs):
        raise UsageError(f"{source}: the DataFrame has no rows; give at least one example.")
    if frame or texts:
        return inputs if frame else listed_values(inputs)
    try:
        array = as_array(inputs) if isinstance(inputs, Tensor) else np.asarray(inputs)
    except ValueError as error:
        raise UsageError(f"{source}: inputs are rows of different lengths; give all examples one shape.") from error
    if array.ndim < 2 or not len(array):
        raise UsageError(
            f"{source}: inputs have shape {array.shape}; give at least one example, each with at least one axis, or texts."
        )
    return array


def _usual_ids(inputs: Any, size: int) -> Ids:
    try:
        found = index_of(inputs)
    except UsageError:
        # Such as one with repeated values, which says nothing of the examples.
        found = None
    return Ids(range(size)) if found is None else found


def _prepared(held: Any, columns: Sequence[str] | None, ids: Ids, source: str) -> tuple[Tensor, Readable | None]:
    """The inputs, without any number where not all cells are numbers; and what is read of texts and tables."""
    if columns is not None:
        read = table_read(held, columns, ids, source)
    elif isinstance(held, np.ndarray):
        return _inputs(held, ids, source), None
    else:
        read = frame_read(held, ids, source) if is_frame(held) else texts_read(held, ids, source)
    return (torch.empty(len(ids), 0) if read.numbers is None else _inputs(read.numbers, ids, source)), read


def _numbers(given: Sequence[float] | np.ndarray | Tensor, channels: int, source: str, images: bool) -> tuple[float, ...]:
    """Mean or std as plain numbers.

    Raises:
        UsageError: It is not one finite number for each channel or column.
    """
    values = np.asarray(as_array(given) if isinstance(given, Tensor) else given)
    if values.dtype.kind not in "iuf" or values.ndim != 1 or not np.isfinite(values).all():
        raise UsageError(
            f"{source}: mean and std are finite numbers, one per channel or column, not {listed(np.ravel(values), values.size)}."
        )
    if images and len(values) == 1:
        values = values.repeat(channels)
    if len(values) != channels:
        raise UsageError(f"{source}: {len(values)} numbers for mean or std, but inputs have {channels} channels or columns.")
    return tuple(values.tolist())


def rows_by_id(path: str | pathlib.Path, ids: Ids) -> Tensor:
    """Rows of numbers, such as embeddings, in the order of `ids`, from an .npy file whose rows are in that order or an .npz file of `inputs` and
    `ids`.

    Raises:
        UsageError: The file cannot be read, or holds no row of finite numbers for each id.
        Mismatch: An id is not in the file.
    """
    file = file_at(str(path))
    cure = "Save rows with numpy.save, or inputs and ids with numpy.savez."
    with reading(file, UsageError, cure), open(file, "rb") as opened:
        try:
            size = file.stat().st_size
            arrays = read_npz(opened, ("inputs", "ids")) if is_npz(opened) else {"": read_npy(opened, size)}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{file} cannot be read ({error}). {cure}") from error
    if "" not in arrays and arrays.keys() != {"inputs", "ids"}:
        raise UsageError(
            f"{file} holds {', '.join(arrays) or 'nothing'}; it must hold inputs and ids, or be a single .npy array."
        )
    array = arrays.get("", arrays.get("inputs"))
    held = ids if "" in arrays else _ids(arrays["ids"], f"{file}, ids")
    if array is None or array.ndim < 2 or len(array) != len(held):
        shape = None if array is None else array.shape
        raise UsageError(f"{file}: rows of shape {shape} for {len(held)} ids; give one row of numbers for each.")
    return _inputs(array, held, str(file))[held.positions(ids, str(file))].to(torch.float32)


def _inputs(array: np.ndarray, ids: Ids, source: str) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{source}: inputs are {array.dtype}; give numbers, or the names of the cells by columns=[...].")
    if array.dtype == np.uint8 and array.ndim == 3:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 3, 4):
        raise UsageError(
            f"{source}: images of shape {array.shape[1:]} look as if channels came last. "
            "Give (examples, channels, height, width), for example by inputs.transpose(0, 3, 1, 2), of a tensor by inputs.permute(0, 3, 1, 2)."
        )
    if array.dtype == np.uint8 and array.ndim == 4:
        return torch.from_numpy(np.array(array, order="C"))
    with np.errstate(over="ignore"):  # what overflows float32 is refused below
        floats = np.array(array, np.float32, order="C")
    bad = ~np.isfinite(floats).reshape(len(floats), -1).all(1)
    if bad.any():
        names = ids.values[bad]
        raise UsageError(
            f"{source}: inputs of {len(names)} examples are NaN, infinite or too large for float32; "
            f"ids {listed(names, len(names))}. Mend them or leave these examples out."
        )
    return torch.from_numpy(floats)


def _ids(values: Iterable[int] | Iterable[str] | np.ndarray | Tensor, source: str) -> Ids:
    try:
        return Ids(values)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error
