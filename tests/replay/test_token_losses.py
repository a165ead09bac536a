"""One loss for each sequence: the mean, or the sum, over the tokens that count."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.core.errors import UsageError
from assay.replay.functional import Functional

LABELS = torch.tensor([[1, 2, -100], [0, -100, -100], [2, 2, 1]])


def logits(seed=0, classes=3):
    return torch.randn(*LABELS.shape, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_token(rows, labels, ignored=-100):
    """The losses of the tokens that count, one sequence and one token after the other."""
    return [
        [float(-row.log_softmax(-1)[int(label)]) for row, label in zip(one, own, strict=True) if int(label) != ignored]
        for one, own in zip(rows, labels, strict=True)
    ]


def test_the_mean_and_the_sum_over_tokens_that_count():
    values = by_token(logits(), LABELS)
    expected = torch.tensor([sum(own) / len(own) for own in values], dtype=torch.float64)
    torch.testing.assert_close(assay.token_losses(logits(), LABELS), expected)
    sums = assay.token_losses(logits(), LABELS, reduction="sum")
    torch.testing.assert_close(sums, torch.tensor([sum(own) for own in values], dtype=torch.float64))
    # What torch gives for a batch is their sum over all that count.
    whole = F.cross_entropy(logits().flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(sums.sum() / (LABELS != -100).sum(), whole)


def test_another_label_may_be_ignored_and_pictures_have_tokens_too():
    labels = torch.where(LABELS == -100, 7, LABELS)
    assert torch.equal(assay.token_losses(logits(), labels, ignore_index=7), assay.token_losses(logits(), LABELS))
    pixels = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    classes = torch.arange(24).reshape(2, 4, 3) % 5
    wanted = F.cross_entropy(pixels, classes, reduction="none").mean((1, 2))
    torch.testing.assert_close(assay.token_losses(pixels.movedim(1, -1), classes), wanted)


def test_a_sequence_without_a_token_that_counts_has_no_mean():
    labels = LABELS.clone()
    labels[1] = -100
    with pytest.raises(UsageError, match=r"1 of 3 sequences have no token that counts, each is -100 \(rows 1\); leave them out"):
        assay.token_losses(logits(), labels)
    assert float(assay.token_losses(logits(), labels, reduction="sum")[1]) == 0
    with pytest.raises(UsageError, match=r"logits of shape \(3, 3, 3\) do not fit labels of shape \(3, 2\)"):
        assay.token_losses(logits(), LABELS[:, :2])
    with pytest.raises(UsageError, match="reduction='none' is neither 'mean' nor 'sum'"):
        assay.token_losses(logits(), LABELS, reduction="none")


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(4, 5), nn.Linear(5, 3)

    def forward(self, tokens):
        return self.out(self.embed(tokens).cumsum(1).tanh())


def test_every_way_of_taking_derivatives_reads_them():
    torch.manual_seed(0)
    model, tokens = Words().double(), torch.arange(9).reshape(3, 3) % 4
    functional = Functional(model, lambda net, batch: assay.token_losses(net(batch[0]), batch[1]))
    params = {name: value.detach() for name, value in model.named_parameters()}
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    names = tuple(params)
    grads = torch.zeros(3, sum(value.numel() for value in params.values()), dtype=torch.float64)
    for rows, part in functional.grads(params, {}, (tokens, LABELS), names):
        grads[rows] = torch.cat([part[name].flatten(1) for name in names], 1)
    expected = []
    for row in range(3):
        model.zero_grad()
        assay.token_losses(model(tokens[row : row + 1]), LABELS[row : row + 1]).sum().backward()
        expected.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    torch.testing.assert_close(grads, torch.stack(expected))
    flat = torch.cat([direction[name].flatten() for name in names])
    torch.testing.assert_close(functional.grad_dots(params, {}, (tokens, LABELS), direction)[0], grads @ flat)


def test_labels_that_are_no_classes_are_refused():
    logits, labels = torch.randn(2, 3, 4), torch.randint(4, (2, 3))
    for given in (labels.float(), labels > 1, labels.tolist()):
        with pytest.raises(UsageError, match="give a tensor of logits and one of whole numbers"):
            assay.token_losses(logits, given)
    for strange in (4, -1):
        with pytest.raises(UsageError, match=f"labels hold {strange}, which is none of the 4 classes .* give ignore_index="):
            assay.token_losses(logits, torch.where(labels == labels[0, 0], strange, labels))
    assert assay.token_losses(
        logits, torch.where(labels == labels[0, 0], -1, labels), ignore_index=-1, reduction="sum"
    ).shape == (2,)
