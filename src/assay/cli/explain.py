"""`assay explain`: the training examples behind one prediction."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .values import Switch, whole

if TYPE_CHECKING:
    from ..core.explanation import Behind, Explanation


def explain_(
    run: Path,
    /,
    *,
    example: str | None = None,
    query: Path | None = None,
    label: str | None = None,
    method: str | None = None,
    k: Annotated[int, Parameter(name=["--k", "-k"], converter=whole)] = 5,
    forget: Switch = False,
    tolerance: float = 0.0,
) -> None:
    """Say which training examples help and harm one prediction.

    A method that predicts how a target changes is given the loss of the query as its target: of its given label, of the class that --label names,
    or else of the class that the model predicts. The explanation is saved in the run's folder, explanations/, and `assay report` shows
    it with pictures.

    Example: assay explain runs/digits --example 17

    Example: assay explain runs/digits --query mine.png --label 7 -k 10

    Parameters
    ----------
    run
        Folder of the run.
    example
        Id of an example that the run held out for validation or testing, or of a training example, whose own loss is then explained. Where
        parts share ids, validation=ID, test=ID or training=ID.
    query
        An input of your own: a picture, an .npy or .npz file of one input, or for tables a CSV file of a header and one row.
    label
        Name of the class whose loss is explained; by default the given label of the example, or the predicted class where none is known.
    method
        METHOD or METHOD:option=value,... of a method with a target; by default tracin.
    k
        How many helpful and how many harmful examples are named.
    forget
        Do not save the explanation.
    tolerance
        Largest distance between replayed and recorded parameters at an epoch's end, as a fraction of the norm of the recorded ones; 0 (the default)
        requires identical bits. For methods that replay the training.
    """
    from ..experiments.explain import DEFAULT, explain, name_of
    from ..replay.config import ReplayConfig
    from ..runs.run import Run
    from .console import say

    opened = Run(run)
    given = None if query is None else str(query)
    made = explain(
        opened,
        example,
        query=given,
        label=label,
        method=method or DEFAULT,
        k=k,
        save=not forget,
        replay_config=ReplayConfig(tolerance=tolerance),
    )
    show_explanation(made)
    if not forget:
        say(f"Saved in {opened.paths.explanation(name_of(made))}. Next, with pictures: assay report {run}")


def show_explanation(made: "Explanation") -> None:
    """The prediction in a sentence, and a table of what is behind it."""
    from ..core.words import worded
    from .console import caution, say, show_table

    say(made.sentence)
    for name, end in (("helpful", made.helpful), ("harmful", made.harmful)):
        # Only tables have cells to show.
        titles = ("training example", "given label", "value", "remark", "cells")[: 5 if any(one.row for one in end) else 4]
        rows = [(str(one.id), made.class_names[one.label], one.value, remark(made, one), one.row)[: len(titles)] for one in end]
        if rows:
            show_table(f"Most {name} by {made.method} ({made.unit})", titles, rows, right=("value",))
        else:
            say(f"No training example is {name}.")
    if made.own is not None:
        say(f"The example itself has the value {made.own.value:.4g}.")
    if made.diagnostics:
        say(f"{made.method}: {'; '.join(f'{name} {worded(value)}' for name, value in made.diagnostics.items())}")
    for warning in made.warnings:
        caution(warning)


def remark(made: "Explanation", one: "Behind") -> str:
    """What must be said of one example beside its value."""
    said = ["the query itself"] if one.itself else []
    if one.suspicious and one.believed is not None:
        said.append(f"suspicious: taken for {made.class_names[one.believed]} in training")
    return ", ".join(said)
