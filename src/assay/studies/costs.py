"""What a study takes, before it is begun."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.arguments import checked_arguments
from ..core.errors import UsageError
from ..experiments.estimate import Cost, DryRun, Planned, estimate_work


@checked_arguments
def estimate_study(
    study: Callable[..., Any],
    settings: dict[str, Any] | None = None,
    *,
    scale: str = "small",
    grid: object = None,
    threads: int = 1,
) -> list[Cost]:
    """What a study costs: how many trainings, of how many steps, in which time and with how many bytes; a few steps of each kind are trained and measured.

        for cost in assay.estimate_study(assay.study_coresets, scale="tiny"):
            print(cost.trainings, cost.what, cost.seconds(workers=2))

    Finished trainings are not taken off, and equal ones, which are done once, are counted each. What the scores cost is not in it.

    Args:
        study: The function of the study, such as `assay.study_coresets`.
        settings: Settings of the plan, as that function takes them.
        scale: `tiny`, `small` or the paper's.
        grid: What is combined, as that function takes it.
        threads: torch threads of each training; the command line trains with one.

    Returns:
        The costs of each kind of trainings, those that are recorded first.

    Raises:
        UsageError: It is no study, or a value is out of range.
        AssayError: As the study.
    """
    if not (getattr(study, "__module__", "").startswith(__package__) and getattr(study, "__name__", "").startswith("study_")):
        raise UsageError(f"study={study!r} is no study; give its function, such as assay.study_coresets.")
    given = {} if settings is None else {"settings": settings}
    with tempfile.TemporaryDirectory() as folder:
        try:
            study(Path(folder) / "study", **given, scale=scale, grid=grid, execution=DryRun())
        except Planned as planned:
            return estimate_work(planned.work, threads)
    raise AssertionError(f"{study} trained in a dry run")
