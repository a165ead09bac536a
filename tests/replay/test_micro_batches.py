"""A step of several batches shows its readers what one batch of the same examples would."""

import pytest
import torch
from torch import nn

from assay.core.errors import UsageError
from assay.replay.functional import Functional
from assay.replay.model_batches import ModelBatch
from assay.training.batches import MicroBatches, mapped, rows, size_of, tensors, without_rows

EXAMPLES, CLASSES = 7, 3


def batch():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(EXAMPLES, 4, generator=draw, dtype=torch.float64), torch.arange(EXAMPLES) % CLASSES


def cut(sizes=(3, 2, 2)):
    inputs, labels = batch()
    parts = tuple(zip(inputs.split(list(sizes)), labels.split(list(sizes)), strict=True))
    return MicroBatches(parts, 1.0, (float(EXAMPLES),) * len(sizes))


def shown(given):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
    params = {name: value.detach() for name, value in model.named_parameters()}
    return ModelBatch(torch.arange(EXAMPLES), params, Functional(model), {}, given), params


def whole(chunks, names):
    found = {name: [] for name in names}
    places = []
    for place, values in chunks:
        places += range(EXAMPLES)[place]
        for name in names:
            found[name].append(values[name])
    assert places == list(range(EXAMPLES))
    return {name: torch.cat(values) for name, values in found.items()}


def squared(first, root):
    """Of several square roots of a matrix any may come."""
    return first, root @ root.mT


def test_everything_that_is_asked_of_the_parts_is_that_of_the_whole():
    (one, params), (several, _) = shown(batch()), shown(cut())
    names, direction = tuple(params), {name: torch.ones_like(value) for name, value in params.items()}
    draw = torch.randn(EXAMPLES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for ask in (
        lambda seen: seen.losses(params),
        lambda seen: seen.outputs(params),
        lambda seen: seen.grad_dots(direction)[0],
        lambda seen: seen.grad_sq_norms(names)[0],
        lambda seen: seen.products(direction)[:2],
        lambda seen: squared(*seen.output_derivatives()),
        lambda seen: seen.input_gradients(),
        lambda seen: seen.hvp(direction),
        lambda seen: seen.ggnvp(direction),
        lambda seen: whole(seen.grads(names), names),
        lambda seen: whole(seen.grads(names, draw), names),
    ):
        torch.testing.assert_close(ask(several), ask(one), rtol=1e-12, atol=1e-14)
    for cotangents in (None, draw):
        pairs = [sorted(seen.layer_pairs(names, cotangents), key=lambda pair: pair.rows.start) for seen in (several, one)]
        assert {place for pair in pairs[0] for place in range(EXAMPLES)[pair.rows]} == set(range(EXAMPLES))
        sums = []
        for found in pairs:
            total = {}
            for pair in found:
                for name, value in pair.summed(torch.ones(len(pair.inputs), dtype=torch.float64)).items():
                    total[name] = total.get(name, 0) + value
            sums.append(total)
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-12, atol=1e-14)


def test_rows_are_taken_from_each_part_by_a_mask():
    stays = torch.tensor([True, False, True, False, False, True, True])
    left = rows(cut(), stays)
    assert [size_of(part) for part in left.parts] == [2, 0, 2] and size_of(left) == 4
    assert torch.equal(torch.cat([part[0] for part in left.parts]), batch()[0][stays]) and left.divisors == cut().divisors
    assert without_rows(left) == {}


def test_what_holds_the_tensors_is_copied_and_not_changed():
    class Own:
        def __init__(self):
            self.x, self.note = torch.arange(3.0), "text"

    own = Own()
    nested = {"a": [own, None], "b": (torch.zeros(3, 2),)}
    taken = rows(nested, torch.tensor([2, 0]))
    assert taken["a"][0].x.tolist() == [2, 0] and taken["a"][0].note == "text" and own.x.tolist() == [0, 1, 2]
    assert [tuple(value.shape) for value in tensors(taken)] == [(2,), (2, 2)]
    assert mapped(lambda part: part, own) is not own
    with pytest.raises(UsageError, match=r"A batch \(dict\) holds no tensor .*only \['a'\]"):
        size_of({"a": "text"})
