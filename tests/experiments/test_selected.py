"""A planned training whose epochs a live selector chooses: recorded as it was, resumed, taken again, differentiated, verified."""

import functools

import pytest
import torch
import torch.nn.functional as F

import assay
from assay.cli.app import run_app
from assay.core.errors import Mismatch, MissingEvidence, UnknownName, UsageError
from assay.experiments.evidence import open_replay
from assay.experiments.plan import Plan, load_data
from assay.experiments.record import record
from assay.experiments.trials import train_arm
from assay.policies.infobatch import InfoBatch
from assay.training.batches import TrainingData, batches
from assay.training.loop import train
from assay.training.step import trainable
from experiments.small import contents, plan, recorded

SELECTED = {
    "net": "mlp:widths=8",
    "plant": None,
    "subset": 0.2,
    "validation": 0.2,
    "select": "infobatch:ratio=0.5",
    "recipe": {"epochs": 4, "batch": 16, "lr": 0.1, "momentum": 0.9, "schedule": "cosine"},
    "record": {"checkpoints": "every"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("selected") / "run", **SELECTED)


def chosen(run):
    """Kept examples and weights of each epoch, told from the recorded losses alone."""
    selector, found = InfoBatch(0.5), []
    state = selector.start(len(run.ids))
    for epoch in range(run.epochs):
        choice = selector.select_epoch(state, run.ids, epoch, run.epochs, 0)
        found.append(choice)
        places = choice.kept.nonzero().flatten()
        selector.update(state, places, run.shard(epoch).read("losses")[places])
    return found


def test_a_part_of_the_examples_with_weights_is_recorded_as_that(run):
    assert run.header.partial and run.header.select == "infobatch"
    choices = chosen(run)
    assert [choice.whole for choice in choices] == [True, False, False, True]
    for epoch, choice in enumerate(choices):
        assert torch.equal(run.visits_in(epoch), choice.kept.to(torch.int64))
        missing, weights = run.missing(epoch), run.weights(epoch)
        if choice.whole:
            assert missing is None and weights is None
        else:
            assert torch.equal(missing, ~choice.kept) and torch.equal(weights, choice.weights.masked_fill(~choice.kept, 0))
            assert set(weights.tolist()) == {0.0, 1.0, 2.0}
    assert run.check() > 0


def test_the_steps_are_those_of_a_plain_loop_that_multiplies_by_the_weights(run):
    """The definition in bare torch, with the order, rates and weights that the run says; the parameters at the end are the recorded bits."""
    made = Plan.make(run.header.about["plan"])
    loaded = load_data(made)
    net = made.build(loaded, 0).train()
    # The run's weight decay is the plan's default.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch, choice in enumerate(chosen(run)):
        for places, rates in zip(run.order(epoch), run.rates(epoch), strict=True):
            logits = net(loaded.train.prepared(loaded.train.inputs[places]))
            losses = F.cross_entropy(logits, loaded.train.labels[places], reduction="none")
            optimizer.zero_grad()
            (losses * choice.weights[places].float()).sum().div(len(places)).backward()
            optimizer.param_groups[0]["lr"] = float(rates[0])
            optimizer.step()
    end = run.model(run.epochs - 1)
    for name, value in trainable(net).items():
        torch.testing.assert_close(value.detach(), end[name], rtol=1e-5, atol=1e-7)


def test_the_rates_of_a_shorter_epoch_are_spread_over_the_schedule(run):
    recipe = Plan.make(run.header.about["plan"]).training
    whole = len(run.order(0))
    for epoch in range(run.epochs):
        count = len(run.order(epoch))
        want = [recipe.rate(epoch * whole + step * whole // count, 4 * whole) for step in range(count)]
        assert run.rates(epoch)[:, 0].tolist() == want
    assert len(run.order(1)) < whole


def test_the_order_is_the_whole_epochs_without_those_left_out(run):
    recipe = Plan.make(run.header.about["plan"]).training
    for epoch in range(run.epochs):
        every = torch.cat(batches(run.ids.keys, recipe, epoch)).tolist()
        kept = run.visits_in(epoch) > 0
        assert torch.cat(run.order(epoch)).tolist() == [place for place in every if kept[place]]


def test_a_recording_that_stopped_goes_on_to_the_same_bits(run, tmp_path, monkeypatch):
    from assay.runs.recorder import Recorder

    class Stop(Exception):
        pass

    commit = Recorder.commit

    def stopping(self, *given, **named):
        if self.epochs == 2:
            raise Stop
        return commit(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "commit", stopping)
        with pytest.raises(Stop):
            recorded(tmp_path / "again", **SELECTED)
    assert assay.Run(tmp_path / "again").epochs == 2
    resumed = record(plan(**SELECTED), tmp_path / "again", resume=True)
    assert contents(resumed) == contents(run)


def test_it_is_resumed_by_the_same_selection_only(run, tmp_path):
    recorded(tmp_path / "other", **SELECTED)
    for other in ({"select": None}, {"select": "infobatch:ratio=0.3"}):
        with pytest.raises(Mismatch, match=r"select|partial"):
            record(plan(**{**SELECTED, **other}), tmp_path / "other", resume=True)


def test_a_selector_that_keeps_all_trains_as_without(tmp_path):
    # Without a drop the weights are 1, and nothing of the files is another's but what the selector keeps for itself.
    plain, kept = (
        recorded(tmp_path / "plain", **{**SELECTED, "select": None}),
        recorded(tmp_path / "kept", **{**SELECTED, "select": "infobatch:delta=0"}),
    )
    assert [a.shard.sums for a in plain.commits] == [b.shard.sums for b in kept.commits]
    assert all(torch.equal(value, kept.model(3)[name]) for name, value in plain.model(3).items())
    assert plain.fingerprint == kept.fingerprint


def test_taken_again_it_ends_on_the_same_bits(run):
    replay = open_replay(run)
    replay.hold_end(range(replay.epochs[-1].stop))
    end = run.model(run.epochs - 1)
    assert all(torch.equal(value, end[name]) for name, value in replay.training.params.items())


def test_taken_again_without_its_weights_it_is_refused(run, monkeypatch):
    monkeypatch.setattr(assay.Run, "weights", lambda self, epoch: None)
    replay = open_replay(run)
    with pytest.raises(Mismatch, match="does not give what was recorded: epoch 1"):
        replay.hold_end(range(replay.epochs[-1].stop))


@pytest.mark.parametrize("recipe", [{}, {"clip": 1.0, "nesterov": True}, {"ema": 0.9}])
def test_sgd_influence_is_the_central_difference_of_retrainings(tmp_path, recipe):
    # A linear net, because next to a kink of the loss differences say nothing.
    given = {**SELECTED["recipe"], "lr": 0.05, **recipe}
    made = record(Plan.make({**plan(**SELECTED).plain(), "net": "logistic", "recipe": given}), tmp_path / "run")
    scores = assay.score(made, "sgd_influence")["sgd_influence"]
    replay = open_replay(made)
    steps = range(replay.epochs[-1].stop)
    left_out = (made.visits_in(1) + made.visits_in(2)) == 0
    kinds = (left_out, (made.weights(1) == 2) & ~left_out, (made.weights(1) == 2) & (made.weights(2) == 2), made.weights(1) == 1)
    for place in [int(place) for kind in kinds for place in kind.nonzero()[:2]]:
        ends = []
        for sign in (1, -1):
            weights = torch.ones(len(made.ids), dtype=torch.float64)
            weights[place] += sign * 0.05
            ends.append(replay.reweighted(weights, steps, "validation"))
        # The trainings are in float32, of whose differences few digits are left.
        assert float(scores.values[place]) == pytest.approx(-(ends[0] - ends[1]) / 0.1, rel=5e-3, abs=2e-5)


def test_methods_along_with_the_steps_say_what_they_say_afterwards(tmp_path):
    given = {**SELECTED, "record": {"checkpoints": "every", "live": ["liveval", "confidence"]}}
    live = recorded(tmp_path / "live", **given)
    plain = recorded(tmp_path / "plain", **SELECTED)
    for name in ("liveval", "confidence"):
        torch.testing.assert_close(
            assay.score(live, name)[name].values, assay.score(plain, name)[name].values, rtol=1e-5, atol=1e-7
        )


def test_what_reads_the_missing_facts_is_refused_in_a_sentence_and_the_rest_is_scored(run):
    with pytest.warns(
        UserWarning,
        match="variability was not scored: variability reads epochs that did not train on every example: in epochs 1, 2 the facts",
    ):
        table = assay.score(run, ["variability", "confidence", "aum", "entropy", "grand"])
    assert list(table) == ["confidence", "aum", "entropy", "grand"] and "variability" in table.refused
    with pytest.raises(MissingEvidence, match="view='eval'"):
        assay.score(run, "dual:epochs=3,window=2")


def test_no_options_are_named_that_the_missing_facts_would_be_refused_for(run):
    with pytest.raises(MissingEvidence, match=r"dual reads epochs that did not train on .*view='eval'"):
        assay.score(run, "dual")
    with pytest.raises(MissingEvidence, match="score el2n:at=3, which fits"):
        assay.score(run, "el2n")
    assert assay.score(run, "el2n:at=3")["el2n:at=3"].values.isfinite().all()


def test_the_cure_works(tmp_path):
    clean = recorded(tmp_path / "run", **{**SELECTED, "record": {"view": "eval", "checkpoints": "every"}})
    assert assay.score(clean, ["aum", "dual:epochs=3,window=2"])["aum"].values.isfinite().all()
    replay = open_replay(clean)
    replay.hold_end(range(replay.epochs[-1].stop))
    assert clean.weights(1) is not None


def test_a_policy_that_reads_the_missing_facts_is_refused(run):
    scores = assay.score(run, "confidence")["confidence"]
    with pytest.raises(MissingEvidence, match="Epoch 1 has no `target_probs`"):
        assay.choose(scores, "beta", keep=0.5, run=run, seed=0)
    assert assay.choose(scores, "top_k", keep=0.5).budget == len(run.ids) // 2


def test_the_page_says_it(run, tmp_path):
    page = assay.report(run, assay.score(run, ["confidence", "grand"]), tmp_path / "page.html").read_text()
    assert "No data map and no trajectories" in page and "infobatch chose before every epoch" in page and run.selection in page


def test_what_part_of_the_training_it_took_is_told(run, tmp_path, capsys):
    taken, n = [int(choice.kept.sum()) for choice in chosen(run)], len(run.ids)
    assert min(taken) < max(taken) == n
    assert run.selection == (
        f"infobatch trained each epoch on {min(taken)} to {n} of {n} examples, {100 * sum(taken) / (4 * n):.1f} % of the visits of all"
    )
    flags = ("--data", "digits", "--net", "mlp:widths=8", "--subset", "0.2", "--epochs", "2")
    assert run_app(["record", str(tmp_path / "thin"), *flags, "--select", "rs2:keep=0.5"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    thin = assay.Run(tmp_path / "thin")
    half = len(thin.ids) // 2
    assert f"rs2 trained each epoch on {half} of {len(thin.ids)} examples" in thin.selection and f"{thin.selection}." in said
    assert run_app(["inspect", str(tmp_path / "thin")]) == 0
    assert thin.selection in " ".join(capsys.readouterr().out.split())
    assert recorded(tmp_path / "all", **{**SELECTED, "select": None}).selection == ""


def test_retrainings_train_by_the_selection(run):
    made = Plan.make(run.header.about["plan"])
    loaded = load_data(made)
    arm = assay.experiments.trials.Arm("all", run.ids, run.labels, torch.ones(len(run.ids), dtype=torch.float64))
    outcome = train_arm(made.plain(), arm, 0)
    assert outcome.steps == sum(commit.steps for commit in run.commits)
    net = made.build(loaded, 0)
    examples = loaded.train
    data = TrainingData(examples.inputs, examples.labels, examples.ids, examples.prepared)
    going = functools.partial(train, net, data, made.training)
    with pytest.raises(UsageError, match="a selector"):
        going(steps=3, selector=made.selector)


def test_several_models_choose_each_for_itself(tmp_path):
    made = recorded(tmp_path / "run", **{**SELECTED, "models": 2})
    first, second = made, made.members[0]
    assert not torch.equal(first.weights(1), second.weights(1))
    assert assay.score(made, "confidence")["confidence"].values.isfinite().all()
    assert assay.report(made, assay.score(made, ["confidence"]), tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("select", "kind", "words"),
    [
        ("top_k:keep=0.3", UsageError, "chooses once, by a score"),
        ("infobach", UnknownName, "infobatch"),
        ("infobatch:ratio=1", UsageError, "outside 0..1, 1 excluded"),
        ("infobatch:share=1", UnknownName, "ratio"),
    ],
)
def test_a_selection_that_is_none_is_refused_before_the_data_are_read(select, kind, words):
    with pytest.raises(kind, match=words):
        plan(**{**SELECTED, "data": "folder:path=/nowhere", "select": select})


def test_the_command_line_takes_it(tmp_path, capsys):
    folder = str(tmp_path / "run")
    small = ("--data", "digits:test=1400", "--net", "logistic", "--subset", "0.3", "--epochs", "3", "--batch", "16")
    assert run_app(["record", folder, *small, "--select", "infobatch:ratio=0.9"]) == 0
    assert assay.Run(folder).header.select == "infobatch:ratio=0.9" and assay.Run(folder).weights(1) is not None
    assert run_app(["score", folder, "all"]) == 0
    assert run_app(["report", folder]) == 0
    capsys.readouterr()
    assert run_app(["choose", folder, "confidence", "--policy", "infobatch"]) != 0
    assert "--select infobatch" in capsys.readouterr().err
    assert run_app(["policies", "infobatch"]) == 0
    assert "ratio" in capsys.readouterr().out
