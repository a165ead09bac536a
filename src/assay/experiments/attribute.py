"""Attribute: from a recorded run to what every training example is worth to each query."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from .. import __version__
from ..core.arguments import checked_arguments
from ..core.attribution import AbstractAttributor, Attribution, LastBlock
from ..core.errors import NumericalError, UsageError, listed
from ..core.features import DATA
from ..core.ids import Ids
from ..core.lineage import Lineage, fingerprint
from ..core.method import AbstractMethod
from ..core.needs import Need
from ..methods import catalogue, parse
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given
from ..runs.artefacts import finished
from ..runs.attributions import RowFile, finishing, load_attribution, new_rows, save_attribution
from ..runs.run import DRAWN, Run
from .evidence import Agreed, gather, shown_data
from .held_out import held_out_asked, held_out_of
from .models import members_of, open_models, told_by
from .progress import Progress
from .request import Request
from .saved_scores import can_be_told, parents_of
from .scorable import check_classes, check_read, check_untrained, inputs_asked, looks_at_inputs


@checked_arguments
def attribute(
    run: str | Path | Run,
    method: str | AbstractMethod,
    *,
    recompute: bool = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | Sequence[str] | None = None,
    replay_config: ReplayConfig | None = None,
    progress: Progress | None = None,
) -> Attribution:
    """What every training example is worth to each query: to each row of the target that the method's option names.

    The values are written into the run's folder, attributions/TITLE, some queries at a time, and reused if they were made from this same
    recording and the same queries; with `loop` they are always computed, since a later call cannot check that its loop is the same. For
    several models of a recording they are the mean.

    Args:
        run: Folder of a run, or an open run.
        method: Name of an attributor, `"name:option=value,..."`, or an attributor object.
        recompute: Compute the values even if they are saved already.
        loop: The `Loop` that describes your own training loop.
        targets: The queries by name: Examples, or (inputs, labels). Runs with a plan know `validation`, `misclassified`, `test`, `class=NAME`, `id=ID` and
            `ids=FILE` by themselves, as `score` does.
        replay_config: How steps are replayed: schedule, memory, tolerance.
        progress: Receives the number of finished values, of all queries by all examples of every model.

    Raises:
        UnknownName: No such method, option or target.
        UsageError: The method, or the target, gives no value per query; or an argument that is not read.
        MissingEvidence: The run did not record what the method needs.
        Mismatch: Data, model or loop are not those of the recording.
        RunError: The run is absent or damaged, or the disk refused.
        BadScores: The method gave something that is not one finite number for every pair.
        NumericalError: The gradient of every query is 0, so that every value is.
    """
    run = run if isinstance(run, Run) else Run(run)
    attributor = attributor_named(method)
    if not run.epochs:
        check_untrained([attributor])
    check_classes(run, attributor)
    request = Request(loop=loop, targets=targets, replay_config=replay_config)
    check_read(run, [attributor], request)
    replays = _opened(run, attributor, request)
    first, name, title = replays[0], attributor.query_set, attributor.title
    queries = first.queries(name)
    data, content = shown_data(run, looks_at_inputs(attributor), loop)
    parents = parents_of(run, attributor, first, loop, replay_config, content)
    parents[f"queries {name}"] = fingerprint(first.rows_of(name).fingerprint, queries.ids.fingerprint)
    held = {one: held_out_of(run, one, request, data, first).examples for one in held_out_asked([attributor])}
    folder = run.paths.attribution(title)
    if not recompute and (old := _saved(folder, title, parents)) is not None:
        return old
    begun = time.perf_counter()
    with contextlib.ExitStack() as ending:
        with new_rows(folder, title, queries.ids, run.ids) as (path, writer):
            done, total = 0, len(replays) * len(queries.ids) * len(run.ids)
            reached = torch.zeros(len(queries.ids), dtype=torch.bool)
            told: list[LastBlock] = []
            for replay in replays:
                writer.start_model()
                told.append(LastBlock())
                evidence = gather(replay.run, replay, data, replays).beside(held).narrow(title, attributor.reads)
                for block in told[-1].of(attributor.attribute(evidence)):
                    writer.add(block)
                    reached[block.queries] |= (block.values != 0).any(1).cpu()
                    done += block.values.numel()
                    if progress is not None:
                        progress.advance(title, done, total, "values")
            unreached = _unreached(attributor, name, queries.ids, reached)
            checksums = writer.end()
            ending.enter_context(finishing(folder))
        remarks = tuple(first.remarks[one] for one in _asked(attributor) if one in first.remarks)
        made = Attribution(
            queries=queries.ids,
            ids=run.ids,
            labels=queries.labels,
            weights=queries.weights,
            source=RowFile(path, len(run.ids), checksums),
            method=attributor.name,
            options={field.name: getattr(attributor, field.name) for field in dataclasses.fields(attributor)},
            title=title,
            direction=attributor.direction,
            unit=attributor.unit,
            lineage=Lineage(
                dataset=run.dataset,
                parents=parents,
                code=__version__,
                seed=run.header.seed,
                device=str(first.training.device),
                seconds=time.perf_counter() - begun,
                folder=str(run.folder),
                drawn=DRAWN in run.header.about,
            ),
            warnings=remarks
            + first.cautions
            + unreached
            + tuple(dict.fromkeys(warning for one in told for warning in one.warnings)),
            models=len(replays),
            diagnostics=told[0].diagnostics if len(told) == 1 else told_by([one.diagnostics for one in told]),
        )
        save_attribution(made, path)
    return made


def _unreached(attributor: AbstractAttributor, target: str, queries: Ids, reached: Bool[Tensor, " queries"]) -> tuple[str, ...]:
    """What must be said of queries for which every example has 0, where values are made of gradients.

    Raises:
        NumericalError: All queries are such.
    """
    if not attributor.reads & {Need.CHECKPOINTS, Need.STEPS} or bool(reached.all()):
        return ()
    if not bool(reached.any()):
        raise NumericalError(
            f"{attributor.title}: every value is 0, because the gradient of each of the {len(queries)} queries of {target!r} is 0 by all parameters that are looked at, as of "
            "predictions that are sure beyond the precision of the numbers; choose other queries."
        )
    names = queries.take(~reached)
    return (
        f"{len(names)} of {len(queries)} queries (ids {listed(names, len(names))}) have 0 for every example: their gradient is 0, so that nothing is told of them.",
    )


def attributor_named(method: str | AbstractMethod) -> AbstractAttributor:
    """The attributor of that name, with its options.

    Raises:
        UnknownName: No such method or option.
        UsageError: The method gives no values per query, or none with these options.
    """
    made = parse(method)
    if not isinstance(made, AbstractAttributor):
        able = [name for name, cls in catalogue().items() if issubclass(cls, AbstractAttributor)]
        raise UsageError(f"{made.title} gives one number per example, and none per query; choose {' or '.join(able)}.")
    if made.reduce != "mean":
        raise UsageError(
            f"{made.title}: reduce= is how scores are made of all queries, and is not read here; leave it out, and ask the attribution for "
            f".reduce({made.reduce!r})."
        )
    if rows := [one for one in inputs_asked(made) if one != DATA]:
        raise UsageError(
            f"{made.title} reads rows named {rows[0]!r}, which are given to scores and not to attributions; choose features=inputs or features=penultimate."
        )
    # Refused here where the options leave no value per query.
    _ = made.query_set
    return made


def _asked(method: AbstractAttributor) -> list[str]:
    return list(dict.fromkeys((*method.asks.named_targets, method.query_set)))


def _opened(run: Run, method: AbstractAttributor, request: Request) -> list[Replay]:
    """Every model of the recording ready to be replayed, with the queries."""
    asked = _asked(method)
    found = open_models(members_of(run), asked, request, Agreed())
    for name in asked:
        if name not in found[0].targets:
            raise UsageError(
                f"{method.title} asks for target {name!r}; there are: {', '.join(found[0].targets) or 'none'}. Name it with targets=, as "
                "(inputs, labels) or Examples."
            )
    found[0].rows_of(method.query_set)
    return found


def _saved(folder: Path, title: str, parents: Mapping[str, str]) -> Attribution | None:
    """What an earlier call wrote, if it was made of the same by this version of assay and is whole."""
    old = finished(load_attribution, folder)
    if old is None or old.title != title or old.lineage is None or old.lineage.code != __version__:
        return None
    return old if dict(old.lineage.parents) == dict(parents) and can_be_told(parents) else None
