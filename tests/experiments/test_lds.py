"""LDS: by hand in a slow and obvious way, resumed, on executors, under other seeds, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

import assay
from assay.cluster.executors import InlineExecutor
from assay.core.errors import MissingEvidence, NumericalError, RunError, UsageError
from assay.core.lds import OTHERS, RETRAINING, SAME
from assay.experiments import lds as module
from assay.experiments import retraining
from assay.experiments.attribute import attribute
from assay.experiments.lds import LeaveOutGrid, lds, name_of
from assay.experiments.plan import plan_of
from assay.runs.artefacts import load_lds, save_lds
from assay.training.batches import TrainingData
from assay.training.loop import train
from experiments import small
from experiments.test_verify import Told
from methods.loops import World

GRID = LeaveOutGrid(subsets=6, share=0.1, queries=5, other_seeds=2)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run with validation examples. It is read, never changed."""
    return small.recorded(tmp_path_factory.mktemp("held") / "run", validation=0.2)


@pytest.fixture
def mine(held, tmp_path):
    return small.copied(held, tmp_path / "mine")


@pytest.fixture(scope="module")
def made(held):
    return lds(held, ["tracin", "sgd_influence"], grid=GRID)


def by_hand(run, group, seed=None):
    """Loss of every validation example after a training without a group: with weights of 0, or of the others alone under another seed."""
    plan = plan_of(run)
    loaded = plan.load()
    examples = loaded.train
    model = plan.build(loaded, plan.seed if seed is None else seed)
    stays = torch.ones(len(examples))
    stays[group] = 0
    if seed is None:
        data = TrainingData(examples.inputs, examples.labels, examples.ids, prepare=examples.prepared)
        train(model, data, plan.training, weights=stays)
    else:
        left = examples.take(stays > 0)
        train(model, TrainingData(left.inputs, left.labels, left.ids, prepare=left.prepared), plan.recipe_with(seed))
    part = loaded.validation
    with torch.no_grad():
        return F.cross_entropy(model.eval()(part.prepared(part.inputs)), part.labels, reduction="none").double()


def rho(predicted, actual):
    return [spearmanr(predicted[:, query], actual[:, query]).statistic for query in range(predicted.shape[1])]


def test_it_is_what_training_by_hand_says(held, made):
    groups = GRID.groups(held.ids)
    losses = {seed: torch.stack([by_hand(held, group, seed) for group in groups]) for seed in (None, 1, 2)}
    matrix = attribute(held, "tracin")
    places = matrix.queries.positions(assay.Ids(made.queries))
    rows = torch.stack([matrix.row(query) for query in made.queries])
    predicted = torch.stack([rows[:, group].sum(1) for group in groups])
    truths = {SAME: losses[None], "seed 1": losses[1], "seed 2": losses[2], OTHERS: (losses[1] + losses[2]) / 2}
    assert made.truths == (SAME, OTHERS, "seed 1", "seed 2")
    for truth, values in truths.items():
        found = made.of("tracin", truth)
        assert found.by_query == pytest.approx(rho(predicted, values[:, places]), abs=1e-6)
        assert found.value == pytest.approx(np.mean(found.by_query), abs=1e-12)
        for title in ("tracin", "sgd_influence"):
            scores = assay.score(held, title)[title]
            sums = torch.stack([scores.values[group].sum() for group in groups])[:, None]
            assert made.of(title, truth, whole=True).value == pytest.approx(rho(sums, values.mean(1, keepdim=True))[0], abs=1e-6)
    between = [rho(losses[one][:, places], losses[other][:, places]) for one, other in ((1, 2), (2, 1))]
    assert made.of(RETRAINING, OTHERS).value == pytest.approx(np.mean(between), abs=1e-6)
    assert made.of("sgd_influence", whole=True).value > made.of("tracin", whole=True).value


def test_it_says_what_it_is_made_of(held, made):
    assert (made.target, made.examples, made.left_out, made.subsets, made.rows) == ("validation", 318, 32, 6, 79)
    assert made.seeds == (1, 2) and made.methods == ("tracin", "sgd_influence") and len(set(made.queries)) == 5
    assert {"run", "target validation", "scores tracin", "scores sgd_influence"} == set(made.lineage.parents)
    assert repr(made).startswith("LDS(validation: 6 subsets without 32 of 318 examples, 5 queries: tracin 0.")
    with pytest.raises(UsageError, match=r"no agreement over queries of grand \(same seed\); there are: tracin"):
        made.of("grand")


def test_the_rows_that_the_recorded_model_gets_wrong_are_those_of_every_training(held):
    grid = LeaveOutGrid(subsets=4, share=0.1, queries=3, same_seed=False, other_seeds=1)
    made = lds(held, "tracin:target=misclassified", grid=grid)
    wrong = lds(held, "tracin", grid=dataclasses.replace(grid, queries=79))
    assert made.rows < 79 and set(made.queries) < set(wrong.queries)
    groups = grid.groups(held.ids)
    losses = torch.stack([by_hand(held, group, 1) for group in groups])
    places = [list(wrong.queries).index(one) for one in made.queries]
    found = assay.attribute(held, "tracin:target=misclassified")
    predicted = torch.tensor([[float(found.row(one)[group].sum()) for one in made.queries] for group in groups])
    assert made.of("tracin:target=misclassified").by_query == pytest.approx(rho(predicted, losses[:, places]), abs=1e-6)


def test_suspicion_has_its_sign_turned(held):
    grid = LeaveOutGrid(subsets=4, queries=1)
    made = lds(held, ["aum", "loss"], grid=grid)
    truth = torch.stack([by_hand(held, group) for group in grid.groups(held.ids)]).mean(1, keepdim=True)
    for title, sign in (("aum", 1), ("loss", -1)):
        scores = assay.score(held, title)[title]
        sums = sign * torch.stack([scores.values[group].sum() for group in grid.groups(held.ids)])[:, None]
        assert made.of(title, whole=True).value == pytest.approx(rho(sums, truth)[0], abs=1e-6)
    assert made.single == ()


@pytest.mark.parametrize("predicts", ["tracin", pytest.param("loo", marks=pytest.mark.slow)])
def test_who_does_not_predict_the_target_is_named(held, predicts):
    made = lds(held, ["self_influence:solver=cholesky", "tracin:target=self", predicts], grid=LeaveOutGrid(subsets=4, queries=2))
    assert [words for words in made.warnings if "does not predict" in words] == [
        f"{title} does not predict the loss of 'validation': it ranks suspects, and its rho says whether that loss is lower without those that it suspects."
        for title in ("self_influence:solver=cholesky", "tracin:target=self")
    ]


def test_options_without_values_per_query_leave_rho_of_the_whole_target(held):
    options = ["tracin:every=step", "sgd_influence:checks=1", "knn_shapley:target=others,features=inputs"]
    made = lds(held, [*options, "tracin"], grid=LeaveOutGrid(subsets=4, queries=2))
    assert {one.method for one in made.single} == {"tracin"}
    assert made.methods == (*(assay.methods.parse(one).title for one in options), "tracin")
    said = [words for words in made.warnings if words.startswith("LDS over queries is left out: ")]
    assert len(said) == 3 and said[0].endswith("tracin:every=step has no value per query; leave every=step out.")


def test_a_window_that_the_trainings_do_not_keep_to_is_said(held):
    grid = LeaveOutGrid(subsets=4, queries=2)
    made = lds(held, ["sgd_influence:window=last", "sgd_influence"], grid=grid)
    said = [words for words in made.warnings if "leave the examples out of all steps" in words]
    assert said == [
        "sgd_influence:window=last covers window=last, and the trainings leave the examples out of all steps; choose window=all."
    ]


def test_one_left_out_is_leave_one_out(held):
    grid = LeaveOutGrid(subsets=12, count=1, queries=2)
    groups = grid.groups(held.ids)
    assert [len(group) for group in groups] == [1] * 12 and len({int(group) for group in groups}) == 12
    made = lds(held, ["sgd_influence"], grid=grid)
    real = torch.stack([by_hand(held, group) for group in groups]).mean(1, keepdim=True)
    told = assay.score(held, "sgd_influence")["sgd_influence"].values[torch.cat(groups)][:, None]
    assert made.of("sgd_influence", whole=True).value == pytest.approx(rho(told, real)[0], abs=1e-6)
    assert made.of("sgd_influence", whole=True).value > 0.9


def test_what_is_finished_is_not_trained_again(mine, monkeypatch):
    told, groups, fresh = Told(), [], []
    each, losses = retraining.Retraining.each, module.fresh_losses
    monkeypatch.setattr(
        retraining.Retraining, "each", lambda self, without, *rest: groups.extend(without) or each(self, without, *rest)
    )
    monkeypatch.setattr(module, "fresh_losses", lambda work, seed, keep: fresh.append(seed) or losses(work, seed, keep))
    first = lds(mine, ["tracin"], grid=GRID, save=True)
    assert len(groups) == 6 and sorted(fresh) == [1] * 6 + [2] * 6
    assert load_lds(mine.paths.lds(name_of(first))).fingerprint == first.fingerprint
    files = sorted(mine.paths.trials.glob("*/*.json"))
    assert len(files) == 18
    groups.clear(), fresh.clear()
    execution = assay.Execution(progress=told)
    again = lds(mine, ["aum", "tracin"], grid=dataclasses.replace(GRID, queries=9), save=True, execution=execution)
    assert not groups and not fresh and len(again.queries) == 9
    assert (18, 18, "taken from an earlier run") in told.words
    # What was ended, or damaged, is done again, and comes to the same.
    [path.unlink() for path in files if path.name.startswith("again")][:1]
    files[-1].write_text(files[-1].read_text()[:30]) if files[-1].exists() else files[0].write_text("{")
    more = lds(mine, ["tracin"], grid=GRID, save=True)
    assert len(groups) == 6 and len(fresh) <= 1 and more.fingerprint == first.fingerprint
    groups.clear(), fresh.clear()
    lds(mine, ["tracin"], grid=dataclasses.replace(GRID, form="renormalised", other_seeds=0), save=True)
    assert len(groups) == 6, "another form is another training"
    groups.clear()
    lds(mine, ["tracin"], grid=GRID, save="recompute")
    assert len(groups) == 6 and len(fresh) == 12


def test_no_result_takes_the_place_of_another(mine):
    grid = LeaveOutGrid(subsets=4, queries=2)
    old = lds(mine, ["tracin"], grid=grid)
    # As earlier versions named it.
    save_lds(old, mine.paths.lds("validation-32-4"))
    asked = [
        (["tracin"], grid),
        (["aum"], grid),
        (["tracin"], dataclasses.replace(grid, queries=3)),
        (["tracin"], dataclasses.replace(grid, draw=3)),
        (["tracin"], dataclasses.replace(grid, other_seeds=1)),
        (["tracin"], dataclasses.replace(grid, form="removed")),
    ]
    made = [lds(mine, methods, grid=one, save=True) for methods, one in asked]
    again = lds(mine, ["tracin"], grid=grid, save=True)
    assert name_of(again) == name_of(made[0]) and len(list(mine.paths.lds("x").parent.iterdir())) == 7
    assert [load_lds(mine.paths.lds(name_of(one))).fingerprint for one in made] == [one.fingerprint for one in made]
    assert name_of(load_lds(mine.paths.lds(name_of(made[3])))) == name_of(made[3])
    assert load_lds(mine.paths.lds("validation-32-4")).fingerprint == old.fingerprint
    # Draws may come to the same numbers.
    other = dataclasses.replace(old, lineage=dataclasses.replace(old.lineage, seed=9))
    assert name_of(other) != name_of(old) == name_of(made[0])


def test_nothing_is_kept_unless_asked(mine):
    lds(mine, ["tracin"], grid=LeaveOutGrid(subsets=4, queries=2))
    assert not list(mine.paths.trials.glob("*/*.json")) and not mine.paths.lds("x").parent.exists()


def test_an_executor_gives_the_same(held, made):
    execution = assay.Execution(pool=InlineExecutor())
    assert lds(held, ["tracin", "sgd_influence"], grid=GRID, execution=execution).fingerprint == made.fingerprint


@pytest.mark.slow
def test_processes_give_the_same(held, made):
    from assay.cluster.executors import executor

    with executor("processes", 2) as pool:
        again = lds(held, ["tracin", "sgd_influence"], grid=GRID, execution=assay.Execution(pool=pool))
    assert again.fingerprint == made.fingerprint


def test_other_seeds_alone(held, made):
    alone = lds(held, ["tracin"], grid=dataclasses.replace(GRID, same_seed=False))
    assert alone.truths == (OTHERS, "seed 1", "seed 2") and alone.of("tracin", OTHERS) == made.of("tracin", OTHERS)
    single = lds(held, ["tracin"], grid=dataclasses.replace(GRID, same_seed=False, other_seeds=1))
    assert single.truths == (OTHERS,) and single.of("tracin").value == made.of("tracin", "seed 1").value
    assert RETRAINING not in {one.method for one in single.whole}


def test_a_loop_of_ones_own(tmp_path):
    world = World(tmp_path / "own")
    given = {"loop": world.loop(), "targets": {"mine": (world.held_out, world.held_labels)}}
    grid = LeaveOutGrid(subsets=8, count=2, queries=3)
    made = lds(world.run, ["tracin:target=mine", "sgd_influence:target=mine"], grid=grid, **given)
    assert made.of("sgd_influence:target=mine", whole=True).value > 0.7 and len(made.of("tracin:target=mine").by_query) == 3
    for targets in ({"targets": {}}, {"targets": None}):
        with pytest.raises(UsageError, match=r"here 'mine'; there are: none. Name it with targets=, as \(inputs, labels\)"):
            lds(world.run, ["tracin:target=mine"], grid=grid, **{**given, **targets})
    with pytest.raises(UsageError, match="cannot train under other seeds; leave other_seeds= at 0"):
        lds(world.run, ["tracin:target=mine"], grid=dataclasses.replace(grid, other_seeds=1), **given)
    with pytest.raises(UsageError, match="save=True does not go with loop="):
        lds(world.run, ["tracin:target=mine"], grid=grid, save=True, **given)


def test_models_of_a_recording_are_averaged(tmp_path):
    run = small.recorded(tmp_path / "run", validation=0.2, models=2)
    grid = LeaveOutGrid(subsets=4, queries=3)
    made = lds(run, ["tracin"], grid=grid)
    assert any("means over 2 models; the first of them" in words for words in made.warnings)
    matrix = attribute(run, "tracin")
    rows = torch.stack([matrix.row(query) for query in made.queries])
    predicted = torch.stack([rows[:, group].sum(1) for group in grid.groups(run.ids)])
    places = matrix.queries.positions(assay.Ids(made.queries))
    truth = torch.stack([by_hand(run, group) for group in grid.groups(run.ids)])[:, places]
    assert made.of("tracin").by_query == pytest.approx(rho(predicted, truth), abs=1e-6)


@pytest.mark.parametrize(
    ("methods", "given", "words"),
    [
        (["variability"], {}, "variability ranks difficulty .* leave it out"),
        (["tracin", "sgd_influence:target=test"], {}, "One LDS is of one target, and these methods are of several"),
        (["tracin:reduce=max"], {}, "only reduce=mean predicts it"),
        ([], {}, "No method was named; name at least one that says what helps and what harms, such as 'tracin'"),
        (["tracin"], {"targets": {"x": None}}, "recorded by a plan, .* leave targets= out"),
        (["tracin"], {"save": "always"}, "no way of saving"),
        (["tracin"], {"grid": LeaveOutGrid(count=318)}, "count=318 leaves out 318 of 318 examples"),
        (["tracin"], {"grid": LeaveOutGrid(share=0.001)}, "share=0.001 leaves out 0 of 318 examples"),
        (["tracin"], {"grid": LeaveOutGrid(count=1, subsets=400)}, "give at most 318"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(held, monkeypatch, methods, given, words):
    monkeypatch.setattr(retraining.Retraining, "each", None)
    with pytest.raises(UsageError, match=words):
        lds(held, methods, **given)


@pytest.mark.parametrize(
    "wrong",
    [{"subsets": 3}, {"share": 0.0}, {"share": 1.0}, {"count": 0}, {"queries": 0}, {"other_seeds": -1}, {"same_seed": False}, {"draw": -1}, {"form": "x"}, {"share": 0.1, "count": 3}, {"form": "removed", "same_seed": False, "other_seeds": 1}],
)  # fmt: skip
def test_a_grid_out_of_range_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LeaveOutGrid(**wrong)


def test_a_prediction_that_ranks_nothing_is_said(held, monkeypatch):
    monkeypatch.setattr(module, "_sums", lambda run, method, name, drawn, groups, request: torch.zeros(len(groups), len(drawn)))
    made = lds(held, ["tracin"], grid=LeaveOutGrid(subsets=4, queries=3))
    assert made.of("tracin").value == 0 and "tracin predicts the same for all subsets for 3 of 3 losses" in made.warnings[-1]


def test_a_training_that_diverged_is_no_loss(held, monkeypatch):
    values = retraining.Replay._parts
    monkeypatch.setattr(retraining.Replay, "_parts", lambda self, name: values(self, name) * torch.inf)
    with pytest.raises(NumericalError, match="not finite; the model has diverged"):
        lds(held, ["aum"], grid=LeaveOutGrid(subsets=4))


def test_a_forged_training_is_trained_again(mine):
    grid = LeaveOutGrid(subsets=4, queries=2)
    first = lds(mine, ["tracin"], grid=grid, save=True)
    one, other = sorted(mine.paths.trials.glob("*/again-*.json"))[:2]
    one.write_bytes(other.read_bytes())
    with pytest.raises(RunError, match="and its place says"):
        assay.runs.artefacts.load_subset_training(one)
    assert lds(mine, ["tracin"], grid=grid, save=True).fingerprint == first.fingerprint


def test_a_run_without_training_has_none_to_repeat(tmp_path):
    run = assay.untrained(small.plan(validation=0.2, recipe=None), tmp_path / "run")
    with pytest.raises(MissingEvidence, match="holds data only, and LDS repeats a training"):
        lds(run, ["aum"])
