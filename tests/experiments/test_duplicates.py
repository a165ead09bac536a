"""Near duplicates: planted groups, every pair by hand, labels that contradict, and the command."""

import itertools

import numpy as np
import pytest
import torch

import assay
from assay.core.errors import MissingEvidence, UsageError
from assay.core.ids import Ids
from cli.shell import here
from experiments.small import recorded


def planted(seed=0):
    """Forty examples, of which 3, 17 and 30 are one but for a little, and 5 and 9 are one to the bit."""
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[17], rows[30], rows[9] = rows[3] + 1e-4, rows[3] - 1e-4, rows[5]
    labels = torch.arange(40) % 3
    labels[9] = labels[5]
    return rows, labels, Ids([100 - one for one in range(40)])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_planted_groups_are_found_exactly(metric):
    rows, labels, ids = planted()
    found = assay.duplicates(assay.gather_inputs(ids, rows, labels), metric=metric)
    assert len(found) == 2 and list(found.members(0)) == [91, 95] and list(found.members(1)) == [70, 83, 97]
    assert found.distances[:2].tolist() == [0.0, 0.0] and found.superfluous == 3
    # 3, 17 and 30 have the labels 0, 2 and 0.
    assert found.contradicting.tolist() == [1]
    columns = found.to_numpy()
    assert columns["group"].tolist() == [0, 0, 1, 1, 1] and list(columns["given_class"]) == ["2", "2", "0", "2", "0"]
    exact = assay.duplicates(assay.gather_inputs(ids, rows, labels), metric=metric, within=0.0)
    assert list(exact.ids) == [91, 95]
    with pytest.raises(UsageError, match="group=2 is none of the 2 groups"):
        found.members(2)


@pytest.mark.parametrize("within", [0.5, 1.0, 1.5])
def test_it_is_what_every_pair_says(within):
    rows = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    apart = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
    limit = within * float(apart.amin(1).median())
    groups = {one: {one} for one in range(50)}
    for one, two in itertools.combinations(range(50), 2):
        if float(apart[one, two]) <= limit and groups[one] is not groups[two]:
            joined = groups[one] | groups[two]
            groups |= dict.fromkeys(joined, joined)
    expected = {frozenset(group) for group in groups.values() if len(group) > 1}
    found = assay.duplicates(
        assay.gather_inputs(Ids(range(50)), rows, torch.zeros(50, dtype=torch.int64)), within=within, metric="euclidean"
    )
    assert {frozenset(found.members(group)) for group in range(len(found))} == expected
    near = [float(found.distances[found.groups == group].min()) for group in range(len(found))]
    assert near == sorted(near)
    torch.testing.assert_close(found.distances, apart.amin(1)[torch.tensor(list(found.ids))])


def test_without_any_it_is_empty_and_says_so():
    rows = torch.eye(5)
    found = assay.duplicates(assay.gather_inputs(Ids(range(5)), rows, torch.arange(5) % 2))
    assert (
        len(found) == 0 and len(found.ids) == 0 and not len(found.contradicting) and "0 groups of 0 of 5 examples" in repr(found)
    )
    with pytest.raises(UsageError, match=r"within=-1\.0 is no part of a distance"):
        assay.duplicates(assay.gather_inputs(Ids(range(5)), rows, torch.arange(5) % 2), within=-1.0)
    with pytest.raises(UsageError, match="there is one example, and no other that could be like it"):
        assay.duplicates(assay.gather_inputs(Ids([1]), rows[:1], torch.zeros(1, dtype=torch.int64)))


def test_of_a_run_and_by_the_command(tmp_path, capsys):
    run = recorded(tmp_path / "run")
    found = assay.duplicates(run, within=0.5)
    assert 0 < len(found) < 200
    embedded = np.arange(397)[:, None] // 2 + np.array([[0.0, 1.0]])
    twins = assay.duplicates(run, "rows:twins", metric="euclidean", within=0.0, inputs={"twins": torch.from_numpy(embedded)})
    assert len(twins) == 198 and len(twins.ids) == 396
    with pytest.raises(
        UsageError, match="duplicates reads inputs, and no rows named 'twins'; give rows:twins as the features, or leave them out"
    ):
        assay.duplicates(run, inputs={"twins": torch.from_numpy(embedded)})
    with pytest.raises(MissingEvidence, match="duplicates reads rows named 'twins', which are not given"):
        assay.duplicates(run, "rows:twins")
    hidden = assay.duplicates(run, "penultimate", within=0.5)
    # A linear net: what goes into its only layer is the scaled input.
    assert hidden.features == "penultimate, cosine" and hidden.examples == 397
    code, out, _ = here(capsys, "duplicates", run.folder, "--within", 0.5, "--out", tmp_path / "groups.csv", "--show", 3)
    assert code == 0 and f"{len(found)} groups of {len(found.ids)} of 397 examples" in out and "Near duplicates by inputs" in out
    assert len((tmp_path / "groups.csv").read_text().splitlines()) == len(found.ids) + 1
