import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import nets
from assay.core.errors import UnknownName, UsageError

IMAGE_NETS = [name for name, net in nets.catalogue().items() if net.smallest]
SMALL = {
    "resnet18": "resnet18:width=4",
    "resnet34": "resnet34:width=4,stem=imagenet",
    "resnet50": "resnet50:width=4",
    "vgg16": "vgg16:width=4,head=dense",
    "vit": "vit:width=8,heads=2,depth=2",
    "wide_resnet": "wide_resnet:depth=10,widen=1",
}
"""A small net of each kind whose usual size would take long."""


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_catalogue_finds_one_net_per_file():
    names = {
        "logistic",
        "mlp",
        "lenet",
        "six_conv",
        "block_conv",
        "resnet18",
        "resnet34",
        "resnet50",
        "vgg16",
        "wide_resnet",
        "vit",
    }
    assert names == set(nets.catalogue())
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
        # On CIFAR; the numbers of the usual implementations, of the paper for WRN.
        ("resnet34", (3, 32, 32), 10, 21_282_122),
        ("resnet50", (3, 32, 32), 10, 23_520_842),
        ("vgg16", (3, 32, 32), 10, 14_728_266),
        ("wide_resnet", (3, 32, 32), 10, 36_479_194),
        ("wide_resnet", (3, 32, 32), 100, 36_536_884),
        ("wide_resnet:depth=40,widen=4", (3, 32, 32), 10, 8_949_210),
        ("vit", (3, 32, 32), 10, 2_693_578),
        # On ImageNet; torchvision's numbers, and timm's for the transformers.
        ("resnet18:stem=imagenet", (3, 224, 224), 1000, 11_689_512),
        ("resnet34:stem=imagenet", (3, 224, 224), 1000, 21_797_672),
        ("resnet50:stem=imagenet", (3, 224, 224), 1000, 25_557_032),
        ("vgg16:head=dense", (3, 224, 224), 1000, 138_365_992),
        ("vit:patch=16,depth=12", (3, 224, 224), 1000, 5_717_416),
        ("vit:patch=16,depth=12,width=384,heads=6", (3, 224, 224), 1000, 22_050_664),
        ("vit:patch=16,depth=12,width=768,heads=12", (3, 224, 224), 1000, 86_567_656),
    ],
)
def test_known_parameter_counts(spec, shape, classes, count):
    # No weights are drawn: the large nets would take seconds and a GB.
    with torch.device("meta"):
        assert parameters(nets.parse(spec).module(shape, classes)) == count


@pytest.mark.parametrize(
    ("spec", "places"),
    [("resnet50", 4), ("resnet50:stem=imagenet", 1), ("vgg16", 1), ("wide_resnet:widen=1", 8), ("resnet34:width=4", 4)],
)
def test_the_size_before_the_mean(spec, places):
    # Counts of parameters do not see strides.
    with torch.device("meta"):
        model, met = nets.parse(spec).module((3, 32, 32), 10), []
        next(layer for layer in model if isinstance(layer, nets.net.GlobalMean)).register_forward_pre_hook(
            lambda _, args: met.append(args[0].shape)
        )
        model(torch.empty(2, 3, 32, 32))
    assert met[0][2:] == (places, places)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    block = nets.parse("vit:width=6,heads=3,depth=1").module((1, 8, 8), 2)[1].double()
    own = block.attention
    oracle = torch.nn.MultiheadAttention(6, 3, batch_first=True).double()
    oracle.load_state_dict(
        {
            "in_proj_weight": own.qkv.weight,
            "in_proj_bias": own.qkv.bias,
            "out_proj.weight": own.out.weight,
            "out_proj.bias": own.out.bias,
        }
    )
    inputs = torch.rand(2, 5, 6, dtype=torch.float64)
    assert torch.allclose(own(inputs), oracle(inputs, inputs, inputs)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet50:width=0", "'width': 0 is outside 1"),
        ("vgg16:width=-1", "'width': -1 is outside 1"),
        ("resnet34:stem=small", "stem"),
        ("wide_resnet:depth=27", "27 is none of 10, 16, 22, 28"),
        ("wide_resnet:widen=0", r"outside 1\.\.1000"),
        ("vit:heads=5", "5 does not divide the width 192"),
        ("vit:patch=5", "patches of 5 x 5 pixels, which 32 x 32 is no multiple of; give patch="),
    ],
)
def test_options_that_make_no_net(spec, words):
    with pytest.raises(UsageError, match=words), torch.device("meta"):
        nets.parse(spec).module((3, 32, 32), 10)


@pytest.mark.parametrize("name", nets.catalogue())
@settings(max_examples=6, deadline=None)
@given(channels=st.integers(1, 4), extra=st.tuples(st.integers(0, 9), st.integers(0, 9)), classes=st.integers(2, 7))
def test_any_fitting_image_gives_logits_that_learn(name, channels, extra, classes):
    least = nets.find(name).smallest or 1
    if name == "vit":
        extra = [4 * (more // 4) for more in extra]
    shape = (channels, least + extra[0], least + extra[1])
    model = nets.build(SMALL.get(name, name), shape, classes, seed=0)
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
    side = max(12, nets.find(name).smallest)
    spec, shape = SMALL.get(name, name), (1, side, side)
    first = nets.build(spec, shape, 2, seed=3).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    again = nets.build(spec, shape, 2, seed=3).state_dict()
    other = nets.build(spec, shape, 2, seed=4).state_dict()
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
