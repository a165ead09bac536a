import gc
import inspect

import pytest
from torch.utils.data import DataLoader

from assay.core import errors

CODES = {
    "AssayError": 1, "UndeclaredNeed": 1, "UsageError": 2, "UnknownName": 2, "NoGaussNewton": 2, "OutputExists": 2, "MissingEvidence": 3, "Mismatch": 4,
    "RunError": 5, "RunLocked": 5, "NotWritten": 5, "NumericalError": 6, "BadScores": 6, "TrialFailed": 7,
}  # fmt: skip


def test_every_error_has_its_exit_code():
    found = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}
    assert {name: cls.exit_code for name, cls in found.items()} == CODES
    assert all(issubclass(cls, errors.AssayError) for cls in found.values())


def test_the_tree_drawn_in_the_module_is_the_tree():
    for line in errors.__doc__.splitlines():
        if line.strip().startswith("*"):
            name, code = line.replace("(also ValueError)", "").split()[1:3]
            assert CODES[name] == int(code), line
    assert sum(line.strip().startswith("*") for line in errors.__doc__.splitlines()) == len(CODES)


def test_a_wrong_call_is_a_value_error():
    assert issubclass(errors.UsageError, ValueError) and not issubclass(errors.MissingEvidence, ValueError)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("duel", r"No method is named 'duel'\. Did you mean dual\? Known: aum, dual, margin\."),
        ("zzz", r"No method is named 'zzz'\. Known: aum, dual, margin\."),
    ],
)
def test_unknown_names_carry_the_nearest(name, words):
    with pytest.raises(errors.UsageError, match=words):
        raise errors.UnknownName("method", name, ["margin", "dual", "aum"])


class Refused:
    """A dataset whose second item is refused."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            raise errors.RunError("The folder holds no run.\x1b[1m")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_from_a_loader_s_worker_says_its_own_sentence(workers, monkeypatch):
    # A worker that raised is not told to end: the loader waits so long, 5 s, once nothing holds it, and ends it.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    with pytest.raises(errors.RunError) as refused:
        list(DataLoader(Refused(), batch_size=1, num_workers=workers))
    said = str(refused.value)
    del refused
    gc.collect()
    assert said == r"The folder holds no run.\x1b[1m"


def test_some():
    assert errors.listed([3, 17], 2) == "3, 17"
    assert errors.listed(range(100), 100) == "0, 1, 2, 3, 4 and 95 more"
    assert errors.listed(["a"], 1) == "a" and errors.listed([], 0) == ""
    assert errors.listed(range(6), 6, most=2) == "0, 1 and 4 more"
