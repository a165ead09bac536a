"""What public functions say to arguments of wrong kinds: a sentence of assay's, never an exception from inside."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import assay
from assay import training
from assay.core.arguments import checked_arguments, fits
from assay.core.errors import UsageError
from experiments import small


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small.recorded(tmp_path_factory.mktemp("boundary") / "run", recipe={"epochs": 1})


@pytest.fixture(scope="module")
def table(run):
    return assay.score(run, ["aum", "loss"])


@pytest.mark.slow
def test_no_exception_that_is_not_ours_comes_out_of_a_public_call(tmp_path):
    script = Path(__file__).with_name("boundary.py")
    done = subprocess.run([sys.executable, script, tmp_path], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    *wrong, total = list(filter(None, done.stdout.splitlines())) or [done.stderr]
    assert wrong == [] and int(total.split()[0]) > 3000, done.stdout + done.stderr


def test_what_is_often_confused_is_told_apart(run, table):
    for call, words in (
        (
            lambda: assay.choose(table, "top_k", keep=0.9),
            r"choose: scores= is a ScoreTable; give Scores or Run or a text or a path. Name one of its scores: table\['aum'\]\.",
        ),
        (lambda: assay.cleanse(run, table), r"Name one of its scores: table\['aum'\]"),
        (lambda: assay.report(run, table["aum"]), r"table= is a Scores; .* assay.ScoreTable\(\[scores\]\), or \{'aum': scores\}"),
        (lambda: assay.report_data(run, None), "table= is None; give ScoreTable or a mapping to Scores"),
        (lambda: assay.score(None, "aum"), "run= is None; give a text or a path or Run or Evidence"),
        (lambda: assay.score(run, "aum", loop=torch.nn.Linear(2, 2)), "loop= is a Linear; give Loop, or leave it out"),
        (lambda: assay.verify(table["aum"]), "decision= is a Scores; give Decision"),
        (lambda: assay.load_scores(7), "path= is 7; give a text or a path"),
        (lambda: assay.Run("n" * 300), "folder= has a name of 300 bytes, and a name on a disk has at most 255"),
        (lambda: assay.save_scores(table["aum"], "a\0b"), "path= is 'a.x00b', which holds a NUL"),
        (
            lambda: assay.gather_logits(run.ids, torch.zeros(2, 3), run.labels),
            r"logits= is a tensor of torch.float32 and shape \(2, 3\)",
        ),
        (lambda: assay.Plan(data=3), "The plan's data = 3"),
        (lambda: assay.Plan.make(["digits"]), "A plan is made of settings by name"),
    ):
        with pytest.raises(UsageError, match=words):
            call()


def test_missing_and_unknown_arguments_stay_pythons(run):
    with pytest.raises(TypeError, match=r"^choose\(\) missing 1 required positional argument: 'policy'"):
        assay.choose(assay.score(run, "aum")["aum"])
    with pytest.raises(TypeError, match=r"^score\(\) got an unexpected keyword argument 'lop'"):
        assay.score(run, "aum", lop=None)
    with pytest.raises(TypeError, match=r"^score_separately\(\) got an unexpected keyword argument 'lop'"):
        assay.score_separately(run, "aum", lop=None)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: assay.score(run, "aum", again=True), r"^score: again= is now given as save='recompute'\.$"),
        (lambda run: assay.score(run, "oti", replaying=None), r"^score: replaying= is now given as replay_config="),
        (
            lambda run: assay.record(run, None, None, None, visits="any"),
            r"^record: visits= is now given as data=assay\.DataSpec\(visits=",
        ),
        (
            lambda run: assay.score_separately(run, "aum", again=True),
            "^score_separately: again= is now given as save='recompute'",
        ),
        (lambda run: assay.verify(None, again=True), "^verify: again= is now given as save='recompute'"),
        (lambda run: assay.cleanse(run, None, replaying=None), "^cleanse: replaying= is now given as replay_config="),
        (lambda run: assay.curve_for(run, None, replaying=None), "^curve_for: replaying= is now given as replay_config="),
        (lambda run: training.Recipe(1, 0.1, ragged="even"), "^Recipe: ragged= is now given as last_batch="),
        (
            lambda run: training.train(None, inputs=None, labels=None),
            r"^train: inputs= is now given as data=assay\.training\.TrainingData\(inputs=\.\.\.\)",
        ),
    ],
)
def test_keywords_of_before_name_the_new_word(run, call, words):
    with pytest.raises(UsageError, match=words):
        call(run)


@pytest.mark.parametrize(("before", "now"), [("score_apart", "score_separately"), ("Replaying", "ReplayConfig")])
def test_names_of_before_name_the_new_word(before, now):
    with pytest.raises(AttributeError, match=rf"^assay\.{before} is now assay\.{now}\.$"):
        getattr(assay, before)
    assert hasattr(assay, now) and not hasattr(assay, before) and before not in dir(assay)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16])
def test_labels_may_be_whole_numbers_of_any_size(kind):
    ids, logits = assay.Ids(range(4)), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])
    expected = assay.score(assay.gather_logits(ids, logits, labels), "aum")["aum"].values
    assert torch.equal(assay.score(assay.gather_logits(ids, logits, labels.to(kind)), "aum")["aum"].values, expected)
    with pytest.raises(UsageError, match=r"1 labels are outside 0\.\.2"):
        assay.gather_logits(ids, logits, torch.tensor([0, 1, 2, 3]).to(kind))


def test_kinds_are_told_apart_and_nothing_else():
    @checked_arguments
    def called(number: int, part: float = 0.5, *, names: "list[str] | None" = None, **rest: object):
        return number, part, names, rest

    assert called(1, 2, names=["x"], any=3) == (1, 2, ["x"], {"any": 3}) and called.__name__ == "called"
    for wrong in (
        {"number": 1.5},
        {"number": True},
        {"number": 1, "part": "x"},
        {"number": 1, "names": b"x"},
        {"number": 1, "names": 3},
    ):
        with pytest.raises(UsageError, match=f"{list(wrong)[-1]}= is "):
            called(**wrong)
    assert fits(torch.tensor(3), int) is False and fits(None, int | None)


def test_keywords_of_before_say_where_they_went(run, table, tmp_path):
    model = torch.nn.Linear(2, 2)
    given = tmp_path / "moved", model, torch.optim.SGD(model.parameters()), torch.utils.data.DataLoader([(0, 0)])
    for name, value, words in (
        ("checkpoints", "every", r"record: checkpoints= is now given as recording=assay\.Recording\(checkpoints=\.\.\.\)"),
        ("live", ["aum"], r"recording=assay\.Recording\(live="),
        ("ids", [1], r"data=assay\.DataSpec\(ids="),
        ("epochs", 3, r"select=assay\.LiveSelection\(SELECTOR, epochs="),
    ):
        with pytest.raises(UsageError, match=words):
            assay.record(*given, **{name: value})
    with pytest.raises(UsageError, match=r"Recorder: seed= is now given as origin=assay\.runs\.recorder\.Origin\(seed="):
        assay.Recorder(tmp_path / "moved", assay.Ids([1]), seed=3)
    with pytest.raises(UsageError, match=r"names methods, which a recorder of your own does not make.*live=assay\.LiveMethods"):
        assay.Recorder(tmp_path / "moved", assay.Ids([1]), assay.Recording(live=["aum"]))
    with pytest.raises(UsageError, match=r"study_scaling: seeds= is now given as grid=assay\.ScalingGrid\(seeds="):
        assay.study_scaling(tmp_path / "moved", scale="tiny", seeds=2)
    aum = table["aum"]
    decision = assay.choose(aum, "top_k", keep=0.9)
    for call, name, value, words in (
        (lambda **given: assay.score(run, "aum", **given), "recompute", True, "save='recompute'"),
        (lambda **given: assay.score_separately(run, "aum", **given), "pool", None, "execution=assay.Execution(pool=...)"),
        (lambda **given: assay.verify(decision, **given), "after", 3, "seeds=assay.Seeds(NUMBER, after=...)"),
        (lambda **given: assay.verify(decision, **given), "progress", None, "execution=assay.Execution(progress=...)"),
        (lambda **given: assay.cleanse(run, aum, **given), "counts", [3], "grid=assay.RemovalGrid(counts=...)"),
        (lambda **given: assay.curve_for(run, aum, **given), "pool", None, "execution=assay.Execution(pool=...)"),
        (lambda **given: assay.report(run, table, **given), "title", "mine", "options=assay.ReportOptions(title=...)"),
        (lambda **given: assay.report_data(run, table, **given), "most", 3, "options=assay.ReportOptions(most=...)"),
        (lambda **given: assay.Evidence(aum.ids, 10, **given), "steps", None, "replayed=assay.ReplayedFacts(steps=...)"),
        (
            lambda **given: assay.study_difficulty(tmp_path / "moved", **given),
            "pool",
            None,
            "execution=assay.Execution(pool=...)",
        ),
    ):
        with pytest.raises(UsageError, match=re.escape(f": {name}= is now given as {words}.")):
            call(**{name: value})
        # What the sentence names is there.
        for noun in re.findall(r"assay\.(\w+)\(", words):
            assert name in inspect.signature(getattr(assay, noun)).parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'chekpoints'"):
        assay.record(*given, chekpoints="every")
    assert not (tmp_path / "moved").exists()


def test_warnings_point_to_the_line_that_called(run, table, tmp_path):
    with pytest.warns(UserWarning, match="was not scored") as said:
        assay.score(run, ["aum", "dual"])
    decision = assay.choose(table["aum"], "top_k", keep=0.9)
    with pytest.warns(UserWarning, match="This verification has 2") as more:
        assay.verify(decision, run=run, seeds=assay.Seeds(2, detect=0.1), retrain=lambda ids, labels, weights, seed: 0.5)
    assert {one.filename for one in (*said, *more)} == {__file__}
