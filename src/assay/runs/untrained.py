"""A run without training: only the examples and their classes, for methods that need no more."""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from ..core.ids import Ids
from .artefacts import save_truth
from .disk import replace, whole_folder
from .paths import RunPaths
from .recorder import check_place
from .run import Run
from .schema import Header, here, write_header
from .tables import write_examples


def untrained(
    folder: str | Path,
    ids: Ids,
    labels: Int[Tensor, " examples"],
    class_names: tuple[str, ...],
    *,
    true_labels: Int[Tensor, " examples"] | None = None,
    seed: int | None = None,
    about: Mapping[str, object] | None = None,
    code: str = "",
) -> Run:
    """Write a run of no epochs.

    Args:
        folder: New or empty.
        ids: Stable id of each example.
        labels: Given class of each.
        class_names: One name per class.
        true_labels: True class of each, where it is known; kept aside.
        seed: Seed of later trainings on these examples.
        about: Description of the examples and of how they would be trained on.
        code: Version of assay.

    Raises:
        OutputExists: There is something in the folder.
        NotWritten: The operating system refuses.
    """
    place = RunPaths(Path(folder))
    check_place(place)
    header = Header(
        **here(),
        code=code,
        view="none",
        keep_logits=False,
        mean_probs=False,
        checkpoints="none",
        examples=len(ids),
        seed=seed,
        device="cpu",
        about=dict(about or {}),
    )
    with whole_folder(place.folder) as part:
        paths = RunPaths(part)
        write_examples(paths.examples, ids, labels, class_names)
        if true_labels is not None:
            save_truth(ids, true_labels, paths.truth)
        replace(paths.header, write_header(header))
    return Run(folder)
