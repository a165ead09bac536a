"""The linear maps inside self-attention are shown, and torch's own function stands in its place again afterwards."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.maths.attention_linears import linears_in, shown


def watched(attention, seen):
    def watch(layer, args, output):
        seen.append((layer, args[0].detach(), output.detach()))
        return output

    return {attention: {one.names["weight"]: (one.layer, watch) for one in linears_in(attention)}}


@pytest.mark.parametrize("first", [True, False])
def test_inputs_and_outputs_have_the_examples_first(first):
    torch.manual_seed(0)
    attention, seen, plain = nn.MultiheadAttention(4, 2, batch_first=first), [], F.linear
    x = torch.randn(3, 5, 4)
    given = x if first else x.transpose(0, 1)
    expected, _ = attention(given, given, given)
    with shown(watched(attention, seen)):
        assert F.linear is not plain
        found, _ = attention(query=given, key=given, value=given)
    assert F.linear is plain and torch.equal(found, expected) and not attention._forward_pre_hooks
    (into, inputs, made), (back, mixed, out) = seen
    assert (into.weight.shape, back.weight.shape) == (attention.in_proj_weight.shape, attention.out_proj.weight.shape)
    torch.testing.assert_close(inputs, x)
    torch.testing.assert_close(made, F.linear(x, attention.in_proj_weight, attention.in_proj_bias))
    torch.testing.assert_close(out, expected if first else expected.transpose(0, 1))
    torch.testing.assert_close(F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias), out)


def test_other_layers_other_tensors_and_single_examples_are_not_shown():
    attention, seen, x = nn.MultiheadAttention(4, 2, batch_first=True), [], torch.randn(3, 5, 4)
    with shown(watched(attention, seen)):
        nn.Linear(4, 4)(x), attention(x[0], x[0], x[0])
        assert not seen
        attention(x, x + 1, x + 1)
    # What is mapped back is one map all the same.
    assert [one.shape for _, one, _ in seen] == [x.shape]
    assert not linears_in(nn.Linear(2, 2)) and not linears_in(nn.MultiheadAttention(4, 2, kdim=3))


def test_an_error_leaves_torch_as_it_was():
    attention, seen, plain = nn.MultiheadAttention(4, 2, batch_first=True), [], F.linear
    x = torch.randn(3, 5, 4)
    with pytest.raises(AssertionError), shown(watched(attention, seen)):
        attention(x, x, x, attn_mask=torch.zeros(2))
    assert F.linear is plain and not attention._forward_hooks
    with shown(watched(attention, seen)):
        nn.Linear(4, 4)(x)
    assert not seen


def test_threads_leave_torch_as_it_was_whichever_ends_first():
    plain, layers, seen = F.linear, [nn.MultiheadAttention(4, 2, batch_first=True) for _ in range(2)], [[], []]
    x = torch.randn(3, 5, 4)
    steps = [threading.Event() for _ in range(2)]

    def work(number):
        with shown(watched(layers[number], seen[number])):
            steps[number].set()
            assert steps[1 - number].wait(30)
            if number:
                first.join(30)
            layers[number](x, x, x)

    first, second = (threading.Thread(target=work, args=(number,)) for number in range(2))
    for one in (first, second):
        one.start()
    for one in (first, second):
        one.join(30)
    assert F.linear is plain and [len(one) for one in seen] == [2, 2]
