import json
import math

import numpy as np
import pytest
import torch

from assay.core.accumulators import AbstractAccumulator
from assay.core.errors import Mismatch, NumericalError, OutputExists, RunError, UsageError
from assay.core.ids import Ids
from assay.core.needs import Need
from assay.core.scoring import score
from assay.experiments.evidence import gather, gather_logits
from assay.methods import catalogue
from assay.methods.aum import AUM
from assay.methods.dual import DUAL
from assay.methods.entropy import Entropy
from assay.methods.tdds import TDDS
from assay.replay.live_methods import LiveMethods, live_state
from assay.runs import observations
from assay.runs.recorder import Origin, Recorder
from assay.runs.recording import Recording
from assay.runs.run import Run
from assay.runs.schema import here as schema_here
from runs.worlds import (
    BATCH,
    CLASSES,
    EXAMPLES,
    IDS,
    LABELS,
    LIVE,
    assert_holds,
    logits_of,
    order_of,
    play,
    recorded,
    state_of,
)
from settings import grouped_recorder


def observe_all(recorder, logits=None, labels=LABELS):
    recorder.begin()
    recorder.observe(torch.arange(EXAMPLES), logits_of(0) if logits is None else logits, labels)


@pytest.mark.parametrize("flush", [1, 7 * CLASSES * 4, observations.FLUSH_BYTES])
def test_every_fact_is_that_of_a_computation_by_hand_in_the_order_of_the_ids(tmp_path, monkeypatch, flush):
    monkeypatch.setattr(observations, "FLUSH_BYTES", flush)
    recorded(tmp_path, 3)
    run = Run(tmp_path)
    assert run.epochs == 3 and run.ids == IDS and torch.equal(run.labels, LABELS) and run.class_names == ("0", "1", "2", "3")
    for epoch in range(3):
        assert_holds(run.shard(epoch), logits_of(epoch), LABELS)
        assert all(run.shard(epoch).read(need.value).dtype in (torch.float32, torch.bool) for need in run.holds)


def test_order_batches_and_rates_are_kept(tmp_path):
    recorded(tmp_path, 2)
    run = Run(tmp_path)
    for epoch in range(2):
        batches = order_of(epoch).split(BATCH)
        assert [batch.tolist() for batch in run.order(epoch)] == [batch.tolist() for batch in batches]
        assert run.rates(epoch).tolist() == [[0.5**epoch, step] for step in range(len(batches))]


def test_an_epoch_without_steps_has_an_empty_order(tmp_path):
    with Recorder(tmp_path, IDS, Recording(view="eval")) as recorder:
        observe_all(recorder)
        recorder.commit()
    run = Run(tmp_path)
    assert run.order(0) == [] and run.rates(0).numel() == 0 and run.check() == 12
    assert_holds(run.shard(0), logits_of(0), LABELS)


@pytest.mark.parametrize(
    ("checkpoints", "kept"), [("every", [0, 1, 2, 3]), ("last", [2, 3]), ("none", []), ([0, 2], [0, 2, 3]), (range(1), [0, 2, 3])]
)
def test_checkpoints_are_kept_as_asked(tmp_path, checkpoints, kept):
    recorded(tmp_path, 4, checkpoints=checkpoints)
    run = Run(tmp_path)
    assert run.checkpoints() == kept
    assert len(list(tmp_path.glob("checkpoints/*"))) == len(kept)
    for epoch in kept:
        file = run.checkpoint(epoch)
        assert file.notes == {"epoch": str(epoch)} and file.read_all().keys() == state_of(epoch).keys()
        assert all(torch.equal(file.read(name), tensor) for name, tensor in state_of(epoch).items())
    for epoch in set(range(4)) - set(kept):
        with pytest.raises(RunError, match=f"no checkpoint of epoch {epoch}"):
            run.checkpoint(epoch)


def test_logits_and_mean_probs_are_kept_when_asked_for_only(tmp_path):
    recorded(tmp_path / "with", 3, keep_logits=True)
    recorded(tmp_path / "without", 3, mean_probs=False)
    run, bare = Run(tmp_path / "with"), Run(tmp_path / "without")
    assert all(torch.equal(run.shard(epoch).read("logits"), logits_of(epoch)) for epoch in range(3))
    by_hand = torch.stack([logits_of(epoch).double().softmax(1) for epoch in range(3)]).mean(0)
    torch.testing.assert_close(run.mean_probs(), by_hand, rtol=0, atol=1e-6)
    assert run.mean_probs().dtype == torch.float64
    assert bare.mean_probs() is None and Need.LOGITS not in bare.holds and Need.LOGITS in run.holds
    assert not (tmp_path / "without/sums").exists()


def test_what_is_superseded_is_taken_away(tmp_path):
    recorded(tmp_path, 5, live=LiveMethods(LIVE))
    for folder in ("sums", "live", "checkpoints"):
        assert sorted(path.name for path in tmp_path.glob(f"{folder}/*")) == [f"epoch-00000{e}.safetensors" for e in (3, 4)]


@pytest.mark.parametrize("stops", [[6], [1, 2, 4, 6], [0, 5, 5, 6]])
def test_live_scores_equal_those_of_the_stored_logits(tmp_path, stops):
    short = {"window": 3, "at": 2}
    live = [TDDS(window=3, epochs=5), DUAL(window=2), AUM(epochs=4), Entropy(), Entropy(at=1)]
    for cls in catalogue().values():
        if issubclass(cls, AbstractAccumulator):
            live.append(cls(**{name: value for name, value in short.items() if name in cls.__dataclass_fields__}))
    for stop in stops:
        with Recorder(tmp_path, IDS, live=LiveMethods(live), resume=True) as recorder:
            play(recorder, stop)
    recorded(tmp_path / "stored", 6, keep_logits=True)
    run = Run(tmp_path)
    assert Need.LOGITS not in run.holds
    stored = score(live, gather(Run(tmp_path / "stored")))
    in_memory = score(live, gather_logits(IDS, torch.stack([logits_of(epoch) for epoch in range(6)]), LABELS))
    for method, *others in zip(live, stored, in_memory, strict=True):
        state = live_state(run, method)
        assert state is not None
        for scores in others:
            torch.testing.assert_close(method.compute(state), scores.values, rtol=0, atol=1e-12)
    assert live_state(run, DUAL(window=4)) is None


def test_equal_recordings_have_equal_fingerprints_whenever_and_wherever_they_are_made(tmp_path):
    recorded(tmp_path / "one", 3)
    for stop in (1, 3):
        with Recorder(tmp_path / "two", IDS, resume=True) as recorder:
            play(recorder, stop)
    recorded(tmp_path / "shorter", 2)
    one, two, shorter = (Run(tmp_path / name).fingerprint for name in ("one", "two", "shorter"))
    assert one == two != shorter
    with Recorder(tmp_path / "shorter", IDS, resume=True) as recorder:
        recorder.begin()
        recorder.observe(torch.arange(EXAMPLES), logits_of(2).nextafter(torch.tensor(9.0)), LABELS)
        recorder.commit()
    assert Run(tmp_path / "shorter").fingerprint != one


def test_half_precision_logits_are_taken_as_they_are(tmp_path):
    logits = logits_of(0).to(torch.bfloat16)
    with Recorder(tmp_path, IDS) as recorder:
        observe_all(recorder, logits, LABELS.to(torch.uint8))
        recorder.commit()
    assert_holds(Run(tmp_path).shard(0), logits.float(), LABELS)


def test_the_loop_may_reuse_its_memory(tmp_path):
    with Recorder(tmp_path, IDS) as recorder:
        recorder.begin()
        logits, labels = torch.empty(1, CLASSES), torch.empty(1, dtype=torch.int64)
        for position in range(EXAMPLES):
            logits[0], labels[0] = logits_of(0)[position], LABELS[position]
            recorder.observe(torch.tensor([position]), logits, labels)
        recorder.commit()
    assert_holds(Run(tmp_path).shard(0), logits_of(0), LABELS)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_named_and_the_epochs_before_stay(tmp_path, bad):
    with Recorder(tmp_path, IDS) as recorder:
        play(recorder, 2)
        logits = logits_of(2)
        logits[4, 1] = logits[9, 0] = bad
        observe_all(recorder, logits)
        with pytest.raises(NumericalError, match=r"Epoch 2: logits of 2 .* ids picture 04, picture 09") as caught:
            recorder.commit()
        assert caught.value.exit_code == 6
        # Going on regardless does not make the epoch whole.
        with pytest.raises(UsageError, match="23 of 23 ids were not visited"):
            recorder.commit()
    assert Run(tmp_path).epochs == 2 and Run(tmp_path).check()


def test_masked_classes_of_minus_infinity_are_right(tmp_path):
    masked = torch.zeros(EXAMPLES, CLASSES, dtype=torch.bool)
    masked[4, (LABELS[4] + 1) % CLASSES] = masked[9, (LABELS[9] + 2) % CLASSES] = True
    with Recorder(tmp_path, IDS) as recorder:
        recorder.begin()
        observe_all(recorder, logits_of(0).masked_fill(masked, -torch.inf))
        recorder.commit()
    run = Run(tmp_path)
    # By hand, with a number that no float32 tells from -inf in a softmax.
    assert_holds(run.shard(0), logits_of(0).masked_fill(masked, -1e4), LABELS)
    probs = logits_of(0).double().masked_fill(masked, -torch.inf).softmax(1)
    torch.testing.assert_close(run.mean_probs(), probs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda logits: logits[4].scatter_(0, LABELS[4:5], -torch.inf),
            "are -inf for the given label: the class is masked; ids picture 04",
        ),
        (
            lambda logits: logits[4].copy_(torch.full((CLASSES,), -torch.inf).scatter(0, LABELS[4:5], 1.0)),
            "are -inf for every class but the label, so that no margin is finite; ids picture 04",
        ),
        (lambda logits: logits[4].fill_(-torch.inf), "are -inf for the given label"),
        (lambda logits: logits[4].copy_(torch.tensor([-3e38, 3e38, 0, 0])), "overflow in float32; ids picture 04"),
    ],
    ids=["label", "others", "all", "large"],
)
def test_logits_that_no_facts_can_be_made_of_are_refused_with_their_cause(tmp_path, change, words):
    with Recorder(tmp_path, IDS) as recorder:
        play(recorder, 1)
        recorder.begin()
        logits = logits_of(1)
        change(logits)
        observe_all(recorder, logits)
        with pytest.raises(NumericalError, match=words):
            recorder.commit()
    assert Run(tmp_path).epochs == 1


def test_numbers_too_large_for_float32_are_told_from_infinite_ones(tmp_path):
    with Recorder(tmp_path, IDS) as recorder:
        recorder.begin()
        logits = logits_of(0).double()
        logits[4, 1] = 1e300
        observe_all(recorder, logits)
        with pytest.raises(NumericalError, match="overflow in float32; ids picture 04"):
            recorder.commit()


@pytest.mark.parametrize("margin", [10, 17, 30, 40])
def test_near_certain_examples_keep_their_losses(tmp_path, margin):
    logits = torch.zeros(EXAMPLES, CLASSES).scatter(1, LABELS[:, None], float(margin))
    with Recorder(tmp_path, IDS) as recorder:
        recorder.begin()
        observe_all(recorder, logits)
        recorder.commit()
    shard = Run(tmp_path).shard(0)
    rest = math.log1p((CLASSES - 1) * math.exp(-margin))
    torch.testing.assert_close(
        shard.read("losses").double(), torch.full((EXAMPLES,), rest, dtype=torch.float64), rtol=1e-5, atol=0
    )
    p = math.exp(-margin) / (1 + (CLASSES - 1) * math.exp(-margin))
    norm = p * math.sqrt((CLASSES - 1) ** 2 + CLASSES - 1)
    torch.testing.assert_close(
        shard.read("error_norms").double(), torch.full((EXAMPLES,), norm, dtype=torch.float64), rtol=1e-5, atol=0
    )
    entropy = rest * (1 - (CLASSES - 1) * p) + (CLASSES - 1) * p * (margin + rest)
    torch.testing.assert_close(
        shard.read("entropies").double(), torch.full((EXAMPLES,), entropy, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_no_finite_logits_are_a_loss_of_nothing(tmp_path):
    logits = torch.zeros(EXAMPLES, CLASSES).scatter(1, LABELS[:, None], 1e6)
    with Recorder(tmp_path, IDS) as recorder:
        recorder.begin()
        observe_all(recorder, logits)
        recorder.commit()
    losses = Run(tmp_path).shard(0).read("losses")
    assert bool((losses > 0).all()) and bool((losses < 1e-37).all())


def test_probabilities_given_as_logits_are_noticed_once_and_their_logarithms_are_not(tmp_path):
    probs = logits_of(0).softmax(1)
    with Recorder(tmp_path / "probs", IDS) as recorder:
        recorder.begin()
        with pytest.warns(
            UserWarning, match="are probabilities .* give recorder.batch what the model computes before its softmax"
        ) as said:
            observe_all(recorder, probs)
        assert len(said) == 1
        recorder.commit()
        recorder.begin()
        observe_all(recorder, probs)
    with Recorder(tmp_path / "logs", IDS) as recorder:
        recorder.begin()
        observe_all(recorder, probs.log())


STATES = {
    "weights": ({"model/weight": torch.tensor([1.0, torch.nan])}, "1 tensors .*model/weight"),
    "momentum": ({"optimizer/state/0/exp_avg": torch.tensor([torch.inf])}, "optimizer/state/0/exp_avg"),
    "new mask": ({"model/mask": torch.tensor([-torch.inf]), "model/weight": torch.ones(1)}, "model/mask"),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("resumed", [False, True])
def test_an_epoch_whose_state_is_not_finite_is_not_committed(tmp_path, name, resumed):
    state, words = STATES[name]
    start = {"model/weight": torch.zeros(2), "model/causal": torch.tensor([-torch.inf])}
    fine = {"model/weight": torch.ones(2), "model/causal": torch.tensor([-torch.inf])}
    recorder = Recorder(tmp_path, IDS)
    recorder.start(start)
    recorder.begin()
    observe_all(recorder, logits_of(0))
    recorder.commit(fine)
    if resumed:
        recorder.close()
        recorder = Recorder(tmp_path, IDS, resume=True)
    recorder.begin()
    observe_all(recorder, logits_of(1))
    with pytest.raises(NumericalError, match=f"Epoch 1: after its last step .*{words}.* the run ends with epoch 0, from which"):
        recorder.commit({**fine, **state})
    recorder.close()
    assert Run(tmp_path).epochs == 1
    with Recorder(tmp_path, IDS, resume=True) as recorder:
        recorder.begin()
        observe_all(recorder, logits_of(1))
        recorder.commit(fine)
    assert Run(tmp_path).epochs == 2


def test_large_tables_of_probabilities_are_kept_when_asked_for_only(tmp_path, monkeypatch):
    monkeypatch.setattr("assay.runs.observations.SMALL", EXAMPLES * CLASSES - 1)
    with pytest.warns(UserWarning, match=r"mean probabilities are not kept, because 23 examples of 4 classes .*mean_probs=True"):
        recorded(tmp_path / "default", 2)
    recorded(tmp_path / "asked", 2, mean_probs=True)
    recorded(tmp_path / "not", 2, mean_probs=False)
    run = Run(tmp_path / "default")
    assert not run.header.mean_probs and run.mean_probs() is None and not (tmp_path / "default/sums").exists()
    assert Run(tmp_path / "asked").mean_probs() is not None and Run(tmp_path / "not").mean_probs() is None
    assert run.fingerprint == Run(tmp_path / "not").fingerprint
    # A resumed run goes on as it was begun, silently.
    recorded(tmp_path / "default", 3, resume=True)
    recorded(tmp_path / "asked", 3, resume=True)
    assert Run(tmp_path / "default").mean_probs() is None and Run(tmp_path / "asked").mean_probs() is not None
    monkeypatch.undo()
    recorded(tmp_path / "small", 1)
    assert Run(tmp_path / "small").mean_probs() is not None


LABEL_MISTAKES = {
    "too large": (LABELS + 1, r"labels are outside 0\.\.3 \(4\); ids picture 01"),
    "ignored": (torch.where(LABELS == 2, -100, LABELS), r"labels are outside 0\.\.3 \(-100\)"),
    "floats": (LABELS.float(), r"labels are torch.float32 of shape \(23,\)"),
    "one-hot": (torch.nn.functional.one_hot(LABELS), r"labels are torch.int64 of shape \(23, 4\)"),
    "soft": (torch.rand(EXAMPLES, CLASSES), "Soft and mixed labels cannot be recorded"),
    "booleans": (LABELS > 0, "labels are torch.bool"),
    "none": (None, "labels are NoneType"),
    "a list": (LABELS.tolist(), "labels are list"),
    "one class": (torch.full_like(LABELS, 2), "All 23 labels are class 2"),
}


@pytest.mark.parametrize("mistake", LABEL_MISTAKES)
def test_wrong_labels_are_refused(tmp_path, mistake):
    labels, words = LABEL_MISTAKES[mistake]
    with Recorder(tmp_path, IDS) as recorder, pytest.raises(UsageError, match=words) as caught:
        observe_all(recorder, labels=labels)
        recorder.commit()
    assert ("\n" not in str(caught.value) and "Epoch 0" in str(caught.value)) or mistake == "one class"
    with pytest.raises(RunError, match="no committed epoch"):
        Run(tmp_path)


LOGIT_MISTAKES = {
    "no output": (torch.zeros(EXAMPLES, 0), "The model has 0 outputs"),
    "one output": (
        torch.zeros(EXAMPLES, 1),
        "the model has 1 output.* labels are torch.int64 with values such as 2, 3; give 0 or 1",
    ),
    "one axis": (torch.zeros(EXAMPLES), "the model has 1 output"),
    "one number": (torch.zeros(()), r"logits of shape \(\)"),
    "three axes": (torch.zeros(EXAMPLES, 2, CLASSES), r"logits of shape \(23, 2, 4\)"),
    "too few rows": (torch.zeros(EXAMPLES - 1, CLASSES), r"logits of shape \(22, 4\)"),
    "array": (np.zeros((EXAMPLES, CLASSES)), "logits are ndarray; give the torch tensor"),
    "none": ((), "logits are tuple"),
}


@pytest.mark.parametrize("mistake", LOGIT_MISTAKES)
def test_wrong_logits_are_refused(tmp_path, mistake):
    logits, words = LOGIT_MISTAKES[mistake]
    with Recorder(tmp_path, IDS) as recorder, pytest.raises(UsageError, match=words):
        observe_all(recorder, logits)


def test_a_label_that_changes_between_epochs_is_refused(tmp_path):
    with Recorder(tmp_path, IDS) as recorder:
        play(recorder, 1)
        changed = LABELS.clone()
        changed[5] = (changed[5] + 1) % CLASSES
        observe_all(recorder, labels=changed)
        words = rf"Epoch 1: the label of id picture 05 was {LABELS[5]} and is now {changed[5]}"
        with pytest.raises(UsageError, match=words):
            recorder.commit()


@pytest.mark.parametrize("flush", [1, observations.FLUSH_BYTES])
def test_missing_and_repeated_ids_are_refused(tmp_path, monkeypatch, flush):
    monkeypatch.setattr(observations, "FLUSH_BYTES", flush)
    with Recorder(tmp_path, IDS) as recorder:
        positions = torch.arange(EXAMPLES)[3:]
        recorder.begin()
        recorder.observe(positions, logits_of(0)[positions], LABELS[positions])
        with pytest.raises(UsageError, match=r"3 of 23 ids were not visited: picture 00, picture 01, picture 02"):
            recorder.commit()
        recorder.begin()
        twice = torch.cat([torch.arange(EXAMPLES), torch.tensor([4, 4, 8])])
        with pytest.raises(UsageError, match=r"2 ids came more than once: picture 04, picture 08"):
            recorder.observe(twice, logits_of(0)[twice], LABELS[twice])
            recorder.commit()
        recorder.begin()
        with pytest.raises(UsageError, match=r"positions -1\.\.23 are outside 0\.\.22"):
            recorder.observe(torch.tensor([-1, 23]), logits_of(0)[:2], LABELS[:2])
            recorder.commit()
        play(recorder, 1)
    assert Run(tmp_path).epochs == 1


def test_the_number_of_classes_is_one(tmp_path):
    with Recorder(tmp_path / "a", IDS, class_names=["a", "b", "c"]) as recorder:
        with pytest.raises(UsageError, match="3 class names do not fit a model with 4 outputs"):
            observe_all(recorder)
        # The refused epoch leaves nothing behind: another model may be recorded.
        observe_all(recorder, logits_of(0)[:, :3], LABELS % 3)
        with pytest.raises(UsageError, match="has 5 outputs, it had 3 before"):
            recorder.observe(torch.tensor([0]), torch.zeros(1, 5), LABELS[:1])
        recorder.commit()
    assert Run(tmp_path / "a").class_names == ("a", "b", "c")
    with Recorder(tmp_path / "b", IDS) as recorder:
        play(recorder, 1)
        with pytest.raises(UsageError, match="has 5 outputs, it had 4 before"):
            observe_all(recorder, torch.zeros(EXAMPLES, 5))


SETTINGS = {
    "view": ({"view": "test"}, "view='test' is neither"),
    "checkpoints": ({"checkpoints": "all"}, "checkpoints='all'"),
    "a number": ({"checkpoints": 3}, "checkpoints= is 3; give"),
    "words": ({"checkpoints": ["last"]}, r"checkpoints=\['last'\]"),
    "before 0": ({"checkpoints": [2, -1]}, r"checkpoints=\[2, -1\]"),
    "half a seed": ({"seed": 0.5}, "seed= is 0.5; give a whole number"),
    "about": ({"about": {"model": torch.nn.Linear(1, 1)}}, "about= cannot be written as JSON"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_outside_their_range_are_refused_and_leave_no_run(tmp_path, setting):
    settings, words = SETTINGS[setting]
    with pytest.raises(UsageError, match=words):
        Recorder(tmp_path / "run", IDS, **grouped_recorder(settings))
    recorded(tmp_path / "run", 1)
    with pytest.raises(UsageError, match="no examples"):
        Recorder(tmp_path / "none", Ids([]))


def test_integers_of_numpy_are_integers(tmp_path):
    with Recorder(tmp_path, IDS, Recording(checkpoints=np.array([2, 0])), origin=Origin(seed=np.int64(3))) as recorder:
        play(recorder, 1)
    with Recorder(tmp_path, IDS, Recording(checkpoints=[0, 2]), origin=Origin(seed=3), resume=True) as recorder:
        play(recorder, 3)
    run = Run(tmp_path)
    assert run.header.checkpoints == (0, 2) and run.checkpoints() == [0, 1, 2]


def test_the_header_says_what_was_asked(tmp_path):
    about = {"net": "a café’s net", "rates": [0.1, float("inf")], "nested": {"1": None}}
    with Recorder(
        tmp_path, IDS, origin=Origin(seed=7, about=about, code="1.2", device="cuda:1"), class_names=list("abcd")
    ) as recorder:
        play(recorder, 1)
    header = Run(tmp_path).header
    assert header.about == about and header.code == "1.2" and header.device == "cuda:1"
    assert (header.seed, header.view, header.examples) == (7, "train", EXAMPLES)
    assert json.loads((tmp_path / "run.json").read_text())["format"] == "assay-run"


def test_a_folder_in_which_nothing_was_recorded_is_free_again(tmp_path):
    folder = tmp_path / "run"
    with Recorder(folder, IDS, Recording(keep_logits=True)) as first:
        with pytest.raises(RunError, match="is being written by another process"):
            Recorder(folder, IDS)
        first.begin()
    assert (folder / "run.json").exists()
    # Another way of recording is no mismatch, for there is nothing to go on with.
    with Recorder(folder, IDS, Recording(view="eval")) as second:
        assert second.header.view == "eval" and not second.header.keep_logits
    (folder / "truth.parquet").write_bytes(b"")
    with pytest.raises(OutputExists, match="already holds a run"):
        Recorder(folder, IDS)


def test_nothing_is_overwritten_unasked(tmp_path):
    recorded(tmp_path / "run", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = Run(tmp_path / "run").fingerprint
    for place, words in [("run", "already holds a run"), ("other", "is not empty and holds no run"), ("file", "is a file")]:
        with pytest.raises(OutputExists, match=words) as caught:
            Recorder(tmp_path / place, IDS)
        assert caught.value.exit_code == 2
    assert Run(tmp_path / "run").fingerprint == before
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]
    for place in ("other", "file"):
        with pytest.raises(OutputExists):
            Recorder(tmp_path / place, IDS, resume=True)


OTHERWISE = {
    "view": {"view": "eval"},
    "keep_logits": {"keep_logits": True},
    "mean_probs": {"mean_probs": False},
    "checkpoints": {"checkpoints": "every"},
    "seed": {"seed": 2},
    "live": {"live": LiveMethods((DUAL(),))},
    "class_names": {"class_names": ["a", "b", "c", "d"]},
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_run_is_resumed_as_it_was_begun(tmp_path, name):
    recorded(tmp_path, 1, seed=1)
    # Methods may join until the first epoch begins, so what runs along is held against the run there.
    otherwise = {"seed": 1, **OTHERWISE[name]}
    with (
        pytest.raises(Mismatch, match=f"{name}") as caught,
        Recorder(tmp_path, IDS, **grouped_recorder({**otherwise, "resume": True})) as recorder,
    ):
        recorder.begin()
    assert caught.value.exit_code == 4
    # The refusal let go of the lock.
    with Recorder(tmp_path, IDS, origin=Origin(seed=1), resume=True) as recorder:
        play(recorder, 2)


@pytest.mark.parametrize(
    "ids", [Ids(range(EXAMPLES)), IDS.take(range(EXAMPLES)[::-1]), Ids([*[*IDS][1:], "another"]), IDS.take(range(5))]
)
def test_a_run_is_resumed_with_the_same_ids(tmp_path, ids):
    recorded(tmp_path, 1)
    with pytest.raises(Mismatch, match=r"ids|examples=23"):
        Recorder(tmp_path, ids, resume=True)


def test_resume_without_a_run_begins_one(tmp_path):
    recorded(tmp_path / "new", 2, resume=True)
    assert Run(tmp_path / "new").epochs == 2


def test_begin_forgets_an_epoch_that_was_not_committed(tmp_path):
    with Recorder(tmp_path, IDS, live=LiveMethods(LIVE)) as recorder:
        play(recorder, 1)
        for _ in range(3):
            recorder.begin()
            recorder.step(torch.tensor([1, 2]), [9.0])
            recorder.observe(torch.tensor([1, 2]), torch.full((2, CLASSES), 9.0), LABELS[1:3])
        play(recorder, 3)
    recorded(tmp_path / "plain", 3, live=LiveMethods(LIVE))
    assert Run(tmp_path).fingerprint == Run(tmp_path / "plain").fingerprint


def test_one_process_does_not_write_a_run_twice_at_once(tmp_path):
    with Recorder(tmp_path, IDS) as recorder:
        play(recorder, 1)
        with pytest.raises(RunError, match="being written"):
            Recorder(tmp_path, IDS, resume=True)
        assert Run(tmp_path).epochs == 1
    Recorder(tmp_path, IDS, resume=True).close()


def test_a_run_that_is_resumed_elsewhere_says_what_may_differ(tmp_path, monkeypatch):
    recorded(tmp_path, 1)
    monkeypatch.setattr("assay.runs.recorder.here", lambda: {**schema_here(), "threads": 77, "torch": "1.0"})
    with pytest.warns(
        UserWarning, match=r"was recorded with torch .*, now 1\.0; threads \d+, now 77\. .*methods that replay the training"
    ):
        recorded(tmp_path, 2, resume=True)
    assert Run(tmp_path).epochs == 2
