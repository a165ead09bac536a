import pytest
import torch

from assay.maths.params import added, dot, flatten, norm, scaled, unflatten


def named(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(3, 2, generator=draw, dtype=dtype),
        "b": torch.randn(3, generator=draw, dtype=dtype),
        "s": torch.tensor(2.0, dtype=dtype),
    }


def test_named_tensors_are_one_vector():
    one, two = named(0), named(1)
    row, other = flatten(one), flatten(two)
    assert row.shape == (10,) and torch.equal(row[:6], one["w"].flatten()) and float(row[-1]) == 2
    torch.testing.assert_close(dot(one, two), row @ other)
    torch.testing.assert_close(norm(one), row.norm())
    torch.testing.assert_close(flatten(scaled(one, -3.0)), -3 * row)
    torch.testing.assert_close(flatten(added(one, two, 0.5)), row + 0.5 * other)
    back = unflatten(row, one)
    assert list(back) == list(one) and all(
        torch.equal(back[name], value) and back[name].shape == value.shape for name, value in one.items()
    )


def test_the_first_says_which_names_count():
    one = {"b": named(0)["b"]}
    torch.testing.assert_close(dot(one, named(1)), one["b"] @ named(1)["b"])
    assert list(added(one, named(1))) == ["b"]
    with pytest.raises(KeyError):
        dot(named(1), one)


def test_they_are_put_back_in_the_type_they_had():
    single = named(0, torch.float32)
    back = unflatten(flatten(single).double(), single)
    assert {value.dtype for value in back.values()} == {torch.float32}
