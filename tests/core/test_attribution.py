import dataclasses
import itertools
import weakref

import pytest
import torch

from assay.core import attribution
from assay.core.attribution import Attribution, Block, reduced
from assay.core.errors import BadScores, UnknownName, UsageError
from assay.core.evidence import Evidence
from assay.core.ids import Ids
from assay.core.lineage import Lineage
from assay.core.needs import Need
from assay.core.scores import Direction
from assay.methods import parse
from assay.testing.worlds import world

VALUES = torch.tensor([[3.0, -1.0, 0.0, 3.0, -4.0], [0.5, 0.5, 0.5, 0.5, 0.5], [-1.0, -2.0, 0.0, -3.0, 6.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)


class Rows:
    """In memory, counting how many are read at a time."""

    def __init__(self, values):
        self.values, self.checksums, self.most = values, tuple(range(len(values))), 0

    def read(self, queries):
        self.most = max(self.most, len(queries))
        return self.values[queries.start : queries.stop].clone()


def made(values=VALUES, title="tracin:layers=head", queries=("q1", "q2", "q3")):
    ids = Ids([50, 10, 30, 20, 40])
    lineage = Lineage("a dataset", {"run": "a run"}, "0.1.0")
    options = {"target": "validation", "layers": "head", "reduce": "mean"}
    labels = torch.tensor([2, 0, 1])
    return Attribution(
        Ids(queries), ids, labels, WEIGHTS, Rows(values), "tracin", options, title, Direction.LOW_IS_SUSPECT, "rank only", lineage
    )


def blocks(values, queries, examples):
    for rows, columns in itertools.product(itertools.pairwise(queries), itertools.pairwise(examples)):
        yield Block(slice(*rows), slice(*columns), values[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("cuts", [([0, 3], [0, 5]), ([0, 1, 2, 3], [0, 2, 5]), ([0, 2, 3], [0, 1, 2, 3, 4, 5])])
def test_blocks_of_any_cut_reduce_to_what_the_matrix_does(cuts):
    for how, expected in (("mean", WEIGHTS @ VALUES), ("sum", VALUES.sum(0)), ("max", VALUES.amax(0))):
        backwards = reversed(list(blocks(VALUES, *cuts)))
        assert torch.allclose(reduced("it", backwards, WEIGHTS, 5, how), expected, rtol=1e-12), how
    negative = VALUES - 100
    assert torch.equal(reduced("it", blocks(negative, *cuts), WEIGHTS, 5, "max"), negative.amax(0)), "0 is no value"


def test_of_all_blocks_one_is_in_memory_at_a_time():
    alive, most = weakref.WeakSet(), 0

    def given():
        nonlocal most
        for block in blocks(VALUES, [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]):
            alive.add(block)
            most = max(most, len(alive))
            yield block

    reduced("it", given(), WEIGHTS, 5, "max")
    assert most <= 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "does not give every query by every example one value"),
        (list(blocks(VALUES, [0, 2], [0, 5])), "does not give every query by every example"),
        (list(blocks(VALUES, [0, 3], [0, 4])), "does not give every query by every example"),
        ([*blocks(VALUES, [0, 3], [0, 5]), *blocks(VALUES, [0, 1], [0, 5])], "does not give every query by every example"),
        # As many as there are, one of them twice.
        (
            [*2 * list(blocks(VALUES, [0, 1], [0, 5])), *blocks(VALUES, [2, 3], [0, 5])],
            "does not give every query by every example",
        ),
        ([Block(slice(0, 3), slice(0, 6), torch.zeros(3, 6))], r"positions 0\.\.6 among 5"),
        ([Block(slice(0, 3), slice(None), VALUES)], r"positions None\.\.None among 5"),
        ([Block(slice(0, 3, 2), slice(0, 5), VALUES)], r"positions 0\.\.3 among 3"),
        ([Block(slice(0, 3), slice(0, 5), VALUES.T)], r"shape \(5, 3\); expected \(3, 5\)"),
        ([Block(slice(0, 3), slice(0, 5), VALUES.log())], "values are not finite, the first of query 0 and example 1"),
    ],
)
def test_what_is_no_matrix_is_no_score(given, words):
    with pytest.raises(BadScores, match=words):
        reduced("it", given, WEIGHTS, 5, "mean")


def test_a_query_has_its_row_and_its_ends():
    found = made()
    assert torch.equal(found.row("q3"), VALUES[2])
    top = found.top("q1", 2)
    # Equal values by id, and 0 neither helps nor harms.
    assert (list(top.helpful.ids), list(top.harmful.ids)) == ([20, 50], [40, 10]) and (top.query, top.label) == ("q1", 2)
    assert top.helpful.values.tolist() == [3.0, 3.0] and top.harmful.values.tolist() == [-4.0, -1.0]
    assert len(found.top("q2", 9).harmful.ids) == 0 and len(found.top("q2", 9).helpful.ids) == 5
    assert found.source.most == 1, "only the row of the query is read"
    with pytest.raises(UnknownName, match=r"No query is named 'q4'\. Did you mean .*q3"):
        found.top("q4")
    with pytest.raises(UsageError, match=r"No query is named '7'\. Known: q1, q2, q3"):
        found.row(7)
    with pytest.raises(UsageError, match="k=0 is below 1"):
        found.top("q1", 0)


def test_the_direction_says_which_sign_helps():
    turned = dataclasses.replace(made(-VALUES), direction=Direction.HIGH_IS_SUSPECT).top("q1", 2)
    assert (list(turned.helpful.ids), list(turned.harmful.ids)) == ([20, 50], [40, 10])
    assert turned.helpful.values.tolist() == [-3.0, -3.0]
    with pytest.raises(UsageError, match=r"ranks difficulty .high is hard., and not help or harm"):
        dataclasses.replace(made(), direction=Direction.HIGH_IS_HARD).top("q1")


@pytest.mark.parametrize("call", [lambda one: one.row(None), lambda one: one.top("q1", 2.5), lambda one: one.reduce(3)])
def test_arguments_of_another_kind_are_refused_in_words(call):
    with pytest.raises(UsageError, match="give "):
        call(made())


def test_one_of_many_queries_is_refused_with_the_first_of_them():
    many = Attribution(
        Ids(range(30)), Ids([1, 2]), torch.zeros(30, dtype=torch.int64), torch.full((30,), 1 / 30, dtype=torch.float64),
        Rows(torch.zeros(30, 2, dtype=torch.float64)), "m", {}, "m", Direction.LOW_IS_SUSPECT, "rank only",
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"No query has the id 77; the 30 queries are 0, 1, 2, 3, 4 and 25 more\.$"):
        many.row(77)


def test_blocks_are_read_a_few_queries_at_a_time(monkeypatch):
    monkeypatch.setattr(attribution, "BLOCK_BYTES", 8 * 5 * 2)
    found = made()
    read = list(found.blocks())
    assert [(block.queries.start, block.queries.stop) for block in read] == [(0, 2), (2, 3)] and found.source.most == 2
    assert torch.equal(torch.cat([block.values for block in read]), VALUES)


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_reduced_it_is_the_scores_that_the_method_gives_by_that_name(how):
    found = made()
    scores = found.reduce(how)
    expected = {"mean": WEIGHTS @ VALUES, "sum": VALUES.sum(0), "max": VALUES.amax(0)}[how]
    assert torch.allclose(scores.values, expected) and scores.ids == found.ids
    assert parse(scores.title).title == scores.title and parse(scores.title).reduce == how == scores.options["reduce"]
    assert scores.lineage.parents == {"run": "a run", "attribution": found.fingerprint}
    assert (scores.direction, scores.unit) == (found.direction, found.unit)


def test_another_row_is_another_attribution():
    one, other = made(), made()
    assert one.fingerprint == other.fingerprint
    other = made()
    other.source.checksums = (0, 1, 3)
    assert one.fingerprint != other.fingerprint != made(queries=("q1", "q2", "q4")).fingerprint


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UsageError, match="2 queries, 3 labels and 3 weights do not go together"):
        made(queries=("q1", "q2"))


def test_queries_are_those_of_a_target_and_asked_of_kept_models():
    here = world()
    found = here.evidence().queries("validation")
    assert list(found.ids) == list(range(16)) and torch.equal(found.labels, here.held_out[1])
    assert torch.equal(found.weights, torch.full((16,), 1 / 16, dtype=torch.float64))
    with pytest.raises(UnknownName, match="No target is named 'elsewhere'"):
        here.evidence().queries("elsewhere")
    blind = Evidence(here.ids, 4, labels=here.labels).narrow("nobody", frozenset({Need.LABELS}))
    with pytest.raises(Exception, match="`checkpoints` was read but is not declared"):
        blind.queries("validation")


def test_rows_of_a_target_are_seen_as_the_target_sees_them():
    replay = world().replay
    model = replay.at(2)
    batches = list(model.queries("validation", slice(3, 13), 4))
    assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(3, 13)) and len(batches) == 3
    whole = torch.cat([batch.losses(model.params) for batch in model.queries("validation")])
    some = torch.cat([batch.losses(model.params) for batch in batches])
    assert torch.allclose(whole[3:13], some, rtol=1e-12)
    leaves = {name: value.clone().requires_grad_() for name, value in model.params.items()}
    loss = torch.cat([batch.losses(leaves) for batch in model.queries("validation")]).mean()
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    expected = model.target("validation")
    assert all(torch.allclose(found[name], expected[name], rtol=1e-10) for name in expected)


def test_the_ends_of_all_queries_as_one_table():
    columns = made().top_table(1).to_numpy()
    assert list(zip(*(column.tolist() for column in columns.values()), strict=True)) == [
        ("q1", 2, "helpful", 1, 20, 3.0),
        ("q1", 2, "harmful", 1, 40, -4.0),
        ("q2", 0, "helpful", 1, 10, 0.5),
        ("q3", 1, "helpful", 1, 40, 6.0),
        ("q3", 1, "harmful", 1, 20, -3.0),
    ]
    assert made().top_table(2, ["q3"]).to_arrow().column_names == ["query", "label", "end", "place", "id", "value"]
    assert len(made().top_table(5)) == sum(
        len(made().top(q).helpful.ids) + len(made().top(q).harmful.ids) for q in ("q1", "q2", "q3")
    )
    assert len(made(torch.zeros(3, 5, dtype=torch.float64)).top_table()) == 0
    with pytest.raises(UnknownName, match="q4"):
        made().top_table(1, ["q4"])
