import dataclasses
import importlib

import pytest
import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

import assay
import plain_loop
from assay.core.decision import Action
from assay.core.errors import Mismatch, MissingEvidence, RunError, UnknownName, UsageError
from assay.core.features import Features, FeatureSpec
from assay.core.ids import Ids
from assay.core.method import Asks
from assay.core.scoring import score as score_of_evidence
from assay.core.selection import choose as core_choose
from assay.experiments import trials
from assay.experiments.choose import choose
from assay.experiments.evidence import data_of, gather_logits, open_replay
from assay.experiments.score import score
from assay.maths.coverage import farthest_first, most_divergent_first
from assay.maths.example_vectors import DenseVectors
from assay.methods.least_confidence import LeastConfidence
from assay.policies.cal import neighbour_divergence
from assay.policies.deepfool import boundary_distance
from assay.policies.k_center import KCenter
from assay.policies.top_k import TopK
from experiments import small

choose_module = importlib.import_module("assay.experiments.choose")
plan_module = importlib.import_module("assay.experiments.plan")


@pytest.fixture(scope="module")
def table(run):
    return score(run, ["aum", "dual:window=2", "loss"])


def test_a_policy_by_name_by_spec_and_by_value_decide_alike(table):
    decisions = [
        choose(table["aum"], "top_k", keep=0.8),
        choose(table["aum"], "top_k:keep=0.8"),
        choose(table["aum"], TopK(keep=0.8)),
    ]
    assert len({one.fingerprint for one in decisions}) == 1
    assert decisions[0].budget == 317 and decisions[0].title == "top_k:keep=0.8 by aum"


def test_the_lineage_names_scores_run_and_dataset(run, table):
    decision = choose(table["aum"], "random", keep=0.5, seed=4)
    lineage = decision.lineage
    assert lineage.parents == {"run": run.fingerprint, "scores": table["aum"].fingerprint}
    assert lineage.dataset == run.dataset and lineage.seed == 4 and lineage.folder == str(run.folder)


def test_beta_reads_the_run_that_the_scores_were_made_from(run, table):
    decision = choose(table["dual:window=2"], "beta", keep=0.3, seed=0)
    assert decision.budget == 119
    assert decision.fingerprint == choose(table["dual:window=2"], "beta", run=run, keep=0.3, seed=0).fingerprint
    assert decision.fingerprint != choose(table["dual:window=2"], "beta", keep=0.3, seed=1).fingerprint


def test_relabel_takes_the_mean_prediction(run, table):
    decision = choose(table["aum"], "relabel", count=30)
    changed = decision.actions == Action.RELABEL
    assert 0 < int(changed.sum()) <= 30 and decision.budget == len(run.ids)
    assert torch.equal(decision.labels[changed], run.mean_probs().argmax(1)[changed])


def test_relabel_needs_mean_probabilities(tmp_path):
    run = small.recorded(tmp_path / "run", record={"mean_probs": False})
    with pytest.raises(MissingEvidence, match="--mean-probs"):
        choose(score(run, "aum")["aum"], "relabel", count=3)


def test_scores_made_by_hand_take_their_run_from_the_call(run, table):
    bare = dataclasses.replace(table["aum"], lineage=None)
    assert choose(bare, "top_k", keep=0.5).lineage.dataset == ""
    with pytest.raises(UsageError, match="give run=PATH"):
        choose(bare, "relabel", count=3)
    decision = choose(bare, "relabel", run=run.folder, count=3)
    assert decision.lineage.dataset == run.dataset and decision.lineage.folder == str(run.folder)


def test_scores_of_another_dataset_are_refused(run, tmp_path):
    other = small.recorded(tmp_path / "other", plant={"seed": 9})
    assert other.ids == run.ids and other.dataset != run.dataset
    with pytest.raises(Mismatch, match=f"scores dataset {other.dataset}, .* recorded {run.dataset}"):
        choose(score(other, "aum")["aum"], "top_k", run=run, keep=0.5)


def test_scores_of_other_examples_are_refused(run, tmp_path):
    other = small.recorded(tmp_path / "other", data="digits:test=1500")
    bare = dataclasses.replace(score(other, "aum")["aum"], lineage=None)
    with pytest.raises(Mismatch, match="297 examples, the run 397"):
        choose(bare, "top_k", run=run, keep=0.5)


@pytest.mark.parametrize(
    ("policy", "options", "kind", "words"),
    [
        ("topk", {"keep": 0.5}, UnknownName, "Did you mean top_k"),
        ("threshold", {"keep": 0.5}, UnknownName, "No option of policy 'threshold' is named 'keep'"),
        ("top_k", {"keep": 0.5, "seed": 1}, UnknownName, "No option of policy 'top_k' is named 'seed'"),
        ("top_k", {"keep": 1.5}, UsageError, r"keep=1.5 is outside 0\.\.1"),
        ("top_k", {}, UsageError, "needs a value for keep"),
        ("top_k:keep=0.5", {"keep": 0.3}, UsageError, "keep is given in 'top_k:keep=0.5' and again"),
        (TopK(keep=0.5), {"keep": 0.3}, UsageError, "already has its options"),
        ("beta", {"keep": 0.3}, UsageError, "needs a value for seed"),
    ],
)
def test_bad_policies_and_options_are_refused(table, policy, options, kind, words):
    with pytest.raises(kind, match=words):
        choose(table["aum"], policy, **options)


def test_suspicion_is_not_read_off_difficulty(table):
    with pytest.raises(UsageError, match="ranks difficulty"):
        choose(table["dual:window=2"], "relabel", count=3)


def test_a_run_that_is_gone_is_refused(own, tmp_path):
    scores = score(own, "aum")["aum"]
    own.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="does not exist"):
        choose(scores, "relabel", count=3)
    assert choose(scores, "relabel", run=tmp_path / "elsewhere", count=3).budget == 397


@pytest.mark.parametrize("drawn", [False, True])
def test_kept_positions_are_those_of_the_recorded_dataset_or_refused(tmp_path, drawn):
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(30, 4, generator=draw), torch.arange(30) % 3)
    part = list(range(28, 4, -1))
    train_set = data if drawn else Subset(data, part)
    sampler = SubsetRandomSampler(part) if drawn else None
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with assay.record(tmp_path / "run", model, optimizer, DataLoader(train_set, 8, sampler=sampler)) as recorder:
        for x, y in recorder.epoch():
            logits = model(x)
            torch.nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    decision = choose(score(tmp_path / "run", "loss", save=True)["loss"], "bottom_k", keep=0.5)
    kept = {tuple(data[at][0].tolist()) for at in decision.kept_ids}
    assert len(kept) == 12 and {tuple(x.tolist()) for x, _ in Subset(data, decision.kept_ids)} == kept
    path = tmp_path / "decision.parquet"
    assay.save_decision(decision, str(path))
    for made in (decision, assay.load_decision(str(path))):
        if drawn:
            with pytest.raises(UsageError, match="a SubsetRandomSampler drew from"):
                made.kept_positions  # noqa: B018
        else:
            assert {tuple(x.tolist()) for x, _ in Subset(train_set, made.kept_positions)} == kept


def test_a_run_is_enough_for_a_policy_that_reads_no_score(run):
    decision = choose(run, "k_center", keep=0.1)
    assert decision.title == "k_center:keep=0.1" and decision.budget == 39 and decision.ids == run.ids
    assert decision.fingerprint == choose(run.folder, "k_center:keep=0.1,features=inputs").fingerprint
    assert decision.fingerprint == assay.choose(str(run.folder), KCenter(39)).fingerprint
    data, content = data_of(run)
    order, _ = farthest_first(data.flatten(1), 39, run.ids.ranks)
    assert decision.order == run.ids.take(order)
    lineage = decision.lineage
    assert lineage.parents == {"run": run.fingerprint, "inputs": content}
    assert lineage.dataset == run.dataset and lineage.folder == str(run.folder) and lineage.seed is None


def test_what_a_kept_model_makes_of_the_examples_is_chosen_by(run):
    decision = choose(run, "k_center:keep=0.1,features=head_grads")
    rows = open_replay(run, asked=()).features(FeatureSpec.parse("head_grads")).rows()
    order, _ = farthest_first(rows, 39, run.ids.ranks)
    assert decision.order == run.ids.take(order) and decision.order != choose(run, "k_center:keep=0.1").order
    assert decision.lineage.parents == {"run": run.fingerprint}
    with pytest.raises(UsageError, match="nowhere"):
        choose(run, "k_center:keep=0.1,features=layer:nowhere")


def test_predictions_of_a_kept_model_are_chosen_by(run):
    # One model, by its logits and the weights of its last layer.
    replay = open_replay(run, asked=())
    rows, logits = (replay.features(FeatureSpec.parse(one)).rows() for one in ("penultimate", "logits"))
    probs = logits.double().softmax(1)
    by_divergence = choose(run, "contextual_diversity:keep=0.1")
    assert by_divergence.order == run.ids.take(most_divergent_first(probs, 39, run.ids.ranks)[0])
    by_contrast = choose(run, "cal:keep=0.1,k=4")
    values = neighbour_divergence(rows, probs, 4, run.ids.ranks)
    assert set(by_contrast.kept_ids) == set(run.ids.take(values.argsort(descending=True)[:39]))
    by_boundary = choose(run, "deepfool:keep=0.1")
    weight = replay.at(replay.kept[-1]).params[replay.at(replay.kept[-1]).head[0]]
    assert set(by_boundary.kept_ids) == set(run.ids.take(boundary_distance(logits, weight).argsort()[:39]))
    first = choose(run, "deepfool:keep=0.1,epoch=1")
    assert first.order != by_boundary.order and first.order != choose(run, "deepfool:keep=0.1,epoch=1,by_class=true").order
    assert by_boundary.lineage.parents == {"run": run.fingerprint}


@pytest.mark.parametrize(
    ("score_of", "everywhere", "by_class"),
    [
        ("least_confidence", "top_k", "per_class"),
        ("entropy", "top_k", "per_class"),
        ("margin", "bottom_k", "per_class:end=low"),
        ("forgetting", "top_k", "per_class"),
    ],
)
def test_uncertain_and_forgotten_examples_stay_with_balance_and_without(run, score_of, everywhere, by_class):
    # DeepCore's code keeps the most certain ones unless classes are balanced; it takes the largest logit for confidence, whatever the others are; and it
    # counts examples that were never learned as never forgotten.
    (scores,) = score(run, score_of).values()
    hardness = scores.hardness()
    worst = run.ids.take(hardness.argsort(descending=True, stable=True)[:39])
    plain, balanced = choose(scores, everywhere, keep=0.1), choose(scores, by_class, keep=0.1)
    assert float(hardness[plain.kept].min()) == float(hardness[run.ids.positions(worst)].min())
    for label in range(10):
        inside = run.labels == label
        assert float(hardness[inside & balanced.kept].min()) >= float(hardness[inside & ~balanced.kept].max())
        assert abs(int((inside & balanced.kept).sum()) - 0.1 * int(inside.sum())) < 1
    if score_of == "forgetting":
        never = score(run, "correctness")["correctness"].values == 0
        assert bool(never.any()) and bool((scores.values[never] == scores.values.max()).all())


def test_confidence_is_of_probabilities_and_not_of_the_largest_logit():
    logits = torch.tensor([[[10.0, 10.0, 0.0], [3.0, 0.0, 0.0]]]).double()
    made = gather_logits(Ids([1, 2]), logits, torch.tensor([0, 0]))
    scores = score_of_evidence([LeastConfidence()], made)[0]
    assert list(core_choose(TopK(0.5), scores).kept_ids) == [1]


def test_difficulty_and_features_are_chosen_by_together(run, table):
    decision = choose(table["aum"], "d2:keep=40,by_class=true,features=inputs")
    assert decision.budget == 40 and decision.lineage.parents["scores"] == table["aum"].fingerprint
    assert torch.bincount(run.labels[decision.kept]).min() >= 3


def test_features_of_several_models_are_the_firsts_and_the_decision_says_so(tmp_path):
    two = small.recorded(tmp_path / "two", models=2, recipe={"epochs": 1})
    with pytest.warns(UserWarning, match=r"The features \(penultimate@0\) are those that the first of 2 models makes\."):
        decision = choose(two, "k_center:keep=0.1,features=penultimate@0")
    assert len(decision.warnings) == 1
    alone = small.recorded(tmp_path / "alone", recipe={"epochs": 1})
    assert decision.order == choose(alone, "k_center:keep=0.1,features=penultimate@0").order


def test_what_a_replay_could_not_hold_stands_in_the_decision(run, monkeypatch):
    opened = choose_module.open_replay

    def cautious(*args, **kwargs):
        replay = opened(*args, **kwargs)
        replay.cautions = ("Nobody held the data.",)
        return replay

    monkeypatch.setattr(choose_module, "open_replay", cautious)
    with pytest.warns(UserWarning, match=r"k_center:.*: Nobody held the data\."):
        assert choose(run, "k_center:keep=0.1,features=head_grads").warnings == ("Nobody held the data.",)


def test_a_policy_may_look_at_features_of_several_kinds(run):
    rows = torch.randn(len(run.ids), 2, generator=torch.Generator().manual_seed(0))
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Looks(KCenter):
        name = "looks"
        asks = Asks(features=("inputs", "rows:mine", "head_grads"))

        def select(self, pool):
            seen.update({name: pool.features(name) for name in self.asks.features})
            return super().select(pool)

    decision = choose(run, Looks(5), inputs={"mine": rows})
    assert torch.equal(seen["rows:mine"], rows) and torch.equal(seen["inputs"], data_of(run)[0].flatten(1))
    assert torch.equal(seen["head_grads"], open_replay(run, asked=()).features(FeatureSpec.parse("head_grads")).rows())
    assert decision.lineage.parents.keys() == {"run", "inputs"}


def test_random_takes_a_run_or_scores(run, table):
    alone, beside = choose(run, "random:keep=0.5,seed=4"), choose(table["aum"], "random:keep=0.5,seed=4")
    assert alone.fingerprint == beside.fingerprint and alone.order == beside.order
    assert alone.title == "random:keep=0.5,seed=4" and alone.lineage.parents == {"run": run.fingerprint}


def test_rows_from_outside_are_chosen_by(run):
    rows = torch.randn(len(run.ids), 3, generator=torch.Generator().manual_seed(0))
    decision = choose(run, "k_center:keep=0.1,features=rows:mine", inputs={"mine": rows})
    assert decision.order == run.ids.take(farthest_first(rows, 39, run.ids.ranks)[0])
    assert decision.lineage.parents["inputs"] != choose(run, "k_center:keep=0.1").lineage.parents["inputs"]
    with pytest.raises(MissingEvidence, match=r"reads rows named 'mine', which are not given; give --inputs mine=FILE"):
        choose(run, "k_center:keep=0.1,features=rows:mine")


@pytest.mark.parametrize("drawn", [False, True])
def test_the_data_of_a_users_own_loop_are_looked_at_where_it_is_named(tmp_path, drawn):
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(30, 4, generator=draw), torch.arange(30) % 3)
    part = list(range(28, 4, -1))
    loader = DataLoader(data, 8, sampler=SubsetRandomSampler(part) if drawn else None, shuffle=None if drawn else True)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with assay.record(tmp_path / "run", model, optimizer, loader, seed=1) as recorder:
        for x, y in recorder.epoch():
            logits = model(x)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    with pytest.raises(
        UsageError, match=r"give choose\(\.\.\., loop=assay.Loop\(model, optimizer, loader\)\), or rows of your own"
    ):
        choose(tmp_path / "run", "k_center:keep=0.5")
    with pytest.raises(UsageError, match=r"or rows of your own: cal:features=rows:NAME,predictions=rows:NAME and inputs="):
        choose(tmp_path / "run", "cal:keep=0.5")
    with pytest.raises(UsageError, match=r"loop=assay.Loop\(model, optimizer, loader\)\)\.$"):
        choose(tmp_path / "run", "deepfool:keep=0.5")
    decision = choose(tmp_path / "run", "k_center:keep=0.5", loop=assay.Loop(model, optimizer, loader))
    rows = data.tensors[0][torch.tensor(list(decision.ids))]
    assert list(decision.order) == [decision.ids[i] for i in farthest_first(rows, len(rows) // 2, decision.ids.ranks)[0].tolist()]
    if drawn:
        with pytest.raises(UsageError, match="a SubsetRandomSampler drew from"):
            decision.kept_positions  # noqa: B018
        return
    with pytest.raises(UsageError, match=r"whose model and data assay does not know; in Python, give choose\(\.\.\., loop="):
        choose(tmp_path / "run", "k_center:keep=0.5,features=head_grads")
    by_model = choose(tmp_path / "run", "k_center:keep=0.5,features=head_grads", loop=assay.Loop(model, optimizer, loader))
    assert by_model.lineage.parents.keys() == {"run", "loop"} and by_model.order != decision.order
    assert decision.kept_positions.tolist() == sorted(decision.kept_ids)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run, by: choose(by, "k_center:keep=0.1"), "reads no score, so that aum would not be used"),
        (lambda run, by: choose(run, "top_k:keep=0.1"), "chooses by a score, and .* is a run; give one of its scores"),
        (lambda run, by: choose(run, "k_center:keep=0.1", run=run), "The run is given twice"),
        (lambda run, by: choose(run, "k_center:keep=0.1", inputs={"x": torch.zeros(397, 2)}), "does not read rows named 'x'"),
        (lambda run, by: choose(by, "top_k:keep=0.1", inputs={"x": torch.zeros(397, 2)}), "does not read rows named 'x'"),
        (lambda run, by: choose(by, "top_k:keep=0.1", loop=own_loop()), "loop= is for policies that read the data"),
        (lambda run, by: choose(run, "k_center:keep=0.1", loop=own_loop()), "recorded by a plan, .*leave loop= out"),
        (
            lambda run, by: choose(run, "k_center:keep=0.1,features=rows:x", inputs={"x": torch.zeros(3, 2)}),
            "do not fit 397 examples",
        ),
    ],
)
def test_what_nobody_reads_is_refused(run, table, call, words):
    with pytest.raises(UsageError, match=words):
        call(run, table["aum"])


def own_loop():
    model = torch.nn.Linear(2, 2)
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), batch_size=2)
    return assay.Loop(model, torch.optim.SGD(model.parameters(), 0.1), loader)


@pytest.mark.parametrize(
    ("policy", "score", "cure"),
    [
        ("top_k:keep=0.9", "loss", "bottom_k:by=suspicion"),
        ("bottom_k:keep=0.9", "aum", "bottom_k:by=suspicion"),
        ("per_class:keep=0.9", "loss", "per_class:end=low,by=suspicion"),
        ("per_class:keep=0.9,end=low", "aum", "per_class:end=low,by=suspicion"),
        ("threshold:at_least=0.4", "loss", "at_most"),
        ("threshold:at_most=0.4", "aum", "at_least"),
        ("beta:keep=0.9,seed=0", "loss", "a score that ranks difficulty"),
    ],
)
def test_a_decision_that_keeps_the_suspects_says_so(table, policy, score, cure):
    with pytest.warns(
        UserWarning, match=f" by {score}: The (high|low) values of {score} stay, and those are the most suspect"
    ) as heard:
        decision = choose(table[score], policy)
    assert len(heard) == 1 and heard[0].filename == __file__
    (warning,) = decision.warnings
    assert f"to drop them, use {cure}," in warning


@pytest.mark.parametrize(
    ("policy", "score"),
    [
        ("top_k:keep=0.9", "aum"),
        ("top_k:keep=0.9,by=suspicion", "loss"),
        ("top_k:keep=1.0", "loss"),
        ("top_k:keep=0.0", "loss"),
        ("top_k:keep=0.9", "dual:window=2"),
        ("bottom_k:keep=0.9", "loss"),
        ("bottom_k:keep=0.9,by=suspicion", "aum"),
        ("per_class:keep=0.9,by=suspicion", "loss"),
        ("threshold:at_least=0.1,at_most=2", "loss"),
        ("ccs:keep=0.9,seed=0,cutoff=0.1", "loss"),
        ("random:keep=0.9,seed=0", "loss"),
    ],
)
def test_a_decision_that_drops_them_or_means_it_says_nothing(table, policy, score):
    assert choose(table[score], policy).warnings == ()


@pytest.mark.parametrize(
    "policy",
    ["facility_location:features=head_grads,keep=0.1", "craig:keep=0.1", "gradmatch:keep=0.1", "craig:keep=0.1,by_class=false"],
)
def test_gradients_of_a_head_choose_without_being_multiplied_out(run, policy, monkeypatch):
    decision = choose(run, policy)
    assert decision.budget == 39 and decision.lineage.parents == {"run": run.fingerprint}
    assert ("weight" in decision.counts()) == (not policy.startswith("facility"))
    monkeypatch.setattr(Features, "vectors", lambda self: DenseVectors(self.rows()))
    rows = choose(run, policy)
    assert rows.kept_ids == decision.kept_ids and torch.allclose(rows.weights, decision.weights, rtol=1e-4)


def test_weights_are_trained_with(run, monkeypatch):
    decision = choose(run, "craig:keep=0.1")
    assert float(decision.weights[decision.kept].mean()) == pytest.approx(1) and len(decision.weights[decision.kept].unique()) > 3
    trained, train = [], trials.train
    monkeypatch.setattr(trials, "train", lambda *args, **kwargs: [trained.append(kwargs["weights"]), train(*args, **kwargs)][1])
    for arm in trials.arms(decision, run.labels, seed=0)[:2]:
        trials.train_arm(small.plan().plain(), arm, 0)
    assert torch.equal(trained[0], decision.weights[decision.kept].float())
    # The control has the same weights, on examples drawn at random.
    assert torch.equal(trained[1].sort().values, trained[0].sort().values)


def test_validation_examples_are_chosen_for(run, table, tmp_path):
    with pytest.raises(UsageError, match="the plan held out no validation examples; record with"):
        choose(run, "glister:keep=0.1")
    held = small.recorded(tmp_path / "held", validation=0.2)
    decision = choose(held, "glister:keep=0.1")
    assert decision.budget == 31 and decision.order is not None and "validation loss" in decision.reasons[0]
    assert {"run", "target validation"} <= decision.lineage.parents.keys()
    # The names of `assay score` too.
    assert choose(held, "glister:keep=0.1,target=class=3").order != decision.order
    with pytest.raises(UsageError, match="targets= is for policies that ask for validation examples"):
        choose(table["aum"], "top_k:keep=0.5", targets={"validation": (torch.zeros(2, 64), torch.tensor([0, 1]))})


def test_a_loop_of_ones_own_gives_its_validation_examples(tmp_path):
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(30, 4, generator=draw), torch.arange(30) % 3
    model, loader = torch.nn.Linear(4, 3), DataLoader(TensorDataset(inputs, labels), 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with assay.record(tmp_path / "run", model, optimizer, loader) as recorder:
        plain_loop.epoch(recorder, model, optimizer)
    loop = assay.Loop(model, optimizer, loader)
    held = torch.randn(9, 4, generator=draw), torch.arange(9) % 3
    decision = choose(tmp_path / "run", "glister:keep=6", loop=loop, targets={"validation": held})
    assert decision.budget == 6 and decision.order != choose(tmp_path / "run", "craig:keep=6", loop=loop).order
    with pytest.raises(UsageError, match=r"asks for target 'validation'; there are: none\. Give choose\(\.\.\., targets="):
        choose(tmp_path / "run", "glister:keep=6", loop=loop)


@pytest.mark.parametrize("policy", ["moderate", "k_center", "facility_location", "gradmatch"])
def test_a_layer_that_is_not_there_is_an_unknown_name(run, policy):
    with pytest.raises(UnknownName, match="No layer of the model is named 'nosuch'"):
        choose(run, policy, keep=0.5, features="layer:nosuch")


@pytest.mark.parametrize("by_class", [True, False])
def test_gradmatch_matches_the_mean_gradient_of_the_validation_examples(tmp_path, by_class, monkeypatch):
    held = small.recorded(tmp_path / "held", validation=0.2)
    policy = f"gradmatch:keep=0.3,by_class={by_class},weights_as=match"
    own, decision = choose(held, policy), choose(held, f"{policy},target=validation")
    assert decision.budget == own.budget == 95 and "of the mean gradient of validation" in " ".join(decision.reasons)
    assert {"run", "target validation"} <= decision.lineage.parents.keys() and own.lineage.parents.keys() == {"run"}
    # By plain rows of the gradients, made of the model's outputs.
    plan = small.plan(validation=0.2)
    loaded = plan_module.load_data(plan)
    model = plan.build(loaded, 0)
    model.load_state_dict(held.model(held.epochs - 1))

    def gradients(examples):
        inputs = examples.prepared(examples.inputs)
        errors = model(inputs).detach().softmax(1) - torch.nn.functional.one_hot(examples.labels, 10)
        return torch.einsum("nc,nd->ncd", errors, torch.nn.functional.pad(inputs.flatten(1), (0, 1), value=1.0)).double()

    rows, labels = gradients(loaded.train), held.labels
    wanted, seen = gradients(loaded.validation), loaded.validation.labels
    errors = []
    for one in (own, decision):
        weights, error = one.weights / one.budget, 0.0
        for label in range(10) if by_class else [None]:
            mine, theirs = (labels == label, seen == label) if by_class else (labels >= 0, seen >= 0)
            share = float(mine.sum()) / len(labels)
            made = torch.einsum("n,ncd->cd", weights[mine], rows[mine]) / share
            error += float((made - wanted[theirs].mean(0)).square().sum() / wanted[theirs].mean(0).square().sum()) * share
        errors.append(error)
    assert errors[1] < 0.6 * errors[0], errors
    monkeypatch.setattr(Features, "vectors", lambda self: DenseVectors(self.rows()))
    assert choose(held, f"{policy},target=validation").kept_ids == decision.kept_ids


def test_gradmatch_needs_validation_examples_of_every_class(tmp_path):
    held = small.recorded(tmp_path / "held", validation=0.2)
    with pytest.raises(UsageError, match=r"class=3 has no example of class 0, .* by_class=false"):
        choose(held, "gradmatch:keep=0.1,target=class=3")
    assert choose(held, "gradmatch:keep=0.1,target=class=3,by_class=false").budget == 31


def test_of_predictions_no_model_is_asked_for(tmp_path):
    run = assay.from_probs(tmp_path / "run", torch.full((6, 3), 1 / 3), [0, 1, 2] * 2, "held_out")
    for policy, cure in (
        ("deepfool:keep=2", ""),
        ("metriq:keep=2,seed=0", ""),
        ("herding:keep=2", r", or rows .*herding:features=rows:NAME"),
    ):
        with pytest.raises(MissingEvidence, match=rf"predictions only, .* assay\.from_checkpoints, or record the training{cure}"):
            choose(run, policy)
    assert choose(run, "herding:keep=2,features=rows:a", inputs={"a": torch.eye(6)}).budget == 2
