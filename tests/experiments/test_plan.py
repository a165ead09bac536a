import sys

import pytest
import torch

from assay.core.errors import UnknownName, UsageError
from assay.experiments.plan import Plan, merged
from experiments.small import plan, settings


def written(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


WHOLE = """
data = { name = "digits", test = 1400 }
net = "mlp:widths=8"
seed = 3

[plant]
kind = "class"
matrix = [[0.9, 0.1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
          [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
          [0, 0, 0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
          [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]

[recipe]
epochs = 4
lr = 0.1
schedule = "step"
milestones = [2]

[record]
checkpoints = [0, 3]
live = ["aum"]
"""


def test_a_file_says_everything(tmp_path):
    made = Plan.read(written(tmp_path, WHOLE))
    assert made.data == "digits:test=1400" and made.net == "mlp:widths=8"
    assert made.training.milestones == (2,) and made.training.seed == 3 and made.training.momentum == 0.9
    assert made.record.checkpoints == (0, 3) and made.live[0].title == "aum"
    loaded = made.load()
    flipped = loaded.wrong.nonzero().flatten()
    assert len(flipped) and set(loaded.true_labels[flipped].tolist()) == {0} and set(loaded.train.labels[flipped].tolist()) == {1}


def test_a_plan_is_the_same_after_json_has_held_it(tmp_path):
    made = Plan.read(written(tmp_path, WHOLE))
    assert Plan.make(made.plain()) == made


def test_overrides_win_table_by_table(tmp_path):
    made = Plan.read(written(tmp_path, WHOLE), {"seed": 5, "recipe": {"lr": 0.2}, "data": "digits"})
    assert made.seed == 5 and made.training.lr == 0.2 and made.training.epochs == 4 and made.data == "digits"
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}


def test_another_kind_of_planting_takes_the_place_of_the_old_one(tmp_path):
    path = written(tmp_path, WHOLE)
    assert Plan.read(path, {"plant": {"kind": "pair", "rate": 0.2}}).plant.matrix is None
    assert len(Plan.read(path, {"plant": {"kind": "class"}}).plant.matrix) == 10
    assert Plan.read(path, {"plant": {"seed": 4}}).plant.seed == 4


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"data": None}, UsageError, "needs a value for data"),
        ({"data": "digitss"}, UnknownName, "No dataset is named 'digitss'. Did you mean digits"),
        ({"data": "digits:tset=3"}, UnknownName, "Did you mean test"),
        ({"data": 5}, UsageError, "data = 5"),
        ({"net": "mpl"}, UnknownName, "Did you mean mlp"),
        ({"net": "mlp:width=3"}, UnknownName, "Did you mean widths"),
        ({"sed": 3}, UnknownName, "Did you mean seed"),
        ({"epochs": 3}, UnknownName, "Did you mean recipe.epochs"),
        ({"seed": True}, UsageError, "seed = True"),
        ({"seed": "3"}, UsageError, "seed = '3'"),
        ({"seed": -1}, UsageError, "seed=-1"),
        ({"recipe": {"epoch": 3}}, UnknownName, "Did you mean epochs"),
        ({"recipe": {"lr": "fast"}}, UsageError, "lr='fast'"),
        ({"recipe": {"optimizer": "sdg"}}, UsageError, "one of sgd, adam, adamw"),
        ({"recipe": {"seed": 3}}, UsageError, "outside the recipe"),
        ({"recipe": {"gamma": 0.5}}, UsageError, "gamma=0.5 has no meaning with schedule 'constant'"),
        ({"plant": {"kind": "unifrm"}}, UsageError, "'uniform', 'pair', 'class', 'human', 'blur'"),
        ({"plant": {"rate": True}}, UsageError, "plant.rate = True"),
        ({"plant": {"rat": 0.1}}, UnknownName, "Did you mean plant.rate"),
        ({"plant": {"kind": "class", "rate": None, "matrix": [[1, "a"]]}}, UsageError, "plant.matrix.0.1 = 'a'"),
        ({"record": {"view": "evl"}}, UsageError, "record.view='evl' is neither 'train' .* nor 'eval'"),
        ({"record": {"keeplogits": True}}, UnknownName, "Did you mean record.keep_logits"),
        ({"record": {"checkpoints": "often"}}, UsageError, "'every', 'last', 'none' or a list of epochs"),
        ({"record": {"checkpoints": [0, 3]}}, UsageError, r"some of the 3 epochs, 0\.\.2"),
        ({"record": {"checkpoints": []}}, UsageError, "some of the 3 epochs"),
        ({"record": {"live": ["tdd"]}}, UnknownName, "Did you mean tdds"),
        ({"record": {"live": ["aum", "aum:epochs=none"]}}, UsageError, "names a method twice"),
        ({"record": {"live": "aum"}}, UsageError, "record.live='aum'"),
        ({"record": {"live": 5}}, UsageError, r"record.live= is 5; give a list of texts\.$"),
        ({"record": {"view": 3}}, UsageError, r"record.view= is 3; give 'train' or 'eval'\.$"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_in_one_sentence(changed, kind, words):
    with pytest.raises(kind, match=words) as caught:
        plan(**changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"test": 3}, "needs a name"),
        ({"name": "table", "path": "a,b.csv", "label": "y"}, "path must be .* without a comma"),
        ({"name": "table", "path": "a.csv", "label": "y", "drop": ["a", "b"]}, "drop must be"),
    ],
)
def test_a_table_of_data_holds_a_name_and_plain_options(table, words):
    # Not through `settings`, which merges tables.
    with pytest.raises(UsageError, match=words):
        Plan.make({"data": table})


@pytest.mark.parametrize(("text", "words"), [("data = ", "no readable TOML"), ("seed = 3", "needs a value for data")])
def test_a_bad_file_is_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        Plan.read(written(tmp_path, text))


def test_an_absent_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        Plan.read(tmp_path / "plan.toml")
    with pytest.raises(UsageError, match="no readable TOML"):
        Plan.read(tmp_path)


def test_planting_keeps_the_truth_aside():
    loaded = plan().load()
    assert int(loaded.wrong.sum()) == round(0.1 * len(loaded.train))
    assert plan(plant=None).load().wrong is None
    assert int(plan(plant={"rate": 0.0}).load().wrong.sum()) == 0
    again = plan(plant={"seed": 7}).load()
    assert not torch.equal(again.wrong, loaded.wrong) and torch.equal(again.true_labels, loaded.true_labels)


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"kind": "uniform", "rate": None}, "take a rate"),
        ({"kind": "class", "rate": 0.1}, "take a matrix"),
        ({"rate": 1.5}, "outside 0..1"),
    ],
)
def test_planting_that_does_not_fit_is_refused(planted, words):
    with pytest.raises(UsageError, match=words):
        plan(plant=planted).load()


def test_data_with_a_known_truth_are_not_planted_once_more(tmp_path):
    import numpy as np

    rows, labels = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    np.savez(tmp_path / "two.npz", inputs=rows, labels=labels, true_labels=labels[::-1])
    spec = f"arrays:path={tmp_path / 'two.npz'},test=0.2"
    assert bool(plan(data=spec, plant=None).load().wrong.all())
    with pytest.raises(UsageError, match="already has wrong labels with a known truth"):
        plan(data=spec).load()


def test_momentum_is_for_sgd_only():
    assert plan().training.momentum == 0.9
    assert plan(recipe={"optimizer": "adam"}).training.momentum == 0.0


def test_crop_and_flip_are_refused_on_rows(tmp_path):
    import numpy as np

    np.savez(tmp_path / "rows.npz", inputs=np.eye(10), labels=np.arange(10) % 2)
    made = plan(data=f"arrays:path={tmp_path / 'rows.npz'},test=0.2", plant=None, recipe={"flip": True})
    with pytest.raises(UsageError, match="Crops and flips need images"):
        made.augmentation(made.load(), 0)


def test_settings_of_the_tests_are_a_plan():
    assert Plan.make(settings()).training.epochs == 3


def test_a_subset_takes_part_before_anything_is_held_out_or_planted():
    whole, half = (plan(subset=part, validation=0.2).load() for part in (1.0, 0.5))
    every = set(whole.train.ids) | set(whole.validation.ids)
    taken = set(half.train.ids) | set(half.validation.ids)
    assert taken < every and abs(len(taken) - len(every) / 2) <= 10
    assert len(half.validation) == round(0.2 * len(taken)) and half.wrong.float().mean() == pytest.approx(0.1, abs=0.01)
    assert half.test.ids == whole.test.ids
    smaller = plan(subset=0.25).load().train
    assert set(smaller.ids) < set(plan(subset=0.5).load().train.ids)
    with pytest.raises(UsageError, match=r"subset = 0\.0 is outside"):
        plan(subset=0.0)


def test_a_setting_of_before_is_read_under_its_new_name():
    old = Plan.make({"data": "digits", "recipe": {"ragged": "even"}})
    assert old.training.last_batch == "even" and old == Plan.make({"data": "digits", "recipe": {"last_batch": "even"}})


def test_a_plan_that_names_a_function_for_a_method_that_cannot_run_live_runs_no_code(tmp_path, monkeypatch):
    (tmp_path / "evil_output.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"trak:output=evil_output\.f cannot run live"):
        Plan.make({"data": "digits", "record": {"live": ["trak:output=evil_output.f"]}})
    assert "evil_output" not in sys.modules
