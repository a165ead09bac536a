import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import UsageError
from assay.core.ids import Ids
from assay.data.transforms import augment, crop_windows
from assay.maths import draws


def images(n=6, channels=3, height=7, width=9, dtype=torch.uint8):
    return torch.randint(0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(0)).to(dtype)


def one_by_one(inputs, keys, seed, epoch, step, crop, flip, padding):
    """The slow way: every image alone, padded by NumPy, cut and mirrored."""
    out = []
    for image, key in zip(inputs.numpy(), keys, strict=True):
        key = np.array([key])
        top, left = (int(draws.integers(key, 2 * crop + 1, seed, f"crop {side}", epoch, step)) for side in ("top", "left"))
        width = ((0, 0), (crop, crop), (crop, crop))
        padded = np.pad(image, width, mode="constant" if padding == "zeros" else "reflect")
        cut = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        mirrored = flip and float(draws.uniform(key, seed, "flip", epoch, step)) < 0.5
        out.append(cut[:, :, ::-1] if mirrored else cut)
    return torch.from_numpy(np.stack(out).copy())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 50),
    st.integers(0, 500),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["zeros", "reflect"]),
    st.sampled_from([torch.uint8, torch.float32]),
    st.integers(1, 8),
)
def test_against_one_image_at_a_time(seed, epoch, step, crop, flip, padding, dtype, n):
    inputs, keys = images(n, dtype=dtype), Ids([f"e{i}" for i in range(n)]).keys
    fast = augment(inputs, keys, seed=seed, epoch=epoch, step=step, crop=crop, flip=flip, padding=padding)
    assert fast.dtype == dtype
    assert torch.equal(fast, one_by_one(inputs, keys, seed, epoch, step, crop, flip, padding))


def test_the_rest_of_the_batch_does_not_matter():
    inputs, keys = images(20), np.arange(20, dtype=np.uint64)
    whole = augment(inputs, keys, seed=1, epoch=2, step=3)
    for some in ([4], [19, 0, 7], list(range(0, 20, 3))):
        assert torch.equal(augment(inputs[some], keys[some], seed=1, epoch=2, step=3), whole[some])


def test_seed_epoch_and_step_all_matter_and_repeat():
    inputs, keys = images(20), np.arange(20, dtype=np.uint64)
    variants = [augment(inputs, keys, seed=s, epoch=e, step=t) for s, e, t in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(not torch.equal(variants[0], other) for other in variants[1:])
    assert torch.equal(variants[0], augment(inputs, keys, seed=0, epoch=0, step=0))


def test_every_shift_and_both_sides_occur_equally_often():
    n, crop = 20000, 1
    inputs = torch.zeros(n, 1, 3, 4, dtype=torch.uint8)
    inputs[:, 0, 1, 1] = 1
    out = augment(inputs, np.arange(n, dtype=np.uint64), seed=0, epoch=0, step=0, crop=crop)
    places = out.flatten(1).argmax(1).bincount(minlength=12) / n
    # A mark at column 1 goes to 0..2 when shifted, and to 3..1 when mirrored besides.
    expected = torch.tensor([1, 2, 2, 1] * 3) / 18
    assert float((places - expected).abs().max()) < 0.01


def test_inputs_and_the_global_generator_are_untouched():
    inputs, state = images(), torch.get_rng_state()
    before = inputs.clone()
    augment(inputs, np.arange(6, dtype=np.uint64), seed=0, epoch=0, step=0, padding="reflect")
    assert torch.equal(inputs, before) and torch.equal(torch.get_rng_state(), state)


def test_nothing_to_do():
    inputs, keys = images(), np.arange(6, dtype=np.uint64)
    assert torch.equal(augment(inputs, keys, seed=0, epoch=0, step=0, crop=0, flip=False), inputs)
    assert augment(inputs[:0], keys[:0], seed=0, epoch=0, step=0).shape == (0, 3, 7, 9)


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (images().flatten(1), {}, "takes images"),
        (images(5), {}, "6 keys for 5 images"),
        (images(), {"crop": -1}, r"crop=-1 is outside 0\.\.7"),
        (images(), {"crop": 8}, r"crop=8 is outside 0\.\.7"),
        (images(), {"crop": 7, "padding": "reflect"}, r"crop=7 is outside 0\.\.6"),
        (images(), {"padding": "edge"}, "padding='edge'"),
    ],
)
def test_what_cannot_be_augmented(inputs, options, words):
    with pytest.raises(UsageError, match=words):
        augment(inputs, np.arange(6, dtype=np.uint64), seed=0, epoch=0, step=0, **options)


def window_alone(key, height, width, area, seed, epoch, step):
    """One window, by numbers: ten draws, then the largest one of a fitting shape in the middle."""
    for attempt in range(10):
        part, shape, down, across = (
            float(draws.uniform(np.array([key]), seed, f"window {what}", epoch, step, attempt))
            for what in ("area", "shape", "top", "left")
        )
        pixels, aspect = height * width * (area + (1 - area) * part), (3 / 4) * (16 / 9) ** shape
        wide, tall = round((pixels * aspect) ** 0.5), round((pixels / aspect) ** 0.5)
        if 1 <= wide <= width and 1 <= tall <= height:
            return int(down * (height - tall + 1)), int(across * (width - wide + 1)), tall, wide
    wide, tall = (width, height) if 3 / 4 <= width / height <= 4 / 3 else (round(height * 4 / 3), height)
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def weights(size, new):
    """(new, size): how much of each old pixel is in each new one, by a triangle as wide as a new pixel or an old one."""
    scale = size / new
    centres, old = (np.arange(new) + 0.5) * scale, np.arange(size) + 0.5
    triangle = np.maximum(0, 1 - np.abs(old[None] - centres[:, None]) / max(scale, 1))
    return triangle / triangle.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (8, 8), (4, 20)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_resized_window_against_one_image_at_a_time(height, width, dtype):
    inputs, keys = images(40, height=height, width=width, dtype=dtype), Ids(range(40)).keys
    found = augment(inputs, keys, seed=3, epoch=1, step=2, crop=0.1, flip=True)
    assert found.dtype == dtype and found.shape == inputs.shape
    sizes = set()
    for image, key, out in zip(inputs.numpy().astype(float), keys, found.numpy(), strict=True):
        top, left, tall, wide = window_alone(key, height, width, 0.1, 3, 1, 2)
        part = image[:, top : top + tall, left : left + wide]
        whole = weights(tall, height) @ part @ weights(wide, width).T
        if float(draws.uniform(np.array([key]), 3, "flip", 1, 2)) < 0.5:
            whole = whole[:, :, ::-1]
        # A half is rounded to the even number, up to what single precision leaves of it.
        np.testing.assert_allclose(out, whole, atol=0.5001 if dtype == torch.uint8 else 1e-3)
        sizes.add((tall, wide))
    assert len(sizes) > 3
    some = [4, 39, 0]
    assert torch.equal(augment(inputs[some], keys[some], seed=3, epoch=1, step=2, crop=0.1, flip=True), found[some])


def test_windows_have_the_areas_and_shapes_that_were_asked_for():
    top, left, tall, wide = crop_windows(np.arange(20000, dtype=np.uint64), 60, 80, 0.25, 0, 0, 0).T
    area = (tall * wide).double() / 4800
    assert 0.24 < float(area.min()) < 0.26 and 0.97 < float(area.max()) <= 1
    assert 0.73 < float((wide / tall).min()) < 0.77 and 1.3 < float((wide / tall).max()) < 1.36
    assert bool((top >= 0).all() and (left >= 0).all() and (top + tall <= 60).all() and (left + wide <= 80).all())
    # Where a window of half the area fits, its place is uniform.
    small = (tall - 40).abs() <= 2
    assert abs(float((top[small] / (60 - tall[small])).mean()) - 0.5) < 0.02
    assert bool((crop_windows(np.arange(9, dtype=np.uint64), 8, 8, 1.0, 0, 0, 0) == torch.tensor([0, 0, 8, 8])).all())


@pytest.mark.parametrize("crop", [0.0, 1.1, -1.0, float("nan")])
def test_areas_that_are_refused(crop):
    with pytest.raises(UsageError, match=f"crop={crop} is outside 0..1, 0 excluded"):
        augment(images(), np.arange(6, dtype=np.uint64), seed=0, epoch=0, step=0, crop=crop)
