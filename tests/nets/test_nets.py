import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import nets
from assay.core.errors import UnknownName, UsageError

IMAGE_NETS = [name for name, net in nets.catalogue().items() if net.smallest]


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_catalogue_finds_one_net_per_file():
    assert {"logistic", "mlp", "lenet", "six_conv", "block_conv", "resnet18"} <= set(nets.catalogue())
    assert all(net.name == name and net.summary for name, net in nets.catalogue().items())


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "count"),
    [
        ("six_conv", (3, 32, 32), 10, 307_946),
        ("six_conv", (1, 32, 32), 10, 307_370),
        ("six_conv", (3, 96, 96), 10, 471_786),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("lenet", (1, 28, 28), 10, 61_706),
        ("logistic", (64,), 10, 650),
        ("mlp", (64,), 10, 64 * 64 + 64 + 64 * 128 + 128 + 128 * 10 + 10),
        ("mlp:widths=8-8", (5,), 2, 5 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2),
        ("block_conv:widths=4-4-4", (1, 8, 8), 3, 9 * (4 + 16 * 5) + 6 * 8 + 4 * 3 + 3),
    ],
)
def test_known_parameter_counts(spec, shape, classes, count):
    assert parameters(nets.build(spec, shape, classes, seed=0)) == count


@pytest.mark.parametrize("name", nets.catalogue())
@settings(max_examples=6, deadline=None)
@given(channels=st.integers(1, 4), extra=st.tuples(st.integers(0, 9), st.integers(0, 9)), classes=st.integers(2, 7))
def test_any_fitting_image_gives_logits_that_learn(name, channels, extra, classes):
    least = nets.find(name).smallest or 1
    shape = (channels, least + extra[0], least + extra[1])
    model = nets.build(name, shape, classes, seed=0)
    logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, classes)
    logits.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", IMAGE_NETS)
def test_too_small_an_image_is_refused_with_the_smallest_size(name):
    least = nets.find(name).smallest
    with pytest.raises(UsageError, match=f"at least {least} x {least} pixels, not {least} x {least - 1}"):
        nets.build(name, (1, least, least - 1), 2, seed=0)
    with pytest.raises(UsageError, match="takes images"):
        nets.build(name, (64,), 2, seed=0)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_rows_and_images_of_equal_size_give_equal_nets(name):
    rows, images = nets.build(name, (12,), 3, seed=5), nets.build(name, (3, 2, 2), 3, seed=5)
    batch = torch.rand(4, 3, 2, 2)
    assert torch.equal(rows(batch.flatten(1)), images(batch))


@pytest.mark.parametrize("name", nets.catalogue())
def test_weights_depend_on_the_seed_only_and_the_callers_random_state_stays(name):
    torch.manual_seed(1)
    first = nets.build(name, (1, 12, 12), 2, seed=3).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    again = nets.build(name, (1, 12, 12), 2, seed=3).state_dict()
    other = nets.build(name, (1, 12, 12), 2, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_net_is_passed_through_and_a_text_is_parsed():
    net = nets.parse("mlp:widths=3-4")
    assert net.widths == "3-4" and nets.parse(net) is net
    assert parameters(nets.build(net, (2,), 2, seed=0)) == 2 * 3 + 3 + 3 * 4 + 4 + 4 * 2 + 2


def test_unknown_names_and_bad_options_are_refused():
    with pytest.raises(UnknownName, match="Did you mean resnet18"):
        nets.find("resnet-18")
    with pytest.raises(UnknownName, match="Did you mean widths"):
        nets.build("mlp:width=3", (4,), 2, seed=0)
    for spec in ("mlp:widths=", "mlp:widths=3-0", "mlp:widths=3-x", "mlp:widths=3--4", "block_conv:widths=3-4"):
        with pytest.raises(UsageError, match="whole numbers of at least 1"):
            nets.build(spec, (1, 8, 8), 2, seed=0)


@pytest.mark.parametrize(
    ("shape", "classes", "match"), [((4,), 1, "2 classes"), ((4, 4), 2, "takes inputs"), ((0,), 2, "takes inputs")]
)
def test_impossible_shapes_and_classes_are_refused(shape, classes, match):
    with pytest.raises(UsageError, match=match):
        nets.build("logistic", shape, classes, seed=0)
