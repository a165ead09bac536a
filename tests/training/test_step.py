import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from assay.training import Recipe
from assay.training.step import average, batch_loss, example_losses, optimizer_of, trainable, update


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


def test_a_long_gradient_is_cut_to_its_limit_over_all_parameters():
    model = nn.Linear(2, 1)
    optimizer = optimizer_of(Recipe(epochs=1, lr=5.0), model)
    before = [value.detach().clone() for value in model.parameters()]
    for clip, length in ((None, 3.0), (4.0, 3.0), (0.5, 0.5)):
        update(optimizer, model(torch.tensor([[2.0, 2.0]])).sum(), 1.0, clip)
        moved = torch.cat([(old - new).flatten() for old, new in zip(before, model.parameters(), strict=True)])
        torch.testing.assert_close(moved, torch.tensor([2.0, 2.0, 1.0]) * length / 3)
        before = [value.detach().clone() for value in model.parameters()]


def test_averages_are_those_of_torch_to_the_bit():
    torch.manual_seed(0)
    for decay in (0.2, 0.9, 0.999):
        model = nn.Linear(5, 3)
        averaged, averages = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)), {}
        for _ in range(6):
            for value in model.parameters():
                torch.nn.init.normal_(value)
            averaged.update_parameters(model)
            average(averages, trainable(model), decay)
        for name, value in averaged.module.named_parameters():
            assert torch.equal(averages[name], value.detach()) and not torch.equal(averages[name], trainable(model)[name])


def test_tied_parameters_are_trained_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(trainable(model)) == ["0.weight", "0.bias", "1.bias"]
