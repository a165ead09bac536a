"""Runs of what somebody else saved: real files, every shape, and every refusal in one sentence."""

import re

import numpy as np
import pytest
import torch

import assay
from assay.core.errors import AssayError, Mismatch, MissingEvidence, OutputExists, UnknownName, UsageError
from assay.experiments.evidence import gather_logits
from assay.runs.run import Run

N, C, EPOCHS = 40, 3, 4
DRAW = np.random.default_rng(0)
LABELS = np.arange(N) % C
LOGITS = 2 * DRAW.normal(size=(EPOCHS, N, C))
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
NAMES = np.array(["ant", "bee", "cat"])[LABELS]
ONE_PASS = [
    "aum",
    "confidence",
    "correctness",
    "el2n:at=0",
    "entropy",
    "label_quality",
    "least_confidence",
    "loss",
    "margin",
    "mean_margin",
    "threshold_closeness",
]


@pytest.fixture
def parquet(tmp_path):
    """Three epochs in one file, whose rows come in another order each time."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    parts = []
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(N)
        columns = {"id": [f"row-{i}" for i in order], "label": NAMES[order], "epoch": np.full(N, 10 * epoch)}
        columns |= {f"prob_{name}": PROBS[epoch][order][:, k] for k, name in enumerate(("ant", "bee", "cat"))}
        parts.append(pa.table(columns))
    pq.write_table(pa.concat_tables(parts[::-1]), tmp_path / "probs.parquet", row_group_size=16)
    return tmp_path / "probs.parquet"


def test_scores_are_those_of_the_logits_that_the_probabilities_came_from(tmp_path):
    run = assay.from_probs(tmp_path / "run", PROBS, LABELS, "evaluation")
    assert run.epochs == EPOCHS and run.header.view == "eval" and run.passes.kind == "evaluation"
    methods = [*ONE_PASS, "forgetting", "variability", "dual:window=3", "tdds:window=3", "dyn_unc:window=3"]
    found = assay.score(run, methods)
    wanted = assay.score(gather_logits(run.ids, torch.from_numpy(LOGITS), torch.from_numpy(LABELS)), methods)
    for title in methods:
        assert torch.allclose(found[title].values, wanted[title].values, atol=1e-5), title
    # By hand, once.
    assert np.allclose(found["confidence"].values, PROBS[:, np.arange(N), LABELS].mean(0), atol=1e-6)
    assert np.allclose(Run(tmp_path / "run").mean_probs(), PROBS.mean(0), atol=1e-6)


def test_what_needs_a_model_is_refused_with_what_works_instead(tmp_path):
    run = assay.from_probs(tmp_path / "run", PROBS[:1], LABELS, "out_of_fold")
    scores = assay.score(run, "confidence")["confidence"]
    for ask in (lambda: assay.cleanse(run, scores), lambda: assay.lds(run, ["tracin"], grid=assay.LeaveOutGrid(other_seeds=1))):
        with pytest.raises(
            MissingEvidence, match=r"holds predictions only, .* assay\.from_checkpoints, or record the training\.$"
        ):
            ask()
    with pytest.raises(UsageError, match=r"was made of saved probabilities, whose data assay does not know"):
        assay.score(run, "knn_shapley:target=others,features=inputs")


@pytest.mark.parametrize("shape", ["array", "tensor", "half", "list of arrays", "iterator", "nested lists", "npy", "npy each"])
def test_every_shape_gives_the_same_run(tmp_path, shape):
    np.save(tmp_path / "all.npy", LOGITS)
    each = []
    for epoch, rows in enumerate(LOGITS):
        np.save(tmp_path / f"{epoch}.npy", np.asfortranarray(rows))
        each.append(tmp_path / f"{epoch}.npy")
    made = {
        "array": LOGITS,
        "tensor": torch.from_numpy(LOGITS),
        "half": torch.from_numpy(LOGITS).to(torch.bfloat16),
        "list of arrays": list(LOGITS),
        "iterator": iter(LOGITS),
        "nested lists": [rows.tolist() for rows in LOGITS],
        "npy": tmp_path / "all.npy",
        "npy each": each,
    }[shape]
    run = assay.from_logits(tmp_path / "run", made, LABELS, "training")
    assert run.epochs == EPOCHS and run.header.view == "train"
    near = 0.05 if shape == "half" else 1e-6
    for epoch in range(EPOCHS):
        assert np.allclose(run.shard(epoch).read("logits"), LOGITS[epoch], atol=near)


def test_one_pass_by_rows_and_labels_by_name_and_by_file(tmp_path):
    np.save(tmp_path / "y.npy", NAMES)
    np.save(tmp_path / "ids.npy", np.array([f"id{i}" for i in range(N)]))
    run = assay.from_probs(tmp_path / "run", PROBS[0].tolist(), tmp_path / "y.npy", "held_out", ids=str(tmp_path / "ids.npy"))
    assert run.class_names == ("ant", "bee", "cat") and run.labels.tolist() == LABELS.tolist() and run.ids[3] == "id3"
    # Names in the order of the columns, which need not be that of the alphabet.
    turned = assay.from_probs(tmp_path / "turned", PROBS[0][:, ::-1], NAMES, "held_out", class_names=["cat", "bee", "ant"])
    assert torch.equal(assay.score(turned, "aum")["aum"].values, assay.score(run, "aum")["aum"].values)


def test_only_one_pass_is_in_memory(tmp_path):
    alive = []

    def passes():
        for rows in LOGITS:
            # An iterator that reads ahead would have more than one out at a time.
            alive.append(len(alive))
            yield rows
            assert len(alive) <= len(list((tmp_path).glob(".run.*/run/epochs/*"))) + 2

    assert assay.from_logits(tmp_path / "run", passes(), LABELS, "evaluation").epochs == EPOCHS


def test_a_parquet_file_of_epochs(tmp_path, parquet):
    run = assay.from_probs(tmp_path / "run", parquet, kind="out_of_fold")
    assert run.epochs == 3 and run.class_names == ("ant", "bee", "cat") and set(run.ids) == {f"row-{i}" for i in range(N)}
    found = assay.score(run, ["aum", "forgetting"])
    plain = assay.score(assay.from_probs(tmp_path / "plain", PROBS[:3], LABELS, "out_of_fold"), ["aum", "forgetting"])
    order = [int(str(one).removeprefix("row-")) for one in found["aum"].ids]
    for title in ("aum", "forgetting"):
        assert torch.allclose(found[title].values, plain[title].values[order], atol=1e-6)
    # The columns that are named are the classes.
    two = assay.from_logits(tmp_path / "two", parquet, np.arange(N) % 2, "training", class_names=["prob_ant", "prob_bee"])
    assert two.class_names == ("prob_ant", "prob_bee")


def test_methods_say_what_the_passes_are_and_what_one_cannot_tell(tmp_path):
    one = assay.from_probs(tmp_path / "one", PROBS[0], LABELS, "out_of_fold", about={"net": "a forest"})
    table = assay.score(one, "all")
    assert set(table) == {"combine", *ONE_PASS} - {"el2n:at=0"}
    for scores in table.values():
        assert scores.diagnostics["made of"].startswith(
            "1 pass, out of fold: each example is predicted by a model that was trained on the other folds"
        )
    assert "reads one here" in table.refused["forgetting"] and "el2n:at=0, which fits" in table.refused["el2n"]
    assert "holds predictions only" in table.refused["grand"] and "assay.from_checkpoints" in table.refused["grand"]
    assert "steps of the training" in table.refused["sgd_influence"] and "from_checkpoints" not in table.refused["sgd_influence"]
    for method in ("forgetting", "variability", "grand", "sgd_influence"):
        with pytest.raises(MissingEvidence):
            assay.score(one, method)
    # The cure that is named for methods of the data works.
    assert "cg_score:features=rows:NAME" in table.refused["cg_score"]
    rows = torch.from_numpy(DRAW.normal(size=(N, 5)))
    assert (
        len(assay.score(one, ["knn_disagreement:features=rows:emb"], inputs={"emb": rows})["knn_disagreement:features=rows:emb"])
        == N
    )
    repeats = assay.from_probs(tmp_path / "repeats", PROBS, LABELS, "out_of_bag", repeats=True)
    assert "repeats without an order" in assay.score(repeats, "all").refused["forgetting"]
    assert assay.score(repeats, "variability")["variability"].diagnostics["made of"].startswith("4 repeated passes, out of bag")
    # Saved scores keep what they were made of.
    assay.score(one, "aum", save=True)
    assert "out of fold" in assay.load_scores(one.paths.scores("aum")).diagnostics["made of"]


def test_a_decision_a_page_and_new_labels_come_of_it(tmp_path):
    run = assay.from_probs(tmp_path / "run", PROBS[0], NAMES, "out_of_fold")
    table = assay.score(run, ["confidence", "aum"])
    dropped = assay.choose(table["confidence"], policy="remove_worst", count=5)
    worst = np.argsort(PROBS[0][np.arange(N), LABELS])[:5]
    assert set(np.setdiff1d(np.arange(N), dropped.kept_ids)) == set(worst)
    assert assay.choose(table["confidence"], policy="relabel", run=run, count=5) is not None
    page = assay.report(run, table, decision=dropped).read_text()
    assert "out of fold: each example is predicted by a model that was trained on the other folds" in page


def test_zeros_are_counted_and_said(tmp_path):
    votes = np.zeros((N, C))
    votes[np.arange(N), LABELS] = 0.75
    votes[np.arange(N), (LABELS + 1) % C] = 0.25
    with pytest.warns(UserWarning, match=r"up to 40 of 40 examples have a probability of 0, which counts as 1e-07"):
        run = assay.from_probs(tmp_path / "run", votes, LABELS, "out_of_bag")
    table = assay.score(run, ["confidence", "loss", "aum:form=probs"])
    assert np.allclose(table["confidence"].values, 0.75, atol=1e-6) and np.allclose(
        table["aum:form=probs"].values, 0.5, atol=1e-6
    )


BAD = PROBS[0].copy()
BAD[7, 1] += 0.5
NEGATIVE = PROBS[0].copy()
NEGATIVE[3] = [1.5, -0.5, 0.0]
EMPTY = PROBS[0].copy()
EMPTY[[4, 9]] = np.nan
SHORT = [PROBS[0], PROBS[1][:-1]]


@pytest.mark.parametrize(
    ("function", "predictions", "labels", "given", "words"),
    [
        (
            "from_probs",
            BAD,
            LABELS,
            {},
            r"Pass 0: the rows of 1 of 40 examples are no probabilities; that of id 7 adds up to 1\.5",
        ),
        ("from_probs", NEGATIVE, LABELS, {}, r"that of id 3 has -0\.5 in it, which is below 0.*from_logits"),
        ("from_probs", LOGITS, LABELS, {}, r"if these are logits, give them to assay\.from_logits"),
        ("from_probs", np.log(PROBS), LABELS, {}, "logarithms of probabilities, so give them to assay.from_logits"),
        ("from_probs", 100 * PROBS, LABELS, {}, "per cent, so divide them by 100"),
        ("from_probs", PROBS[0] / 2, LABELS, {}, "divided by its sum"),
        (
            "from_probs",
            EMPTY,
            LABELS,
            {},
            r"Pass 0: probabilities of 2 examples are NaN or infinite; ids 4, 9\..*leave these examples out",
        ),
        ("from_logits", EMPTY, LABELS, {}, r"Pass 0: logits of 2 examples are NaN or infinite; ids 4, 9"),
        ("from_logits", PROBS, LABELS, {}, "adds up to 1, as probabilities do.*assay.from_probs"),
        (
            "from_probs",
            PROBS[0][:, 0],
            LABELS % 2,
            {},
            r"shape \(40,\); of two classes give both columns, as numpy\.stack\(\[1 - p, p\], 1\)",
        ),
        ("from_logits", LOGITS[0][:, :1], LABELS % 2, {}, r"numpy\.stack\(\[0 \* z, z\], 1\)"),
        ("from_probs", PROBS[None], LABELS, {}, r"shape \(1, 4, 40, 3\); give \(examples, classes\)"),
        ("from_probs", np.array([["a"] * 3] * N), LABELS, {}, "are <U1; give real numbers"),
        ("from_probs", [[0.5, 0.5], [1.0]], LABELS, {}, "no array of numbers"),
        ("from_probs", [PROBS], LABELS, {}, "holds 4 passes; give one"),
        ("from_probs", SHORT, LABELS, {}, r"Pass 1 has \(39, 3\) probabilities, pass 0 has \(40, 3\)"),
        ("from_probs", [], LABELS, {}, "no probabilities"),
        ("from_probs", 5, LABELS, {}, "are a int; give an array"),
        ("from_probs", PROBS, None, {}, "labels= is missing"),
        ("from_probs", PROBS, LABELS[:-1], {}, r"labels of shape \(39,\) for 40 examples"),
        ("from_probs", PROBS, LABELS + 1, {}, r"Labels go from 1 to 3 where the 3 columns are the classes 0 to 2"),
        ("from_probs", PROBS, LABELS + 0.5, {}, "no whole numbers"),
        ("from_probs", PROBS, np.where(NAMES == "ant", "bee", NAMES), {}, "2 different labels .* for 3 columns"),
        ("from_probs", PROBS, NAMES, {"class_names": ["ant", "bee"]}, "2 class names .* for 3 columns"),
        ("from_probs", PROBS, NAMES, {"class_names": ["ant", "bee", "dog"]}, "not among the classes ant, bee, dog; id 2"),
        ("from_probs", PROBS, LABELS, {"ids": range(3)}, "3 ids were given for 40 rows"),
        ("from_probs", PROBS, LABELS, {"ids": [1] * N}, "occur more than once"),
        ("from_probs", PROBS, LABELS * 0, {}, "All 40 labels are class 0"),
        ("from_probs", PROBS, "label", {}, "neither an .npy file nor"),
        ("from_probs", "nowhere.npy", LABELS, {}, "nowhere.npy is absent"),
        ("from_probs", PROBS, LABELS, {"kind": ""}, "kind= is missing; say what was predicted"),
        ("from_probs", PROBS, LABELS, {"kind": "oof"}, "No kind of pass is named 'oof'"),
        ("from_probs", PROBS, LABELS, {"kind": "out_of_bags"}, "Did you mean out_of_bag or out_of_fold"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_sentence_and_leaves_nothing(
    tmp_path, function, predictions, labels, given, words
):
    with pytest.raises(UsageError, match=words):
        getattr(assay, function)(tmp_path / "run", predictions, labels, **{"kind": "out_of_fold", **given})
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_predictions_are_refused(tmp_path, parquet):
    import pyarrow as pa
    from pyarrow import parquet as pq

    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1PAR1")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    table = pq.read_table(parquet)
    pq.write_table(table.slice(0, N + 5), tmp_path / "short.parquet")
    pq.write_table(table.append_column("note", pa.array(["x"] * len(table))), tmp_path / "note.parquet")
    for path, extra, words in (
        (tmp_path / "bad.npy", {}, "damaged or holds no plain array"),
        (tmp_path / "objects.npy", {}, "damaged or holds no plain array"),
        (tmp_path / "rows.csv", {}, "is no .npy file"),
        (tmp_path / "bad.parquet", {}, "bad.parquet"),
        (tmp_path / "short.parquet", {}, "epoch 20 holds 40 examples, epoch 10 5"),
        (tmp_path / "note.parquet", {}, "column 'note' holds string, no probabilities of a class"),
        (parquet, {"labels": "lable"}, "No column of .* for labels is named 'lable'"),
        (parquet, {"class_names": ["prob_ant"]}, "1 columns of classes"),
        (parquet, {"class_names": ["prob_ant", "prob_dog"]}, "for class_names is named 'prob_dog'"),
    ):
        with pytest.raises(AssayError, match=words) as caught:
            assay.from_probs(
                tmp_path / "run", path, **{"labels": None if path.suffix == ".parquet" else LABELS, "kind": "held_out", **extra}
            )
        assert isinstance(caught.value, (UsageError, Mismatch, UnknownName)) and not (tmp_path / "run").exists(), path


def test_a_run_that_is_there_stays(tmp_path):
    assay.from_probs(tmp_path / "run", PROBS, LABELS, "held_out")
    with pytest.raises(OutputExists, match="already holds a run; name another folder"):
        assay.from_probs(tmp_path / "run", PROBS, LABELS, "held_out")
    assert Run(tmp_path / "run").check()


def test_a_header_without_passes_is_written_as_before():
    from assay.runs.schema import Header, here, write_header

    header = Header(
        **here(),
        code="",
        view="eval",
        keep_logits=False,
        mean_probs=False,
        checkpoints="none",
        examples=2,
        seed=None,
        device="cpu",
    )
    assert b"passes" not in write_header(header) and b"repeats" not in write_header(header)


def test_tables_in_memory_are_told_what_to_give(tmp_path):
    import pandas as pd

    with pytest.raises(UsageError, match=r"are a DataFrame; give its numbers, rows.to_numpy\(\)"):
        assay.from_probs(tmp_path / "run", pd.DataFrame(PROBS[0]), LABELS, "out_of_fold")


def test_names_of_classes_that_are_no_texts_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"class_names= holds .*, which is no text"):
        assay.from_probs(tmp_path / "run", PROBS, LABELS, "out_of_fold", class_names=[0, 1, 2])
    assert not (tmp_path / "run").exists()


def test_a_column_of_whole_numbers_beside_logits_is_no_class_unless_it_is_named(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(LOGITS[0], columns=["ant", "bee", "cat"]).assign(label=NAMES, fold=LABELS)
    frame.to_parquet(tmp_path / "logits.parquet")
    with pytest.raises(UsageError, match="columns fold hold whole numbers and the other columns of classes do not"):
        assay.from_logits(tmp_path / "run", tmp_path / "logits.parquet", None, "out_of_fold")
    run = assay.from_logits(tmp_path / "run", tmp_path / "logits.parquet", None, "out_of_fold", class_names=["ant", "bee", "cat"])
    assert run.class_names == ("ant", "bee", "cat")


def test_labels_that_differ_between_the_epochs_of_a_file_are_refused(tmp_path, parquet):
    import pandas as pd

    frame = pd.read_parquet(parquet)
    frame.loc[(frame.epoch == 10) & (frame.id == "row-3"), "label"] = "bee"
    frame.to_parquet(tmp_path / "moved.parquet", index=False)
    with pytest.raises(
        Mismatch, match=r"1 examples have another label in epoch 10 than in epoch 0; ids row-3. Give each example one label"
    ):
        assay.from_probs(tmp_path / "run", tmp_path / "moved.parquet", None, "training")
    pd.read_parquet(parquet).drop(columns="id").to_parquet(tmp_path / "no_id.parquet", index=False)
    with pytest.raises(
        Mismatch, match=r"examples have another label in epoch 10 .* Give the rows an id column, or every epoch the same order"
    ):
        assay.from_probs(tmp_path / "run", tmp_path / "no_id.parquet", None, "training")


@pytest.mark.parametrize(("probs", "over"), [(PROBS[0], "in one pass"), (PROBS, f"mean of {EPOCHS} passes")])
def test_passes_without_an_order_are_called_passes(tmp_path, probs, over):
    run = assay.from_probs(tmp_path / "run", probs, LABELS, "out_of_fold", repeats=probs.ndim > 2)
    scores = assay.score(run, ["confidence"])
    (held,) = assay.report_data(run, scores).learning
    right = (probs.argmax(-1) == LABELS).mean()
    assert held.over == over and held.epochs == (0,) and float(held.accuracy[0]) == pytest.approx(right)
    page = re.sub(r"<(style|script)\b.*?</\1>", "", assay.report(run, scores).read_text(), flags=re.DOTALL)
    assert f" nats, {over}.</p>" in page and "epoch" not in page and "loop" not in page
    assert ('data-spec="lines"' in page) == (probs.ndim > 2) and 'data-spec="learning' not in page
    card = assay.dataset_card(run)
    assert "from saved probabilities." in card and "epoch" not in card and "out of fold" in card
    passes = "1 pass" if probs.ndim == 2 else f"{EPOCHS} passes"
    with pytest.raises(MissingEvidence, match=f"but this run has {passes}. Record, or give, the passes of more epochs"):
        assay.score(run, "tdds")


def test_passes_in_their_order_are_called_epochs(tmp_path):
    run = assay.from_probs(tmp_path / "run", PROBS, LABELS, "out_of_fold")
    page = assay.report(run, assay.score(run, ["confidence"])).read_text()
    assert f" nats, after epoch {EPOCHS - 1}.</p>" in page and "after each epoch" in page and 'data-spec="learning' in page
