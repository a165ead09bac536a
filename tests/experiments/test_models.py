"""Several models in one recording: each of its own weights and order, scores that are means over them, and what each says."""

import json
import re
import shutil
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

import assay
from assay.cluster import executor
from assay.core.errors import Mismatch, OutputExists, RunError, TrialFailed, UndeclaredNeed, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scores import CHANGE, Direction, Scores
from assay.experiments import plan as plan_module
from assay.experiments import record as recording
from assay.experiments.evidence import gather, open_replay
from assay.experiments.execution import Execution
from assay.experiments.models import average_training, mean_of
from assay.experiments.plan import Plan
from assay.experiments.record import record
from assay.reports import render
from assay.runs.disk import TensorFile
from assay.runs.paths import RunPaths
from assay.runs.run import Run
from cli.shell import here, sentence
from experiments import small

RECORD = {"checkpoints": "every"}
EXAMPLES = 15


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three models of two epochs."""
    return small.recorded(tmp_path_factory.mktemp("models") / "run", models=3, record=RECORD, recipe={"epochs": 2})


def test_every_model_has_its_own_weights_and_order_and_the_same_examples(run):
    models = [run, *run.members]
    assert [one.folder.name for one in models[1:]] == ["001", "002"]
    for one in models[1:]:
        assert one.ids == run.ids and torch.equal(one.labels, run.labels) and one.epochs == 2
    starts = [one.model(-1) for one in models]
    ends = [one.model(1) for one in models]
    orders = [torch.cat(one.order(0)) for one in models]
    for a in range(3):
        for b in range(a):
            # The official code trains copies of one net on the same batches, so that all its models are one.
            assert all(not torch.equal(starts[a][name], starts[b][name]) for name in starts[a])
            assert all(not torch.equal(ends[a][name], ends[b][name]) for name in ends[a])
            assert not torch.equal(orders[a], orders[b])
    seeds = {one.header.seed for one in models}
    assert len(seeds) == 3 and run.header.seed == 0
    # The first is the run that one model would have been.
    assert all(
        torch.equal(value, starts[0][name]) for name, value in small.plan().build(small.plan().load(), 0).state_dict().items()
    )


@pytest.mark.parametrize("spec", ["el2n:at=1", "grand", "aum", "vog:by_class=False", "prediction_depth:k=10"])
def test_a_score_is_the_mean_over_models(run, spec):
    found = assay.score(run, spec)[spec]
    each = torch.stack([assay.score(one, spec)[spec].values for one in run.members])
    torch.testing.assert_close(found.repeats[1:], each)
    torch.testing.assert_close(found.values, found.repeats.mean(0))
    assert found.repeats.shape == (3, len(run.ids)) and found.diagnostics["models"] == 3
    low, high = found.interval()
    # A count on which two models agree has no interval.
    agree = torch.tensor([len(set(column)) < 3 for column in found.repeats.T.tolist()])
    assert torch.equal(low.isnan(), agree) and torch.equal(high.isnan(), agree)
    assert bool((low < found.values)[~agree].all() and (found.values < high)[~agree].all())


def test_influence_over_models_is_about_an_average_training_and_says_so(tmp_path):
    run = small.recorded(tmp_path / "run", models=3, validation=0.2, recipe={"epochs": 1})
    found = assay.score(run, ["sgd_influence", "tracin"])
    each = torch.stack([assay.score(one, "sgd_influence")["sgd_influence"].values for one in run.members])
    one, other = found["sgd_influence"], found["tracin"]
    assert torch.equal(one.repeats[1:], each) and torch.equal(one.values, one.repeats.mean(0))
    assert "the change in an average training" in one.diagnostics["about"] and "one of these 3" in one.diagnostics["about"]
    low, high = one.interval()
    assert one.diagnostics["examples whose 95 % interval excludes 0"] == int(((low > 0) | (high < 0)).sum()) > 0
    assert "about" not in other.diagnostics
    assert "about" not in assay.score(run.members[0], "sgd_influence")["sgd_influence"].diagnostics


@pytest.mark.parametrize(
    ("scales", "told"), [((1, 1, 1), None), ((1, 2, 1), "Model 2 of 3 makes up 67%"), ((9, 1), None), ((0, 0, 0), None)]
)
def test_a_model_that_decides_the_mean_is_named(scales, told):
    ids = Ids(range(4))
    given = {"method": "tracin", "options": {}, "title": "tracin", "direction": Direction.LOW_IS_SUSPECT, "unit": CHANGE}
    values = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    found = average_training(mean_of([Scores(ids, scale * values, diagnostics={"growth": scale}, **given) for scale in scales]))
    assert [told in one for one in found.warnings] == [True] if told else not found.warnings
    if len(set(scales)) > 1:
        assert found.diagnostics["growth (smallest of the models)"] == 1
        assert found.diagnostics["growth (largest of the models)"] == max(scales)
    else:
        assert found.diagnostics["growth (first model)"] == scales[0]


def influences_of_trainings(seeds):
    """-d target / d weight through a small training, for each of many starts and orders."""
    draw = torch.Generator().manual_seed(0)
    inputs, held = (torch.randn(count, 3, generator=draw, dtype=torch.float64) for count in (EXAMPLES, 9))
    labels, held_labels = (torch.randint(3, (count,), generator=draw) for count in (EXAMPLES, 9))

    def losses(params, rows, classes):
        return F.cross_entropy(torch.tanh(rows @ params[0]) @ params[1], classes, reduction="none")

    def target(weights, first, second, order):
        params = (first, second)
        for batch in order:
            step = torch.func.grad(lambda at, batch=batch: (weights[batch] * losses(at, inputs[batch], labels[batch])).mean())(
                params
            )
            params = tuple(value - 0.5 * part for value, part in zip(params, step, strict=True))
        return losses(params, held, held_labels).mean()

    starts = [torch.randn(seeds, *shape, generator=draw, dtype=torch.float64) for shape in ((3, 5), (5, 3))]
    orders = torch.stack([torch.randperm(EXAMPLES, generator=draw).view(3, -1) for _ in range(2 * seeds)]).view(seeds, 6, -1)
    ones = torch.ones(EXAMPLES, dtype=torch.float64)
    return -torch.func.vmap(torch.func.grad(target), (None, 0, 0, 0))(ones, *starts, orders)


@pytest.mark.parametrize("models", [4, 16])
def test_the_interval_covers_the_average_training(models):
    values = influences_of_trainings(1600)
    truth, ids = values.mean(0), Ids(range(EXAMPLES))
    given = {
        "method": "sgd_influence",
        "options": {},
        "title": "sgd_influence",
        "direction": Direction.LOW_IS_SUSPECT,
        "unit": CHANGE,
    }
    within, narrow = [], []
    for group in values.view(-1, models, EXAMPLES):
        mean = mean_of([Scores(ids, row, **given) for row in group])
        low, high = mean.interval()
        within.append((low <= truth) & (truth <= high))
        # The bound rings on one standard error.
        narrow.append((mean.values - truth).abs() <= group.std(0) / models**0.5)
    trials = len(within)
    covered, narrower = (float(torch.stack(one).double().mean()) for one in (within, narrow))
    assert covered > 0.94 - 3 * (0.94 * 0.06 / trials) ** 0.5 > narrower


def test_consensus_is_what_most_models_predict(run):
    loaded = small.plan().load()
    rows = loaded.train.prepared(loaded.train.inputs)
    models = [run, *run.members]
    nets = [small.plan().build(loaded, 0) for _ in models]
    for net, one in zip(nets, models, strict=True):
        net.load_state_dict(one.model(1))
    with torch.no_grad():
        probs = torch.stack([net.eval()(rows).softmax(1) for net in nets])
    counts = torch.nn.functional.one_hot(probs.argmax(2), 10).sum(0)
    most = [
        max(range(10), key=lambda c, row=row, at=at: (int(row[c]), float(probs[:, at, c].sum()))) for at, row in enumerate(counts)
    ]
    found = assay.score(run, "prediction_depth:k=10,reference=consensus,layers=1")[
        "prediction_depth:k=10,reference=consensus,layers=1"
    ]
    given, last = loaded.train.labels, []
    from assay.methods.prediction_depth import depth, probe

    for net in nets:
        with torch.no_grad():
            softmax = net(rows).softmax(1)
            hidden = net[1](net[0](rows))
        probes = torch.stack([probe(part, given, 10, "nearest") for part in (rows.flatten(1), hidden.flatten(1), softmax)])
        last.append(depth(probes, torch.tensor(most)))
    torch.testing.assert_close(found.repeats, torch.stack(last).double())


def test_evidence_has_every_model_and_all_share_the_data_which_are_read_once(run, monkeypatch):
    read = Counter()

    def counted(owner, name, what):
        plain = getattr(owner, name)

        def reading(*args, **given):
            read[what] += 1
            return plain(*args, **given)

        monkeypatch.setattr(owner, name, reading)

    counted(Plan, "load", "data")
    for name in ("read", "read_all"):
        counted(TensorFile, name, "file")
    plan_module._loaded.cache_clear()
    runs = [Run(one.folder) for one in (run, *run.members)]
    replays = [open_replay(one, asked=()) for one in runs]
    seen = gather(runs[0], replays[0], replays=replays).narrow("an ensemble", frozenset({Need.CHECKPOINTS}))
    read["file"] = 0
    assert seen.models == tuple(replays) and seen.checkpoints is replays[0] and read == {"data": 1, "file": 0}
    assert len({one.training._data.inputs.data_ptr() for one in replays}) == 1
    models = [source.at(source.kept[-1]) for source in seen.models]
    assert read["data"] == 1 and 0 < read["file"] <= 2 * len(models)
    name = next(iter(models[0].params))
    assert not any(torch.equal(models[0].params[name], other.params[name]) for other in models[1:])
    names = tuple(models[0].params)
    alone = [[batch.grad_sq_norms(names)[0] for batch in model.batches()] for model in models]
    for rows in zip(*(model.batches() for model in models), strict=True):
        for place, batch in enumerate(rows):
            assert torch.equal(batch.grad_sq_norms(names)[0], alone[place].pop(0))
    # A run of one model, and evidence of no run, have one.
    assert gather(runs[1], replays[1]).models == (replays[1],)
    assert Evidence(run.ids, run.classes, replayed=assay.ReplayedFacts(replays[0])).models == (replays[0],)
    with pytest.raises(UndeclaredNeed):
        gather(runs[0], replays[0], replays=replays).narrow("a fold", frozenset()).models  # noqa: B018
    assay.score(run, ["grand", "prediction_depth:k=10,reference=consensus,layers=1"])
    assert read["data"] == 1


def test_a_score_knows_its_models(run, tmp_path):
    own = small.copied(run, tmp_path / "own")
    saved = assay.score(own, "el2n:at=1", save=True)["el2n:at=1"]
    assert assay.score(own, "el2n:at=1", save=True)["el2n:at=1"].fingerprint == saved.fingerprint
    # A model in the place of another makes another score.
    shutil.rmtree(own.folder / "models" / "002")
    shutil.copytree(own.folder / "models" / "001", own.folder / "models" / "002")
    other = assay.score(Run(own.folder), "el2n:at=1", save=True)["el2n:at=1"]
    assert not torch.equal(other.values, saved.values)


def test_a_recording_that_was_cut_off_goes_on_to_the_same_bytes(run, tmp_path):
    own = small.copied(run, tmp_path / "own")
    shutil.rmtree(own.folder / "models" / "002")
    commits = own.folder / "models" / "001" / "commits.jsonl"
    commits.write_bytes(commits.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match=r"holds 2 of 3 models, of 2, 1 epochs; go on with --resume"):
        assay.score(Run(own.folder), "el2n:at=1")
    plan = small.plan(models=3, record=RECORD, recipe={"epochs": 2})
    again = assay.experiments.record.record(plan, own.folder, resume=True)
    assert [one.fingerprint for one in again.members] == [one.fingerprint for one in run.members]


def test_models_of_other_examples_are_refused(run, tmp_path):
    own = small.copied(run, tmp_path / "own")
    shutil.rmtree(own.folder / "models" / "002")
    small.recorded(own.folder / "models" / "002", plant={"rate": 0.2}, recipe={"epochs": 2})
    with pytest.raises(RunError, match="002 is of other examples"):
        assay.score(Run(own.folder), "aum")


def test_by_command(tmp_path, capsys):
    flags = ["--data", "digits:test=1400", "--net", "logistic", "--epochs", "2"]
    code, out, _ = here(capsys, "record", tmp_path / "run", *flags, "--models", "2")
    assert code == 0 and "by each of 2 models" in out
    code, out, _ = here(capsys, "score", tmp_path / "run", "el2n:at=1", "aum")
    assert code == 0 and "el2n:at=1: models: 2" in out and "±" in out
    code, _, err = here(capsys, "record", tmp_path / "other", *flags, "--models", "0")
    assert code == 2 and "models = 0" in sentence(err)


def test_counts_of_models_are_checked():
    with pytest.raises(UsageError, match="models = 0 must be at least 1"):
        Plan.make({"data": "digits", "models": 0})
    assert Plan.make({"data": "digits", "models": 3}).of_member(2).model_seed != 0


def test_a_member_of_several_models_is_refused():
    # It would be trained twice, and counted as two.
    with pytest.raises(UsageError, match="member = 1 is one model of several; with models = 3 leave it out"):
        Plan.make({"data": "digits", "models": 3, "member": 1})


def test_relabelling_asks_all_models(run):
    mean = torch.stack([one.mean_probs() for one in (run, *run.members)]).mean(0)
    scores = assay.score(run, "aum")["aum"]
    decision = assay.choose(scores, "relabel:fraction=0.5", run=run)
    changed = decision.labels >= 0
    assert torch.equal(decision.labels[changed], mean.argmax(1)[changed])
    looked = scores.suspicion().argsort(descending=True)[: len(run.ids) // 2]
    assert changed[looked].tolist() == (mean.argmax(1) != run.labels)[looked].tolist()
    assert not torch.equal(mean.argmax(1), run.mean_probs().argmax(1)), "the first model alone says the same"


def test_the_page_is_of_all_models(run):
    found = assay.report_data(run, assay.score(run, ["aum", "confidence"]))
    mean = torch.stack([one.mean_probs() for one in (run, *run.members)]).mean(0)
    assert torch.equal(found.shown.predicted, mean.argmax(1))
    lines = torch.stack(
        [torch.stack([one.shard(epoch).read("target_probs").double() for epoch in (0, 1)], 1) for one in (run, *run.members)]
    )
    torch.testing.assert_close(found.trajectories.target_probs.double(), lines.mean(0), rtol=1e-6, atol=1e-7)
    assert (
        found.facts["recorded"].startswith("3 models, each of 2 epochs") and "and the 3 models" in found.facts["predicted label"]
    )
    html = render(found)
    half = (lambda ends: (ends[1] - ends[0]) / 2)(found.scores[0].interval())
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    shown = found.scores[0].ids.positions(found.shown.ids)
    assert data["methods"][0]["repeats"] == 3
    assert data["methods"][0]["halves"] == pytest.approx(half[shown].tolist(), rel=5e-3)


def test_a_check_looks_at_every_model(run, tmp_path):
    own = Run(shutil.copytree(run.folder, tmp_path / "run"))
    one = Run(own.paths.model(1).folder)
    assert own.check() == 3 * one.check()
    shard = one.paths.shard(1)
    body = bytearray(shard.read_bytes())
    body[-5] ^= 1
    shard.write_bytes(bytes(body))
    with pytest.raises(RunError, match=r"models/001"):
        Run(own.folder).check()


def test_a_model_that_never_ended_its_first_epoch_is_one_that_is_missing(run, tmp_path, capsys):
    own = shutil.copytree(run.folder, tmp_path / "run")
    (own / "models" / "002" / "commits.jsonl").unlink()
    with pytest.raises(RunError, match=r"run holds 2 of 3 models, of 2, 2 epochs; go on with --resume"):
        assay.score(own, "aum")
    code, out, _ = here(capsys, "inspect", own)
    assert code == 0 and "2 of 3" in out and "nothing before all models are there" in out
    code, out, _ = here(capsys, "inspect", run.folder)
    assert code == 0 and "3 of 3" in out and "aum" in out


def test_models_that_left_out_other_examples_speak_of_those_that_none_left_out(tmp_path):
    record = {**RECORD, "view": "eval"}
    run = small.recorded(tmp_path / "run", models=2, record=record, recipe={"epochs": 2, "last_batch": "drop"})
    scores = assay.score_separately(run, "oti:window=last")["oti:window=last"]
    seen = [set(run.ids.take(torch.cat(one.order(1)))) for one in (run, *run.members)]
    assert seen[0] != seen[1]
    assert set(scores.ids) == seen[0] & seen[1] and set(scores.ids) | set(scores.unscored) == set(run.ids)
    second = assay.score_separately(run.members[0], "oti:window=last")["oti:window=last"]
    assert torch.equal(scores.repeats[1], second.of(scores.ids)) and torch.equal(scores.values, scores.repeats.mean(0))


def test_live_values_are_told_for_every_model(tmp_path, capsys):
    flags = ("--data", "digits:test=1600", "--net", "logistic", "--epochs", "2", "--models", "3", "--live", "liveval")
    code, out, _ = here(capsys, "record", tmp_path / "run", *flags)
    assert code == 0 and out.count("liveval: most harmful so far") == 6


def test_what_is_cleansed_of_several_models_is_the_first_and_says_so(tmp_path, capsys):
    flags = ("--data", "digits:test=1600", "--net", "logistic", "--epochs", "2", "--models", "2", "--validation", "0.2")
    assert here(capsys, "record", tmp_path / "run", *flags)[0] == 0
    code, out, _ = here(
        capsys, "cleanse", tmp_path / "run", "sgd_influence", "--counts", "1", "--draws", "1", "--executor", "inline"
    )
    assert code == 0 and "The score is the mean over 2 models; the first of them was retrained." in out


@pytest.mark.parametrize("resume", [False, True])
def test_what_fails_before_the_first_epoch_leaves_the_folder_free(tmp_path, monkeypatch, resume):
    from assay.experiments import record

    class Stop(Exception):
        pass

    def stopping(self, epoch):
        raise Stop

    real = record._Tap.epoch_begins
    monkeypatch.setattr(record._Tap, "epoch_begins", stopping)
    plan = small.plan(models=3, record=RECORD, recipe={"epochs": 1})
    with pytest.raises(Stop):
        record.record(plan, tmp_path / "run")
    monkeypatch.setattr(record._Tap, "epoch_begins", real)
    assert len(record.record(plan, tmp_path / "run", resume=resume).members) == 2


def test_models_cut_off_in_the_middle_of_the_second_go_on_to_the_same_bytes(tmp_path, monkeypatch):
    from assay.experiments import record

    class Stop(Exception):
        pass

    whole = small.recorded(tmp_path / "whole", models=3, record=RECORD, recipe={"epochs": 3})
    commits = []
    real = record._Tap.epoch_ends

    def stopping(self, epoch, model, state):
        real(self, epoch, model, state)
        commits.append(epoch)
        if len(commits) == 5:
            raise Stop

    monkeypatch.setattr(record._Tap, "epoch_ends", stopping)
    with pytest.raises(Stop):
        small.recorded(tmp_path / "cut", models=3, record=RECORD, recipe={"epochs": 3})
    monkeypatch.setattr(record._Tap, "epoch_ends", real)
    assert [one.epochs for one in (Run(tmp_path / "cut"), *Run(tmp_path / "cut").members)] == [3, 2]
    plan = small.plan(models=3, record=RECORD, recipe={"epochs": 3})
    resumed = record.record(plan, tmp_path / "cut", resume=True)
    assert small.contents(resumed) == small.contents(whole)


def test_each_of_several_models_is_the_run_that_it_is_alone(run, tmp_path):
    plan = small.plan(models=3, record=RECORD, recipe={"epochs": 2})
    for place, several in ((0, run), (1, run.members[0])):
        alone = assay.experiments.record.record(
            plan.of_member(place) if place else small.plan(record=RECORD, recipe={"epochs": 2}), tmp_path / str(place)
        )
        for epoch in range(2):
            assert torch.equal(several.shard(epoch).read("margins"), alone.shard(epoch).read("margins"))
        assert all(torch.equal(value, several.model(1)[name]) for name, value in alone.model(1).items())


@pytest.mark.parametrize("where", ["inline", pytest.param("processes:2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kept", ["every", "last", "none"])
def test_models_trained_in_other_places_are_the_same_to_the_bit(tmp_path, where, kept):
    plan = small.plan(models=3, record={"checkpoints": kept}, recipe={"epochs": 2})
    alone = record(plan, tmp_path / "alone")
    with executor(where) as pool:
        spread = record(plan, tmp_path / "spread", execution=Execution(pool))
    assert small.contents(spread) == small.contents(alone) and len(spread.members) == 2
    assert spread.fingerprint == alone.fingerprint and spread.check()
    assert [one.header.threads for one in (spread, *spread.members)] == [1, 1, 1]


def test_models_of_which_one_failed_elsewhere_go_on_to_the_same_bytes(run, tmp_path, monkeypatch):
    plan, train = small.plan(models=3, record=RECORD, recipe={"epochs": 2}), recording.train
    coming = []

    def failing(*args, **more):
        if coming.pop(0):
            raise OSError("the node went away")
        return train(*args, **more)

    monkeypatch.setattr(recording, "train", failing)
    for fails, free in (([True], True), ([False, True], False)):
        coming[:] = fails
        with executor("inline") as pool, pytest.raises(TrialFailed, match="the node went away"):
            record(plan, tmp_path / "run", execution=Execution(pool))
        assert RunPaths(tmp_path / "run").header.exists() is not free
    with executor("inline") as pool, pytest.raises(OutputExists, match="already holds a run; resume it"):
        record(plan, tmp_path / "run", execution=Execution(pool))
    with executor("inline") as pool, pytest.raises(Mismatch, match=r"recipe\.lr was .* and is 0\.3"):
        other = small.plan(models=3, record=RECORD, recipe={"epochs": 2, "lr": 0.3})
        record(other, tmp_path / "run", resume=True, execution=Execution(pool))
    monkeypatch.setattr(recording, "train", train)
    sent = sent_elsewhere(monkeypatch)
    with executor("inline") as pool:
        made = record(plan, tmp_path / "run", resume=True, execution=Execution(pool))
    assert small.contents(made) == small.contents(run)
    # The first was whole.
    assert [call.name for call in sent] == ["record-model-2", "record-model-3"]


def sent_elsewhere(monkeypatch):
    """The calls that are given to an executor from now on."""
    sent, run_all = [], recording.run_all
    monkeypatch.setattr(recording, "run_all", lambda pool, calls, *more: (sent.extend(calls), run_all(pool, calls, *more))[1])
    return sent


def test_a_job_is_known_by_its_plan_too_where_another_is_recorded_into_the_same_folder(tmp_path, monkeypatch):
    sent = sent_elsewhere(monkeypatch)
    for lr in (0.1, 0.2):
        with executor("inline") as pool:
            record(small.plan(models=2, recipe={"epochs": 1, "lr": lr}), tmp_path / "run", execution=Execution(pool))
        shutil.rmtree(tmp_path / "run")
    assert len({call.key for call in sent}) == len(sent) == 4


def test_what_cannot_be_recorded_is_said_before_anything_is_sent_elsewhere(tmp_path):
    with executor("inline") as pool:
        with pytest.raises(UsageError, match=r"Execution\(pool=\) is for plans of several models or with folds"):
            record(small.plan(), tmp_path / "run", execution=Execution(pool))
        with pytest.raises(UsageError, match="last_batch='drop' leaves 13 of 397"):
            record(small.plan(models=2, recipe={"last_batch": "drop"}), tmp_path / "run", execution=Execution(pool))
        with pytest.raises(UsageError, match="A run without checkpoints cannot be resumed"):
            record(small.plan(models=2, record={"checkpoints": "none"}), tmp_path / "run", resume=True, execution=Execution(pool))
    assert not (tmp_path / "run").exists()
    with executor("inline") as pool, pytest.raises(UsageError, match="last_batch='drop' leaves 6 of 198"):
        record(small.plan(folds=2, recipe={"last_batch": "drop"}), tmp_path / "folds", execution=Execution(pool))


def test_a_run_that_is_begun_elsewhere_says_how_it_was_trained_and_not_how_it_was_begun(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with executor("inline") as pool:
            made = record(small.plan(models=2, recipe={"epochs": 1}), tmp_path / "run", execution=Execution(pool))
    finally:
        torch.set_num_threads(before)
    assert made.header.threads == made.members[0].header.threads == 1


def test_where_by_command(tmp_path, capsys):
    flags = ["--data", "digits:test=1400", "--net", "logistic", "--epochs", "1"]
    code, out, _ = here(capsys, "record", tmp_path / "run", *flags, "--models", "2", "--where", "inline")
    assert code == 0 and "by each of 2 models" in out
    code, _, err = here(capsys, "record", tmp_path / "one", *flags, "--where", "processes:2")
    assert code == 2 and "--where processes:2 is for the nets of --models or --folds" in sentence(err)
    code, _, err = here(capsys, "record", tmp_path / "one", *flags, "--models", "2", "--where", "moon")
    assert code == 2 and "'moon' is not one of" in sentence(err) and not (tmp_path / "one").exists()
