"""LDS: leave subsets of the examples out, retrain, and hold what methods predict of it against what happened."""

import dataclasses
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from .. import __version__
from ..cluster.executors import Call, InlineExecutor, run_all
from ..core.arguments import checked_arguments, checked_fields
from ..core.attribution import AbstractAttributor, PairCheck, checked_values
from ..core.errors import BadScores, MissingEvidence, UsageError
from ..core.ids import Ids
from ..core.lds import LDS, OTHERS, RETRAINING, SAME, RankAgreement, SubsetTraining
from ..core.lineage import Lineage, fingerprint
from ..core.method import AbstractMethod
from ..core.steps import Form
from ..maths import crossed, draws
from ..methods import parse
from ..replay.config import ReplayConfig
from ..replay.loop import Loop
from ..replay.replay import Replay
from ..replay.targets import Given, MeanLoss, RowLosses, mean_loss, parts_of_target, row_losses
from ..runs.artefacts import finished, load_subset_training, save_lds, save_subset_training
from ..runs.run import Run
from ..training.device import mode
from ..training.state import standing_at
from .cleanse import TEST, undecided
from .evidence import Agreed, check_taken_again, gather, open_replay, shown_data
from .execution import Execution, Save, check_save
from .held_out import held_out_asked, held_out_of
from .kept_state import StateKeeper
from .models import members_of, open_models
from .plan import Plan, came_of, has_plan, load_data, plan_of
from .request import Request
from .retraining import Retraining
from .scorable import asks_targets, check_wanted, is_replayed, looks_at_inputs
from .score import score
from .trials import TURN, Arm, state_file, trained_model

USUAL = "validation"
"""The target where no method names one."""
SHARE = 0.1
"""Share of the examples that is left out where neither a share nor a count is given."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class LeaveOutGrid:
    """What is left out together, how often, and what the trainings are.

    Attributes:
        subsets: How many subsets are drawn, at least 4.
        share: Share of the examples that each subset leaves out, in (0, 1); by default 0.1.
        count: How many it leaves out, instead of a share; with 1, each subset is another example (leave-one-out).
        queries: How many rows of the target are drawn as queries, at most.
        same_seed: Whether the recorded training is repeated without each subset: same weights, same batches.
        other_seeds: How many other seeds the plan is trained under without each subset: other weights, other batches, of those that stay.
        form: How examples are left out of the recorded batches: `weight` (their losses count 0, the mean is over the whole batch, which is what
            influence predicts), `removed` or `renormalised` (the mean is over those that stay), as `loo` takes it.
        draw: Random seed by which subsets and queries are drawn.

    Raises:
        UsageError: A setting is of a wrong kind or outside its range.
    """

    subsets: int = 100
    share: float | None = None
    count: int | None = None
    queries: int = 50
    same_seed: bool = True
    other_seeds: int = 0
    form: Form = "weight"
    draw: int = 0

    def __post_init__(self):
        if self.subsets < crossed.FEWEST:
            raise UsageError(
                f"subsets={self.subsets} are too few to rank; give at least {crossed.FEWEST}, and better 50 or more."
            )
        if self.share is not None and self.count is not None:
            raise UsageError(f"share={self.share:g} and count={self.count} both say how many are left out; give one of them.")
        if self.share is not None and not 0 < self.share < 1:
            raise UsageError(f"share={self.share} is no part of the examples; give a number above 0 and below 1, or count=.")
        if self.count is not None and self.count < 1:
            raise UsageError(f"count={self.count} leaves nothing out; give at least 1.")
        if self.queries < 1:
            raise UsageError(f"queries={self.queries} leaves nothing to predict; give at least 1.")
        if self.other_seeds < 0:
            raise UsageError(f"other_seeds={self.other_seeds} is less than none; give 0 or more.")
        if not self.same_seed and not self.other_seeds:
            raise UsageError("same_seed=False and other_seeds=0 leave nothing to train; allow one of them.")
        if self.form not in get_args(Form):
            raise UsageError(f"form={self.form!r} is none of {', '.join(get_args(Form))}.")
        if not self.same_seed and self.form != "weight":
            raise UsageError(
                f"form={self.form} is how the recorded training is repeated, which same_seed=False leaves out; leave form out."
            )
        if self.draw < 0:
            raise UsageError(f"draw={self.draw} is no seed; give 0 or more.")

    def left_out(self, examples: int) -> int:
        """How many examples each subset leaves out.

        Raises:
            UsageError: None, or all.
        """
        share = SHARE if self.share is None else self.share
        count = round(share * examples) if self.count is None else self.count
        if not 1 <= count < examples:
            said = f"share={share:g}" if self.count is None else f"count={self.count}"
            raise UsageError(f"{said} leaves out {count} of {examples} examples; leave out at least 1, and not all.")
        if count == 1 and self.subsets > examples:
            raise UsageError(f"subsets={self.subsets}: {examples} examples can each be left out once; give at most {examples}.")
        return count

    def groups(self, ids: Ids) -> list[Int[Tensor, " group"]]:
        """The positions that each subset leaves out, rising. Subsets of one example are all different, others are drawn independently."""
        count = self.left_out(len(ids))
        if count == 1:
            return list(draws.permutation(ids.keys, self.draw, "lds, one left out")[: self.subsets].split(1))
        return [
            draws.permutation(ids.keys, self.draw, "lds, left out", number)[:count].sort().values
            for number in range(self.subsets)
        ]


@checked_arguments
def lds(
    run: str | Path | Run,
    methods: Sequence[str | AbstractMethod] | str | AbstractMethod,
    *,
    grid: LeaveOutGrid | None = None,
    save: Save = False,
    loop: Loop | None = None,
    targets: Mapping[str, Given] | None = None,
    replay_config: ReplayConfig | None = None,
    execution: Execution | None = None,
) -> LDS:
    """How well methods predict what leaving several examples out together does: the linear datamodeling score, with an interval.

        assay.lds("runs/digits", ["tracin", "sgd_influence"], grid=assay.LeaveOutGrid(subsets=100, share=0.1))

    Subsets of the examples are drawn, and the model is trained without each. The values of the examples left out are added up, and Spearman's
    rho over the subsets holds these sums against the losses after training. For methods with values per query that is done for each of the
    drawn queries, and LDS is the mean of rho over them. For every method it is done for the loss of the whole target. Intervals are of
    95 %, over queries and subsets (`maths.crossed`), for these seeds. With two other seeds or more it is also told how well the losses
    under one of them hold against the mean of the rest: what one real retraining reaches.

    Args:
        run: The run.
        methods: Names, `"name:option=value,..."`, or methods, whose values say whether an example helps or harms; all of one target. Those
            without a target rank suspects, which the result's warnings say.
        grid: What is left out, and how it is trained.
        save: Keep the result and every finished training in the run's folder, and take from there what an earlier call finished, whatever
            its methods and queries; `"recompute"` takes nothing from there. Results of other methods, queries or draws stay beside it. Not with
            `loop`, since a later call cannot check that its loop is the same.
        loop: The `Loop` that describes your own training loop; not for runs with a plan.
        targets: With `loop`: the target by name, as (inputs, labels) or Examples. A plan has its own targets.
        replay_config: How far replayed parameters may differ from the recorded ones.
        execution: Where trainings run, and who is told of each.

    Raises:
        UnknownName: No such method, option or target.
        UsageError: Methods of several targets, a method that ranks difficulty, a target without rows, other seeds without a plan, or a
            setting out of range.
        MissingEvidence: The run lacks what a method needs, or kept no model to start from.
        Mismatch: Data, model or loop are not those of the recording.
        TrialFailed: A training ended in an error elsewhere; with path and tail of its log.
    """
    began = time.perf_counter()
    grid, execution, how = grid or LeaveOutGrid(), execution or Execution(), replay_config or ReplayConfig()
    run = run if isinstance(run, Run) else Run(run)
    check_save(save)
    wanted = [parse(one) for one in ([methods] if isinstance(methods, (str, AbstractMethod)) else methods)]
    plan = _checked(run, wanted, grid, save, loop, targets)
    name = _target_of(wanted)
    request = Request(True, save, loop, targets, how, None, None, execution)
    replay = open_replay(run, loop=loop, targets=[name] if plan is not None else targets, replay_config=how, asked=[name])
    if name not in replay.targets:
        raise UsageError(
            f"One LDS is of one target, here {name!r}; there are: {', '.join(replay.targets) or 'none'}. Name it with targets=, as (inputs, "
            "labels) or Examples."
        )
    rows = replay.rows_of(name)
    groups = grid.groups(run.ids)
    drawn = draws.permutation(rows.queries.ids.keys, grid.draw, "lds, queries")[: grid.queries].sort().values
    whole, single, parents, warned = {}, {}, {}, list(replay.remarks.values())
    if run.members:
        warned.append(
            f"The values are means over {len(run.members) + 1} models; the first of them is the recorded training that is repeated."
        )
    for method in wanted:
        scores = _scores(run, method, request)
        parents[f"scores {method.title}"] = scores.fingerprint
        warned += [f"{method.title}: {words}" for words in scores.warnings if words not in warned]
        # The window of other methods is a number of epochs that slides.
        if isinstance(window := scores.options.get("window"), str) and window != "all":
            warned.append(
                f"{method.title} covers window={window}, and the trainings leave the examples out of all steps; choose window=all."
            )
        # What helps makes the loss rise where it is left out.
        helps = -method.direction.sign * scores.values
        whole[method.title] = np.array([[float(helps[group].sum())] for group in groups])
        if not method.asks.named_targets:
            warned.append(
                f"{method.title} does not predict the loss of {name!r}: it ranks suspects, and its rho says whether that loss is lower without those "
                "that it suspects."
            )
        if not isinstance(method, AbstractAttributor):
            continue
        if why := _no_queries(method):
            warned.append(f"LDS over queries is left out: {why}")
        else:
            single[method.title] = -method.direction.sign * _sums(run, method, name, drawn, groups, request).numpy()
    trainings = _Trainings(run, plan, replay, name, grid, request)
    measured = trainings.all(groups)
    others = {f"seed {seed}": measured[seed] for seed in trainings.seeds}
    truths = {SAME: measured[None]} if grid.same_seed else {}
    if others:
        truths |= {OTHERS: np.mean([*others.values()], axis=0)} | (others if len(others) > 1 else {})
    weights = rows.queries.weights.numpy()[:, None]
    agreements: dict[bool, list[RankAgreement]] = {True: [], False: []}
    for of_whole, predictions in ((True, whole), (False, single)):
        seen = {truth: losses @ weights if of_whole else losses[:, drawn.numpy()] for truth, losses in truths.items()}
        for title, predicted in predictions.items():
            agreements[of_whole] += [_agreement(title, truth, predicted, losses) for truth, losses in seen.items()]
            if flat := crossed.without_spread(predicted):
                warned.append(
                    f"{title} predicts the same for all subsets for {flat} of {predicted.shape[1]} losses; each counts as 0."
                )
        if len(others) > 1 and predictions:
            each = np.stack([seen[seed] for seed in others])
            rest = (each.sum(0) - each) / (len(others) - 1)
            agreements[of_whole].append(_agreement(RETRAINING, OTHERS, each, rest))
    made = LDS(
        target=name,
        queries=tuple(rows.queries.ids.take(drawn)),  # type: ignore[arg-type]
        rows=len(rows.labels),
        examples=len(run.ids),
        left_out=len(groups[0]),
        subsets=len(groups),
        form=grid.form,
        seeds=tuple(trainings.seeds),
        single=tuple(agreements[False]),
        whole=tuple(agreements[True]),
        lineage=Lineage(
            dataset=run.dataset,
            parents={"run": run.fingerprint, f"target {name}": rows.fingerprint, **how.identity, **parents},
            code=__version__,
            seed=grid.draw,
            device=str(replay.training.device),
            seconds=time.perf_counter() - began,
            folder=str(run.folder),
        ),
        warnings=tuple(dict.fromkeys(warned)),
    )
    if save:
        save_lds(made, run.paths.lds(name_of(made)))
    return made


def name_of(made: LDS) -> str:
    """Name under which an LDS is saved in the run's folder: its target, how many examples each of how many subsets leaves out, the form, and a hash.

    One of other methods, queries, seeds or subsets, or of other numbers, has another name.
    """
    lineage = made.lineage or Lineage("")
    content = fingerprint(made.fingerprint, repr(lineage.seed), repr(sorted(lineage.parents.items())))
    form = "" if made.form == "weight" else f"-{made.form}"
    return f"{made.target}-{made.left_out}-{made.subsets}{form}-{content[:8]}"


def _checked(
    run: Run,
    wanted: Sequence[AbstractMethod],
    grid: LeaveOutGrid,
    save: Save,
    loop: Loop | None,
    targets: Mapping[str, Given] | None,
) -> Plan | None:
    """The run's plan, if it has one.

    Raises:
        UsageError: The call is wrong.
    """
    if not wanted:
        raise UsageError("No method was named; name at least one that says what helps and what harms, such as 'tracin'.")
    check_wanted(wanted)
    if not run.epochs:
        raise MissingEvidence(f"{run.folder} holds data only, and LDS repeats a training; record one with `assay record`.")
    for one in wanted:
        if not one.direction.ranks_suspects:
            raise UsageError(
                f"{one.title} ranks difficulty ({one.direction.value}), and says neither help nor harm, so that its values predict no change; "
                "leave it out."
            )
        if isinstance(one, AbstractAttributor) and one.reduce != "mean":
            raise UsageError(
                f"{one.title}: the loss of the target is a mean over its rows, so that only reduce=mean predicts it."
            )
    grid.left_out(len(run.ids))
    if save and loop is not None:
        raise UsageError(
            f"save={save!r} does not go with loop=, since a later call cannot check that its loop is the same; leave it out, and save the result "
            "with save_lds."
        )
    if has_plan(run):
        if targets is not None:
            raise UsageError(
                f"{run.folder} was recorded by a plan, which has validation and test examples of its own; leave targets= out, and name others by "
                "the methods' option target=ids=FILE."
            )
        return plan_of(run)
    check_taken_again(run)
    if grid.other_seeds:
        raise UsageError(f"{run.folder} {came_of(run)}, which assay cannot train under other seeds; leave other_seeds= at 0.")
    return None


def _target_of(wanted: Sequence[AbstractMethod]) -> str:
    """The one target that the methods are of.

    Raises:
        UsageError: There are several.
    """
    names = {name: one.title for one in wanted for name in one.asks.named_targets}
    if len(names) > 1:
        said = " and ".join(f"{title} of {name!r}" for name, title in list(names.items())[:2])
        raise UsageError(f"One LDS is of one target, and these methods are of several: {said}. Give all the same option target.")
    return next(iter(names), USUAL)


def _scores(run: Run, method: AbstractMethod, request: Request):
    """The method's score of every example, taken from the run's folder where it is kept there."""
    again = is_replayed(run, method)
    (scores,) = score(
        run,
        method,
        strict=True,
        save=request.save and request.loop is None,
        loop=request.loop if again or looks_at_inputs(method) else None,
        targets=request.targets if asks_targets(run, method) else None,
        replay_config=request.replay_config if again else None,
        execution=Execution(request.execution.pool if method.retrains else None, request.execution.progress),
    ).values()
    if words := undecided(scores):
        raise UsageError(words)
    order = scores.ids.positions(run.ids, scores.title)
    return scores if scores.ids == run.ids else dataclasses.replace(scores, ids=run.ids, values=scores.values[order])


def _no_queries(method: AbstractAttributor) -> str:
    """Why a method gives no value per query with these options, as a sentence; empty if it gives one."""
    try:
        _ = method.query_set
    except UsageError as error:
        return str(error)
    return ""


def _sums(
    run: Run, method: AbstractAttributor, name: str, drawn: Int[Tensor, " queries"], groups: Sequence[Tensor], request: Request
) -> Float64[Tensor, "subsets queries"]:
    """Values by query, added up over what each subset leaves out; the mean over the models of a recording."""
    total = torch.zeros(len(groups), len(drawn), dtype=torch.float64)
    without = torch.zeros(len(groups), len(run.ids), dtype=torch.bool)
    for place, group in enumerate(groups):
        without[place, group] = True
    replays = open_models(members_of(run), [name], request, Agreed())
    data, _ = shown_data(run, looks_at_inputs(method), request.loop)
    for replay in replays:
        rows = replay.rows_of(name)
        # Of the drawn queries alone, which may be few of many.
        replay.given[name] = taken(rows, drawn)
        seen = PairCheck(len(drawn), len(run.ids))
        held = {one: held_out_of(run, one, request, data, replay).examples for one in held_out_asked([method])}
        for block in method.attribute(gather(replay.run, replay, data).beside(held).narrow(method.title, method.reads)):
            values = checked_values(method.title, block, len(drawn), len(run.ids))
            seen.add(block)
            total[:, block.queries] += without[:, block.examples].to(values) @ values.T / len(replays)
        if not seen.complete:
            raise BadScores(
                f"{method.title} does not give every query by every example one value; report it to whoever wrote it."
            )
    return total


def taken(rows: MeanLoss, drawn: Int[Tensor, " queries"]) -> MeanLoss:
    """The mean loss of some of its rows."""
    return dataclasses.replace(
        rows,
        inputs=rows.inputs[drawn],
        labels=rows.labels[drawn],
        weights=rows.weights[drawn],
        ids=None if rows.ids is None else rows.ids.take(drawn),
    )


def _agreement(title: str, truth: str, predicted: np.ndarray, actual: np.ndarray) -> RankAgreement:
    rhos = crossed.query_correlations(predicted, actual)
    low, high = crossed.crossed_interval(predicted, actual) or (None, None)
    return RankAgreement(title, truth, float(rhos.mean()), low, high, tuple(rhos.tolist()) if len(rhos) > 1 else ())


@dataclasses.dataclass(frozen=True, eq=False)
class _Trainings:
    """The trainings without each subset, from the run's folder or made now."""

    run: Run
    plan: Plan | None
    replay: Replay
    target: str
    grid: LeaveOutGrid
    request: Request

    @property
    def seeds(self) -> list[int]:
        """The other seeds."""
        base = self.run.header.seed or 0
        return list(range(base + 1, base + 1 + self.grid.other_seeds))

    def all(self, groups: Sequence[Int[Tensor, " group"]]) -> dict[int | None, Float64[np.ndarray, "subsets rows"]]:
        """The losses of the target's rows after each training, by seed; None for the recorded one."""
        save, progress = self.request.save, self.request.execution.progress
        prints = [fingerprint(group.numpy().tobytes()) for group in groups]
        wanted = [(seed, place) for seed in ([None] * self.grid.same_seed + self.seeds) for place in range(len(groups))]
        files = {(seed, place): self._file(seed, len(groups[place]), prints[place]) for seed, place in wanted}
        # Equal subsets are trained without once.
        first = {files[key]: key for key in reversed(wanted)}
        done: dict[Path, SubsetTraining] = {}
        if save and save != "recompute":
            rows = len(self.replay.rows_of(self.target).labels)
            for path in first:
                old = finished(load_subset_training, path)
                if old is not None and len(old.losses) == rows:
                    done[path] = old
        progress.advance("lds", len(done), len(first), "taken from an earlier run" if done else "")
        due = [key for path, key in first.items() if path not in done]
        due.sort(key=wanted.index)
        for key, losses, seconds in self._trained(due, groups):
            seed, place = key
            done[files[key]] = training = SubsetTraining(len(groups[place]), seed, tuple(losses), seconds)
            if save:
                save_subset_training(training, files[key])
            words = f"{len(groups[place]):,} left out, {'the recorded seed' if seed is None else f'seed {seed}'}"
            progress.advance("lds", len(done), len(first), words)
        return {
            seed: np.array([done[files[seed, place]].losses for place in range(len(groups))])
            for seed in dict.fromkeys(seed for seed, _ in wanted)
        }

    def _file(self, seed: int | None, count: int, made_of: str) -> Path:
        """Path of one training: by all that its losses depend on."""
        rows = self.replay.rows_of(self.target).fingerprint
        if seed is None:
            how = repr(sorted((self.request.replay_config or ReplayConfig()).identity.items()))
            shelf = fingerprint("lds", self.run.fingerprint, rows, how, self.grid.form, __version__)
            return self.run.paths.trial(shelf, f"again-{count}-{made_of}", self.run.header.seed or 0)
        assert self.plan is not None
        shelf = fingerprint("lds", repr(sorted(self.plan.plain().items())), load_data(self.plan).content, rows, __version__)
        return self.run.paths.trial(shelf, f"without-{count}-{made_of}", seed)

    def _trained(
        self, due: Sequence[tuple[int | None, int]], groups: Sequence[Tensor]
    ) -> Iterator[tuple[tuple[int | None, int], Sequence[float], float]]:
        same = {place for seed, place in due if seed is None}
        pool, save = self.request.execution.pool, self.request.save
        given = [self.target] if self.plan is not None else self.request.targets
        trainings = Retraining(self.replay, self.request.loop, given, self.request.replay_config, pool, save=save, passing=True)
        steps, done = range(self.replay.epochs[-1].stop), [place for place in range(len(groups)) if place not in same]
        for one in trainings.each(groups, steps, [row_losses(self.target)], self.grid.form, done) if same else ():
            yield (None, one.place), one.values, one.seconds
        calls, keys = [], {}
        for seed, place in due:
            if seed is None:
                continue
            assert self.plan is not None
            path = self._file(seed, len(groups[place]), fingerprint(groups[place].numpy().tobytes())).absolute()
            keys[f"lds-{seed}-{place:04d}"] = seed, place
            # As bytes, as arms are sent.
            rows = self.replay.rows_of(self.target).queries.ids.values
            work = pickle.dumps((self.plan.plain(), self.run.ids.take(groups[place]).values, self.target, rows))
            keep = str(state_file(path)) if save else ""
            calls.append(Call(f"lds-{seed}-{place:04d}", fresh_losses, (work, seed, keep), str(path), resumes=bool(save)))
        for name, (losses, seconds) in run_all(pool or InlineExecutor(), calls, self.run.paths.logs) if calls else ():
            yield keys[name], losses, seconds


def fresh_losses(work: bytes, seed: int, keep: str = "") -> tuple[list[float], float]:
    """The losses of a target's rows after one training by the plan from new initial weights, and its seconds.

    Args:
        work: Plan, examples that are left out, target and its rows.
        seed: Of weights and order.
        keep: File for the state of a long training, from which the same call goes on; empty for none.

    Raises:
        AssayError: As `training.loop.train`, or the model has diverged.
    """
    began = time.perf_counter()
    plain, left_out, target, asked = pickle.loads(work)
    with TURN:
        plan = Plan.make(plain)
        loaded = load_data(plan)
        examples = loaded.train
        stays = torch.ones(len(examples), dtype=torch.bool)
        stays[examples.ids.positions(Ids(left_out), plan.data)] = False
        kept = examples.ids.take(stays)
        arm = Arm("without", kept, examples.labels[stays], torch.ones(len(kept), dtype=torch.float64))
        keeper = StateKeeper(Path(keep)) if keep else None  # type: ignore[abstract]
        model, state = trained_model(plan, loaded, arm, seed, keeper=keeper)
        # By their ids, because which rows `misclassified` has only the recorded model tells.
        held = loaded.test if target == TEST else loaded.validation
        assert held is not None
        rows = mean_loss(held.take(held.ids.positions(Ids(asked), target)), target)
        with torch.no_grad(), mode(model, False), standing_at(model, state.averages):
            losses = torch.stack([part.to("cpu", torch.float64) for part in parts_of_target(RowLosses(rows), model, target)])
        if keeper is not None:
            keeper.forget()
    if not bool(losses.isfinite().all()):
        raise BadScores(f"The losses of target {target!r} are not finite under seed {seed}; the model has diverged.")
    return losses.tolist(), time.perf_counter() - began
