"""`assay status`: how far are the trainings that another command has given out?"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..cluster.ledger import TaskStatus


def status_(folder: Path, /) -> None:
    """Say how far the trainings of a study or run are.

    Another command may be at work on them.

    Done, running, failed, queued, and the time that is left, of each kind of training: those of a study, of its recordings too, or those that verify, cleanse, score and lds do on
    a run. It reads the logs alone and changes nothing, so that it may be called from another shell or machine with the same disk.

    Example: assay status studies/digits

    Parameters
    ----------
    folder
        Folder of a study or run.
    """
    from ..cluster.ledger import read_ledgers, together
    from ..core.errors import RunError
    from ..core.words import lasted
    from ..runs.paths import RunPaths, StudyPaths
    from .console import caution, say, show_table

    study, run = StudyPaths(folder), RunPaths(folder)
    tasks = read_ledgers(run.logs if run.header.exists() else study.logs)
    if not run.header.exists() and study.probes.is_dir():
        # What leaves examples out of a recording of the study logs beside that recording.
        beside: dict[str, list[TaskStatus]] = {}
        for recording in sorted(study.probes.iterdir()):
            for one in read_ledgers(RunPaths(recording).logs):
                beside.setdefault(one.task, []).append(one)
        tasks += [together(found, f"{task}, of {len(found)} recordings so far") for task, found in beside.items()]
    if not tasks:
        raise RunError(
            f"{folder} has no logs of trainings; name the folder of a study, or of a run on which verify, cleanse, score or lds trains."
        )
    rows = []
    for one in tasks:
        left = "" if one.seconds_left is None else lasted(one.seconds_left)
        rows.append(
            (
                one.task,
                one.done,
                one.running,
                one.failed,
                one.queued,
                "" if one.seconds is None else lasted(one.seconds),
                left if one.alive else "",
            )
        )
    columns = ("trainings", "done", "running", "failed", "queued", "each takes", "time left")
    show_table(str(folder), columns, rows, right=columns[1:])
    for one in tasks:
        if one.failed:
            caution(f"{one.failed} failed, the first of them {one.first_failed}; its log says why.", one.task)
    if any(one.alive for one in tasks):
        say("The command that gave them out is at work.")
    elif any(one.running or one.queued or one.failed for one in tasks):
        say("The command that gave them out has ended before all were done; give it again, and it goes on from here.")
    else:
        say("All that were given out so far are done. What a command does between trainings, such as scoring, is not seen here.")
