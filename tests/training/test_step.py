import torch
import torch.nn.functional as F
from torch import nn

from assay.training import Recipe
from assay.training.step import batch_loss, example_losses, optimizer_of, trainable, update


def test_the_batch_loss_is_the_mean_and_keeps_its_divisor():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    losses = example_losses(logits, labels)
    torch.testing.assert_close(batch_loss(losses), F.cross_entropy(logits, labels))
    weights = torch.tensor([1.0, 0, 0, 0, 0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(batch_loss(losses, weights), (losses[0] + losses[5] / 2) / 6)


def test_an_update_uses_the_rate_it_is_given():
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = optimizer_of(Recipe(epochs=1, lr=5.0), model)
    for _ in range(2):  # gradients of an earlier step do not add up
        update(optimizer, model(torch.ones(1, 1)).sum(), 0.25)
    torch.testing.assert_close(model.weight.detach(), before - 0.5)


def test_tied_parameters_are_trained_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(trainable(model)) == ["0.weight", "0.bias", "1.bias"]
