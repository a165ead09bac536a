"""Training data altered for a study: images transformed by their ids, and whatever was altered written as arrays that a plan reads."""

import functools
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError
from ..data.examples import Examples
from ..data.image_corruption import damaged, mixed
from ..runs.disk import replace


def transformed(images: Tensor, keys: np.ndarray, intensity: float, seed: int) -> Tensor:
    """Each image under one of four transforms, drawn evenly: noise, a small rotation, a larger rotation, contrast (the boundary set of LiveVal's code).

    Args:
        images: Images, as bytes or from 0 to 1.
        keys: One 64-bit word per image (`Ids.keys`), by which everything is drawn.
        intensity: How far: factor of the noise's deviation, of the angles and of the change of contrast.
        seed: Random seed.

    Returns:
        New images of the same type.

    Raises:
        UsageError: A number lies outside 0..1.
    """
    return damaged(images, keys, functools.partial(mixed, strength=intensity, seed=seed))


def saved_arrays(path: Path, train: Examples, inputs: Tensor, labels: Tensor, test: Examples) -> Path:
    """Write altered training data beside a test part, as the reader of arrays takes them.

    Args:
        path: Where.
        train: The training examples as they were.
        inputs: Their inputs now: images in bytes, or numbers as `Examples.prepared` gives them.
        labels: Their labels now.
        test: The examples to test on.

    Raises:
        UsageError: The path has a comma, which separates options in a plan.
        NotWritten: The disk refuses.
    """
    if "," in str(path):
        raise UsageError(f"{path} has a comma, and a plan names altered data by their path; name a folder without one.")
    body = io.BytesIO()
    tested = test.inputs if inputs.dtype == torch.uint8 else test.prepared(test.inputs)
    np.savez_compressed(
        body,
        inputs=inputs.numpy(),
        labels=labels.numpy(),
        ids=train.ids.values,
        class_names=np.array(train.class_names),
        test_inputs=tested.numpy(),
        test_labels=test.labels.numpy(),
        test_ids=test.ids.values,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, body.getvalue())
    return path
