"""A run of predictions that somebody else saved: passes over the same examples, one after the other."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.ids import Ids
from ..core.passes import Passes
from .disk import whole_folder
from .observations import SMALL
from .paths import RunPaths
from .recorder import Origin, Recorder, check_place
from .recording import Recording
from .run import Run


def save_passes(
    folder: str | Path,
    ids: Ids,
    labels: Int[Tensor, " examples"],
    logits: Iterable[Tensor],
    passes: Passes,
    *,
    class_names: Sequence[str] | None = None,
    about: Mapping[str, object] | None = None,
    code: str = "",
) -> Run:
    """Write a run of passes, one in memory at a time; the folder is there whole or not at all.

    Args:
        folder: New or empty.
        ids: Stable id of each example.
        labels: Given class of each.
        logits: Of each pass the logits, (examples, classes), in the order of the ids.
        passes: What they are.
        class_names: One name per class.
        about: Description of what predicted, for the report.
        code: Version of assay.

    Raises:
        UsageError: There is no pass, or logits do not fit ids, labels or the passes before.
        NumericalError: A logit is NaN or infinite.
        OutputExists: There is something in the folder.
        NotWritten: The operating system refuses.
    """
    place = RunPaths(Path(folder))
    check_place(place, resumable=False)
    everyone = torch.arange(len(ids))
    with whole_folder(place.folder) as part:
        recorder: Recorder | None = None
        try:
            for rows in logits:
                if recorder is None:
                    kept = Recording(
                        view="train" if passes.kind == "training" else "eval",
                        keep_logits=True,
                        mean_probs=rows.numel() <= SMALL,
                        checkpoints="none",
                    )
                    origin = Origin(about=about, code=code, passes=passes)
                    recorder = Recorder(part, ids, kept, class_names=class_names, origin=origin)
                recorder.begin()
                recorder.observe(everyone, rows, labels)
                recorder.commit()
        finally:
            if recorder is not None:
                recorder.close()
        if recorder is None:
            raise UsageError("There is no pass to make a run of; give the predictions of at least one.")
    return Run(folder)
